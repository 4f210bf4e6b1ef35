//! What opens a store: passphrases, key files and keyrings, and the way from one to another.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;

use conclave_client::store::{
    DATABASE_NAME, PassphraseCost, SecretKind, Store, StoreError, Unlock,
};
use conclave_engine::WriteBatch;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use zeroize::Zeroizing;

fn passphrase(text: &str) -> Unlock {
    Unlock::Passphrase {
        passphrase: Zeroizing::new(text.to_owned()),
        cost: PassphraseCost::insecure_for_tests(),
    }
}

async fn create(folder: &TempDir, unlock: &Unlock) -> Result<(), StoreError> {
    let mut rows = WriteBatch::default();
    rows.put(b"row".to_vec(), Zeroizing::new(b"value".to_vec()));
    Store::create(folder.path(), unlock, &rows)
        .await?
        .close()
        .await
}

async fn opens(folder: &TempDir, unlock: &Unlock) -> Result<(), StoreError> {
    let mut store = Store::open(folder.path(), unlock).await?;
    let rows = store.read(b"row").await?;
    assert_eq!(rows[0].1.as_slice(), b"value");
    store.close().await
}

#[cfg(feature = "keyring")]
async fn change(folder: &TempDir, from: &Unlock, to: &Unlock) -> Result<(), StoreError> {
    let mut store = Store::open(folder.path(), from).await?;
    let changed = store.change_secret(to).await;
    store.close().await?;
    changed
}

/// The wrapped key as it is in the file.
async fn wrapped(folder: &Path) -> Vec<u8> {
    let path = format!("sqlite://{}", folder.join(DATABASE_NAME).display());
    let mut connection = SqliteConnection::connect(&path).await.unwrap();
    let key = sqlx::query_scalar("SELECT value FROM header WHERE name = 'key'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    key
}

fn on_disk(folder: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|file| {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

/// Any piece of it would do for guessing the old passphrase. The new wrap may be shorter, and leave a rest of the old one beside it.
#[tokio::test]
async fn after_a_change_nothing_that_the_old_passphrase_opens_is_left() {
    let elsewhere = TempDir::new().unwrap();
    let file = Unlock::KeyFile {
        path: elsewhere.path().join("some.key"),
        create: true,
    };
    for new in [passphrase("new"), file] {
        let folder = TempDir::new().unwrap();
        create(&folder, &passphrase("old")).await.unwrap();
        let old = wrapped(folder.path()).await;
        let pieces: Vec<&[u8]> = old.windows(12).collect();
        assert!(pieces.iter().all(|piece| on_disk(folder.path(), piece)));
        let mut store = Store::open(folder.path(), &passphrase("old"))
            .await
            .unwrap();
        store.change_secret(&new).await.unwrap();
        // While the store is still open: its log counts too. What both have in common (the names of fields) stays.
        let files = TempDir::new().unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), files.path().join(file.file_name())).unwrap();
        }
        store.close().await.unwrap();
        let now = wrapped(folder.path()).await;
        let common = |piece: &[u8]| now.windows(12).any(|window| window == piece);
        let secret: Vec<_> = pieces.iter().filter(|piece| !common(piece)).collect();
        assert!(secret.len() > 100, "{} pieces", secret.len());
        for piece in secret {
            assert!(!on_disk(files.path(), piece) && !on_disk(folder.path(), piece));
        }
        let error = opens(&folder, &passphrase("old")).await.unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::WrongSecret | StoreError::SecretKind { .. }
            ),
            "{error:?}"
        );
        opens(&folder, &new).await.unwrap();
    }
}

#[tokio::test]
async fn an_unknown_version_in_the_clear_header_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    create(&folder, &passphrase("right")).await.unwrap();
    let path = format!("sqlite://{}", folder.path().join(DATABASE_NAME).display());
    let mut connection = SqliteConnection::connect(&path).await.unwrap();
    sqlx::query("PRAGMA user_version = 99")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let before = std::fs::read(folder.path().join(DATABASE_NAME)).unwrap();
    let error = opens(&folder, &passphrase("right")).await.unwrap_err();
    assert_eq!(error.code(), "store.unknown_schema");
    assert!(error.to_string().contains("update this program") && !error.is_retryable());
    let kind = Store::secret_kind(folder.path()).await.unwrap_err();
    assert_eq!(kind.code(), "store.unknown_schema");
    assert!(std::fs::read(folder.path().join(DATABASE_NAME)).unwrap() == before);
}

#[cfg(feature = "keyring")]
mod keyrings {
    use std::any::Any;
    use std::collections::HashMap;
    use std::sync::Arc;

    use conclave_client::store::{KEYRING_SERVICE, Keyring};
    use keyring_core::api::CredentialStoreApi;
    use keyring_core::{CredentialStore, Entry, mock};

    use super::*;

    fn keyring(store: &Arc<mock::Store>) -> Unlock {
        let store: Arc<CredentialStore> = store.clone();
        Unlock::Keyring(Keyring::from_store(store))
    }

    /// Entries that hold something.
    fn entries(store: &mock::Store) -> Vec<Vec<u8>> {
        let everything = HashMap::new();
        let found = store.search(&everything).unwrap();
        found
            .iter()
            .filter_map(|entry| entry.get_secret().ok())
            .collect()
    }

