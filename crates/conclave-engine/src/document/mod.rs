//! Documents in memory: opened, delivered to, edited, sent.

mod aside;
mod blame;
mod checks;
mod deliver;
mod doc;
mod errand;
mod history;
mod lend;
mod open;
mod snapshot;
mod stuck;
mod write;

use std::collections::BTreeMap;
use std::fmt;

use conclave_crdt::{Crdt, CrdtError, CrdtKind};
use conclave_doc::{
    Blocked, Change, Cost, DeliverOutcome, DocError, Document, Fault, Keeping, RefusedOutcome,
    Sealer, is_kept,
};
use conclave_proto::codec::{Tail, Varint};
use conclave_proto::frame::{Answer, ClientFrame, DeliveredRecord, OpenedDocument, Request};
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::{
    Author, DeviceId, DocumentId, GroupId, Hash, InstanceId, Refusal, Role, UnixMs, UserId,
};
use rand_core::RngCore;
use zeroize::Zeroizing;

pub(crate) use self::blame::Spans;
pub use self::blame::{BlameInfo, BlameShown, BlameValue, RecordWriter, Span, WriterInfo};
use self::doc::Turn;
pub(crate) use self::doc::{Doc, Notes, Reread};
pub(crate) use self::errand::{Asked, Base, Errand, Then};
pub use self::errand::{Done, Job};
use self::errand::{Finished, Making, Purpose, TRIES};
pub use self::history::{
    ChangedInfo, DeletedInfo, EditInfo, LogInfo, LogRecordInfo, PlaceChange, PlaceInfo,
    RecordedInfo,
};
pub use self::lend::{Lending, Work, WorkId};
pub(crate) use self::stuck::{SESSIONS as STUCK_SESSIONS, Stuck, StuckRow};

use crate::command::Reply;
use crate::cx::{Cx, Post};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::event::{Carrier, ChangeInfo, Event};
use crate::finding::{About, End, FindingKind, Step, Suspect};
use crate::give_back::There;
use crate::group::{DocRow, DocStage, Group, Whole};
use crate::io::{CommandId, DocFn, Row};
use crate::keys;
use crate::link::{DocLink, DocPending, GroupPending, NotOpen, Open, Pending, SnapshotLink};
use crate::print::Hidden;
use crate::rescue::RescueCause;
use crate::slot::{Awaited, DocSlot};
use crate::stand::{Missing, Stand};
use crate::timers::{DocTimer, GroupTimer, TimerKind};
use crate::work::{DocCommand, DocWork, GroupWork};

/// Append frames in flight for one document.
const FRAMES_IN_FLIGHT: usize = 16;
/// Sealed bytes in one append frame.
const APPEND_BYTES: usize = 128 * 1024;
/// Records asked for at once.
const FETCH_RECORDS: u32 = 256;
/// How exactly it is kept when a document's newest record came, in milliseconds.
const MINUTE_MS: u64 = 60_000;
/// How often a document is read again after a failed call, in one session.
const RELOADS: u32 = 3;

/// What a new document begins with.
pub(crate) enum Beginning {
    /// Nothing.
    Empty,
    /// A first edit.
    Edit(DocFn),
    /// The complete state of a document of another program.
    State(Zeroizing<Vec<u8>>),
}

impl Beginning {
    /// How long it is, as far as that can be told.
    fn bytes(&self) -> usize {
        match self {
            Self::State(state) => state.len(),
            Self::Empty | Self::Edit(_) => 0,
        }
    }

    /// As a document takes it.
    fn with<T>(self, f: impl FnOnce(conclave_doc::Beginning<'_>) -> T) -> T {
        match self {
            Self::Empty => f(conclave_doc::Beginning::Edit(None)),
            Self::Edit(edit) => {
                let mut edit = Some(edit);
                let mut run = |crdt: &mut dyn Crdt| edit.take().map_or(Ok(()), |f| f(crdt));
                f(conclave_doc::Beginning::Edit(Some(&mut run)))
            }
            Self::State(state) => f(conclave_doc::Beginning::State(&state)),
        }
    }
}

impl fmt::Debug for Beginning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Edit(_) => "Edit",
            Self::State(_) => "State",
        })
    }
}

