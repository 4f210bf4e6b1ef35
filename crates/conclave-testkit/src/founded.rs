//! A group with real keys, whose entries the real core judges and orders into a database: what they cost is counted.

use anyhow::{Context as _, Result, bail};
use conclave_doc::{DocKeys, seal};
use conclave_mls::{ClientGroup, Plan, PublicGroupState, RowChange};
use conclave_order::op::entry::NewEntry;
use conclave_order::op::group::CreateGroup;
use conclave_order::op::identity::{Claim, Door, Newcomer};
use conclave_order::query::group::{Core, restore};
use conclave_order::{Asker, Backend, Batch, Change, Event, Failure, Keys, Op, Rows, Transaction};
use conclave_order::{rows::RecordRow, run_batch};
use conclave_proto::group::GroupEntry;
use conclave_proto::record::{EntryBody, RECORD_VERSION, RecordBody, RecordHeader, SnapshotHeader};
use conclave_proto::{Author, DocumentId, GroupId, GroupPolicy, Hash, Head, InstanceId, Record};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::database::Database;
use crate::members::{Member, NOW, strangers};
use crate::records::CRDT;
use crate::world::{LIMITS, log_in};

/// The group.
pub const GROUP: GroupId = GroupId([7; 16]);
const INSTANCE: InstanceId = InstanceId([1; 8]);

/// What an entry made its two sides write beside itself, in bytes of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The service.
    pub service: usize,
    /// The member who made it.
    pub member: usize,
}

/// The group, with its owner and what orders.
pub struct Founded<D: Database> {
    /// The database.
    pub database: D,
    store: Counting<D::Store>,
    owner: Member,
    group: ClientGroup,
    core: PublicGroupState,
    version: u64,
    made: u64,
    rng: ChaCha20Rng,
}

impl<D: Database> Founded<D> {
    /// A group of so many members; all but the first came in with one commit.
    ///
    /// # Errors
    /// When a step fails.
    pub async fn of(members: usize) -> Result<Self> {
        let mut rng = ChaCha20Rng::seed_from_u64(u64::try_from(members)?);
        let owner = Member::new(&mut rng)?;
        let (group, created) =
            ClientGroup::create(&owner.context(), GROUP, GroupPolicy::default(), NOW)?;
        let database = D::create().await?;
        let mut store = Counting {
            inner: database.store().await?,
            bytes: 0,
        };
        let who = Newcomer {
            user: owner.user,
            device: owner.device,
            key: owner.key.public().to_vec(),
        };
        let by = Asker {
            device: owner.device,
            user: owner.user,
            session: 1,
        };
        let offer = (created.group_info.as_slice(), created.tree.as_slice());
        let new = CreateGroup::judge(by, offer, NOW, NOW)?;
        for op in [
            log_in(who, Door::Open, Claim::default(), NOW),
            Op::CreateGroup(Box::new(new)),
        ] {
            run(&mut store, op).await?;
        }
        let Core { state, version } = restored(&database).await?;
        let mut founded = Self {
            database,
            store,
            owner,
            group,
            core: state,
            version,
            made: 0,
            rng,
        };
        let directory = founded.prepare_document(DocumentId::directory(&GROUP))?;
        founded.create(directory).await?;
        if members > 1 {
            let add = strangers(members - 1, &mut founded.rng)?;
            let plan = Plan {
                add,
                ..Plan::default()
            };
            founded.commit(&plan).await?;
        }
        Ok(founded)
    }

