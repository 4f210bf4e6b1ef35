//! Content that would keep an engine busy for minutes, written by a member whose program does not look at what it costs: real clients and a real service.
//! Every member names it and sets it aside without giving it to an engine, and goes on with everything else meanwhile.

#![allow(missing_docs)]

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use conclave_client::{Any, Automerge, Client, Document, EditError, Group, Yrs};
use conclave_crdt::{Crdt, CrdtError, CrdtKind, ReplicaId};
use conclave_proto::{DocumentId, GroupPolicy};
use conclave_tests::hostile::{cases, found, snapshots, unread};
use conclave_tests::rogue::Rogue;
use conclave_tests::{World, admit, document, until, verify_all};

/// A group of three, and a fourth who follows no rule.
struct Scene {
    _world: World,
    groups: Vec<Group>,
    clients: Vec<Client>,
    rogue: Rogue,
    /// A document that has nothing to do with it, at each of the three.
    calm: Vec<Document<Any>>,
    typed: usize,
}

async fn created(group: &Group, kind: CrdtKind) -> Result<Document<Any>> {
    let made = match kind {
        CrdtKind::Automerge => group
            .create_document::<Automerge>("document")
            .await?
            .as_any(),
        _ => group.create_document::<Yrs>("document").await?.as_any(),
    };
    made.synced().await?;
    Ok(made)
}

impl Scene {
    async fn new() -> Result<Self> {
        let world = World::start().await?;
        let clients = vec![
            world.user("ana").await?,
            world.user("ben").await?,
            world.user("cleo").await?,
        ];
        let [ana, ben, cleo] = clients.as_slice() else {
            bail!("three");
        };
        verify_all(&[ana, ben, cleo]).await?;
        let group = ana.create_group("Board", GroupPolicy::default()).await?;
        let mut groups = vec![group];
        for one in [ben, cleo] {
            let group = groups.first().context("a group")?;
            let joined = admit(group, &[one]).await?;
            groups.extend(joined);
        }
        let group = groups.first().context("a group")?.clone();
        let mut rogue = Rogue::new("mallory", &world.url(), 9)?;
        let (user, contact) = rogue.contact().await?;
        ana.verify(&contact, true).await?;
        let of_ana = ana.whoami().await?.contact.context("no contact")?;
        rogue.verify(of_ana).await?;
        rogue
            .beside(async { Ok(group.invite(&user).await?) })
            .await?;
        rogue.join(group.id()).await?;
        let mut scene = Self {
            _world: world,
            groups,
            clients,
            rogue,
            calm: Vec::new(),
            typed: 0,
        };
        scene.calm = scene.shared(CrdtKind::Yjs).await?;
        Ok(scene)
    }

    /// A new document of Ana's, open at all three.
    async fn shared(&mut self, kind: CrdtKind) -> Result<Vec<Document<Any>>> {
        let (first, others) = self.groups.split_first().context("a group")?;
        let shared = async {
            let mut all = vec![created(first, kind).await?];
            let id = all.first().context("made")?.id();
            for group in others {
                let opened = document::<Any>(group, &id).await?;
                held(&opened).await?;
                all.push(opened);
            }
            Ok(all)
        };
        self.rogue.beside(shared).await
    }

    /// Each of the three writes into the other document, and all read it.
    async fn go_on(&mut self) -> Result<()> {
        let calm = &self.calm;
        self.typed += calm.len();
        let typed = self.typed;
        let written = async {
            for at in calm {
                at.edit(|crdt| text(crdt)?.splice(0, 0, "x")).await?;
            }
            all_read(calm, move |crdt| {
                Ok((text(crdt)?.len()? == typed).then_some(()))
            })
            .await
        };
        self.rogue.beside(written).await
    }
}

fn text(crdt: &mut dyn Crdt) -> Result<&mut dyn conclave_crdt::TextView, CrdtError> {
    crdt.text().ok_or(CrdtError::Engine)
}

/// Waits until it holds at every one of them.
async fn all_read(
    of: &[Document<Any>],
    holds: impl Fn(&mut dyn Crdt) -> Result<Option<()>, CrdtError> + Copy + Send + 'static,
) -> Result<()> {
    for at in of {
        until("what was written", || async {
            patient(at.read(holds).await).map(Option::flatten)
        })
        .await?;
    }
    Ok(())
}

