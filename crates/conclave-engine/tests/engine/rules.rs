//! Rules of the group that somebody tries to get around: a leave that is passed over, a removal that is resisted, a directory that is closed, a
//! policy that this program is too old for.

use std::collections::VecDeque;

use conclave_engine::finding::Suspect;
use conclave_engine::{Command, EngineError, Reply};
use conclave_identity::{DeviceCredential, DeviceKey};
use conclave_mls::{ClientGroup, CommitInputs, DeviceContext, Plan, Rows};
use conclave_proto::codec::Varint;
use conclave_proto::frame::{ClientFrame, Request};
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::policy::PROTOCOL_VERSION;
use conclave_proto::record::CloseReason;
use conclave_proto::refusal::CommitFault;
use conclave_proto::{CommitId, DocumentId, GroupId, Refusal, Role};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::forge;
use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;

fn three(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    world.invite(group, ANA, CLEO, Some(Role::Viewer));
    let document = world.create_document(group, ANA, "hello");
    world.run();
    (world, group, document)
}

/// A member's own program with its keys and the rows of its store, and none of our engine.
struct Hostile {
    key: DeviceKey,
    credential: DeviceCredential,
    group: ClientGroup,
    rng: ChaCha20Rng,
}

impl Hostile {
    fn of(world: &World, at: usize, group: GroupId) -> Self {
        let device = &world.devices[at];
        let prefix = [&[4], group.as_bytes(), b"m".as_slice()].concat();
        let rows = device.rows.read(&prefix).into_iter();
        let rows: Rows = rows
            .map(|(key, value)| (key[prefix.len()..].to_vec(), value))
            .collect();
        let state = world.state(group);
        let row = state.roster.current_row(&device.id).unwrap();
        Self {
            key: forge::device_key(&device.rows),
            credential: DeviceCredential::from_bytes(row.credential.as_slice()).unwrap(),
            group: ClientGroup::load(rows).unwrap(),
            rng: ChaCha20Rng::seed_from_u64(7),
        }
    }

    /// A commit, which this program takes for ordered at once.
    fn commit(&mut self, world: &World, plan: &Plan) -> CommitBundle {
        let context = DeviceContext {
            key: &self.key,
            credential: &self.credential,
        };
        let inputs = CommitInputs {
            now: world.now,
            service_time: world.now,
            id: CommitId([5; 16]),
            live_roots: &[],
        };
        let made = self.group.commit(&context, plan, inputs, &mut self.rng);
        let bundle = made.unwrap().bundle;
        let entry = GroupEntry::Commit(bundle.commit.clone());
        self.group.process(&entry).unwrap();
        bundle
    }
}

const RENEWAL: Plan = Plan {
    add: Vec::new(),
    remove: Vec::new(),
    policy: None,
    self_update: true,
};

/// Why a command was refused.
fn refusal(reply: Option<Result<Reply, EngineError>>) -> Refusal {
    match reply {
        Some(Err(EngineError::Refused(refusal))) => refusal,
        other => panic!("{other:?}"),
    }
}

/// Sends a request on a device's connection, past its engine.
fn send(world: &mut World, at: usize, number: u64, body: Request) {
    let id = Varint((1 << 40) + number);
    world.send_past(at, ClientFrame::Request { id, body });
}

#[test]
fn a_removal_is_the_next_epoch_against_commits_made_in_advance() {
    let (mut world, group, _) = three(1);
    let mut cleo = Hostile::of(&world, CLEO, group);
    let chain: Vec<CommitBundle> = (0..12).map(|_| cleo.commit(&world, &RENEWAL)).collect();
    let before = world.state(group).epoch;
    // Ana's removal is on its way when the first of them is ordered, and each of the others is sent as soon as anything has happened.
    let user = world.devices[CLEO].user;
    let removal = world.command(ANA, Command::Remove { group, user });
    let mut chain = chain.into_iter().enumerate();
    let first = chain.next().unwrap();
    send(&mut world, CLEO, 0, Request::Commit(first.1));
    assert_eq!(world.state(group).epoch, before + 1);
    let sent = world.count(ANA, "commit");
    world.until(|world| world.count(ANA, "commit") > sent);
    let mut rest: Vec<_> = chain.collect();
    while world.state(group).is_member(&world.devices[CLEO].id) {
        let epoch = world.state(group).epoch;
        if let Some((number, bundle)) = (!rest.is_empty()).then(|| rest.remove(0)) {
            send(&mut world, CLEO, number as u64, Request::Commit(bundle));
        }
        assert_eq!(
            world.state(group).epoch,
            epoch,
            "a commit of hers came first"
        );
        let arrived = world.count(ANA, "commit");
        world.until(|world| {
            world.count(ANA, "commit") > arrived
                || !world.state(group).is_member(&world.devices[CLEO].id)
        });
    }
    assert_eq!(world.state(group).epoch, before + 2);
    world.run();
    let reply = world.reply(ANA, removal);
    assert!(
        matches!(reply, Some(Ok(Reply::Removed { .. }))),
        "{reply:?}"
    );
}

