//! The command line as data: every file in `cases/` is a session of several devices with a real service.
//!
//! ```text
//! $ ana init --name Ana --json     a command of the device "ana", which has its own home and key file; expects exit code 0
//! $5 ben doc edit note             the same, expecting exit code 5
//! + EDITOR=sed -i s/a/b/           a variable for the next command
//! < contact ana_contact            field "contact" of the JSON on standard output is remembered as {ana_contact}
//! > text                           standard output contains this
//! ! text                           standard error contains this
//! -                                standard output is empty
//! @ name.txt text\n                a file for the devices, {files}/name.txt
//! service stop | start             the service is stopped, or comes back
//! agent ana | end ana              `conclave agent` runs for a device in the background, or ends (Ctrl-C) with exit code 0
//! ```
//! With `--json` standard output always has to be exactly one JSON object, and so has standard error where the command failed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use conclave_ds::{Config, Service};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Every variable that the program looks at.
const ENVIRONMENT: [&str; 7] =
    ["CONCLAVE_HOME", "CONCLAVE_SERVER", "CONCLAVE_PASSPHRASE", "CONCLAVE_TOKEN", "CONCLAVE_LOG", "VISUAL", "EDITOR"];

struct Play {
    case: PathBuf,
    line: usize,
    folder: TempDir,
    runtime: Runtime,
    service: Option<Service>,
    listen: std::net::SocketAddr,
    variables: HashMap<String, String>,
    environment: Vec<(String, String)>,
    agents: HashMap<String, Child>,
    last: Option<Output>,
}

impl Drop for Play {
    fn drop(&mut self) {
        for agent in self.agents.values_mut() {
            let _ = agent.kill();
            let _ = agent.wait();
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
            agents: HashMap::new(),
            last: None,
            folder,
        };
        play.start_service();
        let files = play.folder.path().join("files");
        play.variables.insert("files".into(), files.display().to_string());
        play.variables.insert("conclave".into(), env!("CARGO_BIN_EXE_conclave").into());
        play
    }

    /// The first start picks a port, later ones come back to it.
    fn start_service(&mut self) {
        let config = Config::new(self.folder.path().join("service"), self.listen);
        let service = self.runtime.block_on(Service::start(config)).unwrap();
        self.listen = service.local_addr();
        self.variables.insert("server".into(), format!("ws://{}", self.listen));
        self.service = Some(service);
    }

    fn stop_service(&mut self) {
        let service = self.service.take().unwrap();
        self.runtime.block_on(service.shutdown());
    }

    fn fail(&self, why: &str) -> ! {
        let shown = self.last.as_ref().map(|last| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            format!("\nexit {:?}\nstdout: {}\nstderr: {}", last.status.code(), text(&last.stdout), text(&last.stderr))
        });
        panic!("{}:{}: {why}{}", self.case.display(), self.line, shown.unwrap_or_default());
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
        command.envs(self.environment.iter().cloned()).current_dir(self.folder.path()).stdin(Stdio::null());
        // A device called "-" has no options of its own.
        if device != "-" {
            let server = self.variables.get("server").unwrap();
            command.args(["--home", device, "--key-file", &format!("{device}.key"), "--server", server]);
        }
        command.args(arguments);
        command
    }

    fn run(&mut self, expected: i32, rest: &str) {
        let mut words = words(&self.fill(rest));
        let device = words.remove(0);
        let output = self.command(&device, &words).output().unwrap();
        self.environment.clear();
        self.last = Some(output.clone());
        if output.status.code() != Some(expected) {
            self.fail(&format!("the exit code is not {expected}"));
        }
        if words.iter().any(|word| word == "--json") {
            let is_object = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).is_ok_and(|value| value.is_object());
            let failed = output.stdout.is_empty();
            if failed && !is_object(&output.stderr) || !failed && !is_object(&output.stdout) {
                self.fail("not exactly one JSON object");
            }
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

    fn start_agent(&mut self, device: &str) {
        let mut command = self.command(device, &["agent".to_owned(), "--json".to_owned()]);
        let mut agent = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(agent.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str::<Value>(&line).is_ok_and(|value| value.get("serving").is_some());
        self.agents.insert(device.to_owned(), agent);
        if !ready {
            self.fail("the agent is not ready");
        }
    }

    fn end_agent(&mut self, device: &str) {
        let mut agent = self.agents.remove(device).unwrap();
        let killed = Command::new("kill").args(["-INT", &agent.id().to_string()]).status().unwrap();
        assert!(killed.success());
        if !agent.wait().unwrap().success() {
            self.fail("the agent did not end in peace");
        }
    }

    fn step(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let text = self.fill(rest);
        match verb {
            "$" => self.run(0, rest),
            "+" => {
                let (name, value) = text.split_once('=').unwrap();
                self.environment.push((name.to_owned(), value.to_owned()));
            }
            "<" => self.remember(rest),
            ">" if !self.stdout().contains(&text) => self.fail(&format!("standard output does not contain: {text}")),
            "!" if !self.stderr().contains(&text) => self.fail(&format!("standard error does not contain: {text}")),
            "-" if !self.stdout().is_empty() => self.fail("standard output is not empty"),
            ">" | "!" | "-" => {}
            "@" => {
                let (name, content) = text.split_once(' ').unwrap();
                std::fs::write(self.folder.path().join("files").join(name), content.replace("\\n", "\n")).unwrap();
            }
            "service" if rest == "stop" => self.stop_service(),
            "service" if rest == "start" => self.start_service(),
            "agent" => self.start_agent(rest),
            "end" => self.end_agent(rest),
            _ => match verb.strip_prefix('$').map(str::parse) {
                Some(Ok(expected)) => self.run(expected, rest),
                _ => self.fail("not a line of a case"),
            },
        }
    }
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
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name);
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

cases!(agents, devices, documents, editing, errors, groups, identity, offline, passphrases);
