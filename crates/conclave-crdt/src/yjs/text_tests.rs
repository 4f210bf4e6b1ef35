use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::json;
use yrs::types::Attrs;
use yrs::{Any, Transact};

use super::super::capture::FOREIGN_ORIGIN;
use super::*;
use crate::api::{Crdt, JsonView};
use crate::diff::work;
use crate::kinds::CrdtKind;
use crate::types::ReplicaId;

fn document(n: u8) -> Yrs {
    Yrs::create(ReplicaId::for_kind(CrdtKind::Yjs, [n; 16])).unwrap()
}

fn pending(yrs: &mut Yrs) -> Vec<Vec<u8>> {
    let mut updates = Vec::new();
    yrs.take_pending(&mut updates).unwrap();
    updates
}

fn apply(yrs: &mut Yrs, updates: &[Vec<u8>]) {
    let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
    yrs.apply(&updates).unwrap();
}

/// The text as a look gives it, and as this document believes that it is.
fn layouts(yrs: &mut Yrs) -> (Layout, Layout) {
    yrs.with_known(|this, known, edits| {
        this.write(Some(FOREIGN_ORIGIN), |txn| {
            let (text, found) = known.find(txn, edits());
            let believed = found.layout.clone();
            known.found = Some(found);
            (Layout::of(&text, txn), believed)
        })
    })
    .unwrap()
}

struct Random(ChaCha8Rng);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end.max(1) as u64) as usize
    }
}

