//! New wholes of texts and JSON, written by several at once: each change once, in its place, and nothing else touched.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use conclave_crdt::{ByReplica, CrdtKind, Edited, PathElement};
use serde_json::{Value, json};

const LONG_NOTE: &str = include_str!("fixtures/long-note.md");

fn json_of(doc: &mut Doc) -> Value {
    doc.json().unwrap().to_json().unwrap()
}

fn set_json(doc: &mut Doc, change: impl FnOnce(&mut Value)) {
    let mut value = json_of(doc);
    change(&mut value);
    doc.json().unwrap().merge_json(&value).unwrap();
}

/// Brings what each wrote to the other.
fn exchange(a: &mut Doc, b: &mut Doc) {
    let (from_a, from_b) = (pending(a), pending(b));
    apply_all(a, &from_b);
    apply_all(b, &from_a);
    assert_eq!(digest(a), digest(b));
}

fn digest(doc: &mut Doc) -> [u8; 32] {
    doc.content_digest().unwrap()
}

fn pair(kind: CrdtKind, text: &str) -> (Doc, Doc) {
    let (mut a, mut b) = (new(kind, 1), new(kind, 2));
    view(&mut a).replace_all(text).unwrap();
    apply_all(&mut b, &pending(&mut a));
    (a, b)
}

fn json_pair(kind: CrdtKind, value: &Value) -> (Doc, Doc) {
    let (mut a, mut b) = (new(kind, 1), new(kind, 2));
    a.json().unwrap().merge_json(value).unwrap();
    apply_all(&mut b, &pending(&mut a));
    (a, b)
}

/// Replaces line `at` (the last one counted from the end) by `line`.
fn with_line(text: &str, at: usize, line: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let at = at.min(lines.len() - 1);
    lines[at] = line;
    lines.join("\n") + "\n"
}

#[test]
fn a_long_note_stands_once_after_two_changed_its_ends() {
    for kind in KINDS {
        let (mut ana, mut ben) = pair(kind, LONG_NOTE);
        let edit =
            |line: &str, last: &str| with_line(&with_line(LONG_NOTE, 2, line), usize::MAX, last);
        view(&mut ana)
            .replace_all(&edit("Agreed by Ana", "Signed Ana."))
            .unwrap();
        view(&mut ben)
            .replace_all(&edit("Checked by Ben", "Signed Ben."))
            .unwrap();
        exchange(&mut ana, &mut ben);
        let merged = text(&mut ana);
        for line in LONG_NOTE.lines().skip(4).filter(|line| line.len() > 80) {
            if LONG_NOTE.lines().last() != Some(line) {
                assert_eq!(merged.matches(line).count(), 1, "{kind}: {line}");
            }
        }
        for typed in [
            "Agreed by Ana",
            "Checked by Ben",
            "Signed Ana",
            "Signed Ben",
        ] {
            let words: Vec<&str> = typed.split(' ').collect();
            assert!(merged.contains(words[0]), "{kind}: {typed}");
        }
        assert!(
            merged.len() < LONG_NOTE.len() + 80,
            "{kind}: {}",
            merged.len()
        );
        // Nobody else became the author of what stayed.
        let first = replica(kind, 1);
        let runs = ByReplica::of_text(ben.attribution().unwrap()).unwrap();
        let by_others = runs.iter().filter(|(replica, _)| *replica != first);
        let by_ben: usize = by_others.map(|(_, chars)| chars).sum();
        assert!(by_ben < 40, "{kind}: {by_ben}");
    }
}

#[test]
fn a_change_finds_its_row_by_id() {
    let rows: Vec<Value> = (0..2_500)
        .map(|id| json!({ "id": id, "done": 0 }))
        .collect();
    for kind in KINDS {
        let (mut ana, mut ben) = json_pair(kind, &json!({ "rows": rows }));
        set_json(&mut ana, |value| {
            value["rows"]
                .as_array_mut()
                .unwrap()
                .insert(0, json!({ "id": 9_999, "done": 0 }));
        });
        set_json(&mut ben, |value| value["rows"][1_200]["done"] = json!(1));
        let by_ben = pending(&mut ben);
        assert!(by_ben.concat().len() < 400, "{kind}: one row is touched");
        apply_all(&mut ana, &by_ben);
        let merged = json_of(&mut ana);
        let merged = merged["rows"].as_array().unwrap();
        assert_eq!(merged.len(), 2_501);
        for row in merged {
            assert_eq!(row["done"] == 1, row["id"] == 1_200, "{kind}: {row}");
        }
    }
}

