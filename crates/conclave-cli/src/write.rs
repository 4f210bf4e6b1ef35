//! Files that are written whole or not at all.

use std::io::{Error, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// How files begin and end that are not in their place yet.
const PART: [&str; 2] = [".conclave-", ".part"];

/// Writes a file beside its place and then puts it there: whatever goes wrong, what stood there before stays whole. A file that is replaced
/// keeps its permissions. What is no ordinary file (a pipe, a device) is written to directly.
///
/// # Errors
/// It cannot be written, or is there and not to be replaced.
pub fn replace(file: &Path, bytes: &[u8], force: bool) -> Result<()> {
    place(file, bytes, force).map_err(|error| {
        let failure = Failure::file("write", file, &error);
        match error.kind() {
            ErrorKind::AlreadyExists => failure.hinted("name another file, or use --force"),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                failure.hinted("make room, or name another place; nothing was written there")
            }
            _ => failure,
        }
    })
}

fn place(file: &Path, bytes: &[u8], force: bool) -> std::io::Result<()> {
    // A link stays a link: what it leads to is replaced.
    let target = match std::fs::canonicalize(file) {
        Ok(target) => target,
        Err(error) if error.kind() == ErrorKind::NotFound => file.to_owned(),
        Err(error) => return Err(error),
    };
    let present = match std::fs::metadata(&target) {
        Ok(present) => Some(present),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if present.is_some() && !force {
        return Err(Error::from(ErrorKind::AlreadyExists));
    }
    if let Some(present) = present.as_ref().filter(|present| !present.is_file()) {
        if present.is_dir() {
            return Err(Error::from(ErrorKind::IsADirectory));
        }
        let mut device = std::fs::OpenOptions::new().write(true).open(&target)?;
        device.write_all(bytes)?;
        return device.flush();
    }
    // To see that it may be written: renaming asks the folder only.
    if present.is_some() {
        std::fs::OpenOptions::new().append(true).open(&target)?;
    }
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    sweep(&folder);
    let mut part = own_part(&folder)?;
    part.write_all(bytes)?;
    if let Some(present) = present {
        part.as_file().set_permissions(present.permissions())?;
    }
    part.as_file().sync_all()?;
    let persisted = match force {
        true => part.persist(&target),
        false => part.persist_noclobber(&target),
    };
    persisted.map(drop).map_err(|error| error.error)
}

/// A file that is to be put in its place, locked for as long as this process lives.
fn own_part(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    loop {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PART[0]).suffix(PART[1]);
        // What is written out is in the clear from here on: others on this machine get it from its owner, or not at all.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600));
        let part = builder.tempfile_in(folder)?;
        part.as_file().lock()?;
        // Unless somebody took it for left over in between.
        if part.path().exists() {
            return Ok(part);
        }
    }
}

/// Removes what processes left in a folder that were killed while they wrote there.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let is_part = name.starts_with(PART[0].as_bytes()) && name.ends_with(PART[1].as_bytes());
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_part
            && is_file
            && let Ok(file) = std::fs::OpenOptions::new().write(true).open(entry.path())
            && file.try_lock().is_ok()
        {
            // What cannot be removed is tried again by the next.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_made_replaced_on_demand_and_never_by_accident() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out.txt");
        replace(&file, b"one", false).unwrap();
        let failure = replace(&file, b"two", false).unwrap_err();
        assert!(failure.hint.unwrap().contains("--force"));
        assert_eq!(std::fs::read(&file).unwrap(), b"one");
        replace(&file, b"two", true).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert!(replace(folder.path(), b"x", true).is_err());
        assert!(replace(&folder.path().join("no/such"), b"x", true).is_err());
        assert_eq!(names(folder.path()), ["out.txt"]);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_and_links_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        symlink("real", &link).unwrap();
        replace(&link, b"new", true).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640);
        let new = folder.path().join("new");
        replace(&new, b"secret", false).unwrap();
        let mode = std::fs::metadata(&new).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "what is new is its owner's alone");
    }

    #[test]
    fn what_a_killed_process_left_half_written_goes_and_what_another_is_writing_stays() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(".conclave-left.part");
        std::fs::write(&left, "secret").unwrap();
        let other = own_part(folder.path()).unwrap();
        let mine = folder.path().join(".conclave-mine");
        std::fs::write(&mine, "no part").unwrap();
        replace(&folder.path().join("out"), b"new", false).unwrap();
        assert!(!left.exists() && other.path().exists() && mine.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_an_error() {
        let failure = replace(Path::new("/dev/full"), b"x", true).unwrap_err();
        assert!(failure.message.contains("/dev/full"));
    }
}
