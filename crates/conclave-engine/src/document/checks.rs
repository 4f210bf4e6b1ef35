//! Snapshots that others made: checked, judged in the log, confirmed an hour later; and what of all that is told.

use conclave_doc::{Basis, Checked, DiffersWhy, Judgement, PassedOver, Refuted, snapshot_row};

use super::*;
use crate::cx::ReadTarget;
use crate::event::{BasisInfo, Person};
use crate::finding::Finding;

impl Cx {
    /// Checks snapshots of others, and plans a verdict where it is to be said.
    pub(super) fn pump_check(&mut self, group: &mut Group, doc: &mut Doc) {
        if doc.errand.is_some() {
            // A snapshot is made first.
            return;
        }
        while doc.document.is_lot_open() {
            let devices = group.state().current_rows().count() as u64;
            let random = self.rng.next_u64();
            doc.document.draw_lot(devices, random);
        }
        let place = About::Document(group.id, doc.id);
        let context = group.doc_context(&self.device);
        match doc.document.check_wanted(&context) {
            // It was done, or cannot be done any more, or is not this device's.
            None => self.ended(place, End::Checked),
            // A look at it did not come back: others look, and keys stay.
            Some(wanted) if group.is_stuck_at_snapshot(&doc.id, wanted.seq) => {}
            Some(wanted) if !wanted.have && wanted.kept => {
                self.read_snapshot(group.id, doc, wanted.seq);
            }
            Some(wanted) if !wanted.have => self.fetch_records(group.id, doc, wanted.seq, 1),
            Some(_) => {
                doc.errand = Some(Errand::Check);
                return;
            }
        }
        self.plan_verdict(group, doc);
    }

    /// What this device was given once is read from its own store: nobody can withhold it.
    fn read_snapshot(&mut self, group: GroupId, doc: &mut Doc, seq: u64) {
        if doc.notes.reads.replace(seq) == Some(seq) {
            return;
        }
        let mut key = keys::kept_prefix(&group, &doc.id);
        key.extend_from_slice(&snapshot_row(seq));
        self.read(key, ReadTarget::Snapshot(group, doc.id, seq));
    }

    /// The row of a snapshot came, if there is one.
    pub(crate) fn snapshot_read(&mut self, doc: &mut Doc, seq: u64, rows: &[Row]) {
        doc.notes.reads = None;
        let row = rows.first().map_or(&[][..], |(_, value)| value.as_slice());
        doc.document.take_snapshot(seq, row);
    }

    /// A snapshot of somebody else was compared with what is here.
    pub(super) fn checked(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        judged: Result<Option<Checked>, DocError>,
    ) {
        let unread = Judgement::Differs(DiffersWhy::Unreadable);
        if let Ok(Some(checked)) = &judged {
            if checked.judgement != unread {
                self.root_opened(group, checked.epoch, checked.author);
            } else if self.root_doubted(group, checked.epoch) {
                doc.reread = Some(Reread::FalseRoot);
                return;
            }
        }
        match judged {
            Ok(checked) => {
                self.ended(About::Document(group.id, doc.id), End::Checked);
                let judgement = checked.map(|it| it.judgement);
                if matches!(judgement, Some(Judgement::Differs(_))) {
                    // Who rests on what is disputed may go over to it.
                    self.post_document(group.id, doc.id, DocWork::Retry);
                }
            }
            // The root may still come. Where it does not, others check.
            Err(DocError::MissingRoot { .. }) => {}
            Err(DocError::UnknownSnapshot { .. }) => self.tell_newer_program(group, doc),
            Err(error) => {
                let what = FindingKind::failed(Step::CheckCondensed, &error);
                self.finding(group.id, Some(doc.id), what, None);
            }
        }
        self.plan_verdict(group, doc);
        self.end_settling(group, doc);
    }

    /// A member has a program that knows more than this one.
    pub(super) fn tell_newer_program(&mut self, group: &Group, doc: &Doc) {
        let newer = Finding {
            what: FindingKind::NewerProgram,
            about: About::Document(group.id, doc.id),
            suspect: None,
        };
        if self.open_finding(&newer).is_none() {
            self.found(newer);
        }
    }

    fn plan_verdict(&mut self, group: &Group, doc: &Doc) {
        let context = group.doc_context(&self.device);
        if doc.document.pending_verdict(&context).is_some() {
            let verdict = TimerKind::Document(group.id, doc.id, DocTimer::Verdict);
            self.plan(200, 3_000, verdict);
        }
    }

