//! x
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]
mod args { pub const ENVIRONMENT: [&str; 4] = ["CONCLAVE_HOME", "CONCLAVE_SERVER", "CONCLAVE_PASSPHRASE", "CONCLAVE_TOKEN"]; }
mod demo;
fn main() {}
