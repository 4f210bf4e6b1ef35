//! The text and JSON views.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use conclave_crdt::limits::MAX_JSON_DEPTH;
use conclave_crdt::{CrdtError, CrdtKind, Edited, PathElement};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn positions_are_characters_whatever_their_encoding() {
    for kind in KINDS {
        let mut doc = new(kind, 1);
        let text = view(&mut doc);
        text.splice(0, 0, "a\u{1f600}\u{e9}\u{4e2d}b").unwrap();
        assert_eq!(text.len().unwrap(), 5);
        assert!(!text.is_empty().unwrap());
        text.splice(2, 1, "\u{1f1e9}\u{1f1ea}").unwrap();
        text.splice(1, 1, "").unwrap();
        text.splice(5, 0, "!").unwrap();
        assert_eq!(
            text.text().unwrap(),
            "a\u{1f1e9}\u{1f1ea}\u{4e2d}b!",
            "{kind}"
        );
        for (position, delete) in [(7, 0), (0, 7), (6, 1), (usize::MAX, 1), (1, usize::MAX)] {
            assert_eq!(
                text.splice(position, delete, "x"),
                Err(CrdtError::InvalidArgument),
                "{kind}"
            );
        }
        assert_eq!(text.len().unwrap(), 6);
    }
}

#[test]
fn replacing_everything_keeps_concurrent_edits() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        insert(
            &mut alice,
            0,
            "The quick brown fox jumps over the lazy dog.",
        );
        apply_all(&mut bob, &pending(&mut alice));
        view(&mut alice)
            .replace_all("The quick red fox jumps over the lazy dog!")
            .unwrap();
        view(&mut bob)
            .replace_all("The quick brown fox leaps over the lazy dog.")
            .unwrap();
        let (from_alice, from_bob) = (pending(&mut alice), pending(&mut bob));
        apply_all(&mut alice, &from_bob);
        apply_all(&mut bob, &from_alice);
        assert_eq!(
            text(&mut alice),
            "The quick red fox leaps over the lazy dog!",
            "{kind}"
        );
        assert_eq!(digest(&mut alice), digest(&mut bob));
        view(&mut bob)
            .replace_all("The quick red fox leaps over the lazy dog!")
            .unwrap();
        assert!(pending(&mut bob).is_empty(), "{kind}: nothing changed");
    }
}

#[test]
fn json_is_merged_by_key_item_and_character() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        let start = json!({ "title": "shopping list", "items": ["milk", "bread"], "meta": { "n": 1, "ok": true } });
        alice.json().unwrap().merge_json(&start).unwrap();
        assert_eq!(alice.json().unwrap().to_json().unwrap(), start, "{kind}");
        apply_all(&mut bob, &pending(&mut alice));
        let mine = json!({ "title": "shopping lists", "items": ["milk", "eggs", "bread"], "meta": { "n": 2, "ok": true } });
        let yours = json!({ "title": "my shopping list", "items": ["milk", "bread", "tea"], "meta": { "n": 1 } });
        alice.json().unwrap().merge_json(&mine).unwrap();
        bob.json().unwrap().merge_json(&yours).unwrap();
        let (from_alice, from_bob) = (pending(&mut alice), pending(&mut bob));
        apply_all(&mut alice, &from_bob);
        apply_all(&mut bob, &from_alice);
        let merged = json!({
            "title": "my shopping lists", "items": ["milk", "eggs", "bread", "tea"], "meta": { "n": 2 }
        });
        assert_eq!(alice.json().unwrap().to_json().unwrap(), merged, "{kind}");
        assert_eq!(bob.json().unwrap().to_json().unwrap(), merged, "{kind}");
        assert_eq!(digest(&mut alice), digest(&mut bob));
        bob.json().unwrap().merge_json(&merged).unwrap();
        assert!(pending(&mut bob).is_empty(), "{kind}: nothing changed");
    }
}

