//! What the service takes only so often: who asks for it is told at once, and it goes on by itself.

use conclave_engine::{Command, EngineError, OperationId, PolicyChange, Reply};
use conclave_proto::record::CloseReason;
use conclave_proto::{GroupId, Role, UnixMs};

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
/// As long as the slowest pace makes one wait.
const LONG_MS: u64 = 10 * 60 * 1000;

fn paced(world: &mut World, command: Command) -> UnixMs {
    match world.call(ANA, command) {
        Some(Err(EngineError::WaitsForPace { until })) => until,
        other => panic!("{other:?}"),
    }
}

fn told(world: &mut World, at: usize) -> Vec<String> {
    let open = world.open_findings(at).into_iter();
    open.map(|it| it.code).collect()
}

fn world(seed: u64) -> (World, GroupId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    (world, group)
}

#[test]
fn who_asks_for_what_the_service_takes_only_later_is_told_at_once() {
    let (mut world, group) = world(1);
    let document = world.create_document(group, ANA, "minutes");
    world.run();
    let [ben, cleo] = [BEN, CLEO].map(|at| world.devices[at].user);
    world.service.lies.pace_ms = LONG_MS;
    let change = PolicyChange {
        padding_bytes: Some(64),
        ..PolicyChange::default()
    };
    let commands = [
        Command::SetRole {
            group,
            user: ben,
            role: Role::Viewer,
        },
        Command::ChangePolicy {
            group,
            change: Box::new(change),
        },
        Command::Invite {
            group,
            user: cleo,
            role: None,
        },
        Command::Close {
            group,
            document,
            reason: CloseReason::Archived,
        },
    ];
    let began = world.now;
    let count = commands.len();
    for command in commands {
        let until = paced(&mut world, command);
        let waits = until.since_ms(began);
        assert!((LONG_MS..LONG_MS + 60_000).contains(&waits), "{waits}");
        assert!(world.now.since_ms(began) < 60_000, "somebody waited");
    }
    // Nothing is under way that could be waited for, and nothing is told twice.
    assert!(matches!(world.ask(ANA, Command::Settled), Reply::Done));
    assert_eq!(world.intents(ANA, &group), count);
    assert_eq!(told(&mut world, ANA), [""; 0]);

    world.service.lies.pace_ms = 0;
    world.advance(LONG_MS + 60_000);
    let state = world.state(group);
    assert_eq!(state.role_of_user(&ben), Some(Role::Viewer));
    assert_eq!(state.policy.padding_bytes, 64);
    assert!(state.role_of_user(&cleo).is_some());
    let closed = state.documents.get(&document).unwrap().closed;
    assert_eq!(closed, Some(CloseReason::Archived));
    assert_eq!(world.intents(ANA, &group), 0);
}

#[test]
fn anothers_turn_is_waited_for() {
    let (mut world, group) = world(2);
    world.service.lies.pace_ms = 5_000;
    let user = world.devices[BEN].user;
    let role = Role::Viewer;
    let id = world.command(ANA, Command::SetRole { group, user, role });
    world.run();
    assert!(world.reply(ANA, id).is_none());
    world.service.lies.pace_ms = 0;
    world.advance(10_000);
    assert!(matches!(world.reply(ANA, id), Some(Ok(Reply::Done))));
}

#[test]
fn who_asks_again_is_told_again_and_it_is_done_once() {
    let (mut world, group) = world(3);
    let user = world.devices[BEN].user;
    world.service.lies.pace_ms = LONG_MS;
    let once = || Command::Once {
        operation: OperationId([7; 16]),
        command: Box::new(Command::SetRole {
            group,
            user,
            role: Role::Viewer,
        }),
    };
    let until = paced(&mut world, once());
    assert_eq!(paced(&mut world, once()), until);
    assert_eq!(world.intents(ANA, &group), 1);
    // So is who asks a device that has been started since.
    world.restart(ANA);
    world.run();
    assert_eq!(told(&mut world, ANA), ["group.paced"]);
    let again = paced(&mut world, once());
    assert!(again >= until);
    world.service.lies.pace_ms = 0;
    world.advance(LONG_MS + 60_000);
    assert!(matches!(world.ask(ANA, once()), Reply::Done));
    assert_eq!(told(&mut world, ANA), [""; 0]);
}

#[test]
fn what_a_device_does_by_itself_and_has_to_wait_with_is_told() {
    let (mut world, group) = world(4);
    world.service.lies.pace_ms = LONG_MS;
    world.ask(BEN, Command::Rejoin { group });
    world.run();
    assert_eq!(told(&mut world, BEN), ["group.paced"]);
    world.service.lies.pace_ms = 0;
    world.advance(LONG_MS + 60_000);
    assert_eq!(told(&mut world, BEN), [""; 0]);
    world.converged(group, &[ANA, BEN]);
}

#[test]
fn what_waits_still_is_told_after_something_else_was_let_in() {
    let (mut world, group) = world(5);
    let user = world.devices[BEN].user;
    world.service.lies.pace_ms = LONG_MS;
    let role = Role::Viewer;
    paced(&mut world, Command::SetRole { group, user, role });
    // Nobody waits for it any more.
    world.restart(ANA);
    world.run();
    assert_eq!(told(&mut world, ANA), ["group.paced"]);
    world.service.lies.pace_ms = 0;
    world.ask(ANA, Command::Rejoin { group });
    world.run();
    assert_eq!(world.intents(ANA, &group), 1);
    assert_eq!(told(&mut world, ANA), ["group.paced"]);
    world.advance(LONG_MS + 60_000);
    assert_eq!(world.intents(ANA, &group), 0);
    assert_eq!(told(&mut world, ANA), [""; 0]);
}

#[test]
fn a_way_back_that_waits_is_told_though_an_invitation_ends_meanwhile() {
    let (mut world, group) = world(6);
    // She has never connected.
    let dora = world.add("dora");
    world.go_offline(dora);
    world.pin(ANA, dora);
    let user = world.devices[dora].user;
    let role = None;
    world.command(ANA, Command::Invite { group, user, role });
    world.run();
    assert_eq!(world.intents(ANA, &group), 1);
    world.service.lies.pace_ms = LONG_MS;
    world.ask(ANA, Command::Rejoin { group });
    world.run();
    assert_eq!(told(&mut world, ANA), ["group.paced"]);
    world.ask(ANA, Command::Remove { group, user });
    assert_eq!(world.intents(ANA, &group), 0);
    assert_eq!(told(&mut world, ANA), ["group.paced"]);
    world.service.lies.pace_ms = 0;
    world.advance(LONG_MS + 60_000);
    assert_eq!(told(&mut world, ANA), [""; 0]);
}
