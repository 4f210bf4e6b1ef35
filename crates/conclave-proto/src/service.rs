//! What a service says of itself and signs: its generations, the heads of its logs, and what it has lost for good.
//!
//! A service only appends. Each time that it was put back to an earlier state, a new [`Generation`] begins; under the head key of each
//! generation it signs heads of logs. A [`SignedHead`] proves that its service had at least that much of a log.

use data_encoding::{BASE64, HEXLOWER};
use sha2::{Digest, Sha256};
use tls_codec::{Serialize, TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::encode;
use crate::hash::labelled;
use crate::ids::{DocumentId, GroupId, Hash, UnixMs};
use crate::merkle::Head;

/// Label under which a service's key signs a [`Generation`].
pub const GENERATION_LABEL: &str = "conclave 1.0 service generation";
/// Label under which a service's key signs a [`Loss`].
pub const LOSS_LABEL: &str = "conclave 1.0 service loss";
/// Label of a generation's hash.
const GENERATION_ID: &str = "conclave 1.0 service generation id";

/// Why a generation began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Cause {
    /// The service was founded.
    Founded = 1,
    /// Its operator put back an earlier copy, or it came up after a crash that may have cost it something.
    Restored = 2,
    /// It saw from a head of its own that it had been put back.
    PutBack = 3,
}

/// A stretch of a service's life in which its logs only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Generation {
    /// Greater than every earlier one's, and not below the time at which it began, in milliseconds: a backup that is put back twice makes
    /// two different ones.
    pub number: u64,
    /// [`Generation::hash`] of the one before; zero for the first.
    pub previous: Hash,
    /// Why it began.
    pub cause: Cause,
    /// When it began.
    pub begun: UnixMs,
    /// Key that signs heads in it.
    pub head_key: [u8; 32],
    /// Signature of the service's key under [`GENERATION_LABEL`] over [`Generation::signed_bytes`].
    pub signature: [u8; 64],
}

impl Generation {
    /// What is signed: all but the signature.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        without_signature(self)
    }

    /// Hash by which the next generation names this one.
    #[must_use]
    pub fn hash(&self) -> Hash {
        labelled(GENERATION_ID, &[&encode(self)])
    }
}

/// Names a log: a group's own, or a document's.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
pub struct LogName {
    /// The group.
    pub group: GroupId,
    /// The document; none for the group's own log.
    pub document: Option<DocumentId>,
}

/// A head of a log, signed by its service as a timestamped cosignature (C2SP `tlog-cosignature`): no larger one had been signed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SignedHead {
    /// The head.
    pub head: Head,
    /// When it was signed, in seconds since 1970. Never falls within one log.
    pub seconds: u64,
    /// Signature of the generation's head key over [`cosigned`].
    pub signature: [u8; 64],
}

/// The service has given up what it lost of a log: what went beyond `kept`, up to `lost` or further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Loss {
    /// Number of the generation in which it is declared.
    pub generation: u64,
    /// The log.
    pub log: LogName,
    /// What there was of it when the loss was declared: it goes on from here.
    pub kept: Head,
    /// The largest head that was known and has not come back.
    pub lost: Head,
    /// Signature of the service's key under [`LOSS_LABEL`] over [`Loss::signed_bytes`].
    pub signature: [u8; 64],
}

impl Loss {
    /// What is signed: all but the signature.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        without_signature(self)
    }
}

/// The signature is the last field of both, of 64 bytes.
fn without_signature(signed: &impl Serialize) -> Vec<u8> {
    let mut bytes = encode(signed);
    bytes.truncate(bytes.len().saturating_sub(64));
    bytes
}

/// The name under which a service signs heads: it follows from its key, never from an address.
#[must_use]
pub fn service_name(service_key: &[u8; 32]) -> String {
    let digest = HEXLOWER.encode(&Sha256::digest(service_key));
    let digits: String = digest.chars().take(32).collect();
    format!("conclave-{digits}")
}

/// What a [`SignedHead`]'s signature covers: the time, and a C2SP checkpoint (origin, size, root) without extension lines.
#[must_use]
pub fn cosigned(
    service_key: &[u8; 32],
    generation: u64,
    log: &LogName,
    head: &Head,
    seconds: u64,
) -> Vec<u8> {
    let checkpoint = checkpoint(service_key, generation, log, head);
    format!("cosignature/v1\ntime {seconds}\n{checkpoint}").into_bytes()
}

/// The three lines of a checkpoint.
fn checkpoint(service_key: &[u8; 32], generation: u64, log: &LogName, head: &Head) -> String {
    let service = service_name(service_key);
    let group = log.group;
    let document = log
        .document
        .map_or_else(String::new, |document| format!("/{document}"));
    let root = BASE64.encode(&head.root.0);
    let size = head.size;
    format!("{service}/{generation}/{group}{document}\n{size}\n{root}\n")
}

/// Most bytes of a [`note`].
pub const NOTE_BYTES: usize = 512;
/// Type of a timestamped cosignature in the id of its key (C2SP `signed-note`).
const COSIGNATURE: u8 = 0x04;
/// Key id, time and signature.
const NOTE_SIGNATURE_BYTES: usize = 4 + 8 + 64;

