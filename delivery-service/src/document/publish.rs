//! Telling listeners what was accepted: each record is encoded once, and all who have seen the same share one frame.

use std::sync::Arc;

use bytes::Bytes;
use conclave_order::op::append::Frame;
use conclave_order::{Event, Placed, PlacedSnapshot};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, Refusal, limits as wire};

use super::append::AppendFrom;
use super::encode::{
    Elided, ack, append_refused, deliver, new_author, put_elided, put_whole, put_whole_parts,
};
use super::{Active, Document, Listener, Live, Own, history};
use crate::error::OpError;
use crate::limits;

/// Bytes after which a shared frame takes no further records.
const SHARED_FRAME_BYTES: usize = 128 * 1024;

/// An accepted frame.
struct Item {
    first_seq: u64,
    count: u64,
    next_clock: u64,
    /// The records, encoded for all who hold the active snapshot.
    body: Vec<u8>,
    /// Whether a record's proof leads to another snapshot than the one that is active now.
    stale_proof: bool,
}

impl Item {
    /// Whether listeners read it from storage: history builds the proofs that are needed now, and frames that are not too large.
    fn is_for_storage(&self) -> bool {
        self.stale_proof || self.body.len() > limits::LIVE_FRAME_BYTES
    }
}

/// What became of a frame, for its own connection.
enum Told {
    Accepted(Item),
    Refused { first_clock: u64, refusal: Refusal },
}

/// A frame, and what became of it.
pub(crate) type Appended = (AppendFrom, Event);

/// Tells everybody what became of frames of one transaction, in their order.
pub(crate) fn publish_all(frames: Vec<Appended>) {
    let mut documents: Vec<(Arc<Document>, Vec<Appended>)> = Vec::new();
    for frame in frames {
        let document = &frame.0.channel.document;
        match documents
            .iter_mut()
            .find(|(other, _)| Arc::ptr_eq(other, document))
        {
            Some((_, of_document)) => of_document.push(frame),
            None => documents.push((document.clone(), vec![frame])),
        }
    }
    for (document, frames) in documents {
        publish(&document, &frames);
    }
}

/// Publishes frames of one document in their order.
fn publish(document: &Arc<Document>, frames: &[Appended]) {
    let jobs: Vec<&AppendFrom> = frames.iter().map(|(from, _)| from).collect();
    let mut live = document.live();
    let known = live.authors.len();
    let published = live.roots.size();
    let events: Vec<Told> = frames
        .iter()
        .map(|(from, event)| settle(&mut live, from, event))
        .collect();
    let skips = live.is_behind;
    let announcements: Vec<Bytes> = live
        .authors
        .iter()
        .skip(known)
        .map(|author| new_author(document.number, *author))
        .collect();
    let accepted: Vec<&Item> = events
        .iter()
        .filter_map(|event| match event {
            Told::Accepted(item) => Some(item),
            Told::Refused { .. } => None,
        })
        .collect();
    let shared = shared_frames(document.number, &accepted);
    let from_storage = accepted.iter().any(|item| item.is_for_storage());
    let authors = live.authors.len();
    if !accepted.is_empty() {
        document.grown(&mut live);
    }
    for listener in &mut live.listeners {
        let own = jobs
            .iter()
            .any(|job| Arc::ptr_eq(&job.channel, &listener.channel));
        if !listener.live {
            if own {
                hold_back(document.number, listener, &jobs, &events);
            }
            continue;
        }
        if skips {
            // Others have written in between.
            listener.live = false;
            hold_back(document.number, listener, &jobs, &events);
            history::start(document, listener, published);
            continue;
        }
        for frame in &announcements {
            listener.conn.outbox.push(frame.clone());
        }
        listener.announced = authors;
        if from_storage {
            listener.live = false;
            let from = accepted.first().map_or(0, |item| item.first_seq);
            hold_back(document.number, listener, &jobs, &events);
            history::start(document, listener, from);
        } else if own {
            interleave(document.number, listener, &jobs, &events);
        } else {
            for frame in &shared {
                listener.conn.outbox.push(frame.clone());
            }
        }
    }
    drop(live);
    for job in jobs {
        job.channel.arrive();
    }
}

