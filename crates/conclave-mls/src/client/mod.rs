//! A member's group: MLS state, public state, and what is pending, as rows of one store.

mod commit;
mod create;
mod group_info;
mod invitation;
mod join;
mod process;
mod rejoin;
mod stored;

use conclave_proto::codec::{decode, encode};
use conclave_proto::group::RootWrap;
use conclave_proto::record::{
    EntryBody, RECORD_LABEL, RECORD_VERSION, RecordBody, RecordHeader, Sealed,
};
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, InstanceId, Record};
use conclave_rules::{
    CommitFacts, GROUP_STATE_BYTES, GroupState, ProposalFacts, ProposalKind, ProposalVerdict,
};
use openmls::group::{GroupId as MlsGroupId, MlsGroup};
use openmls_traits::OpenMlsProvider;
use rand_core::CryptoRngCore;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};
use zeroize::Zeroizing;

pub use commit::{CommitInputs, Plan, Prepared};
pub use create::Created;
pub use group_info::GroupInfoVerdict;
pub use join::Joined;
pub use process::{CommitOutcome, Processed};
pub use rejoin::RejoinOffer;
pub(crate) use rejoin::offered_group;

use crate::device::DeviceContext;
use crate::error::MlsError;
use crate::follower::Follower;
use crate::keys::{EXPORT_BYTES, EpochRoot, EpochSecrets};
use crate::message::contained;
use crate::overlay::{RowChange, Rows};
use crate::provider::Provider;
use crate::stored::Changed;
use crate::wrap;

const META_ROW: &[u8] = b"own/meta";
const PENDING_ROW: &[u8] = b"own/pending";
const REJOIN_ROW: &[u8] = b"own/rejoin";
const META_VERSION: u16 = 1;

#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct Meta {
    version: u16,
    group: GroupId,
    device: DeviceId,
}

/// An own commit that waits for its place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PendingCommit {
    /// Its leaf.
    pub leaf: Hash,
    /// The epoch that it begins if it is ordered.
    pub epoch_after: u64,
}

/// An external commit of this device: the MLS group is in its epoch already, the public state is not yet.
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct Rejoin {
    leaf: Hash,
    facts: CommitFacts,
}

/// One group, as one of its members sees it.
///
/// Every call that changes something changes it in memory; [`ClientGroup::take_changes`] hands over the rows to write, in one transaction.
/// A call that fails leaves the group as it was before the call.
pub struct ClientGroup {
    provider: Provider,
    mls: MlsGroup,
    state: GroupState,
    device: DeviceId,
    pending: Option<PendingCommit>,
    rejoin: Option<Box<Rejoin>>,
}

impl std::fmt::Debug for ClientGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientGroup")
            .field("group", &self.state.group)
            .field("epoch", &self.state.epoch)
            .field("head", &self.state.head())
            .field("device", &self.device)
            .field("pending", &self.pending.is_some())
            .finish_non_exhaustive()
    }
}

impl ClientGroup {
    /// Reads a group from its rows.
    ///
    /// # Errors
    /// [`MlsError::Damaged`] when rows are missing or contradict each other.
    pub fn load(rows: Rows) -> Result<Self, MlsError> {
        Self::read(Provider::new(rows))
    }

    fn read(provider: Provider) -> Result<Self, MlsError> {
        let overlay = provider.overlay();
        let row = |key: &[u8]| overlay.get_row(key).ok_or(MlsError::Damaged);
        let meta: Meta = decode("group row", &row(META_ROW)?, 256)?;
        let state = stored::read(overlay)?;
        let pending = match overlay.get_row(PENDING_ROW) {
            Some(bytes) => Some(decode("pending commit", &bytes, 256)?),
            None => None,
        };
        let rejoin: Option<Box<Rejoin>> = match overlay.get_row(REJOIN_ROW) {
            Some(bytes) => Some(Box::new(decode("rejoin", &bytes, GROUP_STATE_BYTES)?)),
            None => None,
        };
        let id = MlsGroupId::from_slice(meta.group.as_bytes());
        let mls = contained(|| MlsGroup::load(provider.storage(), &id))
            .map_err(|_| MlsError::Panicked)??
            .ok_or(MlsError::Damaged)?;
        let ahead = u64::from(rejoin.is_some());
        let fits = meta.version == META_VERSION
            && meta.group == state.group
            && mls.epoch().as_u64() == state.epoch.saturating_add(ahead)
            && mls.pending_commit().is_some() == pending.is_some();
        if !fits {
            return Err(MlsError::Damaged);
        }
        Ok(Self {
            provider,
            mls,
            state,
            device: meta.device,
            pending,
            rejoin,
        })
    }

