//! Every reason to say no. None of them quotes what was received.

use conclave_proto::Hash;
use conclave_proto::codec::DecodeError;

/// Why a statement or credential is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The credential is of a type that this version does not authenticate.
    #[error("credentials of type {credential_type:#06x} are not supported")]
    UnsupportedCredential {
        /// MLS credential type.
        credential_type: u16,
    },
    /// A device credential was presented for an external sender: devices are never one.
    #[error("a device cannot be an external sender")]
    NotExternalSender,
    /// Not the expected structure, not its one encoding, too long, or followed by other bytes.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// A statement of another version.
    #[error("identity statements of version {version} are not supported")]
    UnsupportedVersion {
        /// Version found.
        version: u16,
    },
    /// A sealed user key does not open, or is not the user's.
    #[error("the user key in the approval does not open with this device's request")]
    SealedKey,
    /// A signature scheme other than Ed25519.
    #[error("signature scheme {scheme:#06x} is not supported")]
    UnsupportedScheme {
        /// Scheme found.
        scheme: u16,
    },
    /// The credential carries key rotations, which this version cannot check.
    #[error("key rotations are not supported")]
    UnsupportedRotation,
    /// Not a usable public key: wrong length, no point of the curve, or of small order.
    #[error("this is not a usable public key")]
    BadKey,
    /// A signature does not verify.
    #[error("a signature does not verify")]
    Signature,
    /// The user key did not sign the device certificate.
    #[error("the user's signature on the device certificate does not verify")]
    UserSignature,
    /// The device key did not countersign the device certificate.
    #[error("the device's countersignature does not verify")]
    DeviceSignature,
    /// The user key did not sign the device list.
    #[error("the signature on the device list does not verify")]
    ListSignature,
    /// The requesting device does not hold the key it asks to certify.
    #[error("the request's proof of possession does not verify")]
    RequestProof,
    /// The user key did not sign the approval.
    #[error("the signature on the approval does not verify")]
    ApprovalSignature,
    /// The genesis statement does not hash to the user that a statement names.
    #[error("the statement names another user than its genesis statement")]
    UserMismatch,
    /// A statement's realm is not its user's.
    #[error("the statement belongs to another realm than its user")]
    RealmMismatch,
    /// The certificate is for another key than the one presented with it.
    #[error("the certificate is for another key")]
    KeyMismatch,
    /// The certificate is for another signature scheme than the one presented with it.
    #[error("the certificate is for another signature scheme")]
    SchemeMismatch,
    /// The identity belongs to another realm than expected.
    #[error("the identity belongs to another realm than expected")]
    WrongRealm,
    /// The identity is another user's than expected.
    #[error("the identity is another user's than expected")]
    WrongUser,
    /// The identity is another device's than expected.
    #[error("the identity is another device's than expected")]
    WrongDevice,
    /// The certificate ends before it begins.
    #[error("the certificate is never valid")]
    Validity,
    /// The certificate is not valid yet, by more than the allowed clock skew.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// The certificate is not valid any more.
    #[error("the certificate has expired")]
    Expired,
    /// An update was presented without the identity that it replaces.
    #[error("an update needs the identity that it replaces")]
    PreviousMissing,
    /// The replacement belongs to another user.
    #[error("a leaf cannot change its user")]
    SuccessorUser,
    /// The replacement belongs to another device.
    #[error("a leaf cannot change its device")]
    SuccessorDevice,
    /// The replacement rests on another user key.
    #[error("a leaf cannot change its user key")]
    SuccessorUserKey,
    /// The replacement is less assured than what it replaces.
    #[error("a leaf's assurance cannot fall")]
    AssuranceFell,
    /// Sequence numbers begin at 1, and exactly the first list has no predecessor.
    #[error("the device list's sequence number does not fit its predecessor")]
    ListSequence,
    /// Devices of a list are unsorted or repeated, or share a key.
    #[error("the device list names a device twice or is not sorted")]
    ListDevices,
    /// More devices than one user may have.
    #[error("a user can have at most {max} devices")]
    TooManyDevices {
        /// Limit.
        max: usize,
    },
    /// The list's next update is not after its issue.
    #[error("the device list is never fresh")]
    ListFreshness,
    /// An older list than the one known.
    #[error("a newer device list is known (sequence {newest})")]
    StaleList {
        /// Sequence number known.
        newest: u64,
    },
    /// The list is not the direct successor of the one known.
    #[error("the device list does not follow directly; expected sequence {expected}")]
    NotDirectSuccessor {
        /// Sequence number of the direct successor.
        expected: u64,
    },
    /// The list does not name the known list as its predecessor.
    #[error("the device list does not continue the list known")]
    BrokenChain,
    /// Two different lists with one sequence number: evidence that the user key signed both.
    #[error("two different device lists claim sequence {seq}")]
    Equivocation {
        /// The sequence number.
        seq: u64,
        /// Hash of the list known.
        known: Hash,
        /// Hash of the list presented.
        presented: Hash,
    },
    /// The list does not name the device with that key.
    #[error("the device list does not name this device with this key")]
    NotListed,
    /// The approval answers another request, or is for another device or key.
    #[error("the approval is for another request")]
    OtherRequest,
    /// The approval carries more than it may.
    #[error("an approval can carry at most {max} pins")]
    TooManyPins {
        /// Limit.
        max: usize,
    },
    /// A name that is no name.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl AuthError {
    /// Stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedCredential { .. } => "auth.unsupported_credential",
            Self::NotExternalSender => "auth.not_external_sender",
            Self::Malformed(error) => error.code(),
            Self::UnsupportedVersion { .. } => "auth.unsupported_version",
            Self::SealedKey => "auth.sealed_key",
            Self::UnsupportedScheme { .. } => "auth.unsupported_scheme",
            Self::UnsupportedRotation => "auth.unsupported_rotation",
            Self::BadKey => "auth.bad_key",
            Self::Signature => "auth.signature",
            Self::UserSignature => "auth.user_signature",
            Self::DeviceSignature => "auth.device_signature",
            Self::ListSignature => "auth.list_signature",
            Self::RequestProof => "auth.request_proof",
            Self::ApprovalSignature => "auth.approval_signature",
            Self::UserMismatch => "auth.user_mismatch",
            Self::RealmMismatch => "auth.realm_mismatch",
            Self::KeyMismatch => "auth.key_mismatch",
            Self::SchemeMismatch => "auth.scheme_mismatch",
            Self::WrongRealm => "auth.wrong_realm",
            Self::WrongUser => "auth.wrong_user",
            Self::WrongDevice => "auth.wrong_device",
            Self::Validity => "auth.validity",
            Self::NotYetValid => "auth.not_yet_valid",
            Self::Expired => "auth.expired",
            Self::PreviousMissing => "auth.previous_missing",
            Self::SuccessorUser => "auth.successor_user",
            Self::SuccessorDevice => "auth.successor_device",
            Self::SuccessorUserKey => "auth.successor_user_key",
            Self::AssuranceFell => "auth.assurance_fell",
            Self::ListSequence => "auth.list_sequence",
            Self::ListDevices => "auth.list_devices",
            Self::TooManyDevices { .. } => "auth.too_many_devices",
            Self::ListFreshness => "auth.list_freshness",
            Self::StaleList { .. } => "auth.stale_list",
            Self::NotDirectSuccessor { .. } => "auth.not_direct_successor",
            Self::BrokenChain => "auth.broken_chain",
            Self::Equivocation { .. } => "auth.equivocation",
            Self::NotListed => "auth.not_listed",
            Self::OtherRequest => "auth.other_request",
            Self::TooManyPins { .. } => "auth.too_many_pins",
            Self::Name(error) => error.code(),
        }
    }

    /// Whether the same statement can be accepted later: one that is not valid yet, or one that needs those in between first.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NotYetValid | Self::NotDirectSuccessor { .. })
    }
}

