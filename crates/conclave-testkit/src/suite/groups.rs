//! Groups' logs, and what members need of each other.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use conclave_order::op::help::{AckWelcome, Ask, PutWrap};
use conclave_order::rows::PleaRow;
use conclave_order::{Event, Op, limits};
use conclave_proto::frame::Plea;
use conclave_proto::record::EntryBody;
use conclave_proto::{GroupId, Refusal};

use super::dump::{Known, dump};
use crate::database::Database;
use crate::ids::{author, device, group, log, user, user_of};
use crate::world::{Moves, START, World, admit, commit, create_document, put_entry, refusal, wrap};

fn with_users(moves: Moves) -> Moves {
    Moves {
        users: (1..10).map(user).collect(),
        ..moves
    }
}

/// One commit ends an epoch; the other is told so. The same one again is accepted again.
///
/// # Errors
/// When it is not so.
pub async fn two_commits_for_an_epoch<D: Database>() -> Result<()> {
    let group = group(1);
    for in_one in [true, false] {
        let mut world = World::<D>::furnished().await?;
        let at = world.group(group).await?;
        let moves = with_users(Moves::default());
        let [first, second] = [1, 2].map(|nonce| commit(group, 10, at, &moves, nonce));
        let taken = Refusal::EpochTaken { current: 1 };
        if in_one {
            let events = world.run(vec![first.clone(), second]).await?;
            ensure!(events.get(1).and_then(refusal) == Some(taken), "{events:?}");
        } else {
            world.accepted(vec![first.clone()]).await?;
            ensure!(world.refused(second).await? == taken);
        }
        let again = world.one(first).await?;
        ensure!(matches!(again, Event::Known { .. }), "{again:?}");
        ensure!(world.group(group).await?.size == at.size + 1);
    }
    Ok(())
}

/// A record is of the epoch in which it comes to lie, whichever of the two comes first.
///
/// # Errors
/// When it is not so.
pub async fn append_and_commit_never_cross<D: Database>() -> Result<()> {
    let (log, pen) = (log(1, 1), author(10, 1));
    for commit_first in [true, false] {
        let mut world = World::<D>::furnished().await?;
        let at = world.group(log.group).await?;
        let commit = commit(log.group, 10, at, &with_users(Moves::default()), 1);
        let append = world.updates(log, pen, 1).await?;
        let events = if commit_first {
            world.run(vec![commit, append]).await?
        } else {
            world.run(vec![append, commit]).await?
        };
        let refused: Vec<_> = events.iter().filter_map(refusal).collect();
        let expected: &[Refusal] = match commit_first {
            true => &[Refusal::StaleEpoch { current: 1 }],
            false => &[],
        };
        ensure!(refused == expected, "{events:?}");
    }
    Ok(())
}

/// A document is listed and begun, or neither.
///
/// # Errors
/// When it is not so.
pub async fn entry_and_first_snapshot_come_together<D: Database>() -> Result<()> {
    let mut world = World::<D>::furnished().await?;
    let at = world.group(group(1)).await?;
    let stale = create_document(log(1, 2), 10, at);
    world.begin(log(1, 3), 10).await?;
    ensure!(world.refused(stale).await? == Refusal::StaleEpoch { current: 0 });
    ensure!(world.document(log(1, 2)).await.is_err());
    let (row, active) = world.document(log(1, 3)).await?;
    ensure!((row.frontier.size(), active.seq) == (1, 0));
    ensure!(world.group(group(1)).await?.size == at.size + 1);
    // What comes behind it in the same batch finds it.
    let at = world.group(group(1)).await?;
    let pen = author(10, 1);
    let first = (0, conclave_proto::Hash::ZERO);
    let append = crate::records::updates(log(1, 4), pen, 0, first, 1);
    let both = vec![create_document(log(1, 4), 10, at), append];
    world.accepted(both).await?;
    Ok(())
}

