//! Own edits: sealed, sent, resent, sealed again; through lost answers, refusals, restarts and second lives.

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
use conclave_proto::codec::Tail;
use conclave_proto::codec::{Varint, encode};
use conclave_proto::frame::{
    AppendedRecord, ClientFrame, DeliveredRecord, OpenedDocument, ServiceFrame,
};
use conclave_proto::merkle::Head;
use conclave_proto::record::RecordBody;
use conclave_proto::refusal::{ForbiddenWhy, RecordFault};
use conclave_proto::service::SignedHead;
use conclave_proto::*;

const TWO: [(u8, Role); 2] = [(1, Role::Owner), (2, Role::Editor)];

fn two() -> Sim {
    let mut sim = Sim::new(CrdtKind::Yjs, &TWO, "hello");
    sim.settle();
    sim.peers.iter_mut().for_each(Peer::store);
    sim
}

fn append(sim: &mut Sim, at: usize) -> Option<Append> {
    let peer = &mut sim.peers[at];
    let keys = peer.keys.clone();
    let ctx = sim.world.ctx(peer.member, peer.epoch, &keys);
    let append = peer.next_append(&ctx, 64 * 1024);
    peer.store();
    append
}

#[test]
fn a_lost_ack_is_found_in_the_log() {
    let mut sim = two();
    sim.peers[1].insert(0, "a");
    sim.peers[1].insert(0, "b");
    assert!(sim.send(1, 64 * 1024));
    assert_eq!(sim.service.size(), 3);
    // The connection breaks before the answer arrives.
    sim.disconnect(1);
    assert_eq!(sim.peers[1].doc.pending_count(), 2);
    sim.connect(1);
    assert!(
        !sim.send(1, 64 * 1024),
        "nothing is sent before the own records are found"
    );
    sim.settle();
    assert_eq!(sim.service.size(), 3, "nothing is ordered twice");
    sim.assert_converged();
    sim.assert_no_findings();
    let acknowledged: usize = sim.peers[1].doc.pending_count();
    assert_eq!(acknowledged, 0);
}

#[test]
fn a_lost_ack_is_found_after_a_crash_too() {
    let mut sim = two();
    sim.peers[1].insert(0, "a");
    sim.peers[1].store();
    assert!(sim.send(1, 64 * 1024));
    sim.restart(1);
    sim.peers[1].insert(0, "b");
    sim.connect(1);
    sim.settle();
    assert_eq!(sim.service.size(), 3);
    sim.assert_converged();
    sim.assert_no_findings();
    assert_eq!(sim.peers[0].text(), "bahello");
}

#[test]
fn a_resend_is_byte_identical_even_after_a_restart() {
    let mut sim = two();
    sim.peers[1].insert(0, "a");
    sim.peers[1].insert(0, "b");
    let first = append(&mut sim, 1).unwrap();
    assert_eq!(append(&mut sim, 1), None, "it is on its way");
    sim.disconnect(1);
    assert_eq!(
        append(&mut sim, 1),
        None,
        "nothing is sent while the document is not open"
    );
    sim.connect(1);
    assert_eq!(append(&mut sim, 1).unwrap(), first);
    sim.restart(1);
    sim.connect(1);
    assert_eq!(append(&mut sim, 1).unwrap(), first);
    let author = sim.peers[1].author(&sim.world);
    sim.arrive(1, author, first);
    sim.settle();
    sim.assert_converged();
}

/// The key of each record of an append, opened: clock and plaintext.
fn plaintexts(sim: &Sim, author: Author, append: &Append) -> Vec<(u64, Vec<u8>)> {
    let mut service = sim.service.clone();
    service.reach(&sim.world.states[append.epoch as usize]);
    let records = service.append(author, append).unwrap();
    let keys = DocKeys::derive(&root(append.epoch), &DOC);
    records
        .iter()
        .map(|it| {
            (
                it.header.body.chained().unwrap().clock,
                open(it, &keys).unwrap().to_vec(),
            )
        })
        .collect()
}

