//! Devices, their stores, the service, and a network between them on one seed and one virtual clock.

mod attack;
mod checks;
mod commands;
mod lending;
mod steps;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use conclave_engine::shell::Shell;
use conclave_engine::{
    Command, CommandId, Engine, EngineError, Event, GroupInfo, Input, Moment, Output, Reply, Setup,
    Told, Work, WriteBatch,
};
use conclave_proto::codec::Varint;
use conclave_proto::frame::{Answer, ClientFrame, Request, ServiceFrame};
use conclave_proto::group::CommitBundle;
use conclave_proto::refusal::{ForbiddenWhy, Refusal};
use conclave_proto::{
    DeviceId, DocumentId, GroupId, GroupPolicy, Hash, RealmId, Role, UnixMs, UserId,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use conclave_testkit::rows::{MemoryRows, at_once};
use conclave_testkit::service::{ConnId, ORIGIN, Outgoing, Service};

pub use commands::{create, edit};
pub use lending::{Lends, Stop};
use steps::Marks;

pub const REALM: RealmId = RealmId([5; 16]);
/// In the past of any machine that runs this: OpenMLS compares leaf lifetimes with the true clock.
const START: UnixMs = UnixMs(1_700_000_000_000);
/// What happens by itself within this time has happened when a test goes on.
const SETTLE_MS: u64 = 12_000;
/// How long a device that hung up leaves the service alone.
const HUNG_UP_MS: u64 = 1_000;
/// Most outputs of one device at one time.
const OUTPUTS_AT_ONCE: usize = 600;

pub type Result2 = Result<Reply, EngineError>;

/// A device dies at one of its outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    pub device: usize,
    /// Which output, counted since the world was made or loaded.
    pub output: usize,
    /// Whether its writes were still made.
    pub written: bool,
}

/// A connection is cut when the service has taken a certain frame, before anything more comes back.
#[derive(Debug, Clone)]
pub struct Cut {
    pub device: usize,
    pub after: &'static str,
}

pub struct Device {
    pub name: String,
    pub rows: MemoryRows,
    pub user: UserId,
    pub id: DeviceId,
    shell: Shell,
    conn: Option<ConnId>,
    /// Whether it connects again by itself.
    pub online: bool,
    /// It hung up, and waits so long before it connects again.
    pauses_until: UnixMs,
    up: VecDeque<ClientFrame>,
    down: VecDeque<ServiceFrame>,
    /// How far its clock is ahead of the true one, in milliseconds.
    fast_ms: i64,
    pub events: Vec<Event>,
    pub replies: BTreeMap<CommandId, Result2>,
    pub outputs: usize,
    pub restarts: usize,
    answered: BTreeSet<CommandId>,
    /// Keys of rows stored since somebody looked.
    pub stored: Vec<Vec<u8>>,
    /// Size of them, in bytes.
    pub stored_bytes: usize,
    at_once: usize,
    /// What it lends of its work on documents.
    pub lends: Lends,
    /// Whether its engine is one of those that do not come back.
    pub stops: bool,
    /// Work that it has lent and that nobody has done yet.
    pub work: Vec<Work>,
    /// Its rows as it left them: a test may have changed them since.
    left: MemoryRows,
    marks: Marks,
}

impl Device {
    /// A device whose engine has just begun.
    fn new(name: &str, rows: MemoryRows, shell: Shell) -> Self {
        Self {
            name: name.to_owned(),
            user: UserId::ZERO,
            id: DeviceId::ZERO,
            shell,
            conn: None,
            online: true,
            pauses_until: UnixMs(0),
            up: VecDeque::new(),
            down: VecDeque::new(),
            fast_ms: 0,
            events: Vec::new(),
            replies: BTreeMap::new(),
            outputs: 0,
            restarts: 0,
            answered: BTreeSet::new(),
            stored: Vec::new(),
            stored_bytes: 0,
            at_once: 0,
            lends: Lends::wanted(),
            stops: false,
            work: Vec::new(),
            left: rows.clone(),
            rows,
            marks: Marks::new(),
        }
    }

    /// When its next timer is due, by the true clock.
    fn due(&self, now: UnixMs) -> Option<UnixMs> {
        let timer = self.shell.wake_in_ms(moment(now, self.fast_ms));
        let timer = timer.map(|ms| now.plus_ms(ms));
        let connects = self.conn.is_none() && self.online && self.pauses_until > UnixMs(0);
        let connects = connects.then_some(self.pauses_until);
        timer.into_iter().chain(connects).min()
    }
}

