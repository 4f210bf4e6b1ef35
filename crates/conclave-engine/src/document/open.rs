//! Opening documents: from the store, from the service, on every new connection.

use conclave_doc::Standing;
use conclave_proto::refusal::RecordFault;

use super::*;

/// Longest pause between two tries to open a document, in milliseconds.
const LONGEST_OPEN_MS: u64 = 5 * 60 * 1000;
/// Between any two tries to open documents again, in milliseconds.
const BETWEEN_OPENS_MS: u64 = 100;

impl Cx {
    pub(crate) fn document_loaded(&mut self, whole: &mut Whole, id: DocumentId, rows: Vec<Row>) {
        let Some(Slot::Loading(waiting)) = whole.docs.remove(&id) else {
            return;
        };
        let group = &mut whole.group;
        let skip = 1 + GroupId::LEN + DocumentId::LEN;
        let rows = rows
            .into_iter()
            .map(|(key, value)| (key.get(skip..).unwrap_or_default().to_vec(), value))
            .collect();
        let context = group.doc_context(&self.device);
        match Document::load(&context, rows, &mut self.rng) {
            Ok(document) => {
                self.ended(About::Document(group.id, id), End::Loaded);
                let doc = Box::new(Doc::new(id, document));
                whole.docs.insert(id, Slot::Hot(doc));
                let mut work = vec![DocWork::Voided];
                work.extend(waiting);
                self.run_document(whole, id, work);
            }
            Err(error) => {
                // The rows stay as they are: they may hold edits. Only this session does without the document.
                let what = FindingKind::failed(Step::LoadDocument, &error);
                self.finding(group.id, Some(id), what, None);
                group.set_unreadable(id);
                let waiters: Vec<CommandId> = waiting.iter().filter_map(Work::waiter).collect();
                self.reply_all(waiters, &EngineError::Doc(error));
            }
        }
    }

    /// Asks the service for a document that is not here.
    pub(super) fn fetch_document(&mut self, group: &Group, document: DocumentId) {
        let known = self.link.document(group.id, document).is_some();
        if known || group.is_local(&document) || !self.link.online || !group.readable() {
            return;
        }
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
        let request = Request::OpenDocument {
            group,
            document,
            instance,
            from,
        };
        let what = |document, ask| GroupPending::Open { document, ask };
        self.ask_document(group, document, request, what);
    }

    /// Whether this is the answer that is waited for. Then the document is asked for no longer.
    fn is_asked(&mut self, group: GroupId, id: DocumentId, ask: u64) -> bool {
        let link = self.link.document(group, id);
        let asked = matches!(link, Some(DocLink::Asking { ask: last }) if *last == ask);
        if asked {
            self.close_document(group, id);
        }
        asked
    }

    pub(crate) fn open_answered(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        ask: u64,
        answer: Answer,
    ) {
        if !self.is_asked(whole.group.id, id, ask) {
            // It was let go of meanwhile.
            if let Answer::Opened(opened) = answer {
                self.close_channel(opened.channel.0);
            }
            return;
        }
        match answer {
            Answer::Opened(opened) => self.opened(whole, id, opened),
            Answer::Refused(refusal) => self.open_refused(whole, id, &refusal),
            _ => {}
        }
    }

