//! One byte form per value. The engine re-encodes what it received (object keys in random order, numbers in the
//! shortest type), so values are compared and hashed in this form, never as encoded.

use std::collections::BTreeMap;

use super::scan::{
    CONTENT_ANY, CONTENT_BINARY, CONTENT_DOC, CONTENT_EMBED, CONTENT_FORMAT, CONTENT_TYPE,
    read_signed, skip_any,
};
use crate::error::{CrdtError, Result};
use crate::limits::MAX_VALUE_DEPTH;
use crate::reader::Reader;

const NULL: u8 = b'n';
const UNDEFINED: u8 = b'u';
const FALSE: u8 = b'0';
const TRUE: u8 = b'1';
const NUMBER: u8 = b'd';
const BIG_INTEGER: u8 = b'i';
const STRING: u8 = b's';
const BYTES: u8 = b'b';
const ARRAY: u8 = b'a';
const OBJECT: u8 = b'o';

/// Appends the content of an item that takes one clock.
pub(super) fn write_single(out: &mut Vec<u8>, content: u8, data: &[u8]) -> Result<()> {
    let mut reader = Reader::new(data);
    match content {
        CONTENT_BINARY => write_bytes(out, BYTES, reader.buffer()?),
        CONTENT_EMBED => write_json_text(out, reader.string()?)?,
        CONTENT_FORMAT => {
            write_bytes(out, STRING, reader.string()?.as_bytes());
            write_json_text(out, reader.string()?)?;
        }
        CONTENT_TYPE => out.extend_from_slice(data),
        CONTENT_DOC => write_bytes(out, STRING, reader.string()?.as_bytes()),
        _ => return Err(CrdtError::Malformed),
    }
    Ok(())
}

/// The values `from..to` of a list item, each in its one form.
pub(super) fn values(content: u8, data: &[u8], from: u32, to: u32) -> Result<Vec<Vec<u8>>> {
    if content != CONTENT_ANY {
        return Err(CrdtError::Malformed);
    }
    let mut reader = Reader::new(data);
    let _count = reader.uint(u64::from(u32::MAX))?;
    for _ in 0..from {
        skip_any(&mut reader, 0)?;
    }
    let mut values = Vec::new();
    for _ in from..to {
        let mut value = Vec::new();
        write_any(&mut value, &mut reader, 0)?;
        values.push(value);
    }
    Ok(values)
}

/// Reads one lib0 value and appends its one form.
fn write_any(out: &mut Vec<u8>, reader: &mut Reader<'_>, depth: usize) -> Result<()> {
    if depth > MAX_VALUE_DEPTH {
        return Err(CrdtError::TooLarge);
    }
    match reader.byte()? {
        127 => out.push(UNDEFINED),
        126 => out.push(NULL),
        125 => write_integer(out, read_signed(reader)?),
        124 => write_float(out, f64::from(f32::from_be_bytes(array(reader.take(4)?)?))),
        123 => write_float(out, f64::from_be_bytes(array(reader.take(8)?)?)),
        122 => write_integer(out, i64::from_be_bytes(array(reader.take(8)?)?)),
        121 => out.push(FALSE),
        120 => out.push(TRUE),
        119 => write_bytes(out, STRING, reader.string()?.as_bytes()),
        118 => {
            let mut entries = BTreeMap::new();
            for _ in 0..reader.uint(u64::from(u32::MAX))? {
                let key = reader.string()?;
                let mut value = Vec::new();
                write_any(&mut value, reader, depth + 1)?;
                entries.insert(key, value);
            }
            write_header(out, OBJECT, entries.len());
            for (key, value) in entries {
                write_bytes(out, STRING, key.as_bytes());
                out.extend_from_slice(&value);
            }
        }
        117 => {
            let count = reader.uint(u64::from(u32::MAX))?;
            write_header(out, ARRAY, count as usize);
            for _ in 0..count {
                write_any(out, reader, depth + 1)?;
            }
        }
        116 => write_bytes(out, BYTES, reader.buffer()?),
        _ => return Err(CrdtError::Malformed),
    }
    Ok(())
}

fn write_json_text(out: &mut Vec<u8>, text: &str) -> Result<()> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|_| CrdtError::Malformed)?;
    write_json(out, &value);
    Ok(())
}

/// Appends a JSON value (whose nesting the JSON reader has bounded).
fn write_json(out: &mut Vec<u8>, value: &serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Null => out.push(NULL),
        Value::Bool(false) => out.push(FALSE),
        Value::Bool(true) => out.push(TRUE),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => write_integer(out, integer),
            None => write_float(out, number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => write_bytes(out, STRING, text.as_bytes()),
        Value::Array(items) => {
            write_header(out, ARRAY, items.len());
            items.iter().for_each(|item| write_json(out, item));
        }
        Value::Object(entries) => {
            write_header(out, OBJECT, entries.len());
            let sorted: BTreeMap<_, _> = entries.iter().collect();
            for (key, item) in sorted {
                write_bytes(out, STRING, key.as_bytes());
                write_json(out, item);
            }
        }
    }
}

/// Integers that a float holds exactly are written as that float, as the engine may encode them so.
fn write_integer(out: &mut Vec<u8>, integer: i64) {
    let float = integer as f64;
    if float as i64 == integer {
        write_float(out, float);
    } else {
        out.push(BIG_INTEGER);
        out.extend_from_slice(&integer.to_be_bytes());
    }
}

fn write_float(out: &mut Vec<u8>, float: f64) {
    // One NaN; one zero, since an integer zero has no sign.
    let float = if float.is_nan() {
        f64::NAN
    } else {
        float + 0.0
    };
    out.push(NUMBER);
    out.extend_from_slice(&float.to_bits().to_be_bytes());
}

fn write_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    write_header(out, tag, bytes.len());
    out.extend_from_slice(bytes);
}

fn write_header(out: &mut Vec<u8>, tag: u8, length: usize) {
    out.push(tag);
    out.extend_from_slice(&(length as u64).to_be_bytes());
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| CrdtError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_any(&mut out, &mut Reader::new(bytes), 0).unwrap();
        out
    }

    #[test]
    fn number_types_and_key_order_do_not_matter() {
        let seven = canonical(&[125, 7]);
        assert_eq!(
            canonical(&[&[124][..], &7f32.to_be_bytes()].concat()),
            seven
        );
        assert_eq!(
            canonical(&[&[123][..], &7f64.to_be_bytes()].concat()),
            seven
        );
        assert_eq!(
            canonical(&[&[122][..], &7i64.to_be_bytes()].concat()),
            seven
        );
        assert_ne!(
            canonical(&[&[122][..], &i64::MIN.to_be_bytes()].concat()),
            seven
        );
        let ab = canonical(&[118, 2, 1, b'a', 120, 1, b'b', 121]);
        assert_eq!(canonical(&[118, 2, 1, b'b', 121, 1, b'a', 120]), ab);
        assert_ne!(canonical(&[118, 2, 1, b'b', 120, 1, b'a', 121]), ab);
    }

    #[test]
    fn json_texts_compare_by_meaning() {
        let canonical = |text: &str| {
            let mut out = Vec::new();
            write_json_text(&mut out, text).unwrap();
            out
        };
        assert_eq!(
            canonical(r#"{"b": 1, "a": [null, 2.0]}"#),
            canonical(r#"{"a":[null,2],"b":1.0}"#)
        );
        assert_ne!(canonical(r#"{"a":"1"}"#), canonical(r#"{"a":1}"#));
    }
}
