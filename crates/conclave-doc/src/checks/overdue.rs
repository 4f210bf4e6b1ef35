//! Snapshots that came so fast after one another that the log's state remembers them no more, before this device has looked at them.

use super::*;

/// So many wait for a look, at most.
const OVERDUE: usize = 48;

/// Somebody's snapshots that were not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unlooked {
    user: UserId,
    device: DeviceId,
    /// Position of the first.
    seq: u64,
    told: bool,
}

/// A member made so many snapshots that this device could not look at all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    /// Position of the first of which that is so.
    pub seq: u64,
    /// Who made it.
    pub device: DeviceId,
}

impl Document {
    /// The log's state makes room for another snapshot. What this device has to look at stays.
    pub(crate) fn outlives(&mut self, heard: Heard) {
        let info = &heard.info;
        let passed = self
            .checks
            .get(&info.id)
            .is_some_and(|it| it.lot == Some(false));
        let passed = passed && !self.has_objection(&heard) && !self.was_missed(&info.user);
        if !self.is_unsaid(info) && (passed || !self.can_look(info)) {
            return;
        }
        if self.checks.own.overdue.len() >= OVERDUE {
            self.make_room();
        }
        self.checks.own.overdue.push(heard);
        self.rows.meta_dirty = true;
    }

    /// What was looked at goes first; else of whoever has most of them the oldest, and that is told.
    fn make_room(&mut self) {
        let overdue = &self.checks.own.overdue;
        let open = |it: &Heard| self.can_look(&it.info) || self.is_unsaid(&it.info);
        let done = overdue.iter().position(|it| !open(it));
        let of = |user: &UserId| overdue.iter().filter(|it| it.info.user == *user).count();
        let users = overdue.iter().map(|it| it.info.user);
        let most = users.max_by_key(of);
        let oldest = overdue.iter().position(|it| Some(it.info.user) == most);
        let Some(at) = done.or(oldest) else { return };
        let gone = self.checks.own.overdue.remove(at).info;
        if done.is_none() && !self.was_missed(&gone.user) && self.checks.own.missed.len() < LIARS {
            self.checks.own.missed.push(Unlooked {
                user: gone.user,
                device: gone.author.device,
                seq: gone.seq,
                told: false,
            });
        }
    }

    /// Whether it was found wrong, and the log does not say so yet.
    fn is_unsaid(&self, snapshot: &SnapshotInfo) -> bool {
        let mine = self.checks.get(&snapshot.id);
        mine.is_some_and(|it| {
            matches!(it.found, Some(Judgement::Differs(_))) && it.said != it.found
        })
    }

    /// A verdict came on one that the log's state remembers no more.
    pub(crate) fn hear_overdue(&mut self, snapshot: &Hash, voice: Voice) {
        if self.state.heard_of(snapshot).is_none()
            && self
                .checks
                .own
                .overdue
                .iter()
                .any(|it| it.info.id == *snapshot)
        {
            crate::heard::hear(&mut self.checks.own.overdue, snapshot, voice);
            self.rows.meta_dirty = true;
        }
    }

    /// Whether one of a user's snapshots went without a look. All others of theirs are looked at.
    pub(super) fn was_missed(&self, user: &UserId) -> bool {
        self.checks.own.missed.iter().any(|it| it.user == *user)
    }

    /// What the service has passed over of a log that this device had judged from its beginning: once.
    pub fn passed_over(&mut self) -> Option<PassedOver> {
        let passed = self.checks.own.passed.take();
        self.rows.meta_dirty |= passed.is_some();
        passed
    }

    /// Who made so many snapshots that some went without a look: each user once.
    pub fn missed(&mut self) -> Vec<Missed> {
        let missed = self.checks.own.missed.iter_mut().filter(|it| !it.told);
        let fresh = missed.map(|it| {
            it.told = true;
            Missed {
                seq: it.seq,
                device: it.device,
            }
        });
        let fresh: Vec<Missed> = fresh.collect();
        self.rows.meta_dirty |= !fresh.is_empty();
        fresh
    }
}
