//! Device certificates: the user key vouches for a device key, and the device agrees.

use std::fmt;

use conclave_proto::codec::{Bytes, encode};
use conclave_proto::{DeviceId, RealmId, UnixMs, UserId, limits};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::SCHEME_ED25519;
use crate::codec::{VERSION, check_version, decode_canonical};
use crate::error::AuthError;
use crate::keys::{DeviceKey, UserKey, check_key, verify};
use crate::user::UserGenesis;

/// Label under which a user key signs a [`DeviceCertificate`].
pub const CERTIFICATE_LABEL: &str = "conclave 1.0 device certificate";
/// Label under which a device countersigns: certificate, then the user's signature.
pub const ACCEPTANCE_LABEL: &str = "conclave 1.0 device acceptance";
/// Version of every statement of this crate.
pub const STATEMENT_VERSION: u16 = VERSION;
/// How long a new certificate is valid, in milliseconds (a hundred years). Devices are revoked by the device list, not by expiry: a member who
/// was away must still be able to process a commit, and a lapse would stop honest devices in every group at once.
pub const CERTIFICATE_VALIDITY_MS: u64 = limits::KEY_PACKAGE_VALIDITY_S * 1000;
/// How far in the future a certificate may begin, in milliseconds (24 hours): the clock that issued it may be ahead.
pub const CLOCK_SKEW_MS: u64 = 24 * 3600 * 1000;

const WHAT: &str = "device credential";

/// The user's word that a device key belongs to a device of theirs.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeviceCertificate {
    /// 1.
    pub version: u16,
    /// The user's realm.
    pub realm: RealmId,
    /// The user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// Signature scheme of `device_key` (RFC 8446 §4.2.3).
    pub scheme: u16,
    /// The device's public key.
    pub device_key: Bytes,
    /// Sequence number of a device list that names this key; lists before it need not.
    pub list_seq: u64,
    /// Valid from here (less [`CLOCK_SKEW_MS`]).
    pub not_before: UnixMs,
    /// Valid before here.
    pub not_after: UnixMs,
}

impl DeviceCertificate {
    /// What the user key signs.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Checks the certificate against its user's genesis statement and the user key's signature; not its validity in time.
    pub(crate) fn verify(
        &self,
        genesis: &UserGenesis,
        user_signature: &[u8; 64],
    ) -> Result<(), AuthError> {
        genesis.check()?;
        check_version(self.version)?;
        if genesis.user_id() != self.user {
            return Err(AuthError::UserMismatch);
        }
        if genesis.realm != self.realm {
            return Err(AuthError::RealmMismatch);
        }
        check_key(self.scheme, self.device_key.as_slice())?;
        if self.list_seq == 0 {
            return Err(AuthError::ListSequence);
        }
        if self.not_after <= self.not_before {
            return Err(AuthError::Validity);
        }
        verify(
            &genesis.key,
            CERTIFICATE_LABEL,
            &self.signed_bytes(),
            user_signature,
        )
        .map_err(|_| AuthError::UserSignature)
    }

    /// Checks the validity at `now`.
    pub(crate) fn check_time(&self, now: UnixMs) -> Result<(), AuthError> {
        if self.not_before > now.plus_ms(CLOCK_SKEW_MS) {
            return Err(AuthError::NotYetValid);
        }
        if now >= self.not_after {
            return Err(AuthError::Expired);
        }
        Ok(())
    }
}

/// The content of a device's MLS credential (type [`crate::CREDENTIAL_TYPE`]): who the user is, the certificate, and both signatures.
/// Decoded fields are claims; [`crate::authenticate`] makes an identity of them.
#[derive(Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeviceCredential {
    /// 1.
    pub version: u16,
    /// The statement that the user began with.
    pub genesis: UserGenesis,
    /// Rotations of the user key since. Has to be empty in version 1.
    pub rotations: Vec<Bytes>,
    /// The certificate.
    pub certificate: DeviceCertificate,
    /// User key's signature under [`CERTIFICATE_LABEL`] over the encoded certificate.
    pub user_signature: [u8; 64],
    /// Device key's signature under [`ACCEPTANCE_LABEL`] over the encoded certificate followed by `user_signature`: the device has the
    /// key and wants to be this user's.
    pub device_signature: [u8; 64],
}

