//! Devices whose processes live for one command each: nothing is done twice, what waits is known, and it is known when everything is done.

use conclave_engine::{
    Command, CommandId, EngineError, Event, InvitationInfo, OperationId, Reply, Setup, Status,
    UnderWay,
};
use conclave_proto::GroupPolicy;

use crate::world::{REALM, World, create, edit};

fn once(id: u8, command: Command) -> Command {
    Command::Once {
        operation: OperationId([id; 16]),
        command: Box::new(command),
    }
}

fn new_group() -> Command {
    Command::CreateGroup {
        name: "Board".to_owned(),
        policy: Box::new(GroupPolicy::default()),
    }
}

fn status(world: &mut World, at: usize) -> Status {
    match world.ask(at, Command::Status) {
        Reply::Status(status) => status,
        other => panic!("no status: {other:?}"),
    }
}

/// Goes on until a command is answered, and no further.
fn until_answered(world: &mut World, at: usize, id: CommandId) {
    for _ in 0..600 {
        if let Some(reply) = world.reply(at, id) {
            assert!(reply.is_ok(), "{reply:?}");
            return;
        }
        world.advance(100);
    }
    panic!("no answer: {:?}", status(world, at));
}

/// A further device of a user, approved and finished. Its user's other device hears of it as it does.
pub fn second_device(world: &mut World, first: usize) -> usize {
    let setup = Setup::NewDevice {
        name: "phone".to_owned(),
        realm: REALM,
    };
    let at = world.add_device("phone", setup, 0);
    let Reply::Request(request) = world.ask(at, Command::DeviceRequest) else {
        panic!("no request")
    };
    let Reply::Text(approval) = world.ask(first, Command::ApproveDevice(request.approved())) else {
        panic!("no approval")
    };
    world.run();
    world.command(at, Command::FinishDevice { approval });
    at
}

#[test]
fn an_operation_asked_for_again_is_found_also_after_a_restart() {
    let mut world = World::new(1, &["ana"]);
    let Reply::Group(group) = world.ask(0, once(1, new_group())) else {
        panic!("no group")
    };
    let Reply::Document(document) = world.ask(0, once(2, create(group, "minutes", "a"))) else {
        panic!("no document")
    };
    world.ask(0, once(3, edit(group, document, "b")));
    world.restart(0);
    let again = world.ask(0, once(1, new_group()));
    assert!(matches!(again, Reply::Group(same) if same == group));
    let again = world.ask(0, once(2, create(group, "minutes", "a")));
    assert!(matches!(again, Reply::Document(same) if same == document));
    world.ask(0, once(3, edit(group, document, "b")));
    assert_eq!(world.text(0, group, document), "ab");
    assert_eq!(status(&mut world, 0).groups, 1);
    // Under another id it is another thing.
    world.ask(0, once(4, edit(group, document, "b")));
    assert_eq!(world.text(0, group, document), "abb");
}

#[test]
fn a_wish_asked_for_again_is_one_wish() {
    let mut world = World::new(2, &["ana", "ben"]);
    let group = world.create_group(0);
    world.go_offline(0);
    let user = world.devices[1].user;
    let invite = || {
        let role = None;
        once(7, Command::Invite { group, user, role })
    };
    let lost = world.command(0, invite());
    world.restart(0);
    assert!(world.reply(0, lost).is_none());
    // Twice in one life, too.
    let (one, other) = (world.command(0, invite()), world.command(0, invite()));
    world.run();
    assert_eq!(world.intents(0, &group), 1);
    world.go_online(0);
    world.run();
    for id in [one, other] {
        assert!(matches!(world.reply(0, id), Some(Ok(Reply::Done))));
    }
    // It is known when everything is over, and after one more restart.
    world.restart(0);
    world.ask(0, invite());
    assert_eq!(world.state(group).epoch, 1);
}

#[test]
fn a_failure_is_not_remembered() {
    let mut world = World::new(3, &["ana", "ben"]);
    let group = world.create_group(0);
    let user = world.devices[1].user;
    let remove = || once(1, Command::Remove { group, user });
    let refused = world.call(0, remove());
    assert!(matches!(refused, Some(Err(EngineError::UnknownMember))));
    world.invite(group, 0, 1, None);
    assert!(matches!(world.ask(0, remove()), Reply::Removed { .. }));
}

#[test]
fn outcomes_are_kept_for_a_while_and_so_many() {
    let mut world = World::new(4, &["ana"]);
    let rows = |world: &World| world.devices[0].rows.read(&[12]).len();
    let change = || Command::RescuesTold { rescues: vec![] };
    for id in 0..=255 {
        world.command(0, once(id, change()));
    }
    let more = OperationId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    let command = Box::new(change());
    world.ask(
        0,
        Command::Once {
            operation: more,
            command,
        },
    );
    assert_eq!(rows(&world), 256);
    world.advance(2 * 3_600_000);
    world.ask(0, once(0, change()));
    assert_eq!(rows(&world), 1);
}

