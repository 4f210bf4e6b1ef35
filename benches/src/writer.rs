//! A device that writes into a document of its own, frame by frame, over a raw WebSocket.

use anyhow::{Context as _, Result, bail, ensure};
use conclave_doc::{DocKeys, seal};
use conclave_identity::{DeviceCredential, DeviceKey, UserGenesis, UserKey, enrol_first};
use conclave_mls::{ClientGroup, DeviceContext};
use conclave_proto::chunk::{Assembler, split};
use conclave_proto::codec::{Tail, Varint, decode, encode};
use conclave_proto::frame::{
    Answer, AppendedRecord, ClientFrame, LOGIN_LABEL, LoginStatement, OpenedDocument, Request,
    ServiceFrame,
};
use conclave_proto::policy::PROTOCOL_VERSION;
use conclave_proto::record::{
    Chained, EntryBody, RECORD_VERSION, RecordBody, RecordHeader, SnapshotHeader,
};
use conclave_proto::{
    Author, DeviceId, DocumentId, Frontier, GroupId, GroupPolicy, Hash, Head, InstanceId,
    LifeToken, RealmId, limits,
};
use futures_util::{SinkExt as _, StreamExt as _};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub(crate) const INSTANCE: InstanceId = InstanceId([1; 8]);
/// What an update holds, in bytes: about a keystroke.
const CONTENT: [u8; 32] = [7; 32];
/// Code of the CRDT kind; the service does not look into it.
const CRDT: u8 = 1;

/// One device with a document of its own, in a group of its own.
pub struct Writer {
    wire: Wire,
    key: DeviceKey,
    keys: DocKeys,
    /// What the next record says, but for what it holds.
    header: RecordHeader,
    chain: Chained,
    /// The document's log: nobody else writes there.
    log: Frontier,
    channel: Varint,
    rng: ChaCha20Rng,
}

impl Writer {
    /// Logs a new device in and opens its document.
    ///
    /// # Errors
    /// When a step fails.
    pub async fn start(url: &str, origin: &str) -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let mut rng = ChaCha20Rng::from_seed(seed);
        let now = conclave_ds::Clock::default().now();
        let user = UserKey::generate(&mut rng);
        let genesis = UserGenesis::new(RealmId([1; 16]), &user, now, &mut rng);
        let (device, key) = (DeviceId(random(&mut rng)), DeviceKey::generate(&mut rng));
        let (credential, _) = enrol_first(&user, &genesis, &key, device, now)?;
        let mut wire = Wire::connect(url).await?;
        wire.login(&key, &credential, device, origin).await?;

        let context = DeviceContext {
            key: &key,
            credential: &credential,
        };
        let id = GroupId(random(&mut rng));
        let (group, created) = ClientGroup::create(&context, id, GroupPolicy::default(), now)?;
        let request = Request::CreateGroup {
            group_info: created.group_info.into(),
            tree: created.tree.into(),
            founded: now,
        };
        wire.accepted(request).await?;

        // The first document of a group.
        let document = DocumentId::directory(&id);
        let keys = DocKeys::derive(&group.epoch_secrets()?.root, &document);
        let body = EntryBody::DocumentCreated {
            document,
            crdt: CRDT,
        };
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: id,
            document,
            epoch: group.epoch(),
            author: Author {
                device,
                instance: INSTANCE,
            },
            seen: Head::EMPTY,
            body: RecordBody::Snapshot(SnapshotHeader {
                parent: Hash::ZERO,
                chain_proof: Hash::ZERO,
                covered: Head::EMPTY,
                crdt: CRDT,
            }),
        };
        let entry = group.sign_entry(&context, body, INSTANCE);
        let snapshot = seal(&header, &CONTENT, &keys, &key, 1, &mut rng);
        let mut log = Frontier::default();
        log.push(snapshot.leaf());
        wire.accepted(Request::CreateDocument { entry, snapshot })
            .await?;
        let opened = wire.open(id, document).await?;
        ensure!(opened.head() == log.head(), "another log");
        Ok(Self {
            wire,
            key,
            keys,
            header,
            chain: Chained {
                clock: opened.own_next_clock,
                prev: opened.own_last,
            },
            log,
            channel: opened.channel,
            rng,
        })
    }

    /// The next frames, of one update each, as they go over the wire. They name what was acknowledged before the first of them.
    #[must_use]
    pub fn frames(&mut self, count: usize) -> Vec<Vec<u8>> {
        self.header.seen = self.log.head();
        (0..count).map(|_| encode(&self.frame())).collect()
    }

    fn frame(&mut self) -> ClientFrame {
        self.header.body = RecordBody::Update(self.chain);
        let record = seal(
            &self.header,
            &CONTENT,
            &self.keys,
            &self.key,
            1,
            &mut self.rng,
        );
        let first_clock = Varint(self.chain.clock);
        self.chain = Chained {
            clock: self.chain.clock + 1,
            prev: record.leaf(),
        };
        self.log.push(record.leaf());
        let seen = self.header.seen;
        let seen_hint = seen.root.0.first_chunk().copied().unwrap_or_default();
        ClientFrame::Append {
            channel: self.channel,
            epoch: Varint(self.header.epoch),
            first_clock,
            records: Tail(vec![AppendedRecord {
                kind: self.header.body.kind_code(),
                seen_size: Varint(seen.size),
                seen_hint,
                sealed: record.sealed,
            }]),
        }
    }

    /// Sends frames, so many of them before the first is acknowledged, until all are.
    ///
    /// # Errors
    /// When one is refused, or the connection ends.
    pub async fn write(&mut self, frames: Vec<Vec<u8>>, in_flight: usize) -> Result<()> {
        let end = self.chain.clock;
        let mut acknowledged = end.saturating_sub(frames.len() as u64);
        let mut sent = acknowledged;
        let mut waiting = frames.into_iter();
        while acknowledged < end {
            let room = (acknowledged + in_flight as u64).saturating_sub(sent);
            for frame in waiting.by_ref().take(usize::try_from(room)?) {
                self.wire.feed(frame).await?;
                sent += 1;
            }
            self.wire.flush().await?;
            match self.wire.receive().await? {
                ServiceFrame::Ack { next_clock, .. } => acknowledged = next_clock.0,
                ServiceFrame::AppendRefused { refusal, .. } => bail!("refused: {refusal}"),
                _ => {}
            }
        }
        Ok(())
    }
}

