//! Single-record frames of twenty writers at the real service, each acknowledged when it is durable, beside the same rows into bare SQLite
//! under the same group commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use conclave_bench::device::{origin, serve};
use conclave_bench::measure::{Bench, Form, process_time, sure, thread_time};
use conclave_bench::sqlite::Records;
use conclave_bench::writer::Writer;
use conclave_ds::Service;
use futures_util::future::try_join_all;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

const WRITERS: usize = 20;
/// Frames that a device has on their way, as the engine does.
const IN_FLIGHT: usize = 16;

fn main() {
    let mut bench = Bench::asked();
    let mut scene = sure(Scene::start(bench.form));
    for (case, figure) in [
        ("by the clock", clock as fn(Spent) -> Duration),
        ("processor time", processor),
    ] {
        let (updates, shared) = (scene.updates(), std::cell::RefCell::new(&mut scene));
        bench.pair(
            "append",
            &format!("{WRITERS} writers, {case}"),
            updates,
            ("bare SQLite", &mut |bencher| {
                bencher.iter_custom(|times| {
                    let one = |_| figure(sure(shared.borrow().bare()));
                    (0..times).map(one).sum()
                });
            }),
            ("service", &mut |bencher| {
                bencher.iter_custom(|times| {
                    let one = |_| figure(sure(shared.borrow_mut().served()));
                    (0..times).map(one).sum()
                });
            }),
        );
    }
    bench.finish();
    sure(scene.end());
}

/// What one iteration took.
struct Spent {
    clock: Duration,
    /// Of all threads but the one that plays the writers.
    processor: Duration,
}

fn clock(spent: Spent) -> Duration {
    spent.clock
}

fn processor(spent: Spent) -> Duration {
    spent.processor
}

fn spent(work: impl FnOnce() -> Result<()>) -> Result<Spent> {
    let (clock, process, thread) = (Instant::now(), process_time(), thread_time());
    work()?;
    let writers = thread_time().saturating_sub(thread);
    Ok(Spent {
        clock: clock.elapsed(),
        processor: process_time().saturating_sub(process + writers),
    })
}

struct Scene {
    folder: TempDir,
    services: Runtime,
    service: Service,
    devices: Runtime,
    writers: Vec<Writer>,
    /// Frames of one writer in one iteration.
    frames: usize,
    records: Option<Arc<Records>>,
}

impl Scene {
    fn start(form: Form) -> Result<Self> {
        let folder = TempDir::new()?;
        let services = Builder::new_multi_thread().enable_all().build()?;
        let service = services.block_on(serve(folder.path()))?;
        let devices = Builder::new_current_thread().enable_all().build()?;
        let (url, origin) = (service.url(), origin(&service));
        let writers = devices.block_on(async {
            let mut writers = Vec::new();
            for _ in 0..WRITERS {
                writers.push(Writer::start(&url, &origin).await?);
            }
            Ok::<_, anyhow::Error>(writers)
        })?;
        let mut scene = Self {
            folder,
            services,
            service,
            devices,
            writers,
            frames: form.pick(20, 250),
            records: None,
        };
        scene.served()?;
        let count = scene.frames * WRITERS;
        let records = Records::read(scene.folder.path(), count);
        scene.records = Some(Arc::new(scene.devices.block_on(records)?));
        Ok(scene)
    }

    fn updates(&self) -> u64 {
        (self.frames * WRITERS) as u64
    }

    fn served(&mut self) -> Result<Spent> {
        let frames = self.frames;
        let writers = self.writers.iter_mut();
        let ready: Vec<_> = writers
            .map(|writer| (writer.frames(frames), writer))
            .collect();
        let writes = ready
            .into_iter()
            .map(|(frames, writer)| writer.write(frames, IN_FLIGHT));
        spent(|| {
            self.devices
                .block_on(async { try_join_all(writes).await.map(drop) })
        })
    }

    fn bare(&self) -> Result<Spent> {
        let records = Arc::clone(self.records.as_ref().context("nothing written yet")?);
        let folder = TempDir::new()?;
        let table = self.services.block_on(records.table(folder.path()))?;
        let insert = records.insert(table, WRITERS, IN_FLIGHT);
        spent(|| {
            // On a thread of the runtime: this one's time is not counted.
            self.services
                .block_on(async { tokio::spawn(insert).await? })
        })
    }

    fn end(self) -> Result<()> {
        drop(self.writers);
        drop(self.devices);
        self.services.block_on(self.service.shutdown());
        Ok(self.folder.close()?)
    }
}
