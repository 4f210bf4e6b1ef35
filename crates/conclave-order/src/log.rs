//! The end of a document's log, while records come to it.

use bytes::Bytes;
use conclave_proto::Hash;
use conclave_proto::merkle::NodeId;
use conclave_rules::LogId;

use crate::change::Change;
use crate::rows::{DocumentRow, RecordKind, RecordRow};

/// Inner nodes of this level and above are stored; lower ones are computed from leaves.
pub const NODE_LEVEL: u32 = 6;

/// A record without a place yet.
#[derive(Debug, Clone)]
pub(crate) struct NewRecord {
    pub(crate) kind: RecordKind,
    pub(crate) chained: Option<(u64, u64)>,
    pub(crate) epoch: u64,
    pub(crate) seen: u64,
    pub(crate) hint: [u8; 8],
    pub(crate) leaf: Hash,
    pub(crate) header: Option<Bytes>,
    pub(crate) sealed: Bytes,
    /// Encoded size, which counts where it is an update.
    pub(crate) bytes: u64,
}

/// A document's log with what is appended to it.
pub(crate) struct Appending {
    pub(crate) log: LogId,
    expected: u64,
    pub(crate) row: DocumentRow,
    records: Vec<RecordRow>,
    nodes: Vec<(NodeId, Hash)>,
}

impl Appending {
    pub(crate) fn to(log: LogId, row: DocumentRow) -> Self {
        Self {
            log,
            expected: row.frontier.size(),
            row,
            records: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// A log of which nothing is here before its base, but for these nodes.
    pub(crate) fn from_base(log: LogId, row: DocumentRow, nodes: Vec<(NodeId, Hash)>) -> Self {
        Self {
            nodes,
            ..Self::to(log, row)
        }
    }

    /// Gives a record its place at the end. Gives the root of the log with it.
    pub(crate) fn push(&mut self, new: NewRecord) -> Hash {
        let row = &mut self.row;
        let seq = row.frontier.size();
        if new.kind.weighs() {
            row.weight = row.weight.saturating_add(new.bytes);
        }
        if new.epoch > row.last_epoch {
            row.last_epoch = new.epoch;
            row.last_epoch_seq = seq;
        }
        let nodes = &mut self.nodes;
        row.frontier.push_with(new.leaf, |level, index, hash| {
            if level >= NODE_LEVEL {
                nodes.push((NodeId { level, index }, hash));
            }
        });
        let root = row.frontier.root();
        self.records.push(RecordRow {
            seq,
            kind: new.kind,
            chained: new.chained,
            epoch: new.epoch,
            seen: new.seen,
            hint: new.hint,
            covered: row.covered,
            leaf: new.leaf,
            root,
            header: new.header,
            sealed: Some(new.sealed),
            weight: row.weight,
        });
        root
    }

    pub(crate) fn change(self) -> Change {
        Change::Append {
            log: self.log,
            expected: self.expected,
            records: self.records,
            nodes: self.nodes,
            row: self.row,
        }
    }
}
