//! What does not fit: found by this device, kept until somebody has seen it, told in plain words. A finding never stops the device.

mod ends;
mod held;
mod kept;
mod words;

use conclave_doc::{At, DocError, Fault};
use conclave_identity::AuthError;
use conclave_mls::{MlsError, ProcessError};
use conclave_proto::{DeviceId, DocumentId, GroupId, Refusal, UnixMs, UserId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::EngineError;

pub(crate) use self::ends::End;
pub(crate) use self::kept::Findings;
pub use self::kept::{FindingId, FindingInfo, Mark, Notice};
pub use self::words::{Names, Words};

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was found.
    pub what: FindingKind,
    /// Where.
    pub about: About,
    /// Who is probably at fault, where somebody is.
    pub suspect: Option<Suspect>,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// This device as a whole.
    Device,
    /// A group.
    Group(GroupId),
    /// A document of a group.
    Document(GroupId, DocumentId),
}

impl About {
    /// A group, or a document of it.
    #[must_use]
    pub fn of(group: GroupId, document: Option<DocumentId>) -> Self {
        match document {
            Some(document) => Self::Document(group, document),
            None => Self::Group(group),
        }
    }

    /// The group, where it is about one.
    #[must_use]
    pub fn group(&self) -> Option<GroupId> {
        match self {
            Self::Device => None,
            Self::Group(group) | Self::Document(group, _) => Some(*group),
        }
    }

    /// The document, where it is about one.
    #[must_use]
    pub fn document(&self) -> Option<DocumentId> {
        match self {
            Self::Document(_, document) => Some(*document),
            _ => None,
        }
    }
}

/// Who is probably at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Suspect {
    /// A device.
    Device(DeviceId),
    /// A user.
    User(UserId),
    /// The service.
    Service,
}

impl Suspect {
    /// The device, where it is one.
    #[must_use]
    pub fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Device(device) => Some(*device),
            _ => None,
        }
    }
}

impl From<DeviceId> for Suspect {
    fn from(device: DeviceId) -> Self {
        Self::Device(device)
    }
}

/// An error of this program, as it is kept: errors themselves are no format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Its code.
    pub code: String,
    /// What it says to developers.
    pub detail: String,
}

macro_rules! causes {
    ($($error:ty),* $(,)?) => {$(
        impl From<&$error> for Cause {
            fn from(error: &$error) -> Self {
                Self { code: error.code().to_owned(), detail: error.to_string() }
            }
        }
    )*};
}

causes!(
    EngineError,
    Refusal,
    MlsError,
    ProcessError,
    AuthError,
    DocError
);

/// What this device was about when something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Making the list of titles of a new group.
    MakeDirectory,
    /// Writing into the list of titles.
    Title,
    /// Taking a document along into the group that takes another's place.
    CarryOver,
    /// Reading what the store keeps of a group.
    LoadGroup,
    /// Reading what the store keeps of the membership: the device comes back by itself.
    LoadMembership,
    /// Reading what the store keeps of a document.
    LoadDocument,
    /// Being told what happens in a group.
    Follow,
    /// Taking a refused change of the group back.
    TakeBack,
    /// Coming back into a group.
    Return,
    /// A change to the group that nobody waits for any more.
    ChangeGroup,
    /// Opening a document at the service.
    OpenDocument,
    /// Reading what others wrote into a document.
    ReadDocument,
    /// Sending own edits.
    SendEdits,
    /// Making a new document known to the service.
    PublishDocument,
    /// Writing a document's short form.
    Condense,
    /// Checking a document's short form.
    CheckCondensed,
    /// Reading a user's list of devices as the service gives it.
    DeviceList,
    /// Joining a group to which another of the user's devices invites.
    JoinOwn,
    /// Reading keys that a member gave.
    ReadKeys,
}

/// Code of [`FindingKind::NeedsUpgrade`].
pub(crate) const UPGRADE_NEEDED: &str = "group.upgrade_needed";

