//! The shared judgement on facts that OpenMLS itself would not build.

use conclave_identity::DeviceKey;
use conclave_proto::policy::Role;
use conclave_proto::refusal::CommitFault;
use conclave_proto::{Hash, limits};
use conclave_rules::{
    Committer, Covered, GroupState, LeafLifetime, ProposalKind, judge, judge_commit,
};

use crate::forge;
use crate::world::World;

#[test]
fn an_external_commit_removes_somebody_else() {
    let mut world = World::with_roles(90, &[Role::Editor, Role::Editor]);
    let thief = world.another_device(world.peers[1].user);
    let state = world.service.state().clone();
    let mut facts = forge::facts(&world, thief);
    facts.committer = Committer::External;
    // A new device of a member's user, taking out a stranger or nobody.
    facts.removes = vec![world.device(2)];
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::External));
    facts.removes.clear();
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::External));
    // A member's own device, taking out a stranger instead of, or along with, its old leaf; or leaving that where it is.
    facts.path = forge::facts(&world, 1).path;
    let (own, other) = (world.device(1), world.device(2));
    for removes in [vec![other], vec![], vec![own, other]] {
        facts.removes = removes;
        assert_eq!(judge_commit(&state, &facts), Err(CommitFault::External));
    }
    facts.removes = vec![own];
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::Roster));
    // The same device under a new key is no resync.
    let key = DeviceKey::generate(&mut world.rng);
    let credential = world.users[world.peers[1].user].credential(own, &key);
    facts.path = Some(forge::leaf(&key, &credential));
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::External));
    // And it does nothing besides.
    facts.path = forge::facts(&world, 1).path;
    facts.policy = Some(state.policy.clone());
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::External));
}

#[test]
fn nobody_commits_their_own_leave_or_removal() {
    let mut world = World::with_roles(91, &[Role::Editor]);
    world.leave(1).unwrap();
    world.sync_all();
    let state = world.service.state().clone();
    let mut facts = forge::facts(&world, 1);
    facts.covered = vec![Covered {
        device: world.device(1),
        kind: ProposalKind::Leave,
    }];
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::ProposalKind));
    let mut facts = forge::facts(&world, 0);
    facts.removes = vec![world.device(0)];
    assert_eq!(
        judge_commit(&state, &facts),
        Err(CommitFault::PendingOmitted)
    );
    facts.covered = vec![Covered {
        device: world.device(1),
        kind: ProposalKind::Leave,
    }];
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::Mls));
}

#[test]
fn proposals_that_are_not_pending_or_count_twice() {
    let mut world = World::with_roles(92, &[Role::Editor, Role::Editor]);
    let leave = |device| Covered {
        device,
        kind: ProposalKind::Leave,
    };
    let mut facts = forge::facts(&world, 0);
    facts.covered = vec![leave(world.device(1))];
    let state = world.service.state().clone();
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::ProposalKind));
    world.leave(1).unwrap();
    world.sync_all();
    let state = world.service.state().clone();
    facts = forge::facts(&world, 0);
    facts.covered = vec![leave(world.device(1)), leave(world.device(1))];
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::Duplicate));
    facts.covered = vec![leave(world.device(1))];
    facts.removes = vec![world.device(1)];
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::Duplicate));
    facts.removes = vec![world.device(2), world.device(2)];
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::Duplicate));
    facts.removes.clear();
    facts.covered = vec![Covered {
        device: world.device(1),
        kind: ProposalKind::Remove,
    }];
    assert_eq!(
        judge_commit(&state, &facts),
        Err(CommitFault::PendingOmitted)
    );
}

#[test]
fn two_devices_do_not_share_a_key() {
    let mut world = World::with_roles(93, &[Role::Editor]);
    let sibling = world.another_device(world.peers[1].user);
    world.add(1, &[sibling]);
    let state = world.service.state().clone();
    let mut facts = forge::facts(&world, sibling);
    let key = &world.peers[1].key;
    let credential = world.users[world.peers[1].user].credential(world.device(sibling), key);
    facts.path = Some(forge::leaf(key, &credential));
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::Duplicate));
}

