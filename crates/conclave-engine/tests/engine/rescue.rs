//! Own edits that lose their place are kept apart, in the batch that drops them: whatever it is that takes the place away, and wherever the
//! device dies meanwhile.

use conclave_crdt::{Crdt, CrdtKind};
use conclave_engine::{
    Command, EngineError, Event, FindingInfo, Inserted, OperationId, Reply, Rescue, RescueApplied,
    RescueCause, RescueInfo,
};
use conclave_proto::record::CloseReason;
use conclave_proto::{DocumentId, GroupId, GroupPolicy, RescueId, Role};
use serde_json::{Value, json};

use crate::short::second_device;
use crate::world::{Crash, Saved, World, create};

const ANA: usize = 0;
const BEN: usize = 1;
const SEED: u64 = 23;
const OWN: &str = " <ben was here>";

/// What takes the place of Ben's edits away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Deleted,
    Archived,
    Lost,
    Removed,
    Viewer,
}

const FATES: [Fate; 5] = [
    Fate::Deleted,
    Fate::Archived,
    Fate::Lost,
    Fate::Removed,
    Fate::Viewer,
];

impl Fate {
    fn cause(self) -> RescueCause {
        match self {
            Self::Deleted => RescueCause::Deleted,
            Self::Archived => RescueCause::Archived,
            Self::Lost => RescueCause::Lost,
            Self::Removed => RescueCause::Removed,
            Self::Viewer => RescueCause::RoleLost,
        }
    }

    fn act(self, world: &mut World, group: GroupId, document: DocumentId) {
        let user = world.devices[BEN].user;
        let close = |reason| Command::Close {
            group,
            document,
            reason,
        };
        let command = match self {
            Self::Deleted => close(CloseReason::Deleted),
            Self::Archived => close(CloseReason::Archived),
            Self::Lost => close(CloseReason::Lost),
            Self::Removed => Command::Remove { group, user },
            Self::Viewer => Command::SetRole {
                group,
                user,
                role: Role::Viewer,
            },
        };
        world.ask(ANA, command);
    }
}

/// Ana and Ben in a group with a text; Ben has written without a connection, and was started again since.
fn begun() -> (World, GroupId, DocumentId) {
    let mut world = World::new(SEED, &["ana", "ben"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Editor));
    let document = world.create_document(group, ANA, "the secret of ana");
    assert_eq!(world.text(BEN, group, document), "the secret of ana");
    world.go_offline(BEN);
    world.edit(BEN, group, document, OWN);
    world.edit(BEN, group, document, "!");
    world.restart(BEN);
    (world, group, document)
}

