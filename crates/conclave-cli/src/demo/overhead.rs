//! What an update costs on the wire beyond its content, measured on recorded frames.
//!
//! `overhead = bytes of an Append frame − plaintext bytes of its updates`, divided by the number of updates. A frame is counted whole, before
//! WebSocket framing. With a padding of 1 a ciphertext is one byte longer than its plaintext.

use conclave_client::proto::codec::decode;
use conclave_client::proto::frame::ClientFrame;
use conclave_client::proto::limits::FRAME_BYTES;

/// Padding that every sealed payload has at least, in bytes.
const PADDING_BYTES: usize = 1;
/// Kind code of an update in an Append frame.
const UPDATE: u8 = 1;

/// Sums over Append frames.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Overhead {
    /// Frames that held updates and nothing else.
    pub frames: u64,
    /// Updates in them.
    pub updates: u64,
    /// Bytes of these frames.
    pub frame_bytes: u64,
    /// Bytes of plaintext in them.
    pub plaintext_bytes: u64,
    /// Largest overhead per update of any one frame, in bytes.
    pub max: f64,
}

impl Overhead {
    /// Adds a client's frame, if it is an Append that holds updates only. Other frames are not updates.
    pub fn add(&mut self, encoded: &[u8]) {
        let Ok(ClientFrame::Append { records, .. }) =
            decode::<ClientFrame>("frame", encoded, FRAME_BYTES)
        else {
            return;
        };
        if records.0.is_empty() || records.0.iter().any(|record| record.kind != UPDATE) {
            return;
        }
        let updates = records.0.len() as u64;
        let plaintext: usize = records
            .0
            .iter()
            .map(|record| record.sealed.ciphertext.len().saturating_sub(PADDING_BYTES))
            .sum();
        let (frame_bytes, plaintext) = (encoded.len() as u64, plaintext as u64);
        self.frames += 1;
        self.updates += updates;
        self.frame_bytes += frame_bytes;
        self.plaintext_bytes += plaintext;
        self.max = self
            .max
            .max(frame_bytes.saturating_sub(plaintext) as f64 / updates as f64);
    }

    /// Mean overhead per update in bytes; none without updates.
    pub fn mean(&self) -> Option<f64> {
        let overhead = self.frame_bytes.saturating_sub(self.plaintext_bytes);
        (self.updates > 0).then(|| overhead as f64 / self.updates as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_client::proto::codec::{Tail, Varint, encode};
    use conclave_client::proto::frame::AppendedRecord;
    use conclave_client::proto::record::Sealed;

    fn record(kind: u8, plaintext_bytes: usize) -> AppendedRecord {
        let sealed = Sealed {
            nonce: [1; 24],
            ciphertext: vec![2; plaintext_bytes + 1].into(),
            tag: [3; 16],
            commitment: [4; 32],
            signature: [5; 64],
        };
        AppendedRecord {
            kind,
            seen_size: Varint(70),
            seen_hint: [6; 8],
            sealed,
        }
    }

    fn append(records: Vec<AppendedRecord>) -> Vec<u8> {
        encode(&ClientFrame::Append {
            channel: Varint(1),
            epoch: Varint(3),
            first_clock: Varint(100),
            records: Tail(records),
        })
    }

    /// Counted by hand: frame kind 1, channel 1, epoch 1, clock 2; record kind 1, seen size 2, hint 8, nonce 24, length 1, padding 1,
    /// tag 16, commitment 32, signature 64.
    #[test]
    fn one_small_update_costs_what_its_fields_cost() {
        let mut overhead = Overhead::default();
        overhead.add(&append(vec![record(1, 20)]));
        assert_eq!(overhead.mean(), Some(154.0));
        assert_eq!(
            (overhead.updates, overhead.plaintext_bytes, overhead.max),
            (1, 20, 154.0)
        );
    }

    #[test]
    fn updates_of_one_frame_share_its_head() {
        let mut overhead = Overhead::default();
        overhead.add(&append(vec![record(1, 20), record(1, 30)]));
        assert_eq!(overhead.mean(), Some(149.0 + 2.5));
        overhead.add(&append(vec![record(1, 5)]));
        assert_eq!(
            (overhead.frames, overhead.updates, overhead.max),
            (2, 3, 154.0)
        );
    }

    #[test]
    fn only_updates_are_counted() {
        let mut overhead = Overhead::default();
        overhead.add(&append(vec![record(2, 20)]));
        overhead.add(&encode(&ClientFrame::Ping));
        overhead.add(b"no frame");
        overhead.add(&append(vec![]));
        assert_eq!((overhead.frames, overhead.mean()), (0, None));
    }

    #[test]
    fn a_wasteful_format_shows() {
        let mut overhead = Overhead::default();
        let mut frame = append(vec![record(1, 20)]);
        let honest = frame.len();
        // The same update under a channel number written in eight bytes.
        frame = encode(&ClientFrame::Append {
            channel: Varint(1 << 40),
            epoch: Varint(3),
            first_clock: Varint(100),
            records: Tail(vec![record(1, 20)]),
        });
        assert_eq!(frame.len(), honest + 7);
        overhead.add(&frame);
        assert_eq!(overhead.mean(), Some(161.0));
    }
}
