//! `doc edit` and `doc append`: a document in the user's own editor, or changed by what a file holds.

use std::path::Path;

use conclave_client::proto::{GroupId, Role};
use conclave_client::{DocumentInfo, Operation};

use super::document::{Which, open};
use crate::content::{self, Content};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::input::{self, TextEncoding, name_of};
use crate::json;
use crate::output::Shown;

mod copy;
mod editor;
#[cfg(target_os = "linux")]
mod job;

pub use copy::sweep;
use copy::{Copy, Place};

/// Opens a document in an editor, and does to the document what was done to the copy.
///
/// # Errors
/// [`Failure`].
pub async fn in_editor(context: &Context, which: &Which) -> Result<Shown> {
    let editor = editor::named()?;
    let (group, info, before) = open_to_edit(context, which).await?;
    let document = info.document;
    // From before there is a copy: whatever asks this process to end is heard, and the copy goes first.
    let ended = crate::signals::ended();
    let copy = Copy::write(context.home.folder(), Place { group, document }, before)?;
    // The session goes on meanwhile: what others write arrives here.
    let after = match editor::run(&editor, &copy.file, ended).await {
        Ok(()) => copy.read(),
        Err(failure) => Err(failure),
    };
    let after = match after {
        Ok(after) => after,
        Err(failure) => return Err(copy.give_up(context, failure).await),
    };
    let change = Change {
        base: Some(copy.before().clone()),
        after,
    };
    let changed = match change.apply(context, group, &info).await {
        Ok(changed) => changed,
        Err(failure) => return Err(copy.give_up(context, failure).await),
    };
    drop(copy);
    saved(context, group, &info, changed).await
}

/// Makes a document what a file holds, by as small a change as there is; with what the file was made from, does to the document what was done
/// to that.
///
/// # Errors
/// [`Failure`].
pub async fn from_file(
    context: &Context,
    which: &Which,
    file: &Path,
    base: Option<&Path>,
    encoding: Option<TextEncoding>,
) -> Result<Shown> {
    let read = |file: &Path| {
        let name = name_of(file);
        input::text(input::read(file)?, encoding, &name).map(|text| (text, name))
    };
    let (text, name) = read(file)?;
    let base = base.map(read).transpose()?;
    let (group, info, before) = open_to_edit(context, which).await?;
    let base = base
        .map(|(text, name)| parse(text, &before, &name))
        .transpose()?;
    let mut after = parse(text, &before, &name)?;
    if let (Some(base), Content::Text(text)) = (&base, &mut after) {
        *text = like_before(base, std::mem::take(text));
    }
    let changed = after != before && {
        let change = Change { base, after };
        change.apply(context, group, &info).await?
    };
    saved(context, group, &info, changed).await
}

/// Adds what a file holds to the end of a text.
///
/// # Errors
/// [`Failure`].
pub async fn append(
    context: &Context,
    which: &Which,
    file: &Path,
    encoding: Option<TextEncoding>,
) -> Result<Shown> {
    let text = input::text(input::read(file)?, encoding, &name_of(file))?;
    let (group, info, before) = open_to_edit(context, which).await?;
    if matches!(before, Content::Json(_)) {
        return Err(Failure::new(
            "cli.not_a_text",
            Exit::Failed,
            "this document is JSON: it has no end to which a text could be added",
            "`conclave doc edit DOC --from FILE` takes the new JSON as a whole",
        ));
    }
    let changed = !text.is_empty();
    if changed {
        let document = info.document;
        let operation = Operation::Append {
            group,
            document,
            text,
        };
        context.run(operation).await?;
    }
    saved(context, group, &info, changed).await
}

/// Finds a document that may be edited, and reads it.
async fn open_to_edit(
    context: &Context,
    which: &Which,
) -> Result<(GroupId, DocumentInfo, Content)> {
    let (group, info, reached) = open(context, which).await?;
    context.note_stale(reached);
    check_writable(context, group, &info).await?;
    let reading = content::read(context, group, &info).await?;
    reading.refuse_edit()?;
    reading.note_hidden(context.global.json);
    Ok((group, info, reading.content))
}

/// What becomes of a document.
struct Change {
    /// What it was made from; none where it is the new whole.
    base: Option<Content>,
    after: Content,
}

impl Change {
    /// Whether there was anything to do.
    async fn apply(self, context: &Context, group: GroupId, info: &DocumentInfo) -> Result<bool> {
        let document = info.document;
        let operation = match (self.base, self.after) {
            (Some(base), after) if base == after => return Ok(false),
            (None, Content::Text(text)) => Operation::EditText {
                group,
                document,
                base: None,
                text,
            },
            (None, Content::Json(value)) => Operation::EditJson {
                group,
                document,
                base: None,
                value,
            },
            (Some(Content::Text(base)), Content::Text(text)) => Operation::EditText {
                group,
                document,
                base: Some(base),
                text,
            },
            (Some(Content::Json(base)), Content::Json(value)) => Operation::EditJson {
                group,
                document,
                base: Some(base),
                value,
            },
            _ => return Err(conclave_client::Error::UnexpectedAnswer.into()),
        };
        context.run(operation).await?;
        Ok(true)
    }
}

async fn saved(
    context: &Context,
    group: GroupId,
    info: &DocumentInfo,
    changed: bool,
) -> Result<Shown> {
    let document = info.document;
    let text = if changed { "saved" } else { "nothing changed" };
    let target = context.document_target(group, info).await?;
    let shown = Shown::new(text, "changed", changed).to(target);
    if !changed {
        return Ok(shown.queued(false));
    }
    let reached = context.sync(group, document, "saving").await?;
    Ok(shown.queued(reached.is_queued()))
}

/// What a text is, for a document that shows `before`.
fn parse(text: String, before: &Content, name: &str) -> Result<Content> {
    match before {
        Content::Text(_) => Ok(Content::Text(text)),
        Content::Json(_) => json::read(&text, name).map(Content::Json),
    }
}

/// Nobody shall type what is refused afterwards.
async fn check_writable(context: &Context, group: GroupId, info: &DocumentInfo) -> Result<()> {
    if info.closed.is_some() {
        let hint =
            "print it with `conclave doc cat`, or create a new one with `conclave doc create`";
        return Err(Failure::new(
            "cli.document_closed",
            Exit::Refused,
            "the document was put away or deleted",
            hint,
        ));
    }
    let members = context.members(group).await?;
    if members
        .iter()
        .any(|member| member.this && member.role < Role::Editor)
    {
        let hint = "ask an admin or owner of the group for the role of editor";
        return Err(Failure::new(
            "engine.forbidden",
            Exit::Refused,
            "your role in the group is viewer: you can read",
            hint,
        ));
    }
    Ok(())
}

/// Editors end the last line; that alone is no edit.
fn like_before(before: &Content, mut after: String) -> String {
    if let Content::Text(before) = before
        && !before.ends_with('\n')
        && after.strip_suffix('\n') == Some(before)
    {
        after.pop();
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(before: &str, after: &str) -> String {
        like_before(&Content::Text(before.into()), after.into())
    }

    #[test]
    fn a_line_end_that_the_editor_added_is_no_edit() {
        assert_eq!(after("text", "text\n"), "text");
        assert_eq!(after("text\n", "text\n"), "text\n");
        assert_eq!(after("text", "more\n"), "more\n");
        assert_eq!(after("", "\n"), "");
    }
}
