//! The rules that need no content key, in the order of the design (`docs/PROTOCOL.md`, Order of checks).

use conclave_mls::RosterRow;
use conclave_proto::policy::Role;
use conclave_proto::record::{
    ChainFault, Chained, RECORD_VERSION, Record, RecordBody, RecordHeader, SnapshotHeader,
    check_link, record_leaf,
};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Hash, UserId};
use tls_codec::Size;

use crate::candidate::{Candidate, Source, Standing, Step, WHOLE_COUNT};
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
            // Breakage: a record may name any predecessor.
            if fault != RecordFault::Prev || !cfg!(conclave_break = "ignore-prev") {
                return self.refuse(candidate, row, fault, false);
            }
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
            bytes: u64::from(candidate.bytes),
            // Known when it has its place.
            weight: Weight::default(),
        })
    }

    /// Whether the seen head is a true prefix of the log before this record.
    fn check_seen(
        &mut self,
        candidate: &Candidate,
        header: &RecordHeader,
    ) -> Result<(), SeenFault> {
        // Breakage: a record may claim to have seen any log.
        if cfg!(conclave_break = "ignore-seen-head") {
            return Ok(());
        }
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
        if candidate.is_own() {
            // It was the head of this log when the record was sealed.
            return Ok(());
        }
        self.log
            .check_prefix(&header.seen, proof, &self.trial.active.covered)?;
        self.log.show(header.seen);
        Ok(())
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
