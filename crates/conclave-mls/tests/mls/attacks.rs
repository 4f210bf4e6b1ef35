//! Commits and proposals that break the rules: refused by the service, and by every member if the service orders them all the same.

use conclave_mls::{Fault, MlsError, Plan, ProcessError};
use conclave_proto::group::{Checkpoint, CommitBundle, CommitData, GroupEntry};
use conclave_proto::policy::{GroupPolicy, Role};
use conclave_proto::refusal::{CommitFault, ForbiddenWhy};
use conclave_proto::{Hash, Head, Refusal, UnixMs};
use openmls::extensions::{Extension, ExternalSender, UnknownExtension};

use crate::forge;
use crate::packages::stolen;
use crate::world::{NOW, RawSigner, World, raw};

/// The service answers with the fault; members name fault and signer.
pub fn refused(world: &mut World, author: usize, bundle: &CommitBundle, fault: CommitFault) {
    let expected = match fault {
        CommitFault::PendingOmitted => Refusal::ProposalPending,
        fault => Refusal::BadCommit { fault },
    };
    assert_eq!(forge::refusal(world, author, bundle), expected);
    let signer = Some(world.device(author));
    let errors = forge::refused_by_members(world, &bundle.commit, &[author]);
    assert!(!errors.is_empty());
    for error in errors {
        let fault = Fault::Commit(fault);
        assert_eq!(error, ProcessError::Illegal { fault, signer });
    }
    // Nobody is harmed: the group goes on.
    world.commit(0, &Plan::default());
}

#[test]
fn an_editor_removes_another_user() {
    let mut world = World::with_roles(24, &[Role::Editor, Role::Editor]);
    let plan = Plan {
        remove: vec![world.device(2)],
        ..Plan::default()
    };
    assert_eq!(
        world.prepare(1, &plan).unwrap_err(),
        MlsError::Forbidden {
            fault: CommitFault::Role
        }
    );
    let bundle = forge::commit(&world, 1, &forge::data(&world), |builder, context| {
        builder.propose_removals([context.leaf(&world.peers[2])])
    });
    refused(&mut world, 1, &bundle, CommitFault::Role);
}

#[test]
fn an_admin_removes_an_owner_or_becomes_one() {
    let mut world = World::with_roles(25, &[Role::Admin]);
    let bundle = forge::commit(&world, 1, &forge::data(&world), |builder, context| {
        builder.propose_removals([context.leaf(&world.peers[0])])
    });
    refused(&mut world, 1, &bundle, CommitFault::Role);
    let mut policy = world.service.state().policy.clone();
    policy.set_role(world.user_id(1), Role::Owner);
    let bundle = forge::commit(&world, 1, &forge::data(&world), |builder, context| {
        let mut extensions = context.extensions.clone();
        let bytes = UnknownExtension(conclave_proto::codec::encode(&policy));
        let policy = Extension::Unknown(conclave_mls::POLICY_EXTENSION, bytes);
        extensions.add_or_replace(policy).unwrap();
        builder
            .propose_group_context_extensions(extensions)
            .unwrap()
    });
    refused(&mut world, 1, &bundle, CommitFault::Role);
}

#[test]
fn an_external_sender_is_smuggled_into_the_context() {
    let mut world = World::with_roles(26, &[Role::Owner]);
    let credential = stolen(&world, 1, &world.peers[1].key);
    let bundle = forge::commit(&world, 1, &forge::data(&world), |builder, context| {
        let mut extensions = context.extensions.clone();
        let sender = ExternalSender::new(credential.signature_key, credential.credential);
        extensions
            .add_or_replace(Extension::ExternalSenders(vec![sender]))
            .unwrap();
        builder
            .propose_group_context_extensions(extensions)
            .unwrap()
    });
    refused(&mut world, 1, &bundle, CommitFault::Policy);
}

#[test]
fn a_commit_leaves_out_a_pending_leave() {
    let mut world = World::with_roles(27, &[Role::Editor, Role::Editor]);
    world.leave(2).unwrap();
    world.sync_all();
    let bundle = forge::commit(&world, 1, &forge::data(&world), |builder, _| {
        builder
            .consume_proposal_store(false)
            .force_self_update(true)
    });
    refused(&mut world, 1, &bundle, CommitFault::PendingOmitted);
}

