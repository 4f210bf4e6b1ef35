//! Between our types and columns. SQLite's integers are signed: sizes and epochs are far below 2⁶³, and what is not is refused here.

use conclave_proto::Hash;

use crate::sqlite::StoreError;

/// A number as SQLite stores it. Saturates: a number that large equals nothing stored.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A stored number.
pub(crate) fn uint(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt { what: "number" })
}

/// A stored identifier or hash.
pub(crate) fn id<T>(bytes: &[u8], from: impl Fn(&[u8]) -> Option<T>) -> Result<T, StoreError> {
    from(bytes).ok_or(StoreError::Corrupt { what: "identifier" })
}

/// A stored hash.
pub(crate) fn hash(bytes: &[u8]) -> Result<Hash, StoreError> {
    id(bytes, Hash::from_slice)
}

/// Bytes of a checksum.
pub(super) const SUM_BYTES: usize = 8;

/// Checksum of what is stored together. It finds what a disk changed; it stops nobody who changes both.
pub(crate) fn sum(label: &str, parts: &[&[u8]]) -> Vec<u8> {
    let full = conclave_proto::hash::labelled(label, parts);
    full.as_bytes().iter().take(SUM_BYTES).copied().collect()
}

/// Compares with a stored checksum.
pub(crate) fn check_sum(what: &'static str, stored: &[u8], found: &[u8]) -> Result<(), StoreError> {
    match stored == found {
        true => Ok(()),
        false => Err(StoreError::Corrupt { what }),
    }
}

/// A stored structure in its wire encoding.
pub(crate) fn decode<T: tls_codec::DeserializeBytes>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, StoreError> {
    conclave_proto::codec::decode(what, bytes, usize::MAX).map_err(|_| StoreError::Corrupt { what })
}
