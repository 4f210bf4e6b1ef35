//! What was found by who attacked this.

use super::*;

#[test]
fn who_approved_a_device_and_died_does_not_bring_it_back_that_was_taken_away_since() {
    let (mut world, group, _) = lost(20);
    let (tablet, request) = asking(&mut world, "tablet");
    // The service has the phone's list; the phone dies before it hears that.
    world.held = Some(PHONE);
    let before = world.count(PHONE, "put_list");
    let approval = approve(&mut world, PHONE, request);
    world.until(|world| world.count(PHONE, "put_list") > before);
    world.restart(PHONE);
    world.go_offline(PHONE);
    world.held = None;
    finish(&mut world, tablet, approval);
    let id = world.devices[tablet].id;
    assert!(named(&world, LAPTOP).contains(&id));
    revoke(&mut world, LAPTOP, tablet);
    world.run();
    world.go_online(PHONE);
    world.run();
    assert!(!named(&world, LAPTOP).contains(&id));
    assert!(!is_member(&world, group, tablet));
    assert_eq!(told(&mut world, PHONE), [""; 0]);
}

#[test]
fn a_device_whose_approval_may_have_been_taken_back_is_not_listed_without_a_word() {
    let (mut world, _, _) = lost(21);
    let (tablet, request) = asking(&mut world, "tablet");
    world.go_offline(PHONE);
    approve(&mut world, PHONE, request.clone());
    // Meanwhile the list goes on, further than the phone could follow.
    enrol(&mut world, LAPTOP, "watch", Some(false));
    let other = enrol(&mut world, LAPTOP, "reader", Some(false));
    revoke(&mut world, LAPTOP, other);
    world.run();
    world.go_online(PHONE);
    world.run();
    let id = world.devices[tablet].id;
    assert!(!named(&world, LAPTOP).contains(&id));
    assert_eq!(told(&mut world, PHONE), ["device.approve_again"]);
    let approval = approve(&mut world, PHONE, request);
    world.run();
    finish(&mut world, tablet, approval);
    assert!(named(&world, LAPTOP).contains(&id));
}

/// The laptop approves a phone and goes; a tablet of the same user adds that to their group meanwhile.
fn added_by_a_sibling(seed: u64) -> (World, GroupId, usize, usize) {
    let mut world = World::new(seed, &["ana", "ben"]);
    let tablet = enrol(&mut world, LAPTOP, "tablet", None);
    let group = world.create_group(LAPTOP);
    world.run();
    assert!(is_member(&world, group, tablet));
    let (phone, request) = asking(&mut world, "phone");
    let approval = approve(&mut world, LAPTOP, request);
    world.run();
    world.go_offline(LAPTOP);
    finish(&mut world, phone, approval);
    assert!(is_member(&world, group, phone));
    (world, group, tablet, phone)
}

#[test]
fn a_group_that_is_not_here_yet_keeps_it_from_being_done() {
    let (mut world, group, tablet, phone) = added_by_a_sibling(22);
    // The laptop knows nothing of that when it takes the phone away.
    let info = revoke(&mut world, LAPTOP, phone);
    assert_eq!((info.groups.len(), info.unseen), (0, vec![group]));
    world.go_offline(tablet);
    world.go_online(LAPTOP);
    world.run();
    assert!(!is_member(&world, group, phone));
    let done = world.devices[LAPTOP].events.iter();
    let done: Vec<&RevocationInfo> = done
        .filter_map(|event| match event {
            Event::Revoked { revocation } => Some(revocation),
            _ => None,
        })
        .collect();
    assert_eq!(done.len(), 1, "{done:?}");
    let groups: Vec<(GroupId, RevokedStage)> = done[0]
        .groups
        .iter()
        .map(|it| (it.group, it.stage))
        .collect();
    assert_eq!(groups, [(group, RevokedStage::Complete)]);
}

