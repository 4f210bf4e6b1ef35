//! Pieces of encoding that `tls_codec` lacks: the 62-bit variable-length integer and a list that runs to the end of its frame.

use std::io::Write;

use tls_codec::{DeserializeBytes, Error, Serialize, Size};

/// An unsigned integer below 2⁶² in 1, 2, 4 or 8 bytes (RFC 9000 §16). Encoders use the shortest form and decoders demand it, so a
/// value has one encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Varint(pub u64);

impl Varint {
    /// Largest value that can be encoded.
    pub const MAX: u64 = (1 << 62) - 1;

    fn width(value: u64) -> usize {
        match value {
            0..=0x3f => 1,
            0x40..=0x3fff => 2,
            0x4000..=0x3fff_ffff => 4,
            _ => 8,
        }
    }
}

impl Size for Varint {
    fn tls_serialized_len(&self) -> usize {
        Self::width(self.0)
    }
}

impl Serialize for Varint {
    fn tls_serialize<W: Write>(&self, writer: &mut W) -> Result<usize, Error> {
        if self.0 > Self::MAX {
            return Err(Error::EncodingError("integer over 62 bits".into()));
        }
        let width = Self::width(self.0);
        let marked = match width {
            1 => self.0,
            2 => self.0 | (1 << 14),
            4 => self.0 | (2 << 30),
            _ => self.0 | (3 << 62),
        };
        let bytes = marked.to_be_bytes();
        let tail = bytes.get(8 - width..).unwrap_or_default();
        writer.write_all(tail)?;
        Ok(width)
    }
}

impl DeserializeBytes for Varint {
    fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        let first = *bytes.first().ok_or(Error::EndOfStream)?;
        let width = 1usize << (first >> 6);
        let (head, rest) = bytes.split_at_checked(width).ok_or(Error::EndOfStream)?;
        let mut value = u64::from(first & 0x3f);
        for byte in head.iter().skip(1) {
            value = (value << 8) | u64::from(*byte);
        }
        // Breakage: one number has several encodings.
        if Self::width(value) != width && !crate::broken("one-encoding") {
            return Err(Error::DecodingError(
                "integer not in its shortest form".into(),
            ));
        }
        Ok((Self(value), rest))
    }
}

/// A list without a length prefix: it runs to the end of the frame that holds it, so it must be the last field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail<T>(pub Vec<T>);

impl<T: Size> Size for Tail<T> {
    fn tls_serialized_len(&self) -> usize {
        self.0.iter().map(Size::tls_serialized_len).sum()
    }
}

impl<T: Serialize> Serialize for Tail<T> {
    fn tls_serialize<W: Write>(&self, writer: &mut W) -> Result<usize, Error> {
        let mut written = 0;
        for item in &self.0 {
            written += item.tls_serialize(writer)?;
        }
        Ok(written)
    }
}

impl<T: DeserializeBytes> DeserializeBytes for Tail<T> {
    fn tls_deserialize_bytes(mut bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        let mut items = Vec::new();
        while !bytes.is_empty() {
            if items.len() >= crate::limits::RECORDS_PER_FRAME {
                return Err(Error::DecodingError("too many records in one frame".into()));
            }
            let before = bytes.len();
            let (item, rest) = T::tls_deserialize_bytes(bytes)?;
            if rest.len() == before {
                return Err(Error::DecodingError("empty list item".into()));
            }
            items.push(item);
            bytes = rest;
        }
        Ok((Self(items), bytes))
    }
}

/// A list of at most [`limits::ITEMS_PER_LIST`](crate::limits::ITEMS_PER_LIST) items, encoded as any other. An empty byte string is one byte
/// on the wire and many in memory: without a bound, a frame of the largest size would fill a machine.
pub(crate) mod list {
    use std::io::Write;

    use tls_codec::{DeserializeBytes, Error, Serialize, Size};

    use super::decode_items;
    use crate::limits::ITEMS_PER_LIST;

    pub(crate) fn tls_serialized_len<T: Size>(items: &Vec<T>) -> usize {
        items.tls_serialized_len()
    }

