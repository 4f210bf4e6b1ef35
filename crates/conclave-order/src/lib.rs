//! How a delivery service orders.
//!
//! An operation is judged outside any transaction ([`op`]): signatures, MLS, roles, all that takes long or needs a group's state. What comes
//! of it is applied in a transaction by comparing rows ([`Batch`]): many operations in one, each seeing what those before it changed.
//! Storage loads named rows and writes named changes ([`Backend`]); what is to be told afterwards is data ([`Event`]). What is only read goes
//! beside it ([`query`]), and both as frames ([`frames`]).
//!
//! | to add | go to |
//! |---|---|
//! | a refusal | the operation's file in `op/`: before the transaction in `judge`, inside it in `decide` |
//! | an operation | a file in `op/`, a line in [`op::Op`], what it weighs in `op/weight.rs` |
//! | something that can be asked for | `query/` |
//! | a row | `rows.rs`, a line in `keys.rs`, a change in `change.rs`, then each backend |
//! | a backend | [`Backend`], [`Transaction`], [`Reader`]; the suite in `conclave-testkit` runs on it |
//!
//! # Promises
//! - An operation that is refused changes nothing: what it would change is made from rows that it cannot alter, and taken only as a whole.
//! - What is decided depends on rows and on the operation alone, not on how operations are put into batches.
//!
//! # Never
//! It does no I/O, reads no clock, and knows no database. It knows no key that opens anything.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

include!(concat!(env!("OUT_DIR"), "/broken.rs"));

mod batch;
mod change;
mod event;
pub mod frames;
mod keys;
pub mod limits;
mod log;
pub mod memory;
pub mod op;
mod proofs;
pub mod query;
mod roots;
pub mod rows;
pub mod runs;
mod store;
pub mod turn;
mod usage;

pub use batch::{Batch, Decided, End, Step};
pub use change::{Change, Secret};
pub use event::{Event, Placed, PlacedSnapshot};
pub use keys::{Keys, Rows, Stop, revoked};
pub use log::NODE_LEVEL;
pub use op::{Asked, Asker, Op, Session};
pub use proofs::{Proofs, proof};
pub use roots::Roots;
pub use store::{
    Backend, Bounds, Cause, Ended, Failure, Reader, Transaction, Watch, WholeRecord, run_batch,
};
