//! Presence: who has a document open, and what they show in it.

use std::collections::BTreeMap;

use conclave_engine::{AttendeeId, Command, Event, Reply, Showing, ShowingKind, Ways};
use conclave_proto::{DocumentId, GroupId};

use crate::world::World;

fn world(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(0);
    for other in [1, 2] {
        world.invite(group, 0, other, None);
    }
    let document = world.create_document(group, 0, "text");
    world.run();
    (world, group, document)
}

const WHOSE: AttendeeId = AttendeeId(1);

fn show(world: &mut World, at: usize, here: (GroupId, DocumentId), value: &str) {
    show_for(world, at, here, WHOSE, value);
}

fn show_for(
    world: &mut World,
    at: usize,
    (group, document): (GroupId, DocumentId),
    whose: AttendeeId,
    value: &str,
) {
    let showing = (!value.is_empty()).then(|| Showing {
        kind: ShowingKind::Application,
        value: value.to_owned(),
    });
    let command = Command::ShowPresence {
        group,
        document,
        whose,
        showing,
    };
    assert!(matches!(world.ask(at, command), Reply::Done));
}

fn watch(world: &mut World, at: usize, (group, document): (GroupId, DocumentId), watch: bool) {
    let command = Command::WatchPresence {
        group,
        document,
        whose: WHOSE,
        watch,
    };
    assert!(matches!(world.ask(at, command), Reply::Presence(_)));
}

/// What a device has been told that others show, by their number and the index.
fn states(world: &World, at: usize) -> BTreeMap<(usize, u8), String> {
    let mut seen = BTreeMap::new();
    for event in &world.devices[at].events {
        match event {
            Event::Presence { who, showing, .. } => {
                let mut all = world.devices.iter();
                let other = all.position(|device| device.user == who.user).unwrap();
                let key = (other, who.index);
                match showing {
                    Some(showing) => seen.insert(key, showing.value.clone()),
                    None => seen.remove(&key),
                };
            }
            Event::PresenceLost { .. } => seen.clear(),
            _ => {}
        }
    }
    seen
}

/// As [`states`], where each shows one.
fn sees(world: &World, at: usize) -> BTreeMap<usize, String> {
    let states = states(world, at).into_iter();
    states.map(|((other, _), value)| (other, value)).collect()
}

fn shown(all: &[(usize, &str)]) -> BTreeMap<usize, String> {
    all.iter()
        .map(|(at, value)| (*at, (*value).to_owned()))
        .collect()
}

#[test]
fn members_see_what_others_show_and_when_they_go() {
    let (mut world, group, document) = world(1);
    let here = (group, document);
    for at in 0..3 {
        watch(&mut world, at, here, true);
    }
    show(&mut world, 0, here, "a");
    show(&mut world, 1, here, "b");
    world.advance(2_000);
    assert_eq!(sees(&world, 2), shown(&[(0, "a"), (1, "b")]));
    assert_eq!(sees(&world, 0), shown(&[(1, "b")]));
    show(&mut world, 1, here, "");
    world.advance(2_000);
    assert_eq!(sees(&world, 2), shown(&[(0, "a")]));
    // Who is cut off expires; who comes back is seen again.
    world.go_offline(0);
    world.advance(40_000);
    assert_eq!(sees(&world, 2), shown(&[]));
    show(&mut world, 1, here, "c");
    world.go_online(0);
    world.advance(5_000);
    assert_eq!(sees(&world, 2), shown(&[(0, "a"), (1, "c")]));
    assert_eq!(sees(&world, 0), shown(&[(1, "c")]));
    world.no_findings();
}

