//! A member that is a process of its own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use conclave_client::{Adapter, Any, Client, Config, Document, EditError, Setup};
use conclave_crdt::automerge::Automerge;
use conclave_crdt::yjs::Yrs;
use conclave_crdt::{Crdt, CrdtError};
use conclave_proto::{DocumentId, GroupId, GroupPolicy, RealmId, UserId};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{unread, wrong};
use crate::{accept, document, online};

/// What is asked of a member's process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub(super) enum Ask {
    Contact,
    Verify {
        text: String,
    },
    Found,
    Invite {
        user: UserId,
    },
    Join {
        group: GroupId,
    },
    Create {
        kind: String,
    },
    /// Has a document open from here on.
    Open {
        document: DocumentId,
    },
    /// Begins to measure; edits another document all the time, where that is said.
    Begin {
        edits: bool,
    },
    /// How many records of a document were found wrong.
    Wrong {
        document: DocumentId,
    },
    /// Whether somebody is named for a document that is not read.
    Told {
        document: DocumentId,
    },
    /// How many operations there are of replicas.
    Replicas {
        document: DocumentId,
    },
    End,
}

/// What a member's process answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "told")]
pub(super) enum Told {
    Done,
    Contact { user: UserId, text: String },
    Group { group: GroupId },
    Document { document: DocumentId },
    Number { number: u64 },
    Measured(Measured),
    Failed { message: String },
}

/// What a member took between two moments.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) cpu_ms: f64,
    /// By how much its memory grew at most.
    pub(super) growth_mib: f64,
    /// Of the edits of another document, the one in the middle and the slowest.
    pub(super) median_ms: f64,
    pub(super) slowest_ms: f64,
}

/// Runs a member until standard input ends.
///
/// # Errors
/// When its store cannot be made.
pub async fn member(name: &str, store: &str, url: &str) -> Result<()> {
    let setup = Setup::NewUser {
        name: name.to_owned(),
        realm: RealmId::ZERO,
    };
    let client = Client::create(Config::new(store, url), setup).await?;
    let mut member = Member {
        client,
        group: None,
        open: Vec::new(),
        meter: None,
    };
    println!("ready");
    let mut lines = crate::rounds::process::input_lines();
    while let Some(line) = lines.recv().await {
        let told = member.answer(serde_json::from_str(&line)?).await;
        let told = told.unwrap_or_else(|error| Told::Failed {
            message: format!("{error:#}"),
        });
        println!("{}", serde_json::to_string(&told)?);
    }
    member.client.close().await?;
    Ok(())
}

struct Member {
    client: Client,
    group: Option<GroupId>,
    open: Vec<Document<Any>>,
    meter: Option<Meter>,
}

/// What was used when measuring began.
struct Meter {
    cpu: Duration,
    rss_kib: u64,
    editor: Option<Editor>,
}

struct Editor {
    stop: tokio::sync::oneshot::Sender<()>,
    times: tokio::task::JoinHandle<Result<Vec<Duration>>>,
}

/// Pause between two edits of the other document.
const PACE: Duration = Duration::from_millis(5);

async fn edit_on(
    document: Document<Any>,
    mut stop: tokio::sync::oneshot::Receiver<()>,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = &mut stop => return Ok(times),
            _ = ticks.tick() => {}
        }
        let begun = Instant::now();
        let write = |crdt: &mut dyn Crdt| crdt.text().ok_or(CrdtError::Engine)?.splice(0, 0, "x");
        loop {
            match document.edit(write).await {
                // On a busy machine it may be away for longer than its device waits: that is waited for as well.
                Err(EditError::Client(error)) if error.code() == "document.held" => {
                    ticks.tick().await;
                }
                done => break done?,
            }
        }
        times.push(begun.elapsed());
    }
}

/// Processor time of this process, with that of threads that have ended.
fn cpu() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanoseconds) = (used.tv_sec.unsigned_abs(), used.tv_nsec.unsigned_abs());
    Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
}

/// A line of this process's status, in KiB.
fn status_kib(name: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.context("no such line")?.parse()?)
}