#[test]
fn a_new_epoch_seals_the_same_plaintexts_under_the_same_clocks() {
    let mut sim = two();
    sim.peers[1].insert(0, "a");
    sim.peers[1].insert(0, "b");
    let author = sim.peers[1].author(&sim.world);
    let old = append(&mut sim, 1).unwrap();
    sim.peers[1].insert(0, "c");
    let frozen = plaintexts(&sim, author, &old);
    // The epoch changes while the frame is on its way.
    sim.world.rekey();
    sim.reach(1);
    sim.peers[1].epoch = 1;
    assert_eq!(
        append(&mut sim, 1),
        None,
        "first the answer to what was sent under the old epoch"
    );
    sim.arrive(1, author, old);
    sim.peers[1].epoch = 0;
    sim.receive(1);
    assert_eq!(
        append(&mut sim, 1),
        None,
        "not before the epoch that the service named is reached"
    );
    sim.peers[1].epoch = 1;
    let new = append(&mut sim, 1).unwrap();
    assert_eq!((new.epoch, new.first_clock, new.records.len()), (1, 0, 3));
    assert_eq!(plaintexts(&sim, author, &new)[..2], frozen[..]);
    sim.arrive(1, author, new);
    sim.peers[0].epoch = 1;
    sim.settle();
    sim.assert_converged();
    sim.assert_no_findings();
}

#[test]
fn what_an_old_epoch_still_got_in_is_not_sent_again() {
    let mut sim = two();
    sim.peers[1].insert(0, "a");
    let author = sim.peers[1].author(&sim.world);
    let frame = append(&mut sim, 1).unwrap();
    sim.arrive(1, author, frame);
    // The answer is lost, and a commit follows.
    sim.disconnect(1);
    sim.world.rekey();
    sim.advance_epochs();
    sim.connect(1);
    assert_eq!(append(&mut sim, 1), None);
    sim.settle();
    assert_eq!(sim.service.size(), 2);
    sim.assert_converged();
}

#[test]
fn refusals_say_what_to_do() {
    let mut sim = two();
    let stale = Refusal::RateLimited { retry_after_ms: 70 };
    for (refusal, expected) in [
        (stale, RefusedOutcome::RetryLater { after_ms: 70 }),
        (Refusal::SnapshotRequired, RefusedOutcome::SnapshotNeeded),
        (Refusal::ClockGap { expected: 0 }, RefusedOutcome::Resend),
        (
            Refusal::Forbidden {
                why: ForbiddenWhy::Role,
            },
            RefusedOutcome::Parked(Refusal::Forbidden {
                why: ForbiddenWhy::Role,
            }),
        ),
    ] {
        if sim.peers[1].doc.pending_count() == 0 {
            sim.peers[1].insert(0, "x");
        }
        let sent = append(&mut sim, 1).unwrap();
        let (keys, member, epoch) = (Keys::default(), 1, sim.peers[1].epoch);
        let ctx = sim.world.ctx(member, epoch, &keys);
        let (what, outcome) = sim.peers[1].refused(&ctx, sent.first_clock, &refusal);
        assert_eq!(what, expected);
        assert!(!outcome.reopen);
    }
    // Parked: kept, and sent after the document is opened again.
    assert_eq!(append(&mut sim, 1), None);
    assert_eq!(sim.peers[1].doc.pending_count(), 1);
    sim.connect(1);
    sim.settle();
    sim.assert_converged();
}

#[test]
fn pipelined_frames_fall_with_the_first_that_is_refused() {
    let mut sim = two();
    let author = sim.peers[1].author(&sim.world);
    sim.peers[1].insert(0, "a");
    let first = append(&mut sim, 1).unwrap();
    sim.peers[1].insert(0, "b");
    let second = append(&mut sim, 1).unwrap();
    assert_eq!((first.first_clock, second.first_clock), (0, 1));
    let refusal = Refusal::Storage;
    sim.peers[1].inbox.push_back(Net::Refused {
        first_clock: 0,
        refusal,
    });
    sim.arrive(1, author, second);
    sim.receive(1);
    assert_eq!(
        append(&mut sim, 1),
        None,
        "the second frame is not answered yet"
    );
    sim.receive(1);
    let again = append(&mut sim, 1).unwrap();
    assert_eq!((again.first_clock, again.records.len()), (0, 2));
    assert_eq!(again.records[0], first.records[0]);
    sim.arrive(1, author, again);
    sim.settle();
    sim.assert_converged();
    sim.assert_no_findings();
}

