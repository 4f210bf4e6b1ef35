//! Key packages: making them, keeping their private halves, and judging those of others.

use conclave_identity::{Identity, Occasion, Presented, Reference, SCHEME_ED25519, authenticate};
use conclave_proto::{UnixMs, limits};
use openmls::framing::MlsMessageBodyIn;
use openmls::key_packages::{KeyPackage, KeyPackageBundle};
use openmls::prelude::{MlsMessageOut, ProtocolVersion};
use openmls_traits::OpenMlsProvider;
use tls_codec::Serialize;

use crate::device::DeviceContext;
use crate::error::MlsError;
use crate::lifetimes::{self, ClockFault};
use crate::message;
use crate::overlay::storage::KEY_PACKAGE;
use crate::overlay::{self, RowChange, Rows};
use crate::profile;
use crate::provider::Provider;

/// Private halves of this device's key packages. Global, not per group.
#[derive(Debug)]
pub struct KeyStore {
    provider: Provider,
}

/// Key packages made: `MLSMessage`s to publish.
#[derive(Debug, Clone, Default)]
pub struct Generated {
    /// For one use each.
    pub one_time: Vec<Vec<u8>>,
    /// For when the others have run out.
    pub last_resort: Option<Vec<u8>>,
}

impl KeyStore {
    /// A store over its rows; none for a new one.
    ///
    /// # Errors
    /// [`MlsError::Damaged`] when a row belongs elsewhere.
    pub fn load(rows: Rows) -> Result<Self, MlsError> {
        let prefix = overlay::prefix(KEY_PACKAGE);
        if rows.iter().all(|(key, _)| key.starts_with(&prefix)) {
            Ok(Self {
                provider: Provider::new(rows),
            })
        } else {
            Err(MlsError::Damaged)
        }
    }

    /// Makes key packages. Write the changes before publishing the packages.
    ///
    /// # Errors
    /// [`MlsError::Mls`]; then none was made.
    pub fn generate(
        &mut self,
        device: &DeviceContext<'_>,
        one_time: usize,
        last_resort: bool,
        now: UnixMs,
    ) -> Result<Generated, MlsError> {
        self.provider.overlay().begin();
        let made = self.generate_all(device, one_time, last_resort, now);
        match &made {
            Ok(_) => self.provider.overlay().keep(),
            Err(_) => self.provider.overlay().revert(),
        }
        made
    }

    fn generate_all(
        &self,
        device: &DeviceContext<'_>,
        one_time: usize,
        last_resort: bool,
        now: UnixMs,
    ) -> Result<Generated, MlsError> {
        let mut made = Generated::default();
        for _ in 0..one_time {
            made.one_time.push(self.generate_one(device, false, now)?);
        }
        if last_resort {
            made.last_resort = Some(self.generate_one(device, true, now)?);
        }
        Ok(made)
    }

    fn generate_one(
        &self,
        device: &DeviceContext<'_>,
        last_resort: bool,
        now: UnixMs,
    ) -> Result<Vec<u8>, MlsError> {
        let mut builder = KeyPackage::builder()
            .leaf_node_capabilities(profile::capabilities())
            .key_package_lifetime(profile::lifetime(now));
        if last_resort {
            builder = builder.mark_as_last_resort();
        }
        let bundle = builder
            .build(
                profile::SUITE,
                &self.provider,
                &device.signer(),
                device.credential_with_key(),
            )
            .map_err(|_| MlsError::Mls {
                what: "making a key package",
            })?;
        MlsMessageOut::from(bundle.into_key_package())
            .to_bytes()
            .map_err(|_| MlsError::Mls {
                what: "encoding a key package",
            })
    }

