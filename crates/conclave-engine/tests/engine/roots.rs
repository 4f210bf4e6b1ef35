//! Roots that are missing, false, or come late; and how patiently they are asked for.

use ciborium::Value;
use conclave_engine::{Command, Event};
use conclave_proto::policy::JoinerAccess;
use conclave_proto::{DocumentId, GroupId, GroupPolicy, Role};

use crate::world::{Cut, World};

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
const DAN: usize = 3;
const HOUR_MS: u64 = 3600 * 1000;

fn from_join() -> GroupPolicy {
    GroupPolicy {
        joiner_access: JoinerAccess::FromJoin,
        ..GroupPolicy::default()
    }
}

fn group_of(world: &mut World, members: &[usize], policy: GroupPolicy) -> GroupId {
    let group = world.create_group_with(ANA, policy);
    for at in members {
        world.invite(group, ANA, *at, Some(Role::Admin));
    }
    // Leaves that were added are renewed.
    world.advance(700_000);
    group
}

/// A new epoch, whose root is kept as long as a record under it is needed.
fn commit(world: &mut World, by: usize, group: GroupId) -> u64 {
    let user = world.devices[BEN].user;
    let state = world.state(group);
    let role = match state.role_of_user(&user) {
        Some(Role::Admin) => Role::Editor,
        _ => Role::Admin,
    };
    world.ask(by, Command::SetRole { group, user, role });
    world.run();
    world.state(group).epoch
}

fn prefix(table: u8, group: &GroupId, rest: &[u8]) -> Vec<u8> {
    [&[table], group.as_bytes(), rest].concat()
}

fn root_row(group: &GroupId, epoch: u64) -> Vec<u8> {
    prefix(4, group, &[b"r".as_slice(), &epoch.to_be_bytes()].concat())
}

fn drop_rows(world: &mut World, at: usize, prefix: &[u8]) {
    let rows = &mut world.devices[at].rows.0;
    let before = rows.len();
    rows.retain(|key, _| !key.starts_with(prefix));
    assert!(rows.len() < before);
}

fn told(world: &World, at: usize, code: &str) -> Vec<Option<usize>> {
    let of = |event: &Event| match event {
        Event::Finding(told) if told.code == code => {
            Some(told.finding.suspect.and_then(|suspect| suspect.device()))
        }
        _ => None,
    };
    let known = |id| world.devices.iter().position(|device| device.id == id);
    let found = world.devices[at].events.iter().filter_map(of);
    found.map(|suspect| suspect.and_then(known)).collect()
}

/// Ben is alone, and lacks the root under which Ana has written " late". No wrap holds it.
fn alone_without_a_root(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = group_of(&mut world, &[BEN, CLEO], GroupPolicy::default());
    let document = world.create_document(group, ANA, "hello");
    world.run();
    let backup = world.devices[BEN].rows.clone();
    let epoch = commit(&mut world, ANA, group);
    world.edit(ANA, group, document, " late");
    world.run();
    commit(&mut world, ANA, group);
    for at in [ANA, BEN, CLEO] {
        world.go_offline(at);
    }
    // His documents are those from before.
    for rows in [
        prefix(5, &group, b""),
        prefix(9, &group, document.as_bytes()),
        prefix(4, &group, b"d"),
    ] {
        drop_rows(&mut world, BEN, &rows);
        let before = backup.read(&rows);
        world.devices[BEN].rows.0.extend(before);
    }
    drop_rows(&mut world, BEN, &root_row(&group, epoch));
    world.restart(BEN);
    world.service.hide_wraps(&group);
    (world, group, document)
}

#[test]
fn an_answer_lost_with_the_connection_is_asked_for_again() {
    let (mut world, group, document) = alone_without_a_root(1);
    let after = "get_wraps";
    world.cuts.push(Cut { device: BEN, after });
    world.go_online(BEN);
    world.advance(20_000);
    assert!(world.cuts.is_empty());
    world.go_online(ANA);
    world.advance(90_000);
    assert_eq!(world.text(BEN, group, document), "hello late");
    world.no_findings();
}

