//! Answers of the service find what they are for once.

use crate::determinism::play;
use crate::world::World;

#[test]
fn answers_find_their_pending_once() {
    for seed in 0..4 {
        let mut world = World::new(seed, &["ana", "ben", "cleo"]);
        world.answers_twice = true;
        let group = play(&mut world);
        world.cut(0);
        world.run();
        world.converged(group, &[0, 1]);
        // The one who is removed may have written what comes too late.
        for at in [0, 1] {
            world.found_only(at, &[]);
        }
    }
}

#[test]
fn what_a_device_holds_is_printed_without_secrets_and_content() {
    let mut world = World::new(1, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    let document = world.create_document(group, 0, "contents");
    world.go_offline(0);
    world.create_document(group, 0, "other contents");
    world.edit(0, group, document, "more");
    let printed = world.print(0);
    assert!(printed.contains("groups: {"), "{printed}");
    for hidden in ["contents", "more", "minutes", "Board"] {
        assert!(!printed.contains(hidden), "{hidden}");
    }
    assert_eq!(printed, world.print(0));
}
