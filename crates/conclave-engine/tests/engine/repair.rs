//! Devices that lost their way come back: a commit that nobody can decrypt, lost rows, restored backups; those who were removed do not.

use conclave_engine::{Command, EngineError, Event, Reply};
use conclave_proto::{DocumentId, GroupId, Role};

use crate::world::{World, edit};
use conclave_testkit::rows::MemoryRows;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
const DAN: usize = 3;

fn four(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo", "dan"]);
    let group = world.create_group(ANA);
    for at in [BEN, CLEO, DAN] {
        world.invite(group, ANA, at, Some(Role::Admin));
    }
    let document = world.create_document(group, ANA, "hello");
    world.run();
    (world, group, document)
}

fn has_finding(world: &World, at: usize, code: &str) -> bool {
    let findings = world.findings(at);
    findings.iter().any(|finding| finding.starts_with(code))
}

fn blamed(world: &World, at: usize, code: &str) -> Vec<Option<usize>> {
    let of = |event: &Event| match event {
        Event::Finding(told) if told.code == code => {
            Some(told.finding.suspect.and_then(|suspect| suspect.device()))
        }
        _ => None,
    };
    let found = world.devices[at].events.iter().filter_map(of);
    found
        .map(|suspect| {
            let known = |id| world.devices.iter().position(|device| device.id == id);
            suspect.and_then(known)
        })
        .collect()
}

fn lose_mls_rows(world: &mut World, at: usize, group: &GroupId) {
    let prefix = [&[4], group.as_bytes(), b"m".as_slice()].concat();
    let rows = &mut world.devices[at].rows.0;
    let before = rows.len();
    rows.retain(|key, _| !key.starts_with(&prefix));
    assert!(rows.len() < before);
    world.restart(at);
}

fn is_member(world: &World, group: GroupId, at: usize) -> bool {
    let state = world.state(group);
    state.is_member(&world.devices[at].id)
}

#[test]
fn after_a_commit_that_nobody_can_decrypt_the_others_come_back_within_a_minute() {
    for seed in 1..4 {
        let (mut world, group, document) = four(seed);
        world.edit(BEN, group, document, " before");
        world.garbles = Some(DAN);
        let user = world.devices[BEN].user;
        let role = Role::Editor;
        world.command(DAN, Command::SetRole { group, user, role });
        world.until(|world| world.count(DAN, "commit") == 1);
        let began = world.now;
        // He stays silent.
        world.go_offline(DAN);
        world.advance(20_000);
        for (at, text) in [(ANA, " ana"), (BEN, " ben"), (CLEO, " cleo")] {
            world.edit(at, group, document, text);
        }
        world.advance(began.plus_ms(60_000).since_ms(world.now));
        world.converged(group, &[ANA, BEN, CLEO]);
        let text = world.text(CLEO, group, document);
        assert_eq!(text.len(), "hello before ana ben cleo".len(), "{text}");
        for at in [ANA, BEN, CLEO] {
            assert_eq!(blamed(&world, at, "mls.undecryptable"), [Some(DAN)]);
            assert_eq!(world.findings(at).len(), 1, "{:?}", world.findings(at));
        }
        // He can be removed, and everything is re-keyed.
        let user = world.devices[DAN].user;
        world.ask(ANA, Command::Remove { group, user });
        world.run();
        world.converged(group, &[ANA, BEN, CLEO]);
        assert_eq!(world.state(group).rotating_since, 0);
    }
}

#[test]
fn its_author_comes_back_too() {
    let (mut world, group, document) = four(5);
    world.garbles = Some(DAN);
    let user = world.devices[BEN].user;
    let role = Role::Editor;
    world.command(DAN, Command::SetRole { group, user, role });
    world.edit(DAN, group, document, " dan");
    world.advance(60_000);
    world.converged(group, &[ANA, BEN, CLEO, DAN]);
    assert_eq!(world.text(ANA, group, document), "hello dan");
}