/// Something that is done to a document.
#[derive(Debug, Clone)]
enum Step {
    Splice(usize, usize, &'static str),
    Merge(usize, &'static str),
    /// Past the view, at engine units that lie between characters.
    Raw(u32, u32, &'static str),
    Embed(u32, Any),
    Format(u32, u32, bool),
    Json(usize),
    Take,
}

const WORDS: [&str; 8] = ["a", "bcd", " ", "é", "中文", "😀", "x😀y", ""];

impl Step {
    /// `wild` ones leave more behind than narrow characters.
    fn random(random: &mut Random, yrs: &mut Yrs, wild: bool) -> Self {
        let text = TextView::text(yrs).unwrap();
        let chars = text.chars().count();
        let (start, many) = (random.below(chars + 1), random.below(4));
        let many = random.below(many + 1).min(chars - start);
        let word = WORDS[random.below(if wild { WORDS.len() } else { 5 })];
        // Where engine and view count alike, or at the ends.
        let unit = |at: usize| match text.is_ascii() {
            true => at as u32,
            false => 0,
        };
        let length = layouts(yrs).0.units();
        let unit = unit(start).min(length);
        let units = match text.is_ascii() {
            true => (many as u32).min(length - unit),
            false => length,
        };
        match random.below(if wild { 12 } else { 8 }) {
            0..=4 => Self::Splice(start, many, word),
            5 => Self::Merge(start, word),
            6 => Self::Raw(unit, 0, word),
            7 => Self::Take,
            8 => Self::Raw(unit, units, word),
            9 => {
                let embedded = [
                    "".into(),
                    "x".into(),
                    "a word".into(),
                    Any::from(7),
                    Any::Null,
                ];
                let any = embedded[random.below(5)].clone();
                Self::Embed(unit, any)
            }
            10 => Self::Format(unit, units, random.below(2) == 0),
            _ => Self::Json(random.below(9)),
        }
    }

    fn run(&self, yrs: &mut Yrs) {
        let bold =
            |on: bool| Attrs::from([("bold".into(), if on { true.into() } else { Any::Null })]);
        match *self {
            Self::Splice(at, delete, insert) => yrs.splice(at, delete, insert).unwrap(),
            Self::Merge(at, insert) => {
                let base = TextView::text(yrs).unwrap();
                let (front, back): (String, String) = (
                    base.chars().take(at).collect(),
                    base.chars().skip(at + 1).collect(),
                );
                yrs.merge(&base, &format!("{front}{insert}{back}")).unwrap();
            }
            Self::Json(value) => {
                let edited = yrs.edit(None, &json!({ "n": value, "t": "😀" }));
                assert!(edited.is_ok());
            }
            Self::Take => {}
            Self::Raw(..) | Self::Embed(..) | Self::Format(..) => {
                let text = yrs.doc().get_or_insert_text(TEXT_ROOT);
                let mut txn = yrs.doc().transact_mut();
                match *self {
                    Self::Raw(at, delete, insert) => {
                        text.remove_range(&mut txn, at, delete);
                        text.insert(&mut txn, at, insert);
                    }
                    Self::Embed(at, ref embedded) => {
                        text.insert_embed(&mut txn, at, embedded.clone());
                    }
                    Self::Format(at, length, on) => text.format(&mut txn, at, length, bold(on)),
                    _ => {}
                }
            }
        }
    }
}

/// Three copies: one that remembers, one under the same id that looks every time, and somebody else's.
fn play(seed: u64, wild: bool) {
    let mut random = Random(ChaCha8Rng::seed_from_u64(seed));
    let (mut knowing, mut looking, mut other) = (document(1), document(1), document(2));
    for _ in 0..40 {
        if random.below(5) == 0 {
            let step = Step::random(&mut random, &mut other, wild);
            step.run(&mut other);
            let theirs = pending(&mut other);
            let mine = pending(&mut knowing);
            assert_eq!(mine, pending(&mut looking), "seed {seed}");
            apply(&mut other, &mine);
            apply(&mut knowing, &theirs);
            apply(&mut looking, &theirs);
        } else {
            let step = Step::random(&mut random, &mut knowing, wild);
            step.run(&mut knowing);
            looking.known = Known::default();
            step.run(&mut looking);
            if matches!(step, Step::Take) {
                assert_eq!(pending(&mut knowing), pending(&mut looking), "seed {seed}");
            }
        }
        let chars = TextView::text(&mut knowing).unwrap().chars().count();
        assert_eq!(knowing.len().unwrap(), chars, "seed {seed}");
        let (looked_at, believed) = layouts(&mut knowing);
        assert_eq!(believed, looked_at, "seed {seed}");
        assert_eq!(looked_at.chars(), chars, "seed {seed}");
    }
    assert_eq!(pending(&mut knowing), pending(&mut looking), "seed {seed}");
    assert_eq!(
        knowing.content_digest().unwrap(),
        looking.content_digest().unwrap()
    );
}

#[test]
fn what_follows_from_edits_is_what_a_look_gives() {
    for seed in 0..400 {
        play(seed, seed % 2 == 0);
    }
}

/// Writes so many characters, one by one, into the middle of the text. Gives how much was looked at.
fn typed(yrs: &mut Yrs, characters: usize) -> u64 {
    let middle = yrs.len().unwrap() / 2;
    work::take();
    for at in 0..characters {
        yrs.splice(middle + at, 0, "x").unwrap();
        pending(yrs);
    }
    work::take()
}

#[test]
fn typing_into_a_long_text_looks_at_what_is_typed() {
    let mut ana = document(1);
    ana.splice(0, 0, &"a text that goes on. ".repeat(10_000))
        .unwrap();
    assert_eq!(typed(&mut ana, 500), 500);

    // Somebody else's words, and a document that was loaded.
    let mut ben = document(2);
    let theirs = ana.export().unwrap();
    apply(&mut ben, &[theirs]);
    ben.splice(7, 0, "another word, not only of ASCII: é ")
        .unwrap();
    apply(&mut ana, &pending(&mut ben));
    assert_eq!(typed(&mut ana, 500), 500);
    let snapshot = ana.snapshot().unwrap();
    let mut loaded = Yrs::load(&snapshot, ReplicaId::for_kind(CrdtKind::Yjs, [3; 16])).unwrap();
    assert_eq!(typed(&mut loaded, 500), 500);
}

#[test]
fn a_text_that_is_not_plain_is_looked_at_once() {
    let mut ana = document(1);
    ana.splice(0, 0, &"a text 😀 that goes on. ".repeat(10_000))
        .unwrap();
    let bytes = TextView::text(&mut ana).unwrap().len() as u64;
    let embed = Step::Embed(0, Any::from(7));
    embed.run(&mut ana);
    assert_eq!(typed(&mut ana, 500), bytes + 500);
    assert_eq!(typed(&mut ana, 500), 500);
}

#[test]
fn many_changes_are_the_same_with_cuts_before_them() {
    let words = |salt: usize| -> String {
        let salt = |at: usize| if at.is_multiple_of(3) { salt } else { 0 };
        (0..2_000)
            .map(|at| format!("w{}é😀 ", at + salt(at)))
            .collect()
    };
    let (base, new) = (words(0), words(5_000));
    let (mut cut, mut whole) = (document(1), document(1));
    let units = |words: usize| -> u32 {
        let front = base.split_inclusive(' ').take(words);
        front.map(|word| word.encode_utf16().count() as u32).sum()
    };
    for yrs in [&mut cut, &mut whole] {
        yrs.splice(0, 0, &base).unwrap();
        Step::Format(units(10), units(900), true).run(yrs);
        Step::Embed(units(300), "embedded".into()).run(yrs);
        pending(yrs);
    }
    cut.merge(&base, &new).unwrap();
    whole
        .write(None, |txn| {
            let text = txn.get_or_insert_text(TEXT_ROOT);
            let edits = text_edits(&base, &new, &base);
            assert!(edits.len() > 4 * MANY_CUTS);
            let delta = Layout::of(&text, txn).edit(&edits).unwrap();
            text.apply_delta(txn, delta);
        })
        .unwrap();
    assert!(TextView::text(&mut cut).unwrap() == new);
    assert!(pending(&mut cut) == pending(&mut whole));
    assert!(layouts(&mut cut) == layouts(&mut whole));
    let digests = [&mut cut, &mut whole].map(|yrs| yrs.content_digest().unwrap());
    assert_eq!(digests[0], digests[1]);
}
