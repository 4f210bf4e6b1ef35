//! A device that its user takes away is out of everything, whatever it holds and whoever helps it.

use std::collections::{BTreeMap, BTreeSet};

use ciborium::Value;
use conclave_engine::{
    Approval, Command, DeviceInfo, EngineError, Event, Reply, RevocationInfo, RevokedStage, Setup,
    forensic,
};
use conclave_identity::{DeviceApproval, SignedDeviceList};
use conclave_proto::{DeviceId, DocumentId, GroupId, Refusal, Role};

use crate::world::{REALM, World};

mod adversary;
mod promises;

/// Ana's first device.
const LAPTOP: usize = 0;
const BEN: usize = 1;
/// Ana's second device, which is lost.
const PHONE: usize = 2;
/// Ana's third device.
const TABLET: usize = 3;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// A device that asks to be one of Ana's, and is not approved yet.
fn asking(world: &mut World, name: &str) -> (usize, Approval) {
    let setup = Setup::NewDevice {
        name: name.to_owned(),
        realm: REALM,
    };
    let at = world.add_device(name, setup, 0);
    match world.ask(at, Command::DeviceRequest) {
        Reply::Request(request) => (at, request.approved()),
        other => panic!("{other:?}"),
    }
}

fn approve(world: &mut World, by: usize, approval: Approval) -> String {
    match world.ask(by, Command::ApproveDevice(approval)) {
        Reply::Text(approval) => approval,
        other => panic!("{other:?}"),
    }
}

/// It finishes with what approves it.
fn finish(world: &mut World, at: usize, approval: String) {
    world.ask(at, Command::FinishDevice { approval });
    world.learn_name(at);
    world.run();
}

/// A further device of a user, which gets the user key or not.
pub fn enrol(world: &mut World, by: usize, name: &str, user_key: Option<bool>) -> usize {
    let (at, request) = asking(world, name);
    let approval = Approval {
        user_key,
        ..request
    };
    let approval = approve(world, by, approval);
    world.run();
    finish(world, at, approval);
    at
}

/// Ana with laptop and phone, Ben, their group and its document.
fn lost(seed: u64) -> (World, GroupId, DocumentId) {
    let mut world = World::new(seed, &["ana", "ben"]);
    assert_eq!(enrol(&mut world, LAPTOP, "phone", None), PHONE);
    let group = world.create_group(LAPTOP);
    world.invite(group, LAPTOP, BEN, Some(Role::Admin));
    let document = world.create_document(group, LAPTOP, "minutes");
    for at in [BEN, PHONE] {
        world.edit(at, group, document, ".");
    }
    world.run();
    world.converged(group, &[LAPTOP, BEN, PHONE]);
    (world, group, document)
}

