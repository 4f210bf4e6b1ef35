//! One step of an intent in the current epoch.

use super::*;
use crate::rescue::PartingRow;

impl Cx {
    pub(super) fn step(&mut self, group: &mut Group, id: u64, want: &Want) -> Step {
        match want {
            Want::Invite { user, role } => self.step_invite(group, id, *user, *role),
            Want::AddOwn => match self.device.user() {
                Some(user) => self.step_add(group, id, user, None),
                None => Step::Done(Reply::Done),
            },
            Want::PruneOwn => self.step_prune_own(group),
            Want::PruneListed { user } => {
                let mut off = self.off_list(group);
                Self::step_prune(off.mine.remove(user).unwrap_or_default())
            }
            Want::Void { document, record } => self.step_void(group, id, *document, *record),
            Want::ReAdd { user, device } => self.step_readd(group, id, *user, *device),
            Want::Remove { user } => Self::step_remove(group, *user),
            Want::Role { user, role } => Self::step_role(group, *user, *role),
            Want::Policy(change) => Self::step_policy(group, change),
            Want::Leave => self.step_leave(group, id),
            Want::SelfUpdate => Step::Commit(Plan {
                self_update: true,
                ..Plan::default()
            }),
            Want::Close { document, reason } => self.step_close(group, id, *document, *reason),
            Want::Reopen { document } => self.step_reopen(group, id, *document),
        }
    }

    pub(super) fn step_invite(
        &mut self,
        group: &mut Group,
        id: u64,
        user: UserId,
        role: Option<Role>,
    ) -> Step {
        match self.check_contact(group, &user) {
            Ok(()) => self.step_add(group, id, user, role),
            Err(error) => Step::Fail(error),
        }
    }

    /// Whether the group's policy lets this device's user let another one in: by what is known of them here.
    pub(crate) fn check_contact(&self, group: &Group, user: &UserId) -> Result<(), EngineError> {
        let trust = &group.state().policy.trust;
        let admitted = self.device.pins().admits(user, trust);
        admitted.map(drop).map_err(EngineError::NotVerified)
    }

    /// Adds every listed device of a user that is not a member yet.
    pub(super) fn step_add(
        &mut self,
        group: &mut Group,
        id: u64,
        user: UserId,
        role: Option<Role>,
    ) -> Step {
        let packages = group
            .intents
            .get_mut(&id)
            .and_then(|intent| intent.packages.take());
        let Some(packages) = packages else {
            if self.holds_commits(group) {
                // Packages are for one use: none are asked for in vain.
                return Step::Held;
            }
            self.ask_for_devices(group.id, id, user, None);
            return Step::Wait;
        };
        let mut plan = Plan::default();
        for package in packages {
            if !group.state().is_member(&package.device) {
                plan.add.push(package.key_package.into_vec());
            }
        }
        let role_changes = role.is_some_and(|role| group.state().policy.role(&user) != role);
        if role_changes {
            let mut policy = group.state().policy.clone();
            policy.set_role(user, role.unwrap_or(policy.default_role));
            plan.policy = Some(policy);
        }
        if !plan.add.is_empty() {
            return Step::Commit(plan);
        }
        let member = group.state().current_rows().any(|row| row.user == user);
        if member {
            Step::Done(Reply::Done)
        } else {
            Step::Lack
        }
    }

    /// One commit takes the old leaf out and the new one in.
    fn step_readd(&mut self, group: &mut Group, id: u64, user: UserId, device: DeviceId) -> Step {
        if !group.is_asking(&device) {
            // It came back meanwhile, or somebody else has added it: once more would only take away what it holds.
            return Step::Done(Reply::Done);
        }
        if Some(user) != self.device.user()
            && let Err(error) = self.check_contact(group, &user)
        {
            return Step::Fail(error);
        }
        let intent = group.intents.get_mut(&id);
        let Some(packages) = intent.and_then(|intent| intent.packages.take()) else {
            if self.holds_commits(group) {
                return Step::Held;
            }
            self.ask_for_devices(group.id, id, user, Some(device));
            return Step::Wait;
        };
        let Some(package) = packages
            .into_iter()
            .find(|package| package.device == device)
        else {
            return Step::Fail(EngineError::NoKeyPackages);
        };
        let member = group.state().is_member(&device);
        Step::Commit(Plan {
            add: vec![package.key_package.into_vec()],
            remove: member.then_some(device).into_iter().collect(),
            ..Plan::default()
        })
    }

    fn step_prune_own(&mut self, group: &Group) -> Step {
        let Some(user) = self.device.user() else {
            return Step::Done(Reply::Done);
        };
        if !self.knows_own_list() {
            // It is wanted again when the list is here.
            return Step::Done(Reply::Done);
        }
        let listed = self.own_listed();
        let mut gone = Self::devices_of(group, user);
        gone.retain(|device| !listed.contains(device) && *device != self.device.id());
        Self::step_prune(gone)
    }

    fn step_prune(remove: Vec<DeviceId>) -> Step {
        if remove.is_empty() {
            return Step::Done(Reply::Done);
        }
        Step::Commit(Plan {
            remove,
            ..Plan::default()
        })
    }

