//! Members converge, whatever the order in which frames travel, connections break and devices crash.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::*;
use conclave_crdt::CrdtKind;
use conclave_proto::Role;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];

fn three(kind: CrdtKind) -> Sim {
    Sim::new(kind, &[(1, Role::Owner), (2, Role::Editor), (3, Role::Editor)], "hello")
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
        let users: Vec<u8> = sim.peers[0].changes.iter().map(|change| change.user.0[0]).collect();
        assert_eq!(users, vec![2, 3]);
    }
}

/// One seeded run: edits, frames in any order of peers, lost connections, crashes, snapshots, new epochs.
fn random_run(kind: CrdtKind, seed: u64, steps: usize) {
    println!("seed {seed} kind {kind}");
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut sim = three(kind);
    for peer in &mut sim.peers {
        peer.store();
    }
    for step in 0..steps {
        let at = below(&mut rng, 3);
        match below(&mut rng, 20) {
            0..=6 => {
                let place = below(&mut rng, 40);
                let text = format!("[{step}]");
                sim.peers[at].insert(place, &text);
                if below(&mut rng, 3) > 0 {
                    sim.peers[at].store();
                }
            }
            7..=10 if sim.peers[at].online => {
                sim.send(at, 1 + below(&mut rng, 2000));
            }
            11..=14 if sim.peers[at].online => {
                sim.receive(at);
                sim.peers[at].store();
            }
            15 => sim.disconnect(at),
            16 => {
                sim.peers[at].store();
                sim.restart(at);
            }
            17 => sim.connect(at),
            18 if sim.peers[at].doc.can_snapshot() && sim.peers[at].online && sim.peers[at].epoch == sim.world.epoch() => {
                let size = sim.service.size();
                if sim.peers[at].doc.size() == size && sim.service.active.is_some_and(|seq| sim.peers[at].doc.active_snapshot().1 == seq) {
                    sim.snapshot(at);
                }
            }
            19 if below(&mut rng, 4) == 0 => {
                sim.world.rekey();
                sim.service.epoch = sim.world.epoch();
            }
            _ => {
                // One member learns of the commits.
                sim.peers[at].epoch = sim.world.epoch();
                sim.with(at, |doc, ctx, _| doc.retry(ctx).unwrap());
            }
        }
        let peer = &mut sim.peers[at];
        if below(&mut rng, 2) == 0 {
            peer.store();
        }
    }
    sim.advance_epochs();
    for at in 0..3 {
        sim.connect(at);
    }
    sim.settle();
    sim.assert_converged();
    sim.assert_no_findings();
    // Every stored edit is in the text exactly once.
    let text = sim.peers[0].text();
    for step in 0..steps {
        assert!(text.matches(&format!("[{step}]")).count() <= 1, "edit {step} is doubled");
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
