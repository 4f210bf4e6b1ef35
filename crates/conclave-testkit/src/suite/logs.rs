//! Documents' logs.

use anyhow::{Context, Result, ensure};
use conclave_order::query::document::Gathered;
use conclave_order::rows::RecordKind;
use conclave_order::{Bounds, Event, Proofs, Reader, WholeRecord, proof};
use conclave_proto::codec::decode;
use conclave_proto::frame::{DeliveredRecord, ServiceFrame};
use conclave_proto::merkle::verify_consistency;
use conclave_proto::record::{Chained, RecordBody};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Head, Refusal, UnixMs};

use super::dump::{Known, dump};
use crate::database::Database;
use crate::ids::{author, log, some_hash};
use crate::records::{append, chained, snapshot, update, updates};
use crate::world::{LIMITS, START, World};

/// A used clock is told where it lies, a gap what is expected; a record that names another predecessor is refused.
///
/// # Errors
/// When it is not so.
pub async fn clocks_gaps_and_wrong_predecessors_are_refused<D: Database>() -> Result<()> {
    let (log, pen) = (log(1, 1), author(10, 1));
    let mut world = World::<D>::furnished().await?;
    let first = world.updates(log, pen, 2).await?;
    world.accepted(vec![first.clone()]).await?;
    let leaf = update(log, pen, 0, 0, conclave_proto::Hash::ZERO).leaf();
    let again = world.refused(first).await?;
    ensure!(again == Refusal::AlreadyAccepted { leaf, seq: 1 });
    let (next, last) = world.chain(log, pen).await?;
    let gap = Refusal::ClockGap { expected: 2 };
    for wrong in [(next + 1, last), (next, some_hash(7))] {
        ensure!(world.refused(updates(log, pen, 0, wrong, 1)).await? == gap);
    }
    let stale = updates(log, pen, 3, (next, last), 1);
    ensure!(world.refused(stale).await? == Refusal::StaleEpoch { current: 0 });
    // The same in one batch: the second sees the first.
    let frame = world.updates(log, pen, 1).await?;
    let events = world.run(vec![frame.clone(), frame]).await?;
    let refused = matches!(
        events.get(1),
        Some(Event::RecordsRefused {
            refusal: Refusal::AlreadyAccepted { seq: 3, .. },
            ..
        })
    );
    ensure!(refused, "{events:?}");
    Ok(())
}

/// Once a later instance of a device has written, earlier ones do not, within a batch too.
///
/// # Errors
/// When it is not so.
pub async fn a_new_instance_closes_older_ones<D: Database>() -> Result<()> {
    let log = log(1, 1);
    let closed = Refusal::BadRecord {
        fault: RecordFault::InstanceClosed,
    };
    for in_one in [false, true] {
        let mut world = World::<D>::furnished().await?;
        let (old, new, other) = (author(10, 1), author(10, 2), author(20, 1));
        let begun = world.updates(log, old, 1).await?;
        let elsewhere = world.updates(log, other, 1).await?;
        world.accepted(vec![begun, elsewhere]).await?;
        let next = world.updates(log, new, 1).await?;
        let late = world.updates(log, old, 1).await?;
        let events = if in_one {
            world.run(vec![next, late]).await?
        } else {
            world.accepted(vec![next]).await?;
            vec![world.one(late).await?]
        };
        let refusal = events.last().and_then(crate::world::refusal);
        ensure!(refusal == Some(closed.clone()), "{events:?}");
        let more = vec![
            world.updates(log, new, 1).await?,
            world.updates(log, other, 1).await?,
        ];
        world.accepted(more).await?;
    }
    Ok(())
}

/// What is refused changes nothing.
///
/// # Errors
/// When it is not so.
pub async fn refused_operations_leave_no_row<D: Database>() -> Result<()> {
    let (log, pen) = (log(1, 1), author(10, 1));
    let mut world = World::<D>::furnished().await?;
    let full = world.updates(log, pen, LIMITS.tail_records).await?;
    world.accepted(vec![full]).await?;
    let known = Known {
        groups: vec![log.group],
        logs: vec![log],
        ..Known::default()
    };
    let before = dump(&world.database, &known).await?;
    let over = world.updates(log, pen, 1).await?;
    ensure!(world.refused(over).await? == Refusal::SnapshotRequired);
    let stranger = world.updates(log, author(90, 1), 1).await?;
    world.refused(stranger).await?;
    let (row, active) = world.document(log).await?;
    let wrong = Head {
        root: some_hash(1),
        ..row.frontier.head()
    };
    let snapshot = snapshot(log, 10, 0, &active, wrong, START);
    let fault = RecordFault::Covered;
    ensure!(world.refused(snapshot).await? == Refusal::BadRecord { fault });
    ensure!(dump(&world.database, &known).await? == before);
    Ok(())
}

