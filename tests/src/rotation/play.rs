//! Plays the removal, and says what it took.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use conclave_client::forensic::openable;
use conclave_client::store::{KEY_FILE_NAME, Unlock};
use conclave_proto::{GroupId, Record, Role, UserId};
use serde::Serialize;
use tokio::sync::watch;

use super::device::{Ask, Editing, State, Told};
use super::tap::{Counts, Tap, since};
use crate::meter::{cpu_ms_of, peak_bytes_of};
use crate::rounds::process::{Process, Recipe};
use crate::whole_records;

/// Nothing may stand still for so long.
const PATIENCE: Duration = Duration::from_secs(300);
/// Documents that are made with one order: a device that answers none for long counts as hanging.
const AT_ONCE: usize = 500;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// What is played.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Documents of the group, its directory among them.
    pub documents: usize,
    /// Whether the device that re-keys is killed half-way.
    pub kill: bool,
    /// Where everything is kept.
    pub folder: PathBuf,
}

/// What came out.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Figures {
    /// Documents.
    pub documents: usize,
    /// Making them, until the service has them all, in seconds.
    pub make_s: f64,
    /// The others' joining, until they hold them all.
    pub join_s: f64,
    /// From the sending of the removal to the service's answer, in milliseconds.
    pub order_ms: f64,
    /// From the sending of the removal to the first refusal of a record of the old epoch.
    pub refuse_ms: f64,
    /// From the call of the removal until all documents were re-keyed and that was signed, in seconds; none where the caller was killed.
    pub signed_s: Option<f64>,
    /// From the sending of the removal until the other member had seen by itself that all are, in seconds.
    pub complete_s: f64,
    /// Of these, from the killing of the device that re-keyed.
    pub after_kill_s: Option<f64>,
    /// Documents that were re-keyed when it was killed.
    pub killed_at: Option<usize>,
    /// Edits of another member that went into the log meanwhile.
    pub edits: usize,
    /// The same in a second.
    pub edits_per_s: f64,
    /// From the call until it is in the log: the median, and the longest, in milliseconds.
    pub edit_ms: (f64, f64),
    /// How often the device that re-keys, and the one that edits, were told how far it is.
    pub told: (usize, usize),
    /// Frames by device and kind, from the removal to the end.
    pub frames: BTreeMap<String, Counts>,
    /// Processor time by process over the same time, in milliseconds.
    pub cpu_ms: BTreeMap<String, u64>,
    /// Most memory by process, in bytes.
    pub peak_bytes: BTreeMap<String, u64>,
    /// The store of the device that re-keys, before the removal and at the end, in bytes.
    pub store_bytes: (u64, u64),
    /// Start of a device until it reaches the service, in seconds.
    pub restart_s: f64,
    /// Records of the old epoch, and how many of them a copy of the removed device's store opens.
    pub old: (usize, usize),
    /// The same of records that were accepted after the removal.
    pub new: (usize, usize),
    /// What was found, by device.
    pub findings: BTreeMap<String, BTreeSet<String>>,
}

struct Device {
    name: &'static str,
    user: UserId,
    tap: Tap,
    recipe: Recipe,
    store: PathBuf,
    process: Option<Process>,
}

impl Device {
    async fn start(&mut self) -> Result<()> {
        let started = self.recipe.start(None).await;
        self.process = Some(started.with_context(|| format!("starting {}", self.name))?);
        Ok(())
    }

    fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("it is down")
    }

    async fn ask(&mut self, ask: &Ask) -> Result<Told> {
        match self.process()?.exchange(ask).await? {
            Told::Failed { message } => bail!("{} failed at {ask:?}: {message}", self.name),
            told => Ok(told),
        }
    }

    async fn state(&mut self) -> Result<State> {
        match self.ask(&Ask::State).await? {
            Told::State(state) => Ok(state),
            other => bail!("{other:?}"),
        }
    }

    fn id(&mut self) -> Result<String> {
        Ok(self.process()?.id()?.to_string())
    }
}

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a folder whose name is no text")
}

