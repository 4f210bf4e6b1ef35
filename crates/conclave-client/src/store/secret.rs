//! Cryptography of the store: the store key, how it is wrapped, and how values are sealed.
//!
//! A value is sealed as `format version ‖ nonce ‖ XChaCha20-Poly1305`, with `format version ‖ row key` as associated data: a value that is
//! changed, or moved to another row, does not open. The store key is 32 random bytes. It is itself sealed under a key that is derived from
//! a passphrase (Argon2id, RFC 9106), or from a key file or an entry of a keyring (HKDF-SHA-256, RFC 5869).

#[cfg(test)]
mod tests;

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::error::StoreError;
use super::rowsum::RowSum;

/// Version of the at-rest format: first byte of every sealed value.
pub const FORMAT_VERSION: u8 = 1;
/// Version of the wrapped key. From 2 on the header has a sum over the rows. The version is in the clear, and bound to the sealed key:
/// nobody can turn it back.
pub(super) const WRAP_VERSION: u16 = 2;
/// Oldest version that is still opened.
const WRAP_OLDEST: u16 = 1;
/// Length of a key file, in bytes.
pub const KEY_FILE_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const SALT_BYTES: usize = 16;
/// Length of what names an entry of a keyring, in bytes.
pub(super) const ENTRY_ID_BYTES: usize = 16;
/// Bytes that sealing adds to a value.
pub const SEAL_OVERHEAD_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;
const WRAP_LABEL: &[u8] = b"conclave 1.0 store key wrap";
const KEY_FILE_LABEL: &[u8] = b"conclave 1.0 store key file";
const KEYRING_LABEL: &[u8] = b"conclave 1.0 store keyring entry";
/// Most memory that a stored header may make this program spend, in KiB.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 64;
const MAX_LANES: u32 = 16;

/// Cost of deriving a key from a passphrase (Argon2id). The cost is kept in the store, so a later default does not lock anybody out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassphraseCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for PassphraseCost {
    fn default() -> Self {
        Self {
            memory_kib: 64 * 1024,
            passes: 3,
            lanes: 1,
        }
    }
}

impl PassphraseCost {
    /// Far too cheap for real use: for tests, where the store is thrown away.
    #[must_use]
    pub fn insecure_for_tests() -> Self {
        Self {
            memory_kib: 8,
            passes: 1,
            lanes: 1,
        }
    }

    fn is_sane(&self) -> bool {
        (1..=MAX_MEMORY_KIB).contains(&self.memory_kib)
            && (1..=MAX_PASSES).contains(&self.passes)
            && (1..=MAX_LANES).contains(&self.lanes)
    }
}

/// What opens a store: read from the user or from a file, never stored.
#[derive(Clone)]
pub enum Secret {
    /// A passphrase and what deriving a key from it costs, where a new wrap is made.
    Passphrase(Zeroizing<String>, PassphraseCost),
    /// Content of a key file.
    KeyFile(Zeroizing<[u8; KEY_FILE_BYTES]>),
    /// Name and content of an entry of a keyring.
    Keyring([u8; ENTRY_ID_BYTES], Zeroizing<[u8; KEY_FILE_BYTES]>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(..) => "Secret::Passphrase(..)",
            Self::KeyFile(_) => "Secret::KeyFile(..)",
            Self::Keyring(..) => "Secret::Keyring(..)",
        })
    }
}

impl Secret {
    pub(super) fn method(&self) -> Method {
        match self {
            Self::Passphrase(_, cost) => Method::Passphrase(*cost),
            Self::KeyFile(_) => Method::KeyFile,
            Self::Keyring(entry, _) => Method::Keyring(*entry),
        }
    }

    /// The key that seals the store key.
    fn wrapping_key(
        &self,
        method: Method,
        salt: &[u8],
    ) -> Result<Zeroizing<[u8; KEY_BYTES]>, StoreError> {
        let mut key = Zeroizing::new([0u8; KEY_BYTES]);
        match (self, method) {
            (Self::Passphrase(passphrase, _), Method::Passphrase(cost)) => {
                if !cost.is_sane() {
                    return Err(StoreError::Damaged {
                        what: "cost of the passphrase",
                    });
                }
                let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(KEY_BYTES))
                    .map_err(|_| StoreError::Damaged {
                        what: "cost of the passphrase",
                    })?;
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
                    .map_err(|_| StoreError::Damaged {
                        what: "cost of the passphrase",
                    })?;
            }
            (Self::KeyFile(bytes), Method::KeyFile) => {
                expand(salt, bytes, KEY_FILE_LABEL, &mut key)?;
            }
            (Self::Keyring(name, bytes), Method::Keyring(wanted)) if *name == wanted => {
                expand(salt, bytes, KEYRING_LABEL, &mut key)?;
            }
            (_, other) => {
                return Err(StoreError::SecretKind {
                    wants: other.kind().name(),
                });
            }
        }
        Ok(key)
    }
}

