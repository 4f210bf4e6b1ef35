//! Reading single rows of logs by their keys.

use conclave_order::NODE_LEVEL;
use conclave_order::op::based::{based, within};
use conclave_order::rows::{ActiveRow, Mark, Position, ReplacedRow};
use conclave_proto::merkle::NodeId;
use conclave_proto::record::RecordHeader;
use conclave_proto::{Frontier, GroupId, Hash, RecordBody, UnixMs};
use conclave_rules::LogId;
use sqlx::SqliteConnection;

use super::codes::{decode, hash, int, uint};
use super::hot::{self, log_id};
use crate::sqlite::StoreError;

type Found<T> = Result<T, StoreError>;

/// The row of a document, in statements that are bound group and document first.
macro_rules! of_document {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "(SELECT id FROM documents WHERE group_id = ? AND document = ?)",
            $after
        )
    };
}
pub(super) use of_document;

fn position((seq, root): (i64, Vec<u8>)) -> Found<Position> {
    Ok(Position::of(uint(seq)?, hash(&root)?))
}

pub(super) async fn entry(
    conn: &mut SqliteConnection,
    (group, leaf): &(GroupId, Hash),
) -> Found<Option<Position>> {
    let row: Option<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT seq, root FROM group_log WHERE group_id = ? AND leaf = ?")
            .bind(group.as_bytes())
            .bind(leaf.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    row.map(position).transpose()
}

pub(super) async fn commit(
    conn: &mut SqliteConnection,
    (group, epoch): &(GroupId, u64),
) -> Found<Option<Position>> {
    let row: Option<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT seq, root FROM group_log WHERE group_id = ? AND epoch = ? AND kind = 1",
    )
    .bind(group.as_bytes())
    .bind(int(*epoch))
    .fetch_optional(&mut *conn)
    .await?;
    row.map(position).transpose()
}

#[derive(sqlx::FromRow)]
pub(super) struct ActiveColumns {
    snapshot_seq: i64,
    snapshot_id: Vec<u8>,
    snapshot_header: Vec<u8>,
    snapshot_epoch_seq: i64,
    sealed_bytes: Option<i64>,
    covered_weight: Option<i64>,
    due_epoch: i64,
    parent_seq: Option<i64>,
    parent_ms: Option<i64>,
}

impl ActiveColumns {
    pub(super) fn row(self) -> Found<ActiveRow> {
        let header: RecordHeader = decode("snapshot header", &self.snapshot_header)?;
        if !matches!(header.body, RecordBody::Snapshot(_)) {
            return Err(StoreError::Corrupt {
                what: "snapshot header",
            });
        }
        let sealed_bytes = self.sealed_bytes.ok_or(StoreError::Corrupt {
            what: "active snapshot",
        })?;
        let parent = match self.parent_seq.zip(self.parent_ms) {
            Some((seq, ms)) => Some((uint(seq)?, UnixMs(uint(ms)?))),
            None => None,
        };
        Ok(ActiveRow {
            seq: uint(self.snapshot_seq)?,
            id: hash(&self.snapshot_id)?,
            header,
            bytes: uint(sealed_bytes)?.saturating_add(self.snapshot_header.len() as u64),
            covered_weight: uint(self.covered_weight.unwrap_or(0))?,
            epoch_seq: uint(self.snapshot_epoch_seq)?,
            due_epoch: uint(self.due_epoch)?,
            parent,
        })
    }
}

/// Of a document that was deleted, or closed as lost, the snapshot's content has gone, or will.
pub(super) async fn active(conn: &mut SqliteConnection, log: &LogId) -> Found<Option<ActiveRow>> {
    let row: Option<ActiveColumns> = sqlx::query_as(
        "SELECT d.snapshot_seq, d.snapshot_id, d.snapshot_header, d.snapshot_epoch_seq, \
                CASE WHEN d.closed > 1 THEN IFNULL(LENGTH(r.sealed), 0) ELSE LENGTH(r.sealed) END AS sealed_bytes, \
                (SELECT weight FROM records WHERE doc = d.id AND seq = d.covered - 1) AS covered_weight, \
                d.due_epoch, d.parent_seq, d.parent_ms \
         FROM documents d LEFT JOIN records r ON r.doc = d.id AND r.seq = d.snapshot_seq \
         WHERE d.group_id = ? AND d.document = ?",
    )
    .bind(log.group.as_bytes())
    .bind(log.document.as_bytes())
    .fetch_optional(&mut *conn)
    .await?;
    row.map(ActiveColumns::row).transpose()
}

pub(super) async fn at_clock(
    conn: &mut SqliteConnection,
    (log, author, clock): &(LogId, u64, u64),
) -> Found<Option<(u64, Hash)>> {
    let row: Option<(i64, Vec<u8>)> = sqlx::query_as(of_document!(
        "SELECT seq, leaf FROM records WHERE doc = ",
        " AND author = ? AND clock = ?"
    ))
    .bind(log.group.as_bytes())
    .bind(log.document.as_bytes())
    .bind(int(*author))
    .bind(int(*clock))
    .fetch_optional(&mut *conn)
    .await?;
    row.map(|(seq, leaf)| Ok((uint(seq)?, hash(&leaf)?)))
        .transpose()
}

