//! A member's view of a document's Merkle log: enough to append, to give the root of every prefix since its base, and to
//! compare a leaf that comes again.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::Hash;
use conclave_proto::merkle::{
    Frontier, Head, MerkleError, NodeSource, consistency_proof_from, verify_consistency,
};

/// The log from a base on. Below the base only the base's own head is known.
#[derive(Clone, Debug)]
pub struct LogView {
    base: Frontier,
    frontier: Frontier,
    /// Per level, the nodes completed since the base; `first[level]` is the index of the first.
    levels: Vec<Vec<Hash>>,
    first: Vec<u64>,
    /// The last head below the base that a proof showed to be one of this log's.
    shown: Option<Head>,
}

impl NodeSource for LogView {
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
        #[cfg(test)]
        tests::READ.with(|read| read.set(read.get() + 1));
        let at = usize::try_from(level).ok()?;
        if let Some(offset) = self
            .first
            .get(at)
            .and_then(|first| index.checked_sub(*first))
        {
            return self
                .levels
                .get(at)?
                .get(usize::try_from(offset).ok()?)
                .copied();
        }
        self.base_node(level, index)
    }
}

impl LogView {
    /// A log that begins after `base`.
    #[must_use]
    pub fn new(base: Frontier) -> Self {
        Self {
            frontier: base.clone(),
            base,
            levels: Vec::new(),
            first: Vec::new(),
            shown: None,
        }
    }

    /// Peaks of the base serve as nodes: every peak of a later prefix that ends at or before the base is one of them.
    fn base_node(&self, level: u32, index: u64) -> Option<Hash> {
        let size = self.base.size();
        let width = 1u64.checked_shl(level)?;
        if size & width == 0
            || index.checked_add(1)?.checked_mul(width)? != (size >> level) << level
        {
            return None;
        }
        let rank = size.checked_shr(level + 1).map_or(0, u64::count_ones);
        self.base.nodes().get(usize::try_from(rank).ok()?).copied()
    }

    /// Head where this view begins.
    #[must_use]
    pub fn base(&self) -> Head {
        self.base.head()
    }

    /// Frontier where this view begins. With the leaves after it, all else follows.
    #[must_use]
    pub fn base_frontier(&self) -> &Frontier {
        &self.base
    }

    /// Leaves of the records from `from` up to `to` (exclusive), as far as they lie in the view.
    pub fn leaves(&self, from: u64, to: u64) -> impl Iterator<Item = Hash> {
        let base = self.base.size();
        let at = |seq: u64| usize::try_from(seq.saturating_sub(base)).unwrap_or(usize::MAX);
        let (skip, end) = (at(from), at(to));
        let leaves = self.levels.first().map_or(&[][..], Vec::as_slice);
        leaves.iter().take(end).skip(skip).copied()
    }

    /// Head after all records.
    #[must_use]
    pub fn head(&self) -> Head {
        self.frontier.head()
    }

    /// Number of records, those before the base included.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Frontier after all records.
    #[must_use]
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// Appends a record.
    pub fn push(&mut self, leaf: Hash) {
        let (levels, first) = (&mut self.levels, &mut self.first);
        self.frontier.push_with(leaf, |level, index, hash| {
            let at = level as usize;
            if at == levels.len() {
                levels.push(Vec::new());
                first.push(index);
            }
            if let Some(row) = levels.get_mut(at) {
                row.push(hash);
            }
        });
    }

    /// Takes back the last records, down to `size`, which must not lie below the base.
    pub fn truncate(&mut self, size: u64) {
        let Some(frontier) = self.frontier_at(size) else {
            return;
        };
        for ((level, row), first) in (0u32..).zip(&mut self.levels).zip(&self.first) {
            let complete = size
                .checked_shr(level)
                .unwrap_or_default()
                .saturating_sub(*first);
            row.truncate(usize::try_from(complete).unwrap_or(usize::MAX));
        }
        self.frontier = frontier;
    }

    /// Head of the first `size` records; `None` past the end, and below the base but for what was shown last.
    #[must_use]
    pub fn head_at(&self, size: u64) -> Option<Head> {
        if let Some(head) = self.shown.filter(|head| head.size == size) {
            return Some(head);
        }
        if size < self.base.size() || size > self.size() {
            return None;
        }
        conclave_proto::merkle::head_from(self, size).ok()
    }

    /// Frontier of the first `size` records; `None` below the base or past the end.
    #[must_use]
    pub fn frontier_at(&self, size: u64) -> Option<Frontier> {
        if size < self.base.size() || size > self.size() {
            return None;
        }
        Frontier::from_source(self, size).ok()
    }

