//! A service that replays, redirects and garbles; a member that floods and forges.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{DOCUMENT, GROUP, Hub, author, device_key, head, keys, shows, state};
use conclave_presence::{Refused, open, seal};
use conclave_proto::presence::{
    PRESENCE_VERSION, PresenceBody, PresenceContent, PresenceHeader, PresenceItem, Shown,
};
use conclave_proto::{Author, DocumentId, GroupId, InstanceId, SessionId};

fn header(by: Author, session: SessionId, to: Option<SessionId>) -> PresenceHeader {
    PresenceHeader {
        version: PRESENCE_VERSION,
        group: GROUP,
        document: DOCUMENT,
        epoch: 1,
        author: by,
        seen: head(5),
        session,
        to,
    }
}

fn forge(
    hub: &mut Hub,
    header: &PresenceHeader,
    by: usize,
    counter: u64,
    body: PresenceBody,
) -> PresenceItem {
    let content = PresenceContent {
        session: header.session,
        counter,
        body,
    };
    seal(header, &content, &keys(1), &device_key(by), &mut hub.rng).unwrap()
}

/// Two who see each other, and a third who does not show anything.
fn world() -> Hub {
    let mut hub = Hub::of(4, &[0, 1]);
    hub.show(0, "a");
    hub.show(1, "b");
    hub.wait(1_000);
    hub
}

#[test]
fn nothing_is_taken_twice() {
    let mut hub = world();
    for (from, item) in hub.tape.clone() {
        let sees = hub.sees(1);
        hub.carry(from, &item);
        assert_eq!(hub.sees(1), sees);
    }
    let refused = &hub.seats[&1].refused;
    assert!(refused.len() >= 2);
    assert!(
        refused.iter().all(|why| *why == Refused::Replayed),
        "{refused:?}"
    );
}

#[test]
fn what_a_session_said_brings_nobody_back_after_it_was_followed_by_another() {
    let mut hub = world();
    let first = hub.tape.clone();
    let counter = hub.leave(0, true);
    hub.sit(0, 4, counter);
    hub.show(0, "again");
    hub.wait(1_000);
    hub.leave(0, true);
    assert!(hub.sees(1).is_empty());
    let asked = hub.tape.len();
    for (from, item) in first {
        if from == author(0) {
            hub.deliver(1, from, item);
        }
    }
    hub.wait(20_000);
    assert!(hub.sees(1).is_empty());
    let asks = hub.tape[asked..]
        .iter()
        .filter(|(_, item)| item.to.is_some());
    assert_eq!(asks.count(), 0, "nobody is asked for it either");
}

#[test]
fn what_was_recorded_proves_nothing_to_a_session_that_begins_later() {
    let mut hub = world();
    let tape = hub.tape.clone();
    hub.leave(0, true);
    hub.sit(2, 4, 0);
    hub.wait(1_000);
    for (from, item) in tape {
        if from == author(0) {
            hub.deliver(2, from, item);
        }
    }
    hub.wait(20_000);
    assert_eq!(hub.sees(2), [(1, "b".to_owned())]);
}

#[test]
fn every_field_of_the_header_is_bound() {
    let mut hub = world();
    hub.seats.get_mut(&0).unwrap().log.size = 4;
    let item = hub
        .at(0, |room, here| room.show(shows("c"), here))
        .unwrap()
        .send[0]
        .clone();
    hub.seats.get_mut(&1).unwrap().log.size = 5;
    let session = hub.session(1);
    let changed: Vec<(&str, Author, PresenceItem)> = vec![
        ("author", author(2), item.clone()),
        (
            "instance",
            Author {
                instance: InstanceId([9; 8]),
                ..author(0)
            },
            item.clone(),
        ),
        (
            "session",
            author(0),
            PresenceItem {
                session: SessionId([3; 16]),
                ..item.clone()
            },
        ),
        (
            "to",
            author(0),
            PresenceItem {
                to: Some(session),
                ..item.clone()
            },
        ),
        ("seen", author(0), {
            let mut item = item.clone();
            item.seen_size.0 = 5;
            item.seen_hint = head(5).hint();
            item
        }),
    ];
    for (what, from, item) in changed {
        hub.deliver(1, from, item);
        let refused = hub.seats[&1].refused.last();
        assert_eq!(refused, Some(&Refused::Commitment), "{what}");
    }
    // What binds it to the rest is the header that the receiver writes itself.
    let now = header(author(0), hub.session(0), None);
    let elsewhere = [
        PresenceHeader {
            version: PRESENCE_VERSION + 1,
            ..now
        },
        PresenceHeader {
            group: GroupId([8; 16]),
            ..now
        },
        PresenceHeader {
            document: DocumentId([8; 16]),
            ..now
        },
        PresenceHeader { epoch: 0, ..now },
        PresenceHeader {
            author: Author {
                device: author(2).device,
                ..now.author
            },
            ..now
        },
    ];
    for (counter, other) in (900..).zip(elsewhere) {
        let mut moved = forge(
            &mut hub,
            &other,
            0,
            counter,
            PresenceBody::State(shows("x")),
        );
        moved.epoch.0 = now.epoch;
        hub.deliver(1, author(0), moved);
        let refused = hub.seats[&1].refused.last();
        assert_eq!(refused, Some(&Refused::Commitment), "{other:?}");
    }
    hub.deliver(1, author(0), item);
    assert_eq!(hub.sees(1), [(0, "c".to_owned())]);
}

