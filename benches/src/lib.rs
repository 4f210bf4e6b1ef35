//! What the benchmark programs share, the table that is made of their results, and the counting of what the sources still hold.
//!
//! Each program in `benches/` measures one subject beside its baseline, in the same run and in turn. `docs/TESTING.md` says how to run them.

pub mod cold;
pub mod counts;
pub mod device;
pub mod group;
pub mod log;
pub mod measure;
pub mod presence;
pub mod sqlite;
pub mod table;
pub mod trace;
pub mod writer;
