//! What liars try beside their word: each would make others take over, erase, or look for ever, and does not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::liars::{self, *};
use common::*;
use conclave_crdt::CrdtKind;
use conclave_doc::*;
use conclave_proto::*;

/// The newest record is void from the next epoch on, and all have read that.
fn void_last(sim: &mut Sim) {
    let seq = sim.service.size() - 1;
    void(sim, seq);
}

fn is_named(sim: &mut Sim, at: usize, seq: u64) {
    let named = [
        Refuted::Snapshot {
            seq,
            device: sim.world.devices[FORGER],
        },
        Refuted::Verdict {
            seq,
            user: user(LIAR),
        },
    ];
    assert_eq!(sim.refuted(at), named);
}

/// A void record in the log is no reason to take over what two members say, where the own look can tell.
#[test]
fn a_void_record_lets_two_colluders_move_nobody_who_holds_the_log() {
    let mut sim = sim(&ROLES);
    sim.peers[FORGER].insert(0, "void ");
    sim.settle();
    void_last(&mut sim);
    sim.peers[EDITOR].insert(0, "more ");
    sim.settle();
    let (id, _) = forge(&mut sim, FORGER);
    claim(&mut sim, LIAR, id, Judgement::Match);
    for at in [OWNER, EDITOR] {
        let outcome = sim.with(at, |doc, ctx, _| doc.retry(ctx).unwrap());
        assert_eq!(outcome.blocked, None, "{at}");
        for minutes in [0, 61] {
            assert!(!sim.confirm(at, minutes).moved);
        }
        // Whatever the lot says.
        sim.peers[at].doc.draw_lot(1000, 8);
        assert_eq!(sim.judge(at), Some(DIFFERS));
        // It names nobody: what is void may have been none when it was made.
        assert_eq!(sim.refuted(at), []);
        let outcome = sim.with(at, |doc, ctx, _| doc.retry(ctx).unwrap());
        assert_eq!(outcome.blocked, None, "{at}");
        sim.settle();
        assert!(!sim.confirm(at, 600).moved);
        assert!(needs_first_root(&sim, at));
        assert!(!sim.peers[at].text().contains("forged"));
        assert_eq!(sim.peers[at].doc.basis(), Basis::Checked);
    }
}

/// Where a record is unknown here, only others can say what it does. Their word is taken over, and no key goes on it.
#[test]
fn who_held_the_log_and_took_others_word_erases_nothing_on_it() {
    let mut sim = sim(&ROLES);
    sim.world.rekey();
    sim.advance_epochs();
    sim.peers[EDITOR].keys.withheld.insert(2);
    sim.peers[FORGER].insert(0, "unknown ");
    sim.settle();
    sim.world.rekey();
    sim.advance_epochs();
    sim.with(EDITOR, |doc, ctx, _| doc.set_aside(ctx).unwrap());
    sim.settle();
    assert_eq!(sim.peers[EDITOR].doc.set_aside_records().len(), 1);
    let (id, _) = forge(&mut sim, FORGER);
    claim(&mut sim, LIAR, id, Judgement::Match);
    assert_eq!(sim.check(EDITOR), None);
    let outcome = sim.with(EDITOR, |doc, ctx, _| doc.retry(ctx).unwrap());
    assert!(matches!(outcome.blocked, Some((_, Blocked::Base))));
    sim.rejoin(EDITOR);
    sim.settle();
    assert!(sim.peers[EDITOR].text().contains("forged"));
    let vouched = Basis::Vouched {
        author: user(FORGER),
        by: vec![user(LIAR)],
    };
    assert_eq!(sim.peers[EDITOR].doc.basis(), vouched);
    // Nor on what it computes from there, whoever agrees.
    sim.peers[FORGER].insert(0, "next ");
    sim.settle();
    let (id, _) = forge(&mut sim, EDITOR);
    claim(&mut sim, LIAR, id, Judgement::Match);
    for restarts in [false, true] {
        if restarts {
            restart(&mut sim, EDITOR);
        }
        sim.check(EDITOR);
        for minutes in [0, 61, 6000] {
            assert!(!sim.confirm(EDITOR, minutes).moved);
        }
        assert!(needs_first_root(&sim, EDITOR));
    }
}

