//! How much is stored, and for whom.

use std::collections::{BTreeMap, HashMap};

use conclave_order::rows::{ErasingRow, PaidRow};
use conclave_order::{Change, Failure};
use conclave_proto::{GroupId, UserId};
use conclave_rules::LogId;
use sqlx::SqliteConnection;

use super::codes::{id, int, uint};
use super::failed;
use super::hot::log_id;
use super::write::known;
use crate::sqlite::StoreError;

type Found<T> = Result<T, StoreError>;

/// For whom most is stored, and of which groups, in bytes; the most first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Users.
    pub users: Vec<(UserId, u64)>,
    /// Groups.
    pub groups: Vec<(GroupId, u64)>,
}

async fn bytes(conn: &mut SqliteConnection, query: &'static str, key: &[u8]) -> Found<Option<u64>> {
    let row: Option<(i64,)> = sqlx::query_as(query)
        .bind(key.to_vec())
        .fetch_optional(&mut *conn)
        .await?;
    row.map(|(bytes,)| uint(bytes)).transpose()
}

pub(super) async fn of_user(conn: &mut SqliteConnection, user: &UserId) -> Found<Option<u64>> {
    let query = "SELECT bytes FROM usage_users WHERE user = ?";
    bytes(conn, query, user.as_bytes()).await
}

pub(super) async fn of_group(conn: &mut SqliteConnection, group: &GroupId) -> Found<Option<u64>> {
    let query = "SELECT bytes FROM usage_groups WHERE group_id = ?";
    bytes(conn, query, group.as_bytes()).await
}

pub(super) async fn shares(
    conn: &mut SqliteConnection,
    log: &LogId,
) -> Found<Option<BTreeMap<UserId, u64>>> {
    let rows: Vec<(Vec<u8>, i64)> =
        sqlx::query_as("SELECT user, bytes FROM usage WHERE group_id = ? AND document = ?")
            .bind(log.group.as_bytes().to_vec())
            .bind(log.document.as_bytes().to_vec())
            .fetch_all(&mut *conn)
            .await?;
    let rows = rows
        .iter()
        .map(|(user, bytes)| Ok((id(user, UserId::from_slice)?, uint(*bytes)?)));
    Ok(Some(rows.collect::<Found<_>>()?))
}

pub(super) async fn paid(
    conn: &mut SqliteConnection,
    (log, seq): &(LogId, u64),
) -> Found<Option<PaidRow>> {
    let row: Option<(Vec<u8>, i64)> = sqlx::query_as(
        "SELECT user, bytes FROM paid_snapshots WHERE group_id = ? AND document = ? AND seq = ?",
    )
    .bind(log.group.as_bytes().to_vec())
    .bind(log.document.as_bytes().to_vec())
    .bind(int(*seq))
    .fetch_optional(&mut *conn)
    .await?;
    row.map(|(user, bytes)| {
        Ok(PaidRow {
            user: id(&user, UserId::from_slice)?,
            bytes: uint(bytes)?,
        })
    })
    .transpose()
}

pub(super) async fn erasing(conn: &mut SqliteConnection, (): &()) -> Found<Option<ErasingRow>> {
    let row: Option<(Vec<u8>, Vec<u8>, i64, i64)> = sqlx::query_as(
        "SELECT d.group_id, d.document, e.from_seq, d.size FROM erasing e JOIN documents d ON d.id = e.doc \
         ORDER BY d.group_id, d.document LIMIT 1",
    )
    .fetch_optional(&mut *conn)
    .await?;
    row.map(|(group, document, from, size)| {
        Ok(ErasingRow {
            log: log_id(&group, &document)?,
            from: uint(from)?,
            size: uint(size)?,
        })
    })
    .transpose()
}

