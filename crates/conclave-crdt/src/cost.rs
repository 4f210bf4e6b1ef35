//! What an update costs its readers, counted from its bytes and from numbers that all members share, before an engine sees it.
//!
//! Engines walk, cut and copy more than an update is long: a few kilobytes can keep one busy for minutes. The cost of an update is a bound on
//! that work in units of [`UNIT_NS`]. It depends only on what was ordered before it, so that all members judge it alike: on operations and
//! deletions, never on how an engine happens to keep them. Whoever wrote the update pays from a balance that grows with what is written.

use crate::error::{CrdtError, Result};
use crate::inspected::{Inspected, Reading};
use crate::kinds::CrdtKind;

/// Most units of a balance, and what everybody starts with.
pub const BALANCE_CAP: u64 = 1 << 22;
/// Most units that one Yjs update may cost.
pub const YJS_UPDATE_UNITS: u64 = 1 << 19;
/// Most units, which are operations, that one Automerge update may cost.
pub const AUTOMERGE_UPDATE_UNITS: u64 = 7 << 14;
/// Longest canonical block that is live, in UTF-16 units or values.
pub const LIVE_BLOCK_UNITS: u64 = 1 << 20;
/// Most canonical blocks of a Yjs document; the operations of one user may grow it by half of that.
pub const YJS_DOCUMENT_SIZE: u64 = 1 << 21;
/// Most operations of an Automerge document; those of one user may make half of that.
pub const AUTOMERGE_DOCUMENT_SIZE: u64 = 1 << 25;
/// About what a unit is of an engine's time, in nanoseconds. For estimates of how long work may take, never for a verdict.
pub const UNIT_NS: u64 = 200;
/// The same of a unit of Automerge, which is an operation.
pub const AUTOMERGE_UNIT_NS: u64 = 500;
/// Units earned per Yjs item, and by any update at least: one that only deletes can be paid for.
pub const ITEM_EARNS: u64 = 64;
/// Units earned per byte of an Automerge update.
pub const BYTE_EARNS: u64 = 16;
/// Units that an Automerge update costs per change, dependency and actor.
pub const NAME_UNITS: u64 = 16;
/// Bytes of an inflated Automerge change that cost a unit. What inflates most may be 256 times as long as it was sent before it earns less
/// than it costs.
pub const INFLATED_PER_UNIT: u64 = 16;

/// Most units that one update of this kind may cost.
#[must_use]
pub const fn update_units(kind: CrdtKind) -> u64 {
    match kind {
        CrdtKind::Yjs => YJS_UPDATE_UNITS,
        CrdtKind::Automerge => AUTOMERGE_UPDATE_UNITS,
    }
}

/// About what a unit is of the time of an engine of this kind, in nanoseconds.
#[must_use]
pub const fn unit_ns(kind: CrdtKind) -> u64 {
    match kind {
        CrdtKind::Yjs => UNIT_NS,
        CrdtKind::Automerge => AUTOMERGE_UNIT_NS,
    }
}

/// Largest document of this kind: canonical blocks or operations.
#[must_use]
pub const fn document_size(kind: CrdtKind) -> u64 {
    match kind {
        CrdtKind::Yjs => YJS_DOCUMENT_SIZE,
        CrdtKind::Automerge => AUTOMERGE_DOCUMENT_SIZE,
    }
}

/// What an update may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// What its user has left.
    pub balance: u64,
    /// By how much the document, and the part of it that is this user's, may still grow: canonical blocks or operations.
    pub room: u64,
}

impl Allowance {
    pub(crate) fn has_room(&self, grown: i64) -> bool {
        grown <= 0 || grown.unsigned_abs() <= self.room
    }
}

/// What loading a snapshot may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadLimit {
    /// Units (Yjs), or rows and 16 for each change (Automerge).
    pub units: u64,
    /// And so many units for each item that it holds (Yjs).
    pub per_item: u64,
    /// But for no more items than these.
    pub items_max: u64,
}

impl LoadLimit {
    /// So many units, whatever it holds.
    #[must_use]
    pub const fn units(units: u64) -> Self {
        Self {
            units,
            per_item: 0,
            items_max: 0,
        }
    }

