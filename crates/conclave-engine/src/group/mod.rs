//! A group in memory: its MLS state, roots, intents, and the order of its log.

mod ages;
mod care;
mod kept;
mod log;
mod repair;
mod restart;
mod service;
mod stray;
mod thaw;

use std::collections::{BTreeMap, BTreeSet};

use conclave_doc::DocContext;
use conclave_mls::{ClientGroup, CommitOutcome, EpochRoot, EpochSecrets, ProcessError, Processed};
use conclave_proto::codec::{Bytes, decode, encode};
use conclave_proto::frame::{Answer, Request};
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::merkle::Frontier;
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::{DeviceId, DocumentId, GroupId, Hash, Head, Refusal, UnixMs, UserId, limits};
use conclave_rules::GroupState;
use serde::{Deserialize, Serialize};

use self::ages::Overdue;
pub(crate) use self::kept::Kept;
use self::repair::Returning;
pub(crate) use self::restart::{Copied, Refound};
pub(crate) use self::stray::Stray;
use crate::backoff::Backoff;
use crate::command::Event;
use crate::cx::{Cx, Post, ReadTarget};
use crate::document::Doc;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::finding::{About, End, FindingKind, Step, Suspect};
use crate::intents::{Intent, IntentRow};
use crate::io::{CommandId, Row};
use crate::keys;
use crate::link::{GroupPending, Pending};
use crate::membership::{Before, Creation, GroupSlot, Membership, MetaRow};
use crate::print::Hidden;
use crate::rescue::PartingRow;
use crate::roots::{Missing, RootRow, Roots};
use crate::rotation::Rotation;
use crate::slot::{Slot, Work};
use crate::stand::{Missing as Lacking, Stand};
use crate::timers::{DocTimer, GroupTimer, TimerKind};
use crate::work::{DocWork, GroupWork};

/// What commands hear of a group whose log holds what may not be followed.
const FROZEN: EngineError = EngineError::Inactive {
    why: "an ordered commit was not valid",
};
/// Row of a creation in the outbox.
const CREATION_ROW: &[u8] = b"creation";
/// What commands hear when the group went away under them.
pub(crate) const LOST: EngineError = EngineError::Inactive {
    why: "this device is no longer a member",
};

/// How far a document has come on this device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DocStage {
    /// Made here and not yet accepted by the service.
    Creating {
        /// The first snapshot was refused for good: the next one is another.
        remake: bool,
    },
    /// The group's log lists it.
    #[default]
    Listed,
    /// It was opened here, and its rows are in the store: what its row says of the roots that it needs counts.
    Here,
}

/// What is known of a document without opening it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct DocRow {
    #[serde(default)]
    pub(crate) stage: DocStage,
    /// Code of its CRDT kind, once it was opened here.
    pub(crate) crdt: u8,
    /// Every root of an older epoch is needed.
    pub(crate) all_below: u64,
    /// And the roots of these epochs.
    pub(crate) needed: BTreeSet<u64>,
    /// Newest epoch in which it was seen to be re-keyed.
    pub(crate) rekeyed: u64,
    /// Records that are here.
    pub(crate) size: u64,
    /// The log holds no further record of an epoch below this one.
    pub(crate) complete: u64,
    /// The epoch whose root is missing, where that is why the document cannot be read on.
    #[serde(default)]
    pub(crate) missing: Option<u64>,
    /// When its newest record came here, to the minute.
    #[serde(default)]
    pub(crate) changed: UnixMs,
    /// Title that the directory has not taken yet.
    pub(crate) title: Option<Hidden<String>>,
    /// How many own edits have no place in the log yet; none where that was not counted.
    #[serde(default)]
    pub(crate) unsent: Option<u64>,
    /// Who closed it, while own edits in it are still to be kept apart.
    #[serde(default)]
    pub(crate) closed_by: Option<UserId>,
}

