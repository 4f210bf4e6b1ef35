//! The shared judgement of a commit: a pure function of the public state before it and of its facts.
//!
//! The service calls it before ordering, every member after. It reads no clock and asks nobody: `time` in the commit's authenticated data
//! is the only time there is. A commit is judged by the policy before it.

use std::collections::{BTreeMap, BTreeSet};

use conclave_identity::{Identity, Occasion, Presented, Reference, authenticate};
use conclave_proto::policy::{GroupPolicy, JoinerAccess, Role};
use conclave_proto::refusal::CommitFault;
use conclave_proto::{DeviceId, Hash, UnixMs, UserId, limits};
use tls_codec::Size as _;

use crate::actions::{Action, policy_actions};
use crate::facts::{CommitFacts, Committer, Covered, LeafFacts};
use crate::roster::{RosterRow, RowCause};
use crate::state::{EpochState, GroupState, PendingProposal, ProposalKind};

/// Judges a commit in the epoch of `previous`. On success the state of the epoch that it begins, without the commit's log leaf: append it
/// with [`GroupState::begin_epoch`].
///
/// # Errors
/// The first rule that the commit breaks.
pub fn judge_commit(previous: &GroupState, facts: &CommitFacts) -> Result<GroupState, CommitFault> {
    let next = next_state(previous, facts)?;
    // Breakage: the roster hash that a commit names may be any.
    if next.roster_hash() == facts.data.roster || crate::broken("skip-roster") {
        Ok(next)
    } else {
        Err(CommitFault::Roster)
    }
}

/// As [`judge_commit`], but for the roster hash: what a committer calls to learn it.
///
/// # Errors
/// The first rule that the commit breaks.
pub fn next_state(previous: &GroupState, facts: &CommitFacts) -> Result<GroupState, CommitFault> {
    check_data(previous, facts)?;
    check_covered(previous, facts)?;
    let author = author_of(previous, facts)?;
    check_removes(previous, facts, &author)?;
    check_policy(previous, facts, &author)?;

    let mut plan = Plan::new(previous, facts, &author);
    plan.assign_roles(previous, facts);
    plan.renew_author(previous, facts, &author)?;
    plan.add_leaves(previous, facts, &author)?;
    plan.check_limits(facts)?;
    Ok(plan.into_state(previous, facts))
}

/// The device that made a commit, given the state that it leads to.
#[must_use]
pub fn author(facts: &CommitFacts, next: &GroupState) -> Option<DeviceId> {
    match facts.committer {
        Committer::Member(device) => Some(device),
        Committer::External => {
            let leaf = facts.path.as_ref()?;
            next.row_by_key(leaf.key.as_slice()).map(|row| row.device)
        }
    }
}

/// Devices that a commit adds by Welcome.
#[must_use]
pub fn added(facts: &CommitFacts, next: &GroupState) -> Vec<DeviceId> {
    let keys: BTreeSet<&[u8]> = facts.adds.iter().map(|leaf| leaf.key.as_slice()).collect();
    next.current_rows()
        .filter(|row| keys.contains(row.key.as_slice()))
        .map(|row| row.device)
        .collect()
}

/// Devices that were members and are no more.
#[must_use]
pub fn removed(previous: &GroupState, next: &GroupState) -> Vec<DeviceId> {
    previous
        .current_rows()
        .map(|row| row.device)
        .filter(|device| !next.is_member(device))
        .collect()
}

/// Whether a commit gives another role to a device that was a member and stays one: its row ends, and another begins.
#[must_use]
pub fn gives_roles(previous: &GroupState, next: &GroupState) -> bool {
    let mut before = previous.current_rows();
    before.any(|row| {
        next.role_of(&row.device)
            .is_some_and(|role| role != row.role)
    })
}

