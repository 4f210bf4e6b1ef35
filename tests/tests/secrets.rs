//! Nothing secret and no plaintext reaches a log, a Debug output, an error, the service's files or a client's files.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use conclave_client::Document;
use conclave_client::store::PassphraseCost;
use conclave_crdt::{JsonView as _, TextView as _, automerge::Automerge, yjs::Yrs};
use conclave_proto::{GroupPolicy, RealmId};
use conclave_tests::{PATIENCE, World, admit, document, online, until, user_id, verify_all};

/// Words that are typed, titled, named and used as passphrases; nothing else contains them.
const CANARIES: [&str; 7] = [
    "xylomarimba-quark",
    "zebrafinch-ostinato",
    "velvet-hurdygurdy",
    "quixotic-bandoneon",
    "passacaglia-wombat",
    "glockenspiel-9341",
    "ünïcødé-kazoo",
];

/// Everything that the processes' code logs, at every level.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A canary as it could stand in a file: UTF-8, UTF-16 either way, and every run of eight bytes of it.
fn traces(canary: &str) -> BTreeSet<Vec<u8>> {
    let utf8 = canary.as_bytes().to_vec();
    let little: Vec<u8> = canary.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = canary.encode_utf16().flat_map(u16::to_be_bytes).collect();
    [utf8, little, big]
        .iter()
        .flat_map(|form| form.windows(8).map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect()
}

fn search(what: &str, bytes: &[u8]) -> Result<()> {
    for canary in CANARIES {
        let wanted = traces(canary);
        ensure!(
            !bytes.windows(8).any(|window| wanted.contains(window)),
            "{what} contains a trace of {canary:?}"
        );
    }
    Ok(())
}

fn search_folder(folder: &Path) -> Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files += search_folder(&path)?;
        } else if path.is_file() {
            search(&path.display().to_string(), &std::fs::read(&path)?)?;
            files += 1;
        }
    }
    Ok(files)
}

fn shown(values: &[&dyn Debug]) -> Result<()> {
    for value in values {
        let text = format!("{value:?} {value:#?}");
        search("a Debug output", text.as_bytes())?;
    }
    Ok(())
}

#[test]
fn the_search_finds_what_is_planted() {
    for form in [
        CANARIES[0].as_bytes().to_vec(),
        CANARIES[1]
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect(),
        CANARIES[6]
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect(),
        CANARIES[2].as_bytes()[3..11].to_vec(),
    ] {
        let haystack = [b"before".as_slice(), &form, b"after"].concat();
        assert!(search("planted", &haystack).is_err());
    }
    assert!(search("clean", b"nothing to see here, move along").is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_session_leaves_no_plaintext_anywhere() -> Result<()> {
    let logs = Logs::default();
    let sink = logs.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || sink.clone())
        .init();
    let world = World::start().await?;
    let config = world
        .config("ana")
        .passphrase(CANARIES[4])
        .passphrase_cost(PassphraseCost {
            memory_kib: 1024,
            passes: 1,
            lanes: 1,
        });
    shown(&[&config])?;
    let setup = conclave_client::Setup::NewUser {
        name: CANARIES[3].to_owned(),
        realm: RealmId::ZERO,
    };
    let ana = conclave_client::Client::create(config, setup).await?;
    online(&ana).await?;
    let ben = world.user("ben").await?;
    verify_all(&[&ana, &ben]).await?;
    let group = ana
        .create_group(CANARIES[2], GroupPolicy::default())
        .await?;
    let text: Document<Yrs> = group.create_document(CANARIES[1]).await?;
    let tasks: Document<Automerge> = group.create_document("tasks").await?;
    let id = group.id();
    let joined = admit(&group, &[&ben]).await?.remove(0);
    text.edit(|yrs| yrs.splice(0, 0, CANARIES[0])).await?;
    text.edit(|yrs| yrs.splice(3, 0, CANARIES[6])).await?;
    tasks
        .edit(|doc| doc.merge_json(&serde_json::json!({ "secret": CANARIES[5] })))
        .await?;
    tokio::time::timeout(PATIENCE, text.synced())
        .await
        .context("syncing")??;
    tokio::time::timeout(PATIENCE, tasks.synced())
        .await
        .context("syncing")??;
    let at_ben: Document<Yrs> = document(&joined, &text.id()).await?;
    until("the text to arrive", || async {
        Ok(at_ben
            .read(|yrs| yrs.text())
            .await?
            .contains(CANARIES[6])
            .then_some(()))
    })
    .await?;

    let refused = at_ben
        .edit(|yrs| yrs.splice(1_000_000, 0, CANARIES[0]))
        .await;
    let wrong = world.config("ana").passphrase(CANARIES[0]);
    tokio::time::timeout(PATIENCE, group.remove(&user_id(&ben).await?))
        .await
        .context("removal")??;
    let outside = ben
        .create_group(CANARIES[2], GroupPolicy::default())
        .await?;
    let not_there = ben.group(&id).await;
    shown(&[
        &ana,
        &ben,
        &group,
        &text,
        &tasks,
        &at_ben,
        &refused,
        &wrong,
        &outside,
        &not_there,
        &ana.status().await?,
    ])?;
    ana.close().await?;
    let denied = conclave_client::Client::open(wrong).await;
    ensure!(denied.is_err(), "a wrong passphrase opens the store");
    shown(&[&denied])?;
    ben.close().await?;

    let logged = logs
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    ensure!(
        !logged.is_empty(),
        "nothing was logged: the search would prove nothing"
    );
    search("the logs", &logged)?;
    ensure!(search_folder(&world.service_folder())? >= 1);
    for store in ["ana", "ben"] {
        ensure!(search_folder(&world.store(store))? >= 1);
    }
    Ok(())
}
