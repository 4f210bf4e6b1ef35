//! Records that a service had and lost, brought back by somebody who has them.
//!
//! An offer is taken whole or not at all: its records have to lead from where the log stands to a head that the service itself had signed. So
//! nobody chooses what comes back, who brings it does not matter, and what was judged once is judged alike again: by the roster of its own epoch, as at
//! every member. Only the connected device, the present epoch and the clock say nothing of it. That they lead there is compared first: what the
//! service never ordered costs it nothing but hashes.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::frame::DocumentBase;
use conclave_proto::record::{RECORD_LABEL, Record};
use conclave_proto::refusal::{ForbiddenWhy, RecordFault};
use conclave_proto::{Author, DeviceId, Frontier, Head, RecordBody, Refusal, UnixMs};
use conclave_rules::actions::Action;
use conclave_rules::{
    Authority, Fit, Gate, GroupState, LogId, Place, Seen, judge_record, max_sealed_bytes,
    verify_signature,
};

use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::limits::CHECKS_PER_OFFER;
use crate::log::Appending;
use crate::op::based::Based;
use crate::op::document::{self, Begun};
use crate::op::recovery::{Past, WENT_ON, Wanted, wanted_keys};
use crate::op::returning::Returning;
use crate::op::snapshot::covered;
use crate::rows::{ActiveRow, DocumentRow, GroupAt};

/// Records for the end of a document's log.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Who brings them.
    pub device: DeviceId,
    /// The log.
    pub log: LogId,
    /// Where the log begins of which they are; none where the service has it, or all of it is brought.
    pub base: Option<&'a DocumentBase>,
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
    /// When they were judged.
    now: UnixMs,
    /// Position of the first of them.
    from: u64,
    /// What they lead to.
    reached: Head,
    changes: Vec<Change>,
    /// Authors who wrote nothing that was there, in the order of their numbers.
    fresh: Vec<Author>,
    bytes: usize,
}

pub(crate) const fn bad(fault: RecordFault) -> Refusal {
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
        // Somebody may have been removed since, by what the other rows follow already.
        let at = group.at();
        if (at.epoch, at.size) != (view.epoch, view.size()) {
            let wanted = rows.wanted_of(&log, now)?;
            let have = known.map_or(0, |(document, _)| document.frontier.size());
            let want = wanted.head.map_or(have, |head| head.size);
            return Err(Refusal::Recovering { have, want }.into());
        }
        let empty = Frontier::new();
        let end = known.map_or(&empty, |(document, _)| &document.frontier);
        let have = end.head();
        let base = match (known, offer.base) {
            (Some((document, active)), None) => Base::Known(document, active),
            (None, None) => Base::Lost(view),
            (None, Some(base)) => Base::Brought(Based::judge(base, &offer, view, rows)?, view),
            // Somebody else was first.
            (Some(_), Some(_)) => {
                let (have, want) = (have.size, have.size);
                return Err(Refusal::Recovering { have, want }.into());
            }
        };
        let (records, wanted) = wanted(&offer, (end, &base), view, (rows, now))?;
        need_marks(log, end.size(), records, rows)?;
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
            group: at,
            have,
            wanted,
            now,
            from: offer.from,
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
        let wanted = rows.wanted_of(&log, self.now)?;
        // It was judged where this stood.
        if (group.at(), have, wanted) != (self.group, self.have, self.wanted) {
            let want = wanted.head.unwrap_or(have).size;
            let have = have.size;
            return Err(Refusal::Recovering { have, want }.into());
        }
        let mut changes = self.changes.clone();
        let hold = rows.recovery_of(&log)?;
        changes.extend(hold.map(|hold| hold.after(self.have.size, self.reached)));
        let seq = self.from;
        let head = self.reached;
        let event = Event::Returned { seq, head };
        Ok(Decided { changes, event })
    }
}

/// The records of an offer that are taken, and what was wanted. Beyond what the service had signed only what may be written now.
fn wanted<'a>(
    offer: &Offer<'a>,
    (end, base): (&Frontier, &Base<'_>),
    view: &GroupState,
    (rows, now): (&Rows, UnixMs),
) -> Result<(&'a [Record], Wanted), Stop> {
    let wanted = rows.wanted_of(&offer.log, now)?;
    if let Base::Brought(based, _) = base {
        let (have, want) = (0, wanted.head.map_or(0, |head| head.size));
        match wanted.past {
            Past::Taken => {}
            Past::Held => return Err(Refusal::Recovering { have, want }.into()),
            Past::Over => return Err(WENT_ON.into()),
        }
        let taken = based.taken(offer, wanted.head, view)?;
        return Ok((offer.records.get(..taken).unwrap_or_default(), wanted));
    }
    let least = wanted.least(end.size(), offer.from, offer.records.len())?;
    let mut end = end.clone();
    for record in offer.records.iter().take(least) {
        end.push(record.leaf());
    }
    if wanted.head.is_some_and(|want| end.head() != want) {
        return Err(bad(RecordFault::SeenHead).into());
    }
    let beyond = offer.records.get(least..).unwrap_or_default();
    let entry = view.documents.get(&offer.log.document);
    let closed = end.size() > 0 && entry.is_none_or(|entry| entry.closed.is_some());
    let back = matches!(base, Base::Lost(_)) && rows.is_brought(&offer.log.group)?;
    let follow = match wanted.past == Past::Taken && !closed {
        true => may_follow(beyond, end.size(), view, back),
        false => 0,
    };
    let taken = least.saturating_add(follow);
    let records = offer.records.get(..taken).unwrap_or_default();
    if records.is_empty() {
        return Err(WENT_ON.into());
    }
    Ok((records, wanted))
}