impl Member {
    async fn group(&self) -> Result<conclave_client::Group> {
        Ok(self.client.group(&self.group.context("no group")?).await?)
    }

    async fn answer(&mut self, ask: Ask) -> Result<Told> {
        match ask {
            Ask::Contact => {
                online(&self.client).await?;
                let me = self.client.whoami().await?;
                let user = me.user.context("not enrolled")?;
                let text = me.contact.context("no contact")?;
                return Ok(Told::Contact { user, text });
            }
            Ask::Verify { text } => drop(self.client.verify(&text, true).await?),
            Ask::Found => {
                let policy = GroupPolicy::default();
                let group = self.client.create_group("Figures", policy).await?;
                self.group = Some(group.id());
                return Ok(Told::Group { group: group.id() });
            }
            Ask::Invite { user } => self.group().await?.invite(&user).await?,
            Ask::Join { group } => {
                accept(&self.client, &group).await?;
                self.group = Some(group);
            }
            Ask::Create { kind } => {
                let group = self.group().await?;
                let made = match kind.as_str() {
                    "automerge" => create::<Automerge>(&group).await?,
                    _ => create::<Yrs>(&group).await?,
                };
                let document = made.id();
                self.open.push(made);
                return Ok(Told::Document { document });
            }
            Ask::Open { document: id } => {
                if self.open.iter().all(|it| it.id() != id) {
                    let opened = document::<Any>(&self.group().await?, &id).await?;
                    opened.read(|_| Ok::<_, CrdtError>(())).await?;
                    self.open.push(opened);
                }
            }
            Ask::Begin { edits } => self.begin(edits)?,
            Ask::Wrong { document } => {
                let number = wrong(&self.client, &document).await?;
                return Ok(Told::Number { number });
            }
            Ask::Told { document } => {
                let number = u64::from(unread(&self.client, &document).await?.is_some());
                return Ok(Told::Number { number });
            }
            Ask::Replicas { document } => {
                let opened = self.open.iter().find(|it| it.id() == document);
                let opened = opened.context("not open")?;
                let count = |crdt: &mut dyn Crdt| {
                    Ok::<_, CrdtError>(crdt.replicas().iter().map(|(_, next)| *next).sum())
                };
                let number = match opened.read(count).await {
                    // It may be back later.
                    Err(EditError::Client(error)) if error.code() == "document.held" => 0,
                    number => number?,
                };
                return Ok(Told::Number { number });
            }
            Ask::End => return Ok(Told::Measured(self.end().await?)),
        }
        Ok(Told::Done)
    }

    fn begin(&mut self, edits: bool) -> Result<()> {
        let other = self.open.first().context("no document")?.clone();
        let editor = edits.then(|| {
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let times = tokio::spawn(edit_on(other, stopped));
            Editor { stop, times }
        });
        std::fs::write("/proc/self/clear_refs", "5").context("resetting the peak")?;
        self.meter = Some(Meter {
            cpu: cpu(),
            rss_kib: status_kib("VmRSS:")?,
            editor,
        });
        Ok(())
    }

    async fn end(&mut self) -> Result<Measured> {
        let meter = self.meter.take().context("nothing is measured")?;
        let used = cpu().saturating_sub(meter.cpu);
        let growth = status_kib("VmHWM:")?.saturating_sub(meter.rss_kib);
        let mut times = Vec::new();
        if let Some(editor) = meter.editor {
            let _ = editor.stop.send(());
            times = editor.times.await??;
            times.sort_unstable();
        }
        let at = |index: usize| times.get(index).map_or(0.0, |it| it.as_secs_f64() * 1e3);
        Ok(Measured {
            cpu_ms: used.as_secs_f64() * 1e3,
            growth_mib: growth as f64 / 1024.0,
            median_ms: at(times.len() / 2),
            slowest_ms: at(times.len().saturating_sub(1)),
        })
    }
}

async fn create<K: Adapter>(group: &conclave_client::Group) -> Result<Document<Any>> {
    let made = group.create_document::<K>("document").await?;
    made.synced().await?;
    Ok(made.as_any())
}
