//! A service that has nothing of a group: it was wiped, set up anew, or put back to before the group was founded. It takes the group from a member.

use conclave_engine::Command;
use conclave_proto::{DocumentId, GroupId, Hash, Role};
use conclave_testkit::service::{Service, Signing};

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
const DORA: usize = 3;

fn four(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo", "dora"]);
    let group = world.create_group(ANA);
    for other in [BEN, CLEO, DORA] {
        world.invite(group, ANA, other, Some(Role::Editor));
    }
    let document = world.create_document(group, ANA, "hello");
    for (at, word) in [
        (ANA, " ana"),
        (BEN, " ben"),
        (CLEO, " cleo"),
        (DORA, " dora"),
    ] {
        world.edit(at, group, document, word);
        world.run();
    }
    (world, group, document)
}

/// Its operator has lost everything, also its key, and sets it up anew.
pub fn wipe(world: &mut World) -> String {
    let mut service = Service::default();
    let other = Signing::founded_at(77, world.now);
    let key = Hash(other.service_key()).to_string();
    service.sign_as(other);
    world.put_back(service);
    world.advance(60_000);
    key
}

pub fn accept(world: &mut World, at: usize, key: &str) {
    let key = key[..8].to_owned();
    world.ask(at, Command::AcceptService { key });
    world.advance(60_000);
}

/// Was away, meets the new service, and accepts it.
pub fn come(world: &mut World, at: usize, key: &str) {
    world.go_online(at);
    world.advance(10_000);
    accept(world, at, key);
}

/// Ben becomes an admin, and Ana writes.
fn goes_on_without_dora(world: &mut World, group: GroupId, document: DocumentId) {
    world.go_offline(DORA);
    let user = world.devices[BEN].user;
    let role = Role::Admin;
    world.ask(ANA, Command::SetRole { group, user, role });
    world.run();
    world.edit(ANA, group, document, " late");
    world.run();
}

/// All go on: they write, somebody is removed, and a document is made.
fn goes_on(world: &mut World, group: GroupId, document: DocumentId, text: &str) {
    world.edit(CLEO, group, document, " on");
    world.run();
    let user = world.devices[DORA].user;
    world.ask(ANA, Command::Remove { group, user });
    world.advance(120_000);
    let new = world.create_document(group, BEN, "new");
    world.advance(120_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    assert_eq!(world.text(BEN, group, document), format!("{text} on"));
    assert_eq!(world.text(ANA, group, new), "new");
}

#[test]
fn a_wiped_service_takes_everything_from_its_members() {
    let (mut world, group, document) = four(1);
    let key = wipe(&mut world);
    for at in [ANA, BEN, CLEO, DORA] {
        accept(&mut world, at, &key);
    }
    world.advance(900_000);
    world.converged(group, &[ANA, BEN, CLEO, DORA]);
    goes_on(&mut world, group, document, "hello ana ben cleo dora");
}

/// Nobody is there but one member, who is an editor only.
#[test]
fn whoever_comes_first_brings_the_group() {
    let (mut world, group, document) = four(2);
    let key = wipe(&mut world);
    for at in [ANA, BEN, CLEO] {
        world.go_offline(at);
    }
    accept(&mut world, DORA, &key);
    world.advance(300_000);
    assert_eq!(world.text(DORA, group, document), "hello ana ben cleo dora");
    for at in [ANA, BEN, CLEO] {
        come(&mut world, at, &key);
    }
    world.advance(900_000);
    world.converged(group, &[ANA, BEN, CLEO, DORA]);
    goes_on(&mut world, group, document, "hello ana ben cleo dora");
}

/// The one who brought it was not in step: what others have beyond that follows.
#[test]
fn what_others_have_beyond_what_was_brought_follows() {
    let (mut world, group, document) = four(3);
    goes_on_without_dora(&mut world, group, document);
    for at in [ANA, BEN, CLEO] {
        world.go_offline(at);
    }
    world.go_online(DORA);
    let key = wipe(&mut world);
    accept(&mut world, DORA, &key);
    world.advance(300_000);
    for at in [ANA, BEN, CLEO] {
        come(&mut world, at, &key);
    }
    world.advance(900_000);
    world.converged(group, &[ANA, BEN, CLEO, DORA]);
    goes_on(&mut world, group, document, "hello ana ben cleo dora late");
}

/// A copy from before the group was founded.
#[test]
fn a_group_that_was_founded_after_the_copy_comes_back() {
    let mut world = World::new(4, &["ana", "ben", "cleo", "dora"]);
    let copy = world.service.clone();
    let group = world.create_group(ANA);
    for other in [BEN, CLEO, DORA] {
        world.invite(group, ANA, other, Some(Role::Editor));
    }
    let document = world.create_document(group, ANA, "hello");
    world.run();
    world.put_back(copy);
    world.advance(900_000);
    world.converged(group, &[ANA, BEN, CLEO, DORA]);
    goes_on(&mut world, group, document, "hello");
}

/// Who had missed something when the service was wiped comes back into the group: the service has it from a later point on.
#[test]
fn whoever_is_behind_what_was_brought_comes_back() {
    let (mut world, group, document) = four(5);
    goes_on_without_dora(&mut world, group, document);
    let key = wipe(&mut world);
    for at in [ANA, BEN, CLEO] {
        accept(&mut world, at, &key);
    }
    world.advance(300_000);
    come(&mut world, DORA, &key);
    world.advance(900_000);
    world.converged(group, &[ANA, BEN, CLEO, DORA]);
    goes_on(&mut world, group, document, "hello ana ben cleo dora late");
}
