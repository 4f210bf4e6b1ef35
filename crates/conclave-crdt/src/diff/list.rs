//! Which items of two lists are the same: by identity first, then by content, then by likeness between those; never by position alone.

use core::ops::Range;
use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Hunk, hunks, tokens, work};

/// Members that name an item, compared in lower case, in order of preference.
pub(super) const NAMES: [&str; 9] = [
    "id", "_id", "@id", "$id", "uuid", "guid", "uid", "key", "ident",
];
/// Most pairs of items between two anchors that are compared for likeness one by one.
const MAX_PAIRS: usize = 4_096;
/// What two items must share at least to be one that was changed, in thousandths.
const ALIKE: u32 = 500;

/// For each item of `old` the item of `new` that it is now, in the order of both: what moved is gone here and new there.
pub(crate) fn aligned(old: &[Value], new: &[Value]) -> Vec<Option<usize>> {
    Aligner::new(old, new).run()
}

/// The same, but what moved is found where it is now.
pub(crate) fn followed(old: &[Value], new: &[Value]) -> Vec<Option<usize>> {
    let aligner = Aligner::new(old, new);
    let mut places = aligner.run();
    let mut free: HashMap<&Identity, Option<usize>> = HashMap::new();
    let mut taken = vec![false; new.len()];
    for place in places.iter().flatten() {
        if let Some(taken) = taken.get_mut(*place) {
            *taken = true;
        }
    }
    for (at, identity) in aligner.new.iter().enumerate() {
        if taken.get(at) == Some(&false) {
            // Of two alike neither is known to be the one.
            free.entry(identity)
                .and_modify(|place| *place = None)
                .or_insert(Some(at));
        }
    }
    for (place, identity) in places.iter_mut().zip(&aligner.old) {
        if place.is_none() {
            *place = free.get_mut(identity).and_then(Option::take);
        }
    }
    places
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

    fn run(&self) -> Vec<Option<usize>> {
        let mut places = vec![None; self.old.len()];
        let (old, new) = tokens(&self.old, &self.new);
        let changed = hunks(&old, &new);
        pair_equal(&changed, 0..self.old.len(), 0, &mut places);
        for hunk in changed {
            let nameless = |identities: &[Identity], range: Range<usize>| -> Vec<usize> {
                let named = |at: &usize| matches!(identities.get(*at), Some(Identity::Named(_)));
                range.filter(|at| !named(at)).collect()
            };
            let old = nameless(&self.old, hunk.old);
            let new = nameless(&self.new, hunk.new);
            if old.len() * new.len() <= MAX_PAIRS {
                self.pair_alike(&old, &new, &mut places);
            } else {
                self.pair_by_features(&old, &new, &mut places);
            }
        }
        places
    }

    fn likeness(&self, old: usize, new: usize) -> u32 {
        match (self.old_items.get(old), self.new_items.get(new)) {
            (Some(old), Some(new)) => likeness(old, new),
            _ => 0,
        }
    }

    /// The pairing in order that shares most; what is left between two pairs is one item changed beyond likeness if there is as much on
    /// both sides.
    fn pair_alike(&self, old: &[usize], new: &[usize], places: &mut [Option<usize>]) {
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
                self.pair_rest(old.get(left..i), new.get(right..j), places);
                set(places, old.get(i), new.get(j));
                (i, j) = (i + 1, j + 1);
                (left, right) = (i, j);
            } else if of(i, j) == of(i + 1, j) {
                i += 1;
            } else {
                j += 1;
            }
        }
        self.pair_rest(old.get(left..), new.get(right..), places);
    }

    fn pair_rest(
        &self,
        old: Option<&[usize]>,
        new: Option<&[usize]>,
        places: &mut [Option<usize>],
    ) {
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
                set(places, Some(old), Some(new));
            }
        }
    }

    /// For long stretches: items are compared by what is most their own, which takes one more pass.
    fn pair_by_features(&self, old: &[usize], new: &[usize], places: &mut [Option<usize>]) {
        let features = |items: &[Value], indices: &[usize]| -> Vec<String> {
            let of = |at: &usize| items.get(*at).map(feature).unwrap_or_default();
            indices.iter().map(of).collect()
        };
        let old_features = features(self.old_items, old);
        let new_features = features(self.new_items, new);
        let (old_tokens, new_tokens) = tokens(&old_features, &new_features);
        let changed = hunks(&old_tokens, &new_tokens);
        let mut within = vec![None; old.len()];
        pair_equal(&changed, 0..old.len(), 0, &mut within);
        for (from, to) in old.iter().zip(within) {
            if let Some(to) = to.and_then(|to: usize| new.get(to)) {
                set(places, Some(from), Some(to));
            }
        }
        for hunk in changed {
            self.pair_rest(old.get(hunk.old), new.get(hunk.new), places);
        }
    }
}

fn set(places: &mut [Option<usize>], old: Option<&usize>, new: Option<&usize>) {
    if let (Some(old), Some(new)) = (old, new)
        && let Some(place) = places.get_mut(*old)
    {
        *place = Some(*new);
    }
}

