//! A group in memory: its MLS state, roots, intents, and the order of its log.

use std::collections::{BTreeMap, BTreeSet};

use conclave_doc::{DocContext, KeySource};
use conclave_mls::{
    ClientGroup, CommitOutcome, EpochRoot, EpochSecrets, GroupState, ProcessError, Processed,
};
use conclave_proto::codec::{Bytes, decode, encode};
use conclave_proto::frame::{Answer, Request};
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::{DeviceId, DocumentId, GroupId, Hash, Refusal, UnixMs, UserId, limits};
use serde::{Deserialize, Serialize};

use crate::command::Event;
use crate::engine::{Engine, ReadTarget, TimerKind};
use crate::error::EngineError;
use crate::intents::{Intent, IntentRow};
use crate::io::{CommandId, Row};
use crate::keys;
use crate::slot::{Job, Slot};

/// Work on a group in memory.
pub(crate) type GroupWork = Box<dyn FnOnce(&mut Engine, &mut Group) + Send>;

/// What commands hear when the group went away under them.
const LOST: EngineError = EngineError::Inactive {
    why: "this device is no longer a member",
};

/// A small durable row per group, in memory from the start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IndexRow {
    /// Whether this device is a member (or believes so).
    pub(crate) active: bool,
    /// Why not, or why it takes no writes.
    pub(crate) why: Option<String>,
}

/// What is durable of a group's flags.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct MetaRow {
    rotator: bool,
    frozen: Option<String>,
    declined: bool,
    updated_leaf_epoch: u64,
}

/// What is known of a document without opening it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct DocRow {
    /// Made here and not yet accepted by the service.
    pub(crate) creating: bool,
    /// Code of its CRDT kind, once it was opened here.
    pub(crate) crdt: u8,
    /// Whether the document was opened here: then the next two say which roots it needs.
    pub(crate) local: bool,
    /// Every root of an older epoch is needed.
    pub(crate) all_below: u64,
    /// And the roots of these epochs.
    pub(crate) needed: BTreeSet<u64>,
    /// Newest epoch in which it was seen to be re-keyed.
    pub(crate) rekeyed: u64,
    /// Records that are here.
    pub(crate) size: u64,
}

/// A commit on its way.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct InFlight {
    bundle: Bytes,
    pub(crate) leaf: Hash,
    pub(crate) intent: Option<u64>,
    #[serde(skip)]
    sent: bool,
    #[serde(skip)]
    not_before: UnixMs,
}

/// A group's creation on its way.
#[derive(Clone, Serialize, Deserialize)]
struct Creation {
    group_info: Bytes,
    tree: Bytes,
}

/// Where the subscription stands on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscription {
    None,
    Asked,
    /// Entries up to this size are known to exist.
    Live(u64),
}

/// A group in memory.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) mls: ClientGroup,
    pub(crate) roots: Roots,
    pub(crate) secrets: Option<EpochSecrets>,
    pub(crate) intents: BTreeMap<u64, Intent>,
    pub(crate) documents: BTreeMap<DocumentId, DocRow>,
    pub(crate) inflight: Option<InFlight>,
    creation: Option<Creation>,
    meta: MetaRow,
    subscription: Subscription,
    creating_sent: bool,
    /// Nothing is asked of the service before.
    retry_at: UnixMs,
    pub(crate) rotator: bool,
    pub(crate) cover_due: bool,
    pub(crate) completing: bool,
    pub(crate) directory: crate::directory::Titles,
    /// Documents whose rows could not be read in this session.
    pub(crate) unreadable: BTreeSet<DocumentId>,
    lost: bool,
}

/// Roots by epoch.
#[derive(Default)]
pub(crate) struct Roots(pub(crate) BTreeMap<u64, EpochRoot>);

impl KeySource for Roots {
    fn root(&self, epoch: u64) -> Option<EpochRoot> {
        self.0.get(&epoch).cloned()
    }
}

impl Group {
    pub(crate) fn new(id: GroupId, mls: ClientGroup) -> Self {
        Self {
            id,
            mls,
            roots: Roots::default(),
            secrets: None,
            intents: BTreeMap::new(),
            documents: BTreeMap::new(),
            inflight: None,
            creation: None,
            meta: MetaRow::default(),
            subscription: Subscription::None,
            creating_sent: false,
            retry_at: UnixMs(0),
            rotator: false,
            cover_due: false,
            completing: false,
            directory: crate::directory::Titles::default(),
            unreadable: BTreeSet::new(),
            lost: false,
        }
    }

