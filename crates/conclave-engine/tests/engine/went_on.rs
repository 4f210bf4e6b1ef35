//! A service that was put back does not take what it lost, or nobody has all of it: returning ends, and everybody goes on.

use conclave_engine::{Command, FindingInfo, Reply, RescueCause, RescueInfo};
use conclave_proto::{DocumentId, GroupId, GroupPolicy, Role};
use conclave_testkit::service::Service;

use crate::world::World;

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
const ALL: [usize; 3] = [ANA, BEN, CLEO];
const DAY_MS: u64 = 24 * 3_600_000;

fn trio(seed: u64, policy: GroupPolicy) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    // Nothing proves what the service had.
    world.service.lies.no_head_frames = true;
    let group = world.create_group_with(ANA, policy);
    world.invite(group, ANA, BEN, Some(Role::Admin));
    world.invite(group, ANA, CLEO, None);
    let document = world.create_document(group, ANA, "hello");
    world.advance(900_000);
    (world, group, document)
}

/// The operator puts a copy back, and says so before anybody comes.
fn restore(world: &mut World, mut copy: Service) {
    copy.disconnect_all();
    copy.recover(0, world.now);
    world.put_back(copy);
}

fn open_states(world: &mut World, at: usize) -> Vec<FindingInfo> {
    let mut open = world.open_findings(at);
    open.retain(|it| it.finding.what.is_state());
    open
}

fn told(world: &mut World, at: usize, code: &str) -> bool {
    let (group, dismissed) = (None, true);
    let Reply::Findings(found) = world.ask(at, Command::Findings { group, dismissed }) else {
        panic!("no findings")
    };
    found.iter().any(|it| it.code == code)
}

fn rescues(world: &mut World, at: usize) -> Vec<RescueInfo> {
    match world.ask(at, Command::Rescues) {
        Reply::Rescues(all) => all,
        other => panic!("{other:?}"),
    }
}

/// Who wrote it may not write any more, so nothing proves that it was there and nobody may bring it: whoever has it keeps it apart, and the document
/// goes on.
#[test]
fn what_may_not_be_written_any_more_holds_nobody_up() {
    let (mut world, group, document) = trio(1, GroupPolicy::default());
    let copy = world.service.clone();
    world.edit(CLEO, group, document, " cleo");
    world.run();
    let (user, role) = (world.devices[CLEO].user, Role::Viewer);
    world.ask(ANA, Command::SetRole { group, user, role });
    world.run();
    restore(&mut world, copy);
    world.advance(900_000);
    for at in ALL {
        assert_eq!(open_states(&mut world, at), [], "{at}");
        let rescued = rescues(&mut world, at).len();
        assert_eq!(rescued, 1, "{at}: who has it keeps it");
    }
    world.edit(BEN, group, document, " on");
    world.advance(60_000);
    world.converged(group, &ALL);
    assert_eq!(world.text(CLEO, group, document), "hello on");
}

