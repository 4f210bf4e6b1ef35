//! Random schedules of lost roots, late roots, voids, snapshots and crashes: all members end with the same document.

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
use conclave_proto::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const FOUR: [(u8, Role); 4] = [
    (1, Role::Owner),
    (2, Role::Editor),
    (3, Role::Editor),
    (4, Role::Editor),
];

struct Run {
    sim: Sim,
    rng: ChaCha20Rng,
    edits: usize,
}

impl Run {
    fn below(&mut self, bound: usize) -> usize {
        below(&mut self.rng, bound)
    }

    /// A member takes the state over from the active snapshot where it asks for that.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.sim.settle();
            let mut moved = false;
            for at in 0..self.sim.peers.len() {
                let peer = &self.sim.peers[at];
                if peer.online && peer.reopen {
                    self.sim.connect(at);
                    moved = true;
                }
                let peer = &self.sim.peers[at];
                if peer.online && matches!(peer.last.blocked, Some((_, Blocked::Base))) {
                    self.sim.rejoin(at);
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
        panic!("does not settle");
    }

    fn bounce(&mut self, at: usize) {
        self.sim.peers[at].store();
        self.sim.restart(at);
        self.sim.connect(at);
    }

    fn next_epoch(&mut self) {
        let voided = self.sim.world.states.last().unwrap().voided.clone();
        self.sim.world.rekey();
        self.sim.world.states.last_mut().unwrap().voided = voided;
    }

    fn edit(&mut self, at: usize) {
        self.edits += 1;
        let (place, text) = (self.below(40), format!(" w{} ", self.edits));
        self.sim.peers[at].insert(place, &text);
    }

    /// An epoch whose root some members never get, while the others write.
    fn lose(&mut self) {
        self.settle();
        self.next_epoch();
        let epoch = self.sim.world.epoch();
        let mut blind = vec![1, 2];
        if self.below(2) == 0 {
            blind.remove(self.rng_bit());
        }
        for at in &blind {
            self.sim.disconnect(*at);
            self.sim.peers[*at].keys.withheld.insert(epoch);
        }
        self.sim.advance_epochs();
        for _ in 0..=self.below(3) {
            let writers: Vec<usize> = (0..4).filter(|at| !blind.contains(at)).collect();
            let at = writers[self.below(writers.len())];
            self.edit(at);
            self.settle();
        }
        self.next_epoch();
        self.sim.advance_epochs();
        for at in blind {
            self.sim.connect(at);
        }
        self.settle();
    }

    fn rng_bit(&mut self) -> usize {
        self.below(2)
    }

    /// An admin voids a record that somebody has set aside.
    fn void(&mut self) {
        let all: Vec<Hash> = (0..4)
            .flat_map(|at| self.sim.peers[at].doc.set_aside_records())
            .map(|record| record.1)
            .collect();
        if all.is_empty() {
            return;
        }
        let leaf = all[self.below(all.len())];
        self.settle();
        self.next_epoch();
        let last = self.sim.world.states.last_mut().unwrap();
        if !last.voided.contains(&DOC, &leaf) {
            last.voided.push(declared(leaf));
        }
        // Members learn of it one after another.
        self.sim.reach(self.sim.world.epoch());
        for at in 0..4 {
            self.sim.peers[at].epoch = self.sim.world.epoch();
            self.sim.with(at, |doc, ctx, _| doc.voided(ctx).unwrap());
            if self.below(2) == 0 {
                self.bounce(at);
                self.settle();
            }
        }
    }

    fn snapshot(&mut self) {
        self.settle();
        let at = self.below(4);
        let doc = &self.sim.peers[at].doc;
        if doc.can_snapshot() {
            self.cover(at);
        }
        self.settle();
        if self.below(2) == 0 {
            let at = self.below(4);
            self.judge(at);
        }
    }

    /// A snapshot, if the member can make one.
    fn cover(&mut self, at: usize) -> bool {
        let peer = &mut self.sim.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.sim.world.ctx(at, peer.epoch, &keys);
        let Ok(record) = peer
            .doc
            .make_snapshot(&ctx, sealer(&peer.key, &mut peer.rng))
        else {
            return false;
        };
        let seq = self.sim.order(vec![record], Some(at));
        self.sim
            .with(at, |doc, ctx, _| doc.snapshot_accepted(ctx, seq).unwrap());
        self.settle();
        self.settle();
        true
    }

    fn judge(&mut self, at: usize) -> Option<Judgement> {
        let judgement = self.sim.judge(at);
        self.settle();
        judgement
    }

    /// Each looks at all that it can: what one finds and says makes another look again.
    fn judge_all(&mut self) {
        for _ in 0..3 {
            for at in 0..4 {
                while self.judge(at).is_some() {}
            }
            self.settle();
        }
    }

    fn step(&mut self) {
        let at = self.below(4);
        match self.below(14) {
            0..=4 => self.edit(at),
            5 => self.settle(),
            6 | 7 => self.lose(),
            8 => {
                self.sim.with(at, |doc, ctx, _| doc.set_aside(ctx).unwrap());
            }
            9 => {
                self.sim.peers[at].keys.withheld.clear();
                self.sim.with(at, |doc, ctx, _| doc.retry(ctx).unwrap());
            }
            10 => self.void(),
            11 => self.bounce(at),
            _ => self.snapshot(),
        }
    }
}

/// One schedule. False where an admin without a clean state would have to act in the end.
fn run(kind: CrdtKind, seed: u64) -> bool {
    let mut run = Run {
        sim: Sim::new(kind, &FOUR, "one two three four five six seven"),
        rng: ChaCha20Rng::seed_from_u64(seed),
        edits: 0,
    };
    for _ in 0..60 {
        run.step();
    }
    // In the end every root arrives.
    for at in 0..4 {
        run.sim.peers[at].keys.withheld.clear();
        run.bounce(at);
    }
    run.settle();
    run.settle();
    // A snapshot of what was voided afterwards is found out, and the next heals it.
    run.judge_all();
    // Whoever still has what was voided takes over a snapshot that was made afterwards.
    run.next_epoch();
    run.sim.advance_epochs();
    run.edit(0);
    run.settle();
    // One whose checkpoint does not hold what was voided.
    let able = (0..4).find(|at| run.sim.peers[*at].doc.can_snapshot());
    if !run.cover(able.unwrap_or(0)) {
        return false;
    }
    run.judge_all();
    run.sim.assert_converged();
    run.sim.assert_no_findings();
    let active = run.sim.peers[0].doc.active_snapshot().1;
    for at in 0..4 {
        let ctx_epoch = run.sim.peers[at].epoch;
        let keys = run.sim.peers[at].keys.clone();
        let ctx = run.sim.world.ctx(at, ctx_epoch, &keys);
        let wanted = run.sim.peers[at].doc.check_wanted(&ctx);
        let judgement = run.judge(at);
        if wanted.is_some_and(|it| it.seq == active) {
            assert_eq!(judgement, Some(Judgement::Match));
        }
    }
    let late = run.sim.join(0);
    run.settle();
    let digest = run.sim.peers[0].digest();
    assert_eq!(run.sim.peers[late].digest(), digest);
    true
}

#[test]
fn random_losses_converge_in_yjs() {
    let whole = (0..25).filter(|seed| run(CrdtKind::Yjs, *seed)).count();
    assert!(whole > 20, "{whole}");
}

#[test]
fn random_losses_converge_in_automerge() {
    let whole = (0..12)
        .filter(|seed| run(CrdtKind::Automerge, *seed))
        .count();
    assert!(whole > 9, "{whole}");
}
