//! Pause and resume: what is written rests here, what others write does not come, and nothing that others do waits for either.

use conclave_crdt::CrdtKind;
use conclave_engine::{
    AttendeeId, Command, DocumentInfo, EngineError, Event, Pause, PauseChange, PauseInfo, Reply,
    Showing, ShowingKind, Ways,
};
use conclave_proto::{DocumentId, GroupId, GroupPolicy, Role};

use crate::world::{Crash, World, create, edit};

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
const SEED: u64 = 71;
const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;

type Place = (GroupId, DocumentId);

/// Ana, Ben and Cleo in a group with a text.
fn three(seed: u64) -> (World, Place) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group_with(ANA, GroupPolicy::default());
    world.invite(group, ANA, BEN, Some(Role::Editor));
    world.invite(group, ANA, CLEO, None);
    let document = world.create_document(group, ANA, "begun");
    for at in [ANA, BEN, CLEO] {
        assert_eq!(world.text(at, group, document), "begun");
    }
    world.run();
    (world, (group, document))
}

fn command(of: Option<Place>, pause: bool, ways: Ways) -> Command {
    Command::Pause {
        document: of,
        change: PauseChange { pause, ways },
    }
}

fn set(world: &mut World, at: usize, of: Option<Place>, pause: bool, ways: Ways) -> PauseInfo {
    match world.ask(at, command(of, pause, ways)) {
        Reply::Pause(info) => info,
        other => panic!("{other:?}"),
    }
}

fn size(world: &World, (group, document): Place) -> usize {
    world.service.records(&group, &document).len()
}

