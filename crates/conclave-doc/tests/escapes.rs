//! What liars try so as not to be found out, or so that others cannot do without them: none of it helps.

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
use conclave_proto::frame::DeliveredRecord;
use conclave_proto::*;

fn is_named(all: &[Refuted], who: usize) -> bool {
    all.iter().any(|it| match it {
        Refuted::Snapshot { device, .. } => *device == DeviceId([who as u8 + 1; 16]),
        Refuted::Verdict { user: of, .. } => *of == user(who),
    })
}

/// More is written, and a member makes a true snapshot of it.
fn next(sim: &mut Sim, by: usize) -> (Hash, u64) {
    sim.peers[by].insert(0, "x");
    sim.settle();
    let seq = sim.snapshot(by);
    sim.settle();
    (sim.peers[by].doc.active_snapshot().0, seq)
}

/// The only one who judged the log from its beginning has left. A viewer objects to what the others opened the document from: they check the next one
/// all the same, say so, and let keys go.
#[test]
fn a_viewers_objection_keeps_no_key_where_all_joined_later() {
    let mut sim = Sim::new(CrdtKind::Yjs, &[(1, Role::Owner)], "hello");
    sim.peers[OWNER].insert(0, "oh ");
    sim.settle();
    sim.world.rekey();
    sim.advance_epochs();
    let base = next(&mut sim, OWNER).0;
    let ben = newcomer(&mut sim, Role::Admin);
    let cleo = newcomer(&mut sim, Role::Editor);
    let dana = newcomer(&mut sim, Role::Editor);
    let vic = newcomer(&mut sim, Role::Viewer);
    sim.peers[OWNER].online = false;
    sim.world.remove(OWNER);
    sim.advance_epochs();
    claim(&mut sim, vic, base, DIFFERS);
    sim.peers[cleo].insert(0, "more ");
    sim.settle();
    sim.snapshot(ben);
    sim.settle();
    for at in [cleo, dana] {
        assert_eq!(sim.judge(at), Some(Judgement::Match));
        sim.settle();
    }
    for at in [ben, cleo, dana] {
        assert!(!sim.confirm(at, 0).moved);
        assert!(sim.confirm(at, 60).moved, "{at}");
        assert!(!needs_first_root(&sim, at));
        assert!(!sim.peers[at].doc.roots_needed().needs(1));
        // On whose word older text rests does not change by that.
        assert!(matches!(sim.peers[at].doc.basis(), Basis::Disputed { .. }));
    }
}

/// A forgery is followed by more snapshots than are remembered with what is said of them, by its author and another.
#[test]
fn a_forgery_under_many_snapshots_is_looked_at() {
    for restarts in [false, true] {
        let mut sim = sim(&ROLES);
        let (id, seq) = forge(&mut sim, FORGER);
        claim(&mut sim, LIAR, id, Judgement::Match);
        for _ in 0..20 {
            next(&mut sim, FORGER);
        }
        if restarts {
            restart(&mut sim, OWNER);
        }
        assert!(check_all(&mut sim, OWNER).contains(&DIFFERS));
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
        assert_eq!(sim.refuted(OWNER), named);
        let before = sim.service.size();
        write_all(&mut sim, OWNER);
        assert!(sim.service.size() > before);
        assert_eq!(sim.peers[OWNER].doc.missed(), []);
    }
}

/// What was found wrong and not said in the log yet is not forgotten for what comes after it.
#[test]
fn what_was_found_wrong_is_said_after_a_flood() {
    let mut sim = sim(&ROLES);
    forge(&mut sim, FORGER);
    assert_eq!(sim.check(OWNER), Some(DIFFERS));
    for _ in 0..20 {
        next(&mut sim, FORGER);
    }
    assert!(sim.say(OWNER));
    sim.settle();
    assert!(!sim.say(OWNER));
}

