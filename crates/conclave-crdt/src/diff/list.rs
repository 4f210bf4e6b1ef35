//! Which items of two lists are the same: by identity first, then by content, then by what tells each from the others, then by likeness; never
//! by position alone.

use core::hash::Hash;
use std::collections::HashMap;

use serde_json::Value;

use super::likeness::{feature, likeness};
use super::marks::{kin, mostly_same};
use super::{Hunk, hunks, tokens, work};

/// Members that name an item, compared in lower case, in order of preference.
pub(super) const NAMES: [&str; 9] = [
    "id", "_id", "@id", "$id", "uuid", "guid", "uid", "key", "ident",
];
/// Most pairs of items between two anchors that are compared for likeness one by one.
const MAX_PAIRS: usize = 4_096;
/// What two items must share at least to be one that was changed, in thousandths.
const ALIKE: u32 = 500;

/// For each item of one list the item of another that it is now.
pub(crate) struct Alignment {
    /// In the order of both: what moved is gone here and new there.
    pub(crate) in_order: Vec<Option<usize>>,
    /// What moved is found where it is now.
    pub(crate) anywhere: Vec<Option<usize>>,
    /// Which items of the other list are found.
    taken: Vec<bool>,
}

impl Alignment {
    pub(crate) fn of(old: &[Value], new: &[Value]) -> Self {
        let mut alignment = Self {
            in_order: vec![None; old.len()],
            anywhere: vec![None; old.len()],
            taken: vec![false; new.len()],
        };
        Aligner::new(old, new).run(&mut alignment);
        alignment
    }

    /// Of a list that did not change.
    pub(crate) fn unchanged(length: usize) -> Self {
        let same: Vec<Option<usize>> = (0..length).map(Some).collect();
        Self {
            in_order: same.clone(),
            anywhere: same,
            taken: vec![true; length],
        }
    }

    fn pair(&mut self, old: usize, new: usize) {
        if let Some(place) = self.in_order.get_mut(old) {
            *place = Some(new);
        }
        self.follow(old, new);
    }

    fn follow(&mut self, old: usize, new: usize) {
        if let (Some(place), Some(taken)) = (self.anywhere.get_mut(old), self.taken.get_mut(new)) {
            (*place, *taken) = (Some(new), true);
        }
    }

    fn is_gone(&self, old: usize) -> bool {
        self.anywhere.get(old) == Some(&None)
    }

    fn is_free(&self, new: usize) -> bool {
        self.taken.get(new) == Some(&false)
    }
}

/// What an item is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Identity {
    Named(String),
    Content(String),
}

struct Aligner<'a> {
    old_items: &'a [Value],
    new_items: &'a [Value],
    old: Vec<Identity>,
    new: Vec<Identity>,
}

impl<'a> Aligner<'a> {
    fn new(old_items: &'a [Value], new_items: &'a [Value]) -> Self {
        let name = NAMES
            .iter()
            .find(|name| names(old_items, name) && names(new_items, name));
        let mut counts: HashMap<String, (u32, u32)> = HashMap::new();
        if let Some(name) = name {
            for id in old_items.iter().filter_map(|item| id(item, name)) {
                counts.entry(id).or_default().0 += 1;
            }
            for id in new_items.iter().filter_map(|item| id(item, name)) {
                counts.entry(id).or_default().1 += 1;
            }
        }
        let identity = |item: &Value| {
            let named = name.and_then(|name| id(item, name));
            let unique = named.filter(|id| counts.get(id).is_some_and(|(a, b)| *a < 2 && *b < 2));
            unique.map_or_else(|| Identity::Content(item.to_string()), Identity::Named)
        };
        Self {
            old: old_items.iter().map(identity).collect(),
            new: new_items.iter().map(identity).collect(),
            old_items,
            new_items,
        }
    }

    fn run(&self, found: &mut Alignment) {
        let (old, new) = tokens(&self.old, &self.new);
        let changed = hunks(&old, &new);
        for (old, new) in equal(&changed, self.old.len()) {
            found.pair(old, new);
        }
        // First of all what moved as it is: nothing else has become that.
        self.follow_identity(found);
        let mut gaps = Vec::new();
        for hunk in changed {
            let (old, new) = self.left(hunk.old, hunk.new, found);
            gaps.extend(self.pair_kin(&old, &new, found));
        }
        self.follow_kin(found);
        for (old, new) in gaps {
            let (old, new) = self.left(old, new, found);
            if old.len() * new.len() <= MAX_PAIRS {
                self.pair_alike(&old, &new, found);
            } else {
                self.pair_by_features(&old, &new, found);
            }
        }
    }

