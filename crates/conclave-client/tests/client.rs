//! The embedding API over the real engine and a real store, without a service.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;

use conclave_client::naming::{is_document_id, unreadable};
use conclave_client::proto::{DocumentId, GroupId, GroupPolicy, RealmId, UserId};
use conclave_client::store::{DATABASE_NAME, PassphraseCost, Store, StoreError, Unlock};
use conclave_client::{
    Any, Approval, Automerge, Client, Config, Crdt, CrdtError, CrdtKind, Document, EditError,
    EngineError, Error, Event, Group, GroupInfo, Setup, Yrs,
};
use conclave_engine::WriteBatch;
use futures_util::{FutureExt as _, StreamExt as _};
use yrs::{GetString as _, Map as _, Text as _, Transact as _};
use zeroize::Zeroizing;

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
            Ok::<_, CrdtError>(text.get_string(&transaction).len())
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

/// Why the application of these tests gives an edit up.
#[derive(Debug, PartialEq)]
struct TooLate {
    by_days: u32,
}

fn insert(doc: &mut dyn Crdt, words: &str) -> Result<(), CrdtError> {
    let text = doc.text().ok_or(CrdtError::InvalidArgument)?;
    text.splice(0, 0, words)
}

async fn notes_with(client: &Client, words: &'static str) -> Document<Any> {
    let policy = GroupPolicy::default();
    let group = client.create_group("Board", policy).await.unwrap();
    let notes = group.create_document::<Yrs>("minutes").await.unwrap();
    let notes = notes.as_any();
    notes.edit(|doc| insert(doc, words)).await.unwrap();
    notes
}

#[tokio::test]
async fn what_an_edit_gives_back_comes_back_and_an_error_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let notes = notes_with(&client, "first").await;
    let refused = notes
        .edit(|doc| {
            insert(doc, "half done ").unwrap();
            Err::<(), _>(TooLate { by_days: 3 })
        })
        .await;
    let Err(EditError::Closure(why)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(why, TooLate { by_days: 3 });
    let read = notes.read(|_| Err::<(), _>(TooLate { by_days: 1 })).await;
    assert!(matches!(
        read,
        Err(EditError::Closure(TooLate { by_days: 1 }))
    ));
    let out_of_range = notes
        .edit(|doc| {
            doc.text()
                .ok_or(CrdtError::InvalidArgument)?
                .splice(99, 0, "x")
        })
        .await;
    assert!(matches!(
        out_of_range,
        Err(EditError::Closure(CrdtError::InvalidArgument))
    ));
    // A value that no record has room for: the closure succeeded, and nothing of it stays.
    let group = client.group(&notes.group().id()).await.unwrap();
    let large = group.document::<Yrs>(&notes.id()).await.unwrap();
    let large = large
        .edit(|doc| {
            let map = doc.doc().get_or_insert_map("json");
            let mut transaction = doc.doc().transact_mut();
            map.insert(&mut transaction, "large", "x".repeat(2 * 1024 * 1024));
            Ok::<_, TooLate>(())
        })
        .await;
    assert!(
        matches!(&large, Err(EditError::Client(error)) if error.code() == "doc.crdt"),
        "{large:?}"
    );
    assert_eq!(text(&notes).await, "first");
    assert_eq!(notes.edit(|_| Ok::<_, TooLate>(7)).await.unwrap(), 7);
    reopened(client, folder.path(), &notes, "first").await;
}

#[tokio::test]
async fn a_title_is_one_document_or_several_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let group = async |name| {
        let policy = GroupPolicy::default();
        client.create_group(name, policy).await.unwrap()
    };
    let (board, legal) = (group("Board").await, group("Legal").await);
    let plans = board.create_document::<Yrs>("Plans").await.unwrap();
    let minutes = board.create_document::<Yrs>("Minutes").await.unwrap();
    let other = legal.create_document::<Yrs>("plans").await.unwrap();

    let of = |document: &Document<Yrs>| (document.group().id(), document.id());
    let found = |found: Result<Document<Yrs>, Error>| match found {
        Ok(document) => Ok(vec![of(&document)]),
        Err(Error::Ambiguous(mut several)) => {
            several.sort_unstable();
            Err(several)
        }
        Err(error) => panic!("{error:?}"),
    };
    // In one group, in any spelling; a Cyrillic letter looks like one of these.
    for typed in ["plans", "PLANS", "pl\u{430}ns"] {
        let in_board = board.document_by_title::<Yrs>(typed).await;
        assert_eq!(found(in_board), Ok(vec![of(&plans)]), "{typed}");
        // In all groups nobody can tell.
        let mut both = vec![of(&plans), of(&other)];
        both.sort_unstable();
        let anywhere = client.find_document::<Yrs>(typed).await;
        assert_eq!(found(anywhere), Err(both), "{typed}");
    }
    let id = other.id().to_string();
    for (typed, document) in [("minutes", &minutes), (&id, &other), (&id[..12], &other)] {
        let found = found(client.find_document::<Yrs>(typed).await);
        assert_eq!(found, Ok(vec![of(document)]), "{typed}");
    }
    let absent = client.find_document::<Yrs>("agenda").await;
    assert!(matches!(absent, Err(Error::NotFound)));
    let kind = client.find_document::<Automerge>("minutes").await;
    assert!(matches!(kind, Err(Error::WrongKind { .. })));

    // Where names in one group cannot be read, a name says nothing of the others.
    let mut groups = client.groups().await.unwrap();
    assert!(unreadable(&groups, |_| true).is_none());
    let unlisted = |info: &GroupInfo| info.group != legal.id();
    let first = |found: Option<&GroupInfo>| found.map(|info| info.group);
    assert_eq!(first(unreadable(&groups, unlisted)), Some(legal.id()));
    for info in &mut groups {
        info.nameless = info.group == board.id();
    }
    assert_eq!(first(unreadable(&groups, |_| true)), Some(board.id()));
    assert!(is_document_id(&id) && !is_document_id(&id[..12]) && !is_document_id("plans"));
    client.close().await.unwrap();
}

