//! The service's side: a group's public state, which judges before it orders and holds no key.

mod adopt;
mod bundle;
mod create;
mod follow;
mod group_info;
mod parts;
mod removal;

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::codec::Bytes;
use conclave_proto::frame::JoinState;
use conclave_proto::group::{GroupEntry, RootWrap};
use conclave_proto::limits::{GROWING_STATE_BYTES, PROPOSAL_BYTES};
use conclave_proto::record::Record;
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, Refusal};
use conclave_proto::{DeviceId, Head};
use conclave_rules::{EntryEffect, GroupState, ProposalFacts, ProposalVerdict};
use openmls::framing::ProcessedMessageContent;
use openmls::group::{PublicGroup, QueuedProposal};
use openmls_traits::OpenMlsProvider;
use tls_codec::Serialize;

pub use adopt::Adoption;
pub(crate) use adopt::queue;
pub use bundle::JudgedCommit;
pub(crate) use bundle::{process_public, signer_of};
pub use create::check_founded;
pub(crate) use create::genesis;
pub(crate) use follow::judge_followed;
pub use follow::{Beside, Retaken};
pub use removal::removes_somebody;

use crate::facts;
use crate::message;
use crate::provider::Provider;
use crate::stored::Changed;

/// A group as the service knows it.
///
/// `judge_*` change nothing; `apply_*` take what was judged. What that changed of its rows is handed over by
/// [`PublicGroupState::take_changes`], to be made durable before anybody is told. All calls for one group are made one after another.
pub struct PublicGroupState {
    provider: Provider,
    tree: PublicGroup,
    state: GroupState,
    group_info: Vec<u8>,
    /// The standalone proposals that are pending, as they were sent, by their positions.
    pending: BTreeMap<u64, Bytes>,
    /// Own rows that have changed since they were taken; those that are gone have no value.
    changed: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl std::fmt::Debug for PublicGroupState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicGroupState")
            .field("group", &self.state.group)
            .field("epoch", &self.state.epoch)
            .finish_non_exhaustive()
    }
}

/// Whether the leaves and the roster's rows are the same set.
fn has_members_of(tree: &PublicGroup, state: &GroupState) -> bool {
    let rows: BTreeSet<&[u8]> = state.current_rows().map(|row| row.key.as_slice()).collect();
    let leaves: Vec<Vec<u8>> = tree.members().map(|leaf| leaf.signature_key).collect();
    leaves.len() == rows.len() && leaves.iter().all(|key| rows.contains(key.as_slice()))
}

/// A standalone proposal found good, for the position after the head it was judged at.
#[derive(Debug)]
#[non_exhaustive]
pub struct JudgedProposal {
    /// The entry to append to the group log.
    pub entry: GroupEntry,
    /// The device that goes.
    pub device: DeviceId,
    /// Public state with the entry appended.
    pub next: GroupState,
    judged_at: Head,
    queued: QueuedProposal,
}

impl PublicGroupState {
    /// The public state.
    #[must_use]
    pub fn state(&self) -> &GroupState {
        &self.state
    }

    /// GroupInfo of the current epoch (`MLSMessage`), as its committer made it.
    #[must_use]
    pub fn group_info(&self) -> &[u8] {
        &self.group_info
    }

    /// Ratchet tree of the current epoch.
    #[must_use]
    pub fn tree(&self) -> Vec<u8> {
        // The tree was read or built here, so it is within every bound of the encoding.
        self.tree
            .export_ratchet_tree()
            .tls_serialize_detached()
            .unwrap_or_default()
    }

    /// The standalone proposals that are pending (`MLSMessage`), in the order of the log: whoever comes back covers those that are leaves.
    #[must_use]
    pub fn pending(&self) -> Vec<Bytes> {
        self.pending.values().cloned().collect()
    }

    /// What joiners of the current epoch are handed beside their Welcome: call it right after the commit was applied. `wrap` is the one that
    /// came with the commit; `entries` are the signed entries that created, closed and voided documents, in log order.
    #[must_use]
    pub fn join_state(&self, wrap: RootWrap, entries: Vec<Record>) -> JoinState {
        JoinState {
            group_state: self.state.to_bytes().into(),
            frontier: self.state.frontier.clone(),
            entries,
            wrap,
        }
    }