    fn opened(&mut self, whole: &mut Whole, id: DocumentId, opened: OpenedDocument) {
        let Whole { group, docs } = whole;
        let channel = opened.channel.0;
        if let Some(Slot::Hot(_)) = docs.get(&id) {
            return self.run_document(whole, id, vec![DocWork::Opened(Box::new(opened))]);
        }
        let context = group.doc_context(&self.device);
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
                let mut work = vec![DocWork::OpenedFirst(Box::new(outcome))];
                if let Some(Slot::Loading(waiting)) = docs.remove(&id) {
                    work.extend(waiting);
                }
                let doc = Doc::new(id, document);
                self.note_opened(group.id, &doc, &opened);
                docs.insert(id, Slot::Hot(Box::new(doc)));
                self.run_document(whole, id, work);
            }
            Err(error) => {
                self.close_channel(channel);
                let error = self.judge_base(group, &opened, error);
                if error.is_retryable() {
                    // Mostly a root that has not arrived yet: again after a while.
                    self.open_later(group, id, NotOpen::Later);
                    if let DocError::MissingRoot { epoch } = error {
                        self.root_missing(group, id, epoch);
                    }
                } else {
                    let what = FindingKind::failed(Step::ReadDocument, &error);
                    self.finding(group.id, Some(id), what, None);
                    self.give_up(whole, id, &EngineError::Doc(error));
                }
            }
        }
    }

    fn note_opened(&mut self, group: GroupId, doc: &Doc, opened: &OpenedDocument) {
        let session = doc.document.session(opened);
        let open = Open::new(opened.channel.0, opened.head.size, session);
        let link = DocLink::Open(Box::new(open));
        self.link.set_document(group, doc.id, link);
    }

    /// The service has opened a document that is here.
    pub(crate) fn reopened(&mut self, group: &mut Group, doc: &mut Doc, opened: &OpenedDocument) {
        self.note_opened(group.id, doc, opened);
        if self.compare_log(group, doc, opened) {
            return;
        }
        let context = group.doc_context(&self.device);
        let outcome = doc.document.opened(&context, opened, &mut self.rng);
        match outcome.map_err(|error| self.judge_base(group, opened, error)) {
            Err(error) if error.is_retryable() => self.opened_too_early(group, doc, &error),
            outcome => self.delivered(group, doc, outcome),
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
            self.tell_in_step(group.id, Some(doc.id));
        }
        stand.is_away()
    }

    /// Asks the service for a document that is here. Where there is doubt, for the last record that is here first: the service's log has it at the
    /// same place if it goes on from what is here.
    pub(super) fn look(&mut self, group: &Group, doc: &Doc) {
        let key = (group.id, doc.id);
        let size = doc.document.size();
        let doubted = self.link.doubted.contains(&key) && !self.link.compared.contains(&key);
        if !doubted || size == 0 {
            return self.ask_open(group.id, doc.id, doc.document.instance(), Some(size));
        }
        let request = Request::GetRecords {
            group: group.id,
            document: doc.id,
            from: size - 1,
            count: 1,
        };
        let what = |document, ask| GroupPending::Last { document, ask };
        self.ask_document(group.id, doc.id, request, what);
    }

    pub(crate) fn last_answered(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        ask: u64,
        answer: Answer,
    ) {
        let group = whole.group.id;
        if !self.is_asked(group, id, ask) {
            return;
        }
        self.link.compared.insert((group, id));
        let work = match answer {
            Answer::Records { first_seq, records } => DocWork::Compare { first_seq, records },
            _ => DocWork::Look,
        };
        self.document_work(whole, id, work);
    }

    pub(crate) fn compare_last(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        first_seq: u64,
        records: Vec<DeliveredRecord>,
    ) {
        let context = group.doc_context(&self.device);
        let outcome = doc.document.deliver(&context, first_seq, records);
        let forked = |outcome: &DeliverOutcome| {
            let mut faults = outcome.findings.iter().map(|it| it.fault);
            faults.any(|fault| fault == Fault::Fork)
        };
        if outcome.as_ref().is_ok_and(forked) {
            self.link.compared.remove(&(group.id, doc.id));
            self.document_away(group, doc, Stand::Apart, 0);
        }
    }

    /// The service's log of a document lacks what is here, or went another way.
    pub(super) fn document_away(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        stand: Stand,
        missing: u64,
    ) {
        self.close_document(group.id, doc.id);
        let newest = group.documents.get(&doc.id).map(|row| row.changed);
        let missing = Missing {
            count: missing,
            newest: newest.unwrap_or(UnixMs(0)),
        };
        self.tell_away(group.id, Some(doc.id), stand, missing);
        self.open_later(group, doc.id, NotOpen::Away);
    }

    /// The service does not know a document that is in the group's log.
    pub(crate) fn document_unknown(&mut self, group: &mut Group, doc: &mut Doc) {
        let missing = doc.document.size();
        self.document_away(group, doc, Stand::Ahead, missing);
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
        self.close_document(group.id, doc.id);
        self.open_later(group, doc.id, NotOpen::Later);
        if let DocError::MissingRoot { epoch } = error {
            self.root_missing(group, doc.id, *epoch);
        }
    }

    /// Opens a document again after a while, longer each time. All documents together are not opened again faster than a few per second.
    fn open_later(&mut self, group: &mut Group, id: DocumentId, why: NotOpen) {
        self.link.set_document(group.id, id, DocLink::Refused(why));
        let tries = group.missing.unopened.entry(id).or_default();
        let most = tries.next_ms(1_000, LONGEST_OPEN_MS);
        let delay = self.jitter(most / 2, most);
        self.open_after(group.id, id, delay);
    }

    fn open_after(&mut self, group: GroupId, id: DocumentId, delay: u64) {
        self.wake(delay, TimerKind::Document(group, id, DocTimer::Open));
    }

    /// A document is to be opened again, when those before it were.
    pub(crate) fn open_in_turn(&mut self, group: GroupId, id: DocumentId) {
        self.link.to_open.push_back((group, id));
        let next = self.link.opened_again.plus_ms(BETWEEN_OPENS_MS);
        self.wake(next.since_ms(self.now), TimerKind::NextOpen);
    }

    /// Something has come that documents may have waited for: those that could not be opened are opened again soon.
    pub(crate) fn open_again(&mut self, group: &mut Group) {
        for (id, _) in std::mem::take(&mut group.missing.unopened) {
            self.cancel_timer(TimerKind::Document(group.id, id, DocTimer::Open));
            self.open_after(group.id, id, 0);
        }
    }

    /// Asks again for a document that could not be opened.
    pub(crate) fn open_due(&mut self, whole: &mut Whole, id: DocumentId) {
        let group = whole.group.id;
        let link = self.link.document(group, id);
        if let Some(DocLink::Refused(NotOpen::Later | NotOpen::Away)) = link {
            self.close_document(group, id);
        }
        match whole.docs.get(&id) {
            Some(Slot::Loading(_)) => self.fetch_document(&whole.group, id),
            Some(Slot::Hot(_)) => {
                self.document_work(whole, id, DocWork::Timer(DocTimer::Open));
            }
            // Whoever needs it asks for it.
            None => {}
        }
    }

    fn open_refused(&mut self, whole: &mut Whole, id: DocumentId, refusal: &Refusal) {
        let Whole { group, docs } = whole;
        if *refusal == Refusal::UnknownDocument && (group.is_local(&id) || group.stand.is_away()) {
            match docs.get_mut(&id) {
                Some(Slot::Hot(_)) => return self.document_work(whole, id, DocWork::Unknown),
                Some(Slot::Loading(queue)) => {
                    let waiting = queue.drain(..).filter_map(|work| work.waiter());
                    self.reply_all(waiting, &EngineError::OutOfStep);
                }
                None => {}
            }
            return self.open_later(group, id, NotOpen::Later);
        }
        let link = DocLink::Refused(NotOpen::Later);
        self.link.set_document(group.id, id, link);
        if refusal.is_retryable() {
            let delay = self.jitter(500, 3_000);
            self.open_after(group.id, id, delay);
        } else {
            let what = FindingKind::failed(Step::OpenDocument, refusal);
            self.finding(group.id, Some(id), what, None);
            self.give_up(whole, id, &EngineError::Refused(refusal.clone()));
        }
    }

    /// This session does without a document that is not here; who waits for it is told.
    fn give_up(&mut self, whole: &mut Whole, id: DocumentId, error: &EngineError) {
        if let Some(Slot::Loading(waiting)) = whole.docs.get(&id) {
            self.close_document(whole.group.id, id);
            let waiters: Vec<CommandId> = waiting.iter().filter_map(Work::waiter).collect();
            self.reply_all(waiters, error);
            whole.docs.remove(&id);
            whole.group.set_unreadable(id);
        }
    }

    /// Every listed document is opened once on every connection, and stays open as far as memory allows.
    pub(crate) fn pump_documents(&mut self, whole: &mut Whole) {
        while let Some(id) = whole.group.kept.next_wanted() {
            let slot = whole.docs.get(&id);
            if slot.is_none() && self.documents_elsewhere + whole.docs.len() >= HOT_DOCUMENTS {
                return self.post(Post::MakeRoom(whole.group.id));
            }
            whole.group.look_at(id);
            match whole.docs.get(&id) {
                Some(Slot::Loading(_)) => self.fetch_document(&whole.group, id),
                _ => self.document_work(whole, id, DocWork::Look),
            }
        }
    }
}

impl Engine {
    /// Opens the next document that is to be opened again.
    pub(crate) fn open_next(&mut self) {
        let Some((group, id)) = self.cx.link.to_open.pop_front() else {
            return;
        };
        self.cx.link.opened_again = self.cx.now;
        if !self.cx.link.to_open.is_empty() {
            self.cx.wake(BETWEEN_OPENS_MS, TimerKind::NextOpen);
        }
        self.with_group(group, GroupWork::OpenAgain(id));
    }
}
