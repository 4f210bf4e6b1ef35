//! Pleas for help, and in which groups a device is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use conclave_ds::Clock;
use conclave_mls::Plan;
use conclave_proto::frame::{Answer, Plea, Request};
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, GroupId, GroupPolicy, Refusal, UnixMs};

use crate::harness::{Member, Person, TestService, now, rng};
use crate::scenes::RENEWAL;

fn removing(devices: &[DeviceId]) -> Plan {
    Plan {
        remove: devices.to_vec(),
        ..Plan::default()
    }
}

async fn ask(member: &mut Member, group: GroupId, what: Plea) -> Answer {
    member.wire.request(Request::Ask { group, what }).await
}

async fn offer_wrap(member: &mut Member) -> Answer {
    let (key, credential) = Member::context(&member.device);
    let context = conclave_mls::DeviceContext {
        key: &key,
        credential: &credential,
    };
    let secrets = member.group().epoch_secrets().unwrap();
    let wrap = member
        .group()
        .seal_wrap(&context, &secrets, &[], &mut rng())
        .unwrap();
    member.wire.request(Request::PutWrap { wrap }).await
}

async fn put_wrap(member: &mut Member) {
    assert_eq!(offer_wrap(member).await, Answer::Done);
}

/// A service whose time stands still until it is moved on.
async fn service_with_clock() -> (TestService, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(now().0));
    let read = time.clone();
    let service = TestService::with(move |config| {
        let read = read.clone();
        config.clock = Clock::new(move || UnixMs(read.load(Ordering::SeqCst)));
    })
    .await;
    (service, time)
}

#[tokio::test]
async fn a_plea_is_told_at_once_and_with_every_subscription() {
    let (mut service, _) = service_with_clock().await;
    let (mut alice, mut bob) = service.pair().await;
    let group = bob.group_id();
    let plea = vec![(bob.device.id, Plea::Wrap)];
    assert_eq!(ask(&mut bob, group, Plea::Wrap).await, Answer::Done);
    assert_eq!(alice.pleas().await, plea);
    assert!(bob.pleas().await.is_empty(), "nobody is asked by itself");
    // Again, at once, changes nothing.
    assert_eq!(ask(&mut bob, group, Plea::Wrap).await, Answer::Done);
    assert!(alice.pleas().await.is_empty());
    assert_eq!(alice.repeated_pleas().await, plea);
    assert!(bob.repeated_pleas().await.is_empty());
    service.restart().await;
    alice.reconnect(&service).await;
    bob.reconnect(&service).await;
    assert_eq!(ask(&mut bob, group, Plea::Wrap).await, Answer::Done);
    // A connection that does not follow the group hears nothing.
    alice.wire.ping().await;
    assert_eq!(alice.wire.kept().count(), 0);
    assert_eq!(alice.repeated_pleas().await, plea);
}

#[tokio::test]
async fn a_plea_that_is_repeated_is_told_again_after_a_pause() {
    let (service, time) = service_with_clock().await;
    let (mut alice, mut bob) = service.pair().await;
    let group = bob.group_id();
    let wrap = (bob.device.id, Plea::Wrap);
    let readd = (bob.device.id, Plea::ReAdd);
    ask(&mut bob, group, Plea::Wrap).await;
    assert_eq!(alice.pleas().await, [wrap]);
    time.fetch_add(9_999, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(ask(&mut bob, group, Plea::Wrap).await, Answer::Done);
    }
    assert!(alice.pleas().await.is_empty(), "too soon");
    // Another plea does not wait for this one.
    ask(&mut bob, group, Plea::ReAdd).await;
    assert_eq!(alice.pleas().await, [readd]);
    time.fetch_add(1, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(ask(&mut bob, group, Plea::Wrap).await, Answer::Done);
        assert_eq!(ask(&mut bob, group, Plea::ReAdd).await, Answer::Done);
    }
    assert_eq!(alice.pleas().await, [wrap], "once, however often it asks");
    // One that was answered and comes anew does not wait.
    put_wrap(&mut alice).await;
    ask(&mut bob, group, Plea::Wrap).await;
    assert_eq!(alice.pleas().await, [wrap]);
}

