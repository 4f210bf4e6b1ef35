//! Statements as text that people paste, type or scan: a prefix that says what it is, then base32 (RFC 4648 §6, no padding) of the
//! encoded statement and a checksum.

use conclave_proto::hash::labelled;
use data_encoding::BASE32_NOPAD;

use crate::error::TextError;

/// Length of the checksum in bytes.
const CHECKSUM_BYTES: usize = 4;
/// White space allowed in a text, as a multiple of its own length.
const SPACE_FACTOR: usize = 4;

/// A kind of text.
pub(crate) struct Kind {
    /// How it begins, lower-case.
    pub(crate) prefix: &'static str,
    /// Largest encoded statement in bytes.
    pub(crate) max_bytes: usize,
}

impl Kind {
    /// Largest text in characters, without white space.
    const fn max_chars(&self) -> usize {
        self.prefix.len() + ((self.max_bytes + CHECKSUM_BYTES) * 8).div_ceil(5)
    }

    /// First bytes of a hash over prefix and statement.
    fn checksum(&self, statement: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let hash = labelled(
            "conclave 1.0 text checksum",
            &[self.prefix.as_bytes(), statement],
        );
        let mut checksum = [0; CHECKSUM_BYTES];
        for (to, from) in checksum.iter_mut().zip(hash.0) {
            *to = from;
        }
        checksum
    }

    /// Writes a statement, in lower case.
    pub(crate) fn write(&self, statement: &[u8]) -> String {
        let checksum = self.checksum(statement);
        let encoded = BASE32_NOPAD.encode(&[statement, &checksum[..]].concat());
        format!("{}{}", self.prefix, encoded.to_ascii_lowercase())
    }

    /// Reads a statement in either case, with white space anywhere.
    pub(crate) fn read(&self, text: &str) -> Result<Vec<u8>, TextError> {
        let max = self.max_chars();
        if text.len() > max.saturating_mul(SPACE_FACTOR) {
            return Err(TextError::TooLong { max });
        }
        let folded: String = text
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let encoded = folded
            .strip_prefix(self.prefix)
            .ok_or(TextError::WrongKind {
                expected: self.prefix,
            })?;
        if folded.len() > max {
            return Err(TextError::TooLong { max });
        }
        let mut bytes = BASE32_NOPAD
            .decode(encoded.to_ascii_uppercase().as_bytes())
            .map_err(|_| TextError::Alphabet)?;
        let end = bytes
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .ok_or(TextError::Checksum)?;
        let found = bytes.split_off(end);
        if found == self.checksum(&bytes) {
            Ok(bytes)
        } else {
            Err(TextError::Checksum)
        }
    }
}
