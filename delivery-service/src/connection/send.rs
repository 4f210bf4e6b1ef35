//! The sending side of a connection.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message};
use bytes::Bytes;
use conclave_proto::Refusal;
use futures_util::{Sink, SinkExt};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::outbox::{Outbox, Step};
use super::{MESSAGE_BYTES, Sink as Socket};
use crate::hub::Conn;
use crate::limits;

/// WebSocket close code for a normal end (RFC 6455 §7.4.1).
const CLOSE_NORMAL: u16 = 1000;

/// Sends until the connection is to be closed or cannot be written to.
pub(super) async fn send_loop(sink: Socket, conn: Arc<Conn>, ping: Duration) {
    let mut pings = interval_at(Instant::now() + ping, ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut out = Out {
        sink,
        patience: || sleep(limits::WRITE_TIMEOUT),
    };
    loop {
        let step = tokio::select! {
            step = conn.outbox.next() => Some(step),
            _ = pings.tick() => None,
        };
        let write = async {
            match step {
                None => out.ping().await,
                Some(step) => out.write_all(&conn.outbox, step).await,
            }
        };
        let closed = async {
            conn.outbox.closing().cancelled().await;
            sleep(limits::CLOSE_TIMEOUT).await;
        };
        let go_on = tokio::select! {
            written = write => written,
            () = closed => false,
        };
        if !go_on {
            break;
        }
    }
    // The receiving side ends too.
    conn.outbox.close(Refusal::ShuttingDown, 0);
}

/// A socket, and how long it may take over one message: what is large may take as long as it needs, while it goes on.
struct Out<S, P> {
    sink: S,
    patience: P,
}

impl<S, P, W> Out<S, P>
where
    S: Sink<Message> + Unpin,
    P: Fn() -> W,
    W: Future<Output = ()>,
{
    async fn ping(&mut self) -> bool {
        self.feed(Message::Ping(Bytes::new())).await && self.flush().await
    }

    /// Writes a step and whatever else waits, then flushes once. False when that was the last.
    async fn write_all(&mut self, outbox: &Outbox, first: Step) -> bool {
        let mut next = Some(first);
        while let Some(step) = next {
            match step {
                Step::Send(frame) => {
                    if !self.frame(frame).await {
                        return false;
                    }
                }
                Step::Close(frame) => {
                    let close = CloseFrame {
                        code: CLOSE_NORMAL,
                        reason: "".into(),
                    };
                    if self.frame(frame).await && self.feed(Message::Close(Some(close))).await {
                        self.flush().await;
                    }
                    return false;
                }
            }
            next = outbox.try_next();
        }
        self.flush().await
    }

    /// Hands a frame to the socket, in chunks where it is large.
    async fn frame(&mut self, frame: Bytes) -> bool {
        if frame.len() <= MESSAGE_BYTES {
            return self.feed(Message::Binary(frame)).await;
        }
        for chunk in conclave_proto::chunk::split(frame.into()) {
            if !self.feed(Message::Binary(Bytes::from(chunk))).await {
                return false;
            }
        }
        true
    }

    async fn feed(&mut self, message: Message) -> bool {
        let overdue = (self.patience)();
        tokio::select! {
            taken = self.sink.feed(message) => taken.is_ok(),
            () = overdue => false,
        }
    }

    async fn flush(&mut self) -> bool {
        let overdue = (self.patience)();
        tokio::select! {
            flushed = self.sink.flush() => flushed.is_ok(),
            () = overdue => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::future::{pending, ready};

    use futures_util::sink::unfold;

    use super::*;

    const CHUNKS: usize = 5;

    /// A frame of so many messages.
    fn large() -> Step {
        Step::Send(Bytes::from(vec![0; (CHUNKS - 1) * MESSAGE_BYTES]))
    }

    #[tokio::test]
    async fn each_message_has_its_own_time() {
        let (taken, begun) = (Cell::new(0), Cell::new(0));
        let sink = unfold((), |(), _: Message| {
            taken.set(taken.get() + 1);
            ready(Ok::<_, Infallible>(()))
        });
        let mut out = Out {
            sink: Box::pin(sink),
            patience: || {
                begun.set(begun.get() + 1);
                pending()
            },
        };
        assert!(out.write_all(&Outbox::new(10), large()).await);
        assert_eq!(taken.get(), CHUNKS);
        // And the last of them leaves.
        assert_eq!(begun.get(), CHUNKS + 1);
    }

    #[tokio::test]
    async fn a_socket_that_takes_nothing_is_given_up() {
        let sink = unfold((), |(), _: Message| pending::<Result<(), Infallible>>());
        let mut out = Out {
            sink: Box::pin(sink),
            patience: || ready(()),
        };
        assert!(!out.write_all(&Outbox::new(10), large()).await);
    }
}
