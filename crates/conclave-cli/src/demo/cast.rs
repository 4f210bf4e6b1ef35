//! The demonstration's processes as the script handles them: the service, and the devices, each behind its recording proxy.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use conclave_client::proto::{DocumentId, GroupId};
use conclave_client::{GroupInfo, Operation, Outcome, Session, View, WhoAmI};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::process::{Child, Recipe};
use super::proxy::Proxy;

/// Time that any one thing may take.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Time between two looks at something that is waited for.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// How a device's store is unlocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// By a passphrase, from a file.
    Passphrase,
    /// By a key file.
    KeyFile,
}

/// The service: a child that can be killed and started again.
#[derive(Debug)]
pub struct ServiceProcess {
    recipe: Recipe,
    data: PathBuf,
    child: Option<Child>,
    address: watch::Sender<Option<SocketAddr>>,
}

impl ServiceProcess {
    /// Prepares it; [`ServiceProcess::start`] starts it.
    pub fn new(
        folder: &Path,
        logs: &Path,
        address: watch::Sender<Option<SocketAddr>>,
        origins: &[String],
    ) -> Self {
        let data = folder.join("service");
        let mut arguments: Vec<OsString> =
            vec!["demo-service".into(), "--data".into(), data.clone().into()];
        for origin in origins {
            arguments.extend(["--origin".into(), origin.into()]);
        }
        let recipe = Recipe {
            name: "service".into(),
            arguments,
            logs: logs.to_owned(),
        };
        Self {
            recipe,
            data,
            child: None,
            address,
        }
    }

    /// Folder of its database.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Starts it; the proxies dial it from then on.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&mut self) -> Result<()> {
        let child = self.recipe.start().await?;
        let address = child
            .ready
            .parse()
            .context("the service did not say where it listens")?;
        self.address.send_replace(Some(address));
        self.child = Some(child);
        Ok(())
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn kill(&mut self) -> Result<()> {
        self.address.send_replace(None);
        self.child
            .take()
            .context("the service is not running")?
            .kill()
            .await
    }
}

/// A device: its process, its store, its proxy.
#[derive(Debug)]
pub struct Device {
    /// What the story calls it.
    pub name: &'static str,
    /// Its way to the service.
    pub proxy: Proxy,
    recipe: Recipe,
    home: PathBuf,
    secret: Secret,
    running: watch::Sender<bool>,
    child: tokio::sync::Mutex<Option<Child>>,
}

/// What a device needs to begin.
#[derive(Debug)]
pub struct Part<'a> {
    /// What the story calls it.
    pub name: &'static str,
    /// What it calls itself: holds a planted word.
    pub own_name: &'a str,
    /// Whether it is a further device of an existing user.
    pub further: bool,
    /// How its store is unlocked.
    pub secret: Secret,
}

