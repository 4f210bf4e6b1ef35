//! Checking a frame of records on its connection, against the group's state and the log as far as they are durable. The author's chain may
//! run ahead by what is in flight.

use bytes::Bytes;
use conclave_proto::codec::encode;
use conclave_proto::frame::AppendedRecord;
use conclave_proto::record::{Chained, RECORD_LABEL, RECORD_VERSION, RecordHeader, record_leaf};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Hash, Head, Refusal};
use conclave_rules::{
    Chain, Gate, LogId, Place, RosterRow, Seen, judge_record, max_sealed_bytes, verify_signature,
};
use tls_codec::Size;

use super::channel::Channel;
use super::encode::hint;
use super::rows::Proofs;
use super::{Document, rows};
use crate::store::OpError;

const MALFORMED: Refusal = Refusal::BadRecord {
    fault: RecordFault::Malformed,
};

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
        .ok_or_else(|| view.not_member(device))?;
    let gate = Gate::Before {
        current: view.epoch,
    };
    // Asked first: what was sealed before a commit need not follow what was sealed after.
    if gate.admits(arrived.epoch).is_err() {
        return Err(Refusal::StaleEpoch {
            current: view.epoch,
        }
        .into());
    }
    check_shape(&arrived.records)?;
    let Some(prev) = follow(channel, generation, arrived.first_clock).await? else {
        return Ok(None);
    };
    let first_clock = arrived.first_clock;
    let prepared = link(channel, arrived, prev, row, gate).await?;
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

/// Checks kinds and sizes.
fn check_shape(records: &[AppendedRecord]) -> Result<(), Refusal> {
    if records.is_empty() {
        return Err(Refusal::Malformed);
    }
    for record in records {
        let body = record.body(Chained {
            clock: 0,
            prev: Hash::ZERO,
        });
        let max = max_sealed_bytes(&body.ok_or(MALFORMED)?);
        if record.sealed.ciphertext.len() > max {
            return Err(Refusal::TooLarge { max: max as u64 });
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

/// Rebuilds the headers, judges them and computes the leaves.
async fn link(
    channel: &Channel,
    arrived: Arrived,
    prev: Hash,
    row: &RosterRow,
    gate: Gate,
) -> Result<Linked, OpError> {
    let mut heads = SeenHeads::new(&channel.document);
    let mut records = Vec::with_capacity(arrived.records.len());
    let mut last = (Hash::ZERO, [0; 64]);
    let mut chained = Chained {
        clock: arrived.first_clock,
        prev,
    };
    let log = LogId {
        group: channel.document.group,
        document: channel.document.id,
    };
    for record in arrived.records {
        let (head, seen) = heads.head(record.seen_size.0, record.seen_hint).await?;
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: log.group,
            document: log.document,
            epoch: arrived.epoch,
            author: channel.author,
            seen: head,
            body: record.body(chained).ok_or(MALFORMED)?,
        };
        let place = Place {
            log,
            row: Some(row),
            chain: Some(Chain {
                next: chained.clock,
                last: chained.prev,
                // The writer knows.
                closed: false,
            }),
            active: None,
            seen,
            covered: Seen::Unproven,
            gate,
        };
        judge_record(&header, &place).map_err(|fault| place.answer(fault))?;
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
            late: heads.late(&header).await?,
        });
    }
    let (core, signature) = last;
    let frame = PreparedFrame {
        epoch: arrived.epoch,
        prev,
        covered: heads.covered,
        records,
    };
    Ok(Linked {
        frame,
        core,
        signature,
    })
}

/// The seen heads of one frame. Most of its records name the same.
struct SeenHeads<'a> {
    document: &'a Document,
    /// Size that the active snapshot covers.
    covered: u64,
    head: Option<Head>,
    /// The last size below that for which a proof was made.
    shown: Option<u64>,
    proofs: Proofs,
}

impl<'a> SeenHeads<'a> {
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

    /// The head of this size, and whether the log had it and it begins like this.
    async fn head(&mut self, size: u64, begins: [u8; 8]) -> Result<(Head, Seen), OpError> {
        let head = match self.head {
            Some(head) if head.size == size => head,
            _ => match self.document.root_at(size).await? {
                Some(root) => Head { size, root },
                None => {
                    let root = Hash::ZERO;
                    return Ok((Head { size, root }, Seen::False));
                }
            },
        };
        self.head = Some(head);
        Ok((head, Seen::known(hint(&head.root) == begins)))
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
