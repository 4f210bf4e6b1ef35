//! Why something could not be done.

use std::sync::Arc;

use conclave_crdt::{CrdtError, CrdtKind};
use conclave_engine::EngineError;
use conclave_proto::{DocumentId, GroupId, UnixMs};
use serde::{Deserialize, Serialize};

use crate::store::StoreError;
use crate::transport::EndpointError;

/// Why a call failed. Never quotes content, names, keys or passphrases.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device's logic refused: see [`EngineError`].
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store failed. Where it fails while a client runs, nothing that was under way was acknowledged. A store without room
    /// ([`StoreError::Full`], [`StoreError::Refused`]) is tried again and the client goes on; anything else stops the client. Calls that
    /// still waited for the service get this error too, although what they asked for may be in the store and go on.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The service's address is none.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The client was closed.
    #[error("the client was closed")]
    Closed,
    /// The client stopped because of a fault inside it. Everything acknowledged is in the store; open it again.
    #[error("the client stopped because of an internal fault; open it again")]
    Crashed,
    /// The answer was of another kind than the command has.
    #[error("the device gave an unexpected answer")]
    UnexpectedAnswer,
    /// The group is not known on this device.
    #[error("no group {0} on this device")]
    NoGroup(GroupId),
    /// The document is not known on this device.
    #[error("no document {0} in the group")]
    NoDocument(DocumentId),
    /// Nothing here has that name or id.
    #[error("nothing here is called that")]
    NotFound,
    /// Several documents may be meant.
    #[error("{} documents here may be meant by that; use the id of one", .0.len())]
    Ambiguous(Vec<(GroupId, DocumentId)>),
    /// The names of documents in this group cannot be read now, so that nobody can tell whether one there is meant.
    #[error(
        "a document in group {0} may be meant, where names cannot be read now; use the whole id of one"
    )]
    UnreadableNames(GroupId),
    /// The document is of another CRDT kind.
    #[error("this document is not of the kind {wanted}")]
    WrongKind {
        /// The kind that was asked for.
        wanted: CrdtKind,
    },
    /// The document's kind has no such view.
    #[error("this document cannot be shown as {view}")]
    NoView {
        /// `text` or `json`.
        view: &'static str,
    },
    /// This device lost its membership while the call waited.
    #[error("this device is no longer a member of the group")]
    GroupLost,
    /// A time limit given by the caller passed.
    #[error("it took longer than the limit that was given; it goes on in the background")]
    TimedOut,
    /// An argument of a call is not valid.
    #[error("invalid argument: {what}")]
    Argument {
        /// Which, and what is wrong.
        what: &'static str,
    },
    /// The process that has the store open answered with an error.
    #[error("{}", .0.message)]
    Remote(RemoteError),
    /// The process that has the store open could not be reached, or said something unintelligible.
    #[error("the process that has this store open cannot be reached: {why}")]
    Local {
        /// Why.
        why: String,
    },
    /// The operating system refused to start a thread or a runtime.
    #[error("the operating system refused to start the client: {why}")]
    Start {
        /// Why.
        why: String,
    },
}

/// An error as told by another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteError {
    /// Stable code.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether the same call can succeed later.
    pub retryable: bool,
    /// When what was asked for goes on by itself, where that is known.
    #[serde(default)]
    pub until: Option<UnixMs>,
}

impl Error {
    /// Stable code, listed in `docs/ERRORS.md`. For [`Error::Remote`] the code of the original error.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Engine(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Endpoint(_) => "client.endpoint",
            Self::Closed => "client.closed",
            Self::Crashed => "client.crashed",
            Self::UnexpectedAnswer => "client.unexpected_answer",
            Self::NoGroup(_) => "client.no_group",
            Self::NoDocument(_) => "client.no_document",
            Self::NotFound => "client.not_found",
            Self::Ambiguous(_) => "client.ambiguous",
            Self::UnreadableNames(_) => "client.unreadable_names",
            Self::WrongKind { .. } => "client.wrong_kind",
            Self::NoView { .. } => "client.no_view",
            Self::GroupLost => "client.group_lost",
            Self::TimedOut => "client.timed_out",
            Self::Argument { .. } => "client.argument",
            Self::Remote(error) => &error.code,
            Self::Local { .. } => "client.local",
            Self::Start { .. } => "client.start",
        }
    }

    /// Whether the same call can succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Engine(error) => error.is_retryable(),
            Self::Store(error) => error.is_retryable(),
            Self::Remote(error) => error.retryable,
            Self::Crashed | Self::TimedOut | Self::Local { .. } | Self::Start { .. } => true,
            _ => false,
        }
    }

    /// When what was asked for goes on by itself, where that is known.
    #[must_use]
    pub fn until(&self) -> Option<UnixMs> {
        match self {
            Self::Engine(error) => error.until(),
            Self::Remote(error) => error.until,
            _ => None,
        }
    }

    /// What another process is told.
    #[must_use]
    pub fn to_remote(&self) -> RemoteError {
        RemoteError {
            code: self.code().to_owned(),
            message: self.to_string(),
            retryable: self.is_retryable(),
            until: self.until(),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl From<CrdtError> for Error {
    fn from(error: CrdtError) -> Self {
        Self::Engine(EngineError::Crdt(error))
    }
}
