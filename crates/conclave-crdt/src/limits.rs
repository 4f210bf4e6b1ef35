//! Limits on received data. Everything that comes from another member is measured before memory is spent on it.

/// Longest update accepted and produced, in bytes.
pub const MAX_UPDATE_BYTES: usize = 1 << 20;
/// Longest snapshot accepted, in bytes.
pub const MAX_SNAPSHOT_BYTES: usize = 64 << 20;
/// Most replica ids that one update may write under.
pub const MAX_REPLICAS_PER_UPDATE: usize = 64;
/// Longest replica id, in bytes.
pub const MAX_REPLICA_ID_BYTES: usize = 64;
/// Most bytes kept of updates whose dependencies are missing.
pub const MAX_WAITING_BYTES: usize = 16 << 20;
/// Deepest nesting of containers (maps in lists in maps …) in a document.
pub const MAX_NESTING: u8 = 200;
/// Deepest JSON value read from or written to a document.
pub const MAX_JSON_DEPTH: usize = 100;
/// Most bytes that the places of what is told of a document take: what lies deep under long keys is named with all of them, each time.
pub const MAX_PLACES_BYTES: usize = 128 << 20;
/// Largest state vector or list of heads accepted as a [`crate::Version`], in bytes.
pub const MAX_VERSION_BYTES: usize = 1 << 20;

/// Deepest value inside one Yjs item.
#[cfg(feature = "yjs")]
pub(crate) const MAX_VALUE_DEPTH: usize = 100;
/// Most Yjs blocks in one update or snapshot.
#[cfg(feature = "yjs")]
pub(crate) const MAX_BLOCKS: usize = 4 << 20;
/// Most bytes that one Automerge update may inflate to.
#[cfg(feature = "automerge")]
pub(crate) const MAX_INFLATED_UPDATE_BYTES: usize = 2 << 20;
/// Most bytes that the columns of one Automerge snapshot may inflate to.
#[cfg(feature = "automerge")]
pub(crate) const MAX_INFLATED_SNAPSHOT_BYTES: usize = 256 << 20;
/// Most rows that any column of one Automerge change may declare.
#[cfg(feature = "automerge")]
pub(crate) const MAX_CHANGE_ROWS: u64 = 1 << 22;
/// Most rows that any column of one Automerge snapshot may declare.
#[cfg(feature = "automerge")]
pub(crate) const MAX_SNAPSHOT_ROWS: u64 = 1 << 25;
/// Longest run of text inserted as one operation, in characters. Longer insertions are cut so that every
/// update stays below [`MAX_UPDATE_BYTES`].
pub(crate) const MAX_INSERT_CHARS: usize = 64 << 10;
