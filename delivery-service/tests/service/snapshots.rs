//! Snapshots at the service: taken only for news, judged by their beginning, and kept for a while after they are replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use conclave_mls::Plan;
use conclave_proto::codec::{Varint, encode};
use conclave_proto::frame::{Answer, ClientFrame, DeliveredRecord, Request, ServiceFrame};
use conclave_proto::merkle::Frontier;
use conclave_proto::record::{Record, RecordBody, RecordHeader, SnapshotHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{DocumentId, GroupPolicy, Hash, InstanceId, Refusal, UnixMs};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Member, Pen, TestService, now, sign};

const MINUTE_MS: u64 = 60 * 1000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
/// Content of the snapshots here: more than one message.
const SNAPSHOT_BYTES: usize = 600_000;

/// One writer and one document, under a clock that stands.
struct Scene {
    service: TestService,
    clock: Arc<AtomicU64>,
    alice: Member,
    document: DocumentId,
    pen: Pen,
    log: Frontier,
    active: Record,
}

impl Scene {
    async fn new() -> Self {
        let clock = Arc::new(AtomicU64::new(now().0));
        let read = clock.clone();
        let service = TestService::with(move |config| {
            let read = read.clone();
            config.clock = conclave_ds::Clock::new(move || UnixMs(read.load(Ordering::SeqCst)));
        })
        .await;
        let mut alice = service.member().await;
        alice.create_group(GroupPolicy::default()).await;
        let (document, active) = alice.create_document().await;
        let (_, pen) = alice.open(document, InstanceId([1; 8]), None).await;
        let mut log = Frontier::new();
        log.push(active.leaf());
        Self {
            service,
            clock,
            alice,
            document,
            pen,
            log,
            active,
        }
    }

    fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    /// Writes an update of so many bytes.
    async fn update(&mut self, bytes: usize) {
        let first_clock = self.pen.next_clock;
        let record = self.pen.record_of(1, bytes);
        let frame = self.pen.frame(first_clock, vec![record]);
        self.alice.wire.send(&frame).await;
        let channel = self.pen.channel;
        self.alice.wire.appended(channel).await.unwrap();
        self.log.push(self.pen.last);
    }

    /// A snapshot of everything so far.
    fn snapshot(&self, change: impl FnOnce(&mut SnapshotHeader)) -> Record {
        let RecordBody::Snapshot(parent) = self.active.header.body else {
            panic!()
        };
        let id = self.active.leaf();
        let mut header = SnapshotHeader {
            parent: id,
            chain_proof: parent.successor_proof(&id),
            covered: self.log.head(),
            crdt: 1,
        };
        change(&mut header);
        let header = RecordHeader {
            epoch: self.alice.group().epoch(),
            seen: self.log.head(),
            body: RecordBody::Snapshot(header),
            ..self.active.header
        };
        sign(&self.alice.device.key(), header, SNAPSHOT_BYTES)
    }

