//! Encoding of the public state as a whole, for those who join: TLS structures in three parts.

use std::sync::Arc;

use conclave_proto::codec::{Bytes, DecodeError, decode, encode};
use conclave_proto::policy::GroupPolicy;
use conclave_proto::{DocumentId, Frontier, GroupId, Hash, UnixMs, limits};
use rpds::RedBlackTreeMapSync;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use super::{DocumentEntry, EpochState, GroupState, PendingProposal, Void};
use crate::roster::{Roster, RosterRow};

/// Version of the state encoding.
pub const GROUP_STATE_VERSION: u16 = 2;
/// Largest encoded state in bytes.
pub const GROUP_STATE_BYTES: usize = 64 * 1024 * 1024;

const WHAT: &str = "group state";
pub(super) const MALFORMED: DecodeError = DecodeError::Malformed { what: WHAT };

#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(super) struct Core {
    pub(super) version: u16,
    pub(super) group: GroupId,
    pub(super) epoch: u64,
    pub(super) policy: Bytes,
    pub(super) roster_hash: Hash,
    pub(super) last_time: UnixMs,
    pub(super) pending: Vec<PendingProposal>,
    pub(super) rotating_since: u64,
    pub(super) frontier: Frontier,
    pub(super) epoch_start: u64,
    pub(super) epoch_log_roots: Vec<Hash>,
    pub(super) begun_by: Hash,
}

#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(super) struct DocumentRow {
    pub(super) document: DocumentId,
    pub(super) entry: DocumentEntry,
}

#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(super) struct Documents {
    pub(super) documents: Vec<DocumentRow>,
    pub(super) voided: Vec<Void>,
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
        encode(&Core {
            version: GROUP_STATE_VERSION,
            group: self.group,
            epoch: self.epoch,
            policy: encode(&self.policy).into(),
            roster_hash: self.roster.hash(),
            last_time: self.last_time,
            pending: self.pending.iter().copied().collect(),
            rotating_since: self.rotating_since,
            frontier: self.frontier.clone(),
            epoch_start: self.epoch_start,
            epoch_log_roots: self.epoch_log_roots.iter().copied().collect(),
            begun_by: self.begun_by,
        })
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
            voided: self.voided.iter().copied().collect(),
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

    pub(super) fn assemble(
        core: Core,
        rows: Vec<RosterRow>,
        listed: Documents,
    ) -> Result<Self, DecodeError> {
        if core.version != GROUP_STATE_VERSION {
            return Err(MALFORMED);
        }
        let roster =
            Roster::from_rows(rows, core.roster_hash, core.epoch).map_err(|_| MALFORMED)?;
        let count = listed.documents.len();
        let of_epoch = EpochState {
            group: core.group,
            epoch: core.epoch,
            policy: GroupPolicy::from_bytes(core.policy.as_slice())?,
            roster,
            last_time: core.last_time,
            epoch_start: core.epoch_start,
            begun_by: core.begun_by,
        };
        let documents = listed.documents.into_iter();
        let documents: RedBlackTreeMapSync<_, _> =
            documents.map(|row| (row.document, row.entry)).collect();
        let state = Self {
            of_epoch: Arc::new(of_epoch),
            pending: core.pending.into_iter().collect(),
            voided: listed.voided.into_iter().collect(),
            rotating_since: core.rotating_since,
            frontier: core.frontier,
            epoch_log_roots: core.epoch_log_roots.into_iter().collect(),
            open_documents: documents
                .values()
                .filter(|entry: &&DocumentEntry| entry.closed.is_none())
                .count(),
            documents,
        };
        // Equal states have equal bytes only if a list has one order.
        if state.documents.size() != count || !state.is_consistent() {
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
            && self.documents.size() <= limits::GROUP_DOCUMENTS
            && self.open_documents <= limits::GROUP_OPEN_DOCUMENTS
            && self.voided.len() <= limits::GROUP_VOIDS
            && self.voided.most_of_one() <= limits::DOCUMENT_VOIDS
            && self
                .current_rows()
                .all(|row| row.role == self.policy.role(&row.user))
    }
}
