//! Telling listeners what was accepted: each record is encoded once, and all who have seen the same share one frame.

use std::sync::Arc;

use bytes::Bytes;
use conclave_proto::{Author, Hash, Refusal, limits};

use super::append::{AppendJob, Outcome};
use super::encode::{
    Elided, ack, append_refused, deliver, new_author, put_elided, put_whole_parts,
};
use super::prepare::PreparedFrame;
use super::table::Placed;
use super::{Active, Document, Listener, Live, Own, history};

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

/// What became of a job, for its own connection.
enum Event {
    Accepted(Item),
    Refused { first_clock: u64, refusal: Refusal },
}

/// Publishes jobs of one document in their order.
pub(crate) fn publish(jobs: Vec<AppendJob>) {
    let Some(document) = jobs.first().map(|job| job.channel.document.clone()) else {
        return;
    };
    let mut live = document.live();
    let known = live.authors.len();
    let events: Vec<Event> = jobs.iter().map(|job| settle(&mut live, job)).collect();
    let announcements: Vec<Bytes> = live
        .authors
        .iter()
        .skip(known)
        .map(|author| new_author(document.number, *author))
        .collect();
    let accepted: Vec<&Item> = events
        .iter()
        .filter_map(|event| match event {
            Event::Accepted(item) => Some(item),
            Event::Refused { .. } => None,
        })
        .collect();
    let shared = shared_frames(document.number, &accepted);
    let stale_proof = accepted.iter().any(|item| item.stale_proof);
    let authors = live.authors.len();
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
        for frame in &announcements {
            listener.conn.outbox.push(frame.clone());
        }
        listener.announced = authors;
        if stale_proof {
            // A snapshot came in between. History builds the proofs that are needed now.
            listener.live = false;
            let from = accepted.first().map_or(0, |item| item.first_seq);
            hold_back(document.number, listener, &jobs, &events);
            history::start(&document, listener, from);
        } else if own {
            interleave(document.number, listener, &jobs, &events);
        } else {
            for frame in &shared {
                listener.conn.outbox.push(frame.clone());
            }
        }
    }
    drop(live);
    for job in &jobs {
        job.channel.arrive();
    }
}

/// Advances the document by one job.
fn settle(live: &mut Live, job: &AppendJob) -> Event {
    reset(job);
    match (&job.outcome, &job.frame) {
        (Outcome::Placed(placed), Some(frame)) => {
            add_author(live, job.channel.author, placed.author);
            if let Some(last) = frame.records.last() {
                job.channel.accepted(placed.next_clock, last.leaf);
            }
            for root in &placed.roots {
                live.roots.push(*root);
            }
            Event::Accepted(encode_item(placed, frame))
        }
        (Outcome::Refused { refusal, .. }, _) => Event::Refused {
            first_clock: job.first_clock,
            refusal: refusal.clone(),
        },
        // A frame without records is never placed.
        (Outcome::Placed(_), None) => Event::Refused {
            first_clock: job.first_clock,
            refusal: Refusal::Storage,
        },
    }
}

fn add_author(live: &mut Live, author: Author, number: u64) {
    if number == live.authors.len() as u64 {
        live.authors.push(author);
    }
}

fn encode_item(placed: &Placed, frame: &PreparedFrame) -> Item {
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
        let full = count + item.count > limits::RECORDS_PER_FRAME as u64
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
fn interleave(channel: u64, listener: &Listener, jobs: &[AppendJob], events: &[Event]) {
    let mut others: Vec<&Item> = Vec::new();
    for (job, event) in jobs.iter().zip(events) {
        let own = Arc::ptr_eq(&job.channel, &listener.channel);
        match event {
            Event::Accepted(item) if !own => others.push(item),
            Event::Accepted(item) => {
                flush(channel, listener, &mut others);
                listener.conn.outbox.push(ack_of(channel, item));
            }
            Event::Refused {
                first_clock,
                refusal,
            } if own => {
                flush(channel, listener, &mut others);
                listener
                    .conn
                    .outbox
                    .push(append_refused(channel, *first_clock, refusal.clone()));
            }
            Event::Refused { .. } => {}
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

/// For a listener that is still reading history: its acknowledgements wait for their positions; refusals have none.
fn hold_back(channel: u64, listener: &mut Listener, jobs: &[AppendJob], events: &[Event]) {
    for (job, event) in jobs.iter().zip(events) {
        if !Arc::ptr_eq(&job.channel, &listener.channel) {
            continue;
        }
        match event {
            Event::Accepted(item) => {
                let own = Own {
                    count: item.count,
                    frame: ack_of(channel, item),
                };
                listener.own.insert(item.first_seq, own);
            }
            Event::Refused {
                first_clock,
                refusal,
            } => {
                let frame = append_refused(channel, *first_clock, refusal.clone());
                listener.conn.outbox.push(frame);
            }
        }
    }
}

/// Lets the author's chain continue from what is durable. Before anybody is told: the answer to the telling may be here at once.
fn reset(job: &AppendJob) {
    if let Outcome::Refused { chain, .. } = &job.outcome {
        job.channel.reset(job.generation, *chain);
    }
}

/// Answers a job that never reached the writer.
pub(crate) fn answer_refused(job: &AppendJob) {
    reset(job);
    if let Outcome::Refused { refusal, .. } = &job.outcome {
        let frame = append_refused(job.channel.number(), job.first_clock, refusal.clone());
        job.conn.outbox.push(frame);
    }
    job.channel.arrive();
}

/// An accepted snapshot, ready to be told.
pub(crate) struct NewSnapshot {
    pub(crate) seq: u64,
    pub(crate) covered: u64,
    /// Whether its author had seen less than the snapshot before it covers: then receivers need a proof.
    pub(crate) late: bool,
    /// Root of the log up to and including it.
    pub(crate) root: Hash,
    /// `DeliveredRecord::Whole`, encoded.
    pub(crate) body: Vec<u8>,
}

/// Publishes a snapshot. The connection it came from gets `answer` in its place where it has the document open; otherwise false.
pub(crate) fn publish_snapshot(
    document: &Arc<Document>,
    new: &NewSnapshot,
    from_conn: u64,
    answer: &Bytes,
) -> bool {
    let frame = deliver(document.number, new.seq, &[&new.body]);
    let mut answered = false;
    let mut live = document.live();
    live.roots.push(new.root);
    live.active = Active {
        seq: new.seq,
        covered: new.covered,
    };
    for listener in &mut live.listeners {
        let own = listener.conn.id == from_conn;
        answered = answered || own;
        if own && listener.live {
            listener.conn.outbox.push(answer.clone());
        } else if own {
            listener.own.insert(
                new.seq,
                Own {
                    count: 1,
                    frame: answer.clone(),
                },
            );
        } else if listener.live && new.late {
            listener.live = false;
            history::start(document, listener, new.seq);
        } else if listener.live {
            listener.conn.outbox.push(frame.clone());
        }
    }
    answered
}
