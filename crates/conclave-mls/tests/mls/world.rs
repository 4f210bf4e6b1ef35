//! Devices, their stores, and a service: everything in one thread, every step through the rows.

use std::collections::BTreeMap;

use conclave_identity::{DeviceCredential, DeviceKey, UserGenesis, UserKey};
use conclave_mls::{
    ClientGroup, CommitInputs, DeviceContext, EpochRoot, EpochSecrets, KeyStore, MlsError, Plan,
    Prepared, ProcessError, Processed, Provider, PublicGroupState, RowChange, Rows,
};
use conclave_proto::codec::Bytes;
use conclave_proto::frame::{JoinState, WelcomeDelivery};
use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap, WrapStatement};
use conclave_proto::policy::{GroupPolicy, Role};
use conclave_proto::record::EntryBody;
use conclave_proto::{
    CommitId, DeviceId, DocumentId, GroupId, Hash, InstanceId, RealmId, Record, Refusal, UnixMs,
    UserId,
};
use openmls::group::{GroupId as MlsGroupId, MlsGroup};
use openmls_traits::OpenMlsProvider;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

pub const NOW: UnixMs = UnixMs(1_760_000_000_000);
pub const GROUP: GroupId = GroupId([7; 16]);
const REALM: RealmId = RealmId([1; 16]);

pub struct User {
    pub key: UserKey,
    pub genesis: UserGenesis,
}

impl User {
    pub fn id(&self) -> UserId {
        self.genesis.user_id()
    }

    /// A credential for any key under any device id: what whoever holds the user key can make.
    pub fn credential(&self, device: DeviceId, key: &DeviceKey) -> DeviceCredential {
        self.credential_of_list(device, key, 1)
    }

    /// The same device and key, certified anew.
    pub fn certified_again(&self, device: DeviceId, key: &DeviceKey) -> DeviceCredential {
        self.credential_of_list(device, key, 2)
    }

    fn credential_of_list(&self, device: DeviceId, key: &DeviceKey, seq: u64) -> DeviceCredential {
        let (certificate, signature) = self.key.certify(
            &self.genesis,
            device,
            &key.public(),
            seq,
            UnixMs(NOW.0 - 1000),
        );
        DeviceCredential::accept(self.genesis.clone(), certificate, signature, key).unwrap()
    }
}

/// A store of rows, as durable as this test needs.
#[derive(Default)]
pub struct Store(BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>);

impl Store {
    pub fn apply(&mut self, changes: Vec<RowChange>) {
        for change in changes {
            match change.value {
                Some(value) => self.0.insert(change.key, value),
                None => self.0.remove(&change.key),
            };
        }
    }

    pub fn rows(&self) -> Rows {
        self.0.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

pub struct Peer {
    pub user: usize,
    pub device: DeviceId,
    pub key: DeviceKey,
    pub credential: DeviceCredential,
    pub keys: KeyStore,
    pub key_rows: Store,
    pub group: Option<ClientGroup>,
    pub rows: Store,
    pub roots: BTreeMap<u64, EpochRoot>,
}

impl Peer {
    pub fn context(&self) -> DeviceContext<'_> {
        DeviceContext {
            key: &self.key,
            credential: &self.credential,
        }
    }

    pub fn group(&self) -> &ClientGroup {
        self.group.as_ref().unwrap()
    }

    pub fn group_mut(&mut self) -> &mut ClientGroup {
        self.group.as_mut().unwrap()
    }

    /// Writes what changed and reads everything again: what a restart does.
    pub fn restart(&mut self) {
        self.key_rows.apply(self.keys.take_changes());
        self.keys = KeyStore::load(self.key_rows.rows()).unwrap();
        if let Some(mut group) = self.group.take() {
            self.rows.apply(group.take_changes());
            self.group = Some(ClientGroup::load(self.rows.rows()).unwrap());
        }
    }

    fn adopt(&mut self, group: ClientGroup) {
        self.rows = Store::default();
        self.group = Some(group);
        self.restart();
    }
}

/// The same MLS group under raw OpenMLS, with none of our rules: what a thief's own program does with this device's rows.
pub struct Raw {
    pub provider: Provider,
    pub mls: MlsGroup,
}

pub fn raw(peer: &Peer) -> Raw {
    let provider = Provider::new(peer.rows.rows());
    let mls = MlsGroup::load(
        provider.storage(),
        &MlsGroupId::from_slice(GROUP.as_bytes()),
    )
    .unwrap()
    .unwrap();
    Raw { provider, mls }
}

/// Signs for OpenMLS with a device's key.
pub struct RawSigner<'a>(pub &'a DeviceKey);

