//! Opening documents: from the store, from the service, on every new connection.

use conclave_doc::Standing;
use conclave_proto::refusal::RecordFault;

use super::*;
use crate::unsent::Unsent;

/// Longest pause between two tries to open a document, in milliseconds.
const LONGEST_OPEN_MS: u64 = 5 * 60 * 1000;
/// Between any two tries to open documents again, in milliseconds.
const BETWEEN_OPENS_MS: u64 = 100;

impl Engine {
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
                let context = group.doc_context(&engine.device, engine.now);
                match Document::load(&context, rows, &mut engine.rng) {
                    Ok(document) => {
                        engine.ended(About::Document(group.id, id), End::Loaded);
                        engine
                            .documents
                            .insert(key, Slot::Hot(Box::new(Doc::new(id, document))));
                        let first: DocWork =
                            Box::new(|engine, group, doc| engine.apply_voided(group, doc));
                        let mut jobs: Vec<Job<DocWork>> = vec![first.into()];
                        jobs.extend(work);
                        engine.run_document(group, id, jobs);
                    }
                    Err(error) => {
                        // The rows stay as they are: they may hold edits. Only this session does without the document.
                        let what = FindingKind::failed(Step::LoadDocument, &error);
                        engine.finding(group.id, Some(id), what, None);
                        group.unreadable.insert(id);
                        let error = EngineError::Doc(error);
                        engine.reply_all(work.iter().filter_map(|job| job.waiter), &error);
                    }
                }
            }),
        );
    }

    /// Asks the service for a document that is not here.
    pub(super) fn fetch_document(&mut self, group: &mut Group, document: DocumentId) {
        let key = (group.id, document);
        let opening = self.opening.contains(&key);
        let absent = group.documents.get(&document).is_none_or(|row| !row.local);
        if opening || !absent || !self.link.online || !group.readable() {
            return;
        }
        self.opening.insert(key);
        let instance = self.device.instance();
        self.ask_open(group.id, document, instance, None);
    }

    pub(super) fn ask_open(
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

    pub(super) fn opened(&mut self, group: &mut Group, id: DocumentId, opened: OpenedDocument) {
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
                        if engine.compare_log(group, doc, &opened) {
                            return;
                        }
                        doc.target = opened.head.size;
                        doc.in_flight = 0;
                        doc.parked = false;
                        doc.needs_base = false;
                        let context = group.doc_context(&engine.device, engine.now);
                        let outcome = doc.document.opened(&context, &opened, &mut engine.rng);
                        match outcome.map_err(|error| engine.judge_base(group, &opened, error)) {
                            Err(error) if error.is_retryable() => {
                                engine.opened_too_early(group, doc, &error);
                            }
                            outcome => engine.delivered(group, doc, outcome),
                        }
                    },
                ) as DocWork)],
            );
            return;
        }
        let context = group.doc_context(&self.device, self.now);
        let instance = self.device.instance();
        let made = Document::open_remote(&context, &opened, group.id, id, instance, &mut self.rng);
        match made {
            Ok((document, outcome)) => {
                let base = opened.base.as_ref().map(|base| base.record.header);
                let own = self.device.id();
                if let Some(header) = base.filter(|header| header.author.device != own) {
                    self.root_opened(group, header.epoch, header.author.device);
                    self.proven(group, header.epoch);
                }
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
                self.close_channel(channel);
                let error = self.judge_base(group, &opened, error);
                if error.is_retryable() {
                    // Mostly a root that has not arrived yet: again after a while.
                    self.opening.insert(key);
                    self.open_later(group, id);
                    if let DocError::MissingRoot { epoch } = error {
                        self.root_missing(group, id, epoch);
                    }
                } else {
                    let what = FindingKind::failed(Step::ReadDocument, &error);
                    self.finding(group.id, Some(id), what, None);
                    self.give_up(group, id, &EngineError::Doc(error));
                }
            }
        }
    }

    /// Compares the service's log with the own one. True where nothing may be sent: what is here stays, off the connection.
    fn compare_log(&mut self, group: &mut Group, doc: &mut Doc, opened: &OpenedDocument) -> bool {
        let (stand, missing) = match doc.document.standing(opened) {
            Standing::InStep => (Stand::InStep, 0),
            Standing::Behind => (Stand::Behind, 0),
            Standing::Ahead { missing } => (Stand::Ahead, missing),
            Standing::Apart => (Stand::Apart, 0),
        };
        if stand.is_away() {
            self.document_away(group, doc, stand, missing);
        } else {
            doc.stand = stand;
            self.tell_in_step(group.id, Some(doc.id));
        }
        stand.is_away()
    }

    /// Asks for the last record that is here: the service's log has it at the same place if it goes on from what is here.
    pub(super) fn ask_last(&mut self, group: GroupId, doc: &Doc) {
        let (document, from) = (doc.id, doc.document.size().saturating_sub(1));
        let request = Request::GetRecords {
            group,
            document,
            from,
            count: 1,
        };
        let work = move |engine: &mut Self, group: &mut Group, doc: &mut Doc, answer| {
            doc.asked = false;
            group.doubted.insert(doc.id, true);
            let Answer::Records { first_seq, records } = answer else {
                return;
            };
            let context = group.doc_context(&engine.device, engine.now);
            let outcome = doc.document.deliver(&context, first_seq, records);
            let forked = |outcome: &DeliverOutcome| {
                let mut faults = outcome.findings.iter().map(|it| it.fault);
                faults.any(|fault| fault == Fault::Fork)
            };
            if outcome.as_ref().is_ok_and(forked) {
                group.doubted.insert(doc.id, false);
                engine.document_away(group, doc, Stand::Apart, 0);
            }
        };
        self.request(
            request,
            Box::new(move |engine, answer| {
                let work: DocWork = Box::new(move |engine, group, doc| {
                    work(engine, group, doc, answer);
                });
                engine.with_document(group, document, None, work);
            }),
        );
    }

    /// The service's log of a document lacks what is here, or went another way.
    pub(super) fn document_away(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        stand: Stand,
        missing: u64,
    ) {
        self.reopen(doc);
        doc.stand = stand;
        doc.opening_refused = true;
        let newest = group.documents.get(&doc.id).map(|row| row.changed);
        let missing = Missing {
            count: missing,
            newest: newest.unwrap_or(UnixMs(0)),
        };
        self.tell_away(group.id, Some(doc.id), stand, missing);
        self.open_later(group, doc.id);
    }

    /// The service does not know a document that is in the group's log.
    fn document_unknown(&mut self, group: &mut Group, id: DocumentId) {
        if let Some(Slot::Hot(_)) = self.documents.get(&(group.id, id)) {
            let work: DocWork = Box::new(|engine, group, doc| {
                doc.asked = false;
                let missing = doc.document.size();
                engine.document_away(group, doc, Stand::Ahead, missing);
            });
            return self.with_document_in(group, id, None, work);
        }
        if let Some(Slot::Loading(jobs)) = self.documents.get_mut(&(group.id, id)) {
            let waiters: Vec<CommandId> = jobs.drain(..).filter_map(|job| job.waiter).collect();
            self.reply_all(waiters, &EngineError::OutOfStep);
        }
        self.open_later(group, id);
    }

    /// The snapshot does not open. Where the root is on somebody's word only, that word goes before the snapshot's author's.
    fn judge_base(
        &mut self,
        group: &mut Group,
        opened: &OpenedDocument,
        error: DocError,
    ) -> DocError {
        let fault = RecordFault::Commitment;
        let base = opened.base.as_ref().map(|base| base.record.header.epoch);
        match base.filter(|_| error == DocError::BadRecord { fault }) {
            Some(epoch) if self.root_doubted(group, epoch) => DocError::MissingRoot { epoch },
            _ => error,
        }
    }

    /// What the service has further on cannot be opened yet. What is here stays as it is, off the connection, until the next try.
    fn opened_too_early(&mut self, group: &mut Group, doc: &mut Doc, error: &DocError) {
        self.reopen(doc);
        doc.opening_refused = true;
        self.open_later(group, doc.id);
        if let DocError::MissingRoot { epoch } = error {
            self.root_missing(group, doc.id, *epoch);
        }
    }

    /// Opens a document again after a while, longer each time. All documents together are not opened again faster than a few per second.
    fn open_later(&mut self, group: &mut Group, id: DocumentId) {
        let tries = group.missing.unopened.entry(id).or_default();
        let most = doubled_ms(1_000, *tries, LONGEST_OPEN_MS);
        *tries = tries.saturating_add(1);
        let delay = self.jitter(most / 2, most);
        self.open_after(group.id, id, delay);
    }

    fn open_after(&mut self, group: GroupId, id: DocumentId, delay: u64) {
        let mut at = self.now.plus_ms(delay);
        let opens = |(_, kind): &&(UnixMs, TimerKind)| matches!(kind, TimerKind::Open(..));
        for (other, _) in self.timers.iter().filter(opens) {
            // One of the two is 0.
            let apart_ms = at.since_ms(*other) + other.since_ms(at);
            if apart_ms < BETWEEN_OPENS_MS {
                at = other.plus_ms(BETWEEN_OPENS_MS);
            }
        }
        self.wake(at.since_ms(self.now), TimerKind::Open(group, id));
    }

    /// Something has come that documents may have waited for: those that could not be opened are opened again soon.
    pub(crate) fn open_again(&mut self, group: &mut Group) {
        for (id, _) in std::mem::take(&mut group.missing.unopened) {
            self.cancel_timer(TimerKind::Open(group.id, id));
            self.open_after(group.id, id, 0);
        }
    }

    /// Asks again for a document that could not be opened.
    pub(crate) fn open_due(&mut self, group: GroupId, id: DocumentId) {
        self.opening.remove(&(group, id));
        let work: GroupWork = Box::new(move |engine, group| {
            match engine.documents.get(&(group.id, id)) {
                Some(Slot::Loading(_)) => engine.fetch_document(group, id),
                Some(Slot::Hot(_) | Slot::Busy(_)) => {
                    engine.with_document_in(group, id, None, Box::new(|_, _, doc| doc.ask_again()));
                }
                // Whoever needs it asks for it.
                None => {}
            }
        });
        self.with_group(group, work);
    }

    pub(super) fn open_refused(&mut self, group: &mut Group, id: DocumentId, refusal: &Refusal) {
        let here = group.documents.get(&id).is_some_and(|row| row.local);
        if *refusal == Refusal::UnknownDocument && (here || group.stand.is_away()) {
            return self.document_unknown(group, id);
        }
        if let Some(Slot::Hot(doc)) = self.documents.get_mut(&(group.id, id)) {
            doc.asked = false;
            doc.opening_refused = true;
        }
        if refusal.is_retryable() {
            let delay = self.jitter(500, 3_000);
            self.open_after(group.id, id, delay);
        } else {
            let what = FindingKind::failed(Step::OpenDocument, refusal);
            self.finding(group.id, Some(id), what, None);
            self.give_up(group, id, &EngineError::Refused(refusal.clone()));
        }
    }

    /// This session does without a document that is not here; who waits for it is told.
    fn give_up(&mut self, group: &mut Group, id: DocumentId, error: &EngineError) {
        let key = (group.id, id);
        self.opening.remove(&key);
        if let Some(Slot::Loading(jobs)) = self.documents.get(&key) {
            let waiters: Vec<CommandId> = jobs.iter().filter_map(|job| job.waiter).collect();
            self.reply_all(waiters, error);
            self.documents.remove(&key);
            group.unreadable.insert(id);
        }
    }

    /// Every listed document is opened once on every connection, and stays open as far as memory allows.
    pub(crate) fn pump_documents(&mut self, group: &mut Group) {
        for id in self.wanted_documents(group) {
            let key = (group.id, id);
            let look = match self.documents.get(&key) {
                None => {
                    let room = self.documents.len() < HOT_DOCUMENTS || self.evict_one();
                    if !room {
                        return;
                    }
                    true
                }
                Some(Slot::Loading(_)) => {
                    self.fetch_document(group, id);
                    false
                }
                Some(Slot::Hot(doc)) => doc.is_idle(),
                Some(Slot::Busy(_)) => false,
            };
            if look {
                self.link.visited.insert(key);
                self.with_document_in(group, id, None, Box::new(|_, _, _| {}));
            }
        }
    }

    /// Documents that are not open and should be: new here, not looked at on this connection, to be re-keyed, or on their way out.
    fn wanted_documents(&self, group: &Group) -> Vec<DocumentId> {
        let since = group.rekey_since();
        let listed = group.state().documents.iter().filter(|(id, entry)| {
            let row = group.documents.get(id);
            let local = row.is_some_and(|row| row.local);
            match entry.closed {
                // To know which roots it needs, and what of the own edits is in it.
                Some(CloseReason::Archived) => {
                    let unsent = row.is_some_and(|row| row.unsent != Some(0));
                    let visited = self.link.visited.contains(&(group.id, **id));
                    !local || (unsent && !visited)
                }
                Some(_) => false,
                None => {
                    let behind = group.rotator
                        && entry.created_epoch < since
                        && row.is_none_or(|row| row.rekeyed < since);
                    let open = self.documents.contains_key(&(group.id, **id));
                    !local || behind || open || !self.link.visited.contains(&(group.id, **id))
                }
            }
        });
        let mut wanted: Vec<DocumentId> = listed.map(|(id, _)| *id).collect();
        let creating = group.documents.iter().filter(|(_, row)| row.creating);
        wanted.extend(creating.map(|(id, _)| *id));
        wanted.retain(|id| !group.unreadable.contains(id));
        // Names first, then what others wait for.
        let directory = DocumentId::directory(&group.id);
        wanted.sort_by_key(|id| {
            let waits = self.unsent.get(&group.id, id) != Unsent::default();
            (*id != directory, !waits)
        });
        wanted
    }

    pub(super) fn reopen(&mut self, doc: &mut Doc) {
        doc.in_flight = 0;
        doc.document.disconnected();
        if let Some(channel) = doc.channel.take() {
            self.close_channel(channel);
        }
    }
}
