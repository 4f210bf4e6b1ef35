//! What is here, and finding a group, user or document in it by what somebody typed.

use std::collections::BTreeSet;

use conclave_client::naming::{is_document_id, unreadable};
use conclave_client::proto::{DeviceId, GroupId, UserId};
use conclave_client::{
    DeviceInfo, DocumentInfo, GroupInfo, MemberInfo, Operation, Outcome, PinInfo, RekeyingInfo,
    RevocationInfo,
};

use crate::context::{Context, Reached, answer};
use crate::failure::{Exit, Failure, Result};
use crate::names::{Named, find};
use crate::output::note;

impl Context {
    /// Groups of this device.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn groups(&self) -> Result<Vec<GroupInfo>> {
        answer!(self.run(Operation::Groups).await?, Outcome::Groups(groups) => groups)
    }

    /// Documents of a group.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn documents(&self, group: GroupId) -> Result<Vec<DocumentInfo>> {
        answer!(self.run(Operation::Documents { group }).await?, Outcome::Documents(documents) => documents)
    }

    /// Known contacts.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn contacts(&self) -> Result<Vec<PinInfo>> {
        answer!(self.run(Operation::Contacts).await?, Outcome::Contacts(contacts) => contacts)
    }

    /// Members of a group.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn members(&self, group: GroupId) -> Result<Vec<MemberInfo>> {
        answer!(self.run(Operation::Members { group }).await?, Outcome::Members(members) => members)
    }

    /// The group that somebody named. Groups that this device has left are found too.
    ///
    /// # Errors
    /// None, or several.
    pub async fn find_group(&self, typed: &str) -> Result<GroupInfo> {
        let named = |info: GroupInfo| Named {
            id: info.group.to_string(),
            name: info.name.clone(),
            within: None,
            value: info,
        };
        let groups: Vec<_> = self.groups().await?.into_iter().map(named).collect();
        let found = match find("group", typed, &groups, "conclave group list") {
            // It, or its name, may just not have arrived.
            Err(failure)
                if failure.code == "cli.no_group" && self.catch_up().await? == Reached::Yes =>
            {
                let groups: Vec<_> = self.groups().await?.into_iter().map(named).collect();
                find("group", typed, &groups, "conclave group list")
            }
            other => other,
        };
        match &found {
            Ok(info) => self.touch(info.group),
            // It may have gone, and with it its name.
            Err(_) => self.touch_rescued(typed).await?,
        }
        found
    }

    /// Names groups that cannot be used as others can, with what to do. They harm no other group.
    pub fn note_ailing(&self, groups: &[GroupInfo]) {
        for info in groups.iter().filter(|info| info.active) {
            let short = info.group.short();
            let name = info.name.clone().unwrap_or_else(|| short.clone());
            let text = match (&info.frozen, &info.returning) {
                (Some(_), _) => format!(
                    "note: {name} takes no changes any more: what is in it can be read; `conclave group evidence {short}` says why, an admin founds it anew with `conclave group restart {short}`"
                ),
                (_, Some(_)) => format!(
                    "note: this device is on its way back into {name}; `conclave group list` says how far it is"
                ),
                _ if info.nameless => format!(
                    "note: the names in group {short} cannot be read: name its documents by their ids, as `conclave doc list {short}` shows them"
                ),
                _ => continue,
            };
            note(&text, self.global.json);
        }
    }

    /// The contact that somebody named.
    ///
    /// # Errors
    /// None, or several.
    pub async fn find_contact(&self, typed: &str) -> Result<UserId> {
        let named = |pin: PinInfo| Named {
            value: pin.user,
            id: pin.user.to_string(),
            name: Some(pin.name),
            within: None,
        };
        let contacts: Vec<_> = self.contacts().await?.into_iter().map(named).collect();
        find("contact", typed, &contacts, "conclave contacts").map_err(|failure| match failure.code.as_str() {
            "cli.no_contact" => {
                let hint = "take their contact text with `conclave verify TEXT` first; `conclave contacts` lists who is known";
                Failure { exit: Exit::NotVerified, ..failure }.hinted(hint)
            }
            _ => failure,
        })
    }

    /// Devices of this user.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn devices(&self) -> Result<Vec<DeviceInfo>> {
        answer!(self.run(Operation::Devices).await?, Outcome::Devices(devices) => devices)
    }

    /// Devices that were taken away on this one. Documents that are not under new keys yet are named where `due` says so.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn revocations(&self, due: bool) -> Result<Vec<RevocationInfo>> {
        answer!(self.run(Operation::Revocations { due }).await?, Outcome::Revocations(all) => all)
    }

    /// How far re-keying of a group is, and what stands in its way.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn rekeying(&self, group: GroupId) -> Result<RekeyingInfo> {
        answer!(self.run(Operation::Rekeying { group }).await?, Outcome::Rekeying(info) => info)
    }

    /// The device of this user that somebody named; also one that was taken away before, where `gone` says so.
    ///
    /// # Errors
    /// None, or several.
    pub async fn find_device(&self, typed: &str, gone: bool) -> Result<DeviceId> {
        let named = |device: DeviceId, name: Option<String>| Named {
            value: device,
            id: device.to_string(),
            name,
            within: None,
        };
        let listed = self.devices().await?.into_iter();
        let mut all: Vec<_> = listed.map(|it| named(it.device, it.name)).collect();
        if gone {
            for it in self.revocations(false).await? {
                if all.iter().all(|other| other.value != it.device) {
                    all.push(named(it.device, it.name));
                }
            }
        }
        find("device", typed, &all, "conclave device list")
    }

    /// The member that somebody named. Whoever names a contact who is no member does not mean a member who is called so too.
    ///
    /// # Errors
    /// None, or several.
    pub async fn find_member(&self, group: GroupId, typed: &str) -> Result<UserId> {
        let named = |user: UserId, name: Option<String>| Named {
            value: user,
            id: user.to_string(),
            name,
            within: None,
        };
        let members = self.members(group).await?.into_iter();
        let members: Vec<_> = members.map(|it| named(it.user, it.name)).collect();
        let is_member = |user: &UserId| members.iter().any(|it| it.value == *user);
        let mut known = members.clone();
        for pin in self.contacts().await? {
            if !is_member(&pin.user) {
                known.push(named(pin.user, Some(pin.name)));
            }
        }
        let list_with = "conclave group members GROUP";
        match find("member", typed, &known, list_with)? {
            user if is_member(&user) => Ok(user),
            _ => find("member", typed, &members, list_with),
        }
    }

    /// The document that somebody named, in all groups or in one.
    ///
    /// # Errors
    /// None, or several.
    pub async fn find_document(
        &self,
        typed: &str,
        group: Option<&str>,
    ) -> Result<(GroupId, DocumentInfo)> {
        let found = self.find_document_anywhere(typed, group).await;
        match &found {
            Ok((group, _)) => self.touch(*group),
            Err(_) => self.touch_rescued(typed).await?,
        }
        found
    }

    async fn find_document_anywhere(
        &self,
        typed: &str,
        group: Option<&str>,
    ) -> Result<(GroupId, DocumentInfo)> {
        let groups = self.groups_named(group).await?;
        let found = self.look_for_document(typed, &groups).await;
        // It may be new, also in a group that is: look again with what the service knows.
        let absent =
            |found: &Result<_>| matches!(found, Err(failure) if failure.code == "cli.no_document");
        if !absent(&found) {
            return found;
        }
        let reached = self.catch_up().await?;
        if reached == Reached::No {
            // It may be known to the service all the same.
            self.note_stale(reached);
            return found;
        }
        let groups = self.groups_named(group).await?;
        let found = self.look_for_document(typed, &groups).await;
        if absent(&found) {
            // Perhaps it is in one of these.
            self.note_ailing(&groups);
        }
        found
    }

    /// The group that somebody named, or all that this device is in.
    async fn groups_named(&self, group: Option<&str>) -> Result<Vec<GroupInfo>> {
        if let Some(group) = group {
            return Ok(vec![self.find_group(group).await?]);
        }
        let groups = self.groups().await?;
        Ok(groups.into_iter().filter(|info| info.active).collect())
    }

    async fn look_for_document(
        &self,
        typed: &str,
        groups: &[GroupInfo],
    ) -> Result<(GroupId, DocumentInfo)> {
        let mut documents = Vec::new();
        let mut looked = BTreeSet::new();
        for group in groups {
            let listed = match self.documents(group.group).await {
                Ok(listed) => listed,
                // One group in trouble is no reason not to look into the others.
                Err(_) if groups.len() > 1 => continue,
                Err(failure) => return Err(failure),
            };
            looked.insert(group.group);
            documents.extend(listed.into_iter().map(|info| Named {
                id: info.document.to_string(),
                name: info.title.clone(),
                within: Some(told(group)),
                value: (group.group, info),
            }));
        }
        let found = find("document", typed, &documents, "conclave doc list")?;
        // Whoever named a group means that one.
        if groups.len() > 1
            && !is_document_id(typed)
            && let Some(group) = unreadable(groups, |info| looked.contains(&info.group))
        {
            return Err(may_be_in(typed, &told(group)));
        }
        Ok(found)
    }
}

/// A name that may be meant for a document whose name cannot be read.
fn may_be_in(typed: &str, group: &str) -> Failure {
    let message = format!(
        "\"{typed}\" could be in {group} too, where the names of documents cannot be read now"
    );
    let hint = "say which group with --group, or type the whole id that `conclave doc list` shows with --json";
    Failure::new("cli.ambiguous_document", Exit::Usage, message, hint)
}

/// A group by its name and the beginning of its id, which nobody chose.
pub fn told(group: &GroupInfo) -> String {
    let short = group.group.short();
    match &group.name {
        Some(name) => format!("{name} {short}"),
        None => short,
    }
}
