//! The home folder: the store, and the address of the service.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::args::Global;
use crate::failure::{Exit, Failure, Result};

/// Folder of the store within the home folder.
const STORE: &str = "store";
/// File that remembers the service's address.
const SERVER: &str = "server";
/// Longest address that is read back, in bytes.
const SERVER_MAX_BYTES: usize = 4096;

/// A home folder. It need not exist yet.
#[derive(Debug, Clone)]
pub struct Home {
    folder: PathBuf,
}

impl Home {
    /// The folder that was named, or the platform's place for application data.
    ///
    /// # Errors
    /// When none was named and the platform knows no place.
    pub fn find(global: &Global) -> Result<Self> {
        let folder = match &global.home {
            Some(folder) => Some(folder.clone()),
            None => data_folder().map(|folder| folder.join("conclave")),
        };
        let folder = folder.ok_or_else(|| {
            let message = "this system does not say where application data belongs";
            Failure::usage(message, "name a folder with --home or in CONCLAVE_HOME")
        })?;
        Ok(Self { folder })
    }

    /// The home folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Folder of the store.
    pub fn store(&self) -> PathBuf {
        self.folder.join(STORE)
    }

    /// The service's address: given now, or remembered.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn server(&self, global: &Global) -> Result<Option<String>> {
        match &global.server {
            Some(server) => Ok(Some(server.trim().to_owned())),
            None => self.remembered_server(),
        }
    }

    fn remembered_server(&self) -> Result<Option<String>> {
        let path = self.folder.join(SERVER);
        match std::fs::read_to_string(&path) {
            Ok(text) if text.len() <= SERVER_MAX_BYTES && !text.trim().is_empty() => {
                Ok(Some(text.trim().to_owned()))
            }
            Ok(_) => {
                let message = format!("{} does not hold an address", path.display());
                Err(Failure::new(
                    "cli.server_file",
                    Exit::Failed,
                    message,
                    "give the address again with --server URL",
                ))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::file("read", &path, &error)),
        }
    }

    /// Remembers an address that was given, once a service answered there.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn remember_server(&self, server: &str) -> Result<()> {
        if self.remembered_server().ok().flatten().as_deref() == Some(server) {
            return Ok(());
        }
        let path = self.folder.join(SERVER);
        std::fs::write(&path, format!("{server}\n"))
            .map_err(|error| Failure::file("write", &path, &error))
    }
}

#[cfg(target_os = "macos")]
fn data_folder() -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join("Library").join("Application Support"))
}

#[cfg(windows)]
fn data_folder() -> Option<PathBuf> {
    std::env::var_os("APPDATA").map(PathBuf::from)
}

#[cfg(not(any(target_os = "macos", windows)))]
fn data_folder() -> Option<PathBuf> {
    // The XDG base directory specification demands that relative paths be ignored.
    let named = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    named.or_else(|| std::env::home_dir().map(|home| home.join(".local").join("share")))
}
