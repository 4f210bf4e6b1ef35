//! What those who have a document open see of each other.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::{Hub, author, shows, state};
use conclave_presence::{Change, TooLong};
use conclave_proto::limits::{SHOWN_BYTES, SHOWN_STATES};
use conclave_proto::presence::Shown;

fn says(of: usize, text: &str) -> (usize, String) {
    (of, text.to_owned())
}

#[test]
fn who_joins_sees_the_others_and_is_seen() {
    let mut hub = Hub::of(3, &[0, 1]);
    hub.wait(1_000);
    hub.show(0, "at 4");
    hub.show(1, "at 9");
    hub.wait(1_000);
    hub.sit(2, 3, 0);
    hub.wait(500);
    assert_eq!(hub.sees(2), [says(0, "at 4"), says(1, "at 9")]);
    hub.show(2, "at 1");
    hub.wait(500);
    assert_eq!(hub.sees(0), [says(1, "at 9"), says(2, "at 1")]);
    assert_eq!(hub.sees(1), [says(0, "at 4"), says(2, "at 1")]);
    assert!(hub.seats.values().all(|seat| seat.refused.is_empty()));
}

#[test]
fn a_join_costs_three_messages_for_each_peer() {
    const N: usize = 40;
    let mut hub = Hub::new(3);
    for of in 0..N - 1 {
        hub.sit(of, N, 0);
        hub.wait(400);
    }
    for of in 0..N - 1 {
        hub.show(of, "here");
    }
    hub.wait(1_000);
    let before = hub.delivered();
    hub.sit(N - 1, N, 0);
    hub.wait(400);
    assert_eq!(hub.sees(N - 1).len(), N - 1);
    let join = hub.delivered() - before;
    assert_eq!(join, 3 * (N - 1));
}

#[test]
fn all_who_come_at_once_see_each_other() {
    const N: usize = 20;
    let all: Vec<usize> = (0..N).collect();
    let mut hub = Hub::of(N, &all);
    for of in 0..N {
        hub.show(of, "here");
    }
    hub.wait(3_000);
    for of in 0..N {
        assert_eq!(hub.sees(of).len(), N - 1, "{of}");
    }
}

#[test]
fn what_is_shown_changes_is_cleared_and_comes_back_without_another_proof() {
    let mut hub = Hub::of(2, &[0, 1]);
    hub.show(0, "a");
    hub.wait(1_000);
    hub.show(0, "b");
    hub.wait(1_000);
    hub.show(0, "");
    hub.wait(1_000);
    assert!(hub.sees(1).is_empty());
    let sent = hub.tape.len();
    hub.show(0, "c");
    hub.wait(1_000);
    assert_eq!(hub.tape.len(), sent + 1);
    let id = hub.id(0, 0);
    let shows = |text| Change::Shows(id, state(0, text));
    let gone = Change::Gone(id);
    assert_eq!(
        hub.seats[&1].changes,
        [shows("a"), shows("b"), gone, shows("c")]
    );
}

#[test]
fn quick_changes_are_told_as_one() {
    let mut hub = Hub::of(2, &[0, 1]);
    hub.wait(1_000);
    let sent = hub.tape.len();
    for at in 0..100 {
        hub.show(0, &format!("at {at}"));
        hub.wait(10);
    }
    hub.wait(200);
    let told = hub.tape.len() - sent;
    assert!(told <= 10, "{told} in a second");
    assert_eq!(hub.sees(1), [says(0, "at 99")]);
}

#[test]
fn one_who_leaves_is_gone_at_once_and_one_who_is_cut_off_after_thirty_seconds() {
    let mut hub = Hub::of(3, &[0, 1, 2]);
    hub.show(0, "a");
    hub.show(1, "b");
    hub.wait(1_000);
    let id = hub.id(1, 0);
    hub.leave(0, true);
    assert_eq!(hub.sees(2), [says(1, "b")]);
    hub.leave(1, false);
    hub.wait(29_000);
    assert_eq!(hub.sees(2), [says(1, "b")]);
    hub.wait(2_000);
    assert!(hub.sees(2).is_empty());
    assert_eq!(hub.seats[&2].changes.last(), Some(&Change::Gone(id)));
}

