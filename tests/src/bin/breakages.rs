//! `check [switch…]`: builds the tests so that switches can be thrown, throws each and demands that its test fails, and that no release build
//! can be broken. `table`: writes the table into `docs/TESTING.md`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::Message;
use conclave_breakages::{BREAKABLE, Refused, VARIABLE};
use conclave_tests::breakages::{
    Breakage, build_arguments, committed, folders, packages, render, with_section, workspace_root,
};

/// A test that runs longer than this hangs.
const TEST_LIMIT: Duration = Duration::from_secs(300);

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
    let begun = Instant::now();
    let tests = build(&rows)?;
    println!("built in {} s", begun.elapsed().as_secs());
    let folders = folders(&packages()?);
    let mut unnoticed = Vec::new();
    println!("{:>7}  breakage", "test s");
    for row in &rows {
        let name = row.name();
        let begun = Instant::now();
        match noticed(row, &tests, &folders) {
            Ok(()) => {
                let seconds = begun.elapsed().as_secs_f64();
                println!("{seconds:>7.1}  {name}: {} fails", row.test);
            }
            Err(error) => {
                println!("{:>7}  {name}: {error:#}", "-");
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

/// Programs of tests, by package and target (`lib` for a library's own).
type Tests = BTreeMap<(String, String), PathBuf>;

/// Builds what runs the tests of these rows, with switches that can be thrown.
fn build(rows: &[Breakage]) -> Result<Tests> {
    let metadata = packages()?;
    let names: BTreeMap<_, _> = metadata
        .packages
        .iter()
        .map(|package| (&package.id, package.name.to_string()))
        .collect();
    let mut tests = Tests::new();
    for arguments in build_arguments(rows) {
        let built = cargo()?
            .args(["test", "--locked", "--quiet", "--no-run"])
            .args(["--message-format", "json-render-diagnostics"])
            .args(arguments)
            // Each is built only once.
            .env("CARGO_INCREMENTAL", "0")
            .env(BREAKABLE, "1")
            .stderr(Stdio::inherit())
            .output()
            .context("cargo does not start")?;
        ensure!(built.status.success(), "the tests do not build");
        for message in Message::parse_stream(built.stdout.as_slice()) {
            let Message::CompilerArtifact(made) = message? else {
                continue;
            };
            let Some((program, package)) = made.executable.zip(names.get(&made.package_id)) else {
                continue;
            };
            let target = match made.target.is_test() {
                true => made.target.name,
                false => "lib".to_owned(),
            };
            if made.profile.test {
                tests.insert((package.clone(), target), program.into_std_path_buf());
            }
        }
    }
    Ok(tests)
}

/// Throws the switch and sees its test fail.
fn noticed(row: &Breakage, tests: &Tests, folders: &BTreeMap<String, PathBuf>) -> Result<()> {
    let program = tests
        .get(&(row.package.clone(), row.target.clone()))
        .context("its test was not built")?;
    let folder = folders.get(&row.package).context("no such package")?;
    let mut command = Command::new(program);
    command
        .args([&row.test, "--exact"])
        .current_dir(folder)
        .env("CARGO_MANIFEST_DIR", folder);
    let passes = run(&mut command)?;
    ensure!(
        passes.success && passes.text.contains("1 passed; 0 failed"),
        "the test fails although no switch is thrown:\n{}",
        passes.text
    );
    judge(&run(command.env(VARIABLE, row.name()))?)
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

/// A release build fails where switches are asked for.
fn refused_in_release() -> Result<()> {
    let built = cargo()?
        .args(["build", "--release", "--locked", "--quiet"])
        .args(["--package", "conclave-proto"])
        .env(BREAKABLE, "1")
        .output()
        .context("cargo does not start")?;
    let text = String::from_utf8_lossy(&built.stderr);
    ensure!(
        !built.status.success() && text.contains(&Refused.to_string()),
        "a release build can be broken:\n{text}"
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

/// Runs a test to its end, and ends it where it hangs.
fn run(command: &mut Command) -> Result<Ran> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("the test does not start")?;
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
    let Ok(mut text) = finished.recv_timeout(TEST_LIMIT) else {
        child.kill()?;
        child.wait()?;
        bail!("it does not end within {} s", TEST_LIMIT.as_secs());
    };
    let status = child.wait()?;
    text.extend(errors.join().unwrap_or_default());
    Ok(Ran {
        success: status.success(),
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}