#[test]
fn a_group_that_a_sibling_has_seen_to_is_in_the_report() {
    let (mut world, group, tablet, phone) = added_by_a_sibling(23);
    // Both take it away, and the tablet is done first.
    revoke(&mut world, LAPTOP, phone);
    revoke(&mut world, tablet, phone);
    world.run();
    assert!(!is_member(&world, group, phone));
    world.go_online(LAPTOP);
    world.run();
    let info = revocations(&mut world, LAPTOP).pop().unwrap();
    let groups: Vec<(GroupId, RevokedStage)> =
        info.groups.iter().map(|it| (it.group, it.stage)).collect();
    assert_eq!(groups, [(group, RevokedStage::Complete)]);
    assert!(info.done);
}

#[test]
fn who_names_a_device_again_and_again_draws_few_signatures() {
    let (mut world, group, _) = lost(24);
    let lists = thiefs_lists(&mut world, 6);
    world.go_offline(PHONE);
    revoke(&mut world, LAPTOP, PHONE);
    world.run();
    let user = world.devices[LAPTOP].user;
    let before = world.count(LAPTOP, "put_list");
    // Each is newer than what the laptop signs against the one before.
    for at in [1, 3, 4, 5] {
        let out = world.service.show_list(user, lists[at].to_bytes());
        world.post(out);
        world.advance(200);
        assert!(!is_member(&world, group, PHONE));
    }
    let signed = world.count(LAPTOP, "put_list") - before;
    assert_eq!(signed, 1, "without a rest");
    let info = revocations(&mut world, LAPTOP).pop().unwrap();
    assert!(!info.off && !info.done, "{info:?}");
    world.advance(10_000);
    assert_eq!(world.count(LAPTOP, "put_list") - before, 2);
    assert!(!named(&world, LAPTOP).contains(&world.devices[PHONE].id));
    let codes = told(&mut world, LAPTOP);
    assert!(
        codes.iter().any(|it| it == "device.foreign_list"),
        "{codes:?}"
    );
}

#[test]
fn absent_from_either_of_two_lists_of_one_number_is_revoked() {
    let (mut world, group, _) = lost(16);
    let lists = thiefs_lists(&mut world, 2);
    let tablet = enrol(&mut world, LAPTOP, "tablet", Some(false));
    world.go_offline(PHONE);
    revoke(&mut world, LAPTOP, PHONE);
    world.run();
    let user = world.devices[LAPTOP].user;
    let honest = world.service.list(user).unwrap();
    // The thief's list of that number does not name the tablet.
    assert_eq!(honest.list.seq, lists[1].list.seq);
    let out = world.service.show_list(user, lists[1].to_bytes());
    world.post(out);
    world.run();
    for at in [LAPTOP, BEN, tablet] {
        let codes = told(&mut world, at);
        assert!(codes.iter().any(|it| it == "device.two_lists"), "{codes:?}");
    }
    // Whose they are sees what the list says, and is not disarmed by the other.
    let both = BTreeSet::from([LAPTOP, tablet].map(|at| world.devices[at].id));
    for at in [LAPTOP, tablet] {
        let known: BTreeSet<DeviceId> =
            devices(&mut world, at).iter().map(|it| it.device).collect();
        assert_eq!(known, both, "device {at}");
    }
    assert!(!is_member(&world, group, PHONE) && is_member(&world, group, tablet));
    let other = world.create_group(BEN);
    world.invite(other, BEN, LAPTOP, None);
    world.run();
    assert!(is_member(&world, other, LAPTOP) && !is_member(&world, other, tablet));
    // The user's word signs the next list, which counts.
    let device = world.devices[tablet].id;
    world.ask(LAPTOP, Command::ConfirmDevice { device });
    world.run();
    let next = world.service.list(user).unwrap();
    assert_eq!(next.list.seq, honest.list.seq + 1);
    assert_eq!(named(&world, LAPTOP), both);
    let out = world.service.show_list(user, next.to_bytes());
    world.post(out);
    world.run();
    assert!(is_member(&world, other, tablet));
}

