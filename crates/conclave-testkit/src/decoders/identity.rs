//! What reads statements of identity and the texts by which people exchange them.

use conclave_proto::codec::{Bytes, encode};
use conclave_proto::limits::CREDENTIAL_BYTES;
use conclave_proto::{DeviceId, RealmId, UnixMs};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tls_codec::DeserializeBytes;

use conclave_identity::{
    CREDENTIAL_TYPE, Contact, DeviceApproval, DeviceCredential, DeviceKey, DeviceRequest,
    GENESIS_BYTES, HandsOver, LIST_BYTES, Occasion, Pin, Presented, ReceivingKey, Reference,
    SCHEME_ED25519, SignedDeviceList, UserGenesis, UserKey, authenticate, enrol_first,
};

use super::register::{
    Decoded, Decoder,
    Source::{Network, Person},
};

const NOW: UnixMs = UnixMs(1_700_000_000_000);
/// To which the sample's user key is sealed.
const RECEIVING: [u8; 32] = [7; 32];
const REALM: RealmId = RealmId([7; 16]);
/// A text may hold four times its own length of white space; the longest is an approval.
const TEXT_BYTES: usize = 4 * 256 * 1024;

pub(super) fn decoders() -> Vec<Decoder> {
    vec![
        Decoder::new("identity.genesis", Network, GENESIS_BYTES, genesis, || {
            samples(|cast| cast.genesis.to_bytes())
        }),
        Decoder::new("identity.device_list", Network, LIST_BYTES, list, || {
            samples(|cast| cast.list.to_bytes())
        }),
        Decoder::new(
            "identity.credential",
            Network,
            CREDENTIAL_BYTES,
            credential,
            || samples(|cast| cast.credential.to_bytes()),
        ),
        Decoder::new(
            "identity.presented",
            Network,
            CREDENTIAL_BYTES + 64,
            presented,
            || {
                samples(|cast| {
                    let key = Bytes::from(cast.laptop.public().as_slice());
                    [encode(&key), cast.credential.to_bytes()].concat()
                })
            },
        ),
        Decoder::new("identity.contact_text", Person, TEXT_BYTES, contact, || {
            samples(|cast| cast.contact.to_text().into_bytes())
        }),
        Decoder::new("identity.request_text", Person, TEXT_BYTES, request, || {
            samples(|cast| cast.request.to_text().into_bytes())
        }),
        Decoder::new(
            "identity.approval_text",
            Person,
            TEXT_BYTES,
            approval,
            || samples(|cast| cast.approval.to_text().into_bytes()),
        ),
        Decoder::new(
            "identity.request",
            Network,
            TEXT_BYTES,
            request_bytes,
            || samples(|cast| cast.request.to_bytes()),
        ),
        Decoder::new(
            "identity.approval",
            Network,
            TEXT_BYTES,
            approval_bytes,
            || samples(|cast| cast.approval.to_bytes()),
        ),
    ]
}

fn genesis(bytes: &[u8]) -> Decoded {
    match UserGenesis::from_bytes(bytes) {
        Ok(value) => Ok(Some(value.to_bytes())),
        Err(error) => Err(error.code()),
    }
}

fn list(bytes: &[u8]) -> Decoded {
    let value = SignedDeviceList::from_bytes(bytes).map_err(|error| error.code())?;
    value.verify().map_err(|error| error.code())?;
    Ok(Some(value.to_bytes()))
}

fn credential(bytes: &[u8]) -> Decoded {
    match DeviceCredential::from_bytes(bytes) {
        Ok(value) => Ok(Some(value.to_bytes())),
        Err(error) => Err(error.code()),
    }
}

/// The input is a signature key and the credential presented with it.
fn presented(bytes: &[u8]) -> Decoded {
    let (key, content) =
        Bytes::tls_deserialize_bytes(bytes).map_err(|_| "presented.no_signature_key")?;
    let presented = Presented {
        credential_type: CREDENTIAL_TYPE,
        credential: content.into(),
        scheme: SCHEME_ED25519,
        signature_key: key.as_slice(),
    };
    match authenticate(
        &presented,
        Occasion::Login,
        &Reference::default(),
        NOW,
        None,
    ) {
        Ok(_) => Ok(None),
        Err(error) => Err(error.code()),
    }
}

fn text(bytes: &[u8]) -> Result<&str, &'static str> {
    std::str::from_utf8(bytes).map_err(|_| "text.not_utf8")
}

fn contact(bytes: &[u8]) -> Decoded {
    match Contact::from_text(text(bytes)?) {
        Ok(_) => Ok(None),
        Err(error) => Err(error.code()),
    }
}

fn request(bytes: &[u8]) -> Decoded {
    match DeviceRequest::from_text(text(bytes)?) {
        Ok(_) => Ok(None),
        Err(error) => Err(error.code()),
    }
}

fn approval(bytes: &[u8]) -> Decoded {
    match DeviceApproval::from_text(text(bytes)?) {
        Ok(_) => Ok(None),
        Err(error) => Err(error.code()),
    }
}

fn request_bytes(bytes: &[u8]) -> Decoded {
    match DeviceRequest::from_bytes(bytes) {
        Ok(value) => Ok(Some(value.to_bytes())),
        Err(error) => Err(error.code()),
    }
}

fn approval_bytes(bytes: &[u8]) -> Decoded {
    match DeviceApproval::from_bytes(bytes) {
        Ok(value) => {
            // Whatever it seals opens, or not.
            let _ = value.open_user_key(&ReceivingKey::from_bytes(&RECEIVING));
            Ok(Some(value.to_bytes()))
        }
        Err(error) => Err(error.code()),
    }
}

/// One user, enrolling a second device.
struct Cast {
    genesis: UserGenesis,
    laptop: DeviceKey,
    credential: DeviceCredential,
    list: SignedDeviceList,
    contact: Contact,
    request: DeviceRequest,
    approval: DeviceApproval,
}

impl Cast {
    fn new() -> Option<Self> {
        let user = UserKey::from_bytes(&[1; 32]);
        let genesis = UserGenesis {
            version: conclave_identity::STATEMENT_VERSION,
            realm: REALM,
            key: user.public(),
            created: NOW,
            salt: [2; 16],
        };
        let laptop = DeviceKey::from_bytes(&[3; 32]);
        let (credential, list) =
            enrol_first(&user, &genesis, &laptop, DeviceId([4; 16]), NOW).ok()?;
        let phone = DeviceKey::from_bytes(&[5; 32]);
        let receiving = ReceivingKey::from_bytes(&RECEIVING);
        let mut rng = ChaCha20Rng::from_seed([8; 32]);
        let request =
            DeviceRequest::new(&phone, &receiving, REALM, DeviceId([6; 16]), "phone").ok()?;
        let pin = Pin::new(&genesis, "Anna", true, NOW);
        let approval = user
            .approve(
                &request,
                &list,
                "Anna",
                &[pin],
                HandsOver::UserKey(&mut rng),
                NOW,
            )
            .ok()?;
        let contact = Contact::new(genesis.clone(), "Anna").ok()?;
        Some(Self {
            genesis,
            laptop,
            credential,
            list,
            contact,
            request,
            approval,
        })
    }
}

fn samples(of: fn(&Cast) -> Vec<u8>) -> Vec<Vec<u8>> {
    Cast::new().iter().map(of).collect()
}
