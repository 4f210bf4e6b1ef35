//! The JSON view: the root map.

use std::collections::HashMap;

use automerge::hydrate::{self, Value as Hydrated};
use automerge::transaction::Transactable;
use automerge::{
    AutoCommit, ObjId, ObjType, ROOT, ReadDoc, ScalarValue, TextEncoding, Value as AmValue,
};
use serde_json::{Number as JsonNumber, Value};

use super::text::{TEXT_KEY, apply_edits, commit_if_large};
use super::{Automerge, bootstrap_actor};
use crate::api::{Edited, JsonView, PathElement};
use crate::diff::text::TextEdit;
use crate::error::{CrdtError, Result};
use crate::json::{self, At, JsonTree, New, Slot, Special};
use crate::limits::MAX_INSERT_CHARS;

impl JsonView for Automerge {
    fn to_json(&mut self) -> Result<Value> {
        self.engine(|doc| json::read(&mut Tree { doc }))?
    }

    fn edit(&mut self, base: Option<&Value>, new: &Value) -> Result<Edited> {
        self.engine(|doc| json::edit(&mut Tree { doc }, base, new))?
    }

    fn put(&mut self, path: &[PathElement], value: &Value) -> Result<()> {
        self.engine(|doc| json::put(&mut Tree { doc }, path, value))?
    }

    fn delete(&mut self, path: &[PathElement]) -> Result<()> {
        self.engine(|doc| json::delete(&mut Tree { doc }, path))?
    }
}

pub(super) struct Tree<'a> {
    pub(super) doc: &'a mut AutoCommit,
}

impl Tree<'_> {
    fn is_bootstrap_text(&self, node: &ObjId, at: At<'_>) -> Result<Option<ObjId>> {
        if *node != ROOT || !matches!(at, At::Key(TEXT_KEY)) {
            return Ok(None);
        }
        let found = self.doc.get(ROOT, TEXT_KEY).map_err(refused)?;
        Ok(found.and_then(|(value, id)| {
            let first = matches!(&id, ObjId::Id(1, actor, _) if actor.to_bytes() == bootstrap_actor().as_bytes());
            (first && value == AmValue::Object(ObjType::Text)).then_some(id)
        }))
    }
}

fn prop(at: At<'_>) -> automerge::Prop {
    match at {
        At::Key(key) => key.into(),
        At::Index(index) => index.into(),
    }
}

pub(super) fn refused(_: automerge::AutomergeError) -> CrdtError {
    CrdtError::Engine
}

pub(super) fn slot(value: AmValue<'_>, id: ObjId) -> Slot<ObjId> {
    match value {
        AmValue::Object(ObjType::Map | ObjType::Table) => Slot::Map(id),
        AmValue::Object(ObjType::List) => Slot::List(id),
        AmValue::Object(ObjType::Text) => Slot::Text(id),
        AmValue::Scalar(scalar) => from_scalar(&scalar),
    }
}

pub(super) fn from_scalar(scalar: &ScalarValue) -> Slot<ObjId> {
    Slot::Scalar(match scalar {
        ScalarValue::Null => Value::Null,
        ScalarValue::Boolean(value) => Value::Bool(*value),
        ScalarValue::Int(value) | ScalarValue::Timestamp(value) => Value::from(*value),
        ScalarValue::Uint(value) => Value::from(*value),
        ScalarValue::F64(value) => JsonNumber::from_f64(*value)
            .map_or_else(|| Special::Number(*value).to_json(), Value::Number),
        ScalarValue::Counter(counter) => Value::from(i64::from(counter)),
        ScalarValue::Str(text) => Value::String(text.to_string()),
        ScalarValue::Bytes(bytes) => Special::Bytes(bytes.clone()).to_json(),
        ScalarValue::Unknown { type_code, .. } => {
            return Slot::Carried(Special::unknown(format!("type {type_code}")).to_json());
        }
    })
}

