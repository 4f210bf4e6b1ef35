//! The second encoding of Yjs updates (lib0, version 2), rewritten as the first.
//!
//! It keeps the same operations in columns with run lengths: a few bytes can declare billions of operations. What comes out here is bounded by
//! what goes in, and is read by the strict reader of the first encoding before an engine sees it.

use serde_json::{Number, Value};

use super::scan::{
    CONTENT_ANY, CONTENT_BINARY, CONTENT_DELETED, CONTENT_DOC, CONTENT_EMBED, CONTENT_FORMAT,
    CONTENT_STRING, CONTENT_TYPE, HAS_ORIGIN, HAS_PARENT_SUB, HAS_RIGHT_ORIGIN, INFO_GC, INFO_SKIP,
    TYPE_XML_ELEMENT, read_sign_and_magnitude, read_signed, skip_any,
};
use crate::error::{CrdtError, Result};
use crate::limits::{MAX_SNAPSHOT_BYTES, MAX_VALUE_DEPTH};
use crate::reader::{Reader, write_uint};

/// Bytes of the first encoding that any input may become.
const FREE_BYTES: usize = 1 << 20;
/// Bytes of the first encoding for each byte of the second, beyond that. Real documents stay far below.
const FACTOR: usize = 64;

/// A column of unsigned numbers: a negative one stands for a run.
struct Numbers<'a> {
    reader: Reader<'a>,
    last: u64,
    left: u64,
}

impl<'a> Numbers<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(bytes),
            last: 0,
            left: 0,
        }
    }

    fn next(&mut self) -> Result<u64> {
        if self.left == 0 {
            let (negative, magnitude) = read_sign_and_magnitude(&mut self.reader)?;
            self.last = magnitude;
            self.left = 1;
            if negative {
                self.left = self.reader.uint(u64::from(u32::MAX))? + 2;
            }
        }
        self.left -= 1;
        Ok(self.last)
    }
}

/// A column of differences; an odd one stands for a run.
struct Differences<'a> {
    reader: Reader<'a>,
    value: i64,
    difference: i64,
    left: u64,
}

impl<'a> Differences<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(bytes),
            value: 0,
            difference: 0,
            left: 0,
        }
    }

    fn next(&mut self) -> Result<u64> {
        if self.left == 0 {
            let coded = read_signed(&mut self.reader)?;
            self.difference = coded >> 1;
            self.left = 1;
            if coded & 1 == 1 {
                self.left = self.reader.uint(u64::from(u32::MAX))? + 2;
            }
        }
        self.left -= 1;
        let value = self.value.checked_add(self.difference);
        self.value = value.ok_or(CrdtError::Malformed)?;
        u64::try_from(self.value).map_err(|_| CrdtError::Malformed)
    }
}

/// A column of bytes with run lengths; the last one goes on for ever.
struct Runs<'a> {
    reader: Reader<'a>,
    last: u8,
    left: Option<u64>,
}

impl<'a> Runs<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(bytes),
            last: 0,
            left: Some(0),
        }
    }

    fn next(&mut self) -> Result<u8> {
        if self.left == Some(0) {
            self.last = self.reader.byte()?;
            self.left = match self.reader.is_empty() {
                true => None,
                false => Some(self.reader.uint(u64::from(u32::MAX))? + 1),
            };
        }
        self.left = self.left.map(|left| left - 1);
        Ok(self.last)
    }
}

/// All strings one after the other, and their lengths in UTF-16 units.
struct Strings<'a> {
    text: &'a str,
    lengths: Numbers<'a>,
}

impl<'a> Strings<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let text = reader.string()?;
        let lengths = bytes.get(reader.position()..).unwrap_or(&[]);
        Ok(Self {
            text,
            lengths: Numbers::new(lengths),
        })
    }

    fn next(&mut self) -> Result<&'a str> {
        let mut units = self.lengths.next()?;
        let mut end = 0;
        for c in self.text.chars() {
            if units == 0 {
                break;
            }
            let width = c.len_utf16() as u64;
            units = units.checked_sub(width).ok_or(CrdtError::Malformed)?;
            end += c.len_utf8();
        }
        if units > 0 {
            return Err(CrdtError::Malformed);
        }
        let (string, rest) = self
            .text
            .split_at_checked(end)
            .ok_or(CrdtError::Malformed)?;
        self.text = rest;
        Ok(string)
    }
}

