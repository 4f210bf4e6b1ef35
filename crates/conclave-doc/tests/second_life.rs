//! Two lives of one store: a backup is restored, or a running store copied, and both go on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::BTreeMap;

use common::*;
use conclave_crdt::CrdtKind;
use conclave_doc::*;
use conclave_proto::codec::encode;
use conclave_proto::refusal::RecordFault;
use conclave_proto::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const TWO: [(u8, Role); 2] = [(1, Role::Owner), (2, Role::Editor)];
const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];
/// The first life of member 1.
const FIRST: usize = 1;
/// Its other life.
const OTHER: usize = 2;

/// Every (instance, clock) that a device has ever sent, with the bytes sent.
#[derive(Default)]
struct Audit(BTreeMap<(Author, u64), Vec<u8>>);

impl Audit {
    /// As [`Sim::send`], and no clock carries two different records.
    fn send(&mut self, sim: &mut Sim, at: usize) -> bool {
        let author = sim.peers[at].author(&sim.world);
        let peer = &mut sim.peers[at];
        let keys = peer.keys.clone();
        let ctx = sim.world.ctx(peer.member, peer.epoch, &keys);
        let sent = peer.next_append(&ctx, 4096);
        peer.store();
        let Some(append) = sent else { return false };
        for (clock, record) in (append.first_clock..).zip(&append.records) {
            let bytes = encode(record);
            let before = self.0.insert((author, clock), bytes.clone());
            assert!(
                before.is_none_or(|before| before == bytes),
                "clock {clock} of {author:?} has two records"
            );
        }
        sim.arrive(at, author, append);
        true
    }

    fn settle(&mut self, sim: &mut Sim) {
        for _ in 0..10_000 {
            let mut moved = false;
            for at in 0..sim.peers.len() {
                if sim.peers[at].online {
                    moved |= sim.receive(at);
                    sim.peers[at].store();
                    moved |= self.send(sim, at);
                }
            }
            if !moved {
                return;
            }
        }
        panic!("does not settle");
    }
}

/// A second life of member 1, from these rows. The same seed makes it a copy of a running store: it draws what the first draws.
fn second_life(sim: &mut Sim, rows: &BTreeMap<Vec<u8>, zeroize::Zeroizing<Vec<u8>>>, seed: u64) {
    let keys = Keys::default();
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let rows_now: Rows = rows.clone().into_iter().collect();
    let epoch = sim.world.epoch();
    let ctx = sim.world.ctx(1, epoch, &keys);
    let doc = Document::load(&ctx, rows_now, &mut rng).unwrap();
    let mut peer = Peer::new(1, doc, epoch);
    peer.rng = ChaCha20Rng::seed_from_u64(seed + 4711);
    peer.rows = rows.clone();
    sim.peers.push(peer);
}

fn reload(sim: &mut Sim, at: usize, seed: u64) {
    sim.peers[at].rng = ChaCha20Rng::seed_from_u64(seed);
    sim.restart(at);
}

fn assert_each_once(sim: &mut Sim, parts: &[&str]) {
    sim.assert_converged();
    let text = sim.peers[0].text();
    for part in parts {
        assert_eq!(text.matches(part).count(), 1, "{part}: {text}");
    }
}

/// The copy is made of a running store: both lives hold the same unsent edits and go on under one replica id, one instance, the same
/// clocks and counters.
#[test]
fn a_copy_of_a_running_store_parts_from_it_without_losing_or_doubling_an_edit() {
    for kind in KINDS {
        for sent_before in [false, true] {
            let mut audit = Audit::default();
            let mut sim = Sim::new(kind, &TWO, "hello");
            audit.settle(&mut sim);
            sim.peers[FIRST].insert(0, "(shared)");
            if sent_before {
                audit.send(&mut sim, FIRST);
            }
            sim.peers[FIRST].store();
            let backup = sim.peers[FIRST].rows.clone();
            reload(&mut sim, FIRST, 31);
            second_life(&mut sim, &backup, 31);
            for (life, name) in [(FIRST, "one"), (OTHER, "two")] {
                for at in 0..3 {
                    sim.peers[life].insert(0, &format!("({name}{at})"));
                }
                sim.peers[life].store();
            }
            let replica = sim.peers[FIRST].doc.crdt().replica().clone();
            assert_eq!(*sim.peers[OTHER].doc.crdt().replica(), replica);
            assert_eq!(
                sim.peers[FIRST].doc.instance(),
                sim.peers[OTHER].doc.instance()
            );
            let old = sim.peers[FIRST].doc.instance();
            sim.connect(FIRST);
            audit.settle(&mut sim);
            sim.peers[FIRST].insert(0, "(one3)");
            audit.settle(&mut sim);
            sim.connect(OTHER);
            assert!(
                !audit.send(&mut sim, OTHER),
                "first it reads what the other life wrote"
            );
            sim.peers[OTHER].store();
            audit.settle(&mut sim);
            assert_ne!(*sim.peers[OTHER].doc.crdt().replica(), replica);
            assert_ne!(sim.peers[OTHER].doc.instance(), old);
            sim.peers[OTHER].insert(0, "(two3)");
            audit.settle(&mut sim);
            // The first life learns that its instance is closed.
            sim.peers[FIRST].insert(0, "(one4)");
            audit.settle(&mut sim);
            let parts = [
                "(shared)", "(one0)", "(one1)", "(one2)", "(one3)", "(one4)", "(two0)", "(two1)",
                "(two2)", "(two3)",
            ];
            assert_each_once(&mut sim, &parts);
            assert_eq!(sim.peers[0].findings, vec![], "{kind}");
        }
    }
}

