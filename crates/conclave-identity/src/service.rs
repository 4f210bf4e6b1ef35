//! The two keys of a delivery service, what they sign, and how anybody checks it.
//!
//! The service's key names it, and begins generations; a generation's head key signs heads of logs and nothing else. Both sides use these
//! functions: what a service signs here is what a device takes.

use conclave_proto::hash::sign_content;
use conclave_proto::service::{
    Cause, GENERATION_LABEL, Generation, LOSS_LABEL, LogName, Loss, SignedHead, cosigned,
};
use conclave_proto::{Hash, Head, UnixMs};
use ed25519_dalek::{Signer, SigningKey};
use rand_core::CryptoRngCore;
use zeroize::Zeroizing;

use crate::error::AuthError;
use crate::keys::{secret_key, verify, verify_raw};

/// A service's secret Ed25519 key: it is the service. Signs generations and losses. Wiped when dropped.
#[derive(Clone)]
pub struct ServiceKey(Box<SigningKey>);

/// A generation's secret Ed25519 key: signs heads of logs. Wiped when dropped.
#[derive(Clone)]
pub struct HeadKey(Box<SigningKey>);

secret_key!(ServiceKey);
secret_key!(HeadKey);

/// A generation to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewGeneration {
    /// Why.
    pub cause: Cause,
    /// When.
    pub begun: UnixMs,
    /// Key that is to sign heads in it.
    pub head_key: [u8; 32],
}

impl ServiceKey {
    /// Begins a generation after the newest that is known, which need not be the newest that is stored.
    #[must_use]
    pub fn begin(&self, after: Option<&Generation>, new: NewGeneration) -> Generation {
        let NewGeneration {
            cause,
            begun,
            head_key,
        } = new;
        let [high, low, ..] = head_key;
        // Where clocks are behind the newest, somebody may begin another one after the same: not of the same number.
        let apart = 1 + u64::from(u16::from_be_bytes([high, low]));
        let least = after.map_or(1, |newest| newest.number.saturating_add(apart));
        let mut generation = Generation {
            number: least.max(begun.0),
            previous: after.map_or(Hash::ZERO, Generation::hash),
            cause,
            begun,
            head_key,
            signature: [0; 64],
        };
        generation.signature = self.sign(GENERATION_LABEL, &generation.signed_bytes());
        generation
    }

    /// Declares that what went beyond `kept` is lost.
    #[must_use]
    pub fn declare_loss(&self, generation: u64, log: LogName, kept: Head, lost: Head) -> Loss {
        let mut loss = Loss {
            generation,
            log,
            kept,
            lost,
            signature: [0; 64],
        };
        loss.signature = self.sign(LOSS_LABEL, &loss.signed_bytes());
        loss
    }

    fn sign(&self, label: &str, content: &[u8]) -> [u8; 64] {
        self.0.sign(&sign_content(label, content)).to_bytes()
    }
}

impl HeadKey {
    /// Signs the head that a log has now.
    #[must_use]
    pub fn sign(
        &self,
        service_key: &[u8; 32],
        generation: u64,
        log: &LogName,
        head: Head,
        seconds: u64,
    ) -> SignedHead {
        let text = cosigned(service_key, generation, log, &head, seconds);
        SignedHead {
            head,
            seconds,
            signature: self.0.sign(&text).to_bytes(),
        }
    }
}

/// Checks that a generation is this service's.
///
/// # Errors
/// [`AuthError`].
pub fn verify_generation(service_key: &[u8; 32], generation: &Generation) -> Result<(), AuthError> {
    let signed = generation.signed_bytes();
    verify(
        service_key,
        GENERATION_LABEL,
        &signed,
        &generation.signature,
    )
}

/// Checks that a head of this log was signed in this generation of this service. Whether the generation is the service's is another
/// question ([`verify_generation`]).
///
/// # Errors
/// [`AuthError`].
pub fn verify_head(
    service_key: &[u8; 32],
    generation: &Generation,
    log: &LogName,
    signed: &SignedHead,
) -> Result<(), AuthError> {
    let text = cosigned(
        service_key,
        generation.number,
        log,
        &signed.head,
        signed.seconds,
    );
    verify_raw(&generation.head_key, &text, &signed.signature)
}

/// Checks that a loss was declared by this service.
///
/// # Errors
/// [`AuthError`].
pub fn verify_loss(service_key: &[u8; 32], loss: &Loss) -> Result<(), AuthError> {
    verify(
        service_key,
        LOSS_LABEL,
        &loss.signed_bytes(),
        &loss.signature,
    )
}

#[cfg(test)]
mod tests {
    use conclave_proto::{DocumentId, GroupId};

    use super::*;

    const REFUSED: Result<(), AuthError> = Err(AuthError::Signature);

    fn log() -> LogName {
        LogName {
            group: GroupId([1; 16]),
            document: Some(DocumentId([2; 16])),
        }
    }

    fn head(size: u64) -> Head {
        Head {
            size,
            root: Hash([0xab; 32]),
        }
    }

    fn founded(service: &ServiceKey, heads: &HeadKey) -> Generation {
        let new = NewGeneration {
            cause: Cause::Founded,
            begun: UnixMs(1_700_000_000_123),
            head_key: heads.public(),
        };
        service.begin(None, new)
    }

