//! Records that a service had and lost, brought back by somebody who has them.
//!
//! An offer is taken whole or not at all: its records have to lead from where the log stands to a head that the service itself had signed. So
//! nobody chooses what comes back, who brings it does not matter, and what was judged once is judged alike again: by the roster of its own epoch, as at
//! every member. Only the connected device, the present epoch and the clock say nothing of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use conclave_proto::codec::encode;
use conclave_proto::record::{Record, RecordHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, DeviceId, Hash, Head, Refusal, UnixMs};
use conclave_rules::{
    Active, Authority, Chain, Fit, Gate, LogId, Place, Seen, judge_record, max_sealed_bytes,
};
use tls_codec::Size;

use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::log::{Appending, NewRecord};
use crate::op::append::Signed;
use crate::op::seen::hint;
use crate::op::snapshot::{covered, lineage, new_record};
use crate::rows::{ActiveRow, AuthorRow, GroupAt, Mark, RecordKind};

/// Records for the end of a document's log.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Who brings them.
    pub device: DeviceId,
    /// The log.
    pub log: LogId,
    /// Position of the first.
    pub from: u64,
    /// The records.
    pub records: &'a [Record],
}

/// Records, judged, ready for their places.
#[derive(Debug, Clone)]
pub struct ReturnDocument {
    device: DeviceId,
    log: LogId,
    /// Where the group stood when they were judged.
    group: GroupAt,
    /// Where the log stood.
    have: Head,
    /// What they lead to.
    want: Head,
    changes: Vec<Change>,
    /// Authors who wrote nothing that was there, in the order of their numbers.
    fresh: Vec<Author>,
    bytes: usize,
}

fn bad(fault: RecordFault) -> Refusal {
    Refusal::BadRecord { fault }
}

impl ReturnDocument {
    /// Judges an offer against what is stored. Signatures are checked here.
    ///
    /// # Errors
    /// [`Stop`]. [`Refusal::Recovering`] where the log stands elsewhere, or the offer does not reach what is wanted; with nothing missing where nothing
    /// is wanted.
    pub fn judge(
        offer: Offer<'_>,
        authority: &dyn Authority,
        now: UnixMs,
        rows: &Rows,
    ) -> Result<Self, Stop> {
        let log = offer.log;
        rows.need(|keys| {
            keys.groups.insert(log.group);
            keys.documents.insert(log);
            keys.actives.insert(log);
            keys.recoveries.insert(log);
            let of_offer = offer.records.iter();
            keys.authors
                .extend(of_offer.map(|record| (log, record.header.author)));
        })?;
        if authority.row(&offer.device, authority.epoch()).is_none() {
            return Err(authority.refusal(&offer.device).into());
        }
        let group = rows.group(&log.group)?.ok_or(Refusal::UnknownGroup)?;
        let document = rows.document(&log)?.ok_or(Refusal::UnknownDocument)?;
        let active = rows.active(&log)?.ok_or(Refusal::UnknownDocument)?;
        let have = document.frontier.head();
        let want = rows.recovery_of(&log)?.map_or(have, |row| row.want);
        let recovering = Refusal::Recovering {
            have: have.size,
            want: want.size,
        };
        let missing = usize::try_from(want.size.saturating_sub(have.size)).unwrap_or(usize::MAX);
        let Some(records) = offer.records.get(..missing).filter(|it| !it.is_empty()) else {
            return Err(recovering.into());
        };
        if offer.from != have.size {
            return Err(recovering.into());
        }
        let mut returning = Returning {
            rows,
            authority,
            now,
            end: Appending::to(log, document.clone()),
            base: have.size,
            marks: Vec::with_capacity(records.len()),
            active: active.clone(),
            authors: BTreeMap::new(),
            closed: BTreeMap::new(),
            fresh: Vec::new(),
            signed: BTreeMap::new(),
            replaced: Vec::new(),
        };
        for record in records {
            returning.take(record)?;
        }
        for signed in returning.signed.values() {
            signed.check().map_err(bad)?;
        }
        if returning.end.row.frontier.head() != want {
            return Err(bad(RecordFault::SeenHead).into());
        }
        let bytes = records.iter().map(|it| it.sealed.ciphertext.len()).sum();
        let fresh = returning.fresh.clone();
        Ok(Self {
            device: offer.device,
            log,
            group: group.at(),
            have,
            want,
            changes: returning.changes(active),
            fresh,
            bytes,
        })
    }