fn info(world: &mut World, at: usize, (group, document): Place) -> DocumentInfo {
    match world.look(at, || Command::Documents { group }) {
        Reply::Documents(all) => all.into_iter().find(|it| it.document == document).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn synced(world: &mut World, at: usize, (group, document): Place) -> Result<Reply, EngineError> {
    world.call(at, Command::Synced { group, document }).unwrap()
}

#[test]
fn what_is_written_while_sending_is_paused_reaches_nobody() {
    let (mut world, place) = three(1);
    let (group, document) = place;
    set(&mut world, BEN, Some(place), true, Ways::Send);
    let before = size(&world, place);
    for _ in 0..50 {
        world.edit(BEN, group, document, "x");
    }
    world.run();
    world.restart(BEN);
    world.edit(ANA, group, document, " by ana");
    world.run();
    assert_eq!(size(&world, place), before + 1);
    assert_eq!(world.text(ANA, group, document), "begun by ana");
    let text = world.text(BEN, group, document);
    assert!(
        text.contains(" by ana") && text.contains(&"x".repeat(50)),
        "{text}"
    );
    let status = world.status(BEN);
    assert_eq!(
        (status.pending, status.drafts, status.paused_documents),
        (50, 50, 1)
    );
    assert!(status.under_way.is_empty(), "nobody waits for it");
    let pause = info(&mut world, BEN, place).pause.unwrap();
    assert_eq!((pause.drafts, pause.document.receive), (50, None));
    assert!(pause.document.send.is_some() && pause.device == Pause::default());
    let waits = synced(&mut world, BEN, place).unwrap_err();
    assert_eq!(waits.code(), "pause.on");
    assert!(matches!(world.ask(BEN, Command::Settled), Reply::Done));
    // Another one writes on in between; then all of Ben's goes as one record.
    world.edit(CLEO, group, document, " by cleo");
    set(&mut world, BEN, Some(place), false, Ways::Both);
    assert!(matches!(synced(&mut world, BEN, place), Ok(Reply::Done)));
    world.run();
    assert_eq!(size(&world, place), before + 3);
    assert_eq!(info(&mut world, BEN, place).pause, None);
    assert_eq!(world.status(BEN).pending, 0);
    world.converged(group, &[ANA, BEN, CLEO]);
    world.no_findings();
}

#[test]
fn a_device_is_paused_as_a_whole_and_documents_by_themselves() {
    let (mut world, place) = three(2);
    let (group, document) = place;
    let other = world.create_document(group, ANA, "other");
    world.run();
    let second = (group, other);
    assert_eq!(world.text(BEN, group, other), "other");
    set(&mut world, BEN, None, true, Ways::Both);
    set(&mut world, BEN, Some(second), true, Ways::Send);
    world.restart(BEN);
    world.run();
    let before = (size(&world, place), size(&world, second));
    for id in [document, other] {
        world.edit(BEN, group, id, " ben");
        world.edit(ANA, group, id, " ana");
    }
    // A new one is not made known either.
    let Reply::Document(third) = world.ask(BEN, create(group, "third", "of ben")) else {
        panic!("no document")
    };
    world.run();
    assert_eq!(
        (size(&world, place), size(&world, second)),
        (before.0 + 1, before.1 + 1)
    );
    assert_eq!(world.text(BEN, group, document), "begun ben");
    assert!(!world.state(group).documents.contains_key(&third));
    let status = world.status(BEN);
    assert!(status.pause.send.is_some() && status.pause.receive.is_some());
    assert!(status.under_way.is_empty());
    // Each is resumed for itself.
    set(&mut world, BEN, None, false, Ways::Both);
    world.run();
    assert!(world.state(group).documents.contains_key(&third));
    let text = world.text(ANA, group, document);
    assert!(text.contains(" ben") && text.contains(" ana"));
    assert_eq!(world.text(ANA, group, other), "other ana");
    let text = world.text(BEN, group, other);
    assert!(text.contains(" ben") && text.contains(" ana"));
    set(&mut world, BEN, Some(second), false, Ways::Both);
    world.run();
    world.converged(group, &[ANA, BEN, CLEO]);
    world.no_findings();
}

#[test]
fn a_paused_sender_holds_up_no_rotation() {
    let (mut world, place) = three(3);
    let (group, document) = place;
    world.edit(BEN, group, document, " sent");
    world.run();
    set(&mut world, BEN, Some(place), true, Ways::Send);
    world.edit(BEN, group, document, " draft");
    let user = world.devices[CLEO].user;
    world.ask(ANA, Command::Remove { group, user });
    world.run();
    assert_eq!(world.state(group).rotating_since, 0);
    let epoch = world.state(group).epoch;
    assert_eq!(
        world.roots(BEN, &group),
        world.roots(ANA, &group),
        "old roots are gone"
    );
    set(&mut world, BEN, Some(place), false, Ways::Send);
    world.run();
    assert_eq!(world.text(ANA, group, document), "begun sent draft");
    let records = world.service.records(&group, &document);
    assert!(records.last().unwrap().header.epoch >= epoch);
    world.converged(group, &[ANA, BEN]);
    world.no_findings();
}

#[test]
fn the_one_who_removes_re_keys_while_its_sending_is_paused() {
    let (mut world, place) = three(4);
    let (group, document) = place;
    set(&mut world, ANA, None, true, Ways::Send);
    world.edit(ANA, group, document, " draft");
    let user = world.devices[CLEO].user;
    world.ask(ANA, Command::Remove { group, user });
    world.go_offline(BEN);
    world.run();
    assert_eq!(world.state(group).rotating_since, 0);
    world.go_online(BEN);
    world.run();
    assert_eq!(world.text(BEN, group, document), "begun");
    set(&mut world, ANA, None, false, Ways::Both);
    world.run();
    assert_eq!(world.text(BEN, group, document), "begun draft");
    world.converged(group, &[ANA, BEN]);
}

/// Keys go before a pause: the document comes up to date for that, and is closed again.
#[test]
fn what_is_not_received_is_put_under_new_keys_by_who_removes() {
    for restarts in [false, true] {
        let (mut world, place) = three(14);
        let (group, document) = place;
        set(&mut world, ANA, None, true, Ways::Both);
        world.edit(BEN, group, document, " ben");
        world.edit(ANA, group, document, " draft");
        world.run();
        assert_eq!(world.text(ANA, group, document), "begun draft");
        if restarts {
            world.restart(ANA);
        }
        let user = world.devices[CLEO].user;
        world.ask(ANA, Command::Remove { group, user });
        world.run();
        assert_eq!(world.state(group).rotating_since, 0);
        let text = world.text(ANA, group, document);
        assert!(text.contains(" ben") && text.contains(" draft"), "{text}");
        // From then on it is paused as before.
        world.edit(BEN, group, document, " later");
        world.run();
        assert!(!world.text(ANA, group, document).contains(" later"));
        assert!(!world.text(BEN, group, document).contains(" draft"));
        set(&mut world, ANA, None, false, Ways::Both);
        world.run();
        world.converged(group, &[ANA, BEN]);
        world.no_findings();
    }
}

#[test]
fn what_is_not_received_is_not_open_and_its_roots_stay() {
    let (mut world, place) = three(5);
    let (group, document) = place;
    set(&mut world, BEN, Some(place), true, Ways::Receive);
    for _ in 0..30 {
        world.edit(ANA, group, document, "y");
    }
    world.edit(BEN, group, document, " ben");
    world.run();
    assert_eq!(world.text(BEN, group, document), "begun ben");
    assert_eq!(
        world.text(ANA, group, document),
        format!("begun{}", "y".repeat(30))
    );
    let waits = synced(&mut world, BEN, place).unwrap_err();
    assert_eq!(waits.code(), "pause.on");
    assert!(matches!(world.ask(BEN, Command::Settled), Reply::Done));
    let pause = info(&mut world, BEN, place).pause.unwrap();
    assert_eq!((pause.document.send, pause.drafts), (None, 1));
    // The group goes on, and is followed: what came before the removal is to be opened afterwards.
    let user = world.devices[CLEO].user;
    world.ask(ANA, Command::Remove { group, user });
    world.edit(ANA, group, document, " after");
    world.restart(BEN);
    world.run();
    let epoch = world.state(group).epoch;
    assert_eq!(world.info(BEN, group).unwrap().epoch, epoch);
    assert_eq!(world.text(BEN, group, document), "begun ben");
    set(&mut world, BEN, Some(place), false, Ways::Receive);
    assert!(matches!(synced(&mut world, BEN, place), Ok(Reply::Done)));
    world.run();
    let text = world.text(ANA, group, document);
    assert!(text.contains(" ben") && text.contains(" after"), "{text}");
    assert_eq!(world.state(group).rotating_since, 0);
    world.converged(group, &[ANA, BEN]);
    world.no_findings();
}

/// Each call of Automerge takes as long as the document is large.
#[test]
fn what_has_gathered_comes_in_at_once() {
    let (mut world, (group, _)) = three(6);
    let begun = Command::CreateDocument {
        group,
        kind: CrdtKind::Automerge,
        title: "json".to_owned(),
        initial: None,
    };
    let Reply::Document(document) = world.ask(ANA, begun) else {
        panic!("no document")
    };
    world.run();
    let place = (group, document);
    assert_eq!(world.text(BEN, group, document), "");
    set(&mut world, BEN, Some(place), true, Ways::Receive);
    for _ in 0..60 {
        for _ in 0..10 {
            world.command(ANA, edit(group, document, "z"));
        }
        world.run();
    }
    assert!(size(&world, place) > 600, "each is a record");
    world.devices[BEN].events.clear();
    set(&mut world, BEN, Some(place), false, Ways::Both);
    world.run();
    assert_eq!(world.text(BEN, group, document).len(), 600);
    let changed = |event: &&Event| matches!(event, Event::DocumentChanged { .. });
    let changes = world.devices[BEN].events.iter().filter(changed).count();
    assert_eq!(changes, 1);
    world.converged(group, &[ANA, BEN, CLEO]);
}

#[test]
fn a_document_that_was_never_here_is_not_fetched() {
    let (mut world, (group, _)) = three(7);
    set(&mut world, BEN, None, true, Ways::Receive);
    let document = world.create_document(group, ANA, "new");
    world.run();
    let f = Box::new(|_: &mut dyn conclave_crdt::Crdt| Ok(()));
    let view = Command::View { group, document, f };
    let error = world.call(BEN, view).unwrap().unwrap_err();
    assert_eq!(error.code(), "pause.on");
    let title = info(&mut world, BEN, (group, document)).title;
    assert_eq!(title.as_deref(), Some("minutes"), "names come all the same");
    set(&mut world, BEN, None, false, Ways::Receive);
    world.run();
    assert_eq!(world.text(BEN, group, document), "new");
    world.no_findings();
}

#[test]
fn whoever_does_not_receive_is_not_seen() {
    let (mut world, place) = three(8);
    let (group, document) = place;
    for at in [ANA, BEN] {
        let (watch, f) = (
            true,
            Showing {
                kind: ShowingKind::Application,
                value: format!("{at}"),
            },
        );
        world.ask(
            at,
            Command::WatchPresence {
                group,
                document,
                whose: AttendeeId(1),
                watch,
            },
        );
        let showing = Some(f);
        world.ask(
            at,
            Command::ShowPresence {
                group,
                document,
                whose: AttendeeId(1),
                showing,
            },
        );
    }
    world.advance(2_000);
    let ben = world.devices[BEN].user;
    let shows = |world: &World| {
        let events = world.devices[ANA].events.iter().rev();
        let mut of = events.filter_map(|event| match event {
            Event::Presence { who, showing, .. } if who.user == ben => Some(showing.is_some()),
            _ => None,
        });
        of.next()
    };
    assert_eq!(shows(&world), Some(true));
    set(&mut world, BEN, Some(place), true, Ways::Receive);
    // At once, not when its time is over.
    world.advance(1_000);
    assert_eq!(shows(&world), Some(false));
    set(&mut world, BEN, Some(place), false, Ways::Receive);
    world.advance(5_000);
    assert_eq!(shows(&world), Some(true));
}

#[test]
fn whoever_may_not_write_any_more_finds_the_drafts_kept_apart() {
    for ways in [Ways::Send, Ways::Both] {
        let (mut world, place) = three(9);
        let (group, document) = place;
        set(&mut world, BEN, Some(place), true, ways);
        world.edit(BEN, group, document, " draft");
        let user = world.devices[BEN].user;
        let role = Role::Viewer;
        world.ask(ANA, Command::SetRole { group, user, role });
        world.run();
        set(&mut world, BEN, Some(place), false, Ways::Both);
        world.run();
        assert_eq!(world.text(BEN, group, document), "begun");
        let Reply::Rescues(kept) = world.ask(BEN, Command::Rescues) else {
            panic!("no rescues")
        };
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].changes, 1);
    }
}

