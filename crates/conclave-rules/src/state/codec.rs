//! Encoding of the public state: TLS structures, in three parts so that a change rewrites only what changed.

use std::collections::BTreeMap;

use conclave_proto::codec::{Bytes, DecodeError, decode, encode};
use conclave_proto::policy::GroupPolicy;
use conclave_proto::{DocumentId, Frontier, GroupId, Hash, UnixMs, limits};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use super::{DocumentEntry, GroupState, PendingProposal};
use crate::roster::{Roster, RosterRow};

/// Version of the state encoding.
pub const GROUP_STATE_VERSION: u16 = 1;
/// Largest encoded state in bytes.
pub const GROUP_STATE_BYTES: usize = 64 * 1024 * 1024;

const WHAT: &str = "group state";
const MALFORMED: DecodeError = DecodeError::Malformed { what: WHAT };

#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct Core {
    version: u16,
    group: GroupId,
    epoch: u64,
    policy: Bytes,
    roster_hash: Hash,
    last_time: UnixMs,
    pending: Vec<PendingProposal>,
    rotating_since: u64,
    frontier: Frontier,
    epoch_start: u64,
    epoch_log_roots: Vec<Hash>,
    begun_by: Hash,
}

#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct DocumentRow {
    document: DocumentId,
    entry: DocumentEntry,
}

#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct VoidedRow {
    document: DocumentId,
    record: Hash,
}

#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct Documents {
    documents: Vec<DocumentRow>,
    voided: Vec<VoidedRow>,
}

/// The encoded state in its parts.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct StateParts {
    /// What changes with every entry.
    pub core: Bytes,
    /// What changes with members.
    pub roster: Bytes,
    /// What changes with documents.
    pub documents: Bytes,
}

/// The encoded state in rows: what an entry changes is written, and nothing else.
#[derive(Debug)]
pub struct StateRows<'a> {
    /// [`GroupState::core_row`].
    pub core: &'a [u8],
    /// Roots of the log since the epoch began, in their order.
    pub roots: Vec<Hash>,
    /// [`GroupState::roster_bytes`].
    pub roster: &'a [u8],
    /// [`GroupState::document_row`] of each document.
    pub documents: Vec<(DocumentId, &'a [u8])>,
    /// [`GroupState::voided_row`].
    pub voided: &'a [u8],
}