/// Commits of somebody who resists, each for the epoch that the one before it begins.
fn chain(world: &World, at: usize, group: GroupId, length: usize) -> VecDeque<CommitBundle> {
    let mut hostile = Hostile::of(world, at, group);
    let made = (0..length).map(|_| hostile.commit(world, &RENEWAL));
    made.collect()
}

#[test]
fn what_else_is_wanted_does_not_keep_a_removal_from_its_turn() {
    let (mut world, group, _) = three(6);
    let before = world.state(group).epoch;
    world.outruns = Some((ANA, CLEO, chain(&world, CLEO, group, 12)));
    // Something that Ana wanted before loses each race, and asks for no turn.
    let user = world.devices[BEN].user;
    let role = Role::Viewer;
    let other = world.command(ANA, Command::SetRole { group, user, role });
    let user = world.devices[CLEO].user;
    let removal = world.command(ANA, Command::Remove { group, user });
    world.until(|world| !world.state(group).is_member(&world.devices[CLEO].id));
    assert_eq!(world.state(group).epoch, before + 3);
    world.run();
    for waiting in [removal, other] {
        let reply = world.reply(ANA, waiting);
        assert!(matches!(reply, Some(Ok(_))), "{reply:?}");
    }
}

#[test]
fn who_takes_a_turn_before_a_removal_does_not_keep_it_from_its_own() {
    let mut world = World::new(7, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Admin));
    world.invite(group, ANA, CLEO, Some(Role::Admin));
    world.run();
    let before = world.state(group).epoch;
    // A commit for an epoch that is over, with a removal in it, takes the turn: Ben's removal is told to come back in five seconds.
    let remove = vec![world.devices[BEN].id];
    let plan = Plan {
        remove,
        ..Plan::default()
    };
    let stale = Hostile::of(&world, CLEO, group).commit(&world, &plan);
    let mut chain = chain(&world, CLEO, group, 24);
    let mut next = || Request::Commit(chain.pop_front().unwrap());
    send(&mut world, CLEO, 0, next());
    send(&mut world, CLEO, 1, Request::Commit(stale));
    world.advance(0);
    let user = world.devices[CLEO].user;
    let removal = world.command(BEN, Command::Remove { group, user });
    let sent = world.count(BEN, "commit");
    world.until(|world| world.count(BEN, "commit") > sent);
    // Then she makes use of it at once, while Ben waits.
    send(&mut world, CLEO, 2, next());
    world.outruns = Some((BEN, CLEO, chain));
    world.advance(30_000);
    let reply = world.reply(BEN, removal);
    assert!(
        matches!(reply, Some(Ok(Reply::Removed { .. }))),
        "{reply:?}"
    );
    let epochs = world.state(group).epoch - before;
    assert!(epochs <= 5, "{epochs}");
}

#[test]
fn a_removal_is_not_given_up_for_waiting() {
    let (mut world, group, _) = three(8);
    let refusal = Refusal::RateLimited {
        retry_after_ms: 4_000,
    };
    world.refuses = vec![(ANA, "commit", refusal); 40];
    let user = world.devices[CLEO].user;
    let removal = world.command(ANA, Command::Remove { group, user });
    for _ in 0..40 {
        world.advance(5_000);
    }
    let reply = world.reply(ANA, removal);
    assert!(
        matches!(reply, Some(Ok(Reply::Removed { .. }))),
        "{reply:?}"
    );
}

#[test]
fn a_leave_is_not_lost_when_another_member_comes_back() {
    let (mut world, group, document) = three(2);
    // Nobody but Ben hears anything from here on.
    world.go_offline(ANA);
    world.ask(BEN, Command::Rejoin { group });
    world.held = Some(BEN);
    world.command(CLEO, Command::Leave { group });
    world.advance(0);
    assert_eq!(world.state(group).pending.len(), 1);
    world.held = None;
    world.advance(60_000);
    let state = world.state(group);
    assert!(!state.is_member(&world.devices[CLEO].id));
    assert!(state.is_member(&world.devices[BEN].id));
    world.go_online(ANA);
    world.run();
    world.edit(ANA, group, document, " again");
    world.run();
    world.converged(group, &[ANA, BEN]);
}

