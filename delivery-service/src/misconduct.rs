//! What an operator is told of devices that are not let in, or send what no honest program sends.
//!
//! Ids are named by a hash that is this service's own: lines about one device can be put together, and are of no use beside the log of
//! another service. Nothing else that a device sent is logged.

use std::sync::atomic::{AtomicU64, Ordering};

use conclave_proto::hash::labelled;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, Refusal, UnixMs, UserId};

use crate::limits::MISCONDUCT_LINES;
use crate::rate::Buckets;

/// Bytes of a hashed id that are shown.
const SHOWN_BYTES: usize = 6;

/// Writes the lines, and holds back what would flood the log.
pub(crate) struct Misconduct {
    service_key: [u8; 32],
    pace: Buckets<()>,
    held_back: AtomicU64,
}

impl Misconduct {
    pub(crate) fn new(service_key: [u8; 32]) -> Self {
        Self {
            service_key,
            pace: Buckets::new(Some(MISCONDUCT_LINES)),
            held_back: AtomicU64::new(0),
        }
    }

    /// A login was refused. Who it says it is need not be true: it may not have been shown yet.
    pub(crate) fn login(&self, claimed: Option<(&DeviceId, &UserId)>, why: &Refusal, now: UnixMs) {
        // A service that stops refuses everybody.
        if *why == Refusal::ShuttingDown {
            return;
        }
        let Some(held_back) = self.turn(now) else {
            return;
        };
        let device = claimed.map(|(device, _)| self.hashed(&device.0));
        let user = claimed.map(|(_, user)| self.hashed(&user.0));
        let (device, user) = (device.unwrap_or_default(), user.unwrap_or_default());
        tracing::warn!(device, user, code = why.code(), %why, held_back, "login refused");
    }

    /// A device that is logged in was refused something. Most refusals are everyday; those that no honest program earns are logged.
    pub(crate) fn refused(&self, device: &DeviceId, why: &Refusal, now: UnixMs) {
        if !is_untrue(why) {
            return;
        }
        let Some(held_back) = self.turn(now) else {
            return;
        };
        let device = self.hashed(&device.0);
        tracing::warn!(device, code = why.code(), %why, held_back, "a device sent what is not valid");
    }

    /// Whether a line may be written now, and how many were not since the last one.
    fn turn(&self, now: UnixMs) -> Option<u64> {
        if self.pace.take((), 1, now).is_ok() {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn hashed(&self, id: &[u8]) -> String {
        let hash = labelled("conclave log id", &[&self.service_key, id]);
        data_encoding::HEXLOWER.encode(hash.0.get(..SHOWN_BYTES).unwrap_or_default())
    }
}

fn is_untrue(why: &Refusal) -> bool {
    matches!(
        why,
        Refusal::BadCommit { .. }
            | Refusal::BadRecord { .. }
            | Refusal::BadIdentity
            | Refusal::Malformed
            | Refusal::Forbidden {
                why: ForbiddenWhy::NotYours
            }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_services_own_and_lines_are_paced() {
        let (one, two) = (Misconduct::new([1; 32]), Misconduct::new([2; 32]));
        assert_eq!(one.hashed(&[7; 16]), one.hashed(&[7; 16]));
        assert_ne!(one.hashed(&[7; 16]), two.hashed(&[7; 16]));
        assert_eq!(one.hashed(&[7; 16]).len(), 2 * SHOWN_BYTES);
        let written = (0..10_000).filter_map(|_| one.turn(UnixMs(0))).count() as u64;
        assert_eq!(written, MISCONDUCT_LINES.burst);
        assert_eq!(one.turn(UnixMs(60_000)), Some(10_000 - written));
    }

    #[test]
    fn everyday_refusals_are_not_logged() {
        for everyday in [
            Refusal::StaleEpoch { current: 3 },
            Refusal::Forbidden {
                why: ForbiddenWhy::Role,
            },
            Refusal::RateLimited { retry_after_ms: 1 },
        ] {
            assert!(!is_untrue(&everyday), "{everyday}");
        }
        assert!(is_untrue(&Refusal::Malformed));
    }
}
