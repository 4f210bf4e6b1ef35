//! The turn to begin an epoch. Whoever resists a removal can make one commit after another, each begun before the last is seen: the removal
//! would be made for an epoch that is over, time and again. So whoever lost the race with a removal goes first next.
//!
//! A turn is for one who is there: who waited for it, asleep perhaps, has it from its next commit on. Until then nobody else gets one before it,
//! and nobody is held up.

use std::collections::BTreeMap;

use conclave_proto::{DeviceId, Refusal, Role, UnixMs, UserId};

/// How long a turn lasts, in milliseconds.
pub const TURN_MS: u64 = 5_000;
/// Least time between two turns of a user, in milliseconds. As long waits who has lost, from when it was last heard of.
pub const BETWEEN_TURNS_MS: u64 = 60_000;

/// Whoever has the turn, or waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claim {
    device: DeviceId,
    user: UserId,
    role: Role,
    /// Since when it has the turn; when it last lost, while it waits.
    at: UnixMs,
}

/// Whether what began then goes on. Where the clock was set back it is not known how long it lasts: it is over.
fn lasts(at: UnixMs, now: UnixMs, for_ms: u64) -> bool {
    at <= now && now.since_ms(at) < for_ms
}

/// Who may begin a group's next epoch. In memory: what a restart forgets is asked for again.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    holder: Option<Claim>,
    /// Whether the holder has committed something else in its turn.
    strayed: bool,
    /// In the order in which they came.
    queue: Vec<Claim>,
    /// When users had their last turns, as long as that counts.
    had: BTreeMap<UserId, UnixMs>,
}