/// Who is there opened the document from a snapshot, and the copy is from before that; nothing proves what is missing. For a while somebody may come
/// who has it; then the document goes on, and what nobody can carry is words until then.
#[test]
fn what_nobody_who_is_there_can_return_holds_nobody_up() {
    let policy = GroupPolicy {
        snapshot_after_bytes: 2_000,
        ..GroupPolicy::default()
    };
    let mut world = World::new(2, &["ana", "ben", "cleo"]);
    world.service.lies.no_head_frames = true;
    world.forbidden = &["report"];
    let group = world.create_group_with(ANA, policy);
    for at in [BEN, CLEO] {
        world.invite(group, ANA, at, None);
    }
    world.run();
    world.go_offline(CLEO);
    let document = world.create_document(group, ANA, "hello");
    world.advance(900_000);
    let copy = world.service.clone();
    for (at, word) in [(ANA, " ana"), (BEN, " ben")] {
        let text = [word, &"-".repeat(1_500)].concat();
        world.edit(at, group, document, &text);
        world.run();
    }
    for at in [ANA, BEN] {
        world.go_offline(at);
    }
    world.go_online(CLEO);
    world.run();
    assert!(world.text(CLEO, group, document).contains(" ben"));
    restore(&mut world, copy);
    world.advance(300_000);
    assert!(told(&mut world, CLEO, "service.put_back"));
    assert!(!open_states(&mut world, CLEO).is_empty());
    assert_eq!(rescues(&mut world, CLEO), []);
    world.advance(1_800_000);
    assert_eq!(open_states(&mut world, CLEO), []);
    let rescued = rescues(&mut world, CLEO);
    assert_eq!(rescued.len(), 1);
    assert_eq!(rescued[0].cause, RescueCause::NotCarried);
    assert!(rescued[0].bytes > 3_000, "{rescued:?}");
    world.edit(CLEO, group, document, " on");
    world.run();
    for at in [ANA, BEN] {
        world.go_online(at);
    }
    world.advance(900_000);
    world.converged(group, &ALL);
    let text = world.text(CLEO, group, document);
    for word in ["hello", " ana", " ben", " on"] {
        assert_eq!(text.matches(word).count(), 1, "{word}");
    }
}

/// A group's log that the service goes on without has parted from here: that is told, with the way out.
#[test]
fn a_group_that_the_service_goes_on_without_has_parted() {
    let (mut world, group, _) = trio(3, GroupPolicy::default());
    world.forbidden = &["report"];
    let copy = world.service.clone();
    let role = Role::Viewer;
    let user = world.devices[CLEO].user;
    world.ask(BEN, Command::SetRole { group, user, role });
    world.run();
    world.forbidden = &["report", "return_group"];
    restore(&mut world, copy);
    world.advance(900_000);
    assert!(told(&mut world, ANA, "service.not_returned"));
    assert!(!told(&mut world, ANA, "group.parted"));
    world.advance(DAY_MS + 3_600_000);
    for at in ALL {
        assert!(told(&mut world, at, "group.parted"), "{at}");
    }
    // Whoever still brings it ends that.
    world.forbidden = &[];
    for at in ALL {
        world.cut(at);
    }
    world.advance(900_000);
    world.converged(group, &ALL);
    for at in ALL {
        assert_eq!(open_states(&mut world, at), [], "{at}");
    }
}

/// A clock that is a day fast makes nobody give up what somebody is about to bring.
#[test]
fn a_wrong_clock_gives_nothing_up() {
    let (mut world, group, _) = trio(4, GroupPolicy::default());
    world.forbidden = &["report"];
    let copy = world.service.clone();
    let (user, role) = (world.devices[CLEO].user, Role::Viewer);
    world.ask(BEN, Command::SetRole { group, user, role });
    world.run();
    world.set_clock(ANA, (2 * DAY_MS) as i64);
    world.forbidden = &["report", "return_group"];
    restore(&mut world, copy);
    world.advance(900_000);
    assert!(told(&mut world, ANA, "service.not_returned"));
    assert!(!told(&mut world, ANA, "group.parted"));
}

/// The operator did not wait for a document of which the service has nothing but that it is listed. It can go on from nowhere else than from what
/// members have.
#[test]
fn a_document_of_which_nothing_is_there_comes_back_after_its_loss() {
    let mut world = World::new(5, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    for at in [BEN, CLEO] {
        world.invite(group, ANA, at, None);
    }
    world.advance(900_000);
    let copy = world.service.clone();
    let document = world.create_document(group, BEN, "new");
    world.edit(ANA, group, document, " ana");
    world.advance(5_000);
    world.forbidden = &["return_document"];
    restore(&mut world, copy);
    world.advance(30_000);
    let out = world.service.accept_losses();
    world.post(out);
    world.run();
    world.forbidden = &[];
    world.advance(1_800_000);
    world.edit(CLEO, group, document, " on");
    world.advance(60_000);
    world.converged(group, &ALL);
    assert_eq!(world.text(ANA, group, document), "new ana on");
}
