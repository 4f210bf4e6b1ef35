//! What unlocks the store: a key file, or a passphrase from a file, the environment, or somebody at the terminal.

use std::path::Path;

use conclave_client::Config;
use zeroize::Zeroizing;

use crate::args::{Global, PASSPHRASE};
use crate::failure::{Exit, Failure, Result};
use crate::output::can_ask;

/// Shortest passphrase for a new store, in characters.
const NEW_PASSPHRASE_MIN_CHARS: usize = 8;
/// Longest passphrase file, in bytes.
const PASSPHRASE_FILE_MAX_BYTES: u64 = 64 * 1024;

/// Completes a configuration with the secret. For a new store (`creating`) a passphrase is asked for twice, and must not be too short.
///
/// # Errors
/// When there is no secret and nobody to ask.
pub fn unlock(config: Config, global: &Global, creating: bool) -> Result<Config> {
    if let Some(path) = &global.key_file {
        return Ok(config.key_file(path, creating));
    }
    let passphrase = passphrase(global, creating)?;
    if creating && passphrase.chars().count() < NEW_PASSPHRASE_MIN_CHARS {
        let message =
            format!("the passphrase is shorter than {NEW_PASSPHRASE_MIN_CHARS} characters");
        return Err(Failure::usage(
            message,
            "several random words are easy to remember and hard to guess",
        ));
    }
    Ok(config.passphrase(passphrase.as_str()))
}

fn passphrase(global: &Global, creating: bool) -> Result<Zeroizing<String>> {
    if let Some(path) = &global.passphrase_file {
        return from_file(path);
    }
    // An empty variable is no passphrase: scripts clear variables that way.
    if let Some(value) = std::env::var(PASSPHRASE)
        .ok()
        .map(Zeroizing::new)
        .filter(|value| !value.is_empty())
    {
        return Ok(value);
    }
    if !can_ask() {
        let message = "the store is locked and nobody can be asked for the passphrase";
        return Err(Failure::usage(
            message,
            "use --passphrase-file FILE, $CONCLAVE_PASSPHRASE or --key-file FILE",
        ));
    }
    let first = ask("Passphrase of the store: ")?;
    if creating && *ask("The same again: ")? != *first {
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
