//! A database that somebody else writes to as well: what a service has in memory decides nothing that is not so any more.

use conclave_ds::Durability;
use conclave_ds::sqlite::{Place, Reads, Store};
use conclave_mls::{Plan, PublicGroupState};
use conclave_order::limits::Limits;
use conclave_order::op::entry::NewEntry;
use conclave_order::{Batch, Bounds, Event, Keys, Op, Reader, run_batch};
use conclave_proto::codec::decode;
use conclave_proto::frame::Request;
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::{DeviceId, GroupPolicy, Hash, InstanceId, Refusal};

use crate::harness::{TestService, now};

const ONE: InstanceId = InstanceId([1; 8]);
const RENEWAL: Plan = Plan {
    add: Vec::new(),
    remove: Vec::new(),
    policy: None,
    self_update: true,
};

/// Orders a commit at another node.
async fn commit_elsewhere(service: &TestService, bundle: &CommitBundle, device: DeviceId) {
    let place = Place {
        directory: service.dir.path().to_owned(),
        durability: Durability::Full,
        max_bytes: None,
    };
    let group = bundle.group;
    let mut reads = Reads::open(&place).await.unwrap().acquire().await.unwrap();
    let mut keys = Keys::default();
    keys.checkpoints.insert(group);
    let rows = reads.load(&keys).await.unwrap();
    let row = rows.checkpoint(&group).unwrap().unwrap();
    let mut core = PublicGroupState::restore(&row.checkpoint).unwrap();
    let since = Bounds {
        from: core.state().head().size,
        end: u64::MAX,
        bytes: usize::MAX,
    };
    for row in reads.entries(&group, since).await.unwrap() {
        let entry = decode("entry", &row.bytes, usize::MAX).unwrap();
        let GroupEntry::Signed(record) = entry else {
            panic!("{entry:?}")
        };
        let effect = core
            .judge_entry(&record, record.header.author.device)
            .unwrap();
        core.apply_entry(&effect);
    }
    let judged = core.judge_bundle(bundle, device, now()).unwrap();
    let new = NewEntry::of_commit(&mut core, row.version, judged, device).unwrap();
    let ops = vec![Op::Enter(Box::new(new))];
    let batch = Batch::new(ops, Limits { tail_records: 1000 });
    let mut store = Store::open(place).await.unwrap();
    for ended in run_batch(&mut store, batch, &()).await {
        let end = ended.end();
        let events = ended.batch.finish(end);
        assert!(matches!(events[..], [Event::Ordered { .. }]), "{events:?}");
    }
}

#[tokio::test]
async fn stale_view_neither_accepts_nor_refuses() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    let group = alice.create_group(GroupPolicy::default()).await;
    let (document, _) = alice.create_document().await;
    let mut bob = service.member().await;
    alice.invite(&mut bob).await;
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
