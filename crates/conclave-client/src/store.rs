//! The encrypted store of one device: a SQLite database of opaque rows, opened by one process at a time.
//!
//! It promises that what [`Store::apply`] was given is on disk when it returns, all of it or nothing; that values are sealed (see
//! [`PassphraseCost`] and [`FORMAT_VERSION`]); that a damaged, moved or unknown value is an error, never a wrong value; and that what is
//! deleted or replaced is overwritten in the database and gone from its write-ahead log after [`Store::scrub`].
//!
//! **Visible without the key:** the keys of rows (they hold kinds and random ids, no names and no content), how many rows there are, how
//! long their values are, and when the file changed. Row keys stay readable because rows are read by prefix. **Not noticed:** a row that
//! was deleted by somebody else, and a whole folder that was put back from a copy; the engine finds the latter when it compares its
//! clocks with the service's.

mod error;
mod files;
mod schema;
mod secret;

use std::fs::File;
use std::path::{Path, PathBuf};

use conclave_engine::{Row, WriteBatch};
use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row as _, SqliteConnection};

pub use error::StoreError;
pub use files::{KEY_FILE_NAME, Unlock};
pub use secret::{FORMAT_VERSION, KEY_FILE_BYTES, PassphraseCost, SEAL_OVERHEAD_BYTES};

use secret::StoreKey;

/// Name of the database in the store's folder.
pub const DATABASE_NAME: &str = "store.db";
/// Databases up to this size are checked for structural damage when they are opened.
const CHECKED_AT_OPEN_BYTES: u64 = 64 * 1024 * 1024;
/// Rows that one statement stores.
const ROWS_PER_STATEMENT: usize = 16;

/// An open store. The lock on its folder is held until this is dropped.
pub struct Store {
    connection: SqliteConnection,
    key: StoreKey,
    put_many: String,
    unscrubbed: bool,
    // Dropped last: nobody else may open the database while the connection lives.
    _lock: File,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store(..)")
    }
}

impl Store {
    /// Creates a store with its first rows, in one transaction. A folder in which this was interrupted counts as empty.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::InUse`], or what the key file, the disk or the database refused.
    pub async fn create(
        folder: &Path,
        unlock: &Unlock,
        first: &WriteBatch,
    ) -> Result<Self, StoreError> {
        files::create_folder(folder)?;
        let lock = files::lock(folder)?;
        let path = folder.join(DATABASE_NAME);
        let mut connection = connect(&path, true).await?;
        if schema::migrate(&mut connection, &path, true)
            .await?
            .is_some()
        {
            return Err(StoreError::Exists {
                path: folder.to_owned(),
            });
        }
        let key = StoreKey::generate()?;
        let header = key.wrap(&unlock.secret(true)?)?;
        let mut store = Self::assemble(connection, key, lock);
        let mut transaction = store.connection.begin_with("BEGIN IMMEDIATE").await?;
        schema::put_key(&mut transaction, &header).await?;
        write(&mut transaction, &store.key, &store.put_many, first).await?;
        transaction.commit().await?;
        files::sync_folder(folder)?;
        Ok(store)
    }

    /// Opens a store.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::InUse`], [`StoreError::WrongSecret`], [`StoreError::UnknownSchema`], damage, or what the
    /// disk refused.
    pub async fn open(folder: &Path, unlock: &Unlock) -> Result<Self, StoreError> {
        let path = folder.join(DATABASE_NAME);
        let missing = || StoreError::Missing {
            path: folder.to_owned(),
        };
        if !path.is_file() {
            return Err(missing());
        }
        files::restrict_folder(folder)?;
        let lock = files::lock(folder)?;
        let mut connection = connect(&path, false).await?;
        let header = schema::migrate(&mut connection, &path, false)
            .await?
            .ok_or_else(missing)?;
        check_structure(&mut connection).await?;
        let key = StoreKey::unwrap(&header, &unlock.secret(false)?)?;
        Ok(Self::assemble(connection, key, lock))
    }

    fn assemble(connection: SqliteConnection, key: StoreKey, lock: File) -> Self {
        let values = vec!["(?,?)"; ROWS_PER_STATEMENT].join(",");
        let put_many = format!("INSERT OR REPLACE INTO rows (key, value) VALUES {values}");
        Self {
            connection,
            key,
            put_many,
            unscrubbed: false,
            _lock: lock,
        }
    }

