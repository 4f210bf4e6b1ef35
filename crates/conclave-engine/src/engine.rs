//! The engine itself: one transition at a time.

use std::collections::{BTreeMap, BTreeSet};

use conclave_mls::KeyStore;
use conclave_proto::{DocumentId, GroupId, RescueId, UnixMs, UserId};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

use crate::clock::Clocks;
use crate::command::{Event, Setup};
use crate::commands::Listing;
use crate::device::{Device, random};
use crate::document::{Doc, DocWork};
use crate::error::EngineError;
use crate::finding::{Finding, Findings};
use crate::group::{Group, GroupWork, IndexRow, Stray};
use crate::invitation::Invitation;
use crate::io::{CommandId, Input, Output, Read, ReadId, Row};
use crate::keys;
use crate::link::Link;
use crate::operations::Operations;
use crate::rescue::{self, Gather, Parted, RescueInfo, RescueUse};
use crate::settled::Until;
use crate::slot::Slot;
use crate::unsent::AllUnsent;

/// Most documents kept in memory without need.
pub(crate) const HOT_DOCUMENTS: usize = 256;

/// A pause that doubles each time, in milliseconds.
pub(crate) fn doubled_ms(first_ms: u64, times: u32, longest_ms: u64) -> u64 {
    (first_ms << times.min(20)).min(longest_ms)
}

/// A clock that goes back by more than this was set, in milliseconds.
const CLOCK_SET_BACK_MS: u64 = 60_000;

/// When to do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKind {
    /// Publish the own device list again.
    Publish,
    /// Publish key packages: again, or in place of old ones.
    Packages,
    /// Ask again about a user who is invited and has no device that can be added.
    Lacking(GroupId),
    /// Whoever waits for other devices of the user has waited long enough.
    Siblings,
    /// Look at a group's intents again.
    Pump(GroupId),
    /// Commit pending proposals of others.
    Cover(GroupId),
    /// Renew the own leaf.
    SelfUpdate(GroupId),
    /// Help with re-keying.
    Rotate(GroupId),
    /// Say again that re-keying is complete.
    Complete(GroupId),
    /// Write a verdict.
    Verdict(GroupId, DocumentId),
    /// Try a snapshot again after a refusal, if one is still due.
    Snapshot(GroupId, DocumentId),
    /// Make the snapshot that another device was to make, if it is still due.
    SnapshotTurn(GroupId, DocumentId),
    /// See again what a document lacks.
    Fetch(GroupId, DocumentId),
    /// Ask again to open a document.
    Open(GroupId, DocumentId),
    /// See whether somebody lacks roots that are here.
    Wrap(GroupId),
    /// Look at the GroupInfo that the service keeps.
    CheckInfo(GroupId),
    /// Look for documents under old roots.
    Ages(GroupId),
    /// Ask for roots that are still missing.
    Roots(GroupId),
    /// Try again to get back into a group whose MLS rows were lost.
    Stray(GroupId),
    /// Compare the clocks again.
    Clock,
    /// Take in invitations that were left at the service.
    Invitations,
}

pub(crate) enum ReadTarget {
    Group(GroupId),
    Document(GroupId, DocumentId),
    /// What is left of a group whose MLS rows cannot be read.
    Stray(GroupId),
    /// Kept evidence of a frozen group, to be judged again.
    Thaw(GroupId),
    /// Kept evidence, for whoever asks.
    Evidence(CommandId),
    /// Some of the rows that are read together.
    Gather(u64),
    /// A rescue copy, for whoever asks.
    Rescue(CommandId, RescueId, RescueUse),
}