/// A stretch has one row at least, ends where it should, and goes on where the one before ended.
///
/// # Errors
/// When it is not so.
pub async fn stretches_are_bounded_and_without_gaps<D: Database>() -> Result<()> {
    let (log, pen) = (log(1, 1), author(10, 1));
    let mut world = World::<D>::furnished().await?;
    for _ in 0..6 {
        let more = world.updates(log, pen, 5).await?;
        world.accepted(vec![more]).await?;
    }
    let mut reads = world.database.reader().await?;
    for bytes in [1, 500, usize::MAX] {
        let mut next = 3;
        while next < 29 {
            let bounds = Bounds {
                from: next,
                end: 29,
                bytes,
            };
            let records = reads.records(&log, bounds).await?;
            ensure!(!records.is_empty());
            for record in records {
                ensure!(record.seq == next, "{} is not {next}", record.seq);
                next += 1;
            }
        }
        ensure!(next == 29);
    }
    let bounds = Bounds {
        from: 0,
        end: 9,
        bytes: 1,
    };
    let entries = reads.entries(&log.group, bounds).await?;
    ensure!(entries.len() == 1);
    Ok(())
}

/// A record is put together again as its author wrote it, and the tree's nodes prove prefixes.
///
/// # Errors
/// When it is not so.
pub async fn records_are_read_as_they_were_written<D: Database>() -> Result<()> {
    let (log, pen) = (log(1, 1), author(10, 1));
    let mut world = World::<D>::furnished().await?;
    let mut heads = vec![Head::EMPTY];
    for _ in 0..4 {
        for count in [1, 17, 16] {
            let more = world.updates(log, pen, count).await?;
            world.accepted(vec![more]).await?;
        }
        heads.push(world.document(log).await?.0.frontier.head());
        let now = UnixMs(START.0);
        let snapshot = world.snapshot(log, 10, now).await?;
        world.accepted(vec![snapshot]).await?;
    }
    let mut reads = world.database.reader().await?;
    let whole = reads.whole(&log, 2).await?;
    let first = update(log, pen, 0, 0, conclave_proto::Hash::ZERO);
    let second = update(log, pen, 0, 1, first.leaf());
    let found =
        matches!(&whole, Some(WholeRecord::Whole { record, covered: 0 }) if **record == second);
    ensure!(found, "{whole:?}");
    ensure!(reads.whole(&log, 10_000).await?.is_none());
    for (at, old) in heads.iter().enumerate() {
        for new in heads.iter().skip(at) {
            let mut rows = conclave_order::Rows::default();
            let proof = loop {
                match proof(log, old.size, new.size, &rows) {
                    Ok(proof) => break proof,
                    Err(conclave_order::Stop::Lacks(keys)) => {
                        rows.extend(reads.load(&keys).await?);
                    }
                    Err(stop) => anyhow::bail!("{stop:?}"),
                }
            };
            if old.size > 0 && old.size < new.size {
                verify_consistency(old, new, &proof)?;
            }
        }
    }
    Ok(())
}

