//! The rounds: a service and four devices, all real processes, that edit without pause while one thing after the other goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use conclave_proto::{Role, UserId};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rustix::process::Signal;
use serde::Serialize;
use tokio::sync::watch;

use super::fault::{Fault, below, schedule};
use super::history::{History, Verdict};
use super::process::{Process, Recipe, largest_file};
use super::proxy::Proxy;
use super::wire::{Ask, State, Told};

/// The first founds the group and administers it; the last is removed and invited again.
const NAMES: [&str; 4] = ["ana", "ben", "cara", "dora"];
/// Edits that each device makes before a fault, and that the others make while it lasts.
const EDITS: u64 = 25;
/// Nothing that a round waits for may take longer.
const PATIENCE: Duration = Duration::from_secs(180);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(40);

/// What is played.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many rounds.
    pub rounds: usize,
    /// What random choices follow from.
    pub seed: u64,
    /// Kinds of fault, by name; all where none is named.
    pub only: Vec<String>,
    /// A fault that one device is told to make, by the name of its option.
    pub seeded: Option<String>,
    /// Where everything is kept.
    pub folder: PathBuf,
}

/// What came out.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    /// Rounds played.
    pub rounds: usize,
    /// Rounds by kind of fault, and the seconds that they took.
    pub faults: BTreeMap<&'static str, (usize, f64)>,
    /// Edits that a device was told are durable.
    pub acknowledged: usize,
    /// Of these, kept apart for their author because the document took them no more.
    pub kept: usize,
    /// Of these, nowhere.
    pub lost: usize,
    /// Edits that are in a document twice.
    pub doubled: usize,
    /// Edits in a document whose author was told that they failed.
    pub made_though_failed: usize,
    /// Lines that nobody wrote.
    pub foreign: usize,
    /// Epochs of the group at the end.
    pub epochs: u64,
    /// What devices reported, by code, and how often.
    pub findings: BTreeMap<String, u64>,
    /// Seconds in all.
    pub seconds: f64,
}

struct Device {
    name: &'static str,
    user: UserId,
    recipe: Recipe,
    proxy: Proxy,
    store: PathBuf,
    journal: PathBuf,
    process: Option<Process>,
}

impl Device {
    fn process(&mut self) -> Result<&mut Process> {
        let name = self.name;
        self.process
            .as_mut()
            .with_context(|| format!("{name} is down"))
    }

    async fn ask(&mut self, ask: &Ask) -> Result<Told> {
        let name = self.name;
        self.process()?
            .ask(ask)
            .await
            .with_context(|| name.to_owned())
    }

    async fn state(&mut self) -> Result<State> {
        match self.ask(&Ask::State).await? {
            Told::State(state) => Ok(state),
            other => bail!("{} answered {other:?}", self.name),
        }
    }

    /// Edits acknowledged, read from its journal, so that a device that answers nothing is counted too.
    fn acknowledged(&self) -> Result<u64> {
        let text = std::fs::read_to_string(&self.journal)?;
        Ok(text.lines().filter(|line| line.starts_with("ok ")).count() as u64)
    }

    async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    async fn start(&mut self, clock: Option<&str>) -> Result<()> {
        let process = self.recipe.start(clock).await;
        self.process = Some(process.with_context(|| format!("starting {}", self.name))?);
        Ok(())
    }

    async fn edit(&mut self, on: bool) -> Result<()> {
        self.ask(&Ask::Edit { on }).await?;
        Ok(())
    }
}

struct Play {
    service: Option<Process>,
    service_recipe: Recipe,
    service_folder: PathBuf,
    upstream: watch::Sender<Option<SocketAddr>>,
    devices: Vec<Device>,
    findings: BTreeMap<String, u64>,
    rng: ChaCha20Rng,
}

/// Plays the rounds, checking after each, and tells what came out.
///
/// # Errors
/// At the first round after which something is lost, doubled, unequal or stuck: which, and how to repeat it.
pub async fn play(plan: &Plan) -> Result<Figures> {
    let mut rng = ChaCha20Rng::seed_from_u64(plan.seed);
    let faults = schedule(plan.rounds, &plan.only, &mut rng);
    ensure!(!faults.is_empty(), "no round is asked for");
    let begun = Instant::now();
    let mut play = Play::start(plan, rng).await?;
    let mut figures = Figures::default();
    for (number, fault) in faults.into_iter().enumerate() {
        let round = Instant::now();
        let told = format!("round {} ({fault:?}, seed {})", number + 1, plan.seed);
        play.round(fault).await.context(told.clone())?;
        let verdict = play.check().await.context(told.clone())?;
        figures.take(&verdict);
        ensure!(verdict.is_good(), "{told}: {verdict:#?}");
        figures.rounds += 1;
        let seconds = round.elapsed().as_secs_f64();
        let of_kind = figures.faults.entry(fault.name()).or_default();
        of_kind.0 += 1;
        of_kind.1 += seconds;
        eprintln!(
            "{told}: {seconds:.1} s, {} edits acknowledged so far",
            verdict.acknowledged
        );
    }
    figures.epochs = play.end().await?;
    figures.findings = play.findings;
    figures.seconds = begun.elapsed().as_secs_f64();
    Ok(figures)
}

