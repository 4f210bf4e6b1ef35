//! What members keep of a log, so that one that the service lost can be returned.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use conclave_crdt::CrdtKind;
use conclave_doc::*;
use conclave_proto::merkle::{Leaves, NodeSource as _, consistency_nodes};
use conclave_proto::record::RecordBody;
use conclave_proto::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const DAY_MS: u64 = 24 * 3600 * 1000;
const THREE: [(u8, Role); 3] = [(1, Role::Owner), (2, Role::Editor), (3, Role::Editor)];

/// What a peer keeps is the service's log, up to its own end. Gives from where on it is kept whole.
fn is_the_log(sim: &Sim, at: usize) -> u64 {
    let peer = &sim.peers[at];
    let kept = peer.kept();
    assert_eq!(kept.head(), peer.doc.head());
    assert_eq!(kept.head(), sim.service.head_at(kept.head().size));
    let items = kept.since(kept.first()).unwrap();
    assert_eq!(kept.first() + items.len() as u64, kept.head().size);
    let mut whole = kept.first();
    for (seq, item) in (kept.first()..).zip(items) {
        match item {
            KeptItem::Record(record) => assert_eq!(**record, sim.service.record(seq)),
            KeptItem::Leaf(leaf) => {
                assert_eq!(*leaf, sim.service.leaf(seq));
                whole = seq + 1;
            }
        }
    }
    assert_eq!(kept.since(kept.head().size), Some(&[][..]));
    assert_eq!(kept.since(kept.head().size + 1), None);
    whole
}

fn eras(peer: &Peer) -> usize {
    let segments = peer.rows.keys().filter(|key| key[0] == b'k');
    let eras: BTreeSet<&[u8]> = segments.map(|key| &key[1..9]).collect();
    eras.len()
}

#[test]
fn what_is_kept_leads_to_the_root() {
    let mut most_eras = 0;
    for seed in 0..4 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut sim = Sim::new(CrdtKind::Yjs, &THREE, "hello");
        for round in 0..40u64 {
            let at = below(&mut rng, 3);
            for peer in &mut sim.peers {
                peer.keeping.now = UnixMs(round * DAY_MS);
            }
            for _ in 0..below(&mut rng, 4) {
                let bytes = [3, 900, 60_000][below(&mut rng, 3)];
                sim.peers[at].insert(0, &"x".repeat(bytes));
            }
            match below(&mut rng, 8) {
                0 => {
                    sim.settle();
                    let here = sim.peers[at].doc.size() == sim.service.size();
                    if here && sim.service.size() > sim.service.covered() + 1 {
                        sim.snapshot(at);
                    }
                }
                1 => sim.disconnect(at),
                2 => {
                    sim.peers[at].store();
                    sim.restart(at);
                }
                3 => {
                    sim.judge(at);
                }
                _ => {}
            }
            if !sim.peers[at].online && below(&mut rng, 3) == 0 {
                sim.connect(at);
            }
            sim.settle();
            sim.peers.iter_mut().for_each(Peer::store);
            for at in 0..3 {
                let kept = sim.peers[at].kept();
                assert_eq!(kept.head(), sim.peers[at].doc.head());
                if round % 8 == 7 {
                    is_the_log(&sim, at);
                }
                most_eras = most_eras.max(eras(&sim.peers[at]));
            }
        }
        for at in 0..3 {
            if !sim.peers[at].online {
                sim.connect(at);
            }
        }
        sim.settle();
        sim.assert_converged();
        sim.assert_no_findings();
    }
    assert!(most_eras > 2, "{most_eras}");
}

/// So many checkpoints are written, without a snapshot on the way.
fn fill(sim: &mut Sim, by: usize, checkpoints: usize) {
    for _ in 0..checkpoints {
        for _ in 0..10 {
            // Typed and deleted again: the state stays small.
            sim.peers[by].insert(0, &"x".repeat(60_000));
            sim.peers[by].edit(|crdt| crdt.text().unwrap().splice(0, 60_000, ""));
        }
        sim.settle();
        sim.peers.iter_mut().for_each(Peer::store);
    }
}

/// Everybody but its author finds the active snapshot right.
fn check(sim: &mut Sim) {
    for at in 0..sim.peers.len() {
        sim.check(at);
    }
}

