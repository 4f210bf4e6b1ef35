//! Differences between texts: lines, then words, then letters that were added to a word or taken from it.

use core::ops::Range;
use std::collections::HashMap;

use unicode_segmentation::UnicodeSegmentation;

use super::pieces::{Chars, Pieces, is_word};
use super::{Hunk, hunks, push, tokens};

/// This many unchanged words in a row are no coincidence, whatever was rewritten around them.
const ANCHOR_WORDS: usize = 4;
/// Nor are these, if one of them stands once in each text.
const ANCHOR_RARE_WORDS: usize = 2;
/// How many pieces a change is moved to where it reads best.
const MAX_SLIDE: usize = 64;

/// Replace `delete` characters at `position` (both counted in the old text) by `insert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextEdit {
    /// In characters of the old text.
    pub position: usize,
    /// How many characters go.
    pub delete: usize,
    /// What comes in their place.
    pub insert: String,
}

/// Edits that do to `current` what turned `base` into `new`, last position first, so that each can be applied without moving the others.
///
/// Deletions take away what is still there. Insertions stay with the text that they followed, behind what others put there meanwhile. What
/// others did already in the same way is not done again.
#[must_use]
pub fn text_edits(base: &str, new: &str, current: &str) -> Vec<TextEdit> {
    if new == current {
        return Vec::new();
    }
    let mine = text_hunks(base, new);
    let theirs = if base == current {
        Vec::new()
    } else {
        text_hunks(base, current)
    };
    let (new, current) = (Chars::of(new), Chars::of(current));
    let mut edits = Vec::new();
    let mut meanwhile = Meanwhile::new(&theirs);
    for hunk in &mine {
        let insert = new.cut(&hunk.new);
        meanwhile.up_to(hunk.old.start);
        let done = |other: &Hunk| other.old == hunk.old && current.cut(&other.new) == insert;
        if !meanwhile.at(hunk.old.start).any(done) {
            let mut carried = meanwhile.carry_out(&hunk.old, insert);
            for edit in &mut carried {
                let theirs = meanwhile.wrote_beside(hunk.old.end, edit);
                keep_apart(edit, &hunk.new, (&new, &current), theirs);
            }
            carried.retain(|edit| edit.delete > 0 || !edit.insert.is_empty());
            edits.append(&mut carried);
        }
    }
    edits.reverse();
    edits
}

/// What doing to `current` what turned `base` into `new` gives, as [`crate::TextView::merge`] does it.
#[must_use]
pub fn merged(base: &str, new: &str, current: &str) -> String {
    let mut edits = text_edits(base, new, current);
    edits.reverse();
    let mut rest = current.chars();
    let mut text = String::with_capacity(current.len());
    let mut at = 0;
    for edit in edits {
        text.extend(rest.by_ref().take(edit.position.saturating_sub(at)));
        text.push_str(&edit.insert);
        rest.by_ref().take(edit.delete).for_each(drop);
        at = edit.position + edit.delete;
    }
    text.extend(rest);
    text
}

/// What others did to the text, and how far it has been passed.
struct Meanwhile<'a> {
    ahead: &'a [Hunk],
    /// Where the unchanged text before what is ahead begins, in base and in the current text.
    base: usize,
    current: usize,
}

impl<'a> Meanwhile<'a> {
    fn new(hunks: &'a [Hunk]) -> Self {
        Self {
            ahead: hunks,
            base: 0,
            current: 0,
        }
    }

    /// Passes what ends before a place.
    fn up_to(&mut self, place: usize) {
        while let Some((hunk, ahead)) = self.ahead.split_first()
            && hunk.old.end < place
        {
            self.ahead = ahead;
            (self.base, self.current) = (hunk.old.end, hunk.new.end);
        }
    }

    /// What is ahead and begins no later than a place.
    fn at(&self, place: usize) -> impl Iterator<Item = &'a Hunk> + use<'a> {
        self.ahead
            .iter()
            .take_while(move |hunk| hunk.old.start <= place)
    }