/// What was found. Each kind has a stable code, listed in `docs/ERRORS.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingKind {
    /// A step of this device failed.
    Failed {
        /// Which.
        step: Step,
        /// Why.
        cause: Cause,
    },
    /// Something in a document's log is wrong.
    Record {
        /// Code of what is wrong: `found.…`.
        fault: String,
        /// Position in the log.
        seq: u64,
    },
    /// An ordered entry of a group's log breaks the rules: the group is frozen here.
    IllegalEntry {
        /// What is wrong.
        cause: Cause,
    },
    /// The group's policy demands a later version of the protocol: the group waits here for a newer program.
    NeedsUpgrade {
        /// Least version that works.
        minimum: u16,
    },
    /// The service refused a group that was made here: it is frozen.
    CreationRefused {
        /// Why.
        cause: Cause,
    },
    /// A commit cannot be followed.
    Undecryptable,
    /// This device was added again, and waits for its invitation.
    ReAdded,
    /// The log of a group cannot be followed for another reason: the device comes back by itself.
    LostPlace {
        /// Why.
        cause: Cause,
    },
    /// The service took the group up from a member who was further on than this device: it does not have what is between.
    LogBeginsLater,
    /// This device's clock is wrong.
    ClockWrong {
        /// What could not be judged.
        cause: Cause,
    },
    /// This device's clock and the service's are far apart.
    OwnClock {
        /// By how much this device's is ahead, in milliseconds; negative where it is behind.
        ahead_ms: i64,
        /// Whether new groups and changes of members wait for it.
        holds_back: bool,
    },
    /// Another copy of this device's store is in use.
    OtherLife {
        /// When that one logged in last.
        since: UnixMs,
    },
    /// The store is older than what its device has done.
    Restored,
    /// The user asked this device to come back.
    RejoinWanted,
    /// The service says that this device is no member.
    CannotReturn {
        /// Why, where it is known.
        cause: Option<Cause>,
    },
    /// This device asks the members to add it again.
    AsksReAdd,
    /// The service says that this device is a member of a group that the store does not know.
    MembershipUnknown {
        /// Whether an invitation says so whose key is not here.
        invited: bool,
    },
    /// There are two lists of somebody's devices under one number.
    TwoLists {
        /// Whether they are the own user's.
        own: bool,
    },
    /// A device that was approved here is not on the own list, and it is not known why.
    ApproveAgain,
    /// The own list was changed by somebody else, after a device that may hold the user key was taken away.
    ForeignList,
    /// A device came onto the own list after one that may hold the user key was taken away.
    UnconfirmedDevice,
    /// A device that its user has taken away is still in a group, and this device may not remove it.
    RevokedMember,
    /// The service takes only so much of what this device does in a group, and nobody was there to be told.
    Paced {
        /// When it goes on.
        until: UnixMs,
    },
    /// A member of a group founded anew is not verified here.
    NotInvitedAgain,
    /// Documents are still under keys older than the group allows.
    RootsOverdue {
        /// How many.
        documents: u64,
    },
    /// Re-keying was reported complete and is not.
    RotationUntrue,
    /// A member gave a root that differs from the one here.
    WrongWrap,
    /// Nobody could come back with the GroupInfo that the service kept.
    BadGroupInfo,
    /// The service's log is shorter than what it showed before, and the same as far as this device can tell.
    Ahead {
        /// Entries or records that it lacks.
        missing: u64,
        /// When the newest of them was ordered, or came here; zero where that is not known.
        seen: UnixMs,
    },
    /// The service's log went on without what it showed before.
    Apart,
    /// A member who has a document open names another history of it than is here.
    OtherHistory,
    /// After the service was put back, a document's log went on under keys that are not here.
    CannotMerge,
    /// After the service was put back, a group's log went another way than here.
    Parted,
    /// The service was put back, and this device returns what it lost.
    Returning {
        /// Entries or records that it lacks.
        missing: u64,
    },
    /// The service does not take what it lost.
    NotReturned {
        /// Why.
        cause: Cause,
    },
    /// The service was put back, and collects what it lost.
    Collecting,
    /// After the service was put back, a document's log went on without what is here: it is being carried.
    Merging {
        /// How many updates the log lacks.
        missing: u64,
    },
    /// The service has declared that it gives up what it lost of a document.
    LossDeclared {
        /// How many records of those that are here.
        lost: u64,
    },
    /// The service has signed two histories.
    Contradicted,
    /// Another service answers.
    Replaced {
        /// Its key.
        key: [u8; 32],
        /// Key of the one that this device knows.
        before: [u8; 32],
    },
    /// The service showed another member more of a log than it shows here.
    Withheld,
    /// The service went on signing in a generation long after the next one had begun.
    ParallelGeneration,
    /// The service was put back twice within thirty days.
    PutBackOften,
    /// The service names itself by a statement that it did not sign, or that contradicts another.
    BadGeneration,
    /// The service shows a head under a wrong signature.
    BadHead,
    /// An invitation that cannot be read.
    BadWelcome,
    /// A wrap that no member signed.
    BadWrap,
    /// A key package that does not belong to the device.
    ForeignKeyPackage,
    /// A way back into an older state of the group.
    OldGroupInfo,
    /// A document was closed as lost.
    DocumentLost,
    /// A document is not on the device that founded the group anew.
    NotCarriedOver,
    /// Records that nobody can open do not go along into the new group.
    AsideNotCarriedOver,
    /// Nobody can open a record.
    SetAside {
        /// Its position in the document's log.
        seq: u64,
    },
    /// Something about it took too long.
    Held {
        /// Where it was then.
        at: At,
        /// In how many sessions it was there.
        sessions: u32,
        /// Whether this device may declare records void.
        may_void: bool,
    },
    /// A snapshot is not what the log says, by this device's own check.
    FalseSnapshot {
        /// Its position in the document's log.
        seq: u64,
    },
    /// What a member says of a snapshot is not true, by this device's own check.
    FalseVerdict {
        /// The snapshot's position in the document's log.
        seq: u64,
    },
    /// Somebody made so many snapshots that this device could not look at all of them.
    SnapshotsUnchecked {
        /// Position in the document's log of the first that it did not look at.
        seq: u64,
    },
    /// The service withholds a snapshot at which this device should look, or what follows in the log.
    SnapshotWithheld {
        /// Position in the document's log.
        seq: u64,
    },
    /// The service did not give a part of a log that this device had judged from its beginning, and it goes on from a snapshot after that.
    PassedOver {
        /// Position in the document's log of the first record that it did not see.
        from: u64,
        /// Position of the first after them.
        to: u64,
    },
    /// A member's snapshot, or what one says of a snapshot, is of a version that this program does not know. Nobody is at fault.
    NewerProgram,
    /// This device alone differs from the snapshots of two other users.
    EngineDiffers,
    /// Somebody says that the snapshot is wrong from which this device opened the document.
    BaseDisputed,
    /// Own edits were written again.
    OwnEditRewritten,
    /// Own edits were refused and go again under another instance.
    EditsRefused {
        /// Why.
        cause: Cause,
    },
    /// Own edits are refused and stay here.
    EditsParked {
        /// Why.
        cause: Cause,
    },
    /// Own edits would cost too much now, and wait.
    EditsWait,
    /// Own edits would cost more than an update may, in any form: they are kept, and never sent as they are.
    EditsTooCostly,
    /// Edits rest here while sending is paused, for long or many of them.
    DraftsWait,
    /// Edits rest here in a document that is not received for now, and the group's log says that they can go to nobody any more.
    DraftsBarred,
    /// What the service has lost would cost this user too much to bring back now.
    CarriedWaits,
    /// Own edits lost their place and are kept apart.
    Rescued {
        /// How many.
        changes: u64,
    },
    /// Own edits lost their place, and there is no room to keep them apart.
    RescueFull,
    /// Findings were dropped, because there were too many.
    Dropped {
        /// How many of each code.
        codes: std::collections::BTreeMap<String, u64>,
    },
}

