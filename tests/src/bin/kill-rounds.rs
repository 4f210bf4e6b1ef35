//! `kill-rounds [--rounds N] [--seed S] [--only KIND]… [--seeded lost|doubled] [--keep FOLDER] [--json]`: plays rounds of faults against real
//! processes and exits with 1 if anything is lost, doubled, unequal or stuck. See [`conclave_tests::rounds`].

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use conclave_tests::rounds::device::{self, Options, Seeded};
use conclave_tests::rounds::play::{Figures, Plan, play};
use conclave_tests::rounds::{fault, service};

const USAGE: &str = "usage: kill-rounds [--rounds N] [--seed S] [--only KIND]… [--seeded lost|doubled] [--keep FOLDER] [--json]";
/// Rounds that are played when none is asked for.
const ROUNDS: usize = 102;

#[tokio::main]
async fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Vec<String>) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["service", folder, origins @ ..] => {
            let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
            service::run(folder.into(), origins).await
        }
        ["device", name, store, journal, url, rest @ ..] => {
            let seeded = match rest {
                [] => None,
                ["lost"] => Some(Seeded::Lost),
                ["doubled"] => Some(Seeded::Doubled),
                _ => bail!(USAGE),
            };
            let options = Options {
                name: (*name).to_owned(),
                store: store.into(),
                journal: journal.into(),
                url: (*url).to_owned(),
                seeded,
            };
            device::run(options).await
        }
        words => rounds(words).await,
    }
}

async fn rounds(words: &[&str]) -> Result<()> {
    let mut plan = Plan {
        rounds: ROUNDS,
        seed: 1,
        only: Vec::new(),
        seeded: None,
        folder: PathBuf::new(),
    };
    let (mut keep, mut json) = (None, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().copied().context(USAGE);
        match *word {
            "--rounds" => plan.rounds = value()?.parse().context(USAGE)?,
            "--seed" => plan.seed = value()?.parse().context(USAGE)?,
            "--only" => plan.only.push(value()?.to_owned()),
            "--seeded" => plan.seeded = Some(value()?.to_owned()),
            "--keep" => keep = Some(PathBuf::from(value()?)),
            "--json" => json = true,
            _ => bail!("{USAGE}\nkinds: {}", fault::names().join(", ")),
        }
    }
    let temporary = tempfile::tempdir()?;
    plan.folder = match keep {
        Some(folder) => {
            std::fs::create_dir_all(&folder)?;
            folder
        }
        None => temporary.path().to_owned(),
    };
    let figures = play(&plan).await?;
    if json {
        println!("{}", serde_json::to_string(&figures)?);
    } else {
        print(&figures);
    }
    Ok(())
}

fn print(figures: &Figures) {
    println!("{:<14} {:>7} {:>9}", "fault", "rounds", "s each");
    for (name, (rounds, seconds)) in &figures.faults {
        println!("{name:<14} {rounds:>7} {:>9.1}", seconds / *rounds as f64);
    }
    println!(
        "{} rounds in {:.0} s: {} edits acknowledged, {} lost, {} doubled, {} made though said to have failed, {} kept apart; one commit for each of {} epochs",
        figures.rounds,
        figures.seconds,
        figures.acknowledged,
        figures.lost,
        figures.doubled,
        figures.made_though_failed,
        figures.kept,
        figures.epochs
    );
    for (code, times) in &figures.findings {
        println!("reported {times} times: {code}");
    }
}
