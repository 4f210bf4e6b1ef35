//! Documents in memory: opened, delivered to, edited, sent.

mod aside;
mod deliver;
mod open;
mod snapshot;
mod write;

use std::collections::BTreeMap;
use std::fmt;

use conclave_crdt::{Crdt, CrdtError, CrdtKind};
use conclave_doc::{Blocked, Change, DeliverOutcome, DocError, Document, Fault, RefusedOutcome};
use conclave_proto::codec::{Tail, Varint};
use conclave_proto::frame::{Answer, ClientFrame, DeliveredRecord, OpenedDocument, Request};
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::{DeviceId, DocumentId, GroupId, Hash, InstanceId, Refusal, Role, UnixMs};
use zeroize::Zeroizing;

use crate::command::{ChangeInfo, Event, Reply};
use crate::cx::{Cx, Post, ReadTarget};
use crate::engine::{Engine, HOT_DOCUMENTS, doubled_ms};
use crate::error::EngineError;
use crate::finding::{About, End, FindingKind, Step, Suspect};
use crate::group::{DocRow, Group, Whole};
use crate::io::{CommandId, DocFn, Row};
use crate::keys;
use crate::link::{DocPending, GroupPending, Pending};
use crate::print::Hidden;
use crate::slot::{Slot, Work};
use crate::stand::{Missing, Stand};
use crate::timers::{DocTimer, TimerKind};
use crate::work::{DocCommand, DocWork, GroupWork};

/// Append frames in flight for one document.
const FRAMES_IN_FLIGHT: usize = 16;
/// Sealed bytes in one append frame.
const APPEND_BYTES: usize = 128 * 1024;
/// Records asked for at once.
const FETCH_RECORDS: u32 = 256;
/// Most epochs of which it is remembered where a document's records lie.
const EPOCHS: usize = 256;
/// How exactly it is kept when a document's newest record came, in milliseconds.
const MINUTE_MS: u64 = 60_000;
/// How often a document is read again after a failed call, in one session.
const RELOADS: u32 = 3;

/// Who makes the snapshot that the edits since the active one, which is named here, call for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// None was called for yet.
    Open,
    /// This device.
    Here(Hash),
    /// The device whose edit called for it. This one waits a while first.
    Elsewhere(Hash),
}

/// What a new document begins with.
pub(crate) enum Beginning {
    /// Nothing.
    Empty,
    /// A first edit.
    Edit(DocFn),
    /// The complete state of a document of another program.
    State(Zeroizing<Vec<u8>>),
}

/// A document in memory.
#[derive(Debug)]
pub(crate) struct Doc {
    pub(crate) id: DocumentId,
    pub(crate) document: Document,
    channel: Option<u64>,
    asked: bool,
    /// Size of the log when the channel was opened.
    target: u64,
    in_flight: usize,
    pub(crate) snapshot_in_flight: bool,
    create_in_flight: bool,
    pub(crate) waiters: Vec<CommandId>,
    opening_refused: bool,
    create_refused: bool,
    /// The service does not take this new document. It is kept here, and offered again on the next connection.
    not_taken: Option<Refusal>,
    /// Records were asked for.
    fetching: bool,
    /// Own edits are not sent before this time.
    send_after: UnixMs,
    /// The edits are kept: the service does not take them.
    parked: bool,
    pub(crate) verdict_planned: bool,
    /// The service keeps what is missing by hash only: begin at the active snapshot.
    needs_base: bool,
    snapshot_wanted: bool,
    turn: Turn,
    /// No records are asked for before this time.
    fetch_after: UnixMs,
    fetch_failures: u32,
    snapshot_failures: u32,
    /// The first snapshot was refused for good: the next creation brings another.
    remake_creation: bool,
    /// A call failed half-way: what is in memory may be ahead of what is stored.
    broken: bool,
    /// What is in memory was judged by a root that was false: it is read from the store again.
    misjudged: bool,
    /// How the service's log stands to what is here.
    stand: Stand,
    /// First and last position at which records of an epoch were delivered.
    epochs: BTreeMap<u64, (u64, u64)>,
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

impl Doc {
    pub(crate) fn new(id: DocumentId, document: Document) -> Self {
        Self {
            id,
            document,
            channel: None,
            asked: false,
            target: 0,
            in_flight: 0,
            snapshot_in_flight: false,
            create_in_flight: false,
            waiters: Vec::new(),
            opening_refused: false,
            create_refused: false,
            not_taken: None,
            fetching: false,
            send_after: UnixMs(0),
            parked: false,
            verdict_planned: false,
            needs_base: false,
            snapshot_wanted: false,
            turn: Turn::Open,
            fetch_after: UnixMs(0),
            fetch_failures: 0,
            snapshot_failures: 0,
            remake_creation: false,
            broken: false,
            misjudged: false,
            stand: Stand::InStep,
            epochs: BTreeMap::new(),
        }
    }

