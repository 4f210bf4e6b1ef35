//! Welcomes, and what the service hands over beside them.

use std::sync::Arc;

use conclave_mls::{KeyStore, MlsError, Plan, Prepared, check_founded};
use conclave_proto::frame::WelcomeDelivery;
use conclave_proto::group::GroupEntry;
use conclave_proto::policy::Role;
use conclave_proto::record::EntryBody;
use conclave_proto::{DocumentId, Hash};
use conclave_rules::{EpochState, GroupState, Roster};

use crate::forge;
use crate::world::{GROUP, NOW, World};

/// A group with a document, and a device whose Welcome is waiting.
fn invited(seed: u64) -> (World, usize, WelcomeDelivery) {
    let mut world = World::with_roles(seed, &[Role::Editor]);
    let body = EntryBody::DocumentCreated {
        document: DocumentId([4; 16]),
        crdt: 2,
    };
    let record = world.sign(1, body);
    world.put(1, record).unwrap();
    world.sync_all();
    let c = world.outsider();
    let plan = Plan {
        add: vec![world.package(c)],
        ..Plan::default()
    };
    let prepared = world.prepare(0, &plan).unwrap();
    world.submit(0, &prepared.bundle).unwrap();
    let (_, delivery) = world.welcomes.pop().unwrap();
    (world, c, delivery)
}

fn of_epoch(state: &mut GroupState) -> &mut EpochState {
    Arc::make_mut(&mut state.of_epoch)
}

#[test]
fn every_lie_beside_a_welcome_is_noticed_and_burns_no_key_package() {
    let (mut world, c, good) = invited(60);
    let lie = |world: &mut World, change: &dyn Fn(&World, &mut WelcomeDelivery)| {
        let mut delivery = good.clone();
        change(world, &mut delivery);
        assert!(world.join(c, &delivery).is_err());
        assert!(world.peers[c].keys.take_changes().is_empty());
        world.peers[c].restart();
        assert_eq!(world.peers[c].keys.count(), 1);
    };
    let with_state = |delivery: &mut WelcomeDelivery, change: &dyn Fn(&mut GroupState)| {
        let mut state = GroupState::from_bytes(delivery.state.group_state.as_slice()).unwrap();
        change(&mut state);
        delivery.state.group_state = state.to_bytes().into();
        delivery.state.frontier = state.frontier.clone();
    };
    lie(&mut world, &|_, d| d.epoch += 1);
    lie(&mut world, &|_, d| d.group.0[0] ^= 1);
    lie(&mut world, &|_, d| d.welcome = d.tree.clone());
    lie(&mut world, &|_, d| d.tree = d.welcome.clone());
    lie(&mut world, &|_, d| d.state.entries.clear());
    lie(&mut world, &|_, d| {
        d.state.entries[0].sealed.signature[1] ^= 1
    });
    lie(&mut world, &|_, d| {
        with_state(d, &|s| s.documents = Default::default())
    });
    lie(&mut world, &|_, d| {
        with_state(d, &|s| of_epoch(s).policy.attribution = 0)
    });
    lie(&mut world, &|_, d| {
        with_state(d, &|s| of_epoch(s).policy.default_role = Role::Viewer)
    });
    lie(&mut world, &|_, d| {
        with_state(d, &|s| of_epoch(s).begun_by = Hash::ZERO)
    });
    lie(&mut world, &|_, d| {
        with_state(d, &|s| s.begin_epoch(Hash::ZERO))
    });
    lie(&mut world, &|_, d| {
        with_state(d, &|s| of_epoch(s).epoch += 1)
    });
    lie(&mut world, &|_, d| {
        with_state(d, &|s| of_epoch(s).last_time.0 += 1)
    });
    // A roster with another past: one row began earlier, or never was.
    lie(&mut world, &|_, d| {
        with_state(d, &|s| {
            let mut rows = s.roster.rows().to_vec();
            rows[0].time.0 -= 1;
            of_epoch(s).roster = Roster::from_rows(rows, s.roster.hash(), s.epoch).unwrap();
        });
    });
    lie(&mut world, &|_, d| d.state.wrap.signature[0] ^= 1);
    // A statement by a member who did not invite; one about another roster.
    lie(&mut world, &|world, d| {
        let s = d.state.wrap.statement.clone();
        d.state.wrap = forge::wrap(&world.peers[1], s.epoch, s.commit, s.roster, s.ciphertext);
    });
    lie(&mut world, &|world, d| {
        let s = d.state.wrap.statement.clone();
        d.state.wrap = forge::wrap(&world.peers[0], s.epoch, s.commit, Hash::ZERO, s.ciphertext);
    });
    // The truth works after all of this.
    world.join(c, &good).unwrap();
    assert_eq!(world.peers[c].keys.count(), 0);
    world.sync_all();
    world.assert_agreed();
}

