//! A group of some size, as its owner, one of its members and the service have it.

use anyhow::{Context as _, Result};
use conclave_identity::{DeviceCredential, DeviceKey, UserGenesis, UserKey};
use conclave_mls::{
    ClientGroup, CommitInputs, DeviceContext, KeyStore, Plan, Prepared, PublicGroupState, Rows,
};
use conclave_proto::frame::WelcomeDelivery;
use conclave_proto::{CommitId, DeviceId, GroupId, GroupPolicy, RealmId, UnixMs};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// The group.
pub const GROUP: GroupId = GroupId([7; 16]);
/// When everything happens.
pub const NOW: UnixMs = UnixMs(1_760_000_000_000);

/// A device of a user of its own.
pub struct Member {
    /// Its id.
    pub device: DeviceId,
    /// Its key.
    pub key: DeviceKey,
    credential: DeviceCredential,
}

impl Member {
    fn new(rng: &mut ChaCha20Rng) -> Result<Self> {
        let mut device = DeviceId::ZERO;
        rng.fill_bytes(&mut device.0);
        let user = UserKey::generate(rng);
        let genesis = UserGenesis::new(RealmId([1; 16]), &user, NOW, rng);
        let key = DeviceKey::generate(rng);
        let (certificate, signature) = user.certify(&genesis, device, &key.public(), 1, NOW);
        let credential = DeviceCredential::accept(genesis, certificate, signature, &key)?;
        Ok(Self {
            device,
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

    fn key_package(&self, keys: &mut KeyStore) -> Result<Vec<u8>> {
        let mut made = keys.generate(&self.context(), 1, false, NOW)?;
        made.one_time.pop().context("no key package")
    }
}

/// A group whose members but the first came in with one commit.
pub struct Group {
    /// Who made it.
    pub owner: Member,
    /// The owner's rows.
    pub owner_rows: Rows,
    /// Another member.
    pub member: Member,
    /// That member's rows.
    pub member_rows: Rows,
    /// The service's state.
    pub checkpoint: Vec<u8>,
}

impl Group {
    /// A group of so many members, at least two.
    ///
    /// # Errors
    /// When a step fails.
    pub fn of(members: usize) -> Result<Self> {
        let mut rng = ChaCha20Rng::seed_from_u64(u64::try_from(members)?);
        let (owner, member) = (Member::new(&mut rng)?, Member::new(&mut rng)?);
        let (mut group, created) =
            ClientGroup::create(&owner.context(), GROUP, GroupPolicy::default(), NOW)?;
        let (mut service, _) =
            PublicGroupState::create(&created.group_info, &created.tree, owner.device, NOW)?;

        let mut keys = KeyStore::load(Vec::new())?;
        let mut add = vec![member.key_package(&mut keys)?];
        for _ in 2..members {
            let mut keys = KeyStore::load(Vec::new())?;
            add.push(Member::new(&mut rng)?.key_package(&mut keys)?);
        }
        let plan = Plan {
            add,
            ..Plan::default()
        };
        let prepared = commit(&mut group, &owner, &plan)?;
        let judged = service.judge_bundle(&prepared.bundle, owner.device, NOW)?;
        let (entry, welcome) = (judged.entry.clone(), judged.welcome.clone());
        service.apply(judged)?;
        group.process(&entry)?;

        let delivery = WelcomeDelivery {
            id: 1,
            group: GROUP,
            epoch: service.state().epoch,
            welcome: welcome.context("no Welcome")?.into(),
            tree: service.tree().into(),
            state: service.join_state(prepared.bundle.wrap, Vec::new()),
        };
        let (joined, _) = ClientGroup::join(&member.context(), &mut keys, &delivery, NOW)?;
        Ok(Self {
            owner_rows: group.rows(),
            owner,
            member_rows: joined.rows(),
            member,
            checkpoint: service.checkpoint(),
        })
    }

    /// The commit by which the owner renews the own leaf.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn renewal(&self) -> Result<Prepared> {
        let mut group = ClientGroup::load(self.owner_rows.clone())?;
        commit(&mut group, &self.owner, &Plan::default())
    }
}

/// Makes a commit, which then waits.
///
/// # Errors
/// When it cannot be made.
pub fn commit(group: &mut ClientGroup, device: &Member, plan: &Plan) -> Result<Prepared> {
    let inputs = CommitInputs {
        now: NOW,
        service_time: NOW,
        id: CommitId([3; 16]),
        live_roots: &[],
    };
    let mut rng = ChaCha20Rng::seed_from_u64(group.epoch());
    Ok(group.commit(&device.context(), plan, inputs, &mut rng)?)
}
