//! A kept log from its newest snapshot on, for a service that has nothing of the document: where not all of it is kept from the beginning, that is.
//!
//! From what the newest snapshot covers on every record is kept. What some of them have seen may lie before that: the subtrees come along that show it.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::frame::{BaseNode, DocumentBase};
use conclave_proto::merkle::{Frontier, NodeSource as _, consistency_nodes};
use conclave_proto::record::{Record, RecordBody};

use crate::kept::{KeptItem, KeptLog};
use crate::log::LogView;

impl KeptLog {
    /// Where it begins for a service that has nothing of it, and all records from there on. `None` where it has no snapshot but the first, and where not all
    /// is here that this needs.
    #[must_use]
    pub fn from_snapshot(&self) -> Option<(DocumentBase, Vec<&Record>)> {
        let snapshots = self.since(self.first())?.iter().rev();
        let mut covered = snapshots.filter_map(|item| match item {
            KeptItem::Record(record) => match record.header.body {
                RecordBody::Snapshot(snapshot) => Some(snapshot.covered),
                _ => None,
            },
            KeptItem::Leaf(_) => None,
        });
        let covered = covered.next().filter(|covered| covered.size > 0)?;
        let records = self.since(covered.size)?.iter().map(|item| match item {
            KeptItem::Record(record) => Some(record.as_ref()),
            KeptItem::Leaf(_) => None,
        });
        let records = records.collect::<Option<Vec<_>>>()?;
        let log = self.log();
        let frontier = log.frontier_at(covered.size)?;
        if frontier.head() != covered {
            return None;
        }
        let seen = records.iter().map(|record| record.header.seen.size);
        let seen: BTreeSet<u64> = seen
            .filter(|size| (1..covered.size).contains(size))
            .collect();
        let mut nodes = BTreeMap::new();
        for size in seen {
            for node in consistency_nodes(size, covered.size).ok()? {
                let hash = log.node(node.level, node.index)?;
                // Those of the right edge are there.
                if !frontier.nodes().contains(&hash) {
                    nodes.insert((u8::try_from(node.level).ok()?, node.index), hash);
                }
            }
        }
        let nodes = nodes
            .into_iter()
            .map(|((level, index), hash)| BaseNode { level, index, hash });
        let nodes = nodes.collect();
        Some((DocumentBase { frontier, nodes }, records))
    }

    /// The log as far as it is known: from its beginning where all leaves are here, else from where it was opened.
    fn log(&self) -> LogView {
        let base = match self.first() {
            0 => Frontier::new(),
            _ => self.opened_at().clone(),
        };
        let leaves = self.since(base.size()).unwrap_or_default();
        let mut log = LogView::new(base);
        leaves.iter().for_each(|item| log.push(item.leaf()));
        log
    }
}
