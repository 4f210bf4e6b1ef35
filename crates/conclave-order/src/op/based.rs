//! Documents of a group that a member brought, which nobody has from their beginning any more: their logs go on from where a snapshot stands.
//!
//! What was before is believed as a joiner believes it: by the word of who signed the snapshot, which names the log's head there. From there on
//! everything is judged exactly. Who had seen less than that is believed where subtrees show that the log begins with what it saw.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::frame::DocumentBase;
use conclave_proto::merkle::{
    NodeId, NodeSource, consistency_nodes, consistency_proof_from, verify_consistency,
};
use conclave_proto::record::{RECORD_LABEL, Record, RecordBody, RecordHeader, SnapshotHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, Frontier, Hash, Head, Refusal};
use conclave_rules::{
    Gate, GroupState, LogId, Place, Seen, judge_author, max_sealed_bytes, verify_signature,
};

use crate::keys::{Rows, Stop};
use crate::limits::CHECKS_PER_OFFER;
use crate::op::document::{self, Begun};
use crate::op::returned::{Offer, bad, may_follow};
use crate::rows::Mark;

/// Where the log of an offer begins, as far as its first snapshot tells.
pub(crate) struct Based<'a> {
    frontier: &'a Frontier,
    head: Head,
    nodes: Nodes,
    /// The heads below it that records have seen: the log begins with each, as was shown.
    seen: BTreeMap<u64, Hash>,
    /// Place among the records of the snapshot that it is opened with.
    first: usize,
}

/// The right edge of the part of a log from `from` on that lies before its base, where a subtree begins there that goes on after it; the empty one where that
/// begins later. None where it cannot begin there.
#[must_use]
pub fn within(base: &Frontier, from: u64) -> Option<Frontier> {
    let Some(size) = base.size().checked_sub(from) else {
        return Some(Frontier::new());
    };
    let count = usize::try_from(size.count_ones()).ok()?;
    let skip = base.nodes().len().checked_sub(count)?;
    Frontier::from_parts(size, base.nodes().get(skip..)?.to_vec()).ok()
}

/// What a log says where it begins here: no more than its root is known.
#[must_use]
pub fn based(head: &Head) -> Mark {
    Mark {
        root: head.root,
        weight: 0,
        epoch: 0,
    }
}

struct Nodes(BTreeMap<NodeId, Hash>);

impl NodeSource for Nodes {
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
        self.0.get(&NodeId { level, index }).copied()
    }
}

/// The complete subtrees of a frontier.
pub(crate) fn peaks(frontier: &Frontier) -> impl Iterator<Item = (NodeId, Hash)> {
    let size = frontier.size();
    let levels = (0..u64::BITS).rev();
    let levels = levels.filter(move |level| size >> level & 1 == 1);
    levels.zip(frontier.nodes()).map(move |(level, hash)| {
        let index = (size >> level).saturating_sub(1);
        (NodeId { level, index }, *hash)
    })
}

impl<'a> Based<'a> {
    /// Judges what an offer says of where its log begins.
    pub(crate) fn judge(
        base: &'a DocumentBase,
        offer: &Offer<'_>,
        view: &GroupState,
        rows: &Rows,
    ) -> Result<Self, Stop> {
        let size = base.frontier.size();
        // Elsewhere logs come from their beginning: what was there before is known.
        if !rows.is_brought(&offer.log.group)? || size == 0 || size != offer.from {
            return Err(Refusal::Malformed.into());
        }
        let head = base.frontier.head();
        let snapshots = offer.records.iter();
        let first = snapshots
            .map(|record| matches!(record.header.body, RecordBody::Snapshot(_)))
            .position(|is_snapshot| is_snapshot)
            .ok_or(Refusal::Malformed)?;
        let record = offer.records.get(first).ok_or(Refusal::Malformed)?;
        judge_snapshot(offer.log, record, head, view)?;
        let seen = seen_before(offer.records, size)?;
        let nodes = given(base, &seen)?;
        let shown = |(size, root): (&u64, &Hash)| {
            let (size, root) = (*size, *root);
            is_prefix(&Head { size, root }, &head, &nodes)
        };
        if !seen.iter().all(shown) {
            return Err(bad(RecordFault::SeenHead).into());
        }
        Ok(Self {
            frontier: &base.frontier,
            head,
            seen,
            nodes,
            first,
        })
    }

