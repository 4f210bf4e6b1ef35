//! What members need to enter an epoch: Welcomes and root wraps.

use std::sync::Arc;

use conclave_order::op::help::{AckWelcome, PutWrap};
use conclave_order::query::group::{waiting, welcome};
use conclave_order::{Op, query};
use conclave_proto::frame::{Answer, ServiceFrame};
use conclave_proto::group::RootWrap;
use conclave_proto::{DeviceId, GroupId, Refusal};

use super::Group;
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
    let waiting = waiting(&mut env.reads.acquire().await?, conn.device).await?;
    for row in waiting {
        if only.is_some_and(|only| only != (row.group, row.epoch)) {
            continue;
        }
        // The connection to the database is let go before anything is sent.
        let delivery = welcome(&mut env.reads.acquire().await?, &row).await?;
        let Some(delivery) = delivery else {
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

/// Forgets a Welcome, and what only it needed. One that is not this device's, or gone already, changes nothing.
pub(crate) async fn acknowledge(env: &Env, conn: &Conn, number: u64) -> Result<Answer, Refusal> {
    let (device, id) = (conn.device, number);
    let op = Op::AckWelcome(AckWelcome { device, id });
    env.writer.ask(conn.asker().asks(op)).await?;
    Ok(Answer::Done)
}

/// Takes a member's wrap for the current epoch.
pub(crate) async fn offer_wrap(
    group: &Group,
    conn: &Conn,
    wrap: RootWrap,
) -> Result<Answer, OpError> {
    let op = PutWrap::judge(&group.view(), conn.asker(), wrap)?;
    let asked = conn.asker().asks(Op::PutWrap(op));
    group.env.writer.ask(asked).await?;
    Ok(Answer::Done)
}

/// The wraps of an epoch.
pub(crate) async fn wraps(group: &Group, epoch: u64) -> Result<Answer, OpError> {
    let mut reads = group.env.reads.acquire().await?;
    let wraps = query::group::wraps(&mut reads, group.id, epoch).await?;
    Ok(Answer::Wraps { wraps })
}

/// The groups of which a device is a member with no Welcome left to answer.
pub(crate) async fn memberships(env: &Env, device: DeviceId) -> Result<Answer, OpError> {
    let mut reads = env.reads.acquire().await?;
    Ok(query::group::memberships(&mut reads, device).await?)
}
