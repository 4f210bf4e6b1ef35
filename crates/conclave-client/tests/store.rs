//! The store at rest: what a thief, a failing disk and a second process meet.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::{Path, PathBuf};

use conclave_client::store::{
    DATABASE_NAME, KEY_FILE_NAME, PassphraseCost, SEAL_OVERHEAD_BYTES, Store, StoreError, Unlock,
};
use conclave_engine::WriteBatch;
use sqlx::{Connection, Row as _, SqliteConnection};
use zeroize::Zeroizing;

fn passphrase(text: &str) -> Unlock {
    Unlock::Passphrase {
        passphrase: Zeroizing::new(text.to_owned()),
        cost: PassphraseCost::insecure_for_tests(),
    }
}

fn key_file(path: &Path, create: bool) -> Unlock {
    Unlock::KeyFile {
        path: path.to_owned(),
        create,
    }
}

fn batch(rows: &[(&str, &str)]) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for (key, value) in rows {
        batch.put(
            key.as_bytes().to_vec(),
            Zeroizing::new(value.as_bytes().to_vec()),
        );
    }
    batch
}

async fn texts(store: &mut Store, prefix: &str) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let rows = store.read(prefix.as_bytes()).await.unwrap();
    rows.iter()
        .map(|(key, value)| (text(key), text(value)))
        .collect()
}

fn pairs(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn database(folder: &Path) -> PathBuf {
    folder.join(DATABASE_NAME)
}

/// The closed database, as whoever has the file sees it.
async fn raw(folder: &Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", database(folder).display()))
        .await
        .unwrap()
}

async fn execute(folder: &Path, sql: &'static str) {
    let mut connection = raw(folder).await;
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn created(folder: &Path, rows: &[(&str, &str)]) {
    let store = Store::create(folder, &passphrase("right"), &batch(rows))
        .await
        .unwrap();
    store.close().await.unwrap();
}

async fn opened(folder: &Path) -> Result<Store, StoreError> {
    Store::open(folder, &passphrase("right")).await
}

#[tokio::test]
async fn rows_come_back_sorted_and_by_prefix() {
    let folder = tempfile::tempdir().unwrap();
    created(
        folder.path(),
        &[("b/2", "two"), ("a/1", "one"), ("b/1", ""), ("c", "last")],
    )
    .await;
    let mut store = opened(folder.path()).await.unwrap();
    assert_eq!(
        texts(&mut store, "b/").await,
        pairs(&[("b/1", ""), ("b/2", "two")])
    );
    assert_eq!(texts(&mut store, "").await.len(), 4);
    assert_eq!(texts(&mut store, "d").await, vec![]);
    store.close().await.unwrap();
}

#[tokio::test]
async fn batches_apply_in_order_and_fields_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let first = batch(&[("a/1", "1"), ("a/2", "2"), ("b", "3")]);
    let mut store = Store::create(folder.path(), &passphrase("right"), &first)
        .await
        .unwrap();
    // Prefixes go before rows are stored, within a batch; a later batch sees what an earlier one left.
    let mut clear = WriteBatch::default();
    clear.delete_prefixes.push(b"a/".to_vec());
    clear.deletes.insert(b"b".to_vec());
    clear
        .puts
        .insert(b"a/9".to_vec(), Zeroizing::new(b"new".to_vec()));
    let mut last = batch(&[("b", "again")]);
    last.deletes.insert(b"a/9".to_vec());
    store.apply(&[clear.clone(), last]).await.unwrap();
    assert_eq!(texts(&mut store, "").await, pairs(&[("b", "again")]));
    store
        .apply(&[batch(&[("a/9", "old")]), clear])
        .await
        .unwrap();
    assert_eq!(texts(&mut store, "").await, pairs(&[("a/9", "new")]));
}

#[tokio::test]
async fn large_batches_and_values_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    created(folder.path(), &[]).await;
    let mut many = WriteBatch::default();
    for at in 0..1000u32 {
        many.put(
            at.to_be_bytes().to_vec(),
            Zeroizing::new(vec![at as u8; 10]),
        );
    }
    many.put(b"large".to_vec(), Zeroizing::new(vec![7; 9_000_000]));
    let mut store = opened(folder.path()).await.unwrap();
    store.apply(std::slice::from_ref(&many)).await.unwrap();
    // No close: the log alone must do.
    drop(store);
    let mut store = opened(folder.path()).await.unwrap();
    let expected: Vec<_> = many.puts.into_iter().collect();
    assert!(store.read(&[]).await.unwrap() == expected);
}