#[test]
fn leaves_that_lack_something() {
    let world = World::with_roles(94, &[Role::Editor]);
    let state = world.service.state().clone();
    let broken = |change: &dyn Fn(&mut conclave_rules::LeafFacts)| {
        let mut facts = forge::facts(&world, 1);
        change(facts.path.as_mut().unwrap());
        judge_commit(&state, &facts).unwrap_err()
    };
    assert_eq!(broken(&|leaf| leaf.capable = 0), CommitFault::Capabilities);
    assert_eq!(
        broken(&|leaf| leaf.scheme = 0x0403),
        CommitFault::Credential
    );
    assert_eq!(
        broken(&|leaf| leaf.credential_type = 1),
        CommitFault::Credential
    );
    assert_eq!(
        broken(&|leaf| leaf.credential_type = 2),
        CommitFault::Credential
    );
    let huge = vec![0; limits::CREDENTIAL_BYTES + 1];
    assert_eq!(
        broken(&|leaf| leaf.credential = huge.clone().into()),
        CommitFault::Limit
    );
    let mut facts = forge::facts(&world, 1);
    facts.adds = vec![forge::facts(&world, 0).path.unwrap()];
    // An added leaf without a lifetime was never in a key package.
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::Limit));
    facts = forge::facts(&world, 1);
    facts.epoch += 1;
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::Mls));
}

#[test]
fn a_user_has_at_most_so_many_devices() {
    let mut world = World::with_roles(95, &[Role::Viewer]);
    let user = world.peers[1].user;
    let new: Vec<usize> = (1..limits::USER_DEVICES)
        .map(|_| world.another_device(user))
        .collect();
    world.add(1, &new);
    let one_more = world.another_device(user);
    let plan = conclave_mls::Plan {
        add: vec![world.package(one_more)],
        ..Default::default()
    };
    assert_eq!(
        world.prepare(1, &plan).unwrap_err(),
        conclave_mls::MlsError::Forbidden {
            fault: CommitFault::Limit
        }
    );
    // The limit does not keep one from taking out a lost device.
    world.remove(1, &[new[0]]);
}

#[test]
fn a_user_whose_devices_came_and_went_without_end_adds_no_more() {
    let mut world = World::with_roles(96, &[Role::Viewer]);
    let user = world.peers[1].user;
    let of_user = world.user_id(1);
    let rows = |world: &World| world.service.state().roster.rows_of(&of_user);
    let mut spare = Vec::new();
    while rows(&world) < limits::USER_ROSTER_ROWS {
        let wanted = limits::USER_ROSTER_ROWS - rows(&world);
        let new: Vec<usize> = (1..limits::USER_DEVICES)
            .take(wanted)
            .map(|_| world.another_device(user))
            .collect();
        world.add(1, &new);
        world.remove(1, &new);
        spare = new;
    }
    assert_eq!(rows(&world), limits::USER_ROSTER_ROWS);
    let fault = CommitFault::Limit;
    let plan = conclave_mls::Plan {
        add: vec![world.package(spare[0])],
        ..Default::default()
    };
    assert_eq!(
        world.prepare(1, &plan).unwrap_err(),
        conclave_mls::MlsError::Forbidden { fault }
    );
    let package = crate::packages::package_of(&plan.add[0]);
    let bundle = forge::commit(&world, 1, &forge::data(&world), |builder, _| {
        builder.propose_adds([package])
    });
    crate::attacks::refused(&mut world, 1, &bundle, fault);
    // Nor does a new certificate of an old key make a row.
    let state = world.service.state().clone();
    let mut facts = forge::facts(&world, 1);
    let credential = world.users[user].certified_again(world.device(1), &world.peers[1].key);
    facts.path = Some(forge::leaf(&world.peers[1].key, &credential));
    assert_eq!(judge_commit(&state, &facts), Err(fault));
    // With what it has, it goes on; and an admin can still let its devices in.
    world.commit(1, &conclave_mls::Plan::default());
    world.add(0, &[spare[0]]);
    assert!(world.is_member(spare[0]));
}

