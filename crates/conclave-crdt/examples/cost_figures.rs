//! What updates cost by the cost bound, and what they take of an engine's time: `cargo run --release -p conclave-crdt --example cost_figures`.
//!
//! Dear updates grow until they are refused; the largest that are not may take [`FACTOR`] times their cost, [`SLACK`], and [`RECORD`] each. Ends with 1 where one
//! takes more. With `--trace PATH` an editing trace of <https://github.com/josephg/editing-traces> (gzip JSON, sequential) is written as one
//! record per edit.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::indexing_slicing
)]

use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use conclave_crdt::cost::{Allowance, BALANCE_CAP, LoadLimit, Meter, Refused, unit_ns};
use conclave_crdt::{Crdt, CrdtKind, ReplicaId, create};
use conclave_testkit::costly::{self, Costly};

type Failure = Box<dyn std::error::Error>;

const FACTOR: u64 = 4;
const SLACK: Duration = Duration::from_millis(5);
/// What a record takes besides: it is read, and a transaction begins and ends.
const RECORD: Duration = Duration::from_micros(10);
const FULL: Allowance = Allowance {
    balance: BALANCE_CAP,
    room: u64::MAX,
};

fn document(kind: CrdtKind) -> Result<Box<dyn Crdt>, Failure> {
    Ok(create(kind, ReplicaId::for_kind(kind, [0xfd; 16]))?)
}

/// The processor's time that this thread took, where the system tells; else how late it is.
#[derive(Clone, Copy)]
struct Clock {
    started: Instant,
    used: Option<Duration>,
}

impl Clock {
    fn used() -> Option<Duration> {
        let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let used = told.split_whitespace().next()?.parse().ok()?;
        Some(Duration::from_nanos(used))
    }

    fn start() -> Self {
        Self {
            started: Instant::now(),
            used: Self::used(),
        }
    }

    fn elapsed(self) -> Duration {
        match (self.used, Self::used()) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => self.started.elapsed(),
        }
    }
}

/// What one document and its meter took.
struct Run {
    kind: CrdtKind,
    cost: u64,
    engine: Duration,
    counting: Duration,
    bytes: usize,
    records: u32,
}

impl Run {
    fn allowed(&self) -> Duration {
        Duration::from_nanos(FACTOR * self.cost * unit_ns(self.kind))
            + SLACK
            + RECORD * self.records
    }