/// A carried record has its place in its carrier's chain, is read as it was written, and weighs what an update of its size weighs.
///
/// # Errors
/// When it is not so.
pub async fn a_carried_record_is_one_in_its_carriers_chain<D: Database>() -> Result<()> {
    let (log, pen) = (log(1, 1), author(10, 1));
    let mut weights = Vec::new();
    for carries in [false, true] {
        let mut world = World::<D>::furnished().await?;
        let (clock, prev) = world.chain(log, pen).await?;
        let place = Chained { clock, prev };
        let body = match carries {
            true => RecordBody::Carried(place),
            false => RecordBody::Update(place),
        };
        let before = world.document(log).await?.0;
        let record = chained(log, pen, 0, body);
        let frame = append((log, pen, 0), (clock, prev), std::slice::from_ref(&record));
        world.accepted(vec![frame]).await?;
        let after = world.document(log).await?.0;
        weights.push(after.weight.saturating_sub(before.weight));
        ensure!(world.chain(log, pen).await? == (clock + 1, record.leaf()));
        let seq = before.frontier.size();
        let mut reads = world.database.reader().await?;
        let whole = reads.whole(&log, seq).await?;
        let found = matches!(&whole, Some(WholeRecord::Whole { record: it, .. }) if **it == record);
        ensure!(found, "{whole:?}");
        let bounds = Bounds {
            from: seq,
            end: seq + 1,
            bytes: usize::MAX,
        };
        let rows = reads.records(&log, bounds).await?;
        let [row] = rows.as_slice() else {
            anyhow::bail!("{rows:?}");
        };
        ensure!((row.kind == RecordKind::Carried) == carries, "{row:?}");
        let mut proofs = Proofs::default();
        let mut gathered = Gathered::new(1, row.seq);
        gathered
            .put(&mut reads, (log, None), row, &mut proofs)
            .await?;
        let frame = gathered.take(seq + 1).context("a frame")?;
        let frame: ServiceFrame = decode("frame", &frame, 100_000)?;
        let ServiceFrame::Deliver { records, .. } = frame else {
            anyhow::bail!("{frame:?}");
        };
        let told = match records.0.as_slice() {
            [DeliveredRecord::Update(it)] if !carries => it,
            [DeliveredRecord::Carried(it)] if carries => it,
            other => anyhow::bail!("{other:?}"),
        };
        ensure!(told.sealed == record.sealed);
    }
    ensure!(weights.first() == weights.last(), "{weights:?}");
    Ok(())
}

/// Snapshots follow each other; what is replaced keeps its place, and loses its content some time later.
///
/// # Errors
/// When it is not so.
pub async fn snapshots_follow_each_other_and_lose_their_content<D: Database>() -> Result<()> {
    let (log, pen) = (log(1, 1), author(10, 1));
    let mut world = World::<D>::furnished().await?;
    let mut places = Vec::new();
    for round in 0..4 {
        let more = world.updates(log, pen, 3).await?;
        world.accepted(vec![more]).await?;
        let snapshot = world.snapshot(log, 10, UnixMs(START.0 + round)).await?;
        let again = snapshot.clone();
        let events = world.accepted(vec![snapshot, again]).await?;
        let [Event::Snapshot(new), Event::Known { seq, .. }] = events.as_slice() else {
            anyhow::bail!("{events:?}");
        };
        ensure!(new.seq == *seq);
        places.push(new.seq);
    }
    let now = UnixMs(START.0 + 10 + conclave_order::limits::REPLACED_SNAPSHOT_MS);
    let sweep = conclave_order::op::upkeep::Sweep { now, most: 10 };
    let swept = world.one(conclave_order::Op::Sweep(sweep)).await?;
    ensure!(matches!(swept, Event::Swept(2)), "{swept:?}");
    let mut reads = world.database.reader().await?;
    let mut kept = Vec::new();
    for seq in [0].iter().chain(&places) {
        let whole = reads.whole(&log, *seq).await?;
        kept.push(matches!(whole, Some(WholeRecord::Whole { .. })));
    }
    // The first of a document, the active one and its parent stay.
    ensure!(kept == [true, false, false, true, true], "{kept:?}");
    Ok(())
}

/// Of snapshots that were replaced at one time those of the lesser log go first, whichever document was begun first.
///
/// # Errors
/// When it is not so.
pub async fn what_was_replaced_at_one_time_goes_in_one_order<D: Database>() -> Result<()> {
    let (lesser, greater) = (log(1, 2), log(1, 3));
    let mut world = World::<D>::furnished().await?;
    for log in [greater, lesser] {
        world.begin(log, 10).await?;
        for _ in 0..3 {
            let more = world.updates(log, author(10, 1), 3).await?;
            world.accepted(vec![more]).await?;
            let snapshot = world.snapshot(log, 10, START).await?;
            world.accepted(vec![snapshot]).await?;
        }
    }
    let first = (START, 1);
    let rows = world.load(|keys| _ = keys.overdue.insert(first)).await?;
    let found = rows.overdue.get(&first).cloned().flatten();
    let found: Vec<_> = found.into_iter().flatten().map(|row| row.log).collect();
    ensure!(found == [lesser], "{found:?}");
    Ok(())
}