fn milliseconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1000.0
}

struct Play {
    service: Process,
    service_folder: PathBuf,
    ana: Device,
    ben: Device,
    cara: Device,
}

/// Plays it.
///
/// # Errors
/// When something fails, stands still, or is not as it must be.
pub async fn play(plan: &Plan) -> Result<Figures> {
    ensure!(plan.documents > 1, "at least two documents");
    let (mut play, upstream) = Play::start(plan).await?;
    // The service's address stays the same.
    let _upstream = upstream;
    let mut figures = Figures {
        documents: plan.documents,
        ..Figures::default()
    };
    let group = play.meet(&mut figures).await?;
    let stolen = play.steal().await?;
    play.remove(plan, &mut figures).await?;
    play.judge(group, &stolen, &mut figures).await?;
    Ok(figures)
}

impl Play {
    async fn start(plan: &Plan) -> Result<(Self, watch::Sender<Option<std::net::SocketAddr>>)> {
        let (upstream, address) = watch::channel(None);
        let device = async |name: &'static str| -> Result<Device> {
            let tap = Tap::start(address.clone()).await?;
            let store = plan.folder.join(name);
            let arguments = words(&["device", name, utf8(&store)?, &tap.url()]);
            let log = plan.folder.join(format!("{name}.log"));
            Ok(Device {
                name,
                user: UserId([0; 32]),
                tap,
                recipe: Recipe { arguments, log },
                store,
                process: None,
            })
        };
        let (ana, ben, cara) = (
            device("ana").await?,
            device("ben").await?,
            device("cara").await?,
        );
        let service_folder = plan.folder.join("service");
        let mut arguments = words(&["service", utf8(&service_folder)?]);
        arguments.extend([&ana, &ben, &cara].map(|device| device.tap.url().into()));
        let log = plan.folder.join("service.log");
        let service = Recipe { arguments, log }.start(None).await?;
        upstream.send_replace(Some(service.ready.parse()?));
        let play = Self {
            service,
            service_folder,
            ana,
            ben,
            cara,
        };
        Ok((play, upstream))
    }

    /// Everybody knows everybody, and holds all documents of Ana's group.
    async fn meet(&mut self, figures: &mut Figures) -> Result<GroupId> {
        let mut contacts = Vec::new();
        for device in [&mut self.ana, &mut self.ben, &mut self.cara] {
            device.start().await?;
            match device.ask(&Ask::Contact).await? {
                Told::Contact { user, text } => {
                    device.user = user;
                    contacts.push((user, text));
                }
                other => bail!("{other:?}"),
            }
        }
        for device in [&mut self.ana, &mut self.ben, &mut self.cara] {
            for (user, text) in &contacts {
                if *user != device.user {
                    device.ask(&Ask::Verify { text: text.clone() }).await?;
                }
            }
        }
        let documents = figures.documents;
        let began = Instant::now();
        let group = match self.ana.ask(&Ask::Found).await? {
            Told::Group { group } => group,
            other => bail!("{other:?}"),
        };
        // The directory is one too.
        for first in (1..documents).step_by(AT_ONCE) {
            let end = documents.min(first + AT_ONCE);
            self.ana.ask(&Ask::Make { first, end }).await?;
        }
        figures.make_s = began.elapsed().as_secs_f64();
        eprintln!("{documents} documents after {:.1} s", figures.make_s);
        let began = Instant::now();
        for device in [&mut self.ben, &mut self.cara] {
            let (user, role) = (device.user, Role::Editor);
            self.ana.ask(&Ask::Invite { user, role }).await?;
            device.ask(&Ask::Join).await?;
        }
        for device in [&mut self.ben, &mut self.cara] {
            let mut last = (0, Instant::now());
            loop {
                let Told::Here { here, listed } = device.ask(&Ask::Here).await? else {
                    bail!("no answer")
                };
                // The directory is not shown.
                if here == listed && listed + 1 >= documents {
                    break;
                }
                if here != last.0 {
                    last = (here, Instant::now());
                }
                ensure!(
                    last.1.elapsed() < PATIENCE,
                    "{} has {here} of {listed}",
                    device.name
                );
                tokio::time::sleep(LOOK).await;
            }
        }
        figures.join_s = began.elapsed().as_secs_f64();
        eprintln!("two others hold them after {:.1} s", figures.join_s);
        Ok(group)
    }

    /// A copy of the store of the one who is to be removed.
    async fn steal(&mut self) -> Result<PathBuf> {
        let process = self.cara.process.take().context("it is down")?;
        process.end().await?;
        let copy = self.cara.store.with_extension("copy");
        std::fs::create_dir(&copy)?;
        for entry in std::fs::read_dir(&self.cara.store)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), copy.join(entry.file_name()))?;
            }
        }
        self.cara.start().await?;
        Ok(copy)
    }

    fn busy(&mut self) -> Result<BTreeMap<String, u64>> {
        let mut busy = BTreeMap::new();
        let service = self.service.id()?.to_string();
        busy.insert("service".to_owned(), cpu_ms_of(&service)?);
        for device in [&mut self.ana, &mut self.ben] {
            if device.process.is_some() {
                busy.insert(device.name.to_owned(), cpu_ms_of(&device.id()?)?);
            }
        }
        Ok(busy)
    }

    async fn remove(&mut self, plan: &Plan, figures: &mut Figures) -> Result<()> {
        self.ben.ask(&Ask::Warm).await?;
        figures.store_bytes.0 = database_bytes(&self.ana.store)?;
        let busy = self.busy()?;
        let counts = [&self.ana, &self.ben].map(|it| (it.name, it.tap.counts()));
        let [(_, of_ana), _] = &counts;
        let of_ana = of_ana.clone();
        // Ben is not told of the removal for now, and goes on in the old epoch.
        self.ben.tap.hold(true);
        let how = Editing::Blind;
        self.ben.ask(&Ask::Edit { how }).await?;
        let begun = Instant::now();
        let appended = |counts: &Counts| counts.get("up append").map_or(0, |it| it.frames);
        let before = appended(&self.ben.tap.counts());
        while appended(&self.ben.tap.counts()) == before {
            ensure!(begun.elapsed() < PATIENCE, "Ben edits nothing");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let user = self.cara.user;
        self.ana.ask(&Ask::Remove { user }).await?;
        let asked = Instant::now();
        let (sent, refused) = loop {
            let (commit, refused) = (self.ana.tap.seen().commit, self.ben.tap.seen().refused);
            if let (Some((sent, _)), Some(refused)) = (commit, refused)
                && self.ana.tap.seen().accepted.is_some_and(|it| it > sent)
            {
                break (sent, refused);
            }
            ensure!(asked.elapsed() < PATIENCE, "nothing was refused");
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        self.ben.tap.hold(false);
        figures.refuse_ms = milliseconds(sent, refused);
        let accepted = self.ana.tap.seen().accepted.context("not accepted")?;
        figures.order_ms = milliseconds(sent, accepted);
        let how = Editing::Each;
        self.ben.ask(&Ask::Edit { how }).await?;
        let began = Instant::now();
        let killed = match plan.kill {
            true => Some(self.kill(&of_ana, figures).await?),
            false => None,
        };
        let mut last = ((0, 0), Instant::now());
        let state = loop {
            let state = self.ben.state().await?;
            if state.complete && state.rotating_since.is_none() {
                break state;
            }
            let progress = state.progress.unwrap_or_default();
            if progress != last.0 {
                last = (progress, Instant::now());
            }
            let stands = last.1.elapsed();
            ensure!(stands < PATIENCE, "it stands still at {progress:?}");
            tokio::time::sleep(LOOK).await;
        };
        figures.complete_s = sent.elapsed().as_secs_f64();
        let how = Editing::No;
        self.ben.ask(&Ask::Edit { how }).await?;
        let mut edits = state.edits_us.clone();
        edits.sort_unstable();
        figures.edits = edits.len();
        figures.edits_per_s = edits.len() as f64 / began.elapsed().as_secs_f64();
        let at = |at: Option<&u64>| at.copied().unwrap_or_default() as f64 / 1000.0;
        figures.edit_ms = (at(edits.get(edits.len() / 2)), at(edits.last()));
        ensure!(state.edits_failed.0 == 0, "{:?}", state.edits_failed);
        ensure!(!edits.is_empty(), "nothing was edited meanwhile");
        figures.told.1 = state.times;
        let ben = self.ben.name.to_owned();
        figures.findings.insert(ben, state.findings);
        if let Some(killed) = killed {
            figures.after_kill_s = Some(killed.elapsed().as_secs_f64());
            let began = Instant::now();
            self.ana.start().await?;
            self.ana.ask(&Ask::Contact).await?;
            figures.restart_s = began.elapsed().as_secs_f64();
        } else {
            let now = self.busy()?;
            let of = |(name, ms): (String, u64)| {
                let before = busy.get(&name).copied().unwrap_or_default();
                (name, ms.saturating_sub(before))
            };
            figures.cpu_ms = now.into_iter().map(of).collect();
        }
        for ((name, before), device) in counts.into_iter().zip([&self.ana, &self.ben]) {
            let counts = since(&before, &device.tap.counts());
            figures.frames.insert(name.to_owned(), counts);
        }
        self.wait_for_ana(figures, plan.kill).await
    }

    /// Kills the device that re-keys half-way.
    async fn kill(&mut self, before: &Counts, figures: &mut Figures) -> Result<Instant> {
        let began = Instant::now();
        loop {
            let counts = since(before, &self.ana.tap.counts());
            let sent = counts.get("up snapshot").map_or(0, |count| count.frames);
            let sent = usize::try_from(sent)?;
            if sent * 2 >= figures.documents {
                figures.killed_at = Some(sent);
                break;
            }
            ensure!(began.elapsed() < PATIENCE, "it re-keyed {sent}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let process = self.ana.process.take().context("it is down")?;
        process.kill().await?;
        Ok(Instant::now())
    }

    /// The one who has removed knows too that all is done.
    async fn wait_for_ana(&mut self, figures: &mut Figures, killed: bool) -> Result<()> {
        let began = Instant::now();
        let state = loop {
            let state = self.ana.state().await?;
            if let Some(why) = state.failed {
                bail!("removing failed: {why}");
            }
            let over = match killed {
                true => state.rotating_since.is_none(),
                false => state.removed.is_some(),
            };
            if over {
                break state;
            }
            ensure!(began.elapsed() < PATIENCE, "Ana: {:?}", state.progress);
            tokio::time::sleep(LOOK).await;
        };
        if let Some((documents, took_ms)) = state.removed {
            figures.signed_s = Some(took_ms as f64 / 1000.0);
            ensure!(documents == figures.documents, "{documents} were re-keyed");
        }
        figures.told.0 = state.times;
        figures.store_bytes.1 = database_bytes(&self.ana.store)?;
        let service = self.service.id()?.to_string();
        let peak = peak_bytes_of(&service)?;
        figures.peak_bytes.insert("service".to_owned(), peak);
        for device in [&mut self.ana, &mut self.ben] {
            let peak = peak_bytes_of(&device.id()?)?;
            figures.peak_bytes.insert(device.name.to_owned(), peak);
        }
        if !killed {
            let process = self.ana.process.take().context("it is down")?;
            process.end().await?;
            let began = Instant::now();
            self.ana.start().await?;
            self.ana.ask(&Ask::Contact).await?;
            figures.restart_s = began.elapsed().as_secs_f64();
        }
        let ana = self.ana.name.to_owned();
        figures.findings.insert(ana, state.findings);
        Ok(())
    }

    /// The removed device, given everything, opens nothing that is new.
    async fn judge(&mut self, group: GroupId, stolen: &Path, figures: &mut Figures) -> Result<()> {
        let (records, wraps) = whole_records(&self.service_folder, &group).await?;
        let epoch = self.ben.state().await?.epoch;
        let (old, new): (Vec<Record>, Vec<Record>) = records
            .into_iter()
            .partition(|record| record.header.epoch < epoch);
        let unlock = Unlock::KeyFile {
            path: stolen.join(KEY_FILE_NAME),
            create: false,
        };
        for (records, into) in [(&old, &mut figures.old), (&new, &mut figures.new)] {
            let opened = openable(stolen, &unlock, group, records, &wraps).await?;
            let opens = opened.iter().filter(|opens| **opens).count();
            *into = (records.len(), opens);
        }
        ensure!(figures.old.1 > 0, "the copy opens what it could read");
        ensure!(figures.new.0 > 0, "nothing is new");
        ensure!(figures.new.1 == 0, "the removed device opens what is new");
        Ok(())
    }
}

fn database_bytes(store: &Path) -> Result<u64> {
    Ok(std::fs::metadata(store.join("store.db"))?.len())
}

impl Figures {
    /// For people.
    #[must_use]
    pub fn told(&self) -> String {
        let mut text = String::new();
        let mut say = |what: &str, figure: String| {
            // Writing to a text does not fail.
            let _ = writeln!(text, "{what:<28} {figure}");
        };
        let mb = |bytes: u64| bytes as f64 / 1e6;
        say("documents", self.documents.to_string());
        say("made", format!("{:.1} s", self.make_s));
        say("two others hold them", format!("{:.1} s", self.join_s));
        say("removal ordered", format!("{:.1} ms", self.order_ms));
        say("old epoch refused", format!("{:.1} ms", self.refuse_ms));
        if let Some(signed) = self.signed_s {
            say("complete and signed", format!("{signed:.1} s"));
        }
        say("seen by the other", format!("{:.1} s", self.complete_s));
        if let (Some(at), Some(after)) = (self.killed_at, self.after_kill_s) {
            say("killed at", format!("{at} documents"));
            say("finished by the other", format!("{after:.1} s later"));
        }
        let (median, longest) = self.edit_ms;
        say(
            "edits meanwhile",
            format!(
                "{}, {:.1} a second; median {median:.1} ms, longest {longest:.1} ms",
                self.edits, self.edits_per_s
            ),
        );
        say(
            "told how far it is",
            format!("{} and {} times", self.told.0, self.told.1),
        );
        say("restart", format!("{:.1} s", self.restart_s));
        let (before, after) = self.store_bytes;
        say(
            "store",
            format!("{:.1} MB, then {:.1} MB", mb(before), mb(after)),
        );
        for (name, peak) in &self.peak_bytes {
            let cpu = self.cpu_ms.get(name).copied().unwrap_or_default();
            let figure = format!("{:.1} s processor, {:.0} MB", cpu as f64 / 1e3, mb(*peak));
            say(name, figure);
        }
        for (name, counts) in &self.frames {
            for (kind, count) in counts {
                let figure = format!("{:>8} {:>12} B", count.frames, count.bytes);
                say(&format!("{name} {kind}"), figure);
            }
        }
        let (old, opens) = self.old;
        say("removed device, before", format!("{opens} of {old} open"));
        let (new, opens) = self.new;
        say("removed device, after", format!("{opens} of {new} open"));
        for (name, findings) in &self.findings {
            for code in findings {
                say(&format!("{name} found"), code.clone());
            }
        }
        text
    }
}
