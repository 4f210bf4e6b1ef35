//! Lists of devices, the own user's and others': which is the newest, what two of one number mean, which the own user's next one is.

use std::collections::{BTreeMap, BTreeSet};

use conclave_identity::{
    AuthError, CLOCK_SKEW_MS, DEVICE_LIST_VALIDITY_MS, DeviceRef, SignedDeviceList,
};
use conclave_proto::codec::{Bytes, decode};
use conclave_proto::{DeviceId, UnixMs, UserId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Device;
use crate::error::EngineError;
use crate::io::{Row, WriteBatch};
use crate::keys;

/// Rows of others' device lists.
const LIST_ROWS: &str = "list/";
/// Rows of second lists of one number.
const RIVAL_ROWS: &str = "rival/";
/// Most bytes of an encoded entry of a list.
const REF_BYTES: usize = 1024;

/// Another list of the number that the newest one here has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Rival {
    /// It, as evidence: both are signed.
    list: Bytes,
    /// Their number.
    seq: u64,
    /// Devices that one of them does not name: they are revoked until a list of a higher number names them.
    revoked: BTreeSet<DeviceId>,
}

/// What a list that came was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// It takes the place of the one before.
    pub(crate) newer: bool,
    /// It shows that there are two of one number, which was not known before.
    pub(crate) two: bool,
    /// It does not name a device that was approved here, which is not known to have been listed and taken away since.
    pub(crate) lacks_approved: bool,
}

/// What a list is beside the newest one here.
enum Beside {
    Same,
    Newer,
    /// Its number is the next, and it follows another list of the number of the one here.
    NewerOfAnother,
    Rival,
}

fn beside(list: &SignedDeviceList, known: Option<&SignedDeviceList>) -> Result<Beside, AuthError> {
    let Some(known) = known else {
        list.verify()?;
        return Ok(Beside::Newer);
    };
    match list.supersedes(known) {
        Ok(true) => Ok(Beside::Newer),
        Ok(false) => Ok(Beside::Same),
        Err(AuthError::BrokenChain) => Ok(Beside::NewerOfAnother),
        Err(AuthError::Equivocation { .. }) => Ok(Beside::Rival),
        Err(error) => Err(error),
    }
}

/// Rows below `prefix`, by the user that their keys end with.
fn of_users<'a>(
    rows: &'a [Row],
    prefix: &str,
) -> impl Iterator<Item = Result<(UserId, &'a [u8]), EngineError>> {
    let prefix = keys::device(prefix);
    rows.iter().filter_map(move |(key, value)| {
        let rest = key.strip_prefix(prefix.as_slice())?;
        let what = "device list";
        let user = UserId::from_slice(rest).ok_or(EngineError::Store { what });
        Some(user.map(|user| (user, value.as_slice())))
    })
}

fn key_of(prefix: &str, user: &UserId) -> Vec<u8> {
    let mut key = keys::device(prefix);
    key.extend_from_slice(user.as_bytes());
    key
}

pub(super) fn load(rows: &[Row]) -> Result<BTreeMap<UserId, SignedDeviceList>, EngineError> {
    let read = |row: Result<(UserId, &[u8]), EngineError>| {
        let (user, value) = row?;
        let what = "device list";
        let list = SignedDeviceList::from_bytes(value);
        Ok((user, list.map_err(|_| EngineError::Store { what })?))
    };
    of_users(rows, LIST_ROWS).map(read).collect()
}

pub(super) fn load_rivals(rows: &[Row]) -> Result<BTreeMap<UserId, Rival>, EngineError> {
    let read = |row: Result<(UserId, &[u8]), EngineError>| {
        let (user, value) = row?;
        Ok((user, keys::uncbor("device list", value)?))
    };
    of_users(rows, RIVAL_ROWS).map(read).collect()
}

fn devices(list: &SignedDeviceList) -> impl Iterator<Item = DeviceId> {
    list.list.devices.iter().map(|entry| entry.device)
}

impl Device {
    pub(super) fn set_list(&mut self, list: SignedDeviceList) {
        self.profile.list = Some(list.to_bytes().into());
        self.list = Some(list);
    }

    /// The newest list of a user that is here.
    fn list_of(&self, user: &UserId) -> Option<&SignedDeviceList> {
        match Some(*user) == self.user() {
            true => self.list.as_ref(),
            false => self.lists.get(user),
        }
    }

