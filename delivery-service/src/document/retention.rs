//! How long the content of replaced snapshots stays. Their places in the log stay for ever: whoever still asks for the content gets the leaf,
//! and begins at the active snapshot.

use conclave_proto::UnixMs;
use sqlx::SqliteConnection;

use crate::limits;
use crate::store::StoreError;
use crate::store::codes::int;

/// Notes that a snapshot is neither the active one of its document nor that one's parent any more. The first of a document stays.
pub(super) async fn replaced(
    conn: &mut SqliteConnection,
    doc: i64,
    seq: u64,
    since: UnixMs,
) -> Result<(), StoreError> {
    if seq == 0 {
        return Ok(());
    }
    sqlx::query("INSERT INTO replaced_snapshots (replaced_ms, doc, seq) VALUES (?, ?, ?)")
        .bind(int(since.0))
        .bind(doc)
        .bind(int(seq))
        .execute(conn)
        .await?;
    Ok(())
}

/// Lets go of the content of snapshots whose time is over at `now`: the longest replaced first, at most `most` of them, over all documents. Gives
/// how many went.
pub(crate) async fn sweep(
    conn: &mut SqliteConnection,
    now: UnixMs,
    most: u32,
) -> Result<usize, StoreError> {
    let before = now.0.saturating_sub(limits::REPLACED_SNAPSHOT_MS);
    let over: Vec<(i64, i64, i64)> = sqlx::query_as(
        "SELECT replaced_ms, doc, seq FROM replaced_snapshots WHERE replaced_ms <= ? ORDER BY replaced_ms LIMIT ?",
    )
    .bind(int(before))
    .bind(most)
    .fetch_all(&mut *conn)
    .await?;
    for (replaced_ms, doc, seq) in &over {
        sqlx::query("UPDATE records SET sealed = NULL WHERE doc = ? AND seq = ?")
            .bind(doc)
            .bind(seq)
            .execute(&mut *conn)
            .await?;
        sqlx::query("DELETE FROM replaced_snapshots WHERE replaced_ms = ? AND doc = ? AND seq = ?")
            .bind(replaced_ms)
            .bind(doc)
            .bind(seq)
            .execute(&mut *conn)
            .await?;
    }
    Ok(over.len())
}
