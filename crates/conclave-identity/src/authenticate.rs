//! The one door through which an identity enters (RFC 9420 §5.3.1).

use std::fmt;

use conclave_proto::policy::Anchor;
use conclave_proto::{DeviceId, Hash, RealmId, UnixMs, UserId};
use serde::{Deserialize, Serialize};

use crate::CREDENTIAL_TYPE;
use crate::error::AuthError;
use crate::received::ReceivedCredential;

/// A credential and the key that it is presented with, both from the same MLS leaf (or login).
#[derive(Clone)]
pub struct Presented<'a> {
    /// MLS credential type.
    pub credential_type: u16,
    /// Content of the credential.
    pub credential: ReceivedCredential,
    /// Signature scheme of `signature_key` (RFC 8446 §4.2.3).
    pub scheme: u16,
    /// The leaf's own signature key.
    pub signature_key: &'a [u8],
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented")
            .field("credential_type", &self.credential_type)
            .field("credential_bytes", &self.credential.as_slice().len())
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

/// Why an identity is needed: the events of RFC 9420 §5.3.1, and login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Occasion {
    /// A key package about to be added or stored.
    KeyPackage,
    /// A leaf of a tree that a GroupInfo or Welcome brings.
    Tree,
    /// An Add proposal.
    Add,
    /// An Update proposal. Needs the identity that it replaces.
    Update,
    /// The path of a commit. Give the identity that it replaces, unless an external commit brings a device without one.
    CommitPath,
    /// An entry of the external senders, added or changed. No device may be one.
    ExternalSender,
    /// A device logging in to the service.
    Login,
}

/// What the caller knows about who it should be. What is given has to match.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reference<'a> {
    /// The realm.
    pub realm: Option<RealmId>,
    /// The user.
    pub user: Option<UserId>,
    /// The device.
    pub device: Option<DeviceId>,
    /// Certificate authorities of the group, for X.509 credentials. Device credentials do not use them.
    pub anchors: &'a [Anchor],
}

/// How much is known about who a user is. Ordered: greater is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[repr(u8)]
// Gaps are for endorsed users and those that an authority certifies.
pub enum Assurance {
    /// The user's own key vouches for the device; nobody vouches for the user.
    SelfAsserted = 10,
    /// A contact taken as known without comparing anything: trust on first use.
    Pinned = 20,
    /// A contact whose safety number or QR code was compared.
    Verified = 50,
}

/// What an identity rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// A device certificate.
    #[non_exhaustive]
    DeviceCertificate {
        /// The realm.
        realm: RealmId,
        /// Hash of the user's genesis statement ([`crate::UserGenesis::hash`]).
        genesis: Hash,
        /// Sequence number of a device list that names the device key.
        list_seq: u64,
        /// When the certificate ends.
        not_after: UnixMs,
    },
}

/// Who holds a key. Only [`authenticate`] makes one.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// The user's public key.
    pub user_key: [u8; 32],
    /// What the credential shows by itself; pins come on top ([`crate::PinBook::judge`]).
    pub assurance: Assurance,
    /// What it rests on.
    pub evidence: Evidence,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("user", &self.user)
            .field("device", &self.device)
            .field("assurance", &self.assurance)
            .finish_non_exhaustive()
    }
}

/// Says who holds the key that is presented, or why that cannot be said. The one door: nothing else makes an [`Identity`].
///
/// `now` is the caller's clock for its own actions and at the service before ordering, and the commit's own time for an ordered commit,
/// so that all members judge alike. `previous` is what this function gave for the leaf that is replaced.
///
/// Checked, in this order: the credential's type and occasion; its one encoding; the user id against the genesis statement; the user
/// key's signature and the device key's countersignature; that the certified key is the presented one; validity at `now`; `reference`;
/// and against `previous` that user, device and user key stay and that assurance does not fall.
///
/// Not checked: whether the newest device list still names the device. That is not a function of the arguments.
///
/// # Errors
/// [`AuthError`] says which of these failed first.
pub fn authenticate(
    presented: &Presented<'_>,
    occasion: Occasion,
    reference: &Reference<'_>,
    now: UnixMs,
    previous: Option<&Identity>,
) -> Result<Identity, AuthError> {
    if presented.credential_type != CREDENTIAL_TYPE {
        return Err(AuthError::UnsupportedCredential {
            credential_type: presented.credential_type,
        });
    }
    match occasion {
        Occasion::ExternalSender => return Err(AuthError::NotExternalSender),
        Occasion::Update if previous.is_none() => return Err(AuthError::PreviousMissing),
        Occasion::KeyPackage
        | Occasion::Tree
        | Occasion::Add
        | Occasion::Update
        | Occasion::CommitPath
        | Occasion::Login => {}
    }
    let credential = presented.credential.verified()?;
    let certificate = &credential.certificate;
    if certificate.scheme != presented.scheme {
        return Err(AuthError::SchemeMismatch);
    }
    if certificate.device_key.as_slice() != presented.signature_key {
        return Err(AuthError::KeyMismatch);
    }
    certificate.check_time(now)?;
    let identity = Identity {
        user: certificate.user,
        device: certificate.device,
        user_key: credential.genesis.key,
        assurance: Assurance::SelfAsserted,
        evidence: Evidence::DeviceCertificate {
            realm: certificate.realm,
            genesis: credential.genesis.hash(),
            list_seq: certificate.list_seq,
            not_after: certificate.not_after,
        },
    };
    check_reference(&identity, certificate.realm, reference)?;
    if let Some(previous) = previous {
        check_successor(&identity, previous)?;
    }
    Ok(identity)
}

fn check_reference(
    identity: &Identity,
    realm: RealmId,
    reference: &Reference<'_>,
) -> Result<(), AuthError> {
    if reference.realm.is_some_and(|expected| expected != realm) {
        return Err(AuthError::WrongRealm);
    }
    if reference
        .user
        .is_some_and(|expected| expected != identity.user)
    {
        return Err(AuthError::WrongUser);
    }
    if reference
        .device
        .is_some_and(|expected| expected != identity.device)
    {
        return Err(AuthError::WrongDevice);
    }
    Ok(())
}

fn check_successor(identity: &Identity, previous: &Identity) -> Result<(), AuthError> {
    if identity.user != previous.user {
        return Err(AuthError::SuccessorUser);
    }
    if identity.device != previous.device {
        return Err(AuthError::SuccessorDevice);
    }
    if identity.user_key != previous.user_key {
        return Err(AuthError::SuccessorUserKey);
    }
    if identity.assurance < previous.assurance {
        return Err(AuthError::AssuranceFell);
    }
    Ok(())
}
