//! Updates and verdicts.
//!
//! A frame is judged against the group's state and the log as far as they are durable; its author's chain may run ahead by what is in flight.
//! Signatures are checked when a batch is made ([`crate::runs`]): records name the one before, so the last of many covers all. Inside the
//! transaction epoch, clock and predecessor are compared again.

use std::sync::Arc;

use bytes::Bytes;
use conclave_proto::codec::encode;
use conclave_proto::frame::AppendedRecord;
use conclave_proto::record::{Chained, RECORD_LABEL, RECORD_VERSION, RecordHeader, record_leaf};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, Hash, Head, Refusal};
use conclave_rules::{
    Authority, Chain, Gate, LogId, Place, RosterRow, Seen, Signer, check_chain, judge_record,
    max_sealed_bytes, verify_signature,
};
use tls_codec::Size;

use crate::batch::Decided;
use crate::change::Change;
use crate::event::{Event, Placed};
use crate::keys::{Keys, Rows, Stop};
use crate::limits::Limits;
use crate::log::{Appending, NewRecord};
use crate::op::seen::SeenHeads;
use crate::rows::{AuthorRow, DocumentRow, RecordKind};
use crate::runs::Extent;

const MALFORMED: Refusal = Refusal::BadRecord {
    fault: RecordFault::Malformed,
};

/// A frame of records as it comes.
#[derive(Debug)]
pub struct Arrived {
    /// Epoch of its records.
    pub epoch: u64,
    /// Clock of the first.
    pub first_clock: u64,
    /// The records.
    pub records: Vec<AppendedRecord>,
}

/// Against what a frame is judged.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Who holds the document's keys.
    pub authority: &'a dyn Authority,
    /// The document.
    pub log: LogId,
    /// Whose records they are.
    pub author: Author,
    /// The author's next clock and last leaf, with what is in flight.
    pub chain: (u64, Hash),
    /// The head that the author's record before named as seen. What was written offline names the same one again and again, however old it is.
    pub named: Option<Head>,
    /// Size of the log.
    pub size: u64,
    /// Size below which it is not here.
    pub base: u64,
    /// Size that the active snapshot covers.
    pub covered: u64,
    /// The roots of the log that are in memory, by its size.
    pub roots: &'a dyn Fn(u64) -> Option<Hash>,
    /// What was loaded beside.
    pub rows: &'a Rows,
    /// Whether its signature is checked here, and not with others: a frame with none before it on its way costs a check of its own anyway, and
    /// whoever has been found cheating pays for each.
    pub singly: bool,
}

/// A checked record.
#[derive(Debug)]
pub struct FrameRecord {
    /// Its kind.
    pub kind: RecordKind,
    /// Size of the prefix that its author had seen.
    pub seen: u64,
    /// First bytes of that prefix's root.
    pub hint: [u8; 8],
    /// Its leaf.
    pub leaf: Hash,
    /// Encoded sealed part.
    pub sealed: Bytes,
    /// Encoded size of the whole record.
    pub bytes: u64,
    /// What its whole form needs, where its author had seen less than the active snapshot covers, and no such record before it names the same.
    pub late: Option<Box<Late>>,
}

/// A record whose author lags behind the active snapshot: receivers may not know the root that it names.
#[derive(Debug)]
pub struct Late {
    /// Encoded header.
    pub header: Vec<u8>,
    /// Proof from the seen head to the covered one.
    pub proof: Vec<Hash>,
}

/// A checked frame.
#[derive(Debug)]
pub struct Frame {
    /// Its epoch.
    pub epoch: u64,
    /// What its first record follows.
    pub prev: Hash,
    /// Size that the active snapshot covered when it was judged.
    pub covered: u64,
    /// The head that its last record names as seen.
    pub named: Head,
    /// Its records.
    pub records: Vec<FrameRecord>,
}

impl Frame {
    /// Leaf of its last record.
    #[must_use]
    pub fn last(&self) -> Hash {
        self.records.last().map_or(self.prev, |record| record.leaf)
    }
}

/// The signature of a frame's last record, and what it has to be of.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Its author, in its epoch.
    pub by: Signer,
    /// What it covers.
    pub core: Hash,
    /// The signature.
    pub signature: [u8; 64],
}

impl Signed {
    /// Checks it.
    ///
    /// # Errors
    /// [`RecordFault::Signature`].
    pub fn check(&self) -> Result<(), RecordFault> {
        self.by.verify(RECORD_LABEL, &self.core.0, &self.signature)
    }
}

/// What vouches for a frame.
#[derive(Debug, Clone)]
pub enum Cover {
    /// Nothing yet.
    Nothing(Signed),
    /// A later frame of its author, if that comes to stand.
    Later(Signed),
    /// Its own signature, which was checked.
    Own,
}

/// What a frame brings into the transaction.
#[derive(Debug, Clone)]
pub enum Offer {
    /// It may follow.
    Frame(Arc<Frame>, Cover),
    /// It does not follow what is in flight: the rows say what is wrong.
    Gap,
    /// It is refused already, and only waits for its turn.
    Refused(Refusal),
}