#[test]
fn a_wrong_roster_hash() {
    let mut world = World::with_roles(28, &[Role::Editor]);
    let bundle = forge::commit(&world, 1, &forge::data(&world), |builder, _| {
        builder.force_self_update(true)
    });
    refused(&mut world, 1, &bundle, CommitFault::Roster);
}

#[test]
fn a_commit_with_what_a_later_version_will_mean_is_refused() {
    let checkpoint = Some(Checkpoint { head: Head::EMPTY });
    for (version, checkpoint) in [(1, checkpoint), (2, None)] {
        let mut world = World::with_roles(28, &[Role::Editor]);
        let data = CommitData {
            version,
            checkpoint,
            ..forge::data(&world)
        };
        let bundle = forge::commit(&world, 1, &data, |builder, _| {
            builder.force_self_update(true)
        });
        refused(&mut world, 1, &bundle, CommitFault::Data);
    }
}

#[test]
fn a_time_before_the_previous_commit() {
    let mut world = World::with_roles(29, &[Role::Editor]);
    let mut data = forge::data(&world);
    data.time = UnixMs(NOW.0 - 1);
    let bundle = forge::commit(&world, 1, &data, |builder, _| {
        builder.force_self_update(true)
    });
    refused(&mut world, 1, &bundle, CommitFault::Time);
}

#[test]
fn a_time_far_from_the_services_clock() {
    let mut world = World::with_roles(30, &[Role::Editor]);
    let prepared = world.prepare(1, &Plan::default()).unwrap();
    let time_refused = Err(Refusal::BadCommit {
        fault: CommitFault::Time,
    });
    world.now = NOW.plus_ms(301_000);
    assert_eq!(world.judge(1, &prepared.bundle), time_refused);
    // A service whose clock fell behind takes exactly the previous time.
    world.now = UnixMs(NOW.0 - 3_600_000);
    assert_eq!(world.judge(1, &prepared.bundle), Ok(()));
    let mut data = forge::data(&world);
    data.time = NOW.plus_ms(1);
    let bundle = forge::commit(&world, 1, &data, |builder, _| {
        builder.force_self_update(true)
    });
    assert_eq!(world.judge(1, &bundle), time_refused);
    world.now = NOW.plus_ms(300_000);
    world.submit(1, &prepared.bundle).unwrap();
}

#[test]
fn a_device_does_not_follow_a_service_a_day_ahead_of_its_clock() {
    let mut world = World::new(31);
    let inputs = conclave_mls::CommitInputs {
        now: NOW,
        service_time: NOW.plus_ms(25 * 3600 * 1000),
        id: world.inputs_id(),
        live_roots: &[],
    };
    let peer = &mut world.peers[0];
    let context = conclave_mls::DeviceContext {
        key: &peer.key,
        credential: &peer.credential,
    };
    let group = peer.group.as_mut().unwrap();
    let refused = group.commit(&context, &Plan::default(), inputs, &mut world.rng);
    assert!(matches!(refused, Err(MlsError::ClockSkew { .. })));
    assert!(group.has_pending().is_none());
}

#[test]
fn a_seen_head_that_is_no_prefix() {
    let mut world = World::with_roles(32, &[Role::Editor]);
    for (size, root) in [(1, Hash([1; 32])), (7, Hash::ZERO), (0, Hash::ZERO)] {
        let mut data = forge::data(&world);
        data.seen.size = size;
        data.seen.root = root;
        let bundle = forge::commit(&world, 1, &data, |builder, _| {
            builder.force_self_update(true)
        });
        let fault = CommitFault::SeenHead;
        assert_eq!(
            forge::refusal(&world, 1, &bundle),
            Refusal::BadCommit { fault }
        );
    }
    world.leave(1).unwrap();
    world.sync_all();
    // The head has to contain the leave that the commit covers.
    let mut data = forge::data(&world);
    data.seen.size -= 1;
    data.seen.root = world.service.state().root_at(data.seen.size).unwrap();
    let bundle = forge::commit(&world, 0, &data, |builder, _| builder);
    let fault = CommitFault::SeenHead;
    assert_eq!(
        forge::refusal(&world, 0, &bundle),
        Refusal::BadCommit { fault }
    );
}

