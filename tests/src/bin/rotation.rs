//! `rotation [--documents N] [--kill] [--keep FOLDER] [--json]`: removes a member from a group of many documents, with real processes, and says what that
//! takes. See [`conclave_tests::rotation`].

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use conclave_tests::rotation::device;
use conclave_tests::rotation::play::{Plan, play};
use conclave_tests::rounds::service;

const USAGE: &str = "usage: rotation [--documents N] [--kill] [--keep FOLDER] [--json]";

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
        ["device", name, store, url] => {
            device::run((*name).to_owned(), store.into(), (*url).to_owned()).await
        }
        words => removal(words).await,
    }
}

async fn removal(words: &[&str]) -> Result<()> {
    let mut plan = Plan {
        documents: 10_000,
        kill: false,
        folder: PathBuf::new(),
    };
    let (mut keep, mut json) = (None, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--documents" => {
                let value = words.next().context(USAGE)?;
                plan.documents = value.parse().context(USAGE)?;
            }
            "--kill" => plan.kill = true,
            "--keep" => keep = Some(PathBuf::from(words.next().context(USAGE)?)),
            "--json" => json = true,
            _ => bail!(USAGE),
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
    match json {
        true => println!("{}", serde_json::to_string(&figures)?),
        false => print!("{}", figures.told()),
    }
    Ok(())
}
