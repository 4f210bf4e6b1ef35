//! New groups.

use std::sync::Arc;

use conclave_mls::PublicGroupState;
use conclave_order::Op;
use conclave_order::op::group::CreateGroup;
use conclave_proto::frame::Answer;
use conclave_proto::hash::labelled;
use conclave_proto::refusal::{CommitFault, ForbiddenWhy};
use conclave_proto::{Head, Refusal, UnixMs, limits};

use crate::env::Env;
use crate::error::OpError;
use crate::hub::Conn;

/// Takes up a new group. The same offer again is accepted again, however long ago it was founded.
pub(crate) async fn create(
    env: &Arc<Env>,
    conn: &Arc<Conn>,
    group_info: &[u8],
    tree: &[u8],
    founded: UnixMs,
) -> Result<Answer, OpError> {
    if group_info.len().max(tree.len()) > limits::MLS_MESSAGE_BYTES {
        return Err(Refusal::BadCommit {
            fault: CommitFault::Limit,
        }
        .into());
    }
    let (core, state) = PublicGroupState::create(group_info, tree, conn.device, founded)?;
    let creator = state.roster.current_row(&conn.device).map(|row| row.user);
    let Some(user) = creator.filter(|user| *user == conn.user) else {
        return Err(Refusal::Forbidden {
            why: ForbiddenWhy::NotYours,
        }
        .into());
    };
    let op = CreateGroup {
        group: state.group,
        device: conn.device,
        user,
        genesis: labelled(
            "conclave 1.0 group genesis",
            &[group_info, tree, &founded.0.to_be_bytes()],
        ),
        root: state.head().root,
        checkpoint: core.checkpoint().into(),
        group_info: group_info.to_vec().into(),
        founded: state.last_time,
        now: env.clock.now(),
    };
    env.writer.ask(Op::CreateGroup(Box::new(op))).await?;
    Ok(Answer::Accepted {
        seq: 0,
        head: Head::EMPTY,
    })
}
