//! Texts and lists, what writers make of them by chance, and what has to hold of what comes of that: of the engines alone, and of all that
//! lies between people.
//!
//! Checks panic where it does not hold, as those of a test do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "checks of tests"
)]

pub mod lists;
mod random;
pub mod texts;

pub use random::{Random, longest, variable};