impl DeviceCredential {
    /// Accepts a certificate with the key that it certifies.
    ///
    /// # Errors
    /// [`AuthError::KeyMismatch`] when it certifies another key, and whatever is wrong with the certificate or the user's signature.
    pub fn accept(
        genesis: UserGenesis,
        certificate: DeviceCertificate,
        user_signature: [u8; 64],
        device_key: &DeviceKey,
    ) -> Result<Self, AuthError> {
        certificate.verify(&genesis, &user_signature)?;
        if certificate.device_key.as_slice() != device_key.public() {
            return Err(AuthError::KeyMismatch);
        }
        let accepted = accepted_bytes(&certificate, &user_signature);
        let device_signature = device_key.sign(ACCEPTANCE_LABEL, &accepted);
        Ok(Self {
            version: VERSION,
            genesis,
            rotations: Vec::new(),
            certificate,
            user_signature,
            device_signature,
        })
    }

    /// The one encoding of this credential, as it stands in an MLS credential.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a credential; does not check it.
    ///
    /// # Errors
    /// [`AuthError::Malformed`] for anything but the one encoding of a credential of at most [`limits::CREDENTIAL_BYTES`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuthError> {
        Ok(decode_canonical(WHAT, bytes, limits::CREDENTIAL_BYTES)?)
    }

    /// Checks all that does not depend on time or on who presents it: versions, user id, realm, keys, both signatures.
    ///
    /// # Errors
    /// [`AuthError`] says what is wrong.
    pub fn verify(&self) -> Result<(), AuthError> {
        check_version(self.version)?;
        if !self.rotations.is_empty() {
            return Err(AuthError::UnsupportedRotation);
        }
        self.certificate
            .verify(&self.genesis, &self.user_signature)?;
        // Breakage: a user can claim anybody's device as their own.
        if crate::broken("countersignature") {
            return Ok(());
        }
        verify(
            self.certificate.device_key.as_slice(),
            ACCEPTANCE_LABEL,
            &accepted_bytes(&self.certificate, &self.user_signature),
            &self.device_signature,
        )
        .map_err(|_| AuthError::DeviceSignature)
    }
}

impl fmt::Debug for DeviceCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceCredential")
            .field("user", &self.certificate.user)
            .field("device", &self.certificate.device)
            .field("list_seq", &self.certificate.list_seq)
            .finish_non_exhaustive()
    }
}

/// What the device countersigns. The encoded certificate ends where its own lengths say, so the two parts cannot slide.
fn accepted_bytes(certificate: &DeviceCertificate, user_signature: &[u8; 64]) -> Vec<u8> {
    let mut bytes = certificate.signed_bytes();
    bytes.extend_from_slice(user_signature);
    bytes
}

impl UserKey {
    /// Certifies the Ed25519 public key of a device, until [`CERTIFICATE_VALIDITY_MS`] after `now`. It is valid from the beginning of time:
    /// nothing depends on when a certificate begins, and a clock that was ahead would keep the device out until then. `list_seq` is the sequence number of a
    /// device list that names the key. Gives the certificate and this key's signature under [`CERTIFICATE_LABEL`].
    ///
    /// `genesis` has to be this key's own, or nobody accepts the certificate.
    #[must_use]
    pub fn certify(
        &self,
        genesis: &UserGenesis,
        device: DeviceId,
        key: &[u8],
        list_seq: u64,
        now: UnixMs,
    ) -> (DeviceCertificate, [u8; 64]) {
        let certificate = DeviceCertificate {
            version: VERSION,
            realm: genesis.realm,
            user: genesis.user_id(),
            device,
            scheme: SCHEME_ED25519,
            device_key: Bytes::from(key),
            list_seq,
            not_before: UnixMs(0),
            not_after: now.plus_ms(CERTIFICATE_VALIDITY_MS),
        };
        let signature = self.sign(CERTIFICATE_LABEL, &certificate.signed_bytes());
        (certificate, signature)
    }
}
