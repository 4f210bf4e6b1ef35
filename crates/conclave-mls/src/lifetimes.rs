//! Lifetimes of the leaves that a commit adds, read from its bytes before OpenMLS sees them: OpenMLS compares lifetimes with the machine's
//! clock, and the machine's clock decides nothing here.

use conclave_proto::UnixMs;
use conclave_proto::codec::Bytes;
use conclave_proto::refusal::CommitFault;
use conclave_rules::LeafLifetime;
use openmls::framing::{ContentType, Sender};
use openmls::group::{
    ProcessMessageError, ProposalValidationError, StageCommitError, ValidationError,
};
use openmls::key_packages::errors::KeyPackageVerifyError;
use openmls::messages::proposals_in::{ProposalIn, ProposalOrRefIn};
use openmls::prelude::{CreationFromExternalError, PublicProcessMessageError};
use openmls::treesync::errors::LeafNodeValidationError;
use tls_codec::{DeserializeBytes, Serialize, TlsDeserializeBytes, TlsSize};

use crate::facts;
use crate::message::contained;

/// Number of a leaf's source that carries a lifetime (RFC 9420 §7.2).
const KEY_PACKAGE_SOURCE: u8 = 1;

/// What an `MLSMessage` with a commit begins with (RFC 9420 §6, §12.4).
#[derive(TlsSize, TlsDeserializeBytes)]
pub(crate) struct CommitStart {
    _version: u16,
    _wire_format: u16,
    _group: Bytes,
    _epoch: u64,
    _sender: Sender,
    authenticated_data: Bytes,
    content_type: u8,
    proposals: Vec<ProposalOrRefIn>,
}

/// What a KeyPackage begins with, up to its leaf's source (RFC 9420 §7.2, §10).
#[derive(TlsSize, TlsDeserializeBytes)]
struct KeyPackageStart {
    _version: u16,
    _suite: u16,
    _init_key: Bytes,
    _encryption_key: Bytes,
    _signature_key: Bytes,
    _credential_type: u16,
    _credential: Bytes,
    _versions: Bytes,
    _suites: Bytes,
    _extensions: Bytes,
    _proposals: Bytes,
    _credentials: Bytes,
    source: u8,
    lifetime: LeafLifetime,
}

/// Reads the lifetime of a KeyPackage's leaf from its bytes. None where it has none.
pub(crate) fn of_key_package(bytes: &[u8]) -> Option<LeafLifetime> {
    let (start, _) = contained(|| KeyPackageStart::tls_deserialize_bytes(bytes).ok()).ok()??;
    (start.source == KEY_PACKAGE_SOURCE).then_some(start.lifetime)
}

/// Checks the lifetimes of all leaves that a commit adds against the commit's own time. What is no commit, or has no readable time, passes:
/// something else is wrong with it.
pub(crate) fn check(commit: &[u8]) -> Result<(), CommitFault> {
    let Some((time, adds)) = contained(|| added(commit)).ok().flatten() else {
        return Ok(());
    };
    let suit = |lifetime: &Option<LeafLifetime>| {
        lifetime.is_some_and(|lifetime| lifetime.suits_add_at(time))
    };
    if adds.iter().all(suit) {
        Ok(())
    } else {
        Err(CommitFault::Limit)
    }
}

impl CommitStart {
    /// Reads it. None where it is no commit.
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let (start, _) = Self::tls_deserialize_bytes(message).ok()?;
        (start.content_type == ContentType::Commit as u8).then_some(start)
    }

    /// The proposals that are in it whole.
    pub(crate) fn inline(&self) -> impl Iterator<Item = &ProposalIn> {
        let proposals = self.proposals.iter();
        proposals.filter_map(|proposal| match proposal {
            ProposalOrRefIn::Proposal(proposal) => Some(proposal.as_ref()),
            ProposalOrRefIn::Reference(_) => None,
        })
    }
}

fn added(commit: &[u8]) -> Option<(UnixMs, Vec<Option<LeafLifetime>>)> {
    let start = CommitStart::read(commit)?;
    let data = facts::read_data(start.authenticated_data.as_slice()).ok()?;
    let adds = start.inline().filter_map(|proposal| match proposal {
        // An Add is its KeyPackage and nothing else.
        ProposalIn::Add(add) => Some(add.tls_serialize_detached().ok()),
        _ => None,
    });
    let lifetimes = adds.map(|bytes| of_key_package(&bytes?));
    Some((data.time, lifetimes.collect()))
}

/// What OpenMLS says of a lifetime that [`check`] found good is the fault of this machine's clock.
pub(crate) trait ClockFault {
    /// Whether the machine's clock is all that stood against it.
    fn is_of_clock(&self) -> bool;
}

impl<E> ClockFault for ProcessMessageError<E> {
    fn is_of_clock(&self) -> bool {
        match self {
            Self::ValidationError(error) => error.is_of_clock(),
            Self::InvalidCommit(error) => error.is_of_clock(),
            _ => false,
        }
    }
}

impl ClockFault for PublicProcessMessageError {
    fn is_of_clock(&self) -> bool {
        match self {
            Self::ValidationError(error) => error.is_of_clock(),
            Self::InvalidCommit(error) => error.is_of_clock(),
            _ => false,
        }
    }
}

impl ClockFault for ValidationError {
    fn is_of_clock(&self) -> bool {
        matches!(self, Self::KeyPackageVerifyError(error) if error.is_of_clock())
    }
}

impl ClockFault for KeyPackageVerifyError {
    fn is_of_clock(&self) -> bool {
        matches!(self, Self::LifetimeError(_))
    }
}

impl ClockFault for StageCommitError {
    fn is_of_clock(&self) -> bool {
        matches!(
            self,
            Self::ProposalValidationError(ProposalValidationError::LeafNodeValidation(
                LeafNodeValidationError::Lifetime(_)
            ))
        )
    }
}

impl<E> ClockFault for CreationFromExternalError<E> {
    fn is_of_clock(&self) -> bool {
        matches!(
            self,
            Self::LeafNodeValidation(LeafNodeValidationError::Lifetime(_))
        )
    }
}

#[cfg(test)]
mod tests {
    use openmls::treesync::errors::LifetimeError;

    use super::*;

    const LATE: LifetimeError = LifetimeError::Expired {
        not_after: 1,
        now: 2,
    };

    #[test]
    fn a_wrong_clock_is_known_at_all_three_places() {
        let first: ProcessMessageError<()> =
            ValidationError::from(KeyPackageVerifyError::from(LATE)).into();
        assert!(first.is_of_clock());
        let leaf = LeafNodeValidationError::Lifetime(LATE);
        let second: ProcessMessageError<()> =
            StageCommitError::from(ProposalValidationError::from(leaf.clone())).into();
        assert!(second.is_of_clock());
        let third: CreationFromExternalError<()> = leaf.into();
        assert!(third.is_of_clock());
        let other: ProcessMessageError<()> = StageCommitError::EpochMismatch.into();
        assert!(!other.is_of_clock());
    }

    #[test]
    fn rubbish_is_left_to_others() {
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[0xff; 200]), Ok(()));
        assert_eq!(of_key_package(&[0; 40]), None);
    }
}
