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
mod trees;

use std::collections::BTreeSet;

use common::{Doc, apply_all, new, pending, reload, replica, text, view};
use conclave_crdt::{CrdtKind, Edited, ReplicaId};
use conclave_testkit::merges::lists::{self, ListCase};
use conclave_testkit::merges::texts::{self, TextCase};
use conclave_testkit::merges::{Random, longest, variable};
use serde_json::Value;

const CASES: u64 = 40;

/// Runs a form of case many times; the seeds of all cases that fail are told.
fn run(form: &str, case: impl Fn(&mut Random) + std::panic::RefUnwindSafe) {
    let cases = variable("CONCLAVE_MERGE_CASES", CASES);
    let first = variable("CONCLAVE_MERGE_SEED", 1);
    let fails = |seed: &u64| {
        let outcome = std::panic::catch_unwind(|| case(&mut Random::new(*seed)));
        if outcome.is_err() {
            eprintln!("{form}: seed {seed}");
        }
        outcome.is_err()
    };
    let failed: Vec<u64> = (first..first + cases).filter(fails).collect();
    println!(
        "{form}: {cases} cases from seed {first}, {} failed",
        failed.len()
    );
    assert!(failed.is_empty(), "{form}: seeds {failed:?}");
}

/// The replica that wrote the beginning; writers are 2 and up.
fn first(kind: CrdtKind) -> ReplicaId {
    replica(kind, 1)
}

/// How many write apart, of these writers: all, none, or the first two of three.
fn apart(random: &mut Random, writers: usize) -> usize {
    match random.below(4) {
        0 | 1 => 0,
        2 => 2,
        _ => writers,
    }
}

/// Every writer has what the first one wrote, edits it, and all of it is brought together: of the first ones, who write `apart`, by the
/// engine; then by the edit itself, where each later writer's copy has become old.
fn bring_together<V>(
    kind: CrdtKind,
    beginning: &mut Doc,
    apart: usize,
    base: &V,
    news: &[V],
    edit: impl Fn(&mut Doc, &V, &V),
) -> Doc {
    let mut snapshot = beginning.snapshot().unwrap();
    let writer = |n: usize, snapshot: &[u8]| reload(kind, snapshot, n as u8 + 2);
    let mut docs: Vec<Doc> = (0..apart).map(|n| writer(n, &snapshot)).collect();
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
    let digest = |doc: &mut Doc| doc.content_digest().unwrap();
    let digests: BTreeSet<[u8; 32]> = docs.iter_mut().map(digest).collect();
    assert!(digests.len() <= 1, "all are equal");
    let mut last = docs.pop();
    for (n, new) in news.iter().enumerate().skip(apart) {
        if let Some(last) = &mut last {
            snapshot = last.snapshot().unwrap();
        }
        let mut doc = writer(n, &snapshot);
        edit(&mut doc, base, new);
        last = Some(doc);
    }
    last.unwrap()
}

fn text_case(random: &mut Random) {
    let kind = random.kind();
    let writers = random.between(2, 3);
    let apart = apart(random, writers);
    let words = random.size(10, longest(20_000));
    let mut case = TextCase::new(random, words);
    let begin = case.begin();
    let news: Vec<String> = (0..writers)
        .map(|n| {
            let mut new = case.write(random, n);
            if random.below(3) == 0 {
                new.push_str(&case.append(random, n));
            }
            new
        })
        .collect();
    let mut doc = new(kind, 1);
    view(&mut doc).replace_all(&begin).unwrap();
    let mut merged = bring_together(kind, &mut doc, apart, &begin, &news, |doc, base, new| {
        view(doc).merge(base, new).unwrap();
    });
    let text = text(&mut merged);
    case.check(&text, &texts::written_by(merged.as_mut(), &[first(kind)]));
}

fn list_case(random: &mut Random) {
    let kind = random.kind();
    let writers = random.between(2, 3);
    let apart = apart(random, writers);
    let length = random.size(1, longest(5_000));
    // Apart, an engine has no moves.
    let mut case = ListCase::new(random, length, writers, apart == 0);
    let begin = case.begin();
    let news: Vec<Value> = (0..writers).map(|n| case.write(random, n)).collect();
    let mut doc = new(kind, 1);
    doc.json().unwrap().merge_json(&begin).unwrap();
    let mut merged = bring_together(kind, &mut doc, apart, &begin, &news, |doc, base, new| {
        let edited = doc.json().unwrap().edit(Some(base), new).unwrap();
        assert_eq!(edited, Edited::Done);
    });
    let value = merged.json().unwrap().to_json().unwrap();
    let written = lists::written_by(merged.as_mut(), &[first(kind)]);
    case.check(&value, &written, apart > 0);
}

#[test]
fn texts() {
    run("texts", text_case);
}

#[test]
fn lists() {
    run("lists", list_case);
}

#[test]
fn trees() {
    run("trees", trees::tree_case);
}
