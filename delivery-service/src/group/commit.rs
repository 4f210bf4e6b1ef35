//! Accepting commits.

use std::sync::Arc;

use conclave_mls::JudgedCommit;
use conclave_order::op::entry::NewEntry;
use conclave_proto::frame::Answer;
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::{Refusal, UnixMs};
use conclave_rules::GroupState;

use super::{Group, order, stored};
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
    let version = core.version;
    let new = NewEntry::of_commit(&mut core.state, version, judged, conn.device)?;
    order(group, conn.asker(), core, new).await
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
