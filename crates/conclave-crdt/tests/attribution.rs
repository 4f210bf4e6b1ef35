//! Who wrote what: every character and value tells of itself which update brought it, so that what is read can be held against it.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::BTreeMap;

use common::*;
use conclave_crdt::{
    AttributedValue, CrdtKind, PathElement, ReplicaId, Run, Stretch, Writers, WrittenBy,
};
use serde_json::{Value, json};

/// Updates by their operations; a writer is an update's number.
#[derive(Default)]
struct Updates {
    ranges: BTreeMap<ReplicaId, Vec<(u64, u64, u32)>>,
    count: u32,
    asked: usize,
}

impl Updates {
    fn note(&mut self, doc: &Doc, update: &[u8]) {
        for range in doc.inspect(update).unwrap().info.ranges {
            let ranges = self.ranges.entry(range.replica).or_default();
            ranges.push((range.start, range.end, self.count));
        }
        self.count += 1;
    }
}

impl Writers for Updates {
    fn writer(&mut self, replica: &ReplicaId, counter: u64) -> Stretch {
        self.asked += 1;
        let ranges = self.ranges.get(replica).unwrap();
        let holds = |range: &&(u64, u64, u32)| (range.0..range.1).contains(&counter);
        let (_, end, writer) = *ranges.iter().find(holds).unwrap();
        Stretch { writer, end }
    }
}

fn sign(update: u32) -> char {
    char::from_u32(0x4e00 + update).unwrap()
}

/// The text that these runs stand for, where each update writes its own sign.
fn signs(runs: &[Run]) -> String {
    assert!(runs.windows(2).all(|two| two[0].writer != two[1].writer));
    let parts = runs
        .iter()
        .map(|run| sign(run.writer).to_string().repeat(run.chars));
    parts.collect()
}

/// Some replicas that write apart and hear of each other now and then; gives them with all that was written.
fn written(kind: CrdtKind, seed: u64, edit: impl Fn(&mut Doc, &mut Random, u32)) -> (Doc, Updates) {
    let mut random = Random::new(seed);
    let mut docs: Vec<Doc> = (1..=3).map(|n| new(kind, n)).collect();
    let mut all = Vec::new();
    let mut heard = [0; 3];
    let mut updates = Updates::default();
    for _ in 0..120 {
        let at = random.below(3);
        edit(&mut docs[at], &mut random, updates.count);
        for update in pending(&mut docs[at]) {
            updates.note(&docs[at], &update);
            all.push(update);
        }
        let at = random.below(3);
        apply_all(&mut docs[at], &all[heard[at]..]);
        heard[at] = all.len();
    }
    let mut first = docs.remove(0);
    apply_all(&mut first, &all[heard[0]..]);
    (first, updates)
}

#[test]
fn every_character_is_of_the_update_that_brought_it() {
    for kind in KINDS {
        for seed in 0..20 {
            let (mut doc, mut updates) = written(kind, seed, |doc, random, number| {
                let length = view(doc).len().unwrap();
                let at = random.below(length + 1);
                let delete = random.below(3).min(length - at);
                let insert = sign(number).to_string().repeat(1 + random.below(4));
                view(doc).splice(at, delete, &insert).unwrap();
            });
            let shown = text(&mut doc);
            let runs = doc.attribution().unwrap().of_text(&mut updates).unwrap();
            assert_eq!(signs(&runs), shown, "{kind} {seed}");
            let mut loaded = reload(kind, &doc.snapshot().unwrap(), 9);
            let runs = loaded.attribution().unwrap().of_text(&mut updates).unwrap();
            assert_eq!(signs(&runs), shown, "{kind} {seed}: from a snapshot");
            assert!(pending(&mut doc).is_empty(), "reading is not writing");
        }
    }
}

#[test]
fn characters_of_two_units_count_as_two() {
    let kind = CrdtKind::Yjs;
    let mut doc = new(kind, 1);
    let mut updates = Updates::default();
    for (at, part) in ["\u{1f600}\u{1f98a}", "a", "\u{1f600}b"].iter().enumerate() {
        insert(&mut doc, [0, 2, 3][at], part);
        for update in pending(&mut doc) {
            updates.note(&doc, &update);
        }
    }
    let runs = doc.attribution().unwrap().of_text(&mut updates).unwrap();
    let lengths: Vec<_> = runs.iter().map(|run| (run.writer, run.chars)).collect();
    assert_eq!(lengths, [(0, 2), (1, 1), (2, 2)]);
    // Whoever can tell is asked once for each of them, not for each character.
    assert!(updates.asked <= 4, "{}", updates.asked);
}

/// Holds what is said of each value against the value.
fn check(shown: &Value, values: &[AttributedValue]) {
    let mut leaves = 0;
    for value in values {
        let mut at = shown;
        for step in &value.place {
            at = match step {
                PathElement::Key(key) => &at[key],
                PathElement::Index(index) => &at[index],
            };
        }
        match (&value.by, at) {
            (WrittenBy::One(writer), Value::Number(number)) => {
                assert_eq!(number.as_u64(), Some(u64::from(*writer)), "{value:?}");
            }
            (WrittenBy::One(writer), Value::Object(members)) => {
                assert_eq!(members["made"], json!(writer));
            }
            (WrittenBy::One(_), Value::Array(_)) => {}
            (WrittenBy::Text(runs), Value::String(text)) => assert_eq!(signs(runs), *text),
            other => panic!("{other:?}"),
        }
        leaves += usize::from(at.is_number() || at.is_string());
    }
    assert_eq!(leaves, count(shown), "each has its place");
}

fn count(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.values().map(count).sum(),
        Value::Array(items) => items.iter().map(count).sum(),
        _ => 1,
    }
}

#[test]
fn every_value_is_of_the_update_that_put_it_there() {
    for kind in KINDS {
        for seed in 0..20 {
            let (mut doc, mut updates) = written(kind, seed, |doc, random, number| {
                let json = doc.json().unwrap();
                let shown = json.to_json().unwrap();
                let key = format!("k{}", random.below(4));
                let items = shown["list"].as_array().map(Vec::len);
                let path = |elements: &[PathElement]| elements.to_vec();
                match (random.below(6), items) {
                    (0, _) => json.put(&path(&["map".into()]), &json!({ "made": number })),
                    (1, _) if shown["map"].is_object() => {
                        let words = sign(number).to_string().repeat(3);
                        json.put(&path(&["map".into(), key.as_str().into()]), &json!(words))
                    }
                    (2, None) => json.put(&path(&["list".into()]), &json!([number])),
                    (2 | 3, Some(items)) => {
                        let at = random.below(items + 1);
                        json.put(&path(&["list".into(), at.into()]), &json!(number))
                    }
                    (4, Some(items)) if items > 0 => {
                        json.delete(&path(&["list".into(), random.below(items).into()]))
                    }
                    _ => json.put(&path(&[key.as_str().into()]), &json!(number)),
                }
                .unwrap();
            });
            for mut doc in [reload(kind, &doc.snapshot().unwrap(), 9), doc] {
                let shown = doc.json().unwrap().to_json().unwrap();
                let values = doc.attribution().unwrap().of_values(&mut updates).unwrap();
                check(&shown, &values);
                assert!(pending(&mut doc).is_empty(), "reading is not writing");
            }
        }
    }
}
