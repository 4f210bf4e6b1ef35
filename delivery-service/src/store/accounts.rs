//! Accounts, devices and device lists.

use std::collections::BTreeSet;

use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, Hash, Refusal, UnixMs, UserId};
use sqlx::SqliteConnection;

use super::codes::{id, int, uint};
use super::{OpError, StoreError, invitations};

/// A device that logs in, already authenticated.
#[derive(Debug, Clone)]
pub(crate) struct Newcomer {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) key: Vec<u8>,
}

/// What the service knows of a device that logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Known, with this key and user.
    Known,
    /// Its user has an account; the device is new.
    NewDevice,
    /// The user has no account.
    NewUser,
}

/// Judges a device that logs in by what is stored.
pub(crate) async fn standing(
    conn: &mut SqliteConnection,
    who: &Newcomer,
) -> Result<Standing, OpError> {
    let device: Option<(Vec<u8>, Vec<u8>, i64)> =
        sqlx::query_as("SELECT user, key, revoked FROM devices WHERE device = ?")
            .bind(who.device.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    let account: Option<(i64,)> = sqlx::query_as("SELECT disabled FROM accounts WHERE user = ?")
        .bind(who.user.as_bytes())
        .fetch_optional(&mut *conn)
        .await?;
    if account.is_some_and(|(disabled,)| disabled != 0) {
        return Err(revoked().into());
    }
    match (device, account) {
        (Some((user, key, _)), _) if user != who.user.as_bytes() || key != who.key => {
            Err(Refusal::Unauthenticated.into())
        }
        (Some((_, _, gone)), _) if gone != 0 => Err(revoked().into()),
        (Some(_), _) => Ok(Standing::Known),
        (None, Some(_)) => Ok(Standing::NewDevice),
        (None, None) => Ok(Standing::NewUser),
    }
}

fn revoked() -> Refusal {
    Refusal::Forbidden {
        why: ForbiddenWhy::DeviceRevoked,
    }
}

/// What a new account needs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Door {
    /// Nothing.
    Open,
    /// The hash of a valid invitation token.
    Invitation(Option<Hash>),
}