    pub(crate) fn devices_of(group: &Group, user: UserId) -> Vec<DeviceId> {
        group
            .state()
            .current_rows()
            .filter(|row| row.user == user)
            .map(|row| row.device)
            .collect()
    }

    pub(super) fn step_remove(group: &mut Group, user: UserId) -> Step {
        let remove = Self::devices_of(group, user);
        if remove.is_empty() {
            let epoch = group.state().epoch;
            return Step::Done(Reply::Removed { epoch });
        }
        let mut policy = group.state().policy.clone();
        let listed = policy.roles.len();
        policy.roles.retain(|entry| entry.user != user);
        let policy = (policy.roles.len() != listed).then_some(policy);
        Step::Commit(Plan {
            remove,
            policy,
            ..Plan::default()
        })
    }

    pub(super) fn step_role(group: &mut Group, user: UserId, role: Role) -> Step {
        if Self::devices_of(group, user).is_empty() {
            return Step::Fail(EngineError::UnknownMember);
        }
        if group.state().policy.role(&user) == role {
            return Step::Done(Reply::Done);
        }
        let mut policy = group.state().policy.clone();
        policy.set_role(user, role);
        Step::Commit(Plan {
            policy: Some(policy),
            ..Plan::default()
        })
    }

    /// The own user's other devices go by commit, this one by a proposal that another member commits.
    pub(super) fn step_leave(&mut self, group: &mut Group, id: u64) -> Step {
        let Some(user) = self.device.user() else {
            return Step::Fail(EngineError::NotEnrolled);
        };
        let own = self.device.id();
        // Before anything is done: somebody else has to own what others stay in.
        let staying = || group.state().current_rows().filter(|row| row.user != user);
        if staying().next().is_some() && !staying().any(|row| row.role == Role::Owner) {
            return Step::Fail(EngineError::LastOwner);
        }
        let mut others = Self::devices_of(group, user);
        others.retain(|device| *device != own);
        if !others.is_empty() {
            return Step::Commit(Plan {
                remove: others,
                ..Plan::default()
            });
        }
        if group.state().current_rows().count() == 1 {
            self.lose_group(group, PartingRow::left("the last member left"));
            return Step::Wait;
        }
        let proposal = match self.device.context() {
            Ok(context) => group.mls.propose_self_remove(&context),
            Err(error) => return Step::Fail(error),
        };
        match proposal {
            Ok(message) => {
                let request = Request::Propose {
                    group: group.id,
                    message: message.into(),
                };
                let what = GroupPending::Intent(id, IntentPending::Proposal);
                self.request_for(group.id, request, what);
                Step::Wait
            }
            Err(error) => Step::Fail(error.into()),
        }
    }

    pub(super) fn step_close(
        &mut self,
        group: &mut Group,
        id: u64,
        document: DocumentId,
        reason: CloseReason,
    ) -> Step {
        match group.state().documents.get(&document) {
            None => return Step::Fail(EngineError::UnknownDocument),
            Some(entry) => match (entry.closed, reason) {
                (None, _)
                | (Some(CloseReason::Archived), CloseReason::Deleted | CloseReason::Lost) => {}
                (Some(_), _) => return Step::Done(Reply::Done),
            },
        }
        self.put_entry(group, id, EntryBody::DocumentClosed { document, reason })
    }

    fn step_reopen(&mut self, group: &mut Group, id: u64, document: DocumentId) -> Step {
        match group.state().documents.get(&document) {
            None => Step::Fail(EngineError::UnknownDocument),
            Some(entry) if entry.closed.is_none() => Step::Done(Reply::Done),
            Some(_) => self.put_entry(group, id, EntryBody::DocumentReopened { document }),
        }
    }

    fn step_void(
        &mut self,
        group: &mut Group,
        id: u64,
        document: DocumentId,
        record: Hash,
    ) -> Step {
        if group.state().voided.contains(&document, &record) {
            return Step::Done(Reply::Done);
        }
        self.put_entry(group, id, EntryBody::RecordVoided { document, record })
    }

    /// Signs an entry for the group log and asks the service to order it. The log tells when it is there.
    fn put_entry(&mut self, group: &mut Group, id: u64, body: EntryBody) -> Step {
        let instance = self.device.instance();
        let entry = match self.device.context() {
            Ok(context) => group.mls.sign_entry(&context, body, instance),
            Err(error) => return Step::Fail(error),
        };
        if let Err(refusal) = group.state().judge_entry(&entry) {
            return Step::Fail(entry_refused(&body, refusal));
        }
        let what = GroupPending::Intent(id, IntentPending::Entry);
        self.request_for(group.id, Request::PutEntry { entry }, what);
        Step::Wait
    }
}

/// Why an entry is refused for good.
fn entry_refused(body: &EntryBody, refusal: Refusal) -> EngineError {
    match (body, refusal) {
        (EntryBody::RecordVoided { .. }, Refusal::TooLarge { max }) => {
            EngineError::VoidsUsedUp { max }
        }
        (_, refusal) => EngineError::Refused(refusal),
    }
}
