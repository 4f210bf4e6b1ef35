//! The public state in rows. An entry of the log writes what it changed: a group with many documents, or with many entries since its epoch
//! began, is not written anew with each.

use conclave_proto::codec::decode;
use conclave_proto::record::EntryBody;
use conclave_proto::{DocumentId, Hash};
use conclave_rules::{GROUP_STATE_BYTES, GroupState, StateParts, StateRows};
use zeroize::Zeroizing;

use super::ClientGroup;
use crate::error::MlsError;
use crate::overlay::{Overlay, Rows};

const STATE_ROW: &[u8] = b"own/state";
const ROSTER_ROW: &[u8] = b"own/roster";
const VOIDED_ROW: &[u8] = b"own/voided";
/// Followed by a document.
const DOCUMENT_ROWS: &[u8] = b"own/document/";
/// Followed by a position of the log since the epoch began.
const ROOT_ROWS: &[u8] = b"own/root/";
/// All documents in one row, as programs before this one wrote them.
const DOCUMENTS_ROW: &[u8] = b"own/documents";

fn document_key(document: &DocumentId) -> Vec<u8> {
    [DOCUMENT_ROWS, document.as_bytes()].concat()
}

fn root_key(position: u64) -> Vec<u8> {
    [ROOT_ROWS, &position.to_be_bytes()[..]].concat()
}

/// Rows below a prefix, which is cut off.
fn below(overlay: &Overlay, prefix: &[u8]) -> Rows {
    let mut rows = overlay.rows_under(prefix);
    rows.iter_mut()
        .for_each(|(key, _)| *key = key.split_off(prefix.len().min(key.len())));
    rows
}

/// What of the state an entry has changed, beside what every entry changes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Changed {
    Nothing,
    Document(DocumentId),
    Voided,
    /// A commit: members, and the epoch's beginning.
    Epoch,
    /// The group is new here.
    All,
}

impl Changed {
    pub(super) fn by(body: &EntryBody) -> Self {
        match body {
            EntryBody::DocumentCreated { document, .. }
            | EntryBody::DocumentClosed { document, .. } => Self::Document(*document),
            EntryBody::RecordVoided { .. } => Self::Voided,
            EntryBody::RotationComplete { .. } => Self::Nothing,
        }
    }
}

/// Reads the state.
pub(super) fn read(overlay: &Overlay) -> Result<GroupState, MlsError> {
    let row = |key: &[u8]| overlay.get_row(key).ok_or(MlsError::Damaged);
    let (core, roster) = (row(STATE_ROW)?, row(ROSTER_ROW)?);
    if let Some(documents) = overlay.get_row(DOCUMENTS_ROW) {
        let state = GroupState::from_parts(&StateParts {
            core: core.as_slice().into(),
            roster: roster.as_slice().into(),
            documents: documents.as_slice().into(),
        })?;
        write(overlay, &state, Changed::All);
        return Ok(state);
    }
    let voided = row(VOIDED_ROW)?;
    let (documents, roots) = (below(overlay, DOCUMENT_ROWS), below(overlay, ROOT_ROWS));
    let listed = documents.iter().map(|(key, value)| {
        let document = DocumentId::from_slice(key).ok_or(MlsError::Damaged)?;
        Ok((document, value.as_slice()))
    });
    let root = |(_, value): &(Vec<u8>, Zeroizing<Vec<u8>>)| {
        decode::<Hash>("log root", value, GROUP_STATE_BYTES).map_err(MlsError::from)
    };
    Ok(GroupState::from_rows(&StateRows {
        core: core.as_slice(),
        roots: roots.iter().map(root).collect::<Result<_, _>>()?,
        roster: roster.as_slice(),
        documents: listed.collect::<Result<_, MlsError>>()?,
        voided: voided.as_slice(),
    })?)
}

fn write(overlay: &Overlay, state: &GroupState, changed: Changed) {
    let put = |key: &[u8], value: Vec<u8>| overlay.put_row(key, Some(Zeroizing::new(value)));
    put(STATE_ROW, state.core_row());
    if matches!(changed, Changed::Epoch | Changed::All) {
        put(ROSTER_ROW, state.roster_bytes());
        for (key, _) in overlay.rows_under(ROOT_ROWS) {
            overlay.put_row(&key, None);
        }
        for (at, root) in (state.epoch_start..).zip(&state.epoch_log_roots) {
            put(&root_key(at), root.0.to_vec());
        }
    } else if let Some(root) = state.epoch_log_roots.last() {
        put(&root_key(state.frontier.size()), root.0.to_vec());
    }
    if let Changed::Document(document) = changed
        && let Some(row) = state.document_row(&document)
    {
        put(&document_key(&document), row);
    }
    if matches!(changed, Changed::Voided | Changed::All) {
        put(VOIDED_ROW, state.voided_row());
    }
    if matches!(changed, Changed::All) {
        overlay.put_row(DOCUMENTS_ROW, None);
        for (key, _) in overlay.rows_under(DOCUMENT_ROWS) {
            overlay.put_row(&key, None);
        }
        for document in state.documents.keys() {
            if let Some(row) = state.document_row(document) {
                put(&document_key(document), row);
            }
        }
    }
}

impl ClientGroup {
    /// Writes what changed of the public state.
    pub(super) fn save_state(&self, changed: Changed) {
        write(self.provider.overlay(), &self.state, changed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_order_of_positions() {
        assert!(root_key(9) < root_key(10));
        assert!(root_key(255) < root_key(256));
    }
}