#[test]
fn a_permanent_refusal_draws_a_fresh_instance_and_gives_up_in_the_end() {
    let mut sim = two();
    sim.peers[1].insert(0, "stubborn");
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..4 {
        let sent = append(&mut sim, 1).unwrap();
        let (keys, epoch) = (Keys::default(), sim.peers[1].epoch);
        let ctx = sim.world.ctx(1, epoch, &keys);
        let refusal = Refusal::BadRecord {
            fault: RecordFault::InstanceClosed,
        };
        let (what, outcome) = sim.peers[1].refused(&ctx, sent.first_clock, &refusal);
        if round < 3 {
            assert_eq!(what, RefusedOutcome::FreshInstance);
            assert!(outcome.reopen);
            assert!(seen.insert(sim.peers[1].doc.instance()));
            sim.connect(1);
        } else {
            assert_eq!(what, RefusedOutcome::Parked(refusal));
        }
    }
    sim.connect(1);
    sim.settle();
    sim.assert_converged();
    assert_eq!(sim.peers[0].text(), "stubbornhello");
}

#[test]
fn already_accepted_with_the_own_leaf_is_adopted() {
    let mut sim = two();
    sim.peers[1].insert(0, "a");
    sim.peers[1].insert(0, "b");
    let author = sim.peers[1].author(&sim.world);
    let sent = append(&mut sim, 1).unwrap();
    // The first of the two got in on its own, by a path of which this connection knows nothing.
    let only = Append {
        records: sent.records[..1].to_vec(),
        ..sent.clone()
    };
    let seq = sim.service.size();
    let records = sim.service.append(author, &only).unwrap();
    let leaf = records[0].leaf();
    sim.publish(seq, 0, Some(1));
    let (keys, epoch) = (Keys::default(), sim.peers[1].epoch);
    let ctx = sim.world.ctx(1, epoch, &keys);
    let refusal = Refusal::AlreadyAccepted { leaf, seq };
    let (what, outcome) = sim.peers[1].refused(&ctx, 0, &refusal);
    assert_eq!((what, outcome.acknowledged), (RefusedOutcome::Resend, 1));
    let rest = append(&mut sim, 1).unwrap();
    assert_eq!(
        (rest.first_clock, &rest.records[..]),
        (1, &sent.records[1..])
    );
    sim.arrive(1, author, rest);
    sim.settle();
    sim.assert_converged();
}

/// Two lives of one store: a backup is restored while the other life has gone on.
#[test]
fn a_restored_backup_gets_a_fresh_instance_and_loses_nothing() {
    for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
        let mut sim = Sim::new(kind, &TWO, "hello");
        sim.settle();
        sim.peers[1].insert(0, "before ");
        sim.peers[1].store();
        let backup = sim.peers[1].rows.clone();
        sim.settle();
        sim.peers[1].insert(0, "lost life ");
        sim.settle();
        assert_eq!(sim.service.size(), 3);
        let old = sim.peers[1].doc.instance();
        // Disaster: the backup comes back. It holds the first edit unsent.
        sim.peers[1].rows = backup;
        sim.restart(1);
        assert_eq!(sim.peers[1].doc.pending_count(), 1);
        sim.peers[1].insert(0, "new life ");
        sim.connect(1);
        sim.settle();
        assert_ne!(sim.peers[1].doc.instance(), old);
        sim.assert_converged();
        let text = sim.peers[0].text();
        for part in ["before ", "lost life ", "new life "] {
            assert_eq!(text.matches(part).count(), 1, "{kind}: {text}");
        }
        // The old instance is closed.
        let peer = &sim.peers[0];
        assert_eq!(peer.findings, vec![]);
    }
}

/// Another life of this device writes under the replica id that unsent edits here use.
#[test]
fn edits_under_a_taken_replica_id_are_written_again() {
    for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
        let mut sim = Sim::new(kind, &TWO, "hello");
        sim.settle();
        sim.peers[1].insert(0, "mine ");
        let replica = sim.peers[1].doc.crdt().replica().clone();
        // A squatter, or a copy of the store: other operations under that id, ordered first.
        let mut crdt = conclave_crdt::create(kind, replica.clone()).unwrap();
        crdt.text().unwrap().splice(0, 0, "squatted ").unwrap();
        let mut out = Vec::new();
        crdt.take_pending(&mut out).unwrap();
        let record = sim.forge(0, &out[0], |_| {});
        sim.order(vec![record], None);
        sim.receive(1);
        sim.receive(1);
        assert!(sim.peers[1].findings.is_empty());
        assert_ne!(*sim.peers[1].doc.crdt().replica(), replica);
        assert_eq!(sim.peers[1].doc.pending_count(), 1);
        sim.settle();
        sim.assert_converged();
        let text = sim.peers[0].text();
        assert_eq!(text.matches("mine ").count(), 1, "{kind}: {text}");
        assert_eq!(text.matches("squatted ").count(), 1, "{kind}: {text}");
        assert_eq!(sim.peers[1].lost, vec![], "{kind}");
    }
}