    /// A new group: everything is written.
    fn start(
        provider: Provider,
        mls: MlsGroup,
        state: GroupState,
        device: DeviceId,
        rejoin: Option<Box<Rejoin>>,
    ) -> Self {
        let meta = Meta {
            version: META_VERSION,
            group: state.group,
            device,
        };
        let overlay = provider.overlay();
        overlay.put_row(META_ROW, Some(Zeroizing::new(encode(&meta))));
        if let Some(rejoin) = &rejoin {
            overlay.put_row(REJOIN_ROW, Some(Zeroizing::new(encode(rejoin.as_ref()))));
        }
        let group = Self {
            provider,
            mls,
            state,
            device,
            pending: None,
            rejoin,
        };
        group.save_state(Changed::All);
        group
    }

    fn set_pending(&mut self, pending: Option<PendingCommit>) {
        self.pending = pending;
        let row = pending.map(|pending| Zeroizing::new(encode(&pending)));
        self.provider.overlay().put_row(PENDING_ROW, row);
    }

    /// Runs a change. If it fails, everything is as before: rows are reverted, and the group is read from them again.
    fn transact<T, E: From<MlsError>>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.provider.overlay().begin();
        let done = change(self);
        match &done {
            Ok(_) => self.provider.overlay().keep(),
            Err(_) => {
                self.provider.overlay().revert();
                self.reload()?;
            }
        }
        done
    }

    fn reload(&mut self) -> Result<(), MlsError> {
        let fresh = Self::load(self.provider.overlay().rows())?;
        self.mls = fresh.mls;
        self.state = fresh.state;
        self.pending = fresh.pending;
        self.rejoin = fresh.rejoin;
        Ok(())
    }

    /// The changes since the last call, to be written in one transaction.
    pub fn take_changes(&mut self) -> Vec<RowChange> {
        self.provider.overlay().drain()
    }

    /// Follows the log from here on without secrets: for a member that cannot process the next entry.
    ///
    /// # Errors
    /// [`MlsError::Damaged`].
    pub fn follower(&self) -> Result<Follower, MlsError> {
        Follower::begin(self.provider.overlay().rows(), &self.state)
    }

    /// Every row: where the group takes the place of another, all of them are written.
    #[must_use]
    pub fn rows(&self) -> Rows {
        self.provider.overlay().rows()
    }

    /// Forgets the changes since the last [`ClientGroup::take_changes`].
    ///
    /// # Errors
    /// [`MlsError::Damaged`] when nothing was ever taken: such a group has nothing to return to.
    pub fn rollback(&mut self) -> Result<(), MlsError> {
        self.provider.overlay().rollback();
        self.reload()
    }

    /// The public state.
    #[must_use]
    pub fn state(&self) -> &GroupState {
        &self.state
    }

    /// The current epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// Whether this device is a member. Once removed it stays so: being added again makes a new group.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.mls.is_active() && self.rejoin.is_none()
    }

    /// This device.
    #[must_use]
    pub fn own_device(&self) -> DeviceId {
        self.device
    }

    /// Secrets of the current epoch.
    ///
    /// # Errors
    /// [`MlsError::NotMember`].
    pub fn epoch_secrets(&self) -> Result<EpochSecrets, MlsError> {
        if !self.is_active() {
            return Err(MlsError::NotMember);
        }
        self.export_secrets()
    }

    fn export_secrets(&self) -> Result<EpochSecrets, MlsError> {
        let crypto = self.provider.crypto();
        EpochSecrets::export(self.mls.epoch().as_u64(), |label| {
            self.mls.export_secret(crypto, label, &[], EXPORT_BYTES)
        })
        .ok()
        .flatten()
        .ok_or(MlsError::Mls {
            what: "exporting the epoch's secrets",
        })
    }

    /// The epoch authenticator (RFC 9420 §8.7), to compare out of band.
    #[must_use]
    pub fn epoch_authenticator(&self) -> Vec<u8> {
        self.mls.epoch_authenticator().as_slice().to_vec()
    }

    /// The own commit that waits for its place in the log.
    #[must_use]
    pub fn has_pending(&self) -> Option<PendingCommit> {
        self.pending
    }

    /// Whether this is a prepared rejoin: it becomes active when its commit is processed.
    #[must_use]
    pub fn is_rejoining(&self) -> bool {
        self.rejoin.is_some()
    }

    /// Forgets the pending commit, after the service has definitely refused this very commit. Never after a time-out: if the commit was
    /// ordered all the same, this device can never follow it.
    ///
    /// # Errors
    /// [`MlsError::NothingPending`].
    pub fn discard_pending(&mut self) -> Result<(), MlsError> {
        if self.pending.is_none() {
            return Err(MlsError::NothingPending);
        }
        self.transact(|group| {
            group.mls.clear_pending_commit(group.provider.storage())?;
            group.set_pending(None);
            Ok(())
        })
    }

    /// The message by which this device asks to leave. Nothing changes until it comes back in the log, and it has to be made anew in every
    /// epoch until a commit covers it.
    ///
    /// # Errors
    /// [`MlsError::CommitPending`]; [`MlsError::Forbidden`] for the last owner, or when it waits already.
    pub fn propose_self_remove(&mut self, device: &DeviceContext<'_>) -> Result<Vec<u8>, MlsError> {
        self.check_own(device)?;
        let facts = ProposalFacts {
            epoch: self.state.epoch,
            kind: ProposalKind::Leave,
            device: self.device,
        };
        if self.state.judge_proposal(&facts)? == ProposalVerdict::Void {
            return Err(conclave_proto::refusal::CommitFault::LastOwner.into());
        }
        self.provider.overlay().begin();
        let message = self
            .mls
            .leave_group_via_self_remove(&self.provider, &device.signer())
            .ok()
            .and_then(|message| message.to_bytes().ok());
        // OpenMLS has queued it as if it were ordered: undo that.
        self.provider.overlay().revert();
        self.reload()?;
        message.ok_or(MlsError::Mls {
            what: "proposing to leave",
        })
    }

    /// A signed entry for the group log, at its current head.
    #[must_use]
    pub fn sign_entry(
        &self,
        device: &DeviceContext<'_>,
        body: EntryBody,
        instance: InstanceId,
    ) -> Record {
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: self.state.group,
            document: DocumentId::ZERO,
            epoch: self.state.epoch,
            author: Author {
                device: self.device,
                instance,
            },
            seen: self.state.head(),
            body: RecordBody::Entry(body),
        };
        let core = Sealed::public([0; 64]).core(&header);
        let signature = device.key.sign(RECORD_LABEL, &core.0);
        Record {
            header,
            sealed: Sealed::public(signature),
        }
    }

    /// Opens a root wrap: see [`wrap::open_wrap`].
    ///
    /// # Errors
    /// [`MlsError::BadWrap`].
    pub fn open_wrap(
        secrets: &EpochSecrets,
        wrap: &RootWrap,
    ) -> Result<Vec<(u64, EpochRoot)>, MlsError> {
        wrap::open_wrap(secrets, wrap)
    }

    /// Seals older live roots for the current epoch.
    ///
    /// # Errors
    /// [`MlsError::BadWrap`] when `secrets` are not the current epoch's.
    pub fn seal_wrap(
        &self,
        device: &DeviceContext<'_>,
        secrets: &EpochSecrets,
        roots: &[(u64, EpochRoot)],
        rng: &mut dyn CryptoRngCore,
    ) -> Result<RootWrap, MlsError> {
        self.check_own(device)?;
        wrap::seal(&self.state, device, secrets, roots, rng)
    }

    /// The device has to be this group's own, with its current key, a member, and not waiting for a commit.
    fn check_own(&self, device: &DeviceContext<'_>) -> Result<(), MlsError> {
        let row = self.state.roster.current_row(&self.device);
        let own = row.is_some_and(|row| row.key.as_slice() == device.key.public());
        if !self.is_active() || device.device() != self.device || !own {
            return Err(MlsError::NotMember);
        }
        Ok(())
    }

    fn check_free(&self) -> Result<(), MlsError> {
        if self.pending.is_some() {
            return Err(MlsError::CommitPending);
        }
        Ok(())
    }
}