    pub(crate) fn with_items(self, items: u64) -> u64 {
        let items = items.min(self.items_max);
        self.units
            .saturating_add(self.per_item.saturating_mul(items))
    }
}

/// What an update cost that was taken in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// Its cost.
    pub cost: u64,
    /// What its user has left, after earning and paying.
    pub balance: u64,
    /// By how much it made the document grow: below zero where that has shrunk.
    pub grown: i64,
    /// What operations and deletions cost that had waited and came in with this update. It was paid for when they arrived.
    pub released: u64,
}

/// Why an update is refused before an engine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It cannot be read.
    Malformed(CrdtError),
    /// It says what no engine would write, as of an item between two lists.
    Content {
        /// What its user has left: counting was paid for.
        balance: u64,
    },
    /// It costs more than one update may, more than its user has, or makes the document too large.
    Cost {
        /// What its user has left: counting was paid for.
        balance: u64,
    },
}

impl From<CrdtError> for Refused {
    fn from(error: CrdtError) -> Self {
        Self::Malformed(error)
    }
}

/// The numbers from which costs are counted: what a log holds, without its content. Local edits that are in no log are not in it.
pub struct Meter {
    state: State,
}

enum State {
    #[cfg(feature = "yjs")]
    Yjs(Box<crate::yjs::Order>),
    #[cfg(feature = "automerge")]
    Automerge(crate::automerge::Ops),
    /// Of a kind that was not compiled in.
    #[cfg(not(all(feature = "yjs", feature = "automerge")))]
    Absent,
}

impl Meter {
    /// Of an empty log.
    #[must_use]
    pub fn new(kind: CrdtKind) -> Self {
        let state = match kind {
            #[cfg(feature = "yjs")]
            CrdtKind::Yjs => State::Yjs(Box::default()),
            #[cfg(feature = "automerge")]
            CrdtKind::Automerge => State::Automerge(crate::automerge::Ops::default()),
            #[cfg(not(all(feature = "yjs", feature = "automerge")))]
            _ => State::Absent,
        };
        Self { state }
    }

    /// Of the state in a snapshot of [`crate::Crdt::snapshot`], with what waits in it.
    ///
    /// # Errors
    /// [`CrdtError::Malformed`] or [`CrdtError::TooLarge`] if the bytes are not a snapshot of this kind.
    pub fn load(kind: CrdtKind, snapshot: &[u8]) -> Result<Self> {
        match Self::load_within(kind, snapshot, LoadLimit::units(u64::MAX)) {
            Ok((meter, _)) => Ok(meter),
            Err(Refused::Malformed(error)) => Err(error),
            Err(Refused::Content { .. } | Refused::Cost { .. }) => Err(CrdtError::Malformed),
        }
    }

    /// The same, and what loading the snapshot costs an engine: units (Yjs), or rows and 16 for each change (Automerge). Counting stops at the
    /// limit.
    ///
    /// # Errors
    /// [`Refused::Cost`] over the limit; [`Refused::Malformed`] or [`Refused::Content`] where it is no snapshot.
    pub fn load_within(
        kind: CrdtKind,
        snapshot: &[u8],
        limit: LoadLimit,
    ) -> core::result::Result<(Self, u64), Refused> {
        let (state, units) = match kind {
            #[cfg(feature = "yjs")]
            CrdtKind::Yjs => {
                let (order, units) = crate::yjs::Order::load(snapshot, limit)?;
                (State::Yjs(Box::new(order)), units)
            }
            #[cfg(feature = "automerge")]
            CrdtKind::Automerge => {
                let (ops, units) = crate::automerge::Ops::load(snapshot, limit.units)?;
                (State::Automerge(ops), units)
            }
            #[cfg(not(all(feature = "yjs", feature = "automerge")))]
            _ => return Err(Refused::Malformed(CrdtError::Engine)),
        };
        Ok((Self { state }, units))
    }

