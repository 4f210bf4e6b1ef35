//! What this device says of snapshots, makes in their place, and tells of those who said otherwise.

use conclave_rules::RosterRow;

use super::*;
use crate::payload::VerdictPayload;

/// A snapshot needs no more matches than by so many users, whoever contradicts them elsewhere.
const SPEAKERS: usize = 8;

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

impl Document {
    /// The verdict that this device should write, after waiting a random time: a `Match` only if no other user's that counts here is there yet, or if
    /// an admin's is to answer an objection. Who rests on a snapshot that nobody else found right says nothing.
    #[must_use]
    pub fn pending_verdict(&self, ctx: &DocContext<'_>) -> Option<PendingVerdict> {
        // One at a time: what is said shows when it is in the log.
        if self.outbox.has_verdicts() {
            return None;
        }
        let own = ctx.own_row()?;
        let all = self
            .remembered()
            .filter_map(|it| self.verdict_on(ctx, own, it));
        all.max_by_key(|it| it.seq)
    }

    fn verdict_on(
        &self,
        ctx: &DocContext<'_>,
        own: &RosterRow,
        heard: &Heard,
    ) -> Option<PendingVerdict> {
        let mine = self.checks.get(&heard.info.id)?;
        let judgement = mine.found?;
        let fresh = mine.said != Some(judgement);
        let needed = match judgement {
            // Always: where each waited for another to object first, nobody would.
            Judgement::Differs(_) => fresh && self.may_object(ctx),
            Judgement::Match if own.user == heard.info.user => false,
            Judgement::Match => {
                // Another device of the user's may have opened the document from what is wrong.
                let own_objects = heard.objections().any(|it| it.user == own.user);
                let is_asked = own.role >= Role::Admin && heard.is_contested(|_| true);
                let answers = mine.answered < ANSWERS && (own_objects || is_asked);
                (fresh && !self.is_said_enough(heard)) || answers
            }
        };
        needed.then_some(PendingVerdict {
            snapshot: heard.info.id,
            seq: heard.info.seq,
            judgement,
        })
    }

    /// Whether a further match of this device would change nothing for anybody. One is enough of those who judged the whole log, but of users whom somebody
    /// contradicts, who are no good to that one. Those who did not confirm by one another's.
    fn is_said_enough(&self, heard: &Heard) -> bool {
        let enough = |voices: &mut dyn Iterator<Item = &Voice>, wanted: usize| {
            let users: Vec<UserId> = voices.map(|it| it.user).collect();
            let sound = users.iter().filter(|user| !self.state.is_doubted(user));
            sound.count() >= wanted || users.len() >= SPEAKERS
        };
        enough(&mut self.believed(heard.vouchers()), 1)
            || (self.checks.from() > 0 && enough(&mut self.believed(heard.matches()), 2))
    }

    /// Queues the pending verdict; [`Document::next_append`] sends it. False if there is none.
    pub fn write_verdict(&mut self, ctx: &DocContext<'_>) -> bool {
        let Some(pending) = self.pending_verdict(ctx) else {
            return false;
        };
        self.queue_verdict(
            VerdictPayload::new(pending.snapshot, self.checks.from(), pending.judgement).to_bytes(),
        );
        if let Some(mine) = self.checks.mine(pending.snapshot) {
            let again = mine.said.replace(pending.judgement) == Some(pending.judgement);
            mine.answered = mine.answered.saturating_add(u8::from(again));
        }
        self.rows.meta_dirty = true;
        true
    }

