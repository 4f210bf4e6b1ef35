//! How much is stored, and for whom.

use anyhow::{Context as _, Result, ensure};
use conclave_order::limits::{Limits, REPLACED_SNAPSHOT_MS};
use conclave_order::op::upkeep::Sweep;
use conclave_order::{Batch, Bounds, Event, Op, Reader, WholeRecord, run_batch};
use conclave_proto::codec::encode;
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::{GroupId, Refusal, UnixMs, UserId};
use conclave_rules::LogId;

use crate::database::Database;
use crate::ids::{author, log, user};
use crate::world::{LIMITS, Moves, START, World, commit, put_entry, refusal};

const ALL: Bounds = Bounds {
    from: 0,
    end: u64::MAX,
    bytes: usize::MAX,
};

/// What is counted for a user and of a group.
async fn counted<D: Database>(world: &World<D>, who: UserId, group: GroupId) -> Result<(u64, u64)> {
    let rows = world
        .load(|keys| {
            keys.usage_of_users.insert(who);
            keys.usage_of_groups.insert(group);
        })
        .await?;
    let of = |bytes: Option<Option<u64>>| bytes.flatten().unwrap_or(0);
    Ok((
        of(rows.usage_of_users.get(&who).copied()),
        of(rows.usage_of_groups.get(&group).copied()),
    ))
}

/// What is stored of a group, looked at whole.
async fn stored<D: Database>(world: &World<D>, logs: &[LogId]) -> Result<u64> {
    let mut reads = world.database.reader().await?;
    let group = logs.first().context("no log")?.group;
    let entries = reads.entries(&group, ALL).await?;
    let mut bytes: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
    for log in logs {
        let size = world.document(*log).await?.0.frontier.size();
        for seq in 0..size {
            if let Some(WholeRecord::Whole { record, .. }) = reads.whole(log, seq).await? {
                bytes += encode(&record.sealed).len();
                let is_snapshot =
                    matches!(record.header.body, conclave_proto::RecordBody::Snapshot(_));
                bytes += if is_snapshot {
                    encode(&record.header).len()
                } else {
                    0
                };
            }
        }
    }
    Ok(bytes as u64)
}

/// Runs operations under other limits.
async fn under<D: Database>(
    world: &mut World<D>,
    limits: Limits,
    ops: Vec<Op>,
) -> Result<Vec<Event>> {
    let ended = run_batch(&mut world.store, Batch::new(ops, limits), &()).await;
    let mut events = Vec::new();
    for ended in ended {
        let end = ended.end();
        events.extend(ended.batch.finish(end));
    }
    Ok(events)
}

fn full() -> Option<Refusal> {
    Some(Refusal::Storage)
}

async fn swept<D: Database>(world: &mut World<D>, now: UnixMs) -> Result<()> {
    let most = 10;
    loop {
        let event = world.one(Op::Sweep(Sweep { now, most })).await?;
        match event {
            Event::Swept(swept) if swept == most as usize => {}
            Event::Swept(_) => return Ok(()),
            other => anyhow::bail!("{other:?}"),
        }
    }
}

/// The counters are what is stored, whatever comes and goes: updates and snapshots of several users, snapshots that lose their content, a deleted
/// document in pieces.
///
/// # Errors
/// When it is not so.
pub async fn counters_are_what_is_stored<D: Database>() -> Result<()> {
    let (first, second) = (log(1, 1), log(1, 2));
    let group = first.group;
    let mut world = World::<D>::furnished().await?;
    world.begin(second, 20).await?;
    let both = [first, second];
    // What the group came with counts, for who founded it.
    let (_, all) = counted(&world, user(1), group).await?;
    let founding = all - stored(&world, &both).await?;
    ensure!(founding > 0);
    for round in 0..4 {
        for (log, pen) in [(first, author(10, 1)), (second, author(20, 1))] {
            let more = world.updates(log, pen, 3).await?;
            world.accepted(vec![more]).await?;
            let by = if log == first { 10 } else { 20 };
            let snapshot = world.snapshot(log, by, UnixMs(START.0 + round)).await?;
            world.accepted(vec![snapshot]).await?;
        }
        let all = counted(&world, user(1), group).await?.1;
        ensure!(all == founding + stored(&world, &both).await?);
    }
    let (ana, all) = counted(&world, user(1), group).await?;
    let (ben, _) = counted(&world, user(2), group).await?;
    ensure!(ana > 0 && ben > 0 && ana + ben <= all, "{ana} {ben} {all}");
    // Those of which there are two newer ones count for nobody in particular: others decide how often there are new ones.
    let (nobody, _) = counted(&world, UserId::ZERO, group).await?;
    ensure!(nobody > 0 && ana + ben + nobody == all, "{nobody} {all}");
    // Two snapshots of each have been replaced for long enough.
    let later = UnixMs(START.0 + 10 + REPLACED_SNAPSHOT_MS);
    swept(&mut world, later).await?;
    let (_, less) = counted(&world, user(1), group).await?;
    ensure!(
        less < all && less == founding + stored(&world, &both).await?,
        "{less} of {all}"
    );
    let (nobody_less, _) = counted(&world, UserId::ZERO, group).await?;
    ensure!(nobody - nobody_less == all - less, "{nobody} {nobody_less}");
    ensure!(counted(&world, user(2), group).await?.0 == ben);

    // A deleted document goes in pieces, and is free when it has gone.
    let many = world
        .updates(second, author(20, 1), LIMITS.tail_records - 1)
        .await?;
    world.accepted(vec![many]).await?;
    let before = counted(&world, user(2), group).await?;
    let at = world.group(group).await?;
    let (document, reason) = (second.document, CloseReason::Deleted);
    let closing = EntryBody::DocumentClosed { document, reason };
    world
        .accepted(vec![put_entry(group, 10, at, closing, 1)])
        .await?;
    swept(&mut world, later).await?;
    let after = counted(&world, user(2), group).await?;
    ensure!(
        after.0 < before.0 && after.1 < before.1,
        "{before:?} {after:?}"
    );
    ensure!(
        after.1 == founding + stored(&world, &both).await?,
        "{after:?}"
    );
    // What would have lost its content later frees nothing again.
    swept(&mut world, UnixMs(later.0 + 2 * REPLACED_SNAPSHOT_MS)).await?;
    ensure!(counted(&world, user(2), group).await?.0 == after.0);
    let mut reads = world.database.reader().await?;
    for seq in 0..world.document(second).await?.0.frontier.size() {
        let left = reads.whole(&second, seq).await?;
        ensure!(matches!(left, Some(WholeRecord::Leaf(_))), "{seq} {left:?}");
    }
    Ok(())
}

