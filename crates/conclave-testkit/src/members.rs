//! Devices with all their keys.

use anyhow::{Context as _, Result};
use conclave_identity::{DeviceCredential, DeviceKey, UserGenesis, UserKey};
use conclave_mls::{
    ClientGroup, CommitInputs, DeviceContext, KeyStore, Plan, Prepared, PublicGroupState,
};
use conclave_proto::group::GroupEntry;
use conclave_proto::record::{EntryBody, Record};
use conclave_proto::{CommitId, DeviceId, DocumentId, InstanceId, RealmId, UnixMs, UserId};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// When everything happens.
pub const NOW: UnixMs = UnixMs(1_760_000_000_000);

/// A device of a user of its own.
pub struct Member {
    /// Its id.
    pub device: DeviceId,
    /// Its user.
    pub user: UserId,
    /// Its key.
    pub key: DeviceKey,
    credential: DeviceCredential,
}

impl Member {
    /// Somebody new.
    ///
    /// # Errors
    /// When the credential is refused.
    pub fn new(rng: &mut ChaCha20Rng) -> Result<Self> {
        let mut device = DeviceId::ZERO;
        rng.fill_bytes(&mut device.0);
        let user = UserKey::generate(rng);
        let genesis = UserGenesis::new(RealmId([1; 16]), &user, NOW, rng);
        let key = DeviceKey::generate(rng);
        let (certificate, signature) = user.certify(&genesis, device, &key.public(), 1, NOW);
        let user = genesis.user_id();
        let credential = DeviceCredential::accept(genesis, certificate, signature, &key)?;
        Ok(Self {
            device,
            user,
            key,
            credential,
        })
    }

    /// What a group is handed of it.
    #[must_use]
    pub fn context(&self) -> DeviceContext<'_> {
        DeviceContext {
            key: &self.key,
            credential: &self.credential,
        }
    }

    /// A key package; its private keys are in the store then.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn key_package(&self, keys: &mut KeyStore) -> Result<Vec<u8>> {
        let mut made = keys.generate(&self.context(), 1, false, NOW)?;
        made.one_time.pop().context("no key package")
    }

    /// Makes a commit, which then waits.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn commit(&self, group: &mut ClientGroup, plan: &Plan) -> Result<Prepared> {
        let inputs = CommitInputs {
            now: NOW,
            service_time: NOW,
            id: CommitId([3; 16]),
            live_roots: &[],
        };
        let mut rng = ChaCha20Rng::seed_from_u64(group.epoch());
        Ok(group.commit(&self.context(), plan, inputs, &mut rng)?)
    }
}

/// Lists a group's directory, before which nobody can be added: as its member and these services have the group. The entry goes to whoever joins.
///
/// # Errors
/// When the entry is refused.
pub fn list_directory(
    context: &DeviceContext<'_>,
    device: DeviceId,
    group: &mut ClientGroup,
    services: &mut [&mut PublicGroupState],
) -> Result<Record> {
    let body = EntryBody::DocumentCreated {
        document: DocumentId::directory(&group.state().group),
        crdt: 1,
    };
    let entry = group.sign_entry(context, body, InstanceId([4; 8]));
    for service in services {
        let listed = service.judge_entry(&entry, device)?;
        service.apply_entry(&listed);
    }
    group.process(&GroupEntry::Signed(entry.clone()))?;
    Ok(entry)
}

/// Key packages of so many new members, who are never heard of again.
///
/// # Errors
/// When they cannot be made.
pub fn strangers(count: usize, rng: &mut ChaCha20Rng) -> Result<Vec<Vec<u8>>> {
    let mut packages = Vec::new();
    for _ in 0..count {
        let mut keys = KeyStore::load(Vec::new())?;
        packages.push(Member::new(rng)?.key_package(&mut keys)?);
    }
    Ok(packages)
}