    /// Remembers where the records of an epoch lie. Epochs never fall along a log.
    fn note_epochs(&mut self, first_seq: u64, records: &[DeliveredRecord]) {
        for (seq, record) in (first_seq..).zip(records) {
            let epoch = match record {
                DeliveredRecord::Update(it) | DeliveredRecord::Verdict(it) => it.epoch.0,
                DeliveredRecord::Whole { record, .. } => record.header.epoch,
                DeliveredRecord::Leaf(_) => continue,
            };
            let place = self.epochs.entry(epoch).or_insert((seq, seq));
            *place = (place.0.min(seq), place.1.max(seq));
        }
        // A log of which this is not true is not worth more.
        while self.epochs.len() > EPOCHS {
            self.epochs.pop_first();
        }
    }

    /// Epoch of the record at a position, where it was delivered to this session.
    pub(crate) fn epoch_of(&self, seq: u64) -> Option<u64> {
        let mut places = self.epochs.iter();
        let found = places.find(|(_, (first, last))| (*first..=*last).contains(&seq));
        found.map(|(epoch, _)| *epoch)
    }

    /// Whether everything that the service held when the channel was opened is here and applied.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.channel.is_some() && self.document.size() >= self.target
    }

    /// Whether the log is here as far as the service has it, and nothing of this device is on its way into it.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.is_caught_up() && self.in_flight == 0 && !self.broken
    }

    /// Answers who waits for it.
    pub(crate) fn answer(&mut self, cx: &mut Cx, error: &EngineError) {
        let waiters = std::mem::take(&mut self.waiters);
        cx.reply_all(waiters, error);
    }

    fn is_idle(&self) -> bool {
        let refused = self.opening_refused || self.create_refused;
        self.channel.is_none() && !self.asked && !self.create_in_flight && !refused
    }

    /// Whether nothing is lost or delayed when it leaves memory.
    fn is_quiet(&self) -> bool {
        self.waiters.is_empty()
            && !self.asked
            && !self.fetching
            && !self.document.has_unsent()
            && !self.snapshot_in_flight
            && !self.create_in_flight
    }

    /// Whether the service did not open or take it, or shows another state of it.
    pub(crate) fn is_refused(&self) -> bool {
        self.opening_refused || self.create_refused || self.stand.is_away()
    }

    /// Whether the service does not take this device's edits of it.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked
    }

    /// The device whose edit made a snapshot due had its time.
    pub(crate) fn take_turn(&mut self) {
        self.turn = Turn::Here(self.document.active_snapshot().0);
    }

    /// The connection is gone.
    pub(crate) fn disconnected(&mut self) {
        self.channel = None;
        self.stand = Stand::InStep;
        self.asked = false;
        self.in_flight = 0;
        self.fetching = false;
        self.parked = false;
        self.document.disconnected();
        self.snapshot_in_flight = false;
        self.create_in_flight = false;
        self.opening_refused = false;
        self.create_refused = false;
        self.not_taken = None;
        self.send_after = UnixMs(0);
        self.fetch_after = UnixMs(0);
        self.fetch_failures = 0;
    }

    /// Lifts a refusal: the next look asks the service again.
    pub(crate) fn ask_again(&mut self) {
        self.opening_refused = false;
        self.create_refused = false;
    }
}

impl Cx {
    /// Works on a document: at once if it is in memory, else when it was loaded or fetched. Who waits is answered if that is impossible.
    pub(crate) fn document_work(&mut self, whole: &mut Whole, id: DocumentId, work: DocWork) {
        if !whole.group.has_document(&id) {
            return self.reply_all(work.waiter(), &EngineError::UnknownDocument);
        }
        match whole.docs.get_mut(&id) {
            Some(Slot::Loading(queue)) => queue.push(work),
            Some(Slot::Hot(_)) => return self.run_document(whole, id, vec![work]),
            None => {
                whole.docs.insert(id, Slot::Loading(vec![work]));
                if whole.group.is_local(&id) {
                    let prefix = keys::document_prefix(&whole.group.id, &id);
                    return self.read(prefix, ReadTarget::Document(whole.group.id, id));
                }
            }
        }
        self.fetch_document(&whole.group, id);
    }