/// How many of the records that nothing proves could be written now, each after those before it; the first of them at this position.
///
/// Who listed a document may have left: that its first snapshot is of whoever it was is seen apart. Where nothing of a document is here that comes `back` with
/// its group, others may have left too: what they wrote is believed by the word of a member who covers it with a snapshot that comes with it, as where a
/// document comes back from there.
pub(crate) fn may_follow(beyond: &[Record], at: u64, view: &GroupState, back: bool) -> usize {
    let (mut authors, mut snapshots, mut taken) = (BTreeSet::new(), 0, 0);
    // Size up to which members vouch for the log, and up to which they have to.
    let (mut vouched, mut left) = (0, 0);
    for ((seq, record), count) in (at..).zip(beyond).zip(1..) {
        let may_write = may_write(view, record);
        match record.header.body {
            RecordBody::Snapshot(header) => {
                snapshots += 1;
                if may_write {
                    vouched = header.covered.size.min(seq).max(vouched);
                }
            }
            _ => _ = authors.insert(record.header.author),
        }
        if authors.len() + snapshots > CHECKS_PER_OFFER {
            break;
        }
        match may_write || seq == 0 {
            true => {}
            false if back => left = seq.saturating_add(1),
            false => break,
        }
        if left <= vouched {
            taken = count;
        }
    }
    taken
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
    /// As before, and what was before the offer is not brought.
    Brought(Based<'a>, &'a GroupState),
}

/// Judges the first record of a document that the group's log lists, and of which nothing is stored: the snapshot that it was made with, of whoever listed
/// it.
fn first_again(log: LogId, first: &Record, view: &GroupState, rows: &Rows) -> Result<Begun, Stop> {
    let lister = rows.lister_of(&log)?.copied();
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
        _ => return Err(bad(RecordFault::Malformed).into()),
    }
    if first.sealed.ciphertext.len() > max_sealed_bytes(&header.body) {
        return Err(bad(RecordFault::Malformed).into());
    }
    if lister != Some(header.author) {
        let why = ForbiddenWhy::NotYours;
        return Err(Refusal::Forbidden { why }.into());
    }
    let row = row.ok_or_else(|| bad(RecordFault::NotMember))?;
    let signature = &first.sealed.signature;
    verify_signature(row, RECORD_LABEL, &first.core().0, signature).map_err(bad)?;
    // Who lists a document writes its first snapshot. It has not grown in this generation: it is as it was.
    Ok(document::begun(first, listed.crdt, header.author.device, 0))
}

impl<'a> Returning<'a> {
    /// Begins where the log stands; with its first record, where nothing of it is there. Gives the others.
    fn begin<'r>(
        log: LogId,
        base: Base<'a>,
        records: &'r [Record],
        (rows, authority): (&'a Rows, &'a dyn Authority),
        now: UnixMs,
    ) -> Result<(Self, &'r [Record]), Stop> {
        let mut closes = None;
        let mut is_marked = false;
        let mut based = None;
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
                } = first_again(log, first, view, rows)?;
                let closed = view.documents.get(&log.document).and_then(|it| it.closed);
                let rotating = view.rotating_since;
                // As its group's log has left it.
                closes = closed.map(|reason| Change::Closed { log, reason });
                if rotating > first.header.epoch {
                    active.due_epoch = rotating;
                }
                is_marked = true;
                (Some(document), end, active, rest)
            }
            Base::Brought(brought, view) => {
                let begun = brought.begun(records, log, view);
                let Begun {
                    document,
                    end,
                    mut active,
                } = begun.ok_or(Refusal::UnknownDocument)?;
                let closed = view.documents.get(&log.document).and_then(|it| it.closed);
                closes = closed.map(|reason| Change::Closed { log, reason });
                // Until it is placed.
                active.due_epoch = view.rotating_since;
                based = Some(brought);
                (Some(document), end, active, records)
            }
        };
        let is_new = document.is_some();
        let mut returning = Self {
            rows,
            authority,
            now,
            base: if is_marked {
                0
            } else {
                end.row.frontier.size()
            },
            based,
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
        if is_marked {
            returning.marked();
        }
        Ok((returning, rest))
    }
}
