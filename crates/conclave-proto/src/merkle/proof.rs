//! Building and checking proofs.
//!
//! A path from a node to the root of a tree of `size` leaves has two parts. As long as the node
//! and the tree's last leaf have not met in one subtree, every level has a sibling: to the left
//! or right, by the bit of the node's index (`inner` levels). Above that, the node lies on the
//! right edge, and only levels where its index has a one bit have a sibling, to the left
//! (`border`). So the length of a proof and the side of each hash follow from the numbers alone.

use super::{Hash, Head, MerkleError, NodeId, NodeSource, check_size, empty_root, node_hash};

/// All leaf hashes of a log, in memory, as a [`NodeSource`]. Inner nodes are computed on demand.
#[derive(Clone, Copy, Debug)]
pub struct Leaves<'a>(pub &'a [Hash]);

impl NodeSource for Leaves<'_> {
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
        let width = 1usize.checked_shl(level)?;
        let begin = usize::try_from(index).ok()?.checked_mul(width)?;
        let run = self.0.get(begin..begin.checked_add(width)?)?;
        Some(super::root_of(run))
    }
}

/// Proof that leaf `index` is in the tree over all of `leaves` (RFC 9162 section 2.1.3.1).
///
/// Linear in the number of leaves; see [`inclusion_proof_from`] for logs.
///
/// # Errors
/// [`MerkleError::IndexOutOfRange`].
pub fn inclusion_proof(leaves: &[Hash], index: u64) -> Result<Vec<Hash>, MerkleError> {
    inclusion_proof_from(&Leaves(leaves), index, len_of(leaves)?)
}

/// Proof that the tree over all of `leaves` extends the one over the first `old_size`
/// (RFC 9162 section 2.1.4.1). Empty where nothing needs proof: `old_size` of 0, or equal sizes.
///
/// # Errors
/// [`MerkleError::OldLargerThanNew`].
pub fn consistency_proof(leaves: &[Hash], old_size: u64) -> Result<Vec<Hash>, MerkleError> {
    consistency_proof_from(&Leaves(leaves), old_size, len_of(leaves)?)
}

/// As [`inclusion_proof`], for the tree of the first `size` leaves of a stored log.
///
/// # Errors
/// Also [`MerkleError::MissingNode`] where the source lacks a node, and
/// [`MerkleError::TreeTooLarge`].
pub fn inclusion_proof_from(
    source: &(impl NodeSource + ?Sized),
    index: u64,
    size: u64,
) -> Result<Vec<Hash>, MerkleError> {
    build_inclusion(&mut |level, at| stored(source, level, at), index, size)
}

/// As [`consistency_proof`], between the first `old_size` and the first `new_size` leaves of a
/// stored log.
///
/// # Errors
/// Also [`MerkleError::MissingNode`] where the source lacks a node, and
/// [`MerkleError::TreeTooLarge`].
pub fn consistency_proof_from(
    source: &(impl NodeSource + ?Sized),
    old_size: u64,
    new_size: u64,
) -> Result<Vec<Hash>, MerkleError> {
    build_consistency(
        &mut |level, at| stored(source, level, at),
        old_size,
        new_size,
    )
}

/// The head of the first `size` leaves of a stored log.
///
/// # Errors
/// [`MerkleError::MissingNode`] and [`MerkleError::TreeTooLarge`].
pub fn head_from(source: &(impl NodeSource + ?Sized), size: u64) -> Result<Head, MerkleError> {
    Ok(super::Frontier::from_source(source, size)?.head())
}

/// The nodes that [`inclusion_proof_from`] will ask for, for stores that fetch in one query.
///
/// # Errors
/// [`MerkleError::IndexOutOfRange`] and [`MerkleError::TreeTooLarge`].
pub fn inclusion_nodes(index: u64, size: u64) -> Result<Vec<NodeId>, MerkleError> {
    let mut wanted = Vec::new();
    build_inclusion(&mut |level, at| note(&mut wanted, level, at), index, size)?;
    Ok(wanted)
}