    /// Whether others wrote what stands right before an edit of the current text, and what stands right behind it; it is not behind `end`
    /// of base.
    fn wrote_beside(&self, end: usize, edit: &TextEdit) -> (bool, bool) {
        let wrote = |is_there: &dyn Fn(&Range<usize>) -> bool| {
            let mut written = self.at(end).map(|hunk| &hunk.new);
            written.any(|new| !new.is_empty() && is_there(new))
        };
        (
            wrote(&|new| new.end == edit.position),
            wrote(&|new| new.start == edit.position + edit.delete),
        )
    }

    /// Replaces the stretch `old` of base by `insert`; edits come in the order of the current text.
    fn carry_out(&self, old: &Range<usize>, insert: String) -> Vec<TextEdit> {
        let (mut base, mut current) = (self.base, self.current);
        let mut position = None;
        let mut gone: Vec<Range<usize>> = Vec::new();
        let mut ahead = self.ahead.iter();
        loop {
            let next = ahead.next();
            // The text that others left alone, up to their next change.
            let end = next.map_or(usize::MAX, |hunk| hunk.old.start);
            let left = old.start.max(base)..old.end.min(end);
            if !left.is_empty() {
                let start = current + (left.start - base);
                let end = start + left.len();
                match gone.last_mut() {
                    Some(last) if last.end == start => last.end = end,
                    _ => gone.push(start..end),
                }
            }
            // Something put before a word stays before it, though others replaced the word.
            let before =
                old.is_empty() && old.start == end && next.is_some_and(|hunk| !hunk.old.is_empty());
            if position.is_none() && (old.start < end || before) {
                position = Some(current + old.start.saturating_sub(base));
            }
            let Some(hunk) = next.filter(|hunk| hunk.old.start <= old.end) else {
                break;
            };
            (base, current) = (hunk.old.end, hunk.new.end);
        }
        let position = position.unwrap_or(current);
        let mut gone = gone.into_iter().peekable();
        let delete = match gone.next_if(|range| range.start == position) {
            Some(range) => range.len(),
            None => 0,
        };
        let mut edits = Vec::new();
        if delete > 0 || !insert.is_empty() {
            edits.push(TextEdit {
                position,
                delete,
                insert,
            });
        }
        edits.extend(gone.map(|range| TextEdit {
            position: range.start,
            delete: range.len(),
            insert: String::new(),
        }));
        edits
    }
}

/// The longest of what stands between two words that is written again where others took it away.
const LONGEST_GAP_CHARS: usize = 4;

/// Keeps words from growing together. What stood between an inserted word and its neighbour comes back if others took it away, and what is
/// deleted ends before what stands between two words that others left there. `range` is where the edit stands in `new`; beside words that
/// others wrote (`theirs`: before it, behind it) an insertion stands as it does if it was made apart.
fn keep_apart(
    edit: &mut TextEdit,
    range: &Range<usize>,
    (new, current): (&Chars<'_>, &Chars<'_>),
    (theirs_before, theirs_behind): (bool, bool),
) {
    let joined = |a: Option<char>, b: Option<char>| {
        a.is_some_and(char::is_alphanumeric) && b.is_some_and(char::is_alphanumeric)
    };
    let gap_chars = |chars: &mut dyn Iterator<Item = char>| {
        let chars = chars.take(LONGEST_GAP_CHARS);
        chars.take_while(|c| !c.is_alphanumeric()).count()
    };
    let end = edit.position + edit.delete;
    let before = current.back_from(edit.position).next();
    let behind = current.forth_from(end).next();
    if edit.insert.is_empty() {
        let meant = || {
            joined(
                new.back_from(range.start).next(),
                new.forth_from(range.end).next(),
            )
        };
        if joined(before, behind) && !meant() {
            edit.delete -= gap_chars(&mut current.back_from(end).take(edit.delete));
        }
        return;
    }
    if joined(edit.insert.chars().next_back(), behind) && !theirs_behind {
        let gap = gap_chars(&mut new.forth_from(range.end));
        edit.insert += &new.cut(&(range.end..range.end + gap));
    }
    if joined(before, edit.insert.chars().next()) && !theirs_before {
        let gap = gap_chars(&mut new.back_from(range.start));
        let gap = new.cut(&(range.start - gap..range.start));
        edit.insert.insert_str(0, &gap);
    }
}

