//! Who is behind a key: user keys, device certificates, device lists, pins, and the one door through which an identity enters.
//!
//! A **user** is an Ed25519 key together with the [`UserGenesis`] statement that names it; the hash of that statement is the user's id,
//! so no service can bind the id to another key. The user key signs a [`DeviceCertificate`] for each device, the device countersigns it,
//! and both travel as a [`DeviceCredential`] in the device's MLS leaf. The [`SignedDeviceList`] says which devices there are now.
//! A person takes another user as known with a [`Pin`], from a [`Contact`] text that fits a QR code, and compares a [`safety_number`].
//!
//! # Promises
//! - [`authenticate`] is the only way to an [`Identity`]. It is a pure function of its arguments, so the service and all members judge
//!   an ordered commit alike, and it fails closed.
//! - Every statement is a TLS struct with its version first and its realm inside, has one encoding, and is signed under a label of its
//!   own. Other versions, other encodings and trailing bytes are refused, and sizes are capped before anything is allocated.
//! - Signatures are checked strictly (`verify_strict`: no small-order keys, no malleable signatures).
//! - Errors and `Debug` never show a key, a name or a received byte.
//!
//! # Never
//! It does no I/O, reads no clock and draws no randomness of its own; a device's private key never leaves it through anything here, and the
//! user key only sealed to a device of the user ([`SealedUserKey`]).
//! It does not know which device list is the newest (whoever stores lists does, with [`SignedDeviceList::supersedes`]), and it does not
//! say that a user is *who they say*: that is what pins, authorities and endorsements are for ([`PinBook::judge`]).
//!
//! # Example
//! A user with one device enrols a second one by two texts.
//! ```
//! use conclave_identity::*;
//! use conclave_proto::{DeviceId, RealmId, UnixMs};
//! # use rand_core::SeedableRng;
//! # let mut rng = rand_chacha::ChaCha20Rng::from_seed([0; 32]);
//! let now = UnixMs(1_700_000_000_000);
//! let realm = RealmId([7; 16]);
//! let user = UserKey::generate(&mut rng);
//! let genesis = UserGenesis::new(realm, &user, now, &mut rng);
//! let laptop = DeviceKey::generate(&mut rng);
//! let (_, list) = enrol_first(&user, &genesis, &laptop, DeviceId([1; 16]), now)?;
//!
//! // The new device asks; a device that holds the user key approves; the new device finishes.
//! let phone = DeviceKey::generate(&mut rng);
//! let receiving = ReceivingKey::generate(&mut rng);
//! let request = DeviceRequest::new(&phone, &receiving, realm, DeviceId([2; 16]), "phone")?;
//! let received = DeviceRequest::from_text(&request.to_text())?;
//! assert!(received.is_code(&request.code()));
//! let approval = user.approve(&received, &list, "Anna", &[], HandsOver::UserKey(&mut rng), now)?;
//! let received = DeviceApproval::from_text(&approval.to_text())?;
//! let credential = received.finish(&phone, &request)?;
//! assert!(received.open_user_key(&receiving)?.is_some());
//!
//! // Anybody learns who it is.
//! let (credential, key) = (credential.to_bytes(), phone.public());
//! let presented = Presented {
//!     credential_type: CREDENTIAL_TYPE,
//!     credential: credential.into(),
//!     scheme: SCHEME_ED25519,
//!     signature_key: &key,
//! };
//! let here = Reference { realm: Some(realm), ..Reference::default() };
//! let identity = authenticate(&presented, Occasion::Login, &here, now, None)?;
//! assert_eq!(identity.user, genesis.user_id());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Not yet
//! X.509 credentials (type 2) are answered with [`AuthError::UnsupportedCredential`]; trust anchors already travel in [`Reference`].
//! Endorsements, key rotation and recovery follow; [`DeviceCredential::rotations`] has to be empty until then.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

include!(concat!(env!("OUT_DIR"), "/broken.rs"));

mod authenticate;
mod certificate;
mod codec;
mod contact;
mod enrol;
mod error;
mod evidence;
mod keys;
mod list;
mod names;
mod pins;
mod received;
mod safety;
mod sealed_key;
mod service;
mod signature_key;
mod text;
mod user;

pub use authenticate::{
    Assurance, Evidence, Identity, Occasion, Presented, Reference, authenticate,
};
pub use certificate::{
    ACCEPTANCE_LABEL, CERTIFICATE_LABEL, CERTIFICATE_VALIDITY_MS, CLOCK_SKEW_MS, DeviceCertificate,
    DeviceCredential, STATEMENT_VERSION,
};
pub use contact::Contact;
pub use enrol::{
    APPROVAL_LABEL, DeviceApproval, DeviceRequest, HandsOver, REQUEST_LABEL, enrol_first,
};
pub use error::{AuthError, NameError, PinError, TextError, Untrusted};
pub use evidence::{Proven, Unproven, convict, is_parallel, is_rollback};
pub use keys::{DeviceKey, UserKey, verify, wipe_stack};
pub use list::{
    DEVICE_LIST_VALIDITY_MS, DeviceList, DeviceRef, LIST_BYTES, LIST_LABEL, SignedDeviceList,
};
pub use names::{
    NAME_CHARS, TITLE_CHARS, check_name, check_title, is_escaped, shown_name, shown_title,
};
pub use pins::{PINS_MAX, Pin, PinBook};
pub use received::ReceivedCredential;
pub use safety::{group_code, safety_number, safety_number_from_hashes};
pub use sealed_key::{ReceivingKey, SEALED_KEY_LABEL, SealedUserKey};
pub use service::{
    HeadKey, NewGeneration, ServiceKey, verify_generation, verify_head, verify_loss,
};
pub use signature_key::SignatureKey;
pub use user::{GENESIS_BYTES, UserGenesis};

/// MLS credential type (private use, RFC 9420 §17.5) whose content is an encoded [`DeviceCredential`].
pub const CREDENTIAL_TYPE: u16 = 0xF0C1;
/// MLS credential type of X.509 chains (RFC 9420 §17.5). Recognised, not yet accepted.
pub const CREDENTIAL_TYPE_X509: u16 = 0x0002;
/// Signature scheme Ed25519 (RFC 8446 §4.2.3): the scheme of every key so far.
pub const SCHEME_ED25519: u16 = 0x0807;