/// Whoever makes names unreadable in one group does not choose where edits in another go.
#[tokio::test]
async fn a_title_says_nothing_while_there_is_a_group_whose_titles_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let group = async |name| {
        let policy = GroupPolicy::default();
        client.create_group(name, policy).await.unwrap()
    };
    let (board, legal) = (group("Board").await, group("Legal").await);
    let minutes = board.create_document::<Yrs>("minutes").await.unwrap();
    legal.create_document::<Yrs>("terms").await.unwrap();
    let (id, legal) = (minutes.id(), legal.id());
    assert_eq!(
        client.find_document::<Yrs>("minutes").await.unwrap().id(),
        id
    );
    client.close().await.unwrap();

    // What the store holds of the list of titles in one group is damaged.
    let unlock = Unlock::Passphrase {
        passphrase: Zeroizing::new("right".to_owned()),
        cost: PassphraseCost::insecure_for_tests(),
    };
    let mut store = Store::open(folder.path(), &unlock).await.unwrap();
    let list = DocumentId::directory(&legal);
    let prefix = [&[5], legal.as_bytes(), list.as_bytes()].concat();
    let rows = store.read(&prefix).await.unwrap();
    assert!(!rows.is_empty());
    let mut damage = WriteBatch::default();
    for (key, _) in rows {
        damage.put(key, Zeroizing::new(b"damaged".to_vec()));
    }
    store.apply(&[damage]).await.unwrap();
    store.close().await.unwrap();

    let client = Client::open(config(folder.path())).await.unwrap();
    for typed in ["minutes", &id.to_string()[..8], "terms", "agenda"] {
        let found = client.find_document::<Yrs>(typed).await;
        let found = found.map(|found| found.id());
        assert!(
            matches!(found, Err(Error::UnreadableNames(group)) if group == legal),
            "{typed}: {found:?}"
        );
    }
    let whole = client.find_document::<Yrs>(&id.to_string()).await.unwrap();
    assert_eq!(whole.id(), id);
    client.close().await.unwrap();
}

#[tokio::test]
async fn an_edit_that_panics_is_contained_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let notes = notes_with(&client, "first").await;
    let panicked: Result<(), EditError<TooLate>> = notes
        .edit(|doc| {
            insert(doc, "half done ").unwrap();
            panic!("a mistake of the application")
        })
        .await;
    assert!(
        matches!(&panicked, Err(EditError::Client(Error::Engine(_)))),
        "{panicked:?}"
    );
    let panicked: Result<(), EditError<TooLate>> =
        notes.read(|_| panic!("a mistake of the application")).await;
    assert!(matches!(panicked, Err(EditError::Client(_))));
    // The client lives, and the document is what was durable.
    assert_eq!(text(&notes).await, "first");
    notes.edit(|doc| insert(doc, "second ")).await.unwrap();
    reopened(client, folder.path(), &notes, "second first").await;
}

/// The document is the same from the store alone.
async fn reopened(client: Client, folder: &Path, notes: &Document<Any>, expected: &str) {
    assert_eq!(text(notes).await, expected);
    let (group, document) = (notes.group().id(), notes.id());
    client.close().await.unwrap();
    let client = Client::open(config(folder)).await.unwrap();
    let group = client.group(&group).await.unwrap();
    let notes = group.document::<Any>(&document).await.unwrap();
    assert_eq!(text(&notes).await, expected);
}