    /// Authors whom nobody was told of.
    #[must_use]
    pub fn fresh(&self) -> &[Author] {
        &self.fresh
    }

    /// Bytes that it brings.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.devices.insert(self.device);
        keys.groups.insert(self.log.group);
        keys.documents.insert(self.log);
        keys.recoveries.insert(self.log);
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        let log = self.log;
        let group = rows.group(&log.group)?.ok_or(Refusal::UnknownGroup)?;
        let document = rows.document(&log)?.ok_or(Refusal::UnknownDocument)?;
        let have = document.frontier.head();
        let want = rows.recovery_of(&log)?.map_or(have, |row| row.want);
        // It was judged where this stood.
        if (group.at(), have, want) != (self.group, self.have, self.want) {
            let (have, want) = (have.size, want.size);
            return Err(Refusal::Recovering { have, want }.into());
        }
        let mut changes = self.changes.clone();
        changes.push(Change::RecoveryGone { log });
        let seq = self.have.size;
        let head = self.want;
        let event = Event::Returned { seq, head };
        Ok(Decided { changes, event })
    }
}

/// A log with what is being returned to it.
struct Returning<'a> {
    rows: &'a Rows,
    authority: &'a dyn Authority,
    now: UnixMs,
    end: Appending,
    /// Records that are stored.
    base: u64,
    /// What the log says after each of the others.
    marks: Vec<Mark>,
    active: ActiveRow,
    authors: BTreeMap<Author, AuthorRow>,
    /// Instances of a device with numbers below this write no more.
    closed: BTreeMap<DeviceId, u64>,
    fresh: Vec<Author>,
    /// The last signature of each author.
    signed: BTreeMap<Author, Signed>,
    replaced: Vec<Change>,
}

