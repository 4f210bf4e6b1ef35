//! History for one listener: from a position to the end of the log, in order, and from there on live, without a gap or a repetition.
//!
//! Only positions below the document's published size are read, and the step from history to live is taken under the document's lock when
//! nothing is left: whatever is published later is pushed by whoever publishes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use conclave_order::query::document::Gathered;
use conclave_order::{Bounds, Proofs, Reader};

use super::channel::Channel;
use super::encode::new_author;
use super::{Document, Listener, Live, Own};
use crate::error::OpError;
use crate::hub::Conn;
use crate::limits;
use crate::sqlite::StoreError;

/// Starts reading for a listener, which must not be live.
pub(crate) fn start(document: &Arc<Document>, listener: &Listener, from: u64) {
    let conn = listener.conn.clone();
    let channel = listener.channel.clone();
    let tasks = document.env.tasks.clone();
    tasks.spawn(async move { run(conn, channel, from).await });
}

/// Reads until the listener is live, gone, or reading fails.
pub(crate) async fn run(conn: Arc<Conn>, channel: Arc<Channel>, from: u64) {
    let mut cursor = from;
    let read = async {
        loop {
            channel.document.catch_up().await?;
            match window(&channel, cursor) {
                Next::Read(window) => match deliver_window(&conn, &channel, &window).await? {
                    Some(next) => cursor = next,
                    None => return Ok(()),
                },
                Next::CatchUp => {}
                Next::Done => return Ok(()),
            }
        }
    };
    if let Err(error) = read.await {
        // The client comes back and resumes by head.
        let refusal = OpError::into_refusal(error);
        conn.outbox.close(refusal, limits::SLOW_CONSUMER_RETRY_MS);
    }
}

/// What there is to do for a listener.
enum Next {
    /// A stretch to read.
    Read(Window),
    /// Others have written: first to learn who.
    CatchUp,
    /// Nothing: it is live now, or gone.
    Done,
}

/// A stretch of published history.
struct Window {
    from: u64,
    end: u64,
    own: BTreeMap<u64, Own>,
}

/// The next stretch to read. Where there is nothing left, the listener is live from here on.
fn window(channel: &Arc<Channel>, cursor: u64) -> Next {
    let document = &channel.document;
    let mut live = document.live();
    if live.is_behind {
        return Next::CatchUp;
    }
    read_on(document, &mut live, channel, cursor).map_or(Next::Done, Next::Read)
}

/// None when nothing is left, or the listener is gone.
fn read_on(
    document: &Document,
    live: &mut Live,
    channel: &Arc<Channel>,
    cursor: u64,
) -> Option<Window> {
    let size = live.roots.size();
    let announcements: Vec<Bytes> = {
        let known = live.listener(channel)?.announced;
        live.authors
            .iter()
            .skip(known)
            .map(|author| new_author(document.number, *author))
            .collect()
    };
    let authors = live.authors.len();
    let listener = live.listener(channel)?;
    // Whoever wrote what is read now was published with it.
    for frame in announcements {
        listener.conn.outbox.push(frame);
    }
    listener.announced = authors;
    listener.tell_refused(cursor);
    if cursor >= size {
        listener.live = true;
        return None;
    }
    let end = size.min(cursor.saturating_add(u64::from(limits::BACKLOG_ROWS)));
    // What lies behind the cursor was sent.
    listener.own = listener.own.split_off(&cursor);
    let own = listener
        .own
        .range(..end)
        .map(|(seq, own)| (*seq, own.clone()))
        .collect();
    Some(Window {
        from: cursor,
        end,
        own,
    })
}

/// Sends a stretch, or the beginning of it. Gives where to continue; none when the connection is gone.
async fn deliver_window(
    conn: &Conn,
    channel: &Channel,
    window: &Window,
) -> Result<Option<u64>, StoreError> {
    let (frames, next) = read_window(channel, window).await?;
    for frame in frames {
        if !conn.outbox.send(frame).await {
            return Ok(None);
        }
    }
    Ok(Some(next))
}

/// Reads a stretch into frames, up to a bound, and gives where to continue. The connection to the database is let go before anything is
/// sent: a slow client keeps nobody else waiting.
async fn read_window(channel: &Channel, window: &Window) -> Result<(Vec<Bytes>, u64), StoreError> {
    let document = &channel.document;
    let mut reads = document.env.reads.acquire().await?;
    let bounds = Bounds {
        from: window.from,
        end: window.end,
        bytes: limits::BACKLOG_BYTES,
    };
    let found = reads.records(&document.log, bounds).await?;
    let mut frames = Vec::new();
    let mut bytes = 0usize;
    let mut batch = Gathered::new(document.number, window.from);
    let mut next = window.from;
    let mut proofs = Proofs::default();
    for row in &found {
        if row.seq < next {
            continue;
        }
        next = row.seq.saturating_add(1);
        if let Some(own) = window.own.get(&row.seq) {
            // Own records may reach beyond this stretch.
            next = row.seq.saturating_add(own.count);
            frames.extend(batch.take(next));
            frames.push(own.frame.clone());
            continue;
        }
        let to = (document.log, channel.base);
        batch.put(&mut reads, to, row, &mut proofs).await?;
        let is_full = batch.bytes() >= limits::BACKLOG_FRAME_BYTES
            || batch.count() >= conclave_proto::limits::RECORDS_PER_FRAME;
        if is_full {
            bytes = bytes.saturating_add(batch.bytes());
            frames.extend(batch.take(next));
        }
        if bytes >= limits::BACKLOG_BYTES {
            break;
        }
    }
    frames.extend(batch.take(next));
    if found.is_empty() {
        return Err(StoreError::Corrupt { what: "log" });
    }
    Ok((frames, next))
}