    /// How many of the records that are offered are taken: those up to its first snapshot, without which nobody can open it; those up to `least`; and of
    /// those after them what may be written now.
    pub(crate) fn taken(
        &self,
        offer: &Offer<'_>,
        least: Option<Head>,
        view: &GroupState,
    ) -> Result<usize, Stop> {
        let size = least.map_or(0, |head| head.size);
        // What is known of the log below that says nothing here.
        let wanted = size.saturating_sub(self.head.size);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let mut end = self.frontier.clone();
        let records = offer.records.iter();
        records
            .take(wanted)
            .for_each(|record| end.push(record.leaf()));
        if offer.records.len() < wanted {
            let (have, want) = (0, size);
            return Err(Refusal::Recovering { have, want }.into());
        }
        if least.is_some_and(|head| head.size == end.size() && head != end.head()) {
            return Err(bad(RecordFault::SeenHead).into());
        }
        let least = wanted.max(self.first.saturating_add(1));
        let (needed, beyond) = offer.records.split_at_checked(least).unwrap_or_default();
        let authors: BTreeSet<Author> = needed.iter().map(|it| it.header.author).collect();
        if authors.len() > CHECKS_PER_OFFER {
            let max = CHECKS_PER_OFFER as u64;
            return Err(Refusal::TooLarge { max }.into());
        }
        let at = self.head.size.saturating_add(least as u64);
        Ok(least.saturating_add(may_follow(beyond, at, view, false)))
    }

    /// The document with nothing in its log yet.
    pub(crate) fn begun(&self, offer: &[Record], log: LogId, view: &GroupState) -> Option<Begun> {
        let listed = view.documents.get(&log.document)?;
        let first = offer.get(self.first)?;
        let at = self.head.size.saturating_add(self.first as u64);
        let oldest = (listed.created_epoch, at);
        let nodes = self.nodes.0.iter().map(|(node, hash)| (*node, *hash));
        let begun = document::based(first, oldest, (self.frontier, nodes.collect()));
        Some(begun)
    }

    /// The size that the log has there.
    pub(crate) fn size(&self) -> u64 {
        self.head.size
    }

    /// What the log says there.
    pub(crate) fn mark(&self) -> Mark {
        based(&self.head)
    }

    /// Whether the log begins with a head that lies before it.
    pub(crate) fn has(&self, head: &Head) -> Seen {
        Seen::known(self.seen.get(&head.size) == Some(&head.root))
    }
}

/// The heads below a size that records have seen. Of two of one size one is none of the log's.
fn seen_before(records: &[Record], size: u64) -> Result<BTreeMap<u64, Hash>, Refusal> {
    let mut all = BTreeMap::new();
    for Head { size: of, root } in records.iter().map(|record| record.header.seen) {
        if (1..size).contains(&of) && *all.entry(of).or_insert(root) != root {
            return Err(bad(RecordFault::SeenHead));
        }
    }
    Ok(all)
}

/// The subtrees that came, with those of the frontier. None that shows nothing is stored.
fn given(base: &DocumentBase, wanted: &BTreeMap<u64, Hash>) -> Result<Nodes, Refusal> {
    let size = base.frontier.size();
    // What has been seen ends with a subtree, of which that of no other size ends there: each needs one, but for those that are one.
    if wanted.len() > base.nodes.len().saturating_add(2 * u64::BITS as usize) {
        return Err(bad(RecordFault::SeenHead));
    }
    let mut used = BTreeSet::new();
    for seen in wanted.keys() {
        used.extend(consistency_nodes(*seen, size).map_err(|_| Refusal::Malformed)?);
    }
    let mut nodes: BTreeMap<NodeId, Hash> = peaks(&base.frontier).collect();
    for node in &base.nodes {
        let id = NodeId {
            level: node.level.into(),
            index: node.index,
        };
        if !used.contains(&id) || nodes.insert(id, node.hash).is_some() {
            return Err(Refusal::Malformed);
        }
    }
    Ok(Nodes(nodes))
}

