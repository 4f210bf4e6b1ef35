//! What can be wrong with a store.

use std::path::{Path, PathBuf};

/// Why a store could not be opened, read or written. Never quotes values, keys or passphrases; row keys (ids only) are shortened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process, or another part of this one, has the store open.
    #[error("the store in {path} is in use")]
    InUse {
        /// Folder of the store.
        path: PathBuf,
    },
    /// There is no store.
    #[error("there is no store in {path}")]
    Missing {
        /// Folder of the store.
        path: PathBuf,
    },
    /// There is a store already.
    #[error("there is a store in {path} already")]
    Exists {
        /// Folder of the store.
        path: PathBuf,
    },
    /// The file is not a store of this program.
    #[error("{path} is not a store")]
    NotAStore {
        /// The file.
        path: PathBuf,
    },
    /// The passphrase, key file or keyring entry does not open the store.
    #[error("the passphrase, key file or keyring entry is not the one of this store")]
    WrongSecret,
    /// The store was made with another kind of secret.
    #[error("this store opens with {wants}")]
    SecretKind {
        /// What it opens with.
        wants: &'static str,
    },
    /// There is no keyring, or it refused.
    #[error("the keyring cannot be used ({why}); unlock it, or use a passphrase or a key file")]
    Keyring {
        /// Why.
        why: String,
    },
    /// The keyring does not have the entry that opens this store: it is another one, or was reset.
    #[error(
        "the keyring has no entry for this store; open it as the user and on the system that made it"
    )]
    KeyringEntry,
    /// A header or the database itself is damaged.
    #[error("the store is damaged ({what})")]
    Damaged {
        /// What is.
        what: &'static str,
    },
    /// A value was changed, or moved from another row.
    #[error("the store is damaged: row {row}… was changed or moved")]
    RowDamaged {
        /// First bytes of the row's key in hexadecimal.
        row: String,
    },
    /// Rows were deleted, added, or replaced by older versions.
    #[error("the store is damaged: rows were removed, added or put back from an older copy")]
    RowsChanged,
    /// The store was written by an older program, whose rows this one does not read. It is left as it is.
    #[error(
        "this device was made by an older program (store of version {found}, this program has {known}); it is left as it is"
    )]
    OldSchema {
        /// Version found.
        found: i64,
        /// The version of this program.
        known: i64,
    },
    /// The database has a schema that this program does not know.
    #[error(
        "the store was written by a newer program (schema {found}, this one knows {known}); update this program"
    )]
    UnknownSchema {
        /// Version found.
        found: i64,
        /// Newest version known here.
        known: i64,
    },
    /// A value or the wrapped key has a format that this program does not know.
    #[error(
        "the store holds data of format {found}, which this program does not know; update this program"
    )]
    UnknownFormat {
        /// Version found.
        found: u16,
    },
    /// A value is larger than a store takes.
    #[error("a value is too large for the store")]
    TooLarge,
    /// A key file, or the folder of the store, is open to other users.
    #[error("{path} must be accessible to its owner only")]
    Permissions {
        /// The file or folder.
        path: PathBuf,
    },
    /// A key file does not have exactly 32 bytes.
    #[error("{path} is not a key file of 32 bytes")]
    KeyFile {
        /// The file.
        path: PathBuf,
    },
    /// The disk is full, or the store has its largest size. Nothing of what was to be stored is.
    #[error("the disk is full, or the store has reached its limit; make room and try again")]
    Full,
    /// The system refused to write. Nothing of what was to be stored is.
    #[error(
        "the system refused to write to the store: a quota or size limit is reached, or the disk fails; make room and try again"
    )]
    Refused,
    /// The operating system gave no randomness.
    #[error("the operating system gave no random bytes")]
    Randomness,
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The database refused.
    #[error("the database failed: {0}")]
    Database(#[source] sqlx::Error),
}

impl StoreError {
    /// Stable code, listed in `docs/ERRORS.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "store.in_use",
            Self::Missing { .. } => "store.missing",
            Self::Exists { .. } => "store.exists",
            Self::NotAStore { .. } => "store.not_a_store",
            Self::WrongSecret => "store.wrong_secret",
            Self::SecretKind { .. } => "store.secret_kind",
            Self::Keyring { .. } => "store.keyring",
            Self::KeyringEntry => "store.keyring_entry",
            Self::Damaged { .. } => "store.damaged",
            Self::RowDamaged { .. } => "store.row_damaged",
            Self::RowsChanged => "store.rows_changed",
            Self::OldSchema { .. } => "store.old_schema",
            Self::UnknownSchema { .. } => "store.unknown_schema",
            Self::UnknownFormat { .. } => "store.unknown_format",
            Self::TooLarge => "store.too_large",
            Self::Permissions { .. } => "store.permissions",
            Self::KeyFile { .. } => "store.key_file",
            Self::Full => "store.full",
            Self::Refused => "store.refused",
            Self::Randomness => "store.randomness",
            Self::File { .. } => "store.file",
            Self::Database(_) => "store.database",
        }
    }

    /// Whether opening or writing the same store can succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::InUse { .. } | Self::Keyring { .. }) || self.wants_room()
    }

    /// Whether nothing is wrong with what is stored: there is only no room for more.
    pub(crate) fn wants_room(&self) -> bool {
        matches!(self, Self::Full | Self::Refused)
    }

    pub(super) fn row_damaged(key: &[u8]) -> Self {
        let row = key
            .iter()
            .take(12)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self::RowDamaged { row }
    }

    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    /// SQLite's primary result codes (<https://sqlite.org/rescode.html>) that mean something to a user get an error of their own.
    fn from(error: sqlx::Error) -> Self {
        let code = match &error {
            sqlx::Error::Database(database) => {
                database.code().and_then(|code| code.parse::<u32>().ok())
            }
            _ => None,
        };
        // SQLITE_IOERR_WRITE: what a quota or a limit on file sizes looks like.
        if code == Some(778) {
            return Self::Refused;
        }
        match code.map(|code| code & 0xff) {
            Some(11) => Self::Damaged { what: "database" },
            Some(13) => Self::Full,
            Some(18) => Self::TooLarge,
            Some(26) => Self::Damaged {
                what: "database header",
            },
            _ => Self::Database(error),
        }
    }
}
