//! What the register holds.

use conclave_proto::codec::{Bytes, DecodeError, decode, encode};
use tls_codec::{DeserializeBytes, Serialize, Size};

/// Where the bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A peer chose them.
    Network,
    /// The own store gave them back; the disk may have changed them, or a backup of another version.
    Disk,
    /// A person pasted or typed them.
    Person,
}

/// What decoding gave: the value's encoding, where the format promises that there is only one, or the code of a typed error.
pub type Decoded = Result<Option<Vec<u8>>, &'static str>;

/// One decoder.
#[derive(Clone, Copy)]
pub struct Decoder {
    /// `crate.thing`, unique.
    pub name: &'static str,
    /// Where the bytes come from.
    pub source: Source,
    /// More bytes than this are refused before anything is allocated for them; `usize::MAX` where what is stored is taken as it is.
    pub limit_bytes: usize,
    /// Decodes. It must return, whatever it is given.
    pub decode: fn(&[u8]) -> Decoded,
    /// Good inputs, to be mutated. At least one.
    pub samples: fn() -> Vec<Vec<u8>>,
    /// What the input is, so that mutations reach what matters.
    pub shape: Shape,
}

/// What an input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The bytes that are decoded.
    Bytes,
    /// Several rows of a store, as [`join_rows`] joins them.
    Rows,
}

impl Decoder {
    /// A decoder of one byte string.
    #[must_use]
    pub fn new(
        name: &'static str,
        source: Source,
        limit_bytes: usize,
        decode: fn(&[u8]) -> Decoded,
        samples: fn() -> Vec<Vec<u8>>,
    ) -> Self {
        Self {
            name,
            source,
            limit_bytes,
            decode,
            samples,
            shape: Shape::Bytes,
        }
    }

    /// The same, of rows that are read together.
    #[must_use]
    pub fn of_rows(self) -> Self {
        Self {
            shape: Shape::Rows,
            ..self
        }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoder({})", self.name)
    }
}

/// Result of a decoder for a structure that has one encoding.
///
/// # Errors
/// The code.
pub fn canonical<T: Serialize + Size>(value: Result<T, DecodeError>) -> Decoded {
    match value {
        Ok(value) => Ok(Some(encode(&value))),
        Err(error) => Err(error.code()),
    }
}

/// A structure in its wire encoding, of at most `LIMIT` bytes.
///
/// # Errors
/// The code.
pub fn wire<T: DeserializeBytes + Serialize + Size, const LIMIT: usize>(bytes: &[u8]) -> Decoded {
    canonical(decode::<T>("structure", bytes, LIMIT))
}

/// Rows of a store as one input: a list of (length, key, length, value). For decoders that read several rows together.
#[must_use]
pub fn join_rows<'a>(rows: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in rows {
        for part in [key, value] {
            out.extend_from_slice(&encode(&Bytes::from(part)));
        }
    }
    out
}

/// Takes apart what [`join_rows`] made; none where it is no such list.
#[must_use]
pub fn split_rows(mut bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        let mut pair = [Vec::new(), Vec::new()];
        for part in &mut pair {
            let (taken, rest) = Bytes::tls_deserialize_bytes(bytes).ok()?;
            *part = taken.into_vec();
            bytes = rest;
        }
        let [key, value] = pair;
        rows.push((key, value));
    }
    Some(rows)
}