    /// All rows whose key begins with `prefix`, sorted by key, opened.
    ///
    /// # Errors
    /// [`StoreError::RowDamaged`] or [`StoreError::UnknownFormat`] for a value that does not open; what the database refused.
    pub async fn read(&mut self, prefix: &[u8]) -> Result<Vec<Row>, StoreError> {
        let (sql, end) = match end_of_prefix(prefix) {
            Some(end) => (
                "SELECT key, value FROM rows WHERE key >= ? AND key < ? ORDER BY key",
                Some(end),
            ),
            None => (
                "SELECT key, value FROM rows WHERE key >= ? ORDER BY key",
                None,
            ),
        };
        let mut query = sqlx::query(sql).bind(prefix);
        if let Some(end) = &end {
            query = query.bind(end.as_slice());
        }
        let mut found = query.fetch(&mut self.connection);
        let mut rows = Vec::new();
        while let Some(row) = found.try_next().await? {
            let key: Vec<u8> = row.try_get(0)?;
            let value = self.key.open(&key, row.try_get(1)?)?;
            rows.push((key, value));
        }
        Ok(rows)
    }

    /// Makes batches durable: one after the other, in one transaction. Within a batch prefixes go first, then single rows, then rows are
    /// stored. When this returns an error nothing of it was stored.
    ///
    /// # Errors
    /// What the database or the disk refused.
    pub async fn apply(&mut self, batches: &[WriteBatch]) -> Result<(), StoreError> {
        if batches.iter().all(WriteBatch::is_empty) {
            return Ok(());
        }
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        for batch in batches {
            write(&mut transaction, &self.key, &self.put_many, batch).await?;
        }
        transaction.commit().await?;
        self.unscrubbed = true;
        Ok(())
    }

    /// Seals the store key under another passphrase or key file. The store key itself stays, so nothing is encrypted again.
    ///
    /// # Errors
    /// What the key file, the disk or the database refused; the old secret then still opens the store.
    pub async fn change_secret(&mut self, unlock: &Unlock) -> Result<(), StoreError> {
        let header = self.key.wrap(&unlock.secret(true)?)?;
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        schema::put_key(&mut transaction, &header).await?;
        transaction.commit().await?;
        self.unscrubbed = true;
        self.scrub().await
    }

    /// Whether there is anything for [`Store::scrub`] to do.
    #[must_use]
    pub fn needs_scrub(&self) -> bool {
        self.unscrubbed
    }

    /// Moves the write-ahead log into the database and cuts it to nothing, so that replaced and deleted values are gone from both.
    ///
    /// # Errors
    /// What the database or the disk refused.
    pub async fn scrub(&mut self) -> Result<(), StoreError> {
        if self.unscrubbed {
            sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
                .execute(&mut self.connection)
                .await?;
            self.unscrubbed = false;
        }
        Ok(())
    }

    /// Scrubs and closes.
    ///
    /// # Errors
    /// What the database or the disk refused. Everything applied is durable all the same.
    pub async fn close(mut self) -> Result<(), StoreError> {
        self.scrub().await?;
        self.connection.close().await?;
        Ok(())
    }
}

#[cfg(test)]
impl Store {
    /// From here on every transaction fails.
    pub(crate) async fn refuse_writes(&mut self) {
        sqlx::query("PRAGMA query_only = 1")
            .execute(&mut self.connection)
            .await
            .unwrap();
    }
}

/// WAL with FULL: a transaction is on disk when its commit returns. EXCLUSIVE: no shared-memory file, and another program that ignores the
/// lock file is kept out.
async fn connect(path: &Path, create: bool) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(create)
        .locking_mode(SqliteLockingMode::Exclusive)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("secure_delete", "ON")
        .pragma("cell_size_check", "ON")
        .pragma("trusted_schema", "OFF")
        .thread_name(|_| "conclave-store".to_owned())
        .disable_statement_logging();
    match options.connect().await.map_err(StoreError::from) {
        Err(StoreError::Damaged {
            what: "database header",
        }) => Err(StoreError::NotAStore {
            path: PathBuf::from(path),
        }),
        other => other,
    }
}

/// A flipped bit in a page can make rows vanish without an error. Each key is stored twice, in the table and in its index, and this compares
/// the two; the quick check does not. Large databases are left to SQLite's checks on use.
async fn check_structure(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let size: i64 = sqlx::query_scalar(
        "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
    )
    .fetch_one(&mut *connection)
    .await?;
    if u64::try_from(size).unwrap_or(u64::MAX) > CHECKED_AT_OPEN_BYTES {
        return Ok(());
    }
    let verdict: String = sqlx::query_scalar("PRAGMA integrity_check(1)")
        .fetch_one(connection)
        .await?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(StoreError::Damaged { what: "database" })
    }
}

