//! Long work on documents is lent: whatever does not need the document goes on, what comes for it waits, and in the end all is as if nothing had been
//! lent.

use conclave_crdt::{CrdtKind, ReplicaId};
use conclave_engine::{Command, CommandId, EngineError, Input, Reply, Work};
use conclave_proto::record::CloseReason;
use conclave_proto::{DocumentId, GroupId, Role};

use crate::world::{Lends, World, edit};

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
const HOUR_MS: u64 = 3600 * 1000;

/// Two members with two documents; Ben lends everything, and what he lends of the first is not done.
fn with_a_slow_document(seed: u64) -> (World, GroupId, DocumentId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    let slow = world.create_document(group, ANA, "slow");
    let other = world.create_document(group, ANA, "other");
    world.run();
    let devices = world.devices.iter_mut();
    devices.for_each(|device| device.lends = Lends::Nothing);
    world.devices[BEN].lends = Lends::Everything;
    world.slow = Some(slow);
    (world, group, slow, other)
}

/// Somebody else's edit, which Ben's job has.
fn make_it_away(world: &mut World, group: GroupId, slow: DocumentId) {
    world.edit(ANA, group, slow, ".");
    world.run();
    assert!(is_away(world, slow));
}

fn is_away(world: &World, document: DocumentId) -> bool {
    let mut work = world.devices[BEN].work.iter();
    work.any(|work| work.document == document)
}

#[test]
fn others_go_on() {
    let (mut world, group, slow, other) = with_a_slow_document(31);
    make_it_away(&mut world, group, slow);
    let waits = world.command(BEN, edit(group, slow, "from ben"));

    // Other documents, both ways; and the group's log.
    world.edit(ANA, group, other, " of ana");
    world.run();
    world.edit(BEN, group, other, " of ben");
    let document = other;
    world.ask(BEN, Command::Synced { group, document });
    assert_eq!(world.text(ANA, group, other), "other of ana of ben");
    assert_eq!(world.text(BEN, group, other), "other of ana of ben");
    world.invite(group, ANA, CLEO, Some(Role::Editor));
    let epoch = world.state(group).epoch;
    assert_eq!(world.info(BEN, group).unwrap().epoch, epoch);
    // More than one edit and an epoch have come for it by now.
    world.edit(ANA, group, slow, ",");
    world.edit(CLEO, group, slow, ";");
    world.run();
    assert!(is_away(&world, slow));
    assert!(world.reply(BEN, waits).is_none());

    world.slow = None;
    world.run();
    assert!(matches!(world.reply(BEN, waits), Some(Ok(_))));
    let document = slow;
    world.ask(BEN, Command::Synced { group, document });
    world.converged(group, &[ANA, BEN, CLEO]);
    world.no_findings();
}

/// How long an engine takes for a record its length does not tell: not even a short one is given to it here.
#[test]
fn whatever_comes_from_others_is_lent_however_short() {
    let (mut world, group, slow, _) = with_a_slow_document(30);
    world.devices[BEN].lends = Lends::Long;
    make_it_away(&mut world, group, slow);
    let waits = world.command(BEN, edit(group, slow, " from ben"));
    world.slow = None;
    world.run();
    assert!(matches!(world.reply(BEN, waits), Some(Ok(_))));
    // What was written here is, when it has its place, and this takes no job.
    world.slow = Some(slow);
    let document = slow;
    world.edit(BEN, group, slow, "!");
    world.run();
    assert!(!is_away(&world, slow));
    world.ask(BEN, Command::Synced { group, document });
    world.converged(group, &[ANA, BEN]);
    // Nor is a document brought into memory here.
    world.restart(BEN);
    world.run();
    let reads = world.command(BEN, Command::Synced { group, document });
    world.run();
    assert!(is_away(&world, slow) && world.reply(BEN, reads).is_none());
    world.slow = None;
    world.run();
    world.converged(group, &[ANA, BEN]);
    world.no_findings();
}