#[tokio::test]
async fn one_user_cannot_take_every_place_for_wraps() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let mut crowd = Person::new();
    crowd.add_device();
    crowd.add_device();
    let mut devices = Vec::new();
    for at in 0..3 {
        let mut device = service.member_of(&crowd, at).await;
        device.publish_key_packages(1, false).await;
        devices.push(device);
    }
    let add = alice.claim(crowd.user()).await;
    assert_eq!(add.len(), 3);
    alice
        .commit(&Plan {
            add,
            ..Plan::default()
        })
        .await;
    for device in &mut devices {
        device.join().await;
    }
    bob.catch_up(2).await;
    let max = conclave_ds::limits::WRAPS_PER_USER;
    let full = Answer::Refused(Refusal::TooLarge { max });
    let [first, second, third] = &mut devices[..] else {
        panic!("three devices");
    };
    put_wrap(first).await;
    put_wrap(second).await;
    assert_eq!(offer_wrap(third).await, full);
    // Who has one may put another in its place, and others have their own places.
    put_wrap(first).await;
    put_wrap(&mut bob).await;
    // Of the user who made the commit, that device does not count: its wrap came first.
    third.commit(&RENEWAL).await;
    for device in [first, second] {
        device.catch_up(3).await;
        put_wrap(device).await;
    }
    put_wrap(third).await;
    alice.catch_up(3).await;
    let group = alice.group_id();
    match alice
        .wire
        .request(Request::GetWraps { group, epoch: 3 })
        .await
    {
        Answer::Wraps { wraps } => assert_eq!(wraps.len(), 3),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_plea_for_a_wrap_ends_with_another_members_wrap() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let group = bob.group_id();
    ask(&mut bob, group, Plea::Wrap).await;
    put_wrap(&mut bob).await;
    let plea = vec![(bob.device.id, Plea::Wrap)];
    assert_eq!(alice.repeated_pleas().await, plea, "its own helps nobody");
    put_wrap(&mut alice).await;
    assert!(alice.repeated_pleas().await.is_empty());
}

#[tokio::test]
async fn a_plea_for_a_wrap_ends_with_the_epoch() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let group = bob.group_id();
    ask(&mut bob, group, Plea::Wrap).await;
    alice.commit(&RENEWAL).await;
    assert_eq!(alice.pleas().await, [(bob.device.id, Plea::Wrap)]);
    assert!(alice.repeated_pleas().await.is_empty());
    // In the new epoch it may ask anew.
    assert_eq!(ask(&mut bob, group, Plea::Wrap).await, Answer::Done);
    assert_eq!(alice.pleas().await.len(), 1);
}

#[tokio::test]
async fn a_new_device_of_a_member_asks_until_it_is_added() {
    let service = TestService::start().await;
    let mut person = Person::new();
    person.add_device();
    let mut laptop = service.member_of(&person, 0).await;
    let mut phone = service.member_of(&person, 1).await;
    let group = laptop.create_group(GroupPolicy::default()).await;
    // It is no member: there is nothing to unwrap.
    assert_eq!(
        ask(&mut phone, group, Plea::Wrap).await,
        Answer::Refused(Refusal::Forbidden {
            why: ForbiddenWhy::NotMember
        })
    );
    assert_eq!(ask(&mut phone, group, Plea::ReAdd).await, Answer::Done);
    let plea = [(phone.device.id, Plea::ReAdd)];
    assert_eq!(laptop.pleas().await, plea);
    laptop.commit(&RENEWAL).await;
    assert_eq!(
        laptop.repeated_pleas().await,
        plea,
        "an epoch does not answer it"
    );
    laptop.invite(&mut phone).await;
    assert!(laptop.repeated_pleas().await.is_empty());
}

#[tokio::test]
async fn a_member_that_cannot_come_back_asks_until_it_commits_or_goes() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let group = bob.group_id();
    assert_eq!(ask(&mut bob, group, Plea::ReAdd).await, Answer::Done);
    assert_eq!(alice.pleas().await, [(bob.device.id, Plea::ReAdd)]);
    // Who can commit needs no help.
    bob.commit(&RENEWAL).await;
    alice.catch_up(2).await;
    assert!(alice.repeated_pleas().await.is_empty());
    ask(&mut bob, group, Plea::ReAdd).await;
    alice.commit(&removing(&[bob.device.id])).await;
    alice.pleas().await;
    assert!(alice.repeated_pleas().await.is_empty());
}