impl Figures {
    fn take(&mut self, verdict: &Verdict) {
        self.acknowledged = verdict.acknowledged;
        self.kept = verdict.kept;
        self.lost = verdict.lost.len();
        self.doubled = verdict.doubled.len();
        self.made_though_failed = verdict.made_though_failed.len();
        self.foreign = verdict.foreign.len();
    }
}

/// Lines that one of two has and the other has not, by document.
fn apart(first: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> String {
    let lines = |texts: &BTreeMap<String, String>| -> BTreeSet<(String, String)> {
        let all = texts.iter().flat_map(|(kind, text)| {
            text.lines()
                .map(move |line| (kind.clone(), line.to_owned()))
        });
        all.collect()
    };
    let (one, two) = (lines(first), lines(other));
    let (less, more): (Vec<_>, Vec<_>) = (
        one.difference(&two).collect(),
        two.difference(&one).collect(),
    );
    format!("without {less:?}, with {more:?}")
}

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a folder whose name is no text")
}

impl Play {
    async fn start(plan: &Plan, rng: ChaCha20Rng) -> Result<Self> {
        let (upstream, _) = watch::channel(None);
        let mut devices = Vec::new();
        for name in NAMES {
            let proxy = Proxy::start(upstream.subscribe()).await?;
            let store = plan.folder.join(name);
            let journal = plan.folder.join(format!("{name}.journal"));
            let url = proxy.url();
            let mut arguments = words(&["device", name, utf8(&store)?, utf8(&journal)?, &url]);
            if let Some(seeded) = plan.seeded.as_ref().filter(|_| name == "ben") {
                arguments.push(seeded.into());
            }
            devices.push(Device {
                name,
                user: UserId([0; 32]),
                recipe: Recipe {
                    arguments,
                    log: plan.folder.join(format!("{name}.log")),
                },
                proxy,
                store,
                journal,
                process: None,
            });
        }
        let service_folder = plan.folder.join("service");
        let mut play = Self {
            service: None,
            service_recipe: Recipe {
                arguments: Vec::new(),
                log: plan.folder.join("service.log"),
            },
            service_folder,
            upstream,
            devices,
            findings: BTreeMap::new(),
            rng,
        };
        play.start_service(None).await?;
        play.meet().await?;
        Ok(play)
    }

    /// Starts the service, on the port that it had before if it had one.
    async fn start_service(&mut self, clock: Option<&str>) -> Result<()> {
        let mut arguments = words(&["service", utf8(&self.service_folder)?]);
        arguments.extend(self.devices.iter().map(|device| device.proxy.url().into()));
        self.service_recipe.arguments = arguments;
        let process = self
            .service_recipe
            .start(clock)
            .await
            .context("starting the service")?;
        self.upstream.send_replace(Some(process.ready.parse()?));
        self.service = Some(process);
        Ok(())
    }

