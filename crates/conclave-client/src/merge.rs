//! Three-way merges: what somebody did to a copy is done to the document as it is now, so that changes made meanwhile survive.

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::{Map, Value};
use similar::{Algorithm, DiffOp, capture_diff_slices};

/// Longest replaced stretch, in characters of both sides together, that is compared character by character.
const FINE_CHARS: usize = 4096;
/// Deepest JSON that is merged; below that the newer side wins whole.
const MAX_DEPTH: usize = 64;

/// Elements `base` of the common ancestor became elements `other`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hunk {
    base: Range<usize>,
    other: Range<usize>,
}

/// Does to `current` what turned `base` into `new`.
///
/// Deletions take away what is still there; insertions go behind the element that they followed, or what is left of its surroundings. Where
/// both sides inserted at one place, both insertions stay.
pub(crate) fn merge_text(base: &str, new: &str, current: &str) -> String {
    if base == current || new == current {
        return new.to_owned();
    }
    let [base, new, current] = [base, new, current].map(|text| text.chars().collect::<Vec<_>>());
    apply(
        &text_hunks(&base, &new),
        &text_hunks(&base, &current),
        base.len(),
        &new,
        &current,
    )
    .into_iter()
    .collect()
}

/// The same for JSON: objects by key, arrays by element, strings by character; anything else is replaced.
pub(crate) fn merge_json(base: &Value, new: &Value, current: &Value) -> Value {
    merge_value(base, new, current, 0)
}

fn merge_value(base: &Value, new: &Value, current: &Value, depth: usize) -> Value {
    if base == new {
        return current.clone();
    }
    if base == current || new == current || depth >= MAX_DEPTH {
        return new.clone();
    }
    match (base, new, current) {
        (Value::Object(base), Value::Object(new), Value::Object(current)) => {
            Value::Object(merge_object(base, new, current, depth))
        }
        (Value::Array(base), Value::Array(new), Value::Array(current)) => {
            Value::Array(merge_array(base, new, current))
        }
        (Value::String(base), Value::String(new), Value::String(current)) => {
            Value::String(merge_text(base, new, current))
        }
        _ => new.clone(),
    }
}

fn merge_object(
    base: &Map<String, Value>,
    new: &Map<String, Value>,
    current: &Map<String, Value>,
    depth: usize,
) -> Map<String, Value> {
    let keys: BTreeSet<&String> = base
        .keys()
        .chain(new.keys())
        .chain(current.keys())
        .collect();
    let mut merged = Map::new();
    for key in keys {
        let value = match (base.get(key), new.get(key), current.get(key)) {
            // Untouched on this side: as it is now.
            (Some(base), Some(new), now) if base == new => now.cloned(),
            (None, None, now) => now.cloned(),
            (Some(base), Some(new), Some(now)) => Some(merge_value(base, new, now, depth + 1)),
            // Deleted there, changed here: the change stays.
            (_, Some(new), _) => Some(new.clone()),
            // Deleted here, changed there meanwhile: the change stays.
            (Some(base), None, Some(now)) if base != now => Some(now.clone()),
            (Some(_), None, _) => None,
        };
        if let Some(value) = value {
            merged.insert(key.clone(), value);
        }
    }
    merged
}

fn merge_array(base: &[Value], new: &[Value], current: &[Value]) -> Vec<Value> {
    // JSON values have no order; their text has.
    let texts = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<_>>();
    let (base_texts, new_texts, current_texts) = (texts(base), texts(new), texts(current));
    let mine = hunks(&base_texts, &new_texts);
    let theirs = hunks(&base_texts, &current_texts);
    apply(&mine, &theirs, base.len(), new, current)
}

/// Performs the hunks `mine` (base to new) on `current`, which came from base by `theirs`.
fn apply<T: Clone>(
    mine: &[Hunk],
    theirs: &[Hunk],
    base_len: usize,
    new: &[T],
    current: &[T],
) -> Vec<T> {
    let place = places(theirs, base_len);
    let mut deleted = vec![false; current.len()];
    // Insertions before each element of current, and at its end.
    let mut inserted: Vec<Vec<T>> = vec![Vec::new(); current.len() + 1];
    for hunk in mine {
        for at in hunk
            .base
            .clone()
            .filter_map(|at| place.get(at).copied().flatten())
        {
            if let Some(gone) = deleted.get_mut(at) {
                *gone = true;
            }
        }
        let before = place.get(..hunk.base.start).unwrap_or_default();
        let follows = before
            .iter()
            .rev()
            .find_map(|at| *at)
            .map_or(0, |at| at + 1);
        if let (Some(slot), Some(elements)) =
            (inserted.get_mut(follows), new.get(hunk.other.clone()))
        {
            slot.extend_from_slice(elements);
        }
    }
    let mut merged = Vec::with_capacity(current.len());
    for (at, elements) in inserted.into_iter().enumerate() {
        merged.extend(elements);
        if let (Some(element), Some(false)) = (current.get(at), deleted.get(at)) {
            merged.push(element.clone());
        }
    }
    merged
}

/// Where each element of base is in the other sequence, if it is still there.
fn places(hunks: &[Hunk], base_len: usize) -> Vec<Option<usize>> {
    let mut place = Vec::with_capacity(base_len);
    let mut at = 0;
    for hunk in hunks {
        while place.len() < hunk.base.start {
            place.push(Some(at));
            at += 1;
        }
        place.resize(hunk.base.end, None);
        at = hunk.other.end;
    }
    while place.len() < base_len {
        place.push(Some(at));
        at += 1;
    }
    place
}

