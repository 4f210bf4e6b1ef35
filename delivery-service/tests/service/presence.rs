//! Presence on its way: who gets what, and that nothing of it stays.

use conclave_ds::{Bucket, RateLimits};
use conclave_proto::codec::{Bytes, Varint};
use conclave_proto::frame::{ClientFrame, ServiceFrame};
use conclave_proto::presence::PresenceItem;
use conclave_proto::record::Sealed;
use conclave_proto::{Author, SessionId, limits};

use crate::harness::{Member, Pen, TestService, Wire};
use crate::scenes::ONE;

/// A message whose content is its mark: the service looks at nothing that is sealed.
fn message(pen: &Pen, session: u8, to: Option<u8>, mark: u8) -> PresenceItem {
    PresenceItem {
        epoch: Varint(pen.epoch),
        seen_size: Varint(pen.seen.size),
        seen_hint: pen.seen.hint(),
        session: SessionId([session; 16]),
        to: to.map(|to| SessionId([to; 16])),
        sealed: Sealed {
            nonce: Default::default(),
            ciphertext: Bytes::from(&[mark; 8][..]),
            tag: Default::default(),
            commitment: Default::default(),
            signature: [0; 64],
        },
    }
}

async fn show(wire: &mut Wire, pen: &Pen, item: PresenceItem) {
    let channel = Varint(pen.channel);
    wire.send(&ClientFrame::Show { channel, item }).await;
}

fn marks(frame: &ServiceFrame) -> Vec<(Author, u8)> {
    let ServiceFrame::Shown { items, .. } = frame else {
        return Vec::new();
    };
    let items = items.0.iter();
    items
        .map(|shown| (shown.author, shown.item.sealed.ciphertext.as_slice()[0]))
        .collect()
}

/// Reads until this mark of this author comes. Gives all marks that came until then.
async fn until(wire: &mut Wire, of: Author, mark: u8) -> Vec<(Author, u8)> {
    let mut all = Vec::new();
    while !all.contains(&(of, mark)) {
        let next = wire.until(|frame| {
            let marks = marks(frame);
            (!marks.is_empty()).then_some(marks)
        });
        all.extend(next.await);
    }
    all
}

/// Whether this mark has come, where all that could come has.
fn has(wire: &Wire, mark: u8) -> bool {
    wire.kept().flat_map(marks).any(|(_, it)| it == mark)
}

