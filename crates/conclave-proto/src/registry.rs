//! The register of decoders: everything that reads bytes which another program wrote, from the network, a disk or a person's clipboard.
//!
//! Each crate lists its own decoders. Random-input tests and fuzzers walk the whole list, so a decoder that is listed is attacked, and a
//! test compares the list with the sources, so one that is not listed is noticed. Nothing here is needed to use the library.

mod samples;

pub use samples::{client_frames, service_frames};

use tls_codec::{DeserializeBytes, Serialize, Size};

use crate::chunk::Assembler;
use crate::codec::{DecodeError, Tail, Varint, decode, encode};
use crate::frame::{
    AppendedRecord, ClientFrame, DeliveredRecord, JoinState, ServiceFrame, WelcomeDelivery,
};
use crate::group::{CommitBundle, CommitData, GroupEntry, RootWrap};
use crate::merkle::{self, Frontier, Head};
use crate::policy::{GroupPolicy, Role};
use crate::record::{Record, RecordHeader, Sealed};
use crate::{DeviceId, Hash, limits};

/// Where the bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A peer chose them.
    Network,
    /// The own store gave them back; the disk may have changed them, or a backup of another version.
    Disk,
    /// A person pasted or typed them.
    Person,
}

/// What decoding gave: the value's encoding, where the format promises that there is only one, or the code of a typed error.
pub type Decoded = Result<Option<Vec<u8>>, &'static str>;

/// One decoder.
#[derive(Clone, Copy)]
pub struct Decoder {
    /// `crate.thing`, unique.
    pub name: &'static str,
    /// Where the bytes come from.
    pub source: Source,
    /// More bytes than this are refused before anything is allocated for them; `usize::MAX` where what is stored is taken as it is.
    pub limit_bytes: usize,
    /// Decodes. It must return, whatever it is given.
    pub decode: fn(&[u8]) -> Decoded,
    /// Good inputs, to be mutated. At least one.
    pub samples: fn() -> Vec<Vec<u8>>,
    /// What the input is, so that mutations reach what matters.
    pub shape: Shape,
}

/// What an input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The bytes that are decoded.
    Bytes,
    /// Several rows of a store, as [`join_rows`] joins them.
    Rows,
}

impl Decoder {
    /// A decoder of one byte string.
    #[must_use]
    pub fn new(
        name: &'static str,
        source: Source,
        limit_bytes: usize,
        decode: fn(&[u8]) -> Decoded,
        samples: fn() -> Vec<Vec<u8>>,
    ) -> Self {
        Self {
            name,
            source,
            limit_bytes,
            decode,
            samples,
            shape: Shape::Bytes,
        }
    }

    /// The same, of rows that are read together.
    #[must_use]
    pub fn of_rows(self) -> Self {
        Self {
            shape: Shape::Rows,
            ..self
        }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoder({})", self.name)
    }
}

/// Result of a decoder for a structure that has one encoding.
///
/// # Errors
/// The code.
pub fn canonical<T: Serialize + Size>(value: Result<T, DecodeError>) -> Decoded {
    match value {
        Ok(value) => Ok(Some(encode(&value))),
        Err(error) => Err(error.code()),
    }
}

/// A structure in its wire encoding, of at most `LIMIT` bytes.
///
/// # Errors
/// The code.
pub fn wire<T: DeserializeBytes + Serialize + Size, const LIMIT: usize>(bytes: &[u8]) -> Decoded {
    canonical(decode::<T>("structure", bytes, LIMIT))
}

/// Rows of a store as one input: a list of (length, key, length, value). For decoders that read several rows together.
#[must_use]
pub fn join_rows<'a>(rows: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in rows {
        for part in [key, value] {
            crate::codec::put_bytes(&mut out, part);
        }
    }
    out
}

/// Takes apart what [`join_rows`] made; none where it is no such list.
#[must_use]
pub fn split_rows(mut bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        let mut pair = [Vec::new(), Vec::new()];
        for part in &mut pair {
            let (taken, rest) = crate::codec::Bytes::tls_deserialize_bytes(bytes).ok()?;
            *part = taken.into_vec();
            bytes = rest;
        }
        let [key, value] = pair;
        rows.push((key, value));
    }
    Some(rows)
}

