//! One document's log in a store: ordered by the real core, and read as listeners need it. Who holds the document's keys, the caller says.

use std::sync::Arc;

use conclave_order::limits::Limits;
use conclave_order::memory::Memory;
use conclave_order::op::append::{self, Append, Arrived, Offer, View};
use conclave_order::op::snapshot::{PutSnapshot, Written, check};
use conclave_order::query::document::{Base, Gathered, Stretch, base, unknown, whole_records};
use conclave_order::rows::{ActiveRow, AuthorRow, DocumentRow};
use conclave_order::{
    Asked, Batch, Bounds, Event, Failure, Keys, Op, Placed, Proofs, Reader as _, Rows, Session,
    Stop, query, run_batch,
};
use conclave_proto::codec::{Varint, decode};
use conclave_proto::frame::{Answer, OpenedDocument, ServiceFrame};
use conclave_proto::merkle::empty_root;
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, DeviceId, Hash, Record, Refusal, UnixMs, limits};
use conclave_rules::{Authority, LogId, Place, Seen};

use super::Signing;
use crate::rows::ready;

/// What an operator would set.
const LIMITS: Limits = Limits {
    tail_records: limits::TAIL_RECORDS_HARD,
    user_bytes: None,
    group_bytes: None,
};

/// What somebody is told who is stopped.
pub(super) fn refusal(stop: Stop) -> Refusal {
    match stop {
        Stop::Refused(refusal) => refusal,
        _ => Refusal::Storage,
    }
}

fn failed(_: Failure) -> Refusal {
    Refusal::Storage
}

/// Runs an operation.
///
/// # Errors
/// Why it is refused.
pub fn run(store: &mut Memory, asked: impl Into<Asked>) -> Result<Event, Refusal> {
    let batch = Batch::new(vec![asked], LIMITS);
    let mut event = Err(Refusal::Storage);
    for ended in ready(run_batch(store, batch, &())) {
        let end = ended.end();
        event = match ended.batch.finish(end).pop() {
            Some(Event::Refused(refusal) | Event::RecordsRefused { refusal, .. }) => Err(refusal),
            Some(event) => Ok(event),
            None => Err(Refusal::Storage),
        };
    }
    event
}

/// Loads rows.
///
/// # Errors
/// When they cannot be read.
pub fn load(store: &Memory, want: impl FnOnce(&mut Keys) + Send) -> Result<Rows, Refusal> {
    ready(query::load(&mut store.clone(), want)).map_err(failed)
}

/// A document's log.
#[derive(Clone)]
pub struct Log {
    store: Memory,
    session: Option<Session>,
    id: LogId,
}

impl Log {
    /// The log with this id, in this store.
    #[must_use]
    pub fn of(store: &Memory, id: LogId) -> Self {
        let (store, session) = (store.clone(), None);
        Self { store, session, id }
    }

    /// As it is written over this session.
    #[must_use]
    pub fn over(self, session: Option<Session>) -> Self {
        Self { session, ..self }
    }

    fn run(&mut self, op: Op) -> Result<Event, Refusal> {
        let session = self.session;
        run(&mut self.store, Asked { session, op })
    }

    /// Where the document stands.
    ///
    /// # Errors
    /// When there is none.
    pub fn stands(&self) -> Result<(DocumentRow, ActiveRow), Refusal> {
        let mut rows = load(&self.store, |keys| {
            keys.documents.insert(self.id);
            keys.actives.insert(self.id);
            keys.recoveries.insert(self.id);
        })?;
        let row = rows.documents.remove(&self.id).flatten();
        let active = rows.actives.remove(&self.id).flatten();
        let recovery = rows.recoveries.remove(&self.id).flatten();
        row.zip(active).ok_or_else(|| unknown(recovery.as_ref()))
    }

