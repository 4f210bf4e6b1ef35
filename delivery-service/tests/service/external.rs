//! Coming back by external commits, and everything else that somebody may try with one.

use conclave_mls::{ClientGroup, CommitInputs, DeviceContext, Plan, Prepared, RejoinOffer};
use conclave_proto::codec::encode;
use conclave_proto::frame::{Answer, Request};
use conclave_proto::group::CommitBundle;
use conclave_proto::refusal::{CommitFault, ForbiddenWhy};
use conclave_proto::{CommitId, GroupPolicy, InstanceId, Refusal, Role};

use crate::forge::{self, Offer, context, external, offer, parts, with_length};
use crate::harness::{Member, Person, TestService, now, random, rng};
use crate::scenes::{ONE, RENEWAL};

fn fault(fault: CommitFault) -> Answer {
    Answer::Refused(Refusal::BadCommit { fault })
}

fn removing(member: &Member) -> Plan {
    Plan {
        remove: vec![member.device.id],
        ..Plan::default()
    }
}

/// An honest rejoin, ready to be sent.
pub fn rejoin(member: &Member, offer: &Offer) -> (ClientGroup, Prepared) {
    let (key, credential) = Member::context(&member.device);
    let device = DeviceContext {
        key: &key,
        credential: &credential,
    };
    let offer = RejoinOffer {
        group: offer.group,
        group_info: &offer.group_info,
        tree: &offer.tree,
        state: &offer.state,
        pending: &offer.pending,
        known: None,
    };
    let inputs = CommitInputs {
        now: now(),
        service_time: now(),
        id: CommitId(random()),
        live_roots: &[],
    };
    ClientGroup::rejoin(&device, &offer, inputs, &mut rng()).unwrap()
}

/// Owner Alice at leaf 0, Bob at 1, Carol at 2, all in one epoch.
async fn three(service: &TestService) -> (Member, Member, Member, Person) {
    let mut alice = service.member().await;
    let person = Person::new();
    let mut bob = service.member_of(&person, 0).await;
    let mut policy = GroupPolicy::default();
    policy.set_role(person.user(), Role::Admin);
    alice.create_group(policy).await;
    alice.invite(&mut bob).await;
    let mut carol = service.member().await;
    alice.invite(&mut carol).await;
    bob.catch_up(2).await;
    (alice, bob, carol, person)
}

/// The log stands where Alice last saw it.
async fn unmoved(alice: &mut Member) {
    let known = alice.group().state().head();
    assert_eq!(alice.follow(known.size).await, known);
}

#[tokio::test]
async fn a_removed_device_does_not_come_back_by_any_external_commit() {
    let service = TestService::start().await;
    let (mut alice, mut bob, _carol, _) = three(&service).await;
    let before = offer(&mut bob).await;
    let (_, early) = rejoin(&bob, &before);
    alice.commit(&removing(&bob)).await;
    let tombstoned = Answer::Refused(Refusal::Forbidden {
        why: ForbiddenWhy::Tombstoned,
    });
    // Made while it was a member.
    assert_eq!(bob.send_commit(early.bundle).await, tombstoned);
    unmoved(&mut alice).await;
    let group = bob.group_id();
    assert_eq!(
        bob.wire.refused(Request::GetGroupInfo { group }).await,
        Refusal::UnknownGroup
    );
    // Made for the epoch after its removal, with a GroupInfo that a member gave away.
    let leaked = offer(&mut alice).await;
    let (key, credential) = Member::context(&bob.device);
    let late = external(&leaked, bob.device.id, &key, &credential);
    assert_eq!(bob.send_commit(late.clone()).await, tombstoned);
    unmoved(&mut alice).await;
    // Nor does a member bring it in.
    assert_eq!(alice.send_commit(late).await, fault(CommitFault::Duplicate));
    unmoved(&mut alice).await;
    alice.commit(&RENEWAL).await;
}

