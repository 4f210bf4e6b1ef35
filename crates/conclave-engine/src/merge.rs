//! A document whose log went on without what is here, after the service was put back or gave up what it had lost: the document begins anew from
//! the service's log, and what that lacks is kept on top of it and carried (`conclave-doc`). One after another; what is kept of the former log
//! is read first. Until the new beginning is durable the former one is, so nothing is lost by a crash, and the next connection finds the
//! same again.

use conclave_doc::{DeliverOutcome, DocError, KeptLog, Whose};
use conclave_proto::frame::OpenedDocument;
use conclave_proto::merkle::Head;
use conclave_proto::service::{LogName, Loss, SignedHead};
use conclave_proto::{DocumentId, GroupId, Hash, InstanceId};
use rand_core::RngCore;

use crate::cx::Cx;
use crate::document::{Base, Doc, Errand, Reread};
use crate::finding::{About, End, Finding, FindingKind, Step};
use crate::gather::GatherFor;
use crate::group::{Group, Whole};
use crate::io::Row;
use crate::kept;
use crate::link::{DocLink, NotOpen};
use crate::rescue::RescueCause;
use crate::slot::DocSlot;
use crate::timers::{DocTimer, TimerKind};

/// Others carry what its author has not carried after this time, in milliseconds.
const CARRY_OTHERS_MS: (u64, u64) = (30_000, 90_000);

/// The document whose turn it is.
#[derive(Debug)]
pub(crate) struct Merging {
    group: GroupId,
    document: DocumentId,
    how_far: HowFar,
}

#[derive(Debug)]
enum HowFar {
    /// What is kept of its log is being read.
    Reading,
    /// The service was asked for its log, to go on there under this instance.
    Asking(Box<KeptLog>, InstanceId, u64),
    /// It has opened it on this channel.
    Opened(Box<KeptLog>, InstanceId, u64),
}

impl Merging {
    pub(crate) fn is_in(&self, group: &GroupId) -> bool {
        self.group == *group
    }

    fn is_of(&self, group: GroupId, document: DocumentId) -> bool {
        (self.group, self.document) == (group, document)
    }
}

impl Cx {
    /// A document is to begin anew from the service's log, when those before it have.
    pub(crate) fn merge(&mut self, group: GroupId, document: DocumentId) {
        self.close_document(group, document);
        let link = DocLink::Refused(NotOpen::Later);
        self.link.set_document(group, document, link);
        let next = (group, document);
        if self.merging_of(group, document).is_some() {
            self.link.merging = None;
        }
        if !self.link.to_merge.contains(&next) {
            self.link.to_merge.push_back(next);
        }
        self.merge_next();
    }

    fn merging_of(&self, group: GroupId, document: DocumentId) -> Option<&Merging> {
        let merging = self.link.merging.as_ref();
        merging.filter(|it| it.is_of(group, document))
    }

    pub(crate) fn merge_next(&mut self) {
        if self.link.merging.is_some() {
            return;
        }
        let Some((group, document)) = self.link.to_merge.pop_front() else {
            return;
        };
        self.link.merging = Some(Merging {
            group,
            document,
            how_far: HowFar::Reading,
        });
        let prefixes = kept::document_prefixes(&group, &document);
        self.gather(prefixes.to_vec(), GatherFor::Merge(group, document));
    }

    /// This turn is over.
    fn merged_or_not(&mut self) {
        self.link.merging = None;
        self.merge_next();
    }

    /// What is kept of the log of a document was read: the service is asked for its own.
    pub(crate) fn merge_read(&mut self, whole: &mut Whole, id: DocumentId, rows: &[Row]) {
        let group = whole.group.id;
        let reading = self
            .merging_of(group, id)
            .is_some_and(|it| matches!(it.how_far, HowFar::Reading));
        if !reading {
            // The connection is another one by now.
            return;
        }
        let size = whole.group.documents.get(&id).map_or(0, |row| row.size);
        let here = matches!(
            whole.docs.get(&id),
            Some(DocSlot::Hot(_) | DocSlot::Away(_))
        );
        if !here {
            self.open_later(&mut whole.group, id, NotOpen::Later);
            return self.merged_or_not();
        }
        let log = kept::document_log(rows, &group, &id).unwrap_or_else(|error| {
            // It begins anew all the same: what is shown is told in words, and not carried.
            let what = FindingKind::failed(Step::ReadDocument, &error);
            self.finding(group, Some(id), what, None);
            KeptLog::unreadable(Head {
                size,
                root: Hash::ZERO,
            })
        });
        let mut instance = InstanceId([0; 8]);
        self.rng.fill_bytes(&mut instance.0);
        self.ask_open(group, id, instance, None);
        let Some(DocLink::Asking { ask }) = self.link.document(group, id) else {
            return self.merged_or_not();
        };
        let how_far = HowFar::Asking(Box::new(log), instance, *ask);
        self.link.merging = Some(Merging {
            group,
            document: id,
            how_far,
        });
    }

    /// The service has answered a question for a document, on this channel. Gives the instance under which it was opened to begin anew, where that
    /// is what was asked.
    pub(crate) fn merging_opened(
        &mut self,
        group: GroupId,
        id: DocumentId,
        (ask, channel): (u64, u64),
    ) -> Option<InstanceId> {
        let merging = self.link.merging.as_mut();
        let merging = merging.filter(|it| it.is_of(group, id))?;
        let is_it = matches!(&merging.how_far, HowFar::Asking(_, _, asked) if *asked == ask);
        let how_far = std::mem::replace(&mut merging.how_far, HowFar::Reading);
        match how_far {
            HowFar::Asking(kept, instance, _) if is_it => {
                merging.how_far = HowFar::Opened(kept, instance, channel);
                Some(instance)
            }
            other => {
                merging.how_far = other;
                None
            }
        }
    }

