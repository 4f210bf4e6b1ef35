//! Device lists: signed, numbered and chained; a device that the newest list does not name is revoked.

use std::fmt;

use conclave_proto::codec::{Bytes, encode};
use conclave_proto::hash::labelled;
use conclave_proto::{DeviceId, Hash, RealmId, UnixMs, UserId, limits};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{VERSION, check_version, decode_canonical};
use crate::error::AuthError;
use crate::keys::{UserKey, check_key, verify};
use crate::user::UserGenesis;

/// Label under which a user key signs a [`DeviceList`].
pub const LIST_LABEL: &str = "conclave 1.0 device list";
/// Time from a list's issue to its promised next update, in milliseconds (90 days).
pub const DEVICE_LIST_VALIDITY_MS: u64 = 90 * 24 * 3600 * 1000;

/// Largest encoded list in bytes: [`limits::USER_DEVICES`] devices with room for larger keys.
pub const LIST_BYTES: usize = 8 * 1024;
const WHAT: &str = "device list";

/// One device of a user.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeviceRef {
    /// The device.
    pub device: DeviceId,
    /// Signature scheme of `key` (RFC 8446 §4.2.3).
    pub scheme: u16,
    /// The device's public key.
    pub key: Bytes,
}

/// All devices of a user.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DeviceList {
    /// 1.
    pub version: u16,
    /// The user's realm.
    pub realm: RealmId,
    /// The user.
    pub user: UserId,
    /// Counts from 1.
    pub seq: u64,
    /// [`SignedDeviceList::hash`] of the previous list; zero in the first.
    pub prev: Hash,
    /// When it was signed.
    pub issued: UnixMs,
    /// A newer list is due by then; a list past it is stale.
    pub next_update: UnixMs,
    /// The devices, sorted by id, each once; no two share a key.
    pub devices: Vec<DeviceRef>,
}

/// A device list with the user's genesis statement and signature: all that is needed to check it.
#[derive(Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct SignedDeviceList {
    /// The statement that the user began with.
    pub genesis: UserGenesis,
    /// What is signed.
    pub list: DeviceList,
    /// User key's signature under [`LIST_LABEL`] over the encoded `list`.
    pub signature: [u8; 64],
}

impl SignedDeviceList {
    /// The one encoding of this list.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a list; does not check it ([`Self::verify`]).
    ///
    /// # Errors
    /// [`AuthError::Malformed`] for anything but the one encoding of a list of bounded size.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuthError> {
        Ok(decode_canonical(WHAT, bytes, LIST_BYTES)?)
    }

    /// Checks the list by itself: versions, user id, realm, numbering, devices, signature. Not whether it is the newest.
    ///
    /// # Errors
    /// [`AuthError`] says what is wrong.
    pub fn verify(&self) -> Result<(), AuthError> {
        let list = &self.list;
        self.genesis.check()?;
        check_version(list.version)?;
        if self.genesis.user_id() != list.user {
            return Err(AuthError::UserMismatch);
        }
        if self.genesis.realm != list.realm {
            return Err(AuthError::RealmMismatch);
        }
        if list.seq == 0 || (list.seq == 1) != (list.prev == Hash::ZERO) {
            return Err(AuthError::ListSequence);
        }
        if list.next_update <= list.issued {
            return Err(AuthError::ListFreshness);
        }
        check_devices(&list.devices)?;
        verify(
            &self.genesis.key,
            LIST_LABEL,
            &encode(list),
            &self.signature,
        )
        .map_err(|_| AuthError::ListSignature)
    }

    /// Hash of the whole encoded list, which its successor names.
    #[must_use]
    pub fn hash(&self) -> Hash {
        labelled("conclave 1.0 device list hash", &[&self.to_bytes()])
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> UserId {
        self.list.user
    }

    /// Whether the list names this device with this key.
    #[must_use]
    pub fn contains(&self, device: &DeviceId, key: &[u8]) -> bool {
        self.list
            .devices
            .iter()
            .any(|entry| entry.device == *device && entry.key.as_slice() == key)
    }

    /// Whether the promised next update is still ahead.
    #[must_use]
    pub fn is_fresh(&self, now: UnixMs) -> bool {
        now < self.list.next_update
    }

    /// Verifies this list and checks that it directly follows `prev`, a list verified before: same user and realm, the next sequence
    /// number, and `prev`'s hash.
    ///
    /// # Errors
    /// What [`Self::verify`] finds; [`AuthError::WrongUser`] or [`AuthError::WrongRealm`]; [`AuthError::StaleList`] for a lower or the
    /// same number; [`AuthError::Equivocation`] for the same number with other content; [`AuthError::NotDirectSuccessor`] for a higher
    /// one; [`AuthError::BrokenChain`] when it names another predecessor.
    pub fn check_successor(&self, prev: &Self) -> Result<(), AuthError> {
        let expected = prev
            .list
            .seq
            .checked_add(1)
            .ok_or(AuthError::ListSequence)?;
        if !self.supersedes(prev)? {
            return Err(AuthError::StaleList {
                newest: prev.list.seq,
            });
        }
        if self.list.seq != expected {
            return Err(AuthError::NotDirectSuccessor { expected });
        }
        Ok(())
    }

    /// Verifies this list and judges whether it replaces `old`, a list verified before; lists in between may be unknown. `true`: newer.
    /// `false`: the very same.
    ///
    /// # Errors
    /// What [`Self::verify`] finds; [`AuthError::WrongUser`] or [`AuthError::WrongRealm`]; [`AuthError::StaleList`] when `old` is newer;
    /// [`AuthError::Equivocation`] when both have one number but differ (keep both: they prove it); [`AuthError::BrokenChain`] when the
    /// number is the next but the predecessor another.
    pub fn supersedes(&self, old: &Self) -> Result<bool, AuthError> {
        self.verify()?;
        if self.list.user != old.list.user {
            return Err(AuthError::WrongUser);
        }
        if self.list.realm != old.list.realm {
            return Err(AuthError::WrongRealm);
        }
        let (new_seq, old_seq) = (self.list.seq, old.list.seq);
        // Breakage: an older list, on which a revoked device still stands, replaces a newer one.
        if new_seq < old_seq && !crate::broken("list-rollback") {
            return Err(AuthError::StaleList { newest: old_seq });
        }
        if new_seq == old_seq {
            return if self == old {
                Ok(false)
            } else {
                Err(AuthError::Equivocation {
                    seq: new_seq,
                    known: old.hash(),
                    presented: self.hash(),
                })
            };
        }
        if new_seq - old_seq == 1 && self.list.prev != old.hash() {
            return Err(AuthError::BrokenChain);
        }
        Ok(true)
    }
}