/// Why a text is not a name. Names are petnames: they identify nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No characters.
    #[error("a name cannot be empty")]
    Empty,
    /// Too many characters.
    #[error("a name has at most {max} characters")]
    TooLong {
        /// Limit in characters.
        max: usize,
    },
    /// Control characters, line breaks, or characters that reverse or hide text.
    #[error("a name cannot contain control characters")]
    Control,
    /// White space at either end.
    #[error("a name cannot begin or end with white space")]
    Untrimmed,
}

impl NameError {
    /// Stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "name.empty",
            Self::TooLong { .. } => "name.too_long",
            Self::Control => "name.control",
            Self::Untrimmed => "name.untrimmed",
        }
    }

    /// The same name never becomes acceptable.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        false
    }
}

/// Why a pasted, typed or scanned text is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The text does not begin as it should: it is another kind of text.
    #[error("this text does not begin with {expected}")]
    WrongKind {
        /// How it should begin.
        expected: &'static str,
    },
    /// Longer than any text of this kind.
    #[error("this text is too long; it has at most {max} characters")]
    TooLong {
        /// Limit in characters.
        max: usize,
    },
    /// A character that does not occur in such texts, or some are missing at the end.
    #[error("this text contains a wrong character or is cut off")]
    Alphabet,
    /// The checksum does not fit: something was mistyped or lost.
    #[error("this text was changed or is incomplete; copy it again")]
    Checksum,
    /// The text is intact, its content is not acceptable.
    #[error(transparent)]
    Statement(#[from] AuthError),
}