#[test]
fn who_stays_is_shown_for_as_long_as_he_stays() {
    let mut hub = Hub::of(2, &[0, 1]);
    hub.show(0, "a");
    hub.wait(600_000);
    assert_eq!(hub.sees(1), [says(0, "a")]);
    let shows = Change::Shows(hub.id(0, 0), state(0, "a"));
    assert_eq!(hub.seats[&1].changes, [shows], "told once");
}

#[test]
fn one_whose_messages_were_lost_is_found_by_what_he_shows() {
    let mut hub = Hub::of(2, &[0]);
    // Nobody hears that the second joins.
    let deaf = hub.seats.remove(&0).unwrap();
    hub.sit(1, 2, 0);
    hub.wait(5_000);
    hub.seats.insert(0, deaf);
    hub.show(1, "here");
    hub.wait(1_000);
    assert_eq!(hub.sees(0), [says(1, "here")]);
    hub.show(0, "too");
    hub.wait(1_000);
    assert_eq!(hub.sees(1), [says(0, "too")]);
}

#[test]
fn a_silent_one_is_asked_three_times_and_then_left_alone() {
    let mut hub = Hub::of(2, &[0, 1]);
    hub.show(1, "here");
    hub.wait(1_000);
    let seat = hub.seats.remove(&1).unwrap();
    // Forgotten in the meantime; the service shows again what it has.
    hub.wait(40_000);
    assert!(hub.sees(0).is_empty());
    hub.seats.insert(1, seat);
    let state = hub
        .at(1, |room, here| room.show(shows("still"), here))
        .unwrap()
        .send;
    hub.seats.remove(&1);
    let sent = hub.tape.len();
    hub.deliver(0, author(1), state[0].clone());
    hub.wait(120_000);
    let asked: Vec<_> = hub.tape[sent..]
        .iter()
        .filter(|(_, item)| item.to.is_some())
        .collect();
    assert_eq!(asked.len(), 3);
    assert!(hub.sees(0).is_empty());
}

#[test]
fn who_is_ahead_is_shown_once_the_log_has_come() {
    let mut hub = Hub::of(2, &[0, 1]);
    hub.wait(1_000);
    hub.seats.get_mut(&0).unwrap().log.size = 6;
    hub.show(0, "ahead");
    assert!(hub.sees(1).is_empty());
    hub.seats.get_mut(&1).unwrap().log.size = 6;
    let step = hub.at(1, |room, here| room.look_again(here));
    hub.pass(1, step);
    assert_eq!(hub.sees(1), [says(0, "ahead")]);
}

#[test]
fn in_a_new_epoch_all_are_shown_again_and_who_was_removed_is_gone() {
    let mut hub = Hub::of(3, &[0, 1, 2]);
    for of in 0..3 {
        hub.show(of, "here");
    }
    hub.wait(1_000);
    for of in [0, 1] {
        let seat = hub.seats.get_mut(&of).unwrap();
        seat.epoch = 2;
        seat.log.members.remove(&author(2).device);
        let step = hub.at(of, |room, here| room.new_epoch(here));
        hub.pass(of, step);
        assert_eq!(hub.sees(of), [says(1 - of, "here")]);
    }
    let sent = hub.tape.len();
    hub.wait(2_100);
    let again = &hub.tape[sent..];
    let second = |of| {
        again
            .iter()
            .any(|(from, item)| *from == author(of) && item.epoch.0 == 2)
    };
    assert!(second(0) && second(1));
    assert!(
        again.iter().all(|(_, item)| item.to.is_none()),
        "nobody proves anything again"
    );
    hub.wait(40_000);
    assert_eq!(hub.sees(0), [says(1, "here")]);
}

#[test]
fn more_than_fits_is_not_shown() {
    let mut hub = Hub::of(2, &[0, 1]);
    hub.wait(1_000);
    let most = "x".repeat(SHOWN_BYTES);
    hub.show(0, &most);
    hub.wait(1_000);
    assert_eq!(hub.sees(1), [says(0, &most)]);
    let more = shows(&"x".repeat(SHOWN_BYTES + 1));
    let refused = hub.at(0, |room, here| room.show(more, here).err());
    assert_eq!(refused, Some(TooLong));
    // The longest is also what a reply and an answer can hold.
    hub.leave(1, true);
    hub.sit(1, 2, 50);
    hub.wait(1_000);
    assert_eq!(hub.sees(1), [says(0, &most)]);
}

