//! A group that the service does not have, as one of its members has it: a service that was wiped, set up anew, or put back to before the group
//! was founded. What a joiner judges before it believes a service, the service judges before it believes a member.

use conclave_proto::codec::Bytes;
use conclave_proto::frame::JoinState;
use conclave_proto::limits::MLS_MESSAGE_BYTES;
use conclave_proto::refusal::{CommitFault, Refusal};
use conclave_proto::{DeviceId, GroupId};
use conclave_rules::{GroupState, ProposalVerdict};
use openmls::group::PublicGroup;
use openmls_traits::OpenMlsProvider;

use super::{PublicGroupState, refuse, verify_proposal};
use crate::client::{RejoinOffer, offered_group};
use crate::error::MlsError;
use crate::provider::Provider;

/// A group as a member brings it.
#[derive(Debug, Clone, Copy)]
pub struct Adoption<'a> {
    /// The group.
    pub group: GroupId,
    /// The member that brings it.
    pub sender: DeviceId,
    /// GroupInfo (`MLSMessage`) of the present epoch, with `external_pub` and without the ratchet tree, signed by that member.
    pub group_info: &'a [u8],
    /// Ratchet tree.
    pub tree: &'a [u8],
    /// Public state.
    pub state: &'a JoinState,
    /// The standalone proposals that the next commit has to cover (`MLSMessage`), in the order of the log.
    pub pending: &'a [Bytes],
}

impl PublicGroupState {
    /// Takes up a group from a member: the public state has to be consistent in itself, down to the signed entries that list its documents, signed
    /// for by the member's wrap, and the one that the tree and the GroupInfo describe.
    ///
    /// # Errors
    /// The answer to the device.
    pub fn adopt(offer: &Adoption<'_>) -> Result<Self, Refusal> {
        if offer.group_info.len().max(offer.tree.len()) > MLS_MESSAGE_BYTES {
            return Err(refuse(CommitFault::Limit));
        }
        let rejoin = RejoinOffer {
            group: offer.group,
            group_info: offer.group_info,
            tree: offer.tree,
            state: offer.state,
            known: None,
            pending: offer.pending,
        };
        let (provider, mut tree, state) = offered_group(&rejoin).map_err(|error| match error {
            // The service's own clock, or its own fault: the group is as good as before.
            MlsError::ClockWrong | MlsError::Panicked => Refusal::Storage,
            MlsError::UpgradeNeeded { minimum } => Refusal::UpgradeNeeded { minimum },
            _ => refuse(CommitFault::GroupInfo),
        })?;
        if !state.is_member(&offer.sender) {
            return Err(state.not_member(&offer.sender));
        }
        if offer.state.frontier != state.frontier {
            return Err(refuse(CommitFault::GroupInfo));
        }
        queue(&provider, &mut tree, &state, offer.pending)?;
        let places: Vec<u64> = state.pending.iter().map(|pending| pending.seq).collect();
        let mut group = Self::start(provider, tree, state, offer.group_info.to_vec());
        for (seq, message) in places.into_iter().zip(offer.pending) {
            group.note_pending(seq, message.clone());
        }
        group.judge_group_info(offer.sender, offer.group_info)?;
        Ok(group)
    }
}

/// Queues the proposals that are pending: exactly those that the state names. OpenMLS begins with none where it is handed a tree.
///
/// # Errors
/// [`Refusal::ProposalPending`] and others.
pub(crate) fn queue(
    provider: &Provider,
    tree: &mut PublicGroup,
    state: &GroupState,
    messages: &[Bytes],
) -> Result<(), Refusal> {
    if messages.len() != state.pending.len() {
        return Err(Refusal::ProposalPending);
    }
    // As it was before the first of them.
    let mut before = state.clone();
    before.pending = Default::default();
    for (message, pending) in messages.iter().zip(&state.pending) {
        let entry = conclave_proto::group::GroupEntry::Proposal(message.clone());
        if entry.leaf() != pending.leaf {
            return Err(Refusal::ProposalPending);
        }
        let (facts, queued) =
            verify_proposal(tree, provider, &before, message.as_slice()).map_err(refuse)?;
        let verdict = before.judge_proposal(&facts).map_err(refuse)?;
        if (facts.device, facts.kind, verdict)
            != (pending.device, pending.kind, ProposalVerdict::Pending)
        {
            return Err(Refusal::ProposalPending);
        }
        before.pending.push_back_mut(*pending);
        tree.add_proposal(provider.storage(), queued)
            .map_err(|_| Refusal::Storage)?;
    }
    Ok(())
}
