//! The two secret keys of a device's store, and the one way to check a signature.

use conclave_proto::hash::sign_content;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rand_core::CryptoRngCore;
use zeroize::Zeroizing;

use crate::SCHEME_ED25519;
use crate::error::AuthError;

/// A user's secret Ed25519 key. It certifies devices and signs device lists, and signs nothing else. Kept only by devices that may approve
/// others. Wiped when dropped.
pub struct UserKey(Box<SigningKey>);

/// A device's secret Ed25519 key: its MLS signature key, which also signs records and logins. Wiped when dropped; never leaves its device.
pub struct DeviceKey(Box<SigningKey>);

/// How far down a stack is overwritten, in bytes: further than what handles keys goes.
const WIPED_BYTES: usize = 32 * 1024;

/// Overwrites what calls that have returned left on the stack. A value that is moved leaves copies behind, which nothing drops, and what is put on the heap
/// afterwards may take them along where it has room that it does not use.
#[inline(never)]
pub fn wipe_stack() {
    let mut stale = [0u8; WIPED_BYTES];
    std::hint::black_box(&mut stale);
}

/// At least what a generator draws at once, in bytes (ChaCha: four blocks).
const DRAWN_BYTES: usize = 256;

/// Draws a secret. A generator keeps what it has given out until it draws again, so it is made to: what takes the place is no secret's.
#[inline(never)]
pub(crate) fn draw_secret(rng: &mut dyn CryptoRngCore) -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0u8; 32]);
    rng.fill_bytes(secret.as_mut());
    let mut rest = Zeroizing::new([0u8; DRAWN_BYTES]);
    rng.fill_bytes(rest.as_mut());
    secret
}

