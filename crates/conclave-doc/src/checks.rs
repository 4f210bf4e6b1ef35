//! What this device itself knows of snapshots: its own full checks, what of them it has said, and which snapshot it has confirmed. No root goes on
//! anybody else's word.
//!
//! A device that opened the document from a snapshot **rests on** it: what lies before is on its author's word, and whatever this device computes
//! from there proves nothing about it. Its verdicts say from where it has judged, and vouch for nothing before; it names nobody. It is sure of what it has while
//! another user who judged the whole log finds that snapshot right and nobody contests it. What a device may do from where is one table ([`Ground`]).

mod basis;
mod before;
mod follow;
mod ground;
mod look;
mod overdue;
mod say;

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::policy::Role;
use conclave_proto::record::Record;
use conclave_proto::{DeviceId, Hash, UnixMs, UserId};
use conclave_rules::actions::Action;
use serde::{Deserialize, Serialize};

use crate::context::{CheckWanted, DocContext, PendingVerdict, RootsNeeded};
use crate::document::Document;
use crate::error::DocError;
use crate::heard::{Heard, Voice};
use crate::payload::{DiffersWhy, Judgement};
use crate::state::SnapshotInfo;

pub use basis::Basis;
pub(crate) use ground::{Ground, Went};
pub use look::Checked;
pub use overdue::Missed;
pub use say::Refuted;

/// Another user's match is so old before a root goes, by this device's own clock from when it took the match in, in milliseconds: there is time
/// to object.
const MATCH_AGE_MS: u64 = 3600 * 1000;
/// Of all devices that could check a snapshot, so many do, however large the group is.
const CHECKERS: u64 = 8;
/// How often an admin's device answers objections to one snapshot.
const ANSWERS: u8 = 16;
/// Users who are remembered for what they said or made, or for what of them was not looked at.
const LIARS: usize = 64;
/// Users of whom it is remembered when their match of one snapshot came.
const MATCHES: usize = 8;
/// Snapshots found right of which it is remembered what they cover.
const RIGHT: usize = 256;

/// What this device found of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mine {
    id: Hash,
    /// Whether the lot to check it fell on this device, once drawn.
    #[serde(default)]
    lot: Option<bool>,
    /// What this device has at the head that it covers, where that cannot be built any more.
    #[serde(default)]
    mark: Option<look::Mark>,
    /// What it had there before records were void that the snapshot covers: once for each void that came after it.
    #[serde(default)]
    before: Vec<look::Mark>,
    /// Whether the snapshot is one of those, or may be.
    #[serde(default)]
    was_right: Option<bool>,
    /// What it holds itself, where it is false.
    #[serde(default)]
    shown: Option<look::Mark>,
    /// Positions of false snapshots that it does not follow from: whoever made it has added something.
    #[serde(default)]
    adds_to: BTreeSet<u64>,
    /// Whether it is what follows from one, or that cannot be told.
    #[serde(default)]
    follows: bool,
    /// Whether the service has it no more.
    #[serde(default)]
    gone: look::Gone,
    /// Its version, where the program that looked at it did not know that: it is looked at by one that does.
    #[serde(default)]
    unknown: Option<u16>,
    /// When it was last seen to be the active one, give or take a day.
    #[serde(default)]
    active: Option<UnixMs>,
    /// What its own full check gave. Who made it knows that it is right, where somebody else is there to load it.
    found: Option<Judgement>,
    /// What of it this device has said.
    said: Option<Judgement>,
    /// How often it has said so again, in answer to objections.
    answered: u8,
    /// When other users' matches came here that stand.
    matched: BTreeMap<UserId, UnixMs>,
    /// Who was told of for what they say of it, or for having made it.
    named: BTreeSet<UserId>,
}

/// A snapshot that is right by the own word, and that another user found right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    info: SnapshotInfo,
    by: UserId,
    /// When that word came here.
    since: UnixMs,
}

/// What is durable of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct OwnWord {
    mine: Vec<Mine>,
    /// The snapshot below which nothing is needed any more.
    pub confirmed: Option<SnapshotInfo>,
    /// The oldest that it will confirm, where others have come meanwhile or not.
    waiting: Option<Waiting>,
    looks: look::Looks,
    heals: look::Heals,
    /// Users whose snapshots or verdicts its own checks refuted.
    liars: BTreeSet<UserId>,
    /// What the newest snapshots cover that it found right.
    right: BTreeSet<u64>,
    /// Snapshots that the log's state remembers no more, and of which this device still has to say something; with what is said of them.
    overdue: Vec<Heard>,
    /// Whose snapshots went from there before it could look.
    missed: Vec<overdue::Unlooked>,
    /// What the service has not given of a log that was here from its beginning, until that is told.
    passed: Option<PassedOver>,
    /// Positions of records that are void here, each with the group's epoch when this device learnt that.
    voided: BTreeMap<u64, u64>,
}

