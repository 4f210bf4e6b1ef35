//! How long a service that was put back waits: for each log, and with everything.

use anyhow::{Context as _, Result, ensure};
use conclave_order::op::drop::DropGroup;
use conclave_order::op::recovery::{Declare, Next, Report};
use conclave_order::rows::RecoveryRow;
use conclave_order::{Op, limits};
use conclave_proto::record::EntryBody;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::service::Cause;
use conclave_proto::{DocumentId, Head, InstanceId, Refusal, UnixMs};
use conclave_rules::LogId;

use super::lost::{ANA, BEN, CAROL, Club, LOG};
use crate::database::Database;
use crate::ids::{group, log, some_hash};
use crate::members::NOW;
use crate::service::Signing;
use crate::world::{START, World, found};

/// Every log that is held.
const ALL: (UnixMs, u32) = (UnixMs(i64::MAX.unsigned_abs()), 64);

const ONE: DocumentId = DocumentId([1; 16]);

/// A service with a group and a document, that knows of something that the document lost.
async fn put_back<D: Database>() -> Result<(World<D>, Signing)> {
    let mut signing = Signing::default();
    let mut world = World::<D>::furnished().await?;
    let (next, hold) = (signing.founding(), None);
    let op = Op::Declare(Box::new(Declare { next, hold }));
    world.accepted(vec![op]).await?;
    let (op, begins) = report(&signing, log(1, 1), 9, START);
    world.accepted(vec![op]).await?;
    signing.begin(&begins);
    Ok((world, signing))
}

/// Somebody shows a head that the service had signed in the present generation, and the generation that begins with it.
fn report(signing: &Signing, log: LogId, size: u64, now: UnixMs) -> (Op, Next) {
    let next = signing.next(None, Cause::PutBack, now);
    let report = Report {
        device: crate::ids::device(20),
        log,
        head: head(size),
        number: signing.generation().number,
        next: next.clone(),
        hold: None,
        now,
    };
    (Op::Report(Box::new(report)), next)
}

async fn held<D: Database>(world: &World<D>, of: LogId) -> Result<Option<RecoveryRow>> {
    let mut rows = world.load(|keys| _ = keys.ended.insert(ALL)).await?;
    let held = rows.ended.remove(&ALL).flatten().context("not asked")?;
    Ok(held.into_iter().find(|row| row.log == of))
}

/// A copy knows of logs that were waited for when it was made. Nobody could bring anything since: whatever begins a generation, they are waited for a day
/// from then on, and what is waited for longer as long as it was to be.
///
/// # Errors
/// When it is not so.
pub async fn a_generation_waits_anew_for_what_was_waited_for<D: Database>() -> Result<()> {
    let of = log(1, 1);
    for (later, ends) in [
        (2 * limits::HOLD_MS, 3 * limits::HOLD_MS),
        (0, limits::HOLD_MS),
    ] {
        let now = START.plus_ms(later);
        for how in 0..3 {
            let (mut world, signing) = put_back::<D>().await?;
            let before = held(&world, of).await?.context("not held")?;
            ensure!(before.ends == START.plus_ms(limits::HOLD_MS));
            let op = match how {
                0 => {
                    let next = signing.next(None, Cause::Restored, now);
                    let hold = None;
                    Op::Declare(Box::new(Declare { next, hold }))
                }
                1 => report(&signing, LogId::of_group(of.group), 9, now).0,
                _ => {
                    world.accepted(vec![found(group(2), 10)]).await?;
                    let next = signing.next(None, Cause::Restored, now);
                    let (group, even_if_founded_here) = (group(2), true);
                    Op::DropGroup(Box::new(DropGroup {
                        group,
                        next,
                        even_if_founded_here,
                    }))
                }
            };
            world.accepted(vec![op]).await?;
            let after = held(&world, of).await?.context("not held")?;
            let ends = START.plus_ms(ends);
            ensure!(after == RecoveryRow { ends, ..before }, "{how} {after:?}");
        }
    }
    Ok(())
}

/// A group that a member brought is held for minutes, in which others show what they have. Where somebody shows that it had more, that is waited for a day,
/// as elsewhere; where a generation begins, for minutes from then on.
///
/// # Errors
/// When it is not so.
pub async fn what_an_adopted_group_lacks_is_waited_for_a_day<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    club.wipe().await?;
    let brought = club.brought(ANA).await?;
    let old = club.generation();
    ensure!(club.adopt(&brought).await? == Ok(()));
    let held = async |club: &Club<D>| {
        let rows = club.lost.load(|keys| _ = keys.recoveries.insert(LOG));
        let row = rows.await?.recoveries.remove(&LOG).flatten();
        row.context("not held")
    };
    ensure!(held(&club).await?.ends == NOW.plus_ms(limits::ADOPTED_HOLD_MS));
    club.hold(Some(NOW)).await?;
    ensure!(held(&club).await?.ends == NOW.plus_ms(limits::ADOPTED_HOLD_MS));
    let head = Head {
        size: club.head().size + 2,
        root: some_hash(1),
    };
    club.report_of(old, LOG, head).await?;
    let row = held(&club).await?;
    ensure!((row.want, row.of, row.began) == (head, old, NOW), "{row:?}");
    ensure!(row.ends == NOW.plus_ms(limits::HOLD_MS), "{row:?}");
    // What is removed is not waited for, though a generation begins with that.
    let mut club = Club::<D>::new().await?;
    club.wipe().await?;
    let brought = club.brought(ANA).await?;
    ensure!(club.adopt(&brought).await? == Ok(()));
    ensure!(club.drop_group(false).await? == Ok(()));
    ensure!(club.waits_for().await?.is_none());
    Ok(())
}

