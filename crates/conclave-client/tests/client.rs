//! The embedding API over the real engine and a real store, without a service.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;

use conclave_client::proto::{DocumentId, GroupId, GroupPolicy, RealmId, UserId};
use conclave_client::store::{DATABASE_NAME, PassphraseCost, StoreError};
use conclave_client::{
    Any, Automerge, Client, Config, CrdtError, CrdtKind, Document, EngineError, Error, Event,
    Group, Setup, Yrs,
};
use futures_util::StreamExt as _;
use yrs::{GetString as _, Text as _, Transact as _};

const REALM: RealmId = RealmId([7; 16]);

fn config(folder: &Path) -> Config {
    Config::offline(folder)
        .passphrase("right")
        .passphrase_cost(PassphraseCost::insecure_for_tests())
}

async fn ana(folder: &Path) -> Client {
    let setup = Setup::NewUser {
        name: "Ana".to_owned(),
        realm: REALM,
    };
    Client::create(config(folder), setup).await.unwrap()
}

fn store_error(error: &Error) -> &StoreError {
    match error {
        Error::Store(error) => error,
        other => panic!("no error of the store: {other:?}"),
    }
}

async fn notes_title(group: &Group) -> Option<String> {
    group.documents().await.unwrap().remove(0).title
}

async fn text(document: &Document<Any>) -> String {
    document
        .read(|doc| doc.text().ok_or(CrdtError::InvalidArgument)?.text())
        .await
        .unwrap()
}

/// Asks until the answer is there: names and titles lie in a document of the group, which is loaded when it is first needed.
async fn until<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), asking)
        .await
        .unwrap()
}

#[tokio::test]
async fn edits_and_groups_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let who = client.whoami().await.unwrap();
    assert!(who.enrolled && who.holds_user_key && who.name == "Ana");
    let group = client
        .create_group("Board", GroupPolicy::default())
        .await
        .unwrap();
    let notes = group.create_document::<Yrs>("minutes").await.unwrap();
    let length = notes
        .edit(|doc| {
            let text = doc.doc().get_or_insert_text("text");
            let mut transaction = doc.doc().transact_mut();
            text.insert(&mut transaction, 0, "Present: Ana");
            Ok(text.get_string(&transaction).len())
        })
        .await
        .unwrap();
    assert_eq!(length, 12);
    assert!(notes.pending().await.unwrap() > 0);
    client.close().await.unwrap();
    assert!(matches!(client.whoami().await, Err(Error::Closed)));
    client.close().await.unwrap();

    let client = Client::open(config(folder.path())).await.unwrap();
    assert_eq!(client.whoami().await.unwrap().user, who.user);
    let group = client.group(&group.id()).await.unwrap();
    assert_eq!(until(async || group.name().await.unwrap()).await, "Board");
    assert_eq!(group.members().await.unwrap().len(), 1);
    assert_eq!(group.documents().await.unwrap().len(), 1);
    assert_eq!(until(async || notes_title(&group).await).await, "minutes");
    let notes = group.document::<Yrs>(&notes.id()).await.unwrap();
    assert_eq!(text(&notes.as_any()).await, "Present: Ana");
    notes.rename("protocol").await.unwrap();
    assert_eq!(
        notes.info().await.unwrap().title.as_deref(),
        Some("protocol")
    );
    client.close().await.unwrap();
}

/// The device has a thread of its own: no flavour of the application's runtime, nor none at all, may block it.
#[test]
fn any_runtime_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let current = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = current.block_on(ana(folder.path()));
    drop(current);
    let multi = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let group = multi
        .block_on(client.create_group("Board", GroupPolicy::default()))
        .unwrap();
    drop(multi);
    let bare = futures_util::FutureExt::now_or_never(async { client.folder().to_owned() });
    assert_eq!(bare.unwrap(), folder.path());
    let bare = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    bare.block_on(async {
        group.create_document::<Automerge>("list").await.unwrap();
        client.close().await.unwrap();
    });
}

