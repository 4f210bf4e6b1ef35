//! Maps in maps.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::Edited;
use serde_json::{Value, json};

use super::*;

fn tree(
    random: &mut Random,
    depth: usize,
    leaves: &mut Vec<Vec<String>>,
    path: &[String],
) -> Value {
    let mut map = serde_json::Map::new();
    for n in 0..random.between(1, 5) {
        let key = format!("k{n}");
        let path = [path, core::slice::from_ref(&key)].concat();
        let value = match random.below(4) {
            0 | 1 if depth > 0 => tree(random, depth - 1, leaves, &path),
            2 => {
                leaves.push(path);
                json!(random.below(100))
            }
            _ => {
                leaves.push(path);
                json!(format!("some words {} here", random.below(100)))
            }
        };
        map.insert(key, value);
    }
    Value::Object(map)
}

pub fn tree_case(random: &mut Random) {
    let kind = random.kind();
    let apart = random.below(2) == 0;
    let writers = random.between(2, 3);
    let depth = random.between(1, 5);
    let mut leaves = Vec::new();
    let begin = tree(random, depth, &mut leaves, &[]);
    let pointer = |path: &[String]| format!("/{}", path.join("/"));
    let mut wanted: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut news = Vec::new();
    for writer in 0..writers {
        let mut new = begin.clone();
        let chosen: BTreeSet<usize> = (0..random.between(1, 4))
            .map(|_| random.below(leaves.len()))
            .collect();
        for leaf in chosen {
            let pointer = pointer(&leaves[leaf]);
            let value = new.pointer_mut(&pointer).unwrap();
            *value = match &*value {
                Value::String(text) => json!(text.replace("words", &format!("W{writer} words"))),
                _ => json!(1_000 + writer),
            };
            wanted.entry(pointer).or_default().push(value.clone());
        }
        news.push(new);
    }
    let mut doc = new(kind, 1);
    doc.json().unwrap().merge_json(&begin).unwrap();
    let mut merged = bring_together(kind, &mut doc, apart, &begin, &news, |doc, base, new| {
        assert_eq!(
            doc.json().unwrap().edit(Some(base), new).unwrap(),
            Edited::Done
        );
    });
    let value = merged.json().unwrap().to_json().unwrap();
    for leaf in &leaves {
        let pointer = pointer(leaf);
        let (was, now) = (
            begin.pointer(&pointer).unwrap(),
            value.pointer(&pointer).unwrap(),
        );
        match wanted.get(&pointer) {
            None => assert_eq!(now, was, "{pointer}"),
            Some(wanted) if wanted.len() == 1 => assert_eq!(now, &wanted[0], "{pointer}"),
            Some(wanted) if was.is_string() => {
                for text in wanted {
                    let typed = text
                        .as_str()
                        .unwrap()
                        .split(' ')
                        .find(|word| word.starts_with('W'))
                        .unwrap();
                    assert_eq!(
                        now.as_str().unwrap().matches(typed).count(),
                        1,
                        "{pointer}: {now}"
                    );
                }
            }
            Some(wanted) => assert!(wanted.contains(now), "{pointer}: {now}"),
        }
    }
}
