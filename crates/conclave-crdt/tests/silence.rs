//! Panics inside an engine are not printed. Alone in its process, since the panic hook is global.
#![cfg(all(feature = "yjs", feature = "automerge"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use conclave_crdt::{CrdtError, CrdtKind};
use sha2::{Digest, Sha256};

static HOOK_CALLS: AtomicUsize = AtomicUsize::new(0);

#[test]
fn engine_panics_reach_no_hook_and_other_panics_do() {
    std::panic::set_hook(Box::new(|_| {
        HOOK_CALLS.fetch_add(1, Ordering::SeqCst);
    }));
    let kind = CrdtKind::Automerge;
    let mut author = new(kind, 1);
    insert(&mut author, 0, "secret");
    let update = update(&mut author);
    let mut contained = 0;
    for index in 40..update.len() {
        for bit in 0..8 {
            let mut flipped = update.clone();
            flipped[index] ^= 1 << bit;
            let hash: [u8; 32] = Sha256::digest(&flipped[8..]).into();
            flipped[4..8].copy_from_slice(&hash[..4]);
            let mut doc = new(kind, 2);
            if doc.apply(&[&flipped]) == Err(CrdtError::Panicked) {
                contained += 1;
                assert_eq!(doc.snapshot().err(), Some(CrdtError::Poisoned));
            }
        }
    }
    assert!(
        contained > 0,
        "some flip must make the engine panic, or this test shows nothing"
    );
    assert_eq!(HOOK_CALLS.load(Ordering::SeqCst), 0);
    let _ = std::panic::catch_unwind(|| panic!("elsewhere"));
    assert_eq!(HOOK_CALLS.load(Ordering::SeqCst), 1);
}