#[tokio::test]
async fn what_is_not_there_is_refused_by_type() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Client::open(config(folder.path())).await.unwrap_err();
    assert!(matches!(store_error(&missing), StoreError::Missing { .. }));
    assert_eq!(missing.code(), "store.missing");

    let client = ana(folder.path()).await;
    assert!(matches!(
        client.group(&GroupId::ZERO).await,
        Err(Error::NoGroup(_))
    ));
    let group = client
        .create_group("Board", GroupPolicy::default())
        .await
        .unwrap();
    assert!(matches!(
        group.document::<Any>(&DocumentId::ZERO).await,
        Err(Error::NoDocument(_))
    ));
    let notes = group.create_document::<Yrs>("minutes").await.unwrap();
    let wrong = group.document::<Automerge>(&notes.id()).await;
    assert!(matches!(
        wrong,
        Err(Error::WrongKind {
            wanted: CrdtKind::Automerge
        })
    ));
    let stranger = group.invite(&UserId::ZERO).await;
    assert!(
        matches!(stranger, Err(Error::Engine(EngineError::NotVerified(_)))),
        "{stranger:?}"
    );
    assert!(client.verify("conclave:user:nonsense", true).await.is_err());
    assert!(client.invitations().await.unwrap().is_empty());
    assert!(client.accept(&GroupId::ZERO).await.is_err());

    let setup = Setup::NewUser {
        name: "Ben".to_owned(),
        realm: REALM,
    };
    let again = Client::create(config(folder.path()), setup.clone())
        .await
        .unwrap_err();
    assert!(matches!(store_error(&again), StoreError::InUse { .. }));
    client.close().await.unwrap();
    let again = Client::create(config(folder.path()), setup)
        .await
        .unwrap_err();
    assert!(matches!(store_error(&again), StoreError::Exists { .. }));
    let wrong = Client::open(config(folder.path()).passphrase("wrong"))
        .await
        .unwrap_err();
    assert!(matches!(store_error(&wrong), StoreError::WrongSecret));
    let bad = Config::new(folder.path(), "https://ds.example").passphrase("right");
    assert!(matches!(Client::open(bad).await, Err(Error::Endpoint(_))));
    // None of these attempts left the store locked or changed.
    let client = Client::open(config(folder.path())).await.unwrap();
    assert_eq!(client.whoami().await.unwrap().name, "Ana");
}

#[tokio::test]
async fn a_failing_edit_changes_nothing_and_a_panicking_one_is_contained() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let group = client
        .create_group("Board", GroupPolicy::default())
        .await
        .unwrap();
    let notes = group
        .create_document::<Yrs>("minutes")
        .await
        .unwrap()
        .as_any();
    let write = |words: &'static str| {
        notes.edit(move |doc| {
            doc.text()
                .ok_or(CrdtError::InvalidArgument)?
                .splice(0, 0, words)
        })
    };
    write("first").await.unwrap();
    let out_of_range = notes
        .edit(|doc| {
            doc.text()
                .ok_or(CrdtError::InvalidArgument)?
                .splice(99, 0, "x")
        })
        .await;
    assert!(
        matches!(out_of_range, Err(Error::Engine(_))),
        "{out_of_range:?}"
    );
    let panicked: Result<(), Error> = notes
        .edit(|doc| {
            doc.text()
                .ok_or(CrdtError::InvalidArgument)?
                .splice(0, 0, "half done ")?;
            panic!("a mistake of the application")
        })
        .await;
    assert!(matches!(panicked, Err(Error::Engine(_))), "{panicked:?}");
    let panicked: Result<(), Error> = notes.read(|_| panic!("a mistake of the application")).await;
    assert!(panicked.is_err());
    // The client lives, and the document is what was durable.
    assert_eq!(text(&notes).await, "first");
    write("second ").await.unwrap();
    assert_eq!(text(&notes).await, "second first");
    client.close().await.unwrap();
    let client = Client::open(config(folder.path())).await.unwrap();
    let notes = client
        .group(&group.id())
        .await
        .unwrap()
        .document::<Any>(&notes.id())
        .await
        .unwrap();
    assert_eq!(text(&notes).await, "second first");
}