/// A part of the log that this device has not seen, though it had judged all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// Position of the first record.
    pub from: u64,
    /// Position of the first after them.
    pub to: u64,
}

/// What this device knows of snapshots beside the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checks {
    /// A snapshot as received, until it is checked: the newest, or one that was asked for.
    pub sealed: Option<Record>,
    pub ground: Ground,
    /// Where the service has given a leaf alone of what follows in the log.
    pub stub: Option<u64>,
    pub own: OwnWord,
}

impl Checks {
    /// As a document begins that is opened from a snapshot. A document's first is no word on anything before it.
    pub(crate) fn opened_from(base: &SnapshotInfo) -> Self {
        Self {
            ground: Ground::opened_from(base),
            ..Self::default()
        }
    }

    /// The document begins anew from a snapshot. Who has lied is not forgotten. What this device itself found right is nobody else's word.
    /// `size` is what there was of the log before.
    pub(crate) fn begin_from(&mut self, base: &SnapshotInfo, went: Went, size: u64) {
        let former = std::mem::take(self);
        let confirmed = former.own.confirmed.filter(|it| it.id == base.id);
        let found = former.found(&base.id) == Some(Judgement::Match);
        let stands = confirmed.is_some() || found;
        self.ground = match stands {
            true => former.ground,
            false => former.ground.begin_from(base, went),
        };
        let is_lost = former.ground.is_log() && !self.ground.is_log() && went == Went::Forward;
        self.own.passed = match is_lost {
            true => Some(PassedOver {
                from: size,
                to: base.covered.size,
            }),
            false => former.own.passed,
        };
        self.own.liars = former.own.liars;
        self.own.missed = former.own.missed;
        if stands {
            self.own.confirmed = confirmed;
            self.own.right = former.own.right;
            self.own.voided = former.own.voided;
            self.own.mine = former.own.mine;
            self.own.mine.retain(|it| it.id == base.id);
        }
    }

    /// The snapshot that this device rests on.
    pub(crate) fn rests_on(&self) -> Option<Hash> {
        self.ground.base().map(|base| base.on)
    }

    /// Position from which it has judged every record itself.
    pub(crate) fn from(&self) -> u64 {
        self.ground.base().map_or(0, |base| base.from)
    }

    /// A record is void. What this device knew before stays.
    pub(crate) fn note_void(&mut self, seq: u64, epoch: u64) {
        self.own.voided.entry(seq).or_insert(epoch);
    }

    /// Records from a position on are read again. Gives since when those of them were void that were.
    pub(crate) fn take_voids(&mut self, from: u64) -> BTreeMap<u64, u64> {
        self.own.voided.split_off(&from)
    }

    /// What the own full check of a snapshot gave, or that this device made it.
    pub(crate) fn found(&self, snapshot: &Hash) -> Option<Judgement> {
        self.get(snapshot).and_then(|it| it.found)
    }

    /// Whether this device has looked at a snapshot, and its program does not know that version.
    pub(crate) fn is_unreadable(&self, snapshot: &Hash) -> bool {
        self.get(snapshot).is_some_and(|it| !it.is_readable())
    }

    fn get(&self, snapshot: &Hash) -> Option<&Mine> {
        self.own.mine.iter().find(|it| it.id == *snapshot)
    }

    fn mine(&mut self, snapshot: Hash) -> Option<&mut Mine> {
        let known = self.own.mine.iter().position(|it| it.id == snapshot);
        let at = known.unwrap_or(self.own.mine.len());
        if known.is_none() {
            self.own.mine.push(Mine {
                id: snapshot,
                lot: None,
                mark: None,
                before: Vec::new(),
                was_right: None,
                shown: None,
                adds_to: BTreeSet::new(),
                follows: false,
                gone: look::Gone::No,
                unknown: None,
                active: None,
                found: None,
                said: None,
                answered: 0,
                matched: BTreeMap::new(),
                named: BTreeSet::new(),
            });
        }
        self.own.mine.get_mut(at)
    }

    /// What was found was found in another document.
    pub(crate) fn forget_found(&mut self) {
        for mine in &mut self.own.mine {
            mine.found = None;
            mine.adds_to.clear();
            mine.follows = false;
        }
        self.own.right.clear();
        self.own.waiting = None;
    }

