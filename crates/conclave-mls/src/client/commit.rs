//! Committing: from a plan to a bundle that the service can judge.

use std::collections::BTreeMap;

use conclave_identity::Reference;
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::group::{COMMIT_DATA_VERSION, CommitBundle, CommitData, GroupEntry};
use conclave_proto::limits::OWN_CLOCK_SKEW_MS;
use conclave_proto::policy::GroupPolicy;
use conclave_proto::{CommitId, DeviceId, Hash, UnixMs};
use conclave_rules::{
    CommitFacts, Committer, Covered, GroupState, judge::next_state, judge_commit,
};
use openmls::extensions::Extensions;
use openmls::framing::Sender;
use openmls::group::{CommitMessageBundle, GroupContext};
use openmls::prelude::{LeafNodeIndex, LeafNodeParameters, MlsMessageOut};
use openmls_traits::OpenMlsProvider;
use rand_core::CryptoRngCore;

use super::{ClientGroup, PendingCommit};
use crate::device::DeviceContext;
use crate::error::MlsError;
use crate::facts;
use crate::keys::{EXPORT_BYTES, EpochRoot, EpochSecrets};
use crate::keystore::{CheckedKeyPackage, check_key_package};
use crate::message::contained;
use crate::profile;
use crate::wrap;

const BUILDING: MlsError = MlsError::Mls {
    what: "building a commit",
};

/// What a commit is to do. Pending leaves and removals are covered in any case; an empty plan renews this device's leaf.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Key packages (`MLSMessage`) of devices to add.
    pub add: Vec<Vec<u8>>,
    /// Devices to remove.
    pub remove: Vec<DeviceId>,
    /// New policy.
    pub policy: Option<GroupPolicy>,
    /// Whether to renew this device's leaf in any case. Its credential is renewed too where the device has a newer one.
    pub self_update: bool,
}

/// What a commit needs besides its plan.
#[derive(Debug, Clone, Copy)]
pub struct CommitInputs<'a> {
    /// This device's clock. Where it is more than a day behind the commit's time, the commit is refused; a caller whose user has confirmed
    /// the service's clock passes that.
    pub now: UnixMs,
    /// The service's clock.
    pub service_time: UnixMs,
    /// Drawn by the caller.
    pub id: CommitId,
    /// Older roots that are still needed, for joiners.
    pub live_roots: &'a [(u64, EpochRoot)],
}

/// A commit ready to send.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What to send.
    pub bundle: CommitBundle,
    /// Leaf of the commit.
    pub leaf: Hash,
    /// The epoch that it begins.
    pub epoch: u64,
    /// Secrets of that epoch: kept under the leaf, erased if the commit loses.
    pub secrets: EpochSecrets,
}

impl CommitInputs<'_> {
    /// The time that a commit carries: never before the previous one's.
    pub(super) fn commit_time(&self, previous: &GroupState) -> Result<UnixMs, MlsError> {
        let time = previous.last_time.max(self.service_time);
        if time.since_ms(self.now) > OWN_CLOCK_SKEW_MS {
            return Err(MlsError::ClockSkew { time });
        }
        Ok(time)
    }

    /// By when what is added has to be fresh: of all that is known of the present, the latest. A clock that is behind revives nothing.
    fn latest(&self, previous: &GroupState) -> UnixMs {
        self.now.max(self.service_time).max(previous.last_time)
    }

    pub(super) fn data(&self, previous: &GroupState) -> Result<CommitData, MlsError> {
        Ok(CommitData {
            version: COMMIT_DATA_VERSION,
            time: self.commit_time(previous)?,
            seen: previous.head(),
            roster: Hash::ZERO,
            checkpoint: None,
            id: self.id,
        })
    }
}

/// A plan resolved against the group.
struct Resolved {
    facts: CommitFacts,
    /// State of the epoch to begin.
    next: GroupState,
    packages: Vec<CheckedKeyPackage>,
    removals: Vec<LeafNodeIndex>,
    extensions: Option<Extensions<GroupContext>>,
    /// Set where the path brings a newer credential.
    leaf: LeafNodeParameters,
    force_path: bool,
}