/// Ben asks for a document that begins with the state of another program's, and that is made elsewhere.
fn import(world: &mut World, group: GroupId, text: &str) -> (CommandId, Work) {
    let kind = CrdtKind::Yjs;
    let mut crdt = conclave_crdt::create(kind, ReplicaId::for_kind(kind, [9; 16])).unwrap();
    crdt.text().unwrap().splice(0, 0, text).unwrap();
    let state = crdt.snapshot().unwrap().into();
    let title = "imported".to_owned();
    let command = Command::ImportDocument {
        group,
        kind,
        title,
        state,
    };
    let asks = world.command(BEN, command);
    let work = world.devices[BEN].work.pop().expect("it is made at once");
    (asks, work)
}

#[test]
fn others_go_on_while_a_document_is_made() {
    let (mut world, group, slow, other) = with_a_slow_document(28);
    world.slow = None;
    world.devices[BEN].lends = Lends::Long;
    let (asks, Work { id, document, job }) = import(&mut world, group, "from elsewhere");
    assert!(job.deadline_ms().is_some());
    world.edit(ANA, group, other, " of ana");
    world.edit(BEN, group, slow, " of ben");
    world.run();
    assert_eq!(world.text(BEN, group, other), "other of ana");
    assert!(world.reply(BEN, asks).is_none());
    let listed = |world: &mut World, at| {
        let Reply::Documents(all) = world.ask(at, Command::Documents { group }) else {
            panic!("no list")
        };
        all.into_iter().find(|it| it.document == document)
    };
    assert!(listed(&mut world, BEN).is_none(), "it is not there yet");
    let done = Box::new(job.run());
    world.input(BEN, Input::Worked { id, done });
    world.run();
    let reply = world.reply(BEN, asks);
    assert!(matches!(reply, Some(Ok(Reply::Document(it))) if it == document));
    assert_eq!(world.text(ANA, group, document), "from elsewhere");
    let title = listed(&mut world, ANA).unwrap().title;
    assert_eq!(title.as_deref(), Some("imported"));
    world.converged(group, &[ANA, BEN]);
    world.no_findings();
}

#[test]
fn a_document_that_is_not_made_leaves_nothing() {
    let (mut world, group, _, _) = with_a_slow_document(27);
    world.slow = None;
    world.devices[BEN].lends = Lends::Long;
    // It does not come back in time.
    let before = world.print(BEN);
    let (asks, Work { id, job, .. }) = import(&mut world, group, "slow");
    world.input(BEN, Input::Stuck { id, begun: true });
    let reply = world.reply(BEN, asks);
    assert!(matches!(reply, Some(Err(EngineError::Held))), "{reply:?}");
    let done = Box::new(job.run());
    world.input(BEN, Input::Worked { id, done });
    world.run();
    assert_eq!(world.print(BEN), before);
    // Or this device may not write any more when it does.
    let (asks, Work { id, job, .. }) = import(&mut world, group, "late");
    let (user, role) = (world.devices[BEN].user, Role::Viewer);
    world.ask(ANA, Command::SetRole { group, user, role });
    world.run();
    let done = Box::new(job.run());
    world.input(BEN, Input::Worked { id, done });
    world.run();
    let reply = world.reply(BEN, asks);
    let forbidden = matches!(reply, Some(Err(EngineError::Forbidden)));
    assert!(forbidden, "{reply:?}");
    world.converged(group, &[ANA, BEN]);
    world.no_findings();
}

/// To tell what a change did, an engine is given all of it again.
#[test]
fn what_a_change_did_is_looked_up_elsewhere_however_short_the_document() {
    let (mut world, group, slow, _) = with_a_slow_document(29);
    world.devices[BEN].lends = Lends::Long;
    let document = slow;
    let (first, last) = (0, 0);
    let changed = Command::Changed {
        group,
        document,
        first,
        last,
    };
    let asks = world.command(BEN, changed);
    world.run();
    assert!(is_away(&world, slow) && world.reply(BEN, asks).is_none());
    world.slow = None;
    world.run();
    assert!(matches!(world.reply(BEN, asks), Some(Ok(_))));
}

