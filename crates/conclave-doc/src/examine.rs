//! First half of judging: everything that needs no content key. Runs ahead over all waiting records, so that one signature covers an
//! author's whole run, and stops where something is missing.

use std::collections::BTreeMap;

use conclave_crdt::CrdtKind;
use conclave_proto::record::{Chained, RECORD_VERSION, Record, RecordBody, RecordHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, Head};
use conclave_rules::Chain;
use tls_codec::Size;

use crate::candidate::{Candidate, Encoded, Source, Standing, Step, Stop, WHOLE_COUNT};
use crate::context::{Blocked, DocContext};
use crate::error::{Fault, Finding, Suspect};
use crate::incoming::{Elided, Form};
use crate::log::LogView;
use crate::outbox::{Outbox, hint};
use crate::state::{LogState, SnapshotInfo};

/// The document's side of an examination.
pub(crate) struct Examiner<'a> {
    pub(crate) ctx: &'a DocContext<'a>,
    pub(crate) group: GroupId,
    pub(crate) document: DocumentId,
    pub(crate) kind: CrdtKind,
    /// Leaves are pushed as they are examined; the caller takes back those that are not settled.
    pub(crate) log: &'a mut LogView,
    pub(crate) state: &'a LogState,
    pub(crate) outbox: &'a Outbox,
    pub(crate) trial: Trial,
    pub(crate) seen_memo: Option<Head>,
}

/// What the records examined so far would change.
pub(crate) struct Trial {
    pub(crate) epoch_high: u64,
    pub(crate) active: SnapshotInfo,
    pub(crate) chains: BTreeMap<Author, Chain>,
    /// Devices whose older instances were closed.
    pub(crate) reborn: BTreeMap<DeviceId, Author>,
    /// Own records met.
    pub(crate) own: usize,
}

