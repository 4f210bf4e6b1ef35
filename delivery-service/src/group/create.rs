//! New groups.

use std::sync::Arc;

use conclave_order::Op;
use conclave_order::op::group::CreateGroup;
use conclave_proto::frame::Answer;
use conclave_proto::{Head, UnixMs};

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
    let op = CreateGroup::judge(conn.asker(), (group_info, tree), founded, env.clock.now())?;
    let asked = conn.asker().asks(Op::CreateGroup(Box::new(op)));
    env.writer.ask(asked).await?;
    Ok(Answer::Accepted {
        seq: 0,
        head: Head::EMPTY,
    })
}
