//! Records whose root nobody can supply: set aside, read once the root arrives, or voided for all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use conclave_crdt::CrdtKind;
use conclave_doc::*;
use conclave_proto::refusal::RecordFault;
use conclave_proto::*;

const FOUR: [(u8, Role); 4] = [
    (1, Role::Owner),
    (2, Role::Editor),
    (3, Role::Editor),
    (4, Role::Editor),
];
const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];
/// Seals under the root that others lack.
const AUTHOR: usize = 3;
/// Lack that root.
const BLIND: [usize; 2] = [1, 2];

/// Crash, restart, and back on the connection.
fn bounce(sim: &mut Sim, at: usize) {
    sim.peers[at].store();
    sim.restart(at);
    sim.connect(at);
    sim.peers[at].store();
}

fn bounce_all(sim: &mut Sim) {
    (0..sim.peers.len()).for_each(|at| bounce(sim, at));
    sim.settle();
}

/// Member 3 writes "{lost}" under epoch 1, whose root members 1 and 2 never get, and "(after)" under epoch 2. Gives the position.
fn lost(kind: CrdtKind) -> (Sim, u64) {
    let mut sim = Sim::new(kind, &FOUR, "hello");
    sim.settle();
    sim.world.rekey();
    sim.advance_epochs();
    for at in BLIND {
        sim.peers[at].keys.withheld.insert(1);
    }
    sim.peers[AUTHOR].insert(0, "{lost}");
    sim.settle();
    let seq = sim.service.size() - 1;
    sim.world.rekey();
    sim.advance_epochs();
    sim.peers[AUTHOR].insert(99, "(after)");
    sim.settle();
    // Beside what everybody has: an edit that builds on the lost one waits with it.
    let beside = sim.peers[0].text().find("ello").unwrap();
    sim.peers[0].insert(beside, "(zero)");
    sim.settle();
    let author = sim.peers[AUTHOR].author(&sim.world);
    for at in BLIND {
        bounce(&mut sim, at);
        sim.settle();
        let last = &sim.peers[at].last;
        assert_eq!(last.blocked, Some((seq, Blocked::Root(1))));
        assert_eq!(
            (last.needs_root, last.needs_root_author),
            (Some(1), Some(author))
        );
        assert_eq!(sim.peers[at].doc.size(), seq);
        assert_eq!(sim.peers[at].doc.set_aside_records(), vec![]);
    }
    (sim, seq)
}

/// As [`lost`]; members 1 and 2 have set the record aside, and go on.
fn set_aside(kind: CrdtKind) -> (Sim, u64) {
    let (mut sim, seq) = lost(kind);
    for at in BLIND {
        sim.with(at, |doc, ctx, _| doc.set_aside(ctx).unwrap());
        bounce(&mut sim, at);
        sim.settle();
    }
    sim.peers[1].insert(0, "(one)");
    sim.settle();
    bounce_all(&mut sim);
    (sim, seq)
}

fn texts_agree(sim: &mut Sim, parts: &[&str], without: &[&str]) {
    sim.assert_converged();
    let text = sim.peers[0].text();
    for part in parts {
        assert_eq!(text.matches(part).count(), 1, "{part}: {text}");
    }
    for part in without {
        assert!(!text.contains(part), "{part}: {text}");
    }
}

/// The group's next epoch begins with the record void. Members learn of it one by one.
fn void(sim: &mut Sim, seq: u64) {
    let leaf = sim.service.leaf(seq);
    sim.world.rekey();
    let state = sim.world.states.last_mut().unwrap();
    state.voided.push(declared(leaf));
}

/// A member gets there.
fn process_void(sim: &mut Sim, at: usize) -> DeliverOutcome {
    sim.peers[at].epoch = sim.world.epoch();
    let outcome = sim.with(at, |doc, ctx, _| doc.voided(ctx).unwrap());
    bounce(sim, at);
    let again = sim.with(at, |doc, ctx, _| doc.voided(ctx).unwrap());
    assert!(!again.rebuilt, "once is enough");
    outcome
}

