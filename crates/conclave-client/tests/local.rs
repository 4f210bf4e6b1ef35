//! The local socket: who may use it, and that it does what the store's own process would do.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use conclave_client::local::{LOCAL_FRAME_BYTES, LocalClient, LocalServer, SOCKET_NAME};
use conclave_client::proto::{DocumentId, GroupId, GroupPolicy, RealmId};
use conclave_client::store::{PassphraseCost, StoreError};
use conclave_client::{
    Client, Config, CrdtKind, Error, Event, FirstContent, Operation, Outcome, Session, Setup, View,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

fn config(folder: &Path) -> Config {
    Config::offline(folder)
        .passphrase("right")
        .passphrase_cost(PassphraseCost::insecure_for_tests())
}

fn setup() -> Setup {
    Setup::NewUser {
        name: "Ana".to_owned(),
        realm: RealmId([7; 16]),
    }
}

async fn text(session: &Session, group: GroupId, document: DocumentId) -> String {
    match session
        .run(Operation::Show {
            group,
            document,
            view: View::Text,
        })
        .await
        .unwrap()
    {
        Outcome::Text(text) => text,
        other => panic!("no text: {other:?}"),
    }
}

async fn new_document(
    session: &Session,
    group: GroupId,
    kind: CrdtKind,
    text: Option<&str>,
) -> DocumentId {
    let content = text.map(|text| FirstContent::Text(text.to_owned()));
    match session
        .run(Operation::CreateDocument {
            group,
            kind,
            title: "minutes".into(),
            content,
        })
        .await
        .unwrap()
    {
        Outcome::Document(id) => id,
        other => panic!("no document: {other:?}"),
    }
}

async fn new_group(session: &Session) -> GroupId {
    let operation = Operation::CreateGroup {
        name: "Board".into(),
        policy: Box::new(GroupPolicy::default()),
    };
    match session.run(operation).await.unwrap() {
        Outcome::Group(id) => id,
        other => panic!("no group: {other:?}"),
    }
}

#[tokio::test]
async fn a_second_session_works_through_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let first = Session::create(config(folder.path()), setup())
        .await
        .unwrap();
    let second = Session::open(config(folder.path())).await.unwrap();
    assert!(first.client().is_some() && second.client().is_none());

    let group = new_group(&second).await;
    let notes = new_document(&second, group, CrdtKind::Yjs, Some("one two three")).await;
    assert_eq!(text(&first, group, notes).await, "one two three");

    // What each did to its copy of the text survives the other's edit.
    let base = text(&second, group, notes).await;
    first
        .run(Operation::Splice {
            group,
            document: notes,
            position: 0,
            delete: 0,
            insert: "zero ".into(),
        })
        .await
        .unwrap();
    let edit = |base: Option<String>, text: &str| Operation::EditText {
        group,
        document: notes,
        base,
        text: text.into(),
    };
    second.run(edit(Some(base), "one 2 three")).await.unwrap();
    assert_eq!(text(&second, group, notes).await, "zero one 2 three");
    second.run(edit(None, "all new")).await.unwrap();
    assert_eq!(text(&first, group, notes).await, "all new");

    let lists = [
        Operation::WhoAmI,
        Operation::Status,
        Operation::Contacts,
        Operation::Devices,
        Operation::Groups,
        Operation::Invitations,
        Operation::Members { group },
        Operation::Documents { group },
    ];
    for operation in lists {
        let (here, there) = (
            first.run(operation.clone()).await.unwrap(),
            second.run(operation).await.unwrap(),
        );
        assert_eq!(
            serde_json::to_value(here).unwrap(),
            serde_json::to_value(there).unwrap()
        );
    }
    second.close().await.unwrap();
    assert_eq!(text(&first, group, notes).await, "all new");
    first.close().await.unwrap();
}

#[tokio::test]
async fn json_is_shown_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Session::create(config(folder.path()), setup())
        .await
        .unwrap();
    let session = Session::connect(folder.path()).await.unwrap();
    let group = new_group(&session).await;
    let document = new_document(&session, group, CrdtKind::Automerge, None).await;
    let edit = |base, value| Operation::EditJson {
        group,
        document,
        base,
        value,
    };
    session
        .run(edit(None, json!({"a": [1, 2], "b": "x y"})))
        .await
        .unwrap();
    session
        .run(edit(
            Some(json!({"a": [1, 2], "b": "x y"})),
            json!({"a": [1, 2, 3], "b": "x y"}),
        ))
        .await
        .unwrap();
    session
        .run(edit(
            Some(json!({"a": [1, 2], "b": "x y"})),
            json!({"a": [1, 2], "b": "w x y"}),
        ))
        .await
        .unwrap();
    match session
        .run(Operation::Show {
            group,
            document,
            view: View::Json,
        })
        .await
        .unwrap()
    {
        Outcome::Json(value) => assert_eq!(value, json!({"a": [1, 2, 3], "b": "w x y"})),
        other => panic!("no JSON: {other:?}"),
    }
}

