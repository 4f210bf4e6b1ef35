//! OpenMLS compares lifetimes with the machine's clock, which tests cannot set: here the group's time is moved away from it instead.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "it is about the machine's clock"
)]

use std::time::{SystemTime, UNIX_EPOCH};

use conclave_mls::Plan;
use conclave_proto::UnixMs;
use conclave_proto::policy::Role;

use crate::rejoin::rejoin;
use crate::world::World;

const HOUR_MS: i64 = 3600 * 1000;
const DAY_MS: i64 = 24 * HOUR_MS;
const YEAR_MS: i64 = 365 * DAY_MS;

/// The machine's clock, when the group's shows this much more.
fn group_time(slow_by_ms: i64) -> UnixMs {
    let machine = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let machine = u64::try_from(machine.as_millis()).unwrap();
    UnixMs(machine.strict_add_signed(slow_by_ms))
}

#[test]
fn members_follow_adds_however_wrong_their_clocks_are() {
    let clocks = [
        2 * HOUR_MS,
        DAY_MS,
        YEAR_MS,
        20 * YEAR_MS,
        -2 * HOUR_MS,
        -DAY_MS,
        -YEAR_MS,
        -20 * YEAR_MS,
    ];
    for (seed, slow_by_ms) in (300..).zip(clocks) {
        let now = group_time(slow_by_ms);
        let mut world = World::with_roles_at(seed, &[Role::Editor, Role::Viewer], now);
        let new = world.outsider();
        // A package that has lain on the shelf, and a fresh one.
        let old = world.package_made_at(new, UnixMs(now.0 - 27 * DAY_MS as u64));
        let other = world.outsider();
        let plan = Plan {
            add: vec![old, world.package(other)],
            ..Plan::default()
        };
        world.commit(0, &plan);
        world.assert_agreed();
        assert!(world.is_member(new) && world.is_member(other));
        // A device comes back by an external commit, which reads every leaf of the tree.
        rejoin(&mut world, 1);
        world.sync_all();
        world.assert_agreed();
    }
}