impl Returning<'_> {
    fn log(&self) -> LogId {
        self.end.log
    }

    /// What the log says at a size. None: it is not so long.
    fn mark(&self, size: u64) -> Result<Option<Mark>, Stop> {
        if size == 0 {
            return Ok(Some(Mark {
                root: conclave_proto::merkle::empty_root(),
                weight: 0,
                epoch: 0,
            }));
        }
        if size <= self.base {
            let mark = self.rows.mark(&(self.log(), size))?;
            return mark.copied().map(Some).ok_or(Stop::Damaged { what: "log" });
        }
        let at = usize::try_from(size - self.base - 1).unwrap_or(usize::MAX);
        Ok(self.marks.get(at).copied())
    }

    fn is_prefix(&self, head: &Head) -> Result<Seen, Stop> {
        let mark = self.mark(head.size)?;
        Ok(Seen::known(mark.is_some_and(|mark| mark.root == head.root)))
    }

    fn author(&self, author: &Author) -> Result<Option<AuthorRow>, Stop> {
        let known = match self.authors.get(author) {
            Some(row) => Some(*row),
            None => self.rows.author(&(self.log(), *author))?.copied(),
        };
        let before = self.closed.get(&author.device).copied().unwrap_or(0);
        Ok(known.map(|row| AuthorRow {
            closed: row.closed || row.no < before,
            ..row
        }))
    }

    /// Judges a record, and gives it its place.
    fn take(&mut self, record: &Record) -> Result<(), Stop> {
        let header = &record.header;
        let author = self.author(&header.author)?;
        let row = self.authority.row(&header.author.device, header.epoch);
        let snapshot = self.active.snapshot().ok_or(Stop::Damaged {
            what: "snapshot header",
        })?;
        let active = Active {
            seq: self.active.seq,
            id: self.active.id,
            header: snapshot,
        };
        let place = Place {
            log: self.log(),
            row,
            chain: author.map(|row| Chain {
                next: row.next_clock,
                last: row.last_leaf,
                closed: row.closed,
            }),
            active: Some(&active),
            seen: self.is_prefix(&header.seen)?,
            covered: self.is_prefix(&covered(header))?,
            gate: Gate::After {
                highest: self.end.row.last_epoch,
                current: self.authority.epoch(),
            },
        };
        let fit = judge_record(header, &place).map_err(bad)?;
        if record.sealed.ciphertext.len() > max_sealed_bytes(&header.body) {
            return Err(bad(RecordFault::Malformed).into());
        }
        let row = row.ok_or_else(|| bad(RecordFault::NotMember))?;
        let signed = Signed {
            by: row.signer(),
            core: record.core(),
            signature: record.sealed.signature,
        };
        match fit {
            Fit::Chained { clock } => {
                // The last of an author vouches for those before it, which it names.
                self.signed.insert(header.author, signed);
                self.chained(record, clock, author);
            }
            Fit::Snapshot { replaces, .. } => {
                signed.check().map_err(bad)?;
                self.snapshot(record, replaces)?;
            }
            // Of an epoch that the group's log has not come to: that has to be returned first.
            Fit::Waits | Fit::Unproven => return Err(bad(RecordFault::EpochDecreased).into()),
        }
        let row = &self.end.row;
        self.marks.push(Mark {
            root: row.frontier.root(),
            weight: row.weight,
            epoch: header.epoch,
        });
        Ok(())
    }

    fn chained(&mut self, record: &Record, clock: u64, known: Option<AuthorRow>) {
        let header = &record.header;
        let no = known.map_or(self.end.row.author_count, |row| row.no);
        if known.is_none() {
            self.end.row.author_count = no.saturating_add(1);
            self.closed.insert(header.author.device, no);
            self.fresh.push(header.author);
        }
        let sealed = Bytes::from(encode(&record.sealed));
        let bytes = header.tls_serialized_len().saturating_add(sealed.len());
        let leaf = record.leaf();
        self.end.push(NewRecord {
            kind: RecordKind::of(header.body.kind_code()).unwrap_or(RecordKind::Update),
            chained: Some((no, clock)),
            epoch: header.epoch,
            seen: header.seen.size,
            hint: hint(&header.seen.root),
            leaf,
            header: None,
            sealed,
            bytes: bytes as u64,
        });
        let row = AuthorRow {
            no,
            next_clock: clock.saturating_add(1),
            last_leaf: leaf,
            closed: false,
        };
        self.authors.insert(header.author, row);
    }

    fn snapshot(&mut self, record: &Record, replaces: bool) -> Result<(), Stop> {
        let header = &record.header;
        let covered = covered(header).size;
        let weight = self.mark(covered)?.map_or(0, |mark| mark.weight);
        let due_epoch = match self.active.due_epoch {
            due if due > 0 && header.epoch >= due && self.covers_older(header, due)? => 0,
            due => due,
        };
        let (parent, replaced) = lineage(self.log(), &self.active, replaces, self.now);
        // The first of a document stays.
        self.replaced
            .extend(replaced.filter(|row| row.seq > 0).map(Change::Replaced));
        let seq = self.end.row.frontier.size();
        let id: Hash = record.leaf();
        let new = new_record(record, id);
        let bytes = new.sealed.len() + new.header.as_ref().map_or(0, Bytes::len);
        self.end.push(new);
        self.end.row.covered = covered;
        self.active = ActiveRow {
            seq,
            id,
            header: *header,
            bytes: bytes as u64,
            covered_weight: weight,
            epoch_seq: self.end.row.last_epoch_seq,
            due_epoch,
            parent,
        };
        Ok(())
    }

    /// Whether every record of an epoch before `due` lies below what the snapshot covers.
    fn covers_older(&self, header: &RecordHeader, due: u64) -> Result<bool, Stop> {
        let next = covered(header).size.saturating_add(1);
        Ok(self.mark(next)?.is_none_or(|mark| mark.epoch >= due))
    }

    fn changes(self, before: &ActiveRow) -> Vec<Change> {
        let log = self.log();
        let mut changes = vec![self.end.change()];
        for (author, row) in self.authors {
            let before = self.closed.get(&author.device).copied().unwrap_or(0);
            let closed = row.closed || row.no < before;
            let row = AuthorRow { closed, ..row };
            changes.push(Change::Author { log, author, row });
        }
        for (device, before) in self.closed {
            changes.push(Change::CloseAuthors {
                log,
                device,
                before,
            });
        }
        if self.active.seq != before.seq {
            let row = self.active;
            changes.push(Change::Active { log, row });
        }
        changes.extend(self.replaced);
        changes
    }
}
