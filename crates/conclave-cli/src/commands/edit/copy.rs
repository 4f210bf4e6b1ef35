//! The copy of a document that an editor is given, in the clear for as long as the command lives and no longer: whatever ends it, the copy goes.
//! What was typed into one and not saved is kept apart in the store, sealed as everything there. A command that is killed outright cannot
//! clear up: the next one of the same home does.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use conclave_client::proto::{DocumentId, GroupId, RescueId};
use conclave_client::{Operation, Outcome, Typed};
use encoding_rs::WINDOWS_1252;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{like_before, parse};
use crate::content::Content;
use crate::context::{Context, answer};
use crate::failure::{Failure, Result};
use crate::input;
use crate::output::note;
use crate::rescued::short;

/// How folders with a copy in them begin, within the home folder.
const PREFIX: &str = "edit-";
/// File in such a folder that is locked while the command lives.
const LOCK: &str = ".lock";
/// File that says which document the copy is of.
const PLACE: &str = ".place";
/// Names of the copy of a text, and of what it was made from.
const TEXT: [&str; 2] = ["document.md", "before.md"];
/// The same of JSON.
const JSON: [&str; 2] = ["document.json", "before.json"];
/// How messages call what an editor saved.
const EDITED: &str = "the edited file";

/// Which document a copy is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) group: GroupId,
    pub(super) document: DocumentId,
}

/// A copy: readable by its owner only, in a folder of its own (editors leave files beside it), gone when dropped.
pub(super) struct Copy {
    folder: TempDir,
    /// Locked for as long as this process lives: what is left of a process that was killed is found by that.
    _in_use: File,
    pub(super) file: PathBuf,
    place: Place,
    before: Content,
    /// What was written into the file.
    written: Vec<u8>,
}

impl Copy {
    pub(super) fn write(home: &Path, place: Place, before: Content) -> Result<Self> {
        let [name, base] = match before {
            Content::Text(_) => TEXT,
            Content::Json(_) => JSON,
        };
        let (folder, in_use) = own_folder(home)?;
        let written = before.to_text().into_bytes();
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let write = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
            let file = folder.path().join(name);
            options
                .open(&file)
                .and_then(|mut to| to.write_all(bytes))
                .map_err(|error| Failure::file("write", &file, &error))?;
            Ok(file)
        };
        write(PLACE, &serde_json::to_vec(&place).unwrap_or_default())?;
        write(base, &written)?;
        Ok(Self {
            file: write(name, &written)?,
            folder,
            _in_use: in_use,
            place,
            before,
            written,
        })
    }

    /// What was made of it.
    pub(super) fn read(&self) -> Result<Content> {
        let bytes =
            std::fs::read(&self.file).map_err(|error| Failure::file("read", &self.file, &error))?;
        let text = input::text(bytes, None, EDITED)?;
        Ok(match parse(text, &self.before, EDITED)? {
            Content::Text(text) => Content::Text(like_before(&self.before, text)),
            json => json,
        })
    }

    /// What it was made from.
    pub(super) fn before(&self) -> &Content {
        &self.before
    }

    /// Ends it where it could not be used, and gives the failure with where to find what was typed, if anything was: that must not be lost.
    pub(super) async fn give_up(self, context: &Context, failure: Failure) -> Failure {
        let typed = match std::fs::read(&self.file) {
            Ok(bytes) if bytes != self.written => typed(&self.before, &bytes),
            _ => None,
        };
        let Some(typed) = typed else {
            return failure;
        };
        match keep_apart(context, self.place, typed).await {
            Ok(kept) => {
                // Told of it now, not again by the next command.
                context.tells_in_failure(kept);
                let short = short(&kept, &context.rescues().await.unwrap_or_default());
                failure.hinted(format!(
                    "what you typed is kept, sealed in this device's store: `conclave rescue show {short}` shows it, `conclave rescue apply {short} DOC` writes it into the document"
                ))
            }
            Err(why) => {
                let file = self.file.display().to_string();
                // It stays in a folder that only its owner may enter, until the store takes it.
                let _ = self.folder.keep();
                failure.hinted(format!(
                    "what you typed could not be put into the store ({}) and stays, unencrypted, in {file} until it can be",
                    why.message
                ))
            }
        }
    }
}

/// A new folder for a copy, and its lock. One that another command takes for left over before it is locked is made again.
fn own_folder(home: &Path) -> Result<(TempDir, File)> {
    loop {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let folder = builder
            .tempdir_in(home)
            .map_err(|error| Failure::file("write in", home, &error))?;
        let path = folder.path().join(LOCK);
        match File::create(&path).and_then(|lock| lock.lock().map(|()| lock)) {
            Ok(lock) if path.exists() => return Ok((folder, lock)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::file("lock", folder.path(), &error)),
        }
    }
}

/// What was typed, where that is more than what an editor adds by itself.
fn typed(before: &Content, bytes: &[u8]) -> Option<Typed> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        // Every byte is some character there, and marks of other encodings are minded: no word is lost.
        Err(_) => WINDOWS_1252.decode(bytes).0.into_owned(),
    };
    match before {
        Content::Text(base) => {
            let text = like_before(before, text);
            (text != *base).then(|| Typed::Text(base.clone(), text))
        }
        Content::Json(base) => match parse(text.clone(), before, EDITED) {
            Ok(Content::Json(value)) => (value != *base).then(|| Typed::Json(base.clone(), value)),
            _ => Some(Typed::Broken(text)),
        },
    }
}

