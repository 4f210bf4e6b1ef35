//! The beat: members tell each other what they were shown, and a service that shows them different things is named by the next one.

use std::collections::BTreeSet;

use conclave_engine::evidence::{EvidenceKind, ProofInfo, Proven, verify};
use conclave_engine::finding::{About, Suspect};
use conclave_engine::{Command, GroupInfo, Reply};
use conclave_proto::limits::{BEAT_MS, BEAT_WAIT_MS};
use conclave_proto::service::Cause;
use conclave_proto::{DocumentId, GroupId};
use conclave_rules::LogId;
use conclave_testkit::service::Signing;

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
/// Within this, what one was shown has come to the other, who has waited for it and asked.
const BOUND_MS: u64 = BEAT_MS + BEAT_WAIT_MS + 1_000;

fn pair(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben"]);
    world.beats = true;
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    let document = world.create_document(group, ANA, "hello");
    world.advance(3 * BEAT_MS);
    world.no_findings();
    (world, group, document)
}

fn kept(world: &mut World, at: usize) -> Vec<ProofInfo> {
    match world.ask(at, Command::Proofs) {
        Reply::Proofs(all) => all,
        other => panic!("{other:?}"),
    }
}

/// What a stranger finds who is given all that a device holds, and the service's key.
fn proven(world: &mut World, at: usize) -> Vec<Proven> {
    let key = Signing::default().service_key();
    let all = kept(world, at).into_iter().map(|info| info.id);
    let all: Vec<_> = all.collect();
    all.into_iter()
        .map(
            |evidence| match world.ask(at, Command::Proof { evidence }) {
                Reply::Proof(bytes) => verify(bytes.as_slice(), &key).unwrap(),
                other => panic!("{other:?}"),
            },
        )
        .collect()
}

fn told(world: &mut World, at: usize, code: &str) -> Option<(About, Option<Suspect>)> {
    let found = world.open_findings(at);
    let found = found.into_iter().find(|it| it.code == code);
    found.map(|it| (it.finding.about, it.finding.suspect))
}

#[test]
fn beat_bound() {
    let (mut world, group, document) = pair(1);
    let ben = world.devices[BEN].id;
    let log = LogId { group, document };
    world.service.withhold(ben, &[log], true);
    world.edit(ANA, group, document, " late");
    world.advance(BOUND_MS);
    let place = About::Document(group, document);
    let withheld = Some((place, Some(Suspect::Service)));
    assert_eq!(told(&mut world, BEN, "service.withheld"), withheld);
    // What the service signed in answer convicts it.
    let proven = proven(&mut world, BEN);
    let [Proven::Rollback { log, a, b }] = proven.as_slice() else {
        panic!("{proven:?}")
    };
    assert_eq!((log.group, log.document), (group, Some(document)));
    assert_eq!(a.head.size, b.head.size + 1);
    // What is here stays readable, and is durable.
    assert_eq!(world.text(BEN, group, document), "hello");
    world.restart(BEN);
    assert_eq!(kept(&mut world, BEN).len(), 1);
    // Who was shown everything finds nothing.
    assert_eq!(kept(&mut world, ANA), []);
    assert_eq!(told(&mut world, ANA, "service.withheld"), None);
}

/// A service that signs nothing new convicts itself of nothing, and is named all the same.
#[test]
fn a_service_that_gives_an_old_head_is_named() {
    let (mut world, group, document) = pair(2);
    let ben = world.devices[BEN].id;
    let log = LogId { group, document };
    world.service.withhold(ben, &[log], false);
    world.edit(ANA, group, document, " late");
    world.advance(BOUND_MS);
    assert!(told(&mut world, BEN, "service.withheld").is_some());
    assert_eq!(kept(&mut world, BEN), []);
}

#[test]
fn the_end_of_a_groups_own_log_is_not_withheld_unnoticed() {
    let (mut world, group, _) = pair(3);
    let ben = world.devices[BEN].id;
    let directory = DocumentId::directory(&group);
    let logs = [
        LogId::of_group(group),
        LogId {
            group,
            document: directory,
        },
    ];
    world.service.withhold(ben, &logs, true);
    world.create_document(group, ANA, "unseen");
    world.advance(BOUND_MS);
    assert!(told(&mut world, BEN, "service.withheld").is_some());
    let kinds: Vec<_> = kept(&mut world, BEN).iter().map(|it| it.kind).collect();
    assert!(kinds.contains(&EvidenceKind::Rollback));
}

