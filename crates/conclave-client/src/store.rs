//! The encrypted store of one device: a SQLite database of opaque rows, opened by one process at a time.
//!
//! It promises that what [`Store::apply`] was given is on disk when it returns, all of it or nothing; that values are sealed (see
//! [`PassphraseCost`] and [`FORMAT_VERSION`]); that a damaged, moved or unknown value is an error, never a wrong value; that a row which
//! somebody else deleted, added or put back in an older version is noticed when the store is opened; and that what is deleted or replaced
//! is overwritten in the database and gone from its write-ahead log after [`Store::scrub`].
//!
//! **Visible without the key:** the keys of rows (they hold kinds and random ids, no names and no content), how many rows there are, how
//! long their values are, and when the file changed. Row keys stay readable because rows are read by prefix. **Not noticed:** a whole
//! database that was put back from a copy, which includes a write-ahead log that was taken away or cut before it was folded in; the engine
//! finds that when it compares its clocks with the service's.

mod error;
mod files;
mod keyring;
mod rows;
mod rowsum;
mod schema;
pub(crate) mod secret;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};

use conclave_engine::shell::Rows;
use conclave_engine::{Row, WriteBatch};
use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row as _, SqliteConnection};

pub use error::StoreError;
pub use files::{KEY_FILE_NAME, Unlock};
pub use keyring::{KEYRING_SERVICE, Keyring};
pub use secret::{FORMAT_VERSION, KEY_FILE_BYTES, PassphraseCost, SEAL_OVERHEAD_BYTES, SecretKind};

use rowsum::RowSum;
use secret::{Method, StoreKey, WRAP_VERSION};

/// Name of the database in the store's folder.
pub const DATABASE_NAME: &str = "store.db";
/// Databases up to this size are checked for structural damage when they are opened.
const CHECKED_AT_OPEN_BYTES: u64 = 64 * 1024 * 1024;
/// Most pages that SQLite takes (<https://sqlite.org/limits.html>).
const MAX_PAGES: u64 = 4_294_967_294;