    /// Devices of a user: those that the newest list names, and each other one of its number. None where no list is here.
    pub(crate) fn named(&self, user: &UserId) -> Option<BTreeSet<DeviceId>> {
        let list = self.list_of(user)?;
        let rival = self.rivals.get(user);
        let rival = rival.filter(|rival| rival.seq == list.list.seq);
        let revoked = rival.map(|rival| &rival.revoked);
        let is_revoked = |device: &DeviceId| revoked.is_some_and(|it| it.contains(device));
        Some(devices(list).filter(|it| !is_revoked(it)).collect())
    }

    /// Whether the own user's newest list names the device, whatever another list of its number says.
    pub(crate) fn lists_own(&self, device: &DeviceId) -> bool {
        let mut listed = self.list.iter().flat_map(devices);
        listed.any(|it| it == *device)
    }

    /// Whether a device of the own user may be added to groups: every newest list names it, and it is the user's as far as that is known here.
    pub(crate) fn is_addable(&self, device: &DeviceId) -> bool {
        let user = self.user();
        let named = user.and_then(|user| self.named(&user));
        named.is_some_and(|named| named.contains(device)) && self.is_confirmed(device)
    }

    /// How long ago a user's newest list was signed, in milliseconds.
    pub(crate) fn list_age_ms(&self, user: &UserId, now: UnixMs) -> u64 {
        let list = self.list_of(user);
        list.map_or(0, |list| now.since_ms(list.list.issued))
    }

    /// Whether there is another own list of the newest number.
    fn has_own_rival(&self) -> bool {
        let user = self.user();
        let rival = user.and_then(|user| self.rivals.get(&user));
        let newest = self.list.as_ref().map(|list| list.list.seq);
        rival.is_some_and(|rival| Some(rival.seq) == newest)
    }

    /// Whether the service has the own list that is here.
    pub(crate) fn is_list_published(&self) -> bool {
        let newest = self.list.as_ref().map_or(0, |list| list.list.seq);
        newest <= self.profile.published
    }

    /// The service has the own list of this number, or one that follows it.
    pub(crate) fn list_published(&mut self, seq: u64) -> bool {
        if seq <= self.profile.published {
            return false;
        }
        self.profile.published = seq;
        if self.is_list_published() {
            self.profile.adding.clear();
        }
        true
    }

    /// Takes a list of a user as the service gives it, if it is newer than what is here. One that an own list lost a race against takes its place:
    /// nobody else has seen that.
    pub(crate) fn learn_list(
        &mut self,
        list: SignedDeviceList,
        writes: &mut WriteBatch,
    ) -> Result<News, AuthError> {
        let user = list.user();
        let seq = list.list.seq;
        let own = Some(user) == self.user();
        if own && !self.is_list_published() {
            list.verify()?;
            let newest = self.list.as_ref().map_or(0, |list| list.list.seq);
            if seq < newest {
                return Ok(News::default());
            }
            let newer = self.list.as_ref() != Some(&list);
            let lacks_approved = newer && self.take_over_unpublished(&list);
            if newer {
                self.set_list(list);
                self.forget_rival(&user, writes);
            } else {
                self.profile.adding.clear();
            }
            self.profile.published = seq;
            self.save(writes);
            return Ok(News {
                newer,
                lacks_approved,
                ..News::default()
            });
        }
        let beside = beside(&list, self.list_of(&user))?;
        let two = match beside {
            Beside::Same => return Ok(News::default()),
            Beside::Rival => {
                let two = self.keep_rival(&user, &list, writes);
                return Ok(News {
                    two,
                    ..News::default()
                });
            }
            Beside::Newer => false,
            Beside::NewerOfAnother => true,
        };
        self.forget_rival(&user, writes);
        if own {
            self.set_list(list);
            self.list_published(seq);
            self.save(writes);
        } else {
            let bytes = Zeroizing::new(list.to_bytes());
            writes.put(key_of(LIST_ROWS, &user), bytes);
            self.lists.insert(user, list);
        }
        Ok(News {
            newer: true,
            two,
            ..News::default()
        })
    }

    /// A list takes the place of the own one, of which the service has said nothing. What was approved here goes into the next one only where
    /// it is certain that nobody has seen it listed: who listed it and took it away since would get it back otherwise. True where that cannot
    /// be told, and the list lacks it.
    fn take_over_unpublished(&mut self, list: &SignedDeviceList) -> bool {
        let Some(own) = &self.list else {
            return false;
        };
        let next = own.list.seq.saturating_add(1);
        let follows = list.list.seq == next && list.list.prev == own.hash();
        if list.list.seq <= next && !follows {
            return false;
        }
        let lacks = self
            .adding()
            .iter()
            .any(|it| devices(list).all(|id| id != *it));
        self.profile.adding.clear();
        lacks && !follows
    }

