//! A service and members that are processes, and a rogue among them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use conclave_crdt::CrdtKind;
use conclave_proto::{DocumentId, GroupId};

use super::member::{Ask, Measured, Told};
use super::table::{Row, Seen};
use super::{Case, cases, ordinary, snapshots};
use crate::rogue::Rogue;
use crate::rounds::process::{Process, Recipe};

/// A member's process, and who it is.
struct Peer {
    name: String,
    process: Process,
}

impl Peer {
    async fn ask(&mut self, ask: Ask) -> Result<Told> {
        match self.process.exchange(&ask).await? {
            Told::Failed { message } => bail!("{}: {ask:?}: {message}", self.name),
            told => Ok(told),
        }
    }

    async fn number(&mut self, ask: Ask) -> Result<u64> {
        match self.ask(ask).await? {
            Told::Number { number } => Ok(number),
            other => bail!("{other:?}"),
        }
    }

    async fn measured(&mut self) -> Result<Measured> {
        match self.ask(Ask::End).await? {
            Told::Measured(measured) => Ok(measured),
            other => bail!("{other:?}"),
        }
    }
}

/// A service and three members who are processes, and a rogue among them.
pub struct Play {
    service: Process,
    peers: Vec<Peer>,
    rogue: Rogue,
    group: GroupId,
    /// What each member took for a document with an ordinary snapshot, by its kind.
    ordinary: BTreeMap<u8, Vec<Measured>>,
}

/// How long members are watched at a time. Nothing is asked of them meanwhile: answers take processor time as well.
const WINDOW: Duration = Duration::from_secs(2);
/// So often they are watched on where something has not come to all of them.
const WINDOWS: usize = 30;

/// What a member is to have come to.
#[derive(Clone, Copy)]
enum Goal {
    /// So many records of a document are found wrong.
    Wrong(u64),
    /// There are so many operations.
    Has(u64),
    /// Somebody is named for a document that is not read.
    Told,
    /// A document that somebody made is open.
    Opened,
}

impl Play {
    /// Everything begins.
    ///
    /// # Errors
    /// When anything fails.
    pub async fn begin(folder: &std::path::Path) -> Result<Self> {
        let recipe = |name: &str, arguments: Vec<std::ffi::OsString>| Recipe {
            arguments,
            log: folder.join(format!("{name}.log")),
        };
        let service_folder = folder.join("service");
        let arguments = vec!["service".into(), service_folder.into()];
        let service = recipe("service", arguments).start(None).await?;
        let url = format!("ws://{}", service.ready);
        let mut peers = Vec::new();
        for name in ["ana", "ben", "cleo"] {
            let store = folder.join(name);
            let arguments = vec![
                "member".into(),
                name.into(),
                store.into(),
                url.clone().into(),
            ];
            peers.push(Peer {
                name: name.to_owned(),
                process: recipe(name, arguments).start(None).await?,
            });
        }
        let mut rogue = Rogue::new("mallory", &url, 7)?;
        let (ana, others) = peers.split_first_mut().context("nobody")?;
        let Told::Contact { text: of_ana, .. } = ana.ask(Ask::Contact).await? else {
            bail!("no contact");
        };
        let Told::Group { group } = ana.ask(Ask::Found).await? else {
            bail!("no group");
        };
        for other in others {
            let Told::Contact { user, text } = other.ask(Ask::Contact).await? else {
                bail!("no contact");
            };
            ana.ask(Ask::Verify { text }).await?;
            ana.ask(Ask::Invite { user }).await?;
            let text = of_ana.clone();
            other.ask(Ask::Verify { text }).await?;
            other.ask(Ask::Join { group }).await?;
        }
        let (user, of_rogue) = rogue.contact().await?;
        rogue.verify(of_ana).await?;
        ana.ask(Ask::Verify { text: of_rogue }).await?;
        rogue
            .beside(async { ana.ask(Ask::Invite { user }).await })
            .await?;
        rogue.join(group).await?;
        let mut play = Self {
            service,
            peers,
            rogue,
            group,
            ordinary: BTreeMap::new(),
        };
        // The other document, which all edit, is the first that each has open.
        play.create(CrdtKind::Yjs).await?;
        Ok(play)
    }

    async fn create(&mut self, kind: CrdtKind) -> Result<DocumentId> {
        let kind = match kind {
            CrdtKind::Automerge => "automerge",
            _ => "yjs",
        };
        let (peers, rogue) = (&mut self.peers, &mut self.rogue);
        let created = async {
            let (ana, others) = peers.split_first_mut().context("nobody")?;
            let kind = kind.to_owned();
            let Told::Document { document } = ana.ask(Ask::Create { kind }).await? else {
                bail!("no document");
            };
            for other in others {
                other.ask(Ask::Open { document }).await?;
            }
            Ok(document)
        };
        rogue.beside(created).await
    }

    /// Plays everything and prints what it cost.
    ///
    /// # Errors
    /// When anything fails, or a bound does not hold.
    pub async fn all(mut self) -> Result<()> {
        Row::show_head();
        let mut holds = true;
        for case in cases() {
            // One that fails says nothing of the others.
            match self.case(&case).await {
                Ok(rows) => holds &= Row::show_all(&rows),
                Err(error) => {
                    holds = false;
                    eprintln!("{}: {error:#}", case.name);
                }
            }
        }
        for snapshot in snapshots() {
            match self.snapshot(&snapshot).await {
                Ok(rows) => holds &= Row::show_all(&rows),
                Err(error) => {
                    holds = false;
                    eprintln!("snapshot: {}: {error:#}", snapshot.name);
                }
            }
        }
        for peer in self.peers {
            peer.process.end().await?;
        }
        self.service.end().await?;
        ensure!(holds, "a bound does not hold");
        Ok(())
    }

