//! Automerge files of other programs.

use automerge::AutoCommit;

use super::Automerge;
use super::chunk::{Chunks, MAGIC, read_update};
use crate::api::Crdt;
use crate::error::{CrdtError, Result};
use crate::kinds::CrdtKind;
use crate::types::ReplicaId;

/// Whether bytes claim to be Automerge's.
pub(crate) fn is_file(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// The state of a file: documents and changes in any order, as programs append them.
pub(crate) fn read_file(bytes: &[u8]) -> Result<Vec<u8>> {
    let chunks = Chunks::read(bytes)?;
    // Nothing is written under this id.
    let scratch = ReplicaId::for_kind(CrdtKind::Automerge, [0xfe; 16]);
    let mut documents = chunks.documents.into_iter();
    let mut file = Automerge::open(documents.next(), scratch.clone())?;
    for document in documents {
        let mut other = Automerge::open(Some(document), scratch.clone())?;
        let changes = other.engine(|doc: &mut AutoCommit| {
            let changes = doc.get_changes(&[]);
            changes
                .into_iter()
                .flat_map(|mut change| change.bytes().into_owned())
                .collect::<Vec<u8>>()
        })?;
        file.admit(read_update(&changes)?)?;
    }
    file.admit(chunks.changes)?;
    if file.has_missing() {
        return Err(CrdtError::MissingDependency);
    }
    file.snapshot()
}
