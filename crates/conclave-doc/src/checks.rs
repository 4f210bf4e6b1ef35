//! What this device itself knows of snapshots: its own full checks, what of them it has said, and which snapshot it has confirmed. No root goes on
//! anybody else's word.
//!
//! A device that opened the document from a snapshot **rests on** it: what lies before is on its author's word, and whatever this device computes
//! from there proves nothing about it. Its verdicts say from where it has judged, and vouch for nothing before. It is sure of what it has once another user who
//! judged the whole log found that snapshot right and nobody contests it. One that held the log before, and was moved to a snapshot that it could not check, lets go of no key on what others say of that.

mod basis;
mod look;
mod say;

use std::collections::BTreeSet;

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
pub use say::Refuted;

/// Another user's match is so old before a root goes, by this device's own clock from when it took the match in, in milliseconds: there is time
/// to object.
const MATCH_AGE_MS: u64 = 3600 * 1000;
/// Of all devices that could check a snapshot, so many do, however large the group is.
const CHECKERS: u64 = 8;
/// How often an admin's device answers objections to one snapshot.
const ANSWERS: u8 = 16;
/// Users whose untrue verdicts are remembered.
const LIARS: usize = 64;

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
    /// Whether the service has it no more.
    #[serde(default)]
    gone: bool,
    /// What its own full check gave. Who made it knows that it is right, where somebody else is there to load it.
    found: Option<Judgement>,
    /// What of it this device has said.
    said: Option<Judgement>,
    /// How often it has said so again, in answer to objections.
    answered: u8,
    /// When another user's match came here.
    matched: Option<UnixMs>,
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
    /// Users whose verdicts its own checks refuted.
    liars: BTreeSet<UserId>,
}

/// The snapshot that a device rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rests {
    pub on: Hash,
    /// Who made it.
    author: UserId,
    /// Whether it held the log before. Then it has keys that nobody else may have any more, and lets none go on what others say of this one.
    held: bool,
}

impl Rests {
    fn on(base: &SnapshotInfo, held: bool) -> Self {
        Self {
            on: base.id,
            author: base.user,
            held,
        }
    }
}

/// What this device knows of snapshots beside the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checks {
    /// A snapshot as received, until it is checked: the newest, or one that was asked for.
    pub sealed: Option<Record>,
    /// The snapshot from which this device opened the document, until it has confirmed a later one.
    pub rests: Option<Rests>,
    /// Position from which it has judged every record itself.
    pub from: u64,
    pub own: OwnWord,
}

impl Checks {
    /// As a document begins that is opened from a snapshot. A document's first is no word on anything before it.
    pub(crate) fn opened_from(base: &SnapshotInfo) -> Self {
        Self {
            rests: (!base.is_first()).then(|| Rests::on(base, false)),
            from: base.covered.size,
            ..Self::default()
        }
    }

    /// The document begins anew from a snapshot. Who has lied is not forgotten. What this device itself found right is nobody else's word.
    pub(crate) fn begin_from(&mut self, base: &SnapshotInfo) {
        let former = std::mem::take(self);
        let confirmed = former.own.confirmed.filter(|it| it.id == base.id);
        let found = former.found(&base.id) == Some(Judgement::Match);
        let stands = base.is_first() || confirmed.is_some() || found;
        (self.rests, self.from) = match former.rests {
            rests if stands => (rests, former.from),
            rests => {
                let held = rests.is_none_or(|it| it.held);
                (Some(Rests::on(base, held)), base.covered.size)
            }
        };
        self.own.liars = former.own.liars;
        if stands {
            self.own.confirmed = confirmed;
            self.own.mine = former.own.mine;
            self.own.mine.retain(|it| it.id == base.id);
        }
    }

    /// The snapshot that this device rests on.
    pub(crate) fn rests_on(&self) -> Option<Hash> {
        self.rests.map(|rests| rests.on)
    }

    /// Whether it held the log before it came to rest on one.
    fn was_moved(&self) -> bool {
        self.rests.is_some_and(|rests| rests.held)
    }