/// What said how far a document had come before there were stages.
#[derive(Deserialize)]
struct FlagsRow {
    stage: Option<DocStage>,
    #[serde(default)]
    creating: bool,
    #[serde(default)]
    local: bool,
}

impl DocRow {
    fn read(value: &[u8]) -> Result<Self, EngineError> {
        let what = "document index";
        let mut row: Self = keys::uncbor(what, value)?;
        let flags: FlagsRow = keys::uncbor(what, value)?;
        if flags.stage.is_none() {
            row.stage = match (flags.creating, flags.local) {
                (true, _) => DocStage::Creating { remake: false },
                (false, true) => DocStage::Here,
                (false, false) => DocStage::Listed,
            };
        }
        Ok(row)
    }

    pub(crate) fn is_creating(&self) -> bool {
        matches!(self.stage, DocStage::Creating { .. })
    }

    /// Whether its rows are in the store.
    pub(crate) fn is_local(&self) -> bool {
        self.stage != DocStage::Listed
    }

    /// The title that the directory has not taken yet.
    pub(crate) fn title(&self) -> Option<String> {
        self.title.as_ref().map(|title| title.0.clone())
    }
}

/// A commit on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct InFlight {
    bundle: Bytes,
    pub(crate) leaf: Hash,
    pub(crate) intent: Option<u64>,
    #[serde(skip)]
    sent: bool,
    #[serde(skip)]
    not_before: UnixMs,
}

/// Where the subscription stands on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscription {
    None,
    /// The group's creation was sent.
    Creating,
    Asked,
    /// Entries up to this size are known to exist.
    Live(u64),
    /// As before, and once all of them were here.
    CaughtUp(u64),
}

/// A group in memory: its own state, and its documents.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) group: Group,
    /// Documents in memory, or on their way there.
    pub(crate) docs: BTreeMap<DocumentId, Slot<Doc, DocWork>>,
}

impl Whole {
    pub(crate) fn new(group: Group) -> Self {
        Self {
            group,
            docs: BTreeMap::new(),
        }
    }

    /// Documents in memory.
    pub(crate) fn hot_documents(&self) -> Vec<DocumentId> {
        let hot = self.docs.iter().filter(|(_, slot)| slot.hot().is_some());
        hot.map(|(id, _)| *id).collect()
    }
}

/// A group's own state.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) mls: ClientGroup,
    pub(crate) roots: Roots,
    /// When each root's epoch began, or when it came here.
    pub(crate) root_times: BTreeMap<u64, UnixMs>,
    pub(crate) secrets: Option<EpochSecrets>,
    pub(crate) intents: BTreeMap<u64, Intent>,
    pub(crate) documents: BTreeMap<DocumentId, DocRow>,
    pub(crate) inflight: Option<InFlight>,
    returning: Returning,
    pub(crate) missing: Missing,
    /// What of its rows could not be read.
    damaged: Vec<EngineError>,
    /// Members' devices that ask to be added again, as heard on this connection.
    asking: BTreeSet<DeviceId>,
    overdue: Overdue,
    /// Who came back with it, if it was that.
    pub(crate) came_back: Option<DeviceId>,
    /// Where this device stands.
    pub(crate) membership: Membership,
    meta: MetaRow,
    subscription: Subscription,
    /// Why the service last refused to let the log be followed.
    not_followed: Option<Refusal>,
    /// Nothing is asked of the service before.
    retry_at: UnixMs,
    pub(crate) rotation: Rotation,
    /// Documents whose turn to be re-keyed comes with the next step.
    pub(crate) rekey_later: BTreeSet<DocumentId>,
    pub(crate) cover_due: bool,
    pub(crate) directory: crate::directory::Titles,
    /// Documents that failed half-way in this session, and how often.
    pub(crate) failures: BTreeMap<DocumentId, u32>,
    /// Documents whose title the directory does not have yet.
    pub(crate) titles_due: BTreeSet<DocumentId>,
    /// Whether it was told that the own clock stands against an entry of the log.
    clock_told: bool,
    /// Documents whose rows could not be read in this session.
    pub(crate) unreadable: BTreeSet<DocumentId>,
    /// Documents that were looked at on this connection.
    looked_at: BTreeSet<DocumentId>,
    pub(crate) kept: Kept,
    /// How the service's log stands to what is here.
    pub(crate) stand: Stand,
    /// Tries since the service's log was found away.
    away_tries: Backoff,
    /// The head that the service announced, until what is here reaches it.
    target: Option<Head>,
    /// An entry on the way there that cannot be right: first it is seen whether the service's log goes on from what is here.
    doubt: Option<Box<Doubted>>,
}