    /// An author's row; none where it has written nothing.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn author(&self, author: Author) -> Result<Option<AuthorRow>, Refusal> {
        let key = (self.id, author);
        let rows = load(&self.store, |keys| _ = keys.authors.insert(key))?;
        Ok(rows.authors.get(&key).copied().flatten())
    }

    /// The root of the first `size` records. None when there are fewer.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn root_at(&self, size: u64) -> Result<Option<Hash>, Refusal> {
        if size == 0 {
            return Ok(Some(empty_root()));
        }
        let key = (self.id, size);
        let rows = load(&self.store, |keys| _ = keys.marks.insert(key))?;
        let mark = rows.marks.get(&key).copied().flatten();
        Ok(mark.map(|mark| mark.root))
    }

    /// The answer to an author who opens the document, and the snapshot that delivery begins with, if it does.
    ///
    /// # Errors
    /// When there is no such document.
    pub fn opened(
        &self,
        channel: u64,
        author: Author,
        from: Option<u64>,
        signing: &Signing,
    ) -> Result<(OpenedDocument, Option<Base>), Refusal> {
        let (row, active) = self.stands()?;
        let own = self.author(author)?;
        let (own_next_clock, own_last) =
            own.map_or((0, Hash::ZERO), |row| (row.next_clock, row.last_leaf));
        let began = from.is_none().then_some(Base {
            seq: active.seq,
            covered: row.covered,
        });
        let mut reads = self.store.clone();
        let base = began.map(|began| ready(base(&mut reads, &self.id, began.seq)));
        let head = row.frontier.head();
        let opened = OpenedDocument {
            channel: Varint(channel),
            signed: signing.sign(&self.id, head),
            // Whoever has more than the service is told how much the service has: nothing precedes what comes next.
            // And what the log was before it began here nobody is told: whoever is behind that begins anew.
            from: (from.unwrap_or(row.covered).max(row.base.size())).min(head.size),
            base: base.transpose().map_err(failed)?,
            authors: ready(reads.authors(&self.id)).map_err(failed)?,
            own_next_clock,
            own_last,
            losses: Vec::new(),
        };
        Ok((opened, began))
    }

    /// A stretch of the log in frames for somebody who began with `base`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn delivered(
        &self,
        channel: u64,
        base: Option<Base>,
        (from, end): (u64, u64),
    ) -> Result<Vec<ServiceFrame>, Refusal> {
        let bounds = Bounds {
            from,
            end,
            bytes: usize::MAX,
        };
        let mut reads = self.store.clone();
        let rows = ready(reads.records(&self.id, bounds)).map_err(failed)?;
        let mut gathered = Gathered::new(channel, from);
        let mut proofs = Proofs::default();
        let to = (self.id, base);
        let mut frames = Vec::new();
        for row in rows {
            ready(gathered.put(&mut reads, to, &row, &mut proofs)).map_err(failed)?;
            if gathered.count() >= limits::RECORDS_PER_FRAME {
                frames.extend(gathered.take(row.seq.saturating_add(1)));
            }
        }
        frames.extend(gathered.take(end));
        let frames = frames.iter();
        let frames = frames.map(|frame| decode("frame", frame, usize::MAX));
        frames
            .collect::<Result<_, _>>()
            .map_err(|_| Refusal::Storage)
    }

    /// The answer to somebody who asks for a stretch of it and began with `base`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn whole(&self, base: Option<Base>, (from, end): (u64, u64)) -> Result<Answer, Refusal> {
        let (row, _) = self.stands()?;
        let stretch = Stretch {
            log: self.id,
            base,
            from,
            end: end.min(row.frontier.size()),
            covered: row.covered,
            bytes: usize::MAX,
        };
        ready(whole_records(&mut self.store.clone(), stretch)).map_err(failed)
    }

    /// Orders a frame of an author.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn append(
        &mut self,
        authority: &dyn Authority,
        author: Author,
        arrived: &Arrived,
    ) -> Result<Placed, Refusal> {
        let op = Append {
            log: self.id,
            author,
            first_clock: arrived.first_clock,
            offer: self.judge(authority, author, arrived)?,
        };
        match self.run(Op::Append(op))? {
            Event::Records(placed) => Ok(placed),
            _ => Err(Refusal::Storage),
        }
    }

    fn judge(
        &self,
        authority: &dyn Authority,
        author: Author,
        arrived: &Arrived,
    ) -> Result<Offer, Refusal> {
        let (row, _) = self.stands()?;
        let chain = self.author(author)?;
        let mut rows = Rows::default();
        loop {
            let view = View {
                authority,
                log: self.id,
                author,
                chain: chain.map_or((0, Hash::ZERO), |row| (row.next_clock, row.last_leaf)),
                named: None,
                size: row.frontier.size(),
                base: row.base.size(),
                covered: row.covered,
                roots: &|_| None,
                rows: &rows,
                singly: true,
            };
            match append::judge(arrived, &view) {
                Err(Stop::Lacks(keys)) => {
                    let newer = ready(self.store.clone().load(&keys)).map_err(failed)?;
                    rows.extend(newer);
                }
                judged => return judged.map_err(refusal),
            }
        }
    }

    /// Orders a snapshot of a device. Gives [`Event::Snapshot`], or [`Event::Known`].
    ///
    /// # Errors
    /// Why it is refused.
    pub fn put_snapshot(
        &mut self,
        authority: &dyn Authority,
        device: DeviceId,
        record: Record,
        now: UnixMs,
    ) -> Result<Event, Refusal> {
        let id = (self.id, record.leaf());
        let rows = load(&self.store, |keys| _ = keys.snapshots.insert(id))?;
        if let Some(at) = rows.snapshots.get(&id).copied().flatten() {
            let (seq, head) = (at.seq, at.head);
            return Ok(Event::Known { seq, head });
        }
        let header = record.header;
        let at = Place::of_device(authority, &device, &header)?;
        check(&record, &at)?;
        let writer = at.row.cloned();
        let row = writer.ok_or(at.answer(RecordFault::NotMember))?;
        let seen = Seen::known(self.root_at(header.seen.size)? == Some(header.seen.root));
        let op = PutSnapshot {
            device,
            written: Written { row, seen },
            record: Arc::new(record),
            // Nobody is paced here.
            paid: true,
            now,
        };
        self.run(Op::PutSnapshot(Box::new(op)))
    }
}
