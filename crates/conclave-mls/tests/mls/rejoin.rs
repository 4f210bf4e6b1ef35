//! Coming back by an external commit.

use conclave_identity::verify;
use conclave_mls::{
    ClientGroup, CommitInputs, Follower, MlsError, Plan, Prepared, ProcessError, Processed,
    RejoinOffer,
};
use conclave_proto::codec::Bytes;
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::policy::Role;
use conclave_proto::record::EntryBody;
use conclave_proto::refusal::{CommitFault, ForbiddenWhy};
use conclave_proto::{DocumentId, Refusal};

use crate::forge;
use crate::world::{GROUP, World};

/// Follows the log without secrets, as a member does that cannot go on.
fn follow(group: &ClientGroup, log: &[GroupEntry]) -> Follower {
    let mut follower = group.follower().unwrap();
    for entry in log
        .get(group.state().head().size as usize..)
        .unwrap_or_default()
    {
        follower.follow(entry).unwrap();
    }
    follower
}

/// Prepares a rejoin; the scratch group is returned, the old one stays.
pub fn prepare(world: &mut World, peer: usize) -> Result<(ClientGroup, Prepared), MlsError> {
    let state = world.join_state();
    let (info, tree) = (world.service.group_info().to_vec(), world.service.tree());
    let pending = world.service.pending();
    let roots: Vec<_> = world.peers[peer].roots.clone().into_iter().collect();
    let inputs = CommitInputs {
        now: world.now,
        service_time: world.now,
        id: world.inputs_id(),
        live_roots: &roots,
    };
    let log = world.log.clone();
    let peer = &world.peers[peer];
    let known = peer.group.as_ref().filter(|group| group.is_active());
    let known = known.map(|group| follow(group, &log));
    let offer = RejoinOffer {
        group: GROUP,
        group_info: &info,
        tree: &tree,
        state: &state,
        pending: &pending,
        known: known.as_ref(),
    };
    ClientGroup::rejoin(&peer.context(), &offer, inputs, &mut world.rng)
}

pub fn adopt(world: &mut World, peer: usize, scratch: ClientGroup) {
    world.peers[peer].rows = Default::default();
    world.peers[peer].group = Some(scratch);
    world.peers[peer].restart();
}

/// Rejoins to the end.
pub fn rejoin(world: &mut World, peer: usize) {
    let (scratch, prepared) = prepare(world, peer).unwrap();
    assert!(!scratch.is_active() && scratch.is_rejoining());
    world.submit(peer, &prepared.bundle).unwrap();
    adopt(world, peer, scratch);
    let done = world.sync(peer).unwrap();
    let Some(Processed::Commit(outcome)) = done.last() else {
        panic!("no commit")
    };
    assert!(outcome.own && outcome.removed.is_empty() && outcome.added.is_empty());
    assert_eq!(outcome.secrets.as_ref(), Some(&prepared.secrets));
}

#[test]
fn a_device_resyncs_itself() {
    let mut world = World::with_roles(80, &[Role::Editor, Role::Viewer]);
    rejoin(&mut world, 1);
    world.sync_all();
    world.assert_agreed();
    let state = world.service.state();
    assert_eq!(state.rotating_since, 0);
    // Nothing about the member changed, so its row goes on.
    assert_eq!(state.row(&world.device(1), 2).unwrap().first_epoch, 1);
    world.commit(1, &Plan::default());
}

#[test]
fn entries_and_leaves_come_before_the_rejoin() {
    let mut world = World::with_roles(81, &[Role::Editor, Role::Viewer]);
    let (scratch, prepared) = prepare(&mut world, 1).unwrap();
    let body = EntryBody::DocumentCreated {
        document: DocumentId([1; 16]),
        crdt: 1,
    };
    let record = world.sign(0, body);
    world.put(0, record).unwrap();
    world.leave(2).unwrap();
    // It need not cover the leave, which is then made again.
    world.submit(1, &prepared.bundle).unwrap();
    adopt(&mut world, 1, scratch);
    world.sync_all();
    world.assert_agreed();
    assert!(world.is_member(2));
    world.leave(2).unwrap();
    world.sync_all();
    world.commit(1, &Plan::default());
    assert!(!world.is_member(2));
}

#[test]
fn a_rejoin_that_lost_is_prepared_again() {
    let mut world = World::with_roles(82, &[Role::Editor]);
    let (mut scratch, prepared) = prepare(&mut world, 1).unwrap();
    let won = world.prepare(0, &Plan::default()).unwrap();
    world.submit(0, &won.bundle).unwrap();
    assert_eq!(
        world.submit(1, &prepared.bundle),
        Err(Refusal::EpochTaken { current: 2 })
    );
    let entry = world.log.last().unwrap().clone();
    assert_eq!(
        scratch.process(&entry).unwrap_err(),
        ProcessError::RejoinLost
    );
    assert!(scratch.is_rejoining());
    // The old group was never touched.
    world.sync_all();
    world.assert_agreed();
    rejoin(&mut world, 1);
    world.sync_all();
    world.assert_agreed();
}

