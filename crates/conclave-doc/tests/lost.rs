//! A service was put back, and its log went on without what members have.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use conclave_crdt::CrdtKind;
use conclave_doc::*;
use conclave_proto::*;

const ROLES: [(u8, Role); 3] = [(1, Role::Owner), (2, Role::Editor), (3, Role::Editor)];
const ANA: usize = 0;
const BEN: usize = 1;
/// Was away, and goes on from what the put-back service has.
const CARL: usize = 2;
const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];

/// Ana and Ben have written, Carl has not seen it, and the service has lost it. `more` happens before that.
fn put_back(kind: CrdtKind, more: impl FnOnce(&mut Sim)) -> Sim {
    let mut sim = Sim::new(kind, &ROLES, "hello");
    sim.peers[ANA].insert(0, "{first}");
    sim.settle();
    sim.assert_converged();
    let copy = sim.service.clone();
    sim.disconnect(CARL);
    sim.peers[ANA].insert(0, "{ana}");
    sim.settle();
    sim.peers[BEN].insert(99, "{ben}");
    sim.settle();
    more(&mut sim);
    sim.settle();
    for at in [ANA, BEN] {
        sim.peers[at].store();
        sim.disconnect(at);
    }
    sim.service = copy;
    sim
}

/// Carl writes on.
fn went_on(sim: &mut Sim) {
    sim.connect(CARL);
    sim.peers[CARL].insert(7, "{carl}");
    sim.settle();
}

/// What a peer shows of all that anybody wrote.
fn parts(sim: &mut Sim, at: usize) -> Vec<(&'static str, usize)> {
    let text = sim.peers[at].text();
    let all = ["{first}", "{ana}", "{ben}", "{carl}"];
    all.map(|part| (part, text.matches(part).count())).to_vec()
}

const ALL: [(&str, usize); 4] = [("{first}", 1), ("{ana}", 1), ("{ben}", 1), ("{carl}", 1)];

/// Whether what somebody wrote shows without what others wrote before. A change of Automerge waits for all that its author had seen.
fn stands_alone(kind: CrdtKind) -> bool {
    kind == CrdtKind::Yjs
}

/// Whether something was inserted, in words.
fn says(unsent: &Unsent, text: &str) -> bool {
    let mut words = unsent.words.iter();
    words.any(|word| matches!(&word.inserted, Inserted::Text(it) if it.contains(text)))
}

/// Crash and restart, and back on the connection.
fn bounce(sim: &mut Sim, at: usize) {
    sim.peers[at].store();
    sim.restart(at);
    sim.connect(at);
    sim.settle();
}

fn finish(sim: &mut Sim) {
    sim.settle();
    sim.assert_converged();
    sim.assert_no_findings();
    for at in 0..ROLES.len() {
        assert_eq!(parts(sim, at), ALL, "{at}");
        assert_eq!(sim.peers[at].doc.lost_count(), 0, "{at}");
        assert_eq!(sim.peers[at].uncarried, vec![]);
        sim.peers[at].store();
        sim.peers[at].kept();
    }
    for at in 0..ROLES.len() {
        bounce(sim, at);
        assert_eq!(parts(sim, at), ALL, "{at}");
    }
}

#[test]
fn where_both_sides_went_on_everybody_gets_everything_once() {
    for kind in KINDS {
        let mut sim = put_back(kind, |_| {});
        // Unsent, and on top of what is lost.
        sim.peers[BEN].insert(99, "{later}");
        went_on(&mut sim);
        for at in [ANA, BEN] {
            sim.merge(at);
            // At once all that was here is shown, and what came since with it.
            sim.settle();
            assert_eq!(parts(&mut sim, at), ALL, "{kind} {at}");
            bounce(&mut sim, at);
            assert_eq!(parts(&mut sim, at), ALL, "{kind} {at}");
        }
        assert_eq!(sim.carry(BEN, Whose::All), 0);
        finish(&mut sim);
        assert_eq!(sim.peers[CARL].text().matches("{later}").count(), 1);
        let carried: Vec<_> = sim.peers[CARL].changes.iter().collect();
        let ana = sim.world.devices[ANA];
        assert!(
            carried
                .iter()
                .any(|it| it.author.device == ana && it.carried_by.is_some())
        );
    }
}

