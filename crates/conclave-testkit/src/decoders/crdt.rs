//! Updates, snapshots and versions of both CRDT engines: written by members, so by anybody who was ever admitted.

#![allow(clippy::unwrap_used)]

use super::register::{
    Decoded, Decoder,
    Source::{Network, Person},
};
use conclave_crdt::cost::{Allowance, BALANCE_CAP, LoadLimit, Meter};
use conclave_crdt::limits::{MAX_SNAPSHOT_BYTES, MAX_UPDATE_BYTES, MAX_VERSION_BYTES};
use conclave_crdt::{
    Attribution, ByReplica, Crdt, CrdtError, CrdtKind, ReplicaId, Version, create, load, recognise,
};

use super::code;

const YJS: u8 = CrdtKind::Yjs.code();
const AUTOMERGE: u8 = CrdtKind::Automerge.code();

pub(super) fn decoders() -> Vec<Decoder> {
    let update = MAX_UPDATE_BYTES;
    let snapshot = MAX_SNAPSHOT_BYTES;
    let version = MAX_VERSION_BYTES;
    vec![
        Decoder::new(
            "crdt.yjs.inspect",
            Network,
            update,
            inspect::<YJS>,
            updates::<YJS>,
        ),
        Decoder::new(
            "crdt.yjs.update",
            Network,
            update,
            apply::<YJS>,
            updates::<YJS>,
        ),
        Decoder::new(
            "crdt.yjs.snapshot",
            Network,
            snapshot,
            open::<YJS>,
            snapshots::<YJS>,
        ),
        Decoder::new("crdt.yjs.cost", Network, snapshot, cost::<YJS>, dear::<YJS>),
        Decoder::new(
            "crdt.yjs.version",
            Network,
            version,
            since::<YJS>,
            versions::<YJS>,
        ),
        Decoder::new(
            "crdt.automerge.inspect",
            Network,
            update,
            inspect::<AUTOMERGE>,
            updates::<AUTOMERGE>,
        ),
        Decoder::new(
            "crdt.automerge.update",
            Network,
            update,
            apply::<AUTOMERGE>,
            updates::<AUTOMERGE>,
        ),
        Decoder::new(
            "crdt.automerge.snapshot",
            Network,
            snapshot,
            open::<AUTOMERGE>,
            snapshots::<AUTOMERGE>,
        ),
        Decoder::new(
            "crdt.automerge.cost",
            Network,
            snapshot,
            cost::<AUTOMERGE>,
            dear::<AUTOMERGE>,
        ),
        Decoder::new(
            "crdt.automerge.version",
            Network,
            version,
            since::<AUTOMERGE>,
            versions::<AUTOMERGE>,
        ),
        Decoder::new("crdt.foreign", Person, snapshot, foreign, foreigners),
        Decoder::new("crdt.replica_id", Network, 64, replica, || {
            vec![vec![7; 16]]
        }),
        Decoder::new("crdt.kind_text", Person, usize::MAX, kind_text, || {
            vec![b"yjs".to_vec(), b"automerge".to_vec()]
        }),
    ]
}

type Doc = Box<dyn Crdt>;

/// Files of other programs.
fn foreign(bytes: &[u8]) -> Decoded {
    match recognise(bytes) {
        Ok(Some(_)) => Ok(None),
        Ok(None) => Err("not_recognised"),
        Err(error) => Err(error.code()),
    }
}

fn foreigners() -> Vec<Vec<u8>> {
    let yjs = author::<YJS>().0.export().unwrap();
    // "ab" in the root "t" by replica 7, as Yjs writes it in its second encoding.
    let second = [
        &[
            0, 0, 1, 7, 0, 0, 1, 4, 6, 3, b't', b'a', b'b', 1, 2, 1, 1, 0, 0,
        ][..],
        &[1, 1, 0, 0],
    ];
    let automerge = author::<AUTOMERGE>().0.export().unwrap();
    vec![yjs, second.concat(), automerge]
}

fn new<const KIND: u8>(seed: u8) -> Doc {
    let kind = CrdtKind::from_code(KIND).unwrap();
    create(kind, ReplicaId::for_kind(kind, [seed; 16])).unwrap()
}