#[test]
fn a_removed_device_does_not_come_back_by_itself() {
    let mut world = World::with_roles(83, &[Role::Editor]);
    world.remove(0, &[1]);
    let refused = MlsError::Forbidden {
        fault: CommitFault::Duplicate,
    };
    assert_eq!(prepare(&mut world, 1).unwrap_err(), refused);
    let stranger = world.outsider();
    let refused = MlsError::Forbidden {
        fault: CommitFault::External,
    };
    assert_eq!(prepare(&mut world, stranger).unwrap_err(), refused);
    let why = ForbiddenWhy::Tombstoned;
    let (_, prepared) = prepare(&mut world, 0).unwrap();
    assert_eq!(
        forge::refusal(&world, 1, &prepared.bundle),
        Refusal::Forbidden { why }
    );
}

#[test]
fn a_new_device_of_a_user_who_is_alone_recovers_the_group() {
    let mut world = World::new(84);
    world.commit(0, &Plan::default());
    let second = world.another_device(0);
    let (scratch, prepared) = prepare(&mut world, second).unwrap();
    world.submit(second, &prepared.bundle).unwrap();
    adopt(&mut world, second, scratch);
    world.sync_all();
    world.assert_agreed();
    assert!(world.is_member(second) && world.is_member(0));
    world.remove(second, &[0]);
}

#[test]
fn a_device_resyncs_before_there_was_any_commit() {
    let mut world = World::new(87);
    let body = EntryBody::DocumentCreated {
        document: DocumentId([1; 16]),
        crdt: 1,
    };
    let record = world.sign(0, body);
    world.put(0, record).unwrap();
    world.sync_all();
    rejoin(&mut world, 0);
    world.assert_agreed();
    assert_eq!(world.service.state().epoch, 1);
}

#[test]
fn a_forged_genesis_is_not_believed() {
    let mut world = World::new(88);
    let mut state = world.join_state();
    let other = World::new(89);
    state.group_state = other.service.state().to_bytes().into();
    let (info, tree) = (world.service.group_info().to_vec(), world.service.tree());
    let peer = &world.peers[0];
    let offer = RejoinOffer {
        group: GROUP,
        group_info: &info,
        tree: &tree,
        state: &state,
        pending: &[],
        known: None,
    };
    let inputs = CommitInputs {
        now: world.now,
        service_time: world.now,
        id: conclave_proto::CommitId([1; 16]),
        live_roots: &[],
    };
    let refused = ClientGroup::rejoin(&peer.context(), &offer, inputs, &mut world.rng);
    assert!(matches!(refused, Err(MlsError::BadInvitation { .. })));
}

#[test]
fn a_service_that_rolled_back_is_not_believed() {
    let mut world = World::with_roles(85, &[Role::Editor]);
    let old = (
        world.join_state(),
        world.service.group_info().to_vec(),
        world.service.tree(),
    );
    world.commit(0, &Plan::default());
    let peer = &world.peers[1];
    let offer = RejoinOffer {
        group: GROUP,
        group_info: &old.1,
        tree: &old.2,
        state: &old.0,
        pending: &[],
        known: Some(&peer.group().follower().unwrap()),
    };
    let inputs = CommitInputs {
        now: world.now,
        service_time: world.now,
        id: conclave_proto::CommitId([1; 16]),
        live_roots: &[],
    };
    let refused = ClientGroup::rejoin(&peer.context(), &offer, inputs, &mut world.rng);
    assert!(matches!(refused, Err(MlsError::BadInvitation { .. })));
}

/// Changes the confirmation tag of a commit and signs a GroupInfo to match: the service, which has no key, cannot tell.
fn garble(world: &World, author: usize, good: &Prepared) -> CommitBundle {
    let peer = &world.peers[author];
    let (commit, info) = (
        good.bundle.commit.as_slice(),
        good.bundle.group_info.as_slice(),
    );
    // The tag is the last but one field of the commit: 32 bytes before the membership tag's prefix and 32 bytes.
    let tag_at = commit.len() - 33 - 32;
    let tag = &commit[tag_at..tag_at + 32];
    let in_info = info.windows(32).rposition(|window| window == tag).unwrap();
    let (mut commit, mut info) = (commit.to_vec(), info.to_vec());
    commit[tag_at] ^= 1;
    info[in_info] ^= 1;
    let signed = info[4..in_info + 32 + 4].to_vec();
    let signature = peer.key.sign("GroupInfoTBS", &signed);
    verify(&peer.key.public(), "GroupInfoTBS", &signed, &signature).unwrap();
    let start = info.len() - 64;
    info[start..].copy_from_slice(&signature);
    let leaf = GroupEntry::Commit(commit.as_slice().into()).leaf();
    let s = &good.bundle.wrap.statement;
    CommitBundle {
        commit: commit.into(),
        group_info: info.into(),
        wrap: forge::wrap(peer, s.epoch, leaf, s.roster, Bytes::default()),
        ..good.bundle.clone()
    }
}