fn revoke(world: &mut World, by: usize, who: usize) -> RevocationInfo {
    let device = world.devices[who].id;
    match world.ask(by, Command::RevokeDevice { device }) {
        Reply::Revocations(all) => all.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn revocations(world: &mut World, at: usize) -> Vec<RevocationInfo> {
    match world.ask(at, Command::Revocations { due: true }) {
        Reply::Revocations(all) => all,
        other => panic!("{other:?}"),
    }
}

fn told(world: &mut World, at: usize) -> Vec<String> {
    let open = world.open_findings(at).into_iter();
    open.map(|it| it.code).collect()
}

fn devices(world: &mut World, at: usize) -> Vec<DeviceInfo> {
    match world.ask(at, Command::Devices) {
        Reply::Devices(all) => all,
        other => panic!("{other:?}"),
    }
}

fn named(world: &World, at: usize) -> BTreeSet<DeviceId> {
    let list = world.service.list(world.devices[at].user).unwrap();
    list.list.devices.iter().map(|entry| entry.device).collect()
}

fn is_member(world: &World, group: GroupId, at: usize) -> bool {
    world.state(group).is_member(&world.devices[at].id)
}

fn is_kept_out(world: &mut World, at: usize) -> bool {
    world.go_online(at);
    world.run();
    let status = world.status(at);
    !status.online && status.refused.is_some()
}

#[test]
fn a_device_that_is_taken_away_is_out_of_every_group_and_everything_is_under_new_keys() {
    let (mut world, group, document) = lost(1);
    let other = world.create_group(LAPTOP);
    world.create_document(other, LAPTOP, "alone");
    world.run();
    let before = world.state(group).epoch;
    let info = revoke(&mut world, LAPTOP, PHONE);
    assert!(!info.done && !info.off);
    assert_eq!(info.name.as_deref(), Some("phone"));
    world.run();
    let all = revocations(&mut world, LAPTOP);
    let info = all.first().unwrap();
    assert!(info.off && info.done, "{info:?}");
    let groups: BTreeSet<GroupId> = info.groups.iter().map(|it| it.group).collect();
    assert_eq!(groups, BTreeSet::from([group, other]));
    for it in &info.groups {
        assert_eq!(it.stage, RevokedStage::Complete, "{it:?}");
        assert_eq!((it.rekeyed, it.documents), (2, 2), "{it:?}");
        assert!(it.epoch.is_some_and(|epoch| epoch > 0));
    }
    let of_group = info.groups.iter().find(|it| it.group == group).unwrap();
    assert_eq!(of_group.epoch, Some(before + 1));
    assert!(!is_member(&world, group, PHONE) && !is_member(&world, other, PHONE));
    assert_eq!(world.state(group).rotating_since, 0);
    assert!(world.status(LAPTOP).revocations.is_empty());
    let told = world.devices[LAPTOP].events.iter();
    let told = told.filter(|event| matches!(event, Event::Revoked { .. }));
    assert_eq!(told.count(), 1);
    assert!(is_kept_out(&mut world, PHONE));
    world.edit(BEN, group, document, " on");
    world.run();
    world.converged(group, &[LAPTOP, BEN]);
    // Asked for again, it tells the same.
    assert!(revoke(&mut world, LAPTOP, PHONE).done);
    world.no_findings();
}

#[test]
fn with_the_whole_database_every_frame_and_an_invitation_of_its_user_it_opens_nothing_new() {
    let (mut world, group, document) = lost(2);
    // What it has written and not sent arrives late, over the connection that it had.
    world.edit(PHONE, group, document, "<late>");
    let late = world.restart_late(PHONE);
    world.go_offline(PHONE);
    let old = world.service.records(&group, &document).len();
    revoke(&mut world, LAPTOP, PHONE);
    world.run();
    let rekeyed = world.service.records(&group, &document).len();
    world.arrive(PHONE, late);
    assert_eq!(
        world.service.records(&group, &document).len(),
        rekeyed,
        "what it sent was taken"
    );
    let epoch = world.state(group).epoch;
    for at in [LAPTOP, BEN] {
        world.edit(at, group, document, " secret");
    }
    world.run();
    // Its user is invited again, and by name the device could come along.
    let (user, role) = (world.devices[LAPTOP].user, None);
    world.ask(BEN, Command::Invite { group, user, role });
    world.run();
    assert!(!is_member(&world, group, PHONE));
    assert_eq!(world.state(group).epoch, epoch);
    // It tries itself: kept out, with whatever it has.
    assert!(is_kept_out(&mut world, PHONE));
    let new = world.service.records(&group, &document);
    let wraps = world.service.wraps(&group);
    let rows = world.devices[PHONE]
        .rows
        .read(&forensic::group_prefix(&group));
    let opens = forensic::openable(&rows, &group, &new, &wraps).unwrap();
    assert!(opens[..old].iter().any(|opens| *opens), "nothing at all");
    let opened = opens.iter().rposition(|opens| *opens).unwrap();
    // What was ordered before the removal may still open; nothing that was sealed in an epoch after it does.
    let after = |record: &conclave_proto::Record| record.header.epoch >= epoch;
    assert!(new.iter().any(after));
    for (record, opens) in new.iter().zip(&opens) {
        assert!(!(after(record) && *opens), "record {opened} opens");
    }
    assert_eq!(world.service.package_of(world.devices[PHONE].id), None);
}

#[test]
fn a_package_that_was_handed_out_before_adds_nobody() {
    let mut world = World::new(3, &["ana", "ben"]);
    enrol(&mut world, LAPTOP, "phone", None);
    world.go_offline(LAPTOP);
    let group = world.create_group(BEN);
    let (user, role) = (world.devices[LAPTOP].user, None);
    let claims = world.count(BEN, "claim");
    world.command(BEN, Command::Invite { group, user, role });
    world.until(|world| world.count(BEN, "claim") > claims);
    // Ben has packages of both on their way to him, and hears of nothing before he commits.
    world.held = Some(BEN);
    world.go_online(LAPTOP);
    revoke(&mut world, LAPTOP, PHONE);
    world.run();
    assert!(!named(&world, LAPTOP).contains(&world.devices[PHONE].id));
    world.held = None;
    world.run();
    assert!(is_member(&world, group, LAPTOP) || world.service.welcomes(&group).len() == 1);
    assert!(!is_member(&world, group, PHONE));
    world.no_findings();
}

#[test]
fn offline_it_waits_and_goes_on_after_a_restart() {
    let (mut world, group, _) = lost(4);
    world.go_offline(LAPTOP);
    let info = revoke(&mut world, LAPTOP, PHONE);
    assert!(!info.off && !info.done);
    world.run();
    assert_eq!(world.status(LAPTOP).revocations.len(), 1);
    assert!(named(&world, LAPTOP).contains(&world.devices[PHONE].id));
    world.restart(LAPTOP);
    // Meanwhile the list went on.
    enrol(&mut world, PHONE, "tablet", None);
    world.go_online(LAPTOP);
    world.run();
    world.run();
    assert!(!is_member(&world, group, PHONE));
    assert!(is_member(&world, group, TABLET));
    let ids = [LAPTOP, TABLET].map(|at| world.devices[at].id);
    assert_eq!(named(&world, LAPTOP), BTreeSet::from(ids));
    let info = revocations(&mut world, LAPTOP).pop().unwrap();
    assert!(info.done, "{info:?}");
    // Whoever has the phone may have listed the tablet: it stays, and the user is asked.
    let tablet = world.devices[TABLET].id;
    assert_eq!(info.unconfirmed, [tablet]);
    let unconfirmed = devices(&mut world, LAPTOP).into_iter();
    let unconfirmed: Vec<DeviceId> = unconfirmed
        .filter(|it| !it.confirmed)
        .map(|it| it.device)
        .collect();
    assert_eq!(unconfirmed, [tablet]);
    let codes = told(&mut world, LAPTOP);
    assert!(codes.iter().any(|it| it == "device.unconfirmed"));
    let other = world.create_group(LAPTOP);
    world.run();
    assert!(!is_member(&world, other, TABLET));
    // What is advised ends it.
    revoke(&mut world, LAPTOP, TABLET);
    world.run();
    let codes = told(&mut world, LAPTOP);
    assert!(
        codes.iter().all(|it| it != "device.unconfirmed"),
        "{codes:?}"
    );
    assert!(!is_member(&world, group, TABLET));
}

#[test]
fn of_two_devices_that_change_the_list_at_once_both_have_their_way() {
    let mut world = World::new(5, &["ana", "ben"]);
    enrol(&mut world, LAPTOP, "phone", None);
    enrol(&mut world, LAPTOP, "tablet", Some(false));
    let setup = Setup::NewDevice {
        name: "watch".to_owned(),
        realm: REALM,
    };
    let watch = world.add_device("watch", setup, 0);
    let Reply::Request(request) = world.ask(watch, Command::DeviceRequest) else {
        panic!("no request")
    };
    // The phone approves while it is offline; the laptop takes the tablet away meanwhile.
    world.go_offline(PHONE);
    let approve = Command::ApproveDevice(request.approved());
    let Reply::Text(approval) = world.ask(PHONE, approve) else {
        panic!("no approval")
    };
    revoke(&mut world, LAPTOP, TABLET);
    world.run();
    world.go_online(PHONE);
    world.run();
    world.ask(watch, Command::FinishDevice { approval });
    world.learn_name(watch);
    world.run();
    let ids = [LAPTOP, PHONE, watch].map(|at| world.devices[at].id);
    for at in [LAPTOP, PHONE, watch] {
        assert_eq!(named(&world, at), BTreeSet::from(ids));
        let known: BTreeSet<DeviceId> =
            devices(&mut world, at).iter().map(|it| it.device).collect();
        assert_eq!(known, BTreeSet::from(ids), "device {at}");
        assert!(world.status(at).online, "device {at}");
    }
    world.no_findings();
}

#[test]
fn its_siblings_remove_it_where_the_one_that_took_it_away_is_gone() {
    let mut world = World::new(6, &["ana", "ben"]);
    enrol(&mut world, LAPTOP, "phone", None);
    enrol(&mut world, LAPTOP, "tablet", None);
    let group = world.create_group(LAPTOP);
    world.run();
    let device = world.devices[PHONE].id;
    let before = world.count(LAPTOP, "put_list");
    world.command(LAPTOP, Command::RevokeDevice { device });
    world.until(|world| world.count(LAPTOP, "put_list") > before);
    world.go_offline(LAPTOP);
    world.advance(4_000);
    assert!(is_member(&world, group, PHONE));
    world.advance(30_000);
    assert!(!is_member(&world, group, PHONE));
    world.go_online(LAPTOP);
    world.run();
    assert!(revocations(&mut world, LAPTOP).pop().unwrap().done);
}

/// The phone founds a group that the laptop is not in, and goes.
fn apart(seed: u64, role: Role) -> (World, GroupId) {
    let mut world = World::new(seed, &["ana", "ben"]);
    enrol(&mut world, LAPTOP, "phone", None);
    let laptop = world.devices[LAPTOP].id;
    world.go_offline(LAPTOP);
    world.service.expire_packages(laptop);
    let group = world.create_group(PHONE);
    world.invite(group, PHONE, BEN, Some(role));
    world.go_offline(PHONE);
    assert!(!is_member(&world, group, LAPTOP));
    (world, group)
}

/// The laptop is back, and takes the phone away.
fn take_away(world: &mut World) {
    world.go_online(LAPTOP);
    world.run();
    revoke(world, LAPTOP, PHONE);
    world.run();
}

fn out_of_reach(seed: u64, role: Role) -> (World, GroupId) {
    let (mut world, group) = apart(seed, role);
    take_away(&mut world);
    (world, group)
}

#[test]
fn a_member_who_may_removes_it_where_none_of_its_siblings_is() {
    let (mut world, group) = out_of_reach(7, Role::Owner);
    world.advance(45_000);
    assert!(
        is_member(&world, group, PHONE),
        "its siblings' turn is over"
    );
    world.advance(80_000);
    assert!(!is_member(&world, group, PHONE));
    assert_eq!(world.findings(BEN), [""; 0]);
}

#[test]
fn that_only_an_owner_can_remove_it_is_said() {
    let (mut world, group) = out_of_reach(8, Role::Admin);
    world.advance(130_000);
    assert!(is_member(&world, group, PHONE));
    assert_eq!(told(&mut world, BEN), ["group.revoked_member"]);
}

#[test]
fn an_admin_who_was_away_learns_of_it_later() {
    let (mut world, group) = apart(9, Role::Owner);
    world.go_offline(BEN);
    take_away(&mut world);
    world.go_online(BEN);
    world.advance(250_000);
    assert!(!is_member(&world, group, PHONE));
}

#[test]
fn it_is_finished_wherever_the_device_dies() {
    let (world, group, _) = lost(10);
    let saved = world.save();
    let phone = world.devices[PHONE].id;
    let play = |world: &mut World| {
        world.run();
        world.command(LAPTOP, Command::RevokeDevice { device: phone });
        world.run();
    };
    let crashes = World::at_any_output(
        &saved,
        LAPTOP,
        |output| 10_000 + output as u64,
        play,
        |world, crash| {
            world.run();
            // Only what died before it was durable is asked for again: the rest goes on by itself.
            if revocations(world, LAPTOP).is_empty() {
                assert!(!crash.written || crash.output == 0, "{crash:?}");
                revoke(world, LAPTOP, PHONE);
                world.run();
            }
            world.advance(60_000);
            let info = revocations(world, LAPTOP).pop().unwrap();
            assert!(info.off && info.done, "{crash:?}: {info:?}");
            assert!(!is_member(world, group, PHONE), "{crash:?}");
            assert_eq!(named(world, LAPTOP).len(), 1, "{crash:?}");
            world.converged(group, &[LAPTOP, BEN]);
        },
    );
    assert!(crashes > 10, "{crashes}");
}

#[test]
fn the_second_device_can_take_the_first_away() {
    let (mut world, group, _) = lost(11);
    revoke(&mut world, PHONE, LAPTOP);
    world.run();
    world.run();
    assert!(!is_member(&world, group, LAPTOP) && is_member(&world, group, PHONE));
    assert!(is_kept_out(&mut world, LAPTOP));
    // And approve another in its place.
    let next = enrol(&mut world, PHONE, "new laptop", None);
    world.run();
    assert!(is_member(&world, group, next));
}

#[test]
fn who_may_take_away_what() {
    let mut world = World::new(12, &["ana", "ben"]);
    enrol(&mut world, LAPTOP, "phone", Some(false));
    let refused = |world: &mut World, by: usize, device: DeviceId| match world
        .call(by, Command::RevokeDevice { device })
        .unwrap()
    {
        Err(error) => error.code().to_owned(),
        Ok(reply) => panic!("{reply:?}"),
    };
    let ids: Vec<DeviceId> = world.devices.iter().map(|it| it.id).collect();
    assert_eq!(
        refused(&mut world, PHONE, ids[LAPTOP]),
        "engine.no_user_key"
    );
    assert_eq!(
        refused(&mut world, LAPTOP, ids[LAPTOP]),
        "engine.own_device"
    );
    assert_eq!(
        refused(&mut world, LAPTOP, ids[BEN]),
        "engine.unknown_device"
    );
    assert_eq!(named(&world, LAPTOP).len(), 2);
}

/// The laptop, which alone had the user key, is gone for good.
#[test]
fn without_the_user_key_a_device_goes_on_and_approves_nobody() {
    let mut world = World::new(17, &["ana", "ben"]);
    assert_eq!(enrol(&mut world, LAPTOP, "phone", Some(false)), PHONE);
    let group = world.create_group(LAPTOP);
    world.invite(group, LAPTOP, BEN, Some(Role::Admin));
    let document = world.create_document(group, LAPTOP, "minutes");
    world.run();
    world.go_offline(LAPTOP);
    let (_, request) = asking(&mut world, "tablet");
    let refused = world.call(PHONE, Command::ApproveDevice(request)).unwrap();
    assert!(
        matches!(refused, Err(EngineError::NoUserKey)),
        "{refused:?}"
    );

    world.advance(100 * DAY_MS);
    world.edit(PHONE, group, document, " still here");
    world.run();
    assert!(world.text(BEN, group, document).contains("still here"));
    // Its list is stale: nobody adds it to a further group.
    let other = world.create_group(BEN);
    let (user, role) = (world.devices[LAPTOP].user, None);
    world.command(
        BEN,
        Command::Invite {
            group: other,
            user,
            role,
        },
    );
    world.run();
    let phone = world.devices[PHONE].id;
    assert!(!world.state(other).is_member(&phone));
    assert!(world.state(group).is_member(&phone));
}

#[test]
fn the_user_key_is_sealed_only_to_the_device_whose_code_was_typed_in() {
    let mut world = World::new(13, &["ana"]);
    let ask = |world: &mut World| {
        let setup = Setup::NewDevice {
            name: "phone".to_owned(),
            realm: REALM,
        };
        let at = world.add_device("phone", setup, 0);
        match world.ask(at, Command::DeviceRequest) {
            Reply::Request(request) => (at, request),
            other => panic!("{other:?}"),
        }
    };
    let (at, ours) = ask(&mut world);
    let (_, theirs) = ask(&mut world);
    // Somebody has put their text in the place of ours.
    let swapped = Approval {
        request: theirs.text.clone(),
        ..ours.approved()
    };
    let seq = |world: &mut World| world.service.list(world.devices[0].user).unwrap().list.seq;
    let before = seq(&mut world);
    let refused = world.call(0, Command::ApproveDevice(swapped)).unwrap();
    assert!(
        matches!(refused, Err(EngineError::WrongCode)),
        "{refused:?}"
    );
    world.run();
    assert_eq!(seq(&mut world), before, "nothing was signed");
    let Reply::Text(approval) = world.ask(0, Command::ApproveDevice(ours.approved())) else {
        panic!("no approval")
    };
    let Reply::Text(again) = world.ask(0, Command::ApproveDevice(ours.approved())) else {
        panic!("no approval")
    };
    world.run();
    world.ask(at, Command::FinishDevice { approval });
    // The key that could open it is gone with that.
    let second = world.call(at, Command::FinishDevice { approval: again });
    assert!(matches!(second.unwrap(), Err(EngineError::AlreadyEnrolled)));
    let Reply::WhoAmI(me) = world.ask(at, Command::WhoAmI) else {
        panic!("nobody")
    };
    assert!(me.holds_user_key);
    let list = devices(&mut world, 0);
    let phone = list.iter().find(|it| !it.this).unwrap();
    assert_eq!(phone.holds_user_key, Some(true));
    assert_eq!(phone.name.as_deref(), Some("phone"));
}

/// The rows of a device that waits, as they were before the user key could be sealed to it.
fn forget_receiving(world: &mut World, at: usize) {
    let rows = &mut world.devices[at].rows.0;
    let keys = rows.get_mut([&[1], b"keys".as_slice()].concat().as_slice());
    let keys = keys.expect("a row of keys");
    let mut row: BTreeMap<String, Value> = ciborium::from_reader(keys.as_slice()).unwrap();
    assert_ne!(row.remove("receiving"), Some(Value::Null));
    keys.clear();
    ciborium::into_writer(&row, &mut **keys).unwrap();
}

#[test]
fn a_device_that_has_waited_since_before_asks_and_is_approved() {
    let mut world = World::new(30, &["ana"]);
    let (at, before) = asking(&mut world, "phone");
    forget_receiving(&mut world, at);
    world.restart(at);
    let ask = |world: &mut World| match world.ask(at, Command::DeviceRequest) {
        Reply::Request(request) => request.approved(),
        other => panic!("{other:?}"),
    };
    let request = ask(&mut world);
    assert_ne!(request.request, before.request);
    // It is the same after another start: what was shown holds.
    world.restart(at);
    assert_eq!(ask(&mut world).request, request.request);
    let old = approve(&mut world, 0, before);
    let refused = world.call(at, Command::FinishDevice { approval: old });
    let refused = refused.unwrap().unwrap_err();
    assert!(
        !matches!(refused, EngineError::AlreadyEnrolled),
        "{refused}"
    );
    let approval = approve(&mut world, 0, request);
    world.run();
    finish(&mut world, at, approval);
    let list = devices(&mut world, 0);
    let phone = list.iter().find(|it| !it.this).unwrap();
    assert_eq!(phone.holds_user_key, Some(true));
}

#[test]
fn devices_are_called_as_their_user_likes_and_last_use_is_told() {
    let (mut world, _, _) = lost(14);
    let device = world.devices[PHONE].id;
    let rename = |name: &str| Command::RenameDevice {
        device,
        name: name.to_owned(),
    };
    world.ask(LAPTOP, rename("Ana's phone"));
    for bad in ["", " x", "a\u{202e}b", "x\ny"] {
        assert!(world.call(LAPTOP, rename(bad)).unwrap().is_err(), "{bad:?}");
    }
    world.restart(LAPTOP);
    world.run();
    let list = devices(&mut world, LAPTOP);
    let phone = list.iter().find(|it| it.device == device).unwrap();
    assert_eq!(phone.name.as_deref(), Some("Ana's phone"));
    assert!(phone.seen.is_some_and(|at| at <= world.now));
    let this = list.iter().find(|it| it.this).unwrap();
    assert_eq!(this.holds_user_key, Some(true));
    // Nothing of it travels.
    let theirs = devices(&mut world, PHONE);
    let own = theirs.iter().find(|it| it.this).unwrap();
    assert_eq!(own.name.as_deref(), Some("phone"));
}

/// Lists that somebody signs who has the phone, with everything on it: each names another device of theirs.
fn thiefs_lists(world: &mut World, count: usize) -> Vec<SignedDeviceList> {
    let thief = world.copy(PHONE);
    let sign = |_| {
        let setup = Setup::NewDevice {
            name: "evil".to_owned(),
            realm: REALM,
        };
        let evil = world.add_device("evil", setup, 0);
        world.go_offline(evil);
        let Reply::Request(request) = world.ask(evil, Command::DeviceRequest) else {
            panic!("no request")
        };
        let approve = Command::ApproveDevice(request.approved());
        let Reply::Text(approval) = world.ask(thief, approve) else {
            panic!("no approval")
        };
        let list = DeviceApproval::from_text(&approval).unwrap().list;
        world.ask(evil, Command::FinishDevice { approval });
        list
    };
    (0..count).map(sign).collect()
}

#[test]
fn a_thiefs_list_is_not_taken_by_the_service() {
    let (mut world, group, _) = lost(15);
    let lists = thiefs_lists(&mut world, 2);
    world.go_offline(PHONE);
    revoke(&mut world, LAPTOP, PHONE);
    world.run();
    let before = named(&world, LAPTOP);
    // The phone, and whatever it approves, is let in no more: nobody else publishes a list of Ana's.
    for evil in [PHONE, PHONE + 2, PHONE + 3] {
        assert!(is_kept_out(&mut world, evil), "device {evil}");
    }
    assert_eq!(named(&world, LAPTOP), before);
    assert!(lists.iter().all(|list| list.verify().is_ok()));
    assert!(!is_member(&world, group, PHONE));
}

#[test]
fn whom_a_thief_lists_is_added_to_no_group_by_the_users_devices() {
    let (mut world, group, _) = lost(17);
    enrol(&mut world, LAPTOP, "tablet", Some(false));
    world.run();
    let evil = thiefs_lists(&mut world, 2).pop().unwrap();
    world.go_offline(PHONE);
    revoke(&mut world, LAPTOP, PHONE);
    world.run();
    let before: Vec<DeviceId> = world
        .state(group)
        .current_rows()
        .map(|row| row.device)
        .collect();
    let user = world.devices[LAPTOP].user;
    let honest = world.service.list(user).unwrap();
    assert!(evil.list.seq > honest.list.seq);
    let out = world.service.show_list(user, evil.to_bytes());
    world.post(out);
    world.run();
    world.advance(130_000);
    // It is newer, so that it counts; but nobody whom it names anew is added, and both devices raise the alarm.
    for at in [LAPTOP, TABLET] {
        let codes: Vec<String> = world.findings(at);
        for code in ["device.foreign_list", "device.unconfirmed"] {
            let told = codes.iter().any(|it| it.starts_with(code));
            assert!(told, "device {at}: {code}: {codes:?}");
        }
        let unconfirmed = devices(&mut world, at);
        let unconfirmed = unconfirmed.iter().filter(|it| !it.confirmed).count();
        // The phone is not only unconfirmed where it was taken away: it is signed off the list again.
        let more = if at == LAPTOP { 2 } else { 3 };
        assert_eq!(unconfirmed, more, "device {at}");
    }
    let listed = named(&world, LAPTOP);
    assert!(!listed.contains(&world.devices[PHONE].id));
    assert!(world.service.list(user).unwrap().list.seq > evil.list.seq);
    let info = revocations(&mut world, LAPTOP).pop().unwrap();
    assert!(info.off && info.done, "{info:?}");
    let after: Vec<DeviceId> = world
        .state(group)
        .current_rows()
        .map(|row| row.device)
        .collect();
    assert_eq!(after, before);
}

#[test]
fn what_a_revoked_device_still_sends_is_not_taken() {
    let (mut world, group, document) = lost(18);
    let device = world.devices[PHONE].id;
    // It hears nothing of it, and goes on.
    world.held = Some(PHONE);
    let before = world.count(LAPTOP, "put_list");
    world.command(LAPTOP, Command::RevokeDevice { device });
    world.until(|world| world.count(LAPTOP, "put_list") > before);
    world.run();
    assert!(!is_member(&world, group, PHONE));
    let records = world.service.records(&group, &document).len();
    let entries = world.service.entries(&group).len();
    let sent = world.count(PHONE, "append");
    world.edit(PHONE, group, document, "<late>");
    let user = world.devices[BEN].user;
    world.command(PHONE, Command::Remove { group, user });
    world.run();
    assert!(world.count(PHONE, "append") > sent, "nothing was tried");
    assert_eq!(world.service.records(&group, &document).len(), records);
    assert_eq!(world.service.entries(&group).len(), entries);
    world.held = None;
    world.run();
    let status = world.status(PHONE);
    assert!(!status.online);
    let revoked = Refusal::Forbidden {
        why: conclave_proto::refusal::ForbiddenWhy::DeviceRevoked,
    };
    assert_eq!(status.refused.unwrap_or_default(), revoked.to_string());
}
