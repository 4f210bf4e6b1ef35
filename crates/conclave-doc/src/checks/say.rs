//! What this device says of snapshots, makes in their place, and tells of those who said otherwise.

use conclave_rules::RosterRow;

use super::*;
use crate::payload::VerdictPayload;

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
        if self.outbox.has_verdicts() || !self.takes_part(ctx) {
            return None;
        }
        let own = ctx.own_row()?;
        let mut newest = self.state.heard().iter().rev();
        newest.find_map(|heard| self.verdict_on(own, heard))
    }

    fn verdict_on(&self, own: &RosterRow, heard: &Heard) -> Option<PendingVerdict> {
        let mine = self.checks.get(&heard.info.id)?;
        let judgement = mine.found?;
        let fresh = mine.said != Some(judgement);
        let needed = match judgement {
            // Always: where each waited for another to object first, nobody would.
            Judgement::Differs(_) => fresh,
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

    /// Whether a further match of this device would change nothing for anybody. One is enough of those who judged the whole log. Those who did not confirm
    /// by one another's.
    fn is_said_enough(&self, heard: &Heard) -> bool {
        let mut matches = heard.matches().filter(|it| !self.lied(&it.user));
        self.has_voucher(heard) || (self.checks.from > 0 && matches.nth(1).is_some())
    }

    /// Queues the pending verdict; [`Document::next_append`] sends it. False if there is none.
    pub fn write_verdict(&mut self, ctx: &DocContext<'_>) -> bool {
        let Some(pending) = self.pending_verdict(ctx) else {
            return false;
        };
        self.queue_verdict(
            VerdictPayload::new(pending.snapshot, self.checks.from, pending.judgement).to_bytes(),
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
        // What it rests on may itself be what is wrong, until nobody has objected for an hour.
        let stands = self.checks.rests.is_none() || self.checks.own.confirmed.is_some();
        matches!(found, Some(Judgement::Differs(_)))
            && self.has_objected(ctx, active)
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
        if self.checks.rests.is_some() || self.checks.own.mine.is_empty() {
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
            let misled = self.may_be_misled(ctx, &heard.info);
            let made = (!is_match && !misled).then_some(Refuted::Snapshot {
                seq,
                device: heard.info.author.device,
            });
            all.extend(made.map(|it| (heard.info.id, heard.info.user, it)));
            let untrue = heard.voices.iter().filter(|it| it.is_match() != is_match);
            let untrue = untrue.filter(|it| self.is_answerable(it));
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

    /// Whether who says so has judged from what this device knows to be right. Who opened the document from what is wrong may mean what they say.
    fn is_answerable(&self, voice: &Voice) -> bool {
        let confirmed = self.checks.own.confirmed.as_ref();
        let right = |it: &&Heard| self.checks.found(&it.info.id) == Some(Judgement::Match);
        let heard = self.state.heard().iter().filter(right).map(|it| &it.info);
        let mut bases = heard.chain(confirmed);
        voice.from == 0 || bases.any(|it| it.covered.size == voice.from)
    }

    /// Whether the author of a snapshot may have opened the document from an earlier false one of somebody else: the device came after that.
    fn may_be_misled(&self, ctx: &DocContext<'_>, snapshot: &SnapshotInfo) -> bool {
        let row = ctx.row(&snapshot.author.device, snapshot.epoch);
        let mut false_ones = self.state.heard().iter().map(|it| &it.info).filter(|it| {
            let found = self.checks.found(&it.id);
            matches!(found, Some(Judgement::Differs(_)))
        });
        row.is_some_and(|row| {
            false_ones.any(|it| {
                it.seq < snapshot.seq && it.user != snapshot.user && row.first_epoch >= it.epoch
            })
        })
    }
}
