//! Edits of one document by several clients, some of them away until all have written: what holds of the engine's merge holds of what
//! people get over the real service and real stores.
//!
//! `CONCLAVE_MERGE_CASES` and `CONCLAVE_MERGE_SEED` as in `merge_property` of `conclave-crdt`:
//! `CONCLAVE_MERGE_CASES=300 cargo test --release -p conclave-tests --test merging -- --nocapture`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use anyhow::{Context as _, Result, bail, ensure};
use conclave_client::{Any, Client, Config, Document, FirstContent, Operation, Outcome, View, run};
use conclave_crdt::{CrdtError, ReplicaId, merged_json, merged_text};
use conclave_proto::{DocumentId, GroupId, GroupPolicy};
use conclave_testkit::merges::lists::{self, ListCase};
use conclave_testkit::merges::texts::{self, TextCase};
use conclave_testkit::merges::{Random, longest, variable};
use conclave_tests::{PATIENCE, World, admit, document, until, verify_all};
use futures_util::future::try_join_all;
use serde_json::Value;

const CASES: u64 = 10;
/// Documents in one group.
const CASES_PER_GROUP: u64 = 20;
const WRITERS: [&str; 3] = ["ben", "cleo", "dana"];

#[derive(Clone)]
enum Content {
    Text(String),
    Json(Value),
}

/// What a writer makes of the copy.
struct Edit {
    new: Content,
    /// Given as the new whole, with what others wrote put in by hand, instead of together with the copy.
    whole: bool,
    append: Option<String>,
}

/// The case, and how its writers meet.
struct Play {
    form: Form,
    writers: usize,
    /// Whose edits wait until all have written.
    away: Vec<bool>,
    /// Whether those who are there write without having seen what the others wrote.
    at_once: bool,
}

enum Form {
    Text(TextCase),
    List(ListCase),
}

impl Play {
    fn new(random: &mut Random, text: bool) -> Self {
        let writers = random.between(2, WRITERS.len());
        let away: Vec<bool> = (0..writers).map(|_| random.below(3) == 0).collect();
        let at_once = random.below(2) == 0;
        let form = if text {
            let words = random.size(10, longest(20_000));
            Form::Text(TextCase::new(random, words))
        } else {
            let length = random.size(1, longest(5_000));
            // Apart, an engine has no moves.
            let moves = !at_once && !away.contains(&true);
            Form::List(ListCase::new(random, length, writers, moves))
        };
        Self {
            form,
            writers,
            away,
            at_once,
        }
    }

    fn begin(&self) -> Content {
        match &self.form {
            Form::Text(case) => Content::Text(case.begin()),
            Form::List(case) => Content::Json(case.begin()),
        }
    }

    fn edit(&mut self, random: &mut Random, writer: usize) -> Edit {
        // A new whole only where nobody else can write between the reading and the writing.
        let alone = self.away[writer] || !self.at_once;
        let whole = alone && random.below(3) == 0;
        match &mut self.form {
            Form::Text(case) => Edit {
                new: Content::Text(case.write(random, writer)),
                whole,
                append: (random.below(3) == 0).then(|| case.append(random, writer)),
            },
            Form::List(case) => Edit {
                new: Content::Json(case.write(random, writer)),
                whole,
                append: None,
            },
        }
    }

    fn apart(&self) -> bool {
        self.at_once || self.away.contains(&true)
    }

    /// Looks at a document of which the beginning was written under these ids.
    async fn check(&self, document: &Document<Any>, first: Vec<ReplicaId>) -> Result<()> {
        match &self.form {
            Form::Text(case) => {
                let shown = document.read(move |crdt| {
                    let text = crdt.text().ok_or(CrdtError::InvalidArgument)?.text()?;
                    Ok::<_, CrdtError>((text, texts::written_by(crdt, &first)))
                });
                let (text, written) = shown.await?;
                case.check(&text, &written);
            }
            Form::List(case) => {
                let shown = document.read(move |crdt| {
                    let value = crdt.json().ok_or(CrdtError::InvalidArgument)?.to_json()?;
                    Ok::<_, CrdtError>((value, lists::written_by(crdt, &first)))
                });
                let (value, written) = shown.await?;
                case.check(&value, &written, self.apart());
            }
        }
        Ok(())
    }
}

/// One who begins, the writers, and their service.
struct Table {
    world: World,
    ana: Client,
    writers: Vec<Client>,
    group: GroupId,
}

impl Table {
    async fn set() -> Result<Self> {
        let world = World::start().await?;
        let ana = world.user("ana").await?;
        let mut writers = Vec::new();
        for name in WRITERS {
            writers.push(world.user(name).await?);
        }
        let all: Vec<&Client> = [&ana].into_iter().chain(&writers).collect();
        verify_all(&all).await?;
        let group = ana.create_group("Board", GroupPolicy::default()).await?;
        for writer in &writers {
            admit(&group, &[writer]).await?;
        }
        Ok(Self {
            group: group.id(),
            world,
            ana,
            writers,
        })
    }

