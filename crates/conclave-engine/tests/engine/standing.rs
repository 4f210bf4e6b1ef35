//! Groups that are being founded or are frozen: what others are brought back by leaves them as they are.

use conclave_engine::{Command, EngineError, Event, Reply};
use conclave_proto::group::GroupEntry;
use conclave_proto::refusal::CommitFault;
use conclave_proto::{GroupId, Refusal, Role};

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;

/// A group of three.
fn trio(seed: u64) -> (World, GroupId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    for at in [BEN, CLEO] {
        world.invite(group, ANA, at, Some(Role::Admin));
    }
    (world, group)
}

/// The service shows an entry behind the end of the log that breaks the rules.
fn show_rubbish(world: &mut World, group: GroupId) {
    let out = world
        .service
        .make_up(group, GroupEntry::Commit(vec![7; 80].into()));
    world.post(out);
}

/// Ben cannot decrypt a commit, which is right for everybody else.
fn lose_ben(world: &mut World, group: GroupId) {
    world.held = Some(BEN);
    let user = world.devices[BEN].user;
    let role = Role::Owner;
    world.ask(ANA, Command::SetRole { group, user, role });
    assert!(world.garble_held_commit(BEN));
    world.held = None;
}

fn evidence(world: &mut World, group: GroupId) -> usize {
    let Reply::Evidence(kept) = world.ask(BEN, Command::Evidence { group }) else {
        panic!("no evidence")
    };
    kept.len()
}

#[test]
fn a_device_does_not_come_back_into_a_group_that_it_is_founding() {
    let mut world = World::new(1, &["ana", "ben"]);
    world.go_offline(ANA);
    let group = world.create_group(ANA);
    let document = world.create_document(group, ANA, "hello");
    let Some(Err(refused)) = world.call(ANA, Command::Rejoin { group }) else {
        panic!("it came back")
    };
    assert_eq!(refused.code(), "engine.not_founded");
    world.restart(ANA);
    world.go_online(ANA);
    world.run();
    world.invite(group, ANA, BEN, None);
    assert_eq!(world.text(BEN, group, document), "hello");
    world.converged(group, &[ANA, BEN]);
    world.no_findings();
}

#[test]
fn a_restored_store_goes_on_founding_what_it_was_founding() {
    let (mut world, group) = trio(2);
    world.go_offline(BEN);
    let backup = world.devices[BEN].rows.clone();
    world.go_online(BEN);
    let user = world.devices[CLEO].user;
    let role = Role::Editor;
    world.ask(BEN, Command::SetRole { group, user, role });
    world.run();
    world.go_offline(BEN);
    world.devices[BEN].rows = backup;
    world.restart(BEN);
    world.command(BEN, Command::TakeOver);
    let other = world.create_group(BEN);
    let document = world.create_document(other, BEN, "hello");
    world.service.lies.lose_creations = true;
    world.go_online(BEN);
    world.advance(60_000);
    world.found_only(BEN, &["device.restored"]);
    assert_eq!(world.info(BEN, other).unwrap().returning, None);
    world.service.lies.lose_creations = false;
    world.restart(BEN);
    world.run();
    world.invite(other, BEN, ANA, None);
    assert_eq!(world.text(ANA, other, document), "hello");
    world.converged(other, &[ANA, BEN]);
    world.converged(group, &[ANA, BEN, CLEO]);
}

/// Ben's group is frozen, and nothing that comes makes him ask for its log. Gives how often he has asked.
fn stays_frozen(world: &mut World, group: GroupId) -> usize {
    assert!(world.info(BEN, group).unwrap().frozen.is_some());
    let asked = world.count(BEN, "subscribe");
    for _ in 0..3 {
        show_rubbish(world, group);
        world.run();
    }
    assert_eq!(world.count(BEN, "subscribe"), asked);
    asked
}

#[test]
fn a_frozen_group_asks_for_its_log_once_on_a_connection() {
    let (mut world, group) = trio(3);
    show_rubbish(&mut world, group);
    world.run();
    let asked = stays_frozen(&mut world, group);
    world.cut(BEN);
    world.run();
    assert_eq!(world.count(BEN, "subscribe"), asked + 1);
    assert_eq!(evidence(&mut world, group), 1);
    world.found_only(BEN, &["mls.illegal_entry"]);
}

#[test]
fn a_group_frozen_on_the_way_back_judges_nothing_more() {
    let (mut world, group) = trio(4);
    lose_ben(&mut world, group);
    world.until(|world| !world.findings(BEN).is_empty());
    show_rubbish(&mut world, group);
    world.run();
    stays_frozen(&mut world, group);
    assert_eq!(evidence(&mut world, group), 2);
    world.found_only(BEN, &["mls.undecryptable", "mls.illegal_entry"]);
}

#[test]
fn an_invitation_into_a_frozen_group_waits() {
    let (mut world, group) = trio(5);
    // Nobody can follow Cleo's commit, and the service lets only Ben not come back by himself.
    world.garbles = Some(CLEO);
    let fault = CommitFault::External;
    let refusal = Refusal::BadCommit { fault };
    world.refuses = vec![(BEN, "commit", refusal); 100];
    let (user, role) = (world.devices[BEN].user, Role::Editor);
    world.command(CLEO, Command::SetRole { group, user, role });
    world.advance(120_000);
    let asked = |event: &Event| matches!(event, Event::ReAddAsked { .. });
    assert!(world.devices[ANA].events.iter().any(asked));
    world.held = Some(BEN);
    let (user, device) = (world.devices[BEN].user, world.devices[BEN].id);
    let again = Command::ReAdd {
        group,
        user,
        device,
    };
    world.ask(ANA, again);
    show_rubbish(&mut world, group);
    world.delay_welcomes(BEN);
    world.held = None;
    world.run();
    // It is shown by the log that Ben has judged, and all the same not taken.
    let frozen = |world: &mut World| world.info(BEN, group).unwrap().frozen;
    assert_eq!(frozen(&mut world).as_deref(), Some("mls.illegal_entry"));
    let refused = world.call(BEN, Command::Accept { group });
    assert!(
        matches!(refused, Some(Err(EngineError::GroupTaken { .. }))),
        "{refused:?}"
    );
    world.run();
    assert_eq!(frozen(&mut world).as_deref(), Some("mls.illegal_entry"));
    let open = world.open_findings(BEN);
    assert!(open.iter().any(|it| it.code == "mls.illegal_entry"));
    let Reply::Invitations(waiting) = world.ask(BEN, Command::Invitations) else {
        panic!("no invitations")
    };
    assert_eq!(waiting.len(), 1);
}

#[test]
fn who_is_leaving_uses_up_no_key_packages() {
    let (mut world, group) = trio(6);
    let dan = world.add("dan");
    world.pin(ANA, dan);
    let (user, role) = (world.devices[BEN].user, Role::Owner);
    world.ask(ANA, Command::SetRole { group, user, role });
    world.run();
    // Nobody is there to commit her leave.
    for at in [BEN, CLEO] {
        world.go_offline(at);
    }
    world.command(ANA, Command::Leave { group });
    world.run();
    let (user, role) = (world.devices[dan].user, None);
    world.command(ANA, Command::Invite { group, user, role });
    for _ in 0..3 {
        world.cut(ANA);
        world.run();
    }
    // Ben's and Cleo's.
    assert_eq!(world.count(ANA, "claim"), 2);
}
