//! Who wrote what a text shows, where each character came with a record of its own, beside reading the text.

use std::hint::black_box;

use conclave_bench::log::DocumentLog;
use conclave_bench::measure::{Bench, sure};
use conclave_crdt::CrdtKind;

fn main() {
    let mut bench = Bench::asked();
    let sizes = bench.form.pick(&[100][..], &[10_000, 260_000]);
    for (kind, engine) in [(CrdtKind::Yjs, "yrs"), (CrdtKind::Automerge, "automerge")] {
        for characters in sizes {
            let log = sure(DocumentLog::typed(kind, *characters));
            let mut read = sure(log.open(log.frames()));
            let mut blamed = sure(log.open(log.frames()));
            bench.pair(
                "blame",
                &format!("{kind}, {characters} characters"),
                *characters as u64,
                (engine, &mut |bencher| {
                    bencher.iter(|| black_box(sure(DocumentLog::read(&mut read))));
                }),
                ("blame", &mut |bencher| {
                    bencher.iter(|| black_box(sure(log.blame(&mut blamed))));
                }),
            );
        }
    }
    bench.finish();
}