/// More come than this device can keep in mind: it is told who made them, once, and looks at all others of theirs.
#[test]
fn who_makes_more_than_can_be_looked_at_is_told_of() {
    let mut sim = sim(&ROLES);
    let (_, first) = forge(&mut sim, FORGER);
    let (_, honest) = next(&mut sim, EDITOR);
    for _ in 0..80 {
        next(&mut sim, FORGER);
    }
    let missed = Missed {
        seq: first,
        device: sim.world.devices[FORGER],
    };
    assert_eq!(sim.peers[OWNER].doc.missed(), [missed]);
    restart(&mut sim, OWNER);
    assert_eq!(sim.peers[OWNER].doc.missed(), []);
    next(&mut sim, FORGER);
    // Whatever the lot says.
    while sim.peers[OWNER].doc.is_lot_open() {
        sim.peers[OWNER].doc.draw_lot(1000, 8);
    }
    let active = sim.peers[OWNER].doc.active_snapshot();
    let wanted = wanted(&sim, OWNER).unwrap();
    assert_eq!(wanted.seq, sim.service.size() - 1, "{active:?}");
    // The flood of one has not driven out what another made.
    let looked = |sim: &mut Sim| {
        let mut seqs = Vec::new();
        while let Some(wanted) = self::wanted(sim, OWNER) {
            seqs.push(wanted.seq);
            sim.check(OWNER);
        }
        seqs
    };
    sim.confirm(OWNER, 0);
    let mut all = looked(&mut sim);
    for hour in 1..8 {
        sim.confirm(OWNER, hour * 60);
        all.extend(looked(&mut sim));
    }
    assert!(!all.contains(&honest), "its lot was another");
    assert!(all.len() > 40, "{all:?}");
}

/// Two forge and agree; who opened the document from that finds their next right as well, and an hour passes. That makes no judge of it.
#[test]
fn who_rests_on_a_forgery_convicts_nobody() {
    let mut sim = sim(&ROLES);
    let (id, _) = forge(&mut sim, FORGER);
    claim(&mut sim, LIAR, id, Judgement::Match);
    let late = newcomer(&mut sim, Role::Editor);
    let other = newcomer(&mut sim, Role::Editor);
    assert!(sim.peers[late].text().contains("forged"));
    let (id, _) = next(&mut sim, other);
    claim(&mut sim, LIAR, id, Judgement::Match);
    assert_eq!(sim.check(late), Some(Judgement::Match));
    assert!(!sim.confirm(late, 0).moved);
    assert!(sim.confirm(late, 60).moved);
    let vouched = Basis::Vouched {
        author: user(FORGER),
        by: vec![user(LIAR)],
    };
    assert_eq!(sim.peers[late].doc.basis(), vouched);
    restart(&mut sim, late);
    assert_eq!(sim.peers[late].doc.basis(), vouched);
    // The first honest one comes.
    next(&mut sim, OWNER);
    assert!(matches!(sim.check(late), Some(Judgement::Differs(_))));
    assert_eq!(sim.refuted(late), []);
    assert!(!is_heal_due(&sim, late) || sim.say(late));
    // Whoever judged the log convicts, and it goes over.
    for judgement in check_all(&mut sim, EDITOR) {
        assert!(matches!(
            judgement,
            Judgement::Match | Judgement::Differs(_)
        ));
    }
    write_all(&mut sim, EDITOR);
    let named = sim.refuted(EDITOR);
    assert!(is_named(&named, FORGER) && is_named(&named, LIAR));
    assert!(!is_named(&named, late) && !is_named(&named, other));
    sim.with(late, |doc, ctx, _| doc.retry(ctx).unwrap());
    sim.rejoin(late);
    sim.settle();
    assert!(!sim.peers[late].text().contains("forged"));
}

