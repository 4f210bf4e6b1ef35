//! The one writer: group commit.
//!
//! Jobs wait in a bounded queue. The writer takes what waits, up to a bound, runs it in one `BEGIN IMMEDIATE` transaction, each job in a
//! savepoint of its own so that a refused one undoes nothing of the others, commits durably, and only then are jobs finished: caches
//! advanced, frames pushed, callers answered. Finishing happens in the order of the commits, on a task of its own, while the next
//! transaction is already under way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use conclave_proto::Refusal;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::open::{DirectoryLock, Place, connect_writer};
use super::{OpError, StoreError, is_full};
use crate::document::append::{AppendJob, apply_all, publish_all};
use crate::limits;

/// What an operation on the writing connection gives.
pub(crate) type OpFuture<'c, T> = Pin<Box<dyn Future<Output = Result<T, OpError>> + Send + 'c>>;

/// One job of the writer.
enum Job {
    /// Records for a document. Neighbours in the queue are executed together.
    Append(Box<AppendJob>),
    /// Anything else.
    Call(Box<dyn Call>),
}

impl Job {
    fn weight(&self) -> usize {
        match self {
            Self::Append(job) => job.bytes(),
            Self::Call(_) => 0,
        }
    }
}

/// An operation with its caller.
trait Call: Send {
    /// Runs inside a savepoint. False: undo it.
    fn run<'c>(
        &'c mut self,
        conn: &'c mut SqliteConnection,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'c>>;
    /// Called in order, after the transaction is durable or is known not to be.
    fn finish(self: Box<Self>, committed: bool);
}

struct CallJob<T, F, A> {
    operation: Option<F>,
    after: A,
    outcome: Result<T, Refusal>,
    reply: oneshot::Sender<Result<T, Refusal>>,
}

impl<T, F, A> Call for CallJob<T, F, A>
where
    T: Send,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> OpFuture<'c, T> + Send,
    A: FnOnce(&T) + Send,
{
    fn run<'c>(
        &'c mut self,
        conn: &'c mut SqliteConnection,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'c>> {
        Box::pin(async move {
            if let Some(operation) = self.operation.take() {
                self.outcome = operation(conn).await.map_err(OpError::into_refusal);
            }
            self.outcome.is_ok()
        })
    }

    fn finish(self: Box<Self>, committed: bool) {
        let job = *self;
        let outcome = if committed {
            job.outcome
        } else {
            Err(Refusal::Storage)
        };
        if let Ok(value) = &outcome {
            (job.after)(value);
        }
        // Whoever asked may be gone; what was done stays done.
        let _ = job.reply.send(outcome);
    }
}

/// The way to the writer.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Job>,
}

impl Writer {
    /// Runs an operation in the next transaction; answers once it is durable.
    pub(crate) async fn call<T, F>(&self, operation: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> OpFuture<'c, T> + Send + 'static,
    {
        self.call_then(operation, |_| ()).await
    }

    /// As [`Writer::call`]; `after` runs once the operation is durable, in the order of all jobs, before the caller is answered. It
    /// runs even when the caller has gone away.
    pub(crate) async fn call_then<T, F, A>(&self, operation: F, after: A) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> OpFuture<'c, T> + Send + 'static,
        A: FnOnce(&T) + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = CallJob {
            operation: Some(operation),
            after,
            outcome: Err(Refusal::Storage),
            reply,
        };
        let sent = self.queue.send(Job::Call(Box::new(job))).await;
        if sent.is_err() {
            return Err(Refusal::ShuttingDown);
        }
        answer.await.unwrap_or(Err(Refusal::ShuttingDown))
    }

    /// Queues records; whatever becomes of them is told through the job itself. Gives the job back when the service is stopping.
    pub(crate) async fn append(&self, job: Box<AppendJob>) -> Result<(), Box<AppendJob>> {
        match self.queue.send(Job::Append(job)).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendError(Job::Append(job))) => Err(job),
            Err(mpsc::error::SendError(Job::Call(_))) => Ok(()),
        }
    }
}

