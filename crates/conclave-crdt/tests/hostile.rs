//! What a member with valid keys can do to others with the bytes of an update or a snapshot.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use automerge::transaction::Transactable;
use common::*;
use conclave_crdt::automerge::Automerge;
use conclave_crdt::limits::{
    MAX_REPLICAS_PER_UPDATE, MAX_SNAPSHOT_BYTES, MAX_UPDATE_BYTES, MAX_WAITING_BYTES,
};
use conclave_crdt::yjs::Yrs;
use conclave_crdt::{Applied, ByReplica, CrdtError, CrdtKind, load};
use sha2::{Digest, Sha256};
use yrs::{Map, Transact};

/// A document with some history, its author's next update, and who wrote it.
fn scenario(kind: CrdtKind) -> (Vec<u8>, Vec<u8>) {
    let mut author = new(kind, 1);
    insert(&mut author, 0, "the quick \u{1f98a} fox");
    author
        .json()
        .unwrap()
        .merge_json(&serde_json::json!({ "text": "the slow \u{1f98a} fox", "list": [1, "two"] }))
        .unwrap();
    pending(&mut author);
    let snapshot = author.snapshot().unwrap();
    view(&mut author).splice(4, 4, "brown").unwrap();
    author
        .json()
        .unwrap()
        .put(
            &["list".into(), 1.into()],
            &serde_json::json!({ "deep": [null, 2.5] }),
        )
        .unwrap();
    (snapshot, update(&mut author))
}

/// Whatever the bytes did, the document either works or says that it must be rebuilt.
fn probe(doc: &mut Doc, outcome: Result<Applied, CrdtError>) {
    if outcome == Err(CrdtError::Panicked) {
        assert_eq!(doc.version().err(), Some(CrdtError::Poisoned));
    }
    let results = [
        doc.text().unwrap().text().map(drop),
        doc.json().unwrap().to_json().map(drop),
        doc.content_digest().map(drop),
        doc.snapshot().map(drop),
        ByReplica::of_text(doc.attribution().unwrap()).map(drop),
        doc.attribution()
            .unwrap()
            .of_values(&mut ByReplica::default())
            .map(drop),
    ];
    for result in results {
        match result {
            Ok(())
            | Err(
                CrdtError::Poisoned | CrdtError::Panicked | CrdtError::Engine | CrdtError::TooLarge,
            ) => {}
            Err(other) => panic!("unexpected {other}"),
        }
    }
}

fn flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..bytes.len())
        .flat_map(|index| [0x01, 0x40, 0x80, 0xff].map(|mask| (index, mask)))
        .map(|(index, mask)| {
            let mut flipped = bytes.to_vec();
            flipped[index] ^= mask;
            flipped
        })
}

#[test]
fn every_byte_flip_and_truncation_of_an_update_is_contained() {
    for kind in KINDS {
        let (snapshot, update) = scenario(kind);
        let truncations = (0..update.len()).map(|length| update[..length].to_vec());
        for bytes in flips(&update).chain(truncations) {
            let mut doc = reload(kind, &snapshot, 2);
            let _ = doc.inspect(&bytes);
            let outcome = doc.apply(&[&bytes]);
            probe(&mut doc, outcome);
        }
    }
}

#[test]
fn truncated_updates_are_always_malformed() {
    for kind in KINDS {
        let (snapshot, update) = scenario(kind);
        let mut doc = reload(kind, &snapshot, 2);
        let before = digest(&mut doc);
        for length in 0..update.len() {
            assert_eq!(
                doc.inspect(&update[..length]).err(),
                Some(CrdtError::Malformed),
                "{kind} {length}"
            );
            assert_eq!(
                doc.apply(&[&update[..length]]).err(),
                Some(CrdtError::Malformed),
                "{kind} {length}"
            );
        }
        for garbage in [&[0][..], b"\x85\x6f\x4a\x83", &update] {
            let longer = [&update[..], garbage].concat();
            if kind == CrdtKind::Yjs || garbage.len() < 10 {
                assert_eq!(
                    doc.apply(&[&longer]).err(),
                    Some(CrdtError::Malformed),
                    "{kind}"
                );
            }
        }
        assert_eq!(digest(&mut doc), before);
        assert_eq!(apply_all(&mut doc, &[update]), Applied::Complete);
    }
}

