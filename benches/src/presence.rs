//! Presence of a large group over a real service: how long what one shows takes to the others, and what of it is lost.
//!
//! Most devices replay messages that were sealed before and open nothing that comes; a few prove, verify and open everything, as a client does, and are measured.
//! The service has one processor for itself, everything else another.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use conclave_doc::{DocKeys, seal as seal_record};
use conclave_identity::{
    DeviceCredential, DeviceKey, SignatureKey, UserGenesis, UserKey, enrol_first,
};
use conclave_mls::{ClientGroup, CommitInputs, DeviceContext, KeyStore, Plan};
use conclave_presence::{Change, Held, Here, Room, View, open, seal};
use conclave_proto::codec::{Bytes, Varint, encode};
use conclave_proto::frame::{ClientFrame, Request, ServiceFrame};
use conclave_proto::group::GroupEntry;
use conclave_proto::presence::{
    PRESENCE_VERSION, PresenceBody, PresenceContent, PresenceHeader, PresenceItem, Shown,
    ShownItem, ShownState,
};
use conclave_proto::record::{EntryBody, RECORD_VERSION, RecordBody, RecordHeader, SnapshotHeader};
use conclave_proto::{
    Author, CommitId, DeviceId, DocumentId, GroupId, GroupPolicy, Hash, Head, RealmId, SessionId,
};
use futures_util::{SinkExt as _, StreamExt as _};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::runtime::Builder;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::device::{origin, serve};
use crate::measure::thread_time;
use crate::writer::{INSTANCE, Wire, random};

/// Devices that are measured.
const READERS: usize = 3;
/// How long those that are measured get to prove who is there.
const PROOFS: Duration = Duration::from_secs(20);
/// What comes later than this after the last message was sent is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Devices that have the document open.
    pub devices: usize,
    /// How often each shows something, once a second.
    pub rounds: usize,
}

/// Measures, and says what was found.
///
/// # Errors
/// When a step fails.
pub fn measure(scale: Scale) -> Result<String> {
    ensure!(scale.devices > READERS, "at least {} devices", READERS + 1);
    let folder = tempfile::TempDir::new()?;
    let path = folder.path().to_owned();
    let (tell, told) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let service = thread::spawn(move || -> Result<()> {
        pin(0)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let service = runtime.block_on(serve(&path))?;
        tell.send((service.url(), origin(&service)))?;
        // Whoever measures is done, or has failed.
        let _ = runtime.block_on(stopped);
        runtime.block_on(service.shutdown());
        Ok(())
    });
    let (url, origin) = told.recv().context("no service")?;
    pin(1)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(play(scale, &url, &origin));
    drop(stop);
    match service.join() {
        Ok(ended) => ended?,
        Err(_) => bail!("the service failed"),
    }
    found
}

/// This thread, and all that it starts, run on one processor.
fn pin(to: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(to);
    Ok(sched_setaffinity(None, &one)?)
}

/// A device with its keys.
struct Device {
    id: DeviceId,
    key: DeviceKey,
    credential: DeviceCredential,
    list: Vec<u8>,
    wire: Wire,
    channel: u64,
}

impl Device {
    async fn start(url: &str, origin: &str, rng: &mut ChaCha20Rng) -> Result<Self> {
        let now = conclave_ds::Clock::default().now();
        let user = UserKey::generate(rng);
        let genesis = UserGenesis::new(RealmId([1; 16]), &user, now, rng);
        let (id, key) = (DeviceId(random(rng)), DeviceKey::generate(rng));
        let (credential, list) = enrol_first(&user, &genesis, &key, id, now)?;
        let mut wire = Wire::connect(url).await?;
        wire.login(&key, &credential, id, origin).await?;
        Ok(Self {
            id,
            key,
            credential,
            list: list.to_bytes(),
            wire,
            channel: 0,
        })
    }

    fn context(&self) -> DeviceContext<'_> {
        DeviceContext {
            key: &self.key,
            credential: &self.credential,
        }
    }

    fn author(&self) -> Author {
        Author {
            device: self.id,
            instance: INSTANCE,
        }
    }
}

/// What all have in common.
struct Place {
    group: GroupId,
    document: DocumentId,
    epoch: u64,
    head: Head,
    keys: DocKeys,
    members: BTreeMap<DeviceId, SignatureKey>,
}

impl View for Place {
    fn head(&self) -> Head {
        self.head
    }

