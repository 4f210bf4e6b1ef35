//! What a group's entries cost: what they touch, whatever else there is in the group.

use anyhow::{Context as _, Result, ensure};
use conclave_mls::{Plan, PublicGroupState};
use conclave_testkit::database::{Database, InMemory, InSqlite};
use conclave_testkit::founded::{Founded, Written};
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
