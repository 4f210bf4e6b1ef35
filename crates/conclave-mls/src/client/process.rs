//! Processing the group log, one ordered entry after another.

use conclave_proto::codec::Bytes;
use conclave_proto::group::GroupEntry;
use conclave_proto::record::{EntryBody, Record};
use conclave_proto::refusal::CommitFault;
use conclave_proto::{Author, DeviceId, Hash};
use conclave_rules::{
    CommitFacts, Committer, GroupState, ProposalVerdict, judge, judge_commit, verify_signature,
};
use openmls::framing::{ProcessedMessage, ProcessedMessageContent, PublicMessageIn};
use openmls::group::{ProcessMessageError, StagedCommit, ValidationError};
use openmls_traits::OpenMlsProvider;

use super::ClientGroup;
use crate::error::{Fault, MlsError, ProcessError};
use crate::facts;
use crate::keys::{EXPORT_BYTES, EpochSecrets};
use crate::lifetimes::{self, ClockFault};
use crate::message::{self, contained};
use crate::public::{process_public, signer_of, verify_proposal};
use crate::stored::Changed;

/// What an ordered entry did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Processed {
    /// A commit: a new epoch.
    Commit(Box<CommitOutcome>),
    /// Somebody is leaving or to be removed; the next commit has to cover it.
    Proposal {
        /// The device that goes.
        device: DeviceId,
        /// Whether it is void, because nobody would own the group.
        void: bool,
    },
    /// A signed entry.
    Entry(EntryBody, Author),
    /// A proposal that concerns those inside, while this device is coming back.
    Passed,
}

/// What a commit did.
#[derive(Debug, Clone)]
pub struct CommitOutcome {
    /// Its leaf.
    pub leaf: Hash,
    /// Who made it.
    pub author: Option<DeviceId>,
    /// Whether this device made it.
    pub own: bool,
    /// Whether it renewed its author's leaf.
    pub path: bool,
    /// Whether it came from outside: a device came back. Such a commit shows nothing about who holds the secrets of the epoch before.
    pub external: bool,
    /// The epoch that it began.
    pub epoch: u64,
    /// Devices that are members now and were not, or were added anew.
    pub added: Vec<DeviceId>,
    /// Devices that were members and are no more.
    pub removed: Vec<DeviceId>,
    /// Whether the policy changed.
    pub policy_changed: bool,
    /// Secrets of the new epoch; none where this device was removed.
    pub secrets: Option<EpochSecrets>,
    /// Whether this device was removed.
    pub removed_self: bool,
}

impl From<MlsError> for ProcessError {
    fn from(_: MlsError) -> Self {
        Self::Damaged
    }
}

impl ClientGroup {
    /// Processes the entry at position `state().head().size` of the group log.
    ///
    /// # Errors
    /// [`ProcessError`]; the group is as before, and what to do next depends on which it is.
    pub fn process(&mut self, entry: &GroupEntry) -> Result<Processed, ProcessError> {
        if !self.mls.is_active() {
            return Err(ProcessError::NotMember);
        }
        let leaf = entry.leaf();
        match entry {
            GroupEntry::Signed(record) => self.process_signed(record),
            GroupEntry::Proposal(message) if self.rejoin.is_none() => {
                self.process_proposal(message, leaf)
            }
            GroupEntry::Proposal(_) => Ok(self.pass_proposal(leaf)),
            GroupEntry::Commit(message) if self.rejoin.is_none() => {
                self.process_commit(message, leaf)
            }
            GroupEntry::Commit(_) => self.finish_rejoin(leaf),
        }
    }

    fn process_signed(&mut self, record: &Record) -> Result<Processed, ProcessError> {
        let effect = self
            .state
            .judge_entry(record)
            .map_err(|refusal| ProcessError::Illegal {
                fault: Fault::Entry(refusal),
                signer: self.record_signer(record),
            })?;
        self.state.apply_entry(&effect);
        self.save_state(Changed::by(&effect.body));
        Ok(Processed::Entry(effect.body, effect.author))
    }

