//! The newest roots of a document's log, in memory.

use std::collections::VecDeque;

use conclave_proto::Hash;
use conclave_proto::merkle::empty_root;

use crate::limits;

/// Roots of the newest sizes, up to a bound; older ones are read from the database.
#[derive(Debug)]
pub struct Roots {
    /// Size of the log.
    size: u64,
    /// Roots of the sizes up to and including `size`, the newest last.
    recent: VecDeque<Hash>,
}

impl Roots {
    /// Knows only the root of the current size.
    #[must_use]
    pub fn new(size: u64, root: Hash) -> Self {
        Self {
            size,
            recent: VecDeque::from([root]),
        }
    }

    /// Records in the log.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root over everything.
    #[must_use]
    pub fn newest(&self) -> Hash {
        self.recent.back().copied().unwrap_or_else(empty_root)
    }

    /// There are records that nobody has told of: the log goes on at this size, whose root comes with the next record.
    pub fn skip_to(&mut self, size: u64) {
        self.size = size;
        self.recent.clear();
    }

    /// One record more.
    pub fn push(&mut self, root: Hash) {
        self.size = self.size.saturating_add(1);
        self.recent.push_back(root);
        if self.recent.len() > limits::ROOTS_IN_MEMORY {
            self.recent.pop_front();
        }
    }

    /// The root of the first `size` records, if it is in memory.
    #[must_use]
    pub fn get(&self, size: u64) -> Option<Hash> {
        if size == 0 {
            return Some(empty_root());
        }
        let back = usize::try_from(self.size.checked_sub(size)?).ok()?;
        let at = self.recent.len().checked_sub(1)?.checked_sub(back)?;
        self.recent.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_is_not_known() {
        let root = |n: u8| Hash([n; 32]);
        let mut roots = Roots::new(3, root(3));
        roots.skip_to(7);
        roots.push(root(8));
        assert_eq!((roots.size(), roots.newest()), (8, root(8)));
        assert_eq!([3, 6, 7].map(|size| roots.get(size)), [None; 3]);
    }

    #[test]
    fn the_newest_are_kept() {
        let root = |n: u64| Hash([u8::try_from(n % 251).unwrap(); 32]);
        let mut roots = Roots::new(3, root(3));
        for size in 4..3000 {
            roots.push(root(size));
        }
        assert_eq!(roots.size(), 2999);
        assert_eq!(roots.newest(), root(2999));
        assert_eq!(roots.get(2999), Some(root(2999)));
        assert_eq!(roots.get(2500), Some(root(2500)));
        assert_eq!(roots.get(3000), None);
        assert_eq!(roots.get(3), None);
        assert_eq!(roots.get(0), Some(empty_root()));
    }
}