#[test]
fn a_garbled_commit_of_which_only_the_service_could_have_changed_a_byte_blames_no_member() {
    let (mut world, group, document) = four(6);
    let user = world.devices[BEN].user;
    let role = Role::Editor;
    world.held = Some(BEN);
    world.ask(DAN, Command::SetRole { group, user, role });
    world.run();
    // The last byte of the membership tag, on its way to Ben.
    let garbled = world.garble_held_commit(BEN);
    assert!(garbled);
    world.held = None;
    world.advance(30_000);
    assert_eq!(blamed(&world, BEN, "mls.undecryptable"), [None]);
    world.edit(BEN, group, document, " ben");
    world.advance(30_000);
    assert_eq!(world.text(ANA, group, document), "hello");
    let refused = world.call(BEN, edit(group, document, "!"));
    assert!(matches!(refused, Some(Ok(_))), "edits wait: {refused:?}");
}

#[test]
fn a_device_that_lost_its_mls_rows_comes_back_and_loses_no_edit() {
    for seed in 10..13 {
        let (mut world, group, document) = four(seed);
        let user = world.devices[DAN].user;
        // Re-keying leaves an older root that others can wrap for it.
        world.edit(BEN, group, document, " before");
        world.run();
        world.ask(ANA, Command::Remove { group, user });
        world.go_offline(BEN);
        world.edit(BEN, group, document, " unsent");
        world.run();
        lose_mls_rows(&mut world, BEN, &group);
        let asked = world.call(BEN, edit(group, document, "x"));
        assert!(
            matches!(asked, Some(Err(EngineError::Returning))),
            "{asked:?}"
        );
        let listed = world.info(BEN, group).unwrap();
        assert_eq!(listed.returning.as_deref(), Some("group.state_lost"));
        world.go_online(BEN);
        world.advance(60_000);
        if world.info(BEN, group).unwrap().unproven {
            world.edit(ANA, group, document, "!");
            world.run();
        }
        world.converged(group, &[ANA, BEN, CLEO]);
        let text = world.text(CLEO, group, document);
        assert!(text.contains(" unsent"), "{text}");
        assert_eq!(text.matches(" unsent").count(), 1);
    }
}

#[test]
fn one_that_came_back_blindly_seals_nothing_until_somebody_shows_that_it_is_the_right_group() {
    for confirmed_by_hand in [false, true] {
        let (mut world, group, document) = four(14);
        // Nobody else is there to wrap roots for it.
        for at in [ANA, CLEO, DAN] {
            world.go_offline(at);
        }
        world.go_offline(BEN);
        let sealed = world.service.records(&group, &document).len();
        world.edit(BEN, group, document, " unsent");
        lose_mls_rows(&mut world, BEN, &group);
        world.go_online(BEN);
        world.advance(60_000);
        assert!(is_member(&world, group, BEN));
        let info = world.info(BEN, group).unwrap();
        assert!(info.unproven && info.returning.is_none(), "{info:?}");
        world.advance(120_000);
        let still = world.service.records(&group, &document).len();
        assert_eq!(still, sealed);
        if confirmed_by_hand {
            world.ask(BEN, Command::ConfirmGroup { group });
        } else {
            world.go_online(ANA);
        }
        // In a quiet group it looks for wraps every few minutes.
        world.advance(360_000);
        assert!(!world.info(BEN, group).unwrap().unproven);
        for at in [ANA, CLEO, DAN] {
            world.go_online(at);
        }
        world.run();
        world.converged(group, &[ANA, BEN, CLEO, DAN]);
        assert_eq!(world.text(CLEO, group, document), "hello unsent");
    }
}

#[test]
fn one_that_was_removed_meanwhile_does_not_get_back_in_and_keeps_what_it_had() {
    let (mut world, group, document) = four(15);
    world.go_offline(BEN);
    world.edit(BEN, group, document, " unsent");
    let user = world.devices[BEN].user;
    world.ask(ANA, Command::Remove { group, user });
    world.run();
    lose_mls_rows(&mut world, BEN, &group);
    world.go_online(BEN);
    world.advance(120_000);
    assert!(!is_member(&world, group, BEN));
    assert!(has_finding(&world, BEN, "group.cannot_return"));
    assert_eq!(world.findings(BEN).len(), 2, "{:?}", world.findings(BEN));
    assert_eq!(world.count(BEN, "commit"), 0);
    world.converged(group, &[ANA, CLEO, DAN]);
}