impl Turns {
    /// Whether a device with this role may bring anything into the log now: not while somebody else has the turn whose role is not lower.
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
        let passed = now.since_ms(holder.at);
        let retry_after_ms = TURN_MS.saturating_sub(passed).max(1);
        Err(Refusal::RateLimited { retry_after_ms })
    }

    /// A device's commit that removes somebody came too late, or before its turn: it has the turn now, or waits for it. One per user and minute;
    /// admins and above.
    pub fn lost(&mut self, device: DeviceId, user: UserId, role: Role, now: UnixMs) {
        self.advance(now);
        if role < Role::Admin || self.holder.is_some_and(|holder| holder.user == user) {
            return;
        }
        let mut waiting = self.queue.iter_mut();
        if let Some(claim) = waiting.find(|claim| claim.user == user) {
            if claim.device != device {
                return;
            }
            (claim.role, claim.at) = (role, now);
        } else if self.had.contains_key(&user) {
            return;
        } else {
            self.queue.push(Claim {
                device,
                user,
                role,
                at: now,
            });
        }
        if self.holder.is_none() && self.first().is_some_and(|claim| claim.device == device) {
            self.queue.retain(|claim| claim.device != device);
            self.had.insert(user, now);
            self.strayed = false;
            self.holder = Some(Claim {
                device,
                user,
                role,
                at: now,
            });
        }
    }

    /// A device's commit was ordered. Its turn is over where that removes somebody, which is what it was for, or is the second that does not: a
    /// turn is for a removal, and not for a chain of commits. Whoever is out of the group has none.
    pub fn ordered(&mut self, device: DeviceId, removes: bool, out: &[DeviceId]) {
        let in_turn = self.holder.is_some_and(|holder| holder.device == device);
        let removes = removes || (in_turn && self.strayed);
        self.strayed |= in_turn;
        let over =
            |claim: &Claim| out.contains(&claim.device) || (removes && claim.device == device);
        self.queue.retain(|claim| !over(claim));
        self.holder = self.holder.filter(|holder| !over(holder));
    }

    /// Whether anybody has the turn, or waits for it, or had it lately.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.holder.is_none() && self.queue.is_empty() && self.had.is_empty()
    }

    /// The first of those with the highest role.
    fn first(&self) -> Option<&Claim> {
        self.queue.iter().rev().max_by_key(|claim| claim.role)
    }

    fn advance(&mut self, now: UnixMs) {
        self.had.retain(|_, had| lasts(*had, now, BETWEEN_TURNS_MS));
        self.queue
            .retain(|claim| lasts(claim.at, now, BETWEEN_TURNS_MS));
        self.holder = self.holder.filter(|it| lasts(it.at, now, TURN_MS));
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
        // An owner's commit does not end it, nor does the first of its own that removes nobody.
        turns.ordered(OWNER.0, true, &[]);
        turns.ordered(ADMIN.0, false, &[]);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 2_500), Some(3_500));
        turns.ordered(ADMIN.0, true, &[]);
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
        turns.ordered(ADMIN.0, true, &[]);
        // Whoever is not the first gets it no sooner for asking again.
        lost(&mut turns, late, Role::Admin, 10);
        lost(&mut turns, OTHER, Role::Admin, 10);
        lost(&mut turns, OWNER, Role::Owner, 10);
        assert_eq!(wait(&mut turns, OTHER.0, Role::Admin, 10), Some(5_000));
        assert_eq!(wait(&mut turns, OWNER.0, Role::Owner, 10), None);
        // It is over though nobody made use of it.
        lost(&mut turns, late, Role::Admin, 5_010);
        lost(&mut turns, OTHER, Role::Admin, 5_010);
        assert_eq!(wait(&mut turns, late.0, Role::Admin, 5_010), Some(5_000));
        assert_eq!(wait(&mut turns, OTHER.0, Role::Admin, 5_010), None);
        turns.ordered(OTHER.0, true, &[]);
        lost(&mut turns, late, Role::Admin, 5_020);
        assert_eq!(wait(&mut turns, late.0, Role::Admin, 5_020), None);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 5_020), Some(5_000));
    }

    #[test]
    fn whoever_waited_has_it_from_when_it_is_there_again() {
        let mut turns = Turns::default();
        lost(&mut turns, OTHER, Role::Admin, 0);
        lost(&mut turns, ADMIN, Role::Admin, 1_000);
        // While it sleeps nobody is held up.
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 5_000), None);
        assert_eq!(wait(&mut turns, OTHER.0, Role::Admin, 30_000), None);
        // And nobody who came later goes before it.
        let late = (DeviceId([4; 16]), UserId([4; 32]));
        lost(&mut turns, late, Role::Admin, 30_000);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 30_000), None);
        lost(&mut turns, ADMIN, Role::Admin, 60_999);
        assert_eq!(wait(&mut turns, late.0, Role::Admin, 60_999), Some(5_000));
        assert_eq!(wait(&mut turns, ADMIN.0, Role::Admin, 60_999), None);
        turns.ordered(ADMIN.0, true, &[]);
        // Who is not heard of for a minute is not waited for.
        lost(&mut turns, OTHER, Role::Admin, 89_999);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 89_999), None);
        lost(&mut turns, OTHER, Role::Admin, 90_000);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 90_000), Some(5_000));
    }

    #[test]
    fn it_is_for_no_chain_of_commits() {
        let mut turns = Turns::default();
        for device in [ADMIN, OTHER] {
            lost(&mut turns, device, Role::Admin, 0);
            turns.ordered(device.0, false, &[]);
            assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 0), Some(5_000));
            turns.ordered(device.0, false, &[]);
            assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 0), None);
        }
    }

    #[test]
    fn whoever_is_out_has_none() {
        let mut turns = Turns::default();
        lost(&mut turns, OTHER, Role::Admin, 0);
        lost(&mut turns, ADMIN, Role::Admin, 0);
        turns.ordered(OWNER.0, true, &[OTHER.0, ADMIN.0]);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 1), None);
        let late = (DeviceId([4; 16]), UserId([4; 32]));
        lost(&mut turns, late, Role::Admin, 1);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 1), Some(5_000));
    }

    #[test]
    fn a_clock_that_is_set_back_ends_it() {
        let mut turns = Turns::default();
        lost(&mut turns, ADMIN, Role::Admin, 1_000_000);
        assert_eq!(wait(&mut turns, VIEWER, Role::Viewer, 999_999), None);
    }
}
