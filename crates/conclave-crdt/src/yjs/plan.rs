//! What the count of an update says of the order in which an engine takes it in.
//!
//! What an item costs depends on what is there before it, so the engine takes operations in the order in which they were counted; and it keeps
//! waiting what waits in the log, also where an edit of its own that nobody has seen would let it in.

use super::frontier::{Segment, Stop};
use super::scan::Deletes;

/// How an update is taken in.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What comes in at once, in this order.
    pub(super) ready: Vec<Segment>,
    /// Where each section stops.
    pub(super) stops: Vec<Stop>,
    /// Deletions of what is known then, and those that wait.
    pub(super) known: Deletes,
    pub(super) unknown: Deletes,
    /// What had waited and comes in then, in this order.
    pub(super) released: Vec<Released>,
    /// Deletions that had waited and are carried out at the end.
    pub(super) deletes: Deletes,
    /// Deletions that had waited, of operations that are known now: they wait no longer, whether they are carried out or not.
    pub(super) due: Deletes,
}

impl Plan {
    /// Whether nothing of the update waits.
    pub(super) fn is_complete(&self) -> bool {
        self.unknown.is_empty() && self.stops.iter().all(|stop| stop.needs.is_none())
    }
}

/// Operations that had waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) client: u64,
    pub(super) start: u32,
    pub(super) end: u32,
    /// Whether they come in without their content and place: they cost too much, or stand nowhere.
    pub(super) gone: bool,
}