    pub(crate) fn tls_serialize<T: Serialize + std::fmt::Debug, W: Write>(
        items: &Vec<T>,
        writer: &mut W,
    ) -> Result<usize, Error> {
        items.tls_serialize(writer)
    }

    pub(crate) fn tls_deserialize_bytes<T: DeserializeBytes>(
        bytes: &[u8],
    ) -> Result<(Vec<T>, &[u8]), Error> {
        decode_items(bytes, ITEMS_PER_LIST)
    }
}

/// As [`list`], of what is brought back of a document's log: as many items as [`limits::ITEMS_PER_OFFER`](crate::limits::ITEMS_PER_OFFER).
pub(crate) mod offer {
    use tls_codec::{DeserializeBytes, Error};

    use super::decode_items;
    pub(crate) use super::list::{tls_serialize, tls_serialized_len};
    use crate::limits::ITEMS_PER_OFFER;

    pub(crate) fn tls_deserialize_bytes<T: DeserializeBytes>(
        bytes: &[u8],
    ) -> Result<(Vec<T>, &[u8]), Error> {
        decode_items(bytes, ITEMS_PER_OFFER)
    }
}

fn decode_items<T: DeserializeBytes>(bytes: &[u8], most: usize) -> Result<(Vec<T>, &[u8]), Error> {
    let (length, rest) = Varint::tls_deserialize_bytes(bytes)?;
    let length = usize::try_from(length.0).map_err(|_| Error::EndOfStream)?;
    let (mut within, rest) = rest.split_at_checked(length).ok_or(Error::EndOfStream)?;
    let mut items = Vec::new();
    while !within.is_empty() {
        if items.len() >= most {
            return Err(Error::DecodingError("too many items in a list".into()));
        }
        let before = within.len();
        let (item, after) = T::tls_deserialize_bytes(within)?;
        if after.len() == before {
            return Err(Error::DecodingError("empty list item".into()));
        }
        items.push(item);
        within = after;
    }
    Ok((items, rest))
}

/// A byte string with its variable-length prefix (RFC 9420 §2.1.2).
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bytes(Vec<u8>);

impl Size for Bytes {
    fn tls_serialized_len(&self) -> usize {
        Varint::width(self.0.len() as u64) + self.0.len()
    }
}

impl Serialize for Bytes {
    fn tls_serialize<W: Write>(&self, writer: &mut W) -> Result<usize, Error> {
        let prefix = Varint(self.0.len() as u64).tls_serialize(writer)?;
        writer.write_all(&self.0)?;
        Ok(prefix + self.0.len())
    }
}

impl DeserializeBytes for Bytes {
    fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        let (length, rest) = Varint::tls_deserialize_bytes(bytes)?;
        let length = usize::try_from(length.0).map_err(|_| Error::EndOfStream)?;
        let (taken, rest) = rest.split_at_checked(length).ok_or(Error::EndOfStream)?;
        Ok((Self(taken.to_vec()), rest))
    }
}

impl serde::Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

impl Bytes {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Gives up the bytes.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::fmt::Debug for Bytes {
    /// Prints only the length: what is inside may be anybody's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

/// Why received or stored bytes could not be decoded. Never quotes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not the expected structure.
    #[error("these bytes are not a valid {what}")]
    Malformed {
        /// Name of the structure.
        what: &'static str,
    },
    /// The structure is followed by something else.
    #[error("a {what} is followed by bytes that do not belong to it")]
    TrailingBytes {
        /// Name of the structure.
        what: &'static str,
    },
    /// More bytes than the limit for this structure.
    #[error("a {what} may have at most {max} bytes")]
    TooLarge {
        /// Name of the structure.
        what: &'static str,
        /// Limit in bytes.
        max: usize,
    },
}

impl DecodeError {
    /// Stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "decode.malformed",
            Self::TrailingBytes { .. } => "decode.trailing_bytes",
            Self::TooLarge { .. } => "decode.too_large",
        }
    }

    /// Decoding the same bytes again gives the same result.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        false
    }
}

