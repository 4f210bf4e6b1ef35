//! Facts of a commit: what the judgement looks at. They are taken alike from MLS at the client and at the service.

use conclave_identity::ReceivedCredential;
use conclave_proto::codec::Bytes;
use conclave_proto::group::CommitData;
use conclave_proto::policy::GroupPolicy;
use conclave_proto::{DeviceId, UnixMs, limits};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::state::ProposalKind;

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
    pub credential: ReceivedCredential,
    /// Signature scheme of the key.
    pub scheme: u16,
    /// The leaf's own signature key.
    pub key: Bytes,
    /// 1 when the leaf has every capability that groups here need.
    pub capable: u8,
    /// Lifetime, for leaves from key packages.
    pub lifetime: Option<LeafLifetime>,
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

/// Bounds of a leaf's lifetime in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LeafLifetime {
    /// First second of validity.
    pub not_before_s: u64,
    /// Second at which validity has ended.
    pub not_after_s: u64,
}

impl LeafLifetime {
    /// When its maker's clock said that the leaf was made, to the second. None where the lifetime is not of the neutral form, the only one
    /// that there is: from the beginning of time to a hundred years after the making.
    #[must_use]
    pub fn made(&self) -> Option<UnixMs> {
        let made_s = self
            .not_after_s
            .checked_sub(limits::KEY_PACKAGE_VALIDITY_S)?;
        (self.not_before_s == 0).then(|| UnixMs(made_s.saturating_mul(1000)))
    }

    /// Whether a commit of this time may add the leaf. No clock is asked.
    #[must_use]
    pub fn suits_add_at(&self, time: UnixMs) -> bool {
        self.made().is_some_and(|made| {
            time.since_ms(made) <= limits::LEAF_MADE_BEFORE_MS
                && made.since_ms(time) <= limits::LEAF_MADE_AFTER_MS
        })
    }
}
