//! Making documents of a kind chosen at run time.

use crate::api::Crdt;
use crate::error::{CrdtError, Result};
use crate::types::{CrdtKind, ReplicaId};

/// An empty document.
///
/// # Errors
/// [`CrdtError::Malformed`] if `replica` is not an id of this kind; [`CrdtError::Engine`] if the kind was not compiled in.
pub fn create(kind: CrdtKind, replica: ReplicaId) -> Result<Box<dyn Crdt>> {
    match kind {
        #[cfg(feature = "yjs")]
        CrdtKind::Yjs => Ok(Box::new(crate::yjs::Yrs::create(replica)?)),
        #[cfg(feature = "automerge")]
        CrdtKind::Automerge => Ok(Box::new(crate::automerge::Automerge::create(replica)?)),
        #[allow(unreachable_patterns)]
        _ => Err(CrdtError::Engine),
    }
}

/// A document from a snapshot. Load under a fresh `replica`: under one that is in use, operations written since the
/// snapshot would be refused as [`CrdtError::Equivocation`] when the log brings them back.
///
/// # Errors
/// [`CrdtError::Malformed`] or [`CrdtError::TooLarge`] if the bytes are not a snapshot of this kind; [`CrdtError::Engine`]
/// if the kind was not compiled in.
pub fn load(kind: CrdtKind, snapshot: &[u8], replica: ReplicaId) -> Result<Box<dyn Crdt>> {
    match kind {
        #[cfg(feature = "yjs")]
        CrdtKind::Yjs => Ok(Box::new(crate::yjs::Yrs::load(snapshot, replica)?)),
        #[cfg(feature = "automerge")]
        CrdtKind::Automerge => Ok(Box::new(crate::automerge::Automerge::load(
            snapshot, replica,
        )?)),
        #[allow(unreachable_patterns)]
        _ => Err(CrdtError::Engine),
    }
}