fn to_scalar(value: &Value) -> ScalarValue {
    match value {
        Value::Bool(value) => ScalarValue::Boolean(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => ScalarValue::Int(value),
            (None, Some(value)) => ScalarValue::Uint(value),
            _ => ScalarValue::F64(number.as_f64().unwrap_or(f64::NAN)),
        },
        // Containers and strings are written as objects.
        _ => match Special::of(value).flatten() {
            Some(Special::Bytes(bytes)) => ScalarValue::Bytes(bytes),
            Some(Special::Number(number)) => ScalarValue::F64(number),
            _ => ScalarValue::Null,
        },
    }
}

/// Operations that a value takes. Bytes beside them count where there are many: changes have to fit into updates.
fn weight(value: &Value) -> usize {
    let beside = |bytes: usize| bytes / 8;
    let inside: usize = match value {
        Value::Object(_) if Special::of(value).is_some() => match Special::of(value) {
            Some(Some(Special::Bytes(bytes))) => beside(bytes.len()),
            _ => 0,
        },
        Value::Object(entries) => entries
            .iter()
            .map(|(key, item)| beside(key.len()) + weight(item))
            .sum(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::String(text) => text.chars().count(),
        _ => 0,
    };
    1 + inside
}

/// A value as the engine takes it with everything in it.
fn hydrated(value: &Value, encoding: TextEncoding) -> Hydrated {
    match value {
        Value::Object(_) if Special::of(value).is_some() => to_scalar(value).into(),
        Value::Object(entries) => {
            let entries = entries.iter();
            let entries = entries.map(|(key, item)| (key.clone(), hydrated(item, encoding)));
            Hydrated::Map(entries.collect::<HashMap<_, _>>().into())
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| hydrated(item, encoding));
            items.collect::<Vec<_>>().into()
        }
        Value::String(text) => hydrate::Text::new(encoding, text).into(),
        scalar => to_scalar(scalar).into(),
    }
}

/// The new value in the type of the old one, where it fits exactly. A float is none of these: a whole number in its place is whole.
fn like(old: &ScalarValue, to: &Value) -> Option<ScalarValue> {
    Some(match old {
        ScalarValue::Str(_) => ScalarValue::Str(to.as_str()?.into()),
        ScalarValue::Timestamp(_) => ScalarValue::Timestamp(to.as_i64()?),
        ScalarValue::Uint(_) => ScalarValue::Uint(to.as_u64()?),
        _ => return None,
    })
}

