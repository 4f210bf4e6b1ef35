//! New documents: the entry that lists one and its first snapshot are one transaction.

use std::sync::Arc;

use conclave_order::op::entry::Does;
use conclave_order::op::snapshot;
use conclave_proto::frame::Answer;
use conclave_proto::record::{EntryBody, Record};
use conclave_proto::refusal::{ForbiddenWhy, RecordFault};
use conclave_proto::{Head, RecordBody, Refusal};
use conclave_rules::{Fit, Place, Seen, judge_record};

use super::{Group, Moves, entries, order, stored};
use crate::error::OpError;
use crate::hub::Conn;

/// Creates a document.
pub(crate) async fn create(
    group: &Arc<Group>,
    conn: &Conn,
    entry: Record,
    first: Record,
) -> Result<Answer, OpError> {
    let mut core = group.core().await?;
    if let Some(answer) = stored::known(group, &entry.leaf()).await? {
        core.keep();
        return Ok(answer);
    }
    // Judged as a snapshot first: refusing it changes nothing.
    let judged = check(group, conn, &entry, &first).and_then(|crdt| {
        let first = Box::new(first);
        let does = Does::CreateDocument { first, crdt };
        entries::judge(&mut core, conn, entry, does)
    });
    match judged {
        Ok(new) => order(group, core, new, Moves::default()).await,
        Err(refusal) => {
            core.keep();
            Err(refusal.into())
        }
    }
}

/// Judges what the entry creates. Gives the code of its CRDT kind.
fn check(group: &Group, conn: &Conn, entry: &Record, first: &Record) -> Result<u8, Refusal> {
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
    let at = Place::of_device(&*view, &conn.device, &first.header)?;
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
    Ok(crdt)
}