async fn write(
    connection: &mut SqliteConnection,
    key: &StoreKey,
    put_many: &str,
    batch: &WriteBatch,
) -> Result<(), StoreError> {
    for prefix in &batch.delete_prefixes {
        let query = match end_of_prefix(prefix) {
            Some(end) => sqlx::query("DELETE FROM rows WHERE key >= ? AND key < ?")
                .bind(prefix.as_slice())
                .bind(end),
            None => sqlx::query("DELETE FROM rows WHERE key >= ?").bind(prefix.as_slice()),
        };
        query.execute(&mut *connection).await?;
    }
    for row in &batch.deletes {
        sqlx::query("DELETE FROM rows WHERE key = ?")
            .bind(row.as_slice())
            .execute(&mut *connection)
            .await?;
    }
    let nonces = secret::nonces(batch.puts.len())?;
    let sealed =
        |((row, value), nonce): (&Row, &[u8; 24])| -> Result<(Vec<u8>, Vec<u8>), StoreError> {
            Ok((row.clone(), key.seal(row, nonce, value)?))
        };
    let mut left = batch.puts.iter().zip(&nonces).peekable();
    while left.peek().is_some() {
        let rows: Vec<_> = left
            .by_ref()
            .take(ROWS_PER_STATEMENT)
            .map(sealed)
            .collect::<Result<_, _>>()?;
        if rows.len() == ROWS_PER_STATEMENT {
            let mut query = sqlx::query(AssertSqlSafe(put_many.to_owned()));
            for (row, value) in rows {
                query = query.bind(row).bind(value);
            }
            query.execute(&mut *connection).await?;
        } else {
            for (row, value) in rows {
                sqlx::query("INSERT OR REPLACE INTO rows (key, value) VALUES (?,?)")
                    .bind(row)
                    .bind(value)
                    .execute(&mut *connection)
                    .await?;
            }
        }
    }
    Ok(())
}

/// The first key after all that begin with `prefix`; none when there is no such key.
fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix.get(..=kept)?.to_vec();
    let last = end.last_mut()?;
    *last += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: u32, value: u8) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for at in 0..count {
            batch.puts.push((
                at.to_be_bytes().to_vec(),
                zeroize::Zeroizing::new(vec![value; 1000]),
            ));
        }
        batch
    }

    /// The disk runs full in the middle of the second batch: nothing of either is there, and the store works when there is room again.
    #[tokio::test]
    async fn a_transaction_that_fails_half_way_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cost = PassphraseCost::insecure_for_tests();
        let unlock = Unlock::Passphrase {
            passphrase: zeroize::Zeroizing::new("right".into()),
            cost,
        };
        let mut store = Store::create(folder.path(), &unlock, &rows(1, 1))
            .await
            .unwrap();
        let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
            .fetch_one(&mut store.connection)
            .await
            .unwrap();
        let limit = format!("PRAGMA max_page_count = {}", pages + 50);
        sqlx::query(AssertSqlSafe(limit))
            .execute(&mut store.connection)
            .await
            .unwrap();
        let batches = [rows(10, 2), rows(1000, 3)];
        let error = store.apply(&batches).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Full) && error.is_retryable(),
            "{error:?}"
        );
        let found = store.read(&[]).await.unwrap();
        assert!(found.len() == 1 && found[0].1.as_slice() == [1; 1000]);
        sqlx::query("PRAGMA max_page_count = 1000000")
            .execute(&mut store.connection)
            .await
            .unwrap();
        store.apply(&batches).await.unwrap();
        let found = store.read(&[]).await.unwrap();
        assert!(
            found.len() == 1000 && found.iter().all(|(_, value)| value.as_slice() == [3; 1000])
        );
    }

    /// What makes "durable, then sent" true, and what erases.
    #[tokio::test]
    async fn the_database_runs_in_the_promised_mode() {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = connect(&folder.path().join(DATABASE_NAME), true)
            .await
            .unwrap();
        for (pragma, wanted) in [
            ("synchronous", 2i64),
            ("secure_delete", 1),
            ("foreign_keys", 1),
        ] {
            let sql = AssertSqlSafe(format!("PRAGMA {pragma}"));
            let found: i64 = sqlx::query_scalar(sql)
                .fetch_one(&mut connection)
                .await
                .unwrap();
            assert_eq!(found, wanted, "{pragma}");
        }
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(mode, "wal");
        let locking: String = sqlx::query_scalar("PRAGMA locking_mode")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(locking, "exclusive");
    }

    #[test]
    fn prefixes_end_where_they_should() {
        assert_eq!(end_of_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(end_of_prefix(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(end_of_prefix(&[0xff]), None);
        assert_eq!(end_of_prefix(&[]), None);
    }
}
