//! Own key packages: taken back, put there again, renewed.

use conclave_engine::Command;
use conclave_proto::Refusal;

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// Ben's service shows a shorter log than he has: he takes his key packages back, which the service has not done when he connects again.
fn takes_back(seed: u64) -> World {
    let mut world = World::new(seed, &["ana", "ben"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    world.go_offline(BEN);
    world.service.lies.forget = 1;
    let refusal = Refusal::Storage;
    world.refuses.push((BEN, "clear_packages", refusal));
    world.go_online(BEN);
    world.until(|world| world.count(BEN, "clear_packages") == 1);
    world.service.lies.forget = 0;
    world
}

/// He can be added to a group, also when all his one-time packages are used up.
fn can_be_added(world: &mut World) {
    let ben = world.devices[BEN].id;
    world.go_offline(BEN);
    for _ in 0..40 {
        assert!(world.service.package_of(ben).is_some());
    }
    let group = world.create_group(ANA);
    let (user, role) = (world.devices[BEN].user, None);
    world.ask(ANA, Command::Invite { group, user, role });
    world.go_online(BEN);
    world.run();
    world.ask(BEN, Command::Accept { group });
    world.run();
    world.converged(group, &[ANA, BEN]);
}

#[test]
fn packages_that_the_service_could_not_take_back_are_taken_back_later() {
    let mut world = takes_back(1);
    world.run();
    assert_eq!(world.count(BEN, "clear_packages"), 2);
    world.ask(BEN, Command::Invitable);
    can_be_added(&mut world);
}

#[test]
fn a_package_for_when_the_others_have_run_out_is_there_again_after_all_were_taken_back() {
    let mut world = takes_back(2);
    world.go_offline(BEN);
    // Few are left, so that others are wanted as soon as he connects.
    let ben = world.devices[BEN].id;
    for _ in 0..15 {
        world.service.package_of(ben).unwrap();
    }
    world.go_online(BEN);
    world.run();
    assert_eq!(world.count(BEN, "clear_packages"), 2);
    can_be_added(&mut world);
}

#[test]
fn a_device_that_put_a_few_packages_there_renews_all_by_age_too() {
    let mut world = World::new(3, &["ana", "ben"]);
    world.go_offline(BEN);
    world.advance(DAY_MS);
    let ben = world.devices[BEN].id;
    for _ in 0..15 {
        world.service.package_of(ben).unwrap();
    }
    world.restart(BEN);
    let put = world.count(BEN, "put_packages");
    world.go_online(BEN);
    world.run();
    assert_eq!(world.count(BEN, "put_packages"), put + 1);
    world.advance(14 * DAY_MS);
    assert_eq!(world.count(BEN, "put_packages"), put + 2);
}
