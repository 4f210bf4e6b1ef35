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

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use conclave_crdt::{CrdtKind, Edited, ReplicaId};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

const CASES: u64 = 40;
const COMMON_WORDS: usize = 120;

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

// Texts.

struct Sentence {
    words: Vec<String>,
    /// What follows: a blank, or the end of a paragraph.
    end: &'static str,
}

impl Sentence {
    fn text(&self) -> String {
        format!("{}.", self.words.join(" "))
    }
}

fn sentences(random: &mut Random, words: usize, marked: bool) -> Vec<Sentence> {
    let mut sentences = Vec::new();
    let mut count = 0;
    while count < words {
        let length = random.between(4, 14);
        // Few words make up most of a text.
        let mut word = || {
            let n = random.below(COMMON_WORDS);
            format!(
                "{}{}",
                ["be", "to", "of", "and", "in"][n % 5],
                random.below(n + 1)
            )
        };
        let mut words: Vec<String> = (0..length).map(|_| word()).collect();
        if marked {
            words[length / 2] = format!("Name{}", sentences.len());
        }
        let end = if random.below(5) == 0 { "\n\n" } else { " " };
        sentences.push(Sentence { words, end });
        count += length;
    }
    sentences
}

#[derive(Default)]
struct Edits {
    touched: BTreeSet<usize>,
    /// Sentences behind which somebody put one.
    followed: BTreeSet<usize>,
    typed: Vec<String>,
    /// Characters typed, blanks included.
    chars: usize,
    count: usize,
}

impl Edits {
    fn type_words(&mut self, writer: usize, count: usize) -> Vec<String> {
        let words: Vec<String> = (0..count)
            .map(|_| {
                self.typed
                    .push(format!("W{writer}x{:04}", self.typed.len()));
                self.typed.last().unwrap().clone()
            })
            .collect();
        self.chars += words.iter().map(|word| word.len() + 2).sum::<usize>();
        words
    }
}

fn edited_text(random: &mut Random, writer: usize, base: &[Sentence], edits: &mut Edits) -> String {
    let count = random.between(1, 6).min(base.len());
    let mut chosen = BTreeSet::new();
    while chosen.len() < count {
        chosen.insert(random.below(base.len()));
    }
    edits.count += count;
    let mut text = String::new();
    for (at, sentence) in base.iter().enumerate() {
        let mut words = sentence.words.clone();
        let mut after = None;
        if chosen.contains(&at) {
            let kind = random.below(6);
            if kind < 5 {
                edits.touched.insert(at);
            }
            let place = random.below(words.len());
            match kind {
                0 => words[place] = edits.type_words(writer, 1).remove(0),
                1 => {
                    let more = random.between(1, 3);
                    words.splice(place..place, edits.type_words(writer, more));
                }
                2 => {
                    let end = (place + random.between(1, 3)).min(words.len() - 1);
                    words.drain(place.min(end)..end);
                }
                3 => {
                    let length = words.len();
                    words = edits.type_words(writer, length);
                }
                4 => words.clear(),
                _ => {
                    edits.followed.insert(at);
                    let length = random.between(3, 9);
                    after = Some(edits.type_words(writer, length).join(" "));
                }
            }
        }
        if words.is_empty() {
            if sentence.end != " " {
                text.push_str(sentence.end);
            }
            continue;
        }
        text.push_str(&words.join(" "));
        text.push('.');
        if let Some(after) = after {
            text.push_str(&format!(" {after}."));
        }
        text.push_str(sentence.end);
    }
    text
}

fn text_case(random: &mut Random) {
    let kind = random.kind();
    let (apart, marked) = (random.below(2) == 0, random.below(2) == 0);
    let writers = random.between(2, 3);
    let words = random.size(10, longest(20_000));
    let base = sentences(random, words, marked);
    let mut edits = Edits::default();
    let begin: String = base.iter().map(|one| one.text() + one.end).collect();
    let news: Vec<String> = (0..writers)
        .map(|n| edited_text(random, n, &base, &mut edits))
        .collect();
    let mut doc = new(kind, 1);
    view(&mut doc).replace_all(&begin).unwrap();
    let mut merged = bring_together(kind, &mut doc, apart, &begin, &news, |doc, base, new| {
        view(doc).merge(base, new).unwrap();
    });
    let text = text(&mut merged);
    for word in &edits.typed {
        assert_eq!(
            text.matches(word.as_str()).count(),
            1,
            "{word} in {}",
            around(&text, text.find(word.as_str()).unwrap_or(0))
        );
    }
    // Who wrote each byte; these texts are ASCII.
    let mut authors = Vec::with_capacity(text.len());
    for run in merged.attribution().unwrap().runs().unwrap() {
        authors.resize(authors.len() + run.chars, run.replica == first(kind));
    }
    let foreign = authors.iter().filter(|first| !**first).count();
    assert!(
        foreign <= edits.chars + 4 * edits.count,
        "{foreign} of {}",
        edits.chars
    );
    let mut at = 0;
    let mut before: Option<(usize, usize)> = None;
    for (n, sentence) in base.iter().enumerate() {
        if edits.touched.contains(&n) {
            continue;
        }
        let wanted = sentence.text();
        let found = text[at..].find(&wanted);
        let start = at
            + found
                .unwrap_or_else(|| panic!("no sentence {n} {wanted:?} in {}", around(&text, at)));
        at = start + wanted.len();
        assert!(
            authors[start..at].iter().all(|first| *first),
            "sentence {n} {wanted:?} has a new author in {}",
            around(&text, start)
        );
        if let Some((previous, end)) = before
            && previous + 1 == n
            && !edits.followed.contains(&previous)
        {
            assert_eq!(
                &text[end..start],
                base[previous].end,
                "before sentence {n} in {}",
                around(&text, start)
            );
        }
        before = Some((n, at));
    }
    if marked {
        for (n, sentence) in base.iter().enumerate() {
            let times = text
                .matches(&format!("{} ", sentence.words[sentence.words.len() / 2]))
                .count();
            assert!(times <= 1, "sentence {n} stands {times} times");
        }
    }
}

