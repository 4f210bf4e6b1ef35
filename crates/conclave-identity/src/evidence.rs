//! What evidence proves, by the service's public key alone.

use conclave_proto::codec::Bytes;
use conclave_proto::evidence::{Charge, EVIDENCE_VERSION, Evidence};
use conclave_proto::merkle::verify_consistency;
use conclave_proto::record::RECORD_LABEL;
use conclave_proto::service::{Generation, LogName, SignedHead, note, read_note};
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Head, Record, UserId};

use crate::certificate::DeviceCredential;
use crate::keys::verify;
use crate::service::{verify_generation, verify_head};

/// A head may be signed so long after a later generation began, in seconds: a service that is being put back may end what it is at.
const PARALLEL_S: u64 = 600;

/// Whether a log became shorter: `b` is smaller than `a`, and was signed later. Within one second a log may have grown.
#[must_use]
pub fn is_rollback(a: &SignedHead, b: &SignedHead) -> bool {
    b.head.size < a.head.size && b.seconds > a.seconds
}

/// Whether a head was signed long after a generation began that is later than its own.
#[must_use]
pub fn is_parallel(later: &Generation, head: &SignedHead) -> bool {
    let begun = later.begun.0.div_ceil(1000);
    head.seconds > begun.saturating_add(PARALLEL_S)
}

/// What evidence proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proven {
    /// The service signed two histories of one log.
    Fork {
        /// The log.
        log: LogName,
        /// A head of the one.
        a: SignedHead,
        /// A head of the other, no smaller.
        b: SignedHead,
    },
    /// The service signed a shorter state of a log after a longer one, in one generation.
    Rollback {
        /// The log.
        log: LogName,
        /// The longer.
        a: SignedHead,
        /// The shorter, later.
        b: SignedHead,
    },
    /// A device signed two records for one place.
    Equivocation {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// The device, and the life of its store.
        author: Author,
        /// Its user.
        user: UserId,
        /// The place in its chain.
        clock: u64,
    },
    /// The service went on signing in a generation long after the next one had begun.
    Parallel {
        /// The log.
        log: LogName,
        /// What it signed.
        a: SignedHead,
        /// The later generation.
        later: Generation,
    },
}

impl Proven {
    /// The device that is convicted, where it is not the service.
    #[must_use]
    pub fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Equivocation { author, .. } => Some(author.device),
            _ => None,
        }
    }
}

/// Why evidence proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unproven {
    /// It is of another version.
    #[error("evidence of version {version} is not known to this program")]
    Version {
        /// Its version.
        version: u16,
    },
    /// A generation is not signed by this service.
    #[error("a generation is not signed by a service with this key")]
    Generation,
    /// A head is not signed in that generation of this service.
    #[error("a head is not signed in that generation of this service")]
    Head,
    /// The heads are of different logs.
    #[error("the heads are of different logs")]
    OtherLog,
    /// The proof does not lead to the larger head.
    #[error("the proof does not lead to the larger head")]
    Proof,
    /// The device's credential does not hold, or is another device's.
    #[error("the device is not certified by its user")]
    Certificate,
    /// A record is not signed by the device.
    #[error("a record is not signed by the device")]
    Record,
    /// Both can be true together.
    #[error("what was signed does not contradict itself")]
    Consistent,
}

impl Unproven {
    /// Stable code, listed in `docs/ERRORS.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Version { .. } => "evidence.version",
            Self::Generation => "evidence.generation",
            Self::Head => "evidence.head",
            Self::OtherLog => "evidence.other_log",
            Self::Proof => "evidence.proof",
            Self::Certificate => "evidence.certificate",
            Self::Record => "evidence.record",
            Self::Consistent => "evidence.consistent",
        }
    }
}