macro_rules! secret_key {
    ($name:ident) => {
        impl $name {
            /// Draws a new key.
            #[must_use]
            pub fn generate(rng: &mut dyn CryptoRngCore) -> Self {
                Self::from_bytes(&$crate::keys::draw_secret(rng))
            }

            /// The key with this seed (RFC 8032 §5.1.5).
            #[must_use]
            pub fn from_bytes(seed: &[u8; 32]) -> Self {
                let key = Self::on_heap(seed);
                $crate::keys::wipe_stack();
                key
            }

            /// What is moved about is where it lies.
            #[inline(never)]
            fn on_heap(seed: &[u8; 32]) -> Self {
                Self(Box::new(SigningKey::from_bytes(seed)))
            }

            /// The seed, for storage.
            #[must_use]
            pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
                Zeroizing::new(self.0.to_bytes())
            }

            /// The public key.
            #[must_use]
            pub fn public(&self) -> [u8; 32] {
                self.0.verifying_key().to_bytes()
            }
        }

        impl std::fmt::Debug for $name {
            /// Shows nothing of the key.
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

pub(crate) use secret_key;

secret_key!(UserKey);
secret_key!(DeviceKey);

impl UserKey {
    /// Signs a statement. Not public: which statements a user makes is decided in this crate.
    pub(crate) fn sign(&self, label: &str, content: &[u8]) -> [u8; 64] {
        let signature = self.sign_here(&sign_content(label, content));
        wipe_stack();
        signature
    }

    #[inline(never)]
    fn sign_here(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl DeviceKey {
    /// Signs `content` under `label`, as RFC 9420 §5.1.2 does ([`sign_content`]).
    #[must_use]
    pub fn sign(&self, label: &str, content: &[u8]) -> [u8; 64] {
        self.sign_raw(&sign_content(label, content))
    }

    /// Signs bytes as they are. Only for MLS, which has put its own label in front.
    #[must_use]
    pub fn sign_raw(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// Checks an Ed25519 signature over [`sign_content`]`(label, content)`, strictly.
///
/// # Errors
/// [`AuthError::BadKey`] when `key` is no Ed25519 public key, [`AuthError::Signature`] when the signature does not verify.
pub fn verify(key: &[u8], label: &str, content: &[u8], sig: &[u8; 64]) -> Result<(), AuthError> {
    verify_with(&public_key(key)?, label, content, sig)
}

/// Checks an Ed25519 signature over these very bytes, strictly.
pub(crate) fn verify_raw(key: &[u8], message: &[u8], sig: &[u8; 64]) -> Result<(), AuthError> {
    public_key(key)?
        .verify_strict(message, &Signature::from_bytes(sig))
        .map_err(|_| AuthError::Signature)
}

pub(crate) fn verify_with(
    key: &VerifyingKey,
    label: &str,
    content: &[u8],
    sig: &[u8; 64],
) -> Result<(), AuthError> {
    key.verify_strict(&sign_content(label, content), &Signature::from_bytes(sig))
        .map_err(|_| AuthError::Signature)
}

/// Checks that `key` is a usable public key of `scheme`.
pub(crate) fn check_key(scheme: u16, key: &[u8]) -> Result<(), AuthError> {
    if scheme != SCHEME_ED25519 {
        return Err(AuthError::UnsupportedScheme { scheme });
    }
    public_key(key).map(|_| ())
}

pub(crate) fn public_key(key: &[u8]) -> Result<VerifyingKey, AuthError> {
    let bytes: &[u8; 32] = key.try_into().map_err(|_| AuthError::BadKey)?;
    let key = VerifyingKey::from_bytes(bytes).map_err(|_| AuthError::BadKey)?;
    if key.is_weak() {
        Err(AuthError::BadKey)
    } else {
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_a_secret() {
        let seed = [0x5a; 32];
        for shown in [
            format!("{:?}", UserKey::from_bytes(&seed)),
            format!("{:#?}", DeviceKey::from_bytes(&seed)),
        ] {
            assert!(
                shown == "UserKey(..)" || shown == "DeviceKey(..)",
                "{shown}"
            );
        }
    }

    #[test]
    fn keys_survive_storage() {
        let mut rng: rand_chacha::ChaCha20Rng = rand_core::SeedableRng::seed_from_u64(7);
        let key = DeviceKey::generate(&mut rng);
        assert_eq!(
            DeviceKey::from_bytes(&key.to_bytes()).public(),
            key.public()
        );
        assert_ne!(DeviceKey::generate(&mut rng).public(), key.public());
        assert_eq!(UserKey::from_bytes(&key.to_bytes()).public(), key.public());
    }

    #[test]
    fn a_signature_is_worth_nothing_under_another_label_key_or_content() {
        let key = DeviceKey::from_bytes(&[1; 32]);
        let other = DeviceKey::from_bytes(&[2; 32]);
        let signature = key.sign("label", b"content");
        assert_eq!(
            verify(&key.public(), "label", b"content", &signature),
            Ok(())
        );
        let refused = Err(AuthError::Signature);
        assert_eq!(
            verify(&key.public(), "labe1", b"content", &signature),
            refused
        );
        assert_eq!(
            verify(&key.public(), "label", b"c0ntent", &signature),
            refused
        );
        assert_eq!(
            verify(&other.public(), "label", b"content", &signature),
            refused
        );
    }

    #[test]
    fn bad_and_weak_keys_are_refused() {
        let sig = [0; 64];
        assert_eq!(verify(&[1; 31], "l", b"", &sig), Err(AuthError::BadKey));
        // The neutral element: with it, an all-zero-ish signature would fit every message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut fits_all = [0; 64];
        fits_all[0] = 1;
        assert_eq!(
            verify(&neutral, "l", b"", &fits_all),
            Err(AuthError::BadKey)
        );
        // y = 2 is no point of the curve.
        let mut off_curve = [0; 32];
        off_curve[0] = 2;
        assert_eq!(verify(&off_curve, "l", b"", &sig), Err(AuthError::BadKey));
        let good = DeviceKey::from_bytes(&[1; 32]).public();
        assert_eq!(
            check_key(0x0403, &good),
            Err(AuthError::UnsupportedScheme { scheme: 0x0403 })
        );
    }

    #[test]
    fn a_malleable_signature_is_refused() {
        let key = DeviceKey::from_bytes(&[1; 32]);
        let mut signature = key.sign("l", b"c");
        // s + L, with L the group order (RFC 8032 §5.1), is the same scalar in another encoding.
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9,
            0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut carry = 0u16;
        for (s, l) in signature[32..].iter_mut().zip(order) {
            let sum = u16::from(*s) + u16::from(l) + carry;
            *s = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        assert_eq!(
            verify(&key.public(), "l", b"c", &signature),
            Err(AuthError::Signature)
        );
    }

    #[test]
    fn a_signature_with_a_small_order_commitment_is_refused() {
        // R is the neutral element and s = H(R, A, M)·a: it satisfies the equation, so verification that is not strict accepts it.
        let key = DeviceKey::from_bytes(&[1; 32]);
        let mut signature = [0; 64];
        signature[0] = 1;
        signature[32..].copy_from_slice(&[
            0xa7, 0x63, 0xbe, 0x89, 0xba, 0xe3, 0x6e, 0x8c, 0x2f, 0x43, 0x15, 0x30, 0x81, 0x78,
            0x17, 0xd4, 0x8b, 0x8e, 0x13, 0x7a, 0x47, 0x92, 0xf2, 0x77, 0x93, 0x68, 0x4b, 0x9e,
            0x74, 0x1f, 0xe0, 0x0b,
        ]);
        assert_eq!(
            verify(&key.public(), "l", b"c", &signature),
            Err(AuthError::Signature)
        );
        let loose = ed25519_dalek::Verifier::verify(
            &public_key(&key.public()).unwrap(),
            &sign_content("l", b"c"),
            &Signature::from_bytes(&signature),
        );
        assert!(loose.is_ok());
    }
}
