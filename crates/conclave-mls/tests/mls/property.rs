//! Random lives of a group: whatever happens, the service and every member come to the same state.

use conclave_mls::{ClientGroup, CommitInputs, Plan, RejoinOffer};
use conclave_proto::DocumentId;
use conclave_proto::policy::Role;
use conclave_proto::record::{CloseReason, EntryBody};
use rand_chacha::rand_core::RngCore;

use crate::world::{GROUP, World};

const STEPS: usize = 24;

struct Life {
    world: World,
    documents: u8,
}

impl Life {
    fn new(seed: u64) -> Self {
        let roles = [Role::Owner, Role::Admin, Role::Editor, Role::Viewer];
        let mut world = World::with_roles(seed, &roles);
        // A second device each of the admin and the editor, and two strangers.
        world.another_device(2);
        world.another_device(3);
        world.outsider();
        world.outsider();
        Self {
            world,
            documents: 0,
        }
    }

    fn pick(&mut self, below: usize) -> usize {
        self.world.rng.next_u32() as usize % below
    }

    fn peer(&mut self, member: bool) -> Option<usize> {
        let fit: Vec<usize> = (0..self.world.peers.len())
            .filter(|peer| self.world.is_member(*peer) == member)
            .collect();
        if fit.is_empty() {
            return None;
        }
        Some(fit[self.pick(fit.len())])
    }

    fn step(&mut self) {
        let Some(actor) = self.peer(true) else { return };
        // Who acts has read the log; others may lag behind.
        self.catch_up(actor);
        match self.pick(9) {
            0 | 1 => {
                let Some(target) = self.peer(false) else {
                    return;
                };
                let add = vec![self.world.package(target)];
                self.try_commit(
                    actor,
                    &Plan {
                        add,
                        ..Plan::default()
                    },
                );
            }
            2 => {
                let Some(target) = self.peer(true) else {
                    return;
                };
                let remove = vec![self.world.device(target)];
                self.try_commit(
                    actor,
                    &Plan {
                        remove,
                        ..Plan::default()
                    },
                );
            }
            3 => self.change_role(actor),
            4 => self.leave(actor),
            5 => self.entry(actor),
            6 => self.race(actor),
            7 => self.resync(actor),
            _ => self.try_commit(actor, &Plan::default()),
        }
    }

    fn catch_up(&mut self, peer: usize) {
        self.world.deliver_welcomes();
        self.world.sync(peer).unwrap();
    }

    fn try_commit(&mut self, actor: usize, plan: &Plan) {
        self.world.now = self.world.now.plus_ms(60_000);
        // A plan may be forbidden; what a device does prepare, the service takes.
        if let Ok(prepared) = self.world.prepare(actor, plan) {
            self.world.submit(actor, &prepared.bundle).unwrap();
        }
    }

    fn change_role(&mut self, actor: usize) {
        let Some(target) = self.peer(true) else {
            return;
        };
        let roles = [Role::Viewer, Role::Editor, Role::Admin, Role::Owner];
        let role = roles[self.pick(4)];
        let mut policy = self.world.service.state().policy.clone();
        policy.set_role(self.world.user_id(target), role);
        self.try_commit(
            actor,
            &Plan {
                policy: Some(policy),
                ..Plan::default()
            },
        );
    }

    fn leave(&mut self, actor: usize) {
        if let Ok(message) = self.world.leave_message(actor) {
            self.world.propose(actor, &message).unwrap();
        }
    }

    fn entry(&mut self, actor: usize) {
        let known = DocumentId([self.documents; 16]);
        let body = match self.pick(4) {
            0 if self.documents > 0 => EntryBody::DocumentClosed {
                document: known,
                reason: CloseReason::Archived,
            },
            3 if self.documents > 0 => EntryBody::DocumentReopened { document: known },
            1 => EntryBody::RotationComplete {
                epoch: self.world.service.state().epoch,
            },
            _ => {
                self.documents += 1;
                EntryBody::DocumentCreated {
                    document: DocumentId([self.documents; 16]),
                    crdt: 1,
                }
            }
        };
        let record = self.world.sign(actor, body);
        let _ = self.world.put(actor, record);
    }

    fn race(&mut self, actor: usize) {
        let Some(other) = self.peer(true) else { return };
        self.catch_up(other);
        let lost = self.world.prepare(other, &Plan::default());
        if other != actor {
            self.try_commit(
                actor,
                &Plan {
                    self_update: true,
                    ..Plan::default()
                },
            );
        }
        if let Ok(lost) = lost {
            let _ = self.world.submit(other, &lost.bundle);
        }
    }

    fn resync(&mut self, actor: usize) {
        let state = self.world.join_state();
        if self
            .world
            .last_wrap
            .as_ref()
            .map(|wrap| wrap.statement.epoch)
            != Some(self.world.service.state().epoch)
        {
            return;
        }
        let (info, tree) = (
            self.world.service.group_info().to_vec(),
            self.world.service.tree(),
        );
        let pending = self.world.service.pending();
        let offer = RejoinOffer {
            group: GROUP,
            group_info: &info,
            tree: &tree,
            state: &state,
            pending: &pending,
            known: None,
        };
        let inputs = CommitInputs {
            now: self.world.now,
            service_time: self.world.now,
            id: self.world.inputs_id(),
            live_roots: &[],
        };
        let context = self.world.peers[actor].context();
        let (scratch, prepared) =
            ClientGroup::rejoin(&context, &offer, inputs, &mut self.world.rng).unwrap();
        self.world.submit(actor, &prepared.bundle).unwrap();
        let peer = &mut self.world.peers[actor];
        peer.rows = Default::default();
        peer.group = Some(scratch);
        peer.restart();
    }
}

fn live(seed: u64) {
    let mut life = Life::new(seed);
    for step in 0..STEPS {
        life.step();
        // Somebody may lag behind for a while.
        if step % 3 != 0 {
            life.world.sync_all();
            life.world.assert_agreed();
        }
    }
    life.world.sync_all();
    life.world.assert_agreed();
    assert!(life.world.service.state().epoch > 1);
}

#[test]
fn random_lives_agree() {
    for seed in [900, 901] {
        live(seed);
    }
}

#[test]
fn other_random_lives_agree() {
    for seed in [902, 903] {
        live(seed);
    }
}
