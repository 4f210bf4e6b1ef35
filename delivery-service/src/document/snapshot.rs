//! Accepting snapshots.

use std::sync::Arc;

use bytes::Bytes;
use conclave_proto::codec::{Varint, encode};
use conclave_proto::frame::{Answer, ServiceFrame};
use conclave_proto::record::{RECORD_LABEL, Record, RecordHeader, SnapshotHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Hash, Head, RecordBody, Refusal, UnixMs};
use conclave_rules::{
    Fit, Gate, LogId, Place, RosterRow, Seen, judge_author, judge_record, max_sealed_bytes,
    verify_signature,
};
use sqlx::SqliteConnection;

use super::encode::{hint, put_whole};
use super::insert::NewRow;
use super::publish::{NewSnapshot, publish_snapshot};
use super::table::Table;
use super::{Document, retention, rows};
use crate::group::Group;
use crate::hub::Conn;
use crate::store::codes::{decode, hash, int, uint};
use crate::store::{OpError, StoreError, accounts};

const fn bad(fault: RecordFault) -> Refusal {
    Refusal::BadRecord { fault }
}

/// The head that a snapshot covers; empty where the header is no snapshot's.
pub(crate) fn covered(header: &RecordHeader) -> Head {
    match header.body {
        RecordBody::Snapshot(snapshot) => snapshot.covered,
        _ => Head::EMPTY,
    }
}

/// Checks what needs no log: author, epoch, role, kind, size, signature.
pub(crate) fn check(record: &Record, at: &Place<'_>) -> Result<(), Refusal> {
    check_header(&record.header, at)?;
    let max = max_sealed_bytes(&record.header.body);
    if record.sealed.ciphertext.len() > max {
        return Err(Refusal::TooLarge { max: max as u64 });
    }
    let row = at.row.ok_or(at.answer(RecordFault::NotMember))?;
    let signature = &record.sealed.signature;
    verify_signature(row, RECORD_LABEL, &record.core().0, signature).map_err(bad)
}

/// Of that, what the header tells.
fn check_header(header: &RecordHeader, at: &Place<'_>) -> Result<(), Refusal> {
    if !matches!(header.body, RecordBody::Snapshot(_)) {
        return Err(bad(RecordFault::Malformed));
    }
    let judged = judge_author(header, at);
    judged.map(drop).map_err(|fault| at.answer(fault))
}

/// The row of a snapshot; position and root follow when it is appended.
pub(crate) fn row(record: &Record) -> NewRow {
    NewRow {
        seq: 0,
        kind: 3,
        author: None,
        clock: None,
        epoch: record.header.epoch,
        seen: record.header.seen.size,
        hint: hint(&record.header.seen.root),
        covered: 0,
        leaf: record.leaf(),
        root: Hash::ZERO,
        header: Some(encode(&record.header)),
        sealed: Bytes::from(encode(&record.sealed)),
        bytes: 0,
        weight: 0,
    }
}

/// What became of a snapshot.
enum Stored {
    /// It was there already.
    Known { seq: u64, head: Head },
    /// It is new.
    New { seq: u64, head: Head, late: bool },
}

/// Takes a snapshot and answers the request, in the log's order where the connection has the document open.
pub(crate) async fn put(
    group: &Group,
    document: &Arc<Document>,
    conn: &Arc<Conn>,
    record: Record,
    request: Varint,
) -> Result<(), OpError> {
    if let Some(answer) = already(document, &record).await? {
        conn.outbox
            .send_frame(&ServiceFrame::Response {
                id: request,
                answer,
            })
            .await;
        return Ok(());
    }
    let view = group.view();
    let at = Place::of_device(&view, &conn.device, &record.header)?;
    check(&record, &at)?;
    let seen = document.has_seen(&record.header).await?;
    let row = at.row.cloned();
    let covered = covered(&record.header).size;
    let mut body = Vec::new();
    put_whole(&mut body, record.clone(), Vec::new());
    let (document, conn) = (document.clone(), conn.clone());
    let (env, doc, device) = (document.env.clone(), document.row, conn.device);
    let key = (conn.user, doc);
    document
        .env
        .clone()
        .writer
        .call_then(
            move |conn| {
                Box::pin(async move {
                    accounts::ensure_active(conn, &device).await?;
                    let now = env.clock.now();
                    let spend = || env.snapshots.take(key, 1, now);
                    let stored =
                        store(conn, doc, &record, (row.as_ref(), seen), now, spend).await?;
                    retention::sweep(conn, now, crate::limits::SWEPT_WITH_SNAPSHOT).await?;
                    Ok(stored)
                })
            },
            move |stored| {
                let (seq, head, late) = match *stored {
                    Stored::Known { seq, head } => (seq, head, None),
                    Stored::New { seq, head, late } => (seq, head, Some(late)),
                };
                let answer = Answer::Accepted { seq, head };
                let frame = ServiceFrame::Response {
                    id: request,
                    answer,
                };
                let frame = Bytes::from(encode(&frame));
                let answered = late.is_some_and(|late| {
                    let new = NewSnapshot {
                        seq,
                        covered,
                        late,
                        root: head.root,
                        body,
                    };
                    publish_snapshot(&document, &new, conn.id, &frame)
                });
                if !answered {
                    conn.outbox.push(frame);
                }
            },
        )
        .await?;
    Ok(())
}