#[tokio::test]
async fn errors_keep_their_codes_across_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let first = Session::create(config(folder.path()), setup())
        .await
        .unwrap();
    let second = Session::connect(folder.path()).await.unwrap();
    for operation in [
        Operation::Members {
            group: GroupId::ZERO,
        },
        Operation::Verify {
            name: None,
            contact: "nonsense".into(),
            verified: true,
        },
        Operation::WaitOnline { limit_ms: Some(1) },
    ] {
        let here = first.run(operation.clone()).await.unwrap_err();
        let there = second.run(operation).await.unwrap_err();
        assert_eq!(
            (here.code(), here.to_string(), here.is_retryable()),
            (there.code(), there.to_string(), there.is_retryable())
        );
        assert!(matches!(there, Error::Remote(_)));
    }
}

#[tokio::test]
async fn shutdown_is_answered_and_everybody_hears_it() {
    let folder = tempfile::tempdir().unwrap();
    let first = Session::create(config(folder.path()), setup())
        .await
        .unwrap();
    let second = Session::connect(folder.path()).await.unwrap();
    let (mut here, mut there) = (
        first.events().await.unwrap(),
        second.events().await.unwrap(),
    );
    assert!(matches!(
        second.run(Operation::Shutdown).await,
        Ok(Outcome::Done)
    ));
    assert!(matches!(
        here.next().await,
        Some(Event::Stopped { error: None })
    ));
    assert!(matches!(
        there.next().await,
        Some(Event::Stopped { error: None })
    ));
    assert!(there.next().await.is_none());
    assert!(matches!(
        first.run(Operation::Groups).await,
        Err(Error::Closed)
    ));
    assert!(!folder.path().join(SOCKET_NAME).exists());
    // The store is free again, and the late first session takes nothing away from the next one.
    let next = Session::open(config(folder.path())).await.unwrap();
    drop(first);
    assert!(next.client().is_some() && folder.path().join(SOCKET_NAME).exists());
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::create(config(folder.path()), setup())
        .await
        .unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let server = LocalServer::start(&client).unwrap();
    assert_eq!((mode(server.path()), mode(folder.path())), (0o600, 0o700));
    // One is enough; a second would take the first one's place away.
    assert!(matches!(
        LocalServer::start(&client),
        Err(Error::Local { .. })
    ));
    drop(server);
    assert!(!folder.path().join(SOCKET_NAME).exists());

    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(
        LocalServer::start(&client),
        Err(Error::Local { .. })
    ));
    assert!(!folder.path().join(SOCKET_NAME).exists());
}

#[tokio::test]
async fn a_socket_that_a_crash_left_behind_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::create(config(folder.path()), setup())
        .await
        .unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.path().join(SOCKET_NAME)).unwrap());
    assert!(matches!(
        LocalClient::connect(folder.path()).await,
        Err(Error::Local { .. })
    ));
    let _server = LocalServer::start(&client).unwrap();
    let other = LocalClient::connect(folder.path()).await.unwrap();
    assert!(matches!(
        other.run(Operation::Groups).await,
        Ok(Outcome::Groups(_))
    ));
}

#[tokio::test]
async fn a_store_in_use_without_a_socket_is_said_to_be_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let _client = Client::create(config(folder.path()), setup())
        .await
        .unwrap();
    let impatient = config(folder.path()).patience(Duration::from_millis(100));
    match Session::open(impatient).await {
        Err(Error::Store(error)) => assert!(matches!(*error, StoreError::InUse { .. })),
        other => panic!("not in use: {other:?}"),
    }
}

/// Whoever talks nonsense gets nowhere, and nobody else notices.
#[tokio::test]
async fn nonsense_on_the_socket_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::create(config(folder.path()), setup())
        .await
        .unwrap();
    let path = folder.path().join(SOCKET_NAME);
    let mut cases: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![0, 0, 0, 0],
        vec![0xff; 64],
        u32::try_from(LOCAL_FRAME_BYTES + 1)
            .unwrap()
            .to_be_bytes()
            .to_vec(),
        [vec![0, 0, 0, 100], vec![0xbf; 100]].concat(),
    ];
    // CBOR nested as deeply as one frame allows.
    cases.push([vec![0, 1, 0, 0], vec![0x81; 65536]].concat());
    for bytes in cases {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        // The other side may hang up before it has read everything.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(
            rest.is_empty(),
            "{} bytes answered {} bytes",
            bytes.len(),
            rest.len()
        );
    }
    let other_version = {
        let mut body = Vec::new();
        ciborium::into_writer(&json!({"version": 99, "listen": false}), &mut body).unwrap();
        [
            u32::try_from(body.len()).unwrap().to_be_bytes().to_vec(),
            body,
        ]
        .concat()
    };
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(&other_version).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let said: ciborium::Value = ciborium::from_reader(&answer[4..]).unwrap();
    assert!(
        format!("{said:?}").contains("client.local_version"),
        "{said:?}"
    );
    assert!(session.run(Operation::Groups).await.is_ok());
}

