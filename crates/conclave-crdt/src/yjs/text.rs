//! The text view and its attribution.

use core::ops::Range;

use yrs::types::text::YChange;
use yrs::types::{Attrs, Delta};
use yrs::{Any, GetString, Out, ReadTxn, Snapshot, Text, TextRef, TransactionMut, WriteTxn};

use super::capture::FOREIGN_ORIGIN;
use super::{Yrs, roots};
use crate::api::{Attribution, AttributionRun, RootShape, TextView, push_run};
use crate::diff::text::{TextEdit, text_edits};
use crate::error::{CrdtError, Result};
use crate::limits::MAX_INSERT_CHARS;
use crate::types::ReplicaId;

/// The root type that holds the text.
pub(super) const TEXT_ROOT: &str = "text";

fn root(txn: &mut TransactionMut<'_>) -> TextRef {
    let name = roots::place(txn, TEXT_ROOT, RootShape::Text);
    txn.get_or_insert_text(name)
}

impl Yrs {
    /// Runs `f` on the root text as a local edit.
    fn edit_text<T>(
        &mut self,
        f: impl FnOnce(&TextRef, &mut TransactionMut<'_>) -> T,
    ) -> Result<T> {
        self.write(None, |txn| {
            let text = root(txn);
            f(&text, txn)
        })
    }
}

impl TextView for Yrs {
    fn text(&mut self) -> Result<String> {
        self.read(|txn| {
            txn.get_text(roots::place(txn, TEXT_ROOT, RootShape::Text))
                .map(|text| text.get_string(txn))
                .unwrap_or_default()
        })
    }

    fn len(&mut self) -> Result<usize> {
        TextView::text(self).map(|text| text.chars().count())
    }

    fn splice(&mut self, pos_chars: usize, delete_chars: usize, insert: &str) -> Result<()> {
        let edit = TextEdit {
            position: pos_chars,
            delete: delete_chars,
            insert: insert.to_owned(),
        };
        self.edit_text(|text, txn| apply_edits(text, txn, core::slice::from_ref(&edit)))?
    }

    fn merge(&mut self, base: &str, new: &str) -> Result<()> {
        self.edit_text(|text, txn| {
            let edits = text_edits(base, new, &text.get_string(txn));
            apply_edits(text, txn, &edits)
        })?
    }
}

/// Applies edits given last position first, in one pass: the engine walks through the text from its start to find a place.
pub(super) fn apply_edits(
    text: &TextRef,
    txn: &mut TransactionMut<'_>,
    edits: &[TextEdit],
) -> Result<()> {
    let offsets = Offsets::of(text, txn);
    let mut changes = Changes::default();
    for edit in edits.iter().rev() {
        changes.add(edit, &offsets)?;
    }
    text.apply_delta(txn, changes.delta);
    Ok(())
}

/// Edits as the engine takes them: from the start of the text to its end.
#[derive(Default)]
struct Changes {
    delta: Vec<Delta<String>>,
    /// The engine's units passed so far.
    at: u32,
}

impl Changes {
    fn add(&mut self, edit: &TextEdit, offsets: &Offsets) -> Result<()> {
        let end = edit.position.checked_add(edit.delete);
        let end = end.ok_or(CrdtError::InvalidArgument)?;
        let (start, _) = (offsets.at(edit.position)?, offsets.at(end)?);
        let mut gone = offsets
            .characters(edit.position, end)
            .into_iter()
            .peekable();
        self.pass(start);
        if let Some(first) = gone.next_if(|range| range.start == start) {
            self.delete(&first);
        }
        let format = offsets.format(start, edit.delete > 0);
        let mut rest = edit.insert.as_str();
        while !rest.is_empty() {
            let cut = rest
                .char_indices()
                .nth(MAX_INSERT_CHARS)
                .map_or(rest.len(), |(at, _)| at);
            let (part, tail) = rest.split_at(cut);
            let part = Delta::Inserted(part.to_owned(), format.clone());
            self.delta.push(part);
            rest = tail;
        }
        for range in gone {
            self.delete(&range);
        }
        Ok(())
    }