/// Who was away for long goes on from a later snapshot: it lets keys go as who opened the document from that one.
#[test]
fn who_was_away_for_long_lets_keys_go() {
    let mut sim = sim(&ROLES);
    sim.peers[EDITOR].online = false;
    next(&mut sim, FORGER);
    let (id, _) = next(&mut sim, FORGER);
    // The service has the first only by its leaf by now, or says so.
    sim.rejoin(EDITOR);
    sim.settle();
    let word = Basis::Word {
        author: user(FORGER),
    };
    assert_eq!(sim.peers[EDITOR].doc.basis(), word);
    for minutes in [0, 61] {
        assert!(!sim.confirm(EDITOR, minutes).moved);
    }
    claim(&mut sim, OWNER, id, Judgement::Match);
    assert!(!sim.confirm(EDITOR, 100).moved);
    assert!(sim.confirm(EDITOR, 160).moved);
    assert!(!needs_first_root(&sim, EDITOR));
    sim.assert_converged();
}

/// Who was named for a false snapshot says of the next what is true, before anybody else: that is no word for who has named them.
#[test]
fn who_made_a_forgery_keeps_nobody_from_saying_what_is_true() {
    let mut sim = sim(&ROLES);
    forge(&mut sim, FORGER);
    assert_eq!(sim.judge(OWNER), Some(DIFFERS));
    assert!(is_named(&sim.refuted(OWNER), FORGER));
    sim.settle();
    let (id, _) = next(&mut sim, EDITOR);
    claim(&mut sim, FORGER, id, Judgement::Match);
    assert_eq!(sim.check(OWNER), Some(Judgement::Match));
    assert!(sim.say(OWNER));
}

/// A liar agrees first. Who has named it needs somebody else's word, and others, who have not looked, know from the log that it is contradicted.
#[test]
fn a_liar_who_agrees_first_keeps_nobody_silent() {
    let mut sim = sim(&ROLES);
    let (id, _) = forge(&mut sim, FORGER);
    claim(&mut sim, LIAR, id, Judgement::Match);
    assert_eq!(sim.judge(EDITOR), Some(DIFFERS));
    assert!(is_named(&sim.refuted(EDITOR), LIAR));
    sim.settle();
    let (id, _) = next(&mut sim, EDITOR);
    claim(&mut sim, LIAR, id, Judgement::Match);
    assert!(!sim.confirm(EDITOR, 0).moved);
    assert!(!sim.confirm(EDITOR, 61).moved, "its word is none here");
    assert_eq!(sim.check(OWNER), Some(Judgement::Match));
    assert_eq!(sim.refuted(OWNER), []);
    assert!(sim.say(OWNER));
    sim.settle();
    assert!(!sim.confirm(EDITOR, 100).moved);
    assert!(sim.confirm(EDITOR, 160).moved);
}

/// The hour is that of somebody's match that counts: one whose author was named since begins no hour for others.
#[test]
fn the_hour_of_a_named_liars_match_is_nobody_elses() {
    let mut sim = sim(&ROLES);
    let (id, _) = next(&mut sim, EDITOR);
    claim(&mut sim, LIAR, id, Judgement::Match);
    assert!(!sim.confirm(EDITOR, 0).moved);
    let (forgery, _) = forge(&mut sim, FORGER);
    claim(&mut sim, LIAR, forgery, Judgement::Match);
    assert_eq!(sim.check(EDITOR), Some(DIFFERS));
    assert!(is_named(&sim.refuted(EDITOR), LIAR));
    claim(&mut sim, OWNER, id, Judgement::Match);
    assert!(!sim.confirm(EDITOR, 59).moved);
    assert!(!sim.confirm(EDITOR, 60).moved);
    assert!(!sim.confirm(EDITOR, 118).moved);
    assert!(sim.confirm(EDITOR, 119).moved);
}