/// A liar is first to call every snapshot right, so that nobody else would.
#[test]
fn a_named_liars_match_keeps_nobody_from_writing_theirs() {
    let mut sim = sim(&ROLES);
    let (id, seq) = forge(&mut sim, FORGER);
    claim(&mut sim, LIAR, id, Judgement::Match);
    for at in [OWNER, EDITOR] {
        assert_eq!(sim.judge(at), Some(DIFFERS));
        is_named(&mut sim, at, seq);
    }
    sim.settle();
    sim.snapshot(EDITOR);
    sim.settle();
    let id = sim.peers[OWNER].doc.active_snapshot().0;
    claim(&mut sim, LIAR, id, Judgement::Match);
    assert_eq!(sim.check(OWNER), Some(Judgement::Match));
    assert!(sim.say(OWNER), "a liar's word is none");
    sim.settle();
    for at in [OWNER, EDITOR] {
        assert!(!sim.confirm(at, 0).moved);
        assert!(sim.confirm(at, 60).moved);
        assert!(!needs_first_root(&sim, at));
    }
}

/// An editor objects again and again: its first objection is the one that counts, and an admin has answered it.
#[test]
fn who_says_it_again_does_not_have_the_last_word() {
    let mut sim = sim(&ROLES);
    sim.snapshot(EDITOR);
    sim.settle();
    let id = sim.peers[OWNER].doc.active_snapshot().0;
    assert_eq!(sim.judge(OWNER), Some(Judgement::Match));
    sim.settle();
    let late = newcomer(&mut sim, Role::Editor);
    let mut answers = 0;
    for _ in 0..10 {
        claim(&mut sim, FORGER, id, DIFFERS);
        answers += usize::from(sim.say(OWNER));
        sim.settle();
    }
    assert_eq!(answers, 1);
    assert!(!sim.confirm(late, 0).moved);
    assert!(sim.confirm(late, 60).moved);
    assert!(!needs_first_root(&sim, late));
}

/// A user alone has a second device. What it shows of the time before is what the first gave it, and it says so.
#[test]
fn a_lone_users_second_device_says_on_whose_word_it_is() {
    let mut sim = Sim::new(CrdtKind::Yjs, &[(1, Role::Owner)], "hello");
    sim.peers[0].insert(0, "oh ");
    sim.settle();
    sim.world.rekey();
    sim.advance_epochs();
    sim.snapshot(0);
    sim.settle();
    let second = sim.world.add(1, Role::Owner);
    sim.advance_epochs();
    let second = sim.join(second);
    sim.settle();
    let word = Basis::Word {
        author: user(OWNER),
    };
    assert_eq!(sim.peers[second].doc.basis(), word);
    assert!(sim.confirm(second, 0).moved, "its own user's word");
    assert!(!needs_first_root(&sim, second));
    assert_eq!(sim.peers[second].doc.basis(), word);
    sim.peers[second].store();
    sim.restart(second);
    sim.connect(second);
    assert_eq!(sim.peers[second].doc.basis(), word);
    // The next it looks at itself. What was before stays what it was given.
    sim.peers[0].insert(0, "my ");
    sim.settle();
    sim.snapshot(0);
    sim.settle();
    assert_eq!(sim.check(second), Some(Judgement::Match));
    assert!(sim.confirm(second, 1).moved);
    assert_eq!(sim.peers[second].doc.basis(), word);
}

/// A forgery is followed by a true snapshot before anybody looks. It is looked at all the same, and who opened the document from it learns that.
#[test]
fn a_forgery_that_a_true_snapshot_follows_is_found_out() {
    let mut sim = sim(&ROLES);
    let (id, seq) = forge(&mut sim, FORGER);
    claim(&mut sim, LIAR, id, Judgement::Match);
    let late = newcomer(&mut sim, Role::Editor);
    assert!(sim.peers[late].text().contains("forged"));
    sim.peers[EDITOR].insert(0, "more ");
    sim.settle();
    sim.snapshot(EDITOR);
    sim.settle();
    restart(&mut sim, OWNER);
    assert_eq!(check_all(&mut sim, OWNER), [Judgement::Match, DIFFERS]);
    assert_eq!(write_all(&mut sim, OWNER), 2);
    is_named(&mut sim, OWNER, seq);
    assert!(matches!(
        sim.peers[late].doc.basis(),
        Basis::Disputed { .. }
    ));
    // It goes over to the true one. What was forged is in its size.
    let found = Judgement::Differs(DiffersWhy::Tables);
    assert_eq!(sim.check(late), Some(found));
    sim.with(late, |doc, ctx, _| doc.retry(ctx).unwrap());
    sim.rejoin(late);
    sim.settle();
    assert!(!sim.peers[late].text().contains("forged"));
    sim.assert_converged();
}