#[test]
fn what_nobody_was_there_to_open_is_not_set_aside_at_once() {
    let (mut world, group, document) = alone_without_a_root(2);
    world.go_online(BEN);
    world.advance(8 * 60_000);
    assert_eq!(world.text(BEN, group, document), "hello");
    world.no_findings();
    world.go_online(ANA);
    world.advance(6 * 60_000);
    assert_eq!(world.text(BEN, group, document), "hello late");
    world.no_findings();
}

#[test]
fn what_was_set_aside_for_want_of_an_answer_names_nobody_and_is_read_when_its_root_comes() {
    for way in ["reconnects", "epoch", "hour"] {
        let (mut world, group, document) = alone_without_a_root(3);
        world.go_online(BEN);
        world.advance(20 * 60_000);
        assert_eq!(told(&world, BEN, "document.set_aside"), [None]);
        world.edit(BEN, group, document, " ben");
        world.run();
        world.go_online(ANA);
        world.run();
        assert_eq!(world.text(BEN, group, document), "hello ben");
        match way {
            "reconnects" => world.cut(BEN),
            "epoch" => {
                commit(&mut world, ANA, group);
            }
            _ => world.advance(2 * HOUR_MS),
        }
        world.advance(60_000);
        let text = world.text(BEN, group, document);
        assert!(
            text.contains(" late") && text.contains(" ben"),
            "{way}: {text}"
        );
        world.converged(group, &[ANA, BEN]);
    }
}

#[test]
fn a_document_that_cannot_be_opened_is_tried_less_and_less_often() {
    let mut world = World::new(4, &["ana", "ben"]);
    let group = group_of(&mut world, &[BEN], GroupPolicy::default());
    let documents: Vec<DocumentId> = (0..24)
        .map(|_| world.create_document(group, ANA, "hello"))
        .collect();
    commit(&mut world, ANA, group);
    world.go_offline(ANA);
    world.go_offline(BEN);
    let current = world.state(group).epoch;
    for rows in [prefix(5, &group, b""), prefix(4, &group, b"d")] {
        drop_rows(&mut world, BEN, &rows);
    }
    for epoch in 0..current {
        world.devices[BEN].rows.0.remove(&root_row(&group, epoch));
    }
    world.restart(BEN);
    world.service.hide_wraps(&group);
    world.go_online(BEN);
    world.advance(100);
    let before = world.count(BEN, "open");
    let mut last = before;
    for _ in 0..60 {
        world.advance(1_000);
        let opens = world.count(BEN, "open");
        assert!(opens - last <= 12, "{}", opens - last);
        last = opens;
    }
    world.advance(HOUR_MS);
    let opens = world.count(BEN, "open") - before;
    assert!(opens <= 25 * 30, "{opens}");
    // When the root comes, at once.
    world.go_online(ANA);
    world.advance(330_000);
    for document in documents {
        assert_eq!(world.text(BEN, group, document), "hello");
    }
    assert_eq!(told(&world, BEN, "document.set_aside"), []);
}

#[test]
fn one_that_came_back_blindly_into_a_quiet_group_asks_less_and_less_often() {
    for (policy, most) in [(GroupPolicy::default(), 20), (from_join(), 0)] {
        let mut world = World::new(5, &["ana", "ben"]);
        let group = group_of(&mut world, &[BEN], policy);
        world.go_offline(ANA);
        world.go_offline(BEN);
        drop_rows(&mut world, BEN, &prefix(4, &group, b"m"));
        world.restart(BEN);
        world.go_online(BEN);
        world.advance(HOUR_MS);
        assert!(world.info(BEN, group).unwrap().unproven);
        let asks = world.count(BEN, "ask");
        assert!(asks <= most, "{asks}");
        assert_eq!(asks > 0, most > 0);
    }
}

/// Dan seals a record that nobody can open, under the present epoch.
fn seal_unreadable(world: &mut World, group: GroupId, document: DocumentId) {
    let key = crate::forge::device_key(&world.devices[DAN].rows);
    let author = conclave_proto::Author {
        device: world.devices[DAN].id,
        instance: conclave_proto::InstanceId([7; 8]),
    };
    let root = conclave_mls::EpochRoot::new([9; 32]);
    let keys = conclave_doc::DocKeys::derive(&root, &document);
    let out = world
        .service
        .order_update(group, document, author, |header| {
            conclave_doc::seal_with_nonce(&header, b"unknown", &keys, &key, 1, [3; 24])
        })
        .unwrap();
    world.post(out);
}

