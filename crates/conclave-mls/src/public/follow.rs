//! An entry of the log as every member judges it: by its bytes and the group's public state alone, whoever brings it and whenever it comes.

use conclave_proto::DeviceId;
use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap};
use conclave_proto::refusal::{CommitFault, Refusal};
use conclave_rules::{
    EntryEffect, GroupState, ProposalFacts, ProposalVerdict, judge, judge_commit,
};
use openmls::framing::Sender;
use openmls::group::{PublicGroup, QueuedProposal};
use openmls_traits::OpenMlsProvider;

use super::bundle::{ProcessedCommit, process_public, signer_of};
use super::{PublicGroupState, refuse, verify_proposal};
use crate::error::{Fault, ProcessError};
use crate::lifetimes;
use crate::message::{self, contained};
use crate::provider::Provider;
use crate::stored::Changed;

/// An entry found good, for the position after the head that it was judged at.
pub(crate) enum Followed {
    Signed(EntryEffect),
    Proposal(ProposalFacts, ProposalVerdict, Box<QueuedProposal>),
    /// A commit, with the state that it leads to.
    Commit(Box<ProcessedCommit>, Box<GroupState>),
}

/// Judges an entry.
///
/// # Errors
/// [`ProcessError::Illegal`], [`ProcessError::ClockWrong`].
pub(crate) fn judge_followed(
    tree: &PublicGroup,
    provider: &Provider,
    state: &GroupState,
    entry: &GroupEntry,
) -> Result<Followed, ProcessError> {
    match entry {
        GroupEntry::Signed(record) => {
            let effect = state.judge_entry(record);
            let effect = effect.map_err(|refusal| ProcessError::Illegal {
                fault: Fault::Entry(refusal),
                signer: None,
            })?;
            Ok(Followed::Signed(effect))
        }
        GroupEntry::Proposal(bytes) => {
            let (facts, queued) = verify_proposal(tree, provider, state, bytes.as_slice())?;
            let verdict = state.judge_proposal(&facts)?;
            Ok(Followed::Proposal(facts, verdict, Box::new(queued)))
        }
        GroupEntry::Commit(bytes) => {
            let incoming = message::handshake(bytes.as_slice())?;
            let lifetimes = lifetimes::check(bytes.as_slice());
            let commit = process_public(tree, provider, state, incoming, lifetimes)?;
            let illegal = |fault| ProcessError::Illegal {
                fault: Fault::Commit(fault),
                signer: match &commit.sender {
                    Sender::Member(_) => signer_of(tree, state, &commit.sender),
                    _ => None,
                },
            };
            let mut next = judge_commit(state, &commit.facts).map_err(illegal)?;
            next.begin_epoch(entry.leaf());
            Ok(Followed::Commit(Box::new(commit), Box::new(next)))
        }
    }
}

impl Followed {
    /// Who made it, where it is a commit.
    pub(crate) fn committer(&self) -> Option<DeviceId> {
        match self {
            Self::Commit(commit, next) => judge::author(&commit.facts, next),
            Self::Signed(_) | Self::Proposal(..) => None,
        }
    }

    /// Takes in an entry that was judged here. Gives what of the state it has changed.
    ///
    /// # Errors
    /// [`ProcessError::Damaged`].
    pub(crate) fn take(
        self,
        tree: &mut PublicGroup,
        provider: &Provider,
        state: &mut GroupState,
        entry: &GroupEntry,
    ) -> Result<Changed, ProcessError> {
        let storage = provider.storage();
        match self {
            Self::Signed(effect) => {
                state.apply_entry(&effect);
                Ok(Changed::by(&effect.body))
            }
            Self::Proposal(facts, verdict, queued) => {
                if verdict == ProposalVerdict::Pending {
                    tree.add_proposal(storage, *queued)
                        .map_err(|_| ProcessError::Damaged)?;
                }
                state.apply_proposal(&facts, verdict, entry.leaf());
                Ok(Changed::Nothing)
            }
            Self::Commit(commit, next) => {
                let merged = contained(|| tree.merge_commit(storage, commit.staged).is_ok());
                if merged != Ok(true) {
                    return Err(ProcessError::Damaged);
                }
                *state = *next;
                Ok(Changed::Epoch)
            }
        }
    }
}