    /// Commits.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn commit(&mut self, plan: &Plan) -> Result<Written> {
        let prepared = self.owner.commit(&mut self.group, plan)?;
        let device = self.owner.device;
        let judged = self.core.judge_bundle(&prepared.bundle, device, NOW)?;
        let new = NewEntry::of_commit(&mut self.core, self.version, judged, device)?;
        let entry = new.entry.clone();
        self.enter(new).await?;
        self.follow(&entry)
    }

    /// A document's entry and first snapshot, as they come from their author.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn prepare(&mut self) -> Result<(Record, Record)> {
        self.made += 1;
        let mut document = DocumentId::ZERO;
        // Anywhere among the others.
        let place = conclave_proto::hash::labelled("document", &[&self.made.to_be_bytes()]);
        document
            .0
            .copy_from_slice(place.0.get(..16).context("short")?);
        self.prepare_document(document)
    }

    fn prepare_document(&mut self, document: DocumentId) -> Result<(Record, Record)> {
        let author = Author {
            device: self.owner.device,
            instance: INSTANCE,
        };
        let body = EntryBody::DocumentCreated {
            document,
            crdt: CRDT,
        };
        let entry = self.group.sign_entry(&self.owner.context(), body, INSTANCE);
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: GROUP,
            document,
            epoch: self.group.epoch(),
            author,
            seen: Head::EMPTY,
            body: RecordBody::Snapshot(SnapshotHeader {
                parent: Hash::ZERO,
                chain_proof: Hash::ZERO,
                covered: Head::EMPTY,
                crdt: CRDT,
            }),
        };
        let keys = DocKeys::derive(&self.group.epoch_secrets()?.root, &document);
        let first = seal(&header, b"first", &keys, &self.owner.key, 1, &mut self.rng);
        Ok((entry, first))
    }

    /// Judges and orders a document. Its author does not learn of it.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn order(&mut self, (entry, first): (Record, Record)) -> Result<()> {
        let device = self.owner.device;
        let new = NewEntry::document(&mut self.core, self.version, entry, first, device)?;
        self.enter(new).await
    }

    /// Judges and orders a document, and its author follows.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn create(&mut self, new: (Record, Record)) -> Result<Written> {
        let entry = GroupEntry::Signed(new.0.clone());
        self.order(new).await?;
        self.follow(&entry)
    }

    async fn enter(&mut self, new: NewEntry) -> Result<()> {
        self.store.bytes = 0;
        let event = run(&mut self.store, Op::Enter(Box::new(new))).await?;
        let Event::Ordered { .. } = event else {
            bail!("not ordered: {event:?}");
        };
        self.version += 1;
        Ok(())
    }

    fn follow(&mut self, entry: &GroupEntry) -> Result<Written> {
        self.group.take_changes();
        self.group.process(entry)?;
        let changes = self.group.take_changes();
        Ok(Written {
            service: self.store.bytes,
            member: changes.iter().map(row_bytes).sum(),
        })
    }

    /// How many documents there are.
    #[must_use]
    pub fn documents(&self) -> usize {
        self.core.state().documents.size()
    }

    /// The public state as it was judged, and as it is read again.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn both(&self) -> Result<(&PublicGroupState, PublicGroupState)> {
        Ok((&self.core, restored(&self.database).await?.state))
    }

    /// Goes on by what is stored.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn restart(&mut self) -> Result<()> {
        let Core { state, version } = restored(&self.database).await?;
        (self.core, self.version) = (state, version);
        Ok(())
    }
}

/// The group as a database has it.
///
/// # Errors
/// When it cannot be read.
pub async fn restored<D: Database>(database: &D) -> Result<Core> {
    let mut reads = database.reader().await?;
    // Little of the log at once.
    let core = restore(&mut reads, GROUP, 4096).await?;
    core.context("no group")
}

async fn run<B: Backend>(store: &mut B, op: Op) -> Result<Event> {
    let mut last = None;
    for ended in run_batch(store, Batch::new(vec![op], LIMITS), &()).await {
        let end = ended.end();
        if let Some(failure) = ended.failure {
            return Err(failure.into());
        }
        last = ended.batch.finish(end).pop();
    }
    match last.context("no event")? {
        Event::Refused(refusal) => Err(refusal.into()),
        event => Ok(event),
    }
}

fn row_bytes(change: &RowChange) -> usize {
    change.key.len() + change.value.as_ref().map_or(0, |value| value.len())
}

/// A backend that counts what is written.
struct Counting<B> {
    inner: B,
    bytes: usize,
}

struct CountingTx<'a, B: Backend + 'a> {
    inner: B::Tx<'a>,
    bytes: &'a mut usize,
}

impl<B: Backend> Backend for Counting<B> {
    type Tx<'a>
        = CountingTx<'a, B>
    where
        Self: 'a;

    async fn begin(&mut self) -> Result<CountingTx<'_, B>, Failure> {
        Ok(CountingTx {
            inner: self.inner.begin().await?,
            bytes: &mut self.bytes,
        })
    }

    async fn recover(&mut self, after: &Failure) -> bool {
        self.inner.recover(after).await
    }
}

impl<B: Backend> Transaction for CountingTx<'_, B> {
    async fn load(&mut self, keys: &Keys) -> Result<Rows, Failure> {
        self.inner.load(keys).await
    }

    async fn write(&mut self, changes: Vec<Change>) -> Result<(), Failure> {
        *self.bytes += changes.iter().map(bytes_of).sum::<usize>();
        self.inner.write(changes).await
    }

    async fn commit(self) -> Result<(), Failure> {
        self.inner.commit().await
    }
}

/// Bytes of what has no fixed size.
fn bytes_of(change: &Change) -> usize {
    let record = |record: &RecordRow| {
        let parts = [&record.header, &record.sealed];
        parts
            .into_iter()
            .flatten()
            .map(bytes::Bytes::len)
            .sum::<usize>()
    };
    match change {
        Change::Parts { parts, .. } => {
            let value = |value: &Option<bytes::Bytes>| value.as_ref().map_or(0, bytes::Bytes::len);
            let parts = parts.iter();
            parts.map(|it| it.part.len() + value(&it.value)).sum()
        }
        Change::Join { row, .. } => row.state.len() + row.tree.len() + row.welcome.len(),
        Change::Append { records, .. } => records.iter().map(record).sum(),
        _ => 0,
    }
}
