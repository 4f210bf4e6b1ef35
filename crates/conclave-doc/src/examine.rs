//! First half of judging: everything that needs no content key. Runs ahead over all waiting records, so that one signature covers an
//! author's whole run, and stops where something is missing.

use std::collections::BTreeMap;

use conclave_crdt::CrdtKind;
use conclave_mls::{RosterRow, verify_signature};
use conclave_proto::policy::Role;
use conclave_proto::record::{
    ChainFault, Chained, RECORD_LABEL, RECORD_VERSION, Record, RecordBody, RecordHeader, SnapshotHeader, check_link,
};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, Head, UserId};
use tls_codec::Size;

use crate::context::{Blocked, DocContext};
use crate::error::{Fault, Finding, Suspect};
use crate::incoming::{Elided, Form};
use crate::log::{LogView, SeenFault};
use crate::outbox::Outbox;
use crate::payload::Chain;
use crate::state::{LogState, SnapshotInfo};

/// Most records asked for at once when their elided forms do not verify.
const WHOLE_COUNT: u32 = 256;

/// How a record came, so that it can go back to the queue.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Elided { seen_size: u64, seen_hint: [u8; 8] },
    Whole { proof: Vec<Hash> },
    Own,
    Leaf,
}

/// What is decided without a content key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Standing {
    /// The position of the active snapshot, which is known already.
    Position,
    /// Refused. `link` is its clock where it nevertheless stands in its author's chain.
    Refused { fault: RecordFault, suspect: Suspect, link: Option<u64> },
    /// An update or verdict that follows in its author's chain; a wrong seen head is kept for later, since it refuses only what is
    /// authentic.
    Chained { clock: u64, seen: Option<RecordFault> },
    /// A snapshot that becomes the active one.
    Snapshot(SnapshotInfo),
}

/// One examined record.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub seq: u64,
    /// None where only the leaf is known.
    pub record: Option<Record>,
    pub leaf: Hash,
    /// Encoded size of the record, in bytes.
    pub bytes: u32,
    /// Encoded size in the queue, in bytes.
    pub queued_bytes: usize,
    pub user: UserId,
    pub source: Source,
    pub standing: Standing,
}

