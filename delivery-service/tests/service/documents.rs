//! Document logs: what is accepted, what is not, and what is said about it.

use conclave_proto::codec::Varint;
use conclave_proto::frame::{Answer, ClientFrame, DeliveredRecord, Request, ServiceFrame};
use conclave_proto::merkle::{Frontier, verify_consistency};
use conclave_proto::record::{CloseReason, EntryBody, SnapshotHeader};
use conclave_proto::refusal::{ForbiddenWhy, RecordFault};
use conclave_proto::{
    DocumentId, GroupPolicy, Hash, Head, InstanceId, Record, RecordBody, Refusal, Role, limits,
};

use crate::harness::{Member, Pen, TestService, random};
use crate::scenes::ONE;

const TWO: InstanceId = InstanceId([2; 8]);

fn bad(fault: RecordFault) -> Refusal {
    Refusal::BadRecord { fault }
}

async fn alone(service: &TestService) -> (Member, DocumentId, Pen) {
    let (mut alice, (document, _)) = service.alone().await;
    let (_, pen) = alice.open(document, ONE, None).await;
    (alice, document, pen)
}

/// Every leaf of a document's log, by asking for whole records.
async fn leaves(member: &mut Member, document: DocumentId) -> Vec<Hash> {
    let group = member.group_id();
    let mut all = Vec::new();
    loop {
        let request = Request::GetRecords {
            group,
            document,
            from: all.len() as u64,
            count: 1000,
        };
        let Answer::Records { records, .. } = member.wire.request(request).await else {
            panic!()
        };
        if records.is_empty() {
            return all;
        }
        for record in records {
            all.push(match record {
                DeliveredRecord::Whole { record, .. } => record.leaf(),
                DeliveredRecord::Leaf(leaf) => leaf,
                other => panic!("{other:?}"),
            });
        }
    }
}

fn head_of(leaves: &[Hash]) -> Head {
    let mut frontier = Frontier::new();
    for leaf in leaves {
        frontier.push(*leaf);
    }
    frontier.head()
}

#[tokio::test]
async fn updates_are_acknowledged_and_can_be_read_whole() {
    let service = TestService::start().await;
    let (mut alice, document, mut pen) = alone(&service).await;
    let frame = pen.updates(5);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((5, 1)));
    let group = alice.group_id();
    let request = Request::GetRecords {
        group,
        document,
        from: 0,
        count: 100,
    };
    let Answer::Records {
        first_seq: 0,
        records,
    } = alice.wire.request(request).await
    else {
        panic!()
    };
    assert_eq!(records.len(), 6);
    let DeliveredRecord::Whole { record, .. } = &records[5] else {
        panic!()
    };
    assert_eq!(
        record.leaf(),
        pen.last,
        "the header was put together again as it was signed"
    );
    let RecordBody::Update(chained) = record.header.body else {
        panic!()
    };
    assert_eq!(chained.clock, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_frames_are_accepted_in_order() {
    let service = TestService::start().await;
    let (mut alice, document, mut pen) = alone(&service).await;
    for _ in 0..50 {
        let frame = pen.updates(3);
        alice.wire.send(&frame).await;
    }
    for at in 1..=50 {
        let (next, first) = alice.wire.appended(pen.channel).await.unwrap();
        assert_eq!((next, first), (3 * at, 1 + 3 * (at - 1)));
    }
    assert_eq!(leaves(&mut alice, document).await.len(), 151);
}

#[tokio::test]
async fn what_was_sent_already_is_said_to_be_there() {
    let service = TestService::start().await;
    let (mut alice, document, mut pen) = alone(&service).await;
    let first = pen.updates(1);
    let leaf = pen.last;
    let second = pen.updates(2);
    alice.wire.send(&first).await;
    alice.wire.send(&second).await;
    alice.wire.appended(pen.channel).await.unwrap();
    alice.wire.appended(pen.channel).await.unwrap();
    alice.wire.send(&first).await;
    let again = alice.wire.appended(pen.channel).await;
    assert_eq!(again, Err(Refusal::AlreadyAccepted { leaf, seq: 1 }));
    // On another connection too, where the chain is known from the log.
    alice.reconnect(&service).await;
    let (opened, mut pen) = alice.open(document, ONE, Some(4)).await;
    assert_eq!((opened.own_next_clock, opened.own_last), (3, pen.last));
    alice.wire.send(&relabel(&first, pen.channel)).await;
    let again = alice.wire.appended(pen.channel).await;
    assert_eq!(again, Err(Refusal::AlreadyAccepted { leaf, seq: 1 }));
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((4, 4)));
}

