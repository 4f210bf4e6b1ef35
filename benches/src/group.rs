//! A group of some size, as its owner, one of its members and the service have it.

use anyhow::{Context as _, Result};
use conclave_mls::{ClientGroup, KeyStore, Plan, Prepared, PublicGroupState, Rows};
use conclave_proto::frame::WelcomeDelivery;
use conclave_proto::{GroupId, GroupPolicy, Hash};
use conclave_testkit::members::{Member, NOW, list_directory, strangers};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

/// The group.
pub const GROUP: GroupId = GroupId([7; 16]);

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
    /// The service's rows.
    pub service_rows: Rows,
    /// Roots of its log since the epoch began.
    pub roots: Vec<Hash>,
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
        let services = &mut [&mut service];
        let directory = list_directory(&owner.context(), owner.device, &mut group, services)?;

        let mut keys = KeyStore::load(Vec::new())?;
        let mut add = vec![member.key_package(&mut keys)?];
        add.extend(strangers(members.saturating_sub(2), &mut rng)?);
        let plan = Plan {
            add,
            ..Plan::default()
        };
        let prepared = owner.commit(&mut group, &plan)?;
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
            state: service.join_state(prepared.bundle.wrap, vec![directory]),
        };
        let (joined, _) = ClientGroup::join(&member.context(), &mut keys, &delivery, NOW)?;
        Ok(Self {
            owner_rows: group.rows(),
            owner,
            member_rows: joined.rows(),
            member,
            service_rows: service.rows(),
            roots: service.state().epoch_log_roots.iter().copied().collect(),
        })
    }

    /// The commit by which the owner renews the own leaf.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn renewal(&self) -> Result<Prepared> {
        let mut group = ClientGroup::load(self.owner_rows.clone())?;
        self.owner.commit(&mut group, &Plan::default())
    }
}