/// A frame of records.
#[derive(Debug, Clone)]
pub struct Append {
    /// The document.
    pub log: LogId,
    /// Whose records they are.
    pub author: Author,
    /// Clock of the first.
    pub first_clock: u64,
    /// What there is of it.
    pub offer: Offer,
}

/// Judges a frame: membership, epoch, shape, chain, heads that were seen.
///
/// # Errors
/// [`Stop::Refused`], or [`Stop::Lacks`] where roots or nodes have to be loaded.
pub fn judge(arrived: &Arrived, view: &View<'_>) -> Result<Offer, Stop> {
    let device = &view.author.device;
    let current = view.authority.epoch();
    let row = view.authority.row(device, current);
    let row = row.ok_or_else(|| view.authority.refusal(device))?;
    // Asked first: what was sealed before a commit need not follow what was sealed after.
    if (Gate::Before { current }).admits(arrived.epoch).is_err() {
        return Err(Refusal::StaleEpoch { current }.into());
    }
    check_shape(&arrived.records)?;
    if arrived.first_clock != view.chain.0 {
        return Ok(Offer::Gap);
    }
    SeenHeads::load(view, &arrived.records)?;
    let (frame, signed) = link(arrived, view, row)?;
    let cover = if view.singly {
        signed
            .check()
            .map_err(|fault| Refusal::BadRecord { fault })?;
        Cover::Own
    } else {
        Cover::Nothing(signed)
    };
    Ok(Offer::Frame(Arc::new(frame), cover))
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

/// Rebuilds the headers, judges them, and computes the leaves. Gives the last signature too.
fn link(arrived: &Arrived, view: &View<'_>, row: &RosterRow) -> Result<(Frame, Signed), Stop> {
    let mut heads = SeenHeads::new(view);
    let mut records = Vec::with_capacity(arrived.records.len());
    let prev = view.chain.1;
    let mut chained = Chained {
        clock: arrived.first_clock,
        prev,
    };
    let mut signed: Option<(Hash, &[u8; 64])> = None;
    let mut open = Extent::default();
    for record in &arrived.records {
        let next = Extent {
            records: open.records + 1,
            bytes: open.bytes + record.sealed.ciphertext.len(),
        };
        // What covers a record has to be near it, within a frame too.
        open = match signed {
            Some((core, signature)) if !next.is_within_reach() => {
                verify_signature(row, RECORD_LABEL, &core.0, signature)
                    .map_err(|fault| Refusal::BadRecord { fault })?;
                next.after(open)
            }
            _ => next,
        };
        let (head, seen) = heads.head(record.seen_size.0, record.seen_hint)?;
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: view.log.group,
            document: view.log.document,
            epoch: arrived.epoch,
            author: view.author,
            seen: head,
            body: record.body(chained).ok_or(MALFORMED)?,
        };
        let place = Place {
            log: view.log,
            row: Some(row),
            chain: Some(Chain {
                next: chained.clock,
                last: chained.prev,
                // The transaction knows.
                closed: false,
            }),
            active: None,
            seen,
            covered: Seen::Unproven,
            gate: Gate::Before {
                current: view.authority.epoch(),
            },
        };
        judge_record(&header, &place).map_err(|fault| place.answer(fault))?;
        let core = record.sealed.core(&header);
        let leaf = record_leaf(&core, &record.sealed.signature);
        signed = Some((core, &record.sealed.signature));
        chained = Chained {
            clock: chained.clock.saturating_add(1),
            prev: leaf,
        };
        let sealed = Bytes::from(encode(&record.sealed));
        let bytes = header.tls_serialized_len().saturating_add(sealed.len());
        records.push(FrameRecord {
            kind: RecordKind::of(record.kind).ok_or(MALFORMED)?,
            seen: header.seen.size,
            hint: record.seen_hint,
            leaf,
            sealed,
            bytes: bytes as u64,
            late: heads.late(&header)?,
        });
    }
    let (core, signature) = signed.ok_or(Refusal::Malformed)?;
    let signed = Signed {
        by: row.signer(),
        core,
        signature: *signature,
    };
    let frame = Frame {
        epoch: arrived.epoch,
        prev,
        covered: view.covered,
        named: heads.named(),
        records,
    };
    Ok((frame, signed))
}

/// Whether a log is here from some point on only, and so are the chains of those who write in it.
fn begins_later(rows: &Rows, log: &LogId) -> Result<bool, Stop> {
    Ok(rows.document(log)?.is_some_and(|row| row.base.size() > 0))
}

