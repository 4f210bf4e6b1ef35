//! A public key that many signatures are checked with.

use std::fmt;
use std::sync::{Arc, OnceLock};

use conclave_proto::codec::Bytes;
use ed25519_dalek::VerifyingKey;
use tls_codec::{DeserializeBytes, Error, Serialize, Size};

use crate::error::AuthError;
use crate::keys::{public_key, verify_with};

/// A signature key as it was received, whatever it is. It is read when a signature is first checked with it, and not again: its copies share
/// what was read.
#[derive(Clone)]
pub struct SignatureKey(Arc<Inner>);

struct Inner {
    bytes: Bytes,
    /// None where these bytes are no key.
    read: OnceLock<Option<VerifyingKey>>,
}

impl SignatureKey {
    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.0.bytes.as_slice()
    }

    /// Checks an Ed25519 signature, as [`verify`](crate::verify()) does.
    ///
    /// # Errors
    /// As there.
    pub fn verify(
        &self,
        label: &str,
        content: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), AuthError> {
        let read = || public_key(self.as_slice()).ok();
        let key = self.0.read.get_or_init(read).as_ref();
        verify_with(key.ok_or(AuthError::BadKey)?, label, content, signature)
    }
}

impl From<Bytes> for SignatureKey {
    fn from(bytes: Bytes) -> Self {
        let read = OnceLock::new();
        Self(Arc::new(Inner { bytes, read }))
    }
}

impl From<Vec<u8>> for SignatureKey {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl fmt::Debug for SignatureKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes.fmt(f)
    }
}

impl PartialEq for SignatureKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for SignatureKey {}

impl PartialEq<Bytes> for SignatureKey {
    fn eq(&self, other: &Bytes) -> bool {
        self.0.bytes == *other
    }
}

impl Size for SignatureKey {
    fn tls_serialized_len(&self) -> usize {
        self.0.bytes.tls_serialized_len()
    }
}

impl Serialize for SignatureKey {
    fn tls_serialize<W: std::io::Write>(&self, writer: &mut W) -> Result<usize, Error> {
        self.0.bytes.tls_serialize(writer)
    }
}

impl DeserializeBytes for SignatureKey {
    fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        let (bytes, rest) = Bytes::tls_deserialize_bytes(bytes)?;
        Ok((bytes.into(), rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceKey;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn a_key_checks_as_its_bytes_do_and_is_read_once() {
        let device = DeviceKey::generate(&mut ChaCha20Rng::from_seed([1; 32]));
        let signature = device.sign("label", b"content");
        let key = SignatureKey::from(device.public().to_vec());
        let copy = key.clone();
        assert!(copy.0.read.get().is_none());
        assert_eq!(key.verify("label", b"content", &signature), Ok(()));
        assert!(copy.0.read.get().is_some());
        let wrong = copy.verify("label", b"contents", &signature);
        assert_eq!(wrong, Err(AuthError::Signature));
    }

    #[test]
    fn what_is_no_key_stays_none() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        for bytes in [vec![], vec![1; 31], neutral.to_vec()] {
            let key = SignatureKey::from(bytes);
            for _ in 0..2 {
                let answer = key.verify("label", b"content", &[0; 64]);
                assert_eq!(answer, Err(AuthError::BadKey));
            }
        }
    }
}
