//! The user's own editor: which it is, and how it is started.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;

use crate::args::{PASSPHRASE, TOKEN};
use crate::failure::{Exit, Failure, Result};

/// Editors that are looked for where none is named, in this order.
const EDITORS: [&str; 3] = ["sensible-editor", "nano", "vi"];

/// The editor that the user has named, or the first of the usual ones that is there.
///
/// # Errors
/// There is none.
pub(super) fn named() -> Result<OsString> {
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

/// Runs an editor on a file until it ends. Ctrl-C is the editor's, which has the terminal; being ended otherwise ends the editor too, with all that
/// its line has started.
///
/// # Errors
/// The editor could not be started or says that it failed, or this command was ended meanwhile.
pub(super) async fn run(
    editor: &OsString,
    file: &Path,
    ended: impl Future<Output = ()>,
) -> Result<()> {
    let failed = |what: String| {
        let what = format!("{what}; nothing was changed in the document");
        Failure::new("cli.editor", Exit::Failed, what, "check VISUAL and EDITOR")
    };
    let status = until_ended(command(editor, file), ended).await;
    let status =
        status.map_err(|error| failed(format!("the editor could not be started: {error}")))?;
    match status {
        None => Err(failed(
            "this command was ended while the editor ran".to_owned(),
        )),
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(format!("the editor ended with {status}"))),
    }
}

#[cfg(target_os = "linux")]
use super::job::until_ended;

/// How the editor ended; none where this command is ended first. Here only what was started itself can be ended.
#[cfg(not(target_os = "linux"))]
async fn until_ended(
    command: Command,
    ended: impl Future<Output = ()>,
) -> std::io::Result<Option<std::process::ExitStatus>> {
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    tokio::select! {
        status = command.status() => status.map(Some),
        () = ended => Ok(None),
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
            let mut names = command.get_envs();
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
            let mut arguments = command.get_args().map(OsStr::to_string_lossy);
            let says = arguments.any(|it| it.starts_with(line) && it.contains("-i NONE"));
            assert_eq!(says, told, "{line}");
        }
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
