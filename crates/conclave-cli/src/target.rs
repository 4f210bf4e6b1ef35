//! What a command has written to, as its result names it. Names can be of several things, and somebody else may have chosen them: what was
//! written is said with the ids, so that a person sees that it is what was meant.

use conclave_client::proto::{GroupId, UserId};
use conclave_client::{DocumentInfo, GroupInfo};
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::failure::Result;
use crate::output::Shown;

/// Something that was written to.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// What it is, its name, the beginning of its id.
    parts: Vec<(String, Option<String>, String)>,
    fields: Map<String, Value>,
}

impl Target {
    /// As a question names it: what others chose stands in quotes there, so that it does not read as part of the question.
    pub fn named(&self) -> String {
        self.told(|name| format!("“{name}”"))
    }

    fn told(&self, quoted: impl Fn(&str) -> String) -> String {
        let told = |(what, name, short): &(String, Option<String>, String)| match name {
            Some(name) => format!("{what} {} {short}", quoted(name)),
            None => format!("{what} {short}"),
        };
        self.parts.iter().map(told).collect::<Vec<_>>().join(", ")
    }

    fn with(mut self, what: &str, name: Option<&str>, short: &str, id: impl Into<Value>) -> Self {
        let name = name.map(str::to_owned);
        self.parts
            .push((what.to_owned(), name.clone(), short.to_owned()));
        self.fields.insert(what.to_owned(), id.into());
        let field = if what == "document" {
            "title".to_owned()
        } else {
            format!("{what}_name")
        };
        self.fields.insert(field, json!(name));
        self
    }

    /// A group.
    pub fn group(info: &GroupInfo) -> Self {
        let id = info.group;
        Self::default().with("group", info.name.as_deref(), &id.short(), id.to_string())
    }

    /// A user in it.
    #[must_use]
    pub fn and_user(self, user: &UserId, name: Option<&str>) -> Self {
        self.with("user", name, &user.short(), user.to_string())
    }

    /// A user, whatever group they are in.
    pub fn user(user: &UserId, name: &str) -> Self {
        Self::default().and_user(user, Some(name))
    }
}

impl Context {
    /// A group as it is now.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn group_target(&self, group: GroupId) -> Result<Target> {
        let groups = self.groups().await?;
        let info = groups.iter().find(|info| info.group == group);
        Ok(info.map_or_else(
            || Target::default().with("group", None, &group.short(), group.to_string()),
            Target::group,
        ))
    }

    /// A document and its group.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn document_target(&self, group: GroupId, info: &DocumentInfo) -> Result<Target> {
        let of = self.group_target(group).await?;
        let id = info.document;
        let mut target = Target::default().with(
            "document",
            info.title.as_deref(),
            &id.short(),
            id.to_string(),
        );
        target.parts.extend(of.parts);
        target.fields.extend(of.fields);
        Ok(target)
    }

    /// A user in a group, by what they are called here.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn member_target(&self, group: GroupId, user: UserId) -> Result<Target> {
        let contacts = self.contacts().await?;
        let pin = contacts.iter().find(|pin| pin.user == user);
        let target = self.group_target(group).await?;
        Ok(target.and_user(&user, pin.map(|pin| pin.name.as_str())))
    }
}

impl Shown {
    /// Says what was written to.
    #[must_use]
    pub fn to(mut self, target: Target) -> Self {
        self = self.line(&format!("  {}", target.told(str::to_owned)));
        for (field, value) in target.fields {
            self = self.with(&field, value);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use conclave_client::proto::DocumentId;

    use super::*;

    #[test]
    fn a_target_is_named_with_its_id_in_both_forms() {
        let (group, user) = (GroupId([1; 16]), UserId([2; 32]));
        let target = Target::default()
            .with(
                "document",
                Some("note"),
                "03030303",
                DocumentId([3; 16]).to_string(),
            )
            .with("group", None, &group.short(), group.to_string())
            .and_user(&user, Some("Ben"));
        assert_eq!(
            target.told(str::to_owned),
            "document note 03030303, group 01010101, user Ben 02020202"
        );
        assert_eq!(
            target.named(),
            "document “note” 03030303, group 01010101, user “Ben” 02020202"
        );
        assert_eq!(target.fields["title"], "note");
        assert_eq!(target.fields["group_name"], Value::Null);
        assert_eq!(target.fields["user"], user.to_string());
        assert_eq!(target.fields["user_name"], "Ben");
    }
}
