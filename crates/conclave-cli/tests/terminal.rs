//! What a terminal is shown of text that others wrote, and who has it, on real pseudo-terminals (those of `script`, which every Linux has).

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use conclave_client::proto::{DocumentId, GroupId};
use conclave_client::{Config as Device, Operation, Outcome, Session, View};
use conclave_ds::{Config, Service};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

#[path = "terminal/editor.rs"]
mod editor;

/// Renames the window, clears the screen, writes over the line in another's name, reverses what follows, rings.
const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31mmine\rBen (device 00000000): 1 change\u{202e}txt\u{8}\u{85}";
/// A word of it that only reads.
const HARMLESS: &str = "(device 00000000)";

/// The streams of a command that are a terminal.
#[derive(Clone, Copy, Debug)]
enum Terminal {
    Output,
    Error,
}

struct Place {
    folder: TempDir,
    server: String,
    _service: Service,
    runtime: Runtime,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let config = Config::new(folder.path().join("service"), ([127, 0, 0, 1], 0).into());
        let service = runtime.block_on(Service::start(config)).unwrap();
        Self {
            server: format!("ws://{}", service.local_addr()),
            _service: service,
            runtime,
            folder,
        }
    }

    /// A command line for a shell.
    fn line(&self, device: &str, arguments: &[&str]) -> String {
        let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
        let key = format!("{device}.key");
        let words = [
            env!("CARGO_BIN_EXE_conclave"),
            "--home",
            device,
            "--key-file",
        ];
        let words = words.into_iter().chain([&*key, "--server", &*self.server]);
        let words: Vec<String> = words.chain(arguments.iter().copied()).map(quoted).collect();
        words.join(" ")
    }

    fn prepared(&self, mut command: Command) -> Command {
        for name in [
            "CONCLAVE_HOME",
            "CONCLAVE_SERVER",
            "CONCLAVE_PASSPHRASE",
            "CONCLAVE_LOG",
        ] {
            command.env_remove(name);
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn piped(&self, device: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", &self.line(device, arguments)]);
        let output = self.prepared(command).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, device: &str, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.piped(device, &arguments)).unwrap()
    }

    fn script(&self, line: &str) -> Command {
        let mut command = Command::new("script");
        command.args(["-q", "-f", "-e", "-c", line, "/dev/null"]);
        self.prepared(command)
    }

    /// What a terminal is given, with the exit code.
    fn shown(&self, device: &str, arguments: &[&str], terminal: Terminal) -> (String, i32) {
        let other = match terminal {
            Terminal::Output => "2>/dev/null",
            Terminal::Error => ">/dev/null",
        };
        let line = format!("{} {other}", self.line(device, arguments));
        let output = self.script(&line).output().unwrap();
        let text = String::from_utf8(output.stdout)
            .unwrap()
            .replace("\r\n", "\n");
        (text, output.status.code().unwrap())
    }

    /// What Ana's device does to a group's directory with another program than this one.
    fn titled_by_another_program(&self, group: GroupId, document: &str) {
        let home = self.folder.path().join("ana");
        let key = self.folder.path().join("ana.key");
        let device = Device::offline(home.join("store")).key_file(key, false);
        self.runtime.block_on(async {
            let session = Session::open(device).await.unwrap();
            let directory = DocumentId::directory(&group);
            let show = Operation::Show {
                group,
                document: directory,
                view: View::Json,
            };
            let Outcome::Json(mut value) = session.run(show).await.unwrap() else {
                panic!("no titles")
            };
            value[document] = HOSTILE.into();
            value["name"] = format!("Board{HOSTILE}").into();
            let edit = Operation::EditJson {
                group,
                document: directory,
                base: None,
                value,
            };
            session.run(edit).await.unwrap();
            session.close().await.unwrap();
        });
    }
}

/// Nothing but what reads, on lines of its own.
fn check_tame(text: &str, what: &dyn std::fmt::Debug) {
    let acts = |c: char| {
        let hidden = ['\u{202e}', '\u{2028}', '\u{200f}'];
        c.is_control() && !matches!(c, '\n' | '\t') || hidden.contains(&c)
    };
    let found: String = text.chars().filter(|c| acts(*c)).collect();
    assert!(
        found.is_empty(),
        "{what:?} gives a terminal {found:?} in {text:?}"
    );
}

/// As [`check_tame`], where this program draws its own spinner.
fn check_tame_beside_spinner(text: &str, what: &dyn std::fmt::Debug) {
    for part in [
        "\u{1b}]",
        "\u{7}",
        "\u{1b}[2J",
        "\u{9b}",
        "\u{202e}",
        "\u{8}",
        "\u{85}",
        "mine\r",
    ] {
        assert!(
            !text.contains(part),
            "{what:?} gives a terminal {part:?} in {text:?}"
        );
    }
}

