//! Values by the structs of the page: bytes to named fields, and back.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::Value;

use super::page::{Case, Definition, Member, Page, Type};

/// Largest integer that every reader of JSON takes for what it is.
const EXACT: u64 = (1 << 53) - 1;

/// A value as it is shown: JSON whose fields are in the order of the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Absent.
    Nothing,
    /// Yes or no.
    Flag(bool),
    /// A number.
    Number(u64),
    /// Text; of bytes in hexadecimal.
    Text(String),
    /// A list.
    List(Vec<Shown>),
    /// Named parts.
    Fields(Vec<(String, Shown)>),
}

impl Shown {
    /// Bytes, in hexadecimal.
    #[must_use]
    pub fn hex(bytes: &[u8]) -> Self {
        Self::Text(hex(bytes))
    }

    /// A number: as text where it is large.
    #[must_use]
    pub fn number(value: u64) -> Self {
        match value <= EXACT {
            true => Self::Number(value),
            false => Self::Text(value.to_string()),
        }
    }
}

impl From<&str> for Shown {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Shown {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Shown {
    fn from(value: u64) -> Self {
        Self::number(value)
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => serializer.serialize_unit(),
            Self::Flag(value) => serializer.serialize_bool(*value),
            Self::Number(value) => serializer.serialize_u64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Fields(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// Reads hexadecimal.
///
/// # Errors
/// Where it is none.
pub fn unhex(text: &str) -> Result<Vec<u8>> {
    let bytes = data_encoding::HEXLOWER.decode(text.as_bytes());
    bytes.with_context(|| format!("not hexadecimal: {text:.40}"))
}

/// Decodes by the page.
pub struct Decoder<'a> {
    page: &'a Page,
    /// Structs that were met, and cases of selects as `Struct.case`.
    pub met: BTreeSet<String>,
}

impl<'a> Decoder<'a> {
    /// A decoder by a page.
    #[must_use]
    pub fn new(page: &'a Page) -> Self {
        Self {
            page,
            met: BTreeSet::new(),
        }
    }

    /// Decodes a whole struct.
    ///
    /// # Errors
    /// Where the bytes are another thing, or more than it.
    pub fn decode(&mut self, name: &str, bytes: &[u8]) -> Result<Shown> {
        let (shown, rest) = self.named(name, bytes).with_context(|| name.to_owned())?;
        ensure!(rest.is_empty(), "{} bytes behind a {name}", rest.len());
        Ok(shown)
    }

    fn named<'b>(&mut self, name: &str, bytes: &'b [u8]) -> Result<(Shown, &'b [u8])> {
        let page = self.page;
        match page.get(name)? {
            Definition::Alias(of) => self.one(of, bytes),
            Definition::Enum(values) => {
                let (number, rest) = uint(1, bytes)?;
                let found = values.iter().find(|(it, _)| u64::from(*it) == number);
                let (_, value) = found.with_context(|| format!("{name} has no {number}"))?;
                Ok((value.as_str().into(), rest))
            }
            Definition::Struct(members) => {
                self.met.insert(name.to_owned());
                self.members(members, Some(name), bytes)
            }
        }
    }

    fn members<'b>(
        &mut self,
        members: &[Member],
        of: Option<&str>,
        mut bytes: &'b [u8],
    ) -> Result<(Shown, &'b [u8])> {
        let mut fields = Vec::new();
        for member in members {
            let (name, of) = match member {
                Member::Field(name, of) => (name, of),
                Member::Select(cases) => {
                    let (number, rest) = uint(1, bytes)?;
                    let mut cases = cases.iter();
                    let case = cases.find(|case| u64::from(case.number) == number);
                    let Case { name, of: held, .. } =
                        case.with_context(|| format!("no case {number} of {of:?}"))?;
                    let of_struct = of.map(|of| format!("{of}.{name}"));
                    self.met.extend(of_struct);
                    bytes = rest;
                    (name, held)
                }
            };
            let (value, rest) = self.one(of, bytes).with_context(|| name.clone())?;
            fields.push((name.clone(), value));
            bytes = rest;
        }
        Ok((Shown::Fields(fields), bytes))
    }

