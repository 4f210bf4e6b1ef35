//! A device dies at each output of a session, before or after its writes, and starts again from its rows: no edit is lost, no intent is
//! lost, the group does not fork, documents converge.

use conclave_engine::{Command, Reply};
use conclave_proto::{DocumentId, GroupId, GroupPolicy, Role};

use crate::world::{Crash, Cut, Saved, World, create, edit};

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Create,
    Invite,
    Join,
    Document,
    Edit,
    Race,
    Snapshot,
    LostReply,
    Resync,
    Garbled,
    Restored,
    Remove,
    Leave,
}

const PHASES: [Phase; 13] = [
    Phase::Create,
    Phase::Invite,
    Phase::Join,
    Phase::Document,
    Phase::Edit,
    Phase::Race,
    Phase::Snapshot,
    Phase::LostReply,
    Phase::Resync,
    Phase::Garbled,
    Phase::Restored,
    Phase::Remove,
    Phase::Leave,
];

/// What devices have to tell in a phase; everything else is a finding too many.
fn expected(phase: Phase) -> &'static [&'static str] {
    match phase {
        Phase::Resync => &["mls.damaged"],
        Phase::Garbled => &["mls.undecryptable", "device.restored"],
        Phase::Restored => &["device.other_life", "device.restored"],
        _ => &[],
    }
}

fn check_findings(world: &World, phase: Phase) {
    for at in 0..world.devices.len() {
        let mut findings = world.findings(at);
        findings.retain(|finding| !expected(phase).iter().any(|code| finding.starts_with(code)));
        assert_eq!(findings, [""; 0], "seed {}, device {at}", world.seed);
    }
}

/// Runs a command to its end. One that was answered, or whose intent became durable, must reach its goal by itself; one that vanished
/// before it was durable may be given again.
fn insist(
    world: &mut World,
    at: usize,
    make: impl Fn() -> Command,
    reached: impl Fn(&mut World) -> bool,
    what: Phase,
) {
    for _ in 0..2 {
        world.devices[at].stored.clear();
        let reply = world.call(at, make());
        world.run();
        if reached(world) {
            return;
        }
        let durable = world.devices[at]
            .stored
            .iter()
            .any(|key| key.first() == Some(&4) && key.get(17) == Some(&b'i'));
        assert!(
            reply.is_none() && !durable,
            "seed {}: {what:?} is lost: {reply:?}, durable {durable}",
            world.seed
        );
    }
    panic!("seed {}: {what:?} is never done", world.seed);
}

fn board(world: &World) -> Option<GroupId> {
    let rows = world.devices[ANA].rows.read(&[3]);
    rows.first()
        .and_then(|(key, _)| GroupId::from_slice(&key[1..]))
}

fn minutes(world: &World, group: GroupId) -> Option<DocumentId> {
    let documents = world.state(group).documents;
    let mut ids = documents.keys().copied();
    ids.find(|id| *id != DocumentId::directory(&group))
}

fn is_member(world: &World, group: GroupId, at: usize) -> bool {
    let state = world.state(group);
    state.is_member(&world.devices[at].id)
}

/// Edits at several devices at once; each edit is there once in the end, unless its device died before it was written.
fn write(world: &mut World, group: GroupId, document: DocumentId, marks: &[(usize, &str)]) {
    let mut waiting = Vec::new();
    for (at, mark) in marks {
        let lives = world.devices[*at].restarts;
        let id = world.command(*at, edit(group, document, mark));
        waiting.push((*at, *mark, id, lives));
    }
    world.run();
    for (at, mark, id, lives) in waiting {
        let here = world.text(at, group, document).contains(mark);
        match world.reply(at, id) {
            Some(Ok(_)) => assert!(here, "seed {}: {mark} is lost", world.seed),
            Some(Err(error)) => panic!("seed {}: {mark}: {error}", world.seed),
            None => {
                assert!(world.devices[at].restarts > lives, "seed {}", world.seed);
                if !here {
                    let again = world.call(at, edit(group, document, mark));
                    assert!(matches!(again, Some(Ok(_))), "seed {}", world.seed);
                }
            }
        }
    }
    world.run();
    for (at, mark) in marks {
        let text = world.text(*at, group, document);
        assert_eq!(text.matches(mark).count(), 1, "seed {}: {text}", world.seed);
    }
}

/// An edit that waits because its device is offline.
fn write_offline(world: &mut World, at: usize, group: GroupId, document: DocumentId, mark: &str) {
    world.go_offline(at);
    for _ in 0..2 {
        world.call(at, edit(group, document, mark));
        if world.text(at, group, document).contains(mark) {
            return;
        }
    }
    panic!("seed {}: {mark} is never written", world.seed);
}

fn role_of(world: &World, group: GroupId, at: usize) -> Option<Role> {
    let state = world.state(group);
    state.role_of(&world.devices[at].id)
}

