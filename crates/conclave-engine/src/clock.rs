//! Clocks: this device's, the service's, and the newest time that a group's log shows. Rules never ask them; what is fresh, and what this
//! device is willing to sign, does.

use std::fmt;

use conclave_proto::{UnixMs, limits};
use serde::{Deserialize, Serialize};

use crate::cx::Cx;
use crate::engine::Engine;
use crate::finding::{About, End, Finding, FindingKind};
use crate::group::Group;
use crate::timers::TimerKind;

const MINUTE_MS: u64 = 60 * 1000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
const YEAR_MS: u64 = 365 * DAY_MS;

/// A difference below this is nobody's fault, in milliseconds.
const TOLERANCE_MS: u64 = 5 * MINUTE_MS;
/// A service that is this far behind what it has ordered itself has the wrong clock, in milliseconds.
const SERVICE_BEHIND_MS: u64 = HOUR_MS;
/// What waits for a clock looks again after this long, in milliseconds.
const LOOK_AGAIN_MS: u64 = MINUTE_MS;
/// A comparison of the clocks is believed for this long where the service says otherwise, in milliseconds.
const COMPARISON_MS: u64 = MINUTE_MS;

/// Whose clock is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// This device's, compared with the service's.
    Device,
    /// The service's: it is behind a time that it has ordered itself.
    Service,
}

/// A clock that is wrong. As text, a sentence for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockOffset {
    /// Whose.
    pub clock: Clock,
    /// By how much it is ahead, in milliseconds; negative where it is behind.
    pub ahead_ms: i64,
    /// Whether new groups and changes of members wait until it is set.
    pub holds_back: bool,
}

impl ClockOffset {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.clock {
            Clock::Device => "clock.device",
            Clock::Service => "clock.service",
        }
    }
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = Span(self.ahead_ms.unsigned_abs());
        let direction = if self.ahead_ms < 0 { "slow" } else { "fast" };
        match self.clock {
            Clock::Device => write!(f, "This device's clock is {span} {direction}; set it.")?,
            Clock::Service => write!(
                f,
                "The service's clock is {span} behind a change that it has taken itself; tell its operator."
            )?,
        }
        if self.holds_back {
            write!(
                f,
                " Until then new groups and changes of members wait here; edits go on."
            )?;
        }
        Ok(())
    }
}

/// Whether a difference is more than one that is nobody's fault.
fn is_off(by_ms: i64) -> bool {
    by_ms.unsigned_abs() > TOLERANCE_MS
}

/// A span of time in its two largest units, to the nearest minute.
pub(crate) struct Span(pub(crate) u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            (YEAR_MS, "year", "years"),
            (DAY_MS, "day", "days"),
            (HOUR_MS, "h", "h"),
            (MINUTE_MS, "min", "min"),
        ];
        let mut rest = self.0.saturating_add(MINUTE_MS / 2);
        let mut shown = 0;
        for (unit_ms, one, many) in units {
            let count = rest / unit_ms;
            rest %= unit_ms;
            if count > 0 && shown < 2 {
                let space = if shown > 0 { " " } else { "" };
                let name = if count == 1 { one } else { many };
                write!(f, "{space}{count} {name}")?;
            }
            // What follows the largest unit is the second, even where there is none of it.
            shown += u32::from(count > 0 || shown > 0);
        }
        if shown == 0 {
            f.write_str("less than 1 min")?;
        }
        Ok(())
    }
}

/// The clocks, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    /// The service's clock minus ours at login, in milliseconds; none without a connection.
    offset_ms: Option<i64>,
    /// Our clock when they were compared.
    compared: UnixMs,
    /// Newest time of a commit that the service has ordered, of all groups in memory.
    ordered: UnixMs,
    /// The user vouches for the service's clock.
    trusted: bool,
}

impl Clocks {
    pub(crate) fn disconnected(&mut self) {
        self.offset_ms = None;
    }

    /// Our clock was set back while the connection stands.
    pub(crate) fn set_back(&mut self, by_ms: u64) {
        let by_ms = i64::try_from(by_ms).unwrap_or(i64::MAX);
        self.offset_ms = self.offset_ms.map(|offset| offset.saturating_add(by_ms));
        self.compared = UnixMs(self.compared.0.saturating_sub(by_ms.unsigned_abs()));
    }
}

impl Engine {
    /// Whether the service's clock is taken for right where it is more than a day ahead of this device's: its user has compared them.
    pub fn trust_service_clock(&mut self, yes: bool) {
        self.cx.clocks.trusted = yes;
    }

    /// See [`Engine::trust_service_clock`].
    #[must_use]
    pub fn trusts_service_clock(&self) -> bool {
        self.cx.clocks.trusted
    }
}

impl Cx {
    pub(crate) fn note_clock(&mut self, service: UnixMs) {
        let offset = i128::from(service.0) - i128::from(self.now.0);
        self.clocks.offset_ms = Some(i64::try_from(offset).unwrap_or(0));
        self.clocks.compared = self.now;
        self.judge_clock();
    }

