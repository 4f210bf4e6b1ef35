//! A child process that answers one line for one line: the service, or a device.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use super::wire::{Ask, Told};

/// A child that says nothing for so long hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// How to start a process, again and again.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Arguments of this program.
    pub arguments: Vec<OsString>,
    /// Where its standard error goes, appended.
    pub log: PathBuf,
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// First line that it printed.
    pub ready: String,
    log: PathBuf,
}

impl Recipe {
    /// Starts the process with a clock that is wrong by `clock`, as `faketime -f` takes it, if one is given; waits for its first line.
    ///
    /// # Errors
    /// When it does not come up. Names its log.
    pub async fn start(&self, clock: Option<&str>) -> Result<Process> {
        let program = std::env::current_exe().context("finding this program")?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        // A process whose files may grow no more is to see an error, not a signal.
        let mut command = Command::new("sh");
        command.args(["-c", r#"trap '' XFSZ; exec "$@""#, "sh"]);
        if let Some(clock) = clock {
            command.args(["faketime", "-f", clock]);
            // Time that passes is right; only the time of day is wrong.
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command
            .arg(program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().context("starting a process")?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut process = Process {
            child,
            stdin,
            lines: BufReader::new(stdout).lines(),
            ready: String::new(),
            log: self.log.clone(),
        };
        process.ready = process.line().await?;
        Ok(process)
    }
}

impl Process {
    async fn line(&mut self) -> Result<String> {
        let next = tokio::time::timeout(ANSWER_LIMIT, self.lines.next_line()).await;
        match next {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => bail!("a process ended; see {}", self.log.display()),
            Ok(Err(error)) => Err(error).context("reading from a process"),
            Err(_) => bail!("a process hangs; see {}", self.log.display()),
        }
    }

    /// Sends one line and waits for the one that answers it.
    ///
    /// # Errors
    /// When the process is gone or hangs, or what it says is something else.
    pub async fn exchange<T: DeserializeOwned>(&mut self, ask: &impl Serialize) -> Result<T> {
        let mut line = serde_json::to_vec(ask)?;
        line.push(b'\n');
        self.stdin.write_all(&line).await?;
        Ok(serde_json::from_str(&self.line().await?)?)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When the process is gone, hangs, or failed at what it was asked.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Told> {
        match self.exchange(ask).await? {
            Told::Failed { code, message } => bail!("{ask:?} failed: {code}: {message}"),
            told => Ok(told),
        }
    }

    /// Its number.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn id(&self) -> Result<u32> {
        self.child.id().context("the process is gone")
    }

    fn pid(&self) -> Result<Pid> {
        let id = self.child.id().context("the process is gone")?;
        Pid::from_raw(i32::try_from(id)?).context("no process id")
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// Lets no file of this process grow beyond so many bytes from now on; none lifts the bound.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(Some(self.pid()?), Resource::Fsize, limit)?;
        Ok(())
    }

    /// Kills with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When the system does not let it go.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Ends it by closing its standard input.
    ///
    /// # Errors
    /// When it fails or does not end.
    pub async fn end(self) -> Result<()> {
        let Self {
            mut child,
            stdin,
            lines,
            log,
            ..
        } = self;
        drop((stdin, lines));
        let status = tokio::time::timeout(ANSWER_LIMIT, child.wait())
            .await
            .with_context(|| format!("a process does not end; see {}", log.display()))??;
        ensure!(status.success(), "{status}; see {}", log.display());
        Ok(())
    }
}

/// Lines of this process's own standard input, until it ends.
#[must_use]
pub fn input_lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Bytes of the largest file in a folder.
///
/// # Errors
/// When it cannot be read.
pub fn largest_file(folder: &Path) -> Result<u64> {
    let mut largest = 0;
    for entry in std::fs::read_dir(folder)? {
        let data = entry?.metadata()?;
        if data.is_file() {
            largest = largest.max(data.len());
        }
    }
    Ok(largest)
}
