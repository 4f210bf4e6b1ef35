//! Members and devices that lie.

use conclave_identity::DeviceKey;
use conclave_mls::{ClientGroup, CommitInputs, DeviceContext, Plan};
use conclave_proto::codec::encode;
use conclave_proto::frame::{Answer, Request};
use conclave_proto::policy::RoleEntry;
use conclave_proto::record::{EntryBody, RECORD_LABEL};
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, RecordFault};
use conclave_proto::{CommitId, DocumentId, GroupId, GroupPolicy, Refusal, Role, UnixMs};

use crate::harness::{Member, Pen, TestService, now, random, rng};
use crate::scenes::{ONE, RENEWAL};

fn fault(fault: CommitFault) -> Answer {
    Answer::Refused(Refusal::BadCommit { fault })
}

#[tokio::test]
async fn commits_that_were_tampered_with_are_refused_and_the_group_goes_on() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    alice.create_group(GroupPolicy::default()).await;
    let mut bob = service.member().await;
    bob.publish_key_packages(1, false).await;
    let add = alice.claim(bob.device.user).await;
    let prepared = alice.prepare(&Plan {
        add,
        ..Plan::default()
    });
    let good = prepared.bundle.clone();

    let mut commit = good.commit.as_slice().to_vec();
    let middle = commit.len() / 2;
    commit[middle] ^= 1;
    let mut bundle = good.clone();
    bundle.commit = commit.into();
    assert!(matches!(
        alice.send_commit(bundle).await,
        Answer::Refused(Refusal::BadCommit { .. })
    ));

    let mut info = good.group_info.as_slice().to_vec();
    *info.last_mut().unwrap() ^= 1;
    let mut bundle = good.clone();
    bundle.group_info = info.into();
    assert_eq!(
        alice.send_commit(bundle).await,
        fault(CommitFault::GroupInfo)
    );

    let mut bundle = good.clone();
    bundle.wrap.statement.roster.0[0] ^= 1;
    assert_eq!(alice.send_commit(bundle).await, fault(CommitFault::Wrap));

    let mut bundle = good.clone();
    bundle.welcome = None;
    assert_eq!(alice.send_commit(bundle).await, fault(CommitFault::Welcome));

    // In another device's name.
    let foreign = bob.send_commit(good.clone()).await;
    assert_eq!(foreign, Answer::Refused(Refusal::UnknownGroup));
    assert!(matches!(
        alice.send_commit(good).await,
        Answer::Accepted { seq: 1, .. }
    ));
}

#[tokio::test]
async fn a_member_cannot_send_another_members_commit() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let prepared = alice.prepare(&RENEWAL);
    let not_yours = Refusal::Forbidden {
        why: ForbiddenWhy::NotYours,
    };
    assert_eq!(
        bob.send_commit(prepared.bundle).await,
        Answer::Refused(not_yours)
    );
}

/// A group of an owner and an editor.
async fn owner_and_editor(service: &TestService) -> (Member, Member) {
    let mut alice = service.member().await;
    let mut bob = service.member().await;
    let mut policy = GroupPolicy::default();
    policy.set_role(bob.device.user, Role::Editor);
    alice.create_group(policy).await;
    alice.invite(&mut bob).await;
    (alice, bob)
}