/// Records of every kind, and all snapshots, are kept whole from where the document was opened.
#[test]
fn records_of_every_kind_are_kept_whole() {
    let mut sim = Sim::new(CrdtKind::Yjs, &THREE, "hello");
    sim.peers[1].insert(0, "more ");
    sim.settle();
    sim.snapshot(0);
    sim.settle();
    assert_eq!(sim.check(1), Some(Judgement::Match));
    assert!(sim.say(1));
    // One that all refuse, and one that nobody can read.
    let refused = sim.forge(2, b"no update", |_| {});
    sim.order(vec![refused], None);
    sim.settle();
    fill(&mut sim, 2, 3);
    let mut bodies = BTreeMap::new();
    for at in 0..3 {
        // The first snapshot was given to those who came later as what they open from.
        assert_eq!(is_the_log(&sim, at), 0, "{at}");
        let kept = sim.peers[at].kept();
        for item in kept.since(0).unwrap() {
            let KeptItem::Record(record) = item else {
                panic!()
            };
            let body = match record.header.body {
                RecordBody::Update(_) => "update",
                RecordBody::Verdict(_) => "verdict",
                RecordBody::Snapshot(_) => "snapshot",
                _ => "other",
            };
            *bodies.entry(body).or_insert(0) += 1;
        }
    }
    assert_eq!(
        bodies.keys().copied().collect::<Vec<_>>(),
        ["snapshot", "update", "verdict"]
    );
    assert_eq!((bodies["snapshot"], bodies["verdict"]), (6, 3));
    // The refused one stays refused after a restart, with its record at hand.
    for at in 0..3 {
        sim.restart(at);
        sim.connect(at);
    }
    sim.settle();
    sim.assert_converged();
}

/// An era goes when it is old and lies before a snapshot on which this device's own word stands; what the active snapshot does not cover stays.
#[test]
fn former_eras_go_when_they_are_old_and_covered() {
    let mut sim = Sim::new(CrdtKind::Yjs, &THREE, "hello");
    fill(&mut sim, 1, 3);
    assert_eq!((eras(&sim.peers[0]), is_the_log(&sim, 0)), (4, 0));
    let late = |sim: &mut Sim, days: u64| {
        for peer in &mut sim.peers {
            peer.keeping.now = UnixMs(days * DAY_MS);
        }
    };
    late(&mut sim, 15);
    fill(&mut sim, 1, 1);
    // No snapshot covers any of it.
    assert_eq!((eras(&sim.peers[0]), is_the_log(&sim, 0)), (5, 0));
    sim.snapshot(1);
    sim.settle();
    let covered = sim.service.covered();
    fill(&mut sim, 1, 1);
    // The one who made it knows what it covers, and its rows of before are gone but for the last, which is new.
    assert_eq!(is_the_log(&sim, 0), 0);
    assert!(is_the_log(&sim, 1) > 0);
    assert!(eras(&sim.peers[1]) < eras(&sim.peers[0]));
    late(&mut sim, 30);
    fill(&mut sim, 1, 1);
    let whole = is_the_log(&sim, 1);
    assert!(whole > 0 && whole <= covered, "{whole} of {covered}");
    // Others keep it until they have found the snapshot right.
    assert_eq!(is_the_log(&sim, 0), 0);
    for at in 0..2 {
        let kept = sim.peers[at].kept();
        let tail = kept.since(covered).unwrap();
        let is_whole = |item: &KeptItem| matches!(item, KeptItem::Record(_));
        assert!(tail.iter().all(is_whole));
    }
}

/// Where all documents together take too much, the one that writes a checkpoint lets its oldest go, however new they are.
#[test]
fn where_the_store_is_over_its_bound_the_oldest_go_first() {
    let mut sim = Sim::new(CrdtKind::Yjs, &THREE, "hello");
    fill(&mut sim, 1, 3);
    sim.snapshot(1);
    sim.settle();
    let covered = sim.service.covered();
    check(&mut sim);
    sim.peers[0].keeping.store_bytes = 2 << 30;
    fill(&mut sim, 1, 1);
    let whole = is_the_log(&sim, 0);
    assert!(whole > 0 && whole <= covered, "{whole} of {covered}");
    assert_eq!(is_the_log(&sim, 2), 0);
    assert!(sim.peers[0].doc.kept_bytes() < sim.peers[2].doc.kept_bytes());
}