/// A record is void after somebody made a snapshot of it in good faith, and everything is in a checkpoint by the time of the look.
#[test]
fn who_covered_what_was_void_later_is_not_named_after_a_checkpoint() {
    let mut sim = sim(&ROLES);
    sim.peers[FORGER].insert(0, "void ");
    sim.settle();
    let seq = sim.service.size() - 1;
    sim.snapshot(EDITOR);
    sim.settle();
    void(&mut sim, seq);
    for at in [EDITOR, LIAR] {
        sim.peers[at].online = false;
    }
    for _ in 0..6 {
        sim.peers[FORGER].insert(0, &"x".repeat(400_000));
        sim.settle();
    }
    restart(&mut sim, OWNER);
    assert!(check_all(&mut sim, OWNER).contains(&Judgement::Differs(DiffersWhy::Tables)));
    assert_eq!(sim.refuted(OWNER), []);
    // Who forges now must have known.
    sim.world.rekey();
    sim.advance_epochs();
    forge(&mut sim, FORGER);
    assert!(check_all(&mut sim, OWNER).contains(&DIFFERS));
    let named = sim.refuted(OWNER);
    assert!(is_named(&named, FORGER) && !is_named(&named, EDITOR));
}

/// What one device has confirmed settles nothing: where the log does not settle it, a void record is void for all.
#[test]
fn what_is_void_follows_from_the_log_alone() {
    let mut sim = Sim::new(CrdtKind::Yjs, &ROLES, "hello");
    sim.peers[FORGER].insert(0, "void ");
    sim.settle();
    let seq = sim.service.size() - 1;
    let (id, _) = next(&mut sim, EDITOR);
    assert_eq!(sim.judge(OWNER), Some(Judgement::Match));
    sim.settle();
    assert!(!sim.confirm(EDITOR, 0).moved);
    assert!(sim.confirm(EDITOR, 60).moved);
    claim(&mut sim, FORGER, id, DIFFERS);
    void(&mut sim, seq);
    for at in [OWNER, EDITOR, FORGER, LIAR] {
        assert!(!sim.peers[at].text().contains("void"), "{at}");
    }
    sim.assert_converged();
}

/// Who says what is not true says as well that it has judged from elsewhere. Only a snapshot explains that which somebody else made, and that is false.
#[test]
fn an_invented_beginning_excuses_no_liar() {
    let mut sim = sim(&ROLES);
    let (_, right) = next(&mut sim, OWNER);
    let right = sim.covered_by(right);
    let named = |sim: &mut Sim, from: u64| {
        let (id, _) = next(sim, EDITOR);
        claim_from(sim, LIAR, id, from, DIFFERS);
        check_all(sim, OWNER);
        is_named(&sim.refuted(OWNER), LIAR)
    };
    let beyond = sim.service.size() + 1;
    assert!(named(&mut sim, 1), "there is no snapshot");
    assert!(named(&mut sim, beyond), "nothing was judged");
    assert!(named(&mut sim, beyond + 1000));
    assert!(named(&mut sim, right), "that one is right");
    assert!(named(&mut sim, u64::MAX));
    // Its own forgery is no excuse.
    let (_, own) = forge(&mut sim, FORGER);
    let own = sim.covered_by(own);
    let (id, _) = next(&mut sim, EDITOR);
    claim_from(&mut sim, FORGER, id, own, DIFFERS);
    claim_from(&mut sim, LIAR, id, own, DIFFERS);
    // No lot falls on it: what they say makes the look due.
    while sim.peers[OWNER].doc.is_lot_open() {
        sim.peers[OWNER].doc.draw_lot(1000, 8);
    }
    sim.confirm(OWNER, 61);
    while wanted(&sim, OWNER).is_some() {
        sim.check(OWNER);
    }
    let seq = sim.service.size() - 3;
    let told = sim.refuted(OWNER);
    let verdict = |who| Refuted::Verdict {
        seq,
        user: user(who),
    };
    assert!(told.contains(&verdict(FORGER)), "{told:?}");
    assert!(!told.contains(&verdict(LIAR)), "it may have opened that");
    assert!(is_named(&told, FORGER));
}

/// The service gives the forgery to nobody any more. Who received it once has it.
#[test]
fn what_came_once_cannot_be_withheld() {
    for restarts in [false, true] {
        let mut sim = sim(&ROLES);
        let (id, seq) = forge(&mut sim, FORGER);
        next(&mut sim, FORGER);
        if restarts {
            restart(&mut sim, OWNER);
        }
        let leaf = vec![DeliveredRecord::Leaf(id)];
        sim.with(OWNER, |doc, ctx, _| doc.deliver(ctx, seq, leaf).unwrap());
        assert!(check_all(&mut sim, OWNER).contains(&DIFFERS));
        assert!(is_named(&sim.refuted(OWNER), FORGER));
    }
}

