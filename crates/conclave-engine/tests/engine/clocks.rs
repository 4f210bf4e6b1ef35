//! Clocks that are wrong, and groups that were made long before the service heard of them.

use conclave_engine::{
    Clock, ClockOffset, Command, EngineError, Event, FindingInfo, FindingKind, OperationId, Reply,
};
use conclave_proto::{DocumentId, GroupId, GroupPolicy, Role, UnixMs};

use crate::world::{Cut, World, create};

const MINUTE_MS: i64 = 60 * 1000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
const YEAR_MS: i64 = 365 * DAY_MS;
const ANA: usize = 0;
const BEN: usize = 1;

/// Ana, who is offline and whose clock is ahead by so much since she began; and Ben.
fn apart(seed: u64, fast_ms: i64) -> World {
    let mut world = World::empty(seed);
    world.add_fast("ana", fast_ms);
    world.go_offline(ANA);
    world.add("ben");
    for (one, other) in [(ANA, BEN), (BEN, ANA)] {
        world.pin(one, other);
    }
    world.run();
    world
}

/// The own wrong clock was told once to whoever has it, and nothing else to anybody.
fn only_the_clock(world: &World, whose: usize) {
    for at in 0..world.devices.len() {
        let codes: &[&str] = if at == whose { &["clock.device"] } else { &[] };
        world.found_only(at, codes);
    }
}

/// What a device keeps of its clock: by how much it was ahead, and whether that is settled.
fn kept(world: &mut World, at: usize) -> Vec<(i64, bool)> {
    let list = Command::Findings {
        group: None,
        dismissed: false,
    };
    let Reply::Findings(found) = world.ask(at, list) else {
        panic!("no findings")
    };
    let of_clock = |info: &FindingInfo| match info.finding.what {
        FindingKind::OwnClock { ahead_ms, .. } => Some((ahead_ms / MINUTE_MS, info.settled)),
        _ => None,
    };
    found.iter().filter_map(of_clock).collect()
}

/// A group, a document and edits in it, all made offline.
fn made_offline(world: &mut World) -> (GroupId, DocumentId) {
    let name = "Board".to_owned();
    let policy = Box::new(GroupPolicy::default());
    let Reply::Group(group) = world.ask(ANA, Command::CreateGroup { name, policy }) else {
        panic!("no group")
    };
    let Reply::Document(document) = world.ask(ANA, create(group, "minutes", "made")) else {
        panic!("no document")
    };
    world.edit(ANA, group, document, " offline");
    (group, document)
}

/// The service has the group with all that was made; Ben joins, and both go on.
fn is_whole(world: &mut World, group: GroupId, document: DocumentId) {
    let seed = world.seed;
    let begun = world.state(group).last_time;
    assert!(
        world.now.since_ms(begun) < 10 * 60_000 && begun <= world.now,
        "seed {seed}: {begun:?}"
    );
    world.invite(group, ANA, BEN, None);
    assert_eq!(world.text(BEN, group, document), "made offline");
    world.edit(BEN, group, document, ", read");
    world.run();
    assert_eq!(world.text(ANA, group, document), "made offline, read");
    world.converged(group, &[ANA, BEN]);
    assert_eq!(
        world.info(ANA, group).unwrap().name.as_deref(),
        Some("Board")
    );
}

#[test]
fn a_group_made_offline_is_founded_when_the_service_hears_of_it() {
    for (seed, wait_ms) in (1..).zip([6 * MINUTE_MS, HOUR_MS, 3 * DAY_MS]) {
        let mut world = apart(seed, 0);
        let (group, document) = made_offline(&mut world);
        world.advance(wait_ms as u64);
        world.restart(ANA);
        world.go_online(ANA);
        world.run();
        is_whole(&mut world, group, document);
        world.no_findings();
    }
}

#[test]
fn a_group_made_with_a_wrong_clock_is_founded_all_the_same() {
    let clocks = [
        10 * MINUTE_MS,
        HOUR_MS,
        25 * HOUR_MS,
        20 * YEAR_MS,
        -10 * MINUTE_MS,
        -HOUR_MS,
        -23 * HOUR_MS,
    ];
    for (seed, fast_ms) in (10..).zip(clocks) {
        let mut world = apart(seed, fast_ms);
        let (group, document) = made_offline(&mut world);
        world.advance(HOUR_MS as u64);
        world.go_online(ANA);
        world.run();
        let clock = world.clock(ANA).unwrap();
        assert_eq!(clock.clock, Clock::Device);
        assert!(!clock.holds_back);
        assert!((clock.ahead_ms - fast_ms).abs() < 1_000, "{clock:?}");
        assert_eq!(world.clock(BEN), None);
        if fast_ms > 24 * HOUR_MS {
            // By this clock nothing of anybody's is fresh: first it has to be set.
            world.set_clock(ANA, 0);
            world.cut(ANA);
            world.run();
        }
        is_whole(&mut world, group, document);
    }
}

