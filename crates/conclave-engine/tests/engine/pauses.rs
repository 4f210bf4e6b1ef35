//! What waits for its time is not forgotten, not hurried, and not done in another connection's time.

use conclave_engine::{Command, CommandId, EngineError};
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{GroupId, Refusal, Role};

use crate::world::{World, create};

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS as i64;

fn too_often(retry_after_ms: u64) -> Refusal {
    Refusal::RateLimited { retry_after_ms }
}

/// Ana's group with Ben in it.
fn pair(seed: u64) -> (World, GroupId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo", "dan"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    (world, group)
}

fn invite(world: &mut World, group: GroupId, whom: usize) -> CommandId {
    let (user, role) = (world.devices[whom].user, None);
    world.command(ANA, Command::Invite { group, user, role })
}

fn all_done(world: &World, commands: &[CommandId]) {
    for id in commands {
        let reply = world.reply(ANA, *id);
        assert!(matches!(reply, Some(Ok(_))), "{} {reply:?}", world.seed);
    }
}

#[test]
fn of_two_invitations_that_wait_the_later_one_is_not_forgotten() {
    for seed in 1..9 {
        let (mut world, group) = pair(seed);
        for _ in 0..2 {
            world.refuses.push((ANA, "get_list", too_often(0)));
        }
        let both = [CLEO, 3].map(|whom| invite(&mut world, group, whom));
        world.run();
        all_done(&world, &both);
    }
}

#[test]
fn a_commit_that_waits_longer_than_an_invitation_is_not_forgotten() {
    for seed in 10..18 {
        let (mut world, group) = pair(seed);
        world.refuses = vec![
            (ANA, "get_list", too_often(0)),
            (ANA, "commit", Refusal::Storage),
        ];
        let invited = invite(&mut world, group, CLEO);
        let (user, role) = (world.devices[BEN].user, Role::Admin);
        let raised = world.command(ANA, Command::SetRole { group, user, role });
        world.run();
        all_done(&world, &[invited, raised]);
    }
}

/// The service says when it takes such a frame again: Ana does not ask before.
fn waits_for_service(mut world: World, what: &'static str, begin: impl Fn(&mut World)) {
    world.refuses.push((ANA, what, too_often(20_000)));
    let before = world.count(ANA, what);
    begin(&mut world);
    world.advance(10_000);
    assert_eq!(world.count(ANA, what), before + 1, "{what}");
    world.advance(9_000);
    assert_eq!(world.count(ANA, what), before + 1, "{what}");
    world.advance(60_000);
    assert!(world.count(ANA, what) > before + 1, "{what}");
}

#[test]
fn nothing_is_asked_again_before_the_service_takes_it() {
    let one = || World::new(30, &["ana"]);
    waits_for_service(World::empty(30), "put_list", |world| _ = world.add("ana"));
    waits_for_service(World::empty(31), "put_packages", |world| {
        world.add("ana");
    });
    waits_for_service(one(), "create_group", |world| {
        let name = "Board".to_owned();
        let policy = Box::default();
        world.command(ANA, Command::CreateGroup { name, policy });
    });
    let (world, group) = pair(32);
    waits_for_service(world, "get_list", |world| _ = invite(world, group, CLEO));
    let (world, group) = pair(33);
    waits_for_service(world, "commit", |world| {
        let (user, role) = (world.devices[BEN].user, Role::Admin);
        world.command(ANA, Command::SetRole { group, user, role });
    });
    let (world, _) = pair(34);
    waits_for_service(world, "subscribe", |world| world.cut(ANA));
    let (world, group) = pair(35);
    waits_for_service(world, "create_document", |world| {
        world.command(ANA, create(group, "minutes", "hello"));
    });
    let (world, group) = pair(36);
    waits_for_service(world, "open", |world| {
        world.command(BEN, create(group, "minutes", "hello"));
    });
}

#[test]
fn what_is_refused_on_one_connection_is_not_sent_twice_on_the_next() {
    for what in ["put_packages", "put_list"] {
        let mut world = World::empty(40);
        world.refuses.push((ANA, what, too_often(0)));
        world.add("ana");
        world.until(|world| world.count(ANA, what) == 1);
        world.until(|world| world.is_heard(ANA));
        world.cut(ANA);
        world.until(|world| world.count(ANA, what) == 2);
        world.held = Some(ANA);
        world.run();
        assert_eq!(world.count(ANA, what), 2, "{what}");
        world.held = None;
        world.run();
        world.no_findings();
    }
}

#[test]
fn clocks_are_compared_again_on_the_connection_that_asked_for_it_only() {
    let mut world = World::new(50, &["ana"]);
    world.service_fast_ms = 48 * HOUR_MS;
    world.cut(ANA);
    world.run();
    let name = "Board".to_owned();
    let policy = Box::default();
    world.command(ANA, Command::CreateGroup { name, policy });
    world.advance(30_000);
    world.service_fast_ms = 0;
    world.cut(ANA);
    world.run();
    let connected = world.count(ANA, "hello");
    world.advance(5 * MINUTE_MS);
    assert_eq!(world.count(ANA, "hello"), connected);
}

#[test]
fn what_waits_goes_on_when_a_clock_is_set_back() {
    let (mut world, group) = pair(60);
    world.set_clock(ANA, 2 * HOUR_MS);
    world.cut(ANA);
    world.run();
    world.refuses.push((ANA, "get_list", too_often(5_000)));
    let invited = invite(&mut world, group, CLEO);
    world.advance(1_000);
    world.set_clock(ANA, 0);
    world.clock(ANA);
    world.run();
    all_done(&world, &[invited]);
    world.set_clock(ANA, 2 * HOUR_MS);
    world.refuses.push((ANA, "subscribe", too_often(5_000)));
    let subscribed = world.count(ANA, "subscribe");
    world.cut(ANA);
    world.advance(1_000);
    assert_eq!(world.count(ANA, "subscribe"), subscribed + 1);
    world.set_clock(ANA, 0);
    world.clock(ANA);
    world.run();
    assert_eq!(world.count(ANA, "subscribe"), subscribed + 2);
    world.converged(group, &[ANA, BEN]);
}

/// "Your role does not allow this" is true only where the role does not.
#[test]
fn whoever_waits_for_edits_that_are_not_taken_hears_why() {
    for (refusal, answer) in [
        (
            Refusal::TooLarge { max: 9 },
            EngineError::Refused(Refusal::TooLarge { max: 9 }),
        ),
        (
            Refusal::Forbidden {
                why: ForbiddenWhy::Role,
            },
            EngineError::Forbidden,
        ),
    ] {
        let (mut world, group) = pair(3);
        let document = world.create_document(group, BEN, "text");
        world.refuses.push((BEN, "append", refusal));
        world.edit(BEN, group, document, "!");
        let synced = world.command(BEN, Command::Synced { group, document });
        world.run();
        let reply = world.reply(BEN, synced).and_then(Result::err);
        assert_eq!(format!("{reply:?}"), format!("{:?}", Some(answer)));
    }
}
