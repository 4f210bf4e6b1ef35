//! Prints what edits cost: a real service and real devices in one process, with a counting relay between them.
//!
//! ```text
//! cargo run --release -p conclave-tests --bin costs -- large  [--text-bytes 5000000] [--edits 10000] [--signs 2000]
//! cargo run --release -p conclave-tests --bin costs -- sync   [--edits 20000]
//! cargo run --release -p conclave-tests --bin costs -- typing [--edits 100000]
//! ```
//!
//! Each edit is one character in the middle of the text, after the one before it, or with `--same-place 1` always at the same place.
//!
//! - `large`: one device edits a large text, another follows; then both are idle until they sent so many signs of life.
//! - `sync`: two devices write offline, each as many edits as said, then both go online.
//! - `typing`: one device writes in the middle of one text, offline.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use conclave_client::transport::Timing;
use conclave_client::{Any, Client, Config, CrdtError, Document, Group, Setup, Yrs};
use conclave_ds::Service;
use conclave_proto::{DocumentId, GroupPolicy, RealmId};
use conclave_tests::meter::{Relay, Stored, Traffic, cpu_ms};
use conclave_tests::{admit, document, online, verify_all};
use futures_util::future::try_join_all;
use tempfile::TempDir;

/// Edits that are under way at once: one write to a device's store then holds many.
const AT_ONCE: usize = 250;
/// Ranges that are told apart.
const RANGES: usize = 10;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let options = Options::read(arguments)?;
    match what.as_str() {
        "large" => large(&options).await,
        "sync" => sync(&options).await,
        "typing" => typing(&options).await,
        _ => bail!("say large, sync or typing"),
    }
}

struct Options(HashMap<String, usize>);

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut found = HashMap::new();
        while let Some(name) = arguments.next() {
            let value = arguments.next().context("an option without a value")?;
            found.insert(name, value.parse().context("not a number")?);
        }
        Ok(Self(found))
    }

    fn get(&self, name: &str, otherwise: usize) -> usize {
        self.0.get(name).copied().unwrap_or(otherwise)
    }
}

/// A service behind a relay, and two users who share a group.
struct Pair {
    folder: TempDir,
    service: Option<Service>,
    address: SocketAddr,
    url: String,
    traffic: Traffic,
    ana: Client,
    ben: Client,
    groups: [Group; 2],
}

impl Pair {
    async fn new(timing: Timing) -> Result<Self> {
        let folder = TempDir::new()?;
        let relay = Relay::bind().await?;
        let url = relay.url();
        let any = ([127, 0, 0, 1], 0).into();
        let service = serve(folder.path().join("service"), any, &url).await?;
        let address = service.local_addr();
        let traffic = relay.start(address);
        let user = async |name: &str| -> Result<Client> {
            let setup = Setup::NewUser {
                name: name.to_owned(),
                realm: RealmId::ZERO,
            };
            let config = Config::new(folder.path().join(name), url.clone()).timing(timing);
            let client = Client::create(config, setup).await?;
            online(&client).await?;
            Ok(client)
        };
        let (ana, ben) = (user("ana").await?, user("ben").await?);
        verify_all(&[&ana, &ben]).await?;
        let group = ana.create_group("Costs", GroupPolicy::default()).await?;
        let joined = admit(&group, &[&ben]).await?;
        let joined = joined.into_iter().next().context("Ben is no member")?;
        Ok(Self {
            folder,
            service: Some(service),
            address,
            url,
            traffic,
            ana,
            ben,
            groups: [group, joined],
        })
    }

    fn service_folder(&self) -> PathBuf {
        self.folder.path().join("service")
    }

    /// Bytes sent up and down so far, but for signs of life.
    fn bytes(&self) -> (u64, u64) {
        let (up, down) = (&self.traffic.up, &self.traffic.down);
        (up.bytes_beside_signs(), down.bytes_beside_signs())
    }

    fn bytes_since(&self, before: (u64, u64)) -> (u64, u64) {
        let now = self.bytes();
        (now.0 - before.0, now.1 - before.1)
    }