/// Judges a snapshot of which only the header has come yet, so that nobody uploads what is refused anyway.
pub(crate) async fn judge_early(
    group: &Group,
    document: &Document,
    conn: &Conn,
    header: &RecordHeader,
) -> Result<(), OpError> {
    let view = group.view();
    let at = Place::of_device(&view, &conn.device, header)?;
    check_header(header, &at)?;
    let seen = document.has_seen(header).await?;
    let mut reads = document.env.reads.acquire().await?;
    if is_known(&mut reads, document.row, header).await? {
        return Ok(());
    }
    let table = Table::load(&mut reads, document.row).await?;
    let judged = judge(&mut reads, document.row, &table, header, (at.row, seen)).await?;
    if judged.has_news {
        return Ok(());
    }
    let now = document.env.clock.now();
    let key = (conn.user, document.row);
    Ok(document.env.snapshots.has(key, 1, now)?)
}

/// The answer that this very snapshot got before.
async fn already(document: &Document, record: &Record) -> Result<Option<Answer>, OpError> {
    let mut reads = document.env.reads.acquire().await?;
    let place = position_of(&mut reads, document.row, &record.leaf()).await?;
    Ok(place.map(|(seq, head)| Answer::Accepted { seq, head }))
}

/// Whether a snapshot with this very header is there already: then it is answered once it has come whole.
async fn is_known(
    conn: &mut SqliteConnection,
    doc: i64,
    header: &RecordHeader,
) -> Result<bool, StoreError> {
    let found: Option<(i64,)> =
        sqlx::query_as("SELECT seq FROM records WHERE doc = ? AND kind = 3 AND header = ?")
            .bind(doc)
            .bind(encode(header))
            .fetch_optional(&mut *conn)
            .await?;
    Ok(found.is_some())
}

