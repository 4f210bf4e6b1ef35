//! Why a call failed.

/// Why a call on a document failed.
///
/// The texts are fixed: no variant carries bytes, strings or positions of a document, so an error can be
/// logged without leaking plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum CrdtError {
    /// The bytes are not a valid update, snapshot, version or replica id of this kind.
    #[error("malformed CRDT data")]
    Malformed,
    /// The update needs operations that this document has not seen, and the waiting room is full.
    /// Try again once the missing operations have been applied.
    #[error("operations this update depends on are missing")]
    MissingDependency,
    /// Two different operations claim one (replica, counter), or new content arrived from outside under this
    /// document's own replica id.
    #[error("two different operations claim one id")]
    Equivocation,
    /// The engine panicked. The document is poisoned: rebuild it from a snapshot and the log.
    #[error("the CRDT engine panicked")]
    Panicked,
    /// A limit of [`crate::limits`] is exceeded.
    #[error("CRDT data exceeds a limit")]
    TooLarge,
    /// An earlier call panicked or was refused half-way by the engine. Rebuild the document.
    #[error("the document is poisoned and must be rebuilt")]
    Poisoned,
    /// The engine cannot do this now: a transaction of the application is open, the replica id is in use,
    /// or operations of other replicas were written directly into the engine.
    #[error("the CRDT engine refused the call")]
    Engine,
    /// An argument of a local edit is out of range: a position, a path or a value that JSON cannot hold here.
    #[error("invalid argument of a local edit")]
    InvalidArgument,
}

impl CrdtError {
    /// A stable machine-readable name.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "crdt_malformed",
            Self::MissingDependency => "crdt_missing_dependency",
            Self::Equivocation => "crdt_equivocation",
            Self::Panicked => "crdt_panicked",
            Self::TooLarge => "crdt_too_large",
            Self::Poisoned => "crdt_poisoned",
            Self::Engine => "crdt_engine",
            Self::InvalidArgument => "crdt_invalid_argument",
        }
    }

    /// Whether the same call can succeed later without any change to its arguments.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::MissingDependency)
    }
}

pub(crate) type Result<T> = core::result::Result<T, CrdtError>;
