//! Where the characters of a text stand in the engine's counting, and what formats they have.
//!
//! The engine counts UTF-16 units, and one unit for anything embedded in the text; the view counts characters.

use std::sync::Arc;

use yrs::types::text::{Diff, YChange};
use yrs::types::{Attrs, Delta};
use yrs::{Any, GetString, Out, ReadTxn, Snapshot, Text, TextRef, TransactionMut};

use crate::diff::text::TextEdit;
use crate::diff::work;
use crate::error::{CrdtError, Result};
use crate::limits::MAX_INSERT_CHARS;

/// What one unit or two of the engine's are in the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// A character of one unit.
    Narrow,
    /// A character of two units.
    Wide,
    /// Something of one unit that is no character.
    Embedded,
}

impl Unit {
    fn of(c: char) -> Self {
        match c.len_utf16() {
            1 => Self::Narrow,
            _ => Self::Wide,
        }
    }
}

type Format = Option<Arc<Attrs>>;

/// Neighbours that are alike.
#[derive(Debug, Clone, PartialEq)]
struct Run {
    unit: Unit,
    count: u32,
    format: Format,
}

impl Run {
    fn units(&self) -> u32 {
        match self.unit {
            Unit::Wide => 2 * self.count,
            Unit::Narrow | Unit::Embedded => self.count,
        }
    }

    fn chars(&self) -> usize {
        match self.unit {
            Unit::Embedded => 0,
            Unit::Narrow | Unit::Wide => self.count as usize,
        }
    }
}

/// A whole text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Layout(Vec<Run>);

impl Layout {
    /// A text of so many characters, all of one unit and without formats.
    pub(super) fn even(units: u32) -> Self {
        let mut layout = Self::default();
        layout.push(Unit::Narrow, units, &None);
        layout
    }

    /// Looks at the whole text.
    pub(super) fn of(text: &TextRef, txn: &mut TransactionMut<'_>) -> Self {
        let layout = Self::read(text.diff(txn, YChange::identity), |_| true);
        let chars = text.get_string(txn).chars().count();
        if layout.units() == text.len(txn) && layout.chars() == chars {
            return layout;
        }
        // A string that is embedded looks like a part of the text. Against an empty snapshot only this was added.
        let now = txn.snapshot();
        let empty = Snapshot::default();
        let chunks = text.diff_range(txn, Some(&now), Some(&empty), YChange::identity);
        Self::read(chunks, |chunk| chunk.ychange.is_some())
    }

    fn read(chunks: Vec<Diff<YChange>>, is_text: fn(&Diff<YChange>) -> bool) -> Self {
        let mut layout = Self::default();
        for chunk in chunks {
            let is_text = is_text(&chunk);
            let format = chunk.attributes.map(|attributes| Arc::new(*attributes));
            match &chunk.insert {
                Out::Any(Any::String(part)) if is_text => layout.push_text(part, &format),
                _ => layout.push(Unit::Embedded, 1, &format),
            }
        }
        layout
    }

    fn push(&mut self, unit: Unit, count: u32, format: &Format) {
        if count == 0 {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.unit == unit && last.format == *format => last.count += count,
            _ => self.0.push(Run {
                unit,
                count,
                format: format.clone(),
            }),
        }
    }

    fn push_text(&mut self, text: &str, format: &Format) {
        work::count(text.len() as u64);
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let unit = Unit::of(first);
            let end = rest.find(|c| Unit::of(c) != unit).unwrap_or(rest.len());
            let (alike, others) = rest.split_at(end);
            self.push(unit, alike.chars().count() as u32, format);
            rest = others;
        }
    }

    /// Whether all are characters of one unit without formats.
    pub(super) fn is_even(&self) -> bool {
        let even = |run: &Run| run.unit == Unit::Narrow && run.format.is_none();
        self.0.iter().all(even)
    }

    pub(super) fn units(&self) -> u32 {
        self.0.iter().map(Run::units).sum()
    }

    pub(super) fn chars(&self) -> usize {
        self.0.iter().map(Run::chars).sum()
    }

    /// The engine's units before a character, or the end; none past that.
    pub(super) fn units_before(&self, chars: usize) -> Option<u32> {
        let mut left = chars;
        let mut units = 0;
        for run in &self.0 {
            if left < run.chars() {
                let per_char = if run.unit == Unit::Wide { 2 } else { 1 };
                return Some(units + per_char * left as u32);
            }
            // What is embedded before the place stands before it.
            left -= run.chars();
            units += run.units();
        }
        (left == 0).then_some(units)
    }

    /// Characters before a unit of the engine's.
    pub(super) fn chars_before(&self, units: u32) -> usize {
        let mut left = units;
        let mut chars = 0;
        for run in &self.0 {
            if left < run.units() {
                return chars
                    + match run.unit {
                        Unit::Narrow => left as usize,
                        Unit::Wide => left as usize / 2,
                        Unit::Embedded => 0,
                    };
            }
            left -= run.units();
            chars += run.chars();
        }
        chars
    }

    /// Makes edits, given last position first, and says them as the engine takes them: from the start of the text to its end.
    pub(super) fn edit(&mut self, edits: &[TextEdit]) -> Result<Vec<Delta<String>>> {
        let mut pass = Pass::over(&self.0);
        for edit in edits.iter().rev() {
            pass.edit(edit)?;
        }
        let (layout, delta) = pass.end();
        *self = layout;
        Ok(delta)
    }
}