#[test]
fn what_is_set_aside_holds_up_nothing_but_snapshots() {
    for kind in KINDS {
        let (mut sim, seq) = set_aside(kind);
        let author = sim.peers[AUTHOR].author(&sim.world);
        let leaf = sim.service.leaf(seq);
        for at in BLIND {
            assert_eq!(sim.peers[at].doc.head(), sim.service.head());
            assert_eq!(
                sim.peers[at].doc.set_aside_records(),
                vec![(seq, leaf, 1, author)]
            );
            let text = sim.peers[at].text();
            // Every change of Automerge builds on all that its author had seen.
            assert_eq!(text.contains("(zero)"), kind == CrdtKind::Yjs, "{text}");
            assert!(text.contains("(one)"), "{text}");
            assert!(!text.contains("{lost}"), "{text}");
            assert_eq!(sim.peers[at].findings, vec![], "nobody else is blamed");
            let peer = &mut sim.peers[at];
            assert!(peer.doc.roots_needed().needs(1));
            assert!(!peer.doc.can_snapshot());
            assert!(!peer.doc.snapshot_due(&GroupPolicy {
                snapshot_after_records: 1,
                ..GroupPolicy::default()
            }));
            let keys = peer.keys.clone();
            let ctx = sim.world.ctx(at, 2, &keys);
            let refused = peer
                .doc
                .make_snapshot(&ctx, sealer(&peer.key, &mut peer.rng))
                .unwrap_err();
            assert_eq!(refused, DocError::SetAside { seq });
            assert!(refused.is_retryable());
        }
        assert_eq!(sim.peers[1].digest(), sim.peers[2].digest());
        assert!(sim.peers[0].text().contains("{lost}"));
    }
}

#[test]
fn a_root_that_arrives_late_gives_the_same_document() {
    for kind in KINDS {
        let (mut sim, seq) = set_aside(kind);
        // An edit that waits meanwhile survives.
        sim.disconnect(2);
        sim.peers[2].insert(0, "(two)");
        for at in BLIND {
            sim.peers[at].keys.withheld.clear();
            sim.peers[at].changes.clear();
            let outcome = sim.with(at, |doc, ctx, _| doc.retry(ctx).unwrap());
            assert!(outcome.rebuilt);
            assert!(
                outcome
                    .changes
                    .iter()
                    .any(|it| (it.seq, it.epoch) == (seq, 1))
            );
            assert!(!sim.with(at, |doc, ctx, _| doc.retry(ctx).unwrap()).rebuilt);
            assert_eq!(sim.peers[at].doc.set_aside_records(), vec![]);
            bounce(&mut sim, at);
            bounce(&mut sim, at);
            sim.settle();
        }
        let parts = ["{lost}", "(after)", "(zero)", "(one)", "(two)"];
        texts_agree(&mut sim, &parts, &[]);
        sim.assert_no_findings();
        assert!(!sim.peers[2].last.refused_own);
        sim.snapshot(1);
        sim.settle();
        assert_eq!(sim.check(0), Some(Judgement::Match));
        bounce_all(&mut sim);
        texts_agree(&mut sim, &parts, &[]);
    }
}

#[test]
fn a_void_counts_as_nothing_for_all_whoever_had_opened_it() {
    for kind in KINDS {
        // Who learns of it first; everybody crashes after each step.
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]] {
            let (mut sim, seq) = set_aside(kind);
            // Unsent: one edit inside the lost text, one elsewhere.
            sim.disconnect(0);
            let text = sim.peers[0].text();
            let inside = text.find("{lost}").unwrap() + 3;
            sim.peers[0].insert(inside, "[inside]");
            sim.peers[0].insert(99, "[end]");
            sim.disconnect(2);
            sim.peers[2].insert(0, "[two]");
            void(&mut sim, seq);
            sim.reach(3);
            for at in order {
                let outcome = process_void(&mut sim, at);
                assert!(outcome.rebuilt, "{kind} {at}");
                assert_eq!(outcome.findings, vec![]);
                assert_eq!(sim.peers[at].doc.set_aside_records(), vec![]);
                sim.settle();
            }
            bounce_all(&mut sim);
            let parts = ["(after)", "(zero)", "(one)", "[inside]", "[end]", "[two]"];
            texts_agree(&mut sim, &parts, &["lost", "{lo"]);
            assert!(sim.peers.iter().all(|peer| peer.lost.is_empty()), "{kind}");
            sim.snapshot(1);
            sim.settle();
            assert_eq!(sim.check(0), Some(Judgement::Match));
            bounce_all(&mut sim);
            texts_agree(&mut sim, &parts, &["lost"]);
            // Somebody who comes later sees the same.
            sim.world.add(9, Role::Editor);
            sim.world.states[4].voided = sim.world.states[3].voided.clone();
            sim.advance_epochs();
            sim.join(4);
            sim.settle();
            texts_agree(&mut sim, &parts, &["lost"]);
        }
    }
}

