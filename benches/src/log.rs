//! A document's log as one author wrote it, keystroke by keystroke.

use anyhow::{Context as _, Result, bail, ensure};
use conclave_crdt::{CrdtKind, ReplicaId, Run};
use conclave_doc::{DocContext, DocKeys, Document, KeySource, Sealer, Shown, View, seal};
use conclave_mls::{ClientGroup, EpochRoot};
use conclave_proto::codec::Varint;
use conclave_proto::frame::{BaseSnapshot, DeliveredRecord, ElidedRecord, OpenedDocument};
use conclave_proto::merkle::Frontier;
use conclave_proto::record::{Chained, RECORD_VERSION, Record, RecordBody, RecordHeader};
use conclave_proto::{Author, DocumentId, Hash, InstanceId};
use conclave_rules::LogId;
use conclave_testkit::members::Member;
use conclave_testkit::service::Signing;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use yrs::updates::decoder::Decode as _;
use yrs::{Doc, GetString as _, ReadTxn as _, Transact as _, Update};

use crate::group::{GROUP, Group};
use crate::trace::Trace;

const DOCUMENT: DocumentId = DocumentId([8; 16]);
const WRITES: InstanceId = InstanceId([1; 8]);
const READS: InstanceId = InstanceId([2; 8]);
/// Records that the service delivers in one frame, about.
const FRAME_RECORDS: usize = 512;
/// One in so many keystrokes goes to another place.
const JUMP_EVERY: u64 = 16;

/// A member's group with the root of its epoch.
struct Seat {
    member: Member,
    group: ClientGroup,
    root: EpochRoot,
}

impl KeySource for Seat {
    fn root(&self, epoch: u64) -> Option<EpochRoot> {
        (epoch == self.group.epoch()).then(|| self.root.clone())
    }
}

impl Seat {
    fn new(member: Member, group: ClientGroup) -> Result<Self> {
        let root = group.epoch_secrets()?.root;
        Ok(Self {
            member,
            group,
            root,
        })
    }

    fn context(&self) -> DocContext<'_> {
        DocContext {
            authority: self.group.state(),
            keys: self,
            device: self.member.device,
            watch: None,
        }
    }
}

/// A log, and a member who has none of it yet.
pub struct DocumentLog {
    reader: Seat,
    opened: OpenedDocument,
    records: Vec<DeliveredRecord>,
    /// An empty document, in the engine's own form.
    pub beginning: Vec<u8>,
    /// The updates in it, as the CRDT engine made them.
    pub updates: Vec<Vec<u8>>,
}

/// The CRDT engine alone applies the same updates of Yjs, each in a transaction of its own, as whoever receives them does. (All of a long recorded history in
/// one transaction takes many times as long.) Gives how many characters the text then has.
///
/// # Errors
/// When the engine refuses one.
pub fn bare_yrs(updates: &[Vec<u8>]) -> Result<usize> {
    let doc = Doc::new();
    for update in updates {
        let update = Update::decode_v1(update)?;
        doc.transact_mut().apply_update(update)?;
    }
    let transaction = doc.transact();
    let text = transaction.get_text("text");
    Ok(text.map_or(0, |text| text.get_string(&transaction).len()))
}

impl DocumentLog {
    /// Somebody writes so many characters, most of them after the one before.
    ///
    /// # Errors
    /// When a step fails.
    pub fn typed(kind: CrdtKind, characters: usize) -> Result<Self> {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let (beginning, updates) = typed(kind, characters, &mut rng)?;
        Self::of(kind, beginning, updates)
    }

    /// Somebody writes what was recorded, so many edits in each record.
    ///
    /// # Errors
    /// When a step fails, or it is another text in the end.
    pub fn traced(kind: CrdtKind, trace: &Trace, edits: usize) -> Result<Self> {
        let (beginning, updates) = traced(kind, trace, edits)?;
        Self::of(kind, beginning, updates)
    }

    fn of(kind: CrdtKind, beginning: Vec<u8>, updates: Vec<Vec<u8>>) -> Result<Self> {
        let group = Group::of(2)?;
        let writer = Seat::new(group.owner, ClientGroup::load(group.owner_rows)?)?;
        let reader = Seat::new(group.member, ClientGroup::load(group.member_rows)?)?;
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let context = writer.context();
        let sealer = Sealer {
            key: &writer.member.key,
            rng: &mut rng,
        };
        let (_, base) = Document::create(&context, GROUP, DOCUMENT, kind, WRITES, None, sealer)?;

        let mut pen = Pen::new(&writer, &base);
        let mut records = vec![DeliveredRecord::Leaf(base.leaf())];
        records.extend(updates.iter().map(|update| pen.delivered(update, &mut rng)));
        let log = LogId {
            group: GROUP,
            document: DOCUMENT,
        };
        let opened = OpenedDocument {
            channel: Varint(1),
            signed: Signing::default().sign(&log, pen.frontier.head()),
            from: 0,
            base: Some(BaseSnapshot {
                seq: 0,
                record: base,
            }),
            authors: vec![pen.author],
            own_next_clock: 0,
            own_last: Hash::ZERO,
            losses: Vec::new(),
        };
        Ok(Self {
            reader,
            opened,
            records,
            beginning,
            updates,
        })
    }

    /// What the service sends to whoever opens the document.
    #[must_use]
    pub fn frames(&self) -> Vec<Vec<DeliveredRecord>> {
        let frames = self.records.chunks(FRAME_RECORDS);
        frames.map(<[DeliveredRecord]>::to_vec).collect()
    }

