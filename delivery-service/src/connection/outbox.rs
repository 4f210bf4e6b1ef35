//! Frames on their way to one connection: a bounded queue that never blocks who publishes.
//!
//! Live frames are pushed and never wait: a connection whose queue is full is a slow consumer and is closed; it comes back and resumes by
//! head. History and answers wait until the queue is short.
//!
//! Presence has a lane of its own, which closes nobody's connection: of what a connection does not take in time only the newest of each device is
//! kept. It goes when nothing else waits, and now and then where something always does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use conclave_proto::Refusal;
use conclave_proto::codec::encode;
use conclave_proto::frame::ServiceFrame;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use super::fleeting::Batch;
use super::fleeting::Fleeting;
use crate::limits;

/// What the connection's sending side does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send a frame.
    Send(Bytes),
    /// Send this last frame and close.
    Close(Bytes),
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
    goodbye: Option<Bytes>,
    fleeting: Fleeting,
}

/// The queue of one connection.
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    max_bytes: usize,
    filled: Notify,
    drained: Notify,
    closing: CancellationToken,
}

impl Outbox {
    /// An empty queue that counts as overflowing past `max_bytes`.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            queue: Mutex::default(),
            max_bytes,
            filled: Notify::new(),
            drained: Notify::new(),
            closing: CancellationToken::new(),
        }
    }

    /// Becomes cancelled when the connection is to be closed.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a frame at once. A queue that is full already closes the connection.
    pub(crate) fn push(&self, frame: Bytes) {
        let mut queue = self.queue();
        if queue.goodbye.is_some() {
            return;
        }
        // Judged before the frame is counted: one frame may be larger than the bound.
        if queue.bytes >= self.max_bytes || queue.frames.len() >= limits::OUTBOX_FRAMES {
            queue.frames.clear();
            queue.bytes = 0;
            drop(queue);
            let retry_after_ms = limits::SLOW_CONSUMER_RETRY_MS;
            self.close(Refusal::RateLimited { retry_after_ms }, retry_after_ms);
            return;
        }
        queue.bytes = queue.bytes.saturating_add(frame.len());
        queue.frames.push_back(frame);
        drop(queue);
        self.filled.notify_one();
    }

    /// Encodes a frame and queues it at once.
    pub(crate) fn push_frame(&self, frame: &ServiceFrame) {
        self.push(Bytes::from(encode(frame)));
    }

    /// Queues presence that all who have the document `channel` open are shown.
    pub(crate) fn push_fleeting(&self, channel: u64, batch: &Arc<Batch>) {
        self.push_presence(|fleeting| fleeting.push(channel, batch));
    }

    /// Queues presence that is for this connection alone.
    pub(crate) fn push_addressed(&self, frame: Bytes) {
        self.push_presence(|fleeting| fleeting.push_addressed(frame));
    }

    fn push_presence(&self, push: impl FnOnce(&mut Fleeting)) {
        let mut queue = self.queue();
        if queue.goodbye.is_some() {
            return;
        }
        push(&mut queue.fleeting);
        drop(queue);
        self.filled.notify_one();
    }

    /// Queues a frame when the queue is short. False when the connection is being closed.
    pub(crate) async fn send(&self, frame: Bytes) -> bool {
        self.send_all(vec![frame]).await
    }

    /// Queues frames, with nothing between them, when the queue is short. False when the connection is being closed.
    pub(crate) async fn send_all(&self, frames: Vec<Bytes>) -> bool {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            {
                let mut queue = self.queue();
                if queue.goodbye.is_some() {
                    return false;
                }
                if queue.bytes < limits::OUTBOX_BACKLOG_BYTES.min(self.max_bytes) {
                    let bytes: usize = frames.iter().map(Bytes::len).sum();
                    queue.bytes = queue.bytes.saturating_add(bytes);
                    queue.frames.extend(frames);
                    self.filled.notify_one();
                    return true;
                }
            }
            drained.await;
        }
    }

    /// Encodes a frame and queues it when the queue is short.
    pub(crate) async fn send_frame(&self, frame: &ServiceFrame) -> bool {
        self.send(Bytes::from(encode(frame))).await
    }

    /// Ends the connection after what is queued, with a last word. The first reason given is the one that is told.
    pub(crate) fn close(&self, why: Refusal, retry_after_ms: u64) {
        let mut queue = self.queue();
        if queue.goodbye.is_none() {
            let frame = ServiceFrame::Goodbye {
                why,
                retry_after_ms,
            };
            queue.goodbye = Some(Bytes::from(encode(&frame)));
        }
        drop(queue);
        self.closing.cancel();
        self.filled.notify_one();
        self.drained.notify_waiters();
    }

    /// What to do next; waits for it. For one caller only.
    pub(crate) async fn next(&self) -> Step {
        loop {
            if let Some(step) = self.try_next() {
                return step;
            }
            self.filled.notified().await;
        }
    }

    /// What to do next, if there is anything.
    pub(crate) fn try_next(&self) -> Option<Step> {
        let mut queue = self.queue();
        let is_idle = queue.frames.is_empty() && queue.goodbye.is_none();
        if let Some(frame) = queue.fleeting.next(is_idle, Instant::now()) {
            return Some(Step::Send(frame));
        }
        let Some(frame) = queue.frames.pop_front() else {
            return queue.goodbye.clone().map(Step::Close);
        };
        let before = queue.bytes;
        queue.bytes = before.saturating_sub(frame.len());
        let below = queue.bytes < limits::OUTBOX_BACKLOG_BYTES.min(self.max_bytes);
        drop(queue);
        if below {
            self.drained.notify_waiters();
        }
        Some(Step::Send(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_closes_instead_of_growing() {
        let outbox = Outbox::new(10);
        outbox.push(Bytes::from_static(b"0123456789ab"));
        assert!(!outbox.closing().is_cancelled());
        outbox.push(Bytes::from_static(b"x"));
        assert!(outbox.closing().is_cancelled());
        assert!(matches!(outbox.try_next(), Some(Step::Close(_))));
    }

    #[tokio::test]
    async fn history_waits_until_the_queue_is_short() {
        let outbox = std::sync::Arc::new(Outbox::new(4));
        outbox.push(Bytes::from_static(b"0123"));
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.send(Bytes::from_static(b"later")).await }
        });
        assert_eq!(outbox.next().await, Step::Send(Bytes::from_static(b"0123")));
        assert!(waiting.await.unwrap());
        assert_eq!(
            outbox.next().await,
            Step::Send(Bytes::from_static(b"later"))
        );
    }

    #[tokio::test]
    async fn the_goodbye_comes_last_and_frees_who_waits() {
        let outbox = std::sync::Arc::new(Outbox::new(4));
        outbox.push(Bytes::from_static(b"0123"));
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.send(Bytes::from_static(b"later")).await }
        });
        outbox.close(Refusal::ShuttingDown, 1);
        assert!(!waiting.await.unwrap());
        assert_eq!(outbox.next().await, Step::Send(Bytes::from_static(b"0123")));
        assert!(matches!(outbox.next().await, Step::Close(_)));
    }
}
