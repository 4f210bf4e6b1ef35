//! The state in rows: what an entry changes is written, and nothing else.

use conclave_proto::codec::{Bytes, DecodeError, decode, encode};
use conclave_proto::{DocumentId, Frontier, GroupId, Hash, UnixMs};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use super::codec::{Core, DocumentRow, Documents, MALFORMED};
use super::{GROUP_STATE_BYTES, GROUP_STATE_VERSION, GroupState, PendingProposal};
use crate::roster::RosterRow;

/// What a commit changes, beside the roster's rows.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct EpochRow {
    version: u16,
    group: GroupId,
    epoch: u64,
    policy: Bytes,
    roster_hash: Hash,
    /// Rows of the roster: one that is lost is missed.
    rows: u64,
    last_time: UnixMs,
    epoch_start: u64,
    begun_by: Hash,
}

/// What every entry changes.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct LogRow {
    pending: Vec<PendingProposal>,
    rotating_since: u64,
    frontier: Frontier,
    /// Documents and voided records: a row of theirs that is lost is missed.
    documents: u64,
    voided: u64,
}

/// The encoded state in rows.
#[derive(Debug)]
pub struct StateRows<'a> {
    /// [`GroupState::epoch_row`].
    pub epoch: &'a [u8],
    /// [`GroupState::log_row`].
    pub log: &'a [u8],
    /// Roots of the log since the epoch began, in their order; those after the log's end are left alone.
    pub roots: Vec<Hash>,
    /// [`RosterRow`]s, each encoded, in the order of their first epochs, within one epoch by device.
    pub roster: Vec<&'a [u8]>,
    /// [`GroupState::document_row`] of each document.
    pub documents: Vec<(DocumentId, &'a [u8])>,
    /// [`GroupState::voided_row`] of each voided record, in the order of the log.
    pub voided: Vec<&'a [u8]>,
}

impl GroupState {
    /// Encodes what a commit changes, beside the roster's rows.
    #[must_use]
    pub fn epoch_row(&self) -> Vec<u8> {
        encode(&EpochRow {
            version: GROUP_STATE_VERSION,
            group: self.group,
            epoch: self.epoch,
            policy: encode(&self.policy).into(),
            roster_hash: self.roster.hash(),
            rows: self.roster.rows().len() as u64,
            last_time: self.last_time,
            epoch_start: self.epoch_start,
            begun_by: self.begun_by,
        })
    }

    /// Encodes what every entry changes, but for the log's root, which every entry adds.
    #[must_use]
    pub fn log_row(&self) -> Vec<u8> {
        encode(&LogRow {
            pending: self.pending.iter().copied().collect(),
            rotating_since: self.rotating_since,
            frontier: self.frontier.clone(),
            documents: self.documents.size() as u64,
            voided: self.voided.len() as u64,
        })
    }

    /// Rows of the roster that the commit which began this epoch made or ended.
    pub fn changed_rows(&self) -> impl Iterator<Item = &RosterRow> {
        let ended = self.epoch.checked_sub(1);
        let rows = self.roster.rows().iter();
        rows.filter(move |row| {
            row.first_epoch == self.epoch || (row.last_epoch.is_some() && row.last_epoch == ended)
        })
    }

    /// Encodes one document.
    #[must_use]
    pub fn document_row(&self, document: &DocumentId) -> Option<Vec<u8>> {
        self.documents.get(document).map(encode)
    }

    /// Encodes the voided record with this number, counted from 0.
    #[must_use]
    pub fn voided_row(&self, number: usize) -> Option<Vec<u8>> {
        self.voided.get(number).map(encode)
    }

    /// As [`GroupState::from_bytes`], from rows.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_rows(stored: StateRows<'_>) -> Result<Self, DecodeError> {
        let epoch: EpochRow = decode("group epoch", stored.epoch, GROUP_STATE_BYTES)?;
        let log: LogRow = decode("group log position", stored.log, GROUP_STATE_BYTES)?;
        let counts = (epoch.rows, log.documents, log.voided);
        let found = (
            stored.roster.len() as u64,
            stored.documents.len() as u64,
            stored.voided.len() as u64,
        );
        let since = log.frontier.size().checked_sub(epoch.epoch_start);
        let mut roots = stored.roots;
        let known = since.and_then(|since| usize::try_from(since).ok()?.checked_add(1));
        roots.truncate(known.ok_or(MALFORMED)?);
        if counts != found {
            return Err(MALFORMED);
        }
        let rows = stored.roster.iter();
        let rows = rows.map(|row| decode("roster row", row, GROUP_STATE_BYTES));
        let documents = stored.documents.iter().map(|(document, row)| {
            let entry = decode("document", row, GROUP_STATE_BYTES)?;
            let document = *document;
            Ok(DocumentRow { document, entry })
        });
        let voided = stored.voided.iter();
        let voided = voided.map(|row| decode("voided record", row, GROUP_STATE_BYTES));
        let rows = rows.collect::<Result<_, DecodeError>>()?;
        let listed = Documents {
            documents: documents.collect::<Result<_, DecodeError>>()?,
            voided: voided.collect::<Result<_, DecodeError>>()?,
        };
        let core = Core {
            version: epoch.version,
            group: epoch.group,
            epoch: epoch.epoch,
            policy: epoch.policy,
            roster_hash: epoch.roster_hash,
            last_time: epoch.last_time,
            pending: log.pending,
            rotating_since: log.rotating_since,
            frontier: log.frontier,
            epoch_start: epoch.epoch_start,
            epoch_log_roots: roots,
            begun_by: epoch.begun_by,
        };
        Self::assemble(core, rows, listed)
    }
}
