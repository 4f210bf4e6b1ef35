//! Documents in memory: opened, delivered to, edited, sent.

mod aside;
mod deliver;
mod open;
mod snapshot;
mod write;

use std::collections::BTreeMap;

use conclave_crdt::{Crdt, CrdtError, CrdtKind};
use conclave_doc::{Blocked, Change, DeliverOutcome, DocError, Document, Fault, RefusedOutcome};
use conclave_proto::codec::{Tail, Varint};
use conclave_proto::frame::{Answer, ClientFrame, DeliveredRecord, OpenedDocument, Request};
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::{DeviceId, DocumentId, GroupId, Hash, InstanceId, Refusal, Role, UnixMs};
use zeroize::Zeroizing;

use crate::command::{ChangeInfo, Event, Reply};
use crate::engine::{Engine, HOT_DOCUMENTS, ReadTarget, TimerKind, doubled_ms};
use crate::error::EngineError;
use crate::finding::{About, End, FindingKind, Step, Suspect};
use crate::group::{DocRow, Group, GroupWork};
use crate::io::{CommandId, DocFn, Row};
use crate::keys;
use crate::slot::{Job, Slot};
use crate::stand::{Missing, Stand};

/// Work on a document in memory.
pub(crate) type DocWork = Box<dyn FnOnce(&mut Engine, &mut Group, &mut Doc) + Send>;

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
pub(crate) struct Doc {
    pub(crate) id: DocumentId,
    pub(crate) document: Document,
    channel: Option<u64>,
    asked: bool,
    /// Size of the log when the channel was opened.
    target: u64,
    in_flight: usize,
    snapshot_in_flight: bool,
    create_in_flight: bool,
    waiters: Vec<CommandId>,
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
    verdict_planned: bool,
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
    pub(crate) fn answer(&mut self, engine: &mut Engine, error: &EngineError) {
        let waiters = std::mem::take(&mut self.waiters);
        engine.reply_all(waiters, error);
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

    /// Lifts a refusal: the next look asks the service again.
    pub(crate) fn ask_again(&mut self) {
        self.opening_refused = false;
        self.create_refused = false;
    }
}

impl Engine {
    /// Runs work on a document: at once if it is in memory, else when it was loaded or fetched. `waiter` is answered if that is impossible.
    pub(crate) fn with_document(
        &mut self,
        group: GroupId,
        document: DocumentId,
        waiter: Option<CommandId>,
        work: DocWork,
    ) {
        let work: GroupWork = Box::new(move |engine, group| {
            engine.with_document_in(group, document, waiter, work);
        });
        self.with_group_for(group, Job { waiter, work });
    }

    pub(crate) fn with_document_in(
        &mut self,
        group: &mut Group,
        document: DocumentId,
        waiter: Option<CommandId>,
        work: DocWork,
    ) {
        let listed = group.state().documents.get(&document);
        let readable =
            listed.is_some_and(|entry| entry.closed.is_none_or(|why| why == CloseReason::Archived));
        let creating = group
            .documents
            .get(&document)
            .is_some_and(|row| row.creating);
        if !readable && !creating {
            self.reply_all(waiter, &EngineError::UnknownDocument);
            return;
        }
        let key = (group.id, document);
        let job = Job { waiter, work };
        match self.documents.get_mut(&key) {
            Some(Slot::Loading(queue) | Slot::Busy(queue)) => queue.push(job),
            Some(Slot::Hot(_)) => {
                self.run_document(group, document, vec![job]);
                return;
            }
            None => {
                self.documents.insert(key, Slot::Loading(vec![job]));
                if group.documents.get(&document).is_some_and(|row| row.local) {
                    let prefix = keys::document_prefix(&group.id, &document);
                    self.read(prefix, ReadTarget::Document(group.id, document));
                    return;
                }
            }
        }
        self.fetch_document(group, document);
    }

    fn run_document(&mut self, group: &mut Group, id: DocumentId, mut jobs: Vec<Job<DocWork>>) {
        let key = (group.id, id);
        let Some(Slot::Hot(mut doc)) = self.documents.insert(key, Slot::Busy(Vec::new())) else {
            return;
        };
        loop {
            for job in jobs {
                if doc.broken {
                    // It waits until the document is read again.
                    match self.documents.get_mut(&key) {
                        Some(Slot::Busy(queue)) => queue.push(job),
                        _ => self.reply_all(job.waiter, &EngineError::UnknownDocument),
                    }
                    continue;
                }
                if !group.roots.1.is_empty() {
                    // What comes may show that a root is false, and then only what is stored counts.
                    self.store_document(group, &mut doc);
                }
                (job.work)(self, group, &mut doc);
            }
            self.settle_document(group, &mut doc);
            jobs = match self.documents.get_mut(&key) {
                Some(Slot::Busy(queue)) if !queue.is_empty() && !doc.broken => {
                    std::mem::take(queue)
                }
                _ => break,
            };
        }
        if doc.broken && self.documents.contains_key(&key) {
            self.reload_document(group, *doc);
            return;
        }
        // Gone meanwhile when the group was lost.
        match self.documents.get_mut(&key) {
            Some(slot) => *slot = Slot::Hot(doc),
            None => self.reply_all(doc.waiters, &EngineError::UnknownDocument),
        }
    }

