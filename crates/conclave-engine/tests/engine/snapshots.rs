//! Who makes snapshots, and when nobody does.

use conclave_engine::Command;
use conclave_engine::finding::Names;
use conclave_proto::record::RecordBody;
use conclave_proto::{DocumentId, GroupId, GroupPolicy};

use crate::world::World;

/// Ana and Ben, and a document with a text of so many bytes.
fn pair(seed: u64, policy: GroupPolicy, bytes: usize) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben"]);
    let group = world.create_group_with(0, policy);
    world.invite(group, 0, 1, None);
    let text: String = "a line of text\n".chars().cycle().take(bytes).collect();
    let document = world.create_document(group, 0, &text);
    (world, group, document)
}

/// Devices of the snapshots that the service has of a document, in log order.
fn makers(world: &World, group: GroupId, document: DocumentId) -> Vec<usize> {
    let records = world.service.records(&group, &document);
    let snapshots = records
        .iter()
        .filter(|record| matches!(record.header.body, RecordBody::Snapshot(_)));
    let device = |record: &conclave_proto::Record| {
        let author = record.header.author.device;
        let devices = &mut world.devices.iter();
        devices.position(|device| device.id == author).unwrap()
    };
    snapshots.map(device).collect()
}

#[test]
fn idle_devices_over_a_large_text_send_nothing() {
    for bytes in [1_500_000, 5_000_000] {
        let (mut world, group, document) = pair(41, GroupPolicy::default(), bytes);
        for at in [0, 1, 0] {
            world.edit(at, group, document, "one line more\n");
        }
        world.run();
        assert_eq!(makers(&world, group, document), [0], "nothing is worth one");
        // Who has just joined renews its leaf once.
        world.advance(20 * 60 * 1000);
        world.arrived.clear();
        world.advance(10 * 60 * 1000);
        let sent: Vec<_> = world.arrived.iter().map(|(_, what)| *what).collect();
        assert_eq!(sent, [""; 0]);
        world.converged(group, &[0, 1]);
        world.no_findings();
    }
}

#[test]
fn whoever_wrote_the_edit_that_calls_for_a_snapshot_makes_it() {
    for author in [0, 1] {
        let policy = GroupPolicy {
            snapshot_after_bytes: 2_000,
            ..GroupPolicy::default()
        };
        let (mut world, group, document) = pair(42, policy, 100);
        world.edit(1 - author, group, document, &"x".repeat(1_000));
        world.run();
        assert_eq!(makers(&world, group, document), [0]);
        world.edit(author, group, document, &"y".repeat(1_000));
        world.run();
        assert_eq!(makers(&world, group, document), [0, author]);
        // As much again is called for as the snapshot holds.
        world.advance(60_000);
        assert_eq!(makers(&world, group, document), [0, author]);
        world.converged(group, &[0, 1]);
        world.no_findings();
    }
}

#[test]
fn others_make_it_after_a_while() {
    let policy = GroupPolicy {
        snapshot_after_bytes: 2_000,
        ..GroupPolicy::default()
    };
    let (mut world, group, document) = pair(43, policy, 100);
    world.edit(1, group, document, &"x".repeat(4_000));
    // Ben goes as soon as the service has his edit.
    let before = world.count(1, "append");
    world.until(|world| world.count(1, "append") > before);
    world.go_offline(1);
    world.advance(14_000);
    assert_eq!(makers(&world, group, document), [0], "it is Ben's for now");
    world.advance(32_000);
    assert_eq!(makers(&world, group, document), [0, 0]);
    world.go_online(1);
    world.run();
    assert_eq!(makers(&world, group, document), [0, 0], "one is enough");
    world.converged(group, &[0, 1]);
    world.no_findings();
}

/// What is wrong is under its author's signature: no operator can help, and whoever did it can be asked.
#[test]
fn who_begins_a_document_with_what_nobody_may_write_is_named() {
    let (mut world, group, _) = pair(49, GroupPolicy::default(), 10);
    world.claims = Some(0);
    let document = world.create_document(group, 0, "hello");
    world.run();
    let view = Command::View {
        group,
        document,
        f: Box::new(|_| Ok(())),
    };
    let Some(Err(error)) = world.call(1, view) else {
        panic!("it was opened");
    };
    assert_eq!(error.code(), "doc.bad_snapshot");
    let found = world.open_findings(1);
    let [found] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(found.finding.suspect, Some(world.devices[0].id.into()));
    let words = found.finding.words(&Names::default());
    assert!(
        words.fault.contains("Probably at fault: device"),
        "{words:?}"
    );
    assert!(words.remedy.contains("Ask that person"), "{words:?}");
}