/// A signed head as a C2SP signed note, which names its log and its signer: a checkpoint, an empty line, and one timestamped cosignature.
#[must_use]
pub fn note(
    service_key: &[u8; 32],
    generation: &Generation,
    log: &LogName,
    signed: &SignedHead,
) -> Vec<u8> {
    let number = generation.number;
    let text = checkpoint(service_key, number, log, &signed.head);
    let name = format!("{}/{number}", service_name(service_key));
    let mut id = Sha256::new();
    id.update(&name);
    id.update([b'\n', COSIGNATURE]);
    id.update(generation.head_key);
    let id = id.finalize();
    let mut signature = Vec::with_capacity(NOTE_SIGNATURE_BYTES);
    signature.extend(id.iter().take(4));
    signature.extend(signed.seconds.to_be_bytes());
    signature.extend(signed.signature);
    let signature = BASE64.encode(&signature);
    format!("{text}\n\u{2014} {name} {signature}\n").into_bytes()
}

/// What a [`note`] says: of which log it is, and its head. Whose note it is shows when it is made again from that, and is the same.
#[must_use]
pub fn read_note(bytes: &[u8]) -> Option<(LogName, SignedHead)> {
    if bytes.len() > NOTE_BYTES {
        return None;
    }
    let mut lines = std::str::from_utf8(bytes).ok()?.split('\n');
    let mut origin = lines.next()?.split('/').skip(2);
    let log = LogName {
        group: origin.next()?.parse().ok()?,
        document: origin.next().map(str::parse).transpose().ok()?,
    };
    let size = lines.next()?.parse().ok()?;
    let root = BASE64.decode(lines.next()?.as_bytes()).ok()?;
    let root = Hash::from_slice(&root)?;
    let (_, signature) = lines.nth(1)?.rsplit_once(' ')?;
    let signature = BASE64.decode(signature.as_bytes()).ok()?;
    let (seconds, signature) = signature.get(4..)?.split_first_chunk()?;
    let signed = SignedHead {
        head: Head { size, root },
        seconds: u64::from_be_bytes(*seconds),
        signature: signature.try_into().ok()?,
    };
    Some((log, signed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_of_a_head_is_a_c2sp_cosignature() {
        let head = Head {
            size: 5210,
            root: Hash([0xab; 32]),
        };
        let mut log = LogName {
            group: GroupId([1; 16]),
            document: Some(DocumentId([2; 16])),
        };
        let text = cosigned(&[7; 32], 1_700_000_000_123, &log, &head, 1_700_000_001);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "cosignature/v1\n\
             time 1700000001\n\
             conclave-4bb06f8e4e3a7715d201d573d0aa4237/1700000000123/\
             01010101010101010101010101010101/02020202020202020202020202020202\n\
             5210\n\
             q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=\n"
        );
        log.document = None;
        let text = cosigned(&[7; 32], 1, &log, &Head::EMPTY, 0);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "cosignature/v1\n\
             time 0\n\
             conclave-4bb06f8e4e3a7715d201d573d0aa4237/1/01010101010101010101010101010101\n\
             0\n\
             47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
        );
    }

    #[test]
    fn a_note_says_what_was_signed_and_by_whom() {
        let generation = Generation {
            number: 3,
            previous: Hash([4; 32]),
            cause: Cause::PutBack,
            begun: UnixMs(2),
            head_key: [5; 32],
            signature: [6; 64],
        };
        let signed = SignedHead {
            head: Head {
                size: u64::MAX,
                root: Hash([0xab; 32]),
            },
            seconds: u64::MAX,
            signature: [9; 64],
        };
        for document in [None, Some(DocumentId([2; 16]))] {
            let log = LogName {
                group: GroupId([1; 16]),
                document,
            };
            let longest = Generation {
                number: u64::MAX,
                ..generation
            };
            for generation in [generation, longest] {
                let bytes = note(&[7; 32], &generation, &log, &signed);
                assert!(bytes.len() <= NOTE_BYTES);
                assert_eq!(read_note(&bytes), Some((log, signed)));
            }
        }
        let log = LogName {
            group: GroupId([1; 16]),
            document: None,
        };
        let bytes = note(&[7; 32], &generation, &log, &signed);
        for cut in 0..bytes.len() - 1 {
            let read = read_note(&bytes[..cut]);
            let again = read.map(|(log, signed)| note(&[7; 32], &generation, &log, &signed));
            assert_ne!(again.as_deref(), Some(&bytes[..cut]));
        }
        assert_eq!(read_note(&[b'a'; NOTE_BYTES + 1]), None);
    }

    #[test]
    fn a_generation_is_named_with_its_signature_and_signed_without() {
        let generation = Generation {
            number: 3,
            previous: Hash([4; 32]),
            cause: Cause::PutBack,
            begun: UnixMs(2),
            head_key: [5; 32],
            signature: [6; 64],
        };
        let whole = encode(&generation);
        assert_eq!(whole.len(), 145);
        assert_eq!(generation.signed_bytes(), whole[..81]);
        let other = Generation {
            signature: [7; 64],
            ..generation
        };
        assert_eq!(other.signed_bytes(), generation.signed_bytes());
        assert_ne!(other.hash(), generation.hash());
    }
}
