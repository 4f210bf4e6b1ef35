//! How much is stored, and for whom: what a user's devices bring into a log counts for that user and for the group, whoever wrote it. The counters
//! are rows, changed in the transaction that changes what they count; nothing is ever counted over.
//!
//! Counted are records with their headers, entries of groups' logs, and what a group comes with when it is founded or brought. What else is stored of a
//! group or a device is bounded by itself.
//!
//! A snapshot counts for whoever brought it until two newer ones have taken its place. From then on it counts for the group alone: others decide
//! how often a document comes under new keys, and nobody's room is to go for that.

use std::collections::BTreeMap;

use conclave_proto::group::GroupEntry;
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::{DeviceId, RecordBody, Refusal, UserId};
use conclave_rules::LogId;

use crate::change::Change;
use crate::keys::{Rows, Stop};
use crate::limits::Limits;
use crate::op::Op;
use crate::op::entry::Does;
use crate::rows::{PaidRow, PartChange, RecordKind, RecordRow};

/// What is stored for a user in a log, more or less.
pub(crate) type Deltas = BTreeMap<(LogId, UserId), i64>;

/// What an operation stores and frees.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    pub(crate) deltas: Deltas,
    /// Snapshots that came, each with what it takes: they lose their content later. Those that count for nobody in particular from now on.
    pub(crate) paid: Vec<Change>,
}

/// Bytes that a record takes.
fn bytes_of(record: &RecordRow) -> u64 {
    let sealed = record.sealed.as_ref().map_or(0, bytes::Bytes::len);
    let header = record.header.as_ref().map_or(0, bytes::Bytes::len);
    (sealed + header) as u64
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Whether content of a document that was closed for this is kept no longer.
pub(crate) fn erases(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::Deleted | CloseReason::Lost)
}

/// Whether a signed entry can wait. What frees room always has it, and so has what says that all is under new keys.
fn takes_room(entry: &GroupEntry) -> bool {
    let GroupEntry::Signed(record) = entry else {
        return false;
    };
    let RecordBody::Entry(body) = &record.header.body else {
        return false;
    };
    match body {
        EntryBody::DocumentClosed { reason, .. } => !erases(*reason),
        EntryBody::RotationComplete { .. } => false,
        _ => true,
    }
}

impl Op {
    /// Whose device brings it, where the session does not say it.
    fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Append(op) => Some(op.author.device),
            Self::PutSnapshot(op) => Some(op.device),
            Self::CreateGroup(op) => Some(op.device),
            Self::AdoptGroup(op) => Some(op.device),
            _ => None,
        }
    }

    /// Whether a group begins with it, here at least: what it comes with is there for good.
    fn begins_group(&self) -> bool {
        matches!(self, Self::CreateGroup(_) | Self::AdoptGroup(_))
    }

    /// Whether it may be refused for want of room. What changes who is in a group, which keys it has, or what is known of its log always has
    /// room: nobody stays in a group because it is full.
    fn needs_room(&self, rows: &Rows) -> Result<bool, Stop> {
        Ok(match self {
            Self::Append(_)
            | Self::ReturnDocument(_)
            | Self::CreateGroup(_)
            | Self::AdoptGroup(_) => true,
            Self::Enter(op) => match &op.does {
                Does::CreateDocument { .. } => true,
                Does::Put => takes_room(&op.entry),
                Does::Commit(_) | Does::Propose | Does::PutAgain => false,
            },
            // Under new keys a document has to come whatever it takes.
            Self::PutSnapshot(op) => {
                let log = crate::op::snapshot::log_of(&op.record.header);
                rows.active(&log)?
                    .is_none_or(|active| active.due_epoch == 0)
            }
            _ => false,
        })
    }
}

/// What an operation that makes these changes is charged.
///
/// # Errors
/// [`Stop::Refused`] where there is no room for its user or its group; [`Stop::Lacks`].
pub(crate) fn charge(
    op: &Op,
    device: Option<DeviceId>,
    changes: &[Change],
    rows: &Rows,
    limits: &Limits,
) -> Result<Charge, Stop> {
    let mut charge = Charge::default();
    let payer = match device.or(op.device()) {
        Some(device) => rows.device(&device)?.map(|row| row.user),
        None => None,
    };
    let user = payer.unwrap_or(UserId::ZERO);
    let mut brought = 0u64;
    let mut group = None;
    for change in changes {
        let (log, bytes) = match change {
            Change::Append { log, records, .. } => {
                for record in records {
                    if record.kind == RecordKind::Snapshot {
                        let (log, seq) = (*log, record.seq);
                        let row = PaidRow {
                            user,
                            bytes: bytes_of(record),
                        };
                        charge.paid.push(Change::Paid { log, seq, row });
                    }
                }
                (*log, records.iter().map(bytes_of).sum())
            }
            Change::Entry { group, entry, .. } => {
                (LogId::of_group(*group), entry.bytes.len() as u64)
            }
            Change::Group { group, parts, .. } | Change::Parts { group, parts, .. }
                if op.begins_group() =>
            {
                let bytes = parts.iter().map(PartChange::bytes).sum();
                (LogId::of_group(*group), bytes)
            }
            Change::Replaced(row) => {
                if let Some(paid) = rows.paid(&(row.log, row.seq))?.copied() {
                    *charge.deltas.entry((row.log, paid.user)).or_default() -= signed(paid.bytes);
                    *charge.deltas.entry((row.log, UserId::ZERO)).or_default() +=
                        signed(paid.bytes);
                    let (log, seq) = (row.log, row.seq);
                    let user = UserId::ZERO;
                    let row = PaidRow { user, ..paid };
                    charge.paid.push(Change::Paid { log, seq, row });
                }
                continue;
            }
            Change::LetGo(row) => {
                let paid = rows.paid(&(row.log, row.seq))?;
                if let Some(paid) = paid {
                    // Its header stays, and counts for nobody any more.
                    *charge.deltas.entry((row.log, paid.user)).or_default() -= signed(paid.bytes);
                }
                continue;
            }
            Change::Erase {
                log, is_last: true, ..
            } => {
                // All of it, whatever of it went with this: no row says any more what a snapshot took.
                for (user, bytes) in rows.shares_of(log)?.into_iter().flatten() {
                    charge.deltas.insert((*log, *user), -signed(*bytes));
                }
                continue;
            }
            _ => continue,
        };
        group = Some(log.group);
        brought = brought.saturating_add(bytes);
        *charge.deltas.entry((log, user)).or_default() += signed(bytes);
    }
    if brought == 0 || !op.needs_room(rows)? {
        return Ok(charge);
    }
    // As where the disk has no room: what it is for waits on its device, and is tried again.
    let full = || Err(Stop::Refused(Refusal::Storage));
    if let (Some(most), Some(user)) = (limits.user_bytes, payer) {
        let stored = rows.user_usage(&user)?.copied().unwrap_or(0);
        if stored.saturating_add(brought) > most {
            return full();
        }
    }
    if let (Some(most), Some(group)) = (limits.group_bytes, group) {
        let stored = rows.group_usage(&group)?.copied().unwrap_or(0);
        if stored.saturating_add(brought) > most {
            return full();
        }
    }
    Ok(charge)
}

/// Counters with what came and went.
pub(crate) fn counted(before: u64, delta: i64) -> u64 {
    before.saturating_add_signed(delta)
}
