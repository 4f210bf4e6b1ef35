//! What comes with a commit and does not belong to it, and commits changed on their way.

use conclave_mls::{MlsError, Plan, ProcessError, PublicGroupState, open_wrap};
use conclave_proto::codec::Bytes;
use conclave_proto::group::{CommitBundle, GroupEntry, WrapStatement};
use conclave_proto::policy::{JoinerAccess, Role};
use conclave_proto::refusal::CommitFault;
use conclave_proto::{Hash, Refusal};
use conclave_rules::GroupState;
use rand_chacha::rand_core::RngCore;

use crate::forge;
use crate::world::World;

#[test]
fn companions_that_do_not_belong_to_the_commit() {
    let mut world = World::with_roles(39, &[Role::Editor]);
    let before = world.service.group_info().to_vec();
    let b = world.outsider();
    let plan = Plan {
        add: vec![world.package(b)],
        ..Plan::default()
    };
    let good = world.prepare(0, &plan).unwrap().bundle;
    let check = |world: &World, change: &dyn Fn(&mut CommitBundle), fault| {
        let mut bundle = good.clone();
        change(&mut bundle);
        assert_eq!(
            forge::refusal(world, 0, &bundle),
            Refusal::BadCommit { fault }
        );
    };
    // GroupInfo of another epoch; with a signature of somebody else; cut short; no GroupInfo.
    check(
        &world,
        &|bundle| bundle.group_info = before.clone().into(),
        CommitFault::GroupInfo,
    );
    check(
        &world,
        &|bundle| flip_last(&mut bundle.group_info),
        CommitFault::GroupInfo,
    );
    check(
        &world,
        &|bundle| bundle.group_info = Bytes::default(),
        CommitFault::GroupInfo,
    );
    check(
        &world,
        &|bundle| bundle.group_info = bundle.commit.clone(),
        CommitFault::GroupInfo,
    );
    // Welcome missing, for somebody else, rubbish.
    check(
        &world,
        &|bundle| bundle.welcome = None,
        CommitFault::Welcome,
    );
    check(
        &world,
        &|bundle| bundle.welcome = Some(bundle.commit.clone()),
        CommitFault::Welcome,
    );
    // A Welcome for a device that this commit does not add.
    world.peers[0].group_mut().discard_pending().unwrap();
    let c = world.outsider();
    let plan = Plan {
        add: vec![world.package(c)],
        ..Plan::default()
    };
    let other = world.prepare(0, &plan).unwrap().bundle;
    check(
        &world,
        &|bundle| bundle.welcome = other.welcome.clone(),
        CommitFault::Welcome,
    );
    // Wraps that state another roster, commit or epoch, by another signer, or changed.
    let wrong = |change: &dyn Fn(&mut CommitBundle), signer: usize| {
        let mut bundle = good.clone();
        change(&mut bundle);
        let s = bundle.wrap.statement.clone();
        let peer = &world.peers[signer];
        bundle.wrap = forge::wrap(peer, s.epoch, s.commit, s.roster, Bytes::default());
        assert_eq!(
            forge::refusal(&world, 0, &bundle),
            Refusal::BadCommit {
                fault: CommitFault::Wrap
            }
        );
    };
    wrong(&|bundle| bundle.wrap.statement.roster = Hash::ZERO, 0);
    wrong(&|bundle| bundle.wrap.statement.commit = Hash::ZERO, 0);
    wrong(&|bundle| bundle.wrap.statement.epoch += 1, 0);
    wrong(&|_| {}, 1);
    check(
        &world,
        &|bundle| bundle.wrap.signature[5] ^= 1,
        CommitFault::Wrap,
    );
    assert_eq!(world.judge(0, &good), Ok(()));
}

fn flip_last(bytes: &mut Bytes) {
    let mut vec = bytes.as_slice().to_vec();
    *vec.last_mut().unwrap() ^= 1;
    *bytes = vec.into();
}

