//! Frames of records on their way from a connection to the writer.

use std::sync::Arc;

use conclave_order::op::append::{Append, Arrived, Frame, Offer, View, judge};
use conclave_order::rows::RecordKind;
use conclave_order::{Keys, Rows, Stop};
use conclave_proto::frame::AppendedRecord;
use conclave_proto::{Hash, Refusal, UserId};

use super::channel::Channel;
use super::encode::append_refused;
use super::publish;
use crate::error::OpError;
use crate::hub::Conn;
use crate::limits;
use crate::sqlite::StoreError;

/// Where a frame came from.
pub(crate) struct AppendFrom {
    pub(crate) conn: Arc<Conn>,
    pub(crate) channel: Arc<Channel>,
    pub(crate) generation: u64,
    pub(crate) first_clock: u64,
}

impl AppendFrom {
    fn new(conn: &Arc<Conn>, channel: &Arc<Channel>, first_clock: u64) -> Self {
        let (generation, _) = channel.chain();
        Self {
            conn: conn.clone(),
            channel: channel.clone(),
            generation,
            first_clock,
        }
    }
}

/// Takes a frame of records from a connection. The answer comes through the connection's outbox, in the order of the frames.
pub(crate) async fn append(conn: &Arc<Conn>, channel: &Arc<Channel>, arrived: Arrived) {
    let from = AppendFrom::new(conn, channel, arrived.first_clock);
    let offer = match prepare(conn.user, channel, from.generation, &arrived).await {
        Ok(offer) => offer,
        Err(error) => {
            let refusal = error.into_refusal();
            let env = &channel.document.env;
            env.misconduct
                .refused(&conn.device, &refusal, env.clock.now());
            if channel.in_flight() == 0 {
                conn.outbox
                    .push(append_refused(channel.number(), from.first_clock, refusal));
                return;
            }
            Offer::Refused(refusal)
        }
    };
    submit(from, offer).await;
}

/// Refuses a frame that was not looked at, in its turn.
pub(crate) async fn refuse(
    conn: &Arc<Conn>,
    channel: &Arc<Channel>,
    first_clock: u64,
    why: Refusal,
) {
    let from = AppendFrom::new(conn, channel, first_clock);
    submit(from, Offer::Refused(why)).await;
}

async fn submit(from: AppendFrom, offer: Offer) {
    let channel = from.channel.clone();
    let op = Append {
        log: channel.document.log,
        author: channel.author,
        first_clock: from.first_clock,
        offer,
    };
    channel.depart();
    if let Err(from) = channel.document.env.writer.append(op, from).await {
        publish::answer_refused(&from, &Refusal::ShuttingDown);
    }
}

/// Judges a frame against what is durable, and lets its author's chain run ahead by it.
async fn prepare(
    user: UserId,
    channel: &Channel,
    generation: u64,
    arrived: &Arrived,
) -> Result<Offer, OpError> {
    let document = &channel.document;
    let mut group = channel.group.view();
    let mut refreshes = 0;
    let chain = match channel.chain().1 {
        Some(chain) => chain,
        None => stored_chain(channel, generation).await?,
    };
    let (size, covered) = {
        let live = document.live();
        (live.roots.size(), live.active.covered)
    };
    let mut rows = Rows::default();
    let offer = loop {
        let judged = judge(
            arrived,
            &View {
                authority: &*group,
                log: document.log,
                author: channel.author,
                chain,
                named: channel.named(),
                size,
                base: document.base,
                covered,
                roots: &|size| document.live().roots.get(size),
                rows: &rows,
                singly: channel.is_single() || channel.in_flight() == 0,
            },
        );
        match judged {
            Ok(offer) => break offer,
            Err(Stop::Lacks(keys)) => document.env.load(&keys, &mut rows).await?,
            // Nobody is refused by what is not so any more.
            Err(Stop::Refused(_))
                if refreshes < limits::VIEW_REFRESHES && channel.group.refresh().await? =>
            {
                refreshes += 1;
                group = channel.group.view();
            }
            Err(stop) => return Err(stop.into()),
        }
    };
    if let Offer::Frame(frame, _) = &offer {
        let is_verdict = |record: &&AppendedRecord| record.kind == RecordKind::Verdict as u8;
        let verdicts = arrived.records.iter().filter(is_verdict).count() as u64;
        if verdicts > 0 {
            let key = (user, document.log);
            let now = document.env.clock.now();
            document.env.verdicts.take(key, verdicts, now)?;
        }
        channel.advance(generation, next_clock(arrived, frame), frame.last());
        channel.names(frame.named);
    }
    Ok(offer)
}

fn next_clock(arrived: &Arrived, frame: &Frame) -> u64 {
    let count = frame.records.len() as u64;
    arrived.first_clock.saturating_add(count)
}

/// The author's chain as stored; the channel goes on from there.
async fn stored_chain(channel: &Channel, generation: u64) -> Result<(u64, Hash), OpError> {
    let document = &channel.document;
    let key = (document.log, channel.author);
    let mut keys = Keys::default();
    keys.authors.insert(key);
    let mut rows = Rows::default();
    document.env.load(&keys, &mut rows).await?;
    let row = rows.author(&key).map_err(StoreError::from)?;
    let chain = row.map_or((0, Hash::ZERO), |row| (row.next_clock, row.last_leaf));
    channel.reload(generation, chain);
    Ok(chain)
}