fn hunks<T: Eq + std::hash::Hash + Ord>(base: &[T], other: &[T]) -> Vec<Hunk> {
    capture_diff_slices(Algorithm::Myers, base, other)
        .into_iter()
        .filter(|op| !matches!(op, DiffOp::Equal { .. }))
        .map(|op| Hunk {
            base: op.old_range(),
            other: op.new_range(),
        })
        .collect()
}

/// Compares by words first, which is quick, then looks closely at what differs.
fn text_hunks(base: &[char], other: &[char]) -> Vec<Hunk> {
    let (base_words, other_words) = (words(base), words(other));
    let base_starts = starts(&base_words);
    let other_starts = starts(&other_words);
    let chars = |starts: &[usize], range: Range<usize>| -> Range<usize> {
        let at = |index: usize| starts.get(index).copied().unwrap_or_default();
        at(range.start)..at(range.end)
    };
    let mut found = Vec::new();
    for hunk in hunks(&base_words, &other_words) {
        let base_chars = chars(&base_starts, hunk.base);
        let other_chars = chars(&other_starts, hunk.other);
        if base_chars.len() + other_chars.len() > FINE_CHARS {
            found.push(Hunk {
                base: base_chars,
                other: other_chars,
            });
            continue;
        }
        let cut = |text: &[char], range: &Range<usize>| {
            text.get(range.clone()).unwrap_or_default().to_vec()
        };
        let fine = hunks(&cut(base, &base_chars), &cut(other, &other_chars));
        let shift = |range: Range<usize>, by: usize| range.start + by..range.end + by;
        found.extend(fine.into_iter().map(|hunk| Hunk {
            base: shift(hunk.base, base_chars.start),
            other: shift(hunk.other, other_chars.start),
        }));
    }
    found
}

/// Runs of letters and digits; every other character is a word of its own.
fn words(text: &[char]) -> Vec<&[char]> {
    text.chunk_by(|a, b| a.is_alphanumeric() && b.is_alphanumeric())
        .collect()
}

/// Where each word starts, and where the last one ends, in characters.
fn starts(words: &[&[char]]) -> Vec<usize> {
    let mut at = 0;
    let mut starts = vec![0];
    for word in words {
        at += word.len();
        starts.push(at);
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn edits_of_both_sides_survive() {
        let base = "one two three\nfour five six\n";
        let new = "one two THREE\nfour five six\nseven\n";
        let current = "zero one two three\nfour 5 six\n";
        assert_eq!(
            merge_text(base, new, current),
            "zero one two THREE\nfour 5 six\nseven\n"
        );
    }

    #[test]
    fn edits_inside_one_word_survive() {
        assert_eq!(merge_text("abcdef", "abcdeXf", "Yabcdef"), "YabcdeXf");
    }

    #[test]
    fn what_is_gone_already_is_not_missed() {
        assert_eq!(merge_text("a b c", "a c", "a c"), "a c");
        assert_eq!(merge_text("keep drop", "keep", ""), "");
        // The place of the insertion is gone: it goes where its surroundings were.
        assert_eq!(
            merge_text("head body tail", "head body new tail", "head tail"),
            "head new tail"
        );
    }

    #[test]
    fn an_unchanged_side_changes_nothing() {
        assert_eq!(merge_text("a", "a", "b"), "b");
        assert_eq!(merge_text("a", "b", "a"), "b");
        assert_eq!(merge_text("", "x", ""), "x");
    }

    #[test]
    fn long_rewrites_are_merged_by_words() {
        let base = "alpha ".repeat(3000);
        let new = "beta ".repeat(3000);
        let merged = merge_text(&base, &new, &format!("{base}end"));
        assert_eq!(merged, format!("{new}end"));
    }

    #[test]
    fn json_is_merged_by_key_and_element() {
        let base = json!({"a": 1, "b": [1, 2, 3], "gone": true, "s": "x y", "both": 1});
        let new = json!({"a": 1, "b": [1, 3], "s": "x y z", "both": 2, "mine": null});
        let current = json!({"a": 5, "b": [0, 1, 2, 3, 4], "gone": true, "s": "w x y", "both": 3, "theirs": 7});
        let merged = merge_json(&base, &new, &current);
        assert_eq!(
            merged,
            json!({"a": 5, "b": [0, 1, 3, 4], "s": "w x y z", "both": 2, "mine": null, "theirs": 7})
        );
    }

    #[test]
    fn json_deleted_on_one_side_and_changed_on_the_other_stays() {
        let merged = merge_json(&json!({"k": 1}), &json!({}), &json!({"k": 2}));
        assert_eq!(merged, json!({"k": 2}));
        let merged = merge_json(&json!({"k": 1}), &json!({"k": 2}), &json!({}));
        assert_eq!(merged, json!({"k": 2}));
    }

    /// Without changes of the others the merge gives exactly the new text; without own changes exactly the current one.
    #[test]
    fn every_small_case_respects_an_idle_side() {
        let texts = ["", "a", "ab", "a b", "b a", "é b\n", "aa bb cc", "cc bb aa"];
        for base in texts {
            for other in texts {
                let [b, o] = [base, other].map(|text| text.chars().collect::<Vec<_>>());
                let forward = text_hunks(&b, &o);
                let mine: String = apply(&forward, &[], b.len(), &o, &b).into_iter().collect();
                assert_eq!(mine, other, "{base:?} to {other:?}");
                let theirs: String = apply(&[], &forward, b.len(), &b, &o).into_iter().collect();
                assert_eq!(theirs, other, "{base:?} to {other:?}");
            }
        }
    }
}