    /// The time to write a verdict has come. Another member's may have come meanwhile: then there may be none to write.
    pub(crate) fn verdict_due(&mut self, group: &Group, doc: &mut Doc) {
        let context = group.doc_context(&self.device);
        doc.document.write_verdict(&context);
    }

    /// Confirms what can be confirmed: below it roots are not needed.
    pub(super) fn confirm_snapshots(&mut self, group: &Group, doc: &mut Doc) {
        if group.is_broken() || !group.mls.is_active() {
            return;
        }
        let context = group.doc_context(&self.device);
        let outcome = doc.document.confirm(&context, self.now);
        let timer = TimerKind::Document(group.id, doc.id, DocTimer::Confirm);
        self.cancel_timer(timer);
        if let Some(at) = outcome.again {
            self.wake_at(at, timer);
        }
        if outcome.moved {
            // What is stored of records under former roots becomes part of a checkpoint.
            self.post_document(group.id, doc.id, DocWork::Retry);
        }
    }

    /// Tells what own checks have refuted, and on what the document rests here, where that is new.
    pub(super) fn tell_checks(&mut self, group: &mut Group, doc: &mut Doc) {
        let context = group.doc_context(&self.device);
        let alone = doc.document.differs_alone(&context);
        for refuted in doc.document.refuted(&context) {
            let (what, suspect) = match refuted {
                Refuted::Snapshot { seq, device } => {
                    (FindingKind::FalseSnapshot { seq }, device.into())
                }
                Refuted::Verdict { seq, user } => {
                    (FindingKind::FalseVerdict { seq }, Suspect::User(user))
                }
            };
            self.finding(group.id, Some(doc.id), what, Some(suspect));
        }
        for missed in doc.document.missed() {
            let what = FindingKind::SnapshotsUnchecked { seq: missed.seq };
            self.finding(group.id, Some(doc.id), what, Some(missed.device.into()));
        }
        if let Some(PassedOver { from, to }) = doc.document.passed_over() {
            let what = FindingKind::PassedOver { from, to };
            self.finding(group.id, Some(doc.id), what, None);
        }
        for seq in doc.document.withheld(self.now) {
            let what = FindingKind::SnapshotWithheld { seq };
            self.finding(group.id, Some(doc.id), what, Some(Suspect::Service));
        }
        let place = About::Document(group.id, doc.id);
        let differs = Finding {
            what: FindingKind::EngineDiffers,
            about: place,
            suspect: None,
        };
        match alone {
            false => self.ended(place, End::Agrees),
            true if self.open_finding(&differs).is_none() => self.found(differs),
            true => {}
        }
        self.tell_basis(group, doc, place);
    }

    fn tell_basis(&mut self, group: &mut Group, doc: &mut Doc, place: About) {
        let basis = doc.document.basis();
        let row = group.documents.entry(doc.id).or_default();
        let stored = Some(basis.clone()).filter(|it| *it != Basis::Checked);
        if row.basis == stored {
            return;
        }
        row.basis = stored;
        self.save_document_row(group, &doc.id);
        match &basis {
            Basis::Disputed { author, .. } => {
                let suspect = Some(Suspect::User(*author));
                self.finding(group.id, Some(doc.id), FindingKind::BaseDisputed, suspect);
            }
            _ => self.ended(place, End::Undisputed),
        }
        let basis = self.basis_info(&basis);
        self.event(Event::BasisChanged {
            group: group.id,
            document: doc.id,
            basis,
        });
    }

    /// The same for people.
    pub(crate) fn basis_info(&self, basis: &Basis) -> BasisInfo {
        let person = |user: &UserId| Person {
            user: *user,
            name: self.name_of(user),
            verified: self.device.has_verified(user),
            is_own: self.device.user() == Some(*user),
        };
        let people = |users: &[UserId]| users.iter().map(person).collect();
        match basis {
            Basis::Checked => BasisInfo::Checked,
            Basis::Vouched { author, by } => BasisInfo::Vouched {
                author: person(author),
                by: people(by),
            },
            Basis::Word { author } => BasisInfo::Word {
                author: person(author),
            },
            Basis::Disputed {
                author,
                for_it,
                against,
            } => BasisInfo::Disputed {
                author: person(author),
                for_it: people(for_it),
                against: people(against),
            },
        }
    }
}
