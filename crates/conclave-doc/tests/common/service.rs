//! The service of one document: the real ordering core over its store in memory. Only who is in the group is made up, by the test's world;
//! and there is a door for what no honest service would store: `force`.

use bytes::Bytes;
use conclave_doc::Append;
use conclave_order::memory::Memory;
use conclave_order::op::append::Arrived;
use conclave_order::op::document::begin;
use conclave_order::op::group::CreateGroup;
use conclave_order::op::identity::{Claim, Door, Newcomer};
use conclave_order::op::seen::hint;
use conclave_order::query::document::{Base, Gathered};
use conclave_order::rows::{AuthorRow, DocumentRow, EntryKind, EntryRow, RecordKind, RecordRow};
use conclave_order::{
    Backend, Bounds, Change, Event, Op, Proofs, Reader, Transaction, WholeRecord,
};
use conclave_proto::codec::{decode, encode};
use conclave_proto::frame::{Answer, DeliveredRecord, OpenedDocument, ServiceFrame};
use conclave_proto::merkle::{Frontier, Head};
use conclave_proto::record::{RECORD_VERSION, Record, RecordBody};
use conclave_proto::*;
use conclave_rules::{GroupState, LogId};
use conclave_testkit::rows::ready;
use conclave_testkit::service::Signing;
use conclave_testkit::service::log::{self, Log};
use conclave_testkit::world::{START, log_in};

use super::{DOC, GROUP};

const LOG: LogId = LogId {
    group: GROUP,
    document: DOC,
};
const CHANNEL: u64 = 1;

pub struct DocumentService {
    store: Memory,
    /// The group, as far as the service has got.
    group: GroupState,
}

/// A copy of its data.
impl Clone for DocumentService {
    fn clone(&self) -> Self {
        Self {
            store: self.store.copy(),
            group: self.group.clone(),
        }
    }
}

/// What a receiver began with, who was answered this.
pub fn base_of(opened: &OpenedDocument) -> Option<Base> {
    let base = opened.base.as_ref()?;
    Some(Base {
        seq: base.seq,
        covered: opened.from,
    })
}

fn delivered(frame: ServiceFrame) -> (u64, Vec<DeliveredRecord>) {
    match frame {
        ServiceFrame::Deliver {
            first_seq, records, ..
        } => (first_seq.0, records.0),
        other => panic!("{other:?}"),
    }
}

impl DocumentService {
    /// One that has the group, and no document yet.
    pub fn new(group: &GroupState) -> Self {
        let mut service = Self {
            store: Memory::new(),
            group: group.clone(),
        };
        service.reach(group);
        let founder = &group.roster.rows()[0];
        service.run(Op::CreateGroup(Box::new(CreateGroup {
            group: GROUP,
            device: founder.device,
            user: founder.user,
            genesis: Hash::ZERO,
            root: Frontier::new().root(),
            parts: Vec::new(),
            founded: START,
            now: START,
        })));
        service
    }

    /// The group has got here, with whoever is in it now.
    pub fn reach(&mut self, group: &GroupState) {
        for row in group.roster.rows() {
            let who = Newcomer {
                user: row.user,
                device: row.device,
                key: row.key.as_slice().to_vec(),
            };
            let (door, now) = (Door::Open, START);
            self.run(log_in(who, door, Claim::default(), now));
        }
        let rows = log::load(&self.store, |keys| _ = keys.groups.insert(GROUP)).unwrap();
        if let Some(at) = rows.groups[&GROUP]
            && at.epoch < group.epoch
        {
            let entry = EntryRow {
                kind: EntryKind::Commit,
                epoch: Some(at.epoch),
                leaf: Hash::ZERO,
                root: Hash::ZERO,
                bytes: Bytes::new(),
            };
            self.write(vec![Change::Entry {
                group: GROUP,
                expected: at.at(),
                epoch: group.epoch,
                generation: 0,
                entry,
            }]);
        }
        self.group = group.clone();
    }

