//! A service that lies: who notices, and that nothing of the user's is lost.

use conclave_engine::{Command, EngineError, Event};
use conclave_proto::group::GroupEntry;
use conclave_proto::{DocumentId, GroupId, Role};

use crate::world::World;

fn pair(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    let document = world.create_document(group, 0, "hello");
    world.edit(0, group, document, " ana");
    world.run();
    (world, group, document)
}

fn has_finding(world: &World, at: usize, code: &str) -> bool {
    let findings = world.findings(at);
    findings.iter().any(|finding| finding.starts_with(code))
}

#[test]
fn a_shorter_log_after_a_reconnect_is_reported_and_edits_wait() {
    let (mut world, group, document) = pair(1);
    world.go_offline(1);
    world.edit(1, group, document, " kept");
    world.service.lies.forget = 1;
    world.go_online(1);
    world.run();
    assert!(
        has_finding(&world, 1, "service.rolled_back"),
        "{:?}",
        world.findings(1)
    );
    assert!(world.text(1, group, document).ends_with(" kept"));
    // Where the service finds its log again, everything goes on.
    world.service.lies.forget = 0;
    world.cut(1);
    world.run();
    world.converged(group, &[0, 1]);
    assert_eq!(world.text(0, group, document), "hello ana kept");
}

#[test]
fn the_report_of_a_shorter_log_is_not_repeated_without_end() {
    let (mut world, _, _) = pair(2);
    world.go_offline(1);
    world.service.lies.forget = 1;
    world.go_online(1);
    world.advance(300_000);
    let count = world.findings(1).len();
    assert!((1..=4).contains(&count), "{count}: {:?}", world.findings(1));
}

#[test]
fn a_garbled_commit_in_the_log_freezes_the_group_and_keeps_the_edits() {
    let (mut world, group, document) = pair(3);
    // An old commit again, one byte changed where its authenticated data lie.
    let entries = world.service.entries(&group);
    let commit = entries.iter().find_map(|entry| match entry {
        GroupEntry::Commit(bytes) => Some(bytes.as_slice().to_vec()),
        _ => None,
    });
    let mut bytes = commit.unwrap();
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    let out = world
        .service
        .make_up(group, GroupEntry::Commit(bytes.into()));
    world.post(out);
    world.run();
    for at in [0, 1] {
        let info = world.info(at, group).unwrap();
        assert!(info.frozen.is_some(), "{info:?}");
        assert!(!world.findings(at).is_empty());
    }
    assert_eq!(world.text(1, group, document), "hello ana");
    let refused = world.call(1, crate::world::edit(group, document, "x"));
    assert!(matches!(refused, Some(Err(EngineError::Inactive { .. }))));
    world.restart(1);
    world.run();
    assert!(world.info(1, group).unwrap().frozen.is_some());
    assert_eq!(world.text(1, group, document), "hello ana");
}

#[test]
fn a_commit_that_omits_a_pending_leave_freezes_the_group_and_its_signer_is_named() {
    let (mut world, group, document) = pair(4);
    world.invite(group, 0, 2, None);
    // Ana does not hear of Cleo's leave before she commits; the service orders her commit all the same.
    world.service.lies.order_anything = true;
    world.held = Some(0);
    world.command(2, Command::Leave { group });
    world.advance(0);
    let user = world.devices[1].user;
    let role = Role::Admin;
    world.command(0, Command::SetRole { group, user, role });
    world.command(1, crate::world::edit(group, document, " kept"));
    world.advance(0);
    let info = world.info(1, group).unwrap();
    assert!(info.frozen.is_some(), "{:?}", world.findings(1));
    let ana = world.devices[0].id;
    let named = |event: &Event| matches!(event, Event::Finding(found) if found.finding.suspect == Some(ana.into()));
    assert!(world.devices[1].events.iter().any(named));
    assert!(world.text(1, group, document).ends_with(" kept"));
    world.held = None;
    world.run();
    assert!(world.info(0, group).unwrap().frozen.is_some());
}

#[test]
fn foreign_key_packages_are_reported_and_nobody_is_added() {
    let (mut world, group, _) = pair(5);
    world.service.lies.packages_of = Some(world.devices[1].id);
    let user = world.devices[2].user;
    let role = None;
    let reply = world.call(0, Command::Invite { group, user, role });
    assert!(
        matches!(reply, Some(Err(EngineError::NoKeyPackages))),
        "{reply:?}"
    );
    assert!(has_finding(&world, 0, "service.foreign_key_package"));
    world.run();
    world.converged(group, &[0, 1]);
    let state = world.state(group);
    assert_eq!(state.current_rows().count(), 2);
}