/// What the writer's task needs.
pub(crate) struct WriterSetup {
    /// The connection, with the schema up to date.
    pub(crate) connection: SqliteConnection,
    /// For opening it again after a failure.
    pub(crate) place: Place,
    /// Held until the last write.
    pub(crate) lock: Arc<DirectoryLock>,
    /// Called when it is not known what became of a transaction: whatever is cached may be wrong.
    pub(crate) doubt: Box<dyn Fn() + Send + Sync>,
    /// Ends the writer: what is queued is still written, then the write-ahead log is folded in.
    pub(crate) stop: CancellationToken,
}

/// Starts the writer.
pub(crate) fn start(setup: WriterSetup, tasks: &TaskTracker) -> Writer {
    let (queue, jobs) = mpsc::channel(limits::WRITER_QUEUE_JOBS);
    let (publish, batches) = mpsc::channel(limits::PUBLISH_QUEUE_BATCHES);
    tasks.spawn(run(setup, jobs, publish));
    tasks.spawn(publisher(batches));
    Writer { queue }
}

struct Batch {
    jobs: Vec<Job>,
    committed: bool,
}

async fn publisher(mut batches: mpsc::Receiver<Batch>) {
    while let Some(batch) = batches.recv().await {
        let mut appends = Vec::new();
        for job in batch.jobs {
            match job {
                Job::Append(job) => appends.push(*job),
                Job::Call(call) => {
                    publish_all(std::mem::take(&mut appends), batch.committed);
                    call.finish(batch.committed);
                }
            }
        }
        publish_all(appends, batch.committed);
    }
}

async fn run(mut setup: WriterSetup, mut jobs: mpsc::Receiver<Job>, publish: mpsc::Sender<Batch>) {
    let stop = setup.stop.clone();
    loop {
        let first = tokio::select! {
            biased;
            job = jobs.recv() => job,
            () = stop.cancelled(), if !jobs.is_closed() => {
                jobs.close();
                continue;
            }
        };
        let Some(first) = first else { break };
        let mut batch = gather(first, &mut jobs);
        let mut outcome = transact(&mut setup.connection, &mut batch).await;
        if outcome.is_ok() {
            // Breakage: answers before anything is durable.
            if crate::broken("ack-before-durable") {
                let jobs = std::mem::take(&mut batch);
                let committed = true;
                let _ = publish.send(Batch { jobs, committed }).await;
            }
            outcome = commit(&mut setup.connection).await;
        }
        let committed = match outcome {
            Ok(()) => true,
            Err(failure) => {
                failure.report();
                recover(&mut setup, &failure).await;
                false
            }
        };
        if publish
            .send(Batch {
                jobs: batch,
                committed,
            })
            .await
            .is_err()
        {
            break;
        }
    }
    drop(publish);
    fold_in(setup).await;
}

/// Takes what waits behind `first`, up to the bounds.
fn gather(first: Job, jobs: &mut mpsc::Receiver<Job>) -> Vec<Job> {
    let mut bytes = first.weight();
    let mut batch = vec![first];
    while batch.len() < limits::WRITER_BATCH_JOBS && bytes < limits::WRITER_BATCH_BYTES {
        let Ok(job) = jobs.try_recv() else { break };
        bytes = bytes.saturating_add(job.weight());
        batch.push(job);
    }
    batch
}

/// Why a transaction as a whole did not take place.
enum Failure {
    /// It did not begin.
    NotBegun(sqlx::Error),
    /// It failed before its end: nothing of it took place once it is rolled back.
    Undone(sqlx::Error),
    /// Its end is unknown.
    Unknown(sqlx::Error),
}

impl Failure {
    fn error(&self) -> &sqlx::Error {
        let (Self::NotBegun(error) | Self::Undone(error) | Self::Unknown(error)) = self;
        error
    }

