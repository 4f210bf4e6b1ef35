//! The one writer: group commit.
//!
//! Operations wait in a bounded queue. What waits is taken, up to a bound, into one batch, whose signatures are checked while the one before
//! is made durable; it is run in one transaction ([`run_batch`]), and only when that is durable is anybody told. Telling happens in the
//! order of the commits, on a task of its own, while the next transaction is already under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use conclave_order::limits::Limits;
use conclave_order::op::append::Append;
use conclave_order::{Asked, Batch, Ended, Event, Failure, Op, Watch, run_batch};
use conclave_proto::Refusal;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::document::append::AppendFrom;
use crate::document::snapshot::SnapshotFrom;
use crate::limits;
use crate::sqlite::Store;
use crate::sqlite::open::DirectoryLock;
use crate::tell::{From, Origin, tell};

/// An operation, and where it came from.
struct Job {
    asked: Asked,
    origin: Origin,
}

/// The way to the writer.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Job>,
}

impl Writer {
    /// Queues records; what becomes of them is told where they came from. Gives that back when the service is stopping.
    pub(crate) async fn append(&self, op: Append, from: AppendFrom) -> Result<(), AppendFrom> {
        let by = from.conn.asker();
        let origin = Origin {
            from: From::Channel(from),
            reply: None,
        };
        let asked = by.asks(Op::Append(op));
        match self.queue.send(Job { asked, origin }).await {
            Err(mpsc::error::SendError(Job {
                origin:
                    Origin {
                        from: From::Channel(from),
                        ..
                    },
                ..
            })) => Err(from),
            _ => Ok(()),
        }
    }

    /// Queues a snapshot; what becomes of it is told where it came from. Waits for that.
    pub(crate) async fn snapshot(&self, op: Op, from: SnapshotFrom) -> Result<(), Refusal> {
        let asked = from.conn.asker().asks(op);
        self.run(asked, From::Snapshot(from)).await.map(drop)
    }

    /// Runs an operation that concerns nobody but who asks.
    pub(crate) async fn ask(&self, asked: Asked) -> Result<Event, Refusal> {
        self.run(asked, From::Asker).await
    }

    /// Runs an operation of the service's own.
    pub(crate) async fn own(&self, op: Op) -> Result<Event, Refusal> {
        self.ask(Asked::from(op)).await
    }

    /// Runs an operation; gives what became of it once that is durable, and was told.
    pub(crate) async fn run(&self, asked: Asked, from: From) -> Result<Event, Refusal> {
        let (reply, answer) = oneshot::channel();
        let origin = Origin {
            from,
            reply: Some(reply),
        };
        let sent = self.queue.send(Job { asked, origin }).await;
        sent.map_err(|_| Refusal::ShuttingDown)?;
        match answer.await {
            Ok(Event::Refused(refusal)) => Err(refusal),
            Ok(event) => Ok(event),
            Err(_) => Err(Refusal::ShuttingDown),
        }
    }
}

/// What the writer's task needs.
pub(crate) struct WriterSetup {
    /// Where rows are written.
    pub(crate) store: Store,
    /// What the operator has set.
    pub(crate) limits: Limits,
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
    let (checked, batches) = mpsc::channel(1);
    let (publish, told) = mpsc::channel(limits::PUBLISH_QUEUE_BATCHES);
    let turn = Arc::new(Turn::default());
    tasks.spawn(gatherer(
        jobs,
        checked,
        (setup.limits, setup.stop.clone()),
        turn.clone(),
    ));
    tasks.spawn(run(setup, batches, publish, turn));
    tasks.spawn(publisher(told));
    Writer { queue }
}

/// When the next batch is gathered: as late as it can be, so that as much as can be shares a transaction, and early enough that its
/// signatures are checked while the one before is made durable.
#[derive(Default)]
struct Turn {
    next: Notify,
}

impl Turn {
    fn pass(&self) {
        self.next.notify_one();
    }
}

/// A batch, and where its operations came from.
type Checked = (Batch, Vec<Origin>);

/// Gathers what waits into batches.
async fn gatherer(
    mut jobs: mpsc::Receiver<Job>,
    checked: mpsc::Sender<Checked>,
    (limits, stop): (Limits, CancellationToken),
    turn: Arc<Turn>,
) {
    turn.pass();
    loop {
        turn.next.notified().await;
        let first = loop {
            tokio::select! {
                biased;
                job = jobs.recv() => break job,
                () = stop.cancelled(), if !jobs.is_closed() => jobs.close(),
            }
        };
        let Some(first) = first else { break };
        let gathered = gather(first, &mut jobs).into_iter();
        let (asked, origins): (Vec<Asked>, Vec<Origin>) =
            gathered.map(|job| (job.asked, job.origin)).unzip();
        if checked
            .send((Batch::new(asked, limits), origins))
            .await
            .is_err()
        {
            break;
        }
    }
}

/// What became of operations of one transaction.
type Told = Vec<(Event, Origin)>;

async fn publisher(mut told: mpsc::Receiver<Told>) {
    while let Some(events) = told.recv().await {
        tell(events);
    }
}

async fn run(
    mut setup: WriterSetup,
    mut batches: mpsc::Receiver<Checked>,
    publish: mpsc::Sender<Told>,
    turn: Arc<Turn>,
) {
    while let Some((batch, origins)) = batches.recv().await {
        let watch = Watcher {
            doubt: &setup.doubt,
            turn: &turn,
            has_passed: AtomicBool::new(false),
        };
        let ended = run_batch(&mut setup.store, batch, &watch).await;
        watch.pass();
        let told = ended.into_iter().flat_map(finish).zip(origins).collect();
        if publish.send(told).await.is_err() {
            break;
        }
    }
    drop(publish);
    if let Err(error) = setup.store.note_running(None).await {
        tracing::warn!(
            code = error.code(),
            "the next start takes this end for a crash"
        );
    }
    setup.store.close().await;
    drop(setup.lock);
}

/// Takes what waits behind `first`, up to the bounds.
fn gather(first: Job, jobs: &mut mpsc::Receiver<Job>) -> Vec<Job> {
    let mut bytes = first.asked.op.bytes();
    let mut batch = vec![first];
    while batch.len() < limits::WRITER_BATCH_JOBS && bytes < limits::WRITER_BATCH_BYTES {
        let Ok(job) = jobs.try_recv() else { break };
        bytes = bytes.saturating_add(job.asked.op.bytes());
        batch.push(job);
    }
    batch
}

/// What became of the operations of a batch.
fn finish(ended: Ended) -> Vec<Event> {
    let end = ended.end();
    for what in ended.batch.damaged() {
        tracing::error!(code = "store.corrupt", what, "a stored row is damaged");
    }
    ended.batch.finish(end)
}

/// Watches a batch for the writer.
struct Watcher<'a> {
    doubt: &'a (dyn Fn() + Send + Sync),
    turn: &'a Turn,
    has_passed: AtomicBool,
}

impl Watcher<'_> {
    /// Lets the next batch be gathered, once.
    fn pass(&self) {
        if !self.has_passed.swap(true, Ordering::AcqRel) {
            self.turn.pass();
        }
    }
}

impl Watch for Watcher<'_> {
    fn committing(&self) {
        self.pass();
    }

    /// Only where it is not known what became of a transaction has everybody to come back.
    fn failed(&self, failure: &Failure, is_usable: bool) {
        let error = failure as &dyn std::error::Error;
        tracing::error!(code = "store.transaction", error, "a transaction failed");
        if !is_usable || matches!(failure, Failure::Unknown(_)) {
            (self.doubt)();
        }
    }
}