#[test]
fn who_does_not_come_back_is_carried_by_others() {
    for kind in KINDS {
        let mut sim = put_back(kind, |_| {});
        went_on(&mut sim);
        sim.merge(BEN);
        sim.settle();
        // His own went at once.
        assert_eq!(sim.peers[BEN].doc.lost_count(), 1);
        assert_eq!(sim.carry(BEN, Whose::All), 1);
        sim.settle();
        assert_eq!(parts(&mut sim, CARL), ALL);
        // She comes back late, and finds it done.
        sim.merge(ANA);
        sim.settle();
        assert_eq!(sim.carry(ANA, Whose::All), 0);
        finish(&mut sim);
        let by_ben = sim.peers[CARL]
            .changes
            .iter()
            .filter(|it| it.carried_by.is_some());
        assert_eq!(by_ben.count(), 2);
    }
}

#[test]
fn what_all_of_them_hold_is_there_once() {
    for kind in KINDS {
        let mut sim = put_back(kind, |_| {});
        went_on(&mut sim);
        for at in [ANA, BEN] {
            sim.merge(at);
            // The log comes, and nothing goes: none knows of the others.
            while sim.receive(at) {}
        }
        for at in [ANA, BEN] {
            assert_eq!(sim.carry(at, Whose::All), 2);
        }
        finish(&mut sim);
    }
}

/// Whatever was stored last: the document as it was before, or all that is lost beside the new one.
#[test]
fn a_crash_around_it_leaves_the_one_or_the_other() {
    for kind in KINDS {
        for stored in [false, true] {
            let mut sim = put_back(kind, |_| {});
            sim.peers[BEN].insert(99, "{later}");
            sim.peers[BEN].store();
            went_on(&mut sim);
            sim.merge(BEN);
            if stored {
                sim.peers[BEN].store();
            }
            sim.restart(BEN);
            let peer = &mut sim.peers[BEN];
            assert!(peer.text().contains("{ana}") && peer.text().contains("{later}"));
            // What the log has is not here yet.
            assert_eq!(peer.doc.lost_count(), if stored { 3 } else { 0 });
            match stored {
                true => sim.connect(BEN),
                false => sim.merge(BEN),
            }
            while sim.receive(BEN) {}
            // Queued and gone again before it was sent, too.
            assert_eq!(sim.carry(BEN, Whose::All), 2);
            sim.disconnect(BEN);
            bounce(&mut sim, BEN);
            sim.merge(ANA);
            finish(&mut sim);
        }
    }
}

/// The service's log has a snapshot of its own by now: what it has is told by its authors' chains.
#[test]
fn the_fork_is_found_beyond_a_new_snapshot() {
    for kind in KINDS {
        let mut sim = put_back(kind, |_| {});
        went_on(&mut sim);
        sim.snapshot(CARL);
        sim.settle();
        for at in [ANA, BEN] {
            sim.merge(at);
            while sim.receive(at) {}
            assert_eq!(sim.peers[at].doc.lost_count(), 2, "{kind}");
        }
        finish(&mut sim);
    }
}

