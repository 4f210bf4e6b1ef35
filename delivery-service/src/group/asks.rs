//! Pleas of devices for help by the members of a group: kept until they are answered, so that who was offline learns of them too.

use std::sync::Arc;

use bytes::Bytes;
use conclave_proto::codec::encode;
use conclave_proto::frame::{Answer, Plea, ServiceFrame};
use conclave_proto::{DeviceId, GroupId, Refusal, UnixMs, UserId};
use conclave_rules::GroupState;
use sqlx::SqliteConnection;

use super::{Group, follow, rows};
use crate::hub::Conn;
use crate::limits;
use crate::store::codes::{id, int, uint};
use crate::store::{OpError, StoreError, accounts};

/// A plea with who makes it.
struct NewAsk {
    group: GroupId,
    device: DeviceId,
    user: UserId,
    what: Plea,
    /// Epoch that it was judged in.
    epoch: u64,
    at_ms: u64,
}

impl NewAsk {
    fn frame(&self) -> Bytes {
        frame(self.group, self.device, self.user, self.what)
    }
}

fn frame(group: GroupId, device: DeviceId, user: UserId, what: Plea) -> Bytes {
    Bytes::from(encode(&ServiceFrame::Asked {
        group,
        device,
        user,
        what,
    }))
}

fn number(what: Plea) -> i64 {
    i64::from(what as u8)
}

fn plea(number: i64) -> Result<Plea, StoreError> {
    [Plea::Wrap, Plea::ReAdd]
        .into_iter()
        .find(|what| *what as u8 as i64 == number)
        .ok_or(StoreError::Corrupt { what: "plea" })
}

/// Members ask for a wrap. To be added anew may ask who belongs to a member's user and was not removed. For others the group does not
/// exist.
fn may_ask(view: &GroupState, conn: &Conn, what: Plea) -> Result<(), Refusal> {
    let is_member = view.is_member(&conn.device);
    match what {
        _ if view.role_of_user(&conn.user).is_none() => Err(Refusal::UnknownGroup),
        Plea::Wrap if is_member => Ok(()),
        Plea::ReAdd if !view.is_tombstoned(&conn.device) => Ok(()),
        _ => Err(view.not_member(&conn.device)),
    }
}

/// Notes a plea and tells the members who follow the log. The same again is told again, but not sooner than after a pause: whoever could
/// help may have been busy, or may have come only now.
pub(crate) async fn ask(group: &Arc<Group>, conn: &Conn, what: Plea) -> Result<Answer, OpError> {
    let view = group.view();
    may_ask(&view, conn, what)?;
    let new = NewAsk {
        group: group.id,
        device: conn.device,
        user: conn.user,
        what,
        epoch: view.epoch,
        at_ms: group.env.clock.now().0,
    };
    let (told, device, frame) = (group.clone(), conn.device, new.frame());
    let (key, now) = ((group.id, conn.device, what), UnixMs(new.at_ms));
    group
        .env
        .writer
        .call_then(
            move |conn| Box::pin(async move { store(conn, &new).await }),
            move |is_new| {
                let due = told.env.repeated_asks.take(key, 1, now).is_ok();
                if *is_new || due {
                    follow::tell(&told, &device, &frame);
                }
            },
        )
        .await?;
    Ok(Answer::Done)
}

/// Stores a plea; false when it is known.
async fn store(conn: &mut SqliteConnection, new: &NewAsk) -> Result<bool, OpError> {
    accounts::ensure_active(conn, &new.device).await?;
    // A commit may have come between that removes the device.
    let current = rows::epoch(conn, &new.group).await?;
    if current != new.epoch {
        return Err(Refusal::StaleEpoch { current }.into());
    }
    let stored = sqlx::query(
        "INSERT INTO asks (group_id, device, what, user, at_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(new.group.as_bytes())
    .bind(new.device.as_bytes())
    .bind(number(new.what))
    .bind(new.user.as_bytes())
    .bind(int(new.at_ms))
    .execute(&mut *conn)
    .await?;
    if stored.rows_affected() == 0 {
        return Ok(false);
    }
    let (of_group, of_user): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE user = ?) FROM asks WHERE group_id = ?",
    )
    .bind(new.user.as_bytes())
    .bind(new.group.as_bytes())
    .fetch_one(&mut *conn)
    .await?;
    let (of_device,): (i64,) = sqlx::query_as("SELECT count(*) FROM asks WHERE device = ?")
        .bind(new.device.as_bytes())
        .fetch_one(&mut *conn)
        .await?;
    for (count, max) in [
        (of_group, limits::ASKS_PER_GROUP),
        (of_user, limits::ASKS_PER_GROUP_AND_USER),
        (of_device, limits::ASKS_PER_DEVICE),
    ] {
        if uint(count)? > max {
            return Err(Refusal::TooLarge { max }.into());
        }
    }
    Ok(true)
}

/// A member put a wrap of the current epoch: it is there for everybody else.
pub(crate) async fn wrapped(
    conn: &mut SqliteConnection,
    group: &GroupId,
    signer: &DeviceId,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM asks WHERE group_id = ? AND what = ? AND device <> ?")
        .bind(group.as_bytes())
        .bind(number(Plea::Wrap))
        .bind(signer.as_bytes())
        .execute(&mut *conn)
        .await?;
    Ok(())
}

/// An epoch began: forgets pleas for a wrap of the one before, those of `settled` devices, and of users who have no member left. Members
/// and log have to be as after the commit.
pub(crate) async fn epoch_began(
    conn: &mut SqliteConnection,
    group: &GroupId,
    settled: &[DeviceId],
) -> Result<(), StoreError> {
    for device in settled {
        sqlx::query("DELETE FROM asks WHERE group_id = ? AND device = ?")
            .bind(group.as_bytes())
            .bind(device.as_bytes())
            .execute(&mut *conn)
            .await?;
    }
    sqlx::query(
        "DELETE FROM asks WHERE group_id = ?1 AND (what = ?2 OR user NOT IN (SELECT user FROM members WHERE group_id = ?1))",
    )
    .bind(group.as_bytes())
    .bind(number(Plea::Wrap))
    .execute(&mut *conn)
    .await?;
    Ok(())
}

/// Every plea but the device's own, as frames. None where they cannot be read: they are told again with the next subscription.
pub(crate) async fn open(group: &Group, but: &DeviceId) -> Vec<Bytes> {
    match read(group, but).await {
        Ok(frames) => frames,
        Err(error) => {
            let _ = error.into_refusal();
            Vec::new()
        }
    }
}

async fn read(group: &Group, but: &DeviceId) -> Result<Vec<Bytes>, OpError> {
    let mut reads = group.env.reads.acquire().await?;
    let rows: Vec<(Vec<u8>, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT a.device, a.user, a.what FROM asks a JOIN devices d USING (device) JOIN accounts u ON u.user = d.user \
         WHERE a.group_id = ? AND a.device <> ? AND d.revoked = 0 AND u.disabled = 0 ORDER BY a.at_ms, a.device, a.what",
    )
    .bind(group.id.as_bytes())
    .bind(but.as_bytes())
    .fetch_all(&mut *reads)
    .await?;
    rows.into_iter()
        .map(|(device, user, what)| {
            let device = id(&device, DeviceId::from_slice)?;
            let user = id(&user, UserId::from_slice)?;
            Ok(frame(group.id, device, user, plea(what)?))
        })
        .collect()
}