    async fn kill_service(&mut self) -> Result<()> {
        self.upstream.send_replace(None);
        match self.service.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Everybody starts, knows everybody, and joins Ana's group.
    async fn meet(&mut self) -> Result<()> {
        let mut contacts = Vec::new();
        for device in &mut self.devices {
            device.start(None).await?;
            match device.ask(&Ask::Contact).await? {
                Told::Contact { user, text } => {
                    device.user = user;
                    contacts.push((user, text));
                }
                other => bail!("{} answered {other:?}", device.name),
            }
        }
        for device in &mut self.devices {
            let me = device.user;
            for (user, text) in contacts.iter().filter(|(user, _)| *user != me) {
                let text = text.clone();
                device
                    .ask(&Ask::Verify { text })
                    .await
                    .with_context(|| format!("verifying {user}"))?;
            }
        }
        let (first, others) = self.devices.split_first_mut().context("no device")?;
        first.ask(&Ask::Found).await?;
        for device in others {
            first.ask(&Ask::Invite { user: device.user }).await?;
            device.ask(&Ask::Join).await?;
        }
        Ok(())
    }

    fn device(&mut self, at: usize) -> Result<&mut Device> {
        self.devices.get_mut(at).context("no such device")
    }

    async fn edit_all(&mut self, on: bool) -> Result<()> {
        for device in &mut self.devices {
            if device.process.is_some() {
                device.edit(on).await?;
            }
        }
        Ok(())
    }

    /// Waits until each of these has acknowledged so many more edits.
    async fn progress(&mut self, who: &[usize], more: u64) -> Result<()> {
        let mut goals = Vec::new();
        for at in who {
            goals.push((*at, self.device(*at)?.acknowledged()? + more));
        }
        let begun = Instant::now();
        let mut looks = tokio::time::interval(LOOK);
        while let Some((at, goal)) = goals.last().copied() {
            if self.device(at)?.acknowledged()? >= goal {
                goals.pop();
                continue;
            }
            let name = self.device(at)?.name;
            ensure!(begun.elapsed() < PATIENCE, "{name} makes no edits any more");
            looks.tick().await;
        }
        Ok(())
    }

    /// One fault, under constant editing, healed at the end; then all agree.
    async fn round(&mut self, fault: Fault) -> Result<()> {
        self.edit_all(true).await?;
        let all: Vec<usize> = (0..self.devices.len()).collect();
        self.progress(&all, EDITS).await?;
        let victim = match fault {
            Fault::Member | Fault::Role => self.devices.len() - 1,
            // Ana is needed to change members while the victim's clock is wrong.
            Fault::Clock(_) => 1 + below(self.devices.len() - 1, &mut self.rng),
            _ => below(self.devices.len(), &mut self.rng),
        };
        let others: Vec<usize> = all.iter().copied().filter(|at| *at != victim).collect();
        self.go_wrong(fault, victim, &others)
            .await
            .with_context(|| format!("with {}", NAMES.get(victim).unwrap_or(&"?")))?;
        self.progress(&all, EDITS).await?;
        self.edit_all(false).await?;
        self.agree().await
    }

    async fn go_wrong(&mut self, fault: Fault, victim: usize, others: &[usize]) -> Result<()> {
        match fault {
            Fault::KillDevice => {
                self.device(victim)?.kill().await?;
                self.progress(others, EDITS).await?;
                self.restart(victim, None).await
            }
            Fault::KillService => {
                self.kill_service().await?;
                self.progress(others, EDITS).await?;
                self.start_service(None).await
            }
            Fault::KillBoth => {
                self.device(victim)?.kill().await?;
                self.kill_service().await?;
                self.progress(others, EDITS).await?;
                self.start_service(None).await?;
                self.restart(victim, None).await
            }
            Fault::KillAll => {
                for device in &mut self.devices {
                    device.kill().await?;
                }
                self.kill_service().await?;
                self.start_service(None).await?;
                for at in 0..self.devices.len() {
                    self.restart(at, None).await?;
                }
                Ok(())
            }
            Fault::StopDevice => {
                self.device(victim)?.process()?.signal(Signal::STOP)?;
                self.progress(others, EDITS * 2).await?;
                self.device(victim)?.process()?.signal(Signal::CONT)
            }
            Fault::StopService => {
                let service = self.service.as_ref().context("no service")?;
                service.signal(Signal::STOP)?;
                self.progress(others, EDITS * 2).await?;
                let service = self.service.as_ref().context("no service")?;
                service.signal(Signal::CONT)
            }
            Fault::Cut => {
                self.device(victim)?.proxy.cut();
                self.progress(others, EDITS).await?;
                self.device(victim)?.proxy.mend();
                Ok(())
            }
            Fault::HalfOpen => self.stalled(victim, others, true, true).await,
            Fault::StallUp => self.stalled(victim, others, true, false).await,
            Fault::StallDown => self.stalled(victim, others, false, true).await,
            Fault::Flap => {
                for _ in 0..6 {
                    self.device(victim)?.proxy.cut();
                    self.progress(others, EDITS / 8).await?;
                    self.device(victim)?.proxy.mend();
                    self.progress(others, EDITS / 5).await?;
                }
                Ok(())
            }
            Fault::Double => {
                self.device(victim)?.proxy.stall(true, false);
                self.progress(others, EDITS / 2).await?;
                self.device(victim)?.proxy.double();
                self.change_role(victim).await?;
                self.progress(others, EDITS).await?;
                self.device(victim)?.proxy.mend();
                Ok(())
            }
            Fault::Role => {
                let user = self.device(victim)?.user;
                let role = Role::Viewer;
                self.device(0)?.ask(&Ask::Role { user, role }).await?;
                self.progress(others, EDITS).await?;
                let role = Role::Editor;
                self.device(0)?.ask(&Ask::Role { user, role }).await?;
                Ok(())
            }
            Fault::Member => {
                let user = self.device(victim)?.user;
                self.device(0)?.ask(&Ask::Remove { user }).await?;
                self.progress(others, EDITS).await?;
                self.device(0)?.ask(&Ask::Invite { user }).await?;
                self.device(victim)?.ask(&Ask::Join).await?;
                Ok(())
            }
            Fault::Clock(clock) => {
                self.end_device(victim).await?;
                self.restart(victim, Some(clock)).await?;
                self.progress(others, EDITS / 2).await?;
                // Somebody is added and removed while the victim's clock is wrong.
                let guest = if victim == self.devices.len() - 1 {
                    2
                } else {
                    3
                };
                let user = self.device(guest)?.user;
                self.device(0)?.ask(&Ask::Remove { user }).await?;
                self.device(0)?.ask(&Ask::Invite { user }).await?;
                self.device(guest)?.ask(&Ask::Join).await?;
                self.progress(others, EDITS).await?;
                self.end_device(victim).await?;
                self.restart(victim, None).await
            }
            Fault::FullDevice => {
                let device = self.device(victim)?;
                let limit = largest_file(&device.store)?;
                device.process()?.limit_files(Some(limit))?;
                self.progress(others, EDITS).await?;
                self.device(victim)?.process()?.limit_files(None)
            }
            Fault::FullService => {
                let limit = largest_file(&self.service_folder)?;
                let service = self.service.as_ref().context("no service")?;
                service.limit_files(Some(limit))?;
                self.progress(others, EDITS).await?;
                let service = self.service.as_ref().context("no service")?;
                service.limit_files(None)
            }
        }
    }

    async fn stalled(&mut self, at: usize, others: &[usize], up: bool, down: bool) -> Result<()> {
        self.device(at)?.proxy.stall(up, down);
        self.progress(others, EDITS * 2).await?;
        self.device(at)?.proxy.mend();
        Ok(())
    }

    /// A new epoch: somebody other than `but` becomes an admin, or an editor again.
    async fn change_role(&mut self, but: usize) -> Result<()> {
        let at = if but == 1 { 2 } else { 1 };
        let user = self.device(at)?.user;
        let by = if but == 0 { return Ok(()) } else { 0 };
        for role in [Role::Admin, Role::Editor] {
            self.device(by)?.ask(&Ask::Role { user, role }).await?;
        }
        Ok(())
    }

    async fn end_device(&mut self, at: usize) -> Result<()> {
        match self.device(at)?.process.take() {
            Some(process) => process.end().await,
            None => Ok(()),
        }
    }

    async fn restart(&mut self, at: usize, clock: Option<&str>) -> Result<()> {
        let device = self.device(at)?;
        device.start(clock).await?;
        device.edit(true).await
    }

    /// Waits until all are members of one epoch with one code, have no edit of their own that waits, and hold the same documents.
    async fn agree(&mut self) -> Result<()> {
        let begun = Instant::now();
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            let mut states = Vec::new();
            for device in &mut self.devices {
                states.push((device.name, device.state().await?));
            }
            let same = |one: &State, other: &State| {
                (one.epoch, &one.code, &one.documents)
                    == (other.epoch, &other.code, &other.documents)
            };
            let settled = |state: &State| {
                state.member && state.online && state.pending == 0 && state.documents.len() == 2
            };
            let first = states.first().map(|(_, state)| state.clone());
            if let Some(first) = first
                && states
                    .iter()
                    .all(|(_, state)| settled(state) && same(state, &first))
            {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "the devices do not agree: {states:#?}"
            );
        }
    }

