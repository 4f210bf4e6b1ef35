//! Who is off a user's list goes out of the groups: by a device of that user, or by an admin's.

use super::*;

/// After how long the user's other devices remove one that is off the list, if whoever took it away has not, in milliseconds.
const SIBLINGS_MS: (u64, u64) = (5_000, 30_000);
/// And after how long admins do, in milliseconds.
const ADMINS_MS: (u64, u64) = (60_000, 120_000);
/// Between two members whose lists an admin's device looks up, in milliseconds.
const LOOK_UP_MS: u64 = 1_000;

/// Members who are off their users' lists.
#[derive(Debug, Default)]
pub(crate) struct OffList {
    /// Those whom this device may remove.
    pub(crate) mine: BTreeMap<UserId, Vec<DeviceId>>,
    /// Whose devices it may not remove.
    held: BTreeSet<UserId>,
}

impl Group {
    /// Whether a user has a member that is not among these devices.
    fn has_unlisted(&self, user: UserId, named: &BTreeSet<DeviceId>) -> bool {
        let mut rows = self.state().current_rows();
        rows.any(|row| row.user == user && !named.contains(&row.device))
    }
}

impl Cx {
    /// The user's listed devices and those in the group shall be the same.
    pub(crate) fn match_own_devices(&mut self, group: &mut Group) {
        let Some(user) = self.device.user() else {
            return;
        };
        let listed = self.own_listed();
        let own = self.device.id();
        let leaves = group.intents.values().any(Intent::is_leave);
        if leaves || !listed.contains(&own) {
            return;
        }
        let members: BTreeSet<DeviceId> = Self::devices_of(group, user).into_iter().collect();
        let mut lacking = listed.difference(&members);
        if lacking.any(|device| self.adds_own(device)) {
            self.intend(group, Want::AddOwn);
        }
        let mut unlisted = members.difference(&listed).peekable();
        if unlisted.peek().is_none() || !self.knows_own_list() {
            return;
        }
        // Whoever took it away removes it; the others wait whether that happens.
        if unlisted.any(|device| self.revocations.contains_key(device)) {
            self.intend(group, Want::PruneOwn);
        } else {
            let age = self.device.list_age_ms(&user, self.latest());
            self.plan_prune(SIBLINGS_MS, age, group.id, GroupTimer::PruneOwn);
        }
    }

    /// A turn comes so long after the list that shows who is off it: however often this device was started since, it comes.
    fn plan_prune(&mut self, window: (u64, u64), age_ms: u64, group: GroupId, what: GroupTimer) {
        let delay = self.jitter(window.0, window.1).saturating_sub(age_ms);
        self.wake(delay, TimerKind::Group(group, what));
    }

    /// Devices of the own user's that a commit added: whoever added one that is off the list did not know that.
    pub(crate) fn see_own_added(&mut self, group: &mut Group, added: &[DeviceId]) {
        let own = self.device.user();
        let rows = added
            .iter()
            .filter_map(|it| group.state().roster.current_row(it));
        let mut of_own = rows.filter(|row| Some(row.user) == own).peekable();
        if of_own.peek().is_none() {
            return;
        }
        let listed = self.own_listed();
        if of_own.any(|row| !listed.contains(&row.device)) {
            self.match_own_devices(group);
        }
    }

    /// Whether the own list is the newest that the service has.
    pub(crate) fn knows_own_list(&self) -> bool {
        let user = self.device.user();
        let seen = user.is_some_and(|user| self.link.lists_seen.contains(&user));
        seen && self.device.is_list_published()
    }

    /// Nobody else has removed what is off the own list.
    pub(crate) fn prune_own_due(&mut self, group: &mut Group) {
        let named = self.own_listed();
        let user = self.device.user();
        let unlisted = user.is_some_and(|user| group.has_unlisted(user, &named));
        if named.contains(&self.device.id()) && unlisted && self.knows_own_list() {
            self.intend(group, Want::PruneOwn);
        }
    }

    /// Who of a group's members is off their user's list, as far as this device knows the lists. One walk over the members.
    pub(crate) fn off_list(&self, group: &Group) -> OffList {
        let mut off = OffList::default();
        let role = group.state().role_of(&self.device.id());
        let own = self.device.user();
        let mut named = BTreeMap::new();
        for row in group.state().current_rows() {
            if Some(row.user) == own || !self.link.lists_seen.contains(&row.user) {
                continue;
            }
            let listed = named
                .entry(row.user)
                .or_insert_with(|| self.device.named(&row.user));
            let is_off = listed.as_ref().is_some_and(|it| !it.contains(&row.device));
            if !is_off {
                continue;
            }
            let needed = match row.role {
                Role::Owner => Role::Owner,
                _ => Role::Admin,
            };
            if role < Some(needed) {
                off.held.insert(row.user);
            } else {
                off.mine.entry(row.user).or_default().push(row.device);
            }
        }
        off
    }

