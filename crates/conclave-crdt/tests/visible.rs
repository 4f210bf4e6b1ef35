//! What shows, and nothing else, is in the digest of what shows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![cfg(all(feature = "yjs", feature = "automerge"))]

use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::Transactable;
use automerge::{ObjType, ROOT, ReadDoc, ScalarValue};
use conclave_crdt::automerge::Automerge;
use conclave_crdt::yjs::Yrs;
use conclave_crdt::{Crdt, CrdtKind, ReplicaId, create};
use serde_json::json;
use yrs::{Any, Array, Doc, Map, Text, Transact, XmlElementPrelim, XmlFragment, XmlTextPrelim};

const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];

fn new(kind: CrdtKind, seed: u8) -> Box<dyn Crdt> {
    create(kind, ReplicaId::for_kind(kind, [seed; 16])).unwrap()
}

#[test]
fn who_wrote_it_and_in_how_many_steps_makes_no_difference() {
    for kind in KINDS {
        let (mut one, mut two) = (new(kind, 1), new(kind, 2));
        let text = one.text().unwrap();
        text.splice(0, 0, "one three").unwrap();
        text.splice(4, 0, "two ").unwrap();
        two.text().unwrap().splice(0, 0, "one two three").unwrap();
        let whole = json!({"list": [1, {"a": "b"}], "n": 1.5});
        for part in [json!({"n": 1}), whole.clone()] {
            one.json().unwrap().edit(None, &part).map(drop).unwrap();
        }
        two.json().unwrap().edit(None, &whole).map(drop).unwrap();
        if kind == CrdtKind::Automerge {
            for crdt in [&mut one, &mut two] {
                crdt.text().unwrap().replace_all("one two three").unwrap();
            }
        }
        assert_ne!(one.content_digest(), two.content_digest());
        assert_eq!(one.visible_digest(), two.visible_digest(), "{kind}");
        let mut more = whole.clone();
        more["list"] = json!([1, {"a": "c"}]);
        two.json()
            .unwrap()
            .edit(Some(&whole), &more)
            .map(drop)
            .unwrap();
        assert_ne!(one.visible_digest(), two.visible_digest(), "{kind}");
    }
}

/// The digest of a Yjs document with the text "abcd" after some edits.
fn yjs(edit: impl FnOnce(&Doc)) -> [u8; 32] {
    let mut crdt = new(CrdtKind::Yjs, 1);
    crdt.text().unwrap().splice(0, 0, "abcd").unwrap();
    edit(crdt.as_any_mut().downcast_ref::<Yrs>().unwrap().doc());
    crdt.visible_digest().unwrap()
}

#[test]
fn everything_of_a_yjs_document_counts() {
    let format = |doc: &Doc, at, len, value| {
        let text = doc.get_or_insert_text("text");
        text.format(
            &mut doc.transact_mut(),
            at,
            len,
            [("b".into(), value)].into(),
        );
    };
    let bold = |at, len| move |doc: &Doc| format(doc, at, len, Any::Bool(true));
    let xml = |tag: &'static str| {
        move |doc: &Doc| {
            let xml = doc.get_or_insert_xml_fragment("xml");
            let mut txn = doc.transact_mut();
            xml.insert(&mut txn, 0, XmlElementPrelim::empty(tag));
            xml.insert(&mut txn, 1, XmlTextPrelim::new("text"));
        }
    };
    let plain = yjs(|_| {});
    let all = [
        yjs(bold(0, 2)),
        yjs(bold(0, 3)),
        yjs(xml("p")),
        yjs(xml("h1")),
        yjs(|doc| {
            let text = doc.get_or_insert_text("text");
            text.insert_embed(&mut doc.transact_mut(), 2, Any::Bool(true));
        }),
        yjs(|doc| {
            let list = doc.get_or_insert_array("todo");
            list.insert(&mut doc.transact_mut(), 0, "milk");
        }),
    ];
    for (at, digest) in all.iter().enumerate() {
        assert_ne!(*digest, plain, "{at}");
        assert!(!all[..at].contains(digest), "{at}");
    }
    // Formats that came to nothing, or came in parts.
    assert_eq!(
        yjs(|doc| {
            format(doc, 0, 2, Any::Bool(true));
            format(doc, 0, 4, Any::Null);
        }),
        plain
    );
    assert_eq!(
        yjs(|doc| {
            format(doc, 0, 1, Any::Bool(true));
            format(doc, 1, 1, Any::Bool(true));
        }),
        all[0]
    );
    // A string is the same in both of its forms.
    let member = |doc: &Doc, text: bool| {
        let map = doc.get_or_insert_map("root");
        let mut txn = doc.transact_mut();
        if text {
            map.insert(&mut txn, "k", yrs::TextPrelim::new("v"));
        } else {
            map.insert(&mut txn, "k", "v");
        }
    };
    assert_eq!(yjs(|doc| member(doc, true)), yjs(|doc| member(doc, false)));
}

/// The digest of an Automerge document with the text "abcd" after some edits.
fn am(edit: impl FnOnce(&mut automerge::AutoCommit)) -> [u8; 32] {
    let mut crdt = new(CrdtKind::Automerge, 1);
    crdt.text().unwrap().splice(0, 0, "abcd").unwrap();
    let automerge = crdt.as_any_mut().downcast_mut::<Automerge>().unwrap();
    edit(automerge.doc_mut());
    crdt.visible_digest().unwrap()
}

#[test]
fn everything_of_an_automerge_document_counts() {
    let text = |doc: &automerge::AutoCommit| doc.get(ROOT, "text").unwrap().unwrap().1;
    let mark = |doc: &mut automerge::AutoCommit, start, end| {
        let id = text(doc);
        let mark = Mark::new("b".to_owned(), true, start, end);
        doc.mark(&id, mark, ExpandMark::None).unwrap();
    };
    let put = |value: ScalarValue| {
        move |doc: &mut automerge::AutoCommit| doc.put(ROOT, "k", value).unwrap()
    };
    let plain = am(|_| {});
    let all = [
        am(|doc| mark(doc, 0, 2)),
        am(|doc| mark(doc, 0, 3)),
        am(put(ScalarValue::Int(1))),
        am(put(ScalarValue::counter(1))),
        am(put(ScalarValue::Timestamp(1))),
        am(put(ScalarValue::Bytes(vec![1]))),
        am(|doc| {
            let block = doc.split_block(text(doc), 2).unwrap();
            doc.put(&block, "type", "p").unwrap();
        }),
        am(|doc| {
            let block = doc.split_block(text(doc), 2).unwrap();
            doc.put(&block, "type", "h1").unwrap();
        }),
    ];
    for (at, digest) in all.iter().enumerate() {
        assert_ne!(*digest, plain, "{at}");
        assert!(!all[..at].contains(digest), "{at}");
    }
    assert_eq!(
        am(|doc| {
            mark(doc, 0, 1);
            mark(doc, 1, 2);
        }),
        all[0]
    );
    assert_eq!(
        am(|doc| {
            mark(doc, 0, 2);
            let id = text(doc);
            doc.unmark(&id, "b", 0, 4, ExpandMark::None).unwrap();
        }),
        plain
    );
    let as_text = am(|doc| {
        let id = doc.put_object(ROOT, "k", ObjType::Text).unwrap();
        doc.splice_text(&id, 0, 0, "v").unwrap();
    });
    assert_eq!(as_text, am(put(ScalarValue::Str("v".into()))));
}
