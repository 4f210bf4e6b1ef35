//! The group log: entries in their order, and what each changes.

use super::*;
use crate::rescue::RescueCause;

impl Cx {
    pub(crate) fn group_entries(
        &mut self,
        group: &mut Group,
        first_seq: u64,
        entries: Vec<GroupEntry>,
    ) {
        for (seq, entry) in (first_seq..).zip(entries) {
            if !self.group_entry(group, seq, &entry) {
                break;
            }
        }
    }

    /// Processes one ordered entry. False when the rest has to wait.
    pub(super) fn group_entry(&mut self, group: &mut Group, seq: u64, entry: &GroupEntry) -> bool {
        let size = group.state().size();
        if let Subscription::Live(known) | Subscription::CaughtUp(known) = &mut group.subscription {
            *known = (*known).max(seq.saturating_add(1));
        }
        if group.stand.is_away() {
            // Compared by heads, when the log is followed anew.
            return false;
        }
        if let Some(doubt) = &mut group.doubt {
            if seq == doubt.frontier.size() {
                doubt.frontier.push(entry.leaf());
            }
            self.resolve_doubt(group);
            return true;
        }
        if seq < size {
            return true;
        }
        if group.is_frozen() {
            // What follows is judged at the next start, if what was refused is taken then.
            return false;
        }
        if group.is_broken() {
            return self.entry_while_broken(group, seq, entry);
        }
        if seq > size || !group.mls.is_active() {
            if seq > size {
                self.gap_before(group, seq);
            }
            return false;
        }
        let judged = group.mls.process(entry);
        self.entry_judged(group, seq, entry, judged)
    }

    /// Entries are missing before one that came: they are asked for again. Where they are missing again, the service does not have them: the group
    /// was taken up there from a member who was further on than this device.
    fn gap_before(&mut self, group: &mut Group, seq: u64) {
        let again = group.gap.replace(seq) == Some(seq);
        if again && self.is_put_back_since(group.grown_in(None)) {
            self.come_back(group, FindingKind::LogBeginsLater, None);
            return self.go_blind(group);
        }
        group.subscription = Subscription::None;
    }

    /// Goes on with what an entry was found to be. False when the rest has to wait.
    pub(super) fn entry_judged(
        &mut self,
        group: &mut Group,
        seq: u64,
        entry: &GroupEntry,
        judged: Result<Processed, ProcessError>,
    ) -> bool {
        if judged.is_ok() {
            let epoch = group.state().epoch;
            self.keep_entry(group, seq, entry, epoch);
            group.log_grew(entry.leaf());
        }
        match judged {
            Ok(Processed::Commit(outcome)) => self.commit_processed(group, *outcome),
            Ok(Processed::Entry(body, author)) => self.entry_processed(group, body, author.device),
            Ok(Processed::Proposal { device, void: true }) if device == self.device.id() => {
                self.leave_void(group);
            }
            Ok(Processed::Proposal { device, .. }) if device == self.device.id() => {
                self.event(Event::Leaving { group: group.id });
            }
            Ok(_) => {}
            Err(error) if group.target.is_some() && !error.is_retryable() => {
                let mut frontier = group.state().frontier.clone();
                frontier.push(entry.leaf());
                group.doubt = Some(Box::new(Doubted {
                    seq,
                    entry: entry.clone(),
                    error,
                    frontier,
                }));
                self.resolve_doubt(group);
                return group.doubt.is_some();
            }
            Err(error) => {
                self.process_failed(group, seq, entry, &error);
                // What follows tells whether a way back continues this log.
                return group.is_broken() && self.entry_while_broken(group, seq, entry);
            }
        }
        group.clock_told = false;
        self.target_reached(group);
        group.mls.is_active() && !group.stand.is_away()
    }

    /// When all that was announced has come: either it goes on from what is here, and the entry is wrong; or the service shows another log.
    fn resolve_doubt(&mut self, group: &mut Group) {
        let Some(target) = group.target else {
            group.doubt = None;
            return;
        };
        let Some(doubt) = group
            .doubt
            .take_if(|doubt| doubt.frontier.size() >= target.size)
        else {
            return;
        };
        group.target = None;
        if doubt.frontier.root() != target.root {
            let stand = self.apart(group, None);
            return self.log_away(group, stand, target.size);
        }
        group.stand = Stand::InStep;
        let last = doubt.seq.saturating_add(1) == target.size;
        self.process_failed(group, doubt.seq, &doubt.entry, &doubt.error);
        if group.is_broken() {
            self.entry_while_broken(group, doubt.seq, &doubt.entry);
        }
        if !last && !group.is_frozen() {
            // What followed is asked for anew.
            group.subscription = Subscription::None;
        }
    }

