//! Group logs: one commit for each epoch, whatever happens.

use conclave_mls::{ClientGroup, DeviceContext, Plan};
use conclave_proto::frame::{Answer, Request, ServiceFrame};
use conclave_proto::group::GroupEntry;
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::refusal::{CommitFault, ForbiddenWhy};
use conclave_proto::service::LogName;
use conclave_proto::{GroupId, GroupPolicy, Refusal, UnixMs};

use crate::harness::{Member, Person, TestService, now, random};
use crate::scenes::RENEWAL;

fn removing(member: &Member) -> Plan {
    Plan {
        remove: vec![member.device.id],
        ..Plan::default()
    }
}

#[tokio::test]
async fn a_group_grows_and_all_follow_its_log() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let mut carol = service.member().await;
    alice.invite(&mut carol).await;
    bob.catch_up(2).await;
    carol.commit(&RENEWAL).await;
    alice.catch_up(3).await;
    bob.catch_up(3).await;
    let heads = [
        alice.group().state().head(),
        bob.group().state().head(),
        carol.group().state().head(),
    ];
    assert!(heads.iter().all(|head| *head == heads[0]));
    assert_eq!(
        alice.group().epoch_authenticator(),
        carol.group().epoch_authenticator()
    );
}

#[tokio::test]
async fn a_group_made_long_ago_begins_when_it_is_offered() {
    const HOUR_MS: u64 = 3600 * 1000;
    let service = TestService::start().await;
    let clocks = [
        UnixMs(now().0 - 6 * 60_000),
        UnixMs(now().0 - HOUR_MS),
        UnixMs(now().0 - 3 * 24 * HOUR_MS),
        UnixMs(now().0 - 20 * 365 * 24 * HOUR_MS),
        now().plus_ms(25 * HOUR_MS),
        now().plus_ms(20 * 365 * 24 * HOUR_MS),
    ];
    for made in clocks {
        let mut alice = service.member().await;
        let (key, credential) = Member::context(&alice.device);
        let context = DeviceContext {
            key: &key,
            credential: &credential,
        };
        let id = GroupId(random());
        let (mut group, created) =
            ClientGroup::create(&context, id, GroupPolicy::default(), made).unwrap();
        let secrets = group.epoch_secrets().unwrap();
        let offer = |founded| Request::CreateGroup {
            group_info: created.group_info.clone().into(),
            tree: created.tree.clone().into(),
            founded,
        };
        let fault = CommitFault::Time;
        let late = alice.wire.refused(offer(made)).await;
        assert_eq!(late, Refusal::BadCommit { fault });
        let founded = now();
        group.found(founded).unwrap();
        assert_eq!(group.epoch_secrets().unwrap(), secrets);
        let taken = alice.wire.request(offer(founded)).await;
        assert!(matches!(taken, Answer::Accepted { .. }), "{taken:?}");
        // The same once more is the same; the group does not begin twice.
        let again = alice.wire.request(offer(founded)).await;
        assert!(matches!(again, Answer::Accepted { .. }), "{again:?}");
        let other = alice.wire.refused(offer(founded.plus_ms(1))).await;
        assert_eq!(other, Refusal::AlreadyExists);
        alice.group = Some(group);
        alice.follow(0).await;
        alice.create_directory().await;
        let mut bob = service.member().await;
        alice.invite(&mut bob).await;
        assert_eq!(
            alice.group().epoch_authenticator(),
            bob.group().epoch_authenticator()
        );
    }
}

