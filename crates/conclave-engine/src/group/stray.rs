//! Groups whose MLS rows cannot be read, while everything else about them is in the store: this device comes back into them with nothing to
//! compare the offer with.

use conclave_mls::RejoinOffer;

use super::repair::{LONGEST_PAUSE_MS, ReturnRow};
use super::*;
use crate::backoff::Backoff;
use crate::cx::wait_ms;
use crate::timers::earlier;

/// A group whose MLS rows cannot be read. Everything else about it waits in the store.
#[derive(Debug, Default)]
pub(crate) struct Stray {
    rows: Option<Vec<Row>>,
    reading: bool,
    asked: bool,
    tries: Backoff,
    told: bool,
    retry_at: UnixMs,
}

impl Stray {
    /// The newest epoch of which a root is in the store.
    fn newest_root(&self) -> Option<u64> {
        let skip = 1 + GroupId::LEN;
        let rows = self.rows.iter().flatten();
        let roots = rows.filter_map(|(key, _)| match key.get(skip..)?.split_first()? {
            (table, epoch) if *table == keys::group::ROOT => epoch.try_into().ok(),
            _ => None,
        });
        roots.map(u64::from_be_bytes).max()
    }

    pub(crate) fn disconnected(&mut self) {
        self.asked = false;
        self.retry_at = UnixMs(0);
    }

    /// The clock was set back by so much.
    pub(crate) fn move_back(&mut self, by_ms: u64) {
        self.retry_at = earlier(self.retry_at, by_ms);
    }
}

impl Engine {
    pub(crate) fn strays_online(&mut self) {
        let strays = self.groups.keys().copied();
        let ids: Vec<GroupId> = strays.filter(|id| self.is_stray(id)).collect();
        for id in ids {
            self.pump_stray(id);
        }
    }

    pub(crate) fn pump_stray(&mut self, id: GroupId) {
        let Some(stray) = self.groups.get_mut(&id).and_then(GroupSlot::stray_mut) else {
            return;
        };
        if stray.rows.is_none() {
            if !stray.reading {
                stray.reading = true;
                self.cx.read(keys::group_prefix(&id), ReadTarget::Stray(id));
            }
            return;
        }
        let leaving = self.cx.parting.contains_key(&id);
        if leaving || stray.asked || !self.cx.link.online {
            return;
        }
        if self.cx.now < stray.retry_at {
            return self.cx.wake_at(stray.retry_at, TimerKind::Stray(id));
        }
        stray.asked = true;
        let request = Request::GetGroupInfo { group: id };
        self.cx.request(request, Pending::Stray(id));
    }

    pub(crate) fn stray_loaded(&mut self, id: GroupId, rows: Vec<Row>) {
        if let Some(stray) = self.groups.get_mut(&id).and_then(GroupSlot::stray_mut) {
            stray.rows = Some(rows);
            self.pump_stray(id);
        }
    }

    fn stray_later(&mut self, id: GroupId, least_ms: u64) {
        let Some(stray) = self.groups.get_mut(&id).and_then(GroupSlot::stray_mut) else {
            return;
        };
        stray.asked = false;
        let most = stray.tries.next_ms(1_000, LONGEST_PAUSE_MS).max(least_ms);
        stray.retry_at = self.cx.now.plus_ms(most);
        self.cx.wake(most, TimerKind::Stray(id));
    }

    pub(crate) fn stray_offered(&mut self, id: GroupId, answer: Answer) {
        if !self.is_stray(&id) || self.cx.parting.contains_key(&id) {
            return;
        }
        let made = match answer {
            Answer::GroupInfo {
                group_info,
                tree,
                state,
                pending,
                ..
            } => {
                let offer = RejoinOffer {
                    group: id,
                    group_info: group_info.as_slice(),
                    tree: tree.as_slice(),
                    state: &state,
                    pending: &pending,
                    known: None,
                };
                // Nothing shows yet that this is the right group: older roots are not handed to it.
                let made = self.cx.prepare_external(&offer, &[]);
                if made.is_ok() {
                    self.cx.keep_listing(&id, &state.entries);
                }
                made
            }
            Answer::Refused(refusal) => Err(EngineError::Refused(refusal)),
            _ => return self.stray_later(id, 0),
        };
        // Roots that are here are of epochs in which this device was: nothing before them is where the group is now.
        let stray = self.groups.get_mut(&id).and_then(GroupSlot::stray_mut);
        let newest = stray.and_then(|stray| stray.newest_root());
        let made = made.and_then(|(mls, row)| match newest {
            Some(newest) if mls.state().epoch < newest => {
                Err(EngineError::Mls(conclave_mls::MlsError::BadInvitation {
                    what: "older history",
                }))
            }
            _ => Ok((mls, row)),
        });
        match made {
            Ok((mls, row)) => self.adopt_stray(id, mls, row),
            Err(error) => {
                let stray = self.groups.get_mut(&id).and_then(GroupSlot::stray_mut);
                let told = stray.is_none_or(|stray| std::mem::replace(&mut stray.told, true));
                if !told {
                    let cause = Some((&error).into());
                    self.cx
                        .finding(id, None, FindingKind::CannotReturn { cause }, None);
                }
                let least_ms = match &error {
                    EngineError::Refused(refusal) => wait_ms(refusal),
                    _ => 0,
                };
                self.stray_later(id, least_ms);
            }
        }
    }

    /// Everything but MLS state, from what is left in the store.
    pub(crate) fn group_of_stray(
        &mut self,
        id: GroupId,
        mls: ClientGroup,
        membership: Membership,
    ) -> Group {
        let stray = self.groups.get_mut(&id).and_then(GroupSlot::stray_mut);
        let rows = stray.and_then(|stray| stray.rows.take());
        let mut group = Group::new(id, mls, Membership::Member);
        let mut tables = Group::tables(rows.unwrap_or_default());
        tables.remove(&keys::group::MLS);
        let mut take = |table: u8| tables.remove(&table).unwrap_or_default();
        group.load_tables(&mut take);
        for error in std::mem::take(&mut group.damaged) {
            let what = FindingKind::failed(Step::LoadGroup, &error);
            self.cx.finding(id, None, what, None);
        }
        let prefix = keys::group_row(&id, keys::group::MLS, b"");
        self.cx.out.writes.delete_prefix(prefix);
        group.membership = membership;
        group
    }

    fn adopt_stray(&mut self, id: GroupId, mls: ClientGroup, row: ReturnRow) {
        let Ok(public) = ClientGroup::load(mls.rows()) else {
            return;
        };
        // The rows of the external commit are the scratch state's: what is read from them here is only looked at.
        let mut group = self.group_of_stray(id, public, Membership::state_lost());
        self.cx.save_membership(&group);
        self.cx.save_meta(&group);
        self.cx.keep_scratch(&mut group, mls, row);
        self.insert_whole(id, Whole::new(group));
        self.with_group(id, GroupWork::Look);
    }
}
