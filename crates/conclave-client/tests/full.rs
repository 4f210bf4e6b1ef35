//! A store without room: what was acknowledged is there, what was refused is not, and the client goes on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;

use conclave_client::proto::{GroupPolicy, RealmId};
use conclave_client::store::{DATABASE_NAME, PassphraseCost};
use conclave_client::{Any, Client, Config, CrdtError, Document, Error, Event, Group, Setup, Yrs};

const LIMIT_BYTES: u64 = 600_000;

fn config(folder: &Path) -> Config {
    Config::offline(folder)
        .passphrase("right")
        .passphrase_cost(PassphraseCost::insecure_for_tests())
}

async fn ana(folder: &Path) -> (Client, Group, Document<Any>) {
    let setup = Setup::NewUser {
        name: "Ana".to_owned(),
        realm: RealmId([7; 16]),
    };
    let config = config(folder).max_store_bytes(LIMIT_BYTES);
    let client = Client::create(config, setup).await.unwrap();
    let group = client
        .create_group("Board", GroupPolicy::default())
        .await
        .unwrap();
    let notes = group.create_document::<Yrs>("minutes").await.unwrap();
    (client, group, notes.as_any())
}

/// One edit of 20 kB that can be told from the others.
async fn write(notes: &Document<Any>, number: usize) -> Result<(), Error> {
    let line = format!("<{number}>{}", "x".repeat(20_000));
    let edited = notes
        .edit(move |doc| {
            doc.text()
                .ok_or(CrdtError::InvalidArgument)?
                .splice(0, 0, &line)
        })
        .await;
    Ok(edited?)
}

/// Numbers of the edits in a document, sorted.
async fn written(notes: &Document<Any>) -> Vec<usize> {
    let text = notes
        .read(|doc| doc.text().ok_or(CrdtError::InvalidArgument)?.text())
        .await
        .unwrap();
    let mut numbers: Vec<usize> = text
        .split('<')
        .skip(1)
        .map(|line| line.split_once('>').unwrap().0.parse().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers
}

fn assert_full(error: &Error) {
    assert_eq!(error.code(), "store.full", "{error:?}");
    assert!(error.is_retryable() && error.to_string().contains("make room"));
}

#[tokio::test]
async fn a_full_store_refuses_loses_nothing_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (client, group, notes) = ana(folder.path()).await;
    let mut events = client.events();
    let mut done = Vec::new();
    let error = loop {
        match write(&notes, done.len()).await {
            Ok(()) => done.push(done.len()),
            Err(error) => break error,
        }
        assert!(done.len() < 1000, "it is never full");
    };
    assert_full(&error);
    assert!(done.len() > 3);
    // The client lives, and what it shows is what is durable: the edit that was refused is not in sight.
    assert_eq!(written(&notes).await, done);
    assert_full(&write(&notes, 5000).await.unwrap_err());
    assert_eq!(written(&notes).await, done);
    assert_eq!(client.groups().await.unwrap().len(), 1);
    client.status().await.unwrap();
    let stalled = loop {
        match events.next().await.unwrap() {
            Event::Stalled { error } => break error,
            _ => continue,
        }
    };
    assert!(stalled.code == "store.full" && stalled.retryable);
    client.close().await.unwrap();
    let size = std::fs::metadata(folder.path().join(DATABASE_NAME))
        .unwrap()
        .len();
    assert!(size <= LIMIT_BYTES, "{size}");

    // There is room again.
    let client = Client::open(config(folder.path())).await.unwrap();
    let notes = client
        .group(&group.id())
        .await
        .unwrap()
        .document::<Any>(&notes.id())
        .await
        .unwrap();
    assert_eq!(written(&notes).await, done);
    write(&notes, done.len()).await.unwrap();
    done.push(done.len());
    assert_eq!(written(&notes).await, done);
    client.close().await.unwrap();
}

/// Edits that share a transaction share its fate; each is answered, and each answer is true.
#[tokio::test]
async fn of_many_edits_at_once_those_that_were_acknowledged_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let (client, group, notes) = ana(folder.path()).await;
    let edits = (0..100).map(|number| {
        let notes = notes.clone();
        async move {
            tokio::task::yield_now().await;
            (number, write(&notes, number).await)
        }
    });
    let mut done = Vec::new();
    for (number, result) in futures_util::future::join_all(edits).await {
        match result {
            Ok(()) => done.push(number),
            Err(error) => assert_full(&error),
        }
    }
    assert!(done.len() < 100);
    for number in 100.. {
        match write(&notes, number).await {
            Ok(()) => done.push(number),
            Err(error) => {
                assert_full(&error);
                break;
            }
        }
    }
    assert_eq!(written(&notes).await, done);
    client.close().await.unwrap();
    let client = Client::open(config(folder.path())).await.unwrap();
    let group = client.group(&group.id()).await.unwrap();
    let notes = group.document::<Any>(&notes.id()).await.unwrap();
    assert_eq!(written(&notes).await, done);
}