#[test]
fn who_does_not_watch_is_told_nothing_and_who_joins_later_is_told_all() {
    let (mut world, group, document) = world(2);
    let here = (group, document);
    show(&mut world, 0, here, "a");
    show(&mut world, 1, here, "b");
    world.advance(2_000);
    assert!(sees(&world, 0).is_empty());
    let command = Command::WatchPresence {
        group,
        document,
        whose: WHOSE,
        watch: true,
    };
    let Reply::Presence(present) = world.ask(0, command) else {
        panic!("no presence");
    };
    assert_eq!(present.len(), 1);
    assert_eq!(present[0].0.user, world.devices[1].user);
    assert_eq!(present[0].1.value, "b");
    watch(&mut world, 0, here, false);
    show(&mut world, 1, here, "c");
    world.advance(2_000);
    assert!(sees(&world, 0).is_empty());
}

#[test]
fn edits_and_presence_do_not_wait_for_each_other() {
    let (mut world, group, document) = world(3);
    let here = (group, document);
    watch(&mut world, 1, here, true);
    for round in 0..20 {
        world.edit(0, group, document, "x");
        show(&mut world, 0, here, &format!("at {round}"));
        world.advance(200);
    }
    world.advance(2_000);
    assert_eq!(sees(&world, 1), shown(&[(0, "at 19")]));
    world.converged(group, &[0, 1, 2]);
    world.no_findings();
}

#[test]
fn who_is_removed_vanishes_at_once_and_sees_nothing_more() {
    let (mut world, group, document) = world(4);
    let here = (group, document);
    for at in 0..3 {
        watch(&mut world, at, here, true);
        show(&mut world, at, here, "here");
    }
    world.advance(2_000);
    assert_eq!(sees(&world, 0).len(), 2);
    let user = world.devices[2].user;
    world.ask(0, Command::Remove { group, user });
    world.advance(100);
    assert_eq!(sees(&world, 0), shown(&[(1, "here")]));
    show(&mut world, 0, here, "after");
    world.advance(5_000);
    assert_eq!(sees(&world, 1), shown(&[(0, "after")]));
    let all = sees(&world, 2);
    assert!(!all.values().any(|value| value == "after"), "{all:?}");
}

#[test]
fn nothing_of_presence_is_stored() {
    let (mut world, group, document) = world(5);
    let here = (group, document);
    watch(&mut world, 0, here, true);
    // Whatever else follows from founding the group is done.
    world.advance(3_600_000);
    let before: Vec<_> = (0..3).map(|at| world.devices[at].stored_bytes).collect();
    show(&mut world, 1, here, "b");
    show(&mut world, 2, here, "c");
    world.advance(60_000);
    assert_eq!(sees(&world, 0), shown(&[(1, "b"), (2, "c")]));
    let after: Vec<_> = (0..3).map(|at| world.devices[at].stored_bytes).collect();
    assert_eq!(after, before);
}

#[test]
fn who_was_put_back_to_work_is_seen_anew() {
    let (mut world, group, document) = world(6);
    let here = (group, document);
    watch(&mut world, 0, here, true);
    show(&mut world, 1, here, "first");
    world.advance(2_000);
    // A new process on the same store: its session's counters go on from the last one's.
    world.restart(1);
    world.advance(2_000);
    show(&mut world, 1, here, "second");
    world.advance(2_000);
    assert_eq!(sees(&world, 0), shown(&[(1, "second")]));
}

#[test]
fn more_than_fits_is_refused() {
    let (mut world, group, document) = world(7);
    let value = "x".repeat(conclave_proto::limits::SHOWN_BYTES + 1);
    let command = Command::ShowPresence {
        group,
        document,
        whose: WHOSE,
        showing: Some(Showing {
            kind: ShowingKind::Application,
            value,
        }),
    };
    let refused = world.call(0, command).unwrap().unwrap_err();
    assert_eq!(refused.code(), "presence.too_much");
    assert!(!format!("{refused:?}").contains("xxx"));
}

#[test]
fn who_ends_to_watch_while_cut_off_leaves_room_for_others() {
    let mut world = World::new(8, &["ana"]);
    let group = world.create_group(0);
    let documents: Vec<_> = (0..65)
        .map(|at| world.create_document(group, 0, &format!("text {at}")))
        .collect();
    world.run();
    world.go_offline(0);
    for document in &documents {
        watch(&mut world, 0, (group, *document), true);
        watch(&mut world, 0, (group, *document), false);
    }
    // What is wanted takes room all the same.
    for document in &documents[..64] {
        watch(&mut world, 0, (group, *document), true);
    }
    let command = Command::WatchPresence {
        group,
        document: documents[64],
        whose: WHOSE,
        watch: true,
    };
    let refused = world.call(0, command).unwrap().unwrap_err();
    assert_eq!(refused.code(), "presence.too_many");
}