    /// Whether this device alone differs from snapshots of two other users: then it is more likely that itself is wrong. It names nobody for
    /// them, and makes nothing in their place.
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
                && !self.may_be_misled(ctx, &it.info)
                && !self.checks.is_excused(&it.info)
        };
        let found = self.remembered().filter(differs);
        found.map(|it| it.info.user).collect::<BTreeSet<_>>().len() > 1
    }

    /// Whether the active snapshot is wrong by this device's own check, which it has said in the log, or is one that no program of this version can begin
    /// from, and this device can make the next from its own log.
    #[must_use]
    pub fn is_heal_due(&self, ctx: &DocContext<'_>) -> bool {
        let Some(own) = ctx.own_row() else {
            return false;
        };
        let active = &self.state.active.id;
        let is_wrong = match self.checks.found(active) {
            Some(Judgement::Differs(_)) => self.has_objected(ctx, active),
            Some(Judgement::Match) => false,
            // Who made it is not at fault; who joins has nothing to begin from.
            None => self.checks.is_unreadable(active),
        };
        // What it rests on may itself be what is wrong, until nobody has objected for an hour.
        let stands = self.checks.ground.is_log() || self.checks.own.confirmed.is_some();
        is_wrong
            && Action::WriteSnapshot.allowed(own.role)
            && self.is_sure()
            && stands
            && !self.differs_alone(ctx)
            && !self.has_healed_enough()
            && self.can_snapshot()
    }

    /// Whether the log says that this device's user finds a snapshot wrong.
    pub(crate) fn has_objected(&self, ctx: &DocContext<'_>, snapshot: &Hash) -> bool {
        let heard = self.state.heard_of(snapshot);
        let mut said = heard.into_iter().flat_map(Heard::objections);
        ctx.own_row()
            .is_some_and(|own| said.any(|it| it.user == own.user))
    }

    /// What this device's own full checks refute and was not told before: snapshots, and other users' verdicts. Nothing where it rests on
    /// somebody's word itself, or where what was voided since may be the reason.
    pub fn refuted(&mut self, ctx: &DocContext<'_>) -> Vec<Refuted> {
        let own = ctx.own_row().map(|row| row.user);
        if !self.checks.ground.is_log() || self.checks.own.mine.is_empty() {
            return Vec::new();
        }
        let alone = self.differs_alone(ctx);
        let mut all = Vec::new();
        for heard in self.remembered() {
            let excused = self.checks.is_excused(&heard.info);
            let Some(found) = self.checks.found(&heard.info.id).filter(|_| !excused) else {
                continue;
            };
            let seq = heard.info.seq;
            let is_match = found == Judgement::Match;
            if !is_match && alone {
                continue;
            }
            let misled = self.may_be_misled(ctx, &heard.info);
            let made = (!is_match && !misled).then_some(Refuted::Snapshot {
                seq,
                device: heard.info.author.device,
            });
            all.extend(made.map(|it| (heard.info.id, heard.info.user, it)));
            let untrue = heard.voices.iter().filter(|it| it.is_match() != is_match);
            let untrue = untrue.filter(|it| self.is_answerable(it, &heard.info));
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
                if self.checks.own.liars.len() < LIARS {
                    self.checks.own.liars.insert(user);
                }
                told.push(what);
            }
        }
        told
    }

    /// Whether nothing excuses who says so. Who opened the document from somebody else's snapshot that is wrong may mean what they say; so it has to be known what is
    /// there from where they say that they judged ([`Self::is_ground`]): a position that no snapshot gives excuses nobody.
    fn is_answerable(&self, voice: &Voice, snapshot: &SnapshotInfo) -> bool {
        let from = voice.from;
        if from == 0 || self.checks.own.right.contains(&from) {
            return true;
        }
        let base = self.remembered().map(|it| &it.info);
        match base.into_iter().find(|it| it.covered.size == from) {
            Some(base) => base.user == voice.user || base.seq >= snapshot.seq,
            None => !self.state.may_begin_at(from, snapshot),
        }
    }

    /// Whether somebody who rests on a snapshot says what this device refutes: what they say depends on whether that is right.
    pub(super) fn is_ground(&self, snapshot: &SnapshotInfo) -> bool {
        let from = snapshot.covered.size;
        self.remembered().any(|it| {
            let found = self.checks.found(&it.info.id);
            let is_match = found.map(|found| found == Judgement::Match);
            let mut voices = it.voices.iter();
            it.info.seq > snapshot.seq
                && is_match.is_some()
                && voices.any(|it| it.from == from && Some(it.is_match()) != is_match)
        })
    }
}
