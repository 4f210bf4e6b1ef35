//! What grows old: leaves are renewed, and documents whose content lies under an old root are due for a new snapshot. Time alone erases
//! nothing; what nobody re-keys is told. And who holds the roots of documents when members go.

use conclave_proto::Role;
use conclave_proto::policy::JoinerAccess;

use super::*;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// A document that is still under an old root after this time is told of, in milliseconds.
const OVERDUE_MS: u64 = DAY_MS;
/// Between two looks at what is due, in milliseconds.
const LOOK_AGAIN_MS: u64 = 3600 * 1000;

/// Whether documents under overdue roots were seen, and told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Overdue {
    #[default]
    No,
    Seen,
    Told,
}

fn older_than(now: UnixMs, since: UnixMs, days: u16) -> bool {
    days != 0 && now.since_ms(since) > u64::from(days) * DAY_MS
}

impl Group {
    /// Whether the own leaf, or the epoch, is older than the policy allows.
    fn epoch_is_old(&self, own: &DeviceId, now: UnixMs) -> bool {
        let policy = &self.state().policy;
        let leaf = self.state().roster.current_row(own);
        // A row keeps its time where nothing but the leaf's keys is renewed.
        let renewed = leaf.map(|row| row.time.max(self.meta.leaf_renewed));
        let leaf_old =
            renewed.is_some_and(|since| older_than(now, since, policy.max_leaf_age_days));
        leaf_old || older_than(now, self.state().last_time, policy.max_root_age_days)
    }

    /// Whether the root of a former epoch is older than the policy allows.
    pub(crate) fn root_is_old(&self, epoch: u64, now: UnixMs) -> bool {
        let days = self.state().policy.max_root_age_days;
        let since = self.root_times.get(&epoch);
        epoch < self.state().epoch && since.is_some_and(|since| older_than(now, *since, days))
    }

    /// Whether any document's content lies under an old root.
    fn has_aged(&self, now: UnixMs) -> bool {
        let mut held = self.root_times.keys();
        held.any(|epoch| self.kept.is_needed(*epoch) && self.root_is_old(*epoch, now))
    }

    /// Whether a document's content lies under an old root.
    pub(crate) fn is_aged(&self, row: &DocRow, now: UnixMs) -> bool {
        let mut held = self.root_times.keys();
        held.any(|epoch| {
            let needed = row.needed.contains(epoch) || *epoch < row.all_below;
            needed && self.root_is_old(*epoch, now)
        })
    }

    /// Open documents that nobody could open any more if these devices went.
    fn lost_without(&self, going: &BTreeSet<DeviceId>, own: &DeviceId) -> usize {
        let stays = |device: &DeviceId| !going.contains(device);
        let from_join = self.state().policy.joiner_access == JoinerAccess::FromJoin;
        let held = |epoch: u64| {
            self.state().current_rows().any(|row| {
                let device = &row.device;
                if device == own {
                    stays(own) && self.roots.0.contains_key(&epoch)
                } else {
                    // Where older roots are wrapped everybody holds them; else those who were there.
                    stays(device) && (!from_join || self.state().row(device, epoch).is_some())
                }
            })
        };
        let open = self.state().documents.iter();
        open.filter(|(_, entry)| entry.closed.is_none())
            .filter_map(|(id, _)| self.documents.get(id))
            .filter(|row| {
                let mut needed = row.needed.iter().chain(&row.missing);
                needed.any(|epoch| *epoch < self.state().epoch && !held(*epoch))
            })
            .count()
    }

    /// Refuses where documents would be lost with those who go.
    pub(crate) fn check_holders(
        &self,
        going: &BTreeSet<DeviceId>,
        own: &DeviceId,
    ) -> Result<(), EngineError> {
        if self
            .state()
            .current_rows()
            .all(|row| going.contains(&row.device))
        {
            return Ok(());
        }
        match self.lost_without(going, own) {
            0 => Ok(()),
            documents => Err(EngineError::LastHolder { documents }),
        }
    }
}

impl Cx {
    /// Plans what age asks for.
    pub(super) fn plan_ages(&mut self, group: &Group) {
        let (own, now) = (self.device.id(), self.service_now());
        if group.epoch_is_old(&own, now) {
            self.plan(
                60_000,
                600_000,
                TimerKind::Group(group.id, GroupTimer::SelfUpdate),
            );
        }
        let days = group.state().policy.max_root_age_days;
        let former = group.state().epoch;
        let oldest = group
            .root_times
            .range(..former)
            .map(|(_, since)| *since)
            .min();
        if let Some(oldest) = oldest.filter(|_| days != 0) {
            let due = oldest.plus_ms(u64::from(days) * DAY_MS);
            let wait = due.since_ms(now).max(60_000);
            self.plan(
                wait,
                wait.saturating_add(60_000),
                TimerKind::Group(group.id, GroupTimer::Ages),
            );
        }
    }

    /// The own leaf is renewed, if that is still due.
    pub(crate) fn self_update_due(&mut self, group: &mut Group) {
        let (own, now) = (self.device.id(), self.service_now());
        if group.meta.renew_due || group.epoch_is_old(&own, now) {
            self.intend(group, crate::intents::Want::SelfUpdate);
        }
    }

    /// Documents under old roots are looked at: whoever can makes a snapshot under the current epoch.
    pub(crate) fn ages_due(&mut self, whole: &mut Whole) {
        let group = &whole.group;
        self.plan(
            LOOK_AGAIN_MS,
            2 * LOOK_AGAIN_MS,
            TimerKind::Group(group.id, GroupTimer::Ages),
        );
        if !group.may_act() {
            // Others may have done it meanwhile.
            return;
        }
        let now = self.service_now();
        let days = group.state().policy.max_root_age_days;
        let documents = group.documents.iter().filter(|_| group.has_aged(now));
        let aged: Vec<DocumentId> = documents
            .filter(|(_, row)| row.is_local() && group.is_aged(row, now))
            .map(|(id, _)| *id)
            .collect();
        for id in &aged {
            self.document_work(whole, *id, DocWork::SnapshotForAge);
        }
        let group = &mut whole.group;
        let limit = u64::from(days) * DAY_MS + OVERDUE_MS;
        let oldest = group.root_times.values().min();
        let overdue = oldest.is_some_and(|since| now.since_ms(*since) > limit);
        // Whoever may write has just begun on it, and is not told before it looks again.
        let may_write = group.state().role_of(&self.device.id()) >= Some(Role::Editor);
        let before = group.overdue;
        group.overdue = match overdue {
            true => before.max(Overdue::Seen),
            false => Overdue::No,
        };
        let looked = before >= Overdue::Seen || !may_write;
        let tells = looked && before != Overdue::Told;
        if !overdue || aged.is_empty() {
            self.ended(About::Group(group.id), End::Rekeyed);
        } else if tells {
            group.overdue = Overdue::Told;
            let documents = aged.len() as u64;
            self.finding(
                group.id,
                None,
                FindingKind::RootsOverdue { documents },
                None,
            );
        }
    }
}
