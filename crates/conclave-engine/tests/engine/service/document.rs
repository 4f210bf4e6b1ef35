//! Documents: one ordered log each.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::codec::{Tail, Varint};
use conclave_proto::frame::{
    Answer, AppendedRecord, BaseSnapshot, DeliveredRecord, ElidedRecord, OpenedDocument,
    ServiceFrame,
};
use conclave_proto::merkle::{consistency_proof, root_of};
use conclave_proto::record::{Chained, RECORD_LABEL, RECORD_VERSION, RecordBody, SnapshotHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{
    Author, DeviceId, DocumentId, GroupId, Hash, Head, Record, RecordHeader, Refusal,
};
use conclave_rules::{
    Active, Chain, Fit, Gate, GroupState, LogId, Place, Seen, judge_record, verify_signature,
};

use super::{Channel, ConnId, Service};

#[derive(Clone)]
pub struct DocLog {
    number: u64,
    pub records: Vec<Record>,
    leaves: Vec<Hash>,
    /// What the active snapshot covered before each position.
    covered_before: Vec<u64>,
    authors: Vec<Author>,
    chains: BTreeMap<Author, Vec<u64>>,
    closed: BTreeSet<Author>,
    /// Position of the active snapshot.
    active: usize,
    pub due_epoch: u64,
    pub open: bool,
}

const fn bad(fault: RecordFault) -> Refusal {
    Refusal::BadRecord { fault }
}

fn hint(root: &Hash) -> [u8; 8] {
    root.0[..8].try_into().unwrap()
}

fn snapshot_header(record: &Record) -> Option<SnapshotHeader> {
    match record.header.body {
        RecordBody::Snapshot(header) => Some(header),
        _ => None,
    }
}

fn judge_snapshot(record: &Record, at: &Place<'_>) -> Result<(), Refusal> {
    let fit = judge_record(&record.header, at).map_err(|fault| at.answer(fault))?;
    if !matches!(fit, Fit::Snapshot { .. }) {
        return Err(bad(RecordFault::Malformed));
    }
    let row = at.row.ok_or(at.answer(RecordFault::NotMember))?;
    let signature = &record.sealed.signature;
    verify_signature(row, RECORD_LABEL, &record.core().0, signature).map_err(bad)
}

/// Judges a document's first snapshot.
pub(super) fn judge_first(
    state: &GroupState,
    device: DeviceId,
    record: &Record,
) -> Result<(), Refusal> {
    let at = Place::of_device(state, &device, &record.header)?;
    let seen = Seen::known(record.header.seen == Head::EMPTY);
    judge_snapshot(record, &Place { seen, ..at })
}

impl DocLog {
    pub fn new(number: u64, first: Record) -> Self {
        let mut log = Self {
            number,
            records: Vec::new(),
            leaves: Vec::new(),
            covered_before: Vec::new(),
            authors: Vec::new(),
            chains: BTreeMap::new(),
            closed: BTreeSet::new(),
            active: 0,
            due_epoch: 0,
            open: true,
        };
        log.push(first);
        log
    }

    fn covered(&self) -> u64 {
        self.records
            .get(self.active)
            .and_then(snapshot_header)
            .map_or(0, |header| header.covered.size)
    }

    fn push(&mut self, record: Record) {
        self.covered_before.push(self.covered());
        self.leaves.push(record.leaf());
        self.records.push(record);
    }

    pub fn size(&self) -> u64 {
        self.records.len() as u64
    }

    fn head_at(&self, size: u64) -> Option<Head> {
        let leaves = self.leaves.get(..usize::try_from(size).ok()?)?;
        let root = root_of(leaves);
        Some(Head { size, root })
    }

    fn has(&self, head: &Head) -> bool {
        self.head_at(head.size) == Some(*head)
    }

    fn chain(&self, author: &Author) -> (u64, Hash) {
        let own = self.chains.get(author).map_or(&[][..], Vec::as_slice);
        let last = own.last().map(|seq| self.leaves[*seq as usize]);
        (own.len() as u64, last.unwrap_or(Hash::ZERO))
    }

    /// One position as a receiver needs it that began at `base`.
    fn delivered(&self, seq: u64, base: Option<(u64, u64)>) -> DeliveredRecord {
        let at = seq as usize;
        if base.is_some_and(|(base, _)| base == seq) {
            return DeliveredRecord::Leaf(self.leaves[at]);
        }
        let known = match base {
            Some((base, covered)) if seq < base => covered,
            _ => self.covered_before[at],
        };
        let record = self.records[at].clone();
        let seen = record.header.seen;
        if seen.size < known || record.header.body.chained().is_none() {
            let proof = if seen.size < known {
                consistency_proof(&self.leaves[..known as usize], seen.size).unwrap()
            } else {
                Vec::new()
            };
            return DeliveredRecord::Whole { record, proof };
        }
        let author = record.header.author;
        let number = self.authors.iter().position(|other| *other == author);
        let elided = ElidedRecord {
            author: Varint(number.unwrap() as u64),
            epoch: Varint(record.header.epoch),
            seen_back: Varint(seq - seen.size),
            seen_hint: hint(&seen.root),
            sealed: record.sealed,
        };
        match record.header.body {
            RecordBody::Verdict(_) => DeliveredRecord::Verdict(elided),
            _ => DeliveredRecord::Update(elided),
        }
    }

    fn deliver(&self, from: u64, end: u64, base: Option<(u64, u64)>) -> ServiceFrame {
        ServiceFrame::Deliver {
            channel: Varint(self.number),
            first_seq: Varint(from),
            records: Tail((from..end).map(|seq| self.delivered(seq, base)).collect()),
        }
    }

    /// Judges a frame of chained records; gives them whole.
    fn judge(
        &self,
        state: &GroupState,
        channel: &Channel,
        epoch: u64,
        first_clock: u64,
        records: Vec<AppendedRecord>,
    ) -> Result<Vec<Record>, Refusal> {
        let author = channel.author;
        let row = state
            .roster
            .current_row(&author.device)
            .ok_or_else(|| state.not_member(&author.device))?;
        let gate = Gate::Before {
            current: state.epoch,
        };
        let (expected, mut prev) = self.chain(&author);
        if gate.admits(epoch).is_ok() && first_clock < expected {
            let seq = self.chains[&author][first_clock as usize];
            let leaf = self.leaves[seq as usize];
            return Err(Refusal::AlreadyAccepted { leaf, seq });
        }
        if !self.open {
            return Err(Refusal::DocumentClosed);
        }
        let log = LogId {
            group: channel.group,
            document: channel.document,
        };
        let mut whole = Vec::new();
        for (at, record) in (0..).zip(records) {
            let head = self.head_at(record.seen_size.0);
            let seen = head.filter(|head| hint(&head.root) == record.seen_hint);
            let chained = Chained {
                clock: first_clock + at,
                prev,
            };
            let header = RecordHeader {
                version: RECORD_VERSION,
                group: log.group,
                document: log.document,
                epoch,
                author,
                seen: seen.unwrap_or(Head::EMPTY),
                body: record.body(chained).ok_or(bad(RecordFault::Malformed))?,
            };
            let place = Place {
                log,
                row: Some(row),
                chain: Some(Chain {
                    next: expected + at,
                    last: prev,
                    closed: self.closed.contains(&author),
                }),
                active: None,
                seen: Seen::known(seen.is_some()),
                covered: Seen::Unproven,
                gate,
            };
            judge_record(&header, &place).map_err(|fault| place.answer(fault))?;
            let record = Record {
                header,
                sealed: record.sealed,
            };
            prev = record.leaf();
            whole.push(record);
        }
        let last = whole.last().ok_or(Refusal::Malformed)?;
        let signature = &last.sealed.signature;
        if verify_signature(row, RECORD_LABEL, &last.core().0, signature).is_err() {
            // The author's chain may name another predecessor than the log's.
            return Err(Refusal::ClockGap { expected });
        }
        Ok(whole)
    }

    fn judge_snapshot(
        &self,
        state: &GroupState,
        device: DeviceId,
        record: &Record,
    ) -> Result<(), Refusal> {
        let at = Place::of_device(state, &device, &record.header)?;
        if !self.open {
            return Err(Refusal::DocumentClosed);
        }
        let active = &self.records[self.active];
        let covered = snapshot_header(record).map(|header| self.has(&header.covered));
        let at = Place {
            active: Some(&Active {
                seq: self.active as u64,
                id: active.leaf(),
                header: snapshot_header(active).unwrap(),
            }),
            seen: Seen::known(self.has(&record.header.seen)),
            covered: Seen::known(covered == Some(true)),
            ..at
        };
        judge_snapshot(record, &at)
    }
}

impl Service {
    pub(super) fn document(
        &mut self,
        group: GroupId,
        document: DocumentId,
    ) -> Result<&mut DocLog, Refusal> {
        let documents = &mut self.group(group)?.documents;
        documents.get_mut(&document).ok_or(Refusal::UnknownDocument)
    }

    pub(super) fn open(
        &mut self,
        conn: ConnId,
        id: Varint,
        group: GroupId,
        document: DocumentId,
        author: Author,
        from: Option<u64>,
    ) -> Option<Result<Answer, Refusal>> {
        let forget = self.lies.forget;
        if let Err(refusal) = self
            .group(group)
            .and_then(|log| log.for_member(&author.device))
        {
            return Some(Err(refusal));
        }
        let log = match self.document(group, document) {
            Ok(log) => log,
            Err(refusal) => return Some(Err(refusal)),
        };
        let size = log.size().saturating_sub(forget).max(1);
        let base = from.is_none().then_some((log.active as u64, log.covered()));
        let (own_next_clock, own_last) = log.chain(&author);
        let from = from.unwrap_or(log.covered()).min(size);
        let opened = OpenedDocument {
            channel: Varint(log.number),
            head: log.head_at(size).unwrap(),
            from,
            base: base.map(|(seq, _)| BaseSnapshot {
                seq,
                record: log.records[seq as usize].clone(),
            }),
            authors: log.authors.clone(),
            own_next_clock,
            own_last,
        };
        let number = log.number;
        let history = (from < size).then(|| log.deliver(from, size, base));
        let channel = Channel {
            group,
            document,
            author,
            base,
        };
        let answer = Answer::Opened(opened);
        self.push(conn, ServiceFrame::Response { id, answer });
        self.conns
            .get_mut(&conn)
            .unwrap()
            .channels
            .insert(number, channel);
        if let Some(frame) = history {
            self.push(conn, frame);
        }
        None
    }

    pub(super) fn append(
        &mut self,
        conn: ConnId,
        number: u64,
        epoch: u64,
        first_clock: u64,
        records: Vec<AppendedRecord>,
    ) {
        let refused = |refusal| ServiceFrame::AppendRefused {
            channel: Varint(number),
            first_clock: Varint(first_clock),
            refusal,
        };
        let Some(channel) = self.conns[&conn].channels.get(&number).cloned() else {
            return self.push(conn, refused(Refusal::NoChannel));
        };
        let group = self.groups.get_mut(&channel.group).unwrap();
        let state = group.core.state().clone();
        let log = group.documents.get_mut(&channel.document).unwrap();
        let whole = match log.judge(&state, &channel, epoch, first_clock, records) {
            Ok(whole) => whole,
            Err(refusal) => return self.push(conn, refused(refusal)),
        };
        let author = channel.author;
        let fresh = !log.authors.contains(&author);
        if fresh {
            let of_device = |other: &&Author| other.device == author.device;
            let earlier: Vec<Author> = log.authors.iter().filter(of_device).copied().collect();
            log.closed.extend(earlier);
            log.authors.push(author);
        }
        let (first_seq, count) = (log.size(), whole.len() as u64);
        for record in whole {
            let seq = log.size();
            log.chains.entry(author).or_default().push(seq);
            log.push(record);
        }
        let ack = ServiceFrame::Ack {
            channel: Varint(number),
            next_clock: Varint(first_clock + count),
            first_seq: Varint(first_seq),
            count: Varint(count),
        };
        self.publish_records(
            &channel,
            first_seq,
            fresh.then_some(author),
            Some((conn, ack)),
        );
    }

    /// Orders an update that `make` seals for the end of the log, under an instance of its own.
    pub fn force_update(
        &mut self,
        group: GroupId,
        document: DocumentId,
        author: Author,
        make: impl FnOnce(RecordHeader) -> Record,
    ) -> super::Outgoing {
        let epoch = self.groups[&group].state().epoch;
        let log = self.document(group, document).unwrap();
        let header = RecordHeader {
            version: RECORD_VERSION,
            group,
            document,
            epoch,
            author,
            seen: log.head_at(log.size()).unwrap(),
            body: RecordBody::Update(Chained {
                clock: 0,
                prev: Hash::ZERO,
            }),
        };
        let seq = log.size();
        log.authors.push(author);
        log.chains.entry(author).or_default().push(seq);
        log.push(make(header));
        let channel = Channel {
            group,
            document,
            author,
            base: None,
        };
        self.publish_records(&channel, seq, Some(author), None);
        std::mem::take(&mut self.out)
    }

    /// Shows records from `from` on to all who have the document open; one connection gets something else in their place.
    fn publish_records(
        &mut self,
        of: &Channel,
        from: u64,
        author: Option<Author>,
        own: Option<(ConnId, ServiceFrame)>,
    ) {
        let log = &self.groups[&of.group].documents[&of.document];
        let (number, end) = (log.number, log.size());
        let mut frames = Vec::new();
        for (id, conn) in &self.conns {
            let Some(channel) = conn.channels.get(&number) else {
                continue;
            };
            if let Some(author) = author {
                let channel = Varint(number);
                frames.push((*id, ServiceFrame::NewAuthor { channel, author }));
            }
            match &own {
                Some((own, frame)) if own == id => frames.push((*id, frame.clone())),
                _ => frames.push((*id, log.deliver(from, end, channel.base))),
            }
        }
        for (conn, frame) in frames {
            self.push(conn, frame);
        }
    }

    pub(super) fn put_snapshot(
        &mut self,
        conn: ConnId,
        device: DeviceId,
        record: Record,
    ) -> Result<Answer, Refusal> {
        let (group, document) = (record.header.group, record.header.document);
        let log = self.group(group)?;
        let state = log.core.state().clone();
        let log = self.document(group, document)?;
        let leaf = record.leaf();
        if let Some(seq) = log.leaves.iter().position(|other| *other == leaf) {
            let seq = seq as u64;
            let head = log.head_at(seq + 1).unwrap();
            return Ok(Answer::Accepted { seq, head });
        }
        log.judge_snapshot(&state, device, &record)?;
        let covered = snapshot_header(&record).unwrap().covered.size;
        let older = |record: &Record| record.header.epoch < log.due_epoch;
        let settles = record.header.epoch >= log.due_epoch
            && !log.records[covered as usize..].iter().any(older);
        let seq = log.size();
        log.push(record.clone());
        log.active = seq as usize;
        if settles {
            log.due_epoch = 0;
        }
        let head = log.head_at(seq + 1).unwrap();
        let channel = Channel {
            group,
            document,
            author: record.header.author,
            base: None,
        };
        // The answer follows at once, in this record's place.
        let own = (conn, ServiceFrame::Pong);
        self.publish_records(&channel, seq, None, Some(own));
        Ok(Answer::Accepted { seq, head })
    }

    pub(super) fn records(
        &mut self,
        conn: ConnId,
        device: DeviceId,
        group: GroupId,
        document: DocumentId,
        from: u64,
        count: u32,
    ) -> Result<Answer, Refusal> {
        self.group(group)?.for_member(&device)?;
        let number = self.document(group, document)?.number;
        let base = self.conns[&conn].channels.get(&number);
        let base = base.and_then(|channel| channel.base);
        let log = self.document(group, document)?;
        let end = log.size().min(from + u64::from(count));
        let records = (from..end)
            .map(|seq| {
                let record = log.records[seq as usize].clone();
                let seen = record.header.seen.size;
                let known = match base {
                    Some((base, covered)) if seq < base => covered,
                    _ => log.covered_before[seq as usize],
                };
                let known = known.max(if seen >= known { log.covered() } else { 0 });
                let proof = if seen < known {
                    consistency_proof(&log.leaves[..known as usize], seen).unwrap()
                } else {
                    Vec::new()
                };
                DeliveredRecord::Whole { record, proof }
            })
            .collect();
        let first_seq = from;
        Ok(Answer::Records { first_seq, records })
    }
}
