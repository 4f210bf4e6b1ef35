//! What the service delivers, and what a delivery asks for.

use super::*;

/// Longest pause between two questions for the same records, in milliseconds.
const LONGEST_FETCH_MS: u64 = 64_000;

impl Cx {
    pub(crate) fn deliver(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        first_seq: u64,
        records: Vec<DeliveredRecord>,
    ) {
        let end = first_seq.saturating_add(records.len() as u64);
        if let Some(open) = self.link.open_mut(group.id, doc.id) {
            open.target = open.target.max(end);
        }
        doc.take_records(first_seq, records, Then::Nothing);
    }

    /// What follows from an errand that is done.
    pub(super) fn finish_errand(&mut self, group: &mut Group, doc: &mut Doc, finished: Finished) {
        match finished {
            Finished::Delivered(outcome, then) => {
                self.taken_in(group, doc, outcome, then);
                self.tell_progress(group.id, doc);
            }
            Finished::Checked(judged) => self.checked(group, doc, judged),
            Finished::Prepared(prepared, Purpose::Turn) => {
                self.put_snapshot(group, doc, prepared);
            }
            Finished::Prepared(prepared, Purpose::Creation) => {
                self.put_creation(group, doc, prepared);
            }
            Finished::Lightened(outcome) => {
                self.delivered(group, doc, outcome);
                self.settle_document(group, doc);
            }
            Finished::Edited(id, result) => {
                let result = self.edited(group, doc, result);
                self.reply(id, result.map(|()| Reply::Done));
            }
            Finished::Blamed(id, blame) => self.blamed(group, id, blame),
            Finished::Logged(id, page) => self.logged(group, id, page),
            Finished::ToldChanges(id, changed) => self.told_changes(id, changed),
            Finished::Viewed(id, result) => {
                self.reply(id, result.map(|()| Reply::Done).map_err(plain));
            }
        }
    }

    /// Tells how far a document is on the way into step with the service, where that takes long.
    fn tell_progress(&mut self, group: GroupId, doc: &mut Doc) {
        let Some(target) = self.link.open(group, doc.id).map(|open| open.target) else {
            // It goes on when it is opened again.
            return;
        };
        let size = doc.document.size();
        if let Some((done, total)) = doc.notes.progress.follow(size, target, self.now) {
            self.event(Event::DocumentProgress {
                group,
                document: doc.id,
                done,
                total,
            });
        }
    }