/// Advances the document by one frame.
fn settle(live: &mut Live, from: &AppendFrom, event: &Event) -> Told {
    let channel = &from.channel;
    let refused = |refusal: Refusal, chain| {
        // Before anybody is told: the answer to the telling may be here at once.
        channel.reset(from.generation, chain);
        if let Refusal::StaleEpoch { current } = refusal
            && current > channel.group.view().epoch
        {
            let group = channel.group.clone();
            let refreshed = async move { group.refresh().await.map_err(OpError::into_refusal) };
            channel.document.env.tasks.spawn(refreshed);
        }
        let cheats = refusal
            == Refusal::BadRecord {
                fault: RecordFault::Signature,
            };
        if cheats && channel.make_single() {
            let env = &channel.document.env;
            let now = env.clock.now();
            env.misconduct.refused(&from.conn.device, &refusal, now);
        }
        Told::Refused {
            first_clock: from.first_clock,
            refusal,
        }
    };
    match event {
        Event::Records(placed) => {
            live.advance(placed.first_seq, &placed.roots);
            add_author(live, channel.author, placed.author);
            channel.accepted(placed.next_clock, placed.frame.last());
            Told::Accepted(encode_item(placed, &placed.frame))
        }
        Event::RecordsRefused { refusal, chain } => refused(refusal.clone(), *chain),
        Event::Refused(refusal) => refused(refusal.clone(), None),
        // No other becomes of a frame.
        _ => refused(Refusal::Storage, None),
    }
}

fn add_author(live: &mut Live, author: Author, number: u64) {
    let known = live.authors.len() as u64;
    live.is_behind |= number > known;
    if number == known {
        live.authors.push(author);
    }
}

fn encode_item(placed: &Placed, frame: &Frame) -> Item {
    let mut body = Vec::new();
    let is_late = |seen: u64| seen < placed.covered;
    let stale_proof =
        frame.covered != placed.covered && frame.records.iter().any(|record| is_late(record.seen));
    let mut seq = placed.first_seq;
    for record in &frame.records {
        match &record.late {
            Some(late) => {
                put_whole_parts(&mut body, &late.header, &record.sealed, &late.proof);
            }
            None => {
                let head = Elided {
                    kind: record.kind,
                    author: placed.author,
                    epoch: frame.epoch,
                    seen_back: seq.saturating_sub(record.seen),
                    hint: record.hint,
                };
                put_elided(&mut body, head, &record.sealed);
            }
        }
        seq = seq.saturating_add(1);
    }
    Item {
        first_seq: placed.first_seq,
        count: frame.records.len() as u64,
        next_clock: placed.next_clock,
        body,
        stale_proof,
    }
}

/// Contiguous items as few frames.
fn shared_frames(channel: u64, items: &[&Item]) -> Vec<Bytes> {
    let mut frames = Vec::new();
    let mut run: Vec<&Item> = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    for item in items {
        let full = count + item.count > wire::RECORDS_PER_FRAME as u64
            || bytes + item.body.len() > SHARED_FRAME_BYTES;
        if full && !run.is_empty() {
            frames.extend(run_frame(channel, &run));
            run.clear();
            (count, bytes) = (0, 0);
        }
        count += item.count;
        bytes += item.body.len();
        run.push(item);
    }
    frames.extend(run_frame(channel, &run));
    frames
}

fn run_frame(channel: u64, run: &[&Item]) -> Option<Bytes> {
    let first = run.first()?;
    let parts: Vec<&[u8]> = run.iter().map(|item| item.body.as_slice()).collect();
    Some(deliver(channel, first.first_seq, &parts))
}

