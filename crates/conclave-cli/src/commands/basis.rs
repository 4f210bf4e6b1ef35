//! `doc status`: how a document stands here, and on whose word its older text rests.

use conclave_client::proto::GroupId;
use conclave_client::{BasisInfo, DocumentInfo, Person};

use super::document::{Which, called, open, state};
use super::{findings, pause, stuck};
use crate::context::Context;
use crate::failure::Result;
use crate::output::{Shown, columns, note};

/// Somebody, to be put into a sentence.
pub(super) fn person(person: &Person) -> String {
    match (&person.name, person.verified) {
        (Some(name), true) => name.clone(),
        (Some(name), false) => format!("{name} (not verified)"),
        (None, _) => format!(
            "user {}, who is not among your contacts",
            person.user.short()
        ),
    }
}

fn people(all: &[Person]) -> String {
    let names: Vec<String> = all.iter().map(person).collect();
    names.join(" and ")
}

/// On whose word a document's older text rests here.
fn sentence(basis: &BasisInfo) -> String {
    match basis {
        BasisInfo::Checked => "checked on this device".to_owned(),
        BasisInfo::Vouched { author, by } => format!(
            "older text is as {} gave it, and {} found it right",
            person(author),
            people(by)
        ),
        BasisInfo::Word { author } => format!(
            "older text is as {} gave it; nobody else has checked that yet",
            person(author)
        ),
        BasisInfo::Disputed {
            author,
            for_it,
            against,
        } => {
            let agree = match for_it.is_empty() {
                true => String::new(),
                false => format!(" and found right by {}", people(for_it)),
            };
            format!(
                "DISPUTED: older text is as {} gave it{agree}; {} says that it is not what was written",
                person(author),
                people(against)
            )
        }
    }
}

/// Says on whose word a document rests that was just opened, where nobody whom the user has verified found it right.
pub fn note_basis(context: &Context, info: &DocumentInfo) {
    if let Some(basis) = info.basis.as_ref().filter(|it| !it.is_trusted()) {
        let text = format!("note: {}: {}", called(info), sentence(basis));
        note(&text, context.global.json);
    }
}

/// Shows how a document stands here.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub async fn status(context: &Context, which: &Which) -> Result<Shown> {
    let (group, info) = match open(context, which).await {
        Ok((group, info, reached)) => {
            context.note_stale(reached);
            (group, info)
        }
        // That is how it stands.
        Err(failure) if failure.code == "document.held" => {
            let group = which.group.as_deref();
            context.find_document(&which.document, group).await?
        }
        Err(failure) => return Err(failure),
    };
    let mut found = findings::kept(context, Some(group), false).await?;
    found.retain(|it| it.document == Some(info.document) && !it.settled);
    let shown = |name: &str, value: String| vec![name.to_owned(), value];
    let state = state(&info);
    let mut rows = vec![
        shown("document", called(&info)),
        shown("id", info.document.to_string()),
        shown("group", name_of(context, group).await?),
        shown("kind", info.kind.clone()),
    ];
    rows.extend((!state.is_empty()).then(|| shown("state", state)));
    let paused = info.pause.as_ref();
    rows.extend(paused.map(|it| shown("paused", pause::sentence(it, &info.document))));
    rows.extend(info.basis.as_ref().map(|it| shown("content", sentence(it))));
    rows.extend(
        info.stuck
            .as_ref()
            .map(|it| shown("held", stuck::sentence(it))),
    );
    let told = found.iter().map(|it| shown("finding", it.text.clone()));
    rows.extend(told);
    let ids: Vec<String> = found.iter().map(|it| it.id.to_string()).collect();
    let mut object = serde_json::to_value(&info).unwrap_or_default();
    if let Some(fields) = object.as_object_mut() {
        fields.insert("group".to_owned(), group.to_string().into());
        fields.insert("findings".to_owned(), ids.into());
    }
    Ok(Shown::new(columns(&rows), "document", object))
}

async fn name_of(context: &Context, group: GroupId) -> Result<String> {
    let groups = context.groups().await?;
    let named = groups.iter().find(|it| it.group == group);
    Ok(named.map_or_else(|| group.to_string(), crate::lookup::told))
}

#[cfg(test)]
mod tests {
    use conclave_client::proto::UserId;

    use super::*;

    fn who(name: Option<&str>, verified: bool) -> Person {
        Person {
            user: UserId([0xab; 32]),
            name: name.map(ToOwned::to_owned),
            verified,
            is_own: false,
        }
    }

    #[test]
    fn it_is_said_who_says_what() {
        let author = || who(Some("Ana"), true);
        let word = BasisInfo::Word { author: author() };
        assert_eq!(
            sentence(&word),
            "older text is as Ana gave it; nobody else has checked that yet"
        );
        assert!(!word.is_trusted(), "told on opening, verified or not");
        let own = Person {
            is_own: true,
            ..author()
        };
        assert!(BasisInfo::Word { author: own }.is_trusted());
        let by = vec![who(Some("Ben"), false), who(None, false)];
        let vouched = BasisInfo::Vouched {
            author: author(),
            by,
        };
        assert!(!vouched.is_trusted());
        assert_eq!(
            sentence(&vouched),
            "older text is as Ana gave it, and Ben (not verified) and user abababab, who is not among your contacts found it right"
        );
        let disputed = BasisInfo::Disputed {
            author: author(),
            for_it: vec![who(Some("Ben"), true)],
            against: vec![who(Some("Cleo"), true)],
        };
        assert_eq!(
            sentence(&disputed),
            "DISPUTED: older text is as Ana gave it and found right by Ben; Cleo says that it is not what was written"
        );
        assert!(!disputed.is_trusted());
    }
}