/// An author's document with a text, a list and a map, and the updates that made it.
fn author<const KIND: u8>() -> (Doc, Vec<Vec<u8>>) {
    let mut doc = new::<KIND>(1);
    let mut updates = Vec::new();
    doc.text().unwrap().splice(0, 0, "minutes 🦊").unwrap();
    doc.take_pending(&mut updates).unwrap();
    let value =
        serde_json::json!({ "text": "minutes", "list": [1, "two", null], "map": { "deep": 2.5 } });
    doc.json().unwrap().merge_json(&value).unwrap();
    doc.take_pending(&mut updates).unwrap();
    doc.text().unwrap().splice(2, 3, "x").unwrap();
    doc.take_pending(&mut updates).unwrap();
    (doc, updates)
}

fn updates<const KIND: u8>() -> Vec<Vec<u8>> {
    author::<KIND>().1
}

fn snapshots<const KIND: u8>() -> Vec<Vec<u8>> {
    vec![author::<KIND>().0.snapshot().unwrap()]
}

fn versions<const KIND: u8>() -> Vec<Vec<u8>> {
    let (mut doc, _) = author::<KIND>();
    vec![doc.version().unwrap().as_bytes().to_vec()]
}

fn inspect<const KIND: u8>(bytes: &[u8]) -> Decoded {
    code(new::<KIND>(2).inspect(bytes), CrdtError::code)
}

/// Applies the input where everything is unknown and where everything is known, then reads the documents in every way there is.
fn apply<const KIND: u8>(bytes: &[u8]) -> Decoded {
    let mut fresh = new::<KIND>(2);
    let outcome = fresh.apply(&[bytes]);
    read_all(fresh);
    let (mut known, _) = author::<KIND>();
    let _ = known.apply(&[bytes]);
    read_all(known);
    code(outcome, CrdtError::code)
}

fn open<const KIND: u8>(bytes: &[u8]) -> Decoded {
    let kind = CrdtKind::from_code(KIND).unwrap();
    let doc =
        load(kind, bytes, ReplicaId::for_kind(kind, [3; 16])).map_err(|error| error.code())?;
    read_all(doc);
    Ok(None)
}

fn dear<const KIND: u8>() -> Vec<Vec<u8>> {
    [updates::<KIND>(), snapshots::<KIND>()].concat()
}

/// Counts the input as an update where everything is unknown and where everything is known, and as a snapshot.
fn cost<const KIND: u8>(bytes: &[u8]) -> Decoded {
    let kind = CrdtKind::from_code(KIND).unwrap();
    let allowance = Allowance {
        balance: BALANCE_CAP,
        room: u64::MAX,
    };
    let (mut author, _) = author::<KIND>();
    let known = Meter::load(kind, &author.snapshot().unwrap()).unwrap();
    let mut is_update = false;
    for mut meter in [Meter::new(kind), known] {
        if let Ok(mut read) = author.inspect(bytes) {
            let size = meter.size();
            let counted = meter.count(bytes, &mut read, allowance);
            if counted.is_ok() {
                is_update = true;
                meter.revert();
            }
            assert_eq!(meter.size(), size);
        }
    }
    let _ = Meter::load_within(kind, bytes, LoadLimit::units(BALANCE_CAP));
    let loaded = code(Meter::load(kind, bytes), CrdtError::code);
    if is_update { Ok(None) } else { loaded }
}

fn since<const KIND: u8>(bytes: &[u8]) -> Decoded {
    let (mut doc, _) = author::<KIND>();
    code(
        doc.diff_since(&Version::from_bytes(bytes.to_vec())),
        CrdtError::code,
    )
}

fn read_all(mut doc: Doc) {
    let _ = doc.text().map(|view| view.text());
    let _ = doc.json().map(|view| view.to_json());
    let _ = doc.attribution().map(ByReplica::of_text);
    let values = |view: &mut dyn Attribution| view.of_values(&mut ByReplica::default());
    let _ = doc.attribution().map(values);
    let _ = doc.content_digest();
    let _ = doc.snapshot();
}

fn replica(bytes: &[u8]) -> Decoded {
    match ReplicaId::from_bytes(bytes) {
        Ok(id) => Ok(Some(id.as_bytes().to_vec())),
        Err(error) => Err(error.code()),
    }
}

fn kind_text(bytes: &[u8]) -> Decoded {
    let text = std::str::from_utf8(bytes).map_err(|_| "text.not_utf8")?;
    code(text.parse::<CrdtKind>(), CrdtError::code)
}
