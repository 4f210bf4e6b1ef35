//! The engine itself: one transition at a time. Work is done on one group after another; what a handler posts is done after it.

use std::collections::{BTreeMap, BTreeSet};

use conclave_mls::KeyStore;
use conclave_proto::{DocumentId, GroupId, UnixMs};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::command::Setup;
use crate::cx::{Cx, Post, REKEYS, ReadTarget};
use crate::device::Device;
use crate::error::EngineError;
use crate::evidence;
use crate::finding::Findings;
use crate::group::Whole;
use crate::invitation::Invitation;
use crate::io::{CommandId, Input, Moment, Output, ReadId, Row};
use crate::kept;
use crate::keys;
use crate::membership::{GroupSlot, Membership};
use crate::pause::Pauses;
use crate::rescue;
use crate::revocation;
use crate::service::Known;
use crate::settled::Until;
use crate::slot::Awaited;
use crate::timers::TimerKind;
use crate::work::{DocWork, GroupWork};

/// Most documents kept in memory without need.
pub(crate) const HOT_DOCUMENTS: usize = 256;

/// A clock that goes back by more than this was set, in milliseconds.
const CLOCK_SET_BACK_MS: u64 = 60_000;

/// One device as a state machine. See the crate documentation.
pub struct Engine {
    pub(crate) cx: Cx,
    /// All groups that this device is in, or was.
    pub(crate) groups: BTreeMap<GroupId, GroupSlot>,
    /// Groups that were worked on in this transition, and are still to be settled.
    unsettled: BTreeSet<GroupId>,
    pub(crate) invitations: BTreeMap<GroupId, Invitation>,
    /// Commands that wait for the device to be in step.
    pub(crate) waiting: Vec<(CommandId, Until)>,
    /// Documents in memory, of all groups.
    documents: usize,
}

impl Engine {
    /// Prefixes of the rows that [`Engine::open`] needs.
    #[must_use]
    pub fn startup_prefixes() -> Vec<Vec<u8>> {
        let tables = [
            keys::DEVICE,
            keys::KEY_PACKAGES,
            keys::INDEX,
            keys::INVITATION,
            keys::FINDING,
            keys::UNSENT,
            keys::OPERATION,
        ];
        let mut prefixes: Vec<Vec<u8>> = tables.iter().map(|table| vec![*table]).collect();
        prefixes.push(keys::rescue_heads());
        prefixes.push(keys::proof_heads());
        prefixes
    }

    /// Makes the engine of a new store. All randomness comes from `seed`.
    ///
    /// # Errors
    /// [`EngineError::Text`] when the name is empty, too long or has control characters.
    pub fn init(setup: Setup, seed: [u8; 32], now: UnixMs) -> Result<(Self, Output), EngineError> {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let device = Device::create(setup, now, &mut rng)?;
        let keystore = KeyStore::load(Vec::new())?;
        let mut engine = Self::with(Cx::new(device, keystore, rng, now));
        engine.cx.device.save(&mut engine.cx.out.writes);
        let out = engine.finish();
        Ok((engine, out))
    }

