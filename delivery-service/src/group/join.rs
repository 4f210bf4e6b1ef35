//! What members need to enter an epoch: Welcomes and root wraps.

use std::sync::Arc;

use conclave_order::op::help::{AckWelcome, PutWrap};
use conclave_order::rows::WelcomeRow;
use conclave_order::{Keys, Op, Reader, Rows};
use conclave_proto::frame::{Answer, JoinState, ServiceFrame, WelcomeDelivery};
use conclave_proto::group::RootWrap;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, GroupId, Refusal};

use super::{Group, stored};
use crate::env::Env;
use crate::error::OpError;
use crate::hub::Conn;

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

/// Hands all Welcomes that wait to those of these devices that are connected.
pub(crate) fn announce_all(group: &Group, added: &[DeviceId]) {
    for device in added {
        for conn in group.env.hub.of_device(device) {
            let env = group.env.clone();
            let task = async move { deliver_all(&env, &conn).await };
            group.env.tasks.spawn(task);
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
    let mut keys = Keys::default();
    keys.waiting.insert(conn.device);
    let mut rows = Rows::default();
    env.load(&keys, &mut rows).await?;
    for row in rows.waiting_for(&conn.device)?.into_iter().flatten() {
        if only.is_some_and(|only| only != (row.group, row.epoch)) {
            continue;
        }
        let Some(delivery) = welcome(env, row).await? else {
            continue;
        };
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

async fn welcome(env: &Env, row: &WelcomeRow) -> Result<Option<WelcomeDelivery>, OpError> {
    let key = (row.group, row.epoch);
    let mut keys = Keys::default();
    keys.joins.insert(key);
    let mut reads = env.reads.acquire().await?;
    let mut rows = reads.load(&keys).await?;
    let Some(join) = rows.joins.remove(&key).flatten() else {
        return Ok(None);
    };
    let entries = stored::document_entries(&mut reads, &row.group, join.size).await?;
    Ok(Some(WelcomeDelivery {
        id: row.id,
        group: row.group,
        epoch: row.epoch,
        welcome: join.welcome.to_vec().into(),
        tree: join.tree.to_vec().into(),
        state: JoinState {
            group_state: join.state.to_vec().into(),
            frontier: join.frontier,
            entries,
            wrap: join.wrap,
        },
    }))
}

/// Forgets a Welcome, and what only it needed. One that is not this device's, or gone already, changes nothing.
pub(crate) async fn acknowledge(
    env: &Env,
    device: DeviceId,
    number: u64,
) -> Result<Answer, Refusal> {
    let id = number;
    let op = AckWelcome { device, id };
    env.writer.ask(Op::AckWelcome(op)).await?;
    Ok(Answer::Done)
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
    let own = view.current_rows().filter(|row| row.user == conn.user);
    let siblings = own.map(|row| row.device).collect();
    let op = PutWrap { wrap, siblings };
    group.env.writer.ask(Op::PutWrap(op)).await?;
    Ok(Answer::Done)
}

/// The wraps of an epoch.
pub(crate) async fn wraps(group: &Group, epoch: u64) -> Result<Answer, OpError> {
    let key = (group.id, epoch);
    let mut keys = Keys::default();
    keys.wraps.insert(key);
    let mut rows = Rows::default();
    group.env.load(&keys, &mut rows).await?;
    let wraps = rows.wraps.remove(&key).flatten().unwrap_or_default();
    Ok(Answer::Wraps {
        wraps: wraps.into_values().collect(),
    })
}

/// The groups of which a device is a member with no Welcome left to answer.
pub(crate) async fn memberships(env: &Env, device: DeviceId) -> Result<Answer, OpError> {
    let mut keys = Keys::default();
    keys.memberships.insert(device);
    let mut rows = Rows::default();
    env.load(&keys, &mut rows).await?;
    let groups = rows.memberships.remove(&device).flatten();
    Ok(Answer::Memberships {
        groups: groups.unwrap_or_default(),
    })
}