#[test]
fn replaced_words_are_never_mixed_letter_by_letter() {
    for kind in KINDS {
        for (mine, yours) in [("dog", "cow"), ("cart", "cut"), ("catalogue", "act")] {
            let (mut ana, mut ben) = pair(kind, "The cat sat.");
            view(&mut ana)
                .replace_all(&format!("The {mine} sat."))
                .unwrap();
            view(&mut ben)
                .replace_all(&format!("The {yours} sat."))
                .unwrap();
            exchange(&mut ana, &mut ben);
            let merged = text(&mut ana);
            assert!(merged.contains(yours), "{kind}: {merged}");
            assert!(
                merged.contains(mine) || mine.contains("ca"),
                "{kind}: {merged}"
            );
        }
    }
}

#[test]
fn characters_of_several_code_points_are_never_cut() {
    let old = include_str!("fixtures/t-zwj.txt");
    for kind in KINDS {
        let (mut ana, mut ben) = pair(kind, old);
        let other = old
            .replace("\u{1f467}", "\u{1f466}")
            .replace("\u{1f1e9}\u{1f1ea}", "\u{1f1e9}\u{1f1f0}");
        view(&mut ana).replace_all(&other).unwrap();
        view(&mut ben)
            .replace_all(&format!("{old}\u{1f600}"))
            .unwrap();
        exchange(&mut ana, &mut ben);
        assert_eq!(text(&mut ana), format!("{other}\u{1f600}"), "{kind}");
    }
}

/// A Yjs map that another program filled: one unrelated key is added.
#[test]
fn what_json_cannot_write_stays_in_a_yjs_map() {
    let bytes = include_bytes!("fixtures/y-map.ydoc");
    let mut doc = reload(CrdtKind::Yjs, bytes, 1);
    let before = json_of(&mut doc);
    assert_eq!(
        before["bin"],
        json!({ "$conclave": "bytes", "base64": "AQID" }).clone(),
        "{before}"
    );
    assert_eq!(
        before["nan"],
        json!({ "$conclave": "number", "value": "NaN" })
    );
    assert_eq!(before["xml"]["$conclave"], "xml");
    assert_eq!(before["sub"]["$conclave"], "document");
    set_json(&mut doc, |value| value["added"] = json!(1));
    let update = pending(&mut doc).concat();
    assert!(update.len() < 60, "only the new key: {update:02x?}");
    let mut after = json_of(&mut doc);
    assert_eq!(
        after.as_object_mut().unwrap().remove("added"),
        Some(json!(1))
    );
    assert_eq!(after, before);
}

#[test]
fn a_carried_value_that_was_tampered_with_is_refused_by_its_place() {
    let mut doc = reload(CrdtKind::Yjs, include_bytes!("fixtures/y-map.ydoc"), 1);
    let mut value = json_of(&mut doc);
    value["xml"]["shown"] = json!("<p>mine</p>");
    value["added"] = json!(1);
    let edited = doc.json().unwrap().edit(None, &value).unwrap();
    let Edited::Refused(refusal) = edited else {
        panic!("{edited:?}");
    };
    assert_eq!(refusal.place, [PathElement::from("xml")]);
    assert!(!format!("{refusal:?}").contains("xml"));
    assert!(pending(&mut doc).is_empty(), "nothing was written");
    // It may be taken away.
    value.as_object_mut().unwrap().remove("xml");
    doc.json().unwrap().merge_json(&value).unwrap();
    assert!(json_of(&mut doc).get("xml").is_none());
    // Bytes may be changed; a broken form of them is refused.
    set_json(&mut doc, |value| value["bin"]["base64"] = json!("AQ=="));
    assert_eq!(json_of(&mut doc)["bin"]["base64"], "AQ==");
    let mut value = json_of(&mut doc);
    value["bin"]["base64"] = json!("?");
    assert!(matches!(
        doc.json().unwrap().edit(None, &value),
        Ok(Edited::Refused(_))
    ));
}

