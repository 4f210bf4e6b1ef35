//! A wiped service, and documents of which nobody has the beginning any more: they go on from their newest snapshot.

use conclave_engine::kept::{self, KeptItem};
use conclave_proto::{DocumentId, GroupId, GroupPolicy, Role};

use crate::adopted::{accept, come, wipe};
use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
const DORA: usize = 3;
const DAY_MS: u64 = 24 * 3_600_000;

/// As much as makes a device write a checkpoint.
fn much(world: &mut World, at: usize, group: GroupId, document: DocumentId) {
    for _ in 0..4 {
        let text = "0123456789abcdef".repeat(9_000);
        world.edit(at, group, document, &text);
    }
    world.run();
}

/// Whether a device has the first record of a document.
fn has_first(world: &World, at: usize, group: GroupId, document: DocumentId) -> bool {
    let prefixes = kept::document_prefixes(&group, &document);
    let rows = prefixes.map(|prefix| world.devices[at].rows.read(&prefix));
    let log = kept::document_log(&rows.concat(), &group, &document).unwrap();
    let first = log.since(0).and_then(<[_]>::first);
    matches!(first, Some(KeptItem::Record(_)))
}

/// Ana, Ben and Dora have an old document; Cleo came late. All have written in it.
fn old(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo", "dora"]);
    let policy = GroupPolicy {
        snapshot_after_bytes: 2_000,
        ..GroupPolicy::default()
    };
    let group = world.create_group_with(ANA, policy);
    for other in [BEN, DORA] {
        world.invite(group, ANA, other, Some(Role::Editor));
    }
    let document = world.create_document(group, ANA, "hello");
    for (at, word) in [(BEN, " ben "), (DORA, " dora ")] {
        world.edit(at, group, document, word);
        world.run();
    }
    much(&mut world, ANA, group, document);
    world.advance(900_000);
    world.advance(15 * DAY_MS);
    much(&mut world, ANA, group, document);
    world.advance(900_000);
    world.invite(group, ANA, CLEO, Some(Role::Editor));
    world.advance(900_000);
    world.edit(CLEO, group, document, " cleo ");
    world.run();
    world.converged(group, &[ANA, BEN, CLEO, DORA]);
    for at in [ANA, BEN, CLEO, DORA] {
        assert!(!has_first(&world, at, group, document), "{at}");
    }
    (world, group, document)
}

fn once(world: &mut World, at: usize, group: GroupId, document: DocumentId, words: &[&str]) {
    let text = world.text(at, group, document);
    for word in words {
        assert_eq!(text.matches(word).count(), 1, "{word}");
    }
}

/// Positions of a document that the service has.
fn first_here(world: &World, group: GroupId, document: DocumentId) -> u64 {
    let records = world.service.records(&group, &document).len() as u64;
    world.service.size_of_document(&group, &document) - records
}

/// All come, one of them behind where the document begins there, with an edit of its own. They go on, and whoever joins then opens it.
#[test]
fn a_document_of_which_nobody_has_the_beginning_goes_on() {
    let (mut world, group, document) = old(1);
    world.go_offline(DORA);
    world.edit(DORA, group, document, " away ");
    much(&mut world, ANA, group, document);
    world.advance(900_000);
    world.edit(BEN, group, document, " late ");
    world.run();
    let size = world.service.size_of_document(&group, &document);
    let key = wipe(&mut world);
    for at in [ANA, BEN, CLEO] {
        accept(&mut world, at, &key);
    }
    world.advance(900_000);
    let first = first_here(&world, group, document);
    assert!(first > 10 && first < size, "{first}");
    world.converged(group, &[ANA, BEN, CLEO]);
    let mut words = vec!["hello", " ben ", " dora ", " cleo ", " late "];
    for at in [ANA, BEN, CLEO] {
        once(&mut world, at, group, document, &words);
        world.edit(at, group, document, &format!(" on{at} "));
        world.run();
    }
    come(&mut world, DORA, &key);
    world.advance(900_000);
    words.extend([" away ", " on0 ", " on1 ", " on2 "]);
    for at in [ANA, BEN, CLEO, DORA] {
        once(&mut world, at, group, document, &words);
    }
    world.edit(DORA, group, document, " back ");
    world.run();
    let eve = world.add("eve");
    for at in [ANA, BEN, CLEO, DORA] {
        world.pin(at, eve);
        world.pin(eve, at);
    }
    world.invite(group, ANA, eve, Some(Role::Editor));
    world.advance(900_000);
    world.edit(eve, group, document, " eve ");
    world.run();
    words.extend([" back ", " eve "]);
    let all = [ANA, BEN, CLEO, DORA, eve];
    world.converged(group, &all);
    for at in all {
        once(&mut world, at, group, document, &words);
        world.check_kept(at);
    }
}

