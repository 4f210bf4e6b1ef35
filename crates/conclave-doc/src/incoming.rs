//! Records that have arrived and wait for their turn.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::cost::Meter;
use conclave_proto::codec::encode;
use conclave_proto::frame::{DeliveredRecord, ElidedRecord};
use conclave_proto::record::{Record, Sealed};
use conclave_proto::{Author, Frontier, Hash, Head};
use tls_codec::{Size, TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::payload::SnapshotPayload;
use crate::state::SnapshotInfo;

/// Most bytes of records that wait. What comes later is dropped, reported as a gap in its turn, and fetched again.
const QUEUE_BYTES: usize = 128 * 1024 * 1024;
/// Most records that wait.
const QUEUE_RECORDS: usize = 100_000;

/// A chained record as delivered, with its author's number resolved: numbers live only as long as a connection.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct Elided {
    pub author: Author,
    pub epoch: u64,
    pub seen_size: u64,
    pub seen_hint: [u8; 8],
    /// Code of its kind, as records have it.
    pub kind: u8,
    pub sealed: Sealed,
}

/// How a waiting record is known.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub(crate) enum Form {
    /// Without what this device can fill in.
    #[tls_codec(discriminant = 1)]
    Elided(Elided),
    /// In full.
    #[tls_codec(discriminant = 2)]
    Whole { record: Record, proof: Vec<Hash> },
    /// By hash only.
    #[tls_codec(discriminant = 3)]
    Leaf(Hash),
    /// The next own record that has no place yet: acknowledged by the service.
    #[tls_codec(discriminant = 4)]
    Own,
    /// From an author that the service never announced.
    #[tls_codec(discriminant = 5)]
    Unknown,
}

impl Form {
    /// Whether this is the same record as `other`, and has a proof that the other lacks.
    fn proves(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Whole { record, proof },
                Self::Whole {
                    record: same,
                    proof: none,
                },
            ) => !proof.is_empty() && none.is_empty() && record == same,
            _ => false,
        }
    }

    /// Greater is better.
    fn worth(&self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Leaf(_) => 1,
            Self::Elided(_) => 2,
            Self::Whole { .. } => 3,
            Self::Own => 4,
        }
    }
}

/// A jump to a later base snapshot: the leaves up to its covered head show that it extends the own log.
pub(crate) struct Bridge {
    /// What counting has learnt of the snapshot.
    pub meter: Meter,
    pub frontier: Frontier,
    pub info: SnapshotInfo,
    pub payload: SnapshotPayload,
    /// The snapshot as received.
    pub sealed: Vec<u8>,
    /// What led from where it begins to its frontier.
    pub leaves: Vec<Hash>,
}

impl Bridge {
    /// First position still missing, and the first that is not needed.
    pub(crate) fn missing(&self) -> Option<(u64, u64)> {
        let (from, to) = (self.frontier.size(), self.info.covered.size);
        (from < to).then_some((from, to))
    }

    /// Takes a leaf, if it is the next.
    pub(crate) fn take(&mut self, seq: u64, form: &Form) {
        if seq != self.frontier.size() || seq >= self.info.covered.size {
            return;
        }
        let leaf = match form {
            Form::Leaf(leaf) => *leaf,
            Form::Whole { record, .. } => record.leaf(),
            Form::Elided(_) | Form::Own | Form::Unknown => return,
        };
        self.frontier.push(leaf);
        self.leaves.push(leaf);
    }
}

/// The queue of positions from the log's end on, possibly with holes.
#[derive(Default)]
pub(crate) struct Incoming {
    queue: BTreeMap<u64, Form>,
    /// Encoded bytes in the queue.
    bytes: usize,
    authors: Vec<Author>,
    /// One past the last position that was ever shown.
    end: u64,
    /// Head that the service announced, and the group's epoch then: compared when the log gets there.
    pub target: Option<(Head, u64)>,
    pub bridge: Option<Bridge>,
    /// What comes waits until all that was announced is here, and is then taken in together.
    pub gathers: bool,
    /// Positions whose row in the store may not be what the queue holds.
    dirty: BTreeSet<u64>,
    /// Those that get no row while more is gathered: mostly they are taken in before.
    unwritten: BTreeSet<u64>,
    /// Positions with a row in the store.
    stored: BTreeSet<u64>,
}

