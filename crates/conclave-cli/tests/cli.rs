//! The command line as data: every file in `cases/` is a session of several devices with a real service.
//!
//! ```text
//! $ ana init --name Ana --json     a command of the device "ana", which has its own home and key file; expects exit code 0
//! $5 ben doc edit note             the same, expecting exit code 5
//! ~ ana group list                 the same as $, again and again until that and the next line hold (for what devices do by themselves)
//! + EDITOR=sed -i s/a/b/           a variable for the next command
//! < contact ana_contact            field "contact" of the JSON on standard output is remembered as {ana_contact}
//! > text                           standard output contains this
//! ! text                           standard error contains this
//! -                                standard output is empty
//! @ name.txt text\n                a file for the devices, {files}/name.txt
//! = name.txt path                 that file holds the same bytes as another
//! service stop | start             the service is stopped, or comes back
//! service save | restore NAME      its data folder is copied, or put back from that copy; it runs again afterwards
//! service start SETTING            the same as another operator's: "invitation", "origin URL", "clock DAYS" (ahead),
//!                                  "paces" (one change of each kind, and the next ten minutes later)
//! service move                     it runs at another address from here on
//! service wipe                     its data folder is gone: another service is set up there
//! service recover                  its operator says that it was put back, and holds nothing
//! service hold | accept            the same, and it takes nothing new for an hour; the operator waits for nothing any more
//! copy ana laptop                  the home of the device "ana" is copied: "laptop" is the same device
//! peer KIND                        something listens that is no service: {peer} is where, {root} who signed its certificate; see below
//! full ana doc cat note            the same as $1, with standard output on a full disk
//! gone ana doc cat note            the same as $, with a standard output that nobody reads
//! & watcher ben doc watch note     the command runs in the background; the session goes on when it has said something on standard error
//! &> watcher text                  a line of its standard output comes that contains this
//! &! watcher text                  the same for its standard error
//! & watcher                        it is asked to end (Ctrl-C), and does with exit code 0
//! &5 watcher text                  it ends by itself with exit code 5, and says this on standard error before
//! ```
//! Kinds of peers are "nobody", "noise", "http STATUS [WHERE]" and "tls good | expired | not-yet-valid | wrong-name".
//! What a command prints for people must not use a word of the protocol.
//! Files that are the same for all lie in {fixtures}, and documents of other programs in {foreign}.
//! With `--json` standard output always has to be exactly one JSON object, and so has standard error where the command failed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use conclave_client::plain::protocol_word;
use conclave_client::proto::UnixMs;
use conclave_ds::{Admission, Bucket, Clock, Config, RateLimits, Recovery, Service};
use conclave_testkit::peers::{self, Certificate, Peer};
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

/// A command that goes on.
struct Background {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

/// The lines of a stream, read by a thread of its own so that waiting for one can be bounded.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

struct Play {
    case: PathBuf,
    line: usize,
    folder: TempDir,
    runtime: Runtime,
    service: Option<Service>,
    listen: std::net::SocketAddr,
    variables: HashMap<String, String>,
    environment: Vec<(String, String)>,
    background: HashMap<String, Background>,
    peer: Option<Peer>,
    last: Option<Output>,
    /// The command to run again while what follows does not hold, and until when.
    repeat: Option<(String, Instant)>,
}

/// How long devices may take for what they do by themselves.
const PATIENCE: Duration = Duration::from_secs(60);

impl Drop for Play {
    fn drop(&mut self) {
        for background in self.background.values_mut() {
            let _ = background.child.kill();
            let _ = background.child.wait();
        }
    }
}

impl Play {
    fn new(case: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        let mut play = Self {
            case: case.to_owned(),
            line: 0,
            runtime: Runtime::new().unwrap(),
            service: None,
            listen: ([127, 0, 0, 1], 0).into(),
            variables: HashMap::new(),
            environment: Vec::new(),
            background: HashMap::new(),
            peer: None,
            last: None,
            repeat: None,
            folder,
        };
        play.start_service("");
        let files = play.folder.path().join("files");
        play.variables
            .insert("files".into(), files.display().to_string());
        play.variables
            .insert("conclave".into(), env!("CARGO_BIN_EXE_conclave").into());
        // Copied, so that messages name short paths.
        for (name, folder) in [
            ("fixtures", "tests/fixtures"),
            ("foreign", "../conclave-crdt/tests/fixtures"),
        ] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            let to = play.folder.path().join(name);
            std::fs::create_dir(&to).unwrap();
            for entry in std::fs::read_dir(from).unwrap() {
                let entry = entry.unwrap();
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
            play.variables.insert(name.into(), to.display().to_string());
        }
        play
    }

