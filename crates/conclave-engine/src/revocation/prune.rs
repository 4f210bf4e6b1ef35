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
    /// Whether there are others, whom only an owner may remove.
    held: bool,
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
        let listed = self.device.own_devices();
        let own = self.device.id();
        let leaves = group.intents.values().any(Intent::is_leave);
        if leaves || !listed.contains(&own) {
            return;
        }
        let members: BTreeSet<DeviceId> = Self::devices_of(group, user).into_iter().collect();
        let mut lacking = listed.difference(&members);
        if lacking.any(|device| self.device.is_confirmed(device)) {
            self.intend(group, Want::AddOwn);
        }
        let mut unlisted = members.difference(&listed).peekable();
        if unlisted.peek().is_none() || !self.device.is_list_published() {
            return;
        }
        // Whoever took it away removes it; the others wait whether that happens.
        if unlisted.any(|device| self.revocations.contains_key(device)) {
            self.intend(group, Want::PruneOwn);
        } else {
            let (from, to) = SIBLINGS_MS;
            self.plan(from, to, TimerKind::Group(group.id, GroupTimer::PruneOwn));
        }
    }

    /// Nobody else has removed what is off the own list.
    pub(crate) fn prune_own_due(&mut self, group: &mut Group) {
        let named = self.device.own_devices();
        let user = self.device.user();
        let unlisted = user.is_some_and(|user| group.has_unlisted(user, &named));
        if named.contains(&self.device.id()) && unlisted {
            self.intend(group, Want::PruneOwn);
        }
    }

    /// Who of a group's members is off their user's list, as an admin's device sees it. One walk over the members.
    pub(crate) fn off_list(&self, group: &Group) -> OffList {
        let mut off = OffList::default();
        let role = group.state().role_of(&self.device.id());
        if role < Some(Role::Admin) {
            return off;
        }
        let own = self.device.user();
        let mut named = BTreeMap::new();
        for row in group.state().current_rows() {
            if Some(row.user) == own {
                continue;
            }
            let listed = named
                .entry(row.user)
                .or_insert_with(|| self.device.named(&row.user));
            let is_off = listed.as_ref().is_some_and(|it| !it.contains(&row.device));
            if !is_off {
                continue;
            }
            if row.role == Role::Owner && role < Some(Role::Owner) {
                off.held = true;
            } else {
                off.mine.entry(row.user).or_default().push(row.device);
            }
        }
        off
    }

    /// An admin's device removes what is off its user's list, unless a device of that user does so before.
    pub(crate) fn match_listed(&mut self, group: &Group) {
        let off = self.off_list(group);
        if off.held || !off.mine.is_empty() {
            let (from, to) = ADMINS_MS;
            self.plan(
                from,
                to,
                TimerKind::Group(group.id, GroupTimer::PruneListed),
            );
        }
        if !off.held {
            self.ended(About::Group(group.id), End::Pruned);
        }
    }

    /// None of their devices has removed what is off its user's list. That only an owner can remove it is told now that its turn is over.
    pub(crate) fn prune_listed_due(&mut self, group: &mut Group) {
        let off = self.off_list(group);
        for user in off.mine.into_keys() {
            self.intend(group, Want::PruneListed { user });
        }
        if off.held {
            self.finding(group.id, None, FindingKind::RevokedMember, None);
        }
    }

    /// An admin's device looks up its members' lists, one after another: one that changed while it was away was told to it by nobody.
    pub(crate) fn plan_look_ups(&mut self, group: &Group) {
        if group.state().role_of(&self.device.id()) < Some(Role::Admin) {
            return;
        }
        let own = self.device.user();
        let users = group.state().current_rows().map(|row| row.user);
        let others = users.filter(|user| Some(*user) != own);
        let new = others.filter(|user| !self.link.looked_up.contains(user));
        let new: BTreeSet<UserId> = new.collect();
        if !new.is_empty() {
            self.link.looked_up.extend(new.iter().copied());
            self.link.to_look_up.extend(new);
            let (from, to) = ADMINS_MS;
            self.plan(from, to, TimerKind::Lists);
        }
    }

    /// The next of them.
    pub(crate) fn look_up_next(&mut self) {
        if let Some(user) = self.link.to_look_up.pop_first() {
            self.request(Request::GetDeviceList { user }, Pending::DevicesOf(user));
        }
        if !self.link.to_look_up.is_empty() {
            self.wake(LOOK_UP_MS, TimerKind::Lists);
        }
    }
}

impl Engine {
    /// Somebody's devices changed who shares a group with this one: an admin's device looks.
    pub(crate) fn devices_changed(&mut self, user: UserId) {
        let own = self.cx.device.id();
        let concerns = |whole: &Whole| {
            let state = whole.group.state();
            let there = state.current_rows().any(|row| row.user == user);
            there && state.role_of(&own) >= Some(Role::Admin)
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
        if news == News::default() {
            return;
        }
        for id in self.active_groups() {
            self.with_group(id, GroupWork::MatchListed);
        }
    }
}