#[test]
fn the_last_owner_leaves() {
    let mut world = World::with_roles(35, &[Role::Admin]);
    let last_owner = MlsError::Forbidden {
        fault: CommitFault::LastOwner,
    };
    assert_eq!(world.leave_message(0).unwrap_err(), last_owner);
    let message = raw_leave(&world, 0);
    assert_eq!(
        world
            .service
            .judge_proposal(&message, world.device(0))
            .unwrap_err(),
        Refusal::BadCommit {
            fault: CommitFault::LastOwner
        }
    );
    // Ordered by a dishonest service it is void, for everybody.
    let entry = GroupEntry::Proposal(message.into());
    for peer in 0..2 {
        let group = world.peers[peer].group_mut();
        let done = group.process(&entry).unwrap();
        assert!(matches!(
            done,
            conclave_mls::Processed::Proposal { void: true, .. }
        ));
        assert!(group.state().pending.is_empty());
    }
    // What is void is in nobody's way.
    world.prepare(1, &Plan::default()).unwrap();
    let mut policy = world.service.state().policy.clone();
    policy.set_role(world.user_id(0), Role::Viewer);
    let plan = Plan {
        policy: Some(policy),
        ..Plan::default()
    };
    assert_eq!(world.prepare(0, &plan).unwrap_err(), last_owner);
}

#[test]
fn two_owners_leave_and_one_has_to_stay() {
    let mut world = World::with_roles(36, &[Role::Owner, Role::Editor]);
    world.leave(0).unwrap();
    world.sync_all();
    assert_eq!(
        world.leave_message(1).unwrap_err(),
        MlsError::Forbidden {
            fault: CommitFault::LastOwner
        }
    );
    assert_eq!(
        world.leave_message(0).unwrap_err(),
        MlsError::Forbidden {
            fault: CommitFault::Duplicate
        }
    );
    assert_eq!(
        world.prepare(0, &Plan::default()).unwrap_err(),
        MlsError::Leaving
    );
    world.commit(2, &Plan::default());
    assert!(world.is_member(1) && !world.is_member(0));
}

fn raw_leave(world: &World, peer: usize) -> Vec<u8> {
    let mut raw = raw(&world.peers[peer]);
    raw.mls
        .leave_group_via_self_remove(&raw.provider, &RawSigner(&world.peers[peer].key))
        .unwrap()
        .to_bytes()
        .unwrap()
}

#[test]
fn standalone_proposals_of_other_kinds() {
    let mut world = World::with_roles(37, &[Role::Owner, Role::Editor]);
    let mut thief = raw(&world.peers[1]);
    let victim = thief
        .mls
        .members()
        .find(|member| member.signature_key == world.peers[2].key.public())
        .unwrap()
        .index;
    let (message, _) = thief
        .mls
        .propose_remove_member(&thief.provider, &RawSigner(&world.peers[1].key), victim)
        .unwrap();
    let bytes = message.to_bytes().unwrap();
    let fault = CommitFault::ProposalKind;
    assert_eq!(
        world
            .service
            .judge_proposal(&bytes, world.device(1))
            .unwrap_err(),
        Refusal::BadCommit { fault }
    );
    let entry = GroupEntry::Proposal(bytes.into());
    let error = world.peers[0].group_mut().process(&entry).unwrap_err();
    let fault = Fault::Commit(fault);
    assert_eq!(
        error,
        ProcessError::Illegal {
            fault,
            signer: None
        }
    );
}

#[test]
fn somebody_elses_commit_and_leave_on_the_thiefs_connection() {
    let mut world = World::with_roles(38, &[Role::Editor, Role::Editor]);
    let not_yours = Refusal::Forbidden {
        why: ForbiddenWhy::NotYours,
    };
    let leave = world.leave_message(1).unwrap();
    assert_eq!(
        world
            .service
            .judge_proposal(&leave, world.device(2))
            .unwrap_err(),
        not_yours
    );
    let prepared = world.prepare(1, &Plan::default()).unwrap();
    assert_eq!(forge::refusal(&world, 2, &prepared.bundle), not_yours);
}

