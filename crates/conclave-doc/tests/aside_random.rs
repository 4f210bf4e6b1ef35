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
                    self.rejoin(at);
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
        panic!("does not settle");
    }

    fn rejoin(&mut self, at: usize) {
        let sim = &mut self.sim;
        let author = sim.peers[at].author(&sim.world);
        let opened = sim.service.opened(author, None);
        sim.peers[at].inbox.clear();
        sim.peers[at].reopen = false;
        sim.peers[at].base = opened.base.as_ref().map(|base| (base.seq, opened.from));
        sim.with(at, |doc, ctx, rng| doc.opened(ctx, &opened, rng).unwrap());
        let records = (opened.from..sim.service.size())
            .map(|seq| sim.service.whole_for(seq, sim.peers[at].base))
            .collect();
        sim.peers[at]
            .inbox
            .push_back(Net::Deliver(opened.from, records));
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

    fn trace(&mut self, what: &str) {
        if std::env::var("TR").is_err() { return; }
        println!("== {what} size {}", self.sim.service.size());
        for p in &mut self.sim.peers { let tx = p.text(); println!("     {} size {} active {:?} matched-base {:?} aside {:?} epoch {} blocked {:?} pend {} last rebuilt {} rewr {} reopen {} text {}", p.member, p.doc.size(), p.doc.active_snapshot().1, p.doc.on_word_of().is_some(), p.doc.set_aside_records().iter().map(|r| r.0).collect::<Vec<_>>(), p.epoch, p.last.blocked, p.doc.pending_count(), p.last.rebuilt, p.last.refused_own, p.last.reopen, tx); }
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
        if std::env::var("TR").is_ok() { println!("VOID {:?}", self.sim.service.leaves.iter().position(|l| *l == leaf)); }
        self.trace("before void");
        self.settle();
        self.next_epoch();
        let last = self.sim.world.states.last_mut().unwrap();
        if !last.voided.contains(&(DOC, leaf)) {
            last.voided.push((DOC, leaf));
        }
        // Members learn of it one after another.
        self.sim.service.epoch = self.sim.world.epoch();
        for at in 0..4 {
            self.sim.peers[at].epoch = self.sim.world.epoch();
            self.sim.with(at, |doc, ctx, _| doc.voided(ctx).unwrap());
            self.trace("voided");
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
        if doc.can_snapshot() || (at == 0 && doc.is_disputed() && doc.size() > 1) {
            let peer = &mut self.sim.peers[at];
            let keys = peer.keys.clone();
            let ctx = self.sim.world.ctx(at, peer.epoch, &keys);
            if let Ok(record) = peer.doc.make_snapshot(&ctx, &mut peer.rng) {
                let seq = self.sim.order(vec![record], Some(at));
                self.sim
                    .with(at, |doc, ctx, _| doc.snapshot_accepted(ctx, seq).unwrap());
            }
        }
        self.settle();
        if self.below(2) == 0 {
            let at = self.below(4);
            self.judge(at);
        }
    }

    fn judge(&mut self, at: usize) -> Option<Judgement> {
        let epoch = self.sim.peers[at].epoch as usize;
        let wanted = self.sim.peers[at]
            .doc
            .check_wanted(&self.sim.world.states[epoch])?;
        if !wanted.have {
            self.sim.fetch(at, wanted.seq, wanted.seq + 1);
        }
        let peer = &mut self.sim.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.sim.world.ctx(at, peer.epoch, &keys);
        let judgement = peer.doc.check_snapshot(&ctx).unwrap();
        peer.doc.write_verdict();
        self.settle();
        judgement
    }

    fn step(&mut self) {
        let at = self.below(4);
        let w = self.below(14);
        if std::env::var("TR").is_ok() { println!("-- step {w} at {at} size {} epoch {}", self.sim.service.size(), self.sim.world.epoch()); for p in &self.sim.peers { println!("     {} size {} active {:?} disputed {} aside {:?} voided {} withheld {:?} blocked {:?} pend {}", p.member, p.doc.size(), p.doc.active_snapshot().1, p.doc.is_disputed(), p.doc.set_aside_records().iter().map(|r| r.0).collect::<Vec<_>>(), self.sim.world.states[p.epoch as usize].voided.len(), p.keys.withheld, p.last.blocked, p.doc.pending_count()); } }
        match w {
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

fn run(kind: CrdtKind, seed: u64) {
    let mut run = Run {
        sim: Sim::new(kind, &FOUR, "one two three four five six seven"),
        rng: ChaCha20Rng::seed_from_u64(seed),
        edits: 0,
    };
    for _ in 0..std::env::var("STEPS").unwrap().parse::<usize>().unwrap() {
        run.step();
    }
    // In the end every root arrives.
    run.trace("end");
    for at in 0..4 {
        run.sim.peers[at].keys.withheld.clear();
        run.bounce(at);
        run.trace("granted");
    }
    run.settle();
    run.trace("settled");
    run.settle();
    // A snapshot of what was voided afterwards is found out, and replaced by an admin who does not rest on it.
    for at in 0..4 {
        run.judge(at);
    }
    if run.sim.peers[0].doc.is_disputed() {
        if run.sim.peers[0].doc.on_word_of().is_some() {
            return;
        }
        run.sim.snapshot(0);
        run.settle();
        run.settle();
    }
    println!("{kind} {seed}");
    if std::env::var("TR").is_ok() { for (seq, r) in run.sim.service.log.iter().enumerate() { println!("   {seq} by {:?} epoch {} {:?}", r.header.author, r.header.epoch, r.header.body); } }
    for peer in &run.sim.peers {
        println!("  {} pending {} in flight {} size {}/{} epoch {}/{} behind {:?} former {:?} blocked {:?} gap {:?} snap {:?}", peer.member, peer.doc.pending_count(), peer.doc.in_flight_count(), peer.doc.size(), run.sim.service.size(), peer.epoch, run.sim.service.epoch, peer.last.restored, peer.doc, peer.last.blocked, peer.last.gap, peer.doc.active_snapshot().1);
    }
    run.sim.assert_converged();
    run.sim.assert_no_findings();
    if run.sim.peers[0].doc.can_snapshot() {
        run.sim.snapshot(0);
        run.settle();
        for at in 1..4 {
            let judgement = run.judge(at);
            assert!(matches!(judgement, None | Some(Judgement::Match)));
        }
    }
    let late = run.sim.join(0);
    run.settle();
    let digest = run.sim.peers[0].digest();
    assert_eq!(run.sim.peers[late].digest(), digest);
}

#[test]
fn random_losses_converge_in_yjs() {
    let (a,b): (u64,u64) = (std::env::var("A").unwrap().parse().unwrap(), std::env::var("B").unwrap().parse().unwrap());
    (a..b).for_each(|seed| run(if std::env::var("AM").is_ok() {CrdtKind::Automerge} else {CrdtKind::Yjs}, seed));
}


