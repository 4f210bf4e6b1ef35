//! A document at which an engine never comes back: where that is is told, kept over sessions, and can be declared void by an admin.

use conclave_engine::{At, Command, DocumentInfo, FindingInfo, FindingKind, Reply};
use conclave_proto::{DocumentId, GroupId, Role};

use crate::world::{Lends, Stop, World, edit};

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
const DORA: usize = 3;
const ALL: [usize; 3] = [ANA, BEN, CLEO];

/// Three members with a document and another one. Ben, in this role, lends everything, and so does Cleo.
fn three(seed: u64, role: Role) -> (World, GroupId, DocumentId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo", "dora"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(role));
    world.invite(group, ANA, CLEO, Some(Role::Editor));
    let document = world.create_document(group, ANA, "hello");
    let other = world.create_document(group, ANA, "other");
    world.edit(ANA, group, document, " one");
    world.run();
    for at in [ANA, BEN, CLEO, DORA] {
        world.devices[at].lends = Lends::Everything;
    }
    (world, group, document, other)
}

/// Ana writes what these engines do not come back from. Gives its position.
fn write_heavy(world: &mut World, group: GroupId, document: DocumentId, at: &[usize]) -> u64 {
    let seq = world.service.size_of_document(&group, &document);
    stop(world, document, at, Stop::Record(seq));
    world.edit(ANA, group, document, " heavy");
    seq
}

fn stop(world: &mut World, document: DocumentId, at: &[usize], stop: Stop) {
    world.stops = Some((document, stop));
    for device in 0..4 {
        world.devices[device].stops = at.contains(&device);
    }
}

fn info(world: &mut World, at: usize, group: GroupId, document: DocumentId) -> DocumentInfo {
    let Reply::Documents(all) = world.look(at, || Command::Documents { group }) else {
        panic!("no documents")
    };
    all.into_iter()
        .find(|info| info.document == document)
        .unwrap()
}

fn held(world: &mut World, at: usize) -> FindingInfo {
    let mut found = world.open_findings(at);
    found.retain(|it| it.code == "document.held");
    assert_eq!(found.len(), 1);
    found.remove(0)
}

/// Where it is held, in how many sessions, and whether this device may end that.
fn place(world: &mut World, at: usize) -> (At, u32, bool) {
    match held(world, at).finding.what {
        FindingKind::Held {
            at,
            sessions,
            may_void,
        } => (at, sessions, may_void),
        other => panic!("{other:?}"),
    }
}

fn assert_at_record(world: &mut World, at: usize, seq: u64, sessions: u32, may_void: bool) {
    let (place, count, may) = place(world, at);
    let At::Record(record) = place else {
        panic!("{place:?}")
    };
    assert_eq!((record.seq, count, may), (seq, sessions, may_void));
    assert_eq!(record.author.device, world.devices[ANA].id);
    assert!(record.bytes > 0);
}

fn void(group: GroupId, document: DocumentId, seq: u64) -> Command {
    Command::VoidRecord {
        group,
        document,
        seq,
    }
}

/// All open it, also after a restart, though every engine would stop at what is void by then: none is given it any more.
fn all_open_it(world: &mut World, group: GroupId, document: DocumentId, words: &[&str]) {
    world.advance(60_000);
    for round in 0..2 {
        let text = world.text(ANA, group, document);
        for at in ALL {
            assert_eq!(world.text(at, group, document), text);
            assert!(info(world, at, group, document).stuck.is_none());
            let mut found = world.open_findings(at);
            found.retain(|it| it.code == "document.held");
            assert_eq!(found.len(), 0, "{at}");
        }
        assert_eq!(text.matches("heavy").count(), 0, "{text}");
        for word in words {
            assert_eq!(text.matches(word).count(), 1, "{text}");
        }
        world.converged(group, &ALL);
        if round == 0 {
            for at in ALL {
                world.devices[at].stops = true;
                world.restart(at);
            }
            world.run();
        }
    }
}

/// It comes while Ben has an own edit that was not sent.
#[test]
fn an_admin_voids_the_record_at_which_delivering_is_stuck_in_two_sessions() {
    let (mut world, group, document, other) = three(71, Role::Admin);
    world.go_offline(BEN);
    world.edit(BEN, group, document, " mine");
    let seq = write_heavy(&mut world, group, document, &[BEN]);
    world.edit(ANA, group, document, " two");
    world.run();
    let rows = world.rows_of(BEN, &group, &document).len();
    world.go_online(BEN);
    world.run();
    assert_at_record(&mut world, BEN, seq, 1, true);
    assert_eq!(world.rows_of(BEN, &group, &document).len(), rows);
    let stuck = info(&mut world, BEN, group, document).stuck.unwrap();
    assert!(!stuck.may_void, "once is not enough to be offered it");
    assert!(!held(&mut world, BEN).text.contains("doc void"));
    // Others go on, and so does he elsewhere.
    world.edit(CLEO, group, document, " three");
    world.edit(BEN, group, other, " of ben");
    world.run();
    assert_eq!(world.text(ANA, group, other), "other of ben");

    world.restart(BEN);
    world.run();
    assert_at_record(&mut world, BEN, seq, 2, true);
    let text = held(&mut world, BEN).text;
    let command = format!("`conclave doc void {document} --record {seq}`");
    assert!(text.contains(&command), "{text}");
    assert!(text.contains("“ana”") && text.contains("bytes"), "{text}");
    let stuck = info(&mut world, BEN, group, document).stuck.unwrap();
    let record = stuck.record.unwrap();
    assert_eq!((record.seq, stuck.sessions, stuck.may_void), (seq, 2, true));
    assert_eq!(record.author.unwrap().name.as_deref(), Some("ana"));
    // It is there for the next session too.
    world.restart(BEN);
    world.run();
    assert_at_record(&mut world, BEN, seq, 3, true);
    assert_eq!(info(&mut world, BEN, group, document).pending, 1);

    world.ask(BEN, void(group, document, seq));
    world.run();
    all_open_it(
        &mut world,
        group,
        document,
        &["hello", " one", " two", " three", " mine"],
    );
}