#[tokio::test]
async fn an_editor_cannot_remove_others() {
    let service = TestService::start().await;
    let (alice, mut bob) = owner_and_editor(&service).await;
    // The honest library refuses to build it.
    let (key, credential) = Member::context(&bob.device);
    let context = DeviceContext {
        key: &key,
        credential: &credential,
    };
    let inputs = CommitInputs {
        now: now(),
        service_time: now(),
        id: CommitId(random()),
        live_roots: &[],
    };
    let plan = Plan {
        remove: vec![alice.device.id],
        ..Plan::default()
    };
    let built = bob
        .group
        .as_mut()
        .unwrap()
        .commit(&context, &plan, inputs, &mut rng());
    assert!(built.is_err());
    // Made as an admin, sent after the role is gone.
    let (mut alice, mut bob) = (alice, bob);
    let mut policy = alice.group().state().policy.clone();
    policy.set_role(bob.device.user, Role::Admin);
    alice
        .commit(&Plan {
            policy: Some(policy.clone()),
            ..Plan::default()
        })
        .await;
    bob.catch_up(2).await;
    let mut carol = service.member().await;
    alice.invite(&mut carol).await;
    bob.catch_up(3).await;
    let removal = bob.prepare(&Plan {
        remove: vec![carol.device.id],
        ..Plan::default()
    });
    policy.set_role(bob.device.user, Role::Editor);
    alice
        .commit(&Plan {
            policy: Some(policy),
            ..Plan::default()
        })
        .await;
    let late = bob.send_commit(removal.bundle).await;
    assert_eq!(late, Answer::Refused(Refusal::EpochTaken { current: 4 }));
    assert!(alice.group().state().is_member(&carol.device.id));
}

/// The group of a patched client: wherever its rows hold the first of a pair, they hold the second instead.
fn patched(member: &mut Member, pairs: &[(Vec<u8>, Vec<u8>)]) {
    let mut group = member.group.take().unwrap();
    let mut found = 0;
    let rows = group
        .take_changes()
        .into_iter()
        .filter_map(|row| {
            let mut value = row.value?;
            for (old, new) in pairs.iter().filter(|_| row.key.starts_with(b"own/")) {
                for at in 0..value.len().saturating_sub(old.len() - 1) {
                    if value[at..].starts_with(old) {
                        value[at..at + old.len()].copy_from_slice(new);
                        found += 1;
                    }
                }
            }
            Some((row.key, value))
        })
        .collect();
    assert!(found >= pairs.len());
    member.group = Some(ClientGroup::load(rows).unwrap());
}

#[tokio::test]
async fn an_editor_that_thinks_itself_an_admin_is_refused() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = owner_and_editor(&service).await;
    let mut carol = service.member().await;
    alice.invite(&mut carol).await;
    bob.catch_up(2).await;
    let row = bob
        .group()
        .state()
        .roster
        .current_row(&bob.device.id)
        .unwrap()
        .clone();
    let promoted = conclave_rules::RosterRow {
        role: Role::Admin,
        ..row.clone()
    };
    let listed = RoleEntry {
        user: row.user,
        role: Role::Editor,
    };
    let wished = RoleEntry {
        user: row.user,
        role: Role::Admin,
    };
    let pairs = [
        (encode(&row), encode(&promoted)),
        (encode(&listed), encode(&wished)),
    ];
    patched(&mut bob, &pairs);
    let plan = Plan {
        remove: vec![carol.device.id],
        ..Plan::default()
    };
    let prepared = bob.prepare(&plan);
    assert_eq!(
        bob.send_commit(prepared.bundle).await,
        fault(CommitFault::Role)
    );
    // Nor may it add a stranger.
    bob.group.as_mut().unwrap().discard_pending().unwrap();
    let mut dave = service.member().await;
    dave.publish_key_packages(1, false).await;
    let add = bob.claim(dave.device.user).await;
    let prepared = bob.prepare(&Plan {
        add,
        ..Plan::default()
    });
    assert_eq!(
        bob.send_commit(prepared.bundle).await,
        fault(CommitFault::Role)
    );
    alice.commit(&RENEWAL).await;
}

#[tokio::test]
async fn a_commit_over_another_roster_is_refused() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = owner_and_editor(&service).await;
    let hash = bob.group().state().roster_hash();
    patched(&mut bob, &[(hash.as_bytes().to_vec(), vec![7; 32])]);
    let prepared = bob.prepare(&RENEWAL);
    assert_eq!(
        bob.send_commit(prepared.bundle).await,
        fault(CommitFault::Roster)
    );
    alice.commit(&RENEWAL).await;
}

