//! Stolen credentials, and key packages that must not be added.

use conclave_identity::{DeviceKey, Reference};
use conclave_mls::{MlsError, Plan, check_key_package};
use conclave_proto::UnixMs;
use conclave_proto::policy::Role;
use conclave_proto::refusal::CommitFault;
use openmls::credentials::{Credential, CredentialType, CredentialWithKey};
use openmls::key_packages::{KeyPackage, Lifetime};
use openmls::prelude::{LeafNodeParameters, MlsMessageOut};
use openmls_traits::OpenMlsProvider;

use crate::attacks::refused;
use crate::forge;
use crate::world::{NOW, RawSigner, World, raw};

/// A leaf key of the thief's under somebody else's credential.
pub fn stolen(world: &World, victim: usize, key: &DeviceKey) -> CredentialWithKey {
    CredentialWithKey {
        credential: Credential::new(
            CredentialType::Other(conclave_identity::CREDENTIAL_TYPE),
            world.peers[victim].credential.to_bytes(),
        ),
        signature_key: key.public().to_vec().into(),
    }
}

/// A key package with a credential and lifetime of the thief's choice.
fn package(
    world: &World,
    maker: usize,
    key: &DeviceKey,
    credential: CredentialWithKey,
    lifetime: Lifetime,
) -> KeyPackage {
    let raw = raw(&world.peers[maker]);
    let capabilities = raw.mls.own_leaf_node().unwrap().capabilities().clone();
    KeyPackage::builder()
        .leaf_node_capabilities(capabilities)
        .key_package_lifetime(lifetime)
        .build(
            raw.mls.ciphersuite(),
            &raw.provider,
            &RawSigner(key),
            credential,
        )
        .unwrap()
        .into_key_package()
}

/// The lifetime of a leaf made so many seconds after the present.
fn neutral(made_s: i64) -> Lifetime {
    let made_s = (NOW.0 / 1000).strict_add_signed(made_s);
    Lifetime::init(0, made_s + 36_525 * DAY_S as u64)
}

const DAY_S: i64 = 24 * 3600;

#[test]
fn a_stolen_certificate_on_the_thiefs_own_leaf() {
    let mut world = World::with_roles(20, &[Role::Editor, Role::Viewer]);
    let credential = stolen(&world, 0, &world.peers[1].key);
    let leaf = LeafNodeParameters::builder()
        .with_credential_with_key(credential)
        .build();
    let bundle = forge::commit(&world, 1, &forge::data(&world), |builder, _| {
        builder.leaf_node_parameters(leaf)
    });
    refused(&mut world, 1, &bundle, CommitFault::Credential);
}

#[test]
fn a_key_package_with_somebody_elses_certificate() {
    let mut world = World::with_roles(21, &[Role::Admin, Role::Viewer]);
    let victim = world.outsider();
    let thief = DeviceKey::generate(&mut world.rng);
    let credential = stolen(&world, victim, &thief);
    let package = package(&world, 1, &thief, credential, neutral(0));
    let bytes = MlsMessageOut::from(package.clone()).to_bytes().unwrap();
    let checked = check_key_package(&bytes, &Reference::default(), NOW);
    assert!(matches!(checked, Err(MlsError::Identity(_))));
    let bundle = forge::commit(&world, 1, &forge::data(&world), |builder, _| {
        builder.propose_adds([package])
    });
    refused(&mut world, 1, &bundle, CommitFault::Credential);
}

#[test]
fn a_lifetime_of_another_form_is_illegal_for_all() {
    let now_s = NOW.0 / 1000;
    let others = [
        // What was made before the neutral form.
        Lifetime::init(now_s - 3600, now_s + 3653 * DAY_S as u64),
        Lifetime::init(1, now_s + 36_525 * DAY_S as u64),
        // It would expire under members who are away.
        Lifetime::init(0, now_s + 8 * 365 * DAY_S as u64),
        Lifetime::init(0, u64::MAX),
        neutral(-366 * DAY_S - 1),
        neutral(3601),
    ];
    for (seed, lifetime) in (200..).zip(others) {
        an_add_is_illegal(seed, lifetime);
    }
}

fn an_add_is_illegal(seed: u64, lifetime: Lifetime) {
    let mut world = World::with_roles(seed, &[Role::Admin]);
    let victim = world.outsider();
    let key = DeviceKey::generate(&mut world.rng);
    let user = &world.users[world.peers[victim].user];
    let credential = user.credential(world.device(victim), &key);
    let credential = CredentialWithKey {
        credential: Credential::new(
            CredentialType::Other(conclave_identity::CREDENTIAL_TYPE),
            credential.to_bytes(),
        ),
        signature_key: key.public().to_vec().into(),
    };
    let package = package(&world, 1, &key, credential, lifetime);
    let bytes = MlsMessageOut::from(package.clone()).to_bytes().unwrap();
    assert_eq!(
        check_key_package(&bytes, &Reference::default(), NOW).unwrap_err(),
        MlsError::KeyPackageLifetime
    );
    let bundle = forge::commit(&world, 1, &forge::data(&world), |builder, _| {
        builder.propose_adds([package])
    });
    refused(&mut world, 1, &bundle, CommitFault::Limit);
}

#[test]
fn a_key_package_past_its_shelf_life_is_not_added() {
    let mut world = World::new(23);
    let b = world.outsider();
    let old = world.package_made_at(b, UnixMs(NOW.0 - 29 * 24 * 3600 * 1000));
    let plan = Plan {
        add: vec![old],
        ..Plan::default()
    };
    assert_eq!(
        world.prepare(0, &plan).unwrap_err(),
        MlsError::KeyPackageLifetime
    );
    let new = world.package_made_at(b, UnixMs(NOW.0 + 2 * 3600 * 1000));
    assert_eq!(
        check_key_package(&new, &Reference::default(), NOW).unwrap_err(),
        MlsError::KeyPackageLifetime
    );
    let fresh = world.package(b);
    let checked = check_key_package(&fresh, &Reference::default(), NOW).unwrap();
    assert_eq!(checked.identity.device, world.device(b));
    assert_eq!(checked.made, NOW);
    assert!(!checked.last_resort);
}

#[test]
fn a_device_is_added_twice_under_two_keys() {
    let mut world = World::with_roles(33, &[Role::Admin]);
    let second = DeviceKey::generate(&mut world.rng);
    let credential = world.users[world.peers[0].user].credential(world.device(0), &second);
    let context = conclave_mls::DeviceContext {
        key: &second,
        credential: &credential,
    };
    let mut keys = conclave_mls::KeyStore::load(Vec::new()).unwrap();
    let made = keys.generate(&context, 1, false, NOW).unwrap();
    let plan = Plan {
        add: made.one_time.clone(),
        ..Plan::default()
    };
    assert_eq!(
        world.prepare(1, &plan).unwrap_err(),
        MlsError::Forbidden {
            fault: CommitFault::Duplicate
        }
    );
    let checked = package_of(&made.one_time[0]);
    let bundle = forge::commit(&world, 1, &forge::data(&world), |builder, _| {
        builder.propose_adds([checked])
    });
    refused(&mut world, 1, &bundle, CommitFault::Duplicate);
}

pub fn package_of(bytes: &[u8]) -> KeyPackage {
    use openmls::prelude::tls_codec::DeserializeBytes;
    use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, ProtocolVersion};
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).unwrap();
    let MlsMessageBodyIn::KeyPackage(package) = message.extract() else {
        panic!("no key package")
    };
    let provider = conclave_mls::Provider::default();
    package
        .validate(provider.crypto(), ProtocolVersion::Mls10)
        .unwrap()
}
