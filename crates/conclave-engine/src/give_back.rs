//! Returning what a put-back service lost of documents' logs: read from what is kept, one log after another, and offered as it was. The service
//! takes what leads to a head that it had signed, so nobody chooses what comes back, and who brings it does not matter.

use conclave_doc::KeptItem;
use conclave_proto::codec::encode;
use conclave_proto::frame::{Answer, Request, Returned};
use conclave_proto::{DocumentId, GroupId, limits};

use crate::cx::Cx;
use crate::finding::FindingKind;
use crate::gather::GatherFor;
use crate::group::Group;
use crate::io::Row;
use crate::kept;
use crate::link::Pending;
use crate::timers::{DocTimer, TimerKind};

/// Most records in one offer: as many as a list on the wire has.
const OFFER_RECORDS: usize = 4096;

/// A log that is to be returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ToGiveBack {
    group: GroupId,
    document: DocumentId,
    /// How much of it the service has.
    have: u64,
    /// How much of it the service had signed: more it does not take.
    want: u64,
}

impl Cx {
    /// The service was put back, and lacks what is here of a document: it is offered to it, when those before it were.
    pub(crate) fn give_back(&mut self, group: &Group, document: DocumentId, have: u64) {
        let signed = self.largest_shown(group, Some(document));
        let Some(want) = signed.map(|shown| shown.head().size) else {
            return;
        };
        let group = group.id;
        let next = ToGiveBack {
            group,
            document,
            have,
            want,
        };
        let is_same = |it: &ToGiveBack| (it.group, it.document) == (group, document);
        let waiting = self.link.to_give_back.iter().chain(&self.link.giving_back);
        if !waiting.into_iter().any(is_same) {
            self.link.to_give_back.push_back(next);
        }
        self.give_back_next();
    }

    fn give_back_next(&mut self) {
        if self.link.giving_back.is_some() {
            return;
        }
        let Some(next) = self.link.to_give_back.pop_front() else {
            return;
        };
        self.link.giving_back = Some(next);
        let prefixes = kept::document_prefixes(&next.group, &next.document);
        let what = GatherFor::GiveBack(next.group, next.document);
        self.gather(prefixes.to_vec(), what);
    }

    /// What is kept of a log that is to be returned was read.
    pub(crate) fn give_back_read(&mut self, group: GroupId, document: DocumentId, rows: &[Row]) {
        let turn = self.link.giving_back;
        let Some(turn) = turn.filter(|it| (it.group, it.document) == (group, document)) else {
            // The connection is another one by now.
            return;
        };
        let Some(items) = offer(rows, &turn) else {
            // What is kept does not reach so far back, or is too much for one offer: others may have it, and it is told that it is missing.
            self.link.giving_back = None;
            return self.give_back_next();
        };
        let request = Request::ReturnDocument {
            group,
            document,
            base: None,
            from: turn.have,
            items,
        };
        self.request(request, Pending::GiveBack(group, document));
    }

    /// The service has taken what was offered to it, or not. Where it goes on from what is here shows when the document is opened again.
    pub(crate) fn give_back_answered(
        &mut self,
        group: GroupId,
        document: DocumentId,
        answer: &Answer,
    ) {
        let is_it = |it: &mut ToGiveBack| (it.group, it.document) == (group, document);
        if self.link.giving_back.take_if(is_it).is_none() {
            return;
        }
        match answer {
            Answer::Accepted { .. } => {
                let open = TimerKind::Document(group, document, DocTimer::Open);
                self.cancel_timer(open);
                self.wake(0, open);
            }
            // Somebody else has returned it, or more is wanted: the next look compares anew.
            Answer::Refused(refusal) if refusal.is_retryable() => {}
            Answer::Refused(refusal) => {
                let what = FindingKind::NotReturned {
                    cause: refusal.into(),
                };
                self.finding(group, Some(document), what, None);
            }
            _ => {}
        }
        self.give_back_next();
    }
}

/// All that is here of a log from where the service's ends. None where it does not reach so far back, is not whole, or is too much.
fn offer(rows: &[Row], turn: &ToGiveBack) -> Option<Vec<Returned>> {
    let log = kept::document_log(rows, &turn.group, &turn.document).ok()?;
    let count = usize::try_from(turn.want.checked_sub(turn.have)?).ok()?;
    let kept = log.since(turn.have)?.get(..count)?;
    if kept.is_empty() || kept.len() > OFFER_RECORDS {
        return None;
    }
    let mut bytes = 0;
    let mut items = Vec::with_capacity(kept.len());
    for item in kept {
        let KeptItem::Record(record) = item else {
            return None;
        };
        bytes += encode(record.as_ref()).len();
        items.push(Returned::Record(record.as_ref().clone()));
    }
    (bytes <= limits::FRAME_BYTES / 2).then_some(items)
}
