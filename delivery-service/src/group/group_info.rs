//! The GroupInfo of the current epoch: with it a device comes back by an external commit.

use conclave_order::op::group::PutGroupInfo;
use conclave_order::rows::GroupAt;
use conclave_order::{Keys, Op, Reader};
use conclave_proto::frame::Answer;
use conclave_proto::group::{RootWrap, WrapStatement};
use conclave_proto::{DeviceId, GroupId, Hash, Refusal, UserId};

use super::{Group, stored};
use crate::error::OpError;
use crate::hub::Conn;

/// Whether a device may see the GroupInfo: members, and the devices of a user who is alone in the group, for recovery.
fn may_rejoin(group: &Group, device: &DeviceId, user: &UserId) -> bool {
    let view = group.view();
    view.is_member(device) || (view.is_alone(user) && !view.is_tombstoned(device))
}

/// GroupInfo, tree and public state of the current epoch.
pub(crate) async fn get(group: &Group, conn: &Conn) -> Result<Answer, OpError> {
    if !may_rejoin(group, &conn.device, &conn.user) {
        return Err(Refusal::UnknownGroup.into());
    }
    // The core is what is stored while nobody else has it.
    let core = group.core().await?;
    let mut keys = Keys::default();
    keys.checkpoints.insert(group.id);
    let mut reads = group.env.reads.acquire().await?;
    let rows = reads.load(&keys).await?;
    let row = rows.checkpoint(&group.id)?.ok_or(Refusal::UnknownGroup)?;
    let wrap = row.wrap.clone().unwrap_or_else(|| no_wrap(group.id));
    let end = core.state.state().head().size;
    let entries = stored::document_entries(&mut reads, &group.id, end).await?;
    let answer = Answer::GroupInfo {
        epoch: core.state.state().epoch,
        group_info: core.state.group_info().into(),
        tree: core.state.tree().into(),
        state: core.state.join_state(wrap, entries),
    };
    core.keep();
    Ok(answer)
}

/// Stands for the wrap in a group that has had no commit: nobody signed it.
fn no_wrap(group: GroupId) -> RootWrap {
    RootWrap {
        statement: WrapStatement {
            group,
            epoch: 0,
            commit: Hash::ZERO,
            roster: Hash::ZERO,
            nonce: [0; 24],
            ciphertext: conclave_proto::codec::Bytes::default(),
        },
        signer: DeviceId::ZERO,
        signature: [0; 64],
    }
}

/// Takes a member's GroupInfo in place of the stored one.
pub(crate) async fn replace(
    group: &Group,
    conn: &Conn,
    group_info: &[u8],
) -> Result<Answer, OpError> {
    group.for_member(&conn.device)?;
    let mut core = group.core().await?;
    if core.state.group_info() == group_info {
        core.keep();
        return Ok(Answer::Done);
    }
    if let Err(refusal) = core.state.replace_group_info(conn.device, group_info) {
        core.keep();
        return Err(refusal.into());
    }
    let state = core.state.state();
    let op = PutGroupInfo {
        group: group.id,
        device: conn.device,
        expected: GroupAt {
            epoch: state.epoch,
            size: state.frontier.size(),
            version: core.version,
        },
        group_info: group_info.to_vec().into(),
        checkpoint: core.state.checkpoint().into(),
    };
    group.env.writer.ask(Op::PutGroupInfo(op)).await?;
    core.version = core.version.saturating_add(1);
    group.show(group.view(), core.version);
    core.keep();
    Ok(Answer::Done)
}
