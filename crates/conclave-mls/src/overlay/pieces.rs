//! Large values in rows, one for each item of their lists: a commit changes few nodes of a ratchet tree, and only those are written.
//!
//! A value's encoding (CBOR, RFC 8949) is cut before and after each item of a list of maps. The pieces in the order of their keys are the
//! encoding again: nothing has to know what is in them.

/// A piece of an encoding.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// Lists, and what is around them, are counted alike.
    section: u32,
    item: u32,
    pub(super) bytes: &'a [u8],
}

impl Piece<'_> {
    /// Its key, below that of the value.
    pub(super) fn key(&self, prefix: &[u8]) -> Vec<u8> {
        let place = [self.section.to_be_bytes(), self.item.to_be_bytes()].concat();
        [prefix, &place].concat()
    }
}

/// Cuts an encoding; one that cannot be cut is one piece.
pub(super) fn cut(bytes: &[u8]) -> Vec<Piece<'_>> {
    let whole = Piece {
        section: 0,
        item: 0,
        bytes,
    };
    try_cut(bytes).unwrap_or_else(|| vec![whole])
}

fn try_cut(bytes: &[u8]) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let (mut section, mut from, mut at) = (0u32, 0, 0);
    while at < bytes.len() {
        let head = Head::read(bytes, at)?;
        at = head.end()?;
        let items = match head.kind {
            Kind::List if Head::read(bytes, at).is_some_and(|first| first.kind == Kind::Map) => {
                head.value
            }
            _ => continue,
        };
        pieces.push(Piece {
            section,
            item: 0,
            bytes: bytes.get(from..at)?,
        });
        section = section.checked_add(1)?;
        for item in 0..u32::try_from(items).ok()? {
            let end = end_of_item(bytes, at)?;
            pieces.push(Piece {
                section,
                item,
                bytes: bytes.get(at..end)?,
            });
            at = end;
        }
        section = section.checked_add(1)?;
        from = at;
    }
    pieces.push(Piece {
        section,
        item: 0,
        bytes: bytes.get(from..)?,
    });
    Some(pieces)
}

/// Position after an item with all that is in it.
fn end_of_item(bytes: &[u8], at: usize) -> Option<usize> {
    let (mut at, mut left) = (at, 1u64);
    while left > 0 {
        let head = Head::read(bytes, at)?;
        at = head.end()?;
        left = (left - 1).checked_add(head.inside()?)?;
    }
    Some(at)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    List,
    Map,
    Tag,
}

/// What an item begins with.
#[derive(Debug, Clone, Copy)]
struct Head {
    kind: Kind,
    value: u64,
    /// Position after it.
    next: usize,
}

impl Head {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let first = *bytes.get(at)?;
        let from = at.checked_add(1)?;
        let length = match first & 31 {
            0..=23 => 0,
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            // Of a length that is not said.
            _ => return None,
        };
        let next = from.checked_add(length)?;
        let value = match length {
            0 => u64::from(first & 31),
            _ => bytes
                .get(from..next)?
                .iter()
                .fold(0, |value, byte| value << 8 | u64::from(*byte)),
        };
        let kind = match first >> 5 {
            2 | 3 => Kind::Text,
            4 => Kind::List,
            5 => Kind::Map,
            6 => Kind::Tag,
            _ => Kind::Number,
        };
        Some(Self { kind, value, next })
    }

    /// Position after it, and after a text's bytes.
    fn end(&self) -> Option<usize> {
        match self.kind {
            Kind::Text => self.next.checked_add(usize::try_from(self.value).ok()?),
            _ => Some(self.next),
        }
    }

    /// Items that follow and belong to it.
    fn inside(&self) -> Option<u64> {
        match self.kind {
            Kind::Number | Kind::Text => Some(0),
            Kind::List => Some(self.value),
            Kind::Map => self.value.checked_mul(2),
            Kind::Tag => Some(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole_whatever_is_cut() {
        let mut bytes = Vec::new();
        let item = |n: u64| std::collections::BTreeMap::from([("a", vec![n; 3]), ("b", vec![])]);
        let value = (
            1u8,
            (0..300).map(item).collect::<Vec<_>>(),
            "text",
            [item(9)],
        );
        ciborium::into_writer(&value, &mut bytes).unwrap();
        let whole = |bytes: &[u8]| cut(bytes).iter().flat_map(|it| it.bytes).copied().collect();
        let again: Vec<u8> = whole(&bytes);
        assert_eq!(again, bytes);
        assert_eq!(cut(&bytes).len(), 1 + 300 + 1 + 1 + 1);
        for end in 0..bytes.len() {
            let again: Vec<u8> = whole(&bytes[..end]);
            assert_eq!(again, bytes[..end]);
        }
        for at in 0..200 {
            let mut other = bytes.clone();
            other[at] ^= 0xff;
            let again: Vec<u8> = whole(&other);
            assert_eq!(again, other);
        }
        let keys: Vec<Vec<u8>> = cut(&bytes).iter().map(|piece| piece.key(b"t/")).collect();
        assert!(keys.is_sorted());
    }
}
