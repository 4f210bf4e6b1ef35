//! Everything that a document shows, formats and XML included, in one form that depends on nothing else.

use serde_json::{Map as JsonMap, Value, json};
use yrs::types::Attrs;
use yrs::types::text::YChange;
use yrs::{Any, Array, Map, Out, ReadTxn, Text, Xml, XmlFragment, XmlOut};

use super::json::from_any;
use super::roots::{names, shape};
use crate::api::RootShape;
use crate::error::{CrdtError, Result};
use crate::limits::MAX_NESTING;

/// All roots that are not empty, by name.
pub(super) fn visible<T: ReadTxn>(txn: &T) -> Result<Value> {
    let mut roots = JsonMap::new();
    for name in names(txn) {
        let Some(shape) = shape(txn, &name) else {
            continue;
        };
        let content = match shape {
            RootShape::Text => txn.get_text(name.as_str()).map(Out::YText),
            RootShape::List => txn.get_array(name.as_str()).map(Out::YArray),
            RootShape::Map => None,
            RootShape::Xml => txn.get_xml_fragment(name.as_str()).map(Out::YXmlFragment),
        };
        let content = content.map(|content| node(content, txn, 0)).transpose()?;
        let members = txn.get_map(name.as_str()).map(Out::YMap);
        let members = members.map(|members| node(members, txn, 0)).transpose()?;
        roots.insert(name, json!([content, members]));
    }
    Ok(Value::Object(roots))
}

fn node<T: ReadTxn>(value: Out, txn: &T, depth: u8) -> Result<Value> {
    if depth > MAX_NESTING {
        return Err(CrdtError::TooLarge);
    }
    Ok(match value {
        Out::Any(any) => from_any(&any, 0),
        Out::YText(text) => runs(&text, txn, depth)?,
        Out::YArray(array) => array
            .iter(txn)
            .map(|item| node(item, txn, depth + 1))
            .collect::<Result<_>>()?,
        Out::YMap(map) => Value::Object(members(map.iter(txn), txn, depth)?),
        Out::YXmlText(text) => {
            json!({"attributes": members(text.attributes(txn), txn, depth)?, "text": runs(&text, txn, depth)?})
        }
        Out::YXmlElement(element) => json!({
            "tag": element.try_tag().map(|tag| tag.as_ref()),
            "attributes": members(element.attributes(txn), txn, depth)?,
            "children": children(&element, txn, depth)?,
        }),
        Out::YXmlFragment(fragment) => children(&fragment, txn, depth)?,
        Out::YDoc(document) => json!({"document": document.guid().to_string()}),
        Out::UndefinedRef(_) => json!({"unknown": null}),
    })
}

fn members<'a, T: ReadTxn>(
    entries: impl Iterator<Item = (&'a str, Out)>,
    txn: &T,
    depth: u8,
) -> Result<JsonMap<String, Value>> {
    entries
        .map(|(key, value)| Ok((key.to_owned(), node(value, txn, depth + 1)?)))
        .collect()
}

fn children<T: ReadTxn>(parent: &impl XmlFragment, txn: &T, depth: u8) -> Result<Value> {
    parent
        .children(txn)
        .map(|child| {
            let child = match child {
                XmlOut::Element(element) => Out::YXmlElement(element),
                XmlOut::Fragment(fragment) => Out::YXmlFragment(fragment),
                XmlOut::Text(text) => Out::YXmlText(text),
            };
            node(child, txn, depth + 1)
        })
        .collect()
}

/// A text: as a string while nothing in it has a format, else with the format of each run.
fn runs<T: ReadTxn>(text: &impl Text, txn: &T, depth: u8) -> Result<Value> {
    let mut runs: Vec<(Value, Value)> = Vec::new();
    for chunk in text.diff(txn, YChange::identity) {
        let format = format(chunk.attributes.as_deref());
        let content = match chunk.insert {
            Out::Any(Any::String(part)) => Value::String(part.to_string()),
            embedded => json!([node(embedded, txn, depth + 1)?]),
        };
        match (runs.last_mut(), &content) {
            // How the engine cuts it says nothing.
            (Some((Value::String(last), before)), Value::String(part)) if *before == format => {
                last.push_str(part);
            }
            _ => runs.push((content, format)),
        }
    }
    Ok(match runs.as_mut_slice() {
        [] => Value::String(String::new()),
        [(text @ Value::String(_), Value::Null)] => text.take(),
        _ => json!({ "runs": runs }),
    })
}

fn format(attributes: Option<&Attrs>) -> Value {
    let set = attributes.into_iter().flatten();
    let set: JsonMap<String, Value> = set
        .filter(|(_, value)| **value != Any::Null)
        .map(|(name, value)| (name.to_string(), from_any(value, 0)))
        .collect();
    if set.is_empty() {
        Value::Null
    } else {
        Value::Object(set)
    }
}
