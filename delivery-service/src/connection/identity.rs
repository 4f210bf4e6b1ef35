//! Device lists and key packages.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use conclave_identity::{AuthError, Reference, SignedDeviceList};
use conclave_mls::check_key_package;
use conclave_proto::codec::encode;
use conclave_proto::frame::{Answer, ClaimedKeyPackage, ServiceFrame};
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, Hash, Refusal, UnixMs, UserId, codec, limits as wire};

use crate::hub::Conn;
use crate::limits;
use crate::shared::Shared;
use crate::store::accounts::{self, NewList};
use crate::store::key_packages::{self, Claimed, Package};
use crate::store::{OpError, StoreError};

fn changed(user: UserId) -> Bytes {
    Bytes::from(encode(&ServiceFrame::DeviceListChanged { user }))
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
    let stored = {
        let mut reads = shared.env.reads.acquire().await?;
        accounts::newest_list(&mut reads, &conn.user).await?
    };
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
    let new = NewList {
        user: conn.user,
        seq: list.list.seq,
        bytes,
        devices: list.list.devices.iter().map(|entry| entry.device).collect(),
    };
    let user = conn.user;
    let now = shared.env.clock.now();
    let after = shared.env.clone();
    shared
        .env
        .writer
        .call_then(
            move |conn| {
                Box::pin(async move {
                    let gone = accounts::put_list(conn, &new, expected, now).await?;
                    let told = accounts::acquainted(conn, &new.user).await?;
                    Ok((gone, told))
                })
            },
            move |(gone, told)| {
                after.hub.notify(told, &changed(user));
                let why = Refusal::Forbidden {
                    why: ForbiddenWhy::DeviceRevoked,
                };
                for device in gone {
                    after.hub.disconnect(device, &why);
                }
            },
        )
        .await?;
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
    let mut reads = shared.env.reads.acquire().await?;
    let list = accounts::newest_list(&mut reads, &user)
        .await?
        .ok_or(Refusal::UnknownUser)?;
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
    let (device, user) = (conn.device, conn.user);
    let after = shared.env.clone();
    let (stock, _) = shared
        .env
        .writer
        .call_then(
            move |conn| {
                Box::pin(async move {
                    accounts::ensure_active(conn, &device).await?;
                    let (stock, first) =
                        key_packages::put(conn, &device, &one_time, last_resort.as_ref(), now)
                            .await?;
                    let siblings = if first {
                        accounts::devices_of(conn, &user).await?
                    } else {
                        BTreeSet::new()
                    };
                    Ok((stock, siblings))
                })
            },
            move |(_, siblings)| {
                let others = siblings
                    .iter()
                    .copied()
                    .filter(|other| *other != device)
                    .collect();
                after.hub.notify(&others, &changed(user));
            },
        )
        .await?;
    Ok(Answer::KeyPackageCount {
        left: stock.one_time,
    })
}

/// Forgets a device's packages: it has lost their private halves.
pub(crate) async fn clear_key_packages(
    shared: &Arc<Shared>,
    conn: &Conn,
) -> Result<Answer, OpError> {
    let device = conn.device;
    let cleared = shared.env.writer.call(move |conn| {
        Box::pin(async move {
            accounts::ensure_active(conn, &device).await?;
            key_packages::clear(conn, &device).await?;
            Ok(Answer::KeyPackageCount { left: 0 })
        })
    });
    Ok(cleared.await?)
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
    let device = conn.device;
    let after = shared.env.clone();
    let claimed = shared
        .env
        .writer
        .call_then(
            move |conn| {
                Box::pin(async move {
                    accounts::ensure_active(conn, &device).await?;
                    key_packages::claim(conn, &user, &devices, now).await
                })
            },
            move |claimed: &Vec<Claimed>| {
                for package in claimed {
                    if (package.left as usize) < wire::KEY_PACKAGES_LOW {
                        let frame = ServiceFrame::KeyPackagesLow { left: package.left };
                        let frame = Bytes::from(encode(&frame));
                        after.hub.notify(&BTreeSet::from([package.device]), &frame);
                    }
                }
            },
        )
        .await?;
    let packages = claimed
        .into_iter()
        .map(|claimed| ClaimedKeyPackage {
            device: claimed.device,
            key_package: claimed.bytes.into(),
            last_resort: u8::from(claimed.last_resort),
        })
        .collect();
    Ok(Answer::KeyPackages { packages })
}
