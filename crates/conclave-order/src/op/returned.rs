//! Records that a service had and lost, brought back by somebody who has them.
//!
//! An offer is taken whole or not at all: its records have to lead from where the log stands to a head that the service itself had signed. So
//! nobody chooses what comes back, who brings it does not matter, and what was judged once is judged alike again: by the roster of its own epoch, as at
//! every member. Only the connected device, the present epoch and the clock say nothing of it. That they lead there is compared first: what the
//! service never ordered costs it nothing but hashes.

use std::collections::BTreeMap;

use bytes::Bytes;
use conclave_proto::codec::encode;
use conclave_proto::record::{RECORD_LABEL, Record, RecordHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, DeviceId, Frontier, Hash, Head, RecordBody, Refusal, UnixMs};
use conclave_rules::actions::Action;
use conclave_rules::{
    Active, Authority, Chain, Fit, Gate, GroupState, LogId, Place, Seen, judge_record,
    max_sealed_bytes, verify_signature,
};
use tls_codec::Size;

use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::log::{Appending, NewRecord};
use crate::op::append::Signed;
use crate::op::document::{self, Begun};
use crate::op::recovery::{Past, WENT_ON, Wanted, wanted_keys};
use crate::op::seen::hint;
use crate::op::snapshot::{covered, lineage, new_record};
use crate::rows::{ActiveRow, AuthorRow, DocumentRow, GroupAt, Mark, RecordKind};

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
    /// What was wanted.
    wanted: Wanted,
    /// What they lead to.
    reached: Head,
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
        view: &GroupState,
        now: UnixMs,
        rows: &Rows,
    ) -> Result<Self, Stop> {
        let log = offer.log;
        rows.need(|keys| {
            wanted_keys(&log, keys);
            keys.actives.insert(log);
            let of_offer = offer.records.iter();
            keys.authors
                .extend(of_offer.map(|record| (log, record.header.author)));
        })?;
        if !view.is_member(&offer.device) {
            return Err(view.not_member(&offer.device).into());
        }
        let group = rows.group(&log.group)?.ok_or(Refusal::UnknownGroup)?;
        let known = rows.document(&log)?.zip(rows.active(&log)?);
        // What the group's log does not list has to be listed there first.
        if known.is_none() && !view.documents.contains_key(&log.document) {
            return Err(Refusal::UnknownDocument.into());
        }
        let empty = Frontier::new();
        let end = known.map_or(&empty, |(document, _)| &document.frontier);
        let (records, wanted) = wanted(&offer, end, view, rows)?;
        need_marks(log, end.size(), records, rows)?;
        let have = end.head();
        let base = match known {
            Some((document, active)) => Base::Known(document, active),
            None => Base::Lost(view),
        };
        let (mut returning, records) = Returning::begin(log, base, records, (rows, view), now)?;
        for record in records {
            returning.take(record)?;
        }
        for signed in returning.signed.values() {
            signed.check().map_err(bad)?;
        }
        let reached = returning.end.row.frontier.head();
        if reached.size > wanted.head.map_or(0, |want| want.size) {
            let row = &mut returning.end.row;
            row.grown_in = rows.grows_past(&log, row.grown_in)?;
        }
        let records = offer.records.iter();
        let bytes = records.map(|it| it.sealed.ciphertext.len()).sum();
        let fresh = returning.fresh.clone();
        Ok(Self {
            device: offer.device,
            log,
            group: group.at(),
            have,
            wanted,
            reached,
            changes: returning.changes(),
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
        wanted_keys(&self.log, keys);
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        let log = self.log;
        let group = rows.group(&log.group)?.ok_or(Refusal::UnknownGroup)?;
        let document = rows.document(&log)?;
        let have = document.map_or(Head::EMPTY, |row| row.frontier.head());
        let wanted = rows.wanted_of(&log)?;
        // It was judged where this stood.
        if (group.at(), have, wanted) != (self.group, self.have, self.wanted) {
            let want = wanted.head.unwrap_or(have).size;
            let have = have.size;
            return Err(Refusal::Recovering { have, want }.into());
        }
        let mut changes = self.changes.clone();
        let hold = rows.recovery_of(&log)?;
        changes.extend(hold.map(|hold| hold.after(self.have.size, self.reached)));
        let seq = self.have.size;
        let head = self.reached;
        let event = Event::Returned { seq, head };
        Ok(Decided { changes, event })
    }
}

/// The records of an offer that are taken, and what was wanted. Beyond what the service had signed only what may be written now.
fn wanted<'a>(
    offer: &Offer<'a>,
    end: &Frontier,
    view: &GroupState,
    rows: &Rows,
) -> Result<(&'a [Record], Wanted), Stop> {
    let wanted = rows.wanted_of(&offer.log)?;
    let least = wanted.least(end.size(), offer.from, offer.records.len())?;
    let mut end = end.clone();
    for record in offer.records.iter().take(least) {
        end.push(record.leaf());
    }
    if wanted.head.is_some_and(|want| end.head() != want) {
        return Err(bad(RecordFault::SeenHead).into());
    }
    let beyond = offer.records.iter().skip(least);
    let entry = view.documents.get(&offer.log.document);
    let closed = end.size() > 0 && entry.is_none_or(|entry| entry.closed.is_some());
    let past = wanted.past == Past::Taken && !closed;
    let beyond = beyond.take_while(|record| past && may_write(view, record));
    let taken = least.saturating_add(beyond.count());
    let records = offer.records.get(..taken).unwrap_or_default();
    if records.is_empty() {
        return Err(WENT_ON.into());
    }
    Ok((records, wanted))
}

