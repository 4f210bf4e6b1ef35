//! Standalone proposals and signed entries.

use std::sync::Arc;

use conclave_order::op::entry::{Does, NewEntry};
use conclave_proto::frame::Answer;
use conclave_proto::group::GroupEntry;
use conclave_proto::record::{EntryBody, Record};
use conclave_proto::refusal::CommitFault;
use conclave_proto::{Refusal, limits};

use super::{CoreGuard, Group, Moves, order, stored};
use crate::error::OpError;
use crate::hub::Conn;

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
    if let Some(answer) = stored::known(group, &leaf).await? {
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
    let version = core.version;
    let new = NewEntry::of_proposal(&mut core.state, version, judged, conn.device)?;
    order(group, core, new, Moves::default()).await
}

/// Judges a signed entry and advances the core by it.
pub(super) fn judge(
    core: &mut CoreGuard<'_>,
    conn: &Conn,
    entry: Record,
    does: Does,
) -> Result<NewEntry, Refusal> {
    let version = core.version;
    NewEntry::of_signed(&mut core.state, version, entry, does, conn.device)
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
    if let Some(answer) = stored::known(group, &entry.leaf()).await? {
        core.keep();
        return Ok(answer);
    }
    match judge(&mut core, conn, entry, Does::Put) {
        Ok(new) => order(group, core, new, Moves::default()).await,
        Err(refusal) => {
            core.keep();
            Err(refusal.into())
        }
    }
}
