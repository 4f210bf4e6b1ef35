//! Prints what processor time it takes (Linux) to bring in a new whole of a text in which somebody else wrote a word meanwhile:
//! `cargo run --release -p conclave-crdt --example replace_figures`.
//!
//! `all`: every word is another one. `third`: every third word is; the text is in one piece. `again`: the same in a text that such a
//! change has left in many pieces. Each is done as often as makes a million words, and the mean is printed.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::time::Duration;

use conclave_crdt::{Crdt, CrdtError, CrdtKind, ReplicaId, create, merged_text};

const WORDS: [usize; 5] = [3_000, 6_000, 12_000, 25_000, 50_000];
/// The system counts in steps of milliseconds.
const WORDS_IN_ALL: usize = 1_000_000;

/// A text of `words` words, twenty to a line; one in `every` is another one than without `salt`.
fn text(words: usize, salt: usize, every: usize) -> String {
    let word = |at: usize| {
        let salt = if at.is_multiple_of(every) { salt } else { 0 };
        let end = if at % 20 == 19 { ".\n" } else { " " };
        format!("w{}{end}", (at * 7919 + salt * 104_729) % 100_003)
    };
    (0..words).map(word).collect()
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

/// What becomes of a document that begins with `base`, with `new` as the next whole, and with `again` as the one after that.
fn replaced(
    kind: CrdtKind,
    (base, new, again): (&str, &str, &str),
) -> Result<(Duration, Duration), CrdtError> {
    let mut doc = create(kind, ReplicaId::for_kind(kind, [1; 16]))?;
    let view = doc.text().ok_or(CrdtError::InvalidArgument)?;
    view.replace_all(base)?;
    let once = replace(doc.as_mut(), base, new)?;
    let view = doc.text().ok_or(CrdtError::InvalidArgument)?;
    let base = view.text()?;
    Ok((once, replace(doc.as_mut(), &base, again)?))
}

fn main() -> Result<(), CrdtError> {
    let only_comparing = std::env::args().any(|argument| argument == "compare");
    println!("microseconds per word: comparing alone, and with writing into a document");
    for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
        for words in WORDS {
            let base = text(words, 0, 1);
            let theirs = with_a_word(&base, "theirs");
            let times = WORDS_IN_ALL / words;
            let report = |name: &str, took: Duration| {
                let each = took.as_nanos() as f64 / (1_000 * words * times) as f64;
                print!("; {name} {each:.2}");
            };
            print!("{kind:?} {words:>6} words");
            for (name, every) in [("all", 1), ("third", 3)] {
                let (new, again) = (text(words, 1, every), text(words, 2, every));
                let start = processor_time();
                for _ in 0..times {
                    let _ = merged_text(&base, &new, &theirs);
                }
                report(&format!("{name} compared"), processor_time() - start);
                if only_comparing {
                    continue;
                }
                let mut took = (Duration::ZERO, Duration::ZERO);
                for _ in 0..times {
                    let (once, more) = replaced(kind, (&base, &new, &again))?;
                    took = (took.0 + once, took.1 + more);
                }
                report(name, took.0);
                if every > 1 {
                    report("again", took.1);
                }
            }
            println!();
        }
    }
    Ok(())
}