/// While it is not received nothing comes of it that would show that: the group's log does.
#[test]
fn whoever_may_not_write_any_more_is_told_while_the_pause_lasts() {
    let barred = |world: &mut World| {
        let list = Command::Findings {
            group: None,
            dismissed: false,
        };
        let Reply::Findings(found) = world.ask(BEN, list) else {
            panic!("no findings")
        };
        let of =
            |it: &&conclave_engine::FindingInfo| it.finding.what.code() == "document.drafts_barred";
        found.iter().find(of).map(|info| info.settled)
    };
    for of_device in [false, true] {
        let (mut world, place) = three(40);
        let (group, document) = place;
        let paused = (!of_device).then_some(place);
        set(&mut world, BEN, paused, true, Ways::Receive);
        world.edit(BEN, group, document, " draft");
        let user = world.devices[BEN].user;
        let change = |world: &mut World, role| {
            world.ask(ANA, Command::SetRole { group, user, role });
            world.run();
        };
        change(&mut world, Role::Viewer);
        assert_eq!(barred(&mut world), Some(false));
        // It is kept over a restart, and settled when the role is back.
        world.restart(BEN);
        world.run();
        assert_eq!(barred(&mut world), Some(false));
        change(&mut world, Role::Editor);
        assert_ne!(barred(&mut world), Some(false));
        change(&mut world, Role::Viewer);
        assert_eq!(barred(&mut world), Some(false));
        set(&mut world, BEN, paused, false, Ways::Both);
        world.run();
        assert_ne!(barred(&mut world), Some(false));
        let Reply::Rescues(kept) = world.ask(BEN, Command::Rescues) else {
            panic!("no rescues")
        };
        assert_eq!(kept.len(), 1);
    }
}