#[tokio::test]
async fn the_same_offer_of_a_group_is_accepted_again_and_another_is_not() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    let id = alice.create_group(GroupPolicy::default()).await;
    let info = alice
        .wire
        .request(Request::GetGroupInfo { group: id })
        .await;
    let Answer::GroupInfo {
        group_info,
        tree,
        epoch: 0,
        ..
    } = info
    else {
        panic!("{info:?}")
    };
    let founded = alice.group().state().last_time;
    let offer = Request::CreateGroup {
        group_info: group_info.clone(),
        tree: tree.clone(),
        founded,
    };
    let again = alice.wire.request(offer.clone()).await;
    assert!(matches!(again, Answer::Accepted { .. }));
    let mut mallory = service.member().await;
    let stolen = mallory.wire.refused(offer).await;
    assert_eq!(
        stolen,
        Refusal::Forbidden {
            why: ForbiddenWhy::NotYours
        }
    );
    let rubbish = Request::CreateGroup {
        group_info: vec![1; 99].into(),
        tree: vec![2; 99].into(),
        founded,
    };
    assert!(matches!(
        alice.wire.refused(rubbish).await,
        Refusal::BadCommit { .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_commits_for_an_epoch_exactly_one_is_accepted() {
    const MEMBERS: usize = 8;
    const ROUNDS: u64 = 5;
    let service = TestService::start().await;
    let mut members = vec![service.member().await];
    members[0].create_group(GroupPolicy::default()).await;
    for _ in 1..MEMBERS {
        let mut next = service.member().await;
        members[0].invite(&mut next).await;
        members.push(next);
    }
    let start = members[0].group().epoch();
    for member in &mut members {
        member.catch_up(start).await;
    }
    for round in 1..=ROUNDS {
        let mut tasks = tokio::task::JoinSet::new();
        for mut member in members.drain(..) {
            tasks.spawn(async move {
                let prepared = member.prepare(&RENEWAL);
                let answer = member.send_commit(prepared.bundle).await;
                (member, answer)
            });
        }
        let mut accepted = 0;
        for (mut member, answer) in tasks.join_all().await {
            match answer {
                Answer::Accepted { .. } => accepted += 1,
                Answer::Refused(Refusal::EpochTaken { current }) => {
                    assert_eq!(current, start + round)
                }
                other => panic!("{other:?}"),
            }
            member.catch_up(start + round).await;
            members.push(member);
        }
        assert_eq!(accepted, 1, "in round {round}");
        let head = members[0].group().state().head();
        assert!(
            members
                .iter()
                .all(|member| member.group().state().head() == head)
        );
    }
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_gets_it_again() {
    let mut service = TestService::start().await;
    let mut alice = service.member().await;
    alice.create_group(GroupPolicy::default()).await;
    let prepared = alice.prepare(&RENEWAL);
    let first = alice.send_commit(prepared.bundle.clone()).await;
    assert!(
        matches!(first, Answer::Accepted { seq: 1, .. }),
        "{first:?}"
    );
    // The connection is lost before the answer was read; the service may restart too.
    alice.reconnect(&service).await;
    assert_eq!(alice.send_commit(prepared.bundle.clone()).await, first);
    service.restart().await;
    alice.reconnect(&service).await;
    assert_eq!(alice.send_commit(prepared.bundle.clone()).await, first);
    alice.follow(1).await;
    alice.catch_up(1).await;
    // Nothing of it was done twice.
    alice.commit(&RENEWAL).await;
    assert_eq!(alice.group().state().head().size, 3);
    assert_eq!(alice.send_commit(prepared.bundle).await, first);
}

#[tokio::test]
async fn a_welcome_is_repeated_until_it_is_acknowledged() {
    let mut service = TestService::start().await;
    let mut alice = service.member().await;
    alice.create_group(GroupPolicy::default()).await;
    let mut bob = service.member().await;
    bob.publish_key_packages(1, false).await;
    let add = alice.claim(bob.device.user).await;
    alice
        .commit(&Plan {
            add,
            ..Plan::default()
        })
        .await;
    let first = bob.welcome().await;
    bob.reconnect(&service).await;
    assert_eq!(bob.welcome().await, first);
    service.restart().await;
    alice.reconnect(&service).await;
    bob.reconnect(&service).await;
    // Not somebody else's to acknowledge.
    assert_eq!(
        alice
            .wire
            .request(Request::AckWelcome { id: first.id })
            .await,
        Answer::Done
    );
    bob.reconnect(&service).await;
    bob.join().await;
    bob.reconnect(&service).await;
    bob.wire.ping().await;
    assert!(
        !bob.wire
            .kept()
            .any(|frame| matches!(frame, ServiceFrame::Welcome(_)))
    );
    bob.follow(2).await;
    bob.commit(&RENEWAL).await;
}

#[tokio::test]
async fn a_late_joiner_learns_the_documents_and_finds_its_wrap() {
    let service = TestService::start().await;
    let (mut alice, (document, _)) = service.alone().await;
    let id = alice.group_id();
    let (closed, _) = alice.create_document().await;
    let close = EntryBody::DocumentClosed {
        document: closed,
        reason: CloseReason::Archived,
    };
    let entry = alice.entry(close);
    assert!(matches!(
        alice.wire.request(Request::PutEntry { entry }).await,
        Answer::Accepted { .. }
    ));
    alice.process_next().await;
    let mut bob = service.member().await;
    alice.invite(&mut bob).await;
    let state = bob.group().state();
    assert_eq!(state.documents.size(), 3);
    assert!(state.documents[&document].closed.is_none());
    assert_eq!(state.documents[&closed].closed, Some(CloseReason::Archived));
    let wraps = bob
        .wire
        .request(Request::GetWraps {
            group: id,
            epoch: 1,
        })
        .await;
    let Answer::Wraps { wraps } = wraps else {
        panic!("{wraps:?}")
    };
    assert_eq!(wraps.len(), 1);
    assert_eq!(wraps[0].signer, alice.device.id);
}

#[tokio::test]
async fn who_is_removed_gets_that_commit_and_nothing_after() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let id = alice.group_id();
    alice.commit(&removing(&bob)).await;
    bob.catch_up(2).await;
    assert!(!bob.group().is_active());
    alice.commit(&RENEWAL).await;
    bob.wire.ping().await;
    assert!(
        !bob.wire
            .kept()
            .any(|frame| matches!(frame, ServiceFrame::GroupEntries { .. }))
    );
    let log = LogName {
        group: id,
        document: None,
    };
    assert!(bob.wire.newest_head(log).unwrap().size < 3);
    // Having been away makes no difference.
    bob.reconnect(&service).await;
    let head = bob.follow(0).await;
    // Its head is not the newest: nothing vouches for it.
    assert_eq!(bob.wire.newest_head(log), None);
    assert_eq!(head.size, 3, "the log ends for it with its removal");
    let (first, entries) = bob.next_entries().await;
    assert_eq!((first, entries.len()), (0, 3));
    for request in [
        Request::GetStatus { group: id },
        Request::GetGroupInfo { group: id },
        Request::GetWraps {
            group: id,
            epoch: 2,
        },
    ] {
        assert_eq!(bob.wire.refused(request).await, Refusal::UnknownGroup);
    }
    // Who never was there does not learn that the group exists.
    let mut stranger = service.member().await;
    let follow = Request::SubscribeGroup { group: id, from: 0 };
    assert_eq!(stranger.wire.refused(follow).await, Refusal::UnknownGroup);
    let nothing = Request::SubscribeGroup {
        group: GroupId(random()),
        from: 0,
    };
    assert_eq!(stranger.wire.refused(nothing).await, Refusal::UnknownGroup);
}

#[tokio::test]
async fn leaving_has_to_be_covered_by_the_next_commit() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let id = alice.group_id();
    // Made before the proposal was known: it omits the pending leaf.
    let omitting = alice.prepare(&RENEWAL);
    let (key, credential) = Member::context(&bob.device);
    let context = conclave_mls::DeviceContext {
        key: &key,
        credential: &credential,
    };
    let message = bob
        .group
        .as_mut()
        .unwrap()
        .propose_self_remove(&context)
        .unwrap();
    let propose = Request::Propose {
        group: id,
        message: message.into(),
    };
    let first = bob.wire.request(propose.clone()).await;
    assert!(matches!(first, Answer::Accepted { .. }), "{first:?}");
    assert_eq!(
        bob.wire.request(propose).await,
        first,
        "again gets the same answer"
    );
    assert_eq!(
        alice.send_commit(omitting.bundle).await,
        Answer::Refused(Refusal::ProposalPending)
    );
    alice.group.as_mut().unwrap().discard_pending().unwrap();
    alice.process_next().await;
    alice.commit(&Plan::default()).await;
    assert!(!alice.group().state().is_member(&bob.device.id));
    bob.catch_up(2).await;
    assert!(!bob.group().is_active());
}

#[tokio::test]
async fn the_last_owner_cannot_leave() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    let id = alice.create_group(GroupPolicy::default()).await;
    let rubbish = Request::Propose {
        group: id,
        message: vec![0; 50].into(),
    };
    assert_eq!(
        alice.wire.refused(rubbish).await,
        Refusal::BadCommit {
            fault: CommitFault::Mls
        }
    );
    let (key, credential) = Member::context(&alice.device);
    let context = conclave_mls::DeviceContext {
        key: &key,
        credential: &credential,
    };
    assert!(
        alice
            .group
            .as_mut()
            .unwrap()
            .propose_self_remove(&context)
            .is_err()
    );
}

#[tokio::test]
async fn a_second_device_of_a_user_joins_and_each_follows_alone() {
    let service = TestService::start().await;
    let mut person = Person::new();
    person.add_device();
    let mut laptop = service.member_of(&person, 0).await;
    let mut phone = service.member_of(&person, 1).await;
    laptop.create_group(GroupPolicy::default()).await;
    laptop.invite(&mut phone).await;
    phone.commit(&RENEWAL).await;
    laptop.catch_up(2).await;
    assert_eq!(laptop.group().state().current_rows().count(), 2);
}

#[tokio::test]
async fn members_wrap_for_the_current_epoch_only() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let id = alice.group_id();
    let (key, credential) = Member::context(&bob.device);
    let context = conclave_mls::DeviceContext {
        key: &key,
        credential: &credential,
    };
    let secrets = bob.group().epoch_secrets().unwrap();
    let wrap = bob
        .group()
        .seal_wrap(&context, &secrets, &[], &mut crate::harness::rng())
        .unwrap();
    assert_eq!(
        bob.wire
            .request(Request::PutWrap { wrap: wrap.clone() })
            .await,
        Answer::Done
    );
    let wraps = alice
        .wire
        .request(Request::GetWraps {
            group: id,
            epoch: 1,
        })
        .await;
    assert!(matches!(wraps, Answer::Wraps { wraps } if wraps.len() == 2));
    // In another's name, or changed on the way.
    let forbidden = alice
        .wire
        .refused(Request::PutWrap { wrap: wrap.clone() })
        .await;
    assert_eq!(
        forbidden,
        Refusal::Forbidden {
            why: ForbiddenWhy::NotYours
        }
    );
    let mut forged = wrap.clone();
    forged.statement.nonce[0] ^= 1;
    let refused = bob.wire.refused(Request::PutWrap { wrap: forged }).await;
    assert_eq!(
        refused,
        Refusal::BadCommit {
            fault: CommitFault::Wrap
        }
    );
    alice.commit(&RENEWAL).await;
    let stale = bob.wire.refused(Request::PutWrap { wrap }).await;
    assert_eq!(stale, Refusal::StaleEpoch { current: 2 });
    // Nobody is invited into epoch 1 any more: its wraps are gone.
    let wraps = alice
        .wire
        .request(Request::GetWraps {
            group: id,
            epoch: 1,
        })
        .await;
    assert_eq!(wraps, Answer::Wraps { wraps: vec![] });
}