#[test]
fn plain_values_of_yjs_stay_plain() {
    let mut doc = reload(CrdtKind::Yjs, include_bytes!("fixtures/y-map.ydoc"), 1);
    set_json(&mut doc, |value| {
        value["title"] = json!("another plain string");
        value["obj"]["a"] = json!("x");
    });
    use conclave_crdt::yjs::Yrs;
    use yrs::{Any, Map, Out, ReadTxn, Transact};
    let yrs = doc.as_any_mut().downcast_mut::<Yrs>().unwrap();
    let txn = yrs.doc().transact();
    let root = txn.get_map("root").unwrap();
    assert!(matches!(
        root.get(&txn, "title"),
        Some(Out::Any(Any::String(_)))
    ));
    assert!(matches!(root.get(&txn, "obj"), Some(Out::Any(Any::Map(_)))));
}

#[test]
fn embeds_and_formats_survive_edits_of_the_text_around_them() {
    let mut doc = reload(CrdtKind::Yjs, include_bytes!("fixtures/y-embed.ydoc"), 1);
    let old = text(&mut doc);
    view(&mut doc)
        .replace_all(&format!("new {old} end"))
        .unwrap();
    view(&mut doc).replace_all("other").unwrap();
    use conclave_crdt::yjs::Yrs;
    use yrs::types::text::YChange;
    use yrs::{Out, ReadTxn, Text, Transact};
    let yrs = doc.as_any_mut().downcast_mut::<Yrs>().unwrap();
    let txn = yrs.doc().transact();
    let chunks = txn.get_text("text").unwrap().diff(&txn, YChange::identity);
    let embeds = chunks
        .iter()
        .filter(|chunk| !matches!(&chunk.insert, Out::Any(yrs::Any::String(_))));
    assert_eq!(embeds.count(), 1);
}

#[test]
fn a_string_that_is_embedded_is_no_part_of_the_text() {
    use conclave_crdt::yjs::Yrs;
    use yrs::{Text, Transact};
    for embedded in ["", "x", "several words"] {
        let mut doc = new(CrdtKind::Yjs, 1);
        insert(&mut doc, 0, "before and after");
        let yrs = doc.as_any_mut().downcast_mut::<Yrs>().unwrap();
        let place = yrs.doc().get_or_insert_text("text");
        place.insert_embed(&mut yrs.doc().transact_mut(), 6, yrs::Any::from(embedded));
        pending(&mut doc);
        view(&mut doc).splice(11, 5, "now").unwrap();
        assert_eq!(text(&mut doc), "before and now", "{embedded:?}");
        assert_eq!(view(&mut doc).len().unwrap(), 14);
    }
}