/// Where it is not here, and the service must have it, that is told: once, and not of what the service may have let go of.
#[test]
fn what_the_service_withholds_is_told() {
    let mut sim = sim(&ROLES);
    let (id, seq) = forge(&mut sim, FORGER);
    let days = |days: u64| UnixMs(days * 24 * 3600 * 1000);
    sim.peers[OWNER].doc.in_step(days(0));
    next(&mut sim, FORGER);
    next(&mut sim, FORGER);
    restart(&mut sim, OWNER);
    // The row is lost.
    sim.peers[OWNER].doc.take_snapshot(seq, &[]);
    let leaf = vec![DeliveredRecord::Leaf(id)];
    sim.with(OWNER, |doc, ctx, _| doc.deliver(ctx, seq, leaf).unwrap());
    assert_eq!(sim.peers[OWNER].doc.withheld(days(31)), Vec::<u64>::new());
    assert_eq!(sim.peers[OWNER].doc.withheld(days(29)), [seq]);
    assert_eq!(sim.peers[OWNER].doc.withheld(days(29)), Vec::<u64>::new());
    restart(&mut sim, OWNER);
    assert_eq!(sim.peers[OWNER].doc.withheld(days(29)), Vec::<u64>::new());
    // The active one and its parent stay however old they are.
    for back in [1, 0] {
        let (id, seq) = sim.snapshot_at(back);
        sim.peers[OWNER].doc.take_snapshot(seq, &[]);
        let leaf = vec![DeliveredRecord::Leaf(id)];
        sim.with(OWNER, |doc, ctx, _| doc.deliver(ctx, seq, leaf).unwrap());
        assert_eq!(sim.peers[OWNER].doc.withheld(days(400)), [seq], "{back}");
    }
    // Nor may it pass over what follows where this device was here meanwhile.
    for (day, told) in [(29, true), (31, false)] {
        sim.peers[OWNER].doc.in_step(days(0));
        let seq = sim.peers[OWNER].doc.size();
        let leaf = vec![DeliveredRecord::Leaf(Hash([9; 32]))];
        let outcome = sim.with(OWNER, |doc, ctx, _| doc.deliver(ctx, seq, leaf).unwrap());
        assert_eq!(outcome.blocked, Some((seq, Blocked::Base)));
        let found = sim.peers[OWNER].doc.withheld(days(day));
        assert_eq!(found.contains(&seq), told, "{day}");
    }
}

/// A look tells the epoch of what was looked at, by which an unreadable one is judged.
#[test]
fn an_older_snapshot_is_judged_by_its_own_epoch() {
    let mut sim = sim(&ROLES);
    let epoch = sim.world.epoch();
    forge_unreadable(&mut sim, FORGER);
    sim.world.rekey();
    sim.advance_epochs();
    next(&mut sim, FORGER);
    let unread = Checked {
        epoch,
        author: sim.world.devices[FORGER],
        judgement: Judgement::Differs(DiffersWhy::Unreadable),
    };
    let mut found = Vec::new();
    while let Some(checked) = sim.look(OWNER) {
        found.push(checked);
    }
    assert!(found.contains(&unread), "{found:?}");
    assert_eq!(found.len(), 2);
}