pub(crate) fn random<const N: usize>(rng: &mut ChaCha20Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// One WebSocket.
pub(crate) struct Wire {
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    assembler: Assembler,
    requests: u64,
}

impl Wire {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let (socket, _) = connect_async(url).await?;
        Ok(Self {
            socket,
            assembler: Assembler::new(limits::FRAME_BYTES),
            requests: 0,
        })
    }

    pub(crate) async fn feed(&mut self, frame: Vec<u8>) -> Result<()> {
        for part in split(frame) {
            self.socket.feed(Message::Binary(part.into())).await?;
        }
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> Result<()> {
        Ok(self.socket.flush().await?)
    }

    pub(crate) async fn send(&mut self, frame: &ClientFrame) -> Result<()> {
        self.feed(encode(frame)).await?;
        self.flush().await
    }

    pub(crate) async fn receive(&mut self) -> Result<ServiceFrame> {
        loop {
            let message = self.socket.next().await.context("the connection ended")??;
            if let Message::Binary(bytes) = message
                && let Some(frame) = self.assembler.take(bytes.into())?
            {
                return Ok(decode("frame", &frame, limits::FRAME_BYTES)?);
            }
        }
    }

    pub(crate) async fn login(
        &mut self,
        key: &DeviceKey,
        credential: &DeviceCredential,
        device: DeviceId,
        origin: &str,
    ) -> Result<()> {
        self.send(&ClientFrame::Hello {
            versions: vec![PROTOCOL_VERSION],
            credential: credential.to_bytes().into(),
        })
        .await?;
        let ServiceFrame::Challenge {
            nonce, service_key, ..
        } = self.receive().await?
        else {
            bail!("no challenge");
        };
        let statement = LoginStatement {
            nonce,
            origin: origin.as_bytes().into(),
            service_key,
            device,
            life: 0,
            life_token: LifeToken::default(),
            take_over: 0,
        };
        self.send(&ClientFrame::Login {
            origin: origin.as_bytes().into(),
            signature: key.sign(LOGIN_LABEL, &encode(&statement)),
            token: None,
            life: 0,
            life_token: LifeToken::default(),
            take_over: 0,
        })
        .await?;
        let ready = matches!(self.receive().await?, ServiceFrame::Ready { .. });
        ensure!(ready, "not let in");
        Ok(())
    }

    pub(crate) async fn request(&mut self, body: Request) -> Result<Answer> {
        self.requests += 1;
        let id = Varint(self.requests);
        self.send(&ClientFrame::Request { id, body }).await?;
        loop {
            if let ServiceFrame::Response { id: of, answer } = self.receive().await?
                && of == id
            {
                return Ok(answer);
            }
        }
    }

    pub(crate) async fn accepted(&mut self, body: Request) -> Result<()> {
        match self.request(body).await? {
            Answer::Accepted { .. } => Ok(()),
            other => bail!("not accepted: {other:?}"),
        }
    }

    pub(crate) async fn open(
        &mut self,
        group: GroupId,
        document: DocumentId,
    ) -> Result<OpenedDocument> {
        let request = Request::OpenDocument {
            group,
            document,
            instance: INSTANCE,
            from: Some(1),
        };
        match self.request(request).await? {
            Answer::Opened(opened) => Ok(opened),
            other => bail!("not opened: {other:?}"),
        }
    }
}
