//! Signed records: headers, their hash, and the checks that need no key.
//!
//! A record's header is public and is the exact associated data of its AEAD. `core` hashes everything but the signature; the
//! signature covers `core`; the record's id, which is also its Merkle leaf, hashes both.

use sha2::{Digest, Sha256};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{Bytes, encode};
use crate::hash::labelled;
use crate::ids::{DeviceId, DocumentId, GroupId, Hash, InstanceId, SessionId};
use crate::merkle::{Head, leaf_hash};

/// Version of the record format that this library writes.
pub const RECORD_VERSION: u16 = 1;
/// Label under which records are signed.
pub const RECORD_LABEL: &str = "conclave 1.0 record";

/// Who wrote a record: a device, in one life of its store.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
pub struct Author {
    /// The device.
    pub device: DeviceId,
    /// The life of its store; clocks count within it.
    pub instance: InstanceId,
}

/// Place of a record in its author's chain: updates, verdicts and carried records only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Chained {
    /// Counts from 0 within (document, device, instance), without gaps.
    pub clock: u64,
    /// Id of the author's previous record in the chain; zero at clock 0.
    pub prev: Hash,
}

/// Extra header of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SnapshotHeader {
    /// Id of the snapshot this one replaces; zero for a document's first.
    pub parent: Hash,
    /// `H(chain proof of the parent, parent id)`; zero for a document's first.
    pub chain_proof: Hash,
    /// Head of the document's log up to which this snapshot contains everything.
    pub covered: Head,
    /// Code of the CRDT kind: 1 Yjs, 2 Automerge, 3 Loro, 4 Diamond Types.
    pub crdt: u8,
}

impl SnapshotHeader {
    /// The chain proof that a successor of the snapshot (`id`, `self`) must carry.
    #[must_use]
    pub fn successor_proof(&self, id: &Hash) -> Hash {
        labelled("conclave 1.0 snapshot chain", &[&self.chain_proof.0, &id.0])
    }
}

/// Why a document was closed.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
#[repr(u8)]
pub enum CloseReason {
    /// Put away; still readable.
    Archived = 1,
    /// Deleted: members erase their copies.
    Deleted = 2,
    /// Nobody can open it any more.
    Lost = 3,
}

/// A signed entry of the group log. It is public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum EntryBody {
    /// A document exists from here on. Ordered together with its first snapshot.
    #[tls_codec(discriminant = 1)]
    DocumentCreated {
        /// The new document.
        document: DocumentId,
        /// Code of its CRDT kind.
        crdt: u8,
    },
    /// A document takes no more records.
    #[tls_codec(discriminant = 2)]
    DocumentClosed {
        /// The document.
        document: DocumentId,
        /// Why.
        reason: CloseReason,
    },
    /// A record that nobody can open is void for all (admins only).
    #[tls_codec(discriminant = 3)]
    RecordVoided {
        /// The document.
        document: DocumentId,
        /// Id of the record.
        record: Hash,
    },
    /// Every listed document has a snapshot of this or a later epoch that covers all records of older ones.
    #[tls_codec(discriminant = 4)]
    RotationComplete {
        /// The epoch that began with the removal.
        epoch: u64,
    },
    /// An archived document takes records again.
    #[tls_codec(discriminant = 6)]
    DocumentReopened {
        /// The document.
        document: DocumentId,
    },
}

/// What a record is, with the header fields of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum RecordBody {
    /// A CRDT update.
    #[tls_codec(discriminant = 1)]
    Update(Chained),
    /// A member's judgement of a snapshot.
    #[tls_codec(discriminant = 2)]
    Verdict(Chained),
    /// A document's whole state up to a head.
    #[tls_codec(discriminant = 3)]
    Snapshot(SnapshotHeader),
    /// Presence; never stored.
    #[tls_codec(discriminant = 4)]
    Presence {
        /// The author's session.
        session: SessionId,
    },
    /// An entry of the group log; its document id is zero and nothing is sealed.
    #[tls_codec(discriminant = 5)]
    Entry(EntryBody),
    /// An update that a log has lost, whole as its author signed it, with the keys that open it: on the word of who carries it.
    #[tls_codec(discriminant = 7)]
    Carried(Chained),
}

impl RecordBody {
    /// Code of the kind, as on the wire.
    #[must_use]
    pub fn kind_code(&self) -> u8 {
        match self {
            Self::Update(_) => 1,
            Self::Verdict(_) => 2,
            Self::Snapshot(_) => 3,
            Self::Presence { .. } => 4,
            Self::Entry(_) => 5,
            Self::Carried(_) => 7,
        }
    }

    /// Place in the author's chain, for the kinds that have one.
    #[must_use]
    pub fn chained(&self) -> Option<Chained> {
        match self {
            Self::Update(chained) | Self::Verdict(chained) | Self::Carried(chained) => {
                Some(*chained)
            }
            _ => None,
        }
    }

    /// The chained kind of this code, at this place in its author's chain; none of other codes.
    #[must_use]
    pub fn of_chained(code: u8, place: Chained) -> Option<Self> {
        match code {
            1 => Some(Self::Update(place)),
            2 => Some(Self::Verdict(place)),
            7 => Some(Self::Carried(place)),
            _ => None,
        }
    }
}