pub struct World {
    pub seed: u64,
    /// Documents that a device has in memory at most; none: the usual number.
    pub in_memory: Option<usize>,
    pub now: UnixMs,
    pub devices: Vec<Device>,
    pub service: Service,
    pub crash: Option<Crash>,
    pub crashed: bool,
    pub cuts: Vec<Cut>,
    /// One in so many steps cuts a connection.
    pub cut_every: Option<u32>,
    /// This device garbles its next commit.
    pub garbles: Option<usize>,
    /// This device's next document begins with a snapshot that claims a higher epoch than its own.
    pub claims: Option<usize>,
    /// This device's next snapshot of this document holds what nobody wrote.
    pub forges: Option<(usize, DocumentId)>,
    /// What is forged nobody can open.
    pub unreadable: bool,
    /// What is forged, or claimed, is of a version that no program here knows.
    pub newer: bool,
    /// The service gives this device only the leaf of a record.
    pub withholds: Option<(usize, Hash)>,
    /// The service alters the second record of the next delivery of several that this device gets of this document.
    pub alters: Option<(usize, DocumentId)>,
    channels: BTreeMap<(usize, DocumentId), attack::Channel>,
    /// This device hears nothing for now, though its connection stands.
    pub held: Option<usize>,
    /// What this device sends stays on its way for now, though it hears everything.
    pub stalled: Option<usize>,
    /// The service does not allow these frames.
    pub forbidden: &'static [&'static str],
    /// The service refuses one such frame of this device, each once.
    pub refuses: Vec<(usize, &'static str, Refusal)>,
    /// Before each commit of the first of these devices the next of these commits of the second arrives, and is kept until it is ordered.
    pub outruns: Option<(usize, usize, VecDeque<CommitBundle>)>,
    /// Every answer comes twice, and one that nobody asked for with it.
    pub answers_twice: bool,
    /// Most snapshots in one output of a device.
    pub most_snapshots: usize,
    /// What must hold of a device is not looked at: it costs a walk.
    pub unchecked: bool,
    /// Whether devices tell each other what the service showed them: it takes a message a minute of each.
    pub beats: bool,
    /// The other half of a service that shows two histories, and who is there. What is shown in one half is passed on to the other.
    pub half: Option<(Service, BTreeSet<usize>)>,
    /// How far the service's clock is ahead of the true one, in milliseconds.
    pub service_fast_ms: i64,
    /// Kinds of what devices decided, in order.
    pub trace: Vec<String>,
    /// Frames from devices that reached the service.
    pub arrived: Vec<(usize, &'static str)>,
    /// What is lent of this document waits.
    pub slow: Option<DocumentId>,
    /// Where the engines of some devices never come back, in this document.
    pub stops: Option<(DocumentId, Stop)>,
    rng: ChaCha20Rng,
    lots: ChaCha20Rng,
    next_conn: u64,
    next_command: u64,
    lives: u64,
}

/// What is durable of a world.
#[derive(Clone)]
pub struct Saved {
    now: UnixMs,
    devices: Vec<(String, MemoryRows, UserId, DeviceId, bool)>,
    service: Service,
    lives: u64,
}

/// Names a frame.
pub fn kind(frame: &ClientFrame) -> &'static str {
    match frame {
        ClientFrame::Hello { .. } => "hello",
        ClientFrame::Login { .. } => "login",
        ClientFrame::Append { .. } => "append",
        ClientFrame::Ping => "ping",
        ClientFrame::Show { .. } => "show",
        ClientFrame::Request { body, .. } => match body {
            Request::PutDeviceList { .. } => "put_list",
            Request::GetDeviceList { .. } => "get_list",
            Request::PutKeyPackages { .. } => "put_packages",
            Request::ClaimKeyPackages { .. } => "claim",
            Request::CreateGroup { .. } => "create_group",
            Request::Commit(_) => "commit",
            Request::Propose { .. } => "propose",
            Request::PutEntry { .. } => "put_entry",
            Request::CreateDocument { .. } => "create_document",
            Request::SubscribeGroup { .. } => "subscribe",
            Request::OpenDocument { .. } => "open",
            Request::CloseDocument { .. } => "close",
            Request::PutSnapshot { .. } => "put_snapshot",
            Request::GetRecords { .. } => "get_records",
            Request::GetWraps { .. } => "get_wraps",
            Request::AckWelcome { .. } => "ack_welcome",
            Request::GetGroupInfo { .. } => "get_info",
            Request::PutGroupInfo { .. } => "put_info",
            Request::PutWrap { .. } => "put_wrap",
            Request::Ask { .. } => "ask",
            Request::ClearKeyPackages => "clear_packages",
            Request::Report { .. } => "report",
            Request::ReturnGroup { .. } => "return_group",
            Request::AdoptGroup { .. } => "adopt_group",
            Request::ReturnDocument { .. } => "return_document",
            Request::ConfirmLife => "confirm_life",
            Request::GetHead { .. } => "get_head",
            _ => "other",
        },
    }
}

