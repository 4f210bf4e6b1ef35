//! Copies of one device's store: one goes on, the other is told and loses nothing.

use conclave_engine::{Command, EngineError, Reply};
use conclave_proto::{DocumentId, GroupId, Role};

use crate::world::{Crash, World, edit};

const ANA: usize = 0;
const BEN: usize = 1;

fn pair(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Editor));
    let document = world.create_document(group, ANA, "hello");
    world.edit(BEN, group, document, "<ben>");
    world.run();
    (world, group, document)
}

/// What waits for the service ends at once, with this.
fn ends_at_once(world: &mut World, at: usize, group: GroupId, document: DocumentId) {
    for command in [
        Command::Synced { group, document },
        Command::Settled,
        Command::Invitable,
    ] {
        let ended = world.call(at, command).unwrap();
        assert!(
            matches!(ended, Err(EngineError::OtherLife { .. })),
            "{ended:?}"
        );
    }
}

fn each_once(world: &mut World, at: usize, group: GroupId, document: DocumentId, parts: &[String]) {
    let text = world.text(at, group, document);
    for part in parts {
        assert_eq!(text.matches(part.as_str()).count(), 1, "{part}: {text}");
    }
}

#[test]
fn the_copy_first_online_goes_on_and_the_other_is_told() {
    for copy_first in [false, true] {
        let (mut world, group, document) = pair(1);
        let copy = world.copy(BEN);
        world.go_offline(BEN);
        let (on, out) = if copy_first { (copy, BEN) } else { (BEN, copy) };
        world.edit(out, group, document, "<out>");
        world.knock(on);
        world.knock(out);
        assert!(world.status(on).online && world.status(on).other_life.is_none());
        let status = world.status(out);
        assert!(!status.online && status.other_life.is_some());
        assert_eq!(status.pending, 1);
        world.found_only(out, &["device.other_life"]);
        world.found_only(on, &[]);
        // It works without the service.
        world.edit(out, group, document, "<more>");
        assert_eq!(world.text(out, group, document), "hello<ben><out><more>");
        world.knock(out);
        ends_at_once(&mut world, out, group, document);
        // It knows so when it starts again, too.
        world.restart(out);
        assert!(world.status(out).other_life.is_some());
        world.edit(on, group, document, "<on>");
        world.run();
        world.converged(group, &[ANA, on]);
        assert_eq!(world.text(ANA, group, document), "hello<ben><on>");
    }
}

/// Two copies of one home, each used for a while and then the other: nobody comes back by an external commit, and nothing is lost.
#[test]
fn twenty_times_in_turn_nothing_is_done_twice_and_nothing_is_lost() {
    let (mut world, group, document) = pair(2);
    let copy = world.copy(BEN);
    let epoch = world.state(group).epoch;
    let (mut kept, mut sent) = (Vec::new(), Vec::new());
    for round in 0..20 {
        let is_out = round % 2 == 1;
        let (at, parts) = match is_out {
            true => (copy, &mut kept),
            false => (BEN, &mut sent),
        };
        // One-shot commands: each starts from its rows, and ends.
        world.restart(at);
        let part = format!("<{round}>");
        world.edit(at, group, document, &part);
        parts.push(part);
        world.knock(at);
        let synced = world.call(at, Command::Synced { group, document });
        let synced = synced.unwrap();
        match is_out {
            true => assert!(matches!(synced, Err(EngineError::OtherLife { .. }))),
            false => assert!(matches!(synced, Ok(Reply::Done))),
        }
        assert_eq!(
            world.status(at).pending,
            if is_out { kept.len() } else { 0 }
        );
        world.go_offline(at);
    }
    assert_eq!(world.state(group).epoch, epoch);
    for at in [BEN, copy] {
        assert_eq!(world.count(at, "commit") + world.count(at, "get_info"), 0);
        assert_eq!(world.count(at, "clear_packages"), 0);
    }
    world.found_only(BEN, &[]);
    assert_eq!(world.open_findings(copy).len(), 1);
    each_once(&mut world, ANA, group, document, &sent);
    each_once(&mut world, copy, group, document, &kept);
}

#[test]
fn take_over_stops_the_other_and_loses_nothing() {
    let (mut world, group, document) = pair(3);
    let copy = world.copy(BEN);
    world.edit(BEN, group, document, "<one>");
    world.restart(BEN);
    world.run();
    let mut parts = vec!["<one>".to_owned()];
    let mut out = copy;
    for round in 0..4 {
        let on = if out == copy { BEN } else { copy };
        let part = format!("<{round}>");
        world.edit(out, group, document, &part);
        parts.push(part);
        world.knock(out);
        assert!(!world.status(out).online);
        world.go_online(out);
        world.ask(out, Command::TakeOver);
        world.advance(120_000);
        assert!(world.status(out).online && world.status(out).other_life.is_none());
        assert!(!world.status(on).online && world.status(on).other_life.is_some());
        world.converged(group, &[ANA, out]);
        each_once(&mut world, ANA, group, document, &parts);
        assert!(world.open_findings(out).is_empty());
        out = on;
    }
}