/// Whether a record's author is a member who may write it now.
fn may_write(view: &GroupState, record: &Record) -> bool {
    let row = view.roster.current_row(&record.header.author.device);
    row.is_some_and(|row| Action::of_record(&record.header.body).allowed(row.role))
}

/// Asks at once for all that the log has to say at sizes that the records name: one after the other, each would cost a round, in which all
/// before it are judged anew.
fn need_marks(log: LogId, base: u64, records: &[Record], rows: &Rows) -> Result<(), Stop> {
    rows.need(|keys| {
        for header in records.iter().map(|record| &record.header) {
            let covered = covered(header).size;
            let mut named = vec![header.seen.size, covered];
            if matches!(header.body, RecordBody::Snapshot(_)) {
                named.push(covered.saturating_add(1));
            }
            let stored = named.into_iter().filter(|size| (1..=base).contains(size));
            keys.marks.extend(stored.map(|size| (log, size)));
        }
    })
}

/// What a document is that something is returned to.
enum Base<'a> {
    /// It is there.
    Known(&'a DocumentRow, &'a ActiveRow),
    /// The group lists it; nothing of it is there.
    Lost(&'a GroupState),
}

/// Judges the first record of a document that the group's log lists, and of which nothing is stored: the snapshot that it was made with.
fn first_again(log: LogId, first: &Record, view: &GroupState) -> Result<Begun, Refusal> {
    let listed = view.documents.get(&log.document);
    let listed = listed.ok_or(Refusal::UnknownDocument)?;
    let header = &first.header;
    let row = view.row(&header.author.device, header.epoch);
    let place = Place {
        log,
        row,
        chain: None,
        active: None,
        seen: Seen::known(header.seen == Head::EMPTY),
        covered: Seen::known(covered(header) == Head::EMPTY),
        gate: Gate::After {
            highest: listed.created_epoch,
            current: view.epoch,
        },
    };
    match judge_record(header, &place).map_err(bad)? {
        Fit::Snapshot { header, .. } if header.crdt == listed.crdt => {}
        _ => return Err(bad(RecordFault::Malformed)),
    }
    if first.sealed.ciphertext.len() > max_sealed_bytes(&header.body) {
        return Err(bad(RecordFault::Malformed));
    }
    let row = row.ok_or_else(|| bad(RecordFault::NotMember))?;
    let signature = &first.sealed.signature;
    verify_signature(row, RECORD_LABEL, &first.core().0, signature).map_err(bad)?;
    // Who lists a document writes its first snapshot. It has not grown in this generation: it is as it was.
    Ok(document::begun(first, listed.crdt, header.author.device, 0))
}

/// A log with what is being returned to it.
struct Returning<'a> {
    rows: &'a Rows,
    authority: &'a dyn Authority,
    now: UnixMs,
    /// The document, where that is new here.
    document: Option<Change>,
    /// Then, that it is closed.
    closes: Option<Change>,
    end: Appending,
    /// Records that are stored.
    base: u64,
    /// What the log says after each of the others.
    marks: Vec<Mark>,
    active: ActiveRow,
    /// Position of the snapshot that is stored as the active one.
    active_before: Option<u64>,
    authors: BTreeMap<Author, AuthorRow>,
    /// Instances of a device with numbers below this write no more.
    closed: BTreeMap<DeviceId, u64>,
    fresh: Vec<Author>,
    /// The last signature of each author.
    signed: BTreeMap<Author, Signed>,
    replaced: Vec<Change>,
}

impl<'a> Returning<'a> {
    /// Begins where the log stands; with its first record, where nothing of it is there. Gives the others.
    fn begin<'r>(
        log: LogId,
        base: Base<'_>,
        records: &'r [Record],
        (rows, authority): (&'a Rows, &'a dyn Authority),
        now: UnixMs,
    ) -> Result<(Self, &'r [Record]), Stop> {
        let mut closes = None;
        let (document, end, active, rest) = match base {
            Base::Known(row, active) => {
                let end = Appending::to(log, row.clone());
                (None, end, active.clone(), records)
            }
            Base::Lost(view) => {
                let (first, rest) = records
                    .split_first()
                    .ok_or_else(|| bad(RecordFault::Malformed))?;
                let Begun {
                    document,
                    end,
                    mut active,
                } = first_again(log, first, view)?;
                let closed = view.documents.get(&log.document).and_then(|it| it.closed);
                let rotating = view.rotating_since;
                // As its group's log has left it.
                match closed {
                    Some(reason) => closes = Some(Change::Closed { log, reason }),
                    None if rotating > first.header.epoch => active.due_epoch = rotating,
                    None => {}
                }
                (Some(document), end, active, rest)
            }
        };
        let is_new = document.is_some();
        let mut returning = Self {
            rows,
            authority,
            now,
            base: if is_new { 0 } else { end.row.frontier.size() },
            document,
            closes,
            end,
            marks: Vec::with_capacity(records.len()),
            active_before: Some(active.seq).filter(|_| !is_new),
            active,
            authors: BTreeMap::new(),
            closed: BTreeMap::new(),
            fresh: Vec::new(),
            signed: BTreeMap::new(),
            replaced: Vec::new(),
        };
        if is_new {
            returning.marked();
        }
        Ok((returning, rest))
    }

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
        self.marked();
        Ok(())
    }

    /// Notes what the log says up to here.
    fn marked(&mut self) {
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

    fn changes(self) -> Vec<Change> {
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