fn rescues(world: &mut World, at: usize) -> Vec<RescueInfo> {
    for _ in 0..2 {
        match world.call(at, Command::Rescues) {
            Some(Ok(Reply::Rescues(all))) => return all,
            None => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("no answer")
}

fn rescue(world: &mut World, at: usize, rescue: RescueId) -> Rescue {
    match world.ask(at, Command::Rescue { rescue }) {
        Reply::Rescue(rescue) => *rescue,
        other => panic!("{other:?}"),
    }
}

fn words(rescue: &Rescue) -> String {
    let inserted = rescue.words.iter().map(|word| match &word.inserted {
        Inserted::Text(text) | Inserted::Value(text) => text.as_str(),
        Inserted::Nothing | Inserted::Moved => "",
    });
    inserted.collect()
}

/// Whether anything in a device's store holds these bytes in the clear.
fn holds(world: &World, at: usize, text: &str) -> bool {
    let rows = &world.devices[at].rows.0;
    rows.values().any(|value| {
        value
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    })
}

#[test]
fn own_edits_outlive_whatever_takes_their_place_away() {
    for fate in FATES {
        let (mut world, group, document) = begun();
        fate.act(&mut world, group, document);
        world.run();
        world.go_online(BEN);
        world.run();
        let all = rescues(&mut world, BEN);
        assert_eq!(all.len(), 1, "{fate:?}: {all:?}");
        let info = &all[0];
        assert_eq!(info.cause, fate.cause());
        assert_eq!((info.group, info.document), (group, document), "{fate:?}");
        assert_eq!(info.title.as_deref(), Some("minutes"), "{fate:?}");
        assert_eq!(info.group_name.as_deref(), Some("Board"), "{fate:?}");
        assert_eq!(info.changes, 2, "{fate:?}");
        let by_ana = matches!(fate, Fate::Deleted | Fate::Lost | Fate::Removed);
        assert_eq!(info.by_name.as_deref(), by_ana.then_some("ana"), "{fate:?}");
        let kept = rescue(&mut world, BEN, info.id);
        assert_eq!(words(&kept), format!("{OWN}!"), "{fate:?}");
        let parting = fate == Fate::Removed;
        assert_eq!(kept.updates.is_empty(), parting, "{fate:?}");
        assert!(
            kept.words
                .iter()
                .all(|word| word.around.is_some() != parting),
            "{fate:?}"
        );
        let told = world.devices[BEN].events.iter();
        let told = told
            .filter(|event| matches!(event, Event::Rescued { .. }))
            .count();
        assert_eq!(told, 1, "{fate:?}");
        let findings = world.findings(BEN);
        let found = findings
            .iter()
            .any(|text| text.starts_with("document.rescued"));
        assert!(found, "{fate:?}: {findings:?}");
        if matches!(fate, Fate::Archived | Fate::Viewer) {
            // What is shown is what the group has, and waiting for it ends.
            assert_eq!(world.text(BEN, group, document), "the secret of ana");
        }
        if fate == Fate::Viewer {
            world.ask(BEN, Command::Synced { group, document });
        }
        if matches!(fate, Fate::Removed | Fate::Deleted | Fate::Lost) {
            let prefix = [&[5], group.as_bytes(), document.as_bytes()].concat();
            assert!(world.devices[BEN].rows.read(&prefix).is_empty(), "{fate:?}");
        }
        // It outlives a restart.
        world.restart(BEN);
        assert_eq!(rescues(&mut world, BEN), all, "{fate:?}");
    }
}

#[test]
fn nothing_of_the_groups_content_stays_after_a_removal() {
    let (mut world, group, document) = begun();
    assert!(holds(&world, BEN, "the secret of ana"));
    // Between his own words stands what Ana wrote.
    world.edit(ANA, group, document, " and more of it");
    world.run();
    Fate::Removed.act(&mut world, group, document);
    world.go_online(BEN);
    world.run();
    assert_eq!(rescues(&mut world, BEN).len(), 1);
    assert!(holds(&world, BEN, OWN));
    for content in ["secret", "of ana", "more of it"] {
        assert!(!holds(&world, BEN, content), "{content}");
    }
}

/// Edits a document as a plain program does.
fn change(
    world: &mut World,
    at: usize,
    (group, document): (GroupId, DocumentId),
    f: impl FnOnce(&mut dyn Crdt) + Send + 'static,
) {
    let f = Box::new(move |crdt: &mut dyn Crdt| {
        f(crdt);
        Ok(())
    });
    world.ask(at, Command::Edit { group, document, f });
}

fn put_json(crdt: &mut dyn Crdt, value: &Value) {
    let view = crdt.json().unwrap();
    view.merge_json(value).unwrap();
}

/// Ana's list, and what Ben makes of it without a connection: a row of his own on top, and one of hers ticked.
fn begun_with_rows(kind: CrdtKind) -> (World, GroupId, DocumentId) {
    let row = |title: &str, done: bool| json!({"title": title, "done": done});
    let mut world = World::new(SEED, &["ana", "ben"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Editor));
    let rows = json!({"rows": [row("secret one", false), row("secret two", false)]});
    let command = Command::CreateDocument {
        group,
        kind,
        title: "plan".to_owned(),
        initial: Some(Box::new(move |crdt| {
            put_json(crdt, &rows);
            Ok(())
        })),
    };
    let Reply::Document(document) = world.ask(ANA, command) else {
        panic!("no document")
    };
    world.run();
    world.text(BEN, group, document);
    world.go_offline(BEN);
    let mine =
        json!({"rows": [row("own", false), row("secret one", false), row("secret two", true)]});
    change(&mut world, BEN, (group, document), move |crdt| {
        put_json(crdt, &mine)
    });
    (world, group, document)
}

#[test]
fn nothing_of_the_groups_rows_stays_after_a_removal() {
    for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
        let (mut world, group, document) = begun_with_rows(kind);
        assert!(holds(&world, BEN, "secret"));
        Fate::Removed.act(&mut world, group, document);
        world.go_online(BEN);
        world.run();
        let all = rescues(&mut world, BEN);
        assert_eq!(all.len(), 1, "{kind}");
        let kept = rescue(&mut world, BEN, all[0].id);
        assert!(words(&kept).contains("own"), "{kind}");
        assert_eq!((kept.words_tell_all, kept.updates.len()), (true, 0));
        assert!(!holds(&world, BEN, "secret"), "{kind}");
    }
}

#[test]
fn rows_are_written_where_they_belong_by_then() {
    for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
        let (mut world, group, document) = begun_with_rows(kind);
        Fate::Viewer.act(&mut world, group, document);
        world.go_online(BEN);
        world.run();
        let id = rescues(&mut world, BEN)[0].id;
        let row = |title: &str, done: bool| json!({"title": title, "done": done});
        let more = json!({"rows": [
            row("secret zero", false), row("secret one", false), row("secret two", false)]});
        change(&mut world, ANA, (group, document), move |crdt| {
            put_json(crdt, &more)
        });
        let user = world.devices[BEN].user;
        let role = Role::Editor;
        world.ask(ANA, Command::SetRole { group, user, role });
        world.run();
        let all_written = RescueApplied {
            changed: true,
            left: 0,
            untold: false,
        };
        assert_eq!(apply(&mut world, id, (group, document)), all_written);
        world.run();
        change(&mut world, ANA, (group, document), move |crdt| {
            let shown = crdt.json().unwrap().to_json().unwrap();
            let wanted = json!([
                row("secret zero", false),
                row("own", false),
                row("secret one", false),
                row("secret two", true)
            ]);
            assert_eq!(shown["rows"], wanted, "{kind}");
        });
        assert_eq!(rescues(&mut world, BEN), []);
    }
}

