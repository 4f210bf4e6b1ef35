//! Members of one document around its service, and the tools of an attacker.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod liars;
mod service;
pub mod traces;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use conclave_crdt::{Crdt, CrdtError, CrdtKind};
use conclave_doc::*;
use conclave_identity::{DeviceKey, SCHEME_ED25519};
use conclave_mls::EpochRoot;
use conclave_order::query::document::Base;
use conclave_proto::frame::{DeliveredRecord, OpenedDocument};
use conclave_proto::merkle::Frontier;
use conclave_proto::record::{Chained, RECORD_VERSION, Record, RecordBody, RecordHeader};
use conclave_proto::*;
use conclave_rules::{EpochState, GroupState, Roster, RosterRow, RowCause, Void};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

pub use service::{DocumentService, base_of};

pub const GROUP: GroupId = GroupId([7; 16]);
pub const DOC: DocumentId = DocumentId([8; 16]);

/// Roots for all epochs but those withheld.
#[derive(Clone, Default)]
pub struct Keys {
    pub withheld: BTreeSet<u64>,
}

pub fn root(epoch: u64) -> EpochRoot {
    EpochRoot::new([epoch as u8 + 1; 32])
}

impl KeySource for Keys {
    fn root(&self, epoch: u64) -> Option<EpochRoot> {
        (!self.withheld.contains(&epoch)).then(|| root(epoch))
    }
}

/// Who is in the group, through all epochs.
pub struct World {
    pub keys: Vec<DeviceKey>,
    pub devices: Vec<DeviceId>,
    pub rows: Vec<RosterRow>,
    /// Public state of each epoch.
    pub states: Vec<GroupState>,
    pub policy: GroupPolicy,
}

impl World {
    /// Members of epoch 0: (user, role) each.
    pub fn new(members: &[(u8, Role)]) -> Self {
        let mut world = Self {
            keys: vec![],
            devices: vec![],
            rows: vec![],
            states: vec![],
            policy: GroupPolicy::default(),
        };
        for (user, role) in members {
            world.enrol(*user, *role, 0);
        }
        world.publish(0);
        world
    }

    fn enrol(&mut self, user: u8, role: Role, epoch: u64) -> usize {
        let at = self.keys.len();
        let key = device_key(at);
        let device = DeviceId([at as u8 + 1; 16]);
        self.rows.push(RosterRow {
            device,
            user: UserId([user; 32]),
            credential_type: 0xf0c1,
            credential: Vec::new().into(),
            key: key.public().to_vec().into(),
            scheme: SCHEME_ED25519,
            role,
            first_epoch: epoch,
            last_epoch: None,
            time: UnixMs(0),
            cause: RowCause::Own,
        });
        self.keys.push(key);
        self.devices.push(device);
        at
    }

    fn publish(&mut self, rotating_since: u64) {
        let epoch = self.states.len() as u64;
        self.rows.sort_by_key(|row| (row.first_epoch, row.device));
        let roster = Roster::from_rows(self.rows.clone(), Hash::ZERO, epoch).unwrap();
        let of_epoch = EpochState {
            group: GROUP,
            epoch,
            policy: self.policy.clone(),
            roster,
            last_time: UnixMs(0),
            epoch_start: 0,
            begun_by: Hash::ZERO,
        };
        self.states.push(GroupState {
            of_epoch: Arc::new(of_epoch),
            pending: Default::default(),
            documents: Default::default(),
            open_documents: 0,
            voided: Default::default(),
            rotating_since,
            frontier: Frontier::new(),
            epoch_log_roots: Default::default(),
        });
    }