#[tokio::test]
async fn nothing_readable_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "the minutes of the board meeting";
    created(folder.path(), &[("row", secret)]).await;
    let mut store = opened(folder.path()).await.unwrap();
    store.apply(&[batch(&[("other", secret)])]).await.unwrap();
    let found = |needle: &[u8]| {
        std::fs::read_dir(folder.path()).unwrap().any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            bytes.windows(needle.len()).any(|window| window == needle)
        })
    };
    assert!(!found(secret.as_bytes()));
    assert!(!found(b"right"));
    // The check would see it: row keys are in the clear.
    assert!(found(b"other"));
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_was_replaced_or_deleted_leaves_the_files_when_scrubbed() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::create(
        folder.path(),
        &passphrase("right"),
        &batch(&[("keep", "1")]),
    )
    .await
    .unwrap();
    store
        .apply(&[batch(&[("gone", "x"), ("changed", "y")])])
        .await
        .unwrap();
    store.scrub().await.unwrap();
    store.close().await.unwrap();
    let mut connection = raw(folder.path()).await;
    let rows = sqlx::query("SELECT value FROM rows WHERE key != CAST('keep' AS BLOB)")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let sealed: Vec<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect();
    connection.close().await.unwrap();
    let on_disk = |needle: &[u8]| {
        std::fs::read_dir(folder.path()).unwrap().any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            bytes.windows(needle.len()).any(|window| window == needle)
        })
    };
    assert!(sealed.len() == 2 && sealed.iter().all(|value| on_disk(value)));
    let mut store = opened(folder.path()).await.unwrap();
    let mut change = batch(&[("changed", "z")]);
    change.delete(b"gone".to_vec());
    store.apply(&[change]).await.unwrap();
    assert!(store.needs_scrub());
    store.scrub().await.unwrap();
    assert!(!store.needs_scrub());
    assert!(!sealed.iter().any(|value| on_disk(value)));
}

#[tokio::test]
async fn a_wrong_passphrase_is_told_from_damage() {
    let folder = tempfile::tempdir().unwrap();
    created(folder.path(), &[("row", "value")]).await;
    let wrong = Store::open(folder.path(), &passphrase("wrong")).await;
    assert!(matches!(wrong, Err(StoreError::WrongSecret)), "{wrong:?}");
    let other_kind =
        Store::open(folder.path(), &key_file(&folder.path().join("none"), false)).await;
    assert!(
        matches!(other_kind, Err(StoreError::File { .. })),
        "{other_kind:?}"
    );
    execute(folder.path(), "UPDATE header SET value = CAST(substr(value, 1, 40) || X'00' || substr(value, 42) AS BLOB)").await;
    let damaged = opened(folder.path()).await;
    assert!(
        matches!(damaged, Err(StoreError::Damaged { .. })),
        "{damaged:?}"
    );
}

#[tokio::test]
async fn swapped_rows_do_not_open() {
    let folder = tempfile::tempdir().unwrap();
    created(folder.path(), &[("a", "one"), ("b", "two")]).await;
    execute(
        folder.path(),
        "CREATE TEMP TABLE old AS SELECT * FROM rows;
         UPDATE rows SET value = (SELECT value FROM old WHERE old.key != rows.key)",
    )
    .await;
    let error = opened(folder.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::RowsChanged), "{error:?}");
    assert_eq!(error.code(), "store.rows_changed");
}

