//! What is here, and finding a group, user or document in it by what somebody typed.

use conclave_client::proto::{GroupId, UserId};
use conclave_client::{DocumentInfo, GroupInfo, MemberInfo, Operation, Outcome, PinInfo};

use crate::context::{Context, Reached, answer};
use crate::failure::{Exit, Failure, Result};
use crate::names::{Named, find};

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
            value: info,
        };
        let groups: Vec<_> = self.groups().await?.into_iter().map(named).collect();
        let found = match find("group", typed, &groups, "conclave group list") {
            // The name may just not have arrived.
            Err(failure)
                if failure.code == "cli.no_group" && self.refresh_unnamed(&groups).await? =>
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

    async fn refresh_unnamed(&self, groups: &[Named<GroupInfo>]) -> Result<bool> {
        let mut any = false;
        for info in groups
            .iter()
            .map(|named| &named.value)
            .filter(|info| info.active && info.name.is_none())
        {
            any |= self.refresh(info.group).await? == Reached::Yes;
        }
        Ok(any)
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

    /// The member that somebody named.
    ///
    /// # Errors
    /// None, or several.
    pub async fn find_member(&self, group: GroupId, typed: &str) -> Result<UserId> {
        let named = |member: MemberInfo| Named {
            value: member.user,
            id: member.user.to_string(),
            name: member.name,
        };
        let members: Vec<_> = self.members(group).await?.into_iter().map(named).collect();
        find("member", typed, &members, "conclave group members GROUP")
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
        let groups = match group {
            Some(group) => vec![self.find_group(group).await?],
            None => self
                .groups()
                .await?
                .into_iter()
                .filter(|info| info.active)
                .collect(),
        };
        let mut found = self.look_for_document(typed, &groups).await;
        if found
            .as_ref()
            .is_err_and(|failure| failure.code == "cli.no_document")
        {
            // It may be new: look again with what the service knows.
            for info in &groups {
                self.refresh(info.group).await?;
            }
            found = self.look_for_document(typed, &groups).await;
        }
        match &found {
            Ok((group, _)) => self.touch(*group),
            Err(_) => self.touch_rescued(typed).await?,
        }
        found
    }

    async fn look_for_document(
        &self,
        typed: &str,
        groups: &[GroupInfo],
    ) -> Result<(GroupId, DocumentInfo)> {
        let mut documents = Vec::new();
        for group in groups {
            documents.extend(
                self.documents(group.group)
                    .await?
                    .into_iter()
                    .map(|info| Named {
                        id: info.document.to_string(),
                        name: info.title.clone(),
                        value: (group.group, info),
                    }),
            );
        }
        find("document", typed, &documents, "conclave doc list")
    }
}