#[test]
fn an_older_group_info_is_refused_and_the_service_is_named() {
    let (mut world, group, document) = four(16);
    let (ben, user) = (world.devices[BEN].id, world.devices[BEN].user);
    let old = world.service.true_group_info(ben, user, group).unwrap();
    let dan = world.devices[DAN].user;
    world.ask(ANA, Command::Remove { group, user: dan });
    world.run();
    world.garbles = Some(CLEO);
    let role = Role::Editor;
    world.command(CLEO, Command::SetRole { group, user, role });
    world.until(|world| world.count(CLEO, "commit") == 1);
    world.go_offline(CLEO);
    world.go_offline(ANA);
    world.service.lies.group_info = Some(old);
    let epoch = world.state(group).epoch;
    world.advance(60_000);
    assert!(has_finding(&world, BEN, "service.old_group_info"));
    assert_eq!(world.count(BEN, "commit"), 0);
    assert_eq!(world.state(group).epoch, epoch);
    // Edits wait, and go out when the service offers the truth.
    world.edit(BEN, group, document, " kept");
    world.service.lies.group_info = None;
    world.advance(400_000);
    world.go_online(ANA);
    world.advance(60_000);
    world.converged(group, &[ANA, BEN]);
    assert_eq!(world.text(ANA, group, document), "hello kept");
}

#[test]
fn a_bad_group_info_is_found_by_another_member_and_replaced() {
    let (mut world, group, _) = four(17);
    let (ben, user) = (world.devices[BEN].id, world.devices[BEN].user);
    let old = world.service.true_group_info(ben, user, group).unwrap();
    world.service.lies.group_info = Some(old);
    let role = Role::Editor;
    world.ask(ANA, Command::SetRole { group, user, role });
    world.advance(30_000);
    // Putting the right one in its place ends the lie here.
    assert!(world.service.lies.group_info.is_none());
    let finders = [BEN, CLEO, DAN]
        .iter()
        .filter(|at| has_finding(&world, **at, "group.bad_group_info"));
    assert!(finders.count() > 0);
    lose_mls_rows(&mut world, BEN, &group);
    world.advance(60_000);
    assert!(world.info(BEN, group).unwrap().returning.is_none());
}

/// Ben's store is copied back after he went on, and is what he goes on with.
fn restore(world: &mut World, backup: &MemoryRows) {
    world.devices[BEN].rows = backup.clone();
    world.restart(BEN);
    world.command(BEN, Command::TakeOver);
}

#[test]
fn a_restored_backup_is_noticed_and_loses_no_edit() {
    for (seed, committed) in [(20, false), (21, true), (22, false), (23, true)] {
        let (mut world, group, document) = four(seed);
        world.edit(BEN, group, document, " one");
        world.run();
        world.go_offline(BEN);
        world.edit(BEN, group, document, " unsent");
        let backup = world.devices[BEN].rows.clone();
        world.go_online(BEN);
        world.run();
        for text in [" two", " three"] {
            world.edit(BEN, group, document, text);
        }
        world.run();
        if committed {
            let user = world.devices[CLEO].user;
            let role = Role::Editor;
            world.ask(BEN, Command::SetRole { group, user, role });
            world.run();
        }
        world.go_offline(BEN);
        restore(&mut world, &backup);
        world.edit(BEN, group, document, " four");
        world.go_online(BEN);
        world.advance(60_000);
        assert!(has_finding(&world, BEN, "device.restored"));
        // When it took over, and when it met what the former life has done.
        assert_eq!(world.count(BEN, "clear_packages"), 2);
        world.converged(group, &[ANA, BEN, CLEO, DAN]);
        let text = world.text(ANA, group, document);
        for part in ["hello", " one", " unsent", " two", " three", " four"] {
            assert_eq!(text.matches(part).count(), 1, "seed {seed}: {text}");
        }
        // No place in an author's chain was used twice.
        for (document, _) in world.service.documents(&group) {
            let mut places = std::collections::BTreeSet::new();
            for record in world.service.records(&group, &document) {
                if let Some(chained) = record.header.body.chained() {
                    let author = record.header.author;
                    assert!(places.insert((author.device, author.instance, chained.clock)));
                }
            }
        }
        // It can be added to groups: its new key packages are its own.
        let other = world.create_group(CLEO);
        world.invite(other, CLEO, BEN, None);
        world.converged(other, &[CLEO, BEN]);
    }
}

