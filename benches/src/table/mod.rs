//! The table of all subjects: runs the programs, reads what they measured, writes it down.

mod machine;
mod results;
mod write;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

pub use machine::Machine;
pub use results::{Measured, read};
pub use write::page;

use crate::measure::{FORM, Form, ROUNDS};

/// One table: what it is about, and in what its figures are.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// As the programs name it.
    pub name: &'static str,
    /// Heading.
    pub title: &'static str,
    /// What is measured.
    pub about: &'static str,
    /// What one figure is for.
    pub per: &'static str,
}

/// The programs.
const PROGRAMS: [&str; 8] = [
    "load",
    "cold",
    "blame",
    "edit",
    "seal",
    "append",
    "documents",
    "commit",
];

/// All tables, in order.
pub const SUBJECTS: [Subject; 9] = [
    Subject {
        name: "load",
        title: "Cold load of a document",
        about: "A member opens a sealed log that one author typed, character by character, and applies all of it: checks of place and author, \
                one signature for the whole run, opening, applying. Baseline: the CRDT engine applies the same updates, unsealed, \
                each in a transaction of its own.",
        per: "record",
    },
    Subject {
        name: "cold",
        title: "Cold load through client and service",
        about: "A member accepts an invitation and waits until the text of the group's document is here: join, log from the service, store. All processor time of \
                the service and of both members' clients. One author typed the text, each character a record. Baseline: the CRDT engine applies such updates, \
                unsealed, each in a transaction of its own.",
        per: "record",
    },
    Subject {
        name: "blame",
        title: "Who wrote a text",
        about: "Every character has its writer and record looked up, where each came with a record of its own. Baseline: the CRDT engine gives the text.",
        per: "character",
    },
    Subject {
        name: "edit",
        title: "One edit",
        about: "From the command to the service's acknowledgement, counting only time inside the engine. Baseline: the CRDT engine makes the \
                same edit; then the engine itself, with no other document.",
        per: "edit",
    },
    Subject {
        name: "create",
        title: "Making documents",
        about: "Documents made one after the other, counting only time inside the engine. Baseline: the first ones of a new device. Where the \
                cost of a document does not depend on how many there are, the ratio is 1.",
        per: "document",
    },
    Subject {
        name: "seal",
        title: "Sealing and opening one record",
        about: "Encoding, encryption, commitment and signature, and back. Baseline: XChaCha20-Poly1305, SHA-256 and Ed25519 once each on the \
                same bytes.",
        per: "record",
    },
    Subject {
        name: "append",
        title: "Appending at the service",
        about: "20 devices write to a document each, over WebSockets on loopback, one record in a frame and 16 frames on their way; every one \
                is acknowledged when it is durable (`synchronous=FULL`). Processor time is the service's alone; time by the clock has the writers \
                on the same processors. Baseline: the rows of these records into bare SQLite, handed in the same way, with the same group commit.",
        per: "update",
    },
    Subject {
        name: "list",
        title: "Making documents at the service",
        about: "Documents made one after the other in one group, each judged and ordered in a transaction of its own, on SQLite \
                (`synchronous=NORMAL`); processor time, without what their author does. Baseline: the first ones of the same group. Where the \
                cost of a document does not depend on how many there are, the ratio is 1.",
        per: "document",
    },
    Subject {
        name: "commit",
        title: "A commit",
        about: "The commit renews its author's leaf in a group whose members came in with one commit. Make: until it can be sent. Follow: a \
                member enters the epoch. Judge: the service judges, applies and encodes what it stores. Baseline: OpenMLS doing the same over the \
                same store, without our rules, roster, root wrap and log.",
        per: "commit",
    },
];

/// How the table is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How large the runs are.
    pub form: Form,
    /// How often baseline and subject take turns.
    pub rounds: usize,
}

impl Options {
    /// The command that makes such a table.
    #[must_use]
    pub fn command(&self) -> String {
        let form = match self.form {
            Form::Usual => String::new(),
            form => format!(" --{}", form.name()),
        };
        format!(
            "cargo run --release -p conclave-bench -- table{form} --rounds {}",
            self.rounds
        )
    }
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Runs all programs and makes the page.
///
/// # Errors
/// When a program fails or its results cannot be read.
pub fn make(options: Options) -> Result<String> {
    let results = tempfile::tempdir()?;
    for program in PROGRAMS {
        run(program, options, results.path())?;
    }
    let measured = read(results.path())?;
    Ok(page(&Machine::read()?, &measured, &options.command()))
}

fn run(program: &str, options: Options, results: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(workspace())
        .args([
            "bench",
            "--locked",
            "-p",
            "conclave-bench",
            "--bench",
            program,
        ])
        .env("CRITERION_HOME", results)
        .env(FORM, options.form.name())
        .env(ROUNDS, options.rounds.to_string())
        .status()
        .context("cargo does not start")?;
    ensure!(status.success(), "the program {program} failed");
    Ok(())
}

/// Where the page is kept.
#[must_use]
pub fn file() -> PathBuf {
    workspace().join("docs").join("BENCHMARKS.md")
}

/// Writes the page where it is kept.
///
/// # Errors
/// When it cannot be written.
pub fn keep(page: &str) -> Result<()> {
    let file = file();
    fs::write(&file, page).with_context(|| file.display().to_string())
}
