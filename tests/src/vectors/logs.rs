//! Merkle logs.

use anyhow::{Result, ensure};
use conclave_proto::Hash;
use conclave_proto::merkle::{
    Frontier, Head, consistency_proof, empty_root, leaf_hash, node_hash, verify_consistency,
};

use super::Book;
use super::value::Shown;

/// Leaves of the largest tree here.
const LEAVES: u64 = 13;

pub(super) fn write(book: &mut Book<'_>) -> Result<()> {
    let data: Vec<[u8; 1]> = (0..LEAVES).map(|at| [at.to_le_bytes()[0]]).collect();
    let leaves: Vec<Hash> = data.iter().map(|it| leaf_hash(&[it])).collect();
    let [first, second, ..] = leaves.as_slice() else {
        return Ok(());
    };
    let mut entry = book.plain("leaves, and the node of the first two");
    for (data, leaf) in data.iter().zip(&leaves) {
        entry.makes("leaf", "leaf", &[("data", data)], leaf.0);
    }
    let node = node_hash(first, second);
    entry.makes(
        "node",
        "node",
        &[("left", &first.0), ("right", &second.0)],
        node.0,
    );
    entry.makes("root of the empty log", "H", &[("", b"")], empty_root().0);
    drop(entry);

    let mut frontier = Frontier::new();
    let mut heads = vec![frontier.head()];
    let about = "of those leaves";
    book.of(
        &format!("frontier of size 0 {about}"),
        "Frontier",
        &frontier,
    )?;
    for leaf in &leaves {
        frontier.push(*leaf);
        heads.push(frontier.head());
        let size = frontier.size();
        book.of(
            &format!("frontier of size {size} {about}"),
            "Frontier",
            &frontier,
        )?;
    }
    for head in &heads {
        book.of(&format!("head of size {} {about}", head.size), "Head", head)?;
    }
    for (old, new) in [
        (0, 5),
        (1, 2),
        (3, 7),
        (4, 8),
        (6, 8),
        (7, 13),
        (8, 13),
        (12, 13),
        (13, 13),
    ] {
        proof(book, &leaves, &heads, (old, new))?;
    }
    Ok(())
}

fn proof(
    book: &mut Book<'_>,
    leaves: &[Hash],
    heads: &[Head],
    (old, new): (u64, u64),
) -> Result<()> {
    let upto = leaves.get(..usize::try_from(new)?).unwrap_or_default();
    let proof = consistency_proof(upto, old)?;
    let find = |size: u64| heads.iter().find(|head| head.size == size);
    let (Some(from), Some(to)) = (find(old), find(new)) else {
        return Ok(());
    };
    ensure!(verify_consistency(from, to, &proof).is_ok(), "no proof");
    let hashes = proof.iter().map(|hash| Shown::hex(&hash.0)).collect();
    let of = [("old", old.into()), ("new", new.into())];
    book.plain(&format!(
        "consistency of sizes {old} and {new} of those leaves"
    ))
    .given_hex("old root", from.root.0)
    .given_hex("new root", to.root.0)
    .follows("proof", "consistency proof", &of, Shown::List(hashes));
    Ok(())
}
