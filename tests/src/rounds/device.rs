//! The process of one device: it edits without pause while it is told to, keeps a journal of what it was told, and answers questions.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use conclave_client::transport::{Backoff, Timing};
use conclave_client::{Any, Client, Config, DeviceEvent, Document, Event, Group, Inserted, Setup};
use conclave_crdt::automerge::Automerge;
use conclave_crdt::yjs::Yrs;
use conclave_crdt::{Crdt, CrdtError};
use conclave_proto::{GroupPolicy, RealmId};
use tokio::sync::watch;

use super::history::Journal;
use super::wire::{Ask, State, Told};
use crate::until;

/// Time between two edits of one device.
const PACE: Duration = Duration::from_millis(60);
/// Pauses between attempts to connect.
const RECONNECT: Backoff = Backoff {
    least_ms: 50,
    most_ms: 500,
};
/// Dead connections have to be noticed within a round.
const IDLE: Duration = Duration::from_secs(3);

/// What is done wrong on purpose, to see that the check notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seeded {
    /// One edit is acknowledged and never made.
    Lost,
    /// One edit is made twice.
    Doubled,
}

/// How a device's process is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names its user, and its lines.
    pub name: String,
    /// Its store.
    pub store: PathBuf,
    /// Its journal.
    pub journal: PathBuf,
    /// What it dials.
    pub url: String,
    /// A fault of its own, if any.
    pub seeded: Option<Seeded>,
}

#[derive(Default)]
struct Counts {
    tried: AtomicU64,
    acknowledged: AtomicU64,
    findings: Mutex<BTreeMap<String, u64>>,
    /// Held while an edit is made: whoever has told it to stop waits for the last one.
    turn: tokio::sync::Mutex<()>,
}

/// Runs until standard input ends.
///
/// # Errors
/// When the store cannot be opened or the journal not be written.
pub async fn run(options: Options) -> Result<()> {
    let timing = Timing {
        backoff: RECONNECT,
        ping: IDLE / 3,
        idle: IDLE,
        ..Timing::default()
    };
    let config = Config::new(&options.store, &options.url).timing(timing);
    let client = if options.store.exists() {
        Client::open(config).await
    } else {
        let setup = Setup::NewUser {
            name: options.name.clone(),
            realm: RealmId::ZERO,
        };
        Client::create(config, setup).await
    };
    let client = client.context("opening the store")?;
    let counts = Arc::new(Counts::default());
    tokio::spawn(count_findings(client.clone(), Arc::clone(&counts)));
    let (editing, edits) = watch::channel(false);
    let editor = tokio::spawn(edit(
        client.clone(),
        options.clone(),
        edits,
        Arc::clone(&counts),
    ));
    println!("ready");
    let mut lines = super::process::input_lines();
    while let Some(line) = lines.recv().await {
        let told = match serde_json::from_str(&line)? {
            Ask::Edit { on } => {
                editing.send_replace(on);
                drop(counts.turn.lock().await);
                Ok(Told::Done)
            }
            ask => answer(&client, ask, &counts).await,
        };
        let told = told.unwrap_or_else(|error| Told::Failed {
            code: error
                .downcast_ref::<conclave_client::Error>()
                .map_or("other", |error| error.code())
                .to_owned(),
            message: format!("{error:#}"),
        });
        println!("{}", serde_json::to_string(&told)?);
    }
    editing.send_replace(false);
    drop(editing);
    editor.await??;
    client.close().await?;
    Ok(())
}

async fn count_findings(client: Client, counts: Arc<Counts>) {
    let mut events = client.events();
    while let Some(event) = events.next().await {
        let json = serde_json::to_value(&event).unwrap_or_default();
        let code = match &event {
            Event::Device(DeviceEvent::Finding(_)) => json
                .get("code")
                .and_then(serde_json::Value::as_str)
                .unwrap_or("finding")
                .to_owned(),
            Event::Device(DeviceEvent::Returned { .. }) => "returned".to_owned(),
            Event::Stalled { .. } => "stalled".to_owned(),
            Event::Device(DeviceEvent::GroupLost { .. }) => "group lost".to_owned(),
            _ => continue,
        };
        let mut findings = counts
            .findings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *findings.entry(code).or_default() += 1;
    }
}

async fn answer(client: &Client, ask: Ask, counts: &Counts) -> Result<Told> {
    match ask {
        Ask::Contact => {
            client.online().await?;
            let me = client.whoami().await?;
            return Ok(Told::Contact {
                user: me.user.context("not enrolled")?,
                text: me.contact.context("no contact text")?,
            });
        }
        Ask::Verify { text } => {
            client.verify(&text, true).await?;
        }
        Ask::Found => {
            let group = client
                .create_group("Rounds", GroupPolicy::default())
                .await?;
            group
                .create_document_with::<Yrs>("yjs", |_| Ok(()))
                .await?
                .synced()
                .await?;
            group
                .create_document_with::<Automerge>("automerge", |_| Ok(()))
                .await?
                .synced()
                .await?;
        }
        Ask::Join => {
            let invitation = until("an invitation", || async {
                Ok(client.invitations().await?.into_iter().next())
            });
            invitation.await?.accept().await?;
        }
        Ask::Invite { user } => group(client).await?.invite(&user).await?,
        Ask::Remove { user } => {
            group(client).await?.remove(&user).await?;
        }
        Ask::Role { user, role } => group(client).await?.set_role(&user, role).await?,
        Ask::Edit { .. } => {}
        Ask::State => return Ok(Told::State(state(client, counts).await?)),
        Ask::Texts => {
            let mut texts = BTreeMap::new();
            for (kind, document) in documents(client).await? {
                texts.insert(kind, document.read(text).await?);
            }
            let kept = kept_lines(client).await?;
            return Ok(Told::Texts { texts, kept });
        }
    }
    Ok(Told::Done)
}

