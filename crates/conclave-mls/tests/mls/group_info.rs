//! The GroupInfo with which members come back: a committer can put a wrong external key into it, which the service cannot see.

use conclave_mls::{GroupInfoVerdict, Plan};
use conclave_proto::Refusal;
use conclave_proto::group::CommitBundle;
use conclave_proto::policy::Role;
use conclave_proto::refusal::{CommitFault, ForbiddenWhy};

use crate::world::World;

/// At the end of a GroupInfo: confirmation tag (33 bytes), signer (4), signature (66).
const TAIL_BYTES: usize = 33 + 4 + 66;

/// The author of a commit puts another external key into its GroupInfo, and signs it.
fn garble(world: &World, author: usize, good: &CommitBundle) -> CommitBundle {
    let mut info = good.group_info.as_slice().to_vec();
    let key_end = info.len() - TAIL_BYTES;
    info[key_end - 1] ^= 1;
    let signed_end = info.len() - 66;
    let key = &world.peers[author].key;
    let signature = key.sign("GroupInfoTBS", &info[4..signed_end]);
    info[signed_end + 2..].copy_from_slice(&signature);
    CommitBundle {
        group_info: info.into(),
        ..good.clone()
    }
}

fn examine(world: &World, peer: usize) -> GroupInfoVerdict {
    let peer = &world.peers[peer];
    let group = peer.group();
    group
        .examine_group_info(&peer.context(), world.service.group_info())
        .unwrap()
}

fn is_good(world: &World, peer: usize) -> bool {
    examine(world, peer) == GroupInfoVerdict::Good
}

fn export(world: &World, peer: usize) -> Vec<u8> {
    let peer = &world.peers[peer];
    peer.group().export_group_info(&peer.context()).unwrap()
}

#[test]
fn a_wrong_external_key_passes_the_service_and_is_seen_and_replaced_by_members() {
    let mut world = World::with_roles(90, &[Role::Editor, Role::Viewer]);
    assert!(is_good(&world, 1));
    let good = world.prepare(0, &Plan::default()).unwrap().bundle;
    let garbled = garble(&world, 0, &good);
    world.submit(0, &garbled).unwrap();
    world.sync_all();
    for peer in [1, 2] {
        let signer = Some(world.device(0));
        assert_eq!(examine(&world, peer), GroupInfoVerdict::Useless { signer });
    }
    // Even a viewer's is taken in its place.
    let (device, info) = (world.device(2), export(&world, 2));
    world.service.replace_group_info(device, &info).unwrap();
    assert_eq!(world.service.group_info(), info.as_slice());
    assert!(is_good(&world, 1));
    // It outlives a restart of the service.
    world.restart_service();
    assert!(is_good(&world, 1));
    // Whose bytes no member signed, nobody is named for.
    let peer = &world.peers[1];
    let (group, context) = (peer.group(), peer.context());
    for bytes in [&[][..], &info[..info.len() - 1]] {
        let found = group.examine_group_info(&context, bytes).unwrap();
        assert_eq!(found, GroupInfoVerdict::Useless { signer: None });
    }
}

#[test]
fn only_a_members_own_group_info_of_the_current_epoch_is_taken() {
    let mut world = World::with_roles(91, &[Role::Editor, Role::Editor]);
    let old = export(&world, 1);
    world.commit(0, &Plan::default());
    world.sync_all();
    let before = world.service.group_info().to_vec();
    let fresh = export(&world, 1);
    let fault = CommitFault::GroupInfo;
    let bad = Err(Refusal::BadCommit { fault });
    let mut flipped = fresh.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let (one, two) = (world.device(1), world.device(2));
    for (device, info) in [(one, old), (two, fresh.clone()), (one, flipped)] {
        assert_eq!(world.service.replace_group_info(device, &info), bad);
    }
    for length in 0..fresh.len() {
        let cut = fresh.get(..length).unwrap();
        assert_eq!(world.service.replace_group_info(one, cut), bad);
    }
    let removed = world.device(1);
    world.remove(0, &[1]);
    let why = ForbiddenWhy::NotMember;
    assert_eq!(
        world.service.replace_group_info(removed, &fresh),
        Err(Refusal::Forbidden { why })
    );
    assert_ne!(world.service.group_info(), before.as_slice());
}