#[test]
fn every_byte_flip_and_truncation_of_a_snapshot_is_contained() {
    for kind in KINDS {
        let (snapshot, update) = scenario(kind);
        let truncations = (0..snapshot.len()).map(|length| snapshot[..length].to_vec());
        for bytes in flips(&snapshot).chain(truncations) {
            if let Ok(mut doc) = load(kind, &bytes, replica(kind, 2)) {
                let outcome = doc.apply(&[&update]);
                probe(&mut doc, outcome);
            }
        }
    }
}

#[test]
fn a_checksum_is_never_taken_on_trust() {
    let kind = CrdtKind::Automerge;
    let (snapshot, update) = scenario(kind);
    let mut doc = reload(kind, &snapshot, 2);
    for flipped in flips(&update) {
        assert!(matches!(
            doc.apply(&[&flipped]),
            Err(CrdtError::Malformed | CrdtError::TooLarge)
        ));
    }
    for flipped in flips(&snapshot) {
        assert!(load(kind, &flipped, replica(kind, 3)).is_err());
    }
    assert_eq!(apply_all(&mut doc, &[update]), Applied::Complete);
}

/// Writes the right checksum into a change or document chunk, as any member can.
fn repair(chunk: &mut [u8]) {
    // The body begins after magic, checksum, type and a length of one or two bytes.
    let body = if chunk[9] & 0x80 == 0 { 10 } else { 11 };
    let mut hash = Sha256::new();
    hash.update(&chunk[8..body]);
    hash.update(&chunk[body..]);
    let hash = hash.finalize();
    chunk[4..8].copy_from_slice(&hash[..4]);
}

#[test]
fn changes_with_repaired_checksums_are_contained() {
    let kind = CrdtKind::Automerge;
    let (snapshot, _) = scenario(kind);
    let mut author = reload(kind, &snapshot, 5);
    view(&mut author).splice(0, 3, "A").unwrap();
    author
        .json()
        .unwrap()
        .put(&["k".into()], &serde_json::json!({ "a": [true, "b"] }))
        .unwrap();
    let update = update(&mut author);
    assert_eq!(update[8], 1, "an uncompressed change chunk");
    let mut refused = 0;
    for mut flipped in flips(&update) {
        if flipped[..4] != update[..4] || flipped[8..11] != update[8..11] {
            continue;
        }
        repair(&mut flipped);
        let mut doc = reload(kind, &snapshot, 2);
        let outcome = doc.apply(&[&flipped]);
        refused += usize::from(outcome == Err(CrdtError::Malformed));
        probe(&mut doc, outcome);
    }
    assert!(refused > 0);
}

#[test]
fn snapshots_with_repaired_checksums_are_contained() {
    let kind = CrdtKind::Automerge;
    let (snapshot, update) = scenario(kind);
    assert_eq!(snapshot[8], 0, "a document chunk");
    for mut flipped in flips(&snapshot) {
        if flipped[..4] != snapshot[..4] || flipped[8..11] != snapshot[8..11] {
            continue;
        }
        repair(&mut flipped);
        if let Ok(mut doc) = load(kind, &flipped, replica(kind, 2)) {
            let outcome = doc.apply(&[&update]);
            probe(&mut doc, outcome);
        }
    }
}

/// Two replicas that share an id and write different things.
fn forked(kind: CrdtKind) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let mut base = new(kind, 1);
    insert(&mut base, 0, "base ");
    pending(&mut base);
    let snapshot = base.snapshot().unwrap();
    let (mut left, mut right) = (reload(kind, &snapshot, 7), reload(kind, &snapshot, 7));
    insert(&mut left, 5, "left");
    insert(&mut right, 5, "rite");
    (snapshot, update(&mut left), update(&mut right))
}

#[test]
fn a_second_operation_under_a_known_id_is_equivocation() {
    for kind in KINDS {
        let (snapshot, left, right) = forked(kind);
        let mut doc = reload(kind, &snapshot, 2);
        assert_eq!(
            apply_all(&mut doc, std::slice::from_ref(&left)),
            Applied::Complete
        );
        let before = digest(&mut doc);
        assert_eq!(
            doc.apply(&[&right]).err(),
            Some(CrdtError::Equivocation),
            "{kind}"
        );
        assert_eq!(digest(&mut doc), before);
        assert_eq!(
            apply_all(&mut doc, std::slice::from_ref(&left)),
            Applied::Duplicate
        );
        // In one batch.
        let mut doc = reload(kind, &snapshot, 3);
        assert_eq!(
            doc.apply(&[&left, &right]).err(),
            Some(CrdtError::Equivocation),
            "{kind}"
        );
    }
}

