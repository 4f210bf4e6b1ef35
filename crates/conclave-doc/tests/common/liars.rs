//! Members who say what is not true of snapshots, or make what is not true.

use conclave_crdt::CrdtKind;
use conclave_doc::*;
use conclave_proto::record::{Chained, RecordBody};
use conclave_proto::*;
use zeroize::Zeroizing;

use super::{Sim, forge_snapshot};

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
    let payload = VerdictPayload::new(snapshot, 0, judgement).to_bytes();
    let record = sim.forge(by, &payload, |header| {
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
