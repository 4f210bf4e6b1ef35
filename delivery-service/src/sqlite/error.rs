//! What can go wrong with the database.

use conclave_order::{Failure, Stop};

/// Why storage failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process serves this data directory.
    #[error("the data directory is in use by another process")]
    InUse,
    /// A newer version of the program wrote the database. It is left as it is.
    #[error(
        "the database was written by a newer version of this program (schema {found}, this one has {known}) and is left as it is; update the program"
    )]
    NewerSchema {
        /// Number of its schema.
        found: i64,
        /// Number of this program's.
        known: i64,
    },
    /// An older version of the program wrote the database, whose rows this one does not read. It is left as it is.
    #[error(
        "the database was written by an older version of this program (schema {found}, this one has {known}) and is left as it is; run that version until members have exported their documents (conclave doc export), then begin in an empty data directory"
    )]
    OlderSchema {
        /// Number of its schema.
        found: i64,
        /// Number of this program's.
        known: i64,
    },
    /// The database holds something that this program never writes.
    #[error("the database is damaged: a stored {what} is not valid")]
    Corrupt {
        /// What could not be read.
        what: &'static str,
    },
    /// The data directory cannot be used.
    #[error("the data directory cannot be used")]
    Directory(#[source] std::io::Error),
    /// There is no database in the data directory.
    #[error("there is no service's database in {}", .0.display())]
    Missing(std::path::PathBuf),
    /// The database refused.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
    /// A transaction did not take place.
    #[error(transparent)]
    Transaction(Failure),
}

impl StoreError {
    /// Stable code, listed in `docs/ERRORS.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InUse => "store.in_use",
            Self::NewerSchema { .. } => "store.newer_schema",
            Self::OlderSchema { .. } => "store.older_schema",
            Self::Corrupt { .. } => "store.corrupt",
            Self::Directory(_) => "store.directory",
            Self::Missing(_) => "store.missing",
            Self::Database(_) | Self::Transaction(_) => "store.database",
        }
    }

    /// Whether the same call can succeed later without anybody's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::InUse | Self::Database(_) | Self::Transaction(_))
    }
}

/// Primary result code of SQLite, from an extended one.
pub(crate) fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    Some(code.parse::<u32>().ok()? & 0xff)
}

/// Whether the file is not what SQLite wrote (`SQLITE_CORRUPT`, `SQLITE_NOTADB`), or a row not what this program wrote.
pub(crate) fn is_damage(error: &sqlx::Error) -> bool {
    matches!(sqlite_code(error), Some(11 | 26))
        || matches!(
            error,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)
        )
}

/// Whether there was no room for what was to be written (`SQLITE_FULL`), or a limit on file sizes was met (`SQLITE_IOERR_WRITE`). Frames
/// of the write-ahead log are then incomplete: nothing took place.
pub(crate) fn is_full(error: &sqlx::Error) -> bool {
    let extended = error
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<u32>().ok());
    matches!(extended, Some(13 | 778))
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_damage(&error) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the database is damaged"
            );
            Self::Corrupt {
                what: "page or row",
            }
        } else {
            Self::Database(error)
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Corrupt { what } => Self::Corrupt { what },
            other => Self::Transaction(other),
        }
    }
}

/// Only where every row that can lack was loaded: then one still lacking is damage.
impl From<Stop> for StoreError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Damaged { what } => Self::Corrupt { what },
            _ => Self::Corrupt { what: "row" },
        }
    }
}