#[test]
fn shown_text_does_nothing_to_a_terminal_and_forges_no_author() {
    let place = Place::new();
    let files = place.folder.path();
    let contact = |device, name| {
        let who = place.json(device, &["init", "--name", name]);
        who["contact"].as_str().unwrap().to_owned()
    };
    let (ana, ben) = (contact("ana", "Ana"), contact("ben", "Ben"));
    place.piped("ana", &["verify", &ben, "--compared"]);
    place.piped("ben", &["verify", &ana, "--compared"]);
    let group = place.json("ana", &["group", "create", "Board"]);
    let group: GroupId = group["group"].as_str().unwrap().parse().unwrap();
    place.piped("ana", &["group", "invite", "Board", "Ben"]);
    place.piped("ben", &["group", "accept", "Ana"]);

    std::fs::write(files.join("text"), format!("{HOSTILE}\nlast\n")).unwrap();
    let object = serde_json::json!({ "a": HOSTILE, HOSTILE: [HOSTILE] });
    std::fs::write(files.join("object.json"), object.to_string()).unwrap();
    std::fs::write(files.join("none"), "").unwrap();
    let document = place.json(
        "ana",
        &["doc", "import", "Board", "text", "--title", "text"],
    );
    let document = document["document"].as_str().unwrap().to_owned();
    place.piped(
        "ana",
        &["doc", "import", "Board", "object.json", "--title", "object"],
    );
    place.piped(
        "ana",
        &["doc", "import", "Board", "none", "--title", "watched"],
    );
    place.piped("ben", &["doc", "cat", "watched"]);

    // Changes as they come.
    let said = files.join("said");
    let made = Command::new("mkfifo").arg(&said).status().unwrap();
    assert!(made.success());
    let line = format!("{} 2>said", place.line("ben", &["doc", "watch", "watched"]));
    let mut watch = place.script(&line).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(std::fs::File::open(said).unwrap()).lines();
    assert!(said.next().unwrap().unwrap().starts_with("watching"));
    place.piped("ana", &["doc", "edit", "watched", "--from", "text"]);
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut seen = String::new();
    for line in lines.map(Result::unwrap) {
        seen.push_str(&line);
        seen.push('\n');
        if line.contains("last") {
            break;
        }
    }
    place.piped("ana", &["doc", "archive", "watched"]);
    assert!(watch.wait().unwrap().success());
    check_tame(&seen.replace("\r\n", "\n"), &"doc watch");
    assert!(seen.contains(HARMLESS));
    let forged = seen.lines().any(|line| line.starts_with("Ben ("));
    assert!(!forged, "{seen}");

    // Own words that lost their place hold the same.
    place.piped("ben", &["doc", "cat", &document]);
    let aside: [&[&str]; 2] = [
        &["doc", "append", &document, "text", "--offline"],
        &["doc", "append", "object", "text", "--offline"],
    ];
    place.shown("ben", aside[0], Terminal::Output);
    place.shown("ben", aside[1], Terminal::Output);
    place.titled_by_another_program(group, &document);
    place.piped("ana", &["doc", "list"]);
    // The group is not called Board any more.
    let board = group.to_string();
    let second = place.json(
        "ana",
        &["doc", "import", &board, "text", "--title", "second"],
    );
    let second = second["document"].as_str().unwrap().to_owned();
    place.piped("ana", &["doc", "archive", &document, "--delete", "--yes"]);
    place.shown("ben", &["doc", "list"], Terminal::Output);
    let rescue = place.json("ben", &["rescue", "list"]);
    let rescue = rescue["rescues"][0]["id"].as_str().unwrap().to_owned();

    let shown: [&[&str]; 22] = [
        &["doc", "cat", &second],
        &["doc", "cat", &second, "--json"],
        &["doc", "cat", "object"],
        &["doc", "cat", "object", "--json"],
        &["doc", "export", &second, "-"],
        &["doc", "list"],
        &["doc", "list", "--json"],
        &["group", "list"],
        &["group", "list", "--json"],
        &["group", "members", &board],
        &["group", "policy", "show", &board],
        &["group", "invitations"],
        &["rescue", "list"],
        &["rescue", "show", &rescue],
        &["rescue", "show", &rescue, "--json"],
        &["findings", "list"],
        &["findings", "list", "--all", "--json"],
        &["status"],
        &["status", "--json"],
        &["contacts"],
        &["device", "list"],
        &["whoami"],
    ];
    for arguments in shown {
        let (text, _) = place.shown("ben", arguments, Terminal::Output);
        assert!(!text.is_empty(), "{arguments:?}");
        check_tame(&text, &arguments);
        let (text, _) = place.shown("ben", arguments, Terminal::Error);
        check_tame_beside_spinner(&text, &arguments);
    }
    // What was typed or pasted, and what a name of a file or of an address holds, is told in errors.
    let wrong: [&[&str]; 8] = [
        &["doc", "cat", HOSTILE],
        &["doc", "import", "Board", HOSTILE],
        &["doc", "export", &second, HOSTILE],
        &["doc", HOSTILE],
        &["verify", HOSTILE],
        &["device", "approve", HOSTILE],
        &["group", "create", HOSTILE],
        &["status", "--server", HOSTILE],
    ];
    for arguments in wrong {
        for json in [&[][..], &["--json"]] {
            let arguments = [arguments, json].concat();
            let (text, _) = place.shown("ben", &arguments, Terminal::Error);
            check_tame_beside_spinner(&text, &arguments);
        }
    }

    // The same words are there, and whoever wants them as they are gets them.
    let (text, _) = place.shown("ben", &["doc", "cat", &second], Terminal::Output);
    assert!(
        text.contains("\\u{1b}]0;owned\\u{7}") && text.contains(HARMLESS),
        "{text}"
    );
    let whole = format!("{HOSTILE}\nlast\n");
    assert_eq!(place.piped("ben", &["doc", "cat", &second]), whole);
    let (text, _) = place.shown("ben", &["doc", "cat", &second, "--raw"], Terminal::Output);
    assert_eq!(text, whole);
    let json = place.json("ben", &["doc", "cat", &second]);
    assert_eq!(json["text"], whole);
    // What is no text at all does not go to a terminal unasked.
    let export = ["doc", "export", &second, "-", "--format", "yjs"];
    let (text, code) = place.shown("ben", &export, Terminal::Output);
    assert_eq!((text.as_str(), code), ("", 2));
}