/// For a listener that wrote some of the records itself: acknowledgements and refusals in their places.
fn interleave(channel: u64, listener: &Listener, jobs: &[&AppendFrom], events: &[Told]) {
    let mut others: Vec<&Item> = Vec::new();
    for (job, event) in jobs.iter().zip(events) {
        let own = Arc::ptr_eq(&job.channel, &listener.channel);
        match event {
            Told::Accepted(item) if !own => others.push(item),
            Told::Accepted(item) => {
                flush(channel, listener, &mut others);
                listener.conn.outbox.push(ack_of(channel, item));
            }
            Told::Refused {
                first_clock,
                refusal,
            } if own => {
                flush(channel, listener, &mut others);
                listener
                    .conn
                    .outbox
                    .push(append_refused(channel, *first_clock, refusal.clone()));
            }
            Told::Refused { .. } => {}
        }
    }
    flush(channel, listener, &mut others);
}

fn flush(channel: u64, listener: &Listener, others: &mut Vec<&Item>) {
    for frame in shared_frames(channel, others) {
        listener.conn.outbox.push(frame);
    }
    others.clear();
}

fn ack_of(channel: u64, item: &Item) -> Bytes {
    ack(channel, item.next_clock, item.first_seq, item.count)
}

/// For a listener that is still reading history: its acknowledgements wait for their positions, and refusals for the acknowledgements before
/// them.
fn hold_back(channel: u64, listener: &mut Listener, jobs: &[&AppendFrom], events: &[Told]) {
    for (job, event) in jobs.iter().zip(events) {
        if !Arc::ptr_eq(&job.channel, &listener.channel) {
            continue;
        }
        match event {
            Told::Accepted(item) => {
                let own = Own {
                    count: item.count,
                    frame: ack_of(channel, item),
                };
                listener.own.insert(item.first_seq, own);
            }
            Told::Refused {
                first_clock,
                refusal,
            } => {
                let frame = append_refused(channel, *first_clock, refusal.clone());
                match listener.own.last_key_value() {
                    Some((seq, _)) => listener.refused.push_back((*seq, frame)),
                    None => listener.conn.outbox.push(frame),
                }
            }
        }
    }
}

/// Answers a frame that never reached the writer.
pub(crate) fn answer_refused(from: &AppendFrom, why: &Refusal) {
    from.channel.reset(from.generation, None);
    let frame = append_refused(from.channel.number(), from.first_clock, why.clone());
    from.conn.outbox.push(frame);
    from.channel.arrive();
}

/// Publishes a snapshot. The connection it came from gets `answer` in its place where it has the document open; otherwise false.
pub(crate) fn publish_snapshot(
    document: &Arc<Document>,
    new: &PlacedSnapshot,
    from_conn: u64,
    answer: &Bytes,
) -> bool {
    let mut body = Vec::new();
    put_whole(&mut body, new.record.as_ref().clone(), Vec::new());
    let frame = deliver(document.number, new.seq, &[&body]);
    let mut answered = false;
    let mut live = document.live();
    let published = live.roots.size();
    let skips = live.advance(new.seq, &[new.head.root]) || live.is_behind;
    live.active = Active {
        seq: new.seq,
        covered: new.covered,
    };
    document.grown(&mut live);
    for listener in &mut live.listeners {
        let own = listener.conn.id == from_conn;
        answered = answered || own;
        if own && listener.live && !skips {
            listener.conn.outbox.push(answer.clone());
        } else if own {
            listener.own.insert(
                new.seq,
                Own {
                    count: 1,
                    frame: answer.clone(),
                },
            );
        } else if listener.live && new.late && !skips {
            listener.live = false;
            history::start(document, listener, new.seq);
        } else if listener.live && !skips {
            listener.conn.outbox.push(frame.clone());
        }
        if skips && std::mem::take(&mut listener.live) {
            history::start(document, listener, published);
        }
    }
    answered
}
