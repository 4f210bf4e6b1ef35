//! The GroupInfo of the current epoch: with it a device comes back by an external commit.

use conclave_order::Op;
use conclave_order::op::group::PutGroupInfo;
use conclave_order::query::group::{group_info, may_rejoin};
use conclave_proto::Refusal;
use conclave_proto::frame::Answer;

use super::Group;
use crate::error::OpError;
use crate::hub::Conn;

/// GroupInfo, tree and public state of the current epoch.
pub(crate) async fn get(group: &Group, conn: &Conn) -> Result<Answer, OpError> {
    if !may_rejoin(&group.view(), conn.asker()) {
        return Err(Refusal::UnknownGroup.into());
    }
    // The core is what is stored while nobody else has it.
    let core = group.core().await?;
    let mut reads = group.env.reads.acquire().await?;
    let answer = group_info(&mut reads, &core.state).await?;
    core.keep();
    Ok(answer.ok_or(Refusal::UnknownGroup)?)
}

/// Takes a member's GroupInfo in place of the stored one.
pub(crate) async fn replace(
    group: &Group,
    conn: &Conn,
    group_info: &[u8],
) -> Result<Answer, OpError> {
    group.for_member(&conn.device)?;
    let mut core = group.core().await?;
    let version = core.version;
    match PutGroupInfo::judge(&mut core.state, version, conn.device, group_info) {
        Ok(Some(op)) => {
            let asked = conn.asker().asks(Op::PutGroupInfo(op));
            group.env.writer.ask(asked).await?;
            core.version = version.saturating_add(1);
            group.show(group.view(), core.version);
        }
        Ok(None) => {}
        Err(refusal) => {
            core.keep();
            return Err(refusal.into());
        }
    }
    core.keep();
    Ok(Answer::Done)
}