/// The process that has the store ends: whoever works through it goes on, with what had been asked for too.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_takes_the_store_over_when_its_owner_ends() {
    let folder = tempfile::tempdir().unwrap();
    let first = Session::create(config(folder.path()), setup())
        .await
        .unwrap();
    let (second, third) = (
        Session::open(config(folder.path())).await.unwrap(),
        Session::open(config(folder.path())).await.unwrap(),
    );
    let group = new_group(&second).await;
    let notes = new_document(&second, group, CrdtKind::Yjs, Some("one")).await;
    let mut events = third.events().await.unwrap();
    // Nothing comes to an end by itself here: this waits in the first process for a connection that never is.
    let waits = {
        let limit_ms = Some(60_000);
        second.run(Operation::WaitOnline { limit_ms })
    };
    let mut waits = Box::pin(waits);
    tokio::select! {
        biased;
        done = &mut waits => panic!("it ended: {done:?}"),
        who = third.run(Operation::WhoAmI) => drop(who.unwrap()),
    }
    first.close().await.unwrap();

    // The waiting call goes on waiting, in whichever of the two has the store now.
    let shown = tokio::select! {
        biased;
        done = &mut waits => panic!("it ended: {done:?}"),
        shown = text(&third, group, notes) => shown,
    };
    assert_eq!(shown, "one");
    drop(waits);
    loop {
        match events.next().await {
            Some(Event::HandedOver) => break,
            Some(Event::Stopped { .. }) | None => panic!("events ended"),
            Some(_) => {}
        }
    }
    let edit = Operation::EditText {
        group,
        document: notes,
        base: Some("one".into()),
        text: "one two".into(),
    };
    second.run(edit).await.unwrap();
    assert_eq!(text(&third, group, notes).await, "one two");
    assert!(second.client().is_some() != third.client().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_another_process_has_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let first = Session::create(config(folder.path()), setup())
        .await
        .unwrap();
    let second = Session::open(config(folder.path())).await.unwrap();
    assert!(second.client().is_none());
    let (closed, here) = tokio::join!(first.close(), second.here());
    closed.unwrap();
    here.unwrap();
    assert!(second.client().is_some());
    second.close().await.unwrap();
}

/// Many sessions at once, each gone as soon as it is done: every one does what it was asked, once.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_come_and_go_at_once_all_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let first = Session::create(config(folder.path()), setup())
        .await
        .unwrap();
    let group = new_group(&first).await;
    let notes = new_document(&first, group, CrdtKind::Yjs, Some("")).await;
    first.close().await.unwrap();
    let mut all = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let config = config(folder.path()).patience(Duration::from_secs(60));
        all.spawn(async move {
            for _ in 0..10 {
                let session = Session::open(config.clone()).await.unwrap();
                let insert = format!("{writer}");
                let splice = Operation::Splice {
                    group,
                    document: notes,
                    position: 0,
                    delete: 0,
                    insert,
                };
                session.run(splice).await.unwrap();
                session.close().await.unwrap();
            }
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    let last = Session::open(config(folder.path())).await.unwrap();
    let shown = text(&last, group, notes).await;
    for writer in ["0", "1", "2", "3"] {
        assert_eq!(shown.matches(writer).count(), 10, "{shown}");
    }
}

#[tokio::test]
async fn what_is_only_begun_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let first = Session::create(config(folder.path()), setup())
        .await
        .unwrap();
    let second = Session::connect(folder.path()).await.unwrap();
    let group = new_group(&second).await;
    let role = conclave_client::proto::Role::Viewer;
    let user = first
        .client()
        .unwrap()
        .whoami()
        .await
        .unwrap()
        .user
        .unwrap();
    // Nothing is ordered without a service: it is answered when it is remembered.
    let wanted = Operation::SetRole { group, user, role };
    assert!(second.begin(wanted.clone()).await.unwrap().is_none());
    let limit = Duration::from_millis(50);
    assert!(second.run_within(wanted, limit).await.unwrap().is_none());
    match first.run(Operation::Status).await.unwrap() {
        Outcome::Status(status) => assert_eq!(status.intents, 2),
        other => panic!("no status: {other:?}"),
    }
}
