//! Device lists and key packages.

use std::sync::Arc;

use conclave_identity::{AuthError, Reference, SignedDeviceList};
use conclave_mls::check_key_package;
use conclave_order::op::identity::PutDeviceList;
use conclave_order::op::packages::{ClaimKeyPackages, ClearKeyPackages, Package, PutKeyPackages};
use conclave_order::{Event, Keys, Op, Rows};
use conclave_proto::frame::{Answer, ClaimedKeyPackage};
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, Hash, Refusal, UnixMs, UserId, codec, limits as wire};

use crate::error::OpError;
use crate::hub::Conn;
use crate::limits;
use crate::shared::Shared;
use crate::sqlite::StoreError;
use crate::tell::From;

/// The user's newest device list.
async fn newest_list(shared: &Shared, user: UserId) -> Result<Option<Vec<u8>>, OpError> {
    let mut keys = Keys::default();
    keys.lists.insert(user);
    let mut rows = Rows::default();
    shared.env.load(&keys, &mut rows).await?;
    Ok(rows.list(&user)?.map(|row| row.bytes.clone()))
}

/// Runs an operation on devices; gives what became of it.
async fn run(shared: &Shared, op: Op) -> Result<Event, Refusal> {
    let from = From::Devices(shared.env.clone());
    shared.env.writer.run(op, from).await
}

/// Takes a newer device list of the connected device's user.
pub(crate) async fn put_device_list(
    shared: &Arc<Shared>,
    conn: &Conn,
    bytes: Vec<u8>,
) -> Result<Answer, OpError> {
    if bytes.len() > limits::DEVICE_LIST_BYTES {
        return Err(Refusal::TooLarge {
            max: limits::DEVICE_LIST_BYTES as u64,
        }
        .into());
    }
    let list = SignedDeviceList::from_bytes(&bytes).map_err(|_| Refusal::BadIdentity)?;
    list.verify().map_err(|_| Refusal::BadIdentity)?;
    if list.user() != conn.user {
        return Err(Refusal::Forbidden {
            why: ForbiddenWhy::NotYours,
        }
        .into());
    }
    let stored = newest_list(shared, conn.user).await?;
    let stored = stored
        .map(|bytes| SignedDeviceList::from_bytes(&bytes))
        .transpose()
        .map_err(|_| StoreError::Corrupt {
            what: "device list",
        })?;
    if let Some(stored) = &stored
        && !supersedes(&list, stored)?
    {
        return Ok(Answer::Done);
    }
    let expected = stored.map(|stored| stored.list.seq);
    let op = PutDeviceList {
        user: conn.user,
        seq: list.list.seq,
        bytes,
        devices: list.list.devices.iter().map(|entry| entry.device).collect(),
        expected,
        now: shared.env.clock.now(),
    };
    run(shared, Op::PutDeviceList(op)).await?;
    Ok(Answer::Done)
}

/// Whether a list replaces the stored one; false when it is the very same.
fn supersedes(list: &SignedDeviceList, stored: &SignedDeviceList) -> Result<bool, Refusal> {
    list.supersedes(stored).map_err(|error| match error {
        AuthError::StaleList { .. } | AuthError::Equivocation { .. } | AuthError::BrokenChain => {
            Refusal::StaleDeviceList {
                newest: stored.list.seq,
            }
        }
        _ => Refusal::BadIdentity,
    })
}

/// A user's newest device list.
pub(crate) async fn device_list(shared: &Shared, user: UserId) -> Result<Answer, OpError> {
    let list = newest_list(shared, user).await?;
    let list = list.ok_or(Refusal::UnknownUser)?;
    Ok(Answer::DeviceList { list: list.into() })
}

/// Takes key packages of the connected device.
pub(crate) async fn put_key_packages(
    shared: &Arc<Shared>,
    conn: &Conn,
    one_time: Vec<codec::Bytes>,
    last_resort: Option<codec::Bytes>,
) -> Result<Answer, OpError> {
    if one_time.len() > wire::KEY_PACKAGES_MAX {
        return Err(Refusal::TooLarge {
            max: wire::KEY_PACKAGES_MAX as u64,
        }
        .into());
    }
    let now = shared.env.clock.now();
    let one_time = one_time
        .into_iter()
        .map(|package| check(conn, package.into_vec(), false, now))
        .collect::<Result<Vec<_>, _>>()?;
    let last_resort = last_resort
        .map(|package| check(conn, package.into_vec(), true, now))
        .transpose()?;
    let op = PutKeyPackages {
        device: conn.device,
        user: conn.user,
        one_time,
        last_resort,
        now,
    };
    match run(shared, Op::PutKeyPackages(op)).await? {
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
    run(shared, op).await?;
    Ok(Answer::KeyPackageCount { left: 0 })
}

fn check(conn: &Conn, bytes: Vec<u8>, last_resort: bool, now: UnixMs) -> Result<Package, Refusal> {
    if bytes.len() > limits::KEY_PACKAGE_BYTES {
        return Err(Refusal::TooLarge {
            max: limits::KEY_PACKAGE_BYTES as u64,
        });
    }
    let reference = Reference {
        user: Some(conn.user),
        device: Some(conn.device),
        ..Reference::default()
    };
    let checked = check_key_package(&bytes, &reference, now).map_err(|_| Refusal::BadIdentity)?;
    if checked.last_resort != last_resort {
        return Err(Refusal::BadIdentity);
    }
    let hash = Hash::from_slice(&checked.reference).ok_or(Refusal::BadIdentity)?;
    Ok(Package {
        hash,
        created: checked.made,
        bytes,
    })
}

/// Hands out one key package of each device of a user.
pub(crate) async fn claim_key_packages(
    shared: &Arc<Shared>,
    conn: &Conn,
    user: UserId,
    devices: Vec<DeviceId>,
) -> Result<Answer, OpError> {
    if devices.len() > wire::USER_DEVICES {
        return Err(Refusal::TooLarge {
            max: wire::USER_DEVICES as u64,
        }
        .into());
    }
    let now = shared.env.clock.now();
    shared.rates.claims.take(conn.device, 1, now)?;
    let op = ClaimKeyPackages {
        device: conn.device,
        user,
        wanted: devices,
        now,
    };
    let Event::Claimed(claimed) = run(shared, Op::ClaimKeyPackages(op)).await? else {
        return Err(Refusal::Storage.into());
    };
    let packages = claimed.into_iter().map(|claimed| ClaimedKeyPackage {
        device: claimed.device,
        key_package: claimed.bytes.into(),
        last_resort: u8::from(claimed.last_resort),
    });
    Ok(Answer::KeyPackages {
        packages: packages.collect(),
    })
}
