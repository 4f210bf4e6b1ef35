//! A store's key in the keyring of the operating system: Secret Service (Linux, BSD), Keychain (macOS), Credential Manager (Windows).
//!
//! An entry holds 32 random bytes and is named by 16 random bytes, which are in the header of the store in the clear. Each wrap of a store
//! key has an entry of its own, so that a change that is interrupted never overwrites what still opens the store.

use std::time::Duration;

use zeroize::Zeroizing;

use super::error::StoreError;
use super::secret::{ENTRY_ID_BYTES, KEY_FILE_BYTES};

/// Service under which entries are kept.
pub const KEYRING_SERVICE: &str = "conclave";
/// Time for the keyring to answer: it may ask a person to unlock it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Content of an entry.
pub(super) type EntryKey = Zeroizing<[u8; KEY_FILE_BYTES]>;
/// What names an entry.
pub(super) type EntryId = [u8; ENTRY_ID_BYTES];

/// A keyring that can hold the keys of stores.
///
/// ```
/// use conclave_client::Config;
/// use conclave_client::store::{Keyring, Unlock};
/// let config = Config::offline("/home/ana/.conclave").unlock(Unlock::Keyring(Keyring::system()));
/// # let _ = config;
/// ```
#[derive(Clone, Default)]
pub struct Keyring {
    /// None is the keyring of the operating system.
    #[cfg(feature = "keyring")]
    store: Option<std::sync::Arc<keyring_core::CredentialStore>>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring(..)")
    }
}

/// What to do with an entry.
enum Do {
    Put(EntryKey),
    Get,
    Delete,
}

impl Keyring {
    /// The keyring of the operating system. It is looked for when it is used, not here.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// Another credential store of the `keyring-core` family: one of a platform that this crate does not know, or one for tests.
    #[cfg(feature = "keyring")]
    #[must_use]
    pub fn from_store(store: std::sync::Arc<keyring_core::CredentialStore>) -> Self {
        Self { store: Some(store) }
    }

    /// Keeps a key, and sees that it comes back.
    pub(super) async fn put(&self, id: EntryId, key: &EntryKey) -> Result<(), StoreError> {
        self.ask(id, Do::Put(key.clone())).await?;
        if self.get(id).await? == *key {
            Ok(())
        } else {
            Err(unusable("it does not give back what it was given"))
        }
    }

    pub(super) async fn get(&self, id: EntryId) -> Result<EntryKey, StoreError> {
        self.ask(id, Do::Get).await?.ok_or(StoreError::KeyringEntry)
    }

    /// Removes an entry that opens nothing any more. It is no harm when that fails.
    pub(super) async fn forget(&self, id: EntryId) {
        if let Err(error) = self.ask(id, Do::Delete).await {
            tracing::warn!(code = error.code(), "an old entry stays in the keyring");
        }
    }

    /// Keyrings answer by blocking calls that may take as long as a person takes.
    async fn ask(&self, id: EntryId, what: Do) -> Result<Option<EntryKey>, StoreError> {
        let keyring = self.clone();
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("conclave-keyring".to_owned())
            .spawn(move || {
                let _ = tell.send(keyring.answer(id, what));
            })
            .map_err(|error| unusable(error.to_string()))?;
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unusable("its driver failed")),
            Err(_) => Err(unusable("it did not answer; it may be locked")),
        }
    }

    #[cfg(not(feature = "keyring"))]
    fn answer(&self, _: EntryId, what: Do) -> Result<Option<EntryKey>, StoreError> {
        if let Do::Put(key) = what {
            drop(key);
        }
        Err(unusable("this program was built without keyrings"))
    }

    #[cfg(feature = "keyring")]
    fn answer(&self, id: EntryId, what: Do) -> Result<Option<EntryKey>, StoreError> {
        use keyring_core::Error as Refused;
        let store = match &self.store {
            Some(store) => std::sync::Arc::clone(store),
            None => system().map_err(refused)?,
        };
        let account = id.iter().fold("store-".to_owned(), |account, byte| {
            format!("{account}{byte:02x}")
        });
        let entry = store
            .build(KEYRING_SERVICE, &account, None)
            .map_err(refused)?;
        match what {
            Do::Put(key) => entry.set_secret(key.as_slice()).map_err(refused)?,
            Do::Delete => match entry.delete_credential() {
                Ok(()) | Err(Refused::NoEntry) => {}
                Err(error) => return Err(refused(error)),
            },
            Do::Get => {
                let found = Zeroizing::new(entry.get_secret().map_err(refused)?);
                let mut key = Zeroizing::new([0u8; KEY_FILE_BYTES]);
                if found.len() != key.len() {
                    return Err(StoreError::KeyringEntry);
                }
                key.copy_from_slice(&found);
                return Ok(Some(key));
            }
        }
        Ok(None)
    }
}

fn unusable(why: impl Into<String>) -> StoreError {
    StoreError::Keyring { why: why.into() }
}

/// Says what a keyring refused, without anything that it may quote of an entry.
#[cfg(feature = "keyring")]
fn refused(error: keyring_core::Error) -> StoreError {
    use keyring_core::Error as Refused;
    match error {
        Refused::NoEntry => StoreError::KeyringEntry,
        Refused::PlatformFailure(why) => unusable(why.to_string()),
        Refused::NoStorageAccess(why) => unusable(format!("it is not accessible: {why}")),
        Refused::Ambiguous(_) => unusable("it has several entries of one name"),
        _ => unusable("it refused"),
    }
}

#[cfg(all(
    feature = "keyring",
    unix,
    not(any(target_os = "macos", target_os = "ios", target_os = "android"))
))]
fn system() -> keyring_core::Result<std::sync::Arc<keyring_core::CredentialStore>> {
    Ok(zbus_secret_service_keyring_store::Store::new()?)
}

#[cfg(all(feature = "keyring", target_os = "macos"))]
fn system() -> keyring_core::Result<std::sync::Arc<keyring_core::CredentialStore>> {
    Ok(apple_native_keyring_store::keychain::Store::new()?)
}

#[cfg(all(feature = "keyring", windows))]
fn system() -> keyring_core::Result<std::sync::Arc<keyring_core::CredentialStore>> {
    Ok(windows_native_keyring_store::Store::new()?)
}

#[cfg(all(
    feature = "keyring",
    not(windows),
    not(target_os = "macos"),
    any(not(unix), target_os = "ios", target_os = "android")
))]
fn system() -> keyring_core::Result<std::sync::Arc<keyring_core::CredentialStore>> {
    Err(keyring_core::Error::NotSupportedByStore(String::new()))
}