/// Past a limit nothing more is stored for a user, or of a group, within a batch too; others go on, and so does all that changes who is in a
/// group and which keys it has.
///
/// # Errors
/// When it is not so.
pub async fn past_a_limit_nothing_more_is_stored<D: Database>() -> Result<()> {
    let log = log(1, 1);
    let group = log.group;
    let mut world = World::<D>::furnished().await?;
    let more = world.updates(log, author(10, 1), 2).await?;
    world.accepted(vec![more]).await?;
    let before = counted(&world, user(1), group).await?;
    let of_user = |bytes| Limits {
        user_bytes: Some(bytes),
        ..LIMITS
    };
    let own = world.updates(log, author(10, 1), 1).await?;
    let others = world.updates(log, author(20, 1), 1).await?;
    let ops = vec![own.clone(), others];
    let events = under(&mut world, of_user(before.0), ops).await?;
    let refused: Vec<_> = events.iter().map(refusal).collect();
    ensure!(refused == [full(), None], "{refused:?}");
    ensure!(
        counted(&world, user(1), group).await?.0 == before.0,
        "nothing of it"
    );
    // There is room for one of two.
    world.accepted(vec![own]).await?;
    let one = counted(&world, user(1), group).await?.0 - before.0;
    let (next, last) = world.chain(log, author(10, 1)).await?;
    let first = crate::records::updates(log, author(10, 1), 0, (next, last), 1);
    let leaf = crate::records::update(log, author(10, 1), 0, next, last).leaf();
    let second = crate::records::updates(log, author(10, 1), 0, (next + 1, leaf), 1);
    let room = of_user(before.0 + 2 * one);
    let events = under(&mut world, room, vec![first, second]).await?;
    let refused: Vec<_> = events.iter().map(refusal).collect();
    ensure!(refused == [None, full()], "{refused:?}");

    // A full group takes no updates and no documents from anybody; a commit it takes, and the snapshots that new keys need.
    let (_, bytes) = counted(&world, user(1), group).await?;
    let full_group = Limits {
        group_bytes: Some(bytes),
        ..LIMITS
    };
    let at = world.group(group).await?;
    let (document, reason) = (log.document, CloseReason::Archived);
    let archived = EntryBody::DocumentClosed { document, reason };
    let ops = vec![
        world.updates(log, author(20, 1), 1).await?,
        world.snapshot(log, 10, START).await?,
        crate::world::create_document(crate::ids::log(1, 3), 10, at),
        put_entry(group, 10, at, archived, 1),
    ];
    for op in ops {
        let events = under(&mut world, full_group, vec![op]).await?;
        let refused = events.first().and_then(refusal);
        ensure!(refused == full(), "{refused:?}");
    }
    let at = world.group(group).await?;
    let gone = Moves {
        removed: vec![20],
        ..Moves::default()
    };
    let removal = commit(group, 10, at, &gone, 1);
    let events = under(&mut world, full_group, vec![removal]).await?;
    ensure!(
        events.iter().all(|event| refusal(event).is_none()),
        "{events:?}"
    );
    let snapshot = world.snapshot(log, 10, START).await?;
    let events = under(&mut world, full_group, vec![snapshot]).await?;
    ensure!(
        events.iter().all(|event| refusal(event).is_none()),
        "{events:?}"
    );
    Ok(())
}
