//! A service that was put back, and takes back what it lost: everybody goes on, nothing is lost.

use conclave_engine::Command;
use conclave_proto::{DocumentId, GroupId};

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;

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

fn told(world: &mut World, at: usize, code: &str) -> bool {
    let command = Command::Findings {
        group: None,
        dismissed: true,
    };
    match world.ask(at, command) {
        conclave_engine::Reply::Findings(found) => found.iter().any(|it| it.code == code),
        other => panic!("{other:?}"),
    }
}

fn all_settled(world: &mut World) {
    for at in 0..world.devices.len() {
        let open = world.open_findings(at);
        let open: Vec<_> = open.iter().map(|it| (&it.code, &it.text)).collect();
        assert_eq!(open, [], "{at}");
    }
}

#[test]
fn one_edit_ago_it_comes_back_by_itself() {
    let (mut world, group, document) = trio(1);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " late");
    world.run();
    world.put_back(copy.clone());
    world.advance(900_000);
    // Whoever sees it before somebody has given it back is told.
    assert!(
        [ANA, BEN, CLEO]
            .iter()
            .any(|at| told(&mut world, *at, "service.put_back"))
    );
    world.edit(BEN, group, document, " on");
    world.advance(60_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    assert_eq!(world.text(CLEO, group, document), "hello late on");
    all_settled(&mut world);
}

#[test]
fn a_day_of_edits_of_several_members_comes_back_in_their_order() {
    let (mut world, group, document) = trio(2);
    let copy = world.service.clone();
    let mut text = "hello".to_owned();
    for number in 0..40 {
        let word = format!(" {number}");
        world.edit(number % 3, group, document, &word);
        world.run();
        text.push_str(&word);
    }
    world.put_back(copy.clone());
    world.advance(900_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    assert_eq!(world.text(CLEO, group, document), text);
    all_settled(&mut world);
}

/// Whoever has it may bring it, whoever else was away; what was written meanwhile waits, and follows.
#[test]
fn edits_of_who_had_missed_it_wait_until_somebody_has_brought_it_back() {
    let (mut world, group, document) = trio(3);
    world.go_offline(CLEO);
    let copy = world.service.clone();
    world.edit(ANA, group, document, " late");
    world.run();
    // Ana's word that it was put back is the only one; then she is gone before she has returned anything.
    world.forbidden = &["return_document"];
    world.put_back(copy.clone());
    world.go_offline(ANA);
    world.go_offline(BEN);
    world.go_online(CLEO);
    world.edit(CLEO, group, document, " other");
    world.advance(60_000);
    assert!(told(&mut world, CLEO, "service.collecting"));
    world.forbidden = &[];
    world.go_online(BEN);
    world.advance(900_000);
    world.go_online(ANA);
    world.advance(900_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    let text = world.text(ANA, group, document);
    assert!(text.contains(" late") && text.contains(" other"), "{text}");
    all_settled(&mut world);
}

#[test]
fn a_copy_that_is_put_back_twice_gets_it_back_twice() {
    let (mut world, group, document) = trio(4);
    let copy = world.service.clone();
    for word in [" one", " two", " three"] {
        world.edit(ANA, group, document, word);
        world.run();
    }
    for _ in 0..2 {
        world.put_back(copy.clone());
        world.advance(900_000);
        world.converged(group, &[ANA, BEN, CLEO]);
    }
    world.edit(CLEO, group, document, " on");
    world.advance(60_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    assert_eq!(world.text(BEN, group, document), "hello one two three on");
}
