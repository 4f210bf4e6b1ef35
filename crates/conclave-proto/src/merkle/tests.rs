//! Published vectors and an exhaustive comparison with the definition.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use tls_codec::{DeserializeBytes, Serialize as _};

use super::*;

mod hostile;

/// Inputs of the Certificate Transparency reference tests.
const REFERENCE_DATA: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];

/// Their roots, for 0 to 8 leaves.
const REFERENCE_ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

/// (leaf index, tree size, path).
const REFERENCE_INCLUSION: [(u64, usize, &[&str]); 5] = [
    (0, 1, &[]),
    (
        0,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        &[
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        3,
        &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    ),
    (
        1,
        5,
        &[
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
];

/// (old size, new size, path).
const REFERENCE_CONSISTENCY: [(u64, usize, &[&str]); 4] = [
    (1, 1, &[]),
    (
        1,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        &[
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        &[
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
];

/// Largest tree of the exhaustive tests.
const LARGEST: u64 = 40;

fn unhex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn hash_of(text: &str) -> Hash {
    crate::ids::Hash(unhex(text).try_into().unwrap())
}

fn hashes_of(texts: &[&str]) -> Vec<Hash> {
    texts.iter().map(|text| hash_of(text)).collect()
}

fn reference_leaves() -> Vec<Hash> {
    REFERENCE_DATA
        .iter()
        .map(|text| leaf_hash(&[&unhex(text)]))
        .collect()
}

fn numbered_leaves(count: u64) -> Vec<Hash> {
    (0..count)
        .map(|number| leaf_hash(&[b"leaf ", &number.to_be_bytes()]))
        .collect()
}

fn prefix(leaves: &[Hash], size: u64) -> &[Hash] {
    &leaves[..usize::try_from(size).unwrap()]
}

fn head_of(leaves: &[Hash], size: u64) -> Head {
    Head {
        size,
        root: naive_root(prefix(leaves, size)),
    }
}

// The definitions of RFC 6962 section 2.1, written down as they stand.

fn naive_split(size: usize) -> usize {
    let mut split = 1;
    while split * 2 < size {
        split *= 2;
    }
    split
}

fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => crate::ids::Hash(Sha256::digest(b"").into()),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(naive_split(leaves.len()));
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

fn naive_inclusion(leaves: &[Hash], index: usize) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let split = naive_split(leaves.len());
    let (left, right) = leaves.split_at(split);
    let (mut path, sibling) = if index < split {
        (naive_inclusion(left, index), naive_root(right))
    } else {
        (naive_inclusion(right, index - split), naive_root(left))
    };
    path.push(sibling);
    path
}

fn naive_consistency(leaves: &[Hash], old: usize, is_whole_old_tree: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if is_whole_old_tree {
            Vec::new()
        } else {
            vec![naive_root(leaves)]
        };
    }
    let split = naive_split(leaves.len());
    let (left, right) = leaves.split_at(split);
    let (mut path, sibling) = if old <= split {
        (
            naive_consistency(left, old, is_whole_old_tree),
            naive_root(right),
        )
    } else {
        (
            naive_consistency(right, old - split, false),
            naive_root(left),
        )
    };
    path.push(sibling);
    path
}

/// What a service stores.
#[derive(Default)]
struct NodeTable(BTreeMap<NodeId, Hash>);

impl NodeSource for NodeTable {
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
        self.0.get(&NodeId { level, index }).copied()
    }
}

fn node_table(leaves: &[Hash]) -> NodeTable {
    let mut table = NodeTable::default();
    let mut frontier = Frontier::new();
    for leaf in leaves {
        frontier.push_with(*leaf, |level, index, hash| {
            let old = table.0.insert(NodeId { level, index }, hash);
            assert_eq!(old, None, "a node was reported twice");
        });
    }
    table
}

#[test]
fn roots_are_the_published_ones() {
    let leaves = reference_leaves();
    for (size, expected) in REFERENCE_ROOTS.iter().enumerate() {
        assert_eq!(root_of(&leaves[..size]), hash_of(expected), "size {size}");
    }
    assert_eq!(empty_root(), hash_of(REFERENCE_ROOTS[0]));
    assert_eq!(Head::EMPTY, Frontier::new().head());
}

#[test]
fn proofs_are_the_published_ones() {
    let leaves = reference_leaves();
    for (index, size, expected) in REFERENCE_INCLUSION {
        let tree = &leaves[..size];
        let proof = inclusion_proof(tree, index).unwrap();
        assert_eq!(proof, hashes_of(expected), "leaf {index} of {size}");
        let head = Head {
            size: size as u64,
            root: hash_of(REFERENCE_ROOTS[size]),
        };
        let leaf = tree[usize::try_from(index).unwrap()];
        assert_eq!(verify_inclusion(&leaf, index, &head, &proof), Ok(()));
    }
    for (old, size, expected) in REFERENCE_CONSISTENCY {
        let proof = consistency_proof(&leaves[..size], old).unwrap();
        assert_eq!(proof, hashes_of(expected), "{old} to {size}");
        let new_head = Head {
            size: size as u64,
            root: hash_of(REFERENCE_ROOTS[size]),
        };
        let old_head = Head {
            size: old,
            root: hash_of(REFERENCE_ROOTS[usize::try_from(old).unwrap()]),
        };
        assert_eq!(verify_consistency(&old_head, &new_head, &proof), Ok(()));
    }
}

#[test]
fn leaves_and_nodes_are_hashed_apart() {
    let (a, b) = (leaf_hash(&[b"a"]), leaf_hash(&[b"b"]));
    assert_ne!(node_hash(&a, &b), node_hash(&b, &a));
    // A leaf whose data is two hashes is not the node above them.
    assert_ne!(leaf_hash(&[&a.0, &b.0]), node_hash(&a, &b));
    assert_eq!(leaf_hash(&[b"a", b"", b"b"]), leaf_hash(&[b"ab"]));
}

#[test]
fn frontier_follows_the_definition() {
    let leaves = numbered_leaves(LARGEST);
    let mut frontier = Frontier::new();
    for size in 0..=LARGEST {
        assert_eq!(frontier.head(), head_of(&leaves, size), "size {size}");
        assert_eq!(frontier.nodes().len(), size.count_ones() as usize);
        let again = Frontier::from_parts(size, frontier.nodes().to_vec()).unwrap();
        assert_eq!(again, frontier);
        if let Some(leaf) = leaves.get(usize::try_from(size).unwrap()) {
            frontier.push(*leaf);
        }
    }
}

#[test]
fn every_completed_node_is_reported_once_and_right() {
    let leaves = numbered_leaves(LARGEST);
    let table = node_table(&leaves);
    let mut expected = BTreeMap::new();
    for level in 0..6 {
        let width = 1 << level;
        for (index, run) in (0u64..).zip(leaves.chunks_exact(width)) {
            let level = u32::try_from(level).unwrap();
            expected.insert(NodeId { level, index }, naive_root(run));
        }
    }
    assert_eq!(table.0, expected);
}

#[test]
fn inclusion_follows_the_definition_for_every_leaf_of_every_size() {
    let leaves = numbered_leaves(LARGEST);
    let table = node_table(&leaves);
    for size in 1..=LARGEST {
        let tree = prefix(&leaves, size);
        let head = head_of(&leaves, size);
        for index in 0..size {
            let at = usize::try_from(index).unwrap();
            let proof = inclusion_proof(tree, index).unwrap();
            assert_eq!(proof, naive_inclusion(tree, at), "leaf {index} of {size}");
            assert_eq!(inclusion_proof_from(&table, index, size).unwrap(), proof);
            assert!(proof.len() <= MAX_PROOF_LEN);
            assert_eq!(verify_inclusion(&tree[at], index, &head, &proof), Ok(()));
        }
    }
}

#[test]
fn consistency_follows_the_definition_for_every_pair_of_sizes() {
    let leaves = numbered_leaves(LARGEST);
    let table = node_table(&leaves);
    for new in 0..=LARGEST {
        let tree = prefix(&leaves, new);
        for old in 0..=new {
            let proof = consistency_proof(tree, old).unwrap();
            let expected = match old {
                0 => Vec::new(),
                _ => naive_consistency(tree, usize::try_from(old).unwrap(), true),
            };
            assert_eq!(proof, expected, "{old} to {new}");
            assert_eq!(consistency_proof_from(&table, old, new).unwrap(), proof);
            let (old_head, new_head) = (head_of(&leaves, old), head_of(&leaves, new));
            assert_eq!(verify_consistency(&old_head, &new_head, &proof), Ok(()));
        }
    }
}

/// A source that answers from the numbers alone stands in for a log too large to build.
struct EndlessLog;

impl NodeSource for EndlessLog {
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
        // All leaves alike, so that every node of a level is alike.
        assert!(index < MAX_TREE_SIZE >> level);
        let leaf = leaf_hash(&[b"same"]);
        Some((0..level).fold(leaf, |node, _| node_hash(&node, &node)))
    }
}

#[test]
fn proofs_of_the_largest_trees_are_built_and_fit_the_cap() {
    let leaf = leaf_hash(&[b"same"]);
    for size in [MAX_TREE_SIZE, MAX_TREE_SIZE - 1, (1 << 61) + 1] {
        let head = head_from(&EndlessLog, size).unwrap();
        for index in [0, 1, size / 2, (1 << 61) - 1, size - 2, size - 1] {
            let proof = inclusion_proof_from(&EndlessLog, index, size).unwrap();
            assert!(proof.len() <= MAX_PROOF_LEN);
            assert_eq!(verify_inclusion(&leaf, index, &head, &proof), Ok(()));
            if index > 0 {
                let old = head_from(&EndlessLog, index).unwrap();
                let proof = consistency_proof_from(&EndlessLog, index, size).unwrap();
                assert!(proof.len() <= MAX_PROOF_LEN);
                assert_eq!(verify_consistency(&old, &head, &proof), Ok(()));
            }
        }
    }
}

#[test]
fn the_lists_of_wanted_nodes_suffice_and_each_is_needed() {
    let leaves = numbered_leaves(LARGEST);
    let table = node_table(&leaves);
    for size in 1..=LARGEST {
        for other in 0..size {
            let wanted = inclusion_nodes(other, size).unwrap();
            check_wanted(&table, &wanted, |source| {
                inclusion_proof_from(source, other, size)
            });
            let wanted = consistency_nodes(other, size).unwrap();
            check_wanted(&table, &wanted, |source| {
                consistency_proof_from(source, other, size)
            });
        }
    }
}

fn check_wanted(
    table: &NodeTable,
    wanted: &[NodeId],
    build: impl Fn(&NodeTable) -> Result<Vec<Hash>, MerkleError>,
) {
    let only_those = || NodeTable(wanted.iter().map(|id| (*id, table.0[id])).collect());
    assert_eq!(only_those().0.len(), wanted.len(), "a node is listed twice");
    assert_eq!(build(&only_those()), build(table));
    for id in wanted {
        let mut lacking = only_those();
        lacking.0.remove(id);
        let NodeId { level, index } = *id;
        let verdict = build(&lacking);
        assert_eq!(verdict, Err(MerkleError::MissingNode { level, index }));
    }
}

#[test]
fn a_frontier_is_rebuilt_from_stored_nodes() {
    let leaves = numbered_leaves(LARGEST);
    let table = node_table(&leaves);
    for size in 0..=LARGEST {
        let mut frontier = Frontier::from_source(&table, size).unwrap();
        assert_eq!(frontier.head(), head_of(&leaves, size));
        assert_eq!(head_from(&table, size).unwrap(), frontier.head());
        for leaf in &leaves[usize::try_from(size).unwrap()..] {
            frontier.push(*leaf);
        }
        assert_eq!(frontier.head(), head_of(&leaves, LARGEST));
    }
    assert!(matches!(
        Frontier::from_source(&table, LARGEST + 1),
        Err(MerkleError::MissingNode { .. })
    ));
}

#[test]
fn a_head_is_forty_bytes() {
    let head = Head {
        size: 0x0102,
        root: leaf_hash(&[b"x"]),
    };
    let bytes = head.tls_serialize_detached().unwrap();
    assert_eq!(bytes[..8], [0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(bytes[8..], head.root.0);
    assert_eq!(Head::tls_deserialize_exact_bytes(&bytes), Ok(head));
}

#[test]
fn error_codes_are_stable_and_distinct() {
    let all = [
        MerkleError::IndexOutOfRange { index: 1, size: 1 },
        MerkleError::OldLargerThanNew { old: 2, new: 1 },
        MerkleError::TreeTooLarge { size: u64::MAX },
        MerkleError::WrongProofLength {
            expected: 0,
            actual: 1,
        },
        MerkleError::OldRootMismatch,
        MerkleError::RootMismatch,
        MerkleError::MissingNode { level: 0, index: 0 },
        MerkleError::BadFrontier { size: 1, nodes: 0 },
    ];
    let codes: std::collections::BTreeSet<_> = all.iter().map(MerkleError::code).collect();
    assert_eq!(codes.len(), all.len());
    assert!(all.iter().all(|error| !error.is_retryable()));
}
