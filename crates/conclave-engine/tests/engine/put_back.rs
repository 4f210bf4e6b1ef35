//! A service that was put back to an earlier copy and takes no notice of it, however often it is shown what it signed: everybody is told what is
//! missing, nothing local is lost, what is apart from it goes on.

use conclave_engine::finding::{About, Mark, Notice};
use conclave_engine::{Command, EngineError, Event, FindingInfo, Reply};
use conclave_proto::record::CloseReason;
use conclave_proto::{DocumentId, GroupId, Role};

use conclave_testkit::service::Service;

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;

fn trio(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Admin));
    world.invite(group, ANA, CLEO, None);
    let document = world.create_document(group, ANA, "hello");
    world.run();
    (world, group, document)
}

/// The service goes on from a copy of its data, as if nothing were missing.
fn put_back(world: &mut World, copy: &Service) {
    let mut service = copy.clone();
    service.lies.deaf_to_reports = true;
    world.put_back(service);
}

fn kept(world: &mut World, at: usize) -> Vec<FindingInfo> {
    let command = Command::Findings {
        group: None,
        dismissed: true,
    };
    match world.ask(at, command) {
        Reply::Findings(found) => found,
        other => panic!("{other:?}"),
    }
}

fn about(world: &mut World, at: usize, code: &str, about: About) -> Option<FindingInfo> {
    let mut found = kept(world, at).into_iter();
    found.find(|it| it.code == code && it.finding.about == about)
}

fn nobody_is_accused(world: &mut World) {
    for at in 0..world.devices.len() {
        for found in kept(world, at) {
            assert_eq!(found.finding.suspect, None, "{found:?}");
        }
    }
}

fn out_of_step(world: &mut World, at: usize, command: Command) {
    let arrived = world.arrived.len();
    let id = world.command(at, command);
    // At once: nothing is waited for, and nothing is sent.
    let reply = world.reply(at, id);
    assert!(
        matches!(reply, Some(Err(EngineError::OutOfStep))),
        "{reply:?}"
    );
    assert_eq!(world.arrived.len(), arrived);
}

fn pending(world: &mut World, at: usize, group: GroupId, document: DocumentId) -> usize {
    let Reply::Documents(list) = world.ask(at, Command::Documents { group }) else {
        panic!("no documents")
    };
    let info = list.into_iter().find(|info| info.document == document);
    info.unwrap().pending
}

#[test]
fn one_edit_ago_everybody_is_told_and_edits_wait_until_the_right_copy_is_back() {
    let (mut world, group, document) = trio(1);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " late");
    world.run();
    let newest = world.service.clone();
    let cleared = [ANA, BEN, CLEO].map(|at| world.count(at, "clear_packages"));
    put_back(&mut world, &copy);
    let place = About::Document(group, document);
    for at in [ANA, BEN, CLEO] {
        let found = about(&mut world, at, "service.rolled_back", place).unwrap();
        assert!(
            found.text.contains("an older state of “minutes” than on ")
                && found
                    .text
                    .contains(": 1 change is missing there, none here."),
            "{}",
            found.text
        );
        assert_eq!((found.notice, found.settled), (Notice::Unseen, false));
        assert_eq!(world.text(at, group, document), "hello late");
    }
    nobody_is_accused(&mut world);
    // What the service shows of key packages may be used up.
    let now = [ANA, BEN, CLEO].map(|at| world.count(at, "clear_packages"));
    assert_eq!(now, cleared.map(|count| count + 1));
    let appended = world.count(BEN, "append");
    world.edit(BEN, group, document, " kept");
    world.run();
    assert_eq!(world.count(BEN, "append"), appended);
    assert_eq!(pending(&mut world, BEN, group, document), 1);
    out_of_step(&mut world, BEN, Command::Synced { group, document });
    // Told once, also over a restart.
    world.restart(BEN);
    world.run();
    let found = about(&mut world, BEN, "service.rolled_back", place).unwrap();
    assert_eq!(found.count, 1);
    assert_eq!(world.text(BEN, group, document), "hello late kept");
    put_back(&mut world, &newest);
    world.advance(600_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    assert_eq!(world.text(ANA, group, document), "hello late kept");
    for at in [ANA, BEN, CLEO] {
        assert!(kept(&mut world, at).iter().all(|found| found.settled));
    }
}