/// From bytes that are random already.
fn expand(
    salt: &[u8],
    bytes: &[u8; KEY_FILE_BYTES],
    label: &[u8],
    key: &mut [u8; KEY_BYTES],
) -> Result<(), StoreError> {
    Hkdf::<Sha256>::new(Some(salt), bytes)
        .expand(label, key)
        .map_err(|_| StoreError::Damaged {
            what: "wrapped key",
        })
}

/// What kind of secret opens a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// A passphrase.
    Passphrase,
    /// A key file.
    KeyFile,
    /// An entry of a keyring.
    Keyring,
}

impl SecretKind {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Passphrase => "a passphrase",
            Self::KeyFile => "a key file",
            Self::Keyring => "the keyring of the system on which it was made",
        }
    }
}

/// How the wrapping key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Method {
    Passphrase(PassphraseCost),
    KeyFile,
    Keyring([u8; ENTRY_ID_BYTES]),
}

impl Method {
    pub(super) fn kind(self) -> SecretKind {
        match self {
            Self::Passphrase(_) => SecretKind::Passphrase,
            Self::KeyFile => SecretKind::KeyFile,
            Self::Keyring(_) => SecretKind::Keyring,
        }
    }
}

/// The store key as it is stored. Not secret; encoded as CBOR.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct WrappedKey {
    version: u16,
    method: Method,
    salt: [u8; SALT_BYTES],
    nonce: [u8; NONCE_BYTES],
    sealed: Vec<u8>,
}

/// What a header says without the secret: its version, and how the wrapping key is made.
pub(super) fn described(header: &[u8]) -> Result<(u16, Method), StoreError> {
    WrappedKey::parse(header).map(|wrapped| (wrapped.version, wrapped.method))
}

impl WrappedKey {
    fn parse(header: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged {
            what: "wrapped key",
        };
        let (hash, body) = header.split_at_checked(32).ok_or_else(damaged)?;
        if Sha256::digest(body).as_slice() != hash {
            return Err(damaged());
        }
        // The version comes first: a later one may have other fields.
        #[derive(Deserialize)]
        struct VersionOnly {
            version: u16,
        }
        let found: VersionOnly = ciborium::from_reader(body).map_err(|_| damaged())?;
        if !(WRAP_OLDEST..=WRAP_VERSION).contains(&found.version) {
            return Err(StoreError::UnknownFormat {
                found: found.version,
            });
        }
        ciborium::from_reader(body).map_err(|_| damaged())
    }

    /// Binds everything but the sealed key itself.
    fn associated_data(&self) -> Result<Vec<u8>, StoreError> {
        let mut data = WRAP_LABEL.to_vec();
        ciborium::into_writer(&(self.version, self.method, self.salt), &mut data).map_err(
            |_| StoreError::Damaged {
                what: "wrapped key",
            },
        )?;
        Ok(data)
    }
}

/// Fills bytes from the operating system.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), StoreError> {
    getrandom::fill(bytes).map_err(|_| StoreError::Randomness)
}

/// The key that seals every value of a store. Never stored in the clear, never printed.
pub(crate) struct StoreKey {
    cipher: XChaCha20Poly1305,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl std::fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreKey(..)")
    }
}

impl StoreKey {
    fn from_bytes(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self {
            cipher: XChaCha20Poly1305::new(bytes.as_slice().into()),
            bytes,
        }
    }

    /// A fresh key.
    pub(crate) fn generate() -> Result<Self, StoreError> {
        let mut bytes = Zeroizing::new([0u8; KEY_BYTES]);
        fill_random(bytes.as_mut_slice())?;
        Ok(Self::from_bytes(bytes))
    }

    /// The header row that gives the key back to whoever has `secret`: `SHA-256(wrapped) ‖ wrapped`. The hash is no protection; it tells a
    /// damaged header from a wrong passphrase.
    pub(crate) fn wrap(&self, secret: &Secret) -> Result<Vec<u8>, StoreError> {
        self.wrap_as(WRAP_VERSION, secret.method(), secret)
    }

