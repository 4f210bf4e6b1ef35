//! Snapshots of records that were voided since: each is compared with what the log said when it came, so that a void excuses nobody who made or
//! confirmed what was never in the log.

use conclave_proto::{DocumentId, Refusal};
use conclave_rules::{Authority, RosterRow};

use super::*;

/// So many voids that come at once are told apart. Of those beyond that it is not known which of them an author knew.
const STEPS: usize = 8;

/// A group as it was when only the first of its voids were declared.
pub(crate) struct SoFar<'a> {
    now: &'a dyn Authority,
    voids: usize,
}

impl Authority for SoFar<'_> {
    fn epoch(&self) -> u64 {
        self.now.epoch()
    }

    fn rekey_since(&self) -> u64 {
        self.now.rekey_since()
    }

    fn row(&self, device: &DeviceId, epoch: u64) -> Option<&RosterRow> {
        self.now.row(device, epoch)
    }

    fn user_of(&self, device: &DeviceId, epoch: u64) -> Option<UserId> {
        self.now.user_of(device, epoch)
    }

    fn refusal(&self, device: &DeviceId) -> Refusal {
        self.now.refusal(device)
    }

    fn is_of_one_user(&self, epoch: u64) -> bool {
        self.now.is_of_one_user(epoch)
    }

    fn is_of_users(&self, epoch: u64, users: &[UserId]) -> bool {
        self.now.is_of_users(epoch, users)
    }

    fn voided(&self, document: &DocumentId) -> Box<dyn Iterator<Item = Hash> + '_> {
        Box::new(self.now.voided(document).take(self.voids))
    }

    fn padding_bytes(&self) -> u16 {
        self.now.padding_bytes()
    }

    fn keeps_attribution(&self) -> bool {
        self.now.keeps_attribution()
    }
}

impl Checks {
    /// Whether a record that a snapshot covers is void since its epoch, or since a later one: whoever made it or looked at it may not have known.
    pub(crate) fn covers_void(&self, snapshot: &SnapshotInfo) -> bool {
        let mut before = self.own.voided.range(..snapshot.covered.size);
        before.any(|(_, epoch)| *epoch >= snapshot.epoch)
    }

    /// Whether that may be the reason why it differs, or why others say so. It is not where the snapshot was wrong before as well.
    pub(crate) fn is_excused(&self, snapshot: &SnapshotInfo) -> bool {
        let mine = self.get(&snapshot.id);
        let differs = mine.is_some_and(|it| matches!(it.found, Some(Judgement::Differs(_))));
        let was_wrong = mine.is_some_and(|it| it.was_right == Some(false));
        self.covers_void(snapshot) && !(differs && was_wrong)
    }
}

impl Document {
    /// The group as it was before each of several voids that are new here, the first of them first, where a snapshot is still to be looked at: its author may
    /// have known of some and not of others.
    pub(crate) fn each_void<'a>(&self, ctx: &DocContext<'a>, dealt_with: usize) -> Vec<SoFar<'a>> {
        let count = ctx.authority.voided(&self.id).count();
        let new = count.saturating_sub(dealt_with);
        // What an engine was stuck at it is not given again for this.
        let is_stuck = !self.content.watch.stuck().is_empty();
        if !(2..=STEPS).contains(&new) || is_stuck || self.unchecked().next().is_none() {
            return Vec::new();
        }
        let steps = dealt_with.saturating_add(1)..count;
        let now = ctx.authority;
        steps.map(|voids| SoFar { now, voids }).collect()
    }

    /// Records from `seq` on are about to be void. Keeps what the log says until then at the heads of snapshots that cover them, if what is here tells that.
    pub(crate) fn keep_before(
        &mut self,
        ctx: &DocContext<'_>,
        seq: u64,
        tells: bool,
    ) -> Result<(), DocError> {
        let covering = self.remembered().map(|it| it.info);
        let covering = covering.filter(|it| it.covered.size > seq && !it.is_first());
        let covering: Vec<SnapshotInfo> = covering.collect();
        let avoided = self.content.first_avoided(ctx, self.id);
        for info in covering {
            let covered = info.covered.size;
            let (found, mark, is_first) = match self.checks.get(&info.id) {
                Some(it) => (
                    it.found,
                    it.mark,
                    it.was_right.is_none() && it.before.is_empty(),
                ),
                None => (None, None, true),
            };
            // Of what was void before it came it is not known here what it said.
            if is_first && self.checks.covers_void(&info) {
                continue;
            }
            let is_open = found.is_none() && tells;
            let can_build = self.reaches(covered) && avoided.is_none_or(|at| at >= covered);
            let mark = match mark {
                None if is_open && can_build => Some(self.mark_at(covered)?),
                mark => mark.filter(|_| is_open),
            };
            let Some(mine) = self.checks.mine(info.id) else {
                continue;
            };
            match (found, mark) {
                (Some(Judgement::Match), _) => mine.was_right = Some(true),
                (Some(Judgement::Differs(_)), _) => {
                    mine.was_right.get_or_insert(false);
                }
                (None, Some(mark)) if mine.before.len() < STEPS => mine.before.push(mark),
                // It may have been right.
                (None, _) => mine.was_right = Some(true),
            }
            self.rows.meta_dirty = true;
        }
        Ok(())
    }
}
