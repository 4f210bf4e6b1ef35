//! What updates did: how much they wrote, and whose they took out first.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use conclave_crdt::{CrdtKind, Deeds, ReplicaId, Stretch, Writers};
use serde_json::json;

/// A writer is an update's number.
#[derive(Default)]
struct Updates {
    ranges: BTreeMap<ReplicaId, Vec<(u64, u64, u32)>>,
    all: Vec<Vec<u8>>,
}

impl Updates {
    fn note(&mut self, doc: &mut Doc) {
        let update = update(doc);
        for range in doc.inspect(&update).unwrap().info.ranges {
            let ranges = self.ranges.entry(range.replica).or_default();
            ranges.push((range.start, range.end, self.all.len() as u32));
        }
        self.all.push(update);
    }

    fn deeds(&mut self, doc: &mut Doc, before: &[u8], after: usize, from: usize) -> Vec<Deeds> {
        let all = self.all.clone();
        let updates: Vec<&[u8]> = all[after..].iter().map(Vec::as_slice).collect();
        let attribution = doc.attribution().unwrap();
        attribution.deeds(before, &updates, from, self).unwrap()
    }
}

impl Writers for Updates {
    fn writer(&mut self, replica: &ReplicaId, counter: u64) -> Stretch {
        let ranges = &self.ranges[replica];
        let holds = |range: &&(u64, u64, u32)| (range.0..range.1).contains(&counter);
        let (_, end, writer) = *ranges.iter().find(holds).unwrap();
        Stretch { writer, end }
    }
}

/// Replicas write apart, each character another one; what is told is held against what they did.
#[test]
fn what_two_take_out_counts_for_the_first_of_them_and_names_whose_it_was() {
    let mut again = 0;
    for (kind, seed) in KINDS
        .into_iter()
        .flat_map(|kind| (0..10).map(move |it| (kind, it)))
    {
        let mut random = Random::new(seed);
        let mut docs: Vec<Doc> = (1..=3).map(|n| new(kind, n)).collect();
        let empty = new(kind, 9).snapshot().unwrap();
        let mut updates = Updates::default();
        let mut heard = [0; 3];
        let mut author: BTreeMap<char, u32> = BTreeMap::new();
        let mut gone: BTreeSet<char> = BTreeSet::new();
        let mut expected: Vec<Deeds> = Vec::new();
        let mut middle = (empty.clone(), 0);
        for _ in 0..150 {
            let at = random.below(3);
            let shown: Vec<char> = text(&mut docs[at]).chars().collect();
            let from = random.below(shown.len() + 1);
            let delete = [0, 0, 3][random.below(3)].min(shown.len() - from);
            let count = 1 + random.below(4);
            let first = 0x4e00 + author.len() as u32;
            let new = (first..first + count as u32).map(|it| char::from_u32(it).unwrap());
            let insert: String = new.collect();
            let number = expected.len() as u32;
            author.extend(insert.chars().map(|it| (it, number)));
            let mut deeds = Deeds {
                chars: count as u64,
                ..Deeds::default()
            };
            let mut whose: BTreeMap<u32, u64> = BTreeMap::new();
            for it in &shown[from..from + delete] {
                match gone.insert(*it) {
                    true => *whose.entry(author[it]).or_default() += 1,
                    false => deeds.deleted_again += 1,
                }
            }
            deeds.deleted = whose.into_iter().collect();
            expected.push(deeds);
            view(&mut docs[at]).splice(from, delete, &insert).unwrap();
            updates.note(&mut docs[at]);
            let at = random.below(3);
            apply_all(&mut docs[at], &updates.all[heard[at]..]);
            heard[at] = updates.all.len();
            if heard[at] == 70 {
                middle = (docs[at].snapshot().unwrap(), 70);
            }
        }
        let mut doc = docs.remove(0);
        apply_all(&mut doc, &updates.all[heard[0]..]);
        again += expected.iter().map(|it| it.deleted_again).sum::<u64>();
        let (before, after) = middle;
        for (told, from) in [
            (updates.deeds(&mut doc, &empty, 0, 0), 0),
            (updates.deeds(&mut doc, &empty, 0, 100), 100),
            (updates.deeds(&mut doc, &before, after, 0), after),
        ] {
            assert_eq!(told.len(), expected.len() - from);
            for (at, told) in (from..).zip(told) {
                assert_eq!(told, expected[at], "{kind} {seed}: {at}, from {from}");
            }
        }
        assert!(pending(&mut doc).is_empty(), "reading is not writing");
    }
    assert!(again > 20, "{again}");
}