fn apply(
    world: &mut World,
    rescue: RescueId,
    (group, document): (GroupId, DocumentId),
) -> RescueApplied {
    let command = Command::ApplyRescue {
        rescue,
        group,
        document,
    };
    match world.ask(BEN, command) {
        Reply::RescueApplied(applied) => applied,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_could_not_be_written_stays_in_the_copy() {
    let mut world = World::new(SEED, &["ana", "ben"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Editor));
    let text = "keep this, drop that, and this too";
    let document = world.create_document(group, ANA, text);
    let other = world.create_document(group, ANA, "something else");
    world.text(BEN, group, document);
    world.go_offline(BEN);
    change(&mut world, BEN, (group, document), |crdt| {
        crdt.text()
            .unwrap()
            .replace_all("keep this, and this too")
            .unwrap();
    });
    Fate::Archived.act(&mut world, group, document);
    world.go_online(BEN);
    world.run();
    let id = rescues(&mut world, BEN)[0].id;
    let before = rescue(&mut world, BEN, id);
    // Nothing of what was deleted stands there.
    let nothing = RescueApplied {
        changed: false,
        left: 1,
        untold: false,
    };
    assert_eq!(apply(&mut world, id, (group, other)), nothing);
    assert_eq!(rescue(&mut world, BEN, id), before);
    // There it does.
    let same = world.create_document(group, ANA, "Keep this, drop that, and this too!");
    let applied = apply(&mut world, id, (group, same));
    assert_eq!((applied.changed, applied.left), (true, 0));
    assert_eq!(world.text(BEN, group, same), "Keep this, and this too!");
    assert_eq!(world.devices[BEN].rows.read(&[8]), []);
}

/// Makes a text bold, which no words tell.
fn embolden(crdt: &mut dyn Crdt, len: u32) {
    use yrs::{Any, Text, Transact};
    let yjs = crdt.as_any_mut().downcast_ref::<conclave_crdt::yjs::Yrs>();
    let doc = yjs.unwrap().doc();
    let text = doc.get_or_insert_text("text");
    let bold = [("bold".into(), Any::Bool(true))].into();
    text.format(&mut doc.transact_mut(), 0, len, bold);
}

#[test]
fn what_no_words_tell_stays_in_the_copy() {
    for fate in [Fate::Archived, Fate::Removed] {
        let (mut world, group, document) = begun();
        change(&mut world, BEN, (group, document), |crdt| embolden(crdt, 3));
        Fate::act(fate, &mut world, group, document);
        world.go_online(BEN);
        world.run();
        let id = rescues(&mut world, BEN)[0].id;
        let kept = rescue(&mut world, BEN, id);
        assert_eq!(
            (kept.words_tell_all, kept.updates.len()),
            (false, 3),
            "{fate:?}"
        );
        assert_eq!(words(&kept), format!("{OWN}!"), "{fate:?}");
        assert!(fate != Fate::Removed || !holds(&world, BEN, "secret"));
        let group = world.create_group(BEN);
        let other = world.create_document(group, BEN, "");
        let applied = apply(&mut world, id, (group, other));
        let written = RescueApplied {
            changed: true,
            left: 0,
            untold: true,
        };
        assert_eq!(applied, written, "{fate:?}");
        let kept = rescue(&mut world, BEN, id);
        assert_eq!((kept.words.len(), kept.updates.len()), (0, 3), "{fate:?}");
        world.restart(BEN);
        assert_eq!(rescue(&mut world, BEN, id), kept, "{fate:?}");
    }
}

#[test]
fn a_copy_that_was_only_read_is_in_no_row_of_operations() {
    let (mut world, group, document) = begun();
    Fate::Deleted.act(&mut world, group, document);
    world.go_online(BEN);
    world.run();
    let id = rescues(&mut world, BEN)[0].id;
    let mut number = 0;
    let mut once = |command| {
        number += 1;
        Command::Once {
            operation: OperationId([number; 16]),
            command: Box::new(command),
        }
    };
    for _ in 0..2 {
        let Reply::Rescue(kept) = world.ask(BEN, once(Command::Rescue { rescue: id })) else {
            panic!("no copy")
        };
        assert_eq!(words(&kept), format!("{OWN}!"));
        world.ask(BEN, once(Command::Rescues));
    }
    world.ask(BEN, once(Command::DiscardRescue { rescue: id }));
    assert_eq!(world.devices[BEN].rows.read(&[12]).len(), 1);
    assert!(!holds(&world, BEN, OWN) && !holds(&world, BEN, "minutes"));
}

#[test]
fn whoever_leaves_has_left_on_all_devices() {
    let mut world = World::new(SEED, &["ana", "ben"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Editor));
    let document = world.create_document(group, ANA, "text");
    let phone = second_device(&mut world, BEN);
    world.run();
    assert_eq!(world.text(phone, group, document), "text");
    world.go_offline(phone);
    world.edit(phone, group, document, OWN);
    let left = world.command(BEN, Command::Leave { group });
    world.run();
    assert!(matches!(world.reply(BEN, left), Some(Ok(Reply::Done))));
    world.go_online(phone);
    world.run();
    let all = rescues(&mut world, phone);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((all[0].cause, all[0].by), (RescueCause::Left, None));
}

#[test]
fn whoever_waits_is_told_what_became_of_the_edits() {
    for fate in [Fate::Deleted, Fate::Archived, Fate::Removed, Fate::Viewer] {
        let (mut world, group, document) = begun();
        fate.act(&mut world, group, document);
        let waits = world.command(BEN, Command::Synced { group, document });
        world.go_online(BEN);
        world.run();
        let all = rescues(&mut world, BEN);
        match world.reply(BEN, waits) {
            Some(Err(EngineError::Rescued { id })) => assert_eq!(id, all[0].id, "{fate:?}"),
            other => panic!("{fate:?}: {other:?}"),
        }
    }
}

#[test]
fn what_was_never_sent_is_kept_whole() {
    let (mut world, group, _) = begun();
    let Reply::Document(_) = world.ask(BEN, create(group, "notes", "all of it is ben's")) else {
        panic!("no document")
    };
    Fate::Removed.act(&mut world, group, DocumentId::ZERO);
    world.go_online(BEN);
    world.run();
    let all = rescues(&mut world, BEN);
    let titles: Vec<_> = all.iter().map(|info| info.title.as_deref()).collect();
    assert_eq!(all.len(), 2, "{titles:?}");
    let notes = all
        .iter()
        .find(|info| info.title.as_deref() == Some("notes"));
    let notes = rescue(&mut world, BEN, notes.unwrap().id);
    assert_eq!(words(&notes), "all of it is ben's");
    // The document itself is his as well.
    assert_eq!(notes.updates.len(), 1);
}

#[test]
fn a_copy_is_applied_once_and_a_discarded_one_is_gone() {
    let (mut world, group, document) = begun();
    Fate::Deleted.act(&mut world, group, document);
    world.go_online(BEN);
    world.run();
    let other = world.create_document(group, ANA, "another text");
    let id = rescues(&mut world, BEN)[0].id;
    let apply = |document| Command::ApplyRescue {
        rescue: id,
        group,
        document,
    };
    assert!(matches!(
        world.call(BEN, apply(document)),
        Some(Err(EngineError::UnknownDocument))
    ));
    world.ask(BEN, apply(other));
    assert!(matches!(
        world.call(BEN, apply(other)),
        Some(Err(EngineError::UnknownRescue))
    ));
    world.run();
    assert_eq!(
        world.text(ANA, group, other),
        format!("another text\n{OWN}!")
    );
    assert_eq!(rescues(&mut world, BEN), []);
    assert_eq!(world.devices[BEN].rows.read(&[8]), []);

    world.go_offline(BEN);
    world.edit(BEN, group, other, "lost for good");
    Fate::Archived.act(&mut world, group, other);
    world.go_online(BEN);
    world.run();
    let id = rescues(&mut world, BEN)[0].id;
    world.ask(BEN, Command::RescuesTold { rescues: vec![id] });
    world.restart(BEN);
    assert!(rescues(&mut world, BEN)[0].told);
    world.ask(BEN, Command::DiscardRescue { rescue: id });
    assert_eq!(world.devices[BEN].rows.read(&[8]), []);
}

/// An edit is in the outbox or in a copy, never in neither, never in two copies: at each output of the device, before and after its writes.
fn exhaust(saved: &Saved, fate: Fate) {
    let run = |crash: Option<Crash>| {
        let mut world = World::load(SEED, saved, crash);
        world.go_online(BEN);
        world.run();
        world
    };
    let outputs = run(None).devices[BEN].outputs;
    for output in 0..outputs {
        for written in [false, true] {
            let mut world = run(Some(Crash {
                device: BEN,
                output,
                written,
            }));
            assert!(world.crashed, "{fate:?}: it never came to output {output}");
            let all = rescues(&mut world, BEN);
            let told = format!("{fate:?}, output {output}, written {written}");
            assert_eq!(all.len(), 1, "{told}: {all:?}");
            let kept = rescue(&mut world, BEN, all[0].id);
            assert_eq!(words(&kept), format!("{OWN}!"), "{told}");
        }
    }
}

macro_rules! crashes {
    ($($name:ident: $fate:ident,)*) => {
        $(
            #[test]
            fn $name() {
                let (mut world, group, document) = begun();
                Fate::$fate.act(&mut world, group, document);
                world.run();
                exhaust(&world.save(), Fate::$fate);
            }
        )*
    };
}

crashes! {
    at_any_output_around_a_deleted_document: Deleted,
    at_any_output_around_an_archived_document: Archived,
    at_any_output_around_a_removal_with_unsent_edits: Removed,
    at_any_output_around_a_lost_role: Viewer,
}

#[test]
fn what_is_unsent_when_the_user_leaves_is_kept() {
    let mut world = World::new(SEED, &["ana", "ben"]);
    let group = world.create_group(BEN);
    let document = world.create_document(group, BEN, "text");
    world.go_offline(BEN);
    world.edit(BEN, group, document, OWN);
    world.restart(BEN);
    let left = world.command(BEN, Command::Leave { group });
    world.go_online(BEN);
    world.run();
    assert!(matches!(world.reply(BEN, left), Some(Ok(Reply::Done))));
    let all = rescues(&mut world, BEN);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].cause, RescueCause::Left);
    assert_eq!(words(&rescue(&mut world, BEN, all[0].id)), OWN);
    assert!(!world.info(BEN, group).is_some_and(|info| info.active));
}