#[tokio::test]
async fn another_device_of_a_removed_user_does_not_come_in_its_place() {
    let service = TestService::start().await;
    let (mut alice, bob, _carol, mut person) = three(&service).await;
    let phone = person.add_device();
    let mut wire = service.login(&phone).await;
    let leaked = offer(&mut alice).await;
    let (key, credential) = Member::context(&phone);
    // While its user is a member it is no member yet, and afterwards its user is none.
    for _ in 0..2 {
        let leaked = offer(&mut alice).await;
        let bundle = external(&leaked, phone.id, &key, &credential);
        let refused = wire.refused(Request::Commit(bundle.clone())).await;
        assert_eq!(refused, Refusal::UnknownGroup);
        let group = leaked.group;
        let refused = wire.refused(Request::GetGroupInfo { group }).await;
        assert_eq!(refused, Refusal::UnknownGroup);
        // Sent by a member, its certificate is as good, and its commit as bad.
        assert_eq!(
            alice.send_commit(bundle).await,
            fault(CommitFault::External)
        );
        unmoved(&mut alice).await;
        if alice.group().state().is_member(&bob.device.id) {
            alice.commit(&removing(&bob)).await;
        }
    }
    // An offer from before the removal is of no use either.
    let stale = external(&leaked, phone.id, &key, &credential);
    let current = alice.group().epoch();
    assert_eq!(
        alice.send_commit(stale).await,
        Answer::Refused(Refusal::EpochTaken { current })
    );
    unmoved(&mut alice).await;
}

#[tokio::test]
async fn another_key_or_another_users_credential_is_refused() {
    let service = TestService::start().await;
    let (mut alice, mut bob, carol, person) = three(&service).await;
    let offer = offer(&mut bob).await;
    // The same device, another key, a certificate as good as the first: whoever holds the user's key can make it.
    let rekeyed = person.rekeyed(&bob.device);
    let (key, credential) = Member::context(&rekeyed);
    let bundle = external(&offer, bob.device.id, &key, &credential);
    let refused = bob.send_commit(bundle).await;
    assert!(
        refused == fault(CommitFault::External) || refused == fault(CommitFault::Credential),
        "{refused:?}"
    );
    unmoved(&mut alice).await;
    // Bob's key under Carol's name, and under a certificate for another key of his own.
    let own = bob.device.key();
    for credential in [&carol.device.credential, &rekeyed.credential] {
        let bundle = external(&offer, bob.device.id, &own, credential);
        assert_eq!(
            bob.send_commit(bundle).await,
            fault(CommitFault::Credential)
        );
        unmoved(&mut alice).await;
    }
    // A good one, sent by somebody else.
    let (_, good) = rejoin(&bob, &offer);
    assert_eq!(
        alice.send_commit(good.bundle.clone()).await,
        Answer::Refused(Refusal::Forbidden {
            why: ForbiddenWhy::NotYours
        })
    );
    unmoved(&mut alice).await;
    assert!(matches!(
        bob.send_commit(good.bundle).await,
        Answer::Accepted { .. }
    ));
}

#[tokio::test]
async fn an_external_commit_removes_adds_and_changes_nothing_else() {
    let service = TestService::start().await;
    let (mut alice, mut bob, _carol, _) = three(&service).await;
    let mut dave = service.member().await;
    dave.publish_key_packages(1, false).await;
    let package = alice.claim(dave.device.user).await.remove(0);
    let offer = offer(&mut bob).await;
    let (_, good) = rejoin(&bob, &offer);
    let key = bob.device.key();
    let commit = good.bundle.commit.as_slice();
    // Signing it again changes nothing: what is refused below is refused for what was changed.
    assert_eq!(parts(commit).sign(&offer, &key), good.bundle.commit);

    let (_, extensions) = context(&offer.group_info);
    let old = encode(&alice.group().state().policy);
    let mut policy = alice.group().state().policy.clone();
    policy.set_role(bob.device.user, Role::Owner);
    let changed = replaced(
        &extensions,
        &with_length(&old),
        &with_length(&encode(&policy)),
    );
    let mut other = parts(commit);
    // The last proposal is the removal of its own leaf; the leaf is its last field.
    assert_eq!(
        other.proposals[other.proposals.len() - 7..],
        [1, 0, 3, 0, 0, 0, 1]
    );
    *other.proposals.last_mut().unwrap() = 2;
    let mut none = parts(commit);
    none.proposals.truncate(none.proposals.len() - 7);
    let forged = [
        ("somebody else's leaf", other),
        ("no leaf", none),
        ("two leaves", parts(commit).remove(2)),
        ("the owner too", parts(commit).remove(0)),
        ("an addition", parts(commit).add(&package)),
        ("a policy", parts(commit).extensions(&changed)),
    ];
    for (what, parts) in forged {
        let bundle = CommitBundle {
            commit: parts.sign(&offer, &key),
            ..good.bundle.clone()
        };
        assert_eq!(
            bob.send_commit(bundle).await,
            fault(CommitFault::Mls),
            "{what}"
        );
        unmoved(&mut alice).await;
    }
    assert!(matches!(
        bob.send_commit(good.bundle).await,
        Answer::Accepted { .. }
    ));
}

fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes
        .windows(old.len())
        .position(|window| window == old)
        .unwrap();
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

#[tokio::test]
async fn a_resync_for_an_old_epoch_loses_and_a_good_one_keeps_everything() {
    let service = TestService::start().await;
    let (mut alice, mut bob, mut carol, _) = three(&service).await;
    let (document, _) = alice.create_document().await;
    bob.process_next().await;
    carol.process_next().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let first = offer(&mut bob).await;
    let (_, old) = rejoin(&bob, &first);
    alice.commit(&RENEWAL).await;
    assert_eq!(
        bob.send_commit(old.bundle).await,
        Answer::Refused(Refusal::EpochTaken { current: 3 })
    );
    unmoved(&mut alice).await;

    // It has lost what it knew.
    bob.reconnect(&service).await;
    let second = offer(&mut bob).await;
    let (scratch, good) = rejoin(&bob, &second);
    bob.group = Some(scratch);
    assert!(matches!(
        bob.send_commit(good.bundle).await,
        Answer::Accepted { .. }
    ));
    bob.follow(second.head.size).await;
    bob.process_next().await;
    alice.catch_up(4).await;
    carol.catch_up(4).await;
    for other in [&alice, &carol] {
        assert_eq!(
            other.group().epoch_authenticator(),
            bob.group().epoch_authenticator()
        );
        assert_eq!(other.group().state().current_rows().count(), 3);
    }
    assert_eq!(
        bob.wire.request(Request::GetMemberships).await,
        Answer::Memberships {
            groups: vec![bob.group_id()]
        }
    );
    // The document that was open stays open, and who came back writes too.
    pen.epoch = 4;
    let frame = pen.updates(2);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((2, 1)));
    let (_, mut own) = bob.open(document, InstanceId([2; 8]), Some(3)).await;
    let frame = own.updates(1);
    bob.wire.send(&frame).await;
    assert_eq!(bob.wire.appended(own.channel).await, Ok((1, 3)));
    assert_eq!(alice.wire.delivered(pen.channel, 2).await[1].0, 3);
    bob.commit(&RENEWAL).await;
}

#[tokio::test]
async fn outsiders_see_no_group_info_and_bring_no_commit() {
    let service = TestService::start().await;
    let (mut alice, _bob, _carol, _) = three(&service).await;
    let mut mallory = service.member().await;
    let group = alice.group_id();
    assert_eq!(
        mallory.wire.refused(Request::GetGroupInfo { group }).await,
        Refusal::UnknownGroup
    );
    let leaked = offer(&mut alice).await;
    let (key, credential) = Member::context(&mallory.device);
    let bundle = forge::external(&leaked, mallory.device.id, &key, &credential);
    assert_eq!(
        mallory.send_commit(bundle.clone()).await,
        Answer::Refused(Refusal::UnknownGroup)
    );
    assert_eq!(
        alice.send_commit(bundle).await,
        fault(CommitFault::External)
    );
    unmoved(&mut alice).await;
}
