//! Members converge, whatever the order in which frames travel, connections break and devices crash.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use conclave_crdt::CrdtKind;
use conclave_doc::{Document, Judgement};
use conclave_proto::Role;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];

fn three(kind: CrdtKind) -> Sim {
    Sim::new(
        kind,
        &[(1, Role::Owner), (2, Role::Editor), (3, Role::Editor)],
        "hello",
    )
}

#[test]
fn edits_reach_everybody_with_their_authors() {
    for kind in KINDS {
        let mut sim = three(kind);
        sim.settle();
        sim.peers[1].insert(5, " world");
        sim.peers[2].insert(0, "oh, ");
        sim.settle();
        sim.assert_converged();
        sim.assert_no_findings();
        assert_eq!(sim.peers[0].text(), "oh, hello world");
        let users: Vec<u8> = sim.peers[0]
            .changes
            .iter()
            .map(|change| change.user.0[0])
            .collect();
        assert_eq!(users, vec![2, 3]);
    }
}

/// Edits of a run: (step, peer, whether its rows were written).
#[derive(Default)]
struct Edits(Vec<(usize, usize, bool)>);

impl Edits {
    fn stored(&mut self, at: usize) {
        self.0
            .iter_mut()
            .filter(|edit| edit.1 == at)
            .for_each(|edit| edit.2 = true);
    }

    fn crashed(&mut self, at: usize) {
        self.0.retain(|edit| edit.1 != at || edit.2);
    }
}

/// One seeded run: edits, frames, lost connections, crashes that lose whatever was not written, snapshots, verdicts, erased roots, new
/// epochs, late commits, a member who joins and one who leaves.
fn random_run(kind: CrdtKind, seed: u64, steps: usize) {
    println!("seed {seed} kind {kind}");
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut sim = three(kind);
    sim.peers.iter_mut().for_each(Peer::store);
    let mut edits = Edits::default();
    for step in 0..steps {
        let at = below(&mut rng, sim.peers.len());
        let online = sim.peers[at].online;
        match below(&mut rng, 24) {
            0..=6 => {
                let place = if below(&mut rng, 2) == 0 {
                    0
                } else {
                    usize::MAX
                };
                sim.peers[at].insert(place, &format!("[{step}]"));
                edits.0.push((step, at, false));
            }
            7..=10 if online => {
                if sim.send(at, 1 + below(&mut rng, 2000)) {
                    edits.stored(at);
                }
            }
            11..=14 if online => {
                sim.receive(at);
            }
            15 => sim.disconnect(at),
            16 => {
                sim.restart(at);
                edits.crashed(at);
            }
            17 => sim.connect(at),
            18 if online => try_snapshot(&mut sim, at),
            19 if below(&mut rng, 3) == 0 => {
                sim.world.rekey();
                sim.reach(sim.world.epoch());
            }
            20 | 21 => {
                let judged = sim.check(at);
                assert_ne!(
                    judged.map(|it| it == Judgement::Match),
                    Some(false),
                    "{judged:?}"
                );
                sim.say(at);
                sim.confirm(at, step as u64 * 20);
            }
            22 if sim.peers.len() < 5 && below(&mut rng, 4) == 0 => {
                let member = sim.world.add(10 + step as u8, Role::Editor);
                sim.reach(sim.world.epoch());
                let roots = sim.peers[0].keys.withheld.clone();
                let newcomer = sim.join(member);
                sim.peers[newcomer].keys.withheld = roots;
                sim.peers[newcomer].store();
            }
            _ => {
                sim.peers[at].epoch = sim.world.epoch();
                sim.with(at, |doc, ctx, _| doc.retry(ctx).unwrap());
            }
        }
        if below(&mut rng, 2) == 0 {
            sim.peers[at].store_and_erase();
            edits.stored(at);
        }
        loadable(&sim, at);
    }
    sim.advance_epochs();
    for at in 0..sim.peers.len() {
        sim.connect(at);
    }
    sim.settle();
    sim.assert_converged();
    sim.assert_no_findings();
    let text = sim.peers[0].text();
    for step in 0..steps {
        let expected = usize::from(edits.0.iter().any(|edit| edit.0 == step));
        assert_eq!(
            text.matches(&format!("[{step}]")).count(),
            expected,
            "edit {step}"
        );
    }
    // What is stored gives the same document again.
    for at in 0..sim.peers.len() {
        let digest = sim.peers[at].digest();
        let head = sim.peers[at].doc.head();
        sim.peers[at].store_and_erase();
        sim.restart(at);
        assert_eq!(
            (sim.peers[at].digest(), sim.peers[at].doc.head()),
            (digest, head)
        );
    }
}

/// The rows as they are now give a document, whatever came after them.
fn loadable(sim: &Sim, at: usize) {
    let peer = &sim.peers[at];
    let ctx = sim.world.ctx(peer.member, peer.epoch, &peer.keys);
    let doc = Document::load(&ctx, peer.saved_rows(), &mut peer.rng.clone()).unwrap();
    assert!(doc.size() <= peer.doc.size());
}

/// A snapshot, where the peer is in step and the service would take it.
fn try_snapshot(sim: &mut Sim, at: usize) {
    let current = sim.peers[at].doc.active_snapshot().1 == sim.service.active();
    if current && sim.peers[at].epoch == sim.world.epoch() && sim.peers[at].doc.can_snapshot() {
        sim.snapshot(at);
    }
}

#[test]
fn random_schedules_converge_in_yjs() {
    for seed in 0..40 {
        random_run(CrdtKind::Yjs, seed, 150);
    }
}

#[test]
fn random_schedules_converge_in_automerge() {
    for seed in 100..120 {
        random_run(CrdtKind::Automerge, seed, 100);
    }
}
