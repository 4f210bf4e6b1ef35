//! Labelled hashing and the byte string that signatures cover.

use sha2::{Digest, Sha256};

use crate::ids::Hash;

/// SHA-256 over a label and parts, every one preceded by its length as a 32-bit big-endian integer, so that no two different
/// inputs have the same encoding.
#[must_use]
pub fn labelled(label: &str, parts: &[&[u8]]) -> Hash {
    #[cfg(debug_assertions)]
    crate::counted::hash();
    let mut hasher = Sha256::new();
    absorb(&mut hasher, label.as_bytes());
    for part in parts {
        absorb(&mut hasher, part);
    }
    Hash(hasher.finalize().into())
}

fn absorb(hasher: &mut Sha256, part: &[u8]) {
    // Every part is capped far below 4 GiB before it gets here; saturating keeps the function total.
    let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
    hasher.update(length.to_be_bytes());
    hasher.update(part);
}

/// The input of a signature: the `SignContent` of RFC 9420 §5.1.2, that is label `"MLS 1.0 " + label`, then content, each with its
/// variable-length prefix.
#[must_use]
pub fn sign_content(label: &str, content: &[u8]) -> Vec<u8> {
    let full = [b"MLS 1.0 ", label.as_bytes()].concat();
    let mut out = Vec::with_capacity(full.len() + content.len() + 8);
    crate::codec::put_bytes(&mut out, &full);
    crate::codec::put_bytes(&mut out, content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cannot_slide_into_each_other() {
        assert_ne!(labelled("l", &[b"ab", b"c"]), labelled("l", &[b"a", b"bc"]));
        assert_ne!(labelled("l", &[b"ab"]), labelled("la", &[b"b"]));
    }

    #[test]
    fn sign_content_is_the_struct_of_rfc_9420() {
        assert_eq!(sign_content("x", b"yz"), b"\x09MLS 1.0 x\x02yz");
    }
}