#[test]
fn two_owners_who_leave_at_once_leave_an_owner() {
    for seed in 30..34 {
        let (mut world, group, _) = four(seed);
        let user = world.devices[BEN].user;
        let role = Role::Owner;
        world.ask(ANA, Command::SetRole { group, user, role });
        world.run();
        let first = world.command(ANA, Command::Leave { group });
        let second = world.command(BEN, Command::Leave { group });
        world.run();
        let replies = [(ANA, first), (BEN, second)]
            .map(|(at, command)| (at, world.reply(at, command).expect("an answer")));
        let stayed: Vec<usize> = replies
            .iter()
            .filter(|(_, reply)| matches!(reply, Err(EngineError::LastOwner)))
            .map(|(at, _)| *at)
            .collect();
        assert_eq!(stayed.len(), 1, "seed {seed}: {replies:?}");
        world.converged(group, &[stayed[0], CLEO, DAN]);
        let state = world.state(group);
        let owner = world.devices[stayed[0]].id;
        assert_eq!(state.role_of(&owner), Some(Role::Owner));
    }
}

#[test]
fn a_frozen_group_is_founded_anew_with_its_documents_and_members() {
    let (mut world, group, document) = four(40);
    world.edit(BEN, group, document, " text");
    world.run();
    world.go_offline(ANA);
    world.edit(ANA, group, document, " unsent");
    freeze(&mut world, group);
    world.go_online(ANA);
    world.run();
    for at in [ANA, BEN, CLEO, DAN] {
        assert!(world.info(at, group).unwrap().frozen.is_some());
        let Reply::Evidence(evidence) = world.ask(at, Command::Evidence { group }) else {
            panic!("no evidence")
        };
        assert_eq!(evidence.len(), 1);
        assert!(!evidence[0].entry.is_empty());
    }
    let Reply::Group(new) = world.ask(ANA, Command::Restart { group }) else {
        panic!("no group")
    };
    assert_ne!(new, group);
    world.run();
    for at in [BEN, CLEO, DAN] {
        world.ask(at, Command::Accept { group: new });
    }
    world.run();
    let Reply::Documents(listed) = world.ask(BEN, Command::Documents { group: new }) else {
        panic!("no documents")
    };
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].title.as_deref(), Some("minutes"));
    let copy = listed[0].document;
    assert_eq!(world.text(BEN, new, copy), "hello text unsent");
    world.edit(CLEO, new, copy, " on");
    world.run();
    world.converged(new, &[ANA, BEN, CLEO, DAN]);
    assert_eq!(world.text(ANA, new, copy), "hello text unsent on");
    assert_eq!(world.info(DAN, new).unwrap().parent, Some(group));
    let state = world.state(new);
    assert_eq!(state.role_of(&world.devices[BEN].id), Some(Role::Admin));
    // Whoever leaves the old one is told of it no longer.
    assert_eq!(world.open_findings(BEN).len(), 1);
    world.ask(BEN, Command::Leave { group });
    assert_eq!(world.open_findings(BEN), []);
}

/// As long as the slowest pace makes one wait, and longer than any device waits before it renews its leaf.
const PACE_MS: u64 = 3_600_000;

/// An entry that breaks the rules: a commit again, which is not of this epoch.
fn freeze(world: &mut World, group: GroupId) {
    let entries = world.service.entries(&group);
    let commit = entries.iter().find_map(|entry| match entry {
        conclave_proto::group::GroupEntry::Commit(bytes) => Some(bytes.clone()),
        _ => None,
    });
    let again = conclave_proto::group::GroupEntry::Commit(commit.unwrap());
    let out = world.service.make_up(group, again);
    world.post(out);
    world.run();
}