// Lists.

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Named,
    Nameless,
    Strings,
    Numbers,
}

fn item(form: Form, n: usize) -> Value {
    match form {
        Form::Named => json!({ "id": n, "title": format!("task {}", n % 7), "done": false }),
        Form::Nameless => {
            json!({ "title": format!("task number {n} of many"), "done": false, "by": n % 3 })
        }
        Form::Strings => json!(format!("item number {n} to get")),
        Form::Numbers => json!(n * 10),
    }
}

/// What an item is recognised by, whoever changed it.
fn known(form: Form, item: &Value) -> String {
    match form {
        Form::Named => item["id"].to_string(),
        Form::Nameless => item["title"].as_str().unwrap().to_owned(),
        Form::Strings => item
            .as_str()
            .unwrap()
            .chars()
            .filter(char::is_ascii_digit)
            .collect(),
        Form::Numbers => item.to_string(),
    }
}

fn list_case(random: &mut Random) {
    let kind = random.kind();
    let apart = random.below(2) == 0;
    let writers = random.between(2, 3);
    let form = [Form::Named, Form::Nameless, Form::Strings, Form::Numbers][random.below(4)];
    let length = random.size(1, longest(5_000));
    let base: Vec<Value> = (0..length).map(|n| item(form, n)).collect();
    let mut inserted = Vec::new();
    let (mut removed, mut changed) = (BTreeSet::new(), BTreeSet::new());
    let mut news = Vec::new();
    for writer in 0..writers {
        let mut new: Vec<Value> = Vec::new();
        let edits: BTreeSet<usize> = (0..random.between(1, 6))
            .map(|_| random.below(length))
            .collect();
        for (n, value) in base.iter().enumerate() {
            let mut value = value.clone();
            if edits.contains(&n) {
                match random.below(3) {
                    0 => {
                        let number = 100_000 + inserted.len();
                        inserted.push(known(form, &item(form, number)));
                        new.push(item(form, number));
                    }
                    1 => {
                        removed.insert(n);
                        continue;
                    }
                    _ if form == Form::Numbers => {}
                    _ => {
                        changed.insert(n);
                        match form {
                            Form::Strings => {
                                value = json!(format!(
                                    "{} W{}",
                                    value.as_str().unwrap(),
                                    ["a", "b", "c"][writer]
                                ))
                            }
                            _ => value["done"] = json!(format!("W{writer}")),
                        }
                    }
                }
            }
            new.push(value);
        }
        news.push(json!({ "list": new, "note": "kept" }));
    }
    let begin = json!({ "list": base, "note": "kept" });
    let mut doc = new(kind, 1);
    doc.json().unwrap().merge_json(&begin).unwrap();
    let mut merged = bring_together(kind, &mut doc, apart, &begin, &news, |doc, base, new| {
        let edited = doc.json().unwrap().edit(Some(base), new).unwrap();
        assert_eq!(edited, Edited::Done);
    });
    let value = merged.json().unwrap().to_json().unwrap();
    let list = value["list"].as_array().unwrap();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for item in list {
        *counts.entry(known(form, item)).or_default() += 1;
    }
    assert!(
        counts.values().all(|count| *count == 1),
        "something stands twice: {value}"
    );
    for new in &inserted {
        assert!(counts.contains_key(new), "{new}");
    }
    let places: BTreeMap<String, usize> = list
        .iter()
        .enumerate()
        .map(|(at, item)| (known(form, item), at))
        .collect();
    let authors = authors(kind, &mut merged, list.len());
    let mut before = None;
    for (n, item) in base.iter().enumerate() {
        let place = places.get(&known(form, item)).copied();
        match (place, removed.contains(&n)) {
            (None, removed) => assert!(removed, "item {n} is missing"),
            (Some(_), true) => assert!(changed.contains(&n), "item {n} is still"),
            (Some(at), false) => {
                assert!(before < Some(at), "item {n} has moved");
                before = Some(at);
                if changed.contains(&n) {
                    let now = list[at].to_string();
                    assert!(now.contains('W'), "item {n} is not changed: {now}");
                } else {
                    assert_eq!(&list[at], item);
                }
                assert!(authors[at] == first(kind), "item {n} has a new author");
            }
        }
    }
}

