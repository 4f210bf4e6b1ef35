//! Members who lie about snapshots, in a world of several devices: nobody erases on what others say, liars are named, a newcomer is told on whose
//! word the document rests, and the next honest snapshot heals it.

use ciborium::Value;
use conclave_crdt::{CrdtKind, ReplicaId, load};
use conclave_doc::{DiffersWhy, Judgement};
use conclave_engine::{BasisInfo, Command, DocumentInfo, Event, FindingKind, Reply};
use conclave_proto::record::RecordBody;
use conclave_proto::{DocumentId, GroupId, GroupPolicy, Role};

use crate::world::{Crash, Saved, World};

pub const ANA: usize = 0;
/// Makes a false snapshot.
pub const BEN: usize = 1;
/// Calls it right.
pub const CLEO: usize = 2;
pub const DANA: usize = 3;
/// Joins.
const EVE: usize = 4;

const DIFFERS: Judgement = Judgement::Differs(DiffersWhy::Content);
const HOUR_MS: u64 = 3600 * 1000;

pub fn policy() -> GroupPolicy {
    GroupPolicy {
        snapshot_after_bytes: 2_000,
        ..GroupPolicy::default()
    }
}

/// A new epoch.
fn commit(world: &mut World, group: GroupId) {
    let user = world.devices[DANA].user;
    let state = world.state(group);
    let role = match state.role_of_user(&user) {
        Some(Role::Admin) => Role::Editor,
        _ => Role::Admin,
    };
    world.ask(ANA, Command::SetRole { group, user, role });
    world.run();
}

/// Ana, Ben, Cleo and Dana, and a document; the last of its records are of an epoch in which nothing else was written, which is given.
pub fn four(seed: u64) -> (World, GroupId, DocumentId, u64) {
    let mut world = World::new(seed, &["ana", "ben", "cleo", "dana", "eve"]);
    let group = world.create_group_with(ANA, policy());
    world.invite(group, ANA, BEN, Some(Role::Admin));
    for at in [CLEO, DANA] {
        world.invite(group, ANA, at, None);
    }
    // Leaves that were added are renewed.
    world.advance(700_000);
    let document = world.create_document(group, ANA, "the truth.");
    commit(&mut world, group);
    for at in [ANA, CLEO, DANA] {
        world.edit(at, group, document, " more");
    }
    world.run();
    let epoch = world.state(group).epoch;
    commit(&mut world, group);
    (world, group, document, epoch)
}

fn holds_root(world: &World, at: usize, group: &GroupId, epoch: u64) -> bool {
    let key = [&[4], group.as_bytes(), b"r", &epoch.to_be_bytes()[..]].concat();
    world.devices[at].rows.0.contains_key(key.as_slice())
}

fn info(world: &mut World, at: usize, group: GroupId, document: DocumentId) -> DocumentInfo {
    let Reply::Documents(listed) = world.ask(at, Command::Documents { group }) else {
        panic!("no documents")
    };
    let mut listed = listed.into_iter();
    listed.find(|it| it.document == document).unwrap()
}

fn basis(world: &mut World, at: usize, group: GroupId, document: DocumentId) -> BasisInfo {
    info(world, at, group, document).basis.unwrap()
}

/// Devices that made the snapshots of a document, in log order.
pub fn makers(world: &World, group: GroupId, document: DocumentId) -> Vec<usize> {
    let records = world.service.records(&group, &document).into_iter();
    let snapshots = records.filter(|it| matches!(it.header.body, RecordBody::Snapshot(_)));
    let device = |record: conclave_proto::Record| {
        let mut devices = world.devices.iter();
        devices.position(|it| it.id == record.header.author.device)
    };
    snapshots.map(|record| device(record).unwrap()).collect()
}

