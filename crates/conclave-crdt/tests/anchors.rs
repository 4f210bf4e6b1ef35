//! Anchors: places in a text that stay while it changes.

#![allow(clippy::unwrap_used)]

use conclave_crdt::{Crdt, CrdtError, CrdtKind, ReplicaId, create};
use serde_json::{Value, json};

fn document(kind: CrdtKind, seed: u8) -> Box<dyn Crdt> {
    create(kind, ReplicaId::for_kind(kind, [seed; 16])).unwrap()
}

fn pass(from: &mut dyn Crdt, to: &mut dyn Crdt) {
    let mut updates = Vec::new();
    from.take_pending(&mut updates).unwrap();
    let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
    to.apply(&updates).unwrap();
}

#[test]
fn an_anchor_stays_at_its_character_on_every_replica() {
    for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
        let mut ana = document(kind, 1);
        ana.text().unwrap().splice(0, 0, "one 𝄞 two").unwrap();
        let mut ben = document(kind, 2);
        pass(&mut *ana, &mut *ben);
        let at_two = ana.text().unwrap().anchor(6).unwrap();
        let end = ana.text().unwrap().anchor(9).unwrap();
        assert_eq!(ben.text().unwrap().locate(&at_two), Ok(Some(6)), "{kind:?}");
        ben.text().unwrap().splice(0, 4, "").unwrap();
        ben.text().unwrap().splice(0, 0, "𝄞𝄞").unwrap();
        assert_eq!(ben.text().unwrap().locate(&at_two), Ok(Some(4)), "{kind:?}");
        assert_eq!(ben.text().unwrap().locate(&end), Ok(Some(7)), "{kind:?}");
        pass(&mut *ben, &mut *ana);
        assert_eq!(ana.text().unwrap().locate(&at_two), Ok(Some(4)), "{kind:?}");
        // Its character goes: it stands where that was, or nowhere.
        ana.text().unwrap().splice(4, 3, "").unwrap();
        let left = (kind == CrdtKind::Yjs).then_some(4);
        assert_eq!(ana.text().unwrap().locate(&at_two), Ok(left), "{kind:?}");
        let past = ana.text().unwrap().anchor(5);
        assert_eq!(past, Err(CrdtError::InvalidArgument), "{kind:?}");
    }
}

#[test]
fn what_others_send_as_an_anchor_harms_nothing() {
    for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
        let mut ana = document(kind, 1);
        ana.text().unwrap().splice(0, 0, "text").unwrap();
        let hostile = [
            Value::Null,
            json!(""),
            json!("é@"),
            json!("-"),
            json!("1@"),
            json!({}),
            json!({"assoc": 7}),
            json!({"item": {"client": -1, "clock": 0}}),
            json!({"item": {"client": 5, "clock": u32::MAX}, "assoc": -1}),
            json!({"type": {"client": 5, "clock": 1}, "assoc": 0}),
            json!({"tname": "elsewhere", "assoc": 0}),
            json!("1@ffff"),
            json!("99999999999999999999999@00"),
        ];
        for anchor in hostile {
            let found = ana.text().unwrap().locate(&anchor);
            let nowhere = matches!(found, Err(CrdtError::Malformed) | Ok(None));
            assert!(nowhere, "{kind:?} {anchor}: {found:?}");
            assert_eq!(ana.text().unwrap().text().unwrap(), "text");
        }
    }
}
