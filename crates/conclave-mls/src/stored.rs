//! The public state in rows, at members and at the service alike. An entry of the log writes what it changed: a group with many documents or
//! members is not written anew with each.

use std::collections::BTreeMap;
use std::ops::Bound;

use conclave_proto::codec::encode;
use conclave_proto::record::EntryBody;
use conclave_proto::{DocumentId, Hash};
use conclave_rules::{GroupState, StateRows};

use crate::error::MlsError;
use crate::overlay::Rows;

/// What the keys of all own rows begin with; the others are OpenMLS's.
pub(crate) const OWN_ROWS: &[u8] = b"own/";
const EPOCH_ROW: &[u8] = b"own/epoch";
const LOG_ROW: &[u8] = b"own/log";
/// Followed by the first epoch and the device.
const ROSTER_ROWS: &[u8] = b"own/roster/";
/// Followed by a document.
const DOCUMENT_ROWS: &[u8] = b"own/document/";
/// Followed by a number, counted from 0.
const VOIDED_ROWS: &[u8] = b"own/voided/";

/// What of the state an entry has changed, beside what every entry changes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Changed {
    Nothing,
    Document(DocumentId),
    Voided,
    /// A commit: members, and the epoch's beginning.
    Epoch,
    /// The group is new here.
    All,
}

impl Changed {
    pub(crate) fn by(body: &EntryBody) -> Self {
        match body {
            EntryBody::DocumentCreated { document, .. }
            | EntryBody::DocumentClosed { document, .. }
            | EntryBody::DocumentReopened { document } => Self::Document(*document),
            EntryBody::RecordVoided { .. } => Self::Voided,
            EntryBody::RotationComplete { .. } => Self::Nothing,
        }
    }
}

fn key(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    [prefix, rest].concat()
}

/// Hands over the rows that have changed. No row of a state ever goes.
pub(crate) fn write(state: &GroupState, changed: Changed, put: &mut dyn FnMut(Vec<u8>, Vec<u8>)) {
    put(LOG_ROW.to_vec(), state.log_row());
    match changed {
        Changed::Nothing => {}
        Changed::Document(document) => document_row(state, &document, put),
        Changed::Voided => voided_row(state, state.voided.len().saturating_sub(1), put),
        Changed::Epoch => {
            put(EPOCH_ROW.to_vec(), state.epoch_row());
            roster_rows(state.changed_rows(), put);
        }
        Changed::All => {
            put(EPOCH_ROW.to_vec(), state.epoch_row());
            roster_rows(state.roster.rows().iter(), put);
            for document in state.documents.keys() {
                document_row(state, document, put);
            }
            (0..state.voided.len()).for_each(|number| voided_row(state, number, put));
        }
    }
}

fn roster_rows<'a>(
    rows: impl Iterator<Item = &'a conclave_rules::RosterRow>,
    put: &mut dyn FnMut(Vec<u8>, Vec<u8>),
) {
    for row in rows {
        let place = key(&row.first_epoch.to_be_bytes(), row.device.as_bytes());
        put(key(ROSTER_ROWS, &place), encode(row));
    }
}

fn document_row(state: &GroupState, document: &DocumentId, put: &mut dyn FnMut(Vec<u8>, Vec<u8>)) {
    if let Some(row) = state.document_row(document) {
        put(key(DOCUMENT_ROWS, document.as_bytes()), row);
    }
}

fn voided_row(state: &GroupState, number: usize, put: &mut dyn FnMut(Vec<u8>, Vec<u8>)) {
    if let Some(row) = state.voided_row(number) {
        put(key(VOIDED_ROWS, &(number as u64).to_be_bytes()), row);
    }
}

/// Reads the state from own rows, and from the roots of the log since its epoch began.
pub(crate) fn read(rows: &Rows, roots: Vec<Hash>) -> Result<GroupState, MlsError> {
    let rows: BTreeMap<&[u8], &[u8]> = rows
        .iter()
        .map(|(key, value)| (key.as_slice(), value.as_slice()))
        .collect();
    let row = |key: &[u8]| rows.get(key).copied().ok_or(MlsError::Damaged);
    let below = |prefix: &'static [u8]| {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let found = rows.range::<[u8], _>(from);
        let found = found.map_while(move |(key, value)| Some((key.strip_prefix(prefix)?, *value)));
        found.collect::<Vec<(&[u8], &[u8])>>()
    };
    let values = |prefix| below(prefix).into_iter().map(|(_, value)| value).collect();
    let documents = below(DOCUMENT_ROWS).into_iter().map(|(key, value)| {
        let document = DocumentId::from_slice(key).ok_or(MlsError::Damaged)?;
        Ok((document, value))
    });
    Ok(GroupState::from_rows(StateRows {
        epoch: row(EPOCH_ROW)?,
        log: row(LOG_ROW)?,
        roots,
        roster: values(ROSTER_ROWS),
        documents: documents.collect::<Result<_, MlsError>>()?,
        voided: values(VOIDED_ROWS),
    })?)
}