    /// The same with a version and a cost that are given.
    pub(super) fn wrap_as(
        &self,
        version: u16,
        method: Method,
        secret: &Secret,
    ) -> Result<Vec<u8>, StoreError> {
        let mut wrapped = WrappedKey {
            version,
            method,
            salt: [0; SALT_BYTES],
            nonce: [0; NONCE_BYTES],
            sealed: Vec::new(),
        };
        fill_random(&mut wrapped.salt)?;
        fill_random(&mut wrapped.nonce)?;
        let key = secret.wrapping_key(wrapped.method, &wrapped.salt)?;
        let aad = wrapped.associated_data()?;
        wrapped.sealed = XChaCha20Poly1305::new(key.as_slice().into())
            .encrypt(
                XNonce::from_slice(&wrapped.nonce),
                Payload {
                    msg: self.bytes.as_slice(),
                    aad: &aad,
                },
            )
            .map_err(|_| StoreError::Damaged {
                what: "wrapped key",
            })?;
        let mut body = Vec::new();
        ciborium::into_writer(&wrapped, &mut body).map_err(|_| StoreError::Damaged {
            what: "wrapped key",
        })?;
        let mut out = Sha256::digest(&body).to_vec();
        out.extend_from_slice(&body);
        Ok(out)
    }

    /// Opens what [`StoreKey::wrap`] made.
    pub(crate) fn unwrap(header: &[u8], secret: &Secret) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged {
            what: "wrapped key",
        };
        let wrapped = WrappedKey::parse(header)?;
        let key = secret.wrapping_key(wrapped.method, &wrapped.salt)?;
        let aad = wrapped.associated_data()?;
        let mut opened = Zeroizing::new(
            XChaCha20Poly1305::new(key.as_slice().into())
                .decrypt(
                    XNonce::from_slice(&wrapped.nonce),
                    Payload {
                        msg: &wrapped.sealed,
                        aad: &aad,
                    },
                )
                .map_err(|_| StoreError::WrongSecret)?,
        );
        let mut bytes = Zeroizing::new([0u8; KEY_BYTES]);
        if opened.len() != KEY_BYTES {
            return Err(damaged());
        }
        bytes.copy_from_slice(&opened);
        opened.zeroize();
        Ok(Self::from_bytes(bytes))
    }

    /// The sum over no rows, under keys of this store.
    pub(super) fn row_sum(&self) -> Result<RowSum, StoreError> {
        RowSum::new(self.bytes.as_slice())
    }

    /// Seals the value of a row under a nonce that was never used before.
    pub(crate) fn seal(
        &self,
        row_key: &[u8],
        nonce: &[u8; NONCE_BYTES],
        value: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let sealed = self
            .cipher
            .encrypt(
                XNonce::from_slice(nonce),
                Payload {
                    msg: value,
                    aad: &row_data(row_key),
                },
            )
            .map_err(|_| StoreError::TooLarge)?;
        let mut out = Vec::with_capacity(1 + NONCE_BYTES + sealed.len());
        out.push(FORMAT_VERSION);
        out.extend_from_slice(nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Opens the value of a row.
    pub(crate) fn open(
        &self,
        row_key: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let damaged = || StoreError::row_damaged(row_key);
        let (version, rest) = sealed.split_first().ok_or_else(damaged)?;
        if *version != FORMAT_VERSION {
            return Err(StoreError::UnknownFormat {
                found: u16::from(*version),
            });
        }
        let (nonce, body) = rest.split_at_checked(NONCE_BYTES).ok_or_else(damaged)?;
        self.cipher
            .decrypt(
                XNonce::from_slice(nonce),
                Payload {
                    msg: body,
                    aad: &row_data(row_key),
                },
            )
            .map(Zeroizing::new)
            .map_err(|_| damaged())
    }
}

/// Random nonces for a batch, drawn at once.
pub(crate) fn nonces(count: usize) -> Result<Vec<[u8; NONCE_BYTES]>, StoreError> {
    let mut all = vec![[0u8; NONCE_BYTES]; count];
    fill_random(all.as_flattened_mut())?;
    Ok(all)
}

fn row_data(row_key: &[u8]) -> Vec<u8> {
    // Breakage: a value opens in every row.
    if crate::broken("store-no-key-binding") {
        return vec![FORMAT_VERSION];
    }
    let mut data = Vec::with_capacity(1 + row_key.len());
    data.push(FORMAT_VERSION);
    data.extend_from_slice(row_key);
    data
}