#[test]
fn an_archived_document_is_taken_up_again_and_the_directory_is_never_closed() {
    let (mut world, group, document) = three(3);
    let reopen = || Command::Reopen { group, document };
    let close = |document, reason| Command::Close {
        group,
        document,
        reason,
    };
    world.ask(BEN, close(document, CloseReason::Archived));
    world.run();
    let refused = world.call(ANA, crate::world::edit(group, document, "x"));
    let closed = Refusal::DocumentClosed;
    assert_eq!(refusal(refused), closed);
    let refused = world.call(CLEO, reopen());
    assert!(matches!(refused, Some(Err(_))), "{refused:?}");
    world.ask(BEN, reopen());
    // Once more is as good.
    world.ask(BEN, reopen());
    world.edit(ANA, group, document, " ana");
    world.edit(BEN, group, document, " ben");
    world.run();
    world.converged(group, &[ANA, BEN, CLEO]);
    let text = world.text(CLEO, group, document);
    assert!(text.contains(" ana") && text.contains(" ben"), "{text}");
    // Away while it was put away and taken up again, a device misses nothing.
    world.go_offline(CLEO);
    world.ask(ANA, close(document, CloseReason::Archived));
    world.ask(ANA, reopen());
    world.edit(ANA, group, document, " later");
    world.go_online(CLEO);
    world.run();
    world.converged(group, &[ANA, BEN, CLEO]);
    world.restart(CLEO);
    world.run();
    assert!(world.text(CLEO, group, document).contains(" later"));
    // What was put away can be deleted, and then not be taken up.
    world.ask(ANA, close(document, CloseReason::Archived));
    world.ask(ANA, close(document, CloseReason::Deleted));
    world.run();
    assert_eq!(refusal(world.call(ANA, reopen())), closed);
    let directory = DocumentId::directory(&group);
    for reason in [
        CloseReason::Archived,
        CloseReason::Deleted,
        CloseReason::Lost,
    ] {
        let fault = CommitFault::Directory;
        let refused = refusal(world.call(ANA, close(directory, reason)));
        assert_eq!(refused, Refusal::BadCommit { fault });
    }
    world.no_findings();
}

#[test]
fn a_removal_while_a_document_is_put_away_makes_it_due_when_it_is_taken_up() {
    let (mut world, group, document) = three(4);
    let reason = CloseReason::Archived;
    world.ask(
        ANA,
        Command::Close {
            group,
            document,
            reason,
        },
    );
    world.run();
    let user = world.devices[CLEO].user;
    world.ask(ANA, Command::Remove { group, user });
    world.run();
    let old = world.state(group).epoch;
    world.ask(ANA, Command::Reopen { group, document });
    world.edit(BEN, group, document, " secret");
    world.run();
    world.converged(group, &[ANA, BEN]);
    assert!(world.text(ANA, group, document).contains(" secret"));
    let records = world.service.records(&group, &document);
    assert!(records.last().unwrap().header.epoch >= old);
}

#[test]
fn a_group_that_demands_a_later_version_is_parked_and_judges_nothing_further() {
    let (mut world, group, document) = three(5);
    let minimum = PROTOCOL_VERSION + 1;
    let mut ana = Hostile::of(&world, ANA, group);
    let mut policy = world.state(group).policy.clone();
    policy.min_protocol_version = minimum;
    let plan = Plan {
        policy: Some(policy),
        ..Plan::default()
    };
    let raised = ana.commit(&world, &plan);
    // As a later program would, and a later service takes it.
    send(&mut world, ANA, 0, Request::Commit(raised));
    // What follows is of a kind that nobody here knows.
    let rubbish = GroupEntry::Proposal(vec![7; 40].into());
    let out = world.service.make_up(group, rubbish);
    world.post(out);
    world.run();
    world.found_only(BEN, &["group.upgrade_needed"]);
    // Who demands it is named.
    let ana = Suspect::Device(world.devices[ANA].id);
    let found = world.open_findings(BEN);
    assert_eq!(found[0].finding.suspect, Some(ana));
    for _ in 0..2 {
        let info = world.info(BEN, group).unwrap();
        assert_eq!(info.frozen.as_deref(), Some("group.upgrade_needed"));
        let refused = world.call(BEN, crate::world::edit(group, document, "x"));
        assert_eq!(refusal(refused), Refusal::UpgradeNeeded { minimum });
        assert_eq!(world.text(BEN, group, document), "hello");
        world.restart(BEN);
        world.run();
    }
}
