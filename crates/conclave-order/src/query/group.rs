//! What is stored of groups.

use std::collections::BTreeSet;

use conclave_mls::PublicGroupState;
use conclave_proto::codec;
use conclave_proto::frame::{Answer, DocumentStatus, GroupStatus, JoinState, WelcomeDelivery};
use conclave_proto::group::{GroupEntry, RootWrap, WrapStatement};
use conclave_proto::record::{EntryBody, Record, RecordBody};
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, Head, Refusal};
use conclave_rules::{GroupState, LogId};

use super::{damaged, load};
use crate::op::Asker;
use crate::rows::{
    ActiveRow, BaseRow, DocumentRow, EntryRow, GroupRow, Position, WelcomeRow, lister,
};
use crate::store::{Bounds, Failure, Reader};

const DAMAGED: Failure = Failure::Corrupt { what: "group" };

/// What judges a group's entries.
#[derive(Debug)]
pub struct Core {
    /// The group's public state.
    pub state: PublicGroupState,
    /// The stored version that it is of.
    pub version: u64,
}

/// Reads a group's public state. None: there is no such group. So many bytes of the log are read at once.
///
/// # Errors
/// [`Failure`].
pub async fn restore<R: Reader>(
    reads: &mut R,
    group: GroupId,
    bytes: usize,
) -> Result<Option<Core>, Failure> {
    let mut rows = load(reads, |keys| {
        keys.groups.insert(group);
        keys.parts.insert(group);
    })
    .await?;
    let at = rows.group(&group).map_err(damaged)?.copied();
    let Some((at, row)) = at.zip(rows.parts.remove(&group).flatten()) else {
        return Ok(None);
    };
    let roots = roots(reads, &group, &at, bytes).await?;
    let parts = row.parts.into_iter();
    let parts = parts.map(|(part, value)| (part.to_vec(), value.to_vec().into()));
    let mut state = PublicGroupState::load(parts.collect(), roots).map_err(|_| DAMAGED)?;
    if (state.state().epoch, state.state().head().size) != (at.epoch, at.size) {
        return Err(DAMAGED);
    }
    for seq in state.pending_in_log() {
        let bounds = Bounds {
            from: seq,
            end: seq.saturating_add(1),
            bytes,
        };
        if let Some(found) = entries(reads, &group, bounds).await?.pop() {
            state.supply_pending(seq, found);
        }
    }
    let version = row.version;
    Ok(Some(Core { state, version }))
}

/// Roots of a group's log from the size on at which its epoch began.
async fn roots<R: Reader>(
    reads: &mut R,
    group: &GroupId,
    at: &GroupRow,
    bytes: usize,
) -> Result<Vec<Hash>, Failure> {
    let begun = match at.epoch.checked_sub(1) {
        Some(ended) => {
            let key = (*group, ended);
            let rows = load(reads, |keys| _ = keys.commits.insert(key)).await?;
            rows.commit(&key)
                .map_err(damaged)?
                .map(|commit| commit.head)
        }
        None => at.base.is_none().then_some(Head::EMPTY),
    };
    let (from, mut roots) = match begun {
        Some(begun) => (begun.size, vec![begun.root]),
        // The epoch had begun when a member brought the group.
        None => {
            let base = base(reads, group).await?.ok_or(DAMAGED)?;
            (base.frontier.size(), base.roots)
        }
    };
    let mut bounds = Bounds {
        from,
        end: at.size,
        bytes,
    };
    while bounds.from < bounds.end {
        let entries = reads.entries(group, bounds).await?;
        if entries.is_empty() {
            return Err(DAMAGED);
        }
        bounds.from = bounds.from.saturating_add(entries.len() as u64);
        roots.extend(entries.iter().map(|entry| entry.root));
    }
    Ok(roots)
}

/// Where a group's log begins, if a member brought the group.
async fn base<R: Reader>(reads: &mut R, group: &GroupId) -> Result<Option<BaseRow>, Failure> {
    let mut rows = load(reads, |keys| _ = keys.bases.insert(*group)).await?;
    Ok(rows.bases.remove(group).flatten())
}

fn entry(row: &EntryRow) -> Result<GroupEntry, Failure> {
    codec::decode("log entry", &row.bytes, usize::MAX)
        .map_err(|_| Failure::Corrupt { what: "log entry" })
}

/// Who wrote an entry, where it lists this document.
///
/// # Errors
/// [`Failure`].
pub fn lists(row: &EntryRow, log: &LogId) -> Result<Option<Author>, Failure> {
    Ok(match entry(row)? {
        GroupEntry::Signed(record) => lister(&record, log),
        _ => None,
    })
}