    /// The author that a record names, if the signature really is its.
    fn record_signer(&self, record: &Record) -> Option<DeviceId> {
        let device = record.header.author.device;
        let row = self.state.row(&device, record.header.epoch)?;
        verify_signature(
            row,
            conclave_proto::record::RECORD_LABEL,
            &record.core().0,
            &record.sealed.signature,
        )
        .ok()
        .map(|()| device)
    }

    fn process_proposal(&mut self, message: &Bytes, leaf: Hash) -> Result<Processed, ProcessError> {
        let (facts, queued) = verify_proposal(
            self.mls.public_group(),
            &self.provider,
            &self.state,
            message.as_slice(),
        )?;
        let verdict = self
            .state
            .judge_proposal(&facts)
            .map_err(|fault| ProcessError::Illegal {
                fault: Fault::Commit(fault),
                signer: Some(facts.device),
            })?;
        self.transact(|group| {
            if verdict == ProposalVerdict::Pending {
                group
                    .mls
                    .store_pending_proposal(group.provider.storage(), queued)
                    .map_err(MlsError::from)?;
            }
            group.state.apply_proposal(&facts, verdict, leaf);
            group.save_state(Changed::Nothing);
            Ok(Processed::Proposal {
                device: facts.device,
                void: verdict == ProposalVerdict::Void,
            })
        })
    }

    fn process_commit(&mut self, message: &Bytes, leaf: Hash) -> Result<Processed, ProcessError> {
        let incoming = message::handshake(message.as_slice())?;
        if incoming.epoch().as_u64() != self.state.epoch {
            return Err(CommitFault::Mls.into());
        }
        let copy = incoming.clone();
        if let Err(fault) = lifetimes::check(message.as_slice()) {
            return Err(self.explain(copy, Err(fault)));
        }
        let followed = self.transact(|group| group.follow(incoming, leaf));
        match followed {
            Ok(outcome) => Ok(Processed::Commit(Box::new(outcome))),
            Err(Stop::Definite(error)) => Err(error),
            Err(Stop::CannotFollow) => Err(self.explain(copy, Ok(()))),
            Err(Stop::NotTagged) => Err(match self.explain(copy, Ok(())) {
                // The membership tag is under no signature: whoever passed the commit on can have changed it.
                ProcessError::Undecryptable { .. } => ProcessError::Undecryptable { author: None },
                other => other,
            }),
        }
    }

    fn follow(&mut self, incoming: PublicMessageIn, leaf: Hash) -> Result<CommitOutcome, Stop> {
        let processed = contained(|| self.mls.process_message(&self.provider, incoming))
            .map_err(|_| Stop::CannotFollow)?
            .map_err(|error| Stop::of(&error))?;
        let own = matches!(
            processed.content(),
            ProcessedMessageContent::OwnPendingCommit
        );
        if own && self.pending.is_none_or(|pending| pending.leaf != leaf) {
            // OpenMLS compares confirmation tags only: what was ordered is another commit than the one that waits here.
            return Err(Stop::CannotFollow);
        }
        let (facts, next) = self.judge_processed(&processed)?;
        if !own && judge::author(&facts, &next) == Some(self.device) {
            // Another life of this device came back.
            let author = Some(self.device);
            return Err(Stop::Definite(ProcessError::Undecryptable { author }));
        }
        if facts.removes.contains(&self.device) && next.is_member(&self.device) && !own {
            return Err(Stop::Definite(ProcessError::ReAdded));
        }
        let staged = match processed.into_content() {
            ProcessedMessageContent::StagedCommitMessage(staged) => Some(staged),
            _ => None,
        };
        let secrets = {
            let commit = match &staged {
                Some(staged) => Some(staged.as_ref()),
                None => self.mls.pending_commit(),
            };
            commit.and_then(|commit| self.staged_secrets(commit, next.epoch))
        };
        let merged = contained(|| match staged {
            Some(staged) => self
                .mls
                .merge_staged_commit(&self.provider, *staged)
                .is_ok(),
            None => self.mls.merge_pending_commit(&self.provider).is_ok(),
        });
        if merged != Ok(true) {
            return Err(Stop::CannotFollow);
        }
        let removed_self = !self.mls.is_active();
        if secrets.is_none() && !removed_self {
            return Err(Stop::CannotFollow);
        }
        Ok(self.begin(&facts, next, leaf, secrets))
    }

