//! Errors of calls, and findings about records: two different things. A call fails when this device cannot do what was asked; what a
//! peer or the service did wrong is a finding, and the document goes on.

use conclave_crdt::CrdtError;
use conclave_proto::codec::DecodeError;
use conclave_proto::record::Author;
use conclave_proto::refusal::RecordFault;

/// Why a call on a document failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocError {
    /// The CRDT engine refused a local edit or could not be rebuilt.
    #[error("the CRDT engine refused: {0}")]
    Crdt(#[from] CrdtError),
    /// The stored rows are not those of a document.
    #[error("the stored document cannot be read: {0}")]
    Stored(#[from] DecodeError),
    /// A CRDT kind that this program does not know.
    #[error("CRDT kind {code} is not known to this program")]
    UnknownKind {
        /// Its code.
        code: u8,
    },
    /// The snapshot that a document is opened from seals a payload of a version that this program does not know. It is nobody's fault.
    #[error(
        "the document begins with a snapshot of version {version}, which is not known to this program"
    )]
    UnknownSnapshot {
        /// Its version.
        version: u16,
    },
    /// The root of an epoch is not held.
    #[error("the key of epoch {epoch} is missing")]
    MissingRoot {
        /// The epoch.
        epoch: u64,
    },
    /// The epoch is not known yet: process the group's commits first.
    #[error("epoch {epoch} is not known yet")]
    FutureEpoch {
        /// The epoch.
        epoch: u64,
    },
    /// A record that had to be accepted was not: the snapshot that a document is opened from.
    #[error("the record is not valid ({fault:?})")]
    BadRecord {
        /// What is wrong.
        fault: RecordFault,
    },
    /// The snapshot that a document is opened from says what it may not, and its author has signed that.
    #[error("the snapshot that the document would be opened from, signed by device {}, is not valid ({fault:?})", author.device)]
    BadSnapshot {
        /// Who signed it.
        author: Author,
        /// What is wrong.
        fault: RecordFault,
    },
    /// The service's answer names another document, lacks the snapshot asked for, or makes no sense.
    #[error("the service's answer does not fit the question")]
    Protocol,
    /// The user's role does not allow it.
    #[error("the role does not allow this")]
    Role,
    /// The edit or snapshot is larger than a record may be.
    #[error("larger than a record may be ({max} bytes)")]
    TooLarge {
        /// Limit in bytes.
        max: usize,
    },
    /// The document is paused, and there are as many drafts as are kept.
    #[error("the document is paused, and more drafts than there are would not be kept")]
    DraftsFull,
    /// The document that would be made is larger, or takes more work to load, than anybody else's device puts up with.
    #[error("the document would be larger, or more work to load, than other devices accept")]
    TooCostly,
    /// A snapshot cannot be made now: records wait, or nothing is new since the last one.
    #[error("a snapshot cannot be made now")]
    NotNow,
    /// A record was set aside, since nobody could supply its root: nothing can cover it before the root arrives or an admin voids it.
    #[error("record {seq} is set aside; an admin has to void it, or its key has to arrive")]
    SetAside {
        /// Its position in the document's log.
        seq: u64,
    },
}

impl DocError {
    /// Stable code, listed in `docs/ERRORS.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Crdt(_) => "doc.crdt",
            Self::Stored(_) => "doc.stored",
            Self::UnknownKind { .. } => "doc.unknown_kind",
            Self::UnknownSnapshot { .. } => "doc.unknown_snapshot",
            Self::MissingRoot { .. } => "doc.missing_root",
            Self::FutureEpoch { .. } => "doc.future_epoch",
            Self::BadRecord { .. } => "doc.bad_record",
            Self::BadSnapshot { .. } => "doc.bad_snapshot",
            Self::Protocol => "doc.protocol",
            Self::Role => "doc.role",
            Self::DraftsFull => "pause.full",
            Self::TooLarge { .. } => "doc.too_large",
            Self::TooCostly => "doc.too_costly",
            Self::NotNow => "doc.not_now",
            Self::SetAside { .. } => "doc.set_aside",
        }
    }

    /// Whether the same call can succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::MissingRoot { .. }
                | Self::FutureEpoch { .. }
                | Self::NotNow
                | Self::SetAside { .. }
        )
    }
}

/// Who is probably at fault. Both may be: an honest service orders no record that it can see to be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Suspect {
    /// The author, where the signature shows that the record is theirs.
    pub author: Option<Author>,
    /// The service.
    pub service: bool,
}

impl Suspect {
    /// The service alone.
    pub const SERVICE: Self = Self {
        author: None,
        service: true,
    };

    /// The author alone: what is wrong was sealed, so the service could not see it.
    #[must_use]
    pub const fn author(author: Author) -> Self {
        Self {
            author: Some(author),
            service: false,
        }
    }
}

/// What was found wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A record breaks a rule. [`RecordFault::Signature`] is what `docs/ERRORS.md` calls `BadSignature`.
    Record(RecordFault),
    /// Two different records were shown for one position, or a head contradicts the own log.
    Fork,
    /// The service has lost records that it had acknowledged or delivered.
    Rollback,
    /// The service says something that makes no sense in the protocol.
    Protocol,
}

impl Fault {
    /// Stable code, listed in `docs/ERRORS.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fork => "found.fork",
            Self::Rollback => "found.rollback",
            Self::Protocol => "found.protocol",
            Self::Record(fault) => match fault {
                RecordFault::Malformed => "found.malformed",
                RecordFault::WrongDocument => "found.wrong_document",
                RecordFault::EpochDecreased => "found.epoch_decreased",
                RecordFault::Signature => "found.bad_signature",
                RecordFault::SeenHead => "found.seen_head",
                RecordFault::Prev => "found.prev",
                RecordFault::Replayed => "found.replayed",
                RecordFault::Gap => "found.gap",
                RecordFault::Role => "found.role",
                RecordFault::NotMember => "found.not_member",
                RecordFault::InstanceClosed => "found.instance_closed",
                RecordFault::Commitment => "found.commitment",
                RecordFault::Open => "found.open",
                RecordFault::Parent => "found.parent",
                RecordFault::Covered => "found.covered",
                RecordFault::Equivocation => "found.equivocation",
                RecordFault::Replica => "found.replica",
                RecordFault::Content => "found.content",
                RecordFault::Cost => "found.cost",
                _ => "found.other",
            },
        }
    }
}

/// Something wrong at one position of the log. The position stays in the Merkle log; the document goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// Position in the document's log.
    pub seq: u64,
    /// What is wrong.
    pub fault: Fault,
    /// Who is probably at fault.
    pub suspect: Suspect,
}