/// What no view writes (formats, XML, marks, other parts of a document) is given back where its place is taken, never dropped in silence.
#[test]
fn edits_under_a_taken_replica_id_that_cannot_be_written_again_are_given_back() {
    for unseen in Unseen::ALL {
        let mut sim = Sim::new(unseen.kind(), &TWO, "hello");
        sim.settle();
        sim.peers[1].insert(0, "mine ");
        sim.peers[1].edit(|crdt| unseen.edit(crdt, 0));
        let replica = sim.peers[1].doc.crdt().replica().clone();
        let mut crdt = conclave_crdt::create(unseen.kind(), replica).unwrap();
        crdt.text().unwrap().splice(0, 0, "squatted ").unwrap();
        let mut out = Vec::new();
        crdt.take_pending(&mut out).unwrap();
        let record = sim.forge(0, &out[0], |_| {});
        sim.order(vec![record], None);
        sim.receive(1);
        sim.receive(1);
        let lost = sim.peers[1].lost.clone();
        assert_eq!(lost.len(), 1, "{unseen:?}");
        assert_eq!((lost[0].changes, lost[0].updates.len()), (2, 2));
        assert!(!lost[0].words_tell_all, "{unseen:?}");
        // What can be written again is, and is not given back as well.
        assert_eq!(lost[0].words, []);
        sim.settle();
        sim.assert_converged();
        let text = sim.peers[0].text();
        assert_eq!(text.matches("mine ").count(), 1, "{text}");
    }
}

/// An own record that is in the log already, but refused by the rules, is taken out and written again.
#[test]
fn an_own_record_refused_by_all_is_written_again_and_reported() {
    let mut sim = two();
    sim.peers[1].insert(0, "mine ");
    let replica = sim.peers[1].doc.crdt().replica().clone();
    let author = sim.peers[1].author(&sim.world);
    let sent = append(&mut sim, 1).unwrap();
    // The squatter's record comes first in the log; both arrive together.
    let mut crdt = conclave_crdt::create(CrdtKind::Yjs, replica).unwrap();
    crdt.text().unwrap().splice(0, 0, "squatted ").unwrap();
    let mut out = Vec::new();
    crdt.take_pending(&mut out).unwrap();
    let record = sim.forge(0, &out[0], |_| {});
    sim.order(vec![record], None);
    sim.arrive(1, author, sent);
    sim.settle();
    sim.assert_converged();
    let faults: Vec<Fault> = sim.peers[0]
        .findings
        .iter()
        .map(|finding| finding.fault)
        .collect();
    assert_eq!(faults, vec![Fault::Record(RecordFault::Replica)]);
    let text = sim.peers[0].text();
    assert_eq!(text.matches("mine ").count(), 1, "{text}");
    assert_eq!(text.matches("squatted ").count(), 1, "{text}");
}

#[test]
fn records_of_a_future_epoch_wait_and_survive_a_restart() {
    let mut sim = two();
    sim.world.rekey();
    sim.reach(1);
    sim.peers[1].epoch = 1;
    sim.with(1, |doc, ctx, _| doc.retry(ctx).unwrap());
    sim.peers[1].insert(0, "new ");
    sim.settle();
    assert_eq!(sim.peers[0].last.waiting_for_epoch, Some(1));
    assert_eq!(sim.peers[0].doc.size(), 1);
    sim.peers[0].store();
    sim.restart(0);
    sim.peers[0].epoch = 1;
    let outcome = sim.with(0, |doc, ctx, _| doc.retry(ctx).unwrap());
    assert_eq!(outcome.blocked, None);
    assert_eq!(sim.peers[0].text(), "new hello");
    sim.peers[0].store();
    assert!(!sim.peers[0].rows.keys().any(|key| key[0] == b'w'));
}

#[test]
fn records_wait_for_a_root_that_is_not_held() {
    let mut sim = two();
    sim.world.rekey();
    sim.advance_epochs();
    sim.peers[0].keys.withheld.insert(1);
    sim.peers[1].insert(0, "new ");
    sim.settle_but(0);
    sim.receive(0);
    sim.receive(0);
    assert_eq!(sim.peers[0].last.needs_root, Some(1));
    assert_eq!(sim.peers[0].doc.head().size, 1);
    sim.peers[0].keys.withheld.clear();
    let outcome = sim.with(0, |doc, ctx, _| doc.retry(ctx).unwrap());
    assert_eq!((outcome.needs_root, outcome.changes.len()), (None, 1));
    assert_eq!(sim.peers[0].text(), "new hello");
}

