//! Drafts: what is written while sending is paused rests here, and goes out in as few records as hold it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use conclave_crdt::{Crdt, CrdtError, CrdtKind};
use conclave_doc::*;
use conclave_proto::*;

const TWO: [(u8, Role); 2] = [(1, Role::Owner), (2, Role::Editor)];
const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];

fn two(kind: CrdtKind) -> Sim {
    let mut sim = Sim::new(kind, &TWO, "hello");
    sim.settle();
    sim.peers.iter_mut().for_each(Peer::store);
    sim
}

fn keep(peer: &mut Peer, keep: bool) {
    peer.doc.keep_drafts(keep, peer.session.as_ref()).unwrap();
}

/// What the engine does once all of the log is here.
fn resume(peer: &mut Peer) {
    keep(peer, false);
    let outcome = peer.doc.queue_drafts().unwrap();
    peer.note(outcome);
    peer.store();
}

fn append_to(peer: &mut Peer, text: &str) {
    let end = peer.text().chars().count();
    peer.insert(end, text);
}

fn rows(peer: &Peer, prefix: u8) -> usize {
    let keys = peer.rows.keys();
    keys.filter(|key| key.first() == Some(&prefix)).count()
}

#[test]
fn drafts_have_no_place_and_survive_a_crash() {
    for kind in KINDS {
        let mut sim = two(kind);
        keep(&mut sim.peers[1], true);
        for _ in 0..100 {
            append_to(&mut sim.peers[1], "x");
        }
        sim.peers[1].store();
        sim.settle();
        assert_eq!(sim.service.size(), 1, "{kind}: nothing is sent");
        assert_eq!(sim.peers[1].doc.pending_count(), 100);
        assert_eq!(sim.peers[1].doc.unsent_count(), 100);
        assert_eq!(
            (rows(&sim.peers[1], b'q'), rows(&sim.peers[1], b'o')),
            (100, 0)
        );
        let written = sim.peers[1].text();
        sim.restart(1);
        assert_eq!(sim.peers[1].text(), written);
        assert_eq!(sim.peers[1].doc.drafts().0, 100);
        // Somebody else goes on, and so does this one, under another replica id.
        keep(&mut sim.peers[1], true);
        append_to(&mut sim.peers[1], "y");
        sim.peers[0].insert(0, "Others: ");
        sim.connect(1);
        sim.settle();
        assert_eq!(sim.service.size(), 2);
        assert!(sim.peers[1].text().starts_with("Others: hello"));
        resume(&mut sim.peers[1]);
        let few = sim.peers[1].doc.pending_count();
        assert_eq!(
            few,
            if kind == CrdtKind::Yjs { 2 } else { 1 },
            "{kind}: one of each id"
        );
        assert_eq!(
            (rows(&sim.peers[1], b'q'), rows(&sim.peers[1], b'o')),
            (0, few)
        );
        sim.settle();
        assert_eq!(sim.service.size(), 2 + few as u64);
        sim.assert_converged();
        sim.assert_no_findings();
        assert!(sim.peers[0].text().ends_with("xxy"));
    }
}

#[test]
fn what_is_on_its_way_goes_on_and_what_was_only_queued_rests() {
    let mut sim = two(CrdtKind::Yjs);
    sim.peers[1].insert(0, "sent ");
    assert!(sim.send(1, 64 * 1024));
    sim.peers[1].insert(0, "queued ");
    keep(&mut sim.peers[1], true);
    assert_eq!(sim.peers[1].doc.drafts().0, 1);
    sim.settle();
    assert_eq!(sim.service.size(), 2);
    assert_eq!(sim.peers[0].text(), "sent hello");
    assert_eq!(sim.peers[1].doc.pending_count(), 1);
    resume(&mut sim.peers[1]);
    sim.settle();
    assert_eq!(sim.peers[0].text(), "queued sent hello");
    sim.assert_converged();
}

#[test]
fn what_was_sent_before_the_pause_is_sealed_for_a_new_epoch_and_drafts_for_the_one_at_the_end() {
    let mut sim = two(CrdtKind::Yjs);
    keep(&mut sim.peers[1], true);
    sim.peers[1].insert(0, "a");
    // A removal, say: nothing of the pause is in its way.
    sim.world.rekey();
    sim.advance_epochs();
    sim.peers[1].insert(0, "b");
    sim.world.rekey();
    sim.advance_epochs();
    resume(&mut sim.peers[1]);
    sim.settle();
    assert_eq!(sim.service.size(), 2, "one record");
    assert_eq!(sim.peers[0].doc.epoch_high(), 2);
    assert_eq!(sim.peers[0].text(), "bahello");
    sim.assert_converged();
    sim.assert_no_findings();
}