/// Who opened the document from a forgery makes nothing of it in the place of what is true, and is not named for what it had to say.
#[test]
fn who_opened_a_forgery_heals_nothing_and_is_not_named() {
    let mut sim = sim(&ROLES);
    let (id, seq) = forge(&mut sim, FORGER);
    claim(&mut sim, LIAR, id, Judgement::Match);
    let late = newcomer(&mut sim, Role::Editor);
    sim.snapshot(EDITOR);
    sim.settle();
    assert_eq!(sim.judge(late), Some(DIFFERS));
    sim.settle();
    assert!(!is_heal_due(&sim, late));
    // A snapshot that it makes all the same is not its own lie.
    sim.snapshot(late);
    sim.settle();
    // The last look is at what follows from the forgery: that, and nothing else, is in it.
    let found = check_all(&mut sim, OWNER);
    assert_eq!(found, [DIFFERS, DIFFERS, Judgement::Match, DIFFERS]);
    is_named(&mut sim, OWNER, seq);
}

/// Two read one log otherwise, and each makes the next in the place of the other's: not for ever, where nobody writes.
#[test]
fn who_differ_do_not_heal_for_ever() {
    let mut sim = sim(&ROLES);
    let heals = |sim: &Sim| is_heal_due(sim, EDITOR);
    let mut made = 0;
    for round in 0..10 {
        forge(&mut sim, FORGER);
        sim.confirm(EDITOR, round * 61);
        assert_eq!(sim.judge(EDITOR), Some(DIFFERS));
        sim.settle();
        if !heals(&sim) {
            break;
        }
        sim.snapshot(EDITOR);
        sim.settle();
        made += 1;
    }
    assert_eq!(made, 4);
    restart(&mut sim, EDITOR);
    assert!(!heals(&sim));
    sim.peers[OWNER].insert(0, "news ");
    sim.settle();
    assert!(heals(&sim), "there is something new");
}

/// So many snapshots are made within the hour that nothing is remembered of the one that waits for it to be over.
#[test]
fn a_flood_of_snapshots_does_not_stop_the_hour() {
    for restarts in [false, true] {
        let mut sim = sim(&ROLES);
        sim.snapshot(EDITOR);
        sim.settle();
        assert_eq!(sim.judge(OWNER), Some(Judgement::Match));
        sim.settle();
        for minutes in 0..59 {
            for at in [OWNER, EDITOR] {
                assert!(!sim.confirm(at, minutes).moved);
            }
            sim.peers[FORGER].insert(0, "x");
            sim.settle();
            sim.snapshot(FORGER);
            sim.settle();
        }
        for at in [OWNER, EDITOR] {
            if restarts {
                restart(&mut sim, at);
            }
            // No lot falls on it.
            while sim.peers[at].doc.is_lot_open() {
                sim.peers[at].doc.draw_lot(1000, 8);
            }
            let waits = sim.confirm(at, 59);
            assert_eq!(waits.again, Some(UnixMs(3_600_000)));
            assert!(sim.confirm(at, 60).moved);
            assert!(!needs_first_root(&sim, at));
        }
    }
}

/// Each snapshot would free the same root. One look is enough for that; and however many call for one, there are only so many in an hour.
#[test]
fn looks_are_bounded() {
    let mut sim = sim(&ROLES);
    sim.snapshot(EDITOR);
    sim.settle();
    assert_eq!(sim.judge(OWNER), Some(Judgement::Match));
    sim.settle();
    let next = |sim: &mut Sim| {
        sim.peers[FORGER].insert(0, "x");
        sim.settle();
        sim.snapshot(FORGER);
        sim.settle();
    };
    for minutes in 0..20 {
        assert!(!sim.confirm(OWNER, minutes).moved);
        next(&mut sim);
        sim.peers[OWNER].doc.draw_lot(1000, 8);
        assert_eq!(wanted(&sim, OWNER), None);
    }
    // The lot falls on it each time.
    let mut looks = 0;
    for minutes in 20..59 {
        next(&mut sim);
        assert!(!sim.confirm(OWNER, minutes).moved);
        looks += check_all(&mut sim, OWNER).len();
    }
    assert_eq!(looks, 15, "and the first");
    assert_eq!(sim.confirm(OWNER, 59).again, Some(UnixMs(3_600_000)));
    assert!(sim.confirm(OWNER, 60).moved);
    next(&mut sim);
    assert_eq!(sim.check(OWNER), Some(Judgement::Match));
}

