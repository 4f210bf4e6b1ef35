//! New groups.

use std::sync::Arc;

use conclave_mls::{PublicGroupState, check_founded};
use conclave_proto::frame::Answer;
use conclave_proto::hash::labelled;
use conclave_proto::refusal::{CommitFault, ForbiddenWhy};
use conclave_proto::{Hash, Head, Refusal, UnixMs, UserId, limits};
use conclave_rules::GroupState;
use sqlx::SqliteConnection;

use super::commit::insert_member;
use super::rows;
use crate::env::Env;
use crate::hub::Conn;
use crate::store::codes::hash;
use crate::store::{OpError, accounts};

struct NewGroup {
    state: GroupState,
    creator: Arc<Conn>,
    user: UserId,
    group_info: Vec<u8>,
    checkpoint: Vec<u8>,
    genesis: Hash,
    now: UnixMs,
}

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
    let new = NewGroup {
        user,
        creator: conn.clone(),
        group_info: group_info.to_vec(),
        checkpoint: core.checkpoint(),
        genesis: labelled(
            "conclave 1.0 group genesis",
            &[group_info, tree, &founded.0.to_be_bytes()],
        ),
        now: env.clock.now(),
        state,
    };
    env.writer
        .call(move |conn| Box::pin(async move { store(conn, &new).await }))
        .await?;
    Ok(Answer::Accepted {
        seq: 0,
        head: Head::EMPTY,
    })
}

async fn store(conn: &mut SqliteConnection, new: &NewGroup) -> Result<(), OpError> {
    let device = new.creator.device;
    accounts::ensure_active(conn, &device).await?;
    let group = new.state.group;
    let known: Option<(Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT genesis, creator FROM groups WHERE id = ?")
            .bind(group.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    if let Some((genesis, creator)) = known {
        return if hash(&genesis)? == new.genesis && creator == device.as_bytes() {
            Ok(())
        } else {
            Err(Refusal::AlreadyExists.into())
        };
    }
    check_founded(new.state.last_time, new.now)?;
    sqlx::query(
        "INSERT INTO groups (id, epoch, size, root, group_info, checkpoint, checkpoint_sum, genesis, creator) \
         VALUES (?, 0, 0, ?, ?, ?, ?, ?, ?)",
    )
    .bind(group.as_bytes())
    .bind(new.state.head().root.as_bytes())
    .bind(&new.group_info)
    .bind(&new.checkpoint)
    .bind(rows::checkpoint_sum(&new.checkpoint))
    .bind(new.genesis.as_bytes())
    .bind(device.as_bytes())
    .execute(&mut *conn)
    .await?;
    insert_member(conn, &group, &device, &new.user).await?;
    Ok(())
}