    /// Goes back to what is stored after a call failed half-way.
    fn reload_document(&mut self, group: &mut Group, doc: Doc) {
        let id = doc.id;
        let key = (group.id, id);
        let mut queue = match self.documents.remove(&key) {
            Some(Slot::Busy(queue) | Slot::Loading(queue)) => queue,
            _ => Vec::new(),
        };
        if let Some(channel) = doc.channel {
            self.close_channel(channel);
        }
        let failures = group.failures.entry(id).or_default();
        *failures += u32::from(!doc.misjudged);
        if *failures > RELOADS {
            group.unreadable.insert(id);
            let error = EngineError::UnknownDocument;
            self.reply_all(queue.iter().filter_map(|job| job.waiter), &error);
            self.reply_all(doc.waiters, &error);
            return;
        }
        for waiter in doc.waiters {
            let work: DocWork = Box::new(move |_, _, doc| doc.waiters.push(waiter));
            queue.push(Job {
                waiter: Some(waiter),
                work,
            });
        }
        self.documents.insert(key, Slot::Loading(queue));
        let prefix = keys::document_prefix(&group.id, &id);
        self.read(prefix, ReadTarget::Document(group.id, id));
    }

    fn close_channel(&mut self, channel: u64) {
        self.link.channels.remove(&channel);
        self.request(
            Request::CloseDocument {
                channel: Varint(channel),
            },
            Box::new(|_, _| {}),
        );
    }

    pub(crate) fn documents_offline(&mut self) {
        self.opening.clear();
        // A new connection asks anew.
        self.timers
            .retain(|(_, kind)| !matches!(kind, TimerKind::Open(..)));
        for slot in self.documents.values_mut() {
            if let Slot::Hot(doc) = slot {
                doc.channel = None;
                doc.stand = Stand::InStep;
                doc.asked = false;
                doc.in_flight = 0;
                doc.fetching = false;
                doc.parked = false;
                doc.document.disconnected();
                doc.snapshot_in_flight = false;
                doc.create_in_flight = false;
                doc.opening_refused = false;
                doc.create_refused = false;
                doc.not_taken = None;
                doc.send_after = UnixMs(0);
                doc.fetch_after = UnixMs(0);
                doc.fetch_failures = 0;
            }
        }
    }

    pub(crate) fn forget_documents(&mut self, group: GroupId) {
        self.forget_documents_later(group);
        self.answer_parted(group, None, &EngineError::UnknownDocument);
    }

    /// Lets go of a group's documents; who waits for them is answered by [`Self::answer_parted`].
    pub(crate) fn forget_documents_later(&mut self, group: GroupId) {
        let of_group = self.documents.keys().filter(|(of, _)| *of == group);
        let gone: Vec<DocumentId> = of_group.map(|(_, id)| *id).collect();
        for id in gone {
            self.forget_document_later(group, id);
        }
        self.link.channels.retain(|_, (of, _)| *of != group);
        self.opening.retain(|(of, _)| *of != group);
    }

    /// Lets go of a document and answers who waits for it.
    pub(crate) fn forget_document(&mut self, group: GroupId, id: DocumentId) {
        self.forget_document_later(group, id);
        self.answer_parted(group, Some(id), &EngineError::UnknownDocument);
    }

    /// Lets go of a document; who waits for it is answered by [`Self::answer_parted`].
    pub(crate) fn forget_document_later(&mut self, group: GroupId, id: DocumentId) {
        let Some(slot) = self.documents.remove(&(group, id)) else {
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
            .entry((group, id))
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
        group: &mut Group,
        id: DocumentId,
        by: Option<DeviceId>,
    ) {
        let entry = group.state().documents.get(&id);
        let kept = entry.is_some_and(|entry| entry.closed == Some(CloseReason::Archived));
        if kept {
            // Own edits in it have no place any more.
            if let Some(Slot::Hot(_)) = self.documents.get(&(group.id, id)) {
                self.with_document_in(group, id, None, Box::new(|_, _, _| {}));
            }
            self.erase_roots(group);
        } else {
            let mut rows = group.state().roster.rows().iter().rev();
            let by = rows.find(|row| Some(row.device) == by).map(|row| row.user);
            self.let_document_go(group, id, by);
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

    /// Lets go of documents that are quiet, above the bound.
    pub(crate) fn evict(&mut self) {
        while self.documents.len() > HOT_DOCUMENTS && self.evict_one() {}
    }

    /// Lets go of one quiet document that was opened on this connection.
    pub(crate) fn evict_one(&mut self) -> bool {
        let found = self.documents.iter().find(|((group, id), slot)| {
            *id != DocumentId::directory(group)
                && slot.hot().is_some_and(|doc| {
                    let looked = doc.is_caught_up() || doc.stand.is_away();
                    doc.is_quiet() && (looked || !self.link.online)
                })
        });
        let Some(key) = found.map(|(key, _)| *key) else {
            return false;
        };
        if let Some(Slot::Hot(doc)) = self.documents.remove(&key)
            && let Some(channel) = doc.channel
        {
            self.close_channel(channel);
        }
        true
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

    pub(crate) fn wait_synced(&mut self, id: CommandId, group: GroupId, document: DocumentId) {
        if !self.known(id, group) {
            return;
        }
        self.with_document(
            group,
            document,
            Some(id),
            Box::new(move |_, _, doc| doc.waiters.push(id)),
        );
    }
}
