//! Facts of a commit, taken alike from OpenMLS at the client and at the service.

use conclave_proto::DeviceId;
use conclave_proto::codec::decode;
use conclave_proto::group::{COMMIT_DATA_VERSION, CommitData};
use conclave_proto::refusal::CommitFault;
use conclave_rules::{
    CommitFacts, Committer, Covered, GroupState, LeafFacts, ProposalFacts, ProposalKind,
};
use openmls::framing::Sender;
use openmls::group::{PublicGroup, QueuedProposal, StagedCommit};
use openmls::messages::proposals::{Proposal, ProposalOrRefType};
use openmls::prelude::LeafNodeIndex;
use openmls::treesync::LeafNode;

use crate::profile;

/// Largest authenticated data of a commit in bytes.
const COMMIT_DATA_BYTES: usize = 1024;

/// The facts of a leaf.
pub(crate) fn leaf(leaf: &LeafNode) -> LeafFacts {
    LeafFacts {
        credential_type: u16::from(leaf.credential().credential_type()),
        credential: leaf.credential().serialized_content().into(),
        scheme: conclave_identity::SCHEME_ED25519,
        key: leaf.signature_key().as_slice().into(),
        capable: u8::from(profile::capabilities_complete(leaf.capabilities())),
        lifetime: profile::leaf_lifetime(leaf),
    }
}

/// The facts of a commit that OpenMLS has processed, in the epoch of `state`, whose tree `tree` still has.
pub(crate) fn extract(
    tree: &PublicGroup,
    state: &GroupState,
    sender: &Sender,
    authenticated_data: &[u8],
    staged: &StagedCommit,
) -> Result<CommitFacts, CommitFault> {
    let committer = match sender {
        Sender::Member(index) => Committer::Member(device_at(tree, state, *index)?),
        Sender::NewMemberCommit => Committer::External,
        Sender::External(_) | Sender::NewMemberProposal => return Err(CommitFault::Mls),
    };
    let mut facts = CommitFacts {
        epoch: tree.group_context().epoch().as_u64(),
        committer,
        path: staged.update_path_leaf_node().map(leaf),
        adds: Vec::new(),
        removes: Vec::new(),
        covered: Vec::new(),
        policy: None,
        data: read_data(authenticated_data)?,
    };
    for queued in staged.queued_proposals() {
        add_proposal(&mut facts, tree, state, queued, staged)?;
    }
    Ok(facts)
}

fn add_proposal(
    facts: &mut CommitFacts,
    tree: &PublicGroup,
    state: &GroupState,
    queued: &QueuedProposal,
    staged: &StagedCommit,
) -> Result<(), CommitFault> {
    let inline = matches!(queued.proposal_or_ref_type(), ProposalOrRefType::Proposal);
    match queued.proposal() {
        Proposal::Add(add) if inline => {
            facts.adds.push(leaf(add.key_package().leaf_node()));
        }
        Proposal::Remove(remove) if inline => {
            facts
                .removes
                .push(device_at(tree, state, remove.removed())?);
        }
        Proposal::Remove(_) | Proposal::SelfRemove if !inline => {
            let proposal = proposal_facts(tree, state, queued)?;
            facts.covered.push(Covered {
                device: proposal.device,
                kind: proposal.kind,
            });
        }
        Proposal::GroupContextExtensions(_) if inline => {
            facts.policy = Some(profile::read_policy(staged.group_context())?);
        }
        Proposal::ExternalInit(_) if inline && facts.committer == Committer::External => {}
        _ => return Err(CommitFault::ProposalKind),
    }
    Ok(())
}

/// The facts of a standalone proposal that OpenMLS has processed.
pub(crate) fn proposal_facts(
    tree: &PublicGroup,
    state: &GroupState,
    queued: &QueuedProposal,
) -> Result<ProposalFacts, CommitFault> {
    let (kind, index) = match (queued.proposal(), queued.sender()) {
        (Proposal::SelfRemove, Sender::Member(index)) => (ProposalKind::Leave, *index),
        (Proposal::Remove(remove), Sender::External(_)) => (ProposalKind::Remove, remove.removed()),
        _ => return Err(CommitFault::ProposalKind),
    };
    Ok(ProposalFacts {
        epoch: tree.group_context().epoch().as_u64(),
        kind,
        device: device_at(tree, state, index)?,
    })
}

/// The member at a leaf. Leaves and roster rows are the same set, so a leaf without a row is a contradiction.
pub(crate) fn device_at(
    tree: &PublicGroup,
    state: &GroupState,
    index: LeafNodeIndex,
) -> Result<DeviceId, CommitFault> {
    tree.leaf(index)
        .and_then(|leaf| state.row_by_key(leaf.signature_key().as_slice()))
        .map(|row| row.device)
        .ok_or(CommitFault::Mls)
}

pub(crate) fn read_data(bytes: &[u8]) -> Result<CommitData, CommitFault> {
    let data: CommitData =
        decode("commit data", bytes, COMMIT_DATA_BYTES).map_err(|_| CommitFault::Data)?;
    // What nobody of this version judges, nobody takes.
    if data.version != COMMIT_DATA_VERSION || data.checkpoint.is_some() {
        return Err(CommitFault::Data);
    }
    Ok(data)
}