    async fn stop_service(&mut self) {
        if let Some(service) = self.service.take() {
            service.shutdown().await;
        }
    }

    async fn start_service(&mut self) -> Result<()> {
        let service = serve(self.service_folder(), self.address, &self.url).await?;
        self.service = Some(service);
        Ok(())
    }

    /// A text of so many bytes, open on both devices.
    async fn text(&self, bytes: usize) -> Result<[Document<Any>; 2]> {
        let [group, joined] = &self.groups;
        let first = long_text(bytes);
        let made = group
            .create_document_with::<Yrs>("text", move |yrs| {
                use conclave_client::Crdt as _;
                let text = yrs.text().ok_or(CrdtError::InvalidArgument)?;
                text.splice(0, 0, &first)
            })
            .await?
            .as_any();
        made.synced().await?;
        let id: DocumentId = made.id();
        let theirs = document::<Any>(joined, &id).await?;
        theirs.synced().await?;
        Ok([made, theirs])
    }

    async fn end(mut self) -> Result<()> {
        self.ana.close().await?;
        self.ben.close().await?;
        self.stop_service().await;
        Ok(())
    }
}

async fn serve(folder: PathBuf, address: SocketAddr, origin: &str) -> Result<Service> {
    let mut config = conclave_ds::Config::new(folder, address);
    config.rate_limits = None;
    config.origins = vec![origin.to_owned()];
    Ok(Service::start(config).await?)
}

/// Words without end, so that nothing can be told from their length alone.
fn long_text(bytes: usize) -> String {
    "a text that goes on and on, line after line\n"
        .chars()
        .cycle()
        .take(bytes)
        .collect()
}

/// Where the next character goes.
#[derive(Debug, Clone, Copy)]
struct Caret {
    at: usize,
    /// By so many places it moves with each character.
    step: usize,
}

impl Caret {
    /// In the middle of a text of `chars` characters.
    fn middle(chars: usize, options: &Options) -> Self {
        let stays = options.get("--same-place", 0) != 0;
        Self {
            at: chars / 2,
            step: usize::from(!stays),
        }
    }

    /// Writes so many characters, one by one.
    async fn write(&mut self, text: &Document<Any>, edits: usize) -> Result<()> {
        let mut left = edits;
        while left > 0 {
            let now = left.min(AT_ONCE);
            let run = (0..now).map(|edit| {
                let at = self.at + edit * self.step;
                text.edit(move |crdt| {
                    let text = crdt.text().ok_or(CrdtError::InvalidArgument)?;
                    text.splice(at, 0, "x")
                })
            });
            // In this order: a budget would end in the middle of them.
            tokio::task::unconstrained(try_join_all(run)).await?;
            self.at += now * self.step;
            left -= now;
        }
        Ok(())
    }
}

async fn length(text: &Document<Any>) -> Result<usize> {
    Ok(text
        .read(|crdt| {
            let text = crdt.text().ok_or(CrdtError::InvalidArgument)?;
            text.len()
        })
        .await?)
}

/// Waits until a text has so many characters.
async fn reaches(text: &Document<Any>, chars: usize) -> Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let begun = Instant::now();
    while length(text).await? != chars {
        ticks.tick().await;
        ensure!(
            begun.elapsed() < Duration::from_secs(900),
            "the devices do not agree"
        );
    }
    Ok(())
}

