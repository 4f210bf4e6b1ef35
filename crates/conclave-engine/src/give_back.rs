//! Returning what a put-back service lost: read from what is kept, one log after another, and offered as it was. The service takes what leads to a
//! head that it had signed, and goes on from there, so nobody chooses what comes back, and who brings it does not matter. A group's log comes
//! before its documents': it says who may have written what they lack.

use std::collections::{BTreeMap, BTreeSet};

use conclave_doc::KeptItem;
use conclave_proto::codec::Bytes;
use conclave_proto::frame::{Answer, DocumentBase, JoinState, Request, Returned};
use conclave_proto::group::{GroupEntry, RootWrap};
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DocumentId, GroupId, Hash, Record, Refusal, limits};
use tls_codec::Size as _;

use crate::cx::Cx;
use crate::finding::FindingKind;
use crate::gather::GatherFor;
use crate::group::Group;
use crate::io::Row;
use crate::kept::{self, GroupLog};
use crate::link::Pending;
use crate::timers::{DocTimer, TimerKind};
use crate::work::GroupWork;

/// Most bytes in one offer.
const OFFER_BYTES: usize = limits::FRAME_BYTES / 2;

/// A log that is to be returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ToGiveBack {
    group: GroupId,
    /// The document; none for the group's own log.
    document: Option<DocumentId>,
    there: There,
    offers: Offers,
}

/// What the service is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offers {
    /// To take all that is here.
    All,
    /// To go on from the newest snapshot, since what was before it is not all here.
    FromSnapshot,
    /// Whether it takes anything, since what it lacks is not all here.
    Nothing,
}

/// How much of a log the service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum There {
    /// It does not say, since it knows nothing of this device there.
    Unknown,
    /// So many entries or records.
    Size(u64),
    /// It has no such group.
    Nothing,
}

impl ToGiveBack {
    fn is_of(&self, group: &GroupId, document: Option<&DocumentId>) -> bool {
        (&self.group, self.document.as_ref()) == (group, document)
    }
}

