//! Merkle log maths: tree heads, inclusion proofs and consistency proofs.
//!
//! Hashing and proofs are those of RFC 6962 section 2.1 and RFC 9162 section 2.1, over SHA-256:
//! a leaf is `H(0x00 ‖ data)`, an inner node `H(0x01 ‖ left ‖ right)`, the root of the empty log
//! `H("")`. A tree of `n` leaves splits at the largest power of two below `n`.
//!
//! - [`Frontier`] appends leaves and gives the head, in memory that grows with the logarithm.
//! - [`verify_inclusion`] and [`verify_consistency`] judge proofs from strangers. They accept
//!   exactly one length per question and allocate nothing that a stranger chooses.
//! - [`inclusion_proof`] and [`consistency_proof`] build proofs from all leaves;
//!   [`inclusion_proof_from`] and [`consistency_proof_from`] from stored nodes.
//!
//! A *node* is always a complete subtree: `(level, index)` covers the leaves
//! `index·2^level .. (index+1)·2^level`. Everything else is computed from those, so a node once
//! stored never changes.

mod proof;
#[cfg(test)]
mod tests;

pub use proof::{
    Leaves, consistency_nodes, consistency_proof, consistency_proof_from, head_from,
    inclusion_nodes, inclusion_proof, inclusion_proof_from, verify_consistency, verify_inclusion,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tls_codec::{DeserializeBytes, TlsDeserializeBytes, TlsSerialize, TlsSize};

/// A SHA-256 value: a leaf hash, a node or a root.
pub type Hash = crate::ids::Hash;

/// Most hashes that a proof may hold, in items. Decoders refuse more before they allocate.
pub const MAX_PROOF_LEN: usize = 64;

/// Most leaves that a log may hold. Leaves room for every sum below `u64::MAX` and fits the signed
/// 64-bit integers of SQL stores.
pub const MAX_TREE_SIZE: u64 = 1 << 62;

/// Why a proof, a head or a stored frontier was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MerkleError {
    /// The leaf index lies outside the tree.
    #[error("leaf index {index} lies outside a tree of {size} leaves")]
    IndexOutOfRange {
        /// The index asked for.
        index: u64,
        /// Leaves in the tree.
        size: u64,
    },
    /// The old tree is larger than the new one.
    #[error("the old tree has {old} leaves, the new one only {new}")]
    OldLargerThanNew {
        /// Leaves in the old tree.
        old: u64,
        /// Leaves in the new tree.
        new: u64,
    },
    /// A tree size above [`MAX_TREE_SIZE`].
    #[error("a tree of {size} leaves is larger than this program supports")]
    TreeTooLarge {
        /// The size claimed.
        size: u64,
    },
    /// The proof does not have the one length that the sizes call for.
    #[error("the proof has {actual} hashes instead of {expected}")]
    WrongProofLength {
        /// Hashes called for.
        expected: usize,
        /// Hashes received.
        actual: usize,
    },
    /// The proof leads to another root than the old head's.
    #[error("the proof does not lead to the old root")]
    OldRootMismatch,
    /// The proof leads to another root than the (new) head's.
    #[error("the proof does not lead to the root")]
    RootMismatch,
    /// The node source does not hold a node that it must hold.
    #[error("node {index} of level {level} is missing")]
    MissingNode {
        /// Level of the node: 0 for leaves.
        level: u32,
        /// Index of the node within its level.
        index: u64,
    },
    /// A frontier does not have one node for each bit of its size.
    #[error("a frontier of {size} leaves cannot have {nodes} nodes")]
    BadFrontier {
        /// Leaves claimed.
        size: u64,
        /// Nodes received.
        nodes: usize,
    },
}

impl MerkleError {
    /// A stable string for logs and users.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::IndexOutOfRange { .. } => "merkle.index_out_of_range",
            Self::OldLargerThanNew { .. } => "merkle.old_larger_than_new",
            Self::TreeTooLarge { .. } => "merkle.tree_too_large",
            Self::WrongProofLength { .. } => "merkle.wrong_proof_length",
            Self::OldRootMismatch => "merkle.old_root_mismatch",
            Self::RootMismatch => "merkle.root_mismatch",
            Self::MissingNode { .. } => "merkle.missing_node",
            Self::BadFrontier { .. } => "merkle.bad_frontier",
        }
    }

    /// Whether the same call may succeed later. Never: each of these is a verdict on its input.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        false
    }
}

/// A tree head: how many leaves, and the root over them.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
pub struct Head {
    /// Number of leaves.
    pub size: u64,
    /// Root over the first `size` leaves.
    pub root: Hash,
}

impl Head {
    /// The head of the empty log.
    pub const EMPTY: Self = Self {
        size: 0,
        root: EMPTY_ROOT,
    };

    /// First eight bytes of the root: enough to tell that another log is meant.
    #[must_use]
    pub fn hint(&self) -> [u8; 8] {
        self.root.0.first_chunk().copied().unwrap_or_default()
    }
}

impl Default for Head {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// SHA-256 of the empty string.
const EMPTY_ROOT: Hash = crate::ids::Hash([
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
]);

/// SHA-256(0x00 ‖ all parts): the leaf hash of the concatenated parts (RFC 6962 section 2.1).
///
/// Parts are joined without lengths: a caller whose parts vary in length must encode lengths.
#[must_use]
pub fn leaf_hash(data: &[&[u8]]) -> Hash {
    #[cfg(debug_assertions)]
    crate::counted::hash();
    let mut hasher = Sha256::new();
    hasher.update([0x00]);
    for part in data {
        hasher.update(part);
    }
    crate::ids::Hash(hasher.finalize().into())
}

/// SHA-256(0x01 ‖ left ‖ right): the hash of an inner node (RFC 6962 section 2.1).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    #[cfg(debug_assertions)]
    crate::counted::hash();
    let mut hasher = Sha256::new();
    hasher.update([0x01]);
    hasher.update(left.0);
    hasher.update(right.0);
    crate::ids::Hash(hasher.finalize().into())
}