impl Candidate {
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.source, Source::Own)
    }

    /// The form that the queue held.
    pub(crate) fn into_form(self) -> Form {
        match (self.source, self.record) {
            (Source::Own, _) => Form::Own,
            (Source::Whole { proof }, Some(record)) => Form::Whole { record, proof },
            (Source::Elided { seen_size, seen_hint }, Some(record)) => Form::Elided(Elided {
                author: record.header.author,
                epoch: record.header.epoch,
                seen_size,
                seen_hint,
                verdict: u8::from(matches!(record.header.body, RecordBody::Verdict(_))),
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

/// The document's side of an examination.
pub(crate) struct Examiner<'a> {
    pub ctx: &'a DocContext<'a>,
    pub group: GroupId,
    pub document: DocumentId,
    pub kind: CrdtKind,
    /// Leaves are pushed as they are examined; the caller takes back those that are not settled.
    pub log: &'a mut LogView,
    pub state: &'a LogState,
    pub outbox: &'a Outbox,
    trial: Trial,
    seen_memo: Option<Head>,
}

/// What the records examined so far would change.
struct Trial {
    epoch_high: u64,
    active: SnapshotInfo,
    chains: BTreeMap<Author, Chain>,
    /// Devices whose older instances were closed.
    reborn: BTreeMap<DeviceId, Author>,
    /// Own records met.
    own: usize,
}

/// The outcome of one examination step.
enum Step {
    Candidate(Box<Candidate>),
    Stop(Form, Blocked, Option<Fault>),
}

impl<'a> Examiner<'a> {
    #[allow(clippy::too_many_arguments, reason = "the parts of one document")]
    pub(crate) fn new(
        ctx: &'a DocContext<'a>,
        (group, document, kind): (GroupId, DocumentId, CrdtKind),
        log: &'a mut LogView,
        state: &'a LogState,
        outbox: &'a Outbox,
    ) -> Self {
        let trial = Trial {
            epoch_high: state.tables.epoch_high,
            active: state.active,
            chains: BTreeMap::new(),
            reborn: BTreeMap::new(),
            own: 0,
        };
        Self { ctx, group, document, kind, log, state, outbox, trial, seen_memo: None }
    }

    /// Examines a run of records. Gives those that are authentic, why it stopped, and the forms that are still needed.
    pub(crate) fn run(mut self, run: Vec<(u64, Form)>) -> (Vec<Candidate>, Option<Stop>, Vec<(u64, Form)>) {
        let mut candidates: Vec<Candidate> = Vec::with_capacity(run.len());
        let mut rest = Vec::new();
        let mut stop = None;
        let mut forms = run.into_iter();
        for (seq, form) in forms.by_ref() {
            match self.examine(seq, form) {
                Step::Candidate(candidate) => {
                    self.log.push(candidate.leaf, candidate.bytes);
                    self.follow(&candidate);
                    candidates.push(*candidate);
                }
                Step::Stop(form, why, fault) => {
                    let finding = fault.map(|fault| Finding { seq, fault, suspect: Suspect::SERVICE });
                    stop = Some(Stop { seq, why, finding });
                    rest.push((seq, form));
                    break;
                }
            }
        }
        rest.extend(forms);
        if let Some((cut, unverified)) = self.first_unverified(&candidates) {
            let mut back: Vec<(u64, Form)> = Vec::new();
            for candidate in candidates.drain(cut..) {
                back.push((candidate.seq, candidate.into_form()));
            }
            self.log.truncate(unverified.seq);
            back.extend(rest);
            rest = back;
            stop = Some(unverified);
        }
        (candidates, stop, rest)
    }

    /// Notes what a candidate would change.
    fn follow(&mut self, candidate: &Candidate) {
        if candidate.is_own() {
            self.trial.own += 1;
        }
        let Some(record) = &candidate.record else {
            self.trial.epoch_high = self.trial.epoch_high.max(self.trial.active.epoch);
            return;
        };
        let link = match &candidate.standing {
            Standing::Chained { clock, .. } => Some(*clock),
            Standing::Refused { link, .. } => *link,
            _ => None,
        };
        if let Some(clock) = link {
            self.advance(record.header.author, clock, candidate.leaf);
        }
        match candidate.standing {
            Standing::Refused { .. } => {}
            Standing::Snapshot(info) => {
                self.trial.active = info;
                self.trial.epoch_high = self.trial.epoch_high.max(record.header.epoch);
            }
            _ => self.trial.epoch_high = self.trial.epoch_high.max(record.header.epoch),
        }
    }

    fn advance(&mut self, author: Author, clock: u64, leaf: Hash) {
        let closed = clock != 0 && self.chain(&author).is_some_and(|chain| chain.closed);
        if clock == 0 {
            for (other, chain) in &mut self.trial.chains {
                if other.device == author.device {
                    chain.closed = true;
                }
            }
            self.trial.reborn.insert(author.device, author);
        }
        self.trial.chains.insert(author, Chain { next: clock.saturating_add(1), last: leaf, closed });
    }

    fn chain(&self, author: &Author) -> Option<Chain> {
        if let Some(chain) = self.trial.chains.get(author) {
            return Some(*chain);
        }
        let mut chain = *self.state.tables.chains.get(author)?;
        chain.closed |= self.trial.reborn.contains_key(&author.device);
        Some(chain)
    }

    fn last_link(&self, author: &Author) -> Option<(u64, Hash)> {
        self.chain(author).and_then(|chain| Some((chain.next.checked_sub(1)?, chain.last)))
    }

    fn head_at(&mut self, size: u64) -> Option<Head> {
        if let Some(head) = self.seen_memo.filter(|head| head.size == size) {
            return Some(head);
        }
        self.seen_memo = self.log.head_at(size);
        self.seen_memo
    }

    fn examine(&mut self, seq: u64, form: Form) -> Step {
        let queued_bytes = form.tls_serialized_len();
        let expected = (seq == self.state.active.seq).then_some(self.state.active.id);
        match form {
            Form::Unknown => {
                let why = Blocked::Whole { first_seq: seq, count: WHOLE_COUNT };
                Step::Stop(Form::Unknown, why, Some(Fault::Protocol))
            }
            Form::Own => match self.outbox.sealed_at(self.trial.own) {
                Some(record) => {
                    let record = record.clone();
                    self.judge(seq, record, Source::Own, queued_bytes)
                }
                None => Step::Stop(Form::Own, Blocked::Whole { first_seq: seq, count: 1 }, Some(Fault::Protocol)),
            },
            Form::Leaf(leaf) if expected == Some(leaf) => self.position(seq, leaf, None, Source::Leaf, queued_bytes),
            Form::Leaf(leaf) => match self.outbox.sealed_at(self.trial.own) {
                Some(record) if record.leaf() == leaf => {
                    let record = record.clone();
                    self.judge(seq, record, Source::Own, queued_bytes)
                }
                _ if expected.is_some() => Step::Stop(Form::Leaf(leaf), Blocked::Unverified, Some(Fault::Fork)),
                _ => Step::Stop(Form::Leaf(leaf), Blocked::Base, None),
            },
            Form::Whole { record, proof } => match expected {
                Some(id) if record.leaf() == id => {
                    self.position(seq, id, Some(record), Source::Whole { proof }, queued_bytes)
                }
                Some(_) => Step::Stop(Form::Whole { record, proof }, Blocked::Unverified, Some(Fault::Fork)),
                None => self.judge(seq, record, Source::Whole { proof }, queued_bytes),
            },
            Form::Elided(elided) => self.judge_elided(seq, elided, queued_bytes),
        }
    }

    fn position(&self, seq: u64, leaf: Hash, record: Option<Record>, source: Source, queued_bytes: usize) -> Step {
        Step::Candidate(Box::new(Candidate {
            seq,
            bytes: record.as_ref().map_or(0, record_bytes),
            record,
            leaf,
            queued_bytes,
            user: self.state.active.user,
            source,
            standing: Standing::Position,
        }))
    }

    /// Fills in what was left out, as an honest author must have written it. The signature tells whether that is right.
    fn judge_elided(&mut self, seq: u64, elided: Elided, queued_bytes: usize) -> Step {
        let Some(seen) = self.head_at(elided.seen_size) else {
            let why = Blocked::Whole { first_seq: seq, count: WHOLE_COUNT };
            return Step::Stop(Form::Elided(elided), why, None);
        };
        let (clock, prev) = match self.last_link(&elided.author) {
            None => (0, Hash::ZERO),
            Some((clock, leaf)) => (clock.saturating_add(1), leaf),
        };
        let chained = Chained { clock, prev };
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: self.group,
            document: self.document,
            epoch: elided.epoch,
            author: elided.author,
            seen,
            body: if elided.verdict == 1 { RecordBody::Verdict(chained) } else { RecordBody::Update(chained) },
        };
        let source = Source::Elided { seen_size: elided.seen_size, seen_hint: elided.seen_hint };
        self.judge(seq, Record { header, sealed: elided.sealed }, source, queued_bytes)
    }

    /// The checks of the design, in their order, up to the signature.
    fn judge(&mut self, seq: u64, record: Record, mut source: Source, queued_bytes: usize) -> Step {
        let leaf = record.leaf();
        if record.header.author == self.outbox.author
            && self.outbox.sealed_at(self.trial.own).is_some_and(|own| own.leaf() == leaf)
        {
            source = Source::Own;
        }
        let header = record.header;
        let make = |record: Record, user: UserId, source: Source, standing: Standing| {
            Step::Candidate(Box::new(Candidate {
                seq,
                bytes: record_bytes(&record),
                record: Some(record),
                leaf,
                queued_bytes,
                user,
                source,
                standing,
            }))
        };
        if let Some(fault) = self.fault_of_shape(&header) {
            let standing = Standing::Refused { fault, suspect: Suspect::SERVICE, link: None };
            return make(record, UserId::ZERO, source, standing);
        }
        if header.epoch > self.ctx.state.epoch {
            return self.stop(record, source, leaf, Blocked::Epoch(header.epoch), None);
        }
        let row = self.ctx.row(&header.author.device, header.epoch);
        let user = row.map_or(UserId::ZERO, |row| row.user);
        let early = self.fault_of_author(&header, row);
        let judged = match (early, header.body) {
            (Some(fault), _) => Err(fault),
            (None, RecordBody::Snapshot(snapshot)) => self
                .judge_snapshot(seq, &record, leaf, &snapshot, row)
                .and_then(|info| self.check_seen(seq, &header, &source).map(|()| Standing::Snapshot(info)).map_err(Some)),
            (None, RecordBody::Update(chained) | RecordBody::Verdict(chained)) => {
                self.judge_link(&header.author, &chained).map_err(Some).and_then(|()| {
                    let seen = match self.check_seen(seq, &header, &source) {
                        Ok(()) => None,
                        Err(fault) => Some(fault),
                    };
                    Ok(Standing::Chained { clock: chained.clock, seen })
                })
            }
            (None, _) => Err(Some(RecordFault::Malformed)),
        };
        match judged {
            Ok(Standing::Chained { seen: Some(RecordFault::Gap), .. }) | Err(Some(RecordFault::SeenHead)) if self.unproven(&header) => {
                let why = Blocked::Whole { first_seq: seq, count: WHOLE_COUNT };
                self.stop(record, source, leaf, why, Some(Fault::Record(RecordFault::SeenHead)))
            }
            Ok(Standing::Snapshot(info)) if !authentic(&record, row) => {
                let _ = info;
                let fault = Some(Fault::Record(RecordFault::Signature));
                self.stop(record, source, leaf, Blocked::Unverified, fault)
            }
            Ok(standing) => make(record, user, source, standing),
            Err(fault) => self.refuse(seq, record, leaf, row, source, queued_bytes, fault),
        }
    }
}