fn play(world: &mut World, phase: Phase) {
    if phase == Phase::Create {
        let policy = GroupPolicy {
            snapshot_after_records: 5,
            ..GroupPolicy::default()
        };
        let make = || Command::CreateGroup {
            name: "Board".to_owned(),
            policy: Box::new(policy.clone()),
        };
        let made = |world: &mut World| board(world).is_some();
        insist(world, ANA, make, made, phase);
        let group = board(world).unwrap();
        assert!(world.service.state(&group).is_some());
        assert_eq!(world.devices[ANA].rows.read(&[3]).len(), 1);
        return world.converged(group, &[ANA]);
    }
    let group = board(world).unwrap();
    let role = None;
    match phase {
        Phase::Create => {}
        Phase::Invite => {
            let user = world.devices[BEN].user;
            let role = Some(Role::Admin);
            let make = || Command::Invite { group, user, role };
            let reached = |world: &mut World| is_member(world, group, BEN);
            insist(world, ANA, make, reached, phase);
        }
        Phase::Join => {
            let make = || Command::Accept { group };
            let joined = |world: &mut World| world.info(BEN, group).is_some_and(|info| info.active);
            insist(world, BEN, make, joined, phase);
            world.converged(group, &[ANA, BEN]);
        }
        Phase::Document => {
            let make = || create(group, "minutes", "hello");
            let made = |world: &mut World| minutes(world, group).is_some();
            insist(world, ANA, make, made, phase);
            let document = minutes(world, group).unwrap();
            assert_eq!(world.text(BEN, group, document), "hello");
            world.converged(group, &[ANA, BEN]);
            if let Some(Ok(Reply::Documents(listed))) =
                world.call(BEN, Command::Documents { group })
            {
                let title = listed[0].title.as_deref();
                assert_eq!(title, Some("minutes"), "seed {}", world.seed);
            }
        }
        Phase::Edit => {
            let document = minutes(world, group).unwrap();
            write(world, group, document, &[(ANA, "<a>"), (BEN, "<b>")]);
        }
        Phase::Race => {
            let user = world.devices[CLEO].user;
            let document = minutes(world, group).unwrap();
            // Both invite Cleo, and Ben writes.
            world.command(BEN, Command::Invite { group, user, role });
            world.command(BEN, edit(group, document, "<race>"));
            let make = || Command::Invite { group, user, role };
            let reached = |world: &mut World| is_member(world, group, CLEO);
            insist(world, ANA, make, reached, phase);
            let joined =
                |world: &mut World| world.info(CLEO, group).is_some_and(|info| info.active);
            insist(world, CLEO, || Command::Accept { group }, joined, phase);
            world.converged(group, &[ANA, BEN, CLEO]);
        }
        Phase::Snapshot => {
            let document = minutes(world, group).unwrap();
            for round in 0..1 {
                let marks = [ANA, BEN, CLEO].map(|at| (at, format!("<{at}{round}>")));
                let marks = [0, 1, 2].map(|at| (marks[at].0, marks[at].1.as_str()));
                write(world, group, document, &marks);
            }
            world.converged(group, &[ANA, BEN, CLEO]);
        }
        Phase::LostReply => {
            // The answer to a commit never comes: the connection goes when the service has it.
            world.cuts.push(Cut {
                device: ANA,
                after: "commit",
            });
            let user = world.devices[CLEO].user;
            let role = Role::Viewer;
            let make = || Command::SetRole { group, user, role };
            let reached = move |world: &mut World| role_of(world, group, CLEO) == Some(role);
            insist(world, ANA, make, reached, phase);
            let role = Role::Editor;
            let make = || Command::SetRole { group, user, role };
            let reached = move |world: &mut World| role_of(world, group, CLEO) == Some(role);
            insist(world, ANA, make, reached, phase);
            world.cuts.clear();
            world.converged(group, &[ANA, BEN, CLEO]);
        }
        Phase::Resync => {
            let document = minutes(world, group).unwrap();
            write_offline(world, BEN, group, document, "<lost>");
            let prefix = [&[4], group.as_bytes(), b"m".as_slice()].concat();
            let rows = &mut world.devices[BEN].rows.0;
            rows.retain(|key, _| !key.starts_with(&prefix));
            world.restart(BEN);
            world.go_online(BEN);
            world.advance(120_000);
            world.converged(group, &[ANA, BEN, CLEO]);
            assert!(!world.info(BEN, group).unwrap().unproven);
            let text = world.text(ANA, group, document);
            assert_eq!(text.matches("<lost>").count(), 1, "{text}");
        }
        Phase::Garbled => {
            let document = minutes(world, group).unwrap();
            world.garbles = Some(BEN);
            let user = world.devices[CLEO].user;
            for _ in 0..2 {
                let role = Role::Viewer;
                world.command(BEN, Command::SetRole { group, user, role });
                world.advance(0);
                if world.garbles.is_none() {
                    break;
                }
                world.run();
            }
            assert!(world.garbles.is_none());
            world.go_offline(BEN);
            world.advance(60_000);
            write(world, group, document, &[(ANA, "<g>")]);
            world.converged(group, &[ANA, CLEO]);
            world.go_online(BEN);
            world.advance(60_000);
            // The wish is judged again in the new epoch, and reached.
            assert_eq!(role_of(world, group, CLEO), Some(Role::Viewer));
            let role = Role::Editor;
            let make = || Command::SetRole { group, user, role };
            let reached = move |world: &mut World| role_of(world, group, CLEO) == Some(role);
            insist(world, ANA, make, reached, phase);
            world.converged(group, &[ANA, BEN, CLEO]);
        }
        Phase::Restored => {
            let document = minutes(world, group).unwrap();
            write_offline(world, CLEO, group, document, "<unsent>");
            let backup = world.devices[CLEO].rows.clone();
            world.go_online(CLEO);
            world.run();
            write(world, group, document, &[(CLEO, "<later>")]);
            world.go_offline(CLEO);
            world.devices[CLEO].rows = backup;
            world.restart(CLEO);
            write_offline(world, CLEO, group, document, "<after>");
            world.go_online(CLEO);
            world.run();
            // What it is taken for, before its user says that it is to go on.
            for _ in 0..2 {
                if !world.status(CLEO).online {
                    world.go_online(CLEO);
                    world.command(CLEO, Command::TakeOver);
                    world.run();
                }
            }
            world.advance(120_000);
            world.converged(group, &[ANA, BEN, CLEO]);
            let text = world.text(ANA, group, document);
            for mark in ["<unsent>", "<later>", "<after>"] {
                assert_eq!(text.matches(mark).count(), 1, "{mark}: {text}");
            }
        }
        Phase::Remove => {
            let user = world.devices[CLEO].user;
            let make = || Command::Remove { group, user };
            let reached = |world: &mut World| !is_member(world, group, CLEO);
            insist(world, ANA, make, reached, phase);
            world.advance(90_000);
            let state = world.state(group);
            assert_eq!(state.rotating_since, 0, "seed {}", world.seed);
            assert!(!world.info(CLEO, group).is_some_and(|info| info.active));
            let document = minutes(world, group).unwrap();
            write(world, group, document, &[(ANA, "<z>"), (BEN, "<y>")]);
            world.converged(group, &[ANA, BEN]);
        }
        Phase::Leave => {
            let make = || Command::Leave { group };
            let reached = |world: &mut World| !is_member(world, group, BEN);
            insist(world, BEN, make, reached, phase);
            world.converged(group, &[ANA]);
            assert!(!world.info(BEN, group).is_some_and(|info| info.active));
        }
    }
}

