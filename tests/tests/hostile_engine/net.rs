//! Devices as engines over rows in memory, and a service in memory between them. One thing after the other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use conclave_crdt::{Crdt, CrdtKind};
use conclave_engine::shell::Shell;
use conclave_engine::{
    Command, CommandId, Engine, EngineError, Event, Input, Output, Reply, Setup, Told,
};
use conclave_proto::codec::Varint;
use conclave_proto::frame::{ClientFrame, Request, ServiceFrame};
use conclave_proto::{DocumentId, GroupId, GroupPolicy, RealmId, UnixMs};
use conclave_testkit::rows::at_once;
use conclave_testkit::service::{ConnId, ORIGIN, Service};

/// In the past of any machine that runs this: OpenMLS compares leaf lifetimes with the true clock.
const START: UnixMs = UnixMs(1_700_000_000_000);
/// What happens by itself within this time has happened when a test goes on.
const SETTLE_MS: u64 = 30_000;
/// A device that gives more outputs than this at one time does not come to rest.
const OUTPUTS_AT_ONCE: usize = 5_000;

pub use conclave_testkit::rows::MemoryRows as Rows;

pub type Answer = Result<Reply, EngineError>;

/// One device.
pub struct Device {
    shell: Shell,
    pub rows: Rows,
    pub told: Vec<Told>,
    pub up: VecDeque<ClientFrame>,
    /// The connection, if there is one.
    pub conn: Option<ConnId>,
    /// Whether the last input changed what is stored.
    pub moved: bool,
}

impl Device {
    /// A new user.
    pub fn new(name: &str, seed: u8, now: UnixMs) -> Self {
        let setup = Setup::NewUser {
            name: name.to_owned(),
            realm: RealmId([5; 16]),
        };
        let (engine, output) = Engine::init(setup, [seed; 32], now).unwrap();
        Self::with(engine, output, Rows::default(), now)
    }

    /// A device from its rows.
    pub fn open(rows: Rows, seed: u8, now: UnixMs) -> Self {
        Self::try_open(rows, seed, now).unwrap()
    }

    /// A device from rows that may be damaged.
    pub fn try_open(rows: Rows, seed: u8, now: UnixMs) -> Result<Self, EngineError> {
        let needed = Engine::startup_prefixes();
        let first = needed.iter().flat_map(|prefix| rows.read(prefix));
        let (engine, output) = Engine::open(first.collect(), [seed; 32], now)?;
        Ok(Self::with(engine, output, rows, now))
    }

    fn with(engine: Engine, output: Output, rows: Rows, now: UnixMs) -> Self {
        let mut device = Self {
            shell: Shell::new(engine, output),
            rows,
            told: Vec::new(),
            up: VecDeque::new(),
            conn: None,
            moved: false,
        };
        device.perform(now);
        device
    }

    /// Hands over an input and does what comes of it: writes, reads, events. Frames wait in `up`.
    pub fn input(&mut self, now: UnixMs, input: Input) {
        self.shell.handle(now, input);
        self.moved = !self.shell.unreleased().batches.is_empty();
        self.perform(now);
    }

    fn perform(&mut self, now: UnixMs) {
        for _ in 0..OUTPUTS_AT_ONCE {
            let released = at_once(self.shell.release(&mut self.rows));
            self.told.extend(released.told);
            if self.conn.is_some() {
                self.up.extend(released.sends);
            }
            if released.hang_up.is_some() && self.conn.take().is_some() {
                self.up.clear();
                self.shell.handle(now, Input::ConnectionDown);
            } else if !at_once(self.shell.load(now, &mut self.rows)) {
                return;
            }
        }
        panic!("the engine does not come to rest");
    }

    /// Asks without waiting.
    pub fn command(&mut self, now: UnixMs, command: Command) -> CommandId {
        let id = self.shell.command(now, command);
        self.moved = !self.shell.unreleased().batches.is_empty();
        self.perform(now);
        id
    }

    /// The reply to a command, if it has come.
    pub fn reply(&self, id: CommandId) -> Option<Answer> {
        self.told.iter().find_map(|told| match told {
            Told::Reply { command, result } if *command == id => Some(result.clone()),
            _ => None,
        })
    }

    /// Codes of what the device found wrong.
    pub fn findings(&self) -> Vec<String> {
        let code = |told: &Told| match told {
            Told::Event(Event::Finding(found)) => Some(found.code.clone()),
            _ => None,
        };
        self.told.iter().filter_map(code).collect()
    }

    pub fn connect(&mut self, now: UnixMs, conn: ConnId) {
        self.conn = Some(conn);
        let origin = ORIGIN.to_owned();
        self.input(
            now,
            Input::ConnectionUp {
                origin,
                token: None,
            },
        );
    }

    pub fn disconnect(&mut self, now: UnixMs) {
        if self.conn.take().is_some() {
            self.up.clear();
            self.input(now, Input::ConnectionDown);
        }
    }

    /// The time that the device wants to be woken at.
    pub fn wakes(&self) -> Option<UnixMs> {
        self.shell.wake_at()
    }
}

/// Devices and the service between them.
pub struct Net {
    pub now: UnixMs,
    pub service: Service,
    pub devices: Vec<Device>,
    /// This device's conversation is kept: what it asked and was sent, in order.
    pub tapped: usize,
    pub asked: Vec<(Varint, Request)>,
    pub heard: Vec<ServiceFrame>,
    /// Devices that are cut off connect again, as often as this within one settling.
    pub reconnects: usize,
    conns: u64,
}

