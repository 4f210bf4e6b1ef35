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
    pub(super) fn fetch_document(&mut self, group: &mut Group, document: DocumentId) {
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

    pub(super) fn open_refused(&mut self, group: &mut Group, id: DocumentId, refusal: &Refusal) {
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

    pub(super) fn reopen(&mut self, doc: &mut Doc) {
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
}