/// Whoever has the end of a log is asked for it before everybody goes on: what nothing proves is taken for a while before the hold over all logs ends, not
/// sooner, since a later head may be shown, and nothing new is.
///
/// # Errors
/// When it is not so.
pub async fn what_nothing_proves_comes_back_before_anything_new<D: Database>() -> Result<()> {
    for (ms, is_taken) in [
        (limits::RETURN_FIRST_MS + 1, false),
        (limits::RETURN_FIRST_MS, true),
        (1, true),
        (0, true),
    ] {
        let mut club = Club::<D>::new().await?;
        club.create(ANA, ONE).await?;
        club.is_copied = true;
        club.put(ANA, void(1)).await?;
        let record = club.update(BEN, ONE, InstanceId([2; 8]))?;
        club.hold(Some(NOW.plus_ms(ms))).await?;
        let (given, before) = (club.offer(ANA).await?, club.copy().await?);
        let of_group = club.give(&given).await?;
        let of_document = club.give_records(ANA, 1, &[record]).await?;
        if is_taken {
            ensure!(of_group == Ok(club.head()), "{ms} {of_group:?}");
            ensure!(of_document.map(|head| head.size) == Ok(2));
        } else {
            let (have, want) = (given.from, given.from);
            ensure!(of_group == Err(Refusal::Recovering { have, want }));
            let (have, want) = (1, 1);
            ensure!(of_document == Err(Refusal::Recovering { have, want }));
            ensure!(club.copy().await? == before);
        }
        // Nothing new, until it has ended.
        club.is_copied = false;
        ensure!(club.put(ANA, void(2)).await.is_err(), "{ms}");
    }
    Ok(())
}

/// A log that nobody writes to does not take what nothing proves for ever: members keep what they have for so long.
///
/// # Errors
/// When it is not so.
pub async fn what_nothing_proves_comes_back_for_so_long<D: Database>() -> Result<()> {
    for (ms, is_taken) in [
        (limits::RETURN_PAST_MS - 1, true),
        (limits::RETURN_PAST_MS, false),
    ] {
        let mut club = Club::<D>::new().await?;
        club.create(ANA, ONE).await?;
        club.is_copied = true;
        club.put(ANA, void(1)).await?;
        let record = club.update(BEN, ONE, InstanceId([2; 8]))?;
        club.report(log(7, 1), head(3)).await?;
        club.now = NOW.plus_ms(ms);
        let (given, before) = (club.offer(ANA).await?, club.copy().await?);
        let of_group = club.give(&given).await?;
        let of_document = club.give_records(ANA, 1, &[record]).await?;
        if is_taken {
            ensure!(of_group == Ok(club.head()), "{of_group:?}");
            ensure!(of_document.map(|head| head.size) == Ok(2));
        } else {
            let why = ForbiddenWhy::WentOn;
            ensure!(of_group == Err(Refusal::Forbidden { why }));
            ensure!(of_document == Err(Refusal::Forbidden { why }));
            ensure!(club.copy().await? == before);
        }
    }
    Ok(())
}

/// The group is looked at before the rest is loaded: whoever was removed in between writes nothing that nothing proves.
///
/// # Errors
/// When it is not so.
pub async fn an_offer_is_judged_by_the_group_as_it_stands<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    club.create(ANA, ONE).await?;
    club.is_copied = true;
    let record = club.update(CAROL, ONE, InstanceId([2; 8]))?;
    club.report(log(7, 1), head(3)).await?;
    let before = club.lost.core().await?;
    club.remove(ANA, CAROL).await?;
    let given = club.offer(ANA).await?;
    ensure!(club.give(&given).await? == Ok(club.head()));
    let copy = club.copy().await?;
    let records = [record];
    let at = club.offering(BEN, None, 1, &records)?;
    let answer = club.give_by(before.state.state(), at).await?;
    let (have, want) = (1, 1);
    ensure!(
        answer == Err(Refusal::Recovering { have, want }),
        "{answer:?}"
    );
    let answer = club.give_records(BEN, 1, &records).await?;
    let why = ForbiddenWhy::WentOn;
    ensure!(answer == Err(Refusal::Forbidden { why }), "{answer:?}");
    ensure!(club.copy().await? == copy);
    Ok(())
}

fn void(nonce: u64) -> EntryBody {
    let (document, record) = (ONE, some_hash(nonce));
    EntryBody::RecordVoided { document, record }
}

fn head(size: u64) -> Head {
    let root = some_hash(size);
    Head { size, root }
}
