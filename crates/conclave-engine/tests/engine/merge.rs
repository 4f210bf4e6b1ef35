//! A service was put back, and a document's log went on without what members have: everybody gets everything, once.

use conclave_engine::finding::About;
use conclave_engine::{Command, Event, FindingInfo, RescueCause, RescueInfo, kept};
use conclave_proto::{DocumentId, GroupId, Role};

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
const ALL: [usize; 3] = [ANA, BEN, CLEO];
/// Longer than others wait before they carry what its author has not carried.
const CARRIED_MS: u64 = 300_000;

fn trio(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    world.invite(group, ANA, CLEO, None);
    let document = world.create_document(group, ANA, "hello");
    // The group's own log is at rest: it is not what is lost here.
    world.advance(900_000);
    (world, group, document)
}

/// Ana and Ben have written what Cleo has not seen and the service has lost; Cleo has written on. Only she is there.
fn went_on(seed: u64) -> (World, GroupId, DocumentId) {
    let (mut world, group, document) = trio(seed);
    world.go_offline(CLEO);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " ana");
    world.run();
    world.edit(BEN, group, document, " ben");
    world.run();
    world.go_offline(ANA);
    world.go_offline(BEN);
    world.put_back(copy);
    world.go_online(CLEO);
    // More than what was lost: so the service sees that the head that it had signed leads elsewhere, and holds nothing.
    for word in [" cleo", "!", "?"] {
        world.edit(CLEO, group, document, word);
        world.run();
    }
    (world, group, document)
}

fn kept(world: &mut World, at: usize) -> Vec<FindingInfo> {
    let (group, dismissed) = (None, true);
    match world.ask(at, Command::Findings { group, dismissed }) {
        conclave_engine::Reply::Findings(found) => found,
        other => panic!("{other:?}"),
    }
}

fn told(world: &mut World, at: usize, code: &str) -> bool {
    kept(world, at).iter().any(|it| it.code == code)
}

fn rescues(world: &mut World, at: usize) -> Vec<RescueInfo> {
    match world.ask(at, Command::Rescues) {
        conclave_engine::Reply::Rescues(all) => all,
        other => panic!("{other:?}"),
    }
}

/// Everybody has all of it once, nobody is accused, and no state is left.
fn all_is_well(world: &mut World, group: GroupId, document: DocumentId, words: &[&str]) {
    world.converged(group, &ALL);
    for at in ALL {
        let text = world.text(at, group, document);
        for word in words {
            assert_eq!(text.matches(word).count(), 1, "{word}: {text}");
        }
        for found in kept(world, at) {
            assert_eq!(found.finding.suspect, None, "{at}: {found:?}");
        }
        let mut open = world.open_findings(at);
        // What happened stays told.
        open.retain(|it| it.finding.what.is_state());
        let open: Vec<_> = open.iter().map(|it| (&it.code, &it.text)).collect();
        assert_eq!(open, [], "{at}");
        assert_eq!(rescues(world, at), []);
    }
}

const WORDS: [&str; 4] = ["hello", " ana", " ben", " cleo"];

/// Who carried what, as it was told to a device.
fn carriers(world: &World, at: usize) -> Vec<(String, String)> {
    let changes = world.devices[at]
        .events
        .iter()
        .filter_map(|event| match event {
            Event::DocumentChanged { changes, .. } => Some(changes),
            _ => None,
        });
    let carried = changes.flatten().filter_map(|change| {
        let by = change.carried_by.clone()?;
        Some((change.name.clone()?, by.name?))
    });
    carried.collect()
}

#[test]
fn where_both_sides_went_on_everybody_converges_on_everything() {
    for seed in 1..4 {
        let (mut world, group, document) = went_on(seed);
        world.go_online(ANA);
        world.run();
        world.go_online(BEN);
        world.advance(CARRIED_MS);
        for at in [ANA, BEN] {
            assert!(told(&mut world, at, "document.merging"), "{seed} {at}");
        }
        all_is_well(&mut world, group, document, &WORDS);
        world.edit(BEN, group, document, " on");
        world.run();
        all_is_well(&mut world, group, document, &[" on"]);
        for at in ALL {
            world.restart(at);
        }
        world.run();
        all_is_well(&mut world, group, document, &WORDS);
    }
}