    fn held(&self, size: u64) -> Held {
        match size == self.head.size {
            true => Held::Known(self.head),
            false => Held::Ahead,
        }
    }

    fn key_of(&self, device: &DeviceId) -> Option<SignatureKey> {
        self.members.get(device).cloned()
    }
}

impl Place {
    fn header(&self, author: Author, session: SessionId, to: Option<SessionId>) -> PresenceHeader {
        PresenceHeader {
            version: PRESENCE_VERSION,
            group: self.group,
            document: self.document,
            epoch: self.epoch,
            author,
            seen: self.head,
            session,
            to,
        }
    }
}

/// A group in which all devices have its directory open.
async fn place(devices: &mut [Device], rng: &mut ChaCha20Rng) -> Result<Place> {
    let now = conclave_ds::Clock::default().now();
    for device in devices.iter_mut() {
        let list = device.list.clone().into();
        device.wire.request(Request::PutDeviceList { list }).await?;
    }
    let group_id = GroupId(random(rng));
    let (owner, others) = devices.split_first_mut().context("nobody")?;
    let (mut group, created) =
        ClientGroup::create(&owner.context(), group_id, GroupPolicy::default(), now)?;
    let request = Request::CreateGroup {
        group_info: created.group_info.into(),
        tree: created.tree.into(),
        founded: now,
    };
    owner.wire.accepted(request).await?;
    let document = DocumentId::directory(&group_id);
    let body = EntryBody::DocumentCreated { document, crdt: 1 };
    let entry = group.sign_entry(&owner.context(), body, INSTANCE);
    let header = RecordHeader {
        version: RECORD_VERSION,
        group: group_id,
        document,
        epoch: group.epoch(),
        author: owner.author(),
        seen: Head::EMPTY,
        body: RecordBody::Snapshot(SnapshotHeader {
            parent: Hash::ZERO,
            chain_proof: Hash::ZERO,
            covered: Head::EMPTY,
            crdt: 1,
        }),
    };
    let keys = DocKeys::derive(&group.epoch_secrets()?.root, &document);
    let snapshot = seal_record(&header, b"directory", &keys, &owner.key, 1, rng);
    let request = Request::CreateDocument {
        entry: entry.clone(),
        snapshot,
    };
    owner.wire.accepted(request).await?;
    group.process(&GroupEntry::Signed(entry))?;

    let mut add = Vec::new();
    for other in others.iter() {
        let mut keys = KeyStore::load(Vec::new())?;
        let mut made = keys.generate(&other.context(), 1, false, now)?;
        add.push(made.one_time.pop().context("no key package")?);
    }
    let plan = Plan {
        add,
        ..Plan::default()
    };
    let inputs = CommitInputs {
        now,
        service_time: now,
        id: CommitId(random(rng)),
        live_roots: &[],
    };
    let prepared = group.commit(&owner.context(), &plan, inputs, rng)?;
    let from = group.state().head().size;
    owner
        .wire
        .accepted(Request::Commit(prepared.bundle))
        .await?;
    let group_log = Request::SubscribeGroup {
        group: group_id,
        from,
    };
    owner.wire.request(group_log).await?;
    while group.epoch() < prepared.epoch {
        if let ServiceFrame::GroupEntries { entries, .. } = owner.wire.receive().await? {
            for entry in &entries {
                group.process(entry)?;
            }
        }
    }
    let mut head = Head::EMPTY;
    for device in devices.iter_mut() {
        let opened = device.wire.open(group_id, document).await?;
        device.channel = opened.channel.0;
        head = opened.head();
    }
    let members = devices.iter().map(|device| {
        let key = device.key.public().to_vec();
        (device.id, SignatureKey::from(key))
    });
    Ok(Place {
        group: group_id,
        document,
        epoch: group.epoch(),
        head,
        keys: DocKeys::of_presence(&group.epoch_secrets()?.presence_root, &document),
        members: members.collect(),
    })
}

/// What one who replays has sealed.
struct Tape {
    /// To each of those that are measured, what proves it.
    proofs: Vec<Vec<u8>>,
    states: Vec<Vec<u8>>,
}

/// When what was shown was sent: by whose it is and the round.
type Sent = std::rc::Rc<std::cell::RefCell<Vec<Vec<Option<Instant>>>>>;