/// Own edits that build on a void record are written again; what no view shows of them is given back, whether they are in the log or wait.
#[test]
fn what_cannot_be_written_again_after_a_void_is_given_back() {
    for unseen in Unseen::ALL {
        for sent in [true, false] {
            let (mut sim, seq) = set_aside(unseen.kind());
            if !sent {
                sim.disconnect(0);
            }
            let text = sim.peers[0].text();
            let inside = text.find("{lost}").unwrap() + 3;
            sim.peers[0].edit(|crdt| {
                crdt.text().unwrap().splice(inside, 0, "[inside]")?;
                Ok(())
            });
            sim.peers[0].edit(|crdt| {
                crdt.text().unwrap().splice(inside + 1, 0, "[more]")?;
                unseen.edit(crdt, inside as u32 + 1)
            });
            sim.settle();
            void(&mut sim, seq);
            sim.reach(3);
            let outcome = process_void(&mut sim, 0);
            let lost = &outcome.lost;
            assert_eq!(lost.len(), 1, "{unseen:?} {sent}: {lost:?}");
            assert!(!lost[0].words_tell_all && !lost[0].updates.is_empty());
            assert_eq!(lost[0].words, [], "{unseen:?} {sent}");
            for at in 1..4 {
                process_void(&mut sim, at);
                sim.settle();
            }
            bounce_all(&mut sim);
            texts_agree(
                &mut sim,
                &["[[more]inside]", "(zero)", "(one)"],
                &["lost", "{lo"],
            );
        }
    }
}

/// A member that learns of the void before it gets the record.
#[test]
fn a_void_that_comes_first_is_the_same() {
    let (mut sim, seq) = lost(CrdtKind::Yjs);
    void(&mut sim, seq);
    sim.reach(3);
    for at in 0..4 {
        process_void(&mut sim, at);
        sim.settle();
    }
    bounce_all(&mut sim);
    texts_agree(&mut sim, &["(zero)", "(after)"], &["lost"]);
}

/// A record that squats on somebody's replica id, and is opened late: by all alike it came first.
#[test]
fn what_is_opened_late_counts_at_its_position() {
    for kind in KINDS {
        let mut sim = Sim::new(kind, &FOUR, "hello");
        sim.settle();
        sim.world.rekey();
        sim.advance_epochs();
        sim.peers[1].keys.withheld.insert(1);
        sim.peers[1].insert(0, "(mine)");
        // Member 3 has seen the id and takes it, in a record that member 1 cannot open.
        let replica = sim.peers[1].doc.crdt().replica().clone();
        let mut crdt = conclave_crdt::create(kind, replica).unwrap();
        crdt.text().unwrap().splice(0, 0, "(squat)").unwrap();
        let mut out = Vec::new();
        crdt.take_pending(&mut out).unwrap();
        let record = sim.forge(AUTHOR, &out[0], |_| {});
        sim.order(vec![record], None);
        sim.receive(1);
        sim.receive(1);
        sim.world.rekey();
        sim.advance_epochs();
        sim.with(1, |doc, ctx, _| doc.set_aside(ctx).unwrap());
        sim.settle();
        bounce(&mut sim, 1);
        sim.settle();
        // Everybody else has refused it.
        assert!(sim.peers[1].text().contains("(mine)"));
        assert!(!sim.peers[0].text().contains("(mine)"));
        sim.peers[1].keys.withheld.clear();
        let outcome = sim.with(1, |doc, ctx, _| doc.retry(ctx).unwrap());
        assert!(outcome.rebuilt && outcome.refused_own, "{kind}");
        bounce_all(&mut sim);
        texts_agree(&mut sim, &["(mine)", "(squat)"], &[]);
    }
}

