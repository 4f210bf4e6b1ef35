//! Judging a commit with all that it brings.

use std::collections::BTreeSet;

use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap};
use conclave_proto::limits::{COMMIT_TIME_SKEW_MS, GROWING_STATE_BYTES, MLS_MESSAGE_BYTES};
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, Refusal};
use conclave_proto::{DeviceId, Head, UnixMs};
use conclave_rules::{CommitFacts, Committer, GroupState, judge, judge_commit};
use openmls::framing::{ProcessedMessageContent, PublicMessageIn, Sender};
use openmls::group::{PublicGroup, StagedCommit};
use openmls::messages::ConfirmationTag;
use openmls_traits::OpenMlsProvider;

use super::{PublicGroupState, refuse};
use crate::error::{Fault, MlsError, ProcessError};
use crate::facts;
use crate::lifetimes::{self, ClockFault};
use crate::message::{self, ExpectedGroupInfo};
use crate::provider::Provider;
use crate::stored::Changed;

/// A commit found good, for the position after the head it was judged at.
#[derive(Debug)]
#[non_exhaustive]
pub struct JudgedCommit {
    /// The entry to append to the group log.
    pub entry: GroupEntry,
    /// Public state of the epoch that it begins, the entry appended.
    pub next: GroupState,
    /// Who made it.
    pub author: DeviceId,
    /// Devices added by Welcome.
    pub added: Vec<DeviceId>,
    /// Devices that are no members any more.
    pub removed: Vec<DeviceId>,
    /// Welcome for those added.
    pub welcome: Option<Vec<u8>>,
    /// The wrap that came with it.
    pub wrap: RootWrap,
    group_info: Vec<u8>,
    judged_at: Head,
    external: bool,
    staged: StagedCommit,
}

impl JudgedCommit {
    /// Whether it comes from outside: a device comes back.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.external
    }
}

impl PublicGroupState {
    /// Judges a commit that the device `connected` brings, at the service's time `now`.
    ///
    /// # Errors
    /// The answer to the device; [`Refusal::EpochTaken`] when another commit began the epoch.
    pub fn judge_bundle(
        &self,
        bundle: &CommitBundle,
        connected: DeviceId,
        now: UnixMs,
    ) -> Result<JudgedCommit, Refusal> {
        self.check_size(bundle)?;
        self.check_connected(connected)?;
        let commit = self.process(bundle.commit.as_slice())?;
        let facts = &commit.facts;
        check_clock(facts.data.time, self.state.last_time, now)?;
        let mut next = judge_commit(&self.state, facts).map_err(refuse)?;
        let author = judge::author(facts, &next).ok_or(refuse(CommitFault::Mls))?;
        if author != connected {
            return Err(Refusal::Forbidden {
                why: ForbiddenWhy::NotYours,
            });
        }
        let entry = GroupEntry::Commit(bundle.commit.clone());
        next.begin_epoch(entry.leaf());
        // A group that is too large can still shrink, and go on. What the epoch before had of the log is gone by now.
        if next.most_bytes() > GROWING_STATE_BYTES && judge::grows(&self.state, facts, &next) {
            return Err(refuse(CommitFault::Limit));
        }
        self.check_companions(bundle, &commit, &next, author)
            .map_err(refuse)?;
        Ok(JudgedCommit {
            entry,
            author,
            added: judge::added(facts, &next),
            removed: judge::removed(&self.state, &next),
            welcome: bundle.welcome.clone().map(|welcome| welcome.into_vec()),
            wrap: bundle.wrap.clone(),
            group_info: bundle.group_info.as_slice().to_vec(),
            judged_at: self.state.head(),
            external: facts.committer == Committer::External,
            staged: commit.staged,
            next,
        })
    }

