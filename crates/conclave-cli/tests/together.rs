//! Several commands at once on one home, as real processes: every one does what it says, and says what it did.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use conclave_ds::{Config, Service};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Every variable that the program looks at.
const ENVIRONMENT: [&str; 7] = [
    "CONCLAVE_HOME",
    "CONCLAVE_SERVER",
    "CONCLAVE_PASSPHRASE",
    "CONCLAVE_TOKEN",
    "CONCLAVE_LOG",
    "VISUAL",
    "EDITOR",
];

/// A home with a group, beside a real service.
struct Home {
    folder: TempDir,
    server: String,
    service: Option<Service>,
    runtime: Runtime,
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(service) = self.service.take() {
            self.runtime.block_on(service.shutdown());
        }
    }
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let config = Config::new(folder.path().join("service"), ([127, 0, 0, 1], 0).into());
        let service = runtime.block_on(Service::start(config)).unwrap();
        let home = Self {
            server: format!("ws://{}", service.local_addr()),
            service: Some(service),
            runtime,
            folder,
        };
        home.done(&["init", "--name", "Ana"]);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conclave"));
        for name in ENVIRONMENT {
            command.env_remove(name);
        }
        let path = |name| self.path(name).display().to_string();
        command
            .args(["--home", &path("home"), "--key-file", &path("key")])
            .args(["--server", &self.server, "--json"])
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed; gives what it says.
    fn done(&self, words: &[&str]) -> Value {
        read(words, &self.command(words).output().unwrap())
    }
}

fn read(words: &[&str], output: &Output) -> Value {
    assert!(
        output.status.success(),
        "{words:?}: {:?}\n{}\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// An editor that adds a line, named by what it is given, at the end of the file.
fn editor(folder: &Path, line: &str) -> String {
    let script = folder.join(format!("add-{line}.sh"));
    let text = format!("#!/bin/sh\necho {line} >> \"$1\"\n");
    std::fs::write(&script, text).unwrap();
    format!("sh {}", script.display())
}

#[test]
fn five_times_thirty_edits_at_once_are_all_made() {
    const WRITERS: usize = 5;
    const EDITS: usize = 30;
    let home = Home::new();
    home.done(&["group", "create", "Board"]);
    home.done(&["doc", "create", "Board", "notes"]);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let home = &home;
            scope.spawn(move || {
                for edit in 0..EDITS {
                    let editor = editor(home.folder.path(), &format!("w{writer}e{edit}x"));
                    let words = ["doc", "edit", "notes"];
                    let output = home.command(&words).env("EDITOR", editor).output();
                    let said = read(&words, &output.unwrap());
                    assert_eq!(said["changed"], true);
                    assert_eq!(said["queued"], false);
                }
            });
        }
    });
    let text = home.done(&["doc", "cat", "notes"]);
    let text = text["text"].as_str().unwrap();
    assert_eq!(text.lines().count(), WRITERS * EDITS, "{text}");
    for writer in 0..WRITERS {
        for edit in 0..EDITS {
            let line = format!("w{writer}e{edit}x");
            assert_eq!(text.matches(&line).count(), 1, "{line}: {text}");
        }
    }
}

#[test]
fn twelve_groups_created_at_once_exist_and_are_told() {
    let home = Home::new();
    let told: Vec<String> = std::thread::scope(|scope| {
        let home = &home;
        let create = |number: usize| {
            scope.spawn(move || {
                let name = format!("group {number}");
                let said = home.done(&["group", "create", &name]);
                said["group"].as_str().unwrap().to_owned()
            })
        };
        let all: Vec<_> = (0..12).map(create).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let listed = home.done(&["group", "list"]);
    let listed = listed["groups"].as_array().unwrap();
    assert_eq!(listed.len(), 12);
    for id in told {
        assert!(listed.iter().any(|group| group["group"] == id.as_str()));
    }
}

/// The process that has the store is killed while others work through it.
#[test]
fn an_owner_that_is_killed_takes_nothing_with_it() {
    let home = Home::new();
    home.done(&["group", "create", "Board"]);
    home.done(&["doc", "create", "Board", "notes"]);
    for round in 0..3 {
        let mut agent = home.command(&["agent"]);
        let mut agent = agent.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let stdout = agent.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        assert!(line.contains("serving"), "{line}");
        // The editor itself ends the agent: the edit was begun through it, and has to be saved without it.
        let name = format!("k{round}x");
        let add = editor(home.folder.path(), &name);
        let script = home.path("kill.sh");
        let text = format!("#!/bin/sh\nkill -9 {}\n{add} \"$1\"\n", agent.id());
        std::fs::write(&script, text).unwrap();
        let words = ["doc", "edit", "notes"];
        let editor = format!("sh {}", script.display());
        let output = home.command(&words).env("EDITOR", editor).output().unwrap();
        assert_eq!(read(&words, &output)["queued"], false);
        agent.wait().unwrap();
    }
    let text = home.done(&["doc", "cat", "notes"]);
    assert_eq!(text["text"], "k0x\nk1x\nk2x\n");
}
