//! Replacing the stored GroupInfo: only by a member, only by one of the current epoch.

use conclave_ds::{Bucket, RateLimits};
use conclave_mls::{DeviceContext, Plan};
use conclave_proto::frame::{Answer, Request};
use conclave_proto::refusal::CommitFault;
use conclave_proto::{GroupId, Refusal};

use crate::harness::{Member, TestService};
use crate::scenes::RENEWAL;

fn exported(member: &Member) -> Vec<u8> {
    let (key, credential) = Member::context(&member.device);
    let context = DeviceContext {
        key: &key,
        credential: &credential,
    };
    member.group().export_group_info(&context).unwrap()
}

fn put(group: GroupId, group_info: &[u8]) -> Request {
    Request::PutGroupInfo {
        group,
        group_info: group_info.into(),
    }
}

async fn stored(member: &mut Member) -> Vec<u8> {
    let group = member.group_id();
    match member.wire.request(Request::GetGroupInfo { group }).await {
        Answer::GroupInfo { group_info, .. } => group_info.into_vec(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_members_group_info_replaces_the_stored_one() {
    let mut service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let group = bob.group_id();
    let before = stored(&mut alice).await;
    let own = exported(&bob);
    assert_ne!(own, before);
    assert_eq!(bob.wire.request(put(group, &own)).await, Answer::Done);
    assert_eq!(stored(&mut alice).await, own);
    // Again is as good.
    assert_eq!(bob.wire.request(put(group, &own)).await, Answer::Done);
    service.restart().await;
    alice.reconnect(&service).await;
    bob.reconnect(&service).await;
    assert_eq!(stored(&mut alice).await, own);
    // The log and its commits are not concerned.
    let head = alice.follow(2).await;
    assert_eq!(head, alice.group().state().head());
    alice.commit(&RENEWAL).await;
    bob.follow(2).await;
    bob.catch_up(2).await;
}

#[tokio::test]
async fn a_group_info_of_another_epoch_or_signer_is_refused() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let group = bob.group_id();
    let good = exported(&bob);
    let fault = Refusal::BadCommit {
        fault: CommitFault::GroupInfo,
    };
    // In another's name.
    assert_eq!(alice.wire.refused(put(group, &good)).await, fault);
    for at in [5, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let refused = bob.wire.refused(put(group, &bad)).await;
        assert!(
            matches!(refused, Refusal::BadCommit { .. }),
            "byte {at}: {refused:?}"
        );
    }
    for bad in [&good[..good.len() - 1], &[]] {
        let refused = bob.wire.refused(put(group, bad)).await;
        assert!(matches!(refused, Refusal::BadCommit { .. }), "{refused:?}");
    }
    alice.commit(&RENEWAL).await;
    let kept = stored(&mut alice).await;
    assert_eq!(bob.wire.refused(put(group, &good)).await, fault);
    assert_eq!(stored(&mut alice).await, kept);
    // Of another group that is in the same epoch.
    let (mut carol, _dave) = service.pair().await;
    carol.commit(&RENEWAL).await;
    assert_eq!(
        alice.wire.refused(put(group, &exported(&carol))).await,
        fault
    );
}

#[tokio::test]
async fn outsiders_and_the_removed_replace_nothing() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let group = bob.group_id();
    let info = exported(&bob);
    let mut stranger = service.member().await;
    assert_eq!(
        stranger.wire.refused(put(group, &info)).await,
        Refusal::UnknownGroup
    );
    alice
        .commit(&Plan {
            remove: vec![bob.device.id],
            ..Plan::default()
        })
        .await;
    assert_eq!(
        bob.wire.refused(put(group, &info)).await,
        Refusal::UnknownGroup
    );
}

#[tokio::test]
async fn replacing_is_rate_limited_by_device() {
    let service = TestService::with(|config| {
        config.rate_limits = Some(RateLimits {
            repairs: Bucket::new(1, 1),
            ..RateLimits::default()
        });
    })
    .await;
    let (mut alice, mut bob) = service.pair().await;
    let group = bob.group_id();
    let own = exported(&bob);
    assert_eq!(bob.wire.request(put(group, &own)).await, Answer::Done);
    assert!(matches!(
        bob.wire.refused(put(group, &own)).await,
        Refusal::RateLimited { .. }
    ));
    let own = exported(&alice);
    assert_eq!(alice.wire.request(put(group, &own)).await, Answer::Done);
}