impl GroupState {
    /// Encodes the state; equal states have equal bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&self.to_parts())
    }

    /// Reads a state and checks that it is consistent in itself. Whether it is the right one shows only by comparing hashes: see
    /// [`Roster::verify_chain`].
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_parts(&decode(WHAT, bytes, GROUP_STATE_BYTES)?)
    }

    fn to_parts(&self) -> StateParts {
        StateParts {
            core: self.core_bytes().into(),
            roster: self.roster_bytes().into(),
            documents: self.documents_bytes().into(),
        }
    }

    /// Encodes what changes with every entry.
    #[must_use]
    pub fn core_bytes(&self) -> Vec<u8> {
        encode(&self.core(self.epoch_log_roots.clone()))
    }

    fn core(&self, epoch_log_roots: Vec<Hash>) -> Core {
        Core {
            version: GROUP_STATE_VERSION,
            group: self.group,
            epoch: self.epoch,
            policy: encode(&self.policy).into(),
            roster_hash: self.roster.hash(),
            last_time: self.last_time,
            pending: self.pending.clone(),
            rotating_since: self.rotating_since,
            frontier: self.frontier.clone(),
            epoch_start: self.epoch_start,
            epoch_log_roots,
            begun_by: self.begun_by,
        }
    }

    /// Encodes what changes with every entry, but for the log's roots since the epoch began: an entry adds one, for a row of its own.
    #[must_use]
    pub fn core_row(&self) -> Vec<u8> {
        encode(&self.core(Vec::new()))
    }

    /// Encodes one document, for a row of its own.
    #[must_use]
    pub fn document_row(&self, document: &DocumentId) -> Option<Vec<u8>> {
        self.documents.get(document).map(encode)
    }

    /// Encodes the records that were declared void.
    #[must_use]
    pub fn voided_row(&self) -> Vec<u8> {
        encode(&self.voided_rows())
    }

    fn voided_rows(&self) -> Vec<VoidedRow> {
        let voided = self.voided.iter();
        let row = |(document, record): &(DocumentId, Hash)| VoidedRow {
            document: *document,
            record: *record,
        };
        voided.map(row).collect()
    }

    /// Encodes what changes with members.
    #[must_use]
    pub fn roster_bytes(&self) -> Vec<u8> {
        let rows: Vec<&RosterRow> = self.roster.rows().iter().collect();
        encode(&rows)
    }

    /// Encodes what changes with documents.
    #[must_use]
    pub fn documents_bytes(&self) -> Vec<u8> {
        encode(&Documents {
            documents: self
                .documents
                .iter()
                .map(|(document, entry)| DocumentRow {
                    document: *document,
                    entry: *entry,
                })
                .collect(),
            voided: self.voided_rows(),
        })
    }

    /// As [`GroupState::from_bytes`], from the parts.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_parts(parts: &StateParts) -> Result<Self, DecodeError> {
        let core: Core = decode(WHAT, parts.core.as_slice(), GROUP_STATE_BYTES)?;
        let rows: Vec<RosterRow> = decode("roster", parts.roster.as_slice(), GROUP_STATE_BYTES)?;
        let listed: Documents = decode(
            "document list",
            parts.documents.as_slice(),
            GROUP_STATE_BYTES,
        )?;
        Self::assemble(core, rows, listed)
    }

    /// As [`GroupState::from_bytes`], from rows.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_rows(stored: &StateRows<'_>) -> Result<Self, DecodeError> {
        let mut core: Core = decode(WHAT, stored.core, GROUP_STATE_BYTES)?;
        core.epoch_log_roots.clone_from(&stored.roots);
        let rows: Vec<RosterRow> = decode("roster", stored.roster, GROUP_STATE_BYTES)?;
        let documents = stored.documents.iter().map(|(document, row)| {
            let entry = decode("document", row, GROUP_STATE_BYTES)?;
            let document = *document;
            Ok(DocumentRow { document, entry })
        });
        let listed = Documents {
            documents: documents.collect::<Result<_, DecodeError>>()?,
            voided: decode("voided records", stored.voided, GROUP_STATE_BYTES)?,
        };
        Self::assemble(core, rows, listed)
    }

    fn assemble(core: Core, rows: Vec<RosterRow>, listed: Documents) -> Result<Self, DecodeError> {
        if core.version != GROUP_STATE_VERSION {
            return Err(MALFORMED);
        }
        let roster =
            Roster::from_rows(rows, core.roster_hash, core.epoch).map_err(|_| MALFORMED)?;
        let count = listed.documents.len();
        let documents: BTreeMap<_, _> = listed
            .documents
            .into_iter()
            .map(|row| (row.document, row.entry))
            .collect();
        let state = Self {
            group: core.group,
            epoch: core.epoch,
            policy: GroupPolicy::from_bytes(core.policy.as_slice())?,
            roster,
            last_time: core.last_time,
            pending: core.pending,
            voided: listed
                .voided
                .into_iter()
                .map(|row| (row.document, row.record))
                .collect(),
            rotating_since: core.rotating_since,
            frontier: core.frontier,
            epoch_start: core.epoch_start,
            epoch_log_roots: core.epoch_log_roots,
            begun_by: core.begun_by,
            documents,
        };
        // Equal states have equal bytes only if a list has one order.
        if state.documents.len() != count || !state.is_consistent() {
            return Err(MALFORMED);
        }
        Ok(state)
    }

    fn is_consistent(&self) -> bool {
        let size = self.frontier.size();
        let roots = self.epoch_log_roots.len() as u64;
        let logged = self.epoch_start <= size
            && roots == (size - self.epoch_start).saturating_add(1)
            && self.epoch_log_roots.last() == Some(&self.frontier.root());
        let pending = self.pending.iter().all(|proposal| {
            self.is_member(&proposal.device)
                && proposal.seq >= self.epoch_start
                && proposal.seq < size
        });
        let begun = (self.epoch == 0) == (self.epoch_start == 0)
            && (self.epoch == 0) == (self.begun_by == Hash::ZERO);
        logged
            && pending
            && begun
            && self.current_rows().all(|row| row.time <= self.last_time)
            && self.rotating_since <= self.epoch
            && self.documents.len() <= limits::GROUP_DOCUMENTS
            && self
                .current_rows()
                .all(|row| row.role == self.policy.role(&row.user))
    }
}
