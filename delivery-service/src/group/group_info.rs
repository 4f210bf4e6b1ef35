//! The GroupInfo of the current epoch: with it a device comes back by an external commit.

use conclave_proto::frame::Answer;
use conclave_proto::group::{RootWrap, WrapStatement};
use conclave_proto::{DeviceId, GroupId, Hash, Refusal, UserId};
use sqlx::SqliteConnection;

use super::{Group, rows};
use crate::hub::Conn;
use crate::store::codes::{decode, int};
use crate::store::{OpError, StoreError, accounts};

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
    let mut reads = group.env.reads.acquire().await?;
    let (wrap,): (Option<Vec<u8>>,) = sqlx::query_as("SELECT wrap FROM groups WHERE id = ?")
        .bind(group.id.as_bytes())
        .fetch_one(&mut *reads)
        .await?;
    let wrap = match wrap {
        Some(wrap) => decode("wrap", &wrap)?,
        None => no_wrap(group.id),
    };
    let end = core.state.state().head().size;
    let entries = rows::document_entries(&mut reads, &group.id, end).await?;
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

/// A GroupInfo to store, for the position of the log that it was judged at.
struct NewGroupInfo {
    group: GroupId,
    epoch: u64,
    size: u64,
    group_info: Vec<u8>,
    checkpoint: Vec<u8>,
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
    let new = NewGroupInfo {
        group: group.id,
        epoch: state.epoch,
        size: state.head().size,
        group_info: group_info.to_vec(),
        checkpoint: core.state.checkpoint(),
    };
    let device = conn.device;
    let answer = group
        .env
        .writer
        .call(move |conn| {
            Box::pin(async move {
                accounts::ensure_active(conn, &device).await?;
                store(conn, &new).await?;
                Ok(Answer::Done)
            })
        })
        .await?;
    core.keep();
    Ok(answer)
}

async fn store(conn: &mut SqliteConnection, new: &NewGroupInfo) -> Result<(), OpError> {
    let stored = sqlx::query(
        "UPDATE groups SET group_info = ?, checkpoint = ?, checkpoint_sum = ? WHERE id = ? AND epoch = ? AND size = ?",
    )
    .bind(&new.group_info)
    .bind(&new.checkpoint)
    .bind(rows::checkpoint_sum(&new.checkpoint))
    .bind(new.group.as_bytes())
    .bind(int(new.epoch))
    .bind(int(new.size))
    .execute(&mut *conn)
    .await
    .map_err(StoreError::from)?;
    if stored.rows_affected() == 1 {
        return Ok(());
    }
    let current = rows::epoch(conn, &new.group).await?;
    Err(Refusal::StaleEpoch { current }.into())
}
