//! What the user wanted and wrote outlives the process.

use conclave_engine::{Command, Event};
use conclave_proto::Role;
use conclave_proto::record::CloseReason;

use crate::world::{World, edit};

#[test]
fn every_durable_intent_survives_restarts() {
    let mut world = World::new(1, &["ana", "ben", "cleo", "dan"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    world.invite(group, 0, 2, None);
    let document = world.create_document(group, 0, "hello");
    world.go_offline(0);
    let [ben, cleo, dan] = [1, 2, 3].map(|at| world.devices[at].user);
    let role = None;
    let reason = CloseReason::Archived;
    let wanted = [
        Command::Invite {
            group,
            user: dan,
            role,
        },
        Command::Remove { group, user: cleo },
        Command::SetRole {
            group,
            user: ben,
            role: Role::Admin,
        },
        Command::Close {
            group,
            document,
            reason,
        },
    ];
    for command in wanted {
        world.command(0, command);
        world.advance(0);
        // Also where the clock does not move between two lives.
        world.restart(0);
    }
    world.run();
    assert_eq!(world.intents(0, &group), 4);
    world.restart(0);
    world.go_online(0);
    world.run();
    assert_eq!(world.intents(0, &group), 0);
    let state = world.state(group);
    assert!(state.is_member(&world.devices[3].id));
    assert!(!state.is_member(&world.devices[2].id));
    assert_eq!(state.role_of(&world.devices[1].id), Some(Role::Admin));
    assert_eq!(state.documents[&document].closed, Some(reason));
}

#[test]
fn the_wish_to_leave_survives_a_restart() {
    let mut world = World::new(2, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    world.go_offline(1);
    world.command(1, Command::Leave { group });
    world.restart(1);
    world.go_online(1);
    world.run();
    world.converged(group, &[0]);
    assert!(!world.info(1, group).unwrap().active);
}

#[test]
fn a_leave_is_committed_by_a_member_who_started_again_meanwhile() {
    let mut world = World::new(3, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    world.command(1, Command::Leave { group });
    // Ana gets the proposal and starts again before she would have committed it.
    world.until(|world| world.count(1, "propose") > 0);
    world.advance(0);
    world.restart(0);
    world.run();
    world.converged(group, &[0]);
}

#[test]
fn offline_edits_survive_restarts_and_epochs() {
    let mut world = World::new(4, &["ana", "ben", "cleo"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    let document = world.create_document(group, 0, "hello");
    world.go_offline(1);
    for round in 0..3 {
        world.edit(1, group, document, &format!("<{round}>"));
        world.restart(1);
    }
    // Two epochs pass: what was sealed for the first is sealed anew.
    world.invite(group, 0, 2, None);
    let user = world.devices[2].user;
    world.ask(0, Command::Remove { group, user });
    world.run();
    world.go_online(1);
    world.run();
    world.converged(group, &[0, 1]);
    assert_eq!(world.text(0, group, document), "hello<0><1><2>");
    world.no_findings();
}

#[test]
fn edits_in_flight_when_the_epoch_ends_are_sealed_again() {
    for seed in 0..6 {
        let mut world = World::new(seed, &["ana", "ben", "cleo"]);
        let group = world.create_group(0);
        world.invite(group, 0, 1, None);
        let document = world.create_document(group, 0, "");
        let user = world.devices[2].user;
        let role = None;
        world.command(0, Command::Invite { group, user, role });
        for round in 0..6 {
            world.command(1, edit(group, document, &format!("<{round}>")));
            world.advance(0);
        }
        world.run();
        world.ask(2, Command::Accept { group });
        world.run();
        world.converged(group, &[0, 1, 2]);
        let text = world.text(2, group, document);
        assert_eq!(text, "<0><1><2><3><4><5>", "seed {seed}");
        world.no_findings();
    }
}

#[test]
fn a_waiting_invitation_survives_a_restart() {
    let mut world = World::new(5, &["ana", "ben"]);
    let group = world.create_group(0);
    let user = world.devices[1].user;
    let role = None;
    world.ask(0, Command::Invite { group, user, role });
    world.run();
    world.restart(1);
    world.run();
    world.ask(1, Command::Accept { group });
    world.run();
    world.converged(group, &[0, 1]);
    let shown = |event: &&Event| matches!(event, Event::Invitation { .. });
    assert!(world.devices[1].events.iter().filter(shown).count() <= 2);
}

/// What it wrote in its former life in the group is at the service still, and no sign of another copy of its store.
#[test]
fn whoever_is_invited_again_is_not_taken_for_a_copy() {
    let mut world = World::new(4, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, Some(Role::Editor));
    let open = world.create_document(group, 0, "open");
    let archived = world.create_document(group, 0, "archived");
    for document in [open, archived] {
        world.edit(1, group, document, ", by ben");
    }
    world.run();
    let reason = CloseReason::Archived;
    let close = Command::Close {
        group,
        document: archived,
        reason,
    };
    world.ask(0, close);
    let user = world.devices[1].user;
    world.ask(0, Command::Remove { group, user });
    world.run();
    world.invite(group, 0, 1, Some(Role::Editor));
    world.advance(60_000);
    assert_eq!(world.text(1, group, archived), "archived, by ben");
    world.edit(1, group, open, " again");
    world.run();
    world.converged(group, &[0, 1]);
    assert_eq!(world.text(0, group, open), "open, by ben again");
    assert_eq!(world.findings(1), Vec::<String>::new());
}

/// A killed agent's last append reaches the service when its successor is there already, which has sealed the edit again: for the epoch that
/// has begun meanwhile. That is no other copy of its store.
#[test]
fn a_killed_lifes_append_that_comes_late_is_no_copy() {
    for seed in 0..8 {
        let mut world = World::new(seed, &["ana", "ben", "cleo"]);
        // A service that keeps to the rules takes it before the successor is let in, or not at all.
        world.service.lies.unfenced = seed % 2 == 0;
        let group = world.create_group(0);
        world.invite(group, 0, 1, None);
        let document = world.create_document(group, 0, "hello");
        world.edit(1, group, document, "<before>");
        world.run();
        let packages = world.count(1, "put_packages");
        world.command(1, edit(group, document, "<late>"));
        world.until(|world| world.is_sending(1, "append"));
        let opened = world.count(1, "open");
        let late = world.restart_late(1);
        // The directory and the document.
        world.until(|world| world.count(1, "open") == opened + 2);
        world.held = Some(1);
        world.arrive(1, late);
        let (user, role) = (world.devices[2].user, None);
        world.ask(0, Command::Invite { group, user, role });
        world.advance(0);
        world.entries_first(1);
        world.held = None;
        world.run();
        world.ask(2, Command::Accept { group });
        world.edit(1, group, document, "<after>");
        world.run();
        world.converged(group, &[0, 1, 2]);
        let text = world.text(0, group, document);
        assert_eq!(text, "hello<before><late><after>", "seed {seed}");
        assert_eq!(world.count(1, "commit"), 0, "seed {seed}");
        assert_eq!(world.count(1, "put_packages"), packages, "seed {seed}");
        world.no_findings();
    }
}
