//! A member whose program keeps none of the rules about what may be written: it seals whatever it likes, with the keys that are in its own store. All
//! else about it is honest, so that the service and the other members deal with a device like any other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;

use anyhow::{Context as _, Result, anyhow, bail};
use conclave_client::transport::{Endpoint, Sender, Timing, Transport, Wire};
use conclave_crdt::CrdtKind;
use conclave_doc::{DocKeys, SnapshotPayload, open, seal};
use conclave_engine::shell::Shell;
use conclave_engine::{Command, Engine, EngineError, Input, Reply, Setup, Told};
use conclave_identity::DeviceKey;
use conclave_mls::EpochRoot;
use conclave_proto::codec::{Tail, Varint, encode};
use conclave_proto::frame::{Answer, AppendedRecord, ClientFrame, Request, ServiceFrame};
use conclave_proto::record::{Chained, RECORD_VERSION, Record, RecordBody, RecordHeader};
use conclave_proto::{
    Author, DeviceId, DocumentId, GroupId, Hash, Head, InstanceId, RealmId, UnixMs, UserId,
};
use conclave_testkit::rows::{MemoryRows, at_once};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::PATIENCE;

/// Until something that its engine may not know yet is asked for again.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(20);
/// Most records that are sent at once, and most bytes of them.
const AT_ONCE: (usize, usize) = (256, 4 << 20);
/// Requests of its own have ids that no engine comes to.
const FIRST_REQUEST: u64 = 1 << 41;

/// A document that it writes in past its engine.
#[derive(Debug, Clone, Copy)]
struct Opened {
    group: GroupId,
    channel: Varint,
    author: Author,
    seen: Head,
    next: Chained,
}

/// Such a member. It does something only while it is asked to.
pub struct Rogue {
    shell: Shell,
    rows: MemoryRows,
    transport: Transport,
    sender: Option<Sender>,
    origin: String,
    told: Vec<Told>,
    answers: BTreeMap<u64, Answer>,
    /// What the service took of frames of its own: for each, the position of the first record.
    acks: VecDeque<u64>,
    refused: Option<String>,
    documents: BTreeMap<DocumentId, Opened>,
    channels: BTreeSet<u64>,
    /// What the next snapshot is to hold in place of what its engine made.
    forged: Option<Vec<u8>>,
    requests: u64,
    lots: ChaCha20Rng,
}

#[derive(Deserialize)]
struct Keys {
    device_key: [u8; 32],
}

#[derive(Deserialize)]
struct RootRow {
    root: EpochRoot,
}

fn now() -> UnixMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixMs(since.map_or(0, |since| since.as_millis() as u64))
}

impl Rogue {
    /// A new user with one device.
    ///
    /// # Errors
    /// When the address is none, or the engine does not begin.
    pub fn new(name: &str, url: &str, seed: u8) -> Result<Self> {
        let setup = Setup::NewUser {
            name: name.to_owned(),
            realm: RealmId::ZERO,
        };
        let (engine, output) = Engine::init(setup, [seed; 32], now())?;
        let endpoint = Endpoint::parse(url)?;
        Ok(Self {
            shell: Shell::new(engine, output),
            rows: MemoryRows::default(),
            origin: endpoint.origin().to_owned(),
            transport: Transport::start(endpoint, Timing::default()),
            sender: None,
            told: Vec::new(),
            answers: BTreeMap::new(),
            acks: VecDeque::new(),
            refused: None,
            documents: BTreeMap::new(),
            channels: BTreeSet::new(),
            forged: None,
            requests: FIRST_REQUEST,
            lots: ChaCha20Rng::from_seed([seed; 32]),
        })
    }

