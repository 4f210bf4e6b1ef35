//! A service and members that are processes, and a rogue among them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use conclave_crdt::CrdtKind;
use conclave_proto::{DocumentId, GroupId};

use super::member::{Ask, Measured, Told};
use super::{Case, cases, snapshots};
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
    failed: bool,
}

/// Most processor time and memory that refusing may take at a member, and most time that what is within the bound may.
const REFUSED_MS: f64 = 100.0;
const WITHIN_MS: f64 = 250.0;
const MEMORY_MIB: f64 = 64.0;
/// How long edits of another document are timed while nothing else happens.
const QUIET: Duration = Duration::from_secs(2);
/// Between two questions whether something has come: they take processor time themselves.
const PAUSE: Duration = Duration::from_millis(100);

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
            failed: false,
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
        println!(
            "| what | bytes | member | refused | processor, ms | memory, MiB | an edit elsewhere meanwhile: middle, slowest | quiet |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for case in cases() {
            // One that fails says nothing of the others.
            if let Err(error) = self.case(&case).await {
                self.failed = true;
                eprintln!("{}: {error:#}", case.name);
            }
        }
        for (name, kind, state) in snapshots() {
            self.snapshot(&name, kind, state).await?;
        }
        for peer in self.peers {
            peer.process.end().await?;
        }
        self.service.end().await?;
        ensure!(!self.failed, "a bound does not hold");
        Ok(())
    }

    async fn begin_all(&mut self, edits: bool) -> Result<()> {
        for peer in &mut self.peers {
            peer.ask(Ask::Begin { edits }).await?;
        }
        Ok(())
    }

    async fn quiet(&mut self) -> Result<Vec<Measured>> {
        self.begin_all(true).await?;
        let quiet = async {
            tokio::time::sleep(QUIET).await;
            Ok(())
        };
        self.rogue.beside(quiet).await?;
        let mut all = Vec::new();
        for peer in &mut self.peers {
            all.push(peer.measured().await?);
        }
        Ok(all)
    }

    /// Waits until every member has found so many records wrong, or has so many operations.
    async fn reached(&mut self, document: DocumentId, wrong: u64, operations: u64) -> Result<()> {
        for peer in &mut self.peers {
            for _ in 0..crate::PATIENCE.as_millis() / PAUSE.as_millis() {
                if peer.number(Ask::Wrong { document }).await? >= wrong
                    && peer.number(Ask::Replicas { document }).await? >= operations
                {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            let found = peer.number(Ask::Wrong { document }).await?;
            ensure!(found >= wrong, "{}: {found} of {wrong}", peer.name);
            let now = peer.number(Ask::Replicas { document }).await?;
            ensure!(now >= operations, "{}: {now} of {operations}", peer.name);
        }
        Ok(())
    }

    /// The counters of all replicas of a document in which nobody has written.
    async fn first(&mut self, document: DocumentId) -> Result<u64> {
        let peer = self.peers.first_mut().context("nobody")?;
        peer.number(Ask::Replicas { document }).await
    }

    async fn case(&mut self, case: &Case) -> Result<()> {
        let document = self.create(case.kind).await?;
        self.rogue.open(self.group, document).await?;
        // A document of Automerge begins with a change.
        let first = self.first(document).await?;
        self.rogue.write(document, &case.base).await?;
        let operations = first + case.operations(&case.base)?;
        self.reached(document, 0, operations).await?;
        let quiet = self.quiet().await?;
        let mut measured: Vec<Measured> = Vec::new();
        // First without, then with edits elsewhere: what these take is not counted.
        let mut wrong = 0;
        for edits in [false, true] {
            self.begin_all(edits).await?;
            self.rogue.write(document, &case.dear).await?;
            if case.refused {
                wrong += 1;
            }
            let all = if case.refused {
                operations
            } else {
                first + case.operations(&case.dear)?
            };
            self.reached(document, wrong, all).await?;
            for (at, peer) in self.peers.iter_mut().enumerate() {
                let now = peer.measured().await?;
                match measured.get_mut(at) {
                    None => measured.push(now),
                    Some(before) => {
                        (before.median_ms, before.slowest_ms) = (now.median_ms, now.slowest_ms);
                    }
                }
            }
            if !case.refused {
                // Once more would repeat what is known.
                break;
            }
        }
        if case.refused {
            for peer in &mut self.peers {
                let now = peer.number(Ask::Replicas { document }).await?;
                ensure!(now <= operations, "{}: an engine took it", peer.name);
            }
        }
        let bytes = case.dear.iter().map(Vec::len).sum();
        self.show(&case.name, bytes, case.refused, &measured, &quiet);
        Ok(())
    }

    async fn snapshot(&mut self, name: &str, kind: CrdtKind, state: Vec<u8>) -> Result<()> {
        let quiet = self.quiet().await?;
        let bytes = state.len();
        self.begin_all(true).await?;
        self.rogue.forge_next_snapshot(state);
        let document = self.rogue.create(self.group, kind).await?;
        for peer in &mut self.peers {
            for _ in 0..crate::PATIENCE.as_millis() / PAUSE.as_millis() {
                if peer.number(Ask::Told { document }).await? > 0 {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            let told = peer.number(Ask::Told { document }).await?;
            ensure!(told > 0, "{}: nothing is told of a snapshot", peer.name);
        }
        let mut measured = Vec::new();
        for peer in &mut self.peers {
            measured.push(peer.measured().await?);
        }
        let name = format!("snapshot: {name}");
        self.show(&name, bytes, true, &measured, &quiet);
        Ok(())
    }

    fn show(
        &mut self,
        name: &str,
        bytes: usize,
        refused: bool,
        measured: &[Measured],
        quiet: &[Measured],
    ) {
        for ((peer, now), quiet) in self.peers.iter().zip(measured).zip(quiet) {
            let most = if refused { REFUSED_MS } else { WITHIN_MS };
            let over = now.cpu_ms > most || now.growth_mib > MEMORY_MIB;
            self.failed |= over;
            println!(
                "| {name} | {bytes} | {} | {} | {:.1}{} | {:.1} | {:.1}, {:.1} | {:.1}, {:.1} |",
                peer.name,
                if refused {
                    "yes"
                } else {
                    "no: within the bound"
                },
                now.cpu_ms,
                if over { " OVER" } else { "" },
                now.growth_mib,
                now.median_ms,
                now.slowest_ms,
                quiet.median_ms,
                quiet.slowest_ms,
            );
        }
    }
}