/// Wherever a device stops between being let in and having confirmed it, it is let in again.
#[test]
fn a_device_that_is_there_once_is_never_kept_out() {
    let (mut world, group, document) = pair(4);
    world.go_offline(BEN);
    let saved = world.save();
    let mut crashes = 0;
    for output in 0..14 {
        for written in [false, true] {
            let crash = Crash {
                device: BEN,
                output,
                written,
            };
            let mut world = World::load(100 + output as u64, &saved, Some(crash));
            world.command(BEN, edit(group, document, "<on>"));
            world.run();
            for _ in 0..3 {
                world.knock(BEN);
                world.restart(BEN);
            }
            world.knock(BEN);
            crashes += usize::from(world.crashed);
            assert!(world.status(BEN).online, "{crash:?}");
            world.found_only(BEN, &[]);
            world.edit(BEN, group, document, "<in>");
            world.run();
            assert!(world.text(ANA, group, document).ends_with("<in>"));
        }
    }
    assert!(crashes > 10, "{crashes}");
    for after in ["hello", "login", "confirm_life"] {
        for seed in 0..4 {
            let mut world = World::load(200 + seed, &saved, None);
            for _ in 0..3 {
                world.cuts.push(crate::world::Cut { device: BEN, after });
            }
            world.knock(BEN);
            world.command(BEN, edit(group, document, "<on>"));
            world.run();
            assert!(world.cuts.is_empty() && world.status(BEN).online);
            world.found_only(BEN, &[]);
        }
    }
}

#[test]
fn a_service_that_was_put_back_lets_the_device_in() {
    let (mut world, group, document) = pair(5);
    let before = world.service.clone();
    for _ in 0..3 {
        world.cut(BEN);
        world.run();
    }
    world.service = before;
    world.service.disconnect_all();
    for at in [ANA, BEN] {
        world.cut(at);
    }
    world.run();
    assert!(world.status(BEN).online);
    world.edit(BEN, group, document, "<after>");
    world.run();
    assert_eq!(world.text(ANA, group, document), "hello<ben><after>");
    world.found_only(BEN, &[]);
}

/// An older copy becomes a device of its own: approved by the other, added again, and what it had not sent is kept apart, once.
#[test]
fn a_copy_becomes_a_device_of_its_own() {
    let (mut world, group, document) = pair(7);
    let copy = world.copy(BEN);
    world.go_offline(BEN);
    world.edit(BEN, group, document, "<unsent>");
    // Nobody becomes another device who is not known to be a copy.
    let refused = world.call(BEN, Command::BecomeNew).unwrap();
    assert!(matches!(refused, Err(EngineError::OnlyCopy)), "{refused:?}");
    world.knock(copy);
    world.knock(BEN);
    let epoch = world.state(group).epoch;
    let before = world.devices[BEN].id;
    let Reply::Request(request) = world.ask(BEN, Command::BecomeNew) else {
        panic!("no request")
    };
    let out = Command::TakeOver;
    let refused = world.call(BEN, out).unwrap();
    assert!(
        matches!(refused, Err(EngineError::NotEnrolled)),
        "{refused:?}"
    );
    let status = world.status(BEN);
    assert!(!status.online && status.other_life.is_none());
    world.restart(BEN);
    world.run();
    world.found_only(BEN, &["device.other_life", "document.rescued"]);
    assert_eq!(world.open_findings(BEN), []);
    let Reply::Rescues(kept) = world.ask(BEN, Command::Rescues) else {
        panic!("no rescues")
    };
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].document, document);
    // The other notices nothing before it is asked.
    world.edit(copy, group, document, "<on>");
    world.run();
    assert_eq!(world.state(group).epoch, epoch);
    let Reply::Text(approval) = world.ask(copy, Command::ApproveDevice(request.approved())) else {
        panic!("not approved")
    };
    world.run();
    world.ask(BEN, Command::FinishDevice { approval });
    world.learn_name(BEN);
    assert_ne!(world.devices[BEN].id, before);
    world.knock(BEN);
    world.advance(120_000);
    world.converged(group, &[ANA, BEN, copy]);
    assert_eq!(world.text(BEN, group, document), "hello<ben><on>");
    let apply = Command::ApplyRescue {
        rescue: kept[0].id,
        group,
        document,
    };
    world.ask(BEN, apply);
    world.run();
    assert_eq!(
        world.text(ANA, group, document).matches("<unsent>").count(),
        1
    );
    world.converged(group, &[ANA, BEN, copy]);
}

/// Wherever it stops, it goes on: what was not sent is kept apart once, and nothing of the old device is left.
#[test]
fn whoever_dies_while_it_becomes_a_device_of_its_own_goes_on() {
    let (mut world, group, document) = pair(8);
    let other = world.create_group(BEN);
    world.create_document(other, BEN, "list");
    let copy = world.copy(BEN);
    world.go_offline(BEN);
    world.edit(BEN, group, document, "<unsent>");
    world.knock(copy);
    world.knock(BEN);
    let saved = world.save();
    let other = world.devices[copy].id;
    let crashes = World::at_any_output(
        &saved,
        BEN,
        |output| 300 + output as u64,
        |world| {
            world.command(BEN, Command::BecomeNew);
            world.run();
        },
        |world, crash| {
            if world.status(BEN).other_life.is_some() {
                world.ask(BEN, Command::BecomeNew);
            }
            world.run();
            let Reply::Rescues(kept) = world.ask(BEN, Command::Rescues) else {
                panic!("no rescues")
            };
            assert_eq!(kept.len(), 1, "{crash:?}");
            let Reply::WhoAmI(who) = world.ask(BEN, Command::WhoAmI) else {
                panic!("nobody")
            };
            assert!(!who.enrolled && !who.holds_user_key, "{crash:?}");
            assert_ne!(who.device, other);
        },
    );
    assert!(crashes > 4, "{crashes}");
}