    fn taken_in(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        outcome: Result<DeliverOutcome, DocError>,
        then: Then,
    ) {
        match then {
            Then::Nothing => self.delivered(group, doc, outcome),
            Then::Fetched { before } => {
                self.delivered(group, doc, outcome);
                self.pace_fetching(group, doc, before);
            }
            Then::Acked => {
                self.delivered(group, doc, outcome);
                let pending = doc.document.pending_count();
                self.event(Event::Acknowledged {
                    group: group.id,
                    document: doc.id,
                    pending,
                });
            }
            Then::Refused(what, refusal) => {
                if outcome.is_ok() {
                    self.after_refusal(group, doc, what, &refusal);
                }
                self.delivered(group, doc, outcome);
            }
            Then::Opened { channel, base } => {
                match outcome.map_err(|error| self.judge_base(group, base, error)) {
                    Err(error) if error.is_retryable() => {
                        self.opened_too_early(group, doc, channel, &error);
                    }
                    outcome => self.delivered(group, doc, outcome),
                }
            }
            Then::Merged {
                channel,
                base,
                signed,
            } => self.has_begun_anew(group, doc, outcome, (channel, base, *signed)),
            Then::SetAside { before } => self.set_aside_done(group, doc, before, outcome),
            Then::Compared => self.compared(group, doc, outcome),
        }
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
                self.unreadable(group.id, doc.id, &error);
                doc.reread = Some(Reread::Failed);
                return;
            }
        };
        if self.judge_roots(group, doc, &outcome) {
            doc.reread = Some(Reread::FalseRoot);
            return;
        }
        let unlikely = outcome
            .findings
            .iter()
            .any(|finding| finding.suspect.service);
        let key = (group.id, doc.id);
        let is_open = self.link.open(group.id, doc.id).is_some();
        if unlikely && is_open && !self.link.compared.contains(&key) {
            // An honest service orders nothing of the kind: perhaps its log is another one. What is stored counts until that is known.
            self.link.doubted.insert(key);
            doc.reread = Some(Reread::Unlikely);
            return;
        }
        let parts = [
            (RescueCause::Refused, &outcome.lost),
            (RescueCause::NotCarried, &outcome.uncarried),
        ];
        for (cause, lost) in parts {
            if !lost.is_empty() && !self.keep_lost(group, doc.id, cause, lost.clone()) {
                // What is stored still holds them.
                doc.reread = Some(Reread::NoRoom);
                return;
            }
        }
        for finding in &outcome.findings {
            // Told once the service's log was compared with what is here.
            if matches!(finding.fault, Fault::Fork | Fault::Rollback) {
                continue;
            }
            let author = finding.suspect.author;
            let service = finding.suspect.service.then_some(Suspect::Service);
            let suspect = author.map(|author| author.device.into()).or(service);
            let what = FindingKind::record(&finding.fault, finding.seq);
            self.finding(group.id, Some(doc.id), what, suspect);
        }
        let fault = |fault| outcome.findings.iter().any(|it| it.fault == fault);
        if fault(Fault::Fork) {
            let stand = self.apart(group, Some(doc.id));
            self.document_away(group, doc, stand, 0);
        } else if fault(Fault::Rollback) {
            // It is opened again, and then compared.
            self.close_document(group.id, doc.id);
        }
        // What was read again may have changed anywhere: then nobody is named for it.
        if !outcome.changes.is_empty() || outcome.rebuilt {
            let changes = outcome
                .changes
                .iter()
                .map(|change| self.change(change))
                .collect();
            if doc.id == DocumentId::directory(&group.id) {
                group.directory.changed(&mut doc.document);
            }
            self.event(Event::DocumentChanged {
                group: group.id,
                document: doc.id,
                changes,
            });
        }
        if let Some(epoch) = outcome.needs_root {
            self.root_missing(group, doc.id, epoch);
        } else {
            self.root_found(group, doc.id);
        }
        let aside = !doc.document.set_aside_records().is_empty();
        self.note_aside(group, doc.id, aside);
        let own = self.device.id();
        // A snapshot in the log was not opened here; what was opened was sealed by somebody who holds the secrets of its epoch.
        let opened = outcome.changes.iter().filter(|change| {
            change.sealed_by().device != own && change.kind != conclave_doc::ChangeKind::Snapshot
        });
        if let Some(epoch) = opened.map(|change| change.epoch).max() {
            self.proven(group, epoch);
        }
        if outcome.restored {
            self.found_restored(group);
        }
        if outcome.refused_own {
            let what = FindingKind::OwnEditRewritten;
            self.finding(group.id, Some(doc.id), what, None);
        }
        if outcome.unknown_verdict.is_some() {
            self.tell_newer_program(group, doc);
        }
        if outcome.waits_for_cost {
            let what = match doc.document.is_too_costly() {
                true => FindingKind::EditsTooCostly,
                false => FindingKind::EditsWait,
            };
            self.finding(group.id, Some(doc.id), what, None);
        }
        if let Some((_, Blocked::Whole { first_seq, count })) = outcome.blocked {
            self.fetch_records(group.id, doc, first_seq, count);
        }
        if let Some((from, to)) = outcome.gap {
            let count = u32::try_from(to.saturating_sub(from)).unwrap_or(u32::MAX);
            self.fetch_records(group.id, doc, from, count);
        }
        if outcome.reopen {
            self.close_document(group.id, doc.id);
        }
        let asked = self.link.document(group.id, doc.id);
        let asked = matches!(asked, Some(DocLink::Asking { .. }));
        if matches!(outcome.blocked, Some((_, Blocked::Base))) && !asked {
            // The service keeps what is missing by hash only: it begins at the active snapshot.
            self.close_document(group.id, doc.id);
            // A service that says so again and again is asked less and less often.
            if self.link.from_base.insert((group.id, doc.id)) {
                self.ask_open(group.id, doc.id, doc.document.instance(), None);
            } else {
                self.open_later(group, doc.id, NotOpen::Later);
            }
        }
    }

    /// Asks for records whole, one request at a time; what is still missing then shows again.
    pub(super) fn fetch_records(&mut self, group: GroupId, doc: &mut Doc, from: u64, count: u32) {
        let document = doc.id;
        let Some(open) = self.link.open_mut(group, document) else {
            return;
        };
        if open.fetch.asked {
            return;
        }
        if self.now < open.fetch.after {
            let at = open.fetch.after;
            return self.wake_at(at, TimerKind::Document(group, document, DocTimer::Fetch));
        }
        open.fetch.asked = true;
        let count = count.min(FETCH_RECORDS);
        let request = Request::GetRecords {
            group,
            document,
            from,
            count,
        };
        let what = Pending::Document(group, document, DocPending::Records);
        self.request(request, what);
    }

    pub(crate) fn records_answered(&mut self, group: &mut Group, doc: &mut Doc, answer: Answer) {
        if let Some(open) = self.link.open_mut(group.id, doc.id) {
            open.fetch.asked = false;
        }
        let before = doc.document.size();
        match answer {
            Answer::Records { first_seq, records } => {
                doc.take_records(first_seq, records, Then::Fetched { before });
            }
            _ => self.pace_fetching(group, doc, before),
        }
    }

    /// After an answer that moved nothing the service is left alone for a while, longer each time; then the document says again what it
    /// lacks.
    fn pace_fetching(&mut self, group: &Group, doc: &mut Doc, before: u64) {
        let Some(open) = self.link.open_mut(group.id, doc.id) else {
            return;
        };
        if doc.document.size() > before {
            open.fetch.failures.reset();
            return;
        }
        let delay = open.fetch.failures.next_ms(250, LONGEST_FETCH_MS);
        open.fetch.after = self.now.plus_ms(delay);
        let fetch = TimerKind::Document(group.id, doc.id, DocTimer::Fetch);
        self.wake(delay, fetch);
    }

    pub(super) fn change(&self, change: &Change) -> ChangeInfo {
        ChangeInfo {
            user: change.user,
            device: change.author.device,
            name: self.name_of(&change.user),
            carried_by: change.carried_by.map(|(author, user)| Carrier {
                user,
                device: author.device,
                name: self.name_of(&user),
            }),
            seq: change.seq,
        }
    }

    pub(crate) fn acked(
        &mut self,
        group: &Group,
        doc: &mut Doc,
        next_clock: u64,
        first_seq: u64,
        count: u64,
    ) {
        let Some(open) = self.link.open_mut(group.id, doc.id) else {
            return;
        };
        open.target = open.target.max(first_seq.saturating_add(count));
        let session = &mut open.session;
        let begun = doc
            .document
            .note_acked(session, next_clock, first_seq, count);
        doc.errand = Some(Errand::GoOn(Box::new(begun), Then::Acked));
    }

    /// A new epoch: documents open what waited for it, own edits are sealed anew.
    pub(crate) fn epoch_changed(&mut self, group: &mut Group) {
        self.intents_epoch_changed(group);
        self.post_group(group.id, GroupWork::RetryDocuments);
        self.roots_epoch_changed(group);
    }
}

impl Doc {
    /// Records are to be taken in.
    pub(crate) fn take_records(
        &mut self,
        first_seq: u64,
        records: Vec<DeliveredRecord>,
        then: Then,
    ) {
        self.notes.note_epochs(first_seq, &records);
        self.errand = Some(Errand::Deliver {
            first_seq,
            records,
            then,
        });
    }

    /// What waited for an epoch or a root is to be tried again.
    pub(crate) fn retry(&mut self) {
        self.errand = Some(Errand::GoOn(Box::default(), Then::Nothing));
    }
}

/// What goes wrong with an application's closure is an error of the CRDT.
pub(super) fn plain(error: DocError) -> EngineError {
    match error {
        DocError::Crdt(error) => EngineError::Crdt(error),
        error => EngineError::Doc(error),
    }
}
