//! Accepting snapshots.

use std::sync::Arc;

use bytes::Bytes;
use conclave_mls::{GroupState, verify_signature};
use conclave_proto::codec::{Varint, encode};
use conclave_proto::frame::{Answer, ServiceFrame};
use conclave_proto::record::{RECORD_LABEL, RECORD_VERSION, Record, RecordHeader, SnapshotHeader};
use conclave_proto::refusal::{ForbiddenWhy, RecordFault};
use conclave_proto::{Hash, Head, RecordBody, Refusal, Role, limits};
use sqlx::SqliteConnection;

use super::encode::{hint, put_whole};
use super::insert::NewRow;
use super::publish::{NewSnapshot, publish_snapshot};
use super::table::Table;
use super::{Document, rows};
use crate::group::{Group, not_member};
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
pub(crate) fn check(
    state: &GroupState,
    conn: &Conn,
    record: &Record,
) -> Result<SnapshotHeader, Refusal> {
    let header = &record.header;
    let RecordBody::Snapshot(snapshot) = header.body else {
        return Err(bad(RecordFault::Malformed));
    };
    if header.version != RECORD_VERSION {
        return Err(bad(RecordFault::Malformed));
    }
    if header.author.device != conn.device {
        return Err(Refusal::Forbidden {
            why: ForbiddenWhy::NotYours,
        });
    }
    let row = state
        .roster
        .current_row(&conn.device)
        .ok_or_else(|| not_member(state, &conn.device))?;
    if header.epoch != state.epoch {
        return Err(Refusal::StaleEpoch {
            current: state.epoch,
        });
    }
    if row.role < Role::Editor {
        return Err(Refusal::Forbidden {
            why: ForbiddenWhy::Role,
        });
    }
    if record.sealed.ciphertext.len() > limits::SNAPSHOT_BYTES {
        return Err(Refusal::TooLarge {
            max: limits::SNAPSHOT_BYTES as u64,
        });
    }
    let signature = &record.sealed.signature;
    verify_signature(row, RECORD_LABEL, &record.core().0, signature).map_err(bad)?;
    Ok(snapshot)
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
    let snapshot = check(&view, conn, &record)?;
    let may_replace = view.role_of(&conn.device) >= Some(Role::Admin);
    document
        .ensure_prefix(&record.header.seen, bad(RecordFault::SeenHead))
        .await?;
    document
        .ensure_prefix(&snapshot.covered, bad(RecordFault::Covered))
        .await?;
    let mut body = Vec::new();
    put_whole(&mut body, record.clone(), Vec::new());
    let (document, conn) = (document.clone(), conn.clone());
    let (doc, device) = (document.row, conn.device);
    document
        .env
        .clone()
        .writer
        .call_then(
            move |conn| {
                Box::pin(async move {
                    accounts::ensure_active(conn, &device).await?;
                    store(conn, doc, &record, &snapshot, may_replace).await
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
                let covered = snapshot.covered.size;
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

/// The answer that this very snapshot got before.
async fn already(document: &Document, record: &Record) -> Result<Option<Answer>, OpError> {
    let mut reads = document.env.reads.acquire().await?;
    let place = position_of(&mut reads, document.row, &record.leaf()).await?;
    Ok(place.map(|(seq, head)| Answer::Accepted { seq, head }))
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

/// The active snapshot inside the writer's transaction.
struct Active {
    seq: u64,
    id: Hash,
    header: SnapshotHeader,
    crdt: u8,
    due_epoch: u64,
}

impl Active {
    fn is_parent_of(&self, snapshot: &SnapshotHeader) -> bool {
        snapshot.parent == self.id && snapshot.chain_proof == self.header.successor_proof(&self.id)
    }

    /// Whether the snapshot names the same parent: so an admin replaces one that is disputed.
    fn is_sibling_of(&self, snapshot: &SnapshotHeader) -> bool {
        snapshot.parent == self.header.parent && snapshot.chain_proof == self.header.chain_proof
    }
}

async fn active(conn: &mut SqliteConnection, doc: i64) -> Result<Active, StoreError> {
    let (seq, id, header, crdt, due_epoch): (i64, Vec<u8>, Vec<u8>, i64, i64) = sqlx::query_as(
        "SELECT snapshot_seq, snapshot_id, snapshot_header, crdt, due_epoch FROM documents WHERE id = ?",
    )
    .bind(doc)
    .fetch_one(&mut *conn)
    .await?;
    let header: RecordHeader = decode("snapshot header", &header)?;
    let RecordBody::Snapshot(header) = header.body else {
        return Err(StoreError::Corrupt {
            what: "snapshot header",
        });
    };
    Ok(Active {
        seq: uint(seq)?,
        id: hash(&id)?,
        header,
        crdt: u8::try_from(crdt).map_err(|_| StoreError::Corrupt { what: "CRDT kind" })?,
        due_epoch: uint(due_epoch)?,
    })
}

async fn store(
    conn: &mut SqliteConnection,
    doc: i64,
    record: &Record,
    snapshot: &SnapshotHeader,
    may_replace: bool,
) -> Result<Stored, OpError> {
    let id = record.leaf();
    if let Some((seq, head)) = position_of(conn, doc, &id).await? {
        return Ok(Stored::Known { seq, head });
    }
    let mut table = Table::load(conn, doc).await?;
    let active = active(conn, doc).await?;
    let epoch = record.header.epoch;
    if table.closed {
        return Err(Refusal::DocumentClosed.into());
    }
    if table.epoch != epoch {
        return Err(Refusal::StaleEpoch {
            current: table.epoch,
        }
        .into());
    }
    if snapshot.crdt != active.crdt {
        return Err(bad(RecordFault::Malformed).into());
    }
    let follows = active.is_parent_of(snapshot);
    let replaces = may_replace && active.is_sibling_of(snapshot);
    if !follows && !replaces {
        return Err(bad(RecordFault::Parent).into());
    }
    // Covering the active snapshot's own position too keeps replaced snapshots out of every tail.
    if snapshot.covered.size <= active.seq
        || snapshot.covered.size > table.size()
        || rows::root_at(conn, doc, snapshot.covered.size).await? != snapshot.covered.root
    {
        return Err(bad(RecordFault::Covered).into());
    }
    let settles = active.due_epoch > 0
        && epoch >= active.due_epoch
        && covers_older(conn, doc, snapshot.covered.size, active.due_epoch).await?;
    let seq = table.size();
    table.push(row(record));
    table.write(conn).await?;
    sqlx::query(
        "UPDATE documents SET snapshot_seq = ?, snapshot_id = ?, snapshot_header = ?, snapshot_epoch_seq = ?, \
             covered = ?, due_epoch = ? WHERE id = ?",
    )
    .bind(int(seq))
    .bind(id.as_bytes())
    .bind(encode(&record.header))
    .bind(int(table.last_epoch_seq))
    .bind(int(snapshot.covered.size))
    .bind(int(if settles { 0 } else { active.due_epoch }))
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