impl Net {
    pub fn new(names: &[&str]) -> Self {
        let devices = (1..).zip(names);
        let mut net = Self {
            now: START,
            service: Service::default(),
            devices: devices
                .map(|(seed, name)| Device::new(name, seed, START))
                .collect(),
            tapped: usize::MAX,
            asked: Vec::new(),
            heard: Vec::new(),
            reconnects: 0,
            conns: 0,
        };
        for at in 0..names.len() {
            net.connect(at);
        }
        net.settle();
        for one in 0..names.len() {
            for other in 0..names.len() {
                if one != other {
                    net.pin(one, other);
                }
            }
        }
        net
    }

    /// The same service, and some of the devices from their rows, offline.
    pub fn again(now: UnixMs, service: Service, rows: &[&Rows], seed: u8) -> Self {
        let devices = (seed..).zip(rows);
        Self {
            now,
            service,
            devices: devices
                .map(|(seed, rows)| Device::open((*rows).clone(), seed, now))
                .collect(),
            tapped: usize::MAX,
            asked: Vec::new(),
            heard: Vec::new(),
            reconnects: 0,
            conns: 1_000 * (u64::from(seed) + 1),
        }
    }

    pub fn connect(&mut self, at: usize) {
        self.conns += 1;
        let conn = ConnId(self.conns);
        self.service.connect(conn);
        self.devices[at].connect(self.now, conn);
    }

    pub fn disconnect(&mut self, at: usize) {
        if let Some(conn) = self.devices[at].conn {
            self.service.disconnect(conn);
            self.devices[at].disconnect(self.now);
        }
    }

    /// Runs until nothing happens any more within a while.
    pub fn settle(&mut self) {
        let end = self.now.plus_ms(SETTLE_MS);
        let mut again = self.reconnects;
        loop {
            while self.exchange() {}
            let off = self.devices.iter().position(|device| device.conn.is_none());
            if let Some(at) = off.filter(|_| again > 0) {
                again -= 1;
                self.connect(at);
                continue;
            }
            let wakes = self.devices.iter().filter_map(Device::wakes).min();
            let Some(next) = wakes.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next).plus_ms(1);
            for at in 0..self.devices.len() {
                if self.devices[at].wakes().is_some_and(|at| at <= self.now) {
                    self.devices[at].input(self.now, Input::Timer);
                }
            }
        }
        self.now = self.now.max(end);
    }

    /// One frame of each device goes to the service, and what comes of it to everybody.
    fn exchange(&mut self) -> bool {
        let mut any = false;
        for at in 0..self.devices.len() {
            let (Some(conn), Some(frame)) =
                (self.devices[at].conn, self.devices[at].up.pop_front())
            else {
                continue;
            };
            any = true;
            if let (true, ClientFrame::Request { id, body }) = (at == self.tapped, &frame) {
                self.asked.push((*id, body.clone()));
            }
            for (to, frame) in self.service.handle(conn, frame, self.now) {
                let Some(to) = self.devices.iter().position(|it| it.conn == Some(to)) else {
                    continue;
                };
                if to == self.tapped {
                    self.heard.push(frame.clone());
                }
                self.devices[to].input(self.now, Input::Frame(Box::new(frame)));
            }
        }
        any
    }

    /// Asks, and waits for the reply.
    pub fn ask(&mut self, at: usize, command: Command) -> Answer {
        let id = self.devices[at].command(self.now, command);
        if self.devices[at].reply(id).is_none() {
            self.settle();
        }
        self.devices[at].reply(id).expect("no reply")
    }

    fn pin(&mut self, one: usize, other: usize) {
        let Ok(Reply::WhoAmI(them)) = self.ask(other, Command::WhoAmI) else {
            panic!("no name")
        };
        let contact = them.contact.unwrap();
        let verified = true;
        self.ask(
            one,
            Command::Pin {
                contact,
                name: None,
                verified,
            },
        )
        .unwrap();
    }

    /// A group of the first with the others, and a document in it.
    pub fn group_with_document(&mut self, at: usize, others: &[usize]) -> (GroupId, DocumentId) {
        let create = Command::CreateGroup {
            name: "Board".to_owned(),
            policy: Box::new(GroupPolicy::default()),
        };
        let Ok(Reply::Group(group)) = self.ask(at, create) else {
            panic!("no group")
        };
        self.settle();
        for other in others {
            self.invite(group, at, *other);
        }
        let create = Command::CreateDocument {
            group,
            kind: CrdtKind::Yjs,
            title: "minutes".to_owned(),
            initial: Some(Box::new(|crdt| crdt.text().unwrap().splice(0, 0, "hello"))),
        };
        let Ok(Reply::Document(document)) = self.ask(at, create) else {
            panic!("no document")
        };
        self.settle();
        (group, document)
    }

    pub fn invite(&mut self, group: GroupId, at: usize, other: usize) {
        let Ok(Reply::WhoAmI(them)) = self.ask(other, Command::WhoAmI) else {
            panic!("no name")
        };
        let user = them.user.unwrap();
        let role = None;
        self.ask(at, Command::Invite { group, user, role }).unwrap();
        self.settle();
        self.ask(other, Command::Accept { group }).unwrap();
        self.settle();
    }

    pub fn text(&mut self, at: usize, group: GroupId, document: DocumentId) -> String {
        let found = Arc::new(Mutex::new(String::new()));
        let to = found.clone();
        let f = Box::new(move |crdt: &mut dyn Crdt| {
            *to.lock().unwrap() = crdt.text().unwrap().text()?;
            Ok(())
        });
        self.ask(at, Command::View { group, document, f }).unwrap();
        found.lock().unwrap().clone()
    }
}

/// Types at the end.
pub fn edit(group: GroupId, document: DocumentId, text: &str) -> Command {
    let text = text.to_owned();
    let f = Box::new(move |crdt: &mut dyn Crdt| {
        let view = crdt.text().unwrap();
        let end = view.len()?;
        view.splice(end, 0, &text)
    });
    Command::Edit { group, document, f }
}
