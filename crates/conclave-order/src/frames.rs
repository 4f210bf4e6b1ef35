//! Frames built from parts that are encoded already. Decoding them gives the types of [`conclave_proto::frame`]; tests say so.

use bytes::Bytes;
use conclave_proto::codec::{Tail, Varint, encode};
use conclave_proto::frame::{DeliveredRecord, ServiceFrame};
use conclave_proto::{Author, Hash, Record, Refusal};
use tls_codec::Serialize as _;

use crate::rows::RecordKind;

/// Bytes of a chained record's elided form beside what is sealed: at most this many.
const ELIDED_HEAD_BYTES: usize = 1 + 8 + 8 + 8 + 8;

/// What the elided form of a record says beside what is sealed.
#[derive(Debug, Clone, Copy)]
pub struct Elided {
    /// Its kind, which is none that is delivered whole.
    pub kind: RecordKind,
    /// Number of the author.
    pub author: u64,
    /// Its epoch.
    pub epoch: u64,
    /// How far before it the prefix ends that its author had seen.
    pub seen_back: u64,
    /// First bytes of that prefix's root.
    pub hint: [u8; 8],
}

/// Appends an integer. Encoding into memory fails only above 2⁶², which no number here reaches.
fn put_varint(out: &mut Vec<u8>, value: u64) {
    let _ = Varint(value).tls_serialize(out);
}

/// Appends `DeliveredRecord::Update`, `Verdict` or `Carried`, whose codes are not those of the records.
pub fn put_elided(out: &mut Vec<u8>, head: Elided, sealed: &[u8]) {
    out.reserve(ELIDED_HEAD_BYTES.saturating_add(sealed.len()));
    out.push(match head.kind {
        RecordKind::Update => 1,
        RecordKind::Verdict => 2,
        RecordKind::Snapshot => 3,
        RecordKind::Carried => 6,
    });
    put_varint(out, head.author);
    put_varint(out, head.epoch);
    put_varint(out, head.seen_back);
    out.extend_from_slice(&head.hint);
    out.extend_from_slice(sealed);
}

/// Appends `DeliveredRecord::Whole`.
pub fn put_whole(out: &mut Vec<u8>, record: Record, proof: Vec<Hash>) {
    out.extend_from_slice(&encode(&DeliveredRecord::Whole { record, proof }));
}

/// As [`put_whole`], from parts that are encoded already.
pub fn put_whole_parts(out: &mut Vec<u8>, header: &[u8], sealed: &[u8], proof: &Vec<Hash>) {
    const WHOLE: u8 = 3;
    out.push(WHOLE);
    out.extend_from_slice(header);
    out.extend_from_slice(sealed);
    out.extend_from_slice(&encode(proof));
}

/// Appends `DeliveredRecord::Leaf`.
pub fn put_leaf(out: &mut Vec<u8>, leaf: Hash) {
    out.extend_from_slice(&encode(&DeliveredRecord::Leaf(leaf)));
}

/// `ServiceFrame::Deliver` of records encoded already.
#[must_use]
pub fn deliver(channel: u64, first_seq: u64, records: &[&[u8]]) -> Bytes {
    let empty = ServiceFrame::Deliver {
        channel: Varint(channel),
        first_seq: Varint(first_seq),
        records: Tail(Vec::new()),
    };
    let mut out = encode(&empty);
    out.reserve(records.iter().map(|part| part.len()).sum());
    for part in records {
        out.extend_from_slice(part);
    }
    Bytes::from(out)
}

/// `ServiceFrame::NewAuthor`.
#[must_use]
pub fn new_author(channel: u64, author: Author) -> Bytes {
    Bytes::from(encode(&ServiceFrame::NewAuthor {
        channel: Varint(channel),
        author,
    }))
}

/// `ServiceFrame::Ack`.
#[must_use]
pub fn ack(channel: u64, next_clock: u64, first_seq: u64, count: u64) -> Bytes {
    Bytes::from(encode(&ServiceFrame::Ack {
        channel: Varint(channel),
        next_clock: Varint(next_clock),
        first_seq: Varint(first_seq),
        count: Varint(count),
    }))
}

/// `ServiceFrame::AppendRefused`.
#[must_use]
pub fn append_refused(channel: u64, first_clock: u64, refusal: Refusal) -> Bytes {
    Bytes::from(encode(&ServiceFrame::AppendRefused {
        channel: Varint(channel),
        first_clock: Varint(first_clock),
        refusal,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_proto::codec::decode;
    use conclave_proto::frame::ElidedRecord;
    use conclave_proto::record::Sealed;

    #[test]
    fn frames_from_parts_decode_to_what_they_say() {
        let sealed = Sealed {
            nonce: [1; 24],
            ciphertext: vec![2; 70].into(),
            tag: [3; 16],
            commitment: [4; 32],
            signature: [5; 64],
        };
        let mut out = Vec::new();
        let head = Elided {
            kind: RecordKind::Update,
            author: 300,
            epoch: 70_000,
            seen_back: 5,
            hint: [6; 8],
        };
        for kind in [RecordKind::Update, RecordKind::Verdict, RecordKind::Carried] {
            put_elided(&mut out, Elided { kind, ..head }, &encode(&sealed));
        }
        put_leaf(&mut out, Hash([7; 32]));
        let frame = deliver(9, 10, &[&out]);
        let decoded: ServiceFrame = decode("frame", &frame, 10_000).unwrap();
        let elided = ElidedRecord {
            author: Varint(300),
            epoch: Varint(70_000),
            seen_back: Varint(5),
            seen_hint: [6; 8],
            sealed,
        };
        assert_eq!(
            decoded,
            ServiceFrame::Deliver {
                channel: Varint(9),
                first_seq: Varint(10),
                records: Tail(vec![
                    DeliveredRecord::Update(elided.clone()),
                    DeliveredRecord::Verdict(elided.clone()),
                    DeliveredRecord::Carried(elided),
                    DeliveredRecord::Leaf(Hash([7; 32]))
                ]),
            }
        );
    }
}