impl ClientGroup {
    /// Builds a commit, which then waits: nothing else can be committed until it comes back in the log, loses to another, or is discarded
    /// after a definite refusal.
    ///
    /// The roster hash in its authenticated data comes from the judgement that the service and all members will pass on it; the finished
    /// commit is judged the same way before it leaves.
    ///
    /// # Errors
    /// [`MlsError`]; then nothing is pending.
    pub fn commit(
        &mut self,
        device: &DeviceContext<'_>,
        plan: &Plan,
        inputs: CommitInputs<'_>,
        rng: &mut dyn CryptoRngCore,
    ) -> Result<Prepared, MlsError> {
        self.check_own(device)?;
        self.check_free()?;
        if self
            .state
            .pending
            .iter()
            .any(|known| known.device == self.device)
        {
            return Err(MlsError::Leaving);
        }
        let resolved = self.resolve(device, plan, &inputs)?;
        let prepared =
            self.transact(|group| group.build(device, resolved, inputs.live_roots, rng))?;
        if crate::broken("merge-early") {
            // Breakage: the epoch begins here before the service has ordered the commit.
            let _ = self.process(&GroupEntry::Commit(prepared.bundle.commit.clone()));
        }
        Ok(prepared)
    }

    fn resolve(
        &self,
        device: &DeviceContext<'_>,
        plan: &Plan,
        inputs: &CommitInputs<'_>,
    ) -> Result<Resolved, MlsError> {
        let data = inputs.data(&self.state)?;
        let latest = inputs.latest(&self.state);
        let packages = plan
            .add
            .iter()
            .map(|bytes| check_key_package(bytes, &Reference::default(), latest))
            .collect::<Result<Vec<_>, _>>()?;
        let covered: Vec<Covered> = self
            .state
            .pending
            .iter()
            .map(|known| Covered {
                device: known.device,
                kind: known.kind,
            })
            .collect();
        let removes = self.removes(plan)?;
        let removals = self.leaves_of(&removes)?;
        let policy = plan.policy.clone().filter(|new| *new != self.state.policy);
        let force_path = plan.self_update || (packages.is_empty() && policy.is_none());
        let path = force_path || !removes.is_empty() || !covered.is_empty() || policy.is_some();
        let mut facts = CommitFacts {
            epoch: self.state.epoch,
            committer: Committer::Member(self.device),
            path: path.then(|| device.leaf_facts()),
            adds: packages
                .iter()
                .map(|checked| facts::leaf(checked.package.leaf_node()))
                .collect(),
            removes,
            covered,
            policy,
            data,
        };
        let next = next_state(&self.state, &facts)?;
        facts.data.roster = next.roster_hash();
        let extensions = match &facts.policy {
            Some(policy) => Some(profile::context_extensions(policy)?),
            None => None,
        };
        Ok(Resolved {
            leaf: self.leaf_parameters(device, path),
            facts,
            next,
            packages,
            removals,
            extensions,
            force_path,
        })
    }

    /// Devices to remove by this commit's own proposals: those that a pending proposal takes out anyway are left to it.
    fn removes(&self, plan: &Plan) -> Result<Vec<DeviceId>, MlsError> {
        let mut removes = Vec::new();
        for device in &plan.remove {
            if !self.state.is_member(device) {
                return Err(MlsError::UnknownDevice { device: *device });
            }
            let pending = self
                .state
                .pending
                .iter()
                .any(|known| known.device == *device);
            if !pending && !removes.contains(device) {
                removes.push(*device);
            }
        }
        Ok(removes)
    }

    fn leaves_of(&self, devices: &[DeviceId]) -> Result<Vec<LeafNodeIndex>, MlsError> {
        let leaves: BTreeMap<Vec<u8>, LeafNodeIndex> = self
            .mls
            .members()
            .map(|member| (member.signature_key, member.index))
            .collect();
        devices
            .iter()
            .map(|device| {
                let row = self.state.roster.current_row(device)?;
                leaves.get(row.key.as_slice()).copied()
            })
            .collect::<Option<_>>()
            .ok_or(MlsError::Damaged)
    }

