//! Random edits under random schedules: everyone ends up with the same document.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;

use common::*;
use conclave_crdt::yjs::Yrs;
use conclave_crdt::{CrdtKind, JsonView};
use serde_json::{Value, json};
use yrs::{
    Any, Array, Map, MapPrelim, Out, Text, Transact, Xml, XmlElementPrelim, XmlFragment,
    XmlTextPrelim,
};

struct Peer {
    doc: Doc,
    /// Updates that have not been delivered to this peer.
    inbox: Vec<Vec<u8>>,
}

fn send(peers: &mut [Peer], from: usize) {
    let updates = pending(&mut peers[from].doc);
    for (index, peer) in peers.iter_mut().enumerate() {
        if index != from {
            peer.inbox.extend(updates.iter().cloned());
        }
    }
}

/// Delivers a random part of the inbox, in any order, sometimes twice.
fn deliver(random: &mut Random, peer: &mut Peer) {
    random.shuffle(&mut peer.inbox);
    let count = random.below(peer.inbox.len() + 1);
    let batch: Vec<Vec<u8>> = peer.inbox.drain(..count).collect();
    if random.below(4) == 0 {
        peer.inbox.extend(batch.first().cloned());
    }
    apply_all(&mut peer.doc, &batch);
}

fn run(kind: CrdtKind, seed: u64, edit: impl Fn(&mut Random, &mut Doc)) {
    let mut random = Random::new(seed);
    let mut peers: Vec<Peer> = (1..=4)
        .map(|n| Peer {
            doc: new(kind, n),
            inbox: Vec::new(),
        })
        .collect();
    for step in 0..120 {
        let who = random.below(peers.len());
        match random.below(5) {
            0 | 1 => edit(&mut random, &mut peers[who].doc),
            2 => send(&mut peers, who),
            3 => {
                send(&mut peers, who);
                deliver(&mut random, &mut peers[who]);
            }
            _ if step % 7 == 0 => {
                // A restart: snapshot, new process, fresh id.
                send(&mut peers, who);
                let snapshot = peers[who].doc.snapshot().unwrap();
                let before = digest(&mut peers[who].doc);
                peers[who].doc = reload(kind, &snapshot, 10 + step);
                assert_eq!(
                    digest(&mut peers[who].doc),
                    before,
                    "{kind} seed {seed} step {step}"
                );
            }
            _ => {}
        }
    }
    for who in 0..peers.len() {
        send(&mut peers, who);
    }
    for peer in &mut peers {
        random.shuffle(&mut peer.inbox);
        for update in std::mem::take(&mut peer.inbox) {
            apply_all(&mut peer.doc, &[update]);
        }
        assert!(!peer.doc.has_missing(), "{kind} seed {seed}");
    }
    let (text, digest, version, json) = state(&mut peers[0].doc);
    for peer in &mut peers[1..] {
        let other = state(&mut peer.doc);
        assert_eq!(
            other,
            (text.clone(), digest, version.clone(), json.clone()),
            "{kind} seed {seed}"
        );
    }
}

fn state(doc: &mut Doc) -> (String, [u8; 32], Vec<u8>, Value) {
    let json = doc.json().unwrap().to_json().unwrap();
    (
        text(doc),
        digest(doc),
        doc.version().unwrap().as_bytes().to_vec(),
        json,
    )
}

#[test]
fn texts_converge() {
    for kind in KINDS {
        for seed in 0..60 {
            run(kind, seed, Random::edit);
        }
    }
}

#[test]
fn json_converges() {
    for kind in KINDS {
        for seed in 100..140 {
            run(kind, seed, edit_json);
        }
    }
}