#[test]
fn a_second_operation_under_a_waiting_id_is_equivocation() {
    for kind in KINDS {
        let (_, left, right) = forked(kind);
        // Without the base both wait.
        let mut doc = new(kind, 2);
        assert_eq!(
            apply_all(&mut doc, std::slice::from_ref(&left)),
            Applied::Pending,
            "{kind}"
        );
        assert_eq!(
            doc.apply(&[&right]).err(),
            Some(CrdtError::Equivocation),
            "{kind}"
        );
        assert_eq!(apply_all(&mut doc, &[left]), Applied::Pending);
    }
}

#[test]
fn longer_histories_are_compared_where_they_overlap() {
    let kind = CrdtKind::Yjs;
    let (snapshot, left, _) = forked(kind);
    let mut doc = reload(kind, &snapshot, 2);
    apply_all(&mut doc, &[left]);
    // Starts like the known operations, goes on with more, and differs in the middle.
    let mut other = reload(kind, &snapshot, 7);
    insert(&mut other, 5, "leXt and more");
    let other = update(&mut other);
    assert_eq!(doc.apply(&[&other]).err(), Some(CrdtError::Equivocation));
    let mut same = reload(kind, &snapshot, 7);
    insert(&mut same, 5, "left and more");
    assert_eq!(apply_all(&mut doc, &[update(&mut same)]), Applied::Complete);
    assert_eq!(text(&mut doc), "base left and more");
}

#[test]
fn new_operations_under_the_own_id_are_refused() {
    for kind in KINDS {
        let (mut victim, mut impostor) = (new(kind, 1), new(kind, 1));
        insert(&mut impostor, 0, "not mine");
        let forged = update(&mut impostor);
        assert_eq!(
            victim.apply(&[&forged]).err(),
            Some(CrdtError::Equivocation),
            "{kind}"
        );
        assert_eq!(text(&mut victim), "");
        insert(&mut victim, 0, "mine");
        assert_eq!(
            victim.apply(&[&forged]).err(),
            Some(CrdtError::Equivocation),
            "{kind}"
        );
        let own = update(&mut victim);
        assert_eq!(
            victim.apply(&[&forged]).err(),
            Some(CrdtError::Equivocation),
            "{kind}"
        );
        assert_eq!(apply_all(&mut victim, &[own]), Applied::Duplicate);
        assert_eq!(text(&mut victim), "mine");
    }
}

#[test]
fn sizes_and_replica_counts_are_limited() {
    for kind in KINDS {
        let mut doc = new(kind, 1);
        let long = vec![0; MAX_UPDATE_BYTES + 1];
        assert_eq!(doc.inspect(&long).err(), Some(CrdtError::TooLarge));
        assert_eq!(doc.apply(&[&long]).err(), Some(CrdtError::TooLarge));
        let long = vec![0; MAX_SNAPSHOT_BYTES + 1];
        assert_eq!(
            load(kind, &long, replica(kind, 2)).err(),
            Some(CrdtError::TooLarge)
        );
        assert_eq!(
            load(kind, &[], replica(kind, 2)).err(),
            Some(CrdtError::Malformed)
        );

        // One update under too many ids.
        let mut crowd = new(kind, 200);
        let version = crowd.version().unwrap();
        for n in 2..=MAX_REPLICAS_PER_UPDATE as u8 + 2 {
            let mut member = new(kind, n);
            insert(&mut member, 0, "x");
            apply_all(&mut crowd, &pending(&mut member));
        }
        let diff = crowd.diff_since(&version).unwrap();
        assert_eq!(
            doc.inspect(&diff).err(),
            Some(CrdtError::TooLarge),
            "{kind}"
        );
        assert_eq!(
            doc.apply(&[&diff]).err(),
            Some(CrdtError::TooLarge),
            "{kind}"
        );
        assert_eq!(text(&mut doc), "");
    }
}

/// Puts nearly an update's worth of random bytes under one key.
fn put_noise(doc: &mut Doc, random: &mut Random) {
    let noise: Vec<u8> = (0..900_000).map(|_| random.below(256) as u8).collect();
    let any = doc.as_any_mut();
    if let Some(yjs) = any.downcast_mut::<Yrs>() {
        let map = yjs.doc().get_or_insert_map("noise");
        map.insert(&mut yjs.doc().transact_mut(), "key", yrs::Any::from(noise));
    } else if let Some(automerge) = any.downcast_mut::<Automerge>() {
        automerge
            .doc_mut()
            .put(automerge::ROOT, "key", automerge::ScalarValue::Bytes(noise))
            .unwrap();
    }
}

