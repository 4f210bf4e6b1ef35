//! `check [switch…]`: builds each breakage and demands that its test fails, and that no release build takes one. `table`: writes the table
//! into `docs/TESTING.md`.

use std::fs;
use std::io::Read as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::Metadata;
use conclave_breakages::{Refused, VARIABLE};
use conclave_tests::breakages::{
    Breakage, committed, packages, render, with_section, workspace_root,
};

/// A test that runs longer than this hangs.
const TEST_LIMIT: Duration = Duration::from_secs(300);
/// Lines of a failed build that are shown.
const SHOWN_LINES: usize = 40;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((verb, names)) if verb == "check" => check(names),
        Some((verb, [])) if verb == "table" => table(),
        _ => {
            eprintln!("usage: breakages check [switch…] | breakages table");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn table() -> Result<()> {
    let path = workspace_root()?.join("docs/TESTING.md");
    let written = with_section(&fs::read_to_string(&path)?, &render(&committed()?))?;
    Ok(fs::write(path, written)?)
}

fn check(names: &[String]) -> Result<()> {
    let mut rows = committed()?;
    let is_named = |row: &Breakage, name: &String| row.switch == *name || row.name() == *name;
    for name in names {
        ensure!(
            rows.iter().any(|row| is_named(row, name)),
            "{name} is not in the table"
        );
    }
    rows.retain(|row| names.is_empty() || names.iter().any(|name| is_named(row, name)));
    refused_in_release()?;
    let metadata = packages()?;
    let begun = Instant::now();
    let mut unnoticed = Vec::new();
    println!("{:>7} {:>7}  breakage", "build s", "test s");
    for row in &rows {
        let name = row.name();
        match noticed(row, &metadata) {
            Ok((build, test)) => {
                println!("{build:>7.1} {test:>7.1}  {name}: {} fails", row.test);
            }
            Err(error) => {
                println!("{:>7} {:>7}  {name}: {error:#}", "-", "-");
                unnoticed.push(name);
            }
        }
    }
    let seconds = begun.elapsed().as_secs();
    ensure!(
        unnoticed.is_empty(),
        "{} of {} breakages are not noticed as the table says: {}",
        unnoticed.len(),
        rows.len(),
        unnoticed.join(", ")
    );
    println!("{} breakages, each noticed; {seconds} s in all", rows.len());
    Ok(())
}

/// Builds a breakage and sees its test fail; gives how long both took, in seconds.
fn noticed(row: &Breakage, metadata: &Metadata) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let built = run(row, metadata, &["--no-run"], Duration::MAX)?;
    let build = begun.elapsed().as_secs_f64();
    if !built.success {
        let lines: Vec<&str> = built.text.lines().collect();
        let from = lines.len().saturating_sub(SHOWN_LINES);
        let shown = lines.get(from..).unwrap_or_default().join("\n");
        bail!("it does not build:\n{shown}");
    }
    let begun = Instant::now();
    let tested = run(row, metadata, &[&row.test, "--", "--exact"], TEST_LIMIT)?;
    judge(&tested)?;
    Ok((build, begun.elapsed().as_secs_f64()))
}

/// Exactly one test ran, and it failed.
fn judge(ran: &Ran) -> Result<()> {
    let count = |what: &str| {
        let lines = ran.text.lines();
        lines.filter(|line| line.trim() == what).count()
    };
    ensure!(count("running 1 test") == 1, "no such test was run");
    ensure!(!ran.success, "the test passes although the code is broken");
    ensure!(
        ran.text.contains("0 passed; 1 failed"),
        "the test did not fail but ended otherwise"
    );
    Ok(())
}

/// A release build fails where a switch is asked for.
fn refused_in_release() -> Result<()> {
    let asked = "conclave-proto/one-encoding";
    let built = cargo()?
        .args(["build", "--release", "--locked", "--quiet"])
        .args(["--package", "conclave-proto"])
        .env(VARIABLE, asked)
        .output()
        .context("cargo does not start")?;
    let text = String::from_utf8_lossy(&built.stderr);
    let refused = Refused::Release(asked.to_owned()).to_string();
    ensure!(
        !built.status.success() && text.contains(&refused),
        "a release build takes {asked}:\n{text}"
    );
    Ok(())
}

fn cargo() -> Result<Command> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo
        .current_dir(workspace_root()?)
        .env("CARGO_TERM_COLOR", "never");
    // What `cargo run` says of this program: build scripts that ask for it (ring's) would run again, and all that links them be built again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    Ok(cargo)
}

struct Ran {
    success: bool,
    text: String,
}

/// Runs `cargo test` in the ordinary target folder: all that the broken crate links is there already.
fn run(row: &Breakage, metadata: &Metadata, more: &[&str], limit: Duration) -> Result<Ran> {
    let mut child = cargo()?
        .args(["test", "--locked", "--quiet"])
        .args(row.cargo_arguments(&row.namesakes(metadata)))
        .args(more)
        // Each is built only once.
        .env("CARGO_INCREMENTAL", "0")
        .env(VARIABLE, row.name())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cargo does not start")?;
    let mut stdout = child.stdout.take().context("no output")?;
    let mut stderr = child.stderr.take().context("no output")?;
    let (done, finished) = mpsc::channel();
    let errors = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        text
    });
    thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stdout.read_to_end(&mut text);
        let _ = done.send(text);
    });
    let Ok(mut text) = finished.recv_timeout(limit.min(Duration::from_secs(3600))) else {
        child.kill()?;
        child.wait()?;
        bail!("it does not end within {} s", limit.as_secs());
    };
    let status = child.wait()?;
    text.extend(errors.join().unwrap_or_default());
    Ok(Ran {
        success: status.success(),
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}