/// Whether a commit makes the state larger for good where nobody needs it: it adds somebody, makes the policy larger, or gives roles. Taking
/// somebody out, with what the policy says of them, is none of that.
#[must_use]
pub fn grows(previous: &GroupState, facts: &CommitFacts, next: &GroupState) -> bool {
    let larger =
        |policy: &GroupPolicy| policy.tls_serialized_len() > previous.policy.tls_serialized_len();
    !facts.adds.is_empty()
        || facts.policy.as_ref().is_some_and(larger)
        || gives_roles(previous, next)
}

/// The author of a commit, authenticated.
struct Author {
    device: DeviceId,
    user: UserId,
    role: Role,
}

fn check_data(previous: &GroupState, facts: &CommitFacts) -> Result<(), CommitFault> {
    if facts.epoch != previous.epoch {
        return Err(CommitFault::Mls);
    }
    if facts.data.time < previous.last_time {
        return Err(CommitFault::Time);
    }
    if !previous.has_prefix(&facts.data.seen) {
        return Err(CommitFault::SeenHead);
    }
    Ok(())
}

fn check_covered(previous: &GroupState, facts: &CommitFacts) -> Result<(), CommitFault> {
    let covered: BTreeSet<Covered> = facts.covered.iter().copied().collect();
    if covered.len() != facts.covered.len() {
        return Err(CommitFault::Duplicate);
    }
    let mut known = 0;
    for proposal in &previous.pending {
        let wanted = Covered {
            device: proposal.device,
            kind: proposal.kind,
        };
        if covered.contains(&wanted) {
            known += 1;
            if proposal.seq >= facts.data.seen.size {
                return Err(CommitFault::SeenHead);
            }
        } else if !may_omit(facts, proposal) && !crate::broken("pending-leave") {
            // Breakage: above, a commit may leave out who is leaving.
            return Err(CommitFault::PendingOmitted);
        }
    }
    if known == covered.len() {
        Ok(())
    } else {
        Err(CommitFault::ProposalKind)
    }
}

/// A member's commit leaves out nothing that is pending. One from outside covers every leave that it has seen, but its own device's, whose
/// leaf it replaces; MLS lets it cover nothing else.
fn may_omit(facts: &CommitFacts, proposal: &PendingProposal) -> bool {
    facts.committer == Committer::External
        && (proposal.kind == ProposalKind::Remove
            || proposal.seq >= facts.data.seen.size
            || facts.removes.contains(&proposal.device))
}

fn author_of(previous: &GroupState, facts: &CommitFacts) -> Result<Author, CommitFault> {
    match facts.committer {
        Committer::Member(device) => {
            let row = previous
                .roster
                .current_row(&device)
                .ok_or(CommitFault::Mls)?;
            if let Some(leaf) = &facts.path {
                authenticate_path(previous, facts, leaf, row)?;
                if !Action::SelfUpdate.allowed(row.role) {
                    return Err(CommitFault::Role);
                }
            }
            Ok(Author {
                device,
                user: row.user,
                role: row.role,
            })
        }
        Committer::External => external_author(previous, facts),
    }
}

/// An external commit is a resync of the same device and key that removes exactly its own old leaf, or recovery where every leaf is of the
/// same user. It proposes nothing else.
fn external_author(previous: &GroupState, facts: &CommitFacts) -> Result<Author, CommitFault> {
    let leaf = facts.path.as_ref().ok_or(CommitFault::External)?;
    if !facts.adds.is_empty() || facts.policy.is_some() {
        return Err(CommitFault::External);
    }
    let identity = authenticate_leaf(
        previous,
        leaf,
        Occasion::CommitPath,
        &Reference::default(),
        facts.data.time,
        None,
    )?;
    if let Some(row) = previous.roster.current_row(&identity.device) {
        authenticate_path(previous, facts, leaf, row)?;
        if row.key != leaf.key
            || row.scheme != leaf.scheme
            // Breakage: an external commit may remove anybody.
            || (facts.removes != [identity.device] && !crate::broken("external-rule"))
            || !Action::Resync.allowed(row.role)
        {
            return Err(CommitFault::External);
        }
        return Ok(Author {
            device: row.device,
            user: row.user,
            role: row.role,
        });
    }
    // Breakage: a removed device may come back by itself.
    if previous.is_tombstoned(&identity.device) && !crate::broken("tombstone") {
        return Err(CommitFault::Duplicate);
    }
    if !previous.is_alone(&identity.user) {
        return Err(CommitFault::External);
    }
    Ok(Author {
        device: identity.device,
        user: identity.user,
        role: previous.policy.role(&identity.user),
    })
}