async fn position_of(
    conn: &mut SqliteConnection,
    doc: i64,
    leaf: &Hash,
) -> Result<Option<(u64, Head)>, StoreError> {
    let row: Option<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT seq, root FROM records WHERE doc = ? AND leaf = ? AND kind = 3")
            .bind(doc)
            .bind(leaf.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    row.map(|(seq, root)| {
        let seq = uint(seq)?;
        Ok((
            seq,
            Head {
                size: seq.saturating_add(1),
                root: hash(&root)?,
            },
        ))
    })
    .transpose()
}

/// The active snapshot of a document.
struct Active {
    seq: u64,
    id: Hash,
    header: SnapshotHeader,
    epoch: u64,
    /// Encoded size.
    bytes: u64,
    due_epoch: u64,
    /// Position of its parent, and when that was replaced.
    parent: Option<(u64, UnixMs)>,
}

impl Active {
    /// As the rules see it.
    fn as_judged(&self) -> conclave_rules::Active {
        conclave_rules::Active {
            seq: self.seq,
            id: self.id,
            header: self.header,
        }
    }
}

#[derive(sqlx::FromRow)]
struct ActiveColumns {
    snapshot_seq: i64,
    snapshot_id: Vec<u8>,
    snapshot_header: Vec<u8>,
    sealed_bytes: Option<i64>,
    due_epoch: i64,
    parent_seq: Option<i64>,
    parent_ms: Option<i64>,
}

async fn active(conn: &mut SqliteConnection, doc: i64) -> Result<Active, StoreError> {
    let row: ActiveColumns = sqlx::query_as(
        "SELECT d.snapshot_seq, d.snapshot_id, d.snapshot_header, LENGTH(r.sealed) AS sealed_bytes, d.due_epoch, \
                d.parent_seq, d.parent_ms \
         FROM documents d LEFT JOIN records r ON r.doc = d.id AND r.seq = d.snapshot_seq WHERE d.id = ?",
    )
    .bind(doc)
    .fetch_one(&mut *conn)
    .await?;
    let header: RecordHeader = decode("snapshot header", &row.snapshot_header)?;
    let RecordBody::Snapshot(snapshot) = header.body else {
        return Err(StoreError::Corrupt {
            what: "snapshot header",
        });
    };
    let sealed_bytes = row.sealed_bytes.ok_or(StoreError::Corrupt {
        what: "active snapshot",
    })?;
    let parent = match row.parent_seq.zip(row.parent_ms) {
        Some((seq, ms)) => Some((uint(seq)?, UnixMs(uint(ms)?))),
        None => None,
    };
    Ok(Active {
        seq: uint(row.snapshot_seq)?,
        id: hash(&row.snapshot_id)?,
        header: snapshot,
        epoch: header.epoch,
        bytes: uint(sealed_bytes)?.saturating_add(row.snapshot_header.len() as u64),
        due_epoch: uint(row.due_epoch)?,
        parent,
    })
}

/// A snapshot that may follow in the log.
struct Judged {
    active: Active,
    /// Whether it takes the active one's place, rather than following it.
    replaces: bool,
    /// Whether it is under a newer epoch than the active one, or covers updates of at least half that one's size.
    has_news: bool,
}

/// Judges a snapshot by its header, against the log as `table` has it. `row` is its author's.
async fn judge(
    conn: &mut SqliteConnection,
    doc: i64,
    table: &Table,
    header: &RecordHeader,
    (row, seen): (Option<&RosterRow>, Seen),
) -> Result<Judged, OpError> {
    let active = active(conn, doc).await?;
    if table.closed {
        return Err(Refusal::DocumentClosed.into());
    }
    let covered = covered(header);
    let is_prefix = covered.size <= table.size()
        && rows::root_at(conn, doc, covered.size).await? == covered.root;
    let at = Place {
        log: LogId {
            group: header.group,
            document: header.document,
        },
        row,
        chain: None,
        active: Some(&active.as_judged()),
        seen,
        covered: Seen::known(is_prefix),
        gate: Gate::Before {
            current: table.epoch,
        },
    };
    let fit = judge_record(header, &at).map_err(|fault| at.answer(fault))?;
    let Fit::Snapshot { replaces, .. } = fit else {
        return Err(bad(RecordFault::Malformed).into());
    };
    let before = rows::weight_at(conn, doc, active.header.covered.size).await?;
    let news = rows::weight_at(conn, doc, covered.size)
        .await?
        .saturating_sub(before);
    let has_news = header.epoch > active.epoch || news.saturating_mul(2) >= active.bytes;
    Ok(Judged {
        active,
        replaces,
        has_news,
    })
}

/// Puts a snapshot at the end of the log. `spend` is asked where it has little new in it.
async fn store(
    conn: &mut SqliteConnection,
    doc: i64,
    record: &Record,
    author: (Option<&RosterRow>, Seen),
    now: UnixMs,
    spend: impl FnOnce() -> Result<(), Refusal>,
) -> Result<Stored, OpError> {
    let id = record.leaf();
    if let Some((seq, head)) = position_of(conn, doc, &id).await? {
        return Ok(Stored::Known { seq, head });
    }
    let mut table = Table::load(conn, doc).await?;
    let judged = judge(conn, doc, &table, &record.header, author).await?;
    if !judged.has_news {
        spend()?;
    }
    let active = &judged.active;
    let (epoch, covered) = (record.header.epoch, covered(&record.header).size);
    let settles = active.due_epoch > 0
        && epoch >= active.due_epoch
        && covers_older(conn, doc, covered, active.due_epoch).await?;
    let parent = if judged.replaces {
        retention::replaced(conn, doc, active.seq, now).await?;
        active.parent
    } else {
        if let Some((seq, since)) = active.parent {
            retention::replaced(conn, doc, seq, since).await?;
        }
        Some((active.seq, now))
    };
    let seq = table.size();
    table.push(row(record));
    table.write(conn).await?;
    sqlx::query(
        "UPDATE documents SET snapshot_seq = ?, snapshot_id = ?, snapshot_header = ?, snapshot_epoch_seq = ?, \
             covered = ?, due_epoch = ?, parent_seq = ?, parent_ms = ? WHERE id = ?",
    )
    .bind(int(seq))
    .bind(id.as_bytes())
    .bind(encode(&record.header))
    .bind(int(table.last_epoch_seq))
    .bind(int(covered))
    .bind(int(if settles { 0 } else { active.due_epoch }))
    .bind(parent.map(|(seq, _)| int(seq)))
    .bind(parent.map(|(_, since)| int(since.0)))
    .bind(doc)
    .execute(&mut *conn)
    .await?;
    let late = record.header.seen.size < table.covered;
    Ok(Stored::New {
        seq,
        late,
        head: Head {
            size: table.size(),
            root: table.root(),
        },
    })
}

/// Whether every record of an epoch before `due_epoch` lies below `covered`. Epochs never decrease along a log, so the first record that
/// is not covered decides.
async fn covers_older(
    conn: &mut SqliteConnection,
    doc: i64,
    covered: u64,
    due_epoch: u64,
) -> Result<bool, StoreError> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT epoch FROM records WHERE doc = ? AND seq = ?")
        .bind(doc)
        .bind(int(covered))
        .fetch_optional(&mut *conn)
        .await?;
    match row {
        Some((epoch,)) => Ok(uint(epoch)? >= due_epoch),
        None => Ok(true),
    }
}