    pub fn epoch(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    /// A new epoch in which nothing changes.
    pub fn rekey(&mut self) {
        self.publish(0);
    }

    pub fn remove(&mut self, member: usize) {
        let epoch = self.epoch();
        let device = self.devices[member];
        let row = self
            .rows
            .iter_mut()
            .find(|row| row.device == device && row.last_epoch.is_none())
            .unwrap();
        row.last_epoch = Some(epoch);
        self.publish(epoch + 1);
    }

    pub fn add(&mut self, user: u8, role: Role) -> usize {
        let at = self.enrol(user, role, self.epoch() + 1);
        self.publish(0);
        at
    }

    pub fn demote(&mut self, member: usize) {
        let epoch = self.epoch();
        let device = self.devices[member];
        let row = self
            .rows
            .iter_mut()
            .find(|row| row.device == device && row.last_epoch.is_none())
            .unwrap();
        row.last_epoch = Some(epoch);
        let next = RosterRow {
            role: Role::Viewer,
            first_epoch: epoch + 1,
            last_epoch: None,
            cause: RowCause::Role,
            ..row.clone()
        };
        self.rows.push(next);
        self.publish(0);
    }

    pub fn ctx<'a>(&'a self, member: usize, epoch: u64, keys: &'a Keys) -> DocContext<'a> {
        DocContext {
            authority: &self.states[epoch as usize],
            keys,
            device: self.devices[member],
            watch: None,
        }
    }
}

/// What the service sends to one connection.
#[derive(Debug, Clone)]
pub enum Net {
    Author(Author),
    Deliver(u64, Vec<DeliveredRecord>),
    Ack {
        next_clock: u64,
        first_seq: u64,
        count: u64,
    },
    Refused {
        first_clock: u64,
        refusal: Refusal,
    },
}

/// One device.
pub struct Peer {
    pub member: usize,
    pub key: DeviceKey,
    pub doc: Document,
    pub epoch: u64,
    pub keys: Keys,
    pub rng: ChaCha20Rng,
    pub inbox: VecDeque<Net>,
    /// Rows as written.
    pub rows: BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>,
    /// How much of the log it keeps.
    pub keeping: Keeping,
    pub online: bool,
    /// The snapshot from which it opened the document on this connection.
    pub base: Option<Base>,
    pub changes: Vec<Change>,
    pub findings: Vec<Finding>,
    /// Highest version of a verdict that it could not read.
    pub unknown_verdict: Option<u16>,
    pub lost: Vec<Unsent>,
    pub uncarried: Vec<Unsent>,
    pub last: DeliverOutcome,
    /// Asked to be opened again.
    pub reopen: bool,
    /// What is on its way on the connection.
    pub session: Option<Session>,
}

pub fn instance(n: u8) -> InstanceId {
    InstanceId([n; 8])
}

/// A record of the document that an owner has declared void.
pub fn declared(record: Hash) -> Void {
    Void {
        document: DOC,
        record,
        user: UserId([1; 32]),
    }
}

/// A member's key.
pub fn device_key(member: usize) -> DeviceKey {
    DeviceKey::from_bytes(&[member as u8 + 1; 32])
}

pub fn sealer<'a>(key: &'a DeviceKey, rng: &'a mut ChaCha20Rng) -> Sealer<'a> {
    Sealer { key, rng }
}

impl Peer {
    pub fn new(member: usize, doc: Document, epoch: u64) -> Self {
        Self {
            member,
            key: device_key(member),
            doc,
            epoch,
            keys: Keys::default(),
            rng: ChaCha20Rng::seed_from_u64(1000 + member as u64),
            inbox: VecDeque::new(),
            rows: BTreeMap::new(),
            keeping: Keeping::default(),
            online: false,
            base: None,
            changes: vec![],
            findings: vec![],
            unknown_verdict: None,
            lost: vec![],
            uncarried: vec![],
            last: DeliverOutcome::default(),
            reopen: false,
            session: None,
        }
    }

    /// The next frame of own records, where the document is open.
    pub fn next_append(&mut self, ctx: &DocContext<'_>, max_bytes: usize) -> Option<Append> {
        let session = self.session.as_mut()?;
        self.doc
            .next_append(ctx, session, sealer(&self.key, &mut self.rng), max_bytes)
            .unwrap()
    }

    /// The service has refused a frame.
    pub fn refused(
        &mut self,
        ctx: &DocContext<'_>,
        first_clock: u64,
        refusal: &Refusal,
    ) -> (RefusedOutcome, DeliverOutcome) {
        let session = self.session.as_mut().unwrap();
        self.doc
            .refused(ctx, session, first_clock, refusal)
            .unwrap()
    }

    pub fn author(&self, world: &World) -> Author {
        Author {
            device: world.devices[self.member],
            instance: self.doc.instance(),
        }
    }