#[test]
fn a_removed_device_keeps_committing() {
    let mut world = World::with_roles(41, &[Role::Owner]);
    let prepared = world.prepare(1, &Plan::default()).unwrap();
    world.peers[1].group_mut().discard_pending().unwrap();
    world.remove(0, &[1]);
    let why = ForbiddenWhy::Tombstoned;
    assert_eq!(
        forge::refusal(&world, 1, &prepared.bundle),
        Refusal::Forbidden { why }
    );
    assert_eq!(
        world.prepare(1, &Plan::default()).unwrap_err(),
        MlsError::NotMember
    );
    assert_eq!(world.leave_message(1).unwrap_err(), MlsError::NotMember);
    let entry = GroupEntry::Commit(prepared.bundle.commit);
    let error = world.peers[0].group_mut().process(&entry).unwrap_err();
    assert!(matches!(error, ProcessError::Illegal { .. }));
}

/// A commit that sets a policy, whoever may.
fn with_policy(world: &World, peer: usize, policy: &GroupPolicy) -> CommitBundle {
    forge::commit(world, peer, &forge::data(world), |builder, context| {
        let mut extensions = context.extensions.clone();
        let policy = UnknownExtension(conclave_proto::codec::encode(policy));
        let policy = Extension::Unknown(conclave_mls::POLICY_EXTENSION, policy);
        extensions.add_or_replace(policy).unwrap();
        builder
            .propose_group_context_extensions(extensions)
            .unwrap()
    })
}

#[test]
fn only_an_owner_demands_a_later_version() {
    let mut world = World::with_roles(241, &[Role::Admin, Role::Editor]);
    let mut policy = world.service.state().policy.clone();
    policy.min_protocol_version += 1;
    let plan = Plan {
        policy: Some(policy.clone()),
        ..Plan::default()
    };
    // Every program that is older would stop, the owners' too, who could not even remove whoever did it.
    let fault = CommitFault::Role;
    let forbidden = MlsError::Forbidden { fault };
    assert_eq!(world.prepare(1, &plan).unwrap_err(), forbidden);
    let bundle = with_policy(&world, 1, &policy);
    refused(&mut world, 1, &bundle, fault);
    world.commit(0, &plan);
    assert_eq!(world.service.state().policy, policy);
}

#[test]
fn the_version_that_a_group_demands_never_falls() {
    let later = conclave_proto::policy::PROTOCOL_VERSION + 1;
    let mut world = World::with_roles(240, &[Role::Admin]);
    let policy = |world: &World, minimum| {
        let mut policy = world.service.state().policy.clone();
        policy.min_protocol_version = minimum;
        Plan {
            policy: Some(policy),
            ..Plan::default()
        }
    };
    let guest = world.outsider();
    world.commit(0, &policy(&world, later));
    assert_eq!(world.service.state().later_version(), Some(later));
    let fault = CommitFault::Policy;
    let lowered = policy(&world, later - 1);
    let forbidden = MlsError::Forbidden { fault };
    assert_eq!(world.prepare(0, &lowered).unwrap_err(), forbidden);
    let bundle = with_policy(&world, 0, lowered.policy.as_ref().unwrap());
    refused(&mut world, 0, &bundle, fault);
    // Whoever is invited by a later program, or would come back, is told what to do, and uses up nothing.
    let add = vec![world.package(guest)];
    let plan = Plan {
        add,
        ..Plan::default()
    };
    let prepared = world.prepare(0, &plan).unwrap();
    world.submit(0, &prepared.bundle).unwrap();
    let needed = MlsError::UpgradeNeeded { minimum: later };
    let (_, delivery) = world.welcomes.pop().unwrap();
    let packages = world.peers[guest].keys.count();
    assert_eq!(world.join(guest, &delivery).unwrap_err(), needed);
    assert_eq!(world.peers[guest].keys.count(), packages);
    let back = crate::rejoin::prepare(&mut world, 1).map(|_| ());
    assert_eq!(back.unwrap_err(), needed);
}
