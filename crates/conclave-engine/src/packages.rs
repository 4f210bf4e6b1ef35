//! Own key packages: published, renewed by age, replaced when their private halves are lost.

use conclave_proto::frame::{Answer, Request};
use conclave_proto::{Refusal, UnixMs, limits};

use crate::cx::Cx;
use crate::engine::Engine;
use crate::link::{Pending, Publishing};
use crate::timers::TimerKind;

/// Age at which packages are renewed, in milliseconds: a device that connects once in this time can be invited all the time.
const RENEW_AFTER_MS: u64 = limits::KEY_PACKAGE_SHELF_LIFE_MS / 2;
/// Age at which private halves go, in milliseconds: whoever invited with them did so long ago.
const FORGET_AFTER_MS: u64 = 4 * limits::KEY_PACKAGE_SHELF_LIFE_MS;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Private halves kept at most, whatever the service says it lost.
const KEPT: usize = 2 * limits::KEY_PACKAGES_MAX;
/// Pause before packages are put there again that the service did not take, in milliseconds.
const AFTER_REFUSAL_MS: u64 = 60 * 60 * 1000;
/// How long a device that was just enrolled waits on a connection for the user's other devices to add it to their groups, in milliseconds.
const SIBLINGS_MS: u64 = 3_000;
/// And for how long after its enrolment it does so at all.
const ENROLLED_LATELY_MS: u64 = 10 * 60 * 1000;

impl Cx {
    /// This store does not hold the private halves of what was published last: all of it is replaced.
    pub(crate) fn replace_key_packages(&mut self) {
        self.device.set_packages_lost(true);
        self.device.save(&mut self.out.writes);
        self.clear_key_packages();
    }

    pub(crate) fn clear_key_packages(&mut self) {
        let idle = self.link.clearing == Publishing::Idle;
        if !self.device.packages_lost() || !self.link.online || !idle {
            return;
        }
        self.link.clearing = Publishing::Sent;
        self.request(Request::ClearKeyPackages, Pending::ClearPackages);
    }

    pub(crate) fn packages_cleared(&mut self, answer: &Answer) {
        self.link.clearing = Publishing::Idle;
        match answer {
            Answer::KeyPackageCount { left } => {
                self.device.set_packages_lost(false);
                self.device.save(&mut self.out.writes);
                self.link.key_packages = *left;
                self.link.last_resort = false;
                if self.link.refilling == Publishing::Planned {
                    self.link.refilling = Publishing::Idle;
                }
                self.refill(true);
            }
            Answer::Refused(refusal) if refusal.is_retryable() => {
                self.link.clearing = Publishing::Planned;
                self.packages_later(refusal);
            }
            // The next connection asks again.
            _ => {
                self.refill(!self.link.last_resort);
                self.plan_packages(0);
            }
        }
    }

    /// Whether packages are put there or taken back: whatever comes next waits for the answer.
    fn packages_going(&self) -> bool {
        [self.link.refilling, self.link.clearing] != [Publishing::Idle; 2]
    }

    /// Tries again what the service refused for now.
    fn packages_later(&mut self, refusal: &Refusal) {
        let delay = self.jitter_after(refusal, 1_000, 3_000);
        self.cancel_timer(TimerKind::Packages);
        self.wake(delay, TimerKind::Packages);
    }