#[tokio::test]
async fn many_edits_at_once_all_land() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let group = client
        .create_group("Board", GroupPolicy::default())
        .await
        .unwrap();
    let notes = group
        .create_document::<Automerge>("log")
        .await
        .unwrap()
        .as_any();
    // Far more than the queue holds.
    let edits = (0..600).map(|_| {
        notes.edit(|doc| {
            doc.text()
                .ok_or(CrdtError::InvalidArgument)?
                .splice(0, 0, "x")
        })
    });
    let done = futures_util::future::join_all(edits).await;
    assert!(done.iter().all(Result::is_ok));
    drop(client);
    assert_eq!(text(&notes).await.len(), 600);
}

#[tokio::test]
async fn events_come_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let group = client
        .create_group("Board", GroupPolicy::default())
        .await
        .unwrap();
    let notes = group.create_document::<Yrs>("minutes").await.unwrap();
    let (mut events, changes) = (client.events(), notes.changes());
    let waiting = client.clone();
    let online = tokio::spawn(async move { waiting.online().await });
    let removal = group.remove(&UserId::ZERO).await;
    assert!(
        matches!(removal, Err(Error::Engine(EngineError::UnknownMember))),
        "{removal:?}"
    );
    client.close().await.unwrap();
    while let Some(event) = events.next().await {
        if let Event::Stopped { error } = event {
            assert_eq!(error, None);
            break;
        }
    }
    assert!(events.next().await.is_none());
    assert!(changes.collect::<Vec<_>>().await.is_empty());
    assert!(matches!(online.await.unwrap(), Err(Error::Closed)));
}

#[tokio::test]
async fn dropping_the_last_handle_gives_the_store_back() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let mut events = client.events();
    drop(client);
    while events.next().await.is_some() {}
    Client::open(config(folder.path())).await.unwrap();
}

#[tokio::test]
async fn another_passphrase_takes_over() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let new = conclave_client::store::Unlock::Passphrase {
        passphrase: zeroize::Zeroizing::new("new".to_owned()),
        cost: PassphraseCost::insecure_for_tests(),
    };
    client.change_secret(new).await.unwrap();
    client.close().await.unwrap();
    let old = Client::open(config(folder.path())).await.unwrap_err();
    assert!(matches!(store_error(&old), StoreError::WrongSecret));
    Client::open(config(folder.path()).passphrase("new"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_damaged_store_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    ana(folder.path()).await.close().await.unwrap();
    let path = folder.path().join(DATABASE_NAME);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    for byte in &mut bytes[last - 200..] {
        *byte ^= 1;
    }
    std::fs::write(&path, bytes).unwrap();
    let error = Client::open(config(folder.path())).await.unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
}

/// A second device, from request to approval, without any service.
#[tokio::test]
async fn a_second_device_is_enrolled_by_texts() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("laptop"), folder.path().join("phone"));
    let laptop = ana(&first).await;
    let setup = Setup::NewDevice {
        name: "phone".to_owned(),
        realm: REALM,
    };
    let phone = Client::create(config(&second), setup).await.unwrap();
    let refused = phone.create_group("Board", GroupPolicy::default()).await;
    assert!(
        matches!(refused, Err(Error::Engine(EngineError::NotEnrolled))),
        "{refused:?}"
    );
    let approval = laptop
        .approve_device(&phone.device_request().await.unwrap())
        .await
        .unwrap();
    phone.finish_device(&approval).await.unwrap();
    assert_eq!(
        phone.whoami().await.unwrap().user,
        laptop.whoami().await.unwrap().user
    );
    assert_eq!(laptop.devices().await.unwrap().len(), 2);
    phone
        .create_group("Board", GroupPolicy::default())
        .await
        .unwrap();
}

#[test]
fn debug_of_a_configuration_prints_no_secret() {
    let config = Config::new("/somewhere", "wss://ds.example")
        .passphrase("hunter2")
        .token("open sesame");
    let text = format!("{config:?}");
    assert!(
        !text.contains("hunter2") && !text.contains("sesame") && text.contains("ds.example"),
        "{text}"
    );
}
