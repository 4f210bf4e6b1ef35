//! What single updates of a log did: how much they wrote, and whose characters and values they took out.
//!
//! Updates that were made apart may take out the same: it counts for the first of them in the log.

use std::collections::BTreeMap;

use crate::attribution::Asking;
use crate::error::Result;
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

/// What one update did, as far as it tells by itself.
#[derive(Default)]
pub(crate) struct Told {
    pub chars: u64,
    pub values: u64,
    pub formats: u64,
    pub deleted: Units,
}

/// Adds operations to a set; gives those that were not in it, and how many were.
fn add(set: &mut RangeSet, ranges: &RangeSet) -> (RangeSet, u64) {
    let (mut fresh, mut known) = (RangeSet::default(), 0);
    for (start, end) in ranges.iter() {
        let mut from = start;
        for (first, last) in set.within(start, end) {
            fresh.insert(from, first);
            known += last - first;
            from = last;
        }
        fresh.insert(from, end);
    }
    fresh.iter().for_each(|(start, end)| set.insert(start, end));
    (fresh, known)
}

/// Follows a log from where these operations were gone.
pub(crate) struct Following<F> {
    gone: Units,
    /// Of an operation in the finest count: its counter, and the first operation after it that has another.
    counter: F,
}

impl<F: FnMut(&ReplicaId, u64) -> Result<(u64, u64)>> Following<F> {
    pub(crate) fn new(gone: Units, counter: F) -> Self {
        Self { gone, counter }
    }

    /// Passes over an update.
    pub(crate) fn skip(&mut self, told: &Told) {
        for (replica, ranges) in &told.deleted {
            add(self.gone.entry(replica.clone()).or_default(), ranges);
        }
    }

    /// The next update of the log.
    pub(crate) fn next(&mut self, told: &Told, asking: &mut Asking<'_>) -> Result<Deeds> {
        let mut deeds = Deeds {
            chars: told.chars,
            values: told.values,
            formats: told.formats,
            ..Deeds::default()
        };
        let mut deleted: BTreeMap<u32, u64> = BTreeMap::new();
        for (replica, ranges) in &told.deleted {
            let gone = self.gone.entry(replica.clone()).or_default();
            let (fresh, again) = add(gone, ranges);
            deeds.deleted_again += again;
            for (start, end) in fresh.iter() {
                let mut at = start;
                while at < end {
                    let (counter, next) = (self.counter)(replica, at)?;
                    let next = next.min(end).max(at + 1);
                    *deleted
                        .entry(asking.who(replica, counter).writer)
                        .or_default() += next - at;
                    at = next;
                }
            }
        }
        deeds.deleted = deleted.into_iter().collect();
        Ok(deeds)
    }
}
