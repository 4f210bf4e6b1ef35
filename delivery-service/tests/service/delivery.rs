//! Who gets what, in which order, and what a slow client costs the others: nothing.

use std::collections::BTreeMap;

use conclave_mls::Plan;
use conclave_proto::frame::{Answer, DeliveredRecord, ServiceFrame};
use conclave_proto::service::LogName;
use conclave_proto::{Author, DocumentId, GroupPolicy, InstanceId, Refusal, limits};
use tokio::io::AsyncWriteExt;

use crate::harness::{Member, Pen, Person, TestService, Wire};
use crate::scenes::{ONE, RENEWAL};

/// Reads a channel to a size and rebuilds who wrote which clock where: own positions from acknowledgements, others' from deliveries.
struct Reader {
    channel: u64,
    own: Author,
    size: u64,
    authors: Vec<Author>,
    clocks: BTreeMap<Author, u64>,
}

impl Reader {
    fn new(opened: &conclave_proto::frame::OpenedDocument, own: Author) -> Self {
        Self {
            channel: opened.channel.0,
            own,
            size: opened.from,
            authors: opened.authors.clone(),
            clocks: BTreeMap::new(),
        }
    }

    async fn read_to(&mut self, wire: &mut Wire, size: u64) {
        while self.size < size {
            let channel = self.channel;
            let frame = wire
                .until(|frame| match frame {
                    ServiceFrame::NewAuthor { channel: at, .. }
                    | ServiceFrame::Deliver { channel: at, .. }
                    | ServiceFrame::Ack { channel: at, .. }
                        if at.0 == channel =>
                    {
                        Some(frame.clone())
                    }
                    ServiceFrame::AppendRefused { refusal, .. } => panic!("{refusal:?}"),
                    _ => None,
                })
                .await;
            self.take(frame);
        }
    }