/// One has what nobody else has, where the others go on from a base: their logs contradict each other, and what it has is carried.
#[test]
fn a_log_that_goes_on_another_way_from_a_base_takes_what_is_carried() {
    let (mut world, group, document) = old(3);
    for at in [ANA, BEN, DORA] {
        world.go_offline(at);
    }
    world.edit(CLEO, group, document, " only ");
    world.run();
    world.go_offline(CLEO);
    world.go_online(DORA);
    let key = wipe(&mut world);
    accept(&mut world, DORA, &key);
    world.advance(300_000);
    assert!(first_here(&world, group, document) > 0);
    for at in [ANA, BEN] {
        world.edit(at, group, document, &format!(" on{at} "));
        come(&mut world, at, &key);
    }
    world.advance(900_000);
    come(&mut world, CLEO, &key);
    world.advance(900_000);
    let words = [
        "hello", " ben ", " dora ", " cleo ", " on0 ", " on1 ", " only ",
    ];
    world.converged(group, &[ANA, BEN, CLEO, DORA]);
    once(&mut world, CLEO, group, document, &words);
}

/// The service says that its log began after what a device has, and was never put back: nothing is sent, and it is asked less and less often.
#[test]
fn a_service_that_says_that_its_log_began_later_is_not_followed() {
    let mut world = World::new(4, &["ana", "ben"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Editor));
    let document = world.create_document(group, ANA, "hello");
    world.run();
    world.go_offline(BEN);
    world.edit(ANA, group, document, " more");
    world.run();
    world.service.lies.begins_later = true;
    world.edit(BEN, group, document, " mine");
    world.arrived.clear();
    world.go_online(BEN);
    world.advance(1_800_000);
    let told = world.open_findings(BEN);
    let fork = |code: &str| told.iter().any(|it| it.code == code);
    assert!(fork("found.fork"), "{told:?}");
    assert!(!fork("service.contradicted"), "{told:?}");
    // Pauses of a second, of two, four … and then of five minutes, each cut by half at most: twenty tries in this time, for each of two documents.
    let opens = world.arrived.iter().filter(|it| **it == (BEN, "open"));
    let opens = opens.count();
    assert!(opens <= 40, "{opens}");
    assert_eq!(world.text(ANA, group, document), "hello more");
    world.service.lies.begins_later = false;
    world.advance(900_000);
    world.converged(group, &[ANA, BEN]);
    once(
        &mut world,
        ANA,
        group,
        document,
        &["hello", " more", " mine"],
    );
}
/// Only the one who came late is there: it has nothing before the snapshot that it began with. The others, who are further on, bring the rest.
#[test]
fn whoever_came_late_brings_it_and_others_bring_the_rest() {
    let (mut world, group, document) = old(2);
    world.go_offline(CLEO);
    world.edit(BEN, group, document, " more ");
    world.run();
    world.edit(ANA, group, document, " yet ");
    world.run();
    for at in [ANA, BEN, DORA] {
        world.go_offline(at);
    }
    world.go_online(CLEO);
    let key = wipe(&mut world);
    accept(&mut world, CLEO, &key);
    world.advance(300_000);
    assert!(first_here(&world, group, document) > 0);
    for at in [ANA, BEN, DORA] {
        come(&mut world, at, &key);
    }
    world.advance(900_000);
    let words = ["hello", " ben ", " dora ", " cleo ", " more ", " yet "];
    world.converged(group, &[ANA, BEN, CLEO, DORA]);
    for at in [DORA, CLEO, ANA, BEN] {
        once(&mut world, at, group, document, &words);
        world.edit(at, group, document, &format!(" on{at} "));
        world.run();
    }
    world.converged(group, &[ANA, BEN, CLEO, DORA]);
}
