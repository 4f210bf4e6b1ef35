//! Accepting commits.

use std::sync::Arc;

use conclave_mls::{JudgedCommit, PublicGroupState};
use conclave_proto::codec::encode;
use conclave_proto::frame::Answer;
use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap};
use conclave_proto::{DeviceId, GroupId, Refusal, UnixMs, UserId};
use conclave_rules::GroupState;
use sqlx::SqliteConnection;

use super::rows::{self, NewEntry};
use super::{Group, asks, join};
use crate::hub::Conn;
use crate::store::codes::int;
use crate::store::{OpError, StoreError, accounts};

/// Everything that a commit changes in the database.
struct NewCommit {
    entry: NewEntry,
    author: DeviceId,
    next_epoch: u64,
    checkpoint: Vec<u8>,
    group_info: Vec<u8>,
    wrap: RootWrap,
    added: Vec<DeviceId>,
    removed: Vec<DeviceId>,
    /// Rows that begin with this epoch: who is new, or has changed.
    begun: Vec<(DeviceId, UserId)>,
    /// Whether all documents are due for a new snapshot.
    due: bool,
    join: Option<NewJoin>,
}

/// What joiners are handed.
struct NewJoin {
    welcome: Vec<u8>,
    state: Vec<u8>,
    frontier: Vec<u8>,
    tree: Vec<u8>,
}

/// Orders a commit.
pub(crate) async fn commit(
    group: &Arc<Group>,
    conn: &Conn,
    bundle: CommitBundle,
) -> Result<Answer, OpError> {
    let mut core = group.core().await?;
    let leaf = GroupEntry::Commit(bundle.commit.clone()).leaf();
    let known = {
        let mut reads = group.env.reads.acquire().await?;
        rows::position_of(&mut reads, &group.id, &leaf).await?
    };
    if let Some((seq, head)) = known {
        core.keep();
        return Ok(Answer::Accepted { seq, head });
    }
    let before = core.state.state().clone();
    let now = group.env.clock.now();
    let judged = match core
        .state
        .judge_bundle(&bundle, conn.device, now)
        .and_then(|judged| {
            pace(group, &before, &judged, now)?;
            Ok(judged)
        }) {
        Ok(judged) => judged,
        Err(refusal) => {
            let head = before.head();
            core.keep();
            // Breakage: who loses the race for an epoch is told that it won.
            if crate::broken("accept-duplicate-commit")
                && matches!(refusal, Refusal::EpochTaken { .. })
            {
                return Ok(Answer::Accepted {
                    seq: head.size,
                    head,
                });
            }
            return Err(refusal.into());
        }
    };
    let next = Arc::new(judged.next.clone());
    let (added, removed) = (judged.added.clone(), judged.removed.clone());
    let entry = judged.entry.clone();
    let new = apply(&mut core.state, &before, judged, conn.device)?;
    let answer = Answer::Accepted {
        seq: new.entry.size,
        head: new.entry.head,
    };
    let published = group.clone();
    group
        .env
        .writer
        .call_then(
            move |conn| Box::pin(async move { store(conn, &new).await }),
            move |()| {
                published.publish(next.clone(), &entry, &removed);
                join::announce(&published, next.epoch, &added);
            },
        )
        .await?;
    core.keep();
    Ok(answer)
}

/// Renewals of leaves that change nothing else, and returns, are paced: each costs every member a commit to process. Returns have buckets of
/// their own: after a commit that nobody can decrypt, a whole group comes back at once.
fn pace(
    group: &Group,
    before: &GroupState,
    judged: &JudgedCommit,
    now: UnixMs,
) -> Result<(), Refusal> {
    let env = &group.env;
    if judged.is_external() {
        return env.returns.take((group.id, judged.author), 1, now);
    }
    let renewal = judged.added.is_empty()
        && judged.removed.is_empty()
        && judged.next.policy == before.policy
        && before.is_member(&judged.author);
    if renewal {
        env.self_updates.take(group.id, 1, now)
    } else {
        Ok(())
    }
}

