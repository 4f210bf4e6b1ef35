//! Accepting commits.

use std::sync::Arc;

use conclave_mls::{JudgedCommit, PublicGroupState};
use conclave_order::op::entry::{Begins, Does, NewEntry};
use conclave_order::rows::JoinRow;
use conclave_proto::frame::Answer;
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::{DeviceId, Refusal, UnixMs};
use conclave_rules::GroupState;

use super::{Group, Moves, order, stored};
use crate::error::OpError;
use crate::hub::Conn;

/// Orders a commit.
pub(crate) async fn commit(
    group: &Arc<Group>,
    conn: &Conn,
    bundle: CommitBundle,
) -> Result<Answer, OpError> {
    let mut core = group.core().await?;
    let leaf = GroupEntry::Commit(bundle.commit.clone()).leaf();
    if let Some(answer) = stored::known(group, &leaf).await? {
        core.keep();
        return Ok(answer);
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
    let moves = Moves {
        added: judged.added.clone(),
        removed: judged.removed.clone(),
    };
    let new = apply(&mut core.state, &before, judged, conn.device)?;
    order(group, core, new, moves).await
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
    device: DeviceId,
) -> Result<NewEntry, Refusal> {
    let (entry, head) = (judged.entry.clone(), judged.next.head());
    let (added, removed) = (judged.added.clone(), judged.removed.clone());
    let (wrap, welcome) = (judged.wrap.clone(), judged.welcome.clone());
    core.apply(judged)?;
    let next = core.state();
    let join = welcome.map(|welcome| JoinRow {
        size: head.size,
        frontier: next.frontier.clone(),
        state: next.to_bytes().into(),
        tree: core.tree().into(),
        wrap: wrap.clone(),
        welcome: welcome.into(),
    });
    let begun = next
        .current_rows()
        .filter(|row| row.first_epoch == next.epoch);
    let begins = Begins {
        epoch: next.epoch,
        checkpoint: core.checkpoint().into(),
        group_info: core.group_info().to_vec().into(),
        wrap,
        added,
        removed,
        begun: begun.map(|row| (row.device, row.user)).collect(),
        users: next.current_rows().map(|row| row.user).collect(),
        due: next.rotating_since == next.epoch,
        join,
    };
    Ok(NewEntry {
        group: before.group,
        device,
        expected: (before.epoch, before.head().size),
        entry,
        head,
        does: Does::Commit(Box::new(begins)),
    })
}
