//! The text view and its attribution.

use std::cmp::Ordering;

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{AutoCommit, CursorPosition, ObjId, ObjType, ROOT, ReadDoc, Value};

use super::Automerge;
use crate::anchor::is_cursor;
use crate::api::TextView;
use crate::diff::text::{TextEdit, text_edits};
use crate::error::{CrdtError, Result};
use crate::limits::MAX_INSERT_CHARS;

/// The root key of the text.
pub(super) const TEXT_KEY: &str = "text";

pub(super) fn text_object(doc: &AutoCommit) -> Result<ObjId> {
    match doc.get(ROOT, TEXT_KEY) {
        Ok(Some((Value::Object(ObjType::Text), id))) => Ok(id),
        _ => Err(CrdtError::Engine),
    }
}

impl Automerge {
    /// The text, or nothing if its place holds something else.
    pub(super) fn visible_text(&mut self) -> Result<String> {
        self.engine(|doc| {
            text_object(doc)
                .ok()
                .and_then(|id| doc.text(&id).ok())
                .unwrap_or_default()
        })
    }
}

impl TextView for Automerge {
    fn text(&mut self) -> Result<String> {
        self.engine(|doc| doc.text(&text_object(doc)?).map_err(|_| CrdtError::Engine))?
    }

    fn len(&mut self) -> Result<usize> {
        self.engine(|doc| text_object(doc).map(|id| doc.length(&id)))?
    }

    fn splice(&mut self, pos_chars: usize, delete_chars: usize, insert: &str) -> Result<()> {
        let edit = TextEdit {
            position: pos_chars,
            delete: delete_chars,
            insert: insert.to_owned(),
        };
        self.engine(|doc| {
            let id = text_object(doc)?;
            apply_edits(doc, &id, &[edit])
        })?
    }

    fn object(&mut self) -> Result<Option<String>> {
        self.engine(|doc| text_object(doc).map(|id| Some(id.to_string())))?
    }

    fn anchor(&mut self, pos_chars: usize) -> Result<serde_json::Value> {
        self.engine(|doc| {
            let id = text_object(doc)?;
            let position = match pos_chars.cmp(&doc.length(&id)) {
                Ordering::Less => CursorPosition::Index(pos_chars),
                Ordering::Equal => CursorPosition::End,
                Ordering::Greater => return Err(CrdtError::InvalidArgument),
            };
            let cursor = doc.get_cursor(&id, position, None);
            let cursor = cursor.map_err(|_| CrdtError::Engine)?;
            Ok(cursor.to_string().into())
        })?
    }

    fn locate(&mut self, anchor: &serde_json::Value) -> Result<Option<usize>> {
        let cursor = anchor.as_str().filter(|text| is_cursor(text));
        let cursor = cursor.ok_or(CrdtError::Malformed)?;
        self.engine(|doc| {
            let text = text_object(doc)?;
            match cursor {
                "s" => return Ok(Some(0)),
                "e" => return Ok(Some(doc.length(&text))),
                _ => {}
            }
            // The engine's own search panics where the character was deleted.
            let named = cursor.strip_prefix('-').unwrap_or(cursor);
            let named = named.split_once('@');
            let named = named.and_then(|(at, by)| Some((at.parse::<u64>().ok()?, by)));
            let mut items = doc.list_range(&text, ..);
            Ok(items.position(|item| match (item.id(), named) {
                (ObjId::Id(counter, actor, _), Some((at, by))) => {
                    counter == at && actor.to_hex_string().eq_ignore_ascii_case(by)
                }
                _ => false,
            }))
        })?
    }

    fn merge(&mut self, base: &str, new: &str) -> Result<()> {
        self.engine(|doc| {
            let id = text_object(doc)?;
            let current = doc.text(&id).map_err(|_| CrdtError::Engine)?;
            apply_edits(doc, &id, &text_edits(base, new, &current))
        })?
    }
}

/// Applies edits given last position first. Long insertions become several changes, so that each fits an update.
pub(super) fn apply_edits(doc: &mut AutoCommit, text: &ObjId, edits: &[TextEdit]) -> Result<()> {
    let mut length = doc.length(text);
    for edit in edits {
        let end = edit
            .position
            .checked_add(edit.delete)
            .filter(|end| *end <= length);
        let delete = end
            .and_then(|_| isize::try_from(edit.delete).ok())
            .ok_or(CrdtError::InvalidArgument)?;
        let mut position = edit.position;
        let mut rest = edit.insert.as_str();
        let mut first = true;
        while first || !rest.is_empty() {
            let cut = rest
                .char_indices()
                .nth(MAX_INSERT_CHARS)
                .map_or(rest.len(), |(at, _)| at);
            let (part, tail) = rest.split_at(cut);
            let delete = if first { delete } else { 0 };
            doc.splice_text(text, position, delete, part)
                .map_err(|_| CrdtError::Engine)?;
            commit_if_large(doc);
            position += part.chars().count();
            rest = tail;
            first = false;
        }
        length = length - edit.delete + (position - edit.position);
    }
    Ok(())
}

/// Ends the open change before it outgrows an update.
pub(super) fn commit_if_large(doc: &mut AutoCommit) {
    if doc.pending_ops() >= MAX_INSERT_CHARS {
        doc.commit_with(CommitOptions::default().with_time(0));
    }
}
