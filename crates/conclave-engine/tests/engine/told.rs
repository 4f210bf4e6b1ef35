//! What is told of a state is told as long as it lasts, and no longer.

use conclave_engine::{Command, FindingKind, finding::Step};
use conclave_proto::{DocumentId, GroupId};

use crate::world::{World, create, edit};

const ANA: usize = 0;
const BEN: usize = 1;

fn trio(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    for other in [BEN, 2] {
        world.invite(group, ANA, other, None);
    }
    let document = world.create_document(group, ANA, "hello");
    (world, group, document)
}

/// States that a device tells of.
fn states(world: &mut World, at: usize) -> Vec<FindingKind> {
    let found = world.open_findings(at).into_iter();
    let kinds = found.map(|it| it.finding.what);
    kinds.filter(FindingKind::is_state).collect()
}

fn is_step(kind: &FindingKind, wanted: Step) -> bool {
    matches!(kind, FindingKind::Failed { step, .. } if *step == wanted)
}

#[test]
fn what_the_service_refuses_is_told_until_it_takes_it() {
    type Told = fn(&FindingKind) -> bool;
    let cases: [(&[&str], Told); 5] = [
        (&["subscribe"], |kind| is_step(kind, Step::Follow)),
        (&["open"], |kind| is_step(kind, Step::OpenDocument)),
        (&["create_document"], |kind| {
            is_step(kind, Step::PublishDocument)
        }),
        (&["put_snapshot"], |kind| is_step(kind, Step::Condense)),
        (&["append"], |kind| {
            matches!(kind, FindingKind::EditsParked { .. })
        }),
    ];
    for (seed, (forbidden, told)) in (1..).zip(cases) {
        let (mut world, group, document) = trio(seed);
        world.forbidden = forbidden;
        world.cut(ANA);
        world.run();
        world.edit(ANA, group, document, " more");
        world.ask(ANA, create(group, "list", "first"));
        // Whoever removes somebody puts everything under new keys.
        let user = world.devices[2].user;
        world.command(ANA, Command::Remove { group, user });
        world.advance(60_000);
        let now = states(&mut world, ANA);
        assert!(now.iter().any(told), "{forbidden:?}: {now:?}");
        world.forbidden = &[];
        for at in [ANA, BEN] {
            world.restart(at);
        }
        world.advance(600_000);
        world.converged(group, &[ANA, BEN]);
        assert_eq!(states(&mut world, ANA), [], "{forbidden:?}");
    }
}

#[test]
fn a_row_that_cannot_be_read_is_told_until_it_can() {
    let (mut world, group, document) = trio(10);
    let whole = world.devices[BEN].rows.clone();
    let of_document = [&[5], group.as_bytes(), document.as_bytes()].concat();
    let of_group = [&[4], group.as_bytes(), b"d".as_slice()].concat();
    for (prefix, step) in [
        (of_document, Step::LoadDocument),
        (of_group, Step::LoadGroup),
    ] {
        world.go_offline(BEN);
        let rows = world.devices[BEN].rows.0.iter_mut();
        for (_, value) in rows.filter(|(key, _)| key.starts_with(&prefix)) {
            *value = b"damaged".to_vec().into();
        }
        world.restart(BEN);
        world.run();
        world.command(BEN, edit(group, document, "!"));
        world.run();
        let now = states(&mut world, BEN);
        assert!(now.iter().any(|kind| is_step(kind, step)), "{now:?}");
        // The copy with which they can be read again, and what was found meanwhile.
        let told = world.devices[BEN].rows.read(&[10]);
        world.devices[BEN].rows = whole.clone();
        for (key, value) in told {
            world.devices[BEN].rows.0.insert(key, value);
        }
        world.restart(BEN);
        world.run();
        assert_eq!(world.text(BEN, group, document), "hello");
        assert_eq!(states(&mut world, BEN), [], "{step:?}");
    }
}