/// A device that cannot read a record goes over to a snapshot that it cannot check. It lets keys go as a newcomer does, where two who may write say that it
/// is right, one of them an admin.
#[test]
fn who_could_not_check_lets_keys_go_as_others_say() {
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
    let (id, _) = next(&mut sim, FORGER);
    claim(&mut sim, LIAR, id, Judgement::Match);
    sim.with(EDITOR, |doc, ctx, _| doc.retry(ctx).unwrap());
    sim.rejoin(EDITOR);
    sim.settle();
    for minutes in [0, 61] {
        assert!(!sim.confirm(EDITOR, minutes).moved, "a viewer's word");
    }
    assert!(needs_first_root(&sim, EDITOR));
    claim(&mut sim, OWNER, id, Judgement::Match);
    assert!(!sim.confirm(EDITOR, 100).moved);
    assert!(sim.confirm(EDITOR, 160).moved);
    assert!(!needs_first_root(&sim, EDITOR));
    // The next as well, which it finds right itself.
    sim.world.rekey();
    sim.advance_epochs();
    let (id, _) = next(&mut sim, FORGER);
    assert_eq!(sim.check(EDITOR), Some(Judgement::Match));
    claim(&mut sim, LIAR, id, Judgement::Match);
    for minutes in [200, 261] {
        assert!(!sim.confirm(EDITOR, minutes).moved);
    }
    claim(&mut sim, OWNER, id, Judgement::Match);
    assert!(!sim.confirm(EDITOR, 300).moved);
    assert!(sim.confirm(EDITOR, 360).moved);
    assert!(!sim.peers[EDITOR].doc.roots_needed().needs(3));
}

/// A device found a snapshot wrong, and others say that it settles what is void. It gives way, and lets no key go on what follows from there.
#[test]
fn whose_check_was_overruled_lets_nothing_go() {
    let mut sim = sim(&ROLES);
    sim.peers[FORGER].insert(0, "void ");
    sim.settle();
    let seq = sim.service.size() - 1;
    sim.snapshot(OWNER);
    sim.settle();
    let id = sim.peers[OWNER].doc.active_snapshot().0;
    void(&mut sim, seq);
    claim(&mut sim, FORGER, id, Judgement::Match);
    assert!(matches!(sim.judge(LIAR), Some(Judgement::Differs(_))));
    sim.settle();
    sim.with(LIAR, |doc, ctx, _| doc.retry(ctx).unwrap());
    sim.rejoin(LIAR);
    sim.settle();
    let disputed = Basis::Disputed {
        author: user(OWNER),
        for_it: vec![user(FORGER)],
        against: vec![user(LIAR)],
    };
    assert_eq!(sim.peers[LIAR].doc.basis(), disputed);
    for restarts in [false, true] {
        if restarts {
            restart(&mut sim, LIAR);
        }
        for minutes in [0, 61, 6000] {
            assert!(!sim.confirm(LIAR, minutes).moved);
        }
        assert!(needs_first_root(&sim, LIAR));
    }
}

/// An admin declares records void that a forgery covers, after it came: what else is in it was never in the log. Who made one of what was there is not named.
#[test]
fn a_void_after_the_fact_excuses_no_forger() {
    for (voids, restarts) in [(1, false), (1, true), (2, false), (2, true), (9, false)] {
        let mut sim = sim(&ROLES);
        let first = sim.service.size();
        for _ in 0..voids {
            sim.peers[FORGER].insert(0, "void ");
            sim.settle();
        }
        let (_, honest) = next(&mut sim, EDITOR);
        let (id, seq) = forge(&mut sim, FORGER);
        if restarts {
            restart(&mut sim, OWNER);
        }
        let seqs: Vec<u64> = (first..first + voids).collect();
        void_all(&mut sim, &seqs);
        claim(&mut sim, LIAR, id, Judgement::Match);
        if restarts {
            restart(&mut sim, OWNER);
        }
        let found = check_all(&mut sim, OWNER);
        assert_eq!(found, [Judgement::Differs(DiffersWhy::Tables); 2]);
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
        let told = sim.refuted(OWNER);
        match voids {
            // Of so many at once it is not told apart which of them somebody knew.
            9 => assert_eq!(told, []),
            _ => assert_eq!(told, named, "{voids} {restarts}, and not {honest}"),
        }
        assert!(!sim.peers[OWNER].text().contains("forged"));
    }
}