fn several(states: &[(u8, &str)]) -> Shown {
    let states = states.iter().map(|(index, text)| state(*index, text));
    Shown {
        states: states.collect(),
    }
}

#[test]
fn a_session_shows_several_states_and_each_is_told_by_itself() {
    let mut hub = Hub::of(2, &[0, 1]);
    hub.wait(1_000);
    for states in [
        &[(0, "one"), (3, "two")][..],
        &[(0, "one"), (3, "three")],
        &[(3, "three")],
        &[],
    ] {
        let step = hub.at(0, |room, here| room.show(several(states), here));
        hub.pass(0, step.unwrap());
        hub.wait(1_000);
        let seen: Vec<_> = states.iter().map(|(_, text)| says(0, text)).collect();
        assert_eq!(hub.sees(1), seen);
    }
    let shows = |index, text| Change::Shows(hub.id(0, index), state(index, text));
    let gone = |index| Change::Gone(hub.id(0, index));
    assert_eq!(
        hub.seats[&1].changes,
        [
            shows(0, "one"),
            shows(3, "two"),
            shows(3, "three"),
            gone(0),
            gone(3)
        ]
    );
}

#[test]
fn what_a_later_session_shows_takes_the_place_of_what_was_there() {
    let mut hub = Hub::of(2, &[0, 1]);
    hub.wait(1_000);
    let before = several(&[(0, "one"), (1, "two")]);
    let step = hub.at(0, |room, here| room.show(before, here));
    hub.pass(0, step.unwrap());
    hub.wait(1_000);
    let gone = hub.id(0, 1);
    // Cut off, and back at once.
    let counter = hub.leave(0, false);
    hub.seats.get_mut(&1).unwrap().changes.clear();
    hub.sit(0, 2, counter);
    hub.show(0, "one");
    hub.wait(1_000);
    let id = hub.id(0, 0);
    let last = hub.seats[&1].changes.last();
    assert_eq!(last, Some(&Change::Shows(id, state(0, "one"))));
    assert!(hub.seats[&1].changes.contains(&Change::Gone(gone)));
    assert_eq!(hub.sees(1), [says(0, "one")]);
}

#[test]
fn what_is_shown_has_one_form() {
    let mut hub = Hub::of(1, &[0]);
    let most: Vec<(u8, &str)> = (0..8).map(|index| (index, "x")).collect();
    assert_eq!(most.len(), SHOWN_STATES);
    assert!(several(&most).is_well_formed());
    let half = "x".repeat(SHOWN_BYTES / 2 + 1);
    for bad in [
        &[(8, "x")][..],
        &[(1, "x"), (1, "y")],
        &[(1, "x"), (0, "y")],
        &[(0, "")],
        &[(0, &half), (1, &half)],
    ] {
        let refused = hub.at(0, |room, here| room.show(several(bad), here).err());
        assert_eq!(refused, Some(TooLong));
    }
}

#[test]
fn whoever_waits_before_asking_says_nothing_to_all_until_then() {
    let mut hub = Hub::of(3, &[0, 1]);
    hub.show(0, "a");
    hub.wait(1_000);
    hub.sit(2, 3, 0);
    let counter = hub.leave(2, true);
    hub.wait(1_000);
    hub.enter(2, 3, counter, 5_000);
    hub.show(2, "late");
    let sent = hub.tape.len();
    hub.wait(4_900);
    assert!(hub.tape[sent..].iter().all(|(from, _)| *from != author(2)));
    hub.wait(1_100);
    assert_eq!(hub.sees(2), [says(0, "a")]);
    assert_eq!(hub.sees(0), [says(2, "late")]);
}

/// A join among N: each of the others hears it, says what it shows, and hears what the joiner shows.
#[test]
fn among_a_hundred_devices_a_join_costs_three_deliveries_for_each() {
    const N: usize = 100;
    let mut hub = Hub::new(11);
    let mut most = 0;
    for of in 0..N {
        let before = hub.delivered();
        hub.sit(of, N, 0);
        hub.wait(310);
        let join = hub.delivered() - before;
        assert_eq!(join, 3 * of, "{of} were there");
        most = most.max(join);
    }
    assert!(most <= 3 * N);
    for of in 0..N {
        hub.show(of, "here");
    }
    hub.wait(1_000);
    for of in [0, N / 2, N - 1] {
        assert_eq!(hub.sees(of).len(), N - 1, "{of}");
    }
}
