//! `conclave demo`: a whole session on this machine, with real processes, and every claim checked at the end.
//!
//! | file | what |
//! |---|---|
//! | `prologue`, `acts`, `typing` | the story |
//! | `stage`, `cast`, `process`, `child` | its processes |
//! | `proxy`, `websocket` | recording what they say to each other |
//! | `canary`, `overhead`, `evidence`, `proof` | what is measured |
//! | `narrate`, `report` | what is told |

mod acts;
mod canary;
mod cast;
pub mod child;
mod evidence;
mod narrate;
mod overhead;
mod process;
mod prologue;
mod proof;
mod proxy;
mod report;
mod stage;
mod typing;
mod websocket;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use conclave_client::proto::GroupId;

use crate::args::Global;
use crate::failure::{Exit, Failure, Result};
use crate::output::Shown;
use narrate::Narrator;
use report::Report;
use stage::Stage;

/// Longest that the story may take.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// What is imported when no file is named.
const WELCOME: &str = include_str!("welcome.md");
/// Largest text that is imported, in bytes: everybody types into it.
const TEXT_MAX_BYTES: usize = 1024 * 1024;

/// Options of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Text to import [default: one that comes with the program]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Leave the service running at the end, and say how to join it from another terminal
    #[arg(long)]
    keep: bool,
    /// Chooses the planted words
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Empty folder for everything; kept afterwards [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Plays the story.
///
/// # Errors
/// When it cannot be played to its end, or a claim fails.
pub async fn run(global: &Global, args: Demo) -> Result<Shown> {
    let text = read_text(args.file.as_deref())?;
    // Heard before there is anything that must not be left behind.
    let mut stopped = std::pin::pin!(stopped());
    let folder = Folder::make(args.dir.as_deref())?;
    let narrator = Narrator::new(global.json, acts::STEPS);
    narrator.print(
        "Conclave: people edit documents together; the service that carries them cannot read them.",
    );
    let mut stage = match Stage::build(&folder.path, args.seed, &narrator).await {
        Ok(stage) => stage,
        Err(error) => return Err(folder.broken(&error)),
    };
    let played = tokio::select! {
        played = play(&mut stage, &text) => Some(played),
        () = tokio::time::sleep(LONGEST) => Some(Err(anyhow::anyhow!("it took longer than {} minutes", LONGEST.as_secs() / 60))),
        () = &mut stopped => None,
    };
    let Some(played) = played else {
        narrator.finish();
        // Its processes write into the folder.
        drop(stage);
        return Err(folder.interrupted());
    };
    let (steps, seconds) = narrator.finish();
    let group = match played {
        Ok(group) => group,
        Err(error) => return Err(folder.broken(&error)),
    };
    let report = Report::new(&stage.measured, steps, seconds);
    narrator.print(&format!("\n{}", report.table()));
    if !report.ok {
        let failed: Vec<&str> = report
            .claims
            .iter()
            .filter(|claim| !claim.holds)
            .map(|claim| claim.claim)
            .collect();
        let path = folder.keep();
        let hint = format!("logs and all files are in {}", path.display());
        if global.json {
            crate::output::print_json(&report)?;
        }
        return Err(Failure::new(
            "demo.claim_failed",
            Exit::Failed,
            failed.join("; "),
            hint,
        ));
    }
    narrator.print("Every claim holds.");
    narrator.heard()?;
    let shown = Shown::report(&report);
    if !args.keep {
        return Ok(shown);
    }
    shown.print(global.json)?;
    match keep(&mut stage, &narrator, group, stopped).await {
        Ok(()) => Ok(Shown::nothing()),
        Err(error) => Err(folder.broken(&error)),
    }
}

async fn play(stage: &mut Stage<'_>, text: &str) -> anyhow::Result<GroupId> {
    stage.open().await?;
    stage.enrol().await?;
    stage.verify().await?;
    let group = stage.found().await?;
    let desk = stage.write_documents(group, text).await?;
    stage.type_together(&desk).await?;
    stage.kill_in_mid_edit(&desk).await?;
    stage.join_later(&desk).await?;
    let removal = stage.remove(&desk).await?;
    stage.compare(&desk).await?;
    stage.close().await?;
    stage.prove_removal(&desk, &removal).await?;
    stage.prove_secrecy()?;
    Ok(group)
}

/// Leaves the service up until somebody ends it. The devices' stores are there for commands; their processes have ended.
async fn keep(
    stage: &mut Stage<'_>,
    narrator: &Narrator,
    group: GroupId,
    stopped: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    stage.service.start().await?;
    let you = stage.folder.join("you");
    let you = format!(
        "--home {} --key-file {}",
        you.display(),
        you.join("key").display()
    );
    let (ana, url, group) = (stage.laptop.options(), stage.guest.url(), group.short());
    narrator.print(&format!(
        "\nThe service is up, and stays up until Ctrl-C. Join from another terminal:\n\
         \n# you, and your contact text\
         \nconclave {you} init --name You --server {url}\
         \n# Ana takes your text as verified, shows hers, and invites you\
         \nconclave {ana} verify YOUR-CONTACT-TEXT --compared\
         \nconclave {ana} whoami\
         \nconclave {ana} group invite {group} You\
         \n# you take hers, join and read\
         \nconclave {you} verify ANAS-CONTACT-TEXT --compared\
         \nconclave {you} group accept {group}\
         \nconclave {you} doc list\n"
    ));
    stopped.await;
    stage.service.kill().await
}

/// Resolves when somebody wants it to end: by Ctrl-C, by a signal, by closing the terminal.
fn stopped() -> impl Future<Output = ()> {
    let (interrupted, ended) = (crate::signals::interrupted(), crate::signals::ended());
    async {
        tokio::select! {
            () = interrupted => {}
            () = ended => {}
        }
    }
}

fn read_text(file: Option<&Path>) -> Result<String> {
    let Some(path) = file else {
        return Ok(WELCOME.to_owned());
    };
    let text =
        std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
    if text.len() > TEXT_MAX_BYTES {
        let message = format!("{} has more than {TEXT_MAX_BYTES} bytes", path.display());
        return Err(Failure::usage(message, "name a shorter text"));
    }
    Ok(text)
}

/// How temporary folders begin.
const PREFIX: &str = "conclave-demo-";
/// File in such a folder that is locked while the demonstration lives. Where the folder is kept it goes.
const LOCK: &str = ".running";

/// Where everything happens. A temporary folder goes away when all went well, and when it was interrupted: its stores and their keys lie side by
/// side in it.
struct Folder {
    path: PathBuf,
    temporary: Option<(tempfile::TempDir, File)>,
}

impl Folder {
    fn make(named: Option<&Path>) -> Result<Self> {
        let Some(path) = named else {
            sweep(&std::env::temp_dir());
            let folder = Self::temporary(&std::env::temp_dir());
            return folder.map_err(|error| {
                Failure::file("create a folder in", &std::env::temp_dir(), &error)
            });
        };
        std::fs::create_dir_all(path).map_err(|error| Failure::file("create", path, &error))?;
        let mut entries =
            std::fs::read_dir(path).map_err(|error| Failure::file("read", path, &error))?;
        if entries.next().is_some() {
            return Err(Failure::usage(
                format!("{} is not empty", path.display()),
                "name an empty folder, or a new one",
            ));
        }
        let path = path
            .canonicalize()
            .map_err(|error| Failure::file("read", path, &error))?;
        Ok(Self {
            path,
            temporary: None,
        })
    }

    fn temporary(within: &Path) -> std::io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(within)?;
        let running = File::create(folder.path().join(LOCK))?;
        running.lock()?;
        Ok(Self {
            path: folder.path().to_owned(),
            temporary: Some((folder, running)),
        })
    }

    fn keep(self) -> PathBuf {
        if let Some((folder, _running)) = self.temporary {
            // Without it nobody sweeps the folder. Where it cannot be removed the next demonstration clears up.
            let _ = std::fs::remove_file(folder.path().join(LOCK));
            // The path is known already.
            let _ = folder.keep();
        }
        self.path
    }

    fn broken(self, error: &anyhow::Error) -> Failure {
        let path = self.keep();
        Failure::new(
            "demo.broken",
            Exit::Failed,
            format!("{error:#}"),
            format!("logs and all files are in {}", path.display()),
        )
    }

    fn interrupted(self) -> Failure {
        let hint = match self.temporary.map(|(folder, _running)| folder.close()) {
            Some(Ok(())) => "nothing of it is left; begin again with the same command".to_owned(),
            None | Some(Err(_)) => format!(
                "files, keys and texts of it are in {}: delete that folder",
                self.path.display()
            ),
        };
        Failure::new("demo.interrupted", Exit::Failed, "interrupted", hint)
    }
}

