//! The statement that a user begins with.

use std::fmt;

use conclave_proto::codec::encode;
use conclave_proto::hash::labelled;
use conclave_proto::{Hash, RealmId, UnixMs, UserId};
use rand_core::CryptoRngCore;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::SCHEME_ED25519;
use crate::codec::{VERSION, check_version, decode_canonical};
use crate::error::AuthError;
use crate::keys::{UserKey, check_key};
use crate::safety::fingerprint;

/// Encoded length in bytes: version, realm, key, time, salt.
pub const GENESIS_BYTES: usize = 2 + 16 + 32 + 8 + 16;
const WHAT: &str = "user genesis statement";

/// The statement a user begins with. Its hash is the user's id, so nobody can bind the id to another key. It is not signed: whoever does
/// not hold the key can make the statement but nothing that refers to it.
#[derive(Clone, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct UserGenesis {
    /// 1.
    pub version: u16,
    /// The realm in which the user exists.
    pub realm: RealmId,
    /// The user's Ed25519 public key.
    pub key: [u8; 32],
    /// When the user was created.
    pub created: UnixMs,
    /// Random, so that the id says nothing about the key.
    pub salt: [u8; 16],
}

impl UserGenesis {
    /// Begins a user with this key.
    #[must_use]
    pub fn new(
        realm: RealmId,
        key: &UserKey,
        created: UnixMs,
        rng: &mut dyn CryptoRngCore,
    ) -> Self {
        let mut salt = [0; 16];
        rng.fill_bytes(&mut salt);
        Self {
            version: VERSION,
            realm,
            key: key.public(),
            created,
            salt,
        }
    }

    /// The user's id: [`labelled`] hash, label `conclave 1.0 user id`, of the encoded statement.
    #[must_use]
    pub fn user_id(&self) -> UserId {
        UserId(labelled("conclave 1.0 user id", &[&encode(self)]).0)
    }

    /// Hash of the statement for pins and safety numbers: [`labelled`], label `conclave 1.0 user genesis`.
    #[must_use]
    pub fn hash(&self) -> Hash {
        labelled("conclave 1.0 user genesis", &[&encode(self)])
    }

    /// Thirty digits in groups of five that stand for this user, to compare when a device is enrolled.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint("conclave 1.0 user fingerprint", &self.hash())
    }

    /// The one encoding of this statement.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads and checks a statement.
    ///
    /// # Errors
    /// [`AuthError`] when the bytes are no statement in its one encoding, or [`Self::check`] fails.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuthError> {
        let genesis: Self = decode_canonical(WHAT, bytes, GENESIS_BYTES)?;
        genesis.check()?;
        Ok(genesis)
    }

    /// Checks version and key.
    ///
    /// # Errors
    /// [`AuthError::UnsupportedVersion`] or [`AuthError::BadKey`].
    pub fn check(&self) -> Result<(), AuthError> {
        check_version(self.version)?;
        check_key(SCHEME_ED25519, &self.key)
    }
}

impl fmt::Debug for UserGenesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserGenesis")
            .field("user", &self.user_id())
            .field("realm", &self.realm)
            .finish_non_exhaustive()
    }
}
