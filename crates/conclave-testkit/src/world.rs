//! A database, and operations on it that nobody had to sign: what is judged outside transactions is taken as judged.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use conclave_order::limits::Limits;
use conclave_order::op::entry::{Begins, Does, NewEntry};
use conclave_order::op::group::CreateGroup;
use conclave_order::op::identity::{Claim, Door, LogIn, Newcomer};
use conclave_order::rows::{ActiveRow, DocumentRow, GroupRow, JoinRow, PartChange};
use conclave_order::{Asked, Batch, Event, Keys, Op, Reader, Rows, run_batch};
use conclave_proto::group::{GroupEntry, RootWrap, WrapStatement};
use conclave_proto::record::{
    EntryBody, RECORD_VERSION, Record, RecordBody, RecordHeader, SnapshotHeader,
};
use conclave_proto::{
    Author, DeviceId, DocumentId, Frontier, GroupId, Hash, Head, InstanceId, LifeToken, Refusal,
    UnixMs, UserId,
};
use conclave_rules::LogId;

use crate::database::Database;
use crate::ids::{device, some_hash, user_of};
use crate::records::{CRDT, sealed, snapshot, snapshot_record, updates};

/// Records that a document takes after what its snapshot covers.
pub const LIMITS: Limits = Limits {
    tail_records: 40,
    user_bytes: None,
    group_bytes: None,
};
/// When everything begins.
pub const START: UnixMs = UnixMs(1_700_000_000_000);
/// A database with one driver.
pub struct World<D: Database> {
    /// The database.
    pub database: D,
    /// Its driver.
    pub store: D::Store,
}

impl<D: Database> World<D> {
    /// An empty one.
    ///
    /// # Errors
    /// When there can be none.
    pub async fn new() -> Result<Self> {
        let database = D::create().await?;
        let store = database.store().await?;
        Ok(Self { database, store })
    }

    /// One with three devices of three users, a group of the first, and a document in it.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn furnished() -> Result<Self> {
        let mut world = Self::new().await?;
        let log = crate::ids::log(1, 1);
        let ops = vec![admit(10), admit(20), admit(30), found(log.group, 10)];
        world.accepted(ops).await?;
        world.begin(log, 10).await?;
        Ok(world)
    }

    /// Runs operations in one transaction, which has to take place.
    ///
    /// # Errors
    /// When it does not.
    pub async fn run(&mut self, ops: Vec<impl Into<Asked>>) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let all = run_batch(&mut self.store, Batch::new(ops, LIMITS), &()).await;
        ensure!(all.len() == 1, "{} transactions", all.len());
        for ended in all {
            let end = ended.end();
            if let Some(failure) = ended.failure {
                return Err(failure.into());
            }
            ensure!(ended.batch.damaged().is_empty(), "damaged");
            events.extend(ended.batch.finish(end));
        }
        Ok(events)
    }

    /// Runs one operation.
    ///
    /// # Errors
    /// When the transaction does not take place.
    pub async fn one(&mut self, op: impl Into<Asked>) -> Result<Event> {
        let event = self.run(vec![op]).await?.pop();
        event.context("no event")
    }

    /// Runs operations of which none may be refused.
    ///
    /// # Errors
    /// When one is.
    pub async fn accepted(&mut self, ops: Vec<impl Into<Asked>>) -> Result<Vec<Event>> {
        let events = self.run(ops).await?;
        for event in &events {
            ensure!(refusal(event).is_none(), "{event:?}");
        }
        Ok(events)
    }

    /// Runs an operation that has to be refused.
    ///
    /// # Errors
    /// When it is not.
    pub async fn refused(&mut self, op: impl Into<Asked>) -> Result<Refusal> {
        let event = self.one(op).await?;
        refusal(&event).with_context(|| format!("{event:?}"))
    }

    /// Loads rows that are durable.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn load(&self, want: impl FnOnce(&mut Keys)) -> Result<Rows> {
        let mut keys = Keys::default();
        want(&mut keys);
        Ok(self.database.reader().await?.load(&keys).await?)
    }

    /// Where a group stands.
    ///
    /// # Errors
    /// When there is none.
    pub async fn group(&self, group: GroupId) -> Result<GroupRow> {
        let mut rows = self.load(|keys| _ = keys.groups.insert(group)).await?;
        rows.groups.remove(&group).flatten().context("no group")
    }

    /// Where a document stands.
    ///
    /// # Errors
    /// When there is none.
    pub async fn document(&self, log: LogId) -> Result<(DocumentRow, ActiveRow)> {
        let mut rows = self
            .load(|keys| {
                keys.documents.insert(log);
                keys.actives.insert(log);
            })
            .await?;
        let row = rows.documents.remove(&log).flatten();
        let active = rows.actives.remove(&log).flatten();
        row.zip(active).context("no document")
    }

    /// Begins a document.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn begin(&mut self, log: LogId, by: u8) -> Result<()> {
        let at = self.group(log.group).await?;
        self.accepted(vec![create_document(log, by, at)]).await?;
        Ok(())
    }

    /// An author's next clock and last leaf.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn chain(&self, log: LogId, author: Author) -> Result<(u64, Hash)> {
        let key = (log, author);
        let rows = self.load(|keys| _ = keys.authors.insert(key)).await?;
        let row = rows.authors.get(&key).copied().flatten();
        Ok(row.map_or((0, Hash::ZERO), |row| (row.next_clock, row.last_leaf)))
    }

    /// Updates that may follow, so many.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn updates(&self, log: LogId, author: Author, count: u64) -> Result<Op> {
        let epoch = self.group(log.group).await?.epoch;
        let chain = self.chain(log, author).await?;
        Ok(updates(log, author, epoch, chain, count))
    }

    /// A snapshot that may follow and covers everything.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn snapshot(&self, log: LogId, by: u8, now: UnixMs) -> Result<Op> {
        let (row, active) = self.document(log).await?;
        let epoch = self.group(log.group).await?.epoch;
        let covered = row.frontier.head();
        Ok(snapshot(log, by, epoch, &active, covered, now))
    }
}

