//! Devices, lists, key packages, invitations.

use anyhow::{Result, ensure};
use conclave_identity::{DeviceKey, DeviceRef, SCHEME_ED25519, UserGenesis, UserKey};
use conclave_order::limits;
use conclave_order::op::Asker;
use conclave_order::op::help::AckWelcome;
use conclave_order::op::identity::{Claim, CreateInvitation, Door, Newcomer, PutDeviceList};
use conclave_order::op::packages::{
    ClaimKeyPackages, Claimed, ClearKeyPackages, Package, PutKeyPackages,
};
use conclave_order::rows::InvitationRow;
use conclave_order::{Backend as _, Batch, Event, Op, Step, Transaction as _};
use conclave_proto::limits::KEY_PACKAGE_SHELF_LIFE_MS;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, GroupId, RealmId, Refusal, UnixMs};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::database::Database;
use crate::ids::{author, device, log, some_hash, user, user_of};
use crate::world::{LIMITS, Moves, START, World, admit, admit_through, commit, log_in, refusal};

/// A package, made so long before everything begins.
#[must_use]
pub fn package(n: u64, age: u64) -> Package {
    Package {
        hash: some_hash(n),
        created: UnixMs(START.0 - age),
        bytes: n.to_be_bytes().to_vec(),
    }
}

/// Packages of a device.
#[must_use]
pub fn put(of: u8, one_time: Vec<Package>, last_resort: Option<Package>, now: UnixMs) -> Op {
    Op::PutKeyPackages(PutKeyPackages {
        device: device(of),
        user: user_of(of),
        one_time,
        last_resort,
        now,
    })
}

/// A package of each device of a user.
#[must_use]
pub fn claim(by: u8, of: u8, now: UnixMs) -> Op {
    Op::ClaimKeyPackages(ClaimKeyPackages {
        device: device(by),
        user: user(of),
        wanted: Vec::new(),
        last_resort: false,
        now,
    })
}

fn claimed(event: &Event) -> Result<&[Claimed]> {
    match event {
        Event::Claimed(claimed) => Ok(claimed),
        other => anyhow::bail!("{other:?}"),
    }
}

/// Eight takers of five packages get five different ones, the oldest first, in one batch and in several.
///
/// # Errors
/// When it is not so.
pub async fn a_package_is_given_once<D: Database>() -> Result<()> {
    for at_once in [8, 1] {
        let mut world = World::<D>::furnished().await?;
        let packages: Vec<Package> = (0..5).map(|n| package(n, n)).collect();
        world
            .accepted(vec![put(10, packages.clone(), None, START)])
            .await?;
        let mut given = Vec::new();
        for _ in 0..8 / at_once {
            for event in world.run(vec![claim(20, 1, START); at_once]).await? {
                given.extend(claimed(&event)?.iter().map(|it| it.bytes.clone()));
            }
        }
        let oldest_first = packages.iter().rev().map(|it| it.bytes.clone());
        ensure!(given == oldest_first.collect::<Vec<_>>(), "{given:?}");
        // Handed out once, never stored again.
        let again = world.one(put(10, packages, None, START)).await?;
        ensure!(matches!(again, Event::PackagesPut { left: 0, .. }));
    }
    Ok(())
}

/// The last-resort package is given when nothing else is left that is fresh, again and again.
///
/// # Errors
/// When it is not so.
pub async fn the_last_resort_comes_last<D: Database>() -> Result<()> {
    let mut world = World::<D>::furnished().await?;
    let (fresh, last) = (package(1, 0), package(2, 5));
    let stored = world
        .one(put(10, vec![fresh], Some(last.clone()), START))
        .await?;
    ensure!(matches!(stored, Event::PackagesPut { left: 1, .. }));
    let events = world.run(vec![claim(20, 1, START); 3]).await?;
    let mut given = Vec::new();
    for event in &events {
        given.extend(claimed(event)?.iter().map(|it| (it.last_resort, it.left)));
    }
    ensure!(given == [(false, 0), (true, 0), (true, 0)], "{given:?}");
    let later = UnixMs(START.0 + KEY_PACKAGE_SHELF_LIFE_MS);
    let event = world.one(claim(20, 1, later)).await?;
    ensure!(claimed(&event)?.is_empty());
    let device = device(10);
    world
        .accepted(vec![Op::ClearKeyPackages(ClearKeyPackages { device })])
        .await?;
    let event = world.one(claim(20, 1, START)).await?;
    ensure!(claimed(&event)?.is_empty());
    world
        .accepted(vec![put(10, vec![], Some(last), START)])
        .await?;
    let unknown = world.refused(claim(20, 7, START)).await?;
    ensure!(unknown == Refusal::UnknownUser);
    Ok(())
}