impl<'a> Examiner<'a> {
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
        Self {
            ctx,
            group,
            document,
            kind,
            log,
            state,
            outbox,
            trial,
            seen_memo: None,
        }
    }

    /// Examines a run of records. Gives those that are authentic, why it stopped, and the forms that are still needed.
    pub(crate) fn run(
        mut self,
        run: Vec<(u64, Form)>,
    ) -> (Vec<Candidate>, Option<Stop>, Vec<(u64, Form)>) {
        let mut candidates: Vec<Candidate> = Vec::with_capacity(run.len());
        let mut rest = Vec::new();
        let mut stop = None;
        let mut forms = run.into_iter();
        for (seq, form) in forms.by_ref() {
            match self.examine(seq, form) {
                Step::Candidate(candidate) => {
                    self.log.push(candidate.leaf);
                    self.follow(&candidate);
                    candidates.push(candidate);
                }
                Step::Stop(form, why, fault) => {
                    let finding = fault.map(|fault| Finding {
                        seq,
                        fault,
                        suspect: Suspect::SERVICE,
                    });
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
        match &candidate.standing {
            Standing::Refused { .. } => {}
            Standing::Snapshot(info) => {
                self.trial.active = **info;
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
        self.trial.chains.insert(
            author,
            Chain {
                next: clock.saturating_add(1),
                last: leaf,
                closed,
            },
        );
    }

    pub(crate) fn chain(&self, author: &Author) -> Option<Chain> {
        if let Some(chain) = self.trial.chains.get(author) {
            return Some(*chain);
        }
        let mut chain = *self.state.tables.chains.get(author)?;
        chain.closed |= self.trial.reborn.contains_key(&author.device);
        Some(chain)
    }

    pub(crate) fn last_link(&self, author: &Author) -> Option<(u64, Hash)> {
        self.chain(author)?.last_link()
    }

    pub(crate) fn head_at(&mut self, size: u64) -> Option<Head> {
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
                let why = Blocked::Whole {
                    first_seq: seq,
                    count: WHOLE_COUNT,
                };
                Step::Stop(Form::Unknown, why, Some(Fault::Protocol))
            }
            Form::Own => match self.outbox.sealed_at(self.trial.own) {
                Some(record) => {
                    let record = record.clone();
                    self.judge(seq, record, Source::Own, queued_bytes)
                }
                None => Step::Stop(
                    Form::Own,
                    Blocked::Whole {
                        first_seq: seq,
                        count: 1,
                    },
                    Some(Fault::Protocol),
                ),
            },
            Form::Leaf(leaf) if expected == Some(leaf) => {
                self.position(seq, leaf, None, Source::Leaf, queued_bytes)
            }
            Form::Leaf(leaf) => match self.outbox.sealed_at(self.trial.own) {
                Some(record) if record.leaf() == leaf => {
                    let record = record.clone();
                    self.judge(seq, record, Source::Own, queued_bytes)
                }
                _ if expected.is_some() => {
                    Step::Stop(Form::Leaf(leaf), Blocked::Unverified, Some(Fault::Fork))
                }
                _ => Step::Stop(Form::Leaf(leaf), Blocked::Base, None),
            },
            Form::Whole { record, proof } => match expected {
                Some(id) if record.leaf() == id => {
                    self.position(seq, id, Some(record), Source::Whole { proof }, queued_bytes)
                }
                Some(_) => Step::Stop(
                    Form::Whole { record, proof },
                    Blocked::Unverified,
                    Some(Fault::Fork),
                ),
                None => self.judge(seq, record, Source::Whole { proof }, queued_bytes),
            },
            Form::Elided(elided) => self.judge_elided(seq, elided, queued_bytes),
        }
    }

    fn position(
        &self,
        seq: u64,
        leaf: Hash,
        record: Option<Record>,
        source: Source,
        queued_bytes: usize,
    ) -> Step {
        Step::Candidate(Candidate {
            seq,
            encoded: record.as_ref().map(Encoded::of).unwrap_or_default(),
            record,
            core: Hash::ZERO,
            leaf,
            queued_bytes,
            user: self.state.active.user,
            source,
            standing: Standing::Position,
        })
    }

    /// Fills in what was left out, as an honest author must have written it. The signature tells whether that is right.
    fn judge_elided(&mut self, seq: u64, elided: Elided, queued_bytes: usize) -> Step {
        let Some(seen) = self.head_at(elided.seen_size) else {
            let why = Blocked::Whole {
                first_seq: seq,
                count: WHOLE_COUNT,
            };
            return Step::Stop(Form::Elided(elided), why, None);
        };
        let (clock, prev) = match self.last_link(&elided.author) {
            None => (0, Hash::ZERO),
            Some((clock, leaf)) => (clock.saturating_add(1), leaf),
        };
        let Some(body) = RecordBody::of_chained(elided.kind, Chained { clock, prev }) else {
            let why = Blocked::Whole {
                first_seq: seq,
                count: 1,
            };
            return Step::Stop(Form::Elided(elided), why, None);
        };
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: self.group,
            document: self.document,
            epoch: elided.epoch,
            author: elided.author,
            seen,
            body,
        };
        let source = Source::Elided {
            seen_size: elided.seen_size,
            seen_hint: elided.seen_hint,
        };
        self.judge(
            seq,
            Record {
                header,
                sealed: elided.sealed,
            },
            source,
            queued_bytes,
        )
    }

    /// Position of the first chained record that no valid signature covers. An author's later record covers all before it, since each
    /// names the one before.
    fn first_unverified(&self, candidates: &[Candidate]) -> Option<(usize, Stop)> {
        let mut runs: BTreeMap<Author, Vec<usize>> = BTreeMap::new();
        for (at, candidate) in candidates.iter().enumerate() {
            if let (Standing::Chained { .. }, Some(record)) =
                (&candidate.standing, &candidate.record)
            {
                runs.entry(record.header.author).or_default().push(at);
            }
        }
        let mut first: Option<usize> = None;
        for run in runs.into_values() {
            let covered = run
                .iter()
                .rposition(|at| candidates.get(*at).is_some_and(|it| self.is_signed(it)));
            let next = run.get(covered.map_or(0, |at| at + 1)).copied();
            first = first.into_iter().chain(next).min();
        }
        let at = first?;
        let candidate = candidates.get(at)?;
        let (why, finding) = match &candidate.source {
            Source::Elided { seen_hint, .. } => {
                // The hint tells another log from a garbled record; the whole record will show which.
                let other_log = candidate
                    .record
                    .as_ref()
                    .is_some_and(|record| hint(&record.header.seen) != *seen_hint);
                let finding = other_log.then_some(Finding {
                    seq: candidate.seq,
                    fault: Fault::Record(RecordFault::SeenHead),
                    suspect: Suspect::SERVICE,
                });
                (
                    Blocked::Whole {
                        first_seq: candidate.seq,
                        count: WHOLE_COUNT,
                    },
                    finding,
                )
            }
            _ => {
                let fault = Fault::Record(RecordFault::Signature);
                let finding = Finding {
                    seq: candidate.seq,
                    fault,
                    suspect: Suspect::SERVICE,
                };
                (Blocked::Unverified, Some(finding))
            }
        };
        Some((
            at,
            Stop {
                seq: candidate.seq,
                why,
                finding,
            },
        ))
    }

    fn is_signed(&self, candidate: &Candidate) -> bool {
        let row = candidate.record.as_ref().and_then(|record| {
            self.ctx
                .row(&record.header.author.device, record.header.epoch)
        });
        candidate.is_signed_by(row)
    }
}