/// What lies between the hunks is equal.
fn pair_equal(changed: &[Hunk], old: Range<usize>, new: usize, places: &mut [Option<usize>]) {
    let (mut from, mut to) = (old.start, new);
    let end = Hunk {
        old: old.end..old.end,
        new: 0..0,
    };
    for hunk in changed.iter().chain([&end]) {
        while from < hunk.old.start {
            set(places, Some(&from), Some(&to));
            (from, to) = (from + 1, to + 1);
        }
        (from, to) = (hunk.old.end, hunk.new.end);
    }
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

/// How much two values share, in thousandths.
fn likeness(old: &Value, new: &Value) -> u32 {
    match (old, new) {
        _ if old == new => 1_000,
        (Value::Object(old), Value::Object(new)) => object_likeness(old, new),
        (Value::Array(old), Value::Array(new)) => {
            let shared = old.iter().zip(new).filter(|(a, b)| a == b).count();
            share(shared, old.len().max(new.len()))
        }
        (Value::String(old), Value::String(new)) => {
            let prefix = old
                .bytes()
                .zip(new.bytes())
                .take_while(|(a, b)| a == b)
                .count();
            let most = old.len().min(new.len()) - prefix;
            let ends = old.bytes().rev().zip(new.bytes().rev());
            let suffix = ends.take(most).take_while(|(a, b)| a == b).count();
            share(prefix + suffix, old.len().max(new.len()))
        }
        _ => 0,
    }
}

fn object_likeness(old: &Map<String, Value>, new: &Map<String, Value>) -> u32 {
    let mut shared = 0;
    for (key, value) in old {
        shared += match new.get(key) {
            Some(other) if other == value => 2,
            Some(_) => 1,
            None => 0,
        };
    }
    let all = old.len() + new.keys().filter(|key| !old.contains_key(*key)).count();
    share(shared, 2 * all)
}

fn share(part: usize, whole: usize) -> u32 {
    u32::try_from(part * 1_000 / whole.max(1)).unwrap_or(1_000)
}

/// What of an item is most likely its own and stays: its longest string, or its keys.
fn feature(item: &Value) -> String {
    match item {
        Value::Object(members) => {
            let strings = members.values().filter_map(Value::as_str);
            strings.max_by_key(|text| text.len()).map_or_else(
                || {
                    members
                        .keys()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                        .join(" ")
                },
                str::to_owned,
            )
        }
        Value::String(text) => text
            .split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn items(value: Value) -> Vec<Value> {
        value.as_array().cloned().unwrap_or_default()
    }

    fn align(old: Value, new: Value) -> Vec<Option<usize>> {
        aligned(&items(old), &items(new))
    }

    #[test]
    fn items_are_known_by_their_ids() {
        let old = json!([{"id": 1, "done": 0}, {"id": 2, "done": 0}, {"id": 3, "done": 0}]);
        let new = json!([{"id": 9, "done": 0}, {"id": 1, "done": 0}, {"id": 2, "done": 1}]);
        assert_eq!(align(old, new), [Some(1), Some(2), None]);
        // Two with one id: neither is known by it.
        let old = json!([{"id": 1, "t": "a"}, {"id": 2, "t": "b"}]);
        let new = json!([{"id": 1, "t": "a"}, {"id": 1, "t": "a"}, {"id": 2, "t": "b"}]);
        let found = align(old, new);
        assert_eq!((found[0].is_some(), found[1]), (true, Some(2)));
    }

    #[test]
    fn items_without_ids_are_known_by_content_and_likeness() {
        assert_eq!(
            align(json!([1, 2, 3]), json!([10, 2, 3])),
            [Some(0), Some(1), Some(2)]
        );
        assert_eq!(
            align(json!(["a", "b"]), json!(["new", "a", "b"])),
            [Some(1), Some(2)]
        );
        let old = json!([{"t": "write", "done": false}, {"t": "test", "done": false}]);
        let new = json!([{"t": "zzz", "by": "ana"}, {"t": "write", "done": true}]);
        assert_eq!(align(old, new), [Some(1), None]);
    }

    #[test]
    fn what_moved_is_followed() {
        let old = items(json!([{"id": 1}, {"id": 2}, {"id": 3}]));
        let new = items(json!([{"id": 3, "x": 1}, {"id": 1}, {"id": 2}]));
        assert_eq!(followed(&old, &new), [Some(1), Some(2), Some(0)]);
        assert_eq!(aligned(&old, &new), [Some(1), Some(2), None]);
        // Two alike stay unknown.
        let (old, new) = (items(json!([7, 1, 2])), items(json!([1, 2, 7, 7])));
        assert_eq!(followed(&old, &new)[0], None);
    }

    #[test]
    fn work_per_item_does_not_grow() {
        let list = |count: u64, salt: u64| -> Vec<Value> {
            let item = |n: u64| json!({"title": format!("item {n}"), "done": salt, "n": [n]});
            (0..count).map(item).collect()
        };
        let work = |count: u64| {
            work::take();
            let places = aligned(&list(count, 0), &list(count, 1));
            assert!(
                places
                    .iter()
                    .enumerate()
                    .all(|(at, place)| *place == Some(at))
            );
            work::take() / count
        };
        let (short, long) = (work(50), work(5_000));
        assert!(long <= short + 60, "{short} became {long}");
        assert!(work(5_000) <= work(500) * 3 / 2 + 2);
    }
}
