//! One recorded session: three people, one service, every frame in the order in which the service took and sent it, and the secrets that a
//! reader needs to follow it. The keys are thrown away: they were made for this and protect nothing.
//!
//! MLS draws randomness of its own, so a recording is not the same twice. It is made again where the wire has changed; a test plays it.

mod documents;
mod logs;
mod play;
mod secrets;
mod story;
mod welcome;
mod world;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub use play::play;
pub use story::record;

/// Name of the file.
pub const FILE: &str = "session.json";

/// Bytes, as text in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex(pub Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::value::hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = super::value::unhex(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

impl Hex {
    fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(bytes.as_ref().to_vec())
    }

    /// So many bytes.
    fn exactly<const N: usize>(&self) -> Result<[u8; N]> {
        let bytes = <[u8; N]>::try_from(self.0.as_slice());
        bytes.ok().with_context(|| format!("not {N} bytes"))
    }
}

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    /// What it is.
    pub about: String,
    /// The service.
    pub service: ServiceKeys,
    /// The people, each with one device.
    pub people: Vec<Person>,
    /// Key packages that somebody was added with.
    pub key_packages: Vec<Package>,
    /// The group.
    pub group: Hex,
    /// Its epochs.
    pub epochs: Vec<Epoch>,
    /// Its documents.
    pub documents: Vec<Content>,
    /// What happened, in order.
    pub frames: Vec<Event>,
}

/// The service.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServiceKeys {
    /// Origin that was dialled.
    pub origin: String,
    /// Seed of the service's key.
    pub seed: Hex,
    /// The public key.
    pub key: Hex,
}

/// A user with one device.
#[derive(Debug, Serialize, Deserialize)]
pub struct Person {
    /// A name for this file.
    pub name: String,
    /// The user's id.
    pub user: Hex,
    /// Seed of the user key.
    pub user_seed: Hex,
    /// The device's id.
    pub device: Hex,
    /// Seed of the device key.
    pub device_seed: Hex,
}

/// Private halves of a key package.
#[derive(Debug, Serialize, Deserialize)]
pub struct Package {
    /// Whose.
    pub of: String,
    /// The package, as an `MLSMessage`.
    pub key_package: Hex,
    /// Private key of its `init_key`.
    pub init_key: Hex,
    /// Private key of its leaf's `encryption_key`.
    pub encryption_key: Hex,
}

/// Secrets of an epoch.
#[derive(Debug, Serialize, Deserialize)]
pub struct Epoch {
    /// Its number.
    pub epoch: u64,
    /// MLS's epoch authenticator.
    pub epoch_authenticator: Hex,
    /// The group's code, as people compare it.
    pub group_code: String,
    /// Root of the documents' keys.
    pub epoch_root: Hex,
    /// Key of root wraps.
    pub wrap_key: Hex,
    /// Root of presence.
    pub presence_root: Hex,
}

/// A document.
#[derive(Debug, Serialize, Deserialize)]
pub struct Content {
    /// What it is, for this file.
    pub what: String,
    /// Its id.
    pub document: Hex,
    /// Kind of its CRDT.
    pub crdt: u8,
    /// Its keys, by epoch.
    pub keys: Vec<Keys>,
    /// Its log.
    pub records: Vec<Entry>,
    /// Root of the log.
    pub root: Hex,
    /// What a reader has in the end: the text.
    pub text: String,
    /// And the JSON.
    pub json: serde_json::Value,
}

/// Keys of a document in an epoch.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Keys {
    /// The epoch.
    pub epoch: u64,
    /// Its content key.
    pub content_key: Hex,
    /// Its commitment key.
    pub commit_key: Hex,
}

/// A record.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub seq: u64,
    /// Who wrote it.
    pub by: String,
    /// Its epoch.
    pub epoch: u64,
    /// What it is.
    pub kind: String,
    /// Its id and leaf.
    pub leaf: Hex,
    /// What it seals.
    pub payload: Hex,
}

/// A frame, or what somebody does.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// From here on.
    Step {
        /// What somebody does.
        step: String,
    },
    /// A frame.
    Frame(Frame),
}

/// A frame.
#[derive(Debug, Serialize, Deserialize)]
pub struct Frame {
    /// When the service took or sent it.
    pub at: u64,
    /// Whose connection.
    pub who: String,
    /// `up`, to the service, or `down`.
    pub way: Way,
    /// What it is.
    pub what: String,
    /// Its bytes.
    pub frame: Hex,
}

/// Which way a frame went.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// To the service.
    Up,
    /// From it.
    Down,
}

impl Session {
    /// As it is written.
    ///
    /// # Errors
    /// Where it cannot be.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Reads it.
    ///
    /// # Errors
    /// Where it is no session.
    pub fn from_json(text: &str) -> Result<Self> {
        Ok(serde_json::from_str(text)?)
    }
}
