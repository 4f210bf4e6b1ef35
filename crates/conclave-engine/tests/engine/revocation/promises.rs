//! What taking a device away promises besides: it is counted when it is asked for, and no list is refused without a word.

use conclave_engine::finding::Suspect;
use conclave_proto::UnixMs;

use super::*;

/// Key of the row of a job.
fn job_row(world: &World, who: usize) -> Vec<u8> {
    let device = world.devices[who].id;
    [&[1], b"revoke/".as_slice(), device.as_bytes()].concat()
}

/// Takes the phone away from a group with so many documents more; gives how often the job's row changed.
fn times_written(seed: u64, documents: usize) -> usize {
    let (mut world, group, _) = lost(seed);
    for at in 0..documents {
        world.create_document(group, LAPTOP, &format!("more {at}"));
    }
    world.run();
    revoke(&mut world, LAPTOP, PHONE);
    let key = job_row(&world, PHONE);
    let row = |world: &World| world.devices[LAPTOP].rows.0.get(&key).cloned();
    let (mut written, mut last) = (1, row(&world));
    let mut look = |world: &World| {
        let now = row(world);
        if now != last {
            written += 1;
            last = now;
        }
    };
    for _ in 0..200 {
        while world.step() {
            look(&world);
        }
        world.advance(100);
        look(&world);
    }
    let info = revocations(&mut world, LAPTOP).pop().unwrap();
    assert!(info.done, "{info:?}");
    let rekeyed = info.groups.iter().map(|it| it.rekeyed).sum::<usize>();
    assert_eq!(rekeyed, documents + 2);
    written
}

#[test]
fn how_far_it_is_is_counted_only_when_it_is_asked_for() {
    // What is kept of it says who is where, and nothing of documents: as many writes for twenty as for none.
    assert_eq!(times_written(40, 20), times_written(40, 0));
    // The counts are read off the groups, and which documents are due is named where that is wanted.
    let (mut world, group, document) = lost(41);
    let before = world.state(group).epoch;
    let device = world.devices[PHONE].id;
    world.command(LAPTOP, Command::RevokeDevice { device });
    world.service.lies.refuse_snapshots = true;
    world.run();
    let ask = |world: &mut World, due| match world.ask(LAPTOP, Command::Revocations { due }) {
        Reply::Revocations(mut all) => all.pop().unwrap().groups.remove(0),
        other => panic!("{other:?}"),
    };
    let named = ask(&mut world, true);
    assert_eq!(named.stage, RevokedStage::Rekeying);
    assert_eq!(named.epoch, Some(before + 1));
    assert_eq!((named.rekeyed, named.documents), (0, 2));
    let due: BTreeSet<DocumentId> = named.due.iter().copied().collect();
    let directory = DocumentId::directory(&group);
    assert_eq!(due, BTreeSet::from([directory, document]));
    let counted = ask(&mut world, false);
    assert_eq!(counted.due, []);
    assert_eq!((counted.rekeyed, counted.documents), (0, 2));
    let status = world.status(LAPTOP).revocations.remove(0).groups.remove(0);
    assert_eq!(status, counted);
    world.service.lies.refuse_snapshots = false;
    world.advance(60_000);
    let done = ask(&mut world, true);
    assert_eq!((done.rekeyed, done.documents, done.due.len()), (2, 2, 0));
}

#[test]
fn a_list_that_the_service_refuses_for_good_is_told() {
    let (mut world, group, _) = lost(42);
    world.service.lies.refuse_lists = true;
    revoke(&mut world, LAPTOP, PHONE);
    world.run();
    let open = world.open_findings(LAPTOP);
    let codes: Vec<&str> = open.iter().map(|it| it.code.as_str()).collect();
    assert_eq!(codes, ["refused.bad_identity"]);
    assert_eq!(open[0].finding.suspect, Some(Suspect::Service));
    // The report says that it is not off, and nothing is done as if it were.
    let info = revocations(&mut world, LAPTOP).pop().unwrap();
    assert!(!info.off && !info.done, "{info:?}");
    assert!(world.status(LAPTOP).revocations.iter().any(|it| !it.off));
    let sent = world.count(LAPTOP, "put_list");
    world.advance(60_000);
    assert!(world.count(LAPTOP, "put_list") < sent + 5, "without end");
    // It goes on by itself once the service takes it.
    world.service.lies.refuse_lists = false;
    world.go_offline(LAPTOP);
    world.go_online(LAPTOP);
    world.run();
    world.advance(60_000);
    let info = revocations(&mut world, LAPTOP).pop().unwrap();
    assert!(info.off && info.done, "{info:?}");
    assert!(!is_member(&world, group, PHONE));
}

/// A list as its user signed it, with one bit of its signature changed.
fn garbled(world: &World, whose: usize) -> Vec<u8> {
    let list = world.service.list(world.devices[whose].user).unwrap();
    let mut later = list.clone();
    later.list.seq += 1;
    later.list.issued = UnixMs(later.list.issued.0 + 1);
    later.to_bytes()
}

#[test]
fn a_list_that_a_member_or_a_sibling_refuses_is_told() {
    let (mut world, group, _) = lost(43);
    let user = world.devices[LAPTOP].user;
    let before = named(&world, LAPTOP);
    let list = garbled(&world, LAPTOP);
    let out = world.service.show_list(user, list);
    world.post(out);
    world.run();
    for (at, suspect) in [
        (LAPTOP, Suspect::Service),
        (PHONE, Suspect::Service),
        (BEN, Suspect::User(user)),
    ] {
        let open = world.open_findings(at);
        let found: Vec<_> = open
            .iter()
            .map(|it| (it.code.as_str(), it.finding.suspect))
            .collect();
        assert_eq!(
            found,
            [("auth.list_signature", Some(suspect))],
            "device {at}"
        );
    }
    // Nothing of it was taken.
    for at in [LAPTOP, PHONE] {
        let known: BTreeSet<DeviceId> =
            devices(&mut world, at).iter().map(|it| it.device).collect();
        assert_eq!(known, before, "device {at}");
    }
    for at in [LAPTOP, BEN, PHONE] {
        assert!(is_member(&world, group, at));
    }
}
