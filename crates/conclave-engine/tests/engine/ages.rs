//! What joiners may read, roots that grow old, documents that go with those who alone can open them.

use conclave_engine::{Command, EngineError, Event, Reply, forensic};
use conclave_proto::policy::JoinerAccess;
use conclave_proto::record::CloseReason;
use conclave_proto::refusal::CommitFault;
use conclave_proto::{DocumentId, GroupId, GroupPolicy, Record, Refusal, Role};

use crate::world::World;

const DAY_MS: u64 = 24 * 3600 * 1000;
const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;

fn pair(seed: u64, policy: GroupPolicy) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group_with(ANA, policy);
    world.invite(group, ANA, BEN, Some(Role::Admin));
    world.run();
    let document = world.create_document(group, ANA, "old");
    for at in [ANA, BEN] {
        world.edit(at, group, document, ".");
        world.run();
    }
    (world, group, document)
}

fn from_join() -> GroupPolicy {
    GroupPolicy {
        joiner_access: JoinerAccess::FromJoin,
        ..GroupPolicy::default()
    }
}

/// Which records a copy of a device's rows opens with every wrap that the service ever held.
fn openable(world: &World, at: usize, group: GroupId, records: &[Record]) -> Vec<bool> {
    let rows = world.devices[at].rows.read(&forensic::group_prefix(&group));
    let wraps = world.service.wraps(&group);
    forensic::openable(&rows, &group, records, &wraps).unwrap()
}

fn records(world: &World, group: GroupId) -> Vec<Record> {
    let documents = world.service.documents(&group).into_iter();
    let logs = documents.map(|(document, _)| world.service.records(&group, &document));
    logs.flatten().collect()
}

/// How many records sealed before a join the joiner opens, and how many since.
pub fn opened(world: &World, at: usize, group: GroupId) -> (usize, usize) {
    let state = world.state(group);
    let rows = state.roster.rows().iter();
    let own = rows.filter(|row| row.device == world.devices[at].id);
    let joined = own.map(|row| row.first_epoch).min().unwrap();
    let all = records(world, group);
    let count = |before: bool| {
        let some: Vec<Record> = all
            .iter()
            .filter(|record| (record.header.epoch < joined) == before)
            .cloned()
            .collect();
        let opens = openable(world, at, group, &some);
        opens.into_iter().filter(|opens| *opens).count()
    };
    (count(true), count(false))
}

#[test]
fn under_from_join_a_joiner_opens_nothing_that_was_sealed_before() {
    for (policy, reads_older) in [(from_join(), false), (GroupPolicy::default(), true)] {
        let (mut world, group, document) = pair(1, policy);
        world.invite(group, ANA, CLEO, None);
        world.advance(90_000);
        // What is there now comes with the next snapshot.
        assert_eq!(world.text(CLEO, group, document), "old..");
        world.edit(CLEO, group, document, " new");
        world.edit(ANA, group, document, "!");
        world.run();
        world.converged(group, &[ANA, BEN, CLEO]);
        let (before, since) = opened(&world, CLEO, group);
        assert_eq!(before > 0, reads_older, "{before}");
        assert!(since > 0);
        assert_eq!(world.state(group).rotating_since, 0);
        world.no_findings();
    }
}

#[test]
fn under_from_join_a_device_that_lost_its_roots_gets_new_snapshots_and_nothing_older() {
    let (mut world, group, document) = pair(2, from_join());
    world.go_offline(BEN);
    let prefix = [&[4], group.as_bytes()].concat();
    let rows = &mut world.devices[BEN].rows.0;
    rows.retain(|key, _| !key.starts_with(&prefix));
    let prefix = [&[5], group.as_bytes()].concat();
    let rows = &mut world.devices[BEN].rows.0;
    rows.retain(|key, _| !key.starts_with(&prefix));
    world.restart(BEN);
    world.go_online(BEN);
    world.advance(120_000);
    assert_eq!(world.text(BEN, group, document), "old..");
    world.edit(BEN, group, document, " again");
    world.run();
    world.converged(group, &[ANA, BEN]);
    assert_eq!(world.text(ANA, group, document), "old.. again");
}

#[test]
fn old_roots_make_their_documents_due_and_go_when_these_are_rekeyed() {
    let policy = GroupPolicy {
        max_root_age_days: 3,
        ..GroupPolicy::default()
    };
    let (mut world, group, document) = pair(3, policy);
    let first = world.state(group).epoch;
    let sealed = records(&world, group);
    assert!(
        openable(&world, BEN, group, &sealed)
            .iter()
            .all(|opens| *opens)
    );
    for _ in 0..8 {
        world.advance(DAY_MS);
    }
    assert!(world.state(group).epoch > first);
    assert_eq!(world.text(BEN, group, document), "old..");
    for at in [ANA, BEN] {
        let rows = world.devices[at].rows.read(&forensic::group_prefix(&group));
        let opens = forensic::openable(&rows, &group, &sealed, &[]).unwrap();
        assert!(opens.iter().all(|opens| !opens), "device {at}");
    }
    world.edit(BEN, group, document, " on");
    world.run();
    world.converged(group, &[ANA, BEN]);
    world.no_findings();
}

