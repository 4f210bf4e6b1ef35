//! Why the engine could not do something.

use conclave_crdt::CrdtError;
use conclave_identity::{AuthError, PinError, TextError, Untrusted};
use conclave_mls::MlsError;
use conclave_proto::{Refusal, RescueId, UnixMs};

use crate::clock::ClockOffset;
use crate::finding::date;

/// Why a command failed. Never quotes content, names or keys.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The store holds no identity, or one that cannot be read.
    #[error("the store is damaged or of an unknown version ({what})")]
    Store {
        /// Which row.
        what: &'static str,
    },
    /// The device is not enrolled yet.
    #[error("this device is not enrolled yet; finish enrolment with the approval text")]
    NotEnrolled,
    /// The device is enrolled already.
    #[error("this device is enrolled already")]
    AlreadyEnrolled,
    /// The command needs the user key, which another device holds.
    #[error("this device does not hold the user key; use one that does")]
    NoUserKey,
    /// No such device is this user's.
    #[error("no such device of yours is known here")]
    UnknownDevice,
    /// A device does not take itself away.
    #[error(
        "this device cannot take itself away; use another one of yours that holds the user key"
    )]
    OwnDevice,
    /// The code that was typed in is not the request's.
    #[error("this is not the code of the request; type in what the new device shows")]
    WrongCode,
    /// A text (contact, request, approval) could not be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// An identity statement is not valid.
    #[error(transparent)]
    Identity(#[from] AuthError),
    /// A contact could not be taken as known.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The user is not verified.
    #[error("this user is not verified here; compare contacts first ({0})")]
    NotVerified(Untrusted),
    /// No such group.
    #[error("no such group on this device")]
    UnknownGroup,
    /// No such document.
    #[error("no such document in the group")]
    UnknownDocument,
    /// No such member.
    #[error("no such member in the group")]
    UnknownMember,
    /// The service does not have the group yet.
    #[error("the service does not have this group yet; it gets it when this device is connected")]
    NotFounded,
    /// No invitation to that group is waiting.
    #[error("no invitation to that group is waiting")]
    NoInvitation,
    /// The user has no device that can be added now.
    #[error("none of the user's devices can be added now: they have not connected lately")]
    NoKeyPackages,
    /// Without this user the group would have no owner.
    #[error("you are the group's only owner; make another member owner first")]
    LastOwner,
    /// The role does not allow it.
    #[error("your role in the group does not allow this")]
    Forbidden,
    /// The group's policy would break the rules for policies.
    #[error("there can be no such policy")]
    InvalidPolicy,
    /// The group takes no writes from this device.
    #[error("the group is frozen or left: {why}")]
    Inactive {
        /// Why.
        why: &'static str,
    },
    /// The device lost its place in the group and is coming back.
    #[error(
        "this device lost its place in the group and is on its way back; try again when it is connected"
    )]
    Returning,
    /// The device can follow the group, as far as this device knows.
    #[error("this device does not ask to be added again; it follows the group by itself")]
    NotAsking,
    /// Documents would be lost with those who go.
    #[error(
        "those who go hold the only keys of {documents} documents; wait until these are re-keyed, or insist"
    )]
    LastHolder {
        /// How many.
        documents: usize,
    },
    /// Somebody else's commit made this one pointless.
    #[error("the group changed meanwhile and this is no longer possible: {why}")]
    Superseded {
        /// Why.
        why: &'static str,
    },
    /// The service refused.
    #[error("the service refused: {0}")]
    Refused(Refusal),
    /// The group layer refused.
    #[error(transparent)]
    Mls(#[from] MlsError),
    /// The CRDT refused.
    #[error(transparent)]
    Crdt(#[from] CrdtError),
    /// The document layer refused.
    #[error(transparent)]
    Doc(#[from] conclave_doc::DocError),
    /// The service's log is behind what this device has, or went another way: nothing is sent there.
    #[error(
        "the service shows an older or another state than this device has seen there; nothing is sent there until it has caught up (`conclave findings list`)"
    )]
    OutOfStep,
    /// The same, found out only after this was asked for: it is remembered, and done when the service shows again what is here.
    #[error("what was asked for waits until the service shows again what this device has")]
    WaitsForStep,
    /// Nothing of the document has come to this device yet, and nothing leads to the service.
    #[error("nothing of this document is on this device yet, and the service is not reached")]
    NotHere,
    /// No other service has answered whose key begins so.
    #[error("no other service has answered here whose key begins so; compare at least four digits")]
    NoOtherService,
    /// Another copy of this device's store is in use: this one is kept out.
    #[error("this home is an older copy of this device, used elsewhere since {}", date(*.since))]
    OtherLife {
        /// When the other logged in last.
        since: UnixMs,
    },
    /// Nothing says that another copy of this device's store is in use.
    #[error("no other copy of this home is in use, as far as is known here")]
    OnlyCopy,
    /// This copy of a store is on its way to become a device of its own.
    #[error("this home is becoming another device, and that was not finished")]
    BecomesNew,
    /// Something about the document took too long: this session does without it.
    #[error(
        "the document took too long, and this device stopped waiting for it; close the program and open it again to try anew"
    )]
    Held,
    /// No change at this position of a document can be declared void.
    #[error(
        "the document's log has no change at position {seq} that is not part of its saved state already"
    )]
    NoSuchRecord {
        /// The position.
        seq: u64,
    },
    /// Sending or receiving is paused: what waits for that goes on when it is resumed.
    #[error("paused on this device; it goes on when it is resumed")]
    Paused,
    /// Own edits have no place any more; what they did is kept apart.
    #[error("edits of this device have no place any more; they are kept apart as {}", .id.short())]
    Rescued {
        /// As what.
        id: RescueId,
    },
    /// Own edits have no place any more, and there is no room to keep them apart.
    #[error("there is no room to keep more edits apart; apply or discard some rescue copies")]
    RescueFull,
    /// More is to be shown in a document than fits.
    #[error(
        "at most {} bytes can be shown to others",
        conclave_proto::limits::SHOWN_BYTES
    )]
    TooMuchShown,
    /// As many on this device show something in a document already as can.
    #[error(
        "{} windows or commands of this device show something in this document already",
        conclave_proto::limits::SHOWN_STATES
    )]
    TooManyStates,
    /// Presence is shown or watched in too many documents at once.
    #[error("others are shown or watched in too many documents at once; end that in some")]
    TooManyPresences,
    /// The group's policy keeps who wrote what out of its documents.
    #[error("this group does not keep who wrote what")]
    AttributionOff,
    /// No such rescue copy.
    #[error("no such rescue copy on this device")]
    UnknownRescue,
    /// No such evidence.
    #[error("no such evidence on this device")]
    UnknownEvidence,
    /// Nothing of it can be shown as words.
    #[error("nothing of this rescue copy can be written as words; export it instead")]
    NoWords,
    /// This device's clock is wrong: what others are known by looks outdated.
    #[error("this device's clock is wrong: set it, then try again")]
    ClockSkew,
    /// What is wanted is remembered, and waits until a clock is set.
    #[error("{offset}")]
    WaitsForClock {
        /// Which clock is wrong, and by how much.
        offset: ClockOffset,
    },
    /// What is wanted is remembered, and goes on when the service takes more of its kind.
    #[error(
        "refused for now: the service takes only so many changes of this kind, and the next one not before {}",
        date(*.until)
    )]
    WaitsForPace {
        /// When it goes on.
        until: UnixMs,
    },
    /// The service was put back, and collects what its members have: what is wanted is remembered, and goes on afterwards.
    #[error("{}", collects(*.until))]
    WaitsForRecovery {
        /// When it goes on at the latest, unless the service's operator prolongs that; none where that is not known.
        until: Option<UnixMs>,
    },
    /// As many records are declared void as this user may declare.
    #[error("no more than {max} records may be void before one is declared so by this user")]
    VoidsUsedUp {
        /// How many.
        max: u64,
    },
    /// An invitation is to a group that this device is in.
    #[error(
        "{inviter} invites to a group that this device is in already; the invitation waits until the group itself shows that this device was removed or added again, and nothing was changed"
    )]
    GroupTaken {
        /// Who invites, as they are called here.
        inviter: String,
    },
}

