//! What every kind of document promises, run over all kinds.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use conclave_crdt::limits::MAX_UPDATE_BYTES;
use conclave_crdt::{Applied, ByReplica, CrdtError, CrdtKind, ReplicaId, Version, create};

#[test]
fn pending_holds_own_operations_only_even_when_others_interleave() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        insert(&mut alice, 0, "alice wrote this");
        let from_alice = pending(&mut alice);
        insert(&mut bob, 0, "bob ");
        apply_all(&mut bob, &from_alice);
        view(&mut bob).splice(0, 3, "Bob").unwrap();
        let from_bob = pending(&mut bob);
        assert!(!from_bob.is_empty());
        for update in &from_bob {
            for range in bob.inspect(update).unwrap().info.ranges {
                assert_eq!(range.replica, replica(kind, 2), "{kind}");
            }
        }
        assert!(pending(&mut bob).is_empty());
        apply_all(&mut alice, &from_bob);
        assert_eq!(text(&mut alice), text(&mut bob));
        assert_eq!(digest(&mut alice), digest(&mut bob), "{kind}");
        assert!(pending(&mut alice).is_empty(), "applying is not writing");
    }
}

#[test]
fn deletions_by_others_do_not_leak_into_pending() {
    for kind in KINDS {
        let (mut alice, mut bob, mut carol) = (new(kind, 1), new(kind, 2), new(kind, 3));
        insert(&mut alice, 0, "0123456789");
        let seed = pending(&mut alice);
        apply_all(&mut bob, &seed);
        apply_all(&mut carol, &seed);
        view(&mut bob).splice(0, 3, "").unwrap();
        let bobs_deletion = pending(&mut bob);
        // Carol makes several edits before and after she learns of Bob's deletion.
        view(&mut carol).splice(9, 1, "").unwrap();
        apply_all(&mut carol, &bobs_deletion);
        insert(&mut carol, 6, "!");
        insert(&mut carol, 7, "?");
        let from_carol = pending(&mut carol);
        // Without Bob's update, his deletion must not be visible.
        let applied = apply_all(&mut alice, &from_carol);
        if kind == CrdtKind::Automerge {
            // An Automerge change depends on all its author had seen.
            assert_eq!(applied, Applied::Pending);
        } else {
            assert_eq!(text(&mut alice), "012345678!?");
        }
        apply_all(&mut alice, &bobs_deletion);
        assert_eq!(digest(&mut alice), digest(&mut carol), "{kind}");
    }
}

#[test]
fn inspect_and_next_counter_agree() {
    for kind in KINDS {
        let first = if kind == CrdtKind::Yjs { 0 } else { 1 };
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        let me = replica(kind, 1);
        assert_eq!(bob.next_counter(&me), first);
        for round in 0..3 {
            insert(&mut alice, 0, "word ");
            let update = update(&mut alice);
            let info = bob.inspect(&update).unwrap().info;
            assert_eq!(info.ranges.len(), 1);
            assert_eq!(info.ranges[0].replica, me);
            assert_eq!(
                info.ranges[0].start,
                bob.next_counter(&me),
                "{kind} round {round}"
            );
            assert!(!info.has_deletes);
            assert_eq!(apply_all(&mut bob, &[update]), Applied::Complete);
            assert_eq!(info.ranges[0].end, bob.next_counter(&me));
            assert_eq!(alice.next_counter(&me), bob.next_counter(&me));
        }
        view(&mut alice).splice(0, 2, "").unwrap();
        let deletion = update(&mut alice);
        assert!(bob.inspect(&deletion).unwrap().info.has_deletes);
        assert_eq!(bob.next_counter(&replica(kind, 9)), first);
    }
}

