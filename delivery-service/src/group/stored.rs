//! Reading what is stored of groups.

use conclave_mls::PublicGroupState;
use conclave_order::rows::{EntryRow, Position};
use conclave_order::{Bounds, Keys, Reader, Rows};
use conclave_proto::frame::Answer;
use conclave_proto::group::GroupEntry;
use conclave_proto::record::{EntryBody, Record, RecordBody};
use conclave_proto::{GroupId, Hash, Refusal, codec};

use super::{Core, Group};
use crate::env::Env;
use crate::error::OpError;
use crate::limits;
use crate::sqlite::{Read, StoreError};

const DAMAGED: StoreError = StoreError::Corrupt { what: "group" };

/// Reads a group's public state: its checkpoint, and the signed entries after it.
pub(super) async fn restore(env: &Env, group: GroupId) -> Result<Core, OpError> {
    let mut keys = Keys::default();
    keys.checkpoints.insert(group);
    let mut reads = env.reads.acquire().await?;
    let rows = reads.load(&keys).await?;
    let row = rows.checkpoint(&group)?.ok_or(Refusal::UnknownGroup)?;
    let version = row.version;
    let mut state = PublicGroupState::restore(&row.checkpoint).map_err(|_| DAMAGED)?;
    let mut next = state.state().frontier.size();
    loop {
        let entries = entries(&mut reads, &group, next, u64::MAX).await?;
        if entries.is_empty() {
            return Ok(Core { state, version });
        }
        for entry in entries {
            let GroupEntry::Signed(record) = entry else {
                return Err(DAMAGED.into());
            };
            let device = record.header.author.device;
            let effect = state.judge_entry(&record, device).map_err(|_| DAMAGED)?;
            state.apply_entry(&effect);
            next = next.saturating_add(1);
        }
    }
}

fn entry(row: &EntryRow) -> Result<GroupEntry, StoreError> {
    codec::decode("log entry", &row.bytes, usize::MAX)
        .map_err(|_| StoreError::Corrupt { what: "log entry" })
}

/// Reads the log: from `from` on, before `end`, and no further than [`limits::BACKLOG_BYTES`] after at least one entry.
pub(super) async fn entries(
    reads: &mut Read,
    group: &GroupId,
    from: u64,
    end: u64,
) -> Result<Vec<GroupEntry>, StoreError> {
    let bounds = Bounds {
        from,
        end,
        bytes: limits::BACKLOG_BYTES,
    };
    let rows = reads.entries(group, bounds).await?;
    rows.iter().map(entry).collect()
}

/// The signed entries before `end` that created, closed and voided, in the order of the log.
pub(super) async fn document_entries(
    reads: &mut Read,
    group: &GroupId,
    end: u64,
) -> Result<Vec<Record>, StoreError> {
    let mut records = Vec::new();
    for row in reads.signed_entries(group, end).await? {
        let GroupEntry::Signed(record) = entry(&row)? else {
            return Err(StoreError::Corrupt { what: "log entry" });
        };
        let done = matches!(
            record.header.body,
            RecordBody::Entry(EntryBody::RotationComplete { .. })
        );
        if !done {
            records.push(record);
        }
    }
    Ok(records)
}

/// The answer that an entry got when it was first accepted.
pub(super) async fn known(group: &Group, leaf: &Hash) -> Result<Option<Answer>, OpError> {
    let key = (group.id, *leaf);
    let mut keys = Keys::default();
    keys.entries.insert(key);
    let mut rows = Rows::default();
    group.env.load(&keys, &mut rows).await?;
    let place = rows.entry(&key)?;
    Ok(place.map(|Position { seq, head }| Answer::Accepted {
        seq: *seq,
        head: *head,
    }))
}