    /// What the own full check of a snapshot gave, or that this device made it.
    pub(crate) fn found(&self, snapshot: &Hash) -> Option<Judgement> {
        self.get(snapshot).and_then(|it| it.found)
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
                gone: false,
                found: None,
                said: None,
                answered: 0,
                matched: None,
                named: BTreeSet::new(),
            });
        }
        self.own.mine.get_mut(at)
    }

    /// What was found was found in another document.
    pub(crate) fn forget_found(&mut self) {
        self.own.mine.iter_mut().for_each(|it| it.found = None);
        self.own.waiting = None;
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

    /// Of that, what the log itself needs.
    pub(crate) fn needed_by_log(&self) -> RootsNeeded {
        let first = self.state.heard().first().map(|it| &it.info);
        let confirmed = self.checks.own.confirmed.as_ref();
        let confirmed = confirmed.or(first.filter(|it| it.is_first()));
        self.state.roots_needed(confirmed, self.size())
    }

    /// Looks which snapshot this device can confirm: one that its own full check found right, or that it made, of which another user's match came
    /// here an hour ago by its own clock (`now`). In a group of one user the own check is enough. Who opened the document from a snapshot confirms that one if
    /// no objection stands against it that weighs; but not if it held the log before. Below what is confirmed no root is needed.
    pub fn confirm(&mut self, ctx: &DocContext<'_>, now: UnixMs) -> Confirmed {
        let mut outcome = Confirmed {
            moved: false,
            again: self.count_looks(now),
        };
        let Some(own) = ctx.own_row().map(|row| row.user) else {
            return outcome;
        };
        let (alone, sure) = (ctx.one_user(), self.takes_part(ctx));
        if self.checks.was_moved() && !alone {
            return outcome;
        }
        let after = self.checks.own.confirmed.map_or(0, |it| it.seq);
        let mut waiting = self.forgotten(after);
        let open = self.state.heard().iter().rev();
        let open: Vec<(SnapshotInfo, Option<UserId>, bool)> = open
            .take_while(|it| it.info.seq > after)
            .map(|it| (it.info, self.matched_by(it), self.is_vouched(it)))
            .collect();
        for (info, by, vouched) in open {
            let matched = by.is_some();
            let is_base = self.checks.rests_on() == Some(info.id);
            let right = match is_base {
                true => vouched || (alone && info.user == own),
                false => {
                    let found = self.checks.found(&info.id) == Some(Judgement::Match);
                    found && sure && (alone || self.is_second(ctx, own, &info))
                }
            };
            let due = self.match_due(info.id, matched, now);
            // Breakage: what others say is enough.
            let right = right || (matched && crate::broken("confirm-unchecked"));
            if right
                && ((alone && (!is_base || info.user == own)) || due.is_some_and(|at| at <= now))
            {
                self.confirmed(&info, !is_base);
                outcome.moved = true;
                break;
            }
            let due = due.filter(|at| right && *at > now);
            outcome.again = outcome.again.into_iter().chain(due).min();
            if let (Some(by), Some(since)) = (by, due.and_then(|_| self.matched_since(&info.id)))
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
            self.confirmed(&waiting.info, true);
            outcome.moved = true;
        } else {
            outcome.again = outcome.again.into_iter().chain([due]).min();
        }
    }

    fn matched_since(&self, snapshot: &Hash) -> Option<UnixMs> {
        self.checks.get(snapshot).and_then(|it| it.matched)
    }

    /// Whether others say the same of a snapshot that this device found right. Where its own reading begins with one author's word, its own match is not
    /// enough beside the author's: somebody else's is asked for, if there is anybody.
    fn is_second(&self, ctx: &DocContext<'_>, own: UserId, snapshot: &SnapshotInfo) -> bool {
        if self.is_sure() {
            return true;
        }
        let two = [own, snapshot.user];
        let heard = self.state.heard_of(&snapshot.id);
        let mut matches = heard.into_iter().flat_map(Heard::matches);
        let other = matches.any(|it| it.user != own && !self.lied(&it.user));
        let contested = heard.is_some_and(|it| it.is_contested(|user| !self.lied(user)));
        !contested && (other || ctx.authority.is_of_users(ctx.authority.epoch(), &two))
    }

    /// When another user's match is old enough, where there is one.
    fn match_due(&mut self, snapshot: Hash, matched: bool, now: UnixMs) -> Option<UnixMs> {
        let known = self.checks.own.mine.iter().any(|it| it.id == snapshot);
        if !matched && !known {
            return None;
        }
        let mine = self.checks.mine(snapshot)?;
        // A clock that was set back begins anew.
        let before = mine.matched;
        let since = before.filter(|since| *since <= now).unwrap_or(now);
        mine.matched = matched.then_some(since);
        self.rows.meta_dirty |= mine.matched != before;
        mine.matched.map(|since| since.plus_ms(MATCH_AGE_MS))
    }

    fn confirmed(&mut self, snapshot: &SnapshotInfo, by_itself: bool) {
        let was_sure = self.is_sure();
        let own = &mut self.checks.own;
        own.confirmed = Some(*snapshot);
        own.waiting = own.waiting.filter(|it| it.info.seq > snapshot.seq);
        self.state.confirm(snapshot);
        // What one author alone says stays on that word, whatever is computed from there.
        if by_itself && was_sure && self.checks.rests.take().is_some() {
            self.claims_are_true();
        }
        self.forget_checks();
        self.rows.meta_dirty = true;
    }

    /// What was found of snapshots that are not remembered any more goes.
    pub(crate) fn forget_checks(&mut self) {
        let state = &self.state;
        let mine = &mut self.checks.own.mine;
        mine.retain(|it| state.heard_of(&it.id).is_some());
    }
}