/// The same in a snapshot that a member goes on from: its edits are written again as what they did before, and what no view shows of them is
/// given back.
#[test]
fn edits_that_do_not_fit_a_snapshot_are_written_again_or_given_back() {
    for unseen in Unseen::ALL {
        let mut sim = Sim::new(unseen.kind(), &FOUR, "hello");
        sim.settle();
        sim.peers[1].insert(0, "(mine)");
        sim.peers[1].edit(|crdt| unseen.edit(crdt, 0));
        sim.peers[1].store();
        sim.disconnect(1);
        let replica = sim.peers[1].doc.crdt().replica().clone();
        let mut crdt = conclave_crdt::create(unseen.kind(), replica).unwrap();
        crdt.text().unwrap().splice(0, 0, "(squat)").unwrap();
        let mut out = Vec::new();
        crdt.take_pending(&mut out).unwrap();
        let record = sim.forge(AUTHOR, &out[0], |_| {});
        sim.order(vec![record], None);
        sim.settle_but(1);
        sim.snapshot(0);
        sim.settle_but(1);
        sim.rejoin(1);
        sim.settle();
        let lost = sim.peers[1].lost.clone();
        assert_eq!(lost.len(), 1, "{unseen:?}");
        assert_eq!((lost[0].updates.len(), lost[0].words_tell_all), (2, false));
        assert_eq!(lost[0].words, [], "{unseen:?}");
        bounce_all(&mut sim);
        texts_agree(&mut sim, &["(mine)", "(squat)"], &[]);
    }
}

/// What cannot be opened even with its root is refused at its position, and its author named.
#[test]
fn rubbish_that_is_opened_late_is_refused() {
    let mut sim = Sim::new(CrdtKind::Yjs, &FOUR, "hello");
    sim.settle();
    sim.world.rekey();
    sim.advance_epochs();
    sim.peers[1].keys.withheld.insert(1);
    let record = sim.forge(AUTHOR, b"rubbish", |_| {});
    let author = record.header.author;
    let seq = sim.order(vec![record], None);
    sim.settle();
    sim.with(1, |doc, ctx, _| doc.set_aside(ctx).unwrap());
    bounce(&mut sim, 1);
    assert_eq!(sim.peers[1].findings, vec![]);
    sim.peers[1].keys.withheld.clear();
    sim.with(1, |doc, ctx, _| doc.retry(ctx).unwrap());
    let finding = Finding {
        seq,
        fault: Fault::Record(RecordFault::Content),
        suspect: Suspect::author(author),
    };
    assert_eq!(sim.peers[1].findings, vec![finding]);
    bounce_all(&mut sim);
    sim.assert_converged();
}

/// Two members who can open the record cover it with a matched snapshot. Those who cannot take that over; a void changes nothing any more.
#[test]
fn what_a_matched_snapshot_covers_stays() {
    for kind in KINDS {
        let (mut sim, seq) = set_aside(kind);
        sim.disconnect(2);
        sim.peers[2].insert(99, "[two]");
        let snapshot = sim.snapshot(0);
        sim.settle();
        for at in BLIND {
            assert_eq!(sim.check(at), None, "no verdict on what it cannot tell");
            assert!(!sim.peers[at].doc.can_snapshot());
        }
        assert_eq!(sim.check(AUTHOR), Some(Judgement::Match));
        assert!(sim.say(AUTHOR));
        sim.send(AUTHOR, 9999);
        sim.settle();
        void(&mut sim, seq);
        sim.reach(3);
        for at in 0..4 {
            // It learns of the void after the match.
            bounce(&mut sim, at);
            while sim.receive(at) {}
            sim.peers[at].epoch = 3;
            let outcome = sim.with(at, |doc, ctx, _| doc.voided(ctx).unwrap());
            if BLIND.contains(&at) {
                assert!(matches!(outcome.blocked, Some((_, Blocked::Base))), "{at}");
                bounce(&mut sim, at);
                sim.rejoin(at);
                assert!(!sim.peers[at].last.restored);
                sim.peers[at].store();
                while sim.receive(at) {}
            } else {
                assert_eq!((outcome.blocked, outcome.rebuilt), (None, false));
            }
        }
        bounce_all(&mut sim);
        let parts = ["{lost}", "(after)", "(zero)", "(one)", "[two]"];
        texts_agree(&mut sim, &parts, &[]);
        for at in 0..4 {
            assert_eq!(sim.peers[at].findings, vec![]);
            assert!(sim.peers[at].doc.active_snapshot().1 >= snapshot);
        }
    }
}