    pub(super) fn process_failed(
        &mut self,
        group: &mut Group,
        seq: u64,
        entry: &GroupEntry,
        error: &ProcessError,
    ) {
        if error.is_retryable() {
            // The local clock is wrong: the entry itself is not. It comes again with the next subscription.
            if !std::mem::replace(&mut group.clock_told, true) {
                let what = FindingKind::ClockWrong {
                    cause: error.into(),
                };
                self.finding(group.id, None, what, None);
            }
            group.subscription = Subscription::None;
            self.later(group, 0);
            return;
        }
        match error {
            ProcessError::Illegal { signer, .. } => {
                self.keep_evidence(group, seq, entry, error.code(), *signer);
                let what = FindingKind::IllegalEntry {
                    cause: error.into(),
                };
                self.freeze(group, what, signer.map(Suspect::Device));
            }
            ProcessError::ReAdded => {
                self.come_back(group, FindingKind::ReAdded, None);
                // Only where no invitation comes.
                self.return_later(group, 10_000, 20_000);
            }
            ProcessError::Undecryptable { author } if *author == Some(self.device.id()) => {
                // Also where it came back before: then another life has committed since.
                self.restored.remove(&group.id);
                self.found_restored(group);
            }
            ProcessError::Undecryptable { author } => {
                self.keep_evidence(group, seq, entry, error.code(), *author);
                group.meta.garblers.extend(*author);
                let author = author.map(Suspect::Device);
                self.come_back(group, FindingKind::Undecryptable, author);
            }
            _ => {
                let cause = error.into();
                self.come_back(group, FindingKind::LostPlace { cause }, None);
            }
        }
    }

    /// Stops sealing in a group; reading goes on.
    pub(super) fn freeze(&mut self, group: &mut Group, why: FindingKind, suspect: Option<Suspect>) {
        group.membership.freeze(why.code());
        self.save_membership(group);
        self.finding(group.id, None, why, suspect);
        self.drop_intents(group, &FROZEN);
    }

    pub(super) fn commit_processed(&mut self, group: &mut Group, outcome: CommitOutcome) {
        let before: BTreeMap<DeviceId, UserId> = group
            .state()
            .roster
            .rows()
            .iter()
            .map(|row| (row.device, row.user))
            .collect();
        let users = |devices: &[DeviceId]| -> Vec<UserId> {
            let set: BTreeSet<UserId> = devices
                .iter()
                .filter_map(|device| before.get(device).copied())
                .collect();
            set.into_iter().collect()
        };
        let (added, removed) = (users(&outcome.added), users(&outcome.removed));
        self.resolve_inflight(group, &outcome);
        group.cover_due = false;
        self.cancel_timer(TimerKind::Group(group.id, GroupTimer::Cover));
        if outcome.removed_self {
            let by = outcome
                .author
                .and_then(|device| before.get(&device))
                .copied();
            // Also by another device of the same user.
            let ours = by.is_some() && by == self.device.user();
            let parting = if ours || group.intents.values().any(Intent::is_leave) {
                PartingRow::left("you left")
            } else {
                PartingRow {
                    cause: RescueCause::Removed,
                    by,
                    why: "this device was removed".to_owned(),
                }
            };
            self.lose_group(group, parting);
            return;
        }
        if let Some(secrets) = outcome.secrets.clone() {
            self.enter_epoch(group, secrets);
        }
        if outcome.own && outcome.path {
            self.leaf_renewed(group);
        } else if !outcome.own && !outcome.external {
            // A member's commit shows that its author holds the secrets of the epoch before.
            self.proven(group, outcome.epoch.saturating_sub(1));
        }
        if let Some(author) = outcome.author {
            self.note_seen(&author);
        }
        group.missing.forget();
        self.helped(group, &outcome);
        group.came_back = outcome.author.filter(|_| outcome.external);
        if outcome.external && !outcome.own {
            self.plan_wrap(group);
        }
        self.plan_info_check(group, &outcome);
        if !outcome.own && !outcome.added.is_empty() {
            // Members compare what is wrapped for joiners with what they know.
            self.ask_for_wraps(group);
        }
        if outcome.own && !outcome.removed.is_empty() {
            group.rekey(Rotation::Rekeying);
        }
        if group.state().rotating_since == group.state().epoch {
            self.rotation_begins(group, outcome.own);
        }
        self.see_own_added(group, &outcome.added);
        if !added.is_empty() || !removed.is_empty() {
            let epoch = group.state().epoch;
            self.event(Event::MembersChanged {
                group: group.id,
                epoch,
                added,
                removed,
            });
            self.match_listed(group);
        }
        self.epoch_changed(group);
        if let Some(minimum) = group.state().later_version() {
            self.park(group, minimum, outcome.author);
        }
    }