struct Second<'a> {
    keys: Vec<&'a str>,
    key_clocks: Differences<'a>,
    clients: Numbers<'a>,
    left_clocks: Differences<'a>,
    right_clocks: Differences<'a>,
    infos: Runs<'a>,
    strings: Strings<'a>,
    parent_infos: Runs<'a>,
    types: Numbers<'a>,
    lengths: Numbers<'a>,
    rest_bytes: &'a [u8],
    rest: Reader<'a>,
    out: Vec<u8>,
    max_bytes: usize,
}

/// The same update in the first encoding.
pub(super) fn rewrite(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut reader = Reader::new(bytes);
    if reader.uint(0)? != 0 {
        return Err(CrdtError::Malformed);
    }
    let key_clocks = Differences::new(reader.buffer()?);
    let clients = Numbers::new(reader.buffer()?);
    let left_clocks = Differences::new(reader.buffer()?);
    let right_clocks = Differences::new(reader.buffer()?);
    let infos = Runs::new(reader.buffer()?);
    let strings = Strings::new(reader.buffer()?)?;
    let parent_infos = Runs::new(reader.buffer()?);
    let types = Numbers::new(reader.buffer()?);
    let lengths = Numbers::new(reader.buffer()?);
    let rest_bytes = bytes.get(reader.position()..).unwrap_or(&[]);
    let max_bytes = FREE_BYTES.saturating_add(bytes.len().saturating_mul(FACTOR));
    let mut second = Second {
        keys: Vec::new(),
        key_clocks,
        clients,
        left_clocks,
        right_clocks,
        infos,
        strings,
        parent_infos,
        types,
        lengths,
        rest_bytes,
        rest: Reader::new(rest_bytes),
        out: Vec::new(),
        max_bytes: max_bytes.min(MAX_SNAPSHOT_BYTES),
    };
    second.update()?;
    match second.rest.is_empty() {
        true => Ok(second.out),
        false => Err(CrdtError::Malformed),
    }
}

impl<'a> Second<'a> {
    fn update(&mut self) -> Result<()> {
        for _ in 0..self.copy_uint()? {
            let blocks = self.copy_uint()?;
            self.write_client()?;
            self.copy_uint()?; // clock
            for _ in 0..blocks {
                self.block()?;
                if self.out.len() > self.max_bytes {
                    return Err(CrdtError::TooLarge);
                }
            }
        }
        for _ in 0..self.copy_uint()? {
            self.copy_uint()?; // client
            let mut next = 0u64;
            for _ in 0..self.copy_uint()? {
                // Each range counts from the end of the one before.
                let start = next.saturating_add(self.rest.uint(u64::from(u32::MAX))?);
                let length = self.rest.uint(u64::from(u32::MAX))? + 1;
                next = start.saturating_add(length);
                write_uint(&mut self.out, start);
                write_uint(&mut self.out, length);
            }
        }
        Ok(())
    }

    fn copy_uint(&mut self) -> Result<u64> {
        let value = self.rest.uint(u64::from(u32::MAX).max(1 << 53))?;
        write_uint(&mut self.out, value);
        Ok(value)
    }

    fn write_client(&mut self) -> Result<()> {
        let client = self.clients.next()?;
        write_uint(&mut self.out, client);
        Ok(())
    }

    fn write_left(&mut self) -> Result<()> {
        self.write_client()?;
        let clock = self.left_clocks.next()?;
        write_uint(&mut self.out, clock);
        Ok(())
    }

    fn write_string(&mut self, string: &str) {
        write_uint(&mut self.out, string.len() as u64);
        self.out.extend_from_slice(string.as_bytes());
    }

    fn copy_string(&mut self) -> Result<()> {
        let string = self.strings.next()?;
        self.write_string(string);
        Ok(())
    }

    fn copy_key(&mut self) -> Result<()> {
        let clock = usize::try_from(self.key_clocks.next()?).map_err(|_| CrdtError::Malformed)?;
        let key = match self.keys.get(clock) {
            Some(key) => *key,
            None => {
                let key = self.strings.next()?;
                self.keys.push(key);
                key
            }
        };
        self.write_string(key);
        Ok(())
    }

