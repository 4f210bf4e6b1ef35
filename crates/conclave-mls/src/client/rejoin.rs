//! Rejoining by an external commit, built on scratch state.

use conclave_proto::codec::{Bytes, encode};
use conclave_proto::frame::JoinState;
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::{DeviceId, GroupId, Hash};
use conclave_rules::{
    CommitFacts, Committer, Covered, GroupState, ProposalKind, judge::next_state, judge_commit,
};
use openmls::framing::PublicMessageIn;
use openmls::group::{CommitMessageBundle, MlsGroup, ProposalStore, PublicGroup};
use openmls::prelude::LeafNodeParameters;
use openmls_traits::OpenMlsProvider;
use rand_core::CryptoRngCore;

use super::commit::encode_group_info;
use super::process::Processed;
use super::{ClientGroup, CommitInputs, Prepared, REJOIN_ROW, Rejoin, invitation};
use crate::device::DeviceContext;
use crate::error::{Fault, MlsError, ProcessError};
use crate::follower::Follower;
use crate::lifetimes::ClockFault;
use crate::message::{self, contained};
use crate::profile;
use crate::provider::Provider;
use crate::public::{genesis, process_public, queue};
use crate::stored::Changed;
use crate::wrap;

const BUILDING: MlsError = MlsError::Mls {
    what: "building an external commit",
};

/// What the service offers to a device that wants to come back: GroupInfo, tree and public state of the current epoch.
#[derive(Debug, Clone, Copy)]
pub struct RejoinOffer<'a> {
    /// The group.
    pub group: GroupId,
    /// GroupInfo (`MLSMessage`).
    pub group_info: &'a [u8],
    /// Ratchet tree.
    pub tree: &'a [u8],
    /// Public state.
    pub state: &'a JoinState,
    /// The standalone proposals that are pending (`MLSMessage`), in the order of the log.
    pub pending: &'a [Bytes],
    /// The group as this device has followed it, if it could: the offer has to be the very same state.
    pub known: Option<&'a Follower>,
}

impl ClientGroup {
    /// Prepares this device's return: an external commit, and the group as it will be if the commit is ordered. The group returned is
    /// scratch state: keep the old rows until [`ClientGroup::process`], fed from the offer's log size on, has seen the commit. If another
    /// commit comes first it says [`ProcessError::RejoinLost`]: throw the scratch state away and prepare again.
    ///
    /// Allowed for a member's device with its own key (its old leaf goes), and for a new device where every member's device is of its user.
    ///
    /// # Errors
    /// [`MlsError`].
    pub fn rejoin(
        device: &DeviceContext<'_>,
        offer: &RejoinOffer<'_>,
        inputs: CommitInputs<'_>,
        rng: &mut dyn CryptoRngCore,
    ) -> Result<(Self, Prepared), MlsError> {
        let (scratch, mut tree, state) = offered_group(offer)?;
        check_known(&state, &tree, offer.known)?;
        queue(&scratch, &mut tree, &state, offer.pending).map_err(|_| MlsError::BadInvitation {
            what: "pending proposals",
        })?;
        let (facts, planned) = plan(device, &state, &inputs)?;
        let leaves = leaves(&facts, &state, offer.pending)?;
        let (provider, mls, made) = build(device, offer, &facts, leaves)?;

        let commit = made.commit().to_bytes().map_err(|_| BUILDING)?;
        let leaf = GroupEntry::Commit(commit.as_slice().into()).leaf();
        let incoming = message::handshake(&commit)?;
        let facts = process_public(&tree, &scratch, &state, incoming, Ok(()))?.facts;
        let mut next = judge_commit(&state, &facts)?;
        if next != planned {
            return Err(BUILDING);
        }
        next.begin_epoch(leaf);

        let rejoin = Some(Box::new(Rejoin { leaf, facts }));
        let group = Self::start(provider, mls, state, device.device(), rejoin);
        let secrets = group.export_secrets()?;
        let wrap = wrap::seal(&next, device, &secrets, inputs.live_roots, rng)?;
        let prepared = Prepared {
            bundle: CommitBundle {
                group: offer.group,
                commit: Bytes::from(commit),
                welcome: None,
                group_info: encode_group_info(&made)?,
                wrap,
            },
            leaf,
            epoch: next.epoch,
            secrets,
        };
        Ok((group, prepared))
    }

    /// A standalone proposal while this device is outside: those inside judge it, and an external commit that has not seen it need not cover it.
    pub(super) fn pass_proposal(&mut self, leaf: Hash) -> Processed {
        self.state.push_leaf(leaf);
        self.save_state(Changed::Nothing);
        Processed::Passed
    }

