//! Shared by the tests: documents of either kind, and a seeded source of randomness.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use conclave_crdt::{Crdt, CrdtKind, ReplicaId, TextView, create, load};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

pub const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];

pub type Doc = Box<dyn Crdt>;

/// A replica id that depends on `n` only.
pub fn replica(kind: CrdtKind, n: u8) -> ReplicaId {
    ReplicaId::for_kind(kind, [n; 16])
}

pub fn new(kind: CrdtKind, n: u8) -> Doc {
    create(kind, replica(kind, n)).unwrap()
}

pub fn reload(kind: CrdtKind, snapshot: &[u8], n: u8) -> Doc {
    load(kind, snapshot, replica(kind, n)).unwrap()
}

pub fn view(doc: &mut Doc) -> &mut dyn TextView {
    doc.text().expect("every kind has a text")
}

pub fn text(doc: &mut Doc) -> String {
    view(doc).text().unwrap()
}

pub fn insert(doc: &mut Doc, position: usize, insert: &str) {
    view(doc).splice(position, 0, insert).unwrap();
}

/// What the document wrote since the last call.
pub fn pending(doc: &mut Doc) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    doc.take_pending(&mut out).unwrap();
    out
}

/// The one update that the document wrote.
pub fn update(doc: &mut Doc) -> Vec<u8> {
    let mut out = pending(doc);
    assert_eq!(out.len(), 1);
    out.remove(0)
}

pub fn apply_all(doc: &mut Doc, updates: &[Vec<u8>]) -> conclave_crdt::Applied {
    let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
    doc.apply(&updates).unwrap()
}

pub fn digest(doc: &mut Doc) -> [u8; 32] {
    doc.content_digest().unwrap()
}

pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform enough below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound.max(1) as u64) as usize
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// A random edit of the text.
    pub fn edit(&mut self, doc: &mut Doc) {
        const WORDS: [&str; 6] = [
            "a",
            "bc",
            "\u{1f600}",
            "d\u{e9}f ",
            "\n",
            "\u{4e2d}\u{6587}",
        ];
        let view = view(doc);
        let length = view.len().unwrap();
        let position = self.below(length + 1);
        let delete = if self.below(3) == 0 {
            self.below(length - position + 1).min(4)
        } else {
            0
        };
        let word = if self.below(4) == 0 {
            ""
        } else {
            WORDS[self.below(WORDS.len())]
        };
        view.splice(position, delete, word).unwrap();
    }
}
