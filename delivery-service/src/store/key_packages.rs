//! Published key packages. A one-time package is handed out once, ever.

use conclave_proto::{DeviceId, Hash, Refusal, UnixMs, UserId, limits};
use sqlx::SqliteConnection;

use super::codes::{id, int, uint};
use super::{OpError, StoreError};

/// A key package that was checked.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) hash: Hash,
    pub(crate) created: UnixMs,
    pub(crate) bytes: Vec<u8>,
}

/// What is stored for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stock {
    /// One-time packages left and fresh.
    pub(crate) one_time: u32,
    /// Whether a fresh last-resort package is there.
    pub(crate) last_resort: bool,
}

/// Packages made before this are no longer handed out.
fn oldest(now: UnixMs) -> UnixMs {
    UnixMs(now.0.saturating_sub(limits::KEY_PACKAGE_SHELF_LIFE_MS))
}

/// What is stored for a device.
pub(crate) async fn stock(
    conn: &mut SqliteConnection,
    device: &DeviceId,
    now: UnixMs,
) -> Result<Stock, StoreError> {
    let (one_time, last_resort): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE last_resort = 0), count(*) FILTER (WHERE last_resort = 1) \
         FROM key_packages WHERE device = ? AND package IS NOT NULL AND created_ms >= ?",
    )
    .bind(device.as_bytes())
    .bind(int(oldest(now).0))
    .fetch_one(&mut *conn)
    .await?;
    Ok(Stock {
        one_time: u32::try_from(one_time).unwrap_or(u32::MAX),
        last_resort: last_resort > 0,
    })
}

/// Stores packages of a device. Those known already, handed out or not, are left as they are. True when they are the device's first.
pub(crate) async fn put(
    conn: &mut SqliteConnection,
    device: &DeviceId,
    one_time: &[Package],
    last_resort: Option<&Package>,
    now: UnixMs,
) -> Result<(Stock, bool), OpError> {
    forget_expired(conn, now).await?;
    let known: Option<(i64,)> =
        sqlx::query_as("SELECT 1 FROM key_packages WHERE device = ? LIMIT 1")
            .bind(device.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    for package in one_time {
        insert(conn, device, package, false).await?;
    }
    if let Some(package) = last_resort {
        sqlx::query("DELETE FROM key_packages WHERE device = ? AND last_resort = 1")
            .bind(device.as_bytes())
            .execute(&mut *conn)
            .await?;
        insert(conn, device, package, true).await?;
    }
    let stock = stock(conn, device, now).await?;
    if stock.one_time as usize > limits::KEY_PACKAGES_MAX {
        return Err(Refusal::TooLarge {
            max: limits::KEY_PACKAGES_MAX as u64,
        }
        .into());
    }
    Ok((stock, known.is_none()))
}

/// Forgets all packages of a device. Hashes of one-time packages stay: none is ever published again.
pub(crate) async fn clear(conn: &mut SqliteConnection, device: &DeviceId) -> Result<(), OpError> {
    sqlx::query("DELETE FROM key_packages WHERE device = ? AND last_resort = 1")
        .bind(device.as_bytes())
        .execute(&mut *conn)
        .await?;
    sqlx::query("UPDATE key_packages SET package = NULL WHERE device = ?")
        .bind(device.as_bytes())
        .execute(&mut *conn)
        .await?;
    Ok(())
}

async fn insert(
    conn: &mut SqliteConnection,
    device: &DeviceId,
    package: &Package,
    last_resort: bool,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO key_packages (hash, device, last_resort, created_ms, package) VALUES (?, ?, ?, ?, ?) \
         ON CONFLICT (hash) DO NOTHING",
    )
    .bind(package.hash.as_bytes())
    .bind(device.as_bytes())
    .bind(i64::from(last_resort))
    .bind(int(package.created.0))
    .bind(&package.bytes)
    .execute(&mut *conn)
    .await?;
    Ok(())
}

/// Packages past their shelf life are refused at upload: their hashes need not be remembered. A package's own time may be ahead of ours by
/// the skew that an upload allows, which only keeps it longer.
async fn forget_expired(conn: &mut SqliteConnection, now: UnixMs) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM key_packages WHERE created_ms < ?")
        .bind(int(oldest(now).0))
        .execute(&mut *conn)
        .await?;
    Ok(())
}

/// A package handed out.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) device: DeviceId,
    pub(crate) bytes: Vec<u8>,
    pub(crate) last_resort: bool,
    /// One-time packages left after it.
    pub(crate) left: u32,
}

/// Takes one package of each of these devices that has any.
pub(crate) async fn claim(
    conn: &mut SqliteConnection,
    user: &UserId,
    wanted: &[DeviceId],
    now: UnixMs,
) -> Result<Vec<Claimed>, OpError> {
    if !super::accounts::exists(conn, user).await? {
        return Err(Refusal::UnknownUser.into());
    }
    let devices: Vec<(Vec<u8>,)> =
        sqlx::query_as("SELECT device FROM devices WHERE user = ? AND revoked = 0 ORDER BY device")
            .bind(user.as_bytes())
            .fetch_all(&mut *conn)
            .await?;
    let mut claimed = Vec::new();
    for (device,) in devices {
        let device = id(&device, DeviceId::from_slice)?;
        if wanted.is_empty() || wanted.contains(&device) {
            claimed.extend(claim_one(conn, &device, now).await?);
        }
    }
    Ok(claimed)
}

async fn claim_one(
    conn: &mut SqliteConnection,
    device: &DeviceId,
    now: UnixMs,
) -> Result<Option<Claimed>, StoreError> {
    let best: Option<(Vec<u8>, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT hash, last_resort, package FROM key_packages \
         WHERE device = ? AND package IS NOT NULL AND created_ms >= ? \
         ORDER BY last_resort, created_ms, hash LIMIT 1",
    )
    .bind(device.as_bytes())
    .bind(int(oldest(now).0))
    .fetch_optional(&mut *conn)
    .await?;
    let Some((hash, last_resort, bytes)) = best else {
        return Ok(None);
    };
    let last_resort = uint(last_resort)? != 0;
    if !last_resort {
        sqlx::query("UPDATE key_packages SET package = NULL WHERE hash = ?")
            .bind(&hash)
            .execute(&mut *conn)
            .await?;
    }
    let left = stock(conn, device, now).await?.one_time;
    Ok(Some(Claimed {
        device: *device,
        bytes,
        last_resort,
        left,
    }))
}