/// An Automerge map that another program filled: one unrelated key is added, a counter is counted by two at once.
#[test]
fn automerge_values_keep_their_types_and_counters_count() {
    use automerge::{ROOT, ReadDoc, ScalarValue, Value as AmValue};
    let bytes = include_bytes!("fixtures/a-types.automerge");
    let kind = CrdtKind::Automerge;
    let (mut ana, mut ben) = (reload(kind, bytes, 1), reload(kind, bytes, 2));
    let before = json_of(&mut ana);
    assert_eq!(before["bin"]["$conclave"], "bytes", "{before}");
    set_json(&mut ana, |value| value["added"] = json!(1));
    let mut after = json_of(&mut ana);
    assert_eq!(
        after.as_object_mut().unwrap().remove("added"),
        Some(json!(1))
    );
    assert_eq!(after, before);
    let count = before["cnt"].as_i64().unwrap();
    let when = before["when"].as_i64().unwrap();
    set_json(&mut ana, |value| {
        value["cnt"] = json!(count + 3);
        value["when"] = json!(when + 1_000);
        value["imm"] = json!("changed");
    });
    set_json(&mut ben, |value| value["cnt"] = json!(count + 10));
    exchange(&mut ana, &mut ben);
    assert_eq!(json_of(&mut ana)["cnt"], json!(count + 13));
    let doc = ana
        .as_any_mut()
        .downcast_mut::<conclave_crdt::automerge::Automerge>()
        .unwrap();
    let doc = doc.doc_mut();
    let scalar = |key: &str| match doc.get(ROOT, key) {
        Ok(Some((AmValue::Scalar(value), _))) => value.into_owned(),
        other => panic!("{key}: {other:?}"),
    };
    assert!(matches!(scalar("cnt"), ScalarValue::Counter(_)));
    assert_eq!(scalar("when"), ScalarValue::Timestamp(when + 1_000));
    assert_eq!(scalar("imm"), ScalarValue::Str("changed".into()));
    assert!(matches!(scalar("bin"), ScalarValue::Bytes(_)));
}

/// Automerge marks stay when the text beside them changes.
#[test]
fn marks_survive() {
    use automerge::{ROOT, ReadDoc};
    let mut doc = reload(
        CrdtKind::Automerge,
        include_bytes!("fixtures/a-marks.automerge"),
        1,
    );
    set_json(&mut doc, |value| value["body"] = json!("hello big world"));
    let engine = doc
        .as_any_mut()
        .downcast_mut::<conclave_crdt::automerge::Automerge>()
        .unwrap();
    let engine = engine.doc_mut();
    let (_, body) = engine.get(ROOT, "body").unwrap().unwrap();
    assert_eq!(engine.text(&body).unwrap(), "hello big world");
    assert_eq!(engine.marks(&body).unwrap().len(), 1);
}

/// The copy that somebody edits is older than the document: the outcome is the same as if they had edited apart.
#[test]
fn edits_of_an_older_copy_are_edits_beside_the_others() {
    for kind in KINDS {
        for (base, theirs, mine, wanted) in [
            (
                json!([1, 2, 3]),
                json!([10, 2, 3]),
                json!([20, 2, 3]),
                vec![json!([20, 2, 3])],
            ),
            (
                json!([{ "t": "buy milk", "done": false }]),
                json!([{ "t": "buy milk", "done": true }]),
                json!([{ "t": "buy oat milk", "done": false }]),
                vec![json!([{ "t": "buy oat milk", "done": true }])],
            ),
            (
                json!(["one item"]),
                json!(["one big item"]),
                json!(["one item now"]),
                vec![json!(["one big item now"])],
            ),
            (
                json!(["milk"]),
                json!(["tea"]),
                json!(["juice"]),
                vec![json!(["teajuice"]), json!(["juicetea"])],
            ),
        ] {
            let wrap = |value: &Value| json!({ "list": value });
            // Apart.
            let (mut ana, mut ben) = json_pair(kind, &wrap(&base));
            ana.json().unwrap().merge_json(&wrap(&theirs)).unwrap();
            ben.json().unwrap().merge_json(&wrap(&mine)).unwrap();
            exchange(&mut ana, &mut ben);
            let apart = json_of(&mut ana)["list"].clone();
            // A copy.
            let (mut ana, _) = json_pair(kind, &wrap(&base));
            ana.json().unwrap().merge_json(&wrap(&theirs)).unwrap();
            let edited = ana
                .json()
                .unwrap()
                .edit(Some(&wrap(&base)), &wrap(&mine))
                .unwrap();
            assert_eq!(edited, Edited::Done);
            let copy = json_of(&mut ana)["list"].clone();
            assert!(wanted.contains(&copy), "{kind}: {copy}");
            // A Yjs array has no assignment: two numbers set apart both stand.
            if !(kind == CrdtKind::Yjs && base[0].is_number()) {
                let either = apart == json!([10, 2, 3]) || wanted.contains(&apart);
                assert!(either, "{kind}: {apart}");
            }
        }
    }
}
