//! What reading an update once gives.

use crate::types::UpdateInfo;

/// An update that was read and found well formed: what it contains, and the reading, so that [`crate::Crdt::apply_inspected`] need not read
/// it again. It belongs to the bytes that it was read from, and to documents of that kind.
pub struct Inspected {
    /// What the update contains.
    pub info: UpdateInfo,
    pub(crate) reading: Reading,
}

/// The reading, as each engine's reader gives it.
pub(crate) enum Reading {
    #[cfg(feature = "yjs")]
    Yjs(crate::yjs::Layout),
    #[cfg(feature = "automerge")]
    Automerge(Vec<crate::automerge::Parsed>),
}

impl Inspected {
    /// Whether it was counted, and lets in what had waited.
    #[must_use]
    pub fn lets_in(&self) -> bool {
        match &self.reading {
            #[cfg(feature = "yjs")]
            Reading::Yjs(layout) => layout.lets_in(),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// What waits goes on waiting when an engine takes this in, though it was counted to let it in.
    pub fn keep_waiting(&mut self) {
        match &mut self.reading {
            #[cfg(feature = "yjs")]
            Reading::Yjs(layout) => layout.keep_waiting(),
            #[allow(unreachable_patterns)]
            _ => {}
        }
    }
}

impl core::fmt::Debug for Inspected {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Inspected").field(&self.info).finish()
    }
}
