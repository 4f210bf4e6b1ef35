//! The public state of a group: a pure function of its log, computed alike by the service and every member.

mod codec;
mod entries;
mod proposals;
mod rows;
#[cfg(test)]
mod tests;
mod voids;

use std::ops::Deref;
use std::sync::Arc;

use conclave_proto::group::RootWrap;
use conclave_proto::policy::{GroupPolicy, JoinerAccess, PROTOCOL_VERSION, Role};
use conclave_proto::record::CloseReason;
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, Refusal};
use conclave_proto::{DeviceId, DocumentId, Frontier, GroupId, Hash, Head, UnixMs, UserId, limits};
use rpds::{RedBlackTreeMapSync, VectorSync};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

pub use codec::{GROUP_STATE_BYTES, GROUP_STATE_VERSION, StateParts};
pub use entries::EntryEffect;
pub use proposals::{ProposalFacts, ProposalVerdict};
pub use rows::StateRows;
pub use voids::{Void, Voids};

use crate::roster::{Roster, RosterRow, verify_signature};

/// Kind of a standalone proposal.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
#[repr(u8)]
pub enum ProposalKind {
    /// SelfRemove: the device leaves.
    Leave = 1,
    /// Remove, proposed by the service.
    Remove = 2,
}

/// A standalone proposal that the next commit has to cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PendingProposal {
    /// Position in the group log.
    pub seq: u64,
    /// Its leaf.
    pub leaf: Hash,
    /// Its kind.
    pub kind: ProposalKind,
    /// The device that goes.
    pub device: DeviceId,
}

/// A document of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DocumentEntry {
    /// Code of its CRDT kind.
    pub crdt: u8,
    /// Epoch of the entry that created it.
    pub created_epoch: u64,
    /// Why it was closed, if it was.
    pub closed: Option<CloseReason>,
}

/// What holds from one commit to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochState {
    /// The group.
    pub group: GroupId,
    /// Current MLS epoch.
    pub epoch: u64,
    /// Policy in force.
    pub policy: GroupPolicy,
    /// Who was and is a member.
    pub roster: Roster,
    /// Time of the newest commit.
    pub last_time: UnixMs,
    /// Size of the log right after the commit that began this epoch.
    pub epoch_start: u64,
    /// Leaf of the commit that began this epoch; zero in epoch 0.
    pub begun_by: Hash,
}

/// Public state of a group, in parts that its copies share: a copy costs the same whatever the group holds, and an entry makes anew only what
/// it changes.
///
/// Change it only through `apply_*`, after the matching `judge_*` said yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    /// What holds from one commit to the next.
    pub of_epoch: Arc<EpochState>,
    /// Proposals that the next commit has to cover, in log order.
    pub pending: VectorSync<PendingProposal>,
    /// All documents ever created.
    pub documents: RedBlackTreeMapSync<DocumentId, DocumentEntry>,
    /// How many of them are not closed. Follows from `documents`.
    pub open_documents: usize,
    /// Records declared void, in log order.
    pub voided: Voids,
    /// Epoch that began with the newest removal whose rotation is not reported complete; 0 when none.
    pub rotating_since: u64,
    /// Right edge of the group log.
    pub frontier: Frontier,
    /// Roots of the log for the sizes `epoch_start ..= frontier.size()`.
    pub epoch_log_roots: VectorSync<Hash>,
}

/// What holds for the epoch is read as if it lay in the state itself.
impl Deref for GroupState {
    type Target = EpochState;

    fn deref(&self) -> &EpochState {
        &self.of_epoch
    }
}

impl GroupState {
    /// State of a group in epoch 0, with its creator.
    #[must_use]
    pub fn genesis(group: GroupId, policy: GroupPolicy, creator: RosterRow) -> Self {
        let frontier = Frontier::new();
        let of_epoch = EpochState {
            group,
            epoch: 0,
            policy,
            last_time: creator.time,
            roster: Roster::genesis(vec![creator]),
            epoch_start: 0,
            begun_by: Hash::ZERO,
        };
        Self {
            of_epoch: Arc::new(of_epoch),
            pending: VectorSync::new_sync(),
            documents: RedBlackTreeMapSync::new_sync(),
            open_documents: 0,
            voided: Voids::default(),
            rotating_since: 0,
            epoch_log_roots: VectorSync::new_sync().push_back(frontier.root()),
            frontier,
        }
    }

    /// The state that a commit leads to, without its log leaf.
    pub(crate) fn after(&self, of_epoch: EpochState, rotating_since: u64) -> Self {
        Self {
            of_epoch: Arc::new(of_epoch),
            pending: VectorSync::new_sync(),
            rotating_since,
            ..self.clone()
        }
    }

    /// How many entries the group log has. Hashes nothing, as [`GroupState::head`] does for the root.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Head of the group log.
    #[must_use]
    pub fn head(&self) -> Head {
        Head {
            size: self.frontier.size(),
            root: self.frontier.root(),
        }
    }

