//! Cold load of a document: opening and applying a sealed log, beside the bare CRDT engine that applies the same updates.

use std::hint::black_box;

use anyhow::Result;
use conclave_bench::log::{DocumentLog, bare_yrs};
use conclave_bench::measure::{Bench, Form, sure};
use conclave_bench::trace::Trace;
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
            let case = format!("{kind}, {records} records");
            cold(&mut bench, &log, &case, (engine, bare));
        }
    }
    if let Some(path) = Trace::asked() {
        let trace = sure(Trace::read(&path));
        let name = path.file_name().map(|name| name.to_string_lossy());
        let name = name.as_deref().and_then(|name| name.split('.').next());
        for edits in [1, 100] {
            let log = sure(DocumentLog::traced(CrdtKind::Yjs, &trace, edits));
            let name = name.unwrap_or("trace");
            let case = format!("yjs, {name}, {edits} edits a record");
            let bare: Bare = |log| bare_yrs(&log.updates);
            cold(&mut bench, &log, &case, ("yrs", bare));
        }
    }
    bench.finish();
}

fn cold(bench: &mut Bench, log: &DocumentLog, case: &str, (engine, bare): (&str, Bare)) {
    bench.pair(
        "load",
        case,
        log.updates.len() as u64,
        (engine, &mut |bencher| {
            bencher.iter(|| black_box(sure(bare(log))));
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

fn bare_automerge(log: &DocumentLog) -> Result<usize> {
    use automerge::ReadDoc as _;

    let mut doc = automerge::AutoCommit::load(&log.beginning)?;
    let changes = log.updates.iter();
    let changes = changes.map(|update| automerge::Change::from_bytes(update.clone()));
    doc.apply_changes(changes.collect::<Result<Vec<_>, _>>()?)?;
    let text = doc.get(automerge::ROOT, "text")?;
    Ok(text.map_or(0, |(_, text)| doc.length(text)))
}