/// Deletions name no operations of their own in Yjs: they are told by their record.
#[test]
fn a_deletion_is_carried_and_not_what_the_log_has() {
    for kind in KINDS {
        let mut sim = put_back(kind, |sim| {
            let at = sim.peers[ANA].text().find("hello").unwrap();
            sim.peers[ANA].edit(|crdt| {
                let view = crdt.text().unwrap();
                view.splice(u32::try_from(at).unwrap().try_into().unwrap(), 5, "")
            });
        });
        went_on(&mut sim);
        sim.merge(BEN);
        sim.settle();
        assert!(!sim.peers[BEN].text().contains("hello"));
        assert_eq!(sim.carry(BEN, Whose::All), 2, "{kind}");
        sim.settle();
        sim.merge(ANA);
        sim.settle();
        assert_eq!(sim.peers[ANA].doc.lost_count(), 0, "{kind}");
        assert!(!sim.peers[CARL].text().contains("hello"));
        finish(&mut sim);
    }
}

/// Who was removed meanwhile may not write here any more: their words are kept apart, and not carried.
#[test]
fn who_was_removed_is_not_carried() {
    for kind in KINDS {
        let mut sim = put_back(kind, |_| {});
        went_on(&mut sim);
        sim.world.remove(ANA);
        sim.disconnect(ANA);
        sim.advance_epochs();
        sim.settle_but(ANA);
        sim.merge(BEN);
        sim.settle_but(ANA);
        assert_eq!(sim.carry(BEN, Whose::All), 0);
        let uncarried = sim.take_uncarried(BEN).unwrap();
        assert_eq!(uncarried.changes, 1);
        assert!(says(&uncarried, "{ana}"));
        assert_eq!(says(&uncarried, "{ben}"), !stands_alone(kind));
        sim.settle_but(ANA);
        for at in [BEN, CARL] {
            let text = sim.peers[at].text();
            assert!(!text.contains("{ana}"), "{text}");
            assert_eq!(text.contains("{ben}"), stands_alone(kind), "{text}");
            assert_eq!(sim.peers[at].doc.lost_count(), 0);
        }
        assert_eq!(sim.peers[BEN].text(), sim.peers[CARL].text());
        bounce(&mut sim, BEN);
        assert!(!sim.peers[BEN].text().contains("{ana}"));
    }
}

/// Who may only read holds what others wrote until these come, or somebody else who may write does.
#[test]
fn a_viewer_keeps_what_others_lost() {
    for kind in KINDS {
        let roles = [(1, Role::Owner), (2, Role::Viewer), (3, Role::Editor)];
        let mut sim = Sim::new(kind, &roles, "hello");
        sim.settle();
        let copy = sim.service.clone();
        sim.disconnect(CARL);
        sim.peers[ANA].insert(0, "{ana}");
        sim.settle();
        for at in [ANA, BEN] {
            sim.peers[at].store();
            sim.disconnect(at);
        }
        sim.service = copy;
        went_on(&mut sim);
        sim.merge(BEN);
        sim.settle();
        assert_eq!(sim.carry(BEN, Whose::All), 0);
        assert!(sim.take_uncarried(BEN).is_none(), "{kind}");
        assert_eq!(sim.peers[BEN].doc.lost_count(), 1);
        sim.merge(ANA);
        sim.settle();
        for at in [ANA, BEN, CARL] {
            assert!(sim.peers[at].text().contains("{ana}"), "{kind} {at}");
            assert_eq!(sim.peers[at].doc.lost_count(), 0);
        }
    }
}

/// A snapshot that nobody has compared says that all of it is in the log: nobody gives up what they hold on that word alone.
#[test]
fn an_author_of_a_snapshot_alone_makes_nobody_forget() {
    for kind in KINDS {
        let mut sim = put_back(kind, |_| {});
        sim.connect(CARL);
        sim.settle();
        let ana = sim.world.devices[ANA];
        let claims = |payload: &mut SnapshotPayload| {
            let tables = &mut payload.tables;
            let chains = tables.chains.iter_mut();
            for (_, chain) in chains.filter(|(author, _)| author.device == ana) {
                chain.next += 100;
            }
            let owners = tables.owners.values_mut();
            for owner in owners.filter(|owner| owner.device == ana) {
                owner.next += 100;
            }
            // No record of its log brought these.
            payload.claims = None;
        };
        let record = forge_snapshot(&mut sim, CARL, |_| {}, claims);
        sim.order(vec![record], None);
        sim.merge(ANA);
        sim.settle();
        assert!(sim.peers[ANA].text().contains("{ana}"), "{kind}");
        // Ben's, of which it says nothing.
        assert_eq!(sim.carry(ANA, Whose::All), 1, "{kind}");
        assert!(sim.take_uncarried(ANA).is_none(), "{kind}");
        bounce(&mut sim, ANA);
        assert!(sim.peers[ANA].text().contains("{ana}"), "{kind}");
    }
}