impl Cx {
    /// The service was put back, and lacks what is here of a log: it is offered to it, when those before it were.
    pub(crate) fn give_back(&mut self, group: GroupId, document: Option<DocumentId>, there: There) {
        let next = ToGiveBack {
            group,
            document,
            there,
            offers: Offers::All,
        };
        let mut waiting = self.link.to_give_back.iter().chain(&self.link.giving_back);
        if !waiting.any(|it| it.is_of(&group, document.as_ref())) {
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
        let prefixes = match &next.document {
            Some(document) => kept::document_prefixes(&next.group, document).to_vec(),
            None => vec![kept::group_prefix(&next.group)],
        };
        self.gather(prefixes, GatherFor::GiveBack(next.group, next.document));
    }

    /// It is not this device that can return a log: others may, and it is told that something is missing.
    fn gives_nothing(&mut self) {
        if let Some(turn) = self.link.giving_back.take() {
            self.link.not_taken.insert((turn.group, turn.document));
        }
        self.give_back_next();
    }

    /// What is kept of a document's log that is to be returned was read.
    pub(crate) fn give_back_read(&mut self, group: GroupId, document: DocumentId, rows: &[Row]) {
        let turn = self.link.giving_back;
        let Some(turn) = turn.filter(|it| it.is_of(&group, Some(&document))) else {
            // The connection is another one by now.
            return;
        };
        let There::Size(from) = turn.there else {
            return self.gives_nothing();
        };
        let of = (&group, &document);
        let (base, from, items) = match records(rows, of, from) {
            Some(items) => (None, from, items),
            None => match from_snapshot(rows, of).filter(|_| from == 0) {
                Some((base, items)) => {
                    self.offers(Offers::FromSnapshot);
                    let from = base.frontier.size();
                    (Some(base), from, items)
                }
                None => (None, from, self.asks(Vec::new())),
            },
        };
        let request = Request::ReturnDocument {
            group,
            document,
            base,
            from,
            items,
        };
        self.request(request, Pending::GiveBack(group, Some(document)));
    }

    /// What is kept of a group's own log that is to be returned was read.
    pub(crate) fn give_back_group_read(&mut self, group: &Group, rows: &[Row]) {
        let turn = self.link.giving_back;
        let Some(turn) = turn.filter(|it| it.is_of(&group.id, None)) else {
            return;
        };
        // It would vouch for the present epoch.
        let in_place = group.check_writable().is_ok() && !group.is_broken();
        let request = match turn.there {
            _ if !in_place || group.is_unproven() || group.is_founding() => None,
            There::Unknown => Some(self.asks(asks_from(group.id, 0))),
            There::Size(from) => match self.return_group(group, rows, from) {
                Some(request) => Some(request),
                None => Some(self.asks(asks_from(group.id, from))),
            },
            There::Nothing => self.adopt_group(group, rows),
        };
        match request {
            Some(request) => self.request(request, Pending::GiveBack(group.id, None)),
            None if turn.there == There::Nothing => {
                self.gives_nothing();
                self.gives_up(group.id, None);
            }
            None => self.gives_nothing(),
        }
    }

    /// What is sent in this turn offers nothing.
    fn asks<T>(&mut self, question: T) -> T {
        self.offers(Offers::Nothing);
        question
    }

    fn offers(&mut self, what: Offers) {
        if let Some(turn) = &mut self.link.giving_back {
            turn.offers = what;
        }
    }

    /// An offer of all that is here of a group's log. None where it does not reach so far back, or is too much.
    fn return_group(&mut self, group: &Group, rows: &[Row], from: u64) -> Option<Request> {
        let log = kept::group_log(rows, &group.id).ok()?;
        let entries = entries(&log, from)?;
        let commits: BTreeSet<&[u8]> = entries.iter().filter_map(commit).collect();
        let (mut group_info, mut wrap) = (None, None);
        if !commits.is_empty() {
            let (made, sealed) = self.of_present_epoch(group)?;
            (group_info, wrap) = (Some(made), Some(sealed));
        }
        // The newest first, as far as they fit: without its bundle a commit has no Welcome any more, and only that.
        let mut room = OFFER_BYTES;
        let mut bundles = Vec::new();
        let own = log.bundles.into_values().rev();
        let own = own.filter(|bundle| commits.contains(bundle.commit.as_slice()));
        for bundle in own.filter(|bundle| bundle.welcome.is_some()) {
            let left = room.checked_sub(bundle.tls_serialized_len());
            let Some(left) = left.filter(|_| bundles.len() < limits::BUNDLES_PER_OFFER) else {
                break;
            };
            room = left;
            bundles.push(bundle);
        }
        Some(Request::ReturnGroup {
            group: group.id,
            from,
            entries,
            group_info,
            wrap,
            bundles,
        })
    }

    /// A group as it is here, for a service that has nothing of it. None where what lists its documents is not all here.
    fn adopt_group(&mut self, group: &Group, rows: &[Row]) -> Option<Request> {
        let log = kept::group_log(rows, &group.id).ok()?;
        let (group_info, wrap) = self.of_present_epoch(group)?;
        let state = group.state();
        let kept = log.entries.into_iter().map(|it| it.entry);
        let proposals: BTreeMap<Hash, Bytes> = kept
            .filter_map(|entry| match &entry {
                GroupEntry::Proposal(message) => Some((entry.leaf(), message.clone())),
                GroupEntry::Commit(_) | GroupEntry::Signed(_) => None,
            })
            .collect();
        let pending = state.pending.iter();
        let pending = pending.map(|it| proposals.get(&it.leaf).cloned());
        Some(Request::AdoptGroup {
            group: group.id,
            group_info,
            tree: group.mls.export_tree().into(),
            state: JoinState {
                group_state: state.to_bytes().into(),
                frontier: state.frontier.clone(),
                entries: log.listing,
                wrap,
            },
            pending: pending.collect::<Option<_>>()?,
        })
    }

    /// GroupInfo and root wrap of the epoch that a group is in.
    fn of_present_epoch(&mut self, group: &Group) -> Option<(Bytes, RootWrap)> {
        let context = self.device.context().ok()?;
        let info = group.mls.export_group_info(&context).ok()?;
        Some((info.into(), self.own_wrap(group)?))
    }

    /// A group cannot be worked on any more: the turns of its log and its documents are over.
    pub(crate) fn pass_turns(&mut self, group: &GroupId) {
        let link = &mut self.link;
        link.to_give_back.retain(|it| it.group != *group);
        link.to_merge.retain(|(of, _)| of != group);
        let given = link.giving_back.take_if(|it| it.group == *group);
        let merged = link.merging.take_if(|it| it.is_in(group));
        if given.is_some() {
            self.give_back_next();
        }
        if merged.is_some() {
            self.merge_next();
        }
    }

    /// The service has taken what was offered to it, or not. Where it goes on from what is here shows when the log is compared anew.
    pub(crate) fn give_back_answered(
        &mut self,
        group: GroupId,
        document: Option<DocumentId>,
        answer: &Answer,
    ) {
        let is_it = |it: &mut ToGiveBack| it.is_of(&group, document.as_ref());
        let Some(turn) = self.link.giving_back.take_if(is_it) else {
            return;
        };
        match answer {
            Answer::Refused(_) if turn.there != There::Unknown => {
                self.link.not_taken.insert((group, document));
            }
            _ => {
                self.link.not_taken.remove(&(group, document));
            }
        }
        match answer {
            Answer::Accepted { .. } | Answer::Done => self.was_taken(group, document),
            // It says now how much it has.
            Answer::Refused(Refusal::Recovering { have, .. }) if turn.there == There::Unknown => {
                self.give_back(group, document, There::Size(*have));
            }
            // It has nothing of the group.
            Answer::Refused(Refusal::UnknownGroup) if turn.there == There::Unknown => {
                self.give_back(group, document, There::Nothing);
            }
            // Nothing is known to be missing there, and what is here is not all that goes on from it: whoever has that has some time.
            Answer::Refused(Refusal::Recovering { have, want })
                if want <= have && turn.offers == Offers::Nothing =>
            {
                self.gives_up(group, document);
            }
            // It has that group from its beginning, and waits for that of the document.
            Answer::Refused(Refusal::Malformed) if turn.offers == Offers::FromSnapshot => {
                self.gives_up(group, document);
            }
            Answer::Refused(WENT_ON) => self.went_on(group, document),
            // All logs are held, and this goes on from there: whoever comes first when they are not is heard, and nobody says when that is.
            Answer::Refused(Refusal::Recovering { have, want }) if want <= have => {
                self.compare_soon(group, document, HELD_PAUSE_MS);
            }
            // Somebody else was first, or more is wanted: the next look compares anew.
            Answer::Refused(refusal)
                if refusal.is_retryable() || *refusal == Refusal::AlreadyExists => {}
            Answer::Refused(refusal) => {
                let what = FindingKind::NotReturned {
                    cause: refusal.into(),
                };
                self.finding(group, document, what, None);
                // It may take it from another.
                self.gives_up(group, document);
            }
            _ => {}
        }
        self.give_back_next();
    }

    /// Looks at once how the log stands now. A service that takes it and shows none of it is looked at again as any that is away.
    fn was_taken(&mut self, group: GroupId, document: Option<DocumentId>) {
        if self.link.returned.insert((group, document)) {
            self.compare_soon(group, document, 0);
        }
    }

    /// Compares a log anew, after a while at most.
    fn compare_soon(&mut self, group: GroupId, document: Option<DocumentId>, delay: u64) {
        let what = match document {
            Some(document) => {
                let open = TimerKind::Document(group, document, DocTimer::Open);
                return self.wake(delay, open);
            }
            None => GroupWork::CompareAgain(self.now.plus_ms(delay)),
        };
        self.post_group(group, what);
    }

    /// What the service lacks is not all here. Where nobody has brought it for long, it goes on without.
    fn gives_up(&mut self, group: GroupId, document: Option<DocumentId>) {
        // Both by the service's clock: the own one may be wrong.
        let now = self.service_now();
        let begun = self.link.named.map_or(now, |named| named.begun);
        let most = match document {
            Some(_) => DOCUMENT_WAITS_MS,
            None => GROUP_WAITS_MS,
        };
        if now.since_ms(begun) >= most {
            self.went_on(group, document);
        }
    }

    /// The service goes on without what is here of a log.
    fn went_on(&mut self, group: GroupId, document: Option<DocumentId>) {
        self.post_group(group, GroupWork::WentOn(document));
    }
}

/// The service takes nothing back any more.
const WENT_ON: Refusal = Refusal::Forbidden {
    why: ForbiddenWhy::WentOn,
};

/// Pause between two offers of what nothing is known to be missing of, while all logs are held, in milliseconds.
const HELD_PAUSE_MS: u64 = 10_000;

/// How long after a service was put back a document waits for whoever can return what it lacks, where nothing proves that the service had it, in
/// milliseconds.
const DOCUMENT_WAITS_MS: u64 = 15 * 60 * 1000;
/// As above, a group's log, with which nobody can go on by themselves.
const GROUP_WAITS_MS: u64 = 24 * 60 * 60 * 1000;

/// Offers nothing, to be told how much there is, and whether more is taken.
fn asks_from(group: GroupId, from: u64) -> Request {
    Request::ReturnGroup {
        group,
        from,
        entries: Vec::new(),
        group_info: None,
        wrap: None,
        bundles: Vec::new(),
    }
}

fn commit(entry: &GroupEntry) -> Option<&[u8]> {
    match entry {
        GroupEntry::Commit(message) => Some(message.as_slice()),
        GroupEntry::Proposal(_) | GroupEntry::Signed(_) => None,
    }
}

/// Entries from a position on. None where they are not here, or are too much.
fn entries(log: &GroupLog, from: u64) -> Option<Vec<GroupEntry>> {
    let kept = log.since(from)?;
    if kept.is_empty() || kept.len() > limits::ITEMS_PER_LIST {
        return None;
    }
    let bytes: usize = kept.iter().map(|it| it.entry.tls_serialized_len()).sum();
    let all = || kept.iter().map(|it| it.entry.clone()).collect();
    (bytes <= OFFER_BYTES).then(all)
}

/// All records that are here of a document's log from a position on. None where it does not reach so far back, is not whole, or is too much.
fn records(rows: &[Row], of: (&GroupId, &DocumentId), from: u64) -> Option<Vec<Returned>> {
    let log = kept::document_log(rows, of.0, of.1).ok()?;
    let kept = log.since(from)?.iter().map(|item| match item {
        KeptItem::Record(record) => Some(record.as_ref()),
        KeptItem::Leaf(_) => None,
    });
    offered(kept.collect::<Option<_>>()?)
}

/// All records that are here of a document's log from what its newest snapshot covers on, and where it begins there. None where that is not whole, or is
/// too much.
fn from_snapshot(
    rows: &[Row],
    of: (&GroupId, &DocumentId),
) -> Option<(DocumentBase, Vec<Returned>)> {
    let log = kept::document_log(rows, of.0, of.1).ok()?;
    let (base, records) = log.from_snapshot()?;
    let fits = base.nodes.len() <= limits::ITEMS_PER_LIST;
    Some((base, offered(records)?)).filter(|_| fits)
}

/// Records as they are offered. None where they are none, or too much.
fn offered(records: Vec<&Record>) -> Option<Vec<Returned>> {
    if records.is_empty() || records.len() > limits::ITEMS_PER_OFFER {
        return None;
    }
    let bytes: usize = records.iter().map(|it| it.tls_serialized_len()).sum();
    let items = records.into_iter().cloned().map(Returned::Record);
    (bytes <= OFFER_BYTES).then(|| items.collect())
}
