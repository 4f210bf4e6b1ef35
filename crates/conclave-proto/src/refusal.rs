//! Typed refusals: what the service answers when it does not do as asked, and what a member finds wrong.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::ids::{Hash, UnixMs};

/// Why a device may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
#[non_exhaustive]
pub enum ForbiddenWhy {
    /// The device is not a member of the group in this epoch.
    NotMember = 1,
    /// The user's role does not allow it (action × role table).
    Role = 2,
    /// The device was removed; only an Add brings it back.
    Tombstoned = 3,
    /// The record or statement names another device than the one connected.
    NotYours = 4,
    /// The account or device is disabled or not in its user's device list.
    DeviceRevoked = 5,
    /// The service admits by invitation only and this device brought no valid token.
    NotAdmitted = 6,
    /// The service does not go by the origin that was dialled.
    WrongOrigin = 7,
    /// The device's certificate is not valid at the service's time.
    CertificateTime = 8,
    /// The log went on without what is brought back, or may not have it any more.
    WentOn = 9,
}

/// What is wrong with a commit, a proposal or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
#[non_exhaustive]
pub enum CommitFault {
    /// Not decodable, or refused by MLS (signature, tree, epoch, proposal rules).
    Mls = 1,
    /// A leaf's credential does not authenticate: stolen certificate, wrong key, bad signature.
    Credential = 2,
    /// The author's role does not allow one of its proposals.
    Role = 3,
    /// The roster hash is not the one that follows.
    Roster = 4,
    /// A pending proposal is not covered.
    PendingOmitted = 5,
    /// A proposal type that the profile does not allow.
    ProposalKind = 6,
    /// The time lies before the previous commit's or too far from the service's clock.
    Time = 7,
    /// The seen head is no prefix of the group log, or lacks a covered proposal.
    SeenHead = 8,
    /// Without this user the group would have no owner.
    LastOwner = 9,
    /// An external commit that is not a resync of the same device.
    External = 10,
    /// The policy extension is missing, malformed or not allowed to change this way.
    Policy = 11,
    /// The GroupInfo does not belong to the epoch that the commit begins.
    GroupInfo = 12,
    /// The root wrap does not belong to the commit.
    Wrap = 13,
    /// The Welcome does not fit the added members.
    Welcome = 14,
    /// A device is in the group twice, or a tombstoned one returns without an Add.
    Duplicate = 15,
    /// A leaf lacks a capability that groups here need.
    Capabilities = 16,
    /// Past a limit: leaves, size.
    Limit = 17,
    /// The authenticated data is missing or malformed.
    Data = 18,
    /// The group's directory is not listed yet, or would be closed.
    Directory = 19,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
#[non_exhaustive]
pub enum RecordFault {
    /// Not decodable, unknown version or kind, or fields of another kind.
    Malformed = 1,
    /// Names another group or document than the one joined.
    WrongDocument = 2,
    /// Its epoch is below an earlier record's.
    EpochDecreased = 3,
    /// The signature does not verify.
    Signature = 4,
    /// The seen head is no prefix of the log.
    SeenHead = 5,
    /// The record names another predecessor.
    Prev = 6,
    /// The clock was used before.
    Replayed = 7,
    /// Records are missing before it.
    Gap = 8,
    /// Its author's role does not allow it.
    Role = 9,
    /// Its author was no member in its epoch.
    NotMember = 10,
    /// Its instance was closed by a later one of the same device.
    InstanceClosed = 11,
    /// The commitment does not open it.
    Commitment = 12,
    /// The AEAD tag does not verify.
    Open = 13,
    /// The snapshot's parent is not the active snapshot.
    Parent = 14,
    /// The snapshot's covered head is no newer true prefix.
    Covered = 15,
    /// Two different records of one author claim the same place.
    Equivocation = 16,
    /// A replica id belongs to another device, or counters do not follow.
    Replica = 17,
    /// The CRDT engine refused the content.
    Content = 18,
    /// To apply it costs more than its author's user has left.
    Cost = 19,
}

/// A typed refusal. Says what to do where something can be done.
#[derive(
    Debug, Clone, PartialEq, Eq, thiserror::Error, TlsSize, TlsSerialize, TlsDeserializeBytes,
)]
#[repr(u8)]
#[non_exhaustive]
pub enum Refusal {
    /// The record's epoch is not the group's: process commits and seal again.
    #[error("the group is at epoch {current}; process its commits and seal again")]
    #[tls_codec(discriminant = 1)]
    StaleEpoch {
        /// Current epoch.
        current: u64,
    },
    /// Records before this one are missing.
    #[error("records are missing; the next clock is {expected}")]
    #[tls_codec(discriminant = 2)]
    ClockGap {
        /// Next clock.
        expected: u64,
    },
    /// This place in the author's chain is taken.
    #[error("already accepted at position {seq}")]
    #[tls_codec(discriminant = 3)]
    AlreadyAccepted {
        /// Leaf at that clock.
        leaf: Hash,
        /// Its position in the log.
        seq: u64,
    },
    /// The tail is past its hard limit.
    #[error("the document needs a snapshot before it takes more")]
    #[tls_codec(discriminant = 4)]
    SnapshotRequired,
    /// Not allowed.
    #[error("not allowed ({why:?})")]
    #[tls_codec(discriminant = 5)]
    Forbidden {
        /// Why.
        why: ForbiddenWhy,
    },
    /// Too large.
    #[error("too large; at most {max}")]
    #[tls_codec(discriminant = 6)]
    TooLarge {
        /// Limit, in the unit of what was refused.
        max: u64,
    },
    /// Too often.
    #[error("too many requests; try again in {retry_after_ms} ms")]
    #[tls_codec(discriminant = 7)]
    RateLimited {
        /// Wait this long, in milliseconds.
        retry_after_ms: u64,
    },
    /// A pending leave or removal has to be committed first.
    #[error("a pending leave or removal has to be covered by the next commit")]
    #[tls_codec(discriminant = 8)]
    ProposalPending,
    /// The client is too old for the service or the group.
    #[error("this needs protocol version {minimum}; update the program")]
    #[tls_codec(discriminant = 9)]
    UpgradeNeeded {
        /// Least version that works.
        minimum: u16,
    },
    /// Another commit took the epoch.
    #[error("another commit began epoch {current}")]
    #[tls_codec(discriminant = 10)]
    EpochTaken {
        /// Current epoch.
        current: u64,
    },
    /// The commit, proposal or group is not valid.
    #[error("the commit is not valid ({fault:?})")]
    #[tls_codec(discriminant = 11)]
    BadCommit {
        /// What is wrong.
        fault: CommitFault,
    },
    /// The record is not valid.
    #[error("the record is not valid ({fault:?})")]
    #[tls_codec(discriminant = 12)]
    BadRecord {
        /// What is wrong.
        fault: RecordFault,
    },
    /// No such group, or none that this device may know of.
    #[error("no such group")]
    #[tls_codec(discriminant = 13)]
    UnknownGroup,
    /// No such document in the group.
    #[error("no such document")]
    #[tls_codec(discriminant = 14)]
    UnknownDocument,
    /// No such user.
    #[error("no such user")]
    #[tls_codec(discriminant = 15)]
    UnknownUser,
    /// The document was closed.
    #[error("the document is closed")]
    #[tls_codec(discriminant = 16)]
    DocumentClosed,
    /// The id is in use.
    #[error("already exists")]
    #[tls_codec(discriminant = 17)]
    AlreadyExists,
    /// The request could not be decoded or makes no sense here.
    #[error("the request is malformed")]
    #[tls_codec(discriminant = 18)]
    Malformed,
    /// A key package, device list or certificate is not valid.
    #[error("the identity statement is not valid")]
    #[tls_codec(discriminant = 19)]
    BadIdentity,
    /// The device list is older than the one stored, or contradicts it.
    #[error("a newer device list is stored (sequence {newest})")]
    #[tls_codec(discriminant = 20)]
    StaleDeviceList {
        /// Newest sequence number.
        newest: u64,
    },
    /// The channel is not open on this connection.
    #[error("the document is not open on this connection")]
    #[tls_codec(discriminant = 21)]
    NoChannel,
    /// The service could not store it; nothing was accepted.
    #[error("the service could not store this; try again later")]
    #[tls_codec(discriminant = 22)]
    Storage,
    /// The service is shutting down.
    #[error("the service is shutting down")]
    #[tls_codec(discriminant = 23)]
    ShuttingDown,
    /// Authentication failed.
    #[error("authentication failed")]
    #[tls_codec(discriminant = 24)]
    Unauthenticated,
    /// The service lost a part of the log and is waiting for it to come back.
    #[error("the service has {have} entries of at least {want}; it is collecting what it lost")]
    #[tls_codec(discriminant = 25)]
    Recovering {
        /// Size of the log now.
        have: u64,
        /// Size that it is known to have had.
        want: u64,
    },
    /// Another copy of this device's store is in use.
    #[error("another copy of this device's home is in use")]
    #[tls_codec(discriminant = 26)]
    OtherLife {
        /// When that one logged in last.
        since: UnixMs,
    },
}

