//! Signed heads: a service proves to its clients how far it had come, so that it cannot go back unnoticed, whoever made it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use conclave_identity::{HeadKey, ServiceKey};
use conclave_proto::Head;
use conclave_proto::service::{Generation, SignedHead};
use conclave_rules::LogId;

use crate::config::Clock;

/// The service's keys, and the generation that it is in.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) service: ServiceKey,
    pub(crate) generation: Generation,
    pub(crate) heads: HeadKey,
}

/// What signs heads.
pub(crate) struct Heads {
    service_key: [u8; 32],
    standing: RwLock<Arc<Standing>>,
    clock: Clock,
    /// No head's time lies before it.
    seconds: AtomicU64,
}

impl Heads {
    pub(crate) fn new(standing: Standing, clock: Clock) -> Self {
        Self {
            service_key: standing.service.public(),
            standing: RwLock::new(Arc::new(standing)),
            clock,
            seconds: AtomicU64::new(0),
        }
    }

    /// The service's public key.
    pub(crate) fn service_key(&self) -> [u8; 32] {
        self.service_key
    }

    /// The service's keys, and the generation that it is in.
    pub(crate) fn standing(&self) -> Arc<Standing> {
        let standing = self.standing.read();
        standing.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Signs the head that a log has now. Whoever asks holds the log's lock, and keeps `newest` under it: a head that was signed is not
    /// signed again, and no smaller one after it.
    pub(crate) fn sign(
        &self,
        log: &LogId,
        head: Head,
        newest: &mut Option<SignedHead>,
    ) -> SignedHead {
        if let Some(known) = newest.filter(|known| known.head.size >= head.size) {
            return known;
        }
        let standing = self.standing();
        let number = standing.generation.number;
        let seconds = self.seconds();
        let signed = (standing.heads).sign(&self.service_key, number, &log.name(), head, seconds);
        *newest = Some(signed);
        signed
    }

    fn seconds(&self) -> u64 {
        let now = self.clock.now().0 / 1000;
        let before = self.seconds.fetch_max(now, Ordering::AcqRel);
        before.max(now)
    }
}