    /// Those without a name that are not found yet.
    fn left(
        &self,
        old: impl IntoIterator<Item = usize>,
        new: impl IntoIterator<Item = usize>,
        found: &Alignment,
    ) -> (Vec<usize>, Vec<usize>) {
        let gone = |at: &usize| self.is_gone(*at, found);
        let free = |at: &usize| self.is_free(*at, found);
        (
            old.into_iter().filter(gone).collect(),
            new.into_iter().filter(free).collect(),
        )
    }

    /// Whether an item without a name is not found yet.
    fn is_gone(&self, old: usize, found: &Alignment) -> bool {
        found.is_gone(old) && matches!(self.old.get(old), Some(Identity::Content(_)))
    }

    /// Whether an item without a name may still be one of the old ones.
    fn is_free(&self, new: usize, found: &Alignment) -> bool {
        found.is_free(new) && matches!(self.new.get(new), Some(Identity::Content(_)))
    }

    fn follow_identity(&self, found: &mut Alignment) {
        let mut free: HashMap<&Identity, Option<usize>> = HashMap::new();
        for (at, identity) in self.new.iter().enumerate() {
            if found.is_free(at) {
                // Of two alike neither is known to be the one.
                free.entry(identity)
                    .and_modify(|place| *place = None)
                    .or_insert(Some(at));
            }
        }
        for (at, identity) in self.old.iter().enumerate() {
            if found.is_gone(at)
                && let Some(place) = free.get_mut(identity).and_then(Option::take)
            {
                found.follow(at, place);
            }
        }
    }

    /// Finds what moved and was changed, if it is mostly the same.
    fn follow_kin(&self, found: &mut Alignment) {
        let gone = (0..self.old.len()).any(|at| self.is_gone(at, found));
        let free = (0..self.new.len()).any(|at| self.is_free(at, found));
        if !gone || !free {
            return;
        }
        let old_items: Vec<&Value> = self.old_items.iter().collect();
        let new_items: Vec<&Value> = self.new_items.iter().collect();
        let kin = kin(&old_items, &new_items, |old, new| {
            self.is_gone(old, found) && self.is_free(new, found)
        });
        for (old, new) in kin {
            if self.mostly_same(old, new) {
                found.follow(old, new);
            }
        }
    }

    fn both(&self, old: usize, new: usize) -> Option<(&Value, &Value)> {
        self.old_items.get(old).zip(self.new_items.get(new))
    }

    /// Pairs in order what is known by what tells it from the others here, follows what of that moved, and gives what lies between the pairs.
    fn pair_kin(
        &self,
        old: &[usize],
        new: &[usize],
        found: &mut Alignment,
    ) -> Vec<(Vec<usize>, Vec<usize>)> {
        if old.is_empty() || new.is_empty() {
            return Vec::new();
        }
        let items = |items: &'a [Value], indices: &[usize]| -> Vec<&'a Value> {
            indices.iter().filter_map(|at| items.get(*at)).collect()
        };
        let (old_items, new_items) = (items(self.old_items, old), items(self.new_items, new));
        let kin = kin(&old_items, &new_items, |_, _| true);
        // An item without kin is equal to nothing.
        let mut old_keys: Vec<Result<usize, usize>> = (0..old.len()).map(Err).collect();
        let new_keys: Vec<Result<usize, usize>> = (0..new.len()).map(Ok).collect();
        let mut moved = Vec::new();
        for (from, to) in kin {
            let (Some(key), Some(old), Some(new)) =
                (old_keys.get_mut(from), old.get(from), new.get(to))
            else {
                continue;
            };
            let same = self.mostly_same(*old, *new);
            if same {
                moved.push((*old, *new));
            }
            if same || self.likeness(*old, *new) >= ALIKE {
                *key = Ok(to);
            }
        }
        let gaps = pair_keys((old, &old_keys), (new, &new_keys), found);
        for (old, new) in moved {
            if found.is_gone(old) && found.is_free(new) {
                found.follow(old, new);
            }
        }
        let cut = |gap: Hunk| Some((old.get(gap.old)?.to_vec(), new.get(gap.new)?.to_vec()));
        gaps.into_iter().filter_map(cut).collect()
    }

    fn mostly_same(&self, old: usize, new: usize) -> bool {
        self.both(old, new)
            .is_some_and(|(old, new)| mostly_same(old, new))
    }

    fn likeness(&self, old: usize, new: usize) -> u32 {
        self.both(old, new)
            .map_or(0, |(old, new)| likeness(old, new))
    }

