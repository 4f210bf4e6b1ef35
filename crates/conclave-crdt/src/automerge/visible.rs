//! Everything that a document shows, marks and blocks included, in one form that depends on nothing else.

use automerge::{AutoCommit, ObjId, ObjType, ReadDoc, ScalarValue, Value as AmValue};
use serde_json::{Map, Value, json};

use super::json::{from_scalar, refused};
use crate::error::{CrdtError, Result};
use crate::json::Slot;
use crate::limits::MAX_NESTING;

/// What the engine shows in a text for anything that is no character.
const PLACEHOLDER: char = '\u{fffc}';

/// An object with everything in it.
pub(super) fn visible(doc: &AutoCommit, id: &ObjId, kind: ObjType, depth: u8) -> Result<Value> {
    if depth > MAX_NESTING {
        return Err(CrdtError::TooLarge);
    }
    match kind {
        ObjType::Map | ObjType::Table => {
            let mut members = Map::new();
            for key in doc.keys(id) {
                if let Some((value, at)) = doc.get(id, key.as_str()).map_err(refused)? {
                    members.insert(key, node(doc, value, &at, depth)?);
                }
            }
            Ok(Value::Object(members))
        }
        ObjType::List => doc
            .list_range(id, ..)
            .map(|item| node(doc, AmValue::from(item.value.clone()), &item.id(), depth))
            .collect(),
        ObjType::Text => text(doc, id, depth),
    }
}

fn node(doc: &AutoCommit, value: AmValue<'_>, id: &ObjId, depth: u8) -> Result<Value> {
    match value {
        AmValue::Object(kind) => visible(doc, id, kind, depth + 1),
        AmValue::Scalar(scalar) => Ok(plain(&scalar)),
    }
}

fn plain(scalar: &ScalarValue) -> Value {
    match scalar {
        ScalarValue::Counter(counter) => json!({ "counter": i64::from(counter) }),
        ScalarValue::Timestamp(at) => json!({ "timestamp": at }),
        ScalarValue::Unknown { type_code, bytes } => json!({ "type": type_code, "bytes": bytes }),
        other => match from_scalar(other) {
            Slot::Scalar(value) | Slot::Carried(value) => value,
            Slot::Map(_) | Slot::List(_) | Slot::Text(_) => Value::Null,
        },
    }
}

/// A text: as a string while there is nothing else in it, else with its marks and blocks.
fn text(doc: &AutoCommit, id: &ObjId, depth: u8) -> Result<Value> {
    let text = doc.text(id).map_err(refused)?;
    let mut marks: Vec<(String, usize, usize, Value)> = Vec::new();
    let mut found = doc.marks(id).map_err(refused)?;
    found.sort_by(|a, b| (&a.name, a.start).cmp(&(&b.name, b.start)));
    for mark in found.iter().filter(|mark| mark.value != ScalarValue::Null) {
        let value = plain(&mark.value);
        match marks.last_mut() {
            // How the engine cuts it says nothing.
            Some((name, _, end, before))
                if *name == mark.name.as_str() && *end == mark.start && *before == value =>
            {
                *end = mark.end;
            }
            _ => marks.push((mark.name.to_string(), mark.start, mark.end, value)),
        }
    }
    let mut blocks: Vec<(usize, Value)> = Vec::new();
    if text.contains(PLACEHOLDER) {
        for (at, item) in doc.list_range(id, ..).enumerate() {
            let value = AmValue::from(item.value.clone());
            if !matches!(&value, AmValue::Scalar(scalar) if scalar.is_str()) {
                blocks.push((at, node(doc, value, &item.id(), depth)?));
            }
        }
    }
    Ok(if marks.is_empty() && blocks.is_empty() {
        Value::String(text)
    } else {
        json!({ "text": text, "marks": marks, "blocks": blocks })
    })
}
