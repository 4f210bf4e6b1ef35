//! What reads the wire, and what the wire's structures look like in a store.

mod samples;

pub use samples::{client_frames, refusals, service_frames};

use conclave_proto::chunk::Assembler;
use conclave_proto::codec::{DecodeError, Tail, Varint, decode};
use conclave_proto::evidence::{EVIDENCE_BYTES, Evidence};
use conclave_proto::frame::{
    AppendedRecord, ClientFrame, DeliveredRecord, JoinState, ServiceFrame, WelcomeDelivery,
};
use conclave_proto::group::{CommitBundle, CommitData, GroupEntry, RootWrap};
use conclave_proto::merkle::{self, Frontier, Head};
use conclave_proto::policy::{GroupPolicy, Role};
use conclave_proto::presence::PresenceContent;
use conclave_proto::record::{Record, RecordHeader, Sealed};
use conclave_proto::service::{Generation, Loss, NOTE_BYTES, read_note};
use conclave_proto::{DeviceId, Hash, limits};
use tls_codec::{DeserializeBytes, Serialize, Size};

use super::register::{Decoded, Decoder, Source, canonical, wire};

pub(super) fn decoders() -> Vec<Decoder> {
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
            "proto.presence",
            Network,
            limits::PRESENCE_BYTES,
            wire::<PresenceContent, { limits::PRESENCE_BYTES }>,
            samples::presence_contents,
        ),
        entry(
            "proto.evidence",
            Person,
            EVIDENCE_BYTES,
            wire::<Evidence, EVIDENCE_BYTES>,
            samples::evidence,
        ),
        entry(
            "proto.evidence_note",
            Person,
            NOTE_BYTES,
            |bytes| match read_note(bytes) {
                Some(_) => Ok(None),
                None => Err(DecodeError::Malformed { what: "note" }.code()),
            },
            samples::notes,
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
            conclave_proto::policy::MAX_POLICY_BYTES,
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
            "proto.generation",
            Disk,
            STORED,
            stored::<Generation>,
            samples::generations,
        ),
        entry("proto.loss", Disk, STORED, stored::<Loss>, samples::losses),
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
