//! Wire types of Conclave: typed identifiers, frames, record headers, limits, refusals, and the Merkle log.
//!
//! This crate promises that every structure has one encoding (TLS presentation language, RFC 8446 §3, with the variable-length vectors of
//! RFC 9420 §2.1.2), that decoding never panics, and that it allocates no more than it received. It never does I/O, reads no clock,
//! draws no randomness and knows no key: what it says about a record is what anybody can compute.
//!
//! ```
//! use conclave_proto::{codec, frame::ClientFrame, limits};
//! let bytes = codec::encode(&ClientFrame::Ping);
//! let frame: ClientFrame = codec::decode("frame", &bytes, limits::FRAME_BYTES)?;
//! assert_eq!(frame, ClientFrame::Ping);
//! # Ok::<(), conclave_proto::codec::DecodeError>(())
//! ```

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

pub mod chunk;
pub mod codec;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod counted;
pub mod evidence;
pub mod frame;
pub mod group;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod merkle;
pub mod policy;
pub mod presence;
pub mod record;
pub mod refusal;
pub mod service;

pub use ids::{
    CommitId, DeviceId, DocumentId, EvidenceId, GroupId, Hash, InstanceId, LifeToken, RealmId,
    RescueId, SessionId, UnixMs, UserId,
};
pub use merkle::{Frontier, Head};
pub use policy::{GroupPolicy, Role};
pub use record::{Author, Record, RecordBody, RecordHeader};
pub use refusal::Refusal;