    pub fn store(&mut self) {
        if self.doc.take_anew() {
            self.rows.clear();
        }
        for change in self.doc.take_changes(&self.keeping) {
            match change.value {
                Some(value) => self.rows.insert(change.key, value),
                None => self.rows.remove(&change.key),
            };
        }
    }

    /// Writes what changed and, as the engine does, erases the roots that are not needed any more.
    pub fn store_and_erase(&mut self) {
        self.store();
        let needed = self.doc.roots_needed();
        let gone = (0..self.epoch).filter(|epoch| !needed.needs(*epoch));
        self.keys.withheld.extend(gone);
    }

    pub fn saved_rows(&self) -> Rows {
        self.rows
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Rows that opening the document reads.
    pub fn opening_rows(&self) -> Rows {
        let told = |(key, value): (&Vec<u8>, &Zeroizing<Vec<u8>>)| present_segments(key, value);
        let present = self.rows.iter().find_map(told).unwrap();
        let mut rows = self.saved_rows();
        rows.retain(|(key, _)| !is_kept(key) || key.starts_with(&present));
        rows
    }

    /// What it keeps of the log, as far as that is listed and there.
    pub fn kept(&self) -> KeptLog {
        let (log, bytes) = KeptLog::check(&self.saved_rows()).unwrap();
        assert_eq!(bytes, self.doc.kept_bytes());
        log
    }

    pub fn note(&mut self, outcome: DeliverOutcome) {
        self.changes.extend(outcome.changes.iter().copied());
        self.findings.extend(outcome.findings.iter().copied());
        self.unknown_verdict = self.unknown_verdict.max(outcome.unknown_verdict);
        self.lost.extend(outcome.lost.iter().cloned());
        self.uncarried.extend(outcome.uncarried.iter().cloned());
        self.reopen |= outcome.reopen;
        self.last = outcome;
    }

    pub fn text(&mut self) -> String {
        self.doc.crdt().text().unwrap().text().unwrap()
    }

    pub fn edit(&mut self, mut f: impl FnMut(&mut dyn Crdt) -> Result<(), CrdtError>) {
        assert!(self.doc.edit(&mut f).unwrap());
    }

    /// Inserts at a place that fits.
    pub fn insert(&mut self, at: usize, text: &str) {
        self.edit(|crdt| {
            let view = crdt.text().unwrap();
            let len = view.len()?;
            view.splice(at.min(len), 0, text)
        });
    }

    pub fn digest(&mut self) -> [u8; 32] {
        self.doc.crdt().content_digest().unwrap()
    }
}

/// World, service and peers.
pub struct Sim {
    pub world: World,
    pub service: DocumentService,
    pub peers: Vec<Peer>,
    pub next_instance: u8,
}

impl Sim {
    /// Member 0 creates the document with `text`; the others open it.
    pub fn new(kind: CrdtKind, members: &[(u8, Role)], text: &str) -> Self {
        Self::begun(members, |ctx, rng| {
            let mut initial = |crdt: &mut dyn Crdt| crdt.text().unwrap().splice(0, 0, text);
            let key = device_key(0);
            let with = sealer(&key, rng);
            Document::create(ctx, GROUP, DOC, kind, instance(1), Some(&mut initial), with).unwrap()
        })
    }

    /// Member 0 brings a document of another program in; the others open it.
    pub fn imported(kind: CrdtKind, members: &[(u8, Role)], state: &[u8]) -> Self {
        Self::begun(members, |ctx, rng| {
            let key = device_key(0);
            let with = sealer(&key, rng);
            Document::create_from(ctx, GROUP, DOC, kind, instance(1), state, with).unwrap()
        })
    }