/// The hour of one document is over while another is away, by whose records everything was read before.
#[test]
fn no_root_is_erased_while_a_document_is_away() {
    let (mut world, group, slow, other) = with_a_slow_document(32);
    world.invite(group, ANA, CLEO, None);
    world.run();
    world.slow = Some(other);
    world.edit(ANA, group, other, ".");
    world.run();
    assert!(is_away(&world, other));
    let user = world.devices[CLEO].user;
    world.ask(ANA, Command::Remove { group, user });
    // All but this one are re-keyed and confirmed by then.
    world.advance(HOUR_MS + 200_000);
    world.slow = None;
    world.advance(60_000);
    world.slow = Some(slow);
    make_it_away(&mut world, group, slow);
    let before = world.roots(BEN, &group);
    world.advance(HOUR_MS + 200_000);
    assert_eq!(world.roots(BEN, &group), before);
    assert!(is_away(&world, slow) && before > 1);
    world.slow = None;
    world.advance(200_000);
    let after = world.roots(BEN, &group);
    assert!(after < before);
    assert_eq!(after, world.roots(ANA, &group));
    world.converged(group, &[ANA, BEN]);
}

#[test]
fn late_results_are_dropped() {
    let (mut world, group, slow, _) = with_a_slow_document(33);
    make_it_away(&mut world, group, slow);
    let document = slow;
    let waits = world.command(BEN, Command::Synced { group, document });
    let rows = world.rows_of(BEN, &group, &slow);
    let Work { id, job, .. } = world.devices[BEN].work.remove(0);
    assert!(job.deadline_ms() < Some(20_000), "{job:?}");

    world.input(BEN, Input::Stuck { id, begun: true });
    let held = |world: &World, command| {
        let error = world.reply(BEN, command).unwrap().unwrap_err();
        assert_eq!(error.code(), "document.held");
    };
    held(&world, waits);
    world.found_only(BEN, &["document.held"]);
    assert_eq!(world.rows_of(BEN, &group, &slow), rows);
    // It is tried again, with more time each time; meanwhile whoever asks is told.
    for least_ms in [20_000, 200_000] {
        world.run();
        let asks = world.command(BEN, edit(group, slow, "lost"));
        held(&world, asks);
        assert_eq!(world.rows_of(BEN, &group, &slow), rows);
        let Work { id, job, .. } = world.devices[BEN].work.remove(0);
        assert_eq!(job.deadline_ms(), Some(least_ms));
        world.input(BEN, Input::Stuck { id, begun: true });
    }
    world.found_only(BEN, &["document.held"]);
    // Then it is not in this session.
    let asks = world.command(BEN, edit(group, slow, "lost"));
    held(&world, asks);
    world.edit(ANA, group, slow, "!");
    world.run();
    assert!(!is_away(&world, slow));

    let (before, outputs) = (world.print(BEN), world.devices[BEN].events.len());
    let done = Box::new(job.run());
    world.input(BEN, Input::Worked { id, done });
    assert_eq!(world.print(BEN), before);
    assert_eq!(world.devices[BEN].events.len(), outputs);
    assert_eq!(world.rows_of(BEN, &group, &slow), rows);

    // A deadline is no verdict: the next session reads it as if nothing had been.
    world.slow = None;
    world.restart(BEN);
    world.run();
    assert_eq!(world.text(BEN, group, slow), "slow.!");
    assert_eq!(world.open_findings(BEN).len(), 0);
    world.converged(group, &[ANA, BEN]);
}

