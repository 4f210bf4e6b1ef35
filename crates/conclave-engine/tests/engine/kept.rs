//! What devices keep of logs, so that what the service lost can be returned.

use conclave_engine::Command;
use conclave_engine::kept::{self, KeptItem, KeptLog};
use conclave_proto::group::GroupEntry;
use conclave_proto::record::{EntryBody, RecordBody};
use conclave_proto::{DocumentId, GroupId, Record};

use crate::world::World;

/// What a device keeps of a document's log.
fn document_log(world: &World, at: usize, group: GroupId, document: DocumentId) -> KeptLog {
    let prefixes = kept::document_prefixes(&group, &document);
    let rows = prefixes.map(|prefix| world.devices[at].rows.read(&prefix));
    kept::document_log(&rows.concat(), &group, &document).unwrap()
}

/// What a device keeps of a document is the service's log, whole from this position on.
fn leads_to_the_root(
    world: &World,
    at: usize,
    group: GroupId,
    document: DocumentId,
    whole_from: u64,
) {
    let records = world.service.records(&group, &document);
    let kept = document_log(world, at, group, document);
    assert_eq!(kept.head().size, records.len() as u64);
    let items = kept.since(kept.first()).unwrap();
    assert_eq!(kept.first() as usize + items.len(), records.len());
    for (seq, item) in (kept.first()..).zip(items) {
        let record = &records[seq as usize];
        assert_eq!(item.leaf(), record.leaf());
        let is_whole = *item == KeptItem::Record(Box::new(record.clone()));
        assert!(is_whole || seq < whole_from, "{seq}");
    }
}

fn rows_below(world: &World, at: usize, group: GroupId) -> usize {
    let below = [&[9], group.as_bytes() as &[u8]].concat();
    world.devices[at].rows.read(&below).len()
}

/// A group with a document of which so many checkpoints were written, and its members.
fn with_checkpoints(seed: u64, checkpoints: usize) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    let document = world.create_document(group, 0, "the needle in the hay");
    for round in 0..checkpoints {
        for _ in 0..4 {
            let text = format!("{round}{}", "0123456789abcdef".repeat(9_000));
            world.edit(0, group, document, &text);
        }
        world.run();
    }
    (world, group, document)
}

#[test]
fn what_is_kept_leads_to_the_root_through_restarts() {
    let (mut world, group, document) = with_checkpoints(80, 4);
    for round in 0..6 {
        let at = round % 2;
        world.restart(at);
        world.run();
        world.edit(1 - at, group, document, "one more");
        world.edit(at, group, document, "and one more");
        world.run();
        for at in 0..2 {
            leads_to_the_root(&world, at, group, document, 0);
            world.check_kept(at);
        }
    }
    world.converged(group, &[0, 1]);
    world.no_findings();
}

#[test]
fn what_is_kept_goes_with_the_document_and_with_the_membership() {
    let (mut world, group, document) = with_checkpoints(81, 2);
    let other = world.create_document(group, 1, "stays");
    let of = |world: &World, document: DocumentId| {
        let [_, prefix] = kept::document_prefixes(&group, &document);
        (0..2)
            .map(|at| world.devices[at].rows.read(&prefix).len())
            .collect::<Vec<_>>()
    };
    assert!(of(&world, document).iter().all(|rows| *rows > 1));
    world.ask(
        0,
        Command::Close {
            group,
            document,
            reason: conclave_proto::record::CloseReason::Deleted,
        },
    );
    world.run();
    assert_eq!(of(&world, document), [0, 0]);
    assert!(of(&world, other).iter().all(|rows| *rows > 0));
    for at in 0..2 {
        world.check_kept(at);
    }
    assert!(rows_below(&world, 1, group) > 0);
    world.command(1, Command::Leave { group });
    world.run();
    assert_eq!(rows_below(&world, 1, group), 0);
    assert!(rows_below(&world, 0, group) > 0);
    for at in 0..2 {
        world.check_kept(at);
    }
}

/// Ciphertext, hashes and what is public: nothing that opens it, and no word of it.
#[test]
fn no_key_and_no_word_is_kept() {
    let (world, group, _) = with_checkpoints(82, 3);
    let holds = |value: &[u8], what: &[u8]| value.windows(what.len()).any(|it| it == what);
    for device in &world.devices {
        let below = |table: u8| [&[table], group.as_bytes() as &[u8]].concat();
        let secret = [below(4), [below(4), vec![b's']].concat()];
        let secret = device.rows.read(&secret[0]);
        let is_root = |key: &[u8]| matches!(key[17], b'r' | b's');
        // The bytes of a root stand in its row as one string.
        let roots = secret.iter().filter(|(key, _)| is_root(key));
        let roots: Vec<&[u8]> = roots.flat_map(|(_, value)| value.windows(32)).collect();
        let kept = device.rows.read(&below(9));
        assert!(kept.len() > 3 && roots.len() > 32);
        for (_, value) in &kept {
            assert!(!holds(value, b"the needle"));
            assert!(!holds(value, b"0123456789abcdef"));
            let windows: std::collections::BTreeSet<&[u8]> = value.windows(32).collect();
            let leaked = roots.iter().find(|root| windows.contains(*root));
            assert_eq!(leaked, None);
        }
        let read = device.rows.read(&below(5));
        assert!(read.iter().any(|(_, value)| holds(value, b"the needle")));
    }
}