/// Advances the core and gathers what is to be stored.
fn apply(
    core: &mut PublicGroupState,
    before: &GroupState,
    judged: JudgedCommit,
    author: DeviceId,
) -> Result<NewCommit, Refusal> {
    let entry = NewEntry {
        group: before.group,
        epoch: before.epoch,
        size: before.head().size,
        entry: judged.entry.clone(),
        head: judged.next.head(),
    };
    let (added, removed) = (judged.added.clone(), judged.removed.clone());
    let wrap = judged.wrap.clone();
    let welcome = judged.welcome.clone();
    core.apply(judged)?;
    let next = core.state();
    let join = welcome.map(|welcome| NewJoin {
        welcome,
        state: next.to_bytes(),
        frontier: encode(&next.frontier),
        tree: core.tree(),
    });
    Ok(NewCommit {
        entry,
        author,
        next_epoch: next.epoch,
        checkpoint: core.checkpoint(),
        group_info: core.group_info().to_vec(),
        wrap,
        added,
        removed,
        begun: next
            .current_rows()
            .filter(|row| row.first_epoch == next.epoch)
            .map(|row| (row.device, row.user))
            .collect(),
        due: next.rotating_since == next.epoch,
        join,
    })
}

async fn store(conn: &mut SqliteConnection, new: &NewCommit) -> Result<(), OpError> {
    let group = &new.entry.group;
    accounts::ensure_active(conn, &new.author).await?;
    if !new.entry.append(conn, new.next_epoch).await? {
        let current = rows::epoch(conn, group).await?;
        return Err(Refusal::EpochTaken { current }.into());
    }
    sqlx::query("UPDATE groups SET group_info = ?, checkpoint = ?, checkpoint_sum = ?, wrap = ? WHERE id = ?")
        .bind(&new.group_info)
        .bind(&new.checkpoint)
        .bind(rows::checkpoint_sum(&new.checkpoint))
        .bind(encode(&new.wrap))
        .bind(group.as_bytes())
        .execute(&mut *conn)
        .await?;
    store_members(conn, new).await?;
    if let Some(join) = &new.join {
        store_join(conn, new, join).await?;
    }
    super::join::put_wrap(conn, &new.wrap).await?;
    super::join::forget_epochs(conn, group, new.next_epoch).await?;
    asks::epoch_began(conn, group, &back(new)).await?;
    if new.due {
        sqlx::query("UPDATE documents SET due_epoch = ? WHERE group_id = ? AND closed IS NULL")
            .bind(int(new.next_epoch))
            .bind(group.as_bytes())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Devices that need nobody's help after this commit: who made it could, and who came or went has its answer.
fn back(new: &NewCommit) -> Vec<DeviceId> {
    let begun = new.begun.iter().map(|(device, _)| *device);
    std::iter::once(new.author)
        .chain(begun)
        .chain(new.added.iter().copied())
        .chain(new.removed.iter().copied())
        .collect()
}

async fn store_members(conn: &mut SqliteConnection, new: &NewCommit) -> Result<(), StoreError> {
    let group: &GroupId = &new.entry.group;
    for device in &new.removed {
        sqlx::query("DELETE FROM members WHERE group_id = ? AND device = ?")
            .bind(group.as_bytes())
            .bind(device.as_bytes())
            .execute(&mut *conn)
            .await?;
        // A Welcome into an epoch that is over for its device is of no use.
        sqlx::query("DELETE FROM welcomes WHERE group_id = ? AND device = ?")
            .bind(group.as_bytes())
            .bind(device.as_bytes())
            .execute(&mut *conn)
            .await?;
    }
    for (device, user) in &new.begun {
        insert_member(conn, group, device, user).await?;
    }
    Ok(())
}

/// Notes a member.
pub(crate) async fn insert_member(
    conn: &mut SqliteConnection,
    group: &GroupId,
    device: &DeviceId,
    user: &UserId,
) -> Result<(), StoreError> {
    sqlx::query("INSERT OR REPLACE INTO members (group_id, device, user) VALUES (?, ?, ?)")
        .bind(group.as_bytes())
        .bind(device.as_bytes())
        .bind(user.as_bytes())
        .execute(&mut *conn)
        .await?;
    Ok(())
}

async fn store_join(
    conn: &mut SqliteConnection,
    new: &NewCommit,
    join: &NewJoin,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO join_states (group_id, epoch, size, frontier, state, tree, wrap, welcome) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(new.entry.group.as_bytes())
    .bind(int(new.next_epoch))
    .bind(int(new.entry.head.size))
    .bind(&join.frontier)
    .bind(&join.state)
    .bind(&join.tree)
    .bind(encode(&new.wrap))
    .bind(&join.welcome)
    .execute(&mut *conn)
    .await?;
    for device in &new.added {
        sqlx::query("INSERT INTO welcomes (group_id, epoch, device) VALUES (?, ?, ?)")
            .bind(new.entry.group.as_bytes())
            .bind(int(new.next_epoch))
            .bind(device.as_bytes())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