/// Other documents may have all the threads: that says nothing about this one, and it is read again for whoever asks.
#[test]
fn what_no_thread_has_begun_was_not_tried() {
    let (mut world, group, slow, _) = with_a_slow_document(29);
    make_it_away(&mut world, group, slow);
    for _ in 0..5 {
        let Work { id, job, .. } = world.devices[BEN].work.remove(0);
        assert!(job.deadline_ms() < Some(20_000), "{job:?}");
        world.input(BEN, Input::Stuck { id, begun: false });
        world.found_only(BEN, &["document.held"]);
        world.run();
        assert!(!is_away(&world, slow));
        let document = slow;
        let asks = world.command(BEN, Command::Synced { group, document });
        world.run();
        assert!(is_away(&world, slow) && world.reply(BEN, asks).is_none());
    }
    world.slow = None;
    world.run();
    assert_eq!(world.text(BEN, group, slow), "slow.");
    assert_eq!(world.open_findings(BEN).len(), 0);
    world.converged(group, &[ANA, BEN]);
}

/// What was held comes back within the session where the second try is long enough.
#[test]
fn a_document_that_was_held_is_read_again() {
    let (mut world, group, slow, _) = with_a_slow_document(38);
    make_it_away(&mut world, group, slow);
    let Work { id, job, .. } = world.devices[BEN].work.remove(0);
    world.input(BEN, Input::Stuck { id, begun: true });
    world.found_only(BEN, &["document.held"]);
    world.edit(ANA, group, slow, "!");
    world.slow = None;
    world.run();
    assert_eq!(world.text(BEN, group, slow), "slow.!");
    assert_eq!(world.open_findings(BEN).len(), 0);
    let (before, outputs) = (world.print(BEN), world.devices[BEN].events.len());
    let done = Box::new(job.run());
    world.input(BEN, Input::Worked { id, done });
    assert_eq!(world.print(BEN), before);
    assert_eq!(world.devices[BEN].events.len(), outputs);
    world.converged(group, &[ANA, BEN]);
}

#[test]
fn what_another_life_had_lent_is_dropped() {
    let (mut world, group, slow, _) = with_a_slow_document(34);
    make_it_away(&mut world, group, slow);
    let Work { id, job, .. } = world.devices[BEN].work.remove(0);
    world.restart(BEN);
    world.run();
    assert!(is_away(&world, slow));
    let before = world.print(BEN);
    let done = Box::new(job.run());
    world.input(BEN, Input::Worked { id, done });
    world.input(BEN, Input::Stuck { id, begun: true });
    assert_eq!(world.print(BEN), before);
    world.slow = None;
    world.run();
    world.converged(group, &[ANA, BEN]);
    world.no_findings();
}

/// What a connection brought for a document that is away says nothing on the next.
#[test]
fn a_connection_that_breaks_meanwhile_costs_nothing() {
    let (mut world, group, slow, _) = with_a_slow_document(35);
    make_it_away(&mut world, group, slow);
    for number in 0..3 {
        world.edit(ANA, group, slow, &number.to_string());
        world.run();
        world.cut(BEN);
        world.run();
    }
    assert!(is_away(&world, slow));
    world.command(BEN, edit(group, slow, "b"));
    world.slow = None;
    world.run();
    world.converged(group, &[ANA, BEN]);
    let text = world.text(ANA, group, slow);
    assert!(text.starts_with("slow.") && text.len() == 9, "{text}");
    world.no_findings();
}

#[test]
fn a_document_that_is_deleted_while_it_is_away_is_gone() {
    let (mut world, group, slow, _) = with_a_slow_document(36);
    make_it_away(&mut world, group, slow);
    let waits = world.command(BEN, edit(group, slow, "too late"));
    let document = slow;
    let reason = CloseReason::Deleted;
    world.ask(
        ANA,
        Command::Close {
            group,
            document,
            reason,
        },
    );
    world.run();
    assert!(matches!(world.reply(BEN, waits), Some(Err(_))));
    world.slow = None;
    world.run();
    assert_eq!(world.rows_of(BEN, &group, &slow).len(), 0);
    world.converged(group, &[ANA, BEN]);
}

