//! Reading and merging JSON, for any engine that has maps, lists and texts.

mod edit;
mod special;

use serde_json::{Map, Value};

pub(crate) use edit::edit;
pub use edit::merged_value;
pub(crate) use special::Special;
pub use special::is_unwritable;

use crate::api::PathElement;
use crate::diff::text::TextEdit;
use crate::error::{CrdtError, Result};
use crate::limits::MAX_JSON_DEPTH;

/// What stands at a place.
pub(crate) enum Slot<N> {
    /// A value that is written as one, [`Special`] ones included.
    Scalar(Value),
    Map(N),
    List(N),
    Text(N),
    /// Something of the engine that is shown and cannot be written.
    Carried(Value),
}

/// A place in a container.
#[derive(Clone, Copy)]
pub(crate) enum At<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> From<&'a PathElement> for At<'a> {
    fn from(element: &'a PathElement) -> Self {
        match element {
            PathElement::Key(key) => Self::Key(key),
            PathElement::Index(index) => Self::Index(*index),
        }
    }
}

/// What to put there.
pub(crate) enum New<'a> {
    Scalar(&'a Value),
    Text(&'a str),
    Map,
    List,
}

/// An engine's containers. Places given exist unless said otherwise.
pub(crate) trait JsonTree {
    /// A container.
    type Node: Clone;

    fn root(&mut self) -> Self::Node;
    fn entries(&mut self, map: &Self::Node) -> Result<Vec<(String, Slot<Self::Node>)>>;
    fn items(&mut self, list: &Self::Node) -> Result<Vec<Slot<Self::Node>>>;
    fn slot(&mut self, node: &Self::Node, at: At<'_>) -> Result<Option<Slot<Self::Node>>>;
    fn text(&mut self, text: &Self::Node) -> Result<String>;
    fn edit_text(&mut self, text: &Self::Node, edits: &[TextEdit]) -> Result<()>;
    /// Sets a key, or replaces the item at an index; gives the container if one was made.
    fn put(&mut self, node: &Self::Node, at: At<'_>, new: New<'_>) -> Result<Option<Self::Node>>;
    /// Inserts before an index, which may be the length.
    fn insert(
        &mut self,
        list: &Self::Node,
        index: usize,
        new: New<'_>,
    ) -> Result<Option<Self::Node>>;
    /// Inserts values with everything in them before an index, which may be the length.
    fn insert_all(&mut self, list: &Self::Node, index: usize, values: &[Value]) -> Result<()>;
    fn remove(&mut self, node: &Self::Node, at: At<'_>) -> Result<()>;
    /// Changes a value that is written as one from what it was to something else, and keeps its type where the new value fits.
    fn change(&mut self, node: &Self::Node, at: At<'_>, from: &Value, to: &Value) -> Result<()>;
    /// The number that reads back when this one is written.
    fn number(number: &serde_json::Number) -> serde_json::Number;
}

/// The whole tree as JSON.
pub(crate) fn read<T: JsonTree>(tree: &mut T) -> Result<Value> {
    let root = tree.root();
    read_slot(tree, Slot::Map(root), 0)
}

fn read_slot<T: JsonTree>(tree: &mut T, slot: Slot<T::Node>, depth: usize) -> Result<Value> {
    if depth > MAX_JSON_DEPTH {
        return Err(CrdtError::TooLarge);
    }
    match slot {
        Slot::Scalar(value) | Slot::Carried(value) => Ok(value),
        Slot::Text(text) => tree.text(&text).map(Value::String),
        Slot::List(list) => {
            let items = tree.items(&list)?;
            items
                .into_iter()
                .map(|item| read_slot(tree, item, depth + 1))
                .collect::<Result<_>>()
                .map(Value::Array)
        }
        Slot::Map(map) => {
            let mut object = Map::new();
            for (key, slot) in tree.entries(&map)? {
                let value = read_slot(tree, slot, depth + 1)?;
                object.insert(key, value);
            }
            Ok(Value::Object(object))
        }
    }
}

/// The value as it will read back, if it is not nested too deeply.
fn writable<T: JsonTree>(value: &Value, depth: usize) -> Result<Value> {
    if depth > MAX_JSON_DEPTH {
        return Err(CrdtError::InvalidArgument);
    }
    Ok(match value {
        Value::Number(number) => Value::Number(T::number(number)),
        Value::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| writable::<T>(item, depth + 1))
                .collect::<Result<_>>()?,
        ),
        Value::Object(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, item)| Ok((key.clone(), writable::<T>(item, depth + 1)?)))
                .collect::<Result<_>>()?,
        ),
        other => other.clone(),
    })
}