    /// Opens the document and takes all of it.
    ///
    /// # Errors
    /// When not all of it is taken.
    pub fn open(&self, frames: Vec<Vec<DeliveredRecord>>) -> Result<Document> {
        let context = self.reader.context();
        let mut rng = ChaCha20Rng::seed_from_u64(6);
        let (mut document, _) =
            Document::open_remote(&context, &self.opened, GROUP, DOCUMENT, READS, &mut rng)?;
        let mut first = self.opened.from;
        for records in frames {
            let next = first + u64::try_from(records.len())?;
            let outcome = document.deliver(&context, first, records)?;
            ensure!(outcome.findings.is_empty(), "{:?}", outcome.findings);
            first = next;
        }
        ensure!(document.head() == self.opened.head(), "records are missing");
        Ok(document)
    }
}

impl DocumentLog {
    /// The text.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(document: &mut Document) -> Result<String> {
        Ok(document.crdt().text().context("no text")?.text()?)
    }

    /// Who wrote the text of a document that was opened. Gives the runs.
    ///
    /// # Errors
    /// When that is not told.
    pub fn blame(&self, document: &mut Document) -> Result<Vec<Run>> {
        match document.blame(&self.reader.context(), View::Text)?.shown {
            Shown::Text { runs, .. } => Ok(runs),
            Shown::Values { .. } => bail!("no text"),
        }
    }
}

/// An empty document, and the updates of somebody's keystrokes in it.
fn typed(
    kind: CrdtKind,
    characters: usize,
    rng: &mut ChaCha20Rng,
) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut crdt = conclave_crdt::create(kind, ReplicaId::for_kind(kind, [9; 16]))?;
    let beginning = crdt.export()?;
    let mut updates = Vec::with_capacity(characters);
    for at in places(characters, rng)? {
        crdt.text().context("no text")?.splice(at, 0, "x")?;
        crdt.take_pending(&mut updates)?;
    }
    ensure!(updates.len() == characters, "one update per keystroke");
    Ok((beginning, updates))
}

/// An empty document, and the updates of what was recorded.
fn traced(kind: CrdtKind, trace: &Trace, edits: usize) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut crdt = conclave_crdt::create(kind, ReplicaId::for_kind(kind, [9; 16]))?;
    let beginning = crdt.export()?;
    let mut updates = Vec::new();
    let all: Vec<_> = trace.edits().collect();
    for some in all.chunks(edits.max(1)) {
        for (at, deleted, inserted) in some.iter().copied().flatten() {
            let text = crdt.text().context("no text")?;
            text.splice(*at, *deleted, inserted)?;
        }
        crdt.take_pending(&mut updates)?;
    }
    let text = crdt.text().context("no text")?.text()?;
    ensure!(text == trace.end_content, "another text");
    Ok((beginning, updates))
}

/// Where somebody types so many characters, most of them after the one before.
///
/// # Errors
/// When there are more than can be counted.
pub fn places(characters: usize, rng: &mut ChaCha20Rng) -> Result<Vec<usize>> {
    let (mut places, mut at) = (Vec::with_capacity(characters), 0);
    for length in 0..characters {
        if rng.next_u64().is_multiple_of(JUMP_EVERY) {
            at = usize::try_from(rng.next_u64() % (u64::try_from(length)? + 1))?;
        }
        places.push(at);
        at += 1;
    }
    Ok(places)
}

/// Seals what one author writes, record after record.
struct Pen<'a> {
    seat: &'a Seat,
    keys: DocKeys,
    author: Author,
    frontier: Frontier,
    chain: Chained,
}

impl<'a> Pen<'a> {
    fn new(seat: &'a Seat, base: &Record) -> Self {
        let mut frontier = Frontier::new();
        frontier.push(base.leaf());
        Self {
            seat,
            keys: DocKeys::derive(&seat.root, &DOCUMENT),
            author: base.header.author,
            frontier,
            chain: Chained {
                clock: 0,
                prev: Hash::ZERO,
            },
        }
    }

    fn delivered(&mut self, update: &[u8], rng: &mut ChaCha20Rng) -> DeliveredRecord {
        let (seen, epoch) = (self.frontier.head(), self.seat.group.epoch());
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: GROUP,
            document: DOCUMENT,
            epoch,
            author: self.author,
            seen,
            body: RecordBody::Update(self.chain),
        };
        let padding = self.seat.group.state().policy.padding_bytes;
        let record = seal(
            &header,
            update,
            &self.keys,
            &self.seat.member.key,
            padding,
            rng,
        );
        let leaf = record.leaf();
        self.frontier.push(leaf);
        self.chain = Chained {
            clock: self.chain.clock + 1,
            prev: leaf,
        };
        let seen_hint = seen.root.0.first_chunk().copied().unwrap_or_default();
        DeliveredRecord::Update(ElidedRecord {
            author: Varint(0),
            epoch: Varint(epoch),
            seen_back: Varint(0),
            seen_hint,
            sealed: record.sealed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_is_what_is_opened() {
        for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
            let log = DocumentLog::typed(kind, 600).unwrap();
            let frames = log.frames();
            assert_eq!(frames.len(), 2);
            let mut document = log.open(frames).unwrap();
            assert_eq!(DocumentLog::read(&mut document).unwrap(), "x".repeat(600));
            let runs = log.blame(&mut document).unwrap();
            assert_eq!(runs.iter().map(|run| run.chars).sum::<usize>(), 600);
            assert!(log.open(vec![]).is_err());
        }
    }
}
