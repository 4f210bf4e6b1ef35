//! How far a group's documents are re-keyed.

use conclave_order::Reader;
use conclave_order::rows::{ActiveRow, DocumentRow};
use conclave_proto::DocumentId;
use conclave_proto::frame::{Answer, DocumentStatus, GroupStatus};

use super::Group;
use crate::error::OpError;

/// The status of every open document.
pub(crate) async fn status(group: &Group) -> Result<Answer, OpError> {
    let view = group.view();
    let mut reads = group.env.reads.acquire().await?;
    let open = reads.open_documents(&group.id).await?;
    let documents = open
        .into_iter()
        .map(|(log, row, active)| document(log.document, &row, active));
    Ok(Answer::Status(GroupStatus {
        epoch: view.epoch,
        rotating_since: view.rotating_since,
        documents: documents.collect(),
    }))
}

fn document(document: DocumentId, row: &DocumentRow, active: ActiveRow) -> DocumentStatus {
    DocumentStatus {
        document,
        due: u8::from(active.due_epoch > 0),
        head: row.frontier.head(),
        first_seq_of_snapshot_epoch: active.epoch_seq,
        snapshot: active.header,
        snapshot_id: active.id,
    }
}
