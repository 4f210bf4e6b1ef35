//! Appending updates and verdicts.
//!
//! A frame of records is checked on its connection, against the group's state and the log as far as they are durable. The author's chain may
//! run ahead by what is in flight. The writer then compares epoch, clock and predecessor inside its transaction and inserts.

use std::sync::Arc;

use bytes::Bytes;
use conclave_mls::verify_signature;
use conclave_proto::codec::encode;
use conclave_proto::frame::AppendedRecord;
use conclave_proto::record::{Chained, RECORD_LABEL, RECORD_VERSION, RecordHeader, record_leaf};
use conclave_proto::refusal::{ForbiddenWhy, RecordFault};
use conclave_proto::{Hash, Head, RecordBody, Refusal, Role, limits};
use sqlx::SqliteConnection;

use super::channel::Channel;
use super::encode::{append_refused, hint};
use super::table::{NotPlaced, Placed, Table};
use super::{publish, rows};
use crate::group::not_member;
use crate::hub::Conn;
use crate::store::{OpError, StoreError};

/// A checked record.
#[derive(Debug)]
pub(crate) struct PreparedRecord {
    pub(crate) kind: u8,
    pub(crate) seen: u64,
    pub(crate) hint: [u8; 8],
    pub(crate) leaf: Hash,
    /// Encoded sealed part.
    pub(crate) sealed: Bytes,
}

/// A checked frame.
#[derive(Debug)]
pub(crate) struct PreparedFrame {
    pub(crate) epoch: u64,
    /// What the first record follows.
    pub(crate) prev: Hash,
    pub(crate) records: Vec<PreparedRecord>,
}

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

/// What an [`conclave_proto::frame::ClientFrame::Append`] says beside its channel.
pub(crate) struct Arrived {
    pub(crate) epoch: u64,
    pub(crate) first_clock: u64,
    pub(crate) records: Vec<AppendedRecord>,
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

/// Checks a frame. None: it does not follow what is in flight; the writer says what is wrong.
async fn prepare(
    channel: &Channel,
    generation: u64,
    arrived: Arrived,
) -> Result<Option<PreparedFrame>, OpError> {
    let view = channel.group.view();
    let device = &channel.author.device;
    let row = view
        .roster
        .current_row(device)
        .ok_or_else(|| not_member(&view, device))?;
    if arrived.epoch != view.epoch {
        return Err(Refusal::StaleEpoch {
            current: view.epoch,
        }
        .into());
    }
    check_shape(&arrived.records, row.role)?;
    let Some(prev) = follow(channel, generation, arrived.first_clock).await? else {
        return Ok(None);
    };
    let first_clock = arrived.first_clock;
    let prepared = link(channel, arrived, prev).await?;
    let Linked {
        frame,
        core,
        signature,
    } = prepared;
    verify_signature(row, RECORD_LABEL, &core.0, &signature)
        .map_err(|fault| Refusal::BadRecord { fault })?;
    let next_clock = first_clock.saturating_add(frame.records.len() as u64);
    let last = frame.records.last().map_or(prev, |record| record.leaf);
    channel.advance(generation, next_clock, last);
    Ok(Some(frame))
}

/// Checks what needs no log: kinds, role, sizes.
fn check_shape(records: &[AppendedRecord], role: Role) -> Result<(), Refusal> {
    if records.is_empty() {
        return Err(Refusal::Malformed);
    }
    for record in records {
        match record.kind {
            1 if role < Role::Editor => {
                return Err(Refusal::Forbidden {
                    why: ForbiddenWhy::Role,
                });
            }
            1 | 2 => {}
            _ => {
                return Err(Refusal::BadRecord {
                    fault: RecordFault::Malformed,
                });
            }
        }
        if record.sealed.ciphertext.len() > limits::UPDATE_BYTES {
            return Err(Refusal::TooLarge {
                max: limits::UPDATE_BYTES as u64,
            });
        }
    }
    Ok(())
}

/// The leaf that a frame with this first clock follows; none when it does not follow.
async fn follow(
    channel: &Channel,
    generation: u64,
    first_clock: u64,
) -> Result<Option<Hash>, OpError> {
    let (_, chain) = channel.chain();
    let (next, last) = match chain {
        Some(chain) => chain,
        None => {
            let document = &channel.document;
            let mut conn = document.env.reads.acquire().await?;
            let chain = rows::chain(&mut conn, document.row, &channel.author).await?;
            channel.reload(generation, chain);
            chain
        }
    };
    Ok((first_clock == next).then_some(last))
}

/// A chained frame, with what its last record's signature covers.
struct Linked {
    frame: PreparedFrame,
    core: Hash,
    signature: [u8; 64],
}

/// Rebuilds the headers, checks the seen heads and computes the leaves.
async fn link(channel: &Channel, arrived: Arrived, prev: Hash) -> Result<Linked, OpError> {
    let document = &channel.document;
    let mut records = Vec::with_capacity(arrived.records.len());
    let mut last = (Hash::ZERO, [0; 64]);
    let mut link = prev;
    let mut clock = arrived.first_clock;
    for record in arrived.records {
        let size = record.seen_size.0;
        let bad = Refusal::BadRecord {
            fault: RecordFault::SeenHead,
        };
        let root = document.root_at(size).await?.ok_or_else(|| bad.clone())?;
        if hint(&root) != record.seen_hint {
            return Err(bad.into());
        }
        let chained = Chained { clock, prev: link };
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: document.group,
            document: document.id,
            epoch: arrived.epoch,
            author: channel.author,
            seen: Head { size, root },
            body: if record.kind == 1 {
                RecordBody::Update(chained)
            } else {
                RecordBody::Verdict(chained)
            },
        };
        let core = record.sealed.core(&header);
        let leaf = record_leaf(&core, &record.sealed.signature);
        last = (core, record.sealed.signature);
        link = leaf;
        clock = clock.saturating_add(1);
        records.push(PreparedRecord {
            kind: record.kind,
            seen: size,
            hint: record.seen_hint,
            leaf,
            sealed: Bytes::from(encode(&record.sealed)),
        });
    }
    let (core, signature) = last;
    let frame = PreparedFrame {
        epoch: arrived.epoch,
        prev,
        records,
    };
    Ok(Linked {
        frame,
        core,
        signature,
    })
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
