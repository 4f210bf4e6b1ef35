//! What a copy of a store can still open: for proofs that a removed device opens nothing new. Gives neither keys nor plaintext.

use std::path::Path;

use conclave_engine::forensic as engine;
use conclave_proto::group::RootWrap;
use conclave_proto::{GroupId, Record};

use crate::error::Error;
use crate::store::{Store, Unlock};

/// Tries everything that the store in `folder` holds of a group, and what that opens of `wraps`, on every record. True where a record opens.
/// Use a copy: a store is opened exclusively.
///
/// # Errors
/// [`Error::Store`], [`Error::Engine`] when a row is damaged.
pub async fn openable(
    folder: &Path,
    unlock: &Unlock,
    group: GroupId,
    records: &[Record],
    wraps: &[RootWrap],
) -> Result<Vec<bool>, Error> {
    let mut store = Store::open(folder, unlock).await?;
    let rows = store.read(&engine::group_prefix(&group)).await?;
    store.close().await?;
    Ok(engine::openable(&rows, &group, records, wraps)?)
}