    /// Compares what everybody holds with what everybody was told.
    async fn check(&mut self) -> Result<Verdict> {
        let mut history = History::default();
        let mut all_texts: Option<BTreeMap<String, String>> = None;
        let mut all_kept = BTreeSet::new();
        for device in &mut self.devices {
            history.read(device.name, &std::fs::read_to_string(&device.journal)?)?;
            let (texts, kept) = match device.ask(&Ask::Texts).await? {
                Told::Texts { texts, kept } => (texts, kept),
                other => bail!("{} answered {other:?}", device.name),
            };
            all_kept.extend(kept);
            match &all_texts {
                None => all_texts = Some(texts),
                Some(first) => ensure!(
                    *first == texts,
                    "{} holds another text: {}",
                    device.name,
                    apart(first, &texts)
                ),
            }
        }
        Ok(history.check(&all_texts.context("no device")?, &all_kept))
    }

    /// Ends everything, and reads the service's own log: one commit for each epoch.
    async fn end(&mut self) -> Result<u64> {
        for device in &mut self.devices {
            for (code, times) in device.state().await?.findings {
                *self.findings.entry(code).or_default() += times;
            }
        }
        for at in 0..self.devices.len() {
            self.end_device(at).await?;
        }
        if let Some(service) = self.service.take() {
            service.end().await?;
        }
        let commits = crate::all_commit_epochs(&self.service_folder).await?;
        ensure!(commits.len() == 1, "{} groups", commits.len());
        let epochs = commits.into_values().next().unwrap_or_default();
        let count = epochs.len() as u64;
        ensure!(
            epochs.iter().copied().eq(0..count),
            "the log's commits end the epochs {epochs:?}"
        );
        Ok(count)
    }
}