impl Cx {
    /// Works on a document: at once if it is in memory, else when it was loaded or fetched. Who waits is answered if that is impossible.
    pub(crate) fn document_work(&mut self, whole: &mut Whole, id: DocumentId, work: DocWork) {
        if !whole.group.has_document(&id) {
            return self.reply_all(work.waiter(), &EngineError::UnknownDocument);
        }
        if self.is_unreachable() && !whole.group.is_local(&id) && work.needs_content() {
            return self.reply_all(work.waiter(), &EngineError::NotHere);
        }
        match whole.docs.get(&id) {
            Some(DocSlot::Hot(_)) => self.run_document(whole, id, None, vec![work]),
            // It is tried again, and who asks is not kept waiting for that.
            Some(_) if whole.docs.is_held(&id) && work.waiter().is_some() => {
                self.reply_all(work.waiter(), &EngineError::Held);
            }
            Some(DocSlot::Away(_)) => self.queue_work(whole, id, work),
            Some(DocSlot::Loading(_)) => {
                self.queue_work(whole, id, work);
                self.fetch_document(&whole.group, id);
            }
            Some(DocSlot::Unreadable(EngineError::Held)) if whole.docs.tries(&id) >= TRIES => {
                self.reply_all(work.waiter(), &EngineError::Held);
            }
            Some(DocSlot::Unreadable(_)) | None => {
                whole.docs.insert(id, DocSlot::Loading(vec![work]));
                self.load_or_fetch(whole, id);
            }
        }
    }

    /// Asks for a document that is to come into memory: its rows, or where it was never opened here the service.
    fn load_or_fetch(&mut self, whole: &mut Whole, id: DocumentId) {
        let group = &whole.group;
        if group.is_local(&id) {
            self.read_document(group.id, id);
        } else if self.is_receive_paused(group.id, id) {
            self.give_up(whole, id, &EngineError::Paused);
        } else {
            self.fetch_document(group, id);
        }
    }

    /// The same work for every document in memory, and for those that come back to it.
    pub(crate) fn each_document(&mut self, whole: &mut Whole, work: impl Fn() -> DocWork) {
        for id in whole.docs.at_work() {
            self.document_work(whole, id, work());
        }
    }

    /// Goes back to what is stored after a call failed half-way.
    fn reload_document(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        why: Reread,
        mut queue: Vec<DocWork>,
    ) {
        let Some(DocSlot::Hot(doc)) = whole.docs.remove(&id) else {
            return;
        };
        self.by_age.remove(&doc.age);
        self.close_document(whole.group.id, id);
        let waiting = doc.notes.waiters.into_iter();
        queue.extend(waiting.map(|id| DocWork::Command(id, DocCommand::Synced)));
        let failures = whole.group.failures.entry(id).or_default();
        *failures += u32::from(why.is_failure());
        if *failures > RELOADS {
            whole.set_unreadable(id, EngineError::UnknownDocument);
            let waiters: Vec<CommandId> = queue.iter().filter_map(Awaited::waiter).collect();
            return self.reply_all(waiters, &EngineError::UnknownDocument);
        }
        whole.docs.insert(id, DocSlot::Loading(queue));
        self.read_document(whole.group.id, id);
    }

    pub(crate) fn forget_documents(&mut self, whole: &mut Whole) {
        self.forget_documents_later(whole);
        self.answer_parted(whole.group.id, None, &EngineError::UnknownDocument);
    }

    /// Lets go of a group's documents; who waits for them is answered by [`Self::answer_parted`].
    pub(crate) fn forget_documents_later(&mut self, whole: &mut Whole) {
        let gone: Vec<DocumentId> = whole.docs.iter().map(|(id, _)| *id).collect();
        for id in gone {
            self.forget_document_later(whole, id);
        }
    }

    /// Lets go of a document and answers who waits for it.
    pub(crate) fn forget_document(&mut self, whole: &mut Whole, id: DocumentId) {
        self.forget_document_later(whole, id);
        self.answer_parted(whole.group.id, Some(id), &EngineError::UnknownDocument);
    }

    /// Lets go of a document; who waits for it is answered by [`Self::answer_parted`].
    pub(crate) fn forget_document_later(&mut self, whole: &mut Whole, id: DocumentId) {
        let Some(slot) = whole.docs.remove(&id) else {
            return;
        };
        self.close_document(whole.group.id, id);
        self.merge_refused(whole.group.id, id);
        let waiters = slot.waiters();
        match slot {
            DocSlot::Hot(doc) => drop(self.by_age.remove(&doc.age)),
            DocSlot::Away(away) => {
                // It comes back late.
                self.lent.remove(&away.work);
                whole.group.lent.remove(&id);
            }
            DocSlot::Loading(_) | DocSlot::Unreadable(_) => {}
        }
        self.letting_go
            .entry((whole.group.id, id))
            .or_default()
            .extend(waiters);
    }