/// Creates the account and the device where they are missing.
pub(crate) async fn admit(
    conn: &mut SqliteConnection,
    who: &Newcomer,
    door: Door,
    now: UnixMs,
) -> Result<(), OpError> {
    let standing = standing(conn, who).await?;
    if standing == Standing::NewUser {
        if let Door::Invitation(token) = door {
            invitations::redeem(conn, token, now).await?;
        }
        sqlx::query("INSERT INTO accounts (user, created_ms) VALUES (?, ?)")
            .bind(who.user.as_bytes())
            .bind(int(now.0))
            .execute(&mut *conn)
            .await?;
    }
    if standing != Standing::Known {
        sqlx::query("INSERT INTO devices (device, user, key, created_ms) VALUES (?, ?, ?, ?)")
            .bind(who.device.as_bytes())
            .bind(who.user.as_bytes())
            .bind(&who.key)
            .bind(int(now.0))
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Refuses unless the device is known, not revoked and its account not disabled.
pub(crate) async fn ensure_active(
    conn: &mut SqliteConnection,
    device: &DeviceId,
) -> Result<(), OpError> {
    let row: Option<(i64, i64)> = sqlx::query_as(
        "SELECT d.revoked, a.disabled FROM devices d JOIN accounts a USING (user) WHERE d.device = ?",
    )
    .bind(device.as_bytes())
    .fetch_optional(&mut *conn)
    .await?;
    match row {
        Some((0, 0)) => Ok(()),
        _ => Err(revoked().into()),
    }
}

/// Whether there is an account.
pub(crate) async fn exists(conn: &mut SqliteConnection, user: &UserId) -> Result<bool, StoreError> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT 1 FROM accounts WHERE user = ?")
        .bind(user.as_bytes())
        .fetch_optional(&mut *conn)
        .await?;
    Ok(row.is_some())
}

/// The user's newest device list.
pub(crate) async fn newest_list(
    conn: &mut SqliteConnection,
    user: &UserId,
) -> Result<Option<Vec<u8>>, StoreError> {
    let row: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT list FROM device_lists WHERE user = ? ORDER BY seq DESC LIMIT 1")
            .bind(user.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    Ok(row.map(|(list,)| list))
}

/// A device list to store, verified as far as it can be alone.
#[derive(Debug)]
pub(crate) struct NewList {
    pub(crate) user: UserId,
    pub(crate) seq: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) devices: BTreeSet<DeviceId>,
}

/// Stores a list over `expected`, the newest that it was checked against. Gives the devices that lose their standing.
pub(crate) async fn put_list(
    conn: &mut SqliteConnection,
    list: &NewList,
    expected: Option<u64>,
    now: UnixMs,
) -> Result<Vec<DeviceId>, OpError> {
    let newest: (Option<i64>,) = sqlx::query_as("SELECT max(seq) FROM device_lists WHERE user = ?")
        .bind(list.user.as_bytes())
        .fetch_one(&mut *conn)
        .await?;
    let newest = newest.0.map(uint).transpose()?;
    if newest != expected {
        return Err(Refusal::StaleDeviceList {
            newest: newest.unwrap_or_default(),
        }
        .into());
    }
    sqlx::query("INSERT INTO device_lists (user, seq, list, stored_ms) VALUES (?, ?, ?, ?)")
        .bind(list.user.as_bytes())
        .bind(int(list.seq))
        .bind(&list.bytes)
        .bind(int(now.0))
        .execute(&mut *conn)
        .await?;
    let known: Vec<(Vec<u8>, i64)> =
        sqlx::query_as("SELECT device, revoked FROM devices WHERE user = ?")
            .bind(list.user.as_bytes())
            .fetch_all(&mut *conn)
            .await?;
    let mut gone = Vec::new();
    for (device, revoked) in known {
        let device = id(&device, DeviceId::from_slice)?;
        let listed = list.devices.contains(&device);
        if listed == (revoked != 0) {
            set_revoked(conn, &device, !listed).await?;
        }
        if !listed && revoked == 0 {
            gone.push(device);
        }
    }
    Ok(gone)
}

/// Marks a device; one that is revoked loses its key packages and its pleas for help.
async fn set_revoked(
    conn: &mut SqliteConnection,
    device: &DeviceId,
    revoked: bool,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE devices SET revoked = ? WHERE device = ?")
        .bind(i64::from(revoked))
        .bind(device.as_bytes())
        .execute(&mut *conn)
        .await?;
    if revoked {
        sqlx::query("UPDATE key_packages SET package = NULL WHERE device = ?")
            .bind(device.as_bytes())
            .execute(&mut *conn)
            .await?;
        sqlx::query("DELETE FROM asks WHERE device = ?")
            .bind(device.as_bytes())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Devices of this user and of every user who shares a group with it.
pub(crate) async fn acquainted(
    conn: &mut SqliteConnection,
    user: &UserId,
) -> Result<BTreeSet<DeviceId>, StoreError> {
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as(
        "SELECT device FROM devices WHERE user = ?1 \
         UNION SELECT other.device FROM members own JOIN members other USING (group_id) WHERE own.user = ?1",
    )
    .bind(user.as_bytes())
    .fetch_all(&mut *conn)
    .await?;
    rows.iter()
        .map(|(device,)| id(device, DeviceId::from_slice))
        .collect()
}

/// Devices of this user.
pub(crate) async fn devices_of(
    conn: &mut SqliteConnection,
    user: &UserId,
) -> Result<BTreeSet<DeviceId>, StoreError> {
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT device FROM devices WHERE user = ?")
        .bind(user.as_bytes())
        .fetch_all(&mut *conn)
        .await?;
    rows.iter()
        .map(|(device,)| id(device, DeviceId::from_slice))
        .collect()
}
