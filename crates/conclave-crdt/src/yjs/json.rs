//! The JSON view: the root map `root`, nested maps, arrays and texts.

use std::sync::Arc;

use serde_json::{Map as JsonMap, Number as JsonNumber, Value};
use yrs::any::Number;
use yrs::{
    Any, Array, ArrayPrelim, ArrayRef, GetString, Map, MapPrelim, MapRef, Out, ReadTxn, TextPrelim,
    TextRef, TransactionMut, WriteTxn, XmlOut,
};

use super::capture::FOREIGN_ORIGIN;
use super::text::apply_edits;
use super::{Yrs, roots, xml};
use crate::api::{Edited, JsonView, PathElement, RootShape};
use crate::diff::text::TextEdit;
use crate::error::{CrdtError, Result};
use crate::json::{self, At, JsonTree, New, Slot, Special};
use crate::limits::{MAX_INSERT_CHARS, MAX_JSON_DEPTH};

/// The root type that holds the JSON view.
pub(super) const JSON_ROOT: &str = "root";
/// JavaScript's largest safe integer.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

impl JsonView for Yrs {
    fn to_json(&mut self) -> Result<Value> {
        self.write(Some(FOREIGN_ORIGIN), |txn| json::read(&mut Tree { txn }))?
    }

    fn edit(&mut self, base: Option<&Value>, new: &Value) -> Result<Edited> {
        self.write(None, |txn| json::edit(&mut Tree { txn }, base, new))?
    }

    fn put(&mut self, path: &[PathElement], value: &Value) -> Result<()> {
        self.write(None, |txn| json::put(&mut Tree { txn }, path, value))?
    }

    fn delete(&mut self, path: &[PathElement]) -> Result<()> {
        self.write(None, |txn| json::delete(&mut Tree { txn }, path))?
    }
}

struct Tree<'a, 'doc> {
    txn: &'a mut TransactionMut<'doc>,
}

#[derive(Clone)]
pub(super) enum Node {
    Map(MapRef),
    Array(ArrayRef),
    Text(TextRef),
}

impl Node {
    pub(super) fn map(&self) -> Result<&MapRef> {
        if let Self::Map(map) = self {
            Ok(map)
        } else {
            Err(CrdtError::InvalidArgument)
        }
    }

    pub(super) fn array(&self) -> Result<&ArrayRef> {
        if let Self::Array(array) = self {
            Ok(array)
        } else {
            Err(CrdtError::InvalidArgument)
        }
    }

    pub(super) fn text(&self) -> Result<&TextRef> {
        if let Self::Text(text) = self {
            Ok(text)
        } else {
            Err(CrdtError::InvalidArgument)
        }
    }
}

pub(super) fn slot(value: Out, txn: &impl ReadTxn) -> Slot<Node> {
    let carried = match value {
        Out::Any(any) => return Slot::Scalar(from_any(&any, 0)),
        Out::YText(text) => return Slot::Text(Node::Text(text)),
        Out::YArray(array) => return Slot::List(Node::Array(array)),
        Out::YMap(map) => return Slot::Map(Node::Map(map)),
        Out::YXmlElement(xml) => Special::xml(xml::shown(XmlOut::Element(xml), txn)),
        Out::YXmlFragment(xml) => Special::xml(xml::shown(XmlOut::Fragment(xml), txn)),
        Out::YXmlText(xml) => Special::xml(xml::shown(XmlOut::Text(xml), txn)),
        Out::YDoc(document) => Special::document(document.guid().to_string()),
        Out::UndefinedRef(_) => Special::unknown(String::new()),
    };
    Slot::Carried(carried.to_json())
}

/// Plain values of Yjs as JSON.
pub(super) fn from_any(any: &Any, depth: usize) -> Value {
    if depth > MAX_JSON_DEPTH {
        return Value::Null;
    }
    match any {
        Any::Null => Value::Null,
        Any::Undefined => Special::Undefined.to_json(),
        Any::Buffer(bytes) => Special::Bytes(bytes.to_vec()).to_json(),
        Any::Bool(value) => Value::Bool(*value),
        Any::Number(Number::Int(value)) => Value::Number(integer(*value)),
        Any::Number(Number::Float(value)) => {
            float(*value).map_or_else(|| Special::Number(*value).to_json(), Value::Number)
        }
        Any::String(text) => Value::String(text.as_ref().to_owned()),
        Any::Array(items) => {
            Value::Array(items.iter().map(|item| from_any(item, depth + 1)).collect())
        }
        Any::Map(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, item)| (key.clone(), from_any(item, depth + 1)))
                .collect::<JsonMap<_, _>>(),
        ),
    }
}

/// A JavaScript number: integral values are integers.
fn float(value: f64) -> Option<JsonNumber> {
    if value.fract() == 0.0 && value.abs() <= MAX_SAFE_INTEGER {
        return Some(JsonNumber::from(value as i64));
    }
    JsonNumber::from_f64(value)
}

/// Large integers travel as floats if these hold them exactly, else as big integers.
fn integer(value: i64) -> JsonNumber {
    let as_float = value as f64;
    let float_holds_it = as_float as i64 == value && as_float.abs() > MAX_SAFE_INTEGER;
    let number = if float_holds_it {
        JsonNumber::from_f64(as_float)
    } else {
        None
    };
    number.unwrap_or_else(|| JsonNumber::from(value))
}