    /// Judges a signed entry from the device `connected`.
    ///
    /// # Errors
    /// The answer to the device.
    pub fn judge_entry(
        &self,
        record: &Record,
        connected: DeviceId,
    ) -> Result<EntryEffect, Refusal> {
        if record.header.author.device != connected {
            return Err(Refusal::Forbidden {
                why: ForbiddenWhy::NotYours,
            });
        }
        let effect = self.state.judge_entry(record)?;
        // What follows has to fit what joiners are handed; a new epoch makes room.
        if self.state.most_bytes() > GROWING_STATE_BYTES {
            let max = GROWING_STATE_BYTES as u64;
            return Err(Refusal::TooLarge { max });
        }
        Ok(effect)
    }

    /// Appends a judged entry.
    pub fn apply_entry(&mut self, effect: &EntryEffect) {
        self.state.apply_entry(effect);
        self.save(Changed::by(&effect.body));
    }

    /// Judges a standalone proposal (`MLSMessage`) from the device `connected`.
    ///
    /// # Errors
    /// The answer to the device.
    pub fn judge_proposal(
        &self,
        message: &[u8],
        connected: DeviceId,
    ) -> Result<JudgedProposal, Refusal> {
        let (facts, queued) =
            verify_proposal(&self.tree, &self.provider, &self.state, message).map_err(refuse)?;
        if facts.device != connected {
            return Err(Refusal::Forbidden {
                why: ForbiddenWhy::NotYours,
            });
        }
        let verdict = self.state.judge_proposal(&facts).map_err(refuse)?;
        if verdict == ProposalVerdict::Void {
            return Err(refuse(CommitFault::LastOwner));
        }
        let entry = GroupEntry::Proposal(message.into());
        let mut next = self.state.clone();
        next.apply_proposal(&facts, verdict, entry.leaf());
        Ok(JudgedProposal {
            entry,
            device: facts.device,
            next,
            judged_at: self.state.head(),
            queued,
        })
    }

    /// Appends a judged proposal.
    ///
    /// # Errors
    /// [`Refusal::Storage`] when the log has moved on since it was judged; nothing was changed.
    pub fn apply_proposal(&mut self, judged: JudgedProposal) -> Result<(), Refusal> {
        if judged.judged_at != self.state.head() {
            return Err(Refusal::Storage);
        }
        self.tree
            .add_proposal(self.provider.storage(), judged.queued)
            .map_err(|_| Refusal::Storage)?;
        if let GroupEntry::Proposal(message) = judged.entry {
            self.note_pending(judged.judged_at.size, message);
        }
        self.state = judged.next;
        self.save(Changed::Nothing);
        Ok(())
    }
}

/// Verifies a standalone proposal publicly: its signature, and that it is one of the kinds that stand alone here. Members do no more, or
/// one with a wrong membership tag, which the service cannot check, would bind the service and not them.
pub(crate) fn verify_proposal(
    tree: &PublicGroup,
    provider: &Provider,
    state: &GroupState,
    message: &[u8],
) -> Result<(ProposalFacts, QueuedProposal), CommitFault> {
    if message.len() > PROPOSAL_BYTES {
        return Err(CommitFault::Limit);
    }
    let incoming = message::handshake(message)?;
    let processed = message::contained(|| tree.process_message(provider.crypto(), incoming))
        .map_err(|_| CommitFault::Mls)?
        .map_err(|_| CommitFault::Mls)?;
    let ProcessedMessageContent::ProposalMessage(queued) = processed.into_content() else {
        return Err(CommitFault::ProposalKind);
    };
    let facts = facts::proposal_facts(tree, state, &queued)?;
    Ok((facts, *queued))
}

/// The answer to whoever sent something with this fault.
pub(crate) fn refuse(fault: CommitFault) -> Refusal {
    match fault {
        CommitFault::PendingOmitted => Refusal::ProposalPending,
        fault => Refusal::BadCommit { fault },
    }
}