/// It was taken in once, and stops every load since. What stands by itself of the own edits that were not sent stays; the rest is kept apart.
#[test]
fn an_admin_voids_the_record_at_which_loading_is_stuck() {
    let (mut world, group, document, _) = three(72, Role::Admin);
    let seq = write_heavy(&mut world, group, document, &[]);
    world.edit(ANA, group, document, " two");
    world.run();
    world.go_offline(BEN);
    // At the end, and so after what is to be void.
    world.edit(BEN, group, document, " mine");
    stop(&mut world, document, &[BEN], Stop::Record(seq));
    for sessions in 1..=2 {
        world.restart(BEN);
        world.run();
        let asks = world.command(BEN, edit(group, document, "lost"));
        world.run();
        let error = world.reply(BEN, asks).unwrap().unwrap_err();
        assert_eq!(error.code(), "document.held");
        assert_at_record(&mut world, BEN, seq, sessions, true);
    }
    world.go_online(BEN);
    world.run();
    world.ask(BEN, void(group, document, seq));
    world.run();
    world.advance(60_000);
    let Reply::Rescues(kept) = world.look(BEN, || Command::Rescues) else {
        panic!("no rescues")
    };
    assert_eq!(kept.len(), 1, "what was written on it is not lost");
    all_open_it(&mut world, group, document, &["hello", " one", " two"]);
}

#[test]
fn who_may_not_void_is_told_who_can_and_an_admin_elsewhere_does() {
    let (mut world, group, document, _) = three(73, Role::Editor);
    let seq = write_heavy(&mut world, group, document, &[BEN]);
    world.run();
    world.restart(BEN);
    world.run();
    assert_at_record(&mut world, BEN, seq, 2, false);
    let text = held(&mut world, BEN).text;
    assert!(
        text.contains("An admin of the group can") && text.contains("--record"),
        "{text}"
    );
    let refused = world.call(BEN, void(group, document, seq)).unwrap();
    assert_eq!(refused.unwrap_err().code(), "engine.forbidden");
    // Whoever is not stuck can look at what it is.
    let ask = || Command::Record {
        group,
        document,
        seq,
    };
    let Reply::Record(record) = world.look(ANA, ask) else {
        panic!("no record")
    };
    assert_eq!((record.seq, record.device), (seq, world.devices[ANA].id));
    let missing = world.call(ANA, void(group, document, seq + 50)).unwrap();
    assert_eq!(missing.unwrap_err().code(), "document.no_such_record");
    let first = world.call(ANA, void(group, document, 0)).unwrap();
    assert_eq!(
        first.unwrap_err().code(),
        "document.no_such_record",
        "no change"
    );
    world.ask(ANA, void(group, document, seq));
    world.run();
    all_open_it(&mut world, group, document, &["hello", " one"]);
}

/// What took long once and not the next time is over.
#[test]
fn what_comes_back_the_second_time_is_not_held_against_it() {
    let (mut world, group, document, _) = three(74, Role::Admin);
    let seq = write_heavy(&mut world, group, document, &[BEN]);
    world.run();
    assert_at_record(&mut world, BEN, seq, 1, true);
    stop(&mut world, document, &[], Stop::Record(seq));
    world.restart(BEN);
    world.run();
    assert_eq!(world.text(BEN, group, document), "hello one heavy");
    assert!(info(&mut world, BEN, group, document).stuck.is_none());
    world.converged(group, &ALL);
    stop(&mut world, document, &[BEN], Stop::Record(seq));
    world.restart(BEN);
    world.run();
    assert_at_record(&mut world, BEN, seq, 1, true);
}

/// No record is at fault where it is a snapshot, or the state that is stored here: that is said, and no void is offered.
#[test]
fn where_it_is_a_snapshot_that_is_said_and_what_to_do() {
    let (mut world, group, document, _) = three(75, Role::Admin);
    stop(&mut world, document, &[DORA], Stop::Snapshot);
    world.invite(group, ANA, DORA, Some(Role::Editor));
    let ask = || Command::Synced { group, document };
    for sessions in 1..=2 {
        let asked = world.command(DORA, ask());
        world.run();
        assert_eq!(
            world.reply(DORA, asked).unwrap().unwrap_err().code(),
            "document.held"
        );
        let (at, count, _) = place(&mut world, DORA);
        assert!(
            matches!(
                at,
                At::Snapshot {
                    seq: 0,
                    author: Some(_)
                }
            ),
            "{at:?}"
        );
        assert_eq!(count, sessions);
        world.restart(DORA);
        world.run();
    }
    let text = held(&mut world, DORA).text;
    assert!(
        text.contains("short form") && text.contains("next short form"),
        "{text}"
    );
    assert!(!text.contains("doc void"), "{text}");
    stop(&mut world, document, &[BEN], Stop::Stored);
    for sessions in 1..=2 {
        world.restart(BEN);
        world.run();
        let (at, count, _) = place(&mut world, BEN);
        assert_eq!((at, count), (At::Stored, sessions));
    }
    let text = held(&mut world, BEN).text;
    assert!(
        text.contains("stored here") && text.contains("Export"),
        "{text}"
    );
}