    /// The same work for every document in memory.
    pub(crate) fn each_document(&mut self, whole: &mut Whole, work: impl Fn() -> DocWork) {
        for id in whole.hot_documents() {
            self.document_work(whole, id, work());
        }
    }

    /// Works on a document in memory and settles it. After a call that failed half-way the rest waits until it is read again.
    fn run_document(&mut self, whole: &mut Whole, id: DocumentId, work: Vec<DocWork>) {
        let Whole { group, docs } = whole;
        let Some(doc) = docs.get_mut(&id).and_then(Slot::hot_mut) else {
            return;
        };
        let mut work = work.into_iter();
        while !doc.broken
            && let Some(next) = work.next()
        {
            if !group.roots.1.is_empty() {
                // What comes may show that a root is false, and then only what is stored counts.
                self.store_document(group, doc);
            }
            self.doc_work(group, doc, next);
        }
        self.settle_document(group, doc);
        if doc.broken {
            self.reload_document(whole, id, work.collect());
        }
    }

    /// Goes back to what is stored after a call failed half-way.
    fn reload_document(&mut self, whole: &mut Whole, id: DocumentId, mut queue: Vec<DocWork>) {
        let Some(Slot::Hot(doc)) = whole.docs.remove(&id) else {
            return;
        };
        if let Some(channel) = doc.channel {
            self.close_channel(channel);
        }
        let waiting = doc.waiters.into_iter();
        queue.extend(waiting.map(|id| DocWork::Command(id, DocCommand::Synced)));
        let failures = whole.group.failures.entry(id).or_default();
        *failures += u32::from(!doc.misjudged);
        if *failures > RELOADS {
            whole.group.unreadable.insert(id);
            let waiters: Vec<CommandId> = queue.iter().filter_map(Work::waiter).collect();
            return self.reply_all(waiters, &EngineError::UnknownDocument);
        }
        whole.docs.insert(id, Slot::Loading(queue));
        let prefix = keys::document_prefix(&whole.group.id, &id);
        self.read(prefix, ReadTarget::Document(whole.group.id, id));
    }

    fn close_channel(&mut self, channel: u64) {
        self.link.channels.remove(&channel);
        let channel = Varint(channel);
        self.request(Request::CloseDocument { channel }, Pending::Quiet);
    }

    pub(crate) fn forget_documents(&mut self, whole: &mut Whole) {
        self.forget_documents_later(whole);
        self.answer_parted(whole.group.id, None, &EngineError::UnknownDocument);
    }