impl Incoming {
    pub(crate) fn set_authors(&mut self, authors: Vec<Author>) {
        self.authors = authors;
    }

    pub(crate) fn new_author(&mut self, author: Author) {
        self.authors.push(author);
    }

    /// Resolves what depends on the connection.
    pub(crate) fn resolve(&self, seq: u64, record: DeliveredRecord) -> Form {
        match record {
            DeliveredRecord::Whole { record, proof } => Form::Whole { record, proof },
            DeliveredRecord::Leaf(leaf) => Form::Leaf(leaf),
            DeliveredRecord::Update(elided) => self.resolve_elided(seq, elided, 1),
            DeliveredRecord::Verdict(elided) => self.resolve_elided(seq, elided, 2),
            DeliveredRecord::Carried(elided) => self.resolve_elided(seq, elided, 7),
        }
    }

    fn resolve_elided(&self, seq: u64, elided: ElidedRecord, kind: u8) -> Form {
        let number = usize::try_from(elided.author.0).unwrap_or(usize::MAX);
        let (Some(author), Some(seen_size)) = (
            self.authors.get(number),
            seq.checked_sub(elided.seen_back.0),
        ) else {
            return Form::Unknown;
        };
        Form::Elided(Elided {
            author: *author,
            epoch: elided.epoch.0,
            seen_size,
            seen_hint: elided.seen_hint,
            kind,
            sealed: elided.sealed,
        })
    }

    /// Puts a record into the queue, unless a better form of it is there. A whole record replaces another copy, which may be garbled, but
    /// not the same with a proof.
    pub(crate) fn insert(&mut self, seq: u64, form: Form) {
        self.end = self.end.max(seq.saturating_add(1));
        let size = form.tls_serialized_len();
        let is_last = self
            .queue
            .last_key_value()
            .is_none_or(|(last, _)| *last < seq);
        if !is_last {
            if self
                .queue
                .get(&seq)
                .is_some_and(|present| present.worth() > form.worth() || present.proves(&form))
            {
                return;
            }
            self.remove(seq);
        }
        let is_next = self
            .queue
            .first_key_value()
            .is_none_or(|(first, _)| seq < *first);
        let full =
            self.bytes.saturating_add(size) > QUEUE_BYTES || self.queue.len() >= QUEUE_RECORDS;
        if full && !is_next {
            return;
        }
        self.bytes = self.bytes.saturating_add(size);
        self.dirty.insert(seq);
        self.queue.insert(seq, form);
    }

    pub(crate) fn remove(&mut self, seq: u64) -> Option<Form> {
        let form = self.queue.remove(&seq)?;
        self.bytes = self.bytes.saturating_sub(form.tls_serialized_len());
        self.dirty.insert(seq);
        Some(form)
    }

    /// Begins a jump to a later snapshot, as far as the leaves are here already.
    pub(crate) fn begin_bridge(&mut self, mut bridge: Bridge) {
        for (seq, form) in self.queue.range(bridge.frontier.size()..) {
            bridge.take(*seq, form);
        }
        self.drop_below(bridge.info.covered.size);
        self.bridge = Some(bridge);
    }

    /// Forgets which own records were acknowledged: after a reconnect the log tells.
    pub(crate) fn forget_own(&mut self) {
        let own: Vec<u64> = self
            .queue
            .iter()
            .filter(|(_, form)| **form == Form::Own)
            .map(|(seq, _)| *seq)
            .collect();
        for seq in own {
            self.remove(seq);
        }
        self.end = self
            .queue
            .last_key_value()
            .map_or(0, |(seq, _)| seq.saturating_add(1));
    }

