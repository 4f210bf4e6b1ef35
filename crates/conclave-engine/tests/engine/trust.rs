//! Only verified people are let in, unless the group's policy says otherwise; and nobody believes an inviter sooner.

use conclave_engine::{Command, EngineError, PolicyChange, Reply};
use conclave_identity::Untrusted;
use conclave_proto::GroupId;
use conclave_proto::policy::Pinned;

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;

/// Ana and Ben know each other; nobody compared a number.
fn known() -> (World, GroupId) {
    let mut world = World::empty(71);
    world.add("ana");
    world.add("ben");
    world.know(ANA, BEN, false);
    world.know(BEN, ANA, false);
    world.run();
    let group = world.create_group(ANA);
    (world, group)
}

fn invite(world: &World, group: GroupId) -> Command {
    let user = world.devices[BEN].user;
    let role = None;
    Command::Invite { group, user, role }
}

fn let_in(world: &mut World, group: GroupId, pinned: Pinned) {
    let change = PolicyChange {
        pinned: Some(pinned),
        ..PolicyChange::default()
    };
    let change = Box::new(change);
    world.ask(ANA, Command::ChangePolicy { group, change });
    world.run();
}

fn not_compared(reply: Option<Result<Reply, EngineError>>) -> bool {
    let why = Untrusted::NotCompared;
    matches!(reply, Some(Err(EngineError::NotVerified(found))) if found == why)
}

#[test]
fn a_contact_that_nobody_verified_is_not_let_in() {
    let (mut world, group) = known();
    let commits = world.count(ANA, "commit");
    let command = invite(&world, group);
    assert!(not_compared(world.call(ANA, command)));
    // At once, also where nothing is reached: it could never be done.
    world.go_offline(ANA);
    let command = invite(&world, group);
    assert!(not_compared(world.call(ANA, command)));
    world.go_online(ANA);
    world.run();
    assert_eq!(world.count(ANA, "commit"), commits);
    // A policy that takes no contact for enough takes a verified one for none.
    world.know(ANA, BEN, true);
    let_in(&mut world, group, Pinned::Nobody);
    let command = invite(&world, group);
    let refused = world.call(ANA, command);
    let why = Untrusted::NoEvidence;
    assert!(matches!(refused, Some(Err(EngineError::NotVerified(found))) if found == why));
    let_in(&mut world, group, Pinned::Verified);
    let command = invite(&world, group);
    world.ask(ANA, command);
    world.run();
    world.no_findings();
}

#[test]
fn an_inviter_whom_nobody_verified_is_not_believed() {
    let (mut world, group) = known();
    world.know(ANA, BEN, true);
    let command = invite(&world, group);
    world.ask(ANA, command);
    world.run();
    let Reply::Invitations(waiting) = world.ask(BEN, Command::Invitations) else {
        panic!("no list")
    };
    assert!(!waiting[0].inviter_verified);
    assert!(not_compared(world.call(BEN, Command::Accept { group })));
    // The invitation waits until he has compared.
    world.know(BEN, ANA, true);
    world.ask(BEN, Command::Accept { group });
    world.run();
    world.converged(group, &[ANA, BEN]);
}

#[test]
fn where_the_policy_says_so_first_use_is_enough_and_only_owners_say_so() {
    let (mut world, group) = known();
    let_in(&mut world, group, Pinned::FirstUse);
    world.invite(group, ANA, BEN, Some(conclave_proto::Role::Admin));
    world.converged(group, &[ANA, BEN]);
    let Reply::Members(members) = world.ask(ANA, Command::Members { group }) else {
        panic!("no members")
    };
    let ben = world.devices[BEN].user;
    let shown = members.iter().find(|member| member.user == ben);
    assert!(!shown.unwrap().verified, "what it is worth is shown");
    let change = Box::new(PolicyChange {
        pinned: Some(Pinned::Verified),
        ..PolicyChange::default()
    });
    let refused = world.call(BEN, Command::ChangePolicy { group, change });
    match refused {
        Some(Err(error)) => assert_eq!(error.code(), "mls.forbidden"),
        other => panic!("{other:?}"),
    }
    world.no_findings();
}