async fn large(options: &Options) -> Result<()> {
    let (bytes, edits) = (
        options.get("--text-bytes", 5_000_000),
        options.get("--edits", 10_000),
    );
    let timing = Timing {
        ping: Duration::from_millis(50),
        ..Timing::default()
    };
    let pair = Pair::new(timing).await?;
    let [ana, ben] = pair.text(bytes).await?;
    reaches(&ben, bytes).await?;
    let before = Stored::read(&pair.service_folder()).await?;
    let bytes_before = pair.bytes();
    let cpu = cpu_ms()?;
    Caret::middle(bytes, options).write(&ana, edits).await?;
    ana.synced().await?;
    reaches(&ben, bytes + edits).await?;
    let cpu = cpu_ms()?.saturating_sub(cpu);
    let edits = edits.max(1) as u64;
    let (up, down) = pair.bytes_since(bytes_before);
    let after = Stored::read(&pair.service_folder()).await?;
    println!("a text of {bytes} bytes, {edits} edits of one character");
    println!(
        "on the wire per edit: {} bytes up, {} bytes down",
        up / edits,
        down / edits
    );
    println!("processor time per edit: {} µs", cpu * 1000 / edits);
    println!(
        "stored by the edits: {} bytes of updates, {} snapshots of {} bytes together",
        after.update_bytes - before.update_bytes,
        after.snapshots - before.snapshots,
        after.snapshot_bytes - before.snapshot_bytes
    );
    println!(
        "stored in all: {} bytes ({} of updates, newest snapshot {}), database {} bytes",
        after.total_bytes(),
        after.update_bytes,
        after.newest_snapshot_bytes,
        after.database_bytes
    );
    idle(&pair, options.get("--signs", 2_000) as u64).await?;
    pair.end().await
}

/// Prints what devices send that have nothing to do.
async fn idle(pair: &Pair, signs: u64) -> Result<()> {
    let (up, down) = (&pair.traffic.up, &pair.traffic.down);
    let (bytes, frames) = (pair.bytes(), (up.frames(), down.frames()));
    let before = Stored::read(&pair.service_folder()).await?;
    let end = up.signs() + signs;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    while up.signs() < end {
        ticks.tick().await;
    }
    let after = Stored::read(&pair.service_folder()).await?;
    let bytes = pair.bytes_since(bytes);
    println!(
        "two idle devices, {signs} signs of life: beside them {} frames and {} bytes up, {} frames and {} bytes down; {} snapshots, database grew by {} bytes",
        up.frames() - frames.0,
        bytes.0,
        down.frames() - frames.1,
        bytes.1,
        after.snapshots - before.snapshots,
        after.database_bytes.saturating_sub(before.database_bytes)
    );
    Ok(())
}

async fn sync(options: &Options) -> Result<()> {
    let edits = options.get("--edits", 20_000);
    let mut pair = Pair::new(Timing::default()).await?;
    let [ana, ben] = pair.text(1_000).await?;
    reaches(&ben, 1_000).await?;
    pair.stop_service().await;
    Caret::middle(1_000, options).write(&ana, edits).await?;
    Caret::middle(1_000, options).write(&ben, edits).await?;
    let bytes = pair.bytes();
    let (cpu, begun) = (cpu_ms()?, Instant::now());
    pair.start_service().await?;
    ana.synced().await?;
    ben.synced().await?;
    let all = 1_000 + 2 * edits;
    reaches(&ana, all).await?;
    reaches(&ben, all).await?;
    let spent = cpu_ms()?.saturating_sub(cpu);
    let count = 2 * edits.max(1) as u64;
    println!("two devices with {edits} offline edits each");
    println!(
        "processor time, both devices and the service: {spent} ms, {} µs per edit; {} ms by the clock",
        spent * 1000 / count,
        begun.elapsed().as_millis()
    );
    let (up, down) = pair.bytes_since(bytes);
    println!(
        "on the wire per edit: {} bytes up, {} bytes down",
        up / count,
        down / count
    );
    let stored = Stored::read(&pair.service_folder()).await?;
    println!("stored: {stored:?}");
    pair.end().await
}

async fn typing(options: &Options) -> Result<()> {
    let edits = options.get("--edits", 100_000);
    let mut pair = Pair::new(Timing::default()).await?;
    let [ana, _] = pair.text(1_000).await?;
    pair.stop_service().await;
    let range = (edits / RANGES).max(1);
    println!("one device, {edits} edits of one character in the middle of one text");
    let mut caret = Caret::middle(1_000, options);
    for at in 0..RANGES {
        let cpu = cpu_ms()?;
        caret.write(&ana, range).await?;
        let spent = cpu_ms()?.saturating_sub(cpu);
        println!(
            "edits {:>7} to {:>7}: {} µs of processor time each",
            at * range,
            (at + 1) * range,
            spent * 1000 / range as u64
        );
    }
    pair.start_service().await?;
    pair.end().await
}
