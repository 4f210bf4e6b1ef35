//! What a service lost of a group's own log when it was put back comes back: commits, entries, and what they say of documents.

use conclave_engine::finding::About;
use conclave_engine::{Command, EngineError, Reply};
use conclave_proto::record::CloseReason;
use conclave_proto::{DocumentId, GroupId, Role};

use conclave_testkit::service::Service;

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;

fn trio(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Admin));
    world.invite(group, ANA, CLEO, None);
    let document = world.create_document(group, ANA, "hello");
    world.run();
    (world, group, document)
}

fn set_role(world: &mut World, at: usize, group: GroupId, of: usize, role: Role) {
    let user = world.devices[of].user;
    world.ask(at, Command::SetRole { group, user, role });
    world.run();
}

fn told(world: &mut World, at: usize, code: &str, about: About) -> bool {
    let command = Command::Findings {
        group: None,
        dismissed: true,
    };
    let Reply::Findings(found) = world.ask(at, command) else {
        panic!("no findings")
    };
    let mut found = found.into_iter();
    found.any(|it| it.code == code && it.finding.about == about)
}

fn all_settled(world: &mut World, members: &[usize]) {
    for at in members {
        let mut open = world.open_findings(*at);
        // Whoever reads it ends it.
        open.retain(|found| found.code != "service.put_back_often");
        assert_eq!(open, [], "{at}");
    }
}

fn role(world: &World, group: GroupId, of: usize) -> Option<Role> {
    world.state(group).role_of(&world.devices[of].id)
}

/// A change that cannot be taken now: it is queued, and whoever asked is told so at once, with when it goes on at the latest.
fn waits_for_recovery(world: &mut World, at: usize, command: Command) {
    let asked = world.now;
    let id = world.command(at, command);
    world.until(|world| world.reply(at, id).is_some());
    let reply = world.reply(at, id);
    let Some(Err(error @ EngineError::WaitsForRecovery { until })) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(error.code(), "engine.waits_for_recovery");
    let begun = world.service.generation().begun;
    assert_eq!(until, Some(begun.plus_ms(24 * 3600 * 1000)));
    assert!(error.to_string().contains("queued"), "{error}");
    assert!(world.now.since_ms(asked) < 1_000, "somebody waited");
}

/// All kinds of changes to a group, one after another, each behind those before it; all are done when the service has what it lost.
#[test]
fn what_is_asked_of_a_group_while_the_service_collects_is_queued_and_that_is_said_at_once() {
    for seed in 41..44 {
        let (mut world, group, document) = trio(seed);
        world.advance(900_000);
        let old = world.create_document(group, ANA, "old");
        world.run();
        let mut copy = world.service.clone();
        copy.disconnect_all();
        copy.recover(180_000, world.now);
        world.put_back(copy);
        let [ben, cleo] = [BEN, CLEO].map(|at| world.devices[at].user);
        let (role, reason) = (Role::Viewer, CloseReason::Archived);
        let set = |user| Command::SetRole { group, user, role };
        let close = |document| Command::Close {
            group,
            document,
            reason,
        };
        waits_for_recovery(&mut world, ANA, close(old));
        waits_for_recovery(&mut world, ANA, set(ben));
        waits_for_recovery(&mut world, ANA, Command::Remove { group, user: cleo });
        waits_for_recovery(&mut world, ANA, close(document));
        // It goes on being so, and nothing is told twice, nor to who comes later.
        world.advance(90_000);
        assert_eq!(world.intents(ANA, &group), 4);
        assert!(matches!(world.ask(ANA, Command::Settled), Reply::Done));
        world.restart(ANA);
        world.run();
        all_settled(&mut world, &[ANA, BEN, CLEO]);
        let before = world.state(group);
        world.advance(240_000);
        let state = world.state(group);
        assert!(state.epoch > before.epoch, "seed {seed}");
        assert_eq!(state.role_of_user(&ben), Some(Role::Viewer));
        assert_eq!(state.role_of_user(&cleo), None);
        for id in [document, old] {
            assert_eq!(state.documents.get(&id).unwrap().closed, Some(reason));
        }
        assert_eq!(world.intents(ANA, &group), 0);
        all_settled(&mut world, &[ANA, BEN]);
    }
}

/// The operator puts a copy back, and says so before anybody comes.
fn restore(world: &mut World, mut copy: Service) {
    copy.disconnect_all();
    copy.recover(0, world.now);
    world.put_back(copy);
}

#[test]
fn one_commit_ago_it_comes_back_by_itself() {
    let (mut world, group, document) = trio(1);
    let copy = world.service.clone();
    set_role(&mut world, ANA, group, CLEO, Role::Viewer);
    world.put_back(copy);
    world.advance(900_000);
    assert_eq!(role(&world, group, CLEO), Some(Role::Viewer));
    world.edit(BEN, group, document, " on");
    world.run();
    world.converged(group, &[ANA, BEN, CLEO]);
    assert_eq!(world.text(CLEO, group, document), "hello on");
    let told = [ANA, BEN, CLEO]
        .into_iter()
        .any(|at| told(&mut world, at, "service.put_back", About::Group(group)));
    assert!(told);
    all_settled(&mut world, &[ANA, BEN, CLEO]);
}

