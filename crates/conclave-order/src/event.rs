//! What is to be told, once it is durable.

use std::collections::BTreeSet;
use std::sync::Arc;

use conclave_proto::service::Generation;
use conclave_proto::{DeviceId, Hash, Head, LifeToken, Record, Refusal, UnixMs, UserId};

use crate::op::append::Frame;
use crate::op::packages::Claimed;

/// What became of an operation.
#[derive(Debug, Clone)]
pub enum Event {
    /// It was refused, and changed nothing.
    Refused(Refusal),
    /// A frame of records was accepted.
    Records(Placed),
    /// A frame of records was refused.
    RecordsRefused {
        /// Why.
        refusal: Refusal,
        /// The author's next clock and last leaf as stored, where they are known.
        chain: Option<(u64, Hash)>,
    },
    /// A snapshot was accepted.
    Snapshot(PlacedSnapshot),
    /// This very thing was accepted before.
    Known {
        /// Its position.
        seq: u64,
        /// The head after it.
        head: Head,
    },
    /// An entry of a group's log was accepted.
    Ordered {
        /// Its position.
        seq: u64,
        /// The head after it.
        head: Head,
    },
    /// A device has logged in: its older sessions are over.
    LoggedIn {
        /// The device.
        device: DeviceId,
        /// When.
        at: UnixMs,
        /// The session.
        session: u64,
        /// Number of the life that begins when it is confirmed.
        life: u64,
        /// Its token.
        next: LifeToken,
    },
    /// A user's device list has changed.
    ListChanged {
        /// Whose.
        user: UserId,
        /// Whom it concerns.
        told: BTreeSet<DeviceId>,
        /// Devices that lose their standing.
        gone: Vec<DeviceId>,
    },
    /// Key packages were stored.
    PackagesPut {
        /// Whose.
        user: UserId,
        /// One-time packages left.
        left: u32,
        /// The user's other devices, where they are the device's first.
        siblings: BTreeSet<DeviceId>,
    },
    /// Key packages were handed out.
    Claimed(Vec<Claimed>),
    /// A plea is kept.
    Asked {
        /// Whether it was not known.
        is_new: bool,
    },
    /// A generation has begun: whatever anybody knew before is to be compared anew.
    Declared {
        /// The generation.
        generation: Generation,
    },
    /// What a log lost came back: it is not held any more.
    Returned {
        /// Position of the first of what came back.
        seq: u64,
        /// The head after the last.
        head: Head,
    },
    /// A log's loss was declared: it goes on from what there is.
    LossAccepted,
    /// So many replaced snapshots lost their content.
    Swept(usize),
    /// Done; nothing more to say.
    Done,
}

/// Where a frame of records came to lie.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Position of its first record.
    pub first_seq: u64,
    /// Number of the author.
    pub author: u64,
    /// Roots after each record.
    pub roots: Vec<Hash>,
    /// The author's next clock.
    pub next_clock: u64,
    /// Size that the active snapshot covers.
    pub covered: u64,
    /// The frame.
    pub frame: Arc<Frame>,
}

/// An accepted snapshot.
#[derive(Debug, Clone)]
pub struct PlacedSnapshot {
    /// Its position.
    pub seq: u64,
    /// The head after it.
    pub head: Head,
    /// Size that it covers.
    pub covered: u64,
    /// Whether its author had seen less than the snapshot before it covers: then receivers need a proof.
    pub late: bool,
    /// The record.
    pub record: Arc<Record>,
}