/// One device as a state machine. See the crate documentation.
pub struct Engine {
    pub(crate) device: Device,
    pub(crate) keystore: KeyStore,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) now: UnixMs,
    pub(crate) out: Output,
    pub(crate) link: Link,
    pub(crate) clocks: Clocks,
    pub(crate) index: BTreeMap<GroupId, IndexRow>,
    pub(crate) groups: BTreeMap<GroupId, Slot<Group, GroupWork>>,
    /// Groups whose MLS rows cannot be read: this device is on its way back into them.
    pub(crate) strays: BTreeMap<GroupId, Stray>,
    /// Groups that this device cannot follow, of those in memory.
    pub(crate) broken: BTreeSet<GroupId>,
    /// Groups in which this store was found older than what its device has done.
    pub(crate) restored: BTreeSet<GroupId>,
    pub(crate) documents: BTreeMap<(GroupId, DocumentId), Slot<Doc, DocWork>>,
    /// Documents that the service was asked for.
    pub(crate) opening: BTreeSet<(GroupId, DocumentId)>,
    pub(crate) invitations: BTreeMap<GroupId, Invitation>,
    /// Own edits that were kept apart.
    pub(crate) rescues: BTreeMap<RescueId, RescueInfo>,
    /// What waits for room to keep edits apart, and was told of.
    pub(crate) rescue_full: BTreeSet<(GroupId, Option<DocumentId>)>,
    /// Groups whose membership has ended, while their rows are read once more.
    pub(crate) parting: BTreeMap<GroupId, Parted>,
    /// Rows that are read together.
    pub(crate) gathers: BTreeMap<u64, Gather>,
    /// Who waits for documents whose own edits are being kept apart.
    pub(crate) letting_go: BTreeMap<(GroupId, DocumentId), Vec<CommandId>>,
    /// Commands that look into groups, while these come into memory.
    pub(crate) listing: BTreeMap<CommandId, Listing>,
    pub(crate) operations: Operations,
    /// What waits for the service.
    pub(crate) unsent: AllUnsent,
    /// Commands that wait for the device to be in step.
    pub(crate) waiting: Vec<(CommandId, Until)>,
    pub(crate) timers: BTreeSet<(UnixMs, TimerKind)>,
    pub(crate) next_id: u64,
    pub(crate) findings: Findings,
    /// What was found in this transition, and how many events came before.
    pub(crate) found: Vec<(usize, Finding)>,
    reads: BTreeMap<ReadId, ReadTarget>,
    next_read: u64,
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
        let mut engine = Self::with(device, keystore, rng, now);
        engine.device.save(&mut engine.out.writes);
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
        let mut engine = Self::with(device, keystore, rng, now);
        for (key, value) in table(keys::INDEX) {
            let what = "group index";
            let id = key.get(1..).and_then(GroupId::from_slice);
            let id = id.ok_or(EngineError::Store { what })?;
            engine.index.insert(id, keys::uncbor(what, value)?);
        }
        for (key, value) in table(keys::INVITATION) {
            let what = "invitation";
            let id = key.get(1..).and_then(GroupId::from_slice);
            let id = id.ok_or(EngineError::Store { what })?;
            engine.invitations.insert(id, Invitation::load(value)?);
        }
        engine.findings = Findings::load(table(keys::FINDING));
        engine.findings_loaded();
        for (_, value) in table(keys::RESCUE) {
            let info = rescue::read_head(value)?;
            engine.rescues.insert(info.id, info);
        }
        for (key, value) in table(keys::UNSENT) {
            engine.unsent.load(key, value)?;
        }
        for (key, value) in table(keys::OPERATION) {
            engine.operations.load(key, value)?;
        }
        for id in engine.active_groups() {
            engine.with_group(id, Box::new(|_, _| {}));
        }
        let out = engine.finish();
        Ok((engine, out))
    }

    fn with(device: Device, keystore: KeyStore, rng: ChaCha20Rng, now: UnixMs) -> Self {
        Self {
            device,
            keystore,
            rng,
            now,
            out: Output::default(),
            link: Link::default(),
            clocks: Clocks::default(),
            index: BTreeMap::new(),
            groups: BTreeMap::new(),
            strays: BTreeMap::new(),
            broken: BTreeSet::new(),
            restored: BTreeSet::new(),
            documents: BTreeMap::new(),
            opening: BTreeSet::new(),
            invitations: BTreeMap::new(),
            rescues: BTreeMap::new(),
            rescue_full: BTreeSet::new(),
            parting: BTreeMap::new(),
            gathers: BTreeMap::new(),
            letting_go: BTreeMap::new(),
            listing: BTreeMap::new(),
            operations: Operations::default(),
            unsent: AllUnsent::default(),
            waiting: Vec::new(),
            timers: BTreeSet::new(),
            next_id: 1,
            findings: Findings::default(),
            found: Vec::new(),
            reads: BTreeMap::new(),
            next_read: 1,
        }
    }

    /// Whether this device belongs to a user: before, no service lets it in.
    #[must_use]
    pub fn is_enrolled(&self) -> bool {
        self.device.credential().is_some()
    }

    /// One transition. Never fails: what goes wrong is told as a reply or an event.
    pub fn handle(&mut self, now: UnixMs, input: Input) -> Output {
        self.tell_time(now);
        match input {
            Input::ConnectionUp { origin, token } => self.connection_up(origin, token),
            Input::ConnectionDown => self.connection_down(),
            Input::Frame(frame) => self.frame(*frame),
            Input::Loaded { id, rows } => self.loaded(id, rows),
            Input::Command { id, command } => self.command(id, command),
            Input::Timer => {}
        }
        self.run_timers();
        self.answer_waiting();
        self.finish()
    }

    /// Time goes forward. A clock that was set back by more than a little is believed, and timers move with it.
    fn tell_time(&mut self, now: UnixMs) {
        let back_ms = self.now.since_ms(now);
        if back_ms > CLOCK_SET_BACK_MS {
            let moved = std::mem::take(&mut self.timers).into_iter();
            self.timers = moved
                .map(|(at, kind)| (UnixMs(at.0.saturating_sub(back_ms)), kind))
                .collect();
            self.clocks.set_back(back_ms);
            self.now = now;
            self.judge_clock();
        } else {
            self.now = self.now.max(now);
        }
    }

    fn finish(&mut self) -> Output {
        self.evict();
        self.keep_findings();
        for change in self.keystore.take_changes() {
            let key = [&[keys::KEY_PACKAGES], change.key.as_slice()].concat();
            match change.value {
                Some(value) => self.out.writes.put(key, value),
                None => self.out.writes.delete(key),
            }
        }
        let mut out = std::mem::take(&mut self.out);
        out.wake_at = self.timers.first().map(|(at, _)| *at);
        out
    }

    fn loaded(&mut self, id: ReadId, rows: Vec<Row>) {
        match self.reads.remove(&id) {
            Some(ReadTarget::Group(group)) => self.group_loaded(group, rows),
            Some(ReadTarget::Document(group, document)) => {
                self.document_loaded(group, document, rows);
            }
            Some(ReadTarget::Evidence(command)) => self.evidence_loaded(command, &rows),
            Some(ReadTarget::Stray(group)) => self.stray_loaded(group, rows),
            Some(ReadTarget::Thaw(group)) => self.evidence_again(group, rows),
            Some(ReadTarget::Gather(number)) => self.gathered(number, rows),
            Some(ReadTarget::Rescue(command, rescue, what)) => {
                self.rescue_loaded(command, rescue, what, &rows);
            }
            None => {}
        }
    }

    fn run_timers(&mut self) {
        // Work may set timers for the present: take only those due at the start.
        let now = self.now;
        let due: Vec<(UnixMs, TimerKind)> = self
            .timers
            .iter()
            .take_while(|(at, _)| *at <= now)
            .copied()
            .collect();
        for entry in due {
            self.timers.remove(&entry);
            match entry.1 {
                TimerKind::Publish => self.publish_again(),
                TimerKind::Packages => self.packages_due(),
                TimerKind::Siblings => {}
                TimerKind::Lacking(group) | TimerKind::Pump(group) => {
                    self.with_group(group, Box::new(|_, _| {}))
                }
                TimerKind::Cover(group) => {
                    self.with_group(group, Box::new(|_, group| group.cover_due = true))
                }
                TimerKind::SelfUpdate(group) => self.self_update_due(group),
                TimerKind::Rotate(group) => self.with_group(
                    group,
                    Box::new(|engine, group| engine.take_over_rotation(group)),
                ),
                TimerKind::Complete(group) => {
                    self.with_group(group, Box::new(|_, group| group.completing = false))
                }
                TimerKind::Snapshot(group, document) => self.snapshot_again(group, document),
                TimerKind::SnapshotTurn(group, document) => self.snapshot_turn(group, document),
                TimerKind::Fetch(group, document) => self.with_group(
                    group,
                    Box::new(move |engine, group| engine.retry_document(group, document)),
                ),
                TimerKind::Verdict(group, document) => self.verdict_due(group, document),
                TimerKind::Wrap(group) => {
                    self.with_group(group, Box::new(|engine, group| engine.wrap_due(group)));
                }
                TimerKind::CheckInfo(group) => {
                    self.with_group(group, Box::new(|engine, group| engine.check_info(group)));
                }
                TimerKind::Ages(group) => {
                    self.with_group(group, Box::new(|engine, group| engine.ages_due(group)));
                }
                TimerKind::Roots(group) => {
                    self.with_group(group, Box::new(|engine, group| engine.roots_due(group)));
                }
                TimerKind::Stray(group) => self.pump_stray(group),
                TimerKind::Clock => self.compare_clocks(),
                TimerKind::Invitations => self.fetch_invitations(),
                TimerKind::Open(group, document) => self.open_due(group, document),
            }
        }
    }

    /// Sets a timer; an earlier one of the same kind stays.
    pub(crate) fn wake(&mut self, after_ms: u64, kind: TimerKind) {
        if !self.timers.iter().any(|(_, other)| *other == kind) {
            self.timers.insert((self.now.plus_ms(after_ms), kind));
        }
    }

    /// Sets a timer between the bounds, unless one of its kind is set.
    pub(crate) fn plan(&mut self, from_ms: u64, to_ms: u64, kind: TimerKind) {
        if !self.timers.iter().any(|(_, other)| *other == kind) {
            let delay = self.jitter(from_ms, to_ms);
            self.timers.insert((self.now.plus_ms(delay), kind));
        }
    }

    pub(crate) fn cancel_timer(&mut self, kind: TimerKind) {
        self.timers.retain(|(_, other)| *other != kind);
    }

    /// A delay in milliseconds drawn between the bounds.
    pub(crate) fn jitter(&mut self, from_ms: u64, to_ms: u64) -> u64 {
        let span = to_ms.saturating_sub(from_ms).saturating_add(1);
        from_ms + self.rng.next_u64() % span
    }

    pub(crate) fn read(&mut self, prefix: Vec<u8>, target: ReadTarget) {
        let id = ReadId(self.next_read);
        self.next_read += 1;
        self.reads.insert(id, target);
        self.out.reads.push(Read { id, prefix });
    }

    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        // In the order of time; who keeps them durably makes sure that none repeats after a restart within one millisecond.
        (self.now.0 << 20) | (self.next_id & 0xf_ffff)
    }

    pub(crate) fn random16(&mut self) -> [u8; 16] {
        random(&mut self.rng)
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.out.events.push(event);
    }

    /// What a user is called here.
    pub(crate) fn name_of(&self, user: &UserId) -> Option<String> {
        self.device.name_of(user)
    }

    /// Stores a row.
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Zeroizing<Vec<u8>>) {
        self.out.writes.put(key, value);
    }

    /// Deletes a row.
    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.out.writes.delete(key);
    }
}