/// Commits of several members, edits between them, under several epochs.
#[test]
fn a_day_of_commits_and_edits_comes_back_in_its_order() {
    let (mut world, group, document) = trio(2);
    let copy = world.service.clone();
    let mut text = "hello".to_owned();
    for number in 0..12 {
        let at = number % 2;
        set_role(
            &mut world,
            at,
            group,
            CLEO,
            [Role::Viewer, Role::Editor][at],
        );
        let word = format!(" {number}");
        world.edit(at, group, document, &word);
        world.run();
        text.push_str(&word);
    }
    let before = world.state(group).epoch;
    for _ in 0..2 {
        world.put_back(copy.clone());
        world.advance(900_000);
        assert!(world.state(group).epoch >= before);
        world.converged(group, &[ANA, BEN, CLEO]);
        assert_eq!(world.text(CLEO, group, document), text);
    }
    all_settled(&mut world, &[ANA, BEN, CLEO]);
}

/// Cleo's removal is lost with the service's state, and she writes before anybody has brought it back: the removal stands, and so does what the
/// service had ordered of her.
#[test]
fn a_removal_that_was_lost_comes_back_and_what_was_written_in_the_gap_stays() {
    let (mut world, group, document) = trio(3);
    // Leaves that were added are renewed.
    world.advance(700_000);
    world.go_offline(CLEO);
    let copy = world.service.clone();
    let user = world.devices[CLEO].user;
    world.ask(ANA, Command::Remove { group, user });
    // The old keys go.
    world.advance(3_700_000);
    for at in [ANA, BEN] {
        world.go_offline(at);
    }
    restore(&mut world, copy);
    world.go_online(CLEO);
    world.run();
    world.edit(CLEO, group, document, " gap");
    world.run();
    for at in [ANA, BEN] {
        world.go_online(at);
    }
    world.advance(900_000);
    assert_eq!(role(&world, group, CLEO), None);
    assert!(world.info(CLEO, group).is_none_or(|info| !info.active));
    for at in [ANA, BEN] {
        assert!(told(
            &mut world,
            at,
            "service.put_back",
            About::Group(group)
        ));
    }
    // What she wrote is ordered, under keys that went with her: nobody reads it, and that is told, with the way on.
    assert!(told(
        &mut world,
        ANA,
        "document.cannot_merge",
        About::Document(group, document)
    ));
    world.edit(BEN, group, document, " on");
    let Reply::Group(new) = world.ask(BEN, Command::Restart { group }) else {
        panic!("not founded anew")
    };
    world.advance(900_000);
    let Reply::Documents(list) = world.ask(BEN, Command::Documents { group: new }) else {
        panic!("no documents")
    };
    assert_eq!(world.text(BEN, new, list[0].document), "hello on");
}