    /// Begins the epoch of a judged commit.
    ///
    /// # Errors
    /// [`Refusal::Storage`] when the log has moved on since it was judged; nothing was changed.
    pub fn apply(&mut self, judged: JudgedCommit) -> Result<(), Refusal> {
        if judged.judged_at != self.state.head() {
            return Err(Refusal::Storage);
        }
        self.tree
            .merge_commit(self.provider.storage(), judged.staged)
            .map_err(|_| Refusal::Storage)?;
        self.state = judged.next;
        self.save(Changed::Epoch);
        self.set_group_info(judged.group_info);
        Ok(())
    }

    /// Checks what a bundle is of, and how much comes with the commit.
    pub(super) fn check_size(&self, bundle: &CommitBundle) -> Result<(), Refusal> {
        if bundle.group != self.state.group {
            return Err(Refusal::UnknownGroup);
        }
        let welcome = bundle.welcome.as_ref().map_or(0, |welcome| welcome.len());
        if bundle.group_info.len().max(welcome) > MLS_MESSAGE_BYTES {
            return Err(refuse(CommitFault::Limit));
        }
        Ok(())
    }

    /// Who is no member can only come back by an external commit, and not where it was removed.
    fn check_connected(&self, connected: DeviceId) -> Result<(), Refusal> {
        if self.state.is_tombstoned(&connected) {
            return Err(Refusal::Forbidden {
                why: ForbiddenWhy::Tombstoned,
            });
        }
        Ok(())
    }

    fn process(&self, bytes: &[u8]) -> Result<ProcessedCommit, Refusal> {
        let incoming = message::handshake(bytes).map_err(refuse)?;
        let lifetimes = lifetimes::check(bytes);
        let epoch = incoming.epoch().as_u64();
        if incoming.group_id().as_slice() == self.state.group.as_bytes() && epoch < self.state.epoch
        {
            return Err(Refusal::EpochTaken {
                current: self.state.epoch,
            });
        }
        process_public(&self.tree, &self.provider, &self.state, incoming, lifetimes).map_err(
            |rejected| match rejected {
                Rejected::Illegal { fault, .. } => refuse(fault),
                // The service's own: the commit is as good as before once it is set.
                Rejected::ClockWrong => Refusal::Storage,
            },
        )
    }

    pub(super) fn check_companions(
        &self,
        bundle: &CommitBundle,
        commit: &ProcessedCommit,
        next: &GroupState,
        author: DeviceId,
    ) -> Result<(), CommitFault> {
        let key = next
            .roster
            .current_row(&author)
            .map(|row| row.key.as_slice())
            .ok_or(CommitFault::Mls)?;
        let signer = match &commit.sender {
            Sender::Member(index) => *index,
            _ => self
                .tree
                .ext_commit_sender_index(&commit.staged)
                .map_err(|_| CommitFault::Mls)?,
        };
        ExpectedGroupInfo {
            context: commit.staged.group_context(),
            tag: &commit.tag,
            signer,
            key,
        }
        .check(bundle.group_info.as_slice())?;
        if bundle.wrap.signer != author {
            return Err(CommitFault::Wrap);
        }
        next.judge_wrap(&bundle.wrap)?;
        self.check_welcome(bundle, commit)
    }

    /// The Welcome has to answer exactly the key packages that the commit adds.
    fn check_welcome(
        &self,
        bundle: &CommitBundle,
        commit: &ProcessedCommit,
    ) -> Result<(), CommitFault> {
        let crypto = self.provider.crypto();
        let added: BTreeSet<Vec<u8>> = commit
            .staged
            .add_proposals()
            .map(|add| add.add_proposal().key_package().hash_ref(crypto))
            .map(|hash| hash.map(|hash| hash.as_slice().to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|_| CommitFault::Welcome)?;
        match (&bundle.welcome, added.is_empty()) {
            (None, true) => Ok(()),
            (Some(bytes), false) => {
                let welcome = message::welcome(bytes.as_slice())?;
                let answered: BTreeSet<Vec<u8>> = welcome
                    .secrets()
                    .iter()
                    .map(|secrets| secrets.new_member().as_slice().to_vec())
                    .collect();
                if answered == added && welcome.secrets().len() == added.len() {
                    Ok(())
                } else {
                    Err(CommitFault::Welcome)
                }
            }
            _ => Err(CommitFault::Welcome),
        }
    }
}

/// A commit that public processing accepts, with its facts.
pub(crate) struct ProcessedCommit {
    pub(crate) facts: CommitFacts,
    pub(crate) sender: Sender,
    tag: ConfirmationTag,
    pub(crate) staged: StagedCommit,
}

/// A commit that public processing refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// It breaks the rules.
    Illegal {
        fault: CommitFault,
        /// Who signed it, where its signature was verified before the fault was found.
        signer: Option<DeviceId>,
    },
    /// It obeys them, and this machine's clock is too wrong for OpenMLS to see it.
    ClockWrong,
}

