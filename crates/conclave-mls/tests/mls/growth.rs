//! A group whose public state is as large as a service lets it grow: whoever made it so can be taken out, and nobody else goes on making it larger.

use std::sync::Arc;

use conclave_mls::{Plan, PublicGroupState};
use conclave_proto::Refusal;
use conclave_proto::codec::encode;
use conclave_proto::group::GroupEntry;
use conclave_proto::limits::GROWING_STATE_BYTES;
use conclave_proto::policy::{GroupPolicy, Role};
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::refusal::CommitFault;
use conclave_proto::{DeviceId, DocumentId, UserId};
use conclave_rules::{GroupState, Roster, RosterRow};

use crate::world::World;

const OWNER: usize = 0;
const ADMIN: usize = 1;
const EDITOR: usize = 2;

const REFUSED: Refusal = Refusal::BadCommit {
    fault: CommitFault::Limit,
};

/// An owner, an admin, and somebody whom the policy does not name.
fn three(seed: u64) -> World {
    let mut world = World::with_roles(seed, &[Role::Admin]);
    let editor = world.outsider();
    world.add(OWNER, &[editor]);
    assert_eq!(editor, EDITOR);
    world
}

/// The service's state with rows of devices that are gone, so that it has so many bytes. Its hashes stay what they are.
fn grown(state: &GroupState, bytes: usize) -> GroupState {
    let row = |number: usize, credential_bytes: usize| RosterRow {
        device: DeviceId(
            [&[0xee; 8], number.to_be_bytes().as_slice()]
                .concat()
                .try_into()
                .unwrap(),
        ),
        user: UserId([0xee; 32]),
        credential: vec![7; credential_bytes].into(),
        key: vec![1; 32].into(),
        last_epoch: Some(0),
        ..state.roster.rows()[0].clone()
    };
    let with = |rows: Vec<RosterRow>| {
        let mut all = [rows, state.roster.rows().to_vec()].concat();
        all.sort_by_key(|row| (row.first_epoch, row.device));
        let mut next = state.clone();
        let of_epoch = Arc::make_mut(&mut next.of_epoch);
        of_epoch.roster = Roster::from_rows(all, state.roster_hash(), state.epoch).unwrap();
        next
    };
    let wanted = bytes - state.most_bytes();
    // Rows of one size, and a last one with all that is left.
    let each = with(vec![row(0, 8_000)]).most_bytes() - state.most_bytes();
    let mut rows: Vec<RosterRow> = (1..wanted / each).map(|at| row(at, 8_000)).collect();
    let left = bytes - with(rows.clone()).most_bytes();
    rows.push(row(0, 8_000 + left - each));
    let grown = with(rows);
    assert_eq!(grown.most_bytes(), bytes);
    grown
}

/// The group with a service whose state has so many bytes.
fn with_bytes(world: &mut World, bytes: usize) {
    let state = grown(world.service.state(), bytes);
    let mut rows = world.service_rows();
    rows.retain(|(key, _)| key != b"own/epoch" && !key.starts_with(b"own/roster/"));
    rows.push((b"own/epoch".to_vec(), state.epoch_row().into()));
    for row in state.roster.rows() {
        let epoch = row.first_epoch.to_be_bytes();
        let place = [b"own/roster/", epoch.as_slice(), row.device.as_bytes()];
        rows.push((place.concat(), encode(row).into()));
    }
    world.service_rows = rows.iter().cloned().collect();
    world.service = PublicGroupState::load(rows, world.roots()).unwrap();
    assert_eq!(world.service.state().most_bytes(), bytes);
}

fn with_policy(world: &World, change: impl FnOnce(&mut GroupPolicy)) -> Plan {
    let mut policy = world.service.state().policy.clone();
    change(&mut policy);
    Plan {
        policy: Some(policy),
        ..Plan::default()
    }
}

/// What a member's program does to take a user out.
fn removal(world: &World, peer: usize) -> Plan {
    let user = world.user_id(peer);
    Plan {
        remove: vec![world.device(peer)],
        ..with_policy(world, |policy| {
            policy.roles.retain(|entry| entry.user != user)
        })
    }
}

/// What the service says to a plan of a member's; nothing is ordered.
fn asked(world: &mut World, peer: usize, plan: &Plan) -> Result<(), Refusal> {
    let bundle = world.prepare(peer, plan).unwrap().bundle;
    let answer = world.judge(peer, &bundle);
    world.peers[peer].group_mut().discard_pending().unwrap();
    answer
}

#[test]
fn an_admin_is_removed_though_the_state_is_as_large_as_may_be() {
    let mut world = three(120);
    let other = world.another_device(world.peers[EDITOR].user);
    // The last entry that was taken has brought it past the bound.
    with_bytes(&mut world, GROWING_STATE_BYTES + 40);
    // Nothing makes it larger: roles that are turned over, one more user in the policy, one more device.
    let turned = with_policy(&world, |policy| policy.default_role = Role::Viewer);
    assert_eq!(asked(&mut world, ADMIN, &turned), Err(REFUSED));
    let viewer = world.user_id(EDITOR);
    let given = with_policy(&world, |policy| policy.set_role(viewer, Role::Viewer));
    assert_eq!(asked(&mut world, ADMIN, &given), Err(REFUSED));
    let listed = with_policy(&world, |policy| {
        policy.set_role(UserId([9; 32]), Role::Viewer)
    });
    assert_eq!(asked(&mut world, ADMIN, &listed), Err(REFUSED));
    let add = vec![world.package(other)];
    let plan = Plan {
        add,
        ..Plan::default()
    };
    assert_eq!(asked(&mut world, EDITOR, &plan), Err(REFUSED));
    // Nor does it where somebody goes with it.
    let remove = vec![world.device(EDITOR)];
    let both = Plan { remove, ..listed };
    assert_eq!(asked(&mut world, ADMIN, &both), Err(REFUSED));
    // What makes nothing larger is as good as before.
    let paced = with_policy(&world, |policy| policy.max_leaf_age_days += 1);
    assert_eq!(asked(&mut world, ADMIN, &paced), Ok(()));
    let plan = removal(&world, ADMIN);
    assert_eq!(asked(&mut world, OWNER, &plan), Ok(()));
}

#[test]
fn what_the_epoch_before_had_of_the_log_does_not_count() {
    let mut world = three(121);
    let other = world.another_device(world.peers[EDITOR].user);
    let document = DocumentId([5; 16]);
    let created = world.sign(EDITOR, EntryBody::DocumentCreated { document, crdt: 1 });
    world.put(EDITOR, created).unwrap();
    world.sync_all();
    with_bytes(&mut world, GROWING_STATE_BYTES - 2_000);
    // An editor puts a document away and takes it up again until nothing more goes in.
    let mut reopen = false;
    let refused = loop {
        let reason = CloseReason::Archived;
        let body = match reopen {
            true => EntryBody::DocumentReopened { document },
            false => EntryBody::DocumentClosed { document, reason },
        };
        let entry = world.sign(EDITOR, body);
        let effect = match world.service.judge_entry(&entry, world.device(EDITOR)) {
            Ok(effect) => effect,
            Err(refusal) => break refusal,
        };
        world.service.apply_entry(&effect);
        world.log.push(GroupEntry::Signed(entry));
        world.sync(EDITOR).unwrap();
        reopen = !reopen;
    };
    let max = GROWING_STATE_BYTES as u64;
    assert_eq!(refused, Refusal::TooLarge { max });
    let add = vec![world.package(other)];
    let plan = Plan {
        add,
        ..Plan::default()
    };
    assert_eq!(asked(&mut world, EDITOR, &plan), Ok(()));
}
