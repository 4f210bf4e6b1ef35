//! A new group at the service.

use conclave_identity::{Occasion, Reference};
use conclave_proto::policy::{GroupPolicy, Role};
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, Refusal};
use conclave_proto::{DeviceId, GroupId, UnixMs, limits};
use openmls::group::{ProposalStore, PublicGroup};
use openmls_traits::OpenMlsProvider;

use super::{PublicGroupState, refuse};
use crate::facts::LeafFacts;
use crate::judge::authenticate_leaf;
use crate::message;
use crate::profile;
use crate::provider::Provider;
use crate::roster::RosterRow;
use crate::state::GroupState;

impl PublicGroupState {
    /// Takes up a new group, which the device `sender` offers: epoch 0, one leaf, which is the sender's and an owner.
    ///
    /// # Errors
    /// The answer to the device.
    pub fn create(
        group_info: &[u8],
        tree: &[u8],
        sender: DeviceId,
        now: UnixMs,
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
        let (tree, _) = verified
            .ok()
            .and_then(Result::ok)
            .ok_or(refuse(CommitFault::Mls))?;
        let state = genesis(&tree).map_err(refuse)?;
        if !state.is_member(&sender) {
            return Err(Refusal::Forbidden {
                why: ForbiddenWhy::NotYours,
            });
        }
        let skew = now
            .since_ms(state.last_time)
            .max(state.last_time.since_ms(now));
        if skew > limits::COMMIT_TIME_SKEW_MS {
            return Err(refuse(CommitFault::Time));
        }
        let group = Self {
            provider,
            tree,
            state: state.clone(),
            group_info: group_info.to_vec(),
        };
        Ok((group, state))
    }
}

/// Public state of a group in epoch 0, from its tree and context alone.
pub(crate) fn genesis(tree: &PublicGroup) -> Result<GroupState, CommitFault> {
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
    genesis_state(group, policy, &LeafFacts::of(leaf))
}

/// As [`genesis`], from the creator's leaf. The group begins when the leaf was made, to the second: its lifetime says when, and is signed.
pub(crate) fn genesis_state(
    group: GroupId,
    policy: GroupPolicy,
    leaf: &LeafFacts,
) -> Result<GroupState, CommitFault> {
    let lifetime = leaf.lifetime.ok_or(CommitFault::GroupInfo)?;
    let time = lifetime.created();
    if !lifetime.suits_add_at(time) {
        return Err(CommitFault::Limit);
    }
    let row = |device, user, role| RosterRow {
        device,
        user,
        credential_type: leaf.credential_type,
        credential: leaf.credential.clone(),
        key: leaf.key.clone(),
        scheme: leaf.scheme,
        role,
        first_epoch: 0,
        last_epoch: None,
        time,
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
