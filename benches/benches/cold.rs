//! A new member opens a long document: invitation, log and store included, through real clients and a real service, beside the bare CRDT engine that applies
//! such updates.

use std::hint::black_box;
use std::time::Duration;

use anyhow::Result;
use conclave_bench::cold::Scene;
use conclave_bench::log::{DocumentLog, bare_yrs};
use conclave_bench::measure::{Bench, Form, sure};
use conclave_crdt::CrdtKind;
use tokio::runtime::Builder;

fn main() {
    let mut bench = Bench::asked();
    let sizes: &[usize] = match bench.form {
        Form::Short => &[100],
        Form::Usual => &[10_000],
        Form::Long => &[10_000, 260_000],
    };
    let runtime = sure(Builder::new_multi_thread().enable_all().build());
    for records in sizes {
        let log = sure(DocumentLog::typed(CrdtKind::Yjs, *records));
        let scene = sure(runtime.block_on(Scene::start(*records)));
        let once = || -> Result<Duration> { runtime.block_on(scene.open_once()) };
        bench.pair(
            "cold",
            &format!("yjs, {records} records"),
            log.updates.len() as u64,
            ("yrs", &mut |bencher| {
                bencher.iter(|| black_box(sure(bare_yrs(&log.updates))));
            }),
            ("a new member", &mut |bencher| {
                bencher.iter_custom(|times| (0..times).map(|_| sure(once())).sum());
            }),
        );
        sure(runtime.block_on(scene.end()));
    }
    bench.finish();
}
