//! What is stored of documents, as those who listen need it.

use bytes::Bytes;
use conclave_proto::frame::{Answer, BaseSnapshot, DeliveredRecord};
use conclave_proto::record::CloseReason;
use conclave_proto::{Hash, Refusal};
use conclave_rules::LogId;

use super::damaged;
use crate::frames::{Elided, deliver, put_elided, put_leaf, put_whole};
use crate::keys::{Rows, Stop};
use crate::proofs::Proofs;
use crate::rows::{DocumentRow, RecordRow, RecoveryRow};
use crate::store::{Failure, Reader, WholeRecord};

/// A snapshot that a receiver began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Its position.
    pub seq: u64,
    /// The size that it covers.
    pub covered: u64,
}

impl Base {
    /// The size down to which a receiver, at this position, surely knows the log's roots. It is where the snapshot begins that it
    /// regards as active there: the newest before the position (`covered`), or the base, which lies ahead of the first positions.
    #[must_use]
    pub fn roots_from(base: Option<Self>, seq: u64, covered: u64) -> u64 {
        match base {
            Some(base) if seq < base.seq => base.covered,
            _ => covered,
        }
    }
}

/// The refusal for a document of which nothing is stored, with its recovery row: it may be on its way back.
#[must_use]
pub fn unknown(recovery: Option<&RecoveryRow>) -> Refusal {
    match recovery {
        Some(row) => Refusal::Recovering {
            have: 0,
            want: row.want.size,
        },
        None => Refusal::UnknownDocument,
    }
}

/// Archived documents stay readable; deleted ones do not.
///
/// # Errors
/// Why it is not readable.
pub fn ensure_readable(row: Option<&DocumentRow>) -> Result<(), Refusal> {
    let row = row.ok_or(Refusal::UnknownDocument)?;
    if row.closed == Some(CloseReason::Deleted) {
        return Err(Refusal::DocumentClosed);
    }
    Ok(())
}

/// The snapshot at a position, with which a receiver begins.
///
/// # Errors
/// [`Failure`].
pub async fn base<R: Reader>(
    reads: &mut R,
    log: &LogId,
    seq: u64,
) -> Result<BaseSnapshot, Failure> {
    match reads.whole(log, seq).await? {
        Some(WholeRecord::Whole { record, .. }) => Ok(BaseSnapshot {
            seq,
            record: *record,
        }),
        _ => Err(Failure::Corrupt {
            what: "active snapshot",
        }),
    }
}

/// A proof that the log's first `new` records begin with its first `old`, made of what is stored.
///
/// # Errors
/// [`Failure`].
pub async fn prove<R: Reader>(
    reads: &mut R,
    proofs: &mut Proofs,
    log: LogId,
    (old, new): (u64, u64),
) -> Result<Vec<Hash>, Failure> {
    let mut rows = Rows::default();
    loop {
        match proofs.get(log, old, new, &rows) {
            Ok(proof) => return Ok(proof),
            Err(Stop::Lacks(keys)) => rows.extend(reads.load(&keys).await?),
            Err(stop) => return Err(damaged(stop)),
        }
    }
}

/// Records gathered for one frame.
#[derive(Debug)]
pub struct Gathered {
    channel: u64,
    first_seq: u64,
    body: Vec<u8>,
    count: usize,
    /// The seen size of the last record in it that came with a proof.
    shown: Option<u64>,
}

impl Gathered {
    /// None yet.
    #[must_use]
    pub fn new(channel: u64, first_seq: u64) -> Self {
        Self {
            channel,
            first_seq,
            body: Vec::new(),
            count: 0,
            shown: None,
        }
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The frame so far; the next one begins at `next`.
    pub fn take(&mut self, next: u64) -> Option<Bytes> {
        let frame = (self.count > 0).then(|| deliver(self.channel, self.first_seq, &[&self.body]));
        self.body.clear();
        self.count = 0;
        self.shown = None;
        self.first_seq = next;
        frame
    }

    /// Appends one position as a receiver needs it that began with `base`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn put<R: Reader>(
        &mut self,
        reads: &mut R,
        (log, base): (LogId, Option<Base>),
        row: &RecordRow,
        proofs: &mut Proofs,
    ) -> Result<(), Failure> {
        self.count = self.count.saturating_add(1);
        let out = &mut self.body;
        let roots_from = Base::roots_from(base, row.seq, row.covered);
        let author = row.chained.map(|(author, _)| author);
        let chained = author.zip(row.sealed.as_deref());
        if let Some((author, sealed)) = chained
            && (row.seen >= roots_from || self.shown == Some(row.seen))
        {
            let head = Elided {
                kind: row.kind,
                author,
                epoch: row.epoch,
                seen_back: row.seq.saturating_sub(row.seen),
                hint: row.hint,
            };
            put_elided(out, head, sealed);
            return Ok(());
        }
        // The base was sent ahead.
        if base.is_some_and(|base| row.seq == base.seq) {
            put_leaf(out, row.leaf);
            return Ok(());
        }
        match reads.whole(&log, row.seq).await? {
            Some(WholeRecord::Whole { record, .. }) => {
                let proof = prove(reads, proofs, log, (row.seen, roots_from)).await?;
                self.shown = chained.map(|_| row.seen).or(self.shown);
                put_whole(out, *record, proof);
            }
            Some(WholeRecord::Leaf(_)) | None => put_leaf(out, row.leaf),
        }
        Ok(())
    }
}

/// A stretch of whole records that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    /// The log.
    pub log: LogId,
    /// The snapshot that whoever asks began with, if it did.
    pub base: Option<Base>,
    /// First position.
    pub from: u64,
    /// Position after the last.
    pub end: u64,
    /// Size that the active snapshot covers.
    pub covered: u64,
    /// Bytes after which nothing further is read.
    pub bytes: usize,
}

/// Whole records, with proofs to what whoever asks surely knows.
///
/// # Errors
/// [`Failure`].
pub async fn whole_records<R: Reader>(reads: &mut R, of: Stretch) -> Result<Answer, Failure> {
    let mut proofs = Proofs::default();
    let mut records = Vec::new();
    let mut bytes = 0usize;
    for seq in of.from..of.end {
        let record = match reads.whole(&of.log, seq).await? {
            Some(WholeRecord::Whole { record, covered }) => {
                bytes = bytes.saturating_add(record.sealed.ciphertext.len());
                let seen = record.header.seen.size;
                let mut known = Base::roots_from(of.base, seq, covered);
                if seen >= known {
                    // Whoever asks all the same may have begun anew since.
                    known = known.max(of.covered);
                }
                let proof = prove(reads, &mut proofs, of.log, (seen, known)).await?;
                DeliveredRecord::Whole {
                    record: *record,
                    proof,
                }
            }
            Some(WholeRecord::Leaf(leaf)) => DeliveredRecord::Leaf(leaf),
            None => break,
        };
        records.push(record);
        if bytes >= of.bytes {
            break;
        }
    }
    Ok(Answer::Records {
        first_seq: of.from,
        records,
    })
}