    async fn begin_all(&mut self, edits: bool) -> Result<()> {
        for peer in &mut self.peers {
            peer.ask(Ask::Begin { edits }).await?;
        }
        Ok(())
    }

    async fn end_all(&mut self) -> Result<Vec<Measured>> {
        let pause = async {
            tokio::time::sleep(WINDOW).await;
            Ok(())
        };
        self.rogue.beside(pause).await?;
        let mut all = Vec::new();
        for peer in &mut self.peers {
            all.push(peer.measured().await?);
        }
        Ok(all)
    }

    /// Whether all members have come to something.
    async fn is_reached(&mut self, document: DocumentId, goal: Goal) -> Result<bool> {
        for peer in &mut self.peers {
            let reached = match goal {
                Goal::Wrong(count) => peer.number(Ask::Wrong { document }).await? >= count,
                Goal::Has(count) => peer.number(Ask::Replicas { document }).await? >= count,
                Goal::Told => peer.number(Ask::Told { document }).await? > 0,
                Goal::Opened => matches!(peer.ask(Ask::Open { document }).await?, Told::Done),
            };
            if !reached {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends watching when all have come to something. What each took until then.
    async fn watched(&mut self, document: DocumentId, goal: Goal) -> Result<Vec<Measured>> {
        let mut all = self.end_all().await?;
        for _ in 0..WINDOWS {
            if self.is_reached(document, goal).await? {
                return Ok(all);
            }
            self.begin_all(false).await?;
            let more = self.end_all().await?;
            all.iter_mut()
                .zip(more)
                .for_each(|(all, more)| all.add(more));
        }
        bail!("members did not come to it")
    }

    /// Has something written, and watches until all have come to what that leads to.
    async fn write(
        &mut self,
        document: DocumentId,
        (updates, edits): (&[Vec<u8>], bool),
        goal: Goal,
    ) -> Result<Vec<Measured>> {
        self.begin_all(edits).await?;
        self.rogue.write(document, updates).await?;
        self.watched(document, goal).await
    }

    async fn operations(&mut self, document: DocumentId) -> Result<u64> {
        let peer = self.peers.first_mut().context("nobody")?;
        peer.number(Ask::Replicas { document }).await
    }

    /// First without, then with edits of another document meanwhile, each in a fresh document: what these take is not counted.
    async fn case(&mut self, case: &Case) -> Result<Vec<Row>> {
        let mut rows: Vec<Row> = Vec::new();
        for edits in [false, true] {
            let document = self.create(case.kind).await?;
            self.rogue.open(self.group, document).await?;
            // A document of Automerge begins with a change.
            let mut operations = self.operations(document).await?;
            if !case.base.is_empty() {
                operations += case.operations(&case.base)?;
                self.write(document, (&case.base, false), Goal::Has(operations))
                    .await?;
            }
            self.begin_all(true).await?;
            let quiet = self.end_all().await?;
            let update = ordinary(case.kind)?;
            operations += case.operations(std::slice::from_ref(&update))?;
            let usual = self
                .write(document, (&[update], false), Goal::Has(operations))
                .await?;
            let goal = match case.refused {
                true => Goal::Wrong(1),
                false => Goal::Has(operations + case.added()?),
            };
            let took = self.write(document, (&case.dear, edits), goal).await?;
            if case.refused && case.dear.len() == 1 {
                for peer in &mut self.peers {
                    let now = peer.number(Ask::Replicas { document }).await?;
                    ensure!(now <= operations, "{}: an engine took it", peer.name);
                }
            }
            let bytes = case.dear.iter().map(Vec::len).sum();
            let seen = Seen { usual, took, quiet };
            self.note(&mut rows, (&case.name, bytes, case.refused), &seen);
        }
        Ok(rows)
    }

    async fn snapshot(&mut self, snapshot: &super::Snapshot) -> Result<Vec<Row>> {
        let kind = snapshot.kind;
        if !self.ordinary.contains_key(&kind.code()) {
            self.begin_all(false).await?;
            let document = self.rogue.create(self.group, kind).await?;
            let took = self.watched(document, Goal::Opened).await?;
            self.ordinary.insert(kind.code(), took);
        }
        let usual = self.ordinary.get(&kind.code()).cloned();
        let usual = usual.unwrap_or_default();
        let mut rows: Vec<Row> = Vec::new();
        for edits in [false, true] {
            self.begin_all(true).await?;
            let quiet = self.end_all().await?;
            self.begin_all(edits).await?;
            self.rogue.forge_next_snapshot(snapshot.state.clone());
            let document = self.rogue.create(self.group, kind).await?;
            let goal = match snapshot.refused {
                true => Goal::Told,
                false => Goal::Opened,
            };
            let took = self.watched(document, goal).await?;
            let name = format!("snapshot: {}", snapshot.name);
            let seen = Seen {
                usual: usual.clone(),
                took,
                quiet,
            };
            let bytes = snapshot.state.len();
            self.note(&mut rows, (&name, bytes, snapshot.refused), &seen);
        }
        Ok(rows)
    }

    /// Takes what was seen first as what it took, and what was seen with edits elsewhere as how long these took.
    fn note(&self, rows: &mut Vec<Row>, of: (&str, usize, bool), seen: &Seen) {
        let names = self.peers.iter().map(|peer| peer.name.as_str());
        let now: Vec<Row> = seen.rows(names, of).collect();
        if rows.is_empty() {
            *rows = now;
        } else {
            rows.iter_mut()
                .zip(now)
                .for_each(|(row, now)| row.with_edits(&now));
        }
    }
}
