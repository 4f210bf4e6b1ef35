//! Appending updates and verdicts.
//!
//! A frame of records is checked on its connection, against the group's state and the log as far as they are durable. The author's chain may
//! run ahead by what is in flight. The writer then compares epoch, clock and predecessor inside its transaction and inserts.

use std::sync::Arc;

use conclave_proto::{Hash, Refusal};
use sqlx::SqliteConnection;

use super::channel::Channel;
use super::encode::append_refused;
use super::prepare::{Arrived, PreparedFrame, prepare};
use super::publish;
use super::table::{NotPlaced, Placed, Table};
use crate::hub::Conn;
use crate::store::{OpError, StoreError};

/// What became of a frame.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Accepted, once the transaction is durable.
    Placed(Placed),
    /// Refused; the author's chain as stored, where it is known.
    Refused {
        refusal: Refusal,
        chain: Option<(u64, Hash)>,
    },
}

/// A frame on its way through the writer.
pub(crate) struct AppendJob {
    pub(crate) conn: Arc<Conn>,
    pub(crate) channel: Arc<Channel>,
    pub(crate) generation: u64,
    pub(crate) first_clock: u64,
    /// The frame; missing where only the writer can say why it does not follow.
    pub(crate) frame: Option<PreparedFrame>,
    /// Set where the frame is refused already and only waits for its turn.
    pub(crate) verdict: Option<Refusal>,
    pub(crate) outcome: Outcome,
}

impl AppendJob {
    fn new(conn: Arc<Conn>, channel: Arc<Channel>, generation: u64, first_clock: u64) -> Self {
        Self {
            conn,
            channel,
            generation,
            first_clock,
            frame: None,
            verdict: None,
            outcome: Outcome::Refused {
                refusal: Refusal::Storage,
                chain: None,
            },
        }
    }

    /// Size in memory, for the writer's bound.
    pub(crate) fn bytes(&self) -> usize {
        self.frame
            .iter()
            .flat_map(|frame| &frame.records)
            .map(|record| record.sealed.len())
            .sum()
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal, chain: Option<(u64, Hash)>) {
        self.outcome = Outcome::Refused { refusal, chain };
    }
}

/// Takes a frame of records from a connection. The answer comes through the connection's outbox, in the order of the frames.
pub(crate) async fn append(conn: &Arc<Conn>, channel: &Arc<Channel>, arrived: Arrived) {
    let (generation, _) = channel.chain();
    let mut job = AppendJob::new(
        conn.clone(),
        channel.clone(),
        generation,
        arrived.first_clock,
    );
    match prepare(channel, generation, arrived).await {
        Ok(frame) => job.frame = frame,
        Err(error) => {
            let refusal = error.into_refusal();
            let env = &channel.document.env;
            env.misconduct
                .refused(&conn.device, &refusal, env.clock.now());
            if channel.in_flight() == 0 {
                conn.outbox
                    .push(append_refused(channel.number(), job.first_clock, refusal));
                return;
            }
            job.verdict = Some(refusal);
        }
    }
    channel.depart();
    if let Err(mut job) = channel.document.env.writer.append(Box::new(job)).await {
        job.refuse(Refusal::ShuttingDown, None);
        publish::answer_refused(&job);
    }
}

/// Refuses a frame that was not looked at, in its turn.
pub(crate) async fn refuse(
    conn: &Arc<Conn>,
    channel: &Arc<Channel>,
    first_clock: u64,
    why: Refusal,
) {
    let (generation, _) = channel.chain();
    let mut job = AppendJob::new(conn.clone(), channel.clone(), generation, first_clock);
    job.verdict = Some(why);
    channel.depart();
    if let Err(mut job) = channel.document.env.writer.append(Box::new(job)).await {
        job.refuse(Refusal::ShuttingDown, None);
        publish::answer_refused(&job);
    }
}

/// Runs neighbouring jobs in the writer's transaction. False: nothing of it must stay.
pub(crate) async fn apply_all(conn: &mut SqliteConnection, jobs: &mut [&mut AppendJob]) -> bool {
    match try_apply(conn, jobs).await {
        Ok(()) => true,
        Err(error) => {
            let refusal = error.into_refusal();
            for job in jobs {
                job.refuse(refusal.clone(), None);
            }
            false
        }
    }
}

async fn try_apply(
    conn: &mut SqliteConnection,
    jobs: &mut [&mut AppendJob],
) -> Result<(), OpError> {
    let mut tables: Vec<(i64, Table)> = Vec::new();
    for job in jobs.iter_mut() {
        let doc = job.channel.document.row;
        let at = match tables.iter().position(|(other, _)| *other == doc) {
            Some(at) => at,
            None => {
                tables.push((doc, Table::load(conn, doc).await?));
                tables.len().saturating_sub(1)
            }
        };
        let Some((_, table)) = tables.get_mut(at) else {
            continue;
        };
        apply(conn, table, job).await?;
    }
    for (_, table) in &mut tables {
        table.write(conn).await?;
    }
    Ok(())
}

async fn apply(
    conn: &mut SqliteConnection,
    table: &mut Table,
    job: &mut AppendJob,
) -> Result<(), StoreError> {
    let author = job.channel.author;
    if let Some(verdict) = job.verdict.take() {
        let chain = table.chain(conn, &author).await?;
        job.refuse(verdict, Some(chain));
        return Ok(());
    }
    let tail_max = job.channel.document.env.limits.tail_records;
    let placed = table
        .place(conn, &author, job.first_clock, job.frame.as_ref(), tail_max)
        .await?;
    job.outcome = match placed {
        Ok(placed) => Outcome::Placed(placed),
        Err(NotPlaced { refusal, chain }) => Outcome::Refused {
            refusal,
            chain: Some(chain),
        },
    };
    Ok(())
}

/// Tells everybody what became of jobs of one transaction, in their order.
pub(crate) fn publish_all(mut jobs: Vec<AppendJob>, committed: bool) {
    if !committed {
        for job in &mut jobs {
            job.refuse(Refusal::Storage, None);
        }
    }
    let mut documents: Vec<(i64, Vec<AppendJob>)> = Vec::new();
    for job in jobs {
        let doc = job.channel.document.row;
        match documents.iter_mut().find(|(other, _)| *other == doc) {
            Some((_, of_document)) => of_document.push(job),
            None => documents.push((doc, vec![job])),
        }
    }
    for (_, jobs) in documents {
        publish::publish(jobs);
    }
}