#[test]
fn what_was_inspected_is_applied_as_what_was_not() {
    for kind in KINDS {
        let (mut alice, mut bob, mut carol) = (new(kind, 1), new(kind, 2), new(kind, 3));
        insert(&mut alice, 0, "some words");
        let one = update(&mut alice);
        view(&mut alice).splice(2, 3, "x").unwrap();
        let two = update(&mut alice);
        for update in [&two, &one, &two] {
            let read = bob.inspect(update).unwrap();
            let applied = bob.apply_inspected(vec![(update, read)]);
            assert_eq!(applied, carol.apply(&[update]), "{kind}");
        }
        assert_eq!(digest(&mut bob), digest(&mut carol), "{kind}");
        assert_eq!(text(&mut bob), text(&mut alice), "{kind}");
        let read = bob.inspect(&one).unwrap();
        let mut own = new(kind, 1);
        assert_eq!(
            own.apply_inspected(vec![(&one, read)]),
            Err(CrdtError::Equivocation),
            "{kind}"
        );
    }
}

#[test]
fn duplicates_change_nothing() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        insert(&mut alice, 0, "hello");
        let one = update(&mut alice);
        view(&mut alice).splice(1, 2, "\u{1f600}").unwrap();
        let two = update(&mut alice);
        assert_eq!(
            apply_all(&mut bob, &[one.clone(), two.clone()]),
            Applied::Complete
        );
        let before = digest(&mut bob);
        assert_eq!(
            apply_all(&mut bob, std::slice::from_ref(&two)),
            Applied::Duplicate,
            "{kind}"
        );
        assert_eq!(
            apply_all(&mut bob, &[one.clone(), two.clone(), one.clone()]),
            Applied::Duplicate,
            "{kind}"
        );
        assert_eq!(digest(&mut bob), before);
        // The author too may see its own updates again.
        assert_eq!(
            apply_all(&mut alice, &[one, two]),
            Applied::Duplicate,
            "{kind}"
        );
        assert_eq!(digest(&mut alice), before);
        assert_eq!(bob.apply(&[]).unwrap(), Applied::Duplicate);
    }
}

#[test]
fn operations_wait_for_what_they_depend_on() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        let me = replica(kind, 1);
        let mut updates = Vec::new();
        for word in ["one ", "two ", "three "] {
            let end = view(&mut alice).len().unwrap();
            insert(&mut alice, end, word);
            updates.push(update(&mut alice));
        }
        view(&mut alice).splice(0, 4, "").unwrap();
        updates.push(update(&mut alice));
        let start = bob.next_counter(&me);
        for late in [3, 2, 1] {
            assert_eq!(
                apply_all(&mut bob, &[updates[late].clone()]),
                Applied::Pending,
                "{kind} {late}"
            );
            assert!(bob.has_missing());
            assert_eq!(text(&mut bob), "");
            assert_eq!(bob.next_counter(&me), start);
        }
        let mut copy = reload(kind, &bob.snapshot().unwrap(), 3);
        assert!(copy.has_missing(), "{kind}: a snapshot keeps what waits");
        assert_eq!(digest(&mut copy), digest(&mut bob));
        for doc in [&mut bob, &mut copy] {
            assert_eq!(
                apply_all(doc, &[updates[0].clone()]),
                Applied::Complete,
                "{kind}"
            );
            assert!(!doc.has_missing());
            assert_eq!(text(doc), "two three ");
            assert_eq!(digest(doc), digest(&mut alice));
            assert_eq!(doc.next_counter(&me), alice.next_counter(&me));
        }
    }
}

#[test]
fn waiting_operations_count_for_the_next_counter() {
    for kind in KINDS {
        let (mut alice, mut bob, mut carol) = (new(kind, 1), new(kind, 2), new(kind, 3));
        insert(&mut alice, 0, "base");
        let base = update(&mut alice);
        apply_all(&mut bob, std::slice::from_ref(&base));
        insert(&mut bob, 4, "!");
        let one = update(&mut bob);
        insert(&mut bob, 5, "?");
        let two = update(&mut bob);
        assert_eq!(apply_all(&mut carol, &[one]), Applied::Pending);
        let next = carol.inspect(&two).unwrap().info.ranges[0].start;
        assert_eq!(carol.next_counter(&replica(kind, 2)), next, "{kind}");
        assert_eq!(
            apply_all(&mut carol, &[two.clone(), two, base]),
            Applied::Complete
        );
        assert_eq!(digest(&mut carol), digest(&mut bob));
    }
}