/// Whether anything in a value stands for what cannot be written.
fn stands_for_unwritable(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(stands_for_unwritable),
        Value::Object(members) => {
            Special::of(value) == Some(None) || members.values().any(stands_for_unwritable)
        }
        _ => false,
    }
}

/// Writes a value with everything in it.
pub(crate) fn create<T: JsonTree>(
    tree: &mut T,
    node: &T::Node,
    at: At<'_>,
    value: &Value,
    insert: bool,
) -> Result<()> {
    let new = match value {
        Value::Object(_) if Special::of(value).is_some() => New::Scalar(value),
        Value::Object(_) => New::Map,
        Value::Array(_) => New::List,
        Value::String(text) => New::Text(text),
        scalar => New::Scalar(scalar),
    };
    let made = match (at, insert) {
        (At::Index(index), true) => tree.insert(node, index, new)?,
        _ => tree.put(node, at, new)?,
    };
    let Some(made) = made else { return Ok(()) };
    match value {
        Value::Object(entries) => entries
            .iter()
            .try_for_each(|(key, item)| create(tree, &made, At::Key(key), item, false)),
        Value::Array(items) => tree.insert_all(&made, 0, items),
        _ => Ok(()),
    }
}

/// Sets the value at a path.
pub(crate) fn put<T: JsonTree>(tree: &mut T, path: &[PathElement], value: &Value) -> Result<()> {
    let value = writable::<T>(value, path.len())?;
    if stands_for_unwritable(&value) {
        return Err(CrdtError::InvalidArgument);
    }
    let (last, above) = path.split_last().ok_or(CrdtError::InvalidArgument)?;
    let container = walk(tree, above)?;
    match (container, last) {
        (Slot::Map(map), PathElement::Key(key)) => {
            let at = At::Key(key);
            match tree.slot(&map, at)? {
                Some(Slot::Scalar(old)) => tree.change(&map, at, &old, &value),
                _ => create(tree, &map, at, &value, false),
            }
        }
        (Slot::List(list), PathElement::Index(index)) => {
            let length = tree.items(&list)?.len();
            if *index > length {
                return Err(CrdtError::InvalidArgument);
            }
            create(tree, &list, At::Index(*index), &value, *index == length)
        }
        _ => Err(CrdtError::InvalidArgument),
    }
}

/// Removes the value at a path.
pub(crate) fn delete<T: JsonTree>(tree: &mut T, path: &[PathElement]) -> Result<()> {
    let (last, above) = path.split_last().ok_or(CrdtError::InvalidArgument)?;
    let container = walk(tree, above)?;
    let (node, at) = match (&container, last) {
        (Slot::Map(map), PathElement::Key(key)) => (map, At::Key(key)),
        (Slot::List(list), PathElement::Index(index)) => (list, At::Index(*index)),
        _ => return Err(CrdtError::InvalidArgument),
    };
    if tree.slot(node, at)?.is_none() {
        return Err(CrdtError::InvalidArgument);
    }
    tree.remove(node, at)
}

fn walk<T: JsonTree>(tree: &mut T, path: &[PathElement]) -> Result<Slot<T::Node>> {
    let mut slot = Slot::Map(tree.root());
    for element in path {
        let next = match (&slot, element) {
            (Slot::Map(map), PathElement::Key(key)) => tree.slot(map, At::Key(key))?,
            (Slot::List(list), PathElement::Index(index)) => tree.slot(list, At::Index(*index))?,
            _ => None,
        };
        slot = next.ok_or(CrdtError::InvalidArgument)?;
    }
    Ok(slot)
}