/// Where the texts differ, in characters.
fn text_hunks(old: &str, new: &str) -> Vec<Hunk> {
    let (old, new) = (Pieces::lines(old), Pieces::lines(new));
    let mut lines = compared_by(&old.texts, &new.texts, |line| !line.trim().is_empty());
    slide(&mut lines, &old.texts, &new.texts);
    let mut found = Vec::new();
    for lines in lines {
        let (old, new) = (old.words(&lines.old), new.words(&lines.new));
        let mut words = settled(compared_by(&old.texts, &new.texts, is_word), &old, &new);
        slide(&mut words, &old.texts, &new.texts);
        for words in words {
            push(&mut found, letters(&words, &old, &new));
        }
    }
    found
}

fn compared(old: &[&str], new: &[&str]) -> Vec<Hunk> {
    let (old, new) = tokens(old, new);
    hunks(&old, &new)
}

/// Where the pieces differ. Only some are anchors, words for one: blanks and commas are everywhere, as empty lines are.
fn compared_by(old: &[&str], new: &[&str], is_anchor: fn(&str) -> bool) -> Vec<Hunk> {
    let (old_at, old_words) = anchors(old, is_anchor);
    let (new_at, new_words) = anchors(new, is_anchor);
    let mut found = Vec::new();
    // The pieces behind the last anchor that both have.
    let mut from = (0, 0);
    let mut next = (0, 0);
    let end = Hunk {
        old: old_words.len()..old_words.len(),
        new: new_words.len()..new_words.len(),
    };
    for hunk in compared(&old_words, &new_words).iter().chain([&end]) {
        // Anchors that both have, up to the hunk, each with what stands before it.
        while next.0 < hunk.old.start {
            if let (Some(old_at), Some(new_at)) = (old_at.get(next.0), new_at.get(next.1)) {
                between(
                    old,
                    new,
                    from.0..*old_at,
                    from.1..*new_at,
                    is_anchor,
                    &mut found,
                );
                from = (old_at + 1, new_at + 1);
            }
            next = (next.0 + 1, next.1 + 1);
        }
        next = (hunk.old.end, hunk.new.end);
    }
    between(
        old,
        new,
        from.0..old.len(),
        from.1..new.len(),
        is_anchor,
        &mut found,
    );
    found
}

fn anchors<'a>(texts: &[&'a str], is_anchor: fn(&str) -> bool) -> (Vec<usize>, Vec<&'a str>) {
    let all = texts.iter().copied().enumerate();
    all.filter(|(_, text)| is_anchor(text)).unzip()
}

/// What differs between two anchors that stayed: one change, if there are anchors in it.
fn between(
    old: &[&str],
    new: &[&str],
    mut in_old: Range<usize>,
    mut in_new: Range<usize>,
    is_anchor: fn(&str) -> bool,
    found: &mut Vec<Hunk>,
) {
    let equal = |a: usize, b: usize| old.get(a) == new.get(b);
    while !in_old.is_empty() && !in_new.is_empty() && equal(in_old.start, in_new.start) {
        (in_old.start, in_new.start) = (in_old.start + 1, in_new.start + 1);
    }
    while !in_old.is_empty() && !in_new.is_empty() && equal(in_old.end - 1, in_new.end - 1) {
        (in_old.end, in_new.end) = (in_old.end - 1, in_new.end - 1);
    }
    if in_old.is_empty() && in_new.is_empty() {
        return;
    }
    let anchored = |texts: &[&str], range: &Range<usize>| {
        let cut = texts.get(range.clone()).unwrap_or(&[]);
        cut.iter().any(|text| is_anchor(text))
    };
    let one_sided = in_old.is_empty() || in_new.is_empty();
    if one_sided || anchored(old, &in_old) || anchored(new, &in_new) {
        push(
            found,
            Hunk {
                old: in_old,
                new: in_new,
            },
        );
        return;
    }
    let (Some(old), Some(new)) = (old.get(in_old.clone()), new.get(in_new.clone())) else {
        return;
    };
    for hunk in compared(old, new) {
        push(
            found,
            Hunk {
                old: hunk.old.start + in_old.start..hunk.old.end + in_old.start,
                new: hunk.new.start + in_new.start..hunk.new.end + in_new.start,
            },
        );
    }
}