#[test]
fn one_commit_ago_the_group_waits_and_other_groups_go_on() {
    let (mut world, group, document) = trio(2);
    let other = world.create_group(BEN);
    world.invite(other, BEN, CLEO, None);
    let list = world.create_document(other, BEN, "list");
    let copy = world.service.clone();
    let user = world.devices[CLEO].user;
    let role = Role::Viewer;
    world.ask(ANA, Command::SetRole { group, user, role });
    world.run();
    let newest = world.service.clone();
    put_back(&mut world, &copy);
    for at in [ANA, BEN, CLEO] {
        let found = about(&mut world, at, "service.rolled_back", About::Group(group)).unwrap();
        assert!(found.text.contains("“Board”"), "{}", found.text);
        assert!(found.text.contains("1 change is missing there, none here."));
        assert_eq!(world.text(at, group, document), "hello");
    }
    nobody_is_accused(&mut world);
    world.edit(ANA, group, document, " kept");
    out_of_step(&mut world, ANA, Command::Synced { group, document });
    let (role, device) = (Role::Editor, world.devices[CLEO].id);
    let user_of = |at: usize| world.devices[at].user;
    let (ana, cleo) = (user_of(ANA), user_of(CLEO));
    for waits in [
        Command::SetRole { group, user, role },
        Command::Remove { group, user: cleo },
        Command::Remove { group, user: ana },
        Command::RemoveAnyway { group, user: cleo },
        Command::Leave { group },
        Command::LeaveAnyway { group },
        Command::ReAdd {
            group,
            user: cleo,
            device,
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
    ] {
        out_of_step(&mut world, BEN, waits);
    }
    assert_eq!(world.intents(BEN, &group), 0);
    world.edit(BEN, other, list, " goes on");
    world.edit(CLEO, other, list, " and on");
    world.run();
    world.converged(other, &[BEN, CLEO]);
    let found = about(&mut world, BEN, "service.rolled_back", About::Group(other));
    assert_eq!(found, None);
    // The right copy, with what the other group did since.
    let mut right = newest;
    right.take_group(&other, &world.service);
    put_back(&mut world, &right);
    world.advance(600_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    world.converged(other, &[BEN, CLEO]);
    assert_eq!(world.text(CLEO, group, document), "hello kept");
}

/// Asked for before it was known that the group cannot take it now: whoever asked is told that it is queued, and it is done afterwards.
#[test]
fn what_was_asked_for_before_that_was_known_is_remembered_and_done() {
    let (mut world, group, _) = trio(8);
    let copy = world.service.clone();
    let user = world.devices[CLEO].user;
    let role = Role::Viewer;
    world.ask(ANA, Command::SetRole { group, user, role });
    world.run();
    let newest = world.service.clone();
    world.go_offline(ANA);
    let role = Role::Editor;
    let asked = world.command(ANA, Command::SetRole { group, user, role });
    assert!(world.reply(ANA, asked).is_none());
    put_back(&mut world, &copy);
    world.go_online(ANA);
    world.run();
    let reply = world.reply(ANA, asked);
    assert!(
        matches!(reply, Some(Err(EngineError::WaitsForStep))),
        "{reply:?}"
    );
    assert_eq!(world.intents(ANA, &group), 1);
    put_back(&mut world, &newest);
    world.advance(600_000);
    assert_eq!(world.intents(ANA, &group), 0);
    let Reply::Members(members) = world.ask(BEN, Command::Members { group }) else {
        panic!("no members")
    };
    let cleo = members.iter().find(|member| member.user == user);
    assert_eq!(cleo.unwrap().role, Role::Editor);
}

#[test]
fn a_day_of_edits_ago_all_of_them_are_counted_and_none_is_lost() {
    let (mut world, group, document) = trio(3);
    let copy = world.service.clone();
    let mut text = "hello".to_owned();
    for number in 0..40 {
        let word = format!(" {number}");
        world.edit(number % 2, group, document, &word);
        world.run();
        text.push_str(&word);
    }
    put_back(&mut world, &copy);
    for at in [ANA, BEN, CLEO] {
        let place = About::Document(group, document);
        let found = about(&mut world, at, "service.rolled_back", place).unwrap();
        assert!(found.text.contains("4"), "{}", found.text);
        world.restart(at);
        world.run();
        assert_eq!(world.text(at, group, document), text);
    }
    nobody_is_accused(&mut world);
}

/// Cleo was away, so she has nothing of what the service lost, and writes on: as much as was lost, less, and more. The service had signed
/// nothing of what it lost, so nothing convicts it.
#[test]
fn where_both_sides_went_on_nobody_is_accused_and_nothing_is_lost() {
    for (seed, edits) in [(4, 1), (5, 2), (6, 5)] {
        let (mut world, group, document) = trio(seed);
        world.go_offline(CLEO);
        world.service.lies.no_head_frames = true;
        let copy = world.service.clone();
        world.edit(ANA, group, document, " late");
        world.run();
        world.edit(BEN, group, document, " later");
        world.run();
        put_back(&mut world, &copy);
        world.go_online(CLEO);
        for _ in 0..edits {
            world.edit(CLEO, group, document, " other");
            world.run();
        }
        world.advance(900_000);
        for at in [ANA, BEN] {
            let place = About::Document(group, document);
            let found = about(&mut world, at, "found.fork", place);
            assert!(found.is_some(), "{edits}: {:?}", world.findings(at));
            // One thing is told of a place, not that it is behind as well.
            let mut told = world.open_findings(at);
            told.retain(|it| it.finding.about == place);
            assert_eq!(told.len(), 1, "{edits}: {told:?}");
            out_of_step(&mut world, at, Command::Synced { group, document });
            assert_eq!(world.text(at, group, document), "hello late later");
            world.restart(at);
            world.run();
            assert_eq!(world.text(at, group, document), "hello late later");
        }
        nobody_is_accused(&mut world);
    }
}

#[test]
fn a_service_that_lost_the_whole_group_is_named_and_nothing_is_frozen() {
    let mut world = World::new(7, &["ana", "ben", "cleo"]);
    let copy = world.service.clone();
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    let document = world.create_document(group, ANA, "hello");
    world.run();
    let newest = world.service.clone();
    put_back(&mut world, &copy);
    for at in [ANA, BEN] {
        assert!(about(&mut world, at, "service.rolled_back", About::Group(group)).is_some());
        let info = world.info(at, group).unwrap();
        assert!(info.active && info.frozen.is_none() && info.returning.is_none());
        world.edit(at, group, document, "!");
        out_of_step(&mut world, at, Command::Synced { group, document });
    }
    put_back(&mut world, &newest);
    world.advance(900_000);
    world.converged(group, &[ANA, BEN]);
    assert_eq!(world.text(ANA, group, document), "hello!!");
}

#[test]
fn what_is_missing_of_a_document_that_is_deleted_is_told_no_longer() {
    let (mut world, group, document) = trio(9);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " late");
    world.run();
    put_back(&mut world, &copy);
    let place = About::Document(group, document);
    let reason = CloseReason::Deleted;
    let close = Command::Close {
        group,
        document,
        reason,
    };
    world.ask(ANA, close);
    world.run();
    for at in [ANA, BEN, CLEO] {
        let found = about(&mut world, at, "service.rolled_back", place).unwrap();
        assert!(found.settled, "{found:?}");
        assert_eq!(world.open_findings(at), []);
    }
}

/// Two logs are behind, and each is told of once: however often it is looked at, in whatever order, and over a restart.
#[test]
fn a_group_and_its_document_that_are_both_behind_are_told_of_once_each() {
    for seed in 20..26 {
        let (mut world, group, document) = trio(seed);
        world.advance(900_000);
        let copy = world.service.clone();
        world.edit(ANA, group, document, " late");
        let user = world.devices[CLEO].user;
        let role = Role::Viewer;
        world.ask(ANA, Command::SetRole { group, user, role });
        world.run();
        put_back(&mut world, &copy);
        world.advance(900_000);
        world.restart(BEN);
        world.run();
        for at in [ANA, BEN, CLEO] {
            for place in [About::Group(group), About::Document(group, document)] {
                let found = about(&mut world, at, "service.rolled_back", place).unwrap();
                assert_eq!(found.count, 1, "seed {seed}: {found:?}");
                let told =
                    |event: &&Event| matches!(event, Event::Finding(it) if it.id == found.id);
                let told = world.devices[at].events.iter().filter(told).count();
                assert_eq!(told, 1, "seed {seed}: {found:?}");
            }
            assert_eq!(world.open_findings(at).len(), 2, "seed {seed}");
        }
        nobody_is_accused(&mut world);
    }
}

#[test]
fn findings_are_there_until_they_are_dismissed_and_come_back_with_news() {
    let (mut world, group, document) = trio(8);
    // Nobody renews a leaf from here on: the group's own log would be behind as well.
    world.advance(900_000);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " late");
    world.run();
    let newest = world.service.clone();
    put_back(&mut world, &copy);
    let place = About::Document(group, document);
    let found = about(&mut world, BEN, "service.rolled_back", place).unwrap();
    let told = |event: &&Event| matches!(event, Event::Finding(it) if it.id == found.id);
    assert_eq!(world.devices[BEN].events.iter().filter(told).count(), 1);
    let Reply::Status(status) = world.ask(BEN, Command::Status) else {
        panic!("no status")
    };
    assert_eq!(status.findings, 1);
    assert_eq!(status.newest_finding.map(|it| it.id), Some(found.id));
    for (mark, notice) in [
        (Mark::Seen, Notice::Seen),
        (Mark::Dismissed, Notice::Dismissed),
        (Mark::Seen, Notice::Dismissed),
    ] {
        let ids = vec![found.id];
        world.ask(BEN, Command::MarkFindings { ids, mark });
        world.restart(BEN);
        world.run();
        let now = about(&mut world, BEN, "service.rolled_back", place).unwrap();
        assert_eq!(now.notice, notice);
    }
    let listed = Command::Findings {
        group: Some(group),
        dismissed: false,
    };
    let Reply::Findings(listed) = world.ask(BEN, listed) else {
        panic!("no findings")
    };
    assert!(listed.is_empty(), "{listed:?}");
    // It is in order, and then lost again: that is news.
    put_back(&mut world, &newest);
    put_back(&mut world, &copy);
    let again = about(&mut world, BEN, "service.rolled_back", place).unwrap();
    assert_eq!((again.notice, again.count), (Notice::Unseen, 2));
    assert_eq!(again.first, found.first);
}