pub(super) async fn most(conn: &mut SqliteConnection, most: u32) -> Found<Usage> {
    let rows = |query: &'static str| sqlx::query_as(query).bind(most);
    let users: Vec<(Vec<u8>, i64)> =
        rows("SELECT user, bytes FROM usage_users ORDER BY bytes DESC, user LIMIT ?")
            .fetch_all(&mut *conn)
            .await?;
    let groups: Vec<(Vec<u8>, i64)> =
        rows("SELECT group_id, bytes FROM usage_groups ORDER BY bytes DESC, group_id LIMIT ?")
            .fetch_all(&mut *conn)
            .await?;
    let users = users
        .iter()
        .map(|(user, bytes)| Ok((id(user, UserId::from_slice)?, uint(*bytes)?)));
    let groups = groups
        .iter()
        .map(|(group, bytes)| Ok((id(group, GroupId::from_slice)?, uint(*bytes)?)));
    Ok(Usage {
        users: users.collect::<Found<_>>()?,
        groups: groups.collect::<Found<_>>()?,
    })
}

/// A counter with what came and went; it is never below zero.
const COUNT: [&str; 3] = [
    "INSERT INTO usage (group_id, document, user, bytes) VALUES (?2, ?3, ?4, MAX(0, ?1)) \
     ON CONFLICT DO UPDATE SET bytes = MAX(0, bytes + ?1)",
    "INSERT INTO usage_users (user, bytes) VALUES (?4, MAX(0, ?1)) \
     ON CONFLICT DO UPDATE SET bytes = MAX(0, bytes + ?1)",
    "INSERT INTO usage_groups (group_id, bytes) VALUES (?2, MAX(0, ?1)) \
     ON CONFLICT DO UPDATE SET bytes = MAX(0, bytes + ?1)",
];

/// Nothing of a document has content any more: nothing of it loses any later.
async fn erased(conn: &mut SqliteConnection, log: &LogId, doc: i64) -> Result<(), Failure> {
    for statement in [
        "DELETE FROM erasing WHERE doc = ?",
        "DELETE FROM replaced_snapshots WHERE doc = ?",
    ] {
        sqlx::query(statement)
            .bind(doc)
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
    }
    sqlx::query("DELETE FROM paid_snapshots WHERE group_id = ? AND document = ?")
        .bind(log.group.as_bytes().to_vec())
        .bind(log.document.as_bytes().to_vec())
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    Ok(())
}

pub(super) async fn write(
    conn: &mut SqliteConnection,
    change: Change,
    numbers: &mut HashMap<LogId, i64>,
) -> Result<(), Failure> {
    let query = match change {
        Change::Usage { log, user, delta } => {
            for statement in COUNT {
                sqlx::query(statement)
                    .bind(delta)
                    .bind(log.group.as_bytes().to_vec())
                    .bind(log.document.as_bytes().to_vec())
                    .bind(user.as_bytes().to_vec())
                    .execute(&mut *conn)
                    .await
                    .map_err(failed)?;
            }
            return Ok(());
        }
        Change::Paid { log, seq, row } => sqlx::query(
            "INSERT OR REPLACE INTO paid_snapshots (group_id, document, seq, user, bytes) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(log.group.as_bytes().to_vec())
        .bind(log.document.as_bytes().to_vec())
        .bind(int(seq))
        .bind(row.user.as_bytes().to_vec())
        .bind(int(row.bytes)),
        Change::Erase {
            log,
            from,
            until,
            is_last,
        } => {
            let doc = known(conn, &log, numbers).await?;
            sqlx::query("UPDATE records SET sealed = NULL WHERE doc = ? AND seq >= ? AND seq < ?")
                .bind(doc)
                .bind(int(from))
                .bind(int(until))
                .execute(&mut *conn)
                .await
                .map_err(failed)?;
            if is_last {
                return erased(conn, &log, doc).await;
            }
            sqlx::query("UPDATE erasing SET from_seq = ?2 WHERE doc = ?1")
                .bind(doc)
                .bind(int(until))
        }
        _ => return Err(Failure::unwritten()),
    };
    query.execute(&mut *conn).await.map_err(failed)?;
    Ok(())
}
