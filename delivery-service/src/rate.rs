//! Token buckets: how often a device may ask or come back, and how often a user and a group may renew leaves.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use conclave_proto::{Refusal, UnixMs};

/// Keys after which buckets that are full again are forgotten.
const SWEEP_KEYS: usize = 4096;

/// One bucket's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Tokens of a full bucket.
    pub burst: u64,
    /// Tokens that come back in an hour.
    pub per_hour: u64,
}

impl Bucket {
    /// A bucket of `burst` tokens, of which `per_minute` come back in a minute.
    #[must_use]
    pub const fn new(burst: u64, per_minute: u64) -> Self {
        Self::per_hour(burst, per_minute.saturating_mul(60))
    }

    /// A bucket of `burst` tokens, of which `per_hour` come back in an hour.
    #[must_use]
    pub const fn per_hour(burst: u64, per_hour: u64) -> Self {
        Self { burst, per_hour }
    }
}

/// Named rates. Each is counted by device, but returns, which are counted by device and group; own devices, self-updates and policies, by user
/// and group, as are voided records; self-updates of all, by group; one-time packages, by both users and by the one whose they are; and devices of
/// others, by group and both users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimits {
    /// Requests of any kind.
    pub requests: Bucket,
    /// Appended records.
    pub records: Bucket,
    /// Appended and uploaded bytes.
    pub bytes: Bucket,
    /// Presence that is for all.
    pub shown: Bucket,
    /// Presence that is for one.
    pub shown_to_one: Bucket,
    /// Bytes of presence that is for all.
    pub shown_bytes: Bucket,
    /// Bytes of presence that is for one.
    pub shown_to_one_bytes: Bucket,
    /// Requests for key packages.
    pub claims: Bucket,
    /// Those by which a user takes one-time packages of another; past it packages of last resort are handed out.
    pub claims_of_user: Bucket,
    /// The same of all others together.
    pub claims_from_user: Bucket,
    /// GroupInfos replaced.
    pub repairs: Bucket,
    /// Heads asked for, by device and log.
    pub heads: Bucket,
    /// Commits of a user that change nothing but the author's own leaf.
    pub self_updates: Bucket,
    /// The same of all users of a group.
    pub group_self_updates: Bucket,
    /// Commits of a user that change the policy and let nobody in or out, or turn over roles of those who are there.
    pub policies: Bucket,
    /// Devices that a user adds of its own.
    pub own_adds: Bucket,
    /// Devices that a user adds of another. They come and go by the admin's commits, and the rows of the roster that they leave count against
    /// nobody.
    pub other_adds: Bucket,
    /// Records that a user declares void.
    pub voids: Bucket,
    /// External commits: a device comes back. By device and group, so that neither the others who come back with it nor its own other
    /// groups hold it up.
    pub returns: Bucket,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            requests: Bucket::new(2_000, 30_000),
            records: Bucket::new(100_000, 600_000),
            bytes: Bucket::new(512 * 1024 * 1024, 1024 * 1024 * 1024),
            shown: Bucket::new(20, 600),
            shown_to_one: Bucket::new(1_024, 15_360),
            shown_bytes: Bucket::new(128 * 1024, 60 * 64 * 1024),
            shown_to_one_bytes: Bucket::new(2 * 1024 * 1024, 60 * 64 * 1024),
            claims: Bucket::new(500, 600),
            claims_of_user: Bucket::per_hour(8, 8),
            claims_from_user: Bucket::per_hour(64, 64),
            repairs: Bucket::new(30, 12),
            heads: Bucket::per_hour(1, 360),
            self_updates: Bucket::per_hour(30, 60),
            group_self_updates: Bucket::new(600, 60),
            policies: Bucket::per_hour(30, 60),
            own_adds: Bucket::per_hour(8, 6),
            other_adds: Bucket::per_hour(64, 12),
            voids: Bucket::per_hour(128, 64),
            returns: Bucket::per_hour(20, 30),
        }
    }
}

/// Levels are counted in such parts of a token that a millisecond adds a whole number of them.
const UNITS: u64 = 3_600_000;

struct Level {
    units: u64,
    at: UnixMs,
}

/// Buckets of one shape, one for each key.
pub(crate) struct Buckets<K> {
    shape: Option<Bucket>,
    levels: Mutex<Levels<K>>,
}

