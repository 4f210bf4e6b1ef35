//! What this device itself knows of snapshots: its own full checks, what of them it has said, and which snapshot it has confirmed. No root goes on
//! anybody else's word.
//!
//! A device that opened the document from a snapshot **rests on** it: what lies before is on its author's word, and whatever this device computes
//! from there proves nothing about it. It takes part as others do once another user found that snapshot right and nobody contests it.

use std::collections::BTreeSet;

use conclave_proto::policy::Role;
use conclave_proto::record::Record;
use conclave_proto::{DeviceId, Hash, UnixMs, UserId};
use conclave_rules::actions::Action;
use serde::{Deserialize, Serialize};

use crate::context::{CheckWanted, DocContext, PendingVerdict, RootsNeeded};
use crate::document::Document;
use crate::error::DocError;
use crate::heard::Heard;
use crate::payload::{DiffersWhy, Judgement, SnapshotPayload, VerdictPayload};
use crate::seal::{DocKeys, open};
use crate::state::SnapshotInfo;

/// Another user's match is so old before a root goes, by this device's own clock from when it took the match in, in milliseconds: there is time
/// to object.
const MATCH_AGE_MS: u64 = 3600 * 1000;
/// Of all devices that could check a snapshot, so many do, however large the group is.
const CHECKERS: u64 = 8;
/// How often an admin's device answers objections to one snapshot.
const ANSWERS: u8 = 4;
/// Users whose untrue verdicts are remembered.
const LIARS: usize = 64;

/// What this device found of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mine {
    id: Hash,
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

/// What is durable of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct OwnWord {
    mine: Vec<Mine>,
    /// The snapshot below which nothing is needed any more.
    pub confirmed: Option<SnapshotInfo>,
    /// The snapshot for which a lot was drawn, and whether it fell on this device.
    lot: Option<(Hash, bool)>,
    /// Users whose verdicts its own checks refuted.
    liars: BTreeSet<UserId>,
}

/// What this device knows of snapshots beside the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checks {
    /// The active snapshot as received, until it is checked.
    pub sealed: Option<Record>,
    /// The snapshot from which this device opened the document, until it has confirmed a later one.
    pub rests_on: Option<Hash>,
    pub own: OwnWord,
}

impl Checks {
    /// As a document begins that rests on a snapshot.
    pub(crate) fn resting_on(base: Option<Hash>) -> Self {
        Self {
            rests_on: base,
            ..Self::default()
        }
    }

    /// The document begins anew from a snapshot. Who has lied is not forgotten.
    pub(crate) fn rest_on(&mut self, base: Hash) {
        let liars = std::mem::take(&mut self.own.liars);
        *self = Self::resting_on(Some(base));
        self.own.liars = liars;
    }

    /// What the own full check of a snapshot gave, or that this device made it.
    pub(crate) fn found(&self, snapshot: &Hash) -> Option<Judgement> {
        let mine = self.own.mine.iter().find(|it| it.id == *snapshot);
        mine.and_then(|it| it.found)
    }

