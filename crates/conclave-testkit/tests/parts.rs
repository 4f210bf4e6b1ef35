//! What a group's entries cost: what they touch, whatever else there is in the group.

use anyhow::{Context as _, Result, ensure};
use conclave_ds::sqlite::Store;
use conclave_mls::{Plan, PublicGroupState};
use conclave_testkit::checkpoint;
use conclave_testkit::database::{Database, InMemory, InSqlite};
use conclave_testkit::founded::{Founded, GROUP, Written};
use sqlx::{Connection as _, SqliteConnection};

async fn connect(database: &InSqlite) -> Result<SqliteConnection> {
    let file = database.folder().join("service.sqlite");
    let url = format!("sqlite://{}", file.display());
    Ok(SqliteConnection::connect(&url).await?)
}

/// A group's public state: what is read is what was judged.
async fn as_read<D: Database>(group: &Founded<D>) -> Result<PublicGroupState> {
    let (judged, read) = group.both().await?;
    ensure!(judged.state() == read.state(), "another state");
    ensure!(judged.tree() == read.tree(), "another tree");
    ensure!(
        judged.group_info() == read.group_info(),
        "another GroupInfo"
    );
    Ok(read)
}

/// Makes documents up to so many, and gives what the last one wrote.
async fn fill<D: Database>(group: &mut Founded<D>, documents: usize) -> Result<Written> {
    let mut last = None;
    while group.documents() < documents {
        let new = group.prepare()?;
        last = Some(group.create(new).await?);
    }
    last.context("nothing was made")
}

async fn documents_cost_the_same<D: Database>(many: usize) -> Result<()> {
    let mut group = Founded::<D>::of(1).await?;
    let few = fill(&mut group, 10).await?;
    let late = fill(&mut group, many).await?;
    // What grows is the right edge of the log: a hash for each doubling of its length.
    let edge = 40 * (many.ilog2() as usize + 1);
    for (late, few) in [(late.service, few.service), (late.member, few.member)] {
        ensure!(late <= few + edge, "{late} bytes after {few}");
    }
    let (judged, read) = group.both().await?;
    ensure!(judged.state() == read.state(), "another state");
    Ok(())
}

#[tokio::test]
async fn a_document_writes_the_same_whatever_is_listed_in_memory() -> Result<()> {
    documents_cost_the_same::<InMemory>(2_000).await
}

#[tokio::test]
async fn a_document_writes_the_same_whatever_is_listed() -> Result<()> {
    documents_cost_the_same::<InSqlite>(2_000).await
}

/// Bytes that go to the disk for ten documents.
async fn disk_bytes(group: &mut Founded<InSqlite>) -> Result<u64> {
    let mut conn = connect(&group.database).await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&mut conn)
        .await?;
    for _ in 0..10 {
        let new = group.prepare()?;
        group.create(new).await?;
    }
    let wal = group.database.folder().join("service.sqlite-wal");
    let bytes = std::fs::metadata(wal)?.len();
    conn.close().await?;
    Ok(bytes)
}

#[tokio::test]
async fn a_document_reaches_the_disk_the_same_whatever_is_listed() -> Result<()> {
    let mut group = Founded::<InSqlite>::of(1).await?;
    fill(&mut group, 50).await?;
    let few = disk_bytes(&mut group).await?;
    fill(&mut group, 1_000).await?;
    let late = disk_bytes(&mut group).await?;
    // Pages of indexes that are met by chance, and that grow a level.
    ensure!(late <= 2 * few, "{late} bytes after {few}");
    Ok(())
}

/// A commit that renews its author's leaf writes that leaf's row, and the nodes above it.
#[tokio::test]
async fn a_commit_writes_what_it_changes() -> Result<()> {
    let mut written = Vec::new();
    for members in [10, 300] {
        let mut group = Founded::<InSqlite>::of(members).await?;
        // The first after members came finds most of the tree empty, and fills what is above its author.
        group.commit(&Plan::default()).await?;
        let commit = group.commit(&Plan::default()).await?;
        let judged = as_read(&group).await?;
        written.push((
            commit,
            judged
                .rows()
                .iter()
                .map(|(_, row)| row.len())
                .sum::<usize>(),
        ));
    }
    let [(few, _), (many, all)] = written.as_slice().try_into()?;
    // The path to the root is longer by five nodes.
    ensure!(many.service <= 2 * few.service, "{many:?} after {few:?}");
    ensure!(many.member <= 2 * few.member, "{many:?} after {few:?}");
    ensure!(10 * many.service <= all, "{many:?} of {all} bytes");
    Ok(())
}

