//! What differs between two states of a document: done to the earlier one, it gives the later one.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use conclave_crdt::{
    ByReplica, CrdtError, CrdtKind, Difference, Differs, PathElement, differences,
};
use serde_json::{Value, json};

fn at<'a>(json: &'a mut Value, place: &[PathElement]) -> &'a mut Value {
    place.iter().fold(json, |at, step| match step {
        PathElement::Key(key) => &mut at[key],
        PathElement::Index(index) => &mut at[index],
    })
}

fn spliced(text: &str, at: usize, deleted: &str, inserted: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let end = at + deleted.chars().count();
    assert_eq!(letters[at..end].iter().collect::<String>(), deleted);
    let parts = [
        &letters[..at],
        &inserted.chars().collect::<Vec<_>>(),
        &letters[end..],
    ];
    parts.concat().into_iter().collect()
}

/// Does what is told to text and values.
fn done(text: &mut String, json: &mut Value, difference: &Difference) {
    match &difference.what {
        Differs::Text {
            at: from,
            deleted,
            inserted,
        } if difference.place.is_empty() => *text = spliced(text, *from, deleted, inserted),
        Differs::Text {
            at: from,
            deleted,
            inserted,
        } => {
            let place = at(json, &difference.place);
            *place = spliced(place.as_str().unwrap_or_default(), *from, deleted, inserted).into();
        }
        Differs::Items {
            at: from,
            deleted,
            inserted,
        } => {
            let items = at(json, &difference.place).as_array_mut().unwrap();
            let gone = items.splice(from..&(from + deleted.len()), inserted.iter().cloned());
            assert_eq!(gone.collect::<Vec<_>>(), *deleted);
        }
        Differs::Member { before, after } => {
            let (last, within) = difference.place.split_last().unwrap();
            let within = at(json, within);
            let was = match (last, after) {
                (PathElement::Key(key), Some(after)) => {
                    let members = within.as_object_mut().unwrap();
                    members.insert(key.clone(), after.clone())
                }
                (PathElement::Key(key), None) => within.as_object_mut().unwrap().remove(key),
                (PathElement::Index(index), Some(after)) => {
                    Some(std::mem::replace(&mut within[index], after.clone()))
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(was, *before);
        }
    }
}

fn shown(doc: &mut Doc) -> (String, Value) {
    (text(doc), doc.json().unwrap().to_json().unwrap())
}

/// Some replicas write apart; what is told of the time between two looks leads from one to the other.
#[test]
fn what_is_told_leads_from_one_state_to_the_other() {
    for (kind, seed) in KINDS
        .into_iter()
        .flat_map(|kind| (0..8).map(move |it| (kind, it)))
    {
        let mut random = Random::new(seed);
        let mut docs: Vec<Doc> = (1..=3).map(|n| new(kind, n)).collect();
        let mut all: Vec<Vec<u8>> = Vec::new();
        let mut reader = new(kind, 9);
        let mut kinds = [0; 3];
        for _ in 0..12 {
            let mut before = reload(kind, &reader.snapshot().unwrap(), 10);
            let from = all.len();
            for doc in &mut docs {
                for _ in 0..random.below(4) {
                    edit(doc, &mut random);
                    all.extend(pending(doc));
                }
            }
            apply_all(&mut reader, &all[from..]);
            docs.iter_mut().for_each(|doc| _ = apply_all(doc, &all));
            let (mut text, mut json) = shown(&mut before);
            let told = differences(before.as_mut(), reader.as_mut()).unwrap();
            assert!(!told.elsewhere);
            for difference in &told.found {
                done(&mut text, &mut json, difference);
                kinds[match difference.what {
                    Differs::Text { .. } => 0,
                    Differs::Items { .. } => 1,
                    Differs::Member { .. } => 2,
                }] += 1;
            }
            let (now, values) = shown(&mut reader);
            assert_eq!((json, kind), (values, kind), "{seed}");
            // Automerge tells its text among the values.
            if kind == CrdtKind::Yjs {
                assert_eq!(text, now, "{seed}");
            }
            let nothing = differences(reader.as_mut(), docs[0].as_mut()).unwrap();
            assert!(nothing.found.is_empty() && !nothing.elsewhere);
        }
        assert!(
            kinds.iter().all(|count| *count > 2),
            "{kind} {seed}: {kinds:?}"
        );
    }
}

fn edit(doc: &mut Doc, random: &mut Random) {
    let number = random.below(1000);
    let json = doc.json().unwrap();
    let shown = json.to_json().unwrap();
    let items = shown["list"].as_array().map_or(0, Vec::len);
    let put = match random.below(7) {
        0 if shown["list"].is_null() => {
            json.put(&["list".into()], &json!([1, "two", { "three": 3 }]))
        }
        1 | 2 if shown["list"].is_array() => {
            let place = ["list".into(), random.below(items + 1).into()];
            json.put(&place, &json!({ "n": number, "s": "some words" }))
        }
        3 if items > 0 => json.delete(&["list".into(), random.below(items).into()]),
        4 => {
            let key = format!("k{}", random.below(3));
            json.put(&[key.as_str().into()], &json!(format!("word {number}")))
        }
        5 => json.put(&["n".into()], &json!(number)),
        _ => {
            let length = view(doc).len().unwrap();
            let at = random.below(length + 1);
            let delete = random.below(4).min(length - at);
            view(doc).splice(at, delete, "aaba")
        }
    };
    put.unwrap();
}

#[test]
fn it_is_what_was_written_and_not_what_it_looks_like() {
    for kind in KINDS {
        let mut doc = new(kind, 1);
        insert(&mut doc, 0, "aaaa");
        update(&mut doc);
        let mut before = reload(kind, &doc.snapshot().unwrap(), 2);
        view(&mut doc).splice(1, 1, "a").unwrap();
        update(&mut doc);
        let told = differences(before.as_mut(), doc.as_mut()).unwrap();
        let what = Differs::Text {
            at: 1,
            deleted: "a".to_owned(),
            inserted: "a".to_owned(),
        };
        assert!(
            told.found.len() == 1 && told.found[0].what == what,
            "{kind}"
        );
        assert!(!format!("{told:?}").contains("\"a\""));
    }
}

/// Each of many values under a long key is named with all of it: what that takes is bounded.
#[test]
fn places_that_take_too_much_are_refused() {
    for kind in KINDS {
        let mut doc = new(kind, 1);
        let key: PathElement = "k".repeat(200_000).as_str().into();
        let items = vec![Value::Null; 2_000];
        let place = [key.clone()];
        doc.json().unwrap().put(&place, &items.into()).unwrap();
        let before = doc.snapshot().unwrap();
        for index in (0..2_000).rev().step_by(2) {
            let place = [key.clone(), PathElement::Index(index)];
            doc.json().unwrap().delete(&place).unwrap();
        }
        let mut writers = ByReplica::default();
        let found = doc.attribution().unwrap().of_values(&mut writers);
        assert_eq!(found.unwrap_err(), CrdtError::TooLarge, "{kind}");
        let mut before = reload(kind, &before, 2);
        let found = differences(before.as_mut(), doc.as_mut());
        assert_eq!(found.unwrap_err(), CrdtError::TooLarge, "{kind}");
    }
}