/// Why an operation was refused.
#[must_use]
pub fn refusal(event: &Event) -> Option<Refusal> {
    match event {
        Event::Refused(refusal) | Event::RecordsRefused { refusal, .. } => Some(refusal.clone()),
        _ => None,
    }
}

/// A device logs in.
#[must_use]
pub fn admit(n: u8) -> Op {
    admit_through(n, Door::Open, START)
}

/// A device logs in through a door.
#[must_use]
pub fn admit_through(n: u8, door: Door, now: UnixMs) -> Op {
    let who = Newcomer {
        user: user_of(n),
        device: device(n),
        key: vec![n; 32],
    };
    log_in(who, door, Claim::default(), now)
}

/// A device logs in. The token for its next life says which device it is, and when.
#[must_use]
pub fn log_in(who: Newcomer, door: Door, claim: Claim, now: UnixMs) -> Op {
    let mut fresh = LifeToken::default();
    fresh.0[..8].copy_from_slice(&who.device.0[..8]);
    fresh.0[8..].copy_from_slice(&now.0.to_be_bytes());
    Op::LogIn(Box::new(LogIn {
        who,
        door,
        claim,
        fresh,
        now,
    }))
}

/// A device founds a group.
#[must_use]
pub fn found(group: GroupId, by: u8) -> Op {
    Op::CreateGroup(Box::new(CreateGroup {
        group,
        device: device(by),
        user: user_of(by),
        genesis: some_hash(u64::from(by)),
        root: Frontier::new().root(),
        parts: vec![part("epoch", 0), part("log", 0)],
        founded: START,
        now: START,
    }))
}

fn signed_entry(group: GroupId, by: u8, epoch: u64, body: EntryBody, nonce: u64) -> Record {
    let header = RecordHeader {
        version: RECORD_VERSION,
        group,
        document: DocumentId::ZERO,
        epoch,
        author: Author {
            device: device(by),
            instance: InstanceId(nonce.to_be_bytes()),
        },
        seen: Head::EMPTY,
        body: RecordBody::Entry(body),
    };
    Record {
        header,
        sealed: sealed(0, 0),
    }
}

/// A row of a public state; nobody reads it.
fn part(name: &str, value: u64) -> PartChange {
    PartChange {
        part: Bytes::copy_from_slice(name.as_bytes()),
        value: Some(Bytes::copy_from_slice(&value.to_be_bytes())),
    }
}

