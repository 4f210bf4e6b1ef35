//! First half of judging: everything that needs no content key. Runs ahead over all waiting records, so that one signature covers an
//! author's whole run, and stops where something is missing.

use std::collections::BTreeMap;

use conclave_crdt::CrdtKind;
use conclave_mls::{RosterRow, verify_signature};
use conclave_proto::policy::Role;
use conclave_proto::record::{
    ChainFault, Chained, RECORD_LABEL, RECORD_VERSION, Record, RecordBody, RecordHeader,
    SnapshotHeader, check_link, record_leaf,
};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, Head, UserId};
use tls_codec::Size;

use crate::context::{Blocked, DocContext};
use crate::error::{Fault, Finding, Suspect};
use crate::incoming::{Elided, Form};
use crate::log::{LogView, SeenFault};
use crate::outbox::{Outbox, hint};
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
    Snapshot(SnapshotInfo),
}

/// One examined record.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub seq: u64,
    /// None where only the leaf is known.
    pub record: Option<Record>,
    /// What the signature covers.
    pub core: Hash,
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

    /// Whether the signature is that of the roster's key. Own records need no check.
    fn is_signed_by(&self, row: Option<&RosterRow>) -> bool {
        let (Some(record), Some(row)) = (&self.record, row) else {
            return false;
        };
        self.is_own()
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
    ctx: &'a DocContext<'a>,
    group: GroupId,
    document: DocumentId,
    kind: CrdtKind,
    /// Leaves are pushed as they are examined; the caller takes back those that are not settled.
    log: &'a mut LogView,
    state: &'a LogState,
    outbox: &'a Outbox,
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
#[allow(clippy::large_enum_variant, reason = "lives for one match")]
enum Step {
    Candidate(Candidate),
    Stop(Form, Blocked, Option<Fault>),
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
                    self.log.push(candidate.leaf, candidate.bytes);
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
        self.trial.chains.insert(
            author,
            Chain {
                next: clock.saturating_add(1),
                last: leaf,
                closed,
            },
        );
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
        self.chain(author)
            .and_then(|chain| Some((chain.next.checked_sub(1)?, chain.last)))
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
            bytes: record.as_ref().map_or(0, |record| {
                u32::try_from(record.tls_serialized_len()).unwrap_or(u32::MAX)
            }),
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
        let chained = Chained { clock, prev };
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: self.group,
            document: self.document,
            epoch: elided.epoch,
            author: elided.author,
            seen,
            body: if elided.verdict == 1 {
                RecordBody::Verdict(chained)
            } else {
                RecordBody::Update(chained)
            },
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

    /// The checks of the design, in their order, up to the signature.
    fn judge(&mut self, seq: u64, record: Record, mut source: Source, queued_bytes: usize) -> Step {
        let core = record.core();
        let leaf = record_leaf(&core, &record.sealed.signature);
        let header = record.header;
        if header.author == self.outbox.author
            && self
                .outbox
                .sealed_at(self.trial.own)
                .is_some_and(|own| own.leaf() == leaf)
        {
            source = Source::Own;
        }
        let row = self.ctx.row(&header.author.device, header.epoch);
        let bytes = u32::try_from(record.tls_serialized_len()).unwrap_or(u32::MAX);
        let user = row.map_or(UserId::ZERO, |row| row.user);
        let standing = Standing::Position;
        let candidate = Candidate {
            seq,
            record: Some(record),
            core,
            leaf,
            bytes,
            queued_bytes,
            user,
            source,
            standing,
        };
        if let Err(fault) = self.check_shape(&header) {
            return self.refuse(candidate, row, fault, false);
        }
        if header.epoch > self.ctx.state.epoch {
            return Step::Stop(candidate.into_form(), Blocked::Epoch(header.epoch), None);
        }
        if let Err(fault) = self.check_author(&header, row) {
            return self.refuse(candidate, row, fault, true);
        }
        match header.body {
            RecordBody::Update(chained) | RecordBody::Verdict(chained) => {
                self.judge_chained(candidate, row, &header, &chained)
            }
            RecordBody::Snapshot(snapshot) => {
                self.judge_snapshot(candidate, row, &header, &snapshot)
            }
            _ => self.refuse(candidate, row, RecordFault::Malformed, false),
        }
    }

    fn judge_chained(
        &mut self,
        mut candidate: Candidate,
        row: Option<&RosterRow>,
        header: &RecordHeader,
        chained: &Chained,
    ) -> Step {
        if self.chain(&header.author).is_some_and(|chain| chain.closed) {
            return self.refuse(candidate, row, RecordFault::InstanceClosed, true);
        }
        if let Err(fault) = check_link(self.last_link(&header.author), chained) {
            let fault = match fault {
                ChainFault::Replayed { .. } => RecordFault::Replayed,
                ChainFault::Gap { .. } => RecordFault::Gap,
                _ => RecordFault::Prev,
            };
            return self.refuse(candidate, row, fault, false);
        }
        let seen = match self.check_seen(&candidate, header) {
            Ok(()) => None,
            Err(SeenFault::Wrong) => Some(RecordFault::SeenHead),
            Err(SeenFault::Unproven) => return unproven(candidate),
        };
        candidate.standing = Standing::Chained {
            clock: chained.clock,
            seen,
        };
        Step::Candidate(candidate)
    }

    fn judge_snapshot(
        &mut self,
        mut candidate: Candidate,
        row: Option<&RosterRow>,
        header: &RecordHeader,
        snapshot: &SnapshotHeader,
    ) -> Step {
        let info = match self.check_lineage(&candidate, header, snapshot, row) {
            Ok(info) => info,
            Err(fault) => return self.refuse(candidate, row, fault, false),
        };
        match self.check_seen(&candidate, header) {
            Ok(()) => {}
            Err(SeenFault::Wrong) => {
                return self.refuse(candidate, row, RecordFault::SeenHead, false);
            }
            Err(SeenFault::Unproven) => return unproven(candidate),
        }
        if !candidate.is_signed_by(row) {
            let fault = Some(Fault::Record(RecordFault::Signature));
            return Step::Stop(candidate.into_form(), Blocked::Unverified, fault);
        }
        candidate.standing = Standing::Snapshot(info);
        Step::Candidate(candidate)
    }

    /// Ids, version, kind.
    fn check_shape(&self, header: &RecordHeader) -> Result<(), RecordFault> {
        if header.group != self.group || header.document != self.document {
            return Err(RecordFault::WrongDocument);
        }
        let kind_fits = match header.body {
            RecordBody::Update(_) | RecordBody::Verdict(_) => true,
            RecordBody::Snapshot(snapshot) => snapshot.crdt == self.kind.code(),
            RecordBody::Presence { .. } | RecordBody::Entry(_) => false,
        };
        if header.version == RECORD_VERSION && kind_fits {
            Ok(())
        } else {
            Err(RecordFault::Malformed)
        }
    }

    /// Order of epochs, membership, role.
    fn check_author(
        &self,
        header: &RecordHeader,
        row: Option<&RosterRow>,
    ) -> Result<(), RecordFault> {
        if header.epoch < self.trial.epoch_high {
            return Err(RecordFault::EpochDecreased);
        }
        let row = row.ok_or(RecordFault::NotMember)?;
        let any_role = matches!(header.body, RecordBody::Verdict(_));
        if any_role || row.role >= Role::Editor {
            Ok(())
        } else {
            Err(RecordFault::Role)
        }
    }

    /// Parent and covered head of a snapshot. An admin may replace the active one by naming its parent: that settles a dispute.
    fn check_lineage(
        &self,
        candidate: &Candidate,
        header: &RecordHeader,
        snapshot: &SnapshotHeader,
        row: Option<&RosterRow>,
    ) -> Result<SnapshotInfo, RecordFault> {
        let active = &self.trial.active;
        let follows =
            snapshot.parent == active.id && snapshot.chain_proof == active.successor_proof();
        let replaces = snapshot.parent == active.parent
            && snapshot.chain_proof == active.chain_proof
            && row.is_some_and(|row| row.role >= Role::Admin);
        if !follows && !replaces {
            return Err(RecordFault::Parent);
        }
        let newer = snapshot.covered.size > active.covered.size;
        if !newer
            || self
                .log
                .check_prefix(&snapshot.covered, &[], &active.covered)
                .is_err()
        {
            return Err(RecordFault::Covered);
        }
        Ok(SnapshotInfo {
            seq: candidate.seq,
            id: candidate.leaf,
            author: header.author,
            user: candidate.user,
            epoch: header.epoch,
            parent: snapshot.parent,
            chain_proof: snapshot.chain_proof,
            covered: snapshot.covered,
            replaces: !follows,
        })
    }

    /// Whether the seen head is a true prefix of the log before this record.
    fn check_seen(
        &mut self,
        candidate: &Candidate,
        header: &RecordHeader,
    ) -> Result<(), SeenFault> {
        if header.seen.size > candidate.seq {
            return Err(SeenFault::Wrong);
        }
        if let Some(own) = self.head_at(header.seen.size) {
            return if own == header.seen {
                Ok(())
            } else {
                Err(SeenFault::Wrong)
            };
        }
        let proof: &[Hash] = match &candidate.source {
            Source::Whole { proof } => proof,
            _ => &[],
        };
        self.log
            .check_prefix(&header.seen, proof, &self.trial.active.covered)
    }

    /// Refuses a record for what its header says. What is filled in must be authentic before that can be said of an elided one.
    fn refuse(
        &self,
        mut candidate: Candidate,
        row: Option<&RosterRow>,
        fault: RecordFault,
        may_link: bool,
    ) -> Step {
        let signed = candidate.is_signed_by(row);
        if !signed && matches!(candidate.source, Source::Elided { .. }) {
            let why = Blocked::Whole {
                first_seq: candidate.seq,
                count: WHOLE_COUNT,
            };
            return Step::Stop(candidate.into_form(), why, None);
        }
        let header = candidate.record.as_ref().map(|record| record.header);
        let link = header.filter(|_| signed && may_link).and_then(|header| {
            let chained = header.body.chained()?;
            check_link(self.last_link(&header.author), &chained)
                .ok()
                .map(|()| chained.clock)
        });
        let author = header.filter(|_| signed).map(|header| header.author);
        candidate.standing = Standing::Refused {
            fault,
            suspect: Suspect {
                author,
                service: true,
            },
            link,
        };
        Step::Candidate(candidate)
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

/// A seen head below the base that the proof at hand does not show: a better copy may have one.
fn unproven(candidate: Candidate) -> Step {
    let why = Blocked::Whole {
        first_seq: candidate.seq,
        count: WHOLE_COUNT,
    };
    let fault = match candidate.source {
        Source::Whole { .. } => Some(Fault::Record(RecordFault::SeenHead)),
        _ => None,
    };
    Step::Stop(candidate.into_form(), why, fault)
}