/// Rows that are kept hold nothing that opens a record, and no word of what stands in one.
#[test]
fn only_ciphertext_is_kept() {
    const NEEDLE: &[u8] = b"the needle in the hay";
    let mut sim = Sim::new(CrdtKind::Yjs, &THREE, "the needle in the hay");
    for round in 0..3 {
        for _ in 0..10 {
            sim.peers[1].insert(0, "the needle in the hay");
        }
        fill(&mut sim, 1, 1);
        if round == 1 {
            sim.snapshot(0);
            sim.settle();
        }
    }
    let key = DocKeys::derive(&root(0), &DOC);
    let holds = |value: &[u8], what: &[u8]| value.windows(what.len()).any(|it| it == what);
    for peer in &sim.peers {
        let (kept, read): (Vec<_>, Vec<_>) = peer.rows.iter().partition(|(key, _)| is_kept(key));
        // What is looked for is found where it may be.
        assert!(read.iter().any(|(_, value)| holds(value, NEEDLE)));
        assert!(kept.len() > 3);
        for (_, value) in kept {
            assert!(!holds(value, NEEDLE));
        }
        let opens = |item: &&KeptItem| match item {
            KeptItem::Record(record) => open(record, &key).is_ok(),
            KeptItem::Leaf(_) => false,
        };
        let log = peer.kept();
        assert!(log.since(0).unwrap().iter().filter(opens).count() > 30);
    }
}

/// Leaves below the view go into rows that opening the document does not read, each written once.
#[test]
fn leaves_are_kept_for_ever_and_written_once() {
    let mut sim = Sim::new(CrdtKind::Yjs, &THREE[..2], "");
    let mut written: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for round in 0..10 {
        for at in 0..1_000 {
            sim.peers[0].insert(at, "x");
        }
        sim.settle();
        if round % 3 == 2 {
            sim.snapshot(1);
            sim.settle();
            check(&mut sim);
        }
        sim.peers[0].keeping = Keeping {
            now: UnixMs(round * 20 * DAY_MS),
            store_bytes: 2 << 30,
        };
        for peer in &mut sim.peers {
            for change in peer.doc.take_changes(&peer.keeping) {
                let is_leaves = change.key[0] == b'f' && change.value.is_some();
                if peer.member == 0 && is_leaves {
                    *written.entry(change.key.clone()).or_default() += 1;
                }
                match change.value {
                    Some(value) => peer.rows.insert(change.key, value),
                    None => peer.rows.remove(&change.key),
                };
            }
        }
        let kept = sim.peers[0].kept();
        assert_eq!((kept.first(), kept.head()), (0, sim.service.head()));
        if round == 4 {
            sim.restart(0);
            sim.connect(0);
            sim.settle();
        }
    }
    assert!(written.len() >= 2, "{}", written.len());
    assert!(written.values().all(|times| *times == 1), "{written:?}");
    let opening: usize = sim.peers[0]
        .opening_rows()
        .iter()
        .filter(|(key, _)| key[0] == b'l')
        .map(|(_, value)| value.len())
        .sum();
    let uncovered = (sim.service.size() - sim.service.covered()) as usize;
    assert!(opening <= (uncovered + 2 * 2048) * 32, "{opening}");
}

/// A device that was away goes on from a later snapshot: the leaves between are kept, and what it had.
#[test]
fn who_crosses_to_a_later_snapshot_keeps_what_led_there() {
    let mut sim = Sim::new(CrdtKind::Yjs, &THREE, "hello");
    fill(&mut sim, 1, 1);
    let had = sim.peers[2].doc.size();
    sim.disconnect(2);
    fill(&mut sim, 1, 1);
    sim.snapshot(1);
    sim.settle();
    fill(&mut sim, 1, 1);
    sim.rejoin(2);
    sim.settle();
    sim.peers[2].store();
    sim.assert_converged();
    let covered = sim.service.covered();
    assert!(is_the_log(&sim, 2) <= covered);
    let kept = sim.peers[2].kept();
    assert_eq!(kept.first(), 0);
    let before = &kept.since(0).unwrap()[..had as usize];
    let is_whole = |item: &KeptItem| matches!(item, KeptItem::Record(_));
    assert!(before.iter().all(is_whole));
    // The snapshot itself came as what it goes on from.
    let active = &kept.since(sim.service.active()).unwrap()[0];
    assert!(is_whole(active));
    sim.restart(2);
    sim.connect(2);
    sim.settle();
    sim.assert_converged();
}