impl From<CommitFault> for Rejected {
    fn from(fault: CommitFault) -> Self {
        Self::Illegal {
            fault,
            signer: None,
        }
    }
}

impl From<Rejected> for ProcessError {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Illegal { fault, signer } => Self::Illegal {
                fault: Fault::Commit(fault),
                signer,
            },
            Rejected::ClockWrong => Self::ClockWrong,
        }
    }
}

impl From<Rejected> for MlsError {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Illegal { fault, .. } => fault.into(),
            Rejected::ClockWrong => Self::ClockWrong,
        }
    }
}

/// Everything that can be checked of a commit without keys. Members call it too, to tell a commit that breaks the rules from one that only
/// they cannot follow. `lifetimes` is what [`lifetimes::check`] says of its bytes.
pub(crate) fn process_public(
    tree: &PublicGroup,
    provider: &Provider,
    state: &GroupState,
    incoming: PublicMessageIn,
    lifetimes: Result<(), CommitFault>,
) -> Result<ProcessedCommit, Rejected> {
    let claimed = signer_of(tree, state, incoming.sender());
    let tag = incoming
        .confirmation_tag()
        .cloned()
        .ok_or(CommitFault::Mls)?;
    let processed = message::contained(|| tree.process_message(provider.crypto(), incoming))
        .map_err(|_| CommitFault::Mls)?;
    // OpenMLS verifies the signature before it looks at any lifetime.
    let signed = match &processed {
        Ok(_) => true,
        Err(error) => error.is_of_clock(),
    };
    if let Err(fault) = lifetimes {
        let signer = claimed.filter(|_| signed);
        return Err(Rejected::Illegal { fault, signer });
    }
    let processed = match processed {
        Err(error) if error.is_of_clock() => return Err(Rejected::ClockWrong),
        processed => processed.map_err(|_| CommitFault::Mls)?,
    };
    let sender = processed.sender().clone();
    let authenticated_data = processed.aad().to_vec();
    let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
        return Err(CommitFault::Mls.into());
    };
    let facts =
        facts::extract(tree, state, &sender, &authenticated_data, &staged).map_err(|fault| {
            Rejected::Illegal {
                fault,
                signer: claimed,
            }
        })?;
    Ok(ProcessedCommit {
        facts,
        sender,
        tag,
        staged: *staged,
    })
}

/// The member behind a verified message.
pub(crate) fn signer_of(
    tree: &PublicGroup,
    state: &GroupState,
    sender: &Sender,
) -> Option<DeviceId> {
    match sender {
        Sender::Member(index) => facts::device_at(tree, state, *index).ok(),
        _ => None,
    }
}

/// The commit's time is near the service's clock, or exactly the previous commit's where the clock is behind that.
fn check_clock(time: UnixMs, previous: UnixMs, now: UnixMs) -> Result<(), Refusal> {
    let near = now.since_ms(time).max(time.since_ms(now)) <= COMMIT_TIME_SKEW_MS;
    let held = time == previous && now < previous;
    if near || held {
        Ok(())
    } else {
        Err(refuse(CommitFault::Time))
    }
}