#[test]
fn a_change_inside_a_list_item_changes_that_item_only() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        let start = json!({ "tasks": [{ "name": "write", "done": false }, { "name": "test", "done": false }] });
        alice.json().unwrap().merge_json(&start).unwrap();
        apply_all(&mut bob, &pending(&mut alice));
        let mine = json!({ "tasks": [{ "name": "write", "done": true }, { "name": "test", "done": false }] });
        alice.json().unwrap().merge_json(&mine).unwrap();
        bob.json()
            .unwrap()
            .put(&path(&["tasks", "0", "name"]), &json!("rewrite"))
            .unwrap();
        let (from_alice, from_bob) = (pending(&mut alice), pending(&mut bob));
        apply_all(&mut alice, &from_bob);
        apply_all(&mut bob, &from_alice);
        let tasks = alice.json().unwrap().to_json().unwrap();
        assert_eq!(
            tasks["tasks"][0],
            json!({ "name": "rewrite", "done": true }),
            "{kind}"
        );
        assert_eq!(tasks, bob.json().unwrap().to_json().unwrap());
    }
}

/// Numbers are indexes.
fn path(elements: &[&str]) -> Vec<PathElement> {
    elements
        .iter()
        .map(|element| {
            element
                .parse::<usize>()
                .map_or_else(|_| PathElement::from(*element), PathElement::from)
        })
        .collect()
}

#[test]
fn single_places_can_be_set_and_removed() {
    for kind in KINDS {
        let mut doc = new(kind, 1);
        let json = doc.json().unwrap();
        json.put(&path(&["a"]), &json!({ "list": [] })).unwrap();
        json.put(&path(&["a", "list", "0"]), &json!("zero"))
            .unwrap();
        json.put(&path(&["a", "list", "1"]), &json!(1)).unwrap();
        json.put(&path(&["a", "list", "0"]), &json!([0])).unwrap();
        json.put(&path(&["b"]), &json!(false)).unwrap();
        assert_eq!(
            json.to_json().unwrap(),
            json!({ "a": { "list": [[0], 1] }, "b": false }),
            "{kind}"
        );
        json.delete(&path(&["a", "list", "0"])).unwrap();
        json.delete(&path(&["b"])).unwrap();
        assert_eq!(
            json.to_json().unwrap(),
            json!({ "a": { "list": [1] } }),
            "{kind}"
        );
        for bad in [
            &[][..],
            &["0"],
            &["x", "y"],
            &["a", "list", "3"],
            &["a", "list", "k"],
        ] {
            assert_eq!(
                json.put(&path(bad), &Value::Null),
                Err(CrdtError::InvalidArgument),
                "{kind} {bad:?}"
            );
            assert_eq!(
                json.delete(&path(bad)),
                Err(CrdtError::InvalidArgument),
                "{kind} {bad:?}"
            );
        }
        assert_eq!(
            json.merge_json(&json!([1])),
            Err(CrdtError::InvalidArgument)
        );
    }
}

#[test]
fn nesting_is_limited_in_both_directions() {
    for kind in KINDS {
        let mut doc = new(kind, 1);
        let nested = |depth: usize| (0..depth).fold(json!(1), |value, _| json!({ "k": value }));
        doc.json()
            .unwrap()
            .merge_json(&nested(MAX_JSON_DEPTH))
            .unwrap();
        assert_eq!(
            doc.json().unwrap().to_json().unwrap(),
            nested(MAX_JSON_DEPTH)
        );
        let before = digest(&mut doc);
        assert_eq!(
            doc.json().unwrap().merge_json(&nested(MAX_JSON_DEPTH + 1)),
            Err(CrdtError::InvalidArgument)
        );
        assert_eq!(digest(&mut doc), before, "{kind}");
        // Other replicas accept the deepest document.
        let mut other = new(kind, 2);
        apply_all(&mut other, &pending(&mut doc));
        assert_eq!(digest(&mut other), before);
    }
}