    /// Proof that the log of `to` records begins with that of `from`; `None` below the base or past the end.
    #[must_use]
    pub fn consistency(&self, from: u64, to: u64) -> Option<Vec<Hash>> {
        if from < self.base.size() || to > self.size() {
            return None;
        }
        consistency_proof_from(self, from, to).ok()
    }

    /// Leaf of the record at `seq`; `None` below the base or past the end.
    #[must_use]
    pub fn leaf_at(&self, seq: u64) -> Option<Hash> {
        let offset = seq.checked_sub(self.base.size())?;
        self.levels
            .first()?
            .get(usize::try_from(offset).ok()?)
            .copied()
    }

    /// Positions of the records with these leaves; those that are not in the view are missing. Walks over the view once.
    #[must_use]
    pub fn positions_of(&self, wanted: &BTreeSet<Hash>) -> BTreeMap<Hash, u64> {
        let leaves = self.levels.first().map_or(&[][..], Vec::as_slice);
        (self.base.size()..)
            .zip(leaves)
            .filter(|(_, leaf)| wanted.contains(leaf))
            .map(|(seq, leaf)| (*leaf, seq))
            .collect()
    }

    /// Whether `head` is a true prefix of this log. Below the base a consistency proof to the base, or to `also`, decides.
    ///
    /// # Errors
    /// [`SeenFault::Wrong`] when it is certainly none, [`SeenFault::Unproven`] when that cannot be told from here.
    pub fn check_prefix(&self, head: &Head, proof: &[Hash], also: &Head) -> Result<(), SeenFault> {
        if head.size > self.size() {
            return Err(SeenFault::Wrong);
        }
        if let Some(own) = self.head_at(head.size) {
            return if own == *head {
                Ok(())
            } else {
                Err(SeenFault::Wrong)
            };
        }
        let to_base = verify_consistency(head, &self.base(), proof);
        let to_also = || -> Result<(), MerkleError> {
            if self.head_at(also.size) == Some(*also) {
                verify_consistency(head, also, proof)
            } else {
                Err(MerkleError::RootMismatch)
            }
        };
        to_base
            .or_else(|_| to_also())
            .map_err(|_| SeenFault::Unproven)
    }

    /// A proof has shown that `head` is a true prefix of this log: records that name it need none.
    pub fn show(&mut self, head: Head) {
        if head.size < self.base.size() {
            self.shown = Some(head);
        }
    }

    /// Forgets everything below `size`, which becomes the base, and hands out the leaves that go. Does nothing outside the view. Nothing is
    /// hashed: what lies after the new base is kept as it is.
    pub fn rebase(&mut self, size: u64) -> Vec<Hash> {
        if size == self.base.size() {
            return Vec::new();
        }
        let Some(base) = self.frontier_at(size) else {
            return Vec::new();
        };
        let gone = self.leaves(self.base.size(), size).collect();
        for ((level, row), first) in (0u32..).zip(&mut self.levels).zip(&mut self.first) {
            // The first node at this level that ends after the base.
            let begin = size.checked_shr(level).unwrap_or_default();
            let skip = usize::try_from(begin.saturating_sub(*first)).unwrap_or(usize::MAX);
            row.drain(..skip.min(row.len()));
            *first = begin.max(*first);
        }
        self.base = base;
        gone
    }
}

