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

/// What the writers want of one leaf.
#[derive(Default)]
struct Wanted {
    values: Vec<Value>,
    removed: bool,
}

pub fn tree_case(random: &mut Random) {
    let kind = random.kind();
    let writers = random.between(2, 3);
    let apart = apart(random, writers);
    let depth = random.between(1, 5);
    let mut leaves = Vec::new();
    let begin = tree(random, depth, &mut leaves, &[]);
    let pointer = |path: &[String]| format!("/{}", path.join("/"));
    let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
    let mut added: BTreeMap<String, Value> = BTreeMap::new();
    let mut news = Vec::new();
    for writer in 0..writers {
        let mut new = begin.clone();
        let chosen: BTreeSet<usize> = (0..random.between(1, 4))
            .map(|_| random.below(leaves.len()))
            .collect();
        for leaf in chosen {
            let (key, above) = leaves[leaf].split_last().unwrap();
            let map = match above {
                [] => &mut new,
                above => new.pointer_mut(&pointer(above)).unwrap(),
            };
            let map = map.as_object_mut().unwrap();
            let of_leaf = wanted.entry(pointer(&leaves[leaf])).or_default();
            match random.below(5) {
                0 => {
                    map.remove(key);
                    of_leaf.removed = true;
                }
                1 => {
                    let beside = format!("by{writer}");
                    let value = json!({ "n": [random.below(10)] });
                    map.insert(beside.clone(), value.clone());
                    added.insert(pointer(&[above, &[beside]].concat()), value);
                }
                _ => {
                    let value = match &map[key] {
                        Value::String(text) => {
                            json!(text.replace("words", &format!("W{writer} words")))
                        }
                        _ => json!(1_000 + writer),
                    };
                    of_leaf.values.push(value.clone());
                    map.insert(key.clone(), value);
                }
            }
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
    let mut value = merged.json().unwrap().to_json().unwrap();
    for (pointer, added) in &added {
        assert_eq!(take(&mut value, pointer).as_ref(), Some(added), "{pointer}");
    }
    let nobody = Wanted::default();
    for leaf in &leaves {
        let pointer = pointer(leaf);
        let was = begin.pointer(&pointer).unwrap();
        let wanted = wanted.get(&pointer).unwrap_or(&nobody);
        match take(&mut value, &pointer) {
            // Apart, the engine says whether a change or a removal stands.
            None => assert!(
                wanted.removed && (apart > 0 || wanted.values.is_empty()),
                "{pointer} is gone"
            ),
            Some(now) => check(&pointer, was, &now, wanted),
        }
    }
    assert!(is_empty(&value), "nobody wrote {value}");
}

fn check(pointer: &str, was: &Value, now: &Value, wanted: &Wanted) {
    match wanted.values.as_slice() {
        [] => assert!(now == was && !wanted.removed, "{pointer}: {now}"),
        [one] => assert_eq!(now, one, "{pointer}"),
        all if was.is_string() && !wanted.removed => {
            for text in all {
                let words = text.as_str().unwrap().split(' ');
                let typed = words.into_iter().find(|word| word.starts_with('W'));
                let times = now.as_str().unwrap().matches(typed.unwrap()).count();
                assert_eq!(times, 1, "{pointer}: {now}");
            }
        }
        _ if was.is_string() => assert!(now.to_string().contains('W'), "{pointer}: {now}"),
        all => assert!(all.contains(now), "{pointer}: {now}"),
    }
}

/// Takes what stands at a place out of the tree.
fn take(tree: &mut Value, pointer: &str) -> Option<Value> {
    let (above, key) = pointer.rsplit_once('/').unwrap();
    tree.pointer_mut(above)?.as_object_mut()?.remove(key)
}

/// Whether there are only maps.
fn is_empty(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|members| members.values().all(is_empty))
}