    /// Root of the log's first `size` entries, for sizes since the epoch began.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Hash> {
        let at = usize::try_from(size.checked_sub(self.epoch_start)?).ok()?;
        self.epoch_log_roots.get(at).copied()
    }

    /// Whether `head` is a true prefix of the log, not older than the commit that began the epoch.
    #[must_use]
    pub fn has_prefix(&self, head: &Head) -> bool {
        self.root_at(head.size) == Some(head.root)
    }

    /// The device's row in `epoch`.
    #[must_use]
    pub fn row(&self, device: &DeviceId, epoch: u64) -> Option<&RosterRow> {
        self.roster.row(device, epoch)
    }

    /// The members' rows.
    pub fn current_rows(&self) -> impl Iterator<Item = &RosterRow> {
        self.roster.current()
    }

    /// Role of a member's device now.
    #[must_use]
    pub fn role_of(&self, device: &DeviceId) -> Option<Role> {
        self.roster.current_row(device).map(|row| row.role)
    }

    /// Role of a user now; none where no device of the user is a member.
    #[must_use]
    pub fn role_of_user(&self, user: &UserId) -> Option<Role> {
        self.current_rows()
            .find(|row| row.user == *user)
            .map(|row| row.role)
    }

    /// Whether the device is a member now.
    #[must_use]
    pub fn is_member(&self, device: &DeviceId) -> bool {
        self.roster.current_row(device).is_some()
    }

    /// Whether the device was removed and not added since.
    #[must_use]
    pub fn is_tombstoned(&self, device: &DeviceId) -> bool {
        self.roster.tombstones().contains(device)
    }

    /// The refusal for a device that is not, or no longer, a member.
    #[must_use]
    pub fn not_member(&self, device: &DeviceId) -> Refusal {
        let why = if self.is_tombstoned(device) {
            ForbiddenWhy::Tombstoned
        } else {
            ForbiddenWhy::NotMember
        };
        Refusal::Forbidden { why }
    }

    /// Hash of the roster.
    #[must_use]
    pub fn roster_hash(&self) -> Hash {
        self.roster.hash()
    }

    /// The member with this signature key.
    #[must_use]
    pub fn row_by_key(&self, key: &[u8]) -> Option<&RosterRow> {
        self.roster.current_by_key(key)
    }

    /// The version that the group's policy demands, where it is a later one than this program's: nothing of the group is judged any more.
    #[must_use]
    pub fn later_version(&self) -> Option<u16> {
        let demanded = self.policy.min_protocol_version;
        (demanded > PROTOCOL_VERSION).then_some(demanded)
    }

    /// Id of the group's directory.
    #[must_use]
    pub fn directory(&self) -> DocumentId {
        DocumentId::directory(&self.group)
    }

    /// Whether the directory is listed. Nobody can close it.
    #[must_use]
    pub fn has_directory(&self) -> bool {
        self.documents.contains_key(&self.directory())
    }

    /// Bytes that the encoded state has at most. Costs the same whatever the group holds.
    #[must_use]
    pub fn most_bytes(&self) -> usize {
        /// Core without its lists and the policy, and all length prefixes.
        const FIXED_BYTES: usize = 4096;
        const PENDING_BYTES: usize = 57;
        const DOCUMENT_BYTES: usize = DocumentId::LEN + 11;
        const VOIDED_BYTES: usize = DocumentId::LEN + Hash::LEN + UserId::LEN;
        [
            tls_codec::Size::tls_serialized_len(&self.policy),
            self.roster.bytes(),
            self.pending.len().saturating_mul(PENDING_BYTES),
            self.epoch_log_roots.len().saturating_mul(Hash::LEN),
            self.documents.size().saturating_mul(DOCUMENT_BYTES),
            self.voided.len().saturating_mul(VOIDED_BYTES),
        ]
        .iter()
        .fold(FIXED_BYTES, |sum, part| sum.saturating_add(*part))
    }

    /// The same without documents and voided records.
    #[must_use]
    pub fn without_documents(&self) -> Self {
        Self {
            documents: RedBlackTreeMapSync::new_sync(),
            open_documents: 0,
            voided: Voids::default(),
            ..self.clone()
        }
    }

    /// Whether every member's device belongs to this user.
    #[must_use]
    pub fn is_alone(&self, user: &UserId) -> bool {
        self.current_rows().all(|row| row.user == *user)
    }

    /// Judges a root wrap for the current epoch: what it states, who signed it, and that it is sealed only where joiners may read.
    ///
    /// # Errors
    /// [`CommitFault::Wrap`].
    pub fn judge_wrap(&self, wrap: &RootWrap) -> Result<(), CommitFault> {
        let statement = &wrap.statement;
        let row = self
            .roster
            .current_row(&wrap.signer)
            .ok_or(CommitFault::Wrap)?;
        let sealed_bytes = statement.ciphertext.len();
        let nothing_sealed_needed = self.policy.joiner_access == JoinerAccess::FromJoin;
        if statement.group != self.group
            || statement.epoch != self.epoch
            || statement.commit != self.begun_by
            || statement.roster != self.roster_hash()
            || sealed_bytes > limits::WRAP_BYTES
            || (nothing_sealed_needed && sealed_bytes > 0)
        {
            return Err(CommitFault::Wrap);
        }
        verify_signature(
            row,
            conclave_proto::group::WRAP_LABEL,
            &statement.signed_bytes(),
            &wrap.signature,
        )
        .map_err(|_| CommitFault::Wrap)
    }

    /// Appends the leaf of an entry that does not begin an epoch.
    pub fn push_leaf(&mut self, leaf: Hash) {
        self.frontier.push(leaf);
        self.epoch_log_roots.push_back_mut(self.frontier.root());
    }

    /// Appends the leaf of the commit whose judgement gave this state ([`crate::judge_commit`]): the epoch begins here.
    pub fn begin_epoch(&mut self, leaf: Hash) {
        self.frontier.push(leaf);
        self.epoch_log_roots = VectorSync::new_sync().push_back(self.frontier.root());
        let of_epoch = Arc::make_mut(&mut self.of_epoch);
        of_epoch.epoch_start = self.frontier.size();
        of_epoch.begun_by = leaf;
    }
}
