//! What members say of snapshots, untrue words among them: nobody erases on them, who lies is named, and a newcomer is told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::liars::*;
use common::*;
use conclave_crdt::CrdtKind;
use conclave_doc::*;
use conclave_proto::*;
/// Two members forge a snapshot and call it right. Whoever holds the log keeps every root and names both; a newcomer sees who says what, and goes
/// over to what the next honest member makes.
#[test]
fn two_colluders_erase_nothing_and_are_named() {
    let mut sim = sim(&ROLES);
    let (id, seq) = forge(&mut sim, FORGER);
    claim(&mut sim, LIAR, id, Judgement::Match);
    let late = newcomer(&mut sim, Role::Editor);
    assert!(sim.peers[late].text().contains("forged"));
    let vouched = Basis::Vouched {
        author: user(FORGER),
        by: vec![user(LIAR)],
    };
    assert_eq!(sim.peers[late].doc.basis(), vouched);
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
    for at in [OWNER, EDITOR] {
        // What others say does not stand for an own look.
        for minutes in [0, 61] {
            assert!(!sim.confirm(at, minutes).moved);
        }
        assert_eq!(sim.judge(at), Some(DIFFERS));
        assert_eq!(sim.refuted(at), named);
        sim.peers[at].store();
        sim.restart(at);
        sim.connect(at);
        assert_eq!(sim.refuted(at), [], "told once, whatever happens");
        for minutes in [0, 60, 6000] {
            assert!(!sim.confirm(at, minutes).moved);
        }
        assert!(needs_first_root(&sim, at));
    }
    sim.settle();
    let disputed = Basis::Disputed {
        author: user(FORGER),
        for_it: vec![user(LIAR)],
        against: vec![user(OWNER), user(EDITOR)],
    };
    assert_eq!(sim.peers[late].doc.basis(), disputed);
    assert!(!sim.say(late), "it knows nothing");
    // What the newcomer writes meanwhile is in the log as any other.
    sim.peers[late].insert(0, "[late]");
    sim.settle();
    sim.snapshot(EDITOR);
    sim.settle();
    let found = Judgement::Differs(DiffersWhy::Tables);
    assert_eq!(
        sim.check(late),
        Some(found),
        "it counts what was forged too"
    );
    assert!(!sim.say(late));
    let outcome = sim.with(late, |doc, ctx, _| doc.retry(ctx).unwrap());
    assert!(matches!(outcome.blocked, Some((_, Blocked::Base))));
    sim.rejoin(late);
    sim.settle();
    assert!(!sim.peers[late].text().contains("forged"));
    let word = Basis::Word {
        author: user(EDITOR),
    };
    assert_eq!(sim.peers[late].doc.basis(), word);
    assert_eq!(sim.judge(OWNER), Some(Judgement::Match));
    sim.settle();
    assert!(matches!(sim.peers[late].doc.basis(), Basis::Vouched { .. }));
    for at in [OWNER, EDITOR] {
        assert!(!sim.confirm(at, 6000).moved);
        assert!(sim.confirm(at, 6060).moved);
        assert!(!needs_first_root(&sim, at));
    }
    sim.assert_converged();
}

/// A viewer objects to everything: snapshots and re-keying go on, roots go, at newcomers too, and the viewer is named by whoever looked.
#[test]
fn objections_stop_no_rekey_no_erasure() {
    let mut sim = sim(&ROLES);
    for round in 0..3u64 {
        sim.peers[EDITOR].insert(0, "more ");
        sim.settle();
        assert!(sim.peers[OWNER].doc.can_snapshot());
        let seq = sim.snapshot(EDITOR);
        sim.settle();
        let id = sim.peers[OWNER].doc.active_snapshot().0;
        claim(&mut sim, LIAR, id, DIFFERS);
        // The objection alone makes the look due.
        assert!(wanted(&sim, OWNER).is_some() || round > 0);
        for at in [OWNER, FORGER] {
            assert_eq!(sim.check(at), Some(Judgement::Match));
            let untrue = Refuted::Verdict {
                seq,
                user: user(LIAR),
            };
            assert_eq!(sim.refuted(at), [untrue]);
        }
        assert!(sim.say(OWNER));
        sim.settle();
        let newcomer = sim.world.add(20 + round as u8, Role::Editor);
        sim.advance_epochs();
        let late = sim.join(newcomer);
        sim.settle();
        assert!(matches!(
            sim.peers[late].doc.basis(),
            Basis::Disputed { .. }
        ));
        for at in [OWNER, EDITOR, FORGER, late] {
            assert!(!sim.confirm(at, round * 200).moved);
            assert!(sim.confirm(at, round * 200 + 60).moved, "{at}");
            assert!(!needs_first_root(&sim, at));
        }
    }
    sim.assert_converged();
    sim.assert_no_findings();
}