/// Users who are named for false snapshots and false verdicts, and how often each was found.
pub fn named(world: &mut World, at: usize) -> Vec<(usize, bool, u64)> {
    let found = world.open_findings(at);
    let mut named: Vec<(usize, bool, u64)> = found
        .iter()
        .filter_map(|it| {
            let is_verdict = match it.finding.what {
                FindingKind::FalseSnapshot { .. } => false,
                FindingKind::FalseVerdict { .. } => true,
                _ => return None,
            };
            let mut devices = world.devices.iter();
            let who = devices.position(|device| Some(device.user) == it.user);
            Some((who.unwrap(), is_verdict, it.count))
        })
        .collect();
    named.sort_unstable();
    named
}

/// Ben's snapshot holds what nobody wrote, and Cleo calls it right, while Ana and Dana are away. Eve has joined and opened the document from it.
fn two_collude(seed: u64) -> (World, GroupId, DocumentId, u64) {
    let (mut world, group, document, epoch) = four(seed);
    for at in [ANA, DANA, EVE] {
        world.go_offline(at);
    }
    let user = world.devices[EVE].user;
    world.ask(
        BEN,
        Command::Invite {
            group,
            user,
            role: None,
        },
    );
    world.run();
    world.forges = Some((BEN, document));
    world.held = Some(CLEO);
    world.edit(BEN, group, document, &"x".repeat(3_000));
    world.until(|world| world.forges.is_none());
    world.go_offline(BEN);
    world.claim(CLEO, group, document, Judgement::Match);
    world.go_offline(CLEO);
    world.held = None;
    world.go_online(EVE);
    world.run();
    world.ask(EVE, Command::Accept { group });
    world.run();
    (world, group, document, epoch)
}

#[test]
fn two_colluders_erase_nothing_and_are_named() {
    let (mut world, group, document, epoch) = two_collude(1);
    // The newcomer reads what was forged, and is told on whose word.
    assert!(world.text(EVE, group, document).starts_with("forged"));
    let users = [ANA, BEN, CLEO].map(|at| world.devices[at].user);
    let BasisInfo::Vouched { author, by } = basis(&mut world, EVE, group, document) else {
        panic!("no such word")
    };
    assert_eq!((author.user, by.len(), by[0].user), (users[1], 1, users[2]));
    let told = |event: &Event| {
        matches!(
            event,
            Event::BasisChanged {
                basis: BasisInfo::Vouched { .. },
                ..
            }
        )
    };
    assert!(world.devices[EVE].events.iter().any(told));
    assert!(holds_root(&world, ANA, &group, epoch));
    for at in [ANA, DANA] {
        world.go_online(at);
    }
    world.run();
    for at in [ANA, DANA] {
        assert!(holds_root(&world, at, &group, epoch));
        assert_eq!(
            named(&mut world, at),
            [(BEN, false, 1), (CLEO, true, 1)],
            "{at}"
        );
    }
    let seen = basis(&mut world, EVE, group, document);
    let BasisInfo::Disputed {
        author,
        for_it,
        against,
    } = seen
    else {
        panic!("no dispute: {seen:?}")
    };
    assert_eq!((author.user, for_it[0].user), (users[1], users[2]));
    assert!(against.iter().any(|it| it.user == users[0]));
    let mut told = world.open_findings(EVE).into_iter();
    assert!(told.any(|it| it.code == "document.disputed"));
    // What she writes meanwhile stands as any edit does.
    world.edit(EVE, group, document, " by eve");
    world.advance(60_000);
    let healed = makers(&world, group, document);
    assert!([ANA, DANA].contains(healed.last().unwrap()), "{healed:?}");
    let text = world.text(EVE, group, document);
    assert!(
        !text.contains("forged") && text.ends_with(" by eve"),
        "{text}"
    );
    let seen = basis(&mut world, EVE, group, document);
    assert!(matches!(seen, BasisInfo::Vouched { .. }), "{seen:?}");
    assert!(holds_root(&world, ANA, &group, epoch));
    world.converged(group, &[ANA, DANA, EVE]);
    world.advance(HOUR_MS);
    for at in [ANA, DANA] {
        assert!(!holds_root(&world, at, &group, epoch), "{at}");
        assert_eq!(world.open_findings(at).len(), 2);
    }
    assert_eq!(world.open_findings(EVE).len(), 0);
}

