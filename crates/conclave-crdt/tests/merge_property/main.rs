//! Random edits of texts, lists and trees by two and three writers, apart and of copies that have become old.
//!
//! `CONCLAVE_MERGE_CASES` says how many cases of each form run, `CONCLAVE_MERGE_SEED` with which seed they begin:
//! `CONCLAVE_MERGE_CASES=3334 cargo test --release -p conclave-crdt --test merge_property -- --nocapture`.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

#[path = "../common/mod.rs"]
mod common;
mod lists;
mod texts;
mod trees;

use std::collections::BTreeSet;

use common::*;
use conclave_crdt::{CrdtKind, ReplicaId};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

const CASES: u64 = 40;

/// The longest of what varies in length: the whole range where many cases run, less where the test is one among others.
fn longest(most: usize) -> usize {
    match std::env::var("CONCLAVE_MERGE_CASES") {
        Ok(_) => most,
        Err(_) => most / 10,
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// Runs a form of case many times; the seed of a case that fails is printed.
fn run(form: &str, case: impl Fn(&mut Random) + std::panic::RefUnwindSafe) {
    let cases = variable("CONCLAVE_MERGE_CASES", CASES);
    let first = variable("CONCLAVE_MERGE_SEED", 1);
    for seed in first..first + cases {
        let outcome = std::panic::catch_unwind(|| case(&mut Random::new(seed)));
        if let Err(panic) = outcome {
            eprintln!("{form}: seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
    println!("{form}: {cases} cases from seed {first}");
}

struct Random(ChaCha8Rng);

impl Random {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end.max(1) as u64) as usize
    }

    fn between(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to - from + 1)
    }

    /// As many small numbers as large ones.
    fn size(&mut self, from: usize, to: usize) -> usize {
        let ratio = (to as f64 / from as f64).powf(self.below(1_001) as f64 / 1_000.0);
        ((from as f64 * ratio) as usize).clamp(from, to)
    }

    fn kind(&mut self) -> CrdtKind {
        KINDS[self.below(2)]
    }
}

/// The replica that wrote the beginning; writers are 2 and up.
fn first(kind: CrdtKind) -> ReplicaId {
    replica(kind, 1)
}

/// Every writer has what the first one wrote, edits it, and all of it is brought together: by the engine where they wrote apart, by the
/// edit itself where each later writer's copy has become old.
fn bring_together<V>(
    kind: CrdtKind,
    beginning: &mut Doc,
    apart: bool,
    base: &V,
    news: &[V],
    edit: impl Fn(&mut Doc, &V, &V),
) -> Doc {
    let begun = beginning.snapshot().unwrap();
    let writer = |n: usize, snapshot: &[u8]| reload(kind, snapshot, n as u8 + 2);
    if apart {
        let mut docs: Vec<Doc> = (0..news.len()).map(|n| writer(n, &begun)).collect();
        let mut written = Vec::new();
        for (doc, new) in docs.iter_mut().zip(news) {
            edit(doc, base, new);
            written.push(pending(doc));
        }
        for (n, doc) in docs.iter_mut().enumerate() {
            for (from, updates) in written.iter().enumerate() {
                if from != n {
                    apply_all(doc, updates);
                }
            }
        }
        let digests: BTreeSet<[u8; 32]> = docs
            .iter_mut()
            .map(|doc| doc.content_digest().unwrap())
            .collect();
        assert_eq!(digests.len(), 1, "all are equal");
        docs.remove(0)
    } else {
        let mut snapshot = begun;
        let mut last = None;
        for (n, new) in news.iter().enumerate() {
            let mut doc = writer(n, &snapshot);
            edit(&mut doc, base, new);
            snapshot = doc.snapshot().unwrap();
            last = Some(doc);
        }
        last.unwrap()
    }
}

/// A bit of a long text, for a message.
fn around(text: &str, at: usize) -> String {
    let at = at.min(text.len());
    format!(
        "…{}…",
        &text[at.saturating_sub(300)..(at + 300).min(text.len())]
    )
}

#[test]
fn texts() {
    run("texts", texts::text_case);
}

#[test]
fn lists() {
    run("lists", lists::list_case);
}

#[test]
fn trees() {
    run("trees", trees::tree_case);
}
