//! A removal in a group of many documents, with real processes: `cargo run --release -p conclave-tests --bin rotation`.
//!
//! A service and three devices run as processes of their own. The first makes the documents and then removes the third; the second edits
//! all the while. Between each device and the service stands a tap that counts frames by kind and sees when the service refuses the old
//! epoch. With `--kill` the device that re-keys is killed half-way: the other one has to finish.

pub mod device;
pub mod play;
pub mod tap;
