//! Documents that Yjs and Automerge themselves wrote: recognised, loaded, edited, written back.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(clippy::disallowed_methods, reason = "the documents are files")]

use std::path::{Path, PathBuf};

use automerge::{AutoCommit, ReadDoc};
use conclave_crdt::{Crdt, CrdtKind, Foreign, ForeignError, ReplicaId, Root, RootShape};
use conclave_crdt::{load, recognise};
use serde_json::{Value, json};
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, GetString, ReadTxn, StateVector, Transact, Update};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(name)).unwrap()
}

fn foreign(name: &str) -> Foreign {
    recognise(&fixture(name)).unwrap().unwrap()
}

fn opened(name: &str) -> Box<dyn Crdt> {
    open(&foreign(name))
}

fn open(foreign: &Foreign) -> Box<dyn Crdt> {
    let replica = ReplicaId::for_kind(foreign.kind, [9; 16]);
    load(foreign.kind, &foreign.state, replica).unwrap()
}

fn roots(crdt: &mut dyn Crdt) -> Vec<(String, RootShape, bool)> {
    let told = |root: Root| (root.name, root.shape, root.editable);
    crdt.roots().unwrap().into_iter().map(told).collect()
}

fn root(crdt: &mut dyn Crdt, name: &str) -> Value {
    let mut roots = crdt.roots().unwrap().into_iter();
    roots.find(|root| root.name == name).unwrap().value
}

#[test]
fn every_whole_document_is_recognised_and_comes_back_as_it_was() {
    let mut seen = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let kind = match &name[..2] {
            "y-" => CrdtKind::Yjs,
            "a-" => CrdtKind::Automerge,
            _ => continue,
        };
        seen += 1;
        if name.contains("incomplete") {
            let error = recognise(&fixture(&name)).unwrap_err();
            assert_eq!(error, ForeignError::Incomplete(kind), "{name}");
            continue;
        }
        let found = foreign(&name);
        assert_eq!(found.kind, kind, "{name}");
        let mut first = open(&found);
        assert!(!first.has_missing());
        // What is written back is recognised again, and is the same document.
        let exported = first.export().unwrap();
        let again = recognise(&exported).unwrap().unwrap();
        assert_eq!(again.kind, kind, "{name}");
        let mut second = open(&again);
        assert_eq!(first.content_digest(), second.content_digest(), "{name}");
        assert_eq!(first.replicas(), second.replicas(), "{name}");
    }
    assert_eq!(seen, 19);
}

/// The engines themselves read what is exported; Yjs bytes are what Yjs wrote.
#[test]
fn exports_are_what_the_engines_read() {
    for name in ["y-text.ydoc", "y-tiptap.ydoc", "y-embed.ydoc"] {
        assert_eq!(opened(name).export().unwrap(), fixture(name), "{name}");
    }
    let exported = opened("y-all-v2.ydoc").export().unwrap();
    let doc = Doc::new();
    let text = doc.get_or_insert_text("quill");
    let mut txn = doc.transact_mut();
    txn.apply_update(Update::decode_v1(&exported).unwrap())
        .unwrap();
    assert_eq!(text.get_string(&txn), "hel[b]lo \u{fffd}world\r\n");
    drop(txn);
    // Both encodings hold the same.
    let mut first = opened("y-all.ydoc");
    assert_eq!(
        first.content_digest(),
        opened("y-all-v2.ydoc").content_digest()
    );

    let exported = opened("a-types.automerge").export().unwrap();
    let doc = AutoCommit::load(&exported).unwrap();
    let original = AutoCommit::load(&fixture("a-types.automerge")).unwrap();
    for key in original.keys(automerge::ROOT) {
        let of = |doc: &AutoCommit| {
            let (value, id) = doc.get(automerge::ROOT, key.as_str()).unwrap().unwrap();
            (value.to_string(), id)
        };
        assert_eq!(of(&doc), of(&original), "{key}");
    }
}

#[test]
fn operations_stay_under_the_ids_that_wrote_them() {
    // 600, the one that began, and the one with which every document here begins.
    assert_eq!(opened("a-600actors.automerge").replicas().len(), 602);
    let small = opened("y-small-client.ydoc").replicas();
    let seven = ReplicaId::from_bytes(&7u64.to_be_bytes()).unwrap();
    assert_eq!(small, [(seven, 5)]);
}

