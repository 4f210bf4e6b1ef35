//! Members who say what is not true of snapshots, or make what is not true.

use conclave_crdt::CrdtKind;
use conclave_doc::*;
use conclave_proto::record::{Chained, RecordBody};
use conclave_proto::*;
use zeroize::Zeroizing;

use super::{DOC, Keys, Sim, declared, forge_snapshot, root};

pub const OWNER: usize = 0;
pub const EDITOR: usize = 1;
/// Makes what is not true.
pub const FORGER: usize = 2;
/// Says what is not true.
pub const LIAR: usize = 3;
pub const ROLES: [(u8, Role); 4] = [
    (1, Role::Owner),
    (2, Role::Editor),
    (3, Role::Editor),
    (4, Role::Viewer),
];
pub const DIFFERS: Judgement = Judgement::Differs(DiffersWhy::Content);

pub fn user(member: usize) -> UserId {
    UserId([member as u8 + 1; 32])
}

/// Members in epoch 1 with a text of epoch 0.
pub fn sim(roles: &[(u8, Role)]) -> Sim {
    let mut sim = Sim::new(CrdtKind::Yjs, roles, "hello");
    sim.peers[EDITOR].insert(5, " world");
    sim.settle();
    sim.world.rekey();
    sim.advance_epochs();
    sim
}

/// Puts words into the state of a snapshot that nobody wrote.
pub fn forged(payload: &mut SnapshotPayload) {
    let replica = conclave_crdt::ReplicaId::for_kind(CrdtKind::Yjs, [88; 16]);
    let mut crdt = conclave_crdt::load(CrdtKind::Yjs, &payload.state, replica).unwrap();
    crdt.text().unwrap().splice(0, 0, "forged ").unwrap();
    crdt.take_pending(&mut vec![]).unwrap();
    payload.state = Zeroizing::new(crdt.snapshot().unwrap());
}

/// A false snapshot by a member is ordered.
pub fn forge(sim: &mut Sim, by: usize) -> (Hash, u64) {
    let record = forge_snapshot(sim, by, |_| {}, forged);
    let id = record.leaf();
    let seq = sim.order(vec![record], None);
    sim.settle();
    (id, seq)
}

/// A member says what it likes of a snapshot.
pub fn claim(sim: &mut Sim, by: usize, snapshot: Hash, judgement: Judgement) {
    claim_from(sim, by, snapshot, 0, judgement);
}

/// The same, and that it has judged the log from somewhere on.
pub fn claim_from(sim: &mut Sim, by: usize, snapshot: Hash, from: u64, judgement: Judgement) {
    let payload = VerdictPayload::new(snapshot, from, judgement).to_bytes();
    let record = sim.forge(sim.peers[by].member, &payload, |header| {
        let Some(Chained { clock, prev }) = header.body.chained() else {
            panic!()
        };
        header.body = RecordBody::Verdict(Chained { clock, prev });
    });
    sim.order(vec![record], None);
    sim.settle();
}

pub fn needs_first_root(sim: &Sim, at: usize) -> bool {
    sim.peers[at].doc.roots_needed().needs(0)
}

/// Somebody joins and opens the document.
pub fn newcomer(sim: &mut Sim, role: Role) -> usize {
    let user = 20 + sim.peers.len() as u8;
    let member = sim.world.add(user, role);
    sim.advance_epochs();
    let late = sim.join(member);
    sim.settle();
    late
}

/// A peer dies, and comes back with what it had stored.
pub fn restart(sim: &mut Sim, at: usize) {
    sim.peers[at].store();
    sim.restart(at);
    sim.connect(at);
    sim.settle();
}

/// Looks at all that there is to look at.
pub fn check_all(sim: &mut Sim, at: usize) -> Vec<Judgement> {
    let mut found = Vec::new();
    while let Some(judgement) = sim.check(at) {
        found.push(judgement);
    }
    found
}

/// Says all that there is to say.
pub fn write_all(sim: &mut Sim, at: usize) -> usize {
    let mut said = 0;
    while sim.say(at) {
        said += 1;
        sim.settle();
    }
    said
}

/// What a peer wants to look at next.
pub fn wanted(sim: &Sim, at: usize) -> Option<CheckWanted> {
    let keys = Keys::default();
    let ctx = sim
        .world
        .ctx(sim.peers[at].member, sim.world.epoch(), &keys);
    sim.peers[at].doc.check_wanted(&ctx)
}

/// Whether a peer would make the next snapshot because the active one is wrong.
pub fn is_heal_due(sim: &Sim, at: usize) -> bool {
    let keys = Keys::default();
    let ctx = sim
        .world
        .ctx(sim.peers[at].member, sim.world.epoch(), &keys);
    sim.peers[at].doc.is_heal_due(&ctx)
}

/// A record is void from the next epoch on, and all have read that.
pub fn void(sim: &mut Sim, seq: u64) {
    void_all(sim, &[seq]);
}

/// Records are, and all have read that at once.
pub fn void_all(sim: &mut Sim, seqs: &[u64]) {
    sim.world.rekey();
    let state = sim.world.states.last_mut().unwrap();
    for seq in seqs {
        state.voided.push(declared(sim.service.leaf(*seq)));
    }
    sim.reach(sim.world.epoch());
    for at in 0..sim.peers.len() {
        sim.peers[at].epoch = sim.world.epoch();
        sim.with(at, |doc, ctx, _| doc.voided(ctx).unwrap());
    }
    sim.settle();
}

/// A snapshot that nobody can open is ordered.
pub fn forge_unreadable(sim: &mut Sim, by: usize) {
    let record = forge_snapshot(sim, by, |_| {}, |_| {});
    let nobodys = DocKeys::derive(&root(99), &DOC);
    let peer = &mut sim.peers[by];
    let record = seal(
        &record.header,
        b"nothing",
        &nobodys,
        &peer.key,
        1,
        &mut peer.rng,
    );
    sim.order(vec![record], None);
    sim.settle();
}