    /// The first start picks a port, later ones come back to it.
    fn start_service(&mut self, setting: &str) {
        let mut config = Config::new(self.folder.path().join("service"), self.listen);
        // All have shown what they have by then.
        config.limits.found_hold_ms = 1000;
        match setting.split_once(' ').unwrap_or((setting, "")) {
            ("", _) => {}
            ("invitation", _) => config.admission = Admission::Invitation,
            ("origin", url) => config.origins = vec![url.to_owned()],
            ("clock", days) => {
                let ahead_ms = days.parse::<u64>().unwrap() * 24 * 3600 * 1000;
                let right = Clock::default();
                config.clock = Clock::new(move || UnixMs(right.now().0.saturating_add(ahead_ms)));
            }
            ("paces", _) => {
                let once = Bucket::per_hour(1, 6);
                config.rate_limits = Some(RateLimits {
                    policies: once,
                    own_adds: once,
                    other_adds: once,
                    voids: once,
                    returns: once,
                    ..RateLimits::default()
                });
            }
            _ => self.fail("no such setting"),
        }
        let service = self.runtime.block_on(Service::start(config)).unwrap();
        self.listen = service.local_addr();
        self.variables
            .insert("server".into(), format!("ws://{}", self.listen));
        self.service = Some(service);
    }

    fn start_peer(&mut self, kind: &str) {
        let words: Vec<&str> = kind.split_whitespace().collect();
        let (peer, scheme) = match words.as_slice() {
            ["nobody"] => {
                let url = format!("ws://{}", peers::nobody());
                self.variables.insert("peer".into(), url);
                return;
            }
            ["noise"] => (Peer::noise(), "ws"),
            ["http", status, more @ ..] => {
                let status = status.parse().unwrap();
                (Peer::http(status, more.first().copied()), "ws")
            }
            ["tls", certificate] => {
                let certificate = match *certificate {
                    "expired" => Certificate::Expired,
                    "not-yet-valid" => Certificate::NotYetValid,
                    "wrong-name" => Certificate::WrongName,
                    _ => Certificate::Good,
                };
                (Peer::tls(certificate), "wss")
            }
            _ => self.fail("no such peer"),
        };
        let root = self.folder.path().join("root.pem");
        std::fs::write(&root, peer.root.as_deref().unwrap_or_default()).unwrap();
        self.variables.insert("peer".into(), peer.url(scheme));
        self.variables
            .insert("root".into(), root.display().to_string());
        self.peer = Some(peer);
    }

    fn stop_service(&mut self) {
        let service = self.service.take().unwrap();
        self.runtime.block_on(service.shutdown());
    }

    /// The service stands still while its folder is copied to or from `name`.
    fn copy_service(&mut self, name: &str, back: bool) {
        if self.service.is_some() {
            self.stop_service();
        }
        let (data, copy) = (
            self.folder.path().join("service"),
            self.folder.path().join(name),
        );
        let (from, to) = if back { (copy, data) } else { (data, copy) };
        let _ = std::fs::remove_dir_all(&to);
        std::fs::create_dir(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
        self.start_service("");
    }

    /// A home with its key, at a second place.
    fn copy_home(&self, from: &str, to: &str) {
        let place = |name: &str| self.folder.path().join(name);
        std::fs::copy(place(&format!("{from}.key")), place(&format!("{to}.key"))).unwrap();
        copy_folder(&place(from), &place(to));
    }

    fn fail(&self, why: &str) -> ! {
        let shown = self.last.as_ref().map(|last| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            format!(
                "\nexit {:?}\nstdout: {}\nstderr: {}",
                last.status.code(),
                text(&last.stdout),
                text(&last.stderr)
            )
        });
        panic!(
            "{}:{}: {why}{}",
            self.case.display(),
            self.line,
            shown.unwrap_or_default()
        );
    }

    fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.variables {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    }

