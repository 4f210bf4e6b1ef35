//! Snapshots that others made: checked, judged in the log, confirmed an hour later; and what of all that is told.

use conclave_doc::{Basis, DiffersWhy, Judgement, Refuted};

use super::*;
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
            Some(wanted) if !wanted.have => self.fetch_records(group.id, doc, wanted.seq, 1),
            Some(_) => {
                doc.errand = Some(Errand::Check);
                return;
            }
        }
        self.plan_verdict(group, doc);
    }

    /// A snapshot of somebody else was compared with what is here.
    pub(super) fn checked(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        judged: Result<Option<Judgement>, DocError>,
    ) {
        let unread = Judgement::Differs(DiffersWhy::Unreadable);
        let epoch = doc.document.snapshot_epoch();
        if judged == Ok(Some(unread)) && self.root_doubted(group, epoch) {
            doc.reread = Some(Reread::FalseRoot);
            return;
        }
        match judged {
            Ok(judgement) => {
                self.ended(About::Document(group.id, doc.id), End::Checked);
                if matches!(judgement, Some(Judgement::Differs(_))) {
                    // Who rests on what is disputed may go over to it.
                    self.post_document(group.id, doc.id, DocWork::Retry);
                }
            }
            // The root may still come. Where it does not, others check.
            Err(DocError::MissingRoot { .. }) => {}
            Err(error) => {
                let what = FindingKind::failed(Step::CheckCondensed, &error);
                self.finding(group.id, Some(doc.id), what, None);
            }
        }
        self.plan_verdict(group, doc);
        self.end_settling(group, doc);
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