/// Clears up after demonstrations that were killed outright.
fn sweep(within: &Path) {
    let Ok(entries) = std::fs::read_dir(within) else {
        return;
    };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // Nobody else can write there, or the lock would be anybody's.
        if !is_ours || entry.file_type().is_ok_and(|it| !it.is_dir()) {
            continue;
        }
        let Ok(running) = File::open(entry.path().join(LOCK)) else {
            continue;
        };
        if running.try_lock().is_ok() {
            // What cannot be removed is another user's.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_demonstration_left_is_cleared_up_and_nothing_else() {
        let within = tempfile::tempdir().unwrap();
        let of = |name: &str| within.path().join(format!("{PREFIX}{name}"));
        let lives = Folder::temporary(within.path()).unwrap();
        let kept = Folder::temporary(within.path()).unwrap().keep();
        for name in ["killed", "beginning"] {
            std::fs::create_dir(of(name)).unwrap();
            std::fs::write(of(name).join("key"), "key").unwrap();
        }
        std::fs::write(of("killed").join(LOCK), "").unwrap();
        sweep(within.path());
        assert!(!of("killed").exists());
        assert!(of("beginning").exists() && kept.exists() && lives.path.exists());
    }

    #[test]
    fn an_interrupted_demonstration_leaves_nothing() {
        let within = tempfile::tempdir().unwrap();
        let folder = Folder::temporary(within.path()).unwrap();
        std::fs::write(folder.path.join("key"), "key").unwrap();
        let failure = folder.interrupted();
        assert_eq!(failure.code, "demo.interrupted");
        assert_eq!(std::fs::read_dir(within.path()).unwrap().count(), 0);
    }
}