/// Reads the log.
///
/// # Errors
/// [`Failure`].
pub async fn entries<R: Reader>(
    reads: &mut R,
    group: &GroupId,
    bounds: Bounds,
) -> Result<Vec<GroupEntry>, Failure> {
    let rows = reads.entries(group, bounds).await?;
    rows.iter().map(entry).collect()
}

/// The signed entries before `end` that created, closed and voided and still say something, in the order of the log.
///
/// # Errors
/// [`Failure`].
pub async fn document_entries<R: Reader>(
    reads: &mut R,
    group: &GroupId,
    end: u64,
) -> Result<Vec<Record>, Failure> {
    let base = base(reads, group).await?;
    let mut records = base.map_or_else(Vec::new, |base| base.entries);
    for row in reads.signed_entries(group, end).await? {
        let GroupEntry::Signed(record) = entry(&row)? else {
            return Err(Failure::Corrupt { what: "log entry" });
        };
        records.push(record);
    }
    Ok(listing(records))
}

/// The entries that make the document list: of what was put away and taken up again, only how it ended. However often that is done, joiners
/// are handed at most two entries of a document, and its voided records.
fn listing(mut records: Vec<Record>) -> Vec<Record> {
    let mut ended = BTreeSet::new();
    records.reverse();
    records.retain(|record| match record.header.body {
        RecordBody::Entry(EntryBody::DocumentClosed { document, .. }) => ended.insert(document),
        RecordBody::Entry(EntryBody::DocumentReopened { document }) => {
            ended.insert(document);
            false
        }
        RecordBody::Entry(EntryBody::RotationComplete { .. }) => false,
        _ => true,
    });
    records.reverse();
    records
}

/// The answer that an entry got when it was first accepted.
///
/// # Errors
/// [`Failure`].
pub async fn known<R: Reader>(
    reads: &mut R,
    group: GroupId,
    leaf: Hash,
) -> Result<Option<Answer>, Failure> {
    let key = (group, leaf);
    let rows = load(reads, |keys| _ = keys.entries.insert(key)).await?;
    let place = rows.entry(&key).map_err(damaged)?;
    Ok(place.map(|Position { seq, head }| Answer::Accepted {
        seq: *seq,
        head: *head,
    }))
}

/// How far a device may follow a group's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The head that it is told.
    pub head: Head,
    /// The epoch that it is told.
    pub epoch: u64,
    /// Size after which it gets nothing more: it was removed by the entry before.
    pub until: Option<u64>,
}

/// The first position of a group's log that is here, and not before `from`.
///
/// # Errors
/// [`Failure`].
pub async fn first<R: Reader>(reads: &mut R, group: GroupId, from: u64) -> Result<u64, Failure> {
    let rows = load(reads, |keys| _ = keys.groups.insert(group)).await?;
    let row = rows.group(&group).map_err(damaged)?;
    Ok(from.max(row.and_then(|row| row.base).unwrap_or(0)))
}

/// Members follow everything; who was removed, up to the commit that did it; others nothing.
///
/// # Errors
/// [`Refusal::UnknownGroup`], [`Refusal::Forbidden`] where what removed it is not here, and [`Failure`].
pub async fn reach<R: Reader>(
    reads: &mut R,
    view: &GroupState,
    device: &DeviceId,
) -> Result<Result<Reach, Refusal>, Failure> {
    if view.is_member(device) {
        return Ok(Ok(Reach {
            head: view.head(),
            epoch: view.epoch,
            until: None,
        }));
    }
    let rows = view.roster.rows().iter();
    let own = rows.filter(|row| row.device == *device);
    let Some(last) = own.filter_map(|row| row.last_epoch).max() else {
        return Ok(Err(Refusal::UnknownGroup));
    };
    let (group, key) = (view.group, (view.group, last));
    let wanted = |keys: &mut crate::Keys| {
        keys.commits.insert(key);
        keys.groups.insert(group);
    };
    let rows = load(reads, wanted).await?;
    let row = rows.group(&group).map_err(damaged)?;
    let head = match rows.commit(&key).map_err(damaged)? {
        Some(end) => end.head,
        // It was removed before a member brought the group: what did it is not here.
        None if row.is_some_and(|row| row.base.is_some()) => {
            return Ok(Err(view.not_member(device)));
        }
        None => return Err(Failure::Corrupt { what: "group log" }),
    };
    Ok(Ok(Reach {
        head,
        epoch: last.saturating_add(1),
        until: Some(head.size),
    }))
}

