//! Welcomes with the id of a group that the device is in already.

use conclave_engine::{Command, EngineError, Row};
use conclave_identity::DeviceCredential;
use conclave_mls::{ClientGroup, CommitInputs, DeviceContext, Plan, PublicGroupState};
use conclave_proto::codec::Bytes;
use conclave_proto::frame::{Answer, ServiceFrame, WelcomeDelivery};
use conclave_proto::{CommitId, DocumentId, GroupId, GroupPolicy, Refusal, Role};
use conclave_testkit::members::list_directory;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;

#[derive(serde::Deserialize)]
struct Profile {
    credential: Option<Bytes>,
}

/// Cleo makes a group of her own under the same id, and invites Ana to it; the service passes the Welcome on.
fn forge_welcome(world: &mut World, group: GroupId) {
    let rows = &world.devices[CLEO].rows;
    let key = crate::forge::device_key(rows);
    let profile = &rows.0[[&[1], b"profile".as_slice()].concat().as_slice()];
    let profile: Profile = ciborium::from_reader(profile.as_slice()).unwrap();
    let credential = profile.credential.unwrap();
    let credential = DeviceCredential::from_bytes(credential.as_slice()).unwrap();
    let context = DeviceContext {
        key: &key,
        credential: &credential,
    };
    let (now, cleo) = (world.now, world.devices[CLEO].id);
    let package = world.service.package_of(world.devices[ANA].id).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    let (mut own, made) =
        ClientGroup::create(&context, group, GroupPolicy::default(), now).unwrap();
    let (mut service, _) =
        PublicGroupState::create(&made.group_info, &made.tree, cleo, now).unwrap();
    let directory = list_directory(&context, cleo, &mut own, &mut [&mut service]).unwrap();
    // So often that hers is further on than the true one.
    for round in 0..20 {
        let last = round == 19;
        let plan = Plan {
            add: if last {
                vec![package.clone()]
            } else {
                Vec::new()
            },
            ..Plan::default()
        };
        let inputs = CommitInputs {
            now,
            service_time: now,
            id: CommitId([round; 16]),
            live_roots: &[],
        };
        let prepared = own.commit(&context, &plan, inputs, &mut rng).unwrap();
        let judged = service.judge_bundle(&prepared.bundle, cleo, now).unwrap();
        let (entry, welcome) = (judged.entry.clone(), judged.welcome.clone());
        service.apply(judged).unwrap();
        own.process(&entry).unwrap();
        if let Some(welcome) = welcome {
            let delivery = WelcomeDelivery {
                id: 1_000_000,
                group,
                epoch: service.state().epoch,
                welcome: welcome.into(),
                tree: service.tree().into(),
                state: service.join_state(prepared.bundle.wrap.clone(), vec![directory.clone()]),
            };
            world.push(ANA, ServiceFrame::Welcome(delivery));
        }
    }
    world.run();
}

/// Ana and Ben share a group and a document; Cleo, whom Ana knows, is in none of it.
fn pair(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(BEN);
    world.invite(group, BEN, ANA, None);
    let document = world.create_document(group, ANA, "hello");
    (world, group, document)
}

fn rows_of(world: &World, group: GroupId) -> Vec<Row> {
    let below = |table: u8| [&[table], group.as_bytes() as &[u8]].concat();
    let rows = &world.devices[ANA].rows;
    [rows.read(&below(4)), rows.read(&below(5))].concat()
}

fn goes_on(world: &mut World, group: GroupId, document: DocumentId) {
    assert_eq!(world.text(ANA, group, document), "hello");
    world.edit(ANA, group, document, " ana");
    world.run();
    assert_eq!(world.text(BEN, group, document), "hello ana");
    world.converged(group, &[ANA, BEN]);
    world.restart(ANA);
    world.run();
    world.converged(group, &[ANA, BEN]);
}

#[test]
fn accepting_a_forged_welcome_harms_no_group() {
    let (mut world, group, document) = pair(1);
    let before = rows_of(&world, group);
    forge_welcome(&mut world, group);
    let refused = world.call(ANA, Command::Accept { group }).unwrap();
    let Err(EngineError::GroupTaken { inviter }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(inviter, "cleo");
    world.run();
    assert_eq!(rows_of(&world, group), before);
    goes_on(&mut world, group, document);
}

#[test]
fn declining_a_forged_welcome_harms_no_group() {
    let (mut world, group, document) = pair(2);
    let before = rows_of(&world, group);
    forge_welcome(&mut world, group);
    world.ask(ANA, Command::Decline { group });
    world.run();
    assert_eq!(rows_of(&world, group), before);
    let again = world.call(ANA, Command::Accept { group }).unwrap();
    assert!(matches!(again, Err(EngineError::NoInvitation)));
    goes_on(&mut world, group, document);
}

#[test]
fn a_forged_welcome_harms_no_group_on_its_way_back() {
    let (mut world, group, document) = pair(3);
    // Ana cannot follow the next commit, and the service lets her come back by nothing.
    world.service.lies.group_info = Some(Answer::Refused(Refusal::Storage));
    world.garbles = Some(BEN);
    let (user, role) = (world.devices[ANA].user, Role::Admin);
    world.command(BEN, Command::SetRole { group, user, role });
    world.run();
    assert!(world.info(ANA, group).unwrap().returning.is_some());
    forge_welcome(&mut world, group);
    for command in [Command::Accept { group }, Command::Accept { group }] {
        let refused = world.call(ANA, command).unwrap();
        assert!(
            matches!(refused, Err(EngineError::GroupTaken { .. })),
            "{refused:?}"
        );
    }
    world.ask(ANA, Command::Decline { group });
    assert_eq!(world.text(ANA, group, document), "hello");
    world.edit(ANA, group, document, " kept");
    world.service.lies.group_info = None;
    world.advance(600_000);
    assert_eq!(world.text(BEN, group, document), "hello kept");
    world.converged(group, &[ANA, BEN]);
}

#[test]
fn a_true_welcome_waits_until_the_log_shows_the_removal() {
    let (mut world, group, document) = pair(4);
    world.go_offline(ANA);
    let user = world.devices[ANA].user;
    world.ask(BEN, Command::Remove { group, user });
    world.run();
    let role = None;
    world.ask(BEN, Command::Invite { group, user, role });
    world.run();
    world.go_online(ANA);
    // Whatever comes first, the Welcome or the log.
    world.until(|world| !world.service.welcomes(&group).is_empty());
    let _ = world.call(ANA, Command::Accept { group });
    world.run();
    if world.info(ANA, group).is_none_or(|info| !info.active) {
        world.ask(ANA, Command::Accept { group });
        world.run();
    }
    assert_eq!(world.text(ANA, group, document), "hello");
    world.converged(group, &[ANA, BEN]);
}
