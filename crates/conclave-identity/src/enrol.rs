//! Enrolling devices: a user's first, and further ones by text. The new device makes its own key and a request; a device that holds the
//! user key approves it; the new device finishes. No device key moves; the user key may, sealed to the new device.
//!
//! Texts are checked but not secret, and whoever can replace one can replace a device or a user by their own. So people type
//! [`DeviceRequest::code`], which the new device shows, into the approving one, and compare [`UserGenesis::fingerprint`] before finishing.

use std::fmt;

use conclave_proto::codec::{Bytes, encode};
use conclave_proto::hash::labelled;
use conclave_proto::{DeviceId, Hash, RealmId, UnixMs};
use rand_core::CryptoRngCore;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::SCHEME_ED25519;
use crate::certificate::{DeviceCertificate, DeviceCredential};
use crate::codec::{decode_canonical, without_signature};
use crate::error::{AuthError, TextError};
use crate::keys::{DeviceKey, UserKey, check_key, verify};
use crate::list::{DeviceRef, SignedDeviceList};
use crate::names::{NAME_CHARS, check_name};
use crate::pins::Pin;
use crate::safety::{fingerprint, is_same_number};
use crate::sealed_key::{ReceivingKey, SealedUserKey};
use crate::text::Kind;
use crate::user::UserGenesis;

/// Label under which a device proves that it has the key it asks to certify.
pub const REQUEST_LABEL: &str = "conclave 1.0 device request";
/// Label under which a user key signs a whole approval.
pub const APPROVAL_LABEL: &str = "conclave 1.0 device approval";

/// Version of requests and approvals.
const VERSION: u16 = 2;
/// Most pins that an approval carries.
const APPROVAL_PINS: usize = 256;
const REQUEST: Kind = Kind {
    prefix: "conclave:device-request:",
    max_bytes: 512 + 4 * NAME_CHARS,
};
const APPROVAL: Kind = Kind {
    prefix: "conclave:device-approval:",
    max_bytes: 16 * 1024 + APPROVAL_PINS * (128 + 4 * NAME_CHARS),
};

/// The version comes first, whatever follows: a text of another program is told from one that is damaged.
fn check_version_of(bytes: &[u8]) -> Result<(), AuthError> {
    match bytes.first_chunk() {
        Some(version) => check_version(u16::from_be_bytes(*version)),
        None => Ok(()),
    }
}

fn check_version(version: u16) -> Result<(), AuthError> {
    match version {
        VERSION => Ok(()),
        version => Err(AuthError::UnsupportedVersion { version }),
    }
}

/// A new device asks to be one of a user's devices.
#[derive(Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeviceRequest {
    /// 2.
    pub version: u16,
    /// The realm of the user it wants to belong to.
    pub realm: RealmId,
    /// The new device.
    pub device: DeviceId,
    /// Signature scheme of `key` (RFC 8446 §4.2.3).
    pub scheme: u16,
    /// The new device's public key.
    pub key: Bytes,
    /// What its owner calls it. See [`check_name`].
    #[tls_codec(with = "crate::codec::name")]
    pub name: String,
    /// X25519 public key ([`ReceivingKey::public`]) to which the user key can be sealed.
    pub hpke_key: [u8; 32],
    /// Device key's signature under [`REQUEST_LABEL`] over the encoding of all before.
    pub proof: [u8; 64],
}

impl DeviceRequest {
    /// Asks for `key` to be certified as `device`. The user key can be sealed to `receiving`.
    ///
    /// # Errors
    /// [`AuthError::Name`] when `name` is no name.
    pub fn new(
        key: &DeviceKey,
        receiving: &ReceivingKey,
        realm: RealmId,
        device: DeviceId,
        name: &str,
    ) -> Result<Self, AuthError> {
        check_name(name)?;
        let mut request = Self {
            version: VERSION,
            realm,
            device,
            scheme: SCHEME_ED25519,
            key: Bytes::from(key.public().as_slice()),
            name: name.to_owned(),
            hpke_key: receiving.public()?,
            proof: [0; 64],
        };
        request.proof = key.sign(REQUEST_LABEL, without_signature(&encode(&request)));
        Ok(request)
    }

    /// Checks version, name, key and proof of possession.
    ///
    /// # Errors
    /// [`AuthError`] says what is wrong.
    pub fn verify(&self) -> Result<(), AuthError> {
        check_version(self.version)?;
        check_name(&self.name)?;
        check_key(self.scheme, self.key.as_slice())?;
        let bytes = encode(self);
        let covered = without_signature(&bytes);
        verify(self.key.as_slice(), REQUEST_LABEL, covered, &self.proof)
            .map_err(|_| AuthError::RequestProof)
    }

    /// Hash of the whole request, which an approval names.
    #[must_use]
    pub fn hash(&self) -> Hash {
        labelled("conclave 1.0 device request hash", &[&encode(self)])
    }

    /// Thirty digits in groups of five that stand for this request: the new device shows them, and they are typed into the approving one.
    #[must_use]
    pub fn code(&self) -> String {
        fingerprint("conclave 1.0 device request code", &self.hash())
    }

