//! Checking a frame of records on its connection, against the group's state and the log as far as they are durable. The author's chain may
//! run ahead by what is in flight.

use bytes::Bytes;
use conclave_mls::verify_signature;
use conclave_proto::codec::encode;
use conclave_proto::frame::AppendedRecord;
use conclave_proto::record::{Chained, RECORD_LABEL, RECORD_VERSION, RecordHeader, record_leaf};
use conclave_proto::refusal::{ForbiddenWhy, RecordFault};
use conclave_proto::{Hash, Head, RecordBody, Refusal, Role, limits};
use tls_codec::Size;

use super::channel::Channel;
use super::encode::hint;
use super::rows::Proofs;
use super::{Document, rows};
use crate::group::not_member;
use crate::store::OpError;

/// A checked record.
#[derive(Debug)]
pub(crate) struct PreparedRecord {
    pub(crate) kind: u8,
    pub(crate) seen: u64,
    pub(crate) hint: [u8; 8],
    pub(crate) leaf: Hash,
    /// Encoded sealed part.
    pub(crate) sealed: Bytes,
    /// Encoded size of the whole record.
    pub(crate) bytes: u64,
    /// What its whole form needs, where its author had seen less than the active snapshot covers, and no such record before it names the same.
    pub(crate) late: Option<Box<Late>>,
}

/// A record whose author lags behind the active snapshot: receivers may not know the root that it names.
#[derive(Debug)]
pub(crate) struct Late {
    /// Encoded header.
    pub(crate) header: Vec<u8>,
    /// Proof from the seen head to the covered one.
    pub(crate) proof: Vec<Hash>,
}

/// A checked frame.
#[derive(Debug)]
pub(crate) struct PreparedFrame {
    pub(crate) epoch: u64,
    /// What the first record follows.
    pub(crate) prev: Hash,
    /// Size that the active snapshot covered when this was made.
    pub(crate) covered: u64,
    pub(crate) records: Vec<PreparedRecord>,
}

/// Whether a record of `epoch` is taken while the group is at `current`.
pub(super) fn is_current(epoch: u64, current: u64) -> bool {
    // Breakage: records of epochs that are over are taken.
    epoch == current || (cfg!(conclave_break = "accept-stale-epoch") && epoch < current)
}

/// What an [`conclave_proto::frame::ClientFrame::Append`] says beside its channel.
pub(crate) struct Arrived {
    pub(crate) epoch: u64,
    pub(crate) first_clock: u64,
    pub(crate) records: Vec<AppendedRecord>,
}

/// Checks a frame. None: it does not follow what is in flight; the writer says what is wrong.
pub(super) async fn prepare(
    channel: &Channel,
    generation: u64,
    arrived: Arrived,
) -> Result<Option<PreparedFrame>, OpError> {
    let view = channel.group.view();
    let device = &channel.author.device;
    let row = view
        .roster
        .current_row(device)
        .ok_or_else(|| not_member(&view, device))?;
    if !is_current(arrived.epoch, view.epoch) {
        return Err(Refusal::StaleEpoch {
            current: view.epoch,
        }
        .into());
    }
    check_shape(&arrived.records, row.role)?;
    let Some(prev) = follow(channel, generation, arrived.first_clock).await? else {
        return Ok(None);
    };
    let first_clock = arrived.first_clock;
    let prepared = link(channel, arrived, prev).await?;
    let Linked {
        frame,
        core,
        signature,
    } = prepared;
    verify_signature(row, RECORD_LABEL, &core.0, &signature)
        .map_err(|fault| Refusal::BadRecord { fault })?;
    let next_clock = first_clock.saturating_add(frame.records.len() as u64);
    let last = frame.records.last().map_or(prev, |record| record.leaf);
    channel.advance(generation, next_clock, last);
    Ok(Some(frame))
}

/// Checks what needs no log: kinds, role, sizes.
fn check_shape(records: &[AppendedRecord], role: Role) -> Result<(), Refusal> {
    if records.is_empty() {
        return Err(Refusal::Malformed);
    }
    for record in records {
        match record.kind {
            1 if role < Role::Editor => {
                return Err(Refusal::Forbidden {
                    why: ForbiddenWhy::Role,
                });
            }
            1 | 2 => {}
            _ => {
                return Err(Refusal::BadRecord {
                    fault: RecordFault::Malformed,
                });
            }
        }
        if record.sealed.ciphertext.len() > limits::UPDATE_BYTES {
            return Err(Refusal::TooLarge {
                max: limits::UPDATE_BYTES as u64,
            });
        }
    }
    Ok(())
}