/// Decodes a whole byte string: bytes left over are an error.
///
/// # Errors
/// [`DecodeError`] when the bytes are longer than `max`, malformed, or followed by others.
pub fn decode<T: DeserializeBytes>(
    what: &'static str,
    bytes: &[u8],
    max: usize,
) -> Result<T, DecodeError> {
    // Breakage: what is received may be as large as it likes.
    if bytes.len() > max && !crate::broken("limit-before-decoding") {
        return Err(DecodeError::TooLarge { what, max });
    }
    let (value, rest) =
        T::tls_deserialize_bytes(bytes).map_err(|_| DecodeError::Malformed { what })?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(DecodeError::TrailingBytes { what })
    }
}

/// Encodes a value of ours. Encoding fails only for lengths past 2³⁰ or integers past 2⁶², which the limits exclude; such a value
/// encodes as nothing, which every decoder refuses.
#[must_use]
pub fn encode<T: Serialize + Size>(value: &T) -> Vec<u8> {
    #[cfg(debug_assertions)]
    crate::counted::encode();
    let mut out = Vec::with_capacity(value.tls_serialized_len());
    match value.tls_serialize(&mut out) {
        Ok(_) => out,
        Err(_) => Vec::new(),
    }
}

/// Gives the variable-length prefix of so many bytes to `take`, without a place of its own in memory.
pub fn with_prefix<T>(length: usize, take: impl FnOnce(&[u8]) -> T) -> T {
    let mut buffer = [0u8; 8];
    let mut rest = buffer.as_mut_slice();
    // Eight bytes are enough for any; one past 2⁶² is as good as none.
    let width = Varint(length as u64)
        .tls_serialize(&mut rest)
        .unwrap_or_default();
    take(buffer.get(..width).unwrap_or_default())
}

/// Appends a byte string with its variable-length prefix.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&encode(&Varint(bytes.len() as u64)));
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_have_one_encoding() {
        for value in [0, 63, 64, 16383, 16384, (1 << 30) - 1, 1 << 30, Varint::MAX] {
            let bytes = encode(&Varint(value));
            assert_eq!(
                decode::<Varint>("varint", &bytes, 8).unwrap(),
                Varint(value)
            );
        }
        // 1 written in two bytes.
        assert!(decode::<Varint>("varint", &[0x40, 0x01], 8).is_err());
        assert!(decode::<Varint>("varint", &[0x80], 8).is_err());
        assert!(encode(&Varint(u64::MAX)).is_empty());
    }

    #[test]
    fn a_list_of_very_many_small_items_is_refused() {
        let encoded = |count| encode(&vec![Bytes::default(); count]);
        let decoded = |count| {
            let bytes = encoded(count);
            list::tls_deserialize_bytes::<Bytes>(&bytes)
                .map(|(items, rest)| (items.len(), rest.len()))
        };
        let most = crate::limits::ITEMS_PER_LIST;
        assert_eq!(decoded(0), Ok((0, 0)));
        assert_eq!(decoded(most), Ok((most, 0)));
        assert!(decoded(most + 1).is_err());
        // An item that ends behind the list, and a list that ends behind the input.
        assert!(list::tls_deserialize_bytes::<Bytes>(&[2, 0, 9, 1, 1]).is_err());
        assert!(list::tls_deserialize_bytes::<Bytes>(&[9, 0]).is_err());
    }

    #[test]
    fn what_is_larger_than_its_limit_is_refused() {
        let bytes = encode(&Bytes::from(vec![0; 100]));
        let decoded = |max| decode::<Bytes>("text", &bytes, max);
        assert!(decoded(bytes.len()).is_ok());
        let max = bytes.len() - 1;
        assert_eq!(
            decoded(max),
            Err(DecodeError::TooLarge { what: "text", max })
        );
    }

    #[test]
    fn tails_run_to_the_end_and_trailing_bytes_are_refused() {
        let tail = Tail(vec![Varint(1), Varint(70)]);
        let bytes = encode(&tail);
        assert_eq!(decode::<Tail<Varint>>("tail", &bytes, 100).unwrap(), tail);
        assert_eq!(
            decode::<Varint>("varint", &bytes, 100),
            Err(DecodeError::TrailingBytes { what: "varint" })
        );
    }
}
