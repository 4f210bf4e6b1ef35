//! What the group log carries: commits with their authenticated data, proposals, signed entries, root wraps.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{Bytes, encode};
use crate::hash::labelled;
use crate::ids::{CommitId, DeviceId, GroupId, Hash, UnixMs};
use crate::merkle::{Head, leaf_hash};
use crate::record::Record;

/// Version of [`CommitData`].
pub const COMMIT_DATA_VERSION: u16 = 1;
/// Label under which root wraps are signed.
pub const WRAP_LABEL: &str = "conclave 1.0 root wrap";

/// Checkpoint of the identity log.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
pub struct Checkpoint {
    /// Size and root of the log.
    pub head: Head,
}

/// Authenticated data of every commit.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CommitData {
    /// [`COMMIT_DATA_VERSION`].
    pub version: u16,
    /// When the commit was made; never before its predecessor's.
    pub time: UnixMs,
    /// A prefix of the group log that contains every proposal this commit covers.
    pub seen: Head,
    /// Hash of the roster after this commit.
    pub roster: Hash,
    /// Checkpoint of the identity log, once there is one.
    pub checkpoint: Option<Checkpoint>,
    /// Drawn by the author.
    pub id: CommitId,
}

/// One entry of a group's log.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[allow(clippy::large_enum_variant)] // short-lived: see `frame`
#[repr(u8)]
pub enum GroupEntry {
    /// An MLS commit (`MLSMessage` holding a `PublicMessage`).
    #[tls_codec(discriminant = 1)]
    Commit(Bytes),
    /// A standalone MLS proposal: SelfRemove, or the service's Remove.
    #[tls_codec(discriminant = 2)]
    Proposal(Bytes),
    /// A signed entry (`RecordBody::Entry`).
    #[tls_codec(discriminant = 3)]
    Signed(Record),
}

impl GroupEntry {
    /// Merkle leaf of this entry: `SHA-256(0x00 ‖ kind ‖ MLSMessage)`, or the record's leaf.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        match self {
            Self::Commit(message) => leaf_hash(&[&[1], message.as_slice()]),
            Self::Proposal(message) => leaf_hash(&[&[2], message.as_slice()]),
            Self::Signed(record) => record.leaf(),
        }
    }
}

/// Older live roots, sealed to whoever holds the new epoch's wrap key, and the committer's word on the roster and the log: what a joiner
/// needs beside its Welcome. Signed by the committer's leaf of the new epoch.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct RootWrap {
    /// What is signed.
    pub statement: WrapStatement,
    /// Device that signed: a member of the new epoch.
    pub signer: DeviceId,
    /// Signature under [`WRAP_LABEL`] over the encoded statement.
    pub signature: [u8; 64],
}

/// The signed part of a [`RootWrap`].
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WrapStatement {
    /// The group.
    pub group: GroupId,
    /// The epoch whose wrap key seals the roots.
    pub epoch: u64,
    /// Leaf of the commit that began the epoch ([`GroupEntry::leaf`]).
    pub commit: Hash,
    /// Hash of the roster in that epoch.
    pub roster: Hash,
    /// Nonce of XChaCha20-Poly1305.
    pub nonce: [u8; 24],
    /// Sealed list of (epoch, root); tag at the end. Empty when there is nothing to wrap.
    pub ciphertext: Bytes,
}

impl WrapStatement {
    /// Associated data of the wrap's AEAD.
    #[must_use]
    pub fn associated_data(&self) -> Vec<u8> {
        labelled(
            "conclave 1.0 root wrap data",
            &[
                self.group.as_bytes(),
                &self.epoch.to_be_bytes(),
                &self.commit.0,
                &self.roster.0,
            ],
        )
        .0
        .to_vec()
    }

    /// What the signature covers.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        encode(self)
    }
}

/// Everything that a commit brings, accepted or refused as one.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CommitBundle {
    /// The group.
    pub group: GroupId,
    /// The commit (`MLSMessage`).
    pub commit: Bytes,
    /// Welcome (`MLSMessage`) for the members it adds, one message for all.
    pub welcome: Option<Bytes>,
    /// GroupInfo (`MLSMessage`) of the new epoch, with `external_pub` and without the ratchet tree.
    pub group_info: Bytes,
    /// Live roots and the roster, for joiners.
    pub wrap: RootWrap,
}
