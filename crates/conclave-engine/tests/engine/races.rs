//! Two members commit in one epoch: one wins, the other's intent is judged again.

use conclave_engine::{Command, Reply};
use conclave_proto::{GroupId, Role};

use crate::world::World;

/// Ana owns the group, Ben is an admin, the others are outside.
fn two_admins(seed: u64, names: &[&str]) -> (World, GroupId) {
    let mut world = World::new(seed, names);
    let group = world.create_group(0);
    world.invite(group, 0, 1, Some(Role::Admin));
    (world, group)
}

#[test]
fn two_admins_who_invite_at_once_both_succeed() {
    for seed in 0..4 {
        let (mut world, group) = two_admins(seed, &["ana", "ben", "cleo", "dan"]);
        let epoch = world.info(0, group).unwrap().epoch;
        let mut waiting = Vec::new();
        for (admin, guest) in [(0, 2), (1, 3)] {
            let user = world.devices[guest].user;
            let role = None;
            waiting.push(world.command(admin, Command::Invite { group, user, role }));
        }
        world.run();
        for (admin, id) in waiting.into_iter().enumerate() {
            assert!(matches!(world.reply(admin, id), Some(Ok(Reply::Done))));
        }
        for guest in [2, 3] {
            world.ask(guest, Command::Accept { group });
        }
        world.run();
        world.converged(group, &[0, 1, 2, 3]);
        assert_eq!(
            world.info(0, group).unwrap().epoch,
            epoch + 2,
            "seed {seed}"
        );
        world.no_findings();
    }
}

#[test]
fn two_admins_who_want_the_same_make_one_commit() {
    for seed in 0..4 {
        let (mut world, group) = two_admins(seed, &["ana", "ben", "cleo"]);
        world.invite(group, 0, 2, None);
        let epoch = world.info(0, group).unwrap().epoch;
        let user = world.devices[2].user;
        let ids = [0, 1].map(|at| world.command(at, Command::Remove { group, user }));
        world.run();
        for at in [0, 1] {
            let reply = world.reply(at, ids[at]);
            assert!(
                matches!(reply, Some(Ok(Reply::Removed { .. }))),
                "{reply:?}"
            );
        }
        world.converged(group, &[0, 1]);
        assert_eq!(
            world.info(0, group).unwrap().epoch,
            epoch + 1,
            "seed {seed}"
        );
        world.no_findings();
    }
}

#[test]
fn who_lost_the_role_meanwhile_hears_that_it_is_no_longer_allowed() {
    let (mut world, group) = two_admins(9, &["ana", "ben", "cleo"]);
    world.go_offline(1);
    let user = world.devices[2].user;
    let role = None;
    let invite = world.command(1, Command::Invite { group, user, role });
    let user = world.devices[1].user;
    let role = Role::Viewer;
    world.ask(0, Command::SetRole { group, user, role });
    world.go_online(1);
    world.run();
    let reply = world.reply(1, invite);
    assert!(matches!(reply, Some(Err(_))), "{reply:?}");
    world.converged(group, &[0, 1]);
}

#[test]
fn many_intents_of_many_devices_under_cut_connections_are_all_done() {
    for seed in 0..3 {
        let (mut world, group) = two_admins(seed, &["ana", "ben", "cleo", "dan"]);
        world.cut_every = Some(12);
        for (admin, guest) in [(0, 2), (1, 3)] {
            let user = world.devices[guest].user;
            let role = Some(Role::Viewer);
            world.command(admin, Command::Invite { group, user, role });
        }
        world.advance(20_000);
        for guest in [2, 3] {
            world.ask(guest, Command::Accept { group });
            let user = world.devices[guest].user;
            let role = Role::Editor;
            world.command(guest - 2, Command::SetRole { group, user, role });
        }
        world.advance(60_000);
        world.cut_every = None;
        world.run();
        world.converged(group, &[0, 1, 2, 3]);
        let state = world.state(group);
        for guest in [2, 3] {
            let id = &world.devices[guest].id;
            assert_eq!(state.role_of(id), Some(Role::Editor), "seed {seed}");
        }
    }
}