    /// The group's policy demands a later program, by a commit of this device: nothing more is judged or sealed before there is one.
    pub(super) fn park(&mut self, group: &mut Group, minimum: u16, by: Option<DeviceId>) {
        let by = by.map(Suspect::Device);
        self.freeze(group, FindingKind::NeedsUpgrade { minimum }, by);
    }

    /// The own commit is in the log, or another took its place.
    pub(super) fn resolve_inflight(&mut self, group: &mut Group, outcome: &CommitOutcome) {
        let Some(inflight) = group.inflight.take() else {
            return;
        };
        let key = keys::group_row(&group.id, keys::group::OUTBOX, b"commit");
        self.delete(key);
        let ordered = outcome.own && outcome.leaf == inflight.leaf;
        if ordered {
            self.keep_bundle(group, outcome.epoch, &inflight.bundle);
        }
        let Some(id) = inflight.intent else {
            return;
        };
        if ordered {
            self.intent_committed(group, id, outcome.epoch);
        } else if let Some(intent) = group.intents.get_mut(&id) {
            intent.busy = false;
        }
    }

    pub(super) fn entry_processed(&mut self, group: &mut Group, body: EntryBody, author: DeviceId) {
        match body {
            EntryBody::DocumentCreated { document, .. } => {
                group.note_document(&document);
                self.document_created(group, document);
                if document == DocumentId::directory(&group.id) {
                    group.look_at_creating();
                }
                self.event(Event::DocumentListed {
                    group: group.id,
                    document,
                });
            }
            EntryBody::DocumentClosed { document, reason } => {
                if reason == CloseReason::Lost && group.kept.is_due(&document) {
                    let mut lost = group.meta.lost.clone();
                    lost.insert(document);
                    self.set_lost(group, lost);
                }
                group.note_document(&document);
                if reason == CloseReason::Lost {
                    let by = Some(Suspect::Device(author));
                    self.finding(group.id, Some(document), FindingKind::DocumentLost, by);
                }
                self.event(Event::DocumentListed {
                    group: group.id,
                    document,
                });
                let by = Some(author);
                self.post_group(group.id, GroupWork::Closed { document, by });
            }
            EntryBody::DocumentReopened { document } => {
                // Own edits have a place in it again, and what was changed meanwhile elsewhere is asked for.
                group.look_again(&document);
                self.event(Event::DocumentListed {
                    group: group.id,
                    document,
                });
            }
            EntryBody::RecordVoided { document, record } => {
                self.post_group(group.id, GroupWork::Voided);
                let row = group.documents.get(&document);
                let stuck = row.and_then(|row| row.stuck.as_ref());
                if stuck.is_some_and(|stuck| stuck.is_at(&record)) {
                    self.post_group(group.id, GroupWork::Freed(document));
                }
            }
            EntryBody::RotationComplete { epoch } => self.rotation_completed(group, epoch, author),
        }
        self.entry_intents(group, &body);
    }

    /// Nothing that is stored of a group stays, but its row in the index.
    pub(crate) fn drop_group_rows(
        &mut self,
        id: &GroupId,
        documents: &BTreeMap<DocumentId, DocRow>,
    ) {
        let writes = &mut self.out.writes;
        writes.delete_prefix(keys::group_prefix(id));
        writes.delete_prefix(keys::documents_prefix(id));
        writes.delete_prefix(keys::kept_of_group(id));
        let kept = documents.values().map(|row| row.kept).sum();
        self.kept_changed(kept, 0);
        self.forget_unsent_group(id);
        self.forget_pauses(*id);
        self.place_gone(*id, None);
    }

    /// The rows of a group that this device is out of go, with whoever waits for something in it.
    pub(super) fn wind_up(&mut self, whole: &mut Whole) {
        let group = &mut whole.group;
        self.drop_intents(group, &LOST);
        let id = group.id;
        self.forget_documents(whole);
        self.drop_group_rows(&id, &whole.group.documents);
    }
}
