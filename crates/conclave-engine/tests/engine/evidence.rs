//! What convicts a service: kept where it is noticed, durable, and verified by a stranger who knows its key and nothing else.

use conclave_engine::Command;
use conclave_engine::Reply;
use conclave_engine::evidence::{EvidenceKind, NoProof, ProofInfo, Proven, Unproven, verify};
use conclave_proto::{DocumentId, GroupId};
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

fn kept(world: &mut World, at: usize) -> Vec<ProofInfo> {
    match world.ask(at, Command::Proofs) {
        Reply::Proofs(all) => all,
        other => panic!("{other:?}"),
    }
}

/// What a stranger finds who is given all that a device holds, and the service's key.
fn shown_to_a_stranger(world: &mut World, at: usize) -> Vec<Proven> {
    let key = Signing::default().service_key();
    let other = Signing::founded(77).service_key();
    let mut all = Vec::new();
    for info in kept(world, at) {
        assert_eq!(info.service_key.0, key);
        let evidence = info.id;
        let Reply::Proof(bytes) = world.ask(at, Command::Proof { evidence }) else {
            panic!("no evidence")
        };
        let judged = verify(bytes.as_slice(), &other);
        assert_eq!(judged, Err(NoProof::Unproven(Unproven::Generation)));
        let cut = verify(&bytes.as_slice()[1..], &key);
        assert!(matches!(cut, Err(NoProof::Unreadable(_))), "{cut:?}");
        all.push(verify(bytes.as_slice(), &key).unwrap());
    }
    all
}

fn kinds(world: &mut World, at: usize) -> Vec<EvidenceKind> {
    let mut kinds: Vec<_> = kept(world, at).iter().map(|info| info.kind).collect();
    kinds.sort_unstable();
    kinds
}

/// The service goes on from a copy, and says nothing of it.
fn go_on_from(world: &mut World, copy: &conclave_testkit::service::Service) {
    for at in 0..world.devices.len() {
        world.go_offline(at);
    }
    world.service = copy.clone();
    world.service.disconnect_all();
    world.service.lies.deaf_to_reports = true;
}

#[test]
fn evidence_rollback() {
    let (mut world, group, document) = pair(1);
    world.edit(ANA, group, document, " late");
    world.run();
    assert_eq!(kept(&mut world, BEN), []);
    // The tail is gone, of the group's log too.
    world.go_offline(BEN);
    world.service.lies.forget = 1;
    world.service.lies.deaf_to_reports = true;
    world.go_online(BEN);
    world.run();
    let found = world.findings(BEN);
    let told = |code: &str| found.iter().any(|finding| finding.starts_with(code));
    assert!(told("service.rolled_back"), "{found:?}");
    // The document stays readable, and what is written stays here.
    world.edit(BEN, group, document, " kept");
    assert_eq!(world.text(BEN, group, document), "hello late kept");
    let proven = shown_to_a_stranger(&mut world, BEN);
    assert!(!proven.is_empty());
    for proven in &proven {
        let Proven::Rollback { log, a, b } = proven else {
            panic!("{proven:?}")
        };
        assert_eq!(log.group, group);
        assert_eq!(a.head.size, b.head.size + 1);
    }
    // However often it is seen, it is kept once; and it outlives the process.
    let before = kept(&mut world, BEN);
    world.cut(BEN);
    world.advance(600_000);
    world.restart(BEN);
    assert_eq!(kept(&mut world, BEN), before);
    assert_eq!(shown_to_a_stranger(&mut world, BEN), proven);
    // Who noticed nothing holds nothing.
    assert_eq!(kept(&mut world, ANA), []);
}

#[test]
fn evidence_fork() {
    let (mut world, group, document) = pair(2);
    world.go_offline(BEN);
    let copy = world.service.clone();
    for text in [" late", " more", " still"] {
        world.edit(ANA, group, document, text);
        world.run();
    }
    go_on_from(&mut world, &copy);
    world.go_online(BEN);
    world.edit(BEN, group, document, " other");
    world.run();
    world.go_online(ANA);
    world.run();
    let place = Some(document);
    assert!(
        kept(&mut world, ANA)
            .iter()
            .all(|info| info.document == place)
    );
    // It became shorter, and it is another one.
    let both = [EvidenceKind::Fork, EvidenceKind::Rollback];
    assert_eq!(kinds(&mut world, ANA), both);
    let proven = shown_to_a_stranger(&mut world, ANA);
    let fork = proven.iter().find_map(|proven| match proven {
        Proven::Fork { a, b, .. } => Some((a.head.size, b.head.size)),
        _ => None,
    });
    let (a, b) = fork.unwrap();
    assert_eq!(a + 2, b);
    assert_eq!(world.text(ANA, group, document), "hello late more still");
    // Ben was shown one history only.
    assert_eq!(kept(&mut world, BEN), []);
    assert_eq!(world.text(BEN, group, document), "hello other");
}

/// Neither is larger: each is the other's proof.
#[test]
fn two_heads_of_one_size_are_a_fork() {
    let (mut world, group, document) = pair(3);
    world.go_offline(BEN);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " late");
    world.run();
    go_on_from(&mut world, &copy);
    world.go_online(BEN);
    world.edit(BEN, group, document, " other");
    world.run();
    world.go_online(ANA);
    world.run();
    assert_eq!(kinds(&mut world, ANA), [EvidenceKind::Fork]);
    assert_eq!(shown_to_a_stranger(&mut world, ANA).len(), 1);
}

/// Of the group's own log what is proven is what came while the program ran.
#[test]
fn two_memberships_are_a_fork() {
    let mut world = World::new(4, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    world.run();
    world.go_offline(BEN);
    let copy = world.service.clone();
    world.create_document(group, ANA, "one");
    world.create_document(group, ANA, "two");
    world.run();
    go_on_from(&mut world, &copy);
    world.go_online(BEN);
    // Not an owner: a document is what he can list.
    world.create_document(group, BEN, "other");
    world.run();
    world.go_online(ANA);
    world.run();
    let of_group: Vec<_> = kept(&mut world, ANA)
        .iter()
        .filter(|info| info.document.is_none())
        .map(|info| info.kind)
        .collect();
    assert!(of_group.contains(&EvidenceKind::Fork), "{of_group:?}");
    let proven = shown_to_a_stranger(&mut world, ANA);
    assert!(
        proven
            .iter()
            .any(|proven| matches!(proven, Proven::Fork { log, .. } if log.document.is_none()))
    );
}

/// An honest service convicts itself of nothing: restarts, reconnects, a put-back that it declares.
#[test]
fn an_honest_service_is_not_convicted() {
    let (mut world, group, document) = pair(5);
    for text in [" a", " b", " c"] {
        world.edit(ANA, group, document, text);
        world.edit(BEN, group, document, text);
        world.run();
        for at in [ANA, BEN] {
            world.cut(at);
        }
        world.service.disconnect_all();
        world.run();
        world.restart(BEN);
        world.run();
    }
    world.converged(group, &[ANA, BEN]);
    for at in [ANA, BEN] {
        assert_eq!(kept(&mut world, at), []);
    }
}