    /// Facts and judgement of what OpenMLS has processed: somebody's commit, or the echo of the own pending one.
    fn judge_processed(
        &self,
        processed: &ProcessedMessage,
    ) -> Result<(CommitFacts, GroupState), Stop> {
        let tree = self.mls.public_group();
        let sender = processed.sender();
        let illegal = |fault| Stop::illegal(fault, signer_of(tree, &self.state, sender));
        let staged: &StagedCommit = match processed.content() {
            ProcessedMessageContent::StagedCommitMessage(staged) => staged,
            ProcessedMessageContent::OwnPendingCommit => {
                self.mls.pending_commit().ok_or(Stop::CannotFollow)?
            }
            _ => return Err(illegal(CommitFault::Mls)),
        };
        let facts =
            facts::extract(tree, &self.state, sender, processed.aad(), staged).map_err(illegal)?;
        let next = judge_commit(&self.state, &facts).map_err(illegal)?;
        Ok((facts, next))
    }

    fn staged_secrets(&self, commit: &StagedCommit, epoch: u64) -> Option<EpochSecrets> {
        let crypto = self.provider.crypto();
        EpochSecrets::export(epoch, |label| {
            commit.export_secret(crypto, label, &[], EXPORT_BYTES)
        })
        .ok()
        .flatten()
    }

    /// Enters the epoch of a judged commit. The MLS group is there already.
    pub(super) fn begin(
        &mut self,
        facts: &CommitFacts,
        mut next: GroupState,
        leaf: Hash,
        secrets: Option<EpochSecrets>,
    ) -> CommitOutcome {
        next.begin_epoch(leaf);
        let author = judge::author(facts, &next);
        let mut added = judge::added(facts, &next);
        added.extend(author.filter(|device| !self.state.is_member(device)));
        let outcome = CommitOutcome {
            leaf,
            author,
            own: author == Some(self.device),
            path: facts.path.is_some(),
            external: facts.committer == Committer::External,
            epoch: next.epoch,
            added,
            removed: judge::removed(&self.state, &next),
            policy_changed: next.policy != self.state.policy,
            secrets,
            removed_self: !self.mls.is_active(),
        };
        self.state = next;
        self.set_pending(None);
        self.save_state(Changed::Epoch);
        outcome
    }

    /// Why this device cannot follow a commit: it breaks the rules, as everybody can see; or only its secrets are out of reach.
    fn explain(
        &self,
        incoming: PublicMessageIn,
        lifetimes: Result<(), CommitFault>,
    ) -> ProcessError {
        let tree = self.mls.public_group();
        match process_public(tree, &self.provider, &self.state, incoming, lifetimes) {
            Err(rejected) => rejected.into(),
            Ok(commit) => match judge_commit(&self.state, &commit.facts) {
                Err(fault) => ProcessError::Illegal {
                    fault: Fault::Commit(fault),
                    signer: signer_of(tree, &self.state, &commit.sender),
                },
                // A commit from outside has no membership tag: its confirmation tag is under nobody's signature.
                Ok(next) => ProcessError::Undecryptable {
                    author: judge::author(&commit.facts, &next)
                        .filter(|_| commit.facts.committer != Committer::External),
                },
            },
        }
    }
}

/// Why a commit was not followed, before the reason is looked for.
enum Stop {
    Definite(ProcessError),
    CannotFollow,
    /// The membership tag is wrong.
    NotTagged,
}

impl Stop {
    /// OpenMLS looks at the clock for the lifetimes of added leaves only, and those were found good. Everything else is the commit's fault.
    fn of<E>(error: &ProcessMessageError<E>) -> Self {
        match error {
            error if error.is_of_clock() => Self::Definite(ProcessError::ClockWrong),
            ProcessMessageError::ValidationError(ValidationError::InvalidMembershipTag) => {
                Self::NotTagged
            }
            _ => Self::CannotFollow,
        }
    }

    fn illegal(fault: CommitFault, signer: Option<DeviceId>) -> Self {
        Self::Definite(ProcessError::Illegal {
            fault: Fault::Commit(fault),
            signer,
        })
    }
}

impl From<MlsError> for Stop {
    fn from(_: MlsError) -> Self {
        Self::Definite(ProcessError::Damaged)
    }
}