/// On the way through a text that is edited.
struct Pass<'a> {
    ahead: &'a [Run],
    /// How much of the first run ahead was passed.
    within: u32,
    /// Characters passed, as they stood before.
    chars: usize,
    /// Format of what was passed last.
    format: Format,
    edited: Layout,
    delta: Vec<Delta<String>>,
    /// Units that stay, since the last change.
    retained: u32,
}

impl<'a> Pass<'a> {
    fn over(runs: &'a [Run]) -> Self {
        Self {
            ahead: runs,
            within: 0,
            chars: 0,
            format: None,
            edited: Layout::default(),
            delta: Vec::new(),
            retained: 0,
        }
    }

    fn edit(&mut self, edit: &TextEdit) -> Result<()> {
        self.keep_to(edit.position)?;
        let end = edit.position.checked_add(edit.delete);
        let end = end.ok_or(CrdtError::InvalidArgument)?;
        // What is put here takes the format of what it replaces, else that of what stands before it.
        let replaced = self.ahead.first().filter(|_| edit.delete > 0);
        let format = replaced.map_or(&self.format, |run| &run.format).clone();
        while self.chars < end && self.is_at_character() {
            self.delete(end)?;
        }
        self.insert(&edit.insert, &format);
        // What is embedded stays: nobody who edits the characters sees it.
        while self.chars < end {
            if self.is_at_character() {
                self.delete(end)?;
            } else {
                self.keep(u32::MAX)?;
            }
        }
        Ok(())
    }

    fn is_at_character(&self) -> bool {
        let next = self.ahead.first();
        next.is_some_and(|run| run.unit != Unit::Embedded)
    }

    /// Goes to a character, behind what is embedded before it.
    fn keep_to(&mut self, chars: usize) -> Result<()> {
        let mut left = chars
            .checked_sub(self.chars)
            .ok_or(CrdtError::InvalidArgument)?;
        while left > 0 || (!self.ahead.is_empty() && !self.is_at_character()) {
            let before = self.chars;
            self.keep(u32::try_from(left).unwrap_or(u32::MAX))?;
            left -= self.chars - before;
        }
        Ok(())
    }

    /// Passes at most so much of what comes next, all of it alike.
    fn pass(&mut self, most: u32) -> Result<Run> {
        let (first, rest) = self.ahead.split_first().ok_or(CrdtError::InvalidArgument)?;
        let left = first.count - self.within;
        let mut passed = first.clone();
        passed.count = match first.unit {
            Unit::Embedded => left,
            Unit::Narrow | Unit::Wide => left.min(most),
        };
        if passed.count == left {
            (self.ahead, self.within) = (rest, 0);
        } else {
            self.within += passed.count;
        }
        self.chars += passed.chars();
        self.format.clone_from(&passed.format);
        Ok(passed)
    }

    fn keep(&mut self, most: u32) -> Result<()> {
        let run = self.pass(most)?;
        self.retained += run.units();
        self.edited.push(run.unit, run.count, &run.format);
        Ok(())
    }

    fn delete(&mut self, end: usize) -> Result<()> {
        let most = u32::try_from(end - self.chars).unwrap_or(u32::MAX);
        let units = self.pass(most)?.units();
        self.retain();
        match self.delta.last_mut() {
            Some(Delta::Deleted(before)) => *before += units,
            _ => self.delta.push(Delta::Deleted(units)),
        }
        Ok(())
    }

    fn insert(&mut self, text: &str, format: &Format) {
        let mut rest = text;
        while !rest.is_empty() {
            let cut = rest
                .char_indices()
                .nth(MAX_INSERT_CHARS)
                .map_or(rest.len(), |(at, _)| at);
            let (part, tail) = rest.split_at(cut);
            let attributes = format.as_ref().map(|format| Box::new((**format).clone()));
            self.retain();
            self.delta
                .push(Delta::Inserted(part.to_owned(), attributes));
            rest = tail;
        }
        self.edited.push_text(text, format);
    }

    /// Says what stays before a change.
    fn retain(&mut self) {
        if self.retained > 0 {
            self.delta.push(Delta::Retain(self.retained, None));
            self.retained = 0;
        }
    }

    fn end(mut self) -> (Layout, Vec<Delta<String>>) {
        let mut ahead = self.ahead.iter();
        if let Some(first) = ahead.next() {
            let left = first.count - self.within;
            self.edited.push(first.unit, left, &first.format);
        }
        self.edited.0.extend(ahead.cloned());
        (self.edited, self.delta)
    }
}
