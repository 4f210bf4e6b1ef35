//! Presence: who has a document open, and what they show in it.

use std::collections::BTreeMap;

use conclave_engine::{Command, Event, Reply, Showing, ShowingKind};
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

fn show(world: &mut World, at: usize, (group, document): (GroupId, DocumentId), value: &str) {
    let showing = (!value.is_empty()).then(|| Showing {
        kind: ShowingKind::Application,
        value: value.to_owned(),
    });
    let command = Command::ShowPresence {
        group,
        document,
        showing,
    };
    assert!(matches!(world.ask(at, command), Reply::Done));
}

fn watch(world: &mut World, at: usize, (group, document): (GroupId, DocumentId), watch: bool) {
    let command = Command::WatchPresence {
        group,
        document,
        watch,
    };
    assert!(matches!(world.ask(at, command), Reply::Presence(_)));
}

/// What a device has been told that others show, by their number.
fn sees(world: &World, at: usize) -> BTreeMap<usize, String> {
    let mut seen = BTreeMap::new();
    for event in &world.devices[at].events {
        match event {
            Event::Presence { who, showing, .. } => {
                let mut all = world.devices.iter();
                let other = all.position(|device| device.user == who.user).unwrap();
                match showing {
                    Some(showing) => seen.insert(other, showing.value.clone()),
                    None => seen.remove(&other),
                };
            }
            Event::PresenceLost { .. } => seen.clear(),
            _ => {}
        }
    }
    seen
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
        watch: true,
    };
    let refused = world.call(0, command).unwrap().unwrap_err();
    assert_eq!(refused.code(), "presence.too_many");
}