fn told_kind(told: &Told) -> String {
    let event = match told {
        Told::Reply { result, .. } => {
            return match result {
                Ok(_) => "reply".to_owned(),
                Err(error) => format!("error {}", error.code()),
            };
        }
        Told::Event(event) => event,
    };
    match event {
        Event::Finding(found) => format!("finding {}", found.code),
        Event::Rotation { done, total, .. } => format!("rotation {done}/{total}"),
        Event::MembersChanged { epoch, .. } => format!("members {epoch}"),
        Event::DocumentChanged { .. } => "changed".to_owned(),
        Event::Acknowledged { pending, .. } => format!("acknowledged {pending}"),
        Event::DocumentListed { .. } => "listed".to_owned(),
        Event::Invitation { .. } => "invitation".to_owned(),
        Event::GroupLost { .. } => "lost".to_owned(),
        Event::Presence { .. } | Event::PresenceLost { .. } => "presence".to_owned(),
        Event::Online => "online".to_owned(),
        Event::Offline => "offline".to_owned(),
        _ => "event".to_owned(),
    }
}

/// A row key without what OpenMLS draws by itself.
fn row_name(key: &[u8]) -> String {
    match key.first() {
        Some(4) if key.get(17) == Some(&b'm') => "mls".to_owned(),
        Some(2) => "packages".to_owned(),
        _ => key.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

impl World {
    /// A world of users with one device each, all of whom have compared contacts.
    pub fn new(seed: u64, names: &[&str]) -> Self {
        let mut world = Self::empty(seed);
        for name in names {
            world.add(name);
        }
        for one in 0..names.len() {
            for other in 0..names.len() {
                if one != other {
                    world.pin(one, other);
                }
            }
        }
        world.run();
        world
    }

    pub fn empty(seed: u64) -> Self {
        Self {
            seed,
            in_memory: None,
            now: START,
            devices: Vec::new(),
            service: Service::default(),
            crash: None,
            crashed: false,
            cuts: Vec::new(),
            cut_every: None,
            garbles: None,
            claims: None,
            forges: None,
            unreadable: false,
            newer: false,
            withholds: None,
            alters: None,
            channels: BTreeMap::new(),
            held: None,
            stalled: None,
            forbidden: &[],
            refuses: Vec::new(),
            outruns: None,
            answers_twice: false,
            unchecked: false,
            most_snapshots: 0,
            beats: false,
            half: None,
            service_fast_ms: 0,
            trace: Vec::new(),
            arrived: Vec::new(),
            slow: None,
            stops: None,
            rng: ChaCha20Rng::seed_from_u64(seed),
            lots: ChaCha20Rng::seed_from_u64(seed ^ 0x1e17),
            next_conn: 0,
            next_command: 0,
            lives: 0,
        }
    }

    fn life(&mut self) -> [u8; 32] {
        self.lives += 1;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_be_bytes());
        seed[8..16].copy_from_slice(&self.lives.to_be_bytes());
        seed
    }

    /// Adds a user with one device.
    pub fn add(&mut self, name: &str) -> usize {
        self.add_fast(name, 0)
    }

    /// Adds a user with one device, whose clock is ahead by so much.
    pub fn add_fast(&mut self, name: &str, fast_ms: i64) -> usize {
        let setup = Setup::NewUser {
            name: name.to_owned(),
            realm: REALM,
        };
        self.add_device(name, setup, fast_ms)
    }

    /// Sets a device's clock ahead of the true one by so much.
    pub fn set_clock(&mut self, at: usize, fast_ms: i64) {
        self.devices[at].fast_ms = fast_ms;
    }

    /// Its user has compared the clocks and trusts the service's.
    pub fn trust_service_clock(&mut self, at: usize) {
        self.devices[at]
            .shell
            .engine_mut()
            .trust_service_clock(true);
    }

    /// What a device's clock shows.
    fn clock_of(&self, at: usize) -> UnixMs {
        shifted(self.now, self.devices[at].fast_ms)
    }

    fn moment_of(&self, at: usize) -> Moment {
        moment(self.now, self.devices[at].fast_ms)
    }

    pub fn add_device(&mut self, name: &str, setup: Setup, fast_ms: i64) -> usize {
        let seed = self.life();
        let now = shifted(self.now, fast_ms);
        let (engine, output) = Engine::init(setup, seed, now).unwrap();
        let at = self.devices.len();
        let shell = Shell::new(engine, output);
        let device = Device::new(name, MemoryRows::default(), shell);
        self.devices.push(Device { fast_ms, ..device });
        self.perform(at);
        self.learn_name(at);
        at
    }

    /// Reads who a device is.
    pub fn learn_name(&mut self, at: usize) {
        let Reply::WhoAmI(me) = self.ask(at, Command::WhoAmI) else {
            panic!("no name")
        };
        self.devices[at].id = me.device;
        self.devices[at].user = me.user.unwrap_or(UserId::ZERO);
    }

    pub fn pin(&mut self, at: usize, other: usize) {
        self.know(at, other, true);
    }

    /// Takes another device's user as known, with or without having compared the number.
    pub fn know(&mut self, at: usize, other: usize, verified: bool) {
        let Reply::WhoAmI(them) = self.ask(other, Command::WhoAmI) else {
            panic!("no name")
        };
        let contact = them.contact.unwrap();
        self.ask(
            at,
            Command::Pin {
                contact,
                name: None,
                verified,
            },
        );
    }

    pub fn save(&self) -> Saved {
        let device = |device: &Device| {
            (
                device.name.clone(),
                device.rows.clone(),
                device.user,
                device.id,
                device.online,
            )
        };
        let mut service = self.service.clone();
        service.disconnect_all();
        Saved {
            now: self.now,
            devices: self.devices.iter().map(device).collect(),
            service,
            lives: self.lives,
        }
    }

    /// All devices start again from what is durable.
    pub fn load(seed: u64, saved: &Saved, crash: Option<Crash>) -> Self {
        let mut world = Self::empty(seed);
        world.crash = crash;
        world.now = saved.now.plus_ms(1_000);
        world.service = saved.service.clone();
        world.lives = saved.lives;
        for (name, rows, user, id, online) in &saved.devices {
            let seed = world.life();
            let (engine, output) = open(rows, seed, world.now);
            let at = world.devices.len();
            let device = Device::new(name, rows.clone(), Shell::new(engine, output));
            world.devices.push(Device {
                user: *user,
                id: *id,
                online: *online,
                ..device
            });
            world.perform(at);
        }
        world
    }

    fn note(&mut self, at: usize) {
        let shell = &self.devices[at].shell;
        let wants = shell.unreleased();
        let batches = wants.batches.iter();
        let mut rows: Vec<String> = batches
            .flat_map(|batch| {
                let puts = batch.puts.keys().map(|key| ('+', key));
                puts.chain(batch.deletes.iter().map(|key| ('-', key)))
            })
            .map(|(sign, key)| format!("{sign}{}", row_name(key)))
            .collect();
        rows.sort();
        rows.dedup();
        let sends: Vec<&str> = wants.sends.iter().map(kind).collect();
        let told: Vec<String> = wants.told.iter().map(told_kind).collect();
        let wake_at = shell.wake_at();
        let line = format!("{at} {rows:?} {sends:?} {told:?} {wake_at:?}");
        self.trace.push(line);
    }

    /// Does what a transition wants, or dies on the way.
    fn perform(&mut self, at: usize) {
        self.note(at);
        let sends = &self.devices[at].shell.unreleased().sends;
        self.most_snapshots = self.most_snapshots.max(crate::counting::snapshots(sends));
        let number = self.devices[at].outputs;
        let device = &mut self.devices[at];
        device.outputs += 1;
        device.at_once += 1;
        assert!(
            self.unchecked || device.at_once < OUTPUTS_AT_ONCE,
            "seed {}: {} does not come to rest: {:#?}",
            self.seed,
            device.name,
            &self.trace[self.trace.len() - 8..]
        );
        let dies = self
            .crash
            .filter(|crash| crash.device == at && crash.output == number);
        if dies.is_some_and(|crash| !crash.written) {
            return self.die(at);
        }
        let batches = device.shell.unreleased().batches.iter();
        let stored = batches.flat_map(|batch| batch.puts.keys().cloned());
        device.stored.extend(stored);
        let batches = device.shell.unreleased().batches.iter();
        device.stored_bytes += batches.map(WriteBatch::bytes).sum::<usize>();
        while let Some(work) = device.shell.take_work() {
            device.work.push(work);
        }
        for batch in &device.shell.unreleased().batches {
            device.left.apply(batch);
        }
        let released = at_once(device.shell.release(&mut device.rows));
        if dies.is_some() {
            return self.die(at);
        }
        if !self.unchecked {
            self.check_durable(at, &released.sends);
        }
        let device = &mut self.devices[at];
        for told in released.told {
            match told {
                Told::Reply { command, result } => {
                    let before = device.replies.insert(command, result);
                    let first = before.is_none() && device.answered.insert(command);
                    assert!(first, "seed {}: {command:?} is answered twice", self.seed);
                }
                Told::Event(event) => device.events.push(event),
            }
        }
        let fleeting = device.shell.take_fleeting();
        if device.conn.is_some() {
            device.up.extend(released.sends);
            device.up.extend(fleeting);
        }
        if released.hang_up.is_some() {
            self.devices[at].pauses_until = self.now.plus_ms(HUNG_UP_MS);
            self.cut(at);
        }
    }

    fn die(&mut self, at: usize) {
        self.crash = None;
        self.crashed = true;
        self.check_kept(at);
        self.restart(at);
    }

    /// A new life of a device from its rows. What was sent may still arrive, in part.
    pub fn restart(&mut self, at: usize) {
        self.hang_up(at);
        self.forget_changed(at);
        let seed = self.life();
        let (engine, output) = open(&self.devices[at].rows, seed, self.clock_of(at));
        let device = &mut self.devices[at];
        device.shell.begin_again(engine, output);
        device.work.clear();
        device.restarts += 1;
        self.perform(at);
    }

    /// A device's store has no room: its engine is made anew from what is durable, in the same process.
    pub fn stall(&mut self, at: usize) {
        self.hang_up(at);
        self.forget_changed(at);
        let seed = self.life();
        let (engine, output) = open(&self.devices[at].rows, seed, self.clock_of(at));
        let shell = &mut self.devices[at].shell;
        let attended = shell.take_attendance();
        shell.begin_again(engine, output);
        shell.attend(attended);
        self.devices[at].work.clear();
        self.perform(at);
    }

    /// A device's process ends in order: what it says last is heard.
    pub fn end(&mut self, at: usize) {
        let last = self.devices[at].shell.end_presence();
        let conn = self.devices[at].conn.unwrap();
        for frame in last {
            self.serve(at, conn, frame);
        }
        self.go_offline(at);
    }

    /// A copy of a device's store at another place, not connected.
    pub fn copy(&mut self, at: usize) -> usize {
        let (rows, seed) = (self.devices[at].rows.clone(), self.life());
        let (engine, output) = open(&rows, seed, self.clock_of(at));
        let of = &self.devices[at];
        let (user, id, fast_ms) = (of.user, of.id, of.fast_ms);
        let device = Device::new("copy", rows, Shell::new(engine, output));
        let copy = self.devices.len();
        self.devices.push(Device {
            user,
            id,
            fast_ms,
            online: false,
            ..device
        });
        self.perform(copy);
        copy
    }

    /// Connects, if only to be told that it is kept out.
    pub fn knock(&mut self, at: usize) {
        self.go_online(at);
        self.run();
    }

    /// A new life of a device, while what the one before has sent is still on its way: it arrives when [`Self::arrive`] is called.
    pub fn restart_late(&mut self, at: usize) -> (ConnId, Vec<ClientFrame>) {
        let device = &mut self.devices[at];
        let conn = device.conn.take().unwrap();
        let late = device.up.drain(..).collect();
        device.down.clear();
        self.restart(at);
        (conn, late)
    }

    /// The service takes what a former life has sent.
    pub fn arrive(&mut self, at: usize, (conn, late): (ConnId, Vec<ClientFrame>)) {
        for frame in late {
            self.serve(at, conn, frame);
        }
    }

    /// The connection goes, and with it all that is on its way.
    pub fn lose(&mut self, at: usize) {
        self.devices[at].up.clear();
        self.cut(at);
    }

    /// Whether a frame of this kind is on its way from a device.
    pub fn is_sending(&self, at: usize, what: &str) -> bool {
        self.devices[at].up.iter().any(|frame| kind(frame) == what)
    }

    /// Of what is on its way to a device, the groups' entries overtake the rest: a service's logs are told of independently.
    pub fn entries_first(&mut self, at: usize) {
        let is_entry = |frame: &ServiceFrame| matches!(frame, ServiceFrame::GroupEntries { .. });
        let down = std::mem::take(&mut self.devices[at].down);
        let (mut down, rest): (VecDeque<_>, VecDeque<_>) = down.into_iter().partition(is_entry);
        down.extend(rest);
        self.devices[at].down = down;
    }

    /// Cuts a connection: the service gets some of what was sent, the device nothing more.
    fn hang_up(&mut self, at: usize) {
        let Some(conn) = self.devices[at].conn.take() else {
            return;
        };
        let sent: Vec<ClientFrame> = self.devices[at].up.drain(..).collect();
        let count = match sent.len() {
            0 => 0,
            len => (self.rng.next_u64() % (len as u64 + 1)) as usize,
        };
        for frame in sent.into_iter().take(count) {
            self.serve(at, conn, frame);
        }
        self.service_of(at).disconnect(conn);
        self.devices[at].down.clear();
    }

    pub fn cut(&mut self, at: usize) {
        self.hang_up(at);
        self.input(at, Input::ConnectionDown);
    }

    /// A device dies at each of its outputs in turn, with what that wrote and without, as long as there are more while `play` goes on from what was saved;
    /// then it is looked whether all is well. Gives how often it died.
    pub fn at_any_output(
        saved: &Saved,
        device: usize,
        seed: impl Fn(usize) -> u64,
        play: impl Fn(&mut Self),
        is_well: impl Fn(&mut Self, Crash),
    ) -> usize {
        let mut crashes = 0;
        for output in 0.. {
            let before = crashes;
            for written in [false, true] {
                let crash = Crash {
                    device,
                    output,
                    written,
                };
                let mut world = Self::load(seed(output), saved, Some(crash));
                play(&mut world);
                crashes += usize::from(world.crashed);
                world.crash = None;
                is_well(&mut world, crash);
            }
            if crashes == before {
                break;
            }
        }
        crashes
    }

    /// The service goes on from a copy of its data; everybody connects anew.
    pub fn put_back(&mut self, copy: Service) {
        for at in 0..self.devices.len() {
            self.cut(at);
        }
        self.service = copy;
        self.service.disconnect_all();
        self.run();
    }

    pub fn go_offline(&mut self, at: usize) {
        self.devices[at].online = false;
        if self.devices[at].conn.is_some() {
            self.cut(at);
        }
    }

    pub fn go_online(&mut self, at: usize) {
        self.devices[at].online = true;
    }

    fn connect(&mut self, at: usize) {
        self.devices[at].pauses_until = UnixMs(0);
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.service_of(at).connect(conn);
        self.devices[at].conn = Some(conn);
        let origin = ORIGIN.to_owned();
        self.input(
            at,
            Input::ConnectionUp {
                origin,
                token: None,
            },
        );
    }

    /// The service takes a frame; what it sends is on its way.
    fn serve(&mut self, at: usize, conn: ConnId, frame: ClientFrame) {
        if kind(&frame) == "commit" {
            self.outrun(at);
        }
        self.arrived.push((at, kind(&frame)));
        self.note_asked(at, &frame);
        let frame = match frame {
            ClientFrame::Request {
                id,
                body: Request::PutSnapshot { record },
            } if self.forges == Some((at, record.header.document)) => {
                self.forges = None;
                let record = self.forged(at, &record);
                let body = Request::PutSnapshot { record };
                ClientFrame::Request { id, body }
            }
            ClientFrame::Request {
                id,
                body: Request::Commit(good),
            } if self.garbles == Some(at) => {
                self.garbles = None;
                let device = &self.devices[at];
                let previous = self.service.group_info_of(&good.group).unwrap();
                let garbled = crate::forge::garble(&device.rows, device.id, &previous, &good);
                let body = Request::Commit(garbled);
                ClientFrame::Request { id, body }
            }
            ClientFrame::Request {
                id,
                body: Request::CreateDocument { entry, snapshot },
            } if self.claims == Some(at) => {
                self.claims = None;
                let snapshot = crate::forge::claim_epoch(&self.devices[at].rows, &snapshot);
                let body = Request::CreateDocument { entry, snapshot };
                ClientFrame::Request { id, body }
            }
            frame => frame,
        };
        let now = shifted(self.now, self.service_fast_ms);
        let refusal = self.refusal(at, kind(&frame));
        let out = match refusal.and_then(|refusal| refused(&frame, refusal)) {
            Some(refused) => vec![(conn, refused)],
            None => {
                let out = self.service_of(at).handle(conn, frame, now);
                self.passed_on(at, out)
            }
        };
        self.post(out);
    }

    /// The service, or the half of it, to which a device connects.
    fn service_of(&mut self, at: usize) -> &mut Service {
        match &mut self.half {
            Some((other, there)) if there.contains(&at) => other,
            _ => &mut self.service,
        }
    }

    /// What a device shows reaches those in the other half too.
    fn passed_on(&self, at: usize, mut out: Outgoing) -> Outgoing {
        let Some((_, there)) = &self.half else {
            return out;
        };
        let shown = out.iter().find_map(|(_, frame)| match frame {
            ServiceFrame::Shown { .. } => Some(frame.clone()),
            _ => None,
        });
        let others = (0..self.devices.len()).filter(|it| there.contains(it) != there.contains(&at));
        let conns = others.filter_map(|other| self.devices[other].conn);
        out.extend(conns.filter_map(|conn| Some((conn, shown.clone()?))));
        out
    }

    fn outrun(&mut self, at: usize) {
        let Some((outrun, by, mut chain)) = self.outruns.take() else {
            return;
        };
        if at == outrun
            && let Some(bundle) = chain.front().cloned()
        {
            let group = bundle.group;
            let (before, device) = (self.state(group).epoch, self.devices[by].id);
            let id = Varint((1 << 41) + chain.len() as u64);
            let body = Request::Commit(bundle);
            self.send_past(by, ClientFrame::Request { id, body });
            if self.state(group).epoch != before || !self.state(group).is_member(&device) {
                chain.pop_front();
            }
        }
        self.outruns = Some((outrun, by, chain));
    }

    /// Why the service does not take such a frame of a device now.
    fn refusal(&mut self, at: usize, what: &'static str) -> Option<Refusal> {
        let why = ForbiddenWhy::Role;
        if self.forbidden.contains(&what) {
            return Some(Refusal::Forbidden { why });
        }
        let mut refuses = self.refuses.iter();
        let which = refuses.position(|(who, name, _)| (*who, *name) == (at, what))?;
        Some(self.refuses.remove(which).2)
    }

    pub fn post(&mut self, out: Outgoing) {
        for (conn, frame) in out {
            let mut to = self.devices.iter();
            if let Some(at) = to.position(|device| device.conn == Some(conn)) {
                self.note_opened(at, &frame);
                let frame = self.withheld(at, frame);
                let frame = self.altered(at, frame);
                self.devices[at].down.push_back(frame);
            }
        }
    }

    pub fn input(&mut self, at: usize, input: Input) {
        let now = self.moment_of(at);
        self.set_lending(at);
        let beats = self.beats;
        self.devices[at].shell.engine_mut().set_beating(beats);
        let before = self.before(at);
        self.devices[at].shell.handle(now, input);
        if !self.unchecked {
            self.check_step(at, &before);
            let violated = self.devices[at].shell.engine().violated();
            assert_eq!(violated, None, "seed {}", self.seed);
        }
        self.perform(at);
    }

    /// One thing that can happen now happens. False: nothing can.
    pub fn step(&mut self) -> bool {
        let mut can: Vec<(usize, u8)> = Vec::new();
        for (at, device) in self.devices.iter().enumerate() {
            if device.conn.is_none() && device.online && device.pauses_until <= self.now {
                can.push((at, 0));
            }
            if device.shell.wants_rows() {
                can.push((at, 1));
            }
            if !device.up.is_empty() && self.stalled != Some(at) {
                can.push((at, 2));
            }
            if !device.down.is_empty() && self.held != Some(at) {
                can.push((at, 3));
            }
            if device.work.iter().any(|work| self.is_done(work)) {
                can.push((at, 4));
            }
        }
        if can.is_empty() {
            return false;
        }
        let (at, what) = can[(self.rng.next_u64() % can.len() as u64) as usize];
        if let Some(every) = self.cut_every
            && self.devices[at].conn.is_some()
            && self.rng.next_u32().is_multiple_of(every)
        {
            self.cut(at);
            return true;
        }
        match what {
            0 => self.connect(at),
            1 => {
                let now = self.moment_of(at);
                self.set_lending(at);
                let device = &mut self.devices[at];
                at_once(device.shell.load(now, &mut device.rows));
                self.perform(at);
            }
            4 => self.work(at),
            2 => {
                let frame = self.devices[at].up.pop_front().unwrap();
                let conn = self.devices[at].conn.unwrap();
                let name = kind(&frame);
                self.serve(at, conn, frame);
                let cut = |cut: &Cut| cut.device == at && cut.after == name;
                if let Some(which) = self.cuts.iter().position(cut) {
                    self.cuts.remove(which);
                    self.cut(at);
                }
            }
            _ => {
                let frame = self.devices[at].down.pop_front().unwrap();
                let again = frame.clone();
                if let ServiceFrame::Goodbye {
                    retry_after_ms: 1..,
                    ..
                } = frame
                {
                    // It does not knock again while a test lasts.
                    self.devices[at].online = false;
                }
                self.input(at, Input::Frame(Box::new(frame)));
                if self.answers_twice {
                    self.answer_again(at, again);
                }
            }
        }
        true
    }

    /// An answer that was taken comes again, and one that nobody asked for: neither does anything.
    fn answer_again(&mut self, at: usize, frame: ServiceFrame) {
        let ServiceFrame::Response { id, answer } = frame else {
            return;
        };
        let now = self.moment_of(at);
        while self.devices[at].shell.wake_in_ms(now) == Some(0) {
            self.input(at, Input::Timer);
        }
        for id in [id.0, u64::MAX >> 2] {
            let engine = self.devices[at].shell.engine_mut();
            let before = (format!("{engine:?}"), engine.state_hash());
            let answer = answer.clone();
            let id = Varint(id);
            let output = engine.handle(
                now,
                Input::Frame(Box::new(ServiceFrame::Response { id, answer })),
            );
            assert!(output.writes.is_empty() && output.reads.is_empty());
            assert!(output.sends.is_empty() && output.told.is_empty());
            assert_eq!(output.close_connection, None);
            let engine = self.devices[at].shell.engine();
            assert_eq!(format!("{engine:?}"), before.0, "seed {}", self.seed);
            assert_eq!(engine.state_hash(), before.1);
        }
    }

    /// Goes on step by step, the clock standing, until something holds.
    pub fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            assert!(self.step(), "seed {}: it never holds", self.seed);
        }
    }

    /// Runs until nothing happens any more within a while.
    pub fn run(&mut self) {
        self.advance(SETTLE_MS);
    }

    /// Runs for so long by the virtual clock.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        self.devices
            .iter_mut()
            .for_each(|device| device.at_once = 0);
        loop {
            while self.step() {}
            let next = self
                .devices
                .iter()
                .filter_map(|device| device.due(self.now))
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next).plus_ms(1);
            for at in 0..self.devices.len() {
                self.devices[at].at_once = 0;
                if self.devices[at]
                    .due(self.now)
                    .is_some_and(|at| at <= self.now)
                {
                    self.input(at, Input::Timer);
                }
            }
        }
        self.now = self.now.max(end);
    }
}

/// What a service answers that refuses something.
fn refused(frame: &ClientFrame, refusal: Refusal) -> Option<ServiceFrame> {
    match frame {
        ClientFrame::Append {
            channel,
            first_clock,
            ..
        } => Some(ServiceFrame::AppendRefused {
            channel: *channel,
            first_clock: *first_clock,
            refusal,
        }),
        ClientFrame::Request { id, .. } => Some(ServiceFrame::Response {
            id: *id,
            answer: Answer::Refused(refusal),
        }),
        _ => None,
    }
}

/// What both clocks of a device show whose wall clock is ahead by so much.
fn moment(now: UnixMs, fast_ms: i64) -> Moment {
    Moment {
        wall: shifted(now, fast_ms),
        steady_ms: now.0,
    }
}

fn shifted(time: UnixMs, by_ms: i64) -> UnixMs {
    UnixMs(time.0.saturating_add_signed(by_ms))
}

fn open(rows: &MemoryRows, seed: [u8; 32], now: UnixMs) -> (Engine, Output) {
    let prefixes = Engine::startup_prefixes();
    let needed = prefixes.iter().flat_map(|prefix| rows.read(prefix));
    Engine::open(needed.collect(), seed, now).unwrap()
}
