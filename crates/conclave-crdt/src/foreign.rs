//! Documents that other programs wrote, recognised by their bytes.

use crate::error::CrdtError;
use crate::kinds::CrdtKind;
use crate::limits::MAX_SNAPSHOT_BYTES;

/// A complete document of another program.
#[derive(Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its kind.
    pub kind: CrdtKind,
    /// Its state, as [`crate::load`] reads it: every operation under the id that wrote it.
    pub state: Vec<u8>,
}

impl core::fmt::Debug for Foreign {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Foreign({}, {} bytes)", self.kind, self.state.len())
    }
}

/// Bytes that are of a known kind and still cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForeignError {
    /// They are damaged, or of a form that no present program writes.
    #[error("this {0} document is damaged")]
    Damaged(CrdtKind),
    /// They continue a document whose beginning is not in them.
    #[error("this {0} document is incomplete: what it builds upon is not in it")]
    Incomplete(CrdtKind),
    /// A limit of [`crate::limits`] is exceeded.
    #[error("this {0} document exceeds a limit of size, number or nesting")]
    TooLarge(CrdtKind),
}

impl ForeignError {
    /// A stable machine-readable name.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "foreign_damaged",
            Self::Incomplete(_) => "foreign_incomplete",
            Self::TooLarge(_) => "foreign_too_large",
        }
    }

    #[allow(dead_code, reason = "each engine is a feature")]
    pub(crate) fn of(kind: CrdtKind, error: CrdtError) -> Self {
        match error {
            CrdtError::TooLarge => Self::TooLarge(kind),
            CrdtError::MissingDependency => Self::Incomplete(kind),
            _ => Self::Damaged(kind),
        }
    }
}

/// Looks whether bytes are a document of a kind known here: an Automerge file (a document, changes, or one after the other), or a Yjs update of
/// either encoding that holds a whole document. Nothing where they are neither.
///
/// # Errors
/// [`ForeignError`] where they are of a known kind but cannot be used.
pub fn recognise(bytes: &[u8]) -> Result<Option<Foreign>, ForeignError> {
    #[cfg(feature = "automerge")]
    if crate::automerge::is_file(bytes) {
        let kind = CrdtKind::Automerge;
        let state = match bytes.len() > MAX_SNAPSHOT_BYTES {
            true => Err(CrdtError::TooLarge),
            false => crate::automerge::read_file(bytes),
        };
        let state = state.map_err(|error| ForeignError::of(kind, error))?;
        return Ok(Some(Foreign { kind, state }));
    }
    #[cfg(feature = "yjs")]
    if let Some(state) = crate::yjs::read_file(bytes) {
        let kind = CrdtKind::Yjs;
        let state = state.map_err(|error| ForeignError::of(kind, error))?;
        return Ok(Some(Foreign { kind, state }));
    }
    Ok(None)
}
