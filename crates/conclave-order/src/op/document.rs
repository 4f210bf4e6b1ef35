//! New documents: the entry that lists one and its first snapshot stand or fall together.

use conclave_proto::merkle::NodeId;
use conclave_proto::record::{Record, RecordBody};
use conclave_proto::{DeviceId, Frontier, Hash};

use super::snapshot::{log_of, new_record};
use crate::change::Change;
use crate::log::Appending;
use crate::rows::{ActiveRow, DocumentRow};

/// A document with its first snapshot, in this generation of the service.
#[must_use]
pub fn begin(first: &Record, crdt: u8, creator: DeviceId, generation: u64) -> Vec<Change> {
    let Begun { document, end, .. } = begun(first, crdt, creator, generation);
    vec![document, end.change()]
}

/// A document that has its first snapshot.
pub(crate) struct Begun {
    /// The document, with nothing in its log.
    pub(crate) document: Change,
    /// Its log, with that.
    pub(crate) end: Appending,
    /// The snapshot.
    pub(crate) active: ActiveRow,
}

/// As [`begin`], where more may follow.
pub(crate) fn begun(first: &Record, crdt: u8, creator: DeviceId, generation: u64) -> Begun {
    let header = &first.header;
    let log = log_of(header);
    let row = DocumentRow {
        frontier: Frontier::new(),
        last_epoch: header.epoch,
        last_epoch_seq: 0,
        author_count: 0,
        weight: 0,
        covered: 0,
        closed: None,
        grown_in: generation,
        base: Frontier::new(),
    };
    let new = new_record(first, first.leaf());
    let active = ActiveRow {
        seq: 0,
        id: new.leaf,
        header: *header,
        bytes: (new.sealed.len() + new.header.as_ref().map_or(0, bytes::Bytes::len)) as u64,
        covered_weight: 0,
        epoch_seq: 0,
        due_epoch: 0,
        parent: None,
    };
    let mut end = Appending::to(log, row.clone());
    end.push(new);
    let document = Change::Document {
        log,
        crdt,
        creator,
        row,
        active: active.clone(),
    };
    Begun {
        document,
        end,
        active,
    }
}

/// A document whose log begins at `base` for who has not got more, before its first record: with this snapshot, at a position, it is opened. No record of it
/// is of an epoch before `oldest`. Beside the right edge there are subtrees that show more of what was before.
pub(crate) fn based(
    first: &Record,
    (oldest, seq): (u64, u64),
    (base, nodes): (&Frontier, Vec<(NodeId, Hash)>),
) -> Begun {
    let header = &first.header;
    let log = log_of(header);
    let size = base.size();
    let row = DocumentRow {
        frontier: base.clone(),
        last_epoch: oldest,
        last_epoch_seq: size,
        author_count: 0,
        weight: 0,
        covered: size,
        closed: None,
        grown_in: 0,
        base: base.clone(),
    };
    let new = new_record(first, first.leaf());
    let active = ActiveRow {
        seq,
        id: new.leaf,
        header: *header,
        bytes: (new.sealed.len() + new.header.as_ref().map_or(0, bytes::Bytes::len)) as u64,
        covered_weight: 0,
        epoch_seq: size,
        due_epoch: 0,
        parent: None,
    };
    let crdt = match header.body {
        RecordBody::Snapshot(snapshot) => snapshot.crdt,
        _ => 0,
    };
    let document = Change::Document {
        log,
        crdt,
        creator: header.author.device,
        row: row.clone(),
        active: active.clone(),
    };
    let end = Appending::from_base(log, row, nodes);
    Begun {
        document,
        end,
        active,
    }
}
