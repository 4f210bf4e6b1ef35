//! A group that its service does not have, as a member brings it: judged as a joiner judges what a service hands over.

use conclave_mls::{Adoption, Plan, PublicGroupState};
use conclave_proto::codec::Bytes;
use conclave_proto::frame::JoinState;
use conclave_proto::group::GroupEntry;
use conclave_proto::policy::Role;
use conclave_proto::record::EntryBody;
use conclave_proto::refusal::{CommitFault, ForbiddenWhy};
use conclave_proto::{DeviceId, DocumentId, Frontier, GroupId, Hash, Refusal};

use crate::world::{GROUP, World};

/// What a member brings.
#[derive(Clone)]
struct Brought {
    group: GroupId,
    sender: DeviceId,
    group_info: Vec<u8>,
    tree: Vec<u8>,
    state: JoinState,
    pending: Vec<Bytes>,
}

impl Brought {
    fn by(world: &World, peer: usize) -> Self {
        let member = &world.peers[peer];
        let begun = usize::try_from(world.service.state().epoch_start).unwrap();
        let since = world.log[begun..].iter();
        let pending = since.filter_map(|entry| match entry {
            GroupEntry::Proposal(message) => Some(message.clone()),
            _ => None,
        });
        Self {
            group: GROUP,
            sender: member.device,
            group_info: member.group().export_group_info(&member.context()).unwrap(),
            tree: world.service.tree(),
            state: world.join_state(),
            pending: pending.collect(),
        }
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }

    fn adopt(&self) -> Result<PublicGroupState, Refusal> {
        PublicGroupState::adopt(&Adoption {
            group: self.group,
            sender: self.sender,
            group_info: &self.group_info,
            tree: &self.tree,
            state: &self.state,
            pending: &self.pending,
        })
    }

    fn refused(&self) -> Refusal {
        self.adopt().map(|_| ()).unwrap_err()
    }
}

/// A group with documents, somebody who went, and two who are about to go: an owner, an admin, and they.
fn history() -> World {
    let roles = [Role::Admin, Role::Editor, Role::Editor, Role::Viewer];
    let mut world = World::with_roles(51, &roles);
    let document = DocumentId([4; 16]);
    let created = world.sign(1, EntryBody::DocumentCreated { document, crdt: 1 });
    world.put(1, created).unwrap();
    world.sync_all();
    world.remove(0, &[4]);
    world.leave(2).unwrap();
    world.leave(3).unwrap();
    let record = Hash([1; 32]);
    world.sync_all();
    let voided = world.sign(0, EntryBody::RecordVoided { document, record });
    world.put(0, voided).unwrap();
    world.sync_all();
    world
}

const MISFIT: Refusal = Refusal::BadCommit {
    fault: CommitFault::GroupInfo,
};

#[test]
fn a_service_takes_a_group_up_and_goes_on() {
    let mut world = history();
    let before = Brought::by(&world, 1);
    assert_eq!(before.pending.len(), 2);
    let mut adopted = before.adopt().unwrap();
    assert_eq!(adopted.state(), world.service.state());
    assert_eq!(adopted.tree(), world.service.tree());
    assert_eq!(adopted.group_info(), before.group_info);
    // From its rows, after a restart, it takes what the other takes.
    let mut rows = std::collections::BTreeMap::new();
    for change in adopted.take_changes() {
        rows.extend(change.value.map(|value| (change.key, value)));
    }
    adopted = PublicGroupState::load(rows.into_iter().collect(), world.roots()).unwrap();
    assert_eq!(adopted.state(), world.service.state());
    let record = world.sign(
        0,
        EntryBody::DocumentCreated {
            document: DocumentId([5; 16]),
            crdt: 1,
        },
    );
    let effect = adopted.judge_entry(&record, world.device(0)).unwrap();
    adopted.apply_entry(&effect);
    world.put(0, record).unwrap();
    world.sync_all();
    let prepared = world.prepare(0, &Plan::default()).unwrap();
    let (owner, now) = (world.device(0), world.now);
    let judged = adopted.judge_bundle(&prepared.bundle, owner, now).unwrap();
    adopted.apply(judged).unwrap();
    world.submit(0, &prepared.bundle).unwrap();
    world.sync_all();
    assert!(!world.is_member(2) && !world.is_member(3));
    assert_eq!(adopted.state(), world.service.state());
    assert_eq!(adopted.tree(), world.service.tree());
    assert_eq!(adopted.group_info(), world.service.group_info());
}

