//! Who wrote what: proven where this device checked the signature, on somebody's word where it did not, and nobody's where nobody can tell.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::liars::*;
use common::*;
use conclave_crdt::{CrdtKind, PathElement, WrittenBy};
use conclave_doc::*;
use conclave_proto::*;
use serde_json::json;

fn device(member: usize) -> DeviceId {
    DeviceId([member as u8 + 1; 16])
}

fn blame(sim: &mut Sim, at: usize, view: View) -> Blame {
    let (member, epoch) = (sim.peers[at].member, sim.peers[at].epoch);
    let keys = sim.peers[at].keys.clone();
    let ctx = sim.world.ctx(member, epoch, &keys);
    sim.peers[at].doc.blame(&ctx, view).unwrap()
}

/// The text in parts, each with its writer.
fn parts(sim: &mut Sim, at: usize) -> Vec<(String, Writer)> {
    let blame = blame(sim, at, View::Text);
    let Shown::Text { text, runs } = &blame.shown else {
        panic!("a text was asked for");
    };
    let mut rest = text.chars();
    let mut parts = Vec::new();
    for run in runs {
        let part: String = rest.by_ref().take(run.chars).collect();
        parts.push((part, blame.writers[run.writer as usize]));
    }
    assert_eq!(rest.next(), None, "every character is somebody's");
    parts
}

/// The text in parts, each with the device and position of its record, where that is proven.
fn proven(sim: &mut Sim, at: usize) -> Vec<(String, DeviceId, u64)> {
    let parts = parts(sim, at).into_iter();
    let record = |writer| match writer {
        Writer::Proven(record) => (record.device, record.seq),
        other => panic!("{other:?}"),
    };
    parts
        .map(|(part, writer)| (part, record(writer)))
        .map(|(part, (device, seq))| (part, device, seq))
        .collect()
}

fn written(all: &[(&str, usize, u64)]) -> Vec<(String, DeviceId, u64)> {
    all.iter()
        .map(|(part, member, seq)| ((*part).to_owned(), device(*member), *seq))
        .collect()
}

const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];

fn begun(kind: CrdtKind) -> Sim {
    let mut sim = Sim::new(kind, &ROLES, "hello");
    sim.peers[EDITOR].insert(5, " world");
    sim.settle();
    sim.peers[OWNER].insert(2, "[1]");
    sim.settle();
    sim.peers[EDITOR].insert(3, "[2]");
    sim.settle();
    sim
}

/// What [`begun`] shows: the document's own first snapshot stands at 0.
const BEGUN: [(&str, usize, u64); 6] = [
    ("he", OWNER, 0),
    ("[", OWNER, 2),
    ("[2]", EDITOR, 3),
    ("1]", OWNER, 2),
    ("llo", OWNER, 0),
    (" world", EDITOR, 1),
];

#[test]
fn every_character_is_proven_to_be_of_the_record_that_brought_it() {
    for kind in KINDS {
        let mut sim = begun(kind);
        let expected = written(&BEGUN);
        for at in [OWNER, EDITOR, LIAR] {
            assert_eq!(proven(&mut sim, at), expected, "{kind} {at}");
            restart(&mut sim, at);
            assert_eq!(proven(&mut sim, at), expected, "{kind} {at} again");
        }
        // The record is named so that it can be shown to others.
        let (_, writer) = parts(&mut sim, LIAR)[2].clone();
        let Writer::Proven(record) = writer else {
            panic!("{writer:?}");
        };
        assert_eq!(record.id, Some(sim.service.leaf(3)));
        assert_eq!((record.epoch, record.carrier), (Some(0), None));
    }
}

#[test]
fn it_survives_snapshots_erasure_and_new_keys() {
    for kind in KINDS {
        let mut sim = begun(kind);
        sim.world.rekey();
        sim.advance_epochs();
        sim.snapshot(OWNER);
        sim.settle();
        for at in [EDITOR, FORGER] {
            assert_eq!(sim.judge(at), Some(Judgement::Match), "{kind}");
            sim.settle();
        }
        for at in [OWNER, EDITOR, FORGER] {
            sim.confirm(at, 0);
            assert!(sim.confirm(at, 60).moved);
            assert!(!needs_first_root(&sim, at));
            sim.peers[at].store_and_erase();
            sim.restart(at);
            sim.connect(at);
            sim.settle();
            assert_eq!(proven(&mut sim, at), written(&BEGUN), "{kind} {at}");
        }
    }
}

#[test]
fn who_joins_later_has_it_on_the_word_of_the_snapshots_author_and_proves_what_follows() {
    for kind in KINDS {
        let mut sim = begun(kind);
        sim.snapshot(EDITOR);
        sim.settle();
        let late = newcomer(&mut sim, Role::Editor);
        sim.peers[OWNER].insert(0, "after ");
        sim.settle();
        let parts = parts(&mut sim, late);
        assert!(matches!(parts[0].1, Writer::Proven(record) if record.device == device(OWNER)));
        let texts: Vec<_> = parts[1..].iter().map(|(part, _)| part.as_str()).collect();
        assert_eq!(texts, BEGUN.iter().map(|it| it.0).collect::<Vec<_>>());
        for ((part, writer), (_, member, seq)) in parts[1..].iter().zip(BEGUN) {
            let Writer::OnWordOf {
                snapshot_author,
                device: of,
                record: Some(record),
            } = writer
            else {
                panic!("{part}: {writer:?}");
            };
            assert_eq!(*snapshot_author, user(EDITOR));
            assert_eq!((*of, record.seq), (device(member), seq), "{kind}: {part}");
        }
    }
}