/// A Welcome as it is handed over. None where what its joiners need is gone.
///
/// # Errors
/// [`Failure`].
pub async fn welcome<R: Reader>(
    reads: &mut R,
    row: &WelcomeRow,
) -> Result<Option<WelcomeDelivery>, Failure> {
    let key = (row.group, row.epoch);
    let mut rows = load(reads, |keys| _ = keys.joins.insert(key)).await?;
    let Some(join) = rows.joins.remove(&key).flatten() else {
        return Ok(None);
    };
    let entries = document_entries(reads, &row.group, join.size).await?;
    Ok(Some(WelcomeDelivery {
        id: row.id,
        group: row.group,
        epoch: row.epoch,
        welcome: join.welcome.to_vec().into(),
        tree: join.tree.to_vec().into(),
        state: JoinState {
            group_state: join.state.to_vec().into(),
            frontier: join.frontier,
            entries,
            wrap: join.wrap,
        },
    }))
}

/// The Welcomes that wait for a device, the oldest first.
///
/// # Errors
/// [`Failure`].
pub async fn waiting<R: Reader>(
    reads: &mut R,
    device: DeviceId,
) -> Result<Vec<WelcomeRow>, Failure> {
    let mut rows = load(reads, |keys| _ = keys.waiting.insert(device)).await?;
    let waiting = rows.waiting.remove(&device).flatten();
    Ok(waiting.unwrap_or_default())
}

/// The wraps of an epoch.
///
/// # Errors
/// [`Failure`].
pub async fn wraps<R: Reader>(
    reads: &mut R,
    group: GroupId,
    epoch: u64,
) -> Result<Vec<RootWrap>, Failure> {
    let key = (group, epoch);
    let mut rows = load(reads, |keys| _ = keys.wraps.insert(key)).await?;
    let wraps = rows.wraps.remove(&key).flatten().unwrap_or_default();
    Ok(wraps.into_values().collect())
}

/// The groups of which a device is a member with no Welcome left to answer.
///
/// # Errors
/// [`Failure`].
pub async fn memberships<R: Reader>(reads: &mut R, device: DeviceId) -> Result<Answer, Failure> {
    let mut rows = load(reads, |keys| _ = keys.memberships.insert(device)).await?;
    let groups = rows.memberships.remove(&device).flatten();
    Ok(Answer::Memberships {
        groups: groups.unwrap_or_default(),
    })
}

/// Whether a device may see the GroupInfo: members, and the devices of a user who is alone in the group, for recovery.
#[must_use]
pub fn may_rejoin(view: &GroupState, by: Asker) -> bool {
    view.is_member(&by.device) || (view.is_alone(&by.user) && !view.is_tombstoned(&by.device))
}

/// GroupInfo, tree and public state of the current epoch. None: there is no such group.
///
/// # Errors
/// [`Failure`].
pub async fn group_info<R: Reader>(
    reads: &mut R,
    core: &PublicGroupState,
) -> Result<Option<Answer>, Failure> {
    let (group, epoch) = (core.state().group, core.state().epoch);
    let wanted = |keys: &mut crate::Keys| {
        keys.groups.insert(group);
        keys.commit_wraps.insert(group);
    };
    let rows = load(reads, wanted).await?;
    if rows.group(&group).map_err(damaged)?.is_none() {
        return Ok(None);
    }
    let wrap = rows.commit_wrap_of(&group).map_err(damaged)?;
    let wrap = wrap.cloned().unwrap_or_else(|| no_wrap(group));
    let end = core.state().head().size;
    let entries = document_entries(reads, &group, end).await?;
    Ok(Some(Answer::GroupInfo {
        epoch,
        group_info: core.group_info().into(),
        tree: core.tree().into(),
        state: core.join_state(wrap, entries),
        pending: core.pending(),
    }))
}

/// Stands for the wrap in a group that has had no commit: nobody signed it.
fn no_wrap(group: GroupId) -> RootWrap {
    RootWrap {
        statement: WrapStatement {
            group,
            epoch: 0,
            commit: Hash::ZERO,
            roster: Hash::ZERO,
            nonce: [0; 24],
            ciphertext: codec::Bytes::default(),
        },
        signer: DeviceId::ZERO,
        signature: [0; 64],
    }
}

/// How far a group's open documents are re-keyed.
///
/// # Errors
/// [`Failure`].
pub async fn status<R: Reader>(reads: &mut R, view: &GroupState) -> Result<Answer, Failure> {
    let open = reads.open_documents(&view.group).await?;
    let documents = open
        .into_iter()
        .map(|(log, row, active)| status_of(log.document, &row, active));
    Ok(Answer::Status(GroupStatus {
        epoch: view.epoch,
        rotating_since: view.rotating_since,
        documents: documents.collect(),
    }))
}

fn status_of(document: DocumentId, row: &DocumentRow, active: ActiveRow) -> DocumentStatus {
    DocumentStatus {
        document,
        due: u8::from(active.due_epoch > 0),
        head: row.frontier.head(),
        first_seq_of_snapshot_epoch: active.epoch_seq,
        snapshot: active.header,
        snapshot_id: active.id,
    }
}
