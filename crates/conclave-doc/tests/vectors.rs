//! Test vectors of sealing: fixed keys, nonce and header give these bytes, for ever.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use conclave_crdt::ReplicaId;
use conclave_doc::*;
use conclave_identity::DeviceKey;
use conclave_mls::EpochRoot;
use conclave_proto::codec::{decode, encode};
use conclave_proto::merkle::{Frontier, Head};
use conclave_proto::record::{
    Chained, RECORD_VERSION, Record, RecordBody, RecordHeader, SnapshotHeader,
};
use conclave_proto::refusal::RecordFault;
use conclave_proto::*;
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

/// One line each: name, encoded record in hexadecimal.
const VECTORS: &str = include_str!("vectors/seal.txt");

/// The committed bytes of a vector.
fn committed(name: &str) -> &'static str {
    let line = VECTORS
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no vector {name}"))
}

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

fn snapshot_payload() -> SnapshotPayload {
    let mut tables = Tables {
        epoch_high: 5,
        ..Tables::default()
    };
    tables.advance(author(), 0, Hash([0x88; 32]));
    let owner = ReplicaOwner {
        device: author().device,
        next: 9,
    };
    tables
        .owners
        .insert(ReplicaId::from_bytes(&[0xaa; 8]).unwrap(), owner);
    let mut frontier = Frontier::new();
    (1..=3).for_each(|leaf| frontier.push(Hash([leaf; 32])));
    SnapshotPayload {
        frontier,
        tables,
        state: Zeroizing::new(b"state".to_vec()),
    }
}

fn cases() -> Vec<(&'static str, Record, Vec<u8>)> {
    let chained = Chained {
        clock: 4,
        prev: Hash([0x99; 32]),
    };
    let verdict =
        VerdictPayload::new(Hash([0xbb; 32]), Judgement::Differs(DiffersWhy::Content)).to_bytes();
    let payload = snapshot_payload();
    let snapshot = SnapshotHeader {
        parent: Hash([0xcc; 32]),
        chain_proof: Hash([0xdd; 32]),
        covered: payload.frontier.head(),
        crdt: 1,
    };
    let snapshot_bytes = payload.to_bytes().to_vec();
    let update = sealed(RecordBody::Update(chained), b"an update", 1, 1);
    let lost = CarriedPayload {
        keys: keys().of_record(&update.sealed.nonce),
        record: update.clone(),
    };
    let lost = lost.to_bytes().to_vec();
    vec![
        ("update", update, b"an update".to_vec()),
        (
            "verdict",
            sealed(RecordBody::Verdict(chained), &verdict, 64, 2),
            verdict,
        ),
        (
            "snapshot",
            sealed(RecordBody::Snapshot(snapshot), &snapshot_bytes, 256, 3),
            snapshot_bytes,
        ),
        (
            "carried",
            sealed(RecordBody::Carried(chained), &lost, 1, 4),
            lost,
        ),
    ]
}

#[test]
fn sealed_records_have_these_bytes() {
    for (name, record, payload) in cases() {
        let hex = HEXLOWER.encode(&encode(&record));
        println!("{name} {hex}");
        let expected = committed(name);
        assert_eq!(hex, expected, "{name}");
        let read: Record = decode(
            "record",
            &HEXLOWER.decode(expected.as_bytes()).unwrap(),
            1 << 20,
        )
        .unwrap();
        assert_eq!(open(&read, &keys()).unwrap().to_vec(), payload);
        let signer = DeviceKey::from_bytes(&[0x77; 32]).public();
        conclave_identity::verify(
            &signer,
            "conclave 1.0 record",
            &read.core().0,
            &read.sealed.signature,
        )
        .unwrap();
    }
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
    let (_, record, _) = cases().remove(0);
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