fn shown(round: usize) -> Shown {
    // As much as a name, a colour and a cursor.
    let value = format!(
        "{{\"round\":{round},\"user\":{{\"name\":\"{:0>80}\"}}}}",
        ""
    );
    Shown {
        states: vec![ShownState {
            index: 0,
            kind: 3,
            value: Bytes::from(value.as_bytes()),
        }],
    }
}

fn round_of(state: &ShownState) -> Option<usize> {
    let value: serde_json::Value = serde_json::from_slice(state.value.as_slice()).ok()?;
    usize::try_from(value.get("round")?.as_u64()?).ok()
}

async fn play(scale: Scale, url: &str, origin: &str) -> Result<String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let mut rng = ChaCha20Rng::from_seed(seed);
    let mut devices = Vec::new();
    for _ in 0..scale.devices {
        devices.push(Device::start(url, origin, &mut rng).await?);
    }
    let place = place(&mut devices, &mut rng).await?;

    // Those that are measured say hello, and everybody can read their nonces.
    let mut readers = Vec::new();
    let mut greetings = Vec::new();
    let began = Instant::now();
    for device in devices.drain(..READERS) {
        let mut reader = Reader::new(device, &place, &mut rng)?;
        let (session, nonce, hello) = reader.greet(&place)?;
        greetings.push((session, nonce));
        reader.device.wire.send(&hello).await?;
        readers.push(reader);
    }
    let mut tapes = Vec::new();
    for device in &devices {
        tapes.push(tape(device, &place, &greetings, scale.rounds, &mut rng)?);
    }
    let count = devices.len();
    let sent: Sent = std::rc::Rc::new(vec![vec![None; scale.rounds]; count + READERS].into());
    let number: BTreeMap<DeviceId, usize> = readers
        .iter()
        .map(|reader| reader.device.id)
        .chain(devices.iter().map(|device| device.id))
        .enumerate()
        .map(|(at, id)| (id, at))
        .collect();

    let local = tokio::task::LocalSet::new();
    let (place, number) = (std::rc::Rc::new(place), std::rc::Rc::new(number));
    local
        .run_until(async move {
            let starts = Instant::now() + PROOFS;
            let ends = starts + Duration::from_secs(scale.rounds as u64);
            let mut replaying = Vec::new();
            for (at, (device, tape)) in devices.into_iter().zip(tapes).enumerate() {
                let after = Duration::from_secs_f64(at as f64 / count as f64);
                let sent = sent.clone();
                replaying.push(tokio::task::spawn_local(async move {
                    replay(device, tape, starts + after, ends, READERS + at, sent).await
                }));
            }
            let mut measured = Vec::new();
            for (at, reader) in readers.into_iter().enumerate() {
                let (place, number, sent) = (place.clone(), number.clone(), sent.clone());
                let rounds = scale.rounds;
                measured.push(tokio::task::spawn_local(async move {
                    reader
                        .read(&place, &number, (began, starts, ends), rounds, at, sent)
                        .await
                }));
            }
            let mut found = Vec::new();
            for task in measured {
                found.push(task.await??);
            }
            let spent = thread_time();
            for task in replaying {
                task.abort();
            }
            Ok(report(scale, &found, spent))
        })
        .await
}

/// What one who replays sends: sealed before anything is measured.
fn tape(
    device: &Device,
    place: &Place,
    greetings: &[(SessionId, [u8; 16])],
    rounds: usize,
    rng: &mut ChaCha20Rng,
) -> Result<Tape> {
    let session = SessionId(random(rng));
    let mut counter = 0;
    let mut sealed = |body, to, rng: &mut ChaCha20Rng| -> Result<Vec<u8>> {
        counter += 1;
        let content = PresenceContent {
            session,
            counter,
            body,
        };
        let header = place.header(device.author(), session, to);
        let item = seal(&header, &content, &place.keys, &device.key, rng).context("too long")?;
        Ok(encode(&show(device.channel, item)))
    };
    let mut proofs = Vec::new();
    for (of, echo) in greetings {
        let body = PresenceBody::Answer {
            echo: *echo,
            now: Shown::default(),
        };
        proofs.push(sealed(body, Some(*of), rng)?);
    }
    let states = (0..rounds).map(|round| sealed(PresenceBody::State(shown(round)), None, rng));
    let states = states.collect::<Result<_>>()?;
    Ok(Tape { proofs, states })
}