    fn begun(
        members: &[(u8, Role)],
        create: impl FnOnce(&DocContext<'_>, &mut ChaCha20Rng) -> (Document, Record),
    ) -> Self {
        let world = World::new(members);
        let keys = Keys::default();
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let ctx = world.ctx(0, 0, &keys);
        let (mut doc, snapshot) = create(&ctx, &mut rng);
        let mut service = DocumentService::new(&world.states[0]);
        service.force(snapshot);
        let outcome = doc.snapshot_accepted(&ctx, 0).unwrap();
        assert_eq!(outcome.findings, vec![]);
        assert_eq!(doc.head(), service.head());
        let mut sim = Self {
            world,
            service,
            peers: vec![],
            next_instance: 1,
        };
        let mut creator = Peer::new(0, doc, 0);
        creator.store();
        sim.peers.push(creator);
        sim.connect(0);
        for member in 1..members.len() {
            sim.join(member);
        }
        sim
    }

    /// A member opens the document from its active snapshot.
    pub fn join(&mut self, member: usize) -> usize {
        self.next_instance += 1;
        let keys = Keys::default();
        let epoch = self.world.epoch();
        let author = Author {
            device: self.world.devices[member],
            instance: instance(self.next_instance),
        };
        let opened = self.service.opened(author, None);
        let mut rng = ChaCha20Rng::seed_from_u64(77 + member as u64);
        let ctx = self.world.ctx(member, epoch, &keys);
        let (doc, outcome) =
            Document::open_remote(&ctx, &opened, GROUP, DOC, author.instance, &mut rng).unwrap();
        let mut peer = Peer::new(member, doc, epoch);
        peer.session = Some(peer.doc.session(&opened));
        peer.note(outcome);
        peer.online = true;
        peer.base = base_of(&opened);
        self.peers.push(peer);
        let at = self.peers.len() - 1;
        self.send_from(at, opened.from);
        at
    }

    fn send_from(&mut self, at: usize, from: u64) {
        let peer = &mut self.peers[at];
        let frames = self.service.delivered(from, self.service.size(), peer.base);
        let frames = frames.into_iter();
        peer.inbox
            .extend(frames.map(|(first, records)| Net::Deliver(first, records)));
    }

    /// Opens the document again, in step.
    pub fn connect(&mut self, at: usize) {
        let from = self.peers[at].doc.size();
        let author = self.peers[at].author(&self.world);
        self.open(at, author, Some(from));
    }

    /// Opens the document without a position: the answer brings the active snapshot.
    pub fn rejoin(&mut self, at: usize) {
        let author = self.peers[at].author(&self.world);
        self.open(at, author, None);
    }

    fn open(&mut self, at: usize, author: Author, from: Option<u64>) {
        let opened = self.service.opened(author, from);
        let peer = &mut self.peers[at];
        peer.inbox.clear();
        peer.online = true;
        peer.reopen = false;
        peer.base = base_of(&opened);
        self.opened(at, &opened);
        self.send_from(at, opened.from);
    }

    /// The service has opened the document on a new channel.
    pub fn opened(&mut self, at: usize, opened: &OpenedDocument) -> DeliverOutcome {
        self.peers[at].session = Some(self.peers[at].doc.session(opened));
        self.with(at, |doc, ctx, rng| doc.opened(ctx, opened, rng).unwrap())
    }

    /// A peer begins anew from the service's log, which went on without what it has. What is lost stays with it.
    pub fn merge(&mut self, at: usize) {
        self.next_instance += 1;
        let peer = &mut self.peers[at];
        peer.store();
        let kept = peer.kept();
        let author = Author {
            device: self.world.devices[peer.member],
            instance: instance(self.next_instance),
        };
        let opened = self.service.opened(author, None);
        peer.inbox.clear();
        peer.online = true;
        peer.base = base_of(&opened);
        self.with(at, |doc, ctx, rng| {
            doc.merge(ctx, &opened, &kept, author.instance, rng)
                .unwrap()
        });
        let peer = &mut self.peers[at];
        peer.session = Some(peer.doc.session(&opened));
        self.send_from(at, opened.from);
    }

    /// A peer queues what the log has lost.
    pub fn carry(&mut self, at: usize, whose: Whose) -> usize {
        let peer = &mut self.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.world.ctx(peer.member, peer.epoch, &keys);
        peer.doc.carry(&ctx, whose).unwrap()
    }

    pub fn take_uncarried(&mut self, at: usize) -> Option<Unsent> {
        let peer = &mut self.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.world.ctx(peer.member, peer.epoch, &keys);
        peer.doc.take_uncarried(&ctx).unwrap()
    }

    pub fn disconnect(&mut self, at: usize) {
        self.peers[at].online = false;
        self.peers[at].inbox.clear();
        self.peers[at].session = None;
    }

    /// A call on a peer's document; its outcome is noted.
    pub fn with(
        &mut self,
        at: usize,
        f: impl FnOnce(&mut Document, &DocContext<'_>, &mut ChaCha20Rng) -> DeliverOutcome,
    ) -> DeliverOutcome {
        let peer = &mut self.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.world.ctx(peer.member, peer.epoch, &keys);
        let outcome = f(&mut peer.doc, &ctx, &mut peer.rng);
        peer.note(outcome.clone());
        outcome
    }

    /// As [`Self::with`], about what was sent on the connection. Without one nothing is heard.
    pub fn with_session(
        &mut self,
        at: usize,
        f: impl FnOnce(&mut Document, &DocContext<'_>, &mut Session) -> DeliverOutcome,
    ) {
        if let Some(mut session) = self.peers[at].session.take() {
            self.with(at, |doc, ctx, _| f(doc, ctx, &mut session));
            self.peers[at].session = Some(session);
        }
    }

    /// Puts records into the log, whatever the service would say, and tells everybody but `not`.
    pub fn order(&mut self, records: Vec<Record>, not: Option<usize>) -> u64 {
        let (first, authors) = (self.service.size(), self.service.authors().len());
        for record in records {
            self.service.force(record);
        }
        self.publish(first, authors, not);
        first
    }

    /// Tells everybody but `not` of what is in the log since there were so many records and authors.
    pub fn publish(&mut self, first: u64, authors: usize, not: Option<usize>) {
        let fresh = self.service.authors().split_off(authors);
        for at in 0..self.peers.len() {
            let peer = &mut self.peers[at];
            if !peer.online {
                continue;
            }
            peer.inbox.extend(fresh.iter().copied().map(Net::Author));
            if Some(at) != not {
                self.send_from(at, first);
            }
        }
    }

    /// Takes one frame of own records from a peer to the service. False if there was none.
    pub fn send(&mut self, at: usize, max_bytes: usize) -> bool {
        let peer = &mut self.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.world.ctx(peer.member, peer.epoch, &keys);
        let Some(append) = peer.next_append(&ctx, max_bytes) else {
            if !peer.doc.is_lightening_due() {
                return false;
            }
            let outcome = peer.doc.lighten(&ctx).unwrap();
            peer.note(outcome);
            return true;
        };
        peer.store();
        let author = peer.author(&self.world);
        self.arrive(at, author, append);
        true
    }

    pub fn arrive(&mut self, at: usize, author: Author, append: Append) {
        let (first_seq, authors) = (self.service.size(), self.service.authors().len());
        let answer = match self.service.append(author, &append) {
            Ok(records) => {
                self.publish(first_seq, authors, Some(at));
                let count = records.len() as u64;
                Net::Ack {
                    next_clock: append.first_clock + count,
                    first_seq,
                    count,
                }
            }
            Err(refusal) => Net::Refused {
                first_clock: append.first_clock,
                refusal,
            },
        };
        self.peers[at].inbox.push_back(answer);
    }

    /// Handles one frame at a peer. False if there was none.
    pub fn receive(&mut self, at: usize) -> bool {
        let Some(net) = self.peers[at].inbox.pop_front() else {
            return false;
        };
        match net {
            Net::Author(author) => self.peers[at].doc.new_author(author),
            Net::Deliver(first, records) => {
                self.with(at, |doc, ctx, _| doc.deliver(ctx, first, records).unwrap());
            }
            Net::Ack {
                next_clock,
                first_seq,
                count,
            } => {
                self.with_session(at, |doc, ctx, session| {
                    doc.acked(ctx, session, next_clock, first_seq, count)
                        .unwrap()
                });
            }
            Net::Refused {
                first_clock,
                refusal,
            } => {
                self.with_session(at, |doc, ctx, session| {
                    doc.refused(ctx, session, first_clock, &refusal).unwrap().1
                });
            }
        }
        if self.peers[at].last.reopen {
            self.connect(at);
        }
        if let Some((from, to)) = self.peers[at].last.gap {
            self.fetch(at, from, to);
        }
        if let Some((_, Blocked::Whole { first_seq, count })) = self.peers[at].last.blocked {
            self.fetch(at, first_seq, first_seq + u64::from(count));
        }
        true
    }

    /// `GetRecords` and its answer.
    pub fn fetch(&mut self, at: usize, from: u64, to: u64) {
        let records = self.service.fetched(from, to, self.peers[at].base);
        self.with(at, |doc, ctx, _| doc.deliver(ctx, from, records).unwrap());
    }

    /// The service is told of the commits up to an epoch.
    pub fn reach(&mut self, epoch: u64) {
        self.service.reach(&self.world.states[epoch as usize]);
    }

    /// Everybody processes all commits.
    pub fn advance_epochs(&mut self) {
        self.reach(self.world.epoch());
        for at in 0..self.peers.len() {
            self.peers[at].epoch = self.world.epoch();
            self.with(at, |doc, ctx, _| doc.retry(ctx).unwrap());
        }
    }

    /// Until nothing moves any more.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            for at in 0..self.peers.len() {
                if self.peers[at].online {
                    moved |= self.receive(at);
                    moved |= self.send(at, 64 * 1024);
                }
            }
            if !moved {
                return;
            }
        }
        panic!("does not settle");
    }

