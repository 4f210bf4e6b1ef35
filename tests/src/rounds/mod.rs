//! Rounds of faults against real processes: `cargo run --release -p conclave-tests --bin kill-rounds`.
//!
//! A service and four devices run as processes of their own. All edit two documents (Yjs and Automerge) without pause. Each round does one
//! thing to them: SIGKILL, SIGSTOP, connections cut, half open, flapping, stalled one way or doubled, members and roles changed, clocks set
//! wrong, disks full. Each device keeps a journal of what it was told. After every round all have to agree, and the documents have to hold
//! what the journals say: nothing acknowledged lost, nothing doubled, nothing made that was said to have failed.

pub mod device;
pub mod fault;
pub mod history;
pub mod play;
pub mod process;
pub mod proxy;
pub mod service;
pub mod wire;
