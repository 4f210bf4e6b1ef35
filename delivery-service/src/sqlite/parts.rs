//! The public states of groups, a row for each of their parts.

use std::collections::BTreeMap;

use bytes::Bytes;
use conclave_order::Failure;
use conclave_order::rows::{PartChange, PartsRow};
use conclave_proto::GroupId;
use conclave_proto::group::RootWrap;
use sqlx::SqliteConnection;

use super::codes::{check_sum, decode, uint};
use super::failed;
use super::sums::part_sum;
use crate::sqlite::StoreError;

/// Reads a group's parts.
pub(super) async fn load(
    conn: &mut SqliteConnection,
    group: &GroupId,
) -> Result<Option<PartsRow>, StoreError> {
    let row: Option<(Option<Vec<u8>>, i64)> =
        sqlx::query_as("SELECT wrap, version FROM groups WHERE id = ?")
            .bind(group.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    let Some((wrap, version)) = row else {
        return Ok(None);
    };
    let wrap = wrap.map(|wrap| decode::<RootWrap>("wrap", &wrap));
    let rows: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT part, value, sum FROM group_parts WHERE group_id = ?")
            .bind(group.as_bytes())
            .fetch_all(&mut *conn)
            .await?;
    let mut parts = BTreeMap::new();
    for (part, value, sum) in rows {
        check_sum("group", &sum, &part_sum(group, &part, &value))?;
        parts.insert(Bytes::from(part), Bytes::from(value));
    }
    Ok(Some(PartsRow {
        parts,
        version: uint(version)?,
        wrap: wrap.transpose()?,
    }))
}

/// Writes what has changed of a group's parts.
pub(super) async fn write(
    conn: &mut SqliteConnection,
    group: &GroupId,
    parts: Vec<PartChange>,
) -> Result<(), Failure> {
    for PartChange { part, value } in parts {
        let query = match value {
            Some(value) => sqlx::query(
                "INSERT INTO group_parts (group_id, part, value, sum) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (group_id, part) DO UPDATE SET value = ?3, sum = ?4",
            )
            .bind(group.as_bytes().to_vec())
            .bind(part.to_vec())
            .bind(value.to_vec())
            .bind(part_sum(group, &part, &value)),
            None => sqlx::query("DELETE FROM group_parts WHERE group_id = ? AND part = ?")
                .bind(group.as_bytes().to_vec())
                .bind(part.to_vec()),
        };
        query.execute(&mut *conn).await.map_err(failed)?;
    }
    Ok(())
}