    /// Until nothing moves any more but at one peer.
    pub fn settle_but(&mut self, not: usize) {
        for _ in 0..1000 {
            for at in (0..self.peers.len()).filter(|at| *at != not) {
                self.receive(at);
                self.send(at, 64 * 1024);
            }
        }
    }

    /// A snapshot by a peer, ordered by the service and delivered to all.
    pub fn snapshot(&mut self, at: usize) -> u64 {
        let peer = &mut self.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.world.ctx(peer.member, peer.epoch, &keys);
        let record = peer
            .doc
            .make_snapshot(&ctx, sealer(&peer.key, &mut peer.rng))
            .unwrap();
        let seq = self.order(vec![record], Some(at));
        self.with(at, |doc, ctx, _| doc.snapshot_accepted(ctx, seq).unwrap());
        seq
    }

    /// What a peer found when it looked at a snapshot ([`Self::look`]).
    pub fn check(&mut self, at: usize) -> Option<Judgement> {
        self.look(at).map(|it| it.judgement)
    }

    /// A peer looks at a snapshot if it can, as if the lot fell on it. One that a restart has lost is read from its row, or fetched.
    pub fn look(&mut self, at: usize) -> Option<Checked> {
        self.look_or_fail(at).unwrap()
    }

    /// The same where that may fail.
    pub fn look_or_fail(&mut self, at: usize) -> Result<Option<Checked>, DocError> {
        let (member, epoch) = (self.peers[at].member, self.peers[at].epoch);
        let keys = self.peers[at].keys.clone();
        let ctx = self.world.ctx(member, epoch, &keys);
        while self.peers[at].doc.is_lot_open() {
            self.peers[at].doc.draw_lot(1, 0);
        }
        let Some(wanted) = self.peers[at].doc.check_wanted(&ctx) else {
            return Ok(None);
        };
        if !wanted.have && wanted.kept {
            self.peers[at].store();
            let row = self.peers[at].rows[&snapshot_row(wanted.seq)].clone();
            self.peers[at].doc.take_snapshot(wanted.seq, &row);
        } else if !wanted.have {
            self.fetch(at, wanted.seq, wanted.seq + 1);
        }
        let ctx = self.world.ctx(member, epoch, &keys);
        self.peers[at].doc.check_snapshot(&ctx)
    }

