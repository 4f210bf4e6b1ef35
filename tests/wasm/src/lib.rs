//! What an application in a browser does, as a test: two members share sealed records, and an
//! engine keeps a group with documents over a store. `node.js` beside this package calls it as a
//! wasm module and judges what comes back; on other targets it is an ordinary library whose tests
//! run the same code.
//!
//! Time, randomness and storage come from the caller. It never does I/O.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod desk;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
mod exports;
mod pair;

pub use desk::Desk;
pub use pair::{Failure, Pair};