#[test]
fn an_admin_who_turns_over_roles_uses_up_nobodys_rows() {
    const ADMIN: usize = 1;
    let mut world = World::with_roles(97, &[Role::Admin]);
    let viewer = world.outsider();
    world.add(0, &[viewer]);
    let user = world.peers[viewer].user;
    let mut state = world.service.state().clone();
    let commit = |state: &GroupState, author| {
        let mut facts = forge::facts(&world, author);
        facts.epoch = state.epoch;
        facts.data.seen = state.head();
        facts
    };
    for _ in 0..=limits::USER_ROSTER_ROWS {
        let mut policy = state.policy.clone();
        policy.default_role = match policy.default_role {
            Role::Viewer => Role::Editor,
            _ => Role::Viewer,
        };
        let mut facts = commit(&state, ADMIN);
        facts.policy = Some(policy);
        let mut next = judge::next_state(&state, &facts).unwrap();
        next.begin_epoch(Hash([1; 32]));
        state = next;
    }
    let of_user = world.user_id(viewer);
    let rows = state.roster.rows().iter();
    let rows = rows.filter(|row| row.user == of_user).count();
    assert!(rows > limits::USER_ROSTER_ROWS);
    // The user's own commits made none of them: it goes on as before.
    assert_eq!(state.roster.rows_of(&of_user), 0);
    let mut facts = commit(&state, viewer);
    let peer = &world.peers[viewer];
    let credential = world.users[user].certified_again(peer.device, &peer.key);
    facts.path = Some(forge::leaf(&peer.key, &credential));
    assert!(judge::next_state(&state, &facts).is_ok());
}

#[test]
fn an_admin_who_adds_and_removes_a_users_devices_uses_up_nobodys_rows() {
    const ADMIN: usize = 1;
    const VIEWER: usize = 2;
    let mut world = World::with_roles(98, &[Role::Admin, Role::Viewer]);
    let user = world.peers[VIEWER].user;
    let of_user = world.user_id(VIEWER);
    let (theirs, next) = (world.another_device(user), world.another_device(user));
    let mut state = world.service.state().clone();
    let facts = |state: &GroupState, author: usize| {
        let mut facts = forge::facts(&world, author);
        facts.epoch = state.epoch;
        facts.data.seen = state.head();
        facts
    };
    let leaf = |state: &GroupState, at: usize| {
        let made = state.last_time.0 / 1000;
        let lifetime = LeafLifetime {
            not_before_s: 0,
            not_after_s: made + limits::KEY_PACKAGE_VALIDITY_S,
        };
        let mut leaf = forge::facts(&world, at).path.unwrap();
        leaf.lifetime = Some(lifetime);
        leaf
    };
    let rows = |state: &GroupState| {
        let rows = state.roster.rows().iter();
        rows.filter(|row| row.user == of_user).count()
    };
    while rows(&state) <= limits::USER_ROSTER_ROWS {
        let mut facts = facts(&state, ADMIN);
        match state.is_member(&world.device(theirs)) {
            true => facts.removes = vec![world.device(theirs)],
            false => facts.adds = vec![leaf(&state, theirs)],
        }
        state = judge::next_state(&state, &facts).unwrap();
        state.begin_epoch(Hash([1; 32]));
    }
    // The user began none of these rows: it goes on as before, and what it begins is counted.
    let mut own = facts(&state, VIEWER);
    own.adds = vec![leaf(&state, next)];
    let after = judge::next_state(&state, &own).unwrap();
    assert!(after.is_member(&world.device(next)));
    assert_eq!(after.roster.rows_of(&of_user), 1);
    // Both come to the same by what is stored.
    state = after;
    state.begin_epoch(Hash([1; 32]));
    let again = GroupState::from_bytes(&state.to_bytes()).unwrap();
    assert_eq!(again.roster.rows_of(&of_user), 1);
}