    fn take(&mut self, frame: ServiceFrame) {
        match frame {
            ServiceFrame::NewAuthor { author, .. } => self.authors.push(author),
            ServiceFrame::Ack {
                first_seq, count, ..
            } => {
                assert_eq!(
                    first_seq.0, self.size,
                    "an acknowledgement out of its place"
                );
                self.size += count.0;
                *self.clocks.entry(self.own).or_default() += count.0;
            }
            ServiceFrame::Deliver {
                first_seq, records, ..
            } => {
                assert_eq!(first_seq.0, self.size, "a gap or a repetition");
                for record in records.0 {
                    self.size += 1;
                    if let DeliveredRecord::Update(record) = record {
                        let author = self.authors[usize::try_from(record.author.0).unwrap()];
                        *self.clocks.entry(author).or_default() += 1;
                    }
                }
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_reach_others_and_come_back_only_as_acknowledgements() {
    let service = TestService::start().await;
    let (mut alice, mut bob, (document, _)) = service.pair_with_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let (opened, _) = bob.open(document, ONE, Some(1)).await;
    let frame = pen.updates(4);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((4, 1)));
    let mut reader = Reader::new(
        &opened,
        Author {
            device: bob.device.id,
            instance: ONE,
        },
    );
    reader.read_to(&mut bob.wire, 5).await;
    assert_eq!(reader.authors, vec![pen.author]);
    assert_eq!(reader.clocks[&pen.author], 4);
    alice.wire.ping().await;
    let echoed = alice
        .wire
        .kept()
        .any(|frame| matches!(frame, ServiceFrame::Deliver { first_seq, .. } if first_seq.0 > 0));
    assert!(!echoed);
}

/// Appends `frames` frames of `each` records and reads along until the log has `size` records.
async fn write_and_read(
    mut member: Member,
    document: DocumentId,
    instance: InstanceId,
    (frames, each): (u64, usize),
    size: u64,
) -> Reader {
    let (opened, mut pen): (_, Pen) = member.open(document, instance, Some(1)).await;
    let mut reader = Reader::new(&opened, pen.author);
    for _ in 0..frames {
        let frame = pen.updates(each);
        member.wire.send(&frame).await;
    }
    reader.read_to(&mut member.wire, size).await;
    reader
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_and_late_readers_all_see_one_order_without_a_gap() {
    const WRITERS: u64 = 6;
    const FRAMES: u64 = 60;
    const EACH: usize = 3;
    let size = 1 + WRITERS * FRAMES * EACH as u64;
    let service = TestService::start().await;
    let (mut alice, (document, _)) = service.alone().await;
    let mut members = Vec::new();
    for _ in 0..2 * WRITERS {
        let mut member = service.member().await;
        alice.invite(&mut member).await;
        members.push(member);
    }
    let epoch = alice.group().epoch();
    let mut tasks = tokio::task::JoinSet::new();
    for (at, mut member) in members.into_iter().enumerate() {
        member.catch_up(epoch).await;
        // Every other one only reads, and opens in the middle of it all.
        let frames = if at % 2 == 0 { FRAMES } else { 0 };
        tasks.spawn(
            async move { write_and_read(member, document, ONE, (frames, EACH), size).await },
        );
    }
    let readers = tasks.join_all().await;
    for reader in &readers {
        assert_eq!(reader.size, size);
        assert_eq!(reader.authors, readers[0].authors);
        assert_eq!(reader.clocks, readers[0].clocks);
        assert!(
            reader
                .clocks
                .values()
                .all(|clock| *clock == FRAMES * EACH as u64)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_wait_for_their_place_in_the_history() {
    const OLD: usize = 6000;
    const NEW: usize = 200;
    let service = TestService::start().await;
    let (mut alice, bob, (document, _)) = service.pair_with_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    for _ in 0..OLD / 500 {
        let frame = pen.updates(500);
        alice.wire.send(&frame).await;
    }
    for _ in 0..OLD / 500 {
        alice.wire.appended(pen.channel).await.unwrap();
    }
    // Bob asks for everything and writes before he has read any of it.
    let size = (1 + OLD + NEW) as u64;
    let frames = (NEW as u64 / 2, 2);
    let reader = write_and_read(bob, document, ONE, frames, size).await;
    assert_eq!(reader.clocks[&pen.author], OLD as u64);
    assert_eq!(reader.clocks[&reader.own], NEW as u64);
}

#[tokio::test]
async fn opening_again_replaces_the_channel() {
    let service = TestService::start().await;
    let (mut alice, mut bob, (document, _)) = service.pair_with_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    bob.open(document, ONE, Some(1)).await;
    let (opened, _) = bob.open(document, ONE, Some(1)).await;
    for _ in 0..20 {
        let frame = pen.updates(2);
        alice.wire.send(&frame).await;
    }
    let own = Author {
        device: bob.device.id,
        instance: ONE,
    };
    let mut reader = Reader::new(&opened, own);
    reader.read_to(&mut bob.wire, 41).await;
    bob.wire.ping().await;
    let more = bob
        .wire
        .kept()
        .any(|frame| matches!(frame, ServiceFrame::Deliver { .. }));
    assert!(!more, "nothing came twice");
}

#[tokio::test]
async fn a_removed_member_gets_no_record_any_more() {
    let service = TestService::start().await;
    let (mut alice, mut bob, (document, _)) = service.pair_with_document().await;
    let (opened, mut late) = bob.open(document, ONE, Some(1)).await;
    alice
        .commit(&Plan {
            remove: vec![bob.device.id],
            ..Plan::default()
        })
        .await;
    let (_, mut pen) = alice.open(document, ONE, Some(1)).await;
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    alice.wire.appended(pen.channel).await.unwrap();
    let frame = late.updates(1);
    bob.wire.send(&frame).await;
    let refused = bob.wire.appended(opened.channel.0).await;
    assert_eq!(refused, Err(Refusal::NoChannel), "its channels are closed");
    bob.wire.ping().await;
    let told = bob.wire.kept().any(|frame| {
        matches!(
            frame,
            ServiceFrame::Deliver { .. } | ServiceFrame::NewAuthor { .. }
        )
    });
    assert!(!told);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_cut_off_and_slows_nobody() {
    // Room for a record and the signed head that goes before it, and for those before these: they may have been read before it is noted here that they
    // were written.
    let service = TestService::with(|config| config.limits.outbox_bytes = 192 * 1024).await;
    let (mut alice, mut bob, (document, _)) = service.pair_with_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let mut carol = service.member().await;
    alice.invite(&mut carol).await;
    pen.epoch = alice.group().epoch();
    carol.catch_up(2).await;
    bob.catch_up(2).await;
    // Bob opens the document and never reads again.
    bob.open(document, ONE, Some(1)).await;
    let (opened, _) = carol.open(document, ONE, Some(1)).await;
    let mut reader = Reader::new(
        &opened,
        Author {
            device: carol.device.id,
            instance: ONE,
        },
    );
    const FRAMES: u64 = 400;
    for at in 0..FRAMES {
        let record = pen.record_of(1, 64 * 1024);
        let frame = pen.frame(pen.next_clock - 1, vec![record]);
        alice.wire.send(&frame).await;
        alice.wire.appended(pen.channel).await.unwrap();
        reader.read_to(&mut carol.wire, at + 2).await;
    }
    assert_eq!(reader.size, FRAMES + 1);
    // What was on its way is still there; then the connection ends. Coming back, nothing is missing.
    bob.wire.ended().await;
    bob.reconnect(&service).await;
    let (opened, _) = bob.open(document, ONE, Some(1)).await;
    assert_eq!(opened.head().size, FRAMES + 1);
    let mut reader = Reader::new(
        &opened,
        Author {
            device: bob.device.id,
            instance: ONE,
        },
    );
    reader.read_to(&mut bob.wire, FRAMES + 1).await;
}

#[tokio::test]
async fn rubbish_after_login_ends_only_that_connection() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    alice.create_group(GroupPolicy::default()).await;
    for rubbish in [
        vec![],
        vec![0x77],
        vec![3, 0x40],
        vec![4, 0, 0, 0, 1, 2, 3],
        vec![0xff; 300],
        vec![0xfe, 1, 2, 3],
        vec![1; 256 * 1024 + 1],
    ] {
        let interrupted = rubbish.first() == Some(&0xfe);
        let mut wire = service.login(&Person::new().devices[0]).await;
        wire.send_raw(tokio_tungstenite::tungstenite::Message::Binary(
            rubbish.into(),
        ))
        .await;
        if interrupted {
            // The start of a large frame, followed by something else.
            wire.send_raw(tokio_tungstenite::tungstenite::Message::Binary(
                vec![5].into(),
            ))
            .await;
        }
        wire.ended().await;
    }
    alice.wire.ping().await;
    // Bytes that are no WebSocket.
    let address = service.url().replace("ws://", "").replace("/v1", "");
    let mut raw = tokio::net::TcpStream::connect(address).await.unwrap();
    raw.write_all(&[0; 4096]).await.unwrap();
    alice.wire.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fills_a_queue_by_itself_comes_in_pieces() {
    const LARGE: usize = 5;
    let service = TestService::start().await;
    let (mut alice, mut bob, (document, _)) = service.pair_with_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let (opened, _) = bob.open(document, ONE, Some(1)).await;
    let channel = opened.channel.0;
    for seq in 1..4 {
        let frame = pen.updates(1);
        alice.wire.send(&frame).await;
        alice.wire.appended(pen.channel).await.unwrap();
        assert_eq!(bob.wire.delivered(channel, 1).await[0].0, seq);
    }
    let first_clock = pen.next_clock;
    let records = (0..LARGE).map(|_| pen.record_of(1, limits::UPDATE_BYTES));
    let records = records.collect();
    let frame = pen.frame(first_clock, records);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((8, 4)));
    for seq in 4..9 {
        let piece = bob.wire.delivered(channel, 1).await;
        assert_eq!((piece.len(), piece[0].0), (1, seq));
    }
    // And all goes on.
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((9, 9)));
    assert_eq!(bob.wire.delivered(channel, 1).await[0].0, 9);
}

#[tokio::test]
async fn whoever_follows_a_log_hears_of_it_however_many_groups_others_use() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    alice.create_group(GroupPolicy::default()).await;
    let mut bob = service.member().await;
    for _ in 0..conclave_ds::limits::IDLE_GROUPS {
        bob.create_group(GroupPolicy::default()).await;
    }
    alice.commit(&RENEWAL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signed_head_comes_before_the_acknowledgement_and_again_after_a_second() {
    let service = TestService::start().await;
    let (mut alice, mut bob, (document, _)) = service.pair_with_document().await;
    let log = LogName {
        group: alice.group_id(),
        document: Some(document),
    };
    let (_, mut pen) = alice.open(document, ONE, None).await;
    bob.open(document, ONE, Some(1)).await;
    for size in 2..6 {
        alice.wire.send(&pen.updates(1)).await;
        alice.wire.appended(pen.channel).await.unwrap();
        // What is past the first of a second waits for its turn, but not for ever.
        if size == 2 {
            assert_eq!(alice.wire.newest_head(log).unwrap().size, 2);
        }
    }
    for member in [&mut alice, &mut bob] {
        member.wire.head_of_size(log, 5).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signed_head_of_a_groups_log_follows_its_commits() {
    let service = TestService::start().await;
    let (mut alice, ..) = service.pair_with_document().await;
    let log = LogName {
        group: alice.group_id(),
        document: None,
    };
    let before = alice.wire.newest_head(log).unwrap();
    let prepared = alice.prepare(&RENEWAL);
    let answer = alice.send_commit(prepared.bundle).await;
    let Answer::Accepted { head, .. } = answer else {
        panic!("not accepted: {answer:?}");
    };
    alice.wire.head_of_size(log, head.size).await;
    assert_eq!(alice.wire.newest_head(log), Some(head));
    assert!(before.size < head.size);
}
