//! Own edits: made, sealed, sent, refused; and new documents.

use conclave_doc::PreparedSnapshot;
use conclave_proto::Record;

use super::*;

/// However long the service says to wait, in milliseconds.
const LONGEST_WAIT_MS: u64 = 10 * 60 * 1000;

impl Cx {
    pub(crate) fn append_refused(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        first_clock: u64,
        refusal: Refusal,
    ) {
        let Some(open) = self.link.open_mut(group.id, doc.id) else {
            return;
        };
        let session = &mut open.session;
        match doc.document.note_refused(session, first_clock, &refusal) {
            Ok((what, begun)) => {
                let then = Then::Refused(what, refusal);
                doc.errand = Some(Errand::GoOn(Box::new(begun), then));
            }
            Err(error) => self.delivered(group, doc, Err(error)),
        }
    }

    pub(super) fn after_refusal(
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
                if matches!(refusal, Refusal::Recovering { .. }) {
                    self.finding(group.id, Some(doc.id), FindingKind::Collecting, None);
                }
                let send_after = self.now.plus_ms(after_ms.min(LONGEST_WAIT_MS));
                if let Some(open) = self.link.open_mut(group.id, doc.id) {
                    open.send_after = send_after;
                    let collects = matches!(refusal, Refusal::Recovering { .. });
                    open.collecting = collects.then(|| refusal.clone());
                }
                self.wake_at(
                    send_after,
                    TimerKind::Document(group.id, doc.id, DocTimer::Open),
                );
            }
            RefusedOutcome::SnapshotNeeded => doc.notes.turn = Turn::Wanted,
            RefusedOutcome::FreshInstance => {
                let cause = refusal.into();
                let what = FindingKind::EditsRefused { cause };
                self.finding(group.id, Some(doc.id), what, None);
                self.close_document(group.id, doc.id);
            }
            RefusedOutcome::Parked(refusal) => {
                let cause = (&refusal).into();
                let what = FindingKind::EditsParked { cause };
                self.finding(group.id, Some(doc.id), what, None);
            }
        }
    }

    /// Whether own edits have a place in a document now, as far as is known.
    pub(crate) fn check_edit(&self, group: &Group, id: &DocumentId) -> Result<(), EngineError> {
        let listed = group.state().documents.get(id);
        if listed.is_some_and(|entry| entry.closed.is_some()) {
            return Err(EngineError::Refused(Refusal::DocumentClosed));
        }
        group.check_writable()?;
        if group.state().role_of(&self.device.id()) < Some(Role::Editor) {
            return Err(EngineError::Forbidden);
        }
        Ok(())
    }

    /// A short edit of this program's own.
    pub(crate) fn edit(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        f: DocFn,
    ) -> Result<(), EngineError> {
        self.check_edit(group, &doc.id)?;
        let mut f = Some(f);
        let mut run = |crdt: &mut dyn Crdt| match f.take() {
            Some(f) => f(crdt),
            None => Err(CrdtError::Engine),
        };
        let result = doc.document.edit(&mut run).map(|_| ());
        self.edited(group, doc, result)
    }

    /// A document was edited, or was not.
    pub(super) fn edited(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        result: Result<(), DocError>,
    ) -> Result<(), EngineError> {
        result?;
        if doc.id == DocumentId::directory(&group.id) {
            group.directory.changed(&mut doc.document);
        }
        Ok(())
    }

    /// Seals and sends own edits.
    pub(super) fn flush(&mut self, group: &mut Group, doc: &mut Doc) {
        loop {
            let Some(open) = self.link.open_mut(group.id, doc.id) else {
                return;
            };
            if open.session.frames() >= FRAMES_IN_FLIGHT {
                return;
            }
            if self.now < open.send_after {
                let at = open.send_after;
                return self.wake_at(at, TimerKind::Document(group.id, doc.id, DocTimer::Open));
            }
            open.collecting = None;
            let channel = open.channel;
            let context = group.doc_context(&self.device);
            let sealer = Sealer {
                key: self.device.key(),
                rng: &mut self.rng,
            };
            match doc
                .document
                .next_append(&context, &mut open.session, sealer, APPEND_BYTES)
            {
                Ok(Some(append)) => {
                    self.send(ClientFrame::Append {
                        channel: Varint(channel),
                        epoch: Varint(append.epoch),
                        first_clock: Varint(append.first_clock),
                        records: Tail(append.records),
                    });
                }
                Ok(None) => return,
                Err(error) => {
                    let what = FindingKind::failed(Step::SendEdits, &error);
                    self.finding(group.id, Some(doc.id), what, None);
                    return;
                }
            }
        }
    }

    fn may_create(&self, group: &Group) -> Result<(), EngineError> {
        group.check_writable()?;
        if group.state().role_of(&self.device.id()) < Some(Role::Editor) {
            return Err(EngineError::Forbidden);
        }
        Ok(())
    }

    /// Makes a document that begins with little here; the service hears of it when it can.
    pub(crate) fn create_document(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        kind: CrdtKind,
        beginning: Beginning,
    ) -> Result<(), EngineError> {
        let group = &whole.group;
        self.may_create(group)?;
        let context = group.doc_context(&self.device);
        let (of, instance, rng) = (group.id, self.device.instance(), &mut self.rng);
        let begun =
            beginning.with(|it| Document::begin(&context, of, id, kind, instance, it, rng))?;
        let document = self.seal_first(group, begun)?;
        self.add_document(whole, document, kind, None);
        Ok(())
    }

    /// The same with a title, for a command, and with as much as it may be.
    pub(crate) fn create_titled(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        beginning: Beginning,
        asked: Asked,
    ) {
        if let Err(error) = self.may_create(&whole.group) {
            return self.reply(asked.command, Err(error));
        }
        let making = Making::Begin {
            beginning,
            group: whole.group.id,
            id,
            instance: self.device.instance(),
            seed: self.seed(),
            asked,
        };
        self.make_document(whole, id, making, Vec::new());
    }

    /// A document has begun, or has not.
    pub(super) fn begun(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        result: Result<(Box<Document>, PreparedSnapshot), DocError>,
        asked: Asked,
        queue: Vec<DocWork>,
    ) {
        let made = result.map_err(EngineError::Doc).and_then(|(made, first)| {
            // Much may have happened since it was asked for.
            self.may_create(&whole.group)?;
            self.seal_first(&whole.group, (*made, first))
        });
        match made {
            Ok(document) => {
                self.add_document(whole, document, asked.kind, Some(asked.title.0));
                for work in queue {
                    self.document_work(whole, id, work);
                }
                self.pump_titles(whole);
                self.reply(asked.command, Ok(Reply::Document(id)));
            }
            Err(error) => {
                self.reply_all(queue.iter().filter_map(Awaited::waiter), &error);
                self.reply(asked.command, Err(error));
            }
        }
    }

    fn seal_first(
        &mut self,
        group: &Group,
        (mut document, first): (Document, PreparedSnapshot),
    ) -> Result<Document, EngineError> {
        let context = group.doc_context(&self.device);
        let sealer = Sealer {
            key: self.device.key(),
            rng: &mut self.rng,
        };
        document.seal_snapshot(&context, first, sealer)?;
        Ok(document)
    }

    /// Puts a document that was made here in place.
    pub(crate) fn add_document(
        &mut self,
        whole: &mut Whole,
        document: Document,
        kind: CrdtKind,
        title: Option<String>,
    ) {
        let id = document.id();
        if title.is_some() {
            whole.group.titles_due.insert(id);
        }
        whole.group.documents.insert(
            id,
            DocRow {
                stage: DocStage::Creating { remake: false },
                crdt: kind.code(),
                title: title.map(Hidden),
                ..DocRow::default()
            },
        );
        self.save_document_row(&mut whole.group, &id);
        let doc = Box::new(Doc::new(id, Box::new(document)));
        whole.docs.insert(id, DocSlot::Hot(doc));
        self.run_document(whole, id, None, Vec::new());
    }

    pub(super) fn send_document_creation(&mut self, group: &mut Group, doc: &mut Doc) {
        let stage = group.documents.get(&doc.id).map(|row| row.stage);
        let remake = stage == Some(DocStage::Creating { remake: true });
        // What was sent before may have been ordered although no answer came: the same snapshot goes again until it is refused.
        match doc.document.pending_snapshot().filter(|_| !remake).cloned() {
            Some(snapshot) => self.offer_document(group, doc, snapshot),
            None => doc.errand = Some(Errand::Snapshot(Purpose::Creation)),
        }
    }

    /// Seals and sends the first snapshot of a document, if it still can be.
    pub(super) fn put_creation(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        prepared: Result<PreparedSnapshot, DocError>,
    ) {
        // Or it was paused meanwhile.
        let asked = self.link.document(group.id, doc.id).is_some()
            || self.withholds_creation(group.id, doc.id);
        if self.link.online && !asked && group.may_act() && group.is_creating(&doc.id) {
            self.make_first(group, doc, prepared);
        }
        self.end_settling(group, doc);
    }

    fn make_first(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        prepared: Result<PreparedSnapshot, DocError>,
    ) {
        let context = group.doc_context(&self.device);
        let sealer = Sealer {
            key: self.device.key(),
            rng: &mut self.rng,
        };
        match prepared.and_then(|it| doc.document.seal_snapshot(&context, it, sealer)) {
            Ok(snapshot) => self.offer_document(group, doc, snapshot),
            Err(error) => {
                let what = FindingKind::failed(Step::PublishDocument, &error);
                self.finding(group.id, Some(doc.id), what, None);
            }
        }
    }

    fn offer_document(&mut self, group: &mut Group, doc: &mut Doc, snapshot: Record) {
        let Ok(own) = self.device.context() else {
            return;
        };
        let body = EntryBody::DocumentCreated {
            document: doc.id,
            crdt: doc.document.kind().code(),
        };
        // The instance under which the document was made, also where the device has another by now.
        let instance = snapshot.header.author.instance;
        let entry = group.mls.sign_entry(&own, body, instance);
        self.set_stage(group, doc.id, DocStage::Creating { remake: false });
        self.link.set_document(group.id, doc.id, DocLink::Creating);
        let what = Pending::Document(group.id, doc.id, DocPending::Create);
        self.request(Request::CreateDocument { entry, snapshot }, what);
    }

    fn set_stage(&mut self, group: &mut Group, id: DocumentId, stage: DocStage) {
        let row = group.documents.get_mut(&id);
        if let Some(row) = row.filter(|row| row.stage != stage) {
            row.stage = stage;
            self.save_document_row(group, &id);
        }
    }

    /// The service knows the document.
    pub(crate) fn document_created(&mut self, group: &mut Group, id: DocumentId) {
        if group.is_creating(&id) {
            self.set_stage(group, id, DocStage::Here);
            self.ended(About::Document(group.id, id), End::Published);
            let unsent = self.unsent.get(&group.id, &id);
            self.set_unsent(&group.id, &id, unsent.created());
        }
    }

    pub(crate) fn document_creation_answered(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        answer: Answer,
    ) {
        self.close_document(group.id, doc.id);
        match answer {
            // A repeated creation after a lost answer finds the document there: ids are drawn at random, so it is ours. Its log says
            // the rest when it is opened.
            Answer::Refused(Refusal::AlreadyExists) => self.document_created(group, doc.id),
            Answer::Accepted { .. } => {
                self.document_created(group, doc.id);
                doc.errand = Some(Errand::SnapshotPlaced(0));
            }
            Answer::Refused(refusal) if refusal.is_retryable() => {
                // After a storage failure it is not known what was ordered.
                let remake = !matches!(refusal, Refusal::Storage | Refusal::ShuttingDown);
                self.set_stage(group, doc.id, DocStage::Creating { remake });
                let link = DocLink::Refused(NotOpen::Later);
                self.link.set_document(group.id, doc.id, link);
                let delay = self.jitter_after(&refusal, 100, 1_000);
                self.wake(delay, TimerKind::Document(group.id, doc.id, DocTimer::Open));
            }
            Answer::Refused(refusal) => {
                let what = FindingKind::failed(Step::PublishDocument, &refusal);
                let link = DocLink::Refused(NotOpen::NotTaken(refusal));
                self.link.set_document(group.id, doc.id, link);
                self.finding(group.id, Some(doc.id), what, None);
            }
            _ => {}
        }
    }
}
