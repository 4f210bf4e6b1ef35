//! Every small lie: damaged proofs, rewritten logs, impossible numbers.

use tls_codec::{DeserializeBytes, Serialize as _, Size};

use super::*;

/// Every proof that differs from `proof` by one bit, one hash less, one more, or one swap.
fn damaged(proof: &[Hash]) -> Vec<Vec<Hash>> {
    let mut all = Vec::new();
    for item in 0..proof.len() {
        for bit in 0..256 {
            let mut other = proof.to_vec();
            other[item].0[bit / 8] ^= 1 << (bit % 8);
            all.push(other);
        }
        let mut shorter = proof.to_vec();
        shorter.remove(item);
        all.push(shorter);
    }
    for item in 0..=proof.len() {
        for extra in [Hash::ZERO, empty_root(), leaf_hash(&[b"leaf "])] {
            let mut longer = proof.to_vec();
            longer.insert(item, extra);
            all.push(longer);
        }
        if let Some(own) = proof.get(item) {
            let mut doubled = proof.to_vec();
            doubled.insert(item, *own);
            all.push(doubled);
        }
    }
    for item in 1..proof.len() {
        let mut swapped = proof.to_vec();
        swapped.swap(item - 1, item);
        all.push(swapped);
    }
    all
}

#[test]
fn damaged_inclusion_proofs_are_refused() {
    let leaves = numbered_leaves(17);
    for size in 1..=17 {
        let tree = prefix(&leaves, size);
        let head = head_of(&leaves, size);
        for index in 0..size {
            let leaf = tree[usize::try_from(index).unwrap()];
            let proof = inclusion_proof(tree, index).unwrap();
            for other in damaged(&proof) {
                assert!(verify_inclusion(&leaf, index, &head, &other).is_err());
            }
            for bit in 0..256 {
                let mut wrong_leaf = leaf;
                wrong_leaf.0[bit / 8] ^= 1 << (bit % 8);
                let verdict = verify_inclusion(&wrong_leaf, index, &head, &proof);
                assert_eq!(verdict, Err(MerkleError::RootMismatch));
                let mut wrong_head = head;
                wrong_head.root.0[bit / 8] ^= 1 << (bit % 8);
                let verdict = verify_inclusion(&leaf, index, &wrong_head, &proof);
                assert_eq!(verdict, Err(MerkleError::RootMismatch));
            }
            for wrong_index in (0..size + 2).filter(|other| *other != index) {
                assert!(verify_inclusion(&leaf, wrong_index, &head, &proof).is_err());
            }
        }
    }
}

/// A leaf has the same path in trees of several sizes (the sizes are told apart by their roots),
/// so a wrong size must fail either by its length or by the true root of that size.
#[test]
fn a_proof_for_one_size_does_not_prove_another() {
    let leaves = numbered_leaves(20);
    for size in 1..=20 {
        let tree = prefix(&leaves, size);
        for index in 0..size {
            let leaf = tree[usize::try_from(index).unwrap()];
            let proof = inclusion_proof(tree, index).unwrap();
            for other in (0..=20).filter(|other| *other != size) {
                let head = head_of(&leaves, other);
                assert!(verify_inclusion(&leaf, index, &head, &proof).is_err());
            }
        }
        for old in 1..size {
            let proof = consistency_proof(tree, old).unwrap();
            let old_head = head_of(&leaves, old);
            for other in (old..=20).filter(|other| *other != size) {
                let head = head_of(&leaves, other);
                assert!(verify_consistency(&old_head, &head, &proof).is_err());
            }
        }
    }
}

#[test]
fn damaged_consistency_proofs_are_refused() {
    let leaves = numbered_leaves(17);
    for new in 0..=17 {
        let new_head = head_of(&leaves, new);
        for old in 0..=new {
            let old_head = head_of(&leaves, old);
            let proof = consistency_proof(prefix(&leaves, new), old).unwrap();
            for other in damaged(&proof) {
                assert!(verify_consistency(&old_head, &new_head, &other).is_err());
            }
            for bit in 0..256 {
                let mut wrong = old_head;
                wrong.root.0[bit / 8] ^= 1 << (bit % 8);
                assert!(verify_consistency(&wrong, &new_head, &proof).is_err());
                let mut wrong = new_head;
                wrong.root.0[bit / 8] ^= 1 << (bit % 8);
                // Every log extends the empty one: its root is not the proof's business.
                let verdict = verify_consistency(&old_head, &wrong, &proof);
                assert_eq!(verdict.is_ok(), old == 0 && new > 0);
            }
        }
    }
}

/// A service that rewrites history has no proof: the one of the true log does not fit, nor does
/// one made from the rewritten log.
#[test]
fn a_rewritten_log_is_not_consistent() {
    let leaves = numbered_leaves(20);
    for changed in 0..13 {
        let mut forked = leaves.clone();
        forked[changed] = leaf_hash(&[b"forged"]);
        let old = head_of(&leaves, 13);
        let new = head_of(&forked, 20);
        for source in [&leaves, &forked] {
            let proof = consistency_proof(source, 13).unwrap();
            assert!(verify_consistency(&old, &new, &proof).is_err());
        }
    }
    // Changes after the old head are nobody's business.
    let mut forked = leaves.clone();
    forked[13] = leaf_hash(&[b"other"]);
    let proof = consistency_proof(&forked, 13).unwrap();
    let (old, new) = (head_of(&leaves, 13), head_of(&forked, 20));
    assert_eq!(verify_consistency(&old, &new, &proof), Ok(()));
}