/// Who made each item of the list.
fn authors(kind: CrdtKind, doc: &mut Doc, length: usize) -> Vec<ReplicaId> {
    match kind {
        CrdtKind::Automerge => {
            use automerge::{ObjId, ROOT, ReadDoc};
            let engine = doc
                .as_any_mut()
                .downcast_mut::<conclave_crdt::automerge::Automerge>()
                .unwrap();
            let engine = engine.doc_mut();
            let (_, list) = engine.get(ROOT, "list").unwrap().unwrap();
            let author = |id: ObjId| match id {
                ObjId::Id(_, actor, _) => ReplicaId::from_bytes(actor.to_bytes()).unwrap(),
                ObjId::Root => panic!("no item"),
            };
            engine
                .list_range(&list, ..)
                .map(|item| author(item.id()))
                .collect()
        }
        _ => {
            use yrs::branch::{Branch, BranchID};
            use yrs::{Array, Map, Out, ReadTxn, Transact};
            let yrs = doc
                .as_any_mut()
                .downcast_mut::<conclave_crdt::yjs::Yrs>()
                .unwrap();
            let txn = yrs.doc().transact();
            let root = txn.get_map("root").unwrap();
            let Some(Out::YArray(list)) = root.get(&txn, "list") else {
                return vec![first(kind); length];
            };
            let author = |branch: &Branch| match branch.id() {
                BranchID::Nested(id) => {
                    ReplicaId::from_bytes(&id.client.get().to_be_bytes()).unwrap()
                }
                BranchID::Root(_) => panic!("no item"),
            };
            list.iter(&txn)
                .map(|item| match item {
                    Out::YMap(map) => author(map.as_ref()),
                    Out::YText(text) => author(text.as_ref()),
                    // Plain values do not say.
                    _ => first(kind),
                })
                .collect()
        }
    }
}

// Trees.

fn tree(
    random: &mut Random,
    depth: usize,
    leaves: &mut Vec<Vec<String>>,
    path: &[String],
) -> Value {
    let mut map = serde_json::Map::new();
    for n in 0..random.between(1, 5) {
        let key = format!("k{n}");
        let path = [path, core::slice::from_ref(&key)].concat();
        let value = match random.below(4) {
            0 | 1 if depth > 0 => tree(random, depth - 1, leaves, &path),
            2 => {
                leaves.push(path);
                json!(random.below(100))
            }
            _ => {
                leaves.push(path);
                json!(format!("some words {} here", random.below(100)))
            }
        };
        map.insert(key, value);
    }
    Value::Object(map)
}

fn tree_case(random: &mut Random) {
    let kind = random.kind();
    let apart = random.below(2) == 0;
    let writers = random.between(2, 3);
    let depth = random.between(1, 5);
    let mut leaves = Vec::new();
    let begin = tree(random, depth, &mut leaves, &[]);
    let pointer = |path: &[String]| format!("/{}", path.join("/"));
    let mut wanted: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut news = Vec::new();
    for writer in 0..writers {
        let mut new = begin.clone();
        let chosen: BTreeSet<usize> = (0..random.between(1, 4))
            .map(|_| random.below(leaves.len()))
            .collect();
        for leaf in chosen {
            let pointer = pointer(&leaves[leaf]);
            let value = new.pointer_mut(&pointer).unwrap();
            *value = match &*value {
                Value::String(text) => json!(text.replace("words", &format!("W{writer} words"))),
                _ => json!(1_000 + writer),
            };
            wanted.entry(pointer).or_default().push(value.clone());
        }
        news.push(new);
    }
    let mut doc = new(kind, 1);
    doc.json().unwrap().merge_json(&begin).unwrap();
    let mut merged = bring_together(kind, &mut doc, apart, &begin, &news, |doc, base, new| {
        assert_eq!(
            doc.json().unwrap().edit(Some(base), new).unwrap(),
            Edited::Done
        );
    });
    let value = merged.json().unwrap().to_json().unwrap();
    for leaf in &leaves {
        let pointer = pointer(leaf);
        let (was, now) = (
            begin.pointer(&pointer).unwrap(),
            value.pointer(&pointer).unwrap(),
        );
        match wanted.get(&pointer) {
            None => assert_eq!(now, was, "{pointer}"),
            Some(wanted) if wanted.len() == 1 => assert_eq!(now, &wanted[0], "{pointer}"),
            Some(wanted) if was.is_string() => {
                for text in wanted {
                    let typed = text
                        .as_str()
                        .unwrap()
                        .split(' ')
                        .find(|word| word.starts_with('W'))
                        .unwrap();
                    assert_eq!(
                        now.as_str().unwrap().matches(typed).count(),
                        1,
                        "{pointer}: {now}"
                    );
                }
            }
            Some(wanted) => assert!(wanted.contains(now), "{pointer}: {now}"),
        }
    }
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
    run("trees", tree_case);
}
