//! What users do, on a kind day.

use conclave_crdt::PathElement;
use conclave_engine::{Command, EngineError, Event, Input, Reply};
use conclave_proto::DocumentId;
use conclave_proto::record::CloseReason;

use crate::world::{World, edit};

#[test]
fn two_users_invite_join_edit_both_ways_and_converge() {
    let mut world = World::new(1, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    let document = world.create_document(group, 0, "hello");
    world.edit(0, group, document, " ana");
    world.edit(1, group, document, " ben");
    world.run();
    world.converged(group, &[0, 1]);
    let text = world.text(1, group, document);
    assert!(text.contains(" ana") && text.contains(" ben"), "{text}");
    world.no_findings();
}

#[test]
fn a_member_who_leaves_is_committed_out_by_another_and_keeps_no_rows() {
    let mut world = World::new(2, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    world.create_document(group, 0, "hello");
    world.ask(1, Command::Leave { group });
    world.run();
    world.converged(group, &[0]);
    assert!(!world.info(1, group).unwrap().active);
    for prefix in [4, 5] {
        let prefix = [&[prefix][..], group.as_bytes()].concat();
        assert!(world.devices[1].rows.read(&prefix).is_empty());
    }
}

#[test]
fn an_invitation_can_be_declined_and_leaves_no_member_and_no_trace() {
    let mut world = World::new(3, &["ana", "ben"]);
    let group = world.create_group(0);
    let user = world.devices[1].user;
    let role = None;
    world.ask(0, Command::Invite { group, user, role });
    world.run();
    world.ask(1, Command::Decline { group });
    world.run();
    world.converged(group, &[0]);
    assert!(world.info(1, group).is_none());
    assert!(!world.state(group).is_member(&world.devices[1].id));
}

#[test]
fn who_left_can_be_invited_again() {
    let mut world = World::new(4, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    let document = world.create_document(group, 0, "hello");
    world.ask(1, Command::Leave { group });
    world.advance(120_000);
    world.invite(group, 0, 1, None);
    world.edit(1, group, document, " again");
    world.run();
    world.converged(group, &[0, 1]);
}

#[test]
fn a_command_for_a_document_that_goes_away_is_answered() {
    let mut world = World::new(5, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    let document = world.create_document(group, 0, "hello");
    // Ben waits, offline, for his edit to be acknowledged; meanwhile the document is deleted.
    world.go_offline(1);
    world.edit(1, group, document, " ben");
    let synced = world.command(1, Command::Synced { group, document });
    world.run();
    assert!(world.reply(1, synced).is_none());
    let reason = CloseReason::Deleted;
    let close = Command::Close {
        group,
        document,
        reason,
    };
    world.ask(0, close);
    world.go_online(1);
    world.run();
    let reply = world.reply(1, synced);
    assert!(
        matches!(reply, Some(Err(EngineError::Rescued { .. }))),
        "{reply:?}"
    );
}

#[test]
fn a_welcome_that_is_shown_again_changes_nothing() {
    let mut world = World::new(6, &["ana", "ben"]);
    let group = world.create_group(0);
    let user = world.devices[1].user;
    let role = None;
    world.ask(0, Command::Invite { group, user, role });
    world.run();
    let delivery = world.service.welcomes(&group)[0].clone();
    let again = || conclave_proto::frame::ServiceFrame::Welcome(delivery.clone());
    world.push(1, again());
    world.run();
    let shown = |event: &&Event| matches!(event, Event::Invitation { .. });
    assert_eq!(world.devices[1].events.iter().filter(shown).count(), 1);
    world.ask(1, Command::Accept { group });
    world.push(1, again());
    world.run();
    let document = world.create_document(group, 0, "hello");
    world.edit(1, group, document, " ben");
    world.push(1, again());
    world.run();
    world.converged(group, &[0, 1]);
    // Out of the group, the old Welcome leads nowhere: its key package is gone.
    let user = world.devices[1].user;
    world.ask(0, Command::Remove { group, user });
    world.run();
    world.push(1, again());
    world.run();
    assert!(matches!(
        world.call(1, Command::Accept { group }),
        Some(Err(_))
    ));
    assert!(!world.info(1, group).unwrap().active);
}

#[test]
fn commands_for_groups_and_documents_that_are_not_there_are_answered() {
    let mut world = World::new(7, &["ana"]);
    let group = world.create_group(0);
    let nowhere = conclave_proto::GroupId([1; 16]);
    let nothing = conclave_proto::DocumentId([1; 16]);
    let unknown = world.call(0, edit(nowhere, nothing, "x"));
    assert!(matches!(unknown, Some(Err(EngineError::UnknownGroup))));
    let unknown = world.call(0, edit(group, nothing, "x"));
    assert!(matches!(unknown, Some(Err(EngineError::UnknownDocument))));
}

/// Whoever may edit the directory can write into it with any program: what is no name is shown as none, and none is taken from here.
#[test]
fn a_title_that_hides_something_is_shown_with_it() {
    let mut world = World::new(61, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    let document = world.create_document(group, 0, "hello");
    let other = world.create_document(group, 0, "other");
    for (title, code) in [("Bo\u{202e}ard", "name.control"), (" x", "name.untrimmed")] {
        let title = title.to_owned();
        let rename = Command::Rename {
            group,
            document,
            title,
        };
        match world.call(1, rename) {
            Some(Err(error)) => assert_eq!(error.code(), code),
            other => panic!("{other:?}"),
        }
    }
    let key = PathElement::Key(document.to_string());
    let f = Box::new(move |crdt: &mut dyn conclave_crdt::Crdt| {
        let title = serde_json::json!("min\u{202e}utes\u{7}");
        crdt.json().unwrap().put(&[key], &title)
    });
    let directory = DocumentId::directory(&group);
    let command = Command::Edit {
        group,
        document: directory,
        f,
    };
    world.ask(1, command);
    world.run();
    let Reply::Documents(listed) = world.ask(0, Command::Documents { group }) else {
        panic!("no documents")
    };
    let title = |id| {
        let mut listed = listed.iter();
        listed.find(|it| it.document == id).unwrap().title.clone()
    };
    assert_eq!(title(document).unwrap(), "min\\u{202e}utes\\u{7}");
    assert!(conclave_engine::is_escaped(&title(document).unwrap()));
    assert!(title(other).is_some());
    world.no_findings();
}

#[test]
fn who_waits_for_a_document_that_never_came_is_told_when_nothing_leads_to_it() {
    let mut world = World::new(31, &["ana", "ben"]);
    let group = world.create_group(0);
    world.invite(group, 0, 1, None);
    world.go_offline(1);
    let document = world.create_document(group, 0, "hello");
    world.go_online(1);
    // It is in Ben's list of documents, and the connection goes before it has come.
    world.until(|world| world.is_sending(1, "open"));
    world.go_offline(1);

    let view = |text: &'static str| edit(group, document, text);
    let waiting = world.command(1, view(" early"));
    let synced = world.command(1, Command::Synced { group, document });
    // It may come back soon.
    assert!(world.reply(1, waiting).is_none());
    for _ in 0..2 {
        world.input(1, Input::Unreachable);
        let told = world.reply(1, waiting).unwrap();
        assert!(matches!(told, Err(EngineError::NotHere)), "{told:?}");
    }
    let told = world.call(1, view(" late")).unwrap();
    assert!(matches!(told, Err(EngineError::NotHere)), "{told:?}");
    let Reply::Documents(listed) = world.ask(1, Command::Documents { group }) else {
        panic!("no list");
    };
    assert!(listed.iter().all(|it| it.size.is_none()), "{listed:?}");
    assert!(world.reply(1, synced).is_none());

    world.go_online(1);
    world.run();
    assert!(matches!(world.reply(1, synced), Some(Ok(_))));
    world.edit(1, group, document, " ben");
    // What is here is read and edited wherever the service is.
    world.go_offline(1);
    world.input(1, Input::Unreachable);
    world.edit(1, group, document, " alone");
    assert_eq!(world.text(1, group, document), "hello ben alone");
    world.no_findings();
}
