//! Applications that use an engine directly, and documents that other programs wrote.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use automerge::transaction::Transactable;
use automerge::{AutoCommit, ObjType, ROOT, ReadDoc};
use common::*;
use conclave_crdt::automerge::Automerge;
use conclave_crdt::yjs::Yrs;
use conclave_crdt::{Applied, ByReplica, Crdt, CrdtError, CrdtKind, load};
use yrs::updates::decoder::Decode;
use yrs::{
    Any, Array, Map, MapPrelim, ReadTxn, StateVector, Text, Transact, Update, XmlElementPrelim,
    XmlFragment, XmlTextPrelim,
};

fn yjs(n: u8) -> Yrs {
    Yrs::create(replica(CrdtKind::Yjs, n)).unwrap()
}

fn sync(from: &mut dyn Crdt, to: &mut dyn Crdt) -> Vec<Vec<u8>> {
    let mut updates = Vec::new();
    from.take_pending(&mut updates).unwrap();
    for update in &updates {
        to.apply(&[update]).unwrap();
    }
    updates
}

/// Everything the engine can hold: rich text, XML, arrays, nested maps, all plain values.
fn write_rich(doc: &yrs::Doc) {
    let text = doc.get_or_insert_text("body");
    let array = doc.get_or_insert_array("array");
    let map = doc.get_or_insert_map("map");
    let xml = doc.get_or_insert_xml_fragment("xml");
    let mut txn = doc.transact_mut();
    text.insert(&mut txn, 0, "bold and plain");
    text.format(
        &mut txn,
        0,
        4,
        [("bold".into(), Any::Bool(true))].into_iter().collect(),
    );
    text.insert_embed(
        &mut txn,
        4,
        Any::from_json(r#"{"image": "x.png", "w": 2.5, "a": [1, null]}"#).unwrap(),
    );
    array.insert(
        &mut txn,
        0,
        Any::from_json(r#"{"z": 1, "y": {"x": [true, "s"]}, "w": -5000000000, "v": 1.5}"#).unwrap(),
    );
    array.insert(
        &mut txn,
        1,
        Any::Number(yrs::any::Number::Int(i64::MAX - 1)),
    );
    array.insert(&mut txn, 2, Any::from(vec![1u8, 2, 3]));
    map.insert(&mut txn, "inner", MapPrelim::from([("k", "v")]));
    map.insert(&mut txn, "gone", 1);
    map.insert(&mut txn, "gone", Any::Undefined);
    let paragraph = xml.insert(&mut txn, 0, XmlElementPrelim::empty("p"));
    paragraph.insert(&mut txn, 0, XmlTextPrelim::new("inside"));
}

#[test]
fn rich_yjs_documents_round_trip_and_digest_alike() {
    let (mut alice, mut bob) = (yjs(1), yjs(2));
    write_rich(alice.doc());
    let updates = sync(&mut alice, &mut bob);
    assert_eq!(alice.content_digest(), bob.content_digest());
    // Every operation again, in the receiver's own encoding: known, and compared as equal.
    let everything = alice.diff_since(&yjs(9).version().unwrap()).unwrap();
    for _ in 0..3 {
        assert_eq!(bob.apply(&[&everything]), Ok(Applied::Duplicate));
        assert_eq!(bob.apply(&[&updates[0]]), Ok(Applied::Duplicate));
    }
    let mut copy = load(
        CrdtKind::Yjs,
        &bob.snapshot().unwrap(),
        replica(CrdtKind::Yjs, 3),
    )
    .unwrap();
    assert_eq!(copy.content_digest(), alice.content_digest());
    assert_eq!(copy.apply(&[&updates[0]]), Ok(Applied::Duplicate));
}

#[test]
fn concurrent_formatting_gives_equal_digests_in_any_order() {
    let (mut alice, mut bob) = (yjs(1), yjs(2));
    write_rich(alice.doc());
    sync(&mut alice, &mut bob);
    for doc in [&alice, &bob] {
        let body = doc.doc().get_or_insert_text("body");
        let mut txn = doc.doc().transact_mut();
        body.format(
            &mut txn,
            2,
            5,
            [("bold".into(), Any::Null)].into_iter().collect(),
        );
        body.remove_range(&mut txn, 3, 2);
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    alice.take_pending(&mut a).unwrap();
    bob.take_pending(&mut b).unwrap();
    alice.apply(&[&b[0]]).unwrap();
    bob.apply(&[&a[0]]).unwrap();
    assert_eq!(alice.content_digest(), bob.content_digest());
}

#[test]
fn deleting_what_others_extend_gives_equal_digests() {
    // One deletes a container while the other writes into it.
    let (mut alice, mut bob) = (yjs(1), yjs(2));
    write_rich(alice.doc());
    sync(&mut alice, &mut bob);
    {
        let map = alice.doc().get_or_insert_map("map");
        map.remove(&mut alice.doc().transact_mut(), "inner");
        let map = bob.doc().get_or_insert_map("map");
        let mut txn = bob.doc().transact_mut();
        let inner: yrs::MapRef = map.get(&txn, "inner").unwrap().cast().unwrap();
        inner.insert(&mut txn, "more", MapPrelim::from([("deep", 1)]));
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    alice.take_pending(&mut a).unwrap();
    bob.take_pending(&mut b).unwrap();
    alice.apply(&[&b[0]]).unwrap();
    bob.apply(&[&a[0]]).unwrap();
    let mut carol = yjs(3);
    let everything = bob.diff_since(&carol.version().unwrap()).unwrap();
    carol.apply(&[&everything]).unwrap();
    let digests = [
        alice.content_digest(),
        bob.content_digest(),
        carol.content_digest(),
    ];
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
    // Known operations whose content has been dropped are still duplicates.
    assert_eq!(carol.apply(&[&b[0]]), Ok(Applied::Duplicate));
}

#[test]
fn documents_of_plain_yjs_can_be_loaded_and_read_back() {
    let plain = yrs::Doc::with_client_id(77);
    write_rich(&plain);
    let state = plain
        .transact()
        .encode_state_as_update_v1(&StateVector::default());
    let mut loaded = Yrs::load(&state, replica(CrdtKind::Yjs, 1)).unwrap();
    let array = loaded.doc().get_or_insert_array("array");
    array.push_back(&mut loaded.doc().transact_mut(), "added");
    // A plain reader understands a snapshot.
    let snapshot = loaded.snapshot().unwrap();
    let reader = yrs::Doc::new();
    reader
        .transact_mut()
        .apply_update(Update::decode_v1(&snapshot).unwrap())
        .unwrap();
    let array = reader.get_or_insert_array("array");
    assert_eq!(array.len(&reader.transact()), 4);
}

#[test]
fn an_open_transaction_is_an_error_and_no_deadlock() {
    let (mut alice, mut bob) = (yjs(1), yjs(2));
    alice.text().unwrap().splice(0, 0, "x").unwrap();
    let mut updates = Vec::new();
    alice.take_pending(&mut updates).unwrap();
    let held = bob.doc().clone();
    let txn = held.transact_mut();
    assert_eq!(bob.apply(&[&updates[0]]), Err(CrdtError::Engine));
    assert_eq!(bob.snapshot(), Err(CrdtError::Engine));
    assert_eq!(bob.text().unwrap().text(), Err(CrdtError::Engine));
    drop(txn);
    assert_eq!(bob.apply(&[&updates[0]]), Ok(Applied::Complete));
}

#[test]
fn foreign_operations_written_past_the_adapter_poison_the_document() {
    let (mut alice, mut bob) = (yjs(1), yjs(2));
    alice.text().unwrap().splice(0, 0, "x").unwrap();
    let mut updates = Vec::new();
    alice.take_pending(&mut updates).unwrap();
    bob.doc()
        .transact_mut()
        .apply_update(Update::decode_v1(&updates[0]).unwrap())
        .unwrap();
    assert_eq!(bob.take_pending(&mut updates), Err(CrdtError::Engine));
    assert_eq!(bob.take_pending(&mut updates), Err(CrdtError::Poisoned));
    assert_eq!(updates.len(), 1);

    let kind = CrdtKind::Automerge;
    let (mut alice, mut bob) = (
        Automerge::create(replica(kind, 1)).unwrap(),
        Automerge::create(replica(kind, 2)).unwrap(),
    );
    alice.text().unwrap().splice(0, 0, "x").unwrap();
    let mut updates = Vec::new();
    alice.take_pending(&mut updates).unwrap();
    bob.doc_mut().load_incremental(&updates[0]).unwrap();
    assert_eq!(bob.take_pending(&mut updates), Err(CrdtError::Engine));
    assert_eq!(bob.take_pending(&mut updates), Err(CrdtError::Poisoned));
}

#[test]
fn direct_edits_are_pending_edits() {
    let (mut alice, mut bob) = (yjs(1), yjs(2));
    for round in 0..3 {
        let map = alice.doc().get_or_insert_map("root");
        map.insert(&mut alice.doc().transact_mut(), "round", round);
    }
    sync(&mut alice, &mut bob);
    assert_eq!(
        bob.json().unwrap().to_json().unwrap(),
        serde_json::json!({ "round": 2 })
    );

    let kind = CrdtKind::Automerge;
    let (mut alice, mut bob) = (
        Automerge::create(replica(kind, 1)).unwrap(),
        Automerge::create(replica(kind, 2)).unwrap(),
    );
    let list = alice
        .doc_mut()
        .put_object(ROOT, "list", ObjType::List)
        .unwrap();
    alice.doc_mut().insert(&list, 0, 5).unwrap();
    alice.doc_mut().commit();
    alice.doc_mut().put(ROOT, "k", "plain string").unwrap();
    sync(&mut alice, &mut bob);
    let expected = serde_json::json!({ "list": [5], "k": "plain string" });
    assert_eq!(bob.json().unwrap().to_json().unwrap(), expected);
    assert_eq!(alice.content_digest(), bob.content_digest());
    assert!(
        bob.doc_mut()
            .get_changes(&[])
            .iter()
            .all(|change| change.timestamp() == 0)
    );
}

#[test]
fn documents_of_plain_automerge_can_be_loaded() {
    let kind = CrdtKind::Automerge;
    let mut plain = AutoCommit::new();
    plain.put(ROOT, "title", "plain").unwrap();
    let saved = plain.save();
    let (mut alice, mut bob) = (
        load(kind, &saved, replica(kind, 1)).unwrap(),
        load(kind, &saved, replica(kind, 2)).unwrap(),
    );
    assert_eq!(digest(&mut alice), digest(&mut bob));
    insert(&mut alice, 0, "one text");
    apply_all(&mut bob, &pending(&mut alice));
    assert_eq!(text(&mut bob), "one text");
    assert_eq!(
        bob.json().unwrap().to_json().unwrap(),
        serde_json::json!({ "text": "one text", "title": "plain" })
    );
    // Changes alone are a document as well.
    plain.put(ROOT, "title", "changed").unwrap();
    let changes = plain.save_after(&[]);
    let carol = load(kind, &changes, replica(kind, 3))
        .unwrap()
        .as_any_mut()
        .downcast_mut::<Automerge>()
        .map(|carol| {
            let title = carol.doc_mut().get(ROOT, "title").unwrap().unwrap();
            title.0.into_string().unwrap()
        });
    assert_eq!(carol.as_deref(), Some("changed"));
}

#[test]
fn every_difference_in_yjs_content_changes_the_digest() {
    type Edit = fn(&yrs::Doc);
    let edits: [(&str, Edit); 11] = [
        ("one key", |doc| {
            doc.get_or_insert_map("m")
                .insert(&mut doc.transact_mut(), "a", 1);
        }),
        ("another key", |doc| {
            doc.get_or_insert_map("m")
                .insert(&mut doc.transact_mut(), "b", 1);
        }),
        ("another root", |doc| {
            doc.get_or_insert_map("n")
                .insert(&mut doc.transact_mut(), "a", 1);
        }),
        ("another value", |doc| {
            doc.get_or_insert_map("m")
                .insert(&mut doc.transact_mut(), "a", 2);
        }),
        ("another type of value", |doc| {
            doc.get_or_insert_map("m")
                .insert(&mut doc.transact_mut(), "a", "1");
        }),
        ("a shared type", |doc| {
            doc.get_or_insert_map("m")
                .insert(&mut doc.transact_mut(), "a", MapPrelim::default());
        }),
        ("an element", |doc| {
            doc.get_or_insert_xml_fragment("x").insert(
                &mut doc.transact_mut(),
                0,
                XmlElementPrelim::empty("p"),
            );
        }),
        ("another element", |doc| {
            doc.get_or_insert_xml_fragment("x").insert(
                &mut doc.transact_mut(),
                0,
                XmlElementPrelim::empty("h"),
            );
        }),
        ("a text", |doc| {
            doc.get_or_insert_text("t")
                .insert(&mut doc.transact_mut(), 0, "ab")
        }),
        ("the same letters, the second one put first", |doc| {
            let text = doc.get_or_insert_text("t");
            text.insert(&mut doc.transact_mut(), 0, "a");
            text.insert(&mut doc.transact_mut(), 0, "b");
        }),
        ("the same letters, in two steps", |doc| {
            let text = doc.get_or_insert_text("t");
            text.insert(&mut doc.transact_mut(), 0, "a");
            text.insert(&mut doc.transact_mut(), 1, "b");
        }),
    ];
    let mut seen: Vec<([u8; 32], &str)> = Vec::new();
    for (name, edit) in edits {
        let mut doc = yjs(1);
        edit(doc.doc());
        let digest = doc.content_digest().unwrap();
        let twin = seen
            .iter()
            .find(|other| other.0 == digest)
            .map(|other| other.1);
        // How the typing was cut into transactions is no difference.
        let expected = (name == "the same letters, in two steps").then_some("a text");
        assert_eq!(twin, expected, "{name}");
        seen.push((digest, name));
    }
}

#[test]
fn a_panic_while_the_engine_works_poisons_the_document_and_nothing_else() {
    let (mut alice, mut bob) = (yjs(1), yjs(2));
    alice.text().unwrap().splice(0, 0, "x").unwrap();
    let mut updates = Vec::new();
    alice.take_pending(&mut updates).unwrap();
    bob.doc()
        .observe_update_v1("bad observer", |_, _| panic!("the text is x"))
        .unwrap();
    assert_eq!(bob.apply(&[&updates[0]]), Err(CrdtError::Panicked));
    assert_eq!(bob.apply(&[&updates[0]]), Err(CrdtError::Poisoned));
    assert_eq!(bob.version(), Err(CrdtError::Poisoned));
    assert_eq!(bob.content_digest(), Err(CrdtError::Poisoned));
    assert_eq!(
        bob.text().unwrap().splice(0, 0, "y"),
        Err(CrdtError::Poisoned)
    );
    // What is left of it neither blocks nor is sent.
    bob.doc()
        .get_or_insert_text("text")
        .insert(&mut bob.doc().transact_mut(), 0, "lost");
    assert_eq!(bob.take_pending(&mut updates), Err(CrdtError::Poisoned));
    drop(bob);
    let mut carol = yjs(3);
    assert_eq!(carol.apply(&[&updates[0]]), Ok(Applied::Complete));
}

#[test]
fn merged_updates_with_gaps_are_taken_apart() {
    let (mut alice, mut bob) = (yjs(1), yjs(2));
    let mut updates = Vec::new();
    for word in ["one ", "two ", "three ", "four "] {
        let end = alice.text().unwrap().len().unwrap();
        alice.text().unwrap().splice(end, 0, word).unwrap();
        alice.take_pending(&mut updates).unwrap();
    }
    // Plain Yjs merges the first and the third: a gap between them.
    let merged = yrs::merge_updates_v1([updates[0].as_slice(), updates[2].as_slice()]).unwrap();
    assert_eq!(bob.inspect(&merged).unwrap().info.ranges.len(), 2);
    assert_eq!(bob.apply(&[&merged]), Ok(Applied::Pending));
    assert_eq!(bob.text().unwrap().text().unwrap(), "one ");
    assert_eq!(bob.next_counter(alice.replica()), 4);
    assert_eq!(bob.apply(&[&updates[3]]), Ok(Applied::Pending));
    let mut copy = load(
        CrdtKind::Yjs,
        &bob.snapshot().unwrap(),
        replica(CrdtKind::Yjs, 3),
    )
    .unwrap();
    assert_eq!(copy.content_digest(), bob.content_digest());
    for doc in [&mut bob as &mut dyn Crdt, copy.as_mut()] {
        assert_eq!(doc.apply(&[&updates[1]]), Ok(Applied::Complete));
        assert_eq!(doc.content_digest(), alice.content_digest());
    }
}

#[test]
fn a_typed_and_erased_word_leaves_no_difference() {
    let (mut alice, mut bob) = (yjs(1), yjs(2));
    let text = alice.doc().get_or_insert_text("text");
    {
        let mut txn = alice.doc().transact_mut();
        text.insert(&mut txn, 0, "keep gone");
        text.remove_range(&mut txn, 4, 5);
    }
    sync(&mut alice, &mut bob);
    assert_eq!(alice.content_digest(), bob.content_digest());
}

#[test]
fn text_positions_skip_what_is_embedded() {
    let mut alice = yjs(1);
    let text = alice.doc().get_or_insert_text("text");
    {
        let mut txn = alice.doc().transact_mut();
        text.insert(&mut txn, 0, "ab\u{1f600}cd");
        text.insert_embed(&mut txn, 1, Any::Bool(true));
    }
    let view = alice.text().unwrap();
    assert_eq!(view.len().unwrap(), 5);
    view.splice(2, 1, "X").unwrap();
    assert_eq!(view.text().unwrap(), "abXcd");
    view.splice(5, 0, "!").unwrap();
    assert_eq!(view.text().unwrap(), "abXcd!");
    let runs = ByReplica::of_text(alice.attribution().unwrap()).unwrap();
    assert_eq!(runs.len(), 1);
}