    fn load(id: GroupId, rows: Vec<Row>) -> Result<Self, EngineError> {
        let skip = 1 + GroupId::LEN;
        let mut tables: BTreeMap<u8, Vec<Row>> = BTreeMap::new();
        for (key, value) in rows {
            if let Some((table, rest)) = key.get(skip..).and_then(<[u8]>::split_first) {
                tables
                    .entry(*table)
                    .or_default()
                    .push((rest.to_vec(), value));
            }
        }
        let mut take = |table: u8| tables.remove(&table).unwrap_or_default();
        let mut group = Self::new(id, ClientGroup::load(take(keys::group::MLS))?);
        for (key, value) in take(keys::group::ROOT) {
            let what = "epoch root";
            let epoch = key.as_slice().try_into().map(u64::from_be_bytes);
            let epoch = epoch.map_err(|_| EngineError::Store { what })?;
            group.roots.0.insert(epoch, keys::uncbor(what, &value)?);
        }
        for (_, value) in take(keys::group::SECRETS) {
            group.secrets = Some(keys::uncbor("epoch secrets", &value)?);
        }
        for (_, value) in take(keys::group::INTENT) {
            let row: IntentRow = keys::uncbor("intent", &value)?;
            group.intents.insert(row.id, Intent::from_row(row));
        }
        for (key, value) in take(keys::group::DOCUMENT) {
            let what = "document index";
            let document = DocumentId::from_slice(&key).ok_or(EngineError::Store { what })?;
            group
                .documents
                .insert(document, keys::uncbor(what, &value)?);
        }
        for (key, value) in take(keys::group::OUTBOX) {
            match key.as_slice() {
                b"commit" => group.inflight = Some(keys::uncbor("commit", &value)?),
                _ => group.creation = Some(keys::uncbor("group creation", &value)?),
            }
        }
        for (_, value) in take(keys::group::META) {
            group.meta = keys::uncbor("group flags", &value)?;
        }
        group.rotator = group.meta.rotator;
        Ok(group)
    }

    pub(crate) fn state(&self) -> &GroupState {
        self.mls.state()
    }

    pub(crate) fn frozen(&self) -> Option<&str> {
        self.meta.frozen.as_deref()
    }

    /// Whether this group can take writes from here.
    pub(crate) fn check_writable(&self) -> Result<(), EngineError> {
        if self.meta.frozen.is_some() {
            Err(EngineError::Inactive {
                why: "an ordered commit was not valid",
            })
        } else if self.mls.is_active() {
            Ok(())
        } else {
            Err(EngineError::Inactive {
                why: "this device is no longer a member",
            })
        }
    }

    /// Whether everything that the service has ordered is here.
    pub(crate) fn caught_up(&self) -> bool {
        matches!(self.subscription, Subscription::Live(size) if self.state().head().size >= size)
    }

    pub(crate) fn doc_context<'a>(
        state: &'a GroupState,
        roots: &'a Roots,
        engine: &'a crate::device::Device,
        now: UnixMs,
    ) -> DocContext<'a> {
        DocContext {
            state,
            keys: roots,
            device: engine.id(),
            signer: engine.key(),
            now,
        }
    }
}

impl Engine {
    /// Runs work on a group: at once if it is in memory, else when its rows have come. Work on unknown groups is dropped.
    pub(crate) fn with_group(&mut self, id: GroupId, work: GroupWork) {
        self.with_group_for(id, work.into());
    }

    /// As [`Self::with_group`], for a command: it is answered if the work can never run.
    pub(crate) fn with_group_for(&mut self, id: GroupId, job: Job<GroupWork>) {
        if !self.index.get(&id).is_some_and(|row| row.active) {
            self.reply_all(job.waiter, &EngineError::UnknownGroup);
            return;
        }
        match self.groups.get_mut(&id) {
            Some(Slot::Loading(queue) | Slot::Busy(queue)) => queue.push(job),
            Some(Slot::Hot(_)) => self.run_group(id, vec![job]),
            None => {
                self.groups.insert(id, Slot::Loading(vec![job]));
                self.read(keys::group_prefix(&id), ReadTarget::Group(id));
            }
        }
    }