/// An account takes so many devices, and what concerns all of them is loaded at once: neither keeps others waiting for long.
///
/// # Errors
/// When it is not so.
pub async fn many_devices_of_an_account_keep_nobody_waiting<D: Database>() -> Result<()> {
    let mut world = World::<D>::new().await?;
    let most = limits::DEVICES_PER_ACCOUNT as u64;
    let device = |n: u64| DeviceId(u128::from(n).to_be_bytes());
    let login = |n: u64| {
        let who = Newcomer {
            user: user(1),
            device: device(n),
            key: n.to_be_bytes().to_vec(),
        };
        log_in(who, Door::Open, Claim::default(), START)
    };
    world.accepted((0..most).map(login).collect()).await?;
    let full = Refusal::TooLarge { max: most };
    ensure!(world.refused(login(most)).await? == full);
    // Those that are known come in as before.
    world.accepted(vec![login(most - 1)]).await?;
    let packages = (0..most).map(|n| {
        Op::PutKeyPackages(PutKeyPackages {
            device: device(n),
            user: user(1),
            one_time: vec![package(n, 0)],
            last_resort: None,
            now: START,
        })
    });
    world.accepted(packages.collect()).await?;
    world.accepted(vec![admit(20)]).await?;
    let revoking = Op::PutDeviceList(PutDeviceList {
        user: user(1),
        seq: 1,
        bytes: vec![1],
        devices: [device(0)].into(),
        expected: None,
        now: START,
    });
    for op in [claim(20, 1, START), revoking] {
        let loads = loads(&mut world, op.clone()).await?;
        ensure!(loads <= 5, "{loads} loads");
        world.accepted(vec![op]).await?;
    }
    Ok(())
}

/// How often an operation loads before it is decided.
async fn loads<D: Database>(world: &mut World<D>, op: Op) -> Result<usize> {
    let mut batch = Batch::new(vec![op], LIMITS);
    let mut tx = world.store.begin().await?;
    let mut keys = Box::new(batch.keys());
    for loads in 1.. {
        match batch.apply(tx.load(&keys).await?) {
            Step::Need(more) => keys = more,
            Step::Done => return Ok(loads),
        }
    }
    anyhow::bail!("it goes on for ever")
}

/// An invitation admits as many accounts as it says, until its time is over.
///
/// # Errors
/// When it is not so.
pub async fn an_invitation_is_used_up<D: Database>() -> Result<()> {
    let mut world = World::<D>::new().await?;
    let hash = some_hash(1);
    let row = InvitationRow {
        id: "one".into(),
        created: START,
        expires: UnixMs(START.0 + 10),
        uses_left: 2,
    };
    world
        .accepted(vec![Op::CreateInvitation(CreateInvitation { hash, row })])
        .await?;
    let through = |n, now| admit_through(n, Door::Invitation(Some(hash)), UnixMs(now));
    let refused = |event: &Event| {
        let why = ForbiddenWhy::NotAdmitted;
        refusal(event) == Some(Refusal::Forbidden { why })
    };
    let late = world.one(through(10, START.0 + 10)).await?;
    ensure!(refused(&late));
    let events = world
        .run([10, 11, 20, 30].map(|n| through(n, START.0)).to_vec())
        .await?;
    // A second device of an account needs none.
    let outcomes: Vec<bool> = events.iter().map(refused).collect();
    ensure!(outcomes == [false, false, false, true], "{events:?}");
    let none = world
        .one(admit_through(40, Door::Invitation(None), START))
        .await?;
    ensure!(refused(&none));
    Ok(())
}