    fn copy_length(&mut self) -> Result<u64> {
        let length = self.lengths.next()?;
        write_uint(&mut self.out, length);
        Ok(length)
    }

    /// Plain values are the same in both encodings.
    fn copy_any(&mut self) -> Result<()> {
        let start = self.rest.position();
        skip_any(&mut self.rest, 0)?;
        let value = self.rest_bytes.get(start..self.rest.position());
        self.out.extend_from_slice(value.unwrap_or(&[]));
        Ok(())
    }

    /// A plain value that the first encoding has as JSON.
    fn write_json(&mut self) -> Result<()> {
        let json = read_any(&mut self.rest, 0)?.to_string();
        self.write_string(&json);
        Ok(())
    }

    fn block(&mut self) -> Result<()> {
        let info = self.infos.next()?;
        self.out.push(info);
        match info {
            INFO_GC => return self.copy_length().map(|_| ()),
            INFO_SKIP => return self.copy_uint().map(|_| ()),
            _ => {}
        }
        if info & HAS_ORIGIN != 0 {
            self.write_left()?;
        }
        if info & HAS_RIGHT_ORIGIN != 0 {
            self.write_client()?;
            let clock = self.right_clocks.next()?;
            write_uint(&mut self.out, clock);
        }
        if info & (HAS_ORIGIN | HAS_RIGHT_ORIGIN) == 0 {
            let is_root = self.parent_infos.next()?;
            self.out.push(is_root);
            match is_root {
                1 => self.copy_string()?,
                _ => self.write_left()?,
            }
            if info & HAS_PARENT_SUB != 0 {
                self.copy_string()?;
            }
        }
        self.content(info & 0x1f)
    }

    fn content(&mut self, content: u8) -> Result<()> {
        match content {
            CONTENT_DELETED => self.copy_length().map(|_| ()),
            CONTENT_BINARY => {
                let bytes = self.rest.buffer()?;
                write_uint(&mut self.out, bytes.len() as u64);
                self.out.extend_from_slice(bytes);
                Ok(())
            }
            CONTENT_STRING => self.copy_string(),
            CONTENT_EMBED => self.write_json(),
            CONTENT_FORMAT => {
                self.copy_key()?;
                self.write_json()
            }
            CONTENT_TYPE => {
                let kind = self.types.next()?;
                write_uint(&mut self.out, kind);
                match kind == u64::from(TYPE_XML_ELEMENT) {
                    true => self.copy_key(),
                    false => Ok(()),
                }
            }
            CONTENT_ANY => {
                for _ in 0..self.copy_length()? {
                    self.copy_any()?;
                }
                Ok(())
            }
            CONTENT_DOC => {
                self.copy_string()?;
                self.copy_any()
            }
            _ => Err(CrdtError::Malformed),
        }
    }
}

/// A plain value as JSON, as JavaScript writes it. Values that JSON does not have are in no embed and no format that Yjs writes.
fn read_any(reader: &mut Reader<'_>, depth: usize) -> Result<Value> {
    if depth > MAX_VALUE_DEPTH {
        return Err(CrdtError::TooLarge);
    }
    let eight = |reader: &mut Reader<'_>| -> Result<[u8; 8]> {
        reader.take(8)?.try_into().map_err(|_| CrdtError::Malformed)
    };
    Ok(match reader.byte()? {
        120 => Value::Bool(true),
        121 => Value::Bool(false),
        126 | 127 => Value::Null,
        125 => read_signed(reader)?.into(),
        124 => {
            let bytes = reader.take(4)?.try_into();
            number(f32::from_be_bytes(bytes.map_err(|_| CrdtError::Malformed)?).into())
        }
        123 => number(f64::from_be_bytes(eight(reader)?)),
        122 => i64::from_be_bytes(eight(reader)?).into(),
        119 => reader.string()?.into(),
        118 => {
            let mut object = serde_json::Map::new();
            for _ in 0..reader.uint(u64::from(u32::MAX))? {
                let key = reader.string()?.to_owned();
                object.insert(key, read_any(reader, depth + 1)?);
            }
            Value::Object(object)
        }
        117 => {
            let mut items = Vec::new();
            for _ in 0..reader.uint(u64::from(u32::MAX))? {
                items.push(read_any(reader, depth + 1)?);
            }
            Value::Array(items)
        }
        _ => return Err(CrdtError::Malformed),
    })
}

fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}
