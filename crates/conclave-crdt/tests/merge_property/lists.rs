//! Lists of items with and without names.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::{CrdtKind, Edited, ReplicaId};
use serde_json::{Value, json};

use super::*;

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Named,
    Nameless,
    Strings,
    Numbers,
}

fn item(form: Form, n: usize) -> Value {
    match form {
        Form::Named => json!({ "id": n, "title": format!("task {}", n % 7), "done": false }),
        Form::Nameless => {
            json!({ "title": format!("task number {n} of many"), "done": false, "by": n % 3 })
        }
        Form::Strings => json!(format!("item number {n} to get")),
        Form::Numbers => json!(n * 10),
    }
}

/// What an item is recognised by, whoever changed it.
fn known(form: Form, item: &Value) -> String {
    match form {
        Form::Named => item["id"].to_string(),
        Form::Nameless => item["title"].as_str().unwrap().to_owned(),
        Form::Strings => item
            .as_str()
            .unwrap()
            .chars()
            .filter(char::is_ascii_digit)
            .collect(),
        Form::Numbers => item.to_string(),
    }
}

pub fn list_case(random: &mut Random) {
    let kind = random.kind();
    let apart = random.below(2) == 0;
    let writers = random.between(2, 3);
    let form = [Form::Named, Form::Nameless, Form::Strings, Form::Numbers][random.below(4)];
    let length = random.size(1, longest(5_000));
    let base: Vec<Value> = (0..length).map(|n| item(form, n)).collect();
    let mut inserted = Vec::new();
    let (mut removed, mut changed) = (BTreeSet::new(), BTreeSet::new());
    let mut news = Vec::new();
    for writer in 0..writers {
        let mut new: Vec<Value> = Vec::new();
        let edits: BTreeSet<usize> = (0..random.between(1, 6))
            .map(|_| random.below(length))
            .collect();
        // What is put where something was removed is that, with a change: nobody could tell.
        let mut gone = false;
        for (n, value) in base.iter().enumerate() {
            let mut value = value.clone();
            let beside_gone = core::mem::take(&mut gone);
            if edits.contains(&n) {
                match random.below(3) {
                    0 if beside_gone => {}
                    0 => {
                        let number = 100_000 + inserted.len();
                        inserted.push(known(form, &item(form, number)));
                        new.push(item(form, number));
                    }
                    1 => {
                        removed.insert(n);
                        gone = true;
                        continue;
                    }
                    _ if form == Form::Numbers => {}
                    _ => {
                        changed.insert(n);
                        match form {
                            Form::Strings => {
                                value = json!(format!(
                                    "{} W{}",
                                    value.as_str().unwrap(),
                                    ["a", "b", "c"][writer]
                                ))
                            }
                            _ => value["done"] = json!(format!("W{writer}")),
                        }
                    }
                }
            }
            new.push(value);
        }
        news.push(json!({ "list": new, "note": "kept" }));
    }
    let begin = json!({ "list": base, "note": "kept" });
    let mut doc = new(kind, 1);
    doc.json().unwrap().merge_json(&begin).unwrap();
    let mut merged = bring_together(kind, &mut doc, apart, &begin, &news, |doc, base, new| {
        let edited = doc.json().unwrap().edit(Some(base), new).unwrap();
        assert_eq!(edited, Edited::Done);
    });
    let value = merged.json().unwrap().to_json().unwrap();
    let list = value["list"].as_array().unwrap();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for item in list {
        *counts.entry(known(form, item)).or_default() += 1;
    }
    assert!(
        counts.values().all(|count| *count == 1),
        "something stands twice: {value}"
    );
    for new in &inserted {
        assert!(counts.contains_key(new), "{new}");
    }
    let places: BTreeMap<String, usize> = list
        .iter()
        .enumerate()
        .map(|(at, item)| (known(form, item), at))
        .collect();
    let authors = authors(kind, &mut merged, list.len());
    let mut before = None;
    for (n, item) in base.iter().enumerate() {
        let place = places.get(&known(form, item)).copied();
        match (place, removed.contains(&n)) {
            (None, removed) => assert!(removed, "item {n} is missing"),
            (Some(_), true) => assert!(changed.contains(&n), "item {n} is still"),
            (Some(at), false) => {
                assert!(before < Some(at), "item {n} has moved");
                before = Some(at);
                if changed.contains(&n) {
                    let now = list[at].to_string();
                    assert!(now.contains('W'), "item {n} is not changed: {now}");
                } else {
                    assert_eq!(&list[at], item);
                }
                assert!(authors[at] == first(kind), "item {n} has a new author");
            }
        }
    }
}

/// Who made each item of the list.
fn authors(kind: CrdtKind, doc: &mut Doc, length: usize) -> Vec<ReplicaId> {
    match kind {
        CrdtKind::Automerge => {
            use automerge::{ObjId, ROOT, ReadDoc};
            let engine = doc
                .as_any_mut()
                .downcast_mut::<conclave_crdt::automerge::Automerge>()
                .unwrap();
            let engine = engine.doc_mut();
            let (_, list) = engine.get(ROOT, "list").unwrap().unwrap();
            let author = |id: ObjId| match id {
                ObjId::Id(_, actor, _) => ReplicaId::from_bytes(actor.to_bytes()).unwrap(),
                ObjId::Root => panic!("no item"),
            };
            engine
                .list_range(&list, ..)
                .map(|item| author(item.id()))
                .collect()
        }
        _ => {
            use yrs::branch::{Branch, BranchID};
            use yrs::{Array, Map, Out, ReadTxn, Transact};
            let yrs = doc
                .as_any_mut()
                .downcast_mut::<conclave_crdt::yjs::Yrs>()
                .unwrap();
            let txn = yrs.doc().transact();
            let root = txn.get_map("root").unwrap();
            let Some(Out::YArray(list)) = root.get(&txn, "list") else {
                return vec![first(kind); length];
            };
            let author = |branch: &Branch| match branch.id() {
                BranchID::Nested(id) => {
                    ReplicaId::from_bytes(&id.client.get().to_be_bytes()).unwrap()
                }
                BranchID::Root(_) => panic!("no item"),
            };
            list.iter(&txn)
                .map(|item| match item {
                    Out::YMap(map) => author(map.as_ref()),
                    Out::YText(text) => author(text.as_ref()),
                    // Plain values do not say.
                    _ => first(kind),
                })
                .collect()
        }
    }
}
