//! Epoch roots: kept while a document needs them. Members supply each other with them by wraps, and ask where one is missing. What nobody
//! can supply is set aside.

mod doubts;
mod wraps;

use std::collections::{BTreeMap, BTreeSet};

use conclave_doc::KeySource;
use conclave_mls::{EpochRoot, EpochSecrets};
use conclave_proto::frame::Plea;
use conclave_proto::group::RootWrap;
use conclave_proto::policy::JoinerAccess;
use conclave_proto::record::CloseReason;
use conclave_proto::{DeviceId, DocumentId, UnixMs};
use serde::{Deserialize, Serialize};

use self::doubts::Doubts;
use crate::backoff::Backoff;
use crate::cx::Cx;
use crate::group::{Group, Whole};
use crate::keys;
use crate::timers::{GroupTimer, TimerKind};
use crate::work::{DocWork, GroupWork};

/// Answers after pleas, without the root, after which what it seals is set aside; if somebody gave roots and did not have it.
const ROUNDS: u32 = 2;
/// What nobody has answered about is set aside after so long on the connection, in milliseconds.
const PATIENCE_MS: u64 = 10 * 60 * 1000;
/// As [`PATIENCE_MS`], where roots are never wrapped.
const FROM_JOIN_PATIENCE_MS: u64 = 30 * 1000;
/// Between the first two pleas, in milliseconds. The pauses double.
const PLEA_MS: u64 = 5_000;
/// Longest pause between two pleas, in milliseconds.
const LONGEST_PLEA_MS: u64 = 5 * 60 * 1000;
/// Between two pleas for what is set aside, in milliseconds.
const ASIDE_PLEA_MS: u64 = 3600 * 1000;

/// A document that stands still for want of a root.
#[derive(Debug, Default)]
struct Wait {
    epoch: u64,
    /// Answers that came after a plea, without the root.
    rounds: u32,
    /// Whether a member gave roots, and this was not among them.
    without: bool,
    /// For how long it has waited on a connection, in milliseconds.
    waited_ms: u64,
}

/// What is missing of a group's roots.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    waiting: BTreeMap<DocumentId, Wait>,
    /// Documents with records set aside: their roots are still wanted.
    aside: BTreeSet<DocumentId>,
    /// Documents that cannot be opened for now, and how often that was tried.
    pub(crate) unopened: BTreeMap<DocumentId, Backoff>,
    /// How often members were asked since anything changed.
    pleas: Backoff,
    /// The epoch whose wraps are on their way.
    asked: Option<u64>,
    /// When waiting was last counted, on this connection.
    counted: Option<UnixMs>,
    /// Whether somebody asked this device for roots.
    heard_plea: bool,
}

impl Missing {
    /// A new epoch: everybody is asked anew. How long a document has waited stays.
    pub(crate) fn forget(&mut self) {
        self.pleas.reset();
        self.asked = None;
        for wait in self.waiting.values_mut() {
            wait.rounds = 0;
            wait.without = false;
        }
    }

    /// The connection is gone, and with it every answer.
    pub(crate) fn disconnected(&mut self) {
        self.forget();
        self.counted = None;
        self.unopened.clear();
    }

    /// Counts the time on the connection; not time that the device slept through.
    fn count(&mut self, now: UnixMs) {
        let planned_ms = self.pleas.last_ms(PLEA_MS, LONGEST_PLEA_MS);
        if let Some(since) = self.counted.replace(now) {
            let passed_ms = now.since_ms(since).min(planned_ms.saturating_mul(2));
            for wait in self.waiting.values_mut() {
                wait.waited_ms = wait.waited_ms.saturating_add(passed_ms);
            }
        }
    }
}

/// A stored epoch root.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RootRow {
    pub(crate) root: EpochRoot,
    /// When its epoch began, or when it came here.
    pub(crate) since: UnixMs,
    /// Whose wrap it came with, as long as it has opened nothing of anybody else.
    #[serde(default)]
    pub(crate) from: Option<DeviceId>,
}

/// Roots by epoch, and which of them are not certain.
#[derive(Debug, Default)]
pub(crate) struct Roots(pub(crate) BTreeMap<u64, EpochRoot>, pub(crate) Doubts);

impl KeySource for Roots {
    fn root(&self, epoch: u64) -> Option<EpochRoot> {
        self.0.get(&epoch).cloned()
    }
}

impl Group {
    /// With this policy nobody wraps roots.
    fn is_from_join(&self) -> bool {
        self.state().policy.joiner_access == JoinerAccess::FromJoin
    }

    /// Whether roots, or a sign of somebody else, are still wanted from the members.
    fn wants_roots(&self) -> bool {
        let missing = &self.missing;
        let alone = self.is_unproven() && !self.is_from_join();
        !missing.waiting.is_empty() || !missing.aside.is_empty() || alone
    }
}

