//! Standalone proposals and signed entries.

use std::sync::Arc;

use conclave_proto::frame::Answer;
use conclave_proto::group::GroupEntry;
use conclave_proto::record::{EntryBody, Record};
use conclave_proto::refusal::CommitFault;
use conclave_proto::{DeviceId, GroupId, Refusal, limits};
use conclave_rules::EntryEffect;
use sqlx::SqliteConnection;

use super::rows::{self, NewEntry};
use super::{CoreGuard, Group};
use crate::hub::Conn;
use crate::store::codes::int;
use crate::store::{OpError, StoreError, accounts};

/// Orders a standalone proposal.
pub(crate) async fn propose(
    group: &Arc<Group>,
    conn: &Conn,
    message: &[u8],
) -> Result<Answer, OpError> {
    if message.len() > limits::MLS_MESSAGE_BYTES {
        return Err(Refusal::BadCommit {
            fault: CommitFault::Limit,
        }
        .into());
    }
    let mut core = group.core().await?;
    let leaf = GroupEntry::Proposal(message.into()).leaf();
    if let Some(answer) = known(group, &leaf).await? {
        core.keep();
        return Ok(answer);
    }
    let judged = match core.state.judge_proposal(message, conn.device) {
        Ok(judged) => judged,
        Err(refusal) => {
            core.keep();
            return Err(refusal.into());
        }
    };
    let before = core.state.state().head();
    let epoch = core.state.state().epoch;
    let entry = judged.entry.clone();
    core.state.apply_proposal(judged)?;
    let next = Arc::new(core.state.state().clone());
    let checkpoint = core.state.checkpoint();
    let new = NewEntry {
        group: group.id,
        epoch,
        size: before.size,
        entry,
        head: next.head(),
    };
    let answer = Answer::Accepted {
        seq: new.size,
        head: new.head,
    };
    let (published, entry, device) = (group.clone(), new.entry.clone(), conn.device);
    group
        .env
        .writer
        .call_then(
            move |conn| {
                Box::pin(async move {
                    append(conn, &new, &device).await?;
                    rows::put_checkpoint(conn, &new.group, &checkpoint).await?;
                    Ok(())
                })
            },
            move |()| published.publish(next, &entry, &[]),
        )
        .await?;
    core.keep();
    Ok(answer)
}

/// The answer that an entry got when it was first accepted.
pub(super) async fn known(
    group: &Group,
    leaf: &conclave_proto::Hash,
) -> Result<Option<Answer>, StoreError> {
    let mut reads = group.env.reads.acquire().await?;
    let place = rows::position_of(&mut reads, &group.id, leaf).await?;
    Ok(place.map(|(seq, head)| Answer::Accepted { seq, head }))
}

/// Appends an entry of a member, if the group is still where it was judged.
pub(super) async fn append(
    conn: &mut SqliteConnection,
    new: &NewEntry,
    device: &DeviceId,
) -> Result<(), OpError> {
    accounts::ensure_active(conn, device).await?;
    if new.append(conn, new.epoch).await? {
        return Ok(());
    }
    let current = rows::epoch(conn, &new.group).await?;
    Err(Refusal::StaleEpoch { current }.into())
}

/// A judged entry with what it leads to.
pub(super) struct Judged {
    pub(super) new: NewEntry,
    pub(super) next: Arc<conclave_rules::GroupState>,
}

/// Judges a signed entry and advances the core by it.
pub(super) fn judge(
    group: &Group,
    core: &mut CoreGuard<'_>,
    conn: &Conn,
    entry: Record,
) -> Result<Judged, Refusal> {
    let effect: EntryEffect = core.state.judge_entry(&entry, conn.device)?;
    let epoch = core.state.state().epoch;
    let size = core.state.state().head().size;
    core.state.apply_entry(&effect);
    let next = Arc::new(core.state.state().clone());
    let entry = GroupEntry::Signed(entry);
    let new = NewEntry {
        group: group.id,
        epoch,
        size,
        entry,
        head: next.head(),
    };
    Ok(Judged { new, next })
}

/// Orders a signed entry that closes, voids or completes. Creating a document needs its first snapshot too.
pub(crate) async fn put(group: &Arc<Group>, conn: &Conn, entry: Record) -> Result<Answer, OpError> {
    let conclave_proto::RecordBody::Entry(body) = entry.header.body else {
        return Err(Refusal::Malformed.into());
    };
    if matches!(body, EntryBody::DocumentCreated { .. }) {
        return Err(Refusal::Malformed.into());
    }
    let mut core = group.core().await?;
    if let Some(answer) = known(group, &entry.leaf()).await? {
        core.keep();
        return Ok(answer);
    }
    let judged = match judge(group, &mut core, conn, entry) {
        Ok(judged) => judged,
        Err(refusal) => {
            core.keep();
            return Err(refusal.into());
        }
    };
    let Judged { new, next } = judged;
    let answer = Answer::Accepted {
        seq: new.size,
        head: new.head,
    };
    let (published, entry, device) = (group.clone(), new.entry.clone(), conn.device);
    group
        .env
        .writer
        .call_then(
            move |conn| {
                Box::pin(async move {
                    append(conn, &new, &device).await?;
                    take_effect(conn, &new.group, &body).await
                })
            },
            move |()| published.publish(next, &entry, &[]),
        )
        .await?;
    core.keep();
    Ok(answer)
}

/// What an entry does to the documents.
async fn take_effect(
    conn: &mut SqliteConnection,
    group: &GroupId,
    body: &EntryBody,
) -> Result<(), OpError> {
    match body {
        EntryBody::DocumentClosed { document, reason } => {
            sqlx::query(
                "UPDATE documents SET closed = ?, due_epoch = 0 WHERE group_id = ? AND document = ?",
            )
            .bind(i64::from(*reason as u8))
            .bind(group.as_bytes())
            .bind(document.as_bytes())
            .execute(&mut *conn)
            .await?;
            Ok(())
        }
        EntryBody::RotationComplete { epoch } => {
            let (due,): (i64,) = sqlx::query_as(
                "SELECT count(*) FROM documents WHERE group_id = ? AND due_epoch > 0 AND due_epoch <= ? AND closed IS NULL",
            )
            .bind(group.as_bytes())
            .bind(int(*epoch))
            .fetch_one(&mut *conn)
            .await?;
            if due > 0 {
                return Err(Refusal::SnapshotRequired.into());
            }
            Ok(())
        }
        EntryBody::DocumentCreated { .. } | EntryBody::RecordVoided { .. } => Ok(()),
    }
}
