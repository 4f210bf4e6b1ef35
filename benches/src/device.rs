//! A device of rows in memory at a real service. What its engine takes is counted apart from everything around it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use conclave_client::transport::{Endpoint, Sender, Timing, Transport, Wire};
use conclave_crdt::{Crdt, CrdtError, CrdtKind};
use conclave_ds::{Clock, Config, Service};
use conclave_engine::shell::Shell;
use conclave_engine::{Command, DocFn, Engine, Event, Input, Reply, Setup, Told};
use conclave_proto::codec::encode;
use conclave_proto::{DocumentId, GroupId, GroupPolicy, RealmId};
use conclave_testkit::rows::MemoryRows;

use crate::measure::thread_time;

/// Nobody is closed for being silent while something else is measured.
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// Characters of a text that is edited.
const CHARACTERS: usize = 1_000;

/// Starts a service without rate limits on a free port.
///
/// # Errors
/// When it does not start.
pub async fn serve(folder: &Path) -> Result<Service> {
    let mut config = Config::new(folder, SocketAddr::from(([127, 0, 0, 1], 0)));
    config.rate_limits = None;
    config.limits.idle_ms = u64::try_from(IDLE.as_millis())?;
    Ok(Service::start(config).await?)
}

/// Where devices dial a service.
#[must_use]
pub fn origin(service: &Service) -> String {
    format!("ws://{}", service.local_addr())
}

/// One device.
pub struct Device {
    shell: Shell,
    rows: MemoryRows,
    transport: Transport,
    sender: Option<Sender>,
    origin: String,
    clock: Clock,
    /// Processor time that the engine has used.
    pub spent: Duration,
}

impl Device {
    /// A new user's device, let in by the service.
    ///
    /// # Errors
    /// When it is not.
    pub async fn start(origin: &str) -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let clock = Clock::default();
        let setup = Setup::NewUser {
            name: "Ana".to_owned(),
            realm: RealmId([1; 16]),
        };
        let (engine, output) = Engine::init(setup, seed, clock.now())?;
        let timing = Timing {
            idle: IDLE,
            ..Timing::default()
        };
        let mut device = Self {
            shell: Shell::new(engine, output),
            rows: MemoryRows::default(),
            transport: Transport::start(Endpoint::parse(origin)?, timing),
            sender: None,
            origin: origin.to_owned(),
            clock,
            spent: Duration::ZERO,
        };
        device.perform().await?;
        device
            .until(|told| matches!(told, Told::Event(Event::Online)).then_some(()))
            .await?;
        Ok(device)
    }

    /// Gives the engine what happened, and does what it wants.
    async fn input(&mut self, input: Input) -> Result<Vec<Told>> {
        let (now, began) = (self.clock.now(), thread_time());
        self.shell.handle(now, input);
        self.spent += thread_time().saturating_sub(began);
        self.perform().await
    }

    async fn perform(&mut self) -> Result<Vec<Told>> {
        let mut told = Vec::new();
        loop {
            let released = self.shell.release(&mut self.rows).await?;
            if let Some(why) = released.hang_up {
                bail!("the device hangs up: {why}");
            }
            if let Some(sender) = &self.sender {
                for frame in &released.sends {
                    sender.room().await?.send(encode(frame));
                }
            }
            told.extend(released.told);
            let (now, began) = (self.clock.now(), thread_time());
            let loaded = self.shell.load(now, &mut self.rows).await?;
            self.spent += thread_time().saturating_sub(began);
            if !loaded {
                return Ok(told);
            }
        }
    }

    /// Waits for what happens next.
    async fn next(&mut self) -> Result<Vec<Told>> {
        let timer = self.shell.wake_at().map_or(IDLE, |at| {
            Duration::from_millis(at.since_ms(self.clock.now()).max(1))
        });
        let wire = tokio::select! {
            wire = self.transport.next() => wire.context("the transport ended")?,
            () = tokio::time::sleep(timer) => return self.input(Input::Timer).await,
        };
        match wire {
            Wire::Up(sender) => {
                self.sender = Some(sender);
                let origin = self.origin.clone();
                self.input(Input::ConnectionUp {
                    origin,
                    token: None,
                })
                .await
            }
            Wire::Frame(frame) => self.input(Input::Frame(frame.into_frame())).await,
            other => bail!("the connection is gone: {other:?}"),
        }
    }

    async fn until<T>(&mut self, mut found: impl FnMut(&Told) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = self.next().await?.iter().find_map(&mut found) {
                return Ok(found);
            }
        }
    }

    async fn ask(&mut self, command: Command) -> Result<Reply> {
        let (now, began) = (self.clock.now(), thread_time());
        let id = self.shell.command(now, command);
        self.spent += thread_time().saturating_sub(began);
        let mut reply = |told: &Told| match told {
            Told::Reply { command, result } if *command == id => Some(result.clone()),
            _ => None,
        };
        let events = self.perform().await?;
        let found = match events.iter().find_map(&mut reply) {
            Some(found) => found,
            None => self.until(reply).await?,
        };
        Ok(found?)
    }

    /// Waits until nothing is under way between the device and the service.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn settle(&mut self) -> Result<()> {
        self.ask(Command::Settled).await.map(drop)
    }

    /// Makes a group.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn create_group(&mut self) -> Result<GroupId> {
        let command = Command::CreateGroup {
            name: "Benchmark".to_owned(),
            policy: Box::new(GroupPolicy::default()),
        };
        let Reply::Group(group) = self.ask(command).await? else {
            bail!("no group");
        };
        self.settle().await?;
        Ok(group)
    }

    /// Makes a document that the service then has.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn create_document(&mut self, group: GroupId) -> Result<DocumentId> {
        let initial: DocFn = Box::new(|crdt| insert(crdt, 0, &"x".repeat(CHARACTERS)));
        let command = Command::CreateDocument {
            group,
            kind: CrdtKind::Yjs,
            title: "Notes".to_owned(),
            initial: Some(initial),
        };
        let Reply::Document(document) = self.ask(command).await? else {
            bail!("no document");
        };
        self.ask(Command::Synced { group, document }).await?;
        Ok(document)
    }

    /// Types one character in the middle of a document, which the service then has.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn edit(&mut self, group: GroupId, document: DocumentId) -> Result<()> {
        let f: DocFn = Box::new(|crdt| insert(crdt, CHARACTERS / 2, "y"));
        let edited = self.ask(Command::Edit { group, document, f }).await?;
        ensure!(matches!(edited, Reply::Done), "not edited");
        self.ask(Command::Synced { group, document }).await?;
        Ok(())
    }
}

fn insert(crdt: &mut dyn Crdt, at: usize, text: &str) -> Result<(), CrdtError> {
    crdt.text()
        .ok_or(CrdtError::InvalidArgument)?
        .splice(at, 0, text)
}