    /// Number of key packages whose private half is kept.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rows().len()
    }

    /// Forgets private halves of packages that were made before a time.
    pub fn forget_made_before(&mut self, oldest: UnixMs) {
        for (key, value) in self.rows() {
            if made(&value).is_some_and(|made| made < oldest) {
                self.provider.overlay().put_row(&key, None);
            }
        }
    }

    /// Changes since the last call.
    pub fn take_changes(&mut self) -> Vec<RowChange> {
        self.provider.overlay().drain()
    }

    /// Forgets changes that were not taken.
    pub fn rollback(&mut self) {
        self.provider.overlay().rollback();
    }

    /// All rows, for a join to read.
    pub(crate) fn rows(&self) -> Rows {
        self.provider
            .overlay()
            .rows_under(&overlay::prefix(KEY_PACKAGE))
    }

    /// Adopts what a join did to the rows it was lent: a used one-time package is gone.
    pub(crate) fn adopt(&mut self, left: &Rows) {
        for (key, _) in self.rows() {
            if !left.iter().any(|(kept, _)| *kept == key) {
                self.provider.overlay().put_row(&key, None);
            }
        }
    }
}

/// When the package of a row was made.
fn made(row: &[u8]) -> Option<UnixMs> {
    let bundle: KeyPackageBundle = ciborium::from_reader(row).ok()?;
    profile::leaf_lifetime(bundle.key_package().leaf_node())?.made()
}

/// A key package that was found good.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CheckedKeyPackage {
    /// Whose it is.
    pub identity: Identity,
    /// Whether it may be used again.
    pub last_resort: bool,
    /// When it was made by its maker's clock, to the second.
    pub made: UnixMs,
    /// The leaf's own signature key.
    pub signature_key: Vec<u8>,
    /// KeyPackageRef (RFC 9420 §5.2).
    pub reference: Vec<u8>,
    /// The package as received.
    pub bytes: Vec<u8>,
    pub(crate) package: KeyPackage,
}

/// Judges a key package: what the service does at upload, and whoever adds it. Its signatures, its identity against `reference`, its suite
/// and capabilities, its lifetime, and its shelf life at `now`.
///
/// # Errors
/// [`MlsError`] says what is wrong.
pub fn check_key_package(
    bytes: &[u8],
    reference: &Reference<'_>,
    now: UnixMs,
) -> Result<CheckedKeyPackage, MlsError> {
    let refused = MlsError::Mls {
        what: "checking a key package",
    };
    let Some(MlsMessageBodyIn::KeyPackage(unverified)) = message::parse(bytes) else {
        return Err(refused);
    };
    let lifetime = unverified
        .tls_serialize_detached()
        .ok()
        .and_then(|bytes| lifetimes::of_key_package(&bytes))
        .filter(|lifetime| lifetime.suits_add_at(now))
        .ok_or(MlsError::KeyPackageLifetime)?;
    let made = lifetime.made().ok_or(MlsError::KeyPackageLifetime)?;
    if now.since_ms(made) > limits::KEY_PACKAGE_SHELF_LIFE_MS {
        return Err(MlsError::KeyPackageLifetime);
    }
    let provider = Provider::default();
    let package =
        message::contained(|| unverified.validate(provider.crypto(), ProtocolVersion::Mls10))
            .map_err(|_| MlsError::Panicked)?
            .map_err(|error| match error {
                error if error.is_of_clock() => MlsError::ClockWrong,
                _ => refused.clone(),
            })?;
    let leaf = package.leaf_node();
    if package.ciphersuite() != profile::SUITE
        || !profile::capabilities_complete(leaf.capabilities())
    {
        return Err(MlsError::Capabilities);
    }
    let presented = Presented {
        credential_type: u16::from(leaf.credential().credential_type()),
        credential: leaf.credential().serialized_content().into(),
        scheme: SCHEME_ED25519,
        signature_key: leaf.signature_key().as_slice(),
    };
    let identity = authenticate(&presented, Occasion::KeyPackage, reference, now, None)?;
    let hash = package.hash_ref(provider.crypto()).map_err(|_| refused)?;
    Ok(CheckedKeyPackage {
        identity,
        last_resort: package.last_resort(),
        made,
        signature_key: package.leaf_node().signature_key().as_slice().to_vec(),
        reference: hash.as_slice().to_vec(),
        bytes: bytes.to_vec(),
        package,
    })
}