    /// This device found a snapshot right, or made it.
    fn note_right(&mut self, covered: u64) {
        self.own.right.insert(covered);
        if self.own.right.len() > RIGHT {
            self.own.right.pop_first();
        }
    }
}

/// What became of a look at what can be confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// A later snapshot is confirmed now: roots may be needed no more, and [`Document::retry`] lets go of more.
    pub moved: bool,
    /// When to look again.
    pub again: Option<UnixMs>,
}

impl Document {
    /// Epochs whose roots this document needs; the engine erases a root when no document needs it.
    #[must_use]
    pub fn roots_needed(&self) -> RootsNeeded {
        let mut needed = self.needed_by_log();
        // Records since the checkpoint are stored sealed.
        needed.epochs.extend(self.content.tail_epochs());
        needed.all_from = needed.all_from.max(self.caught_up_epoch);
        needed
    }

    /// Of that, what the log itself needs, and looks that are still to be taken.
    pub(crate) fn needed_by_log(&self) -> RootsNeeded {
        let first = self.state.heard().first().map(|it| &it.info);
        let confirmed = self.checks.own.confirmed.as_ref();
        let confirmed = confirmed.or(first.filter(|it| it.is_first()));
        let mut needed = self.state.roots_needed(confirmed, self.size());
        needed.epochs.extend(self.owed_epochs());
        needed
    }

    /// Looks which snapshot this device can confirm: one that its own full check found right, or that it made, of which another user's match came
    /// here an hour ago by its own clock (`now`). In a group of one user the own check is enough. Who opened the document from a snapshot confirms that one
    /// when it is vouched for and no objection stands against it that weighs. Below what is confirmed no root is needed.
    pub fn confirm(&mut self, ctx: &DocContext<'_>, now: UnixMs) -> Confirmed {
        let mut outcome = Confirmed {
            moved: false,
            again: self.count_looks(now),
        };
        let Some(own) = ctx.own_row().map(|row| row.user) else {
            return outcome;
        };
        if !self.may_let_go(ctx) {
            return outcome;
        }
        let after = self.checks.own.confirmed.map_or(0, |it| it.seq);
        let mut waiting = self.forgotten(after);
        let heard = self.state.heard().iter().rev();
        let heard = heard.take_while(|it| it.info.seq > after);
        let open: Vec<Open> = heard.map(|it| self.open(ctx, own, it)).collect();
        for Open { info, by, right } in open {
            let first = self.first_match(info.id, &by, now);
            let due = first.map(|(_, since)| since.plus_ms(MATCH_AGE_MS));
            // Breakage: what others say is enough.
            let right = match right {
                Right::No if !by.is_empty() && crate::broken("confirm-unchecked") => Right::Matched,
                right => right,
            };
            let is_due = match right {
                Right::No => false,
                Right::Alone => true,
                Right::Matched => due.is_some_and(|at| at <= now),
            };
            if is_due {
                self.confirmed(&info);
                outcome.moved = true;
                break;
            }
            if right == Right::No {
                continue;
            }
            outcome.again = outcome.again.into_iter().chain(due).min();
            if let Some((by, since)) = first
                && waiting.is_none_or(|it| it.info.seq > info.seq)
            {
                waiting = Some(Waiting { info, by, since });
            }
        }
        if !outcome.moved {
            self.wait_for(waiting, now, &mut outcome);
        }
        outcome
    }

    /// What there is to confirm of a snapshot, and whose match counts for that.
    fn open(&self, ctx: &DocContext<'_>, own: UserId, heard: &Heard) -> Open {
        let info = heard.info;
        let is_base = self.checks.rests_on() == Some(info.id);
        let permits = |it: &&Voice| self.permits(ctx, heard, it);
        let user = |it: &Voice| it.user;
        let by: Vec<UserId> = match is_base {
            true => self
                .believed(heard.vouchers())
                .filter(permits)
                .map(user)
                .collect(),
            false => self
                .believed(heard.matches())
                .filter(permits)
                .map(user)
                .collect(),
        };
        let found = self.checks.found(&info.id) == Some(Judgement::Match);
        let right = match (is_base, ctx.one_user()) {
            // Breakage: whoever objects holds up everybody's erasing.
            _ if crate::broken("objection-stops") && self.has_objection(heard) => Right::No,
            (true, true) if info.user == own => Right::Alone,
            (false, true) if found => Right::Alone,
            (true, _) if self.is_vouched(heard) => Right::Matched,
            (false, false) if found && self.is_second(ctx, own, heard) => Right::Matched,
            _ => Right::No,
        };
        Open { info, by, right }
    }

