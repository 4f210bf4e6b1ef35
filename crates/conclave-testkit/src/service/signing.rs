//! What the service signs: the generation that it is in, and heads of its logs.

use conclave_identity::{HeadKey, NewGeneration, ServiceKey};
use conclave_proto::service::{Cause, Generation, SignedHead};
use conclave_proto::{Head, UnixMs};
use conclave_rules::LogId;

/// The keys of a service, and the generation that it is in.
#[derive(Debug, Clone)]
pub struct Signing {
    key: ServiceKey,
    heads: HeadKey,
    generation: Generation,
    /// No head's time lies before it.
    seconds: u64,
}

impl Signing {
    /// A service that has just been founded, with keys that follow from `seed`.
    #[must_use]
    pub fn founded(seed: u8) -> Self {
        let key = ServiceKey::from_bytes(&[seed; 32]);
        let heads = HeadKey::from_bytes(&[seed.wrapping_add(1); 32]);
        let new = NewGeneration {
            cause: Cause::Founded,
            begun: UnixMs(0),
            head_key: heads.public(),
        };
        Self {
            generation: key.begin(None, new),
            key,
            heads,
            seconds: 0,
        }
    }

    /// Names itself by this generation, whoever signed it.
    #[must_use]
    pub fn under(self, generation: Generation) -> Self {
        Self { generation, ..self }
    }

    /// Another generation of the same number, as no honest service makes one.
    #[must_use]
    pub fn twin(&self) -> Self {
        let new = NewGeneration {
            cause: Cause::Restored,
            begun: self.generation.begun,
            head_key: self.heads.public(),
        };
        let generation = self.key.begin(None, new);
        self.clone().under(generation)
    }

    /// The service's public key.
    #[must_use]
    pub fn service_key(&self) -> [u8; 32] {
        self.key.public()
    }

    /// The generation that it is in.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Signs at this time from here on, unless it was later already.
    pub fn at(&mut self, now: UnixMs) {
        self.seconds = self.seconds.max(now.0 / 1000);
    }

    /// Signs the head that a log has now.
    #[must_use]
    pub fn sign(&self, log: &LogId, head: Head) -> SignedHead {
        let key = self.service_key();
        let number = self.generation.number;
        self.heads
            .sign(&key, number, &log.name(), head, self.seconds)
    }
}

impl Default for Signing {
    fn default() -> Self {
        Self::founded(9)
    }
}
