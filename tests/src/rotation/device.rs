//! The process of one device: it makes documents, removes a member, edits, and says how far it is.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use conclave_client::{Client, Config, DeviceEvent, Document, Event, Group, Setup, Yrs};
use conclave_crdt::TextView as _;
use conclave_proto::{DocumentId, GroupId, GroupPolicy, RealmId, Role, UserId};
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::rounds::process::input_lines;
use crate::until;

/// Documents that are made, or edited, at once where speed is all that counts.
const AT_ONCE: usize = 64;
/// Between two edits that wait for nothing.
const PACE: Duration = Duration::from_millis(5);

/// A question or an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum Ask {
    /// Who are you?
    Contact,
    /// Take this contact text as compared in person.
    Verify {
        /// The text.
        text: String,
    },
    /// Found a group.
    Found,
    /// Make documents in it, and wait until the service has them.
    Make {
        /// Number of the first.
        first: usize,
        /// Number behind the last.
        end: usize,
    },
    /// Invite a user.
    Invite {
        /// Whom.
        user: UserId,
        /// As what.
        role: Role,
    },
    /// Join the group that you are invited to, as soon as you are.
    Join,
    /// Edit some documents, and wait until these edits are in the log.
    Warm,
    /// Edit, as is said.
    Edit {
        /// How.
        how: Editing,
    },
    /// Begin to remove a user.
    Remove {
        /// Whom.
        user: UserId,
    },
    /// How do you stand?
    State,
    /// How many documents are here?
    Here,
}

/// How a device edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Editing {
    /// Not at all.
    No,
    /// The documents that were warmed, without waiting for the service.
    Blind,
    /// One document after the other, each until the edit is in the log.
    Each,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "told")]
pub enum Told {
    /// It is done.
    Done,
    /// Who this device is.
    Contact {
        /// Its user.
        user: UserId,
        /// Contact text.
        text: String,
    },
    /// The group.
    Group {
        /// Its id.
        group: GroupId,
    },
    /// How this device stands.
    State(State),
    /// Documents that are here.
    Here {
        /// How many.
        here: usize,
        /// And how many there are.
        listed: usize,
    },
    /// It could not be done.
    Failed {
        /// Why.
        message: String,
    },
}

/// How a device stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Epoch of the group.
    pub epoch: u64,
    /// Epoch of a removal whose re-keying goes on.
    pub rotating_since: Option<u64>,
    /// What was last told of re-keying: documents done, and all.
    pub progress: Option<(usize, usize)>,
    /// Whether it was told to be complete.
    pub complete: bool,
    /// How often something was told of it.
    pub times: usize,
    /// What removing gave, once it did: documents, and how long it took in milliseconds.
    pub removed: Option<(usize, u64)>,
    /// Why it failed, if it did.
    pub failed: Option<String>,
    /// Edits that went into the log, and how long each took from the call on, in microseconds.
    pub edits_us: Vec<u64>,
    /// Edits that failed, and why the last did.
    pub edits_failed: (usize, Option<String>),
    /// Codes of findings.
    pub findings: BTreeSet<String>,
}

#[derive(Default)]
struct Notes(Mutex<State>);

