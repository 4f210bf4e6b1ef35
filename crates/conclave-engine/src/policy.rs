//! Changes of a living group's policy.

use conclave_mls::Plan;
use conclave_proto::GroupPolicy;
use conclave_proto::policy::{JoinerAccess, Pinned, Role, TrustPolicy};
use serde::{Deserialize, Serialize};

use crate::command::Reply;
use crate::cx::Cx;
use crate::error::EngineError;
use crate::group::Group;
use crate::intents::Step;

/// What becomes of a policy. What is not named stays, also where others change it meanwhile. Roles of single users are changed by
/// [`Command::SetRole`](crate::Command::SetRole).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyChange {
    /// Role of users not listed.
    pub default_role: Option<Role>,
    /// Which contacts members may let in (owners).
    pub pinned: Option<Pinned>,
    /// What joiners can read.
    pub joiner_access: Option<JoinerAccess>,
    /// Whether snapshots tell who wrote what, and members are shown it.
    pub attribution: Option<bool>,
    /// Age at which a leaf is renewed, in days.
    pub max_leaf_age_days: Option<u16>,
    /// Age at which a root makes its documents due, in days.
    pub max_root_age_days: Option<u16>,
    /// Records in a tail after which a snapshot is due.
    pub snapshot_after_records: Option<u32>,
    /// Bytes in a tail after which a snapshot is due.
    pub snapshot_after_bytes: Option<u32>,
    /// Sealed payloads are padded to a multiple of this many bytes.
    pub padding_bytes: Option<u16>,
}

impl PolicyChange {
    /// The policy after the change.
    #[must_use]
    pub fn of(&self, before: &GroupPolicy) -> GroupPolicy {
        let before = before.clone();
        GroupPolicy {
            default_role: self.default_role.unwrap_or(before.default_role),
            trust: TrustPolicy {
                pinned: self.pinned.unwrap_or(before.trust.pinned),
                ..before.trust.clone()
            },
            joiner_access: self.joiner_access.unwrap_or(before.joiner_access),
            attribution: self.attribution.map_or(before.attribution, u8::from),
            max_leaf_age_days: self.max_leaf_age_days.unwrap_or(before.max_leaf_age_days),
            max_root_age_days: self.max_root_age_days.unwrap_or(before.max_root_age_days),
            snapshot_after_records: self
                .snapshot_after_records
                .unwrap_or(before.snapshot_after_records),
            snapshot_after_bytes: self
                .snapshot_after_bytes
                .unwrap_or(before.snapshot_after_bytes),
            padding_bytes: self.padding_bytes.unwrap_or(before.padding_bytes),
            ..before
        }
    }
}

impl Cx {
    /// One step of a change in the current epoch.
    pub(crate) fn step_policy(group: &Group, change: &PolicyChange) -> Step {
        let before = &group.state().policy;
        let after = change.of(before);
        if after == *before {
            return Step::Done(Reply::Done);
        }
        if !after.is_valid() {
            return Step::Fail(EngineError::InvalidPolicy);
        }
        Step::Commit(Plan {
            policy: Some(after),
            ..Plan::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let mut before = GroupPolicy::default();
        before.set_role(conclave_proto::UserId([1; 32]), Role::Owner);
        assert_eq!(PolicyChange::default().of(&before), before);
        let change = PolicyChange {
            default_role: Some(Role::Viewer),
            padding_bytes: Some(256),
            ..PolicyChange::default()
        };
        let after = GroupPolicy {
            default_role: Role::Viewer,
            padding_bytes: 256,
            ..before.clone()
        };
        assert_eq!(change.of(&before), after);
    }
}
