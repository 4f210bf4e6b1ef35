//! Removal: documents are re-keyed, by whoever is there; old roots are erased; the removed device keeps nothing.

use conclave_engine::{Command, Event, forensic};
use conclave_proto::group::RootWrap;
use conclave_proto::{DocumentId, GroupId, GroupPolicy, Record};

use crate::world::World;

fn three(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group_with(0, GroupPolicy::default());
    world.invite(group, 0, 1, Some(conclave_proto::Role::Admin));
    world.invite(group, 0, 2, None);
    let document = world.create_document(group, 0, "secret");
    for at in 0..3 {
        world.edit(at, group, document, ".");
    }
    world.run();
    (world, group, document)
}

fn remove(world: &mut World, group: GroupId, by: usize, who: usize) {
    let user = world.devices[who].user;
    world.ask(by, Command::Remove { group, user });
}

fn records(world: &World, group: GroupId, document: DocumentId) -> Vec<Record> {
    world.service.records(&group, &document)
}

/// Which records a copy of a device's rows still opens.
fn openable(world: &World, at: usize, group: GroupId, records: &[Record]) -> Vec<bool> {
    openable_with(world, at, group, records, &[])
}

/// As [`openable`], by somebody who also has root wraps of the service.
fn openable_with(
    world: &World,
    at: usize,
    group: GroupId,
    records: &[Record],
    wraps: &[RootWrap],
) -> Vec<bool> {
    let rows = world.devices[at].rows.read(&forensic::group_prefix(&group));
    forensic::openable(&rows, &group, records, wraps).unwrap()
}

fn rotating(world: &World, group: GroupId) -> u64 {
    world.state(group).rotating_since
}

#[test]
fn a_removal_rekeys_every_document_and_says_when_it_is_complete() {
    let (mut world, group, document) = three(1);
    let user = world.devices[2].user;
    world.command(0, Command::Remove { group, user });
    world.until(|world| rotating(world, group) != 0);
    world.run();
    assert_eq!(rotating(&world, group), 0);
    world.edit(1, group, document, " after");
    world.run();
    world.converged(group, &[0, 1]);
    for at in [0, 1] {
        let complete = |event: &&Event| matches!(event, Event::Rotation { complete: true, .. });
        assert!(
            world.devices[at]
                .events
                .iter()
                .any(|event| complete(&event))
        );
    }
    world.no_findings();
}

#[test]
fn a_removed_device_loses_its_rows_even_if_it_was_offline() {
    for offline in [false, true] {
        let (mut world, group, _) = three(2);
        if offline {
            world.go_offline(2);
        }
        remove(&mut world, group, 0, 2);
        world.go_online(2);
        world.run();
        for table in [4, 5] {
            let prefix = [&[table][..], group.as_bytes()].concat();
            assert!(world.devices[2].rows.read(&prefix).is_empty());
        }
        let lost = |event: &Event| matches!(event, Event::GroupLost { .. });
        assert!(world.devices[2].events.iter().any(lost));
    }
}

#[test]
fn a_copy_of_a_removed_device_opens_nothing_new() {
    let (mut world, group, document) = three(3);
    let old = records(&world, group, document);
    world.go_offline(2);
    remove(&mut world, group, 0, 2);
    world.run();
    world.edit(0, group, document, " after");
    world.run();
    let all = records(&world, group, document);
    let wraps = world.service.wraps(&group);
    let opened = openable_with(&world, 2, group, &all, &wraps);
    assert!(opened[..old.len()].iter().any(|opens| *opens));
    assert!(opened[old.len()..].iter().all(|opens| !*opens));
}

#[test]
fn another_member_takes_over_when_the_remover_vanishes() {
    let (mut world, group, document) = three(4);
    let user = world.devices[2].user;
    world.command(0, Command::Remove { group, user });
    world.until(|world| rotating(world, group) != 0);
    world.go_offline(0);
    world.run();
    world.advance(120_000);
    assert_eq!(rotating(&world, group), 0);
    world.go_online(0);
    world.run();
    world.edit(0, group, document, " back");
    world.run();
    world.converged(group, &[0, 1]);
}

#[test]
fn another_member_takes_over_though_it_starts_again_meanwhile() {
    let (mut world, group, _) = three(5);
    world.go_offline(1);
    let user = world.devices[2].user;
    world.command(0, Command::Remove { group, user });
    world.until(|world| rotating(world, group) != 0);
    world.go_offline(0);
    world.go_online(1);
    world.advance(1_000);
    // Ben knows of the removal, and that he might have to help; then he starts again.
    for _ in 0..3 {
        world.restart(1);
        world.advance(1_000);
    }
    world.advance(120_000);
    assert_eq!(rotating(&world, group), 0);
}

#[test]
fn old_roots_are_erased_an_hour_after_another_user_has_found_the_snapshot_right() {
    let (mut world, group, document) = three(6);
    // Leaves that were added are renewed.
    world.advance(700_000);
    let old = records(&world, group, document);
    for at in [0, 1] {
        assert!(openable(&world, at, group, &old).iter().any(|opens| *opens));
    }
    let wraps = world.service.wraps(&group);
    remove(&mut world, group, 0, 2);
    world.run();
    world.advance(50 * 60_000);
    world.converged(group, &[0, 1]);
    for at in [0, 1] {
        assert!(openable(&world, at, group, &old).iter().any(|opens| *opens));
    }
    world.advance(15 * 60_000);
    for at in [0, 1] {
        let opened = openable(&world, at, group, &old);
        assert!(opened.iter().all(|opens| !*opens), "{at}: {opened:?}");
        let all = records(&world, group, document);
        assert_eq!(openable(&world, at, group, &all).last(), Some(&true));
        assert_eq!(world.roots(at, &group), 1);
    }
    // Whoever joins later gets none of them, not even with every wrap that was ever stored.
    let dana = world.add("dana");
    world.pin(0, dana);
    world.pin(dana, 0);
    world.run();
    world.invite(group, 0, dana, None);
    let all = records(&world, group, document);
    assert_eq!(openable(&world, dana, group, &all).last(), Some(&true));
    let mut every = wraps;
    every.extend(world.service.wraps(&group));
    let opened = openable_with(&world, dana, group, &old, &every);
    assert!(opened.iter().all(|opens| !*opens), "{opened:?}");
    world.no_findings();
}