/// Two who forge and agree, and a viewer who objects to what heals it. Whoever holds the log erases on the healed one only; the newcomer, who cannot
/// look, sees who says what, and lets nothing go on what is disputed.
#[test]
fn two_colluders_and_a_viewer_make_nobody_erase() {
    let viewer = ROLES.len();
    let mut sim = sim(&[&ROLES[..], &[(5, Role::Viewer)]].concat());
    let (id, seq) = forge(&mut sim, FORGER);
    claim(&mut sim, LIAR, id, Judgement::Match);
    let late = newcomer(&mut sim, Role::Editor);
    let forged = Refuted::Snapshot {
        seq,
        device: sim.world.devices[FORGER],
    };
    for at in [OWNER, EDITOR] {
        assert_eq!(sim.judge(at), Some(DIFFERS));
        assert_eq!(sim.refuted(at)[0], forged);
    }
    sim.settle();
    assert!(matches!(
        sim.peers[late].doc.basis(),
        Basis::Disputed { .. }
    ));
    for minutes in [0, 61, 600] {
        for at in [OWNER, EDITOR, viewer, late] {
            assert!(!sim.confirm(at, minutes).moved, "{at}");
        }
    }
    let healed = sim.snapshot(EDITOR);
    sim.settle();
    let id = sim.peers[OWNER].doc.active_snapshot().0;
    claim(&mut sim, viewer, id, DIFFERS);
    assert_eq!(sim.judge(OWNER), Some(Judgement::Match));
    let untrue = Refuted::Verdict {
        seq: healed,
        user: user(viewer),
    };
    assert_eq!(sim.refuted(OWNER), [untrue]);
    sim.settle();
    for at in [OWNER, EDITOR] {
        assert!(needs_first_root(&sim, at));
        assert!(!sim.confirm(at, 6_000).moved);
        assert!(sim.confirm(at, 6_061).moved, "{at}");
        assert!(!needs_first_root(&sim, at));
    }
}

/// An editor's objection holds up newcomers, who cannot look, until an admin has answered it.
#[test]
fn an_admin_answers_an_editors_objection() {
    let mut sim = sim(&ROLES);
    sim.snapshot(EDITOR);
    sim.settle();
    let id = sim.peers[OWNER].doc.active_snapshot().0;
    assert_eq!(sim.judge(OWNER), Some(Judgement::Match));
    sim.settle();
    let late = newcomer(&mut sim, Role::Editor);
    claim(&mut sim, FORGER, id, DIFFERS);
    assert!(!sim.confirm(late, 0).moved);
    assert!(
        !sim.confirm(late, 600).moved,
        "it stands against a viewer's word"
    );
    assert!(sim.say(OWNER), "once more");
    assert!(!sim.say(OWNER));
    sim.settle();
    assert!(sim.confirm(late, 700).moved);
    // Who objects next is answered as well.
    claim(&mut sim, EDITOR, id, DIFFERS);
    assert!(sim.say(OWNER));
    sim.settle();
    assert!(!sim.say(OWNER));
}

/// Alone in a group, a user's own word counts for that user, and for nobody who comes later.
#[test]
fn a_word_from_when_one_user_was_alone_vouches_for_nothing() {
    let mut sim = Sim::new(
        CrdtKind::Yjs,
        &[(1, Role::Owner), (1, Role::Owner)],
        "hello",
    );
    sim.peers[1].insert(0, "oh ");
    sim.settle();
    let (id, _) = forge(&mut sim, OWNER);
    claim(&mut sim, 1, id, Judgement::Match);
    let late = newcomer(&mut sim, Role::Editor);
    let word = Basis::Word {
        author: user(OWNER),
    };
    assert_eq!(sim.peers[late].doc.basis(), word);
    assert!(!sim.confirm(late, 0).moved);
    assert!(!sim.confirm(late, 6000).moved);
    assert!(needs_first_root(&sim, late));
    // What it would say of the next, which is as false, would wash that.
    sim.snapshot(late);
    sim.settle();
    assert!(!sim.say(late));
}

/// A newcomer in a disputed document objects to nothing, whatever comes, and goes over to the next if that says something else.
#[test]
fn a_newcomer_objects_to_nothing_on_a_disputed_base() {
    let mut sim = sim(&ROLES);
    sim.snapshot(EDITOR);
    sim.settle();
    let id = sim.peers[OWNER].doc.active_snapshot().0;
    let late = newcomer(&mut sim, Role::Editor);
    claim(&mut sim, LIAR, id, DIFFERS);
    // An honest next one says the same: it stays.
    sim.peers[EDITOR].insert(0, "more ");
    sim.settle();
    sim.snapshot(OWNER);
    sim.settle();
    assert_eq!(sim.check(late), Some(Judgement::Match));
    assert!(sim.say(late), "and from where it has judged");
    sim.settle();
    let outcome = sim.with(late, |doc, ctx, _| doc.retry(ctx).unwrap());
    assert_eq!(outcome.blocked, None);
    // A false one says something else: it goes over, and back with the next honest one.
    for forges in [true, false] {
        sim.peers[EDITOR].insert(0, "more ");
        sim.settle();
        if forges {
            forge(&mut sim, FORGER);
            assert_eq!(sim.judge(OWNER), Some(DIFFERS));
            sim.settle();
        } else {
            sim.snapshot(OWNER);
            sim.settle();
        }
        assert!(matches!(sim.check(late), Some(Judgement::Differs(_))));
        assert!(!sim.say(late));
        sim.with(late, |doc, ctx, _| doc.retry(ctx).unwrap());
        sim.rejoin(late);
        sim.settle();
        assert_eq!(sim.peers[late].text().contains("forged"), forges);
    }
    sim.assert_converged();
}