/// What cannot be opened any more is words at least.
#[test]
fn what_is_older_than_what_is_kept_is_told_in_words() {
    for kind in KINDS {
        let mut sim = Sim::new(kind, &ROLES, "hello");
        sim.settle();
        let copy = sim.service.clone();
        sim.disconnect(CARL);
        sim.peers[ANA].insert(0, "{ana}");
        sim.settle();
        sim.world.rekey();
        sim.reach(1);
        for at in [ANA, BEN] {
            sim.peers[at].epoch = 1;
            sim.with(at, |doc, ctx, _| doc.retry(ctx).unwrap());
        }
        sim.peers[BEN].insert(99, "{ben}");
        sim.settle();
        sim.disconnect(ANA);
        sim.disconnect(BEN);
        sim.service = copy;
        sim.reach(1);
        sim.peers[BEN].keys.withheld.insert(0);
        // The base is of that epoch as well: somebody made another since.
        sim.peers[CARL].epoch = 1;
        sim.with(CARL, |doc, ctx, _| doc.retry(ctx).unwrap());
        went_on(&mut sim);
        sim.snapshot(CARL);
        sim.settle();
        sim.merge(BEN);
        sim.settle();
        let told = sim.peers[BEN].uncarried.pop().unwrap();
        assert!(!told.words_tell_all);
        assert!(says(&told, "{ana}"));
        assert_eq!(says(&told, "ben"), !stands_alone(kind));
        let text = sim.peers[BEN].text();
        assert!(text.contains("{carl}"), "{text}");
        assert_eq!(text.contains("{ben}"), stands_alone(kind), "{text}");
        assert_eq!(text, sim.peers[CARL].text());
    }
}

/// A second time: what was lost before is still lost.
#[test]
fn what_is_lost_twice_is_carried_in_the_end() {
    for kind in KINDS {
        let mut sim = put_back(kind, |_| {});
        went_on(&mut sim);
        let copy = sim.service.clone();
        sim.merge(ANA);
        sim.settle();
        sim.carry(ANA, Whose::All);
        sim.settle();
        assert_eq!(parts(&mut sim, CARL), ALL);
        // Put back once more, to where nothing of it was carried.
        for at in [ANA, CARL] {
            sim.peers[at].store();
            sim.disconnect(at);
        }
        sim.service = copy;
        sim.merge(BEN);
        sim.settle();
        for at in [CARL, ANA] {
            sim.merge(at);
            sim.settle();
            assert_eq!(parts(&mut sim, at), ALL, "{kind} {at}");
            sim.carry(at, Whose::All);
            sim.settle();
        }
        finish(&mut sim);
    }
}

/// Records of others come while own ones that were lost wait, and what is unsent is written on.
#[test]
fn own_work_goes_on_meanwhile() {
    for kind in KINDS {
        let mut sim = put_back(kind, |_| {});
        went_on(&mut sim);
        sim.merge(BEN);
        sim.settle();
        sim.peers[BEN].insert(0, "{new}");
        sim.peers[CARL].insert(0, "{newer}");
        sim.settle();
        assert_eq!(sim.carry(BEN, Whose::All), 1);
        sim.settle();
        sim.merge(ANA);
        finish(&mut sim);
        let text = sim.peers[0].text();
        assert!(text.contains("{new}") && text.contains("{newer}"));
    }
}