/// Plays a phase without accident, then once for every output of every device, before and after its writes.
fn exhaust(saved: &Saved, phase: Phase, seed: u64) -> Saved {
    let mut calm = World::load(seed, saved, None);
    play(&mut calm, phase);
    check_findings(&calm, phase);
    for device in 0..calm.devices.len() {
        for output in 0..calm.devices[device].outputs {
            for written in [false, true] {
                let crash = Crash {
                    device,
                    output,
                    written,
                };
                let mut world = World::load(seed, saved, Some(crash));
                let told = format!("phase {phase:?}, seed {seed}, {crash:?}");
                let run = std::panic::AssertUnwindSafe(|| {
                    play(&mut world, phase);
                    check_findings(&world, phase);
                    assert!(world.crashed, "it never came to this output");
                });
                if let Err(panic) = std::panic::catch_unwind(run) {
                    eprintln!("{told}");
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    calm.save()
}

fn session(until: Phase, seed: u64) -> Saved {
    let mut saved = World::new(seed, &["ana", "ben", "cleo"]).save();
    for phase in PHASES {
        if phase == until {
            break;
        }
        let mut world = World::load(seed, &saved, None);
        play(&mut world, phase);
        saved = world.save();
    }
    saved
}

macro_rules! phases {
    ($($name:ident: $phase:ident,)*) => {
        $(
            #[test]
            fn $name() {
                let seed = 11;
                exhaust(&session(Phase::$phase, seed), Phase::$phase, seed);
            }
        )*
    };
}

phases! {
    at_any_output_while_a_group_is_created: Create,
    at_any_output_while_a_user_is_invited: Invite,
    at_any_output_while_a_user_joins: Join,
    at_any_output_while_a_document_is_created: Document,
    at_any_output_while_two_users_write: Edit,
    at_any_output_of_a_race: Race,
    at_any_output_while_a_snapshot_is_made_and_checked: Snapshot,
    at_any_output_around_a_lost_reply: LostReply,
    at_any_output_of_a_device_that_lost_its_state_and_comes_back: Resync,
    at_any_output_after_a_commit_that_nobody_can_decrypt: Garbled,
    at_any_output_of_a_restored_backup: Restored,
    at_any_output_of_a_removal_and_its_rotation: Remove,
    at_any_output_of_a_leave: Leave,
}