    /// Whether somebody typed [`Self::code`]. What stands between digits does not matter.
    #[must_use]
    pub fn is_code(&self, typed: &str) -> bool {
        is_same_number(&self.code(), typed)
    }

    /// Text for a device that can approve.
    #[must_use]
    pub fn to_text(&self) -> String {
        REQUEST.write(&encode(self))
    }

    /// Reads and verifies a request. Case and white space do not matter.
    ///
    /// # Errors
    /// [`TextError`] when it is another kind of text, was mistyped or cut off, or [`Self::verify`] fails.
    pub fn from_text(text: &str) -> Result<Self, TextError> {
        Ok(Self::from_bytes(&REQUEST.read(text)?)?)
    }

    /// The one encoding of this request.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads and verifies a request.
    ///
    /// # Errors
    /// [`AuthError::Malformed`] for anything but the one encoding of a request of bounded size; whatever [`Self::verify`] finds.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuthError> {
        check_version_of(bytes)?;
        let request: Self = decode_canonical("device request", bytes, REQUEST.max_bytes)?;
        request.verify()?;
        Ok(request)
    }
}

impl fmt::Debug for DeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceRequest")
            .field("device", &self.device)
            .field("realm", &self.realm)
            .finish_non_exhaustive()
    }
}

/// A user's answer to a [`DeviceRequest`]: the certificate, the new device list, and what the new device should know.
#[derive(Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeviceApproval {
    /// 2.
    pub version: u16,
    /// [`DeviceRequest::hash`] of the request that this answers.
    pub request: Hash,
    /// The statement that the user began with.
    pub genesis: UserGenesis,
    /// Certificate for the new device.
    pub certificate: DeviceCertificate,
    /// User key's signature under [`crate::CERTIFICATE_LABEL`] over the encoded certificate.
    pub user_signature: [u8; 64],
    /// Device list that names the new device.
    pub list: SignedDeviceList,
    /// What the user calls themselves. See [`check_name`].
    #[tls_codec(with = "crate::codec::name")]
    pub name: String,
    /// Contacts that the new device should know. May be empty: they can be read by whoever sees the text.
    pub pins: Vec<Pin>,
    /// The user key, where the new device may approve and revoke devices too: sealed under all before.
    pub user_key: Option<SealedUserKey>,
    /// User key's signature under [`APPROVAL_LABEL`] over the encoding of all before, so that nobody can slip in a contact.
    pub signature: [u8; 64],
}

/// Whether the new device gets the user key.
pub enum HandsOver<'a> {
    /// It does not: it can approve and revoke nobody.
    Nothing,
    /// It does. Randomness for the sealing.
    UserKey(&'a mut dyn CryptoRngCore),
}

impl UserKey {
    /// Approves a request: certifies the device and signs the list that follows `current` and names it. When `current` names the device
    /// with this key already, that list is used again, so an approval that got lost can be made anew. `name` is what the user calls
    /// themselves. The list in the approval has to be published before the new device can do anything. A copy of the user key goes along
    /// where `hands_over` says so: only once somebody has typed the request's code.
    ///
    /// # Errors
    /// What is wrong with the request, the lists or the names; [`AuthError::WrongRealm`] for a request from another realm;
    /// [`AuthError::ListDevices`] when the device or its key is listed with another key or device;
    /// [`AuthError::TooManyDevices`]; [`AuthError::TooManyPins`].
    pub fn approve(
        &self,
        request: &DeviceRequest,
        current: &SignedDeviceList,
        name: &str,
        pins: &[Pin],
        hands_over: HandsOver<'_>,
        now: UnixMs,
    ) -> Result<DeviceApproval, AuthError> {
        request.verify()?;
        current.verify()?;
        let genesis = current.genesis.clone();
        if request.realm != genesis.realm {
            return Err(AuthError::WrongRealm);
        }
        let list = if current.contains(&request.device, request.key.as_slice()) {
            current.clone()
        } else {
            let mut devices = current.list.devices.clone();
            devices.push(DeviceRef {
                device: request.device,
                scheme: request.scheme,
                key: request.key.clone(),
            });
            self.sign_list(&genesis, Some(current), devices, now)?
        };
        let key = request.key.as_slice();
        let (certificate, user_signature) =
            self.certify(&genesis, request.device, key, list.list.seq, now);
        let mut approval = DeviceApproval {
            version: VERSION,
            request: request.hash(),
            genesis,
            certificate,
            user_signature,
            list,
            name: name.to_owned(),
            pins: pins.to_vec(),
            user_key: None,
            signature: [0; 64],
        };
        if let HandsOver::UserKey(rng) = hands_over {
            let aad = approval.before_key();
            let to = &request.hpke_key;
            let sealed = SealedUserKey::seal(self, to, &approval.request, &aad, rng)?;
            approval.user_key = Some(sealed);
        }
        approval.signature = self.sign(APPROVAL_LABEL, without_signature(&encode(&approval)));
        approval.verify()?;
        Ok(approval)
    }
}