    async fn put(&mut self) -> Result<u64, Refusal> {
        let record = self.snapshot(|_| {});
        let put = Request::PutSnapshot {
            record: record.clone(),
        };
        match self.alice.wire.request(put).await {
            Answer::Accepted { seq, .. } => {
                self.log.push(record.leaf());
                self.active = record;
                Ok(seq)
            }
            Answer::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// Writes snapshots until the service has enough of them.
    async fn exhaust(&mut self) -> u64 {
        for _ in 0..4 {
            self.put().await.unwrap();
        }
        match self.put().await {
            Err(Refusal::RateLimited { retry_after_ms }) => retry_after_ms,
            other => panic!("{other:?}"),
        }
    }

    /// Positions whose record the service has whole.
    async fn whole(&mut self) -> Vec<u64> {
        let request = Request::GetRecords {
            group: self.alice.group_id(),
            document: self.document,
            from: 0,
            count: 1000,
        };
        let Answer::Records { records, .. } = self.alice.wire.request(request).await else {
            panic!()
        };
        assert_eq!(records.len() as u64, self.log.size());
        let whole = |record: &DeliveredRecord| matches!(record, DeliveredRecord::Whole { .. });
        (0..)
            .zip(records)
            .filter(|(_, record)| whole(record))
            .map(|(seq, _)| seq)
            .collect()
    }
}

#[tokio::test]
async fn a_snapshot_without_news_is_refused_but_for_a_few() {
    let mut scene = Scene::new().await;
    // The first is as small as an update.
    scene.update(1_000).await;
    scene.put().await.unwrap();
    let retry_after_ms = scene.exhaust().await;
    assert_eq!(retry_after_ms, 15 * MINUTE_MS);
    // Less than half of what the active one holds.
    scene.update(280_000).await;
    assert!(matches!(
        scene.put().await,
        Err(Refusal::RateLimited { .. })
    ));
    // Half of it.
    scene.update(30_000).await;
    scene.put().await.unwrap();
    assert!(matches!(
        scene.put().await,
        Err(Refusal::RateLimited { .. })
    ));
    // What was covered once is no news again.
    scene.pass(retry_after_ms);
    scene.put().await.unwrap();
    assert!(matches!(
        scene.put().await,
        Err(Refusal::RateLimited { .. })
    ));
    scene.pass(60 * MINUTE_MS);
    scene.exhaust().await;
}

#[tokio::test]
async fn a_newer_epoch_needs_no_news() {
    let mut scene = Scene::new().await;
    scene.update(1_000).await;
    scene.put().await.unwrap();
    scene.exhaust().await;
    scene.alice.commit(&Plan::default()).await;
    scene.put().await.unwrap();
    assert!(
        matches!(scene.put().await, Err(Refusal::RateLimited { .. })),
        "once for each epoch"
    );
}

/// The chunks of a request that puts a snapshot.
fn chunks(id: u64, record: Record) -> Vec<Vec<u8>> {
    let frame = ClientFrame::Request {
        id: Varint(id),
        body: Request::PutSnapshot { record },
    };
    let chunks = conclave_proto::chunk::split(encode(&frame));
    assert!(chunks.len() > 2);
    chunks
}

/// Sends the first chunk only, and waits for the answer.
async fn early(scene: &mut Scene, id: u64, record: Record) -> Refusal {
    let mut chunks = chunks(id, record).into_iter();
    let first = chunks.next().unwrap();
    scene
        .alice
        .wire
        .send_raw(Message::Binary(first.into()))
        .await;
    let answer = scene
        .alice
        .wire
        .until(|frame| match frame {
            ServiceFrame::Response { id: of, answer } if of.0 == id => Some(answer.clone()),
            _ => None,
        })
        .await;
    // The rest is swallowed, and the connection goes on.
    for chunk in chunks {
        scene
            .alice
            .wire
            .send_raw(Message::Binary(chunk.into()))
            .await;
    }
    scene.alice.wire.ping().await;
    match answer {
        Answer::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_first_chunk_is_enough_to_refuse() {
    let mut scene = Scene::new().await;
    scene.update(1_000).await;
    let bad = |fault| Refusal::BadRecord { fault };
    let orphan = scene.snapshot(|header| header.parent = Hash([9; 32]));
    assert_eq!(
        early(&mut scene, 901, orphan).await,
        bad(RecordFault::Parent)
    );
    let lie = scene.snapshot(|header| header.covered.root = Hash([9; 32]));
    assert_eq!(early(&mut scene, 902, lie).await, bad(RecordFault::Covered));
    let mut stale = scene.snapshot(|_| {});
    stale.header.epoch += 1;
    assert!(matches!(
        early(&mut scene, 903, stale).await,
        Refusal::StaleEpoch { .. }
    ));
    scene.put().await.unwrap();
    scene.exhaust().await;
    let poor = scene.snapshot(|_| {});
    assert!(matches!(
        early(&mut scene, 904, poor).await,
        Refusal::RateLimited { .. }
    ));
    // One that is there already gets the answer that it got before.
    let request = Request::PutSnapshot {
        record: scene.active.clone(),
    };
    let answer = scene.alice.wire.request(request).await;
    let seq = scene.log.size() - 1;
    assert!(matches!(answer, Answer::Accepted { seq: at, .. } if at == seq));
}

#[tokio::test]
async fn replaced_snapshots_stay_for_thirty_days() {
    let mut scene = Scene::new().await;
    let mut at = vec![0];
    // One a day, each with news.
    for _ in 0..5 {
        scene.update(SNAPSHOT_BYTES).await;
        at.push(scene.put().await.unwrap());
        scene.pass(DAY_MS);
    }
    let size = scene.log.size();
    let gone = |positions: &[u64]| -> Vec<u64> {
        (0..size).filter(|seq| !positions.contains(seq)).collect()
    };
    assert_eq!(scene.whole().await, gone(&[]));
    // The first that was replaced but for the document's first was so on the second day.
    scene.pass(26 * DAY_MS);
    assert_eq!(scene.whole().await, gone(&[]), "somebody has to write one");
    scene.update(SNAPSHOT_BYTES).await;
    at.push(scene.put().await.unwrap());
    let size = scene.log.size();
    let gone = |positions: &[u64]| -> Vec<u64> {
        (0..size).filter(|seq| !positions.contains(seq)).collect()
    };
    assert_eq!(scene.whole().await, gone(&[at[1]]));
    // However long it takes: the first, the active one and its parent stay.
    scene.pass(400 * DAY_MS);
    scene.service.restart().await;
    scene.alice.reconnect(&scene.service).await;
    while scene.whole().await != gone(&at[1..5]) {
        tokio::task::yield_now().await;
    }
    // Who was away that long gets leaves in their places, and can begin at the active one.
    let (opened, _) = scene
        .alice
        .open(scene.document, InstanceId([2; 8]), Some(at[2]))
        .await;
    let rest = scene
        .alice
        .wire
        .delivered(opened.channel.0, usize::try_from(size - at[2]).unwrap())
        .await;
    for (seq, record) in rest {
        let is_leaf = matches!(record, DeliveredRecord::Leaf(_));
        assert_eq!(is_leaf, at[2..5].contains(&seq), "{seq}");
    }
    let (opened, _) = scene
        .alice
        .open(scene.document, InstanceId([3; 8]), None)
        .await;
    assert_eq!(opened.base.unwrap().record, scene.active);
}