/// Puts a database back to what programs wrote that had a group's state in one value, which an entry after it has made old.
async fn age(group: &Founded<InSqlite>, checkpoint: &[u8]) -> Result<()> {
    let mut conn = connect(&group.database).await?;
    for statement in [
        "DROP TABLE usage",
        "DROP TABLE usage_users",
        "DROP TABLE usage_groups",
        "DROP TABLE paid_snapshots",
        "DROP TABLE erasing",
        "DROP TABLE dropped",
        "DROP TABLE bases",
        "ALTER TABLE groups DROP COLUMN base",
        "ALTER TABLE devices DROP COLUMN session",
        "ALTER TABLE devices DROP COLUMN session_ms",
        "ALTER TABLE devices DROP COLUMN life",
        "ALTER TABLE devices DROP COLUMN token",
        "ALTER TABLE devices DROP COLUMN next",
        "DROP INDEX key_packages_by_device",
        "DROP INDEX authors_open",
        "DROP TABLE group_parts",
        "DROP TABLE group_checkpoints",
        "ALTER TABLE groups ADD COLUMN group_info BLOB NOT NULL DEFAULT x''",
        "ALTER TABLE groups ADD COLUMN checkpoint BLOB NOT NULL DEFAULT x''",
        "ALTER TABLE groups ADD COLUMN checkpoint_sum BLOB",
        "ALTER TABLE groups DROP COLUMN grown_in",
        "ALTER TABLE documents DROP COLUMN grown_in",
        "ALTER TABLE documents DROP COLUMN base",
        "DROP TABLE recovery",
        "DROP TABLE losses",
        "DELETE FROM _sqlx_migrations WHERE version >= 6",
    ] {
        sqlx::query(statement).execute(&mut conn).await?;
    }
    let updated = sqlx::query("UPDATE groups SET checkpoint = ? WHERE id = ?")
        .bind(checkpoint)
        .bind(GROUP.as_bytes())
        .execute(&mut conn)
        .await?;
    ensure!(updated.rows_affected() == 1, "no group");
    Ok(conn.close().await?)
}

#[tokio::test]
async fn groups_of_older_databases_are_carried_over() -> Result<()> {
    let mut group = Founded::<InSqlite>::of(5).await?;
    fill(&mut group, 3).await?;
    group.commit(&Plan::default()).await?;
    let old = checkpoint::of(group.both().await?.0);
    // Signed entries after it were applied when it was read.
    fill(&mut group, 6).await?;
    age(&group, &old).await?;
    Store::open(group.database.place()).await?.close().await;
    as_read(&group).await?;
    group.restart().await?;
    fill(&mut group, 7).await?;
    group.commit(&Plan::default()).await?;
    group.restart().await?;
    group.commit(&Plan::default()).await?;
    Ok(())
}

/// A group that cannot be read stays where it is; the others are served.
#[tokio::test]
async fn a_damaged_group_of_an_older_database_is_not_served() -> Result<()> {
    let mut group = Founded::<InSqlite>::of(2).await?;
    fill(&mut group, 2).await?;
    let mut old = checkpoint::of(group.both().await?.0);
    let middle = old.len() / 2;
    old.truncate(middle);
    age(&group, &old).await?;
    Store::open(group.database.place()).await?.close().await;
    ensure!(group.both().await.is_err(), "it was read");
    let mut conn = connect(&group.database).await?;
    let (kept,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM group_checkpoints WHERE length(checkpoint) = ?")
            .bind(i64::try_from(middle)?)
            .fetch_one(&mut conn)
            .await?;
    ensure!(kept == 1, "it is gone");
    Ok(conn.close().await?)
}