#[test]
fn a_snapshot_is_made_without_drafts() {
    let mut sim = two(CrdtKind::Yjs);
    keep(&mut sim.peers[1], true);
    sim.peers[1].insert(0, "draft ");
    sim.peers[0].insert(0, "others ");
    sim.settle();
    sim.snapshot(1);
    sim.settle();
    sim.join(0);
    let joined = sim.peers.len() - 1;
    sim.settle();
    assert_eq!(sim.peers[joined].text(), "others hello");
    sim.assert_no_findings();
}

#[test]
fn who_may_not_write_any_more_gets_the_drafts_back() {
    let mut sim = two(CrdtKind::Yjs);
    keep(&mut sim.peers[1], true);
    append_to(&mut sim.peers[1], " draft");
    sim.peers[1].store();
    let unsent = sim.peers[1].doc.unsent().unwrap().unwrap();
    assert_eq!((unsent.changes, unsent.updates.len()), (1, 1));
    assert_eq!(stored_updates(&sim.peers[1].saved_rows()).len(), 1);
    sim.peers[1].doc.drop_unsent().unwrap();
    assert_eq!(sim.peers[1].text(), "hello");
    sim.peers[1].store();
    assert_eq!(rows(&sim.peers[1], b'q'), 0);
}

#[test]
fn more_drafts_than_are_kept_are_refused_and_nothing_is_lost() {
    let mut sim = two(CrdtKind::Yjs);
    let peer = &mut sim.peers[1];
    keep(peer, true);
    let long = "z".repeat(14_000_000);
    let mut taken = 0;
    let refused = loop {
        let mut f = |crdt: &mut dyn Crdt| crdt.text().unwrap().splice(0, 0, &long);
        match peer.doc.edit(&mut f) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((refused.code(), taken), ("pause.full", 4));
    assert!(peer.doc.drafts().1 < DRAFT_BYTES);
    let length = peer.doc.crdt().text().unwrap().len().unwrap();
    assert_eq!(length, 4 * 14_000_000 + 5, "as it was before");
}

/// Each call takes as long as the document is large: what waits after a pause goes in with one.
#[test]
fn what_has_gathered_is_taken_in_by_one_call() {
    for kind in KINDS {
        let mut sim = two(kind);
        sim.disconnect(1);
        for _ in 0..1_000 {
            sim.peers[0].insert(0, "y");
            while sim.send(0, 256) {}
            while sim.receive(0) {}
        }
        assert_eq!(sim.service.size(), 1_001);
        let stored = sim.peers[1].rows.clone();
        for gathers in [false, true] {
            sim.peers[1].rows = stored.clone();
            sim.restart(1);
            if gathers {
                sim.peers[1].doc.gather();
            }
            sim.connect(1);
            let frames: Vec<Net> = sim.peers[1].inbox.drain(..).collect();
            for frame in frames {
                let Net::Deliver(first, records) = frame else {
                    panic!("{frame:?}")
                };
                let pieces = (first..).step_by(64).zip(records.chunks(64));
                let pieces = pieces.map(|(first, piece)| Net::Deliver(first, piece.to_vec()));
                sim.peers[1].inbox.extend(pieces);
            }
            assert!(sim.peers[1].inbox.len() > 10);
            let mut calls = 0;
            while let before = sim.peers[1].doc.size()
                && sim.receive(1)
            {
                calls += usize::from(sim.peers[1].doc.size() != before);
                sim.peers[1].store();
                let written = rows(&sim.peers[1], b'w');
                assert!(written == 0 || !gathers, "{kind}: {written} only to go");
            }
            assert_eq!(calls == 1, gathers, "{kind}: {calls}");
            sim.assert_converged();
        }
        // What comes from then on comes in as it comes.
        sim.peers[0].insert(0, "z");
        sim.settle();
        assert_eq!(sim.peers[1].doc.size(), 1_002);
    }
}

/// Where a frame is full, what was sealed for it and did not fit is as good as only queued.
#[test]
fn what_did_not_fit_into_a_frame_rests_too() {
    let mut sim = two(CrdtKind::Yjs);
    for _ in 0..2 {
        append_to(&mut sim.peers[1], &"n".repeat(3_000));
    }
    assert!(sim.send(1, 4_096));
    keep(&mut sim.peers[1], true);
    assert_eq!(sim.peers[1].doc.drafts().0, 1);
    sim.settle();
    assert_eq!(sim.service.size(), 2);
    resume(&mut sim.peers[1]);
    sim.settle();
    sim.assert_converged();
    sim.assert_no_findings();
}

#[test]
fn what_was_on_its_way_and_is_refused_rests() {
    let mut sim = two(CrdtKind::Yjs);
    append_to(&mut sim.peers[1], " one");
    let keys = sim.peers[1].keys.clone();
    let ctx = sim.world.ctx(1, 0, &keys);
    let sent = sim.peers[1].next_append(&ctx, 4_096).unwrap();
    keep(&mut sim.peers[1], true);
    assert_eq!(sim.peers[1].doc.drafts().0, 0, "the service may have it");
    let refusal = Refusal::RateLimited { retry_after_ms: 5 };
    sim.peers[1].refused(&ctx, sent.first_clock, &refusal);
    assert!(sim.peers[1].next_append(&ctx, 4_096).is_none());
    assert_eq!(sim.peers[1].doc.drafts().0, 1);
    sim.settle();
    assert_eq!(sim.service.size(), 1);
    resume(&mut sim.peers[1]);
    sim.settle();
    assert_eq!(sim.peers[0].text(), "hello one");
    sim.assert_converged();
}

/// The document begins anew after the pause, before its drafts were joined.
#[test]
fn drafts_stay_drafts_until_they_are_joined() {
    let mut sim = two(CrdtKind::Yjs);
    keep(&mut sim.peers[1], true);
    append_to(&mut sim.peers[1], " kept secret");
    sim.peers[1].edit(|crdt| crdt.text().unwrap().splice(10, 7, ""));
    sim.peers[1].store();
    keep(&mut sim.peers[1], false);
    sim.merge(1);
    assert!(sim.peers[1].doc.has_drafts_to_queue());
    assert_eq!(sim.peers[1].doc.drafts().0, 2);
    let outcome = sim.peers[1].doc.queue_drafts().unwrap();
    sim.peers[1].note(outcome);
    assert_eq!(sim.peers[1].doc.pending_count(), 1);
    sim.settle();
    assert_eq!(sim.peers[0].text(), "hello kept");
    sim.assert_converged();
}

/// Somebody wrote two drafts and resumed; the copy of the store that was taken before is a third peer, which still pauses.
fn copied(kind: CrdtKind) -> Sim {
    let mut sim = two(kind);
    keep(&mut sim.peers[1], true);
    append_to(&mut sim.peers[1], " one");
    append_to(&mut sim.peers[1], " two");
    sim.peers[1].store();
    let stored = sim.peers[1].rows.clone();
    resume(&mut sim.peers[1]);
    sim.settle();
    sim.disconnect(1);
    let keys = Keys::default();
    let ctx = sim.world.ctx(1, 0, &keys);
    let all: Rows = stored.clone().into_iter().collect();
    let doc = Document::load(&ctx, all, &mut sim.peers[1].rng).unwrap();
    let mut copy = Peer::new(1, doc, 0);
    copy.rows = stored;
    sim.peers.push(copy);
    keep(&mut sim.peers[2], true);
    sim
}

/// A copy of the store was taken during the pause: both lives resume. What was joined there is joined here, and is found to be the same.
#[test]
fn a_copy_that_was_taken_during_a_pause_doubles_nothing() {
    for kind in KINDS {
        let mut sim = copied(kind);
        sim.connect(2);
        sim.settle();
        sim.connect(2);
        sim.settle();
        resume(&mut sim.peers[2]);
        sim.settle();
        sim.connect(2);
        sim.settle();
        assert_eq!(sim.peers[2].doc.pending_count(), 0, "{kind}");
        assert_eq!(sim.service.size(), 2, "{kind}");
        for at in [0, 2] {
            assert_eq!(sim.peers[at].text(), "hello one two", "{kind}");
        }
    }
}

/// What two copies of a store have in common and what each wrote after. Nothing is lost; what the copy changed of the common drafts may stand there twice.
#[test]
fn a_copy_whose_drafts_were_changed_loses_nothing() {
    for (kind, deletes) in KINDS
        .into_iter()
        .flat_map(|kind| [(kind, false), (kind, true)])
    {
        let mut sim = copied(kind);
        match deletes {
            false => append_to(&mut sim.peers[2], " three"),
            true => sim.peers[2].edit(|crdt| {
                let text = crdt.text().ok_or(CrdtError::InvalidArgument)?;
                text.splice(6, 4, "")
            }),
        }
        for _ in 0..2 {
            sim.connect(2);
            sim.settle();
        }
        resume(&mut sim.peers[2]);
        sim.settle();
        sim.connect(2);
        sim.settle();
        assert_eq!(sim.peers[2].doc.pending_count(), 0, "{kind} {deletes}");
        let text = sim.peers[0].text();
        assert_eq!(sim.peers[2].text(), text, "{kind} {deletes}");
        let count = |what: &str| text.matches(what).count();
        assert!((1..=2).contains(&count("two")), "{kind} {deletes}: {text}");
        // What was added beside them goes once. In Automerge it is bound to the drafts before it, and they go with it again.
        assert_eq!(count("three"), usize::from(!deletes), "{kind}: {text}");
        if kind == CrdtKind::Yjs && !deletes {
            assert_eq!((count("one"), count("two")), (1, 1), "{text}");
        }
    }
}
