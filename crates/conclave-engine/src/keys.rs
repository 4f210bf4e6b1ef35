//! Layout of the store: which key holds what. Keys consist of a table byte and ids; everything else is in values.

use ciborium::de::Error as CborError;
use conclave_proto::{DocumentId, EvidenceId, GroupId, RescueId};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::command::OperationId;
use crate::error::EngineError;
use crate::finding::FindingId;

/// This device: identity, contacts, device list.
pub(crate) const DEVICE: u8 = 1;
/// Private halves of own key packages.
pub(crate) const KEY_PACKAGES: u8 = 2;
/// One row per group: where this device stands in it.
pub(crate) const INDEX: u8 = 3;
/// Rows of a group.
pub(crate) const GROUP: u8 = 4;
/// Rows of a document.
pub(crate) const DOCUMENT: u8 = 5;
/// Welcomes not yet accepted or declined.
pub(crate) const INVITATION: u8 = 6;

/// Ordered entries of groups that had to be refused: they outlive the membership.
pub(crate) const EVIDENCE: u8 = 7;
/// Own edits that have no place any more: they outlive document and membership.
pub(crate) const RESCUE: u8 = 8;

/// Rows of a rescue copy.
pub(crate) mod rescue {
    /// Where it comes from. These are in memory.
    pub(crate) const HEAD: u8 = b'h';
    /// What it holds.
    pub(crate) const BODY: u8 = b'w';
}

/// What is kept of logs, so that one that the service lost can be returned: of documents, and below the id of none of the group itself.
pub(crate) const KEPT: u8 = 9;
/// What was found, until somebody is done with it.
pub(crate) const FINDING: u8 = 10;
/// What waits for the service, by document.
pub(crate) const UNSENT: u8 = 11;
/// Outcomes of the last operations.
pub(crate) const OPERATION: u8 = 12;

/// Evidence against the service or a device: it outlives document and membership.
pub(crate) const PROOF: u8 = 13;

/// Rows of a piece of evidence.
pub(crate) mod proof {
    /// What it is about. These are in memory.
    pub(crate) const HEAD: u8 = b'h';
    /// What is shown to a stranger.
    pub(crate) const BODY: u8 = b'w';
}

/// Sub-tables of a group.
pub(crate) mod group {
    /// MLS state.
    pub(crate) const MLS: u8 = b'm';
    /// Epoch roots.
    pub(crate) const ROOT: u8 = b'r';
    /// Secrets of the current epoch.
    pub(crate) const SECRETS: u8 = b's';
    /// Intents.
    pub(crate) const INTENT: u8 = b'i';
    /// What waits for the service: a commit, a return.
    pub(crate) const OUTBOX: u8 = b'o';
    /// What is known of each document.
    pub(crate) const DOCUMENT: u8 = b'd';
    /// Largest signed heads.
    pub(crate) const HEAD: u8 = b'h';
    /// Flags.
    pub(crate) const META: u8 = b'f';
    /// What is kept of the log.
    pub(crate) const PAST: u8 = b'k';
    /// MLS state of a return on its way: it takes the place of the other when the service has ordered it.
    pub(crate) const SCRATCH: u8 = b'x';
}

/// Sub-tables of what is kept of a group's log.
pub(crate) mod kept {
    /// Entries, by their positions.
    pub(crate) const ENTRY: u8 = b'l';
    /// Those that list documents, in the order of the log.
    pub(crate) const LISTING: u8 = b'n';
    /// Own commits with their Welcomes, by the epochs that they began.
    pub(crate) const BUNDLE: u8 = b'b';
}

pub(crate) fn device(name: &str) -> Vec<u8> {
    [&[DEVICE], name.as_bytes()].concat()
}

pub(crate) fn index(group: &GroupId) -> Vec<u8> {
    [&[INDEX], group.as_bytes()].concat()
}

pub(crate) fn group_prefix(group: &GroupId) -> Vec<u8> {
    [&[GROUP], group.as_bytes()].concat()
}

pub(crate) fn group_row(group: &GroupId, table: u8, rest: &[u8]) -> Vec<u8> {
    [&[GROUP], group.as_bytes(), &[table], rest].concat()
}

pub(crate) fn documents_prefix(group: &GroupId) -> Vec<u8> {
    [&[DOCUMENT], group.as_bytes()].concat()
}

pub(crate) fn document_prefix(group: &GroupId, document: &DocumentId) -> Vec<u8> {
    [&[DOCUMENT], group.as_bytes(), document.as_bytes()].concat()
}

