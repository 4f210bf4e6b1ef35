//! Rate limits and pacing, which the other tests switch off.

use conclave_ds::{Bucket, RateLimits};
use conclave_mls::Plan;
use conclave_proto::frame::{Answer, Request};
use conclave_proto::record::EntryBody;
use conclave_proto::{GroupPolicy, Hash, Refusal, Role, UserId};

use crate::external::rejoin;
use crate::forge::offer;
use crate::harness::{Member, Person, TestService};
use crate::scenes::{ONE, RENEWAL};

/// Refills so slowly that nothing comes back during a test.
const SLOWLY: u64 = 1;

async fn service(change: fn(&mut RateLimits)) -> TestService {
    TestService::with(move |config| {
        let mut limits = RateLimits::default();
        change(&mut limits);
        config.rate_limits = Some(limits);
    })
    .await
}

#[tokio::test]
async fn requests_are_limited_by_device() {
    let service = service(|limits| limits.requests = Bucket::new(3, SLOWLY)).await;
    let mut alice = service.member().await;
    let mut bob = service.member().await;
    let user = alice.device.user;
    let ask = Request::GetDeviceList { user };
    for _ in 0..3 {
        assert_eq!(alice.wire.refused(ask.clone()).await, Refusal::UnknownUser);
    }
    let limited = alice.wire.refused(ask.clone()).await;
    assert!(matches!(limited, Refusal::RateLimited { retry_after_ms } if retry_after_ms > 0));
    // Coming back does not help, and others are not concerned.
    alice.reconnect(&service).await;
    let limited = alice.wire.refused(ask.clone()).await;
    assert!(matches!(limited, Refusal::RateLimited { .. }));
    assert_eq!(bob.wire.refused(ask).await, Refusal::UnknownUser);
}

#[tokio::test]
async fn records_are_limited_and_the_chain_survives_it() {
    let service = service(|limits| limits.records = Bucket::new(5, SLOWLY)).await;
    let (mut alice, (document, _)) = service.alone().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let frames = [pen.updates(4), pen.updates(4), pen.updates(1)];
    for frame in &frames {
        alice.wire.send(frame).await;
    }
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((4, 1)));
    let limited = alice.wire.appended(pen.channel).await;
    assert!(matches!(limited, Err(Refusal::RateLimited { .. })));
    let after = alice.wire.appended(pen.channel).await;
    assert_eq!(after, Err(Refusal::ClockGap { expected: 4 }));
}

#[tokio::test]
async fn renewals_are_paced_and_nothing_else_is() {
    let service = service(|limits| limits.self_updates = Bucket::new(1, SLOWLY)).await;
    let mut alice = service.member().await;
    alice.create_group(GroupPolicy::default()).await;
    alice.commit(&RENEWAL).await;
    let prepared = alice.prepare(&RENEWAL);
    let paced = alice.send_commit(prepared.bundle.clone()).await;
    assert!(
        matches!(paced, Answer::Refused(Refusal::RateLimited { .. })),
        "{paced:?}"
    );
    alice.group.as_mut().unwrap().discard_pending().unwrap();
    let mut bob = service.member().await;
    alice.invite(&mut bob).await;
    let remove = vec![bob.device.id];
    alice
        .commit(&Plan {
            remove,
            ..Plan::default()
        })
        .await;
}

/// Two admins of one group; one made it.
async fn admins(service: &TestService) -> (Member, Member) {
    let mut alice = service.member().await;
    let person = Person::new();
    let mut policy = GroupPolicy::default();
    policy.set_role(person.user(), Role::Admin);
    alice.create_group(policy).await;
    let mut mallory = service.member_of(&person, 0).await;
    alice.invite(&mut mallory).await;
    (alice, mallory)
}