#[test]
fn roots_sealed_where_joiners_may_read_nothing_older() {
    let policy = conclave_proto::policy::GroupPolicy {
        joiner_access: JoinerAccess::FromJoin,
        ..Default::default()
    };
    let mut world = World::with_policy(40, policy);
    let b = world.outsider();
    let plan = Plan {
        add: vec![world.package(b)],
        ..Plan::default()
    };
    let prepared = world.prepare(0, &plan).unwrap();
    assert!(prepared.bundle.wrap.statement.ciphertext.is_empty());
    let mut bundle = prepared.bundle.clone();
    let s = bundle.wrap.statement.clone();
    bundle.wrap = forge::wrap(
        &world.peers[0],
        s.epoch,
        s.commit,
        s.roster,
        vec![1; 60].into(),
    );
    assert_eq!(
        forge::refusal(&world, 0, &bundle),
        Refusal::BadCommit {
            fault: CommitFault::Wrap
        }
    );
    world.submit(0, &prepared.bundle).unwrap();
    world.sync_all();
    // Who joins reads from here, so everything is due.
    assert_eq!(world.service.state().rotating_since, 1);
    assert_eq!(world.peers[b].roots.len(), 1);
}

#[test]
fn no_changed_byte_gets_past_the_service_or_hurts_a_member() {
    let mut world = World::with_roles(42, &[Role::Editor]);
    let b = world.outsider();
    let plan = Plan {
        add: vec![world.package(b)],
        self_update: true,
        ..Plan::default()
    };
    let good = world.prepare(0, &plan).unwrap().bundle;
    let length = good.commit.len();
    for _ in 0..150 {
        let at = world.rng.next_u32() as usize % length;
        let bit = 1 << (world.rng.next_u32() % 8);
        let mut bytes = good.commit.as_slice().to_vec();
        bytes[at] ^= bit;
        let mut bundle = good.clone();
        bundle.commit = bytes.into();
        assert!(world.judge(0, &bundle).is_err(), "byte {at}");
        let group = world.peers[1].group_mut();
        let error = group
            .process(&GroupEntry::Commit(bundle.commit))
            .unwrap_err();
        assert!(
            matches!(
                error,
                ProcessError::Illegal { signer: None, .. } | ProcessError::Undecryptable { .. }
            ),
            "byte {at}: {error:?}"
        );
    }
    for cut in [0, 1, 4, 40, length - 1] {
        let mut bundle = good.clone();
        bundle.commit = good.commit.as_slice()[..cut].into();
        assert!(world.judge(0, &bundle).is_err());
    }
    world.submit(0, &good).unwrap();
    world.sync_all();
    world.assert_agreed();
}

#[test]
fn a_wrap_opens_only_with_the_secrets_of_its_epoch_and_unchanged() {
    let mut world = World::with_roles(43, &[Role::Editor]);
    let prepared = world.commit(0, &Plan::default());
    let wrap = prepared.bundle.wrap.clone();
    let opened = open_wrap(&prepared.secrets, &wrap).unwrap();
    let epochs: Vec<u64> = opened.iter().map(|(epoch, _)| *epoch).collect();
    assert_eq!(epochs, vec![0, 1]);
    assert_eq!(opened[1].1, world.peers[1].roots[&1]);

    world.commit(1, &Plan::default());
    let later = world.secrets(0);
    assert_eq!(open_wrap(&later, &wrap).unwrap_err(), MlsError::BadWrap);
    let mut relabelled = wrap.clone();
    relabelled.statement.epoch = later.epoch;
    assert_eq!(
        open_wrap(&later, &relabelled).unwrap_err(),
        MlsError::BadWrap
    );
    for change in [
        |s: &mut WrapStatement| s.nonce[0] ^= 1,
        |s: &mut WrapStatement| s.roster.0[0] ^= 1,
        |s: &mut WrapStatement| s.commit.0[0] ^= 1,
        |s: &mut WrapStatement| s.ciphertext = s.ciphertext.as_slice()[1..].into(),
    ] {
        let mut changed = wrap.clone();
        change(&mut changed.statement);
        assert_eq!(
            open_wrap(&prepared.secrets, &changed).unwrap_err(),
            MlsError::BadWrap
        );
    }
    // Another member wraps for the current epoch, and states the same.
    let peer = &world.peers[1];
    let roots: Vec<_> = peer.roots.clone().into_iter().collect();
    let wrap = peer
        .group()
        .seal_wrap(&peer.context(), &later, &roots, &mut world.rng)
        .unwrap();
    world.service.state().judge_wrap(&wrap).unwrap();
    // Not its own root, and nothing newer.
    assert_eq!(open_wrap(&later, &wrap).unwrap().len(), 3);
}