fn group_log(world: &World, at: usize, group: GroupId) -> kept::GroupLog {
    let rows = world.devices[at].rows.read(&kept::group_prefix(&group));
    kept::group_log(&rows, &group).unwrap()
}

/// What a device keeps of a group's log is the service's, up to its end, with all that joiners are handed. Gives where it begins.
fn leads_to_the_end(world: &World, at: usize, group: GroupId) -> u64 {
    let entries = world.service.entries(&group);
    let kept = group_log(world, at, group);
    let first = kept.first as usize;
    let own: Vec<GroupEntry> = kept.entries.iter().map(|it| it.entry.clone()).collect();
    assert_eq!(own, entries[first..], "device {at}");
    assert_eq!(kept.since(kept.first).unwrap().len(), own.len());
    let epochs: Vec<u64> = kept.entries.iter().map(|it| it.epoch).collect();
    assert!(epochs.is_sorted());
    assert_eq!(epochs.last().copied(), Some(world.state(group).epoch));
    let lists = |entry: &GroupEntry| match entry {
        GroupEntry::Signed(record) => match record.header.body {
            RecordBody::Entry(EntryBody::RotationComplete { .. }) => None,
            _ => Some(record.clone()),
        },
        _ => None,
    };
    let listing: Vec<Record> = entries.iter().filter_map(lists).collect();
    assert_eq!(kept.listing, listing, "device {at}");
    world.check_kept(at);
    kept.first
}

#[test]
fn entries_are_kept_with_all_that_list_documents() {
    let mut world = World::new(83, &["ana", "ben", "cleo"]);
    let group = world.create_group(0);
    world.create_document(group, 0, "one");
    world.invite(group, 0, 1, None);
    let gone = world.create_document(group, 1, "two");
    let reason = conclave_proto::record::CloseReason::Deleted;
    let document = gone;
    world.ask(
        0,
        Command::Close {
            group,
            document,
            reason,
        },
    );
    world.run();
    world.invite(group, 0, 2, None);
    world.create_document(group, 2, "three");
    world.advance(700_000);
    for round in 0..3 {
        assert_eq!(leads_to_the_end(&world, 0, group), 0);
        assert!(leads_to_the_end(&world, 1, group) > 0);
        assert!(leads_to_the_end(&world, 2, group) > 0);
        world.restart(round);
        world.run();
        world.create_document(group, round, "more");
        world.run();
    }
    // Whoever made a commit has what it handed to joiners.
    let bundles = group_log(&world, 0, group).bundles;
    assert!(bundles.values().any(|bundle| bundle.welcome.is_some()));
    assert!(
        bundles
            .keys()
            .all(|epoch| *epoch <= world.state(group).epoch)
    );
    let user = world.devices[2].user;
    world.ask(0, Command::Remove { group, user });
    world.run();
    assert_eq!(rows_below(&world, 2, group), 0);
    leads_to_the_end(&world, 1, group);
    world.no_findings();
}

/// A device that comes back with nothing to compare begins anew, and has what lists documents as it was handed it.
#[test]
fn who_comes_back_begins_anew_where_the_log_has_a_gap() {
    let mut world = World::new(84, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    let document = world.create_document(group, 0, "hello");
    world.run();
    let mls = [&[4], group.as_bytes() as &[u8], b"m"].concat();
    world.devices[1]
        .rows
        .0
        .retain(|key, _| !key.starts_with(&mls));
    world.restart(1);
    world.create_document(group, 0, "meanwhile");
    world.advance(120_000);
    world.edit(1, group, document, " again");
    world.run();
    assert!(leads_to_the_end(&world, 1, group) > 0);
    assert_eq!(leads_to_the_end(&world, 0, group), 0);
    world.converged(group, &[0, 1]);
}

/// Entries go after two weeks and sixteen epochs, own commits after two weeks; what lists documents stays.
#[test]
fn old_entries_go_a_few_at_a_time() {
    let mut world = World::new(85, &["ana", "ben"]);
    world.unchecked = true;
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    for _ in 0..40 {
        world.create_document(group, 0, "x");
    }
    world.advance(15 * 24 * 3600 * 1000);
    let user = world.devices[1].user;
    for round in 0..20 {
        let role = [conclave_proto::Role::Admin, conclave_proto::Role::Editor][round % 2];
        world.ask(0, Command::SetRole { group, user, role });
        world.run();
    }
    let first = leads_to_the_end(&world, 0, group);
    assert!(first >= 32, "{first}");
    let listing = group_log(&world, 0, group).listing;
    assert!(listing.len() >= 40);
}