    /// The pairing in order that shares most; what is left between two pairs is one item changed beyond likeness if there is as much on
    /// both sides.
    fn pair_alike(&self, old: &[usize], new: &[usize], found: &mut Alignment) {
        let width = new.len() + 1;
        let mut best = vec![0u32; (old.len() + 1) * width];
        let at = |i: usize, j: usize| i * width + j;
        let mut scores = vec![0u32; old.len() * new.len()];
        for (i, from) in old.iter().enumerate().rev() {
            for (j, to) in new.iter().enumerate().rev() {
                work::count(1);
                let score = self.likeness(*from, *to);
                let score = if score > ALIKE { score } else { 0 };
                let of = |i, j| best.get(at(i, j)).copied().unwrap_or_default();
                let most = (of(i + 1, j + 1) + score)
                    .max(of(i + 1, j))
                    .max(of(i, j + 1));
                if let Some(cell) = best.get_mut(at(i, j)) {
                    *cell = most;
                }
                if let Some(cell) = scores.get_mut(i * new.len() + j) {
                    *cell = score;
                }
            }
        }
        let of = |i, j| best.get(at(i, j)).copied().unwrap_or_default();
        let (mut i, mut j) = (0, 0);
        let (mut left, mut right) = (0, 0);
        while i < old.len() && j < new.len() {
            let score = scores.get(i * new.len() + j).copied().unwrap_or_default();
            if score > 0 && of(i, j) == of(i + 1, j + 1) + score {
                self.pair_rest(old.get(left..i), new.get(right..j), found);
                if let (Some(old), Some(new)) = (old.get(i), new.get(j)) {
                    found.pair(*old, *new);
                }
                (i, j) = (i + 1, j + 1);
                (left, right) = (i, j);
            } else if of(i, j) == of(i + 1, j) {
                i += 1;
            } else {
                j += 1;
            }
        }
        self.pair_rest(old.get(left..), new.get(right..), found);
    }

    fn pair_rest(&self, old: Option<&[usize]>, new: Option<&[usize]>, found: &mut Alignment) {
        let (old, new) = (old.unwrap_or(&[]), new.unwrap_or(&[]));
        if old.len() != new.len() {
            return;
        }
        for (old, new) in old.iter().zip(new) {
            let plain = |item: Option<&Value>| {
                item.is_some_and(|item| !item.is_object() && !item.is_array())
            };
            let both = plain(self.old_items.get(*old)) && plain(self.new_items.get(*new));
            if both || self.likeness(*old, *new) >= ALIKE {
                found.pair(*old, *new);
            }
        }
    }

    /// For long stretches: items are compared by what is most their own, which takes one more pass.
    fn pair_by_features(&self, old: &[usize], new: &[usize], found: &mut Alignment) {
        let features = |items: &[Value], indices: &[usize]| -> Vec<String> {
            let of = |at: &usize| items.get(*at).map(feature).unwrap_or_default();
            indices.iter().map(of).collect()
        };
        let old_features = features(self.old_items, old);
        let new_features = features(self.new_items, new);
        for gap in pair_keys((old, &old_features), (new, &new_features), found) {
            self.pair_rest(old.get(gap.old), new.get(gap.new), found);
        }
    }
}

/// Pairs the items that have equal keys, and gives what lies between.
fn pair_keys<T: Hash + Eq>(
    (old, old_keys): (&[usize], &[T]),
    (new, new_keys): (&[usize], &[T]),
    found: &mut Alignment,
) -> Vec<Hunk> {
    let (old_tokens, new_tokens) = tokens(old_keys, new_keys);
    let changed = hunks(&old_tokens, &new_tokens);
    for (from, to) in equal(&changed, old.len()) {
        if let (Some(old), Some(new)) = (old.get(from), new.get(to)) {
            found.pair(*old, *new);
        }
    }
    changed
}

/// What lies between the hunks is equal.
fn equal(changed: &[Hunk], length: usize) -> Vec<(usize, usize)> {
    let mut pairs = Vec::with_capacity(length);
    let (mut from, mut to) = (0, 0);
    let end = Hunk {
        old: length..length,
        new: 0..0,
    };
    for hunk in changed.iter().chain([&end]) {
        while from < hunk.old.start {
            pairs.push((from, to));
            (from, to) = (from + 1, to + 1);
        }
        (from, to) = (hunk.old.end, hunk.new.end);
    }
    pairs
}

/// Whether a member names the items: every object among them has it.
pub(super) fn names(items: &[Value], name: &str) -> bool {
    let mut objects = items.iter().filter(|item| item.is_object()).peekable();
    objects.peek().is_some() && objects.all(|item| id(item, name).is_some())
}

pub(super) fn id(item: &Value, name: &str) -> Option<String> {
    let (_, value) = item
        .as_object()?
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    (value.is_string() || value.is_number()).then(|| value.to_string())
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