/// A document that was put away takes nothing any more either.
#[test]
fn what_was_written_in_a_document_that_was_put_away_is_told_while_the_pause_lasts() {
    let (mut world, place) = three(41);
    let (group, document) = place;
    set(&mut world, BEN, Some(place), true, Ways::Both);
    world.edit(BEN, group, document, " draft");
    let reason = conclave_proto::record::CloseReason::Archived;
    world.ask(
        ANA,
        Command::Close {
            group,
            document,
            reason,
        },
    );
    world.run();
    world.found_only(BEN, &["document.drafts_barred"]);
}

#[test]
fn whoever_is_removed_finds_the_drafts_kept_apart() {
    let (mut world, place) = three(10);
    let (group, document) = place;
    set(&mut world, BEN, None, true, Ways::Both);
    world.edit(BEN, group, document, " draft");
    let user = world.devices[BEN].user;
    world.ask(ANA, Command::Remove { group, user });
    world.run();
    let Reply::Rescues(kept) = world.ask(BEN, Command::Rescues) else {
        panic!("no rescues")
    };
    assert_eq!(kept.len(), 1);
}

#[test]
fn drafts_that_wait_long_are_told_of_once_also_over_a_restart() {
    let (mut world, place) = three(11);
    let (group, document) = place;
    set(&mut world, BEN, Some(place), true, Ways::Send);
    world.edit(BEN, group, document, " draft");
    world.advance(WEEK_MS - 60_000);
    world.found_only(BEN, &[]);
    world.restart(BEN);
    world.advance(120_000);
    world.found_only(BEN, &["document.drafts_wait"]);
    world.restart(BEN);
    world.edit(BEN, group, document, " more");
    world.run();
    world.found_only(BEN, &["document.drafts_wait"]);
    assert_eq!(world.open_findings(BEN).len(), 1);
    set(&mut world, BEN, Some(place), false, Ways::Both);
    world.run();
    assert_eq!(world.open_findings(BEN).len(), 0, "it is over");
}

