//! Writing changes.

use std::collections::HashMap;

use conclave_order::{Change, Failure};
use conclave_proto::LifeToken;
use conclave_rules::LogId;
use sqlx::SqliteConnection;

use super::codes::int;
use super::write_groups::write_group;
use super::write_logs::{Appends, number};
use super::{failed, recovery, write_groups};
use crate::sqlite::StoreError;

/// What a statement touched has to be what was expected.
pub(super) fn expect(touched: u64, expected: u64) -> Result<(), Failure> {
    if touched == expected {
        Ok(())
    } else {
        Err(Failure::Conflict)
    }
}

/// Writes changes in their order. Records and authors are gathered, and written with few statements before anything else is.
pub(super) async fn write(
    conn: &mut SqliteConnection,
    changes: Vec<Change>,
    numbers: &mut HashMap<LogId, i64>,
) -> Result<(), Failure> {
    let mut appends = Appends::default();
    for change in changes {
        if let Some(other) = appends.take(conn, change, numbers).await? {
            appends.write(conn).await?;
            write_one(conn, other, numbers).await?;
        }
    }
    appends.write(conn).await
}

async fn write_one(
    conn: &mut SqliteConnection,
    change: Change,
    numbers: &mut HashMap<LogId, i64>,
) -> Result<(), Failure> {
    if let Change::Dropped { group, .. } = change {
        numbers.retain(|log, _| log.group != group);
    }
    match change {
        Change::Document { .. }
        | Change::Closed { .. }
        | Change::Reopened { .. }
        | Change::Active { .. }
        | Change::Replaced(_)
        | Change::LetGo(_) => super::write_logs::write_document(conn, change, numbers).await,
        Change::Account { .. }
        | Change::Device { .. }
        | Change::Login { .. }
        | Change::Revoked { .. }
        | Change::List { .. }
        | Change::Invitation { .. }
        | Change::Redeemed { .. }
        | Change::Package { .. }
        | Change::TakePackage { .. }
        | Change::DropLastResort { .. }
        | Change::ClearPackages { .. }
        | Change::ForgetPackages { .. }
        | Change::Probe { .. } => write_identity(conn, change).await,
        Change::Usage { .. } | Change::Paid { .. } | Change::Erase { .. } => {
            super::usage::write(conn, change, numbers).await
        }
        Change::Generation { .. }
        | Change::Hold { .. }
        | Change::HeadTime { .. }
        | Change::PackagesVoid
        | Change::Recovery(_)
        | Change::RecoveryGone { .. }
        | Change::Loss(_) => recovery::write(conn, change).await,
        other => write_group(conn, other).await,
    }
}

async fn write_identity(conn: &mut SqliteConnection, change: Change) -> Result<(), Failure> {
    let query = match change {
        Change::Account { user, created } => {
            sqlx::query("INSERT INTO accounts (user, created_ms) VALUES (?, ?)")
                .bind(user.as_bytes().to_vec())
                .bind(int(created.0))
        }
        Change::Device {
            device,
            user,
            key,
            created,
        } => {
            sqlx::query("INSERT INTO devices (device, user, key, created_ms) VALUES (?, ?, ?, ?)")
                .bind(device.as_bytes().to_vec())
                .bind(user.as_bytes().to_vec())
                .bind(key)
                .bind(int(created.0))
        }
        Change::Login {
            device,
            expected,
            row,
        } => {
            let bytes = |token: LifeToken| token.0.to_vec();
            let query = sqlx::query(
                "UPDATE devices SET session = ?, session_ms = ?, life = ?, token = ?, next = ? \
                 WHERE device = ? AND session = ?",
            )
            .bind(int(row.session))
            .bind(int(row.at.0))
            .bind(int(row.life))
            .bind(row.token.map(bytes))
            .bind(row.next.map(bytes))
            .bind(device.as_bytes().to_vec())
            .bind(int(expected));
            let done = query.execute(conn).await.map_err(failed)?;
            return expect(done.rows_affected(), 1);
        }
        Change::Revoked { device, revoked } => {
            sqlx::query("UPDATE devices SET revoked = ? WHERE device = ?")
                .bind(i64::from(revoked))
                .bind(device.as_bytes().to_vec())
        }
        Change::List {
            user,
            expected,
            seq,
            bytes,
            stored,
        } => {
            let query = sqlx::query(
                "INSERT INTO device_lists (user, seq, list, stored_ms) SELECT ?1, ?2, ?3, ?4 \
                 WHERE (SELECT max(seq) FROM device_lists WHERE user = ?1) IS ?5",
            )
            .bind(user.as_bytes().to_vec())
            .bind(int(seq))
            .bind(bytes)
            .bind(int(stored.0))
            .bind(expected.map(int));
            let done = query.execute(conn).await.map_err(failed)?;
            return expect(done.rows_affected(), 1);
        }
        Change::Invitation { hash, row } => sqlx::query(
            "INSERT INTO invitations (hash, id, created_ms, expires_ms, uses_left) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(hash.as_bytes().to_vec())
        .bind(row.id)
        .bind(int(row.created.0))
        .bind(int(row.expires.0))
        .bind(int(row.uses_left)),
        Change::Redeemed { hash, expected } => {
            let query = sqlx::query(
                "UPDATE invitations SET uses_left = uses_left - 1 WHERE hash = ? AND uses_left = ?",
            )
            .bind(hash.as_bytes().to_vec())
            .bind(int(expected));
            let done = query.execute(conn).await.map_err(failed)?;
            return expect(done.rows_affected(), 1);
        }
        Change::Probe { now } => {
            sqlx::query("INSERT OR REPLACE INTO meta (name, value) VALUES ('probe', ?)")
                .bind(now.0.to_be_bytes().to_vec())
        }
        other => return write_groups::write_packages(conn, other).await,
    };
    query.execute(conn).await.map_err(failed)?;
    Ok(())
}

/// The row of a document that must be there.
pub(super) async fn known(
    conn: &mut SqliteConnection,
    log: &LogId,
    numbers: &mut HashMap<LogId, i64>,
) -> Result<i64, Failure> {
    let found = number(conn, log, numbers).await?;
    found.ok_or_else(|| StoreError::Corrupt { what: "document" }.into())
}
