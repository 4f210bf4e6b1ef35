//! What the own user's devices are called on this one, and what else this one knows of them by itself. Nothing of it travels: other devices of the
//! user may call them otherwise.

use std::collections::{BTreeMap, BTreeSet};

use conclave_identity::{AuthError, check_name};
use conclave_proto::{DeviceId, UnixMs};
use serde::{Deserialize, Serialize};

use super::Device;
use crate::command::DeviceInfo;
use crate::error::EngineError;
use crate::io::WriteBatch;
use crate::keys;

/// Devices of which something is kept, at most: those that are listed, and the last ones that were.
const LABELS: usize = 64;
/// When something of a device came is kept so exactly, in milliseconds.
const SEEN_MS: u64 = 3_600_000;

/// What is known of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Label {
    /// What it is called.
    name: Option<String>,
    /// When something of it came here last: a change, or an edit.
    seen: Option<UnixMs>,
    /// Whether it got the user key. None: another device approved it.
    has_user_key: Option<bool>,
    /// The user, or this device's approval, says that it is theirs.
    confirmed: bool,
}

/// What is known of the own user's devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Labels {
    of: BTreeMap<DeviceId, Label>,
    /// A device that may hold the user key was taken off the list: what the key signs is no longer the user's word alone, and devices that
    /// come onto the list wait to be confirmed.
    guarded: bool,
}

impl Device {
    fn label(&mut self, device: DeviceId) -> &mut Label {
        if !self.labels.of.contains_key(&device) && self.labels.of.len() >= LABELS {
            let kept: BTreeSet<DeviceId> = self.own_devices();
            let mut gone = self.labels.of.keys().filter(|id| !kept.contains(id));
            if let Some(gone) = gone.next().copied() {
                self.labels.of.remove(&gone);
            }
        }
        self.labels.of.entry(device).or_default()
    }

    pub(crate) fn save_labels(&self, writes: &mut WriteBatch) {
        writes.put(keys::device("labels"), keys::cbor(&self.labels));
    }

    /// Devices that the own list names, whatever another list of its number says.
    pub(crate) fn own_devices(&self) -> BTreeSet<DeviceId> {
        let list = self.list().into_iter();
        let entries = list.flat_map(|list| &list.list.devices);
        entries.map(|entry| entry.device).collect()
    }

    /// What a device of the own user is called here.
    pub(crate) fn name_of_device(&self, device: &DeviceId) -> Option<String> {
        self.labels.of.get(device)?.name.clone()
    }

    /// Calls a device of the own user otherwise, on this one.
    pub(crate) fn rename_device(
        &mut self,
        device: DeviceId,
        name: &str,
    ) -> Result<DeviceInfo, EngineError> {
        check_name(name).map_err(AuthError::from)?;
        if !self.lists_own(&device) {
            return Err(EngineError::UnknownDevice);
        }
        self.label(device).name = Some(name.to_owned());
        Ok(self.device_info(device))
    }

    /// The user key went to a device that is approved here, or not.
    pub(super) fn note_approved(&mut self, device: DeviceId, name: &str, has_user_key: bool) {
        let label = self.label(device);
        label.name = Some(name.to_owned());
        label.has_user_key = Some(has_user_key);
        label.confirmed = true;
    }

    /// Something of one of the user's devices came. False where nothing changes for that.
    pub(crate) fn note_seen(&mut self, device: &DeviceId, now: UnixMs) -> bool {
        if *device == self.id() || !self.lists_own(device) {
            return false;
        }
        let label = self.label(*device);
        if label.seen.is_some_and(|at| now.since_ms(at) < SEEN_MS) {
            return false;
        }
        label.seen = Some(now);
        true
    }

    fn device_info(&self, device: DeviceId) -> DeviceInfo {
        let this = device == self.id();
        let label = self.labels.of.get(&device);
        DeviceInfo {
            device,
            this,
            name: label.and_then(|label| label.name.clone()),
            seen: label.and_then(|label| label.seen),
            holds_user_key: match this {
                true => Some(self.user_key.is_some()),
                false => label.and_then(|label| label.has_user_key),
            },
            confirmed: this || self.is_confirmed(&device),
        }
    }

    /// The own user's devices.
    pub(crate) fn devices(&self) -> Vec<DeviceInfo> {
        let all = self.own_devices().into_iter();
        all.map(|device| self.device_info(device)).collect()
    }

    /// Whether a device may be added to groups by itself: not one that came onto the list after somebody else may have got the user key, before
    /// the user says that it is theirs.
    pub(crate) fn is_confirmed(&self, device: &DeviceId) -> bool {
        !self.labels.guarded || *device == self.id() || self.is_known(device)
    }

    /// Whether this device approved it, was approved by it, or the user has said here that it is theirs.
    pub(crate) fn is_known(&self, device: &DeviceId) -> bool {
        let label = self.labels.of.get(device);
        label.is_some_and(|label| label.confirmed)
    }

    /// Whether it was the user's once, as far as is known here.
    pub(crate) fn was_listed(&self, device: &DeviceId) -> bool {
        self.labels.of.contains_key(device)
    }

    fn may_hold_user_key(&self, device: &DeviceId) -> bool {
        let label = self.labels.of.get(device);
        label.and_then(|label| label.has_user_key) != Some(false)
    }

    /// Those that the list names with which this device was approved are its user's.
    pub(super) fn trust_list(&mut self) {
        for device in self.own_devices() {
            self.label(device).confirmed = true;
        }
    }

    /// A device is to be taken away here. Where it may hold the user key, only those are the user's from now on that were approved here, or
    /// that the user says so of: whatever else is on the list, it may have put there.
    pub(crate) fn guard_from(&mut self, device: &DeviceId) {
        self.labels.guarded |= self.may_hold_user_key(device);
        if let Some(label) = self.labels.of.get_mut(device) {
            label.confirmed = false;
        }
    }

    pub(crate) fn is_guarded(&self) -> bool {
        self.labels.guarded
    }

    /// The user says that a device is theirs.
    pub(crate) fn confirm_device(&mut self, device: DeviceId) -> Result<(), EngineError> {
        if !self.lists_own(&device) {
            return Err(EngineError::UnknownDevice);
        }
        self.label(device).confirmed = true;
        Ok(())
    }

    /// The own list named these before. Where one that may hold the user key is not named any more, the others are the user's, and whatever
    /// comes onto the list with that, or later, waits for the user's word. True where that begins.
    pub(crate) fn guard_against(&mut self, before: &BTreeSet<DeviceId>) -> bool {
        let now = self.own_devices();
        let adding = self.adding();
        let gone = before.difference(&now).filter(|it| !adding.contains(it));
        let begins = !self.labels.guarded && gone.clone().any(|it| self.may_hold_user_key(it));
        // Whatever was said of it before, it is not the user's any more.
        for device in gone {
            if let Some(label) = self.labels.of.get_mut(device) {
                label.confirmed = false;
            }
        }
        if !begins {
            return false;
        }
        for device in before.intersection(&now) {
            self.label(*device).confirmed = true;
        }
        self.labels.guarded = true;
        true
    }
}
