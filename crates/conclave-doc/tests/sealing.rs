//! Padding of sealed payloads, and what no longer opens. The bytes themselves are in `docs/vectors/records.json`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use conclave_doc::*;
use conclave_identity::DeviceKey;
use conclave_mls::EpochRoot;
use conclave_proto::merkle::Head;
use conclave_proto::record::{Chained, RECORD_VERSION, Record, RecordBody, RecordHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::*;

fn author() -> Author {
    Author {
        device: DeviceId([0x11; 16]),
        instance: InstanceId([0x22; 8]),
    }
}

fn header(body: RecordBody) -> RecordHeader {
    RecordHeader {
        version: RECORD_VERSION,
        group: GroupId([0x33; 16]),
        document: DocumentId([0x44; 16]),
        epoch: 5,
        author: author(),
        seen: Head {
            size: 3,
            root: Hash([0x55; 32]),
        },
        body,
    }
}

fn keys() -> DocKeys {
    DocKeys::derive(&EpochRoot::new([0x66; 32]), &DocumentId([0x44; 16]))
}

fn sealed(body: RecordBody, payload: &[u8], padding_bytes: u16, nonce: u8) -> Record {
    let signer = DeviceKey::from_bytes(&[0x77; 32]);
    seal_with_nonce(
        &header(body),
        payload,
        &keys(),
        &signer,
        padding_bytes,
        [nonce; 24],
    )
}

#[test]
fn payloads_are_padded_to_a_multiple() {
    for padding in [1u16, 2, 16, 256, u16::MAX] {
        for length in [0usize, 1, 15, 16, 17, 255, 256] {
            let record = sealed(
                RecordBody::Update(Chained {
                    clock: 0,
                    prev: Hash::ZERO,
                }),
                &vec![0x80; length],
                padding,
                9,
            );
            let sealed_len = record.sealed.ciphertext.len();
            assert_eq!(sealed_len % usize::from(padding), 0);
            assert!(sealed_len > length && sealed_len <= length + usize::from(padding));
            assert_eq!(sealed_len, padded_len(length, padding));
            assert_eq!(open(&record, &keys()).unwrap().to_vec(), vec![0x80; length]);
        }
    }
}

#[test]
fn any_change_of_header_or_seal_fails_to_open() {
    let chained = Chained {
        clock: 4,
        prev: Hash([0x99; 32]),
    };
    let record = sealed(RecordBody::Update(chained), b"an update", 1, 1);
    let mut other = record.clone();
    other.header.seen.size += 1;
    assert_eq!(open(&other, &keys()), Err(RecordFault::Commitment));
    let mut other = record.clone();
    other.sealed.nonce[0] ^= 1;
    assert_eq!(open(&other, &keys()), Err(RecordFault::Commitment));
    let mut other = record.clone();
    other.sealed.tag[0] ^= 1;
    assert_eq!(open(&other, &keys()), Err(RecordFault::Commitment));
    let mut other = record.clone();
    let mut ciphertext = other.sealed.ciphertext.as_slice().to_vec();
    ciphertext[0] ^= 1;
    other.sealed.ciphertext = ciphertext.into();
    assert_eq!(open(&other, &keys()), Err(RecordFault::Open));
    let mut other = record;
    other.sealed.ciphertext = vec![0; (1 << 20) + 1].into();
    assert_eq!(open(&other, &keys()), Err(RecordFault::Malformed));
}