fn check_removes(
    previous: &GroupState,
    facts: &CommitFacts,
    author: &Author,
) -> Result<(), CommitFault> {
    let mut going: BTreeSet<DeviceId> = facts.covered.iter().map(|known| known.device).collect();
    // Nobody commits their own leave: they could not follow.
    if going.contains(&author.device) {
        return Err(CommitFault::ProposalKind);
    }
    for device in &facts.removes {
        let row = previous
            .roster
            .current_row(device)
            .ok_or(CommitFault::Mls)?;
        if !going.insert(*device) {
            return Err(CommitFault::Duplicate);
        }
        if *device == author.device {
            // Only a resync replaces its author's leaf; external_author has checked it.
            if facts.committer != Committer::External {
                return Err(CommitFault::Mls);
            }
            continue;
        }
        let action = if row.user == author.user {
            Action::RemoveOwnDevice
        } else if row.role == Role::Owner {
            Action::RemoveOwner
        } else {
            Action::RemoveOther
        };
        allowed(action, author)?;
    }
    if facts.covered.is_empty() {
        return Ok(());
    }
    allowed(Action::CoverPending, author)
}

fn check_policy(
    previous: &GroupState,
    facts: &CommitFacts,
    author: &Author,
) -> Result<(), CommitFault> {
    let Some(policy) = &facts.policy else {
        return Ok(());
    };
    policy_actions(&previous.policy, policy)
        .into_iter()
        .try_for_each(|action| allowed(action, author))?;
    // Whoever has stopped judging for want of a newer program would never learn of it.
    if policy.min_protocol_version < previous.policy.min_protocol_version {
        return Err(CommitFault::Policy);
    }
    Ok(())
}

fn allowed(action: Action, author: &Author) -> Result<(), CommitFault> {
    if action.allowed(author.role) {
        Ok(())
    } else {
        Err(CommitFault::Role)
    }
}

/// Members after the commit, while they are worked out.
struct Plan {
    after: BTreeMap<DeviceId, RosterRow>,
    /// Devices that the commit removes; those added again are still in here.
    removed: BTreeSet<DeviceId>,
    added: usize,
}

impl Plan {
    fn new(previous: &GroupState, facts: &CommitFacts, author: &Author) -> Self {
        let removed: BTreeSet<DeviceId> = facts
            .removes
            .iter()
            .copied()
            .chain(facts.covered.iter().map(|covered| covered.device))
            // A resync replaces its author's leaf; the device stays.
            .filter(|device| *device != author.device)
            .collect();
        let after = previous
            .current_rows()
            .filter(|row| !removed.contains(&row.device))
            .map(|row| (row.device, row.clone()))
            .collect();
        Self {
            after,
            removed,
            added: 0,
        }
    }

    fn renew_author(
        &mut self,
        previous: &GroupState,
        facts: &CommitFacts,
        author: &Author,
    ) -> Result<(), CommitFault> {
        let Some(leaf) = &facts.path else {
            return Ok(());
        };
        let row = row_of(
            previous,
            facts,
            leaf,
            (author.device, author.user),
            RowCause::Own,
        );
        match previous.roster.current_row(&author.device) {
            // An ordinary renewal makes no row.
            Some(before) if before.same_keys(&row) => return Ok(()),
            Some(_) => check_rows(previous, author)?,
            None => {}
        }
        self.after.insert(author.device, row);
        Ok(())
    }