/// A removal makes every open document due; only when none is left is the rotation complete.
///
/// # Errors
/// When it is not so.
pub async fn rotation_is_not_complete_while_one_is_due<D: Database>() -> Result<()> {
    let (group, one, two) = (group(1), log(1, 1), log(1, 2));
    let mut world = World::<D>::furnished().await?;
    world.begin(two, 10).await?;
    let removal = with_users(Moves {
        removed: vec![30],
        ..Moves::default()
    });
    let at = world.group(group).await?;
    let commit = commit(group, 10, at, &removal, 1);
    let now = world.group(group).await?;
    let after = conclave_order::rows::GroupRow {
        epoch: 1,
        size: now.size + 1,
        version: now.version + 1,
        ..now
    };
    let body = EntryBody::RotationComplete { epoch: 1 };
    // Behind the commit in the same batch, it sees what the commit made due.
    let complete = put_entry(group, 10, after, body, 1);
    let events = world.run(vec![commit, complete.clone()]).await?;
    let refused = events.get(1).and_then(refusal);
    ensure!(refused == Some(Refusal::SnapshotRequired), "{events:?}");
    let snapshot = world.snapshot(one, 10, START).await?;
    world.accepted(vec![snapshot]).await?;
    ensure!(world.refused(complete.clone()).await? == Refusal::SnapshotRequired);
    let (document, reason) = (two.document, conclave_proto::record::CloseReason::Archived);
    let closing = EntryBody::DocumentClosed { document, reason };
    let at = world.group(group).await?;
    let closed = put_entry(group, 10, at, closing, 2);
    world.accepted(vec![closed]).await?;
    let at = world.group(group).await?;
    world
        .accepted(vec![put_entry(group, 10, at, body, 3)])
        .await?;
    Ok(())
}

/// A Welcome waits once its commit is accepted, and not when it is refused.
///
/// # Errors
/// When it is not so.
pub async fn a_welcome_comes_with_its_commit<D: Database>() -> Result<()> {
    let group = group(1);
    let mut world = World::<D>::furnished().await?;
    let at = world.group(group).await?;
    let adding = |n| {
        with_users(Moves {
            added: vec![n],
            ..Moves::default()
        })
    };
    let [good, late] = [20, 30].map(|n| commit(group, 10, at, &adding(n), u64::from(n)));
    world.run(vec![good, late]).await?;
    let rows = world
        .load(|keys| {
            keys.waiting.extend([device(20), device(30)]);
            keys.memberships.insert(device(20));
            keys.joins.insert((group, 1));
        })
        .await?;
    let waiting = |n| rows.waiting.get(&device(n)).cloned().flatten();
    ensure!(waiting(20).is_some_and(|waiting| waiting.len() == 1));
    ensure!(waiting(30).is_some_and(|waiting| waiting.is_empty()));
    ensure!(rows.joins.values().flatten().count() == 1);
    // It is a member once it has answered.
    let memberships = rows.memberships.get(&device(20)).cloned().flatten();
    ensure!(memberships.is_some_and(|groups| groups.is_empty()));
    Ok(())
}

/// Wraps and join states of earlier epochs stay as long as a Welcome leads there, and go with it.
///
/// # Errors
/// When it is not so.
pub async fn epochs_are_kept_while_a_welcome_needs_them<D: Database>() -> Result<()> {
    let group = group(1);
    let mut world = World::<D>::furnished().await?;
    for (nonce, added) in [(1, vec![]), (2, vec![20]), (3, vec![]), (4, vec![])] {
        let at = world.group(group).await?;
        let moves = with_users(Moves {
            added,
            ..Moves::default()
        });
        world
            .accepted(vec![commit(group, 10, at, &moves, nonce)])
            .await?;
    }
    ensure!(kept(&world, group).await? == (vec![2, 4], vec![2]));
    for (of, id) in [(30, 1), (20, 9), (20, 1), (20, 1)] {
        let device = device(of);
        world
            .accepted(vec![Op::AckWelcome(AckWelcome { device, id })])
            .await?;
    }
    ensure!(kept(&world, group).await? == (vec![4], vec![]));
    Ok(())
}

/// Epochs of which there are wraps, and join states.
async fn kept<D: Database>(world: &World<D>, group: GroupId) -> Result<(Vec<u64>, Vec<u64>)> {
    let rows = world
        .load(|keys| {
            keys.wraps.extend((0..9).map(|epoch| (group, epoch)));
            keys.joins.extend((0..9).map(|epoch| (group, epoch)));
        })
        .await?;
    let wraps = rows.wraps.into_iter();
    let wraps = wraps.filter(|(_, wraps)| wraps.as_ref().is_some_and(|wraps| !wraps.is_empty()));
    let joins = rows.joins.into_iter().filter(|(_, join)| join.is_some());
    Ok((
        wraps.map(|((_, epoch), _)| epoch).collect(),
        joins.map(|((_, epoch), _)| epoch).collect(),
    ))
}