/// Puts what was typed into the store.
async fn keep_apart(context: &Context, place: Place, typed: Typed) -> Result<RescueId> {
    let Place { group, document } = place;
    let operation = Operation::KeepTyped {
        group,
        document,
        typed: Box::new(typed),
    };
    let kept = answer!(context.run(operation).await?, Outcome::Rescues(kept) => kept)?;
    let kept = kept.into_iter().next();
    Ok(kept.ok_or(conclave_client::Error::UnexpectedAnswer)?.id)
}

/// Clears up what commands of this home left that were killed: copies go, and what was typed into them goes into the store. Those of commands
/// that live are left alone. The end of this command tells what was typed, as it does of all that is kept apart.
pub async fn sweep(context: &Context) {
    for entry in std::fs::read_dir(context.home.folder())
        .into_iter()
        .flatten()
        .flatten()
    {
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
        {
            continue;
        }
        let folder = entry.path();
        let Ok(_lock) = left_over(&folder) else {
            continue;
        };
        let said = match typed_in(&folder) {
            None => clear(&folder),
            Some((place, typed)) => {
                // What the document is called is known once its group was looked into.
                let _ = context.documents(place.group).await;
                context.touch(place.group);
                match keep_apart(context, place, typed).await {
                    Ok(_) => clear(&folder),
                    Err(why) => Some(format!(
                        "note: {} is what `conclave doc edit` left when it was killed, unencrypted: it could not be put into the store yet ({})",
                        folder.display(),
                        why.message
                    )),
                }
            }
        };
        if let Some(said) = said {
            note(&said, context.global.json);
        }
    }
}

/// The lock of a folder of which no command lives any more. While it is held nobody else clears up there.
fn left_over(folder: &Path) -> std::result::Result<File, TryLockError> {
    let mut options = std::fs::OpenOptions::new();
    // Where it is not there, the command was killed before it wrote anything, or is just beginning.
    let lock = options.read(true).write(true).create(true).truncate(false);
    let lock = lock.open(folder.join(LOCK)).map_err(TryLockError::Error)?;
    lock.try_lock()?;
    Ok(lock)
}

/// What is in a folder that a killed command left, if anybody typed there.
fn typed_in(folder: &Path) -> Option<(Place, Typed)> {
    let place = std::fs::read(folder.join(PLACE)).ok()?;
    let place = serde_json::from_slice(&place).ok()?;
    for (is_text, [name, base]) in [(true, TEXT), (false, JSON)] {
        let (now, base) = (folder.join(name), folder.join(base));
        let (Ok(now), Ok(base)) = (std::fs::read(now), std::fs::read_to_string(base)) else {
            continue;
        };
        if now == base.as_bytes() {
            continue;
        }
        let before = match is_text {
            true => Content::Text(base),
            false => Content::Json(serde_json::from_str(&base).ok()?),
        };
        return Some((place, typed(&before, &now)?));
    }
    None
}

/// Removes a folder; says what is to be done where that does not succeed.
fn clear(folder: &Path) -> Option<String> {
    let error = std::fs::remove_dir_all(folder).err()?;
    Some(format!(
        "note: {} holds an unencrypted copy of a document and could not be removed ({error}): remove it",
        folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE_OF: Place = Place {
        group: GroupId([1; 16]),
        document: DocumentId([2; 16]),
    };

    fn text(text: &str) -> Content {
        Content::Text(text.to_owned())
    }

    #[test]
    fn the_copy_is_private_and_goes_away() {
        let home = tempfile::tempdir().unwrap();
        let copy = Copy::write(home.path(), PLACE_OF, text("secret")).unwrap();
        let file = copy.file.clone();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        }
        assert_eq!(copy.read().unwrap(), text("secret"));
        assert!(left_over(file.parent().unwrap()).is_err(), "it is in use");
        drop(copy);
        assert!(!file.exists() && !file.parent().unwrap().exists());
    }

    #[test]
    fn what_a_killed_command_left_is_found_with_what_was_typed() {
        let home = tempfile::tempdir().unwrap();
        let cases = [
            (
                text("words"),
                "words and more",
                Some(Typed::Text("words".into(), "words and more".into())),
            ),
            // An editor ends the last line by itself.
            (text("words"), "words\n", None),
            (
                Content::Json(serde_json::json!({"a": 1})),
                "{broken",
                Some(Typed::Broken("{broken".into())),
            ),
            (
                Content::Json(serde_json::json!({"a": 1})),
                "{\"a\":1}",
                None,
            ),
        ];
        for (before, now, expected) in cases {
            let copy = Copy::write(home.path(), PLACE_OF, before).unwrap();
            let (file, folder) = (copy.file.clone(), copy.file.parent().unwrap().to_owned());
            assert_eq!(typed_in(&folder), None, "nothing was typed");
            std::fs::write(&file, now).unwrap();
            let found = typed_in(&folder);
            assert_eq!(found, expected.map(|typed| (PLACE_OF, typed)), "{now}");
        }
    }

    #[test]
    fn words_in_any_encoding_are_kept() {
        let kept = typed(&text("a"), b"caf\xe9");
        assert_eq!(kept, Some(Typed::Text("a".into(), "café".into())));
        let kept = typed(&text("a"), b"\xff\xfeb\0");
        assert_eq!(kept, Some(Typed::Text("a".into(), "b".into())));
    }
}
