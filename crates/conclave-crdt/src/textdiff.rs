//! Small edits between two texts.

use core::ops::Range;
use similar::{Algorithm, DiffOp, capture_diff_slices};

/// Most words on both sides together that are compared by diff; above it the changed middle is replaced whole.
const MAX_DIFF_WORDS: usize = 8_000;

/// Replace `delete` characters at `position` (both counted in the old text) by `insert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextEdit {
    pub(crate) position: usize,
    pub(crate) delete: usize,
    pub(crate) insert: String,
}

/// Edits that turn `old` into `new`, last position first, so that each can be applied without moving the others.
pub(crate) fn text_edits(old: &str, new: &str) -> Vec<TextEdit> {
    let old: Vec<char> = old.chars().collect();
    let new: Vec<char> = new.chars().collect();
    let (old_words, new_words) = (words(&old), words(&new));
    // A diff of words is what a person means; inside a changed word, only the changed letters.
    let prefix = common_prefix(&old_words, &new_words);
    let suffix = common_suffix(
        old_words.get(prefix..).unwrap_or(&[]),
        new_words.get(prefix..).unwrap_or(&[]),
    );
    let old_middle = old_words
        .get(prefix..old_words.len() - suffix)
        .unwrap_or(&[]);
    let new_middle = new_words
        .get(prefix..new_words.len() - suffix)
        .unwrap_or(&[]);
    let start: usize = old_words.iter().take(prefix).map(|word| word.len()).sum();

    let mut edits = Vec::new();
    if old_middle.len() + new_middle.len() > MAX_DIFF_WORDS {
        push_trimmed(
            &mut edits,
            start,
            &old_middle.concat(),
            &new_middle.concat(),
        );
    } else {
        let mut position = start;
        for op in capture_diff_slices(Algorithm::Myers, old_middle, new_middle) {
            let (removed, added) = words_of(&op, old_middle, new_middle);
            if !matches!(op, DiffOp::Equal { .. }) {
                push_trimmed(&mut edits, position, &removed, &added);
            }
            position += removed.len();
        }
    }
    edits.reverse();
    edits
}

fn words_of(op: &DiffOp, old: &[&[char]], new: &[&[char]]) -> (Vec<char>, Vec<char>) {
    let cut = |words: &[&[char]], range: Range<usize>| words.get(range).unwrap_or(&[]).concat();
    (cut(old, op.old_range()), cut(new, op.new_range()))
}

fn push_trimmed(edits: &mut Vec<TextEdit>, position: usize, old: &[char], new: &[char]) {
    let prefix = common_prefix(old, new);
    let (old, new) = (
        old.get(prefix..).unwrap_or(&[]),
        new.get(prefix..).unwrap_or(&[]),
    );
    let suffix = common_suffix(old, new);
    let delete = old.len() - suffix;
    let insert: String = new.iter().take(new.len() - suffix).collect();
    if delete > 0 || !insert.is_empty() {
        edits.push(TextEdit {
            position: position + prefix,
            delete,
            insert,
        });
    }
}

/// Runs of letters and digits; every other character is a word of its own.
fn words(text: &[char]) -> Vec<&[char]> {
    text.chunk_by(|a, b| a.is_alphanumeric() && b.is_alphanumeric())
        .collect()
}

fn common_prefix<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

fn common_suffix<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter()
        .rev()
        .zip(b.iter().rev())
        .take_while(|(x, y)| x == y)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(old: &str, edits: &[TextEdit]) -> String {
        let mut chars: Vec<char> = old.chars().collect();
        for edit in edits {
            chars.splice(
                edit.position..edit.position + edit.delete,
                edit.insert.chars(),
            );
        }
        chars.into_iter().collect()
    }

    #[test]
    fn only_the_changed_letters_are_touched() {
        let edits = text_edits("the quick brown fox", "the quack brown dog fox");
        assert_eq!(
            apply("the quick brown fox", &edits),
            "the quack brown dog fox"
        );
        assert_eq!(edits.iter().map(|edit| edit.delete).sum::<usize>(), 1);
        assert_eq!(text_edits("same", "same"), vec![]);
    }

    #[test]
    fn large_rewrites_fall_back_to_one_edit() {
        let old = "a b ".repeat(MAX_DIFF_WORDS);
        let new = "c d ".repeat(MAX_DIFF_WORDS);
        let edits = text_edits(&old, &new);
        assert_eq!(edits.len(), 1);
        assert_eq!(apply(&old, &edits), new);
    }

    proptest::proptest! {
        #[test]
        fn edits_turn_old_into_new(old in "[ab \u{e9}\u{1f600}\n]{0,40}", new in "[ab \u{e9}\u{1f600}\n]{0,40}") {
            proptest::prop_assert_eq!(apply(&old, &text_edits(&old, &new)), new);
        }
    }
}
