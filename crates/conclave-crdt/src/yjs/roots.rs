//! Root types: what a document holds beside the text that this crate's own documents begin with.
//!
//! An update names the roots and not their types; what they are is told from what is in them.

use serde_json::Value;
use yrs::types::ToJson;
use yrs::types::text::YChange;
use yrs::{Array, GetString, Map, Out, ReadTxn, Text};

use super::Yrs;
use super::json::{JSON_ROOT, from_any};
use super::text::TEXT_ROOT;
use crate::api::{Root, RootShape};
use crate::diff::work;
use crate::error::Result;

impl Yrs {
    /// Everything in the document that is not empty, by name.
    pub(super) fn read_roots(&mut self) -> Result<Vec<Root>> {
        self.read(|txn| {
            let (text, map) = (
                place(txn, TEXT_ROOT, RootShape::Text),
                place(txn, JSON_ROOT, RootShape::Map),
            );
            let mut roots: Vec<Root> = names(txn)
                .into_iter()
                .filter_map(|name| {
                    let shape = shape(txn, &name)?;
                    let editable = match shape {
                        RootShape::Text => name == text,
                        RootShape::Map => name == map,
                        RootShape::List | RootShape::Xml => false,
                    };
                    let value = show(txn, &name, shape);
                    Some(Root {
                        name,
                        shape,
                        value,
                        editable,
                    })
                })
                .collect();
            roots.sort_by(|a, b| a.name.cmp(&b.name));
            roots
        })
    }
}

pub(super) fn names<T: ReadTxn>(txn: &T) -> Vec<String> {
    txn.root_refs().map(|(name, _)| name.to_owned()).collect()
}

/// The root that a view shows: the usual one, or the only other of its shape while the usual one is empty.
pub(super) fn place<T: ReadTxn>(txn: &T, usual: &str, wanted: RootShape) -> String {
    if is_filled(txn, usual) {
        return usual.to_owned();
    }
    let mut others = names(txn)
        .into_iter()
        .filter(|name| shape(txn, name) == Some(wanted));
    match (others.next(), others.next()) {
        (Some(only), None) => only,
        _ => usual.to_owned(),
    }
}

fn is_filled<T: ReadTxn>(txn: &T, name: &str) -> bool {
    let list = txn.get_array(name);
    let map = || txn.get_map(name);
    list.is_some_and(|list| list.len(txn) > 0)
        || map().is_some_and(|map| map.iter(txn).next().is_some())
}

/// What a root holds; nothing while it is empty.
pub(super) fn shape<T: ReadTxn>(txn: &T, name: &str) -> Option<RootShape> {
    let sequence = txn.get_array(name)?;
    if sequence.len(txn) == 0 {
        let entries = txn.get_map(name)?.len(txn);
        return (entries > 0).then_some(RootShape::Map);
    }
    if let Some(Out::YXmlElement(_) | Out::YXmlFragment(_) | Out::YXmlText(_)) =
        sequence.get(txn, 0)
    {
        return Some(RootShape::Xml);
    }
    work::count(u64::from(sequence.len(txn)));
    // The engine passes over the plain values of a list when it reads it as a text.
    let is_text = txn
        .get_text(name)?
        .diff(txn, YChange::identity)
        .iter()
        .any(|chunk| matches!(chunk.insert, Out::Any(_)));
    Some(match is_text {
        true => RootShape::Text,
        false => RootShape::List,
    })
}

fn show<T: ReadTxn>(txn: &T, name: &str, shape: RootShape) -> Value {
    let shown = match shape {
        RootShape::Text => txn
            .get_text(name)
            .map(|text| Value::String(text.get_string(txn))),
        RootShape::Xml => txn
            .get_xml_fragment(name)
            .map(|xml| Value::String(xml.get_string(txn))),
        RootShape::Map => txn.get_map(name).map(|map| from_any(&map.to_json(txn), 0)),
        RootShape::List => txn
            .get_array(name)
            .map(|list| from_any(&list.to_json(txn), 0)),
    };
    shown.unwrap_or(Value::Null)
}