fn edit_json(random: &mut Random, doc: &mut Doc) {
    let json: &mut dyn JsonView = doc.json().unwrap();
    let mut value = json.to_json().unwrap();
    let object = value.as_object_mut().unwrap();
    match random.below(5) {
        0 => {
            object.insert(
                "title".into(),
                json!(["draft", "draft two", "final"][random.below(3)]),
            );
        }
        1 => {
            let items = object.entry("items").or_insert_with(|| json!([]));
            if let Some(items) = items.as_array_mut() {
                let at = random.below(items.len() + 1);
                items.insert(
                    at,
                    json!({ "done": random.below(2) == 0, "n": random.below(100) }),
                );
            }
        }
        2 => {
            if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut)
                && !items.is_empty()
            {
                let at = random.below(items.len());
                items.remove(at);
            }
        }
        3 => {
            object.remove("title");
        }
        _ => {
            object.insert(
                "nested".into(),
                json!({ "a": { "b": [random.below(9), 2.5, null, "x"] } }),
            );
        }
    }
    json.merge_json(&value).unwrap();
    assert_eq!(json.to_json().unwrap(), value);
}

/// Formatting, embedded values, nested shared types and their deletion, in plain `yrs` code.
fn edit_rich(random: &mut Random, doc: &mut Doc) {
    let doc = doc.as_any_mut().downcast_mut::<Yrs>().unwrap().doc();
    let body = doc.get_or_insert_text("body");
    let map = doc.get_or_insert_map("map");
    let array = doc.get_or_insert_array("array");
    let xml = doc.get_or_insert_xml_fragment("xml");
    let mut txn = doc.transact_mut();
    let length = body.len(&txn);
    let at = random.below(length as usize + 1) as u32;
    let key = ["a", "b", "c"][random.below(3)];
    match random.below(12) {
        0 | 1 => body.insert(&mut txn, at, ["word ", "\u{4e2d}", "x"][random.below(3)]),
        2 => body.remove_range(&mut txn, at, (length - at).min(3)),
        3 | 4 => {
            let value = [Any::Bool(true), Any::Null, Any::from("red")][random.below(3)].clone();
            let attributes = [(Arc::from(["bold", "color"][random.below(2)]), value)]
                .into_iter()
                .collect();
            body.format(&mut txn, at, (length - at).min(5), attributes);
        }
        5 => {
            body.insert_embed(&mut txn, at, Any::Bool(true));
        }
        6 => {
            let inner = map.insert(&mut txn, key, MapPrelim::from([("k", 1)]));
            inner.insert(&mut txn, "deeper", MapPrelim::from([("k", 2)]));
        }
        7 => {
            if let Some(Out::YMap(inner)) = map.get(&txn, key) {
                inner.insert(&mut txn, "k", random.below(100) as i64);
                if let Some(Out::YMap(deeper)) = inner.get(&txn, "deeper") {
                    deeper.insert(&mut txn, "k", "changed");
                }
            }
        }
        8 => {
            map.remove(&mut txn, key);
        }
        9 => {
            let at = random.below(array.len(&txn) as usize + 1) as u32;
            array.insert(
                &mut txn,
                at,
                Any::from_json(r#"{"a": [1, 2.5], "b": null, "c": "d"}"#).unwrap(),
            );
        }
        10 => {
            let element = xml.insert(&mut txn, 0, XmlElementPrelim::empty("p"));
            element.insert_attribute(&mut txn, "class", "x");
            element.insert(&mut txn, 0, XmlTextPrelim::new("inside"));
        }
        _ => {
            if xml.len(&txn) > 0 {
                xml.remove_range(&mut txn, 0, 1);
            }
            if array.len(&txn) > 1 {
                array.remove_range(&mut txn, 1, 1);
            }
        }
    }
}

#[test]
fn rich_yjs_documents_converge() {
    for seed in 200..320 {
        run(CrdtKind::Yjs, seed, edit_rich);
    }
}

#[test]
fn one_batch_gives_the_same_document_as_one_by_one() {
    for kind in KINDS {
        let mut random = Random::new(7);
        let mut author = new(kind, 1);
        let mut updates = Vec::new();
        for _ in 0..200 {
            random.edit(&mut author);
            updates.extend(pending(&mut author));
        }
        let (mut batched, mut single, mut shuffled) = (new(kind, 2), new(kind, 3), new(kind, 4));
        apply_all(&mut batched, &updates);
        for update in &updates {
            apply_all(&mut single, std::slice::from_ref(update));
        }
        random.shuffle(&mut updates);
        apply_all(&mut shuffled, &updates);
        for doc in [&mut batched, &mut single, &mut shuffled] {
            assert_eq!(digest(doc), digest(&mut author), "{kind}");
        }
    }
}
