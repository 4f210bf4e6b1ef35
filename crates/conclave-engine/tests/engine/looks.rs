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

/// Ben makes a snapshot that nobody can open, and is gone; Dana's is the active one, under a root that Ana has from her alone. That Ben's does not open speaks against
/// him, and not against a root under which it does not lie.
#[test]
fn a_replaced_snapshot_that_does_not_open_is_judged_by_its_own_epoch() {
    let (mut world, group, document, _) = four(22);
    let (user, role) = (world.devices[DANA].user, Role::Admin);
    world.ask(ANA, Command::SetRole { group, user, role });
    world.run();
    world.go_offline(ANA);
    world.go_offline(CLEO);
    world.forges = Some((BEN, document));
    world.unreadable = true;
    let made = makers(&world, group, document).len();
    world.edit(BEN, group, document, &"x".repeat(3_000));
    world.until(|world| makers(world, group, document).len() > made);
    let forgery = newest(&world, group, document);
    world.go_offline(BEN);
    world.advance(60_000);
    // Dana re-keys it, and nothing else is written under these keys.
    let user = world.devices[CLEO].user;
    world.ask(DANA, Command::Remove { group, user });
    world.advance(120_000);
    world.go_offline(DANA);
    let epoch = world.state(group).epoch;
    let records = world.service.records(&group, &document);
    let active = newest(&world, group, document);
    assert!(active > forgery && records[active as usize].header.epoch == epoch);
    assert!(records[forgery as usize].header.epoch < epoch);
    // As it is where a wrap has brought it.
    let row = [&[4], group.as_bytes(), b"r", &epoch.to_be_bytes()[..]].concat();
    world.go_online(ANA);
    world.until(|world| world.devices[ANA].rows.0.contains_key(&row));
    let giver = Value::serialized(&world.devices[DANA].id).unwrap();
    let of = world.devices[ANA].rows.0.get_mut(&row).unwrap();
    let mut value: Value = ciborium::from_reader(of.as_slice()).unwrap();
    let fields = value.as_map_mut().unwrap().iter_mut();
    let mut from = fields.filter(|(name, _)| name.as_text() == Some("from"));
    from.next().unwrap().1 = giver;
    of.clear();
    ciborium::into_writer(&value, &mut **of).unwrap();
    world.restart(ANA);
    world.advance(120_000);
    assert_eq!(named(&mut world, ANA), [(BEN, false, 1)]);
    assert!(world.devices[ANA].rows.0.contains_key(&row));
}