/// A row of a document, by its key.
pub(crate) struct OfDocument<'a> {
    pub(crate) group: GroupId,
    pub(crate) document: DocumentId,
    /// Its key within the document.
    pub(crate) row: &'a [u8],
}

/// What a key of a document's row says.
pub(crate) fn of_document(key: &[u8]) -> Option<OfDocument<'_>> {
    let (table, rest) = key.split_first()?;
    let (group, rest) = rest.split_at_checked(GroupId::LEN)?;
    let (document, row) = rest.split_at_checked(DocumentId::LEN)?;
    let found = OfDocument {
        group: GroupId::from_slice(group)?,
        document: DocumentId::from_slice(document)?,
        row,
    };
    matches!(*table, DOCUMENT | KEPT).then_some(found)
}

pub(crate) fn kept_of_group(group: &GroupId) -> Vec<u8> {
    [&[KEPT], group.as_bytes()].concat()
}

pub(crate) fn kept_prefix(group: &GroupId, document: &DocumentId) -> Vec<u8> {
    [&[KEPT], group.as_bytes(), document.as_bytes()].concat()
}

/// What is kept of a group's own log, in one sub-table.
pub(crate) fn kept_entries(group: &GroupId, table: u8) -> Vec<u8> {
    let mut key = kept_prefix(group, &DocumentId::ZERO);
    key.push(table);
    key
}

pub(crate) fn kept_entry(group: &GroupId, table: u8, number: u64) -> Vec<u8> {
    let mut key = kept_entries(group, table);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn evidence_prefix(group: &GroupId) -> Vec<u8> {
    [&[EVIDENCE], group.as_bytes()].concat()
}

pub(crate) fn evidence(group: &GroupId, seq: u64) -> Vec<u8> {
    [&[EVIDENCE], group.as_bytes(), &seq.to_be_bytes()[..]].concat()
}

pub(crate) fn finding(id: &FindingId) -> Vec<u8> {
    [&[FINDING], id.0.as_slice()].concat()
}

pub(crate) fn invitation(group: &GroupId) -> Vec<u8> {
    [&[INVITATION], group.as_bytes()].concat()
}

pub(crate) fn rescue_heads() -> Vec<u8> {
    vec![RESCUE, rescue::HEAD]
}

pub(crate) fn rescue_head(id: &RescueId) -> Vec<u8> {
    [&[RESCUE, rescue::HEAD], id.as_bytes()].concat()
}

pub(crate) fn rescue_body(id: &RescueId) -> Vec<u8> {
    [&[RESCUE, rescue::BODY], id.as_bytes()].concat()
}

pub(crate) fn proof_heads() -> Vec<u8> {
    vec![PROOF, proof::HEAD]
}

pub(crate) fn proof_head(id: &EvidenceId) -> Vec<u8> {
    [&[PROOF, proof::HEAD], id.as_bytes()].concat()
}

pub(crate) fn proof_body(id: &EvidenceId) -> Vec<u8> {
    [&[PROOF, proof::BODY], id.as_bytes()].concat()
}

pub(crate) fn unsent_prefix(group: &GroupId) -> Vec<u8> {
    [&[UNSENT], group.as_bytes()].concat()
}

pub(crate) fn unsent(group: &GroupId, document: &DocumentId) -> Vec<u8> {
    [&[UNSENT], group.as_bytes(), document.as_bytes()].concat()
}

pub(crate) fn operation(id: &OperationId) -> Vec<u8> {
    [&[OPERATION], &id.0[..]].concat()
}

/// Room that a row is given at first, in bytes.
const FIRST_BYTES: usize = 512;

/// Encodes a row.
pub(crate) fn cbor<T: Serialize>(value: &T) -> Zeroizing<Vec<u8>> {
    let mut out = Wiped::default();
    // Writing into memory fails only for types that cannot be serialised; an empty row is refused when read.
    if ciborium::into_writer(value, &mut out).is_err() {
        out.0.clear();
    }
    out.0
}

/// Grows without leaving what was written behind: a plain vector that grows leaves copies on the heap.
#[derive(Default)]
struct Wiped(Zeroizing<Vec<u8>>);

impl std::io::Write for Wiped {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let needed = self.0.len().saturating_add(bytes.len());
        if needed > self.0.capacity() {
            let room = needed.max(self.0.capacity().saturating_mul(2));
            let mut next = Zeroizing::new(Vec::with_capacity(room.max(FIRST_BYTES)));
            next.extend_from_slice(&self.0);
            self.0 = next;
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Decodes a row.
pub(crate) fn uncbor<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, EngineError> {
    ciborium::from_reader(bytes).map_err(|_: CborError<_>| EngineError::Store { what })
}