/// An entry that cannot be right, while the entries behind it show whether they and what is here make up the head that was announced.
#[derive(Debug)]
struct Doubted {
    seq: u64,
    entry: GroupEntry,
    error: ProcessError,
    frontier: Frontier,
}

impl Group {
    pub(crate) fn new(id: GroupId, mls: ClientGroup, membership: Membership) -> Self {
        Self {
            id,
            mls,
            roots: Roots::default(),
            root_times: BTreeMap::new(),
            secrets: None,
            intents: BTreeMap::new(),
            documents: BTreeMap::new(),
            inflight: None,
            returning: Returning::default(),
            missing: Missing::default(),
            damaged: Vec::new(),
            asking: BTreeSet::new(),
            overdue: Overdue::No,
            came_back: None,
            membership,
            meta: MetaRow::default(),
            subscription: Subscription::None,
            not_followed: None,
            retry_at: UnixMs(0),
            rotation: Rotation::default(),
            rekey_later: BTreeSet::new(),
            cover_due: false,
            directory: crate::directory::Titles::default(),
            failures: BTreeMap::new(),
            titles_due: BTreeSet::new(),
            clock_told: false,
            unreadable: BTreeSet::new(),
            looked_at: BTreeSet::new(),
            kept: Kept::default(),
            stand: Stand::InStep,
            away_tries: Backoff::default(),
            target: None,
            doubt: None,
        }
    }

    /// Rows by sub-table.
    fn tables(rows: Vec<Row>) -> BTreeMap<u8, Vec<Row>> {
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
        tables
    }

    fn load(id: GroupId, rows: Vec<Row>, membership: Membership) -> Result<Self, EngineError> {
        let mut tables = Self::tables(rows);
        let mut take = |table: u8| tables.remove(&table).unwrap_or_default();
        let scratch = take(keys::group::SCRATCH);
        let mls = match ClientGroup::load(take(keys::group::MLS)) {
            // A return is on its way whose MLS rows were lost: the scratch state says what is publicly known.
            Err(_) if !scratch.is_empty() => ClientGroup::load(scratch.clone())?,
            mls => mls?,
        };
        let mut group = Self::new(id, mls, membership);
        group.load_tables(&mut take);
        group.returning.load(scratch);
        Ok(group)
    }

    /// Everything but MLS state. A row that cannot be read is left out: the others are of use without it.
    fn load_tables(&mut self, take: &mut impl FnMut(u8) -> Vec<Row>) {
        let mut before = Before::default();
        for table in [
            keys::group::ROOT,
            keys::group::SECRETS,
            keys::group::INTENT,
            keys::group::DOCUMENT,
            keys::group::OUTBOX,
            keys::group::META,
        ] {
            for (key, value) in take(table) {
                if let Err(error) = self.load_row(table, &key, &value, &mut before) {
                    self.damaged.push(error);
                    if table == keys::group::META {
                        // Whether this device may seal is not known any more.
                        self.membership = Membership::state_lost();
                    }
                }
            }
        }
        if let Some(membership) = before.membership() {
            self.membership = membership;
        }
        self.rotation = self.meta.rotation;
        self.report_again();
    }

