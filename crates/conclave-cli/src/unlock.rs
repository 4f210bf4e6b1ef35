//! What unlocks the store: a key file, the system's keyring, or a passphrase from a file, the environment, or somebody at the terminal.

use std::path::{Path, PathBuf};

use clap::Args;
use conclave_client::Config;
use conclave_client::store::{Keyring, SecretKind, Store, StoreError, Unlock};
use zeroize::Zeroizing;

use crate::args::{Global, PASSPHRASE};
use crate::failure::{Exit, Failure, Result};
use crate::output::can_ask;

/// Shortest passphrase for a new store, in characters.
const NEW_PASSPHRASE_MIN_CHARS: usize = 8;
/// Longest passphrase file, in bytes.
const PASSPHRASE_FILE_MAX_BYTES: u64 = 64 * 1024;

/// What unlocks a store from now on.
#[derive(Debug, Args)]
pub struct NewSecret {
    /// Read the new passphrase from the first line of a file [default: ask]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_key_file", "new_keyring"])]
    new_passphrase_file: Option<PathBuf>,
    /// Unlock with a key file instead; it is made where there is none
    #[arg(long, value_name = "FILE", conflicts_with = "new_keyring")]
    new_key_file: Option<PathBuf>,
    /// Unlock with the keyring of this system instead
    #[arg(long)]
    new_keyring: bool,
}

/// Completes a configuration with the secret. For a new store (`creating`) a passphrase is asked for twice, and must not be too short.
///
/// # Errors
/// When there is no secret and nobody to ask.
pub async fn unlock(config: Config, global: &Global, creating: bool) -> Result<Config> {
    if let Some(path) = &global.key_file {
        return Ok(config.key_file(path, creating));
    }
    if global.keyring || !creating && opens_by_itself(&config, global).await? {
        return Ok(config.keyring());
    }
    let passphrase = passphrase(global, creating)?;
    if creating {
        check_length(&passphrase)?;
    }
    Ok(config.passphrase(passphrase.as_str()))
}

/// Whether a store that was made with a keyring can be opened with it, since nothing else was said.
async fn opens_by_itself(config: &Config, global: &Global) -> Result<bool> {
    if global.passphrase_file.is_some() || from_environment().is_some() {
        return Ok(false);
    }
    match Store::secret_kind(config.folder()).await {
        Ok(SecretKind::Keyring) => Ok(true),
        Ok(SecretKind::KeyFile) => Err(Failure::usage(
            "this store opens with a key file",
            "name it with --key-file FILE",
        )),
        // It is just being opened or closed by another command: asked again in a moment.
        Err(error @ StoreError::InUse { .. }) => Err(conclave_client::Error::from(error).into()),
        // Whatever is wrong with the store is told when it is opened.
        _ => Ok(false),
    }
}

/// What a person wants to unlock the store with from now on, and its name.
///
/// # Errors
/// When there is no new passphrase and nobody to ask, or it is too short.
pub fn new_secret(new: &NewSecret) -> Result<(Unlock, &'static str)> {
    if let Some(path) = &new.new_key_file {
        let path = path.clone();
        return Ok((Unlock::KeyFile { path, create: true }, "this key file"));
    }
    if new.new_keyring {
        return Ok((
            Unlock::Keyring(Keyring::system()),
            "the keyring of this system",
        ));
    }
    let passphrase = match &new.new_passphrase_file {
        Some(path) => from_file(path)?,
        None if can_ask() => ask_twice("New passphrase: ")?,
        None => {
            return Err(Failure::usage(
                "nobody can be asked for the new passphrase",
                "use --new-passphrase-file FILE, --new-key-file FILE or --new-keyring",
            ));
        }
    };
    check_length(&passphrase)?;
    Ok((
        Unlock::passphrase(passphrase.as_str()),
        "the new passphrase",
    ))
}

fn check_length(passphrase: &str) -> Result<()> {
    if passphrase.chars().count() < NEW_PASSPHRASE_MIN_CHARS {
        let message =
            format!("the passphrase is shorter than {NEW_PASSPHRASE_MIN_CHARS} characters");
        return Err(Failure::usage(
            message,
            "several random words are easy to remember and hard to guess",
        ));
    }
    Ok(())
}

/// An empty variable is no passphrase: scripts clear variables that way.
fn from_environment() -> Option<Zeroizing<String>> {
    std::env::var(PASSPHRASE)
        .ok()
        .map(Zeroizing::new)
        .filter(|value| !value.is_empty())
}

fn passphrase(global: &Global, creating: bool) -> Result<Zeroizing<String>> {
    if let Some(path) = &global.passphrase_file {
        return from_file(path);
    }
    if let Some(value) = from_environment() {
        return Ok(value);
    }
    if !can_ask() {
        let message = "the store is locked and nobody can be asked for the passphrase";
        return Err(Failure::usage(
            message,
            "use --passphrase-file FILE, $CONCLAVE_PASSPHRASE, --key-file FILE or --keyring",
        ));
    }
    match creating {
        true => ask_twice("Passphrase of the store: "),
        false => ask("Passphrase of the store: "),
    }
}

fn ask_twice(prompt: &str) -> Result<Zeroizing<String>> {
    let first = ask(prompt)?;
    if *ask("The same again: ")? != *first {
        return Err(Failure::usage("the two passphrases differ", "try again"));
    }
    Ok(first)
}

fn ask(prompt: &str) -> Result<Zeroizing<String>> {
    rpassword::prompt_password(prompt)
        .map(Zeroizing::new)
        .map_err(|error| {
            let message = format!("the passphrase could not be read: {error}");
            Failure::new(
                "cli.passphrase",
                Exit::Failed,
                message,
                "use --passphrase-file FILE",
            )
        })
}

fn from_file(path: &Path) -> Result<Zeroizing<String>> {
    let failed = |error: std::io::Error| Failure::file("read", path, &error);
    if std::fs::metadata(path).map_err(failed)?.len() > PASSPHRASE_FILE_MAX_BYTES {
        return Err(Failure::usage(
            format!("{} is too large for a passphrase", path.display()),
            "name another file",
        ));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::usage(
            format!("the first line of {} is empty", path.display()),
            "write the passphrase there",
        ));
    }
    Ok(Zeroizing::new(line.to_owned()))
}
