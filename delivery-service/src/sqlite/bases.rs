//! Where logs of groups begin that members brought.

use conclave_order::Failure;
use conclave_order::rows::BaseRow;
use conclave_proto::GroupId;
use conclave_proto::codec::encode;
use sqlx::SqliteConnection;

use super::codes::{check_sum, decode};
use super::failed;
use super::sums::base_sum;
use crate::sqlite::StoreError;

type Columns = (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>);

pub(super) async fn load(
    conn: &mut SqliteConnection,
    group: &GroupId,
) -> Result<Option<BaseRow>, StoreError> {
    let row: Option<Columns> =
        sqlx::query_as("SELECT frontier, roots, entries, sum FROM bases WHERE group_id = ?")
            .bind(group.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    let Some((frontier, roots, entries, sum)) = row else {
        return Ok(None);
    };
    let found = base_sum(group, [&frontier, &roots, &entries]);
    check_sum("group", &sum, &found)?;
    Ok(Some(BaseRow {
        frontier: decode("frontier", &frontier)?,
        roots: decode("roots", &roots)?,
        entries: decode("log entries", &entries)?,
    }))
}

pub(super) async fn write(
    conn: &mut SqliteConnection,
    group: &GroupId,
    row: &BaseRow,
) -> Result<(), Failure> {
    let (frontier, roots) = (encode(&row.frontier), encode(&row.roots));
    let entries = encode(&row.entries);
    let sum = base_sum(group, [&frontier, &roots, &entries]);
    sqlx::query(
        "INSERT INTO bases (group_id, frontier, roots, entries, sum) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(group.as_bytes().to_vec())
    .bind(frontier)
    .bind(roots)
    .bind(entries)
    .bind(sum)
    .execute(conn)
    .await
    .map_err(failed)?;
    Ok(())
}
