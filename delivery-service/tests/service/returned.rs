//! What a service that was put back lost of a group's log, and who brings it back.

use conclave_mls::Plan;
use conclave_proto::frame::{Answer, Request, Returned, ServiceFrame};
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::record::EntryBody;
use conclave_proto::refusal::{ForbiddenWhy, RecordFault};
use conclave_proto::service::LogName;
use conclave_proto::{DocumentId, Head, Record, Refusal};

use crate::harness::{Member, TestService, rng};
use crate::recovery::{DATABASE, records, recovering, report, write};
use crate::scenes::{ONE, RENEWAL};

/// A service, a copy of its database, and a group's log as it went on since.
struct Scene {
    service: TestService,
    alice: Member,
    log: Vec<GroupEntry>,
    /// How much of that the copy has.
    have: u64,
}

impl Scene {
    /// The service is stopped, copied, and runs again; who is given comes back.
    async fn copied(
        mut service: TestService,
        mut alice: Member,
        others: &mut [&mut Member],
    ) -> Self {
        let file = service.dir.path().join(DATABASE);
        service.stop().await;
        std::fs::copy(&file, service.dir.path().join("copy")).unwrap();
        service.restart_stopped().await;
        let have = alice.group().state().size();
        for member in others {
            member.reconnect(&service).await;
            member.follow(have).await;
        }
        alice.reconnect(&service).await;
        alice.follow(0).await;
        let mut scene = Self {
            service,
            alice,
            log: Vec::new(),
            have,
        };
        while scene.log.len() < usize::try_from(have).unwrap() {
            let (_, entries) = scene.alice.next_entries().await;
            scene.log.extend(entries);
        }
        scene
    }

    fn name(&self) -> LogName {
        LogName {
            group: self.alice.group_id(),
            document: None,
        }
    }

    fn want(&self) -> u64 {
        self.log.len() as u64
    }

    /// The next entries of the log, of somebody else or Alice herself.
    async fn goes_on(&mut self) {
        let (first, entries) = self.alice.next_entries().await;
        assert_eq!(first, self.want());
        let group = self.alice.group.as_mut().unwrap();
        for entry in entries {
            group.process(&entry).unwrap();
            self.log.push(entry);
        }
    }

    async fn commit(&mut self, plan: &Plan) -> CommitBundle {
        let prepared = self.alice.prepare(plan);
        let answer = self.alice.send_commit(prepared.bundle.clone()).await;
        assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
        self.goes_on().await;
        prepared.bundle
    }

    /// A document whose first snapshot is told too.
    async fn create(&mut self) -> (DocumentId, Record) {
        let (document, entry, snapshot) = self.alice.new_document();
        let first = snapshot.clone();
        let create = Request::CreateDocument { entry, snapshot };
        let answer = self.alice.wire.request(create).await;
        assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
        self.goes_on().await;
        (document, first)
    }

    /// The copy is put back, and is shown what it had signed.
    async fn put_back(&mut self) {
        self.alice.wire.head_of_size(self.name(), self.want()).await;
        let report = report(&self.alice, self.name());
        // Nothing is held but what it lost.
        let configure = |config: &mut conclave_ds::Config| config.limits.found_hold_ms = 0;
        self.service.configure(configure);
        let file = self.service.dir.path().join(DATABASE);
        self.service.stop().await;
        std::fs::copy(self.service.dir.path().join("copy"), &file).unwrap();
        self.service.restart_stopped().await;
        self.alice.reconnect(&self.service).await;
        self.alice.wire.ask(report).await;
        self.alice.wire.ended().await;
        self.alice.reconnect(&self.service).await;
    }

    /// What was lost, in the hands of a member who knows all of it.
    fn returning(&self, by: &Member) -> Request {
        let (key, credential) = Member::context(&by.device);
        let context = conclave_mls::DeviceContext {
            key: &key,
            credential: &credential,
        };
        let group = by.group();
        let lost = &self.log[usize::try_from(self.have).unwrap()..];
        let commits = lost.iter().any(|it| matches!(it, GroupEntry::Commit(_)));
        let (mut group_info, mut wrap) = (None, None);
        if commits && group.is_active() {
            let secrets = group.epoch_secrets().unwrap();
            group_info = Some(group.export_group_info(&context).unwrap().into());
            wrap = Some(
                group
                    .seal_wrap(&context, &secrets, &[], &mut rng())
                    .unwrap(),
            );
        }
        Request::ReturnGroup {
            group: by.group_id(),
            from: self.have,
            entries: lost.to_vec(),
            group_info,
            wrap,
            bundles: Vec::new(),
        }
    }
}

fn with(
    request: &Request,
    change: impl Fn(&mut Vec<GroupEntry>, &mut Vec<CommitBundle>),
) -> Request {
    let mut request = request.clone();
    if let Request::ReturnGroup {
        entries, bundles, ..
    } = &mut request
    {
        change(entries, bundles);
    }
    request
}

fn accepted(answer: &Answer) -> (u64, Head) {
    match answer {
        Answer::Accepted { seq, head } => (*seq, *head),
        other => panic!("not accepted: {other:?}"),
    }
}