async fn three(service: &TestService) -> [(Member, Pen); 3] {
    let (mut alice, mut bob, (document, _)) = service.pair_with_document().await;
    let mut carol = service.member().await;
    alice.invite(&mut carol).await;
    let epoch = alice.group().epoch();
    bob.catch_up(epoch).await;
    let mut all = Vec::new();
    for mut member in [alice, bob, carol] {
        let (_, pen) = member.open(document, ONE, None).await;
        all.push((member, pen));
    }
    all.try_into().ok().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_shown_the_newest_and_what_is_for_one_goes_to_that_one() {
    let service = TestService::start().await;
    let [(mut alice, from), (mut bob, to), (mut carol, third)] = three(&service).await;
    for mark in 1..=5 {
        show(&mut alice.wire, &from, message(&from, 1, None, mark)).await;
    }
    for wire in [&mut bob.wire, &mut carol.wire] {
        let came = until(wire, from.author, 5).await;
        // Each is the newest of its moment.
        assert!(came.is_sorted_by_key(|(_, mark)| *mark), "{came:?}");
    }
    show(&mut bob.wire, &to, message(&to, 2, None, 6)).await;
    until(&mut alice.wire, to.author, 6).await;
    until(&mut carol.wire, to.author, 6).await;
    show(&mut alice.wire, &from, message(&from, 1, Some(2), 7)).await;
    until(&mut bob.wire, from.author, 7).await;
    // What is for all goes after it and has come: what is for another never does.
    show(&mut alice.wire, &from, message(&from, 1, None, 8)).await;
    let came = until(&mut carol.wire, from.author, 8).await;
    assert!(!came.contains(&(from.author, 7)));
    drop(third);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_the_session_of_another_takes_nothing_from_it() {
    let service = TestService::start().await;
    let [(mut alice, from), (mut bob, to), (mut carol, third)] = three(&service).await;
    show(&mut bob.wire, &to, message(&to, 2, None, 1)).await;
    until(&mut carol.wire, to.author, 1).await;
    for session in [2, 3] {
        show(
            &mut carol.wire,
            &third,
            message(&third, session, None, session),
        )
        .await;
        until(&mut alice.wire, third.author, session).await;
    }
    show(&mut alice.wire, &from, message(&from, 1, Some(2), 9)).await;
    until(&mut bob.wire, from.author, 9).await;
    show(&mut alice.wire, &from, message(&from, 1, None, 10)).await;
    let came = until(&mut carol.wire, from.author, 10).await;
    assert!(!came.contains(&(from.author, 9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_passed_on_goes_nowhere_and_ends_nothing() {
    let service = TestService::start().await;
    let [(mut alice, from), (mut bob, _), _carol] = three(&service).await;
    let mut other_epoch = message(&from, 1, None, 2);
    other_epoch.epoch = Varint(from.epoch - 1);
    let mut ahead = message(&from, 1, None, 2);
    ahead.seen_size = Varint(from.seen.size + 1);
    let mut large = message(&from, 1, None, 2);
    large.sealed.ciphertext = Bytes::from(&[2; limits::PRESENCE_BYTES + 1][..]);
    for wrong in [other_epoch, ahead, large, message(&from, 1, Some(77), 2)] {
        show(&mut alice.wire, &from, wrong).await;
    }
    let nowhere = ClientFrame::Show {
        channel: Varint(from.channel + 1000),
        item: message(&from, 1, None, 2),
    };
    alice.wire.send(&nowhere).await;
    alice.wire.ping().await;
    show(&mut alice.wire, &from, message(&from, 1, None, 3)).await;
    let came = until(&mut bob.wire, from.author, 3).await;
    assert_eq!(came, [(from.author, 3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_floods_is_heard_at_the_agreed_rate_and_keeps_nobody_waiting() {
    let service = TestService::with(|config| {
        config.rate_limits = Some(RateLimits {
            shown_to_one: Bucket::new(100, 1),
            ..RateLimits::default()
        });
    })
    .await;
    let [(mut alice, mut from), (mut bob, mut to), _carol] = three(&service).await;
    show(&mut bob.wire, &to, message(&to, 2, None, 1)).await;
    until(&mut alice.wire, to.author, 1).await;
    let flood: Vec<_> = (0..2_000)
        .map(|_| ClientFrame::Show {
            channel: Varint(from.channel),
            item: message(&from, 1, Some(2), 2),
        })
        .collect();
    for frames in flood.chunks(200) {
        alice.wire.send_together(frames).await;
    }
    // Records go on meanwhile, both ways.
    let frame = to.updates(1);
    bob.wire.send(&frame).await;
    bob.wire.appended(to.channel).await.unwrap();
    let frame = from.updates(1);
    alice.wire.send(&frame).await;
    alice.wire.appended(from.channel).await.unwrap();
    bob.wire.delivered(to.channel, 1).await;
    bob.wire.ping().await;
    let heard = bob.wire.kept().flat_map(marks).count();
    assert!((1..=101).contains(&heard), "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_for_who_opens_later_or_after_a_restart() {
    let mut service = TestService::start().await;
    let [(mut alice, from), (mut bob, _), (mut carol, _)] = three(&service).await;
    show(&mut alice.wire, &from, message(&from, 1, None, 1)).await;
    until(&mut bob.wire, from.author, 1).await;
    carol.reconnect(&service).await;
    let (_, pen) = carol.open(from.document, ONE, None).await;
    show(&mut carol.wire, &pen, message(&pen, 3, None, 2)).await;
    assert_eq!(
        until(&mut carol.wire, pen.author, 2).await,
        [(pen.author, 2)]
    );
    service.restart().await;
    bob.reconnect(&service).await;
    let (_, pen) = bob.open(from.document, ONE, None).await;
    // The session of who is not connected is nobody's.
    show(&mut bob.wire, &pen, message(&pen, 2, Some(1), 3)).await;
    show(&mut bob.wire, &pen, message(&pen, 2, None, 4)).await;
    assert_eq!(until(&mut bob.wire, pen.author, 4).await, [(pen.author, 4)]);
    assert!(!has(&bob.wire, 3));
}