#[test]
fn a_clock_that_is_days_slow_holds_the_founding_back_and_no_edit() {
    for (seed, fast_ms) in (30..).zip([-25 * HOUR_MS, -20 * YEAR_MS]) {
        let mut world = apart(seed, fast_ms);
        let (group, document) = made_offline(&mut world);
        world.go_online(ANA);
        world.advance(10 * MINUTE_MS as u64);
        assert!(world.service.state(&group).is_none());
        let clock = world.clock(ANA).unwrap();
        assert!(clock.holds_back && clock.clock == Clock::Device);
        assert_eq!(world.info(ANA, group).unwrap().frozen, None);
        assert_eq!(world.text(ANA, group, document), "made offline");
        // Nobody waits for it: it is said, and what is wanted stays.
        let (user, role) = (world.devices[BEN].user, None);
        for waits in [
            Command::Synced { group, document },
            Command::Invite { group, user, role },
        ] {
            let told = waits_for_clock(&mut world, waits);
            assert!(told.holds_back && told.clock == Clock::Device, "{told:?}");
        }
        is_settled(&mut world);
        assert_eq!(world.intents(ANA, &group), 1);
        // The clock is set while the device runs.
        world.set_clock(ANA, 0);
        world.advance(3 * MINUTE_MS as u64);
        assert_eq!(world.clock(ANA), None);
        is_whole(&mut world, group, document);
        only_the_clock(&world, ANA);
        let settled = kept(&mut world, ANA).iter().all(|(_, settled)| *settled);
        assert!(settled);
    }
}

