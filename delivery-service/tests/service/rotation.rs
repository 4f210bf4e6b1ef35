//! After a removal: old epochs are refused at once, and every document waits for a new snapshot.

use conclave_mls::Plan;
use conclave_proto::frame::{Answer, DeliveredRecord, DocumentStatus, GroupStatus, Request};
use conclave_proto::merkle::Frontier;
use conclave_proto::record::{EntryBody, SnapshotHeader};
use conclave_proto::{DocumentId, Head, Record, RecordBody, Refusal};

use crate::harness::{Member, TestService};
use crate::scenes::ONE;

async fn status(member: &mut Member) -> GroupStatus {
    let group = member.group_id();
    match member.wire.request(Request::GetStatus { group }).await {
        Answer::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

async fn heads(member: &mut Member, document: DocumentId) -> Vec<Head> {
    let group = member.group_id();
    let request = Request::GetRecords {
        group,
        document,
        from: 0,
        count: 1000,
    };
    let Answer::Records { records, .. } = member.wire.request(request).await else {
        panic!()
    };
    let mut frontier = Frontier::new();
    let mut heads = vec![frontier.head()];
    for record in records {
        let DeliveredRecord::Whole { record, .. } = record else {
            panic!()
        };
        frontier.push(record.leaf());
        heads.push(frontier.head());
    }
    heads
}

fn successor(parent: &Record, covered: Head) -> SnapshotHeader {
    let RecordBody::Snapshot(header) = parent.header.body else {
        panic!()
    };
    let id = parent.leaf();
    SnapshotHeader {
        parent: id,
        chain_proof: header.successor_proof(&id),
        covered,
        crdt: header.crdt,
    }
}

fn of(status: &GroupStatus, document: DocumentId) -> &DocumentStatus {
    let mut documents = status.documents.iter();
    documents.find(|it| it.document == document).unwrap()
}

#[tokio::test]
async fn a_removal_makes_every_document_due_until_a_new_snapshot_covers_the_old_epochs() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    let group = alice.create_bare_group().await;
    let directory_snapshot = alice.create_directory().await;
    let mut bob = service.member().await;
    alice.invite(&mut bob).await;
    let (first, first_snapshot) = alice.create_document().await;
    let (second, second_snapshot) = alice.create_document().await;
    let (_, mut pen) = alice.open(first, ONE, None).await;
    let frame = pen.updates(2);
    alice.wire.send(&frame).await;
    alice.wire.appended(pen.channel).await.unwrap();
    let before = status(&mut alice).await;
    assert!(before.documents.iter().all(|document| document.due == 0));

    let stale = pen.updates(1);
    alice
        .commit(&Plan {
            remove: vec![bob.device.id],
            ..Plan::default()
        })
        .await;
    let after = status(&mut alice).await;
    assert_eq!((after.epoch, after.rotating_since), (2, 2));
    assert!(after.documents.iter().all(|document| document.due == 1));
    assert_eq!(of(&after, first).head.size, 3);

    // The old epoch is over at once; the new one goes on at once.
    alice.wire.send(&stale).await;
    let refused = alice.wire.appended(pen.channel).await;
    assert_eq!(refused, Err(Refusal::StaleEpoch { current: 2 }));
    let (_, mut pen) = alice.open(first, ONE, Some(3)).await;
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((3, 3)));

    let complete = alice.entry(EntryBody::RotationComplete { epoch: 2 });
    let early = alice
        .wire
        .refused(Request::PutEntry {
            entry: complete.clone(),
        })
        .await;
    assert_eq!(early, Refusal::SnapshotRequired);

    // One that leaves a record of the old epoch in the tail does not settle it.
    let known = heads(&mut alice, first).await;
    let partial = alice.snapshot(first, known[4], successor(&first_snapshot, known[2]));
    let answer = alice
        .wire
        .request(Request::PutSnapshot {
            record: partial.clone(),
        })
        .await;
    assert!(
        matches!(answer, Answer::Accepted { seq: 4, .. }),
        "{answer:?}"
    );
    assert_eq!(of(&status(&mut alice).await, first).due, 1);
    // One that covers them all does, though newer records follow.
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    alice.wire.appended(pen.channel).await.unwrap();
    let known = heads(&mut alice, first).await;
    let record = alice.snapshot(first, known[6], successor(&partial, known[5]));
    alice.wire.request(Request::PutSnapshot { record }).await;
    let half = status(&mut alice).await;
    assert_eq!([of(&half, first).due, of(&half, second).due], [0, 1]);
    assert_eq!(of(&half, first).first_seq_of_snapshot_epoch, 3);
    let early = alice
        .wire
        .refused(Request::PutEntry {
            entry: complete.clone(),
        })
        .await;
    assert_eq!(early, Refusal::SnapshotRequired);

    let directory = DocumentId::directory(&group);
    for (document, parent) in [(second, second_snapshot), (directory, directory_snapshot)] {
        let known = heads(&mut alice, document).await;
        let record = alice.snapshot(document, known[1], successor(&parent, known[1]));
        alice.wire.request(Request::PutSnapshot { record }).await;
    }
    let done = alice
        .wire
        .request(Request::PutEntry { entry: complete })
        .await;
    assert!(matches!(done, Answer::Accepted { .. }), "{done:?}");
    let settled = status(&mut alice).await;
    assert_eq!(settled.rotating_since, 0);
    assert!(settled.documents.iter().all(|document| document.due == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_in_flight_when_the_epoch_ends_are_refused_by_the_new_one() {
    let service = TestService::start().await;
    let (mut alice, mut bob, (document, _)) = service.pair_with_document().await;
    let (_, mut pen) = bob.open(document, ONE, None).await;
    let mut frames = Vec::new();
    for _ in 0..200 {
        frames.push(pen.updates(1));
    }
    let prepared = alice.prepare(&Plan {
        self_update: true,
        ..Plan::default()
    });
    let id = alice.wire.ask(Request::Commit(prepared.bundle)).await;
    for frame in &frames {
        bob.wire.send(frame).await;
    }
    let mut accepted = 0;
    let mut refused = 0;
    for _ in 0..frames.len() {
        match bob.wire.appended(pen.channel).await {
            Ok((next, _)) => {
                assert_eq!(
                    refused, 0,
                    "nothing of the old epoch is accepted after the first refusal"
                );
                accepted = next;
            }
            Err(Refusal::StaleEpoch { current: 2 }) => refused += 1,
            Err(Refusal::ClockGap { expected }) => {
                assert_eq!(expected, accepted);
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        alice.wire.answer(id).await,
        Answer::Accepted { .. }
    ));
    assert_eq!(accepted + refused, 200);
    let group = bob.group_id();
    let request = Request::GetRecords {
        group,
        document,
        from: 0,
        count: 1000,
    };
    let Answer::Records { records, .. } = alice.wire.request(request).await else {
        panic!()
    };
    assert_eq!(records.len() as u64, 1 + accepted);
}

#[tokio::test]
async fn snapshots_of_the_old_epoch_are_refused() {
    let service = TestService::start().await;
    let (mut alice, (document, first)) = service.alone().await;
    let known = heads(&mut alice, document).await;
    let record = alice.snapshot(document, known[1], successor(&first, known[1]));
    alice
        .commit(&Plan {
            self_update: true,
            ..Plan::default()
        })
        .await;
    let stale = alice.wire.refused(Request::PutSnapshot { record }).await;
    assert_eq!(stale, Refusal::StaleEpoch { current: 1 });
}
