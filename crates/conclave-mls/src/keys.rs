//! The epoch key schedule (`docs/PROTOCOL.md`, Epoch keys): one exporter label per purpose, one derived key per algorithm.

use conclave_proto::DocumentId;
use conclave_proto::codec::with_prefix;
use hmac::digest::KeyInit;
use hmac::digest::generic_array::GenericArray;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Exporter label of [`EpochRoot`].
pub(crate) const ROOT_LABEL: &str = "conclave 1.0 epoch root";
/// Exporter label of the wrap key.
pub(crate) const WRAP_KEY_LABEL: &str = "conclave 1.0 root wrap";
/// Exporter label of the presence root.
pub(crate) const PRESENCE_LABEL: &str = "conclave 1.0 presence";

const SECRET_BYTES: usize = 32;

/// A 32-byte secret. Wiped when dropped; `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret32(Zeroizing<[u8; SECRET_BYTES]>);

impl Secret32 {
    /// Takes over a secret.
    #[must_use]
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads exactly 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::new)
    }

    /// The secret.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
}

impl std::fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret32(..)")
    }
}

impl Serialize for Secret32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.as_bytes())
    }
}

impl<'de> Deserialize<'de> for Secret32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Secret32;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("32 bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Secret32, E> {
                Secret32::from_slice(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

/// Root of an epoch's document keys. Who holds it can open every record sealed in the epoch.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EpochRoot(Secret32);

impl EpochRoot {
    /// Takes over a root.
    #[must_use]
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(Secret32::new(bytes))
    }

    /// Reads exactly 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Secret32::from_slice(bytes).map(Self)
    }

    /// The root.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SECRET_BYTES] {
        self.0.as_bytes()
    }

    /// Key that seals a document's records in this epoch.
    #[must_use]
    pub fn content_key(&self, document: &DocumentId) -> Secret32 {
        expand_with_label(self.as_bytes(), "content", document.as_bytes())
    }

    /// Key of a document's commitments in this epoch.
    #[must_use]
    pub fn commit_key(&self, document: &DocumentId) -> Secret32 {
        expand_with_label(self.as_bytes(), "commitment", document.as_bytes())
    }
}

impl std::fmt::Debug for EpochRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EpochRoot(..)")
    }
}

/// Secrets of one epoch. The wrap key and the presence root are siblings of the root: nothing derives one from another.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochSecrets {
    /// The epoch.
    pub epoch: u64,
    /// Root of document keys: kept as long as a record under it is needed.
    pub root: EpochRoot,
    /// Key of root wraps: never wrapped, erased on leaving the epoch.
    pub wrap_key: Secret32,
    /// Root of presence keys: never wrapped, erased on leaving the epoch.
    pub presence_root: Secret32,
}

impl std::fmt::Debug for EpochSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EpochSecrets(epoch {}, ..)", self.epoch)
    }
}

impl EpochSecrets {
    /// Asks an exporter, `(label) -> 32 bytes`, for the secrets of an epoch.
    pub(crate) fn export<E>(
        epoch: u64,
        mut exporter: impl FnMut(&'static str) -> Result<Vec<u8>, E>,
    ) -> Result<Option<Self>, E> {
        let mut secret = |label| {
            let bytes = Zeroizing::new(exporter(label)?);
            Ok(Secret32::from_slice(&bytes))
        };
        let (root, wrap_key, presence_root) = (
            secret(ROOT_LABEL)?,
            secret(WRAP_KEY_LABEL)?,
            secret(PRESENCE_LABEL)?,
        );
        Ok(match (root, wrap_key, presence_root) {
            (Some(root), Some(wrap_key), Some(presence_root)) => Some(Self {
                epoch,
                root: EpochRoot(root),
                wrap_key,
                presence_root,
            }),
            _ => None,
        })
    }
}

/// Length in bytes of the exported secrets.
pub(crate) const EXPORT_BYTES: usize = SECRET_BYTES;

/// `ExpandWithLabel` of RFC 9420 §8 over HKDF-SHA256, for 32 bytes. The label here is given without its `"MLS 1.0 "`.
#[must_use]
pub fn expand_with_label(secret: &[u8; SECRET_BYTES], label: &str, context: &[u8]) -> Secret32 {
    LabelExpander::new(secret, label).expand(context)
}

/// [`expand_with_label`] of one secret under one label, for many contexts: what depends on these two is hashed once. It is not wiped when it is dropped, so
/// it lives for one call.
#[derive(Clone)]
pub struct LabelExpander {
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for LabelExpander {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LabelExpander(..)")
    }
}

impl LabelExpander {
    /// Of this secret, under this label.
    #[must_use]
    pub fn new(secret: &[u8; SECRET_BYTES], label: &str) -> Self {
        // HKDF-Expand for one block is HMAC(secret, info ‖ 1). A key padded to the block length is the same HMAC key.
        let mut key = Zeroizing::new([0u8; 64]);
        for (to, from) in key.iter_mut().zip(secret) {
            *to = *from;
        }
        let mut mac = <Hmac<Sha256> as KeyInit>::new(GenericArray::from_slice(key.as_ref()));
        let full = [b"MLS 1.0 ", label.as_bytes()].concat();
        mac.update(&32u16.to_be_bytes());
        with_prefix(full.len(), |prefix| mac.update(prefix));
        mac.update(&full);
        Self { mac }
    }

    /// What [`expand_with_label`] gives for this context.
    #[must_use]
    pub fn expand(&self, context: &[u8]) -> Secret32 {
        let mut mac = self.mac.clone();
        with_prefix(context.len(), |prefix| mac.update(prefix));
        mac.update(context);
        mac.update(&[1]);
        Secret32::new(mac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use hkdf::Hkdf;

    use super::*;

    #[test]
    fn nothing_of_a_secret_is_printed() {
        let secrets = EpochSecrets {
            epoch: 7,
            root: EpochRoot::new([0xab; 32]),
            wrap_key: Secret32::new([0xcd; 32]),
            presence_root: Secret32::new([0xef; 32]),
        };
        let text = format!("{secrets:?} {:?} {:?}", secrets.root, secrets.wrap_key);
        for leak in ["ab", "cd", "171", "205"] {
            assert!(!text.to_lowercase().contains(leak), "{text}");
        }
    }

    #[test]
    fn keys_differ_by_document_purpose_and_epoch() {
        let root = EpochRoot::new([1; 32]);
        let (a, b) = (DocumentId([1; 16]), DocumentId([2; 16]));
        assert_ne!(root.content_key(&a), root.content_key(&b));
        assert_ne!(root.content_key(&a), root.commit_key(&a));
        assert_ne!(
            root.content_key(&a),
            EpochRoot::new([2; 32]).content_key(&a)
        );
    }

    #[test]
    fn expansion_is_hkdf_with_the_label_of_rfc_9420() {
        let info = b"\x00\x20\x0fMLS 1.0 content\x02id";
        let mut expected = [0u8; 32];
        Hkdf::<Sha256>::from_prk(&[9; 32])
            .unwrap()
            .expand(info, &mut expected)
            .unwrap();
        assert_eq!(
            expand_with_label(&[9; 32], "content", b"id").as_bytes(),
            &expected
        );
    }

    #[test]
    fn secrets_round_trip_through_cbor() {
        let root = EpochRoot::new([5; 32]);
        let mut bytes = Vec::new();
        ciborium::into_writer(&root, &mut bytes).unwrap();
        let back: EpochRoot = ciborium::from_reader(&bytes[..]).unwrap();
        assert_eq!(back, root);
    }
}
