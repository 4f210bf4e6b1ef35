//! Sealing and opening one record: padding, AEAD, key commitment, signature.
//!
//! AEAD: XChaCha20-Poly1305 with a random nonce; the associated data is the exact encoded header. The commitment binds the
//! key: `HMAC-SHA-256(commitment key, header<V> ‖ nonce ‖ tag)`, checked before anything is decrypted, so that one ciphertext
//! cannot mean two things under two keys.
//!
//! Both keys that are used are a record's own, derived from those of its document and epoch by its nonce ([`RecordKeys`]): they can be shown
//! without showing anything of other records.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use chacha20::cipher::consts::U10;
use chacha20::hchacha;
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce};
use conclave_identity::DeviceKey;
use conclave_mls::{EpochRoot, LabelExpander, Secret32, expand_with_label};
use conclave_proto::DocumentId;
use conclave_proto::codec::{Bytes, encode, with_prefix};
use conclave_proto::record::{RECORD_LABEL, Record, RecordHeader, Sealed};
use conclave_proto::refusal::RecordFault;
use conclave_rules::max_sealed_bytes;
use hmac::{Hmac, Mac};
use rand_core::CryptoRngCore;
use sha2::Sha256;
use zeroize::Zeroizing;

const PAD_MARK: u8 = 0x80;

/// Keys of one document, each derived once for as long as this lives: one call.
pub(crate) struct KeyRing<'a> {
    source: &'a dyn KeySource,
    document: DocumentId,
    keys: BTreeMap<u64, ReadyKeys>,
}

/// Keys of one document in one epoch that open many records in a row. They live for one call.
pub(crate) struct ReadyKeys {
    content: Zeroizing<[u8; 32]>,
    commitments: LabelExpander,
}

impl ReadyKeys {
    /// The keys of the record with this nonce.
    pub(crate) fn of_record(&self, nonce: &[u8; 24]) -> RecordKeys {
        let (salt, _) = split_nonce(nonce);
        let content = hchacha::<U10>(Key::from_slice(self.content.as_slice()), salt.into());
        RecordKeys {
            content: Zeroizing::new(content.into()),
            commitment: Zeroizing::new(*self.commitments.expand(nonce).as_bytes()),
        }
    }

    /// As [`open`].
    pub(crate) fn open(&self, record: &Record) -> Result<Zeroizing<Vec<u8>>, RecordFault> {
        open_with(record, &self.of_record(&record.sealed.nonce))
    }

    /// As [`open`], with the header in its encoding.
    pub(crate) fn open_encoded(
        &self,
        encoded_header: &[u8],
        record: &Record,
    ) -> Result<Zeroizing<Vec<u8>>, RecordFault> {
        let keys = self.of_record(&record.sealed.nonce);
        let most = max_sealed_bytes(&record.header.body);
        open_bytes(encoded_header, &record.sealed, most, &keys)
    }
}

impl<'a> KeyRing<'a> {
    pub(crate) fn new(source: &'a dyn KeySource, document: DocumentId) -> Self {
        Self {
            source,
            document,
            keys: BTreeMap::new(),
        }
    }

    /// The keys of an epoch, if its root is held.
    pub(crate) fn get(&mut self, epoch: u64) -> Option<&ReadyKeys> {
        match self.keys.entry(epoch) {
            Entry::Occupied(entry) => Some(entry.into_mut()),
            Entry::Vacant(entry) => {
                let root = self.source.root(epoch)?;
                Some(entry.insert(DocKeys::derive(&root, &self.document).ready()))
            }
        }
    }
}

/// Where the roots of epochs come from.
pub trait KeySource {
    /// The root of an epoch, if this device holds it.
    fn root(&self, epoch: u64) -> Option<EpochRoot>;
}

/// The two keys of one document in one epoch. Zeroized on drop; `Debug` prints none of them.
#[derive(Clone)]
pub struct DocKeys {
    content: Zeroizing<[u8; 32]>,
    commitment: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for DocKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DocKeys(..)")
    }
}

