//! Reading what is stored of documents.

use std::collections::HashMap;

use conclave_proto::merkle::{
    Frontier, NodeId, NodeSource, consistency_nodes, consistency_proof_from, empty_root, root_of,
};
use conclave_proto::record::{Chained, RECORD_VERSION, RecordHeader, Sealed};
use conclave_proto::{
    Author, DeviceId, DocumentId, GroupId, Hash, Head, InstanceId, Record, RecordBody,
};
use futures_util::StreamExt;
use sqlx::SqliteConnection;

use super::insert::{Summed, record_sum};
use crate::limits;
use crate::store::StoreError;
use crate::store::codes::{check_sum, decode, hash, id, int, uint};

/// Nodes of this level and above are stored; lower ones are computed from leaves.
pub(crate) const NODE_LEVEL: u32 = 6;

/// A stored document.
pub(crate) struct StoredDocument {
    pub(crate) row: i64,
    pub(crate) head: Head,
    pub(crate) snapshot_seq: u64,
    pub(crate) snapshot_header: RecordHeader,
    pub(crate) authors: Vec<Author>,
}

/// Reads a document.
pub(crate) async fn load(
    conn: &mut SqliteConnection,
    group: &GroupId,
    document: &DocumentId,
) -> Result<Option<StoredDocument>, StoreError> {
    let row: Option<(i64, Vec<u8>, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT id, frontier, snapshot_seq, snapshot_header FROM documents WHERE group_id = ? AND document = ?",
    )
    .bind(group.as_bytes())
    .bind(document.as_bytes())
    .fetch_optional(&mut *conn)
    .await?;
    let Some((row, frontier, snapshot_seq, header)) = row else {
        return Ok(None);
    };
    // One row gives size and root, so that they belong together whatever is written meanwhile.
    let frontier: Frontier = decode("frontier", &frontier)?;
    let authors = authors(conn, row).await?;
    Ok(Some(StoredDocument {
        row,
        head: frontier.head(),
        snapshot_seq: uint(snapshot_seq)?,
        snapshot_header: decode("snapshot header", &header)?,
        authors,
    }))
}

async fn authors(conn: &mut SqliteConnection, doc: i64) -> Result<Vec<Author>, StoreError> {
    let rows: Vec<(Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT device, instance FROM authors WHERE doc = ? ORDER BY no")
            .bind(doc)
            .fetch_all(&mut *conn)
            .await?;
    rows.iter()
        .map(|(device, instance)| {
            Ok(Author {
                device: id(device, DeviceId::from_slice)?,
                instance: id(instance, InstanceId::from_slice)?,
            })
        })
        .collect()
}

/// An author's next clock and the leaf of its last record.
pub(crate) async fn chain(
    conn: &mut SqliteConnection,
    doc: i64,
    author: &Author,
) -> Result<(u64, Hash), StoreError> {
    let row: Option<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT next_clock, last_leaf FROM authors WHERE doc = ? AND device = ? AND instance = ?",
    )
    .bind(doc)
    .bind(author.device.as_bytes())
    .bind(author.instance.as_bytes())
    .fetch_optional(&mut *conn)
    .await?;
    match row {
        Some((next_clock, last)) => Ok((uint(next_clock)?, hash(&last)?)),
        None => Ok((0, Hash::ZERO)),
    }
}

/// The root of the first `size` records, which must exist.
pub(crate) async fn root_at(
    conn: &mut SqliteConnection,
    doc: i64,
    size: u64,
) -> Result<Hash, StoreError> {
    let Some(last) = size.checked_sub(1) else {
        return Ok(empty_root());
    };
    let row: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT root FROM records WHERE doc = ? AND seq = ?")
            .bind(doc)
            .bind(int(last))
            .fetch_optional(&mut *conn)
            .await?;
    hash(&row.ok_or(StoreError::Corrupt { what: "log" })?.0)
}

/// Encoded bytes of the updates among the first `size` records, which must exist.
pub(crate) async fn weight_at(
    conn: &mut SqliteConnection,
    doc: i64,
    size: u64,
) -> Result<u64, StoreError> {
    let Some(last) = size.checked_sub(1) else {
        return Ok(0);
    };
    let row: Option<(i64,)> =
        sqlx::query_as("SELECT weight FROM records WHERE doc = ? AND seq = ?")
            .bind(doc)
            .bind(int(last))
            .fetch_optional(&mut *conn)
            .await?;
    uint(row.ok_or(StoreError::Corrupt { what: "log" })?.0)
}