impl FindingKind {
    /// A step of this device failed.
    #[must_use]
    pub fn failed(step: Step, cause: impl Into<Cause>) -> Self {
        Self::Failed {
            step,
            cause: cause.into(),
        }
    }

    /// Something in a document's log is wrong.
    #[must_use]
    pub fn record(fault: &Fault, seq: u64) -> Self {
        Self::Record {
            fault: fault.code().to_owned(),
            seq,
        }
    }

    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Failed { cause, .. }
            | Self::IllegalEntry { cause }
            | Self::LostPlace { cause }
            | Self::ClockWrong { cause }
            | Self::EditsRefused { cause }
            | Self::EditsParked { cause } => &cause.code,
            Self::Record { fault, .. } => fault,
            Self::NeedsUpgrade { .. } => UPGRADE_NEEDED,
            Self::CreationRefused { .. } => "group.creation_refused",
            Self::Undecryptable => "mls.undecryptable",
            Self::ReAdded => "mls.re_added",
            Self::LogBeginsLater => "group.begins_later",
            Self::OwnClock { .. } => "clock.device",
            Self::OtherLife { .. } => "device.other_life",
            Self::Restored => "device.restored",
            Self::RejoinWanted => "group.rejoin_wanted",
            Self::CannotReturn { .. } => "group.cannot_return",
            Self::AsksReAdd => "group.asks_readd",
            Self::MembershipUnknown { .. } => "group.membership_unknown",
            Self::TwoLists { .. } => "device.two_lists",
            Self::ApproveAgain => "device.approve_again",
            Self::ForeignList => "device.foreign_list",
            Self::UnconfirmedDevice => "device.unconfirmed",
            Self::RevokedMember => "group.revoked_member",
            Self::Paced { .. } => "group.paced",
            Self::NotInvitedAgain => "group.not_invited_again",
            Self::RootsOverdue { .. } => "group.roots_overdue",
            Self::RotationUntrue => "group.rotation_untrue",
            Self::WrongWrap => "group.wrong_wrap",
            Self::BadGroupInfo => "group.bad_group_info",
            Self::Ahead { .. } => "service.rolled_back",
            Self::Apart => "found.fork",
            Self::OtherHistory => "presence.other_history",
            Self::Parted => "group.parted",
            Self::CannotMerge => "document.cannot_merge",
            Self::Returning { .. } => "service.put_back",
            Self::NotReturned { .. } => "service.not_returned",
            Self::Collecting => "service.collecting",
            Self::Merging { .. } => "document.merging",
            Self::LossDeclared { .. } => "service.loss_declared",
            Self::Contradicted => "service.contradicted",
            Self::Replaced { .. } => "service.replaced",
            Self::Withheld => "service.withheld",
            Self::ParallelGeneration => "service.parallel",
            Self::PutBackOften => "service.put_back_often",
            Self::BadGeneration => "service.bad_generation",
            Self::BadHead => "service.bad_head",
            Self::BadWelcome => "service.bad_welcome",
            Self::BadWrap => "service.bad_wrap",
            Self::ForeignKeyPackage => "service.foreign_key_package",
            Self::OldGroupInfo => "service.old_group_info",
            Self::DocumentLost => "document.lost",
            Self::NotCarriedOver => "document.not_carried_over",
            Self::AsideNotCarriedOver | Self::SetAside { .. } => "document.set_aside",
            Self::Held { .. } => "document.held",
            Self::FalseSnapshot { .. } => "document.false_snapshot",
            Self::FalseVerdict { .. } => "document.false_verdict",
            Self::SnapshotsUnchecked { .. } => "document.snapshots_unchecked",
            Self::SnapshotWithheld { .. } => "document.snapshot_withheld",
            Self::PassedOver { .. } => "document.passed_over",
            Self::NewerProgram => "document.newer_program",
            Self::EngineDiffers => "document.engine_differs",
            Self::BaseDisputed => "document.disputed",
            Self::OwnEditRewritten => "document.own_edit_rewritten",
            Self::EditsWait => "document.edits_wait",
            Self::EditsTooCostly => "document.edits_too_costly",
            Self::DraftsWait => "document.drafts_wait",
            Self::DraftsBarred => "document.drafts_barred",
            Self::CarriedWaits => "document.carried_waits",
            Self::Rescued { .. } => "document.rescued",
            Self::RescueFull => "rescue.full",
            Self::Dropped { .. } => "device.findings_dropped",
        }
    }

    /// What an error says to developers, where one is behind it.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Failed { cause, .. }
            | Self::IllegalEntry { cause }
            | Self::CreationRefused { cause }
            | Self::LostPlace { cause }
            | Self::ClockWrong { cause }
            | Self::NotReturned { cause }
            | Self::CannotReturn { cause: Some(cause) }
            | Self::EditsRefused { cause }
            | Self::EditsParked { cause } => Some(&cause.detail),
            _ => None,
        }
    }

    /// Whether nothing is wrong and nothing is to be done: it is listed, and not put before anybody.
    #[must_use]
    pub fn is_note(&self) -> bool {
        // Rescue copies are told of by themselves, with their words.
        matches!(
            self,
            Self::RejoinWanted | Self::ReAdded | Self::Rescued { .. }
        )
    }
}

