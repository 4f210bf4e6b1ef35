//! What a service knows of itself, and of logs that are being returned.

use conclave_order::rows::{RecoveryRow, ServiceRow};
use conclave_order::{Change, Failure};
use conclave_proto::codec::encode;
use conclave_proto::service::{Generation, Loss};
use conclave_proto::{GroupId, Hash, Head, UnixMs, limits};
use conclave_rules::LogId;
use sqlx::SqliteConnection;
use zeroize::Zeroizing;

use super::codes::{decode, hash, int, uint};
use super::hot::log_id;
use super::write::expect;
use super::{bases, failed, seed};
use crate::sqlite::StoreError;

type Found<T> = Result<T, StoreError>;

pub(super) fn time(bytes: &[u8]) -> Found<UnixMs> {
    let bytes = bytes.try_into();
    let bytes = bytes.map_err(|_| StoreError::Corrupt { what: "time" })?;
    Ok(UnixMs(u64::from_be_bytes(bytes)))
}

pub(super) async fn meta(conn: &mut SqliteConnection, name: &str) -> Found<Option<Vec<u8>>> {
    let stored: Option<(Vec<u8>,)> = sqlx::query_as("SELECT value FROM meta WHERE name = ?")
        .bind(name)
        .fetch_optional(&mut *conn)
        .await?;
    Ok(stored.map(|(value,)| value))
}

/// The present generation, and the seed of its head key: as one transaction wrote them.
pub(super) async fn generation(
    conn: &mut SqliteConnection,
) -> Found<Option<(Generation, Zeroizing<[u8; 32]>)>> {
    let stored: (Option<Vec<u8>>, Option<Vec<u8>>) = sqlx::query_as(
        "SELECT (SELECT value FROM meta WHERE name = 'generation'), (SELECT value FROM meta WHERE name = 'head_key')",
    )
    .fetch_one(&mut *conn)
    .await?;
    match stored {
        (None, _) => Ok(None),
        (Some(generation), Some(key)) => Ok(Some((
            decode("generation", &generation)?,
            seed(key, "head key")?,
        ))),
        (Some(_), None) => Err(StoreError::Corrupt { what: "head key" }),
    }
}

type ServiceColumns = (Option<Vec<u8>>, Option<Vec<u8>>, i64);

pub(super) async fn service(conn: &mut SqliteConnection, (): &()) -> Found<Option<ServiceRow>> {
    let (generation, hold, recovers): ServiceColumns = sqlx::query_as(
        "SELECT (SELECT value FROM meta WHERE name = 'generation'), (SELECT value FROM meta WHERE name = 'hold'), \
         EXISTS (SELECT 1 FROM recovery)",
    )
    .fetch_one(&mut *conn)
    .await?;
    let Some(generation) = generation else {
        return Ok(None);
    };
    Ok(Some(ServiceRow {
        generation: decode("generation", &generation)?,
        hold: hold.as_deref().map(time).transpose()?,
        recovers: recovers != 0,
    }))
}

#[derive(sqlx::FromRow)]
struct RecoveryColumns {
    group_id: Vec<u8>,
    document: Vec<u8>,
    want_size: i64,
    want_root: Vec<u8>,
    generation: i64,
    began_ms: i64,
    ends_ms: i64,
}

impl RecoveryColumns {
    fn row(&self) -> Found<RecoveryRow> {
        Ok(RecoveryRow {
            log: log_id(&self.group_id, &self.document)?,
            want: Head {
                size: uint(self.want_size)?,
                root: hash(&self.want_root)?,
            },
            of: uint(self.generation)?,
            began: UnixMs(uint(self.began_ms)?),
            ends: UnixMs(uint(self.ends_ms)?),
        })
    }
}

