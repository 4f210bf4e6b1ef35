//! A member whose program is newer than that of the others: what these cannot read they do not judge, and name nobody for it.

use conclave_doc::Judgement;
use conclave_engine::FindingInfo;
use conclave_proto::record::RecordBody;
use conclave_proto::{DocumentId, GroupId};

use crate::verdicts::{ANA, BEN, CLEO, DANA, four, makers};
use crate::world::World;

const ALL: [usize; 4] = [ANA, BEN, CLEO, DANA];

fn verdicts(world: &World, group: GroupId, document: DocumentId) -> usize {
    let records = world.service.records(&group, &document).into_iter();
    let verdicts = records.filter(|it| matches!(it.header.body, RecordBody::Verdict(_)));
    verdicts.count()
}

/// Each is told that a newer program is needed, once; nobody is accused, and nothing else is told.
fn told_of_a_newer_program(world: &mut World, at: usize) {
    let found: Vec<FindingInfo> = world.open_findings(at);
    let codes: Vec<&str> = found.iter().map(|it| it.code.as_str()).collect();
    assert_eq!(codes, ["document.newer_program"], "{at}: {found:?}");
    assert_eq!(found[0].count, 1);
    assert_eq!((found[0].finding.suspect, found[0].user), (None, None));
    assert!(found[0].text.contains("Update this program"));
}

/// And since nobody who joins could begin from it, one of those who hold the log makes the next, once.
#[test]
fn nobody_objects_to_a_snapshot_of_a_newer_program() {
    let (mut world, group, document, _) = four(51);
    world.forges = Some((BEN, document));
    world.newer = true;
    let made = makers(&world, group, document).len();
    world.edit(BEN, group, document, &"x".repeat(3_000));
    world.until(|world| makers(world, group, document).len() > made);
    world.advance(3_600_000);
    for at in [ANA, CLEO, DANA] {
        told_of_a_newer_program(&mut world, at);
        world.restart(at);
    }
    let said = verdicts(&world, group, document);
    let all = makers(&world, group, document);
    assert_eq!(all.len(), made + 2);
    assert_ne!(all[made], all[made + 1]);
    // It is not looked at again and again.
    world.advance(7_200_000);
    assert_eq!(verdicts(&world, group, document), said);
    assert_eq!(makers(&world, group, document).len(), made + 2);
    for at in [ANA, CLEO, DANA] {
        told_of_a_newer_program(&mut world, at);
    }
    // His own program, which is the same here, knows nothing of what was sent in its name: what it finds is no matter.
    world.go_offline(BEN);
    // The document goes on, and so do short forms that all can read.
    world.newer = false;
    world.edit(CLEO, group, document, &"y".repeat(20_000));
    world.advance(3_600_000);
    assert!(makers(&world, group, document).len() > made + 2);
    assert!(verdicts(&world, group, document) > said);
    world.converged(group, &[ANA, CLEO, DANA]);
}

#[test]
fn who_says_something_that_only_a_newer_program_can_read_is_not_accused() {
    let (mut world, group, document, _) = four(52);
    world.edit(ANA, group, document, &"x".repeat(3_000));
    world.advance(600_000);
    world.newer = true;
    world.claim(BEN, group, document, Judgement::Match);
    world.claim(BEN, group, document, Judgement::Match);
    world.advance(600_000);
    for at in [ANA, CLEO, DANA] {
        told_of_a_newer_program(&mut world, at);
    }
    // His chain goes on, and a restart tells nothing anew.
    world.edit(BEN, group, document, " of ben");
    for at in [ANA, CLEO, DANA] {
        world.restart(at);
    }
    world.advance(600_000);
    world.converged(group, &ALL);
    for at in [ANA, CLEO, DANA] {
        told_of_a_newer_program(&mut world, at);
    }
}
