//! Somebody leaves while another comes back: the leave is not lost.

use conclave_mls::{MlsError, Plan, RejoinOffer};
use conclave_proto::group::GroupEntry;
use conclave_proto::policy::Role;
use conclave_proto::refusal::CommitFault;
use conclave_rules::{Committer, Covered, ProposalKind, judge_commit};

use crate::forge;
use crate::rejoin::{adopt, prepare};
use crate::world::{GROUP, World};

#[test]
fn a_leave_is_covered_by_whoever_comes_back() {
    let roles = [Role::Editor, Role::Viewer, Role::Viewer];
    let mut world = World::with_roles(300, &roles);
    world.leave(2).unwrap();
    world.leave(3).unwrap();
    world.sync_all();
    assert_eq!(world.service.pending().len(), 2);
    let (scratch, prepared) = prepare(&mut world, 1).unwrap();
    world.submit(1, &prepared.bundle).unwrap();
    adopt(&mut world, 1, scratch);
    world.sync_all();
    world.assert_agreed();
    assert!(!world.is_member(2) && !world.is_member(3) && world.is_member(1));
    assert!(world.service.pending().is_empty());
    // Their keys are gone with them: everything is due for new ones.
    let state = world.service.state();
    assert_eq!(state.rotating_since, state.epoch);
    world.commit(1, &Plan::default());
}

#[test]
fn who_is_leaving_comes_back_and_covers_the_others_leaves_but_not_its_own() {
    let mut world = World::with_roles(301, &[Role::Editor, Role::Viewer]);
    world.leave(1).unwrap();
    world.leave(2).unwrap();
    world.sync_all();
    rejoin_of(&mut world, 1);
    assert!(world.is_member(1) && !world.is_member(2));
}

fn rejoin_of(world: &mut World, peer: usize) {
    let (scratch, prepared) = prepare(world, peer).unwrap();
    world.submit(peer, &prepared.bundle).unwrap();
    adopt(world, peer, scratch);
    world.sync_all();
    world.assert_agreed();
}

#[test]
fn a_leave_that_came_after_the_offer_is_no_ones_fault() {
    let mut world = World::with_roles(302, &[Role::Editor, Role::Viewer, Role::Viewer]);
    world.leave(2).unwrap();
    world.sync_all();
    let (scratch, prepared) = prepare(&mut world, 1).unwrap();
    world.leave(3).unwrap();
    world.submit(1, &prepared.bundle).unwrap();
    adopt(&mut world, 1, scratch);
    world.sync_all();
    world.assert_agreed();
    assert!(!world.is_member(2) && world.is_member(3));
    // It is proposed again.
    world.leave(3).unwrap();
    world.sync_all();
    world.commit(1, &Plan::default());
    assert!(!world.is_member(3));
}

#[test]
fn a_return_that_leaves_out_a_leave_which_it_has_seen_is_refused_by_all() {
    let mut world = World::with_roles(303, &[Role::Editor, Role::Viewer]);
    let before = world.service.state().head();
    world.leave(2).unwrap();
    world.sync_all();
    let state = world.service.state().clone();
    let mut facts = forge::facts(&world, 1);
    facts.committer = Committer::External;
    facts.removes = vec![world.device(1)];
    let omitted = Err(CommitFault::PendingOmitted);
    assert_eq!(judge_commit(&state, &facts), omitted);
    // It says that it had not seen it.
    facts.data.seen = before;
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::Roster));
    // Or covers what it says not to have seen, or its own.
    let leave = |device| Covered {
        device,
        kind: ProposalKind::Leave,
    };
    facts.covered = vec![leave(world.device(2))];
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::SeenHead));
    facts.data.seen = state.head();
    assert_eq!(judge_commit(&state, &facts), Err(CommitFault::Roster));
}

#[test]
fn an_offer_that_keeps_a_leave_back_or_makes_one_up_is_not_believed() {
    let mut world = World::with_roles(304, &[Role::Editor, Role::Viewer]);
    world.leave(2).unwrap();
    world.sync_all();
    let good = world.service.pending();
    let mut altered = good[0].as_slice().to_vec();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    let twice = vec![good[0].clone(), good[0].clone()];
    for pending in [vec![], vec![altered.into()], twice] {
        let (info, tree) = (world.service.group_info().to_vec(), world.service.tree());
        let state = world.join_state();
        let offer = RejoinOffer {
            group: GROUP,
            group_info: &info,
            tree: &tree,
            state: &state,
            pending: &pending,
            known: None,
        };
        let inputs = conclave_mls::CommitInputs {
            now: world.now,
            service_time: world.now,
            id: world.inputs_id(),
            live_roots: &[],
        };
        let context = world.peers[1].context();
        let mut rng = world.rng.clone();
        let made = conclave_mls::ClientGroup::rejoin(&context, &offer, inputs, &mut rng);
        let error = made.map(|_| ()).unwrap_err();
        assert!(matches!(error, MlsError::BadInvitation { .. }), "{error:?}");
    }
    rejoin_of(&mut world, 0);
    assert!(!world.is_member(2));
}

#[test]
fn a_service_has_what_is_pending_after_a_restart_and_nothing_of_it_after_a_commit() {
    let mut world = World::with_roles(305, &[Role::Editor, Role::Viewer]);
    world.leave(2).unwrap();
    let Some(GroupEntry::Proposal(sent)) = world.log.last().cloned() else {
        panic!("no proposal")
    };
    assert_eq!(world.service.pending(), std::slice::from_ref(&sent));
    let rows = |world: &World| {
        let of_pending = world.service_rows.keys();
        of_pending
            .filter(|key| key.starts_with(b"own/pending/"))
            .count()
    };
    assert_eq!(rows(&world), 1);
    // What an older program stored has no such row: the log has the message.
    world
        .service_rows
        .retain(|key, _| !key.starts_with(b"own/pending/"));
    let mut older =
        conclave_mls::PublicGroupState::load(world.service_rows(), world.roots()).unwrap();
    let seq = world.service.state().pending.iter().next().unwrap().seq;
    assert_eq!(older.pending_in_log(), [seq]);
    older.supply_pending(seq, world.log[0].clone());
    assert_eq!(older.pending_in_log(), [seq]);
    older.supply_pending(seq, world.log[usize::try_from(seq).unwrap()].clone());
    assert_eq!(older.pending(), [sent]);
    world.sync_all();
    world.commit(1, &Plan::default());
    assert_eq!(rows(&world), 0);
    assert!(world.service.pending().is_empty());
}