/// What was only inserted or only deleted between equal pieces can often be said in several ways: in `A. B.`, the `. B` or the ` B.`. It
/// is meant to begin where a line, a sentence or a word begins.
fn slide(hunks: &mut [Hunk], old: &[&str], new: &[&str]) {
    let mut from = (0, 0);
    for at in 0..hunks.len() {
        let to = match hunks.get(at + 1) {
            Some(next) => (next.old.start, next.new.start),
            None => (old.len(), new.len()),
        };
        let Some(hunk) = hunks.get_mut(at) else {
            return;
        };
        if hunk.old.is_empty() || hunk.new.is_empty() {
            let (run, texts, from, to) = match hunk.old.is_empty() {
                true => (hunk.new.clone(), new, from.1, to.1),
                false => (hunk.old.clone(), old, from.0, to.0),
            };
            let start = best_start(&run, texts, from, to);
            let moved = |range: &Range<usize>| {
                let first = (range.start + start).saturating_sub(run.start);
                first..first + range.len()
            };
            *hunk = Hunk {
                old: moved(&hunk.old),
                new: moved(&hunk.new),
            };
        }
        from = (hunk.old.end, hunk.new.end);
    }
}

/// Where a run between `from` and `to` best begins.
fn best_start(run: &Range<usize>, texts: &[&str], from: usize, to: usize) -> usize {
    let equal = |a: usize, b: usize| texts.get(a) == texts.get(b);
    let (mut low, mut high) = (run.start, run.start);
    while low > from && run.start - low < MAX_SLIDE && equal(low - 1, low - 1 + run.len()) {
        low -= 1;
    }
    while high + run.len() < to && high - run.start < MAX_SLIDE && equal(high, high + run.len()) {
        high += 1;
    }
    (low..=high)
        .max_by_key(|start| beginning(texts, *start))
        .unwrap_or(run.start)
}

/// How well something begins before a piece.
fn beginning(texts: &[&str], start: usize) -> u8 {
    let before = |back: usize| {
        start
            .checked_sub(back)
            .and_then(|at| texts.get(at))
            .copied()
    };
    let ends = |text: Option<&str>| text.is_some_and(|text| text.ends_with(['.', '!', '?', ':']));
    let blank = |text: Option<&str>| text.is_some_and(|text| text.trim().is_empty());
    match before(1) {
        None => 6,
        Some("\n" | "\r\n") => 6,
        Some(last) if last.ends_with('\n') => 5,
        last if blank(last) && ends(before(2)) => 4,
        last if ends(last) => 3,
        last if blank(last) => 2,
        Some(last) if !is_word(last) => 1,
        Some(_) => 0,
    }
}

/// Puts together what was rewritten together. Words that two versions of a rewritten stretch have in common by coincidence are no anchors:
/// two people's versions of it would be shuffled into each other there.
fn settled(hunks: Vec<Hunk>, old: &Pieces<'_>, new: &Pieces<'_>) -> Vec<Hunk> {
    let rare = Rare::of(old, new);
    let mut settled = Vec::with_capacity(hunks.len());
    let mut stretch = Stretch::default();
    for hunk in hunks {
        let between = match stretch.hunks.last() {
            Some(last) => old.cut(&(last.old.end..hunk.old.start)),
            None => &[],
        };
        let kept = between.iter().filter(|text| is_word(text)).count();
        if kept >= ANCHOR_WORDS || (kept >= ANCHOR_RARE_WORDS && rare.any(between)) {
            core::mem::take(&mut stretch).settle(&mut settled);
        } else {
            stretch.kept += kept;
        }
        stretch.removed += old.count_words(&hunk.old);
        stretch.added += new.count_words(&hunk.new);
        stretch.hunks.push(hunk);
    }
    stretch.settle(&mut settled);
    settled
}

/// Words that stand once in each of two texts.
struct Rare<'a>(HashMap<&'a str, (u32, u32)>);

impl<'a> Rare<'a> {
    fn of(old: &Pieces<'a>, new: &Pieces<'a>) -> Self {
        let mut counts: HashMap<&str, (u32, u32)> = HashMap::new();
        for word in old.texts.iter().filter(|text| is_word(text)) {
            counts.entry(word).or_default().0 += 1;
        }
        for word in &new.texts {
            if let Some((_, count)) = counts.get_mut(word) {
                *count += 1;
            }
        }
        Self(counts)
    }

