//! `doc edit` and `doc append`: a document in the user's own editor, or changed by what a file holds.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use conclave_client::proto::{GroupId, Role};
use conclave_client::{DocumentInfo, Operation};
use tempfile::TempDir;
use tokio::process::Command;

use super::document::{Which, open};
use crate::args::PASSPHRASE;
use crate::content::{self, Content};
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::input::{self, TextEncoding, name_of};
use crate::json;
use crate::output::{Shown, note};

/// Editors that are looked for where none is named, in this order.
const EDITORS: [&str; 3] = ["sensible-editor", "nano", "vi"];
/// How folders with a copy in them begin, within the home folder.
const PREFIX: &str = "edit-";
/// File in such a folder that is locked while the command lives.
const LOCK: &str = ".lock";
/// Names of the copy of a text, and of what it was made from.
const TEXT: [&str; 2] = ["document.md", "before.md"];
/// The same of JSON.
const JSON: [&str; 2] = ["document.json", "before.json"];

/// Opens a document in an editor, and does to the document what was done to the copy.
///
/// # Errors
/// [`Failure`].
pub async fn in_editor(context: &Context, which: &Which) -> Result<Shown> {
    let editor = editor()?;
    for (_, left) in left_over(context.home.folder()) {
        note(&format!("note: {left}"), context.global.json);
    }
    let (group, info, before) = open_to_edit(context, which).await?;
    let copy = Copy::write(context.home.folder(), &before)?;
    // The session goes on meanwhile: what others write arrives here.
    if let Err(failure) = run_editor(&editor, &copy.file).await {
        return Err(copy.keep_if_touched(failure));
    }
    let after = match copy.read(&before) {
        Ok(after) => after,
        Err(failure) => return Err(copy.keep(failure)),
    };
    let change = Change {
        base: Some(before),
        after,
    };
    let changed = match change.apply(context, group, &info).await {
        Ok(changed) => changed,
        Err(failure) => return Err(copy.keep(failure)),
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
    let shown = Shown::new(text, "document", document).with("changed", changed);
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

/// The copy that is edited: readable by its owner only, in a folder of its own (editors leave files beside it), gone when dropped.
struct Copy {
    folder: TempDir,
    /// Locked for as long as this process lives: what is left of a process that was killed is found by that.
    _in_use: File,
    file: PathBuf,
    /// What the file was made from, for whoever comes after this process.
    base: PathBuf,
    /// What was written into both.
    written: Vec<u8>,
}

impl Copy {
    fn write(home: &Path, content: &Content) -> Result<Self> {
        let [name, base] = match content {
            Content::Text(_) => TEXT,
            Content::Json(_) => JSON,
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let folder = builder
            .tempdir_in(home)
            .map_err(|error| Failure::file("write in", home, &error))?;
        let in_use =
            in_use(folder.path()).map_err(|error| Failure::file("lock", folder.path(), &error))?;
        let written = content.to_text().into_bytes();
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let write = |name: &str| -> Result<PathBuf> {
            let file = folder.path().join(name);
            options
                .open(&file)
                .and_then(|mut to| to.write_all(&written))
                .map_err(|error| Failure::file("write", &file, &error))?;
            Ok(file)
        };
        Ok(Self {
            file: write(name)?,
            base: write(base)?,
            folder,
            _in_use: in_use,
            written,
        })
    }

    /// What was made of it.
    fn read(&self, before: &Content) -> Result<Content> {
        let bytes =
            std::fs::read(&self.file).map_err(|error| Failure::file("read", &self.file, &error))?;
        let text = input::text(bytes, None, "the edited file")?;
        Ok(match parse(text, before, "the edited file")? {
            Content::Text(text) => Content::Text(like_before(before, text)),
            json => json,
        })
    }

    /// Leaves the file where it is: what somebody typed must not be lost.
    fn keep(self, failure: Failure) -> Failure {
        let way = way_back(&self.file, &self.base);
        // It stays in a folder that only its owner may enter.
        let _ = self.folder.keep();
        failure.hinted(format!(
            "what you typed is kept, unencrypted, in {}; {way}",
            self.file.display()
        ))
    }

    /// The same, unless it is as it was written: then nothing was typed.
    fn keep_if_touched(self, failure: Failure) -> Failure {
        match std::fs::read(&self.file) {
            Ok(bytes) if bytes == self.written => failure,
            _ => self.keep(failure),
        }
    }
}

/// A file that is locked until it is dropped or its process ends, however that comes.
fn in_use(folder: &Path) -> std::io::Result<File> {
    let lock = File::create(folder.join(LOCK))?;
    lock.try_lock()?;
    Ok(lock)
}

/// How to bring into its document what was typed, without undoing what others have written since.
fn way_back(file: &Path, base: &Path) -> String {
    let (file, base) = (file.display(), base.display());
    format!(
        "`conclave doc edit DOC --from {file} --base {base}` brings it into the document; then remove that folder"
    )
}

/// What an ended command left in this home: copies, in which may be what somebody typed, unencrypted. For each its file, and what to do.
pub fn left_over(home: &Path) -> Vec<(PathBuf, String)> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir(home).into_iter().flatten().flatten() {
        let folder = entry.path();
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) || in_use(&folder).is_err() {
            continue;
        }
        for [name, base] in [TEXT, JSON] {
            let (file, base) = (folder.join(name), folder.join(base));
            if file.is_file() {
                let text = format!(
                    "{} is what `conclave doc edit` left when it was ended, unencrypted, and perhaps holds what you typed; {}.",
                    file.display(),
                    way_back(&file, &base)
                );
                left.push((file, text));
            }
        }
    }
    left.sort();
    left
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

async fn run_editor(editor: &OsString, file: &Path) -> Result<()> {
    let failed = |what: String| {
        let what = format!("{what}; nothing was changed in the document");
        Failure::new("cli.editor", Exit::Failed, what, "check VISUAL and EDITOR")
    };
    // Ctrl-C is the editor's, which has the terminal; being ended otherwise ends the editor too.
    let ended = crate::signals::ended();
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
    line.push(" \"$1\"");
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(line)
        .arg("sh")
        .arg(file)
        .env_remove(PASSPHRASE)
        .kill_on_drop(true);
    command
}

#[cfg(not(unix))]
fn command(editor: &OsString, file: &Path) -> Command {
    let editor = editor.to_string_lossy().into_owned();
    let mut words = editor.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command
        .args(words)
        .arg(file)
        .env_remove(PASSPHRASE)
        .kill_on_drop(true);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Editors run other programs in turn, and keep what they were given.
    #[test]
    fn the_passphrase_does_not_reach_the_editor() {
        let command = command(&"vi".into(), Path::new("note"));
        let mut names = command.as_std().get_envs();
        assert!(names.any(|it| it == (OsStr::new(PASSPHRASE), None)));
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
        assert_eq!(copy.read(&content).unwrap(), content);
        drop(copy);
        assert!(!file.exists() && !file.parent().unwrap().exists());
    }

    fn failure() -> Failure {
        Failure::usage("what", "hint")
    }

    #[test]
    fn what_an_ended_command_left_is_found_and_what_is_in_use_is_not() {
        let home = tempfile::tempdir().unwrap();
        assert!(left_over(home.path()).is_empty());
        let copy = Copy::write(home.path(), &Content::Text("words".into())).unwrap();
        let file = copy.file.clone();
        assert!(left_over(home.path()).is_empty());
        copy.keep(failure());
        let left = left_over(home.path());
        assert_eq!((left.len(), &left[0].0), (1, &file));
        assert!(left[0].1.contains("--base"));
    }

    #[test]
    fn a_copy_that_cannot_be_used_is_kept_and_named() {
        let home = tempfile::tempdir().unwrap();
        let content = Content::Json(serde_json::json!({"a": 1}));
        let copy = Copy::write(home.path(), &content).unwrap();
        std::fs::write(&copy.file, "{broken").unwrap();
        let broken = copy.read(&content).unwrap_err();
        let file = copy.file.clone();
        let failure = copy.keep(broken);
        assert!(failure.hint.unwrap().contains(&file.display().to_string()));
        assert!(file.exists());
    }

    #[test]
    fn what_was_typed_is_kept_when_the_editor_fails_and_nothing_else_is() {
        let home = tempfile::tempdir().unwrap();
        let content = Content::Text("secret".into());
        let untouched = Copy::write(home.path(), &content).unwrap();
        let file = untouched.file.clone();
        assert_eq!(untouched.keep_if_touched(failure()).hint.unwrap(), "hint");
        assert!(!file.exists());

        let typed = Copy::write(home.path(), &content).unwrap();
        let file = typed.file.clone();
        std::fs::write(&file, "secret and more").unwrap();
        assert!(
            typed
                .keep_if_touched(failure())
                .hint
                .unwrap()
                .contains("is kept")
        );
        assert!(file.exists());
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
