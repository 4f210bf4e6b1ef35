//! The README's tour, as written: a real `conclave-ds`, two homes, an offline edit while the service is stopped, restarts of everything.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use conclave_tests::PATIENCE;

const README: &str = include_str!("../../README.md");

/// The two commands: built with the workspace's tests, or now.
fn programs() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2).context("target folder")?;
    if !["conclave", "conclave-ds"]
        .iter()
        .all(|name| folder.join(name).exists())
    {
        let status = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "-p",
                "conclave-cli",
                "-p",
                "conclave-ds",
                "--bins",
            ])
            .status()?;
        ensure!(status.success(), "building the commands");
    }
    Ok(folder.to_owned())
}

/// A service process that ends with the test.
struct Ds(Child);

impl Drop for Ds {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Tour {
    programs: PathBuf,
    home: tempfile::TempDir,
    port: u16,
}

impl Tour {
    /// A line of the README in the shell of one of the two terminals.
    fn shell(&self, line: &str, terminal: &str, passphrase: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(line)
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .env("HOME", self.home.path())
            .env(
                "CONCLAVE_HOME",
                self.home.path().join("tour").join(terminal),
            )
            .env("CONCLAVE_PASSPHRASE", passphrase)
            .env_remove("VISUAL")
            .stdin(Stdio::null());
        shell
    }

    /// Runs a line that the README has; `texts` stand in for what a person copies. Gives exit code and output.
    fn run(&self, line: &str, who: (&str, &str), copied: Option<&str>) -> Result<(i32, String)> {
        ensure!(README.contains(line), "the README has no line {line:?}");
        let mut real = line.replace("127.0.0.1:7700", &format!("127.0.0.1:{}", self.port));
        if let Some(text) = copied {
            // A person compares the numbers and answers; a script says that it was done.
            real = real
                .replace("conclave:user:…", text)
                .replace("conclave verify", "conclave verify --compared");
        }
        let output = self.shell(&real, who.0, who.1).output()?;
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok((output.status.code().unwrap_or(-1), text))
    }

    fn ok(&self, line: &str, who: (&str, &str)) -> Result<String> {
        let (code, text) = self.run(line, who, None)?;
        ensure!(code == 0, "{line}: exit code {code}: {text}");
        Ok(text)
    }

    fn serve(&self) -> Result<Ds> {
        let line = "conclave-ds serve --data ~/tour/service";
        ensure!(
            README.contains(line),
            "the README starts the service otherwise"
        );
        let child = self
            .shell(
                &format!("exec {line} --listen 127.0.0.1:{}", self.port),
                "service",
                "",
            )
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let ds = Ds(child);
        let begun = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            ensure!(begun.elapsed() < PATIENCE, "the service does not answer");
            std::thread::yield_now();
        }
        Ok(ds)
    }

    fn contact(&self, who: (&str, &str)) -> Result<String> {
        let output = self
            .shell("conclave whoami --json --offline", who.0, who.1)
            .output()?;
        let json: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        find(&json, "contact").context("no contact text in whoami --json")
    }
}

fn find(json: &serde_json::Value, key: &str) -> Option<String> {
    match json {
        serde_json::Value::Object(map) => map
            .get(key)
            .and_then(|value| value.as_str().map(ToOwned::to_owned))
            .or_else(|| map.values().find_map(|value| find(value, key))),
        _ => None,
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}

#[test]
fn the_tour_works_as_written() -> Result<()> {
    let tour = Tour {
        programs: programs()?,
        home: tempfile::TempDir::new()?,
        port: free_port()?,
    };
    let ana = ("ana", "ana has a long one");
    let ben = ("ben", "ben has another one");
    let service = tour.serve()?;
    tour.ok("conclave init --name Ana --server ws://127.0.0.1:7700", ana)?;
    tour.ok("conclave init --name Ben --server ws://127.0.0.1:7700", ben)?;
    let (of_ana, of_ben) = (tour.contact(ana)?, tour.contact(ben)?);
    let verify = "conclave verify 'conclave:user:…'";
    let (code, text) = tour.run(verify, ben, Some(&of_ana))?;
    ensure!(code == 0, "verify: {text}");
    let (code, text) = tour.run(verify, ana, Some(&of_ben))?;
    ensure!(code == 0, "verify: {text}");

    tour.ok("conclave group create Board", ana)?;
    tour.ok("conclave doc create Board Minutes", ana)?;
    tour.ok(
        "EDITOR='echo \"1. Budget\" >>' conclave doc edit Minutes",
        ana,
    )?;
    tour.ok("conclave group invite Board Ben", ana)?;
    tour.ok("conclave group accept Ana", ben)?;
    ensure!(
        tour.ok("conclave doc cat Minutes", ben)?
            .contains("1. Budget")
    );
    tour.ok(
        "EDITOR='echo \"2. Holidays\" >>' conclave doc edit Minutes",
        ben,
    )?;
    let blame = tour.ok("conclave doc blame Minutes", ben)?;
    ensure!(blame.contains("Ana") && blame.contains("Ben"), "{blame}");
    let log = tour.ok("conclave doc log Minutes", ben)?;
    ensure!(log.contains("Ben") && log.contains("wrote"), "{log}");

    drop(service);
    let offline = "EDITOR='echo \"3. Written offline\" >>' conclave doc edit Minutes --offline";
    let (code, text) = tour.run(offline, ben, None)?;
    ensure!(
        code == 3,
        "an offline edit is queued (exit code {code}): {text}"
    );

    let _service = tour.serve()?;
    tour.ok("conclave doc cat Minutes", ben)?;
    let text = tour.ok("conclave doc cat Minutes", ana)?;
    for line in ["1. Budget", "2. Holidays", "3. Written offline"] {
        ensure!(text.contains(line), "{line:?} is missing in {text:?}");
    }

    tour.ok("conclave group remove Board Ben", ana)?;
    let text = tour.ok("conclave group list", ben)?;
    ensure!(!text.is_empty());
    Ok(())
}
