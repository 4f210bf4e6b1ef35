//! Groups that a member brings.

use std::sync::Arc;

use conclave_mls::Adoption;
use conclave_order::op::adopt::AdoptGroup;
use conclave_order::{Keys, Op, Rows};
use conclave_proto::codec::Bytes;
use conclave_proto::frame::{Answer, JoinState};
use conclave_proto::{DeviceId, GroupId};

use crate::env::Env;
use crate::error::OpError;
use crate::hub::Conn;

/// A group as a member brings it.
pub(crate) struct Brought {
    pub(crate) group: GroupId,
    pub(crate) group_info: Bytes,
    pub(crate) tree: Bytes,
    pub(crate) state: JoinState,
    pub(crate) pending: Vec<Bytes>,
}

impl Brought {
    fn offer(&self, sender: DeviceId) -> Adoption<'_> {
        Adoption {
            group: self.group,
            sender,
            group_info: self.group_info.as_slice(),
            tree: self.tree.as_slice(),
            state: &self.state,
            pending: &self.pending,
        }
    }
}

/// Takes up a group that is not here. The same offer again is accepted again.
pub(crate) async fn adopt(
    env: &Arc<Env>,
    conn: &Conn,
    brought: Brought,
) -> Result<Answer, OpError> {
    let offer = brought.offer(conn.device);
    let mut keys = Keys::default();
    AdoptGroup::needs(&offer, &mut keys);
    let mut rows = Rows::default();
    env.load(&keys, &mut rows).await?;
    // Before anything is judged of a group that is here.
    if AdoptGroup::is_known(&offer, &rows)? {
        return Ok(Answer::Done);
    }
    let (by, now) = (conn.asker(), env.clock.now());
    let generation = env.heads.standing().generation.number;
    let judge = move || AdoptGroup::judge(by, &brought.offer(by.device), generation, now);
    let op = env.apart.turn(by.user).await.judge(judge).await??;
    let asked = conn.asker().asks(Op::AdoptGroup(Box::new(op)));
    env.writer.ask(asked).await?;
    Ok(Answer::Done)
}