#[tokio::test]
async fn whoever_subscribes_past_the_end_is_told_how_much_there_is() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    let group = alice.create_group(GroupPolicy::default()).await;
    let ahead = alice
        .wire
        .request(Request::SubscribeGroup { group, from: 7 })
        .await;
    assert!(
        matches!(ahead, Answer::Subscribed { head, .. } if head.size < 7),
        "{ahead:?}"
    );
}

#[tokio::test]
async fn following_from_the_start_brings_every_entry_once() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    let id = alice.create_group(GroupPolicy::default()).await;
    for _ in 0..5 {
        alice.commit(&RENEWAL).await;
        alice.create_document().await;
    }
    let mut again = service.login(&alice.device).await;
    let Answer::Subscribed { head, epoch, .. } = again
        .request(Request::SubscribeGroup { group: id, from: 0 })
        .await
    else {
        panic!()
    };
    assert_eq!((head.size, epoch), (11, 5));
    let mut next = 0;
    while next < 11 {
        let (first, entries) = again
            .until(|frame| match frame {
                ServiceFrame::GroupEntries {
                    first_seq, entries, ..
                } => Some((*first_seq, entries.clone())),
                _ => None,
            })
            .await;
        assert_eq!(first, next);
        for entry in entries {
            let is_commit = matches!(entry, GroupEntry::Commit(_));
            assert_eq!(is_commit, next % 2 == 1);
            next += 1;
        }
    }
}