#[test]
fn the_text_of_an_automerge_document_is_part_of_its_json() {
    let mut doc = new(CrdtKind::Automerge, 1);
    assert_eq!(doc.json().unwrap().to_json().unwrap(), json!({}));
    insert(&mut doc, 0, "hello");
    assert_eq!(
        doc.json().unwrap().to_json().unwrap(),
        json!({ "text": "hello" })
    );
    doc.json()
        .unwrap()
        .merge_json(&json!({ "text": "hello world", "n": 1 }))
        .unwrap();
    assert_eq!(text(&mut doc), "hello world");
    // Left out, it is emptied; the shared object stays.
    doc.json().unwrap().merge_json(&json!({})).unwrap();
    assert_eq!(text(&mut doc), "");
    doc.json()
        .unwrap()
        .merge_json(&json!({ "text": 5 }))
        .unwrap();
    assert_eq!(view(&mut doc).text(), Err(CrdtError::Engine));
}

#[test]
fn a_whole_number_in_the_place_of_a_fraction_is_what_was_written() {
    // The last one has no exact floating-point form.
    let whole = [json!(0), json!(-1), json!(9_007_199_254_740_993_u64)];
    for kind in KINDS {
        for number in &whole {
            let mut doc = new(kind, 1);
            let view = doc.json().unwrap();
            view.merge_json(&json!({"list": [0.25], "key": 0.25}))
                .unwrap();
            let wanted = json!({"list": [number], "key": number});
            view.merge_json(&wanted).unwrap();
            assert_eq!(view.to_json().unwrap(), wanted);
        }
    }
}

fn is_done(doc: &mut Doc, base: Option<&Value>, new: &Value) -> bool {
    doc.json().unwrap().edit(base, new).unwrap() == Edited::Done
}

fn sync(one: &mut Doc, other: &mut Doc) {
    let (ones, others) = (pending(one), pending(other));
    apply_all(other, &ones);
    apply_all(one, &others);
}

/// More than an engine takes at once, of every sort, at the beginning, in the middle and at the end.
#[test]
fn long_lists_of_everything_read_back() {
    let some = |from: usize, count: usize| {
        let items = (from..from + count).map(|at| match at % 7 {
            0 => json!({ "of": at, "in": [at, { "deep": "er" }], "": null }),
            1 => json!([at, [], {}]),
            2 => json!(format!("text {at}")),
            3 => json!({ "$conclave": "bytes", "base64": "AAEC" }),
            4 => Value::Null,
            _ => json!(at),
        });
        items.collect::<Vec<Value>>()
    };
    for kind in KINDS {
        let mut doc = new(kind, 1);
        let mut list = some(0, 9_000);
        // One item that is more than an engine takes at once, and one that is long.
        list.insert(4_000, json!((0..70_000).collect::<Vec<usize>>()));
        list.insert(2_000, json!("long ".repeat(20_000)));
        let before = json!({ "list": list });
        assert!(is_done(&mut doc, None, &before), "{kind}");
        assert_eq!(doc.json().unwrap().to_json().unwrap(), before, "{kind}");
        for (at, count) in [(0, 11), (5_000, 70), (9_083, 500)] {
            list.splice(at..at, some(10_000, count));
        }
        let after = json!({ "list": list });
        assert!(is_done(&mut doc, Some(&before), &after), "{kind}");
        assert_eq!(doc.json().unwrap().to_json().unwrap(), after, "{kind}");
        let mut reader = new(kind, 2);
        apply_all(&mut reader, &pending(&mut doc));
        assert_eq!(reader.json().unwrap().to_json().unwrap(), after, "{kind}");
    }
}

/// What an engine takes in at once comes before and behind what others put there, as one by one.
#[test]
fn a_run_of_new_items_stays_together() {
    for kind in KINDS {
        let (mut one, mut other) = (new(kind, 1), new(kind, 2));
        let base = json!({ "list": ["a", "z"] });
        assert!(is_done(&mut one, None, &base));
        sync(&mut one, &mut other);
        let mine = json!({ "list": ["a", 1, "b", {}, 2, 3, "z"] });
        let theirs = json!({ "list": ["a", 7, "y", "z"] });
        assert!(is_done(&mut one, Some(&base), &mine));
        assert!(is_done(&mut other, Some(&base), &theirs));
        sync(&mut one, &mut other);
        let merged = one.json().unwrap().to_json().unwrap();
        assert_eq!(merged, other.json().unwrap().to_json().unwrap(), "{kind}");
        let ways = [
            json!({ "list": ["a", 1, "b", {}, 2, 3, 7, "y", "z"] }),
            json!({ "list": ["a", 7, "y", 1, "b", {}, 2, 3, "z"] }),
        ];
        assert!(ways.contains(&merged), "{kind}: {merged}");
    }
}

