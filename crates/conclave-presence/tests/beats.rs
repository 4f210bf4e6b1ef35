//! Beats: what is taken, from whom, and that nothing is taken twice.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use conclave_doc::DocKeys;
use conclave_identity::{DeviceKey, SignatureKey};
use conclave_mls::Secret32;
use conclave_presence::{Beats, Heard, Pulse, Refused};
use conclave_proto::limits::BEAT_HEADS;
use conclave_proto::presence::{BeatHead, PresenceItem};
use conclave_proto::service::SignedHead;
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, Head, InstanceId, SessionId};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const GROUP: GroupId = GroupId([1; 16]);
const ANA: Author = Author {
    device: DeviceId([7; 16]),
    instance: InstanceId([1; 8]),
};

fn keys(root: u8) -> DocKeys {
    let root = Secret32::new([root; 32]);
    DocKeys::of_presence(&root, &DocumentId::directory(&GROUP))
}

fn pulse(epoch: u64, keys: &DocKeys) -> Pulse<'_> {
    Pulse {
        group: GROUP,
        epoch,
        keys,
    }
}

fn signer() -> DeviceKey {
    DeviceKey::from_bytes(&[3; 32])
}

fn heard(heads: usize) -> Heard {
    let head = BeatHead {
        document: DocumentId([2; 16]),
        head: SignedHead {
            head: Head {
                size: 9,
                root: Hash([4; 32]),
            },
            seconds: 40,
            signature: [5; 64],
        },
    };
    Heard {
        generation: 6,
        heads: vec![head; heads],
    }
}

fn said(beats: &mut Beats, heads: usize) -> PresenceItem {
    let mut rng = ChaCha20Rng::from_seed([8; 32]);
    let who = (ANA, SessionId([9; 16]));
    let said = beats.say(who, heard(heads), &pulse(3, &keys(1)), &signer(), &mut rng);
    said.unwrap()
}

#[test]
fn a_beat_is_heard_once_from_a_member_in_its_epoch() {
    let key = SignatureKey::from(signer().public().to_vec());
    let other = SignatureKey::from(DeviceKey::from_bytes(&[4; 32]).public().to_vec());
    let (mut ana, mut ben) = (Beats::new(70), Beats::new(0));
    let first = said(&mut ana, BEAT_HEADS);
    let second = said(&mut ana, 0);
    assert!(Beats::is_beat(&first));
    let keys_now = keys(1);
    let now = pulse(3, &keys_now);
    let hear = |beats: &mut Beats, item: &PresenceItem, key: Option<&SignatureKey>| {
        beats.hear(ANA, item, &now, key)
    };
    assert_eq!(hear(&mut ben, &first, None), Err(Refused::NotAMember));
    assert_eq!(
        hear(&mut ben, &first, Some(&other)),
        Err(Refused::Signature)
    );
    // What was refused uses up nothing.
    assert_eq!(hear(&mut ben, &first, Some(&key)), Ok(heard(BEAT_HEADS)));
    assert_eq!(hear(&mut ben, &first, Some(&key)), Err(Refused::Replayed));
    assert_eq!(hear(&mut ben, &second, Some(&key)), Ok(heard(0)));
    assert_eq!(hear(&mut ben, &first, Some(&key)), Err(Refused::Replayed));
    let mut cleo = Beats::new(0);
    let keys_later = keys(2);
    let later = cleo.hear(ANA, &first, &pulse(4, &keys_later), Some(&key));
    assert_eq!(later, Err(Refused::Epoch));
    // In another's name, under another root, or altered it is nobody's.
    let ben = Author {
        device: DeviceId([8; 16]),
        ..ANA
    };
    assert_eq!(
        cleo.hear(ben, &first, &now, Some(&key)),
        Err(Refused::Commitment)
    );
    let under_another = cleo.hear(ANA, &first, &pulse(3, &keys_later), Some(&key));
    assert_eq!(under_another, Err(Refused::Commitment));
    let addressed = PresenceItem {
        to: Some(SessionId([1; 16])),
        ..first.clone()
    };
    assert_eq!(
        hear(&mut cleo, &addressed, Some(&key)),
        Err(Refused::Malformed)
    );
    let too_many = said(&mut ana, BEAT_HEADS + 1);
    assert_eq!(
        hear(&mut cleo, &too_many, Some(&key)),
        Err(Refused::Malformed)
    );
}
