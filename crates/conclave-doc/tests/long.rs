//! Long logs: how much work they take, and that taking in many records at once judges as record by record.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use conclave_crdt::CrdtKind;
use conclave_doc::*;
use conclave_proto::codec::Bytes;
#[cfg(debug_assertions)]
use conclave_proto::counted;
use conclave_proto::frame::DeliveredRecord;
use conclave_proto::policy::Role;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// One member has written so many edits, each a record of the log.
#[cfg(debug_assertions)]
fn typed(kind: CrdtKind, edits: usize) -> Sim {
    let mut sim = Sim::new(kind, &[(1, Role::Owner)], "hello world");
    for at in 0..edits {
        sim.peers[0].insert((at * 7) % (at + 1), "x");
        if at % 64 == 63 {
            sim.settle();
        }
    }
    sim.settle();
    sim
}

/// What a member did to open a document.
#[cfg(debug_assertions)]
struct Work {
    hashes: u64,
    encodes: u64,
    rows: usize,
    row_bytes: usize,
}

#[cfg(debug_assertions)]
fn opened(edits: usize) -> Work {
    let mut sim = typed(CrdtKind::Yjs, edits);
    let newcomer = sim.world.add(2, Role::Editor);
    sim.advance_epochs();
    let at = sim.join(newcomer);
    let (mut rows, mut row_bytes) = (0, 0);
    let mut done = (0, 0);
    while !sim.peers[at].inbox.is_empty() {
        let now = (counted::hashes(), counted::encodes());
        sim.receive(at);
        done.0 += counted::hashes() - now.0;
        done.1 += counted::encodes() - now.1;
        let keeping = sim.peers[at].keeping;
        for change in sim.peers[at].doc.take_changes(&keeping) {
            rows += 1;
            row_bytes += change.value.map_or(0, |value| value.len());
        }
    }
    assert_eq!(sim.peers[at].doc.head(), sim.service.head());
    sim.assert_no_findings();
    assert_eq!(sim.peers[at].text().len(), edits + "hello world".len());
    Work {
        hashes: done.0,
        encodes: done.1,
        rows,
        row_bytes,
    }
}

/// What opening a document takes grows with its records, and no faster.
#[cfg(debug_assertions)]
#[test]
fn opening_takes_so_much_for_each_record_however_many_there_are() {
    let sizes = [2_000, 20_000];
    let [few, many] = sizes.map(|edits| (edits as u64, opened(edits)));
    for (edits, work) in [&few, &many] {
        let each = |all: u64| all as f64 / *edits as f64;
        let said = format!(
            "{edits}: {:.2} hashes, {:.2} encodes, {:.4} rows, {:.0} bytes of rows for each",
            each(work.hashes),
            each(work.encodes),
            each(work.rows as u64),
            each(work.row_bytes as u64),
        );
        println!("{said}");
        // Two of its own, one node of the tree, and the head that it names: half as many nodes as the log has levels.
        let levels = u64::from(edits.ilog2());
        assert!(work.hashes <= edits * (3 + levels), "{said}");
        // The record: its hash, what its keys bind and its row are made of that.
        assert!(work.encodes <= 2 * edits, "{said}");
        assert!(work.rows as u64 * 64 <= *edits, "{said}");
        assert!(work.row_bytes as u64 <= 768 * edits, "{said}");
    }
    let grown = |of: fn(&Work) -> u64| of(&many.1) as f64 / of(&few.1) as f64;
    assert!(grown(|work| work.encodes) < 10.5);
    assert!(grown(|work| work.hashes) < 15.0);
    assert!(grown(|work| work.row_bytes as u64) < 12.0);
}

/// What a member makes of a log: as far as it got, what it shows, what it was told and where it stopped.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    head: conclave_proto::Head,
    text: String,
    findings: Vec<(u64, String)>,
    blocked: Option<(u64, Blocked)>,
}