    /// Lets go of a group's documents; who waits for them is answered by [`Self::answer_parted`].
    pub(crate) fn forget_documents_later(&mut self, whole: &mut Whole) {
        let gone: Vec<DocumentId> = whole.docs.keys().copied().collect();
        for id in gone {
            self.forget_document_later(whole, id);
        }
        let group = whole.group.id;
        self.link.channels.retain(|_, (of, _)| *of != group);
        self.link.opening.retain(|(of, _)| *of != group);
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
        let mut waiters = slot.waiters();
        if let Slot::Hot(doc) = slot {
            if let Some(channel) = doc.channel {
                self.close_channel(channel);
            }
            waiters.extend(doc.waiters);
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
        let kept = entry.is_some_and(|entry| entry.closed == Some(CloseReason::Archived));
        if kept {
            // Own edits in it have no place any more.
            if let Some(Slot::Hot(_)) = whole.docs.get(&id) {
                self.document_work(whole, id, DocWork::Look);
            }
            self.erase_roots(&mut whole.group);
        } else {
            let mut rows = state.roster.rows().iter().rev();
            let by = rows.find(|row| Some(row.device) == by).map(|row| row.user);
            self.let_document_go(whole, id, by);
        }
    }

    /// Nothing of a closed document stays.
    pub(crate) fn drop_document(&mut self, group: &mut Group, id: DocumentId) {
        self.out
            .writes
            .delete_prefix(keys::document_prefix(&group.id, &id));
        group.documents.remove(&id);
        let key = keys::group_row(&group.id, keys::group::DOCUMENT, id.as_bytes());
        self.delete(key);
        self.forget_unsent(&group.id, &id);
        self.place_gone(group.id, Some(id));
        self.erase_roots(group);
    }

    /// After any work on a document: what can be sent is sent, what changed becomes durable.
    fn settle_document(&mut self, group: &mut Group, doc: &mut Doc) {
        if doc.broken {
            return;
        }
        let creating = group.documents.get(&doc.id).is_some_and(|row| row.creating);
        let writable = group.may_act();
        if self.link.online && creating {
            if writable {
                self.send_document_creation(group, doc);
            }
        } else if self.link.online && group.readable() {
            if doc.channel.is_none() && !doc.asked && !doc.opening_refused {
                doc.asked = true;
                if group.doubted.get(&doc.id) == Some(&false) && doc.document.size() > 0 {
                    return self.ask_last(group.id, doc);
                }
                let from = (!doc.needs_base).then_some(doc.document.size());
                self.ask_open(group.id, doc.id, doc.document.instance(), from);
            } else if doc.is_caught_up() && writable {
                self.take_out_unsent(group, doc);
                self.flush(group, doc);
                self.pump_snapshot(group, doc);
                self.pump_check(group, doc);
            }
        }
        if doc.broken {
            return;
        }
        self.store_document(group, doc);
        self.update_document_row(group, doc);
        self.note_unsent(group, doc);
        self.note_ends(group, doc);
        self.answer_synced(group, doc);
    }

    /// What is in order again is told no longer.
    fn note_ends(&mut self, group: &Group, doc: &Doc) {
        let about = About::Document(group.id, doc.id);
        if doc.is_caught_up() {
            self.ended(about, End::Opened);
        }
        if doc.document.unsent_count() == 0 {
            self.ended(about, End::Sent);
        }
        if doc.document.set_aside_records().is_empty() {
            self.ended(about, End::Whole);
        }
    }

    fn store_document(&mut self, group: &Group, doc: &mut Doc) {
        for change in doc.document.take_changes() {
            let mut key = keys::document_prefix(&group.id, &doc.id);
            key.extend_from_slice(&change.key);
            match change.value {
                Some(value) => self.put(key, value),
                None => self.delete(key),
            }
        }
    }

    /// Answers who waits for the document to be in step with the service.
    fn answer_synced(&mut self, group: &Group, doc: &mut Doc) {
        if doc.waiters.is_empty() {
            return;
        }
        let result = if doc.parked {
            Err(EngineError::Forbidden)
        } else if doc.stand.is_away() || group.stand.is_away() {
            Err(EngineError::OutOfStep)
        } else if self.waits_for_clock(group) {
            let offset = self.clock_in_the_way(group);
            Err(EngineError::WaitsForClock { offset })
        } else if let Some(refusal) = &doc.not_taken {
            Err(EngineError::Refused(refusal.clone()))
        } else if let Err(error) = group.check_writable() {
            Err(error)
        } else if doc.is_caught_up() && doc.document.pending_count() == 0 {
            Ok(Reply::Done)
        } else {
            return;
        };
        for waiter in std::mem::take(&mut doc.waiters) {
            self.reply(waiter, result.clone());
        }
    }

    fn update_document_row(&mut self, group: &mut Group, doc: &Doc) {
        let needed = doc.document.roots_needed();
        let rotated = group.rekey_since();
        let done = doc.is_caught_up() && !group.rekey_due(&doc.document);
        let now = self.now;
        let row = group.documents.entry(doc.id).or_default();
        let before = row.clone();
        row.local = true;
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
        if row.size > before.size {
            row.changed = UnixMs(now.0 - now.0 % MINUTE_MS);
        }
        let changed = before.changed != row.changed;
        let unsent_changed = before.unsent != row.unsent;
        if roots_changed
            || changed
            || rekeyed
            || unsent_changed
            || !before.local
            || before.size / 64 != row.size / 64
        {
            self.save_document_row(group, &doc.id);
        }
        if roots_changed {
            self.erase_roots(group);
        }
        if rekeyed {
            self.tell_rotation(group, false);
        }
    }
}

impl Engine {
    /// Lets go of one quiet document that was opened on this connection.
    pub(crate) fn evict_one(&mut self) -> bool {
        let online = self.cx.link.online;
        let of = |whole: &Whole| {
            let group = whole.group.id;
            let quiet = |(id, slot): &(&DocumentId, &Slot<Doc, DocWork>)| {
                **id != DocumentId::directory(&group)
                    && slot.hot().is_some_and(|doc| {
                        let looked = doc.is_caught_up() || doc.stand.is_away();
                        doc.is_quiet() && (looked || !online)
                    })
            };
            let found = whole.docs.iter().find(quiet);
            found.map(|(id, _)| (group, *id))
        };
        let Some((group, id)) = self.wholes().find_map(of) else {
            return false;
        };
        self.on_whole(group, |cx, whole| {
            if let Some(Slot::Hot(doc)) = whole.docs.remove(&id)
                && let Some(channel) = doc.channel
            {
                cx.close_channel(channel);
            }
        });
        true
    }
}
