//! What a document's log holds, record by record: who wrote it, how much it did, and what is said of what is gone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::liars::*;
use common::*;
use conclave_crdt::{CrdtKind, Differs};
use conclave_doc::*;
use conclave_proto::*;
use rand_chacha::rand_core::SeedableRng;

const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];

fn device(member: usize) -> DeviceId {
    DeviceId([member as u8 + 1; 16])
}

fn page(sim: &mut Sim, at: usize, before: Option<u64>, limit: usize) -> LogPage {
    let (member, epoch) = (sim.peers[at].member, sim.peers[at].epoch);
    let keys = sim.peers[at].keys.clone();
    let ctx = sim.world.ctx(member, epoch, &keys);
    sim.peers[at].doc.log(&ctx, before, limit).unwrap()
}

fn last_writer(sim: &Sim, at: usize) -> Option<Writer> {
    sim.peers[at].doc.last_writer()
}

/// Each record as a line.
fn lines(page: &LogPage) -> Vec<String> {
    let name = |writer: u32| match page.writers[writer as usize] {
        Writer::Proven(record) => format!("{}", record.device.0[0]),
        Writer::OnWordOf { device, .. } => format!("{}?", device.0[0]),
        Writer::Unsent => "unsent".to_owned(),
        Writer::Unknown => "-".to_owned(),
    };
    let line = |record: &LogRecord| {
        let what = match &record.what {
            Recorded::Edit(deeds) => {
                assert_eq!(deeds.deleted_of_others, 0);
                let gone = deeds.deleted.iter();
                let gone = gone.map(|(of, count)| match of {
                    DeletedOf::Proven(device) => format!("-{count} of {}", device.0[0]),
                    DeletedOf::OnWordOf { device, .. } => format!("-{count} of {}?", device.0[0]),
                    DeletedOf::Unsent | DeletedOf::Unknown => format!("-{count} of {of:?}"),
                });
                let gone: Vec<String> = gone.collect();
                let again = deeds.deleted_again;
                format!("+{} {} again {again}", deeds.chars, gone.join(" "))
            }
            Recorded::Folded { operations } => format!("folded {operations}"),
            Recorded::Snapshot { covered } => format!("snapshot of {covered}"),
            Recorded::Check { snapshot, is_match } => format!("check of {snapshot:?} {is_match}"),
            other => format!("{other:?}"),
        };
        let is_here = !matches!(record.what, Recorded::Gone | Recorded::Folded { .. });
        assert_eq!(record.bytes.is_some(), is_here);
        format!(
            "{}+{} {}: {what}",
            record.seq,
            record.count,
            name(record.by)
        )
    };
    page.records.iter().map(line).collect()
}

/// A text that two take parts out of at once.
fn written(kind: CrdtKind) -> Sim {
    let mut sim = Sim::new(kind, &ROLES, "hello");
    sim.peers[EDITOR].insert(5, " world");
    sim.settle();
    for (at, from, count) in [(OWNER, 4, 3), (EDITOR, 6, 2)] {
        sim.peers[at].edit(|crdt| crdt.text().unwrap().splice(from, count, ""));
    }
    sim.settle();
    assert_eq!(sim.peers[LIAR].text(), "hellrld");
    sim
}

#[test]
fn each_record_says_what_it_did_and_whose_it_took_out() {
    for kind in KINDS {
        let mut sim = written(kind);
        for at in [OWNER, EDITOR, LIAR] {
            let page = page(&mut sim, at, None, 100);
            let expected = [
                "0+1 1: snapshot of 0",
                "1+1 2: +6  again 0",
                "2+1 1: +0 -2 of 2 -1 of 1 again 0",
                "3+1 2: +0 -1 of 2 again 1",
            ];
            assert_eq!(lines(&page), expected, "{kind} {at}");
            assert_eq!((page.older, page.unsent), (None, 0));
        }
        // A character that two took out is of the first in the log, and the page before is not needed for that.
        let last = page(&mut sim, LIAR, None, 1);
        assert_eq!(lines(&last), ["3+1 2: +0 -1 of 2 again 1"]);
        assert_eq!(last.older, Some(3));
    }
}

/// However many records wrote what one takes out: it is told by who wrote it.
#[test]
fn what_many_records_wrote_and_one_takes_out_is_one_number() {
    for kind in KINDS {
        let mut sim = Sim::new(kind, &ROLES, "ab");
        for at in 0..30 {
            sim.peers[EDITOR].insert(at, "x");
            sim.settle();
        }
        let all = sim.peers[OWNER].text().chars().count();
        sim.peers[OWNER].edit(|crdt| crdt.text().unwrap().splice(0, all, ""));
        sim.settle();
        let page = page(&mut sim, LIAR, None, 1);
        assert_eq!(
            lines(&page),
            ["31+1 1: +0 -30 of 2 -2 of 1 again 0"],
            "{kind}"
        );
        assert_eq!(page.writers.len(), 1, "nobody else is told");
    }
}

