//! Facts of a commit: what the shared judgement looks at, taken alike from OpenMLS at the client and at the service.

use conclave_proto::DeviceId;
use conclave_proto::codec::{Bytes, decode};
use conclave_proto::group::{COMMIT_DATA_VERSION, CommitData};
use conclave_proto::policy::GroupPolicy;
use conclave_proto::refusal::CommitFault;
use openmls::framing::Sender;
use openmls::group::{PublicGroup, QueuedProposal, StagedCommit};
use openmls::messages::proposals::{Proposal, ProposalOrRefType};
use openmls::prelude::LeafNodeIndex;
use openmls::treesync::LeafNode;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::profile::{self, LeafLifetime};
use crate::state::{GroupState, ProposalFacts, ProposalKind};

/// Largest authenticated data of a commit in bytes.
const COMMIT_DATA_BYTES: usize = 1024;

/// Who made a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Committer {
    /// A member.
    #[tls_codec(discriminant = 1)]
    Member(DeviceId),
    /// Somebody outside: an external commit. Its path says who.
    #[tls_codec(discriminant = 2)]
    External,
}

/// A leaf that a commit brings.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LeafFacts {
    /// MLS credential type.
    pub credential_type: u16,
    /// Content of the credential.
    pub credential: Bytes,
    /// Signature scheme of the key.
    pub scheme: u16,
    /// The leaf's own signature key.
    pub key: Bytes,
    /// 1 when the leaf has every capability that groups here need.
    pub capable: u8,
    /// Lifetime, for leaves from key packages.
    pub lifetime: Option<LeafLifetime>,
}

impl LeafFacts {
    pub(crate) fn of(leaf: &LeafNode) -> Self {
        Self {
            credential_type: u16::from(leaf.credential().credential_type()),
            credential: leaf.credential().serialized_content().into(),
            scheme: conclave_identity::SCHEME_ED25519,
            key: leaf.signature_key().as_slice().into(),
            capable: u8::from(profile::capabilities_complete(leaf.capabilities())),
            lifetime: profile::leaf_lifetime(leaf),
        }
    }
}

/// A pending proposal that a commit covers.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, TlsSize, TlsSerialize, TlsDeserializeBytes,
)]
pub struct Covered {
    /// The device that goes.
    pub device: DeviceId,
    /// Kind of the proposal.
    pub kind: ProposalKind,
}

/// Everything about a commit that decides whether it is allowed.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct CommitFacts {
    /// Epoch that it was made in.
    pub epoch: u64,
    /// Who made it.
    pub committer: Committer,
    /// New leaf of its author.
    pub path: Option<LeafFacts>,
    /// Leaves that it adds.
    pub adds: Vec<LeafFacts>,
    /// Devices that it removes by its own proposals.
    pub removes: Vec<DeviceId>,
    /// Pending proposals that it covers.
    pub covered: Vec<Covered>,
    /// New policy, where it changes the GroupContext extensions.
    pub policy: Option<GroupPolicy>,
    /// Its authenticated data.
    pub data: CommitData,
}

impl CommitFacts {
    /// The device that made the commit, where the facts say it without a credential check.
    #[must_use]
    pub fn author(&self) -> Option<DeviceId> {
        match self.committer {
            Committer::Member(device) => Some(device),
            Committer::External => None,
        }
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
        path: staged.update_path_leaf_node().map(LeafFacts::of),
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
            facts
                .adds
                .push(LeafFacts::of(add.key_package().leaf_node()));
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
    if data.version != COMMIT_DATA_VERSION {
        return Err(CommitFault::Data);
    }
    Ok(data)
}