#[test]
fn sizes_at_the_edges() {
    let leaves = numbered_leaves(5);
    let head = head_of(&leaves, 5);
    let three = head_of(&leaves, 3);
    assert_eq!(
        verify_consistency(&head, &three, &[]),
        Err(MerkleError::OldLargerThanNew { old: 5, new: 3 })
    );
    assert_eq!(
        consistency_proof(prefix(&leaves, 3), 5),
        Err(MerkleError::OldLargerThanNew { old: 5, new: 3 })
    );
    assert_eq!(verify_consistency(&head, &head, &[]), Ok(()));
    assert_eq!(
        verify_consistency(&head, &head, &[head.root]),
        Err(MerkleError::WrongProofLength {
            expected: 0,
            actual: 1
        })
    );
    assert_eq!(verify_consistency(&Head::EMPTY, &head, &[]), Ok(()));
    assert_eq!(verify_consistency(&Head::EMPTY, &Head::EMPTY, &[]), Ok(()));
    // Size 0 with another root is not the empty log, on either side.
    let fake = Head {
        size: 0,
        root: head.root,
    };
    assert_eq!(
        verify_consistency(&fake, &head, &[]),
        Err(MerkleError::OldRootMismatch)
    );
    assert!(verify_consistency(&fake, &fake, &[]).is_err());
    assert_eq!(
        verify_inclusion(&leaves[0], 0, &Head::EMPTY, &[]),
        Err(MerkleError::IndexOutOfRange { index: 0, size: 0 })
    );
    assert_eq!(
        inclusion_proof(&leaves, 5),
        Err(MerkleError::IndexOutOfRange { index: 5, size: 5 })
    );
    assert!(inclusion_proof(&[], 0).is_err());
}

/// Numbers from strangers: no overflow, no allocation, a verdict.
#[test]
fn enormous_sizes_are_judged_without_panic() {
    let sizes = [
        1,
        2,
        3,
        (1 << 32) - 1,
        1 << 32,
        MAX_TREE_SIZE - 1,
        MAX_TREE_SIZE,
        MAX_TREE_SIZE + 1,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    let root = leaf_hash(&[b"root"]);
    let proofs: Vec<Vec<Hash>> = (0..=MAX_PROOF_LEN + 1)
        .map(|length| vec![root; length])
        .collect();
    for new in sizes {
        let head = Head { size: new, root };
        for old in sizes {
            let old_head = Head { size: old, root };
            for proof in &proofs {
                if new != 1 || old != 1 {
                    assert!(verify_inclusion(&Hash::ZERO, old, &head, proof).is_err());
                }
                if old != new {
                    assert!(verify_consistency(&old_head, &head, proof).is_err());
                }
            }
            let possible = old <= new && new <= MAX_TREE_SIZE;
            assert_eq!(consistency_nodes(old, new).is_ok(), possible);
            assert_eq!(
                inclusion_nodes(old, new).is_ok(),
                old < new && new <= MAX_TREE_SIZE
            );
        }
    }
    let head = Head {
        size: MAX_TREE_SIZE + 1,
        root,
    };
    assert_eq!(
        verify_inclusion(&root, 0, &head, &[]),
        Err(MerkleError::TreeTooLarge { size: head.size })
    );
}

#[test]
fn a_frontier_with_wrong_counts_is_refused_however_it_arrives() {
    let leaves = numbered_leaves(3);
    assert_eq!(
        Frontier::from_parts(3, vec![leaves[0]]),
        Err(MerkleError::BadFrontier { size: 3, nodes: 1 })
    );
    assert!(Frontier::from_parts(0, vec![leaves[0]]).is_err());
    assert!(Frontier::from_parts(4, Vec::new()).is_err());
    assert_eq!(
        Frontier::from_parts(u64::MAX, vec![leaves[0]; 64]),
        Err(MerkleError::TreeTooLarge { size: u64::MAX })
    );

    let mut frontier = Frontier::new();
    for leaf in &leaves {
        frontier.push(*leaf);
    }
    let bytes = frontier.tls_serialize_detached().unwrap();
    assert_eq!(bytes.len(), frontier.tls_serialized_len());
    assert_eq!(
        Frontier::tls_deserialize_exact_bytes(&bytes).as_ref(),
        Ok(&frontier)
    );
    let mut wrong = bytes.clone();
    wrong[7] = 4;
    assert!(Frontier::tls_deserialize_exact_bytes(&wrong).is_err());
    for length in 0..bytes.len() {
        assert!(Frontier::tls_deserialize_bytes(&bytes[..length]).is_err());
    }

    // The serde form is decoded through this.
    let raw = RawFrontier {
        size: 3,
        nodes: vec![leaves[0]],
    };
    assert!(Frontier::try_from(raw).is_err());
}