/// Whoever dies at any point keeps the roots and names the same two, each once, and the newcomer is healed all the same.
#[test]
fn a_device_that_dies_while_it_looks_names_the_same() {
    let (mut world, group, document, epoch) = two_collude(2);
    world.go_offline(EVE);
    let saved: Saved = world.save();
    let play = |world: &mut World| {
        world.go_online(ANA);
        world.advance(60_000);
    };
    let is_well = |world: &mut World, crash: Crash| {
        world.go_online(ANA);
        world.advance(60_000);
        let found = named(world, ANA);
        let who: Vec<_> = found.iter().map(|it| (it.0, it.1)).collect();
        assert_eq!(who, [(BEN, false), (CLEO, true)], "{crash:?}");
        assert!(holds_root(world, ANA, &group, epoch), "{crash:?}");
        assert_eq!(
            makers(world, group, document).last(),
            Some(&ANA),
            "{crash:?}"
        );
        world.go_online(EVE);
        world.advance(60_000);
        assert!(!world.text(EVE, group, document).contains("forged"));
        world.advance(HOUR_MS);
        assert!(
            holds_root(world, ANA, &group, epoch),
            "{crash:?}: Eve alone cannot find it right"
        );
    };
    let crashes = World::at_any_output(&saved, ANA, |output| 100 + output as u64, play, is_well);
    assert!(crashes > 20, "{crashes}");
}

/// A viewer objects to every snapshot: others make them, re-key and erase all the same, and the viewer is named.
#[test]
fn objections_stop_no_rekey_no_erasure() {
    let (mut world, group, document, epoch) = four(3);
    let vic = CLEO;
    let user = world.devices[vic].user;
    let role = Role::Viewer;
    world.ask(ANA, Command::SetRole { group, user, role });
    world.run();
    // It only speaks.
    world.held = Some(vic);
    let mut made = makers(&world, group, document).len();
    for bytes in [6_000, 20_000, 70_000] {
        world.edit(BEN, group, document, &"y".repeat(bytes));
        let before = made;
        world.until(|world| makers(world, group, document).len() > before);
        world.claim(vic, group, document, DIFFERS);
        world.advance(5_000);
        made = makers(&world, group, document).len();
    }
    world.claim(vic, group, DocumentId::directory(&group), DIFFERS);
    world.advance(HOUR_MS);
    for at in [ANA, BEN, DANA] {
        assert!(!holds_root(&world, at, &group, epoch), "{at}");
        let found = named(&mut world, at);
        let who: Vec<_> = found.iter().map(|it| (it.0, it.1)).collect();
        assert_eq!(who, [(vic, true)], "{at}");
    }
    // A removal re-keys everything, objections or not.
    world.held = None;
    world.run();
    let user = world.devices[DANA].user;
    world.ask(ANA, Command::Remove { group, user });
    world.advance(1_000);
    world.held = Some(vic);
    world.claim(vic, group, document, DIFFERS);
    world.advance(60_000);
    assert_eq!(world.state(group).rotating_since, 0, "complete");
    world.advance(HOUR_MS);
    for at in [ANA, BEN] {
        assert_eq!(world.roots(at, &group), 1, "{at}");
    }
    world.converged(group, &[ANA, BEN]);
}

