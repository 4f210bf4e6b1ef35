//! Key packages. A one-time package is handed out once, ever.

use std::collections::BTreeSet;

use conclave_identity::Reference;
use conclave_mls::check_key_package;
use conclave_proto::frame::ClaimedKeyPackage;
use conclave_proto::{DeviceId, Hash, Refusal, UnixMs, UserId, codec, limits};

use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::limits::KEY_PACKAGE_BYTES;
use crate::op::Asker;
use crate::rows::{LeftPackage, PackageRow, StockRow};

/// A key package that was checked.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its reference.
    pub hash: Hash,
    /// When it was made.
    pub created: UnixMs,
    /// The package.
    pub bytes: Vec<u8>,
}

impl Package {
    fn judge(
        by: Asker,
        bytes: codec::Bytes,
        last_resort: bool,
        now: UnixMs,
    ) -> Result<Self, Refusal> {
        let bytes = bytes.into_vec();
        if bytes.len() > KEY_PACKAGE_BYTES {
            let max = KEY_PACKAGE_BYTES as u64;
            return Err(Refusal::TooLarge { max });
        }
        let reference = Reference {
            user: Some(by.user),
            device: Some(by.device),
            ..Reference::default()
        };
        let checked =
            check_key_package(&bytes, &reference, now).map_err(|_| Refusal::BadIdentity)?;
        if checked.last_resort != last_resort {
            return Err(Refusal::BadIdentity);
        }
        let hash = Hash::from_slice(&checked.reference).ok_or(Refusal::BadIdentity)?;
        Ok(Self {
            hash,
            created: checked.made,
            bytes,
        })
    }
}

/// What can be handed out of a device's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// One-time packages left and fresh.
    pub one_time: u32,
    /// Whether a fresh last-resort package is there.
    pub last_resort: bool,
}

impl Stock {
    /// What a row says at this time.
    #[must_use]
    pub fn of(row: Option<&StockRow>, now: UnixMs) -> Self {
        let left = row.into_iter().flat_map(|row| &row.left);
        Self::count(left.filter(|package| package.created >= oldest(now)))
    }

    fn count<'a>(left: impl Iterator<Item = &'a LeftPackage>) -> Self {
        let (mut one_time, mut last_resort) = (0u32, false);
        for package in left {
            if package.last_resort {
                last_resort = true;
            } else {
                one_time = one_time.saturating_add(1);
            }
        }
        Self {
            one_time,
            last_resort,
        }
    }
}

/// Packages made before this are no longer handed out.
fn oldest(now: UnixMs) -> UnixMs {
    UnixMs(now.0.saturating_sub(limits::KEY_PACKAGE_SHELF_LIFE_MS))
}

/// Packages of a device. Those known already, handed out or not, are left as they are.
#[derive(Debug, Clone)]
pub struct PutKeyPackages {
    /// The device.
    pub device: DeviceId,
    /// Its user.
    pub user: UserId,
    /// One-time packages.
    pub one_time: Vec<Package>,
    /// The one that is handed out when nothing else is left, in place of the one before.
    pub last_resort: Option<Package>,
    /// The time.
    pub now: UnixMs,
}

impl PutKeyPackages {
    /// Judges key packages of a device.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(
        by: Asker,
        one_time: Vec<codec::Bytes>,
        last_resort: Option<codec::Bytes>,
        now: UnixMs,
    ) -> Result<Self, Refusal> {
        if one_time.len() > limits::KEY_PACKAGES_MAX {
            let max = limits::KEY_PACKAGES_MAX as u64;
            return Err(Refusal::TooLarge { max });
        }
        let one_time = one_time.into_iter();
        let one_time = one_time.map(|package| Package::judge(by, package, false, now));
        let last_resort = last_resort.map(|package| Package::judge(by, package, true, now));
        Ok(Self {
            device: by.device,
            user: by.user,
            one_time: one_time.collect::<Result<_, _>>()?,
            last_resort: last_resort.transpose()?,
            now,
        })
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.devices.insert(self.device);
        keys.stocks.insert(self.device);
        let packages = self.one_time.iter().chain(&self.last_resort);
        keys.packages.extend(packages.map(|package| package.hash));
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        let none = StockRow::default();
        let stock = rows.stock(&self.device)?.unwrap_or(&none);
        // Packages past their shelf life are refused when they come: their references need not be remembered. A package's own time may be
        // ahead of ours by the skew that is allowed then, which only keeps it longer.
        let before = oldest(self.now);
        let mut changes = vec![Change::ForgetPackages { before }];
        let mut left: BTreeSet<LeftPackage> = stock.left.iter().copied().collect();
        left.retain(|package| package.created >= before);
        for package in &self.one_time {
            if self.is_new(package, rows)? {
                left.insert(self.put(package, false, &mut changes));
            }
        }
        if let Some(package) = &self.last_resort {
            changes.push(Change::DropLastResort {
                device: self.device,
            });
            left.retain(|package| !package.last_resort);
            let own = rows.package(&package.hash)?;
            let own = own.is_some_and(|row| row.device == self.device && row.last_resort);
            if own || self.is_new(package, rows)? {
                left.insert(self.put(package, true, &mut changes));
            }
        }
        let stock = Stock::count(left.iter());
        if stock.one_time as usize > limits::KEY_PACKAGES_MAX {
            let max = limits::KEY_PACKAGES_MAX as u64;
            return Err(Refusal::TooLarge { max }.into());
        }
        let event = Event::PackagesPut {
            user: self.user,
            left: stock.one_time,
            siblings: self.siblings(rows)?,
        };
        Ok(Decided { changes, event })
    }

    /// Whether its reference is not known, or known from a time that is forgotten.
    fn is_new(&self, package: &Package, rows: &Rows) -> Result<bool, Stop> {
        let known = rows.package(&package.hash)?;
        Ok(known.is_none_or(|row| row.created < oldest(self.now)))
    }

    fn put(&self, package: &Package, last_resort: bool, changes: &mut Vec<Change>) -> LeftPackage {
        let put = |change: &Change| match change {
            Change::Package { hash, .. } => *hash == package.hash,
            _ => false,
        };
        if !changes.iter().any(put) {
            changes.push(Change::Package {
                hash: package.hash,
                row: PackageRow {
                    device: self.device,
                    last_resort,
                    created: package.created,
                    bytes: Some(package.bytes.clone()),
                },
            });
        }
        LeftPackage {
            last_resort,
            created: package.created,
            hash: package.hash,
        }
    }

    /// With the first packages of a device the user's other devices learn that it can be added to groups.
    fn siblings(&self, rows: &Rows) -> Result<BTreeSet<DeviceId>, Stop> {
        if rows.stock(&self.device)?.is_some_and(|stock| stock.known) {
            return Ok(BTreeSet::new());
        }
        let mut siblings = rows.siblings_of(&self.user)?.cloned().unwrap_or_default();
        siblings.remove(&self.device);
        Ok(siblings)
    }
}