#[test]
fn each_who_shows_something_on_a_device_shows_it_beside_the_others() {
    let (mut world, group, document) = world(9);
    let here = (group, document);
    watch(&mut world, 0, here, true);
    let window = AttendeeId;
    show_for(&mut world, 1, here, window(1), "one");
    show_for(&mut world, 1, here, window(2), "two");
    world.advance(2_000);
    let seen = |all: &[(u8, &str)]| -> BTreeMap<(usize, u8), String> {
        let all = all.iter();
        all.map(|(index, value)| ((1, *index), (*value).to_owned()))
            .collect()
    };
    assert_eq!(states(&world, 0), seen(&[(0, "one"), (1, "two")]));
    show_for(&mut world, 1, here, window(2), "three");
    show_for(&mut world, 1, here, window(1), "");
    world.advance(2_000);
    assert_eq!(states(&world, 0), seen(&[(1, "three")]));
    // Somebody who has not shown anything clears nothing.
    show_for(&mut world, 1, here, window(1), "");
    show_for(&mut world, 1, here, window(9), "");
    world.advance(2_000);
    assert_eq!(states(&world, 0), seen(&[(1, "three")]));
    // The last goes, and with it the device: at once.
    show_for(&mut world, 1, here, window(2), "");
    world.advance(1_000);
    assert_eq!(states(&world, 0), seen(&[]));
}

#[test]
fn at_most_eight_on_a_device_show_something_and_no_more_than_fits() {
    let (mut world, group, document) = world(10);
    let here = (group, document);
    watch(&mut world, 0, here, true);
    for whose in 0..8 {
        show_for(&mut world, 1, here, AttendeeId(whose), "x");
    }
    let command = |whose, value: &str| Command::ShowPresence {
        group,
        document,
        whose: AttendeeId(whose),
        showing: Some(Showing {
            kind: ShowingKind::Application,
            value: value.to_owned(),
        }),
    };
    let refused = |world: &mut World, whose, value: &str| {
        let refused = world.call(1, command(whose, value)).unwrap();
        refused.unwrap_err().code()
    };
    assert_eq!(refused(&mut world, 8, "x"), "presence.too_many_states");
    let most = "x".repeat(conclave_proto::limits::SHOWN_BYTES - 7);
    show_for(&mut world, 1, here, AttendeeId(3), &most);
    assert_eq!(refused(&mut world, 4, "xx"), "presence.too_much");
    world.advance(2_000);
    let seen = states(&world, 0);
    assert_eq!(seen.len(), 8);
    assert_eq!(seen[&(1, 3)], most);
    // A place that is free again is taken by whoever comes.
    show_for(&mut world, 1, here, AttendeeId(2), "");
    show_for(&mut world, 1, here, AttendeeId(8), "y");
    world.advance(2_000);
    assert_eq!(states(&world, 0)[&(1, 2)], "y");
}

#[test]
fn an_engine_that_is_made_anew_goes_on_with_what_was_wanted() {
    let (mut world, group, document) = world(11);
    let here = (group, document);
    watch(&mut world, 0, here, true);
    show(&mut world, 0, here, "a");
    watch(&mut world, 1, here, true);
    show(&mut world, 1, here, "b");
    world.advance(2_000);
    for round in 0..3 {
        world.devices[0].events.clear();
        world.stall(0);
        // Also where it fails again before it has come to anything.
        if round == 2 {
            world.stall(0);
        }
        world.advance(5_000);
        assert_eq!(sees(&world, 0), shown(&[(1, "b")]), "round {round}");
        assert_eq!(sees(&world, 1), shown(&[(0, "a")]), "round {round}");
    }
    show(&mut world, 0, here, "again");
    world.advance(1_000);
    assert_eq!(sees(&world, 1), shown(&[(0, "again")]));
}