/// An entry that came back, taken in.
#[derive(Debug)]
#[non_exhaustive]
pub struct Retaken {
    /// Who made it.
    pub author: DeviceId,
    /// Devices that it adds by Welcome.
    pub added: Vec<DeviceId>,
    /// Devices that were members before it.
    pub removed: Vec<DeviceId>,
    /// What it was first sent with, where it is a commit and that came back too.
    pub beside: Option<Beside>,
}

/// What a commit was first sent with.
#[derive(Debug)]
pub struct Beside {
    /// Welcome for those added.
    pub welcome: Option<Vec<u8>>,
    /// The root wrap.
    pub wrap: RootWrap,
}

impl PublicGroupState {
    /// Takes in an entry that was ordered once and comes back: judged as members judge what is ordered. Its author need not be connected, and
    /// the clock says nothing. With the bundle in which it was first sent, that is judged too: all that it brings has to belong to the epoch.
    ///
    /// After a commit without its bundle, the GroupInfo is that of an epoch that is over, until it is replaced.
    ///
    /// # Errors
    /// What is wrong; nothing was taken in.
    pub fn take_returned(
        &mut self,
        entry: &GroupEntry,
        bundle: Option<&CommitBundle>,
    ) -> Result<Retaken, Refusal> {
        let judged = judge_followed(&self.tree, &self.provider, &self.state, entry);
        let judged = judged.map_err(refusal)?;
        let (author, added, removed) = match &judged {
            Followed::Signed(_) => match entry {
                GroupEntry::Signed(record) => (record.header.author.device, vec![], vec![]),
                _ => return Err(Refusal::Malformed),
            },
            Followed::Proposal(facts, ..) => (facts.device, vec![], vec![]),
            Followed::Commit(commit, next) => {
                let facts = &commit.facts;
                let author = judge::author(facts, next).ok_or(refuse(CommitFault::Mls))?;
                if let Some(bundle) = bundle {
                    self.check_size(bundle)?;
                    self.check_companions(bundle, commit, next, author)
                        .map_err(refuse)?;
                }
                let removed = judge::removed(&self.state, next);
                (author, judge::added(facts, next), removed)
            }
        };
        let begins = matches!(judged, Followed::Commit(..));
        let waits = matches!(judged, Followed::Proposal(_, ProposalVerdict::Pending, _));
        let seq = self.state.size();
        let Self {
            tree,
            provider,
            state,
            ..
        } = self;
        let changed = judged.take(tree, provider, state, entry).map_err(refusal)?;
        self.save(changed);
        if let GroupEntry::Proposal(message) = entry
            && waits
        {
            self.note_pending(seq, message.clone());
        }
        let bundle = bundle.filter(|_| begins);
        if let Some(bundle) = bundle {
            self.set_group_info(bundle.group_info.as_slice().to_vec());
        }
        Ok(Retaken {
            author,
            added,
            removed,
            beside: bundle.map(|bundle| Beside {
                welcome: bundle.welcome.clone().map(|welcome| welcome.into_vec()),
                wrap: bundle.wrap.clone(),
            }),
        })
    }
}

/// The answer to whoever brings something back that is not taken.
fn refusal(error: ProcessError) -> Refusal {
    match error {
        ProcessError::Illegal { fault, .. } => match fault {
            Fault::Commit(fault) => Refusal::BadCommit { fault },
            Fault::Entry(refusal) => refusal,
        },
        // The service's own: it is as good as before once the clock is set.
        _ => Refusal::Storage,
    }
}