    fn pass(&mut self, to: u32) {
        if to > self.at {
            self.delta.push(Delta::Retain(to - self.at, None));
            self.at = to;
        }
    }

    fn delete(&mut self, range: &Range<u32>) {
        self.pass(range.start);
        self.delta.push(Delta::Deleted(range.end - range.start));
        self.at = range.end;
    }
}

/// Where characters stand in the engine's own counting (UTF-16 units, and one unit for anything embedded in the text), and their formats.
struct Offsets {
    units: Units,
    /// Where each run of one format ends, in units.
    formats: Vec<(u32, Option<Box<Attrs>>)>,
}

enum Units {
    /// One unit per character.
    Plain(usize),
    /// The units of each character, and the end.
    Table(Vec<Range<u32>>),
}

impl Offsets {
    fn of(text: &TextRef, txn: &mut TransactionMut<'_>) -> Self {
        let chunks = text.diff(txn, YChange::identity);
        let length = text.len(txn);
        let chars = |insert: &Out| match insert {
            Out::Any(Any::String(part)) => part.chars().count(),
            _ => 0,
        };
        let count = chunks.iter().map(|chunk| chars(&chunk.insert)).sum();
        let plain = count == length as usize;
        let mut starts = Vec::new();
        let mut formats = Vec::new();
        let mut unit = 0u32;
        for chunk in chunks {
            match &chunk.insert {
                Out::Any(Any::String(part)) if plain => unit += part.chars().count() as u32,
                Out::Any(Any::String(part)) => {
                    for c in part.chars() {
                        let end = unit + c.len_utf16() as u32;
                        starts.push(unit..end);
                        unit = end;
                    }
                }
                _ => unit += 1,
            }
            formats.push((unit, chunk.attributes));
        }
        let units = if plain {
            Units::Plain(count)
        } else {
            starts.push(length..length);
            Units::Table(starts)
        };
        Self { units, formats }
    }

    fn at(&self, chars: usize) -> Result<u32> {
        match &self.units {
            Units::Plain(length) if chars <= *length => Ok(chars as u32),
            Units::Plain(_) => Err(CrdtError::InvalidArgument),
            Units::Table(starts) => starts
                .get(chars)
                .map(|units| units.start)
                .ok_or(CrdtError::InvalidArgument),
        }
    }

    /// The format of what is put at `unit`: that of what it replaces, else that of what stands before it.
    fn format(&self, unit: u32, replaces: bool) -> Option<Box<Attrs>> {
        let of = if replaces { unit } else { unit.checked_sub(1)? };
        let run = self.formats.partition_point(|(end, _)| *end <= of);
        self.formats.get(run)?.1.clone()
    }

    /// The units of the characters from `start` to `end`, without what is embedded between them: nobody who edits the characters sees it.
    fn characters(&self, start: usize, end: usize) -> Vec<Range<u32>> {
        let whole = start as u32..end as u32;
        let table = match &self.units {
            Units::Plain(_) => return Vec::from_iter((start < end).then_some(whole)),
            Units::Table(table) => table.get(start..end).unwrap_or(&[]),
        };
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for units in table {
            match ranges.last_mut() {
                Some(last) if last.end == units.start => last.end = units.end,
                _ => ranges.push(units.clone()),
            }
        }
        ranges
    }
}

impl Attribution for Yrs {
    fn runs(&mut self) -> Result<Vec<AttributionRun>> {
        self.write(Some(FOREIGN_ORIGIN), |txn| {
            let text = root(txn);
            // Against an empty snapshot everything counts as added, and each chunk names the operation that added it.
            let now = txn.snapshot();
            let chunks = text.diff_range(
                txn,
                Some(&now),
                Some(&Snapshot::default()),
                YChange::identity,
            );
            let mut runs = Vec::new();
            for chunk in chunks {
                if let (Out::Any(Any::String(part)), Some(change)) = (&chunk.insert, &chunk.ychange)
                {
                    let replica = ReplicaId::from_client(change.id.client.get());
                    push_run(&mut runs, replica, part.chars().count());
                }
            }
            runs
        })
    }
}