    /// Drops everything below `size`.
    pub(crate) fn drop_below(&mut self, size: u64) {
        while let Some((seq, _)) = self.queue.first_key_value() {
            let seq = *seq;
            if seq >= size {
                break;
            }
            self.remove(seq);
        }
    }

    /// Lends out the waiting records from `from` on without a hole, at most `count`. Each comes back by [`Incoming::give_back`], or is
    /// done with by [`Incoming::settle`].
    pub(crate) fn lend(&mut self, from: u64, count: usize) -> Vec<(u64, Form)> {
        let mut out = Vec::new();
        for (expected, (seq, form)) in (from..).zip(self.queue.range_mut(from..)).take(count) {
            if expected != *seq {
                break;
            }
            out.push((*seq, std::mem::replace(form, Form::Unknown)));
        }
        out
    }

    /// Takes back a lent record.
    pub(crate) fn give_back(&mut self, seq: u64, form: Form) {
        if let Some(place) = self.queue.get_mut(&seq) {
            *place = form;
        }
    }

    /// Lent records from `from` up to `to` (exclusive), of `bytes` encoded bytes, have their place in the log.
    pub(crate) fn settle(&mut self, from: u64, to: u64, bytes: usize) {
        let mut above = self.queue.split_off(&to);
        drop(self.queue.split_off(&from));
        if self.queue.is_empty() {
            self.queue = above;
        } else {
            self.queue.append(&mut above);
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        // Only what has a row is to lose it.
        for rows in [&mut self.dirty, &mut self.unwritten] {
            let mut above = rows.split_off(&to);
            drop(rows.split_off(&from));
            rows.append(&mut above);
        }
        self.dirty.extend(self.stored.range(from..to).copied());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.bridge.is_none()
    }

    /// How many records wait, and their encoded bytes.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.bytes)
    }

    /// Whether there are records that were not written here.
    pub(crate) fn is_of_others(&self) -> bool {
        self.queue.values().any(|form| *form != Form::Own)
    }

    /// The positions missing before the queue goes on, for a log of `size` records.
    pub(crate) fn gap(&self, size: u64) -> Option<(u64, u64)> {
        if let Some(bridge) = &self.bridge {
            return bridge.missing();
        }
        let next = self.queue.range(size..).next().map(|(seq, _)| *seq);
        let until = next.unwrap_or(self.end);
        (until > size).then_some((size, until))
    }

    /// Whether more is to come before what is here is taken in, for a log of `size` records: at most `most` records wait for that, and only without a hole.
    pub(crate) fn gathers_on(&self, size: u64, most: usize) -> bool {
        let (first, last) = (self.queue.first_key_value(), self.queue.last_key_value());
        let (Some((first, _)), Some((last, _))) = (first, last) else {
            return false;
        };
        let end = last.saturating_add(1);
        let is_whole = *first == size && end - first == self.queue.len() as u64;
        let target = self.target.map_or(0, |(head, _)| head.size);
        self.gathers
            && self.bridge.is_none()
            && is_whole
            && end < target
            && self.queue.len() < most
            && self.bytes < QUEUE_BYTES / 4
    }

    /// Rows to write and to delete since the last call.
    pub(crate) fn take_dirty(&mut self) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut out = Vec::new();
        if !self.gathers {
            self.dirty.append(&mut self.unwritten);
        }
        for seq in std::mem::take(&mut self.dirty) {
            match self.queue.get(&seq).filter(|form| **form != Form::Own) {
                Some(_) if self.gathers => drop(self.unwritten.insert(seq)),
                Some(form) => {
                    self.stored.insert(seq);
                    out.push((seq, Some(encode(form))));
                }
                None if self.stored.remove(&seq) => out.push((seq, None)),
                None => {}
            }
        }
        out
    }

    /// Puts a stored record back.
    pub(crate) fn restore(&mut self, seq: u64, form: Form) {
        self.insert(seq, form);
        self.dirty.remove(&seq);
        self.stored.insert(seq);
    }
}
