//! Why a service does not start, and why it does not do what it is asked to.

use std::net::SocketAddr;
use std::path::PathBuf;

use conclave_order::{Failure, Stop};
use conclave_proto::Refusal;

use crate::sqlite::StoreError;

/// Why a service does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is not usable.
    #[error("the configuration is not usable:\n  {}", .problems.join("\n  "))]
    Config {
        /// Everything that is wrong with it.
        problems: Vec<String>,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// No service has ever run on the data directory.
    #[error("no service has run on this data directory yet: there is nothing to recover")]
    NeverRan,
    /// The file is no database that can be put back.
    #[error("the file is not a sound copy of a database; nothing was changed")]
    Unsound,
    /// A file cannot be copied.
    #[error("{} cannot be copied", .file.display())]
    Copy {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A test ended it.
    #[doc(hidden)]
    #[error("killed")]
    Killed,
    /// The name of a file is no text.
    #[error("the name of the file is not text")]
    NoText,
    /// There is no such group.
    #[error("there is no such group")]
    NoGroup,
    /// The group was founded at this service, and nobody said that it goes all the same.
    #[error("the group was founded here, not brought by a member; nothing was changed")]
    FoundedHere,
    /// Somebody else declared something in the same moment.
    #[error("the service declared something itself in the same moment; look again")]
    Meanwhile,
}

impl StartError {
    /// Stable code, listed in `docs/ERRORS.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config { .. } => "start.config",
            Self::Store(error) => error.code(),
            Self::Listen { .. } => "start.listen",
            Self::Random => "start.random",
            Self::NeverRan => "recover.never_ran",
            Self::Unsound => "recover.unsound",
            Self::Copy { .. } => "recover.copy",
            Self::Killed => "recover.killed",
            Self::NoText => "recover.name",
            Self::NoGroup => "group.unknown",
            Self::FoundedHere => "group.founded_here",
            Self::Meanwhile => "recover.meanwhile",
        }
    }

    /// Whether the same start can succeed later without anybody's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Listen { .. } | Self::Meanwhile => true,
            Self::Config { .. }
            | Self::Random
            | Self::NeverRan
            | Self::Unsound
            | Self::Copy { .. }
            | Self::Killed
            | Self::NoGroup
            | Self::FoundedHere
            | Self::NoText => false,
        }
    }
}

/// Why an operation did not take place.
#[derive(Debug)]
pub(crate) enum OpError {
    /// The service says no.
    Refused(Refusal),
    /// The storage failed.
    Failed(StoreError),
}

impl From<Refusal> for OpError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreError> for OpError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl From<Failure> for OpError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure.into())
    }
}

impl From<Stop> for OpError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refusal) => Self::Refused(refusal),
            other => Self::Failed(other.into()),
        }
    }
}

impl OpError {
    /// What the client is told. Logs what it is not told.
    pub(crate) fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Failed(error) => {
                tracing::error!(
                    code = error.code(),
                    error = &error as &dyn std::error::Error,
                    "storage failed"
                );
                Refusal::Storage
            }
        }
    }
}