    fn report(&self) {
        let error = self.error();
        tracing::error!(
            code = "store.transaction",
            error = error as &dyn std::error::Error,
            "a transaction failed"
        );
    }
}

/// Runs a batch, up to its COMMIT.
async fn transact(conn: &mut SqliteConnection, batch: &mut [Job]) -> Result<(), Failure> {
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut *conn)
        .await
        .map_err(Failure::NotBegun)?;
    let mut rest = batch;
    while !rest.is_empty() {
        let appends = rest
            .iter()
            .take_while(|job| matches!(job, Job::Append(_)))
            .count();
        let (now, later) = rest.split_at_mut(appends.max(1));
        run_jobs(conn, now).await.map_err(Failure::Undone)?;
        rest = later;
    }
    Ok(())
}

/// Makes it durable.
async fn commit(conn: &mut SqliteConnection) -> Result<(), Failure> {
    sqlx::query("COMMIT")
        .execute(conn)
        .await
        .map_err(|error| match is_full(&error) {
            true => Failure::Undone(error),
            false => Failure::Unknown(error),
        })?;
    Ok(())
}

/// Runs one call, or neighbouring appends together, in a savepoint.
async fn run_jobs(conn: &mut SqliteConnection, jobs: &mut [Job]) -> Result<(), sqlx::Error> {
    sqlx::query("SAVEPOINT job").execute(&mut *conn).await?;
    let keep = if let [Job::Call(call)] = jobs {
        call.run(conn).await
    } else {
        let mut appends: Vec<&mut AppendJob> = jobs
            .iter_mut()
            .filter_map(|job| match job {
                Job::Append(job) => Some(job.as_mut()),
                Job::Call(_) => None,
            })
            .collect();
        apply_all(conn, &mut appends).await
    };
    if !keep {
        sqlx::query("ROLLBACK TO job").execute(&mut *conn).await?;
    }
    sqlx::query("RELEASE job").execute(&mut *conn).await?;
    Ok(())
}

/// Makes the connection usable after a failed transaction. Only where it is not known what became of it has everybody to come back.
async fn recover(setup: &mut WriterSetup, failure: &Failure) {
    let outside = match failure {
        Failure::NotBegun(_) => setup.connection.ping().await.is_ok(),
        _ => roll_back(&mut setup.connection).await,
    } || reopen(setup).await;
    if outside && is_full(failure.error()) {
        make_room(&mut setup.connection).await;
    }
    if !outside || matches!(failure, Failure::Unknown(_)) {
        (setup.doubt)();
    }
}

async fn roll_back(connection: &mut SqliteConnection) -> bool {
    sqlx::query("ROLLBACK").execute(connection).await.is_ok()
}

/// SQLite may have rolled back by itself; a fresh connection is certain to be outside any transaction.
async fn reopen(setup: &mut WriterSetup) -> bool {
    match connect_writer(&setup.place).await {
        Ok(fresh) => {
            let old = std::mem::replace(&mut setup.connection, fresh);
            let _ = old.close().await;
            true
        }
        Err(error) => {
            tracing::error!(
                code = error.code(),
                "the database could not be opened again"
            );
            false
        }
    }
}

/// Where the write-ahead log cannot grow, the database may have room for what it holds; the log then begins anew.
async fn make_room(connection: &mut SqliteConnection) {
    let folded = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")
        .execute(connection)
        .await;
    if let Err(error) = folded {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "there is no room for the write-ahead log's content"
        );
    }
}

/// Folds the write-ahead log into the database and lets go of the directory.
async fn fold_in(mut setup: WriterSetup) {
    let folded = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&mut setup.connection)
        .await;
    if let Err(error) = folded {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the write-ahead log stays for the next start"
        );
    }
    if let Err(error) = setup.connection.close().await {
        let error = StoreError::from(error);
        tracing::warn!(code = error.code(), "closing the database failed");
    }
    drop(setup.lock);
}