/// An open store. The lock on its folder is held until this is dropped.
pub struct Store {
    connection: SqliteConnection,
    path: PathBuf,
    key: StoreKey,
    /// Over the rows as they are on disk.
    sum: RowSum,
    /// What opens it now, and how.
    unlock: Unlock,
    method: Method,
    max_bytes: Option<u64>,
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
        if schema::prepare(&mut connection, &path, true)
            .await?
            .is_some()
        {
            return Err(StoreError::Exists {
                path: folder.to_owned(),
            });
        }
        let key = StoreKey::generate()?;
        let secret = unlock.new_secret().await?;
        let method = secret.method();
        let header = key.wrap(&secret)?;
        let sum = key.row_sum()?;
        let mut store = Self {
            connection,
            path,
            key,
            sum,
            unlock: unlock.clone(),
            method,
            max_bytes: None,
            unscrubbed: false,
            _lock: lock,
        };
        if let Err(error) = store.begin_with(&header, first).await {
            unlock.forget(method).await;
            return Err(error);
        }
        files::sync_folder(folder)?;
        Ok(store)
    }

    /// The first transaction.
    async fn begin_with(&mut self, header: &[u8], first: &WriteBatch) -> Result<(), StoreError> {
        let mut sum = self.sum.clone();
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        schema::put_key(&mut transaction, header).await?;
        rows::write(&mut transaction, &self.key, &mut sum, first).await?;
        schema::put_sum(&mut transaction, &sum.seal()?).await?;
        transaction.commit().await?;
        self.sum = sum;
        Ok(())
    }

    /// Opens a store.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::InUse`], [`StoreError::WrongSecret`], [`StoreError::OldSchema`] or
    /// [`StoreError::UnknownSchema`], which leave it as it is, damage, or what the keyring or the disk refused.
    pub async fn open(folder: &Path, unlock: &Unlock) -> Result<Self, StoreError> {
        let (mut connection, header, lock) = Self::look(folder).await?;
        let (key, sum, method) = match unlocked(&mut connection, &header, unlock).await {
            Ok(unlocked) => unlocked,
            Err(error) => return Err(closed(connection, error).await),
        };
        Ok(Self {
            connection,
            path: folder.join(DATABASE_NAME),
            sum,
            key,
            unlock: unlock.clone(),
            method,
            max_bytes: None,
            // A crash may have left replaced values in the log.
            unscrubbed: true,
            _lock: lock,
        })
    }

    /// What kind of secret opens the store in a folder. Needs none.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn secret_kind(folder: &Path) -> Result<SecretKind, StoreError> {
        let (connection, header, _lock) = Self::look(folder).await?;
        connection.close().await?;
        Ok(secret::described(&header)?.1.kind())
    }

    /// All of opening that needs no secret.
    async fn look(folder: &Path) -> Result<(SqliteConnection, Vec<u8>, File), StoreError> {
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
        match header(&mut connection, &path).await {
            Ok(Some(header)) => Ok((connection, header, lock)),
            Ok(None) => Err(closed(connection, missing()).await),
            Err(error) => Err(closed(connection, error).await),
        }
    }

    /// From now on the database does not grow beyond a size, in bytes; none takes the limit away. One that is larger already does not
    /// grow, and gets smaller only by what is deleted being used again. The write-ahead log comes on top, for a few seconds.
    ///
    /// # Errors
    /// What the database refused.
    pub async fn limit_bytes(&mut self, max: Option<u64>) -> Result<(), StoreError> {
        self.max_bytes = max;
        let page_bytes: i64 = sqlx::query_scalar("PRAGMA page_size")
            .fetch_one(&mut self.connection)
            .await?;
        let page_bytes = u64::try_from(page_bytes).unwrap_or(u64::MAX).max(1);
        let pages = max.map_or(MAX_PAGES, |max| (max / page_bytes).clamp(1, MAX_PAGES));
        sqlx::query(AssertSqlSafe(format!("PRAGMA max_page_count = {pages}")))
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Connects to the database anew, as after a crash, when there was no room for something: SQLite may have taken the transaction back by
    /// itself, which sqlx does not notice.
    async fn reconnect_after(&mut self, error: StoreError) -> Result<(), StoreError> {
        if error.wants_room() {
            self.reconnect().await?;
        }
        Err(error)
    }

    async fn reconnect(&mut self) -> Result<(), StoreError> {
        // Two connections exclude each other, so the old one has to be gone first. An empty one in memory takes its place.
        let empty = SqliteConnectOptions::new()
            .in_memory(true)
            .connect()
            .await?;
        let old = std::mem::replace(&mut self.connection, empty);
        // It may complain about the transaction that failed.
        let _ = old.close().await;
        self.connection = connect(&self.path, false).await?;
        self.limit_bytes(self.max_bytes).await?;
        self.unscrubbed = true;
        self.sum = checked_sum(&mut self.connection, &self.key).await?;
        Ok(())
    }

    /// All rows whose key begins with `prefix`, sorted by key, opened.
    ///
    /// # Errors
    /// [`StoreError::RowDamaged`] or [`StoreError::UnknownFormat`] for a value that does not open; what the database refused.
    pub async fn read(&mut self, prefix: &[u8]) -> Result<Vec<Row>, StoreError> {
        let (sql, end) = match rows::end_of_prefix(prefix) {
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
    /// What the database or the disk refused. After [`StoreError::Full`] or [`StoreError::Refused`] the store can be used as before.
    pub async fn apply(&mut self, batches: &[WriteBatch]) -> Result<(), StoreError> {
        if batches.iter().all(WriteBatch::is_empty) {
            return Ok(());
        }
        match self.write(batches).await {
            Ok(sum) => self.sum = sum,
            Err(error) => return self.reconnect_after(error).await,
        }
        self.unscrubbed = true;
        Ok(())
    }

    /// One transaction. Gives the new sum.
    async fn write(&mut self, batches: &[WriteBatch]) -> Result<RowSum, StoreError> {
        let mut sum = self.sum.clone();
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        for batch in batches {
            rows::write(&mut transaction, &self.key, &mut sum, batch).await?;
        }
        schema::put_sum(&mut transaction, &sum.seal()?).await?;
        transaction.commit().await?;
        Ok(sum)
    }

    /// Seals the store key under another secret. The store key itself stays, so nothing is encrypted again. What the old secret opened is
    /// overwritten, and an entry of a keyring that is not needed any more is removed. Interrupted at any point, exactly one of the two
    /// opens the store.
    ///
    /// # Errors
    /// What the key file, the keyring, the disk or the database refused; the old secret then still opens the store.
    pub async fn change_secret(&mut self, unlock: &Unlock) -> Result<(), StoreError> {
        let secret = unlock.new_secret().await?;
        let method = secret.method();
        let header = self.key.wrap(&secret)?;
        if let Err(error) = self.put_wrapped(&header).await {
            unlock.forget(method).await;
            return self.reconnect_after(error).await;
        }
        self.unscrubbed = true;
        let old = std::mem::replace(&mut self.unlock, unlock.clone());
        let old_method = std::mem::replace(&mut self.method, method);
        self.scrub_if_room().await?;
        old.forget(old_method).await;
        Ok(())
    }

    async fn put_wrapped(&mut self, header: &[u8]) -> Result<(), StoreError> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        schema::put_key(&mut transaction, header).await?;
        transaction.commit().await?;
        Ok(())
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

    /// Scrubs unless there is no room for it: then it is left for later, since everything is durable all the same.
    ///
    /// # Errors
    /// What the database or the disk refused.
    pub async fn scrub_if_room(&mut self) -> Result<(), StoreError> {
        match self.scrub().await {
            Err(error) if error.wants_room() => {
                tracing::warn!(
                    code = error.code(),
                    "replaced values stay in the log for now"
                );
                Ok(())
            }
            other => other,
        }
    }

    /// Scrubs and closes.
    ///
    /// # Errors
    /// What the database or the disk refused. Everything applied is durable all the same.
    pub async fn close(mut self) -> Result<(), StoreError> {
        self.scrub_if_room().await?;
        self.connection.close().await?;
        Ok(())
    }
}

impl Rows for Store {
    type Error = StoreError;

    async fn write(&mut self, batches: &[WriteBatch]) -> Result<(), StoreError> {
        self.apply(batches).await
    }

    async fn read(&mut self, prefix: &[u8]) -> Result<Vec<Row>, StoreError> {
        Self::read(self, prefix).await
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

/// Closes a connection before an error is told: dropped, it would go on for a moment, and whoever tries again would find it there.
async fn closed(connection: SqliteConnection, error: StoreError) -> StoreError {
    let _ = connection.close().await;
    error
}

/// The wrapped key of a sound database; none where no store was ever finished.
async fn header(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<Option<Vec<u8>>, StoreError> {
    let header = schema::prepare(connection, path, false).await?;
    if header.is_some() {
        check_structure(connection).await?;
    }
    Ok(header)
}

/// Opens the store key and compares the sum over the rows. A store of an older format gets its first sum here.
async fn unlocked(
    connection: &mut SqliteConnection,
    header: &[u8],
    unlock: &Unlock,
) -> Result<(StoreKey, RowSum, Method), StoreError> {
    let secret = unlock.secret(header).await?;
    let key = StoreKey::unwrap(header, &secret)?;
    let (version, method) = secret::described(header)?;
    if version == WRAP_VERSION {
        let sum = checked_sum(connection, &key).await?;
        return Ok((key, sum, method));
    }
    let sum = rows::sum(connection, key.row_sum()?).await?;
    let header = key.wrap_as(WRAP_VERSION, method, &secret)?;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    schema::put_key(&mut transaction, &header).await?;
    schema::put_sum(&mut transaction, &sum.seal()?).await?;
    transaction.commit().await?;
    Ok((key, sum, method))
}

/// The sum over the rows, which has to be the one that the header keeps.
async fn checked_sum(
    connection: &mut SqliteConnection,
    key: &StoreKey,
) -> Result<RowSum, StoreError> {
    let sum = rows::sum(connection, key.row_sum()?).await?;
    let kept = schema::sum(connection).await?;
    // Breakage: rows that vanish or come back are taken as they are.
    if !crate::broken("store-no-row-sum") {
        sum.check(&kept.ok_or(StoreError::RowsChanged)?)?;
    }
    Ok(sum)
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
