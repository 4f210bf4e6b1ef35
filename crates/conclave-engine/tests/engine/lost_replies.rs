//! The connection is cut after the service accepted something and before it could say so: it is done once.

use conclave_engine::{Command, Reply};
use conclave_proto::group::GroupEntry;
use conclave_proto::record::{CloseReason, EntryBody, RecordBody};
use conclave_proto::{DocumentId, GroupId, GroupPolicy};

use crate::world::{Cut, World, create, edit};

fn cut(world: &mut World, device: usize, after: &'static str) {
    world.cuts.push(Cut { device, after });
}

fn pair(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let policy = GroupPolicy {
        snapshot_after_records: 8,
        ..GroupPolicy::default()
    };
    let group = world.create_group_with(0, policy);
    world.invite(group, 0, 1, None);
    let document = world.create_document(group, 0, "hello");
    (world, group, document)
}

fn commits(world: &World, group: GroupId) -> usize {
    let entries = world.service.entries(&group);
    let commit = |entry: &&GroupEntry| matches!(entry, GroupEntry::Commit(_));
    entries.iter().filter(commit).count()
}

fn signed(world: &World, group: GroupId, wanted: impl Fn(&EntryBody) -> bool) -> usize {
    let entries = world.service.entries(&group);
    let matching = |entry: &&GroupEntry| match entry {
        GroupEntry::Signed(record) => {
            matches!(&record.header.body, RecordBody::Entry(body) if wanted(body))
        }
        _ => false,
    };
    entries.iter().filter(matching).count()
}

#[test]
fn of_a_group_creation() {
    let mut world = World::new(1, &["ana", "ben"]);
    cut(&mut world, 0, "create_group");
    let group = world.create_group(0);
    assert!(world.cuts.is_empty());
    world.invite(group, 0, 1, None);
    world.converged(group, &[0, 1]);
    world.no_findings();
}

#[test]
fn of_a_commit() {
    let (mut world, group, _) = pair(2);
    let before = commits(&world, group);
    cut(&mut world, 0, "commit");
    let user = world.devices[2].user;
    let role = None;
    let reply = world.ask(0, Command::Invite { group, user, role });
    assert!(matches!(reply, Reply::Done));
    assert!(world.cuts.is_empty());
    world.ask(2, Command::Accept { group });
    world.run();
    assert_eq!(commits(&world, group), before + 1);
    world.converged(group, &[0, 1, 2]);
    world.no_findings();
}

#[test]
fn of_a_proposal() {
    let (mut world, group, _) = pair(3);
    cut(&mut world, 1, "propose");
    let leave = world.ask(1, Command::Leave { group });
    assert!(matches!(leave, Reply::Done));
    assert!(world.cuts.is_empty());
    world.run();
    let entries = world.service.entries(&group);
    let proposal = |entry: &&GroupEntry| matches!(entry, GroupEntry::Proposal(_));
    assert_eq!(entries.iter().filter(proposal).count(), 1);
    world.converged(group, &[0]);
}

#[test]
fn of_an_append() {
    let (mut world, group, document) = pair(4);
    cut(&mut world, 0, "append");
    world.edit(0, group, document, "<once>");
    world.run();
    assert!(world.cuts.is_empty());
    world.converged(group, &[0, 1]);
    let text = world.text(1, group, document);
    assert_eq!(text.matches("<once>").count(), 1, "{text}");
    assert_eq!(world.service.records(&group, &document).len(), 2);
    world.no_findings();
}

#[test]
fn of_a_document_creation() {
    for seed in 5..9 {
        let (mut world, group, _) = pair(seed);
        cut(&mut world, 0, "create_document");
        let Reply::Document(document) = world.ask(0, create(group, "second", "two")) else {
            panic!("no document")
        };
        world.command(0, edit(group, document, " more"));
        world.run();
        assert!(world.cuts.is_empty());
        world.edit(1, group, document, " ben");
        world.run();
        world.converged(group, &[0, 1]);
        assert_eq!(world.text(1, group, document).len(), "two more ben".len());
        let created = |body: &EntryBody| matches!(body, EntryBody::DocumentCreated { document: id, .. } if *id == document);
        assert_eq!(signed(&world, group, created), 1);
        world.no_findings();
    }
}

#[test]
fn of_a_snapshot() {
    let (mut world, group, document) = pair(6);
    for at in [0, 1] {
        cut(&mut world, at, "put_snapshot");
    }
    for round in 0..8 {
        world.edit(0, group, document, &round.to_string());
        world.run();
    }
    world.edit(1, group, document, "!");
    world.run();
    assert!(world.cuts.len() < 2);
    world.converged(group, &[0, 1]);
    let records = world.service.records(&group, &document);
    let snapshot =
        |record: &&conclave_proto::Record| matches!(record.header.body, RecordBody::Snapshot(_));
    assert_eq!(records.iter().filter(snapshot).count(), 2);
    world.no_findings();
}

#[test]
fn of_an_entry() {
    let (mut world, group, document) = pair(7);
    cut(&mut world, 0, "put_entry");
    let reason = CloseReason::Archived;
    let close = Command::Close {
        group,
        document,
        reason,
    };
    assert!(matches!(world.ask(0, close), Reply::Done));
    assert!(world.cuts.is_empty());
    let closed = |body: &EntryBody| matches!(body, EntryBody::DocumentClosed { .. });
    assert_eq!(signed(&world, group, closed), 1);
    world.run();
    world.no_findings();
}

#[test]
fn of_a_welcomes_receipt() {
    let (mut world, group, _) = pair(8);
    cut(&mut world, 2, "ack_welcome");
    world.invite(group, 0, 2, None);
    assert!(world.cuts.is_empty());
    assert!(world.service.welcomes(&group).is_empty());
    world.converged(group, &[0, 1, 2]);
    world.no_findings();
}

#[test]
fn of_anything_else_in_a_session() {
    let questions = [
        "login",
        "put_packages",
        "get_list",
        "claim",
        "subscribe",
        "open",
    ];
    for (seed, what) in (20..).zip(questions) {
        let mut world = World::new(seed, &["ana", "ben"]);
        cut(&mut world, 0, what);
        cut(&mut world, 1, what);
        let group = world.create_group(0);
        world.invite(group, 0, 1, None);
        let document = world.create_document(group, 0, "hello");
        world.edit(0, group, document, " ana");
        world.edit(1, group, document, " ben");
        world.run();
        world.converged(group, &[0, 1]);
        assert_eq!(world.text(0, group, document).len(), "hello ana ben".len());
        world.no_findings();
    }
}