/// What an edit takes out of a record that is set aside waits with it.
#[test]
fn an_edit_that_waits_for_what_is_set_aside_does_not_break_the_log() {
    for kind in KINDS {
        for known in [false, true] {
            let mut sim = Sim::new(kind, &ROLES, "hello");
            if known {
                sim.peers[EDITOR].insert(0, "old");
                sim.settle();
            }
            sim.world.rekey();
            sim.advance_epochs();
            sim.peers[LIAR].keys.withheld.insert(1);
            sim.peers[EDITOR].insert(0, "xyz");
            sim.settle();
            sim.with(LIAR, |doc, ctx, _| doc.set_aside(ctx).unwrap());
            sim.world.rekey();
            sim.advance_epochs();
            sim.peers[OWNER].edit(|crdt| crdt.text().unwrap().splice(0, 2, "!"));
            sim.settle();
            let seq = 2 + u64::from(known);
            let line = |rest: &str| format!("{seq}+1 1: +1 {rest} again 0");
            let seen = page(&mut sim, EDITOR, None, 1);
            assert_eq!(lines(&seen), [line("-2 of 2")], "{kind} {known}");
            let waiting = page(&mut sim, LIAR, None, 100);
            let told = lines(&waiting);
            assert_eq!(told[told.len() - 2], format!("{}+1 2: Aside", seq - 1));
            assert_eq!(told.last().unwrap(), &line(""), "{kind} {known}");
        }
    }
}

/// What others had written is in a document that is founded anew on its founder's word: of its last change as of each character.
#[test]
fn who_founds_a_document_anew_wrote_last_in_it() {
    for kind in KINDS {
        let mut sim = Sim::new(kind, &ROLES, "");
        sim.peers[EDITOR].insert(0, "theirs");
        sim.settle();
        let mut rng = rand_chacha::ChaCha20Rng::from_seed([7; 32]);
        let keys = sim.peers[OWNER].keys.clone();
        let ctx = sim.world.ctx(OWNER, 0, &keys);
        let founding = sim.peers[OWNER].doc.founding(&ctx).unwrap();
        let key = device_key(OWNER);
        let with = sealer(&key, &mut rng);
        let document = DocumentId([9; 16]);
        let founded = Document::refound(&ctx, GROUP, document, founding, instance(9), with);
        let (mut founded, _) = founded.unwrap();
        let last = founded.last_writer();
        assert!(
            matches!(last, Some(Writer::Proven(record)) if record.device == device(OWNER) && record.carrier.is_none()),
            "{kind}: {last:?}"
        );
        founded.snapshot_accepted(&ctx, 0).unwrap();
        let blame = founded.blame(&ctx, View::Text).unwrap();
        assert!(
            matches!(blame.writers[..], [Writer::OnWordOf { device: of, .. }] if of == device(EDITOR)),
            "{kind}: {blame:?}"
        );
    }
}