    fn run_group(&mut self, id: GroupId, mut jobs: Vec<Job<GroupWork>>) {
        let Some(Slot::Hot(mut group)) = self.groups.insert(id, Slot::Busy(Vec::new())) else {
            return;
        };
        loop {
            for job in jobs {
                if group.lost {
                    self.reply_all(job.waiter, &LOST);
                } else {
                    (job.work)(self, &mut group);
                }
            }
            self.settle_group(&mut group);
            jobs = match self.groups.get_mut(&id) {
                Some(Slot::Busy(queue)) if !queue.is_empty() => std::mem::take(queue),
                _ => break,
            };
        }
        if group.lost {
            self.groups.remove(&id);
        } else {
            self.groups.insert(id, Slot::Hot(group));
        }
    }

    /// Answers commands that can no longer be carried out.
    pub(crate) fn reply_all(
        &mut self,
        waiters: impl IntoIterator<Item = CommandId>,
        error: &EngineError,
    ) {
        for waiter in waiters {
            self.reply(waiter, Err(error.clone()));
        }
    }

    pub(crate) fn group_loaded(&mut self, id: GroupId, rows: Vec<Row>) {
        let Some(Slot::Loading(work)) = self.groups.remove(&id) else {
            return;
        };
        match Group::load(id, rows) {
            Ok(group) => {
                self.groups.insert(id, Slot::Hot(Box::new(group)));
                self.run_group(id, work);
            }
            Err(error) => {
                let text = error.to_string();
                if let Some(row) = self.index.get_mut(&id) {
                    row.active = false;
                    row.why = Some(text.clone());
                }
                self.finding(id, None, error.code(), None, &text);
                self.reply_all(work.iter().filter_map(|job| job.waiter), &error);
            }
        }
    }

    /// Puts a new group in place and stores all of it.
    pub(crate) fn adopt_group(&mut self, mut group: Group, secrets: EpochSecrets) {
        let id = group.id;
        self.index.insert(
            id,
            IndexRow {
                active: true,
                why: None,
            },
        );
        self.save_index(&id);
        self.enter_epoch(&mut group, secrets);
        self.groups.insert(id, Slot::Hot(Box::new(group)));
    }

    pub(crate) fn save_index(&mut self, id: &GroupId) {
        if let Some(row) = self.index.get(id) {
            let value = keys::cbor(row);
            self.put(keys::index(id), value);
        }
    }

    /// Remembers what makes a new group known to the service.
    pub(crate) fn save_creation(&mut self, group: &mut Group, group_info: Vec<u8>, tree: Vec<u8>) {
        let creation = Creation {
            group_info: group_info.into(),
            tree: tree.into(),
        };
        let key = keys::group_row(&group.id, keys::group::OUTBOX, b"creation");
        self.put(key, keys::cbor(&creation));
        group.creation = Some(creation);
    }

    /// Keeps the root of a new epoch; the wrap key and presence root of the old one are gone with their row.
    pub(crate) fn enter_epoch(&mut self, group: &mut Group, secrets: EpochSecrets) {
        let key = keys::group_row(&group.id, keys::group::SECRETS, b"");
        self.put(key, keys::cbor(&secrets));
        self.keep_root(group, secrets.epoch, secrets.root.clone());
        group.secrets = Some(secrets);
    }

    pub(crate) fn keep_root(&mut self, group: &mut Group, epoch: u64, root: EpochRoot) {
        let key = keys::group_row(&group.id, keys::group::ROOT, &epoch.to_be_bytes());
        self.put(key, keys::cbor(&root));
        group.roots.0.insert(epoch, root);
    }

    /// Erases the roots that no document needs any more. Evidence is demanded for every listed document.
    pub(crate) fn erase_roots(&mut self, group: &mut Group) {
        let current = group.state().epoch;
        let mut needed = BTreeSet::from([current]);
        let mut all_below = 0;
        for (document, entry) in &group.state().documents {
            if entry.closed.is_some_and(|why| why != CloseReason::Archived) {
                continue;
            }
            match group.documents.get(document) {
                Some(row) if row.local => {
                    needed.extend(&row.needed);
                    all_below = all_below.max(row.all_below);
                }
                _ => return,
            }
        }
        let gone: Vec<u64> = group
            .roots
            .0
            .keys()
            .filter(|epoch| **epoch >= all_below && !needed.contains(epoch))
            .copied()
            .collect();
        for epoch in gone {
            group.roots.0.remove(&epoch);
            let key = keys::group_row(&group.id, keys::group::ROOT, &epoch.to_be_bytes());
            self.delete(key);
        }
    }

