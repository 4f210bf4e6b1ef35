//! The files of a store in the hands of somebody who has no secret: pages, rows, and whole files changed, swapped, cut or put back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::{Path, PathBuf};

use conclave_client::store::{DATABASE_NAME, PassphraseCost, Store, StoreError, Unlock};
use conclave_engine::WriteBatch;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use zeroize::Zeroizing;

/// What a store holds.
type State = Vec<(String, String)>;

const PAGE_BYTES: usize = 4096;

fn unlock() -> Unlock {
    Unlock::Passphrase {
        passphrase: Zeroizing::new("right".to_owned()),
        cost: PassphraseCost::insecure_for_tests(),
    }
}

fn state(rows: &[(&str, &str)]) -> State {
    rows.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn batch(rows: &State) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for (key, value) in rows {
        let value = Zeroizing::new(value.clone().into_bytes());
        batch.put(key.clone().into_bytes(), value);
    }
    batch
}

async fn store_with(rows: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let store = Store::create(folder.path(), &unlock(), &batch(&state(rows)))
        .await
        .unwrap();
    store.close().await.unwrap();
    folder
}

async fn change(folder: &TempDir, rows: &[(&str, &str)]) {
    let mut store = Store::open(folder.path(), &unlock()).await.unwrap();
    store.apply(&[batch(&state(rows))]).await.unwrap();
    store.close().await.unwrap();
}

async fn read(folder: &Path) -> Result<State, StoreError> {
    let mut store = Store::open(folder, &unlock()).await?;
    let rows = store.read(&[]).await;
    // Closed in any case: the files are written to next.
    let closed = store.close().await;
    let rows = rows?;
    closed?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ok(rows
        .iter()
        .map(|(key, value)| (text(key), text(value)))
        .collect())
}

fn database(folder: &Path) -> PathBuf {
    folder.join(DATABASE_NAME)
}

fn log(folder: &Path) -> PathBuf {
    folder.join(format!("{DATABASE_NAME}-wal"))
}

/// As whoever has the files, with another store beside it under the name `other`.
async fn execute(folder: &TempDir, other: &TempDir, sql: &'static str) {
    let path = format!("sqlite://{}", database(folder.path()).display());
    let mut connection = SqliteConnection::connect(&path).await.unwrap();
    sqlx::query("ATTACH ? AS other")
        .bind(database(other.path()).display().to_string())
        .execute(&mut connection)
        .await
        .unwrap();
    let done = sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    assert!(done.rows_affected() > 0, "{sql} changed nothing");
    connection.close().await.unwrap();
}

