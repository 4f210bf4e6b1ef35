//! Real devices and the real core of a service, in memory, on one clock. Whatever can happen happens in turn, the same each time but for
//! what MLS draws.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context as _, Result, bail, ensure};
use conclave_engine::shell::Shell;
use conclave_engine::{Command, CommandId, Engine, EngineError, Input, Reply, Setup, Told};
use conclave_proto::codec::encode;
use conclave_proto::frame::{ClientFrame, ServiceFrame};
use conclave_proto::{RealmId, UnixMs};
use conclave_testkit::rows::{MemoryRows, at_once};
use conclave_testkit::service::{ConnId, ORIGIN, Service, Signing};

use super::super::page::Page;
use super::super::value::Decoder;
use super::super::{NOW, frames};
use super::secrets::Secrets;
use super::{Event, Frame, Hex, Way};

/// What happens by itself within this time has happened when the story goes on.
const SETTLE_MS: u64 = 60_000;
/// More than ever happens within that.
const STEPS: usize = 10_000;
/// Seed of the service's key.
pub(super) const SERVICE_SEED: u8 = 9;

/// A device, and what is on its way.
pub(super) struct Device {
    pub(super) name: String,
    pub(super) rows: MemoryRows,
    shell: Shell,
    connected: bool,
    up: VecDeque<ClientFrame>,
    down: VecDeque<ServiceFrame>,
    replies: BTreeMap<CommandId, Result<Reply, EngineError>>,
}

/// Everything.
pub(super) struct World<'p> {
    page: &'p Page,
    pub(super) now: UnixMs,
    pub(super) service: Service,
    pub(super) devices: Vec<Device>,
    pub(super) events: Vec<Event>,
    pub(super) secrets: Secrets,
}

impl<'p> World<'p> {
    pub(super) fn new(page: &'p Page) -> Self {
        let mut service = Service::default();
        service.sign_as(Signing::founded_at(SERVICE_SEED, NOW));
        Self {
            page,
            now: NOW,
            service,
            devices: Vec::new(),
            events: Vec::new(),
            secrets: Secrets::default(),
        }
    }

    /// What somebody does next.
    pub(super) fn step(&mut self, what: &str) {
        let step = what.to_owned();
        self.events.push(Event::Step { step });
    }

    /// A new user's device; it connects, and what it does by itself is done.
    pub(super) fn add(&mut self, name: &str) -> Result<usize> {
        let setup = Setup::NewUser {
            name: name.to_owned(),
            realm: RealmId::ZERO,
        };
        let at = self.devices.len();
        let seed = [0xc0 | u8::try_from(at)?; 32];
        let (engine, output) = Engine::init(setup, seed, self.now)?;
        self.devices.push(Device {
            name: name.to_owned(),
            rows: MemoryRows::default(),
            shell: Shell::new(engine, output),
            connected: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
            replies: BTreeMap::new(),
        });
        self.release(at)?;
        self.run()?;
        Ok(at)
    }

    /// Asks a device for something, and waits until all is quiet.
    pub(super) fn ask(&mut self, at: usize, command: Command) -> Result<Reply> {
        let now = self.now;
        let id = self.device(at)?.shell.command(now, command);
        self.release(at)?;
        self.run()?;
        let reply = self.device(at)?.replies.remove(&id);
        Ok(reply.context("no reply")??)
    }

    fn device(&mut self, at: usize) -> Result<&mut Device> {
        self.devices.get_mut(at).context("no such device")
    }

    fn input(&mut self, at: usize, input: Input) -> Result<()> {
        let now = self.now;
        self.device(at)?.shell.handle(now, input);
        self.release(at)
    }

    /// Makes durable what a device wants, and takes what may leave it.
    fn release(&mut self, at: usize) -> Result<()> {
        let device = self.device(at)?;
        let released = at_once(device.shell.release(&mut device.rows));
        ensure!(released.hang_up.is_none(), "{:?}", released.hang_up);
        for told in released.told {
            if let Told::Reply { command, result } = told {
                device.replies.insert(command, result);
            }
        }
        if device.connected {
            device.up.extend(released.sends);
        }
        if released.stored {
            let rows = device.rows.clone();
            let name = device.name.clone();
            self.secrets.look(&name, &rows)?;
        }
        Ok(())
    }

    /// Until nothing happens any more within a while.
    pub(super) fn run(&mut self) -> Result<()> {
        let end = self.now.plus_ms(SETTLE_MS);
        for _ in 0..STEPS {
            let mut moved = false;
            for at in 0..self.devices.len() {
                moved |= self.move_on(at)?;
            }
            if moved {
                continue;
            }
            let due = self
                .devices
                .iter()
                .filter_map(|it| it.shell.wake_at())
                .min();
            let Some(due) = due.filter(|due| *due <= end) else {
                self.now = end;
                return Ok(());
            };
            self.now = self.now.max(due).plus_ms(1);
            for at in 0..self.devices.len() {
                let now = self.now;
                self.device(at)?.shell.wake(now);
                self.release(at)?;
            }
        }
        bail!("it does not come to rest")
    }

    /// One thing that a device can do now. False: nothing.
    fn move_on(&mut self, at: usize) -> Result<bool> {
        let now = self.now;
        let conn = ConnId(at as u64);
        let device = self.device(at)?;
        if !device.connected {
            device.connected = true;
            self.service.connect(conn);
            let origin = ORIGIN.to_owned();
            let token = None;
            self.input(at, Input::ConnectionUp { origin, token })?;
        } else if device.shell.wants_rows() {
            at_once(device.shell.load(now, &mut device.rows));
            self.release(at)?;
        } else if let Some(frame) = device.up.pop_front() {
            self.serve(at, conn, frame)?;
        } else if let Some(frame) = device.down.pop_front() {
            self.input(at, Input::Frame(Box::new(frame)))?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// The service takes a frame. What it took and what it sends of that is what is recorded.
    fn serve(&mut self, at: usize, conn: ConnId, frame: ClientFrame) -> Result<()> {
        self.note(at, Way::Up, "ClientFrame", encode(&frame))?;
        for (conn, frame) in self.service.handle(conn, frame, self.now) {
            let to = usize::try_from(conn.0)?;
            self.note(to, Way::Down, "ServiceFrame", encode(&frame))?;
            self.device(to)?.down.push_back(frame);
        }
        Ok(())
    }

    fn note(&mut self, at: usize, way: Way, of: &str, frame: Vec<u8>) -> Result<()> {
        let shown = Decoder::new(self.page).decode(of, &frame)?;
        let mut what = String::new();
        frames::name_of(&shown, &mut what);
        let who = self.device(at)?.name.clone();
        self.events.push(Event::Frame(Frame {
            at: self.now.0,
            who,
            way,
            what: what.trim_start_matches(": ").to_owned(),
            frame: Hex(frame),
        }));
        Ok(())
    }
}
