//! The copy that an editor is given is in the clear, and goes with the command, whatever ends that. What was typed into it does not go with it.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A home with a document in a group, without any service.
struct Home {
    folder: TempDir,
}

impl Home {
    fn new() -> Self {
        let home = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        home.done(&["init", "--name", "Ana"]);
        home.queued(&["group", "create", "Board"]);
        std::fs::write(home.folder.path().join("note"), "one\ntwo\n").unwrap();
        home.queued(&["doc", "import", "Board", "note"]);
        home
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conclave"));
        for name in [
            "CONCLAVE_HOME",
            "CONCLAVE_SERVER",
            "CONCLAVE_PASSPHRASE",
            "VISUAL",
        ] {
            command.env_remove(name);
        }
        command.args(["--home", "home", "--key-file", "key", "--offline"]);
        command.args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null());
        command
    }

    fn ended(&self, arguments: &[&str], code: i32) -> Output {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        output
    }

    fn done(&self, arguments: &[&str]) {
        self.ended(arguments, 0);
    }

    /// There is no service that could have it.
    fn queued(&self, arguments: &[&str]) {
        self.ended(arguments, 3);
    }

    fn text(&self) -> String {
        let output = self.ended(&["doc", "cat", "note", "--json"], 0);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        shown["text"].as_str().unwrap().to_owned()
    }

    fn rescues(&self) -> Vec<Value> {
        let output = self.ended(&["rescue", "list", "--json"], 0);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        shown["rescues"].as_array().unwrap().clone()
    }

    /// Files in the home that hold a word of the document or of what was typed.
    fn plain(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.folder.path().join("home")];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let bytes = std::fs::read(&path).unwrap_or_default();
                let has = |word: &[u8]| bytes.windows(word.len()).any(|at| at == word);
                if has(b"one\ntwo") || has(b"typed") {
                    found.push(path);
                }
            }
        }
        found
    }

    /// An editor that types, saves, says so, and then goes on until it is told to end. Gives the command and what holds the editor.
    fn edit(&self) -> (Child, File) {
        self.edit_typing("echo typed >>\"$0\"; ")
    }

    fn edit_typing(&self, types: &str) -> (Child, File) {
        let fifo = |name| {
            let path = self.folder.path().join(name);
            let _ = std::fs::remove_file(&path);
            assert!(
                Command::new("mkfifo")
                    .arg(&path)
                    .status()
                    .unwrap()
                    .success()
            );
            path
        };
        let (ready, hold) = (fifo("ready"), fifo("hold"));
        let script = format!("sh -c '{types}echo >ready; read x <hold'");
        let mut command = self.command(&["doc", "edit", "note"]);
        // Not a pipe: the editor has it too, and may outlive the command.
        let said = File::create(self.folder.path().join("said")).unwrap();
        command.env("EDITOR", script).stderr(said);
        let child = command.spawn().unwrap();
        let mut said = String::new();
        File::open(ready)
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(said, "\n");
        // Opens once the editor reads from it.
        (child, File::options().write(true).open(hold).unwrap())
    }
}

fn signal(name: &str, child: &Child) {
    let id = child.id().to_string();
    let done = Command::new("kill").args([name, &id]).status().unwrap();
    assert!(done.success());
}

/// What was typed is kept, and comes into the document when it is wanted.
fn take_back(home: &Home) {
    let rescues = home.rescues();
    assert_eq!(rescues.len(), 1, "{rescues:?}");
    assert_eq!(
        (&rescues[0]["cause"], &rescues[0]["title"]),
        (&"not_saved".into(), &"note".into())
    );
    let id = rescues[0]["id"].as_str().unwrap();
    let shown = home.ended(&["rescue", "show", id], 0);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("+ typed"), "{shown}");
    home.queued(&["rescue", "apply", id, "note"]);
    assert_eq!(home.text(), "one\ntwo\ntyped\n");
    assert!(home.rescues().is_empty());
}

#[test]
fn a_command_that_is_asked_to_end_takes_the_copy_with_it() {
    for name in ["-TERM", "-HUP"] {
        let home = Home::new();
        let (mut child, hold) = home.edit();
        assert!(!home.plain().is_empty(), "the editor has it");
        signal(name, &child);
        let status = child.wait().unwrap();
        let said = std::fs::read_to_string(home.folder.path().join("said")).unwrap();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("what you typed is kept, sealed"), "{said}");
        assert_eq!(home.plain(), Vec::<PathBuf>::new(), "{name}");
        drop(hold);
        assert_eq!(home.text(), "one\ntwo\n");
        take_back(&home);
    }
}

#[test]
fn interrupting_is_the_editors_and_a_killed_editor_leaves_nothing() {
    let home = Home::new();
    let (mut child, mut hold) = home.edit();
    signal("-INT", &child);
    hold.write_all(b"go on\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(home.text(), "one\ntwo\ntyped\n");
    assert_eq!(home.plain(), Vec::<PathBuf>::new());

    // It kills itself, having saved nothing; then having saved something.
    for (types, kept) in [("", 0), ("echo typed >>\"$0\"; ", 1)] {
        let mut command = home.command(&["doc", "edit", "note"]);
        command.env("EDITOR", format!("sh -c '{types}kill -9 $$'"));
        assert_eq!(command.output().unwrap().status.code(), Some(1));
        assert_eq!(home.plain(), Vec::<PathBuf>::new());
        assert_eq!(home.rescues().len(), kept);
    }
}

#[test]
fn what_a_killed_command_left_is_cleared_up_by_the_next_and_a_living_ones_copy_is_not() {
    let home = Home::new();
    let (mut killed, hold_killed) = home.edit();
    signal("-KILL", &killed);
    killed.wait().unwrap();
    drop(hold_killed);
    assert!(!home.plain().is_empty(), "nobody could clear up");
    // Any command does. It tells of what was typed, once.
    let output = home.ended(&["contacts"], 6);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("what was typed into a copy of “note” in “Board” was not saved"),
        "{said}"
    );
    assert_eq!(home.plain(), Vec::<PathBuf>::new());
    home.done(&["contacts"]);
    take_back(&home);

    // Another command, while this one lives, leaves its copy alone.
    let (mut living, mut hold) = home.edit();
    home.done(&["contacts"]);
    assert!(!home.plain().is_empty());
    hold.write_all(b"go on\n").unwrap();
    assert_eq!(living.wait().unwrap().code(), Some(3));
    assert_eq!(home.text(), "one\ntwo\ntyped\ntyped\n");
    assert_eq!(home.plain(), Vec::<PathBuf>::new());

    // Where nothing was typed nothing is told.
    let (mut killed, _hold) = home.edit_typing("");
    signal("-KILL", &killed);
    killed.wait().unwrap();
    assert!(!home.plain().is_empty());
    home.done(&["contacts"]);
    assert_eq!(home.plain(), Vec::<PathBuf>::new());
    assert!(home.rescues().is_empty());
}