/// The group that this device is in.
async fn group(client: &Client) -> Result<Group, conclave_client::Error> {
    let groups = client.groups().await?;
    let active = groups.iter().find(|info| info.active).or(groups.first());
    match active {
        Some(info) => client.group(&info.group).await,
        None => Err(conclave_client::Error::GroupLost),
    }
}

/// Its documents, by kind: there is one of each.
async fn documents(
    client: &Client,
) -> Result<BTreeMap<String, Document<Any>>, conclave_client::Error> {
    let group = group(client).await?;
    let mut documents = BTreeMap::new();
    for info in group.documents().await? {
        if info.closed.is_none() {
            documents.insert(info.kind, group.document::<Any>(&info.document).await?);
        }
    }
    Ok(documents)
}

/// Lines that were kept apart because their document takes them no more.
async fn kept_lines(client: &Client) -> Result<Vec<String>, conclave_client::Error> {
    let mut lines = Vec::new();
    for info in client.rescues().await? {
        for word in client.rescue(&info.id).await?.words {
            if let Inserted::Text(text) | Inserted::Value(text) = word.inserted {
                lines.extend(text.lines().map(str::to_owned));
            }
        }
    }
    Ok(lines)
}

fn text(crdt: &mut dyn Crdt) -> Result<String, CrdtError> {
    crdt.text().ok_or(CrdtError::InvalidArgument)?.text()
}

async fn state(client: &Client, counts: &Counts) -> Result<State> {
    let mut state = State {
        acknowledged: counts.acknowledged.load(Ordering::Relaxed),
        tried: counts.tried.load(Ordering::Relaxed),
        online: client.status().await?.online,
        findings: counts
            .findings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone(),
        ..State::default()
    };
    let Some(info) = client.groups().await?.into_iter().find(|info| info.active) else {
        return Ok(state);
    };
    state.member = info.frozen.is_none() && info.returning.is_none() && !info.unproven;
    state.epoch = info.epoch;
    state.code = info.code;
    for (kind, document) in documents(client).await? {
        let info = document.info().await?;
        state.pending += info.pending;
        let mut hasher = DefaultHasher::new();
        document.read(text).await?.hash(&mut hasher);
        state
            .documents
            .insert(kind, (info.size.unwrap_or(0), hasher.finish()));
    }
    Ok(state)
}

/// Writes lines while it is told to, each once, into the two documents in turn.
async fn edit(
    client: Client,
    options: Options,
    mut on: watch::Receiver<bool>,
    counts: Arc<Counts>,
) -> Result<()> {
    let mut journal = Journal::open(&options.journal)?;
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seeded = options.seeded;
    let mut turn = 0_usize;
    while on.wait_for(|on| *on).await.is_ok() {
        pace.tick().await;
        let _turn = counts.turn.lock().await;
        if !*on.borrow() {
            continue;
        }
        let Ok(documents) = documents(&client).await else {
            continue;
        };
        turn += 1;
        let Some((kind, document)) = documents.into_iter().nth(turn % 2) else {
            continue;
        };
        let number = journal.begin(&kind)?;
        counts.tried.fetch_add(1, Ordering::Relaxed);
        let line = format!("{}/{number}\n", options.name);
        let fault = seeded.take_if(|_| number > 5);
        let edited = match fault {
            Some(Seeded::Lost) => Ok(()),
            Some(Seeded::Doubled) => write(&document, line.repeat(2), number).await,
            None => write(&document, line, number).await,
        };
        match edited {
            Ok(()) => {
                journal.acknowledged(&kind, number)?;
                counts.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => journal.failed(&kind, number, error.code())?,
        }
    }
    Ok(())
}

/// Inserts a whole line between two lines: at the end mostly, anywhere else every fourth time.
async fn write(
    document: &Document<Any>,
    line: String,
    number: u64,
) -> Result<(), conclave_client::Error> {
    Ok(document
        .edit(move |crdt: &mut dyn Crdt| {
            let view = crdt.text().ok_or(CrdtError::InvalidArgument)?;
            let text = view.text()?;
            let at = match number % 4 {
                0 => between_lines(&text, number),
                _ => text.len(),
            };
            // All that is ever written is ASCII: bytes are characters.
            view.splice(at, 0, &line)
        })
        .await?)
}

/// Some place behind a line break, another one for each number.
fn between_lines(text: &str, number: u64) -> usize {
    let lines = text.lines().count() as u64 + 1;
    // A multiplier of Knuth's spreads consecutive numbers.
    let chosen = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % lines;
    text.split_inclusive('\n')
        .take(usize::try_from(chosen).unwrap_or(0))
        .map(str::len)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::between_lines;

    #[test]
    fn lines_are_never_cut() {
        let text = "a/1\nbb/22\nc/3\n";
        for number in 0..100 {
            let at = between_lines(text, number);
            assert!(at == 0 || text.as_bytes().get(at - 1) == Some(&b'\n'));
        }
        assert_eq!(between_lines("", 7), 0);
    }
}
