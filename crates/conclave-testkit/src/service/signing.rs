//! What the service signs: its generations, heads of its logs, losses.

use conclave_identity::{HeadKey, NewGeneration, ServiceKey};
use conclave_order::Secret;
use conclave_order::op::recovery::Next;
use conclave_proto::hash::labelled;
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
        Self::founded_at(seed, UnixMs(0))
    }

    /// As [`Signing::founded`], at this time.
    #[must_use]
    pub fn founded_at(seed: u8, begun: UnixMs) -> Self {
        let key = ServiceKey::from_bytes(&[seed; 32]);
        let (next, heads) = begin(&key, None, None, (Cause::Founded, begun));
        Self {
            generation: next.generation,
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

    /// What founds it in a store.
    #[must_use]
    pub fn founding(&self) -> Next {
        Next {
            expected: None,
            generation: self.generation,
            seed: Secret::new(self.heads.to_bytes()),
        }
    }

    /// A generation to follow this one, and another that is known of.
    #[must_use]
    pub fn next(&self, known: Option<&Generation>, cause: Cause, now: UnixMs) -> Next {
        begin(&self.key, Some(&self.generation), known, (cause, now)).0
    }

    /// Goes over to another generation.
    pub fn begin(&mut self, next: &Next) {
        self.generation = next.generation;
        self.heads = HeadKey::from_bytes(next.seed.bytes());
    }

    /// The service's key.
    #[must_use]
    pub fn key(&self) -> &ServiceKey {
        &self.key
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

/// A generation after the newest of these. Its key follows from what it follows: the same worlds are the same.
fn begin(
    key: &ServiceKey,
    present: Option<&Generation>,
    known: Option<&Generation>,
    (cause, begun): (Cause, UnixMs),
) -> (Next, HeadKey) {
    let all = present.into_iter().chain(known);
    let newest = all.max_by_key(|generation| generation.number);
    let number = newest.map_or(0, |generation| generation.number);
    let seed = labelled("test head key", &[&key.public(), &number.to_be_bytes()]);
    let heads = HeadKey::from_bytes(&seed.0);
    let new = NewGeneration {
        cause,
        begun,
        head_key: heads.public(),
    };
    let next = Next {
        expected: present.map(|generation| generation.number),
        generation: key.begin(newest, new),
        seed: Secret::new(heads.to_bytes()),
    };
    (next, heads)
}