pub(super) async fn recovery(
    conn: &mut SqliteConnection,
    log: &LogId,
) -> Found<Option<RecoveryRow>> {
    let row: Option<RecoveryColumns> =
        sqlx::query_as("SELECT * FROM recovery WHERE group_id = ? AND document = ?")
            .bind(log.group.as_bytes())
            .bind(log.document.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    row.map(|row| row.row()).transpose()
}

pub(super) async fn ended(
    conn: &mut SqliteConnection,
    (at, most): &(UnixMs, u32),
) -> Found<Option<Vec<RecoveryRow>>> {
    let rows: Vec<RecoveryColumns> = sqlx::query_as(
        "SELECT * FROM recovery WHERE ends_ms <= ? ORDER BY ends_ms, group_id, document LIMIT ?",
    )
    .bind(int(at.0))
    .bind(i64::from(*most))
    .fetch_all(&mut *conn)
    .await?;
    Ok(Some(
        rows.iter()
            .map(RecoveryColumns::row)
            .collect::<Found<_>>()?,
    ))
}

pub(super) async fn losses(conn: &mut SqliteConnection, log: &LogId) -> Found<Option<Vec<Loss>>> {
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as(
        "SELECT loss FROM losses WHERE group_id = ? AND document = ? ORDER BY generation DESC LIMIT ?",
    )
    .bind(log.group.as_bytes())
    .bind(log.document.as_bytes())
    .bind(int(limits::LOSSES_PER_LOG as u64))
    .fetch_all(&mut *conn)
    .await?;
    let oldest_first = rows.iter().rev();
    let losses = oldest_first.map(|(loss,)| decode("loss", loss));
    Ok(Some(losses.collect::<Found<_>>()?))
}

pub(super) async fn group_root(
    conn: &mut SqliteConnection,
    (group, size): &(GroupId, u64),
) -> Found<Option<Hash>> {
    let Some(seq) = size.checked_sub(1) else {
        return Ok(None);
    };
    let row: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT root FROM group_log WHERE group_id = ? AND seq = ?")
            .bind(group.as_bytes())
            .bind(int(seq))
            .fetch_optional(&mut *conn)
            .await?;
    if let Some((root,)) = row {
        return Ok(Some(hash(&root)?));
    }
    // Most groups have all of their log here.
    let base = bases::load(conn, group).await?;
    Ok(base.and_then(|base| base.root_at(*size)))
}

pub(super) async fn dropped(conn: &mut SqliteConnection, group: &GroupId) -> Found<Option<u64>> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT generation FROM dropped WHERE group_id = ?")
        .bind(group.as_bytes())
        .fetch_optional(&mut *conn)
        .await?;
    row.map(|(generation,)| uint(generation)).transpose()
}

const PUT_META: &str = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)";

pub(super) async fn write(conn: &mut SqliteConnection, change: Change) -> Result<(), Failure> {
    let query = match change {
        Change::Generation {
            expected,
            generation,
            seed,
        } => {
            let present = service(&mut *conn, &()).await?;
            expect(
                u64::from(present.map(|row| row.generation.number) == expected),
                1,
            )?;
            sqlx::query(
                "INSERT OR REPLACE INTO meta (name, value) VALUES ('generation', ?), ('head_key', ?)",
            )
            .bind(encode(&generation))
            .bind(seed.bytes().to_vec())
        }
        Change::Hold { ends: Some(ends) } => sqlx::query(PUT_META)
            .bind("hold")
            .bind(ends.0.to_be_bytes().to_vec()),
        Change::Hold { ends: None } => sqlx::query("DELETE FROM meta WHERE name = 'hold'"),
        Change::HeadTime { until } => sqlx::query(PUT_META)
            .bind("heads")
            .bind(until.to_be_bytes().to_vec()),
        Change::PackagesVoid => {
            sqlx::query("DELETE FROM key_packages WHERE last_resort != 0")
                .execute(&mut *conn)
                .await
                .map_err(failed)?;
            sqlx::query("UPDATE key_packages SET package = NULL WHERE package IS NOT NULL")
        }
        Change::Recovery(row) => sqlx::query(
            "INSERT OR REPLACE INTO recovery (group_id, document, want_size, want_root, generation, began_ms, ends_ms) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(row.log.group.as_bytes().to_vec())
        .bind(row.log.document.as_bytes().to_vec())
        .bind(int(row.want.size))
        .bind(row.want.root.as_bytes().to_vec())
        .bind(int(row.of))
        .bind(int(row.began.0))
        .bind(int(row.ends.0)),
        Change::RecoveryGone { log } => {
            sqlx::query("DELETE FROM recovery WHERE group_id = ? AND document = ?")
                .bind(log.group.as_bytes().to_vec())
                .bind(log.document.as_bytes().to_vec())
        }
        Change::Loss(loss) => {
            let log = LogId::from(loss.log);
            sqlx::query(
                "INSERT OR REPLACE INTO losses (group_id, document, generation, loss) VALUES (?, ?, ?, ?)",
            )
            .bind(log.group.as_bytes().to_vec())
            .bind(log.document.as_bytes().to_vec())
            .bind(int(loss.generation))
            .bind(encode(&loss))
        }
        _ => return Err(Failure::unwritten()),
    };
    query.execute(conn).await.map_err(failed)?;
    Ok(())
}
