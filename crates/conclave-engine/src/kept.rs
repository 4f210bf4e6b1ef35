//! What is kept of logs, so that one that the service lost can be returned: where it lies, how much it is, and how it is read.

use std::collections::BTreeMap;

use conclave_doc::{KeptLog, Rows};
use conclave_proto::{DocumentId, GroupId};
use zeroize::Zeroizing;

use crate::cx::Cx;
use crate::error::EngineError;
use crate::io::Row;
use crate::keys;

/// Row of this device: how much is kept of documents' logs, in bytes.
const TOTAL: &str = "kept";

/// How much is kept of documents' logs, by the device's rows.
pub(crate) fn read_total(rows: &[Row]) -> Result<u64, EngineError> {
    let key = keys::device(TOTAL);
    let Some((_, value)) = rows.iter().find(|(of, _)| *of == key) else {
        return Ok(0);
    };
    let bytes = value.as_slice().try_into();
    let what = "kept records";
    bytes
        .map(u64::from_be_bytes)
        .map_err(|_| EngineError::Store { what })
}

impl Cx {
    /// Follows how much is kept of all documents' logs.
    pub(crate) fn kept_changed(&mut self, before: u64, now: u64) {
        if before != now {
            let without = self.kept_bytes.saturating_sub(before);
            self.kept_bytes = without.saturating_add(now);
            let value = self.kept_bytes.to_be_bytes().to_vec();
            self.put(keys::device(TOTAL), Zeroizing::new(value));
        }
    }
}

/// First bytes of the keys of the rows that [`document_log`] needs.
#[must_use]
pub fn document_prefixes(group: &GroupId, document: &DocumentId) -> [Vec<u8>; 2] {
    [
        keys::document_prefix(group, document),
        keys::kept_prefix(group, document),
    ]
}

/// What is kept of a document's log.
///
/// # Errors
/// [`EngineError::Doc`] where rows are damaged, missing, or contradict each other.
pub fn document_log(
    rows: &[Row],
    group: &GroupId,
    document: &DocumentId,
) -> Result<KeptLog, EngineError> {
    let mut all = by_document(rows);
    let of = all.remove(&(*group, *document)).unwrap_or_default();
    KeptLog::read(&of).map_err(EngineError::Doc)
}

/// Rows of documents, with their keys within these.
fn by_document(rows: &[Row]) -> BTreeMap<(GroupId, DocumentId), Rows> {
    let mut all: BTreeMap<(GroupId, DocumentId), Rows> = BTreeMap::new();
    for (key, value) in rows {
        if let Some(of) = keys::of_document(key) {
            let rows = all.entry((of.group, of.document)).or_default();
            rows.push((of.row.to_vec(), value.clone()));
        }
    }
    all
}

/// What of a whole store speaks against that what is listed as kept is there, and nothing else: for tests. All groups have to be at rest.
#[doc(hidden)]
#[must_use]
pub fn violated(rows: &[Row]) -> Option<String> {
    let mut sum = 0;
    for ((group, document), of) in by_document(rows) {
        if document == DocumentId::ZERO {
            continue;
        }
        match KeptLog::check(&of) {
            Ok((_, bytes)) => sum += bytes,
            Err(error) => return Some(format!("{group:?} {document:?}: {error}")),
        }
    }
    match read_total(rows) {
        Ok(total) if total == sum => None,
        total => Some(format!("{sum} bytes of documents, {total:?} in all")),
    }
}