#[test]
fn many_drafts_are_told_of() {
    let (mut world, place) = three(12);
    let (group, document) = place;
    set(&mut world, BEN, Some(place), true, Ways::Send);
    world.edit(BEN, group, document, &"w".repeat(9_000_000));
    world.found_only(BEN, &[]);
    world.edit(BEN, group, document, &"w".repeat(9_000_000));
    world.found_only(BEN, &["document.drafts_wait"]);
    let pause = info(&mut world, BEN, place).pause.unwrap();
    assert!(pause.draft_bytes > 18_000_000);
}

/// The device dies at each of its outputs around pause and resume: every edit is there once in the end.
#[test]
fn at_any_output_around_a_pause() {
    let (mut world, place) = three(SEED);
    let (group, document) = place;
    world.run();
    let saved = world.save();
    let step = |world: &mut World, command: Command| drop(world.call(BEN, command));
    let crashes = World::at_any_output(
        &saved,
        BEN,
        |output| 100 + output as u64,
        |world| {
            step(world, command(Some(place), true, Ways::Both));
            step(world, edit(group, document, " one"));
            world.edit(ANA, group, document, " ana");
            step(world, edit(group, document, " two"));
            step(world, command(Some(place), false, Ways::Both));
            world.run();
        },
        |world, crash: Crash| {
            world.ask(BEN, command(Some(place), false, Ways::Both));
            world.run();
            let text = world.text(ANA, group, document);
            for word in [" one", " two"] {
                let count = text.matches(word).count();
                assert!(count <= 1, "{crash:?}: {text}");
            }
            assert_eq!(world.status(BEN).pending, 0, "{crash:?}");
            world.converged(group, &[ANA, BEN, CLEO]);
            world.no_findings();
        },
    );
    assert!(crashes > 4, "{crashes}");
}

/// What an edit gives back is told once it is durable: so it is there after any crash.
#[test]
fn what_was_answered_is_there_after_a_crash() {
    let (mut world, place) = three(13);
    let (group, document) = place;
    set(&mut world, BEN, None, true, Ways::Send);
    for count in 1..=5 {
        world.edit(BEN, group, document, "k");
        world.restart(BEN);
        let text = world.text(BEN, group, document);
        assert_eq!(text.matches('k').count(), count);
    }
    let pause = info(&mut world, BEN, place).pause.unwrap();
    assert_eq!(pause.drafts, 5);
}

/// Nobody comes into a group before its directory is there: that is no content.
#[test]
fn whoever_is_paused_founds_a_group_and_invites_into_it() {
    let mut world = World::new(15, &["ana", "ben"]);
    set(&mut world, ANA, None, true, Ways::Both);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    assert!(world.state(group).has_directory());
    let Reply::Document(document) = world.ask(ANA, create(group, "first", "of ana")) else {
        panic!("no document")
    };
    world.run();
    assert!(!world.state(group).documents.contains_key(&document));
    assert!(matches!(world.ask(ANA, Command::Settled), Reply::Done));
    let waits = synced(&mut world, ANA, (group, document)).unwrap_err();
    assert_eq!(waits.code(), "pause.on");
    set(&mut world, ANA, None, false, Ways::Both);
    world.run();
    assert_eq!(world.text(BEN, group, document), "of ana");
    world.converged(group, &[ANA, BEN]);
    world.no_findings();
}