    #[tokio::test]
    async fn a_store_opens_with_its_keyring_and_no_other() {
        let folder = TempDir::new().unwrap();
        let keyrings = (mock::Store::new().unwrap(), mock::Store::new().unwrap());
        create(&folder, &keyring(&keyrings.0)).await.unwrap();
        opens(&folder, &keyring(&keyrings.0)).await.unwrap();
        let kind = Store::secret_kind(folder.path()).await.unwrap();
        assert_eq!(kind, SecretKind::Keyring);
        let kept = entries(&keyrings.0);
        assert!(kept.len() == 1 && kept[0].len() == 32);
        // What the keyring has is in no file, and the account names an entry of this store.
        assert!(!on_disk(folder.path(), &kept[0]));
        let entry = keyrings.0.search(&HashMap::new()).unwrap().remove(0);
        let (service, account) = entry.get_specifiers().unwrap();
        assert!(service == KEYRING_SERVICE && account.starts_with("store-"));

        let error = opens(&folder, &keyring(&keyrings.1)).await.unwrap_err();
        assert!(matches!(error, StoreError::KeyringEntry), "{error:?}");
        let error = opens(&folder, &passphrase("any")).await.unwrap_err();
        assert!(
            matches!(error, StoreError::SecretKind { wants } if wants.contains("keyring")),
            "{error:?}"
        );
        entry.set_secret(&[7; 32]).unwrap();
        let error = opens(&folder, &keyring(&keyrings.0)).await.unwrap_err();
        assert!(matches!(error, StoreError::WrongSecret), "{error:?}");
        entry.set_secret(&[7; 31]).unwrap();
        let error = opens(&folder, &keyring(&keyrings.0)).await.unwrap_err();
        assert!(matches!(error, StoreError::KeyringEntry), "{error:?}");
    }

    #[tokio::test]
    async fn a_store_moves_between_all_kinds_of_secrets() {
        let folder = TempDir::new().unwrap();
        let store = mock::Store::new().unwrap();
        let file = Unlock::KeyFile {
            path: folder.path().join("some.key"),
            create: true,
        };
        let kinds = [
            (passphrase("one"), 0),
            (keyring(&store), 1),
            (file.clone(), 0),
            (keyring(&store), 1),
            // To another entry of the same keyring.
            (keyring(&store), 1),
            (passphrase("two"), 0),
            (file, 0),
        ];
        create(&folder, &kinds[0].0).await.unwrap();
        for (step, pair) in kinds.windows(2).enumerate() {
            let ((from, _), (to, kept)) = (&pair[0], &pair[1]);
            let before = entries(&store);
            change(&folder, from, to).await.unwrap();
            opens(&folder, to).await.unwrap();
            // An entry that opens nothing any more is not left behind.
            let after = entries(&store);
            assert_eq!(after.len(), *kept, "step {step}");
            assert!(after.is_empty() || after != before, "step {step}");
            if !matches!((from, to), (Unlock::Keyring(_), Unlock::Keyring(_))) {
                let error = opens(&folder, from).await.unwrap_err();
                assert!(matches!(error, StoreError::SecretKind { .. }), "{error:?}");
            }
        }
    }

    /// A machine without a keyring, as far as the crate can tell.
    #[derive(Debug)]
    struct Nothing;

    impl CredentialStoreApi for Nothing {
        fn vendor(&self) -> String {
            "nobody".to_owned()
        }

        fn id(&self) -> String {
            "nothing".to_owned()
        }

        fn build(
            &self,
            _: &str,
            _: &str,
            _: Option<&HashMap<&str, &str>>,
        ) -> keyring_core::Result<Entry> {
            let why = std::io::Error::other("no such service");
            Err(keyring_core::Error::NoStorageAccess(Box::new(why)))
        }

        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    #[tokio::test]
    async fn without_a_keyring_the_error_names_what_to_use_instead() {
        let folder = TempDir::new().unwrap();
        let nothing = Unlock::Keyring(Keyring::from_store(Arc::new(Nothing)));
        let error = create(&folder, &nothing).await.unwrap_err();
        assert_eq!(error.code(), "store.keyring");
        let text = error.to_string();
        assert!(
            text.contains("use a passphrase or a key file") && text.contains("no such service"),
            "{text}"
        );
        // Nothing was begun: the folder is free for another try, and that store is not hurt by the next one.
        create(&folder, &passphrase("right")).await.unwrap();
        let error = change(&folder, &passphrase("right"), &nothing).await;
        assert!(
            matches!(error, Err(StoreError::Keyring { .. })),
            "{error:?}"
        );
        opens(&folder, &passphrase("right")).await.unwrap();
    }
}

#[cfg(not(feature = "keyring"))]
#[tokio::test]
async fn a_build_without_keyrings_says_so() {
    let folder = TempDir::new().unwrap();
    let unlock = Unlock::Keyring(conclave_client::store::Keyring::system());
    let error = create(&folder, &unlock).await.unwrap_err();
    assert!(matches!(error, StoreError::Keyring { .. }), "{error:?}");
    create(&folder, &passphrase("right")).await.unwrap();
    let kind = Store::secret_kind(folder.path()).await.unwrap();
    assert_eq!(kind, SecretKind::Passphrase);
}
