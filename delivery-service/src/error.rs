//! Why a service does not start.

use std::net::SocketAddr;

use crate::store::StoreError;

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
        }
    }

    /// Whether the same start can succeed later without anybody's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Listen { .. } => true,
            Self::Config { .. } | Self::Random => false,
        }
    }
}