fn collects(until: Option<UnixMs>) -> String {
    let until = until.map_or_else(String::new, |until| {
        format!(
            ", until {} at the latest unless its operator prolongs that",
            date(until)
        )
    });
    format!(
        "the service was put back, and takes nothing new here before it has collected what its members have{until}; what was asked for is queued"
    )
}

impl EngineError {
    /// Stable code, listed in `docs/ERRORS.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store { .. } => "engine.store",
            Self::NotEnrolled => "engine.not_enrolled",
            Self::AlreadyEnrolled => "engine.already_enrolled",
            Self::NoUserKey => "engine.no_user_key",
            Self::UnknownDevice => "engine.unknown_device",
            Self::OwnDevice => "engine.own_device",
            Self::WrongCode => "engine.wrong_code",
            Self::Text(error) => error.code(),
            Self::Identity(error) => error.code(),
            Self::Pin(error) => error.code(),
            Self::NotVerified(_) => "engine.not_verified",
            Self::UnknownGroup => "engine.unknown_group",
            Self::UnknownDocument => "engine.unknown_document",
            Self::UnknownMember => "engine.unknown_member",
            Self::NotFounded => "engine.not_founded",
            Self::NoInvitation => "engine.no_invitation",
            Self::NoKeyPackages => "engine.no_key_packages",
            Self::LastOwner => "engine.last_owner",
            Self::Forbidden => "engine.forbidden",
            Self::InvalidPolicy => "engine.invalid_policy",
            Self::Inactive { .. } => "engine.inactive",
            Self::Returning => "engine.returning",
            Self::NotAsking => "engine.not_asking",
            Self::LastHolder { .. } => "engine.last_holder",
            Self::Superseded { .. } => "engine.superseded",
            Self::Refused(refusal) => refusal.code(),
            Self::Mls(error) => error.code(),
            Self::Crdt(error) => error.code(),
            Self::Doc(error) => error.code(),
            Self::OutOfStep => "engine.out_of_step",
            Self::WaitsForStep => "engine.waits_for_step",
            Self::NoOtherService => "engine.no_other_service",
            Self::OtherLife { .. } => "engine.other_life",
            Self::OnlyCopy => "engine.only_copy",
            Self::BecomesNew => "engine.becomes_new",
            Self::Held => "document.held",
            Self::NotHere => "document.not_here",
            Self::Paused => "pause.on",
            Self::NoSuchRecord { .. } => "document.no_such_record",
            Self::Rescued { .. } => "engine.rescued",
            Self::RescueFull => "rescue.full",
            Self::TooMuchShown => "presence.too_much",
            Self::TooManyStates => "presence.too_many_states",
            Self::TooManyPresences => "presence.too_many",
            Self::AttributionOff => "document.attribution_off",
            Self::UnknownRescue => "engine.unknown_rescue",
            Self::UnknownEvidence => "engine.unknown_evidence",
            Self::NoWords => "engine.no_words",
            Self::ClockSkew => "engine.clock_skew",
            Self::WaitsForClock { .. } => "engine.waits_for_clock",
            Self::WaitsForPace { .. } => "engine.waits_for_pace",
            Self::WaitsForRecovery { .. } => "engine.waits_for_recovery",
            Self::VoidsUsedUp { .. } => "engine.voids_used_up",
            Self::GroupTaken { .. } => "invitation.group_taken",
        }
    }

    /// When what was asked for goes on by itself, where that is known.
    #[must_use]
    pub fn until(&self) -> Option<UnixMs> {
        match self {
            Self::WaitsForPace { until } => Some(*until),
            Self::WaitsForRecovery { until } => *until,
            _ => None,
        }
    }

    /// Whether the same command can succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoKeyPackages
            | Self::NotFounded
            | Self::Returning
            | Self::OutOfStep
            | Self::WaitsForStep
            | Self::NotHere
            | Self::LastHolder { .. }
            | Self::ClockSkew
            | Self::WaitsForClock { .. }
            | Self::WaitsForPace { .. }
            | Self::WaitsForRecovery { .. }
            | Self::GroupTaken { .. } => true,
            Self::Refused(refusal) => refusal.is_retryable(),
            Self::Mls(error) => error.is_retryable(),
            Self::Crdt(error) => error.is_retryable(),
            Self::Doc(error) => error.is_retryable(),
            _ => false,
        }
    }
}