fn copy(folder: &TempDir) -> TempDir {
    let copy = TempDir::new().unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// What the damage did: the rows are as they were, or an error says what is wrong. Never a panic, never other rows.
fn judge(found: Result<State, StoreError>, allowed: &[&State], what: &str) -> bool {
    match found {
        Ok(found) => {
            assert!(allowed.contains(&&found), "{what}: other rows");
            false
        }
        Err(error) => {
            assert!(
                !error.is_retryable() && !matches!(error, StoreError::WrongSecret),
                "{what}: {error:?}"
            );
            true
        }
    }
}

#[tokio::test]
async fn a_byte_flipped_in_any_page_is_noticed_or_harmless() {
    let long = "x".repeat(30_000);
    let mut rows: State = (0..200)
        .map(|at| (format!("row/{at:03}"), format!("value {at}")))
        .collect();
    rows.push(("row/long".to_owned(), long));
    let folder = TempDir::new().unwrap();
    let store = Store::create(folder.path(), &unlock(), &batch(&rows))
        .await
        .unwrap();
    store.close().await.unwrap();
    let good = std::fs::read(database(folder.path())).unwrap();
    assert!(good.len() >= 12 * PAGE_BYTES && good.len().is_multiple_of(PAGE_BYTES));
    for page in 0..good.len() / PAGE_BYTES {
        let mut noticed = 0;
        // The header of the page, its pointers, somewhere in the middle, and its end.
        for at in [0, 5, 9, 600, 2048, 3500, 4000, PAGE_BYTES - 1] {
            let mut bad = good.clone();
            bad[page * PAGE_BYTES + at] ^= 1 << (at % 8);
            std::fs::write(database(folder.path()), bad).unwrap();
            let what = format!("page {page}, byte {at}");
            noticed += u32::from(judge(read(folder.path()).await, &[&rows], &what));
            let _ = std::fs::remove_file(log(folder.path()));
        }
        assert!(noticed > 0, "nothing in page {page} was noticed");
    }
    std::fs::write(database(folder.path()), good).unwrap();
    assert_eq!(read(folder.path()).await.unwrap(), rows);
}

#[tokio::test]
async fn rows_that_were_put_back_removed_or_added_are_noticed() {
    let old = store_with(&[("a", "one"), ("b", "two"), ("gone", "x")]).await;
    let new = copy(&old);
    let mut store = Store::open(new.path(), &unlock()).await.unwrap();
    let mut second = batch(&state(&[("a", "ONE"), ("new", "y")]));
    second.delete(b"gone".to_vec());
    store.apply(&[second]).await.unwrap();
    store.close().await.unwrap();
    let now = state(&[("a", "ONE"), ("b", "two"), ("new", "y")]);
    assert_eq!(read(new.path()).await.unwrap(), now);
    for sql in [
        // An older version of one row.
        "UPDATE rows SET value = (SELECT value FROM other.rows AS o WHERE o.key = rows.key) WHERE key = CAST('a' AS BLOB)",
        // A row less, and a row that was deleted.
        "DELETE FROM rows WHERE key = CAST('b' AS BLOB)",
        "INSERT INTO rows SELECT * FROM other.rows WHERE key = CAST('gone' AS BLOB)",
        // The sum alone, or all but the sum.
        "UPDATE header SET value = (SELECT value FROM other.header WHERE name = 'sum') WHERE name = 'sum'",
        "DELETE FROM rows; INSERT INTO rows SELECT * FROM other.rows",
        "DELETE FROM rows",
        // No sum at all: the version of the header says that there has to be one.
        "DELETE FROM header WHERE name = 'sum'",
    ] {
        let folder = copy(&new);
        execute(&folder, &old, sql).await;
        let error = read(folder.path()).await.unwrap_err();
        assert!(matches!(error, StoreError::RowsChanged), "{sql}: {error:?}");
        assert!(error.code() == "store.rows_changed" && !error.is_retryable());
    }
}

/// What no store can notice by itself, and the documentation says so: the engine finds it when it compares its clocks with the service's.
#[tokio::test]
async fn a_whole_older_copy_opens() {
    let folder = store_with(&[("a", "one")]).await;
    let old = copy(&folder);
    change(&folder, &[("a", "two"), ("b", "x")]).await;
    std::fs::copy(database(old.path()), database(folder.path())).unwrap();
    assert_eq!(read(folder.path()).await.unwrap(), state(&[("a", "one")]));
}

#[tokio::test]
async fn rows_of_another_store_do_not_open() {
    let other = store_with(&[("a", "theirs"), ("b", "two")]).await;
    // The same secret, the same row, another store.
    for (sql, code) in [
        (
            "UPDATE rows SET value = (SELECT value FROM other.rows AS o WHERE o.key = rows.key) WHERE key = CAST('a' AS BLOB)",
            "store.rows_changed",
        ),
        (
            "DELETE FROM rows; INSERT INTO rows SELECT * FROM other.rows; UPDATE header SET value = (SELECT value FROM other.header WHERE name = 'sum') WHERE name = 'sum'",
            "store.damaged",
        ),
        // Their wrapped key opens with the same secret, and then nothing fits.
        (
            "UPDATE header SET value = (SELECT value FROM other.header WHERE name = 'key') WHERE name = 'key'",
            "store.damaged",
        ),
    ] {
        let folder = store_with(&[("a", "ours"), ("b", "two")]).await;
        execute(&folder, &other, sql).await;
        let error = read(folder.path()).await.unwrap_err();
        assert_eq!(error.code(), code, "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn values_moved_between_the_tables_do_not_open() {
    let other = store_with(&[]).await;
    for (sql, code) in [
        (
            "UPDATE header SET value = (SELECT value FROM rows LIMIT 1) WHERE name = 'key'",
            "store.damaged",
        ),
        (
            "UPDATE header SET value = (SELECT value FROM rows LIMIT 1) WHERE name = 'sum'",
            "store.damaged",
        ),
        (
            "UPDATE header SET value = (SELECT value FROM header AS h WHERE h.name != header.name)",
            "store.damaged",
        ),
        (
            "UPDATE rows SET value = (SELECT value FROM header WHERE name = 'sum')",
            "store.rows_changed",
        ),
        ("DELETE FROM header WHERE name = 'key'", "store.damaged"),
    ] {
        let folder = store_with(&[("a", "one"), ("b", "two")]).await;
        execute(&folder, &other, sql).await;
        let error = read(folder.path()).await.unwrap_err();
        assert_eq!(error.code(), code, "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn a_database_that_was_cut_is_noticed() {
    let rows: State = (0..200)
        .map(|at| (format!("row/{at:03}"), format!("value {at}")))
        .collect();
    let folder = TempDir::new().unwrap();
    let store = Store::create(folder.path(), &unlock(), &batch(&rows))
        .await
        .unwrap();
    store.close().await.unwrap();
    let good = std::fs::read(database(folder.path())).unwrap();
    for cut in (0..good.len()).step_by(PAGE_BYTES / 2) {
        std::fs::write(database(folder.path()), &good[..cut]).unwrap();
        let what = format!("cut at {cut}");
        assert!(judge(read(folder.path()).await, &[], &what), "{what}");
        let _ = std::fs::remove_file(log(folder.path()));
    }
}

/// A log that is taken away, cut, or damaged is what a crash leaves too: some state that was durable once comes back, whole, or an error.
#[tokio::test]
async fn whatever_happens_to_the_log_a_state_comes_back_whole() {
    let states = [
        state(&[("a", "1"), ("b", "1")]),
        state(&[("a", "2"), ("b", "1"), ("c", "2")]),
        state(&[("a", "3"), ("b", "3"), ("c", "2")]),
    ];
    let folder = TempDir::new().unwrap();
    let mut store = Store::create(folder.path(), &unlock(), &batch(&states[0]))
        .await
        .unwrap();
    store.apply(&[batch(&state(&[("z", "0")]))]).await.unwrap();
    let mut change = WriteBatch::default();
    change.delete(b"z".to_vec());
    store.apply(&[change]).await.unwrap();
    store.scrub().await.unwrap();
    for now in &states[1..] {
        store.apply(&[batch(now)]).await.unwrap();
    }
    // As after loss of power: the store is still open.
    let crashed = copy(&folder);
    store.close().await.unwrap();
    let files = (
        std::fs::read(database(crashed.path())).unwrap(),
        std::fs::read(log(crashed.path())).unwrap(),
    );
    let allowed: Vec<&State> = states.iter().collect();
    let restore = |wal: &[u8]| {
        std::fs::write(database(crashed.path()), &files.0).unwrap();
        std::fs::write(log(crashed.path()), wal).unwrap();
    };
    assert!(files.1.len() > 4 * PAGE_BYTES);
    let mut seen = [false; 3];
    for cut in (0..=files.1.len()).step_by(824) {
        restore(&files.1[..cut]);
        let found = read(crashed.path()).await.unwrap();
        let at = states.iter().position(|state| *state == found);
        seen[at.unwrap_or_else(|| panic!("cut at {cut}: {found:?}"))] = true;
    }
    restore(&files.1);
    assert_eq!(read(crashed.path()).await.unwrap(), states[2]);
    seen[2] = true;
    assert_eq!(seen, [true; 3]);
    for at in (0..files.1.len()).step_by(331) {
        let mut bad = files.1.clone();
        bad[at] ^= 0x20;
        restore(&bad);
        let _ = judge(read(crashed.path()).await, &allowed, &format!("byte {at}"));
    }
    std::fs::write(database(crashed.path()), &files.0).unwrap();
    let _ = std::fs::remove_file(log(crashed.path()));
    assert_eq!(read(crashed.path()).await.unwrap(), states[0]);
}
