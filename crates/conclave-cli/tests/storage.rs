//! The command where it cannot write: limits on file sizes, and a keyring that is really there.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use conclave_ds::{Config, Service};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CONCLAVE: &str = env!("CARGO_BIN_EXE_conclave");
/// What the system sends a process that writes beyond its limit, unless it is ignored.
const SIGXFSZ: i32 = 25;
/// Set where a keyring has to be there, so that nothing is left out unseen.
const WANT_KEYRING: &str = "CONCLAVE_TEST_KEYRING";

struct Place {
    folder: TempDir,
    server: String,
    _service: (Runtime, Service),
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let config = Config::new(folder.path().join("service"), ([127, 0, 0, 1], 0).into());
        let service = runtime.block_on(Service::start(config)).unwrap();
        Self {
            server: format!("ws://{}", service.local_addr()),
            _service: (runtime, service),
            folder,
        }
    }

    fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, "text\n".repeat(bytes / 5)).unwrap();
        path
    }

    /// `sh` with the command as `"$@"`.
    fn shell(&self, script: &str, arguments: &[&str]) -> Command {
        self.shell_of("ana", script, arguments)
    }

    fn shell_of(&self, device: &str, script: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        let key_file = format!("{device}.key");
        command.args(["-c", script, "sh", CONCLAVE, "--home", device]);
        command.args(["--key-file", &key_file, "--server", &self.server, "--json"]);
        command.args(arguments).current_dir(self.folder.path());
        for name in ["CONCLAVE_HOME", "CONCLAVE_SERVER", "CONCLAVE_PASSPHRASE"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.shell(r#"exec "$@""#, arguments).output().unwrap()
    }

    fn done(&self, arguments: &[&str]) -> Value {
        self.done_by("ana", arguments)
    }

    fn done_by(&self, device: &str, arguments: &[&str]) -> Value {
        let mut command = self.shell_of(device, r#"exec "$@""#, arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Another member, who sees what left Ana's device and nothing else.
    fn add_ben(&self) {
        let contact = |who: &Value| who["contact"].as_str().unwrap().to_owned();
        let ben = contact(&self.done_by("ben", &["init", "--name", "Ben"]));
        let ana = contact(&self.done(&["whoami"]));
        self.done(&["verify", &ben, "--compared"]);
        self.done_by("ben", &["verify", &ana, "--compared"]);
        self.done(&["group", "invite", "Board", "Ben"]);
        self.done_by("ben", &["group", "accept", "Ana"]);
        assert!(self.titles_of_ben().contains("first.txt"));
    }

    fn titles_of_ben(&self) -> String {
        self.done_by("ben", &["doc", "list"]).to_string()
    }

    fn titles(&self) -> String {
        self.done(&["doc", "list"]).to_string()
    }

    /// A device with a group and one acknowledged document.
    fn set_up(&self) {
        self.done(&["init", "--name", "Ana"]);
        self.done(&["group", "create", "Board"]);
        let first = self.file("first.txt", 1000);
        self.done(&["doc", "import", "Board", path(&first)]);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn refusal(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty());
    serde_json::from_slice(&output.stderr).unwrap()
}

#[test]
fn a_limit_on_file_sizes_refuses_and_loses_nothing() {
    let place = Place::new();
    place.set_up();
    let big = place.file("big.txt", 1_000_000);
    let import = ["doc", "import", "Board", path(&big)];
    // In blocks of 512 bytes.
    let limited = r#"trap '' XFSZ; ulimit -f 400; exec "$@""#;
    let output = place.shell(limited, &import).output().unwrap();
    let refused = refusal(&output).to_string();
    assert!(
        refused.contains("store.refused") && refused.contains("make room"),
        "{refused}"
    );
    assert!(!place.titles().contains("big.txt"));
    // Nobody ignores the signal: the process dies in the middle.
    let output = place
        .shell(r#"ulimit -f 400; exec "$@""#, &import)
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(SIGXFSZ), "{output:?}");
    assert!(place.titles().contains("first.txt"));
    assert!(!place.titles().contains("big.txt"));
    // What was acknowledged can be read under the limit too.
    let output = place
        .shell(limited, &["doc", "cat", "first.txt"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    // There is room again.
    place.done(&import);
    let shown = place.done(&["doc", "cat", "big.txt"]).to_string();
    assert!(shown.len() > 1_000_000);
}

struct Agent(Child);

impl Agent {
    fn start(place: &Place) -> Self {
        let mut command = place.shell(r#"trap '' XFSZ; exec "$@""#, &["agent"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert!(line.contains("serving"), "{line}");
        Self(child)
    }

    fn limit(&self, limit: &str) {
        let pid = self.0.id().to_string();
        let status = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--fsize={limit}:unlimited")])
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An export that finds no room leaves what stood there whole, and nothing half beside it.
#[test]
fn an_export_without_room_leaves_the_old_file_whole() {
    let place = Place::new();
    place.set_up();
    let big = place.file("big.txt", 1_000_000);
    // Another process has the store: only the export is limited.
    let _agent = Agent::start(&place);
    place.done(&["doc", "import", "Board", path(&big)]);
    let folder = place.folder.path().join("out");
    std::fs::create_dir(&folder).unwrap();
    let out = folder.join("out.txt");
    std::fs::write(&out, "old").unwrap();
    let export = ["doc", "export", "big.txt", path(&out), "--force"];
    let limited = r#"trap '' XFSZ; ulimit -f 400; exec "$@""#;
    let output = place.shell(limited, &export).output().unwrap();
    let refused = refusal(&output).to_string();
    assert!(
        refused.contains("cli.file") && refused.contains("make room"),
        "{refused}"
    );
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "old");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    // Nobody ignores the signal: the process dies in the middle, and the old file is there all the same.
    let output = place
        .shell(r#"ulimit -f 400; exec "$@""#, &export)
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(SIGXFSZ), "{output:?}");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "old");
    place.done(&export);
    assert_eq!(std::fs::metadata(&out).unwrap().len(), 1_000_000);

    // Standard output is a file like any other.
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$@" > /dev/full"#, "sh", CONCLAVE]);
    command.args(["--home", "ana", "--key-file", "ana.key"]);
    command.args(["doc", "export", "big.txt", "-"]);
    command.current_dir(place.folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(said.contains("standard output"), "{said}");
}

/// The same process, before, during and after.
#[test]
fn an_agent_without_room_goes_on_when_there_is_room_again() {
    let place = Place::new();
    place.set_up();
    let big = place.file("big.txt", 1_000_000);
    let import = ["doc", "import", "Board", path(&big)];
    place.add_ben();
    let mut agent = Agent::start(&place);
    agent.limit("200000");
    for _ in 0..2 {
        let refused = refusal(&place.run(&import)).to_string();
        assert!(refused.contains("store.refused"), "{refused}");
        assert!(place.titles().contains("first.txt"));
        assert!(!place.titles().contains("big.txt"));
        assert!(!place.titles_of_ben().contains("big.txt"));
    }
    agent.limit("unlimited");
    place.done(&import);
    let small = place.file("last.txt", 100);
    place.done(&["doc", "import", "Board", path(&small)]);
    assert!(agent.0.try_wait().unwrap().is_none(), "the agent is gone");
    drop(agent);
    // Killed at once, and all of it is there and came across.
    for title in ["first.txt", "big.txt", "last.txt"] {
        assert!(place.titles().contains(title), "{title}");
        assert!(place.titles_of_ben().contains(title), "{title}");
    }
}

/// With the Secret Service of GNOME on a message bus of its own, where both are installed.
#[test]
fn a_real_keyring_opens_the_store() {
    let installed = |name: &str| {
        let found = Command::new("which").arg(name).output();
        found.is_ok_and(|output| output.status.success())
    };
    if !installed("dbus-run-session") || !installed("gnome-keyring-daemon") {
        assert!(
            std::env::var_os(WANT_KEYRING).is_none(),
            "gnome-keyring and dbus have to be installed"
        );
        eprintln!("left out: gnome-keyring or dbus is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        set -eu
        printf secret | gnome-keyring-daemon --unlock --components=secrets >/dev/null
        printf 'correct horse battery\n' >words
        conclave() { "$CONCLAVE" --home ana --json "$@"; }
        conclave init --keyring --name Ana
        # Later commands see what opens it.
        conclave group create --offline Board || test $? = 3
        conclave whoami
        if conclave --passphrase-file words whoami 2>refused; then exit 10; fi
        grep -q store.secret_kind refused
        conclave device passphrase --new-passphrase-file words
        if conclave --keyring whoami 2>refused; then exit 11; fi
        grep -q store.secret_kind refused
        conclave --passphrase-file words device passphrase --new-keyring
        conclave group list
        # Another login of another person, as far as the store can see.
        if DBUS_SESSION_BUS_ADDRESS=unix:path=/nowhere conclave whoami 2>refused; then exit 12; fi
        grep -q '"store.keyring"' refused
    "#;
    let output = Command::new("dbus-run-session")
        .args(["--", "sh", "-c", script])
        .env("CONCLAVE", CONCLAVE)
        .env("HOME", folder.path())
        .env("XDG_RUNTIME_DIR", folder.path())
        .env("XDG_DATA_HOME", folder.path().join("data"))
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .env_remove("CONCLAVE_PASSPHRASE")
        .env_remove("CONCLAVE_SERVER")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("Ana") && shown.contains("Board"), "{shown}");
}
