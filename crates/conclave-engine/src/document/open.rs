//! Opening documents: from the store, from the service, on every new connection.

use conclave_doc::{Session, Standing};
use conclave_proto::refusal::RecordFault;

use super::*;
use crate::service::Shown;

/// Longest pause between two tries to open a document, in milliseconds.
const LONGEST_OPEN_MS: u64 = 5 * 60 * 1000;
/// So many records that a document lacks are taken in together, which takes one engine call: after a pause, or after days.
const GATHER_RECORDS: u64 = 64;
/// Between any two tries to open documents again, in milliseconds.
const BETWEEN_OPENS_MS: u64 = 100;

impl Cx {
    pub(crate) fn document_loaded(&mut self, whole: &mut Whole, id: DocumentId, rows: Vec<Row>) {
        let Some(queue) = whole.docs.take_loading(&id) else {
            return;
        };
        let skip = 1 + GroupId::LEN + DocumentId::LEN;
        let rows = rows
            .into_iter()
            .map(|(key, value)| (key.get(skip..).unwrap_or_default().to_vec(), value))
            .collect();
        let seed = self.seed();
        self.make_document(whole, id, Making::Load { rows, seed }, queue);
    }

    /// A document was read from its rows.
    pub(super) fn loaded(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        result: Result<Box<Document>, DocError>,
        queue: Vec<DocWork>,
    ) {
        let group = whole.group.id;
        match result {
            Ok(document) => {
                self.ended(About::Document(group, id), End::Loaded);
                let mut doc = Box::new(Doc::new(id, document));
                doc.notes.size = doc.document.size();
                whole.docs.insert(id, DocSlot::Hot(doc));
                let mut work = vec![DocWork::Voided];
                work.extend(queue);
                self.run_document(whole, id, None, work);
            }
            Err(error) => {
                // The rows stay as they are: they may hold edits. Only this session does without the document.
                let what = FindingKind::failed(Step::LoadDocument, &error);
                self.finding(group, Some(id), what, None);
                let error = EngineError::Doc(error);
                let waiters: Vec<CommandId> = queue.iter().filter_map(Awaited::waiter).collect();
                self.reply_all(waiters, &error);
                whole.set_unreadable(id, error);
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

    pub(crate) fn ask_open(
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
            self.merge_refused(whole.group.id, id);
            // It was let go of meanwhile. Where it was asked for again, the channel is that one's too: a document has the same each time.
            let link = self.link.document(whole.group.id, id);
            let wanted = matches!(link, Some(DocLink::Asking { .. } | DocLink::Open(_)));
            if let Answer::Opened(opened) = answer
                && !wanted
            {
                self.close_channel(opened.channel.0);
            }
            return;
        }
        match answer {
            Answer::Opened(opened) => self.opened(whole, id, ask, opened),
            Answer::Refused(refusal) => {
                self.merge_refused(whole.group.id, id);
                self.open_refused(whole, id, &refusal);
            }
            _ => {}
        }
    }

    fn opened(&mut self, whole: &mut Whole, id: DocumentId, ask: u64, opened: OpenedDocument) {
        let own = self.device.instance();
        let (instance, is_here) = match whole.docs.get(&id) {
            Some(DocSlot::Hot(doc)) => (doc.document.instance(), true),
            Some(DocSlot::Away(away)) => (away.instance, true),
            _ => (own, false),
        };
        if !is_here {
            self.head_shown(&mut whole.group, Some(id), &opened.signed);
            self.report(&whole.group, Some(id), opened.head().size);
        }
        let anew = self.merging_opened(whole.group.id, id, (ask, opened.channel.0));
        let instance = anew.unwrap_or(instance);
        // From now on records may come.
        self.note_opened(whole.group.id, id, instance, &opened);
        let opened = Box::new(opened);
        if is_here {
            return self.document_work(whole, id, DocWork::Opened(opened));
        }
        let queue = whole.docs.take_loading(&id).unwrap_or_default();
        let making = Making::Open {
            opened,
            group: whole.group.id,
            id,
            instance,
            seed: self.seed(),
        };
        self.make_document(whole, id, making, queue);
    }

    /// A document was opened from the service's answer, or was not.
    pub(super) fn opened_first(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        result: Result<(Box<Document>, Box<DeliverOutcome>), DocError>,
        (channel, base): (u64, Option<Base>),
        queue: Vec<DocWork>,
    ) {
        let group = &mut whole.group;
        match result {
            Ok((document, outcome)) => {
                self.ended(About::Document(group.id, id), End::Loaded);
                let own = self.device.id();
                if let Some(base) = base.filter(|base| base.author.device != own) {
                    self.root_opened(group, base.epoch, base.author.device);
                    self.proven(group, base.epoch);
                }
                let mut doc = Doc::new(id, document);
                let target = self.link.open(group.id, id).map_or(0, |open| open.target);
                if target.saturating_sub(doc.document.size()) >= GATHER_RECORDS {
                    doc.document.gather();
                }
                // What may be left of a former life of the document is no part of its log as it begins here.
                let left = keys::kept_prefix(&group.id, &id);
                self.out.writes.delete_prefix(left);
                whole.docs.insert(id, DocSlot::Hot(Box::new(doc)));
                let finished = Finished::Delivered(Ok(*outcome), Then::Nothing);
                self.run_document(whole, id, Some(finished), queue);
            }
            Err(error) => {
                let is_open = self.is_open_on(group.id, id, channel);
                self.close_document(group.id, id);
                let error = self.judge_base(group, base, error);
                let retries = error.is_retryable() || !is_open;
                let mut queue = queue;
                queue.retain(|work| !work.is_of_channel());
                whole.docs.insert(id, DocSlot::Loading(queue));
                if retries {
                    // Mostly a root that has not arrived yet: again after a while.
                    let group = &mut whole.group;
                    self.open_later(group, id, NotOpen::Later);
                    if let DocError::MissingRoot { epoch } = error {
                        self.root_missing(group, id, epoch);
                    }
                } else {
                    self.unreadable(whole.group.id, id, &error);
                    self.give_up(whole, id, &EngineError::Doc(error));
                }
            }
        }
    }

    fn note_opened(
        &mut self,
        group: GroupId,
        id: DocumentId,
        instance: InstanceId,
        opened: &OpenedDocument,
    ) {
        let device = self.device.id();
        let session = Session::new(Author { device, instance }, opened);
        let open = Open::new(opened.channel.0, opened.head().size, session);
        let link = DocLink::Open(Box::new(open));
        self.link.set_document(group, id, link);
    }

    /// Whether a document is open on this channel.
    pub(crate) fn is_open_on(&self, group: GroupId, id: DocumentId, channel: u64) -> bool {
        let open = self.link.open(group, id);
        open.is_some_and(|open| open.channel == channel)
    }

    /// The service has opened a document that is here.
    pub(crate) fn reopened(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        opened: Box<OpenedDocument>,
    ) {
        if self.begin_anew(group, doc, &opened) {
            return;
        }
        let open = self.link.open(group.id, doc.id);
        let Some(open) = open.filter(|open| open.channel == opened.channel.0) else {
            // It was closed meanwhile.
            return;
        };
        if open.session.author().instance != doc.document.instance() {
            // It writes as another one by now, and is opened anew.
            return self.close_document(group.id, doc.id);
        }
        if !self.compare_log(group, doc, &opened) {
            if opened.head().size.saturating_sub(doc.document.size()) >= GATHER_RECORDS {
                doc.document.gather();
            }
            doc.errand = Some(Errand::Opened(opened, self.seed()));
        }
    }

    /// Compares the service's log with the own one. True where nothing may be sent: what is here stays, off the connection.
    fn compare_log(&mut self, group: &mut Group, doc: &mut Doc, opened: &OpenedDocument) -> bool {
        let log = Some(doc.id);
        let standing = doc.document.standing(opened);
        let shown = match standing {
            Standing::Apart => self.other_head_shown(group, log, &opened.signed),
            _ => self.head_shown(group, log, &opened.signed),
        };
        let signed = (shown != Shown::Unsigned).then_some(&opened.signed);
        self.report(group, log, opened.head().size);
        let (stand, missing) = match standing {
            _ if shown == Shown::Contradicts => (Stand::Contradicted, 0),
            Standing::InStep => (Stand::InStep, 0),
            Standing::Behind { is_gap: false } => (Stand::Behind, 0),
            // Neither is a lie of the other.
            Standing::Behind { is_gap: true } => (self.apart(group, log), 0),
            Standing::Ahead { missing } if self.lost_for_good(group, doc, &opened.losses) => {
                (Stand::Merging, missing)
            }
            Standing::Ahead { missing } => (self.shorter(group, log, opened.head().size), missing),
            Standing::Apart => {
                let stand = self.forked(group, log, signed, &*doc.document);
                if stand == Stand::Merging {
                    self.lost_for_good(group, doc, &opened.losses);
                }
                (stand, 0)
            }
        };
        if stand.is_away() {
            self.document_away(group, doc, stand, missing);
            // The group's log comes first: it says who may have written what is missing.
            if stand == Stand::Returning && !group.stand.is_away() {
                let there = There::Size(opened.head().size);
                self.give_back(group.id, log, there);
            }
        } else {
            if stand == Stand::InStep {
                // Of one that has more, that is known when it is here.
                self.note_in_step(group, log);
            }
            self.tell_in_step(group.id, Some(doc.id));
        }
        stand.is_away()
    }

    /// Asks the service for a document that is here. Where there is doubt, for the last record that is here first: the service's log has it at the
    /// same place if it goes on from what is here.
    pub(super) fn look(&mut self, group: &Group, doc: &mut Doc) {
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

    /// Whether the last record that is here stands in the service's log too.
    pub(super) fn compared(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        outcome: Result<DeliverOutcome, DocError>,
    ) {
        let forked = |outcome: &DeliverOutcome| {
            let mut faults = outcome.findings.iter().map(|it| it.fault);
            faults.any(|fault| fault == Fault::Fork)
        };
        if outcome.as_ref().is_ok_and(forked) {
            self.link.compared.remove(&(group.id, doc.id));
            let stand = self.apart(group, Some(doc.id));
            self.document_away(group, doc, stand, 0);
        }
    }

    /// The service's log of a document lacks what is here, or went another way.
    pub(crate) fn document_away(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        stand: Stand,
        missing: u64,
    ) {
        if stand == Stand::Merging {
            return self.merge_in_time(group, doc.id);
        }
        self.close_document(group.id, doc.id);
        let newest = group.documents.get(&doc.id).map(|row| row.changed);
        let missing = Missing {
            count: missing,
            newest: newest.unwrap_or(UnixMs(0)),
        };
        self.tell_away(group.id, Some(doc.id), stand, missing);
        if group.stand.is_away() && group.stand != Stand::Returning {
            // Not before its group's log, and that does not come.
            self.link.not_taken.insert((group.id, Some(doc.id)));
        }
        self.open_later(group, doc.id, NotOpen::Away);
    }

    /// A document is to begin anew: now, or later.
    fn merge_in_time(&mut self, group: &mut Group, id: DocumentId) {
        // The group's log comes first: it says who may have written what.
        // Where a new beginning leads to the same again, the next one waits for the next look.
        let key = (group.id, id);
        let at_once = self.link.begun_anew.insert(key);
        if !at_once {
            self.link.begun_anew.remove(&key);
        }
        if at_once && !group.stand.is_away() {
            return self.merge(group.id, id);
        }
        self.close_document(group.id, id);
        self.open_later(group, id, NotOpen::Later);
    }

    /// The service goes on without what is here of a document.
    pub(crate) fn document_went_on(&mut self, group: &mut Group, id: DocumentId) {
        if self.link.is_away(group.id, id) {
            self.merge_in_time(group, id);
        }
    }

    /// The service does not know a document that is in the group's log.
    pub(crate) fn document_unknown(&mut self, group: &mut Group, doc: &mut Doc) {
        let missing = doc.document.size();
        let stand = self.shorter(group, Some(doc.id), 0);
        self.document_away(group, doc, stand, missing);
        if stand == Stand::Returning && !group.stand.is_away() {
            self.give_back(group.id, Some(doc.id), There::Size(0));
        }
    }

    /// The snapshot does not open. Where the root is on somebody's word only, that word goes before the snapshot's author's.
    pub(crate) fn judge_base(
        &mut self,
        group: &mut Group,
        base: Option<Base>,
        error: DocError,
    ) -> DocError {
        let fault = RecordFault::Commitment;
        match base {
            Some(Base { epoch, author })
                if error == DocError::BadSnapshot { author, fault }
                    && self.root_doubted(group, epoch) =>
            {
                DocError::MissingRoot { epoch }
            }
            _ => error,
        }
    }

    /// What others wrote into a document cannot be read. Who signed what is wrong is named.
    pub(crate) fn unreadable(&mut self, group: GroupId, id: DocumentId, error: &DocError) {
        let suspect = match error {
            DocError::BadSnapshot { author, .. } => Some(author.device.into()),
            _ => None,
        };
        let what = FindingKind::failed(Step::ReadDocument, error);
        self.finding(group, Some(id), what, suspect);
    }

    /// What the service has further on cannot be opened yet. What is here stays as it is, off the connection, until the next try.
    pub(crate) fn opened_too_early(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        channel: u64,
        error: &DocError,
    ) {
        if !self.is_open_on(group.id, doc.id, channel) {
            // It was closed meanwhile, and is asked for again.
            return;
        }
        self.close_document(group.id, doc.id);
        self.open_later(group, doc.id, NotOpen::Later);
        if let DocError::MissingRoot { epoch } = error {
            self.root_missing(group, doc.id, *epoch);
        }
    }

    /// Opens a document again after a while, longer each time. All documents together are not opened again faster than a few per second.
    pub(crate) fn open_later(&mut self, group: &mut Group, id: DocumentId, why: NotOpen) {
        if !self.link.online {
            // A new connection asks anew.
            return;
        }
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
            Some(DocSlot::Loading(_)) => self.fetch_document(&whole.group, id),
            Some(DocSlot::Hot(_) | DocSlot::Away(_)) => {
                self.document_work(whole, id, DocWork::Timer(DocTimer::Open));
            }
            // Whoever needs it asks for it.
            Some(DocSlot::Unreadable(_)) | None => {}
        }
    }

    fn open_refused(&mut self, whole: &mut Whole, id: DocumentId, refusal: &Refusal) {
        let group = &mut whole.group;
        let away = group.stand.is_away();
        let lost = match refusal {
            Refusal::UnknownDocument | Refusal::Recovering { .. } => away || group.is_local(&id),
            // It lacks what made this device a member.
            Refusal::UnknownGroup => away,
            _ => false,
        };
        if lost {
            if let Some(DocSlot::Hot(_) | DocSlot::Away(_)) = whole.docs.get(&id) {
                return self.document_work(whole, id, DocWork::Unknown);
            }
            if let Some(queue) = whole.docs.queue_mut(&id) {
                let waiting = queue.drain(..).filter_map(|work| work.waiter());
                self.reply_all(waiting, &EngineError::OutOfStep);
            }
            return self.open_later(group, id, NotOpen::Later);
        }
        let link = DocLink::Refused(NotOpen::Later);
        self.link.set_document(group.id, id, link);
        if refusal.is_retryable() {
            let delay = self.jitter_after(refusal, 500, 3_000);
            self.open_after(group.id, id, delay);
        } else {
            let what = FindingKind::failed(Step::OpenDocument, refusal);
            self.finding(group.id, Some(id), what, None);
            self.give_up(whole, id, &EngineError::Refused(refusal.clone()));
        }
    }

    /// This session does without a document that is not here; who waits for it is told.
    pub(crate) fn give_up(&mut self, whole: &mut Whole, id: DocumentId, error: &EngineError) {
        if let Some(waiting) = whole.docs.take_loading(&id) {
            self.close_document(whole.group.id, id);
            let waiters: Vec<CommandId> = waiting.iter().filter_map(Awaited::waiter).collect();
            self.reply_all(waiters, error);
            whole.set_unreadable(id, error.clone());
        }
    }

    /// Every listed document is opened once on every connection, and stays open as far as memory allows.
    pub(crate) fn pump_documents(&mut self, whole: &mut Whole) {
        while let Some(id) = whole.group.kept.next_wanted() {
            let slot = whole.docs.get(&id);
            let here = self.documents_elsewhere + whole.docs.in_memory();
            if slot.is_none() && here >= self.hot_documents {
                return self.post(Post::MakeRoom(whole.group.id));
            }
            whole.group.look_at(id);
            self.open_for_keys(whole, id);
            match whole.docs.get(&id) {
                // There is nothing to ask for.
                None if self.is_receive_paused(whole.group.id, id) => {}
                Some(DocSlot::Loading(_)) => self.fetch_document(&whole.group, id),
                Some(DocSlot::Unreadable(_)) => {}
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