/// The nodes that [`consistency_proof_from`] will ask for, for stores that fetch in one query.
///
/// # Errors
/// [`MerkleError::OldLargerThanNew`] and [`MerkleError::TreeTooLarge`].
pub fn consistency_nodes(old_size: u64, new_size: u64) -> Result<Vec<NodeId>, MerkleError> {
    let mut wanted = Vec::new();
    build_consistency(
        &mut |level, at| note(&mut wanted, level, at),
        old_size,
        new_size,
    )?;
    Ok(wanted)
}

/// Checks that `leaf` is leaf number `index` of the tree with this head
/// (RFC 9162 section 2.1.3.2).
///
/// # Errors
/// Every proof but the right one is refused, also a longer or shorter one.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    head: &Head,
    proof: &[Hash],
) -> Result<(), MerkleError> {
    check_size(head.size)?;
    check_index(index, head.size)?;
    let shape = PathShape::new(index, head.size - 1);
    check_length(shape.len(), proof.len())?;
    let (root, _) = shape.climb(*leaf, proof);
    if root != head.root {
        return Err(MerkleError::RootMismatch);
    }
    Ok(())
}

/// Checks that the log with head `new` begins with the log with head `old`
/// (RFC 9162 section 2.1.4.2).
///
/// The empty log is a prefix of every log, and a head of itself: both with an empty proof. An
/// `old` of size 0 must carry the empty root.
///
/// # Errors
/// Every proof but the right one is refused, also a longer or shorter one.
pub fn verify_consistency(old: &Head, new: &Head, proof: &[Hash]) -> Result<(), MerkleError> {
    check_order(old.size, new.size)?;
    if old.size == 0 && old.root != empty_root() {
        return Err(MerkleError::OldRootMismatch);
    }
    if old.size == 0 || old.size == new.size {
        check_length(0, proof.len())?;
        if old.size == new.size && old.root != new.root {
            return Err(MerkleError::RootMismatch);
        }
        return Ok(());
    }

    // The path starts at the old tree's last complete subtree. Where that is the whole old tree,
    // the old root itself is the start and is not sent.
    let level = old.size.trailing_zeros();
    let shape = PathShape::new((old.size - 1) >> level, (new.size - 1) >> level);
    let (start, path) = if old.size.is_power_of_two() {
        check_length(shape.len(), proof.len())?;
        (old.root, proof)
    } else {
        check_length(shape.len() + 1, proof.len())?;
        let Some((start, path)) = proof.split_first() else {
            return Err(MerkleError::OldRootMismatch);
        };
        (*start, path)
    };
    let (new_root, old_root) = shape.climb(start, path);
    if old_root != old.root {
        return Err(MerkleError::OldRootMismatch);
    }
    // Breakage: a log that was rewritten passes for a longer one.
    if new_root != new.root && !crate::broken("consistency-proof") {
        return Err(MerkleError::RootMismatch);
    }
    Ok(())
}

/// Where the siblings lie on the way from a node to the root: see the module's comment.
struct PathShape {
    /// Index of the node within its level.
    index: u64,
    /// Levels with a sibling on either side.
    inner: u32,
    /// Levels above those with a sibling on the left.
    border: u32,
}

impl PathShape {
    /// For node `index` in a level whose last (possibly incomplete) node is `last`.
    const fn new(index: u64, last: u64) -> Self {
        let inner = u64::BITS - (index ^ last).leading_zeros();
        let border = match index.checked_shr(inner) {
            Some(rest) => rest.count_ones(),
            None => 0,
        };
        Self {
            index,
            inner,
            border,
        }
    }

    /// Number of siblings.
    const fn len(&self) -> usize {
        // At most 64.
        (self.inner + self.border) as usize
    }

    /// Hashes up from `start`. Returns the root with all siblings, and the root with left siblings
    /// only: the tree that ends with the starting node.
    fn climb(&self, start: Hash, siblings: &[Hash]) -> (Hash, Hash) {
        let mut whole = start;
        let mut left_only = start;
        for (level, sibling) in (0u32..).zip(siblings) {
            let on_border = level >= self.inner;
            if on_border || (self.index >> level) & 1 == 1 {
                whole = node_hash(sibling, &whole);
                left_only = node_hash(sibling, &left_only);
            } else {
                whole = node_hash(&whole, sibling);
            }
        }
        (whole, left_only)
    }
}

