//! `hostile`: writes content that would keep an engine busy for minutes, as a member whose program does not look at what it costs, and prints what that
//! takes of three other members, each a process of its own: processor time, memory, and the time that edits of another document wait. Ends with 1
//! where a bound does not hold. See [`conclave_tests::hostile`].

use std::process::ExitCode;

use anyhow::{Result, bail};
use conclave_tests::hostile::{Play, member};
use conclave_tests::rounds::service;

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
        ["service", folder] => service::run((*folder).into(), Vec::new()).await,
        ["member", name, store, url] => member(name, store, url).await,
        [] => {
            let folder = tempfile::tempdir()?;
            Play::begin(folder.path()).await?.all().await
        }
        _ => bail!("usage: hostile"),
    }
}
