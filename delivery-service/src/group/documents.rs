//! New documents: the entry that lists one and its first snapshot are one transaction.

use std::sync::Arc;

use conclave_proto::codec::encode;
use conclave_proto::frame::Answer;
use conclave_proto::record::{EntryBody, Record};
use conclave_proto::refusal::{ForbiddenWhy, RecordFault};
use conclave_proto::{DeviceId, DocumentId, GroupId, Head, RecordBody, Refusal};
use conclave_rules::{Fit, Place, Seen, judge_record};
use sqlx::SqliteConnection;

use super::Group;
use super::entries::{self, Judged};
use crate::document::snapshot;
use crate::document::table::Table;
use crate::hub::Conn;
use crate::store::codes::int;
use crate::store::{OpError, StoreError};

/// Creates a document.
pub(crate) async fn create(
    group: &Arc<Group>,
    conn: &Conn,
    entry: Record,
    first: Record,
) -> Result<Answer, OpError> {
    let mut core = group.core().await?;
    if let Some(answer) = entries::known(group, &entry.leaf()).await? {
        core.keep();
        return Ok(answer);
    }
    // Judged as a snapshot first: refusing it changes nothing.
    let checked = check(group, conn, &entry, &first).and_then(|created| {
        let judged = entries::judge(group, &mut core, conn, entry)?;
        Ok((created, judged))
    });
    let (created, Judged { new, next }) = match checked {
        Ok(checked) => checked,
        Err(refusal) => {
            core.keep();
            return Err(refusal.into());
        }
    };
    let answer = Answer::Accepted {
        seq: new.size,
        head: new.head,
    };
    let (published, entry, device) = (group.clone(), new.entry.clone(), conn.device);
    group
        .env
        .writer
        .call_then(
            move |conn| {
                Box::pin(async move {
                    entries::append(conn, &new, &device).await?;
                    store(conn, &new.group, &device, &created, &first).await?;
                    Ok(())
                })
            },
            move |()| published.publish(next, &entry, &[]),
        )
        .await?;
    core.keep();
    Ok(answer)
}

/// What the entry creates.
struct Created {
    document: DocumentId,
    crdt: u8,
}

fn check(group: &Group, conn: &Conn, entry: &Record, first: &Record) -> Result<Created, Refusal> {
    let RecordBody::Entry(EntryBody::DocumentCreated { document, crdt }) = entry.header.body else {
        return Err(Refusal::Malformed);
    };
    let bad = |fault| Refusal::BadRecord { fault };
    if first.header.document != document || first.header.group != group.id {
        return Err(bad(RecordFault::WrongDocument));
    }
    if first.header.author != entry.header.author {
        return Err(Refusal::Forbidden {
            why: ForbiddenWhy::NotYours,
        });
    }
    let view = group.view();
    let at = Place::of_device(&view, &conn.device, &first.header)?;
    snapshot::check(first, &at)?;
    let at = Place {
        seen: Seen::known(first.header.seen == Head::EMPTY),
        ..at
    };
    match judge_record(&first.header, &at) {
        Ok(Fit::Snapshot { header, .. }) if header.crdt == crdt => {}
        Ok(_) => return Err(bad(RecordFault::Malformed)),
        Err(fault) => return Err(at.answer(fault)),
    }
    Ok(Created { document, crdt })
}

async fn store(
    conn: &mut SqliteConnection,
    group: &GroupId,
    creator: &DeviceId,
    created: &Created,
    first: &Record,
) -> Result<(), OpError> {
    let header = &first.header;
    let (row,): (i64,) = sqlx::query_as(
        "INSERT INTO documents (group_id, document, crdt, creator, size, frontier, last_epoch, last_epoch_seq, \
             author_count, covered, snapshot_seq, snapshot_id, snapshot_header, snapshot_epoch_seq) \
         VALUES (?, ?, ?, ?, 0, ?, ?, 0, 0, 0, 0, ?, ?, 0) RETURNING id",
    )
    .bind(group.as_bytes())
    .bind(created.document.as_bytes())
    .bind(i64::from(created.crdt))
    .bind(creator.as_bytes())
    .bind(encode(&conclave_proto::Frontier::new()))
    .bind(int(header.epoch))
    .bind(first.leaf().as_bytes())
    .bind(encode(header))
    .fetch_one(&mut *conn)
    .await
    .map_err(StoreError::from)?;
    let mut table = Table::empty(row, header.epoch);
    table.push(snapshot::row(first));
    table.write(conn).await
}