/// A member opens the document and is given these records, so many at once. What is asked for whole is given.
fn judged(sim: &mut Sim, member: usize, log: &[DeliveredRecord], at_once: usize) -> Verdict {
    let at = sim.join(member);
    let from = sim.peers[at].doc.size();
    sim.peers[at].inbox.clear();
    let mut first = from;
    for records in log.chunks(at_once) {
        let records = records.to_vec();
        let next = first + records.len() as u64;
        sim.with(at, |doc, ctx, _| doc.deliver(ctx, first, records).unwrap());
        first = next;
    }
    let blocked = sim.peers[at].last.blocked;
    let text = sim.peers[at].text();
    let peer = sim.peers.pop().unwrap();
    sim.next_instance -= 1;
    let mut findings: Vec<(u64, String)> = peer
        .findings
        .iter()
        .map(|it| (it.seq, format!("{:?} {:?}", it.fault, it.suspect)))
        .collect();
    findings.sort();
    Verdict {
        head: peer.doc.head(),
        text,
        findings,
        blocked,
    }
}

/// Alters a record as somebody on its way could.
fn tamper(rng: &mut ChaCha20Rng, log: &mut [DeliveredRecord]) {
    let at = below(rng, log.len());
    match below(rng, 8) {
        0 => log.swap(at, (at + 1) % log.len()),
        1 => log[at] = log[below(rng, log.len())].clone(),
        change => {
            let (sealed, epoch, back, hint) = match &mut log[at] {
                DeliveredRecord::Update(it)
                | DeliveredRecord::Verdict(it)
                | DeliveredRecord::Carried(it) => (
                    &mut it.sealed,
                    &mut it.epoch,
                    &mut it.seen_back,
                    &mut it.seen_hint,
                ),
                DeliveredRecord::Whole { .. } | DeliveredRecord::Leaf(_) => return,
            };
            let bit = 1 << below(rng, 8);
            match change {
                2 => sealed.signature[below(rng, 64)] ^= bit,
                3 => sealed.nonce[below(rng, 24)] ^= bit,
                4 => sealed.commitment[below(rng, 32)] ^= bit,
                5 => {
                    let mut bytes = sealed.ciphertext.as_slice().to_vec();
                    let place = below(rng, bytes.len());
                    bytes[place] ^= bit;
                    sealed.ciphertext = Bytes::from(bytes);
                }
                6 => back.0 ^= 1,
                _ if below(rng, 2) == 0 => epoch.0 ^= 1,
                _ => hint[below(rng, 8)] ^= bit,
            }
        }
    }
}

/// One signature covers a run of records, which are opened together: whatever was altered on the way, that judges as each by itself.
#[test]
fn an_altered_log_is_judged_at_once_as_record_by_record() {
    let kind = CrdtKind::Yjs;
    let roles = [(1, Role::Owner), (2, Role::Editor)];
    let mut sim = Sim::new(kind, &roles, "hello world");
    for at in 0..60 {
        // Two authors in turn, runs of different lengths, and what a member writes that is wrong under its own signature.
        let by = usize::from(at % 5 < 2);
        sim.peers[by].insert(at % 7, "ab");
        if at % 3 == 0 {
            sim.settle();
        }
        if at % 20 == 19 {
            sim.settle();
            let garbled = sim.forge(1, b"no update", |_| {});
            sim.order(vec![garbled], None);
            sim.settle();
        }
    }
    sim.settle();
    let reader = sim.world.add(3, Role::Editor);
    sim.advance_epochs();
    let first = sim.join(reader);
    let from = sim.peers[first].doc.size();
    sim.peers.pop();
    let whole: Vec<DeliveredRecord> = (from..sim.service.size())
        .map(|seq| sim.service.deliver(seq))
        .collect();
    let mut stopped = 0;
    for seed in 0..120 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut log = whole.clone();
        for _ in 0..below(&mut rng, 3) {
            tamper(&mut rng, &mut log);
        }
        let singly = judged(&mut sim, reader, &log, 1);
        stopped += usize::from(singly.head != sim.service.head());
        for at_once in [2, 7, log.len()] {
            let together = judged(&mut sim, reader, &log, at_once);
            assert_eq!(together, singly, "seed {seed}, {at_once} at once");
        }
    }
    assert!(stopped > 30, "{stopped}");
}
