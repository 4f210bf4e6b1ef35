//! The turn to begin an epoch. Whoever resists a removal can make one commit after another, each begun before the last is seen: the removal
//! would be made for an epoch that is over, time and again. So whoever lost the race with a removal goes first next.

use std::collections::BTreeMap;

use conclave_proto::{DeviceId, Refusal, Role, UnixMs, UserId};

/// How long a turn lasts, in milliseconds.
pub const TURN_MS: u64 = 5_000;
/// Least time between two turns of a user, in milliseconds.
pub const BETWEEN_TURNS_MS: u64 = 60_000;

/// Whoever has the turn, or waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claim {
    device: DeviceId,
    user: UserId,
    role: Role,
    /// Since when.
    since: UnixMs,
}

impl Claim {
    fn holds(&self, now: UnixMs, for_ms: u64) -> bool {
        // Where the clock was set back it is not known how long it lasts: it is over.
        self.since <= now && now.since_ms(self.since) < for_ms
    }
}

/// Who may begin a group's next epoch. In memory: what a restart forgets is asked for again.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    holder: Option<Claim>,
    /// In the order in which they came.
    queue: Vec<Claim>,
    /// When users had their last turns, as long as that counts.
    had: BTreeMap<UserId, UnixMs>,
}

impl Turns {
    /// Whether a device with this role may commit or propose now: not while somebody else has the turn whose role is not lower.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`]: when to come back.
    pub fn ask(
        &mut self,
        device: DeviceId,
        role: Option<Role>,
        now: UnixMs,
    ) -> Result<(), Refusal> {
        self.advance(now);
        let Some(holder) = &self.holder else {
            return Ok(());
        };
        // Breakage: whoever is fastest begins the next epoch.
        if holder.device == device || role > Some(holder.role) || crate::broken("no-turn") {
            return Ok(());
        }
        let passed = now.since_ms(holder.since);
        let retry_after_ms = TURN_MS.saturating_sub(passed).max(1);
        Err(Refusal::RateLimited { retry_after_ms })
    }

    /// A device's commit that removes somebody came too late, or before its turn: it waits for the turn. One per user and minute; admins and
    /// above.
    pub fn lost(&mut self, device: DeviceId, user: UserId, role: Role, now: UnixMs) {
        let had = self.had.get(&user);
        let rests = had.is_some_and(|had| *had <= now && now.since_ms(*had) < BETWEEN_TURNS_MS);
        let waits = self.queue.iter().any(|other| other.user == user);
        if role < Role::Admin || rests || waits {
            return;
        }
        self.queue.push(Claim {
            device,
            user,
            role,
            since: now,
        });
        self.advance(now);
    }

    /// A device's commit was ordered: its turn is over.
    pub fn ordered(&mut self, device: DeviceId, now: UnixMs) {
        self.queue.retain(|waiting| waiting.device != device);
        if self.holder.is_some_and(|holder| holder.device == device) {
            self.holder = None;
            self.advance(now);
        }
    }

