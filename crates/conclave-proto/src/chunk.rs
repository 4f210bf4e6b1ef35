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
    partial: Partial,
    max: usize,
}

/// What has come of a frame so far.
#[derive(Debug)]
enum Partial {
    /// It is put together.
    Held(Vec<u8>),
    /// Nobody wants it: only its size is counted, in bytes.
    Skipped(usize),
}

impl Partial {
    const NOTHING: Self = Self::Held(Vec::new());

    fn len(&self) -> usize {
        match self {
            Self::Held(bytes) => bytes.len(),
            Self::Skipped(bytes) => *bytes,
        }
    }
}

impl Assembler {
    /// An assembler for frames of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            partial: Partial::NOTHING,
            max,
        }
    }

    /// Changes the largest frame, in bytes.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// What has come of the frame that is being put together.
    #[must_use]
    pub fn begun(&self) -> &[u8] {
        match &self.partial {
            Partial::Held(bytes) => bytes,
            Partial::Skipped(_) => &[],
        }
    }

    /// Drops the frame that is being put together, and what is still to come of it.
    pub fn skip(&mut self) {
        if self.is_unfinished() {
            self.partial = Partial::Skipped(self.partial.len());
        }
    }

    /// Whether more is to come of the present frame.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.partial.len() > 0
    }

    /// Whether what is still to come of the present frame is dropped.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        matches!(self.partial, Partial::Skipped(_))
    }

    /// Takes one message; gives a frame when it is complete and wanted.
    ///
    /// # Errors
    /// [`DecodeError`] when the frame grows past the limit, a chunked frame is interrupted, or the message is empty.
    pub fn take(&mut self, message: Vec<u8>) -> Result<Option<Vec<u8>>, DecodeError> {
        let what = "frame";
        let Some((&marker, rest)) = message.split_first() else {
            return Err(DecodeError::Malformed { what });
        };
        if marker != MORE && marker != LAST {
            return if !self.is_unfinished() && message.len() <= self.max {
                Ok(Some(message))
            } else {
                Err(DecodeError::Malformed { what })
            };
        }
        if self.partial.len().saturating_add(rest.len()) > self.max {
            self.partial = Partial::NOTHING;
            return Err(DecodeError::TooLarge {
                what,
                max: self.max,
            });
        }
        match &mut self.partial {
            Partial::Held(bytes) => bytes.extend_from_slice(rest),
            Partial::Skipped(bytes) => *bytes = bytes.saturating_add(rest.len()),
        }
        if marker != LAST {
            return Ok(None);
        }
        match std::mem::replace(&mut self.partial, Partial::NOTHING) {
            Partial::Held(frame) => Ok(Some(frame)),
            Partial::Skipped(_) => Ok(None),
        }
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
    fn a_frame_that_is_skipped_is_followed_by_the_next() {
        let frame = vec![7; 3 * WIRE_MESSAGE_BYTES];
        let mut assembler = Assembler::new(frame.len());
        let parts = split(frame.clone());
        let mut parts = parts.into_iter();
        assembler.skip();
        assert!(!assembler.is_skipping(), "there is nothing to skip");
        assert_eq!(assembler.take(parts.next().unwrap()).unwrap(), None);
        assert_eq!(assembler.begun(), &frame[..WIRE_MESSAGE_BYTES - 1]);
        assembler.skip();
        assert!(assembler.is_skipping() && assembler.begun().is_empty());
        for part in parts {
            assert_eq!(assembler.take(part).unwrap(), None);
        }
        assert!(!assembler.is_skipping() && !assembler.is_unfinished());
        assert_eq!(assembler.take(vec![1, 2]).unwrap(), Some(vec![1, 2]));
        // A skipped frame may not be larger than others.
        assert_eq!(assembler.take(vec![MORE, 1]).unwrap(), None);
        assembler.skip();
        assert!(assembler.take(vec![1, 2]).is_err(), "nor be interrupted");
        let rest = vec![MORE; frame.len() + 1];
        assert!(assembler.take(rest).is_err());
    }

    #[test]
    fn an_interrupted_frame_is_refused() {
        let mut assembler = Assembler::new(1 << 20);
        assert_eq!(assembler.take(vec![MORE, 1]).unwrap(), None);
        assert!(assembler.take(vec![1, 2, 3]).is_err());
    }
}
