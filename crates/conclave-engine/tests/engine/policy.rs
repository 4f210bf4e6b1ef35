//! The policy of a group that lives is changed.

use conclave_engine::{Command, EngineError, PolicyChange, Reply};
use conclave_proto::policy::JoinerAccess;
use conclave_proto::{GroupId, GroupPolicy, Role};

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;

fn change(group: GroupId, change: PolicyChange) -> Command {
    let change = Box::new(change);
    Command::ChangePolicy { group, change }
}

fn policy(world: &mut World, at: usize, group: GroupId) -> GroupPolicy {
    let Reply::Policy(policy) = world.ask(at, Command::Policy { group }) else {
        panic!("no policy");
    };
    *policy
}

#[test]
fn changes_of_several_members_at_once_all_hold() {
    let mut world = World::new(1, &["ana", "ben"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Admin));
    let before = policy(&mut world, ANA, group);
    let by_ana = PolicyChange {
        padding_bytes: Some(64),
        ..PolicyChange::default()
    };
    let by_ben = PolicyChange {
        default_role: Some(Role::Viewer),
        max_root_age_days: Some(3),
        ..PolicyChange::default()
    };
    world.command(ANA, change(group, by_ana));
    world.command(BEN, change(group, by_ben));
    world.advance(10_000);
    let after = GroupPolicy {
        default_role: Role::Viewer,
        max_root_age_days: 3,
        padding_bytes: 64,
        ..before
    };
    for at in [ANA, BEN] {
        assert_eq!(policy(&mut world, at, group), after);
    }
    world.converged(group, &[ANA, BEN]);
    // What holds already is done without a commit.
    let commits = world.count(ANA, "commit");
    let again = PolicyChange {
        padding_bytes: Some(64),
        ..PolicyChange::default()
    };
    world.ask(ANA, change(group, again));
    assert_eq!(world.count(ANA, "commit"), commits);
    world.no_findings();
}

#[test]
fn what_is_not_allowed_or_no_policy_is_refused_and_changes_nothing() {
    let mut world = World::new(2, &["ana", "ben"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Editor));
    let before = policy(&mut world, ANA, group);
    let owner = PolicyChange {
        default_role: Some(Role::Owner),
        ..PolicyChange::default()
    };
    let unpadded = PolicyChange {
        padding_bytes: Some(0),
        ..PolicyChange::default()
    };
    for bad in [owner, unpadded] {
        let refused = world.call(ANA, change(group, bad));
        assert!(matches!(refused, Some(Err(EngineError::InvalidPolicy))));
    }
    let viewer = PolicyChange {
        default_role: Some(Role::Viewer),
        ..PolicyChange::default()
    };
    let refused = world.call(BEN, change(group, viewer));
    let Some(Err(error)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(error.code(), "mls.forbidden");
    assert_eq!(policy(&mut world, BEN, group), before);
}

#[test]
fn from_join_counts_for_whoever_joins_after_it_was_chosen() {
    for chosen in [true, false] {
        let mut world = World::new(3, &["ana", "ben", "cleo"]);
        let group = world.create_group(ANA);
        world.invite(group, ANA, BEN, Some(Role::Admin));
        let document = world.create_document(group, ANA, "old");
        world.run();
        if chosen {
            let from_join = PolicyChange {
                joiner_access: Some(JoinerAccess::FromJoin),
                ..PolicyChange::default()
            };
            world.ask(ANA, change(group, from_join));
        }
        world.edit(BEN, group, document, ".");
        world.run();
        world.invite(group, ANA, CLEO, None);
        world.advance(90_000);
        assert_eq!(world.text(CLEO, group, document), "old.");
        world.edit(CLEO, group, document, " new");
        world.run();
        world.converged(group, &[ANA, BEN, CLEO]);
        let (before, since) = crate::ages::opened(&world, CLEO, group);
        assert_eq!(before > 0, !chosen, "{before}");
        assert!(since > 0);
    }
}
