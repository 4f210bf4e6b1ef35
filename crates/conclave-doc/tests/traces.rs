//! Several people write one text at once: members converge, and each character is told to be of the record that brought it. `examples/traces.rs` plays recorded
//! histories the same way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::traces::{Trace, play};
use conclave_crdt::CrdtKind;
use conclave_proto::Role;
use serde_json::json;

const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];

#[test]
fn every_character_that_people_wrote_at_once_is_told_to_be_of_its_record() {
    for kind in KINDS {
        let trace = Trace::generated(3, 400, 7);
        let mut played = play(&trace, kind, true);
        played.sim.assert_converged();
        let mut marks: Vec<char> = played.sim.peers[0].text().chars().collect();
        marks.sort_unstable();
        assert_eq!(
            marks,
            played.left(),
            "{kind}: once each, but what was taken out"
        );
        assert!(marks.len() > 150, "{kind}: {}", marks.len());
        for at in 0..3 {
            assert_eq!(played.wrong(at), (0, marks.len()), "{kind} {at}");
        }
        // Whoever joins later is told the same, on the word of the snapshot's author.
        played.sim.snapshot(1);
        played.sim.settle();
        let member = played.sim.world.add(4, Role::Viewer);
        played.sim.advance_epochs();
        let late = played.sim.join(member);
        played.sim.settle();
        assert_eq!(played.wrong(late), (0, marks.len()), "{kind} late");
    }
}

#[test]
fn a_recorded_history_ends_as_it_was_recorded() {
    let txn = |parents: &[usize], agent: usize, patch: (usize, usize, &str)| json!({ "parents": parents, "agent": agent, "patches": [patch] });
    // One corrects the other's word while that goes on writing, and reads the whole before they end it.
    let json = json!({
        "kind": "concurrent",
        "endContent": "the word, and more.",
        "numAgents": 2,
        "txns": [
            txn(&[], 0, (0, 0, "the wird")),
            txn(&[0], 0, (8, 0, ", and")),
            txn(&[0], 1, (5, 1, "")),
            txn(&[2], 1, (5, 0, "o")),
            txn(&[1], 0, (13, 0, " more")),
            txn(&[3, 4], 1, (18, 0, ".")),
        ],
    });
    let trace = Trace::of_json(&json).unwrap();
    for kind in KINDS {
        let mut plain = play(&trace, kind, false);
        let mut marked = play(&trace, kind, true);
        for at in 0..2 {
            assert_eq!(Some(plain.text(at)), trace.end, "{kind} {at}");
            assert_eq!(Some(marked.text(at)), trace.end, "{kind} {at}");
            assert_eq!(marked.wrong(at), (0, 19), "{kind} {at}");
        }
    }
}