#[test]
fn a_diff_brings_another_replica_up_to_date() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        insert(&mut alice, 0, "shared");
        apply_all(&mut bob, &pending(&mut alice));
        let version = bob.version().unwrap();
        assert_eq!(version, alice.version().unwrap());
        insert(&mut alice, 3, "--");
        view(&mut alice).splice(0, 1, "").unwrap();
        let diff = alice.diff_since(&version).unwrap();
        bob.apply(&[&diff]).unwrap();
        assert_eq!(digest(&mut bob), digest(&mut alice), "{kind}");
        // A whole new replica.
        let mut carol = new(kind, 3);
        let everything = alice.diff_since(&carol.version().unwrap()).unwrap();
        carol.apply(&[&everything]).unwrap();
        assert_eq!(digest(&mut carol), digest(&mut alice), "{kind}");
        assert_eq!(carol.version().unwrap(), alice.version().unwrap());
        for bad in [vec![1], vec![0xff; 33], vec![2, 1, 1]] {
            assert_eq!(
                alice.diff_since(&Version::from_bytes(bad)).err(),
                Some(CrdtError::Malformed),
                "{kind}"
            );
        }
    }
}

#[test]
fn snapshots_restore_everything() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        for word in ["the ", "quick \u{1f98a} ", "fox"] {
            let end = view(&mut alice).len().unwrap();
            insert(&mut alice, end, word);
        }
        view(&mut alice).splice(4, 3, "").unwrap();
        // Unsent edits are in the snapshot as well.
        let snapshot = alice.snapshot().unwrap();
        let mut copy = reload(kind, &snapshot, 3);
        assert_eq!(text(&mut copy), text(&mut alice));
        assert_eq!(digest(&mut copy), digest(&mut alice), "{kind}");
        assert!(pending(&mut copy).is_empty());
        // The copy continues.
        insert(&mut copy, 0, "> ");
        apply_all(&mut bob, &pending(&mut alice));
        apply_all(&mut bob, &pending(&mut copy));
        assert_eq!(digest(&mut bob), digest(&mut copy), "{kind}");
        assert_eq!(bob.kind(), kind);
    }
}

#[test]
fn a_digest_depends_on_content_and_on_nothing_else() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        assert_eq!(
            digest(&mut alice),
            digest(&mut bob),
            "{kind}: empty documents are equal"
        );
        insert(&mut alice, 0, "abc");
        let before = digest(&mut alice);
        apply_all(&mut bob, &pending(&mut alice));
        assert_eq!(digest(&mut bob), before);
        view(&mut bob).splice(2, 1, "").unwrap();
        assert_ne!(digest(&mut bob), before, "{kind}: a deletion shows");
        let mut carol = new(kind, 3);
        insert(&mut carol, 0, "abc");
        assert_ne!(
            digest(&mut carol),
            before,
            "{kind}: the same text by someone else is something else"
        );
    }
}

#[test]
fn a_replica_id_can_be_changed_between_edits() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        insert(&mut alice, 0, "one");
        assert_eq!(
            alice.set_replica(replica(kind, 4)).err(),
            Some(CrdtError::Engine),
            "{kind}: pending"
        );
        let mut updates = pending(&mut alice);
        assert_eq!(
            alice.set_replica(replica(kind, 1)).err(),
            Some(CrdtError::Engine),
            "{kind}: used"
        );
        alice.set_replica(replica(kind, 4)).unwrap();
        assert_eq!(*alice.replica(), replica(kind, 4));
        assert_eq!(text(&mut alice), "one");
        insert(&mut alice, 3, " two");
        let after = pending(&mut alice);
        assert!(after.iter().all(|u| {
            alice
                .inspect(u)
                .unwrap()
                .info
                .ranges
                .iter()
                .all(|r| r.replica == replica(kind, 4))
        }));
        updates.extend(after);
        apply_all(&mut bob, &updates);
        assert_eq!(text(&mut bob), "one two");
        assert_eq!(digest(&mut bob), digest(&mut alice), "{kind}");
        let names = ByReplica::of_text(bob.attribution().unwrap()).unwrap();
        assert_eq!(
            names,
            vec![(replica(kind, 1), 3), (replica(kind, 4), 4)],
            "{kind}"
        );
    }
}

