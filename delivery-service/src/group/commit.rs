//! Accepting commits.

use std::collections::BTreeMap;
use std::sync::Arc;

use conclave_mls::{JudgedCommit, removes_somebody};
use conclave_order::op::entry::NewEntry;
use conclave_proto::frame::Answer;
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::{DeviceId, Refusal, UnixMs, UserId};
use conclave_rules::{GroupState, judge};

use super::{Group, order, stored};
use crate::error::OpError;
use crate::hub::Conn;

/// Orders a commit. One that removes somebody and came too late, or before its turn, comes next.
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
    let asked = ask_turn(group, &before, conn, now);
    let judged = match asked
        .and_then(|()| core.state.judge_bundle(&bundle, conn.device, now))
        .and_then(|judged| {
            // Nobody could go on here, and it never falls.
            if let Some(minimum) = judged.next.later_version() {
                return Err(Refusal::UpgradeNeeded { minimum });
            }
            pace(group, &before, &judged, now)?;
            Ok(judged)
        }) {
        Ok(judged) => judged,
        Err(refusal) => {
            // Before anything else is judged here: what waits for the core would begin the next epoch.
            ask_for_turn(group, &before, conn, &bundle, &refusal);
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
    let out = judged.removed.clone();
    let new = NewEntry::of_commit(&mut core.state, version, judged, conn.device)?;
    let answer = match order(group, conn.asker(), core, new).await {
        Ok(answer) => answer,
        Err(error) => {
            // Another process was faster. Its own turns are its own: here nothing comes between from now on.
            if let OpError::Refused(refusal) = &error {
                ask_for_turn(group, &before, conn, &bundle, refusal);
            }
            return Err(error);
        }
    };
    let removes = removes_somebody(bundle.commit.as_slice());
    group.turns().ordered(conn.device, removes, &out);
    Ok(answer)
}

/// A commit that was refused asks for the turn, where it removes somebody and came too late, or before its turn.
fn ask_for_turn(
    group: &Group,
    state: &GroupState,
    conn: &Conn,
    bundle: &CommitBundle,
    refusal: &Refusal,
) {
    let late = matches!(
        refusal,
        Refusal::EpochTaken { .. } | Refusal::RateLimited { .. }
    );
    if late && removes_somebody(bundle.commit.as_slice()) {
        let (by, now) = (conn.asker(), group.env.clock.now());
        if let Some(role) = state.role_of(&by.device) {
            group.turns().lost(by.device, by.user, role, now);
        }
    }
}

/// Whether a device may bring anything into the log now.
pub(super) fn ask_turn(
    group: &Group,
    state: &GroupState,
    conn: &Conn,
    now: UnixMs,
) -> Result<(), Refusal> {
    let role = state.role_of(&conn.device);
    group.turns().ask(conn.device, role, now)
}

/// Commits cost every member the processing, and rows of the roster never go. So what changes nothing but leaves, what changes the policy, what
/// a user adds of its own devices or of somebody else's, and returns are paced, each user by itself: nobody uses up what others need. After a commit that nobody can
/// decrypt a whole group comes back at once: returns are counted by device. Taking devices out is not paced.
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
    let next = &judged.next;
    let user_of = |device: &DeviceId| next.roster.current_row(device).map(|row| row.user);
    let Some(author) = user_of(&judged.author) else {
        // Whoever commits is a member afterwards.
        return Err(Refusal::Storage);
    };
    let key = (group.id, author);
    let mut added: BTreeMap<UserId, u64> = BTreeMap::new();
    for user in judged.added.iter().filter_map(user_of) {
        *added.entry(user).or_default() += 1;
    }
    for (user, devices) in added {
        if user == author {
            env.own_adds.take(key, devices, now)?;
        } else {
            let whose = (group.id, author, user);
            env.other_adds.take(whose, devices, now)?;
        }
    }
    let moves_nobody = judged.added.is_empty() && judged.removed.is_empty();
    let sets_policy = next.policy != before.policy;
    if (moves_nobody && sets_policy) || judge::gives_roles(before, next) {
        return env.policies.take(key, 1, now);
    }
    if moves_nobody {
        // What all of them have is not used up by whom the own bucket refuses.
        env.group_self_updates.has(group.id, 1, now)?;
        env.self_updates.take(key, 1, now)?;
        return env.group_self_updates.take(group.id, 1, now);
    }
    Ok(())
}
