//! What is on its way when the connection goes, comes too late, or is altered: nothing is lost and nothing is done twice.

use conclave_engine::Reply;
use conclave_proto::record::RecordBody;
use conclave_proto::{DocumentId, GroupId, GroupPolicy};

use crate::world::{World, edit};

/// Ana and Ben, and a document that calls for a snapshot after so many bytes.
fn pair(seed: u64, snapshot_after_bytes: u32) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben"]);
    let policy = GroupPolicy {
        snapshot_after_bytes,
        ..GroupPolicy::default()
    };
    let group = world.create_group_with(0, policy);
    world.invite(group, 0, 1, None);
    let document = world.create_document(group, 0, "hello");
    (world, group, document)
}

fn snapshots(world: &World, group: GroupId, document: DocumentId) -> Vec<usize> {
    let records = world.service.records(&group, &document);
    let made = records
        .iter()
        .filter(|record| matches!(record.header.body, RecordBody::Snapshot(_)));
    let by = made.map(|record| record.header.author.device);
    let at = |device| world.devices.iter().position(|it| it.id == device).unwrap();
    by.map(at).collect()
}

fn all_have_once(world: &mut World, group: GroupId, document: DocumentId, marks: &[&str]) {
    world.converged(group, &[0, 1]);
    let text = world.text(1, group, document);
    for mark in marks {
        assert_eq!(text.matches(mark).count(), 1, "{mark}: {text}");
    }
}

/// Ana writes what calls for a snapshot, and this is on its way.
fn sends_a_snapshot(world: &mut World, group: GroupId, document: DocumentId) {
    let large = format!("<calls>{}", "x".repeat(3_000));
    world.command(0, edit(group, document, &large));
    world.until(|world| world.is_sending(0, "put_snapshot"));
    world.command(0, edit(group, document, "<meanwhile>"));
}

#[test]
fn an_update_that_never_arrived_is_sent_again() {
    for seed in 1..5 {
        let (mut world, group, document) = pair(seed, 1 << 20);
        world.command(0, edit(group, document, "<lost>"));
        world.until(|world| world.is_sending(0, "append"));
        world.command(0, edit(group, document, "<after>"));
        world.lose(0);
        assert_eq!(world.service.records(&group, &document).len(), 1);
        world.run();
        all_have_once(&mut world, group, document, &["<lost>", "<after>"]);
        world.no_findings();
    }
}

/// A snapshot holds no edit that has no place of its own in the log: so none is lost with it.
#[test]
fn a_snapshot_that_never_arrived_costs_no_edit() {
    for restarts in [false, true] {
        let (mut world, group, document) = pair(6, 2_000);
        sends_a_snapshot(&mut world, group, document);
        if restarts {
            drop(world.restart_late(0));
        } else {
            world.lose(0);
        }
        assert_eq!(snapshots(&world, group, document), [0]);
        world.advance(60_000);
        all_have_once(&mut world, group, document, &["<calls>", "<meanwhile>"]);
        assert_eq!(snapshots(&world, group, document).len(), 2);
        world.no_findings();
    }
}

/// Ana's comes after Ben's, and follows what Ben's has replaced: one counts, and what both wrote meanwhile is there.
#[test]
fn of_two_snapshots_on_their_way_one_counts_and_no_edit_is_lost() {
    let (mut world, group, document) = pair(7, 2_000);
    sends_a_snapshot(&mut world, group, document);
    world.stalled = Some(0);
    world.advance(50_000);
    assert_eq!(snapshots(&world, group, document), [0, 1]);
    world.edit(1, group, document, "<ben>");
    world.stalled = None;
    world.advance(60_000);
    assert_eq!(snapshots(&world, group, document), [0, 1], "one is enough");
    let marks = ["<calls>", "<meanwhile>", "<ben>"];
    all_have_once(&mut world, group, document, &marks);
    world.no_findings();
    // Whose snapshot lost makes the next that is called for.
    sends_a_snapshot(&mut world, group, document);
    world.run();
    assert_eq!(snapshots(&world, group, document), [0, 1, 0]);
    world.converged(group, &[0, 1]);
}

/// Whoever writes before the document has come is answered when it is here, whatever happens to the connection until then.
#[test]
fn what_is_written_before_the_document_has_come_is_there_once() {
    for breaks in [false, true] {
        let (mut world, group, _) = pair(8, 1 << 20);
        world.go_offline(1);
        let document = world.create_document(group, 0, "hello");
        world.edit(0, group, document, "<ana>");
        world.go_online(1);
        world.until(|world| world.is_sending(1, "open"));
        let early =
            ["<early>", "<earlier>"].map(|mark| world.command(1, edit(group, document, mark)));
        assert!(early.iter().all(|id| world.reply(1, *id).is_none()));
        if breaks {
            world.lose(1);
            assert!(early.iter().all(|id| world.reply(1, *id).is_none()));
        }
        world.run();
        for id in early {
            assert!(matches!(world.reply(1, id), Some(Ok(Reply::Done))));
        }
        let marks = ["<ana>", "<early>", "<earlier>"];
        all_have_once(&mut world, group, document, &marks);
        assert!(world.text(0, group, document).starts_with("hello"));
        world.no_findings();
    }
}

/// The service alters the second of three records that a device lacks: what is before it counts, the rest is asked for, and who writes meanwhile loses nothing.
#[test]
fn a_record_that_was_altered_on_its_way_is_fetched_again() {
    let (mut world, group, document) = pair(9, 1 << 20);
    world.go_offline(1);
    for mark in ["<one>", "<two>", "<three>"] {
        world.edit(0, group, document, mark);
        world.run();
    }
    world.alters = Some((1, document));
    world.go_online(1);
    let before = world.count(1, "get_records");
    world.until(|world| world.alters.is_none());
    world.command(1, edit(group, document, "<ben>"));
    world.run();
    assert!(world.count(1, "get_records") > before);
    let marks = ["<one>", "<two>", "<three>", "<ben>"];
    all_have_once(&mut world, group, document, &marks);
    assert_eq!(world.findings(0), [""; 0]);
}