#[test]
fn who_ends_in_order_is_gone_at_once() {
    let (mut world, group, document) = world(12);
    let here = (group, document);
    watch(&mut world, 0, here, true);
    show(&mut world, 1, here, "b");
    world.advance(2_000);
    assert_eq!(sees(&world, 0), shown(&[(1, "b")]));
    world.end(1);
    world.advance(100);
    assert_eq!(sees(&world, 0), shown(&[]));
}

#[test]
fn who_does_not_send_shows_nothing_and_sees_the_others() {
    for of_device in [false, true] {
        let (mut world, group, document) = world(13);
        let here = (group, document);
        for at in [0, 1] {
            watch(&mut world, at, here, true);
            show(&mut world, at, here, "here");
        }
        world.advance(2_000);
        let pause = |world: &mut World, pause| {
            let change = conclave_engine::PauseChange {
                pause,
                ways: Ways::Send,
            };
            let document = (!of_device).then_some(here);
            world.ask(1, Command::Pause { document, change });
        };
        pause(&mut world, true);
        world.advance(1_000);
        assert_eq!(sees(&world, 0), shown(&[]));
        show(&mut world, 1, here, "hidden");
        show(&mut world, 0, here, "seen");
        world.advance(60_000);
        assert_eq!(sees(&world, 0), shown(&[]));
        assert_eq!(sees(&world, 1), shown(&[(0, "seen")]));
        pause(&mut world, false);
        world.advance(1_000);
        assert_eq!(sees(&world, 0), shown(&[(1, "hidden")]));
    }
}

/// Whatever people do to the wall clock, ten seconds are ten seconds.
#[test]
fn a_wall_clock_that_steps_neither_expires_nor_freezes_anybody() {
    const MINUTE_MS: i64 = 60_000;
    for (seed, step_ms) in (20..).zip([10 * MINUTE_MS, -MINUTE_MS / 2, -50_000, -120 * MINUTE_MS]) {
        let (mut world, group, document) = world(seed);
        let here = (group, document);
        for at in [0, 1] {
            watch(&mut world, at, here, true);
            show(&mut world, at, here, "here");
        }
        world.advance(5_000);
        for at in [0, 1] {
            world.devices[at].events.clear();
        }
        world.set_clock(0, step_ms);
        // Everything that is due by the clock as it is now.
        world.advance(55_000);
        for at in [0, 1] {
            let changed = |event: &&Event| {
                matches!(event, Event::Presence { .. } | Event::PresenceLost { .. })
            };
            let changes = world.devices[at].events.iter().filter(changed).count();
            assert_eq!(changes, 0, "{at} after {step_ms} ms");
        }
        // And whoever is cut off expires when it is time.
        world.go_offline(1);
        let gone = |world: &World| {
            let mut events = world.devices[0].events.iter();
            events.any(|event| matches!(event, Event::Presence { showing: None, .. }))
        };
        world.advance(15_000);
        assert!(!gone(&world), "after {step_ms} ms");
        world.advance(20_000);
        assert!(gone(&world), "after {step_ms} ms");
    }
}

#[test]
fn whoever_comes_back_into_many_documents_asks_in_one_after_the_other() {
    let mut world = World::new(30, &["ana"]);
    let group = world.create_group(0);
    let documents: Vec<_> = (0..40)
        .map(|at| world.create_document(group, 0, &format!("text {at}")))
        .collect();
    world.run();
    for document in &documents {
        watch(&mut world, 0, (group, *document), true);
    }
    world.advance(10_000);
    world.cut(0);
    let (mut most, mut all) = (0, 0);
    for _ in 0..100 {
        let before = world.count(0, "show");
        world.advance(100);
        let now = world.count(0, "show") - before;
        most = most.max(now);
        all += now;
    }
    assert_eq!(all, documents.len());
    assert!(most <= 2, "{most} at once");
}
