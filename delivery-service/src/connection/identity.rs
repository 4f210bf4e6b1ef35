//! Device lists and key packages.

use std::sync::Arc;

use conclave_order::op::identity::{ConfirmLife, PutDeviceList};
use conclave_order::op::packages::{ClaimKeyPackages, ClearKeyPackages, PutKeyPackages};
use conclave_order::rows::ListRow;
use conclave_order::{Event, Keys, Op, Rows};
use conclave_proto::frame::Answer;
use conclave_proto::{DeviceId, Refusal, UserId, codec};

use crate::error::OpError;
use crate::hub::Conn;
use crate::shared::Shared;
use crate::tell::From;

/// The user's newest device list.
async fn newest_list(shared: &Shared, user: UserId) -> Result<Option<ListRow>, OpError> {
    let mut keys = Keys::default();
    keys.lists.insert(user);
    let mut rows = Rows::default();
    shared.env.load(&keys, &mut rows).await?;
    Ok(rows.list(&user)?.cloned())
}

/// Runs an operation on devices; gives what became of it.
async fn run(shared: &Shared, conn: &Conn, op: Op) -> Result<Event, Refusal> {
    let from = From::Devices(shared.env.clone());
    shared.env.writer.run(conn.asker().asks(op), from).await
}

/// Takes a newer device list of the connected device's user.
pub(crate) async fn put_device_list(
    shared: &Arc<Shared>,
    conn: &Conn,
    bytes: Vec<u8>,
) -> Result<Answer, OpError> {
    let stored = newest_list(shared, conn.user).await?;
    let now = shared.env.clock.now();
    if let Some(op) = PutDeviceList::judge(conn.asker(), bytes, stored.as_ref(), now)? {
        run(shared, conn, Op::PutDeviceList(op)).await?;
    }
    Ok(Answer::Done)
}

/// A user's newest device list.
pub(crate) async fn device_list(shared: &Shared, user: UserId) -> Result<Answer, OpError> {
    let list = newest_list(shared, user).await?;
    let list = list.ok_or(Refusal::UnknownUser)?.bytes;
    Ok(Answer::DeviceList { list: list.into() })
}

/// Takes key packages of the connected device.
pub(crate) async fn put_key_packages(
    shared: &Arc<Shared>,
    conn: &Conn,
    one_time: Vec<codec::Bytes>,
    last_resort: Option<codec::Bytes>,
) -> Result<Answer, OpError> {
    let now = shared.env.clock.now();
    let op = PutKeyPackages::judge(conn.asker(), one_time, last_resort, now)?;
    match run(shared, conn, Op::PutKeyPackages(op)).await? {
        Event::PackagesPut { left, .. } => Ok(Answer::KeyPackageCount { left }),
        _ => Err(Refusal::Storage.into()),
    }
}

/// Forgets a device's packages: it has lost their private halves.
pub(crate) async fn clear_key_packages(
    shared: &Arc<Shared>,
    conn: &Conn,
) -> Result<Answer, OpError> {
    let device = conn.device;
    let op = Op::ClearKeyPackages(ClearKeyPackages { device });
    run(shared, conn, op).await?;
    Ok(Answer::KeyPackageCount { left: 0 })
}

/// The connected device has stored its next life.
pub(crate) async fn confirm_life(shared: &Arc<Shared>, conn: &Conn) -> Result<Answer, OpError> {
    let device = conn.device;
    run(shared, conn, Op::ConfirmLife(ConfirmLife { device })).await?;
    Ok(Answer::Done)
}

/// Hands out one key package of each device of a user. Whoever takes one after the other from somebody else, and whoever does after many have,
/// gets those of last resort: nobody uses up what others need.
pub(crate) async fn claim_key_packages(
    shared: &Arc<Shared>,
    conn: &Conn,
    user: UserId,
    devices: Vec<DeviceId>,
) -> Result<Answer, OpError> {
    let now = shared.env.clock.now();
    let mut op = ClaimKeyPackages::judge(conn.device, user, devices, now)?;
    let rates = &shared.rates;
    rates.claims.take(conn.device, 1, now)?;
    let spares = || {
        rates.claims_of_user.take((conn.user, user), 1, now)?;
        rates.claims_from_user.take(user, 1, now)
    };
    op.last_resort = user != conn.user && spares().is_err();
    let Event::Claimed(claimed) = run(shared, conn, Op::ClaimKeyPackages(op)).await? else {
        return Err(Refusal::Storage.into());
    };
    Ok(Answer::KeyPackages {
        packages: claimed.into_iter().map(Into::into).collect(),
    })
}