/// A record's public header, and the associated data of its AEAD in this encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct RecordHeader {
    /// [`RECORD_VERSION`].
    pub version: u16,
    /// The group.
    pub group: GroupId,
    /// The document; zero for entries of the group log.
    pub document: DocumentId,
    /// MLS epoch whose keys seal this record and whose roster judges it.
    pub epoch: u64,
    /// Who wrote it.
    pub author: Author,
    /// A true prefix of the log that the author had seen: the document's, or the group's for an entry.
    pub seen: Head,
    /// Kind and its fields.
    pub body: RecordBody,
}

/// A record as stored: everything, nothing elided.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Record {
    /// Public header.
    pub header: RecordHeader,
    /// What was sealed, and the signature.
    pub sealed: Sealed,
}

/// The sealed part of a record. `ciphertext` is without its tag. All zero and empty but the signature in entries of the group log.
#[derive(Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Sealed {
    /// Random nonce of XChaCha20-Poly1305.
    pub nonce: [u8; 24],
    /// Ciphertext.
    pub ciphertext: Bytes,
    /// Poly1305 tag.
    pub tag: [u8; 16],
    /// HMAC-SHA-256 under the commitment key.
    pub commitment: [u8; 32],
    /// Ed25519, or fixed-width low-S P-256, over the labelled core.
    pub signature: [u8; 64],
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.ciphertext.len())
    }
}

impl Sealed {
    /// The sealed part of a public entry: nothing but a signature.
    #[must_use]
    pub fn public(signature: [u8; 64]) -> Self {
        Self {
            nonce: [0; 24],
            ciphertext: Bytes::default(),
            tag: [0; 16],
            commitment: [0; 32],
            signature,
        }
    }

    /// Whether nothing is sealed here, as entries of the group log demand.
    #[must_use]
    pub fn is_public(&self) -> bool {
        *self == Self::public(self.signature)
    }

    /// Hash of the header and everything sealed; what the signature covers.
    #[must_use]
    pub fn core(&self, header: &RecordHeader) -> Hash {
        self.core_of(&encode(header))
    }

    /// The same, of a header in its encoding.
    #[must_use]
    pub fn core_of(&self, encoded_header: &[u8]) -> Hash {
        labelled(
            "conclave 1.0 record core",
            &[
                encoded_header,
                &self.nonce,
                self.ciphertext.as_slice(),
                &self.tag,
                &self.commitment,
            ],
        )
    }
}

/// Record id and Merkle leaf: `SHA-256(0x00 ‖ core ‖ signature)`.
#[must_use]
pub fn record_leaf(core: &Hash, signature: &[u8; 64]) -> Hash {
    leaf_hash(&[&core.0, signature])
}

impl Record {
    /// Hash that the signature covers.
    #[must_use]
    pub fn core(&self) -> Hash {
        self.sealed.core(&self.header)
    }

    /// The record's id: its Merkle leaf and the `prev` of its author's next.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        record_leaf(&self.core(), &self.sealed.signature)
    }
}

/// Checks that `next` continues its author's chain, whose last record is `last` (clock, leaf).
///
/// # Errors
/// [`ChainFault`] naming what does not follow.
pub fn check_link(last: Option<(u64, Hash)>, next: &Chained) -> Result<(), ChainFault> {
    let (expected, prev) = match last {
        None => (0, Hash::ZERO),
        Some((clock, leaf)) => (clock.saturating_add(1), leaf),
    };
    if next.clock < expected {
        Err(ChainFault::Replayed { expected })
    } else if next.clock > expected {
        Err(ChainFault::Gap { expected })
    // Breakage: the right number is enough, whatever record came before.
    } else if next.prev != prev && !crate::broken("author-chain") {
        Err(ChainFault::WrongPrev)
    } else {
        Ok(())
    }
}

/// Why a record does not continue its author's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainFault {
    /// The clock was used before.
    #[error("the clock was used before; the next is {expected}")]
    Replayed {
        /// Next free clock.
        expected: u64,
    },
    /// Records before this one are missing.
    #[error("records are missing before this one; the next clock is {expected}")]
    Gap {
        /// Next clock.
        expected: u64,
    },
    /// The clock is right but another record came before.
    #[error("the record names another predecessor")]
    WrongPrev,
}

/// Digest of an arbitrary byte string, for idempotency keys and names of MLS messages.
#[must_use]
pub fn content_hash(bytes: &[u8]) -> Hash {
    Hash(Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_continues_its_authors_chain_or_is_refused() {
        let (first, second) = (Hash([1; 32]), Hash([2; 32]));
        let link = |clock, prev| Chained { clock, prev };
        assert_eq!(check_link(None, &link(0, Hash::ZERO)), Ok(()));
        assert_eq!(check_link(Some((0, first)), &link(1, first)), Ok(()));
        assert_eq!(
            check_link(Some((0, first)), &link(1, second)),
            Err(ChainFault::WrongPrev)
        );
        assert_eq!(
            check_link(None, &link(0, first)),
            Err(ChainFault::WrongPrev)
        );
        assert_eq!(
            check_link(Some((4, first)), &link(4, first)),
            Err(ChainFault::Replayed { expected: 5 })
        );
        assert_eq!(
            check_link(Some((4, first)), &link(6, first)),
            Err(ChainFault::Gap { expected: 5 })
        );
        // A clock that cannot go on is used up.
        assert_eq!(
            check_link(Some((u64::MAX, first)), &link(0, first)),
            Err(ChainFault::Replayed { expected: u64::MAX })
        );
    }
}