#[test]
fn a_clock_that_is_days_slow_holds_changes_of_members_back_and_nobody_waits_for_them() {
    let mut world = World::new(35, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    let document = world.create_document(group, ANA, "hello");
    world.set_clock(ANA, -3 * DAY_MS);
    world.restart(ANA);
    world.run();
    let asked = ["claim", "commit"].map(|what| world.count(ANA, what));
    let (ben, cleo) = (world.devices[BEN].user, world.devices[2].user);
    let (role, group_is) = (Role::Admin, group);
    for waits in [
        Command::Invite {
            group,
            user: cleo,
            role: None,
        },
        Command::SetRole {
            group,
            user: ben,
            role,
        },
    ] {
        let told = waits_for_clock(&mut world, waits);
        assert_eq!(told.ahead_ms / HOUR_MS, -72);
    }
    // Asked for again, under the same id too.
    for _ in 0..2 {
        let command = Box::new(Command::SetRole {
            group,
            user: ben,
            role,
        });
        let operation = OperationId([7; 16]);
        waits_for_clock(&mut world, Command::Once { operation, command });
    }
    is_settled(&mut world);
    world.edit(ANA, group, document, " goes on");
    world.advance(10 * MINUTE_MS as u64);
    // What others left for invitations is not used up meanwhile.
    assert_eq!(
        ["claim", "commit"].map(|what| world.count(ANA, what)),
        asked
    );
    assert_eq!(world.text(BEN, group, document), "hello goes on");
    world.set_clock(ANA, 0);
    world.cut(ANA);
    world.run();
    world.ask(2, Command::Accept { group: group_is });
    world.run();
    world.converged(group, &[ANA, BEN, 2]);
    let state = world.state(group);
    assert_eq!(state.role_of(&world.devices[BEN].id), Some(role));
    only_the_clock(&world, ANA);
}

#[test]
fn whoever_vouches_for_the_services_clock_waits_for_nothing() {
    let mut world = apart(40, -20 * YEAR_MS);
    let (group, document) = made_offline(&mut world);
    world.trust_service_clock(ANA);
    world.go_online(ANA);
    world.run();
    assert!(!world.clock(ANA).unwrap().holds_back);
    is_whole(&mut world, group, document);
    only_the_clock(&world, ANA);
}

#[test]
fn an_offer_whose_answer_was_lost_is_the_same_days_later() {
    let mut world = apart(41, 0);
    let (group, document) = made_offline(&mut world);
    let after = "create_group";
    world.cuts.push(Cut { device: ANA, after });
    world.go_online(ANA);
    world.until(|world| world.service.state(&group).is_some());
    world.go_offline(ANA);
    let begun = world.state(group).last_time;
    world.advance(3 * DAY_MS as u64);
    world.restart(ANA);
    world.go_online(ANA);
    world.run();
    assert_eq!(world.state(group).last_time, begun);
    world.invite(group, ANA, BEN, None);
    assert_eq!(world.text(BEN, group, document), "made offline");
    world.converged(group, &[ANA, BEN]);
    world.no_findings();
}

#[test]
fn an_offer_that_came_too_late_is_made_again_with_another_time() {
    let mut world = apart(42, 0);
    let (group, document) = made_offline(&mut world);
    world.service.lies.lose_creations = true;
    world.go_online(ANA);
    world.run();
    assert_eq!(world.count(ANA, "create_group"), 1);
    world.go_offline(ANA);
    world.service.lies.lose_creations = false;
    world.advance(HOUR_MS as u64);
    world.restart(ANA);
    world.go_online(ANA);
    world.run();
    assert_eq!(world.count(ANA, "create_group"), 3);
    is_whole(&mut world, group, document);
    world.no_findings();
}

#[test]
fn a_clock_that_is_set_while_the_device_is_connected_stops_no_commit() {
    for (seed, by_ms) in (50..).zip([3 * HOUR_MS, -3 * HOUR_MS]) {
        let mut world = World::new(seed, &["ana", "ben"]);
        let group = world.create_group(ANA);
        world.set_clock(ANA, by_ms);
        let user = world.devices[BEN].user;
        let role = None;
        world.ask(ANA, Command::Invite { group, user, role });
        world.ask(BEN, Command::Accept { group });
        world.run();
        world.converged(group, &[ANA, BEN]);
        only_the_clock(&world, ANA);
    }
}

#[test]
fn a_member_whose_clock_is_wrong_follows_and_writes() {
    let clocks = [2 * HOUR_MS, DAY_MS, YEAR_MS, 20 * YEAR_MS];
    for (seed, off_ms) in (60..).zip(clocks) {
        for sign in [-1, 1] {
            let mut world = World::new(seed, &["ana", "ben", "cleo"]);
            let group = world.create_group(ANA);
            world.invite(group, ANA, BEN, None);
            let document = world.create_document(group, ANA, "hello");
            world.set_clock(BEN, sign * off_ms);
            world.restart(BEN);
            world.run();
            world.invite(group, ANA, 2, None);
            world.edit(BEN, group, document, " ben");
            world.run();
            assert_eq!(world.text(2, group, document), "hello ben");
            world.converged(group, &[ANA, BEN, 2]);
            only_the_clock(&world, BEN);
        }
    }
}

/// A command is answered, in the time that nothing takes, with the clock for which it waits.
fn waits_for_clock(world: &mut World, command: Command) -> ClockOffset {
    let id = world.command(ANA, command);
    world.advance(1);
    match world.reply(ANA, id) {
        Some(Err(EngineError::WaitsForClock { offset })) => offset,
        other => panic!("{other:?}"),
    }
}

/// Nothing is under way that a clock holds back.
fn is_settled(world: &mut World) {
    let Reply::Status(status) = world.ask(ANA, Command::Status) else {
        panic!("no status")
    };
    assert!(status.under_way.is_empty(), "{:?}", status.under_way);
    let settled = world.command(ANA, Command::Settled);
    assert!(matches!(world.reply(ANA, settled), Some(Ok(Reply::Done))));
}

/// Ana and Ben share a group. Cleo, whom Ana is to invite, was last seen 99 days ago.
fn with_a_stale_list(seed: u64) -> (World, GroupId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    world.go_offline(2);
    world.advance(99 * DAY_MS as u64);
    let cleo = world.devices[2].id;
    world.service.expire_packages(cleo);
    let (user, role) = (world.devices[BEN].user, Role::Admin);
    world.ask(ANA, Command::SetRole { group, user, role });
    world.run();
    (world, group)
}

fn invite_cleo(world: &mut World, group: GroupId) -> Result<Reply, EngineError> {
    let user = world.devices[2].user;
    let role = None;
    world
        .call(ANA, Command::Invite { group, user, role })
        .unwrap()
}

#[test]
fn a_service_that_is_behind_makes_nothing_fresh() {
    let (mut world, group) = with_a_stale_list(70);
    world.service_fast_ms = -99 * DAY_MS;
    world.cut(ANA);
    world.run();
    // It has ordered later times itself.
    let clock = world.clock(ANA).unwrap();
    assert_eq!(clock.clock, Clock::Service);
    assert!((clock.ahead_ms + 99 * DAY_MS).abs() < HOUR_MS, "{clock:?}");
    waits_for_cleo(&mut world, group);
}

#[test]
fn what_the_log_shows_counts_where_both_clocks_are_behind() {
    let (mut world, group) = with_a_stale_list(71);
    world.service_fast_ms = -99 * DAY_MS;
    world.set_clock(ANA, -99 * DAY_MS);
    world.restart(ANA);
    world.run();
    let (user, role) = (world.devices[2].user, None);
    let offset = waits_for_clock(&mut world, Command::Invite { group, user, role });
    assert_eq!(offset.clock, Clock::Service);
    world.run();
    assert!(!world.state(group).is_member(&world.devices[2].id));
}

#[test]
fn whoever_was_away_for_long_is_invited_when_a_device_of_theirs_is_back() {
    let (mut world, group) = with_a_stale_list(75);
    waits_for_cleo(&mut world, group);
    world.no_findings();
    let Reply::Status(status) = world.ask(ANA, Command::Status) else {
        panic!("no status")
    };
    assert_eq!(status.awaited[0].name.as_deref(), Some("cleo"));
    assert!(status.under_way.is_empty());
    world.go_online(2);
    world.advance(6 * MINUTE_MS as u64);
    world.ask(2, Command::Accept { group });
    world.run();
    world.converged(group, &[ANA, BEN, 2]);
    world.no_findings();
}

/// The phone founds a group while the laptop, which alone can sign the list of both, was away for long.
#[test]
fn an_own_device_that_was_away_for_long_is_added_when_it_is_back() {
    let mut world = World::new(76, &["ana"]);
    let phone = crate::short::second_device(&mut world, ANA);
    world.run();
    world.go_offline(ANA);
    world.advance(99 * DAY_MS as u64);
    let group = world.create_group(phone);
    world.advance(HOUR_MS as u64);
    world.no_findings();
    assert_eq!(world.intents(phone, &group), 0);
    let laptop = world.devices[ANA].id;
    world.service.expire_packages(laptop);
    world.go_online(ANA);
    world.run();
    world.cut(phone);
    world.run();
    world.converged(group, &[ANA, phone]);
    world.no_findings();
}

/// The invitation of Cleo waits for her, and nobody is accused.
fn waits_for_cleo(world: &mut World, group: GroupId) {
    let (user, role) = (world.devices[2].user, None);
    let invited = world.command(ANA, Command::Invite { group, user, role });
    world.run();
    assert!(world.reply(ANA, invited).is_none());
    let waits = |event: &Event| matches!(event, Event::InvitationWaits { group: of, user: whom } if (*of, *whom) == (group, user));
    assert!(world.devices[ANA].events.iter().any(waits));
    let accused = |told: &String| told.starts_with("auth.");
    assert!(!world.findings(ANA).iter().any(accused));
}

#[test]
fn a_fast_clock_blames_nobody_for_what_looks_stale() {
    let mut world = World::new(72, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.set_clock(ANA, 40 * DAY_MS);
    world.cut(ANA);
    world.run();
    let refused = invite_cleo(&mut world, group);
    assert!(
        matches!(refused, Err(EngineError::ClockSkew)),
        "{refused:?}"
    );
    only_the_clock(&world, ANA);
    world.set_clock(ANA, 0);
    world.cut(ANA);
    world.run();
    invite_cleo(&mut world, group).unwrap();
}

#[test]
fn a_wrong_clock_is_told_once_and_settled_when_it_is_right() {
    let mut world = World::new(74, &["ana", "ben"]);
    world.set_clock(ANA, 2 * HOUR_MS);
    for _ in 0..3 {
        // Every login compares the clocks; a few minutes more or less are the same clock.
        world.cut(ANA);
        world.run();
        world.set_clock(ANA, 2 * HOUR_MS + 4 * MINUTE_MS);
    }
    only_the_clock(&world, ANA);
    assert_eq!(kept(&mut world, ANA), [(120, false)]);
    // Off by another amount: told again, and still one finding.
    world.set_clock(ANA, 3 * HOUR_MS);
    world.cut(ANA);
    world.run();
    world.found_only(ANA, &["clock.device", "clock.device"]);
    assert_eq!(kept(&mut world, ANA), [(180, false)]);
    world.set_clock(ANA, 0);
    world.cut(ANA);
    world.run();
    assert_eq!(kept(&mut world, ANA), [(180, true)]);
    world.found_only(ANA, &["clock.device", "clock.device"]);
    assert_eq!(world.clock(ANA), None);
}

#[test]
fn a_list_signed_by_a_fast_clock_is_signed_anew_when_it_is_set() {
    let mut world = World::empty(73);
    world.add_fast("ana", 20 * YEAR_MS);
    world.run();
    let user = world.devices[ANA].user;
    assert!(world.service.list(user).unwrap().list.issued > world.now.plus_ms(YEAR_MS as u64));
    world.set_clock(ANA, 0);
    world.restart(ANA);
    world.run();
    let issued = world.service.list(user).unwrap().list.issued;
    assert!(issued <= world.now && issued > UnixMs(world.now.0 - HOUR_MS as u64));
}