impl Append {
    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.authors.insert((self.log, self.author));
        if !matches!(self.offer, Offer::Refused(_)) {
            keys.devices.insert(self.author.device);
            keys.services.insert(());
            keys.groups.insert(self.log.group);
            keys.documents.insert(self.log);
        }
    }

    pub(crate) fn decide(&self, rows: &Rows, limits: &Limits) -> Result<Decided, Stop> {
        let author = rows.author(&(self.log, self.author))?;
        let chain = author.map_or((0, Hash::ZERO), |row| (row.next_clock, row.last_leaf));
        let refused = |refusal| {
            Ok(Decided::event(Event::RecordsRefused {
                refusal,
                chain: Some(chain),
            }))
        };
        let (frame, is_covered) = match &self.offer {
            Offer::Refused(refusal) => return refused(refusal.clone()),
            Offer::Frame(frame, cover) => (Some(frame), !matches!(cover, Cover::Nothing(_))),
            Offer::Gap => (None, false),
        };
        if let Some(author) = author
            && self.first_clock < author.next_clock
        {
            let at = (self.log, author.no, self.first_clock);
            let taken = rows.at_clock(&at)?.copied();
            if taken.is_none() && begins_later(rows, &self.log)? {
                let fault = RecordFault::Replayed;
                return refused(Refusal::BadRecord { fault });
            }
            let (seq, leaf) = taken.ok_or(Stop::Damaged { what: "author" })?;
            return refused(Refusal::AlreadyAccepted { leaf, seq });
        }
        match self.follows(author, frame, rows, limits) {
            Ok((frame, document, generation)) if is_covered => {
                Ok(self.place(author, frame, document, generation))
            }
            // Nobody vouches for it: what it was to follow was refused, and is there all the same.
            Ok(_) => refused(Refusal::BadRecord {
                fault: RecordFault::Signature,
            }),
            Err(Stop::Refused(refusal)) => refused(refusal),
            Err(stop) => Err(stop),
        }
    }

    /// Whether the frame may stand at the end of the log, and in which generation of the service.
    fn follows<'a>(
        &self,
        author: Option<&AuthorRow>,
        frame: Option<&'a Arc<Frame>>,
        rows: &'a Rows,
        limits: &Limits,
    ) -> Result<(&'a Arc<Frame>, &'a DocumentRow, u64), Stop> {
        rows.ensure_active(&self.author.device)?;
        let document = rows.document(&self.log)?.ok_or(Refusal::UnknownDocument)?;
        if document.closed.is_some() {
            return Err(Refusal::DocumentClosed.into());
        }
        let generation = rows.ensure_growing(&self.log)?;
        if author.is_some_and(|author| author.closed) {
            let fault = RecordFault::InstanceClosed;
            return Err(Refusal::BadRecord { fault }.into());
        }
        let chain = author.map(|author| Chain {
            next: author.next_clock,
            last: author.last_leaf,
            closed: author.closed,
        });
        let frame = frame.ok_or_else(|| Chain::gap(chain))?;
        let group = rows.group(&self.log.group)?.ok_or(Refusal::UnknownGroup)?;
        let current = group.epoch;
        let gate = Gate::Before { current };
        if gate.admits(frame.epoch).is_err() || frame.epoch < document.last_epoch {
            return Err(Refusal::StaleEpoch { current }.into());
        }
        let first = Chained {
            clock: self.first_clock,
            prev: frame.prev,
        };
        if check_chain(chain, &first).is_err() {
            return Err(Chain::gap(chain).into());
        }
        let tail = document.frontier.size().saturating_sub(document.covered);
        if tail >= limits.tail_records {
            return Err(Refusal::SnapshotRequired.into());
        }
        Ok((frame, document, generation))
    }

    fn place(
        &self,
        author: Option<&AuthorRow>,
        frame: &Arc<Frame>,
        document: &DocumentRow,
        generation: u64,
    ) -> Decided {
        let mut end = Appending::to(self.log, document.clone());
        end.row.grown_in = generation;
        let first_seq = document.frontier.size();
        let no = author.map_or(document.author_count, |author| author.no);
        if author.is_none() {
            end.row.author_count = no.saturating_add(1);
        }
        let mut clock = self.first_clock;
        let mut roots = Vec::with_capacity(frame.records.len());
        for record in &frame.records {
            roots.push(end.push(NewRecord {
                kind: record.kind,
                chained: Some((no, clock)),
                epoch: frame.epoch,
                seen: record.seen,
                hint: record.hint,
                leaf: record.leaf,
                header: None,
                sealed: record.sealed.clone(),
                bytes: record.bytes,
            }));
            clock = clock.saturating_add(1);
        }
        let row = AuthorRow {
            no,
            next_clock: clock,
            last_leaf: frame.last(),
            closed: false,
        };
        let mut changes = vec![end.change(), self.author_row(row)];
        if author.is_none() {
            changes.push(Change::CloseAuthors {
                log: self.log,
                device: self.author.device,
                before: no,
            });
        }
        let event = Event::Records(Placed {
            first_seq,
            author: no,
            roots,
            next_clock: clock,
            covered: document.covered,
            frame: frame.clone(),
        });
        Decided { changes, event }
    }

    fn author_row(&self, row: AuthorRow) -> Change {
        Change::Author {
            log: self.log,
            author: self.author,
            row,
        }
    }
}
