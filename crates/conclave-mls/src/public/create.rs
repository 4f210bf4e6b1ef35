//! A new group at the service.

use conclave_identity::{Occasion, Reference};
use conclave_proto::policy::{GroupPolicy, Role};
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, Refusal};
use conclave_proto::{DeviceId, GroupId, UnixMs, limits};
use conclave_rules::{GroupState, LeafFacts, RosterRow, RowCause, judge::authenticate_leaf};
use openmls::group::{ProposalStore, PublicGroup};
use openmls_traits::OpenMlsProvider;

use super::{PublicGroupState, refuse};
use crate::facts;
use crate::lifetimes::ClockFault;
use crate::message;
use crate::profile;
use crate::provider::Provider;

impl PublicGroupState {
    /// Takes up a new group, which the device `sender` offers as begun at `founded`: epoch 0, one leaf, which is the sender's and an owner.
    /// Whether `founded` is the present is [`check_founded`]'s to say, for a group that is not known yet.
    ///
    /// # Errors
    /// The answer to the device.
    pub fn create(
        group_info: &[u8],
        tree: &[u8],
        sender: DeviceId,
        founded: UnixMs,
    ) -> Result<(Self, GroupState), Refusal> {
        let info = message::group_info(group_info).map_err(refuse)?;
        message::check_extensions(&info).map_err(refuse)?;
        let tree = message::ratchet_tree(tree).map_err(refuse)?;
        let provider = Provider::default();
        let verified = message::contained(|| {
            PublicGroup::from_external(
                provider.crypto(),
                provider.storage(),
                tree,
                info,
                ProposalStore::new(),
            )
        });
        let (tree, _) = match verified {
            Ok(Ok(verified)) => verified,
            Ok(Err(error)) if error.is_of_clock() => {
                // The service's own clock: the group is as good as before once it is set.
                return Err(Refusal::Storage);
            }
            _ => return Err(refuse(CommitFault::Mls)),
        };
        let state = genesis(&tree, founded).map_err(refuse)?;
        if !state.is_member(&sender) {
            return Err(Refusal::Forbidden {
                why: ForbiddenWhy::NotYours,
            });
        }
        let group = Self::start(provider, tree, state.clone(), group_info.to_vec());
        Ok((group, state))
    }
}

/// A new group begins at the service's present time `now`, as its founder saw it.
///
/// # Errors
/// The answer to the device: it may offer the group with another time, only after this.
pub fn check_founded(founded: UnixMs, now: UnixMs) -> Result<(), Refusal> {
    let skew_ms = now.since_ms(founded).max(founded.since_ms(now));
    if skew_ms > limits::COMMIT_TIME_SKEW_MS {
        return Err(refuse(CommitFault::Time));
    }
    Ok(())
}

/// Public state of a group in epoch 0, from its tree and context, and from when it was founded.
pub(crate) fn genesis(tree: &PublicGroup, founded: UnixMs) -> Result<GroupState, CommitFault> {
    let context = tree.group_context();
    let group = GroupId::from_slice(context.group_id().as_slice()).ok_or(CommitFault::GroupInfo)?;
    if context.epoch().as_u64() != 0 || group == GroupId::ZERO {
        return Err(CommitFault::GroupInfo);
    }
    let policy = profile::read_policy(context)?;
    let mut members = tree.members();
    let (Some(member), None) = (members.next(), members.next()) else {
        return Err(CommitFault::GroupInfo);
    };
    let leaf = tree.leaf(member.index).ok_or(CommitFault::GroupInfo)?;
    genesis_state(group, policy, &facts::leaf(leaf), founded)
}

/// As [`genesis`], from the creator's leaf. When that was made does not matter: a group may wait for its service as long as it likes.
fn genesis_state(
    group: GroupId,
    policy: GroupPolicy,
    leaf: &LeafFacts,
    time: UnixMs,
) -> Result<GroupState, CommitFault> {
    let lifetime = leaf.lifetime.ok_or(CommitFault::GroupInfo)?;
    if lifetime.made().is_none() {
        return Err(CommitFault::Limit);
    }
    let row = |device, user, role| RosterRow {
        device,
        user,
        credential_type: leaf.credential_type,
        credential: leaf.credential.clone(),
        key: leaf.key.clone().into(),
        scheme: leaf.scheme,
        role,
        first_epoch: 0,
        last_epoch: None,
        time,
        cause: RowCause::Own,
    };
    let nobody = row(DeviceId::ZERO, conclave_proto::UserId::ZERO, Role::Viewer);
    let draft = GroupState::genesis(group, policy.clone(), nobody);
    let identity = authenticate_leaf(
        &draft,
        leaf,
        Occasion::Tree,
        &Reference::default(),
        time,
        None,
    )?;
    let role = policy.role(&identity.user);
    if role != Role::Owner {
        return Err(CommitFault::LastOwner);
    }
    Ok(GroupState::genesis(
        group,
        policy,
        row(identity.device, identity.user, role),
    ))
}