impl From<DecodeError> for TextError {
    fn from(error: DecodeError) -> Self {
        Self::Statement(error.into())
    }
}

impl From<NameError> for TextError {
    fn from(error: NameError) -> Self {
        Self::Statement(error.into())
    }
}

impl TextError {
    /// Stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::WrongKind { .. } => "text.wrong_kind",
            Self::TooLong { .. } => "text.too_long",
            Self::Alphabet => "text.alphabet",
            Self::Checksum => "text.checksum",
            Self::Statement(error) => error.code(),
        }
    }

    /// The same text never becomes acceptable; another copy may.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        false
    }
}

/// Why a pin cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The user is pinned with another genesis statement.
    #[error("this contact is already known with another key")]
    Changed,
    /// The book is full.
    #[error("at most {max} contacts can be kept")]
    Full {
        /// Limit.
        max: usize,
    },
    /// A stored book of another version.
    #[error("contact books of version {version} are not supported")]
    UnsupportedVersion {
        /// Version found.
        version: u16,
    },
    /// A stored book names a user twice.
    #[error("the stored contact book names a user twice")]
    Repeated,
}

impl PinError {
    /// Stable code of this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name(error) => error.code(),
            Self::Changed => "pin.changed",
            Self::Full { .. } => "pin.full",
            Self::UnsupportedVersion { .. } => "pin.unsupported_version",
            Self::Repeated => "pin.repeated",
        }
    }

    /// Nothing changes by trying again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        false
    }
}

/// Why an authenticated identity is not trusted under a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Untrusted {
    /// The policy accepts contacts, and this user is none.
    #[error("this user is not among the contacts")]
    NotPinned,
    /// The policy accepts contacts whose safety number was compared, and this one's was not.
    #[error("this contact's safety number was not compared, and the group's policy demands that")]
    NotCompared,
    /// The user is a contact with another key.
    #[error("this contact's key has changed")]
    PinChanged,
    /// The policy demands an authority or endorsers, and the identity has neither.
    #[error("the policy does not accept contacts, and nobody it accepts vouches for this user")]
    NoEvidence,
}

impl Untrusted {
    /// Stable code of this reason.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotPinned => "untrusted.not_pinned",
            Self::NotCompared => "untrusted.not_compared",
            Self::PinChanged => "untrusted.pin_changed",
            Self::NoEvidence => "untrusted.no_evidence",
        }
    }

    /// Whether a person can change it by adding a contact, or by comparing the number.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NotPinned | Self::NotCompared)
    }
}
