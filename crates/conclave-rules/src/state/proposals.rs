//! Standalone proposals: leaving, and removals that the service proposes.

use std::collections::BTreeSet;

use conclave_proto::policy::Role;
use conclave_proto::refusal::CommitFault;
use conclave_proto::{DeviceId, Hash};

use super::{GroupState, PendingProposal, ProposalKind};
use crate::actions::Action;

/// What a standalone proposal says, once MLS has verified it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProposalFacts {
    /// Epoch that it was made in.
    pub epoch: u64,
    /// Its kind. A leave comes from the device itself, a removal from the service.
    pub kind: ProposalKind,
    /// The device that goes.
    pub device: DeviceId,
}

/// What becomes of a valid proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposalVerdict {
    /// The next commit has to cover it.
    Pending,
    /// With it, after those before it, nobody would own the group: the service refuses it, members ignore it.
    Void,
}

impl GroupState {
    /// Judges a standalone proposal.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn judge_proposal(&self, facts: &ProposalFacts) -> Result<ProposalVerdict, CommitFault> {
        if facts.epoch != self.epoch {
            return Err(CommitFault::Mls);
        }
        let row = self
            .roster
            .current_row(&facts.device)
            .ok_or(CommitFault::Mls)?;
        match facts.kind {
            ProposalKind::Leave if !Action::Leave.allowed(row.role) => {
                return Err(CommitFault::Role);
            }
            ProposalKind::Remove if self.policy.service_may_remove == 0 => {
                return Err(CommitFault::ProposalKind);
            }
            ProposalKind::Leave | ProposalKind::Remove => {}
        }
        if self
            .pending
            .iter()
            .any(|known| known.device == facts.device)
        {
            return Err(CommitFault::Duplicate);
        }
        let going: BTreeSet<DeviceId> = self
            .pending
            .iter()
            .map(|known| known.device)
            .chain([facts.device])
            .collect();
        let owner_stays = self
            .current_rows()
            .any(|row| row.role == Role::Owner && !going.contains(&row.device));
        Ok(if owner_stays {
            ProposalVerdict::Pending
        } else {
            ProposalVerdict::Void
        })
    }

    /// Appends a judged proposal to the log.
    pub fn apply_proposal(&mut self, facts: &ProposalFacts, verdict: ProposalVerdict, leaf: Hash) {
        if verdict == ProposalVerdict::Pending {
            self.pending.push_back_mut(PendingProposal {
                seq: self.frontier.size(),
                leaf,
                kind: facts.kind,
                device: facts.device,
            });
        }
        self.push_leaf(leaf);
    }
}
