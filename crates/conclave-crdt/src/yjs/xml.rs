//! XML as people read it. It is shown, never read back.

use yrs::types::text::YChange;
use yrs::{Any, Out, ReadTxn, Text, Xml, XmlFragment, XmlOut};

use crate::limits::MAX_NESTING;

/// An element with what is in it. Equal on all replicas: attributes are in order.
pub(super) fn shown(node: XmlOut, txn: &impl ReadTxn) -> String {
    let mut text = String::new();
    write(node, txn, 0, &mut text);
    text
}

fn write(node: XmlOut, txn: &impl ReadTxn, depth: u8, to: &mut String) {
    if depth >= MAX_NESTING {
        return;
    }
    match node {
        XmlOut::Text(text) => {
            for chunk in text.diff(txn, YChange::identity) {
                match chunk.insert {
                    Out::Any(Any::String(part)) => to.push_str(&part),
                    Out::Any(_) => to.push('\u{fffc}'),
                    other => write_out(other, txn, depth, to),
                }
            }
        }
        XmlOut::Fragment(fragment) => {
            for child in fragment.children(txn) {
                write(child, txn, depth + 1, to);
            }
        }
        XmlOut::Element(element) => {
            let tag = element.try_tag().map_or("", |tag| tag.as_ref());
            let mut attributes: Vec<(String, String)> = element
                .attributes(txn)
                .map(|(name, value)| (name.to_owned(), attribute(value)))
                .collect();
            attributes.sort();
            to.push('<');
            to.push_str(tag);
            for (name, value) in attributes {
                to.push_str(&format!(" {name}={value:?}"));
            }
            to.push('>');
            for child in element.children(txn) {
                write(child, txn, depth + 1, to);
            }
            to.push_str(&format!("</{tag}>"));
        }
    }
}

fn write_out(value: Out, txn: &impl ReadTxn, depth: u8, to: &mut String) {
    match value {
        Out::YXmlElement(xml) => write(XmlOut::Element(xml), txn, depth + 1, to),
        Out::YXmlFragment(xml) => write(XmlOut::Fragment(xml), txn, depth + 1, to),
        Out::YXmlText(xml) => write(XmlOut::Text(xml), txn, depth + 1, to),
        _ => to.push('\u{fffc}'),
    }
}

fn attribute(value: Out) -> String {
    match value {
        Out::Any(Any::String(text)) => text.as_ref().to_owned(),
        Out::Any(Any::Bool(value)) => value.to_string(),
        Out::Any(Any::Number(value)) => value.to_string(),
        _ => String::new(),
    }
}