/// The leaf that a frame with this first clock follows; none when it does not follow.
async fn follow(
    channel: &Channel,
    generation: u64,
    first_clock: u64,
) -> Result<Option<Hash>, OpError> {
    let (_, chain) = channel.chain();
    let (next, last) = match chain {
        Some(chain) => chain,
        None => {
            let document = &channel.document;
            let mut conn = document.env.reads.acquire().await?;
            let chain = rows::chain(&mut conn, document.row, &channel.author).await?;
            channel.reload(generation, chain);
            chain
        }
    };
    Ok((first_clock == next).then_some(last))
}

/// A chained frame, with what its last record's signature covers.
struct Linked {
    frame: PreparedFrame,
    core: Hash,
    signature: [u8; 64],
}

/// Rebuilds the headers, checks the seen heads and computes the leaves.
async fn link(channel: &Channel, arrived: Arrived, prev: Hash) -> Result<Linked, OpError> {
    let mut seen = Seen::new(&channel.document);
    let mut records = Vec::with_capacity(arrived.records.len());
    let mut last = (Hash::ZERO, [0; 64]);
    let mut chained = Chained {
        clock: arrived.first_clock,
        prev,
    };
    for record in arrived.records {
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: channel.document.group,
            document: channel.document.id,
            epoch: arrived.epoch,
            author: channel.author,
            seen: seen.head(record.seen_size.0, record.seen_hint).await?,
            body: if record.kind == 1 {
                RecordBody::Update(chained)
            } else {
                RecordBody::Verdict(chained)
            },
        };
        let core = record.sealed.core(&header);
        let leaf = record_leaf(&core, &record.sealed.signature);
        last = (core, record.sealed.signature);
        chained = Chained {
            clock: chained.clock.saturating_add(1),
            prev: leaf,
        };
        let sealed = Bytes::from(encode(&record.sealed));
        let bytes = header.tls_serialized_len().saturating_add(sealed.len());
        records.push(PreparedRecord {
            kind: record.kind,
            seen: header.seen.size,
            hint: record.seen_hint,
            leaf,
            sealed,
            bytes: bytes as u64,
            late: seen.late(&header).await?,
        });
    }
    let (core, signature) = last;
    let frame = PreparedFrame {
        epoch: arrived.epoch,
        prev,
        covered: seen.covered,
        records,
    };
    Ok(Linked {
        frame,
        core,
        signature,
    })
}

/// The seen heads of one frame. Most of its records name the same.
struct Seen<'a> {
    document: &'a Document,
    /// Size that the active snapshot covers.
    covered: u64,
    head: Option<Head>,
    /// The last size below that for which a proof was made.
    shown: Option<u64>,
    proofs: Proofs,
}

impl<'a> Seen<'a> {
    fn new(document: &'a Document) -> Self {
        let covered = document.live().active.covered;
        Self {
            document,
            covered,
            head: None,
            shown: None,
            proofs: Proofs::default(),
        }
    }

    /// The head of this size, if the log had it and it begins like this.
    async fn head(&mut self, size: u64, begins: [u8; 8]) -> Result<Head, OpError> {
        let bad = Refusal::BadRecord {
            fault: RecordFault::SeenHead,
        };
        let head = match self.head {
            Some(head) if head.size == size => head,
            _ => {
                let root = self
                    .document
                    .root_at(size)
                    .await?
                    .ok_or_else(|| bad.clone())?;
                Head { size, root }
            }
        };
        self.head = Some(head);
        if hint(&head.root) == begins {
            Ok(head)
        } else {
            Err(bad.into())
        }
    }

    async fn late(&mut self, header: &RecordHeader) -> Result<Option<Box<Late>>, OpError> {
        let size = header.seen.size;
        if size >= self.covered || self.shown == Some(size) {
            return Ok(None);
        }
        let mut reads = self.document.env.reads.acquire().await?;
        let proof = self
            .proofs
            .get(&mut reads, self.document.row, size, self.covered)
            .await?;
        self.shown = Some(size);
        let header = encode(header);
        Ok(Some(Box::new(Late { header, proof })))
    }
}