    /// Makes the engine of a store from the rows below [`Engine::startup_prefixes`]. `seed` is a fresh one for each life: under a seed that was
    /// used before, ids and nonces would come again.
    ///
    /// # Errors
    /// [`EngineError::Store`] when a row is damaged, missing or of an unknown version.
    pub fn open(
        rows: Vec<Row>,
        seed: [u8; 32],
        now: UnixMs,
    ) -> Result<(Self, Output), EngineError> {
        let table = |table: u8| {
            rows.iter()
                .filter(move |(key, _)| key.first() == Some(&table))
        };
        let device = Device::load(&rows)?;
        let strip = |(key, value): &Row| (key.get(1..).unwrap_or_default().to_vec(), value.clone());
        let keystore = KeyStore::load(table(keys::KEY_PACKAGES).map(strip).collect())?;
        let rng = ChaCha20Rng::from_seed(seed);
        let mut engine = Self::with(Cx::new(device, keystore, rng, now));
        engine.cx.ready_to_receive();
        engine.cx.service = Known::load(&rows)?;
        engine.cx.revocations = revocation::load(&rows)?;
        engine.cx.pauses = Pauses::load(&rows)?;
        for (key, value) in table(keys::INDEX) {
            let what = "group index";
            let id = key.get(1..).and_then(GroupId::from_slice);
            let id = id.ok_or(EngineError::Store { what })?;
            let here = Membership::read(value)?;
            if let Some(row) = here.rewritten(value) {
                engine.cx.put(key.clone(), row);
            }
            engine.groups.insert(id, GroupSlot::Cold(here));
        }
        for (key, value) in table(keys::INVITATION) {
            let what = "invitation";
            let id = key.get(1..).and_then(GroupId::from_slice);
            let id = id.ok_or(EngineError::Store { what })?;
            engine.invitations.insert(id, Invitation::load(value)?);
        }
        engine.cx.findings = Findings::load(table(keys::FINDING));
        engine.cx.findings_loaded();
        engine.cx.kept_bytes = kept::read_total(&rows)?;
        for (_, value) in table(keys::RESCUE) {
            let info = rescue::read_head(value)?;
            engine.cx.rescues.insert(info.id, info);
        }
        for (_, value) in table(keys::PROOF) {
            let info = evidence::read_head(value)?;
            engine.cx.proofs.insert(info.id, info);
        }
        for (key, value) in table(keys::UNSENT) {
            engine.cx.unsent.load(key, value)?;
        }
        for (key, value) in table(keys::OPERATION) {
            engine.cx.operations.load(key, value)?;
        }
        engine.tell_old_drafts();
        for id in engine.active_groups() {
            engine.with_group(id, GroupWork::Look);
        }
        engine.go_on_becoming(true);
        engine.drain();
        let out = engine.finish();
        Ok((engine, out))
    }

    fn with(cx: Cx) -> Self {
        Self {
            cx,
            groups: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            invitations: BTreeMap::new(),
            waiting: Vec::new(),
            documents: 0,
        }
    }

    /// Whether this device belongs to a user: before, no service lets it in.
    #[must_use]
    pub fn is_enrolled(&self) -> bool {
        self.cx.device.credential().is_some()
    }

    /// Keys of another service that answers, and of the one that this device knows: nothing is sent to the other.
    #[must_use]
    pub fn other_service(&self) -> Option<([u8; 32], [u8; 32])> {
        let pinned = self.cx.service.pinned()?;
        Some((*pinned.stranger()?, *pinned.key()))
    }

    /// So many documents are in memory at most from now on, of all groups, where none of them has something to do. The usual number is 256.
    pub fn set_documents_in_memory(&mut self, most: usize) {
        self.cx.hot_documents = most.max(1);
    }

    /// One transition. Never fails: what goes wrong is told as a reply or an event.
    pub fn handle(&mut self, now: impl Into<Moment>, input: Input) -> Output {
        let now = now.into();
        self.tell_time(now);
        self.cx.rekeys_left = REKEYS;
        match input {
            Input::ConnectionUp { origin, token } => self.connection_up(origin, token),
            Input::ConnectionDown => self.connection_down(),
            Input::Unreachable => self.unreachable(),
            Input::Frame(frame) => self.frame(*frame),
            Input::Loaded { id, rows } => self.loaded(id, rows),
            Input::Command { id, command } => self.command(id, command),
            Input::Timer => {}
            Input::Worked { id, done } => self.worked(id, *done),
            Input::Stuck { id, begun } => self.stuck(id, begun),
        }
        self.drain();
        self.run_timers();
        self.run_presence();
        self.drain();
        self.go_on_becoming(false);
        self.go_on_revoking();
        self.answer_waiting();
        self.finish()
    }

    /// Time goes forward. A clock that was set back by more than a little is believed, and what waits moves with it: by how much the clock that never steps
    /// says, since this engine may have slept since it was last told the time.
    fn tell_time(&mut self, now: Moment) {
        let slept_ms = self.cx.presence.tell_time(now.steady_ms);
        let now = now.wall;
        let back_ms = self.cx.now.plus_ms(slept_ms).since_ms(now);
        if back_ms > CLOCK_SET_BACK_MS {
            self.move_back(back_ms);
            self.cx.now = now;
            self.cx.judge_clock();
        } else {
            self.cx.now = self.cx.now.max(now);
        }
    }