#[test]
fn numbers_read_back_as_they_were_written() {
    for kind in KINDS {
        let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
        let numbers = json!({ "n": [0, -1, 2.5, i64::from(i32::MAX) + 1, -9_007_199_254_740_991i64, i64::MAX, 1e300, -0.5] });
        alice.json().unwrap().merge_json(&numbers).unwrap();
        apply_all(&mut bob, &pending(&mut alice));
        for doc in [&mut alice, &mut bob] {
            let read = doc.json().unwrap().to_json().unwrap();
            let expected = numbers["n"].as_array().unwrap();
            for (value, expected) in read["n"].as_array().unwrap().iter().zip(expected) {
                assert_eq!(value.as_f64(), expected.as_f64(), "{kind}");
            }
        }
        let (a, b) = (
            alice.json().unwrap().to_json().unwrap(),
            bob.json().unwrap().to_json().unwrap(),
        );
        assert_eq!(a, b, "{kind}");
        bob.json().unwrap().merge_json(&numbers).unwrap();
        assert!(
            pending(&mut bob).is_empty(),
            "{kind}: the same numbers again"
        );
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-1000i64..1000).prop_map(Value::from),
        (0u8..40).prop_map(|n| json!(f64::from(n) + 0.25)),
        "[ab\u{1f600} ]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-d]", any_json(), 0..4).prop_map(|map| map.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merging_json_makes_the_document_equal(values in prop::collection::vec(any_object(), 1..5)) {
        for kind in KINDS {
            let (mut author, mut reader) = (new(kind, 1), new(kind, 2));
            for value in &values {
                author.json().unwrap().merge_json(value).unwrap();
                prop_assert_eq!(&author.json().unwrap().to_json().unwrap(), value);
                apply_all(&mut reader, &pending(&mut author));
            }
            prop_assert_eq!(&reader.json().unwrap().to_json().unwrap(), &values[values.len() - 1]);
            prop_assert_eq!(digest(&mut reader), digest(&mut author));
        }
    }

    #[test]
    fn concurrent_merges_converge(base in any_object(), left in any_object(), right in any_object()) {
        for kind in KINDS {
            let (mut alice, mut bob) = (new(kind, 1), new(kind, 2));
            alice.json().unwrap().merge_json(&base).unwrap();
            apply_all(&mut bob, &pending(&mut alice));
            alice.json().unwrap().merge_json(&left).unwrap();
            bob.json().unwrap().merge_json(&right).unwrap();
            let (from_alice, from_bob) = (pending(&mut alice), pending(&mut bob));
            apply_all(&mut alice, &from_bob);
            apply_all(&mut bob, &from_alice);
            prop_assert_eq!(alice.json().unwrap().to_json().unwrap(), bob.json().unwrap().to_json().unwrap());
            prop_assert_eq!(digest(&mut alice), digest(&mut bob));
        }
    }

    #[test]
    fn replacing_text_makes_it_equal(values in prop::collection::vec("[ab\u{1f600}\u{e9} \n]{0,30}", 1..6)) {
        for kind in KINDS {
            let (mut author, mut reader) = (new(kind, 1), new(kind, 2));
            for value in &values {
                view(&mut author).replace_all(value).unwrap();
                prop_assert_eq!(&text(&mut author), value);
                apply_all(&mut reader, &pending(&mut author));
            }
            prop_assert_eq!(text(&mut reader), text(&mut author));
            prop_assert_eq!(digest(&mut reader), digest(&mut author));
        }
    }
}