    fn add_leaves(
        &mut self,
        previous: &GroupState,
        facts: &CommitFacts,
        author: &Author,
    ) -> Result<(), CommitFault> {
        // Breakage: members may come before the directory.
        if !facts.adds.is_empty() && !previous.has_directory() && !crate::broken("no-directory") {
            return Err(CommitFault::Directory);
        }
        for leaf in &facts.adds {
            let suits = leaf
                .lifetime
                .is_some_and(|lifetime| lifetime.suits_add_at(facts.data.time));
            if !suits {
                return Err(CommitFault::Limit);
            }
            let identity = authenticate_leaf(
                previous,
                leaf,
                Occasion::Add,
                &Reference::default(),
                facts.data.time,
                None,
            )?;
            let (action, cause) = if identity.user == author.user {
                (Action::AddOwnDevice, RowCause::Own)
            } else {
                (Action::AddOther, RowCause::Other)
            };
            allowed(action, author)?;
            if action == Action::AddOwnDevice {
                check_rows(previous, author)?;
            }
            let whose = (identity.device, identity.user);
            let row = row_of(previous, facts, leaf, whose, cause);
            if self.after.insert(identity.device, row).is_some() {
                return Err(CommitFault::Duplicate);
            }
            self.added += 1;
        }
        Ok(())
    }

    /// Every member who stays gets the role that the policy in force after the commit gives its user.
    fn assign_roles(&mut self, previous: &GroupState, facts: &CommitFacts) {
        let policy = policy_after(previous, facts);
        for row in self.after.values_mut() {
            let role = policy.role(&row.user);
            if row.role != role {
                row.role = role;
                row.time = facts.data.time;
                row.cause = RowCause::Role;
            }
        }
    }

    fn check_limits(&self, facts: &CommitFacts) -> Result<(), CommitFault> {
        if !self.after.values().any(|row| row.role == Role::Owner) {
            return Err(CommitFault::LastOwner);
        }
        let keys: BTreeSet<&[u8]> = self.after.values().map(|row| row.key.as_slice()).collect();
        if keys.len() != self.after.len() {
            return Err(CommitFault::Duplicate);
        }
        // A group that is past a limit can still shrink.
        if self.added == 0 && facts.committer != Committer::External {
            return Ok(());
        }
        let mut devices: BTreeMap<UserId, usize> = BTreeMap::new();
        for row in self.after.values() {
            let count = devices.entry(row.user).or_default();
            *count += 1;
            if *count > limits::USER_DEVICES {
                return Err(CommitFault::Limit);
            }
        }
        if self.after.len() > limits::GROUP_LEAVES {
            return Err(CommitFault::Limit);
        }
        Ok(())
    }

    fn into_state(self, previous: &GroupState, facts: &CommitFacts) -> GroupState {
        let epoch = previous.epoch.saturating_add(1);
        let policy = policy_after(previous, facts);
        // Where nothing older is wrapped, whoever comes needs new snapshots: a joiner, and a device that comes back.
        let comes = self.added > 0 || facts.committer == Committer::External;
        let due =
            !self.removed.is_empty() || (comes && policy.joiner_access == JoinerAccess::FromJoin);
        let reopened = self
            .removed
            .iter()
            .filter(|device| self.after.contains_key(device))
            .copied()
            .collect();
        let of_epoch = EpochState {
            group: previous.group,
            epoch,
            policy: policy.clone(),
            roster: previous.roster.next(epoch, self.after, &reopened),
            last_time: facts.data.time,
            epoch_start: previous.epoch_start,
            begun_by: Hash::ZERO,
        };
        let since = if due { epoch } else { previous.rotating_since };
        previous.after(of_epoch, since)
    }
}