/// One row of history, without the sealed bytes of snapshots.
#[derive(Debug)]
pub(crate) struct LogRow {
    pub(crate) seq: u64,
    pub(crate) kind: u8,
    /// Number of the author; chained records only.
    pub(crate) author: Option<u64>,
    pub(crate) epoch: u64,
    pub(crate) seen: u64,
    pub(crate) hint: [u8; 8],
    /// Size that the snapshot active before this record covers.
    pub(crate) covered: u64,
    pub(crate) leaf: Hash,
    /// Encoded sealed part; none for snapshots and for records kept only by hash.
    pub(crate) sealed: Option<Vec<u8>>,
}

type LogColumns = (
    i64,
    i64,
    Option<i64>,
    i64,
    i64,
    Vec<u8>,
    i64,
    Vec<u8>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
);

/// Reads history: from `from` on, before `end`, and no further than [`limits::BACKLOG_BYTES`] after at least one row.
pub(crate) async fn log(
    conn: &mut SqliteConnection,
    doc: i64,
    from: u64,
    end: u64,
) -> Result<Vec<LogRow>, StoreError> {
    let mut rows = sqlx::query_as::<_, LogColumns>(
        "SELECT seq, kind, author, epoch, seen, hint, covered, leaf, CASE WHEN kind = 3 THEN NULL ELSE sealed END, sum \
         FROM records WHERE doc = ? AND seq >= ? AND seq < ? ORDER BY seq",
    )
    .bind(doc)
    .bind(int(from))
    .bind(int(end))
    .fetch(&mut *conn);
    let mut found = Vec::new();
    let mut bytes = 0usize;
    while let Some(row) = rows.next().await {
        let row = log_row(row?)?;
        bytes = bytes.saturating_add(row.sealed.as_ref().map_or(0, Vec::len));
        found.push(row);
        if bytes >= limits::BACKLOG_BYTES {
            break;
        }
    }
    Ok(found)
}

fn log_row(columns: LogColumns) -> Result<LogRow, StoreError> {
    let (seq, kind, author, epoch, seen, hint, covered, leaf, sealed, sum) = columns;
    let row = LogRow {
        seq: uint(seq)?,
        kind: u8::try_from(kind).map_err(|_| StoreError::Corrupt { what: "kind" })?,
        author: author.map(uint).transpose()?,
        epoch: uint(epoch)?,
        seen: uint(seen)?,
        hint: id(&hint, |bytes| bytes.try_into().ok())?,
        covered: uint(covered)?,
        leaf: hash(&leaf)?,
        sealed,
    };
    check(&row, sum.as_deref())?;
    Ok(row)
}

fn check(row: &LogRow, sum: Option<&[u8]>) -> Result<(), StoreError> {
    let (Some(author), Some(sealed)) = (row.author, row.sealed.as_deref()) else {
        return Ok(());
    };
    let summed = Summed {
        seq: row.seq,
        kind: row.kind,
        author,
        epoch: row.epoch,
        seen: row.seen,
        hint: &row.hint,
        leaf: &row.leaf,
        sealed,
    };
    check_sum("record", sum, || record_sum(&summed))
}

#[derive(sqlx::FromRow)]
struct WholeColumns {
    kind: i64,
    covered: i64,
    epoch: i64,
    clock: Option<i64>,
    seen: i64,
    leaf: Vec<u8>,
    header: Option<Vec<u8>>,
    sealed: Option<Vec<u8>>,
    device: Option<Vec<u8>>,
    instance: Option<Vec<u8>>,
    prev: Option<Vec<u8>>,
    seen_root: Option<Vec<u8>>,
}

/// A record in full, or its leaf where only that is kept.
#[derive(Debug)]
pub(crate) enum Kept {
    Whole {
        record: Box<Record>,
        /// Size that the snapshot active before it covers.
        covered: u64,
    },
    Leaf(Hash),
}

/// Reads one record in full; the header of a chained one is put together again from the log.
pub(crate) async fn whole(
    conn: &mut SqliteConnection,
    group: &GroupId,
    document: &DocumentId,
    doc: i64,
    seq: u64,
) -> Result<Option<Kept>, StoreError> {
    let row: Option<WholeColumns> = sqlx::query_as(
        "SELECT r.kind, r.covered, r.epoch, r.clock, r.seen, r.leaf, r.header, r.sealed, a.device, a.instance, \
                p.leaf AS prev, s.root AS seen_root \
         FROM records r \
         LEFT JOIN authors a ON a.doc = r.doc AND a.no = r.author \
         LEFT JOIN records p ON p.doc = r.doc AND p.author = r.author AND p.clock = r.clock - 1 \
         LEFT JOIN records s ON s.doc = r.doc AND s.seq = r.seen - 1 \
         WHERE r.doc = ? AND r.seq = ?",
    )
    .bind(doc)
    .bind(int(seq))
    .fetch_optional(&mut *conn)
    .await?;
    row.map(|row| put_together(row, group, document))
        .transpose()
}

