//! How much is stored, and for whom: what a user's devices bring into a log counts for that user and for the group, whoever wrote it. The counters
//! are rows, changed in the transaction that changes what they count; nothing is ever counted over.
//!
//! Counted are records with their headers, and entries of groups' logs. What else is stored of a group or a device is bounded by itself.

use std::collections::BTreeMap;

use conclave_proto::record::CloseReason;
use conclave_proto::{DeviceId, Refusal, UserId};
use conclave_rules::LogId;

use crate::change::Change;
use crate::keys::{Rows, Stop};
use crate::limits::Limits;
use crate::op::Op;
use crate::op::entry::Does;
use crate::rows::{PaidRow, RecordKind, RecordRow};

/// What is stored for a user in a log, more or less.
pub(crate) type Deltas = BTreeMap<(LogId, UserId), i64>;

/// What an operation stores and frees.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    pub(crate) deltas: Deltas,
    /// Snapshots that came, each with what it takes: they lose their content later.
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

impl Op {
    /// Whose device brings it, where the session does not say it.
    fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Append(op) => Some(op.author.device),
            Self::PutSnapshot(op) => Some(op.device),
            _ => None,
        }
    }

    /// Whether it may be refused for want of room. What changes who is in a group, which keys it has, or what is known of its log always has
    /// room: nobody stays in a group because it is full.
    fn needs_room(&self, rows: &Rows) -> Result<bool, Stop> {
        Ok(match self {
            Self::Append(_) | Self::ReturnDocument(_) | Self::AdoptGroup(_) => true,
            Self::Enter(op) => matches!(op.does, Does::CreateDocument { .. }),
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
                for (user, bytes) in rows.shares_of(log)?.into_iter().flatten() {
                    *charge.deltas.entry((*log, *user)).or_default() -= signed(*bytes);
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