/// A restored backup that had unsent edits and makes new ones, with a crash after every step.
#[test]
fn a_restored_backup_survives_a_crash_at_every_step() {
    for kind in KINDS {
        let mut audit = Audit::default();
        let mut sim = Sim::new(kind, &TWO, "hello");
        audit.settle(&mut sim);
        sim.peers[FIRST].insert(0, "(kept)");
        sim.peers[FIRST].insert(0, "(unsent)");
        sim.peers[FIRST].store();
        let backup = sim.peers[FIRST].rows.clone();
        audit.settle(&mut sim);
        for at in 0..4 {
            sim.peers[FIRST].insert(0, &format!("(one{at})"));
        }
        audit.settle(&mut sim);
        sim.disconnect(FIRST);
        // The first life is gone for good.
        sim.peers.remove(FIRST);
        second_life(&mut sim, &backup, 7);
        sim.peers[1].insert(0, "(new)");
        sim.peers[1].store();
        let mut restored = 0;
        for step in 0..200 {
            sim.restart(1);
            sim.connect(1);
            restored += usize::from(sim.peers[1].last.restored);
            sim.peers[1].store();
            for _ in 0..step {
                sim.receive(1);
                restored += usize::from(sim.peers[1].last.restored);
                sim.peers[1].store();
                audit.send(&mut sim, 1);
            }
        }
        audit.settle(&mut sim);
        assert!(restored > 0);
        let parts = [
            "(kept)", "(unsent)", "(one0)", "(one1)", "(one2)", "(one3)", "(new)",
        ];
        assert_each_once(&mut sim, &parts);
        assert_eq!(sim.peers[0].findings, vec![], "{kind}");
    }
}

/// The service's refusals tell a second life too.
#[test]
fn refusals_that_name_another_life_are_told() {
    let cases = [
        (Refusal::ClockGap { expected: 40 }, true),
        (
            // A place that was judged already, and is another's.
            Refusal::AlreadyAccepted {
                leaf: Hash([3; 32]),
                seq: 0,
            },
            true,
        ),
        (
            Refusal::BadRecord {
                fault: RecordFault::InstanceClosed,
            },
            true,
        ),
        (
            Refusal::BadRecord {
                fault: RecordFault::Prev,
            },
            false,
        ),
    ];
    for (refusal, is_restored) in cases {
        let mut sim = Sim::new(CrdtKind::Yjs, &TWO, "hello");
        sim.settle();
        sim.peers[1].insert(0, "a");
        let (old, replica) = (
            sim.peers[1].doc.instance(),
            sim.peers[1].doc.crdt().replica().clone(),
        );
        let peer = &mut sim.peers[1];
        let keys = peer.keys.clone();
        let ctx = sim.world.ctx(1, 0, &keys);
        peer.next_append(&ctx, 4096);
        let (what, outcome) = peer.refused(&ctx, 0, &refusal);
        assert_eq!(what, RefusedOutcome::FreshInstance, "{refusal:?}");
        assert_eq!((outcome.restored, outcome.reopen), (is_restored, true));
        assert_ne!(peer.doc.instance(), old);
        assert_eq!(*peer.doc.crdt().replica() != replica, is_restored);
        assert_eq!(peer.doc.pending_count(), 1);
    }
}