fn show(channel: u64, item: PresenceItem) -> ClientFrame {
    let channel = Varint(channel);
    ClientFrame::Show { channel, item }
}

/// Sends a tape, once a second, and opens nothing that comes.
async fn replay(
    device: Device,
    tape: Tape,
    starts: Instant,
    ends: Instant,
    number: usize,
    sent: Sent,
) -> Result<()> {
    let (mut sink, mut stream) = device.wire.socket.split();
    // Over the whole time for it, so that nobody is asked for more proofs at once than a client would be.
    let wait = PROOFS.mul_f64(0.8 * (number as f64 % 100.0) / 100.0);
    let begins = starts.checked_sub(PROOFS).unwrap_or(starts) + wait;
    let mut frames = Vec::new();
    for (at, proof) in tape.proofs.into_iter().enumerate() {
        frames.push((begins + Duration::from_millis(100 * at as u64), None, proof));
    }
    for (round, state) in tape.states.into_iter().enumerate() {
        let at = starts + Duration::from_secs(round as u64);
        frames.push((at, Some(round), state));
    }
    let mut frames = frames.into_iter().peekable();
    loop {
        let next = frames.peek().map_or(ends + 2 * PATIENCE, |(at, ..)| *at);
        tokio::select! {
            () = tokio::time::sleep_until(next) => {
                let Some((_, round, frame)) = frames.next() else {
                    return Ok(());
                };
                if let Some(round) = round
                    && let Some(slot) = sent.borrow_mut().get_mut(number).and_then(|of| of.get_mut(round))
                {
                    *slot = Some(Instant::now());
                }
                sink.send(Message::Binary(frame.into())).await?;
            }
            came = stream.next() => {
                came.context("the connection ended")??;
            }
        }
    }
}

/// A device that is measured.
struct Reader {
    device: Device,
    room: Room,
    rng: ChaCha20Rng,
}

/// What a device that is measured has found.
#[derive(Default)]
struct Found {
    /// From sending to showing, in microseconds.
    took_us: Vec<u64>,
    /// Messages that were not shown, and a later one of the same device was.
    superseded: usize,
    /// The last message of a device, where it was not shown.
    lost: usize,
    /// Devices that never proved to be there.
    unproven: usize,
    frames: usize,
    bytes: usize,
    refused: usize,
}

impl Reader {
    fn new(device: Device, place: &Place, rng: &mut ChaCha20Rng) -> Result<Self> {
        let author = device.author();
        let room = Room::new(place.group, place.document, author, 0, rng);
        let rng = ChaCha20Rng::from_seed(random(rng));
        Ok(Self { device, room, rng })
    }