/// One of those who cannot open the record learns that it is void before the match comes. It can look for itself then, objects, and the void wins for all.
#[test]
fn who_knows_of_the_void_before_the_match_objects_to_it() {
    for kind in KINDS {
        let (mut sim, seq) = set_aside(kind);
        sim.snapshot(0);
        sim.settle();
        void(&mut sim, seq);
        process_void(&mut sim, 1);
        assert_eq!(sim.check(AUTHOR), Some(Judgement::Match));
        assert!(sim.say(AUTHOR));
        sim.send(AUTHOR, 9999);
        sim.settle();
        sim.reach(3);
        let outcome = sim.with(1, |doc, ctx, _| doc.retry(ctx).unwrap());
        assert_eq!(
            outcome.blocked, None,
            "it is not moved before it has looked"
        );
        sim.peers[1].doc.draw_lot(1000, 8);
        let differs = sim.judge(1);
        assert!(matches!(differs, Some(Judgement::Differs(_))));
        sim.settle();
        for at in 0..4 {
            process_void(&mut sim, at);
            sim.settle();
        }
        bounce_all(&mut sim);
        texts_agree(&mut sim, &["(zero)", "(one)", "(after)"], &["lost"]);
        sim.snapshot(1);
        sim.settle();
        assert_eq!(sim.check(0), Some(Judgement::Match));
    }
}

/// The record is in a member's checkpoint, which no matched snapshot covers: that member begins again from the active snapshot.
#[test]
fn a_void_in_a_checkpoint_is_taken_out_by_way_of_the_active_snapshot() {
    let (mut sim, seq) = set_aside(CrdtKind::Yjs);
    let long = "x".repeat(60_000);
    for _ in 0..10 {
        sim.peers[0].insert(99, &long);
    }
    sim.settle();
    bounce_all(&mut sim);
    sim.disconnect(0);
    let beside = sim.peers[0].text().find("ello").unwrap();
    sim.peers[0].insert(beside, "[zero]");
    void(&mut sim, seq);
    sim.reach(3);
    for at in [1, 2, 3, 0] {
        sim.peers[at].epoch = 3;
        let outcome = sim.with(at, |doc, ctx, _| doc.voided(ctx).unwrap());
        bounce(&mut sim, at);
        if BLIND.contains(&at) {
            assert_eq!((outcome.blocked, outcome.rebuilt), (None, true));
            continue;
        }
        assert!(matches!(outcome.blocked, Some((_, Blocked::Base))), "{at}");
        assert!(outcome.reopen);
        assert!(
            !sim.send(at, 9999),
            "nothing is sent before the log is read again"
        );
        sim.rejoin(at);
        bounce(&mut sim, at);
        sim.settle();
    }
    bounce_all(&mut sim);
    let text = sim.peers[0].text();
    assert!(!text.contains("lost"));
    sim.assert_converged();
    assert_eq!(
        text.matches("[zero]").count(),
        1,
        "{}",
        text.replace('x', "")
    );
}

