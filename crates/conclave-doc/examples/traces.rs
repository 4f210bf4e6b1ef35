//! Plays a recorded history of several people who wrote one text at once, with members of a document: `cargo run --release -p conclave-doc --example traces --
//! --trace PATH`. Ends with 1 where a member's text is not the recorded one, or a character is not told to be of the record that brought it.
//!
//! Recorded ones are the concurrent traces of <https://github.com/josephg/editing-traces> (gzip JSON). Without a path a generated one is played.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::Read;
use std::process::ExitCode;
use std::time::Instant;

use common::traces::{Played, Trace, play};
use conclave_crdt::CrdtKind;

type Failure = Box<dyn std::error::Error>;

fn read(path: &str) -> Result<Trace, Failure> {
    let mut json = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path)?).read_to_string(&mut json)?;
    let trace = Trace::of_json(&serde_json::from_str(&json)?);
    Ok(trace.ok_or("not a concurrent trace that a log can have")?)
}

/// Plays it, and says how the members' texts compare with each other and with what was recorded.
fn played(trace: &Trace, kind: CrdtKind, marked: bool) -> (Played, bool) {
    let start = Instant::now();
    let mut played = play(trace, kind, marked);
    let took = start.elapsed();
    let texts: Vec<String> = (0..trace.agents).map(|at| played.text(at)).collect();
    let same = texts.iter().all(|text| *text == texts[0]);
    let recorded = trace.end.as_ref().is_none_or(|end| *end == texts[0]);
    println!(
        "{kind}, {}: {} records in {:.1} s; {} characters; members {}; the recorded end {}",
        if marked { "marks" } else { "as written" },
        played.sim.service.size(),
        took.as_secs_f64(),
        texts[0].chars().count(),
        if same { "agree" } else { "DIFFER" },
        if recorded { "is reached" } else { "is MISSED" },
    );
    (played, same && recorded)
}

fn run() -> Result<bool, Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let trace = match arguments.as_slice() {
        [flag, path] if flag == "--trace" => read(path)?,
        [] => Trace::generated(3, 5_000, 1),
        _ => return Err("--trace PATH, or nothing".into()),
    };
    println!("{} edits by {} people", trace.edits.len(), trace.agents);
    let mut holds = true;
    for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
        // What everybody wrote, and the same with characters that tell what they are.
        let (mut plain, ends) = played(&trace, kind, false);
        let (mut marked, ends_marked) = played(&trace, kind, true);
        holds &= ends && ends_marked;
        for at in 0..trace.agents {
            let start = Instant::now();
            let (wrong, all) = marked.wrong(at);
            let took = start.elapsed();
            let runs = plain.blamed(at);
            let by = |runs: &[(char, _, u64)]| -> Vec<u64> { runs.iter().map(|it| it.2).collect() };
            let alike = trace.end.is_none() || by(&runs) == by(&marked.blamed(at));
            println!(
                "{kind}, member {at}: {} of {all} characters told to be of their record{}; in {:.1} ms",
                all - wrong,
                if alike { "" } else { ", OTHERWISE as written" },
                took.as_secs_f64() * 1e3
            );
            holds &= wrong == 0 && alike;
        }
    }
    Ok(holds)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
