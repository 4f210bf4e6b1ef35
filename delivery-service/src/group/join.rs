//! What members need to enter an epoch: Welcomes and root wraps.

use std::sync::Arc;

use conclave_proto::codec::encode;
use conclave_proto::frame::{Answer, JoinState, ServiceFrame, WelcomeDelivery};
use conclave_proto::group::RootWrap;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, GroupId, Refusal, UserId, limits};
use sqlx::SqliteConnection;

use super::{Group, asks, rows};
use crate::env::Env;
use crate::hub::Conn;
use crate::limits as own_limits;
use crate::store::codes::{decode, id, int, uint};
use crate::store::{OpError, StoreError, accounts};

/// Hands the Welcomes of an epoch to those of the added devices that are connected. The others get them when they connect.
pub(crate) fn announce(group: &Arc<Group>, epoch: u64, added: &[DeviceId]) {
    for device in added {
        for conn in group.env.hub.of_device(device) {
            let env = group.env.clone();
            let group = group.id;
            env.tasks.clone().spawn(async move {
                deliver_logged(&env, &conn, Some((group, epoch))).await;
            });
        }
    }
}

/// Hands a connection every Welcome that its device has not acknowledged.
pub(crate) async fn deliver_all(env: &Env, conn: &Conn) {
    deliver_logged(env, conn, None).await;
}

async fn deliver_logged(env: &Env, conn: &Conn, only: Option<(GroupId, u64)>) {
    if let Err(error) = deliver(env, conn, only).await {
        // Repeated on the next connection.
        let _ = error.into_refusal();
    }
}

async fn deliver(env: &Env, conn: &Conn, only: Option<(GroupId, u64)>) -> Result<(), OpError> {
    let waiting: Vec<(i64, Vec<u8>, i64)> = {
        let mut reads = env.reads.acquire().await?;
        sqlx::query_as("SELECT id, group_id, epoch FROM welcomes WHERE device = ? ORDER BY id")
            .bind(conn.device.as_bytes())
            .fetch_all(&mut *reads)
            .await?
    };
    for (number, group, epoch) in waiting {
        let group = id(&group, GroupId::from_slice)?;
        let epoch = uint(epoch)?;
        if only.is_some_and(|only| only != (group, epoch)) {
            continue;
        }
        let delivery = {
            let mut reads = env.reads.acquire().await?;
            welcome(&mut reads, uint(number)?, group, epoch).await?
        };
        let Some(delivery) = delivery else { continue };
        if !conn
            .outbox
            .send_frame(&ServiceFrame::Welcome(delivery))
            .await
        {
            return Ok(());
        }
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct JoinColumns {
    size: i64,
    frontier: Vec<u8>,
    state: Vec<u8>,
    tree: Vec<u8>,
    wrap: Vec<u8>,
    welcome: Option<Vec<u8>>,
}

async fn welcome(
    reads: &mut SqliteConnection,
    number: u64,
    group: GroupId,
    epoch: u64,
) -> Result<Option<WelcomeDelivery>, StoreError> {
    let row: Option<JoinColumns> = sqlx::query_as(
        "SELECT size, frontier, state, tree, wrap, welcome FROM join_states WHERE group_id = ? AND epoch = ?",
    )
    .bind(group.as_bytes())
    .bind(int(epoch))
    .fetch_optional(&mut *reads)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let Some(welcome) = row.welcome else {
        return Ok(None);
    };
    let entries = rows::document_entries(reads, &group, uint(row.size)?).await?;
    Ok(Some(WelcomeDelivery {
        id: number,
        group,
        epoch,
        welcome: welcome.into(),
        tree: row.tree.into(),
        state: JoinState {
            group_state: row.state.into(),
            frontier: decode("frontier", &row.frontier)?,
            entries,
            wrap: decode("wrap", &row.wrap)?,
        },
    }))
}

/// Forgets a Welcome, and what only it needed. One that is not this device's, or gone already, changes nothing.
pub(crate) async fn acknowledge(
    env: &Env,
    device: DeviceId,
    number: u64,
) -> Result<Answer, Refusal> {
    env.writer
        .call(move |conn| {
            Box::pin(async move {
                let row: Option<(Vec<u8>,)> = sqlx::query_as(
                    "DELETE FROM welcomes WHERE id = ? AND device = ? RETURNING group_id",
                )
                .bind(int(number))
                .bind(device.as_bytes())
                .fetch_optional(&mut *conn)
                .await?;
                if let Some((group,)) = row {
                    let group = id(&group, GroupId::from_slice)?;
                    let epoch = rows::epoch(conn, &group).await?;
                    forget_epochs(conn, &group, epoch).await?;
                }
                Ok(Answer::Done)
            })
        })
        .await
}

/// Drops wraps and join states of epochs before `current` into which nobody is still invited.
pub(crate) async fn forget_epochs(
    conn: &mut SqliteConnection,
    group: &GroupId,
    current: u64,
) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM wraps WHERE group_id = ?1 AND epoch < ?2 AND NOT EXISTS \
         (SELECT 1 FROM welcomes w WHERE w.group_id = wraps.group_id AND w.epoch = wraps.epoch)",
    )
    .bind(group.as_bytes())
    .bind(int(current))
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE FROM join_states WHERE group_id = ?1 AND epoch <= ?2 AND NOT EXISTS \
         (SELECT 1 FROM welcomes w WHERE w.group_id = join_states.group_id AND w.epoch = join_states.epoch)",
    )
    .bind(group.as_bytes())
    .bind(int(current))
    .execute(&mut *conn)
    .await?;
    Ok(())
}