impl openmls_traits::signatures::Signer for RawSigner<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, openmls_traits::signatures::SignerError> {
        Ok(self.0.sign_raw(payload).to_vec())
    }

    fn signature_scheme(&self) -> openmls_traits::types::SignatureScheme {
        openmls_traits::types::SignatureScheme::ED25519
    }
}

pub struct World {
    pub users: Vec<User>,
    pub peers: Vec<Peer>,
    pub service: PublicGroupState,
    /// What the service has stored.
    pub service_rows: BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>,
    pub log: Vec<GroupEntry>,
    pub documents: Vec<Record>,
    pub welcomes: Vec<(DeviceId, WelcomeDelivery)>,
    pub last_wrap: Option<RootWrap>,
    pub now: UnixMs,
    pub rng: ChaCha20Rng,
    counter: u64,
}

impl World {
    /// A group of one: peer 0, an owner.
    pub fn new(seed: u64) -> Self {
        Self::with_policy(seed, GroupPolicy::default())
    }

    pub fn with_policy(seed: u64, policy: GroupPolicy) -> Self {
        Self::founded(seed, policy, NOW)
    }

    /// A group of one without a directory.
    pub fn bare(seed: u64) -> Self {
        Self::begun(seed, GroupPolicy::default(), NOW)
    }

    /// A group of one that begins at some time.
    fn founded(seed: u64, policy: GroupPolicy, now: UnixMs) -> Self {
        let mut world = Self::begun(seed, policy, now);
        let body = EntryBody::DocumentCreated {
            document: DocumentId::directory(&GROUP),
            crdt: 1,
        };
        let directory = world.sign(0, body);
        world.put(0, directory).unwrap();
        world.sync(0).unwrap();
        world
    }

