//! Opening a data directory: lock, version, connections.

use std::cmp::Ordering;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use conclave_order::rows::STORED_VERSION;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::error::StoreError;
use crate::config::Durability;
use crate::limits;
use crate::sqlite::codes::uint;

/// What a new database begins with.
const TABLES: &str = include_str!("schema.sql");

/// File that holds the database, in the data directory.
pub(crate) const DATABASE_FILE: &str = "service.sqlite";
/// File whose lock says that a service runs on the data directory.
const LOCK_FILE: &str = "lock";
/// The service holds few distinct statements; rows come in a few batch sizes.
const STATEMENTS: usize = 256;

/// Holds the data directory while it lives.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

/// Takes the data directory for this process, creating it where needed.
pub(crate) fn lock(directory: &Path) -> Result<Arc<DirectoryLock>, StoreError> {
    create_private(directory).map_err(StoreError::Directory)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join(LOCK_FILE))
        .map_err(StoreError::Directory)?;
    match file.try_lock() {
        Ok(()) => Ok(Arc::new(DirectoryLock { _file: file })),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse),
        Err(TryLockError::Error(error)) => Err(StoreError::Directory(error)),
    }
}

/// Creates the directory for its owner only.
pub(crate) fn create_private(directory: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Which database, and how it is written.
#[derive(Debug, Clone)]
pub struct Place {
    /// The data directory.
    pub directory: PathBuf,
    /// What "acknowledged" means.
    pub durability: Durability,
    /// Largest database in bytes.
    pub max_bytes: Option<u64>,
}

/// Options of every connection.
fn options(place: &Place) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new()
        .filename(place.directory.join(DATABASE_FILE))
        .create_if_missing(true)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(match place.durability {
            Durability::Full => SqliteSynchronous::Full,
            Durability::Normal => SqliteSynchronous::Normal,
        })
        .busy_timeout(limits::BUSY_TIMEOUT)
        .page_size(limits::PAGE_BYTES)
        .pragma("secure_delete", "ON")
        .pragma("wal_autocheckpoint", "4000")
        .statement_cache_capacity(STATEMENTS)
        .disable_statement_logging();
    match place.max_bytes {
        Some(max) => {
            let pages = max / u64::from(limits::PAGE_BYTES);
            options.pragma("max_page_count", pages.to_string())
        }
        None => options,
    }
}

/// Opens the one connection that writes; makes the database where there is none.
pub(crate) async fn open_writer(place: &Place) -> Result<SqliteConnection, StoreError> {
    let mut connection = connect_writer(place).await?;
    if is_empty(&mut connection).await? {
        create(&mut connection).await?;
    }
    check_version(&mut connection).await?;
    Ok(connection)
}

/// Opens a connection that writes beside the service that runs.
pub(crate) async fn open_beside(place: &Place) -> Result<SqliteConnection, StoreError> {
    let mut connection = connect_writer(place).await?;
    check_version(&mut connection).await?;
    Ok(connection)
}

async fn is_empty(connection: &mut SqliteConnection) -> Result<bool, StoreError> {
    let (tables,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM sqlite_schema")
        .fetch_one(&mut *connection)
        .await?;
    Ok(tables == 0 && version(connection).await? == 0)
}

/// Tables and their version, together or not at all.
async fn create(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(TABLES).execute(&mut *transaction).await?;
    let mark = format!("PRAGMA user_version = {STORED_VERSION}");
    sqlx::raw_sql(AssertSqlSafe(mark))
        .execute(&mut *transaction)
        .await?;
    Ok(transaction.commit().await?)
}

async fn version(connection: &mut SqliteConnection) -> Result<i64, StoreError> {
    let (version,) = sqlx::query_as("PRAGMA user_version")
        .fetch_one(connection)
        .await?;
    Ok(version)
}

/// Another program's rows are not read: each group would be found damaged, one after another.
async fn check_version(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let (found, known) = (version(connection).await?, i64::from(STORED_VERSION));
    match found.cmp(&known) {
        Ordering::Less => Err(StoreError::OlderSchema { found, known }),
        Ordering::Greater => Err(StoreError::NewerSchema { found, known }),
        Ordering::Equal => Ok(()),
    }
}

/// Opens the writing connection of a database whose schema is known to fit.
pub(crate) async fn connect_writer(place: &Place) -> Result<SqliteConnection, StoreError> {
    Ok(SqliteConnection::connect_with(&options(place)).await?)
}

/// Whether a limited database can still take something of size.
pub(crate) async fn has_room(conn: &mut SqliteConnection) -> Result<bool, StoreError> {
    let mut pages = [0i64; 3];
    let pragmas = [
        "PRAGMA max_page_count",
        "PRAGMA freelist_count",
        "PRAGMA page_count",
    ];
    for (pragma, pages) in pragmas.into_iter().zip(&mut pages) {
        (*pages,) = sqlx::query_as(pragma).fetch_one(&mut *conn).await?;
    }
    let [max, free, used] = pages;
    let room = max.saturating_add(free).saturating_sub(used);
    let least = limits::DATABASE_ROOM_BYTES / u64::from(limits::PAGE_BYTES);
    Ok(uint(room).is_ok_and(|room| room >= least))
}

/// Opens the read pool.
pub(crate) async fn open_readers(place: &Place) -> Result<SqlitePool, StoreError> {
    let options = options(place)
        .pragma("query_only", "ON")
        .row_buffer_size(limits::ROWS_AHEAD);
    Ok(SqlitePoolOptions::new()
        .max_connections(limits::READ_CONNECTIONS)
        .min_connections(1)
        .connect_with(options)
        .await?)
}