    /// Publishes key packages up to the target; where those that are there are old, a whole new set. While others are taken back, none: they
    /// follow.
    pub(crate) fn refill(&mut self, last_resort: bool) {
        if !self.link.online || self.packages_going() {
            return;
        }
        // The service takes none that is made in its future.
        let now = self.service_now();
        let made = self.device.packages_made();
        // A clock that was ahead when they were made, and was set right, counts as old.
        let old = now.since_ms(made) >= RENEW_AFTER_MS || made.since_ms(now) > DAY_MS;
        let left = usize::try_from(self.link.key_packages).unwrap_or(usize::MAX);
        let missing = match left {
            _ if old => limits::KEY_PACKAGES_TARGET,
            left if left < limits::KEY_PACKAGES_LOW => limits::KEY_PACKAGES_TARGET - left,
            _ => 0,
        };
        let room = limits::KEY_PACKAGES_MAX.saturating_sub(left);
        let (missing, last_resort) = (missing.min(room), last_resort || old);
        if missing == 0 && !last_resort {
            return;
        }
        self.forget_old_packages(now);
        if self.keystore.count() >= KEPT {
            return;
        }
        let Ok(context) = self.device.context() else {
            return;
        };
        let Ok(made) = self.keystore.generate(&context, missing, last_resort, now) else {
            self.keystore.rollback();
            return;
        };
        self.link.refilling = Publishing::Sent;
        self.request(
            Request::PutKeyPackages {
                one_time: made.one_time.into_iter().map(Into::into).collect(),
                last_resort: made.last_resort.map(Into::into),
            },
            Pending::Refill {
                made: old.then_some(now),
                last_resort,
            },
        );
    }

    pub(crate) fn packages_put(&mut self, made: Option<UnixMs>, last_resort: bool, answer: Answer) {
        self.link.refilling = Publishing::Idle;
        match answer {
            Answer::KeyPackageCount { left } => {
                self.link.key_packages = left;
                self.link.last_resort |= last_resort;
                if let Some(made) = made {
                    self.device.set_packages_made(made);
                    self.device.save(&mut self.out.writes);
                }
                self.plan_packages(0);
            }
            Answer::Refused(refusal) if refusal.is_retryable() => {
                self.link.refilling = Publishing::Planned;
                self.packages_later(&refusal);
            }
            _ => self.plan_packages(AFTER_REFUSAL_MS),
        }
    }

    /// Private halves of packages that nobody can have any more.
    fn forget_old_packages(&mut self, now: UnixMs) {
        let before = |age_ms: u64, now: UnixMs| UnixMs(now.0.saturating_sub(age_ms));
        self.keystore
            .forget_made_before(before(FORGET_AFTER_MS, now));
        if self.keystore.count() >= KEPT {
            let oldest = before(limits::KEY_PACKAGE_SHELF_LIFE_MS, now);
            self.keystore.forget_made_before(oldest);
        }
    }

    /// A device that stays connected renews its packages too. Where something of them is on its way, this is planned after the answer.
    pub(crate) fn plan_packages(&mut self, least_ms: u64) {
        if self.packages_going() {
            return;
        }
        let age_ms = self.service_now().since_ms(self.device.packages_made());
        let left_ms = RENEW_AFTER_MS.saturating_sub(age_ms);
        self.cancel_timer(TimerKind::Packages);
        self.wake(left_ms.max(least_ms), TimerKind::Packages);
    }

    pub(crate) fn packages_due(&mut self) {
        for planned in [&mut self.link.clearing, &mut self.link.refilling] {
            if *planned == Publishing::Planned {
                *planned = Publishing::Idle;
            }
        }
        self.clear_key_packages();
        self.refill(!self.link.last_resort);
    }

    /// A device that was just enrolled is added to its user's groups by the user's other devices, which takes them a moment.
    pub(crate) fn expect_siblings(&mut self) {
        self.cancel_timer(TimerKind::Siblings);
        let lately = self.now.since_ms(self.device.enrolled()) < ENROLLED_LATELY_MS;
        if lately && self.device.devices().len() > 1 {
            self.wake(SIBLINGS_MS, TimerKind::Siblings);
        }
    }
}

impl Engine {
    /// Whether groups of the user's other devices may still come in a moment.
    pub(crate) fn awaits_siblings(&self) -> bool {
        let waits = self.cx.timers.is_set(TimerKind::Siblings);
        waits && self.groups.is_empty() && self.invitations.is_empty()
    }
}