struct Levels<K> {
    of: HashMap<K, Level>,
    /// Keys at which those whose buckets are full again are looked for next: a look costs as much as there are.
    sweep_keys: usize,
}

impl<K: Hash + Eq> Buckets<K> {
    /// Full buckets of this shape; none never refuses.
    pub(crate) fn new(shape: Option<Bucket>) -> Self {
        Self {
            shape,
            levels: Mutex::new(Levels {
                of: HashMap::new(),
                sweep_keys: SWEEP_KEYS,
            }),
        }
    }

    /// Takes `tokens`. What is larger than the bucket passes when it is full.
    pub(crate) fn take(&self, key: K, tokens: u64, now: UnixMs) -> Result<(), Refusal> {
        self.ask(key, tokens, now, true)
    }

    /// What [`Buckets::take`] would say, without taking anything.
    pub(crate) fn has(&self, key: K, tokens: u64, now: UnixMs) -> Result<(), Refusal> {
        self.ask(key, tokens, now, false)
    }

    fn ask(&self, key: K, tokens: u64, now: UnixMs, take: bool) -> Result<(), Refusal> {
        let Some(shape) = self.shape else {
            return Ok(());
        };
        let full = shape.burst.saturating_mul(UNITS);
        let wanted = tokens.saturating_mul(UNITS).min(full);
        let refill = |level: &Level| {
            let gained = now.since_ms(level.at).saturating_mul(shape.per_hour);
            level.units.saturating_add(gained).min(full)
        };
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        if levels.of.len() >= levels.sweep_keys {
            levels.of.retain(|_, level| refill(level) < full);
            levels.sweep_keys = levels.of.len().saturating_mul(2).max(SWEEP_KEYS);
        }
        let level = levels.of.entry(key).or_insert(Level {
            units: full,
            at: now,
        });
        level.units = refill(level);
        level.at = now;
        if level.units < wanted {
            let missing = wanted - level.units;
            let retry_after_ms = missing.div_ceil(shape.per_hour.max(1));
            return Err(Refusal::RateLimited { retry_after_ms });
        }
        if take {
            level.units -= wanted;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_says_when_to_come_back() {
        let buckets = Buckets::new(Some(Bucket::new(2, 60)));
        assert!(buckets.take("a", 1, UnixMs(0)).is_ok());
        assert!(buckets.take("a", 1, UnixMs(0)).is_ok());
        assert_eq!(
            buckets.take("a", 1, UnixMs(0)),
            Err(Refusal::RateLimited {
                retry_after_ms: 1000
            })
        );
        assert!(buckets.take("b", 1, UnixMs(0)).is_ok());
        assert!(buckets.take("a", 1, UnixMs(999)).is_err());
        assert!(buckets.take("a", 1, UnixMs(1000)).is_ok());
        assert!(
            buckets.has("b", 1, UnixMs(0)).is_ok(),
            "asking takes nothing"
        );
        assert!(buckets.take("b", 1, UnixMs(0)).is_ok());
        assert!(buckets.has("b", 1, UnixMs(0)).is_err());
        // A clock that goes back gives nothing and takes nothing.
        assert!(buckets.take("a", 1, UnixMs(0)).is_err());
    }

    #[test]
    fn a_bucket_may_fill_slowly() {
        let buckets = Buckets::new(Some(Bucket::per_hour(1, 4)));
        assert!(buckets.take("a", 1, UnixMs(0)).is_ok());
        let retry_after_ms = 15 * 60 * 1000;
        let refused = Err(Refusal::RateLimited { retry_after_ms });
        assert_eq!(buckets.take("a", 1, UnixMs(0)), refused);
        assert!(buckets.take("a", 1, UnixMs(retry_after_ms - 1)).is_err());
        assert!(buckets.take("a", 1, UnixMs(retry_after_ms)).is_ok());
    }

    #[test]
    fn what_is_larger_than_the_bucket_needs_a_full_one() {
        let buckets = Buckets::new(Some(Bucket::new(2, 60)));
        assert!(buckets.take("a", 100, UnixMs(0)).is_ok());
        assert!(buckets.take("a", 100, UnixMs(1999)).is_err());
        assert!(buckets.take("a", 100, UnixMs(2000)).is_ok());
    }
}