    /// A peer queues its verdict, if there is something to say.
    pub fn say(&mut self, at: usize) -> bool {
        let peer = &mut self.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.world.ctx(peer.member, peer.epoch, &keys);
        peer.doc.write_verdict(&ctx)
    }

    /// It checks, and says what it found.
    pub fn judge(&mut self, at: usize) -> Option<Judgement> {
        let found = self.check(at);
        self.say(at);
        found
    }

    /// A peer confirms what it can, so many minutes after the beginning, and lets go of what that allows.
    pub fn confirm(&mut self, at: usize, minutes: u64) -> Confirmed {
        let peer = &mut self.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.world.ctx(peer.member, peer.epoch, &keys);
        let outcome = peer.doc.confirm(&ctx, UnixMs(minutes * 60_000));
        if outcome.moved {
            self.with(at, |doc, ctx, _| doc.retry(ctx).unwrap());
        }
        outcome
    }

    /// What a peer's own checks have refuted.
    pub fn refuted(&mut self, at: usize) -> Vec<Refuted> {
        let peer = &mut self.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.world.ctx(peer.member, peer.epoch, &keys);
        peer.doc.refuted(&ctx)
    }

    /// The snapshot so many before the active one: its id, and its position.
    pub fn snapshot_at(&self, back: usize) -> (Hash, u64) {
        let mut snapshots = (0..self.service.size()).rev().filter_map(|seq| {
            let record = self.service.record(seq);
            matches!(record.header.body, RecordBody::Snapshot(_)).then(|| (record.leaf(), seq))
        });
        snapshots.nth(back).unwrap()
    }