/// Whoever looked before the void has found it out, and what that void does makes nothing of it good.
#[test]
fn what_was_refuted_before_a_void_stays_so() {
    let mut sim = sim(&ROLES);
    sim.peers[FORGER].insert(0, "void ");
    sim.settle();
    let void_at = sim.service.size() - 1;
    let (_, honest) = next(&mut sim, EDITOR);
    let (_, seq) = forge(&mut sim, FORGER);
    assert_eq!(check_all(&mut sim, OWNER).len(), 2);
    void(&mut sim, void_at);
    check_all(&mut sim, OWNER);
    let forged = Refuted::Snapshot {
        seq,
        device: sim.world.devices[FORGER],
    };
    assert_eq!(sim.refuted(OWNER), [forged], "and not {honest}");
}

/// The void record is in a checkpoint by then, as is all that the forgery covers.
#[test]
fn a_void_of_what_is_in_a_checkpoint_excuses_no_forger() {
    let mut sim = sim(&ROLES);
    sim.peers[FORGER].insert(0, "void ");
    sim.settle();
    let void_at = sim.service.size() - 1;
    let (_, honest) = next(&mut sim, EDITOR);
    let (id, seq) = forge(&mut sim, FORGER);
    sim.peers[OWNER].doc.draw_lot(1, 0);
    sim.peers[OWNER].doc.draw_lot(1, 0);
    for _ in 0..8 {
        sim.peers[FORGER].insert(0, &"x".repeat(400_000));
        sim.settle();
    }
    restart(&mut sim, OWNER);
    void(&mut sim, void_at);
    restart(&mut sim, OWNER);
    let found = check_all(&mut sim, OWNER);
    assert_eq!(found, [DIFFERS]);
    let forged = Refuted::Snapshot {
        seq,
        device: sim.world.devices[FORGER],
    };
    assert_eq!(sim.refuted(OWNER), [forged], "and not {honest}");
    // Others say that it is right: they move nobody before it is looked at, and then it is contested.
    assert_eq!(write_all(&mut sim, OWNER), 1);
    claim(&mut sim, LIAR, id, Judgement::Match);
    assert_eq!(sim.peers[OWNER].doc.basis(), Basis::Checked);
}

/// So many come that it waits apart from the newest, until it is looked at.
#[test]
fn a_snapshot_that_waits_apart_is_not_past_before_it_was_looked_at() {
    let mut sim = sim(&ROLES);
    let (_, seq) = forge(&mut sim, FORGER);
    for _ in 0..20 {
        next(&mut sim, FORGER);
    }
    let at = At::Snapshot { seq, author: None };
    assert!(!sim.peers[OWNER].doc.has_passed(&at));
    check_all(&mut sim, OWNER);
    assert!(sim.peers[OWNER].doc.has_passed(&at));
}

/// Somebody has forged a snapshot, and a colluder has come since. Whoever opened the document from a forgery answers for what they add, and for that alone.
#[test]
fn a_fresh_device_answers_for_what_it_adds_to_a_forgery() {
    for restarts in [false, true] {
        let mut sim = sim(&ROLES);
        let (_, first) = forge(&mut sim, FORGER);
        let honest = newcomer(&mut sim, Role::Editor);
        let colluder = newcomer(&mut sim, Role::Editor);
        assert!(sim.peers[colluder].text().contains("forged"));
        let mut all = vec![(FORGER, first)];
        // What both write, and others meanwhile, is in the log.
        sim.peers[honest].insert(3, " well, ");
        sim.peers[EDITOR].insert(0, "oh, ");
        sim.settle();
        next(&mut sim, honest);
        let (id, second) = forge(&mut sim, colluder);
        // A device that alone differed would name neither of two.
        claim(&mut sim, LIAR, id, DIFFERS);
        all.push((colluder, second));
        next(&mut sim, honest);
        if restarts {
            restart(&mut sim, OWNER);
        }
        let mut named = Vec::new();
        for hour in 0..3 {
            sim.confirm(OWNER, hour * 61);
            check_all(&mut sim, OWNER);
            named.extend(sim.refuted(OWNER));
        }
        let forged = all.iter().map(|(by, seq)| Refuted::Snapshot {
            seq: *seq,
            device: sim.world.devices[sim.peers[*by].member],
        });
        let forged: Vec<Refuted> = forged.collect();
        assert_eq!(named, forged, "{restarts}, and not {honest}");
    }
}

