//! What ordering asks of storage.
//!
//! A backend knows nothing of operations: it loads rows by their keys and writes changes, all in one transaction that is durable once it is
//! committed. Whatever a transaction has loaded stays so until it ends, or [`Transaction::write`] and [`Transaction::commit`] find a
//! conflict.

use std::future::Future;

use conclave_proto::{Author, GroupId, Record};
use conclave_rules::LogId;

use crate::batch::{Batch, End, Step};
use crate::change::Change;
use crate::keys::{Keys, Rows};
use crate::limits::CONFLICT_TRIES;
use crate::rows::{ActiveRow, DocumentRow, EntryRow, PleaRow, RecordRow};

/// What a backend says of a failure.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a transaction did not take place, or is not known to have.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It did not begin.
    #[error("a transaction did not begin")]
    NotBegun(#[source] Cause),
    /// It failed before its end: nothing of it took place.
    #[error("a transaction failed")]
    Undone(#[source] Cause),
    /// There was no room: nothing of it took place.
    #[error("there is no room")]
    Full(#[source] Cause),
    /// Somebody else changed what it had compared: nothing of it took place.
    #[error("others changed the same")]
    Conflict,
    /// A stored row is not what was stored: nothing of it took place.
    #[error("a stored {what} is not valid")]
    Corrupt {
        /// What.
        what: &'static str,
    },
    /// Its end is unknown.
    #[error("it is not known how a transaction ended")]
    Unknown(#[source] Cause),
}

impl Failure {
    /// How the transaction ended.
    #[must_use]
    pub fn end(&self) -> End {
        match self {
            Self::Unknown(_) => End::Unknown,
            _ => End::Undone,
        }
    }

    /// A backend does not know a change: nothing is acknowledged that it did not write.
    #[must_use]
    pub fn unwritten() -> Self {
        Self::Undone("a change that nothing writes".into())
    }

    /// Whether one operation may be to blame, so that others can go without it.
    fn may_be_of_one(&self) -> bool {
        matches!(self, Self::Undone(_) | Self::Full(_) | Self::Corrupt { .. })
    }
}

/// Where rows are written. One for each who writes.
pub trait Backend: Send {
    /// Its transactions. One that is dropped was not.
    type Tx<'a>: Transaction
    where
        Self: 'a;

    /// Begins a transaction. No other is open on this backend.
    fn begin(&mut self) -> impl Future<Output = Result<Self::Tx<'_>, Failure>> + Send;

    /// Makes it usable after a failure. False where that did not succeed: what was written before may not be what is read next.
    fn recover(&mut self, after: &Failure) -> impl Future<Output = bool> + Send;
}

/// A transaction.
pub trait Transaction: Send + Sized {
    /// Reads rows, with what this transaction has written. What is not there is none.
    fn load(&mut self, keys: &Keys) -> impl Future<Output = Result<Rows, Failure>> + Send;

    /// Writes changes in their order.
    fn write(&mut self, changes: Vec<Change>) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes them durable.
    fn commit(self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A stretch of a log: from a position on, before another, and no more bytes than so many after at least one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// First position.
    pub from: u64,
    /// Position after the last.
    pub end: u64,
    /// Bytes after which nothing further is read.
    pub bytes: usize,
}

/// A record in full, or its leaf where only that is kept.
#[derive(Debug, Clone, PartialEq)]
pub enum WholeRecord {
    /// In full.
    Whole {
        /// The record.
        record: Box<Record>,
        /// Size that the snapshot active before it covers.
        covered: u64,
    },
    /// Only the leaf is kept.
    Leaf(conclave_proto::Hash),
}

/// Reads what is durable, beside those who write.
pub trait Reader: Send {
    /// Reads rows at one moment.
    fn load(&mut self, keys: &Keys) -> impl Future<Output = Result<Rows, Failure>> + Send;

    /// Entries of a group's log, in order.
    fn entries(
        &mut self,
        group: &GroupId,
        bounds: Bounds,
    ) -> impl Future<Output = Result<Vec<EntryRow>, Failure>> + Send;

    /// Signed entries of a group's log before a position, in order.
    fn signed_entries(
        &mut self,
        group: &GroupId,
        end: u64,
    ) -> impl Future<Output = Result<Vec<EntryRow>, Failure>> + Send;

    /// Records of a document's log, in order; without what is sealed in snapshots.
    fn records(
        &mut self,
        log: &LogId,
        bounds: Bounds,
    ) -> impl Future<Output = Result<Vec<RecordRow>, Failure>> + Send;

    /// One record in full; the header of a chained one is put together again from the log.
    fn whole(
        &mut self,
        log: &LogId,
        seq: u64,
    ) -> impl Future<Output = Result<Option<WholeRecord>, Failure>> + Send;

    /// Authors of a document, in the order of their numbers.
    fn authors(&mut self, log: &LogId)
    -> impl Future<Output = Result<Vec<Author>, Failure>> + Send;

    /// Open documents of a group, the oldest first.
    fn open_documents(
        &mut self,
        group: &GroupId,
    ) -> impl Future<Output = Result<Vec<(LogId, DocumentRow, ActiveRow)>, Failure>> + Send;

    /// Pleas in a group of devices that have their standing, the oldest first.
    fn pleas(
        &mut self,
        group: &GroupId,
    ) -> impl Future<Output = Result<Vec<PleaRow>, Failure>> + Send;
}

/// A batch, and how its transaction ended.
#[derive(Debug)]
pub struct Ended {
    /// The batch.
    pub batch: Batch,
    /// What went wrong, where something did.
    pub failure: Option<Failure>,
}

impl Ended {
    /// How it ended.
    #[must_use]
    pub fn end(&self) -> End {
        self.failure.as_ref().map_or(End::Committed, Failure::end)
    }
}

/// Who watches a batch on its way.
pub trait Watch: Sync {
    /// It is about to be made durable, which takes a while.
    fn committing(&self) {}

    /// It failed; whether the backend is usable again.
    fn failed(&self, failure: &Failure, is_usable: bool) {
        let _ = (failure, is_usable);
    }
}

/// Nobody.
impl Watch for () {}

/// Runs a batch in one transaction. Where one of its operations may be what storage stumbles over, or has no room for, each gets a transaction
/// of its own.
///
/// Gives the batches in the order of their operations.
pub async fn run_batch<B: Backend>(store: &mut B, batch: Batch, watch: &impl Watch) -> Vec<Ended> {
    let mut batch = batch;
    let failed = attempt(store, &mut batch, watch).await.err();
    let others = batch.len() > 1;
    if !(others && failed.as_ref().is_some_and(Failure::may_be_of_one)) {
        return vec![Ended {
            batch,
            failure: failed,
        }];
    }
    let mut ended = Vec::new();
    for mut batch in batch.split() {
        let failure = attempt(store, &mut batch, watch).await.err();
        ended.push(Ended { batch, failure });
    }
    ended
}

async fn attempt<B: Backend>(
    store: &mut B,
    batch: &mut Batch,
    watch: &impl Watch,
) -> Result<(), Failure> {
    let mut conflicts = 0;
    loop {
        match transact(store, batch, watch).await {
            Ok(true) => return Ok(()),
            // What leaned on frames that cannot stand is cut off: twice at most.
            Ok(false) => {}
            Err(failure) => {
                conflicts += 1;
                let usable = store.recover(&failure).await;
                watch.failed(&failure, usable);
                let again = matches!(failure, Failure::Conflict) && conflicts < CONFLICT_TRIES;
                if !again || !usable {
                    return Err(failure);
                }
            }
        }
        batch.restart();
    }
}

/// False: some of it would not be covered by any signature, and nothing took place.
async fn transact<B: Backend>(
    store: &mut B,
    batch: &mut Batch,
    watch: &impl Watch,
) -> Result<bool, Failure> {
    let mut tx = store.begin().await?;
    let mut wanted = Box::new(batch.keys());
    loop {
        let rows = tx.load(&wanted).await?;
        let decided = batch.decided();
        match batch.apply(rows) {
            Step::Done => break,
            // A backend that does not say even that a row is not there would be asked for ever. One operation after the other may need the
            // same row, which the one before it has changed.
            Step::Need(keys) if keys == wanted && batch.decided() == decided => {
                return Err(Failure::Corrupt { what: "row" });
            }
            Step::Need(keys) => wanted = keys,
        }
        tx.write(batch.take_changes()).await?;
    }
    if !batch.is_covered() {
        return Ok(false);
    }
    tx.write(batch.take_changes()).await?;
    watch.committing();
    tx.commit().await?;
    Ok(true)
}
