//! Random and damaged bytes from the service and from the store: nothing panics, nothing of them is applied.

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
use conclave_proto::codec::{Varint, decode, encode};
use conclave_proto::frame::{BaseSnapshot, DeliveredRecord};
use conclave_proto::merkle::Head;
use conclave_proto::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

fn busy() -> Sim {
    let roles = [(1, Role::Owner), (2, Role::Editor), (3, Role::Editor)];
    let mut sim = Sim::new(CrdtKind::Yjs, &roles, "hello");
    for round in 0..6 {
        sim.peers[1 + round % 2].insert(0, "text ");
        sim.settle();
    }
    sim.snapshot(1);
    sim.settle();
    sim.peers[0].insert(0, "tail ");
    sim.settle();
    sim
}

/// Frames of the honest log with a few bytes changed, in any order and at any position. Afterwards the honest log repairs everything.
#[test]
fn damaged_deliveries_never_panic_and_are_never_applied() {
    for seed in 0..300 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut sim = busy();
        let author = Author {
            device: sim.world.devices[2],
            instance: instance(90),
        };
        let opened = sim.service.opened(author, None);
        let keys = Keys::default();
        let ctx = sim.world.ctx(2, 0, &keys);
        let honest = sim.peers[0].text();
        let (mut doc, _) =
            Document::open_remote(&ctx, &opened, GROUP, DOC, instance(90), &mut rng).unwrap();
        let before = doc.crdt().text().unwrap().text().unwrap();
        for _ in 0..20 {
            let seq = below(&mut rng, sim.service.size() as usize) as u64;
            let form = if below(&mut rng, 2) == 0 {
                sim.service.deliver(seq)
            } else {
                sim.service.whole(seq)
            };
            let mut bytes = encode(&form);
            for _ in 0..=below(&mut rng, 3) {
                let at = below(&mut rng, bytes.len());
                bytes[at] = rng.next_u32() as u8;
            }
            let Ok(record) = decode::<DeliveredRecord>("record", &bytes, 1 << 20) else {
                continue;
            };
            // Not what would be refused at sight for its header: that is a fork, and tested elsewhere.
            if let DeliveredRecord::Whole { record, .. } = &record {
                let good = sim.service.record(seq).header;
                if record.header != good {
                    continue;
                }
            }
            let place = if below(&mut rng, 2) == 0 {
                seq
            } else {
                doc.size()
            };
            if place != seq && matches!(record, DeliveredRecord::Whole { .. }) {
                continue;
            }
            if matches!(record, DeliveredRecord::Leaf(_)) {
                continue;
            }
            let outcome = doc.deliver(&ctx, place, vec![record]).unwrap();
            assert!(
                outcome
                    .findings
                    .iter()
                    .all(|it| it.suspect.author.is_none()),
                "{outcome:?}"
            );
        }
        let shown = doc.crdt().text().unwrap().text().unwrap();
        assert!(
            shown == before || honest.ends_with(&shown) || shown == honest,
            "{shown}"
        );
        // The honest log, whole.
        let whole = (opened.from..sim.service.size())
            .map(|seq| sim.service.whole(seq))
            .collect();
        doc.deliver(&ctx, opened.from, whole).unwrap();
        assert_eq!(doc.head(), sim.service.head(), "seed {seed}");
        assert_eq!(doc.crdt().text().unwrap().text().unwrap(), honest);
    }
}

#[test]
fn absurd_numbers_do_not_panic() {
    let mut sim = busy();
    let keys = Keys::default();
    let ctx = sim.world.ctx(0, 0, &keys);
    let record = sim.service.whole(3);
    let DeliveredRecord::Update(elided) = sim.service.deliver(sim.service.size() - 1) else {
        panic!()
    };
    let author = sim.peers[0].author(&sim.world);
    let opened = sim.service.opened(author, Some(0));
    let doc = &mut sim.peers[0].doc;
    let mut session = doc.session(&opened);
    for first_seq in [u64::MAX, u64::MAX - 1, 1 << 62] {
        let outcome = doc
            .deliver(
                &ctx,
                first_seq,
                vec![record.clone(), record.clone(), record.clone()],
            )
            .unwrap();
        assert_eq!(outcome.changes, vec![]);
    }
    let size = doc.size();
    for (author, back) in [(u64::MAX, 0), (0, u64::MAX), (1 << 61, 1 << 61)] {
        let mut elided = elided.clone();
        elided.author = Varint(author);
        elided.seen_back = Varint(back);
        let outcome = doc
            .deliver(&ctx, size, vec![DeliveredRecord::Update(elided)])
            .unwrap();
        assert!(outcome.blocked.is_some());
    }
    for numbers in [
        (u64::MAX, u64::MAX, u64::MAX),
        (0, u64::MAX, 1),
        (5, 0, u64::MAX),
    ] {
        let outcome = doc
            .acked(&ctx, &mut session, numbers.0, numbers.1, numbers.2)
            .unwrap();
        assert!(
            outcome
                .findings
                .iter()
                .all(|finding| finding.fault == Fault::Protocol)
        );
    }
    for clock in [0, u64::MAX] {
        let gap = Refusal::ClockGap { expected: u64::MAX };
        doc.refused(&ctx, &mut session, clock, &gap).unwrap();
        doc.refused(
            &ctx,
            &mut session,
            clock,
            &Refusal::AlreadyAccepted {
                leaf: Hash([1; 32]),
                seq: u64::MAX,
            },
        )
        .unwrap();
    }
    assert_eq!(doc.size(), size);
    let author = sim.peers[0].author(&sim.world);
    let mut opened = sim.service.opened(author, Some(size));
    opened.own_next_clock = u64::MAX;
    opened.signed.head = Head {
        size: u64::MAX,
        root: Hash([1; 32]),
    };
    let seq = sim.service.active();
    opened.base = Some(BaseSnapshot {
        seq: u64::MAX,
        record: sim.service.record(seq),
    });
    let outcome = sim.opened(0, &opened);
    assert!(
        outcome.reopen,
        "the service knows records that this store never wrote"
    );
}

/// Damaged rows are refused or read as something, but never panic.
#[test]
fn damaged_rows_never_panic() {
    let mut sim = busy();
    sim.peers[1].insert(0, "unsent ");
    sim.send(1, 10_000);
    sim.peers[1].insert(0, "unsealed ");
    sim.peers[1].store();
    let rows = sim.peers[1].rows.clone();
    assert!(rows.len() >= 5);
    let keys = Keys::default();
    let ctx = sim.world.ctx(1, 0, &keys);
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let load =
        |rows: Rows, rng: &mut ChaCha20Rng| Document::load(&ctx, rows, rng).map(|doc| doc.size());
    let all: Rows = rows.into_iter().collect();
    assert_eq!(load(all.clone(), &mut rng), Ok(sim.peers[1].doc.size()));
    for round in 0..1500 {
        let mut damaged = all.clone();
        let which = round % damaged.len();
        let at = below(&mut rng, damaged[which].1.len());
        match round % 4 {
            0 => damaged[which].1.truncate(at),
            1 => damaged[which].0.push(1),
            _ => damaged[which].1[at] ^= 1 << below(&mut rng, 8),
        }
        let _ = load(damaged, &mut rng);
    }
    for which in 0..all.len() {
        let mut fewer = all.clone();
        let (key, _) = fewer.remove(which);
        let loaded = load(fewer, &mut rng);
        if key == b"c" || key == b"m" {
            assert!(loaded.is_err());
        }
    }
    assert!(load(Rows::new(), &mut rng).is_err());
}