/// Without it nobody notices: what these tests show is the beat's doing.
#[test]
fn without_beats_a_withheld_end_is_not_noticed() {
    let (mut world, group, document) = pair(4);
    world.beats = false;
    let ben = world.devices[BEN].id;
    world
        .service
        .withhold(ben, &[LogId { group, document }], true);
    world.edit(ANA, group, document, " late");
    world.advance(10 * BEAT_MS);
    assert_eq!(world.text(BEN, group, document), "hello");
    world.no_findings();
}

#[test]
fn two_halves_of_a_group_that_are_shown_two_histories_find_out() {
    let (mut world, group, document) = pair(5);
    world.go_offline(BEN);
    let mut other = world.service.clone();
    other.disconnect_all();
    world.half = Some((other, BTreeSet::from([BEN])));
    world.go_online(BEN);
    world.edit(ANA, group, document, " one");
    for text in [" two", " three"] {
        world.edit(BEN, group, document, text);
        world.run();
    }
    world.advance(3 * BOUND_MS);
    // Each convicts the service: by two heads of one size, by a proof from the longer history, or by what it signed when it was asked.
    for at in [ANA, BEN] {
        let of = |it: &Proven| match it {
            Proven::Fork { log, .. } | Proven::Rollback { log, .. } => {
                log.document == Some(document)
            }
            _ => false,
        };
        assert!(proven(&mut world, at).iter().any(of));
        let place = Some((About::Document(group, document), Some(Suspect::Service)));
        let named =
            ["service.contradicted", "service.withheld"].map(|code| told(&mut world, at, code));
        assert!(named.contains(&place), "{named:?}");
    }
    assert_eq!(world.text(ANA, group, document), "hello one");
    assert_eq!(world.text(BEN, group, document), "hello two three");
}

/// The service was put back and says so, and a copy of it goes on as before.
#[test]
fn a_second_copy_of_a_service_that_goes_on_in_a_former_life_is_convicted() {
    let (mut world, group, document) = pair(6);
    // Nobody renews a leaf from here on: an epoch that only one half has opens nothing in the other.
    world.advance(900_000);
    for at in [ANA, BEN] {
        world.go_offline(at);
    }
    let mut other = world.service.clone();
    other.disconnect_all();
    let mut signing = Signing::default();
    signing.begin(&signing.next(None, Cause::Restored, world.now));
    world.service.sign_as(signing);
    world.half = Some((other, BTreeSet::from([BEN])));
    for at in [ANA, BEN] {
        world.go_online(at);
    }
    world.advance(700_000);
    world.edit(BEN, group, document, " behind");
    world.advance(3 * BOUND_MS);
    let parallel = |it: &Proven| matches!(it, Proven::Parallel { .. });
    assert!(proven(&mut world, ANA).iter().any(parallel));
    assert!(told(&mut world, ANA, "service.parallel").is_some());
}

#[test]
fn silence_shows() {
    let (mut world, group, _) = pair(7);
    let info = |world: &mut World| -> GroupInfo {
        let Reply::Groups(groups) = world.ask(ANA, Command::Groups) else {
            panic!("no groups")
        };
        groups.into_iter().find(|it| it.group == group).unwrap()
    };
    let now = world.now;
    let before = info(&mut world);
    let heard = before.heard.unwrap();
    assert!(now.since_ms(heard) <= BEAT_MS + 1_000);
    world.go_offline(BEN);
    world.advance(10 * BEAT_MS);
    let after = info(&mut world);
    assert_eq!(after.listens, before.listens);
    assert!(world.now.since_ms(after.heard.unwrap()) >= 9 * BEAT_MS);
    world.no_findings();
}

/// All is shown to all: whatever is said of it, nobody is accused, however often they come and go.
#[test]
fn an_honest_service_is_accused_of_nothing() {
    let (mut world, group, document) = pair(8);
    for round in 0..4 {
        for at in [ANA, BEN] {
            world.edit(at, group, document, " x");
            world.advance(BEAT_MS / 2);
        }
        world.create_document(group, round % 2, &format!("text {round}"));
        world.cut(ANA);
        world.advance(BEAT_MS);
        world.restart(BEN);
        world.advance(2 * BEAT_MS);
    }
    world.converged(group, &[ANA, BEN]);
    world.no_findings();
    for at in [ANA, BEN] {
        assert_eq!(kept(&mut world, at), []);
    }
}