    /// A device of an admin removes what is off its user's list, unless a device of that user does so before; others' tell where nobody does.
    pub(crate) fn match_listed(&mut self, group: &Group) {
        let off = self.off_list(group);
        let now = self.latest();
        let users = off.mine.keys().chain(&off.held);
        let ages = users.map(|user| self.device.list_age_ms(user, now));
        if let Some(age) = ages.max() {
            self.plan_prune(ADMINS_MS, age, group.id, GroupTimer::PruneListed);
        }
        if off.held.is_empty() {
            self.ended(About::Group(group.id), End::Pruned);
        }
    }

    /// None of their devices has removed what is off its user's list. Where this device may not, that is told now that their turn is over.
    pub(crate) fn prune_listed_due(&mut self, group: &mut Group) {
        let off = self.off_list(group);
        for user in off.mine.into_keys() {
            self.intend(group, Want::PruneListed { user });
        }
        if !off.held.is_empty() {
            self.finding(group.id, None, FindingKind::RevokedMember, None);
        }
    }

    /// An admin's device looks up its members' lists, one after another: one that changed while it was away was told to it by nobody. Others look
    /// up those of owners and admins: where none of these is left, somebody has to see that.
    pub(crate) fn plan_look_ups(&mut self, group: &Group) {
        let is_admin = group.state().role_of(&self.device.id()) >= Some(Role::Admin);
        let own = self.device.user();
        let rows = group.state().current_rows();
        let rows = rows.filter(|row| is_admin || row.role >= Role::Admin);
        let others = rows.map(|row| row.user).filter(|user| Some(*user) != own);
        let new = others.filter(|user| !self.link.looked_up.contains(user));
        let new: BTreeSet<UserId> = new.collect();
        if !new.is_empty() {
            self.link.looked_up.extend(new.iter().copied());
            self.link.to_look_up.extend(new);
            self.wake(0, TimerKind::Lists);
        }
    }

    /// One of them, drawn at random: who is never connected for long comes to all in time.
    pub(crate) fn look_up_next(&mut self) {
        let from = UserId(random(&mut self.rng));
        let all = &self.link.to_look_up;
        let user = all.range(from..).next().or_else(|| all.first()).copied();
        if let Some(user) = user {
            self.link.to_look_up.remove(&user);
            self.request(Request::GetDeviceList { user }, Pending::DevicesOf(user));
        }
        if !self.link.to_look_up.is_empty() {
            self.wake(LOOK_UP_MS, TimerKind::Lists);
        }
    }
}

impl Engine {
    /// Somebody's devices changed who shares a group with this one: an admin's device looks, and everybody where it is an owner or admin.
    pub(crate) fn devices_changed(&mut self, user: UserId) {
        let own = self.cx.device.id();
        let concerns = |whole: &Whole| {
            let state = whole.group.state();
            let theirs = state.current_rows().find(|row| row.user == user);
            let is_admin = state.role_of(&own) >= Some(Role::Admin);
            theirs.is_some_and(|row| is_admin || row.role >= Role::Admin)
        };
        if self.wholes().any(concerns) {
            let what = Pending::DevicesOf(user);
            self.cx.request(Request::GetDeviceList { user }, what);
        }
    }

    pub(crate) fn list_answered(&mut self, user: UserId, answer: &Answer) {
        let Answer::DeviceList { list } = answer else {
            return;
        };
        let now = self.cx.latest();
        let writes = &mut self.cx.out.writes;
        let taken = SignedDeviceList::from_bytes(list.as_slice())
            .and_then(|list| self.cx.device.take_list(&user, list, now, writes));
        let news = match taken {
            Ok((news, _)) => news,
            Err(error) => {
                let what = FindingKind::failed(crate::finding::Step::DeviceList, &error);
                return self.cx.found_of_device(what, Some(Suspect::User(user)));
            }
        };
        self.cx.tell_list(user, news);
        // Also where nothing is new: by what was known from before nobody was judged.
        let first = self.cx.link.lists_seen.insert(user);
        if news == News::default() && !first {
            return;
        }
        for id in self.active_groups() {
            self.with_group(id, GroupWork::MatchListed);
        }
    }
}