/// Judges evidence by the service's key, and nothing else that whoever brings it says.
///
/// # Errors
/// [`Unproven`]: it proves nothing.
pub fn convict(service_key: &[u8; 32], evidence: &Evidence) -> Result<Proven, Unproven> {
    let Evidence {
        version,
        generation,
        charge,
    } = evidence;
    if *version != EVIDENCE_VERSION {
        return Err(Unproven::Version { version: *version });
    }
    let of_service = |generation: &Generation| {
        verify_generation(service_key, generation).map_err(|_| Unproven::Generation)
    };
    of_service(generation)?;
    let head = |bytes: &Bytes| signed_head(service_key, generation, bytes);
    match charge {
        Charge::Fork { a, b, root, proof } => {
            let (log, a, b) = both(head(a)?, head(b)?)?;
            let other = Head {
                size: a.head.size,
                root: *root,
            };
            verify_consistency(&other, &b.head, proof).map_err(|_| Unproven::Proof)?;
            contradicts(other.root != a.head.root)?;
            Ok(Proven::Fork { log, a, b })
        }
        Charge::Rollback { a, b } => {
            let (log, a, b) = both(head(a)?, head(b)?)?;
            contradicts(is_rollback(&a, &b))?;
            Ok(Proven::Rollback { log, a, b })
        }
        Charge::Equivocation { certificate, a, b } => equivocation(certificate, a, b),
        Charge::Parallel { later, a } => {
            of_service(later)?;
            let (log, a) = head(a)?;
            contradicts(later.number > generation.number && is_parallel(later, &a))?;
            Ok(Proven::Parallel {
                log,
                a,
                later: *later,
            })
        }
    }
}

fn contradicts(is: bool) -> Result<(), Unproven> {
    is.then_some(()).ok_or(Unproven::Consistent)
}

fn both(
    (log, a): (LogName, SignedHead),
    (other, b): (LogName, SignedHead),
) -> Result<(LogName, SignedHead, SignedHead), Unproven> {
    if log == other {
        Ok((log, a, b))
    } else {
        Err(Unproven::OtherLog)
    }
}

/// A head that was signed in this generation of this service, with the log that its note names.
fn signed_head(
    service_key: &[u8; 32],
    generation: &Generation,
    bytes: &Bytes,
) -> Result<(LogName, SignedHead), Unproven> {
    let (log, signed) = read_note(bytes.as_slice()).ok_or(Unproven::Head)?;
    let again = note(service_key, generation, &log, &signed);
    if again != bytes.as_slice() {
        return Err(Unproven::Head);
    }
    verify_head(service_key, generation, &log, &signed).map_err(|_| Unproven::Head)?;
    Ok((log, signed))
}

fn equivocation(certificate: &Bytes, a: &Record, b: &Record) -> Result<Proven, Unproven> {
    let credential =
        DeviceCredential::from_bytes(certificate.as_slice()).map_err(|_| Unproven::Certificate)?;
    credential.verify().map_err(|_| Unproven::Certificate)?;
    let certified = &credential.certificate;
    let (of_a, of_b) = (&a.header, &b.header);
    if of_a.author.device != certified.device {
        return Err(Unproven::Certificate);
    }
    for record in [a, b] {
        let (key, core) = (certified.device_key.as_slice(), record.core());
        verify(key, RECORD_LABEL, &core.0, &record.sealed.signature)
            .map_err(|_| Unproven::Record)?;
    }
    let (Some(place), Some(other)) = (of_a.body.chained(), of_b.body.chained()) else {
        return Err(Unproven::Consistent);
    };
    // What waited is sealed again in another epoch, or after another record: that is honest.
    let one_place = (of_a.group, of_a.document, of_a.author, of_a.epoch, place)
        == (of_b.group, of_b.document, of_b.author, of_b.epoch, other);
    // What is signed counts: one record has many signatures, if its author wants.
    contradicts(one_place && a.core() != b.core())?;
    Ok(Proven::Equivocation {
        group: of_a.group,
        document: of_a.document,
        author: of_a.author,
        user: certified.user,
        clock: place.clock,
    })
}

#[cfg(test)]
mod tests {
    use conclave_proto::merkle::{consistency_proof, leaf_hash, root_of};
    use conclave_proto::record::{Chained, RecordHeader, Sealed};
    use conclave_proto::service::Cause;
    use conclave_proto::{Hash, InstanceId, RealmId, RecordBody, UnixMs};
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::keys::{DeviceKey, UserKey};
    use crate::service::{HeadKey, NewGeneration, ServiceKey};
    use crate::user::UserGenesis;

    struct Service {
        key: ServiceKey,
        heads: HeadKey,
        generation: Generation,
    }