#[test]
fn a_welcome_for_somebody_else() {
    let (mut world, _, delivery) = invited(61);
    let d = world.outsider();
    world.package(d);
    assert_eq!(
        world.join(d, &delivery).unwrap_err(),
        MlsError::NoKeyPackage
    );
    assert_eq!(world.peers[d].keys.count(), 1);
}

#[test]
fn a_last_resort_package_serves_more_than_once() {
    let mut world = World::new(62);
    let b = world.outsider();
    let peer = &mut world.peers[b];
    let context = conclave_mls::DeviceContext {
        key: &peer.key,
        credential: &peer.credential,
    };
    let made = peer.keys.generate(&context, 0, true, NOW).unwrap();
    peer.restart();
    let package = made.last_resort.unwrap();
    for _ in 0..2 {
        world.commit(
            0,
            &Plan {
                add: vec![package.clone()],
                ..Plan::default()
            },
        );
        assert_eq!(world.peers[b].keys.count(), 1);
        world.remove(0, &[b]);
    }
}

#[test]
fn a_key_store_keeps_nothing_that_was_rolled_back() {
    let mut world = World::new(63);
    let peer = &mut world.peers[0];
    let context = conclave_mls::DeviceContext {
        key: &peer.key,
        credential: &peer.credential,
    };
    peer.keys.generate(&context, 3, true, NOW).unwrap();
    assert_eq!(peer.keys.count(), 4);
    peer.keys.rollback();
    assert_eq!(peer.keys.count(), 0);
    let foreign = vec![(b"tree/x".to_vec(), zeroize::Zeroizing::new(vec![0]))];
    assert_eq!(KeyStore::load(foreign).unwrap_err(), MlsError::Damaged);
}

#[test]
fn a_creator_who_is_not_the_sender_or_lies_about_the_time() {
    let world = World::new(64);
    let peer = &world.peers[0];
    let (group, created) = conclave_mls::ClientGroup::create(
        &peer.context(),
        conclave_proto::GroupId([8; 16]),
        Default::default(),
        NOW,
    )
    .unwrap();
    let create = |sender, founded| {
        conclave_mls::PublicGroupState::create(&created.group_info, &created.tree, sender, founded)
            .map(|(_, state)| state)
    };
    assert_eq!(&create(peer.device, NOW).unwrap(), group.state());
    assert!(create(conclave_proto::DeviceId([1; 16]), NOW).is_err());
    assert!(check_founded(NOW, NOW.plus_ms(300_000)).is_ok());
    assert!(check_founded(NOW.plus_ms(300_000), NOW).is_ok());
    assert!(check_founded(NOW, NOW.plus_ms(300_001)).is_err());
    assert!(check_founded(NOW.plus_ms(300_001), NOW).is_err());
    let swapped = conclave_mls::PublicGroupState::create(
        &created.tree,
        &created.group_info,
        peer.device,
        NOW,
    );
    assert!(swapped.is_err());
}

#[test]
fn no_secret_shows_when_printed() {
    let mut world = World::with_roles(65, &[Role::Editor]);
    let prepared: Prepared = world.prepare(0, &Plan::default()).unwrap();
    let root = data_encoding_hex(prepared.secrets.root.as_bytes());
    let peer = &world.peers[0];
    let printed = format!(
        "{prepared:?} {:?} {:?} {:?} {:?}",
        peer.group(),
        peer.keys,
        prepared.secrets,
        world.service
    );
    assert!(!printed.contains(&root));
    let bytes = format!("{:?}", prepared.secrets.root.as_bytes());
    assert!(!printed.contains(bytes.trim_matches(['[', ']'])));
    assert!(printed.contains("EpochRoot(..)") || printed.contains("EpochSecrets(epoch"));
    let _ = GROUP;
}

fn data_encoding_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_welcome_delivered_late_still_joins() {
    let (mut world, c, delivery) = invited(66);
    world.sync_all();
    // The group has moved on before the Welcome is fetched.
    world.peers[c].restart();
    let prepared = world.prepare(1, &Plan::default()).unwrap();
    world.submit(1, &prepared.bundle).unwrap();
    world.join(c, &delivery).unwrap();
    world.sync_all();
    world.assert_agreed();
    assert!(matches!(world.log.last(), Some(GroupEntry::Commit(_))));
}
