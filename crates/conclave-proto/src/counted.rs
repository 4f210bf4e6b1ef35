//! How much a thread has hashed and encoded, in debug builds alone: tests ask how that grows.

use core::cell::Cell;

std::thread_local! {
    static HASHES: Cell<u64> = const { Cell::new(0) };
    static ENCODES: Cell<u64> = const { Cell::new(0) };
}

/// Hashes of this thread so far.
#[must_use]
pub fn hashes() -> u64 {
    HASHES.get()
}

/// Values that this thread has encoded so far.
#[must_use]
pub fn encodes() -> u64 {
    ENCODES.get()
}

pub(crate) fn hash() {
    HASHES.set(HASHES.get().wrapping_add(1));
}

pub(crate) fn encode() {
    ENCODES.set(ENCODES.get().wrapping_add(1));
}