/// The other life's records are in a snapshot by now, and the service keeps them only by hash. Edits made since, under the same replica id
/// and counters, are written again without undoing what others did.
#[test]
fn a_second_life_left_behind_goes_on_from_a_snapshot() {
    for kind in KINDS {
        let mut audit = Audit::default();
        let mut sim = Sim::new(kind, &TWO, "hello");
        audit.settle(&mut sim);
        sim.peers[FIRST].store();
        let backup = sim.peers[FIRST].rows.clone();
        reload(&mut sim, FIRST, 31);
        second_life(&mut sim, &backup, 31);
        sim.peers[FIRST].insert(0, "(one)");
        sim.peers[OTHER].insert(5, "(two)");
        sim.peers[OTHER].store();
        sim.connect(FIRST);
        audit.settle(&mut sim);
        sim.peers[0].insert(0, "(others)");
        audit.settle(&mut sim);
        sim.snapshot(0);
        audit.settle(&mut sim);
        let from = sim.peers[OTHER].doc.size();
        let covered = sim.service.covered();
        let opened = sim
            .service
            .opened(sim.peers[OTHER].author(&sim.world), None);
        sim.peers[OTHER].online = true;
        sim.opened(OTHER, &opened);
        let leaves = (from..covered)
            .map(|seq| conclave_proto::frame::DeliveredRecord::Leaf(sim.service.leaf(seq)))
            .collect();
        let outcome = sim.with(OTHER, |doc, ctx, _| doc.deliver(ctx, from, leaves).unwrap());
        assert!(outcome.restored, "{kind}");
        sim.peers[OTHER].store();
        sim.restart(OTHER);
        sim.connect(OTHER);
        audit.settle(&mut sim);
        assert_each_once(&mut sim, &["(one)", "(two)", "(others)"]);
    }
}

/// Found behind on opening. Until the log is read, the copy does not know which of its edits are in it already, and sends none: not after a
/// crash either.
#[test]
fn a_store_found_behind_reads_the_log_before_it_sends() {
    for kind in KINDS {
        let mut audit = Audit::default();
        let mut sim = Sim::new(kind, &TWO, "hello");
        audit.settle(&mut sim);
        sim.peers[FIRST].insert(0, "(shared)");
        sim.peers[FIRST].store();
        let backup = sim.peers[FIRST].rows.clone();
        reload(&mut sim, FIRST, 31);
        second_life(&mut sim, &backup, 31);
        for at in 0..3 {
            sim.peers[FIRST].insert(0, &format!("(one{at})"));
        }
        sim.peers[OTHER].insert(0, "(two)");
        sim.connect(FIRST);
        audit.settle(&mut sim);
        sim.connect(OTHER);
        assert!(sim.peers[OTHER].last.restored && sim.peers[OTHER].last.reopen);
        for crash in [false, true] {
            sim.peers[OTHER].store();
            if crash {
                sim.restart(OTHER);
            }
            sim.connect(OTHER);
            assert!(!sim.peers[OTHER].last.restored, "once is enough");
            assert!(!audit.send(&mut sim, OTHER), "{kind} {crash}");
        }
        audit.settle(&mut sim);
        let parts = ["(shared)", "(one0)", "(one1)", "(one2)", "(two)"];
        assert_each_once(&mut sim, &parts);
        assert_eq!(sim.peers[0].findings, vec![], "{kind}");
    }
}

/// A frame of a life that was killed reaches the service only after its successor has opened the document, and the successor has sealed the
/// same edit again, for the next epoch. Gives the frame as it was first sealed, at its place in the log.
fn late_frame(sim: &mut Sim, text: &str) -> (u64, Append) {
    sim.settle();
    sim.peers[FIRST].insert(0, text);
    let author = sim.peers[FIRST].author(&sim.world);
    let peer = &mut sim.peers[FIRST];
    let keys = peer.keys.clone();
    let ctx = sim.world.ctx(FIRST, 0, &keys);
    let late = peer.next_append(&ctx, 4096).unwrap();
    peer.store();
    sim.restart(FIRST);
    sim.connect(FIRST);
    let seq = sim.service.size();
    let authors = sim.service.authors().len();
    sim.service.append(author, &late).unwrap();
    sim.publish(seq, authors, None);
    sim.world.rekey();
    sim.reach(1);
    sim.peers[FIRST].epoch = 1;
    (seq, late)
}