    /// Answers who waits for a document, or for any of a group, that was let go of.
    pub(crate) fn answer_parted(
        &mut self,
        group: GroupId,
        document: Option<DocumentId>,
        error: &EngineError,
    ) {
        let meant = |(of, id): &(GroupId, DocumentId)| {
            *of == group && document.is_none_or(|document| *id == document)
        };
        let keys: Vec<_> = self.letting_go.keys().copied().filter(meant).collect();
        for key in keys {
            let waiters = self.letting_go.remove(&key).unwrap_or_default();
            self.reply_all(waiters, error);
        }
    }

    /// A document is closed, by whom where that is known.
    pub(crate) fn document_closed(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        by: Option<DeviceId>,
    ) {
        let state = whole.group.state();
        let entry = state.documents.get(&id);
        let closed = entry.and_then(|entry| entry.closed);
        // Or it was opened again since.
        let kept = closed.is_none_or(|why| why == CloseReason::Archived);
        if kept {
            // Own edits in it may have no place any more.
            if let Some(DocSlot::Hot(_) | DocSlot::Away(_)) = whole.docs.get(&id) {
                self.document_work(whole, id, DocWork::Look);
            }
            self.erase_roots(&mut whole.group);
        } else {
            let row = by.and_then(|by| state.roster.newest_row(&by));
            let by = row.map(|row| row.user);
            self.let_document_go(whole, id, by);
        }
    }

    /// Nothing of a closed document stays.
    pub(crate) fn drop_document(&mut self, group: &mut Group, id: DocumentId) {
        let writes = &mut self.out.writes;
        writes.delete_prefix(keys::document_prefix(&group.id, &id));
        writes.delete_prefix(keys::kept_prefix(&group.id, &id));
        self.note_kept(group, id, 0);
        self.forget_presence(group.id, id);
        group.documents.remove(&id);
        group.note_document(&id);
        let key = keys::group_row(&group.id, keys::group::DOCUMENT, id.as_bytes());
        self.delete(key);
        self.forget_unsent(&group.id, &id);
        self.forget_pause(group.id, id);
        self.place_gone(group.id, Some(id));
        self.erase_roots(group);
    }

    /// After any work on a document: what can be sent is sent, what changed becomes durable.
    pub(super) fn settle_document(&mut self, group: &mut Group, doc: &mut Doc) {
        if doc.reread.is_some() {
            return;
        }
        self.confirm_snapshots(group, doc);
        if self.link.online {
            self.go_on(group, doc);
        }
        self.end_settling(group, doc);
    }

    /// The last of settling. Where an errand is to be run before, it comes after that.
    fn end_settling(&mut self, group: &mut Group, doc: &mut Doc) {
        if doc.reread.is_none() && doc.errand.is_none() {
            self.note_passed(group, doc);
            self.keep_document(group, doc);
            self.note_ends(group, doc);
            self.answer_synced(group, doc);
        }
    }

    /// What is new about a document becomes durable.
    fn keep_document(&mut self, group: &mut Group, doc: &mut Doc) {
        self.tell_checks(group, doc);
        self.store_document(group, doc);
        self.update_document_row(group, doc);
        self.note_unsent(group, doc);
    }

    /// Asks the service for a document, or sends what can be sent of it.
    fn go_on(&mut self, group: &mut Group, doc: &mut Doc) {
        let writable = group.may_act();
        let is_received = !self.is_receive_paused(group.id, doc.id);
        if !is_received && self.link.open(group.id, doc.id).is_some() {
            self.close_document(group.id, doc.id);
        }
        let link = self.link.document(group.id, doc.id);
        if group.is_creating(&doc.id) && self.withholds_creation(group.id, doc.id) {
            // It is made known when that is over.
            if link.is_none() {
                let link = DocLink::Refused(NotOpen::Paused);
                self.link.set_document(group.id, doc.id, link);
            }
        } else if group.is_creating(&doc.id) {
            let directory = doc.id == DocumentId::directory(&group.id);
            if writable && link.is_none() && (directory || group.state().has_directory()) {
                self.send_document_creation(group, doc);
            }
        } else if group.readable() {
            if link.is_none() && !is_received {
                let link = DocLink::Refused(NotOpen::Paused);
                self.link.set_document(group.id, doc.id, link);
            } else if link.is_none() {
                self.look(group, doc);
            } else if writable && self.link.is_caught_up(group.id, doc) {
                doc.document.in_step(self.now);
                self.take_out_unsent(group, doc);
                if doc.document.has_drafts_to_queue() {
                    doc.errand = Some(Errand::QueueDrafts);
                    return;
                }
                self.carry_on(group, doc);
                self.flush(group, doc);
                self.tell_carried(group, doc);
                if doc.document.is_lightening_due() {
                    doc.errand = Some(Errand::Lighten);
                    return;
                }
                self.pump_snapshot(group, doc);
                self.pump_check(group, doc);
            }
            self.pump_presence(group, doc);
        }
    }

