//! The same seed and the same inputs give the same decisions.

use conclave_engine::Command;
use conclave_proto::GroupId;

use crate::world::World;

/// Three come together and edit, one begins anew, and another one is removed.
pub fn play(world: &mut World) -> GroupId {
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    world.invite(group, 0, 2, None);
    let document = world.create_document(group, 0, "hello");
    for at in 0..3 {
        world.edit(at, group, document, ".");
    }
    world.restart(1);
    let user = world.devices[2].user;
    world.ask(0, Command::Remove { group, user });
    world.run();
    group
}

fn session(seed: u64) -> Vec<String> {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    world.cut_every = Some(60);
    let group = play(&mut world);
    world.cut_every = None;
    world.run();
    world.converged(group, &[0, 1]);
    world.trace
}

#[test]
fn the_same_seed_gives_the_same_decisions() {
    let (one, other) = (session(7), session(7));
    for (at, (one, other)) in one.iter().zip(&other).enumerate() {
        assert_eq!(one, other, "output {at}");
    }
    assert_eq!(one.len(), other.len());
}

#[test]
fn another_seed_gives_another_order_of_things() {
    assert_ne!(session(7), session(8));
}

#[test]
fn an_idle_world_is_quiet() {
    let mut world = World::new(3, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    world.create_document(group, 0, "hello");
    world.advance(1_000_000);
    let before: Vec<usize> = world.devices.iter().map(|device| device.outputs).collect();
    world.advance(3_600_000);
    for (device, before) in world.devices.iter().zip(before) {
        assert!(device.outputs - before < 10, "{}", device.name);
    }
}