    fn command(&self, device: &str, arguments: &[String]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conclave"));
        for name in ENVIRONMENT {
            command.env_remove(name);
        }
        command
            .envs(self.environment.iter().cloned())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        // A device called "-" has no options of its own.
        if device != "-" {
            let server = self.variables.get("server").unwrap();
            command.args([
                "--home",
                device,
                "--key-file",
                &format!("{device}.key"),
                "--server",
                server,
            ]);
        }
        command.args(arguments);
        command
    }

    /// Runs a command again until it ends with 0.
    fn run_until_done(&mut self, rest: &str, until: Instant) {
        let environment = self.environment.clone();
        loop {
            self.environment.clone_from(&environment);
            let code = self.run_to_any_end(rest);
            if code == Some(0) {
                return;
            }
            if Instant::now() > until {
                self.fail("waited in vain for it to end with 0");
            }
        }
    }

    fn run(&mut self, expected: i32, rest: &str) {
        if self.run_to_any_end(rest) != Some(expected) {
            self.fail(&format!("the exit code is not {expected}"));
        }
    }

    fn run_to_any_end(&mut self, rest: &str) -> Option<i32> {
        let mut words = words(&self.fill(rest));
        let device = words.remove(0);
        let output = self.command(&device, &words).output().unwrap();
        self.environment.clear();
        self.last = Some(output.clone());
        self.check_words(&words, &output);
        if words.iter().any(|word| word == "--json") {
            let is_object = |bytes: &[u8]| {
                serde_json::from_slice::<Value>(bytes).is_ok_and(|value| value.is_object())
            };
            let failed = output.stdout.is_empty();
            if failed && !is_object(&output.stderr) || !failed && !is_object(&output.stdout) {
                self.fail("not exactly one JSON object");
            }
        }
        output.status.code()
    }

    /// People are not told words of the protocol, unless they asked for them.
    fn check_words(&self, arguments: &[String], output: &Output) {
        let asked = ["--json", "--verbose", "-v", "completions"];
        if arguments.iter().any(|word| asked.contains(&word.as_str())) {
            return;
        }
        for stream in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(stream);
            if let Some(line) = text.lines().find(|line| protocol_word(line).is_some()) {
                self.fail(&format!("a word of the protocol: {line}"));
            }
        }
    }

    /// Standard output takes nothing: that is a failure, and told.
    fn run_on_full_disk(&mut self, rest: &str) {
        let mut words = words(&self.fill(rest));
        let device = words.remove(0);
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut command = self.command(&device, &words);
        let child = command.stdout(full).stderr(Stdio::piped()).spawn();
        let output = child.unwrap().wait_with_output().unwrap();
        self.environment.clear();
        self.last = Some(output.clone());
        if output.status.code() != Some(1) || output.stderr.is_empty() {
            self.fail("a full disk is not told");
        }
    }

    /// Whoever read standard output has gone away, as `head` does: no failure.
    fn run_unread(&mut self, rest: &str) {
        let mut words = words(&self.fill(rest));
        let device = words.remove(0);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = self.command(&device, &words);
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn();
        let output = child.unwrap().wait_with_output().unwrap();
        self.last = Some(output.clone());
        if !output.status.success() || !output.stderr.is_empty() {
            self.fail("a reader that has gone away is no failure");
        }
    }

    fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.last.as_ref().unwrap().stdout).into_owned()
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.last.as_ref().unwrap().stderr).into_owned()
    }

    fn remember(&mut self, rest: &str) {
        let (field, name) = rest.split_once(' ').unwrap();
        let object: Value = serde_json::from_str(&self.stdout()).unwrap();
        match object.pointer(&format!("/{field}")) {
            Some(Value::String(value)) => {
                self.variables.insert(name.to_owned(), value.clone());
            }
            _ => self.fail("no such field"),
        }
    }

    fn start_in_background(&mut self, name: &str, rest: &str) {
        let mut words = words(&self.fill(rest));
        let device = words.remove(0);
        let mut command = self.command(&device, &words);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = lines(child.stderr.take().unwrap());
        let stdout = lines(child.stdout.take().unwrap());
        let ready = said.recv_timeout(PATIENCE);
        self.background.insert(
            name.to_owned(),
            Background {
                child,
                stdout,
                stderr: said,
            },
        );
        if !ready.is_ok_and(|line| !line.starts_with("error")) {
            self.fail("it is not ready");
        }
    }

    fn wait_for_line(&self, name: &str, lines: &Receiver<String>, text: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return,
                Ok(_) => {}
                Err(_) => self.fail(&format!("no such line comes of {name}: {text}")),
            }
        }
    }

    fn ends_by_itself(&mut self, name: &str, code: i32, text: &str) {
        let mut background = self.background.remove(name).unwrap();
        self.wait_for_line(name, &background.stderr, text);
        if background.child.wait().unwrap().code() != Some(code) {
            self.fail(&format!("{name} does not end with {code}"));
        }
    }

    fn end_in_background(&mut self, name: &str) {
        let mut background = self.background.remove(name).unwrap();
        let killed = Command::new("kill")
            .args(["-INT", &background.child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        if !background.child.wait().unwrap().success() {
            self.fail("it did not end in peace");
        }
    }

    fn step(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let text = self.fill(rest);
        match verb {
            "$" => self.run(0, rest),
            "~" => {
                let until = Instant::now() + PATIENCE;
                self.run_until_done(rest, until);
                self.repeat = Some((rest.to_owned(), until));
                return;
            }
            "+" => {
                let (name, value) = text.split_once('=').unwrap();
                self.environment.push((name.to_owned(), value.to_owned()));
            }
            "<" => self.remember(rest),
            ">" if !self.stdout().contains(&text) && self.repeat.is_some() => {
                let (again, until) = self.repeat.clone().unwrap();
                while !self.stdout().contains(&text) {
                    if Instant::now() > until {
                        self.fail(&format!("waited in vain for: {text}"));
                    }
                    self.run_until_done(&again, until);
                }
                return;
            }
            ">" if !self.stdout().contains(&text) => {
                self.fail(&format!("standard output does not contain: {text}"))
            }
            "!" if !self.stderr().contains(&text) => {
                self.fail(&format!("standard error does not contain: {text}"))
            }
            "-" if !self.stdout().is_empty() => self.fail("standard output is not empty"),
            ">" | "!" | "-" => {}
            "@" => {
                let (name, content) = text.split_once(' ').unwrap();
                std::fs::write(
                    self.folder.path().join("files").join(name),
                    content.replace("\\n", "\n"),
                )
                .unwrap();
            }
            "=" => {
                let (name, other) = text.split_once(' ').unwrap();
                let written = std::fs::read(self.folder.path().join("files").join(name)).unwrap();
                if written != std::fs::read(other).unwrap() {
                    self.fail(&format!("{name} holds something else"));
                }
            }
            "service" if rest == "stop" => self.stop_service(),
            "service" if rest == "move" => {
                self.stop_service();
                self.listen = ([127, 0, 0, 1], 0).into();
                self.start_service("");
            }
            "service" if rest == "wipe" => {
                self.stop_service();
                std::fs::remove_dir_all(self.folder.path().join("service")).unwrap();
                self.start_service("");
            }
            "service" if rest == "recover" => {
                let recovery = Recovery::of(self.folder.path().join("service"));
                self.runtime.block_on(recovery.declare(0)).unwrap();
            }
            "service" if rest == "hold" => {
                let recovery = Recovery::of(self.folder.path().join("service"));
                self.runtime.block_on(recovery.declare(3_600_000)).unwrap();
            }
            "service" if rest == "accept" => {
                let recovery = Recovery::of(self.folder.path().join("service"));
                self.runtime.block_on(recovery.accept_loss(None)).unwrap();
            }
            "service" if verb_of(rest) == "start" => {
                self.start_service(text.strip_prefix("start").unwrap_or_default().trim());
            }
            "service" => match rest.split_once(' ') {
                Some(("save", name)) => self.copy_service(name, false),
                Some(("restore", name)) => self.copy_service(name, true),
                _ => self.fail("not a line of a case"),
            },
            "copy" => {
                let (from, to) = text.split_once(' ').unwrap();
                self.copy_home(from, to);
            }
            "peer" => self.start_peer(&text),
            "gone" => self.run_unread(rest),
            "full" => self.run_on_full_disk(rest),
            "&" => match text.split_once(' ') {
                Some((name, command)) => self.start_in_background(name, command),
                None => self.end_in_background(&text),
            },
            "&>" | "&!" => {
                let (name, expected) = text.split_once(' ').unwrap();
                let background = self.background.get(name).unwrap();
                let stream = match verb {
                    "&>" => &background.stdout,
                    _ => &background.stderr,
                };
                self.wait_for_line(name, stream, expected);
            }
            _ => match (verb.get(..1), verb.get(1..).map(str::parse)) {
                (Some("$"), Some(Ok(expected))) => self.run(expected, rest),
                (Some("&"), Some(Ok(expected))) => {
                    let (name, said) = text.split_once(' ').unwrap();
                    self.ends_by_itself(name, expected, said);
                }
                _ => self.fail("not a line of a case"),
            },
        }
        self.repeat = None;
    }
}

/// Copies the files of a folder.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (kind, to) = {
            let entry = entry.as_ref().unwrap();
            (entry.file_type().unwrap(), to.join(entry.file_name()))
        };
        let from = entry.unwrap().path();
        if kind.is_dir() {
            copy_folder(&from, &to);
        } else if kind.is_file() {
            std::fs::copy(from, to).unwrap();
        }
    }
}

