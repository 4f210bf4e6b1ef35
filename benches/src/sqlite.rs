//! The baseline of an append: the rows that the service made of it into bare SQLite, under the same group commit.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
use sqlx::{
    AssertSqlSafe, Connection as _, QueryBuilder, Row as _, Sqlite, TypeInfo as _, ValueRef as _,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// As the service: rows that wait, rows of one transaction, rows of one statement.
const QUEUE: usize = 4096;
const BATCH: usize = 1024;
const STATEMENT_ROWS: [usize; 3] = [64, 8, 1];

#[derive(Debug, Clone)]
enum Value {
    Null,
    Integer(i64),
    Bytes(Vec<u8>),
}

/// Rows of a service's records.
#[derive(Debug)]
pub struct Records {
    schema: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// How the service opens its database.
fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .page_size(4096)
        .pragma("secure_delete", "ON")
        .pragma("wal_autocheckpoint", "4000")
        .foreign_keys(false)
        .statement_cache_capacity(256)
}

impl Records {
    /// Reads so many updates from the data of a service, in about the order in which they came.
    ///
    /// # Errors
    /// When there are not so many.
    pub async fn read(data: &Path, count: usize) -> Result<Self> {
        let mut connection =
            SqliteConnection::connect_with(&options(&data.join("service.sqlite"))).await?;
        let schema: Vec<(String,)> = sqlx::query_as(
            "SELECT sql FROM sqlite_master WHERE tbl_name = 'records' AND sql IS NOT NULL \
             ORDER BY type DESC",
        )
        .fetch_all(&mut connection)
        .await?;
        let found = sqlx::query("SELECT * FROM records WHERE kind = 1 ORDER BY seq, doc LIMIT ?")
            .bind(i64::try_from(count)?)
            .fetch_all(&mut connection)
            .await?;
        let rows = found.iter().map(values).collect::<Result<Vec<_>>>()?;
        anyhow::ensure!(rows.len() == count, "only {} records", rows.len());
        connection.close().await?;
        Ok(Self {
            schema: schema.into_iter().map(|(sql,)| sql).collect(),
            rows,
        })
    }

    /// An empty table of records.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn table(&self, folder: &Path) -> Result<SqliteConnection> {
        let options = options(&folder.join("bare.sqlite")).create_if_missing(true);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        for sql in &self.schema {
            sqlx::query(AssertSqlSafe(sql.as_str()))
                .execute(&mut connection)
                .await?;
        }
        Ok(connection)
    }

    /// Inserts all rows, handed in by so many writers, each of whom has so many on their way.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub async fn insert(
        self: Arc<Self>,
        connection: SqliteConnection,
        writers: usize,
        in_flight: usize,
    ) -> Result<()> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        for writer in 0..writers {
            let (records, queue) = (Arc::clone(&self), queue.clone());
            tokio::spawn(async move {
                let room = Arc::new(Semaphore::new(in_flight));
                for row in (writer..records.rows.len()).step_by(writers) {
                    let permit = Arc::clone(&room).acquire_owned().await;
                    let Ok(permit) = permit else { return };
                    if queue.send((row, permit)).await.is_err() {
                        return;
                    }
                }
            });
        }
        drop(queue);
        self.commit_groups(connection, jobs).await
    }

    async fn commit_groups(
        &self,
        mut connection: SqliteConnection,
        mut jobs: mpsc::Receiver<(usize, OwnedSemaphorePermit)>,
    ) -> Result<()> {
        while let Some(first) = jobs.recv().await {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(job) = jobs.try_recv()
            {
                batch.push(job);
            }
            sqlx::query("BEGIN IMMEDIATE")
                .execute(&mut connection)
                .await?;
            let rows = batch.iter().map(|(row, _)| self.rows.get(*row));
            let rows: Option<Vec<_>> = rows.collect();
            insert(&mut connection, &rows.context("no such row")?).await?;
            sqlx::query("COMMIT").execute(&mut connection).await?;
        }
        Ok(connection.close().await?)
    }
}

async fn insert(connection: &mut SqliteConnection, mut rows: &[&Vec<Value>]) -> Result<()> {
    for size in STATEMENT_ROWS {
        while let Some((run, rest)) = rows.split_at_checked(size) {
            let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO records ");
            query.push_values(run, |mut to, row| {
                for value in *row {
                    match value {
                        Value::Null => to.push_bind(None::<i64>),
                        Value::Integer(number) => to.push_bind(*number),
                        Value::Bytes(bytes) => to.push_bind(bytes.clone()),
                    };
                }
            });
            query.build().execute(&mut *connection).await?;
            rows = rest;
        }
    }
    Ok(())
}

fn values(row: &SqliteRow) -> Result<Vec<Value>> {
    let value = |column: usize| -> Result<Value> {
        let raw = row.try_get_raw(column)?;
        Ok(match raw.type_info().name() {
            _ if raw.is_null() => Value::Null,
            "INTEGER" => Value::Integer(row.try_get(column)?),
            _ => Value::Bytes(row.try_get(column)?),
        })
    };
    (0..row.len()).map(value).collect()
}
