//! Reading what is stored of groups.

use conclave_order::query;
use conclave_order::query::group::Core;
use conclave_proto::frame::Answer;
use conclave_proto::{GroupId, Hash, Refusal};

use super::Group;
use crate::env::Env;
use crate::error::OpError;
use crate::limits;

/// Reads a group's public state.
pub(super) async fn restore(env: &Env, group: GroupId) -> Result<Core, OpError> {
    let mut reads = env.reads.acquire().await?;
    let core = query::group::restore(&mut reads, group, limits::BACKLOG_BYTES).await?;
    Ok(core.ok_or(Refusal::UnknownGroup)?)
}

/// The answer that an entry got when it was first accepted.
pub(super) async fn known(group: &Group, leaf: &Hash) -> Result<Option<Answer>, OpError> {
    let mut reads = group.env.reads.acquire().await?;
    Ok(query::group::known(&mut reads, group.id, *leaf).await?)
}