    fn one<'b>(&mut self, of: &Type, bytes: &'b [u8]) -> Result<(Shown, &'b [u8])> {
        match of {
            Type::Uint(width) => {
                let (value, rest) = uint(*width, bytes)?;
                Ok((value.into(), rest))
            }
            Type::Varint => {
                let (value, rest) = varint(bytes)?;
                Ok((value.into(), rest))
            }
            Type::Fixed(length) => {
                let (taken, rest) = split(bytes, *length)?;
                Ok((Shown::hex(taken), rest))
            }
            Type::Bytes => {
                let (taken, rest) = prefixed(bytes)?;
                Ok((Shown::hex(taken), rest))
            }
            Type::List(of) => {
                let (within, rest) = prefixed(bytes)?;
                Ok((self.list(of, within)?, rest))
            }
            Type::Tail(of) => Ok((self.list(of, bytes)?, &[])),
            Type::Optional(of) => match uint(1, bytes)? {
                (0, rest) => Ok((Shown::Nothing, rest)),
                (1, rest) => self.one(of, rest),
                (other, _) => bail!("an optional begins with {other}"),
            },
            Type::Named(name) => self.named(name, bytes),
            Type::Struct(members) => self.members(members, None, bytes),
        }
    }

    fn list(&mut self, of: &Type, mut bytes: &[u8]) -> Result<Shown> {
        let mut items = Vec::new();
        while !bytes.is_empty() {
            let (item, rest) = self.one(of, bytes)?;
            ensure!(rest.len() < bytes.len(), "an item without bytes");
            items.push(item);
            bytes = rest;
        }
        Ok(Shown::List(items))
    }
}

/// Encodes a struct's fields by the page.
///
/// # Errors
/// Where a field is missing, is another thing, or does not belong there.
pub fn encode(page: &Page, name: &str, value: &Value) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    put(page, &Type::Named(name.to_owned()), value, &mut out).with_context(|| name.to_owned())?;
    Ok(out)
}

fn put(page: &Page, of: &Type, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match of {
        Type::Uint(width) => {
            let bytes = number(value)?.to_be_bytes();
            let (above, kept) = bytes.split_at(8 - width);
            ensure!(above.iter().all(|byte| *byte == 0), "too large a number");
            out.extend_from_slice(kept);
        }
        Type::Varint => put_varint(number(value)?, out),
        Type::Fixed(length) => {
            let bytes = unhex(value.as_str().context("no bytes")?)?;
            ensure!(bytes.len() == *length, "{} bytes of {length}", bytes.len());
            out.extend_from_slice(&bytes);
        }
        Type::Bytes => put_prefixed(&unhex(value.as_str().context("no bytes")?)?, out),
        Type::List(of) => put_prefixed(&joined(page, of, value)?, out),
        Type::Tail(of) => out.extend_from_slice(&joined(page, of, value)?),
        Type::Optional(of) => {
            out.push(u8::from(!value.is_null()));
            if !value.is_null() {
                put(page, of, value, out)?;
            }
        }
        Type::Named(name) => match page.get(name)? {
            Definition::Alias(of) => put(page, of, value, out)?,
            Definition::Struct(members) => put_members(page, members, value, out)?,
            Definition::Enum(values) => {
                let found = values.iter().find(|(_, it)| value.as_str() == Some(it));
                out.push(found.with_context(|| format!("no {name}: {value}"))?.0);
            }
        },
        Type::Struct(members) => put_members(page, members, value, out)?,
    }
    Ok(())
}

fn put_members(page: &Page, members: &[Member], value: &Value, out: &mut Vec<u8>) -> Result<()> {
    let fields = value.as_object().context("no fields")?;
    ensure!(fields.len() == members.len(), "other fields: {value:.200}");
    for member in members {
        let (name, of) = match member {
            Member::Field(name, of) => (name, of),
            Member::Select(cases) => {
                let mut cases = cases.iter();
                let case = cases.find(|case| fields.contains_key(&case.name));
                let case = case.context("no case")?;
                out.push(case.number);
                (&case.name, &case.of)
            }
        };
        let field = fields.get(name).with_context(|| format!("no {name}"))?;
        put(page, of, field, out).with_context(|| name.clone())?;
    }
    Ok(())
}

fn joined(page: &Page, of: &Type, value: &Value) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for item in value.as_array().context("no list")? {
        put(page, of, item, &mut out)?;
    }
    Ok(out)
}