/// A user has few wraps beside the committer's; a signer's newest takes the place of its own.
///
/// # Errors
/// When it is not so.
pub async fn wraps_are_limited<D: Database>() -> Result<()> {
    let group = group(1);
    let mut world = World::<D>::furnished().await?;
    world.accepted((21..25).map(admit).collect()).await?;
    let at = world.group(group).await?;
    let moves = with_users(Moves::default());
    world
        .accepted(vec![commit(group, 10, at, &moves, 1)])
        .await?;
    let put = |by| {
        let own = (10..40).filter(|other| user_of(*other) == user_of(by));
        Op::PutWrap(PutWrap {
            wrap: wrap(group, 1, by),
            siblings: own.map(device).collect(),
        })
    };
    let max = limits::WRAPS_PER_USER;
    // The same again, and all in one batch.
    let events = world.run([20, 20, 21, 22, 21].map(put).to_vec()).await?;
    let refused: Vec<_> = events.iter().map(refusal).collect();
    let too_many = Some(Refusal::TooLarge { max });
    ensure!(refused == [None, None, None, too_many.clone(), None]);
    ensure!(refusal(&world.one(put(23)).await?) == too_many);
    ensure!(refusal(&world.one(put(30)).await?).is_none());
    let stale = Op::PutWrap(PutWrap {
        wrap: wrap(group, 0, 30),
        siblings: BTreeSet::new(),
    });
    ensure!(world.refused(stale).await? == Refusal::StaleEpoch { current: 1 });
    Ok(())
}

/// Pleas are kept once, and not without bound; a wrap answers those for one, a commit all that it settles.
///
/// # Errors
/// When it is not so.
pub async fn pleas_are_limited<D: Database>() -> Result<()> {
    let group = group(1);
    let mut world = World::<D>::furnished().await?;
    // Of two users, with more devices than one user may have pleas.
    let of_two = 20..40u8;
    world.accepted(of_two.clone().map(admit).collect()).await?;
    let plea = |by: u8, of: u8, what| {
        let plea = PleaRow {
            group,
            device: device(by),
            user: user(of),
            what,
            at: START,
        };
        Op::Ask(Ask { plea, epoch: 0 })
    };
    let first = world.one(plea(20, 2, Plea::Wrap)).await?;
    ensure!(matches!(first, Event::Asked { is_new: true }));
    let again = world.one(plea(20, 2, Plea::Wrap)).await?;
    ensure!(matches!(again, Event::Asked { is_new: false }));
    let ops = of_two.map(|by| plea(by, 2, Plea::ReAdd)).collect();
    let events = world.run(ops).await?;
    let max = limits::ASKS_PER_GROUP_AND_USER;
    let refused = events.iter().filter_map(refusal);
    ensure!(refused.clone().all(|it| it == Refusal::TooLarge { max }));
    ensure!(refused.count() as u64 == 20 + 1 - max);
    world.accepted(vec![plea(10, 1, Plea::Wrap)]).await?;
    let answer = PutWrap {
        wrap: wrap(group, 0, 10),
        siblings: BTreeSet::new(),
    };
    world.accepted(vec![Op::PutWrap(answer)]).await?;
    let known = Known {
        groups: vec![group],
        ..Known::default()
    };
    let before = dump(&world.database, &known).await?;
    let pleas = left(&world, group).await?;
    // The signer's own plea stays.
    ensure!(pleas.iter().filter(|it| it.what == Plea::Wrap).count() == 1);
    let at = world.group(group).await?;
    let moves = Moves {
        users: [user_of(10), user(2)].into(),
        added: vec![21],
        ..Moves::default()
    };
    world
        .accepted(vec![commit(group, 22, at, &moves, 1)])
        .await?;
    ensure!(dump(&world.database, &known).await? != before);
    let after = left(&world, group).await?;
    let settled = |it: &PleaRow| it.device == device(21) || it.device == device(22);
    ensure!(!after.iter().any(|it| it.what == Plea::Wrap || settled(it)));
    ensure!(after.len() + 3 == pleas.len(), "{after:?}");
    Ok(())
}

async fn left<D: Database>(world: &World<D>, group: GroupId) -> Result<Vec<PleaRow>> {
    let rows = world
        .load(|keys| _ = keys.group_pleas.insert(group))
        .await?;
    let pleas = rows.group_pleas.into_values().flatten();
    Ok(pleas.flatten().collect())
}