    /// What waits for a time waits for the same one by the clock as it was set.
    fn move_back(&mut self, by_ms: u64) {
        self.cx.timers.move_back(by_ms);
        self.cx.move_drafts_back(by_ms);
        self.cx.clocks.set_back(by_ms);
        self.cx.link.move_back(by_ms);
        self.cx.pulses.move_back(by_ms);
        for slot in self.groups.values_mut() {
            match slot {
                GroupSlot::Hot(whole) => whole.group.move_back(by_ms),
                GroupSlot::Stray(_, stray) => stray.move_back(by_ms),
                GroupSlot::Cold(_) | GroupSlot::Loading(..) => {}
            }
        }
    }

    pub(crate) fn finish(&mut self) -> Output {
        while self.documents > self.cx.hot_documents && self.evict_one() {}
        self.keep_findings();
        let cx = &mut self.cx;
        for change in cx.keystore.take_changes() {
            let key = [&[keys::KEY_PACKAGES], change.key.as_slice()].concat();
            match change.value {
                Some(value) => cx.put(key, value),
                None => cx.delete(key),
            }
        }
        let mut out = std::mem::take(&mut cx.out);
        out.wake_at = cx.timers.next();
        out.wake_steady_ms = cx.presence.due_ms();
        out
    }

    fn loaded(&mut self, id: ReadId, rows: Vec<Row>) {
        match self.cx.reads.remove(&id) {
            Some(ReadTarget::Group(group)) => self.group_loaded(group, rows),
            Some(ReadTarget::Evidence(command)) => self.cx.evidence_loaded(command, &rows),
            Some(ReadTarget::Proof(command)) => self.cx.proof_loaded(command, &rows),
            Some(ReadTarget::Stray(group)) => self.stray_loaded(group, rows),
            Some(ReadTarget::Thaw(group)) => self.with_group(group, GroupWork::Thaw(rows)),
            Some(ReadTarget::Gather(number)) => self.gathered(number, rows),
            Some(ReadTarget::Snapshot(group, document, seq)) => {
                let work = DocWork::SnapshotRead { seq, rows };
                self.with_group(group, GroupWork::Document(document, work));
            }
            Some(ReadTarget::Rescue(command, rescue, what)) => {
                self.cx.rescue_loaded(command, rescue, what, &rows);
            }
            None => {}
        }
    }

    /// Work may set timers for the present: only those due at the start are taken.
    fn run_timers(&mut self) {
        let now = self.cx.now;
        for kind in self.cx.timers.take_due(now) {
            match kind {
                TimerKind::Publish => self.cx.publish_again(),
                TimerKind::Packages => self.cx.packages_due(),
                TimerKind::Siblings => {}
                TimerKind::Clock => self.cx.compare_clocks(),
                TimerKind::Invitations => self.fetch_invitations(),
                TimerKind::NextOpen => self.open_next(),
                TimerKind::Lists => self.cx.look_up_next(),
                TimerKind::OwnList => self.cx.check_own_list(),
                TimerKind::Stray(group) => self.pump_stray(group),
                TimerKind::Beat(group) => self.beat_due(group),
                TimerKind::Heads(group) => self.heads_due(group),
                TimerKind::Group(group, what) => self.with_group(group, GroupWork::Timer(what)),
                TimerKind::Document(group, document, what) => {
                    self.with_document(group, document, DocWork::Timer(what));
                }
            }
        }
    }

    /// Does what was posted, then settles the groups that were worked on, until nothing is left of either.
    pub(crate) fn drain(&mut self) {
        loop {
            if let Some(what) = self.cx.posts.pop_front() {
                self.posted(what);
            } else if let Some(group) = self.unsettled.pop_first() {
                self.on_whole(group, |cx, whole| cx.settle_group(whole));
            } else {
                return;
            }
        }
    }

    fn posted(&mut self, what: Post) {
        match what {
            Post::Group(group, work) => self.with_group(group, work),
            Post::OfferInvitation(group) => self.offer_invitation(group),
            Post::KeepWelcome(delivery) => self.keep_welcome(*delivery),
            Post::RestoredEverywhere => self.restored_everywhere(),
            Post::End(group) => self.end_group(group),
            Post::List(command, what) => self.list_again(command, what),
            Post::ListNext(command) => self.list_next_group(command),
            Post::Refound(what) => self.refound(*what),
            Post::DevicesOf(user) => self.devices_changed(user),
            Post::RescueRoom => self.rescue_room(),
            Post::MakeRoom(group) => {
                if self.evict_one() {
                    self.with_group(group, GroupWork::Look);
                }
            }
        }
    }