/// SHA-256(""): the root of the empty log.
#[must_use]
pub const fn empty_root() -> Hash {
    EMPTY_ROOT
}

/// The root over all of `leaves` (leaf hashes, in log order).
#[must_use]
pub fn root_of(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::new();
    for leaf in leaves {
        frontier.push(*leaf);
    }
    frontier.root()
}

/// Read access to stored nodes, so that proofs need not hold all leaves in memory.
///
/// `node(level, index)` is the root over the complete run of leaves
/// `index·2^level .. (index+1)·2^level`: exactly what [`Frontier::push_with`] reports.
pub trait NodeSource {
    /// The stored hash, or `None` where the source does not hold it.
    fn node(&self, level: u32, index: u64) -> Option<Hash>;
}

/// The name of a stored node: see [`NodeSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// 0 for leaves; a node of level `l` covers `2^l` leaves.
    pub level: u32,
    /// Position within the level, from 0.
    pub index: u64,
}

/// The right edge of a growing tree: one complete subtree per set bit of the size.
///
/// Enough to append and to compute the head, in at most 63 hashes. It cannot prove anything.
/// Encoding: `uint64 size; Hash nodes<V>;`, refused unless the counts agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, TlsSize, TlsSerialize)]
#[serde(try_from = "RawFrontier")]
pub struct Frontier {
    size: u64,
    /// Largest first.
    nodes: Vec<Hash>,
}

/// A frontier as decoded, before its counts are checked.
#[derive(Deserialize)]
struct RawFrontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl TryFrom<RawFrontier> for Frontier {
    type Error = MerkleError;

    fn try_from(raw: RawFrontier) -> Result<Self, MerkleError> {
        Self::from_parts(raw.size, raw.nodes)
    }
}

impl DeserializeBytes for Frontier {
    fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), tls_codec::Error> {
        let (size, rest) = u64::tls_deserialize_bytes(bytes)?;
        // The vector grows only as far as the received bytes reach.
        let (nodes, rest) = Vec::tls_deserialize_bytes(rest)?;
        let frontier = Self::from_parts(size, nodes)
            .map_err(|error| tls_codec::Error::DecodingError(error.to_string()))?;
        Ok((frontier, rest))
    }
}

impl Frontier {
    /// The frontier of the empty log.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            size: 0,
            nodes: Vec::new(),
        }
    }

    /// A frontier from its stored parts, the largest subtree first.
    ///
    /// Whether the hashes are right shows only when [`Frontier::root`] is compared with a known
    /// root.
    ///
    /// # Errors
    /// [`MerkleError::BadFrontier`] unless there is one node per set bit of `size`;
    /// [`MerkleError::TreeTooLarge`] above [`MAX_TREE_SIZE`].
    pub fn from_parts(size: u64, nodes: Vec<Hash>) -> Result<Self, MerkleError> {
        check_size(size)?;
        if usize::try_from(size.count_ones()) != Ok(nodes.len()) {
            return Err(MerkleError::BadFrontier {
                size,
                nodes: nodes.len(),
            });
        }
        Ok(Self { size, nodes })
    }

    /// The frontier of the first `size` leaves of a stored log.
    ///
    /// # Errors
    /// [`MerkleError::MissingNode`] where the source lacks a node.
    pub fn from_source(
        source: &(impl NodeSource + ?Sized),
        size: u64,
    ) -> Result<Self, MerkleError> {
        check_size(size)?;
        let nodes = proof::peaks(
            &mut |level, index| proof::stored(source, level, index),
            0,
            size,
        )?;
        Self::from_parts(size, nodes)
    }

    /// Number of leaves so far; also the index of the next leaf.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The complete subtrees, the largest first: one per set bit of the size.
    #[must_use]
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Appends a leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        self.push_with(leaf, |_, _, _| {});
    }

    /// Appends a leaf hash and reports every node that this completes, as `(level, index, hash)`:
    /// the leaf itself first, then upwards. Storing them all makes a [`NodeSource`].
    pub fn push_with(&mut self, leaf: Hash, mut completed: impl FnMut(u32, u64, Hash)) {
        let mut index = self.size;
        let mut level = 0;
        let mut node = leaf;
        completed(level, index, node);
        // Each trailing one bit of the size is a complete left sibling, the smallest last.
        while index & 1 == 1 {
            let Some(left) = self.nodes.pop() else { break };
            node = node_hash(&left, &node);
            level += 1;
            index >>= 1;
            completed(level, index, node);
        }
        self.nodes.push(node);
        // A size starts at most at MAX_TREE_SIZE: no program lives to see this overflow.
        self.size += 1;
    }

    /// The root over all leaves so far.
    #[must_use]
    pub fn root(&self) -> Hash {
        proof::fold_peaks(&self.nodes)
    }

    /// Size and root.
    #[must_use]
    pub fn head(&self) -> Head {
        Head {
            size: self.size,
            root: self.root(),
        }
    }
}

/// Refuses sizes that the arithmetic here does not cover.
fn check_size(size: u64) -> Result<(), MerkleError> {
    if size > MAX_TREE_SIZE {
        return Err(MerkleError::TreeTooLarge { size });
    }
    Ok(())
}
