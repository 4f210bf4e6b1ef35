//! The user key on its way to another device of the user: sealed by HPKE (RFC 9180, base mode; DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
//! ChaCha20-Poly1305) to a key that the device made for its request.

use std::fmt;

use conclave_proto::Hash;
use conclave_proto::codec::Bytes;
use hpke_rs::hpke_types::{AeadAlgorithm, KdfAlgorithm, KemAlgorithm};
use hpke_rs::rustcrypto::HpkeRustCrypto as Crypto;
use hpke_rs::{Hpke, HpkePrivateKey, Mode};
use hpke_rs_crypto::HpkeCrypto;
use rand_core::CryptoRngCore;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};
use zeroize::Zeroizing;

use crate::error::AuthError;
use crate::keys::{UserKey, draw_secret};

/// Begins the `info` under which a user key is sealed; the hash of the request follows.
pub const SEALED_KEY_LABEL: &str = "conclave 1.0 user key copy";

const KEM: KemAlgorithm = KemAlgorithm::DhKem25519;
const KDF: KdfAlgorithm = KdfAlgorithm::HkdfSha256;
/// RFC 9180 §4.1: the suite of the KEM alone.
const KEM_SUITE: [u8; 5] = *b"KEM\x00\x20";

/// The private key to which a new device has the user key sealed. It is kept with the request, and wiped when that is answered.
pub struct ReceivingKey(Zeroizing<[u8; 32]>);

impl ReceivingKey {
    /// Draws a key.
    #[must_use]
    pub fn generate(rng: &mut dyn CryptoRngCore) -> Self {
        Self(draw_secret(rng))
    }

    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// The bytes, for storage.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.clone()
    }

    /// The public key that a request names.
    ///
    /// # Errors
    /// None that happens: every 32 bytes are an X25519 key.
    pub fn public(&self) -> Result<[u8; 32], AuthError> {
        public_of(self.0.as_slice())
    }
}

impl fmt::Debug for ReceivingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReceivingKey(..)")
    }
}

/// A user key, sealed to the key of a request.
#[derive(Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SealedUserKey {
    /// The encapsulated key: an X25519 public key for this one time.
    pub enc: [u8; 32],
    /// The 32 bytes of the user key's seed, and the tag.
    pub sealed: Bytes,
}

impl fmt::Debug for SealedUserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedUserKey(..)")
    }
}

impl SealedUserKey {
    /// Seals `key` to `to` for the request with this hash; `aad` is what stands before it in the approval.
    pub(crate) fn seal(
        key: &UserKey,
        to: &[u8; 32],
        request: &Hash,
        aad: &[u8],
        rng: &mut dyn CryptoRngCore,
    ) -> Result<Self, AuthError> {
        let bad = |_| AuthError::SealedKey;
        let once = draw_secret(rng);
        let enc = public_of(once.as_slice())?;
        let shared = Zeroizing::new(encapsulate(&once, &enc, to)?);
        let mut context = hpke()
            .key_schedule(&shared, &info(request), &[], &[])
            .map_err(|_| AuthError::SealedKey)?;
        let sealed = context
            .seal(aad, key.to_bytes().as_slice())
            .map_err(bad)?
            .into();
        Ok(Self { enc, sealed })
    }

    /// Opens it with the private key of the request.
    pub(crate) fn open(
        &self,
        with: &ReceivingKey,
        request: &Hash,
        aad: &[u8],
    ) -> Result<UserKey, AuthError> {
        let secret = HpkePrivateKey::new(with.0.to_vec());
        let sealed = self.sealed.as_slice();
        let opened = hpke()
            .open(
                &self.enc,
                &secret,
                &info(request),
                aad,
                sealed,
                None,
                None,
                None,
            )
            .map_err(|_| AuthError::SealedKey)?;
        let opened = Zeroizing::new(opened);
        let seed: &[u8; 32] = opened
            .as_slice()
            .try_into()
            .map_err(|_| AuthError::SealedKey)?;
        Ok(UserKey::from_bytes(seed))
    }
}

fn hpke() -> Hpke<Crypto> {
    Hpke::new(Mode::Base, KEM, KDF, AeadAlgorithm::ChaCha20Poly1305)
}

fn info(request: &Hash) -> Vec<u8> {
    [SEALED_KEY_LABEL.as_bytes(), request.as_bytes()].concat()
}

fn public_of(secret: &[u8]) -> Result<[u8; 32], AuthError> {
    let public = Crypto::secret_to_public(KEM, secret).map_err(|_| AuthError::SealedKey)?;
    public.try_into().map_err(|_| AuthError::SealedKey)
}

/// `Encap` of RFC 9180 §4.1 with an ephemeral key that is an argument: the library draws its own.
fn encapsulate(once: &[u8; 32], enc: &[u8; 32], to: &[u8; 32]) -> Result<Vec<u8>, AuthError> {
    let bad = |_| AuthError::SealedKey;
    let dh = Zeroizing::new(Crypto::dh(KEM, to, once).map_err(bad)?);
    if dh.iter().all(|byte| *byte == 0) {
        return Err(AuthError::SealedKey);
    }
    let version: &[u8] = b"HPKE-v1";
    let labelled: &[&[u8]] = &[version, &KEM_SUITE, b"eae_prk", &dh];
    let labelled = Zeroizing::new(labelled.concat());
    let prk = Zeroizing::new(Crypto::kdf_extract(KDF, &[], &labelled).map_err(bad)?);
    let expand: &[&[u8]] = &[&[0, 32], version, &KEM_SUITE, b"shared_secret", enc, to];
    Crypto::kdf_expand(KDF, &prk, &expand.concat(), 32).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        bytes.try_into().unwrap()
    }

    /// RFC 9180 A.2.1: base mode of this suite.
    #[test]
    fn encapsulation_is_that_of_the_rfc() {
        let once = bytes("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600");
        let enc = bytes("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
        let to = bytes("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
        let shared: [u8; 32] =
            bytes("0bbe78490412b4bbea4812666f7916932b828bba79942424abb65244930d69a7");
        assert_eq!(public_of(&once).unwrap(), enc);
        assert_eq!(encapsulate(&once, &enc, &to).unwrap(), shared);
    }

    #[test]
    fn a_key_of_small_order_is_sealed_to_by_nobody() {
        let once = [7; 32];
        let enc = public_of(&once).unwrap();
        assert!(encapsulate(&once, &enc, &[0; 32]).is_err());
    }
}
