//! The text view.

use yrs::branch::{Branch, BranchPtr};
use yrs::types::Delta;
use yrs::{
    Assoc, GetString, IndexedSequence, ReadTxn, StickyIndex, Text, TextRef, TransactionMut,
    WriteTxn,
};

use super::layout::Layout;
use super::{Yrs, roots};
use crate::api::{RootShape, TextView};
use crate::diff::text::{TextEdit, text_edits};
use crate::error::{CrdtError, Result};

/// The root type that holds the text.
pub(super) const TEXT_ROOT: &str = "text";

pub(super) fn root(txn: &mut TransactionMut<'_>) -> TextRef {
    let name = roots::place(txn, TEXT_ROOT, RootShape::Text);
    txn.get_or_insert_text(name)
}

/// What is known of a document's text without a look at it.
#[derive(Default)]
pub(super) struct Known {
    /// Nothing but characters of one unit each had been put into the document after so many local edits.
    plain: Option<u64>,
    found: Option<Found>,
}

/// Where the text is and how it is laid out.
struct Found {
    root: String,
    layout: Layout,
    /// Holds after so many local edits, until anything comes from elsewhere.
    edits: u64,
}

impl Known {
    /// Of an empty document.
    pub(super) fn empty() -> Self {
        Self {
            plain: Some(0),
            found: None,
        }
    }

    /// Something came from elsewhere.
    pub(super) fn arrived(&mut self, plain: bool) {
        self.found = None;
        self.plain = self.plain.filter(|_| plain);
    }

    /// So many local edits were looked through.
    pub(super) fn taken(&mut self, edits: u64, plain: bool) {
        self.plain = self.plain.filter(|_| plain).map(|_| edits);
    }

    /// Local edits are counted anew.
    pub(super) fn recount(&mut self) {
        self.found = None;
        self.plain = self.plain.map(|_| 0);
    }

    /// Finds the text after so many local edits. Looks at the whole of it only where nothing else tells.
    fn find(&mut self, txn: &mut TransactionMut<'_>, edits: u64) -> (TextRef, Found) {
        let kept = self.found.take().filter(|found| found.edits == edits);
        let (root, layout) = match kept {
            Some(found) => (found.root, Some(found.layout)),
            None => (roots::place(txn, TEXT_ROOT, RootShape::Text), None),
        };
        let text = txn.get_or_insert_text(root.as_str());
        let units = text.len(txn);
        let layout = match layout {
            Some(layout) if layout.units() == units => layout,
            _ if self.plain == Some(edits) => Layout::even(units),
            _ => Layout::of(&text, txn),
        };
        let found = Found {
            root,
            layout,
            edits,
        };
        (text, found)
    }

    fn length<T: ReadTxn>(&self, txn: &T, edits: u64) -> usize {
        if let Some(found) = self.found.as_ref().filter(|found| found.edits == edits) {
            return found.layout.chars();
        }
        let text = txn.get_text(roots::place(txn, TEXT_ROOT, RootShape::Text));
        text.map_or(0, |text| match self.plain == Some(edits) {
            true => text.len(txn) as usize,
            false => text.get_string(txn).chars().count(),
        })
    }

    fn edit(
        &mut self,
        txn: &mut TransactionMut<'_>,
        edits: u64,
        make: impl FnOnce(&TextRef, &TransactionMut<'_>) -> Vec<TextEdit>,
    ) -> Result<()> {
        let (text, mut found) = self.find(txn, edits);
        let delta = found.layout.edit(&make(&text, txn))?;
        if !delta.is_empty() {
            apply(&text, txn, delta);
            found.edits += 1;
            if self.plain == Some(edits) && found.layout.is_even() {
                self.plain = Some(found.edits);
            }
        }
        // Of an empty one it is not known which root shows next.
        self.found = (found.layout.units() > 0).then_some(found);
        Ok(())
    }
}

impl Yrs {
    /// Runs `f` with what is known of the text, where so many local edits were made.
    fn with_known<T>(&mut self, f: impl FnOnce(&mut Self, &mut Known, &dyn Fn() -> u64) -> T) -> T {
        let mut known = core::mem::take(&mut self.known);
        let capture = self.capture.clone();
        let edits = || capture.with(|captured| captured.edits);
        let outcome = f(self, &mut known, &edits);
        self.known = known;
        outcome
    }