#[test]
fn changed_states_and_rows_are_errors_not_panics() {
    let mut world = World::with_roles(44, &[Role::Editor]);
    world.leave(1).unwrap();
    let state = world.service.state().to_bytes();
    assert_eq!(
        &GroupState::from_bytes(&state).unwrap(),
        world.service.state()
    );
    let (rows, roots) = (world.service_rows(), world.roots());
    let load = |rows| PublicGroupState::load(rows, roots.clone());
    // What a GroupInfo says is not read.
    let group_info = rows.iter().position(|(key, _)| key == b"own/group-info");
    let group_info = group_info.unwrap();
    for _ in 0..400 {
        let mut bytes = state.clone();
        let at = world.rng.next_u32() as usize % bytes.len();
        bytes[at] ^= 1 << (world.rng.next_u32() % 8);
        if let Ok(changed) = GroupState::from_bytes(&bytes) {
            assert_ne!(&changed, world.service.state());
        }
        let mut fewer = rows.clone();
        let at = world.rng.next_u32() as usize % rows.len();
        if at == group_info {
            continue;
        }
        let (key, mut value) = fewer.remove(at);
        // What is pending is in the log too.
        let in_log = key.starts_with(b"own/pending/");
        assert_eq!(load(fewer.clone()).is_ok(), in_log);
        let length = world.rng.next_u32() as usize % value.len();
        value.truncate(length);
        fewer.push((key, value));
        assert!(load(fewer).is_err());
    }
}

#[test]
fn groups_can_be_moved_between_threads() {
    fn movable<T: Send + Sync>() {}
    movable::<conclave_mls::ClientGroup>();
    movable::<PublicGroupState>();
    movable::<conclave_mls::KeyStore>();
}

#[test]
fn a_group_info_with_more_than_the_external_key() {
    let mut world = World::with_roles(45, &[Role::Editor]);
    let honest = world.prepare(1, &Plan::default()).unwrap();
    world.peers[1].group_mut().discard_pending().unwrap();
    world.peers[1].restart();
    // Everything else is as it should be: the roster too, which is that of any renewal.
    let mut data = forge::data(&world);
    data.roster = honest.bundle.wrap.statement.roster;
    let renew = |tree| {
        forge::commit_with_tree(&world, 1, &data, tree, |builder, _| {
            builder.force_self_update(true)
        })
    };
    assert_eq!(world.judge(1, &renew(false)), Ok(()));
    let fault = CommitFault::GroupInfo;
    assert_eq!(
        forge::refusal(&world, 1, &renew(true)),
        Refusal::BadCommit { fault }
    );
}

/// A flipped bit can leave a tree without a leaf, which nothing that restores it may hand on.
#[test]
fn no_flipped_bit_gives_a_group_without_its_members() {
    let mut world = World::new(45);
    world.restart_service();
    let (rows, roots) = (world.service_rows(), world.roots());
    for at in 0..rows.len() {
        for (byte, bit) in (0..rows[at].1.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit)))
        {
            let mut rows = rows.clone();
            rows[at].1[byte] ^= 1 << bit;
            if let Ok(restored) = PublicGroupState::load(rows, roots.clone()) {
                let (tree, again) = (restored.tree(), restored.rows());
                let what = format!("row {at}, byte {byte}, bit {bit}");
                assert!(!tree.is_empty() && !again.is_empty(), "{what}");
            }
        }
    }
}