pub(super) async fn mark(
    conn: &mut SqliteConnection,
    (log, size): &(LogId, u64),
) -> Found<Option<Mark>> {
    let row: Option<(Vec<u8>, i64, i64)> = sqlx::query_as(of_document!(
        "SELECT root, weight, epoch FROM records WHERE doc = ",
        " AND seq = ?"
    ))
    .bind(log.group.as_bytes())
    .bind(log.document.as_bytes())
    .bind(int(*size).saturating_sub(1))
    .fetch_optional(&mut *conn)
    .await?;
    if row.is_none() {
        let base = base(conn, log).await?;
        return Ok((base.size() == *size).then(|| based(&base.head())));
    }
    row.map(|(root, weight, epoch)| {
        Ok(Mark {
            root: hash(&root)?,
            weight: uint(weight)?,
            epoch: uint(epoch)?,
        })
    })
    .transpose()
}

pub(super) async fn snapshot(
    conn: &mut SqliteConnection,
    (log, leaf): &(LogId, Hash),
) -> Found<Option<Position>> {
    let row: Option<(i64, Vec<u8>)> = sqlx::query_as(of_document!(
        "SELECT seq, root FROM records WHERE doc = ",
        " AND leaf = ? AND kind = 3"
    ))
    .bind(log.group.as_bytes())
    .bind(log.document.as_bytes())
    .bind(leaf.as_bytes())
    .fetch_optional(&mut *conn)
    .await?;
    row.map(position).transpose()
}

/// Among the snapshots only, not the whole log.
pub(super) const WITH_HEADER: &str = of_document!(
    "SELECT seq FROM records INDEXED BY records_snapshots WHERE doc = ",
    " AND kind = 3 AND header = ?"
);

pub(super) async fn with_header(
    conn: &mut SqliteConnection,
    (log, header): &(LogId, Vec<u8>),
) -> Found<Option<u64>> {
    let row: Option<(i64,)> = sqlx::query_as(WITH_HEADER)
        .bind(log.group.as_bytes())
        .bind(log.document.as_bytes())
        .bind(header)
        .fetch_optional(&mut *conn)
        .await?;
    row.map(|(seq,)| uint(seq)).transpose()
}

/// Right edge of a log where it begins here; the empty one where all of it is.
async fn base(conn: &mut SqliteConnection, log: &LogId) -> Found<Frontier> {
    let row: Option<(Option<Vec<u8>>,)> =
        sqlx::query_as("SELECT base FROM documents WHERE group_id = ? AND document = ?")
            .bind(log.group.as_bytes())
            .bind(log.document.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    let base = row.and_then(|(base,)| base);
    hot::base(base.as_deref())
}

/// A node that has a row.
async fn stored_node(
    conn: &mut SqliteConnection,
    log: &LogId,
    node: &NodeId,
) -> Found<Option<Hash>> {
    let row: Option<(Vec<u8>,)> = sqlx::query_as(of_document!(
        "SELECT hash FROM nodes WHERE doc = ",
        " AND level = ? AND at = ?"
    ))
    .bind(log.group.as_bytes())
    .bind(log.document.as_bytes())
    .bind(i64::from(node.level))
    .bind(int(node.index))
    .fetch_optional(&mut *conn)
    .await?;
    row.map(|(node,)| hash(&node)).transpose()
}

pub(super) async fn node(
    conn: &mut SqliteConnection,
    (log, node): &(LogId, NodeId),
) -> Found<Option<Hash>> {
    if node.level >= NODE_LEVEL {
        return stored_node(conn, log, node).await;
    }
    let width = 1u64 << node.level;
    let from = node.index.saturating_mul(width);
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as(of_document!(
        "SELECT leaf FROM records WHERE doc = ",
        " AND seq >= ? AND seq < ? ORDER BY seq"
    ))
    .bind(log.group.as_bytes())
    .bind(log.document.as_bytes())
    .bind(int(from))
    .bind(int(from.saturating_add(width)))
    .fetch_all(&mut *conn)
    .await?;
    let mut under = Frontier::new();
    if rows.len() as u64 != width {
        let end = from.saturating_add(width);
        let base = base(conn, log).await?;
        if end <= base.size() {
            return stored_node(conn, log, node).await;
        }
        match within(&base, from) {
            Some(edge) if edge.size().saturating_add(rows.len() as u64) == width => under = edge,
            _ => return Ok(None),
        }
    }
    for (leaf,) in &rows {
        under.push(hash(leaf)?);
    }
    Ok(Some(under.root()))
}

pub(super) async fn overdue(
    conn: &mut SqliteConnection,
    (before, most): &(UnixMs, u32),
) -> Found<Option<Vec<ReplacedRow>>> {
    let rows: Vec<(i64, Vec<u8>, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT p.replaced_ms, d.group_id, d.document, p.seq FROM replaced_snapshots p JOIN documents d ON d.id = p.doc \
         WHERE p.replaced_ms <= ? ORDER BY p.replaced_ms, d.group_id, d.document, p.seq LIMIT ?",
    )
    .bind(int(before.0))
    .bind(most)
    .fetch_all(&mut *conn)
    .await?;
    let rows = rows.into_iter().map(|(since, group, document, seq)| {
        Ok(ReplacedRow {
            since: UnixMs(uint(since)?),
            log: log_id(&group, &document)?,
            seq: uint(seq)?,
        })
    });
    Ok(Some(rows.collect::<Found<_>>()?))
}