/// Ben was told of the pace, and is not there any more to hear how his change ended.
fn ask_and_go(world: &mut World, group: GroupId) {
    let user = world.devices[CLEO].user;
    let role = Role::Editor;
    let told = world.call(BEN, Command::SetRole { group, user, role });
    assert!(matches!(told, Some(Err(EngineError::WaitsForPace { .. }))));
    world.restart(BEN);
    world.run();
}

fn open_codes(world: &mut World, at: usize) -> Vec<String> {
    let open = world.open_findings(at).into_iter();
    open.map(|it| it.code).collect()
}

/// Worlds in which Ben's device has still to renew its leaf, and the service makes him wait with it.
fn with_own_care() -> impl Iterator<Item = (World, GroupId)> {
    let worlds = (100..106).map(|seed| {
        let (mut world, group, _) = four(seed);
        world.service.lies.pace_ms = PACE_MS;
        (world, group)
    });
    worlds.filter(|(world, group)| {
        let mut later = World::load(world.seed, &world.save(), None);
        later.service.lies.pace_ms = PACE_MS;
        later.advance(700_000);
        later.intents(BEN, group) > 0
    })
}

/// What a device means to do by itself is no failure of its user's: not where the group takes nothing more, not where they leave, whether it was begun before
/// that or after.
#[test]
fn what_a_device_meant_to_do_by_itself_is_told_to_nobody() {
    let mut worlds = 0;
    for (mut world, group) in with_own_care() {
        worlds += 1;
        if worlds % 2 == 0 {
            world.advance(700_000);
            assert_eq!(world.intents(BEN, &group), 1, "seed {}", world.seed);
            assert_eq!(world.open_findings(BEN), []);
        }
        freeze(&mut world, group);
        world.advance(700_000);
        let frozen = open_codes(&mut world, BEN);
        assert_eq!(frozen, ["mls.illegal_entry"], "seed {}", world.seed);
        world.ask(BEN, Command::Leave { group });
        world.advance(60_000);
        assert_eq!(world.open_findings(BEN), [], "seed {}", world.seed);
    }
    assert!(worlds > 1, "two of these at least");
}

#[test]
fn what_somebody_asked_for_is_told_where_it_can_never_be_done_unless_they_leave() {
    let (mut world, group, _) = four(110);
    world.service.lies.pace_ms = PACE_MS;
    ask_and_go(&mut world, group);
    freeze(&mut world, group);
    let mut told = open_codes(&mut world, BEN);
    told.sort();
    assert_eq!(told, ["engine.inactive", "mls.illegal_entry"]);

    let (mut world, group, _) = four(111);
    world.service.lies.pace_ms = PACE_MS;
    ask_and_go(&mut world, group);
    world.service.lies.pace_ms = 0;
    let user = world.devices[BEN].user;
    world.ask(ANA, Command::Remove { group, user });
    world.run();
    assert_eq!(open_codes(&mut world, BEN), ["engine.inactive"]);

    let (mut world, group, _) = four(112);
    world.service.lies.pace_ms = PACE_MS;
    ask_and_go(&mut world, group);
    world.service.lies.pace_ms = 0;
    world.ask(BEN, Command::Leave { group });
    world.run();
    assert!(!is_member(&world, group, BEN));
    assert_eq!(open_codes(&mut world, BEN), [""; 0]);
}

#[test]
fn one_that_cannot_come_back_by_itself_asks_and_is_added_again() {
    let (mut world, group, document) = four(50);
    world.go_offline(BEN);
    world.edit(BEN, group, document, " unsent");
    world.run();
    lose_mls_rows(&mut world, BEN, &group);
    world.service.lies.refuse_external = true;
    world.go_online(BEN);
    world.advance(60_000);
    assert!(
        has_finding(&world, BEN, "group.asks_readd"),
        "{:?}",
        world.findings(BEN)
    );
    let ben = (world.devices[BEN].id, world.devices[BEN].user);
    let asked = |event: &Event| matches!(event, Event::ReAddAsked { device, user, .. } if (*device, *user) == ben);
    assert!(world.devices[ANA].events.iter().any(asked));
    let (device, user) = ben;
    world.ask(
        ANA,
        Command::ReAdd {
            group,
            user,
            device,
        },
    );
    world.advance(60_000);
    world.converged(group, &[ANA, BEN, CLEO, DAN]);
    assert_eq!(world.text(ANA, group, document), "hello unsent");
    assert!(world.service.pleas(&group).is_empty());
}