impl fmt::Debug for SignedDeviceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedDeviceList")
            .field("user", &self.list.user)
            .field("seq", &self.list.seq)
            .field("devices", &self.list.devices.len())
            .finish_non_exhaustive()
    }
}

fn check_devices(devices: &[DeviceRef]) -> Result<(), AuthError> {
    if devices.len() > limits::USER_DEVICES {
        return Err(AuthError::TooManyDevices {
            max: limits::USER_DEVICES,
        });
    }
    let sorted = devices
        .windows(2)
        .all(|pair| matches!(pair, [a, b] if a.device < b.device));
    let mut keys: Vec<&[u8]> = devices.iter().map(|entry| entry.key.as_slice()).collect();
    keys.sort_unstable();
    let distinct = keys.windows(2).all(|pair| matches!(pair, [a, b] if a != b));
    if !sorted || !distinct {
        return Err(AuthError::ListDevices);
    }
    devices
        .iter()
        .try_for_each(|entry| check_key(entry.scheme, entry.key.as_slice()))
}

impl UserKey {
    /// Signs the list of all devices, in any order, that follows `prev` (none: the first list). The next update is due
    /// [`DEVICE_LIST_VALIDITY_MS`] after `now`.
    ///
    /// # Errors
    /// Gives nothing that nobody would accept: another user's genesis statement or predecessor, repeated devices or keys, more than
    /// [`limits::USER_DEVICES`].
    pub fn sign_list(
        &self,
        genesis: &UserGenesis,
        prev: Option<&SignedDeviceList>,
        mut devices: Vec<DeviceRef>,
        now: UnixMs,
    ) -> Result<SignedDeviceList, AuthError> {
        let (seq, prev_hash) = match prev {
            None => (1, Hash::ZERO),
            Some(prev) if prev.genesis != *genesis => return Err(AuthError::WrongUser),
            Some(prev) => {
                let seq = prev
                    .list
                    .seq
                    .checked_add(1)
                    .ok_or(AuthError::ListSequence)?;
                (seq, prev.hash())
            }
        };
        devices.sort_by_key(|entry| entry.device);
        let list = DeviceList {
            version: VERSION,
            realm: genesis.realm,
            user: genesis.user_id(),
            seq,
            prev: prev_hash,
            issued: now,
            next_update: now.plus_ms(DEVICE_LIST_VALIDITY_MS),
            devices,
        };
        let signature = self.sign(LIST_LABEL, &encode(&list));
        let signed = SignedDeviceList {
            genesis: genesis.clone(),
            list,
            signature,
        };
        signed.verify()?;
        Ok(signed)
    }
}