async fn subscribed(member: &mut Member, from: u64) -> u64 {
    member.follow(from).await.size
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_comes_back_with_the_documents_it_made_due() {
    let service = TestService::start().await;
    let (mut alice, mut bob, (old, _)) = service.pair_with_document().await;
    let mut carol = service.member().await;
    alice.invite(&mut carol).await;
    bob.process_next().await;
    let mut scene = Scene::copied(service, alice, &mut [&mut bob, &mut carol]).await;
    let (new, first) = scene.create().await;
    let (_, mut pen) = scene.alice.open(new, ONE, None).await;
    write(&mut scene.alice, &mut pen, 2).await.unwrap();
    let of_new = LogName {
        document: Some(new),
        ..scene.name()
    };
    scene.alice.wire.head_of_size(of_new, 3).await;
    let report_of_new = report(&scene.alice, of_new);
    let mut lost_of_new = vec![first];
    lost_of_new.extend(records(&mut scene.alice, new, 1).await);
    let remove = vec![carol.device.id];
    let plan = Plan {
        remove,
        ..Plan::default()
    };
    scene.commit(&plan).await;
    scene.put_back().await;

    let (have, want, name) = (scene.have, scene.want(), scene.name());
    for member in [&mut bob, &mut carol] {
        member.reconnect(&scene.service).await;
        assert_eq!(subscribed(member, have).await, have);
    }
    let (_, mut carols) = carol.open(old, ONE, None).await;
    // While the group is held, so are its documents; one that it does not know is on its way where a head of it is known.
    let refused = write(&mut carol, &mut carols, 1).await;
    assert_eq!(refused, Err(recovering(1, 1)));
    let open = Request::OpenDocument {
        group: scene.alice.group_id(),
        document: new,
        instance: ONE,
        from: None,
    };
    let unknown = scene.alice.wire.refused(open.clone()).await;
    assert_eq!(unknown, Refusal::UnknownDocument);
    assert_eq!(scene.alice.wire.request(report_of_new).await, Answer::Done);
    let on_its_way = scene.alice.wire.refused(open.clone()).await;
    assert_eq!(on_its_way, recovering(0, 3));

    // Who is removed by it does not bring it.
    let returning = scene.returning(&scene.alice);
    let why = ForbiddenWhy::Tombstoned;
    let refused = carol.wire.refused(returning.clone()).await;
    assert_eq!(refused, Refusal::Forbidden { why });
    let cut = with(&returning, |entries, _| entries.truncate(1));
    assert_eq!(scene.alice.wire.refused(cut).await, recovering(have, want));
    let answer = scene.alice.wire.request(returning.clone()).await;
    let (seq, head) = accepted(&answer);
    assert_eq!((seq, head), (have, scene.alice.group().state().head()));

    // Who follows is told, who is gone up to that.
    let lost = scene.log[usize::try_from(have).unwrap()..].to_vec();
    for member in [&mut bob, &mut carol] {
        let mut told = Vec::new();
        while told.len() < lost.len() {
            let (first, entries) = member.next_entries().await;
            assert_eq!(first, have + told.len() as u64);
            told.extend(entries);
        }
        assert_eq!(told, lost);
    }
    bob.wire.head_of_size(scene.name(), want).await;
    let refused = write(&mut carol, &mut carols, 1).await;
    assert_eq!(refused, Err(Refusal::NoChannel));
    let group = scene.alice.group_id();
    let gone = Request::GetStatus { group };
    assert_eq!(carol.wire.refused(gone).await, Refusal::UnknownGroup);

    // Its document follows, is due then, and is as it was.
    assert_eq!(scene.alice.wire.refused(open).await, recovering(0, 3));
    let items = lost_of_new.iter().cloned().map(Returned::Record).collect();
    let of_new = Request::ReturnDocument {
        group,
        document: new,
        base: None,
        from: 0,
        items,
    };
    // Any member may.
    let lost = scene.log[usize::try_from(have).unwrap()..].to_vec();
    let bobs = bob.group.as_mut().unwrap();
    for entry in &lost {
        bobs.process(entry).unwrap();
    }
    let answer = bob.wire.request(of_new).await;
    assert_eq!(accepted(&answer).1.size, 3);
    assert_eq!(records(&mut scene.alice, new, 0).await, lost_of_new);
    let Answer::Status(status) = scene.alice.wire.request(Request::GetStatus { group }).await
    else {
        panic!("no status");
    };
    let due = status.documents.iter().map(|it| it.due);
    assert_eq!(due.collect::<Vec<_>>(), [1, 1, 1]);
    let (opened, mut pen) = scene.alice.open(new, ONE, Some(3)).await;
    assert_eq!(opened.own_next_clock, 2);
    write(&mut scene.alice, &mut pen, 1).await.unwrap();

    // The log goes on, and once more does nothing.
    let again = scene.alice.wire.refused(returning).await;
    assert_eq!(again, recovering(want, want));
    scene.alice.follow(want).await;
    scene.commit(&RENEWAL).await;
    let (first, _) = bob.next_entries().await;
    assert_eq!(first, want);
    // Who is gone hears nothing of that.
    carol.wire.ping().await;
    let told = |frame: &ServiceFrame| matches!(frame, ServiceFrame::GroupEntries { .. });
    assert!(!carol.wire.kept().any(told));
    let newest = carol.wire.newest_head(name);
    assert!(newest.is_none_or(|head| head.size == have));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_its_welcome_has_it_from_the_committers_bundle() {
    let service = TestService::start().await;
    let (alice, mut bob) = service.pair().await;
    let mut dora = service.member().await;
    dora.publish_key_packages(1, false).await;
    let mut scene = Scene::copied(service, alice, &mut [&mut bob]).await;
    let add = scene.alice.claim(dora.device.user).await;
    let plan = Plan {
        add,
        ..Plan::default()
    };
    let bundle = scene.commit(&plan).await;
    scene.put_back().await;
    dora.reconnect(&scene.service).await;
    let returning = scene.returning(&scene.alice);
    let returning = with(&returning, |_, bundles| bundles.push(bundle.clone()));
    // It is for its committer to bring.
    bob.reconnect(&scene.service).await;
    let why = ForbiddenWhy::NotYours;
    let refused = bob.wire.refused(returning.clone()).await;
    assert_eq!(refused, Refusal::Forbidden { why });
    let answer = scene.alice.wire.request(returning).await;
    assert_eq!(accepted(&answer).0, scene.have);
    dora.join().await;
    assert_eq!(dora.group().state(), scene.alice.group().state());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_came_in_with_what_was_lost_brings_it() {
    let service = TestService::start().await;
    let (alice, mut bob) = service.pair().await;
    let mut dora = service.member().await;
    dora.publish_key_packages(1, false).await;
    let mut scene = Scene::copied(service, alice, &mut [&mut bob]).await;
    dora.reconnect(&scene.service).await;
    let add = scene.alice.claim(dora.device.user).await;
    let plan = Plan {
        add,
        ..Plan::default()
    };
    scene.commit(&plan).await;
    dora.join().await;
    scene.put_back().await;
    dora.reconnect(&scene.service).await;
    let group = dora.group_id();
    let gone = Request::GetStatus { group };
    assert_eq!(dora.wire.refused(gone).await, Refusal::UnknownGroup);
    let returning = scene.returning(&dora);
    let answer = dora.wire.request(returning).await;
    assert_eq!(accepted(&answer).0, scene.have);
    assert_eq!(subscribed(&mut dora, scene.want()).await, scene.want());
    // Nobody brought its Welcome: it needs none.
    let answer = dora.wire.request(Request::GetMemberships).await;
    let groups = vec![group];
    assert_eq!(answer, Answer::Memberships { groups });
}

/// A group that lost two entries, neither a commit.
async fn without_commits() -> Scene {
    let service = TestService::start().await;
    let (alice, (document, _)) = service.alone().await;
    let mut scene = Scene::copied(service, alice, &mut []).await;
    // Signed at one head: either may be first.
    let entries = [1, 2].map(|nonce| {
        let record = conclave_proto::Hash([nonce; 32]);
        let body = EntryBody::RecordVoided { document, record };
        scene.alice.entry(body)
    });
    for entry in entries {
        let answer = scene.alice.wire.request(Request::PutEntry { entry }).await;
        accepted(&answer);
        scene.goes_on().await;
    }
    scene.put_back().await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_in_another_order_store_nothing() {
    let mut scene = without_commits().await;
    let returning = scene.returning(&scene.alice);
    let swapped = with(&returning, |entries, _| entries.swap(0, 1));
    let fault = RecordFault::SeenHead;
    let refused = scene.alice.wire.refused(swapped).await;
    assert_eq!(refused, Refusal::BadRecord { fault });
    let (have, want) = (scene.have, scene.want());
    assert_eq!(subscribed(&mut scene.alice, have).await, have);
    let answer = scene.alice.wire.request(returning).await;
    assert_eq!(accepted(&answer).1.size, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_member_after_it_brings_nothing() {
    let mut scene = without_commits().await;
    let returning = scene.returning(&scene.alice);
    let mut stranger = scene.service.member().await;
    let why = ForbiddenWhy::NotMember;
    let refused = stranger.wire.refused(returning.clone()).await;
    assert_eq!(refused, Refusal::Forbidden { why });
    let answer = scene.alice.wire.request(returning.clone()).await;
    assert_eq!(accepted(&answer).0, scene.have);
    // Nothing is wanted any more: there is no such group for it.
    let refused = stranger.wire.refused(returning).await;
    assert_eq!(refused, Refusal::UnknownGroup);
    // Nor is there one that nobody has.
    let unknown = Request::ReturnGroup {
        group: conclave_proto::GroupId([3; 16]),
        from: 0,
        entries: Vec::new(),
        group_info: None,
        wrap: None,
        bundles: Vec::new(),
    };
    let refused = scene.alice.wire.refused(unknown).await;
    assert_eq!(refused, Refusal::UnknownGroup);
}