impl JsonTree for Tree<'_> {
    type Node = ObjId;

    fn root(&mut self) -> ObjId {
        ROOT
    }

    fn entries(&mut self, map: &ObjId) -> Result<Vec<(String, Slot<ObjId>)>> {
        let hidden = match self.is_bootstrap_text(map, At::Key(TEXT_KEY))? {
            Some(text) => self.doc.length(&text) == 0,
            None => false,
        };
        let keys: Vec<String> = self
            .doc
            .keys(map)
            .filter(|key| !(hidden && key == TEXT_KEY))
            .collect();
        let mut entries = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some((value, id)) = self.doc.get(map, key.as_str()).map_err(refused)? {
                let slot = slot(value, id);
                entries.push((key, slot));
            }
        }
        Ok(entries)
    }

    fn items(&mut self, list: &ObjId) -> Result<Vec<Slot<ObjId>>> {
        let values: Vec<(AmValue<'_>, ObjId)> = self
            .doc
            .list_range(list, ..)
            .map(|item| (AmValue::from(item.value.clone()), item.id()))
            .collect();
        Ok(values
            .into_iter()
            .map(|(value, id)| slot(value, id))
            .collect())
    }

    fn slot(&mut self, node: &ObjId, at: At<'_>) -> Result<Option<Slot<ObjId>>> {
        let found = match at {
            At::Key(key) => self.doc.get(node, key),
            At::Index(index) => self.doc.get(node, index),
        };
        Ok(found.map_err(refused)?.map(|(value, id)| slot(value, id)))
    }

    fn text(&mut self, text: &ObjId) -> Result<String> {
        self.doc.text(text).map_err(refused)
    }

    fn edit_text(&mut self, text: &ObjId, edits: &[TextEdit]) -> Result<()> {
        apply_edits(self.doc, text, edits)
    }

    fn put(&mut self, node: &ObjId, at: At<'_>, new: New<'_>) -> Result<Option<ObjId>> {
        commit_if_large(self.doc);
        let prop = prop(at);
        let kind = match new {
            New::Scalar(value) => {
                self.doc
                    .put(node, prop, to_scalar(value))
                    .map_err(refused)?;
                return Ok(None);
            }
            New::Map => ObjType::Map,
            New::List => ObjType::List,
            New::Text(_) => ObjType::Text,
        };
        let made = self.doc.put_object(node, prop, kind).map_err(refused)?;
        self.fill(made, &new)
    }

    fn insert(&mut self, list: &ObjId, index: usize, new: New<'_>) -> Result<Option<ObjId>> {
        commit_if_large(self.doc);
        let kind = match new {
            New::Scalar(value) => {
                self.doc
                    .insert(list, index, to_scalar(value))
                    .map_err(refused)?;
                return Ok(None);
            }
            New::Map => ObjType::Map,
            New::List => ObjType::List,
            New::Text(_) => ObjType::Text,
        };
        let made = self.doc.insert_object(list, index, kind).map_err(refused)?;
        self.fill(made, &new)
    }

    fn insert_all(&mut self, list: &ObjId, mut index: usize, mut values: &[Value]) -> Result<()> {
        let encoding = self.doc.text_encoding();
        while let Some((first, others)) = values.split_first() {
            commit_if_large(self.doc);
            let mut room = MAX_INSERT_CHARS.saturating_sub(self.doc.pending_ops());
            let fits = values.iter().take_while(|value| {
                let left = room.checked_sub(weight(value));
                room = left.unwrap_or(0);
                left.is_some()
            });
            let whole: Vec<Hydrated> = fits.map(|value| hydrated(value, encoding)).collect();
            if whole.is_empty() {
                json::create(self, list, At::Index(index), first, true)?;
                (index, values) = (index + 1, others);
            } else {
                let count = whole.len();
                self.doc.splice(list, index, 0, whole).map_err(refused)?;
                index += count;
                values = values.get(count..).unwrap_or_default();
            }
        }
        Ok(())
    }

    fn remove(&mut self, node: &ObjId, at: At<'_>) -> Result<()> {
        // The text that all replicas share is emptied, never deleted.
        if let Some(text) = self.is_bootstrap_text(node, at)? {
            let delete = self.doc.length(&text);
            return apply_edits(
                self.doc,
                &text,
                &[TextEdit {
                    position: 0,
                    delete,
                    insert: String::new(),
                }],
            );
        }
        match at {
            At::Key(key) => self.doc.delete(node, key),
            At::Index(index) => self.doc.delete(node, index),
        }
        .map_err(refused)
    }

    fn change(&mut self, node: &ObjId, at: At<'_>, from: &Value, to: &Value) -> Result<()> {
        let prop = prop(at);
        let found = self.doc.get(node, prop.clone()).map_err(refused)?;
        let Some((AmValue::Scalar(old), _)) = found else {
            return json::create(self, node, at, to, false);
        };
        if let (ScalarValue::Counter(_), Some(from), Some(to)) =
            (old.as_ref(), from.as_i64(), to.as_i64())
            && let Some(by) = to.checked_sub(from)
        {
            // Others may count too: only the difference is this one's.
            commit_if_large(self.doc);
            return self.doc.increment(node, prop, by).map_err(refused);
        }
        match like(&old, to) {
            Some(value) => {
                commit_if_large(self.doc);
                self.doc.put(node, prop, value).map_err(refused)
            }
            None => json::create(self, node, at, to, false),
        }
    }

    fn number(number: &JsonNumber) -> JsonNumber {
        number.clone()
    }
}

impl Tree<'_> {
    /// Gives a new map or list back to be filled; fills a text.
    fn fill(&mut self, made: ObjId, new: &New<'_>) -> Result<Option<ObjId>> {
        if let New::Text(text) = new {
            let insert = (*text).to_owned();
            apply_edits(
                self.doc,
                &made,
                &[TextEdit {
                    position: 0,
                    delete: 0,
                    insert,
                }],
            )?;
            return Ok(None);
        }
        Ok(Some(made))
    }
}
