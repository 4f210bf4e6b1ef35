//! A database that this program wrote at an earlier time: it reads what is there, and would write the same bytes. So nobody changes what is stored
//! and leaves [`STORED_VERSION`] as it is.
//!
//! Whoever raised the number records another: `CONCLAVE_UPDATE_SNAPSHOTS=1 cargo test -p conclave-testkit --test stored`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use conclave_ds::StoreError;
use conclave_ds::sqlite::{Place, Store};
use conclave_mls::Plan;
use conclave_order::rows::STORED_VERSION;
use conclave_order::{Bounds, Reader as _};
use conclave_proto::codec::{decode, encode};
use conclave_proto::group::GroupEntry;
use conclave_rules::LogId;
use conclave_testkit::database::{Database as _, InSqlite};
use conclave_testkit::founded::{Founded, GROUP, restored};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection};
use tempfile::TempDir;

const ALL: Bounds = Bounds {
    from: 0,
    end: u64::MAX,
    bytes: usize::MAX,
};

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stored.sql")
}

async fn connect(folder: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(folder.join("service.sqlite"))
        .create_if_missing(true)
        .foreign_keys(false);
    Ok(options.connect().await?)
}

async fn run(conn: &mut SqliteConnection, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await?;
    Ok(())
}

/// A database as statements that make it.
async fn statements(conn: &mut SqliteConnection) -> Result<String> {
    let (version,): (u32,) = sqlx::query_as("PRAGMA user_version")
        .fetch_one(&mut *conn)
        .await?;
    let mut all = format!("PRAGMA user_version = {version};\n");
    let schema: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%' ORDER BY rowid",
    )
    .fetch_all(&mut *conn)
    .await?;
    for (kind, name, sql) in schema {
        writeln!(all, "{sql};")?;
        if kind != "table" {
            continue;
        }
        let columns: Vec<(String,)> = sqlx::query_as("SELECT name FROM pragma_table_info(?)")
            .bind(&name)
            .fetch_all(&mut *conn)
            .await?;
        let columns: Vec<String> = columns.iter().map(|(it,)| format!("quote({it})")).collect();
        let rows = format!("SELECT {} FROM {name}", columns.join(" || ',' || "));
        let rows: Vec<(String,)> = sqlx::query_as(AssertSqlSafe(rows))
            .fetch_all(&mut *conn)
            .await?;
        for (row,) in rows {
            writeln!(all, "INSERT INTO {name} VALUES ({row});")?;
        }
    }
    Ok(all)
}

async fn record() -> Result<()> {
    let mut group = Founded::<InSqlite>::of(3).await?;
    let new = group.prepare()?;
    group.create(new).await?;
    group.commit(&Plan::default()).await?;
    let mut conn = connect(group.database.folder()).await?;
    std::fs::write(recorded(), statements(&mut conn).await?)?;
    Ok(conn.close().await?)
}

/// What was recorded, in a folder of its own.
async fn earlier() -> Result<TempDir> {
    if std::env::var_os("CONCLAVE_UPDATE_SNAPSHOTS").is_some() {
        record().await?;
    }
    let folder = TempDir::new()?;
    let sql = std::fs::read_to_string(recorded())?;
    let mut conn = connect(folder.path()).await?;
    run(&mut conn, sql).await?;
    conn.close().await?;
    Ok(folder)
}

async fn reads_and_would_write_the_same(folder: TempDir) -> Result<()> {
    let database = InSqlite::of(folder).await?;
    let state = restored(&database).await?.state;
    ensure!(state.state().current_rows().count() == 3, "other members");
    ensure!(state.state().documents.size() == 2, "other documents");
    let mut conn = connect(database.folder()).await?;
    let parts: Vec<(Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT part, value FROM group_parts ORDER BY part")
            .fetch_all(&mut conn)
            .await?;
    let mut again: Vec<(Vec<u8>, Vec<u8>)> = state
        .rows()
        .into_iter()
        .map(|(part, value)| (part, value.to_vec()))
        .collect();
    again.sort();
    ensure!(again == parts, "other rows");
    let mut reads = database.reader().await?;
    let entries = reads.entries(&GROUP, ALL).await?;
    ensure!(entries.len() == 4, "{} entries", entries.len());
    for row in entries {
        let entry: GroupEntry = decode("entry", &row.bytes, usize::MAX)?;
        ensure!(encode(&entry) == row.bytes, "another entry");
    }
    for (document, _) in state.state().documents.iter() {
        let log = LogId {
            group: GROUP,
            document: *document,
        };
        let first = reads.whole(&log, 0).await?;
        first.context("no first snapshot")?;
    }
    Ok(conn.close().await?)
}

#[tokio::test]
async fn what_was_stored_earlier_is_read_and_would_be_stored_the_same() -> Result<()> {
    let folder = earlier().await?;
    reads_and_would_write_the_same(folder)
        .await
        .context("what is stored has changed: raise STORED_VERSION, and record it anew")
}

#[tokio::test]
async fn what_another_version_stored_is_left_as_it_is() -> Result<()> {
    let folder = earlier().await?;
    let place = Place {
        directory: folder.path().to_owned(),
        durability: conclave_ds::Durability::Normal,
        max_bytes: None,
    };
    for version in [STORED_VERSION - 1, STORED_VERSION + 1] {
        let mut conn = connect(folder.path()).await?;
        run(&mut conn, format!("PRAGMA user_version = {version}")).await?;
        let before = statements(&mut conn).await?;
        let opened = Store::open(place.clone()).await;
        let (is, this) = (i64::from(version), i64::from(STORED_VERSION));
        let refused = match &opened {
            Err(StoreError::OlderSchema { found, known }) => {
                (*found, *known) == (is, this) && is < this
            }
            Err(StoreError::NewerSchema { found, known }) => {
                (*found, *known) == (is, this) && is > this
            }
            _ => false,
        };
        ensure!(refused, "{version}: {opened:?}");
        ensure!(statements(&mut conn).await? == before, "it was changed");
        conn.close().await?;
    }
    Ok(())
}

/// What the number was before there was one: the tables of that time are another's.
#[tokio::test]
async fn a_database_without_a_number_is_an_older_one() -> Result<()> {
    let folder = TempDir::new()?;
    let mut conn = connect(folder.path()).await?;
    run(
        &mut conn,
        "CREATE TABLE groups (id BLOB PRIMARY KEY, checkpoint BLOB)".to_owned(),
    )
    .await?;
    let opened = Store::open(Place {
        directory: folder.path().to_owned(),
        durability: conclave_ds::Durability::Normal,
        max_bytes: None,
    })
    .await;
    let refused = matches!(opened, Err(StoreError::OlderSchema { found: 0, .. }));
    ensure!(refused, "{opened:?}");
    Ok(conn.close().await?)
}