    fn leaf_parameters(&self, device: &DeviceContext<'_>, path: bool) -> LeafNodeParameters {
        let current = self.state.roster.current_row(&self.device);
        let renewed =
            current.is_some_and(|row| row.credential.as_slice() != device.credential.to_bytes());
        if path && renewed {
            LeafNodeParameters::builder()
                .with_credential_with_key(device.credential_with_key())
                .build()
        } else {
            LeafNodeParameters::default()
        }
    }

    fn build(
        &mut self,
        device: &DeviceContext<'_>,
        resolved: Resolved,
        live_roots: &[(u64, EpochRoot)],
        rng: &mut dyn CryptoRngCore,
    ) -> Result<Prepared, MlsError> {
        self.mls.set_aad(encode(&resolved.facts.data));
        let made = contained(|| self.stage(device, &resolved))
            .map_err(|_| MlsError::Panicked)?
            .ok_or(BUILDING)?;
        let commit = made.commit().to_bytes().map_err(|_| BUILDING)?;
        let leaf = GroupEntry::Commit(commit.as_slice().into()).leaf();
        let mut next = self.judge_own(&resolved)?;
        let secrets = self.pending_secrets(next.epoch)?;
        next.begin_epoch(leaf);
        let wrap = wrap::seal(&next, device, &secrets, live_roots, rng)?;
        self.set_pending(Some(PendingCommit {
            leaf,
            epoch_after: next.epoch,
        }));
        Ok(Prepared {
            bundle: CommitBundle {
                group: self.state.group,
                commit: commit.into(),
                welcome: encode_welcome(&made)?,
                group_info: encode_group_info(&made)?,
                wrap,
            },
            leaf,
            epoch: next.epoch,
            secrets,
        })
    }

    fn stage(
        &mut self,
        device: &DeviceContext<'_>,
        resolved: &Resolved,
    ) -> Option<CommitMessageBundle> {
        let packages = resolved
            .packages
            .iter()
            .map(|checked| checked.package.clone());
        let mut builder = self
            .mls
            .commit_builder()
            .consume_proposal_store(true)
            .force_self_update(resolved.force_path)
            .leaf_node_parameters(resolved.leaf.clone())
            .propose_adds(packages)
            .propose_removals(resolved.removals.iter().copied());
        if let Some(extensions) = resolved.extensions.clone() {
            builder = builder.propose_group_context_extensions(extensions).ok()?;
        }
        builder
            .load_psks(self.provider.storage())
            .ok()?
            .create_group_info(true)
            .build(
                self.provider.rand(),
                self.provider.crypto(),
                &device.signer(),
                |_| true,
            )
            .ok()?
            .stage_commit(&self.provider)
            .ok()
    }

    /// Judges the finished commit as everybody will. It has to lead where the plan led.
    fn judge_own(&self, resolved: &Resolved) -> Result<GroupState, MlsError> {
        let staged = self.mls.pending_commit().ok_or(BUILDING)?;
        let found = facts::extract(
            self.mls.public_group(),
            &self.state,
            &Sender::Member(self.mls.own_leaf_index()),
            &encode(&resolved.facts.data),
            staged,
        )?;
        let next = judge_commit(&self.state, &found)?;
        if next == resolved.next {
            Ok(next)
        } else {
            Err(BUILDING)
        }
    }

    fn pending_secrets(&self, epoch: u64) -> Result<EpochSecrets, MlsError> {
        let staged = self.mls.pending_commit().ok_or(BUILDING)?;
        let crypto = self.provider.crypto();
        EpochSecrets::export(epoch, |label| {
            staged.export_secret(crypto, label, &[], EXPORT_BYTES)
        })
        .ok()
        .flatten()
        .ok_or(BUILDING)
    }
}

pub(super) fn encode_welcome(made: &CommitMessageBundle) -> Result<Option<Bytes>, MlsError> {
    made.to_welcome_msg()
        .map(|welcome| welcome.to_bytes().map(Bytes::from))
        .transpose()
        .map_err(|_| BUILDING)
}

pub(super) fn encode_group_info(made: &CommitMessageBundle) -> Result<Bytes, MlsError> {
    let info = made.group_info().ok_or(BUILDING)?.clone();
    MlsMessageOut::from(info)
        .to_bytes()
        .map(Bytes::from)
        .map_err(|_| BUILDING)
}