    /// After any work on a group: what changed becomes durable, what can go on goes on.
    fn settle_group(&mut self, group: &mut Group) {
        self.pump_group(group);
        if group.lost {
            return;
        }
        for change in group.mls.take_changes() {
            let key = keys::group_row(&group.id, keys::group::MLS, &change.key);
            match change.value {
                Some(value) => self.put(key, value),
                None => self.delete(key),
            }
        }
        if group.rotator != group.meta.rotator {
            group.meta.rotator = group.rotator;
            self.save_meta(group);
        }
    }

    fn save_meta(&mut self, group: &Group) {
        let key = keys::group_row(&group.id, keys::group::META, b"");
        self.put(key, keys::cbor(&group.meta));
    }

    pub(crate) fn mark_declined(&mut self, group: &mut Group) {
        group.meta.declined = true;
        self.save_meta(group);
    }

    pub(crate) fn save_document_row(&mut self, group: &Group, document: &DocumentId) {
        if let Some(row) = group.documents.get(document) {
            let key = keys::group_row(&group.id, keys::group::DOCUMENT, document.as_bytes());
            self.put(key, keys::cbor(row));
        }
    }

    pub(crate) fn groups_online(&mut self) {
        let ids: Vec<GroupId> = self
            .index
            .iter()
            .filter(|(_, row)| row.active)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.with_group(id, Box::new(|_, _| {}));
        }
    }

    pub(crate) fn groups_offline(&mut self) {
        for slot in self.groups.values_mut() {
            if let Slot::Hot(group) = slot {
                group.subscription = Subscription::None;
                group.creating_sent = false;
                group.completing = false;
                group.retry_at = UnixMs(0);
                if let Some(inflight) = &mut group.inflight {
                    inflight.sent = false;
                }
                for intent in group.intents.values_mut() {
                    intent.busy = false;
                }
            }
        }
    }

    /// Sends what can be sent for a group: its creation, its subscription, a commit, entries, documents.
    fn pump_group(&mut self, group: &mut Group) {
        if !self.link.online || !group.mls.is_active() || self.now < group.retry_at {
            return;
        }
        if let Some(creation) = group.creation.clone() {
            if !group.creating_sent {
                group.creating_sent = true;
                self.send_creation(group.id, creation);
            }
            return;
        }
        if group.subscription == Subscription::None {
            group.subscription = Subscription::Asked;
            self.subscribe(group.id, group.state().head().size);
        }
        if !group.caught_up() || group.meta.frozen.is_some() {
            return;
        }
        self.pump_commit(group);
        self.pump_documents(group);
        self.pump_rotation(group);
        if group.inflight.is_none() {
            self.pump_intents(group);
            self.pump_commit(group);
        }
    }

    fn send_creation(&mut self, id: GroupId, creation: Creation) {
        self.request(
            Request::CreateGroup {
                group_info: creation.group_info,
                tree: creation.tree,
            },
            Box::new(move |engine, answer| {
                engine.with_group(
                    id,
                    Box::new(move |engine, group| engine.creation_answered(group, answer)),
                );
            }),
        );
    }

    fn creation_answered(&mut self, group: &mut Group, answer: Answer) {
        match answer {
            // A repeated creation after a lost answer finds the group there: ids are drawn at random, so it is ours.
            Answer::Accepted { .. } | Answer::Refused(Refusal::AlreadyExists) => {
                group.creation = None;
                let key = keys::group_row(&group.id, keys::group::OUTBOX, b"creation");
                self.delete(key);
            }
            Answer::Refused(refusal) if refusal.is_retryable() => {
                group.creating_sent = false;
                self.later(group);
            }
            Answer::Refused(refusal) => {
                self.freeze(group, "group.creation_refused", None, &refusal.to_string())
            }
            _ => {}
        }
    }

    /// Leaves the service alone about this group for a while.
    fn later(&mut self, group: &mut Group) {
        let delay = self.jitter(1_000, 5_000);
        group.retry_at = self.now.plus_ms(delay);
        self.wake(delay, TimerKind::Pump(group.id));
    }

    fn subscribe(&mut self, id: GroupId, from: u64) {
        self.request(
            Request::SubscribeGroup { group: id, from },
            Box::new(move |engine, answer| {
                engine.with_group(
                    id,
                    Box::new(move |engine, group| match answer {
                        Answer::Subscribed { head, .. } => {
                            group.subscription = Subscription::Live(head.size);
                            if head.size < group.state().head().size {
                                engine.finding(
                                    group.id,
                                    None,
                                    "service.rolled_back",
                                    None,
                                    "the service's group log is shorter than what it showed before",
                                );
                            }
                        }
                        Answer::Refused(refusal) => {
                            group.subscription = Subscription::None;
                            engine.later(group);
                            if let Refusal::Forbidden { .. } = refusal {
                                let text = refusal.to_string();
                                engine.finding(group.id, None, refusal.code(), None, &text);
                            }
                        }
                        _ => {}
                    }),
                );
            }),
        );
    }

    pub(crate) fn group_entries(&mut self, id: GroupId, first_seq: u64, entries: Vec<GroupEntry>) {
        self.with_group(
            id,
            Box::new(move |engine, group| {
                for (offset, entry) in entries.into_iter().enumerate() {
                    let seq = first_seq.saturating_add(offset as u64);
                    if !engine.group_entry(group, seq, &entry) {
                        break;
                    }
                }
            }),
        );
    }

    /// Processes one ordered entry. False when the rest has to wait.
    fn group_entry(&mut self, group: &mut Group, seq: u64, entry: &GroupEntry) -> bool {
        let size = group.state().head().size;
        if let Subscription::Live(known) = group.subscription {
            group.subscription = Subscription::Live(known.max(seq.saturating_add(1)));
        }
        if seq < size {
            return true;
        }
        if seq > size || !group.mls.is_active() || group.meta.frozen.is_some() {
            // A gap: ask again from where we are.
            if seq > size {
                group.subscription = Subscription::None;
            }
            return false;
        }
        match group.mls.process(entry) {
            Ok(Processed::Commit(outcome)) => self.commit_processed(group, *outcome),
            Ok(Processed::Proposal { void: false, .. }) => {
                let delay = self.jitter(50, 1_500);
                self.wake(delay, TimerKind::Cover(group.id));
            }
            Ok(Processed::Entry(body, author)) => self.entry_processed(group, body, author.device),
            Ok(_) => {}
            Err(error) => {
                self.process_failed(group, &error);
                return false;
            }
        }
        group.mls.is_active()
    }

    fn process_failed(&mut self, group: &mut Group, error: &ProcessError) {
        if error.is_retryable() {
            // The local clock is wrong: the entry itself is not. It comes again with the next subscription.
            let text = error.to_string();
            self.finding(group.id, None, error.code(), None, &text);
            group.subscription = Subscription::None;
            self.later(group);
            return;
        }
        let suspect = match error {
            ProcessError::Illegal { signer, .. } => *signer,
            ProcessError::Undecryptable { author } => *author,
            _ => None,
        };
        self.freeze(group, error.code(), suspect, &error.to_string());
    }

    /// Stops sealing in a group; reading goes on.
    fn freeze(&mut self, group: &mut Group, code: &str, suspect: Option<DeviceId>, text: &str) {
        group.meta.frozen = Some(code.to_owned());
        self.save_meta(group);
        self.finding(group.id, None, code, suspect, text);
        let waiting: Vec<u64> = group.intents.keys().copied().collect();
        for id in waiting {
            self.finish_intent(
                group,
                id,
                Err(EngineError::Inactive {
                    why: "an ordered commit was not valid",
                }),
            );
        }
    }

    fn commit_processed(&mut self, group: &mut Group, outcome: CommitOutcome) {
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
        self.cancel_timer(TimerKind::Cover(group.id));
        if outcome.removed_self {
            self.lose_group(group, "this device was removed");
            return;
        }
        if let Some(secrets) = outcome.secrets {
            self.enter_epoch(group, secrets);
        }
        if outcome.own && !outcome.removed.is_empty() {
            group.rotator = true;
        }
        if group.state().rotating_since == group.state().epoch {
            self.rotation_begins(group, outcome.own);
        }
        if !added.is_empty() || !removed.is_empty() {
            let epoch = group.state().epoch;
            self.event(Event::MembersChanged {
                group: group.id,
                epoch,
                added,
                removed,
            });
        }
        self.epoch_changed(group);
    }

    /// The own commit is in the log, or another took its place.
    fn resolve_inflight(&mut self, group: &mut Group, outcome: &CommitOutcome) {
        let Some(inflight) = group.inflight.take() else {
            return;
        };
        let key = keys::group_row(&group.id, keys::group::OUTBOX, b"commit");
        self.delete(key);
        let Some(id) = inflight.intent else {
            return;
        };
        if outcome.own && outcome.leaf == inflight.leaf {
            self.intent_committed(group, id, outcome.epoch);
        } else if let Some(intent) = group.intents.get_mut(&id) {
            intent.busy = false;
        }
    }

    fn entry_processed(&mut self, group: &mut Group, body: EntryBody, author: DeviceId) {
        match body {
            EntryBody::DocumentCreated { document, .. } => {
                self.event(Event::DocumentListed {
                    group: group.id,
                    document,
                });
            }
            EntryBody::DocumentClosed { document, .. } => {
                self.event(Event::DocumentListed {
                    group: group.id,
                    document,
                });
                self.document_closed(group, document);
            }
            EntryBody::RecordVoided { .. } => {}
            EntryBody::RotationComplete { epoch } => self.rotation_completed(group, epoch, author),
        }
        self.entry_intents(group, &body);
    }

    /// Stores a commit before it is sent.
    pub(crate) fn launch(
        &mut self,
        group: &mut Group,
        bundle: &CommitBundle,
        leaf: Hash,
        intent: Option<u64>,
    ) {
        let inflight = InFlight {
            bundle: encode(bundle).into(),
            leaf,
            intent,
            sent: false,
            not_before: UnixMs(0),
        };
        let key = keys::group_row(&group.id, keys::group::OUTBOX, b"commit");
        self.put(key, keys::cbor(&inflight));
        group.inflight = Some(inflight);
    }

    fn pump_commit(&mut self, group: &mut Group) {
        let Some(inflight) = &mut group.inflight else {
            return;
        };
        if inflight.sent || self.now < inflight.not_before {
            return;
        }
        let max = limits::FRAME_BYTES;
        let Ok(bundle) = decode::<CommitBundle>("commit", inflight.bundle.as_slice(), max) else {
            return;
        };
        inflight.sent = true;
        let (id, leaf) = (group.id, inflight.leaf);
        self.request(
            Request::Commit(bundle),
            Box::new(move |engine, answer| {
                engine.with_group(
                    id,
                    Box::new(move |engine, group| engine.commit_answered(group, leaf, answer)),
                );
            }),
        );
    }

    fn commit_answered(&mut self, group: &mut Group, leaf: Hash, answer: Answer) {
        let Answer::Refused(refusal) = answer else {
            // Accepted: the log will bring it.
            return;
        };
        let Some(inflight) = group
            .inflight
            .as_mut()
            .filter(|inflight| inflight.leaf == leaf)
        else {
            return;
        };
        use Refusal as R;
        match refusal {
            // The log brings the winner, which clears this commit.
            R::EpochTaken { .. } | R::StaleEpoch { .. } => {}
            R::RateLimited { .. } | R::Storage | R::ShuttingDown => {
                let delay = self.jitter(500, 3_000);
                inflight.sent = false;
                inflight.not_before = self.now.plus_ms(delay);
                self.wake(delay, TimerKind::Pump(group.id));
            }
            refusal => {
                let intent = inflight.intent;
                group.inflight = None;
                let key = keys::group_row(&group.id, keys::group::OUTBOX, b"commit");
                self.delete(key);
                if let Err(error) = group.mls.discard_pending() {
                    let text = error.to_string();
                    self.freeze(group, error.code(), None, &text);
                    return;
                }
                self.intent_refused(group, intent, refusal);
            }
        }
    }

    /// This device is out: secrets and documents go.
    pub(crate) fn lose_group(&mut self, group: &mut Group, why: &str) {
        let id = group.id;
        let waiting: Vec<u64> = group.intents.keys().copied().collect();
        for intent in waiting {
            let leaving = group.intents.get(&intent).is_some_and(Intent::is_leave);
            let result = if leaving {
                Ok(crate::command::Reply::Done)
            } else {
                Err(EngineError::Inactive {
                    why: "this device is no longer a member",
                })
            };
            self.finish_intent(group, intent, result);
        }
        self.forget_documents(id);
        self.out.writes.delete_prefix(keys::group_prefix(&id));
        self.out.writes.delete_prefix(keys::documents_prefix(&id));
        group.roots.0.clear();
        group.secrets = None;
        let declined = group.meta.declined;
        if declined {
            self.index.remove(&id);
            self.delete(keys::index(&id));
        } else {
            self.index.insert(
                id,
                IndexRow {
                    active: false,
                    why: Some(why.to_owned()),
                },
            );
            self.save_index(&id);
            self.event(Event::GroupLost {
                group: id,
                why: why.to_owned(),
            });
        }
        group.lost = true;
    }
}
