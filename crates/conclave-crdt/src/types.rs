//! Ids, versions and descriptions of updates.

use crate::error::{CrdtError, Result};
use crate::kinds::{CrdtKind, MAX_YJS_CLIENT};
use crate::limits::MAX_REPLICA_ID_BYTES;

/// The id under which one replica writes operations: a Yjs client id (8 bytes, big-endian, at most 53 bits)
/// or an Automerge actor id (1 to 64 bytes). Opaque to everyone but the engine.
///
/// A replica id is not an identity: anyone can write any id into an update. Who owns one is decided outside,
/// from the ranges that [`crate::Crdt::inspect`] reports.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct ReplicaId(Vec<u8>);

impl ReplicaId {
    /// Wraps 1 to 64 bytes.
    ///
    /// # Errors
    /// [`CrdtError::Malformed`] for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() || bytes.len() > MAX_REPLICA_ID_BYTES {
            return Err(CrdtError::Malformed);
        }
        Ok(Self(bytes.to_vec()))
    }

    /// A fresh id for this kind from 16 uniformly random bytes. Draw the seed anew for every id: two replicas
    /// that share an id corrupt the document.
    #[must_use]
    pub fn for_kind(kind: CrdtKind, seed: [u8; 16]) -> Self {
        Self(kind.fresh_id(seed))
    }

    /// The bytes of the id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    #[cfg(feature = "yjs")]
    pub(crate) fn from_client(client: u64) -> Self {
        Self(client.to_be_bytes().to_vec())
    }

    #[cfg(feature = "yjs")]
    pub(crate) fn to_client(&self) -> Option<u64> {
        let client = u64::from_be_bytes(self.0.as_slice().try_into().ok()?);
        (client <= MAX_YJS_CLIENT).then_some(client)
    }
}

impl TryFrom<Vec<u8>> for ReplicaId {
    type Error = CrdtError;

    fn try_from(bytes: Vec<u8>) -> Result<Self> {
        Self::from_bytes(&bytes)
    }
}

impl From<ReplicaId> for Vec<u8> {
    fn from(replica: ReplicaId) -> Self {
        replica.0
    }
}

impl core::fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl core::fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ReplicaId({self})")
    }
}

/// What a document has seen, encoded by its engine: a Yjs state vector (sorted by client) or sorted
/// Automerge heads. Compare two of them only for equality.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Version(Vec<u8>);

impl Version {
    /// Wraps bytes that [`Version::as_bytes`] gave. They are checked when they are used.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The encoded version.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Operations `start..end` of one replica: Yjs clocks from 0, or Automerge change numbers from 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OpRange {
    /// Who wrote them.
    pub replica: ReplicaId,
    /// First counter.
    pub start: u64,
    /// One past the last counter.
    pub end: u64,
}

/// What an update contains, read before it is applied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpdateInfo {
    /// The operations, sorted by (replica, start); neighbouring and overlapping ranges are joined.
    pub ranges: Vec<OpRange>,
    /// Whether the update deletes anything.
    pub has_deletes: bool,
}

/// The outcome of applying updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applied {
    /// Something was new, and nothing is missing.
    Complete,
    /// Everything was known already.
    Duplicate,
    /// The document holds operations whose dependencies have not arrived ([`crate::Crdt::has_missing`]).
    Pending,
}