#[test]
fn a_member_shows_nothing_in_anothers_name() {
    let mut hub = world();
    let session = hub.session(0);
    let forged = forge(
        &mut hub,
        &header(author(0), session, None),
        2,
        900,
        PresenceBody::State(shows("forged")),
    );
    hub.deliver(1, author(0), forged);
    assert_eq!(hub.seats[&1].refused.last(), Some(&Refused::Signature));
    assert_eq!(hub.sees(1), [(0, "a".to_owned())]);
    // Nor does a forgery use up its counters.
    hub.show(0, "true");
    hub.wait(500);
    assert_eq!(hub.sees(1), [(0, "true".to_owned())]);
}

#[test]
fn a_member_is_not_shown_without_a_proof_and_a_false_echo_proves_nothing() {
    let mut hub = world();
    let session = SessionId([5; 16]);
    let to = hub.session(1);
    let state = forge(
        &mut hub,
        &header(author(2), session, None),
        2,
        1,
        PresenceBody::State(shows("x")),
    );
    hub.deliver(1, author(2), state);
    assert_eq!(hub.sees(1), [(0, "a".to_owned())]);
    let echo = [0; 16];
    let bodies = [
        PresenceBody::Answer {
            echo,
            now: shows("x"),
        },
        PresenceBody::Reply {
            nonce: [1; 16],
            echo,
            now: shows("x"),
        },
    ];
    let mut counter = 1;
    for body in bodies {
        for to in [Some(to), None] {
            counter += 1;
            let header = header(author(2), session, to);
            let item = forge(&mut hub, &header, 2, counter, body.clone());
            hub.deliver(1, author(2), item);
            assert_eq!(hub.seats[&1].refused.last(), Some(&Refused::Unproven));
        }
    }
    assert_eq!(hub.sees(1), [(0, "a".to_owned())]);
}

#[test]
fn who_is_no_member_is_not_heard() {
    let mut hub = world();
    let item = forge(
        &mut hub,
        &header(author(9), SessionId([5; 16]), None),
        9,
        1,
        PresenceBody::Hello { nonce: [1; 16] },
    );
    hub.deliver(1, author(9), item);
    assert_eq!(hub.seats[&1].refused, [Refused::NotAMember]);
}

#[test]
fn a_flood_of_greetings_is_answered_every_two_seconds() {
    let mut hub = world();
    let sent = hub.tape.len();
    for counter in 0..1_000u64 {
        // Ever new sessions of ever new instances of one device.
        let mut by = author(2);
        by.instance = InstanceId([u8::try_from(counter % 200).unwrap(); 8]);
        let mut session = SessionId([6; 16]);
        session.0[..8].copy_from_slice(&counter.to_be_bytes());
        let item = forge(
            &mut hub,
            &header(by, session, None),
            2,
            counter,
            PresenceBody::Hello { nonce: [1; 16] },
        );
        hub.deliver(1, by, item);
        hub.wait(20);
    }
    let answers = hub.tape[sent..]
        .iter()
        .filter(|(from, item)| *from == author(1) && item.to.is_some());
    let answers = answers.count();
    assert!(answers <= 11, "{answers} in twenty seconds");
    // Nobody else is the worse for it.
    assert_eq!(hub.sees(1), [(0, "a".to_owned())]);
    hub.sit(3, 4, 0);
    hub.wait(500);
    assert_eq!(hub.sees(3).len(), 2);
}

