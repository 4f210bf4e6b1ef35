//! A member's view of a document's Merkle log: enough to append, to give the root of every prefix since its base, and to
//! compare a leaf that comes again.

use conclave_proto::Hash;
use conclave_proto::merkle::{Frontier, Head, MerkleError, NodeSource, verify_consistency};

/// The log from a base on. Below the base only the base's own head is known.
#[derive(Clone, Debug)]
pub struct LogView {
    base: Frontier,
    frontier: Frontier,
    /// Per level, the nodes completed since the base; `first[level]` is the index of the first.
    levels: Vec<Vec<Hash>>,
    first: Vec<u64>,
    /// Encoded size of each record since the base, in bytes.
    bytes: Vec<u32>,
}

/// The parts of a [`LogView`] that are stored; everything else follows.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct StoredLog {
    base: Frontier,
    leaves: Vec<Hash>,
    bytes: Vec<u32>,
}

impl NodeSource for LogView {
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
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
            bytes: Vec::new(),
        }
    }

    /// Rebuilds a stored log.
    #[must_use]
    pub fn restore(stored: StoredLog) -> Self {
        let mut log = Self::new(stored.base);
        let mut sizes = stored.bytes.into_iter();
        for leaf in stored.leaves {
            log.push(leaf, sizes.next().unwrap_or_default());
        }
        log
    }

    /// What to store. Linear in the records since the base.
    #[must_use]
    pub fn to_stored(&self) -> StoredLog {
        StoredLog {
            base: self.base.clone(),
            leaves: self.levels.first().cloned().unwrap_or_default(),
            bytes: self.bytes.clone(),
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

    /// Appends a record of `bytes` encoded bytes.
    pub fn push(&mut self, leaf: Hash, bytes: u32) {
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
        self.bytes.push(bytes);
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
        let count = size.saturating_sub(self.base.size());
        self.bytes
            .truncate(usize::try_from(count).unwrap_or(usize::MAX));
        self.frontier = frontier;
    }

    /// Head of the first `size` records; `None` below the base or past the end.
    #[must_use]
    pub fn head_at(&self, size: u64) -> Option<Head> {
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

    /// Leaf of the record at `seq`; `None` below the base or past the end.
    #[must_use]
    pub fn leaf_at(&self, seq: u64) -> Option<Hash> {
        let offset = seq.checked_sub(self.base.size())?;
        self.levels
            .first()?
            .get(usize::try_from(offset).ok()?)
            .copied()
    }

    /// Position of the record with this leaf; `None` if it is not in the view. Linear.
    #[must_use]
    pub fn find(&self, leaf: &Hash) -> Option<u64> {
        let at = self.levels.first()?.iter().position(|it| it == leaf)?;
        self.base.size().checked_add(at as u64)
    }

    /// Encoded bytes of all records from `seq` on; those below the base count as nothing.
    #[must_use]
    pub fn bytes_from(&self, seq: u64) -> u64 {
        let skip = usize::try_from(seq.saturating_sub(self.base.size())).unwrap_or(usize::MAX);
        self.bytes
            .iter()
            .skip(skip)
            .map(|bytes| u64::from(*bytes))
            .sum()
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

    /// Forgets everything below `size`, which becomes the base. Does nothing outside the view.
    pub fn rebase(&mut self, size: u64) {
        let Some(base) = self.frontier_at(size) else {
            return;
        };
        let skip = usize::try_from(size.saturating_sub(self.base.size())).unwrap_or(usize::MAX);
        let leaves: Vec<Hash> = self
            .levels
            .first()
            .into_iter()
            .flatten()
            .skip(skip)
            .copied()
            .collect();
        let bytes: Vec<u32> = self.bytes.iter().skip(skip).copied().collect();
        *self = Self::restore(StoredLog {
            base,
            leaves,
            bytes,
        });
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
            leaves[base_size..]
                .iter()
                .for_each(|leaf| log.push(*leaf, 10));
            let restored = LogView::restore(log.to_stored());
            for size in 0..=leaves.len() {
                let expected = (size >= base_size).then(|| Head {
                    size: size as u64,
                    root: root_of(&leaves[..size]),
                });
                assert_eq!(log.head_at(size as u64), expected);
                assert_eq!(restored.head_at(size as u64), expected);
            }
            assert_eq!(log.leaf_at(30), Some(leaves[30]));
            assert_eq!(log.bytes_from(35), 50);
            let mut moved = log.clone();
            moved.rebase(25);
            assert_eq!((moved.head(), moved.base().size), (log.head(), 25));
            assert_eq!(moved.head_at(33), log.head_at(33));
            assert_eq!(moved.leaf_at(24), None);
            for size in base_size..=leaves.len() {
                let mut shorter = log.clone();
                shorter.truncate(size as u64);
                assert_eq!(Some(shorter.head()), log.head_at(size as u64));
                leaves[size..]
                    .iter()
                    .for_each(|leaf| shorter.push(*leaf, 10));
                assert_eq!(shorter.head(), log.head());
                assert_eq!(shorter.head_at(size as u64), log.head_at(size as u64));
            }
        }
    }

    #[test]
    fn seen_heads_below_the_base_need_a_proof() {
        let leaves: Vec<Hash> = (0..20).map(leaf).collect();
        let mut base = Frontier::new();
        leaves[..13].iter().for_each(|leaf| base.push(*leaf));
        let mut log = LogView::new(base);
        leaves[13..].iter().for_each(|leaf| log.push(*leaf, 1));
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
