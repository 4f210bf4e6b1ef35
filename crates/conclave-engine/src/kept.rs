//! What is kept of logs, so that one that the service lost can be returned: where it lies, how much it is, and how it is read.

use std::collections::{BTreeMap, BTreeSet};

use conclave_doc::Rows;
pub use conclave_doc::{KeptItem, KeptLog};
use conclave_proto::codec::decode;
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::{DocumentId, GroupId, Record, UnixMs, limits};
use zeroize::Zeroizing;

use crate::cx::Cx;
use crate::error::EngineError;
use crate::group::{EntryRow, Past};
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

/// What is kept of a group's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupLog {
    /// Position of the first entry.
    pub first: u64,
    /// Entries from there on, without gaps, up to the last that this device has taken in.
    pub entries: Vec<KeptEntry>,
    /// Entries that list documents, in the order of the log, from its beginning.
    pub listing: Vec<Record>,
    /// Own commits that are in the log, with what they handed to joiners, by the epochs that they began.
    pub bundles: BTreeMap<u64, CommitBundle>,
}

/// An entry of a group's log, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEntry {
    /// When it came here.
    pub at: UnixMs,
    /// The epoch that the group was in after it.
    pub epoch: u64,
    /// The entry.
    pub entry: GroupEntry,
}

impl GroupLog {
    /// Entries from a position on, in order and without gaps. `None` where that one is not here.
    #[must_use]
    pub fn since(&self, seq: u64) -> Option<&[KeptEntry]> {
        let skip = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.entries.get(skip..)
    }
}

/// First bytes of the keys of the rows that [`group_log`] needs.
#[must_use]
pub fn group_prefix(group: &GroupId) -> Vec<u8> {
    keys::kept_prefix(group, &DocumentId::ZERO)
}

/// What is kept of a group's own log.
///
/// # Errors
/// [`EngineError::Store`] where rows are damaged, or entries are missing between others.
pub fn group_log(rows: &[Row], group: &GroupId) -> Result<GroupLog, EngineError> {
    let what = "kept entries";
    let damaged = EngineError::Store { what };
    let prefix = group_prefix(group);
    let mut log = GroupLog::default();
    for (key, value) in rows {
        let Some(rest) = key.strip_prefix(prefix.as_slice()) else {
            continue;
        };
        let (table, number) = rest.split_first().ok_or(damaged.clone())?;
        let number = number.try_into().map_err(|_| damaged.clone())?;
        let number = u64::from_be_bytes(number);
        match *table {
            keys::kept::ENTRY => {
                let next = log.first.saturating_add(log.entries.len() as u64);
                if log.entries.is_empty() {
                    log.first = number;
                } else if number != next {
                    return Err(damaged);
                }
                let row = EntryRow::read(value)?;
                let entry = decode(what, row.entry.as_slice(), limits::FRAME_BYTES);
                log.entries.push(KeptEntry {
                    at: row.at,
                    epoch: row.epoch,
                    entry: entry.map_err(|_| damaged.clone())?,
                });
            }
            keys::kept::LISTING => {
                let record = decode(what, value, limits::FRAME_BYTES);
                log.listing.push(record.map_err(|_| damaged.clone())?);
            }
            keys::kept::BUNDLE => {
                let bundle = decode(what, value, limits::FRAME_BYTES);
                let bundle = bundle.map_err(|_| damaged.clone())?;
                log.bundles.insert(number, bundle);
            }
            _ => return Err(damaged),
        }
    }
    Ok(log)
}

/// What of a group's rows speaks against that what is listed as kept of its own log is there, and nothing else.
fn group_violated(rows: &[Row], group: &GroupId) -> Result<(), String> {
    let log = group_log(rows, group).map_err(|error| format!("{error:?}"))?;
    let key = keys::group_row(group, keys::group::PAST, b"");
    let row = rows.iter().find(|(of, _)| *of == key);
    let past = row.map(|(_, value)| Past::read(value));
    let past = past.transpose().map_err(|error| format!("{error:?}"))?;
    let past = past.unwrap_or_default();
    let count = log.entries.len() as u64;
    let here = (count > 0).then(|| (log.first, log.first + count));
    if here != past.entries() {
        return Err(format!("entries {here:?}, listed {:?}", past.entries()));
    }
    let bundles: Vec<u64> = log.bundles.into_keys().collect();
    let mut listed: Vec<u64> = past.bundles().collect();
    listed.sort_unstable();
    if bundles != listed {
        return Err(format!("commits {bundles:?}, listed {listed:?}"));
    }
    Ok(())
}

/// What of a whole store speaks against that what is listed as kept is there, and nothing else: for tests.
#[doc(hidden)]
#[must_use]
pub fn violated(rows: &[Row]) -> Option<String> {
    let mut sum = 0;
    let mut groups = BTreeSet::new();
    for ((group, document), of) in by_document(rows) {
        groups.insert(group);
        if document == DocumentId::ZERO {
            continue;
        }
        match KeptLog::check(&of) {
            Ok((_, bytes)) => sum += bytes,
            Err(error) => return Some(format!("{group:?} {document:?}: {error}")),
        }
    }
    for group in groups {
        if let Err(error) = group_violated(rows, &group) {
            return Some(format!("{group:?}: {error}"));
        }
    }
    match read_total(rows) {
        Ok(total) if total == sum => None,
        total => Some(format!("{sum} bytes of documents, {total:?} in all")),
    }
}
