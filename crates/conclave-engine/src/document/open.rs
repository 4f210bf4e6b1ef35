//! Opening documents: from the store, from the service, on every new connection.

use super::*;

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
                        doc.target = opened.head.size;
                        doc.in_flight = 0;
                        doc.parked = false;
                        doc.needs_base = false;
                        let context = group.doc_context(&engine.device, engine.now);
                        let outcome = doc.document.opened(&context, &opened, &mut engine.rng);
                        engine.delivered(group, doc, outcome);
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
                if error.is_retryable() {
                    // Mostly a root that has not arrived yet: again after a while.
                    self.opening.insert(key);
                    if let DocError::MissingRoot { epoch } = error {
                        self.root_missing(group, id, epoch);
                    }
                    let delay = self.jitter(300, 2_000);
                    self.wake(delay, TimerKind::Open(group.id, id));
                } else {
                    let text = error.to_string();
                    self.finding(group.id, Some(id), error.code(), None, &text);
                    self.give_up(group, id, &EngineError::Doc(error));
                }
            }
        }
    }

    pub(super) fn open_refused(&mut self, group: &mut Group, id: DocumentId, refusal: &Refusal) {
        if let Some(Slot::Hot(doc)) = self.documents.get_mut(&(group.id, id)) {
            doc.asked = false;
            doc.opening_refused = true;
        }
        if refusal.is_retryable() {
            let delay = self.jitter(500, 3_000);
            self.wake(delay, TimerKind::Open(group.id, id));
        } else {
            let text = refusal.to_string();
            self.finding(group.id, Some(id), refusal.code(), None, &text);
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
                // Only to know which roots it needs.
                Some(CloseReason::Archived) => !local,
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
