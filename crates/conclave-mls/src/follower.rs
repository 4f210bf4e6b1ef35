//! Following a group log without its secrets: what a member can still judge while it is on its way back.

use conclave_proto::group::GroupEntry;
use conclave_rules::{GroupState, ProposalVerdict, judge_commit};
use openmls::framing::Sender;
use openmls::group::{GroupContext, GroupId as MlsGroupId, PublicGroup};
use openmls_traits::OpenMlsProvider;

use crate::error::{Fault, MlsError, ProcessError};
use crate::lifetimes;
use crate::message::{self, contained};
use crate::provider::Provider;
use crate::public::{process_public, signer_of, verify_proposal};

/// A group as its log shows it from a state on that this device had processed as a member. Every entry is judged as the service and all
/// members judge it; secrets are not needed and not held.
pub struct Follower {
    provider: Provider,
    tree: PublicGroup,
    state: GroupState,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("group", &self.state.group)
            .field("epoch", &self.state.epoch)
            .field("head", &self.state.head())
            .finish_non_exhaustive()
    }
}

impl Follower {
    /// Begins at a member's state, from the rows of its group.
    pub(crate) fn begin(rows: crate::overlay::Rows, state: &GroupState) -> Result<Self, MlsError> {
        let provider = Provider::new(rows);
        let id = MlsGroupId::from_slice(state.group.as_bytes());
        let tree = contained(|| PublicGroup::load(provider.storage(), &id))
            .map_err(|_| MlsError::Panicked)?
            .ok()
            .flatten()
            .filter(|tree| tree.group_context().epoch().as_u64() == state.epoch)
            .ok_or(MlsError::Damaged)?;
        Ok(Self {
            provider,
            tree,
            state: state.clone(),
        })
    }

    /// The public state.
    #[must_use]
    pub fn state(&self) -> &GroupState {
        &self.state
    }

    pub(crate) fn context(&self) -> &GroupContext {
        self.tree.group_context()
    }

    /// Judges the entry at position `state().head().size`, and takes it in.
    ///
    /// # Errors
    /// [`ProcessError::Illegal`], [`ProcessError::ClockWrong`]; nothing was taken in.
    pub fn follow(&mut self, entry: &GroupEntry) -> Result<(), ProcessError> {
        let leaf = entry.leaf();
        match entry {
            GroupEntry::Signed(record) => {
                let effect =
                    self.state
                        .judge_entry(record)
                        .map_err(|refusal| ProcessError::Illegal {
                            fault: Fault::Entry(refusal),
                            signer: None,
                        })?;
                self.state.apply_entry(&effect);
            }
            GroupEntry::Proposal(bytes) => {
                let (facts, queued) =
                    verify_proposal(&self.tree, &self.provider, &self.state, bytes.as_slice())?;
                let verdict = self.state.judge_proposal(&facts)?;
                if verdict == ProposalVerdict::Pending {
                    self.tree
                        .add_proposal(self.provider.storage(), queued)
                        .map_err(|_| ProcessError::Damaged)?;
                }
                self.state.apply_proposal(&facts, verdict, leaf);
            }
            GroupEntry::Commit(bytes) => {
                let incoming = message::handshake(bytes.as_slice())?;
                let lifetimes = lifetimes::check(bytes.as_slice());
                let commit =
                    process_public(&self.tree, &self.provider, &self.state, incoming, lifetimes)?;
                let illegal = |fault| ProcessError::Illegal {
                    fault: Fault::Commit(fault),
                    signer: match &commit.sender {
                        Sender::Member(_) => signer_of(&self.tree, &self.state, &commit.sender),
                        _ => None,
                    },
                };
                let mut next = judge_commit(&self.state, &commit.facts).map_err(illegal)?;
                next.begin_epoch(leaf);
                let storage = self.provider.storage();
                let merged = contained(|| self.tree.merge_commit(storage, commit.staged).is_ok());
                if merged != Ok(true) {
                    return Err(ProcessError::Damaged);
                }
                self.state = next;
            }
        }
        Ok(())
    }
}
