//! A removal in a group of more documents than a device has in memory.

use std::collections::BTreeMap;

use ciborium::Value;
use conclave_engine::{Command, Event};
use conclave_proto::record::RecordBody;
use conclave_proto::{DocumentId, GroupId, Role};

use crate::world::{World, create};

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
const DANA: usize = 3;
/// Documents that a device has in memory.
const IN_MEMORY: usize = 6;
/// More than that.
const MANY: usize = 30;

/// Ana's group of many documents, which Ben and Cleo hold too.
fn many(seed: u64) -> (World, GroupId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo", "dana"]);
    world.in_memory = Some(IN_MEMORY);
    let group = world.create_group(ANA);
    for number in 0..MANY {
        world.command(ANA, create(group, &number.to_string(), "text"));
    }
    world.run();
    world.invite(group, ANA, BEN, Some(Role::Editor));
    world.invite(group, ANA, CLEO, None);
    world.invite(group, ANA, DANA, Some(Role::Viewer));
    assert_eq!(world.state(group).documents.size(), MANY + 1);
    (world, group)
}

fn remove_cleo(world: &mut World, group: GroupId) {
    let user = world.devices[CLEO].user;
    world.command(ANA, Command::Remove { group, user });
    world.until(|world| world.state(group).rotating_since != 0);
}

/// What a device was last told of the re-keying: documents done, all, and whether it is complete.
fn told(world: &World, at: usize) -> Option<(usize, usize, bool)> {
    let told = world.devices[at].events.iter().rev();
    let mut told = told.filter_map(|event| match event {
        Event::Rotation {
            done,
            total,
            complete,
            ..
        } => Some((*done, *total, *complete)),
        _ => None,
    });
    told.next()
}

/// Snapshots of the newest epoch, by document.
fn snapshots(world: &World, group: GroupId) -> BTreeMap<DocumentId, usize> {
    let state = world.state(group);
    let count = |id: &DocumentId| {
        let records = world.service.records(&group, id).into_iter();
        let new = records.filter(|it| {
            matches!(it.header.body, RecordBody::Snapshot(_)) && it.header.epoch == state.epoch
        });
        (*id, new.count())
    };
    state.documents.keys().map(count).collect()
}

const NOWHERE: [Vec<u8>; 0] = [];

/// Roots of epochs, and what lies beside the present one, as a device stores them.
fn secrets(world: &World, at: usize, group: GroupId) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for kind in [b'r', b's'] {
        let prefix = [&[4], group.as_bytes() as &[u8], &[kind]].concat();
        for (_, row) in world.devices[at].rows.read(&prefix) {
            let value: Value = ciborium::from_reader(row.as_slice()).unwrap();
            collect(&value, &mut found);
        }
    }
    found
}

/// All that is as long as a key in what is stored.
fn collect(value: &Value, into: &mut Vec<Vec<u8>>) {
    match value {
        Value::Bytes(bytes) if bytes.len() == 32 => into.push(bytes.clone()),
        Value::Array(items) if items.len() == 32 => {
            // As it stands in a row, without the array's head.
            let mut bytes = Vec::new();
            ciborium::into_writer(value, &mut bytes).unwrap();
            into.push(bytes.split_off(2));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
        Value::Map(fields) => fields.iter().for_each(|(_, value)| collect(value, into)),
        _ => {}
    }
}

/// Rows of a device that hold this.
fn rows_with(world: &World, at: usize, secret: &[u8]) -> Vec<Vec<u8>> {
    let rows = world.devices[at].rows.0.iter();
    let with = rows.filter(|(_, row)| row.windows(secret.len()).any(|part| part == secret));
    with.map(|(key, _)| key.clone()).collect()
}

/// Whoever removed is gone half-way, and an editor takes over. What was done is not done again. Who only looks on sees by itself that all documents are under
/// new keys, on the same connection, and the old roots go.
#[test]
fn who_takes_over_half_way_does_what_is_left_and_who_looks_on_sees_it() {
    let (mut world, group) = many(2);
    let before = [ANA, BEN, CLEO, DANA].map(|at| secrets(&world, at, group));
    assert!(before[BEN].len() > 1);
    remove_cleo(&mut world, group);
    let done = |world: &World| {
        let made = snapshots(world, group);
        made.values().filter(|made| **made > 0).count()
    };
    world.until(|world| done(world) >= MANY / 2);
    world.end(ANA);
    assert!(done(&world) < MANY);
    world.advance(120_000);
    assert_eq!(world.state(group).rotating_since, 0);
    let made = snapshots(&world, group);
    assert!(made.values().all(|made| *made == 1), "{made:?}");
    for at in [BEN, DANA] {
        assert_eq!(told(&world, at), Some((MANY + 1, MANY + 1, true)), "{at}");
    }
    world.advance(2 * 60 * 60_000);
    for at in [BEN, DANA] {
        for old in &before[at] {
            assert_eq!(rows_with(&world, at, old), NOWHERE, "{at}");
        }
        let now = secrets(&world, at, group);
        assert!(now.iter().all(|it| rows_with(&world, at, it) != NOWHERE));
    }
    world.no_findings();
}
