//! The rules that need no content key, in the order of the design (`docs/PROTOCOL.md`, Order of checks).

use conclave_proto::record::{Record, RecordBody, RecordHeader, check_link, record_leaf};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Hash, UserId};
use conclave_rules::{Fit, Gate, LogId, Place, RosterRow, Seen, judge_record};

use crate::candidate::{Candidate, Encoded, Source, Standing, Step, WHOLE_COUNT};
use crate::context::Blocked;
use crate::error::{Fault, Suspect};
use crate::examine::Examiner;
use crate::log::SeenFault;
use crate::state::SnapshotInfo;
use crate::weight::Weight;

impl Examiner<'_> {
    /// The checks of the design, in their order, up to the signature.
    pub(crate) fn judge(
        &mut self,
        seq: u64,
        record: Record,
        mut source: Source,
        queued_bytes: usize,
    ) -> Step {
        let encoded = Encoded::of(&record);
        let core = record.sealed.core_of(encoded.header());
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
        let bytes = encoded.len();
        let user = row.map_or(UserId::ZERO, |row| row.user);
        let standing = Standing::Position;
        let mut candidate = Candidate {
            seq,
            record: Some(record),
            core,
            leaf,
            encoded,
            queued_bytes,
            user,
            source,
            standing,
        };
        let active = self.trial.active.as_active(self.kind);
        let place = Place {
            log: LogId {
                group: self.group,
                document: self.document,
            },
            row,
            chain: self.chain(&header.author),
            active: Some(&active),
            seen: self.check_seen(&candidate, &header),
            covered: self.check_covered(&header),
            gate: Gate::After {
                highest: self.trial.epoch_high,
                current: self.ctx.authority.epoch(),
            },
        };
        match judge_record(&header, &place) {
            Ok(Fit::Waits) => Step::Stop(candidate.into_form(), Blocked::Epoch(header.epoch), None),
            Ok(Fit::Unproven) => unproven(candidate),
            Ok(Fit::Chained { clock }) => {
                candidate.standing = Standing::Chained { clock, seen: None };
                Step::Candidate(candidate)
            }
            Ok(Fit::Snapshot { header: snapshot }) => {
                if !candidate.is_signed_by(row) {
                    let fault = Some(Fault::Record(RecordFault::Signature));
                    return Step::Stop(candidate.into_form(), Blocked::Unverified, fault);
                }
                candidate.standing = Standing::Snapshot(Box::new(SnapshotInfo {
                    seq,
                    id: leaf,
                    author: header.author,
                    user,
                    epoch: header.epoch,
                    parent: snapshot.parent,
                    chain_proof: snapshot.chain_proof,
                    covered: snapshot.covered,
                    bytes: u64::from(bytes),
                    // Known when it has its place.
                    weight: Weight::default(),
                }));
                Step::Candidate(candidate)
            }
            Err(fault) => match (fault, header.body.chained()) {
                // The last check of all, and it refuses only what is authentic.
                (RecordFault::SeenHead, Some(chained)) => {
                    candidate.standing = Standing::Chained {
                        clock: chained.clock,
                        seen: Some(fault),
                    };
                    Step::Candidate(candidate)
                }
                _ => self.refuse(candidate, row, fault),
            },
        }
    }

    /// Whether the head that a snapshot covers is a true prefix of the log.
    fn check_covered(&self, header: &RecordHeader) -> Seen {
        let RecordBody::Snapshot(snapshot) = header.body else {
            return Seen::Unproven;
        };
        let known = &self.trial.active.covered;
        seen(self.log.check_prefix(&snapshot.covered, &[], known))
    }

    /// Whether the seen head is a true prefix of the log before this record.
    fn check_seen(&mut self, candidate: &Candidate, header: &RecordHeader) -> Seen {
        if header.seen.size > candidate.seq {
            return Seen::False;
        }
        if let Some(own) = self.head_at(header.seen.size) {
            return Seen::known(own == header.seen);
        }
        if candidate.is_own() {
            // It was the head of this log when the record was sealed.
            return Seen::True;
        }
        let proof: &[Hash] = match &candidate.source {
            Source::Whole { proof } => proof,
            _ => &[],
        };
        let known = &self.trial.active.covered;
        let checked = self.log.check_prefix(&header.seen, proof, known);
        if checked.is_ok() {
            self.log.show(header.seen);
        }
        seen(checked)
    }

    /// Refuses a record for what its header says. What is filled in must be authentic before that can be said of an elided one.
    fn refuse(
        &self,
        mut candidate: Candidate,
        row: Option<&RosterRow>,
        fault: RecordFault,
    ) -> Step {
        let signed = candidate.is_signed_by(row);
        if !signed && matches!(candidate.source, Source::Elided { .. }) {
            let why = Blocked::Whole {
                first_seq: candidate.seq,
                count: WHOLE_COUNT,
            };
            return Step::Stop(candidate.into_form(), why, None);
        }
        // Where its author may not write, its place in their chain is taken all the same.
        let may_link = matches!(
            fault,
            RecordFault::EpochDecreased
                | RecordFault::NotMember
                | RecordFault::Role
                | RecordFault::InstanceClosed
        );
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

fn seen(checked: Result<(), SeenFault>) -> Seen {
    match checked {
        Ok(()) => Seen::True,
        Err(SeenFault::Wrong) => Seen::False,
        Err(SeenFault::Unproven) => Seen::Unproven,
    }
}
