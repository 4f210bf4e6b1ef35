//! Key packages: checked when published, handed out once.

use std::collections::BTreeSet;

use conclave_proto::frame::{Answer, Request, ServiceFrame};
use conclave_proto::{Refusal, limits};

use crate::harness::TestService;

#[tokio::test]
async fn one_time_packages_are_handed_out_once_and_the_last_resort_when_none_is_left() {
    let service = TestService::start().await;
    let mut owner = service.member().await;
    owner.publish_key_packages(2, true).await;
    let mut claimer = service.member().await;
    let user = owner.device.user;
    let mut seen = BTreeSet::new();
    for expected in [0, 0, 1, 1] {
        let claim = Request::ClaimKeyPackages {
            user,
            devices: vec![],
        };
        let Answer::KeyPackages { packages } = claimer.wire.request(claim).await else {
            panic!()
        };
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].device, owner.device.id);
        assert_eq!(packages[0].last_resort, expected);
        seen.insert(packages[0].key_package.as_slice().to_vec());
    }
    assert_eq!(seen.len(), 3, "only the last resort came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_claims_never_get_the_same_package() {
    let service = TestService::start().await;
    let mut owner = service.member().await;
    owner.publish_key_packages(24, false).await;
    let user = owner.device.user;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut claimer = service.member().await;
        tasks.spawn(async move {
            let mut got = Vec::new();
            for _ in 0..4 {
                got.extend(claimer.claim(user).await);
            }
            got
        });
    }
    let all: Vec<Vec<u8>> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(all.len(), 24);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 24);
}

#[tokio::test]
async fn a_package_handed_out_cannot_be_published_again() {
    let service = TestService::start().await;
    let mut owner = service.member().await;
    let request = owner.key_packages(1, false);
    owner.wire.request(request.clone()).await;
    let user = owner.device.user;
    let mut claimer = service.member().await;
    assert_eq!(claimer.claim(user).await.len(), 1);
    assert_eq!(
        owner.wire.request(request).await,
        Answer::KeyPackageCount { left: 0 }
    );
    assert!(claimer.claim(user).await.is_empty());
}

#[tokio::test]
async fn the_owner_hears_when_few_are_left() {
    let service = TestService::start().await;
    let mut owner = service.member().await;
    owner
        .publish_key_packages(limits::KEY_PACKAGES_LOW, false)
        .await;
    service.member().await.claim(owner.device.user).await;
    let left = owner
        .wire
        .until(|frame| match frame {
            ServiceFrame::KeyPackagesLow { left } => Some(*left),
            _ => None,
        })
        .await;
    assert_eq!(left as usize, limits::KEY_PACKAGES_LOW - 1);
}

#[tokio::test]
async fn foreign_and_broken_packages_are_refused() {
    let service = TestService::start().await;
    let mut owner = service.member().await;
    let mut thief = service.member().await;
    let foreign = owner.key_packages(1, false);
    assert_eq!(thief.wire.refused(foreign).await, Refusal::BadIdentity);
    let rubbish = Request::PutKeyPackages {
        one_time: vec![vec![7; 300].into()],
        last_resort: None,
    };
    assert_eq!(thief.wire.refused(rubbish).await, Refusal::BadIdentity);
    // A one-time package in the place of the last resort would be handed out again and again.
    let Request::PutKeyPackages { mut one_time, .. } = owner.key_packages(1, false) else {
        panic!()
    };
    let misplaced = Request::PutKeyPackages {
        one_time: vec![],
        last_resort: one_time.pop(),
    };
    assert_eq!(owner.wire.refused(misplaced).await, Refusal::BadIdentity);
    // And the certificate of somebody else with one's own key.
    let stolen = thief.device.with_foreign_key();
    thief.device = stolen;
    let forged = thief.key_packages(1, false);
    assert_eq!(thief.wire.refused(forged).await, Refusal::BadIdentity);
    assert!(thief.claim(owner.device.user).await.is_empty());
}

#[tokio::test]
async fn stock_is_bounded() {
    let service = TestService::start().await;
    let mut owner = service.member().await;
    let max = limits::KEY_PACKAGES_MAX;
    owner.publish_key_packages(max, false).await;
    let more = owner.key_packages(1, false);
    assert_eq!(
        owner.wire.refused(more).await,
        Refusal::TooLarge { max: max as u64 }
    );
    let user = conclave_proto::UserId([9; 32]);
    let unknown = Request::ClaimKeyPackages {
        user,
        devices: vec![],
    };
    assert_eq!(owner.wire.refused(unknown).await, Refusal::UnknownUser);
}

#[tokio::test]
async fn a_device_that_lost_its_private_halves_takes_all_its_packages_back() {
    let service = TestService::start().await;
    let mut owner = service.member().await;
    owner.publish_key_packages(3, true).await;
    let mut other = service.member().await;
    other.publish_key_packages(1, false).await;
    let answer = owner.wire.request(Request::ClearKeyPackages).await;
    assert_eq!(answer, Answer::KeyPackageCount { left: 0 });
    assert_eq!(other.claim(owner.device.user).await, Vec::<Vec<u8>>::new());
    // Nobody else's are gone, and new ones are taken.
    assert_eq!(owner.claim(other.device.user).await.len(), 1);
    owner.publish_key_packages(1, false).await;
    assert_eq!(other.claim(owner.device.user).await.len(), 1);
}