#[test]
fn what_waits_is_counted_from_the_store_and_sent_by_whoever_goes_online() {
    let mut world = World::new(5, &["ana", "ben"]);
    let (one, other) = (world.create_group(0), world.create_group(0));
    world.invite(one, 0, 1, None);
    let notes = world.create_document(one, 0, "hello");
    let list = world.create_document(other, 0, "hello");
    world.go_offline(0);
    world.edit(0, one, notes, " a");
    world.edit(0, one, notes, " b");
    world.edit(0, other, list, " c");
    world.ask(0, create(other, "new", "text"));
    world.restart(0);
    // No document is in memory.
    let before = status(&mut world, 0);
    assert!(before.pending >= 3, "{before:?}");
    assert_eq!(before.new_documents, 1);
    assert_eq!(
        before.under_way.documents, 0,
        "offline nothing is under way"
    );
    let settled = world.command(0, Command::Settled);
    world.advance(1_000);
    assert!(world.reply(0, settled).is_none());
    world.go_online(0);
    until_answered(&mut world, 0, settled);
    let after = status(&mut world, 0);
    assert_eq!((after.pending, after.new_documents), (0, 0));
    assert!(after.under_way.is_empty());
    // Rows of documents that wait for nothing are gone.
    assert!(world.devices[0].rows.read(&[11]).is_empty());
    assert_eq!(world.text(1, one, notes), "hello a b");
}

#[test]
fn what_is_under_way_is_all_that_a_connection_brings() {
    let mut world = World::new(6, &["ana", "ben"]);
    world.go_offline(1);
    let user = world.devices[1].user;
    let groups: Vec<_> = (0..12).map(|_| world.create_group(0)).collect();
    for group in &groups {
        let (group, role) = (*group, None);
        world.ask(0, Command::Invite { group, user, role });
    }
    world.run();
    world.restart(1);
    let settled = world.command(1, Command::Settled);
    world.go_online(1);
    until_answered(&mut world, 1, settled);
    let Reply::Invitations(invitations) = world.ask(1, Command::Invitations) else {
        panic!("no invitations")
    };
    assert_eq!(invitations.len(), 12);
    // Accepted: the group's log and names are under way until they are here.
    let group = groups[3];
    world.command(1, Command::Accept { group });
    let settled = world.command(1, Command::Settled);
    until_answered(&mut world, 1, settled);
    assert_eq!(world.info(1, group).unwrap().name.as_deref(), Some("Board"));
}

fn invitations(world: &mut World, at: usize) -> Vec<InvitationInfo> {
    match world.ask(at, Command::Invitations) {
        Reply::Invitations(list) => list,
        other => panic!("no invitations: {other:?}"),
    }
}

/// More invitations than a device keeps: of somebody it does not know yet, and of somebody it knows.
#[test]
fn invitations_beyond_those_that_are_kept_are_counted_and_come_in_as_others_are_answered() {
    for (seed, known, kept, count) in [(13, false, 16, 18), (14, true, 64, 66)] {
        let mut world = World::empty(seed);
        for name in ["ana", "ben"] {
            world.add(name);
        }
        world.pin(0, 1);
        if known {
            world.pin(1, 0);
        }
        world.run();
        let user = world.devices[1].user;
        let groups: Vec<_> = (0..count).map(|_| world.create_group(0)).collect();
        // Some come while the device is connected, the others with its next connection.
        for (number, group) in groups.iter().enumerate() {
            if number == kept + 1 {
                world.go_offline(1);
            }
            let (group, role) = (*group, None);
            world.ask(0, Command::Invite { group, user, role });
            world.advance(1);
        }
        world.go_online(1);
        world.run();
        assert_eq!(invitations(&mut world, 1).len(), kept);
        let now = status(&mut world, 1);
        assert_eq!(now.more_invitations, count - kept);
        assert!(now.under_way.is_empty(), "{:?}", now.under_way);
        world.no_findings();
        if !known {
            world.pin(1, 0);
        }
        for answered in 1..=count - kept {
            let group = invitations(&mut world, 1)[0].group;
            world.ask(1, Command::Accept { group });
            world.run();
            let left = count - answered;
            let now = status(&mut world, 1);
            assert_eq!(now.more_invitations, left.saturating_sub(64));
            assert_eq!(
                invitations(&mut world, 1).len() + now.more_invitations,
                left,
                "after {answered}"
            );
        }
        world.no_findings();
    }
}