/// All packages of a device go: it has lost their private halves.
#[derive(Debug, Clone, Copy)]
pub struct ClearKeyPackages {
    /// The device.
    pub device: DeviceId,
}

impl ClearKeyPackages {
    pub(crate) fn keys(self, keys: &mut Keys) {
        keys.devices.insert(self.device);
    }

    pub(crate) fn decide(self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        let device = self.device;
        Ok(Decided {
            changes: vec![Change::ClearPackages { device }],
            event: Event::Done,
        })
    }
}

/// A package of each of a user's devices that has any.
#[derive(Debug, Clone)]
pub struct ClaimKeyPackages {
    /// Who asks.
    pub device: DeviceId,
    /// Whose.
    pub user: UserId,
    /// Of which devices; none: of all.
    pub wanted: Vec<DeviceId>,
    /// Whether only packages of last resort are handed out.
    pub last_resort: bool,
    /// The time.
    pub now: UnixMs,
}

/// A package handed out.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Its device.
    pub device: DeviceId,
    /// The package.
    pub bytes: Vec<u8>,
    /// Whether it is handed out again.
    pub last_resort: bool,
    /// One-time packages left after it.
    pub left: u32,
}

impl From<Claimed> for ClaimedKeyPackage {
    fn from(claimed: Claimed) -> Self {
        Self {
            device: claimed.device,
            key_package: claimed.bytes.into(),
            last_resort: u8::from(claimed.last_resort),
        }
    }
}

impl ClaimKeyPackages {
    /// Judges who may be asked for.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`].
    pub fn judge(
        device: DeviceId,
        user: UserId,
        wanted: Vec<DeviceId>,
        now: UnixMs,
    ) -> Result<Self, Refusal> {
        if wanted.len() > limits::USER_DEVICES {
            let max = limits::USER_DEVICES as u64;
            return Err(Refusal::TooLarge { max });
        }
        Ok(Self {
            device,
            user,
            wanted,
            last_resort: false,
            now,
        })
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.devices.insert(self.device);
        keys.accounts.insert(self.user);
        keys.siblings.insert(self.user);
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        rows.account(&self.user)?.ok_or(Refusal::UnknownUser)?;
        let mut changes = Vec::new();
        let mut claimed = Vec::new();
        let siblings = rows.siblings_of(&self.user)?.into_iter().flatten();
        let wanted =
            siblings.filter(|device| self.wanted.is_empty() || self.wanted.contains(device));
        rows.need(|keys| keys.devices.extend(wanted.clone()))?;
        let standing = wanted.filter(|device| {
            let row = rows.devices.get(device).and_then(Option::as_ref);
            row.is_some_and(|row| !row.revoked)
        });
        rows.need(|keys| keys.stocks.extend(standing.clone()))?;
        let best = |device| rows.stock(device).ok()?.and_then(|row| self.best(row));
        let hashes = standing.clone().filter_map(best).map(|best| best.hash);
        rows.need(|keys| keys.packages.extend(hashes))?;
        for device in standing {
            claimed.extend(self.claim_one(device, rows, &mut changes)?);
        }
        let event = Event::Claimed(claimed);
        Ok(Decided { changes, event })
    }

    /// The one that is handed out next.
    fn best<'a>(&self, stock: &'a StockRow) -> Option<&'a LeftPackage> {
        let fresh = stock.left.iter();
        fresh
            .filter(|package| package.created >= oldest(self.now))
            .filter(|package| package.last_resort || !self.last_resort)
            .min()
    }

    fn claim_one(
        &self,
        device: &DeviceId,
        rows: &Rows,
        changes: &mut Vec<Change>,
    ) -> Result<Option<Claimed>, Stop> {
        let stock = rows.stock(device)?;
        let Some(best) = stock.and_then(|row| self.best(row)) else {
            return Ok(None);
        };
        let row = rows.package(&best.hash)?;
        let bytes = row.and_then(|row| row.bytes.clone());
        let bytes = bytes.ok_or(Stop::Damaged {
            what: "key package",
        })?;
        let mut left = Stock::of(stock, self.now).one_time;
        if !best.last_resort {
            left = left.saturating_sub(1);
            changes.push(Change::TakePackage {
                device: *device,
                hash: best.hash,
            });
        }
        Ok(Some(Claimed {
            device: *device,
            bytes,
            last_resort: best.last_resort,
            left,
        }))
    }
}