#[test]
fn a_document_that_is_founded_anew_is_paused_as_it_was() {
    let (mut world, place) = three(16);
    let (group, document) = place;
    set(&mut world, ANA, Some(place), true, Ways::Send);
    world.edit(ANA, group, document, " draft");
    world.run();
    let Reply::Group(new) = world.ask(ANA, Command::Restart { group }) else {
        panic!("no group")
    };
    world.run();
    world.ask(BEN, Command::Accept { group: new });
    world.run();
    let copy = DocumentId::carried(&new, &document);
    assert!(!world.state(new).documents.contains_key(&copy));
    assert_eq!(world.text(ANA, new, copy), "begun draft");
    set(&mut world, ANA, Some((new, copy)), false, Ways::Both);
    world.run();
    assert_eq!(world.text(BEN, new, copy), "begun draft");
}

#[test]
fn what_somebody_tried_to_open_is_put_under_new_keys_all_the_same() {
    let (mut world, (group, _)) = three(17);
    set(&mut world, ANA, None, true, Ways::Receive);
    let document = world.create_document(group, BEN, "of ben");
    let f = Box::new(|_: &mut dyn conclave_crdt::Crdt| Ok(()));
    let view = Command::View { group, document, f };
    let error = world.call(ANA, view).unwrap().unwrap_err();
    assert_eq!(error.code(), "pause.on");
    world.go_offline(BEN);
    let user = world.devices[CLEO].user;
    world.ask(ANA, Command::Remove { group, user });
    world.run();
    assert_eq!(world.state(group).rotating_since, 0);
}

#[test]
fn nobody_waits_for_what_a_paused_document_is_to_give_back() {
    let (mut world, place) = three(18);
    let (group, document) = place;
    world.advance(900_000);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " late");
    world.run();
    for at in [ANA, BEN, CLEO] {
        world.go_offline(at);
    }
    world.service = copy;
    world.service.disconnect_all();
    world.go_online(BEN);
    while world.status(BEN).under_way.returning == 0 {
        world.advance(1);
    }
    set(&mut world, BEN, Some(place), true, Ways::Receive);
    assert!(matches!(world.ask(BEN, Command::Settled), Reply::Done));
    set(&mut world, BEN, Some(place), false, Ways::Receive);
    for at in [ANA, CLEO] {
        world.go_online(at);
    }
    world.advance(900_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    assert_eq!(world.text(BEN, group, document), "begun late");
}

#[test]
fn the_first_draft_is_the_one_that_has_waited() {
    let (mut world, place) = three(19);
    let (group, document) = place;
    set(&mut world, BEN, Some(place), true, Ways::Receive);
    world.advance(WEEK_MS + 60_000);
    world.edit(BEN, group, document, " draft");
    world.run();
    world.found_only(BEN, &[]);
    world.advance(WEEK_MS - 3_600_000);
    world.edit(BEN, group, document, " more");
    world.found_only(BEN, &[]);
    world.advance(2 * 3_600_000);
    world.found_only(BEN, &["document.drafts_wait"]);
    let text = &world.open_findings(BEN)[0].text;
    assert!(!text.contains("sending is paused"), "{text}");
}

/// A removal that its author does not finish ends nobody's pause before others had time for it.
#[test]
fn a_removal_by_somebody_else_ends_no_pause_at_once() {
    for role in [Role::Editor, Role::Viewer] {
        let (mut world, place) = three(20);
        let (group, document) = place;
        let ben = world.devices[BEN].user;
        let to_role = Command::SetRole {
            group,
            user: ben,
            role,
        };
        world.ask(ANA, to_role);
        world.run();
        set(&mut world, BEN, Some(place), true, Ways::Receive);
        world.edit(ANA, group, document, " ana");
        world.run();
        let user = world.devices[CLEO].user;
        world.command(ANA, Command::Remove { group, user });
        world.until(|world| world.state(group).rotating_since != 0);
        world.go_offline(ANA);
        world.advance(50 * 60_000);
        assert_eq!(world.text(BEN, group, document), "begun");
        assert_ne!(world.state(group).rotating_since, 0);
        world.advance(20 * 60_000);
        let is_done = world.state(group).rotating_since == 0;
        assert_eq!(is_done, role == Role::Editor);
        let now = world.text(BEN, group, document);
        assert_eq!(now.contains(" ana"), is_done, "{now}");
    }
}

