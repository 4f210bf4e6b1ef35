//! Differences between two sequences, and what they mean in a third.

pub(crate) mod items;
mod likeness;
pub(crate) mod list;
mod marks;
mod pieces;
pub(crate) mod text;

use core::hash::Hash;
use core::ops::Range;
use std::collections::HashMap;

use similar::{Algorithm, DiffOp, capture_diff_slices};

/// Elements `old` became elements `new`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hunk {
    pub(crate) old: Range<usize>,
    pub(crate) new: Range<usize>,
}

/// An element as a number: equal elements have equal numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token(u32);

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        work::count(1);
        self.0 == other.0
    }
}

impl Eq for Token {}

impl Hash for Token {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        work::count(1);
        self.0.hash(state);
    }
}

/// Gives equal elements of both sequences one number.
pub(crate) fn tokens<T: Hash + Eq>(old: &[T], new: &[T]) -> (Vec<Token>, Vec<Token>) {
    let mut known: HashMap<&T, u32> = HashMap::with_capacity(old.len());
    let mut number = |element| {
        let next = u32::try_from(known.len()).unwrap_or(u32::MAX);
        Token(*known.entry(element).or_insert(next))
    };
    (
        old.iter().map(&mut number).collect(),
        new.iter().map(&mut number).collect(),
    )
}

/// Where the sequences differ, in order. Rare common elements are matched first and what lies between them after that, with a search that
/// gives up optimality, never the anchors, where it would cost too much: near linear for any input.
pub(crate) fn hunks(old: &[Token], new: &[Token]) -> Vec<Hunk> {
    let mut found: Vec<Hunk> = Vec::new();
    for op in capture_diff_slices(Algorithm::Myers, old, new) {
        if matches!(op, DiffOp::Equal { .. }) {
            continue;
        }
        let hunk = Hunk {
            old: op.old_range(),
            new: op.new_range(),
        };
        join(&mut found, hunk, old, new);
    }
    found
}

/// Most elements that a change is moved over.
const MAX_SLIDE: usize = 64;

/// Adds a hunk behind the others. If it can be said in another way, or the one before it, so that they touch, they become one: what stood
/// between them was matched by chance with a part of what changed.
fn join(hunks: &mut Vec<Hunk>, mut hunk: Hunk, old: &[Token], new: &[Token]) {
    if let Some(last) = hunks.last_mut() {
        let gap = hunk.old.start - last.old.end;
        if gap <= MAX_SLIDE {
            if slides(
                &hunk,
                old,
                new,
                |run| run.start - gap..run.start,
                |run| run.end - gap..run.end,
            ) {
                hunk.old = hunk.old.start - gap..hunk.old.end - gap;
                hunk.new = hunk.new.start - gap..hunk.new.end - gap;
            } else if slides(
                last,
                old,
                new,
                |run| run.start..run.start + gap,
                |run| run.end..run.end + gap,
            ) {
                last.old = last.old.start + gap..last.old.end + gap;
                last.new = last.new.start + gap..last.new.end + gap;
            }
        }
    }
    push(hunks, hunk);
}

/// Whether an insertion or deletion stays the same where it leaves out `left` and takes in what `right` is instead, or the other way round.
fn slides(
    hunk: &Hunk,
    old: &[Token],
    new: &[Token],
    left: impl Fn(&Range<usize>) -> Range<usize>,
    right: impl Fn(&Range<usize>) -> Range<usize>,
) -> bool {
    let (run, tokens) = match (hunk.old.is_empty(), hunk.new.is_empty()) {
        (true, false) => (&hunk.new, new),
        (false, true) => (&hunk.old, old),
        _ => return false,
    };
    match (tokens.get(left(run)), tokens.get(right(run))) {
        (Some(left), Some(right)) => left == right,
        _ => false,
    }
}

/// Adds a hunk behind the others; neighbours become one.
fn push(hunks: &mut Vec<Hunk>, hunk: Hunk) {
    match hunks.last_mut() {
        Some(last) if last.old.end == hunk.old.start && last.new.end == hunk.new.start => {
            last.old.end = hunk.old.end;
            last.new.end = hunk.new.end;
        }
        _ => hunks.push(hunk),
    }
}

/// How much was compared, for tests that hold the cost down.
pub(crate) mod work {
    #[cfg(test)]
    std::thread_local! {
        static STEPS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
    }

    #[inline]
    pub(crate) fn count(steps: u64) {
        #[cfg(test)]
        STEPS.with(|counted| counted.set(counted.get() + steps));
        #[cfg(not(test))]
        let _ = steps;
    }

    /// What was counted since the last call.
    #[cfg(test)]
    pub(crate) fn take() -> u64 {
        STEPS.with(|counted| counted.replace(0))
    }
}
