//! Random, truncated, flipped, spliced and oversize input to every registered decoder: each answers with a value or a typed error, none
//! panics, none takes more memory than the input and its limit allow, and what decodes has one encoding.

mod attack;
mod can_fail;
mod mutate;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use conclave_testkit::decoders::Decoder;
use conclave_testkit::decoders::decoders;
use peak_alloc::PeakAlloc;

use attack::{Attack, quiet_panics};
use mutate::Mutator;

/// Counts what the whole process allocates.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// One run gives the same inputs as the next. Change it to look elsewhere.
const SEED: u64 = 0x0c0c_1a7e;

/// Memory is counted for the whole process, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one kind of attack on every decoder.
fn on_all(
    what: &str,
    run: impl Fn(&Decoder, &mut Mutator, &mut Attack) -> Result<()>,
) -> Result<()> {
    let _alone = alone();
    quiet_panics();
    println!("seed {SEED:#x}");
    let mut total = 0;
    let mut failures = Vec::new();
    for decoder in decoders() {
        let mut mutator = Mutator::new(SEED, &decoder)?;
        let mut attack = Attack::new(&decoder, &MEMORY);
        if let Err(error) = run(&decoder, &mut mutator, &mut attack) {
            failures.push(format!("{error:#}"));
        }
        println!("{what}: {}", attack.report());
        total += attack.inputs();
    }
    println!("{what}: {total} inputs");
    ensure!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

#[test]
fn names_are_unique_and_every_decoder_reads_its_samples() -> Result<()> {
    let _alone = alone();
    let all = decoders();
    let names: BTreeSet<&str> = all.iter().map(|decoder| decoder.name).collect();
    ensure!(names.len() == all.len(), "a name is used twice");
    for decoder in &all {
        let samples = (decoder.samples)();
        ensure!(!samples.is_empty(), "{} has no sample", decoder.name);
        for sample in samples {
            let decoded = (decoder.decode)(&sample);
            let again = decoded.map_err(|code| anyhow::anyhow!("{}: {code}", decoder.name))?;
            ensure!(
                again.is_none_or(|again| again == sample),
                "{}: the sample is not what is encoded again",
                decoder.name
            );
        }
    }
    println!("{} decoders", all.len());
    Ok(())
}

#[test]
fn random_bytes() -> Result<()> {
    on_all("random", |_, mutator, attack| {
        for input in mutator.random() {
            attack.with(&input)?;
        }
        Ok(())
    })
}

#[test]
fn truncated_samples() -> Result<()> {
    on_all("truncated", |_, mutator, attack| {
        for input in mutator.truncated() {
            attack.with(&input)?;
        }
        Ok(())
    })
}

#[test]
fn flipped_bits() -> Result<()> {
    on_all("flipped", |_, mutator, attack| {
        for input in mutator.flipped() {
            attack.with(&input)?;
        }
        Ok(())
    })
}

#[test]
fn bytes_that_follow_and_samples_spliced() -> Result<()> {
    on_all("spliced", |_, mutator, attack| {
        for input in mutator.spliced() {
            attack.with(&input)?;
        }
        Ok(())
    })
}

#[test]
fn lengths_that_lie() -> Result<()> {
    on_all("lengths", |_, mutator, attack| {
        for input in mutator.lying_lengths() {
            attack.with(&input)?;
        }
        Ok(())
    })
}

#[test]
fn lists_of_very_many_very_small_things() -> Result<()> {
    on_all("floods", |_, mutator, attack| {
        for input in mutator.floods() {
            attack.with(&input)?;
        }
        Ok(())
    })
}

#[test]
fn more_than_the_limit_is_refused_before_it_is_looked_at() -> Result<()> {
    on_all("oversize", |decoder, mutator, attack| {
        for input in mutator.oversize() {
            attack
                .refused_unseen(&input)
                .with_context(|| format!("limit {}", decoder.limit_bytes))?;
        }
        Ok(())
    })
}
