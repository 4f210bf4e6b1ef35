//! Canonical decoding, and field encodings that hold their rules while decoding.

use conclave_proto::codec::{DecodeError, decode, encode};
use tls_codec::{DeserializeBytes, Serialize, Size};

use crate::error::AuthError;

/// Version of every statement here.
pub(crate) const VERSION: u16 = 1;

/// Decodes a whole byte string and refuses any encoding but the one that this crate writes.
pub(crate) fn decode_canonical<T: DeserializeBytes + Serialize + Size>(
    what: &'static str,
    bytes: &[u8],
    max: usize,
) -> Result<T, DecodeError> {
    let value: T = decode(what, bytes, max)?;
    if encode(&value) == bytes {
        Ok(value)
    } else {
        Err(DecodeError::Malformed { what })
    }
}

/// Refuses every version but ours.
pub(crate) fn check_version(version: u16) -> Result<(), AuthError> {
    if version == VERSION {
        Ok(())
    } else {
        Err(AuthError::UnsupportedVersion { version })
    }
}

/// What the signature at the end of an encoded statement covers: everything before it.
pub(crate) fn without_signature(encoded: &[u8]) -> &[u8] {
    encoded
        .len()
        .checked_sub(64)
        .and_then(|end| encoded.get(..end))
        .unwrap_or_default()
}

/// A name as a byte string of UTF-8; one that breaks the rules of [`check_name`] does not decode.
pub(crate) mod name {
    use std::io::Write;

    use conclave_proto::codec::Bytes;
    use tls_codec::{DeserializeBytes, Error, Serialize, Size};

    pub(crate) fn tls_serialized_len(name: &str) -> usize {
        Bytes::from(name.as_bytes()).tls_serialized_len()
    }

    pub(crate) fn tls_serialize<W: Write>(name: &str, writer: &mut W) -> Result<usize, Error> {
        Bytes::from(name.as_bytes()).tls_serialize(writer)
    }

    pub(crate) fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(String, &[u8]), Error> {
        let (raw, rest) = Bytes::tls_deserialize_bytes(bytes)?;
        let name = String::from_utf8(raw.into_vec())
            .map_err(|_| Error::DecodingError("a name is UTF-8".into()))?;
        crate::names::check_name(&name).map_err(|_| Error::DecodingError("not a name".into()))?;
        Ok((name, rest))
    }
}

/// A flag as one byte, 0 or 1.
pub(crate) mod flag {
    use std::io::Write;

    use tls_codec::{DeserializeBytes, Error, Serialize};

    pub(crate) fn tls_serialized_len(_: &bool) -> usize {
        1
    }

    pub(crate) fn tls_serialize<W: Write>(flag: &bool, writer: &mut W) -> Result<usize, Error> {
        u8::from(*flag).tls_serialize(writer)
    }

    pub(crate) fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(bool, &[u8]), Error> {
        match u8::tls_deserialize_bytes(bytes)? {
            (0, rest) => Ok((false, rest)),
            (1, rest) => Ok((true, rest)),
            _ => Err(Error::DecodingError("a flag is 0 or 1".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_flags_hold_their_rules_while_decoding() {
        assert_eq!(
            name::tls_deserialize_bytes(b"\x02abc").unwrap(),
            ("ab".into(), &b"c"[..])
        );
        assert!(name::tls_deserialize_bytes(b"\x02a\n").is_err());
        assert!(name::tls_deserialize_bytes(b"\x02\xff\xff").is_err());
        assert!(name::tls_deserialize_bytes(b"\x00").is_err());
        assert!(name::tls_deserialize_bytes(b"\x05ab").is_err());
        assert_eq!(flag::tls_deserialize_bytes(&[1]).unwrap(), (true, &[][..]));
        assert!(flag::tls_deserialize_bytes(&[2]).is_err());
        assert!(flag::tls_deserialize_bytes(&[]).is_err());
    }
}
