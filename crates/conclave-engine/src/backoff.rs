//! Pauses between tries.

/// How often something was tried in vain: each pause is twice as long as the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff(u32);

fn doubled_ms(first_ms: u64, times: u32, longest_ms: u64) -> u64 {
    (first_ms << times.min(20)).min(longest_ms)
}

impl Backoff {
    pub(crate) fn tries(self) -> u32 {
        self.0
    }

    /// The pause that comes next, in milliseconds.
    pub(crate) fn pause_ms(self, first_ms: u64, longest_ms: u64) -> u64 {
        doubled_ms(first_ms, self.0, longest_ms)
    }

    /// The pause that is over or going on, in milliseconds.
    pub(crate) fn last_ms(self, first_ms: u64, longest_ms: u64) -> u64 {
        doubled_ms(first_ms, self.0.saturating_sub(1), longest_ms)
    }

    /// One more try: gives the pause after it, in milliseconds.
    pub(crate) fn next_ms(&mut self, first_ms: u64, longest_ms: u64) -> u64 {
        let pause_ms = self.pause_ms(first_ms, longest_ms);
        self.0 = self.0.saturating_add(1);
        pause_ms
    }

    /// It went well, or begins anew.
    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }
}