fn enter(at: GroupRow, group: GroupId, by: u8, entry: GroupEntry, does: Does) -> Op {
    let size = at.size.saturating_add(1);
    let mut parts = vec![part("log", size)];
    match &does {
        Does::Commit(begins) => parts.extend([
            part("epoch", begins.epoch),
            PartChange {
                part: Bytes::from_static(b"waiting"),
                value: None,
            },
        ]),
        Does::Propose => parts.push(part("waiting", size)),
        Does::Put | Does::PutAgain => {}
        Does::CreateDocument { first, .. } => {
            parts.push(part(&format!("{:?}", first.header.document), size));
        }
    }
    Op::Enter(Box::new(NewEntry {
        group,
        device: device(by),
        expected: at.at(),
        entry,
        head: Head {
            size,
            root: some_hash(size),
        },
        parts,
        does,
    }))
}

/// A new document.
#[must_use]
pub fn create_document(log: LogId, by: u8, at: GroupRow) -> Op {
    let body = EntryBody::DocumentCreated {
        document: log.document,
        crdt: CRDT,
    };
    let entry = signed_entry(log.group, by, at.epoch, body, 0);
    let header = SnapshotHeader {
        parent: Hash::ZERO,
        chain_proof: Hash::ZERO,
        covered: Head::EMPTY,
        crdt: CRDT,
    };
    let first = snapshot_record(log, by, at.epoch, header, Head::EMPTY);
    let does = Does::CreateDocument {
        first: Box::new(first),
        crdt: CRDT,
    };
    enter(at, log.group, by, GroupEntry::Signed(entry), does)
}

/// A signed entry; `nonce` tells equal ones apart.
#[must_use]
pub fn put_entry(group: GroupId, by: u8, at: GroupRow, body: EntryBody, nonce: u64) -> Op {
    let entry = signed_entry(group, by, at.epoch, body, nonce);
    enter(at, group, by, GroupEntry::Signed(entry), Does::Put)
}

/// A standalone proposal.
#[must_use]
pub fn propose(group: GroupId, by: u8, at: GroupRow, nonce: u64) -> Op {
    let entry = GroupEntry::Proposal(nonce.to_be_bytes().to_vec().into());
    enter(at, group, by, entry, Does::Propose)
}

/// Who comes and goes with a commit.
#[derive(Debug, Clone, Default)]
pub struct Moves {
    /// Devices that are added.
    pub added: Vec<u8>,
    /// Devices that are removed.
    pub removed: Vec<u8>,
    /// Users that have a member afterwards.
    pub users: BTreeSet<UserId>,
}

/// A commit; `nonce` tells equal ones apart.
#[must_use]
pub fn commit(group: GroupId, by: u8, at: GroupRow, moves: &Moves, nonce: u64) -> Op {
    let epoch = at.epoch.saturating_add(1);
    let devices = |of: &[u8]| of.iter().map(|n| device(*n)).collect::<Vec<DeviceId>>();
    let state = Bytes::from(nonce.to_be_bytes().to_vec());
    let wrap = wrap(group, epoch, by);
    let join = (!moves.added.is_empty()).then(|| JoinRow {
        size: at.size.saturating_add(1),
        frontier: Frontier::new(),
        state: state.clone(),
        tree: state.clone(),
        wrap: wrap.clone(),
        welcome: state.clone(),
    });
    let begun = moves.added.iter().map(|n| (device(*n), user_of(*n)));
    let begins = Begins {
        epoch,
        wrap: Some(wrap),
        added: devices(&moves.added),
        removed: devices(&moves.removed),
        begun: begun.collect(),
        users: moves.users.clone(),
        due: !moves.removed.is_empty(),
        join,
    };
    let entry = GroupEntry::Commit(nonce.to_be_bytes().to_vec().into());
    enter(at, group, by, entry, Does::Commit(Box::new(begins)))
}

/// A root wrap.
#[must_use]
pub fn wrap(group: GroupId, epoch: u64, by: u8) -> RootWrap {
    RootWrap {
        statement: WrapStatement {
            group,
            epoch,
            commit: Hash::ZERO,
            roster: Hash::ZERO,
            nonce: [by; 24],
            ciphertext: vec![by].into(),
        },
        signer: device(by),
        signature: [by; 64],
    }
}