    fn here<T>(
        &mut self,
        place: &Place,
        now_ms: u64,
        call: impl FnOnce(&mut Room, &mut Here<'_>) -> T,
    ) -> T {
        let mut here = Here {
            now_ms,
            epoch: place.epoch,
            keys: &place.keys,
            signer: &self.device.key,
            view: place,
            rng: &mut self.rng,
        };
        call(&mut self.room, &mut here)
    }

    fn greet(&mut self, place: &Place) -> Result<(SessionId, [u8; 16], ClientFrame)> {
        let step = self.here(place, 0, |room, here| room.join(0, here));
        let item = step.send.into_iter().next().context("no hello")?;
        let header = place.header(self.device.author(), item.session, None);
        let content = open(&header, &item.sealed, &place.keys)?;
        let PresenceBody::Hello { nonce } = content.body else {
            bail!("no hello");
        };
        let session = item.session;
        Ok((session, nonce, show(self.device.channel, item)))
    }

    async fn read(
        mut self,
        place: &Place,
        number: &BTreeMap<DeviceId, usize>,
        (began, starts, ends): (Instant, Instant, Instant),
        rounds: usize,
        own: usize,
        sent: Sent,
    ) -> Result<Found> {
        let mut found = Found::default();
        let mut last: Vec<Option<usize>> = vec![None; number.len()];
        let mut shows = 0;
        let done = ends + PATIENCE;
        loop {
            let now_ms = u64::try_from(began.elapsed().as_millis())?;
            let due = self
                .room
                .due_ms()
                .map_or(done, |ms| began + Duration::from_millis(ms));
            let next = match shows < rounds {
                true => starts + Duration::from_millis(1000 * shows as u64 + 300 * own as u64),
                false => done,
            };
            let wakes = due.min(next).min(done);
            let mut step = tokio::select! {
                biased;
                () = tokio::time::sleep_until(wakes) => {
                    if Instant::now() >= done {
                        break;
                    }
                    if Instant::now() >= next && shows < rounds {
                        let round = shows;
                        shows += 1;
                        if let Some(slot) = sent.borrow_mut().get_mut(own).and_then(|of| of.get_mut(round)) {
                            *slot = Some(Instant::now());
                        }
                        self.here(place, now_ms, |room, here| room.show(shown(round), here))?
                    } else {
                        self.here(place, now_ms, |room, here| room.tick(here))
                    }
                }
                frame = self.device.wire.receive() => {
                    let ServiceFrame::Shown { items, .. } = frame? else {
                        continue;
                    };
                    found.frames += 1;
                    let mut all = conclave_presence::Step::default();
                    for ShownItem { author, item } in items.0 {
                        found.bytes += item.sealed.ciphertext.len() + 160;
                        match self.here(place, now_ms, |room, here| room.receive(author, item, here)) {
                            Ok(step) => all.extend(step),
                            Err(conclave_presence::Refused::Own | conclave_presence::Refused::NotForThis) => {}
                            Err(_) => found.refused += 1,
                        }
                    }
                    all
                }
            };
            for item in std::mem::take(&mut step.send) {
                self.device
                    .wire
                    .send(&show(self.device.channel, item))
                    .await?;
            }
            for change in step.changes {
                let Change::Shows(id, state) = change else {
                    continue;
                };
                let (Some(of), Some(round)) = (number.get(&id.author.device), round_of(&state))
                else {
                    continue;
                };
                let at = sent
                    .borrow()
                    .get(*of)
                    .and_then(|of| of.get(round).copied().flatten());
                if let Some(at) = at {
                    found.took_us.push(u64::try_from(at.elapsed().as_micros())?);
                }
                if let Some(seen) = last.get_mut(*of) {
                    let next = seen.map_or(0, |seen| seen + 1);
                    found.superseded += round.saturating_sub(next);
                    *seen = Some(round);
                }
            }
        }
        for (of, seen) in last.into_iter().enumerate() {
            match seen {
                _ if of == own => {}
                None => found.unproven += 1,
                Some(seen) => found.lost += usize::from(seen + 1 < rounds),
            }
        }
        Ok(found)
    }
}

fn report(scale: Scale, found: &[Found], spent: Duration) -> String {
    let mut took: Vec<u64> = found
        .iter()
        .flat_map(|found| &found.took_us)
        .copied()
        .collect();
    took.sort_unstable();
    let at = |part: f64| {
        let place = (took.len() as f64 * part) as usize;
        let us = took.get(place.min(took.len().saturating_sub(1))).copied();
        us.unwrap_or_default() as f64 / 1000.0
    };
    let sum = |of: fn(&Found) -> usize| found.iter().map(of).sum::<usize>();
    let mut text = String::new();
    let Scale { devices, rounds } = scale;
    let expected = found.len() * (devices - 1) * rounds;
    // Writing to a text does not fail.
    let _ = writeln!(
        text,
        "devices                    {devices}, of which {} are measured",
        found.len()
    );
    let _ = writeln!(
        text,
        "shown                      {rounds} times each, once a second"
    );
    let _ = writeln!(
        text,
        "delivered                  {} of {expected}",
        took.len()
    );
    let _ = writeln!(
        text,
        "p50, p99, longest          {:.0}, {:.0}, {:.0} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    let _ = writeln!(
        text,
        "superseded                 {}",
        sum(|found| found.superseded)
    );
    let _ = writeln!(
        text,
        "lost and not superseded    {}",
        sum(|found| found.lost)
    );
    let _ = writeln!(
        text,
        "never proven               {}",
        sum(|found| found.unproven)
    );
    let _ = writeln!(
        text,
        "refused                    {}",
        sum(|found| found.refused)
    );
    let seconds = rounds.max(1);
    let _ = writeln!(
        text,
        "to each that is measured   {} frames and {} kB a second",
        sum(|found| found.frames) / found.len().max(1) / seconds,
        sum(|found| found.bytes) / found.len().max(1) / seconds / 1000
    );
    let _ = writeln!(
        text,
        "processor time of devices  {:.1} s",
        spent.as_secs_f64()
    );
    text
}