/// A value as one, without shared types.
fn to_any(value: &Value) -> Any {
    match value {
        Value::Null => Any::Null,
        Value::Bool(value) => Any::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Any::Number(Number::Int(integer)),
            None => Any::Number(Number::Float(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => Any::String(text.as_str().into()),
        Value::Array(items) => Any::Array(items.iter().map(to_any).collect()),
        Value::Object(members) => match Special::of(value).flatten() {
            Some(Special::Bytes(bytes)) => Any::Buffer(bytes.into()),
            Some(Special::Number(number)) => Any::Number(Number::Float(number)),
            Some(Special::Undefined) => Any::Undefined,
            _ => Any::Map(Arc::new(
                members
                    .iter()
                    .map(|(key, item)| (key.clone(), to_any(item)))
                    .collect(),
            )),
        },
    }
}

/// Whether a new value is written as the old one was: in one, without shared types.
fn stays_plain(old: &Any, to: &Value) -> bool {
    match old {
        Any::String(_) => to.is_string(),
        Any::Array(_) | Any::Map(_) => to.is_array() || to.is_object(),
        _ => false,
    }
}

/// Whether a value is one operation of a few bytes.
fn is_short(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(_) | Value::Number(_))
}

impl JsonTree for Tree<'_, '_> {
    type Node = Node;

    fn root(&mut self) -> Node {
        let name = roots::place(self.txn, JSON_ROOT, RootShape::Map);
        Node::Map(self.txn.get_or_insert_map(name))
    }

    fn entries(&mut self, map: &Node) -> Result<Vec<(String, Slot<Node>)>> {
        Ok(map
            .map()?
            .iter(self.txn)
            .map(|(key, value)| (key.to_owned(), slot(value, self.txn)))
            .collect())
    }

    fn items(&mut self, list: &Node) -> Result<Vec<Slot<Node>>> {
        let items = list.array()?.iter(self.txn);
        Ok(items.map(|item| slot(item, self.txn)).collect())
    }

    fn slot(&mut self, node: &Node, at: At<'_>) -> Result<Option<Slot<Node>>> {
        let value = match at {
            At::Key(key) => node.map()?.get(self.txn, key),
            At::Index(index) => node.array()?.get(self.txn, small(index)?),
        };
        Ok(value.map(|value| slot(value, self.txn)))
    }

    fn text(&mut self, text: &Node) -> Result<String> {
        Ok(text.text()?.get_string(self.txn))
    }

    fn edit_text(&mut self, text: &Node, edits: &[TextEdit]) -> Result<()> {
        apply_edits(text.text()?, self.txn, edits)
    }

    fn put(&mut self, node: &Node, at: At<'_>, new: New<'_>) -> Result<Option<Node>> {
        let key = match at {
            At::Key(key) => key,
            // A Yjs array has no assignment.
            At::Index(index) => {
                node.array()?.remove(self.txn, small(index)?);
                return self.insert(node, index, new);
            }
        };
        let map = node.map()?;
        Ok(match new {
            New::Scalar(value) => {
                map.insert(self.txn, key, to_any(value));
                None
            }
            New::Text(text) => {
                map.insert(self.txn, key, TextPrelim::new(text));
                None
            }
            New::Map => Some(Node::Map(map.insert(self.txn, key, MapPrelim::default()))),
            New::List => Some(Node::Array(map.insert(
                self.txn,
                key,
                ArrayPrelim::default(),
            ))),
        })
    }

    fn insert(&mut self, list: &Node, index: usize, new: New<'_>) -> Result<Option<Node>> {
        let array = list.array()?;
        let index = small(index)?;
        Ok(match new {
            New::Scalar(value) => {
                array.insert(self.txn, index, to_any(value));
                None
            }
            New::Text(text) => {
                array.insert(self.txn, index, TextPrelim::new(text));
                None
            }
            New::Map => Some(Node::Map(array.insert(
                self.txn,
                index,
                MapPrelim::default(),
            ))),
            New::List => Some(Node::Array(array.insert(
                self.txn,
                index,
                ArrayPrelim::default(),
            ))),
        })
    }

    /// Later ones first, all at one index: the engine looks for each place from the list's beginning.
    fn insert_all(&mut self, list: &Node, index: usize, values: &[Value]) -> Result<()> {
        for alike in values
            .chunk_by(|one, next| is_short(one) && is_short(next))
            .rev()
        {
            match alike {
                [value] if !is_short(value) => {
                    json::create(self, list, At::Index(index), value, true)?;
                }
                short => {
                    for values in short.chunks(MAX_INSERT_CHARS).rev() {
                        let values: Vec<Any> = values.iter().map(to_any).collect();
                        list.array()?.insert_range(self.txn, small(index)?, values);
                    }
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, node: &Node, at: At<'_>) -> Result<()> {
        match at {
            At::Key(key) => {
                node.map()?.remove(self.txn, key);
            }
            At::Index(index) => node.array()?.remove(self.txn, small(index)?),
        }
        Ok(())
    }

    fn change(&mut self, node: &Node, at: At<'_>, _: &Value, to: &Value) -> Result<()> {
        let old = match at {
            At::Key(key) => node.map()?.get(self.txn, key),
            At::Index(index) => node.array()?.get(self.txn, small(index)?),
        };
        if matches!(old, Some(Out::Any(old)) if stays_plain(&old, to)) {
            return self.put(node, at, New::Scalar(to)).map(drop);
        }
        json::create(self, node, at, to, false)
    }

    fn number(number: &JsonNumber) -> JsonNumber {
        match number.as_i64() {
            Some(value) => integer(value),
            None => number
                .as_f64()
                .and_then(float)
                .unwrap_or_else(|| number.clone()),
        }
    }
}

fn small(index: usize) -> Result<u32> {
    u32::try_from(index).map_err(|_| CrdtError::InvalidArgument)
}