#[test]
fn what_nobody_can_open_is_set_aside_and_an_admin_voids_it_for_all() {
    let (mut world, group, document) = four(60);
    world.garbles = Some(DAN);
    let user = world.devices[BEN].user;
    let role = Role::Admin;
    world.command(DAN, Command::SetRole { group, user, role });
    let role = Role::Editor;
    world.command(DAN, Command::SetRole { group, user, role });
    world.until(|world| world.count(DAN, "commit") == 1);
    // Dan seals under the epoch that he alone is in, and goes.
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
    world.go_offline(DAN);
    world.advance(60_000);
    for (at, text) in [(ANA, " ana"), (BEN, " ben"), (CLEO, " cleo")] {
        world.edit(at, group, document, text);
    }
    world.advance(30_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    for at in [ANA, BEN, CLEO] {
        assert_eq!(
            world.text(at, group, document).len(),
            "hello ana ben cleo".len()
        );
        assert_eq!(blamed(&world, at, "document.set_aside"), [Some(DAN)]);
    }
    // The root of that epoch is still wanted, and no snapshot covers the record: a restart changes nothing.
    world.restart(BEN);
    world.run();
    assert_eq!(
        world.text(BEN, group, document).len(),
        "hello ana ben cleo".len()
    );
    let refused = world.call(CLEO, Command::VoidRecords { group, document });
    let admin = world.state(group).role_of(&world.devices[CLEO].id);
    assert_eq!(refused.unwrap().is_ok(), admin >= Some(Role::Admin));
    world.ask(ANA, Command::VoidRecords { group, document });
    world.run();
    assert_eq!(world.state(group).voided.len(), 1);
    let user = world.devices[DAN].user;
    world.ask(ANA, Command::Remove { group, user });
    world.advance(120_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    assert_eq!(world.state(group).rotating_since, 0);
    for at in [ANA, BEN, CLEO] {
        assert_eq!(world.open_findings(at), []);
    }
}

#[test]
fn a_store_restored_from_before_it_joined_finds_its_group_again() {
    let mut world = World::new(70, &["ana", "ben", "cleo", "dan"]);
    let backup = world.devices[BEN].rows.clone();
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    let document = world.create_document(group, ANA, "hello");
    world.edit(BEN, group, document, " ben");
    world.run();
    world.go_offline(BEN);
    restore(&mut world, &backup);
    world.go_online(BEN);
    world.run();
    assert!(has_finding(&world, BEN, "group.membership_unknown"));
    assert!(world.info(BEN, group).is_none());
    world.ask(BEN, Command::Rejoin { group });
    world.advance(60_000);
    world.edit(ANA, group, document, "!");
    world.run();
    world.converged(group, &[ANA, BEN]);
    world.edit(BEN, group, document, " again");
    world.run();
    assert_eq!(world.text(ANA, group, document), "hello ben! again");
}

/// Ben cannot decrypt a commit that only he gets with one byte changed.
fn mislead(world: &mut World, group: GroupId) {
    world.held = Some(BEN);
    let user = world.devices[CLEO].user;
    let role = Role::Editor;
    world.ask(DAN, Command::SetRole { group, user, role });
    assert!(world.garble_held_commit(BEN));
    world.held = None;
}

#[test]
fn a_lost_race_does_not_make_a_blind_return_a_known_one() {
    let (mut world, group, document) = four(80);
    for at in [CLEO, DAN] {
        world.go_offline(at);
    }
    world.go_offline(BEN);
    world.edit(BEN, group, document, " unsent");
    lose_mls_rows(&mut world, BEN, &group);
    world.go_online(BEN);
    // His external commit waits at the door while another commit takes the epoch.
    world.until(|world| world.count(BEN, "get_info") > 0);
    let user = world.devices[CLEO].user;
    let role = Role::Editor;
    world.command(ANA, Command::SetRole { group, user, role });
    world.go_offline_after_commit(ANA);
    world.advance(60_000);
    let info = world.info(BEN, group).unwrap();
    assert!(info.returning.is_none() && info.unproven, "{info:?}");
    let wraps = world.service.wraps(&group);
    let own = wraps
        .iter()
        .filter(|wrap| wrap.signer == world.devices[BEN].id);
    // Nothing was handed to a group of which nothing is known.
    assert!(own.clone().count() > 0);
    for wrap in own {
        assert!(wrap.statement.ciphertext.is_empty());
    }
    world.go_online(ANA);
    world.advance(60_000);
    assert!(!world.info(BEN, group).unwrap().unproven);
    assert_eq!(world.text(ANA, group, document), "hello unsent");
}

#[test]
fn an_illegal_entry_while_on_the_way_back_freezes_and_nothing_is_joined() {
    let (mut world, group, _) = four(81);
    mislead(&mut world, group);
    world.until(|world| has_finding(world, BEN, "mls.undecryptable"));
    let rubbish = conclave_proto::group::GroupEntry::Commit(vec![7; 80].into());
    let out = world.service.make_up(group, rubbish);
    world.post(out);
    world.advance(30_000);
    let info = world.info(BEN, group).unwrap();
    assert_eq!(
        info.frozen.as_deref(),
        Some("mls.illegal_entry"),
        "{info:?}"
    );
    assert_eq!(world.count(BEN, "commit"), 0);
    // A frozen group can be left, and its evidence stays.
    world.ask(BEN, Command::Leave { group });
    let Reply::Evidence(evidence) = world.ask(BEN, Command::Evidence { group }) else {
        panic!("no evidence")
    };
    assert_eq!(evidence.len(), 2);
}

#[test]
fn a_device_that_follows_and_is_added_again_keeps_its_edits() {
    let (mut world, group, document) = four(82);
    // Ben asks, is helped by two admins one after another, and is back by himself in between.
    world.go_offline(BEN);
    world.edit(BEN, group, document, " unsent");
    lose_mls_rows(&mut world, BEN, &group);
    world.service.lies.refuse_external = true;
    world.go_online(BEN);
    world.advance(60_000);
    world.service.lies.refuse_external = false;
    let (device, user) = (world.devices[BEN].id, world.devices[BEN].user);
    let readd = || Command::ReAdd {
        group,
        user,
        device,
    };
    let first = world.command(ANA, readd());
    let second = world.command(CLEO, readd());
    world.advance(120_000);
    for (at, command) in [(ANA, first), (CLEO, second)] {
        assert!(matches!(world.reply(at, command), Some(Ok(_))), "{at}");
    }
    if world.info(BEN, group).unwrap().unproven {
        world.edit(ANA, group, document, "!");
        world.advance(60_000);
    }
    world.converged(group, &[ANA, BEN, CLEO, DAN]);
    let text = world.text(ANA, group, document);
    assert_eq!(text.matches(" unsent").count(), 1, "{text}");
    let refused = world.call(ANA, readd());
    assert!(
        matches!(refused, Some(Err(EngineError::NotAsking))),
        "{refused:?}"
    );
}

#[test]
fn an_old_leaf_is_renewed_once_and_not_for_ever() {
    let policy = conclave_proto::GroupPolicy {
        max_leaf_age_days: 2,
        max_root_age_days: 0,
        ..conclave_proto::GroupPolicy::default()
    };
    let mut world = World::new(83, &["ana", "ben"]);
    let group = world.create_group_with(ANA, policy);
    world.invite(group, ANA, BEN, None);
    world.advance(3_600_000);
    let begun = world.state(group).epoch;
    let day = 24 * 3600 * 1000;
    for days in 1..=8 {
        world.advance(day);
        // Something happens every day, or nobody would look.
        world.cut(ANA);
        world.cut(BEN);
        world.advance(3_600_000);
        let commits = world.state(group).epoch - begun;
        assert!(commits <= days + 1, "{commits} commits in {days} days");
    }
    assert!(world.state(group).epoch > begun + 4);
    world.converged(group, &[ANA, BEN]);
}
