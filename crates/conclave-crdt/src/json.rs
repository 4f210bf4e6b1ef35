//! Reading and merging JSON, for any engine that has maps, lists and texts.

use serde_json::{Map, Value};
use similar::{Algorithm, DiffOp, capture_diff_slices};

use crate::api::PathElement;
use crate::error::{CrdtError, Result};
use crate::limits::MAX_JSON_DEPTH;
use crate::textdiff::{TextEdit, text_edits};

/// Most list items on both sides together that are compared by diff; above it they are paired by position.
const MAX_DIFF_ITEMS: usize = 4_000;

/// What stands at a place.
pub(crate) enum Slot<N> {
    Scalar(Value),
    Map(N),
    List(N),
    Text(N),
    /// Something of the engine that JSON has no word for; reads as null.
    Other,
}

/// A place in a container.
#[derive(Clone, Copy)]
pub(crate) enum At<'a> {
    Key(&'a str),
    Index(usize),
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
    fn remove(&mut self, node: &Self::Node, at: At<'_>) -> Result<()>;
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
        Slot::Scalar(value) => Ok(value),
        Slot::Other => Ok(Value::Null),
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

/// Makes the tree equal an object.
pub(crate) fn merge<T: JsonTree>(tree: &mut T, value: &Value) -> Result<()> {
    let value = writable::<T>(value, 0)?;
    let Value::Object(object) = &value else {
        return Err(CrdtError::InvalidArgument);
    };
    let root = tree.root();
    merge_map(tree, &root, object, 0)
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

fn merge_map<T: JsonTree>(
    tree: &mut T,
    map: &T::Node,
    target: &Map<String, Value>,
    depth: usize,
) -> Result<()> {
    let mut present = std::collections::BTreeMap::new();
    for (key, slot) in tree.entries(map)? {
        if target.contains_key(&key) {
            present.insert(key, slot);
        } else {
            tree.remove(map, At::Key(&key))?;
        }
    }
    for (key, value) in target {
        match present.remove(key) {
            Some(slot) => merge_slot(tree, map, At::Key(key), slot, value, depth)?,
            None => match tree.slot(map, At::Key(key))? {
                // Not listed but there: a hidden empty text.
                Some(slot) => merge_slot(tree, map, At::Key(key), slot, value, depth)?,
                None => create(tree, map, At::Key(key), value, false)?,
            },
        }
    }
    Ok(())
}

fn merge_slot<T: JsonTree>(
    tree: &mut T,
    node: &T::Node,
    at: At<'_>,
    slot: Slot<T::Node>,
    value: &Value,
    depth: usize,
) -> Result<()> {
    if depth > MAX_JSON_DEPTH {
        return Err(CrdtError::TooLarge);
    }
    match (slot, value) {
        (Slot::Map(map), Value::Object(object)) => merge_map(tree, &map, object, depth + 1),
        (Slot::List(list), Value::Array(items)) => merge_list(tree, &list, items, depth + 1),
        (Slot::Text(text), Value::String(new)) => {
            let edits = text_edits(&tree.text(&text)?, new);
            if edits.is_empty() {
                Ok(())
            } else {
                tree.edit_text(&text, &edits)
            }
        }
        (Slot::Scalar(old), value) if old == *value => Ok(()),
        _ => create(tree, node, at, value, false),
    }
}

fn merge_list<T: JsonTree>(
    tree: &mut T,
    list: &T::Node,
    target: &[Value],
    depth: usize,
) -> Result<()> {
    let mut old = Vec::new();
    for slot in tree.items(list)? {
        old.push(read_slot(tree, slot, depth)?);
    }
    // Last first, so that positions before stay as they are.
    for op in list_ops(&old, target).into_iter().rev() {
        if matches!(op, DiffOp::Equal { .. }) {
            continue;
        }
        let (removed, added) = (op.old_range(), op.new_range());
        let paired = removed.len().min(added.len());
        for index in (removed.start + paired..removed.end).rev() {
            tree.remove(list, At::Index(index))?;
        }
        for (offset, value) in target.get(added.clone()).unwrap_or(&[]).iter().enumerate() {
            let index = removed.start + offset;
            if offset >= paired {
                create(tree, list, At::Index(index), value, true)?;
            } else if let Some(slot) = tree.slot(list, At::Index(index))? {
                merge_slot(tree, list, At::Index(index), slot, value, depth)?;
            }
        }
    }
    Ok(())
}

fn list_ops(old: &[Value], new: &[Value]) -> Vec<DiffOp> {
    let prefix = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (
        old.get(prefix..).unwrap_or(&[]),
        new.get(prefix..).unwrap_or(&[]),
    );
    if old_rest.len() + new_rest.len() > MAX_DIFF_ITEMS {
        let op = DiffOp::Replace {
            old_index: prefix,
            old_len: old_rest.len(),
            new_index: prefix,
            new_len: new_rest.len(),
        };
        return vec![op];
    }
    // Values have no order or hash; their texts do.
    let texts = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<_>>();
    capture_diff_slices(Algorithm::Myers, &texts(old), &texts(new))
}

/// Writes a value with everything in it.
fn create<T: JsonTree>(
    tree: &mut T,
    node: &T::Node,
    at: At<'_>,
    value: &Value,
    insert: bool,
) -> Result<()> {
    let new = match value {
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
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| create(tree, &made, At::Index(index), item, true)),
        _ => Ok(()),
    }
}

/// Sets the value at a path.
pub(crate) fn put<T: JsonTree>(tree: &mut T, path: &[PathElement], value: &Value) -> Result<()> {
    let value = writable::<T>(value, path.len())?;
    let (last, above) = path.split_last().ok_or(CrdtError::InvalidArgument)?;
    let container = walk(tree, above)?;
    match (container, last) {
        (Slot::Map(map), PathElement::Key(key)) => create(tree, &map, At::Key(key), &value, false),
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