impl Finding {
    /// Two findings with one id are the same thing found twice.
    #[must_use]
    pub fn id(&self) -> FindingId {
        let mut hash = Sha256::new_with_prefix(b"conclave 1.0 finding");
        let code = self.what.code();
        hash.update((code.len() as u64).to_be_bytes());
        hash.update(code);
        let (kind, group, document) = match self.about {
            About::Device => (0, GroupId::ZERO, DocumentId::ZERO),
            About::Group(group) => (1, group, DocumentId::ZERO),
            About::Document(group, document) => (2, group, document),
        };
        hash.update([kind]);
        hash.update(group.as_bytes());
        hash.update(document.as_bytes());
        match &self.suspect {
            None => hash.update([0]),
            Some(Suspect::Device(device)) => {
                hash.update([1]);
                hash.update(device.as_bytes());
            }
            Some(Suspect::User(user)) => {
                hash.update([2]);
                hash.update(user.as_bytes());
            }
            Some(Suspect::Service) => hash.update([3]),
        }
        FindingId::of(&hash.finalize().into())
    }

    /// The same for people. See [`Words`].
    #[must_use]
    pub fn words(&self, names: &Names) -> Words {
        words::words(self, names)
    }
}

/// A day and time for people, in UTC.
#[must_use]
pub fn date(at: UnixMs) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let minutes = at.0 / 60_000;
    let days = minutes / 1440;
    // <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>, for days since 1970.
    let z = days + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 2
    } else {
        shifted - 10
    };
    let year = year_of_era + era * 400 + u64::from(month < 2);
    let name = usize::try_from(month).ok().and_then(|at| MONTHS.get(at));
    let (hour, minute) = (minutes / 60 % 24, minutes % 60);
    format!(
        "{day} {} {year} {hour:02}:{minute:02} UTC",
        name.unwrap_or(&"?")
    )
}
