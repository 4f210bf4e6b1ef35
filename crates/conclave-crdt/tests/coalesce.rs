//! Own updates that nobody has yet, as few that say the same.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use conclave_crdt::CrdtKind;
use conclave_crdt::limits::MAX_UPDATE_BYTES;

fn coalesce(doc: &Doc, updates: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
    doc.coalesce(&updates).unwrap()
}

fn holds(updates: &[Vec<u8>], bytes: &[u8]) -> bool {
    let mut updates = updates.iter();
    updates.any(|update| update.windows(bytes.len()).any(|it| it == bytes))
}

/// Each update is in order, of at most one range of each replica, which begins where the last one ended.
fn check_ranges(kind: CrdtKind, seed: &[u8], updates: &[Vec<u8>]) {
    let mut reader = reload(kind, seed, 77);
    for update in updates {
        assert!(update.len() <= MAX_UPDATE_BYTES);
        let ranges = reader.inspect(update).unwrap().info.ranges;
        for (at, range) in ranges.iter().enumerate() {
            assert_eq!(reader.next_counter(&range.replica), range.start, "{kind}");
            let mut before = ranges[..at].iter();
            assert!(before.all(|it| it.replica != range.replica), "{kind}");
        }
        apply_all(&mut reader, std::slice::from_ref(update));
        assert!(!reader.has_missing());
    }
}

#[test]
fn what_is_typed_letter_by_letter_is_one_update_of_its_length() {
    for kind in KINDS {
        let mut alice = new(kind, 1);
        insert(&mut alice, 0, "Written before. ");
        let mut bob = new(kind, 2);
        apply_all(&mut bob, &pending(&mut alice));
        let (start, mut drafts) = (text(&mut bob).chars().count(), Vec::new());
        for at in 0..100 {
            insert(&mut bob, start + at, "x");
            drafts.extend(pending(&mut bob));
        }
        assert_eq!(drafts.len(), 100);
        let one = coalesce(&bob, &drafts);
        assert_eq!(one.len(), 1, "{kind}");
        let all: usize = drafts.iter().map(Vec::len).sum();
        match kind {
            CrdtKind::Yjs => assert!(one[0].len() <= 124, "{} of {all}", one[0].len()),
            _ => assert_eq!(one[0].len(), all),
        }
        apply_all(&mut alice, &one);
        assert_eq!(digest(&mut alice), digest(&mut bob), "{kind}");
    }
}

#[test]
fn what_was_typed_and_deleted_again_does_not_leave() {
    let mut alice = new(CrdtKind::Yjs, 1);
    insert(&mut alice, 0, "to be \u{1f600} seen");
    let mut drafts = pending(&mut alice);
    insert(&mut alice, 6, "a secret, ");
    drafts.extend(pending(&mut alice));
    view(&mut alice).splice(6, 10, "").unwrap();
    drafts.extend(pending(&mut alice));
    // What was typed together with what stays, too; and half of it.
    insert(&mut alice, 0, "hidden shown ");
    drafts.extend(pending(&mut alice));
    view(&mut alice).splice(0, 7, "").unwrap();
    drafts.extend(pending(&mut alice));
    assert!(holds(&drafts, b"secret") && holds(&drafts, b"hidden"));
    let few = coalesce(&alice, &drafts);
    assert_eq!(few.len(), 1);
    for gone in [&b"secret"[..], b"hidden"] {
        assert!(!holds(&few, gone));
    }
    let mut bob = new(CrdtKind::Yjs, 2);
    apply_all(&mut bob, &few);
    assert_eq!(text(&mut bob), "shown to be \u{1f600} seen");
    assert_eq!(digest(&mut bob), digest(&mut alice));
}

#[test]
fn many_changes_of_automerge_are_one_update() {
    let mut alice = new(CrdtKind::Automerge, 1);
    let mut drafts = Vec::new();
    for at in 0..1_000 {
        insert(&mut alice, at, "y");
        drafts.extend(pending(&mut alice));
    }
    assert_eq!(drafts.len(), 1_000);
    assert_eq!(coalesce(&alice, &drafts).len(), 1);
}

