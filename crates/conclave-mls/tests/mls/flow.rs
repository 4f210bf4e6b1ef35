//! The ordinary life of a group.

use conclave_identity::Reference;
use conclave_mls::{MlsError, Plan, Processed, check_key_package};
use conclave_proto::UnixMs;
use conclave_proto::policy::Role;

use crate::world::{NOW, World};

#[test]
fn add_join_remove_and_everybody_agrees() {
    let mut world = World::new(1);
    let (b, c) = (world.outsider(), world.outsider());
    world.add(0, &[b, c]);
    assert_eq!(world.service.state().epoch, 1);
    assert_eq!(world.service.state().rotating_since, 0);
    world.commit(b, &Plan::default());
    world.remove(0, &[c]);
    let state = world.service.state();
    assert_eq!(state.epoch, 3);
    assert_eq!(state.rotating_since, 3);
    assert!(state.is_tombstoned(&world.device(c)));
    assert!(!world.peers[c].group().is_active());
    assert!(world.peers[c].group().epoch_secrets().is_err());
}

#[test]
fn a_removed_device_is_added_again() {
    let mut world = World::new(2);
    let b = world.outsider();
    world.add(0, &[b]);
    world.remove(0, &[b]);
    world.add(0, &[b]);
    let state = world.service.state();
    assert!(!state.is_tombstoned(&world.device(b)));
    let rows = state.roster.rows().iter();
    assert_eq!(rows.filter(|row| row.device == world.device(b)).count(), 2);
}

#[test]
fn a_leave_is_covered_by_the_next_commit() {
    let mut world = World::with_roles(3, &[Role::Viewer, Role::Editor]);
    world.leave(2).unwrap();
    world.sync_all();
    world.assert_agreed();
    assert_eq!(world.service.state().pending.len(), 1);
    // Any role may commit it.
    world.commit(1, &Plan::default());
    assert!(!world.is_member(2));
    assert!(world.service.state().pending.is_empty());
}

#[test]
fn a_plan_that_removes_who_is_leaving_leaves_it_to_the_proposal() {
    let mut world = World::with_roles(4, &[Role::Editor]);
    world.leave(1).unwrap();
    world.sync_all();
    world.remove(0, &[1]);
    assert!(!world.is_member(1));
}

#[test]
fn one_commit_adds_removes_and_changes_the_policy() {
    let mut world = World::with_roles(5, &[Role::Admin, Role::Editor]);
    let d = world.outsider();
    let mut policy = world.service.state().policy.clone();
    policy.default_role = Role::Viewer;
    policy.padding_bytes = 64;
    let plan = Plan {
        add: vec![world.package(d)],
        remove: vec![world.device(2)],
        policy: Some(policy),
        self_update: true,
    };
    world.commit(1, &plan);
    let state = world.service.state();
    assert_eq!(state.role_of(&world.device(d)), Some(Role::Viewer));
    assert_eq!(state.policy.padding_bytes, 64);
}

#[test]
fn a_role_change_begins_a_row_and_keeps_the_credential() {
    let mut world = World::with_roles(6, &[Role::Editor]);
    let mut policy = world.service.state().policy.clone();
    policy.set_role(world.user_id(1), Role::Viewer);
    world.now = NOW.plus_ms(60_000);
    world.commit(
        0,
        &Plan {
            policy: Some(policy),
            ..Plan::default()
        },
    );
    let state = world.service.state();
    let device = world.device(1);
    assert_eq!(state.row(&device, 1).unwrap().role, Role::Editor);
    assert_eq!(state.row(&device, 1).unwrap().last_epoch, Some(1));
    let row = state.row(&device, 2).unwrap();
    assert_eq!(row.role, Role::Viewer);
    assert_eq!(row.time, world.now);
    assert_eq!(state.roster.accepted_at(row), NOW);
}

#[test]
fn a_renewed_credential_enters_with_a_self_update() {
    let mut world = World::with_roles(7, &[Role::Editor]);
    let user = world.peers[1].user;
    let peer = &world.peers[1];
    let renewed = {
        let user = &world.users[user];
        let (certificate, signature) =
            user.key
                .certify(&user.genesis, peer.device, &peer.key.public(), 2, NOW);
        conclave_identity::DeviceCredential::accept(
            user.genesis.clone(),
            certificate,
            signature,
            &peer.key,
        )
        .unwrap()
    };
    world.peers[1].credential = renewed.clone();
    let plan = Plan {
        self_update: true,
        ..Plan::default()
    };
    world.commit(1, &plan);
    let row = world.service.state().row(&world.device(1), 2).unwrap();
    assert_eq!(row.credential.as_slice(), renewed.to_bytes());
    assert_eq!(row.first_epoch, 2);
}

#[test]
fn a_member_long_away_processes_an_add_whose_package_is_past_its_shelf_life() {
    let mut world = World::with_roles(8, &[Role::Editor]);
    // Made and added a year before everybody else's "now"; peer 1 sees none of it until then.
    let c = world.outsider();
    let package = world.package(c);
    let add = vec![package.clone()];
    let prepared = world
        .prepare(
            0,
            &Plan {
                add,
                ..Plan::default()
            },
        )
        .unwrap();
    world.submit(0, &prepared.bundle).unwrap();
    world.sync(0).unwrap();
    world.deliver_welcomes();
    world.now = UnixMs(NOW.0 + 365 * 24 * 3600 * 1000);
    let stale = check_key_package(&package, &Reference::default(), world.now);
    assert_eq!(stale.unwrap_err(), MlsError::KeyPackageLifetime);
    world.sync_all();
    world.assert_agreed();
}

#[test]
fn outcomes_name_who_came_and_went() {
    let mut world = World::with_roles(9, &[Role::Editor]);
    let c = world.outsider();
    let plan = Plan {
        add: vec![world.package(c)],
        remove: vec![world.device(1)],
        ..Plan::default()
    };
    let prepared = world.prepare(0, &plan).unwrap();
    world.submit(0, &prepared.bundle).unwrap();
    let done = world.sync(1).unwrap();
    let Some(Processed::Commit(outcome)) = done.last() else {
        panic!("no commit")
    };
    assert!(outcome.removed_self && outcome.secrets.is_none() && !outcome.own);
    assert_eq!(outcome.added, vec![world.device(c)]);
    assert_eq!(outcome.removed, vec![world.device(1)]);
    assert_eq!(outcome.author, Some(world.device(0)));
    let done = world.sync(0).unwrap();
    let Some(Processed::Commit(outcome)) = done.last() else {
        panic!("no commit")
    };
    assert!(outcome.own && outcome.leaf == prepared.leaf && outcome.epoch == prepared.epoch);
}

#[test]
fn joiners_get_the_live_roots_and_outsiders_do_not() {
    let mut world = World::with_roles(10, &[Role::Editor]);
    let c = world.outsider();
    world.add(0, &[c]);
    for epoch in 0..=2 {
        assert_eq!(world.peers[c].roots[&epoch], world.peers[0].roots[&epoch]);
    }
    world.remove(0, &[1]);
    assert!(!world.peers[1].roots.contains_key(&3));
}