    /// A wrong clock of this device is told once, and again when it is off by another amount; it is settled when the clock is right again.
    pub(crate) fn judge_clock(&mut self) {
        let Some(offset_ms) = self.clocks.offset_ms else {
            return;
        };
        let ahead_ms = offset_ms.saturating_neg();
        let holds_back = self.is_far_ahead(self.service_now());
        let finding = Finding {
            what: FindingKind::OwnClock {
                ahead_ms,
                holds_back,
            },
            about: About::Device,
            suspect: None,
        };
        if !is_off(ahead_ms) {
            return self.ended(About::Device, End::ClockRight);
        }
        let known = match self.open_finding(&finding) {
            Some(FindingKind::OwnClock {
                ahead_ms: known,
                holds_back: held,
            }) => held == holds_back && !is_off(known.saturating_sub(ahead_ms)),
            _ => false,
        };
        let service_is_wrong = self.clock().is_some_and(|it| it.clock == Clock::Service);
        if !known && !service_is_wrong {
            self.found(finding);
        }
    }

    /// The service's clock now, as far as it is known.
    pub(crate) fn service_now(&self) -> UnixMs {
        let offset_ms = self.clocks.offset_ms.unwrap_or(0);
        UnixMs(self.now.0.saturating_add_signed(offset_ms))
    }

    /// The latest of all that is known of the present: by this it is judged what is fresh. A clock that is behind revives nothing.
    pub(crate) fn latest(&self) -> UnixMs {
        self.now.max(self.service_now()).max(self.clocks.ordered)
    }

    /// The clock by which this device decides what it is willing to sign.
    pub(crate) fn own_clock(&self) -> UnixMs {
        if self.clocks.trusted {
            self.now.max(self.service_now())
        } else {
            self.now
        }
    }

    /// Whether a time lies so far ahead that this device does not put its name to it: a lie would stay in the log.
    pub(crate) fn is_far_ahead(&self, time: UnixMs) -> bool {
        time.since_ms(self.own_clock()) > limits::OWN_CLOCK_SKEW_MS
    }

    /// Which clock is wrong, if one is known to be.
    pub(crate) fn clock(&self) -> Option<ClockOffset> {
        let offset_ms = self.clocks.offset_ms?;
        let service = self.service_now();
        let holds_back = self.is_far_ahead(service);
        let behind_ms = self.clocks.ordered.since_ms(service);
        if behind_ms > SERVICE_BEHIND_MS {
            return Some(ClockOffset {
                clock: Clock::Service,
                ahead_ms: i64::try_from(behind_ms).map_or(i64::MIN, |behind_ms| -behind_ms),
                holds_back: false,
            });
        }
        is_off(offset_ms).then(|| ClockOffset {
            clock: Clock::Device,
            ahead_ms: offset_ms.saturating_neg(),
            holds_back,
        })
    }

    /// Which clock stands in the way of what a group waits for.
    pub(crate) fn clock_in_the_way(&self, group: &Group) -> ClockOffset {
        self.clock().unwrap_or_else(|| {
            let behind_ms = group.state().last_time.since_ms(self.own_clock());
            ClockOffset {
                clock: Clock::Device,
                ahead_ms: i64::try_from(behind_ms).map_or(i64::MIN, |behind_ms| -behind_ms),
                holds_back: true,
            }
        })
    }

    /// Whether this device's clock is known to be wrong: then nobody else is blamed for what looks stale.
    pub(crate) fn is_clock_wrong(&self) -> bool {
        self.clock()
            .is_some_and(|offset| offset.clock == Clock::Device)
    }

    /// Takes in the time of the newest commit of a group that the service has.
    pub(crate) fn note_ordered(&mut self, group: &Group) {
        if !group.is_founding() {
            self.clocks.ordered = self.clocks.ordered.max(group.state().last_time);
        }
    }

    /// Something waits for a clock: it is looked at again, and the clocks are compared anew by then.
    pub(crate) fn wait_for_clock(&mut self) {
        self.wake(LOOK_AGAIN_MS, TimerKind::Clock);
    }

    /// The clocks are compared at login only.
    pub(crate) fn compare_clocks(&mut self) {
        self.hang_up("the clocks have to be compared again");
    }

    /// The service finds a time too far from its clock. If they were compared just now, it is no use to do it again.
    pub(crate) fn time_refused(&mut self) {
        if self.now.since_ms(self.clocks.compared) > COMPARISON_MS {
            self.compare_clocks();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(ahead_ms: i64) -> String {
        let clock = Clock::Device;
        let holds_back = false;
        ClockOffset {
            clock,
            ahead_ms,
            holds_back,
        }
        .to_string()
    }

    #[test]
    fn a_wrong_clock_is_told_in_plain_words() {
        let (minute, hour) = (MINUTE_MS as i64, HOUR_MS as i64);
        let (day, year) = (DAY_MS as i64, YEAR_MS as i64);
        for (ahead_ms, words) in [
            (-(3 * hour + 12 * minute), "3 h 12 min slow"),
            (6 * minute + 3, "6 min fast"),
            (-(3 * day - 40), "3 days slow"),
            (25 * hour, "1 day 1 h fast"),
            (-(3 * day), "3 days slow"),
            (20 * year, "20 years fast"),
            (-(year + 40 * minute), "1 year slow"),
            (i64::MIN, "292471208 years 247 days slow"),
        ] {
            let told = format!("This device's clock is {words}; set it.");
            assert_eq!(device(ahead_ms), told);
        }
        let service = ClockOffset {
            clock: Clock::Service,
            ahead_ms: -2 * hour,
            holds_back: false,
        };
        assert_eq!(
            service.to_string(),
            "The service's clock is 2 h behind a change that it has taken itself; tell its operator."
        );
    }
}
