//! How like two items are, and what is most an item's own.

use serde_json::{Map, Value};

/// How much two values share, in thousandths.
pub(super) fn likeness(old: &Value, new: &Value) -> u32 {
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
pub(super) fn feature(item: &Value) -> String {
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
