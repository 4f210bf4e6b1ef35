//! Resisting a removal: commits made in advance, and own devices added without end.

use conclave_ds::{Bucket, RateLimits};
use conclave_mls::Plan;
use conclave_proto::frame::{Answer, Request};
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::refusal::CommitFault;
use conclave_proto::{GroupPolicy, Refusal, Role};

use crate::harness::{Member, Person, TestService};
use crate::scenes::RENEWAL;

/// Commits of a member, each for the epoch that the one before it begins, as fast as they can be sent.
fn chain(member: &mut Member, length: usize) -> Vec<CommitBundle> {
    let mut chain = Vec::new();
    for _ in 0..length {
        let bundle = member.prepare(&RENEWAL).bundle;
        let entry = GroupEntry::Commit(bundle.commit.clone());
        member.group.as_mut().unwrap().process(&entry).unwrap();
        chain.push(bundle);
    }
    chain
}

fn removal(of: &Member) -> Plan {
    Plan {
        remove: vec![of.device.id],
        ..Plan::default()
    }
}

/// An admin, and a viewer who resists.
async fn two(service: &TestService) -> (Member, Member) {
    let mut alice = service.member().await;
    let mallory = Person::new();
    let mut policy = GroupPolicy::default();
    policy.set_role(mallory.user(), Role::Viewer);
    alice.create_group(policy).await;
    let mut mallory = service.member_of(&mallory, 0).await;
    alice.invite(&mut mallory).await;
    (alice, mallory)
}

/// Commits in a row that the viewer has on the way at once, while the removal is.
const PIPELINED: usize = 16;

/// Sends a chain of commits without waiting for any answer, from the first to the last. How many were accepted.
async fn resist(mut mallory: Member, chain: Vec<CommitBundle>) -> usize {
    let mut asked = Vec::new();
    for bundle in chain {
        asked.push(mallory.wire.ask(Request::Commit(bundle)).await);
    }
    let mut accepted = 0;
    for id in asked {
        let answer = mallory.wire.answer(id).await;
        accepted += usize::from(matches!(answer, Answer::Accepted { .. }));
    }
    accepted
}