impl Refusal {
    /// Stable code, listed in `docs/ERRORS.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::StaleEpoch { .. } => "refused.stale_epoch",
            Self::ClockGap { .. } => "refused.clock_gap",
            Self::AlreadyAccepted { .. } => "refused.already_accepted",
            Self::SnapshotRequired => "refused.snapshot_required",
            Self::Forbidden { .. } => "refused.forbidden",
            Self::TooLarge { .. } => "refused.too_large",
            Self::RateLimited { .. } => "refused.rate_limited",
            Self::ProposalPending => "refused.proposal_pending",
            Self::UpgradeNeeded { .. } => "refused.upgrade_needed",
            Self::EpochTaken { .. } => "refused.epoch_taken",
            Self::BadCommit { .. } => "refused.bad_commit",
            Self::BadRecord { .. } => "refused.bad_record",
            Self::UnknownGroup => "refused.unknown_group",
            Self::UnknownDocument => "refused.unknown_document",
            Self::UnknownUser => "refused.unknown_user",
            Self::DocumentClosed => "refused.document_closed",
            Self::AlreadyExists => "refused.already_exists",
            Self::Malformed => "refused.malformed",
            Self::BadIdentity => "refused.bad_identity",
            Self::StaleDeviceList { .. } => "refused.stale_device_list",
            Self::NoChannel => "refused.no_channel",
            Self::Storage => "refused.storage",
            Self::ShuttingDown => "refused.shutting_down",
            Self::Unauthenticated => "refused.unauthenticated",
            Self::Recovering { .. } => "refused.recovering",
            Self::OtherLife { .. } => "refused.other_life",
        }
    }

    /// Whether the same intent can succeed later, perhaps after catching up.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::StaleEpoch { .. }
                | Self::ClockGap { .. }
                | Self::SnapshotRequired
                | Self::RateLimited { .. }
                | Self::ProposalPending
                | Self::EpochTaken { .. }
                | Self::StaleDeviceList { .. }
                | Self::NoChannel
                | Self::Storage
                | Self::ShuttingDown
                | Self::Recovering { .. }
        )
    }
}