    impl Service {
        fn new() -> Self {
            let (key, heads) = (
                ServiceKey::from_bytes(&[1; 32]),
                HeadKey::from_bytes(&[2; 32]),
            );
            let new = NewGeneration {
                cause: Cause::Founded,
                begun: UnixMs(1_700_000_000_123),
                head_key: heads.public(),
            };
            let generation = key.begin(None, new);
            Self {
                key,
                heads,
                generation,
            }
        }

        fn note_in(&self, log: &LogName, leaves: &[Hash], seconds: u64) -> Bytes {
            let head = Head {
                size: leaves.len() as u64,
                root: root_of(leaves),
            };
            let key = self.key.public();
            let signed = self
                .heads
                .sign(&key, self.generation.number, log, head, seconds);
            note(&key, &self.generation, log, &signed).into()
        }

        fn note(&self, leaves: &[Hash], seconds: u64) -> Bytes {
            self.note_in(&log(), leaves, seconds)
        }

        fn judge(&self, charge: Charge) -> Result<Proven, Unproven> {
            let evidence = Evidence {
                version: EVIDENCE_VERSION,
                generation: self.generation,
                charge,
            };
            let bytes = evidence.to_bytes();
            convict(&self.key.public(), &Evidence::from_bytes(&bytes).unwrap())
        }
    }

    fn log() -> LogName {
        LogName {
            group: GroupId([1; 16]),
            document: Some(DocumentId([2; 16])),
        }
    }

    fn leaves(name: u8, count: u8) -> Vec<Hash> {
        (0..count).map(|at| leaf_hash(&[&[name, at]])).collect()
    }

    /// The second log parts from the first after two leaves.
    fn other(count: u8) -> Vec<Hash> {
        [leaves(0, 2), leaves(1, count - 2)].concat()
    }

    fn fork(service: &Service, a: &[Hash], b: &[Hash]) -> Charge {
        Charge::Fork {
            a: service.note(a, 40),
            b: service.note(b, 41),
            root: root_of(&b[..a.len()]),
            proof: consistency_proof(b, a.len() as u64).unwrap(),
        }
    }

    #[test]
    fn two_histories_are_proven_and_one_is_not() {
        let service = Service::new();
        for (a, b) in [(5, 5), (5, 9), (3, 100)] {
            let proven = service.judge(fork(&service, &leaves(0, a), &other(b)));
            assert!(matches!(proven, Ok(Proven::Fork { log: of, .. }) if of == log()));
        }
        let one = fork(&service, &leaves(0, 2), &other(9));
        assert_eq!(service.judge(one), Err(Unproven::Consistent));
        let Charge::Fork { a, b, root, proof } = fork(&service, &leaves(0, 5), &other(9)) else {
            panic!()
        };
        let charge = |root, proof: &[Hash]| Charge::Fork {
            a: a.clone(),
            b: b.clone(),
            root,
            proof: proof.to_vec(),
        };
        let made_up = service.judge(charge(Hash([9; 32]), &proof));
        assert_eq!(made_up, Err(Unproven::Proof));
        let shorter = service.judge(charge(root, &proof[1..]));
        assert_eq!(shorter, Err(Unproven::Proof));
    }

    #[test]
    fn a_shorter_state_convicts_if_it_is_later_and_of_the_same_log() {
        let service = Service::new();
        let judge = |a, b| service.judge(Charge::Rollback { a, b });
        let long = service.note(&leaves(0, 5), 40);
        let at = |count, seconds| service.note(&leaves(0, count), seconds);
        assert!(matches!(
            judge(long.clone(), at(4, 41)),
            Ok(Proven::Rollback { .. })
        ));
        for (count, seconds) in [(4, 40), (4, 39), (5, 41), (6, 41)] {
            let judged = judge(long.clone(), at(count, seconds));
            assert_eq!(judged, Err(Unproven::Consistent));
        }
        let of_group = LogName {
            document: None,
            ..log()
        };
        let elsewhere = service.note_in(&of_group, &leaves(0, 4), 41);
        assert_eq!(judge(long, elsewhere), Err(Unproven::OtherLog));
    }

