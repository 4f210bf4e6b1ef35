//! Losing races, losing replies, and losing power.

use conclave_mls::{ClientGroup, MlsError, Plan, Processed};
use conclave_proto::DocumentId;
use conclave_proto::Refusal;
use conclave_proto::policy::Role;
use conclave_proto::record::EntryBody;

use crate::world::World;

#[test]
fn the_loser_of_a_race_follows_the_winner_and_tries_again() {
    let mut world = World::with_roles(70, &[Role::Editor, Role::Editor]);
    let lost = world.prepare(1, &Plan::default()).unwrap();
    let won = world.prepare(2, &Plan::default()).unwrap();
    world.submit(2, &won.bundle).unwrap();
    assert_eq!(
        world.submit(1, &lost.bundle),
        Err(Refusal::EpochTaken { current: 2 })
    );
    assert_eq!(
        world.peers[1].group().has_pending().unwrap().leaf,
        lost.leaf
    );
    world.sync_all();
    assert!(world.peers[1].group().has_pending().is_none());
    world.assert_agreed();
    assert_ne!(world.secrets(1), lost.secrets);
    world.commit(1, &Plan::default());
}

#[test]
fn a_lost_reply_is_found_in_the_log() {
    let mut world = World::with_roles(71, &[Role::Editor]);
    let prepared = world.prepare(1, &Plan::default()).unwrap();
    world.submit(1, &prepared.bundle).unwrap();
    // The answer is lost, and so is the process; only the rows are left.
    world.peers[1].restart();
    assert_eq!(world.peers[1].group().has_pending().unwrap().epoch_after, 2);
    assert_eq!(
        world.prepare(1, &Plan::default()).unwrap_err(),
        MlsError::CommitPending
    );
    let done = world.sync(1).unwrap();
    let Some(Processed::Commit(outcome)) = done.last() else {
        panic!("no commit")
    };
    assert!(outcome.own);
    assert_eq!(outcome.secrets.as_ref(), Some(&prepared.secrets));
    world.sync_all();
    world.assert_agreed();
}

#[test]
fn a_power_cut_before_the_rows_are_written_forgets_the_commit() {
    let mut world = World::with_roles(72, &[Role::Editor]);
    let peer = &mut world.peers[1];
    let context = conclave_mls::DeviceContext {
        key: &peer.key,
        credential: &peer.credential,
    };
    let inputs = conclave_mls::CommitInputs {
        now: world.now,
        service_time: world.now,
        id: conclave_proto::CommitId([1; 16]),
        live_roots: &[],
    };
    let group = peer.group.as_mut().unwrap();
    group
        .commit(&context, &Plan::default(), inputs, &mut world.rng)
        .unwrap();
    assert!(group.has_pending().is_some());
    group.rollback().unwrap();
    assert!(group.has_pending().is_none());
    assert!(group.take_changes().is_empty());
    assert!(
        ClientGroup::load(peer.rows.rows())
            .unwrap()
            .has_pending()
            .is_none()
    );
    world.commit(1, &Plan::default());
}

#[test]
fn a_leave_ordered_while_a_commit_waits_makes_it_wait_again() {
    let mut world = World::with_roles(73, &[Role::Editor, Role::Editor]);
    let early = world.prepare(1, &Plan::default()).unwrap();
    world.leave(2).unwrap();
    assert_eq!(
        world.submit(1, &early.bundle),
        Err(Refusal::ProposalPending)
    );
    world.sync(1).unwrap();
    assert!(world.peers[1].group().has_pending().is_some());
    world.peers[1].group_mut().discard_pending().unwrap();
    world.peers[1].restart();
    assert_eq!(
        world.peers[1].group_mut().discard_pending().unwrap_err(),
        MlsError::NothingPending
    );
    world.sync_all();
    world.commit(1, &Plan::default());
    assert!(!world.is_member(2));
}

#[test]
fn entries_ordered_before_a_waiting_commit_do_not_disturb_it() {
    let mut world = World::with_roles(74, &[Role::Editor]);
    let prepared = world.prepare(1, &Plan::default()).unwrap();
    let body = EntryBody::DocumentCreated {
        document: DocumentId([1; 16]),
        crdt: 1,
    };
    let record = world.sign(0, body);
    world.put(0, record).unwrap();
    world.submit(1, &prepared.bundle).unwrap();
    world.sync_all();
    world.assert_agreed();
    assert_eq!(world.service.state().documents.size(), 2);
}

#[test]
fn a_judgement_is_not_applied_after_the_log_has_moved_on() {
    let mut world = World::with_roles(75, &[Role::Editor]);
    let prepared = world.prepare(1, &Plan::default()).unwrap();
    let device = world.device(1);
    let judged = world
        .service
        .judge_bundle(&prepared.bundle, device, world.now)
        .unwrap();
    let body = EntryBody::DocumentCreated {
        document: DocumentId([1; 16]),
        crdt: 1,
    };
    let record = world.sign(0, body);
    world.put(0, record).unwrap();
    let before = world.service.state().clone();
    assert_eq!(world.service.apply(judged), Err(Refusal::Storage));
    assert_eq!(world.service.state(), &before);
}

#[test]
fn a_failed_plan_leaves_nothing_behind() {
    let mut world = World::with_roles(76, &[Role::Editor]);
    let stranger = conclave_proto::DeviceId([0xee; 16]);
    let plan = Plan {
        remove: vec![stranger],
        ..Plan::default()
    };
    assert_eq!(
        world.prepare(0, &plan).unwrap_err(),
        MlsError::UnknownDevice { device: stranger }
    );
    let plan = Plan {
        add: vec![vec![1, 2, 3]],
        ..Plan::default()
    };
    assert!(world.prepare(0, &plan).is_err());
    assert!(world.peers[0].group_mut().take_changes().is_empty());
    // An unfinished transition is not lost with a failed commit.
    let done = world.prepare(1, &Plan::default()).unwrap();
    world.submit(1, &done.bundle).unwrap();
    let entry = world.log.last().unwrap().clone();
    let group = world.peers[0].group_mut();
    group.process(&entry).unwrap();
    assert!(world.prepare(0, &plan).is_err());
    assert_eq!(world.peers[0].group().epoch(), 2);
    world.sync_all();
    world.assert_agreed();
}