/// The nonce is that of the row, so the sum over all rows holds: the seal of the row itself does not.
#[tokio::test]
async fn a_changed_value_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    created(folder.path(), &[("a", "one"), ("b", "two")]).await;
    execute(
        folder.path(),
        "UPDATE rows SET value = CAST(substr(value, 1, 25) || (SELECT substr(other.value, 26) FROM rows AS other WHERE other.key != rows.key) AS BLOB) WHERE key = CAST('a' AS BLOB)",
    )
    .await;
    let mut store = opened(folder.path()).await.unwrap();
    let error = store.read(b"").await.unwrap_err();
    assert!(matches!(error, StoreError::RowDamaged { .. }), "{error:?}");
    assert_eq!(error.code(), "store.row_damaged");
    assert_eq!(texts(&mut store, "b").await, pairs(&[("b", "two")]));
}

#[tokio::test]
async fn a_value_of_a_later_format_is_refused_as_such() {
    let folder = tempfile::tempdir().unwrap();
    created(folder.path(), &[("a", "one")]).await;
    execute(
        folder.path(),
        "UPDATE rows SET value = CAST(X'07' || substr(value, 2) AS BLOB)",
    )
    .await;
    let mut store = opened(folder.path()).await.unwrap();
    assert!(matches!(
        store.read(b"").await,
        Err(StoreError::UnknownFormat { found: 7 })
    ));
}

#[tokio::test]
async fn a_schema_of_a_later_program_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    created(folder.path(), &[("a", "one")]).await;
    execute(folder.path(), "PRAGMA user_version = 99").await;
    let before = std::fs::read(database(folder.path())).unwrap();
    let error = opened(folder.path()).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::UnknownSchema {
                found: 99,
                known: 6
            }
        ),
        "{error:?}"
    );
    assert_eq!(std::fs::read(database(folder.path())).unwrap(), before);
    execute(
        folder.path(),
        "PRAGMA user_version = 1; PRAGMA application_id = 5",
    )
    .await;
    assert!(matches!(
        opened(folder.path()).await,
        Err(StoreError::NotAStore { .. })
    ));
}

/// What programs of former schemas wrote is not read as if it were of the present one.
#[tokio::test]
async fn stores_of_former_schemas_are_refused_and_left_alone() {
    for (former, pragma) in [
        (1, "PRAGMA user_version = 1"),
        (2, "PRAGMA user_version = 2"),
        (3, "PRAGMA user_version = 3"),
        (4, "PRAGMA user_version = 4"),
        (5, "PRAGMA user_version = 5"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        created(folder.path(), &[("a", "one")]).await;
        execute(folder.path(), pragma).await;
        let before = std::fs::read(database(folder.path())).unwrap();
        let errors = [
            opened(folder.path()).await.unwrap_err(),
            Store::create(folder.path(), &passphrase("right"), &batch(&[]))
                .await
                .unwrap_err(),
        ];
        for error in errors {
            let is_old = matches!(
                error,
                StoreError::OldSchema { found, known: 6 } if found == former
            );
            assert!(is_old, "{error:?}");
            assert_eq!(error.code(), "store.old_schema");
        }
        assert_eq!(std::fs::read(database(folder.path())).unwrap(), before);
    }
}

/// Each byte in turn: either the rows come back as they were, or a typed error says that something is wrong. Never other rows, never fewer.
#[tokio::test]
async fn no_flipped_byte_goes_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<(String, String)> = (0..40)
        .map(|at| (format!("row/{at:02}"), format!("value {at}")))
        .collect();
    let borrowed: Vec<(&str, &str)> = rows
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    created(folder.path(), &borrowed).await;
    let path = database(folder.path());
    let good = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x11;
        std::fs::write(&path, &bad).unwrap();
        let result = match opened(folder.path()).await {
            Ok(mut store) => store.read(b"row/").await,
            Err(error) => Err(error),
        };
        match result {
            Ok(found) => {
                let found: Vec<_> = found
                    .iter()
                    .map(|(key, value)| {
                        (
                            String::from_utf8(key.clone()).unwrap(),
                            String::from_utf8(value.to_vec()).unwrap(),
                        )
                    })
                    .collect();
                assert_eq!(found, rows, "byte {at}");
            }
            Err(_) => refused += 1,
        }
        let _ = std::fs::remove_file(folder.path().join("store.db-wal"));
        let _ = std::fs::remove_file(folder.path().join("store.db-journal"));
    }
    assert!(refused > 100, "only {refused} were noticed");
}

