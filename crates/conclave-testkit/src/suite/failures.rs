//! When something goes wrong.

use anyhow::{Context as _, Result, ensure};
use conclave_order::{Backend, Batch, Event, Op, Transaction, run_batch};

use super::dump::{Dump, Known, dump};
use crate::database::Database;
use crate::faulty::{Fault, Faulty};
use crate::ids::{author, log};
use crate::world::{LIMITS, Moves, World, commit, refusal};

fn known() -> Known {
    let mut known = Known {
        groups: vec![log(1, 1).group],
        logs: vec![log(1, 1)],
        ..Known::default()
    };
    for n in [10, 20] {
        known.keys.authors.insert((log(1, 1), author(n, 1)));
    }
    known
}

/// Two frames and a commit.
async fn some_ops<D: Database>(world: &World<D>) -> Result<Vec<Op>> {
    let log = log(1, 1);
    let at = world.group(log.group).await?;
    let moves = Moves::default();
    Ok(vec![
        world.updates(log, author(10, 1), 2).await?,
        world.updates(log, author(20, 1), 1).await?,
        commit(log.group, 10, at, &moves, 1),
    ])
}

/// Wherever a transaction fails, the database is as before or as after it, nobody is told more than is so, and the same once more leads to
/// where it would have led.
///
/// # Errors
/// When it is not so.
pub async fn after_a_failure_it_is_as_before_or_as_after<D: Database>() -> Result<()> {
    let mut clean = World::<D>::furnished().await?;
    let before = dump(&clean.database, &known()).await?;
    let ops = some_ops(&clean).await?;
    clean.accepted(ops).await?;
    let after = dump(&clean.database, &known()).await?;
    for fault in Fault::ALL {
        check_fault::<D>(fault, &before, &after)
            .await
            .with_context(|| format!("{fault:?}"))?;
    }
    Ok(())
}

async fn check_fault<D: Database>(fault: Fault, before: &Dump, after: &Dump) -> Result<()> {
    let mut world = World::<D>::furnished().await?;
    let ops = some_ops(&world).await?;
    // As often as it is tried: each operation by itself, or again after a conflict.
    let faults = vec![fault; 5];
    let mut faulty = Faulty {
        inner: world.database.store().await?,
        faults,
    };
    let batch = Batch::new(ops.clone(), LIMITS);
    let mut told = Vec::new();
    for ended in run_batch(&mut faulty, batch, &()).await {
        let end = ended.end();
        told.extend(ended.batch.finish(end));
    }
    let storage = |event: &Event| refusal(event) == Some(conclave_proto::Refusal::Storage);
    ensure!(
        told.len() == ops.len() && told.iter().all(storage),
        "{told:?}"
    );
    let found = dump(&world.database, &known()).await?;
    let expected = match fault {
        Fault::UnknownDone => after,
        _ => before,
    };
    ensure!(found == *expected);
    drop(faulty);
    for event in world.run(ops).await? {
        let answered = match &event {
            Event::Known { .. } => true,
            event => match refusal(event) {
                Some(conclave_proto::Refusal::AlreadyAccepted { .. }) => true,
                other => other.is_none(),
            },
        };
        ensure!(answered, "{event:?}");
    }
    ensure!(dump(&world.database, &known()).await? == *after);
    Ok(())
}

/// What finds no room keeps nobody else out who does.
///
/// # Errors
/// When it is not so.
pub async fn what_finds_room_is_stored<D: Database>() -> Result<()> {
    let world = World::<D>::furnished().await?;
    let ops = some_ops(&world).await?;
    let mut cramped = Faulty {
        inner: world.database.store().await?,
        // All together, and the first by itself.
        faults: vec![Fault::Full; 2],
    };
    let mut told = Vec::new();
    for ended in run_batch(&mut cramped, Batch::new(ops, LIMITS), &()).await {
        let end = ended.end();
        told.extend(ended.batch.finish(end));
    }
    let told: Vec<_> = told.iter().map(refusal).collect();
    let storage = Some(conclave_proto::Refusal::Storage);
    ensure!(told == [storage, None, None], "{told:?}");
    Ok(())
}

/// What was committed and never told is told when it is sent again.
///
/// # Errors
/// When it is not so.
pub async fn a_crash_after_the_commit_is_answered_again<D: Database>() -> Result<()> {
    let mut world = World::<D>::furnished().await?;
    let ops = some_ops(&world).await?;
    let first = world.accepted(ops.clone()).await?;
    // Another life, with another driver.
    world.store = world.database.store().await?;
    let again = world.run(ops).await?;
    for (was, is) in first.iter().zip(&again) {
        let same = match (was, is) {
            (Event::Records(placed), Event::RecordsRefused { refusal, .. }) => {
                let leaf = placed.frame.records.first().map(|record| record.leaf);
                let conclave_proto::Refusal::AlreadyAccepted { leaf: of, seq } = refusal else {
                    anyhow::bail!("{refusal:?}");
                };
                leaf == Some(*of) && *seq == placed.first_seq
            }
            (Event::Ordered { seq, head }, Event::Known { seq: of, head: at }) => {
                (seq, head) == (of, at)
            }
            _ => false,
        };
        ensure!(same, "{was:?} became {is:?}");
    }
    Ok(())
}

/// Two drivers write into one log: every place is taken once, and none is left out.
///
/// # Errors
/// When it is not so.
pub async fn two_drivers_share_a_database<D: Database>() -> Result<()> {
    const ROUNDS: u64 = 10;
    let log = log(1, 1);
    let mut one = World::<D>::furnished().await?;
    let mut other = one.database.store().await?;
    let before = one.document(log).await?.0.frontier.size();
    for _ in 0..ROUNDS {
        let mine = one.updates(log, author(10, 1), 1).await?;
        let theirs = one.updates(log, author(20, 1), 1).await?;
        for op in [&mine, &theirs] {
            let batch = Batch::new(vec![op.clone()], LIMITS);
            let ended = run_batch(&mut other, batch, &()).await;
            ensure!(ended.iter().all(|ended| ended.failure.is_none()));
        }
        // Whoever comes second is told so.
        let late = one.run(vec![mine, theirs]).await?;
        ensure!(
            late.iter().all(|event| refusal(event).is_some()),
            "{late:?}"
        );
        let next = one.updates(log, author(10, 1), 1).await?;
        one.accepted(vec![next]).await?;
    }
    let size = one.document(log).await?.0.frontier.size();
    ensure!(size == before + 3 * ROUNDS, "{size}");
    Ok(())
}

/// A transaction that nobody ends changes nothing, and is in nobody's way.
///
/// # Errors
/// When it is not so.
pub async fn an_abandoned_transaction_was_not<D: Database>() -> Result<()> {
    let mut world = World::<D>::furnished().await?;
    let before = dump(&world.database, &known()).await?;
    let ops = some_ops(&world).await?;
    let mut batch = Batch::new(ops.clone(), LIMITS);
    {
        let mut tx = world.store.begin().await?;
        let rows = tx.load(&batch.keys()).await?;
        batch.apply(rows);
        tx.write(batch.take_changes()).await?;
    }
    ensure!(dump(&world.database, &known()).await? == before);
    world.accepted(ops).await?;
    Ok(())
}
