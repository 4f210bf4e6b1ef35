//! Which service a device knows, and what that service signed: kept, compared, shown to it again where it has less.

use conclave_engine::finding::{About, Suspect};
use conclave_engine::{Command, EngineError};
use conclave_proto::{DocumentId, GroupId, Hash};
use conclave_testkit::service::Signing;

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;

fn pair(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    let document = world.create_document(group, ANA, "hello");
    world.run();
    (world, group, document)
}

/// Everybody connects anew, and is shown signed heads.
fn reconnect(world: &mut World) {
    for at in 0..world.devices.len() {
        world.cut(at);
    }
    world.service.disconnect_all();
    world.run();
}

#[test]
fn a_service_that_has_less_than_it_signed_is_shown_its_own_signature_once_on_a_connection() {
    let (mut world, group, document) = pair(1);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " late");
    world.run();
    reconnect(&mut world);
    // The heads that were shown are durable.
    world.restart(ANA);
    assert_eq!(world.count(ANA, "report"), 0);
    world.put_back(copy.clone());
    world.advance(60_000);
    let reports = world.count(ANA, "report");
    assert!(reports > 0);
    world.advance(600_000);
    assert_eq!(world.count(ANA, "report"), reports, "once on a connection");
    world.cut(ANA);
    world.advance(60_000);
    assert!(world.count(ANA, "report") >= reports);
}

#[test]
fn what_no_signature_proves_is_not_reported() {
    let (mut world, group, document) = pair(2);
    reconnect(&mut world);
    let copy = world.service.clone();
    world.service.lies.no_head_frames = true;
    world.edit(ANA, group, document, " late");
    world.run();
    world.put_back(copy.clone());
    world.advance(60_000);
    for at in [ANA, BEN] {
        assert_eq!(world.count(at, "report"), 0);
        world.found_only(at, &["service.rolled_back"]);
    }
}

#[test]
fn another_service_gets_no_login_before_its_key_is_accepted() {
    let (mut world, group, document) = pair(3);
    let other = Signing::founded(77);
    let key = Hash(other.service_key()).to_string();
    let before = Hash(Signing::default().service_key()).to_string();
    world.service.sign_as(other);
    let logins = world.count(ANA, "login");
    reconnect(&mut world);
    world.advance(60_000);
    assert_eq!(world.count(ANA, "login"), logins);
    let found = world.open_findings(ANA);
    let found: Vec<_> = found
        .iter()
        .filter(|it| it.code == "service.replaced")
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].finding.about, About::Device);
    let words = format!(
        "(key {}…, before {}…). Nothing was sent.",
        &key[..8],
        &before[..8]
    );
    assert!(found[0].text.contains(&words), "{}", found[0].text);
    // Also over a restart, and not by digits of another key.
    world.restart(ANA);
    world.advance(60_000);
    for key in [&before[..8], &key[..3], ""] {
        let key = key.to_owned();
        let answer = world.call(ANA, Command::AcceptService { key });
        assert!(
            matches!(answer, Some(Err(EngineError::NoOtherService))),
            "{answer:?}"
        );
    }
    let key = key[..8].to_uppercase();
    world.ask(ANA, Command::AcceptService { key });
    world.advance(120_000);
    assert!(world.count(ANA, "login") > logins);
    assert!(
        world
            .open_findings(ANA)
            .iter()
            .all(|it| it.code != "service.replaced")
    );
    world.edit(ANA, group, document, " on");
    world.advance(60_000);
    assert_eq!(world.text(ANA, group, document), "hello on");
    // The one that was known before is another one now.
    world.service.sign_as(Signing::default());
    reconnect(&mut world);
    assert!(
        world
            .open_findings(ANA)
            .iter()
            .any(|it| it.code == "service.replaced")
    );
}

#[test]
fn the_known_service_answers_again_and_nothing_is_to_be_accepted_any_more() {
    let (mut world, ..) = pair(4);
    let known = Signing::default();
    world.service.sign_as(Signing::founded(77));
    reconnect(&mut world);
    world.service.sign_as(known);
    let logins = world.count(ANA, "login");
    world.advance(120_000);
    assert!(world.count(ANA, "login") > logins);
    assert!(
        world
            .open_findings(ANA)
            .iter()
            .all(|it| it.code != "service.replaced")
    );
    let key = Hash(Signing::founded(77).service_key()).to_string();
    let answer = world.call(ANA, Command::AcceptService { key });
    assert!(
        matches!(answer, Some(Err(EngineError::NoOtherService))),
        "{answer:?}"
    );
}

#[test]
fn a_generation_that_the_service_did_not_sign_is_not_logged_in_to() {
    let (mut world, ..) = pair(5);
    let mut generation = Signing::default().generation();
    generation.begun.0 += 1;
    world.service.sign_as(Signing::default().under(generation));
    let logins = world.count(ANA, "login");
    reconnect(&mut world);
    world.advance(60_000);
    assert_eq!(world.count(ANA, "login"), logins);
    let found = world.open_findings(ANA);
    let bad = found
        .iter()
        .find(|it| it.code == "service.bad_generation")
        .unwrap();
    assert_eq!(bad.finding.suspect, Some(Suspect::Service));
    // A second one of the same number is no better, however well it is signed.
    world.service.sign_as(Signing::default().twin());
    reconnect(&mut world);
    world.advance(60_000);
    assert_eq!(world.count(ANA, "login"), logins);
}

#[test]
fn a_head_under_a_wrong_signature_accuses_the_service_and_proves_nothing() {
    let (mut world, group, document) = pair(6);
    let copy = world.service.clone();
    world.service.lies.wrong_heads = true;
    world.edit(ANA, group, document, " late");
    world.run();
    reconnect(&mut world);
    let found = world.open_findings(ANA);
    let bad = found
        .iter()
        .find(|it| it.code == "service.bad_head")
        .unwrap();
    assert_eq!(bad.finding.suspect, Some(Suspect::Service));
    world.put_back(copy.clone());
    world.advance(60_000);
    assert_eq!(world.count(ANA, "report"), 0);
}

/// Two histories of one document, both signed in one generation.
#[test]
fn two_histories_of_one_generation_are_told_and_kept_and_nothing_more_is_sent() {
    let (mut world, group, document) = pair(7);
    world.go_offline(BEN);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " late");
    world.run();
    world.cut(ANA);
    world.run();
    // A service that says nothing of it: the same keys, the same generation, another history.
    world.go_offline(ANA);
    world.service = copy.clone();
    world.service.disconnect_all();
    world.service.lies.deaf_to_reports = true;
    world.go_online(BEN);
    world.edit(BEN, group, document, " other");
    world.run();
    world.go_online(ANA);
    world.run();
    let place = About::Document(group, document);
    let told = |world: &mut World| {
        let found = world.open_findings(ANA);
        let found = found
            .into_iter()
            .find(|it| it.code == "service.contradicted");
        found.map(|it| (it.finding.about, it.finding.suspect))
    };
    assert_eq!(told(&mut world), Some((place, Some(Suspect::Service))));
    let appended = world.count(ANA, "append");
    world.edit(ANA, group, document, " kept");
    world.advance(600_000);
    // The evidence is durable.
    world.restart(ANA);
    world.advance(600_000);
    assert_eq!(world.count(ANA, "append"), appended);
    assert_eq!(told(&mut world), Some((place, Some(Suspect::Service))));
    assert_eq!(world.text(ANA, group, document), "hello late kept");
}
