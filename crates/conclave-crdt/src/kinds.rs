//! The kinds of documents, and all that differs between them beside their engines.

use crate::api::Crdt;
use crate::error::{CrdtError, Result};
use crate::types::ReplicaId;

/// Which engine a document belongs to. The code travels in snapshot headers; 3 is reserved for Loro and
/// 4 for Diamond Types.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
#[repr(u8)]
pub enum CrdtKind {
    /// Yjs documents (lib0 v1 encoding), on the `yrs` engine.
    Yjs = 1,
    /// Automerge documents.
    Automerge = 2,
}

type Made = Result<Box<dyn Crdt>>;
type Parts = Result<Vec<Vec<u8>>>;

/// What differs from kind to kind.
struct Facts {
    name: &'static str,
    /// Counter of a replica's first operation.
    first_counter: u64,
    /// A replica id from random bytes.
    fresh_id: fn([u8; 16]) -> Vec<u8>,
    create: fn(ReplicaId) -> Made,
    load: fn(&[u8], ReplicaId) -> Made,
    split: fn(&[u8], usize) -> Parts,
}

/// Yjs client ids are JavaScript safe integers.
pub(crate) const MAX_YJS_CLIENT: u64 = (1 << 53) - 1;

fn yjs_client(seed: [u8; 16]) -> Vec<u8> {
    let [a, b, c, d, e, f, g, h, ..] = seed;
    let client = u64::from_be_bytes([a, b, c, d, e, f, g, h]) & MAX_YJS_CLIENT;
    client.max(1).to_be_bytes().to_vec()
}

fn automerge_actor(seed: [u8; 16]) -> Vec<u8> {
    // The zero actor wrote the first change of every document.
    let seed = if seed == [0; 16] { [0xff; 16] } else { seed };
    seed.to_vec()
}

#[cfg(any(feature = "yjs", feature = "automerge"))]
fn boxed<C: Crdt + 'static>(made: Result<C>) -> Made {
    made.map(|crdt| Box::new(crdt) as Box<dyn Crdt>)
}

impl CrdtKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Yjs, Self::Automerge];

    fn facts(self) -> Facts {
        match self {
            Self::Yjs => Facts {
                name: "yjs",
                first_counter: 0,
                fresh_id: yjs_client,
                #[cfg(feature = "yjs")]
                create: |replica| boxed(crate::yjs::Yrs::create(replica)),
                #[cfg(feature = "yjs")]
                load: |snapshot, replica| boxed(crate::yjs::Yrs::load(snapshot, replica)),
                #[cfg(feature = "yjs")]
                split: crate::yjs::split,
                #[cfg(not(feature = "yjs"))]
                create: |_| Err(CrdtError::Engine),
                #[cfg(not(feature = "yjs"))]
                load: |_, _| Err(CrdtError::Engine),
                #[cfg(not(feature = "yjs"))]
                split: |_, _| Err(CrdtError::Engine),
            },
            Self::Automerge => Facts {
                name: "automerge",
                first_counter: 1,
                fresh_id: automerge_actor,
                #[cfg(feature = "automerge")]
                create: |replica| boxed(crate::automerge::Automerge::create(replica)),
                #[cfg(feature = "automerge")]
                load: |snapshot, replica| {
                    boxed(crate::automerge::Automerge::load(snapshot, replica))
                },
                #[cfg(feature = "automerge")]
                split: crate::automerge::split,
                #[cfg(not(feature = "automerge"))]
                create: |_| Err(CrdtError::Engine),
                #[cfg(not(feature = "automerge"))]
                load: |_, _| Err(CrdtError::Engine),
                #[cfg(not(feature = "automerge"))]
                split: |_, _| Err(CrdtError::Engine),
            },
        }
    }

    /// The number of this kind on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this number, if this version knows it.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Counter of a replica's first operation ([`crate::OpRange`]).
    #[must_use]
    pub fn first_counter(self) -> u64 {
        self.facts().first_counter
    }

    pub(crate) fn fresh_id(self, seed: [u8; 16]) -> Vec<u8> {
        (self.facts().fresh_id)(seed)
    }
}

impl core::fmt::Display for CrdtKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.facts().name)
    }
}

impl core::str::FromStr for CrdtKind {
    type Err = CrdtError;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.facts().name == name)
            .ok_or(CrdtError::InvalidArgument)
    }
}

/// An empty document.
///
/// # Errors
/// [`CrdtError::Malformed`] if `replica` is not an id of this kind; [`CrdtError::Engine`] if the kind was not compiled in.
pub fn create(kind: CrdtKind, replica: ReplicaId) -> Result<Box<dyn Crdt>> {
    (kind.facts().create)(replica)
}

/// A document from a snapshot. Load under a fresh `replica`: under one that is in use, operations written since the
/// snapshot would be refused as [`CrdtError::Equivocation`] when the log brings them back.
///
/// # Errors
/// [`CrdtError::Malformed`] or [`CrdtError::TooLarge`] if the bytes are not a snapshot of this kind; [`CrdtError::Engine`]
/// if the kind was not compiled in.
pub fn load(kind: CrdtKind, snapshot: &[u8], replica: ReplicaId) -> Result<Box<dyn Crdt>> {
    (kind.facts().load)(snapshot, replica)
}

/// Cuts an update of one replica into several of about so many bytes, to be applied in their order; together they say the same. What cannot be cut
/// stays one.
///
/// # Errors
/// As [`Crdt::inspect`]; [`CrdtError::Engine`] if the kind was not compiled in.
pub fn split_update(kind: CrdtKind, update: &[u8], about_bytes: usize) -> Result<Vec<Vec<u8>>> {
    (kind.facts().split)(update, about_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back_to_their_kinds() {
        for kind in CrdtKind::ALL {
            assert_eq!(CrdtKind::from_code(kind.code()), Some(kind));
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!(CrdtKind::from_code(0), None);
        assert_eq!(CrdtKind::from_code(3), None);
        assert_eq!("loro".parse::<CrdtKind>(), Err(CrdtError::InvalidArgument));
    }

    #[test]
    fn fresh_ids_are_none_that_a_kind_keeps_for_itself() {
        let yjs = ReplicaId::for_kind(CrdtKind::Yjs, [0; 16]);
        assert_eq!(yjs.as_bytes(), 1u64.to_be_bytes());
        let yjs = ReplicaId::for_kind(CrdtKind::Yjs, [0xff; 16]);
        assert_eq!(yjs.as_bytes(), MAX_YJS_CLIENT.to_be_bytes());
        let automerge = ReplicaId::for_kind(CrdtKind::Automerge, [0; 16]);
        assert_ne!(automerge.as_bytes(), [0; 16]);
    }
}
