//! A small honest service for one document, members around it, and the tools of an attacker.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use conclave_crdt::{Crdt, CrdtError, CrdtKind};
use conclave_doc::*;
use conclave_identity::{DeviceKey, SCHEME_ED25519};
use conclave_mls::EpochRoot;
use conclave_proto::codec::{Bytes, Varint};
use conclave_proto::frame::{BaseSnapshot, DeliveredRecord, ElidedRecord, OpenedDocument};
use conclave_proto::merkle::{Frontier, Head, consistency_proof};
use conclave_proto::record::{Chained, RECORD_VERSION, Record, RecordBody, RecordHeader};
use conclave_proto::*;
use conclave_rules::{
    Chain, Gate, GroupState, LogId, Place, Roster, RosterRow, Seen, judge_record,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

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
        let key = DeviceKey::from_bytes(&[at as u8 + 1; 32]);
        let device = DeviceId([at as u8 + 1; 16]);
        self.rows.push(RosterRow {
            device,
            user: UserId([user; 32]),
            credential_type: 0xf0c1,
            credential: Bytes::default(),
            key: Bytes::from(key.public().to_vec()),
            scheme: SCHEME_ED25519,
            role,
            first_epoch: epoch,
            last_epoch: None,
            time: UnixMs(0),
        });
        self.keys.push(key);
        self.devices.push(device);
        at
    }

    fn publish(&mut self, rotating_since: u64) {
        let epoch = self.states.len() as u64;
        self.rows.sort_by_key(|row| (row.first_epoch, row.device));
        let roster = Roster::from_rows(self.rows.clone(), Hash::ZERO, epoch).unwrap();
        self.states.push(GroupState {
            group: GROUP,
            epoch,
            policy: self.policy.clone(),
            roster,
            last_time: UnixMs(0),
            pending: vec![],
            documents: BTreeMap::new(),
            voided: vec![],
            rotating_since,
            frontier: Frontier::new(),
            epoch_start: 0,
            epoch_log_roots: vec![],
            begun_by: Hash::ZERO,
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
            signer: &self.keys[member],
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

/// An honest service, with a door for dishonest tests: `force`.
#[derive(Default, Clone)]
pub struct Service {
    pub log: Vec<Record>,
    pub leaves: Vec<Hash>,
    pub frontier: Frontier,
    /// Head after each record.
    pub heads: Vec<Head>,
    pub chains: BTreeMap<Author, (u64, Hash, Vec<u64>)>,
    pub authors: Vec<Author>,
    pub active: Option<u64>,
    /// Position and covered size of each snapshot that became active.
    pub actives: Vec<(u64, u64)>,
    pub epoch: u64,
}

impl Service {
    pub fn head_at(&self, size: u64) -> Head {
        size.checked_sub(1)
            .map_or(Head::EMPTY, |at| self.heads[at as usize])
    }

    pub fn head(&self) -> Head {
        self.head_at(self.leaves.len() as u64)
    }

    pub fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    pub fn chain(&self, author: &Author) -> (u64, Hash) {
        self.chains
            .get(author)
            .map_or((0, Hash::ZERO), |chain| (chain.0, chain.1))
    }

    /// Puts any record at the end of the log.
    pub fn force(&mut self, record: Record) -> u64 {
        let seq = self.size();
        let leaf = record.leaf();
        let author = record.header.author;
        if !self.authors.contains(&author) {
            self.authors.push(author);
        }
        if let Some(chained) = record.header.body.chained() {
            let chain = self.chains.entry(author).or_insert((0, Hash::ZERO, vec![]));
            chain.0 = chained.clock + 1;
            chain.1 = leaf;
            chain.2.push(seq);
        }
        if let RecordBody::Snapshot(header) = record.header.body {
            self.active = Some(seq);
            self.actives.push((seq, header.covered.size));
        }
        self.leaves.push(leaf);
        self.frontier.push(leaf);
        self.heads.push(self.frontier.head());
        self.log.push(record);
        seq
    }

    /// Judges a frame of own records, and gives them whole.
    pub fn rebuild(
        &self,
        world: &World,
        author: Author,
        append: &Append,
    ) -> Result<Vec<Record>, Refusal> {
        let gate = Gate::Before {
            current: self.epoch,
        };
        let (next, mut prev) = self.chain(&author);
        if gate.admits(append.epoch).is_ok() && append.first_clock < next {
            let seq = self.chains[&author].2[append.first_clock as usize];
            return Err(Refusal::AlreadyAccepted {
                leaf: self.leaves[seq as usize],
                seq,
            });
        }
        let mut out = Vec::new();
        for (at, appended) in (0..).zip(&append.records) {
            let known = self.size().min(appended.seen_size.0);
            let seen = self.head_at(known);
            let chained = Chained {
                clock: append.first_clock + at,
                prev,
            };
            let header = RecordHeader {
                version: RECORD_VERSION,
                group: GROUP,
                document: DOC,
                epoch: append.epoch,
                author,
                seen,
                body: appended.body(chained).unwrap(),
            };
            let place = Place {
                log: LogId {
                    group: GROUP,
                    document: DOC,
                },
                row: world.states[self.epoch as usize].row(&author.device, self.epoch),
                chain: Some(Chain {
                    next: next + at,
                    last: prev,
                    closed: self.is_closed(&author),
                }),
                active: None,
                seen: Seen::known(
                    known == appended.seen_size.0 && seen.root.0[..8] == appended.seen_hint,
                ),
                covered: Seen::Unproven,
                gate,
            };
            judge_record(&header, &place).map_err(|fault| place.answer(fault))?;
            let record = Record {
                header,
                sealed: appended.sealed.clone(),
            };
            prev = record.leaf();
            out.push(record);
        }
        Ok(out)
    }

    /// Whether a later instance of the same device has written.
    fn is_closed(&self, author: &Author) -> bool {
        let later = self.authors.iter().skip_while(|known| *known != author);
        later.skip(1).any(|known| known.device == author.device)
    }

    pub fn covered(&self) -> u64 {
        match self.active.map(|seq| self.log[seq as usize].header.body) {
            Some(RecordBody::Snapshot(header)) => header.covered.size,
            _ => 0,
        }
    }

    /// The newest snapshot was no valid one.
    pub fn drop_active(&mut self) {
        self.actives.pop();
        self.active = self.actives.last().map(|active| active.0);
    }

    /// The size from which on a reader surely has roots at this position: its base's, or the then active snapshot's.
    pub fn roots_from(&self, seq: u64, base: Option<(u64, u64)>) -> u64 {
        let active = self
            .actives
            .iter()
            .rev()
            .find(|active| active.0 < seq)
            .map_or(0, |active| active.1);
        base.filter(|base| seq < base.0)
            .map_or(active, |base| base.1)
    }

    pub fn whole(&self, seq: u64) -> DeliveredRecord {
        self.whole_for(seq, None)
    }

    pub fn whole_for(&self, seq: u64, base: Option<(u64, u64)>) -> DeliveredRecord {
        let record = self.log[seq as usize].clone();
        let (seen, roots_from) = (record.header.seen.size, self.roots_from(seq, base));
        let proof = if seen < roots_from {
            consistency_proof(&self.leaves[..roots_from as usize], seen).unwrap()
        } else {
            vec![]
        };
        DeliveredRecord::Whole { record, proof }
    }

    pub fn deliver(&self, seq: u64) -> DeliveredRecord {
        self.deliver_for(seq, None)
    }

    pub fn deliver_for(&self, seq: u64, base: Option<(u64, u64)>) -> DeliveredRecord {
        let record = &self.log[seq as usize];
        let seen = record.header.seen;
        let header = &record.header;
        // Left-out fields must be those that the receiver fills in.
        let plain = (header.version, header.group, header.document) == (RECORD_VERSION, GROUP, DOC);
        if !plain || header.body.chained().is_none() || seen.size < self.roots_from(seq, base) {
            return self.whole_for(seq, base);
        }
        self.elided(seq)
    }

    pub fn elided(&self, seq: u64) -> DeliveredRecord {
        let record = &self.log[seq as usize];
        let seen = record.header.seen;
        let author = self
            .authors
            .iter()
            .position(|author| *author == record.header.author)
            .unwrap();
        let elided = ElidedRecord {
            author: Varint(author as u64),
            epoch: Varint(record.header.epoch),
            seen_back: Varint(seq - seen.size),
            seen_hint: seen.root.0[..8].try_into().unwrap(),
            sealed: record.sealed.clone(),
        };
        match record.header.body {
            RecordBody::Verdict(_) => DeliveredRecord::Verdict(elided),
            _ => DeliveredRecord::Update(elided),
        }
    }

    pub fn opened(&self, author: Author, from: Option<u64>) -> OpenedDocument {
        let (own_next_clock, own_last) = self.chain(&author);
        let base = from.is_none().then(|| {
            let seq = self.active.unwrap();
            BaseSnapshot {
                seq,
                record: self.log[seq as usize].clone(),
            }
        });
        OpenedDocument {
            channel: Varint(1),
            head: self.head(),
            from: from.unwrap_or_else(|| self.covered()),
            base,
            authors: self.authors.clone(),
            own_next_clock,
            own_last,
        }
    }
}

/// One device.
pub struct Peer {
    pub member: usize,
    pub doc: Document,
    pub epoch: u64,
    pub keys: Keys,
    pub rng: ChaCha20Rng,
    pub inbox: VecDeque<Net>,
    /// Rows as written.
    pub rows: BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>,
    pub online: bool,
    /// Position and covered size of the snapshot from which it opened the document.
    pub base: Option<(u64, u64)>,
    pub changes: Vec<Change>,
    pub findings: Vec<Finding>,
    pub lost: Vec<Unsent>,
    pub last: DeliverOutcome,
    /// Asked to be opened again.
    pub reopen: bool,
    /// What is on its way on the connection.
    pub session: Option<Session>,
}

pub fn instance(n: u8) -> InstanceId {
    InstanceId([n; 8])
}

impl Peer {
    pub fn new(member: usize, doc: Document, epoch: u64) -> Self {
        Self {
            member,
            doc,
            epoch,
            keys: Keys::default(),
            rng: ChaCha20Rng::seed_from_u64(1000 + member as u64),
            inbox: VecDeque::new(),
            rows: BTreeMap::new(),
            online: false,
            base: None,
            changes: vec![],
            findings: vec![],
            lost: vec![],
            last: DeliverOutcome::default(),
            reopen: false,
            session: None,
        }
    }

    /// The next frame of own records, where the document is open.
    pub fn next_append(&mut self, ctx: &DocContext<'_>, max_bytes: usize) -> Option<Append> {
        let session = self.session.as_mut()?;
        self.doc
            .next_append(ctx, session, &mut self.rng, max_bytes)
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
        for change in self.doc.take_changes() {
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

    pub fn note(&mut self, outcome: DeliverOutcome) {
        self.changes.extend(outcome.changes.iter().copied());
        self.findings.extend(outcome.findings.iter().copied());
        self.lost.extend(outcome.lost.iter().cloned());
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
    pub service: Service,
    pub peers: Vec<Peer>,
    pub next_instance: u8,
}

impl Sim {
    /// Member 0 creates the document with `text`; the others open it.
    pub fn new(kind: CrdtKind, members: &[(u8, Role)], text: &str) -> Self {
        Self::begun(members, |ctx, rng| {
            let mut initial = |crdt: &mut dyn Crdt| crdt.text().unwrap().splice(0, 0, text);
            Document::create(ctx, GROUP, DOC, kind, instance(1), Some(&mut initial), rng).unwrap()
        })
    }

    /// Member 0 brings a document of another program in; the others open it.
    pub fn imported(kind: CrdtKind, members: &[(u8, Role)], state: &[u8]) -> Self {
        Self::begun(members, |ctx, rng| {
            Document::create_from(ctx, GROUP, DOC, kind, instance(1), state, rng).unwrap()
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
        let mut service = Service::default();
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
        peer.base = opened.base.as_ref().map(|base| (base.seq, opened.from));
        self.peers.push(peer);
        let at = self.peers.len() - 1;
        self.send_from(at, opened.from);
        at
    }

    fn send_from(&mut self, at: usize, from: u64) {
        let records: Vec<DeliveredRecord> = (from..self.service.size())
            .map(|seq| {
                if Some(seq) == self.service.active && self.peers[at].doc.active_snapshot().1 == seq
                {
                    DeliveredRecord::Leaf(self.service.leaves[seq as usize])
                } else {
                    self.service.deliver_for(seq, self.peers[at].base)
                }
            })
            .collect();
        if !records.is_empty() {
            self.peers[at].inbox.push_back(Net::Deliver(from, records));
        }
    }

    /// Opens the document again, in step.
    pub fn connect(&mut self, at: usize) {
        let from = self.peers[at].doc.size();
        let author = self.peers[at].author(&self.world);
        let opened = self.service.opened(author, Some(from));
        self.peers[at].inbox.clear();
        self.peers[at].online = true;
        self.peers[at].reopen = false;
        self.opened(at, &opened);
        self.send_from(at, from);
    }

    /// The service has opened the document on a new channel.
    pub fn opened(&mut self, at: usize, opened: &OpenedDocument) -> DeliverOutcome {
        self.peers[at].session = Some(self.peers[at].doc.session(opened));
        self.with(at, |doc, ctx, rng| doc.opened(ctx, opened, rng).unwrap())
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

    /// Orders records at the service and tells everybody but `not`.
    pub fn order(&mut self, records: Vec<Record>, not: Option<usize>) -> u64 {
        let first = self.service.size();
        for record in records {
            let known = self.service.authors.contains(&record.header.author);
            let author = record.header.author;
            self.service.force(record);
            if !known {
                self.peers
                    .iter_mut()
                    .filter(|peer| peer.online)
                    .for_each(|peer| peer.inbox.push_back(Net::Author(author)));
            }
        }
        let records: Vec<DeliveredRecord> = (first..self.service.size())
            .map(|seq| self.service.deliver(seq))
            .collect();
        for (at, peer) in self.peers.iter_mut().enumerate() {
            if peer.online && Some(at) != not {
                peer.inbox.push_back(Net::Deliver(first, records.clone()));
            }
        }
        first
    }

    /// Takes one frame of own records from a peer to the service. False if there was none.
    pub fn send(&mut self, at: usize, max_bytes: usize) -> bool {
        let peer = &mut self.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.world.ctx(peer.member, peer.epoch, &keys);
        let Some(append) = peer.next_append(&ctx, max_bytes) else {
            return false;
        };
        peer.store();
        let author = peer.author(&self.world);
        self.arrive(at, author, append);
        true
    }

    pub fn arrive(&mut self, at: usize, author: Author, append: Append) {
        let count = append.records.len() as u64;
        match self.service.rebuild(&self.world, author, &append) {
            Ok(records) => {
                let next_clock = append.first_clock + count;
                let first_seq = self.order(records, Some(at));
                self.peers[at].inbox.push_back(Net::Ack {
                    next_clock,
                    first_seq,
                    count,
                });
            }
            Err(refusal) => {
                let first_clock = append.first_clock;
                self.peers[at].inbox.push_back(Net::Refused {
                    first_clock,
                    refusal,
                });
            }
        }
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
        let records = (from..to.min(self.service.size()))
            .map(|seq| self.service.whole_for(seq, self.peers[at].base))
            .collect();
        self.with(at, |doc, ctx, _| doc.deliver(ctx, from, records).unwrap());
    }

    /// Everybody processes all commits.
    pub fn advance_epochs(&mut self) {
        self.service.epoch = self.world.epoch();
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
        let record = peer.doc.make_snapshot(&ctx, &mut peer.rng).unwrap();
        let seq = self.order(vec![record], Some(at));
        self.with(at, |doc, ctx, _| doc.snapshot_accepted(ctx, seq).unwrap());
        seq
    }

    /// Crash and restart of a peer, from what it had stored.
    pub fn restart(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let keys = peer.keys.clone();
        let ctx = self.world.ctx(peer.member, peer.epoch, &keys);
        peer.doc = Document::load(&ctx, peer.saved_rows(), &mut peer.rng).unwrap();
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
