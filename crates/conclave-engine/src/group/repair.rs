//! Coming back. A device that cannot follow its group's log any more (a commit that nobody can decrypt, a restored backup, lost MLS rows)
//! makes an external commit on scratch state. The scratch state takes the place of the old one when the log has the commit, never before;
//! until then the old state is read, edits are kept, and nothing is sealed. What cannot come back by itself asks to be added again, and tells
//! its user.

use conclave_mls::{CommitInputs, RejoinOffer};
use conclave_proto::frame::{JoinState, Plea};
use conclave_proto::merkle::Frontier;
use conclave_proto::{CommitId, Head};

use super::*;

/// Definite refusals after which the device asks to be added again.
const REFUSALS: u32 = 3;
/// Longest pause between two tries, in milliseconds.
pub(super) const LONGEST_PAUSE_MS: u64 = 5 * 60 * 1000;
/// Rows of a return in the outbox.
const RETURN_ROW: &[u8] = b"return";

/// What a device that is coming back has to be compared with: the log that follows the state it knows.
struct Shadow {
    base: u64,
    frontier: Frontier,
    roots: Vec<Hash>,
}

impl Shadow {
    fn from(state: &GroupState) -> Self {
        let frontier = state.frontier.clone();
        Self {
            base: frontier.size(),
            roots: vec![frontier.root()],
            frontier,
        }
    }

    fn push(&mut self, entry: &GroupEntry) {
        self.frontier.push(entry.leaf());
        self.roots.push(self.frontier.root());
    }

    fn has_prefix(&self, head: &Head) -> bool {
        let at = head.size.checked_sub(self.base);
        let at = at.and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.roots.get(at)) == Some(&head.root)
    }
}

/// An external commit on its way.
struct Scratch {
    mls: ClientGroup,
    sent: bool,
}

/// What is stored of an external commit beside its scratch state.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ReturnRow {
    bundle: Bytes,
    leaf: Hash,
    /// Whether the device had a state to compare the group with.
    known: bool,
}

/// Where the way back stands.
#[derive(Default)]
pub(super) struct Returning {
    asked: bool,
    refusals: u32,
    tries: u32,
    told: Option<&'static str>,
    pub(super) bundle: Option<ReturnRow>,
    scratch: Option<Box<Scratch>>,
    shadow: Option<Shadow>,
}

impl Returning {
    /// Reads scratch state. What cannot be read is made again.
    pub(super) fn load(&mut self, rows: Vec<Row>) {
        if self.bundle.is_none() || rows.is_empty() {
            self.bundle = None;
            return;
        }
        match ClientGroup::load(rows) {
            Ok(mls) => self.scratch = Some(Box::new(Scratch { mls, sent: false })),
            Err(_) => self.bundle = None,
        }
    }

    pub(super) fn disconnected(&mut self) {
        self.asked = false;
        if let Some(scratch) = &mut self.scratch {
            scratch.sent = false;
        }
    }
}

impl Group {
    /// Whether this device has to come back before it seals anything more.
    pub(crate) fn is_broken(&self) -> bool {
        self.meta.broken.is_some()
    }

    /// Why this device has to come back.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.meta.broken.as_deref()
    }

    /// Whether this device came back with nothing to compare the group with, and nobody has shown yet that it is the right one.
    pub(crate) fn is_unproven(&self) -> bool {
        self.meta.unproven.is_some()
    }
}

impl Engine {
    /// This device cannot follow the group any more: it comes back by an external commit. Tells who is probably to blame.
    pub(crate) fn come_back(
        &mut self,
        group: &mut Group,
        code: &str,
        suspect: Option<DeviceId>,
        text: &str,
    ) {
        if group.is_broken() || group.meta.frozen.is_some() {
            return;
        }
        group.meta.broken = Some(code.to_owned());
        self.broken.insert(group.id);
        self.save_meta(group);
        self.finding(group.id, None, code, suspect, text);
        group.returning = Returning::default();
        // All members may be in the same place: they do not come at once.
        let members = group.state().current_rows().count() as u64;
        self.return_later(group, 50, 200 * members.clamp(1, 50));
    }

    fn return_later(&mut self, group: &mut Group, from_ms: u64, to_ms: u64) {
        let delay = self.jitter(from_ms, to_ms);
        group.retry_at = self.now.plus_ms(delay);
        self.cancel_timer(TimerKind::Pump(group.id));
        self.wake(delay, TimerKind::Pump(group.id));
    }