    /// Canonical blocks (Yjs), or operations, changes and dependencies (Automerge).
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.state {
            #[cfg(feature = "yjs")]
            State::Yjs(order) => order.size(),
            #[cfg(feature = "automerge")]
            State::Automerge(ops) => ops.size(),
            #[cfg(not(all(feature = "yjs", feature = "automerge")))]
            State::Absent => 0,
        }
    }

    /// Operations and deletions that wait for others (Yjs).
    #[must_use]
    pub fn waiting(&self) -> u64 {
        match &self.state {
            #[cfg(feature = "yjs")]
            State::Yjs(order) => order.waiting(),
            #[allow(unreachable_patterns)]
            _ => 0,
        }
    }

    /// Counts an update and takes it in. `read` is what [`crate::Crdt::inspect`] gave for the same bytes; what of it waits, and what of what
    /// waited comes in with it, is noted there for the engine. After an error the meter is as before.
    ///
    /// # Errors
    /// Why the update is refused.
    pub fn count(
        &mut self,
        update: &[u8],
        read: &mut Inspected,
        allowance: Allowance,
    ) -> core::result::Result<Counted, Refused> {
        self.count_in(update, read, allowance, false)
    }

    /// The same for what may be taken out again: each that was counted so since the last [`Meter::count`] can be, the last one first.
    ///
    /// # Errors
    /// As [`Meter::count`].
    pub fn count_on_top(
        &mut self,
        update: &[u8],
        read: &mut Inspected,
        allowance: Allowance,
    ) -> core::result::Result<Counted, Refused> {
        self.count_in(update, read, allowance, true)
    }

    fn count_in(
        &mut self,
        update: &[u8],
        read: &mut Inspected,
        allowance: Allowance,
        on_top: bool,
    ) -> core::result::Result<Counted, Refused> {
        match (&mut self.state, &mut read.reading) {
            #[cfg(feature = "yjs")]
            (State::Yjs(order), Reading::Yjs(layout)) => {
                order.count(update, layout, allowance, on_top)
            }
            #[cfg(feature = "automerge")]
            (State::Automerge(ops), Reading::Automerge(changes)) => {
                ops.count(update.len() as u64, changes, allowance, on_top)
            }
            #[allow(unreachable_patterns)]
            _ => Err(Refused::Malformed(CrdtError::Malformed)),
        }
    }

    /// Takes the update of the last [`Meter::count`] or [`Meter::count_on_top`] out again. Once for each, and before anything else is counted.
    pub fn revert(&mut self) {
        match &mut self.state {
            #[cfg(feature = "yjs")]
            State::Yjs(order) => order.revert(),
            #[cfg(feature = "automerge")]
            State::Automerge(ops) => ops.revert(),
            #[cfg(not(all(feature = "yjs", feature = "automerge")))]
            State::Absent => {}
        }
    }
}

impl core::fmt::Debug for Meter {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Meter")
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

/// By how much a size has grown. None is so large that it has no sign.
pub(crate) fn growth(from: u64, to: u64) -> i64 {
    to.wrapping_sub(from).cast_signed()
}

/// Earning, then the two limits of an update, then paying.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purse {
    /// What there is to pay from.
    full: u64,
    /// The most that may be paid.
    limit: u64,
    /// The balance before earning.
    before: u64,
}

impl Purse {
    pub(crate) fn new(kind: CrdtKind, allowance: Allowance, earned: u64) -> Self {
        let earned = earned.max(ITEM_EARNS);
        let full = allowance.balance.saturating_add(earned).min(BALANCE_CAP);
        Self {
            full,
            limit: full.min(update_units(kind)),
            before: allowance.balance.min(BALANCE_CAP),
        }
    }

    /// What an update may cost.
    pub(crate) fn limit(self) -> u64 {
        self.limit
    }

    /// The balance after an update that was taken in.
    pub(crate) fn paid(self, cost: u64) -> u64 {
        self.full.saturating_sub(cost)
    }

    /// The refusal of an update of which so much was counted. It earns nothing.
    pub(crate) fn refused(self, counted: u64) -> Refused {
        Refused::Cost {
            balance: self.left(counted),
        }
    }

    /// The balance after a refused update of which so much was counted.
    pub(crate) fn left(self, counted: u64) -> u64 {
        self.before.saturating_sub(counted)
    }
}
