//! People, devices, a raw WebSocket client, and services to talk to.

use std::collections::VecDeque;
use std::time::Duration;

use conclave_ds::{Config, Service};
use conclave_identity::{
    DeviceCredential, DeviceKey, DeviceRef, SCHEME_ED25519, SignedDeviceList, UserGenesis, UserKey,
};
use conclave_mls::{ClientGroup, CommitInputs, DeviceContext, KeyStore, Plan, Prepared};
use conclave_proto::chunk::{Assembler, split};
use conclave_proto::codec::{Bytes, Tail, Varint, decode, encode};
use conclave_proto::frame::{
    Answer, AppendedRecord, ClientFrame, DeliveredRecord, LOGIN_LABEL, LoginStatement,
    OpenedDocument, Plea, Request, ServiceFrame, WelcomeDelivery,
};
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::record::{
    Chained, EntryBody, RECORD_LABEL, RECORD_VERSION, RecordHeader, Sealed, SnapshotHeader,
    record_leaf,
};
use conclave_proto::service::{Generation, LogName, SignedHead};
use conclave_proto::{
    Author, CommitId, DeviceId, DocumentId, GroupId, GroupPolicy, Hash, Head, InstanceId,
    LifeToken, RealmId, Record, RecordBody, Refusal, UnixMs, UserId, limits,
};
use futures_util::{SinkExt, StreamExt};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Long enough for any machine; only a hung test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn rng() -> ChaCha20Rng {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    ChaCha20Rng::from_seed(seed)
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

pub fn now() -> UnixMs {
    conclave_ds::Clock::default().now()
}

/// A service on a directory of its own.
pub struct TestService {
    pub dir: TempDir,
    service: Option<Service>,
    configure: Box<dyn Fn(&mut Config) + Send>,
}

impl TestService {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(configure: impl Fn(&mut Config) + Send + 'static) -> Self {
        let mut service = Self {
            dir: TempDir::new().unwrap(),
            service: None,
            configure: Box::new(configure),
        };
        service.boot().await;
        service
    }

    /// On a directory that has a database already.
    pub async fn on(dir: TempDir) -> Self {
        let mut service = Self {
            dir,
            service: None,
            configure: Box::new(|_| {}),
        };
        service.boot().await;
        service
    }

    pub fn config(&self) -> Config {
        let mut config = Config::new(self.dir.path(), "127.0.0.1:0".parse().unwrap());
        config.rate_limits = None;
        (self.configure)(&mut config);
        config
    }

    /// Starts it again after [`Self::stop`].
    pub async fn restart_stopped(&mut self) {
        self.boot().await;
    }

    /// With another configuration from the next start on.
    pub fn configure(&mut self, configure: impl Fn(&mut Config) + Send + 'static) {
        self.configure = Box::new(configure);
    }

    async fn boot(&mut self) {
        self.service = Some(Service::start(self.config()).await.unwrap());
    }

    pub async fn restart(&mut self) {
        self.service.take().unwrap().shutdown().await;
        self.boot().await;
    }

    pub async fn stop(&mut self) {
        self.service.take().unwrap().shutdown().await;
    }

    /// Drops the service and starts another as soon as the directory is free.
    pub async fn drop_and_start(&mut self) {
        drop(self.service.take());
        loop {
            match Service::start(self.config()).await {
                Ok(service) => return self.service = Some(service),
                Err(error) => assert_eq!(error.code(), "store.in_use"),
            }
            tokio::task::yield_now().await;
        }
    }

    pub fn url(&self) -> String {
        self.service.as_ref().unwrap().url()
    }

    pub fn origin(&self) -> String {
        let address = self.service.as_ref().unwrap().local_addr();
        format!("ws://127.0.0.1:{}", address.port())
    }

    pub async fn wire(&self) -> Wire {
        Wire::connect(&self.url()).await
    }

    /// A logged-in connection of a device.
    pub async fn login(&self, device: &Device) -> Wire {
        let mut wire = self.wire().await;
        wire.login(device, &self.origin(), None).await.unwrap();
        wire
    }

    /// A new user's device, logged in.
    pub async fn member(&self) -> Member {
        let person = Person::new();
        self.member_of(&person, 0).await
    }

    pub async fn member_of(&self, person: &Person, device: usize) -> Member {
        let device = person.devices[device].clone();
        let wire = self.login(&device).await;
        Member {
            keys: KeyStore::load(Vec::new()).unwrap(),
            device,
            wire,
            group: None,
        }
    }
}

/// A device with its keys.
#[derive(Clone)]
pub struct Device {
    pub id: DeviceId,
    pub user: UserId,
    seed: [u8; 32],
    pub credential: DeviceCredential,
}

impl Device {
    pub fn key(&self) -> DeviceKey {
        DeviceKey::from_bytes(&self.seed)
    }

    /// Another key under this device's certificate.
    pub fn with_foreign_key(&self) -> Self {
        Self {
            seed: random(),
            ..self.clone()
        }
    }
}

/// A user with devices; the newest list names all of them.
pub struct Person {
    key: UserKey,
    genesis: UserGenesis,
    pub list: SignedDeviceList,
    pub devices: Vec<Device>,
}

impl Person {
    pub fn new() -> Self {
        let mut rng = rng();
        let key = UserKey::generate(&mut rng);
        let genesis = UserGenesis::new(RealmId([7; 16]), &key, now(), &mut rng);
        let seed = random();
        let id = DeviceId(random());
        let device_key = DeviceKey::from_bytes(&seed);
        let (credential, list) =
            conclave_identity::enrol_first(&key, &genesis, &device_key, id, now()).unwrap();
        let user = genesis.user_id();
        let device = Device {
            id,
            user,
            seed,
            credential,
        };
        Self {
            key,
            genesis,
            list,
            devices: vec![device],
        }
    }

    pub fn user(&self) -> UserId {
        self.genesis.user_id()
    }

    fn reference(device: &Device) -> DeviceRef {
        DeviceRef {
            device: device.id,
            scheme: SCHEME_ED25519,
            key: Bytes::from(device.key().public().as_slice()),
        }
    }

    /// Certifies another device and signs the list that names it.
    pub fn add_device(&mut self) -> Device {
        let seed = random();
        let id = DeviceId(random());
        let key = DeviceKey::from_bytes(&seed);
        let seq = self.list.list.seq + 1;
        let (certificate, signature) =
            self.key
                .certify(&self.genesis, id, &key.public(), seq, now());
        let credential =
            DeviceCredential::accept(self.genesis.clone(), certificate, signature, &key).unwrap();
        let device = Device {
            id,
            user: self.user(),
            seed,
            credential,
        };
        self.devices.push(device.clone());
        self.list = self.sign(&self.devices);
        device
    }

    /// A device of the same id with another key, as perfectly certified.
    pub fn rekeyed(&self, device: &Device) -> Device {
        let seed = random();
        let key = DeviceKey::from_bytes(&seed);
        let seq = self.list.list.seq;
        let (certificate, signature) =
            self.key
                .certify(&self.genesis, device.id, &key.public(), seq, now());
        let credential =
            DeviceCredential::accept(self.genesis.clone(), certificate, signature, &key).unwrap();
        Device {
            seed,
            credential,
            ..device.clone()
        }
    }

    /// Signs a list without this device.
    pub fn revoke(&mut self, device: DeviceId) {
        self.devices.retain(|other| other.id != device);
        self.list = self.sign(&self.devices);
    }

    /// The list that would follow the newest.
    pub fn sign(&self, devices: &[Device]) -> SignedDeviceList {
        let devices = devices.iter().map(Self::reference).collect();
        self.key
            .sign_list(&self.genesis, Some(&self.list), devices, now())
            .unwrap()
    }
}

/// What the login was answered with.
#[derive(Debug)]
pub struct Ready {
    pub key_packages: u32,
    pub last_resort: u8,
}

/// One WebSocket.
pub struct Wire {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    assembler: Assembler,
    inbox: VecDeque<ServiceFrame>,
    next_id: u64,
    /// The service's key and generation, from the challenge.
    pub service: Option<([u8; 32], Generation)>,
    /// Heads that were told, in their order.
    pub heads: Vec<(LogName, SignedHead)>,
}

impl Wire {
    pub async fn connect(url: &str) -> Self {
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        Self {
            socket,
            assembler: Assembler::new(limits::FRAME_BYTES),
            inbox: VecDeque::new(),
            next_id: 0,
            service: None,
            heads: Vec::new(),
        }
    }

    pub async fn send(&mut self, frame: &ClientFrame) {
        for part in split(encode(frame)) {
            self.socket
                .send(Message::Binary(part.into()))
                .await
                .unwrap();
        }
    }

    /// Sends frames with as little as possible between them.
    pub async fn send_together(&mut self, frames: &[ClientFrame]) {
        let parts: Vec<_> = frames
            .iter()
            .flat_map(|frame| split(encode(frame)))
            .collect();
        for part in parts {
            self.socket
                .feed(Message::Binary(part.into()))
                .await
                .unwrap();
        }
        self.socket.flush().await.unwrap();
    }

    pub async fn send_raw(&mut self, message: Message) {
        // The service may have closed the connection already; tests look at what it says.
        let _ = self.socket.send(message).await;
    }

    /// Ends the connection beneath the WebSocket, as a lost network does, and waits until the service has let go of it.
    pub async fn vanish(mut self) {
        self.socket.get_mut().shutdown().await.unwrap();
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    /// The next frame that is no signed head; none when the connection is over.
    pub async fn receive(&mut self) -> Option<ServiceFrame> {
        loop {
            match self.receive_any().await {
                Some(ServiceFrame::Head { .. }) => {}
                other => return other,
            }
        }
    }

    /// Waits until a signed head of this size has come.
    pub async fn head_of_size(&mut self, log: LogName, size: u64) {
        while self.newest_head(log).is_none_or(|head| head.size < size) {
            assert!(self.receive_any().await.is_some());
        }
    }

    /// The next frame; none when the connection is over.
    async fn receive_any(&mut self) -> Option<ServiceFrame> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next())
                .await
                .expect("the service says nothing")?;
            match message {
                Ok(Message::Binary(bytes)) => {
                    if let Some(frame) = self.assembler.take(bytes.into()).unwrap() {
                        let frame = decode("frame", &frame, limits::FRAME_BYTES).unwrap();
                        if let ServiceFrame::Head { log, signed } = frame {
                            self.note_head(log, signed);
                        }
                        return Some(frame);
                    }
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Checks a signed head, also against those before it.
    pub fn note_head(&mut self, log: LogName, signed: SignedHead) {
        let (key, generation) = self.service.as_ref().unwrap();
        conclave_identity::verify_head(key, generation, &log, &signed).unwrap();
        let mut before = self.heads.iter().rev();
        if let Some((_, before)) = before.find(|(of, _)| *of == log) {
            assert!(before.seconds <= signed.seconds);
            assert!(before.head.size <= signed.head.size);
        }
        self.heads.push((log, signed));
    }

    /// The newest signed head of a log.
    pub fn newest_head(&self, log: LogName) -> Option<Head> {
        let mut heads = self.heads.iter().rev();
        heads
            .find(|(of, _)| *of == log)
            .map(|(_, signed)| signed.head)
    }

    /// The first frame, kept or new, for which `pick` gives something. The others are kept.
    pub async fn until<T>(&mut self, mut pick: impl FnMut(&ServiceFrame) -> Option<T>) -> T {
        let found = self
            .inbox
            .iter()
            .enumerate()
            .find_map(|(at, frame)| Some((at, pick(frame)?)));
        if let Some((at, value)) = found {
            self.inbox.remove(at);
            return value;
        }
        loop {
            let frame = self
                .receive()
                .await
                .expect("the service closed the connection");
            if let Some(value) = pick(&frame) {
                return value;
            }
            self.inbox.push_back(frame);
        }
    }

    /// Frames that came while something else was waited for.
    pub fn kept(&self) -> impl Iterator<Item = &ServiceFrame> {
        self.inbox.iter()
    }

    /// Why the service ends the connection.
    pub async fn goodbye(&mut self) -> Refusal {
        loop {
            match self.receive().await {
                Some(ServiceFrame::Goodbye { why, .. }) => return why,
                Some(_) => {}
                None => panic!("closed without a word"),
            }
        }
    }

    /// Reads to the end of the connection.
    pub async fn ended(&mut self) {
        while self.receive().await.is_some() {}
    }

    /// After this has come back, everything sent before was looked at.
    pub async fn ping(&mut self) {
        self.send(&ClientFrame::Ping).await;
        self.until(|frame| matches!(frame, ServiceFrame::Pong).then_some(()))
            .await;
    }

    pub async fn ask(&mut self, body: Request) -> Varint {
        self.next_id += 1;
        let id = Varint(self.next_id);
        self.send(&ClientFrame::Request { id, body }).await;
        id
    }

    pub async fn answer(&mut self, id: Varint) -> Answer {
        self.until(|frame| match frame {
            ServiceFrame::Response { id: other, answer } if *other == id => Some(answer.clone()),
            _ => None,
        })
        .await
    }

    pub async fn request(&mut self, body: Request) -> Answer {
        let id = self.ask(body).await;
        self.answer(id).await
    }

    /// The refusal of a request.
    pub async fn refused(&mut self, body: Request) -> Refusal {
        match self.request(body).await {
            Answer::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub async fn hello(&mut self, device: &Device) -> Result<([u8; 32], [u8; 32]), Refusal> {
        self.send(&ClientFrame::Hello {
            versions: vec![conclave_proto::policy::PROTOCOL_VERSION],
            credential: device.credential.to_bytes().into(),
        })
        .await;
        match self.receive().await.expect("closed without a word") {
            ServiceFrame::Challenge {
                nonce,
                service_key,
                generation,
                ..
            } => {
                conclave_identity::verify_generation(&service_key, &generation).unwrap();
                self.service = Some((service_key, generation));
                Ok((nonce, service_key))
            }
            ServiceFrame::Goodbye { why, .. } => Err(why),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub async fn login(
        &mut self,
        device: &Device,
        origin: &str,
        token: Option<&str>,
    ) -> Result<Ready, Refusal> {
        let (nonce, service_key) = self.hello(device).await?;
        let statement = LoginStatement {
            nonce,
            origin: origin.as_bytes().into(),
            service_key,
            device: device.id,
            life: 0,
            life_token: LifeToken::default(),
            take_over: 0,
        };
        let signature = device.key().sign(LOGIN_LABEL, &encode(&statement));
        self.finish_login(origin, signature, token).await
    }

    pub async fn finish_login(
        &mut self,
        origin: &str,
        signature: [u8; 64],
        token: Option<&str>,
    ) -> Result<Ready, Refusal> {
        self.send(&ClientFrame::Login {
            origin: origin.as_bytes().into(),
            signature,
            token: token.map(|token| token.as_bytes().into()),
            life: 0,
            life_token: LifeToken::default(),
            take_over: 0,
        })
        .await;
        match self.receive().await.expect("closed without a word") {
            ServiceFrame::Ready {
                key_packages,
                last_resort,
                ..
            } => Ok(Ready {
                key_packages,
                last_resort,
            }),
            ServiceFrame::Goodbye { why, .. } => Err(why),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// The next refusal or acknowledgement on a channel.
    pub async fn appended(&mut self, channel: u64) -> Result<(u64, u64), Refusal> {
        self.until(|frame| match frame {
            ServiceFrame::Ack {
                channel: at,
                next_clock,
                first_seq,
                ..
            } if at.0 == channel => Some(Ok((next_clock.0, first_seq.0))),
            ServiceFrame::AppendRefused {
                channel: at,
                refusal,
                ..
            } if at.0 == channel => Some(Err(refusal.clone())),
            _ => None,
        })
        .await
    }

    /// Delivered positions of a channel, in order, until there are `count`.
    pub async fn delivered(&mut self, channel: u64, count: usize) -> Vec<(u64, DeliveredRecord)> {
        let mut found = Vec::new();
        while found.len() < count {
            let (first, records) = self
                .until(|frame| match frame {
                    ServiceFrame::Deliver {
                        channel: at,
                        first_seq,
                        records,
                    } if at.0 == channel => Some((first_seq.0, records.0.clone())),
                    _ => None,
                })
                .await;
            found.extend(
                records
                    .into_iter()
                    .enumerate()
                    .map(|(at, record)| (first + at as u64, record)),
            );
        }
        found
    }
}

/// A device with its connection and, perhaps, its group.
pub struct Member {
    pub device: Device,
    pub keys: KeyStore,
    pub wire: Wire,
    pub group: Option<ClientGroup>,
}

impl Member {
    pub fn context(device: &Device) -> (DeviceKey, DeviceCredential) {
        (device.key(), device.credential.clone())
    }

    pub fn group(&self) -> &ClientGroup {
        self.group.as_ref().unwrap()
    }

    pub fn group_id(&self) -> GroupId {
        self.group().state().group
    }

    pub async fn reconnect(&mut self, service: &TestService) {
        self.wire = service.login(&self.device).await;
    }

    /// Creates a group at the service and follows it.
    pub async fn create_group(&mut self, policy: GroupPolicy) -> GroupId {
        self.create_group_of(GroupId(random()), policy).await
    }

    /// A group of this id.
    pub async fn create_group_of(&mut self, id: GroupId, policy: GroupPolicy) -> GroupId {
        self.found(id, policy).await;
        self.create_directory().await;
        id
    }

    /// A group whose directory is not there yet.
    pub async fn create_bare_group(&mut self) -> GroupId {
        let id = GroupId(random());
        self.found(id, GroupPolicy::default()).await;
        id
    }

    pub async fn create_directory(&mut self) -> Record {
        self.create(DocumentId::directory(&self.group_id())).await
    }

    async fn found(&mut self, id: GroupId, policy: GroupPolicy) {
        let (key, credential) = Self::context(&self.device);
        let context = DeviceContext {
            key: &key,
            credential: &credential,
        };
        let founded = now();
        let (group, created) = ClientGroup::create(&context, id, policy, founded).unwrap();
        let answer = self
            .wire
            .request(Request::CreateGroup {
                group_info: created.group_info.into(),
                tree: created.tree.into(),
                founded,
            })
            .await;
        assert_eq!(
            answer,
            Answer::Accepted {
                seq: 0,
                head: Head::EMPTY
            }
        );
        self.group = Some(group);
        self.follow(0).await;
    }

    pub async fn follow(&mut self, from: u64) -> Head {
        let group = self.group_id();
        match self
            .wire
            .request(Request::SubscribeGroup { group, from })
            .await
        {
            Answer::Subscribed { head, signed, .. } => {
                if let Some(signed) = signed {
                    assert_eq!(signed.head, head);
                    let document = None;
                    self.wire.note_head(LogName { group, document }, signed);
                }
                head
            }
            other => panic!("not subscribed: {other:?}"),
        }
    }

    pub async fn publish_key_packages(&mut self, one_time: usize, last_resort: bool) {
        let request = self.key_packages(one_time, last_resort);
        let answer = self.wire.request(request).await;
        assert!(
            matches!(answer, Answer::KeyPackageCount { .. }),
            "{answer:?}"
        );
    }

    pub fn key_packages(&mut self, one_time: usize, last_resort: bool) -> Request {
        let (key, credential) = Self::context(&self.device);
        let context = DeviceContext {
            key: &key,
            credential: &credential,
        };
        let made = self
            .keys
            .generate(&context, one_time, last_resort, now())
            .unwrap();
        self.keys.take_changes();
        Request::PutKeyPackages {
            one_time: made.one_time.into_iter().map(Bytes::from).collect(),
            last_resort: made.last_resort.map(Bytes::from),
        }
    }

    pub async fn claim(&mut self, user: UserId) -> Vec<Vec<u8>> {
        match self
            .wire
            .request(Request::ClaimKeyPackages {
                user,
                devices: vec![],
            })
            .await
        {
            Answer::KeyPackages { packages } => packages
                .into_iter()
                .map(|package| package.key_package.into_vec())
                .collect(),
            other => panic!("no key packages: {other:?}"),
        }
    }

    /// Builds a commit, which is then pending.
    pub fn prepare(&mut self, plan: &Plan) -> Prepared {
        let (key, credential) = Self::context(&self.device);
        let context = DeviceContext {
            key: &key,
            credential: &credential,
        };
        let inputs = CommitInputs {
            now: now(),
            service_time: now(),
            id: CommitId(random()),
            live_roots: &[],
        };
        self.group
            .as_mut()
            .unwrap()
            .commit(&context, plan, inputs, &mut rng())
            .unwrap()
    }

    /// Asks to leave.
    pub fn leave_message(&mut self) -> Vec<u8> {
        let (key, credential) = Self::context(&self.device);
        let context = DeviceContext {
            key: &key,
            credential: &credential,
        };
        let group = self.group.as_mut().unwrap();
        group.propose_self_remove(&context).unwrap()
    }

    pub async fn send_commit(&mut self, bundle: CommitBundle) -> Answer {
        self.wire.request(Request::Commit(bundle)).await
    }

    /// Commits and processes the own commit from the log.
    pub async fn commit(&mut self, plan: &Plan) {
        let prepared = self.prepare(plan);
        let answer = self.send_commit(prepared.bundle).await;
        assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
        self.catch_up(prepared.epoch).await;
    }

    pub async fn next_entries(&mut self) -> (u64, Vec<GroupEntry>) {
        let group = self.group_id();
        self.wire
            .until(|frame| match frame {
                ServiceFrame::GroupEntries {
                    group: of,
                    first_seq,
                    entries,
                } if *of == group => Some((*first_seq, entries.clone())),
                _ => None,
            })
            .await
    }

    /// Pleas that came so far: who asks for what.
    pub async fn pleas(&mut self) -> Vec<(DeviceId, Plea)> {
        self.wire.ping().await;
        let mut found = Vec::new();
        self.wire.inbox.retain(|frame| match frame {
            ServiceFrame::Asked { device, what, .. } => {
                found.push((*device, *what));
                false
            }
            _ => true,
        });
        found
    }

    /// Follows the log anew and gives the pleas told thereby.
    pub async fn repeated_pleas(&mut self) -> Vec<(DeviceId, Plea)> {
        self.pleas().await;
        let size = self.group().state().head().size;
        self.follow(size).await;
        self.pleas().await
    }

    /// Processes entries until the group is at this epoch.
    pub async fn catch_up(&mut self, epoch: u64) {
        while self.group().epoch() < epoch {
            self.process_next().await;
        }
    }

    /// Processes the next entries.
    pub async fn process_next(&mut self) {
        let (first, entries) = self.next_entries().await;
        let group = self.group.as_mut().unwrap();
        assert_eq!(first, group.state().head().size, "a gap or a repetition");
        for entry in entries {
            group.process(&entry).unwrap();
        }
    }

    /// Adds another device, which then is a member too and follows the log.
    pub async fn invite(&mut self, other: &mut Member) {
        other.publish_key_packages(1, false).await;
        let add = self.claim(other.device.user).await;
        self.commit(&Plan {
            add,
            ..Plan::default()
        })
        .await;
        other.join().await;
    }

    pub async fn welcome(&mut self) -> WelcomeDelivery {
        self.wire
            .until(|frame| match frame {
                ServiceFrame::Welcome(welcome) => Some(welcome.clone()),
                _ => None,
            })
            .await
    }

    pub async fn join(&mut self) {
        let welcome = self.welcome().await;
        let (key, credential) = Self::context(&self.device);
        let context = DeviceContext {
            key: &key,
            credential: &credential,
        };
        let (group, _) = ClientGroup::join(&context, &mut self.keys, &welcome, now()).unwrap();
        let size = group.state().head().size;
        self.group = Some(group);
        let answer = self
            .wire
            .request(Request::AckWelcome { id: welcome.id })
            .await;
        assert_eq!(answer, Answer::Done);
        self.follow(size).await;
    }

    pub fn entry(&self, body: EntryBody) -> Record {
        let (key, credential) = Self::context(&self.device);
        let context = DeviceContext {
            key: &key,
            credential: &credential,
        };
        self.group().sign_entry(&context, body, InstanceId([1; 8]))
    }

    /// A document's first two records: its entry and snapshot.
    pub fn new_document(&self) -> (DocumentId, Record, Record) {
        let document = DocumentId(random());
        let (entry, snapshot) = self.beginning(document);
        (document, entry, snapshot)
    }

    fn beginning(&self, document: DocumentId) -> (Record, Record) {
        let entry = self.entry(EntryBody::DocumentCreated { document, crdt: 1 });
        let snapshot = self.snapshot(
            document,
            Head::EMPTY,
            SnapshotHeader {
                parent: Hash::ZERO,
                chain_proof: Hash::ZERO,
                covered: Head::EMPTY,
                crdt: 1,
            },
        );
        (entry, snapshot)
    }

    pub fn snapshot(&self, document: DocumentId, seen: Head, snapshot: SnapshotHeader) -> Record {
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: self.group_id(),
            document,
            epoch: self.group().epoch(),
            author: Author {
                device: self.device.id,
                instance: InstanceId([1; 8]),
            },
            seen,
            body: RecordBody::Snapshot(snapshot),
        };
        sign(&self.device.key(), header, 64)
    }

    pub async fn create_document(&mut self) -> (DocumentId, Record) {
        let document = DocumentId(random());
        (document, self.create(document).await)
    }

    async fn create(&mut self, document: DocumentId) -> Record {
        let (entry, snapshot) = self.beginning(document);
        let first = snapshot.clone();
        let answer = self
            .wire
            .request(Request::CreateDocument { entry, snapshot })
            .await;
        let Answer::Accepted { head, .. } = answer else {
            panic!("{answer:?}")
        };
        while self.group().state().head().size < head.size {
            self.process_next().await;
        }
        first
    }

    pub async fn open(
        &mut self,
        document: DocumentId,
        instance: InstanceId,
        from: Option<u64>,
    ) -> (OpenedDocument, Pen) {
        let group = self.group_id();
        let request = Request::OpenDocument {
            group,
            document,
            instance,
            from,
        };
        let opened = match self.wire.request(request).await {
            Answer::Opened(opened) => opened,
            other => panic!("not opened: {other:?}"),
        };
        let log = LogName {
            group,
            document: Some(document),
        };
        self.wire.note_head(log, opened.signed);
        let pen = Pen {
            channel: opened.channel.0,
            group,
            document,
            author: Author {
                device: self.device.id,
                instance,
            },
            key: self.device.key(),
            epoch: self.group().epoch(),
            seen: opened.head(),
            next_clock: opened.own_next_clock,
            last: opened.own_last,
        };
        (opened, pen)
    }
}

/// A signed record with random content.
pub fn sign(key: &DeviceKey, header: RecordHeader, bytes: usize) -> Record {
    let mut ciphertext = vec![0; bytes];
    rng().fill_bytes(&mut ciphertext);
    let mut sealed = Sealed {
        nonce: random(),
        ciphertext: ciphertext.into(),
        tag: random(),
        commitment: random(),
        signature: [0; 64],
    };
    sealed.signature = key.sign(RECORD_LABEL, &sealed.core(&header).0);
    Record { header, sealed }
}

/// Writes chained records of one author.
pub struct Pen {
    pub channel: u64,
    pub group: GroupId,
    pub document: DocumentId,
    pub author: Author,
    pub key: DeviceKey,
    pub epoch: u64,
    /// A head of the log, for new records to name.
    pub seen: Head,
    pub next_clock: u64,
    pub last: Hash,
}

impl Pen {
    /// The next record of the chain.
    pub fn record(&mut self, kind: u8) -> AppendedRecord {
        self.record_of(kind, 32)
    }

    pub fn record_of(&mut self, kind: u8, bytes: usize) -> AppendedRecord {
        let chained = Chained {
            clock: self.next_clock,
            prev: self.last,
        };
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: self.group,
            document: self.document,
            epoch: self.epoch,
            author: self.author,
            seen: self.seen,
            body: RecordBody::of_chained(kind, chained).unwrap(),
        };
        let record = sign(&self.key, header, bytes);
        self.last = record_leaf(&record.core(), &record.sealed.signature);
        self.next_clock += 1;
        let mut seen_hint = [0; 8];
        seen_hint.copy_from_slice(&self.seen.root.0[..8]);
        AppendedRecord {
            kind,
            seen_size: Varint(self.seen.size),
            seen_hint,
            sealed: record.sealed,
        }
    }

    /// A frame of the next `count` updates.
    pub fn updates(&mut self, count: usize) -> ClientFrame {
        let first_clock = self.next_clock;
        let records = (0..count).map(|_| self.record(1)).collect();
        self.frame(first_clock, records)
    }

    pub fn frame(&self, first_clock: u64, records: Vec<AppendedRecord>) -> ClientFrame {
        ClientFrame::Append {
            channel: Varint(self.channel),
            epoch: Varint(self.epoch),
            first_clock: Varint(first_clock),
            records: Tail(records),
        }
    }

    /// Where the chain stands, to come back to with [`Pen::restore`].
    pub fn mark(&self) -> (u64, Hash) {
        (self.next_clock, self.last)
    }

    pub fn restore(&mut self, (next_clock, last): (u64, Hash)) {
        self.next_clock = next_clock;
        self.last = last;
    }
}