/// The decoders of this crate.
#[must_use]
pub fn decoders() -> Vec<Decoder> {
    use Source::{Disk, Network, Person};
    let entry = Decoder::new;
    vec![
        entry(
            "proto.client_frame",
            Network,
            limits::FRAME_BYTES,
            wire::<ClientFrame, { limits::FRAME_BYTES }>,
            client_frames,
        ),
        entry(
            "proto.client_frame.login",
            Network,
            limits::UNAUTHENTICATED_FRAME_BYTES,
            wire::<ClientFrame, { limits::UNAUTHENTICATED_FRAME_BYTES }>,
            client_frames,
        ),
        entry(
            "proto.service_frame",
            Network,
            limits::FRAME_BYTES,
            wire::<ServiceFrame, { limits::FRAME_BYTES }>,
            service_frames,
        ),
        entry(
            "proto.chunks",
            Network,
            CHUNKS_BYTES,
            chunks,
            samples::chunks,
        ),
        entry(
            "proto.begun_snapshot",
            Network,
            limits::WIRE_MESSAGE_BYTES,
            |bytes| match ClientFrame::begun_snapshot(bytes) {
                Some(_) => Ok(None),
                None => Err(DecodeError::Malformed { what: "frame" }.code()),
            },
            samples::begun_snapshots,
        ),
        entry(
            "proto.commit_data",
            Network,
            COMMIT_DATA_BYTES,
            wire::<CommitData, COMMIT_DATA_BYTES>,
            samples::commit_data,
        ),
        entry(
            "proto.group_policy",
            Network,
            crate::policy::MAX_POLICY_BYTES,
            |bytes| canonical(GroupPolicy::from_bytes(bytes)),
            samples::policies,
        ),
        entry(
            "proto.merkle_proof",
            Network,
            PROOF_BYTES,
            proof,
            samples::proofs,
        ),
        entry(
            "proto.invitation",
            Disk,
            limits::FRAME_BYTES,
            wire::<WelcomeDelivery, { limits::FRAME_BYTES }>,
            samples::welcomes,
        ),
        entry(
            "proto.commit_bundle",
            Disk,
            limits::FRAME_BYTES,
            wire::<CommitBundle, { limits::FRAME_BYTES }>,
            samples::bundles,
        ),
        entry(
            "proto.record",
            Disk,
            STORED,
            stored::<Record>,
            samples::records,
        ),
        entry(
            "proto.record_header",
            Disk,
            STORED,
            stored::<RecordHeader>,
            samples::headers,
        ),
        entry(
            "proto.sealed",
            Disk,
            STORED,
            stored::<Sealed>,
            samples::sealed,
        ),
        entry(
            "proto.delivered_record",
            Network,
            STORED,
            stored::<DeliveredRecord>,
            samples::delivered,
        ),
        entry(
            "proto.appended_records",
            Network,
            STORED,
            stored::<Tail<AppendedRecord>>,
            samples::appended,
        ),
        entry(
            "proto.group_entry",
            Disk,
            STORED,
            stored::<GroupEntry>,
            samples::entries,
        ),
        entry(
            "proto.join_state",
            Network,
            STORED,
            stored::<JoinState>,
            samples::join_states,
        ),
        entry(
            "proto.root_wrap",
            Disk,
            STORED,
            stored::<RootWrap>,
            samples::wraps,
        ),
        entry(
            "proto.frontier",
            Disk,
            STORED,
            stored::<Frontier>,
            samples::frontiers,
        ),
        entry(
            "proto.varint",
            Network,
            8,
            wire::<Varint, 8>,
            samples::varints,
        ),
        entry(
            "proto.id_text",
            Person,
            ID_TEXT_BYTES,
            id_text,
            samples::id_texts,
        ),
        entry(
            "proto.role_text",
            Person,
            ROLE_TEXT_BYTES,
            role_text,
            samples::role_texts,
        ),
    ]
}

/// Stored structures have no limit of their own: they were limited when they came in.
const STORED: usize = usize::MAX;
const CHUNKS_BYTES: usize = limits::UNAUTHENTICATED_FRAME_BYTES;
const COMMIT_DATA_BYTES: usize = 1024;
const PROOF_BYTES: usize = 2 * 40 + 1 + 32 * (merkle::MAX_PROOF_LEN + 1);
const ID_TEXT_BYTES: usize = 64;
const ROLE_TEXT_BYTES: usize = 16;

fn stored<T: DeserializeBytes + Serialize + Size>(bytes: &[u8]) -> Decoded {
    wire::<T, { usize::MAX }>(bytes)
}

/// The input is a run of WebSocket messages, each with its length in front, from a device that has not logged in.
fn chunks(bytes: &[u8]) -> Decoded {
    let malformed = DecodeError::Malformed { what: "chunks" }.code();
    let mut assembler = Assembler::new(CHUNKS_BYTES);
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (message, after) = after.split_at_checked(length).ok_or(malformed)?;
        assembler
            .take(message.to_vec())
            .map_err(|error| error.code())?;
        rest = after;
    }
    Ok(None)
}

/// The input is two heads and a list of hashes: what a service says when it proves that a log only grew.
fn proof(bytes: &[u8]) -> Decoded {
    #[derive(tls_codec::TlsSize, tls_codec::TlsSerialize, tls_codec::TlsDeserializeBytes)]
    struct Claim {
        old: Head,
        new: Head,
        proof: Vec<Hash>,
    }
    let claim: Claim = decode("proof", bytes, PROOF_BYTES).map_err(|error| error.code())?;
    let inclusion =
        merkle::verify_inclusion(&claim.old.root, claim.old.size, &claim.new, &claim.proof);
    let consistency = merkle::verify_consistency(&claim.old, &claim.new, &claim.proof);
    match inclusion.or(consistency) {
        Ok(()) => Ok(None),
        Err(error) => Err(error.code()),
    }
}

fn text(bytes: &[u8]) -> Result<&str, &'static str> {
    std::str::from_utf8(bytes).map_err(|_| "text.not_utf8")
}

fn id_text(bytes: &[u8]) -> Decoded {
    match text(bytes)?.parse::<DeviceId>() {
        Ok(_) => Ok(None),
        Err(_) => Err("text.not_an_id"),
    }
}

fn role_text(bytes: &[u8]) -> Decoded {
    match text(bytes)?.parse::<Role>() {
        Ok(_) => Ok(None),
        Err(_) => Err("text.not_a_role"),
    }
}
