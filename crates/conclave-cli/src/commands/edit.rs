//! `doc edit`: a document in the user's own editor.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use conclave_client::proto::{GroupId, Role};
use conclave_client::{DocumentInfo, Operation};
use tempfile::TempDir;
use tokio::process::Command;

use super::document::{Content, Which, open, parse_json, show};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::Shown;

/// Opens a document in an editor, and does to the document what was done to the copy.
///
/// # Errors
/// [`Failure`].
pub async fn run(context: &Context, which: &Which) -> Result<Shown> {
    let editor = editor()?;
    let (group, info, reached) = open(context, which).await?;
    context.note_stale(reached);
    check_writable(context, group, &info).await?;
    let before = show(context, group, &info).await?;
    let copy = Copy::write(context.home.folder(), &before)?;
    // The session goes on meanwhile: what others write arrives here.
    run_editor(&editor, &copy.file).await?;
    let after = copy.read(&before)?;
    let after = match after {
        Ok(after) => after,
        Err(failure) => return Err(copy.keep(failure)),
    };
    let document = info.document;
    if after == before {
        return Ok(Shown::new("nothing changed", "document", document)
            .with("changed", false)
            .queued(false));
    }
    let operation = match (before, after) {
        (Content::Text(base), Content::Text(text)) => Operation::EditText {
            group,
            document,
            base: Some(base),
            text,
        },
        (Content::Json(base), Content::Json(value)) => Operation::EditJson {
            group,
            document,
            base: Some(base),
            value,
        },
        _ => return Err(conclave_client::Error::UnexpectedAnswer.into()),
    };
    if let Err(failure) = context.run(operation).await {
        return Err(copy.keep(failure));
    }
    drop(copy);
    let reached = context.sync(group, document, "saving").await?;
    Ok(Shown::new("saved", "document", document)
        .with("changed", true)
        .queued(reached.is_queued()))
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

/// The copy that is edited: readable by its owner only, in a folder of its own (editors leave files beside it), gone when dropped.
struct Copy {
    folder: TempDir,
    file: PathBuf,
}

impl Copy {
    fn write(home: &Path, content: &Content) -> Result<Self> {
        let name = match content {
            Content::Text(_) => "document.md",
            Content::Json(_) => "document.json",
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix("edit-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let folder = builder
            .tempdir_in(home)
            .map_err(|error| Failure::file("write in", home, &error))?;
        let file = folder.path().join(name);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options
            .open(&file)
            .and_then(|mut to| to.write_all(content.to_text().as_bytes()));
        written.map_err(|error| Failure::file("write", &file, &error))?;
        Ok(Self { folder, file })
    }

    /// What was made of it: an outer failure where it is gone, an inner one where it is not of its kind any more.
    fn read(&self, before: &Content) -> Result<Result<Content>> {
        let bytes =
            std::fs::read(&self.file).map_err(|error| Failure::file("read", &self.file, &error))?;
        let Ok(text) = String::from_utf8(bytes) else {
            return Ok(Err(Failure::new(
                "cli.not_text",
                Exit::Failed,
                "the edited file is not UTF-8 text",
                "",
            )));
        };
        Ok(match before {
            Content::Text(before) => Ok(Content::Text(like_before(before, text))),
            Content::Json(_) => parse_json(&text).map(Content::Json),
        })
    }

    /// Leaves the file where it is: what somebody typed must not be lost.
    fn keep(self, failure: Failure) -> Failure {
        let file = self.file;
        // It stays in a folder that only its owner may enter.
        let _ = self.folder.keep();
        failure.hinted(format!(
            "what you typed is kept, unencrypted, in {}; use it and remove it",
            file.display()
        ))
    }
}

/// Editors end the last line; that alone is no edit.
fn like_before(before: &str, mut after: String) -> String {
    if !before.ends_with('\n') && after.strip_suffix('\n') == Some(before) {
        after.pop();
    }
    after
}

fn editor() -> Result<OsString> {
    let named = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()));
    named.ok_or_else(|| {
        Failure::usage(
            "no editor is set",
            "set VISUAL or EDITOR, for example EDITOR=vim",
        )
    })
}

async fn run_editor(editor: &OsString, file: &Path) -> Result<()> {
    let failed =
        |what: String| Failure::new("cli.editor", Exit::Failed, what, "check VISUAL and EDITOR");
    let status = command(editor, file).status().await;
    let status =
        status.map_err(|error| failed(format!("the editor could not be started: {error}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(format!(
            "the editor ended with {status}; nothing was changed"
        )))
    }
}

/// The variable may hold options, as in `code --wait`, and quotes: the shell reads it, as git does.
#[cfg(unix)]
fn command(editor: &OsString, file: &Path) -> Command {
    let mut line = editor.clone();
    line.push(" \"$1\"");
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(line)
        .arg("sh")
        .arg(file)
        .kill_on_drop(true);
    command
}

#[cfg(not(unix))]
fn command(editor: &OsString, file: &Path) -> Command {
    let editor = editor.to_string_lossy().into_owned();
    let mut words = editor.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).arg(file).kill_on_drop(true);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_end_that_the_editor_added_is_no_edit() {
        assert_eq!(like_before("text", "text\n".into()), "text");
        assert_eq!(like_before("text\n", "text\n".into()), "text\n");
        assert_eq!(like_before("text", "more\n".into()), "more\n");
        assert_eq!(like_before("", "\n".into()), "");
    }

    #[test]
    fn the_copy_is_private_and_goes_away() {
        let home = tempfile::tempdir().unwrap();
        let content = Content::Text("secret".into());
        let copy = Copy::write(home.path(), &content).unwrap();
        let file = copy.file.clone();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        }
        assert_eq!(copy.read(&content).unwrap().unwrap(), content);
        drop(copy);
        assert!(!file.exists() && !file.parent().unwrap().exists());
    }

    #[test]
    fn a_copy_that_cannot_be_used_is_kept_and_named() {
        let home = tempfile::tempdir().unwrap();
        let content = Content::Json(serde_json::json!({"a": 1}));
        let copy = Copy::write(home.path(), &content).unwrap();
        std::fs::write(&copy.file, "{broken").unwrap();
        let failure = copy.read(&content).unwrap().unwrap_err();
        let file = copy.file.clone();
        let failure = copy.keep(failure);
        assert!(failure.hint.unwrap().contains(&file.display().to_string()));
        assert!(file.exists());
    }
}