    /// Size of what the snapshot at a position covers.
    pub fn covered_by(&self, seq: u64) -> u64 {
        match self.service.record(seq).header.body {
            RecordBody::Snapshot(snapshot) => snapshot.covered.size,
            other => panic!("{other:?}"),
        }
    }

    /// Crash and restart of a peer, from what it had stored.
    pub fn restart(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.world.ctx(peer.member, peer.epoch, &keys);
        peer.doc = Document::load(&ctx, peer.opening_rows(), &mut peer.rng).unwrap();
        peer.online = false;
        peer.inbox.clear();
    }

    pub fn assert_converged(&mut self) {
        let head = self.service.head();
        let (text, digest) = (self.peers[0].text(), self.peers[0].digest());
        for peer in &mut self.peers {
            assert_eq!(
                peer.doc.head(),
                head,
                "member {}: {:?}",
                peer.member,
                peer.last
            );
            assert_eq!(peer.doc.pending_count(), 0);
            assert_eq!(peer.text(), text);
            assert_eq!(peer.digest(), digest);
        }
    }

    pub fn assert_no_findings(&self) {
        for peer in &self.peers {
            assert_eq!(peer.findings, vec![], "member {}", peer.member);
        }
    }

    /// What an attacker with a member's key writes: the next record of that author, before `change` alters its header.
    pub fn forge(
        &self,
        member: usize,
        payload: &[u8],
        change: impl FnOnce(&mut RecordHeader),
    ) -> Record {
        let author = Author {
            device: self.world.devices[member],
            instance: instance(200 + member as u8),
        };
        let (clock, prev) = self.service.chain(&author);
        let mut header = RecordHeader {
            version: RECORD_VERSION,
            group: GROUP,
            document: DOC,
            epoch: self.world.epoch(),
            author,
            seen: self.service.head(),
            body: RecordBody::Update(Chained { clock, prev }),
        };
        change(&mut header);
        let keys = DocKeys::derive(&root(header.epoch), &header.document);
        let mut rng = ChaCha20Rng::seed_from_u64(self.service.size() + 99);
        seal(
            &header,
            payload,
            &keys,
            &self.world.keys[member],
            1,
            &mut rng,
        )
    }

