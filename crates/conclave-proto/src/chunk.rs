//! Frames larger than one WebSocket message travel in chunks, one after the other. The first byte of a message is a frame's kind, or one of the
//! two markers here; kinds never reach them.

use crate::codec::DecodeError;
use crate::limits::WIRE_MESSAGE_BYTES;

const MORE: u8 = 0xfe;
const LAST: u8 = 0xff;

/// Splits an encoded frame into WebSocket messages.
#[must_use]
pub fn split(frame: Vec<u8>) -> Vec<Vec<u8>> {
    if frame.len() <= WIRE_MESSAGE_BYTES {
        return vec![frame];
    }
    let size = WIRE_MESSAGE_BYTES - 1;
    let count = frame.len().div_ceil(size);
    frame
        .chunks(size)
        .enumerate()
        .map(|(at, part)| {
            let marker = if at + 1 == count { LAST } else { MORE };
            let mut message = Vec::with_capacity(part.len() + 1);
            message.push(marker);
            message.extend_from_slice(part);
            message
        })
        .collect()
}

/// Puts chunks together again. Holds at most `max` bytes.
#[derive(Debug)]
pub struct Assembler {
    partial: Vec<u8>,
    max: usize,
}

impl Assembler {
    /// An assembler for frames of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            partial: Vec::new(),
            max,
        }
    }

    /// Changes the largest frame, in bytes.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Takes one message; gives a frame when it is complete.
    ///
    /// # Errors
    /// [`DecodeError`] when the frame grows past the limit, a chunked frame is interrupted, or the message is empty.
    pub fn take(&mut self, message: Vec<u8>) -> Result<Option<Vec<u8>>, DecodeError> {
        let what = "frame";
        let Some((&marker, rest)) = message.split_first() else {
            return Err(DecodeError::Malformed { what });
        };
        if marker != MORE && marker != LAST {
            return if self.partial.is_empty() && message.len() <= self.max {
                Ok(Some(message))
            } else {
                Err(DecodeError::Malformed { what })
            };
        }
        if self.partial.len().saturating_add(rest.len()) > self.max {
            self.partial = Vec::new();
            return Err(DecodeError::TooLarge {
                what,
                max: self.max,
            });
        }
        self.partial.extend_from_slice(rest);
        Ok((marker == LAST).then(|| std::mem::take(&mut self.partial)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_round_trip_and_are_bounded() {
        let frame: Vec<u8> = (0..3 * WIRE_MESSAGE_BYTES)
            .map(|at| at as u8 % 100)
            .collect();
        let parts = split(frame.clone());
        assert!(parts.iter().all(|part| part.len() <= WIRE_MESSAGE_BYTES));
        let mut assembler = Assembler::new(frame.len());
        let mut got = None;
        for part in parts.clone() {
            got = assembler.take(part).unwrap();
        }
        assert_eq!(got, Some(frame.clone()));
        let mut small = Assembler::new(frame.len() - 1);
        assert!(parts.into_iter().any(|part| small.take(part).is_err()));
        assert!(small.take(vec![]).is_err());
    }

    #[test]
    fn an_interrupted_frame_is_refused() {
        let mut assembler = Assembler::new(1 << 20);
        assert_eq!(assembler.take(vec![MORE, 1]).unwrap(), None);
        assert!(assembler.take(vec![1, 2, 3]).is_err());
    }
}