/// Whoever was let in by a commit that is lost is no member there, and has it: she brings it herself.
#[test]
fn who_joined_after_the_copy_was_made_is_a_member_still() {
    let mut world = World::new(4, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    let document = world.create_document(group, ANA, "hello");
    world.run();
    let copy = world.service.clone();
    world.invite(group, ANA, CLEO, None);
    world.run();
    world.edit(CLEO, group, document, " cleo");
    world.run();
    world.go_offline(ANA);
    world.go_offline(BEN);
    world.put_back(copy);
    world.advance(900_000);
    world.go_online(ANA);
    world.go_online(BEN);
    world.advance(900_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    assert_eq!(world.text(BEN, group, document), "hello cleo");
    all_settled(&mut world, &[ANA, BEN, CLEO]);
}

#[test]
fn a_welcome_that_was_lost_is_handed_out_all_the_same() {
    let mut world = World::new(5, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    let document = world.create_document(group, ANA, "hello");
    world.run();
    let copy = world.service.clone();
    world.go_offline(CLEO);
    let user = world.devices[CLEO].user;
    let role = None;
    world.ask(ANA, Command::Invite { group, user, role });
    world.run();
    world.put_back(copy);
    world.advance(900_000);
    world.go_online(CLEO);
    world.run();
    world.ask(CLEO, Command::Accept { group });
    world.advance(900_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    assert_eq!(world.text(CLEO, group, document), "hello");
}

#[test]
fn a_document_that_was_made_after_the_copy_comes_back() {
    let (mut world, group, document) = trio(6);
    let copy = world.service.clone();
    let other = world.create_document(group, BEN, "new");
    world.run();
    world.edit(ANA, group, other, " and more");
    world.run();
    world.put_back(copy);
    world.advance(900_000);
    world.edit(CLEO, group, other, ", on");
    world.edit(CLEO, group, document, ", on");
    world.run();
    world.converged(group, &[ANA, BEN, CLEO]);
    assert_eq!(world.text(ANA, group, other), "new and more, on");
    assert_eq!(world.text(ANA, group, document), "hello, on");
    all_settled(&mut world, &[ANA, BEN, CLEO]);
}

/// Cleo's commit takes the place of one that was lost: the others' log leads elsewhere, and they are told what to do.
#[test]
fn commits_on_both_sides_part_and_a_restart_carries_everything() {
    let (mut world, group, document) = trio(7);
    set_role(&mut world, ANA, group, CLEO, Role::Admin);
    world.go_offline(CLEO);
    let copy = world.service.clone();
    set_role(&mut world, ANA, group, BEN, Role::Editor);
    world.edit(BEN, group, document, " ben");
    world.run();
    for at in [ANA, BEN] {
        world.go_offline(at);
    }
    restore(&mut world, copy);
    world.go_online(CLEO);
    set_role(&mut world, CLEO, group, BEN, Role::Viewer);
    world.edit(CLEO, group, document, " cleo");
    world.run();
    for at in [ANA, BEN] {
        world.go_online(at);
    }
    world.advance(900_000);
    for at in [ANA, BEN] {
        assert!(
            told(&mut world, at, "group.parted", About::Group(group)),
            "{at}: {:?}",
            world.findings(at)
        );
        assert_eq!(world.text(at, group, document), "hello ben");
    }
    let Reply::Group(new) = world.ask(ANA, Command::Restart { group }) else {
        panic!("not founded anew")
    };
    world.advance(900_000);
    let Reply::Documents(list) = world.ask(ANA, Command::Documents { group: new }) else {
        panic!("no documents")
    };
    assert_eq!(list.len(), 1);
    assert_eq!(world.text(ANA, new, list[0].document), "hello ben");
}

/// The operator gives up what was lost: nobody waits for it any longer, and whoever has it is told.
#[test]
fn what_is_given_up_parts_from_who_has_it() {
    let (mut world, group, document) = trio(8);
    world.go_offline(CLEO);
    let copy = world.service.clone();
    set_role(&mut world, ANA, group, CLEO, Role::Viewer);
    world.forbidden = &["return_group"];
    world.put_back(copy);
    world.run();
    let out = world.service.accept_losses();
    world.post(out);
    world.forbidden = &[];
    world.go_online(CLEO);
    world.advance(900_000);
    for at in [ANA, BEN] {
        assert!(
            told(&mut world, at, "group.parted", About::Group(group)),
            "{at}: {:?}",
            world.findings(at)
        );
        assert_eq!(world.text(at, group, document), "hello");
    }
    // Who has none of it goes on.
    world.edit(CLEO, group, document, " cleo");
    world.run();
    assert_eq!(world.intents(CLEO, &group), 0);
    all_settled(&mut world, &[CLEO]);
}

#[test]
fn whoever_dies_at_any_output_of_returning_loses_nothing() {
    let (mut world, group, document) = trio(9);
    let copy = world.service.clone();
    set_role(&mut world, ANA, group, CLEO, Role::Viewer);
    world.edit(BEN, group, document, " late");
    world.run();
    for at in [BEN, CLEO] {
        world.go_offline(at);
    }
    world.put_back(copy);
    let saved = world.save();
    let crashes = World::at_any_output(
        &saved,
        ANA,
        |output| 200 + output as u64,
        |world| world.advance(900_000),
        |world, crash| {
            for at in [BEN, CLEO] {
                world.go_online(at);
            }
            world.advance(900_000);
            world.converged(group, &[ANA, BEN, CLEO]);
            assert_eq!(world.text(CLEO, group, document), "hello late", "{crash:?}");
        },
    );
    assert!(crashes > 10, "{crashes}");
}

/// Nothing proves that the service had it, and its operator says that it was put back: it is taken all the same, before the logs go another way.
#[test]
fn what_the_service_never_signed_comes_back_too() {
    let (mut world, group, document) = trio(10);
    world.service.lies.no_head_frames = true;
    let copy = world.service.clone();
    let other = world.create_document(group, BEN, "new");
    world.run();
    set_role(&mut world, ANA, group, CLEO, Role::Viewer);
    world.edit(BEN, group, document, " late");
    world.run();
    restore(&mut world, copy);
    world.advance(900_000);
    world.edit(BEN, group, document, ", on");
    world.edit(BEN, group, other, ", on");
    world.run();
    world.converged(group, &[ANA, BEN, CLEO]);
    assert_eq!(role(&world, group, CLEO), Some(Role::Viewer));
    assert_eq!(world.text(CLEO, group, document), "hello late, on");
    assert_eq!(world.text(CLEO, group, other), "new, on");
    all_settled(&mut world, &[ANA, BEN, CLEO]);
}

/// Records of an epoch that is over, with the commit that ended it: all members have them, so none could carry them into what others wrote.
#[test]
fn what_was_written_before_a_commit_and_never_signed_comes_back_too() {
    let (mut world, group, document) = trio(11);
    world.service.lies.no_head_frames = true;
    let copy = world.service.clone();
    world.edit(BEN, group, document, " late");
    world.run();
    set_role(&mut world, ANA, group, CLEO, Role::Viewer);
    restore(&mut world, copy);
    world.advance(900_000);
    world.edit(BEN, group, document, ", on");
    world.run();
    world.advance(900_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    let text = world.text(CLEO, group, document);
    assert!(text.contains(" late") && text.contains(", on"), "{text}");
    all_settled(&mut world, &[ANA, BEN, CLEO]);
}
