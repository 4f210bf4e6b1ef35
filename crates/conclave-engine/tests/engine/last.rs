//! Who wrote last in a document, what its log tells, and what a group's policy keeps from being shown.

use conclave_engine::{Command, DocumentInfo, EngineError, PolicyChange, RecordedInfo, Reply};
use conclave_proto::{DocumentId, GroupId, UnixMs};

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;

fn begun(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    let document = world.create_document(group, ANA, "hello");
    (world, group, document)
}

fn listed(world: &mut World, at: usize, group: GroupId) -> DocumentInfo {
    match world.look(at, || Command::Documents { group }) {
        Reply::Documents(mut documents) => documents.remove(0),
        other => panic!("{other:?}"),
    }
}

fn log(group: GroupId, document: DocumentId) -> Command {
    Command::Log {
        group,
        document,
        before: None,
        limit: 10,
    }
}

/// Several changes of one within a minute: the row in the store knows the first of them.
#[test]
fn when_the_last_change_came_is_known_after_a_restart() {
    let (mut world, group, document) = begun(1);
    world.advance(120_000);
    for _ in 0..5 {
        world.edit(BEN, group, document, "x");
        world.run();
    }
    let before = listed(&mut world, ANA, group).last.unwrap();
    world.advance(3 * 3_600_000);
    world.restart(ANA);
    world.run();
    world.text(ANA, group, document);
    let after = listed(&mut world, ANA, group).last.unwrap();
    assert_eq!(format!("{:?}", after.by), format!("{:?}", before.by));
    assert_eq!(after.received, before.received);
    // What comes then came then.
    world.edit(BEN, group, document, "y");
    world.run();
    assert!(listed(&mut world, ANA, group).last.unwrap().received > before.received);
}

/// A document that was founded while this device was away came when it came, and one that was made here when it was made.
#[test]
fn what_a_document_begins_with_came_when_the_document_did() {
    let mut world = World::new(4, &["ana", "ben"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    world.go_offline(BEN);
    world.create_document(group, ANA, "hello");
    world.run();
    let before = world.now;
    world.go_online(BEN);
    world.run();
    for restarts in [false, true] {
        if restarts {
            world.advance(3_600_000);
            world.restart(ANA);
            world.restart(BEN);
            world.run();
        }
        for at in [ANA, BEN] {
            let last = listed(&mut world, at, group).last.unwrap();
            let after_ms = last.received.since_ms(UnixMs(before.0 - 120_000));
            assert!((1..600_000).contains(&after_ms), "{restarts}: {last:?}");
        }
    }
}

#[test]
fn what_one_took_out_of_many_changes_is_told_as_one() {
    let (mut world, group, document) = begun(2);
    for _ in 0..8 {
        world.edit(BEN, group, document, "x");
        world.run();
    }
    let f = Box::new(|crdt: &mut dyn conclave_crdt::Crdt| {
        let text = crdt.text().ok_or(conclave_crdt::CrdtError::Engine)?;
        let all = text.text()?.chars().count();
        text.splice(0, all, "")
    });
    let edit = Command::Edit { group, document, f };
    world.ask(ANA, edit);
    world.run();
    let Reply::Log(page) = world.look(BEN, || log(group, document)) else {
        panic!("no log");
    };
    let RecordedInfo::Edit(edit) = &page.records.last().unwrap().what else {
        panic!("{page:?}");
    };
    let counts: Vec<u64> = edit.deleted.iter().map(|it| it.count).collect();
    assert_eq!((counts, edit.deleted_of_others), (vec![8, 5], 0));
}

#[test]
fn a_group_that_does_not_show_who_wrote_shows_it_nowhere() {
    let (mut world, group, document) = begun(3);
    assert!(listed(&mut world, BEN, group).last.is_some());
    assert!(matches!(world.call(BEN, log(group, document)), Some(Ok(_))));
    let change = Box::new(PolicyChange {
        attribution: Some(false),
        ..PolicyChange::default()
    });
    world.ask(ANA, Command::ChangePolicy { group, change });
    world.run();
    for at in [ANA, BEN] {
        assert!(listed(&mut world, at, group).last.is_none());
        let found = world.call(at, log(group, document));
        assert!(
            matches!(found, Some(Err(EngineError::AttributionOff))),
            "{found:?}"
        );
    }
    // What a change did is nobody's.
    let changed = Command::Changed {
        group,
        document,
        first: 0,
        last: 0,
    };
    assert!(matches!(world.ask(BEN, changed), Reply::Changed(_)));
}