/// Whoever is off the list writes nothing more, in the same batch too. Its packages are not handed out, what waits for it is gone, the tokens of
/// its lives as well, and nobody adds it.
///
/// # Errors
/// When it is not so.
pub async fn a_revoked_device_loses_what_it_had<D: Database>() -> Result<()> {
    let log = log(1, 1);
    let mut world = World::<D>::furnished().await?;
    world.accepted(vec![admit(21)]).await?;
    world
        .accepted(vec![put(20, vec![package(1, 0)], None, START)])
        .await?;
    let list = |seq, expected| {
        Op::PutDeviceList(PutDeviceList {
            user: user(2),
            seq,
            bytes: vec![1],
            devices: [device(21)].into(),
            expected,
            now: START,
        })
    };
    // A Welcome waits for it, with what only it needs.
    let at = world.group(log.group).await?;
    let adding = |n| Moves {
        added: vec![n],
        users: (1..10).map(user).collect(),
        ..Moves::default()
    };
    world
        .accepted(vec![commit(log.group, 10, at, &adding(20), 1)])
        .await?;
    ensure!(left_of(&world, 20, log.group).await? == (1, 1, true));
    let append = world.updates(log, author(20, 1), 1).await?;
    // Whoever has its package from before adds it, in the same batch: the other device of its user goes in, it does not.
    let at = world.group(log.group).await?;
    let [again, other] = [20, 21].map(|n| commit(log.group, 10, at, &adding(n), u64::from(n)));
    let events = world.run(vec![list(1, None), append, again, other]).await?;
    let Some(Event::ListChanged { gone, .. }) = events.first() else {
        anyhow::bail!("{events:?}");
    };
    ensure!(*gone == [device(20)]);
    for at in [1, 2] {
        let refused = events.get(at).and_then(refusal);
        ensure!(refused == Some(conclave_order::revoked()), "{events:?}");
    }
    ensure!(
        matches!(events.get(3), Some(Event::Ordered { .. })),
        "{events:?}"
    );
    ensure!(left_of(&world, 20, log.group).await? == (0, 0, false));
    let event = world.one(claim(10, 2, START)).await?;
    ensure!(claimed(&event)?.is_empty());
    // What it has in flight, the next list among it, is not taken either.
    let lost = Asker {
        device: device(20),
        user: user(2),
        session: 1,
    };
    let ack = Op::AckWelcome(AckWelcome {
        device: device(20),
        id: 1,
    });
    for op in [list(2, Some(1)), ack] {
        let refused = world.refused(lost.asks(op)).await?;
        ensure!(refused == conclave_order::revoked(), "{refused:?}");
    }
    let stale = world.refused(list(2, None)).await?;
    ensure!(stale == Refusal::StaleDeviceList { newest: 1 });
    world.accepted(vec![list(2, Some(1))]).await?;
    Ok(())
}

/// Who never logged in is added only where its user's list names it, if there is one.
///
/// # Errors
/// When it is not so.
pub async fn whom_a_list_does_not_name_is_not_added<D: Database>() -> Result<()> {
    let log = log(1, 1);
    let mut world = World::<D>::furnished().await?;
    let key = UserKey::from_bytes(&[7; 32]);
    let genesis = UserGenesis::new(
        RealmId([1; 16]),
        &key,
        START,
        &mut ChaCha20Rng::from_seed([1; 32]),
    );
    let named = [20, 22].map(|n| DeviceRef {
        device: device(n),
        scheme: SCHEME_ED25519,
        key: DeviceKey::from_bytes(&[n; 32]).public().to_vec().into(),
    });
    let list = key.sign_list(&genesis, None, named.to_vec(), START)?;
    let put = Op::PutDeviceList(PutDeviceList {
        user: user(2),
        seq: 1,
        bytes: list.to_bytes(),
        devices: [device(20), device(22)].into(),
        expected: None,
        now: START,
    });
    world.accepted(vec![put]).await?;
    let at = world.group(log.group).await?;
    let adding = |n: u8| {
        let moves = Moves {
            added: vec![n],
            users: (1..10).map(user).collect(),
            ..Moves::default()
        };
        commit(log.group, 10, at, &moves, u64::from(n))
    };
    let refused = world.refused(adding(23)).await?;
    ensure!(refused == conclave_order::revoked(), "{refused:?}");
    world.accepted(vec![adding(22)]).await?;
    Ok(())
}

/// What the service has of a device: Welcomes that wait, states of the first epoch that they lead into, and whether it knows its life.
async fn left_of<D: Database>(
    world: &World<D>,
    of: u8,
    group: GroupId,
) -> Result<(usize, usize, bool)> {
    let device = device(of);
    let rows = world
        .load(|keys| {
            keys.waiting.insert(device);
            keys.joins.insert((group, 1));
            keys.devices.insert(device);
        })
        .await?;
    let waiting = rows.waiting.into_values().flatten().map(|it| it.len());
    let login = rows.devices.into_values().flatten().map(|row| row.login);
    let is_known = login.map(|login| login.token.is_some() || login.next.is_some());
    Ok((
        waiting.sum(),
        rows.joins.values().flatten().count(),
        is_known.into_iter().any(|known| known),
    ))
}
