//! The service's own program as a child.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use conclave_mls::KeyStore;
use tempfile::TempDir;

use crate::harness::{Member, Person, Wire};

/// The binary on a directory.
pub struct Process {
    pub child: Child,
    pub url: String,
}

impl Process {
    pub fn start(dir: &TempDir) -> Self {
        Self::run(dir.path(), None, &[]).unwrap()
    }

    /// Under a limit on the size of files, in bytes.
    pub fn limited(dir: &TempDir, file_bytes: u64) -> Self {
        Self::run(dir.path(), Some(file_bytes), &[]).unwrap()
    }

    /// With further arguments; what it said where it does not start.
    pub fn run(dir: &Path, file_bytes: Option<u64>, args: &[&str]) -> Result<Self, String> {
        Self::run_logging(dir, file_bytes, args, "error")
    }

    /// With a log of that level, which [`Self::said`] gives.
    pub fn logging(dir: &Path, level: &str, args: &[&str]) -> Result<Self, String> {
        Self::run_logging(dir, None, args, level)
    }

    fn run_logging(
        dir: &Path,
        file_bytes: Option<u64>,
        args: &[&str],
        level: &str,
    ) -> Result<Self, String> {
        let binary = env!("CARGO_BIN_EXE_conclave-ds");
        let mut command = match file_bytes {
            None => Command::new(binary),
            Some(bytes) => {
                // A POSIX shell counts in blocks of 512 bytes.
                let script = format!("ulimit -f {}; exec \"$0\" \"$@\"", bytes / 512);
                let mut command = Command::new("sh");
                command.args(["-c", &script, binary]);
                command
            }
        };
        let mut child = command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--no-rate-limits",
                "--data",
            ])
            .arg(dir)
            .args(args)
            .env("CONCLAVE_DS_LOG", level)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        let url = url.trim().to_owned();
        let process = Self { child, url };
        if process.url.is_empty() {
            Err(process.said())
        } else {
            Ok(process)
        }
    }

    pub async fn login(&self, person: &Person) -> Wire {
        let mut wire = Wire::connect(&self.url).await;
        let origin = self.url.trim_end_matches("/v1").to_owned();
        wire.login(&person.devices[0], &origin, None).await.unwrap();
        wire
    }

    /// The person's first device, logged in.
    pub async fn member(&self, person: &Person) -> Member {
        Member {
            device: person.devices[0].clone(),
            keys: KeyStore::load(Vec::new()).unwrap(),
            wire: self.login(person).await,
            group: None,
        }
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(name)
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(sent.success());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it and gives what it said on its standard error.
    pub fn said(mut self) -> String {
        let _ = self.child.kill();
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        let _ = stderr.read_to_string(&mut said);
        let _ = self.child.wait();
        said
    }

    /// Status of `GET path`.
    pub async fn http_status(&self, path: &str) -> u16 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let address = self
            .url
            .trim_start_matches("ws://")
            .trim_end_matches("/v1")
            .to_owned();
        let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