/// How the builders get a node: from a store, or by noting what they would need.
type Fetch<'a> = dyn FnMut(u32, u64) -> Result<Hash, MerkleError> + 'a;

/// The node, or the error that names it.
pub(super) fn stored(
    source: &(impl NodeSource + ?Sized),
    level: u32,
    index: u64,
) -> Result<Hash, MerkleError> {
    source
        .node(level, index)
        .ok_or(MerkleError::MissingNode { level, index })
}

/// Notes the node; the hash returned stands for nothing.
fn note(wanted: &mut Vec<NodeId>, level: u32, index: u64) -> Result<Hash, MerkleError> {
    wanted.push(NodeId { level, index });
    Ok(empty_root())
}

fn build_inclusion(fetch: &mut Fetch<'_>, index: u64, size: u64) -> Result<Vec<Hash>, MerkleError> {
    check_size(size)?;
    check_index(index, size)?;
    let mut proof = Vec::new();
    build_path(fetch, 0, index, size, &mut proof)?;
    Ok(proof)
}

fn build_consistency(
    fetch: &mut Fetch<'_>,
    old_size: u64,
    new_size: u64,
) -> Result<Vec<Hash>, MerkleError> {
    check_order(old_size, new_size)?;
    let mut proof = Vec::new();
    if old_size == 0 || old_size == new_size {
        return Ok(proof);
    }
    let level = old_size.trailing_zeros();
    let index = (old_size - 1) >> level;
    if !old_size.is_power_of_two() {
        proof.push(fetch(level, index)?);
    }
    build_path(fetch, level, index, new_size, &mut proof)?;
    Ok(proof)
}

/// Appends the siblings from node (`level`, `index`) up to the root of a tree of `size` leaves.
/// `size` is at least 1 and at most `MAX_TREE_SIZE`, and the node is one of its complete nodes.
fn build_path(
    fetch: &mut Fetch<'_>,
    level: u32,
    index: u64,
    size: u64,
    proof: &mut Vec<Hash>,
) -> Result<(), MerkleError> {
    let inner = PathShape::new(index, (size - 1) >> level).inner;
    for step in 0..u64::BITS - level {
        let at = index >> step;
        if step >= inner && at == 0 {
            break;
        }
        if step < inner || at & 1 == 1 {
            // Only the topmost right sibling can be cut short by the end of the tree.
            let here = level + step;
            let begin = (at ^ 1) << here;
            let end = size.min(begin + (1 << here));
            proof.push(fold_peaks(&peaks(fetch, begin, end)?));
        }
    }
    Ok(())
}

/// The complete subtrees of the leaves `begin..end`, the largest first. `begin` must be aligned to
/// the largest of them, as it is for every right part of a tree.
pub(super) fn peaks(fetch: &mut Fetch<'_>, begin: u64, end: u64) -> Result<Vec<Hash>, MerkleError> {
    let mut found = Vec::new();
    let mut at = begin;
    while at < end {
        let level = (end - at).ilog2();
        found.push(fetch(level, at >> level)?);
        at += 1 << level;
    }
    Ok(found)
}

/// The root over adjacent complete subtrees, the largest first: they join from the right.
pub(super) fn fold_peaks(nodes: &[Hash]) -> Hash {
    nodes
        .iter()
        .rev()
        .copied()
        .reduce(|right, left| node_hash(&left, &right))
        .unwrap_or(empty_root())
}

fn len_of(leaves: &[Hash]) -> Result<u64, MerkleError> {
    u64::try_from(leaves.len()).map_err(|_| MerkleError::TreeTooLarge { size: u64::MAX })
}

fn check_index(index: u64, size: u64) -> Result<(), MerkleError> {
    if index >= size {
        return Err(MerkleError::IndexOutOfRange { index, size });
    }
    Ok(())
}

fn check_order(old: u64, new: u64) -> Result<(), MerkleError> {
    if old > new {
        return Err(MerkleError::OldLargerThanNew { old, new });
    }
    check_size(new)
}

fn check_length(expected: usize, actual: usize) -> Result<(), MerkleError> {
    if expected != actual {
        return Err(MerkleError::WrongProofLength { expected, actual });
    }
    Ok(())
}
