//! Who may do what: the action × role table, as data.
//!
//! Each action names the least role that may take it. The same table judges at the service and at every member, and
//! `docs/PROTOCOL.md` prints it.

use conclave_proto::policy::{GroupPolicy, Role};
use conclave_proto::record::{CloseReason, EntryBody, RecordBody};

/// Something that a member does in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Renew one's own leaf.
    SelfUpdate,
    /// Leave the group.
    Leave,
    /// Commit pending leaves and removals.
    CoverPending,
    /// Return with one's own device by an external commit.
    Resync,
    /// Add a device of one's own user.
    AddOwnDevice,
    /// Remove a device of one's own user.
    RemoveOwnDevice,
    /// Add a device of another user.
    AddOther,
    /// Remove a device of another user who is no owner.
    RemoveOther,
    /// Remove a device of another user who is an owner.
    RemoveOwner,
    /// Change the policy where no other action says more.
    ChangePolicy,
    /// Make somebody an owner, or end it.
    ChangeOwners,
    /// Change how members become trusted.
    ChangeTrust,
    /// Change whether the service may propose removals.
    ChangeServiceRemoval,
    /// Demand a later version of the protocol: older programs stop, those of owners too.
    DemandVersion,
    /// Create a document.
    CreateDocument,
    /// Put a document away.
    ArchiveDocument,
    /// Take a document up again that was put away.
    ReopenDocument,
    /// Delete a document.
    DeleteDocument,
    /// Close a document that nobody can open.
    CloseLostDocument,
    /// Void a record that nobody can open.
    VoidRecord,
    /// Report that a rotation is complete.
    CompleteRotation,
    /// Write an update.
    WriteUpdate,
    /// Write a snapshot.
    WriteSnapshot,
    /// Judge a snapshot.
    WriteVerdict,
    /// Show presence.
    ShowPresence,
}

/// The table: least role for each action.
pub const ACTIONS: &[(Action, Role)] = &[
    (Action::SelfUpdate, Role::Viewer),
    (Action::Leave, Role::Viewer),
    (Action::CoverPending, Role::Viewer),
    (Action::Resync, Role::Viewer),
    (Action::AddOwnDevice, Role::Viewer),
    (Action::RemoveOwnDevice, Role::Viewer),
    (Action::AddOther, Role::Admin),
    (Action::RemoveOther, Role::Admin),
    (Action::RemoveOwner, Role::Owner),
    (Action::ChangePolicy, Role::Admin),
    (Action::ChangeOwners, Role::Owner),
    (Action::ChangeTrust, Role::Owner),
    (Action::ChangeServiceRemoval, Role::Owner),
    (Action::DemandVersion, Role::Owner),
    (Action::CreateDocument, Role::Editor),
    (Action::ArchiveDocument, Role::Editor),
    (Action::ReopenDocument, Role::Editor),
    (Action::DeleteDocument, Role::Admin),
    (Action::CloseLostDocument, Role::Admin),
    (Action::VoidRecord, Role::Admin),
    (Action::CompleteRotation, Role::Editor),
    (Action::WriteUpdate, Role::Editor),
    (Action::WriteSnapshot, Role::Editor),
    (Action::WriteVerdict, Role::Viewer),
    (Action::ShowPresence, Role::Viewer),
];

impl Action {
    /// Whether `role` may take this action. An action that the table lacked would be allowed to nobody.
    #[must_use]
    pub fn allowed(self, role: Role) -> bool {
        ACTIONS
            .iter()
            .find(|(action, _)| *action == self)
            .is_some_and(|(_, least)| role >= *least)
    }

    /// The action that an entry of the group log takes.
    #[must_use]
    pub fn of_entry(body: &EntryBody) -> Self {
        match body {
            EntryBody::DocumentCreated { .. } => Self::CreateDocument,
            EntryBody::DocumentClosed { reason, .. } => match reason {
                CloseReason::Archived => Self::ArchiveDocument,
                CloseReason::Deleted => Self::DeleteDocument,
                CloseReason::Lost => Self::CloseLostDocument,
            },
            EntryBody::DocumentReopened { .. } => Self::ReopenDocument,
            EntryBody::RecordVoided { .. } => Self::VoidRecord,
            EntryBody::RotationComplete { .. } => Self::CompleteRotation,
        }
    }

    /// The action that writing a record takes.
    #[must_use]
    pub fn of_record(body: &RecordBody) -> Self {
        match body {
            RecordBody::Update(_) | RecordBody::Carried(_) => Self::WriteUpdate,
            RecordBody::Verdict(_) => Self::WriteVerdict,
            RecordBody::Snapshot(_) => Self::WriteSnapshot,
            RecordBody::Presence { .. } => Self::ShowPresence,
            RecordBody::Entry(entry) => Self::of_entry(entry),
        }
    }
}

/// The actions that a change of policy takes, all of which its author must be allowed.
#[must_use]
pub fn policy_actions(before: &GroupPolicy, after: &GroupPolicy) -> Vec<Action> {
    let mut actions = vec![Action::ChangePolicy];
    // Roles are sorted by user, so the owners are too.
    if !before.owners().eq(after.owners()) {
        actions.push(Action::ChangeOwners);
    }
    if before.trust != after.trust {
        actions.push(Action::ChangeTrust);
    }
    if before.service_may_remove != after.service_may_remove {
        actions.push(Action::ChangeServiceRemoval);
    }
    if before.min_protocol_version != after.min_protocol_version {
        actions.push(Action::DemandVersion);
    }
    actions
}

#[cfg(test)]
mod tests {
    use conclave_proto::UserId;

    use super::*;

    #[test]
    fn every_action_is_listed_once() {
        for (at, (action, _)) in ACTIONS.iter().enumerate() {
            assert!(
                ACTIONS
                    .iter()
                    .skip(at + 1)
                    .all(|(other, _)| other != action)
            );
            assert!(action.allowed(Role::Owner));
        }
        assert_eq!(ACTIONS.len(), 25);
    }

    #[test]
    fn viewers_read_and_editors_do_not_invite() {
        assert!(!Action::WriteUpdate.allowed(Role::Viewer));
        assert!(Action::WriteVerdict.allowed(Role::Viewer));
        assert!(!Action::AddOther.allowed(Role::Editor));
        assert!(!Action::RemoveOwner.allowed(Role::Admin));
    }

    #[test]
    fn an_admin_cannot_make_itself_an_owner() {
        let before = GroupPolicy::default();
        let mut after = before.clone();
        after.set_role(UserId([1; 32]), Role::Admin);
        assert_eq!(policy_actions(&before, &after), vec![Action::ChangePolicy]);
        after.set_role(UserId([1; 32]), Role::Owner);
        assert!(policy_actions(&before, &after).contains(&Action::ChangeOwners));
    }
}