#[test]
fn a_group_that_has_had_no_commit_is_taken_up() {
    let mut world = World::new(52);
    let good = Brought::by(&world, 0);
    assert_eq!(good.adopt().unwrap().state(), world.service.state());
    let document = DocumentId([4; 16]);
    let created = world.sign(0, EntryBody::DocumentCreated { document, crdt: 1 });
    world.put(0, created).unwrap();
    world.sync_all();
    let good = Brought::by(&world, 0);
    assert_eq!(good.adopt().unwrap().state(), world.service.state());
    // The roster of another group of this id.
    let other = Brought::by(&World::new(53), 0);
    let forged = good.with(|it| it.state = other.state.clone());
    assert_eq!(forged.refused(), MISFIT);
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let mut world = history();
    let old = Brought::by(&world, 1);
    world.commit(0, &Plan::default());
    let good = Brought::by(&world, 1);
    good.adopt().unwrap();
    old.adopt().unwrap();
    let of_ana = Brought::by(&world, 0);
    let cases = [
        good.with(|it| it.state = old.state.clone()),
        good.with(|it| it.tree = old.tree.clone()),
        good.with(|it| it.group_info = old.group_info.clone()),
        good.with(|it| it.state.wrap = old.state.wrap.clone()),
        good.with(|it| it.state.wrap.signature[0] ^= 1),
        good.with(|it| _ = it.state.entries.pop()),
        good.with(|it| it.state.entries.swap(0, 1)),
        good.with(|it| it.state.entries[0].sealed.signature[0] ^= 1),
        good.with(|it| it.state.frontier = Frontier::new()),
        good.with(|it| it.state.frontier = old.state.frontier.clone()),
        good.with(|it| it.group = GroupId([9; 16])),
        // It is another member's word.
        good.with(|it| it.group_info = of_ana.group_info.clone()),
        good.with(|it| it.group_info.clear()),
        good.with(|it| it.tree.clear()),
        good.with(|it| it.state.group_state = Vec::new().into()),
    ];
    for (at, case) in cases.iter().enumerate() {
        assert_eq!(case.refused(), MISFIT, "{at}");
    }
    let large = vec![0; conclave_proto::limits::MLS_MESSAGE_BYTES + 1];
    let fault = CommitFault::Limit;
    let too_large = good.with(|it| it.tree = large);
    assert_eq!(too_large.refused(), Refusal::BadCommit { fault });
}

#[test]
fn any_other_byte_of_group_info_or_tree_is_refused() {
    let world = history();
    let good = Brought::by(&world, 0);
    for at in (0..good.group_info.len()).step_by(7) {
        let other = good.with(|it| it.group_info[at] ^= 1);
        assert!(other.adopt().is_err(), "GroupInfo, {at}");
    }
    for at in (0..good.tree.len()).step_by(31) {
        let other = good.with(|it| it.tree[at] ^= 1);
        assert!(other.adopt().is_err(), "tree, {at}");
    }
    // The state says things that nothing proves; whatever it says is answered.
    let state = good.state.group_state.as_slice().to_vec();
    for at in (0..state.len()).step_by(31) {
        let mut bytes = state.clone();
        bytes[at] ^= 1;
        let _ = good.with(|it| it.state.group_state = bytes.into()).adopt();
    }
}

#[test]
fn only_a_member_brings_a_group() {
    let mut world = history();
    let good = Brought::by(&world, 0);
    let why = ForbiddenWhy::Tombstoned;
    let gone = world.device(4);
    let removed = good.with(|it| it.sender = gone);
    assert_eq!(removed.refused(), Refusal::Forbidden { why });
    let stranger = world.outsider();
    let stranger = world.device(stranger);
    let why = ForbiddenWhy::NotMember;
    let not_yet = good.with(|it| it.sender = stranger);
    assert_eq!(not_yet.refused(), Refusal::Forbidden { why });
}

#[test]
fn what_is_pending_comes_along_as_it_was() {
    let world = history();
    let good = Brought::by(&world, 0);
    let last = good.pending[1].clone();
    let mut altered = last.as_slice().to_vec();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    let cases = [
        good.with(|it| it.pending.clear()),
        good.with(|it| _ = it.pending.pop()),
        good.with(|it| it.pending.swap(0, 1)),
        good.with(|it| it.pending.push(last.clone())),
        good.with(|it| it.pending[1] = altered.clone().into()),
        good.with(|it| it.pending[1] = Bytes::default()),
    ];
    for (at, case) in cases.iter().enumerate() {
        assert_eq!(case.refused(), Refusal::ProposalPending, "{at}");
    }
    good.adopt().unwrap();
}