    fn any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.0.get(word) == Some(&(1, 1)))
    }
}

/// Changes with little between them.
#[derive(Default)]
struct Stretch {
    hunks: Vec<Hunk>,
    /// Unchanged words between the changes, words removed and words added by them.
    kept: usize,
    removed: usize,
    added: usize,
}

impl Stretch {
    fn settle(self, settled: &mut Vec<Hunk>) {
        let changed = self.removed.min(self.added);
        let rewritten = match self.hunks.len() {
            0 | 1 => false,
            2 => self.kept * 10 < changed,
            _ => self.kept < changed,
        };
        if rewritten && let (Some(first), Some(last)) = (self.hunks.first(), self.hunks.last()) {
            settled.push(Hunk {
                old: first.old.start..last.old.end,
                new: first.new.start..last.new.end,
            });
            return;
        }
        settled.extend(self.hunks);
    }
}

/// The hunk in characters: a word that only got longer or shorter keeps its other letters, as words do that grew together or apart.
fn letters(hunk: &Hunk, old: &Pieces<'_>, new: &Pieces<'_>) -> Hunk {
    let (mut in_old, mut in_new) = (old.chars(&hunk.old), new.chars(&hunk.new));
    let (old, new) = (old.cut(&hunk.old), new.cut(&hunk.new));
    let kept = within_word(old, new)
        .or_else(|| grown_together(old, new))
        .or_else(|| grown_together(new, old));
    if let Some((prefix, suffix)) = kept {
        for range in [&mut in_old, &mut in_new] {
            range.start += prefix;
            range.end -= suffix;
        }
    }
    Hunk {
        old: in_old,
        new: in_new,
    }
}

/// Shortest word that is looked for in what words have grown together to.
const SHORTEST_PART_CHARS: usize = 3;

/// How many characters stay at the start and the end where what stood behind the first word, or before the last one, was taken away, and
/// the word stands together with something else now.
fn grown_together(parts: &[&str], whole: &[&str]) -> Option<(usize, usize)> {
    let chars = |word: &str| word.chars().count();
    let is_part = |word: &str, blank: &str, of: &str, at: usize| {
        is_word(word)
            && !is_word(blank)
            && chars(word) >= SHORTEST_PART_CHARS
            && of.grapheme_indices(true).any(|(start, _)| start == at)
    };
    let (first, last) = (whole.first()?, whole.last()?);
    let prefix = match parts {
        [word, blank, ..] if first.starts_with(word) => {
            is_part(word, blank, first, word.len()).then(|| chars(word))
        }
        _ => None,
    };
    let suffix = match parts {
        [.., blank, word] if last.ends_with(word) => {
            is_part(word, blank, last, last.len() - word.len()).then(|| chars(word))
        }
        _ => None,
    };
    let (prefix, suffix) = match (prefix, suffix) {
        (None, None) => return None,
        (prefix, suffix) => (prefix.unwrap_or(0), suffix.unwrap_or(0)),
    };
    let overlap = whole.len() == 1 && prefix + suffix > chars(first);
    Some((prefix, if overlap { 0 } else { suffix }))
}

/// How many characters a word keeps at its start and end, if letters were only added to it or only taken from it, and few of them.
fn within_word(old: &[&str], new: &[&str]) -> Option<(usize, usize)> {
    let ([old], [new]) = (old, new) else {
        return None;
    };
    let old: Vec<&str> = old.graphemes(true).collect();
    let new: Vec<&str> = new.graphemes(true).collect();
    let shorter = old.len().min(new.len());
    let prefix = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let ends = old.iter().rev().zip(new.iter().rev());
    let suffix = ends
        .take(shorter - prefix)
        .take_while(|(a, b)| a == b)
        .count();
    let kept = prefix + suffix;
    if kept < shorter || 2 * kept <= old.len().max(new.len()) {
        return None;
    }
    let chars = |parts: &[&str]| parts.iter().map(|part| part.chars().count()).sum();
    let start: usize = old.get(..prefix).map(chars)?;
    let end: usize = old.get(old.len() - suffix..).map(chars)?;
    Some((start, end))
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
