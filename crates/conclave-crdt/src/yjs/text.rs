//! The text view and its attribution.

use core::ops::Range;

use yrs::types::text::YChange;
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
        self.edit_text(|text, txn| {
            let offsets = Offsets::of(text, txn);
            apply_edit(text, txn, &offsets, &edit)
        })?
    }

    fn merge(&mut self, base: &str, new: &str) -> Result<()> {
        self.edit_text(|text, txn| {
            let edits = text_edits(base, new, &text.get_string(txn));
            apply_edits(text, txn, &edits)
        })?
    }
}

/// Applies edits given last position first.
pub(super) fn apply_edits(
    text: &TextRef,
    txn: &mut TransactionMut<'_>,
    edits: &[TextEdit],
) -> Result<()> {
    let offsets = Offsets::of(text, txn);
    edits
        .iter()
        .try_for_each(|edit| apply_edit(text, txn, &offsets, edit))
}

fn apply_edit(
    text: &TextRef,
    txn: &mut TransactionMut<'_>,
    offsets: &Offsets,
    edit: &TextEdit,
) -> Result<()> {
    let end = edit
        .position
        .checked_add(edit.delete)
        .ok_or(CrdtError::InvalidArgument)?;
    let (start, _) = (offsets.at(edit.position)?, offsets.at(end)?);
    for range in offsets.characters(edit.position, end).into_iter().rev() {
        text.remove_range(txn, range.start, range.end - range.start);
    }
    let mut index = start;
    let mut rest = edit.insert.as_str();
    while !rest.is_empty() {
        let cut = rest
            .char_indices()
            .nth(MAX_INSERT_CHARS)
            .map_or(rest.len(), |(at, _)| at);
        let (part, tail) = rest.split_at(cut);
        text.insert(txn, index, part);
        index += part.chars().map(|c| c.len_utf16() as u32).sum::<u32>();
        rest = tail;
    }
    Ok(())
}

/// Where characters stand in the engine's own counting: UTF-16 units, and one unit for anything embedded in the text.
enum Offsets {
    /// One unit per character.
    Plain(usize),
    /// The units of each character, and the end.
    Table(Vec<Range<u32>>),
}

impl Offsets {
    fn of(text: &TextRef, txn: &mut TransactionMut<'_>) -> Self {
        let string = text.get_string(txn);
        let length = text.len(txn);
        if string.chars().count() == length as usize {
            return Self::Plain(length as usize);
        }
        let mut starts = Vec::with_capacity(string.len());
        let mut unit = 0u32;
        for chunk in text.diff(txn, YChange::identity) {
            match &chunk.insert {
                Out::Any(Any::String(part)) => {
                    for c in part.chars() {
                        let end = unit + c.len_utf16() as u32;
                        starts.push(unit..end);
                        unit = end;
                    }
                }
                _ => unit += 1,
            }
        }
        starts.push(length..length);
        Self::Table(starts)
    }

    fn at(&self, chars: usize) -> Result<u32> {
        match self {
            Self::Plain(length) if chars <= *length => Ok(chars as u32),
            Self::Plain(_) => Err(CrdtError::InvalidArgument),
            Self::Table(starts) => starts
                .get(chars)
                .map(|units| units.start)
                .ok_or(CrdtError::InvalidArgument),
        }
    }

    /// The units of the characters from `start` to `end`, without what is embedded between them: nobody who edits the characters sees it.
    fn characters(&self, start: usize, end: usize) -> Vec<Range<u32>> {
        let whole = start as u32..end as u32;
        let table = match self {
            Self::Plain(_) => return Vec::from_iter((start < end).then_some(whole)),
            Self::Table(table) => table.get(start..end).unwrap_or(&[]),
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