    #[test]
    fn what_another_signed_or_was_altered_proves_nothing() {
        let service = Service::new();
        let charge = Charge::Rollback {
            a: service.note(&leaves(0, 5), 40),
            b: service.note(&leaves(0, 4), 41),
        };
        let evidence = Evidence {
            version: EVIDENCE_VERSION,
            generation: service.generation,
            charge,
        };
        let other = ServiceKey::from_bytes(&[3; 32]).public();
        assert_eq!(convict(&other, &evidence), Err(Unproven::Generation));
        let key = service.key.public();
        let newer = Evidence {
            version: 2,
            ..evidence.clone()
        };
        assert_eq!(convict(&key, &newer), Err(Unproven::Version { version: 2 }));
        // Every bit counts.
        let bytes = evidence.to_bytes();
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            let judged = Evidence::from_bytes(&bytes).map(|altered| convict(&key, &altered));
            assert!(!matches!(judged, Ok(Ok(_))), "byte {at}");
        }
    }

    #[test]
    fn a_generation_that_goes_on_beside_the_next_one_is_convicted_after_ten_minutes() {
        let service = Service::new();
        let new = NewGeneration {
            cause: Cause::Restored,
            begun: UnixMs(1_700_000_100_001),
            head_key: [7; 32],
        };
        let later = service.key.begin(Some(&service.generation), new);
        let judge = |later, seconds| {
            service.judge(Charge::Parallel {
                later,
                a: service.note(&leaves(0, 5), seconds),
            })
        };
        let last = 1_700_000_101 + PARALLEL_S;
        assert_eq!(judge(later, last), Err(Unproven::Consistent));
        assert!(matches!(
            judge(later, last + 1),
            Ok(Proven::Parallel { .. })
        ));
        // Neither by itself, nor by a statement that the service did not sign.
        let own = judge(service.generation, u64::MAX);
        assert_eq!(own, Err(Unproven::Consistent));
        let forged = Generation {
            begun: UnixMs(0),
            ..later
        };
        assert_eq!(judge(forged, last + 1), Err(Unproven::Generation));
    }

    #[test]
    fn a_device_that_wrote_two_records_for_one_place_is_convicted_by_its_own_signatures() {
        let service = Service::new();
        let mut rng = ChaCha20Rng::from_seed([4; 32]);
        let user = UserKey::generate(&mut rng);
        let realm = RealmId([7; 16]);
        let genesis = UserGenesis::new(realm, &user, UnixMs(1), &mut rng);
        let key = DeviceKey::generate(&mut rng);
        let device = DeviceId([3; 16]);
        let (certificate, signature) = user.certify(&genesis, device, &key.public(), 1, UnixMs(1));
        let credential = DeviceCredential::accept(genesis, certificate, signature, &key).unwrap();
        let in_epoch = |epoch, signer: &DeviceKey, clock, content: u8| {
            let header = RecordHeader {
                version: 1,
                group: GroupId([1; 16]),
                document: DocumentId([2; 16]),
                epoch,
                author: Author {
                    device,
                    instance: InstanceId([4; 8]),
                },
                seen: Head::EMPTY,
                body: RecordBody::Update(Chained {
                    clock,
                    prev: Hash::ZERO,
                }),
            };
            let mut sealed = Sealed::public([0; 64]);
            sealed.ciphertext = vec![content].into();
            let mut record = Record { header, sealed };
            record.sealed.signature = signer.sign(RECORD_LABEL, &record.core().0);
            record
        };
        let record = |signer: &DeviceKey, clock, content| in_epoch(3, signer, clock, content);
        let judge = |a: Record, b: Record| {
            service.judge(Charge::Equivocation {
                certificate: credential.to_bytes().into(),
                a,
                b,
            })
        };
        let proven = judge(record(&key, 7, 1), record(&key, 7, 2)).unwrap();
        assert_eq!(proven.device(), Some(device));
        let same = judge(record(&key, 7, 1), record(&key, 7, 1));
        assert_eq!(same, Err(Unproven::Consistent));
        let next = judge(record(&key, 7, 1), record(&key, 8, 2));
        assert_eq!(next, Err(Unproven::Consistent));
        let again = judge(record(&key, 7, 1), in_epoch(4, &key, 7, 1));
        assert_eq!(again, Err(Unproven::Consistent));
        let stranger = DeviceKey::generate(&mut rng);
        let forged = judge(record(&key, 7, 1), record(&stranger, 7, 2));
        assert_eq!(forged, Err(Unproven::Record));
    }
}
