//! Sessions and lives of devices: what comes over an older connection, and which copy of a store is let in.

use anyhow::{Result, bail, ensure};
use conclave_order::op::help::AckWelcome;
use conclave_order::op::identity::{Claim, ConfirmLife, Door, Newcomer};
use conclave_order::op::packages::ClearKeyPackages;
use conclave_order::{Asked, Event, Op, Session};
use conclave_proto::{Hash, LifeToken, Refusal, UnixMs};

use super::dump::{Known, dump};
use super::identity::{claim as claim_packages, put};
use crate::database::Database;
use crate::ids::{author, device, group, log, user_of};
use crate::records::{snapshot, update, updates};
use crate::world::{START, World, admit, found, log_in, refusal};

const DEVICE: u8 = 10;
const OTHER_LIFE: Refusal = Refusal::OtherLife { since: START };

fn session(number: u64) -> Session {
    Session {
        device: device(DEVICE),
        number,
    }
}

fn over(number: u64, op: Op) -> Asked {
    Asked {
        session: Some(session(number)),
        op,
    }
}

/// A copy of the device's store.
#[derive(Clone, Copy, Default)]
struct Copy(Claim);

/// What it is told when it is let in.
struct Told {
    session: u64,
    life: u64,
    next: LifeToken,
}

impl Copy {
    /// Logs in at a time.
    async fn log_in<D: Database>(&self, world: &mut World<D>, ms: u64) -> Result<Told, Refusal> {
        let who = Newcomer {
            user: user_of(DEVICE),
            device: device(DEVICE),
            key: vec![DEVICE; 32],
        };
        let now = UnixMs(START.0 + ms);
        let event = world.one(log_in(who, Door::Open, self.0, now)).await;
        match event.map_err(|_| Refusal::Storage)? {
            Event::LoggedIn {
                session,
                life,
                next,
                ..
            } => Ok(Told {
                session,
                life,
                next,
            }),
            event => Err(refusal(&event).unwrap_or(Refusal::Malformed)),
        }
    }

    /// Stores what it was told.
    fn store(&mut self, told: &Told) {
        self.0 = Claim {
            life: told.life,
            token: told.next,
            take_over: false,
        };
    }

    /// Logs in, stores, and confirms.
    async fn connect<D: Database>(&mut self, world: &mut World<D>, ms: u64) -> Result<(), Refusal> {
        let told = self.log_in(world, ms).await?;
        self.store(&told);
        confirm(world, told.session)
            .await
            .map_err(|_| Refusal::Storage)
    }

    fn taking_over(mut self) -> Self {
        self.0.take_over = true;
        self
    }
}

async fn confirm<D: Database>(world: &mut World<D>, session: u64) -> Result<()> {
    let device = device(DEVICE);
    let op = Op::ConfirmLife(ConfirmLife { device });
    world.accepted(vec![over(session, op)]).await?;
    Ok(())
}

fn elsewhere(ms: u64) -> Refusal {
    Refusal::OtherLife {
        since: UnixMs(START.0 + ms),
    }
}

/// Whatever comes over an older session is refused and changes nothing; the newest is heard.
///
/// # Errors
/// When it is not so.
pub async fn a_write_of_an_older_session_is_refused<D: Database>() -> Result<()> {
    let (log, pen) = (log(1, 1), author(DEVICE, 1));
    let mut world = World::<D>::furnished().await?;
    world.accepted(vec![admit(DEVICE)]).await?;
    let updates = world.updates(log, pen, 2).await?;
    let (row, active) = world.document(log).await?;
    let device = device(DEVICE);
    let ops = [
        put(DEVICE, vec![], None, START),
        Op::ClearKeyPackages(ClearKeyPackages { device }),
        claim_packages(DEVICE, 2, START),
        found(group(2), DEVICE),
        Op::AckWelcome(AckWelcome { device, id: 1 }),
        Op::ConfirmLife(ConfirmLife { device }),
        snapshot(log, DEVICE, 0, &active, row.frontier.head(), START),
        updates,
    ];
    let known = Known {
        groups: vec![log.group, group(2)],
        logs: vec![log],
        ..Known::default()
    };
    let before = dump(&world.database, &known).await?;
    for op in &ops {
        for number in [0, 1, 3] {
            let refused = world.refused(over(number, op.clone())).await?;
            ensure!(refused == OTHER_LIFE, "{op:?}: {refused:?}");
        }
    }
    let all = ops.iter().map(|op| over(1, op.clone())).collect();
    for event in world.run(all).await? {
        ensure!(refusal(&event) == Some(OTHER_LIFE), "{event:?}");
    }
    ensure!(dump(&world.database, &known).await? == before);
    let all = ops.into_iter().map(|op| over(2, op)).collect();
    world.accepted(all).await?;
    Ok(())
}

/// What a connection has sent is in the log before its device logs in again, or never: in one transaction and in several.
///
/// # Errors
/// When it is not so.
pub async fn an_append_is_there_before_the_next_login_or_never<D: Database>() -> Result<()> {
    let (log, pen) = (log(1, 1), author(DEVICE, 1));
    for in_one in [true, false] {
        let mut world = World::<D>::furnished().await?;
        let first = world.updates(log, pen, 1).await?;
        let leaf = update(log, pen, 0, 0, Hash::ZERO).leaf();
        let late = updates(log, pen, 0, (1, leaf), 1);
        let asked = vec![
            over(1, first),
            Asked::from(admit(DEVICE)),
            over(1, late.clone()),
        ];
        let events = if in_one {
            world.run(asked).await?
        } else {
            let mut events = Vec::new();
            for asked in asked {
                events.push(world.one(asked).await?);
            }
            events
        };
        let refused: Vec<_> = events.iter().map(refusal).collect();
        ensure!(refused == [None, None, Some(OTHER_LIFE)], "{refused:?}");
        let (row, _) = world.document(log).await?;
        ensure!(row.frontier.size() == 2);
        world.accepted(vec![over(2, late)]).await?;
    }
    Ok(())
}