    /// Its user and its contact text, once the service knows it.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn contact(&mut self) -> Result<(UserId, String)> {
        self.until("going online", |it| it.is_online().then_some(()))
            .await?;
        match self.ask(Command::WhoAmI).await? {
            Reply::WhoAmI(me) => Ok((
                me.user.context("not enrolled")?,
                me.contact.context("no contact text")?,
            )),
            other => bail!("{other:?}"),
        }
    }

    /// Its device.
    ///
    /// # Errors
    /// When its engine does not say.
    pub async fn device(&mut self) -> Result<DeviceId> {
        match self.ask(Command::WhoAmI).await? {
            Reply::WhoAmI(me) => Ok(me.device),
            other => bail!("{other:?}"),
        }
    }

    fn is_online(&self) -> bool {
        let online = |told: &Told| matches!(told, Told::Event(conclave_engine::Event::Online));
        self.told.iter().any(online)
    }

    /// Takes a contact text as compared in person.
    ///
    /// # Errors
    /// When it is none.
    pub async fn verify(&mut self, contact: String) -> Result<()> {
        let pin = Command::Pin {
            contact,
            name: None,
            verified: true,
        };
        self.ask(pin).await?;
        Ok(())
    }

    /// Joins the group that it is invited to, as soon as it is.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn join(&mut self, group: GroupId) -> Result<()> {
        for _ in 0..PATIENCE.as_millis() / LOOK_AGAIN.as_millis() {
            let Reply::Invitations(waiting) = self.ask(Command::Invitations).await? else {
                bail!("no invitations");
            };
            if waiting.iter().any(|it| it.group == group) {
                self.ask(Command::Accept { group }).await?;
                return Ok(());
            }
            self.pause().await?;
        }
        bail!("no invitation")
    }

    async fn pause(&mut self) -> Result<()> {
        self.beside(async {
            tokio::time::sleep(LOOK_AGAIN).await;
            Ok(())
        })
        .await
    }

    /// Does what its engine wants while something else goes on.
    ///
    /// # Errors
    /// As the other thing, or when the connection fails.
    pub async fn beside<T>(&mut self, other: impl Future<Output = Result<T>>) -> Result<T> {
        let mut other = pin!(other);
        loop {
            self.release().await?;
            tokio::select! {
                biased;
                done = &mut other => return done,
                () = self.happens() => {}
            }
        }
    }

    /// Asks its engine, and waits for the reply.
    ///
    /// # Errors
    /// What the engine says, or when that takes too long.
    pub async fn ask(&mut self, command: Command) -> Result<Reply> {
        let id = self.shell.command(now(), command);
        let result = self.until("a reply", |it| {
            it.told.iter().find_map(|told| match told {
                Told::Reply { command, result } if *command == id => Some(result.clone()),
                _ => None,
            })
        });
        Ok(result.await??)
    }

    async fn until<T>(
        &mut self,
        what: &str,
        mut check: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T> {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            self.release().await?;
            if let Some(found) = check(self) {
                return Ok(found);
            }
            if let Some(refused) = self.refused.take() {
                bail!("refused: {refused}");
            }
            tokio::time::timeout_at(end, self.happens())
                .await
                .with_context(|| format!("waited in vain for {what}"))?;
        }
    }

    /// Waits for a frame, or until the engine wants to be woken.
    async fn happens(&mut self) {
        let wake = self.shell.wake_at();
        let pause = wake.map_or(PATIENCE, |at| {
            std::time::Duration::from_millis(at.0.saturating_sub(now().0))
        });
        tokio::select! {
            wire = self.transport.next() => self.heard(wire),
            () = tokio::time::sleep(pause) => self.shell.wake(now()),
        }
    }

    fn heard(&mut self, wire: Option<Wire>) {
        match wire {
            Some(Wire::Up(sender)) => {
                self.sender = Some(sender);
                let origin = self.origin.clone();
                let token = None;
                self.shell
                    .handle(now(), Input::ConnectionUp { origin, token });
            }
            Some(Wire::Frame(frame)) => self.frame(frame.into_frame()),
            Some(Wire::Down { .. }) => {
                self.sender = None;
                self.shell.handle(now(), Input::ConnectionDown);
            }
            _ => {}
        }
    }

    /// What answers its own requests, or is of a document that it writes in past its engine, is not for that.
    fn frame(&mut self, frame: Box<ServiceFrame>) {
        match &*frame {
            ServiceFrame::Response { id, answer } if id.0 >= FIRST_REQUEST => {
                self.answers.insert(id.0, answer.clone());
            }
            ServiceFrame::Ack {
                channel, first_seq, ..
            } if self.channels.contains(&channel.0) => self.acks.push_back(first_seq.0),
            ServiceFrame::AppendRefused {
                channel, refusal, ..
            } if self.channels.contains(&channel.0) => {
                self.refused = Some(format!("{refusal:?}"));
            }
            ServiceFrame::Deliver { channel, .. } | ServiceFrame::NewAuthor { channel, .. }
                if self.channels.contains(&channel.0) => {}
            _ => self.shell.handle(now(), Input::Frame(frame)),
        }
    }

    async fn release(&mut self) -> Result<()> {
        loop {
            let released = at_once(self.shell.release(&mut self.rows));
            self.told.extend(released.told);
            for frame in released.sends {
                let frame = self.swapped(frame)?;
                self.send(&frame).await?;
            }
            if let Some(why) = released.hang_up {
                bail!("hung up: {why}");
            }
            if !at_once(self.shell.load(now(), &mut self.rows)) {
                return Ok(());
            }
        }
    }

    async fn send(&mut self, frame: &ClientFrame) -> Result<()> {
        if let Some(sender) = &self.sender {
            sender.room().await?.send(encode(frame));
        }
        Ok(())
    }

    /// Its next snapshot, of whichever document, holds these bytes as its state, and says that the document is as large as one may be.
    pub fn forge_next_snapshot(&mut self, state: Vec<u8>) {
        self.forged = Some(state);
    }

    /// Makes a document. Its first snapshot is what [`Rogue::forge_next_snapshot`] said, if that was asked for.
    ///
    /// # Errors
    /// What the engine says, or when that takes too long.
    pub async fn create(&mut self, group: GroupId, kind: CrdtKind) -> Result<DocumentId> {
        let create = Command::CreateDocument {
            group,
            kind,
            title: "document".to_owned(),
            initial: None,
        };
        let Reply::Document(document) = self.ask(create).await? else {
            bail!("no document");
        };
        // It is asked for by the service's answer at the latest.
        self.until("a snapshot to be put", |it| {
            it.forged.is_none().then_some(())
        })
        .await?;
        Ok(document)
    }

    fn swapped(&mut self, frame: ClientFrame) -> Result<ClientFrame> {
        let ClientFrame::Request { id, body } = frame else {
            return Ok(frame);
        };
        let body = match (body, self.forged.take()) {
            (Request::CreateDocument { entry, snapshot }, Some(state)) => Request::CreateDocument {
                entry,
                snapshot: self.forged(&snapshot, state)?,
            },
            (Request::PutSnapshot { record }, Some(state)) => Request::PutSnapshot {
                record: self.forged(&record, state)?,
            },
            (body, kept) => {
                self.forged = kept;
                body
            }
        };
        Ok(ClientFrame::Request { id, body })
    }

    fn forged(&mut self, snapshot: &Record, state: Vec<u8>) -> Result<Record> {
        let header = snapshot.header;
        let keys = self.doc_keys(&header.group, &header.document, header.epoch)?;
        let opened = open(snapshot, &keys).map_err(|fault| anyhow!("{fault:?}"))?;
        let mut payload = SnapshotPayload::from_bytes(&opened)?;
        payload.tables.ops = conclave_crdt::cost::document_size(CrdtKind::Automerge);
        if state.first() != Some(&0x85) {
            payload.tables.ops = conclave_crdt::cost::document_size(CrdtKind::Yjs);
        }
        payload.state = Zeroizing::new(state);
        let (bytes, key) = (payload.to_bytes(), self.device_key()?);
        Ok(seal(&header, &bytes, &keys, &key, 1, &mut self.lots))
    }

    fn row<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<T> {
        let row = self.rows.0.get(key).context("no such row")?;
        Ok(ciborium::from_reader(row.as_slice())?)
    }

    fn device_key(&self) -> Result<DeviceKey> {
        let keys: Keys = self.row(&[&[1], b"keys".as_slice()].concat())?;
        Ok(DeviceKey::from_bytes(&keys.device_key))
    }

    fn doc_keys(&self, group: &GroupId, document: &DocumentId, epoch: u64) -> Result<DocKeys> {
        let key = [
            &[4],
            group.as_bytes(),
            b"r".as_slice(),
            &epoch.to_be_bytes(),
        ]
        .concat();
        let row: RootRow = self.row(&key)?;
        Ok(DocKeys::derive(&row.root, document))
    }

    async fn epoch(&mut self, group: GroupId) -> Result<u64> {
        let Reply::Groups(groups) = self.ask(Command::Groups).await? else {
            bail!("no groups");
        };
        let of_group = groups.iter().find(|it| it.group == group);
        Ok(of_group.context("no such group")?.epoch)
    }

    /// Waits until its engine has opened a document and has all of it.
    async fn synced(&mut self, group: GroupId, document: DocumentId) -> Result<()> {
        for _ in 0..PATIENCE.as_millis() / LOOK_AGAIN.as_millis() {
            match self.ask(Command::Synced { group, document }).await {
                Ok(_) => return Ok(()),
                Err(error) => match error.downcast_ref() {
                    Some(EngineError::UnknownDocument) => self.pause().await?,
                    _ => return Err(error),
                },
            }
        }
        bail!("its engine knows no such document")
    }

    /// Opens a document past its engine, as a device does that has begun anew. What a connection opens last is its channel, so its engine is to have
    /// opened it before.
    ///
    /// # Errors
    /// When the service refuses, or that takes too long.
    pub async fn open(&mut self, group: GroupId, document: DocumentId) -> Result<()> {
        self.synced(group, document).await?;
        let device = self.device().await?;
        let mut instance = [0; 8];
        self.lots.fill_bytes(&mut instance);
        let author = Author {
            device,
            instance: InstanceId(instance),
        };
        self.requests += 1;
        let id = self.requests;
        let body = Request::OpenDocument {
            group,
            document,
            instance: author.instance,
            from: None,
        };
        let id_on_wire = Varint(id);
        self.send(&ClientFrame::Request {
            id: id_on_wire,
            body,
        })
        .await?;
        let answer = self
            .until("a document to open", |it| it.answers.remove(&id))
            .await?;
        let Answer::Opened(opened) = answer else {
            bail!("{answer:?}");
        };
        self.channels.insert(opened.channel.0);
        let opened = Opened {
            group,
            channel: opened.channel,
            author,
            seen: opened.head(),
            next: Chained {
                clock: opened.own_next_clock,
                prev: Hash::ZERO,
            },
        };
        self.documents.insert(document, opened);
        Ok(())
    }

    /// Seals updates as they are and has them ordered. Their positions.
    ///
    /// # Errors
    /// When the service refuses, or that takes too long.
    pub async fn write(&mut self, document: DocumentId, updates: &[Vec<u8>]) -> Result<Vec<u64>> {
        let mut positions = Vec::new();
        let mut left = updates;
        while !left.is_empty() {
            let mut bytes = 0;
            let fits = left.iter().take(AT_ONCE.0).take_while(|update| {
                bytes += update.len();
                bytes <= AT_ONCE.1
            });
            let count = fits.count().max(1);
            let (now, later) = left.split_at(count);
            left = later;
            let first = self.append(document, now).await?;
            positions.extend(first..first + count as u64);
        }
        Ok(positions)
    }

    async fn append(&mut self, document: DocumentId, updates: &[Vec<u8>]) -> Result<u64> {
        let opened = self.documents.get(&document);
        let mut opened = *opened.context("not opened")?;
        let epoch = self.epoch(opened.group).await?;
        let keys = self.doc_keys(&opened.group, &document, epoch)?;
        let key = self.device_key()?;
        let first_clock = Varint(opened.next.clock);
        let mut seen_hint = [0; 8];
        let root = opened.seen.root;
        seen_hint.copy_from_slice(root.as_bytes().get(..8).context("a root")?);
        let mut records = Vec::new();
        for update in updates {
            let header = RecordHeader {
                version: RECORD_VERSION,
                group: opened.group,
                document,
                epoch,
                author: opened.author,
                seen: opened.seen,
                body: RecordBody::Update(opened.next),
            };
            let record = seal(&header, update, &keys, &key, 1, &mut self.lots);
            opened.next = Chained {
                clock: opened.next.clock + 1,
                prev: record.leaf(),
            };
            records.push(AppendedRecord {
                kind: header.body.kind_code(),
                seen_size: Varint(opened.seen.size),
                seen_hint,
                sealed: record.sealed,
            });
        }
        self.documents.insert(document, opened);
        self.send(&ClientFrame::Append {
            channel: opened.channel,
            epoch: Varint(epoch),
            first_clock,
            records: Tail(records),
        })
        .await?;
        self.until("records to be ordered", |it| it.acks.pop_front())
            .await
    }
}
