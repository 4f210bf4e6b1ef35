//! Cold load of a document: opening and applying a sealed log, beside the bare CRDT engine that applies the same updates.

use std::hint::black_box;

use anyhow::Result;
use conclave_bench::log::{DocumentLog, bare_yrs};
use conclave_bench::measure::{Bench, Form, sure};
use conclave_crdt::CrdtKind;
use criterion::BatchSize;

/// Applies a log's updates. Gives how many characters the text then has.
type Bare = fn(&DocumentLog) -> Result<usize>;

fn main() {
    let mut bench = Bench::asked();
    let sizes: &[usize] = match bench.form {
        Form::Short => &[100],
        Form::Usual => &[1_000, 10_000],
        Form::Long => &[1_000, 10_000, 260_000],
    };
    for (kind, engine, bare) in [
        (CrdtKind::Yjs, "yrs", (|log| bare_yrs(&log.updates)) as Bare),
        (CrdtKind::Automerge, "automerge", bare_automerge),
    ] {
        for records in sizes {
            let log = sure(DocumentLog::typed(kind, *records));
            bench.pair(
                "load",
                &format!("{kind}, {records} records"),
                log.updates.len() as u64,
                (engine, &mut |bencher| {
                    bencher.iter(|| black_box(sure(bare(&log))));
                }),
                ("open and apply", &mut |bencher| {
                    bencher.iter_batched(
                        || log.frames(),
                        |frames| sure(log.open(frames)),
                        BatchSize::PerIteration,
                    );
                }),
            );
        }
    }
    bench.finish();
}

fn bare_automerge(log: &DocumentLog) -> Result<usize> {
    use automerge::ReadDoc as _;

    let mut doc = automerge::AutoCommit::load(&log.beginning)?;
    let changes = log.updates.iter();
    let changes = changes.map(|update| automerge::Change::from_bytes(update.clone()));
    doc.apply_changes(changes.collect::<Result<Vec<_>, _>>()?)?;
    let text = doc.get(automerge::ROOT, "text")?;
    Ok(text.map_or(0, |(_, text)| doc.length(text)))
}