impl DocKeys {
    /// Derives the keys of a document from the root of an epoch (`docs/PROTOCOL.md`, Epoch keys).
    #[must_use]
    pub fn derive(root: &EpochRoot, document: &DocumentId) -> Self {
        Self {
            content: Zeroizing::new(*root.content_key(document).as_bytes()),
            commitment: Zeroizing::new(*root.commit_key(document).as_bytes()),
        }
    }

    /// Derives the keys of a document's presence from the presence root of an epoch (`docs/PROTOCOL.md`, Presence).
    #[must_use]
    pub fn of_presence(presence_root: &Secret32, document: &DocumentId) -> Self {
        let key = |label| {
            let key = expand_with_label(presence_root.as_bytes(), label, document.as_bytes());
            Zeroizing::new(*key.as_bytes())
        };
        Self {
            content: key("content"),
            commitment: key("commitment"),
        }
    }

    /// Takes the keys as they are: for test vectors and key sources other than MLS.
    #[must_use]
    pub fn from_bytes(content: [u8; 32], commitment: [u8; 32]) -> Self {
        Self {
            content: Zeroizing::new(content),
            commitment: Zeroizing::new(commitment),
        }
    }

    /// The keys of the record with this nonce.
    #[must_use]
    pub fn of_record(&self, nonce: &[u8; 24]) -> RecordKeys {
        self.ready().of_record(nonce)
    }

    fn ready(&self) -> ReadyKeys {
        ReadyKeys {
            content: self.content.clone(),
            commitments: LabelExpander::new(&self.commitment, "record"),
        }
    }
}

/// A nonce's first 16 bytes, which lead to the key of the record, and the nonce under that key.
fn split_nonce(nonce: &[u8; 24]) -> (&[u8; 16], Nonce) {
    let (salt, rest) = nonce.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    let mut inner = Nonce::default();
    for (to, from) in inner.iter_mut().skip(4).zip(rest) {
        *to = *from;
    }
    (salt, inner)
}

/// The two keys of one record: they open it, and no other. Zeroized on drop; `Debug` prints none of them.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordKeys {
    content: Zeroizing<[u8; 32]>,
    commitment: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for RecordKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordKeys(..)")
    }
}

impl RecordKeys {
    /// Takes the keys as they are.
    #[must_use]
    pub fn from_bytes(content: [u8; 32], commitment: [u8; 32]) -> Self {
        Self {
            content: Zeroizing::new(content),
            commitment: Zeroizing::new(commitment),
        }
    }

    /// The key of the AEAD.
    #[must_use]
    pub fn content(&self) -> &[u8; 32] {
        &self.content
    }

    /// The key of the commitment.
    #[must_use]
    pub fn commitment(&self) -> &[u8; 32] {
        &self.commitment
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(Key::from_slice(self.content.as_slice()))
    }

    /// The commitment to this key of a record with `encoded_header`.
    fn commit(&self, encoded_header: &[u8], nonce: &[u8; 24], tag: &[u8; 16]) -> Hmac<Sha256> {
        // HMAC takes keys of any length, so this cannot fail; a fresh MAC under the empty key would verify nothing.
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(self.commitment.as_slice())
            .unwrap_or_else(|_| <Hmac<Sha256> as Mac>::new(&Default::default()));
        with_prefix(encoded_header.len(), |prefix| mac.update(prefix));
        mac.update(encoded_header);
        mac.update(nonce);
        mac.update(tag);
        mac
    }
}

/// Length in bytes of a payload once padded: one mark byte, then zeros up to a multiple of `padding_bytes`.
#[must_use]
pub fn padded_len(payload_len: usize, padding_bytes: u16) -> usize {
    let block = usize::from(padding_bytes.max(1));
    payload_len
        .saturating_add(1)
        .div_ceil(block)
        .saturating_mul(block)
}

/// Seals and signs a record: payload ‖ 0x80 ‖ zeros to a multiple of `padding_bytes`.
#[must_use]
pub fn seal(
    header: &RecordHeader,
    payload: &[u8],
    keys: &DocKeys,
    signer: &DeviceKey,
    padding_bytes: u16,
    rng: &mut dyn CryptoRngCore,
) -> Record {
    let mut nonce = [0u8; 24];
    rng.fill_bytes(&mut nonce);
    seal_with_nonce(header, payload, keys, signer, padding_bytes, nonce)
}

