//! Evidence: what was signed together contradicts itself, and proves to a stranger, who knows no more than the service's key, that somebody was
//! dishonest, or that data were put back or copied without a word. `conclave-identity` says what it proves.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{Bytes, DecodeError, decode, encode};
use crate::ids::Hash;
use crate::record::Record;
use crate::service::Generation;

/// Version of the format that this library writes.
pub const EVIDENCE_VERSION: u16 = 1;
/// Most that evidence takes, in bytes: two records of the largest kind that has a place in its author's chain, and what goes with them.
pub const EVIDENCE_BYTES: usize = 3 << 20;

/// What somebody signed, and what contradicts it.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Evidence {
    /// [`EVIDENCE_VERSION`].
    pub version: u16,
    /// The generation under whose head key `a` and `b` are signed; of two records, the one in which they were found.
    pub generation: Generation,
    /// What is shown.
    pub charge: Charge,
}

/// What evidence shows. Heads are notes ([`note`](crate::service::note)): they name their log and their signer by themselves.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
// It is made or read once in a long while.
#[allow(clippy::large_enum_variant)]
pub enum Charge {
    /// Two histories of one log: the log of `b` has another root at the size of `a`.
    #[tls_codec(discriminant = 1)]
    Fork {
        /// A head.
        a: Bytes,
        /// One of the same log that is no smaller.
        b: Bytes,
        /// Root of the log of `b` at the size of `a`.
        root: Hash,
        /// Consistency proof from there to `b`.
        proof: Vec<Hash>,
    },
    /// A log that became shorter: `b` is smaller than `a`, and later.
    #[tls_codec(discriminant = 2)]
    Rollback {
        /// A head.
        a: Bytes,
        /// A later one of the same log.
        b: Bytes,
    },
    /// A device that wrote two records for one place.
    #[tls_codec(discriminant = 3)]
    Equivocation {
        /// The device's credential: its user vouches for its key.
        certificate: Bytes,
        /// A record.
        a: Record,
        /// Another one of the same place in its author's chain.
        b: Record,
    },
    /// A generation in which heads were signed long after the next one had begun.
    #[tls_codec(discriminant = 4)]
    Parallel {
        /// A later generation.
        later: Generation,
        /// A head.
        a: Bytes,
    },
}

impl Evidence {
    /// The file's content.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a file's content. What it proves is another question.
    ///
    /// # Errors
    /// [`DecodeError`] for anything but the one encoding of evidence of at most [`EVIDENCE_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode("evidence", bytes, EVIDENCE_BYTES)
    }
}