    /// Waits longer after each try that came to nothing.
    fn return_much_later(&mut self, group: &mut Group) {
        let most = (1_000_u64 << group.returning.tries.min(10)).min(LONGEST_PAUSE_MS);
        group.returning.tries = group.returning.tries.saturating_add(1);
        self.return_later(group, most / 2, most);
    }

    /// Asks for what an external commit builds on, or sends the one that is ready.
    pub(super) fn pump_return(&mut self, group: &mut Group) {
        let id = group.id;
        let returning = &mut group.returning;
        if returning.asked {
            return;
        }
        let (Some(scratch), Some(row)) = (&mut returning.scratch, &returning.bundle) else {
            returning.asked = true;
            self.request(
                Request::GetGroupInfo { group: id },
                Box::new(move |engine, answer| {
                    engine.with_group(
                        id,
                        Box::new(move |engine, group| engine.offered(group, answer)),
                    );
                }),
            );
            return;
        };
        if scratch.sent {
            return;
        }
        let max = limits::FRAME_BYTES;
        let Ok(bundle) = decode::<CommitBundle>("commit", row.bundle.as_slice(), max) else {
            return self.drop_scratch(group);
        };
        scratch.sent = true;
        let leaf = row.leaf;
        self.request(
            Request::Commit(bundle),
            Box::new(move |engine, answer| {
                engine.with_group(
                    id,
                    Box::new(move |engine, group| engine.return_answered(group, leaf, answer)),
                );
            }),
        );
    }

    fn offered(&mut self, group: &mut Group, answer: Answer) {
        group.returning.asked = false;
        if !group.is_broken() || group.returning.scratch.is_some() {
            return;
        }
        match answer {
            Answer::GroupInfo {
                group_info,
                tree,
                state,
                ..
            } => self.prepare_return(group, group_info.as_slice(), tree.as_slice(), &state),
            Answer::Refused(refusal) if refusal.is_retryable() => {
                self.return_later(group, 500, 3_000);
            }
            Answer::Refused(_) => {
                self.tell_return(
                    group,
                    "group.cannot_return",
                    "the service says that this device is no member of the group any more; what is here can still be read",
                );
                self.return_much_later(group);
            }
            _ => {}
        }
    }

    /// Tells the same thing once.
    fn tell_return(&mut self, group: &mut Group, code: &'static str, text: &str) {
        if group.returning.told != Some(code) {
            group.returning.told = Some(code);
            self.finding(group.id, None, code, None, text);
        }
    }

