//! Secrets out of devices' rows, as they come and before they go.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use ciborium::Value;
use conclave_identity::group_code;
use conclave_mls::{ClientGroup, EpochSecrets};
use conclave_proto::GroupId;
use conclave_testkit::rows::MemoryRows;
use serde::Deserialize;

use super::{Epoch, Hex, Package};

// First bytes of keys: rows of the device, of its key packages, of a group; and a group's tables.
const DEVICE_KEYS: &[u8] = b"\x01keys";
const KEY_PACKAGES: &[u8] = &[2];
const GROUP: u8 = 4;
const MLS: u8 = b'm';
const SECRETS: u8 = b's';

/// Where the public `init_key` lies in an `MLSMessage` with a KeyPackage (RFC 9420 §6, §10): behind four integers and a length.
const INIT_KEY: std::ops::Range<usize> = 9..41;

/// What was seen.
#[derive(Default)]
pub(super) struct Secrets {
    pub(super) seeds: BTreeMap<String, Seeds>,
    pub(super) epochs: BTreeMap<u64, Epoch>,
    /// By the public `init_key`: whose, and the private halves.
    packages: BTreeMap<Vec<u8>, (String, Hex, Hex)>,
}

/// Keys of a device, as it keeps them.
#[derive(Deserialize)]
pub(super) struct Seeds {
    pub(super) device_key: [u8; 32],
    pub(super) user_key: Option<[u8; 32]>,
}

impl Secrets {
    /// Looks at a device's rows.
    pub(super) fn look(&mut self, name: &str, rows: &MemoryRows) -> Result<()> {
        if let Some(row) = rows.0.get(DEVICE_KEYS) {
            let seeds = ciborium::from_reader(row.as_slice())?;
            self.seeds.insert(name.to_owned(), seeds);
        }
        for (_, row) in rows.read(KEY_PACKAGES) {
            let bundle: Value = ciborium::from_reader(row.as_slice())?;
            let bytes = |name: &str| find(&bundle, name).and_then(bytes_of).context("no key");
            let (init, encryption) = (bytes("private_init_key")?, bytes("private_encryption_key")?);
            let private = (name.to_owned(), Hex(init), Hex(encryption));
            self.packages.insert(bytes("init_key")?, private);
        }
        for (key, row) in rows.read(&[GROUP]) {
            let Some((group, SECRETS)) = table(&key) else {
                continue;
            };
            let secrets: EpochSecrets = ciborium::from_reader(row.as_slice())?;
            if !self.epochs.contains_key(&secrets.epoch) {
                let epoch = epoch(rows, group, &secrets)?;
                self.epochs
                    .extend(epoch.map(|epoch| (secrets.epoch, epoch)));
            }
        }
        Ok(())
    }

    /// The private halves of a key package, if they were here.
    pub(super) fn package(&self, key_package: &[u8]) -> Option<Package> {
        let init = key_package.get(INIT_KEY)?;
        let (of, init_key, encryption_key) = self.packages.get(init)?;
        Some(Package {
            of: of.clone(),
            key_package: Hex::of(key_package),
            init_key: init_key.clone(),
            encryption_key: encryption_key.clone(),
        })
    }
}

/// The group of a row, and its table.
fn table(key: &[u8]) -> Option<(GroupId, u8)> {
    let (group, rest) = key.get(1..)?.split_at_checked(GroupId::LEN)?;
    Some((GroupId::from_slice(group)?, *rest.first()?))
}

/// An epoch by its secrets, and by what MLS says of it where it is in that epoch.
fn epoch(rows: &MemoryRows, group: GroupId, secrets: &EpochSecrets) -> Result<Option<Epoch>> {
    let prefix = [&[GROUP], group.as_bytes(), &[MLS][..]].concat();
    let of_mls = rows.read(&prefix).into_iter().map(|(key, row)| {
        let rest = key.get(prefix.len()..).unwrap_or_default();
        (rest.to_vec(), row)
    });
    let mls = ClientGroup::load(of_mls.collect())?;
    if mls.epoch() != secrets.epoch {
        return Ok(None);
    }
    let authenticator = mls.epoch_authenticator();
    Ok(Some(Epoch {
        epoch: secrets.epoch,
        group_code: group_code(&authenticator),
        epoch_authenticator: Hex(authenticator),
        epoch_root: Hex::of(secrets.root.as_bytes()),
        wrap_key: Hex::of(secrets.wrap_key.as_bytes()),
        presence_root: Hex::of(secrets.presence_root.as_bytes()),
    }))
}

/// The first value under a name, wherever it lies.
fn find<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    match value {
        Value::Map(entries) => {
            let named = |(key, _): &&(Value, Value)| key.as_text() == Some(name);
            match entries.iter().find(named) {
                Some((_, found)) => Some(found),
                None => entries.iter().find_map(|(_, value)| find(value, name)),
            }
        }
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        _ => None,
    }
}

/// Bytes, however they are wrapped.
fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Bytes(bytes) => Some(bytes.clone()),
        Value::Array(items) => {
            let byte = |item: &Value| u8::try_from(item.as_integer()?).ok();
            items.iter().map(byte).collect()
        }
        Value::Map(entries) => entries.iter().find_map(|(_, value)| bytes_of(value)),
        _ => None,
    }
}