#[test]
fn under_from_join_a_member_cannot_stop_a_document_either() {
    let mut world = World::new(6, &["ana", "ben", "cleo", "dan"]);
    let group = group_of(&mut world, &[BEN, CLEO, DAN], from_join());
    let document = world.create_document(group, ANA, "hello");
    world.run();
    world.garbles = Some(DAN);
    let commits = world.count(DAN, "commit");
    let user = world.devices[BEN].user;
    let role = Role::Editor;
    world.command(DAN, Command::SetRole { group, user, role });
    world.until(|world| world.count(DAN, "commit") > commits);
    seal_unreadable(&mut world, group, document);
    world.go_offline(DAN);
    world.advance(90_000);
    for (at, text) in [(ANA, " ana"), (BEN, " ben"), (CLEO, " cleo")] {
        world.edit(at, group, document, text);
    }
    world.advance(30_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    let text = world.text(CLEO, group, document);
    assert_eq!(text.len(), "hello ana ben cleo".len(), "{text}");
    for at in [ANA, BEN, CLEO] {
        // Who came back before another may have sealed something that this one cannot open either: that names nobody.
        let named = told(&world, at, "document.set_aside");
        let named: Vec<_> = named.into_iter().flatten().collect();
        assert_eq!(named, [DAN]);
    }
}

/// A member puts a false root in the place of the true one, in its own store.
fn falsify(world: &mut World, at: usize, group: &GroupId, epoch: u64) {
    let row = world.devices[at].rows.0.get_mut(&root_row(group, epoch));
    let row = row.expect("a root");
    let mut value: Value = ciborium::from_reader(row.as_slice()).unwrap();
    let fields = value.as_map_mut().unwrap();
    for (name, field) in fields {
        if name.as_text() == Some("root") {
            *field = Value::Bytes(vec![7; 32]);
        }
    }
    row.clear();
    ciborium::into_writer(&value, &mut **row).unwrap();
}

#[test]
fn a_false_root_is_found_replaced_and_its_giver_is_named() {
    for (seed, of_base, restarts) in [(7, false, false), (8, true, false), (9, false, true)] {
        let mut world = World::new(seed, &["ana", "ben", "cleo", "dan"]);
        let group = group_of(&mut world, &[BEN, DAN], GroupPolicy::default());
        let base = world.state(group).epoch;
        let document = world.create_document(group, BEN, "hello");
        world.run();
        let epoch = commit(&mut world, ANA, group);
        world.edit(BEN, group, document, " ben");
        world.run();
        commit(&mut world, ANA, group);
        for at in [ANA, BEN, DAN] {
            world.go_offline(at);
        }
        falsify(&mut world, DAN, &group, if of_base { base } else { epoch });
        world.restart(DAN);
        world.go_online(DAN);
        let user = world.devices[CLEO].user;
        world.ask(
            DAN,
            Command::Invite {
                group,
                user,
                role: None,
            },
        );
        world.run();
        world.command(CLEO, Command::Accept { group });
        if restarts {
            // It is not forgotten that the root is on Dan's word.
            assert!(
                world.devices[CLEO]
                    .rows
                    .0
                    .contains_key(&root_row(&group, epoch))
            );
            world.restart(CLEO);
        }
        world.advance(30_000);
        if !of_base {
            assert_eq!(world.text(CLEO, group, document), "hello");
        }
        world.go_online(ANA);
        world.advance(6 * 60_000);
        assert_eq!(world.text(CLEO, group, document), "hello ben");
        for at in [ANA, CLEO] {
            assert_eq!(told(&world, at, "group.wrong_wrap"), [Some(DAN)], "{at}");
        }
        assert_eq!(told(&world, CLEO, "found.commitment"), []);
        // A restart forgets none of it.
        world.restart(CLEO);
        world.run();
        world.edit(CLEO, group, document, " cleo");
        world.run();
        assert_eq!(world.text(ANA, group, document), "hello ben cleo");
    }
}

#[test]
fn a_record_that_nobody_can_open_does_not_make_a_true_root_false() {
    let mut world = World::new(8, &["ana", "ben", "cleo", "dan"]);
    let group = group_of(&mut world, &[BEN, DAN], GroupPolicy::default());
    let document = world.create_document(group, ANA, "hello");
    world.run();
    commit(&mut world, ANA, group);
    world.go_offline(DAN);
    seal_unreadable(&mut world, group, document);
    world.run();
    // Nothing of anybody else shows that Ana's wrap is right, but that of another member.
    world.edit(ANA, group, document, " ana");
    world.run();
    commit(&mut world, ANA, group);
    world.invite(group, ANA, CLEO, None);
    world.advance(90_000);
    assert_eq!(world.text(CLEO, group, document), "hello ana");
    for at in [ANA, BEN, CLEO] {
        assert_eq!(told(&world, at, "found.commitment"), [Some(DAN)]);
        assert_eq!(told(&world, at, "group.wrong_wrap"), []);
    }
}

#[test]
fn a_false_root_given_to_one_who_asked_is_answered_by_the_true_one() {
    let (mut world, group, document) = alone_without_a_root(10);
    // Cleo is the liar here: all her roots are false.
    let rows = world.devices[CLEO].rows.read(&prefix(4, &group, b"r"));
    let current = world.state(group).epoch;
    for (key, _) in rows {
        let epoch = u64::from_be_bytes(key[key.len() - 8..].try_into().unwrap());
        if epoch < current {
            falsify(&mut world, CLEO, &group, epoch);
        }
    }
    world.restart(CLEO);
    world.go_online(CLEO);
    world.run();
    world.go_online(BEN);
    world.advance(60_000);
    assert_eq!(world.text(BEN, group, document), "hello");
    world.go_online(ANA);
    world.advance(6 * 60_000);
    assert_eq!(world.text(BEN, group, document), "hello late");
    for at in [ANA, BEN] {
        assert_eq!(told(&world, at, "group.wrong_wrap"), [Some(CLEO)], "{at}");
    }
    assert_eq!(told(&world, BEN, "found.commitment"), []);
}

fn root_in(world: &World, at: usize, group: &GroupId, epoch: u64) -> Value {
    let row = &world.devices[at].rows.0[&root_row(group, epoch)];
    let value: Value = ciborium::from_reader(row.as_slice()).unwrap();
    let fields = value.as_map().unwrap().iter();
    let mut root = fields.filter(|(name, _)| name.as_text() == Some("root"));
    root.next().unwrap().1.clone()
}

#[test]
fn a_wrap_never_takes_the_place_of_a_root_that_is_here() {
    let mut world = World::new(9, &["ana", "ben", "cleo", "dan"]);
    let group = group_of(&mut world, &[BEN, CLEO, DAN], GroupPolicy::default());
    let epoch = world.state(group).epoch;
    let document = world.create_document(group, ANA, "hello");
    world.run();
    commit(&mut world, ANA, group);
    world.go_offline(BEN);
    drop_rows(&mut world, BEN, &prefix(4, &group, b"m"));
    world.restart(BEN);
    let root = root_in(&world, BEN, &group, epoch);
    world.service.lies.refuse_external = true;
    world.go_online(BEN);
    world.advance(60_000);
    // Dan, who lies, is the one who adds him again.
    for at in [ANA, CLEO, DAN] {
        world.go_offline(at);
    }
    falsify(&mut world, DAN, &group, epoch);
    world.restart(DAN);
    world.go_online(DAN);
    world.run();
    let (device, user) = (world.devices[BEN].id, world.devices[BEN].user);
    world.ask(
        DAN,
        Command::ReAdd {
            group,
            user,
            device,
        },
    );
    world.run();
    world.call(BEN, Command::Accept { group });
    world.run();
    assert_eq!(world.intents(DAN, &group), 0);
    assert_eq!(root_in(&world, BEN, &group, epoch), root);
    let mut liars = told(&world, BEN, "group.wrong_wrap");
    liars.dedup();
    assert_eq!(liars, [Some(DAN)]);
    for at in [ANA, CLEO] {
        world.go_online(at);
    }
    world.advance(60_000);
    assert_eq!(world.text(BEN, group, document), "hello");
}