/// Ana's copy of the document holds words that nobody wrote, as after a fault of her disk or her program.
fn garble(world: &mut World, group: GroupId, document: DocumentId) {
    let suffix = [document.as_bytes(), &b"c"[..]].concat();
    let rows = &mut world.devices[ANA].rows.0;
    let mut rows = rows.iter_mut().filter(|(key, _)| key.ends_with(&suffix));
    let (_, row) = rows.next().unwrap();
    let mut value: Value = ciborium::from_reader(row.as_slice()).unwrap();
    let fields = value.as_map_mut().unwrap().iter_mut();
    let mut state = fields.filter(|(name, _)| name.as_text() == Some("crdt"));
    let Value::Bytes(state) = &mut state.next().unwrap().1 else {
        panic!("no state")
    };
    let replica = ReplicaId::for_kind(CrdtKind::Yjs, [89; 16]);
    let mut crdt = load(CrdtKind::Yjs, state, replica).unwrap();
    crdt.text().unwrap().splice(0, 0, "garbled ").unwrap();
    crdt.take_pending(&mut vec![]).unwrap();
    *state = crdt.snapshot().unwrap();
    row.clear();
    ciborium::into_writer(&value, &mut **row).unwrap();
    world.restart(ANA);
    assert!(world.text(ANA, group, document).starts_with("garbled"));
}

/// A device that alone differs from snapshots of two others reports itself, and accuses nobody more, until others find the same.
#[test]
fn a_device_that_alone_differs_reports_itself() {
    let (mut world, group, document, _) = four(4);
    world.go_offline(ANA);
    garble(&mut world, group, document);
    let mut bytes = 6_000;
    let mut next = |world: &mut World, by: usize| {
        let made = makers(world, group, document).len();
        world.edit(by, group, document, &"y".repeat(bytes));
        bytes *= 4;
        world.until(|world| makers(world, group, document).len() > made);
        assert_eq!(makers(world, group, document).last(), Some(&by));
    };
    next(&mut world, BEN);
    world.go_online(ANA);
    world.advance(5_000);
    let before = named(&mut world, ANA);
    // He, and whoever agreed with him, before or after she contradicted.
    assert!(
        matches!(before[..], [(BEN, false, 1), (_, true, 1), ..]),
        "{before:?}"
    );
    // It would have made the next.
    world.go_offline(ANA);
    next(&mut world, CLEO);
    let made = makers(&world, group, document);
    world.go_online(ANA);
    world.advance(300_000);
    let found = world.open_findings(ANA);
    let codes: Vec<&str> = found.iter().map(|it| it.code.as_str()).collect();
    assert!(codes.contains(&"document.engine_differs"), "{codes:?}");
    assert_eq!(named(&mut world, ANA), before);
    assert_eq!(makers(&world, group, document), made);
    // Somebody else who says so as well is another matter.
    let vic = DANA;
    world.claim(vic, group, document, DIFFERS);
    // Its program would take that back.
    world.go_offline(vic);
    world.advance(5_000);
    let found = world.open_findings(ANA);
    let mut codes = found.iter().map(|it| it.code.as_str());
    assert!(codes.all(|code| code != "document.engine_differs"));
    assert!(named(&mut world, ANA).contains(&(CLEO, false, 1)));
}

/// Ben has opened the document from Ana's word. He makes no snapshot of it before she could, and one in the end where she is away.
#[test]
fn who_is_not_sure_makes_snapshots_last() {
    let mut world = World::new(5, &["ana", "ben"]);
    let group = world.create_group_with(ANA, policy());
    let document = world.create_document(group, ANA, "the truth.");
    world.edit(ANA, group, document, &"x".repeat(3_000));
    world.advance(60_000);
    assert_eq!(makers(&world, group, document), [ANA, ANA]);
    world.invite(group, ANA, BEN, None);
    world.run();
    let seen = basis(&mut world, BEN, group, document);
    assert!(matches!(seen, BasisInfo::Word { .. }), "{seen:?}");
    world.edit(BEN, group, document, &"y".repeat(12_000));
    world.advance(100_000);
    assert_eq!(makers(&world, group, document), [ANA, ANA, ANA]);
    world.go_offline(ANA);
    world.edit(BEN, group, document, &"z".repeat(60_000));
    world.advance(590_000);
    assert_eq!(makers(&world, group, document), [ANA, ANA, ANA]);
    world.advance(400_000);
    assert_eq!(makers(&world, group, document), [ANA, ANA, ANA, BEN]);
}
