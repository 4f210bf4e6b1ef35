//! How far a group's documents are re-keyed.

use conclave_order::query;
use conclave_proto::frame::Answer;

use super::Group;
use crate::error::OpError;

/// The status of every open document.
pub(crate) async fn status(group: &Group) -> Result<Answer, OpError> {
    let view = group.view();
    let mut reads = group.env.reads.acquire().await?;
    Ok(query::group::status(&mut reads, &view).await?)
}