    /// The one that waits, where so many have come since that it is not remembered what was said of it.
    fn forgotten(&self, after: u64) -> Option<Waiting> {
        let waiting = self.checks.own.waiting?;
        let is_forgotten = self.state.heard_of(&waiting.info.id).is_none();
        let counts = waiting.info.seq > after && !self.lied(&waiting.by);
        (is_forgotten && counts).then_some(waiting)
    }

    /// Keeps in mind which one is confirmed next. However many come meanwhile, its hour goes on.
    fn wait_for(&mut self, waiting: Option<Waiting>, now: UnixMs, outcome: &mut Confirmed) {
        let waiting = waiting.map(|it| Waiting {
            since: it.since.min(now),
            ..it
        });
        self.rows.meta_dirty |= self.checks.own.waiting != waiting;
        self.checks.own.waiting = waiting;
        let Some(waiting) = waiting else { return };
        let due = waiting.since.plus_ms(MATCH_AGE_MS);
        if due <= now {
            self.confirmed(&waiting.info);
            outcome.moved = true;
        } else {
            outcome.again = outcome.again.into_iter().chain([due]).min();
        }
    }

    /// Whether others say the same of a snapshot that this device found right. Where its own reading begins with one author's word, its own match is not
    /// enough beside the author's: somebody else's is asked for, if there is anybody.
    fn is_second(&self, ctx: &DocContext<'_>, own: UserId, heard: &Heard) -> bool {
        if self.is_sure() {
            return true;
        }
        let two = [own, heard.info.user];
        let other = self.believed(heard.matches()).any(|it| it.user != own);
        let contested = heard.is_contested(|user| !self.lied(user));
        !contested && (other || ctx.authority.is_of_users(ctx.authority.epoch(), &two))
    }

    /// Whose match of a snapshot came first of those whose match counts, and when.
    fn first_match(
        &mut self,
        snapshot: Hash,
        by: &[UserId],
        now: UnixMs,
    ) -> Option<(UserId, UnixMs)> {
        if by.is_empty() && self.checks.get(&snapshot).is_none() {
            return None;
        }
        let matched = &mut self.checks.mine(snapshot)?.matched;
        let before = matched.clone();
        matched.retain(|user, _| by.contains(user));
        for user in by {
            if matched.len() < MATCHES {
                matched.entry(*user).or_insert(now);
            }
        }
        // A clock that was set back begins anew.
        for since in matched.values_mut() {
            *since = (*since).min(now);
        }
        let first = matched.iter().min_by_key(|(_, since)| **since);
        let first = first.map(|(user, since)| (*user, *since));
        self.rows.meta_dirty |= *matched != before;
        first
    }

    fn confirmed(&mut self, snapshot: &SnapshotInfo) {
        let own = &mut self.checks.own;
        own.confirmed = Some(*snapshot);
        own.waiting = own.waiting.filter(|it| it.info.seq > snapshot.seq);
        self.state.confirm(snapshot);
        self.forget_checks();
        self.rows.meta_dirty = true;
    }

    /// What was found of snapshots that are not remembered any more goes, and what was void before all of them.
    pub(crate) fn forget_checks(&mut self) {
        let (state, own) = (&self.state, &mut self.checks.own);
        let overdue = &own.overdue;
        let is_known =
            |id: &Hash| state.heard_of(id).is_some() || overdue.iter().any(|it| it.info.id == *id);
        own.mine.retain(|it| is_known(&it.id));
        let others = state.heard().iter().skip(1).chain(overdue);
        if let Some(oldest) = others.map(|it| it.info.epoch).min() {
            own.voided.retain(|_, epoch| *epoch >= oldest);
        }
    }

    /// Snapshots that are remembered, with what is said of them: those that the log's state remembers, and those on which this device's word is overdue.
    pub(crate) fn remembered(&self) -> impl Iterator<Item = &Heard> {
        let overdue = self.checks.own.overdue.iter();
        overdue.chain(self.state.heard())
    }

    /// The leaf of the one at a position.
    pub(crate) fn remembered_at(&self, seq: u64) -> Option<Hash> {
        let of = self.remembered().find(|it| it.info.seq == seq);
        of.map(|it| it.info.id)
    }

    /// One of them.
    pub(crate) fn remembered_of(&self, snapshot: &Hash) -> Option<&Heard> {
        self.remembered().find(|it| it.info.id == *snapshot)
    }
}

/// A snapshot that may come to be confirmed.
struct Open {
    info: SnapshotInfo,
    /// Whose match counts for that.
    by: Vec<UserId>,
    right: Right,
}

/// How far a snapshot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    /// Nothing goes on it.
    No,
    /// It is right, if another user's match is an hour old.
    Matched,
    /// It is right, and there is nobody but this user.
    Alone,
}
