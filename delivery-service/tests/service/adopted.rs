//! A service that was set up anew takes its groups from their members.

use conclave_ds::Recovery;
use conclave_mls::Plan;
use conclave_proto::frame::{Answer, Request, Returned};
use conclave_proto::record::EntryBody;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{GroupId, GroupPolicy, Hash, Refusal};

use crate::harness::{Member, TestService};
use crate::recovery::{records, write};
use crate::scenes::ONE;
use crate::storage::sabotage;

/// What a member's own service offers to who comes back is what another service takes.
async fn brought(alice: &mut Member) -> Request {
    let group = alice.group_id();
    let answer = alice.wire.request(Request::GetGroupInfo { group }).await;
    let Answer::GroupInfo {
        group_info,
        tree,
        state,
        ..
    } = answer
    else {
        panic!("no GroupInfo: {answer:?}");
    };
    Request::AdoptGroup {
        group,
        group_info,
        tree,
        state,
        pending: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_at_a_service_that_was_set_up_anew() {
    let old = TestService::start().await;
    let (mut alice, mut bob, (document, _)) = old.pair_with_document().await;
    let mut carol = old.member().await;
    alice.invite(&mut carol).await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    write(&mut alice, &mut pen, 2).await.unwrap();
    let remove = vec![carol.device.id];
    alice
        .commit(&Plan {
            remove,
            ..Plan::default()
        })
        .await;
    let epoch = alice.group().epoch();
    bob.catch_up(epoch).await;
    let group = alice.group_id();
    let base = alice.group().state().size();
    let items = records(&mut alice, document, 0).await;
    let request = brought(&mut alice).await;
    drop(old);

    let mut new = TestService::start().await;
    for member in [&mut alice, &mut bob, &mut carol] {
        member.reconnect(&new).await;
    }
    let subscribe = Request::SubscribeGroup { group, from: base };
    let unknown = alice.wire.refused(subscribe.clone()).await;
    assert_eq!(unknown, Refusal::UnknownGroup);
    // Nobody brings it who is no member, and none of it in another's name.
    let mut dora = new.member().await;
    let why = ForbiddenWhy::NotMember;
    let refused = dora.wire.refused(request.clone()).await;
    assert_eq!(refused, Refusal::Forbidden { why });
    assert!(matches!(
        bob.wire.refused(request.clone()).await,
        Refusal::BadCommit { .. }
    ));
    let unknown = alice.wire.refused(subscribe.clone()).await;
    assert_eq!(unknown, Refusal::UnknownGroup);
    for _ in 0..2 {
        assert_eq!(alice.wire.request(request.clone()).await, Answer::Done);
    }
    let refused = bob.wire.refused(request.clone()).await;
    assert_eq!(refused, Refusal::AlreadyExists);
    // Who was removed before hears that, and nothing else.
    let why = ForbiddenWhy::Tombstoned;
    let gone = Request::SubscribeGroup { group, from: 0 };
    let gone = carol.wire.refused(gone).await;
    assert_eq!(gone, Refusal::Forbidden { why });

    // Who follows from before hears of what is here.
    let head = alice.group().state().head();
    assert_eq!(alice.follow(base).await, head);
    assert_eq!(bob.follow(1).await, head);
    let record = Hash([1; 32]);
    let entry = alice.entry(EntryBody::RecordVoided { document, record });
    let put = Request::PutEntry { entry };
    // Whoever is further on has ten minutes to bring that first, unless the operator knows better.
    let (have, want) = (base, base);
    let refused = alice.wire.refused(put.clone()).await;
    assert_eq!(refused, Refusal::Recovering { have, want });
    let recovery = Recovery::of(new.dir.path());
    assert_eq!(recovery.accept_loss(None).await.unwrap(), Some(vec![]));
    assert_eq!(recovery.accept_loss(None).await.unwrap(), None);
    let answer = alice.wire.request(put).await;
    assert!(matches!(answer, Answer::Accepted { seq, .. } if seq == base));
    alice.process_next().await;
    bob.process_next().await;
    // The document comes after it, then the group goes on after a restart.
    let items = items.into_iter().map(Returned::Record).collect();
    let of_document = Request::ReturnDocument {
        group,
        document,
        base: None,
        from: 0,
        items,
    };
    let answer = bob.wire.request(of_document).await;
    assert!(matches!(answer, Answer::Accepted { head, .. } if head.size == 3));
    new.restart().await;
    for member in [&mut alice, &mut bob, &mut dora] {
        member.reconnect(&new).await;
    }
    alice.follow(base + 1).await;
    alice.invite(&mut dora).await;
    assert_eq!(dora.group().state(), alice.group().state());
    bob.follow(0).await;
    let (first, entries) = bob.next_entries().await;
    assert_eq!((first, entries.len()), (base, 2));
    bob.group.as_mut().unwrap().process(&entries[1]).unwrap();
    assert_eq!(bob.group().state(), alice.group().state());
    let (opened, mut pen) = dora.open(document, ONE, None).await;
    assert_eq!(opened.head().size, 3);
    write(&mut dora, &mut pen, 1).await.unwrap();
    // Whoever comes back is offered all of it.
    let Request::AdoptGroup { state, .. } = brought(&mut bob).await else {
        panic!("not brought");
    };
    assert_eq!(state.entries.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_group_is_refused_and_leaves_nothing() {
    let old = TestService::start().await;
    let (mut alice, _bob, _) = old.pair_with_document().await;
    let group = alice.group_id();
    let good = brought(&mut alice).await;
    drop(old);
    let new = TestService::start().await;
    alice.reconnect(&new).await;
    let with = |change: &dyn Fn(&mut Request)| {
        let mut other = good.clone();
        change(&mut other);
        other
    };
    let cases = [
        with(&|it| {
            let Request::AdoptGroup { group_info, .. } = it else {
                panic!("not brought")
            };
            *group_info = Vec::new().into();
        }),
        with(&|it| {
            let Request::AdoptGroup { tree, .. } = it else {
                panic!("not brought")
            };
            *tree = vec![1; 99].into();
        }),
        with(&|it| {
            let Request::AdoptGroup { state, .. } = it else {
                panic!("not brought")
            };
            state.entries.clear();
        }),
        with(&|it| {
            let Request::AdoptGroup { group, .. } = it else {
                panic!("not brought")
            };
            *group = GroupId([9; 16]);
        }),
        with(&|it| {
            let Request::AdoptGroup { pending, .. } = it else {
                panic!("not brought")
            };
            pending.push(vec![1].into());
        }),
    ];
    for case in cases {
        let refused = alice.wire.refused(case).await;
        let expected = matches!(
            refused,
            Refusal::BadCommit { .. } | Refusal::ProposalPending
        );
        assert!(expected, "{refused:?}");
        let subscribe = Request::SubscribeGroup { group, from: 0 };
        let refused = alice.wire.refused(subscribe).await;
        assert_eq!(refused, Refusal::UnknownGroup);
    }
    assert_eq!(alice.wire.request(good).await, Answer::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_a_disk_changed_is_noticed() {
    for statement in [
        "UPDATE bases SET roots = CAST(substr(roots, 1, length(roots) - 1) || iif(substr(roots, -1) = X'00', X'01', X'00') AS BLOB)",
        "UPDATE bases SET entries = CAST(substr(entries, 1, length(entries) - 1) || iif(substr(entries, -1) = X'00', X'01', X'00') AS BLOB)",
        "DELETE FROM bases",
    ] {
        let old = TestService::start().await;
        let (mut alice, _bob, _) = old.pair_with_document().await;
        let group = alice.group_id();
        let request = brought(&mut alice).await;
        drop(old);
        let new = TestService::start().await;
        alice.reconnect(&new).await;
        assert_eq!(alice.wire.request(request).await, Answer::Done);
        sabotage(&new, statement).await;
        let subscribe = Request::SubscribeGroup { group, from: 0 };
        let refused = alice.wire.refused(subscribe).await;
        assert_eq!(refused, Refusal::Storage, "{statement}");
    }
}

/// A stranger was first with the id. The operator removes what it founded, also beside the running service; everybody is sent away to look again, and a member
/// brings the right group.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_a_stranger_took_is_freed_by_the_operator() {
    let old = TestService::start().await;
    let (mut alice, mut bob) = old.pair().await;
    let group = alice.group_id();
    let base = alice.group().state().size();
    let request = brought(&mut alice).await;
    drop(old);

    let new = TestService::start().await;
    let mut dora = new.member().await;
    dora.create_group_of(group, GroupPolicy::default()).await;
    for member in [&mut alice, &mut bob] {
        member.reconnect(&new).await;
    }
    let refused = alice.wire.refused(request.clone()).await;
    assert_eq!(refused, Refusal::AlreadyExists);
    let recovery = Recovery::of(new.dir.path());
    let kept = recovery.drop_group(group, false).await.unwrap_err();
    assert_eq!(kept.code(), "group.founded_here");
    let refused = alice.wire.refused(request.clone()).await;
    assert_eq!(refused, Refusal::AlreadyExists);
    let removed = recovery.drop_group(group, true).await.unwrap();
    assert!(!removed.brought);
    assert_eq!((removed.members, removed.entries), (1, 1));
    for member in [&mut alice, &mut bob, &mut dora] {
        member.wire.ended().await;
        member.reconnect(&new).await;
    }
    let subscribe = Request::SubscribeGroup { group, from: 0 };
    let gone = dora.wire.refused(subscribe.clone()).await;
    assert_eq!(gone, Refusal::UnknownGroup);
    assert_eq!(alice.wire.request(request).await, Answer::Done);
    let head = alice.group().state().head();
    assert_eq!(alice.follow(base).await, head);
    assert_eq!(bob.follow(base).await, head);
    assert_eq!(dora.wire.refused(subscribe).await, Refusal::UnknownGroup);
    let brought = recovery.group(group).await.unwrap();
    assert!(brought.brought && brought.members == 2, "{brought}");
    let none = recovery.drop_group(GroupId([9; 16]), true).await;
    assert_eq!(none.unwrap_err().code(), "group.unknown");
}