    fn mine(&mut self, snapshot: Hash) -> Option<&mut Mine> {
        let known = self.own.mine.iter().position(|it| it.id == snapshot);
        let at = known.unwrap_or(self.own.mine.len());
        if known.is_none() {
            self.own.mine.push(Mine {
                id: snapshot,
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
    }
}

/// On what a document rests that this device shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "on")]
pub enum Basis {
    /// This device judged every record itself, or has confirmed a snapshot by its own check.
    Checked,
    /// Other users found the snapshot right from which this device opened the document.
    Vouched {
        /// Who made it.
        author: UserId,
        /// Who found it right.
        by: Vec<UserId>,
    },
    /// Its author alone says that it is right.
    Word {
        /// Who made it.
        author: UserId,
    },
    /// Somebody says that it is wrong.
    Disputed {
        /// Who made it.
        author: UserId,
        /// Who found it right.
        for_it: Vec<UserId>,
        /// Who says that it differs from the log.
        against: Vec<UserId>,
    },
}

/// What the own full check has refuted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refuted {
    /// A snapshot: it is not what the log says.
    Snapshot {
        /// Its position.
        seq: u64,
        /// Who made it.
        device: DeviceId,
    },
    /// A verdict on the snapshot at a position.
    Verdict {
        /// The snapshot's position.
        seq: u64,
        /// Whose it is.
        user: UserId,
    },
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
    /// Whether what this device computes proves something about the whole log.
    pub(crate) fn is_sure(&self) -> bool {
        self.checks.rests_on.is_none() || self.base().is_some_and(|base| self.is_vouched(base))
    }

    /// The snapshot that this device rests on, and what is said of it.
    fn base(&self) -> Option<&Heard> {
        self.state.heard_of(&self.checks.rests_on?)
    }

    /// Whether another user finds it right, and no objection stands that weighs.
    fn is_vouched(&self, base: &Heard) -> bool {
        self.is_matched(base) && !base.is_contested(|user| !self.lied(user))
    }

    fn is_matched(&self, heard: &Heard) -> bool {
        heard.matches().any(|it| !self.lied(&it.user))
    }

    fn lied(&self, user: &UserId) -> bool {
        self.checks.own.liars.contains(user)
    }

    /// Whether anybody objects to the snapshot that this device rests on.
    pub(crate) fn base_is_disputed(&self) -> bool {
        let mut against = self.base().into_iter().flat_map(Heard::objections);
        against.any(|it| !self.lied(&it.user))
    }

    /// Whether the active snapshot says something else than what this device has, or this device cannot tell.
    pub(crate) fn says_otherwise(&self) -> bool {
        match self.checks.found(&self.state.active.id) {
            Some(found) => found != Judgement::Match,
            None => self.size() > self.state.active.seq && !self.can_check(),
        }
    }

    /// On what this document rests here. Verdicts that this device has refuted do not count.
    #[must_use]
    pub fn basis(&self) -> Basis {
        let Some(base) = self.base() else {
            return Basis::Checked;
        };
        let author = base.info.user;
        let believed = |it: &&crate::heard::Voice| !self.lied(&it.user);
        let by: Vec<UserId> = base.matches().filter(believed).map(|it| it.user).collect();
        let against = base.objections().filter(believed).map(|it| it.user);
        let against: Vec<UserId> = against.collect();
        if !against.is_empty() {
            Basis::Disputed {
                author,
                for_it: by,
                against,
            }
        } else if by.is_empty() {
            Basis::Word { author }
        } else {
            Basis::Vouched { author, by }
        }
    }

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

    /// Keeps a snapshot that has its place, if it may have to be checked.
    pub(crate) fn keep_for_check(&mut self, ctx: &DocContext<'_>, record: &Record) {
        let made = self.snapshot.as_ref().is_some_and(|own| own == record);
        if made {
            self.snapshot = None;
            self.rows.snapshot_dirty = true;
        }
        // Alone, a user looks whether the own one can be loaded: nobody else does.
        let knows = made && !ctx.one_user();
        if knows && let Some(mine) = self.checks.mine(record.leaf()) {
            mine.found = Some(Judgement::Match);
            mine.said = mine.found;
            self.rows.meta_dirty = true;
        }
        self.checks.sealed = (!knows).then(|| record.clone());
    }

    /// Whether this device is able to check the active snapshot, and has not.
    fn can_check(&self) -> bool {
        let active = &self.state.active;
        let covered = active.covered.size;
        self.size() > active.seq
            && !active.is_first()
            && self.checks.rests_on != Some(active.id)
            && self.checks.found(&active.id).is_none()
            && !self.aside.is_tainted()
            && self.content.checkpoint.size <= covered
            // What it holds of a record set aside cannot be told from here.
            && self.content.aside.range(..covered).next().is_none()
    }

    /// Whether a lot is to be drawn if this device checks the active snapshot.
    #[must_use]
    pub fn is_lot_open(&self) -> bool {
        let drawn = self.checks.own.lot.map(|(id, _)| id);
        self.can_check() && self.is_sure() && drawn != Some(self.state.active.id)
    }

    /// Draws it, among so many devices that hold the log: nobody can know on whom it falls.
    pub fn draw_lot(&mut self, devices: u64, random: u64) {
        let falls = random % devices.max(1) < CHECKERS;
        self.checks.own.lot = Some((self.state.active.id, falls));
        self.rows.meta_dirty = true;
    }

    /// The active snapshot, where this device is to check it: the lot fell on it, or somebody objects, or roots could go afterwards. One that
    /// rests on a disputed snapshot checks the next, to see whether it says something else.
    #[must_use]
    pub fn check_wanted(&self, ctx: &DocContext<'_>) -> Option<CheckWanted> {
        let active = &self.state.active;
        if !self.can_check() || !self.is_check_due(ctx) {
            return None;
        }
        let have = self.checks.sealed.as_ref();
        Some(CheckWanted {
            seq: active.seq,
            have: have.is_some_and(|record| record.leaf() == active.id),
        })
    }

    fn is_check_due(&self, ctx: &DocContext<'_>) -> bool {
        if !self.is_sure() {
            return self.base_is_disputed();
        }
        let active = &self.state.active;
        let lot = self.checks.own.lot == Some((active.id, true));
        let mut said = self.state.heard_of(&active.id).into_iter();
        lot || said.any(|it| it.objections().any(|it| !self.lied(&it.user))) || self.frees(ctx)
    }

    /// Whether roots that are here could go if the active snapshot were confirmed.
    fn frees(&self, ctx: &DocContext<'_>) -> bool {
        let now = self.needed_by_log();
        let then = self
            .state
            .roots_needed(Some(&self.state.active), self.size());
        let mut gone = now.epochs.iter().filter(|epoch| !then.needs(**epoch));
        now.all_below > 0 || gone.any(|epoch| ctx.keys.root(*epoch).is_some())
    }

    /// Checks the active snapshot against this device's own log: loads both in scratch documents and compares what they hold. Takes time
    /// linear in the document: for when the device is idle. `None` where [`Document::check_wanted`] does not have it.
    ///
    /// # Errors
    /// [`DocError::MissingRoot`], and [`DocError::Crdt`] when the own state cannot be built.
    pub fn check_snapshot(&mut self, ctx: &DocContext<'_>) -> Result<Option<Judgement>, DocError> {
        if !self.check_wanted(ctx).is_some_and(|wanted| wanted.have) {
            return Ok(None);
        }
        let Some(record) = self.checks.sealed.clone() else {
            return Ok(None);
        };
        let judgement = match self.compare_snapshot(ctx, &record)? {
            Ok(()) => Judgement::Match,
            Err(why) => Judgement::Differs(why),
        };
        if let Some(mine) = self.checks.mine(self.state.active.id) {
            mine.found = Some(judgement);
        }
        self.checks.sealed = None;
        self.rows.meta_dirty = true;
        self.maintain(ctx)?;
        Ok(Some(judgement))
    }

    fn compare_snapshot(
        &mut self,
        ctx: &DocContext<'_>,
        record: &Record,
    ) -> Result<Result<(), DiffersWhy>, DocError> {
        let covered = self.state.active.covered;
        let epoch = record.header.epoch;
        let root = ctx
            .keys
            .root(epoch)
            .ok_or(DocError::MissingRoot { epoch })?;
        let payload = open(record, &DocKeys::derive(&root, &self.id)).ok();
        let Some(payload) = payload.and_then(|bytes| SnapshotPayload::from_bytes(&bytes).ok())
        else {
            return Ok(Err(DiffersWhy::Unreadable));
        };
        let tables = self.content.state_at(covered.size).tables;
        if payload.frontier.head() != covered || payload.tables != tables {
            return Ok(Err(DiffersWhy::Tables));
        }
        let kind = self.kind();
        let digest = conclave_crdt::load(kind, &payload.state, self.fresh.replica(kind))
            .and_then(|mut scratch| scratch.content_digest());
        let Ok(digest) = digest else {
            return Ok(Err(DiffersWhy::Unloadable));
        };
        let mut own =
            self.content
                .rebuild(covered.size, &Default::default(), &[], &mut self.fresh)?;
        Ok(if own.content_digest()? == digest {
            Ok(())
        } else {
            Err(DiffersWhy::Content)
        })
    }

    /// The verdict that this device should write, after waiting a random time: a `Match` only if no other user's is there yet, or if an admin's
    /// is to answer an objection. Who rests on a snapshot that nobody else found right says nothing.
    #[must_use]
    pub fn pending_verdict(&self, ctx: &DocContext<'_>) -> Option<PendingVerdict> {
        let active = &self.state.active;
        let mine = self.checks.own.mine.iter().find(|it| it.id == active.id)?;
        let (heard, own) = (self.state.heard_of(&active.id)?, ctx.own_row()?);
        let judgement = mine.found?;
        let fresh = mine.said != Some(judgement);
        let needed = match judgement {
            Judgement::Differs(_) => fresh && !self.differs_alone(ctx),
            Judgement::Match if own.user == active.user => false,
            Judgement::Match => {
                let admin = own.role >= Role::Admin && mine.answered < ANSWERS;
                let answers = admin && heard.is_contested(|_| true);
                (fresh && heard.matches().next().is_none()) || answers
            }
        };
        // One at a time: what is said shows when it is in the log.
        let waits = self.outbox.has_verdicts();
        (self.is_sure() && needed && !waits).then_some(PendingVerdict {
            snapshot: active.id,
            seq: active.seq,
            judgement,
        })
    }

    /// Queues the pending verdict; [`Document::next_append`] sends it. False if there is none.
    pub fn write_verdict(&mut self, ctx: &DocContext<'_>) -> bool {
        let Some(pending) = self.pending_verdict(ctx) else {
            return false;
        };
        self.queue_verdict(VerdictPayload::new(pending.snapshot, pending.judgement).to_bytes());
        if let Some(mine) = self.checks.mine(pending.snapshot) {
            let again = mine.said.replace(pending.judgement) == Some(pending.judgement);
            mine.answered = mine.answered.saturating_add(u8::from(again));
        }
        self.rows.meta_dirty = true;
        true
    }

    /// Whether this device alone differs from snapshots of two other users: then it is more likely that itself is wrong. It objects to nothing
    /// more, and makes nothing in their place.
    #[must_use]
    pub fn differs_alone(&self, ctx: &DocContext<'_>) -> bool {
        let Some(own) = ctx.own_row().map(|row| row.user) else {
            return false;
        };
        let differs = |it: &&Heard| {
            let found = self.checks.found(&it.info.id);
            let mut others = it.objections().filter(|it| it.user != own);
            matches!(found, Some(Judgement::Differs(_)))
                && it.info.user != own
                && others.next().is_none()
        };
        let found = self.state.heard().iter().filter(differs);
        found.map(|it| it.info.user).collect::<BTreeSet<_>>().len() > 1
    }

    /// Whether the active snapshot is wrong by this device's own check, which it has said in the log, and it can make the next from its own log.
    #[must_use]
    pub fn is_heal_due(&self, ctx: &DocContext<'_>) -> bool {
        let Some(own) = ctx.own_row() else {
            return false;
        };
        let active = &self.state.active.id;
        let found = self.checks.found(active);
        let heard = self.state.heard_of(active);
        let mut said = heard.into_iter().flat_map(Heard::objections);
        matches!(found, Some(Judgement::Differs(_)))
            && said.any(|it| it.user == own.user)
            && Action::WriteSnapshot.allowed(own.role)
            && self.is_sure()
            && !self.differs_alone(ctx)
            && self.can_snapshot()
    }

    /// What this device's own full checks refute and was not told before: snapshots, and other users' verdicts. Nothing where it rests on
    /// somebody's word itself, or where what was voided since may be the reason.
    pub fn refuted(&mut self, ctx: &DocContext<'_>) -> Vec<Refuted> {
        let own = ctx.own_row().map(|row| row.user);
        if self.checks.rests_on.is_some() || self.checks.own.mine.is_empty() {
            return Vec::new();
        }
        let alone = self.differs_alone(ctx);
        let mut all = Vec::new();
        for heard in self.state.heard() {
            let covered = heard.info.covered.size;
            let voided = self.content.void.range(..covered).next().is_some();
            let Some(found) = self.checks.found(&heard.info.id).filter(|_| !voided) else {
                continue;
            };
            let seq = heard.info.seq;
            let is_match = found == Judgement::Match;
            if !is_match && alone {
                continue;
            }
            let made = (!is_match).then_some(Refuted::Snapshot {
                seq,
                device: heard.info.author.device,
            });
            all.extend(made.map(|it| (heard.info.id, heard.info.user, it)));
            let untrue = heard.voices.iter().filter(|it| it.is_match() != is_match);
            all.extend(untrue.map(|it| {
                let user = it.user;
                (heard.info.id, user, Refuted::Verdict { seq, user })
            }));
        }
        let mut told = Vec::new();
        for (snapshot, user, what) in all {
            let fresh = Some(user) != own
                && self
                    .checks
                    .mine(snapshot)
                    .is_some_and(|it| it.named.insert(user));
            if fresh {
                self.rows.meta_dirty = true;
                if matches!(what, Refuted::Verdict { .. }) && self.checks.own.liars.len() < LIARS {
                    self.checks.own.liars.insert(user);
                }
                told.push(what);
            }
        }
        told
    }

    /// Looks which snapshot this device can confirm: one that its own full check found right, or that it made, of which another user's match came
    /// here an hour ago by its own clock (`now`). In a group of one user the own check is enough. Who rests on a snapshot confirms that one if
    /// no objection stands against it that weighs. Below what is confirmed no root is needed.
    pub fn confirm(&mut self, ctx: &DocContext<'_>, now: UnixMs) -> Confirmed {
        let mut outcome = Confirmed::default();
        let Some(own) = ctx.own_row().map(|row| row.user) else {
            return outcome;
        };
        let (alone, sure) = (ctx.one_user(), self.is_sure());
        let after = self.checks.own.confirmed.map_or(0, |it| it.seq);
        let open = self.state.heard().iter().rev();
        let open: Vec<(SnapshotInfo, bool, bool)> = open
            .take_while(|it| it.info.seq > after)
            .map(|it| (it.info, self.is_matched(it), self.is_vouched(it)))
            .collect();
        for (info, matched, vouched) in open {
            let is_base = self.checks.rests_on == Some(info.id);
            let right = match is_base {
                true => vouched || (alone && info.user == own),
                false => sure && self.checks.found(&info.id) == Some(Judgement::Match),
            };
            let due = self.match_due(info.id, matched, now);
            // Breakage: what others say is enough.
            let right = right || (matched && crate::broken("confirm-unchecked"));
            if right
                && ((alone && (!is_base || info.user == own)) || due.is_some_and(|at| at <= now))
            {
                self.confirmed(&info, !is_base || alone);
                outcome.moved = true;
                break;
            }
            let due = due.filter(|at| right && *at > now);
            outcome.again = outcome.again.into_iter().chain(due).min();
        }
        outcome
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
        self.checks.own.confirmed = Some(*snapshot);
        self.state.confirm(snapshot);
        if by_itself && self.checks.rests_on.take().is_some() {
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
