//! The identity layer from the outside: what it accepts, and what an attacker tries.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod cast;
mod credential;
mod device_list;
mod drawn;
mod enrolment;
mod pins;
mod texts;