/// Nobody waits for whoever does not come back: others carry it, and say whose it is.
#[test]
fn what_its_author_does_not_carry_others_do() {
    let names = |one: &str, other: &str| (one.to_owned(), other.to_owned());
    let own = names("ben", "ben");
    let mut waited = 0;
    for seed in 1..9 {
        let (mut world, group, document) = went_on(seed);
        world.go_online(BEN);
        while carriers(&world, CLEO).is_empty() {
            world.advance(2_000);
        }
        // His own goes as soon as the service takes it, which holds all logs for a minute first; hers is her turn before, which may be over by then.
        let first = carriers(&world, CLEO);
        assert_eq!(first.first(), Some(&own));
        waited += usize::from(first == std::slice::from_ref(&own));
        world.advance(CARRIED_MS);
        let text = world.text(CLEO, group, document);
        assert!(text.contains(" ben") && text.contains(" ana"), "{text}");
        assert_eq!(carriers(&world, CLEO), [own.clone(), names("ana", "ben")]);
        world.go_online(ANA);
        world.advance(CARRIED_MS);
        all_is_well(&mut world, group, document, &WORDS);
    }
    assert!(waited > 0, "hers went with his every time");
}

/// All come back at once, and hold the same.
#[test]
fn what_several_hold_is_carried_once() {
    for seed in 6..9 {
        let (mut world, group, document) = went_on(seed);
        for at in [ANA, BEN] {
            world.go_online(at);
        }
        world.advance(CARRIED_MS);
        all_is_well(&mut world, group, document, &WORDS);
        let told = carriers(&world, CLEO);
        assert_eq!(told.len(), 2, "{told:?}");
    }
}

/// What was written while it was away, on top of what is lost, follows it.
#[test]
fn edits_on_top_of_what_is_lost_follow_it() {
    let (mut world, group, document) = went_on(9);
    world.edit(BEN, group, document, " later");
    world.restart(BEN);
    world.go_online(BEN);
    world.advance(CARRIED_MS);
    world.go_online(ANA);
    world.advance(CARRIED_MS);
    all_is_well(&mut world, group, document, &WORDS);
    all_is_well(&mut world, group, document, &[" later"]);
}

/// The service cannot see that less than it had signed leads elsewhere, and waits for what nobody can return. What is here shows at once; it is
/// carried when the operator ends the wait.
#[test]
fn where_less_was_written_than_was_lost_it_is_carried_after_the_hold() {
    let (mut world, group, document) = trio(15);
    world.go_offline(CLEO);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " ana");
    world.run();
    world.edit(BEN, group, document, " ben");
    world.run();
    for at in [ANA, BEN] {
        world.go_offline(at);
    }
    world.put_back(copy);
    world.go_online(CLEO);
    world.edit(CLEO, group, document, " cleo");
    world.run();
    for at in [ANA, BEN] {
        world.go_online(at);
    }
    world.advance(CARRIED_MS);
    for at in [ANA, BEN] {
        let text = world.text(at, group, document);
        assert!(WORDS.iter().all(|word| text.contains(word)), "{text}");
        assert!(told(&mut world, at, "service.collecting"));
    }
    let out = world.service.accept_losses();
    world.post(out);
    world.advance(900_000);
    world.converged(group, &ALL);
    // Whoever was shown two heads of one size, both signed before the service knew, cannot tell that from a lie; all go on.
    for at in ALL {
        let text = world.text(at, group, document);
        for word in WORDS {
            assert_eq!(text.matches(word).count(), 1, "{word}: {text}");
        }
    }
}

/// The operator does not wait any longer for what was lost: who has it carries it.
#[test]
fn what_was_given_up_is_carried() {
    let (mut world, group, document) = trio(10);
    world.go_offline(CLEO);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " ana");
    world.run();
    world.edit(BEN, group, document, " ben");
    world.run();
    world.forbidden = &["return_document"];
    world.put_back(copy);
    world.run();
    let out = world.service.accept_losses();
    world.post(out);
    world.forbidden = &[];
    world.go_online(CLEO);
    world.edit(CLEO, group, document, " cleo");
    world.advance(900_000);
    for at in [ANA, BEN] {
        assert!(told(&mut world, at, "service.loss_declared"), "{at}");
    }
    all_is_well(&mut world, group, document, &WORDS);
}