    /// Judges a user's device list as the service gives it: signed, and not older than the newest known here. Gives the newest, or none where
    /// that is merely old: its user was not seen for long.
    pub(crate) fn take_list(
        &mut self,
        user: &UserId,
        list: SignedDeviceList,
        now: UnixMs,
        writes: &mut WriteBatch,
    ) -> Result<(News, Option<SignedDeviceList>), AuthError> {
        list.verify()?;
        if list.user() != *user {
            return Err(AuthError::WrongUser);
        }
        let news = self.learn_list(list, writes)?;
        let newest = self.list_of(user).filter(|list| list.is_fresh(now));
        Ok((news, newest.cloned()))
    }

    /// Keeps a second list of one number. False when nothing new follows from it.
    fn keep_rival(
        &mut self,
        user: &UserId,
        list: &SignedDeviceList,
        writes: &mut WriteBatch,
    ) -> bool {
        let Some(known) = self.list_of(user) else {
            return false;
        };
        let there: BTreeSet<DeviceId> = devices(list).collect();
        let missing: BTreeSet<DeviceId> = devices(known).filter(|it| !there.contains(it)).collect();
        let seq = known.list.seq;
        let before = self.rivals.get(user).filter(|rival| rival.seq == seq);
        let first = before.is_none();
        let mut rival = before.cloned().unwrap_or_else(|| Rival {
            list: list.to_bytes().into(),
            seq,
            revoked: BTreeSet::new(),
        });
        let known = rival.revoked.len();
        rival.revoked.extend(missing);
        if !first && rival.revoked.len() == known {
            return false;
        }
        writes.put(key_of(RIVAL_ROWS, user), keys::cbor(&rival));
        self.rivals.insert(*user, rival);
        true
    }

    fn forget_rival(&mut self, user: &UserId, writes: &mut WriteBatch) {
        if self.rivals.remove(user).is_some() {
            writes.delete(key_of(RIVAL_ROWS, user));
        }
    }

    /// Devices approved here whose list the service does not have yet.
    fn to_add(&self) -> impl Iterator<Item = DeviceRef> {
        let rows = self.profile.adding.iter();
        rows.filter_map(|bytes| decode("approved device", bytes.as_slice(), REF_BYTES).ok())
    }

    pub(crate) fn adding(&self) -> BTreeSet<DeviceId> {
        self.to_add().map(|entry| entry.device).collect()
    }

    /// Signs the own user's next list where the newest one does not say what this device wants of it: without those that are to be revoked, and
    /// with those that were approved here.
    pub(crate) fn sign_next_list(
        &mut self,
        revoked: &BTreeSet<DeviceId>,
        now: UnixMs,
    ) -> Result<bool, EngineError> {
        let (Some(user_key), Some(list)) = (&self.user_key, &self.list) else {
            return Ok(false);
        };
        let mut next = list.list.devices.clone();
        for entry in self.to_add() {
            let is_there =
                |other: &DeviceRef| other.device == entry.device || other.key == entry.key;
            if !next.iter().any(is_there) {
                next.push(entry);
            }
        }
        next.retain(|entry| !revoked.contains(&entry.device));
        next.sort_by_key(|entry| entry.device);
        if next == list.list.devices {
            return Ok(false);
        }
        let next = user_key.sign_list(&list.genesis.clone(), Some(list), next, now)?;
        self.set_list(next);
        Ok(true)
    }

    /// Signs the own list anew, unchanged, when it has reached half its life, or was signed by a clock that was ahead. Only a device with the
    /// user key can.
    pub(crate) fn refresh_list(&mut self, now: UnixMs) -> bool {
        let Some(list) = &self.list else {
            return false;
        };
        let issued = list.list.issued;
        let young = now.since_ms(issued) < DEVICE_LIST_VALIDITY_MS / 2;
        if young && issued.since_ms(now) <= CLOCK_SKEW_MS {
            return false;
        }
        self.sign_anew(now)
    }

    /// Signs the next list where there are two of one number: it counts, whatever either says. False where there are not, or where the user key
    /// is elsewhere.
    pub(crate) fn settle_two_lists(&mut self, now: UnixMs) -> bool {
        self.has_own_rival() && self.sign_anew(now)
    }

    /// The next list names the same devices.
    fn sign_anew(&mut self, now: UnixMs) -> bool {
        let (Some(user_key), Some(list)) = (&self.user_key, &self.list) else {
            return false;
        };
        let devices = list.list.devices.clone();
        match user_key.sign_list(&list.genesis.clone(), Some(list), devices, now) {
            Ok(fresh) => {
                self.set_list(fresh);
                true
            }
            Err(_) => false,
        }
    }
}
