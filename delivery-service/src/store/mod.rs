//! Storage: one SQLite database, one writer, a pool of readers.
//!
//! Every change goes through [`writer::Writer`], which commits many operations in one durable transaction and answers afterwards.
//! Readers see committed state only.

pub(crate) mod accounts;
pub(crate) mod codes;
pub(crate) mod invitations;
pub(crate) mod key_packages;
pub(crate) mod open;
pub(crate) mod writer;

use conclave_proto::Refusal;

/// Why storage failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process serves this data directory.
    #[error("the data directory is in use by another process")]
    InUse,
    /// A newer version of the program wrote the database.
    #[error(
        "the database was written by a newer version of this program (schema {found}); update the program"
    )]
    NewerSchema {
        /// Number of the unknown schema.
        found: i64,
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
    /// The database refused.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database schema could not be brought up to date")]
    Migration(#[source] sqlx::migrate::MigrateError),
}

impl StoreError {
    /// Stable code, listed in `docs/ERRORS.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InUse => "store.in_use",
            Self::NewerSchema { .. } => "store.newer_schema",
            Self::Corrupt { .. } => "store.corrupt",
            Self::Directory(_) => "store.directory",
            Self::Database(_) => "store.database",
            Self::Migration(_) => "store.migration",
        }
    }

    /// Whether the same call can succeed later without anybody's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::InUse | Self::Database(_))
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

impl From<sqlx::Error> for OpError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
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
