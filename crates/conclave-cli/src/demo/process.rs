//! The demonstration's children: this same binary, once for the service and once for each device.
//!
//! A child dies with its parent in every case: its [`Child`] kills it when dropped, and it ends by itself when its standard input does, which
//! happens even when the parent is killed with SIGKILL. Children stand in process groups of their own, so that Ctrl-C reaches the parent only.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

/// Time that a child has to say that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time that a child has to be gone after it was told to end.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// What the children log: much, so that the search of their logs means something.
const LOG_FILTER: &str = "debug";

/// How to start a child, again and again.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// For people and for file names.
    pub name: String,
    /// Arguments after the program's name.
    pub arguments: Vec<OsString>,
    /// Folder for its logs.
    pub logs: PathBuf,
}

/// A running child.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: tokio::process::Child,
    // Kept open: the child ends when this closes.
    stdin: Option<ChildStdin>,
    /// First line that the child printed.
    pub ready: String,
}

impl Recipe {
    /// Starts the child and waits for its first line, which says that it is ready.
    ///
    /// # Errors
    /// When it cannot be started, ends, or says nothing in time. Names the log.
    pub async fn start(&self) -> Result<Child> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        self.start_program(&program).await
    }

    async fn start_program(&self, program: &Path) -> Result<Child> {
        let errors = self.log("stderr").await?.into_std().await;
        let mut command = Command::new(program);
        command
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors);
        for name in crate::args::ENVIRONMENT {
            command.env_remove(name);
        }
        command.env(crate::args::LOG, LOG_FILTER).kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let mut process = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let stdin = process.stdin.take();
        let stdout = process
            .stdout
            .take()
            .context("a child has no standard output")?;
        let (first, ready) = oneshot::channel();
        tokio::spawn(keep_output(stdout, self.log("stdout").await?, first));
        let ready = match tokio::time::timeout(READY_TIMEOUT, ready).await {
            Ok(Ok(line)) => line,
            Ok(Err(_)) => bail!(
                "{} ended before it was ready; see {}",
                self.name,
                self.log_path("stderr").display()
            ),
            Err(_) => bail!(
                "{} was not ready in time; see {}",
                self.name,
                self.log_path("stderr").display()
            ),
        };
        Ok(Child {
            name: self.name.clone(),
            process,
            stdin,
            ready,
        })
    }

    fn log_path(&self, stream: &str) -> PathBuf {
        self.logs.join(format!("{}.{stream}.txt", self.name))
    }

    async fn log(&self, stream: &str) -> Result<File> {
        let path = self.log_path(stream);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .await;
        file.with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Child {
    /// Kills the process with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When the system does not let it go.
    pub async fn kill(mut self) -> Result<()> {
        self.process
            .kill()
            .await
            .with_context(|| format!("cannot kill {}", self.name))
    }

    /// Tells the process to end by closing its standard input, and waits; after a while it is killed.
    ///
    /// # Errors
    /// When it ends with a failure.
    pub async fn end(mut self) -> Result<()> {
        drop(self.stdin.take());
        match tokio::time::timeout(END_TIMEOUT, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => bail!("{} ended with {status}", self.name),
            Ok(Err(error)) => Err(error).with_context(|| format!("lost sight of {}", self.name)),
            Err(_) => {
                let name = self.name.clone();
                self.kill().await?;
                bail!("{name} did not end when told to and was killed")
            }
        }
    }
}

/// Copies a child's output to its log, and tells its first line.
async fn keep_output(stdout: ChildStdout, mut log: File, first: oneshot::Sender<String>) {
    let mut first = Some(first);
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let kept = log.write_all(format!("{line}\n").as_bytes()).await;
        if kept.is_err() || log.flush().await.is_err() {
            return;
        }
        if let Some(first) = first.take() {
            let _ = first.send(line);
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(folder: &Path, script: &str) -> Recipe {
        let arguments = vec!["-c".into(), script.into()];
        Recipe {
            name: "child".into(),
            arguments,
            logs: folder.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_child_is_ready_at_its_first_line_and_ends_with_its_input() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = shell(
            folder.path(),
            "echo ready; echo trouble >&2; cat >/dev/null; echo over",
        );
        let child = recipe.start_program(Path::new("/bin/sh")).await.unwrap();
        assert_eq!(child.ready, "ready");
        child.end().await.unwrap();
        let log = std::fs::read_to_string(folder.path().join("child.stderr.txt")).unwrap();
        assert_eq!(log, "trouble\n");
    }

    #[tokio::test]
    async fn a_child_that_dies_early_is_reported_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let error = shell(folder.path(), "exit 3")
            .start_program(Path::new("/bin/sh"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("child.stderr.txt"), "{error}");
    }

    #[tokio::test]
    async fn a_dropped_child_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = shell(folder.path(), "echo $$; exec cat");
        let child = recipe.start_program(Path::new("/bin/sh")).await.unwrap();
        let id = child.ready.clone();
        child.kill().await.unwrap();
        let processes = Path::new("/proc");
        assert!(
            !processes.join("self").exists() || !processes.join(&id).exists(),
            "process {id} lives"
        );
    }
}
