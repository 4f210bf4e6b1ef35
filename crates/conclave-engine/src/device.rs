//! This device: its keys, its user, its contacts.

mod lists;
mod names;

use std::collections::BTreeMap;

use conclave_identity::{
    AuthError, Contact, DeviceApproval, DeviceCredential, DeviceKey, DeviceRef, DeviceRequest,
    HandsOver, Pin, PinBook, ReceivingKey, SignedDeviceList, UserGenesis, UserKey, check_name,
    enrol_first, safety_number_from_hashes, wipe_stack,
};
use conclave_mls::DeviceContext;
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::{DeviceId, InstanceId, RealmId, UnixMs, UserId};
use rand_core::{CryptoRngCore, RngCore};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub(crate) use self::lists::News;
use self::lists::Rival;
use self::names::Labels;
use crate::command::{Approval, PinInfo, Setup, WhoAmI};
use crate::error::EngineError;
use crate::io::{Row, WriteBatch};
use crate::keys;
use crate::life::Life;

const ROW_VERSION: u16 = 1;
/// Contacts that a new device gets with its approval, at most.
const PINS_IN_APPROVAL: usize = 256;

/// What is stored of the device. Holds secrets: it is never printed.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct SecretRow {
    device_key: [u8; 32],
    user_key: Option<[u8; 32]>,
    /// To which the user key can be sealed, while this device waits to be approved.
    #[serde(default)]
    receiving: Option<[u8; 32]>,
}

#[derive(Clone, Serialize, Deserialize)]
struct ProfileRow {
    version: u16,
    realm: RealmId,
    device: DeviceId,
    instance: InstanceId,
    name: String,
    genesis: Option<Bytes>,
    credential: Option<Bytes>,
    list: Option<Bytes>,
    /// Private halves of what was published are not here: all of it has to be replaced.
    #[serde(default)]
    packages_lost: bool,
    /// When the key packages were made that are published now.
    #[serde(default)]
    packages_made: UnixMs,
    /// When another device of the user approved this one; 0 for a user's first.
    #[serde(default)]
    enrolled: UnixMs,
    /// Number of the newest own list that the service has, as far as is known.
    #[serde(default)]
    published: u64,
    /// Devices approved here whose list the service does not have yet: if another list takes its place, they go into the next.
    #[serde(default)]
    adding: Vec<Bytes>,
}

/// This device.
pub(crate) struct Device {
    profile: ProfileRow,
    key: DeviceKey,
    user_key: Option<UserKey>,
    receiving: Option<ReceivingKey>,
    genesis: Option<UserGenesis>,
    credential: Option<DeviceCredential>,
    list: Option<SignedDeviceList>,
    pins: PinBook,
    /// Newest device lists of others.
    lists: BTreeMap<UserId, SignedDeviceList>,
    /// Of whom there are two lists of the newest number.
    rivals: BTreeMap<UserId, Rival>,
    /// What the own user's devices are called here, and when something of them came.
    labels: Labels,
    life: Life,
}

impl Device {
    pub(crate) fn create(
        setup: Setup,
        now: UnixMs,
        rng: &mut dyn CryptoRngCore,
    ) -> Result<Self, EngineError> {
        let (name, realm, new_user) = match setup {
            Setup::NewUser { name, realm } => (name, realm, true),
            Setup::NewDevice { name, realm } => (name, realm, false),
        };
        check_name(&name).map_err(AuthError::from)?;
        let key = DeviceKey::generate(rng);
        let mut device = DeviceId::ZERO;
        rng.fill_bytes(&mut device.0);
        let mut this = Self {
            profile: ProfileRow {
                version: ROW_VERSION,
                realm,
                device,
                instance: fresh_instance(rng),
                name,
                genesis: None,
                credential: None,
                list: None,
                packages_lost: false,
                packages_made: UnixMs(0),
                enrolled: UnixMs(0),
                published: 0,
                adding: Vec::new(),
            },
            key,
            user_key: None,
            receiving: (!new_user).then(|| ReceivingKey::generate(rng)),
            genesis: None,
            credential: None,
            list: None,
            pins: PinBook::default(),
            lists: BTreeMap::new(),
            rivals: BTreeMap::new(),
            labels: Labels::default(),
            life: Life::default(),
        };
        if new_user {
            this.become_user(now, rng)?;
        }
        Ok(this)
    }