    fn prepare_return(
        &mut self,
        group: &mut Group,
        group_info: &[u8],
        tree: &[u8],
        state: &JoinState,
    ) {
        // What is offered has to continue the log that is known; entries are on their way where it is longer.
        let following = group
            .returning
            .shadow
            .get_or_insert_with(|| Shadow::from(group.mls.state()))
            .frontier
            .size();
        if following < state.frontier.size() {
            return self.return_later(group, 100, 400);
        }
        let offer = RejoinOffer {
            group: group.id,
            group_info,
            tree,
            state,
            known: Some(group.mls.state()),
        };
        let live_roots = group.live_roots();
        let prepared = self.prepare_external(&offer, &live_roots);
        let (mls, row) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.offer_refused(group, &error);
                return self.return_much_later(group);
            }
        };
        let head = mls.state().head();
        let continues = group
            .returning
            .shadow
            .as_ref()
            .is_some_and(|shadow| shadow.has_prefix(&head));
        if !continues {
            self.tell_return(
                group,
                "service.forked_group_info",
                "the service offers a way back into another history of the group than the one it shows",
            );
            return self.return_much_later(group);
        }
        self.keep_scratch(group, mls, row);
        self.pump_return(group);
    }

    fn offer_refused(&mut self, group: &mut Group, error: &EngineError) {
        let (code, text) = match error {
            EngineError::Mls(conclave_mls::MlsError::BadInvitation { .. }) => (
                "service.old_group_info",
                "the service offers a way back into an older or other state of the group: refused",
            ),
            _ => (error.code(), "coming back into the group failed for now"),
        };
        self.tell_return(group, code, text);
    }

    pub(super) fn prepare_external(
        &mut self,
        offer: &RejoinOffer<'_>,
        live_roots: &[(u64, EpochRoot)],
    ) -> Result<(ClientGroup, ReturnRow), EngineError> {
        let inputs = CommitInputs {
            now: self.now,
            service_time: self.service_now(),
            id: CommitId(self.random16()),
            live_roots,
        };
        let context = self.device.context()?;
        let (mls, prepared) = ClientGroup::rejoin(&context, offer, inputs, &mut self.rng)?;
        let row = ReturnRow {
            bundle: encode(&prepared.bundle).into(),
            leaf: prepared.leaf,
            known: offer.known.is_some(),
        };
        Ok((mls, row))
    }

    /// Stores an external commit before it is sent.
    pub(super) fn keep_scratch(&mut self, group: &mut Group, mut mls: ClientGroup, row: ReturnRow) {
        let prefix = keys::group_row(&group.id, keys::group::SCRATCH, b"");
        self.out.writes.delete_prefix(prefix);
        for (key, value) in mls.rows() {
            let key = keys::group_row(&group.id, keys::group::SCRATCH, &key);
            self.put(key, value);
        }
        mls.take_changes();
        let key = keys::group_row(&group.id, keys::group::OUTBOX, RETURN_ROW);
        self.put(key, keys::cbor(&row));
        group.returning.bundle = Some(row);
        group.returning.scratch = Some(Box::new(Scratch { mls, sent: false }));
    }

    fn drop_scratch(&mut self, group: &mut Group) {
        group.returning.scratch = None;
        group.returning.bundle = None;
        let prefix = keys::group_row(&group.id, keys::group::SCRATCH, b"");
        self.out.writes.delete_prefix(prefix);
        let key = keys::group_row(&group.id, keys::group::OUTBOX, RETURN_ROW);
        self.delete(key);
    }

    fn return_answered(&mut self, group: &mut Group, leaf: Hash, answer: Answer) {
        let Answer::Refused(refusal) = answer else {
            // Accepted: the log will bring it.
            return;
        };
        let current = group.returning.bundle.as_ref();
        if current.is_none_or(|row| row.leaf != leaf) {
            return;
        }
        match refusal {
            // Somebody was faster.
            Refusal::EpochTaken { .. } | Refusal::StaleEpoch { .. } => {
                self.drop_scratch(group);
                self.return_later(group, 50, 500);
            }
            refusal if refusal.is_retryable() => {
                if let Some(scratch) = &mut group.returning.scratch {
                    scratch.sent = false;
                }
                self.return_later(group, 500, 3_000);
            }
            refusal => {
                self.drop_scratch(group);
                group.returning.refusals = group.returning.refusals.saturating_add(1);
                let text = refusal.to_string();
                self.finding(group.id, None, refusal.code(), None, &text);
                if group.returning.refusals >= REFUSALS {
                    self.tell_return(
                        group,
                        "group.asks_readd",
                        "this device cannot come back by itself and asks the members to add it again",
                    );
                    self.ask_members(group.id, Plea::ReAdd);
                }
                self.return_much_later(group);
            }
        }
    }

    pub(crate) fn ask_members(&mut self, group: GroupId, what: Plea) {
        self.request(Request::Ask { group, what }, Box::new(|_, _| {}));
    }

    /// An ordered entry while this device is on its way back. False when the rest has to wait.
    pub(super) fn entry_while_broken(
        &mut self,
        group: &mut Group,
        seq: u64,
        entry: &GroupEntry,
    ) -> bool {
        let shadow = group
            .returning
            .shadow
            .get_or_insert_with(|| Shadow::from(group.mls.state()));
        let next = shadow.frontier.size();
        if seq > next {
            group.subscription = Subscription::None;
            return false;
        }
        if seq == next {
            shadow.push(entry);
        }
        let Some(scratch) = &mut group.returning.scratch else {
            return true;
        };
        if seq != scratch.mls.state().head().size {
            return true;
        }
        match scratch.mls.process(entry) {
            Ok(Processed::Commit(outcome)) => self.returned(group, *outcome),
            Ok(_) => {
                for change in scratch.mls.take_changes() {
                    let key = keys::group_row(&group.id, keys::group::SCRATCH, &change.key);
                    match change.value {
                        Some(value) => self.out.writes.put(key, value),
                        None => self.out.writes.delete(key),
                    }
                }
            }
            Err(_) => {
                self.drop_scratch(group);
                self.return_later(group, 50, 500);
            }
        }
        true
    }

    /// The external commit is in the log: the scratch state takes the place of the old one.
    fn returned(&mut self, group: &mut Group, outcome: CommitOutcome) {
        let known = group.returning.bundle.as_ref().is_some_and(|row| row.known);
        let Some(scratch) = group.returning.scratch.take() else {
            return;
        };
        self.drop_scratch(group);
        let Some(secrets) = outcome.secrets else {
            return;
        };
        self.replace_mls(group, scratch.mls, secrets);
        let alone = group.state().current_rows().count() == 1;
        group.meta.unproven = (!known && !alone).then_some(outcome.epoch);
        self.save_meta(group);
        self.event(Event::Returned {
            group: group.id,
            epoch: outcome.epoch,
            proven: group.meta.unproven.is_none(),
        });
        // Roots of the epochs that were missed; and a wrap of somebody else shows that this is the group that they are in.
        self.ask_for_wraps(group);
        self.plead_later(group);
    }

    /// Other MLS state of the same group: what was known of its documents stays, with every edit.
    pub(crate) fn replace_mls(
        &mut self,
        group: &mut Group,
        mut mls: ClientGroup,
        secrets: EpochSecrets,
    ) {
        let prefix = keys::group_row(&group.id, keys::group::MLS, b"");
        self.out.writes.delete_prefix(prefix);
        for (key, value) in mls.rows() {
            let key = keys::group_row(&group.id, keys::group::MLS, &key);
            self.put(key, value);
        }
        mls.take_changes();
        let before = std::mem::replace(&mut group.mls, mls);
        group.returning = Returning::default();
        group.inflight = None;
        let key = keys::group_row(&group.id, keys::group::OUTBOX, b"commit");
        self.delete(key);
        for intent in group.intents.values_mut() {
            intent.judge_again();
        }
        group.meta.broken = None;
        self.broken.remove(&group.id);
        group.meta.unproven = None;
        group.meta.renew_due = false;
        self.save_meta(group);
        self.cancel_timer(TimerKind::SelfUpdate(group.id));
        self.enter_epoch(group, secrets);
        self.tell_what_changed(group, before.state());
        if group.state().rotating_since == group.state().epoch {
            self.rotation_begins(group, true);
        }
        self.epoch_changed(group);
    }

    /// What the log said while this device could not read it.
    fn tell_what_changed(&mut self, group: &mut Group, before: &GroupState) {
        let users = |state: &GroupState| -> BTreeSet<UserId> {
            state.current_rows().map(|row| row.user).collect()
        };
        let (then, now) = (users(before), users(group.state()));
        let added: Vec<UserId> = now.difference(&then).copied().collect();
        let removed: Vec<UserId> = then.difference(&now).copied().collect();
        if !added.is_empty() || !removed.is_empty() {
            self.event(Event::MembersChanged {
                group: group.id,
                epoch: group.state().epoch,
                added,
                removed,
            });
        }
        let changed: Vec<(DocumentId, bool)> = group
            .state()
            .documents
            .iter()
            .filter(|(id, entry)| before.documents.get(id) != Some(entry))
            .map(|(id, entry)| (*id, entry.closed.is_some()))
            .collect();
        for (document, closed) in changed {
            self.document_created(group, document);
            self.event(Event::DocumentListed {
                group: group.id,
                document,
            });
            if closed {
                self.document_closed(group, document);
            }
        }
        if before.voided.len() < group.state().voided.len() {
            self.records_voided(group);
        }
    }

    /// Somebody else has shown that they hold the secrets of the epoch in which this device came back: it is the group that they are in.
    pub(crate) fn proven(&mut self, group: &mut Group, epoch: u64) {
        if group.meta.unproven.is_some_and(|since| epoch >= since) {
            group.meta.unproven = None;
            self.save_meta(group);
            self.event(Event::Returned {
                group: group.id,
                epoch: group.state().epoch,
                proven: true,
            });
            group.missing.forget();
            self.retry_documents(group);
        }
    }

    /// The user has compared the group's code with another member.
    pub(crate) fn confirm_group(&mut self, group: &mut Group) {
        let epoch = group.state().epoch;
        self.proven(group, epoch);
    }
}