    /// A valid CRDT update of a fresh replica.
    pub fn update(&mut self, kind: CrdtKind, seed: u8, text: &str) -> Vec<u8> {
        let replica = conclave_crdt::ReplicaId::for_kind(kind, [seed; 16]);
        let mut crdt = conclave_crdt::create(kind, replica).unwrap();
        crdt.text().unwrap().splice(0, 0, text).unwrap();
        let mut out = Vec::new();
        crdt.take_pending(&mut out).unwrap();
        out.remove(0)
    }
}

/// An update that is read without fault, and that the engine cannot stand.
pub fn poison(seed: u8) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let kind = CrdtKind::Automerge;
    let fresh = |seed| {
        conclave_crdt::create(kind, conclave_crdt::ReplicaId::for_kind(kind, [seed; 16])).unwrap()
    };
    let mut author = fresh(seed);
    author.text().unwrap().splice(0, 0, "poison").unwrap();
    let mut out = Vec::new();
    author.take_pending(&mut out).unwrap();
    let honest = out.remove(0);
    for at in 40..honest.len() {
        for bit in 0..8 {
            let mut bad = honest.clone();
            bad[at] ^= 1 << bit;
            let hash: [u8; 32] = Sha256::digest(&bad[8..]).into();
            bad[4..8].copy_from_slice(&hash[..4]);
            let mut doc = fresh(200);
            let same_claim = doc
                .inspect(&bad)
                .is_ok_and(|read| read.info == doc.inspect(&honest).unwrap().info);
            if same_claim && doc.apply(&[&bad]) == Err(conclave_crdt::CrdtError::Panicked) {
                return bad;
            }
        }
    }
    panic!("no flip makes the engine panic");
}

pub fn below(rng: &mut ChaCha20Rng, bound: usize) -> usize {
    (rng.next_u64() % bound as u64) as usize
}

/// An edit of which neither text nor JSON shows anything.
#[derive(Debug, Clone, Copy)]
pub enum Unseen {
    Xml,
    Format,
    OtherRoot,
    Mark,
}

impl Unseen {
    pub const ALL: [Self; 4] = [Self::Xml, Self::Format, Self::OtherRoot, Self::Mark];

    pub fn kind(self) -> CrdtKind {
        match self {
            Self::Mark => CrdtKind::Automerge,
            _ => CrdtKind::Yjs,
        }
    }

    /// Formats are set on the two characters at `at`.
    pub fn edit(self, crdt: &mut dyn Crdt, at: u32) -> Result<(), CrdtError> {
        use automerge::marks::{ExpandMark, Mark};
        use automerge::transaction::Transactable;
        use automerge::{ROOT, ReadDoc};
        use yrs::{Any, Array, Text, Transact, XmlElementPrelim, XmlFragment};
        let any = crdt.as_any_mut();
        if let Some(yjs) = any.downcast_ref::<conclave_crdt::yjs::Yrs>() {
            let doc = yjs.doc();
            let (text, list) = (
                doc.get_or_insert_text("text"),
                doc.get_or_insert_array("todo"),
            );
            let xml = doc.get_or_insert_xml_fragment("prosemirror");
            let mut txn = doc.transact_mut();
            match self {
                Self::Xml => drop(xml.insert(&mut txn, 0, XmlElementPrelim::empty("mine"))),
                Self::OtherRoot => drop(list.insert(&mut txn, 0, "mine")),
                _ => {
                    let bold = [("bold".into(), Any::Bool(true))].into();
                    text.format(&mut txn, at, 2, bold);
                }
            }
        }
        if let Some(automerge) = any.downcast_mut::<conclave_crdt::automerge::Automerge>() {
            let doc = automerge.doc_mut();
            let (_, text) = doc.get(ROOT, "text").unwrap().unwrap();
            let at = at as usize;
            let mark = Mark::new("bold".to_owned(), true, at, at + 2);
            doc.mark(&text, mark, ExpandMark::Both).unwrap();
        }
        Ok(())
    }
}

/// A snapshot as an attacker with a member's key makes it.
pub fn forge_snapshot(
    sim: &mut Sim,
    member: usize,
    header: impl FnOnce(&mut conclave_proto::record::SnapshotHeader),
    payload: impl FnOnce(&mut SnapshotPayload),
) -> Record {
    let keys = Keys::default();
    let epoch = sim.world.epoch();
    let ctx = sim.world.ctx(member, epoch, &keys);
    let peer = &mut sim.peers[member];
    let record = peer
        .doc
        .make_snapshot(&ctx, sealer(&peer.key, &mut peer.rng))
        .unwrap();
    peer.doc.snapshot_refused();
    let doc_keys = DocKeys::derive(&root(epoch), &DOC);
    let mut content = SnapshotPayload::from_bytes(&open(&record, &doc_keys).unwrap()).unwrap();
    payload(&mut content);
    let mut outer = record.header;
    let RecordBody::Snapshot(inner) = &mut outer.body else {
        panic!()
    };
    header(inner);
    seal(
        &outer,
        &content.to_bytes(),
        &doc_keys,
        &sim.world.keys[member],
        1,
        &mut sim.peers[member].rng,
    )
}