    /// Plays a case and looks at the document as all have it in the end.
    async fn play(&mut self, random: &mut Random, play: &mut Play) -> Result<()> {
        let kind = random.kind();
        let begin = play.begin();
        let content = match begin.clone() {
            Content::Text(text) => FirstContent::Text(text),
            Content::Json(value) => FirstContent::Json(value),
        };
        let operation = Operation::CreateDocument {
            group: self.group,
            kind,
            title: "Minutes".to_owned(),
            content: Some(content),
        };
        let Outcome::Document(id) = run(&self.ana, operation).await? else {
            bail!("no document");
        };
        self.synced(&self.ana, id).await?;
        let writers = 0..play.writers;
        for n in writers.clone() {
            let there = self.document(&self.writers[n], id).await?;
            self.agree(&[self.ana_document(id).await?, there]).await?;
        }
        let here = self.ana_document(id).await?;
        let first = here.read(|crdt| {
            let replicas = crdt.replicas().into_iter();
            Ok::<_, CrdtError>(replicas.map(|(replica, _)| replica).collect())
        });
        let first: Vec<ReplicaId> = first.await?;
        let edits: Vec<Edit> = writers.clone().map(|n| play.edit(random, n)).collect();

        let (away, here): (Vec<usize>, Vec<usize>) = writers.partition(|n| play.away[*n]);
        for n in away.iter().copied() {
            let offline = Config::offline(self.world.store(WRITERS[n]));
            self.reopen(n, offline).await?;
            self.edit(n, id, &begin, &edits[n]).await?;
        }
        if play.at_once {
            let all = here.iter().map(|n| self.edit(*n, id, &begin, &edits[*n]));
            try_join_all(all).await?;
        } else {
            let mut before = self.ana_document(id).await?;
            for n in here {
                let document = self.document(&self.writers[n], id).await?;
                self.agree(&[before, document.clone()]).await?;
                self.edit(n, id, &begin, &edits[n]).await?;
                self.synced(&self.writers[n], id).await?;
                before = document;
            }
        }
        for n in away {
            let config = self.world.config(WRITERS[n]);
            self.reopen(n, config).await?;
        }
        let mut all = vec![self.ana_document(id).await?];
        for client in &self.writers {
            self.synced(client, id).await?;
            all.push(self.document(client, id).await?);
        }
        self.agree(&all).await?;
        play.check(&all[0], first).await
    }

    async fn reopen(&mut self, n: usize, config: Config) -> Result<()> {
        self.writers[n].close().await?;
        self.writers[n] = Client::open(config).await?;
        Ok(())
    }

    async fn document(&self, client: &Client, id: DocumentId) -> Result<Document<Any>> {
        document(&client.group(&self.group).await?, &id).await
    }

    async fn ana_document(&self, id: DocumentId) -> Result<Document<Any>> {
        self.document(&self.ana, id).await
    }

    /// Waits until these show the same.
    async fn agree(&self, documents: &[Document<Any>]) -> Result<()> {
        until("all to show the same", || async {
            let digests = documents
                .iter()
                .map(|document| document.read(|crdt| crdt.content_digest()));
            let digests = try_join_all(digests).await?;
            let same = digests.iter().all(|digest| *digest == digests[0]);
            Ok(same.then_some(()))
        })
        .await
    }

    async fn synced(&self, client: &Client, document: DocumentId) -> Result<()> {
        let operation = Operation::Synced {
            group: self.group,
            document,
            limit_ms: u64::try_from(PATIENCE.as_millis()).ok(),
        };
        run(client, operation).await?;
        Ok(())
    }

    async fn show(&self, client: &Client, document: DocumentId, view: View) -> Result<Content> {
        let operation = Operation::Show {
            group: self.group,
            document,
            view,
        };
        match run(client, operation).await? {
            Outcome::Text(text) => Ok(Content::Text(text)),
            Outcome::Json(value) => Ok(Content::Json(value)),
            _ => bail!("neither text nor JSON"),
        }
    }

    async fn edit(
        &self,
        n: usize,
        document: DocumentId,
        base: &Content,
        edit: &Edit,
    ) -> Result<()> {
        let (client, group, whole) = (&self.writers[n], self.group, edit.whole);
        let operation = match (base.clone(), edit.new.clone()) {
            (Content::Text(base), Content::Text(new)) => {
                let (base, text) = match self.show(client, document, View::Text).await? {
                    Content::Text(now) if whole => (None, merged_text(&base, &new, &now)),
                    _ => (Some(base), new),
                };
                Operation::EditText {
                    group,
                    document,
                    base,
                    text,
                }
            }
            (Content::Json(base), Content::Json(new)) => {
                let (base, value) = match self.show(client, document, View::Json).await? {
                    Content::Json(now) if whole => (None, merged_json(&base, &new, &now)),
                    _ => (Some(base), new),
                };
                Operation::EditJson {
                    group,
                    document,
                    base,
                    value,
                }
            }
            _ => bail!("a text and JSON"),
        };
        let outcome = run(client, operation).await?;
        ensure!(matches!(outcome, Outcome::Done), "the edit is refused");
        if let Some(text) = edit.append.clone() {
            let operation = Operation::Append {
                group,
                document,
                text,
            };
            run(client, operation).await?;
        }
        Ok(())
    }
}

async fn play(form: &str, text: bool) -> Result<()> {
    let cases = variable("CONCLAVE_MERGE_CASES", CASES);
    let first = variable("CONCLAVE_MERGE_SEED", 1);
    let mut table = Table::set().await?;
    for n in 0..cases {
        if n > 0 && n % CASES_PER_GROUP == 0 {
            table = Table::set().await?;
        }
        let told = Told(format!("{form}: seed {}", first + n));
        let mut random = Random::new(first + n);
        let mut play = Play::new(&mut random, text);
        let played = table.play(&mut random, &mut play).await;
        played.with_context(|| told.0.clone())?;
    }
    println!("{form}: {cases} cases from seed {first}");
    Ok(())
}

/// Tells the seed of a case that fails.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_several_edit_here_and_away_stay_whole() -> Result<()> {
    play("texts", true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_several_edit_here_and_away_stay_whole() -> Result<()> {
    play("lists", false).await
}