impl Cx {
    /// Keeps the root of a new epoch; the wrap key and presence root of the old one are gone with their row.
    pub(crate) fn enter_epoch(&mut self, group: &mut Group, secrets: EpochSecrets) {
        let key = keys::group_row(&group.id, keys::group::SECRETS, b"");
        self.put(key, keys::cbor(&secrets));
        let (epoch, root) = (secrets.epoch, secrets.root.clone());
        if group
            .roots
            .0
            .get(&epoch)
            .is_some_and(|known| *known != root)
        {
            // What MLS gives is the root; whatever was here came from a wrap.
            group.roots.0.remove(&epoch);
            group.roots.1.forget(epoch);
            group.roots.1.note_false();
        }
        self.keep_root(group, epoch, root, None);
        group.secrets = Some(secrets);
    }

    /// Keeps a root; `from` is whose word it is on, if it is. One that differs from what is here is told of and not taken.
    pub(crate) fn keep_root(
        &mut self,
        group: &mut Group,
        epoch: u64,
        root: EpochRoot,
        from: Option<DeviceId>,
    ) -> bool {
        if let Some(known) = group.roots.0.get(&epoch) {
            if let Some(from) = from.filter(|_| *known != root) {
                if group.roots.1.is_open(epoch) {
                    group.roots.1.contest(epoch, root, from);
                } else {
                    self.wrong_wrap(group, from);
                }
            }
            return false;
        }
        group.roots.0.insert(epoch, root);
        let since = self.service_now();
        group.root_times.insert(epoch, since);
        match from {
            Some(from) => group.roots.1.came_from(epoch, from),
            None => group.roots.1.forget(epoch),
        }
        self.save_root(group, epoch);
        true
    }

    fn save_root(&mut self, group: &Group, epoch: u64) {
        let since = group.root_times.get(&epoch).copied();
        if let (Some(root), Some(since)) = (group.roots.0.get(&epoch).cloned(), since) {
            let from = group.roots.1.giver(epoch);
            let row = RootRow { root, since, from };
            let key = keys::group_row(&group.id, keys::group::ROOT, &epoch.to_be_bytes());
            self.put(key, keys::cbor(&row));
        }
    }

    /// Erases the roots that no document needs any more. Evidence is demanded for every listed document.
    pub(crate) fn erase_roots(&mut self, group: &mut Group) {
        // Breakage: roots go while a job reads by them.
        if !group.lent.is_empty() && !crate::broken("erase-while-away") {
            return;
        }
        if group.is_broken() || group.is_unproven() {
            // What is known of the documents may be another group's, or not all.
            return;
        }
        let current = group.state().epoch;
        let held = group.roots.0.keys().copied();
        let gone: Vec<u64> = held
            .filter(|epoch| *epoch < current && group.kept.is_needless(*epoch))
            .collect();
        for epoch in gone {
            if crate::broken("keep-roots") {
                // Breakage: roots that nothing needs are kept.
                continue;
            }
            self.drop_root(group, epoch);
            group.roots.1.forget(epoch);
        }
    }

    /// A root goes, from memory and the store.
    fn drop_root(&mut self, group: &mut Group, epoch: u64) -> Option<EpochRoot> {
        let key = keys::group_row(&group.id, keys::group::ROOT, &epoch.to_be_bytes());
        self.delete(key);
        group.root_times.remove(&epoch);
        group.roots.0.remove(&epoch)
    }

    /// A document stands still because a root is missing.
    pub(crate) fn root_missing(&mut self, group: &mut Group, document: DocumentId, epoch: u64) {
        let row = group.documents.entry(document).or_default();
        if row.missing.replace(epoch) != Some(epoch) {
            self.save_document_row(group, &document);
        }
        let was_member = group.state().row(&self.device.id(), epoch).is_some();
        if group.is_from_join() && !was_member {
            // Nothing older is wrapped: the document comes with its next snapshot.
            group.missing.waiting.remove(&document);
            return;
        }
        let missing = &mut group.missing;
        if missing.waiting.is_empty() {
            missing.counted = self.link.online.then_some(self.now);
        }
        let wait = missing.waiting.get(&document);
        if wait.is_none_or(|wait| wait.epoch != epoch) {
            let wait = Wait {
                epoch,
                ..Wait::default()
            };
            missing.waiting.insert(document, wait);
            missing.pleas.reset();
            self.seek_roots(group);
            self.plead_within(group, PLEA_MS);
        }
    }

    /// Looks for wraps of the current epoch, where there may be any.
    fn seek_roots(&mut self, group: &mut Group) {
        if group.wants_roots() && !group.is_broken() && !group.is_from_join() {
            self.ask_for_wraps(group);
        }
    }

    /// Asks the members after a while, unless what is missing has come; longer each time.
    pub(crate) fn plead_later(&mut self, group: &Group) {
        let missing = &group.missing;
        if !missing.waiting.is_empty() || group.is_unproven() {
            let pause_ms = missing.pleas.pause_ms(PLEA_MS, LONGEST_PLEA_MS);
            self.plead_within(group, pause_ms);
        } else if !missing.aside.is_empty() {
            let delay = self.jitter(ASIDE_PLEA_MS, ASIDE_PLEA_MS + LONGEST_PLEA_MS);
            self.plead_within(group, delay);
        }
    }