#[tokio::test]
async fn a_commit_that_has_seen_another_log_is_refused() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = owner_and_editor(&service).await;
    let root = bob.group().state().head().root;
    // The frontier of one entry is its leaf, which is its root: the patched client believes in a log that never was.
    patched(&mut bob, &[(root.as_bytes().to_vec(), vec![7; 32])]);
    let prepared = bob.prepare(&RENEWAL);
    assert_eq!(
        bob.send_commit(prepared.bundle).await,
        fault(CommitFault::SeenHead)
    );
    alice.commit(&RENEWAL).await;
}

#[tokio::test]
async fn times_far_from_the_services_clock_are_refused() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    alice.create_group(GroupPolicy::default()).await;
    let (key, credential) = Member::context(&alice.device);
    let context = DeviceContext {
        key: &key,
        credential: &credential,
    };
    let far = UnixMs(now().0 + 3600 * 1000);
    let inputs = CommitInputs {
        now: far,
        service_time: far,
        id: CommitId(random()),
        live_roots: &[],
    };
    let prepared = alice
        .group
        .as_mut()
        .unwrap()
        .commit(&context, &RENEWAL, inputs, &mut rng())
        .unwrap();
    assert_eq!(
        alice.send_commit(prepared.bundle).await,
        fault(CommitFault::Time)
    );
    alice.group.as_mut().unwrap().discard_pending().unwrap();
    alice.commit(&RENEWAL).await;
}

#[tokio::test]
async fn records_for_another_document_or_in_another_name_are_refused() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = owner_and_editor(&service).await;
    let (first, _) = alice.create_document().await;
    let (second, _) = alice.create_document().await;
    let (_, mut pen) = alice.open(first, ONE, None).await;
    let signature = Refusal::BadRecord {
        fault: RecordFault::Signature,
    };
    // Signed for the second, sent on the channel of the first.
    let start = pen.mark();
    pen.document = second;
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(
        alice.wire.appended(pen.channel).await,
        Err(signature.clone())
    );
    pen.document = first;
    pen.restore(start);
    // Alice's record, sent by Bob.
    let good = pen.updates(1);
    let (opened, _) = bob.open(first, ONE, None).await;
    let conclave_proto::frame::ClientFrame::Append {
        records,
        epoch,
        first_clock,
        ..
    } = good
    else {
        panic!()
    };
    let channel = opened.channel;
    let stolen = conclave_proto::frame::ClientFrame::Append {
        channel,
        epoch,
        first_clock,
        records,
    };
    bob.wire.send(&stolen).await;
    assert_eq!(bob.wire.appended(channel.0).await, Err(signature));
    // Snapshots and entries name their author.
    let entry = alice.entry(EntryBody::RotationComplete { epoch: 1 });
    let not_yours = Refusal::Forbidden {
        why: ForbiddenWhy::NotYours,
    };
    assert_eq!(
        bob.wire.refused(Request::PutEntry { entry }).await,
        not_yours
    );
    let (_, entry, snapshot) = alice.new_document();
    let create = Request::CreateDocument { entry, snapshot };
    assert_eq!(bob.wire.refused(create).await, not_yours);
}

/// Whoever finds a wrong signature asks for the next 256 records, and names the service where none of them covers.
#[tokio::test]
async fn what_covers_a_record_is_near_it_within_a_frame_too() {
    let service = TestService::start().await;
    let (mut alice, (document, _)) = service.alone().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let mut other = DeviceKey::generate(&mut rng());
    let start = pen.mark();
    let mut frame = |pen: &mut Pen, count: usize, signed: &[usize]| {
        let (first_clock, _) = pen.mark();
        let mut records = Vec::new();
        for at in 1..=count {
            if signed.contains(&at) {
                records.push(pen.record(1));
                continue;
            }
            std::mem::swap(&mut pen.key, &mut other);
            records.push(pen.record(1));
            std::mem::swap(&mut pen.key, &mut other);
        }
        pen.frame(first_clock, records)
    };
    let fault = RecordFault::Signature;
    for (count, signed) in [
        (129, vec![129]),
        (1024, vec![128, 256, 384, 640, 768, 896, 1024]),
    ] {
        alice.wire.send(&frame(&mut pen, count, &signed)).await;
        let answer = alice.wire.appended(pen.channel).await;
        assert_eq!(answer, Err(Refusal::BadRecord { fault }), "{signed:?}");
        pen.restore(start);
    }
    for (count, signed) in [(128, vec![128]), (1024, (1..=8).map(|n| n * 128).collect())] {
        alice.wire.send(&frame(&mut pen, count, &signed)).await;
        alice.wire.appended(pen.channel).await.unwrap();
    }
}

