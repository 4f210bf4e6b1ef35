//! What a client is told when it is opened.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::store::{KEY_FILE_NAME, Keyring, PassphraseCost, Unlock};
use crate::transport::Timing;

/// See [`Config::patience`].
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a device keeps its state, how that is unlocked, and where its service is.
///
/// ```
/// use conclave_client::Config;
/// let config = Config::new("/home/ana/.conclave", "wss://ds.example").passphrase("correct horse battery staple");
/// assert_eq!(config.folder(), std::path::Path::new("/home/ana/.conclave"));
/// ```
#[derive(Clone)]
pub struct Config {
    pub(crate) folder: PathBuf,
    pub(crate) service: Option<String>,
    pub(crate) unlock: Unlock,
    pub(crate) token: Option<Vec<u8>>,
    pub(crate) timing: Timing,
    pub(crate) patience: Duration,
    pub(crate) max_store_bytes: Option<u64>,
    pub(crate) trust_service_clock: bool,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("folder", &self.folder)
            .field("service", &self.service)
            .field("unlock", &self.unlock)
            .field("token", &self.token.as_ref().map(|_| ".."))
            .field("timing", &self.timing)
            .field("patience", &self.patience)
            .field("max_store_bytes", &self.max_store_bytes)
            .field("trust_service_clock", &self.trust_service_clock)
            .finish()
    }
}

impl Config {
    /// A store in `folder` and a service, for example `wss://ds.example`. The store is unlocked by a key file in the same folder, which is
    /// created with the store: that protects a copy of the database, not a copy of the folder. See [`Config::passphrase`] and
    /// [`Config::key_file`] for more.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, service: impl Into<String>) -> Self {
        Self {
            service: Some(service.into()),
            ..Self::offline(folder)
        }
    }

    /// A store in `folder` without any service: reads and edits work, and wait to be sent by a client that has one.
    #[must_use]
    pub fn offline(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        let unlock = Unlock::KeyFile {
            path: folder.join(KEY_FILE_NAME),
            create: true,
        };
        Self {
            folder,
            service: None,
            unlock,
            token: None,
            timing: Timing::default(),
            patience: PATIENCE,
            max_store_bytes: None,
            trust_service_clock: false,
        }
    }

    /// Unlocks the store with a passphrase.
    #[must_use]
    pub fn passphrase(mut self, passphrase: impl Into<String>) -> Self {
        self.unlock = Unlock::passphrase(passphrase);
        self
    }

    /// What deriving a key from the passphrase costs, for a store that is to be created. Call after [`Config::passphrase`].
    #[must_use]
    pub fn passphrase_cost(mut self, new: PassphraseCost) -> Self {
        if let Unlock::Passphrase { cost, .. } = &mut self.unlock {
            *cost = new;
        }
        self
    }

    /// Unlocks the store with a file of 32 random bytes, for example on removable media. `create` makes one for a new store.
    #[must_use]
    pub fn key_file(mut self, path: impl Into<PathBuf>, create: bool) -> Self {
        self.unlock = Unlock::KeyFile {
            path: path.into(),
            create,
        };
        self
    }

    /// Unlocks the store with an entry in the keyring of the operating system, which is made with a new store. A machine without a keyring
    /// refuses with [`StoreError::Keyring`](crate::store::StoreError::Keyring): use a passphrase or a key file there.
    #[must_use]
    pub fn keyring(self) -> Self {
        self.unlock(Unlock::Keyring(Keyring::system()))
    }

    /// Unlocks the store with what is given.
    #[must_use]
    pub fn unlock(mut self, unlock: Unlock) -> Self {
        self.unlock = unlock;
        self
    }

    /// Largest size of the store's database, in bytes. What does not fit is refused with
    /// [`StoreError::Full`](crate::store::StoreError::Full), and the client goes on. The write-ahead log comes on top, for a few seconds.
    /// A store that is larger already does not grow.
    #[must_use]
    pub fn max_store_bytes(mut self, max: u64) -> Self {
        self.max_store_bytes = Some(max);
        self
    }

    /// Token for a service that admits by invitation.
    #[must_use]
    pub fn token(mut self, token: impl Into<Vec<u8>>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Takes the service's clock for right where it is more than a day ahead of this device's. Without this, new groups and changes of members
    /// wait until this device's clock is set: a time that is signed once stays in the group's log. Edits never wait.
    #[must_use]
    pub fn trust_service_clock(mut self, yes: bool) -> Self {
        self.trust_service_clock = yes;
        self
    }

    /// Times of the connection: backoff, pings, limits.
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// How long [`Session::open`](crate::Session::open) tries again where a store is in use but its process does not answer: it may be
    /// starting or stopping.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The store's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