#[tokio::test]
async fn who_was_removed_is_not_heard() {
    let service = TestService::start().await;
    let mut person = Person::new();
    person.add_device();
    let mut alice = service.member().await;
    let group = alice.create_group(GroupPolicy::default()).await;
    let mut laptop = service.member_of(&person, 0).await;
    let mut phone = service.member_of(&person, 1).await;
    alice.invite(&mut laptop).await;
    alice.invite(&mut phone).await;
    // The device was removed, its user was not.
    alice.commit(&removing(&[phone.device.id])).await;
    for what in [Plea::Wrap, Plea::ReAdd] {
        assert_eq!(
            ask(&mut phone, group, what).await,
            Answer::Refused(Refusal::Forbidden {
                why: ForbiddenWhy::Tombstoned
            })
        );
    }
    // The user goes: so do the pleas of its other devices, and there is no group for it any more.
    let tablet = person.add_device();
    let mut tablet = Member {
        wire: service.login(&tablet).await,
        device: tablet,
        keys: conclave_mls::KeyStore::load(Vec::new()).unwrap(),
        group: None,
    };
    assert_eq!(ask(&mut tablet, group, Plea::ReAdd).await, Answer::Done);
    assert_eq!(alice.pleas().await.len(), 1);
    alice.commit(&removing(&[laptop.device.id])).await;
    assert!(alice.repeated_pleas().await.is_empty());
    let mut stranger = service.member().await;
    for other in [&mut laptop, &mut phone, &mut tablet, &mut stranger] {
        for what in [Plea::Wrap, Plea::ReAdd] {
            assert_eq!(
                ask(other, group, what).await,
                Answer::Refused(Refusal::UnknownGroup)
            );
        }
    }
    assert!(alice.repeated_pleas().await.is_empty());
    // Nor do they hear of others.
    laptop.pleas().await;
    let mut bob = service.member().await;
    alice.invite(&mut bob).await;
    ask(&mut bob, group, Plea::Wrap).await;
    laptop.follow(0).await;
    assert!(laptop.pleas().await.is_empty());
}

#[tokio::test]
async fn a_revoked_device_asks_nothing_any_more() {
    let service = TestService::start().await;
    let mut person = Person::new();
    let phone = person.add_device().id;
    let mut laptop = service.member_of(&person, 0).await;
    let group = laptop.create_group(GroupPolicy::default()).await;
    let mut other = service.member_of(&person, 1).await;
    ask(&mut other, group, Plea::ReAdd).await;
    assert_eq!(laptop.pleas().await.len(), 1);
    person.revoke(phone);
    let list = person.list.to_bytes().into();
    let answer = laptop.wire.request(Request::PutDeviceList { list }).await;
    assert_eq!(answer, Answer::Done);
    assert!(laptop.repeated_pleas().await.is_empty());
}

#[tokio::test]
async fn one_user_cannot_take_every_place() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let group = alice.group_id();
    let mut crowd = Person::new();
    let mut first = service.member_of(&crowd, 0).await;
    alice.invite(&mut first).await;
    let max = conclave_ds::limits::ASKS_PER_GROUP_AND_USER;
    for at in 1..=max + 1 {
        let device = crowd.add_device();
        let mut wire = service.login(&device).await;
        let what = Plea::ReAdd;
        let answer = wire.request(Request::Ask { group, what }).await;
        if at <= max {
            assert_eq!(answer, Answer::Done);
        } else {
            assert_eq!(answer, Answer::Refused(Refusal::TooLarge { max }));
        }
    }
    bob.catch_up(2).await;
    assert_eq!(ask(&mut bob, group, Plea::Wrap).await, Answer::Done);
    assert_eq!(alice.repeated_pleas().await.len() as u64, max + 1);
}

async fn memberships(member: &mut Member) -> Vec<GroupId> {
    match member.wire.request(Request::GetMemberships).await {
        Answer::Memberships { groups } => groups,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn memberships_are_those_without_a_waiting_welcome() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    assert_eq!(memberships(&mut alice).await, []);
    let group = alice.create_group(GroupPolicy::default()).await;
    assert_eq!(memberships(&mut alice).await, [group]);
    let mut bob = service.member().await;
    bob.publish_key_packages(1, false).await;
    let add = alice.claim(bob.device.user).await;
    alice
        .commit(&Plan {
            add,
            ..Plan::default()
        })
        .await;
    assert_eq!(memberships(&mut bob).await, [], "its Welcome waits");
    bob.join().await;
    assert_eq!(memberships(&mut bob).await, [group]);
    alice.commit(&removing(&[bob.device.id])).await;
    assert_eq!(memberships(&mut bob).await, []);
    assert_eq!(memberships(&mut alice).await, [group]);
}