#[test]
fn what_has_no_place_in_the_log_is_nobodys_record() {
    for kind in KINDS {
        let mut sim = begun(kind);
        sim.disconnect(EDITOR);
        sim.peers[EDITOR].insert(0, "soon ");
        assert_eq!(
            parts(&mut sim, EDITOR)[0],
            ("soon ".to_owned(), Writer::Unsent)
        );
        restart(&mut sim, EDITOR);
        let (part, writer) = parts(&mut sim, EDITOR)[0].clone();
        assert_eq!(part, "soon ");
        assert!(matches!(writer, Writer::Proven(record) if record.device == device(EDITOR)));
    }
}

#[test]
fn a_snapshot_that_gives_words_to_another_is_found_wrong() {
    let lies: [fn(&mut Claims); 3] = [
        // One's own words are another record's.
        |claims| {
            let runs = claims.runs.values_mut().flatten();
            runs.for_each(|run| run.seq += u64::from(run.seq == 3));
        },
        // Somebody carried them.
        |claims| {
            let runs = claims.runs.values_mut().flatten();
            runs.for_each(|run| run.carrier = Some(device(OWNER)));
        },
        // They are of another time.
        |claims| claims.epochs[0].0 = 1,
    ];
    for kind in KINDS {
        for (at, lie) in lies.into_iter().enumerate() {
            let mut sim = begun(kind);
            sim.peers[OWNER].insert(0, "x");
            sim.settle();
            let record = forge_snapshot(
                &mut sim,
                FORGER,
                |_| {},
                |payload| lie(payload.claims.as_mut().unwrap()),
            );
            sim.order(vec![record], None);
            sim.settle();
            let found = sim.check(EDITOR);
            let differs = Judgement::Differs(DiffersWhy::Tables);
            assert_eq!(found, Some(differs), "{kind} {at}");
            assert!(!sim.refuted(EDITOR).is_empty());
        }
    }
}

#[test]
fn a_snapshot_may_leave_out_who_wrote_what_and_then_it_is_not_known() {
    for kind in KINDS {
        let mut sim = begun(kind);
        let record = forge_snapshot(&mut sim, OWNER, |_| {}, |payload| payload.claims = None);
        sim.order(vec![record], None);
        sim.settle();
        assert_eq!(sim.check(EDITOR), Some(Judgement::Match));
        let late = newcomer(&mut sim, Role::Editor);
        sim.peers[EDITOR].insert(0, "after ");
        sim.settle();
        let parts = parts(&mut sim, late);
        let (first, rest) = parts.split_first().unwrap();
        assert!(matches!(first.1, Writer::Proven(record) if record.device == device(EDITOR)));
        for (part, writer) in rest {
            assert!(
                matches!(writer, Writer::OnWordOf { record: None, .. }),
                "{part}: {writer:?}"
            );
        }
        // Its own snapshot does not tell what it does not know.
        sim.snapshot(late);
        sim.settle();
        assert_eq!(sim.check(EDITOR), Some(Judgement::Match));
        let later = newcomer(&mut sim, Role::Editor);
        let known = self::parts(&mut sim, later);
        assert!(
            known
                .iter()
                .all(|(_, writer)| matches!(writer, Writer::OnWordOf { record: None, .. }))
        );
    }
}

#[test]
fn what_follows_what_is_not_known_is_proven_all_the_same() {
    for kind in KINDS {
        let mut sim = begun(kind);
        let record = forge_snapshot(&mut sim, OWNER, |_| {}, |payload| payload.claims = None);
        sim.order(vec![record], None);
        sim.settle();
        let late = newcomer(&mut sim, Role::Editor);
        // Behind what the same device wrote, under the same id.
        let end = sim.peers[EDITOR].text().chars().count();
        sim.peers[EDITOR].insert(end, " after");
        sim.settle();
        let parts = parts(&mut sim, late);
        let (part, writer) = parts.last().unwrap();
        assert_eq!(part, " after", "{kind}");
        assert!(matches!(writer, Writer::Proven(record) if record.device == device(EDITOR)));
    }
}

#[test]
fn values_of_maps_and_lists_have_their_writers() {
    for kind in KINDS {
        let mut sim = Sim::new(kind, &ROLES, "");
        let put = |sim: &mut Sim, at: usize, place: &[PathElement], value: serde_json::Value| {
            let place = place.to_vec();
            sim.peers[at].edit(|crdt| crdt.json().unwrap().put(&place, &value));
            sim.settle();
        };
        put(&mut sim, OWNER, &["list".into()], json!([1, 2]));
        put(&mut sim, EDITOR, &["list".into(), 1usize.into()], json!(3));
        put(&mut sim, FORGER, &["name".into()], json!("note"));
        let blame = blame(&mut sim, LIAR, View::Values);
        let Shown::Values { json, values } = &blame.shown else {
            panic!("values were asked for");
        };
        assert_eq!(*json, json!({ "list": [1, 3], "name": "note" }));
        let who = |place: &[PathElement]| {
            let value = values.iter().find(|it| it.place == place).unwrap();
            let writer = match &value.by {
                WrittenBy::One(writer) => *writer,
                WrittenBy::Text(runs) => runs[0].writer,
            };
            match blame.writers[writer as usize] {
                Writer::Proven(record) => (record.device, record.seq),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(who(&["list".into()]), (device(OWNER), 1));
        assert_eq!(who(&["list".into(), 0usize.into()]), (device(OWNER), 1));
        assert_eq!(who(&["list".into(), 1usize.into()]), (device(EDITOR), 2));
        assert_eq!(who(&["name".into()]), (device(FORGER), 3));
    }
}