    fn plead_within(&mut self, group: &Group, delay: u64) {
        let kind = TimerKind::Group(group.id, GroupTimer::Roots);
        let at = self.now.plus_ms(delay);
        if self.timers.at(kind).is_some_and(|due| due > at) {
            self.cancel_timer(kind);
        }
        self.wake(delay, kind);
    }

    /// A document goes on.
    pub(crate) fn root_found(&mut self, group: &mut Group, document: DocumentId) {
        group.missing.waiting.remove(&document);
        group.missing.unopened.remove(&document);
        let row = group.documents.get_mut(&document);
        if row.is_some_and(|row| row.missing.take().is_some()) {
            self.save_document_row(group, &document);
        }
    }

    /// Notes whether records of a document are set aside: what they need stays wanted.
    pub(crate) fn note_aside(&mut self, group: &mut Group, document: DocumentId, aside: bool) {
        if !aside {
            group.missing.aside.remove(&document);
        } else if group.missing.aside.insert(document) {
            self.seek_roots(group);
            self.plead_later(group);
        }
    }

    /// In step with the log, on a new connection or again: documents go on, and members are asked for what is missing.
    pub(crate) fn back_in_step(&mut self, group: &mut Group) {
        self.post_group(group.id, GroupWork::RetryDocuments);
        if group.wants_roots() {
            let delay = self.jitter(100, 1_000);
            self.plead_within(group, delay);
        }
    }

    /// A new epoch has wraps of its own.
    pub(crate) fn roots_epoch_changed(&mut self, group: &mut Group) {
        self.open_again(group);
        self.seek_roots(group);
        if group.wants_roots() {
            self.plead_within(group, PLEA_MS);
        }
    }

    /// Roots are still missing: members are asked, and in the end what nobody can open is set aside.
    pub(crate) fn roots_due(&mut self, whole: &mut Whole) {
        let group = &mut whole.group;
        let documents = &group.mls.state().documents;
        let listed = |id: &DocumentId| {
            let entry = documents.get(id);
            entry.is_some_and(|it| it.closed.is_none_or(|why| why == CloseReason::Archived))
        };
        group.missing.waiting.retain(|id, _| listed(id));
        group.missing.aside.retain(|id| listed(id));
        if !group.wants_roots() || group.is_broken() {
            return;
        }
        if !self.link.online || !group.caught_up() {
            group.missing.counted = None;
            return self.plead_later(group);
        }
        group.missing.count(self.now);
        self.seek_roots(group);
        group.missing.pleas.next_ms(PLEA_MS, LONGEST_PLEA_MS);
        if group.is_from_join() {
            self.set_hopeless_aside(whole);
        } else {
            self.ask_members(group.id, Plea::Wrap);
        }
        self.plead_later(&whole.group);
    }

    /// An answer came after a plea: what of the missing roots is not in it?
    fn wraps_answered(&mut self, whole: &mut Whole, wraps: &[RootWrap]) {
        let group = &mut whole.group;
        let own = self.device.id();
        let waits = std::mem::take(&mut group.missing.waiting);
        let counted = waits.into_iter().map(|(document, mut wait)| {
            if !group.roots.0.contains_key(&wait.epoch) {
                wait.rounds = wait.rounds.saturating_add(1);
                let mut wraps = wraps.iter();
                wait.without |= wraps.any(|wrap| group.is_without(wrap, &own, wait.epoch));
            }
            (document, wait)
        });
        group.missing.waiting = counted.collect();
        self.set_hopeless_aside(whole);
    }

    fn set_hopeless_aside(&mut self, whole: &mut Whole) {
        let Whole { group, docs } = &mut *whole;
        let patience_ms = if group.is_from_join() {
            FROM_JOIN_PATIENCE_MS
        } else {
            PATIENCE_MS
        };
        let hot = |id| docs.get(id).is_some_and(|slot| slot.hot().is_some());
        let mut hopeless = Vec::new();
        for (document, wait) in &group.missing.waiting {
            let denied = wait.rounds >= ROUNDS && wait.without;
            if (denied || wait.waited_ms >= patience_ms) && hot(document) {
                hopeless.push(*document);
            }
        }
        for document in hopeless {
            whole.group.missing.waiting.remove(&document);
            self.document_work(whole, document, DocWork::SetAside);
        }
    }

    /// A device asks the members for help.
    pub(crate) fn asked(&mut self, group: &mut Group, device: DeviceId, what: Plea) {
        match what {
            Plea::Wrap => {
                group.missing.heard_plea = true;
                self.plan_wrap(group);
            }
            Plea::ReAdd => self.readd_asked(group, device),
        }
    }
}