/// A closure may be away itself.
#[test]
fn whoever_waits_for_a_closure_is_answered_whatever_becomes_of_its_document() {
    let (mut world, group, slow, _) = with_a_slow_document(37);
    let stuck = world.command(BEN, edit(group, slow, "from ben"));
    world.run();
    assert!(is_away(&world, slow) && world.reply(BEN, stuck).is_none());
    let rows = world.rows_of(BEN, &group, &slow);
    let Work { id, job, .. } = world.devices[BEN].work.remove(0);
    assert!(job.is_closure());
    world.input(BEN, Input::Stuck { id, begun: true });
    let error = world.reply(BEN, stuck).unwrap().unwrap_err();
    assert_eq!(error.code(), "document.held");
    let done = Box::new(job.run());
    world.input(BEN, Input::Worked { id, done });
    assert_eq!(world.rows_of(BEN, &group, &slow), rows);

    world.restart(BEN);
    world.slow = None;
    world.run();
    assert_eq!(world.text(BEN, group, slow), "slow");
    world.slow = Some(slow);
    let deleted = world.command(BEN, edit(group, slow, "too late"));
    world.run();
    assert!(is_away(&world, slow) && world.reply(BEN, deleted).is_none());
    let (document, reason) = (slow, CloseReason::Deleted);
    let close = Command::Close {
        group,
        document,
        reason,
    };
    world.ask(ANA, close);
    world.run();
    assert!(matches!(world.reply(BEN, deleted), Some(Err(_))));
    world.slow = None;
    world.run();
    assert_eq!(world.rows_of(BEN, &group, &slow).len(), 0);
}

/// What is left of a session, but for what is drawn at random, and for how many epochs it took: on that members agree, but in another order of
/// things it is another number.
fn session(seed: u64, lends: Lends) -> Vec<String> {
    let mut world = World::empty(seed);
    for name in ["ana", "ben", "cleo", "dan"] {
        let at = world.add(name);
        world.devices[at].lends = lends;
    }
    for one in 0..4 {
        for other in 0..4 {
            if one != other {
                world.pin(one, other);
            }
        }
    }
    world.run();
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Admin));
    world.invite(group, ANA, CLEO, None);
    let minutes = world.create_document(group, ANA, "minutes ");
    let plans = world.create_document(group, CLEO, "plans ");
    for round in 0..6 {
        for at in [ANA, BEN, CLEO] {
            world.edit(at, group, minutes, &format!("{at}{round} "));
            world.edit(at, group, plans, &format!("{round}{at} "));
        }
        match round {
            1 => world.restart(BEN),
            2 => world.cut(CLEO),
            3 => world.go_offline(CLEO),
            _ => {}
        }
    }
    world.invite(group, BEN, 3, None);
    world.go_online(CLEO);
    world.run();
    let user = world.devices[3].user;
    world.ask(ANA, Command::Remove { group, user });
    world.advance(300_000);
    world.converged(group, &[ANA, BEN, CLEO]);
    let mut left = Vec::new();
    for at in [ANA, BEN, CLEO] {
        for document in [minutes, plans] {
            let text = world.text(at, group, document);
            let mut words: Vec<&str> = text.split(' ').collect();
            words.sort_unstable();
            left.push(words.join(" "));
        }
        let info = world.info(at, group).unwrap();
        left.push(format!("{} {}", info.users, info.devices));
        left.push(format!("{:?}", world.findings(at)));
    }
    left
}

#[test]
fn worlds_end_equal_however_much_is_lent() {
    for seed in 40..44 {
        let all_here = session(seed, Lends::Nothing);
        assert_eq!(session(seed, Lends::Everything), all_here, "seed {seed}");
        assert_eq!(session(seed, Lends::AtRandom), all_here, "seed {seed}");
    }
}
