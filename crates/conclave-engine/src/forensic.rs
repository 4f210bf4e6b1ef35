//! What a copy of a store can still open. For proofs that a removed device opens nothing new: it gives neither keys nor plaintext.

use conclave_doc::{DocKeys, open};
use conclave_mls::{ClientGroup, EpochRoot, EpochSecrets};
use conclave_proto::group::RootWrap;
use conclave_proto::{EvidenceId, GroupId, Record, RescueId};

use crate::error::EngineError;
use crate::evidence;
use crate::io::Row;
use crate::keys;
use crate::rescue;
use crate::roots::RootRow;

/// Rows of a rescue copy, and its id: a sample for the register of decoders.
#[must_use]
pub fn rescue_sample() -> (RescueId, Vec<Row>) {
    rescue::sample()
}

/// Rows of a piece of evidence, and its id: a sample for the register of decoders.
#[must_use]
pub fn evidence_sample() -> (EvidenceId, Vec<Row>) {
    evidence::sample()
}

/// Prefix of the rows of a group that [`openable`] needs.
#[must_use]
pub fn group_prefix(group: &GroupId) -> Vec<u8> {
    keys::group_prefix(group)
}

/// Tries every root in a group's rows, and all that its wrap keys open of `wraps`, on every record. True where one opens it.
///
/// # Errors
/// [`EngineError::Store`] when a row is damaged.
pub fn openable(
    rows: &[Row],
    group: &GroupId,
    records: &[Record],
    wraps: &[RootWrap],
) -> Result<Vec<bool>, EngineError> {
    let mut roots: Vec<EpochRoot> = Vec::new();
    let mut secrets: Vec<EpochSecrets> = Vec::new();
    let mut mls_rows: Vec<Row> = Vec::new();
    let prefix = keys::group_prefix(group);
    for (key, value) in rows {
        let Some((table, rest)) = key
            .strip_prefix(prefix.as_slice())
            .and_then(<[u8]>::split_first)
        else {
            continue;
        };
        match *table {
            keys::group::ROOT => {
                let row: RootRow = keys::uncbor("epoch root", value)?;
                roots.push(row.root);
            }
            keys::group::SECRETS => secrets.push(keys::uncbor("epoch secrets", value)?),
            keys::group::MLS => mls_rows.push((rest.to_vec(), value.clone())),
            _ => {}
        }
    }
    // What MLS itself can still export.
    if let Ok(mls) = ClientGroup::load(mls_rows) {
        secrets.extend(mls.epoch_secrets());
    }
    for one in &secrets {
        let opened = wraps
            .iter()
            .filter_map(|wrap| ClientGroup::open_wrap(one, wrap).ok());
        roots.extend(opened.flatten().map(|(_, root)| root));
    }
    roots.extend(secrets.into_iter().map(|one| one.root));
    Ok(records
        .iter()
        .map(|record| {
            roots
                .iter()
                .any(|root| open(record, &DocKeys::derive(root, &record.header.document)).is_ok())
        })
        .collect())
}
