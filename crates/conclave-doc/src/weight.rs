//! How much of a document is news since its active snapshot: the updates that were applied, and nothing else. Snapshots and verdicts weigh
//! nothing, so that they never call for one another.

use conclave_proto::{DeviceId, GroupPolicy};
use conclave_rules::Authority;
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::state::{Effect, News};

/// Updates that were applied: how many, and their encoded bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Weight {
    pub updates: u64,
    pub bytes: u64,
}

impl Weight {
    /// What one record weighs.
    pub(crate) fn of(effect: &Effect) -> Self {
        match effect.news {
            News::Update => Self {
                updates: 1,
                bytes: u64::from(effect.bytes),
            },
            _ => Self::default(),
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            updates: self.updates.saturating_add(other.updates),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            updates: self.updates.saturating_sub(other.updates),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// Whether so much after a snapshot of `snapshot_bytes` calls for the next. What replaces a snapshot weighs at least as much as it did, so
    /// all that were replaced are together no larger than the updates that replaced them.
    fn calls_for_snapshot(&self, policy: &GroupPolicy, snapshot_bytes: u64) -> bool {
        let enough = self.updates >= u64::from(policy.snapshot_after_records)
            || self.bytes >= u64::from(policy.snapshot_after_bytes);
        enough && self.updates > 0 && self.bytes >= snapshot_bytes
    }
}

impl Document {
    /// What came after the active snapshot's covered head.
    fn weight(&self) -> Weight {
        self.state.weight.minus(self.state.active.weight)
    }

    /// Whether the updates since the active snapshot call for the next, by the policy's thresholds, and it can be made now.
    #[must_use]
    pub fn snapshot_due(&self, policy: &GroupPolicy) -> bool {
        self.weight()
            .calls_for_snapshot(policy, self.state.active.bytes)
            && self.can_snapshot()
    }

    /// The device whose update made a snapshot due: that one makes it. `None` where none is due, or where that was before the checkpoint. Steps
    /// back to that update.
    #[must_use]
    pub fn made_due_by(&self, policy: &GroupPolicy) -> Option<DeviceId> {
        let snapshot_bytes = self.state.active.bytes;
        let mut weight = self.weight();
        if !weight.calls_for_snapshot(policy, snapshot_bytes) {
            return None;
        }
        for entry in self.content.tail.iter().rev() {
            weight = weight.minus(Weight::of(&entry.effect));
            if !weight.calls_for_snapshot(policy, snapshot_bytes) {
                return entry.effect.link.map(|(author, _)| author.device);
            }
        }
        None
    }

    /// Whether the document awaits a snapshot of the epoch that a removal began, or a later one, that covers all older records. However little
    /// is new in it.
    #[must_use]
    pub fn rekey_due(&self, authority: &dyn Authority) -> bool {
        let since = authority.rekey_since();
        let covered = self.state.active.covered.size;
        since > 0
            && (self.state.active.epoch < since
                || self
                    .state
                    .epochs_from(covered, self.size())
                    .first()
                    .is_some_and(|epoch| *epoch < since))
    }

    /// Whether a snapshot can be made now: nothing waits or is set aside, and something is new. No dispute holds one up.
    #[must_use]
    pub fn can_snapshot(&self) -> bool {
        self.covers_more() && self.content.aside.is_empty() && !self.aside.is_tainted()
    }
}