#[tokio::test]
async fn a_device_that_lost_its_state_comes_back_by_an_external_commit() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let id = alice.group_id();
    alice.create_document().await;
    bob.reconnect(&service).await;
    let offer = bob.wire.request(Request::GetGroupInfo { group: id }).await;
    let Answer::GroupInfo {
        group_info,
        tree,
        state,
        pending,
        ..
    } = offer
    else {
        panic!("{offer:?}")
    };
    let (key, credential) = Member::context(&bob.device);
    let context = conclave_mls::DeviceContext {
        key: &key,
        credential: &credential,
    };
    let offer = conclave_mls::RejoinOffer {
        group: id,
        group_info: group_info.as_slice(),
        tree: tree.as_slice(),
        state: &state,
        pending: &pending,
        known: None,
    };
    let inputs = conclave_mls::CommitInputs {
        now: crate::harness::now(),
        service_time: crate::harness::now(),
        id: conclave_proto::CommitId(random()),
        live_roots: &[],
    };
    let (scratch, prepared) =
        conclave_mls::ClientGroup::rejoin(&context, &offer, inputs, &mut crate::harness::rng())
            .unwrap();
    let size = state.frontier.size();
    bob.group = Some(scratch);
    assert!(matches!(
        bob.send_commit(prepared.bundle).await,
        Answer::Accepted { .. }
    ));
    bob.follow(size).await;
    bob.process_next().await;
    alice.catch_up(2).await;
    assert_eq!(
        alice.group().epoch_authenticator(),
        bob.group().epoch_authenticator()
    );
    let status = alice.wire.request(Request::GetStatus { group: id }).await;
    let Answer::Status(status) = status else {
        panic!("{status:?}")
    };
    assert_eq!(status.rotating_since, 0, "a resync rotates nothing");
}