/// A device that reads the document otherwise than two others do accuses nobody more, and makes nothing in their place.
#[test]
fn a_device_that_differs_alone_reports_itself() {
    let mut sim = sim(&ROLES);
    let (_, seq) = forge(&mut sim, FORGER);
    assert_eq!(sim.judge(EDITOR), Some(DIFFERS));
    let first = Refuted::Snapshot {
        seq,
        device: sim.world.devices[FORGER],
    };
    assert_eq!(sim.refuted(EDITOR), [first]);
    sim.settle();
    sim.peers[EDITOR].insert(0, "more ");
    sim.settle();
    let (second, seq) = forge(&mut sim, OWNER);
    let alone = |sim: &Sim| {
        let keys = Keys::default();
        let ctx = sim.world.ctx(EDITOR, 1, &keys);
        let doc = &sim.peers[EDITOR].doc;
        (doc.differs_alone(&ctx), doc.is_heal_due(&ctx))
    };
    assert_eq!(sim.check(EDITOR), Some(DIFFERS));
    assert_eq!(alone(&sim), (true, false));
    assert!(sim.say(EDITOR), "it objects as everybody does");
    assert_eq!(sim.refuted(EDITOR), []);
    // Somebody else finds the same: it is not alone.
    claim(&mut sim, LIAR, second, DIFFERS);
    assert!(!alone(&sim).0);
    assert!(!sim.say(EDITOR), "once");
    let named = Refuted::Snapshot {
        seq,
        device: sim.world.devices[OWNER],
    };
    assert_eq!(sim.refuted(EDITOR), [named]);
    sim.settle();
    assert_eq!(alone(&sim), (false, true));
}

/// The hour is one by the device's own clock, from when the match came; a clock that was set back begins it anew.
#[test]
fn the_hour_is_counted_from_when_the_match_came() {
    let mut sim = sim(&ROLES);
    sim.snapshot(EDITOR);
    sim.settle();
    assert_eq!(sim.judge(OWNER), Some(Judgement::Match));
    assert_eq!(sim.confirm(EDITOR, 1000), Confirmed::default());
    sim.settle();
    assert!(!sim.confirm(EDITOR, 1100).moved);
    assert!(!sim.confirm(EDITOR, 1050).moved, "set back");
    assert!(!sim.confirm(EDITOR, 1109).moved);
    restart(&mut sim, EDITOR);
    assert!(sim.confirm(EDITOR, 1110).moved);
}

/// Of many devices a few look, drawn by lot; all who have something to erase look before.
#[test]
fn a_few_of_many_devices_look_and_whoever_erases_does() {
    let mut sim = sim(&ROLES);
    sim.snapshot(EDITOR);
    sim.settle();
    let wanted = |sim: &Sim, at: usize| wanted(sim, at).is_some();
    sim.peers[OWNER].doc.draw_lot(1000, 8);
    assert!(wanted(&sim, OWNER), "the first root could go");
    assert_eq!(sim.judge(OWNER), Some(Judgement::Match));
    sim.settle();
    sim.confirm(OWNER, 0);
    sim.confirm(OWNER, 60);
    sim.peers[EDITOR].insert(0, "more ");
    sim.settle();
    sim.snapshot(EDITOR);
    sim.settle();
    let id = sim.peers[OWNER].doc.active_snapshot().0;
    assert!(!wanted(&sim, OWNER), "there is nothing to erase");
    assert!(sim.peers[OWNER].doc.is_lot_open());
    sim.peers[OWNER].doc.draw_lot(1000, 1008);
    assert!(!sim.peers[OWNER].doc.is_lot_open());
    assert!(!wanted(&sim, OWNER));
    sim.peers[OWNER].doc.draw_lot(1000, 1007);
    assert!(wanted(&sim, OWNER), "the lot fell on it");
    sim.peers[OWNER].doc.draw_lot(1000, 1008);
    claim(&mut sim, LIAR, id, DIFFERS);
    assert!(wanted(&sim, OWNER), "somebody objects");
}