    /// What is in order again is told no longer.
    fn note_ends(&mut self, group: &Group, doc: &Doc) {
        let about = About::Document(group.id, doc.id);
        if self.link.is_caught_up(group.id, doc) {
            self.ended(about, End::Opened);
        }
        if doc.document.unsent_count() == 0 {
            self.ended(about, End::Sent);
        }
        if doc.document.set_aside_records().is_empty() {
            self.ended(about, End::Whole);
        }
    }

    fn store_document(&mut self, group: &mut Group, doc: &mut Doc) {
        let keeping = Keeping {
            now: self.now,
            store_bytes: self.kept_bytes,
        };
        if doc.document.take_anew() {
            let writes = &mut self.out.writes;
            writes.delete_prefix(keys::document_prefix(&group.id, &doc.id));
            writes.delete_prefix(keys::kept_prefix(&group.id, &doc.id));
            // Of which epochs its log needs roots is told by the new one alone.
            let row = group.documents.entry(doc.id).or_default();
            row.complete = 0;
            row.grown_in = self.link.generation();
            self.save_document_row(group, &doc.id);
        }
        for change in doc.document.take_changes(&keeping) {
            let mut key = match is_kept(&change.key) {
                true => keys::kept_prefix(&group.id, &doc.id),
                false => keys::document_prefix(&group.id, &doc.id),
            };
            key.extend_from_slice(&change.key);
            match change.value {
                Some(value) => self.put(key, value),
                None => self.delete(key),
            }
        }
        self.note_kept(group, doc.id, doc.document.kept_bytes());
    }

    /// Follows how much is kept of a document's log, and of all.
    fn note_kept(&mut self, group: &mut Group, id: DocumentId, bytes: u64) {
        let row = group.documents.entry(id).or_default();
        let before = std::mem::replace(&mut row.kept, bytes);
        if before != bytes {
            self.save_document_row(group, &id);
            self.kept_changed(before, bytes);
        }
    }

    /// Answers who waits for the document to be in step with the service.
    fn answer_synced(&mut self, group: &Group, doc: &mut Doc) {
        if doc.notes.waiters.is_empty() {
            return;
        }
        let link = self.link.document(group.id, doc.id);
        let (parked, collecting) = match link {
            Some(DocLink::Open(open)) => (open.session.parked(), open.collecting.as_ref()),
            _ => (None, None),
        };
        let result = if let Some(barred) = self.barred() {
            Err(barred)
        } else if let Some(why) = parked {
            Err(match why {
                Refusal::Forbidden { .. } => EngineError::Forbidden,
                other => EngineError::Refused(other.clone()),
            })
        } else if self.link.is_away(group.id, doc.id) || group.stand.is_away() {
            Err(EngineError::OutOfStep)
        } else if self.waits_for_clock(group) {
            let offset = self.clock_in_the_way(group);
            Err(EngineError::WaitsForClock { offset })
        } else if let Some(DocLink::Refused(NotOpen::NotTaken(refusal))) = link {
            Err(EngineError::Refused(refusal.clone()))
        } else if let Err(error) = group.check_writable() {
            Err(error)
        } else if self.link.is_caught_up(group.id, doc) && doc.document.pending_count() == 0 {
            Ok(Reply::Done)
        } else if self.link.is_paused(group.id, doc.id) || self.rests(group, doc) {
            Err(EngineError::Paused)
        } else if let Some(refusal) = collecting {
            Err(EngineError::Refused(refusal.clone()))
        } else {
            return;
        };
        for waiter in std::mem::take(&mut doc.notes.waiters) {
            self.reply(waiter, result.clone());
        }
    }