#[tokio::test]
async fn an_edit_that_nobody_waits_for_any_more_is_made_whole_or_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let notes = notes_with(&client, "first").await;
    let (begun, wait) = tokio::sync::oneshot::channel();
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    let mut under_way = Box::pin(notes.edit(move |doc| {
        begun.send(()).unwrap();
        held.recv().unwrap();
        insert(doc, "begun ")
    }));
    tokio::select! {
        _ = &mut under_way => panic!("it is held"),
        begun = wait => begun.unwrap(),
    }
    // Asked for while the device is at work, and given up before it could begin.
    let mut queued = Box::pin(notes.edit(|doc| insert(doc, "never ")));
    assert!((&mut queued).now_or_never().is_none());
    drop(queued);
    drop(under_way);
    go_on.send(()).unwrap();
    reopened(client, folder.path(), &notes, "begun first").await;
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
    let request = phone.device_request().await.unwrap();
    let wrong = Approval {
        code: "00000 ".repeat(6),
        ..request.approved()
    };
    let refused = laptop.approve_device(wrong).await;
    assert!(
        matches!(refused, Err(Error::Engine(EngineError::WrongCode))),
        "{refused:?}"
    );
    let approval = laptop.approve_device(request.approved()).await.unwrap();
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

/// A document of more than 4 MiB, and a small one.
async fn large_and_small(client: &Client) -> (Document<Any>, Document<Any>) {
    let group = client
        .create_group("Board", GroupPolicy::default())
        .await
        .unwrap();
    let large = group.create_document::<Yrs>("large").await.unwrap();
    let small = group.create_document::<Yrs>("small").await.unwrap();
    let (large, small) = (large.as_any(), small.as_any());
    append(&large, "x".repeat(LARGE)).await.unwrap();
    (large, small)
}

const LARGE: usize = 5 << 20;

async fn append(document: &Document<Any>, more: String) -> Result<(), EditError<CrdtError>> {
    let edit = move |doc: &mut dyn Crdt| {
        let text = doc.text().ok_or(CrdtError::InvalidArgument)?;
        let end = text.len()?;
        text.splice(end, 0, &more)
    };
    document.edit(edit).await
}

async fn length(document: &Document<Any>) -> usize {
    text(document).await.len()
}

#[tokio::test]
async fn a_long_closure_on_a_large_document_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let (large, small) = large_and_small(&client).await;
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let (begins, begun) = tokio::sync::oneshot::channel::<()>();
    let reader = large.clone();
    let reading = tokio::spawn(async move {
        let read = move |doc: &mut dyn Crdt| {
            let _ = begins.send(());
            let _ = ended.recv();
            doc.text().ok_or(CrdtError::InvalidArgument)?.len()
        };
        reader.read(read).await
    });
    begun.await.unwrap();
    // It stands in the middle of the closure. Other documents go on, and what is asked of this one waits its turn.
    append(&small, "meanwhile".to_owned()).await.unwrap();
    assert_eq!(text(&small).await, "meanwhile");
    let mut after = Box::pin(append(&large, "y".to_owned()));
    assert!(after.as_mut().now_or_never().is_none());
    append(&small, "!".to_owned()).await.unwrap();
    end.send(()).unwrap();
    assert_eq!(reading.await.unwrap().unwrap(), LARGE);
    after.await.unwrap();
    assert_eq!(length(&large).await, LARGE + 1);
    client.close().await.unwrap();
    let client = Client::open(config(folder.path())).await.unwrap();
    let group = client.groups().await.unwrap().remove(0).group;
    let group = client.group(&group).await.unwrap();
    let large = group.document::<Any>(&large.id()).await.unwrap();
    assert_eq!(length(&large).await, LARGE + 1);
    client.close().await.unwrap();
}

/// What a closure may rely on is the same on a large document.
#[tokio::test]
async fn closures_on_a_large_document_are_whole_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let client = ana(folder.path()).await;
    let (large, _) = large_and_small(&client).await;
    let fails = |doc: &mut dyn Crdt| {
        doc.text().unwrap().splice(0, 0, "gone").unwrap();
        Err::<(), _>(CrdtError::InvalidArgument)
    };
    let error = large.edit(fails).await.unwrap_err();
    assert!(matches!(
        error,
        EditError::Closure(CrdtError::InvalidArgument)
    ));
    let panics = |doc: &mut dyn Crdt| -> Result<(), CrdtError> {
        doc.text().unwrap().splice(0, 0, "gone").unwrap();
        panic!("a fault of the application")
    };
    let error = large.edit(panics).await.unwrap_err();
    assert!(matches!(error, EditError::Client(_)), "{error:?}");
    assert_eq!(length(&large).await, LARGE);
    append(&large, "stays".to_owned()).await.unwrap();
    assert_eq!(length(&large).await, LARGE + 5);
    client.close().await.unwrap();
}