/// Who was removed meanwhile may not write there any more: their words are kept apart by who has them, and not carried.
#[test]
fn who_was_removed_meanwhile_is_not_carried() {
    let (mut world, group, document) = trio(11);
    let (user, role) = (world.devices[CLEO].user, Role::Admin);
    world.ask(ANA, Command::SetRole { group, user, role });
    world.advance(900_000);
    world.go_offline(CLEO);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " ana");
    world.run();
    world.edit(BEN, group, document, " ben");
    world.run();
    world.go_offline(ANA);
    world.go_offline(BEN);
    world.put_back(copy);
    world.go_online(CLEO);
    for word in [" cleo", "!", "?"] {
        world.edit(CLEO, group, document, word);
        world.run();
    }
    let user = world.devices[BEN].user;
    world.ask(CLEO, Command::Remove { group, user });
    world.advance(900_000);
    world.go_online(ANA);
    world.advance(900_000);
    let about = About::Document(group, document);
    assert_eq!(
        world.text(ANA, group, document),
        world.text(CLEO, group, document)
    );
    let text = world.text(CLEO, group, document);
    assert!(text.contains(" ana") && !text.contains(" ben"), "{text}");
    let all = rescues(&mut world, ANA);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((all[0].cause, all[0].changes), (RescueCause::NotCarried, 1));
    let found = kept(&mut world, ANA);
    let here = |it: &FindingInfo| it.code == "document.rescued" && it.finding.about == about;
    assert!(found.iter().any(here), "{found:?}");
    assert_eq!(world.open_findings(ANA).len(), 0);
}

#[test]
fn whoever_dies_at_any_output_of_merging_loses_nothing() {
    let (mut world, group, document) = went_on(12);
    world.edit(BEN, group, document, " later");
    let saved = world.save();
    let crashes = World::at_any_output(
        &saved,
        BEN,
        |_| 12,
        |world| {
            world.go_online(BEN);
            world.advance(CARRIED_MS);
        },
        |world, _| {
            world.go_online(ANA);
            world.advance(CARRIED_MS);
            all_is_well(world, group, document, &WORDS);
            all_is_well(world, group, document, &[" later"]);
        },
    );
    assert!(crashes > 20, "{crashes}");
}

/// Restarted while others' updates wait to be carried, and again.
#[test]
fn a_restart_in_the_middle_goes_on() {
    let (mut world, group, document) = went_on(13);
    world.go_online(BEN);
    world.advance(20_000);
    for _ in 0..2 {
        world.restart(BEN);
        world.advance(10_000);
        let text = world.text(BEN, group, document);
        assert!(WORDS.iter().all(|word| text.contains(word)), "{text}");
    }
    world.advance(CARRIED_MS);
    let text = world.text(CLEO, group, document);
    assert!(text.contains(" ana"), "{text}");
    world.go_online(ANA);
    world.advance(CARRIED_MS);
    all_is_well(&mut world, group, document, &WORDS);
}

/// It was put back twice, and each time somebody went on.
#[test]
fn what_is_lost_twice_comes_back_in_the_end() {
    let (mut world, group, document) = went_on(14);
    let copy = world.service.clone();
    world.go_online(ANA);
    world.advance(CARRIED_MS);
    world.go_offline(ANA);
    world.go_offline(CLEO);
    world.put_back(copy);
    world.go_online(BEN);
    world.edit(BEN, group, document, " again");
    world.advance(CARRIED_MS);
    for at in [ANA, CLEO] {
        world.go_online(at);
    }
    world.advance(900_000);
    all_is_well(&mut world, group, document, &WORDS);
    all_is_well(&mut world, group, document, &[" again"]);
}

/// What a disk has lost of what is kept holds nobody up: the document begins anew, and what is not written in again by others is words.
#[test]
fn what_is_kept_and_cannot_be_read_holds_nobody_up() {
    let (mut world, group, document) = went_on(21);
    world.unchecked = true;
    let [_, prefix] = kept::document_prefixes(&group, &document);
    let rows = &mut world.devices[ANA].rows.0;
    let before = rows.len();
    rows.retain(|key, _| !key.starts_with(&prefix));
    assert!(rows.len() < before);
    world.go_online(ANA);
    world.advance(CARRIED_MS);
    let rescued = rescues(&mut world, ANA);
    assert_eq!(rescued.len(), 1);
    assert_eq!(rescued[0].cause, RescueCause::NotCarried);
    world.edit(ANA, group, document, " on");
    world.run();
    world.go_online(BEN);
    world.advance(CARRIED_MS);
    world.converged(group, &ALL);
    let text = world.text(CLEO, group, document);
    for word in [" ana", " ben", " cleo", " on"] {
        assert_eq!(text.matches(word).count(), 1, "{word}: {text}");
    }
}
