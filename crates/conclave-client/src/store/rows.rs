//! Writing rows, and keeping the sum over them.

use conclave_engine::WriteBatch;
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use super::error::StoreError;
use super::rowsum::RowSum;
use super::secret::{self, StoreKey};

/// Rows that one statement stores.
const ROWS_PER_STATEMENT: usize = 16;
/// A row's key and the nonce of its value, which follows the format version.
const VERSIONS: &str = "key, substr(value, 2, 24)";

/// The sum over all rows of the database; `empty` is that over none.
pub(super) async fn sum(
    connection: &mut SqliteConnection,
    empty: RowSum,
) -> Result<RowSum, StoreError> {
    let mut sum = empty;
    let sql = AssertSqlSafe(format!("SELECT {VERSIONS} FROM rows"));
    let mut found = sqlx::query(sql).fetch(connection);
    while let Some(row) = found.try_next().await? {
        sum.add(row.try_get(0)?, row.try_get(1)?);
    }
    Ok(sum)
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// Takes the rows that a query finds out of the sum.
async fn take_out(
    connection: &mut SqliteConnection,
    sum: &mut RowSum,
    query: Query<'_>,
) -> Result<(), StoreError> {
    let mut found = query.fetch(connection);
    while let Some(row) = found.try_next().await? {
        sum.remove(row.try_get(0)?, row.try_get(1)?);
    }
    Ok(())
}

fn query(sql: String) -> Query<'static> {
    sqlx::query(AssertSqlSafe(sql))
}

/// Writes one batch.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    key: &StoreKey,
    sum: &mut RowSum,
    batch: &WriteBatch,
) -> Result<(), StoreError> {
    for prefix in &batch.delete_prefixes {
        let delete = match end_of_prefix(prefix) {
            Some(end) => query(format!(
                "DELETE FROM rows WHERE key >= ? AND key < ? RETURNING {VERSIONS}"
            ))
            .bind(prefix.clone())
            .bind(end),
            None => query(format!(
                "DELETE FROM rows WHERE key >= ? RETURNING {VERSIONS}"
            ))
            .bind(prefix.clone()),
        };
        take_out(connection, sum, delete).await?;
    }
    for row in &batch.deletes {
        let delete = query(format!(
            "DELETE FROM rows WHERE key = ? RETURNING {VERSIONS}"
        ));
        take_out(connection, sum, delete.bind(row.clone())).await?;
    }
    let puts = batch.puts.iter();
    let puts = puts.map(|(row, value)| (row.as_slice(), value.as_slice()));
    let nonces = secret::nonces(puts.len())?;
    let mut left = puts.zip(&nonces).peekable();
    while left.peek().is_some() {
        let mut rows = Vec::with_capacity(ROWS_PER_STATEMENT);
        for ((row, value), nonce) in left.by_ref().take(ROWS_PER_STATEMENT) {
            rows.push((row, nonce, key.seal(row, nonce, value)?));
        }
        put(connection, sum, rows).await?;
    }
    Ok(())
}

/// Stores a few different rows in place of what was there.
async fn put(
    connection: &mut SqliteConnection,
    sum: &mut RowSum,
    rows: Vec<(&[u8], &[u8; 24], Vec<u8>)>,
) -> Result<(), StoreError> {
    let marks = |mark: &str| vec![mark; rows.len()].join(",");
    let mut replaced = query(format!(
        "SELECT {VERSIONS} FROM rows WHERE key IN ({})",
        marks("?")
    ));
    let mut insert = query(format!(
        "INSERT OR REPLACE INTO rows (key, value) VALUES {}",
        marks("(?,?)")
    ));
    for (row, _, _) in &rows {
        replaced = replaced.bind(row.to_vec());
    }
    take_out(connection, sum, replaced).await?;
    for (row, nonce, value) in rows {
        sum.add(row, nonce);
        insert = insert.bind(row.to_vec()).bind(value);
    }
    insert.execute(connection).await?;
    Ok(())
}

/// The first key after all that begin with `prefix`; none when there is no such key.
pub(super) fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix.get(..=kept)?.to_vec();
    let last = end.last_mut()?;
    *last += 1;
    Some(end)
}
