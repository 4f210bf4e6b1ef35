//! An editor whose line starts more than one process has the terminal while it runs, gives it back, and ends with the command.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::*;

/// How long is waited for what has to come. Nothing waits that long unless it fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// A place with a text document, called note.
fn with_note() -> Place {
    let place = Place::new();
    place.piped("ana", &["init", "--name", "Ana"]);
    place.piped("ana", &["group", "create", "Board"]);
    std::fs::write(place.folder.path().join("note"), "before\n").unwrap();
    place.piped("ana", &["doc", "import", "Board", "note"]);
    place
}

impl Place {
    /// A shell script, which is started from a line that does something after it.
    fn compound(&self, script: &str) -> &'static str {
        let file = self.folder.path().join("inner");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        r#"sh -c './inner "$1"; true' --"#
    }

    fn pipe(&self, name: &str) {
        let file = self.folder.path().join(name);
        assert!(Command::new("mkfifo").arg(file).status().unwrap().success());
    }

    /// Opens a pipe, which somebody else opens too, and tells: that it is open, then what came until nobody had it open.
    fn follow(&self, name: &str) -> Receiver<String> {
        let file = self.folder.path().join(name);
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let mut pipe = File::open(file).unwrap();
            let _ = tell.send(String::new());
            let mut all = String::new();
            pipe.read_to_string(&mut all).unwrap();
            let _ = tell.send(all);
        });
        told
    }

    /// Waits until the process whose number is in this file has been stopped.
    fn until_stopped(&self, name: &str) {
        let pid = std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        let state = format!("/proc/{}/stat", pid.trim());
        let until = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(&state).unwrap().contains(") T ") {
            assert!(Instant::now() < until, "it goes on");
            std::thread::yield_now();
        }
    }

    fn on_terminal(&self, line: &str, editor: &str) -> Typing {
        let mut command = self.script(line);
        command.env("EDITOR", editor).env_remove("VISUAL");
        command.env("PS1", "$ ").env_remove("ENV");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = command.spawn().unwrap();
        let keys = script.stdin.take().unwrap();
        let mut output = script.stdout.take().unwrap();
        let (tell, shown) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                if tell.send(text).is_err() {
                    return;
                }
            }
        });
        Typing {
            script,
            keys,
            shown,
            seen: String::new(),
        }
    }
}

/// Somebody at a terminal.
struct Typing {
    script: Child,
    keys: ChildStdin,
    shown: Receiver<String>,
    seen: String,
}

impl Typing {
    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    fn sees(&mut self, text: &str) {
        while !self.seen.contains(text) {
            match self.shown.recv_timeout(PATIENCE) {
                Ok(more) => self.seen.push_str(&more),
                Err(_) => panic!("no {text:?} in {:?}", self.seen),
            }
        }
    }

    /// Everything that was shown, and how it ended.
    fn ends(mut self) -> (String, bool) {
        while let Ok(more) = self.shown.recv_timeout(PATIENCE) {
            self.seen.push_str(&more);
        }
        drop(self.keys);
        let status = self.script.wait().unwrap();
        (self.seen, status.success())
    }
}

#[test]
fn what_a_compound_editor_has_started_ends_with_the_command() {
    let place = with_note();
    let folder = place.folder.path();
    place.pipe("never");
    let edit = place.line("ana", &["doc", "edit", "note"]);
    let line = format!("echo $$ >pid; exec {edit}");
    // One that goes when it is asked to, and one that has to be made to.
    for (round, (signal, deaf)) in [("TERM", "HUP"), ("HUP", "HUP"), ("TERM", "HUP TERM")]
        .into_iter()
        .enumerate()
    {
        let alive = format!("alive{round}");
        place.pipe(&alive);
        let script = format!("trap '' {deaf}\nexec 9>{alive}\nread line <>never");
        let editor = place.compound(&script);
        let runs = place.follow(&alive);
        let typing = place.on_terminal(&line, editor);
        runs.recv_timeout(PATIENCE).unwrap();
        let pid = std::fs::read_to_string(folder.join("pid")).unwrap();
        let kill = Command::new("kill")
            .args([&format!("-{signal}"), pid.trim()])
            .status();
        assert!(kill.unwrap().success());
        assert!(
            runs.recv_timeout(PATIENCE).is_ok(),
            "{signal}: it goes on without the command"
        );
        let (seen, is_success) = typing.ends();
        assert!(!is_success, "{seen}");
        assert!(seen.contains("ended while the editor ran"), "{seen}");
    }
    assert_eq!(place.piped("ana", &["doc", "cat", "note"]), "before\n");
}

#[test]
fn a_compound_editor_has_the_terminal_and_gives_it_back() {
    let place = with_note();
    let editor = place.compound(r#"read line </dev/tty; echo "$line" >>"$1""#);
    let edit = place.line("ana", &["doc", "edit", "note"]);
    let line = format!("{edit}; read after </dev/tty; echo \"after: $after\"");
    let mut typing = place.on_terminal(&line, editor);
    typing.types("typed\nlast\n");
    typing.sees("after: last");
    let (seen, is_success) = typing.ends();
    assert!(is_success, "{seen}");
    assert_eq!(
        place.piped("ana", &["doc", "cat", "note"]),
        "before\ntyped\n"
    );
}

#[test]
fn who_stops_a_compound_editor_is_back_at_the_shell_and_can_go_on() {
    let place = with_note();
    place.pipe("alive");
    let script = r#"echo $$ >editor; exec 9>alive; read line </dev/tty; echo "$line" >>"$1""#;
    let editor = place.compound(script);
    let edit = place.line("ana", &["doc", "edit", "note"]);
    let runs = place.follow("alive");
    let mut typing = place.on_terminal("sh -i", editor);
    typing.types(&format!("{edit}\n"));
    runs.recv_timeout(PATIENCE).unwrap();
    typing.types("\u{1a}");
    typing.sees("Stopped");
    // Until it has come to a stop it may take a character that was meant for the shell.
    place.until_stopped("editor");
    typing.types("echo at-the''-shell\n");
    typing.sees("at-the-shell");
    typing.types("fg\n");
    typing.types("typed\n");
    runs.recv_timeout(PATIENCE).unwrap();
    typing.types("echo o''ver\n");
    typing.sees("over");
    typing.types("exit\n");
    let (seen, is_success) = typing.ends();
    assert!(is_success, "{seen}");
    assert_eq!(
        place.piped("ana", &["doc", "cat", "note"]),
        "before\ntyped\n"
    );
}