#[test]
fn a_gap_is_reported_and_what_came_after_it_is_kept() {
    let mut sim = two();
    for _ in 0..3 {
        sim.peers[1].insert(0, "x");
        sim.send(1, 1);
        while sim.receive(1) {}
    }
    sim.peers[0].inbox.clear();
    let author = sim.peers[1].author(&sim.world);
    sim.peers[0].doc.new_author(author);
    let last = sim.service.size() - 1;
    let record = vec![sim.service.deliver(last)];
    let outcome = sim.with(0, |doc, ctx, _| doc.deliver(ctx, last, record).unwrap());
    assert_eq!(outcome.gap, Some((1, last)));
    assert_eq!(outcome.changes, vec![]);
    let missing = (1..last).map(|seq| sim.service.whole(seq)).collect();
    let outcome = sim.with(0, |doc, ctx, _| doc.deliver(ctx, 1, missing).unwrap());
    assert_eq!((outcome.gap, outcome.changes.len()), (None, 3));
    sim.assert_converged();
}

#[test]
fn edits_are_all_or_nothing() {
    let mut sim = two();
    let mut fails = |crdt: &mut dyn Crdt| {
        crdt.text().unwrap().splice(0, 0, "half ")?;
        Err(CrdtError::InvalidArgument)
    };
    let error = sim.peers[1].doc.edit(&mut fails).unwrap_err();
    assert_eq!(error, DocError::Crdt(CrdtError::InvalidArgument));
    assert_eq!(
        (
            sim.peers[1].text().as_str(),
            sim.peers[1].doc.pending_count()
        ),
        ("hello", 0)
    );
    let mut nothing = |_: &mut dyn Crdt| Ok(());
    assert!(!sim.peers[1].doc.edit(&mut nothing).unwrap());
    // A large paste is cut into several records.
    let large = "z".repeat(3 << 20);
    sim.peers[1].insert(0, &large);
    assert!(sim.peers[1].doc.pending_count() > 1);
    sim.settle();
    sim.assert_converged();
}

#[test]
fn edits_before_the_document_is_ordered_wait() {
    let world = World::new(&TWO);
    let keys = Keys::default();
    let ctx = world.ctx(0, 0, &keys);
    let key = device_key(0);
    let mut rng =
        <rand_chacha::ChaCha20Rng as rand_chacha::rand_core::SeedableRng>::seed_from_u64(3);
    let (mut doc, first) = Document::create(
        &ctx,
        GROUP,
        DOC,
        CrdtKind::Yjs,
        instance(1),
        None,
        sealer(&key, &mut rng),
    )
    .unwrap();
    let mut edit = |crdt: &mut dyn Crdt| crdt.text().unwrap().splice(0, 0, "early");
    assert!(doc.edit(&mut edit).unwrap());
    assert!(!doc.is_created());
    let author = Author {
        device: world.devices[0],
        instance: doc.instance(),
    };
    let mut early = doc.session(&OpenedDocument {
        channel: Varint(1),
        signed: SignedHead {
            head: Head::EMPTY,
            seconds: 0,
            signature: [0; 64],
        },
        from: 0,
        base: None,
        authors: vec![],
        own_next_clock: 0,
        own_last: Hash::ZERO,
        losses: Vec::new(),
    });
    let sent = doc.next_append(&ctx, &mut early, sealer(&key, &mut rng), 1000);
    assert_eq!(sent.unwrap(), None);
    // The epoch changes first: the snapshot is sealed again, without the edit.
    let again = doc.make_snapshot(&ctx, sealer(&key, &mut rng)).unwrap();
    assert_ne!(first.leaf(), again.leaf());
    let rows: Rows = doc
        .take_changes(&Keeping::default())
        .into_iter()
        .filter_map(|row| Some((row.key, row.value?)))
        .collect();
    let mut doc = Document::load(&ctx, rows, &mut rng).unwrap();
    assert_eq!(doc.pending_snapshot(), Some(&again));
    let mut service = DocumentService::new(&world.states[0]);
    service.force(again);
    let outcome = doc.snapshot_accepted(&ctx, 0).unwrap();
    assert_eq!((outcome.findings.len(), doc.head()), (0, service.head()));
    let opened = service.opened(author, Some(1));
    let mut session = doc.session(&opened);
    doc.opened(&ctx, &opened, &mut rng).unwrap();
    let sent = doc.next_append(&ctx, &mut session, sealer(&key, &mut rng), 1000);
    let append = sent.unwrap().unwrap();
    assert_eq!(service.append(author, &append).unwrap().len(), 1);
}