    /// The vector of PROTOCOL.md: Ed25519 signatures are the same wherever they are made.
    #[test]
    fn a_stranger_makes_the_same_signatures() {
        let service = ServiceKey::from_bytes(&[1; 32]);
        let heads = HeadKey::from_bytes(&[2; 32]);
        let generation = founded(&service, &heads);
        let signed = heads.sign(
            &service.public(),
            generation.number,
            &log(),
            head(5210),
            1_700_000_001,
        );
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        assert_eq!(
            hex(&conclave_proto::codec::encode(&generation)),
            "0000018bcfe5687b0000000000000000000000000000000000000000000000000000000000000000010000018bcfe5687b8139770ea87d175f56a35466c34c7e\
             cccb8d8a91b4ee37a25df60f5b8fc9b3944c1a3224c9746ce8f8da31a605ee2a144c70ce731450ba4c940f2f62c833afa5fba6abff176391638a79f1bd4337d24752e37b307b8dde29c00de4bb38fcc00e"
        );
        assert_eq!(
            hex(&generation.hash().0),
            "fd712d53671ffd2c7731d7e827727254ac65f896ae86f7922ba32cadad8b6b75"
        );
        assert_eq!(
            hex(&signed.signature),
            "ead0fefccd00e983f09a47a4671ec9863bc0c14e18b9f1712e26013000fd2cfba9b7a0f08b4252f3f8608a964defe9be46ba5cc41fac3efd4275f185be248f0e"
        );
    }

    #[test]
    fn a_generation_is_taken_under_its_services_key_only() {
        let service = ServiceKey::from_bytes(&[1; 32]);
        let heads = HeadKey::from_bytes(&[2; 32]);
        let generation = founded(&service, &heads);
        assert_eq!(verify_generation(&service.public(), &generation), Ok(()));
        let other = ServiceKey::from_bytes(&[3; 32]).public();
        assert_eq!(verify_generation(&other, &generation), REFUSED);
        for altered in [
            Generation {
                number: generation.number + 1,
                ..generation
            },
            Generation {
                previous: Hash([1; 32]),
                ..generation
            },
            Generation {
                cause: Cause::Restored,
                ..generation
            },
            Generation {
                begun: UnixMs(1),
                ..generation
            },
            Generation {
                head_key: [4; 32],
                ..generation
            },
        ] {
            assert_eq!(verify_generation(&service.public(), &altered), REFUSED);
        }
    }

    #[test]
    fn generations_follow_each_other_also_where_the_clock_goes_back() {
        let service = ServiceKey::from_bytes(&[1; 32]);
        let heads = HeadKey::from_bytes(&[2; 32]);
        let first = founded(&service, &heads);
        let new = NewGeneration {
            cause: Cause::PutBack,
            begun: UnixMs(5),
            head_key: heads.public(),
        };
        let second = service.begin(Some(&first), new);
        assert!(second.number > first.number);
        // Not even two that were begun after the same one at the same time are of one number.
        let head_key = HeadKey::from_bytes(&[3; 32]).public();
        let other = service.begin(Some(&first), NewGeneration { head_key, ..new });
        assert_ne!(second.number, other.number);
        assert_eq!(second.previous, first.hash());
        assert_eq!(verify_generation(&service.public(), &second), Ok(()));
    }

    #[test]
    fn a_head_of_another_log_generation_time_or_key_does_not_verify() {
        let service = ServiceKey::from_bytes(&[1; 32]);
        let heads = HeadKey::from_bytes(&[2; 32]);
        let generation = founded(&service, &heads);
        let key = service.public();
        let signed = heads.sign(&key, generation.number, &log(), head(7), 40);
        let verify = |generation: &Generation, log: &LogName, signed: &SignedHead| {
            verify_head(&key, generation, log, signed)
        };
        assert_eq!(verify(&generation, &log(), &signed), Ok(()));
        let of_group = LogName {
            document: None,
            ..log()
        };
        assert_eq!(verify(&generation, &of_group, &signed), REFUSED);
        let later = Generation {
            number: generation.number + 1,
            ..generation
        };
        assert_eq!(verify(&later, &log(), &signed), REFUSED);
        let other_key = Generation {
            head_key: service.public(),
            ..generation
        };
        assert_eq!(verify(&other_key, &log(), &signed), REFUSED);
        let other_service = ServiceKey::from_bytes(&[3; 32]).public();
        let verified = verify_head(&other_service, &generation, &log(), &signed);
        assert_eq!(verified, REFUSED);
        for altered in [
            SignedHead {
                head: head(8),
                ..signed
            },
            SignedHead {
                seconds: 41,
                ..signed
            },
        ] {
            assert_eq!(verify(&generation, &log(), &altered), REFUSED);
        }
    }

    #[test]
    fn a_loss_is_taken_whole_or_not() {
        let service = ServiceKey::from_bytes(&[1; 32]);
        let key = service.public();
        let loss = service.declare_loss(9, log(), head(3), head(7));
        assert_eq!(verify_loss(&key, &loss), Ok(()));
        for altered in [
            Loss {
                generation: 8,
                ..loss
            },
            Loss {
                kept: head(4),
                ..loss
            },
            Loss {
                lost: head(8),
                ..loss
            },
            Loss {
                log: LogName {
                    document: None,
                    ..log()
                },
                ..loss
            },
        ] {
            assert_eq!(verify_loss(&key, &altered), REFUSED);
        }
        let other = ServiceKey::from_bytes(&[3; 32]).public();
        assert_eq!(verify_loss(&other, &loss), REFUSED);
    }
}
