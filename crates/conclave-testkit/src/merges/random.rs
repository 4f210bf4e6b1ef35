//! A seeded source of randomness, and what the environment says of the run.

use conclave_crdt::CrdtKind;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A number that the environment says.
///
/// # Panics
/// Where it says something else.
#[must_use]
pub fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// The longest of what varies in length: the whole range where many cases run, less where the test is one among others.
#[must_use]
pub fn longest(most: usize) -> usize {
    match std::env::var("CONCLAVE_MERGE_CASES") {
        Ok(_) => most,
        Err(_) => most / 10,
    }
}

/// The source.
pub struct Random(ChaCha8Rng);

impl Random {
    /// One that gives the same for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Less than `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end.max(1) as u64) as usize
    }

    /// These and all between.
    pub fn between(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to - from + 1)
    }

    /// As many small numbers as large ones.
    pub fn size(&mut self, from: usize, to: usize) -> usize {
        let ratio = (to as f64 / from as f64).powf(self.below(1_001) as f64 / 1_000.0);
        ((from as f64 * ratio) as usize).clamp(from, to)
    }

    /// Either kind.
    pub fn kind(&mut self) -> CrdtKind {
        [CrdtKind::Yjs, CrdtKind::Automerge][self.below(2)]
    }
}
