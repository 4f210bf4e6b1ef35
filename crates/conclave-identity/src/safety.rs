//! Numbers that people compare.

use conclave_proto::Hash;
use conclave_proto::hash::labelled;

use crate::user::UserGenesis;

/// Rounds of the iterated hash: makes each try of a search for a colliding number that much dearer, and is not felt once.
const ROUNDS: u32 = 5200;
/// Groups of five digits that one hash gives.
const GROUPS_PER_HASH: usize = 6;

/// The number that two users compare: 60 digits in 12 groups of five, the same from either side.
///
/// With `low` and `high` the two statements' [`UserGenesis::hash`]es in ascending order and `H` the labelled SHA-256 of
/// [`labelled`], label `conclave 1.0 safety number`:
/// `d₀ = H(low, high)`, `dᵢ = H(dᵢ₋₁, low, high)` for 5200 rounds; then, for each of the two bytes `b` = 0 and 1, the first 30 bytes of
/// `labelled("conclave 1.0 digits", [d, b])` in six pieces of five bytes, each a big-endian integer modulo 100 000, written with five digits.
#[must_use]
pub fn safety_number(a: &UserGenesis, b: &UserGenesis) -> String {
    safety_number_from_hashes(&a.hash(), &b.hash())
}

/// [`safety_number`] from the hashes of the two statements, as pins keep them.
#[must_use]
pub fn safety_number_from_hashes(a: &Hash, b: &Hash) -> String {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    let digest = stretch("conclave 1.0 safety number", &[&low.0, &high.0]);
    digits(&digest, 2 * GROUPS_PER_HASH)
}

/// The number that all members of a group compare in one epoch: 30 digits in six groups of five, from the epoch authenticator
/// (RFC 9420 §8.7). Derived as [`safety_number`] is, label `conclave 1.0 group code`, with the authenticator as the one part.
#[must_use]
pub fn group_code(epoch_authenticator: &[u8]) -> String {
    let digest = stretch("conclave 1.0 group code", &[epoch_authenticator]);
    digits(&digest, GROUPS_PER_HASH)
}

/// Thirty digits for one hash, derived as [`safety_number`] is.
pub(crate) fn fingerprint(label: &str, hash: &Hash) -> String {
    digits(&stretch(label, &[&hash.0]), GROUPS_PER_HASH)
}

/// Whether two writings of a number have the same digits.
pub(crate) fn is_same_number(number: &str, typed: &str) -> bool {
    let digits = |text: &str| -> Vec<char> { text.chars().filter(char::is_ascii_digit).collect() };
    let only = |c: char| c.is_ascii_digit() || c.is_whitespace() || c == '-';
    typed.chars().all(only) && digits(number) == digits(typed)
}

fn stretch(label: &str, parts: &[&[u8]]) -> Hash {
    let mut digest = labelled(label, parts);
    for _ in 0..ROUNDS {
        let before = digest.0;
        let mut inputs: Vec<&[u8]> = vec![&before];
        inputs.extend_from_slice(parts);
        digest = labelled(label, &inputs);
    }
    digest
}

fn digits(digest: &Hash, groups: usize) -> String {
    let mut written: Vec<String> = Vec::with_capacity(groups);
    let mut block = 0u8;
    while written.len() < groups {
        let bytes = labelled("conclave 1.0 digits", &[&digest.0, &[block]]);
        for piece in bytes.0.chunks_exact(5).take(groups - written.len()) {
            let value = piece
                .iter()
                .fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
            written.push(format!("{:05}", value % 100_000));
        }
        block = block.wrapping_add(1);
    }
    written.join(" ")
}
