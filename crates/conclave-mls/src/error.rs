//! Errors of this crate. None of them holds a secret, a name or received bytes.

use conclave_identity::AuthError;
use conclave_proto::codec::DecodeError;
use conclave_proto::refusal::{CommitFault, Refusal};
use conclave_proto::{DeviceId, UnixMs};
use conclave_rules::BadRoster;

use crate::overlay::OverlayError;

/// Why something that this device does itself failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MlsError {
    /// Received or stored bytes are malformed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A credential does not authenticate.
    #[error(transparent)]
    Identity(#[from] AuthError),
    /// The roster does not add up.
    #[error(transparent)]
    Roster(#[from] BadRoster),
    /// The rules of the group forbid it.
    #[error("the rules of the group forbid this ({fault:?})")]
    Forbidden {
        /// Which rule.
        fault: CommitFault,
    },
    /// MLS refuses it.
    #[error("MLS refuses this: {what}")]
    Mls {
        /// Where it failed.
        what: &'static str,
    },
    /// The stored state of the group is damaged or incomplete.
    #[error("the stored state of the group is damaged")]
    Damaged,
    /// This device is no member (any more).
    #[error("this device is not a member of the group")]
    NotMember,
    /// A commit of this device waits for its place in the log.
    #[error("a commit of this device is still pending")]
    CommitPending,
    /// There is no pending commit.
    #[error("there is no pending commit")]
    NothingPending,
    /// This device is leaving; somebody else has to commit that first.
    #[error("this device is leaving the group")]
    Leaving,
    /// The plan names a device that is no member.
    #[error("the device to remove is not a member")]
    UnknownDevice {
        /// The device.
        device: DeviceId,
    },
    /// The commit's time would lie far ahead of this device's clock.
    #[error("the service's clock is far ahead of this device's")]
    ClockSkew {
        /// The time that the commit would carry.
        time: UnixMs,
    },
    /// The key package is past its shelf life, or its lifetime does not suit.
    #[error("the key package is too old or its lifetime does not suit")]
    KeyPackageLifetime,
    /// The key package lacks a capability that groups here need.
    #[error("the key package lacks a capability that groups here need")]
    Capabilities,
    /// The Welcome answers no key package of this device.
    #[error("the welcome answers no key package of this device")]
    NoKeyPackage,
    /// What came beside a Welcome or GroupInfo does not belong to it.
    #[error("what came with the invitation does not belong to it: {what}")]
    BadInvitation {
        /// What does not fit.
        what: &'static str,
    },
    /// The group's policy demands a later version of the protocol.
    #[error("the group needs protocol version {minimum}; update the program")]
    UpgradeNeeded {
        /// Least version that works.
        minimum: u16,
    },
    /// A root wrap does not open, or does not belong to the epoch.
    #[error("the root wrap does not open")]
    BadWrap,
    /// This machine's clock is so far off that OpenMLS takes the leaves of the group for invalid: set the clock, then try again.
    #[error("this device's clock is wrong")]
    ClockWrong,
    /// OpenMLS panicked on foreign bytes; the group is as before.
    #[error("processing foreign bytes failed unexpectedly")]
    Panicked,
}

impl MlsError {
    /// Stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Decode(error) => error.code(),
            Self::Identity(error) => error.code(),
            Self::Roster(_) => "mls.roster",
            Self::Forbidden { .. } => "mls.forbidden",
            Self::Mls { .. } => "mls.refused",
            Self::Damaged => "mls.damaged",
            Self::NotMember => "mls.not_member",
            Self::CommitPending => "mls.commit_pending",
            Self::NothingPending => "mls.nothing_pending",
            Self::Leaving => "mls.leaving",
            Self::UnknownDevice { .. } => "mls.unknown_device",
            Self::ClockSkew { .. } => "mls.clock_skew",
            Self::KeyPackageLifetime => "mls.key_package_lifetime",
            Self::Capabilities => "mls.capabilities",
            Self::NoKeyPackage => "mls.no_key_package",
            Self::BadInvitation { .. } => "mls.bad_invitation",
            Self::UpgradeNeeded { .. } => "mls.upgrade_needed",
            Self::BadWrap => "mls.bad_wrap",
            Self::ClockWrong => "mls.clock_wrong",
            Self::Panicked => "mls.panicked",
        }
    }

    /// Whether the same intent can succeed later, once the log has moved on.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::CommitPending | Self::ClockSkew { .. } | Self::ClockWrong
        )
    }
}

impl From<CommitFault> for MlsError {
    fn from(fault: CommitFault) -> Self {
        Self::Forbidden { fault }
    }
}

impl From<OverlayError> for MlsError {
    fn from(_: OverlayError) -> Self {
        Self::Damaged
    }
}

/// What is wrong with an ordered entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A commit or proposal breaks the rules.
    Commit(CommitFault),
    /// A signed entry breaks the rules: what the service should have answered.
    Entry(Refusal),
}

/// Why an ordered entry of the group log was not processed. The group is as before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The entry breaks the rules. Every honest member finds the same: freeze, keep the evidence, name the signer.
    #[error("an ordered entry breaks the rules ({fault:?})")]
    Illegal {
        /// What is wrong.
        fault: Fault,
        /// Who signed it, where a signature says so.
        signer: Option<DeviceId>,
    },
    /// The commit obeys the public rules, but this device cannot follow it: its author garbled it, or this device's state is behind a
    /// restored backup. Rejoin; the rejoin counts against the author.
    #[error("an ordered commit cannot be decrypted")]
    Undecryptable {
        /// Who signed it, where what is wrong with it was in their hands.
        author: Option<DeviceId>,
    },
    /// The commit takes this device's leaf out and adds the device again: a Welcome is on its way. The group is as before.
    #[error("this device was added again; its invitation is on its way")]
    ReAdded,
    /// This device's clock is outside of the validity of a leaf that the commit adds, which the rules allow: set the clock, then try again.
    #[error("this device's clock is wrong")]
    ClockWrong,
    /// The rejoin prepared on this state lost to another commit: prepare another.
    #[error("another commit came before the rejoin")]
    RejoinLost,
    /// This device was removed; the group takes no more entries.
    #[error("this device is not a member of the group")]
    NotMember,
    /// The stored state is damaged.
    #[error("the stored state of the group is damaged")]
    Damaged,
}

impl ProcessError {
    /// Stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Illegal { .. } => "mls.illegal_entry",
            Self::Undecryptable { .. } => "mls.undecryptable",
            Self::ReAdded => "mls.re_added",
            Self::ClockWrong => "mls.clock_wrong",
            Self::RejoinLost => "mls.rejoin_lost",
            Self::NotMember => "mls.not_member",
            Self::Damaged => "mls.damaged",
        }
    }

    /// Whether trying the same entry again can help, once the clock is set. Otherwise the next step is another.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::ClockWrong)
    }
}

impl From<CommitFault> for ProcessError {
    fn from(fault: CommitFault) -> Self {
        Self::Illegal {
            fault: Fault::Commit(fault),
            signer: None,
        }
    }
}

impl From<OverlayError> for ProcessError {
    fn from(_: OverlayError) -> Self {
        Self::Damaged
    }
}