#[test]
fn what_waits_is_bounded() {
    let mut hub = world();
    for of in 0..300u16 {
        let mut by = author(2);
        by.instance.0[..2].copy_from_slice(&of.to_be_bytes());
        let mut header = header(by, SessionId([5; 16]), None);
        header.seen = head(1_000);
        let item = forge(
            &mut hub,
            &header,
            2,
            1,
            PresenceBody::Hello { nonce: [1; 16] },
        );
        hub.deliver(1, by, item);
    }
    let full = hub.seats[&1]
        .refused
        .iter()
        .filter(|why| **why == Refused::Full);
    assert_eq!(full.count(), 300 - 256);
    hub.wait(5_000);
    let step = hub.at(1, |room, here| room.look_again(here));
    hub.pass(1, step);
    hub.show(0, "still");
    hub.wait(500);
    assert_eq!(hub.sees(1), [(0, "still".to_owned())]);
}

#[test]
fn another_history_is_told_once_for_each_device() {
    let mut hub = world();
    let session = hub.session(0);
    let mut fork = header(author(0), session, None);
    fork.seen.root.0 = [1; 32];
    for counter in [800, 801] {
        let item = forge(&mut hub, &fork, 0, counter, PresenceBody::State(shows("x")));
        hub.deliver(1, author(0), item);
        assert_eq!(hub.seats[&1].refused.last(), Some(&Refused::OtherLog));
    }
    assert!(hub.at(1, |room, _| room.names_other_log(&author(0))));
    assert!(!hub.at(1, |room, _| room.names_other_log(&author(0))));
}

#[test]
fn an_old_epoch_and_one_far_behind_are_passed_over() {
    let mut hub = world();
    let session = hub.session(0);
    hub.seats.get_mut(&1).unwrap().epoch = 2;
    let item = forge(
        &mut hub,
        &header(author(0), session, None),
        0,
        800,
        PresenceBody::State(shows("x")),
    );
    hub.deliver(1, author(0), item);
    assert_eq!(hub.seats[&1].refused.last(), Some(&Refused::Epoch));
    hub.seats.get_mut(&1).unwrap().epoch = 1;
    hub.seats.get_mut(&1).unwrap().log.base = 5;
    let mut behind = header(author(0), session, None);
    behind.seen = head(4);
    let item = forge(&mut hub, &behind, 0, 801, PresenceBody::State(shows("x")));
    hub.deliver(1, author(0), item);
    assert_eq!(hub.seats[&1].refused.last(), Some(&Refused::Below));
}