#[test]
fn attribution_names_the_writer_of_every_character() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        insert(&mut alice, 0, "ab\u{1f600}cd");
        apply_all(&mut bob, &pending(&mut alice));
        view(&mut bob).splice(2, 1, "\u{1f98a}\u{1f98a}").unwrap();
        apply_all(&mut alice, &pending(&mut bob));
        let expected = [(1, 2), (2, 2), (1, 2)];
        for doc in [&mut alice, &mut bob] {
            let runs = ByReplica::of_text(doc.attribution().unwrap()).unwrap();
            let expected: Vec<_> = expected
                .iter()
                .map(|(n, chars)| (replica(kind, *n), *chars))
                .collect();
            assert_eq!(runs, expected, "{kind}");
            assert!(pending(doc).is_empty(), "reading is not writing");
        }
    }
}

#[test]
fn many_edits_are_sent_as_one_small_update() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        for i in 0..100 {
            insert(&mut alice, i, "x");
        }
        let update = update(&mut alice);
        assert!(update.len() < 400, "{kind}: {}", update.len());
        apply_all(&mut bob, &[update]);
        assert_eq!(digest(&mut bob), digest(&mut alice), "{kind}");
    }
}

#[test]
fn large_edits_are_cut_into_updates_that_others_accept() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        // Hardly compressible, and longer than an update.
        let mut random = Random::new(5);
        let large: String = (0..1_200_000)
            .map(|_| char::from_u32(0x4e00 + random.below(0x5000) as u32).unwrap())
            .collect();
        insert(&mut alice, 0, "ends");
        apply_all(&mut bob, &pending(&mut alice));
        insert(&mut alice, 2, &large);
        view(&mut alice).splice(1_000_000, 5, "").unwrap();
        let updates = pending(&mut alice);
        assert!(updates.len() > 1, "{kind}");
        assert!(
            updates
                .iter()
                .all(|update| update.len() <= MAX_UPDATE_BYTES)
        );
        for update in updates {
            assert_eq!(apply_all(&mut bob, &[update]), Applied::Complete, "{kind}");
        }
        assert!(text(&mut bob) == text(&mut alice));
        assert_eq!(digest(&mut bob), digest(&mut alice), "{kind}");
    }
}

#[test]
fn ids_of_the_wrong_shape_are_refused() {
    assert!(ReplicaId::from_bytes(&[]).is_err());
    assert!(ReplicaId::from_bytes(&[1; 65]).is_err());
    let not_a_client = ReplicaId::from_bytes(&[0xff; 8]).unwrap();
    assert_eq!(
        create(CrdtKind::Yjs, not_a_client).err(),
        Some(CrdtError::Malformed)
    );
    let bootstrap = ReplicaId::from_bytes(&[0; 16]).unwrap();
    assert_eq!(
        create(CrdtKind::Automerge, bootstrap).err(),
        Some(CrdtError::Malformed)
    );
    for kind in KINDS {
        assert!(create(kind, ReplicaId::for_kind(kind, [0; 16])).is_ok());
        assert!(create(kind, ReplicaId::for_kind(kind, [0xff; 16])).is_ok());
        assert_eq!(CrdtKind::from_code(kind.code()), Some(kind));
        assert_eq!(kind.to_string().parse::<CrdtKind>(), Ok(kind));
    }
    assert_eq!(CrdtKind::from_code(3), None);
    let id = ReplicaId::from_bytes(&[1, 0xab]).unwrap();
    assert_eq!(format!("{id:?} {id}"), "ReplicaId(01ab) 01ab");
}