/// On a busy machine a document may be away for longer than its device waits: then it is tried again.
fn patient<T>(result: Result<T, EditError<CrdtError>>) -> Result<Option<T>> {
    match result {
        Err(EditError::Client(error)) if error.code() == "document.held" => Ok(None),
        result => Ok(Some(result?)),
    }
}

/// The operations that its engine holds, of whom.
async fn held(at: &Document<Any>) -> Result<BTreeMap<ReplicaId, u64>> {
    let replicas = until("the document to be here", || async {
        patient(at.read(|crdt| Ok::<_, CrdtError>(crdt.replicas())).await)
    });
    Ok(replicas.await?.into_iter().collect())
}

/// Waits until the engines of all hold everything of these updates.
async fn applied(of: &[Document<Any>], updates: &[Vec<u8>], kind: CrdtKind) -> Result<()> {
    let reader = conclave_crdt::create(kind, ReplicaId::for_kind(kind, [0xfd; 16]))?;
    let mut ends = BTreeMap::new();
    for update in updates {
        for range in reader.inspect(update)?.info.ranges {
            ends.insert(range.replica, range.end);
        }
    }
    for at in of {
        until("what came first", || async {
            let held = held(at).await?;
            let all = ends.iter().all(|(of, end)| held.get(of) >= Some(end));
            Ok(all.then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn costly_content_is_named_and_set_aside_by_all_and_nothing_else_waits() -> Result<()> {
    let mut scene = Scene::new().await?;
    for case in cases() {
        let shared = scene.shared(case.kind).await?;
        let id = shared.first().context("made")?.id();
        let group = scene.groups.first().context("a group")?.id();
        scene.rogue.open(group, id).await?;
        scene.rogue.write(id, &case.base).await?;
        applied(&shared, &case.base, case.kind).await?;
        let before = held(shared.first().context("made")?).await?;
        let ordered = scene.rogue.write(id, &case.dear).await?;
        // Everything else goes on.
        scene.go_on().await?;
        if !case.refused {
            applied(&shared, &case.dear, case.kind).await?;
        }
        for (client, at) in scene.clients.iter().zip(&shared) {
            let wrong = until("what is found", || async {
                let wrong = found(client, &id).await?;
                Ok((!case.refused || !wrong.is_empty()).then_some(wrong))
            });
            let wrong = wrong.await?;
            assert!(
                wrong.iter().all(|(code, seq)| {
                    (code == "found.cost" || code == "found.content") && ordered.contains(seq)
                }),
                "{}: {wrong:?} of {ordered:?}",
                case.name
            );
            assert_eq!(!wrong.is_empty(), case.refused, "{}", case.name);
            if case.refused {
                // What one record of a few holds may be within the bound.
                let alone = case.dear.len() == 1;
                assert!(!alone || held(at).await? == before, "{}", case.name);
            }
        }
        // The document itself goes on as well.
        let writer = shared.last().context("made")?;
        writer.edit(|crdt| text(crdt)?.splice(0, 0, "on ")).await?;
        let reads_on = all_read(&shared, |crdt| {
            Ok(text(crdt)?.text()?.contains("on ").then_some(()))
        });
        scene.rogue.beside(reads_on).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_costs_too_much_is_loaded_by_nobody() -> Result<()> {
    let mut scene = Scene::new().await?;
    let group = scene.groups.first().context("a group")?.id();
    let author = scene.rogue.device().await?;
    // Counting these takes an unoptimised build longer than a device waits.
    let slow = |name: &str| name.contains("at one place");
    for snapshot in snapshots().into_iter().filter(|it| !slow(&it.name)) {
        scene.rogue.forge_next_snapshot(snapshot.state);
        let id: DocumentId = scene.rogue.create(group, snapshot.kind).await?;
        let name = snapshot.name;
        scene.go_on().await?;
        for client in &scene.clients {
            let named = until("somebody to be named", || unread(client, &id));
            let named = named.await.with_context(|| name.clone())?;
            assert_eq!(named, author, "{name}");
        }
        scene.go_on().await?;
    }
    Ok(())
}