    fn become_user(&mut self, now: UnixMs, rng: &mut dyn CryptoRngCore) -> Result<(), EngineError> {
        let user_key = UserKey::generate(rng);
        let genesis = UserGenesis::new(self.profile.realm, &user_key, now, rng);
        let (credential, list) =
            enrol_first(&user_key, &genesis, &self.key, self.profile.device, now)?;
        self.user_key = Some(user_key);
        self.enrol(genesis, credential, list);
        Ok(())
    }

    pub(crate) fn load(rows: &[Row]) -> Result<Self, EngineError> {
        let this = Self::read(rows);
        wipe_stack();
        this
    }

    #[inline(never)]
    fn read(rows: &[Row]) -> Result<Self, EngineError> {
        let find = |name: &'static str| {
            let key = keys::device(name);
            rows.iter()
                .find(|(at, _)| *at == key)
                .map(|(_, value)| value)
        };
        let what = "profile";
        let profile: ProfileRow =
            keys::uncbor(what, find("profile").ok_or(EngineError::Store { what })?)?;
        if profile.version != ROW_VERSION {
            return Err(EngineError::Store { what });
        }
        let secret: SecretRow = keys::uncbor(
            "keys",
            find("keys").ok_or(EngineError::Store { what: "keys" })?,
        )?;
        let damaged = |_| EngineError::Store { what };
        let genesis = profile
            .genesis
            .as_ref()
            .map(|bytes| UserGenesis::from_bytes(bytes.as_slice()))
            .transpose()
            .map_err(damaged)?;
        let credential = profile
            .credential
            .as_ref()
            .map(|bytes| DeviceCredential::from_bytes(bytes.as_slice()))
            .transpose()
            .map_err(damaged)?;
        let list = profile
            .list
            .as_ref()
            .map(|bytes| SignedDeviceList::from_bytes(bytes.as_slice()))
            .transpose()
            .map_err(damaged)?;
        let pins = match find("pins") {
            Some(bytes) => keys::uncbor("pins", bytes)?,
            None => PinBook::default(),
        };
        let lists = lists::load(rows)?;
        let rivals = lists::load_rivals(rows)?;
        let labels = match find("labels") {
            Some(bytes) => keys::uncbor("labels", bytes)?,
            None => Labels::default(),
        };
        Ok(Self {
            lists,
            rivals,
            labels,
            life: Life::load(rows)?,
            key: DeviceKey::from_bytes(&secret.device_key),
            user_key: secret.user_key.as_ref().map(UserKey::from_bytes),
            receiving: secret.receiving.as_ref().map(ReceivingKey::from_bytes),
            profile,
            genesis,
            credential,
            list,
            pins,
        })
    }

    /// Stores everything about the device.
    pub(crate) fn save(&self, writes: &mut WriteBatch) {
        writes.put(keys::device("profile"), keys::cbor(&self.profile));
        writes.put(keys::device("keys"), self.secret());
        wipe_stack();
        writes.put(keys::device("pins"), keys::cbor(&self.pins));
        self.save_labels(writes);
    }

    #[inline(never)]
    fn secret(&self) -> Zeroizing<Vec<u8>> {
        keys::cbor(&SecretRow {
            device_key: *self.key.to_bytes(),
            user_key: self.user_key.as_ref().map(|key| *key.to_bytes()),
            receiving: self.receiving.as_ref().map(|key| *key.to_bytes()),
        })
    }

    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    pub(crate) fn life_mut(&mut self) -> &mut Life {
        &mut self.life
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.profile.device
    }

    pub(crate) fn instance(&self) -> InstanceId {
        self.profile.instance
    }

    pub(crate) fn packages_lost(&self) -> bool {
        self.profile.packages_lost
    }

    pub(crate) fn set_packages_lost(&mut self, lost: bool) {
        self.profile.packages_lost = lost;
    }

    pub(crate) fn packages_made(&self) -> UnixMs {
        self.profile.packages_made
    }

    pub(crate) fn set_packages_made(&mut self, at: UnixMs) {
        self.profile.packages_made = at;
    }

    pub(crate) fn enrolled(&self) -> UnixMs {
        self.profile.enrolled
    }

    /// Goes on as another instance: what was written under the old one may have been written by another life of this store.
    pub(crate) fn renew_instance(&mut self, rng: &mut dyn CryptoRngCore) {
        self.profile.instance = fresh_instance(rng);
    }

    /// Goes on as another device of the same user, which has to be approved. Contacts stay, and what is known of others' devices.
    pub(crate) fn become_new(&mut self, rng: &mut dyn CryptoRngCore) {
        self.key = DeviceKey::generate(rng);
        rng.fill_bytes(&mut self.profile.device.0);
        self.profile.instance = fresh_instance(rng);
        let profile = &mut self.profile;
        (profile.genesis, profile.credential, profile.list) = (None, None, None);
        (profile.packages_lost, profile.packages_made) = (false, UnixMs(0));
        profile.enrolled = UnixMs(0);
        profile.published = 0;
        profile.adding.clear();
        (self.genesis, self.credential, self.list) = (None, None, None);
        // It is the other copy's now, which approves this device.
        self.user_key = None;
        self.receiving = Some(ReceivingKey::generate(rng));
        self.labels = Labels::default();
        self.life = Life::default();
    }

    pub(crate) fn user(&self) -> Option<UserId> {
        self.genesis.as_ref().map(UserGenesis::user_id)
    }

    pub(crate) fn key(&self) -> &DeviceKey {
        &self.key
    }

    pub(crate) fn credential(&self) -> Option<&DeviceCredential> {
        self.credential.as_ref()
    }

    pub(crate) fn list(&self) -> Option<&SignedDeviceList> {
        self.list.as_ref()
    }

    pub(crate) fn pins(&self) -> &PinBook {
        &self.pins
    }

    pub(crate) fn realm(&self) -> RealmId {
        self.profile.realm
    }

    pub(crate) fn context(&self) -> Result<DeviceContext<'_>, EngineError> {
        let credential = self.credential.as_ref().ok_or(EngineError::NotEnrolled)?;
        Ok(DeviceContext {
            key: &self.key,
            credential,
        })
    }

    pub(crate) fn whoami(&self) -> WhoAmI {
        WhoAmI {
            user: self.user(),
            device: self.id(),
            name: self.profile.name.clone(),
            contact: self.genesis.as_ref().and_then(|genesis| {
                let contact = Contact::new(genesis.clone(), &self.profile.name).ok()?;
                Some(contact.to_text())
            }),
            enrolled: self.credential.is_some(),
            holds_user_key: self.user_key.is_some(),
        }
    }

    /// What waits to be approved can be given the user key: a store of before that was possible has nothing to seal it to. True where that was so.
    pub(crate) fn be_ready_to_receive(&mut self, rng: &mut dyn CryptoRngCore) -> bool {
        let lacks = self.credential.is_none() && self.receiving.is_none();
        if lacks {
            self.receiving = Some(ReceivingKey::generate(rng));
        }
        lacks
    }

    pub(crate) fn request(&self) -> Result<DeviceRequest, EngineError> {
        let realm = self.profile.realm;
        let receiving = self
            .receiving
            .as_ref()
            .ok_or(EngineError::AlreadyEnrolled)?;
        Ok(DeviceRequest::new(
            &self.key,
            receiving,
            realm,
            self.profile.device,
            &self.profile.name,
        )?)
    }

    /// Approves a request with the user key, once its code was typed in. The new device gets the contacts too, and the user key where that is
    /// wanted: by default the second one, so that losing the first is not the end.
    pub(crate) fn approve_text(
        &mut self,
        approval: &Approval,
        now: UnixMs,
        rng: &mut dyn CryptoRngCore,
    ) -> Result<(DeviceId, String), EngineError> {
        let request = DeviceRequest::from_text(&approval.request)?;
        let user_key = self.user_key.as_ref().ok_or(EngineError::NoUserKey)?;
        let current = self.list.as_ref().ok_or(EngineError::NotEnrolled)?;
        if !request.is_code(&approval.code) {
            return Err(EngineError::WrongCode);
        }
        let others = current.list.devices.iter().map(|entry| entry.device);
        let others = others.filter(|device| *device != request.device);
        let hands_over = approval.user_key.unwrap_or_else(|| others.count() == 1);
        let hands = match hands_over {
            true => HandsOver::UserKey(rng),
            false => HandsOver::Nothing,
        };
        let pins: Vec<Pin> = self.pins.iter().take(PINS_IN_APPROVAL).cloned().collect();
        let name = &self.profile.name;
        let approval = user_key.approve(&request, current, name, &pins, hands, now);
        wipe_stack();
        let approval = approval?;
        if approval.list != *current {
            let entry = DeviceRef {
                device: request.device,
                scheme: request.scheme,
                key: request.key.clone(),
            };
            self.profile.adding.push(encode(&entry).into());
        }
        self.set_list(approval.list.clone());
        self.note_approved(request.device, &request.name, hands_over);
        Ok((request.device, approval.to_text()))
    }

    pub(crate) fn finish_text(&mut self, approval: &str, now: UnixMs) -> Result<(), EngineError> {
        let Some(receiving) = self
            .receiving
            .as_ref()
            .filter(|_| self.credential.is_none())
        else {
            return Err(EngineError::AlreadyEnrolled);
        };
        let approval = DeviceApproval::from_text(approval)?;
        let request = self.request()?;
        let credential = approval.finish(&self.key, &request)?;
        let user_key = approval.open_user_key(receiving);
        wipe_stack();
        self.user_key = user_key?;
        // What it opened is here; nothing more is to be opened with it.
        self.receiving = None;
        let holds = self.user_key.is_some();
        self.profile.name.clone_from(&approval.name);
        self.profile.enrolled = now;
        for pin in approval.pins {
            // A name taken twice cannot come from an honest device; the first stays.
            let _ = self.pins.add(pin);
        }
        self.enrol(approval.genesis, credential, approval.list);
        self.trust_list();
        self.note_approved(request.device, &request.name, holds);
        Ok(())
    }

    fn enrol(
        &mut self,
        genesis: UserGenesis,
        credential: DeviceCredential,
        list: SignedDeviceList,
    ) {
        self.profile.genesis = Some(genesis.to_bytes().into());
        self.profile.credential = Some(credential.to_bytes().into());
        self.genesis = Some(genesis);
        self.credential = Some(credential);
        self.set_list(list);
    }

    pub(crate) fn pin(
        &mut self,
        contact: &str,
        name: Option<String>,
        verified: bool,
        now: UnixMs,
    ) -> Result<PinInfo, EngineError> {
        let contact = Contact::from_text(contact)?;
        let mut pin = Pin::of(&contact, verified, now);
        let user = pin.user;
        let known = self.pins.name_of(&user).map(ToOwned::to_owned);
        if let Some(name) = name.or(known) {
            pin.name = name;
        }
        self.pins.add(pin)?;
        self.pin_info(&user).ok_or(EngineError::UnknownMember)
    }

    pub(crate) fn rename_pin(
        &mut self,
        user: &UserId,
        name: String,
    ) -> Result<PinInfo, EngineError> {
        let pin = self.pins.get(user).cloned();
        let mut pin = pin.ok_or(EngineError::UnknownMember)?;
        pin.name = name;
        self.pins.add(pin)?;
        self.pin_info(user).ok_or(EngineError::UnknownMember)
    }

    pub(crate) fn unpin(&mut self, user: &UserId) -> Result<(), EngineError> {
        let gone = self.pins.remove(user);
        gone.map(|_| ()).ok_or(EngineError::UnknownMember)
    }

    fn pin_info(&self, user: &UserId) -> Option<PinInfo> {
        let pin = self.pins.get(user)?;
        Some(PinInfo {
            user: pin.user,
            name: pin.name.clone(),
            verified: pin.verified,
            safety_number: self.safety_number(user)?,
        })
    }

    pub(crate) fn pin_infos(&self) -> Vec<PinInfo> {
        self.pins
            .iter()
            .filter_map(|pin| self.pin_info(&pin.user))
            .collect()
    }

    pub(crate) fn safety_number(&self, user: &UserId) -> Option<String> {
        let own = self.genesis.as_ref()?;
        let pin = self.pins.get(user)?;
        Some(safety_number_from_hashes(&own.hash(), &pin.genesis_hash))
    }

    /// Whether a user's contact was verified here, or it is this device's own user.
    pub(crate) fn has_verified(&self, user: &UserId) -> bool {
        Some(*user) == self.user() || self.pins.get(user).is_some_and(|pin| pin.verified)
    }

    /// What a user is called here.
    pub(crate) fn name_of(&self, user: &UserId) -> Option<String> {
        if Some(*user) == self.user() {
            return Some(self.profile.name.clone());
        }
        self.pins.get(user).map(|pin| pin.name.clone())
    }
}

/// A fresh instance: drawn for a new store, or when one can no longer be used.
pub(crate) fn fresh_instance(rng: &mut dyn CryptoRngCore) -> InstanceId {
    let mut instance = InstanceId::ZERO;
    rng.fill_bytes(&mut instance.0);
    instance
}

/// Random bytes of the engine's seed.
pub(crate) fn random<const N: usize>(rng: &mut impl RngCore) -> [u8; N] {
    let mut out = Zeroizing::new([0u8; N]);
    rng.fill_bytes(&mut *out);
    *out
}