    /// Does something with a group in memory. What waits of its documents' number is kept in step.
    pub(crate) fn on_whole<R>(
        &mut self,
        id: GroupId,
        what: impl FnOnce(&mut Cx, &mut Whole) -> R,
    ) -> Option<R> {
        let whole = self.groups.get_mut(&id)?.hot_mut()?;
        self.cx.documents_elsewhere = self.documents - whole.docs.in_memory();
        let result = what(&mut self.cx, whole);
        self.documents = self.cx.documents_elsewhere + whole.docs.in_memory();
        Some(result)
    }

    /// Documents in memory, of all groups.
    pub(crate) fn documents_here(&self) -> usize {
        self.documents
    }

    /// A group was worked on: it is settled before the transition ends.
    pub(crate) fn settle_later(&mut self, group: GroupId) {
        self.unsettled.insert(group);
    }

    /// Whether no group is still to be settled.
    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// Puts a group into memory, in place of whatever was there.
    pub(crate) fn insert_whole(&mut self, id: GroupId, mut whole: Whole) {
        whole.group.order = u128::from_be_bytes(self.cx.device.id().0);
        whole.group.note_documents();
        self.cx.leave_group_rooms(id);
        self.take_out(&id);
        self.documents += whole.docs.in_memory();
        self.groups.insert(id, GroupSlot::Hot(Box::new(whole)));
    }

    /// Takes a group out of memory.
    pub(crate) fn remove_group(&mut self, id: &GroupId) -> Option<GroupSlot> {
        self.cx.forget_group_presence(*id);
        self.take_out(id)
    }

    fn take_out(&mut self, id: &GroupId) -> Option<GroupSlot> {
        let slot = self.groups.remove(id)?;
        self.documents -= slot.hot().map_or(0, |whole| whole.docs.in_memory());
        Some(slot)
    }

    /// Works on a group: at once if it is in memory, else when its rows have come. Who waits for what can never be done is answered.
    pub(crate) fn with_group(&mut self, id: GroupId, work: GroupWork) {
        let refused = match self.groups.get_mut(&id) {
            Some(GroupSlot::Hot(_)) => {
                self.on_whole(id, |cx, whole| cx.group_work(whole, work));
                self.unsettled.insert(id);
                return;
            }
            Some(GroupSlot::Loading(_, queue)) => return queue.push(work),
            Some(GroupSlot::Stray(..)) => EngineError::Returning,
            Some(GroupSlot::Cold(here)) if here.is_active() => {
                let loading = GroupSlot::Loading(here.clone(), vec![work]);
                self.groups.insert(id, loading);
                let prefix = keys::group_prefix(&id);
                return self.cx.read(prefix, ReadTarget::Group(id));
            }
            Some(GroupSlot::Cold(_)) | None => EngineError::UnknownGroup,
        };
        self.cx.reply_all(work.waiter(), &refused);
        self.cx.pass_turns(&id);
    }

    /// As [`Self::with_group`], for work on a document.
    pub(crate) fn with_document(&mut self, group: GroupId, id: DocumentId, work: DocWork) {
        self.with_group(group, GroupWork::Document(id, work));
    }

    /// Whether this device is in a group, or believes so.
    pub(crate) fn is_member_of(&self, id: &GroupId) -> bool {
        self.groups
            .get(id)
            .is_some_and(|slot| slot.membership().is_active())
    }

    /// Whether the MLS rows of a group cannot be read.
    pub(crate) fn is_stray(&self, id: &GroupId) -> bool {
        matches!(self.groups.get(id), Some(GroupSlot::Stray(..)))
    }

    /// Groups in memory.
    pub(crate) fn wholes(&self) -> impl Iterator<Item = &Whole> {
        self.groups.values().filter_map(GroupSlot::hot)
    }

    /// A group, where it is in memory.
    pub(crate) fn whole(&self, id: &GroupId) -> Option<&Whole> {
        self.groups.get(id)?.hot()
    }
}