/// Makes the copies of a device count for as much as there is room for.
fn fill(world: &mut World, at: usize) {
    let rows = &mut world.devices[at].rows.0;
    let (_, head) = rows
        .iter_mut()
        .find(|(key, _)| key.starts_with(&[8, b'h']))
        .unwrap();
    let mut value: ciborium::Value = ciborium::from_reader(head.as_slice()).unwrap();
    let field = |value: &mut ciborium::Value, name: &str, f: &dyn Fn(&mut ciborium::Value)| {
        let map = value.as_map_mut().unwrap();
        let found = map.iter_mut().find(|(key, _)| key.as_text() == Some(name));
        f(&mut found.unwrap().1);
    };
    field(&mut value, "info", &|info| {
        field(info, "bytes", &|bytes| *bytes = (256u64 << 20).into());
    });
    let mut bytes = Vec::new();
    ciborium::into_writer(&value, &mut bytes).unwrap();
    *head = bytes.into();
    world.restart(at);
}

#[test]
fn where_there_is_no_room_nothing_goes_before_there_is() {
    for fate in FATES {
        let (mut world, group, document) = begun();
        let other = world.create_document(group, ANA, "another text");
        Fate::Deleted.act(&mut world, group, document);
        world.go_online(BEN);
        world.run();
        fill(&mut world, BEN);
        world.run();
        world.go_offline(BEN);
        world.edit(BEN, group, other, OWN);
        world.restart(BEN);
        fate.act(&mut world, group, other);
        world.go_online(BEN);
        world.run();
        let full = rescues(&mut world, BEN);
        assert_eq!(full.len(), 1, "{fate:?}");
        let findings = world.findings(BEN);
        let told = findings.iter().any(|text| text.starts_with("rescue.full"));
        assert!(told, "{fate:?}: {findings:?}");
        let prefix = [&[5], group.as_bytes(), other.as_bytes(), b"o"].concat();
        assert!(
            !world.devices[BEN].rows.read(&prefix).is_empty(),
            "{fate:?}"
        );
        world.ask(BEN, Command::DiscardRescue { rescue: full[0].id });
        world.run();
        let all = rescues(&mut world, BEN);
        assert_eq!(all.len(), 1, "{fate:?}: {all:?}");
        assert_eq!(all[0].cause, fate.cause());
        assert_eq!(words(&rescue(&mut world, BEN, all[0].id)), OWN, "{fate:?}");
        let told = world.open_findings(BEN);
        assert!(
            told.iter().all(|it| !it.finding.what.is_state()),
            "{fate:?}: {told:?}"
        );
        // Nor is it said that something is kept when nothing is.
        world.ask(BEN, Command::DiscardRescue { rescue: all[0].id });
        let (group, dismissed) = (None, true);
        let Reply::Findings(told) = world.ask(BEN, Command::Findings { group, dismissed }) else {
            panic!("no findings")
        };
        let over = |it: &FindingInfo| it.settled || !it.finding.what.is_state();
        assert!(told.iter().all(over), "{fate:?}: {told:?}");
    }
}

#[test]
fn a_group_without_unsent_edits_ends_as_before() {
    let mut world = World::new(SEED, &["ana", "ben"]);
    let group = world.create_group_with(ANA, GroupPolicy::default());
    world.invite(group, ANA, BEN, None);
    let document = world.create_document(group, ANA, "text");
    world.edit(BEN, group, document, OWN);
    world.run();
    let user = world.devices[BEN].user;
    world.ask(ANA, Command::Remove { group, user });
    world.run();
    assert_eq!(rescues(&mut world, BEN), []);
    assert!(!world.info(BEN, group).is_some_and(|info| info.active));
}
