//! Device lists and key packages for those who are to be added.

use super::*;
use crate::device::News;

impl Cx {
    /// Asks for a user's device list, then for key packages of those devices that are no members, or of the one to be added again.
    pub(super) fn ask_for_devices(
        &mut self,
        group: GroupId,
        id: u64,
        user: UserId,
        again: Option<DeviceId>,
    ) {
        let what = GroupPending::Intent(id, IntentPending::Devices { again });
        self.request_for(group, Request::GetDeviceList { user }, what);
    }

    pub(super) fn devices_answered(
        &mut self,
        group: &mut Group,
        id: u64,
        again: Option<DeviceId>,
        answer: Answer,
    ) {
        match answer {
            Answer::DeviceList { list } => {
                self.device_list_for_intent(group, id, again, list.as_slice());
            }
            Answer::Refused(Refusal::UnknownUser) => self.lack_packages(group, id),
            Answer::Refused(refusal) => self.packages_refused(group, id, refusal),
            _ => {}
        }
    }

    pub(super) fn packages_answered(
        &mut self,
        group: &mut Group,
        id: u64,
        list: &SignedDeviceList,
        answer: Answer,
    ) {
        match answer {
            Answer::KeyPackages { packages } => {
                self.packages_for_intent(group, id, list, packages);
            }
            Answer::Refused(refusal) => self.packages_refused(group, id, refusal),
            _ => {}
        }
    }

    /// The service gives no list or packages: for now, or at all.
    fn packages_refused(&mut self, group: &mut Group, id: u64, refusal: Refusal) {
        if refusal.is_retryable() {
            self.retry_intent(group, id, &refusal);
        } else {
            self.finish_intent(group, id, Err(EngineError::Refused(refusal)));
        }
    }

    fn device_list_for_intent(
        &mut self,
        group: &mut Group,
        id: u64,
        again: Option<DeviceId>,
        bytes: &[u8],
    ) {
        let Some(user) = group
            .intents
            .get(&id)
            .and_then(|intent| intent.adds(self.device.user()))
        else {
            return;
        };
        let now = self.latest();
        let own_before = self.device.own_devices();
        let writes = &mut self.out.writes;
        let taken = SignedDeviceList::from_bytes(bytes)
            .and_then(|list| self.device.take_list(&user, list, now, writes));
        let list = match taken {
            Ok((news, list)) => {
                self.tell_list(user, news);
                if news != News::default() && Some(user) == self.device.user() {
                    self.own_list_changed(user, &own_before);
                }
                match list {
                    Some(list) => list,
                    None if self.is_clock_wrong() => {
                        return self.finish_intent(group, id, Err(EngineError::ClockSkew));
                    }
                    // Its user was away for long: a device of theirs signs it anew when it connects.
                    None => return self.lack_packages(group, id),
                }
            }
            Err(error) => {
                let what = FindingKind::failed(Doing::DeviceList, &error);
                self.finding(group.id, None, what, None);
                return self.finish_intent(group, id, Err(EngineError::Identity(error)));
            }
        };
        let own = self.device.id();
        let is_own = Some(user) == self.device.user();
        let named = self.device.named(&user).unwrap_or_default().into_iter();
        let devices: Vec<DeviceId> = named
            .filter(|device| match again {
                Some(again) => *device == again,
                None => *device != own && !group.state().is_member(device),
            })
            .filter(|device| !is_own || self.adds_own(device))
            .collect();
        if devices.is_empty() {
            self.packages_for_intent(group, id, &list, Vec::new());
        } else {
            let what = IntentPending::Packages(Box::new(list));
            let what = GroupPending::Intent(id, what);
            self.request_for(group.id, Request::ClaimKeyPackages { user, devices }, what);
        }
    }

    /// Keeps the packages that belong to listed devices and authenticate; the intent goes on with them.
    fn packages_for_intent(
        &mut self,
        group: &mut Group,
        id: u64,
        list: &SignedDeviceList,
        packages: Vec<ClaimedKeyPackage>,
    ) {
        let user = list.genesis.user_id();
        let named = self.device.named(&user).unwrap_or_default();
        let mut foreign = false;
        let mut good = Vec::new();
        for package in packages {
            let reference = Reference {
                realm: Some(self.device.realm()),
                user: Some(user),
                device: Some(package.device),
                ..Reference::default()
            };
            let bytes = package.key_package.as_slice();
            match check_key_package(bytes, &reference, self.latest()) {
                Ok(checked)
                    if named.contains(&package.device)
                        && list.contains(&package.device, &checked.signature_key) =>
                {
                    good.push(package);
                }
                Err(MlsError::KeyPackageLifetime | MlsError::ClockWrong)
                    if self.is_clock_wrong() =>
                {
                    return self.finish_intent(group, id, Err(EngineError::ClockSkew));
                }
                // Its device was away for long, and makes others when it connects.
                Err(MlsError::KeyPackageLifetime) => {}
                _ => {
                    foreign = true;
                    let service = Some(Suspect::Service);
                    self.finding(group.id, None, FindingKind::ForeignKeyPackage, service);
                }
            }
        }
        if foreign && good.is_empty() {
            // Waiting would not help: the service lies.
            return self.finish_intent(group, id, Err(EngineError::NoKeyPackages));
        }
        if let Some(intent) = group.intents.get_mut(&id) {
            intent.packages = Some(good);
            intent.busy = false;
        }
    }
}