#[tokio::test]
async fn entries_that_were_tampered_with_are_refused() {
    let service = TestService::start().await;
    let (mut alice, _) = owner_and_editor(&service).await;
    let (document, _) = alice.create_document().await;
    let reason = conclave_proto::record::CloseReason::Archived;
    let good = alice.entry(EntryBody::DocumentClosed { document, reason });
    let mut unsigned = good.clone();
    unsigned.sealed.signature[9] ^= 1;
    let mut stale = good.clone();
    stale.header.epoch = 0;
    let mut unseen = good.clone();
    unseen.header.seen.root.0[0] ^= 1;
    unseen.sealed.signature = alice.device.key().sign(RECORD_LABEL, &unseen.core().0);
    let mut elsewhere = good.clone();
    elsewhere.header.group = GroupId(random());
    let bad = |fault| Refusal::BadRecord { fault };
    for (entry, refusal) in [
        (unsigned, bad(RecordFault::Signature)),
        (stale, Refusal::StaleEpoch { current: 1 }),
        (unseen, bad(RecordFault::SeenHead)),
        (elsewhere, Refusal::UnknownGroup),
    ] {
        assert_eq!(
            alice.wire.refused(Request::PutEntry { entry }).await,
            refusal
        );
    }
    let unknown = EntryBody::DocumentClosed {
        document: DocumentId(random()),
        reason,
    };
    let entry = alice.entry(unknown);
    assert_eq!(
        alice.wire.refused(Request::PutEntry { entry }).await,
        Refusal::UnknownDocument
    );
    assert!(matches!(
        alice.wire.request(Request::PutEntry { entry: good }).await,
        Answer::Accepted { .. }
    ));
}

#[tokio::test]
async fn outsiders_find_no_group() {
    let service = TestService::start().await;
    let (alice, (document, entry)) = service.alone().await;
    let group = alice.group_id();
    let mut mallory = service.member().await;
    let open = Request::OpenDocument {
        group,
        document,
        instance: ONE,
        from: None,
    };
    let records = Request::GetRecords {
        group,
        document,
        from: 0,
        count: 10,
    };
    for request in [
        open,
        records,
        Request::PutSnapshot { record: entry },
        Request::GetStatus { group },
        Request::GetWraps { group, epoch: 0 },
        Request::GetGroupInfo { group },
        Request::Propose {
            group,
            message: vec![1].into(),
        },
    ] {
        assert_eq!(mallory.wire.refused(request).await, Refusal::UnknownGroup);
    }
}

#[tokio::test]
async fn a_removed_device_cannot_come_back_by_itself() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = owner_and_editor(&service).await;
    // An external commit, made while it still was a member.
    let offer = bob
        .wire
        .request(Request::GetGroupInfo {
            group: bob.group_id(),
        })
        .await;
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
    let context = DeviceContext {
        key: &key,
        credential: &credential,
    };
    let offer = conclave_mls::RejoinOffer {
        group: bob.group_id(),
        group_info: group_info.as_slice(),
        tree: tree.as_slice(),
        state: &state,
        pending: &pending,
        known: None,
    };
    let inputs = CommitInputs {
        now: now(),
        service_time: now(),
        id: CommitId(random()),
        live_roots: &[],
    };
    let (_, prepared) = ClientGroup::rejoin(&context, &offer, inputs, &mut rng()).unwrap();
    alice
        .commit(&Plan {
            remove: vec![bob.device.id],
            ..Plan::default()
        })
        .await;
    let tombstoned = Refusal::Forbidden {
        why: ForbiddenWhy::Tombstoned,
    };
    assert_eq!(
        bob.send_commit(prepared.bundle).await,
        Answer::Refused(tombstoned)
    );
}