fn verb_of(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// Words, with double quotes around those that have blanks.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in text.split('"').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

fn play(name: &str) {
    let case = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cases")
        .join(name);
    let mut play = Play::new(&case);
    for (at, line) in std::fs::read_to_string(&case).unwrap().lines().enumerate() {
        play.line = at + 1;
        if !line.trim().is_empty() && !line.starts_with('#') {
            play.step(line);
        }
    }
}

/// One test for each file, and none forgotten.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            play(concat!(stringify!($name), ".txt"));
        })*

        #[test]
        fn every_case_is_played() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
            let mut found: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            found.sort();
            let mut played = vec![$(stringify!($name)),*];
            played.sort_unstable();
            assert_eq!(found, played);
        }
    };
}

cases!(
    agents,
    blame,
    clocks,
    collecting,
    connection,
    copies,
    devices,
    documents,
    editing,
    errors,
    evidence,
    groups,
    identity,
    importing,
    merging,
    offline,
    output,
    paces,
    passphrases,
    pausing,
    names,
    put_back,
    put_back_four,
    put_back_removal,
    wiped_four,
    repair,
    rescue,
    revoking,
    serving,
    short,
    targets,
    watching
);

/// Two copies of one home, each used for a while and then the other, with and without agents: the first goes on as if it were alone, the other is
/// told each time, and nothing of either is lost.
#[test]
fn copies_in_turn() {
    const ROUNDS: usize = 20;
    for agents in [false, true] {
        let mut play = Play::new(Path::new("copies_in_turn"));
        let begun = "\
            @ note.txt shared\\n
            $ ana init --name Ana --json
            $ ana group create Board
            $ ana doc import Board {files}/note.txt
            copy ana copy";
        begun.lines().for_each(|line| play.step(line.trim()));
        for round in 1..=ROUNDS {
            play.line = round;
            let (device, code) = match round % 2 {
                1 => ("ana", 0),
                _ => ("copy", 7),
            };
            if agents {
                play.step(&format!("& agent {device} agent"));
            }
            play.step(&format!("+ EDITOR=sed -i 1i{device}{round}"));
            play.step(&format!("${code} {device} --timeout 60 doc edit note.txt"));
            if code == 7 {
                play.step("! this home is an older copy of “Ana”, used elsewhere since");
                play.step(&format!("${code} {device} --timeout 60 status"));
                play.step(&format!("> {} edit", round / 2));
            }
            if agents {
                play.step("& agent");
            }
        }
        for (device, code) in [("ana", 0), ("copy", 7)] {
            play.step(&format!("${code} {device} doc cat note.txt"));
            let text = play.stdout();
            for round in 1..=ROUNDS {
                let is_own = (round % 2 == 1) == (device == "ana");
                let count = text
                    .lines()
                    .filter(|line| *line == format!("{device}{round}"))
                    .count();
                assert_eq!(count, usize::from(is_own), "{round} of {device}: {text}");
            }
        }
        // Nobody had to come back into the group: it is in the epoch in which it began.
        play.step("$ ana group list --json");
        play.step("> \"epoch\":0");
        play.step("$ ana findings list");
        play.step("> nothing was found wrong");
    }
}