#[test]
fn a_small_update_costs_at_most_160_bytes_on_the_wire() {
    let mut sim = two();
    for _ in 0..300 {
        sim.peers[1].insert(0, "q");
        sim.send(1, 100_000);
        sim.receive(1);
    }
    sim.settle();
    sim.peers[1].insert(0, "z");
    let sent = append(&mut sim, 1).unwrap();
    let plain = plaintexts(&sim, sim.peers[1].author(&sim.world), &sent)[0]
        .1
        .len();
    let frame = ClientFrame::Append {
        channel: Varint(70),
        epoch: Varint(sent.epoch),
        first_clock: Varint(sent.first_clock),
        records: Tail(sent.records.clone()),
    };
    let up = encode(&frame).len() - plain;
    let author = sim.peers[1].author(&sim.world);
    let seq = sim.service.size();
    sim.service.append(author, &sent).unwrap();
    let elided = sim.service.deliver(seq);
    assert!(matches!(elided, DeliveredRecord::Update(_)));
    let frame = ServiceFrame::Deliver {
        channel: Varint(70),
        first_seq: Varint(seq),
        records: Tail(vec![elided]),
    };
    let down = encode(&frame).len() - plain;
    println!("overhead: {up} bytes up, {down} bytes down");
    assert!(up <= 160 && down <= 160, "{up} {down}");
}

#[test]
fn frames_stay_below_the_size_asked_for() {
    let mut sim = two();
    for _ in 0..50 {
        sim.peers[1].insert(0, "0123456789");
    }
    let peer = &mut sim.peers[1];
    let keys = Keys::default();
    let ctx = sim.world.ctx(1, 0, &keys);
    let mut total = 0;
    while let Some(append) = peer.next_append(&ctx, 1000) {
        let bytes: usize = append
            .records
            .iter()
            .map(|record: &AppendedRecord| encode(record).len())
            .sum();
        assert!(bytes <= 1000);
        total += append.records.len();
    }
    assert_eq!(total, 50);
}

#[test]
fn nothing_of_the_content_shows_in_debug() {
    let mut sim = two();
    sim.peers[1].insert(0, "secret");
    let changes = sim.peers[1].doc.take_changes(&Keeping::default());
    let text = format!("{:?} {changes:?}", sim.peers[1].doc);
    assert!(
        !text.contains("secret") && !text.contains("115, 101, 99"),
        "{text}"
    );
    let body = RecordBody::Update(conclave_proto::record::Chained {
        clock: 0,
        prev: Hash::ZERO,
    });
    let record = sim.forge(1, b"secret", |header| header.body = body);
    assert!(!format!("{record:?}").contains("115, 101, 99"));
}

/// Somebody's record goes on from an own edit that has no place in the log yet: one that a put-back service has lost, for example. It waits for that in
/// the log, and so it does here, also after a restart: otherwise it would come in elsewhere in the order than for everybody else.
#[test]
fn what_waits_for_an_own_edit_comes_in_where_that_has_its_place() {
    let kind = CrdtKind::Yjs;
    for restarts in [false, true] {
        let mut sim = Sim::new(
            kind,
            &[(1, Role::Owner), (2, Role::Editor), (3, Role::Editor)],
            "hello",
        );
        sim.settle();
        sim.peers[1].insert(5, " mine");
        let state = sim.peers[1].doc.crdt().snapshot().unwrap();
        let replica = conclave_crdt::ReplicaId::for_kind(kind, [9; 16]);
        let mut other = conclave_crdt::load(kind, &state, replica).unwrap();
        other.text().unwrap().splice(10, 0, " and his").unwrap();
        let mut updates: Vec<Vec<u8>> = Vec::new();
        other.take_pending(&mut updates).unwrap();
        let record = sim.forge(2, &updates[0], |_| {});
        sim.order(vec![record], None);
        while sim.receive(0) || sim.receive(1) || sim.receive(2) {}
        assert_eq!(sim.peers[0].text(), "hello");
        assert_eq!(sim.peers[1].text(), "hello mine");
        if restarts {
            sim.peers[1].store();
            sim.restart(1);
            assert_eq!(sim.peers[1].text(), "hello mine");
            sim.connect(1);
        }
        sim.settle();
        for at in 0..3 {
            assert_eq!(
                sim.peers[at].text(),
                "hello mine and his",
                "{at} {restarts}"
            );
        }
        sim.assert_converged();
        sim.assert_no_findings();
    }
}