/// Beginning again from a snapshot is no way to forget a fork.
#[test]
fn a_service_that_shows_another_log_after_a_void_is_found_out() {
    let (mut sim, seq) = set_aside(CrdtKind::Yjs);
    let long = "x".repeat(60_000);
    for _ in 0..10 {
        sim.peers[0].insert(99, &long);
    }
    sim.settle();
    void(&mut sim, seq);
    sim.reach(3);
    sim.peers[0].epoch = 3;
    sim.with(0, |doc, ctx, _| doc.voided(ctx).unwrap());
    // The same log up to the record, and another one from there on.
    let mut other = DocumentService::new(&sim.world.states[0]);
    for at in 0..=seq {
        other.force(sim.service.record(at));
    }
    other.reach(&sim.world.states[3]);
    let size = sim.service.size();
    sim.service = other;
    while sim.service.size() <= size {
        let update = sim.update(CrdtKind::Yjs, sim.service.size() as u8, "forged");
        let record = sim.forge(2, &update, |_| {});
        sim.service.force(record);
    }
    bounce(&mut sim, 0);
    sim.peers[0].findings.clear();
    sim.rejoin(0);
    bounce(&mut sim, 0);
    sim.receive(0);
    assert!(
        sim.peers[0]
            .findings
            .iter()
            .any(|it| it.fault == Fault::Fork),
        "{:?}",
        sim.peers[0].findings
    );
    sim.peers[0].insert(0, "y");
    assert!(!sim.send(0, 9999));
}

/// A snapshot that covers the record was accepted, but nobody has found it right before the void: it differs now, and the next heals it.
/// Somebody who had opened the document from it takes that over.
#[test]
fn an_unmatched_snapshot_of_what_is_void_is_healed() {
    for kind in KINDS {
        let (mut sim, seq) = set_aside(kind);
        sim.snapshot(AUTHOR);
        sim.settle();
        sim.world.add(9, Role::Editor);
        sim.advance_epochs();
        let late = sim.join(4);
        sim.settle();
        assert!(sim.peers[late].text().contains("{lost}"));
        sim.disconnect(late);
        if kind == CrdtKind::Yjs {
            let beside = sim.peers[late].text().find("ello").unwrap();
            sim.peers[late].insert(beside, "[late]");
        }
        void(&mut sim, seq);
        sim.reach(sim.world.epoch());
        for at in 0..5 {
            process_void(&mut sim, at);
        }
        sim.settle();
        let differs = sim.check(0);
        assert!(
            matches!(differs, Some(Judgement::Differs(_))),
            "{differs:?}"
        );
        assert!(sim.say(0));
        sim.settle();
        assert_eq!(
            sim.refuted(0),
            [],
            "its author may not have known of the void"
        );
        assert!(matches!(
            sim.peers[late].doc.basis(),
            Basis::Disputed { .. }
        ));
        bounce_all(&mut sim);
        sim.snapshot(0);
        sim.settle();
        bounce(&mut sim, late);
        while sim.receive(late) {}
        let blocked = sim.peers[late].last.blocked;
        assert!(matches!(blocked, Some((_, Blocked::Base))), "{blocked:?}");
        sim.rejoin(late);
        bounce_all(&mut sim);
        let late_edits = (kind == CrdtKind::Yjs).then_some("[late]");
        let parts: Vec<&str> = ["(zero)", "(one)", "(after)"]
            .into_iter()
            .chain(late_edits)
            .collect();
        texts_agree(&mut sim, &parts, &["lost"]);
        assert_eq!(sim.check(2), Some(Judgement::Match));
    }
}

/// What others wrote behind a void record is written again by each of them, whoever learns of the void first.
#[test]
fn what_follows_a_void_is_written_again_by_each_of_its_authors() {
    for kind in KINDS {
        for order in [[0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0], [2, 1, 3, 0]] {
            // What is void made the text's root, where an engine has none before.
            let mut sim = Sim::new(kind, &FOUR, "");
            sim.settle();
            let first = sim.service.size();
            for (at, line) in [(0, "one\n"), (0, "two\n"), (1, "three\n"), (0, "four\n")] {
                sim.peers[at].insert(99, line);
                sim.settle();
                bounce_all(&mut sim);
            }
            void(&mut sim, first);
            sim.reach(1);
            for at in order {
                process_void(&mut sim, at);
                sim.settle();
                bounce_all(&mut sim);
            }
            texts_agree(&mut sim, &["two\n", "three\n", "four\n"], &["one"]);
        }
    }
}
