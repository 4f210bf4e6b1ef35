//! Groups of databases from before a group's state had rows: these are derived from what is there instead, one value and the signed entries
//! after it.

use conclave_mls::PublicGroupState;
use conclave_order::rows::PartChange;
use conclave_proto::GroupId;
use conclave_proto::group::GroupEntry;
use sqlx::{Connection, SqliteConnection};

use super::codes::{check_sum, decode, id, int};
use super::parts;
use super::sums::checkpoint_sum;
use crate::sqlite::StoreError;

const DAMAGED: StoreError = StoreError::Corrupt { what: "group" };

/// Derives the rows of all that have none. A group that is damaged stays as it is, and is not served.
pub(super) async fn carry_over(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let groups: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT group_id FROM group_checkpoints")
        .fetch_all(&mut *conn)
        .await?;
    for (group,) in groups {
        let group = id(&group, GroupId::from_slice)?;
        match derive(conn, &group).await {
            Ok(()) => {}
            Err(StoreError::Corrupt { what }) => {
                tracing::error!(%group, what, "a group of an older database is damaged");
            }
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

async fn derive(conn: &mut SqliteConnection, group: &GroupId) -> Result<(), StoreError> {
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
    let row: Option<(Vec<u8>, Option<Vec<u8>>)> = sqlx::query_as(
        "SELECT checkpoint, checkpoint_sum FROM group_checkpoints WHERE group_id = ?",
    )
    .bind(group.as_bytes())
    .fetch_optional(&mut *tx)
    .await?;
    let Some((checkpoint, sum)) = row else {
        return Ok(());
    };
    check_sum("group", sum.as_deref(), || checkpoint_sum(&checkpoint))?;
    let mut state = PublicGroupState::from_checkpoint(&checkpoint).map_err(|_| DAMAGED)?;
    let entries: Vec<(Vec<u8>,)> =
        sqlx::query_as("SELECT entry FROM group_log WHERE group_id = ? AND seq >= ? ORDER BY seq")
            .bind(group.as_bytes())
            .bind(int(state.state().head().size))
            .fetch_all(&mut *tx)
            .await?;
    for (entry,) in entries {
        let GroupEntry::Signed(record) = decode("log entry", &entry)? else {
            return Err(DAMAGED);
        };
        let device = record.header.author.device;
        let effect = state.judge_entry(&record, device).map_err(|_| DAMAGED)?;
        state.apply_entry(&effect);
    }
    parts::write(&mut tx, group, PartChange::taken(&mut state)).await?;
    sqlx::query("DELETE FROM group_checkpoints WHERE group_id = ?")
        .bind(group.as_bytes())
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}