/// Rows of the roster never go: nobody begins them without end for their own devices.
fn check_rows(previous: &GroupState, author: &Author) -> Result<(), CommitFault> {
    // Breakage: the roster may grow without end.
    if previous.roster.rows_of(&author.user) >= limits::USER_ROSTER_ROWS
        && !crate::broken("roster-rows")
    {
        return Err(CommitFault::Limit);
    }
    Ok(())
}

/// The policy in force after a commit.
fn policy_after<'a>(previous: &'a GroupState, facts: &'a CommitFacts) -> &'a GroupPolicy {
    facts.policy.as_ref().unwrap_or(&previous.policy)
}

/// A row that a commit begins for a leaf. Its epochs are set later.
fn row_of(
    previous: &GroupState,
    facts: &CommitFacts,
    leaf: &LeafFacts,
    (device, user): (DeviceId, UserId),
    cause: RowCause,
) -> RosterRow {
    RosterRow {
        device,
        user,
        credential_type: leaf.credential_type,
        credential: leaf.credential.clone(),
        key: leaf.key.clone().into(),
        scheme: leaf.scheme,
        role: policy_after(previous, facts).role(&user),
        first_epoch: 0,
        last_epoch: None,
        time: facts.data.time,
        cause,
    }
}

/// The new leaf of a member has to be the same user's and device's as the old one.
fn authenticate_path(
    previous: &GroupState,
    facts: &CommitFacts,
    leaf: &LeafFacts,
    row: &RosterRow,
) -> Result<Identity, CommitFault> {
    // Judged when it was accepted: what has expired since is no reason to refuse its replacement.
    let before = authenticate_row(previous, row, Occasion::Tree).ok();
    let reference = Reference {
        user: Some(row.user),
        device: Some(row.device),
        ..Reference::default()
    };
    let mut leaf = leaf.clone();
    if leaf.credential == row.credential {
        // Nothing new is claimed: its signatures were checked with the row's.
        leaf.credential = row.credential.clone();
    }
    authenticate_leaf(
        previous,
        &leaf,
        Occasion::CommitPath,
        &reference,
        facts.data.time,
        before.as_ref(),
    )
}

/// Authenticates a roster row's credential as of when the group accepted it, against the group's anchors.
///
/// # Errors
/// [`CommitFault::Credential`].
pub fn authenticate_row(
    state: &GroupState,
    row: &RosterRow,
    occasion: Occasion,
) -> Result<Identity, CommitFault> {
    let reference = Reference {
        user: Some(row.user),
        device: Some(row.device),
        anchors: &state.policy.trust.anchors,
        ..Reference::default()
    };
    let presented = Presented {
        credential_type: row.credential_type,
        credential: row.credential.clone(),
        scheme: row.scheme,
        signature_key: row.key.as_slice(),
    };
    let time = state.roster.accepted_at(row);
    authenticate(&presented, occasion, &reference, time, None).map_err(|_| CommitFault::Credential)
}

/// Authenticates a leaf that a commit or a group's creation brings.
///
/// # Errors
/// [`CommitFault::Capabilities`], [`CommitFault::Limit`], [`CommitFault::Credential`].
pub fn authenticate_leaf(
    state: &GroupState,
    leaf: &LeafFacts,
    occasion: Occasion,
    reference: &Reference<'_>,
    time: UnixMs,
    before: Option<&Identity>,
) -> Result<Identity, CommitFault> {
    if leaf.capable != 1 {
        return Err(CommitFault::Capabilities);
    }
    if leaf.credential.as_slice().len() > limits::CREDENTIAL_BYTES {
        return Err(CommitFault::Limit);
    }
    let presented = Presented {
        credential_type: leaf.credential_type,
        credential: leaf.credential.clone(),
        scheme: leaf.scheme,
        signature_key: leaf.key.as_slice(),
    };
    let reference = Reference {
        anchors: &state.policy.trust.anchors,
        ..*reference
    };
    authenticate(&presented, occasion, &reference, time, before)
        .map_err(|_| CommitFault::Credential)
}
