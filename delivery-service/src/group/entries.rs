//! Standalone proposals and signed entries.

use std::sync::Arc;

use conclave_order::op::enter::check_kind;
use conclave_order::op::entry::NewEntry;
use conclave_proto::UserId;
use conclave_proto::frame::Answer;
use conclave_proto::group::GroupEntry;
use conclave_proto::record::{EntryBody, Record, RecordBody};

use super::commit::ask_turn;
use super::{Group, order, stored};
use crate::error::OpError;
use crate::hub::Conn;

/// Orders a standalone proposal.
pub(crate) async fn propose(
    group: &Arc<Group>,
    conn: &Conn,
    message: &[u8],
) -> Result<Answer, OpError> {
    let mut core = group.core().await?;
    let leaf = GroupEntry::Proposal(message.into()).leaf();
    if let Some(answer) = stored::known(group, &leaf).await? {
        core.keep();
        return Ok(answer);
    }
    let version = core.version;
    let now = group.env.clock.now();
    let asked = ask_turn(group, core.state.state(), conn, now);
    match asked.and_then(|()| NewEntry::proposal(&mut core.state, version, message, conn.device)) {
        Ok(new) => order(group, conn.asker(), core, new).await,
        Err(refusal) => {
            core.keep();
            Err(refusal.into())
        }
    }
}

/// Orders a signed entry that closes, voids or completes. Creating a document needs its first snapshot too.
pub(crate) async fn put(group: &Arc<Group>, conn: &Conn, entry: Record) -> Result<Answer, OpError> {
    check_kind(&entry)?;
    let mut core = group.core().await?;
    if let Some(answer) = stored::known(group, &entry.leaf()).await? {
        core.keep();
        return Ok(answer);
    }
    let version = core.version;
    let now = group.env.clock.now();
    // Each holds the group's log while it is made durable: a turn would be over before its commit is looked at.
    let asked = ask_turn(group, core.state.state(), conn, now);
    // Records that are void stay so in everybody's state: each user declares them at a pace.
    let voids = is_void(&entry);
    let user = core.state.state().roster.current_row(&conn.device);
    let key = (group.id, user.map_or(UserId::ZERO, |row| row.user));
    let asked = asked.and_then(|()| match voids {
        true => group.env.voids.has(key, 1, now),
        false => Ok(()),
    });
    match asked.and_then(|()| NewEntry::signed(&mut core.state, version, entry, conn.device)) {
        Ok(new) => {
            if voids {
                group.env.voids.take(key, 1, now)?;
            }
            order(group, conn.asker(), core, new).await
        }
        Err(refusal) => {
            core.keep();
            Err(refusal.into())
        }
    }
}

/// Whether an entry declares a record void.
fn is_void(entry: &Record) -> bool {
    let body = &entry.header.body;
    matches!(body, RecordBody::Entry(EntryBody::RecordVoided { .. }))
}
