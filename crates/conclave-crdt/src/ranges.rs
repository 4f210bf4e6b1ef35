//! Sets of counters as sorted ranges.

/// A set of `u64` as sorted, disjoint, non-adjacent half-open ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet(Vec<(u64, u64)>);

impl RangeSet {
    /// Of ranges in any order; takes no longer than to sort them.
    pub(crate) fn of(mut ranges: Vec<(u64, u64)>) -> Self {
        ranges.sort_unstable();
        let mut set = Self::default();
        ranges
            .into_iter()
            .for_each(|(start, end)| set.insert(start, end));
        set
    }

    #[cfg(feature = "yjs")]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    #[cfg(feature = "yjs")]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds `start..end`, joining neighbours.
    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        // Appending is the common case.
        if self.0.last().is_none_or(|last| last.1 < start) {
            self.0.push((start, end));
            return;
        }
        let from = self.0.partition_point(|range| range.1 < start);
        let to = self.0.partition_point(|range| range.0 <= end);
        if let Some(joined) = self.0.get(from..to) {
            if let Some(first) = joined.first() {
                start = start.min(first.0);
            }
            if let Some(last) = joined.last() {
                end = end.max(last.1);
            }
        }
        self.0.splice(from..to, [(start, end)]);
    }

    /// The smallest number not below `from` that is not in the set.
    #[cfg(feature = "yjs")]
    pub(crate) fn first_gap(&self, from: u64) -> u64 {
        let index = self.0.partition_point(|range| range.1 <= from);
        match self.0.get(index) {
            Some(range) if range.0 <= from => range.1,
            _ => from,
        }
    }

    /// Splits into what is below `bound` and what is not.
    #[cfg(feature = "yjs")]
    pub(crate) fn split_at(&self, bound: u64) -> (Self, Self) {
        let (mut below, mut above) = (Self::default(), Self::default());
        for (start, end) in self.iter() {
            below.insert(start, end.min(bound));
            above.insert(start.max(bound), end);
        }
        (below, above)
    }

    /// The ranges of the set inside `start..end`, clipped.
    pub(crate) fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let from = self.0.partition_point(|range| range.1 <= start);
        self.0
            .iter()
            .skip(from)
            .take_while(move |range| range.0 < end)
            .map(move |range| (range.0.max(start), range.1.min(end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u64, u64)]) -> RangeSet {
        let mut set = RangeSet::default();
        for (start, end) in ranges {
            set.insert(*start, *end);
        }
        set
    }

    #[test]
    fn insert_joins_overlapping_and_adjacent_ranges() {
        assert_eq!(set(&[(5, 7), (0, 2), (2, 5)]).0, vec![(0, 7)]);
        assert_eq!(set(&[(0, 2), (4, 6), (8, 9), (1, 8)]).0, vec![(0, 9)]);
        assert_eq!(set(&[(3, 3)]).0, vec![]);
        assert_eq!(set(&[(4, 6), (0, 1)]).0, vec![(0, 1), (4, 6)]);
    }

    #[cfg(feature = "yjs")]
    #[test]
    fn gaps_splits_and_clips() {
        let ranges = set(&[(2, 5), (7, 9)]);
        assert_eq!(ranges.first_gap(0), 0);
        assert_eq!(ranges.first_gap(3), 5);
        assert_eq!(ranges.first_gap(7), 9);
        let (below, above) = ranges.split_at(8);
        assert_eq!((below.0, above.0), (vec![(2, 5), (7, 8)], vec![(8, 9)]));
        assert_eq!(
            ranges.within(4, 8).collect::<Vec<_>>(),
            vec![(4, 5), (7, 8)]
        );
    }
}
