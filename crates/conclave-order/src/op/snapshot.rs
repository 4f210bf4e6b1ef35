//! Snapshots.

use std::sync::Arc;

use bytes::Bytes;
use conclave_proto::codec::encode;
use conclave_proto::merkle::empty_root;
use conclave_proto::record::{RECORD_LABEL, Record, RecordHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{DeviceId, Hash, Head, RecordBody, Refusal, UnixMs};
use conclave_rules::{
    Active, Fit, Gate, LogId, Place, RosterRow, Seen, judge_author, judge_record, max_sealed_bytes,
    verify_signature,
};

use super::seen::hint;
use super::upkeep::Sweep;
use crate::batch::Decided;
use crate::change::Change;
use crate::event::{Event, PlacedSnapshot};
use crate::keys::{Keys, Rows, Stop};
use crate::limits::{RETRY_MS, SWEPT_WITH_SNAPSHOT};
use crate::log::{Appending, NewRecord};
use crate::rows::{ActiveRow, DocumentRow, Mark, RecordKind, ReplacedRow};

const fn bad(fault: RecordFault) -> Refusal {
    Refusal::BadRecord { fault }
}

/// The log that a header names.
#[must_use]
pub fn log_of(header: &RecordHeader) -> LogId {
    LogId {
        group: header.group,
        document: header.document,
    }
}

/// The head that a snapshot covers; empty where the header is no snapshot's.
#[must_use]
pub fn covered(header: &RecordHeader) -> Head {
    match header.body {
        RecordBody::Snapshot(snapshot) => snapshot.covered,
        _ => Head::EMPTY,
    }
}

/// Checks what needs no log: author, epoch, role, kind, size, signature.
///
/// # Errors
/// What is wrong.
pub fn check(record: &Record, at: &Place<'_>) -> Result<(), Refusal> {
    check_header(&record.header, at)?;
    let max = max_sealed_bytes(&record.header.body);
    if record.sealed.ciphertext.len() > max {
        return Err(Refusal::TooLarge { max: max as u64 });
    }
    let row = at.row.ok_or(at.answer(RecordFault::NotMember))?;
    let signature = &record.sealed.signature;
    verify_signature(row, RECORD_LABEL, &record.core().0, signature).map_err(bad)
}

/// Of that, what the header tells.
///
/// # Errors
/// What is wrong.
pub fn check_header(header: &RecordHeader, at: &Place<'_>) -> Result<(), Refusal> {
    if !matches!(header.body, RecordBody::Snapshot(_)) {
        return Err(bad(RecordFault::Malformed));
    }
    let judged = judge_author(header, at);
    judged.map(drop).map_err(|fault| at.answer(fault))
}

/// A snapshot, ready for its place.
pub(crate) fn new_record(record: &Record, leaf: Hash) -> NewRecord {
    NewRecord {
        kind: RecordKind::Snapshot,
        chained: None,
        epoch: record.header.epoch,
        seen: record.header.seen.size,
        hint: hint(&record.header.seen.root),
        leaf,
        header: Some(Bytes::from(encode(&record.header))),
        sealed: Bytes::from(encode(&record.sealed)),
        bytes: 0,
    }
}

/// Who wrote a snapshot, and whether the log had the head that it names as seen.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its author's row in its epoch.
    pub row: RosterRow,
    /// Whether the seen head is a true prefix.
    pub seen: Seen,
}

/// A snapshot that may follow in the log.
#[derive(Debug)]
pub struct Fits<'a> {
    document: &'a DocumentRow,
    active: &'a ActiveRow,
    /// Whether it is under a newer epoch than the active one, or covers updates of at least half that one's size.
    pub has_news: bool,
    /// Encoded bytes of the updates that it covers.
    covered_weight: u64,
    /// Number of the service's generation.
    generation: u64,
}

/// Asks for what [`judge`] will surely compare.
pub fn keys(header: &RecordHeader, keys: &mut Keys) {
    let log = log_of(header);
    keys.services.insert(());
    keys.groups.insert(log.group);
    keys.documents.insert(log);
    keys.actives.insert(log);
    let size = covered(header).size;
    if size > 0 {
        keys.marks.insert((log, size));
    }
}