#[test]
fn two_lists_keep_nobody_from_taking_a_device_away() {
    let (mut world, group, _) = lost(25);
    let lists = thiefs_lists(&mut world, 2);
    let tablet = enrol(&mut world, LAPTOP, "tablet", Some(false));
    world.go_offline(PHONE);
    revoke(&mut world, LAPTOP, PHONE);
    world.run();
    let user = world.devices[LAPTOP].user;
    let out = world.service.show_list(user, lists[1].to_bytes());
    world.post(out);
    world.run();
    revoke(&mut world, LAPTOP, tablet);
    world.run();
    let laptop = world.devices[LAPTOP].id;
    assert_eq!(named(&world, LAPTOP), BTreeSet::from([laptop]));
    assert!(!is_member(&world, group, tablet));
    let info = revocations(&mut world, LAPTOP).pop().unwrap();
    assert!(info.off && info.done, "{info:?}");
}

#[test]
fn where_no_admin_is_left_that_is_told_to_whoever_is() {
    let (mut world, group) = apart(26, Role::Editor);
    // Ben hears nothing of it when it happens.
    world.go_offline(BEN);
    take_away(&mut world);
    world.go_online(BEN);
    world.advance(130_000);
    assert!(is_member(&world, group, PHONE));
    assert_eq!(told(&mut world, BEN), ["group.revoked_member"]);
}

#[test]
fn who_is_never_connected_for_long_removes_it_too() {
    let (mut world, group) = apart(27, Role::Owner);
    world.go_offline(BEN);
    take_away(&mut world);
    world.advance(130_000);
    world.restart(BEN);
    world.go_online(BEN);
    world.advance(1_500);
    assert!(!is_member(&world, group, PHONE));
}

#[test]
fn a_device_that_came_while_others_were_away_is_not_taken_for_gone() {
    let (mut world, group, _) = lost(29);
    world.go_offline(PHONE);
    world.go_offline(BEN);
    let tablet = enrol(&mut world, LAPTOP, "tablet", None);
    world.advance(130_000);
    assert!(is_member(&world, group, tablet));
    world.go_offline(LAPTOP);
    for at in [PHONE, BEN] {
        world.restart(at);
        world.go_online(at);
        world.advance(130_000);
        assert!(is_member(&world, group, tablet), "device {at}");
    }
    // Nor was it removed and added again.
    let id = world.devices[tablet].id;
    let state = world.state(group);
    let rows = state.roster.rows().iter().filter(|row| row.device == id);
    assert_eq!(rows.filter(|row| row.last_epoch.is_some()).count(), 0);
    world.no_findings();
}

#[test]
fn a_sibling_that_is_never_connected_for_long_removes_it_too() {
    let (mut world, group, _) = lost(28);
    let tablet = enrol(&mut world, LAPTOP, "tablet", Some(false));
    world.run();
    world.go_offline(tablet);
    let device = world.devices[PHONE].id;
    let before = world.count(LAPTOP, "put_list");
    world.command(LAPTOP, Command::RevokeDevice { device });
    world.until(|world| world.count(LAPTOP, "put_list") > before);
    world.go_offline(LAPTOP);
    world.go_offline(BEN);
    world.advance(40_000);
    assert!(is_member(&world, group, PHONE));
    world.restart(tablet);
    world.go_online(tablet);
    world.advance(1_500);
    assert!(!is_member(&world, group, PHONE));
}

#[test]
fn a_device_that_a_sibling_approves_is_no_alarm() {
    let (mut world, group, _) = lost(29);
    let tablet = enrol(&mut world, LAPTOP, "tablet", Some(true));
    world.go_offline(PHONE);
    revoke(&mut world, LAPTOP, PHONE);
    world.run();
    for name in ["watch", "reader"] {
        let new = enrol(&mut world, tablet, name, Some(false));
        let device = world.devices[new].id;
        // It waits for a word here, and that ends it.
        assert_eq!(told(&mut world, LAPTOP), ["device.unconfirmed"], "{name}");
        world.ask(LAPTOP, Command::ConfirmDevice { device });
        world.run();
        assert_eq!(told(&mut world, LAPTOP), [""; 0], "{name}");
        assert!(is_member(&world, group, new), "{name}");
    }
    // Where one goes that was the user's, that is told.
    revoke(&mut world, tablet, tablet + 1);
    world.run();
    assert_eq!(told(&mut world, LAPTOP), ["device.foreign_list"]);
}
