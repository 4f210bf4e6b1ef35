//! A log while records come back to it: each is judged where it comes to stand.

use std::collections::BTreeMap;

use bytes::Bytes;
use conclave_proto::codec::encode;
use conclave_proto::record::{Record, RecordHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, DeviceId, Hash, Head, UnixMs};
use conclave_rules::{
    Active, Authority, Chain, Fit, Gate, LogId, Place, Seen, judge_record, max_sealed_bytes,
};
use tls_codec::Size;

use crate::change::Change;
use crate::keys::{Rows, Stop};
use crate::log::{Appending, NewRecord};
use crate::op::append::Signed;
use crate::op::based::Based;
use crate::op::returned::bad;
use crate::op::seen::hint;
use crate::op::snapshot::{covered, lineage, new_record};
use crate::rows::{ActiveRow, AuthorRow, Mark, RecordKind};

/// A log with what is being returned to it.
pub(super) struct Returning<'a> {
    pub(super) rows: &'a Rows,
    pub(super) authority: &'a dyn Authority,
    pub(super) now: UnixMs,
    /// The document, where that is new here.
    pub(super) document: Option<Change>,
    /// Then, that it is closed.
    pub(super) closes: Option<Change>,
    pub(super) end: Appending,
    /// Size of the log before what comes back.
    pub(super) base: u64,
    /// Where the document begins, if nothing that was before comes back.
    pub(super) based: Option<Based<'a>>,
    /// What the log says after each of the others.
    pub(super) marks: Vec<Mark>,
    pub(super) active: ActiveRow,
    /// Position of the snapshot that is stored as the active one.
    pub(super) active_before: Option<u64>,
    pub(super) authors: BTreeMap<Author, AuthorRow>,
    /// Instances of a device with numbers below this write no more.
    pub(super) closed: BTreeMap<DeviceId, u64>,
    pub(super) fresh: Vec<Author>,
    /// The last signature of each author.
    pub(super) signed: BTreeMap<Author, Signed>,
    pub(super) replaced: Vec<Change>,
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
        if let Some(based) = self.based.as_ref().filter(|it| size <= it.size()) {
            return Ok((size == based.size()).then(|| based.mark()));
        }
        if size < self.end.row.base.size() {
            return Ok(None);
        }
        if size <= self.base {
            let mark = self.rows.mark(&(self.log(), size))?;
            return mark.copied().map(Some).ok_or(Stop::Damaged { what: "log" });
        }
        let at = usize::try_from(size - self.base - 1).unwrap_or(usize::MAX);
        Ok(self.marks.get(at).copied())
    }

    fn is_prefix(&self, head: &Head) -> Result<Seen, Stop> {
        if let Some(based) = self.based.as_ref().filter(|it| head.size < it.size())
            && head.size > 0
        {
            return Ok(based.has(head));
        }
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
    pub(super) fn take(&mut self, record: &Record) -> Result<(), Stop> {
        let header = &record.header;
        if self.based.is_some() && self.end.row.frontier.size() == self.active.seq {
            return self.opens(record);
        }
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
            chain: self.chain(header, author),
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
            Fit::Snapshot { .. } => {
                signed.check().map_err(bad)?;
                self.snapshot(record)?;
            }
            // Of an epoch that the group's log has not come to: that has to be returned first.
            Fit::Waits | Fit::Unproven => return Err(bad(RecordFault::EpochDecreased).into()),
        }
        self.marked();
        Ok(())
    }

    /// Where an author's chain stands. What it wrote before the log begins here nobody knows: there it goes on as it says.
    fn chain(&self, header: &RecordHeader, author: Option<AuthorRow>) -> Option<Chain> {
        let given = header.body.chained();
        let given = given.filter(|it| it.clock > 0 && self.end.row.base.size() > 0);
        let given = given.map(|it| Chain {
            next: it.clock,
            last: it.prev,
            closed: false,
        });
        let known = author.map(|row| Chain {
            next: row.next_clock,
            last: row.last_leaf,
            closed: row.closed,
        });
        known.or(given)
    }

    /// The snapshot that a document is opened with of which nothing was here comes to stand. Whose it is, was judged.
    fn opens(&mut self, record: &Record) -> Result<(), Stop> {
        let header = &record.header;
        let gate = Gate::After {
            highest: self.end.row.last_epoch,
            current: self.authority.epoch(),
        };
        gate.admits(header.epoch).map_err(bad)?;
        if self.is_prefix(&header.seen)? != Seen::True {
            return Err(bad(RecordFault::SeenHead).into());
        }
        self.end.push(new_record(record, self.active.id));
        self.marked();
        self.active.epoch_seq = self.end.row.last_epoch_seq;
        let due = self.active.due_epoch;
        if header.epoch >= due && self.covers_older(header, due)? {
            self.active.due_epoch = 0;
        }
        Ok(())
    }

    /// Notes what the log says up to here.
    pub(super) fn marked(&mut self) {
        let row = &self.end.row;
        self.marks.push(Mark {
            root: row.frontier.root(),
            weight: row.weight,
            epoch: row.last_epoch,
        });
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
        // What its header says of the log before that begins here does not follow from what is here.
        let base = self.end.row.base.size();
        let is_first = base > 0 && known.is_none() && clock > 0;
        let whole = is_first || (1..base).contains(&header.seen.size);
        let whole = whole.then(|| Bytes::from(encode(header)));
        self.end.push(NewRecord {
            kind: RecordKind::of(header.body.kind_code()).unwrap_or(RecordKind::Update),
            chained: Some((no, clock)),
            epoch: header.epoch,
            seen: header.seen.size,
            hint: hint(&header.seen.root),
            leaf,
            header: whole,
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

    fn snapshot(&mut self, record: &Record) -> Result<(), Stop> {
        let header = &record.header;
        let covered = covered(header).size;
        let weight = self.mark(covered)?.map_or(0, |mark| mark.weight);
        let due_epoch = match self.active.due_epoch {
            due if due > 0 && header.epoch >= due && self.covers_older(header, due)? => 0,
            due => due,
        };
        let (parent, replaced) = lineage(self.log(), &self.active, self.now);
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

    pub(super) fn changes(self) -> Vec<Change> {
        let log = self.log();
        let mut changes: Vec<Change> = self.document.into_iter().collect();
        changes.push(self.end.change());
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
        if Some(self.active.seq) != self.active_before {
            let row = self.active;
            changes.push(Change::Active { log, row });
        }
        changes.extend(self.replaced);
        changes.extend(self.closes);
        changes
    }
}
