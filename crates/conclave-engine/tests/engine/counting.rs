//! What a frame, an edit or an answer costs does not grow with the documents of a device.

use conclave_engine::{Command, Event, Reply};
use conclave_proto::frame::{ClientFrame, Request};
use conclave_proto::{DocumentId, GroupId};

use crate::world::{World, create, edit};

/// What was done, and what was written.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    worked: u64,
    looks: u64,
    outputs: usize,
    rows: usize,
}

/// A world whose first two devices have so many documents.
fn with_documents(count: usize) -> (World, GroupId, DocumentId) {
    let mut world = World::new(5, &["ana", "ben"]);
    world.unchecked = true;
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    let mut first = None;
    for at in 0..count {
        let Reply::Document(document) = world.ask(0, create(group, &format!("{at}"), "text"))
        else {
            panic!("no document")
        };
        first.get_or_insert(document);
    }
    // New members renew their leaves after a while.
    world.advance(700_000);
    (world, group, first.unwrap())
}

fn cost(world: &mut World, at: usize, act: impl FnOnce(&mut World)) -> Cost {
    // When a document was changed last is kept to the minute.
    world.advance(61_000);
    let before = (world.work_done(at), world.devices[at].outputs);
    world.devices[at].stored.clear();
    act(world);
    let after = (world.work_done(at), world.devices[at].outputs);
    Cost {
        worked: after.0.0 - before.0.0,
        looks: after.0.1 - before.0.1,
        outputs: after.1 - before.1,
        rows: world.devices[at].stored.len(),
    }
}

#[test]
fn an_edit_its_answer_and_its_delivery_cost_the_same_among_many_documents() {
    let mut found = Vec::new();
    for count in [10, 600] {
        let (mut world, group, document) = with_documents(count);
        // It is in memory, and nothing else goes on.
        for at in 0..2 {
            world.edit(at, group, document, ".");
            world.run();
        }
        let sent = cost(&mut world, 0, |world| {
            world.edit(0, group, document, ".");
            world.run();
        });
        let taken = cost(&mut world, 1, |world| {
            world.edit(0, group, document, ".");
            world.run();
        });
        world.text(1, group, document);
        found.push((sent, taken));
    }
    assert_eq!(found[0], found[1]);
}

#[test]
fn making_a_document_costs_the_same_among_many() {
    let mut found = Vec::new();
    for count in [10, 600] {
        let (mut world, group, _) = with_documents(count);
        // Too many are in memory where there are many: for the next one another is let go of first.
        let made = cost(&mut world, 0, |world| {
            world.ask(0, create(group, "one more", "text"));
            world.run();
        });
        found.push(made);
    }
    let more = |of: fn(&Cost) -> u64| of(&found[1]).saturating_sub(of(&found[0]));
    assert!(more(|cost| cost.worked) <= 4, "{found:?}");
    assert!(more(|cost| cost.looks) <= 4, "{found:?}");
    assert!(more(|cost| cost.rows as u64) <= 2, "{found:?}");
}

/// Re-keying after a removal goes in steps, between which acknowledgements of edits come through.
#[test]
fn acknowledgements_of_edits_pass_between_steps_of_rekeying() {
    let mut world = World::new(6, &["ana", "ben", "cleo"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    world.invite(group, 0, 2, None);
    let documents: Vec<DocumentId> = (0..40)
        .map(|_| world.create_document(group, 0, "text"))
        .collect();
    let user = world.devices[2].user;
    world.most_snapshots = 0;
    world.devices[0].events.clear();
    let before = world.count(0, "put_snapshot");
    world.command(0, Command::Remove { group, user });
    world.until(|world| world.count(0, "put_snapshot") > before);
    world.command(0, edit(group, documents[0], "!"));
    world.run();
    assert!(world.most_snapshots <= 4, "{}", world.most_snapshots);
    let events = &world.devices[0].events;
    let acknowledged = events
        .iter()
        .position(|event| matches!(event, Event::Acknowledged { .. }));
    let done = events
        .iter()
        .position(|event| matches!(event, Event::Rotation { complete: true, .. }));
    assert!(acknowledged.unwrap() < done.unwrap());
    world.converged(group, &[0, 1]);
}

/// What is durable leads back to the same state.
#[test]
fn reopened_rows_print_the_same_durable_state() {
    for seed in 0..4 {
        let mut world = World::new(seed, &["ana", "ben", "cleo"]);
        let group = world.create_group(0);
        world.invite(group, 0, 1, None);
        world.invite(group, 0, 2, None);
        let document = world.create_document(group, 1, "hello");
        world.go_offline(1);
        world.edit(1, group, document, " and");
        world.create_document(group, 1, "later");
        for at in 0..3 {
            world.run();
            let before = world.durable(at);
            world.restart(at);
            assert_eq!(world.durable(at), before, "seed {seed}, device {at}");
        }
        world.go_online(1);
        let user = world.devices[2].user;
        world.ask(0, Command::Remove { group, user });
        world.run();
        for at in 0..2 {
            let before = world.durable(at);
            world.restart(at);
            assert_eq!(world.durable(at), before, "seed {seed}, device {at}");
        }
        world.run();
        world.converged(group, &[0, 1]);
    }
}

/// Counts what one output sends.
pub fn snapshots(sends: &[ClientFrame]) -> usize {
    let is_snapshot = |frame: &&ClientFrame| {
        matches!(
            frame,
            ClientFrame::Request {
                body: Request::PutSnapshot { .. },
                ..
            }
        )
    };
    sends.iter().filter(is_snapshot).count()
}

/// What an edit writes, here and where it is taken in: rows and bytes of 200 edits. What is kept of the log costs no row beside those that
/// hold the records in any case.
#[test]
fn what_an_edit_writes_is_counted() {
    let mut world = World::new(7, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    let document = world.create_document(group, 0, "text");
    world.advance(700_000);
    let mut found = Vec::new();
    for at in 0..2 {
        world.edit(at, group, document, ".");
        world.run();
    }
    for device in &mut world.devices {
        device.stored.clear();
        device.stored_bytes = 0;
    }
    for _ in 0..200 {
        world.edit(0, group, document, "0123456789");
        world.run();
    }
    for device in &world.devices {
        found.push((device.stored.len(), device.stored_bytes));
    }
    // What 200 edits wrote before anything was kept for longer than opening a document needs it. A signed head comes on top, one small row a
    // second at most; here every edit has a second of its own.
    let heads = 200;
    for ((rows, bytes), (rows_before, bytes_before)) in
        found.into_iter().zip([(1_000, 657_760), (243, 501_928)])
    {
        assert!(rows <= rows_before + heads, "{rows}");
        let heads_bytes = 240 * heads;
        // What each record did to its user's account is in its row.
        let accounts_bytes = 60 * 200;
        // Who wrote last is in the document's row, which is written once a minute: here every edit has a minute of its own.
        let last_bytes = 160 * 200;
        let more = heads_bytes + accounts_bytes + last_bytes;
        assert!(bytes <= bytes_before + bytes_before / 50 + more, "{bytes}");
    }
}
