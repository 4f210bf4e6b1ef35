//! Looks at snapshots that the service, or a member who gave a false root, would rather not have: none of them ends in silence.

use ciborium::Value;
use conclave_doc::snapshot_row;
use conclave_engine::Command;
use conclave_proto::record::RecordBody;
use conclave_proto::{DocumentId, GroupId, Role};

use crate::verdicts::{ANA, BEN, CLEO, DANA, four, makers, named};
use crate::world::{Lends, World};

/// Position of the newest snapshot of a document.
fn newest(world: &World, group: GroupId, document: DocumentId) -> u64 {
    let records = world.service.records(&group, &document);
    let is_snapshot =
        |it: &conclave_proto::Record| matches!(it.header.body, RecordBody::Snapshot(_));
    records.iter().rposition(is_snapshot).unwrap() as u64
}

fn codes(world: &mut World, at: usize) -> Vec<String> {
    let found = world.open_findings(at).into_iter();
    found.map(|it| it.code).collect()
}

/// Ana was given a forgery, and stopped before she had looked. The service gives its leaf alone from then on: she looks at her own copy. Without that she is told
/// that something is withheld.
#[test]
fn what_was_received_once_is_looked_at_whatever_the_service_gives() {
    for lost in [false, true] {
        let (mut world, group, document, _) = four(21);
        world.go_offline(CLEO);
        world.go_offline(DANA);
        world.devices[ANA].lends = Lends::Everything;
        world.forges = Some((BEN, document));
        let made = makers(&world, group, document).len();
        world.edit(BEN, group, document, &"x".repeat(3_000));
        world.until(|world| makers(world, group, document).len() > made);
        let seq = newest(&world, group, document);
        let forgery = world.service.records(&group, &document)[seq as usize].leaf();
        let row = [
            &[9],
            group.as_bytes(),
            document.as_bytes(),
            &snapshot_row(seq)[..],
        ]
        .concat();
        world.until(|world| world.devices[ANA].rows.0.contains_key(&row));
        world.withholds = Some((ANA, forgery));
        if lost {
            world.devices[ANA].rows.0.remove(&row);
        }
        world.restart(ANA);
        world.go_offline(BEN);
        world.advance(60_000);
        let found = named(&mut world, ANA);
        let withheld = codes(&mut world, ANA);
        let withheld = withheld.contains(&"document.snapshot_withheld".to_owned());
        match lost {
            false => assert_eq!(found, [(BEN, false, 1)]),
            true => assert_eq!(found, []),
        }
        assert_eq!(withheld, lost);
    }
}

/// Ana has a root of an epoch from Dana, who gave a false one; what lies under it is Ben's snapshot alone, which another has replaced. That it does not open speaks
/// against the root of its own epoch, and not against Ben.
#[test]
fn a_replaced_snapshot_that_does_not_open_is_judged_by_its_own_epoch() {
    let (mut world, group, document, _) = four(22);
    let user = world.devices[CLEO].user;
    world.go_offline(CLEO);
    world.go_offline(DANA);
    let before = world.state(group).epoch;
    world.command(BEN, Command::Remove { group, user });
    world.until(|world| world.state(group).epoch > before);
    let epoch = world.state(group).epoch;
    let row = [&[4], group.as_bytes(), b"r", &epoch.to_be_bytes()[..]].concat();
    world.until(|world| world.devices[ANA].rows.0.contains_key(&row));
    world.go_offline(ANA);
    // Ben re-keys it, and nothing else is written under these keys.
    world.advance(120_000);
    let rekeyed = newest(&world, group, document);
    let records = world.service.records(&group, &document);
    assert_eq!(records[rekeyed as usize].header.epoch, epoch);
    world.go_online(DANA);
    let (user, role) = (world.devices[DANA].user, Role::Viewer);
    world.ask(BEN, Command::SetRole { group, user, role });
    world.run();
    let made = makers(&world, group, document).len();
    world.edit(BEN, group, document, &"x".repeat(12_000));
    world.until(|world| makers(world, group, document).len() > made);
    assert_eq!(makers(&world, group, document)[made - 1..], [BEN, BEN]);
    let records = world.service.records(&group, &document);
    let mut under = records.iter().filter(|it| it.header.epoch == epoch);
    assert_eq!(
        under.next().map(|it| it.leaf()),
        Some(records[rekeyed as usize].leaf())
    );
    assert_eq!(under.next(), None);
    // As it is where a wrap has brought it.
    let giver = Value::serialized(&world.devices[DANA].id).unwrap();
    let row = world.devices[ANA].rows.0.get_mut(&row).unwrap();
    let mut value: Value = ciborium::from_reader(row.as_slice()).unwrap();
    for (name, field) in value.as_map_mut().unwrap() {
        match name.as_text() {
            Some("root") => *field = Value::Bytes(vec![7; 32]),
            Some("from") => *field = giver.clone(),
            _ => {}
        }
    }
    row.clear();
    ciborium::into_writer(&value, &mut **row).unwrap();
    world.restart(ANA);
    world.go_online(ANA);
    world.advance(120_000);
    assert_eq!(named(&mut world, ANA), []);
    // What is false is gone.
    let row = [&[4], group.as_bytes(), b"r", &epoch.to_be_bytes()[..]].concat();
    assert!(!world.devices[ANA].rows.0.contains_key(&row));
}