fn number(value: &Value) -> Result<u64> {
    match value {
        Value::String(text) => text.parse().context("no number"),
        _ => value.as_u64().context("no number"),
    }
}

fn split(bytes: &[u8], length: usize) -> Result<(&[u8], &[u8])> {
    bytes.split_at_checked(length).context("too short")
}

fn uint(width: usize, bytes: &[u8]) -> Result<(u64, &[u8])> {
    let (taken, rest) = split(bytes, width)?;
    let value = taken
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte));
    Ok((value, rest))
}

fn varint(bytes: &[u8]) -> Result<(u64, &[u8])> {
    let (first, _) = uint(1, bytes)?;
    let width = 1 << (first >> 6);
    let (value, rest) = uint(width, bytes)?;
    let value = value & (u64::MAX >> (64 - (8 * width - 2)));
    let mut shortest = Vec::new();
    put_varint(value, &mut shortest);
    ensure!(shortest.len() == width, "not in its shortest form");
    Ok((value, rest))
}

fn prefixed(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let (length, rest) = varint(bytes)?;
    split(rest, usize::try_from(length)?)
}

fn put_varint(value: u64, out: &mut Vec<u8>) {
    let (mark, width): (u64, usize) = match value {
        0..0x40 => (0, 1),
        0x40..0x4000 => (1, 2),
        0x4000..0x4000_0000 => (2, 4),
        _ => (3, 8),
    };
    let bytes = (value | mark << (8 * width - 2)).to_be_bytes();
    out.extend_from_slice(bytes.split_at(8 - width).1);
}

fn put_prefixed(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PAGE: &str = "\n```\nenum { a(1), b(2) } Kind;\nstruct { uint16 n; varint v; Kind k; opaque x<V>; } Thing;\n\
        struct { select { (1) Thing one; (3) struct {} none; } optional<uint8> last; Thing rest[*]; } All;\n```\n\
        ### 15.1 \n| 1 | A |\n### 15.2 \n| 1 | A |\n### 15.3 \n| 1 | A |\n";

    #[test]
    fn what_is_decoded_is_encoded_again() {
        let page = Page::read(PAGE).unwrap();
        let bytes = [1, 0, 7, 0x40, 0x50, 2, 2, 9, 9, 1, 5, 0, 1, 3, 1, 0];
        let mut decoder = Decoder::new(&page);
        let shown = decoder.decode("All", &bytes).unwrap();
        let value = serde_json::to_value(&shown).unwrap();
        let wanted = json!({
            "one": {"n": 7, "v": 80, "k": "b", "x": "0909"}, "last": 5,
            "rest": [{"n": 1, "v": 3, "k": "a", "x": ""}],
        });
        assert_eq!(value, wanted);
        assert_eq!(encode(&page, "All", &value).unwrap(), bytes);
        let met: Vec<&str> = decoder.met.iter().map(String::as_str).collect();
        assert_eq!(met, ["All", "All.one", "Thing"]);
        assert!(
            serde_json::to_string(&shown)
                .unwrap()
                .starts_with("{\"one\":{\"n\"")
        );
    }

    #[test]
    fn other_bytes_are_refused() {
        let page = Page::read(PAGE).unwrap();
        let thing = |bytes: &[u8]| Decoder::new(&page).decode("Thing", bytes);
        assert!(thing(&[0, 7, 3, 1, 1, 0xaa]).is_ok());
        // Behind it; a varint in two bytes for one; no such value; too short.
        for bytes in [
            &[0, 7, 3, 1, 1, 0xaa, 0][..],
            &[0, 7, 0x40, 3, 1, 1, 0xaa],
            &[0, 7, 3, 3, 1, 0xaa],
            &[0, 7, 3, 1, 2, 0xaa],
        ] {
            assert!(thing(bytes).is_err(), "{bytes:?}");
        }
        let refused = |value: Value| encode(&page, "Thing", &value).is_err();
        assert!(refused(json!({"n": 65536, "v": 1, "k": "a", "x": ""})));
        assert!(refused(json!({"n": 1, "v": 1, "k": "c", "x": ""})));
        assert!(refused(json!({"n": 1, "v": 1, "k": "a", "x": "", "y": 1})));
    }
}