/// Rows that are damaged, missing or of another log are refused.
#[test]
fn rows_that_do_not_fit_are_refused() {
    let mut sim = Sim::new(CrdtKind::Yjs, &THREE, "hello");
    fill(&mut sim, 1, 2);
    let peer = &sim.peers[0];
    let rows = peer.saved_rows();
    let old: Vec<usize> = (0..rows.len())
        .filter(|at| rows[*at].0[0] == b'k' && rows[*at].0[1..9] == [0; 8])
        .collect();
    assert!(old.len() > 2);
    for at in old {
        let mut without = rows.clone();
        without.remove(at);
        assert!(KeptLog::read(&without).is_err(), "{at}");
        let mut cut = rows.clone();
        let half = cut[at].1.len() / 2;
        cut[at].1.truncate(half);
        assert!(KeptLog::read(&cut).is_err(), "{at}");
    }
    // A row in the place of another.
    let mut moved = rows.clone();
    let mut segments = moved.iter_mut().filter(|(key, _)| key[0] == b'k');
    let (a, b) = (segments.next().unwrap(), segments.next().unwrap());
    std::mem::swap(&mut a.1, &mut b.1);
    assert!(KeptLog::read(&moved).is_err());
    // One that nobody lists.
    let mut more = rows.clone();
    more.push((b"v\0\0\0\0\0\0\0\x09".to_vec(), rows[0].1.clone()));
    assert!(KeptLog::check(&more).is_err());
    assert!(KeptLog::check(&rows).is_ok());
}

/// What a peer would offer to a service that has nothing: it begins where its newest snapshot says, and what records after that have seen before is shown by
/// subtrees of the log, each of which is needed.
fn is_offered(sim: &mut Sim, at: usize) -> Option<usize> {
    sim.peers[at].store();
    let kept = sim.peers[at].kept();
    let (base, records) = kept.from_snapshot()?;
    let covered = sim.service.covered();
    let head = base.frontier.head();
    assert_eq!(head, sim.service.head_at(covered));
    let all = (covered..sim.service.size()).map(|seq| sim.service.record(seq));
    assert!(records.iter().copied().eq(all.collect::<Vec<_>>().iter()));
    let leaves: Vec<Hash> = (0..covered).map(|seq| sim.service.leaf(seq)).collect();
    let seen = records.iter().map(|record| record.header.seen);
    let below: Vec<Head> = seen
        .filter(|seen| (1..covered).contains(&seen.size))
        .collect();
    let mut needed = BTreeSet::new();
    for head in &below {
        for node in consistency_nodes(head.size, covered).unwrap() {
            let hash = Leaves(&leaves).node(node.level, node.index).unwrap();
            if !base.frontier.nodes().contains(&hash) {
                needed.insert((u64::from(node.level), node.index, hash.0));
            }
        }
    }
    let given = base.nodes.iter();
    let given = given.map(|node| (u64::from(node.level), node.index, node.hash.0));
    assert_eq!(given.collect::<BTreeSet<_>>(), needed);
    assert_eq!(base.nodes.len(), needed.len());
    Some(below.len())
}

#[test]
fn what_a_service_that_has_nothing_is_offered_begins_at_the_newest_snapshot() {
    let mut sim = Sim::new(CrdtKind::Yjs, &THREE, "hello");
    for round in 0..21 {
        sim.peers[round % 3].insert(0, "a");
        sim.settle();
    }
    // The whole log is there.
    assert_eq!(is_offered(&mut sim, 0), None);
    // Sealed before the snapshot and others' edits, ordered after them.
    sim.peers[2].insert(0, "late");
    let peer = &mut sim.peers[2];
    let keys = peer.keys.clone();
    let ctx = sim.world.ctx(peer.member, peer.epoch, &keys);
    let late = peer.next_append(&ctx, 64 * 1024).unwrap();
    let author = peer.author(&sim.world);
    for _ in 0..4 {
        sim.peers[0].insert(0, "b");
        sim.settle_but(2);
    }
    sim.snapshot(1);
    sim.arrive(2, author, late);
    sim.settle();
    for at in 0..3 {
        assert_eq!(is_offered(&mut sim, at), Some(1), "{at}");
    }
    // Who began with the snapshot has no more than that: what was seen before it, only others can show.
    let newcomer = sim.join(2);
    sim.settle();
    assert_eq!(is_offered(&mut sim, newcomer), None);
    sim.peers[0].insert(0, "c");
    sim.settle();
    sim.snapshot(0);
    sim.peers[1].insert(0, "d");
    sim.settle();
    for at in 0..3 {
        assert_eq!(is_offered(&mut sim, at), Some(0), "{at}");
    }
    assert_eq!(is_offered(&mut sim, newcomer), Some(0));
    sim.restart(newcomer);
    assert_eq!(is_offered(&mut sim, newcomer), Some(0));
}