    fn run(&mut self, op: Op) {
        log::run(&mut self.store, op).unwrap();
    }

    fn write(&mut self, changes: Vec<Change>) {
        let mut tx = ready(self.store.begin()).unwrap();
        ready(tx.write(changes)).unwrap();
        ready(tx.commit()).unwrap();
    }

    fn log(&self) -> Log {
        Log::of(&self.store, LOG)
    }

    pub fn head_at(&self, size: u64) -> Head {
        let root = self.log().root_at(size).unwrap().unwrap();
        Head { size, root }
    }

    pub fn head(&self) -> Head {
        let stands = self.log().stands();
        stands.map_or(Head::EMPTY, |(row, _)| row.frontier.head())
    }

    pub fn size(&self) -> u64 {
        self.head().size
    }

    /// Size that the active snapshot covers.
    pub fn covered(&self) -> u64 {
        self.log().stands().unwrap().0.covered
    }

    /// Position of the active snapshot.
    pub fn active(&self) -> u64 {
        self.log().stands().unwrap().1.seq
    }

    /// Who has written, in the order of their numbers.
    pub fn authors(&self) -> Vec<Author> {
        ready(self.store.clone().authors(&LOG)).unwrap()
    }

    /// An author's next clock and last leaf.
    pub fn chain(&self, author: &Author) -> (u64, Hash) {
        let row = self.log().author(*author).unwrap();
        row.map_or((0, Hash::ZERO), |row| (row.next_clock, row.last_leaf))
    }

    pub fn record(&self, seq: u64) -> Record {
        match ready(self.store.clone().whole(&LOG, seq)).unwrap() {
            Some(WholeRecord::Whole { record, .. }) => *record,
            other => panic!("{seq}: {other:?}"),
        }
    }

    fn row(&self, seq: u64) -> RecordRow {
        let bounds = Bounds {
            from: seq,
            end: seq + 1,
            bytes: usize::MAX,
        };
        let rows = ready(self.store.clone().records(&LOG, bounds));
        rows.unwrap().remove(0)
    }

    pub fn leaf(&self, seq: u64) -> Hash {
        self.row(seq).leaf
    }

    /// Orders a frame of own records, and gives these whole.
    pub fn append(&mut self, author: Author, append: &Append) -> Result<Vec<Record>, Refusal> {
        let arrived = Arrived {
            epoch: append.epoch,
            first_clock: append.first_clock,
            records: append.records.clone(),
        };
        let placed = self.log().append(&self.group, author, &arrived)?;
        let end = placed.first_seq + placed.roots.len() as u64;
        let records = (placed.first_seq..end).map(|seq| self.record(seq));
        Ok(records.collect())
    }

    /// Puts any record at the end of the log, also one that the core refuses. A snapshot that it takes becomes the active one.
    pub fn force(&mut self, record: Record) -> u64 {
        let (seq, device) = (self.size(), record.header.author.device);
        if let RecordBody::Snapshot(snapshot) = record.header.body {
            if seq == 0 {
                self.write(begin(&record, snapshot.crdt, device, 0));
                return seq;
            }
            let record = record.clone();
            let put = self.log().put_snapshot(&self.group, device, record, START);
            if matches!(put, Ok(Event::Snapshot(_))) {
                return seq;
            }
        }
        let changes = self.forced(&record);
        self.write(changes);
        seq
    }