#[test]
fn values_count_one_each_and_what_is_put_in_place_of_one_takes_it_out() {
    for kind in KINDS {
        let mut doc = new(kind, 1);
        let empty = doc.snapshot().unwrap();
        let mut updates = Updates::default();
        let puts = [
            (vec!["a".into()], json!(1)),
            (vec!["a".into()], json!(2)),
            (vec!["list".into()], json!([1, 2, 3])),
        ];
        for (path, value) in puts {
            doc.json().unwrap().put(&path, &value).unwrap();
            updates.note(&mut doc);
        }
        let path = ["list".into(), 1.into()];
        doc.json().unwrap().delete(&path).unwrap();
        updates.note(&mut doc);
        let told = updates.deeds(&mut doc, &empty, 0, 0);
        let told: Vec<_> = told.into_iter().map(|it| (it.values, it.deleted)).collect();
        let expected = [
            (1, vec![]),
            (1, vec![(0, 1)]),
            (4, vec![]),
            (0, vec![(2, 1)]),
        ];
        assert_eq!(told, expected, "{kind}");
    }
}

/// Who names operations that nobody has written has taken nothing out, and costs nothing.
#[test]
fn what_nobody_has_written_is_not_taken_out() {
    let mut doc = new(CrdtKind::Yjs, 1);
    let empty = doc.snapshot().unwrap();
    let mut updates = Updates::default();
    insert(&mut doc, 0, "abc");
    updates.note(&mut doc);
    // No operations; of one client, one range: from 0 on as many as there can be.
    for client in [7, 1] {
        let hostile = [0, 1, client, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x07];
        let _ = doc.apply(&[hostile.as_slice()]);
        updates.all.push(hostile.to_vec());
    }
    let told = updates.deeds(&mut doc, &empty, 0, 1);
    assert_eq!(told, [Deeds::default(), Deeds::default()]);
}

/// A change that waits for another has taken nothing out; once both are there, it has.
#[test]
fn what_waits_has_taken_nothing_out() {
    for kind in KINDS {
        // Nothing of the other, or something older of theirs.
        for known in [0, 1] {
            let (mut ana, mut ben, mut cleo) = (new(kind, 1), new(kind, 2), new(kind, 3));
            let empty = cleo.snapshot().unwrap();
            let mut updates = Updates::default();
            for word in ["one", "two"] {
                insert(&mut ben, 0, word);
                updates.note(&mut ben);
            }
            apply_all(&mut ana, &updates.all);
            view(&mut ana).splice(0, 3, "!").unwrap();
            updates.note(&mut ana);
            let ben_wrote = updates.all.clone();
            apply_all(&mut cleo, &ben_wrote[..known]);
            let _ = cleo.apply(&[ben_wrote[2].as_slice()]);
            let told = updates.deeds(&mut cleo, &empty, 0, 2);
            assert_eq!(
                (told[0].chars, &told[0].deleted),
                (1, &vec![]),
                "{kind} {known}"
            );
            apply_all(&mut cleo, &ben_wrote[known..2]);
            assert_eq!(text(&mut cleo), "!one");
            let told = updates.deeds(&mut cleo, &empty, 0, 2);
            assert_eq!(told[0].deleted, [(1, 3)], "{kind} {known}");
        }
    }
}

#[test]
fn what_is_no_update_is_an_error() {
    for kind in KINDS {
        let mut doc = new(kind, 1);
        let empty = doc.snapshot().unwrap();
        let mut writers = Updates::default();
        let attribution = doc.attribution().unwrap();
        assert!(attribution.deeds(&empty, &[b"x"], 0, &mut writers).is_err());
        let bad = attribution.deeds(b"x", &[], 0, &mut writers);
        assert!(
            bad.is_err() || kind == CrdtKind::Automerge,
            "not read where nothing is gone"
        );
    }
}