#[test]
fn the_waiting_room_is_limited() {
    for kind in KINDS {
        let mut author = new(kind, 1);
        insert(&mut author, 0, "the missing operation");
        let missing = update(&mut author);
        let mut random = Random::new(3);
        let mut doc = new(kind, 2);
        let mut kept = Vec::new();
        let refused = loop {
            put_noise(&mut author, &mut random);
            let update = update(&mut author);
            match doc.apply(&[&update]) {
                Ok(outcome) => assert_eq!(outcome, Applied::Pending),
                Err(error) => {
                    assert_eq!(error, CrdtError::MissingDependency);
                    assert!(error.is_retryable());
                    break update;
                }
            }
            kept.push(update);
            assert!(kept.len() * 900_000 <= MAX_WAITING_BYTES, "{kind}");
        };
        assert!(doc.has_missing() && kept.len() > 10);
        assert_eq!(text(&mut doc), "");
        // What was refused can come again once there is room.
        assert_eq!(apply_all(&mut doc, &[missing]), Applied::Complete);
        assert_eq!(apply_all(&mut doc, &[refused]), Applied::Complete, "{kind}");
        assert_eq!(digest(&mut doc), digest(&mut author));
    }
}

#[test]
fn a_document_nested_too_deeply_is_refused_before_the_engine_sees_it() {
    // Client 9: a map in the root map `root`, then maps each inside the one before.
    let mut blocks = vec![7u8, 1, 4, b'r', b'o', b'o', b't', 1];
    blocks[0] |= 0x20;
    blocks.splice(7..7, [1, b'k']);
    let depth = 100_000u32;
    for clock in 0..depth - 1 {
        blocks.extend([0x27, 0, 9]);
        write_uint(&mut blocks, clock);
        blocks.extend([1, b'k', 1]);
    }
    let mut update = vec![1];
    write_uint(&mut update, depth);
    update.extend([9, 0]);
    update.extend(&blocks);
    update.push(0);
    let mut doc = new(CrdtKind::Yjs, 1);
    assert!(doc.inspect(&update).is_ok());
    assert_eq!(doc.apply(&[&update]).err(), Some(CrdtError::TooLarge));
    assert_eq!(
        load(CrdtKind::Yjs, &update, replica(CrdtKind::Yjs, 2)).err(),
        Some(CrdtError::TooLarge)
    );
    insert(&mut doc, 0, "still usable");
}

fn write_uint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[test]
fn an_item_inside_something_that_is_no_type_poisons_the_document() {
    // Client 9 puts a character into the character 1:0.
    let mut author = new(CrdtKind::Yjs, 1);
    insert(&mut author, 0, "a");
    let base = update(&mut author);
    let client = author.inspect(&base).unwrap().info.ranges[0]
        .replica
        .clone();
    let client = u64::from_be_bytes(client.as_bytes().try_into().unwrap());
    let mut update = vec![1, 1, 9, 0, 4, 0];
    let mut rest = client;
    while rest >= 0x80 {
        update.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    update.extend([rest as u8, 0, 1, b'x', 0]);
    let mut doc = new(CrdtKind::Yjs, 2);
    apply_all(&mut doc, &[base]);
    assert_eq!(doc.apply(&[&update]).err(), Some(CrdtError::Malformed));
    assert_eq!(doc.apply(&[]).err(), Some(CrdtError::Poisoned));
    assert_eq!(
        doc.take_pending(&mut Vec::new()).err(),
        Some(CrdtError::Poisoned)
    );
    assert_eq!(doc.text().unwrap().text().err(), Some(CrdtError::Poisoned));
    assert_eq!(
        doc.set_replica(replica(CrdtKind::Yjs, 5)).err(),
        Some(CrdtError::Poisoned)
    );
}

#[test]
fn errors_have_stable_codes_and_say_nothing_of_the_document() {
    let all = [
        CrdtError::Malformed,
        CrdtError::MissingDependency,
        CrdtError::Equivocation,
        CrdtError::Panicked,
        CrdtError::TooLarge,
        CrdtError::Poisoned,
        CrdtError::Engine,
        CrdtError::InvalidArgument,
    ];
    let mut codes: Vec<&str> = all.iter().map(CrdtError::code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), all.len());
    assert_eq!(all.iter().filter(|error| error.is_retryable()).count(), 1);
}