    /// A record as it comes to lie unjudged. Where it is no link in its author's chain, it moves none, and goes out whole.
    fn forced(&self, record: &Record) -> Vec<Change> {
        let header = &record.header;
        let (author, leaf) = (header.author, record.leaf());
        let mut row: DocumentRow = self.log().stands().unwrap().0;
        let seq = row.frontier.size();
        row.frontier.push(leaf);
        let known = self.log().author(author).unwrap();
        let chain = known.unwrap_or(AuthorRow {
            no: row.author_count,
            next_clock: 0,
            last_leaf: Hash::ZERO,
            closed: false,
        });
        let is_plain =
            (header.version, header.group, header.document) == (RECORD_VERSION, GROUP, DOC);
        let link = header.body.chained().filter(|link| {
            is_plain && (link.clock, link.prev) == (chain.next_clock, chain.last_leaf)
        });
        let mut changes = Vec::new();
        if let Some(link) = link {
            changes.push(Change::Author {
                log: LOG,
                author,
                row: AuthorRow {
                    next_clock: link.clock + 1,
                    last_leaf: leaf,
                    ..chain
                },
            });
            if known.is_none() {
                row.author_count += 1;
                changes.push(Change::CloseAuthors {
                    log: LOG,
                    device: author.device,
                    before: chain.no,
                });
            }
        }
        let stored = RecordRow {
            seq,
            kind: match header.body {
                RecordBody::Snapshot(_) => RecordKind::Snapshot,
                RecordBody::Verdict(_) => RecordKind::Verdict,
                RecordBody::Carried(_) => RecordKind::Carried,
                _ => RecordKind::Update,
            },
            chained: link.map(|link| (chain.no, link.clock)),
            epoch: header.epoch,
            seen: header.seen.size,
            hint: hint(&header.seen.root),
            covered: row.covered,
            leaf,
            root: row.frontier.root(),
            // What it says, where the columns would say something else.
            header: Some(encode(header).into()),
            sealed: Some(encode(&record.sealed).into()),
            weight: row.weight,
        };
        changes.push(Change::Append {
            log: LOG,
            expected: seq,
            records: vec![stored],
            nodes: Vec::new(),
            row,
        });
        changes
    }

    /// Whole, as it answers somebody who asks for this.
    pub fn whole(&self, seq: u64) -> DeliveredRecord {
        self.whole_for(seq, None)
    }

    /// As [`Self::whole`], for somebody who began with `base`.
    pub fn whole_for(&self, seq: u64, base: Option<Base>) -> DeliveredRecord {
        self.fetched(seq, seq + 1, base).remove(0)
    }

    /// The answer to `GetRecords`.
    pub fn fetched(&self, from: u64, to: u64, base: Option<Base>) -> Vec<DeliveredRecord> {
        match self.log().whole(base, (from, to)).unwrap() {
            Answer::Records { records, .. } => records,
            other => panic!("{other:?}"),
        }
    }

    /// As listeners get it.
    pub fn deliver(&self, seq: u64) -> DeliveredRecord {
        let (_, mut records) = self.delivered(seq, seq + 1, None).remove(0);
        records.remove(0)
    }

    /// A stretch as listeners get it who began with `base`: frames, each with its first position.
    pub fn delivered(
        &self,
        from: u64,
        to: u64,
        base: Option<Base>,
    ) -> Vec<(u64, Vec<DeliveredRecord>)> {
        let frames = self.log().delivered(CHANNEL, base, (from, to)).unwrap();
        frames.into_iter().map(delivered).collect()
    }

    /// With as little as can be sent of a link, whatever its receiver knows.
    pub fn elided(&self, seq: u64) -> DeliveredRecord {
        let row = RecordRow {
            covered: 0,
            ..self.row(seq)
        };
        let mut gathered = Gathered::new(CHANNEL, seq);
        let (mut reads, mut proofs) = (self.store.clone(), Proofs::default());
        let put = gathered.put(&mut reads, (LOG, None), &row, &mut proofs);
        ready(put).unwrap();
        let frame = gathered.take(seq + 1).unwrap();
        let frame = decode("frame", &frame, usize::MAX).unwrap();
        delivered(frame).1.remove(0)
    }

    pub fn opened(&self, author: Author, from: Option<u64>) -> OpenedDocument {
        self.log()
            .opened(CHANNEL, author, from, &Signing::default())
            .unwrap()
            .0
    }
}
