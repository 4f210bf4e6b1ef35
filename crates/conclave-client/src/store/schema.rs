//! The database's tables and their versions.

use std::path::Path;

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use super::error::StoreError;

/// `CNCL`: marks the file as ours (<https://sqlite.org/pragma.html#pragma_application_id>).
const APPLICATION_ID: i64 = 0x434e_434c;
/// What a new store begins with. `rows` is no WITHOUT ROWID table: that would keep only one copy of a key, and no check could find a damaged
/// one.
const TABLES: &str =
    "CREATE TABLE header (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE rows (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT";
/// Version of the tables and of what their rows mean. It goes up with every form of a row that the program before cannot read, or this one
/// cannot read any more.
const VERSION: i64 = 6;
/// Row of the header: the wrapped key.
const KEY_NAME: &str = "key";
/// Row of the header: the sum over all rows.
const SUM_NAME: &str = "sum";

/// Checks that the database is a store of the version known here, and gives the wrapped key: none where no store was ever finished. An empty
/// database is taken for a new store only when `create` is set.
pub(super) async fn prepare(
    connection: &mut SqliteConnection,
    path: &Path,
    create: bool,
) -> Result<Option<Vec<u8>>, StoreError> {
    let application: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await?;
    let found: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut *connection)
        .await?;
    let empty = application == 0 && found == 0 && tables == 0;
    if empty && !create {
        return Ok(None);
    }
    if !empty && application != APPLICATION_ID {
        return Err(StoreError::NotAStore {
            path: path.to_owned(),
        });
    }
    if empty {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(TABLES).execute(&mut *transaction).await?;
        let mark =
            format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}");
        sqlx::raw_sql(AssertSqlSafe(mark))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
    } else if (0..VERSION).contains(&found) {
        return Err(StoreError::OldSchema {
            found,
            known: VERSION,
        });
    } else if found != VERSION {
        return Err(StoreError::UnknownSchema {
            found,
            known: VERSION,
        });
    }
    let key = key(&mut *connection).await?;
    // Rows and their key are stored together: somebody took the key away. Nothing is begun over what a copy might still open.
    let rows: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM rows)")
        .fetch_one(connection)
        .await?;
    if key.is_none() && rows {
        return Err(StoreError::Damaged {
            what: "wrapped key",
        });
    }
    Ok(key)
}

async fn header(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<Option<Vec<u8>>, StoreError> {
    let value = sqlx::query_scalar("SELECT value FROM header WHERE name = ?")
        .bind(name)
        .fetch_optional(connection)
        .await?;
    Ok(value)
}

async fn put_header(
    connection: &mut SqliteConnection,
    name: &str,
    value: &[u8],
) -> Result<(), StoreError> {
    sqlx::query("INSERT OR REPLACE INTO header (name, value) VALUES (?,?)")
        .bind(name)
        .bind(value)
        .execute(connection)
        .await?;
    Ok(())
}

/// The wrapped key.
pub(super) async fn key(connection: &mut SqliteConnection) -> Result<Option<Vec<u8>>, StoreError> {
    header(connection, KEY_NAME).await
}

/// Stores the wrapped key.
pub(super) async fn put_key(
    connection: &mut SqliteConnection,
    wrapped: &[u8],
) -> Result<(), StoreError> {
    put_header(connection, KEY_NAME, wrapped).await
}

/// The sealed sum over all rows.
pub(super) async fn sum(connection: &mut SqliteConnection) -> Result<Option<Vec<u8>>, StoreError> {
    header(connection, SUM_NAME).await
}

/// Stores the sealed sum over all rows.
pub(super) async fn put_sum(
    connection: &mut SqliteConnection,
    sealed: &[u8],
) -> Result<(), StoreError> {
    put_header(connection, SUM_NAME, sealed).await
}
