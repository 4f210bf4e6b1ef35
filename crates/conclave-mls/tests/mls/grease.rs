//! Values that nobody knows (RFC 9420, section 13.5) in what others say of themselves: tolerated by the service and by members.

use conclave_identity::Reference;
use conclave_mls::check_key_package;
use conclave_proto::policy::Role;
use conclave_proto::refusal::CommitFault;
use openmls::credentials::{Credential, CredentialType, CredentialWithKey};
use openmls::extensions::{
    Extension, ExtensionType, Extensions, RequiredCapabilitiesExtension, UnknownExtension,
};
use openmls::key_packages::{KeyPackage, Lifetime};
use openmls::prelude::{Capabilities, LeafNodeParameters, MlsMessageOut, ProposalType};
use openmls_traits::OpenMlsProvider;

use crate::attacks::refused;
use crate::forge;
use crate::world::{NOW, RawSigner, World, raw};

const GREASE: [u16; 2] = [0x0A0A, 0xEAEA];
/// An extension that nobody here knows, of a number that is no GREASE value.
const UNKNOWN: u16 = 0xF0D1;

/// What a leaf here lists, and values of every list that nobody knows before and after it.
fn greased(world: &World) -> Capabilities {
    let [first, last] = GREASE;
    let raw = raw(&world.peers[0]);
    let known = raw.mls.own_leaf_node().unwrap().capabilities();
    Capabilities::builder()
        .ciphersuites(vec![raw.mls.ciphersuite()])
        .extensions(
            [
                around(first, known.extensions(), last),
                vec![UNKNOWN.into()],
            ]
            .concat(),
        )
        .proposals(around(first, known.proposals(), last))
        .credentials(around(first, known.credentials(), last))
        .build()
        // Which adds a cipher suite of the kind.
        .with_grease(raw.provider.rand())
}

fn around<T: From<u16> + Clone>(first: u16, known: &[T], last: u16) -> Vec<T> {
    [&[T::from(first)], known, &[T::from(last)]].concat()
}

fn credential(world: &World, peer: usize) -> CredentialWithKey {
    let peer = &world.peers[peer];
    CredentialWithKey {
        credential: Credential::new(
            CredentialType::Other(conclave_identity::CREDENTIAL_TYPE),
            peer.credential.to_bytes(),
        ),
        signature_key: peer.key.public().to_vec().into(),
    }
}

fn unknown(number: u16) -> Extension {
    Extension::Unknown(number, UnknownExtension(vec![7; 5]))
}

/// A key package of a program that speaks of values which nobody here knows.
fn package(world: &World, of: usize, capabilities: Capabilities, extension: u16) -> KeyPackage {
    let raw = raw(&world.peers[0]);
    KeyPackage::builder()
        .leaf_node_capabilities(capabilities)
        .key_package_lifetime(Lifetime::init(0, NOW.0 / 1000 + 36_525 * 24 * 3600))
        .key_package_extensions(Extensions::single(unknown(extension)).unwrap())
        .leaf_node_extensions(Extensions::single(unknown(extension)).unwrap())
        .build(
            raw.mls.ciphersuite(),
            &raw.provider,
            &RawSigner(&world.peers[of].key),
            credential(world, of),
        )
        .unwrap()
        .into_key_package()
}

#[test]
fn leaves_and_key_packages_with_grease_are_taken_by_the_service_and_by_members() {
    let mut world = World::with_roles(70, &[Role::Editor, Role::Viewer]);
    let guest = world.outsider();
    let bytes = MlsMessageOut::from(package(&world, guest, greased(&world), UNKNOWN))
        .to_bytes()
        .unwrap();
    let checked = check_key_package(&bytes, &Reference::default(), NOW).unwrap();
    assert_eq!(checked.identity.device, world.device(guest));
    // The guest's program is another one; everybody else follows the commit that lets it in, and those after it.
    let plan = conclave_mls::Plan {
        add: vec![bytes],
        ..Default::default()
    };
    let prepared = world.prepare(0, &plan).unwrap();
    world.submit(0, &prepared.bundle).unwrap();
    world.welcomes.clear();
    for peer in 0..3 {
        world.sync(peer).unwrap();
        assert_eq!(world.peers[peer].group().state(), world.service.state());
    }
    assert!(world.is_member(guest));
    // A member renews its leaf with such values; the others go on.
    let mut data = forge::data(&world);
    data.roster = expected_roster(&world);
    let leaf = LeafNodeParameters::builder()
        .with_capabilities(greased(&world))
        .with_extensions(Extensions::single(unknown(UNKNOWN)).unwrap())
        .build();
    let bundle = forge::commit(&world, 1, &data, |builder, _| {
        builder.force_self_update(true).leaf_node_parameters(leaf)
    });
    world.submit(1, &bundle).unwrap();
    for peer in [0, 2] {
        world.sync(peer).unwrap();
        assert_eq!(world.peers[peer].group().state(), world.service.state());
    }
    let prepared = world.prepare(0, &conclave_mls::Plan::default()).unwrap();
    world.submit(0, &prepared.bundle).unwrap();
    world.sync(2).unwrap();
    assert_eq!(world.secrets(2), prepared.secrets);
}

/// The roster hash after a commit of peer 1 that changes nobody.
fn expected_roster(world: &World) -> conclave_proto::Hash {
    let mut facts = forge::facts(world, 1);
    facts.data = forge::data(world);
    let next = conclave_rules::judge::next_state(world.service.state(), &facts).unwrap();
    next.roster_hash()
}

#[test]
fn what_is_required_is_not_replaced_by_grease() {
    let mut world = World::with_roles(71, &[Role::Editor]);
    let guest = world.outsider();
    // Without SelfRemove, which every group requires.
    let lacking = greased(&world);
    let lacking = Capabilities::builder()
        .extensions(lacking.extensions().to_vec())
        .proposals(vec![ProposalType::from(GREASE[0])])
        .credentials(lacking.credentials().to_vec())
        .build();
    let of = |capabilities, extension| package(&world, guest, capabilities, extension);
    let packages = [
        of(lacking, UNKNOWN),
        // An extension of such a number is refused though it is listed: OpenMLS does not find it in the list.
        of(greased(&world), GREASE[0]),
    ];
    for package in packages {
        let bytes = MlsMessageOut::from(package).to_bytes().unwrap();
        assert!(check_key_package(&bytes, &Reference::default(), NOW).is_err());
    }
    // Nor is what the group requires changed by whoever likes such values.
    let data = forge::data(&world);
    let bundle = forge::commit(&world, 0, &data, |builder, context| {
        let mut extensions = context.extensions.clone();
        let required = RequiredCapabilitiesExtension::new(
            &[
                ExtensionType::from(conclave_mls::POLICY_EXTENSION),
                ExtensionType::LastResort,
            ],
            &[ProposalType::SelfRemove],
            &[],
        );
        let required = Extension::RequiredCapabilities(required);
        extensions.add_or_replace(required).unwrap();
        builder
            .propose_group_context_extensions(extensions)
            .unwrap()
    });
    refused(&mut world, 0, &bundle, CommitFault::Policy);
}
