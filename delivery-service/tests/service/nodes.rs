//! A database that somebody else writes to as well: what a service has in memory decides nothing that is not so any more.

use conclave_ds::Durability;
use conclave_ds::sqlite::{Place, Reads, Store};
use conclave_mls::{Plan, PublicGroupState};
use conclave_order::limits::Limits;
use conclave_order::op::append::{Append, Arrived, View, judge};
use conclave_order::op::entry::NewEntry;
use conclave_order::query::group::Core;
use conclave_order::{Batch, Event, Op, Reader, Rows, Stop, query, run_batch};
use conclave_proto::frame::{ClientFrame, DeliveredRecord, Request};
use conclave_proto::group::CommitBundle;
use conclave_proto::{Author, DeviceId, GroupId, Hash, Refusal};
use conclave_rules::LogId;

use crate::harness::{TestService, now};
use crate::scenes::{ONE, RENEWAL};

fn place(service: &TestService) -> Place {
    Place {
        directory: service.dir.path().to_owned(),
        durability: Durability::Full,
        max_bytes: None,
    }
}

/// Runs an operation at another node.
async fn run_elsewhere(service: &TestService, op: Op) -> Event {
    let batch = Batch::new(
        vec![op],
        Limits {
            tail_records: 1000,
            ..Limits::OWN
        },
    );
    let mut store = Store::open(place(service)).await.unwrap();
    let mut events = Vec::new();
    for ended in run_batch(&mut store, batch, &()).await {
        let end = ended.end();
        events.extend(ended.batch.finish(end));
    }
    events.pop().unwrap()
}

/// A group's state as another node reads it, with its version.
async fn read_elsewhere(service: &TestService, group: GroupId) -> (PublicGroupState, u64) {
    let reads = Reads::open(&place(service)).await.unwrap();
    let mut reads = reads.acquire().await.unwrap();
    let core = query::group::restore(&mut reads, group, usize::MAX).await;
    let Core { state, version } = core.unwrap().unwrap();
    (state, version)
}

/// Orders a commit at another node.
async fn commit_elsewhere(service: &TestService, bundle: &CommitBundle, device: DeviceId) {
    let (mut core, version) = read_elsewhere(service, bundle.group).await;
    let judged = core.judge_bundle(bundle, device, now()).unwrap();
    let new = NewEntry::of_commit(&mut core, version, judged, device).unwrap();
    let event = run_elsewhere(service, Op::Enter(Box::new(new))).await;
    assert!(matches!(event, Event::Ordered { .. }), "{event:?}");
}

/// Takes the first frame of an author at another node, where the log has so many records.
async fn append_elsewhere(
    service: &TestService,
    log: LogId,
    author: Author,
    size: u64,
    frame: ClientFrame,
) {
    let ClientFrame::Append { epoch, records, .. } = frame else {
        panic!("{frame:?}")
    };
    let (core, _) = read_elsewhere(service, log.group).await;
    let arrived = Arrived {
        epoch: epoch.0,
        first_clock: 0,
        records: records.0,
    };
    let mut rows = Rows::default();
    let offer = loop {
        let judged = judge(
            &arrived,
            &View {
                authority: core.state(),
                log,
                author,
                chain: (0, Hash::ZERO),
                named: None,
                size,
                base: 0,
                covered: 0,
                roots: &|_| None,
                rows: &rows,
                singly: true,
            },
        );
        match judged {
            Ok(offer) => break offer,
            Err(Stop::Lacks(keys)) => {
                let reads = Reads::open(&place(service)).await.unwrap();
                let mut reads = reads.acquire().await.unwrap();
                rows.extend(reads.load(&keys).await.unwrap());
            }
            Err(stop) => panic!("{stop:?}"),
        }
    };
    let op = Op::Append(Append {
        log,
        author,
        first_clock: 0,
        offer,
    });
    let event = run_elsewhere(service, op).await;
    assert!(matches!(event, Event::Records(_)), "{event:?}");
}

#[tokio::test]
async fn stale_view_neither_accepts_nor_refuses() {
    let service = TestService::start().await;
    let (mut alice, mut bob, (document, _)) = service.pair_with_document().await;
    let group = alice.group_id();
    let (_, mut alices) = alice.open(document, ONE, None).await;
    let (_, mut bobs) = bob.open(document, ONE, None).await;

    // What is sealed for an epoch that began elsewhere is taken, and what is sealed for the one before is not.
    let prepared = alice.prepare(&RENEWAL);
    commit_elsewhere(&service, &prepared.bundle, alice.device.id).await;
    alices.epoch = 2;
    let frame = alices.updates(1);
    alice.wire.send(&frame).await;
    alice.wire.appended(alices.channel).await.unwrap();
    let late = bobs.updates(1);
    bob.wire.send(&late).await;
    let refused = bob.wire.appended(bobs.channel).await;
    assert_eq!(refused, Err(Refusal::StaleEpoch { current: 2 }));
    // Whoever follows the log is told, without a gap.
    alice.catch_up(2).await;
    bob.catch_up(2).await;

    // Who was removed elsewhere writes nothing more, and sees nothing more.
    let prepared = alice.prepare(&Plan {
        remove: vec![bob.device.id],
        ..Plan::default()
    });
    commit_elsewhere(&service, &prepared.bundle, alice.device.id).await;
    bobs.restore((0, Hash::ZERO));
    bobs.epoch = 2;
    let frame = bobs.updates(1);
    bob.wire.send(&frame).await;
    let refused = bob.wire.appended(bobs.channel).await.unwrap_err();
    assert_eq!(refused, Refusal::StaleEpoch { current: 3 });
    let status = bob.wire.refused(Request::GetStatus { group }).await;
    assert_eq!(status, Refusal::UnknownGroup);
    bob.process_next().await;
    alice.catch_up(3).await;
    alices.epoch = 3;
    let frame = alices.updates(1);
    alice.wire.send(&frame).await;
    alice.wire.appended(alices.channel).await.unwrap();
}

#[tokio::test]
async fn records_that_another_node_took_are_told_before_those_that_follow_them() {
    let service = TestService::start().await;
    let (mut alice, mut bob, (document, _)) = service.pair_with_document().await;
    let group = alice.group_id();
    let mut carol = service.member().await;
    alice.invite(&mut carol).await;
    bob.catch_up(2).await;
    let (_, mut pen) = alice.open(document, ONE, Some(1)).await;
    let (opened, _) = bob.open(document, ONE, Some(1)).await;
    let (_, mut carols) = carol.open(document, ONE, Some(1)).await;
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((1, 1)));

    let author = Author {
        device: carol.device.id,
        instance: ONE,
    };
    let log = LogId { group, document };
    append_elsewhere(&service, log, author, 2, carols.updates(3)).await;
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((2, 5)));
    // Carol's are the second author's, and come in their places.
    let told = bob.wire.delivered(opened.channel.0, 5).await;
    let authors = told.iter().map(|(seq, record)| match record {
        DeliveredRecord::Update(record) => (*seq, record.author.0),
        other => panic!("{other:?}"),
    });
    let expected = [(1, 0), (2, 1), (3, 1), (4, 1), (5, 0)];
    assert_eq!(authors.collect::<Vec<_>>(), expected);
    // And all goes on.
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((3, 6)));
    let (opened, _) = alice.open(document, ONE, Some(7)).await;
    assert_eq!((opened.head().size, opened.authors.len()), (7, 2));
}