#[tokio::test]
async fn something_else_in_place_of_the_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        opened(folder.path()).await,
        Err(StoreError::Missing { .. })
    ));
    std::fs::write(
        database(folder.path()),
        "not a database, but long enough to be taken for one".repeat(50),
    )
    .unwrap();
    let error = opened(folder.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error:?}");
    std::fs::write(database(folder.path()), "").unwrap();
    assert!(matches!(
        opened(folder.path()).await,
        Err(StoreError::Missing { .. })
    ));
}

#[tokio::test]
async fn a_second_opener_is_told_and_gets_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path(), &passphrase("right"), &batch(&[]))
        .await
        .unwrap();
    let error = opened(folder.path()).await.unwrap_err();
    assert!(
        matches!(error, StoreError::InUse { .. }) && error.is_retryable(),
        "{error:?}"
    );
    let again = Store::create(folder.path(), &passphrase("right"), &batch(&[])).await;
    assert!(matches!(again, Err(StoreError::InUse { .. })));
    drop(store);
    let again = Store::create(folder.path(), &passphrase("right"), &batch(&[])).await;
    assert!(matches!(again, Err(StoreError::Exists { .. })));
    opened(folder.path()).await.unwrap();
}

#[tokio::test]
async fn the_secret_can_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.key");
    created(folder.path(), &[("a", "one")]).await;
    let mut store = opened(folder.path()).await.unwrap();
    store.change_secret(&key_file(&path, true)).await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(
        opened(folder.path()).await,
        Err(StoreError::SecretKind { .. })
    ));
    let mut store = Store::open(folder.path(), &key_file(&path, false))
        .await
        .unwrap();
    assert_eq!(texts(&mut store, "").await, pairs(&[("a", "one")]));
    // A change that fails leaves the old secret.
    assert!(
        store
            .change_secret(&key_file(&folder.path().join("absent"), false))
            .await
            .is_err()
    );
    store.close().await.unwrap();
    Store::open(folder.path(), &key_file(&path, false))
        .await
        .unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("deep/store");
    let key = folder.join(KEY_FILE_NAME);
    let store = Store::create(&folder, &key_file(&key, true), &batch(&[("a", "one")]))
        .await
        .unwrap();
    store.close().await.unwrap();
    assert_eq!((mode(&folder), mode(&key)), (0o700, 0o600));
    assert_eq!(std::fs::metadata(&key).unwrap().len(), 32);

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let open = Store::open(&folder, &key_file(&key, true)).await;
    assert!(
        matches!(open, Err(StoreError::Permissions { .. })),
        "{open:?}"
    );
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();

    std::fs::write(&key, [1; 31]).unwrap();
    assert!(matches!(
        Store::open(&folder, &key_file(&key, true)).await,
        Err(StoreError::KeyFile { .. })
    ));
    std::fs::remove_file(&key).unwrap();
    // A lost key file is not silently replaced by another one.
    assert!(matches!(
        Store::open(&folder, &key_file(&key, true)).await,
        Err(StoreError::File { .. })
    ));
    assert!(!key.exists());
}

#[tokio::test]
async fn sizes_are_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    created(folder.path(), &[("a", "12345")]).await;
    let mut connection = raw(folder.path()).await;
    let length: i64 = sqlx::query_scalar("SELECT length(value) FROM rows")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(length as usize, 5 + SEAL_OVERHEAD_BYTES);
}

#[test]
fn debug_prints_no_secret() {
    let text = format!("{:?}", Unlock::passphrase("hunter2"));
    assert!(!text.contains("hunter2"), "{text}");
}