/// As [`seal`], with a given nonce: for test vectors. A nonce must never be used twice under one key.
#[must_use]
pub fn seal_with_nonce(
    header: &RecordHeader,
    payload: &[u8],
    keys: &DocKeys,
    signer: &DeviceKey,
    padding_bytes: u16,
    nonce: [u8; 24],
) -> Record {
    let mut sealed = seal_bytes(&encode(header), payload, keys, padding_bytes, nonce);
    let core = sealed.core(header);
    sealed.signature = signer.sign(RECORD_LABEL, &core.0);
    Record {
        header: *header,
        sealed,
    }
}

/// Seals a payload under a header in its encoding. The signature is left zero. A nonce must never be used twice under one key.
#[must_use]
pub fn seal_bytes(
    encoded_header: &[u8],
    payload: &[u8],
    keys: &DocKeys,
    padding_bytes: u16,
    nonce: [u8; 24],
) -> Sealed {
    let length = padded_len(payload.len(), padding_bytes);
    let mut buffer = Vec::with_capacity(length);
    buffer.extend_from_slice(payload);
    buffer.push(PAD_MARK);
    buffer.resize(length, 0);
    let keys = keys.of_record(&nonce);
    // Fails only past 2³⁸ bytes, which the limits exclude; the record would then carry a zero tag and open nowhere.
    let tag: [u8; 16] = keys
        .cipher()
        .encrypt_in_place_detached(&split_nonce(&nonce).1, encoded_header, &mut buffer)
        .map_or([0; 16], Into::into);
    let commitment = keys
        .commit(encoded_header, &nonce, &tag)
        .finalize()
        .into_bytes()
        .into();
    Sealed {
        nonce,
        ciphertext: Bytes::from(buffer),
        tag,
        commitment,
        signature: [0; 64],
    }
}

/// Opens a record: commitment first, then AEAD, then padding. The signature is not looked at.
///
/// # Errors
/// [`RecordFault::Malformed`] past the size limit of its kind or without padding mark, [`RecordFault::Commitment`],
/// [`RecordFault::Open`].
pub fn open(record: &Record, keys: &DocKeys) -> Result<Zeroizing<Vec<u8>>, RecordFault> {
    open_with(record, &keys.of_record(&record.sealed.nonce))
}

/// As [`open`], with the record's own keys.
///
/// # Errors
/// As [`open`].
pub fn open_with(record: &Record, keys: &RecordKeys) -> Result<Zeroizing<Vec<u8>>, RecordFault> {
    open_bytes(
        &encode(&record.header),
        &record.sealed,
        max_sealed_bytes(&record.header.body),
        keys,
    )
}

/// Opens what is sealed under a header in its encoding, of at most `max_bytes`. The signature is not looked at.
///
/// # Errors
/// As [`open`].
pub fn open_bytes(
    encoded_header: &[u8],
    sealed: &Sealed,
    max_bytes: usize,
    keys: &RecordKeys,
) -> Result<Zeroizing<Vec<u8>>, RecordFault> {
    if sealed.ciphertext.len() > max_bytes {
        return Err(RecordFault::Malformed);
    }
    keys.commit(encoded_header, &sealed.nonce, &sealed.tag)
        .verify_slice(&sealed.commitment)
        // Breakage: the key need not be the one committed to.
        .or_else(|wrong| crate::broken("skip-commitment").then_some(()).ok_or(wrong))
        .map_err(|_| RecordFault::Commitment)?;
    let mut buffer = Zeroizing::new(sealed.ciphertext.as_slice().to_vec());
    keys.cipher()
        .decrypt_in_place_detached(
            &split_nonce(&sealed.nonce).1,
            encoded_header,
            buffer.as_mut_slice(),
            chacha20poly1305::Tag::from_slice(&sealed.tag),
        )
        .map_err(|_| RecordFault::Open)?;
    let end = buffer
        .iter()
        .rposition(|byte| *byte != 0)
        .ok_or(RecordFault::Malformed)?;
    if buffer.get(end) != Some(&PAD_MARK) {
        return Err(RecordFault::Malformed);
    }
    buffer.truncate(end);
    Ok(buffer)
}