    /// Whether anybody has the turn, or waits for it, or had it lately.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.holder.is_none() && self.queue.is_empty() && self.had.is_empty()
    }

    fn advance(&mut self, now: UnixMs) {
        self.had
            .retain(|_, had| *had <= now && now.since_ms(*had) < BETWEEN_TURNS_MS);
        self.queue
            .retain(|waiting| waiting.holds(now, BETWEEN_TURNS_MS));
        if self.holder.is_some_and(|holder| holder.holds(now, TURN_MS)) {
            return;
        }
        self.holder = None;
        // The first of those with the highest role.
        let first = self
            .queue
            .iter()
            .enumerate()
            .rev()
            .max_by_key(|(_, it)| it.role);
        let Some(at) = first.map(|(at, _)| at) else {
            return;
        };
        let next = self.queue.remove(at);
        self.had.insert(next.user, now);
        self.holder = Some(Claim { since: now, ..next });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIN: (DeviceId, UserId) = (DeviceId([1; 16]), UserId([1; 32]));
    const OTHER: (DeviceId, UserId) = (DeviceId([2; 16]), UserId([2; 32]));
    const OWNER: (DeviceId, UserId) = (DeviceId([3; 16]), UserId([3; 32]));
    const VIEWER: DeviceId = DeviceId([9; 16]);

    fn lost(turns: &mut Turns, (device, user): (DeviceId, UserId), role: Role, now: u64) {
        turns.lost(device, user, role, UnixMs(now));
    }

    fn wait(turns: &mut Turns, device: DeviceId, role: Role, now: u64) -> Option<u64> {
        match turns.ask(device, Some(role), UnixMs(now)) {
            Ok(()) => None,
            Err(Refusal::RateLimited { retry_after_ms }) => Some(retry_after_ms),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_removal_that_lost_comes_next_and_the_rest_after_it() {
        let mut turns = Turns::default();
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 1_000), None);
        lost(&mut turns, ADMIN, Role::Admin, 1_000);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 1_000), Some(5_000));
        assert_eq!(wait(&mut turns, OTHER.0, Role::Admin, 5_999), Some(1));
        assert_eq!(wait(&mut turns, ADMIN.0, Role::Admin, 2_000), None);
        assert_eq!(wait(&mut turns, OWNER.0, Role::Owner, 2_000), None);
        assert!(turns.ask(DeviceId([8; 16]), None, UnixMs(2_000)).is_err());
        // An owner's commit does not end it; its own does.
        turns.ordered(OWNER.0, UnixMs(2_500));
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 2_500), Some(3_500));
        turns.ordered(ADMIN.0, UnixMs(3_000));
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 3_000), None);
    }

    #[test]
    fn nobody_holds_it_longer_than_five_seconds_or_more_than_once_a_minute() {
        let mut turns = Turns::default();
        lost(&mut turns, ADMIN, Role::Admin, 0);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 5_000), None);
        for now in [5_001, 30_000, 59_999] {
            lost(&mut turns, ADMIN, Role::Admin, now);
            assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, now), None);
        }
        lost(&mut turns, ADMIN, Role::Admin, 60_000);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 60_000), Some(5_000));
        assert!(!turns.is_idle());
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 120_000), None);
        assert!(turns.is_idle());
    }

    #[test]
    fn only_admins_and_above_get_it() {
        let mut turns = Turns::default();
        for role in [Role::Viewer, Role::Editor] {
            lost(&mut turns, OTHER, role, 0);
            assert!(turns.is_idle());
        }
    }

    #[test]
    fn it_goes_by_role_then_by_who_came_first() {
        let mut turns = Turns::default();
        let late = (DeviceId([4; 16]), UserId([4; 32]));
        lost(&mut turns, ADMIN, Role::Admin, 0);
        lost(&mut turns, OTHER, Role::Admin, 1);
        lost(&mut turns, late, Role::Admin, 2);
        lost(&mut turns, OWNER, Role::Owner, 3);
        // Another device of a user who waits is no second claim.
        lost(&mut turns, (DeviceId([5; 16]), OTHER.1), Role::Admin, 3);
        turns.ordered(ADMIN.0, UnixMs(10));
        assert_eq!(wait(&mut turns, OTHER.0, Role::Admin, 10), Some(5_000));
        assert_eq!(wait(&mut turns, OWNER.0, Role::Owner, 10), None);
        // It is over though nobody made use of it.
        assert_eq!(wait(&mut turns, late.0, Role::Admin, 5_010), Some(5_000));
        assert_eq!(wait(&mut turns, OTHER.0, Role::Admin, 5_010), None);
        turns.ordered(OTHER.0, UnixMs(5_020));
        assert_eq!(wait(&mut turns, late.0, Role::Admin, 5_020), None);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 5_020), Some(5_000));
    }

    #[test]
    fn a_clock_that_is_set_back_ends_it() {
        let mut turns = Turns::default();
        lost(&mut turns, ADMIN, Role::Admin, 1_000_000);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 999_999), None);
    }
}