/// Whether the removal met an epoch that was over.
async fn a_removal_wins(service: &TestService) -> bool {
    let (mut alice, mut mallory) = two(service).await;
    let (device, before) = (mallory.device.id, alice.group().epoch());
    let chain = chain(&mut mallory, PIPELINED);
    let late = alice.prepare(&removal(&mallory));
    let resisting = tokio::spawn(resist(mallory, chain));
    let answer = alice.send_commit(late.bundle).await;
    let taken = match answer {
        Answer::Accepted { .. } => None,
        Answer::Refused(Refusal::EpochTaken { current }) => Some(current),
        other => panic!("{other:?}"),
    };
    if let Some(current) = taken {
        alice.catch_up(current).await;
        let again = alice.prepare(&Plan {
            remove: vec![device],
            ..Plan::default()
        });
        // Nothing was ordered since: else the epoch would be over once more.
        let answer = alice.send_commit(again.bundle).await;
        assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
    }
    let current = taken.unwrap_or(before);
    alice.catch_up(current + 1).await;
    assert!(!alice.group().state().is_member(&device));
    let accepted = resisting.await.unwrap();
    assert_eq!(before + accepted as u64, current);
    taken.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_removal_is_the_next_epoch_though_a_chain_of_commits_is_on_its_way() {
    // Nothing else slows the viewer down.
    let service = TestService::start().await;
    let mut late = 0;
    for _ in 0..100 {
        late += usize::from(a_removal_wins(&service).await);
    }
    assert!(late > 0, "no removal came too late");
}

#[tokio::test]
async fn while_a_removal_has_its_turn_only_a_higher_role_comes_first() {
    let service = TestService::start().await;
    let mut olga = service.member().await;
    let (admin, viewer) = (Person::new(), Person::new());
    let mut policy = GroupPolicy::default();
    policy.set_role(admin.user(), Role::Admin);
    policy.set_role(viewer.user(), Role::Viewer);
    olga.create_group(policy).await;
    let mut alice = service.member_of(&admin, 0).await;
    olga.invite(&mut alice).await;
    let mut mallory = service.member_of(&viewer, 0).await;
    olga.invite(&mut mallory).await;
    let mut ed = service.member().await;
    olga.invite(&mut ed).await;
    let (document, _) = ed.create_document().await;
    let epoch = olga.group().epoch();
    alice.catch_up(epoch).await;
    let late = alice.prepare(&removal(&mallory));
    olga.commit(&RENEWAL).await;
    let taken = alice.send_commit(late.bundle).await;
    let current = epoch + 1;
    assert_eq!(taken, Answer::Refused(Refusal::EpochTaken { current }));
    mallory.catch_up(current).await;
    let waits = |answer: &Answer| {
        let Answer::Refused(Refusal::RateLimited { retry_after_ms }) = answer else {
            return false;
        };
        (1..=5_000).contains(retry_after_ms)
    };
    let renewal = mallory.prepare(&RENEWAL);
    let answer = mallory.send_commit(renewal.bundle).await;
    assert!(waits(&answer), "{answer:?}");
    mallory.group.as_mut().unwrap().discard_pending().unwrap();
    // What others list, put away and void waits too: each has the group's log for itself while it is made durable.
    ed.catch_up(current).await;
    let reason = CloseReason::Archived;
    let entry = ed.entry(EntryBody::DocumentClosed { document, reason });
    let answer = ed.wire.request(Request::PutEntry { entry }).await;
    assert!(waits(&answer), "{answer:?}");
    let (_, entry, snapshot) = ed.new_document();
    let request = Request::CreateDocument { entry, snapshot };
    let answer = ed.wire.request(request).await;
    assert!(waits(&answer), "{answer:?}");
    let group = mallory.group_id();
    let message = mallory.leave_message().into();
    let answer = mallory
        .wire
        .request(Request::Propose { group, message })
        .await;
    assert!(waits(&answer), "{answer:?}");
    // The owner's commit is not held up, nor does it take the turn away.
    olga.commit(&RENEWAL).await;
    let current = current + 1;
    mallory.catch_up(current).await;
    let renewal = mallory.prepare(&RENEWAL);
    let answer = mallory.send_commit(renewal.bundle).await;
    assert!(waits(&answer), "{answer:?}");
    alice.catch_up(current).await;
    alice.commit(&removal(&mallory)).await;
    // Then everybody goes on.
    ed.catch_up(current + 1).await;
    let entry = ed.entry(EntryBody::DocumentClosed { document, reason });
    let answer = ed.wire.request(Request::PutEntry { entry }).await;
    assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
    olga.catch_up(current + 1).await;
    olga.commit(&RENEWAL).await;
    alice.catch_up(current + 2).await;
    alice.commit(&RENEWAL).await;
}

#[tokio::test]
async fn own_devices_are_added_at_a_pace_and_taken_out_at_any() {
    let service = TestService::with(|config| {
        let mut limits = RateLimits::default();
        assert_eq!(limits.own_adds, Bucket::per_hour(8, 6));
        limits.own_adds = Bucket::per_hour(2, 1);
        config.rate_limits = Some(limits);
    })
    .await;
    let mut alice = service.member().await;
    let mut person = Person::new();
    for _ in 0..4 {
        person.add_device();
    }
    let mut policy = GroupPolicy::default();
    policy.set_role(person.user(), Role::Viewer);
    alice.create_group(policy).await;
    let mut first = service.member_of(&person, 0).await;
    alice.invite(&mut first).await;
    let mut packages = Vec::new();
    let mut others = Vec::new();
    for at in 1..5 {
        let mut device = service.member_of(&person, at).await;
        device.publish_key_packages(1, false).await;
        others.push(device.device.id);
    }
    packages.extend(first.claim(person.user()).await);
    for package in &packages[..2] {
        let add = vec![package.clone()];
        first
            .commit(&Plan {
                add,
                ..Plan::default()
            })
            .await;
    }
    let add = vec![packages[2].clone()];
    let paced = first.prepare(&Plan {
        add,
        ..Plan::default()
    });
    let answer = first.send_commit(paced.bundle).await;
    let limited = Answer::Refused(Refusal::RateLimited { retry_after_ms: 0 });
    assert_eq!(
        std::mem::discriminant(&answer),
        std::mem::discriminant(&limited),
        "{answer:?}"
    );
    first.group.as_mut().unwrap().discard_pending().unwrap();
    let inside = first.group().state();
    others.retain(|device| inside.is_member(device));
    assert_eq!(others.len(), 2);
    let remove = others;
    first
        .commit(&Plan {
            remove,
            ..Plan::default()
        })
        .await;
    // Somebody else's commit is not counted.
    let epoch = first.group().epoch();
    alice.catch_up(epoch).await;
    alice
        .commit(&Plan {
            add: packages[2..].to_vec(),
            ..Plan::default()
        })
        .await;
}

#[tokio::test]
async fn nobody_comes_into_a_group_whose_directory_is_not_there() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    let mut bob = service.member().await;
    bob.publish_key_packages(1, false).await;
    alice.create_bare_group().await;
    let (_, entry, snapshot) = alice.new_document();
    let fault = CommitFault::Directory;
    let refused = Refusal::BadCommit { fault };
    let early = Request::CreateDocument { entry, snapshot };
    assert_eq!(alice.wire.refused(early).await, refused);
    alice.create_directory().await;
    alice.create_document().await;
    alice.invite(&mut bob).await;
}
