//! New documents: the entry that lists one and its first snapshot are one transaction.

use std::sync::Arc;

use conclave_order::op::entry::NewEntry;
use conclave_proto::frame::Answer;
use conclave_proto::record::Record;

use super::commit::ask_turn;
use super::{Group, order, stored};
use crate::error::OpError;
use crate::hub::Conn;

/// Creates a document.
pub(crate) async fn create(
    group: &Arc<Group>,
    conn: &Conn,
    entry: Record,
    first: Record,
) -> Result<Answer, OpError> {
    let mut core = group.core().await?;
    if let Some(answer) = stored::known(group, &entry.leaf()).await? {
        core.keep();
        return Ok(answer);
    }
    let version = core.version;
    let now = group.env.clock.now();
    let asked = ask_turn(group, core.state.state(), conn, now);
    let state = &mut core.state;
    match asked.and_then(|()| NewEntry::document(state, version, entry, first, conn.device)) {
        Ok(new) => order(group, conn.asker(), core, new).await,
        Err(refusal) => {
            core.keep();
            Err(refusal.into())
        }
    }
}
