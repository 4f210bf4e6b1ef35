//! `doc edit` and `doc append`: a document in the user's own editor, or changed by what a file holds.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use conclave_client::proto::{GroupId, Role};
use conclave_client::{DocumentInfo, Operation};
use tokio::process::Command;

use super::document::{Which, open};
use crate::args::{PASSPHRASE, TOKEN};
use crate::content::{self, Content};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::input::{self, TextEncoding, name_of};
use crate::json;
use crate::output::Shown;

mod copy;

pub use copy::sweep;
use copy::{Copy, Place};

/// Editors that are looked for where none is named, in this order.
const EDITORS: [&str; 3] = ["sensible-editor", "nano", "vi"];

/// Opens a document in an editor, and does to the document what was done to the copy.
///
/// # Errors
/// [`Failure`].
pub async fn in_editor(context: &Context, which: &Which) -> Result<Shown> {
    let editor = editor()?;
    let (group, info, before) = open_to_edit(context, which).await?;
    let document = info.document;
    // From before there is a copy: whatever asks this process to end is heard, and the copy goes first.
    let ended = crate::signals::ended();
    let copy = Copy::write(context.home.folder(), Place { group, document }, before)?;
    // The session goes on meanwhile: what others write arrives here.
    let after = match run_editor(&editor, &copy.file, ended).await {
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

fn editor() -> Result<OsString> {
    let named = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    named.or_else(|| installed(&path)).ok_or_else(|| {
        Failure::usage(
            format!(
                "no editor is set, and there is none of {}",
                EDITORS.join(", ")
            ),
            "set VISUAL or EDITOR, for example EDITOR=vim, or give the new text with --from FILE",
        )
    })
}

/// The first of the usual editors that is there.
fn installed(path: &OsStr) -> Option<OsString> {
    EDITORS
        .into_iter()
        .find(|name| std::env::split_paths(path).any(|folder| is_program(&folder.join(name))))
        .map(OsString::from)
}

#[cfg(unix)]
fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(file: &Path) -> bool {
    file.with_extension("exe").is_file()
}

async fn run_editor(editor: &OsString, file: &Path, ended: impl Future<Output = ()>) -> Result<()> {
    let failed = |what: String| {
        let what = format!("{what}; nothing was changed in the document");
        Failure::new("cli.editor", Exit::Failed, what, "check VISUAL and EDITOR")
    };
    // Ctrl-C is the editor's, which has the terminal; being ended otherwise ends the editor too.
    let mut command = command(editor, file);
    let status = tokio::select! {
        status = command.status() => status,
        () = ended => return Err(failed("this command was ended while the editor ran".to_owned())),
    };
    let status =
        status.map_err(|error| failed(format!("the editor could not be started: {error}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(format!("the editor ended with {status}")))
    }
}

/// The variable may hold options, as in `code --wait`, and quotes: the shell reads it, as git does.
#[cfg(unix)]
fn command(editor: &OsString, file: &Path) -> Command {
    let mut line = editor.clone();
    line.push(forgetful(&editor.to_string_lossy()));
    line.push(" \"$1\"");
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(line).arg("sh").arg(file);
    without_secrets(command)
}

/// Nothing that opens something is passed on: editors run other programs in turn, and keep what they were given.
fn without_secrets(mut command: Command) -> Command {
    for secret in [PASSPHRASE, TOKEN] {
        command.env_remove(secret);
    }
    command.kill_on_drop(true);
    command
}

/// Options with which an editor that can be told so leaves no copy of the text anywhere else (swap file, undo file, backup, registers), and takes no
/// orders from it. Those of the user's own that come after them are the user's.
fn forgetful(line: &str) -> &'static str {
    const VIM: &str = " -n -i NONE --cmd 'autocmd BufReadPre,BufNewFile * set nomodeline noundofile nobackup nowritebackup'";
    let program = line.split_whitespace().next().unwrap_or_default();
    let name = Path::new(program).file_name().unwrap_or_default();
    match name.to_str() {
        Some("vim" | "nvim" | "gvim" | "mvim" | "vimx") => VIM,
        _ => "",
    }
}

#[cfg(not(unix))]
fn command(editor: &OsString, file: &Path) -> Command {
    let editor = editor.to_string_lossy().into_owned();
    let mut words = editor.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).arg(file);
    without_secrets(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_something_does_not_reach_the_editor() {
        for secret in [PASSPHRASE, TOKEN] {
            let command = command(&"vi".into(), Path::new("note"));
            let mut names = command.as_std().get_envs();
            assert!(names.any(|it| it == (OsStr::new(secret), None)), "{secret}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn an_editor_that_can_is_told_to_leave_no_copies() {
        for (line, told) in [
            ("vim", true),
            ("/usr/bin/nvim -f", true),
            ("code --wait", false),
            ("nano", false),
        ] {
            let command = command(&line.into(), Path::new("note"));
            let mut arguments = command.as_std().get_args().map(OsStr::to_string_lossy);
            let says = arguments.any(|it| it.starts_with(line) && it.contains("-i NONE"));
            assert_eq!(says, told, "{line}");
        }
    }

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

    #[cfg(unix)]
    #[test]
    fn the_usual_editors_are_looked_for_in_their_order() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().as_os_str();
        assert_eq!(installed(path), None);
        for (name, mode, found) in [
            ("vi", 0o755, "vi"),
            ("nano", 0o644, "vi"),
            ("sensible-editor", 0o755, "sensible-editor"),
        ] {
            let file = folder.path().join(name);
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(installed(path).unwrap(), found);
        }
    }
}
