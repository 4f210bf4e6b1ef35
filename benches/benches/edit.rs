//! What an engine takes for one edit, beside the bare CRDT engine and beside itself with many other documents; and for making documents.
//! From the command to the service's acknowledgement, but only inside the engine.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context as _, Result};
use conclave_bench::device::{Device, origin, serve};
use conclave_bench::measure::{Bench, sure};
use conclave_ds::Service;
use conclave_proto::{DocumentId, GroupId};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use yrs::{Doc, Text as _, Transact as _};

/// Characters of the text that the bare engine edits.
const CHARACTERS: u32 = 1_000;

fn main() {
    let mut bench = Bench::asked();
    let (half, all) = bench.form.pick((10, 60), (5_000, 10_000));
    let scene = sure(Scene::start(bench.form.pick(3, 100)));
    let mut many = sure(scene.seat());
    sure(scene.fill(&mut many, half));
    making(&mut bench, &scene, &mut many);
    sure(scene.fill(&mut many, all));
    editing(&mut bench, &scene, &mut many);
    sure(scene.end());
}

/// A service, and a thread for devices.
struct Scene {
    _folder: TempDir,
    services: Runtime,
    service: Service,
    devices: Runtime,
    /// Documents made in one iteration.
    made: u64,
}

/// A device with a group and documents in it.
struct Seat {
    device: Device,
    group: GroupId,
    documents: Vec<DocumentId>,
}

impl Scene {
    fn start(made: u64) -> Result<Self> {
        let folder = TempDir::new()?;
        let services = Builder::new_multi_thread().enable_all().build()?;
        let service = services.block_on(serve(folder.path()))?;
        Ok(Self {
            _folder: folder,
            services,
            service,
            devices: Builder::new_current_thread().enable_all().build()?,
            made,
        })
    }

    /// A device with one document.
    fn seat(&self) -> Result<Seat> {
        let origin = origin(&self.service);
        self.devices.block_on(async {
            let mut device = Device::start(&origin).await?;
            let group = device.create_group().await?;
            let documents = vec![device.create_document(group).await?];
            device.settle().await?;
            Ok(Seat {
                device,
                group,
                documents,
            })
        })
    }

    /// Makes documents until there are so many. Gives what the engine took.
    fn fill(&self, seat: &mut Seat, documents: usize) -> Result<Duration> {
        let before = seat.device.spent;
        self.devices.block_on(async {
            while seat.documents.len() < documents {
                let document = seat.device.create_document(seat.group).await?;
                seat.documents.push(document);
            }
            seat.device.settle().await?;
            Ok(seat.device.spent.saturating_sub(before))
        })
    }

    fn make(&self, seat: &mut Seat, times: u64) -> Result<Duration> {
        let documents = seat.documents.len() + usize::try_from(times * self.made)?;
        self.fill(seat, documents)
    }

    fn edit(&self, seat: &mut Seat, times: u64) -> Result<Duration> {
        let before = seat.device.spent;
        let document = *seat.documents.first().context("no document")?;
        self.devices.block_on(async {
            for _ in 0..times {
                seat.device.edit(seat.group, document).await?;
            }
            Ok(seat.device.spent.saturating_sub(before))
        })
    }

    fn end(self) -> Result<()> {
        drop(self.devices);
        self.services.block_on(self.service.shutdown());
        Ok(())
    }
}

fn making(bench: &mut Bench, scene: &Scene, many: &mut Seat) {
    let before = many.documents.len();
    bench.pair(
        "create",
        &format!("{} documents, after {before} others", scene.made),
        scene.made,
        ("the first", &mut |bencher| {
            bencher.iter_custom(|times| {
                let first = (0..times).map(|_| sure(scene.make(&mut sure(scene.seat()), 1)));
                first.sum()
            });
        }),
        ("after the others", &mut |bencher| {
            bencher.iter_custom(|times| sure(scene.make(many, times)));
        }),
    );
}

fn editing(bench: &mut Bench, scene: &Scene, many: &mut Seat) {
    let doc = Doc::new();
    let text = doc.get_or_insert_text("text");
    text.push(&mut doc.transact_mut(), &"x".repeat(CHARACTERS as usize));
    let mut alone = sure(scene.seat());
    bench.pair(
        "edit",
        "the only document",
        1,
        ("yrs", &mut |bencher| {
            bencher.iter(|| {
                let mut transaction = doc.transact_mut();
                text.insert(&mut transaction, CHARACTERS / 2, "y");
                black_box(transaction.encode_update_v1())
            });
        }),
        ("engine", &mut |bencher| {
            bencher.iter_custom(|times| sure(scene.edit(&mut alone, times)));
        }),
    );
    let others = many.documents.len() - 1;
    bench.pair(
        "edit",
        &format!("beside {others} others"),
        1,
        ("no others", &mut |bencher| {
            bencher.iter_custom(|times| sure(scene.edit(&mut alone, times)));
        }),
        ("engine", &mut |bencher| {
            bencher.iter_custom(|times| sure(scene.edit(many, times)));
        }),
    );
    bench.finish();
}