/// Judges a snapshot by its header, against rows: outside a transaction to save what would be refused anyway, and inside to decide.
///
/// # Errors
/// [`Stop`].
pub fn judge<'a>(
    header: &RecordHeader,
    written: &Written,
    rows: &'a Rows,
) -> Result<Fits<'a>, Stop> {
    let log = log_of(header);
    let document = rows.document(&log)?.ok_or(Refusal::UnknownDocument)?;
    let active = rows.active(&log)?.ok_or(Refusal::UnknownDocument)?;
    let group = rows.group(&log.group)?.ok_or(Refusal::UnknownGroup)?;
    if document.closed.is_some() {
        return Err(Refusal::DocumentClosed.into());
    }
    let generation = rows.ensure_growing(&log)?;
    let before = active.snapshot().ok_or(Stop::Damaged {
        what: "snapshot header",
    })?;
    let covered = covered(header);
    let is_prefix = (document.base.size()..=document.frontier.size()).contains(&covered.size)
        && mark(rows, log, covered.size)?.root == covered.root;
    let judged = Active {
        seq: active.seq,
        id: active.id,
        header: before,
    };
    let at = Place {
        log,
        row: Some(&written.row),
        chain: None,
        active: Some(&judged),
        seen: written.seen,
        covered: Seen::known(is_prefix),
        gate: Gate::Before {
            current: group.epoch,
        },
    };
    let fit = judge_record(header, &at).map_err(|fault| at.answer(fault))?;
    let Fit::Snapshot { .. } = fit else {
        return Err(bad(RecordFault::Malformed).into());
    };
    let covered_weight = mark(rows, log, covered.size)?.weight;
    let news = covered_weight.saturating_sub(active.covered_weight);
    let has_news = header.epoch > active.header.epoch || news.saturating_mul(2) >= active.bytes;
    Ok(Fits {
        document,
        active,
        has_news,
        covered_weight,
        generation,
    })
}

/// What the log says at a size that it has.
fn mark(rows: &Rows, log: LogId, size: u64) -> Result<Mark, Stop> {
    if size == 0 {
        return Ok(Mark {
            root: empty_root(),
            weight: 0,
            epoch: 0,
        });
    }
    let mark = rows.mark(&(log, size))?;
    mark.copied().ok_or(Stop::Damaged { what: "log" })
}

/// A snapshot of a document.
#[derive(Debug, Clone)]
pub struct PutSnapshot {
    /// Who sends it: its author's device.
    pub device: DeviceId,
    /// Who wrote it.
    pub written: Written,
    /// The record.
    pub record: Arc<Record>,
    /// Whether it may have little new in it: that is paced.
    pub paid: bool,
    /// The time.
    pub now: UnixMs,
}

impl PutSnapshot {
    fn sweep(&self) -> Sweep {
        Sweep {
            now: self.now,
            most: SWEPT_WITH_SNAPSHOT,
        }
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        let header = &self.record.header;
        keys.devices.insert(self.device);
        keys.snapshots.insert((log_of(header), self.record.leaf()));
        self::keys(header, keys);
        self.sweep().keys(keys);
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        let header = &self.record.header;
        let log = log_of(header);
        let id = self.record.leaf();
        if let Some(at) = rows.snapshot(&(log, id))? {
            return Ok(Decided {
                changes: self.sweep().changes(rows)?,
                event: Event::Known {
                    seq: at.seq,
                    head: at.head,
                },
            });
        }
        let fits = judge(header, &self.written, rows)?;
        if !fits.has_news && !self.paid {
            let retry_after_ms = RETRY_MS;
            return Err(Refusal::RateLimited { retry_after_ms }.into());
        }
        let due_epoch = match fits.active.due_epoch {
            due if due > 0 && header.epoch >= due && covers_older(rows, &fits, header, due)? => 0,
            due => due,
        };
        let (parent, replaced) = lineage(log, fits.active, self.now);
        let mut end = Appending::to(log, fits.document.clone());
        end.row.grown_in = fits.generation;
        let seq = fits.document.frontier.size();
        let new = new_record(&self.record, id);
        let bytes = new.sealed.len() + new.header.as_ref().map_or(0, Bytes::len);
        let root = end.push(new);
        let active = ActiveRow {
            seq,
            id,
            header: *header,
            bytes: bytes as u64,
            covered_weight: fits.covered_weight,
            epoch_seq: end.row.last_epoch_seq,
            due_epoch,
            parent,
        };
        let (size, late) = (end.row.frontier.size(), header.seen.size < end.row.covered);
        let mut changes = vec![end.change(), Change::Active { log, row: active }];
        // The first of a document stays.
        changes.extend(replaced.filter(|row| row.seq > 0).map(Change::Replaced));
        changes.extend(self.sweep().changes(rows)?);
        let event = Event::Snapshot(PlacedSnapshot {
            seq,
            head: Head { size, root },
            covered: covered(header).size,
            late,
            record: self.record.clone(),
        });
        Ok(Decided { changes, event })
    }
}

/// The new active snapshot's parent, and what is replaced.
pub(crate) fn lineage(
    log: LogId,
    active: &ActiveRow,
    now: UnixMs,
) -> (Option<(u64, UnixMs)>, Option<ReplacedRow>) {
    let replaced = |(seq, since)| ReplacedRow { since, log, seq };
    (Some((active.seq, now)), active.parent.map(replaced))
}

/// Whether every record of an epoch before `due` lies below what is covered. Epochs never decrease along a log, so the first record that
/// is not covered decides.
fn covers_older(
    rows: &Rows,
    fits: &Fits<'_>,
    header: &RecordHeader,
    due: u64,
) -> Result<bool, Stop> {
    let covered = covered(header).size;
    if covered >= fits.document.frontier.size() {
        return Ok(true);
    }
    let next = mark(rows, log_of(header), covered.saturating_add(1))?;
    Ok(next.epoch >= due)
}