impl Notes {
    fn get(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until standard input ends.
///
/// # Errors
/// When the store cannot be opened.
pub async fn run(name: String, store: PathBuf, url: String) -> Result<()> {
    let config = Config::new(&store, &url);
    let client = if store.exists() {
        Client::open(config).await
    } else {
        let setup = Setup::NewUser {
            name: name.clone(),
            realm: RealmId::ZERO,
        };
        Client::create(config, setup).await
    };
    let client = client.context("opening the store")?;
    let notes = Arc::new(Notes::default());
    tokio::spawn(listen(client.clone(), Arc::clone(&notes)));
    let (editing, how) = watch::channel(Editing::No);
    tokio::spawn(edit(client.clone(), how, Arc::clone(&notes)));
    println!("ready");
    let mut lines = input_lines();
    while let Some(line) = lines.recv().await {
        let told = match serde_json::from_str(&line)? {
            Ask::Edit { how } => {
                editing.send_replace(how);
                Ok(Told::Done)
            }
            ask => answer(&client, ask, &notes).await,
        };
        let told = told.unwrap_or_else(|error| Told::Failed {
            message: format!("{error:#}"),
        });
        println!("{}", serde_json::to_string(&told)?);
    }
    client.close().await?;
    Ok(())
}

async fn listen(client: Client, notes: Arc<Notes>) {
    let mut events = client.events();
    while let Some(event) = events.next().await {
        match event {
            Event::Device(DeviceEvent::Rotation {
                done,
                total,
                complete,
                ..
            }) => {
                let mut notes = notes.get();
                notes.progress = Some((done, total));
                notes.complete = complete;
                notes.times += 1;
            }
            Event::Device(DeviceEvent::Finding(finding)) => {
                notes.get().findings.insert(finding.code.clone());
            }
            _ => {}
        }
    }
}

async fn group(client: &Client) -> Result<Group> {
    let groups = client.groups().await?;
    let info = groups.iter().find(|info| info.active).context("no group")?;
    Ok(client.group(&info.group).await?)
}

async fn answer(client: &Client, ask: Ask, notes: &Arc<Notes>) -> Result<Told> {
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
            let group = client.create_group("Many", GroupPolicy::default()).await?;
            return Ok(Told::Group { group: group.id() });
        }
        Ask::Make { first, end } => {
            let group = group(client).await?;
            let mut made = iter(first..end)
                .map(|number| {
                    let group = group.clone();
                    async move {
                        let title = format!("document {number}");
                        let first = move |yrs: &mut Yrs| yrs.splice(0, 0, &title);
                        let title = format!("document {number}");
                        group.create_document_with::<Yrs>(&title, first).await
                    }
                })
                .buffer_unordered(AT_ONCE);
            while let Some(made) = made.next().await {
                made?;
            }
            client.settled().await?;
        }
        Ask::Invite { user, role } => group(client).await?.invite_as(&user, Some(role)).await?,
        Ask::Join => {
            let invitation = until("an invitation", || async {
                Ok(client.invitations().await?.into_iter().next())
            });
            invitation.await?.accept().await?;
        }
        Ask::Warm => {
            let group = group(client).await?;
            let all = documents(&group).await?;
            for id in all.iter().take(AT_ONCE) {
                let document: Document<Yrs> = group.document(id).await?;
                write(&document).await?;
            }
            client.settled().await?;
        }
        Ask::Remove { user } => {
            let group = group(client).await?;
            let notes = Arc::clone(notes);
            tokio::spawn(async move {
                let removed = group.remove(&user).await;
                let mut notes = notes.get();
                match removed {
                    Ok(removal) => {
                        let took = removal.elapsed.as_millis();
                        let took = u64::try_from(took).unwrap_or(u64::MAX);
                        notes.removed = Some((removal.documents, took));
                    }
                    Err(error) => notes.failed = Some(error.to_string()),
                }
            });
        }
        Ask::Edit { .. } => {}
        Ask::State => {
            let info = group(client).await?.info().await?;
            let mut state = notes.get().clone();
            state.epoch = info.epoch;
            state.rotating_since = info.rotating_since;
            return Ok(Told::State(state));
        }
        Ask::Here => {
            let listed = group(client).await?.documents().await?;
            let here = listed.iter().filter(|it| it.size.is_some()).count();
            let listed = listed.len();
            return Ok(Told::Here { here, listed });
        }
    }
    Ok(Told::Done)
}

/// Text documents, in the order of their ids: another one than that in which they were made.
async fn documents(group: &Group) -> Result<Vec<DocumentId>> {
    let directory = DocumentId::directory(&group.id());
    let listed = group.documents().await?;
    let mut ids: Vec<DocumentId> = listed.into_iter().map(|info| info.document).collect();
    ids.retain(|id| *id != directory);
    ids.sort_unstable();
    Ok(ids)
}

async fn write(document: &Document<Yrs>) -> Result<(), conclave_client::Error> {
    Ok(document.edit(|yrs: &mut Yrs| yrs.splice(0, 0, ".")).await?)
}

/// Edits as it is told to.
async fn edit(client: Client, mut how: watch::Receiver<Editing>, notes: Arc<Notes>) -> Result<()> {
    let mut all: Vec<Document<Yrs>> = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    let mut turn = 0_usize;
    while how.wait_for(|how| *how != Editing::No).await.is_ok() {
        if all.is_empty() {
            let group = group(&client).await?;
            for id in documents(&group).await? {
                all.push(group.document(&id).await?);
            }
        }
        turn += 1;
        let how = *how.borrow();
        let number = match how {
            Editing::Blind => turn % AT_ONCE.min(all.len()),
            // From the far end: those that are put under new keys last.
            _ => all.len() - 1 - turn % all.len(),
        };
        let Some(document) = all.get(number) else {
            continue;
        };
        let began = Instant::now();
        let edited = match how {
            Editing::Blind => {
                pace.tick().await;
                write(document).await
            }
            _ => match write(document).await {
                Ok(()) => document.synced().await,
                failed => failed,
            },
        };
        let mut notes = notes.get();
        match edited {
            Err(error) => {
                notes.edits_failed.0 += 1;
                notes.edits_failed.1 = Some(error.to_string());
            }
            Ok(()) if how == Editing::Each => {
                let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                notes.edits_us.push(took);
            }
            Ok(()) => {}
        }
    }
    Ok(())
}