#[test]
fn whoever_was_away_for_long_rekeys_and_is_told_nothing() {
    let policy = GroupPolicy {
        max_root_age_days: 3,
        ..GroupPolicy::default()
    };
    let (mut world, group, document) = pair(5, policy);
    for at in [ANA, BEN] {
        world.go_offline(at);
    }
    world.advance(10 * DAY_MS);
    for at in [ANA, BEN] {
        world.go_online(at);
    }
    world.advance(DAY_MS);
    world.edit(BEN, group, document, " on");
    world.run();
    world.converged(group, &[ANA, BEN]);
    world.no_findings();
}

#[test]
fn roots_that_nobody_can_replace_are_told_of_and_not_erased() {
    let policy = GroupPolicy {
        max_root_age_days: 3,
        ..GroupPolicy::default()
    };
    let (mut world, group, document) = pair(4, policy);
    // Ben can only read, and Ana is away.
    let user = world.devices[BEN].user;
    let role = Role::Viewer;
    world.ask(ANA, Command::SetRole { group, user, role });
    world.run();
    world.go_offline(ANA);
    for _ in 0..6 {
        world.advance(DAY_MS);
    }
    let told = |event: &&Event| matches!(event, Event::Finding(found) if found.code == "group.roots_overdue");
    let times = world.devices[BEN].events.iter().filter(told).count();
    assert_eq!(times, 1, "{:?}", world.findings(BEN));
    assert_eq!(world.text(BEN, group, document), "old..");
    world.restart(BEN);
    world.run();
    assert_eq!(world.text(BEN, group, document), "old..");
    assert_eq!(world.open_findings(BEN).len(), 1);
    world.go_online(ANA);
    for _ in 0..5 {
        world.advance(DAY_MS);
    }
    world.converged(group, &[ANA, BEN]);
    assert_eq!(world.open_findings(BEN), []);
}

#[test]
fn members_who_alone_hold_the_keys_of_a_document_do_not_go_unnoticed() {
    let (mut world, group, document) = pair(5, from_join());
    // Ana alone is there when Cleo comes, and goes before anything is re-keyed for her.
    world.go_offline(BEN);
    let cleo = world.devices[CLEO].user;
    world.service.lies.refuse_snapshots = true;
    let role = Some(Role::Owner);
    let user = cleo;
    world.ask(ANA, Command::Invite { group, user, role });
    world.ask(CLEO, Command::Accept { group });
    world.advance(60_000);
    // Ben was there and holds the keys: Ana may go, Ana and Ben may not.
    let ana = world.devices[ANA].user;
    let ben = world.devices[BEN].user;
    let removed = world.ask(CLEO, Command::Remove { group, user: ben });
    assert!(matches!(removed, Reply::Removed { .. }));
    let refused = world.call(CLEO, Command::Remove { group, user: ana });
    assert!(
        matches!(refused, Some(Err(EngineError::LastHolder { documents })) if documents > 0),
        "{refused:?}"
    );
    let refused = world.call(ANA, Command::Leave { group });
    assert!(
        matches!(refused, Some(Err(EngineError::LastHolder { .. }))),
        "{refused:?}"
    );
    let gone = world.ask(CLEO, Command::RemoveAnyway { group, user: ana });
    assert!(matches!(gone, Reply::Removed { .. }));
    world.service.lies.refuse_snapshots = false;
    world.advance(120_000);
    // Nobody can open it any more: it is closed as lost, and told. The directory is not: re-keying stays open for it, as is said.
    assert_ne!(world.state(group).rotating_since, 0);
    let close = |document| Command::Close {
        group,
        document,
        reason: CloseReason::Lost,
    };
    world.ask(CLEO, close(document));
    let directory = DocumentId::directory(&group);
    let refused = world.call(CLEO, close(directory));
    let fault = CommitFault::Directory;
    assert!(
        matches!(&refused, Some(Err(EngineError::Refused(Refusal::BadCommit { fault: found }))) if *found == fault),
        "{refused:?}"
    );
    world.advance(120_000);
    let lost =
        |event: &&Event| matches!(event, Event::Finding(found) if found.code == "document.lost");
    assert_eq!(world.devices[CLEO].events.iter().filter(lost).count(), 1);
    assert_ne!(world.state(group).rotating_since, 0);
}
