//! Prints what processor time it takes (Linux) to bring in a new whole of a text in which somebody else wrote a word meanwhile:
//! `cargo run --release -p conclave-crdt --example replace_figures`.
//!
//! `all`: every word is another one. `third`: every third word is; the text is in one piece. `again`: the same in a text that such a
//! change has left in many pieces. `own third`: as `third`, but the text was written under the same id, not opened. Each is done as often as
//! makes 200,000 words, and the mean is printed.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::time::Duration;

use conclave_crdt::{Crdt, CrdtError, CrdtKind, ReplicaId, create, load, merged_text};

const WORDS: [usize; 5] = [3_000, 6_000, 12_000, 25_000, 50_000];
const VOCABULARY: u64 = 3_000;
/// The system counts in steps of milliseconds.
const WORDS_IN_ALL: usize = 200_000;

/// A text of `words` words out of a vocabulary, twenty to a line; one in `every` is another one than without `salt`.
fn text(words: usize, salt: usize, every: usize) -> String {
    let word = |at: usize| {
        let salt = if at.is_multiple_of(every) { salt } else { 0 };
        let end = if at % 20 == 19 { ".\n" } else { " " };
        format!("w{}{end}", scattered((at * 7 + salt) as u64) % VOCABULARY)
    };
    (0..words).map(word).collect()
}

/// Like chance, and the same every time (the last steps of SplitMix64).
fn scattered(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What this thread has used so far: a busy machine does not change that.
fn processor_time() -> Duration {
    let figures = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = figures.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

fn with_a_word(text: &str, word: &str) -> String {
    let middle = text.len() / 2;
    let at = text.get(middle..).and_then(|rest| rest.find(' '));
    let mut text = text.to_owned();
    text.insert_str(middle + at.unwrap_or_default(), &format!(" {word}"));
    text
}

fn replace(doc: &mut dyn Crdt, base: &str, new: &str) -> Result<Duration, CrdtError> {
    let view = doc.text().ok_or(CrdtError::InvalidArgument)?;
    let theirs = with_a_word(base, "theirs");
    view.merge(base, &theirs)?;
    let start = processor_time();
    view.merge(base, new)?;
    Ok(processor_time() - start)
}

/// A document that holds a text, written by itself or opened.
fn holding(kind: CrdtKind, base: &str, own: bool) -> Result<Box<dyn Crdt>, CrdtError> {
    let replica = |n| ReplicaId::for_kind(kind, [n; 16]);
    let mut doc = create(kind, replica(1))?;
    let view = doc.text().ok_or(CrdtError::InvalidArgument)?;
    view.replace_all(base)?;
    match own {
        true => Ok(doc),
        false => load(kind, &doc.snapshot()?, replica(2)),
    }
}

fn main() -> Result<(), CrdtError> {
    let only_comparing = std::env::args().any(|argument| argument == "compare");
    println!("microseconds per word: comparing alone, and with writing into a document");
    for kind in CrdtKind::ALL {
        for words in WORDS {
            let base = text(words, 0, 1);
            let theirs = with_a_word(&base, "theirs");
            let times = WORDS_IN_ALL / words;
            let report = |name: &str, took: Duration| {
                let each = took.as_nanos() as f64 / (1_000 * words * times) as f64;
                print!("; {name} {each:.2}");
            };
            print!("{kind:?} {words:>6} words");
            for (name, every, own) in [("all", 1, false), ("third", 3, false), ("third", 3, true)] {
                let (new, again) = (text(words, 1, every), text(words, 2, every));
                if !own {
                    let start = processor_time();
                    for _ in 0..times {
                        let _ = merged_text(&base, &new, &theirs);
                    }
                    report(&format!("{name} compared"), processor_time() - start);
                }
                if only_comparing {
                    continue;
                }
                let mut took = (Duration::ZERO, Duration::ZERO);
                for _ in 0..times {
                    let mut doc = holding(kind, &base, own)?;
                    took.0 += replace(doc.as_mut(), &base, &new)?;
                    let view = doc.text().ok_or(CrdtError::InvalidArgument)?;
                    let base = view.text()?;
                    took.1 += replace(doc.as_mut(), &base, &again)?;
                }
                match (every, own) {
                    (1, _) => report(name, took.0),
                    (_, false) => {
                        report(name, took.0);
                        report("again", took.1);
                    }
                    (_, true) => report("own third", took.0),
                }
            }
            println!();
        }
    }
    Ok(())
}
