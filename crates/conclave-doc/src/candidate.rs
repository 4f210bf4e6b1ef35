//! One record on its way through judging.

use conclave_proto::codec::encode;
use conclave_proto::record::{RECORD_LABEL, Record, RecordBody};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Hash, UserId};
use conclave_rules::{RosterRow, verify_signature};
use tls_codec::Size;

use crate::context::Blocked;
use crate::error::{Fault, Finding, Suspect};
use crate::incoming::{Elided, Form};
use crate::state::SnapshotInfo;

/// Most records asked for at once when their elided forms do not verify.
pub(crate) const WHOLE_COUNT: u32 = 256;

/// How a record came, so that it can go back to the queue.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Elided { seen_size: u64, seen_hint: [u8; 8] },
    Whole { proof: Vec<Hash> },
    Own,
    Leaf,
}

/// What is decided without a content key.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    /// The position of the active snapshot, which is known already.
    Position,
    /// Refused. `link` is its clock where it nevertheless stands in its author's chain.
    Refused {
        fault: RecordFault,
        suspect: Suspect,
        link: Option<u64>,
    },
    /// An update or verdict that follows in its author's chain; a wrong seen head is kept for later, since it refuses only what is
    /// authentic.
    Chained {
        clock: u64,
        seen: Option<RecordFault>,
    },
    /// A snapshot that becomes the active one.
    Snapshot(Box<SnapshotInfo>),
}

/// One examined record.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub seq: u64,
    /// None where only the leaf is known.
    pub record: Option<Record>,
    /// The record, encoded once: its hash, the associated data of its AEAD and its row are made of it.
    pub encoded: Encoded,
    /// What the signature covers.
    pub core: Hash,
    pub leaf: Hash,
    /// Encoded size in the queue, in bytes.
    pub queued_bytes: usize,
    pub user: UserId,
    pub source: Source,
    pub standing: Standing,
}

/// A record in its encoding; empty where there is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Encoded {
    bytes: Vec<u8>,
    header_bytes: usize,
}

impl Encoded {
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            bytes: encode(record),
            header_bytes: record.header.tls_serialized_len(),
        }
    }

    /// The header in its encoding.
    pub(crate) fn header(&self) -> &[u8] {
        self.bytes.get(..self.header_bytes).unwrap_or_default()
    }

    /// Size of the record, in bytes.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl Candidate {
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.source, Source::Own)
    }

    /// Whether it may hold an update.
    pub(crate) fn has_content(&self) -> bool {
        let body = self.record.as_ref().map(|record| &record.header.body);
        matches!(body, Some(RecordBody::Update(_) | RecordBody::Carried(_)))
    }

    /// Whether the signature is that of the roster's key. Own records need no check.
    pub(crate) fn is_signed_by(&self, row: Option<&RosterRow>) -> bool {
        let (Some(record), Some(row)) = (&self.record, row) else {
            return false;
        };
        // Breakage: any signature will do.
        self.is_own()
            || crate::broken("skip-signature")
            || verify_signature(row, RECORD_LABEL, &self.core.0, &record.sealed.signature).is_ok()
    }

    /// The form that the queue held.
    pub(crate) fn into_form(self) -> Form {
        match (self.source, self.record) {
            (Source::Own, _) => Form::Own,
            (Source::Whole { proof }, Some(record)) => Form::Whole { record, proof },
            (
                Source::Elided {
                    seen_size,
                    seen_hint,
                },
                Some(record),
            ) => Form::Elided(Elided {
                author: record.header.author,
                epoch: record.header.epoch,
                seen_size,
                seen_hint,
                kind: record.header.body.kind_code(),
                sealed: record.sealed,
            }),
            _ => Form::Leaf(self.leaf),
        }
    }
}

/// Why examination stopped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    pub seq: u64,
    pub why: Blocked,
    pub finding: Option<Finding>,
}

/// The outcome of one examination step.
#[allow(clippy::large_enum_variant, reason = "lives for one match")]
pub(crate) enum Step {
    Candidate(Candidate),
    Stop(Form, Blocked, Option<Fault>),
}
