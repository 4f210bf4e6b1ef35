//! Groups that a member brings.

use std::sync::Arc;

use conclave_mls::Adoption;
use conclave_order::op::adopt::AdoptGroup;
use conclave_order::{Keys, Op, Rows};
use conclave_proto::frame::Answer;

use crate::env::Env;
use crate::error::OpError;
use crate::hub::Conn;

/// Takes up a group that is not here. The same offer again is accepted again.
pub(crate) async fn adopt(
    env: &Arc<Env>,
    conn: &Conn,
    offer: &Adoption<'_>,
) -> Result<Answer, OpError> {
    let mut keys = Keys::default();
    AdoptGroup::needs(offer, &mut keys);
    let mut rows = Rows::default();
    env.load(&keys, &mut rows).await?;
    // Before anything is judged of a group that is here.
    if AdoptGroup::is_known(offer, &rows)? {
        return Ok(Answer::Done);
    }
    let op = AdoptGroup::judge(conn.asker(), offer, env.clock.now())?;
    let asked = conn.asker().asks(Op::AdoptGroup(Box::new(op)));
    env.writer.ask(asked).await?;
    Ok(Answer::Done)
}