fn put_together(
    row: WholeColumns,
    group: &GroupId,
    document: &DocumentId,
) -> Result<Kept, StoreError> {
    let corrupt = || StoreError::Corrupt { what: "record" };
    let Some(sealed) = row.sealed else {
        return Ok(Kept::Leaf(hash(&row.leaf)?));
    };
    let sealed: Sealed = decode("sealed record", &sealed)?;
    let covered = uint(row.covered)?;
    let leaf = hash(&row.leaf)?;
    // The leaf covers the record whole: what does not give it is not what was accepted.
    let whole = |header| {
        let record = Box::new(Record { header, sealed });
        if record.leaf() == leaf {
            Ok(Kept::Whole { record, covered })
        } else {
            Err(corrupt())
        }
    };
    if let Some(header) = row.header {
        let header: RecordHeader = decode("record header", &header)?;
        return whole(header);
    }
    let chained = Chained {
        clock: uint(row.clock.ok_or_else(corrupt)?)?,
        prev: row.prev.as_deref().map_or(Ok(Hash::ZERO), hash)?,
    };
    let header = RecordHeader {
        version: RECORD_VERSION,
        group: *group,
        document: *document,
        epoch: uint(row.epoch)?,
        author: Author {
            device: id(&row.device.ok_or_else(corrupt)?, DeviceId::from_slice)?,
            instance: id(&row.instance.ok_or_else(corrupt)?, InstanceId::from_slice)?,
        },
        seen: Head {
            size: uint(row.seen)?,
            root: row
                .seen_root
                .as_deref()
                .map_or_else(|| Ok(empty_root()), hash)?,
        },
        body: match row.kind {
            1 => RecordBody::Update(chained),
            2 => RecordBody::Verdict(chained),
            _ => return Err(corrupt()),
        },
    };
    whole(header)
}

/// Nodes read for one proof.
struct Fetched(HashMap<NodeId, Hash>);

impl NodeSource for Fetched {
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
        self.0.get(&NodeId { level, index }).copied()
    }
}

/// The proof that the log's first `new` records begin with its first `old`.
async fn consistency(
    conn: &mut SqliteConnection,
    doc: i64,
    old: u64,
    new: u64,
) -> Result<Vec<Hash>, StoreError> {
    let corrupt = |_| StoreError::Corrupt { what: "log" };
    let mut nodes = HashMap::new();
    for node in consistency_nodes(old, new).map_err(corrupt)? {
        nodes.insert(node, fetch_node(conn, doc, node).await?);
    }
    consistency_proof_from(&Fetched(nodes), old, new).map_err(corrupt)
}

/// The newest of many proofs: records of one author, written in one go, need the same.
#[derive(Debug, Default)]
pub(crate) struct Proofs(Option<(u64, u64, Vec<Hash>)>);

impl Proofs {
    /// As [`consistency`]; empty where the smaller size is not below the larger.
    pub(crate) async fn get(
        &mut self,
        conn: &mut SqliteConnection,
        doc: i64,
        old: u64,
        new: u64,
    ) -> Result<Vec<Hash>, StoreError> {
        if old >= new {
            return Ok(Vec::new());
        }
        if let Some((of, to, proof)) = &self.0
            && (*of, *to) == (old, new)
        {
            return Ok(proof.clone());
        }
        let proof = consistency(conn, doc, old, new).await?;
        self.0 = Some((old, new, proof.clone()));
        Ok(proof)
    }
}

async fn fetch_node(
    conn: &mut SqliteConnection,
    doc: i64,
    node: NodeId,
) -> Result<Hash, StoreError> {
    let corrupt = StoreError::Corrupt { what: "log" };
    if node.level >= NODE_LEVEL {
        let row: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT hash FROM nodes WHERE doc = ? AND level = ? AND at = ?")
                .bind(doc)
                .bind(i64::from(node.level))
                .bind(int(node.index))
                .fetch_optional(&mut *conn)
                .await?;
        return hash(&row.ok_or(corrupt)?.0);
    }
    let width = 1u64 << node.level;
    let from = node.index.saturating_mul(width);
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as(
        "SELECT leaf FROM records WHERE doc = ? AND seq >= ? AND seq < ? ORDER BY seq",
    )
    .bind(doc)
    .bind(int(from))
    .bind(int(from.saturating_add(width)))
    .fetch_all(&mut *conn)
    .await?;
    if rows.len() as u64 != width {
        return Err(corrupt);
    }
    let leaves = rows
        .iter()
        .map(|(leaf,)| hash(leaf))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(root_of(&leaves))
}
