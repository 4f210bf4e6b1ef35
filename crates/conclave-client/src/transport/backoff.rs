//! How long to wait before connecting again.

use std::time::Duration;

/// Longest pause that a service can ask for.
const MAX_RETRY_AFTER_MS: u64 = 10 * 60 * 1000;
/// No pause is shorter, whatever the dice say: never a busy loop.
const MIN_PAUSE_MS: u64 = 20;

/// Exponential backoff with full jitter: the n-th pause is drawn evenly between nothing and `least · 2ⁿ`, at most `most`, so that devices
/// that lost a service together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first pause, in milliseconds.
    pub least_ms: u64,
    /// Upper bound of all pauses, in milliseconds.
    pub most_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            least_ms: 500,
            most_ms: 30_000,
        }
    }
}

impl Backoff {
    /// The pause after `attempt` failures (from 0) for a random number. Where the service asked for a pause, that one comes first.
    pub(super) fn pause(&self, attempt: u32, retry_after_ms: Option<u64>, random: u64) -> Duration {
        let factor = 1u64.checked_shl(attempt).unwrap_or(u64::MAX);
        let bound = self.least_ms.saturating_mul(factor).min(self.most_ms);
        let jitter = random % bound.saturating_add(1).max(1);
        let asked = retry_after_ms.unwrap_or(0).min(MAX_RETRY_AFTER_MS);
        Duration::from_millis(asked.saturating_add(jitter).max(MIN_PAUSE_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_are_never_nothing() {
        let backoff = Backoff {
            least_ms: 500,
            most_ms: 30_000,
        };
        let longest = |attempt| {
            (0..=30_000)
                .map(|random| backoff.pause(attempt, None, random))
                .max()
                .unwrap()
        };
        assert_eq!(longest(0), Duration::from_millis(500));
        assert_eq!(longest(1), Duration::from_millis(1000));
        assert_eq!(longest(6), Duration::from_millis(30_000));
        for attempt in [0, 1, 6, 63, 64, 65, u32::MAX] {
            assert!(backoff.pause(attempt, None, 0) >= Duration::from_millis(MIN_PAUSE_MS));
            assert!(backoff.pause(attempt, None, u64::MAX) <= Duration::from_millis(30_000));
        }
    }

    #[test]
    fn the_service_can_ask_for_patience_but_not_for_eternity() {
        let backoff = Backoff::default();
        assert!(backoff.pause(0, Some(7000), 0) >= Duration::from_millis(7000));
        assert!(
            backoff.pause(0, Some(u64::MAX), u64::MAX)
                <= Duration::from_millis(MAX_RETRY_AFTER_MS + 500)
        );
    }
}
