//! What a copy of a store can still open, for proofs that a removed device opens nothing new, and what it keeps of logs. Gives neither keys nor
//! plaintext.

use std::path::Path;

use conclave_engine::forensic as engine;
use conclave_engine::kept::{self, GroupLog, KeptLog};
use conclave_proto::group::RootWrap;
use conclave_proto::{DocumentId, GroupId, Record};

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

/// What the store in `folder` keeps of a group's log and of a document's. Use a copy.
///
/// # Errors
/// As [`openable`].
pub async fn kept_logs(
    folder: &Path,
    unlock: &Unlock,
    group: GroupId,
    document: DocumentId,
) -> Result<(GroupLog, KeptLog), Error> {
    let mut store = Store::open(folder, unlock).await?;
    let mut rows = store.read(&kept::group_prefix(&group)).await?;
    let of_group = kept::group_log(&rows, &group)?;
    rows.clear();
    for prefix in kept::document_prefixes(&group, &document) {
        rows.extend(store.read(&prefix).await?);
    }
    store.close().await?;
    Ok((of_group, kept::document_log(&rows, &group, &document)?))
}