#[test]
fn nothing_of_what_is_shown_is_printed() {
    let mut hub = world();
    hub.show(0, "secret words");
    let text = format!("{:?} {:?}", hub.seats[&0].room, shows("secret words"));
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn a_flood_of_proofs_is_answered_every_two_seconds() {
    let mut hub = world();
    // The nonce of this session is in its greeting, for every member to read.
    let is_greeting =
        |(from, item): &&(Author, PresenceItem)| *from == author(1) && item.to.is_none();
    let (_, greeting) = hub.tape.iter().find(is_greeting).unwrap().clone();
    let session = greeting.session;
    let content = open(
        &header(author(1), session, None),
        &greeting.sealed,
        &keys(1),
    )
    .unwrap();
    let PresenceBody::Hello { nonce: echo } = content.body else {
        panic!("{content:?}");
    };
    let sent = hub.tape.len();
    for counter in 0..1_000u64 {
        let mut own = SessionId([6; 16]);
        own.0[..8].copy_from_slice(&counter.to_be_bytes());
        let body = PresenceBody::Reply {
            nonce: [1; 16],
            echo,
            now: shows("x"),
        };
        let header = header(author(2), own, Some(session));
        let item = forge(&mut hub, &header, 2, counter, body);
        hub.deliver(1, author(2), item);
        hub.wait(20);
    }
    let answers = hub.tape[sent..]
        .iter()
        .filter(|(from, item)| *from == author(1) && item.to.is_some());
    let answers = answers.count();
    assert!((5..=21).contains(&answers), "{answers} in twenty seconds");
    // Whoever comes meanwhile is answered all the same.
    hub.sit(3, 4, 0);
    hub.wait(500);
    assert!(hub.sees(3).contains(&(1, "b".to_owned())));
}

#[test]
fn what_is_too_large_or_of_nobody_waits_for_nothing() {
    let mut hub = world();
    let mut ahead = header(author(2), SessionId([5; 16]), None);
    ahead.seen = head(1_000);
    let mut item = forge(&mut hub, &ahead, 2, 1, PresenceBody::Gone);
    item.sealed.ciphertext = vec![0; 64 * 1024].into();
    hub.deliver(1, author(2), item);
    assert_eq!(hub.seats[&1].refused.last(), Some(&Refused::Malformed));
    // Of an epoch that has not come: only members can be kept waiting for.
    let mut item = forge(&mut hub, &ahead, 2, 1, PresenceBody::Gone);
    item.epoch.0 = 2;
    hub.deliver(1, author(9), item.clone());
    assert_eq!(hub.seats[&1].refused.last(), Some(&Refused::NotAMember));
    let refused = hub.seats[&1].refused.len();
    hub.deliver(1, author(2), item);
    assert_eq!(hub.seats[&1].refused.len(), refused, "it waits");
}

/// What was said under one epoch is no message of the next, whatever the service writes beside it.
#[test]
fn what_was_said_in_one_epoch_is_not_taken_in_the_next() {
    let mut hub = world();
    let said = hub.tape.clone();
    hub.leave(0, false);
    hub.wait(40_000);
    hub.seats.get_mut(&1).unwrap().epoch = 2;
    let step = hub.at(1, |room, here| room.new_epoch(here));
    hub.pass(1, step);
    for (from, item) in said.iter().filter(|(from, _)| *from == author(0)) {
        hub.deliver(1, *from, item.clone());
        let refused = hub.seats[&1].refused.last();
        assert!(matches!(
            refused,
            Some(Refused::Epoch | Refused::NotForThis)
        ));
        let mut item = item.clone();
        item.epoch.0 = 2;
        item.to = None;
        hub.deliver(1, *from, item);
        assert_eq!(hub.seats[&1].refused.last(), Some(&Refused::Commitment));
    }
    assert!(hub.sees(1).is_empty());
}

/// The counter is sealed: nobody who passes it on can raise it. And it rises over all sessions of an author: one that is lower is none.
#[test]
fn a_counter_that_does_not_rise_is_not_taken_in_any_session() {
    let mut hub = world();
    let at = hub.seats[&0].room.counter();
    let session = hub.session(0);
    for (session, counter, refused) in [
        (session, 0, Some(Refused::Replayed)),
        (session, at - 1, Some(Refused::Replayed)),
        (SessionId([9; 16]), at - 1, Some(Refused::Replayed)),
        (session, at, None),
        (session, at, Some(Refused::Replayed)),
        (session, u64::MAX, None),
        (session, at + 1, Some(Refused::Replayed)),
    ] {
        hub.seats.get_mut(&1).unwrap().refused.clear();
        let body = PresenceBody::State(shows(&format!("{counter}")));
        let item = forge(
            &mut hub,
            &header(author(0), session, None),
            0,
            counter,
            body,
        );
        hub.deliver(1, author(0), item);
        let got = hub.seats[&1].refused.last().copied();
        assert_eq!(got, refused, "{counter}");
    }
    assert_eq!(hub.sees(1), [(0, u64::MAX.to_string())]);
}

/// Every bit of what is sealed, and of what seals it.
#[test]
fn what_is_changed_on_the_way_is_not_taken() {
    let mut hub = world();
    let item = hub
        .at(0, |room, here| room.show(shows("c"), here))
        .unwrap()
        .send[0]
        .clone();
    for (what, refused) in [
        ("nonce", Refused::Commitment),
        ("ciphertext", Refused::Open),
        ("tag", Refused::Commitment),
        ("commitment", Refused::Commitment),
        ("signature", Refused::Signature),
    ] {
        let mut changed = item.clone();
        let sealed = &mut changed.sealed;
        match what {
            "nonce" => sealed.nonce[0] ^= 1,
            "ciphertext" => {
                let mut bytes = sealed.ciphertext.as_slice().to_vec();
                bytes[0] ^= 1;
                sealed.ciphertext = bytes.into();
            }
            "tag" => sealed.tag[0] ^= 1,
            "commitment" => sealed.commitment[0] ^= 1,
            _ => sealed.signature[0] ^= 1,
        }
        hub.deliver(1, author(0), changed);
        assert_eq!(hub.seats[&1].refused.last(), Some(&refused), "{what}");
    }
    assert_eq!(hub.sees(1), [(0, "a".to_owned())]);
    hub.deliver(1, author(0), item);
    assert_eq!(hub.sees(1), [(0, "c".to_owned())]);
}

#[test]
fn what_is_not_in_the_one_form_is_malformed() {
    let mut hub = world();
    let session = hub.session(0);
    let counter = hub.seats[&0].room.counter();
    for (at, states) in [
        vec![state(8, "x")],
        vec![state(1, "x"), state(0, "y")],
        vec![state(0, "")],
        (0..9).map(|index| state(index, "x")).collect(),
    ]
    .into_iter()
    .enumerate()
    {
        let body = PresenceBody::State(Shown { states });
        let header = header(author(0), session, None);
        let item = forge(&mut hub, &header, 0, counter + at as u64, body);
        hub.deliver(1, author(0), item);
        assert_eq!(hub.seats[&1].refused.last(), Some(&Refused::Malformed));
    }
    assert_eq!(hub.sees(1), [(0, "a".to_owned())]);
}
