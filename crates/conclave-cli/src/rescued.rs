//! Telling of own changes that lost their place: once, by the first command that has to do with their group.

use conclave_client::naming::meant;
use conclave_client::proto::{DocumentId, GroupId, RescueId};
use conclave_client::{Operation, Outcome, RescueCause, RescueInfo};

use crate::context::{Context, answer};
use crate::failure::{Exit, Failure, Result};
use crate::output::counted;

/// Fewest digits of an id that are shown: as many as name it.
const DIGITS_MIN: usize = conclave_client::naming::ID_DIGITS_MIN;

/// The first digits of a copy's id, as many as it takes among all of them.
pub fn short(id: &RescueId, all: &[RescueInfo]) -> String {
    let full = id.to_string();
    let unclear = |digits: &str| {
        let same = all
            .iter()
            .filter(|info| info.id.to_string().starts_with(digits));
        same.count() > 1
    };
    (DIGITS_MIN..full.len())
        .filter_map(|digits| full.get(..digits))
        .find(|digits| !unclear(digits))
        .map_or_else(|| full.clone(), str::to_owned)
}

/// What a document was called.
pub fn title(info: &RescueInfo) -> String {
    match &info.title {
        _ if info.document == DocumentId::directory(&info.group) => "the titles".to_owned(),
        Some(title) => format!("“{title}”"),
        None => format!("document {}", info.document.short()),
    }
}

/// What a group was called.
pub fn group(info: &RescueInfo) -> String {
    match &info.group_name {
        Some(name) => format!("“{name}”"),
        None => format!("group {}", info.group.short()),
    }
}

/// What happened to them.
pub fn why(info: &RescueInfo) -> String {
    let by = match &info.by_name {
        Some(name) => format!(" by {name}"),
        None => String::new(),
    };
    let (title, group) = (title(info), group(info));
    match info.cause {
        RescueCause::Deleted => format!("{title} was deleted{by}"),
        RescueCause::Archived => format!("{title} was put away"),
        RescueCause::Lost => {
            format!("{title} was closed{by}, since nobody could open it any more")
        }
        RescueCause::Removed => format!("you were removed from {group}{by}"),
        RescueCause::Left => format!("you left {group}"),
        RescueCause::OtherCopy => {
            format!("this home became a device of its own; its other copy is the member of {group}")
        }
        RescueCause::NotCarried => format!(
            "the service has lost changes to {title}, and nobody here can bring them back as they were signed"
        ),
        RescueCause::NotSaved => {
            format!("what was typed into a copy of {title} in {group} was not saved")
        }
        RescueCause::RoleLost => format!("your role in {group} allows no changes any more"),
        _ => format!("some of your changes do not fit into {title} any more"),
    }
}

/// What happened, what is kept, and where it is shown.
pub fn sentence(info: &RescueInfo, all: &[RescueInfo]) -> String {
    let named = matches!(
        info.cause,
        RescueCause::Deleted | RescueCause::Archived | RescueCause::Lost | RescueCause::NotSaved
    );
    let to = if named {
        String::new()
    } else {
        format!(" to {}", title(info))
    };
    let (changes, are) = match info.changes {
        0 | 1 => ("unsent change".to_owned(), "is"),
        count => (counted(count, "unsent change"), "are"),
    };
    format!(
        "{}; your {changes}{to} {are} kept: `conclave rescue show {}`",
        why(info),
        short(&info.id, all)
    )
}

impl Context {
    /// Copies of own changes that lost their place.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn rescues(&self) -> Result<Vec<RescueInfo>> {
        answer!(self.run(Operation::Rescues).await?, Outcome::Rescues(all) => all)
    }

    /// Names a group that is only known by what was kept of it.
    pub async fn touch_rescued(&self, typed: &str) -> Result<()> {
        let all = self.rescues().await?;
        let document = |info: &RescueInfo| info.document.to_string();
        let group = |info: &RescueInfo| info.group.to_string();
        let mut named = meant(typed, &all, document, |info| info.title.as_deref());
        named.extend(meant(typed, &all, group, |info| info.group_name.as_deref()));
        named.iter().for_each(|info| self.touch(info.group));
        Ok(())
    }

    /// Sentences of which the user was not told yet, nor is by this command's result, in groups that this command had to do with.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn untold_rescues(&self) -> Result<Option<(Vec<String>, Vec<RescueId>)>> {
        let all = self.rescues().await?;
        let told = self.told_by_result();
        let untold: Vec<&RescueInfo> = all
            .iter()
            .filter(|info| {
                !info.told
                    && !told.rescues.contains(&info.id)
                    && !told.in_failure.contains(&info.id)
                    && self.is_touched(info.group)
            })
            .collect();
        let sentences = untold.iter().map(|info| sentence(info, &all)).collect();
        let ids = untold.iter().map(|info| info.id).collect();
        Ok((!untold.is_empty()).then_some((sentences, ids)))
    }

    /// This command has to do with all groups.
    pub fn touch_all(&self) {
        self.touched_all
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether this command has to do with a group.
    pub fn is_touched(&self, group: GroupId) -> bool {
        self.touched_all.load(std::sync::atomic::Ordering::Relaxed)
            || self.touched().contains(&group)
    }
}

/// What a command that met such changes fails with, where it did all it should besides.
pub fn failure(sentences: &[String]) -> Failure {
    Failure {
        code: "engine.rescued".to_owned(),
        message: sentences.join("\n"),
        hint: None,
        detail: None,
        until: None,
        exit: Exit::Rescued,
    }
}