#[test]
fn what_is_longer_than_an_update_is_cut() {
    let kind = CrdtKind::Yjs;
    let mut alice = new(kind, 1);
    let mut drafts = Vec::new();
    for at in 0..6 {
        let word = char::from(b'a' + at).to_string().repeat(300_000);
        let end = view(&mut alice).len().unwrap();
        insert(&mut alice, end, &word);
        drafts.extend(pending(&mut alice));
    }
    let few = coalesce(&alice, &drafts);
    assert_eq!(few.len(), 2);
    check_ranges(kind, &new(kind, 9).snapshot().unwrap(), &few);
}

/// Others write meanwhile, the document is loaded again under another id, and texts, lists and keys are written and deleted.
#[test]
fn they_say_the_same() {
    for kind in KINDS {
        for seed in 0..60 {
            let mut random = Random::new(seed);
            let mut other = new(kind, 2);
            insert(&mut other, 0, "The quick brown fox jumps over the lazy dog");
            let list = serde_json::json!({"list": [1, 2, 3], "name": "x"});
            other.json().unwrap().merge_json(&list).unwrap();
            let mut mine = new(kind, 1);
            apply_all(&mut mine, &pending(&mut other));
            let base = mine.snapshot().unwrap();
            let mut reader = reload(kind, &base, 9);
            let mut straight = reload(kind, &base, 8);
            let (mut drafts, mut of_others) = (Vec::new(), Vec::new());
            for step in 0..40 {
                match random.below(10) {
                    0 => {
                        random.edit(&mut other);
                        let update = pending(&mut other);
                        apply_all(&mut mine, &update);
                        of_others.extend(update);
                    }
                    1 => {
                        let snapshot = mine.snapshot().unwrap();
                        mine = reload(kind, &snapshot, 100 + step);
                    }
                    2 | 3 => {
                        let mut json = mine.json().unwrap().to_json().unwrap();
                        json["list"] = (0..random.below(6)).collect();
                        json["name"] = format!("n{}", random.below(9)).into();
                        json["n"] = random.below(5).into();
                        mine.json().unwrap().merge_json(&json).unwrap();
                    }
                    _ => random.edit(&mut mine),
                }
                drafts.extend(pending(&mut mine));
            }
            // First what came, then what was written.
            apply_all(&mut reader, &of_others);
            apply_all(&mut straight, &of_others);
            let few = coalesce(&mine, &drafts);
            assert!(few.len() <= drafts.len());
            check_ranges(kind, &reader.snapshot().unwrap(), &few);
            apply_all(&mut reader, &few);
            apply_all(&mut straight, &drafts);
            assert!(!reader.has_missing());
            assert_eq!(digest(&mut reader), digest(&mut mine), "{kind} {seed}");
            assert_eq!(digest(&mut reader), digest(&mut straight), "{kind} {seed}");
            let visible = |doc: &mut Doc| doc.visible_digest().unwrap();
            assert_eq!(visible(&mut reader), visible(&mut mine), "{kind} {seed}");
        }
    }
}

/// A record ends its padding with one byte more than it holds.
#[test]
fn what_came_together_leaves_room_for_the_end_of_a_record() {
    for about in MAX_UPDATE_BYTES - 40..=MAX_UPDATE_BYTES {
        let mut alice = new(CrdtKind::Yjs, 1);
        let half = about / 2;
        insert(&mut alice, 0, &"a".repeat(half));
        let mut drafts = pending(&mut alice);
        insert(&mut alice, half, &"a".repeat(about - half));
        drafts.extend(pending(&mut alice));
        let few = coalesce(&alice, &drafts);
        let longest = few.iter().map(Vec::len).max().unwrap();
        assert!(longest < MAX_UPDATE_BYTES, "{about}: {longest}");
    }
}