    /// Whether nothing of a document is on its way but what rests here while it is paused.
    fn rests(&self, group: &Group, doc: &Doc) -> bool {
        let pause = self.pause_of(group.id, doc.id);
        let is_withheld = group.is_creating(&doc.id) && self.withholds_creation(group.id, doc.id);
        let is_here = self.link.is_caught_up(group.id, doc) || is_withheld;
        // What the log has lost and is not carried now is nothing that somebody waits for.
        let only_drafts = doc.document.pending_count() == doc.document.drafts().0;
        pause.keeps_drafts() && is_here && only_drafts
    }

    fn update_document_row(&mut self, group: &mut Group, doc: &mut Doc) {
        let needed = doc.document.roots_needed();
        let rotated = group.rekey_since();
        let done = self.link.is_caught_up(group.id, doc) && !group.rekey_due(&doc.document);
        let now = self.now;
        let size = doc.document.size();
        let grown = std::mem::replace(&mut doc.notes.size, size) != size;
        let generation = self.link.generation();
        let row = group.documents.entry(doc.id).or_default();
        let before = row.clone();
        if grown && generation > 0 {
            row.grown_in = generation;
        }
        if row.stage == DocStage::Listed {
            row.stage = DocStage::Here;
        }
        row.crdt = doc.document.kind().code();
        row.unsent = Some(doc.document.unsent_count() as u64);
        row.size = doc.document.size();
        row.all_below = needed.all_below;
        row.needed = needed.epochs;
        row.complete = row.complete.max(needed.all_from);
        if done && rotated > row.rekeyed {
            row.rekeyed = rotated;
        }
        let roots_changed = before.needed != row.needed
            || before.all_below != row.all_below
            || before.complete != row.complete;
        let rekeyed = before.rekeyed != row.rekeyed;
        let minute = UnixMs(now.0 - now.0 % MINUTE_MS);
        // Where it was read from the store nothing has come: its row may know less of its size than its log.
        if grown && row.size > before.size {
            row.changed = minute;
        }
        // What it begins with is here before any record is, wherever it was made.
        let comes_now = grown || before.last.is_none();
        let came = if comes_now { minute } else { row.changed };
        row.follow_last(doc.document.last_writer(), came);
        let by = row.last_by();
        let last_due = match &doc.notes.told_last {
            None => before.last_by() != by,
            // Where several write in turn that is once in a minute.
            Some((at, told)) => *told != by && *at != minute,
        };
        let changed = before.changed != row.changed || before.grown_in != row.grown_in || last_due;
        let unsent_changed = before.unsent != row.unsent;
        if roots_changed
            || changed
            || rekeyed
            || unsent_changed
            || before.stage != row.stage
            || before.size / 64 != row.size / 64
        {
            doc.notes.told_last = Some((minute, by));
            self.save_document_row(group, &doc.id);
        }
        if roots_changed {
            self.erase_roots(group);
        }
        if rekeyed {
            self.tell_rotation(group, false);
            self.close_after_keys(group.id, doc.id);
        }
    }
}

impl Engine {
    /// Lets go of one quiet document that was opened on this connection: of the one that was not worked on for longest.
    pub(crate) fn evict_one(&mut self) -> bool {
        let is_quiet = |(group, id): &(GroupId, DocumentId)| {
            let slot = self.whole(group).and_then(|whole| whole.docs.get(id));
            let Some(doc) = slot.and_then(DocSlot::hot) else {
                return false;
            };
            let link = &self.cx.link;
            let looked = link.is_caught_up(*group, doc)
                || link.is_away(*group, *id)
                || link.is_paused(*group, *id);
            *id != DocumentId::directory(group)
                && !self.cx.presence.is_wanted(*group, *id)
                && doc.notes.waiters.is_empty()
                && !doc.document.has_unsent_to_send()
                && link.is_quiet(*group, *id)
                && (looked || !link.online)
        };
        let found = self.cx.by_age.iter().find(|(_, key)| is_quiet(key));
        let Some((age, (group, id))) = found.map(|(age, key)| (*age, *key)) else {
            return false;
        };
        self.cx.by_age.remove(&age);
        self.on_whole(group, |cx, whole| {
            let doc = whole.docs.get(&id).and_then(DocSlot::hot);
            let told = doc.and_then(|doc| doc.notes.told_last.as_ref());
            let row = whole.group.documents.get(&id);
            if told.is_some_and(|(_, told)| row.is_some_and(|row| row.last_by() != *told)) {
                cx.save_document_row(&mut whole.group, &id);
            }
            whole.docs.remove(&id);
            cx.close_document(group, id);
        });
        true
    }
}