    /// The first commit after the offer: the own one, or the rejoin is lost.
    pub(super) fn finish_rejoin(&mut self, leaf: Hash) -> Result<Processed, ProcessError> {
        let Some(rejoin) = self.rejoin.take_if(|rejoin| rejoin.leaf == leaf) else {
            return Err(ProcessError::RejoinLost);
        };
        let finished = self.transact(|group| {
            let next = judge_commit(&group.state, &rejoin.facts).map_err(|fault| {
                ProcessError::Illegal {
                    fault: Fault::Commit(fault),
                    signer: None,
                }
            })?;
            let secrets = group.export_secrets()?;
            group.provider.overlay().put_row(REJOIN_ROW, None);
            Ok(group.begin(&rejoin.facts, next, leaf, Some(secrets)))
        });
        finished.map(|outcome| Processed::Commit(Box::new(outcome)))
    }
}

/// What is offered has to be what this device has judged entry by entry: the same public state, and the same tree and transcript.
fn check_known(
    state: &GroupState,
    tree: &PublicGroup,
    known: Option<&Follower>,
) -> Result<(), MlsError> {
    match known {
        Some(known) if known.state() != state || known.context() != tree.group_context() => {
            Err(MlsError::BadInvitation {
                what: "older or other history",
            })
        }
        _ => Ok(()),
    }
}

/// A group as somebody offers it: verified, and found to be the one that the public state describes, which is consistent in itself.
pub(crate) fn offered_group(
    offer: &RejoinOffer<'_>,
) -> Result<(Provider, PublicGroup, GroupState), MlsError> {
    let state = invitation::read_state(offer.group, offer.state)?;
    let info = message::group_info(offer.group_info)?;
    message::check_extensions(&info)?;
    let tree = message::ratchet_tree(offer.tree)?;
    let provider = Provider::default();
    let (group, _) = contained(|| {
        PublicGroup::from_external(
            provider.crypto(),
            provider.storage(),
            tree,
            info,
            ProposalStore::new(),
        )
    })
    .map_err(|_| MlsError::Panicked)?
    .map_err(|error| match error {
        error if error.is_of_clock() => MlsError::ClockWrong,
        _ => MlsError::BadInvitation { what: "GroupInfo" },
    })?;
    invitation::check_tree(&state, group.group_context(), group.members())?;
    if state.epoch == 0 && genesis(&group, state.last_time)?.roster != state.roster {
        return Err(MlsError::BadInvitation { what: "genesis" });
    }
    Ok((provider, group, state))
}

/// Whose leaves this device's commit covers: all but its own.
fn covered(state: &GroupState, own: DeviceId) -> Vec<Covered> {
    let leaves = state.pending.iter();
    let leaves = leaves.filter(|it| it.kind == ProposalKind::Leave && it.device != own);
    leaves
        .map(|it| Covered {
            device: it.device,
            kind: it.kind,
        })
        .collect()
}

/// The proposals that a commit covers, as they were sent.
fn leaves(
    facts: &CommitFacts,
    state: &GroupState,
    pending: &[Bytes],
) -> Result<Vec<PublicMessageIn>, MlsError> {
    let named = state.pending.iter().zip(pending);
    let covers = |device| facts.covered.iter().any(|it| it.device == device);
    named
        .filter(|(proposal, _)| covers(proposal.device))
        .map(|(_, message)| Ok(message::handshake(message.as_slice())?))
        .collect()
}

fn plan(
    device: &DeviceContext<'_>,
    state: &GroupState,
    inputs: &CommitInputs<'_>,
) -> Result<(CommitFacts, GroupState), MlsError> {
    let own = device.device();
    let mut facts = CommitFacts {
        epoch: state.epoch,
        committer: Committer::External,
        path: Some(device.leaf_facts()),
        adds: Vec::new(),
        removes: state.is_member(&own).then_some(own).into_iter().collect(),
        covered: covered(state, own),
        policy: None,
        data: inputs.data(state)?,
    };
    let next = next_state(state, &facts)?;
    facts.data.roster = next.roster_hash();
    Ok((facts, next))
}

fn build(
    device: &DeviceContext<'_>,
    offer: &RejoinOffer<'_>,
    facts: &CommitFacts,
    leaves: Vec<PublicMessageIn>,
) -> Result<(Provider, MlsGroup, CommitMessageBundle), MlsError> {
    let info = message::group_info(offer.group_info)?;
    let tree = message::ratchet_tree(offer.tree)?;
    let provider = Provider::default();
    let leaf = LeafNodeParameters::builder()
        .with_capabilities(profile::capabilities())
        .build();
    let built = contained(|| {
        MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree)
            .with_config(profile::join_config())
            .with_aad(encode(&facts.data))
            .with_proposals(leaves)
            .skip_lifetime_validation()
            .build_group(&provider, info, device.credential_with_key())
            .ok()?
            .leaf_node_parameters(leaf)
            .load_psks(provider.storage())
            .ok()?
            .create_group_info(true)
            .build(provider.rand(), provider.crypto(), &device.signer(), |_| {
                true
            })
            .ok()?
            .finalize(&provider)
            .ok()
    });
    let (mls, made) = built.map_err(|_| MlsError::Panicked)?.ok_or(BUILDING)?;
    Ok((provider, mls, made))
}