#[test]
fn yjs_documents_show_what_they_hold_by_name() {
    use RootShape::{List, Map, Text, Xml};
    for name in ["y-all.ydoc", "y-all-v2.ydoc"] {
        let mut all = opened(name);
        let expected = [
            ("list", List, false),
            ("map", Map, true),
            ("prosemirror", Xml, false),
            ("quill", Text, true),
        ]
        .map(|(name, shape, editable)| (name.to_owned(), shape, editable));
        assert_eq!(roots(all.as_mut()), expected);
        assert_eq!(root(all.as_mut(), "list"), json!(["a", 3, "from b"]));
        let xml = root(all.as_mut(), "prosemirror");
        assert_eq!(xml, json!(r#"<heading level="1"><em>Ti</em>tle</heading>"#));
        let map = root(all.as_mut(), "map");
        assert_eq!(
            map["bytes"],
            json!({"$conclave": "bytes", "base64": "AAH/"})
        );
        assert_eq!(map[""], json!("empty key"));
        assert_eq!(
            map["nested"]["k"],
            json!(["x", null, true, 1.5, {"deep": [1]}])
        );
        assert_eq!(map["sub"], json!({"guid": "a-sub-document"}));
        assert_eq!(map.get("gone"), None);
    }
    let mut tiptap = opened("y-tiptap.ydoc");
    assert_eq!(
        roots(tiptap.as_mut()),
        [("prosemirror".to_owned(), Xml, false)]
    );
    let mut own = opened("y-map.ydoc");
    assert_eq!(roots(own.as_mut()), [("root".to_owned(), Map, true)]);
    let empty = conclave_crdt::create(CrdtKind::Yjs, ReplicaId::for_kind(CrdtKind::Yjs, [1; 16]));
    assert_eq!(empty.unwrap().roots().unwrap(), []);
}

/// The only text or map is edited under the name that it has; what a view does not show is untouched.
#[test]
fn the_only_text_and_the_only_map_are_edited_where_they_are() {
    let mut quill = opened("y-quill.ydoc");
    let view = quill.text().unwrap();
    view.replace_all("only one text\n").unwrap();
    assert_eq!(view.text().unwrap(), "only one text\n");
    assert_eq!(
        roots(quill.as_mut()),
        [("quill".to_owned(), RootShape::Text, true)]
    );

    let mut settings = opened("y-settings.ydoc");
    let view = settings.json().unwrap();
    assert_eq!(
        view.to_json().unwrap(),
        json!({"theme": "dark", "size": 12})
    );
    view.put(&["size".into()], &json!(14)).unwrap();
    assert_eq!(root(settings.as_mut(), "settings")["size"], json!(14));

    let mut all = opened("y-all.ydoc");
    let before = root(all.as_mut(), "prosemirror");
    all.text().unwrap().splice(0, 0, "new ").unwrap();
    assert_eq!(root(all.as_mut(), "prosemirror"), before);
    let mut out = Vec::new();
    all.take_pending(&mut out).unwrap();
    let state = foreign("y-all.ydoc").state;
    let replica = ReplicaId::for_kind(CrdtKind::Yjs, [8; 16]);
    let mut other = load(CrdtKind::Yjs, &state, replica).unwrap();
    other.apply(&[&out[0]]).unwrap();
    assert!(other.text().unwrap().text().unwrap().starts_with("new hel"));
}

#[test]
fn automerge_files_may_be_chunks_in_any_order() {
    let json = |name: &str| opened(name).json().unwrap().to_json().unwrap();
    assert_eq!(json("a-incremental.automerge"), json!({"x": 1, "y": 2}));
    assert_eq!(
        json("a-appended.automerge"),
        json!({"n": 2, "note": format!("{}first", "long ".repeat(8))})
    );
    assert_eq!(
        json("a-two.automerge"),
        json!({"n": 1, "note": "first", "other": "second"})
    );
    // Changes before what they build upon, and deflated ones.
    let mut doc = AutoCommit::load(&fixture("a-types.automerge")).unwrap();
    let long = "deflates well ".repeat(1_000);
    automerge::transaction::Transactable::put(&mut doc, automerge::ROOT, "long", long.as_str())
        .unwrap();
    doc.commit();
    let mut changes = doc.get_changes(&[]);
    changes.reverse();
    let chunks: Vec<u8> = changes
        .iter_mut()
        .flat_map(|change| change.bytes().into_owned())
        .collect();
    assert!(chunks.len() < long.len());
    let found = recognise(&chunks).unwrap().unwrap();
    let value = open(&found).json().unwrap().to_json().unwrap();
    assert_eq!(value["long"], json!(long));
    assert_eq!(value[""], json!("empty key"));
}

#[test]
fn texts_are_not_taken_for_documents_and_damage_is_said() {
    for text in [
        "",
        "a",
        "plain text\n",
        "a\0b\n",
        "\u{1}\u{1}\u{7}",
        "{\"a\":1}",
        "\u{feff}x",
        "\0",
        "\0\0\0\0",
        "h\0e\0l\0l\0o\0",
    ] {
        assert_eq!(recognise(text.as_bytes()), Ok(None), "{text:?}");
    }
    assert_eq!(recognise(b"\xff\xfeh\0i\0"), Ok(None));
    let whole = fixture("a-types.automerge");
    for cut in [5, 20, whole.len() - 1] {
        let damaged = Err(ForeignError::Damaged(CrdtKind::Automerge));
        assert_eq!(recognise(&whole[..cut]), damaged, "{cut}");
    }
    // A Yjs update has no mark of its own: cut, it is just no document.
    let whole = fixture("y-all.ydoc");
    for cut in 0..whole.len() {
        assert_ne!(
            recognise(&whole[..cut]).map(|found| found.is_some()),
            Ok(true),
            "{cut}"
        );
    }
}

/// Bytes of the second encoding reach the engine's own decoder: whatever they are, it ends in peace.
#[test]
fn damaged_bytes_of_the_second_encoding_are_refused_in_peace() {
    let whole = fixture("y-all-v2.ydoc");
    for at in 0..whole.len() {
        for bits in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= bits;
            let _ = recognise(&bytes);
        }
        let _ = recognise(&whole[..at]);
    }
    let doc = Doc::new();
    let nothing = doc
        .transact()
        .encode_state_as_update_v2(&StateVector::default());
    assert_eq!(recognise(&nothing), Ok(None));
    assert_eq!(Update::new().encode_v1(), [0, 0]);
}