/// A forgery lies under so much that was written since that its records are in a checkpoint by the time of the look.
#[test]
fn a_forgery_under_a_flood_of_records_is_found_out() {
    let mut sim = sim(&ROLES);
    forge(&mut sim, FORGER);
    for _ in 0..8 {
        sim.peers[FORGER].insert(0, &"x".repeat(400_000));
        sim.settle();
    }
    for restarts in [false, true] {
        if restarts {
            restart(&mut sim, OWNER);
        }
        let at = if restarts { OWNER } else { EDITOR };
        assert_eq!(check_all(&mut sim, at), [DIFFERS]);
        assert!(!sim.peers[at].text().contains("forged"));
    }
    // A true one is found right as well.
    let mut sim = liars::sim(&ROLES);
    sim.snapshot(EDITOR);
    sim.settle();
    for _ in 0..8 {
        sim.peers[FORGER].insert(0, &"x".repeat(400_000));
        sim.settle();
    }
    assert_eq!(check_all(&mut sim, OWNER), [Judgement::Match]);
}

/// Where one of two opened the document from the other's snapshot, each finds the other's next right, and keys go. What was before stays on that word.
#[test]
fn keys_go_where_one_of_two_has_joined_from_the_others_snapshot() {
    let mut sim = Sim::new(CrdtKind::Yjs, &[(1, Role::Owner)], "hello");
    sim.peers[0].insert(0, "oh ");
    sim.settle();
    sim.world.rekey();
    sim.advance_epochs();
    sim.snapshot(0);
    sim.settle();
    let second = sim.world.add(2, Role::Editor);
    sim.advance_epochs();
    let late = sim.join(second);
    sim.settle();
    for minutes in [0, 100] {
        assert!(
            !sim.confirm(late, minutes).moved,
            "there is nothing but a word"
        );
    }
    sim.peers[late].insert(0, "well, ");
    sim.settle();
    sim.world.rekey();
    sim.advance_epochs();
    sim.snapshot(0);
    sim.settle();
    assert_eq!(sim.judge(late), Some(Judgement::Match));
    sim.settle();
    for at in [0, late] {
        assert!(!sim.confirm(at, 200).moved);
        assert!(sim.confirm(at, 260).moved, "{at}");
        assert!(!needs_first_root(&sim, at));
    }
    let word = Basis::Word {
        author: user(OWNER),
    };
    assert_eq!(sim.peers[0].doc.basis(), Basis::Checked);
    assert_eq!(sim.peers[late].doc.basis(), word);
    restart(&mut sim, late);
    assert_eq!(sim.peers[late].doc.basis(), word);
    // The word of who rests on a word vouches for nothing.
    let third = sim.world.add(3, Role::Editor);
    sim.advance_epochs();
    let third = sim.join(third);
    sim.settle();
    assert_eq!(sim.peers[third].doc.basis(), word);
    // All three go on: those two by one another's word.
    sim.peers[late].insert(0, "more ");
    sim.settle();
    sim.world.rekey();
    sim.advance_epochs();
    sim.snapshot(0);
    sim.settle();
    for at in [late, third] {
        assert_eq!(sim.judge(at), Some(Judgement::Match));
        sim.settle();
    }
    for at in [0, late, third] {
        assert!(!sim.confirm(at, 300).moved);
        assert!(sim.confirm(at, 360).moved, "{at}");
        assert!(!sim.peers[at].doc.roots_needed().needs(3));
    }
    sim.assert_converged();
}

/// Who opened the document from what one user says lets no key go on that and an own look alone, where there are others.
#[test]
fn a_lone_word_and_an_own_look_from_there_are_not_two() {
    let mut sim = sim(&ROLES);
    forge(&mut sim, FORGER);
    let late = newcomer(&mut sim, Role::Editor);
    forge(&mut sim, FORGER);
    sim.check(late);
    assert!(sim.say(late));
    sim.settle();
    for minutes in [0, 61, 6000] {
        assert!(!sim.confirm(late, minutes).moved);
    }
    assert!(needs_first_root(&sim, late));
}

/// Each finds both wrong before it has heard of anybody else's objection.
#[test]
fn two_forgers_silence_nobody() {
    let mut sim = sim(&ROLES);
    let (_, first) = forge(&mut sim, FORGER);
    let (_, second) = forge(&mut sim, EDITOR);
    let honest = [OWNER, LIAR];
    for at in honest {
        sim.peers[at].doc.draw_lot(1000, 8);
        while sim.check(at).is_some() {}
    }
    for at in honest {
        assert!(sim.say(at), "{at} waits for another");
    }
    sim.settle();
    for at in honest {
        while sim.say(at) {
            sim.settle();
        }
    }
    for at in honest {
        let named: Vec<u64> = sim
            .refuted(at)
            .iter()
            .filter_map(|it| match it {
                Refuted::Snapshot { seq, .. } => Some(*seq),
                Refuted::Verdict { .. } => None,
            })
            .collect();
        assert_eq!(named, [first, second], "{at}");
    }
}