/// Why a seen head was not accepted as a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenFault {
    /// It is no prefix of this log.
    Wrong,
    /// It lies below the base and the proof does not show it.
    Unproven,
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_proto::merkle::{consistency_proof, leaf_hash, root_of};

    fn leaf(at: u64) -> Hash {
        leaf_hash(&[&at.to_be_bytes()])
    }

    #[test]
    fn every_prefix_since_every_base_has_the_right_root() {
        let leaves: Vec<Hash> = (0..40).map(leaf).collect();
        for base_size in 0..=20usize {
            let mut base = Frontier::new();
            leaves[..base_size].iter().for_each(|leaf| base.push(*leaf));
            let mut log = LogView::new(base);
            leaves[base_size..].iter().for_each(|leaf| log.push(*leaf));
            let mut restored = LogView::new(log.base_frontier().clone());
            log.leaves(0, 100).for_each(|leaf| restored.push(leaf));
            for size in 0..=leaves.len() {
                let expected = (size >= base_size).then(|| Head {
                    size: size as u64,
                    root: root_of(&leaves[..size]),
                });
                assert_eq!(log.head_at(size as u64), expected);
                assert_eq!(restored.head_at(size as u64), expected);
            }
            assert_eq!(log.leaf_at(30), Some(leaves[30]));
            assert!(log.leaves(30, 33).eq(leaves[30..33].iter().copied()));
            let wanted = BTreeSet::from([leaves[19], leaves[33], leaf(99)]);
            let found = log.positions_of(&wanted);
            assert_eq!(found.get(&leaves[33]), Some(&33));
            assert_eq!(found.contains_key(&leaves[19]), base_size < 20);
            assert_eq!(found.len(), 1 + usize::from(base_size < 20));
            for base in base_size..=leaves.len() {
                let mut moved = log.clone();
                let gone = moved.rebase(base as u64);
                assert_eq!(gone, leaves[base_size..base]);
                assert_eq!((moved.head(), moved.base().size), (log.head(), base as u64));
                for size in 0..=leaves.len() as u64 + 1 {
                    let expected = log.head_at(size).filter(|_| size >= base as u64);
                    assert_eq!(moved.head_at(size), expected);
                    let leaf = log.leaf_at(size).filter(|_| size >= base as u64);
                    assert_eq!(moved.leaf_at(size), leaf);
                }
                // It goes on like any other, also after a second move.
                let more: Vec<Hash> = (40..47).map(self::leaf).collect();
                more.iter().for_each(|leaf| moved.push(*leaf));
                moved.rebase(base as u64 + 5);
                let all = [&leaves[..], &more[..]].concat();
                for size in base + 5..=all.len() {
                    let root = root_of(&all[..size]);
                    assert_eq!(moved.head_at(size as u64).unwrap().root, root);
                }
            }
            for size in base_size..=leaves.len() {
                let mut shorter = log.clone();
                shorter.truncate(size as u64);
                assert_eq!(Some(shorter.head()), log.head_at(size as u64));
                leaves[size..].iter().for_each(|leaf| shorter.push(*leaf));
                assert_eq!(shorter.head(), log.head());
                assert_eq!(shorter.head_at(size as u64), log.head_at(size as u64));
            }
        }
    }

    std::thread_local! {
        /// Nodes that were looked up.
        pub(super) static READ: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
    }

    #[test]
    fn moving_the_base_looks_at_its_peaks_and_keeps_the_rest() {
        for size in [1_000, 100_000u64] {
            let mut log = LogView::new(Frontier::new());
            (0..size).for_each(|at| log.push(leaf(at)));
            // Most of a log that is replayed lies after its base.
            for base in [size / 2 + 1, size - 1, size - 1] {
                let held = |log: &LogView| log.levels.iter().map(Vec::len).sum::<usize>();
                READ.set(0);
                log.rebase(base);
                assert!(READ.get() <= u64::BITS as usize, "{}", READ.get());
                assert!(held(&log) as u64 <= 2 * (size - base) + 64);
                assert_eq!(log.base().size, base);
            }
            READ.set(0);
            log.rebase(size - 1);
            assert_eq!(READ.get(), 0, "the base is there already");
        }
    }

    #[test]
    fn seen_heads_below_the_base_need_a_proof() {
        let leaves: Vec<Hash> = (0..20).map(leaf).collect();
        let mut base = Frontier::new();
        leaves[..13].iter().for_each(|leaf| base.push(*leaf));
        let mut log = LogView::new(base);
        leaves[13..].iter().for_each(|leaf| log.push(*leaf));
        let seen = Head {
            size: 6,
            root: root_of(&leaves[..6]),
        };
        let proof = consistency_proof(&leaves[..13], 6).unwrap();
        assert_eq!(log.check_prefix(&seen, &proof, &log.base()), Ok(()));
        assert_eq!(
            log.check_prefix(&seen, &[], &log.base()),
            Err(SeenFault::Unproven)
        );
        let later = log.head_at(17).unwrap();
        let proof = consistency_proof(&leaves[..17], 6).unwrap();
        assert_eq!(log.check_prefix(&seen, &proof, &later), Ok(()));
        let lie = Head {
            size: 15,
            root: Hash([1; 32]),
        };
        assert_eq!(
            log.check_prefix(&lie, &[], &log.base()),
            Err(SeenFault::Wrong)
        );
        let ahead = Head {
            size: 21,
            root: Hash([1; 32]),
        };
        assert_eq!(
            log.check_prefix(&ahead, &[], &log.base()),
            Err(SeenFault::Wrong)
        );
    }
}