#[test]
fn a_device_can_be_invited_when_it_says_that_it_is_online() {
    let mut world = World::new(7, &["ana", "ben"]);
    let group = world.create_group(0);
    world.go_offline(1);
    let id = world.devices[1].id;
    world.service.expire_packages(id);
    world.restart(1);
    let online = world.command(1, Command::Invitable);
    world.go_online(1);
    until_answered(&mut world, 1, online);
    assert!(status(&mut world, 1).invitable);
    let user = world.devices[1].user;
    let role = None;
    world.ask(0, Command::Invite { group, user, role });
    assert!(world.state(group).is_member(&id));
}

#[test]
fn an_invitation_waits_for_a_device_that_can_be_added_and_goes_on_by_itself() {
    let mut world = World::new(8, &["ana", "ben"]);
    let group = world.create_group(0);
    world.go_offline(1);
    let (user, id) = (world.devices[1].user, world.devices[1].id);
    world.service.expire_packages(id);
    let role = None;
    let invite = world.command(0, Command::Invite { group, user, role });
    world.run();
    assert!(world.reply(0, invite).is_none());
    let waits = |event: &Event| matches!(event, Event::InvitationWaits { group: of, user: whom } if (*of, *whom) == (group, user));
    assert_eq!(
        world.devices[0]
            .events
            .iter()
            .filter(|it| waits(it))
            .count(),
        1
    );
    let now = status(&mut world, 0);
    assert_eq!(now.awaited[0].name.as_deref(), Some("ben"));
    // Nobody waits for what needs somebody else.
    assert_eq!(now.under_way, UnderWay::default());
    // It is known after a restart, without a connection.
    world.go_offline(0);
    world.restart(0);
    assert_eq!(status(&mut world, 0).awaited.len(), 1);
    world.go_online(0);
    world.run();
    world.go_online(1);
    world.advance(6 * 60_000);
    assert!(world.state(group).is_member(&id));
    assert!(status(&mut world, 0).awaited.is_empty());
}

#[test]
fn an_invitation_that_waits_can_be_taken_back() {
    let mut world = World::new(9, &["ana", "ben"]);
    let group = world.create_group(0);
    world.go_offline(1);
    let (user, id) = (world.devices[1].user, world.devices[1].id);
    world.service.expire_packages(id);
    let role = None;
    world.command(0, Command::Invite { group, user, role });
    world.run();
    world.ask(0, Command::Remove { group, user });
    assert_eq!(world.intents(0, &group), 0);
    world.go_online(1);
    world.advance(6 * 60_000);
    assert!(!world.state(group).is_member(&id));
}

#[test]
fn key_packages_are_renewed_by_age_also_by_a_device_that_stays_connected() {
    let day_ms = 24 * 3600 * 1000;
    let mut world = World::new(10, &["ana"]);
    let put = |world: &World| {
        world
            .arrived
            .iter()
            .filter(|(_, kind)| *kind == "put_packages")
            .count()
    };
    world.run();
    let first = put(&world);
    world.advance(13 * day_ms);
    assert_eq!(put(&world), first);
    world.advance(2 * day_ms);
    assert_eq!(put(&world), first + 1);
    // Private halves do not grow without bound, so there is always room for new ones.
    for _ in 0..30 {
        world.advance(15 * day_ms);
    }
    assert!(put(&world) >= first + 29);
    assert!(world.devices[0].rows.read(&[2]).len() < 200);
}

#[test]
fn a_second_device_is_in_step_when_its_groups_are_here() {
    let mut world = World::new(11, &["ana"]);
    let group = world.create_group(0);
    world.create_document(group, 0, "hello");
    let phone = second_device(&mut world, 0);
    let settled = world.command(phone, Command::Settled);
    until_answered(&mut world, phone, settled);
    let info = world.info(phone, group).expect("the group is here");
    assert_eq!(info.name.as_deref(), Some("Board"));
}

#[test]
fn a_group_whose_directory_cannot_be_read_harms_no_other() {
    let mut world = World::new(12, &["ana"]);
    let (bad, good) = (world.create_group(0), world.create_group(0));
    let document = world.create_document(good, 0, "hello");
    let lost = world.create_document(bad, 0, "still here");
    let directory = conclave_proto::DocumentId::directory(&bad);
    let prefix = [&[5], bad.as_bytes(), directory.as_bytes()].concat();
    world.go_offline(0);
    let rows = world.devices[0].rows.0.iter_mut();
    for (_, value) in rows.filter(|(key, _)| key.starts_with(&prefix)) {
        *value = b"damaged".to_vec().into();
    }
    world.restart(0);
    let Reply::Groups(groups) = world.ask(0, Command::Groups) else {
        panic!("no groups")
    };
    assert_eq!(groups.len(), 2);
    assert!(
        groups
            .iter()
            .all(|info| info.nameless == (info.group == bad))
    );
    for (group, id) in [(good, document), (bad, lost)] {
        let Reply::Documents(listed) = world.ask(0, Command::Documents { group }) else {
            panic!("no documents")
        };
        assert_eq!(listed[0].document, id);
    }
    assert_eq!(world.text(0, bad, lost), "still here");
}