    fn show(&self, name: &str, size: u32) -> bool {
        let over = self.engine > self.allowed();
        println!(
            "{name:42} {size:>9} {:>8} B {:>8} units  counted {:>7.1} ms  engine {:>8.1} ms of {:>7.1}{}",
            self.bytes,
            self.cost,
            ms(self.counting),
            ms(self.engine),
            ms(self.allowed()),
            if over { "  OVER" } else { "" }
        );
        over
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Takes updates in; where one is refused, how long that took.
fn run(kind: CrdtKind, case: &Costly) -> Result<Result<Run, (Refused, Duration)>, Failure> {
    let mut doc = document(kind)?;
    let mut meter = Meter::new(kind);
    for update in &case.base {
        let mut read = doc.inspect(update)?;
        if let Err(refused) = meter.count(update, &mut read, FULL) {
            return Ok(Err((refused, Duration::ZERO)));
        }
        doc.apply_inspected(vec![(update, read)])?;
    }
    let mut run = Run {
        kind,
        cost: 0,
        engine: Duration::ZERO,
        counting: Duration::ZERO,
        bytes: 0,
        records: case.dear.len() as u32,
    };
    for update in &case.dear {
        let start = Clock::start();
        let mut read = doc.inspect(update)?;
        let counted = meter.count(update, &mut read, FULL);
        run.counting += start.elapsed();
        match counted {
            Ok(counted) => run.cost += counted.cost + counted.released,
            Err(refused) => return Ok(Err((refused, start.elapsed()))),
        }
        run.bytes += update.len();
        let start = Clock::start();
        doc.apply_inspected(vec![(update, read)])?;
        run.engine += start.elapsed();
    }
    Ok(Ok(run))
}

fn dear() -> Result<bool, Failure> {
    let mut over = false;
    for way in costly::YJS {
        let mut size = 64;
        loop {
            let case = (way.build)(size, 1);
            if case.dear.len() > 2 || case.dear.iter().any(|update| update.len() > 1 << 20) {
                println!("{:42} {size:>9} too long", way.name);
                break;
            }
            match run(CrdtKind::Yjs, &case)? {
                Ok(run) => over |= run.show(way.name, size),
                Err((refused, took)) => {
                    let took = ms(took);
                    println!("{:42} {size:>9} {refused:?} in {took:.1} ms", way.name);
                    break;
                }
            }
            size *= 2;
        }
    }
    for size in [100_000, 114_000] {
        let base = vec![];
        let dear = vec![costly::automerge(size)];
        if let Ok(run) = run(CrdtKind::Automerge, &Costly { base, dear })? {
            over |= run.show("automerge operations", size);
        }
    }
    for (name, update) in [
        ("typed", costly::typed(100_000)),
        ("nulls", costly::nulls(100_000)),
        ("written", costly::written(1_000_000)),
    ] {
        let (base, dear) = (vec![], vec![update]);
        match run(CrdtKind::Yjs, &Costly { base, dear })? {
            Ok(run) => over |= run.show(name, 0),
            Err((refused, _)) => println!("{name}: {refused:?}"),
        }
    }
    Ok(over)
}

/// What loading takes: the state of a text that was edited all over.
fn loaded() -> Result<bool, Failure> {
    let mut over = false;
    let edited = |edits| costly::scattered_state(1_000_000, edits);
    let ways: [(&str, u32, Vec<u8>); 5] = [
        ("loading what was edited all over", 10_000, edited(10_000)),
        ("loading what was edited all over", 100_000, edited(100_000)),
        ("loading what was edited all over", 200_000, edited(200_000)),
        (
            "loading what was apart in vain",
            2_000,
            costly::apart_in_vain(2_000),
        ),
        (
            "loading what was apart in vain",
            20_000,
            costly::apart_in_vain(20_000),
        ),
    ];
    for (name, size, state) in ways {
        let start = Clock::start();
        let (_, units) = Meter::load_within(CrdtKind::Yjs, &state, LoadLimit::units(u64::MAX))
            .map_err(|it| format!("{it:?}"))?;
        let counting = start.elapsed();
        let start = Clock::start();
        conclave_crdt::load(
            CrdtKind::Yjs,
            &state,
            ReplicaId::for_kind(CrdtKind::Yjs, [1; 16]),
        )?;
        let run = Run {
            kind: CrdtKind::Yjs,
            cost: units,
            engine: start.elapsed(),
            counting,
            bytes: state.len(),
            records: 1,
        };
        over |= run.show(name, size);
    }
    Ok(over)
}

/// What an Automerge engine takes for what is not counted: it walks the whole of each object that an update touches, and writes every operation anew for
/// each actor that it has not seen.
fn walks() -> Result<(), Failure> {
    let kind = CrdtKind::Automerge;
    let actor = |at: u32| {
        let mut seed = [9; 16];
        seed[..4].copy_from_slice(&at.to_be_bytes());
        ReplicaId::for_kind(kind, seed)
    };
    for size in [100_000, 1_000_000] {
        let mut author = create(kind, actor(0))?;
        let mut base = Vec::new();
        for _ in 0..size / 50_000 {
            author
                .text()
                .ok_or("a text")?
                .splice(0, 0, &"a".repeat(50_000))?;
            author.take_pending(&mut base)?;
        }
        let snapshot = author.snapshot()?;
        let time = |name: &str, updates: &[Vec<u8>]| -> Result<(), Failure> {
            let mut reader = conclave_crdt::load(kind, &snapshot, actor(1))?;
            let start = Clock::start();
            let all: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
            let done = reader.apply(&all);
            let took = ms(start.elapsed());
            let count = updates.len();
            println!("{name}: text of {size}, {count} updates, {done:?}: {took:.1} ms");
            Ok(())
        };
        let start = Clock::start();
        let mut one = conclave_crdt::load(kind, &snapshot, actor(2))?;
        println!("loading a text of {size}: {:.1} ms", ms(start.elapsed()));
        let mut typed = Vec::new();
        for _ in 0..100 {
            one.text().ok_or("a text")?.splice(size / 2, 0, "x")?;
            one.take_pending(&mut typed)?;
        }
        time("one character", &typed[..1])?;
        time("a hundred characters at once", &typed)?;
        let mut reader = conclave_crdt::load(kind, &snapshot, actor(1))?;
        let start = Clock::start();
        for update in &typed {
            reader.apply(&[update])?;
        }
        println!("a hundred, each by itself: {:.1} ms", ms(start.elapsed()));
        for actors in [1, 64] {
            let mut updates = Vec::new();
            for at in 0..actors {
                let mut other = conclave_crdt::load(kind, &snapshot, actor(100 + at))?;
                other.text().ok_or("a text")?.splice(0, 0, "x")?;
                other.take_pending(&mut updates)?;
            }
            time(&format!("{actors} new actors"), &updates)?;
        }
    }
    Ok(())
}

/// A small generator: figures need no good randomness.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

/// Members who write at random places, and read each other from time to time.
fn random(members: u8, edits: usize) -> Result<bool, Failure> {
    let mut random = Random(7);
    let mut docs = Vec::new();
    for member in 0..members {
        let replica = ReplicaId::for_kind(CrdtKind::Yjs, [member + 1; 16]);
        docs.push(create(CrdtKind::Yjs, replica)?);
    }
    let mut log: Vec<Vec<u8>> = Vec::new();
    let mut read = vec![0; docs.len()];
    for edit in 0..edits {
        let member = random.below(docs.len());
        let Some(doc) = docs.get_mut(member) else {
            continue;
        };
        if edit % 50 == 0 {
            let unread: Vec<&[u8]> = log.iter().skip(read[member]).map(Vec::as_slice).collect();
            doc.apply(&unread)?;
            read[member] = log.len();
        }
        let text = doc.text().ok_or("a text")?;
        let len = text.len()?;
        let at = random.below(len + 1);
        let delete = random.below(3).min(len - at);
        text.splice(at, delete, ["a", "word ", "", "of"][random.below(4)])?;
        doc.take_pending(&mut log)?;
    }
    let (base, dear) = (vec![], log);
    match run(CrdtKind::Yjs, &Costly { base, dear })? {
        Ok(run) => Ok(run.show(&format!("random edits by {members}"), edits as u32)),
        Err((refused, _)) => Err(format!("{refused:?}").into()),
    }
}

/// One user writes single characters all over a long text, and pays for them from one balance.
fn scattered() -> Result<bool, Failure> {
    let (len, edits) = (1_000_000, 100_000);
    let base = vec![costly::written(len)];
    let dear: Vec<Vec<u8>> = costly::scattered(len, edits).collect();
    let reader = document(CrdtKind::Yjs)?;
    let mut meter = Meter::new(CrdtKind::Yjs);
    let (mut allowance, mut least) = (FULL, BALANCE_CAP);
    for update in base.iter().chain(&dear) {
        let mut read = reader.inspect(update)?;
        let counted = meter.count(update, &mut read, allowance);
        allowance.balance = counted.map_err(|it| format!("{it:?}"))?.balance;
        least = least.min(allowance.balance);
    }
    println!("scattered edits: smallest balance {least}");
    match run(CrdtKind::Yjs, &Costly { base, dear })? {
        Ok(run) => Ok(run.show("scattered edits", edits)),
        Err((refused, _)) => Err(format!("{refused:?}").into()),
    }
}

/// Writes a trace as one record per edit, and pays for it from one balance.
fn trace(path: &str) -> Result<(), Failure> {
    let mut json = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path)?).read_to_string(&mut json)?;
    let trace: serde_json::Value = serde_json::from_str(&json)?;
    let mut doc = document(CrdtKind::Yjs)?;
    let reader = create(CrdtKind::Yjs, ReplicaId::for_kind(CrdtKind::Yjs, [1; 16]))?;
    let mut meter = Meter::new(CrdtKind::Yjs);
    let (mut allowance, mut total, mut least, mut most) = (FULL, 0, BALANCE_CAP, 0);
    let (mut records, mut counting) = (0u64, Duration::ZERO);
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    for txn in list(&trace["txns"]) {
        for patch in list(&txn["patches"]) {
            let number = |index: usize| patch[index].as_u64().unwrap_or_default() as usize;
            let text = doc.text().ok_or("a text")?;
            text.splice(number(0), number(1), patch[2].as_str().unwrap_or_default())?;
            let mut updates = Vec::new();
            doc.take_pending(&mut updates)?;
            for update in &updates {
                let start = Instant::now();
                let mut read = reader.inspect(update)?;
                let counted = meter.count(update, &mut read, allowance);
                counting += start.elapsed();
                let counted = counted.map_err(|refused| format!("{refused:?} at {records}"))?;
                allowance.balance = counted.balance;
                records += 1;
                total += counted.cost;
                most = most.max(counted.cost);
                least = least.min(counted.balance);
            }
        }
    }
    let snapshot = doc.snapshot()?;
    let loaded = Meter::load(CrdtKind::Yjs, &snapshot)?;
    let units = Meter::load_within(CrdtKind::Yjs, &snapshot, LoadLimit::units(u64::MAX))
        .map(|(_, units)| units);
    println!(
        "{records} records: {total} units, at most {most} for one; smallest balance {least}; {} canonical blocks ({} in the snapshot, loaded for \
         {units:?} units); counted in {:.0} ms",
        meter.size(),
        loaded.size(),
        ms(counting)
    );
    Ok(())
}

fn figures() -> Result<bool, Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, path] = arguments.as_slice()
        && flag == "--trace"
    {
        trace(path)?;
        return Ok(false);
    }
    let mut over = dear()?;
    over |= loaded()?;
    walks()?;
    for members in [1, 3, 8] {
        over |= random(members, 20_000)?;
    }
    over |= scattered()?;
    Ok(over)
}

fn main() -> ExitCode {
    match figures() {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
