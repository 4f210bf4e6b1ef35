//! Judging what comes beside a Welcome or a GroupInfo. The service hands it over; one member's signature vouches for it.

use conclave_identity::{Identity, Occasion, Presented, Reference, authenticate};
use conclave_proto::frame::JoinState;
use conclave_proto::{GroupId, UnixMs};
use conclave_rules::{GroupState, RosterRow, judge::authenticate_row};
use openmls::group::{GroupContext, Member};

use crate::device::DeviceContext;
use crate::error::MlsError;
use crate::profile;

const fn bad(what: &'static str) -> MlsError {
    MlsError::BadInvitation { what }
}

/// Reads the public state that the service hands over, and checks everything about it that can be checked: the roster against its own
/// hash, that hash against the wrap's signature, the document list against its signed entries. A group in epoch 0 has no wrap yet; there
/// the caller compares with the tree, which says everything.
pub(super) fn read_state(group: GroupId, offered: &JoinState) -> Result<GroupState, MlsError> {
    let state = GroupState::from_bytes(offered.group_state.as_slice())?;
    if state.group != group {
        return Err(bad("group"));
    }
    if let Some(minimum) = state.later_version() {
        return Err(MlsError::UpgradeNeeded { minimum });
    }
    state.roster.verify_chain(state.epoch)?;
    if state.epoch > 0 {
        state
            .judge_wrap(&offered.wrap)
            .map_err(|_| bad("root wrap"))?;
    }
    check_documents(&state, offered)?;
    Ok(state)
}

fn check_documents(state: &GroupState, offered: &JoinState) -> Result<(), MlsError> {
    let mut replayed = state.without_documents();
    for entry in &offered.entries {
        replayed
            .replay_entry(entry)
            .map_err(|_| bad("document list"))?;
    }
    if replayed.documents == state.documents && replayed.voided == state.voided {
        Ok(())
    } else {
        Err(bad("document list"))
    }
}

/// Checks that an MLS group is the one that the public state describes: id, epoch, policy, and every leaf, each through the one door.
pub(super) fn check_tree(
    state: &GroupState,
    context: &GroupContext,
    members: impl Iterator<Item = Member>,
) -> Result<(), MlsError> {
    if context.group_id().as_slice() != state.group.as_bytes()
        || context.epoch().as_u64() != state.epoch
    {
        return Err(bad("epoch"));
    }
    if profile::read_policy(context)? != state.policy {
        return Err(bad("policy"));
    }
    let mut leaves = 0;
    for member in members {
        let row = state
            .row_by_key(&member.signature_key)
            .filter(|row| {
                row.credential.as_slice() == member.credential.serialized_content()
                    && row.credential_type == u16::from(member.credential.credential_type())
            })
            .ok_or(bad("member"))?;
        authenticate_row(state, row, Occasion::Tree)?;
        leaves += 1;
    }
    if leaves == state.current_rows().count() {
        Ok(())
    } else {
        Err(bad("member"))
    }
}

/// Checks the joiner's own row: its key, and that the commit which began the epoch also began the row. That fixes the commit's time, which
/// nothing else in the state does.
pub(super) fn check_own(
    state: &GroupState,
    device: &DeviceContext<'_>,
    own_leaf_key: &[u8],
) -> Result<(), MlsError> {
    let row = state
        .roster
        .current_row(&device.device())
        .ok_or(bad("own row"))?;
    let key = device.key.public();
    if own_leaf_key == key
        && row.key.as_slice() == key
        && row.first_epoch == state.epoch
        && row.time == state.last_time
    {
        Ok(())
    } else {
        Err(bad("own row"))
    }
}

/// Whoever signed the wrap has to be the inviter, whose credential has to hold now: joining is this device's own act.
pub(super) fn check_inviter(
    state: &GroupState,
    inviter: &RosterRow,
    offered: &JoinState,
    now: UnixMs,
) -> Result<Identity, MlsError> {
    if offered.wrap.signer != inviter.device {
        return Err(bad("inviter"));
    }
    let presented = Presented {
        credential_type: inviter.credential_type,
        credential: inviter.credential.clone(),
        scheme: inviter.scheme,
        signature_key: inviter.key.as_slice(),
    };
    let reference = Reference {
        user: Some(inviter.user),
        device: Some(inviter.device),
        anchors: &state.policy.trust.anchors,
        ..Reference::default()
    };
    Ok(authenticate(
        &presented,
        Occasion::Tree,
        &reference,
        now,
        None,
    )?)
}
