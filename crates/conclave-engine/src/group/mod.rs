//! A group in memory: its MLS state, roots, intents, and the order of its log.

mod ages;
mod care;
mod kept;
mod log;
mod past;
mod repair;
mod restart;
mod rows;
mod service;
mod settle;
mod stray;
mod thaw;

use std::collections::{BTreeMap, BTreeSet};

use conclave_doc::{DocContext, LogView};
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
pub(crate) use self::past::{EntryRow, Past};
use self::repair::Returning;
pub(crate) use self::restart::{Copied, Refound};
pub(crate) use self::rows::{DocRow, DocStage, LastBy};
pub(crate) use self::stray::Stray;
use crate::backoff::Backoff;
use crate::cx::{Cx, Post, ReadTarget};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::event::Event;
use crate::finding::{About, End, FindingKind, Step, Suspect, UPGRADE_NEEDED};
use crate::intents::{Intent, IntentRow};
use crate::io::{CommandId, Row};
use crate::keys;
use crate::link::{GroupPending, Pending};
use crate::membership::{Before, Creation, GroupSlot, Membership, MetaRow};
use crate::print::Hidden;
use crate::rescue::PartingRow;
use crate::roots::{Missing, RootRow, Roots};
use crate::rotation::Rotation;
use crate::service::ShownHead;
use crate::slot::{Awaited, DocSlot, Docs};
use crate::stand::{Missing as Lacking, Stand};
use crate::timers::{GroupTimer, TimerKind};
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
    /// The service did not take it last, since it collects what it lost.
    #[serde(skip)]
    collects: bool,
}

impl InFlight {
    pub(crate) fn is_sent(&self) -> bool {
        self.sent
    }

    /// Whether it waits for a service that collects what it lost.
    pub(crate) fn waits_for_recovery(&self) -> bool {
        self.collects
    }
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
    pub(crate) docs: Docs,
}

impl Whole {
    pub(crate) fn new(group: Group) -> Self {
        Self {
            group,
            docs: Docs::default(),
        }
    }

    /// Reads what changed in the directory, where it is at hand.
    pub(crate) fn read_titles(&mut self) {
        let directory = DocumentId::directory(&self.group.id);
        if !self.group.directory.is_read
            && let Some(doc) = self.docs.hot_mut(&directory)
        {
            self.group.directory.refresh(&mut doc.document);
        }
    }

    /// This session does without a document.
    pub(crate) fn set_unreadable(&mut self, id: DocumentId, why: EngineError) {
        self.docs.insert(id, DocSlot::Unreadable(why));
        if id == DocumentId::directory(&self.group.id) {
            self.group.directory.unreadable = true;
        }
        self.group.look_at(id);
    }

    /// Whether a document waits for something that may never come, or cannot be read.
    pub(crate) fn is_out_of_reach(&self, id: &DocumentId) -> bool {
        self.docs.is_unreadable(id) || self.group.missing.unopened.contains_key(id)
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
    /// Documents that a job has: until they are back, no root is erased.
    pub(crate) lent: BTreeSet<DocumentId>,
    /// Documents that were looked at on this connection.
    looked_at: BTreeSet<DocumentId>,
    pub(crate) kept: Kept,
    /// Sets the order in which this device looks at documents apart from that of any other: where several put documents under new keys at the same time, they
    /// meet in none, and each finds done what the others did.
    pub(crate) order: u128,
    /// Largest head of its log, and of each document's, that the service has signed.
    pub(crate) heads: BTreeMap<Option<DocumentId>, ShownHead>,
    /// Its log since this program has followed it: what it can prove of it.
    pub(crate) tree: Option<LogView>,
    /// What is kept of its log.
    pub(crate) past: Past,
    /// How the service's log stands to what is here.
    pub(crate) stand: Stand,
    /// Tries since the service's log was found away.
    away_tries: Backoff,
    /// Position of an entry that came without those before it.
    gap: Option<u64>,
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
            lent: BTreeSet::new(),
            looked_at: BTreeSet::new(),
            kept: Kept::default(),
            order: 0,
            heads: BTreeMap::new(),
            tree: None,
            past: Past::default(),
            stand: Stand::InStep,
            away_tries: Backoff::default(),
            gap: None,
            target: None,
            doubt: None,
        }
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

    /// The version of the protocol for which the group waits, where it is frozen over that.
    pub(crate) fn awaited_version(&self) -> Option<u16> {
        let waits = self.frozen() == Some(UPGRADE_NEEDED);
        waits.then_some(self.state().policy.min_protocol_version)
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen().is_some()
    }

    /// Whether this group can take writes from here.
    pub(crate) fn check_writable(&self) -> Result<(), EngineError> {
        if let Some(minimum) = self.awaited_version() {
            Err(EngineError::Refused(Refusal::UpgradeNeeded { minimum }))
        } else if self.is_frozen() {
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

    /// The service's generation in which what is here of a log came last. None: that is not known.
    pub(crate) fn grown_in(&self, document: Option<DocumentId>) -> Option<u64> {
        match document {
            None => self.past.grown_in(),
            Some(id) => self.documents.get(&id).map(|row| row.grown_in),
        }
        .filter(|number| *number > 0)
    }

    /// Whether a device became a member after an epoch, that was none before.
    fn lets_in_since(&self, epoch: u64) -> bool {
        let rows = self.state().roster.rows().iter();
        let before = rows.filter(|row| row.first_epoch <= epoch);
        let before: BTreeSet<DeviceId> = before.map(|row| row.device).collect();
        let mut now = self.state().current_rows();
        now.any(|row| row.first_epoch > epoch && !before.contains(&row.device))
    }

    /// Whether everything that the service has ordered is here.
    pub(crate) fn caught_up(&self) -> bool {
        match self.subscription {
            Subscription::Live(size) | Subscription::CaughtUp(size) => self.state().size() >= size,
            Subscription::None | Subscription::Creating | Subscription::Asked => false,
        }
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

    /// Documents that were closed as lost before they were re-keyed, since the newest removal.
    pub(crate) fn meta_lost(&self) -> &BTreeSet<DocumentId> {
        &self.meta.lost
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
            watch: None,
        }
    }
}