/// Refuses another wrap of a user who has enough in the epoch: one user's devices could take every place. The committer's came first, and
/// does not count. Members and wraps have to be of the current epoch.
async fn check_user_wraps(
    conn: &mut SqliteConnection,
    wrap: &RootWrap,
    user: &UserId,
) -> Result<(), OpError> {
    let (group, epoch) = (&wrap.statement.group, wrap.statement.epoch);
    let (committed,): (Option<Vec<u8>>,) = sqlx::query_as("SELECT wrap FROM groups WHERE id = ?")
        .bind(group.as_bytes())
        .fetch_one(&mut *conn)
        .await?;
    let committer = committed
        .map(|bytes| decode::<RootWrap>("wrap", &bytes))
        .transpose()?
        .map(|wrap| wrap.signer);
    if committer == Some(wrap.signer) {
        return Ok(());
    }
    // A wrap of the same signer is replaced.
    let (count,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM wraps w JOIN members m ON m.group_id = w.group_id AND m.device = w.signer \
         WHERE w.group_id = ?1 AND w.epoch = ?2 AND m.user = ?3 AND w.signer <> ?4 AND w.signer IS NOT ?5",
    )
    .bind(group.as_bytes())
    .bind(int(epoch))
    .bind(user.as_bytes())
    .bind(wrap.signer.as_bytes())
    .bind(committer.as_ref().map(DeviceId::as_bytes))
    .fetch_one(&mut *conn)
    .await?;
    let max = own_limits::WRAPS_PER_USER;
    if uint(count)? >= max {
        return Err(Refusal::TooLarge { max }.into());
    }
    Ok(())
}

/// Stores a wrap of the current epoch. A signer has one, so that a bad one displaces nobody else's.
pub(crate) async fn put_wrap(conn: &mut SqliteConnection, wrap: &RootWrap) -> Result<(), OpError> {
    let statement = &wrap.statement;
    sqlx::query("INSERT OR REPLACE INTO wraps (group_id, epoch, signer, wrap) VALUES (?, ?, ?, ?)")
        .bind(statement.group.as_bytes())
        .bind(int(statement.epoch))
        .bind(wrap.signer.as_bytes())
        .bind(encode(wrap))
        .execute(&mut *conn)
        .await?;
    let (count,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM wraps WHERE group_id = ? AND epoch = ?")
            .bind(statement.group.as_bytes())
            .bind(int(statement.epoch))
            .fetch_one(&mut *conn)
            .await?;
    if uint(count)? > limits::WRAPS_PER_EPOCH as u64 {
        return Err(Refusal::TooLarge {
            max: limits::WRAPS_PER_EPOCH as u64,
        }
        .into());
    }
    Ok(())
}

/// Takes a member's wrap for the current epoch.
pub(crate) async fn offer_wrap(
    group: &Group,
    conn: &Conn,
    wrap: RootWrap,
) -> Result<Answer, OpError> {
    let view = group.view();
    if !view.is_member(&conn.device) {
        return Err(view.not_member(&conn.device).into());
    }
    if wrap.signer != conn.device {
        return Err(Refusal::Forbidden {
            why: ForbiddenWhy::NotYours,
        }
        .into());
    }
    if wrap.statement.epoch != view.epoch {
        return Err(Refusal::StaleEpoch {
            current: view.epoch,
        }
        .into());
    }
    view.judge_wrap(&wrap)
        .map_err(|fault| Refusal::BadCommit { fault })?;
    let (device, user) = (conn.device, conn.user);
    let answer = group
        .env
        .writer
        .call(move |conn| {
            Box::pin(async move {
                accounts::ensure_active(conn, &device).await?;
                let current = rows::epoch(conn, &wrap.statement.group).await?;
                if current != wrap.statement.epoch {
                    return Err(Refusal::StaleEpoch { current }.into());
                }
                check_user_wraps(conn, &wrap, &user).await?;
                put_wrap(conn, &wrap).await?;
                asks::wrapped(conn, &wrap.statement.group, &device).await?;
                Ok(Answer::Done)
            })
        })
        .await?;
    Ok(answer)
}

/// The wraps of an epoch.
pub(crate) async fn wraps(group: &Group, epoch: u64) -> Result<Answer, OpError> {
    let mut reads = group.env.reads.acquire().await?;
    let rows: Vec<(Vec<u8>,)> =
        sqlx::query_as("SELECT wrap FROM wraps WHERE group_id = ? AND epoch = ? ORDER BY signer")
            .bind(group.id.as_bytes())
            .bind(int(epoch))
            .fetch_all(&mut *reads)
            .await?;
    let wraps = rows
        .iter()
        .map(|(wrap,)| decode("wrap", wrap))
        .collect::<Result<Vec<RootWrap>, StoreError>>()?;
    Ok(Answer::Wraps { wraps })
}

/// The groups of which a device is a member with no Welcome left to answer.
pub(crate) async fn memberships(env: &Env, device: DeviceId) -> Result<Answer, OpError> {
    let mut reads = env.reads.acquire().await?;
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as(
        "SELECT group_id FROM members m WHERE device = ? AND NOT EXISTS \
         (SELECT 1 FROM welcomes w WHERE w.device = m.device AND w.group_id = m.group_id) ORDER BY group_id",
    )
    .bind(device.as_bytes())
    .fetch_all(&mut *reads)
    .await?;
    let groups = rows
        .iter()
        .map(|(group,)| id(group, GroupId::from_slice))
        .collect::<Result<_, StoreError>>()?;
    Ok(Answer::Memberships { groups })
}