#[test]
fn a_garbled_commit_is_ordered_and_everybody_comes_back() {
    let mut world = World::with_roles(86, &[Role::Editor, Role::Editor, Role::Viewer]);
    let good = world.prepare(3, &Plan::default()).unwrap();
    let garbled = garble(&world, 3, &good);
    world.submit(3, &garbled).unwrap();
    for peer in 0..4 {
        let before = world.peers[peer].group().state().clone();
        assert_eq!(
            world.sync(peer).unwrap_err(),
            // The tags are under no signature: the service could have done it.
            ProcessError::Undecryptable { author: None }
        );
        assert_eq!(world.peers[peer].group().state(), &before);
    }
    for peer in 0..3 {
        rejoin(&mut world, peer);
        for other in 0..peer {
            world.sync(other).unwrap();
        }
    }
    assert_eq!(world.secrets(0), world.secrets(2));
    world.peers[0].restart();
    let remove = vec![world.device(3)];
    let prepared = world
        .prepare(
            0,
            &Plan {
                remove,
                ..Plan::default()
            },
        )
        .unwrap();
    world.submit(0, &prepared.bundle).unwrap();
    for peer in 0..3 {
        world.sync(peer).unwrap();
        assert_eq!(world.peers[peer].group().state(), world.service.state());
        assert_eq!(world.secrets(peer), prepared.secrets);
    }
}

#[test]
fn a_follower_judges_the_log_as_members_do_and_needs_no_secret() {
    let mut world = World::with_roles(87, &[Role::Editor, Role::Editor, Role::Viewer]);
    let follower = |world: &World| follow(world.peers[1].group(), &world.log);
    let body = EntryBody::DocumentCreated {
        document: DocumentId([1; 16]),
        crdt: 1,
    };
    // Peer 1 hears nothing from here on.
    let record = world.sign(0, body);
    world.put(0, record).unwrap();
    world.sync(0).unwrap();
    world.leave(3).unwrap();
    world.sync(0).unwrap();
    world.commit(0, &Plan::default());
    world.sync(0).unwrap();
    let newcomer = world.outsider();
    world.add(0, &[newcomer]);
    assert_eq!(follower(&world).state(), world.service.state());
    // A commit that breaks the rules is refused, and its signer named, by somebody who could not decrypt it anyway.
    let good = world.prepare(0, &Plan::default()).unwrap();
    let mut late = follower(&world);
    let before = late.state().clone();
    let data = forge::data(&world);
    let illegal = forge::commit(&world, 2, &data, |builder, _| {
        builder.force_self_update(true)
    });
    let error = late
        .follow(&GroupEntry::Commit(illegal.commit))
        .unwrap_err();
    assert!(
        matches!(error, ProcessError::Illegal { signer, .. } if signer == Some(world.device(2))),
        "{error:?}"
    );
    for bytes in [
        vec![],
        vec![7; 99],
        good.bundle
            .welcome
            .map_or(vec![1], |it| it.as_slice().to_vec()),
    ] {
        assert!(
            late.follow(&GroupEntry::Commit(bytes.clone().into()))
                .is_err()
        );
        assert!(late.follow(&GroupEntry::Proposal(bytes.into())).is_err());
    }
    assert_eq!(late.state(), &before);
    late.follow(&GroupEntry::Commit(good.bundle.commit))
        .unwrap();
}

#[test]
fn an_offer_with_an_invented_member_is_refused_by_who_followed_the_log() {
    let mut world = World::with_roles(88, &[Role::Editor]);
    // A group of the same id, members and history but for one device that nobody added.
    let mut other = World::with_roles(88, &[Role::Editor]);
    let thief = other.outsider();
    other.add(0, &[thief]);
    other.sync_all();
    world.commit(0, &Plan::default());
    let known = follow(world.peers[1].group(), &world.log);
    let state = other.join_state();
    let (info, tree) = (other.service.group_info().to_vec(), other.service.tree());
    let inputs = CommitInputs {
        now: world.now,
        service_time: world.now,
        id: world.inputs_id(),
        live_roots: &[],
    };
    let offer = RejoinOffer {
        group: GROUP,
        group_info: &info,
        tree: &tree,
        state: &state,
        pending: &[],
        known: Some(&known),
    };
    let mut rng = world.rng.clone();
    let refused = ClientGroup::rejoin(&world.peers[1].context(), &offer, inputs, &mut rng);
    assert!(matches!(refused, Err(MlsError::BadInvitation { .. })));
}

#[test]
fn a_device_that_is_added_again_hears_of_it_and_keeps_its_state_until_the_welcome() {
    let mut world = World::with_roles(89, &[Role::Editor]);
    let package = world.package(1);
    let device = world.device(1);
    let plan = Plan {
        add: vec![package],
        remove: vec![device],
        ..Plan::default()
    };
    let prepared = world.prepare(0, &plan).unwrap();
    let before = world.peers[1].group().state().clone();
    world.submit(0, &prepared.bundle).unwrap();
    let entry = world.log.last().unwrap().clone();
    let group = world.peers[1].group_mut();
    assert_eq!(group.process(&entry).unwrap_err(), ProcessError::ReAdded);
    assert_eq!(group.state(), &before);
    let known = follow(world.peers[1].group(), &world.log);
    assert_eq!(known.state(), world.service.state());
    assert!(world.is_member(1));
}
