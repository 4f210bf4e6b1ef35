//! Files of a store beside the database: its folder, its lock, its key file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::error::StoreError;
use super::keyring::Keyring;
use super::secret::{
    self, ENTRY_ID_BYTES, KEY_FILE_BYTES, Method, PassphraseCost, Secret, fill_random,
};

/// Name of the default key file in the store's folder.
pub const KEY_FILE_NAME: &str = "store.key";
const LOCK_NAME: &str = "store.lock";

/// What opens a store.
#[derive(Clone)]
#[non_exhaustive]
pub enum Unlock {
    /// A passphrase, taken as its UTF-8 bytes.
    Passphrase {
        /// The passphrase.
        passphrase: Zeroizing<String>,
        /// What deriving the key costs, for a new store or a changed passphrase; an existing store knows its own cost.
        cost: PassphraseCost,
    },
    /// A file of 32 random bytes that only its owner may read.
    KeyFile {
        /// Where it is.
        path: PathBuf,
        /// Whether to create it, where a store is created and there is no such file.
        create: bool,
    },
    /// An entry of a keyring, which is made where a store is created or changed to this.
    Keyring(Keyring),
}

impl std::fmt::Debug for Unlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Passphrase { cost, .. } => f
                .debug_struct("Passphrase")
                .field("cost", cost)
                .finish_non_exhaustive(),
            Self::KeyFile { path, create } => f
                .debug_struct("KeyFile")
                .field("path", path)
                .field("create", create)
                .finish(),
            Self::Keyring(_) => f.write_str("Keyring"),
        }
    }
}

impl Unlock {
    /// A passphrase at the default cost.
    #[must_use]
    pub fn passphrase(passphrase: impl Into<String>) -> Self {
        Self::Passphrase {
            passphrase: Zeroizing::new(passphrase.into()),
            cost: PassphraseCost::default(),
        }
    }

    /// The secret for a new wrap: makes the key file, where that is wanted, or an entry in the keyring.
    pub(super) async fn new_secret(&self) -> Result<Secret, StoreError> {
        match self {
            Self::KeyFile { path, create } if *create && !path.exists() => {
                create_key_file(path)?;
                read_key_file(path).map(Secret::KeyFile)
            }
            Self::Keyring(keyring) => {
                let mut entry = [0u8; ENTRY_ID_BYTES];
                let mut key = Zeroizing::new([0u8; KEY_FILE_BYTES]);
                fill_random(&mut entry)?;
                fill_random(key.as_mut_slice())?;
                keyring.put(entry, &key).await?;
                Ok(Secret::Keyring(entry, key))
            }
            other => other.simple_secret(),
        }
    }

    /// The secret that is to open what `header` wraps.
    pub(super) async fn secret(&self, header: &[u8]) -> Result<Secret, StoreError> {
        match self {
            Self::Keyring(keyring) => match secret::described(header)?.1 {
                Method::Keyring(entry) => {
                    let key = keyring.get(entry).await?;
                    Ok(Secret::Keyring(entry, key))
                }
                other => Err(StoreError::SecretKind {
                    wants: other.kind().name(),
                }),
            },
            other => other.simple_secret(),
        }
    }

    fn simple_secret(&self) -> Result<Secret, StoreError> {
        match self {
            Self::Passphrase { passphrase, cost } => {
                Ok(Secret::Passphrase(passphrase.clone(), *cost))
            }
            Self::KeyFile { path, .. } => read_key_file(path).map(Secret::KeyFile),
            Self::Keyring(_) => Err(StoreError::KeyringEntry),
        }
    }

    /// Removes the entry of a wrap that is gone from the keyring.
    pub(super) async fn forget(&self, method: Method) {
        if let (Self::Keyring(keyring), Method::Keyring(entry)) = (self, method) {
            keyring.forget(entry).await;
        }
    }
}

/// Creates the folder, for its owner only.
pub(super) fn create_folder(folder: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(folder).map_err(StoreError::file("create", folder))?;
    restrict_folder(folder)
}

/// Takes all rights from others.
pub(super) fn restrict_folder(folder: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let found = fs::metadata(folder).map_err(StoreError::file("read", folder))?;
        if found.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(|_| {
                StoreError::Permissions {
                    path: folder.to_owned(),
                }
            })?;
        }
    }
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// Takes the advisory lock of a folder. It is given back when the file is dropped, also when the process dies.
pub(super) fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK_NAME);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StoreError::file("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: folder.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(StoreError::File {
            action: "lock",
            path,
            source,
        }),
    }
}

/// Makes new names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    #[cfg(unix)]
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(StoreError::file("sync", folder))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

fn create_key_file(path: &Path) -> Result<(), StoreError> {
    let mut bytes = Zeroizing::new([0u8; KEY_FILE_BYTES]);
    fill_random(bytes.as_mut_slice())?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options
        .open(path)
        .map_err(StoreError::file("create", path))?;
    file.write_all(bytes.as_slice())
        .and_then(|()| file.sync_all())
        .map_err(StoreError::file("write", path))?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => sync_folder(folder),
        _ => Ok(()),
    }
}

fn read_key_file(path: &Path) -> Result<Zeroizing<[u8; KEY_FILE_BYTES]>, StoreError> {
    let mut file = File::open(path).map_err(StoreError::file("open", path))?;
    let found = file.metadata().map_err(StoreError::file("read", path))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if found.permissions().mode() & 0o077 != 0 {
            return Err(StoreError::Permissions {
                path: path.to_owned(),
            });
        }
    }
    if found.len() != KEY_FILE_BYTES as u64 {
        return Err(StoreError::KeyFile {
            path: path.to_owned(),
        });
    }
    let mut bytes = Zeroizing::new([0u8; KEY_FILE_BYTES]);
    file.read_exact(bytes.as_mut_slice())
        .map_err(StoreError::file("read", path))?;
    Ok(bytes)
}