fn relabel(frame: &ClientFrame, to: u64) -> ClientFrame {
    let mut frame = frame.clone();
    if let ClientFrame::Append { channel, .. } = &mut frame {
        *channel = Varint(to);
    }
    frame
}

#[tokio::test]
async fn a_gap_refuses_all_that_follows_it_and_the_chain_goes_on() {
    let service = TestService::start().await;
    let (mut alice, _, mut pen) = alone(&service).await;
    let start = pen.mark();
    pen.updates(1);
    let ahead = pen.updates(1);
    let more = pen.updates(1);
    alice.wire.send(&ahead).await;
    alice.wire.send(&more).await;
    for _ in 0..2 {
        let refused = alice.wire.appended(pen.channel).await;
        assert_eq!(refused, Err(Refusal::ClockGap { expected: 0 }));
    }
    pen.restore(start);
    let frame = pen.updates(2);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((2, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_frame_takes_those_in_flight_with_it() {
    let service = TestService::start().await;
    let (mut alice, document, mut pen) = alone(&service).await;
    let good = pen.updates(1);
    let start = pen.mark();
    let honest = pen.key.to_bytes();
    pen.key = conclave_identity::DeviceKey::from_bytes(&random());
    // Those after it as well: a good signature of one would cover it.
    let [forged, after, last] = [1; 3].map(|count| pen.updates(count));
    pen.key = conclave_identity::DeviceKey::from_bytes(&honest);
    for frame in [&good, &forged, &after, &last] {
        alice.wire.send(frame).await;
    }
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((1, 1)));
    assert_eq!(
        alice.wire.appended(pen.channel).await,
        Err(bad(RecordFault::Signature))
    );
    for _ in 0..2 {
        let refused = alice.wire.appended(pen.channel).await;
        assert_eq!(refused, Err(Refusal::ClockGap { expected: 1 }));
    }
    pen.restore(start);
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((2, 2)));
    assert_eq!(leaves(&mut alice, document).await.len(), 3);
}

#[tokio::test]
async fn one_signature_covers_a_frame_and_any_changed_record_breaks_it() {
    let service = TestService::start().await;
    let (mut alice, _, mut pen) = alone(&service).await;
    let start = pen.mark();
    for at in 0..3 {
        pen.restore(start);
        let mut records: Vec<_> = (0..3).map(|_| pen.record(1)).collect();
        records[at].sealed.tag[0] ^= 1;
        let frame = pen.frame(start.0, records);
        alice.wire.send(&frame).await;
        assert_eq!(
            alice.wire.appended(pen.channel).await,
            Err(bad(RecordFault::Signature))
        );
    }
}

#[tokio::test]
async fn a_wrong_signature_among_frames_on_their_way_stops_what_follows_it_and_no_more() {
    let service = TestService::start().await;
    let (mut alice, _, mut pen) = alone(&service).await;
    // The first round is checked together, the second one by one.
    for round in 0..2 {
        let mut frames = vec![pen.updates(1), pen.updates(2)];
        let good = pen.mark();
        let mut record = pen.record(1);
        record.sealed.tag[0] ^= 1;
        frames.push(pen.frame(good.0, vec![record]));
        frames.push(pen.updates(1));
        for frame in &frames {
            alice.wire.send(frame).await;
        }
        let mut answers = Vec::new();
        for _ in &frames {
            answers.push(alice.wire.appended(pen.channel).await);
        }
        assert!(answers[0].is_ok() && answers[1].is_ok(), "{answers:?}");
        assert_eq!(answers[2], Err(bad(RecordFault::Signature)));
        let follows = answers[3].clone().unwrap_err();
        let gap = Refusal::ClockGap { expected: good.0 };
        assert!(
            follows == bad(RecordFault::Signature) || follows == gap,
            "{follows:?} in round {round}"
        );
        pen.restore(good);
    }
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    alice.wire.appended(pen.channel).await.unwrap();
}

#[tokio::test]
async fn seen_heads_have_to_be_true() {
    let service = TestService::start().await;
    let (mut alice, _, mut pen) = alone(&service).await;
    let honest = pen.seen;
    for lie in [
        Head {
            size: honest.size + 1,
            root: honest.root,
        },
        Head {
            size: honest.size,
            root: Hash([9; 32]),
        },
        Head {
            size: u64::from(u32::MAX),
            root: honest.root,
        },
    ] {
        let start = pen.mark();
        pen.seen = lie;
        let frame = pen.updates(1);
        alice.wire.send(&frame).await;
        assert_eq!(
            alice.wire.appended(pen.channel).await,
            Err(bad(RecordFault::SeenHead))
        );
        pen.restore(start);
    }
    // The empty log is a prefix of every log.
    pen.seen = Head::EMPTY;
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    alice.wire.appended(pen.channel).await.unwrap();
}

/// Alice, and Bob, who may only look, with a document and its first snapshot.
async fn with_a_viewer(service: &TestService) -> (Member, Member, DocumentId, Record) {
    let mut alice = service.member().await;
    let mut bob = service.member().await;
    let mut policy = GroupPolicy::default();
    policy.set_role(bob.device.user, Role::Viewer);
    alice.create_group(policy).await;
    let (document, first) = alice.create_document().await;
    alice.invite(&mut bob).await;
    (alice, bob, document, first)
}

#[tokio::test]
async fn viewers_write_verdicts_and_nothing_else() {
    let service = TestService::start().await;
    let (_alice, mut bob, document, first) = with_a_viewer(&service).await;
    let (opened, mut pen) = bob.open(document, ONE, None).await;
    let start = pen.mark();
    let frame = pen.updates(1);
    bob.wire.send(&frame).await;
    let role = Refusal::Forbidden {
        why: ForbiddenWhy::Role,
    };
    assert_eq!(bob.wire.appended(pen.channel).await, Err(role.clone()));
    pen.restore(start);
    let verdict = pen.record(2);
    let frame = pen.frame(0, vec![verdict]);
    bob.wire.send(&frame).await;
    assert_eq!(bob.wire.appended(pen.channel).await, Ok((1, 1)));
    // Nor snapshots, documents or entries.
    let record = bob.snapshot(document, opened.head(), follow(&first, opened.head()));
    assert_eq!(
        bob.wire.refused(Request::PutSnapshot { record }).await,
        role
    );
    let (_, entry, snapshot) = bob.new_document();
    assert_eq!(
        bob.wire
            .refused(Request::CreateDocument { entry, snapshot })
            .await,
        role
    );
    let entry = bob.entry(EntryBody::DocumentClosed {
        document,
        reason: CloseReason::Archived,
    });
    assert_eq!(bob.wire.refused(Request::PutEntry { entry }).await, role);
}

/// They weigh nothing, so that no snapshot need bring anything new before they fill a log.
#[tokio::test]
async fn a_viewer_fills_no_log_with_verdicts() {
    let service = TestService::start().await;
    let (mut alice, mut bob, document, _) = with_a_viewer(&service).await;
    let (_, mut pen) = bob.open(document, ONE, None).await;
    let mut taken = 0;
    let refused = loop {
        let start = pen.next_clock;
        let verdicts = (0..50).map(|_| pen.record(2)).collect();
        let frame = pen.frame(start, verdicts);
        bob.wire.send(&frame).await;
        match bob.wire.appended(pen.channel).await {
            Ok(_) => taken += 50,
            Err(refusal) => break refusal,
        }
    };
    assert!(
        matches!(refused, Refusal::RateLimited { retry_after_ms } if retry_after_ms > 1_000),
        "{refused:?}"
    );
    assert_eq!(taken, 200);
    // Others' edits are taken as before.
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    alice.wire.appended(pen.channel).await.unwrap();
}

/// The header of a snapshot that replaces `parent` and covers `covered`.
fn follow(parent: &conclave_proto::Record, covered: Head) -> SnapshotHeader {
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

#[tokio::test]
async fn snapshots_follow_each_other_and_cover_true_prefixes() {
    let service = TestService::start().await;
    let (mut alice, document, mut pen) = alone(&service).await;
    let group = alice.group_id();
    let Answer::Records { records, .. } = alice
        .wire
        .request(Request::GetRecords {
            group,
            document,
            from: 0,
            count: 1,
        })
        .await
    else {
        panic!()
    };
    let DeliveredRecord::Whole { record: first, .. } = records[0].clone() else {
        panic!()
    };
    let frame = pen.updates(3);
    alice.wire.send(&frame).await;
    alice.wire.appended(pen.channel).await.unwrap();
    let head = head_of(&leaves(&mut alice, document).await);
    let good = follow(&first, head);
    let lies = [
        (
            SnapshotHeader {
                parent: Hash([1; 32]),
                ..good
            },
            RecordFault::Parent,
        ),
        (
            SnapshotHeader {
                chain_proof: Hash([1; 32]),
                ..good
            },
            RecordFault::Parent,
        ),
        (
            SnapshotHeader {
                covered: Head { size: 9, ..head },
                ..good
            },
            RecordFault::Covered,
        ),
        (
            SnapshotHeader {
                covered: Head { size: 2, ..head },
                ..good
            },
            RecordFault::Covered,
        ),
        (
            SnapshotHeader {
                covered: Head::EMPTY,
                ..good
            },
            RecordFault::Covered,
        ),
        (SnapshotHeader { crdt: 2, ..good }, RecordFault::Malformed),
    ];
    for (lie, fault) in lies {
        let record = alice.snapshot(document, head, lie);
        assert_eq!(
            alice.wire.refused(Request::PutSnapshot { record }).await,
            bad(fault),
            "{lie:?}"
        );
    }
    let record = alice.snapshot(document, head, good);
    let put = Request::PutSnapshot {
        record: record.clone(),
    };
    let accepted = alice.wire.request(put.clone()).await;
    assert!(
        matches!(accepted, Answer::Accepted { seq: 4, .. }),
        "{accepted:?}"
    );
    assert_eq!(
        alice.wire.request(put).await,
        accepted,
        "again gets the same answer"
    );
    // Late: the parent is replaced already.
    let sibling = alice.snapshot(document, head, good);
    let late = alice
        .wire
        .refused(Request::PutSnapshot { record: sibling })
        .await;
    assert_eq!(late, bad(RecordFault::Parent));
    // Who opens now begins there.
    alice.reconnect(&service).await;
    let (opened, _) = alice.open(document, TWO, None).await;
    assert_eq!((opened.from, opened.head().size), (4, 5));
    assert_eq!(opened.base.unwrap().record, record);
    let rest = alice.wire.delivered(opened.channel.0, 1).await;
    assert_eq!(rest, vec![(4, DeliveredRecord::Leaf(record.leaf()))]);
}

#[tokio::test]
async fn of_records_of_before_the_base_the_first_comes_whole_with_a_proof() {
    let service = TestService::start().await;
    let (mut alice, document, mut pen) = alone(&service).await;
    let group = alice.group_id();
    let early = pen.seen;
    for _ in 0..100 {
        let frame = pen.updates(2);
        alice.wire.send(&frame).await;
    }
    for _ in 0..100 {
        alice.wire.appended(pen.channel).await.unwrap();
    }
    let all = leaves(&mut alice, document).await;
    let covered = head_of(&all[..150]);
    let Answer::Records { records, .. } = alice
        .wire
        .request(Request::GetRecords {
            group,
            document,
            from: 0,
            count: 1,
        })
        .await
    else {
        panic!()
    };
    let DeliveredRecord::Whole { record: first, .. } = records[0].clone() else {
        panic!()
    };
    let record = alice.snapshot(document, head_of(&all), follow(&first, covered));
    alice.wire.request(Request::PutSnapshot { record }).await;

    alice.reconnect(&service).await;
    let (opened, _) = alice.open(document, TWO, None).await;
    assert_eq!(opened.from, 150);
    let tail = alice.wire.delivered(opened.channel.0, 52).await;
    let DeliveredRecord::Whole { record, proof } = &tail[0].1 else {
        panic!("{:?}", tail[0])
    };
    assert_eq!(record.header.seen, early);
    verify_consistency(&early, &covered, proof).unwrap();
    assert_eq!(record.leaf(), all[150]);
    for (seq, record) in &tail[1..] {
        match record {
            DeliveredRecord::Update(record) => {
                assert_eq!(seq - record.seen_back.0, early.size);
                assert_eq!(record.seen_hint, early.root.0[..8]);
            }
            DeliveredRecord::Leaf(_) => assert_eq!(*seq, 201),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_first_of_late_records_comes_whole_to_those_who_are_live() {
    let service = TestService::start().await;
    let (mut alice, mut bob, (document, first)) = service.pair_with_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let (opened, _) = bob.open(document, ONE, Some(1)).await;
    let frame = pen.updates(80);
    alice.wire.send(&frame).await;
    alice.wire.appended(pen.channel).await.unwrap();
    let all = leaves(&mut alice, document).await;
    let covered = head_of(&all[..70]);
    let record = alice.snapshot(document, head_of(&all), follow(&first, covered));
    alice.wire.request(Request::PutSnapshot { record }).await;
    // Its author still names the head it had seen at first.
    let early = pen.seen;
    for _ in 0..2 {
        let frame = pen.updates(3);
        alice.wire.send(&frame).await;
        alice.wire.appended(pen.channel).await.unwrap();
    }
    let delivered = bob.wire.delivered(opened.channel.0, 87).await;
    for first in [81, 84] {
        let DeliveredRecord::Whole { record, proof } = &delivered[first].1 else {
            panic!("{:?}", delivered[first])
        };
        assert_eq!(record.header.seen, early);
        verify_consistency(&early, &covered, proof).unwrap();
        for (seq, record) in &delivered[first + 1..first + 3] {
            let DeliveredRecord::Update(record) = record else {
                panic!("{record:?}")
            };
            assert_eq!(seq - record.seen_back.0, early.size);
        }
    }
    // Asked for again, it brings the same proof.
    let group = bob.group_id();
    let request = Request::GetRecords {
        group,
        document,
        from: 82,
        count: 1,
    };
    let Answer::Records { records, .. } = bob.wire.request(request).await else {
        panic!()
    };
    assert_eq!(records[0], delivered[81].1);
}

/// Whatever happens to be under way when a snapshot is accepted: a receiver finds every root that a record names, or a proof.
#[tokio::test(flavor = "multi_thread")]
async fn snapshots_amid_late_records_leave_no_root_unknown() {
    const ROUNDS: usize = 8;
    const FRAMES: usize = 150;
    let service = TestService::start().await;
    let (mut alice, mut bob, (document, mut active)) = service.pair_with_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let (opened, _) = bob.open(document, ONE, Some(1)).await;
    let mut snapshots = vec![active.clone()];
    for _ in 0..ROUNDS {
        // What the active snapshot covers, and the next will cover more.
        let RecordBody::Snapshot(header) = active.header.body else {
            panic!()
        };
        pen.seen = header.covered;
        let known = head_of(&leaves(&mut alice, document).await);
        let record = alice.snapshot(document, known, follow(&active, known));
        active = record.clone();
        snapshots.push(record.clone());
        let mut frames: Vec<_> = (0..FRAMES).map(|_| pen.updates(1)).collect();
        let id = Varint(1_000_000);
        let body = Request::PutSnapshot { record };
        frames.insert(0, ClientFrame::Request { id, body });
        alice.wire.send_together(&frames).await;
        for _ in 0..FRAMES {
            alice.wire.appended(pen.channel).await.unwrap();
        }
        assert!(matches!(
            alice.wire.answer(id).await,
            Answer::Accepted { .. }
        ));
        // However the others fell: this one comes after the snapshot, and had seen less than that covers.
        alice.wire.send(&pen.updates(1)).await;
        alice.wire.appended(pen.channel).await.unwrap();
    }
    let all = leaves(&mut alice, document).await;
    let count = all.len() - 1;
    let mut covered = Head::EMPTY;
    let mut shown = None;
    let mut proofs = 0;
    for (seq, record) in bob.wire.delivered(opened.channel.0, count).await {
        match record {
            DeliveredRecord::Update(record) => {
                let seen = seq - record.seen_back.0;
                assert!(
                    seen >= covered.size || shown == Some(seen),
                    "an unknown root at {seq}"
                );
            }
            DeliveredRecord::Whole { record, proof } => {
                if let RecordBody::Snapshot(header) = record.header.body {
                    assert!(snapshots.contains(&record));
                    covered = header.covered;
                } else {
                    verify_consistency(&record.header.seen, &covered, &proof).unwrap();
                    shown = Some(record.header.seen.size);
                    proofs += 1;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(proofs > 0);
}

#[tokio::test]
async fn nobody_replaces_the_active_snapshot_by_a_sibling() {
    let service = TestService::start().await;
    let (mut alice, mut bob, (document, first)) = service.pair_with_document().await;
    let known = head_of(&leaves(&mut alice, document).await);
    let active = bob.snapshot(document, known, follow(&first, known));
    let record = active.clone();
    let accepted = bob.wire.request(Request::PutSnapshot { record }).await;
    assert!(matches!(accepted, Answer::Accepted { .. }), "{accepted:?}");
    let known = head_of(&leaves(&mut alice, document).await);
    let sibling = follow(&first, known);
    for member in [&mut bob, &mut alice] {
        let record = member.snapshot(document, known, sibling);
        let refused = member.wire.refused(Request::PutSnapshot { record }).await;
        assert_eq!(refused, bad(RecordFault::Parent));
    }
    bob.reconnect(&service).await;
    let (opened, _) = bob.open(document, TWO, None).await;
    assert_eq!(opened.base.unwrap().record, active);
}

#[tokio::test]
async fn a_later_instance_closes_the_earlier_ones() {
    let service = TestService::start().await;
    let (mut alice, document, mut old) = alone(&service).await;
    let frame = old.updates(1);
    alice.wire.send(&frame).await;
    alice.wire.appended(old.channel).await.unwrap();
    let (_, mut new) = alice.open(document, TWO, None).await;
    let frame = new.updates(1);
    alice.wire.send(&frame).await;
    alice.wire.appended(new.channel).await.unwrap();
    alice.reconnect(&service).await;
    let (opened, _) = alice.open(document, ONE, None).await;
    old.channel = opened.channel.0;
    let frame = old.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(
        alice.wire.appended(old.channel).await,
        Err(bad(RecordFault::InstanceClosed))
    );
}

#[tokio::test]
async fn a_closed_document_takes_nothing_more() {
    let service = TestService::start().await;
    let (mut alice, document, mut pen) = alone(&service).await;
    let entry = alice.entry(EntryBody::DocumentClosed {
        document,
        reason: CloseReason::Archived,
    });
    let first = alice
        .wire
        .request(Request::PutEntry {
            entry: entry.clone(),
        })
        .await;
    assert!(matches!(first, Answer::Accepted { .. }));
    assert_eq!(alice.wire.request(Request::PutEntry { entry }).await, first);
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(
        alice.wire.appended(pen.channel).await,
        Err(Refusal::DocumentClosed)
    );
    // Archived means readable.
    alice.reconnect(&service).await;
    alice.open(document, ONE, None).await;
    alice.follow(alice.group().state().head().size).await;
    alice.process_next().await;
    let entry = alice.entry(EntryBody::DocumentClosed {
        document,
        reason: CloseReason::Deleted,
    });
    alice.wire.request(Request::PutEntry { entry }).await;
    let group = alice.group_id();
    let open = Request::OpenDocument {
        group,
        document,
        instance: ONE,
        from: None,
    };
    assert_eq!(alice.wire.refused(open).await, Refusal::DocumentClosed);
}

#[tokio::test]
async fn documents_are_created_whole_or_not_at_all() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    let group = alice.create_group(GroupPolicy::default()).await;
    let (document, entry, snapshot) = alice.new_document();
    let (_, _, foreign) = alice.new_document();
    let mut forged = snapshot.clone();
    forged.sealed.tag[0] ^= 1;
    for wrong in [foreign, forged] {
        let create = Request::CreateDocument {
            entry: entry.clone(),
            snapshot: wrong,
        };
        assert!(matches!(
            alice.wire.refused(create).await,
            Refusal::BadRecord { .. }
        ));
    }
    let alone = alice
        .wire
        .refused(Request::PutEntry {
            entry: entry.clone(),
        })
        .await;
    assert_eq!(alone, Refusal::Malformed);
    let open = Request::OpenDocument {
        group,
        document,
        instance: ONE,
        from: None,
    };
    assert_eq!(
        alice.wire.refused(open.clone()).await,
        Refusal::UnknownDocument
    );
    let create = Request::CreateDocument { entry, snapshot };
    let first = alice.wire.request(create.clone()).await;
    assert!(
        matches!(first, Answer::Accepted { seq: 1, .. }),
        "{first:?}"
    );
    assert_eq!(
        alice.wire.request(create).await,
        first,
        "again gets the same answer"
    );
    assert!(matches!(alice.wire.request(open).await, Answer::Opened(_)));
    alice.process_next().await;
    let entry = alice.entry(EntryBody::DocumentCreated { document, crdt: 1 });
    let header = SnapshotHeader {
        parent: Hash::ZERO,
        chain_proof: Hash::ZERO,
        covered: Head::EMPTY,
        crdt: 1,
    };
    let snapshot = alice.snapshot(document, Head::EMPTY, header);
    let twice = alice
        .wire
        .refused(Request::CreateDocument { entry, snapshot })
        .await;
    assert_eq!(twice, Refusal::AlreadyExists);
}

#[tokio::test]
async fn a_channel_is_needed_and_closing_ends_it() {
    let service = TestService::start().await;
    let (mut alice, _, mut pen) = alone(&service).await;
    let close = Request::CloseDocument {
        channel: Varint(pen.channel),
    };
    assert_eq!(alice.wire.request(close.clone()).await, Answer::Done);
    assert_eq!(alice.wire.refused(close).await, Refusal::NoChannel);
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(
        alice.wire.appended(pen.channel).await,
        Err(Refusal::NoChannel)
    );
}

#[tokio::test]
async fn sizes_are_bounded() {
    let service = TestService::start().await;
    let (mut alice, _, mut pen) = alone(&service).await;
    for (kind, max) in [
        (1, limits::UPDATE_BYTES),
        (2, limits::VERDICT_BYTES),
        (7, limits::CARRIED_BYTES),
    ] {
        let start = pen.mark();
        let record = pen.record_of(kind, max + 1);
        let frame = pen.frame(start.0, vec![record]);
        alice.wire.send(&frame).await;
        assert_eq!(
            alice.wire.appended(pen.channel).await,
            Err(Refusal::TooLarge { max: max as u64 })
        );
        pen.restore(start);
        let record = pen.record_of(kind, max);
        let frame = pen.frame(start.0, vec![record]);
        alice.wire.send(&frame).await;
        alice.wire.appended(pen.channel).await.unwrap();
    }
    let frame = pen.frame(pen.next_clock, vec![]);
    alice.wire.send(&frame).await;
    assert_eq!(
        alice.wire.appended(pen.channel).await,
        Err(Refusal::Malformed)
    );
    let mut odd = pen.record(1);
    odd.kind = 3;
    let frame = pen.frame(pen.next_clock - 1, vec![odd]);
    alice.wire.send(&frame).await;
    assert_eq!(
        alice.wire.appended(pen.channel).await,
        Err(bad(RecordFault::Malformed))
    );
}

#[tokio::test]
async fn a_tail_past_its_limit_needs_a_snapshot() {
    let service = TestService::with(|config| config.limits.tail_records = 4).await;
    let (mut alice, _, mut pen) = alone(&service).await;
    let frame = pen.updates(3);
    alice.wire.send(&frame).await;
    alice.wire.appended(pen.channel).await.unwrap();
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(
        alice.wire.appended(pen.channel).await,
        Err(Refusal::SnapshotRequired)
    );
}

#[tokio::test]
async fn whoever_opens_past_the_end_is_told_how_much_there_is() {
    let service = TestService::start().await;
    let (mut alice, document, _) = alone(&service).await;
    let group = alice.group_id();
    let open = Request::OpenDocument {
        group,
        document,
        instance: ONE,
        from: Some(2),
    };
    let Answer::Opened(opened) = alice.wire.request(open).await else {
        panic!("not opened")
    };
    assert_eq!((opened.head().size, opened.from), (1, 1));
    let frame = alice
        .wire
        .kept()
        .filter(|frame| matches!(frame, ServiceFrame::Deliver { .. }))
        .count();
    assert!(frame <= 1);
}