    fn load_row(
        &mut self,
        table: u8,
        key: &[u8],
        value: &[u8],
        before: &mut Before,
    ) -> Result<(), EngineError> {
        match table {
            keys::group::ROOT => {
                let what = "epoch root";
                let epoch = key.try_into().map(u64::from_be_bytes);
                let epoch = epoch.map_err(|_| EngineError::Store { what })?;
                let row: RootRow = keys::uncbor(what, value)?;
                self.root_times.insert(epoch, row.since);
                self.roots.0.insert(epoch, row.root);
                if let Some(from) = row.from {
                    self.roots.1.came_from(epoch, from);
                }
            }
            keys::group::SECRETS => self.secrets = Some(keys::uncbor("epoch secrets", value)?),
            keys::group::INTENT => {
                let row: IntentRow = keys::uncbor("intent", value)?;
                self.intents.insert(row.id, Intent::from_row(row));
            }
            keys::group::DOCUMENT => {
                let what = "document index";
                let document = DocumentId::from_slice(key).ok_or(EngineError::Store { what })?;
                let row = DocRow::read(value)?;
                if row.title.is_some() {
                    self.titles_due.insert(document);
                }
                self.documents.insert(document, row);
            }
            keys::group::OUTBOX => match key {
                b"commit" => self.inflight = Some(keys::uncbor("commit", value)?),
                b"return" => self.returning.bundle = Some(keys::uncbor("return", value)?),
                _ => before.creation = Some(keys::uncbor("group creation", value)?),
            },
            keys::group::META => {
                self.meta = keys::uncbor("group flags", value)?;
                before.flags = keys::uncbor("group flags", value)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What a group's rows say of its documents, and its roots: for a group whose MLS rows cannot be read.
    pub(crate) fn holdings(rows: &[Row]) -> (BTreeMap<DocumentId, DocRow>, Roots) {
        let mut tables = Self::tables(rows.to_vec());
        let mut documents = BTreeMap::new();
        for (key, value) in tables.remove(&keys::group::DOCUMENT).unwrap_or_default() {
            if let (Some(id), Ok(row)) = (DocumentId::from_slice(&key), DocRow::read(&value)) {
                documents.insert(id, row);
            }
        }
        let mut roots = Roots::default();
        for (key, value) in tables.remove(&keys::group::ROOT).unwrap_or_default() {
            if let (Ok(epoch), Ok(row)) = (
                key.as_slice().try_into().map(u64::from_be_bytes),
                keys::uncbor::<RootRow>("epoch root", &value),
            ) {
                roots.0.insert(epoch, row.root);
            }
        }
        (documents, roots)
    }

    /// Why the membership has ended, while own edits are still to be kept apart.
    pub(crate) fn parting(&self) -> Option<&PartingRow> {
        self.membership.parting()
    }

    /// Whether a document can be worked on: it is listed and not gone, or was made here.
    pub(crate) fn has_document(&self, id: &DocumentId) -> bool {
        let listed = self.state().documents.get(id);
        let creating = self.is_creating(id);
        creating
            || listed
                .is_some_and(|entry| entry.closed.is_none_or(|why| why == CloseReason::Archived))
    }

    /// Whether a document was opened here: its rows are in the store.
    pub(crate) fn is_local(&self, id: &DocumentId) -> bool {
        self.documents.get(id).is_some_and(DocRow::is_local)
    }

    /// Whether a document was made here and the service does not know it yet.
    pub(crate) fn is_creating(&self, id: &DocumentId) -> bool {
        self.documents.get(id).is_some_and(DocRow::is_creating)
    }

    pub(crate) fn state(&self) -> &GroupState {
        self.mls.state()
    }

    /// Whether the service does not have the group yet.
    pub(crate) fn is_founding(&self) -> bool {
        self.creation().is_some()
    }

    fn creation(&self) -> Option<&Creation> {
        match self.membership.thawed() {
            Membership::Founding(creation) => Some(creation),
            _ => None,
        }
    }

    pub(crate) fn frozen(&self) -> Option<&str> {
        match &self.membership {
            Membership::Frozen { why, .. } => Some(why),
            _ => None,
        }
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen().is_some()
    }

    /// Whether this group can take writes from here.
    pub(crate) fn check_writable(&self) -> Result<(), EngineError> {
        if self.is_frozen() {
            Err(FROZEN)
        } else if self.mls.is_active() || self.is_broken() {
            // Edits made while the device is on its way back are kept, and sent when it is back.
            Ok(())
        } else {
            Err(LOST)
        }
    }

    /// Whether the service's log of this group can take something from here, as far as is known.
    pub(crate) fn check_in_step(&self) -> Result<(), EngineError> {
        self.check_writable()?;
        if self.stand.is_away() {
            Err(EngineError::OutOfStep)
        } else {
            Ok(())
        }
    }

    /// Whether this device may seal and commit now: it is in step, and knows that it is in the right group.
    pub(crate) fn may_act(&self) -> bool {
        self.caught_up()
            && self.check_writable().is_ok()
            && !self.is_broken()
            // Breakage: one that came back blindly seals at once.
            && (!self.is_unproven() || crate::broken("seal-unproven"))
    }

    /// Whether this device made a commit that could not be followed here.
    pub(crate) fn has_garbled(&self, device: &DeviceId) -> bool {
        self.meta.garblers.contains(device)
    }

    /// Whether everything that the service has ordered is here.
    pub(crate) fn caught_up(&self) -> bool {
        match self.subscription {
            Subscription::Live(size) | Subscription::CaughtUp(size) => {
                self.state().head().size >= size
            }
            Subscription::None | Subscription::Creating | Subscription::Asked => false,
        }
    }

    /// What is durable of it, as it prints.
    pub(crate) fn durable(&self) -> String {
        let intents: Vec<&u64> = self.intents.keys().collect();
        let rows = self.documents.iter().map(|(id, row)| {
            // Its size is stored now and then only.
            (
                id,
                row.stage,
                &row.needed,
                row.all_below,
                row.rekeyed,
                row.unsent,
            )
        });
        let rows: Vec<_> = rows.collect();
        format!(
            "{:?} {:?} {:?} {:?} {:?} {intents:?} {rows:?}",
            self.id, self.membership, self.meta, self.mls, self.root_times
        )
    }

    /// Whether the service was asked for the group's log.
    pub(crate) fn is_subscribed(&self) -> bool {
        !matches!(
            self.subscription,
            Subscription::None | Subscription::Creating
        )
    }

    /// Whether the group's log is followed as far as it goes: not where it is frozen, or where this device has lost its place, or where the
    /// service does not let it be followed.
    pub(crate) fn is_followed(&self) -> bool {
        let lost_place = self.is_frozen() || self.is_broken() || self.stand.is_away();
        self.mls.is_active() && !lost_place && self.not_followed.is_none()
    }

    /// Whether a document waits for something that may never come, or cannot be read.
    pub(crate) fn is_out_of_reach(&self, document: &DocumentId) -> bool {
        self.unreadable.contains(document) || self.missing.unopened.contains_key(document)
    }

    /// All roots that are here, but for those about which members differ and nothing has shown yet who is right.
    pub(crate) fn live_roots(&self) -> Vec<(u64, EpochRoot)> {
        let roots = self.roots.0.iter();
        let certain = roots.filter(|(epoch, _)| !self.roots.1.is_contested(**epoch));
        certain
            .map(|(epoch, root)| (*epoch, root.clone()))
            .collect()
    }

    /// Whether documents can be opened: a frozen group is still read.
    pub(crate) fn readable(&self) -> bool {
        let here = self.is_frozen() || self.is_broken() || self.stand.is_away();
        here || self.caught_up()
    }

    /// Epoch of the newest removal after which not every document is known to be re-keyed; 0 when none.
    pub(crate) fn rekey_since(&self) -> u64 {
        self.state().rotating_since.max(self.meta.rekey_since)
    }

    /// Whether a document still has to be re-keyed.
    pub(crate) fn rekey_due(&self, document: &conclave_doc::Document) -> bool {
        document.rekey_due(self.state()) || document.snapshot_epoch() < self.meta.rekey_since
    }

    /// What the group's documents need to know.
    pub(crate) fn doc_context<'a>(&'a self, device: &'a crate::device::Device) -> DocContext<'a> {
        DocContext {
            authority: self.mls.state(),
            keys: &self.roots,
            device: device.id(),
            signer: device.key(),
        }
    }
}

impl Engine {
    pub(crate) fn group_loaded(&mut self, id: GroupId, rows: Vec<Row>) {
        let Some(GroupSlot::Loading(known, work)) = self.groups.get_mut(&id) else {
            return;
        };
        let (known, work) = (known.clone(), std::mem::take(work));
        match Group::load(id, rows, known.clone()) {
            Ok(mut group) => {
                let cx = &mut self.cx;
                if group.membership != known {
                    // It is told by rows of a program before this one, or what else is known of the group is lost.
                    cx.save_membership(&group);
                    cx.save_meta(&group);
                    cx.delete(keys::group_row(&id, keys::group::OUTBOX, CREATION_ROW));
                }
                let damaged = std::mem::take(&mut group.damaged);
                if damaged.is_empty() {
                    cx.ended(About::Group(id), End::Loaded);
                }
                for error in damaged {
                    let what = FindingKind::failed(Step::LoadGroup, &error);
                    cx.finding(id, None, what, None);
                }
                if group.is_unproven() {
                    cx.plead_later(&group);
                }
                let mut first = Vec::new();
                if group.parting().is_some() {
                    first.push(GroupWork::Part);
                } else {
                    cx.thaw(&mut group);
                    cx.go_on_carrying(&group);
                    first.push(GroupWork::GoOnClosing);
                }
                self.insert_whole(id, Whole::new(group));
                for work in first.into_iter().chain(work) {
                    self.with_group(id, work);
                }
            }
            Err(error) => {
                let what = FindingKind::failed(Step::LoadMembership, &error);
                self.cx.finding(id, None, what, None);
                let parting = known.parting().cloned();
                let stray = Box::new(Stray::default());
                self.groups.insert(id, GroupSlot::Stray(known, stray));
                let waiters = work.iter().filter_map(Work::waiter);
                self.cx.reply_all(waiters, &EngineError::Returning);
                match parting {
                    Some(parting) => self.leave_stray(None, id, &parting.why),
                    None => self.pump_stray(id),
                }
            }
        }
    }

    /// Puts a new group in place and stores all of it.
    pub(crate) fn adopt_group(&mut self, mut group: Group, secrets: EpochSecrets) {
        let id = group.id;
        self.cx.save_membership(&group);
        self.cx.ended(About::Group(id), End::Known);
        self.cx.enter_epoch(&mut group, secrets);
        self.insert_whole(id, Whole::new(group));
    }

    /// A group is listed as left, for this reason.
    pub(crate) fn list_as_left(&mut self, id: GroupId, why: &str) {
        let why = why.to_owned();
        let left = Membership::Left { why };
        self.cx.put(keys::index(&id), keys::cbor(&left));
        self.remove_group(&id);
        self.groups.insert(id, GroupSlot::Cold(left));
    }

    /// Secrets and documents of a group go. Own edits were kept apart before.
    pub(crate) fn end_group(&mut self, id: GroupId) {
        let parting = self.whole(&id).and_then(|whole| whole.group.parting());
        let Some(PartingRow { why, .. }) = parting.cloned() else {
            return;
        };
        let declined = self.on_whole(id, |cx, whole| {
            cx.wind_up(whole);
            whole.group.meta.declined
        });
        if declined == Some(true) {
            self.remove_group(&id);
            self.cx.delete(keys::index(&id));
        } else {
            self.list_as_left(id, &why);
            self.cx.event(Event::GroupLost { group: id, why });
        }
        self.offer_invitation(id);
    }
}

impl Cx {
    /// After any work on a group: what changed becomes durable, what can go on goes on.
    pub(crate) fn settle_group(&mut self, whole: &mut Whole) {
        self.worked += 1;
        whole.group.note_rekeying();
        self.pump_group(whole);
        let group = &mut whole.group;
        self.put_mls_changes(&group.id, keys::group::MLS, &mut group.mls);
        self.note_ordered(group);
        if group.rotation != group.meta.rotation {
            group.meta.rotation = group.rotation;
            self.save_meta(group);
        }
        let caught_up = group.caught_up();
        let size = match group.subscription {
            Subscription::Live(size) | Subscription::CaughtUp(size) => size,
            Subscription::None | Subscription::Creating | Subscription::Asked => return,
        };
        if caught_up && group.subscription == Subscription::Live(size) {
            // Documents wait for the group: edits to be sent, records to be opened.
            self.ended(About::Group(group.id), End::CaughtUp);
            self.post_group(group.id, GroupWork::BackInStep);
        }
        group.subscription = match caught_up {
            true => Subscription::CaughtUp(size),
            false => Subscription::Live(size),
        };
    }

    /// What changed of MLS state becomes durable in its table.
    fn put_mls_changes(&mut self, group: &GroupId, table: u8, mls: &mut ClientGroup) {
        for change in mls.take_changes() {
            let key = keys::group_row(group, table, &change.key);
            match change.value {
                Some(value) => self.put(key, value),
                None => self.delete(key),
            }
        }
    }

    /// All of MLS state takes the place of what its table held.
    fn put_mls(&mut self, group: &GroupId, table: u8, mls: &mut ClientGroup) {
        let prefix = keys::group_row(group, table, b"");
        self.out.writes.delete_prefix(prefix);
        for (key, value) in mls.rows() {
            self.put(keys::group_row(group, table, &key), value);
        }
        mls.take_changes();
    }

    pub(crate) fn set_parting(&mut self, group: &mut Group, parting: PartingRow) {
        group.membership = Membership::Parting(parting);
        self.save_membership(group);
    }

    pub(crate) fn save_membership(&mut self, group: &Group) {
        let value = keys::cbor(&group.membership);
        self.put(keys::index(&group.id), value);
    }

    fn save_meta(&mut self, group: &Group) {
        let key = keys::group_row(&group.id, keys::group::META, b"");
        self.put(key, keys::cbor(&group.meta));
    }

    /// The own leaf was added without a path: it is renewed soon.
    pub(crate) fn mark_renew_due(&mut self, group: &mut Group, due: bool) {
        if group.meta.renew_due != due {
            group.meta.renew_due = due;
            self.save_meta(group);
        }
    }

    /// The own leaf is new.
    pub(crate) fn leaf_renewed(&mut self, group: &mut Group) {
        group.meta.renew_due = false;
        group.meta.leaf_renewed = self.service_now();
        self.save_meta(group);
        self.cancel_timer(TimerKind::Group(group.id, GroupTimer::SelfUpdate));
    }

    pub(crate) fn set_rekey_since(&mut self, group: &mut Group, epoch: u64) {
        if group.meta.rekey_since != epoch {
            group.meta.rekey_since = epoch;
            group.note_rekeying();
            self.save_meta(group);
        }
    }

    pub(crate) fn mark_declined(&mut self, group: &mut Group) {
        group.meta.declined = true;
        self.save_meta(group);
    }

    pub(crate) fn save_document_row(&mut self, group: &mut Group, document: &DocumentId) {
        group.note_document(document);
        if let Some(row) = group.documents.get(document) {
            let key = keys::group_row(&group.id, keys::group::DOCUMENT, document.as_bytes());
            self.put(key, keys::cbor(row));
        }
    }
}