    fn edit_text(
        &mut self,
        make: impl FnOnce(&TextRef, &TransactionMut<'_>) -> Vec<TextEdit>,
    ) -> Result<()> {
        self.with_known(|this, known, edits| {
            this.write(None, |txn| known.edit(txn, edits(), make))?
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
        self.with_known(|this, known, edits| this.read(|txn| known.length(txn, edits())))
    }

    fn splice(&mut self, pos_chars: usize, delete_chars: usize, insert: &str) -> Result<()> {
        let edit = TextEdit {
            position: pos_chars,
            delete: delete_chars,
            insert: insert.to_owned(),
        };
        self.edit_text(|_, _| vec![edit])
    }

    fn anchor(&mut self, pos_chars: usize) -> Result<serde_json::Value> {
        let position = self.write(None, |txn| {
            let text = root(txn);
            let layout = Layout::of(&text, txn);
            let units = layout.units_before(pos_chars);
            let units = units.ok_or(CrdtError::InvalidArgument)?;
            if units == layout.units() {
                return Ok(StickyIndex::from_type(txn, &text, Assoc::After));
            }
            let position = text.sticky_index(txn, units, Assoc::After);
            position.ok_or(CrdtError::InvalidArgument)
        })??;
        serde_json::to_value(&position).map_err(|_| CrdtError::Engine)
    }

    fn locate(&mut self, anchor: &serde_json::Value) -> Result<Option<usize>> {
        let position: StickyIndex =
            serde_json::from_value(anchor.clone()).map_err(|_| CrdtError::Malformed)?;
        self.write(None, |txn| {
            let text = root(txn);
            let there = position.get_offset(txn)?;
            let here: &Branch = text.as_ref();
            if there.branch != BranchPtr::from(here) {
                return None;
            }
            Some(Layout::of(&text, txn).chars_before(there.index))
        })
    }

    fn merge(&mut self, base: &str, new: &str) -> Result<()> {
        self.edit_text(|text, txn| text_edits(base, new, &text.get_string(txn)))
    }
}

/// Applies edits given last position first to a text of which nothing is known.
pub(super) fn apply_edits(
    text: &TextRef,
    txn: &mut TransactionMut<'_>,
    edits: &[TextEdit],
) -> Result<()> {
    let delta = Layout::of(text, txn).edit(edits)?;
    apply(text, txn, delta);
    Ok(())
}

/// More cuts than this are made before the changes, not with them.
const MANY_CUTS: usize = 64;

/// Makes changes in one pass: the engine walks through the text from its start to find a place. Where it cuts a piece of text in two, it
/// copies all behind the cut up to the piece's end, and moves what it keeps behind the piece, which is what was inserted last. So a piece
/// is cut in halves, quarters and so on first, then at every place, and only then changed.
fn apply(text: &TextRef, txn: &mut TransactionMut<'_>, delta: Vec<Delta<String>>) {
    let places = places(&delta);
    if places.len() > MANY_CUTS {
        let mut between = places.len() / 2;
        while between >= MANY_CUTS {
            cut(text, txn, places.iter().skip(between).step_by(2 * between));
            between /= 2;
        }
        cut(text, txn, places.iter());
    }
    text.apply_delta(txn, delta);
}

/// Cuts a text at places in their order.
fn cut<'a>(text: &TextRef, txn: &mut TransactionMut<'_>, places: impl Iterator<Item = &'a u32>) {
    let mut at = 0;
    let cuts: Vec<Delta<String>> = places
        .map(|place| Delta::Retain(place - core::mem::replace(&mut at, *place), None))
        .collect();
    text.apply_delta(txn, cuts);
}

/// Where changes begin and end, in units of the text before them.
fn places(delta: &[Delta<String>]) -> Vec<u32> {
    let mut at = 0;
    let ends = delta.iter().filter_map(|change| match change {
        Delta::Retain(units, _) | Delta::Deleted(units) => {
            at += units;
            Some(at)
        }
        Delta::Inserted(..) => None,
    });
    ends.collect()
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