impl DeviceApproval {
    /// Checks all that does not depend on the request: certificate, list, names, and the user's signatures.
    ///
    /// # Errors
    /// [`AuthError`] says what is wrong.
    pub fn verify(&self) -> Result<(), AuthError> {
        check_version(self.version)?;
        self.certificate
            .verify(&self.genesis, &self.user_signature)?;
        self.list.verify()?;
        if self.list.genesis != self.genesis {
            return Err(AuthError::UserMismatch);
        }
        if !self.list.contains(
            &self.certificate.device,
            self.certificate.device_key.as_slice(),
        ) {
            return Err(AuthError::NotListed);
        }
        if self.certificate.list_seq > self.list.list.seq {
            return Err(AuthError::ListSequence);
        }
        if self.pins.len() > APPROVAL_PINS {
            return Err(AuthError::TooManyPins { max: APPROVAL_PINS });
        }
        check_name(&self.name)?;
        self.pins.iter().try_for_each(|pin| check_name(&pin.name))?;
        let bytes = encode(self);
        let covered = without_signature(&bytes);
        verify(&self.genesis.key, APPROVAL_LABEL, covered, &self.signature)
            .map_err(|_| AuthError::ApprovalSignature)
    }

    /// What stands before the sealed user key, which is sealed under it.
    fn before_key(&self) -> Vec<u8> {
        let without = Self {
            user_key: None,
            ..self.clone()
        };
        let mut bytes = encode(&without);
        // The octet that says that nothing is sealed, and the signature.
        bytes.truncate(bytes.len().saturating_sub(1 + 64));
        bytes
    }

    /// The user key, where the approval brings it. It is opened with the key to which the request had it sealed.
    ///
    /// # Errors
    /// [`AuthError::SealedKey`] when it does not open, or is not this user's.
    pub fn open_user_key(&self, with: &ReceivingKey) -> Result<Option<UserKey>, AuthError> {
        let Some(sealed) = &self.user_key else {
            return Ok(None);
        };
        let key = sealed.open(with, &self.request, &self.before_key())?;
        match key.public() == self.genesis.key {
            true => Ok(Some(key)),
            false => Err(AuthError::SealedKey),
        }
    }

    /// Finishes the enrolment on the device that made `request`, with its key: verifies the approval and countersigns the certificate.
    /// Show the user's name and [`UserGenesis::fingerprint`] first: whoever replaced the approval took the device over.
    ///
    /// # Errors
    /// [`AuthError::OtherRequest`] when the approval answers another request, or the request is not this key's;
    /// whatever [`Self::verify`] finds.
    pub fn finish(
        &self,
        key: &DeviceKey,
        request: &DeviceRequest,
    ) -> Result<DeviceCredential, AuthError> {
        request.verify()?;
        self.verify()?;
        let answers = self.request == request.hash()
            && request.key.as_slice() == key.public()
            && self.certificate.device == request.device
            && self.certificate.scheme == request.scheme
            && self.certificate.device_key == request.key
            && self.certificate.realm == request.realm;
        if !answers {
            return Err(AuthError::OtherRequest);
        }
        let genesis = self.genesis.clone();
        DeviceCredential::accept(genesis, self.certificate.clone(), self.user_signature, key)
    }

    /// Text for the device that asked.
    #[must_use]
    pub fn to_text(&self) -> String {
        APPROVAL.write(&encode(self))
    }

    /// Reads and verifies an approval. Case and white space do not matter.
    ///
    /// # Errors
    /// [`TextError`] when it is another kind of text, was mistyped or cut off, or [`Self::verify`] fails.
    pub fn from_text(text: &str) -> Result<Self, TextError> {
        Ok(Self::from_bytes(&APPROVAL.read(text)?)?)
    }

    /// The one encoding of this approval.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads and verifies an approval.
    ///
    /// # Errors
    /// [`AuthError::Malformed`] for anything but the one encoding of an approval of bounded size; whatever [`Self::verify`] finds.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuthError> {
        check_version_of(bytes)?;
        let approval: Self = decode_canonical("device approval", bytes, APPROVAL.max_bytes)?;
        approval.verify()?;
        Ok(approval)
    }
}

impl fmt::Debug for DeviceApproval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceApproval")
            .field("user", &self.certificate.user)
            .field("device", &self.certificate.device)
            .field("list_seq", &self.list.list.seq)
            .field("pins", &self.pins.len())
            .field("user_key", &self.user_key)
            .finish_non_exhaustive()
    }
}

/// Enrols a user's first device: its credential, and the first device list.
///
/// # Errors
/// [`AuthError`] when `genesis` is not `user`'s.
pub fn enrol_first(
    user: &UserKey,
    genesis: &UserGenesis,
    key: &DeviceKey,
    device: DeviceId,
    now: UnixMs,
) -> Result<(DeviceCredential, SignedDeviceList), AuthError> {
    let public = key.public();
    let entry = DeviceRef {
        device,
        scheme: SCHEME_ED25519,
        key: Bytes::from(public.as_slice()),
    };
    let list = user.sign_list(genesis, None, vec![entry], now)?;
    let (certificate, signature) = user.certify(genesis, device, &public, list.list.seq, now);
    let credential = DeviceCredential::accept(genesis.clone(), certificate, signature, key)?;
    Ok((credential, list))
}
