//! Documents in memory: opened, delivered to, edited, sent.

use conclave_crdt::{Crdt, CrdtError, CrdtKind};
use conclave_doc::{Blocked, Change, DeliverOutcome, DocError, Document, RefusedOutcome};
use conclave_proto::codec::{Tail, Varint};
use conclave_proto::frame::{Answer, ClientFrame, DeliveredRecord, OpenedDocument, Request};
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::{DocumentId, GroupId, InstanceId, Refusal, Role, UnixMs};

use crate::command::{ChangeInfo, Event, Reply};
use crate::engine::{Engine, HOT_DOCUMENTS, ReadTarget, TimerKind};
use crate::error::EngineError;
use crate::group::{DocRow, Group, GroupWork};
use crate::io::{CommandId, DocFn, Row};
use crate::keys;
use crate::slot::{Job, Slot};

/// Work on a document in memory.
pub(crate) type DocWork = Box<dyn FnOnce(&mut Engine, &mut Group, &mut Doc) + Send>;

/// Append frames in flight for one document.
const FRAMES_IN_FLIGHT: usize = 16;
/// Sealed bytes in one append frame.
const APPEND_BYTES: usize = 128 * 1024;
/// Records asked for at once.
const FETCH_RECORDS: u32 = 256;

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
            fetching: false,
            send_after: UnixMs(0),
            parked: false,
            verdict_planned: false,
            needs_base: false,
            snapshot_wanted: false,
        }
    }

    /// Whether everything that the service held when the channel was opened is here and applied.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.channel.is_some() && self.document.size() >= self.target
    }

    fn is_idle(&self) -> bool {
        let refused = self.opening_refused || self.create_refused;
        self.channel.is_none() && !self.asked && !self.create_in_flight && !refused
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
                (job.work)(self, group, &mut doc);
            }
            self.settle_document(group, &mut doc);
            jobs = match self.documents.get_mut(&key) {
                Some(Slot::Busy(queue)) if !queue.is_empty() => std::mem::take(queue),
                _ => break,
            };
        }
        // Gone meanwhile when the group was lost.
        match self.documents.get_mut(&key) {
            Some(slot) => *slot = Slot::Hot(doc),
            None => self.reply_all(doc.waiters, &EngineError::UnknownDocument),
        }
    }

    pub(crate) fn document_loaded(&mut self, group: GroupId, id: DocumentId, rows: Vec<Row>) {
        self.with_group(
            group,
            Box::new(move |engine, group| {
                let key = (group.id, id);
                let Some(Slot::Loading(work)) = engine.documents.remove(&key) else {
                    return;
                };
                let skip = 1 + GroupId::LEN + DocumentId::LEN;
                let rows = rows
                    .into_iter()
                    .map(|(key, value)| (key.get(skip..).unwrap_or_default().to_vec(), value))
                    .collect();
                let context =
                    Group::doc_context(group.mls.state(), &group.roots, &engine.device, engine.now);
                match Document::load(&context, rows, &mut engine.rng) {
                    Ok(document) => {
                        engine
                            .documents
                            .insert(key, Slot::Hot(Box::new(Doc::new(id, document))));
                        engine.run_document(group, id, work);
                    }
                    Err(error) => {
                        // The rows stay as they are: they may hold edits. Only this session does without the document.
                        let text = error.to_string();
                        engine.finding(group.id, Some(id), error.code(), None, &text);
                        group.unreadable.insert(id);
                        let error = EngineError::Doc(error);
                        engine.reply_all(work.iter().filter_map(|job| job.waiter), &error);
                    }
                }
            }),
        );
    }

    /// Asks the service for a document that is not here.
    fn fetch_document(&mut self, group: &mut Group, document: DocumentId) {
        let key = (group.id, document);
        let opening = self.opening.contains(&key);
        let absent = group.documents.get(&document).is_none_or(|row| !row.local);
        if opening || !absent || !self.link.online || !group.caught_up() {
            return;
        }
        self.opening.insert(key);
        let instance = self.device.instance();
        self.ask_open(group.id, document, instance, None);
    }

    fn ask_open(
        &mut self,
        group: GroupId,
        document: DocumentId,
        instance: InstanceId,
        from: Option<u64>,
    ) {
        self.request(
            Request::OpenDocument {
                group,
                document,
                instance,
                from,
            },
            Box::new(move |engine, answer| {
                engine.with_group(
                    group,
                    Box::new(move |engine, group| match answer {
                        Answer::Opened(opened) => engine.opened(group, document, opened),
                        Answer::Refused(refusal) => engine.open_refused(group, document, &refusal),
                        _ => {}
                    }),
                );
            }),
        );
    }

    fn opened(&mut self, group: &mut Group, id: DocumentId, opened: OpenedDocument) {
        let key = (group.id, id);
        let channel = opened.channel.0;
        self.opening.remove(&key);
        if let Some(Slot::Hot(_)) = self.documents.get(&key) {
            self.link.channels.insert(channel, key);
            self.run_document(
                group,
                id,
                vec![Job::from(Box::new(
                    move |engine: &mut Self, group: &mut Group, doc: &mut Doc| {
                        doc.asked = false;
                        doc.channel = Some(channel);
                        doc.target = opened.head.size;
                        doc.in_flight = 0;
                        doc.parked = false;
                        doc.needs_base = false;
                        let context = Group::doc_context(
                            group.mls.state(),
                            &group.roots,
                            &engine.device,
                            engine.now,
                        );
                        let outcome = doc.document.opened(&context, &opened, &mut engine.rng);
                        engine.delivered(group, doc, outcome);
                    },
                ) as DocWork)],
            );
            return;
        }
        let context = Group::doc_context(group.mls.state(), &group.roots, &self.device, self.now);
        let instance = self.device.instance();
        let made = Document::open_remote(&context, &opened, group.id, id, instance, &mut self.rng);
        match made {
            Ok((document, outcome)) => {
                let first: DocWork = Box::new(move |engine, group, doc| {
                    engine.delivered(group, doc, Ok(outcome));
                });
                let mut work: Vec<Job<DocWork>> = vec![first.into()];
                if let Some(Slot::Loading(waiting)) = self.documents.remove(&key) {
                    work.extend(waiting);
                }
                let mut doc = Doc::new(id, document);
                doc.channel = Some(channel);
                doc.target = opened.head.size;
                self.link.channels.insert(channel, key);
                self.documents.insert(key, Slot::Hot(Box::new(doc)));
                self.run_document(group, id, work);
            }
            Err(error) => {
                // Mostly a root that has not arrived yet: again after a while.
                self.opening.insert(key);
                self.request(
                    Request::CloseDocument {
                        channel: opened.channel,
                    },
                    Box::new(|_, _| {}),
                );
                if error.is_retryable() {
                    self.ask_for_wraps(group);
                } else {
                    let text = error.to_string();
                    self.finding(group.id, Some(id), error.code(), None, &text);
                }
                let delay = self.jitter(300, 2_000);
                self.wake(delay, TimerKind::Open(group.id, id));
            }
        }
    }

    fn open_refused(&mut self, group: &mut Group, id: DocumentId, refusal: &Refusal) {
        if let Some(Slot::Hot(doc)) = self.documents.get_mut(&(group.id, id)) {
            doc.asked = false;
            doc.opening_refused = true;
        }
        if refusal.is_retryable() {
            let delay = self.jitter(500, 3_000);
            self.wake(delay, TimerKind::Open(group.id, id));
        } else {
            self.finding(
                group.id,
                Some(id),
                refusal.code(),
                None,
                &refusal.to_string(),
            );
        }
    }

    pub(crate) fn documents_offline(&mut self) {
        self.opening.clear();
        for slot in self.documents.values_mut() {
            if let Slot::Hot(doc) = slot {
                doc.channel = None;
                doc.asked = false;
                doc.in_flight = 0;
                doc.fetching = false;
                doc.parked = false;
                doc.document.disconnected();
                doc.snapshot_in_flight = false;
                doc.create_in_flight = false;
                doc.opening_refused = false;
                doc.create_refused = false;
            }
        }
    }

    pub(crate) fn forget_documents(&mut self, group: GroupId) {
        let gone: Vec<DocumentId> = self
            .documents
            .keys()
            .filter(|(of, _)| *of == group)
            .map(|(_, id)| *id)
            .collect();
        for id in gone {
            self.forget_document(group, id);
        }
        self.link.channels.retain(|_, (of, _)| *of != group);
        self.opening.retain(|(of, _)| *of != group);
    }

    /// Lets go of a document and answers who waits for it.
    fn forget_document(&mut self, group: GroupId, id: DocumentId) {
        if let Some(slot) = self.documents.remove(&(group, id)) {
            let error = EngineError::UnknownDocument;
            self.reply_all(slot.waiters(), &error);
            if let Slot::Hot(doc) = slot {
                self.reply_all(doc.waiters, &error);
            }
        }
    }

    pub(crate) fn document_closed(&mut self, group: &mut Group, id: DocumentId) {
        let entry = group.state().documents.get(&id);
        let kept = entry.is_some_and(|entry| entry.closed == Some(CloseReason::Archived));
        if !kept {
            self.documents.remove(&(group.id, id));
            self.out
                .writes
                .delete_prefix(keys::document_prefix(&group.id, &id));
            group.documents.remove(&id);
            let key = keys::group_row(&group.id, keys::group::DOCUMENT, id.as_bytes());
            self.delete(key);
        }
        self.erase_roots(group);
    }

    /// Every listed document is opened on this connection, as far as memory allows.
    pub(crate) fn pump_documents(&mut self, group: &mut Group) {
        let mut wanted: Vec<DocumentId> = group
            .state()
            .documents
            .iter()
            .filter(|(_, entry)| entry.closed.is_none())
            .map(|(id, _)| *id)
            .collect();
        wanted.extend(
            group
                .documents
                .iter()
                .filter(|(_, row)| row.creating)
                .map(|(id, _)| *id),
        );
        for id in wanted {
            let idle = match self.documents.get(&(group.id, id)) {
                None => self.documents.len() < HOT_DOCUMENTS && !group.unreadable.contains(&id),
                Some(Slot::Loading(_)) => {
                    self.fetch_document(group, id);
                    false
                }
                Some(Slot::Hot(doc)) => doc.is_idle(),
                Some(Slot::Busy(_)) => false,
            };
            if idle {
                self.with_document_in(group, id, None, Box::new(|_, _, _| {}));
            }
        }
    }

    /// Lets go of documents that are quiet, above the bound.
    pub(crate) fn evict(&mut self) {
        if self.documents.len() <= HOT_DOCUMENTS {
            return;
        }
        let quiet: Vec<(GroupId, DocumentId)> = self
            .documents
            .iter()
            .filter(|((group, id), slot)| {
                *id != DocumentId::directory(group)
                    && slot.hot().is_some_and(|doc| {
                        doc.waiters.is_empty()
                            && !doc.document.has_unsent()
                            && !doc.snapshot_in_flight
                            && !doc.create_in_flight
                    })
            })
            .map(|(key, _)| *key)
            .take(self.documents.len() - HOT_DOCUMENTS)
            .collect();
        for key in quiet {
            if let Some(Slot::Hot(doc)) = self.documents.remove(&key)
                && let Some(channel) = doc.channel
            {
                self.link.channels.remove(&channel);
                self.request(
                    Request::CloseDocument {
                        channel: Varint(channel),
                    },
                    Box::new(|_, _| {}),
                );
            }
        }
    }

    pub(crate) fn on_channel(&mut self, channel: u64, work: DocWork) {
        if let Some((group, document)) = self.link.channels.get(&channel).copied() {
            self.with_document(group, document, None, work);
        }
    }

    pub(crate) fn deliver(&mut self, channel: u64, first_seq: u64, records: Vec<DeliveredRecord>) {
        self.on_channel(
            channel,
            Box::new(move |engine, group, doc| {
                doc.target = doc.target.max(first_seq + records.len() as u64);
                let context =
                    Group::doc_context(group.mls.state(), &group.roots, &engine.device, engine.now);
                let outcome = doc.document.deliver(&context, first_seq, records);
                engine.delivered(group, doc, outcome);
            }),
        );
    }

    /// Tells what a delivery brought and asks for what it lacks.
    pub(crate) fn delivered(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        outcome: Result<DeliverOutcome, DocError>,
    ) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                let text = error.to_string();
                self.finding(group.id, Some(doc.id), error.code(), None, &text);
                return;
            }
        };
        for finding in &outcome.findings {
            let suspect = finding.suspect.author.map(|author| author.device);
            let by = if finding.suspect.service {
                "the service"
            } else {
                "a member"
            };
            let text = format!("position {}: {by} is probably at fault", finding.seq);
            self.finding(group.id, Some(doc.id), finding.fault.code(), suspect, &text);
        }
        if !outcome.changes.is_empty() {
            let changes = outcome
                .changes
                .iter()
                .map(|change| self.change(change))
                .collect();
            if doc.id == DocumentId::directory(&group.id) {
                group.directory.refresh(&mut doc.document);
            }
            self.event(Event::DocumentChanged {
                group: group.id,
                document: doc.id,
                changes,
            });
        }
        if outcome.needs_root.is_some() {
            self.ask_for_wraps(group);
        }
        if outcome.refused_own {
            self.finding(
                group.id,
                Some(doc.id),
                "document.own_edit_rewritten",
                None,
                "own edits could not stand as they were; they were written again",
            );
        }
        match outcome.blocked {
            Some((_, Blocked::Whole { first_seq, count })) => {
                self.fetch_records(group.id, doc, first_seq, count);
            }
            Some((_, Blocked::Base)) => {
                doc.needs_base = true;
                self.reopen(doc);
            }
            _ => {}
        }
        if let Some((from, to)) = outcome.gap {
            let count = u32::try_from(to.saturating_sub(from)).unwrap_or(u32::MAX);
            self.fetch_records(group.id, doc, from, count);
        }
        if outcome.reopen {
            self.reopen(doc);
        }
    }

    /// Asks for records whole, one request at a time; what is still missing then shows again.
    fn fetch_records(&mut self, group: GroupId, doc: &mut Doc, from: u64, count: u32) {
        if doc.fetching {
            return;
        }
        doc.fetching = true;
        let id = doc.id;
        let count = count.min(FETCH_RECORDS);
        self.request(
            Request::GetRecords {
                group,
                document: id,
                from,
                count,
            },
            Box::new(move |engine, answer| {
                engine.with_document(
                    group,
                    id,
                    None,
                    Box::new(move |engine, group, doc| {
                        doc.fetching = false;
                        if let Answer::Records { first_seq, records } = answer {
                            let context = Group::doc_context(
                                group.mls.state(),
                                &group.roots,
                                &engine.device,
                                engine.now,
                            );
                            let outcome = doc.document.deliver(&context, first_seq, records);
                            engine.delivered(group, doc, outcome);
                        }
                    }),
                );
            }),
        );
    }

    fn change(&self, change: &Change) -> ChangeInfo {
        ChangeInfo {
            user: change.user,
            device: change.author.device,
            name: self.name_of(&change.user),
            seq: change.seq,
        }
    }

    pub(crate) fn acked(&mut self, channel: u64, next_clock: u64, first_seq: u64, count: u64) {
        self.on_channel(
            channel,
            Box::new(move |engine, group, doc| {
                doc.in_flight = doc.in_flight.saturating_sub(1);
                doc.target = doc.target.max(first_seq.saturating_add(count));
                let context =
                    Group::doc_context(group.mls.state(), &group.roots, &engine.device, engine.now);
                let outcome = doc.document.acked(&context, next_clock, first_seq, count);
                engine.delivered(group, doc, outcome);
                let pending = doc.document.pending_count();
                engine.event(Event::Acknowledged {
                    group: group.id,
                    document: doc.id,
                    pending,
                });
            }),
        );
    }

    pub(crate) fn append_refused(&mut self, channel: u64, first_clock: u64, refusal: Refusal) {
        self.on_channel(
            channel,
            Box::new(move |engine, group, doc| {
                doc.in_flight = doc.in_flight.saturating_sub(1);
                let context =
                    Group::doc_context(group.mls.state(), &group.roots, &engine.device, engine.now);
                match doc.document.refused(&context, first_clock, &refusal) {
                    Ok((what, outcome)) => {
                        engine.after_refusal(group, doc, what, &refusal);
                        engine.delivered(group, doc, Ok(outcome));
                    }
                    Err(error) => engine.delivered(group, doc, Err(error)),
                }
            }),
        );
    }

    fn after_refusal(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        what: RefusedOutcome,
        refusal: &Refusal,
    ) {
        match what {
            // A new epoch seals them anew; sending again happens by itself.
            RefusedOutcome::Reseal { .. } | RefusedOutcome::Resend => {}
            RefusedOutcome::Refetch { from } => {
                self.fetch_records(group.id, doc, from, FETCH_RECORDS);
            }
            RefusedOutcome::RetryLater { after_ms } => {
                doc.send_after = self.now.plus_ms(after_ms);
                self.wake(after_ms, TimerKind::Open(group.id, doc.id));
            }
            RefusedOutcome::SnapshotNeeded => doc.snapshot_wanted = true,
            RefusedOutcome::FreshInstance => {
                self.finding(
                    group.id,
                    Some(doc.id),
                    refusal.code(),
                    None,
                    "own edits were refused; they are sent again under a fresh instance",
                );
                self.reopen(doc);
            }
            RefusedOutcome::Parked(refusal) => {
                doc.parked = true;
                self.finding(
                    group.id,
                    Some(doc.id),
                    refusal.code(),
                    None,
                    "the service does not take this device's edits; they are kept here",
                );
            }
        }
    }

    fn reopen(&mut self, doc: &mut Doc) {
        doc.in_flight = 0;
        doc.document.disconnected();
        if let Some(channel) = doc.channel.take() {
            self.link.channels.remove(&channel);
            self.request(
                Request::CloseDocument {
                    channel: Varint(channel),
                },
                Box::new(|_, _| {}),
            );
        }
    }

    /// An own edit, or a reading.
    pub(crate) fn run_doc_fn(
        &mut self,
        id: CommandId,
        group: GroupId,
        document: DocumentId,
        edits: bool,
        f: DocFn,
    ) {
        self.with_document(
            group,
            document,
            Some(id),
            Box::new(move |engine, group, doc| {
                let result = if edits {
                    engine.edit(group, doc, f)
                } else {
                    f(doc.document.crdt()).map_err(EngineError::from)
                };
                engine.reply(id, result.map(|()| Reply::Done));
            }),
        );
    }

    pub(crate) fn edit(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        f: DocFn,
    ) -> Result<(), EngineError> {
        let listed = group.state().documents.get(&doc.id);
        if listed.is_some_and(|entry| entry.closed.is_some()) {
            return Err(EngineError::Refused(Refusal::DocumentClosed));
        }
        group.check_writable()?;
        if group.state().role_of(&self.device.id()) < Some(Role::Editor) {
            return Err(EngineError::Forbidden);
        }
        let mut f = Some(f);
        let mut run = |crdt: &mut dyn Crdt| match f.take() {
            Some(f) => f(crdt),
            None => Err(CrdtError::Engine),
        };
        doc.document.edit(&mut self.rng, &mut run)?;
        if doc.id == DocumentId::directory(&group.id) {
            group.directory.refresh(&mut doc.document);
        }
        Ok(())
    }

    /// After any work on a document: what can be sent is sent, what changed becomes durable.
    fn settle_document(&mut self, group: &mut Group, doc: &mut Doc) {
        let creating = group.documents.get(&doc.id).is_some_and(|row| row.creating);
        if self.link.online && group.caught_up() && group.check_writable().is_ok() {
            if creating {
                self.send_document_creation(group, doc);
            } else if doc.channel.is_none() && !doc.asked && !doc.opening_refused {
                doc.asked = true;
                let from = (!doc.needs_base).then_some(doc.document.size());
                self.ask_open(group.id, doc.id, doc.document.instance(), from);
            } else if doc.is_caught_up() {
                self.flush(group, doc);
                self.pump_snapshot(group, doc);
                self.pump_check(group, doc);
            }
        }
        for change in doc.document.take_changes() {
            let mut key = keys::document_prefix(&group.id, &doc.id);
            key.extend_from_slice(&change.key);
            match change.value {
                Some(value) => self.put(key, value),
                None => self.delete(key),
            }
        }
        self.update_document_row(group, doc);
        if doc.is_caught_up() && doc.document.pending_count() == 0 {
            for waiter in std::mem::take(&mut doc.waiters) {
                self.reply(waiter, Ok(Reply::Done));
            }
        }
    }

    fn update_document_row(&mut self, group: &mut Group, doc: &Doc) {
        let needed = doc.document.roots_needed();
        let rotated = group.state().rotating_since;
        let done = doc.is_caught_up() && !doc.document.rekey_due(group.state());
        let row = group.documents.entry(doc.id).or_default();
        let before = row.clone();
        row.local = true;
        row.crdt = doc.document.kind().code();
        row.size = doc.document.size();
        row.all_below = needed.all_below;
        row.needed = needed.epochs;
        if done && rotated > row.rekeyed {
            row.rekeyed = rotated;
        }
        let roots_changed = before.needed != row.needed || before.all_below != row.all_below;
        let rekeyed = before.rekeyed != row.rekeyed;
        if roots_changed || rekeyed || !before.local || before.size / 64 != row.size / 64 {
            self.save_document_row(group, &doc.id);
        }
        if roots_changed {
            self.erase_roots(group);
        }
        if rekeyed {
            self.tell_rotation(group, false);
        }
    }

    /// Seals and sends own edits.
    fn flush(&mut self, group: &mut Group, doc: &mut Doc) {
        let Some(channel) = doc.channel else {
            return;
        };
        if doc.parked || self.now < doc.send_after {
            return;
        }
        while doc.in_flight < FRAMES_IN_FLIGHT {
            let context =
                Group::doc_context(group.mls.state(), &group.roots, &self.device, self.now);
            match doc
                .document
                .next_append(&context, &mut self.rng, APPEND_BYTES)
            {
                Ok(Some(append)) => {
                    doc.in_flight += 1;
                    self.send(ClientFrame::Append {
                        channel: Varint(channel),
                        epoch: Varint(append.epoch),
                        first_clock: Varint(append.first_clock),
                        records: Tail(append.records),
                    });
                }
                Ok(None) => return,
                Err(error) => {
                    let text = error.to_string();
                    self.finding(group.id, Some(doc.id), error.code(), None, &text);
                    return;
                }
            }
        }
    }

    /// Writes a snapshot when the policy or a removal asks for one.
    fn pump_snapshot(&mut self, group: &mut Group, doc: &mut Doc) {
        let may_write = group.state().role_of(&self.device.id()) >= Some(Role::Editor);
        if doc.snapshot_in_flight || !may_write {
            return;
        }
        let rekey = group.rotator && doc.document.rekey_due(group.state());
        let due = doc.document.snapshot_due(&group.state().policy);
        if !rekey && !due && !doc.snapshot_wanted {
            return;
        }
        let context = Group::doc_context(group.mls.state(), &group.roots, &self.device, self.now);
        let Ok(record) = doc.document.make_snapshot(&context, &mut self.rng) else {
            // Something waits or is held: the next delivery tries again.
            return;
        };
        doc.snapshot_in_flight = true;
        doc.snapshot_wanted = false;
        let (group_id, id) = (group.id, doc.id);
        self.request(
            Request::PutSnapshot { record },
            Box::new(move |engine, answer| {
                engine.with_document(
                    group_id,
                    id,
                    None,
                    Box::new(move |engine, group, doc| {
                        engine.snapshot_answered(group, doc, &answer);
                    }),
                );
            }),
        );
    }

    fn snapshot_answered(&mut self, group: &mut Group, doc: &mut Doc, answer: &Answer) {
        doc.snapshot_in_flight = false;
        match answer {
            Answer::Accepted { seq, .. } => {
                doc.target = doc.target.max(seq.saturating_add(1));
                let context =
                    Group::doc_context(group.mls.state(), &group.roots, &self.device, self.now);
                let outcome = doc.document.snapshot_accepted(&context, *seq);
                self.delivered(group, doc, outcome);
            }
            Answer::Refused(refusal) => {
                doc.document.snapshot_refused();
                // Where one is still due, the next delivery or this timer makes another.
                doc.snapshot_in_flight = true;
                let delay = self.jitter(200, 2_000);
                self.wake(delay, TimerKind::Snapshot(group.id, doc.id));
                if !refusal.is_retryable() && !matches!(refusal, Refusal::BadRecord { .. }) {
                    let text = refusal.to_string();
                    self.finding(group.id, Some(doc.id), refusal.code(), None, &text);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn snapshot_again(&mut self, group: GroupId, document: DocumentId) {
        self.with_document(
            group,
            document,
            None,
            Box::new(|_, _, doc| doc.snapshot_in_flight = false),
        );
    }

    /// Checks snapshots of others, and plans a verdict where nobody else's is there.
    fn pump_check(&mut self, group: &mut Group, doc: &mut Doc) {
        if let Some(wanted) = doc.document.check_wanted(group.state()) {
            if wanted.have {
                let context =
                    Group::doc_context(group.mls.state(), &group.roots, &self.device, self.now);
                if let Err(error) = doc.document.check_snapshot(&context) {
                    let text = error.to_string();
                    self.finding(group.id, Some(doc.id), error.code(), None, &text);
                }
            } else {
                self.fetch_records(group.id, doc, wanted.seq, 1);
            }
        }
        if doc.document.pending_verdict().is_some() && !doc.verdict_planned {
            doc.verdict_planned = true;
            let delay = self.jitter(200, 3_000);
            self.wake(delay, TimerKind::Verdict(group.id, doc.id));
        }
    }

    pub(crate) fn verdict_due(&mut self, group: GroupId, document: DocumentId) {
        self.with_document(
            group,
            document,
            None,
            Box::new(|_, _, doc| {
                doc.verdict_planned = false;
                // Another member's verdict may have come meanwhile: then there is none to write.
                doc.document.write_verdict();
            }),
        );
    }

    /// Makes a document here; the service hears of it when it can.
    pub(crate) fn create_document(
        &mut self,
        group: &mut Group,
        id: DocumentId,
        kind: CrdtKind,
        initial: Option<DocFn>,
    ) -> Result<(), EngineError> {
        group.check_writable()?;
        if group.state().role_of(&self.device.id()) < Some(Role::Editor) {
            return Err(EngineError::Forbidden);
        }
        let instance = self.device.instance();
        let mut initial = initial;
        let mut run = |crdt: &mut dyn Crdt| match initial.take() {
            Some(f) => f(crdt),
            None => Ok(()),
        };
        let context = Group::doc_context(group.mls.state(), &group.roots, &self.device, self.now);
        // The snapshot is made again when it is sent, under the then current epoch.
        let (document, _) = Document::create(
            &context,
            group.id,
            id,
            kind,
            instance,
            Some(&mut run),
            &mut self.rng,
        )?;
        group.documents.insert(
            id,
            DocRow {
                creating: true,
                crdt: kind.code(),
                ..DocRow::default()
            },
        );
        self.save_document_row(group, &id);
        self.documents
            .insert((group.id, id), Slot::Hot(Box::new(Doc::new(id, document))));
        self.run_document(group, id, Vec::new());
        Ok(())
    }

    fn send_document_creation(&mut self, group: &mut Group, doc: &mut Doc) {
        if doc.create_in_flight || doc.create_refused {
            return;
        }
        let context = Group::doc_context(group.mls.state(), &group.roots, &self.device, self.now);
        let snapshot = match doc.document.make_snapshot(&context, &mut self.rng) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                let text = error.to_string();
                self.finding(group.id, Some(doc.id), error.code(), None, &text);
                return;
            }
        };
        let Ok(own) = self.device.context() else {
            return;
        };
        let body = EntryBody::DocumentCreated {
            document: doc.id,
            crdt: doc.document.kind().code(),
        };
        let entry = group.mls.sign_entry(&own, body, self.device.instance());
        doc.create_in_flight = true;
        let (group_id, id) = (group.id, doc.id);
        self.request(
            Request::CreateDocument { entry, snapshot },
            Box::new(move |engine, answer| {
                engine.with_document(
                    group_id,
                    id,
                    None,
                    Box::new(move |engine, group, doc| {
                        engine.document_creation_answered(group, doc, answer);
                    }),
                );
            }),
        );
    }

    fn document_creation_answered(&mut self, group: &mut Group, doc: &mut Doc, answer: Answer) {
        doc.create_in_flight = false;
        match answer {
            // A repeated creation after a lost answer finds the document there: ids are drawn at random, so it is ours.
            Answer::Accepted { .. } | Answer::Refused(Refusal::AlreadyExists) => {
                if let Some(row) = group.documents.get_mut(&doc.id) {
                    row.creating = false;
                }
                self.save_document_row(group, &doc.id);
                let context =
                    Group::doc_context(group.mls.state(), &group.roots, &self.device, self.now);
                let outcome = doc.document.snapshot_accepted(&context, 0);
                self.delivered(group, doc, outcome);
            }
            Answer::Refused(refusal) if refusal.is_retryable() => {
                doc.create_refused = true;
                let delay = self.jitter(100, 1_000);
                self.wake(delay, TimerKind::Open(group.id, doc.id));
            }
            Answer::Refused(refusal) => {
                doc.create_refused = true;
                self.finding(
                    group.id,
                    Some(doc.id),
                    refusal.code(),
                    None,
                    &refusal.to_string(),
                );
            }
            _ => {}
        }
    }

    /// A new epoch: documents open what waited for it, own edits are sealed anew.
    pub(crate) fn epoch_changed(&mut self, group: &mut Group) {
        self.intents_epoch_changed(group);
        let ids: Vec<DocumentId> = self
            .documents
            .iter()
            .filter(|((of, _), slot)| *of == group.id && slot.hot().is_some())
            .map(|((_, id), _)| *id)
            .collect();
        for id in ids {
            self.retry_document(group, id);
        }
    }

    /// Tries again what waited for an epoch or a root.
    pub(crate) fn retry_document(&mut self, group: &mut Group, id: DocumentId) {
        self.with_document_in(
            group,
            id,
            None,
            Box::new(|engine, group, doc| {
                let context =
                    Group::doc_context(group.mls.state(), &group.roots, &engine.device, engine.now);
                let outcome = doc.document.retry(&context);
                engine.delivered(group, doc, outcome);
            }),
        );
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
