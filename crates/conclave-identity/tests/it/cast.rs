//! Fixed people and devices, and the means of an attacker.

use conclave_identity::{
    AuthError, CREDENTIAL_TYPE, DeviceCredential, DeviceKey, DeviceRef, Identity, Occasion,
    Presented, ReceivingKey, Reference, SCHEME_ED25519, SignedDeviceList, UserGenesis, UserKey,
    authenticate, enrol_first,
};
use conclave_proto::codec::Bytes;
use conclave_proto::{DeviceId, RealmId, UnixMs};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

/// When everything happens.
pub const NOW: UnixMs = UnixMs(1_700_000_000_000);
/// Where everything happens.
pub const REALM: RealmId = RealmId([0x11; 16]);

/// The key to which a new device has the user key sealed.
pub fn receiving() -> ReceivingKey {
    ReceivingKey::from_bytes(&[0x9a; 32])
}

/// Randomness that is always the same.
pub fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([0x5e; 32])
}

/// A user with one device.
pub struct User {
    pub seed: [u8; 32],
    pub key: UserKey,
    pub genesis: UserGenesis,
    pub device_key: DeviceKey,
    pub credential: DeviceCredential,
    pub list: SignedDeviceList,
}

impl User {
    /// The user with this number in this realm.
    pub fn new(number: u8, realm: RealmId) -> Self {
        let seed = [number; 32];
        let key = UserKey::from_bytes(&seed);
        let genesis = UserGenesis {
            version: 1,
            realm,
            key: key.public(),
            created: NOW,
            salt: [number; 16],
        };
        let device_key = DeviceKey::from_bytes(&[number | 0x80; 32]);
        let device = DeviceId([number; 16]);
        let (credential, list) = enrol_first(&key, &genesis, &device_key, device, NOW).unwrap();
        Self {
            seed,
            key,
            genesis,
            device_key,
            credential,
            list,
        }
    }

    /// Signs anything with the user key, as somebody could who has it.
    pub fn sign_anything(&self, label: &str, content: &[u8]) -> [u8; 64] {
        DeviceKey::from_bytes(&self.seed).sign(label, content)
    }

    /// A list entry for the user's device.
    pub fn entry(&self) -> DeviceRef {
        entry(self.credential.certificate.device, &self.device_key)
    }
}

/// Anna, in [`REALM`].
pub fn anna() -> User {
    User::new(1, REALM)
}

/// Boris, in [`REALM`].
pub fn boris() -> User {
    User::new(2, REALM)
}

/// A list entry.
pub fn entry(device: DeviceId, key: &DeviceKey) -> DeviceRef {
    DeviceRef {
        device,
        scheme: SCHEME_ED25519,
        key: Bytes::from(key.public().as_slice()),
    }
}

/// Presents credential bytes with a key at [`NOW`], expecting nothing.
pub fn present(credential: &[u8], key: &[u8]) -> Result<Identity, AuthError> {
    present_at(credential, key, NOW)
}

/// Presents credential bytes with a key, expecting nothing.
pub fn present_at(credential: &[u8], key: &[u8], now: UnixMs) -> Result<Identity, AuthError> {
    authenticate(
        &shown(credential, key),
        Occasion::Tree,
        &Reference::default(),
        now,
        None,
    )
}

/// A device credential and its key, as they stand in a leaf.
pub fn shown<'a>(credential: &[u8], key: &'a [u8]) -> Presented<'a> {
    Presented {
        credential_type: CREDENTIAL_TYPE,
        credential: credential.into(),
        scheme: SCHEME_ED25519,
        signature_key: key,
    }
}

/// Every byte string that differs from `bytes` in one bit.
pub fn one_bit_flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..bytes.len() * 8).map(|bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    })
}

/// `bytes` with the byte at `at`, a length below 64, written in two bytes instead of one.
pub fn widen_length(bytes: &[u8], at: usize) -> Vec<u8> {
    assert!(bytes[at] < 0x40);
    let mut widened = bytes.to_vec();
    widened.insert(at, 0x40);
    widened
}
