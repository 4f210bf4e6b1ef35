//! A bounds-checked cursor over received bytes. Both encodings use LEB128 integers in their shortest form.

use crate::error::{CrdtError, Result};

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.position >= self.bytes.len()
    }

    pub(crate) fn byte(&mut self) -> Result<u8> {
        let byte = *self.bytes.get(self.position).ok_or(CrdtError::Malformed)?;
        self.position += 1;
        Ok(byte)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self
            .position
            .checked_add(length)
            .ok_or(CrdtError::Malformed)?;
        let taken = self
            .bytes
            .get(self.position..end)
            .ok_or(CrdtError::Malformed)?;
        self.position = end;
        Ok(taken)
    }

    /// An unsigned integer of at most `max`, in its shortest form.
    pub(crate) fn uint(&mut self, max: u64) -> Result<u64> {
        let mut value = 0u64;
        let mut shift = 0u32;
        loop {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte may carry one bit only.
            if shift == 63 && bits > 1 {
                return Err(CrdtError::Malformed);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let overlong = byte == 0 && shift > 0;
                return if overlong || value > max {
                    Err(CrdtError::Malformed)
                } else {
                    Ok(value)
                };
            }
            shift += 7;
            if shift > 63 {
                return Err(CrdtError::Malformed);
            }
        }
    }

    /// A length in bytes, not longer than what is left.
    pub(crate) fn length(&mut self) -> Result<usize> {
        let length = self.uint(u64::from(u32::MAX))?;
        usize::try_from(length).map_err(|_| CrdtError::Malformed)
    }

    /// A byte string with its length before it.
    pub(crate) fn buffer(&mut self) -> Result<&'a [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    /// A signed LEB128 integer in two's complement.
    #[cfg(feature = "automerge")]
    pub(crate) fn int(&mut self) -> Result<i64> {
        let mut value = 0i64;
        let mut shift = 0u32;
        loop {
            let byte = self.byte()?;
            value |= i64::from(byte & 0x7f).wrapping_shl(shift);
            shift += 7;
            if byte & 0x80 == 0 {
                if shift > 63 && byte != 0 && byte != 0x7f {
                    return Err(CrdtError::Malformed);
                }
                if shift < 64 && byte & 0x40 != 0 {
                    value |= -1i64 << shift;
                }
                return Ok(value);
            }
            if shift > 63 {
                return Err(CrdtError::Malformed);
            }
        }
    }

    /// A string with its length before it.
    #[cfg(feature = "yjs")]
    pub(crate) fn string(&mut self) -> Result<&'a str> {
        core::str::from_utf8(self.buffer()?).map_err(|_| CrdtError::Malformed)
    }
}

/// Appends an unsigned LEB128 integer.
pub(crate) fn write_uint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_round_trip_and_only_the_shortest_form_is_read() {
        for value in [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            (1 << 53) - 1,
            u64::MAX,
        ] {
            let mut bytes = Vec::new();
            write_uint(&mut bytes, value);
            assert_eq!(Reader::new(&bytes).uint(u64::MAX), Ok(value));
        }
        for bad in [
            &[0x80, 0x00][..],
            &[0x80],
            &[0xff; 10],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert_eq!(Reader::new(bad).uint(u64::MAX), Err(CrdtError::Malformed));
        }
        assert_eq!(Reader::new(&[5]).uint(4), Err(CrdtError::Malformed));
    }

    #[test]
    fn taking_past_the_end_is_an_error() {
        assert!(Reader::new(&[1, 2]).take(3).is_err());
        assert!(Reader::new(&[1, 2]).take(usize::MAX).is_err());
        assert!(Reader::new(&[3, b'a']).buffer().is_err());
    }
}