/// Commits plans until one is refused, or there were ten; gives how many were ordered.
async fn until_refused(member: &mut Member, mut plan: impl FnMut(&Member) -> Plan) -> u64 {
    let mut ordered = 0;
    while ordered < 10 {
        let plan = plan(member);
        let bundle = member.prepare(&plan).bundle;
        match member.send_commit(bundle).await {
            Answer::Accepted { .. } => {
                let epoch = member.group().epoch();
                member.catch_up(epoch + 1).await;
                ordered += 1;
            }
            Answer::Refused(Refusal::RateLimited { .. }) => {
                member.group.as_mut().unwrap().discard_pending().unwrap();
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    ordered
}

#[tokio::test]
async fn who_renews_without_end_keeps_nobody_else_from_it() {
    let service = service(|limits| {
        limits.self_updates = Bucket::new(3, SLOWLY);
        limits.group_self_updates = Bucket::new(5, SLOWLY);
    })
    .await;
    let (mut alice, mut mallory) = admins(&service).await;
    for _ in 0..2 {
        assert!(until_refused(&mut mallory, |_| RENEWAL).await <= 3);
    }
    let epoch = mallory.group().epoch();
    alice.catch_up(epoch).await;
    // What was refused has not counted for all.
    assert_eq!(until_refused(&mut alice, |_| RENEWAL).await, 2);
}

#[tokio::test]
async fn who_turns_over_roles_without_end_is_refused_and_can_be_removed() {
    let service = service(|limits| limits.policies = Bucket::new(4, SLOWLY)).await;
    let (mut alice, mut mallory) = admins(&service).await;
    let turned = |member: &Member| {
        let mut policy = member.group().state().policy.clone();
        policy.default_role = match policy.default_role {
            Role::Viewer => Role::Editor,
            _ => Role::Viewer,
        };
        Plan {
            policy: Some(policy),
            ..Plan::default()
        }
    };
    assert_eq!(until_refused(&mut mallory, turned).await, 4);
    let epoch = mallory.group().epoch();
    alice.catch_up(epoch).await;
    assert_eq!(until_refused(&mut alice, turned).await, 4);
    let mut policy = alice.group().state().policy.clone();
    policy
        .roles
        .retain(|entry| entry.user != mallory.device.user);
    alice
        .commit(&Plan {
            remove: vec![mallory.device.id],
            policy: Some(policy),
            ..Plan::default()
        })
        .await;
}

/// Sends an honest external commit of a device, for the current epoch.
async fn come_back(member: &mut Member) -> Answer {
    let offer = offer(member).await;
    let (_, prepared) = rejoin(member, &offer);
    member.send_commit(prepared.bundle).await
}

/// Alice, and the devices of one user, all in one group.
async fn crowd(service: &TestService, count: usize) -> (Member, Vec<Member>) {
    let mut alice = service.member().await;
    alice.create_group(GroupPolicy::default()).await;
    let mut person = Person::new();
    for _ in 1..count {
        person.add_device();
    }
    let mut devices = Vec::new();
    for at in 0..count {
        let mut device = service.member_of(&person, at).await;
        device.publish_key_packages(1, false).await;
        devices.push(device);
    }
    let add = alice.claim(person.user()).await;
    assert_eq!(add.len(), count);
    alice
        .commit(&Plan {
            add,
            ..Plan::default()
        })
        .await;
    for device in &mut devices {
        device.join().await;
    }
    (alice, devices)
}

#[tokio::test]
async fn a_whole_group_comes_back_at_once() {
    // The bucket of renewals is empty, and the one for returns is that of every service.
    let service = service(|limits| limits.self_updates = Bucket::new(1, SLOWLY)).await;
    let (mut alice, mut devices) = crowd(&service, 31).await;
    alice.commit(&RENEWAL).await;
    for device in &mut devices {
        let answer = come_back(device).await;
        assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
    }
    let answer = come_back(&mut alice).await;
    assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
}

#[tokio::test]
async fn who_comes_back_again_and_again_is_refused() {
    let service = service(|limits| limits.returns = Bucket::new(3, SLOWLY)).await;
    let (mut alice, mut devices) = crowd(&service, 2).await;
    for _ in 0..3 {
        let answer = come_back(&mut devices[0]).await;
        assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
    }
    let again = come_back(&mut devices[0]).await;
    assert!(
        matches!(again, Answer::Refused(Refusal::RateLimited { retry_after_ms }) if retry_after_ms > 0),
        "{again:?}"
    );
    // Neither another device of its user, nor other members, nor what they commit, nor itself in another group wait for that.
    for other in [&mut devices[1], &mut alice] {
        let answer = come_back(other).await;
        assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
    }
    devices[0].create_group(GroupPolicy::default()).await;
    let answer = come_back(&mut devices[0]).await;
    assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
}

#[tokio::test]
async fn claims_are_limited() {
    let service = service(|limits| limits.claims = Bucket::new(1, SLOWLY)).await;
    let mut alice = service.member().await;
    alice.publish_key_packages(3, false).await;
    let mut mallory = service.member().await;
    let user = alice.device.user;
    assert_eq!(mallory.claim(user).await.len(), 1);
    let again = mallory
        .wire
        .refused(Request::ClaimKeyPackages {
            user,
            devices: vec![],
        })
        .await;
    assert!(matches!(again, Refusal::RateLimited { .. }));
}

#[tokio::test]
async fn who_adds_and_removes_somebody_without_end_is_refused() {
    let service = service(|limits| limits.other_adds = Bucket::per_hour(2, SLOWLY)).await;
    let (mut alice, mut mallory) = admins(&service).await;
    let mut victim = service.member().await;
    victim.publish_key_packages(0, true).await;
    let in_and_out = |package: Vec<u8>| {
        let device = victim.device.id;
        move |member: &Member| match member.group().state().is_member(&device) {
            true => Plan {
                remove: vec![device],
                ..Plan::default()
            },
            false => Plan {
                add: vec![package.clone()],
                ..Plan::default()
            },
        }
    };
    let package = mallory.claim(victim.device.user).await.remove(0);
    // In and out, twice.
    let plans = in_and_out(package.clone());
    assert_eq!(until_refused(&mut mallory, plans).await, 4);
    // Whom else it adds, and who else adds that one, is not held up.
    let mut bob = service.member().await;
    mallory.invite(&mut bob).await;
    let epoch = mallory.group().epoch();
    alice.catch_up(epoch).await;
    assert_eq!(until_refused(&mut alice, in_and_out(package)).await, 4);
}

#[tokio::test]
async fn records_are_declared_void_at_a_pace() {
    let service = service(|limits| limits.voids = Bucket::per_hour(3, SLOWLY)).await;
    let (mut alice, mallory) = admins(&service).await;
    let document = mallory.group().state().directory();
    let void = |member: &Member, number| {
        let record = Hash([number; 32]);
        let body = EntryBody::RecordVoided { document, record };
        let entry = member.entry(body);
        Request::PutEntry { entry }
    };
    let mut mallory = mallory;
    for number in 1..=3 {
        let answer = mallory.wire.request(void(&mallory, number)).await;
        assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
        // What is refused, or is there already, uses nothing up.
        let again = mallory.wire.request(void(&mallory, number)).await;
        assert_eq!(again, answer);
    }
    let paced = mallory.wire.refused(void(&mallory, 4)).await;
    assert!(matches!(paced, Refusal::RateLimited { .. }), "{paced:?}");
    // Others are not concerned.
    let answer = alice.wire.request(void(&alice, 4)).await;
    assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
}

/// Claims so often; gives how many of the packages were of last resort.
async fn last_resorts(claimer: &mut Member, of: UserId, times: usize) -> usize {
    let mut found = 0;
    for _ in 0..times {
        let claim = Request::ClaimKeyPackages {
            user: of,
            devices: vec![],
        };
        let Answer::KeyPackages { packages } = claimer.wire.request(claim).await else {
            panic!()
        };
        assert_eq!(packages.len(), 1);
        found += usize::from(packages[0].last_resort);
    }
    found
}

#[tokio::test]
async fn nobody_uses_up_the_one_time_packages_of_another() {
    let service = service(|limits| {
        limits.claims_of_user = Bucket::per_hour(3, SLOWLY);
        limits.claims_from_user = Bucket::per_hour(5, SLOWLY);
    })
    .await;
    let mut alice = service.member().await;
    alice.publish_key_packages(20, true).await;
    let user = alice.device.user;
    let mut mallory = service.member().await;
    assert_eq!(last_resorts(&mut mallory, user, 8).await, 5);
    // Others get theirs, as long as all of them together do not take too many.
    let mut bob = service.member().await;
    assert_eq!(last_resorts(&mut bob, user, 2).await, 0);
    let mut cleo = service.member().await;
    assert_eq!(last_resorts(&mut cleo, user, 2).await, 2);
    // The user itself goes by none of that: of twenty five are gone.
    assert_eq!(last_resorts(&mut alice, user, 16).await, 1);
}