impl Device {
    /// Prepares a device with a home folder and a secret of its own.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn new(folder: &Path, logs: &Path, part: &Part<'_>, proxy: Proxy) -> Result<Self> {
        let home = folder.join("devices").join(part.name);
        std::fs::create_dir_all(&home)?;
        let mut arguments: Vec<OsString> =
            vec!["demo-device".into(), "--home".into(), home.clone().into()];
        arguments.extend([
            "--server".into(),
            proxy.url().into(),
            "--name".into(),
            part.own_name.into(),
        ]);
        if part.further {
            arguments.push("--further".into());
        }
        let secret_file = secret_file(&home, part.secret);
        match part.secret {
            Secret::Passphrase => write_passphrase(&secret_file)?,
            // The device makes it.
            Secret::KeyFile => {}
        }
        arguments.extend([secret_option(part.secret).into(), secret_file.into()]);
        let recipe = Recipe {
            name: part.name.into(),
            arguments,
            logs: logs.to_owned(),
        };
        let running = watch::Sender::new(false);
        Ok(Self {
            name: part.name,
            proxy,
            recipe,
            home,
            secret: part.secret,
            running,
            child: tokio::sync::Mutex::default(),
        })
    }

    /// Starts its process.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&self) -> Result<()> {
        *self.child.lock().await = Some(self.recipe.start().await?);
        self.running.send_replace(true);
        Ok(())
    }

    /// Kills its process with SIGKILL.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn kill(&self) -> Result<()> {
        self.running.send_replace(false);
        let child = self.child.lock().await.take();
        child
            .with_context(|| format!("{} is not running", self.name))?
            .kill()
            .await
    }

    /// Ends its process in peace.
    ///
    /// # Errors
    /// When it is not running, or ends with a failure.
    pub async fn end(&self) -> Result<()> {
        self.running.send_replace(false);
        let child = self.child.lock().await.take();
        child
            .with_context(|| format!("{} is not running", self.name))?
            .end()
            .await
    }

    /// Waits until its process runs.
    pub async fn is_running(&self) {
        // The sender lives as long as the device.
        let _ = self.running.subscribe().wait_for(|running| *running).await;
    }

    /// Its home folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Options with which a command opens its store.
    pub fn options(&self) -> String {
        let secret = secret_file(&self.home, self.secret);
        format!(
            "--home {} {} {}",
            self.home.display(),
            secret_option(self.secret),
            secret.display()
        )
    }

    /// The file that unlocks the store.
    pub fn secret_file(&self) -> PathBuf {
        secret_file(&self.home, self.secret)
    }

    /// How its store is unlocked.
    pub fn secret(&self) -> Secret {
        self.secret
    }

    /// Asks its process to do something.
    ///
    /// # Errors
    /// Those of the operation, and when it takes too long.
    pub async fn run(&self, operation: Operation) -> Result<Outcome> {
        let what = format!("{}: {operation:?}", self.name);
        match tokio::time::timeout(PATIENCE, self.try_run(operation)).await {
            Ok(outcome) => outcome.with_context(|| format!("{what} failed")),
            Err(_) => bail!("{what} took longer than {} s", PATIENCE.as_secs()),
        }
    }

    /// The same, with the client's own error.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn try_run(&self, operation: Operation) -> Result<Outcome, conclave_client::Error> {
        Session::connect(&self.home.join("store"))
            .await?
            .run(operation)
            .await
    }

    /// Who it is.
    ///
    /// # Errors
    /// As [`Device::run`].
    pub async fn whoami(&self) -> Result<WhoAmI> {
        match self.run(Operation::WhoAmI).await? {
            Outcome::WhoAmI(who) => Ok(who),
            _ => bail!("{} gave an unexpected answer", self.name),
        }
    }

    /// A text that an operation answers.
    ///
    /// # Errors
    /// As [`Device::run`].
    pub async fn text(&self, operation: Operation) -> Result<String> {
        match self.run(operation).await? {
            Outcome::Text(text) => Ok(text),
            _ => bail!("{} gave an unexpected answer", self.name),
        }
    }

    /// A document's text.
    ///
    /// # Errors
    /// As [`Device::run`].
    pub async fn show_text(&self, group: GroupId, document: DocumentId) -> Result<String> {
        self.text(Operation::Show {
            group,
            document,
            view: View::Text,
        })
        .await
    }

    /// A document's JSON.
    ///
    /// # Errors
    /// As [`Device::run`].
    pub async fn show_json(&self, group: GroupId, document: DocumentId) -> Result<Value> {
        match self
            .run(Operation::Show {
                group,
                document,
                view: View::Json,
            })
            .await?
        {
            Outcome::Json(value) => Ok(value),
            _ => bail!("{} gave an unexpected answer", self.name),
        }
    }

    /// What it knows of a group.
    ///
    /// # Errors
    /// As [`Device::run`].
    pub async fn group(&self, group: GroupId) -> Result<Option<GroupInfo>> {
        match self.run(Operation::Groups).await? {
            Outcome::Groups(groups) => Ok(groups.into_iter().find(|info| info.group == group)),
            _ => bail!("{} gave an unexpected answer", self.name),
        }
    }

    /// Joins a group as soon as the invitation is there; a user's further device is in without one.
    ///
    /// # Errors
    /// As [`Device::run`], and when no invitation comes.
    pub async fn join(&self, group: GroupId) -> Result<()> {
        until(&format!("{} joins the group", self.name), async || {
            if self.group(group).await?.is_some_and(|info| info.active) {
                return Ok(true);
            }
            if let Outcome::Invitations(invitations) = self.run(Operation::Invitations).await?
                && invitations
                    .iter()
                    .any(|invitation| invitation.group == group)
            {
                self.run(Operation::Accept { group }).await?;
            }
            Ok(false)
        })
        .await
    }
}

/// Looks again and again until something is so.
///
/// # Errors
/// When it takes too long, or looking fails.
pub async fn until(what: &str, mut look: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !look().await? {
        if began.elapsed() > PATIENCE {
            bail!("waited {} s in vain: {what}", PATIENCE.as_secs());
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}

fn secret_file(home: &Path, secret: Secret) -> PathBuf {
    home.join(match secret {
        Secret::Passphrase => "passphrase",
        Secret::KeyFile => "key",
    })
}

fn secret_option(secret: Secret) -> &'static str {
    match secret {
        Secret::Passphrase => "--passphrase-file",
        Secret::KeyFile => "--key-file",
    }
}

fn write_passphrase(path: &Path) -> Result<()> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).context("the system gives no random bytes")?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let text = data_encoding::BASE32_NOPAD.encode(&bytes);
    std::io::Write::write_all(&mut options.open(path)?, format!("{text}\n").as_bytes())?;
    Ok(())
}
