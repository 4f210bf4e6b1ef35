//! How far a group's documents are re-keyed.

use conclave_proto::frame::{Answer, DocumentStatus, GroupStatus};
use conclave_proto::{DocumentId, Frontier, Hash};

use super::Group;
use crate::store::codes::{decode, id, uint};
use crate::store::{OpError, StoreError};

#[derive(sqlx::FromRow)]
struct Columns {
    document: Vec<u8>,
    frontier: Vec<u8>,
    due_epoch: i64,
    snapshot_epoch_seq: i64,
    snapshot_header: Vec<u8>,
    snapshot_id: Vec<u8>,
}

/// The status of every open document.
pub(crate) async fn status(group: &Group) -> Result<Answer, OpError> {
    let view = group.view();
    let mut reads = group.env.reads.acquire().await?;
    let rows: Vec<Columns> = sqlx::query_as(
        "SELECT document, frontier, due_epoch, snapshot_epoch_seq, snapshot_header, snapshot_id \
         FROM documents WHERE group_id = ? AND closed IS NULL ORDER BY id",
    )
    .bind(group.id.as_bytes())
    .fetch_all(&mut *reads)
    .await?;
    let documents = rows
        .into_iter()
        .map(document)
        .collect::<Result<_, StoreError>>()?;
    Ok(Answer::Status(GroupStatus {
        epoch: view.epoch,
        rotating_since: view.rotating_since,
        documents,
    }))
}

fn document(row: Columns) -> Result<DocumentStatus, StoreError> {
    let frontier: Frontier = decode("frontier", &row.frontier)?;
    Ok(DocumentStatus {
        document: id(&row.document, DocumentId::from_slice)?,
        due: u8::from(row.due_epoch > 0),
        head: frontier.head(),
        first_seq_of_snapshot_epoch: uint(row.snapshot_epoch_seq)?,
        snapshot: decode("snapshot header", &row.snapshot_header)?,
        snapshot_id: id(&row.snapshot_id, Hash::from_slice)?,
    })
}