/// What is compared is what an edit says, not how it was sealed: a device's own late frame is no sign of another life.
#[test]
fn the_same_edit_under_another_seal_is_adopted() {
    for kind in KINDS {
        let mut sim = Sim::new(kind, &TWO, "hello");
        let (seq, late) = late_frame(&mut sim, "(late)");
        let author = sim.peers[FIRST].author(&sim.world);
        let peer = &mut sim.peers[FIRST];
        let keys = peer.keys.clone();
        let ctx = sim.world.ctx(FIRST, 1, &keys);
        let again = peer.next_append(&ctx, 4096).unwrap();
        peer.store();
        assert_ne!(again.records, late.records);
        // The log first, then what the service says to the second form.
        while sim.receive(FIRST) {}
        assert_eq!(sim.peers[FIRST].author(&sim.world), author, "{kind}");
        assert_eq!(sim.peers[FIRST].doc.pending_count(), 0);
        let refusal = Refusal::AlreadyAccepted {
            leaf: sim.service.leaf(seq),
            seq,
        };
        assert_eq!(sim.service.append(author, &again), Err(refusal.clone()));
        let ctx = sim.world.ctx(FIRST, 1, &keys);
        let (what, outcome) = sim.peers[FIRST].refused(&ctx, again.first_clock, &refusal);
        assert_eq!((what, outcome.restored), (RefusedOutcome::Resend, false));
        sim.peers[FIRST].insert(0, "(next)");
        sim.advance_epochs();
        sim.settle();
        sim.restart(FIRST);
        sim.connect(FIRST);
        sim.settle();
        assert_eq!(sim.peers[FIRST].author(&sim.world), author, "{kind}");
        assert_each_once(&mut sim, &["(late)", "(next)"]);
        sim.assert_no_findings();
    }
}

/// The service tells of the first form before the log does: it is fetched and compared before anything is believed.
#[test]
fn an_edit_accepted_under_another_seal_is_fetched_first() {
    for kind in KINDS {
        let mut sim = Sim::new(kind, &TWO, "hello");
        let (seq, _) = late_frame(&mut sim, "(late)");
        let author = sim.peers[FIRST].author(&sim.world);
        sim.peers[FIRST].insert(0, "(next)");
        let peer = &mut sim.peers[FIRST];
        let keys = peer.keys.clone();
        let ctx = sim.world.ctx(FIRST, 1, &keys);
        let again = peer.next_append(&ctx, 4096).unwrap();
        peer.store();
        let refusal = Refusal::AlreadyAccepted {
            leaf: sim.service.leaf(seq),
            seq,
        };
        let (what, outcome) = peer.refused(&ctx, again.first_clock, &refusal);
        assert_eq!(what, RefusedOutcome::Refetch { from: seq });
        assert!(!outcome.restored && !outcome.reopen, "{kind}");
        assert!(!sim.send(FIRST, 4096), "nothing goes before it is known");
        sim.fetch(FIRST, seq, seq + 1);
        assert!(!sim.peers[FIRST].last.restored, "{kind}");
        assert_eq!(sim.peers[FIRST].doc.pending_count(), 1);
        sim.advance_epochs();
        sim.settle();
        assert_eq!(sim.peers[FIRST].author(&sim.world), author, "{kind}");
        assert_each_once(&mut sim, &["(late)", "(next)"]);
        sim.assert_no_findings();
    }
}

/// Other content at an own clock is another life, whoever ordered it; also where only the second of two edits is another.
#[test]
fn another_edit_at_an_own_clock_is_another_life() {
    for kind in KINDS {
        for shared in [false, true] {
            let mut sim = Sim::new(kind, &TWO, "hello");
            sim.settle();
            if shared {
                sim.peers[FIRST].insert(0, "(shared)");
            }
            sim.peers[FIRST].store();
            let rows = sim.peers[FIRST].rows.clone();
            second_life(&mut sim, &rows, 7);
            sim.peers[OTHER].insert(0, "(other)");
            sim.peers[FIRST].insert(0, "(mine)");
            sim.connect(FIRST);
            sim.connect(OTHER);
            let old = sim.peers[FIRST].author(&sim.world);
            assert!(sim.send(OTHER, 4096));
            while sim.receive(FIRST) {}
            assert_ne!(sim.peers[FIRST].author(&sim.world), old, "{kind}");
            sim.settle();
            assert_each_once(&mut sim, &["(other)", "(mine)"]);
            sim.assert_no_findings();
        }
    }
}