#[test]
fn pages_follow_each_other_and_are_bounded() {
    let mut sim = Sim::new(CrdtKind::Yjs, &ROLES, "");
    for at in 0..PAGE_RECORDS + 7 {
        sim.peers[OWNER].insert(at, "x");
    }
    sim.settle();
    let (mut before, mut all, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = page(&mut sim, LIAR, before, usize::MAX);
        assert!(page.records.len() <= PAGE_RECORDS);
        let seqs: Vec<u64> = page.records.iter().map(|it| it.seq).collect();
        all.splice(0..0, seqs);
        pages += 1;
        before = page.older;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(pages, 2);
    assert!(all.into_iter().eq(0..PAGE_RECORDS as u64 + 8));
    assert_eq!(lines(&page(&mut sim, LIAR, Some(3), 2)).len(), 2);
    assert_eq!(page(&mut sim, LIAR, Some(0), 2).records, []);
}

#[test]
fn what_a_snapshot_has_taken_in_is_said_to_be_gone_and_its_author_stays_known() {
    for kind in KINDS {
        let mut sim = written(kind);
        sim.world.rekey();
        sim.advance_epochs();
        sim.snapshot(OWNER);
        sim.settle();
        assert_eq!(sim.judge(EDITOR), Some(Judgement::Match), "{kind}");
        sim.settle();
        sim.peers[OWNER].insert(0, "x");
        sim.settle();
        let late = newcomer(&mut sim, Role::Editor);
        let page = page(&mut sim, late, None, 100);
        let told = lines(&page);
        // Who only deletes makes no operation in Yjs, so that nothing tells of it any more.
        let deletes = match kind {
            CrdtKind::Yjs => vec!["2+2 -: Gone"],
            _ => vec!["2+1 1?: folded 1", "3+1 2?: folded 1"],
        };
        let wrote = match kind {
            CrdtKind::Yjs => "1+1 2?: folded 6",
            _ => "1+1 2?: folded 1",
        };
        let mut expected = vec![told[0].as_str(), wrote];
        assert!(told[0].starts_with("0+1 1?: folded"), "{kind}: {told:?}");
        expected.extend(deletes);
        expected.extend([
            "4+1 1: snapshot of 4",
            "5+1 2: check of Some(4) true",
            "6+1 1: +1  again 0",
        ]);
        assert_eq!(told, expected, "{kind}");
        assert_eq!(page.older, None);
        let one = self::page(&mut sim, late, Some(2), 1);
        assert_eq!(lines(&one), [wrote], "{kind}");
    }
}

#[test]
fn what_is_not_known_at_all_is_one_line() {
    for kind in KINDS {
        let mut sim = written(kind);
        let record = forge_snapshot(&mut sim, OWNER, |_| {}, |payload| payload.claims = None);
        sim.order(vec![record], None);
        sim.settle();
        let late = newcomer(&mut sim, Role::Editor);
        sim.peers[EDITOR].insert(0, "after");
        sim.settle();
        let page = page(&mut sim, late, None, 2);
        assert_eq!(lines(&page).last().unwrap(), "5+1 2: +5  again 0");
        let older = self::page(&mut sim, late, Some(3), 2);
        assert_eq!(lines(&older), ["0+3 -: Gone"], "{kind}");
        assert_eq!(older.older, None);
    }
}

#[test]
fn records_that_do_not_count_say_so() {
    let mut sim = Sim::new(CrdtKind::Yjs, &ROLES, "hello");
    sim.world.rekey();
    sim.advance_epochs();
    sim.peers[LIAR].keys.withheld.insert(1);
    sim.peers[EDITOR].insert(0, "x");
    sim.settle();
    sim.with(LIAR, |doc, ctx, _| doc.set_aside(ctx).unwrap());
    let told = lines(&page(&mut sim, LIAR, None, 100));
    assert_eq!(told.last().unwrap(), "1+1 2: Aside");
    // Own edits without a place are counted, and are no records.
    sim.disconnect(OWNER);
    sim.peers[OWNER].insert(0, "y");
    let page = page(&mut sim, OWNER, None, 100);
    assert_eq!((page.unsent, page.records.len()), (1, 2));
}

#[test]
fn the_last_writer_is_known_also_after_a_restart_and_to_who_joins() {
    for kind in KINDS {
        let empty = Sim::new(kind, &ROLES, "");
        assert_eq!(last_writer(&empty, LIAR), None, "{kind}");
        let mut sim = Sim::new(kind, &ROLES, "hello");
        let of = |sim: &Sim, at| match last_writer(sim, at) {
            Some(Writer::Proven(record)) => (record.device, record.seq, record.epoch),
            other => panic!("{other:?}"),
        };
        assert_eq!(of(&sim, EDITOR), (device(OWNER), 0, Some(0)), "{kind}");
        sim.peers[EDITOR].insert(0, "x");
        sim.settle();
        // What somebody found of a snapshot is no change of the content.
        sim.snapshot(OWNER);
        sim.settle();
        sim.judge(LIAR);
        sim.settle();
        for at in [OWNER, EDITOR, LIAR] {
            assert_eq!(of(&sim, at), (device(EDITOR), 1, Some(0)), "{kind} {at}");
            restart(&mut sim, at);
            assert_eq!(of(&sim, at), (device(EDITOR), 1, Some(0)), "{kind} {at}");
        }
        let late = newcomer(&mut sim, Role::Viewer);
        let writer = last_writer(&sim, late);
        assert!(
            matches!(writer, Some(Writer::OnWordOf { device: of, .. }) if of == device(EDITOR))
        );
    }
}

#[test]
fn what_records_did_to_the_text_is_told_while_they_are_here() {
    for kind in KINDS {
        let mut sim = written(kind);
        sim.disconnect(LIAR);
        sim.peers[LIAR].insert(0, "mine");
        let mut changed = |first, last| {
            let found = sim.peers[LIAR].doc.changed(first, last).unwrap()?.found;
            let told = found.into_iter().map(|it| match it.what {
                Differs::Text {
                    at,
                    deleted,
                    inserted,
                } => (at, deleted, inserted),
                _ => panic!("a text"),
            });
            Some(told.collect::<Vec<_>>())
        };
        let word = |text: &str| text.to_owned();
        assert_eq!(
            changed(1, 1),
            Some(vec![(5, word(""), word(" world"))]),
            "{kind}"
        );
        assert_eq!(changed(2, 2), Some(vec![(4, word("o w"), word(""))]));
        assert_eq!(
            changed(3, 3),
            Some(vec![(4, word("o"), word(""))]),
            "{kind}"
        );
        assert_eq!(
            changed(1, 3),
            Some(vec![(4, word("o"), word("rld"))]),
            "{kind}"
        );
        assert_eq!((changed(4, 4), changed(3, 2)), (None, None));
        // It does not touch what is shown.
        assert_eq!(sim.peers[LIAR].text(), "minehellrld");
    }
}