    fn begun(seed: u64, policy: GroupPolicy, now: UnixMs) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let user = new_user(&mut rng);
        let mut peer = new_peer(&mut rng, &user, 0);
        let (group, created) = ClientGroup::create(&peer.context(), GROUP, policy, now).unwrap();
        peer.adopt(group);
        let (service, state) =
            PublicGroupState::create(&created.group_info, &created.tree, peer.device, now).unwrap();
        assert_eq!(&state, peer.group().state());
        let secrets = peer.group().epoch_secrets().unwrap();
        peer.roots.insert(0, secrets.root);
        Self {
            users: vec![user],
            peers: vec![peer],
            service,
            service_rows: BTreeMap::new(),
            log: Vec::new(),
            documents: Vec::new(),
            welcomes: Vec::new(),
            last_wrap: None,
            now,
            rng,
            counter: 0,
        }
    }

    /// A group whose members are one device each of users with these roles; peer 0 is an owner before them.
    pub fn with_roles(seed: u64, roles: &[Role]) -> Self {
        Self::with_roles_at(seed, roles, NOW)
    }

    pub fn with_roles_at(seed: u64, roles: &[Role], now: UnixMs) -> Self {
        let mut world = Self::founded(seed, GroupPolicy::default(), now);
        let mut policy = world.service.state().policy.clone();
        for role in roles {
            let peer = world.outsider();
            policy.set_role(world.user_id(peer), *role);
        }
        let add = (1..=roles.len()).map(|peer| world.package(peer)).collect();
        let plan = Plan {
            add,
            policy: Some(policy),
            ..Plan::default()
        };
        world.commit(0, &plan);
        world
    }

    pub fn user_id(&self, peer: usize) -> UserId {
        self.users[self.peers[peer].user].id()
    }

    pub fn device(&self, peer: usize) -> DeviceId {
        self.peers[peer].device
    }

    /// A device of a new user, outside the group.
    pub fn outsider(&mut self) -> usize {
        let user = new_user(&mut self.rng);
        self.users.push(user);
        self.another_device(self.users.len() - 1)
    }

    /// Another device of a user, outside the group.
    pub fn another_device(&mut self, user: usize) -> usize {
        let peer = new_peer(&mut self.rng, &self.users[user], user);
        self.peers.push(peer);
        self.peers.len() - 1
    }

    pub fn package(&mut self, peer: usize) -> Vec<u8> {
        self.package_made_at(peer, self.now)
    }

    pub fn package_made_at(&mut self, peer: usize, made: UnixMs) -> Vec<u8> {
        let peer = &mut self.peers[peer];
        let context = DeviceContext {
            key: &peer.key,
            credential: &peer.credential,
        };
        let mut made = peer.keys.generate(&context, 1, false, made).unwrap();
        peer.restart();
        made.one_time.pop().unwrap()
    }

    pub fn prepare(&mut self, peer: usize, plan: &Plan) -> Result<Prepared, MlsError> {
        self.counter += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.counter.to_be_bytes());
        let peer = &mut self.peers[peer];
        let roots: Vec<_> = peer.roots.iter().map(|(e, r)| (*e, r.clone())).collect();
        let inputs = CommitInputs {
            now: self.now,
            service_time: self.now,
            id: CommitId(id),
            live_roots: &roots,
        };
        let context = DeviceContext {
            key: &peer.key,
            credential: &peer.credential,
        };
        let group = peer.group.as_mut().unwrap();
        let prepared = group.commit(&context, plan, inputs, &mut self.rng)?;
        peer.restart();
        Ok(prepared)
    }

    pub fn inputs_id(&mut self) -> CommitId {
        self.counter += 1;
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        CommitId(id)
    }

    /// What the service says to a bundle.
    pub fn judge(&self, peer: usize, bundle: &CommitBundle) -> Result<(), Refusal> {
        self.service
            .judge_bundle(bundle, self.device(peer), self.now)
            .map(|_| ())
    }

    /// Sends a bundle; if it is good the service orders it and writes what changed.
    pub fn submit(&mut self, peer: usize, bundle: &CommitBundle) -> Result<(), Refusal> {
        let judged = self
            .service
            .judge_bundle(bundle, self.device(peer), self.now)?;
        let (entry, added, welcome) = (
            judged.entry.clone(),
            judged.added.clone(),
            judged.welcome.clone(),
        );
        self.service.apply(judged)?;
        self.log.push(entry);
        self.last_wrap = Some(bundle.wrap.clone());
        for device in added {
            let delivery = WelcomeDelivery {
                id: self.log.len() as u64,
                group: GROUP,
                epoch: self.service.state().epoch,
                welcome: welcome.clone().unwrap().into(),
                tree: self.service.tree().into(),
                state: self.join_state(),
            };
            self.welcomes.push((device, delivery));
        }
        self.restart_service();
        Ok(())
    }

    pub fn join_state(&self) -> JoinState {
        // In epoch 0 there is no wrap: the service sends an empty one.
        let wrap = self.last_wrap.clone().unwrap_or(RootWrap {
            statement: WrapStatement {
                group: GROUP,
                epoch: 0,
                commit: Hash::ZERO,
                roster: Hash::ZERO,
                nonce: [0; 24],
                ciphertext: Bytes::default(),
            },
            signer: DeviceId::ZERO,
            signature: [0; 64],
        });
        self.service.join_state(wrap, self.documents.clone())
    }

    pub fn restart_service(&mut self) {
        for change in self.service.take_changes() {
            match change.value {
                Some(value) => self.service_rows.insert(change.key, value),
                None => self.service_rows.remove(&change.key),
            };
        }
        let again = PublicGroupState::load(self.service_rows(), self.roots()).unwrap();
        assert_eq!(again.state(), self.service.state());
        assert_eq!(again.group_info(), self.service.group_info());
        self.service = again;
    }

    /// What the service has stored.
    pub fn service_rows(&self) -> Rows {
        self.service_rows.clone().into_iter().collect()
    }

    /// Roots of the service's log since the epoch began.
    pub fn roots(&self) -> Vec<Hash> {
        self.service
            .state()
            .epoch_log_roots
            .iter()
            .copied()
            .collect()
    }

    /// Sends a standalone proposal.
    pub fn propose(&mut self, peer: usize, message: &[u8]) -> Result<(), Refusal> {
        let judged = self.service.judge_proposal(message, self.device(peer))?;
        self.log.push(judged.entry.clone());
        self.service.apply_proposal(judged)?;
        self.restart_service();
        Ok(())
    }

    /// Asks to leave, and has that ordered.
    pub fn leave(&mut self, peer: usize) -> Result<(), Refusal> {
        let message = self.leave_message(peer).unwrap();
        self.propose(peer, &message)
    }

    pub fn leave_message(&mut self, peer: usize) -> Result<Vec<u8>, MlsError> {
        let peer = &mut self.peers[peer];
        let context = DeviceContext {
            key: &peer.key,
            credential: &peer.credential,
        };
        peer.group.as_mut().unwrap().propose_self_remove(&context)
    }

    pub fn sign(&self, peer: usize, body: EntryBody) -> Record {
        let peer = &self.peers[peer];
        peer.group()
            .sign_entry(&peer.context(), body, InstanceId([3; 8]))
    }

    /// Sends a signed entry.
    pub fn put(&mut self, peer: usize, record: Record) -> Result<(), Refusal> {
        let effect = self.service.judge_entry(&record, self.device(peer))?;
        self.service.apply_entry(&effect);
        if !matches!(effect.body, EntryBody::RotationComplete { .. }) {
            self.documents.push(record.clone());
        }
        self.log.push(GroupEntry::Signed(record));
        self.restart_service();
        Ok(())
    }

    pub fn is_member(&self, peer: usize) -> bool {
        self.service.state().is_member(&self.device(peer))
    }

    /// Lets a peer read the log to its end, restarting after every entry.
    pub fn sync(&mut self, peer: usize) -> Result<Vec<Processed>, ProcessError> {
        let mut done = Vec::new();
        loop {
            let Some(group) = &mut self.peers[peer].group else {
                return Ok(done);
            };
            let at = usize::try_from(group.state().head().size).unwrap();
            let Some(entry) = self.log.get(at) else {
                return Ok(done);
            };
            if !group.is_active() && !group.is_rejoining() {
                return Ok(done);
            }
            let processed = group.process(entry)?;
            if let Processed::Commit(outcome) = &processed
                && let Some(secrets) = &outcome.secrets
            {
                let roots = &mut self.peers[peer].roots;
                roots.insert(outcome.epoch, secrets.root.clone());
            }
            self.peers[peer].restart();
            done.push(processed);
        }
    }

    pub fn sync_all(&mut self) {
        for peer in 0..self.peers.len() {
            self.sync(peer).unwrap();
        }
        self.deliver_welcomes();
    }

    pub fn deliver_welcomes(&mut self) {
        for (device, delivery) in std::mem::take(&mut self.welcomes) {
            let peer = self.peer_of(device);
            self.join(peer, &delivery).unwrap();
            self.sync(peer).unwrap();
        }
    }

    pub fn peer_of(&self, device: DeviceId) -> usize {
        self.peers
            .iter()
            .position(|peer| peer.device == device)
            .unwrap()
    }

    pub fn join(&mut self, peer: usize, delivery: &WelcomeDelivery) -> Result<(), MlsError> {
        let now = self.now;
        let peer = &mut self.peers[peer];
        let context = DeviceContext {
            key: &peer.key,
            credential: &peer.credential,
        };
        let (group, joined) = ClientGroup::join(&context, &mut peer.keys, delivery, now)?;
        for (epoch, root) in ClientGroup::open_wrap(&joined.secrets, &delivery.state.wrap)? {
            peer.roots.insert(epoch, root);
        }
        peer.roots.insert(joined.secrets.epoch, joined.secrets.root);
        peer.adopt(group);
        Ok(())
    }

    /// Plans, commits, orders, and lets everybody follow.
    pub fn commit(&mut self, peer: usize, plan: &Plan) -> Prepared {
        let prepared = self.prepare(peer, plan).unwrap();
        self.submit(peer, &prepared.bundle).unwrap();
        self.sync_all();
        assert_eq!(self.secrets(peer), prepared.secrets);
        self.assert_agreed();
        prepared
    }

    pub fn add(&mut self, by: usize, peers: &[usize]) {
        let add = peers.iter().map(|peer| self.package(*peer)).collect();
        self.commit(
            by,
            &Plan {
                add,
                ..Plan::default()
            },
        );
    }

    pub fn remove(&mut self, by: usize, peers: &[usize]) {
        let remove = peers.iter().map(|peer| self.device(*peer)).collect();
        self.commit(
            by,
            &Plan {
                remove,
                ..Plan::default()
            },
        );
    }

    pub fn secrets(&self, peer: usize) -> EpochSecrets {
        self.peers[peer].group().epoch_secrets().unwrap()
    }

    /// Public state and secrets are one at the service and every member; nobody else has them.
    pub fn assert_agreed(&self) {
        let state = self.service.state();
        let mut first: Option<(EpochSecrets, Vec<u8>)> = None;
        for (at, peer) in self.peers.iter().enumerate() {
            if !self.is_member(at) {
                assert!(peer.group.as_ref().is_none_or(|group| !group.is_active()));
                continue;
            }
            let group = peer.group();
            assert_eq!(group.state().to_bytes(), state.to_bytes(), "peer {at}");
            assert_eq!(group.state(), state);
            let mine = (group.epoch_secrets().unwrap(), group.epoch_authenticator());
            match &first {
                None => first = Some(mine),
                Some(theirs) => assert_eq!(&mine, theirs, "peer {at}"),
            }
        }
        assert!(first.is_some());
        state.roster.verify_chain(state.epoch).unwrap();
    }
}

pub fn new_user(rng: &mut ChaCha20Rng) -> User {
    let key = UserKey::generate(rng);
    let genesis = UserGenesis::new(REALM, &key, UnixMs(NOW.0 - 10_000), rng);
    User { key, genesis }
}

fn new_peer(rng: &mut ChaCha20Rng, user: &User, index: usize) -> Peer {
    let mut device = [0; 16];
    rng.fill_bytes(&mut device);
    let device = DeviceId(device);
    let key = DeviceKey::generate(rng);
    let credential = user.credential(device, &key);
    Peer {
        user: index,
        device,
        key,
        credential,
        keys: KeyStore::load(Vec::new()).unwrap(),
        key_rows: Store::default(),
        group: None,
        rows: Store::default(),
        roots: BTreeMap::new(),
    }
}