/// What is paused already is not paused again, and sending is a matter of what waits.
#[test]
fn a_pause_costs_nothing_where_nothing_waits() {
    let (mut world, (group, _)) = three(21);
    for at in 0..20 {
        world.create_document(group, ANA, &format!("{at}"));
    }
    world.advance(700_000);
    let done = |world: &World| world.work_done(BEN);
    let before = done(&world);
    for (pause, ways) in [
        (true, Ways::Send),
        (true, Ways::Send),
        (false, Ways::Send),
        (false, Ways::Both),
    ] {
        set(&mut world, BEN, None, pause, ways);
    }
    world.run();
    let after = done(&world);
    // The group, twice, and no document.
    assert!(after.0 - before.0 <= 4, "{before:?} {after:?}");
    assert_eq!(after.1, before.1);
    set(&mut world, BEN, None, true, Ways::Receive);
    world.run();
    let before = done(&world);
    world.devices[BEN].stored.clear();
    set(&mut world, BEN, None, true, Ways::Receive);
    world.run();
    assert_eq!(done(&world), before);
    assert_eq!(world.devices[BEN].stored.len(), 0);
}

/// Documents that are made while paused leave memory like others.
#[test]
fn what_is_made_while_paused_is_let_go_of() {
    let mut world = World::new(22, &["ana"]);
    world.unchecked = true;
    let group = world.create_group(ANA);
    set(&mut world, ANA, None, true, Ways::Send);
    let mut made = Vec::new();
    for at in 0..600 {
        let Reply::Document(document) = world.ask(ANA, create(group, &format!("{at}"), "x")) else {
            panic!("no document")
        };
        made.push(document);
    }
    world.run();
    let hot = world.documents_in_memory(ANA);
    assert!(hot < 600, "{hot}");
    set(&mut world, ANA, None, false, Ways::Send);
    world.advance(600_000);
    let state = world.state(group);
    assert!(made.iter().all(|id| state.documents.contains_key(id)));
}

/// The clock is set right while drafts wait: they have waited as long as they have.
#[test]
fn a_clock_that_was_set_back_makes_no_draft_younger() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    for ahead in [2, 20] {
        let (mut world, place) = three(42);
        let (group, document) = place;
        world.set_clock(BEN, ahead * DAY_MS as i64);
        world.clock(BEN);
        set(&mut world, BEN, Some(place), true, Ways::Send);
        world.edit(BEN, group, document, " draft");
        world.advance(DAY_MS);
        world.set_clock(BEN, 0);
        world.clock(BEN);
        let told = |world: &mut World| {
            let list = Command::Findings {
                group: None,
                dismissed: false,
            };
            let Reply::Findings(found) = world.ask(BEN, list) else {
                panic!("no findings")
            };
            let mut codes = found.iter().map(|it| it.finding.what.code());
            codes.any(|code| code == "document.drafts_wait")
        };
        world.advance(5 * DAY_MS);
        assert!(!told(&mut world), "{ahead} days ahead");
        world.advance(DAY_MS + 3600 * 1000);
        assert!(told(&mut world), "{ahead} days ahead");
    }
}

/// Whoever waits for everything to be taken hears at once that it does not go on by itself: also who asked while there was no connection.
#[test]
fn whoever_waits_for_what_is_paused_is_answered() {
    for ways in [Ways::Send, Ways::Receive, Ways::Both] {
        let (mut world, place) = three(43);
        let (group, document) = place;
        world.go_offline(BEN);
        set(&mut world, BEN, Some(place), true, ways);
        world.edit(BEN, group, document, " draft");
        let waits = world.command(BEN, Command::Synced { group, document });
        world.run();
        world.go_online(BEN);
        world.run();
        let reply = world.reply(BEN, waits).and_then(Result::err);
        assert_eq!(
            reply.map(|error| error.code()),
            Some("pause.on"),
            "{ways:?}"
        );
    }
    // And who waited before it was paused.
    for ways in [Ways::Send, Ways::Receive] {
        let (mut world, place) = three(44);
        let (group, document) = place;
        world.go_offline(BEN);
        world.edit(BEN, group, document, " edit");
        let waits = world.command(BEN, Command::Synced { group, document });
        set(&mut world, BEN, Some(place), true, ways);
        world.run();
        world.go_online(BEN);
        world.run();
        let reply = world.reply(BEN, waits).and_then(Result::err);
        assert_eq!(
            reply.map(|error| error.code()),
            Some("pause.on"),
            "{ways:?}"
        );
    }
}
