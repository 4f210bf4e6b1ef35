//! What single updates of a log did: how much they wrote, and whose characters and values they took out.
//!
//! Updates that were made apart may take out the same: it counts for the first of them in the log.

use std::collections::BTreeMap;

use crate::attribution::{Asking, Stretch};
use crate::ranges::RangeSet;
use crate::types::ReplicaId;

/// What an update did. What it wrote and took out again does not show in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deeds {
    /// Characters that it put into texts, as Unicode scalar values.
    pub chars: u64,
    /// Values that it put into maps and lists; of a map or list itself one.
    pub values: u64,
    /// Marks of formatted text that it set.
    pub formats: u64,
    /// What it took out before any other did: by whom that was written, and how much. Values count one each, characters as the engine does, which in Yjs is two
    /// for those beyond the Basic Multilingual Plane.
    pub deleted: Vec<(u32, u64)>,
    /// What it took out and another had taken out before it.
    pub deleted_again: u64,
}

/// Operations in the engine's finest count, by replica.
pub(crate) type Units = BTreeMap<ReplicaId, RangeSet>;

/// The same, in any order, while they are collected.
#[derive(Default)]
pub(crate) struct Collected(BTreeMap<ReplicaId, Vec<(u64, u64)>>);

impl Collected {
    pub(crate) fn add(&mut self, replica: ReplicaId, start: u64, end: u64) {
        self.0.entry(replica).or_default().push((start, end));
    }

    pub(crate) fn sorted(self) -> Units {
        let all = self.0.into_iter();
        all.map(|(replica, ranges)| (replica, RangeSet::of(ranges)))
            .collect()
    }
}

/// What one update did, as far as it tells by itself.
#[derive(Default)]
pub(crate) struct Told {
    pub chars: u64,
    pub values: u64,
    pub formats: u64,
    /// What it takes out of what is in the document. What it names beside that waits: it may be of nobody, and is not counted.
    pub deleted: Units,
}

/// Operations of one replica, as disjoint ranges. To add some takes as long as there is added, however many there are.
#[derive(Default)]
struct Gone(BTreeMap<u64, u64>);

impl Gone {
    /// The first range that begins between these.
    fn first_in(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let found = self.0.range(start..=end).next();
        found.map(|(first, last)| (*first, *last))
    }

    /// Adds `start..end`. Gives to `fresh` what was not there, and back how much was.
    fn add(&mut self, start: u64, end: u64, fresh: &mut Vec<(u64, u64)>) -> u64 {
        if start >= end {
            return 0;
        }
        let before = self.0.range(..start).next_back();
        let before = before.map(|(first, last)| (*first, *last));
        let mut next = before
            .filter(|(_, last)| *last >= start)
            .or_else(|| self.first_in(start, end));
        let (mut whole, mut from, mut known) = ((start, end), start, 0);
        while let Some((first, last)) = next {
            self.0.remove(&first);
            if from < first {
                fresh.push((from, first));
            }
            known += last.min(end).saturating_sub(first.max(start));
            from = from.max(last);
            whole = (whole.0.min(first), whole.1.max(last));
            next = self.first_in(start, end);
        }
        if from < end {
            fresh.push((from, end));
        }
        self.0.insert(whole.0, whole.1);
        known
    }
}

/// Follows a log from where these operations were gone.
pub(crate) struct Following<F> {
    gone: BTreeMap<ReplicaId, Gone>,
    /// Who wrote an operation in the finest count, and up to which one what follows is theirs as well.
    who: F,
}

impl<F: FnMut(&ReplicaId, u64, &mut Asking<'_>) -> Stretch> Following<F> {
    pub(crate) fn new(gone: &Units, who: F) -> Self {
        let mut this = Self {
            gone: BTreeMap::new(),
            who,
        };
        gone.iter().for_each(|(replica, ranges)| {
            this.take_out(replica, ranges);
        });
        this
    }

    /// What of this was there, and how much was not.
    fn take_out(&mut self, replica: &ReplicaId, ranges: &RangeSet) -> (Vec<(u64, u64)>, u64) {
        let gone = match self.gone.get_mut(replica) {
            Some(gone) => gone,
            None => self.gone.entry(replica.clone()).or_default(),
        };
        let (mut fresh, mut again) = (Vec::new(), 0);
        for (start, end) in ranges.iter() {
            again += gone.add(start, end, &mut fresh);
        }
        (fresh, again)
    }

    /// Passes over an update.
    pub(crate) fn skip(&mut self, told: &Told) {
        for (replica, ranges) in &told.deleted {
            self.take_out(replica, ranges);
        }
    }

    /// The next update of the log. Takes as long as it names ranges, and as others wrote what it takes out.
    pub(crate) fn next(&mut self, told: &Told, asking: &mut Asking<'_>) -> Deeds {
        let mut deeds = Deeds {
            chars: told.chars,
            values: told.values,
            formats: told.formats,
            ..Deeds::default()
        };
        let mut deleted: BTreeMap<u32, u64> = BTreeMap::new();
        for (replica, ranges) in &told.deleted {
            let (fresh, again) = self.take_out(replica, ranges);
            deeds.deleted_again += again;
            for (mut at, end) in fresh {
                while at < end {
                    let by = (self.who)(replica, at, asking);
                    // Whoever is asked gets on.
                    let next = by.end.min(end).max(at + 1);
                    *deleted.entry(by.writer).or_default() += next - at;
                    at = next;
                }
            }
        }
        deeds.deleted = deleted.into_iter().collect();
        deeds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_is_there_once_however_it_is_cut() {
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let (mut gone, mut model) = (Gone::default(), std::collections::BTreeSet::new());
        for _ in 0..2_000 {
            let start = random(300);
            let end = start + random(12);
            let new: Vec<u64> = (start..end).filter(|it| model.insert(*it)).collect();
            let mut fresh = Vec::new();
            let known = gone.add(start, end, &mut fresh);
            let fresh: Vec<u64> = fresh.into_iter().flat_map(|(from, to)| from..to).collect();
            assert_eq!((known, fresh), (end - start - new.len() as u64, new));
            let ranges: Vec<(u64, u64)> = gone.0.iter().map(|(from, to)| (*from, *to)).collect();
            assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
            if model.len() > 200 {
                (gone, model) = Default::default();
            }
        }
    }

    /// A stretch of two thousand million operations is one step, and not as many.
    #[test]
    fn a_stretch_of_one_writer_is_one_step() {
        struct Nobody(u64);
        impl crate::attribution::Writers for Nobody {
            fn writer(&mut self, _: &ReplicaId, _: u64) -> Stretch {
                self.0 += 1;
                let end = u64::MAX;
                Stretch { writer: 3, end }
            }
        }
        let replica = ReplicaId::from_bytes(&[1]).unwrap();
        let count = u64::from(u32::MAX >> 1);
        let told = Told {
            deleted: Units::from([(replica, RangeSet::of(vec![(0, count)]))]),
            ..Told::default()
        };
        let mut steps = 0;
        let mut following = Following::new(&Units::new(), |replica, unit, asking| {
            steps += 1;
            assert!(steps < 9, "each operation is looked at");
            asking.who(replica, unit)
        });
        let mut nobody = Nobody(0);
        let deeds = following.next(&told, &mut Asking::new(&mut nobody));
        assert_eq!(deeds.deleted, [(3, count)]);
        assert_eq!(nobody.0, 1);
    }
}