/// Whatever is lost on the way between the service and a device that is there once: it is let in.
///
/// # Errors
/// When it is not so.
pub async fn a_lost_confirmation_bars_nobody<D: Database>() -> Result<()> {
    // What becomes of each of three logins: its answer is lost; it is stored, and the confirmation lost; all is well.
    for case in 0..27 {
        let mut world = World::<D>::furnished().await?;
        let mut copy = Copy::default();
        copy.connect(&mut world, 1).await?;
        for (at, lost) in [case % 3, case / 3 % 3, case / 9].into_iter().enumerate() {
            let told = copy.log_in(&mut world, 2 + at as u64).await?;
            if lost > 0 {
                copy.store(&told);
            }
            if lost > 1 {
                confirm(&mut world, told.session).await?;
                // It arrives twice.
                confirm(&mut world, told.session).await?;
            }
        }
        copy.connect(&mut world, 9).await?;
        // A login that was sent earlier, and comes after it.
        let late = Copy::default().log_in(&mut world, 10).await;
        ensure!(late.err() == Some(elsewhere(9)), "case {case}");
    }
    Ok(())
}

/// A login that was on its way for long ends the connection that came after it, and no more than that.
///
/// # Errors
/// When it is not so.
pub async fn a_login_that_comes_late_bars_nobody<D: Database>() -> Result<()> {
    let mut world = World::<D>::furnished().await?;
    let mut copy = Copy::default();
    copy.connect(&mut world, 1).await?;
    let late = copy;
    let told = copy.log_in(&mut world, 2).await?;
    copy.store(&told);
    // It is as good as the one that it was overtaken by, which is not confirmed yet.
    late.log_in(&mut world, 3).await?;
    let device = device(DEVICE);
    let lost = Op::ConfirmLife(ConfirmLife { device });
    let refused = world.refused(over(told.session, lost)).await?;
    ensure!(refused == elsewhere(3));
    copy.connect(&mut world, 4).await?;
    ensure!(late.log_in(&mut world, 5).await.err() == Some(elsewhere(4)));
    copy.connect(&mut world, 6).await?;
    Ok(())
}

/// Of two copies the one that was there first goes on. The other is told since when, also where the first was cut off at any point.
///
/// # Errors
/// When it is not so.
pub async fn an_older_copy_is_told_since_when<D: Database>() -> Result<()> {
    let mut world = World::<D>::furnished().await?;
    let mut one = Copy::default();
    one.connect(&mut world, 1).await?;
    let mut other = one;
    for at in 2..6 {
        one.connect(&mut world, at).await?;
        let refused = other.connect(&mut world, 100).await;
        ensure!(refused == Err(elsewhere(at)), "{refused:?}");
    }
    // Both know the same token, which neither has confirmed: the first to go on from it is the one.
    let mut world = World::<D>::furnished().await?;
    let mut one = Copy::default();
    one.connect(&mut world, 1).await?;
    let mut other = one;
    let told = one.log_in(&mut world, 2).await?;
    one.store(&told);
    let told = other.log_in(&mut world, 3).await?;
    other.store(&told);
    one.connect(&mut world, 4).await?;
    one.connect(&mut world, 5).await?;
    ensure!(other.connect(&mut world, 6).await == Err(elsewhere(5)));
    Ok(())
}

/// Who takes over goes on, and the other is kept out, until it takes over in its turn.
///
/// # Errors
/// When it is not so.
pub async fn take_over_stops_the_other<D: Database>() -> Result<()> {
    let mut world = World::<D>::furnished().await?;
    let mut on = Copy::default();
    on.connect(&mut world, 1).await?;
    let mut out = on;
    on.connect(&mut world, 2).await?;
    for round in 1..7 {
        let at = 10 * round;
        std::mem::swap(&mut on, &mut out);
        on = on.taking_over();
        // The answer is lost once.
        on.log_in(&mut world, at).await?;
        on.connect(&mut world, at + 1).await?;
        on.connect(&mut world, at + 2).await?;
        let refused = out.connect(&mut world, at + 3).await;
        ensure!(refused == Err(elsewhere(at + 2)), "{refused:?}");
        on.connect(&mut world, at + 4).await?;
    }
    Ok(())
}

/// A device that was told of later lives than the service knows is let in: it is the service that was put back.
///
/// # Errors
/// When it is not so.
pub async fn a_service_that_was_put_back_lets_its_devices_in<D: Database>() -> Result<()> {
    for behind in 1..4 {
        let mut world = World::<D>::furnished().await?;
        let mut copy = Copy::default();
        for at in 0..4 {
            copy.connect(&mut world, at).await?;
        }
        // One that goes back by so many logins.
        let mut restored = World::<D>::furnished().await?;
        let mut then = Copy::default();
        for at in 0..4 - behind {
            then.connect(&mut restored, at).await?;
        }
        // No other copy: what it was told there means nothing here.
        copy.0.token.0[0] ^= 1;
        copy.connect(&mut restored, 10).await?;
        copy.connect(&mut restored, 11).await?;
        match then.connect(&mut restored, 12).await {
            Err(Refusal::OtherLife { .. }) => {}
            other => bail!("{other:?}"),
        }
    }
    Ok(())
}