fn is_prefix(head: &Head, of: &Head, nodes: &Nodes) -> bool {
    let proof = consistency_proof_from(nodes, head.size, of.size);
    proof.is_ok_and(|proof| verify_consistency(head, of, &proof).is_ok())
}

/// Judges the snapshot that a document is opened with, as a joiner does that has nothing before it. But it has to cover exactly what is not here: by
/// its author's word the log had this head.
fn judge_snapshot(
    log: LogId,
    record: &Record,
    base: Head,
    view: &GroupState,
) -> Result<(), Refusal> {
    let listed = view.documents.get(&log.document);
    let listed = listed.ok_or(Refusal::UnknownDocument)?;
    let header = &record.header;
    let row = view.row(&header.author.device, header.epoch);
    let place = Place {
        log,
        row,
        chain: None,
        active: None,
        seen: Seen::Unproven,
        covered: Seen::Unproven,
        gate: Gate::After {
            highest: listed.created_epoch,
            current: view.epoch,
        },
    };
    // Of an epoch that the group's log has not come to: that has to be returned first.
    if !judge_author(header, &place).map_err(bad)? {
        return Err(bad(RecordFault::EpochDecreased));
    }
    let snapshot = snapshot(header).ok_or(bad(RecordFault::Malformed))?;
    if snapshot.crdt != listed.crdt
        || record.sealed.ciphertext.len() > max_sealed_bytes(&header.body)
    {
        return Err(bad(RecordFault::Malformed));
    }
    if snapshot.covered != base {
        return Err(bad(RecordFault::Covered));
    }
    if snapshot.parent == Hash::ZERO {
        return Err(bad(RecordFault::Parent));
    }
    let row = row.ok_or_else(|| bad(RecordFault::NotMember))?;
    let signature = &record.sealed.signature;
    verify_signature(row, RECORD_LABEL, &record.core().0, signature).map_err(bad)
}

fn snapshot(header: &RecordHeader) -> Option<SnapshotHeader> {
    match header.body {
        RecordBody::Snapshot(snapshot) => Some(snapshot),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_proto::merkle::{Leaves, leaf_hash};

    #[test]
    fn a_subtree_that_begins_before_the_base_follows_from_its_right_edge() {
        let leaves: Vec<Hash> = (0..77u64)
            .map(|at| leaf_hash(&[&at.to_be_bytes()]))
            .collect();
        let all = Leaves(&leaves);
        for size in 0..=leaves.len() as u64 {
            let mut base = Frontier::new();
            let (below, after) = leaves.split_at(size as usize);
            below.iter().for_each(|leaf| base.push(*leaf));
            for level in 0..7u32 {
                for index in 0..(leaves.len() as u64 >> level) {
                    let (from, end) = (index << level, (index + 1) << level);
                    if end <= size {
                        continue;
                    }
                    let mut under = within(&base, from).unwrap();
                    let count = end - from.max(size);
                    let skip = from.saturating_sub(size);
                    let run = after.iter().skip(skip as usize).take(count as usize);
                    run.for_each(|leaf| under.push(*leaf));
                    assert_eq!(
                        Some(under.root()),
                        all.node(level, index),
                        "{size} {level} {index}"
                    );
                }
            }
        }
    }

    #[test]
    fn peaks_are_the_subtrees_of_the_log() {
        let leaves: Vec<Hash> = (0..77u64)
            .map(|at| leaf_hash(&[&at.to_be_bytes()]))
            .collect();
        for size in 0..=leaves.len() {
            let mut frontier = Frontier::new();
            leaves[..size].iter().for_each(|leaf| frontier.push(*leaf));
            let found: Vec<_> = peaks(&frontier).collect();
            assert_eq!(found.len(), frontier.nodes().len());
            for (NodeId { level, index }, hash) in found {
                assert_eq!(Leaves(&leaves).node(level, index), Some(hash));
                assert!((index + 1) << level <= size as u64);
            }
        }
    }
}