    /// The service has opened a document. True where that was for it to begin anew.
    pub(crate) fn begin_anew(
        &mut self,
        group: &Group,
        doc: &mut Doc,
        opened: &OpenedDocument,
    ) -> bool {
        let channel = opened.channel.0;
        let is_it = |it: &mut Merging| {
            let on = matches!(&it.how_far, HowFar::Opened(_, _, of) if *of == channel);
            on && it.is_of(group.id, doc.id)
        };
        let merging = self.link.merging.take_if(is_it);
        let Some(HowFar::Opened(kept, instance, _)) = merging.map(|it| it.how_far) else {
            return false;
        };
        if self.is_open_on(group.id, doc.id, channel) {
            doc.errand = Some(Errand::Merge {
                opened: Box::new(opened.clone()),
                kept,
                instance,
                seed: self.seed(),
            });
        }
        self.merge_next();
        true
    }

    /// A document has begun anew, or could not: then it is as before, off the connection, until the next look at it.
    pub(crate) fn has_begun_anew(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        result: Result<DeliverOutcome, DocError>,
        (channel, base, signed): (u64, Option<Base>, SignedHead),
    ) {
        match result.map_err(|error| self.judge_base(group, base, error)) {
            Ok(outcome) => {
                let own = self.device.id();
                if let Some(base) = base.filter(|base| base.author.device != own) {
                    self.root_opened(group, base.epoch, base.author.device);
                    self.proven(group, base.epoch);
                }
                self.tell_in_step(group.id, Some(doc.id));
                self.delivered(group, doc, Ok(outcome));
                if doc.reread.is_none() {
                    // What the service had signed of the former log says nothing of this one.
                    self.follow_head(group, doc.id, signed);
                }
            }
            Err(error) if error.is_retryable() => {
                if let DocError::MissingRoot { .. } = error {
                    // Somebody may have it still. Until then what is here is all that can be read.
                    self.finding(group.id, Some(doc.id), FindingKind::CannotMerge, None);
                }
                self.opened_too_early(group, doc, channel, &error);
            }
            Err(error) => {
                self.unreadable(group.id, doc.id, &error);
                self.close_document(group.id, doc.id);
                self.open_later(group, doc.id, NotOpen::Later);
            }
        }
    }

    /// A document could not be opened to begin anew: the next look at it finds the same again.
    pub(crate) fn merge_refused(&mut self, group: GroupId, id: DocumentId) {
        if self.merging_of(group, id).is_some() {
            self.merged_or_not();
        }
    }

    /// After any work on a document that is open and here as far as the service has it: what its log has lost is carried, that of others only
    /// after a while, and what nobody here can carry is kept apart.
    pub(crate) fn carry_on(&mut self, group: &Group, doc: &Doc) {
        let about = About::Document(group.id, doc.id);
        let timer = TimerKind::Document(group.id, doc.id, DocTimer::Carry);
        if doc.document.lost_count() == 0 {
            self.cancel_timer(timer);
            self.ended(about, End::Merged);
            return;
        }
        // All of the log is here: what is still lost is what it went on without.
        let merging = Finding {
            what: FindingKind::Merging {
                missing: doc.document.lost_count() as u64,
            },
            about,
            suspect: None,
        };
        if self.open_finding(&merging).is_none() {
            self.found(merging);
        }
        let (least, most) = CARRY_OTHERS_MS;
        let delay = self.jitter(least, most);
        self.wake(delay, timer);
    }

    /// Tells where something cannot be carried now for what it costs.
    pub(crate) fn tell_carried(&mut self, group: &Group, doc: &Doc) {
        let about = About::Document(group.id, doc.id);
        let waits = Finding {
            what: FindingKind::CarriedWaits,
            about,
            suspect: None,
        };
        match doc.document.carried_waits() {
            false => self.ended(about, End::Paid),
            true if self.open_finding(&waits).is_none() => self.found(waits),
            true => {}
        }
    }

    /// The authors had time to carry their own: the rest is carried from here, or nobody does.
    pub(crate) fn carry_others(&mut self, group: &mut Group, doc: &mut Doc) {
        let is_here = self.link.is_at_rest(group.id, doc) && group.may_act();
        if !is_here {
            // Later, when it is open again.
            return;
        }
        let context = group.doc_context(&self.device);
        let carried = doc.document.carry(&context, Whose::All);
        let uncarried = carried.and_then(|_| doc.document.take_uncarried(&context));
        match uncarried {
            Ok(None) => {}
            Ok(Some(unsent)) => {
                let cause = RescueCause::NotCarried;
                if !self.keep_lost(group, doc.id, cause, vec![unsent]) {
                    // What is stored still holds it.
                    doc.reread = Some(Reread::NoRoom);
                }
            }
            Err(error) => self.delivered(group, doc, Err(error)),
        }
    }

    /// Whether the service has given up what is here of a document. That is told.
    pub(crate) fn lost_for_good(&mut self, group: &Group, doc: &Doc, losses: &[Loss]) -> bool {
        let log = LogName {
            group: group.id,
            document: Some(doc.id),
        };
        let size = doc.document.size();
        let grown_in = group.grown_in(Some(doc.id));
        if !self.given_up(&log, (size, grown_in), losses) {
            return false;
        }
        let of_log = losses.iter().filter(|loss| loss.log == log);
        let kept = of_log.map(|loss| loss.kept.size).min().unwrap_or(size);
        let what = FindingKind::LossDeclared {
            lost: size.saturating_sub(kept),
        };
        self.finding(group.id, Some(doc.id), what, None);
        true
    }
}