/// The colluder makes one of what was never in the log, and of nothing that was forged before.
#[test]
fn somebody_elses_forgery_is_no_cloak() {
    let mut sim = sim(&ROLES);
    let (_, first) = forge(&mut sim, FORGER);
    next(&mut sim, EDITOR);
    // It opens the document from what is true.
    let colluder = newcomer(&mut sim, Role::Editor);
    assert!(!sim.peers[colluder].text().contains("forged"));
    let record = forge_snapshot(&mut sim, colluder, |_| {}, other);
    let id = record.leaf();
    let second = sim.order(vec![record], None);
    sim.settle();
    claim(&mut sim, LIAR, id, DIFFERS);
    check_all(&mut sim, OWNER);
    let named = [(FORGER, first), (colluder, second)];
    let named = named.map(|(by, seq)| Refuted::Snapshot {
        seq,
        device: sim.world.devices[sim.peers[by].member],
    });
    assert_eq!(sim.refuted(OWNER), named);
}

/// Other words than [`forged`] in the state of a snapshot.
fn other(payload: &mut SnapshotPayload) {
    let replica = conclave_crdt::ReplicaId::for_kind(CrdtKind::Yjs, [89; 16]);
    let mut crdt = conclave_crdt::load(CrdtKind::Yjs, &payload.state, replica).unwrap();
    crdt.text().unwrap().splice(0, 0, "other ").unwrap();
    crdt.take_pending(&mut vec![]).unwrap();
    payload.state = zeroize::Zeroizing::new(crdt.snapshot().unwrap());
}

/// A service answers a device that holds the log with a leaf, and with a forgery that two members call right. The device learns that it is no judge any more, and
/// lets no key go on what they say. An admin who looks gives the way back.
#[test]
fn a_service_takes_the_ground_from_nobody_in_silence() {
    for restarts in [false, true] {
        let mut sim = sim(&ROLES);
        let from = sim.peers[EDITOR].doc.size();
        sim.peers[EDITOR].online = false;
        next(&mut sim, FORGER);
        let (id, _) = forge(&mut sim, FORGER);
        sim.rejoin(EDITOR);
        sim.settle();
        assert!(sim.peers[EDITOR].text().contains("forged"));
        claim(&mut sim, LIAR, id, Judgement::Match);
        if restarts {
            restart(&mut sim, EDITOR);
        }
        let to = sim.service.size() - 2;
        let passed = PassedOver { from, to };
        assert_eq!(sim.peers[EDITOR].doc.passed_over(), Some(passed));
        if restarts {
            restart(&mut sim, EDITOR);
        }
        assert_eq!(sim.peers[EDITOR].doc.passed_over(), None);
        for minutes in [0, 61, 6000] {
            assert!(!sim.confirm(EDITOR, minutes).moved, "a viewer's word");
        }
        assert!(needs_first_root(&sim, EDITOR));
        // An admin looks, and makes the next.
        assert_eq!(sim.judge(OWNER), Some(DIFFERS));
        sim.settle();
        next(&mut sim, OWNER);
        sim.check(EDITOR);
        sim.with(EDITOR, |doc, ctx, _| doc.retry(ctx).unwrap());
        sim.rejoin(EDITOR);
        sim.settle();
        assert!(!sim.peers[EDITOR].text().contains("forged"));
        let id = sim.peers[OWNER].doc.active_snapshot().0;
        claim(&mut sim, FORGER, id, Judgement::Match);
        assert!(!sim.confirm(EDITOR, 7000).moved);
        assert!(sim.confirm(EDITOR, 7060).moved);
        assert!(!needs_first_root(&sim, EDITOR));
        assert_eq!(sim.peers[EDITOR].doc.passed_over(), None);
        sim.assert_converged();
    }
}
