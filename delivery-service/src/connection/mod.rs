//! One WebSocket: login, then frames both ways until either side ends it.
//!
//! One task receives, one sends. Appends are taken in the order in which they come; requests run beside each other, up to a bound, on tasks
//! that outlive the connection, so that what has begun to change a group is finished.

pub(crate) mod dispatch;
mod fleeting;
pub(crate) mod identity;
pub(crate) mod login;
pub(crate) mod outbox;
mod send;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use conclave_proto::chunk::Assembler;
use conclave_proto::codec::{Varint, decode, encode};
use conclave_proto::frame::{ClientFrame, ServiceFrame};
use conclave_proto::{RecordHeader, Refusal, limits as wire};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use self::outbox::Outbox;
use crate::group::join;
use crate::hub::Conn;
use crate::limits;
use crate::listener::Trusted;
use crate::shared::Shared;

/// Largest message in bytes: a larger frame is split.
const MESSAGE_BYTES: usize = wire::WIRE_MESSAGE_BYTES;

type Sink = SplitSink<WebSocket, Message>;
type Stream = SplitStream<WebSocket>;

/// Serves one connection to its end.
pub(crate) async fn serve(socket: WebSocket, shared: Arc<Shared>, trusted: Trusted) {
    let (mut sink, stream) = socket.split();
    let mut incoming = Incoming::new(stream, shared.clone());
    let handshake = Duration::from_millis(shared.env.limits.handshake_ms);
    let login = tokio::select! {
        login = timeout(handshake, login::login(&shared, &mut incoming, &mut sink)) => login,
        () = shared.stop.cancelled() => Ok(Err(Refusal::ShuttingDown.into())),
    };
    let who = match login {
        Ok(Ok(who)) => who,
        Ok(Err(Unadmitted::Refused(refusal))) => return refuse(sink, refusal).await,
        // Nothing is said to who has gone, or says nothing.
        Ok(Err(Unadmitted::Gone)) | Err(_) => return,
    };
    trusted.set();
    incoming.allow_large();
    let outbox = Outbox::new(shared.env.limits.outbox_bytes);
    match login::ready(&shared, &who).await {
        // Before anything that its being known can bring.
        Ok(ready) => outbox.push_frame(&ready),
        Err(refusal) => {
            let by = who.asker();
            login::refused(&shared, Some((&by.device, &by.user)), &refusal);
            return refuse(sink, refusal).await;
        }
    }
    let conn = shared.env.hub.register(who.asker(), outbox);
    let ping = Duration::from_millis(shared.env.limits.ping_ms);
    let sender = shared
        .connections
        .spawn(send::send_loop(sink, conn.clone(), ping));
    match login::confirm(&shared, &who).await {
        Ok(()) => {
            let (env, to) = (shared.env.clone(), conn.clone());
            let welcomes = async move {
                join::deliver_all(&env, &to).await;
                to.welcomed.cancel();
            };
            shared.env.tasks.spawn(welcomes);
            receive_loop(&shared, &conn, incoming).await;
        }
        Err(refusal) => {
            let by = who.asker();
            login::refused(&shared, Some((&by.device, &by.user)), &refusal);
            conn.outbox.close(refusal, 0);
        }
    }
    // First closed, then left: what a request still opens here finds it closed, or is found.
    conn.outbox
        .close(Refusal::ShuttingDown, limits::SHUTDOWN_RETRY_MS);
    leave(&shared, &conn);
    let _ = sender.await;
}

/// Says why a login failed.
async fn refuse(mut sink: Sink, why: Refusal) {
    let retry_after_ms = match why {
        Refusal::OtherLife { .. } => limits::OTHER_LIFE_RETRY_MS,
        _ => 0,
    };
    let frame = encode(&ServiceFrame::Goodbye {
        why,
        retry_after_ms,
    });
    let last = async {
        let _ = sink.send(Message::Binary(Bytes::from(frame))).await;
        let _ = sink.close().await;
    };
    let _ = timeout(limits::CLOSE_TIMEOUT, last).await;
}

/// Ends everything that is delivered to a connection.
fn leave(shared: &Shared, conn: &Conn) {
    shared.env.hub.remove(conn);
    for channel in conn.take_channels(|_| true) {
        channel.document.leave(&channel);
    }
    for group in conn.take_followed() {
        if let Some(group) = shared.groups.in_memory(&group) {
            group.unfollow(conn);
        }
    }
}

/// Frames from a client, put together from messages.
pub(crate) struct Incoming {
    stream: Stream,
    assembler: Assembler,
    shared: Arc<Shared>,
    /// What the frame that is being put together counts against all connections' bound.
    large: Option<OwnedSemaphorePermit>,
    /// Its bytes so far.
    unfinished_bytes: usize,
    /// Whether the frame that is being put together is a snapshot whose header was looked at.
    looked_at: bool,
    /// Whether frames may be larger than a message: not before login.
    chunks_allowed: bool,
}

/// Why no frame came.
pub(crate) enum Ended {
    /// The connection is gone.
    Gone,
    /// The client broke the rules of framing.
    Broken,
    /// Too many large frames are being put together.
    Busy,
}

impl Ended {
    /// A network that is lost, or a process that has ended, says no goodbye: that breaks no rule. Too large a message does, and what is no
    /// WebSocket.
    fn of(why: axum::Error) -> Self {
        match why.into_inner().downcast_ref::<tungstenite::Error>() {
            Some(
                tungstenite::Error::Io(_)
                | tungstenite::Error::ConnectionClosed
                | tungstenite::Error::AlreadyClosed
                | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
            ) => Self::Gone,
            _ => Self::Broken,
        }
    }
}

/// Why nobody logged in.
pub(crate) enum Unadmitted {
    Refused(Refusal),
    /// The connection ended before that was decided.
    Gone,
}

impl From<Refusal> for Unadmitted {
    fn from(why: Refusal) -> Self {
        Self::Refused(why)
    }
}

impl Incoming {
    fn new(stream: Stream, shared: Arc<Shared>) -> Self {
        let assembler = Assembler::new(wire::UNAUTHENTICATED_FRAME_BYTES);
        Self {
            stream,
            assembler,
            shared,
            large: None,
            unfinished_bytes: 0,
            looked_at: false,
            chunks_allowed: false,
        }
    }

    /// The device has logged in: its frames may be large.
    fn allow_large(&mut self) {
        self.assembler.set_max(wire::FRAME_BYTES);
        self.chunks_allowed = true;
    }

    /// The next frame, or none where a message was only a sign of life or part of a frame.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Ended> {
        let message = match self.stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(why)) => return Err(Ended::of(why)),
            None => return Err(Ended::Gone),
        };
        match message {
            Message::Binary(bytes) => {
                // A chunk has its marker before its content.
                let content = bytes.len().saturating_sub(1);
                let was_skipping = self.assembler.is_skipping();
                let frame = self
                    .assembler
                    .take(bytes.into())
                    .map_err(|_| Ended::Broken)?;
                // A chunk that brings nothing leaves nothing unfinished either.
                let brought_nothing = frame.is_none() && !was_skipping;
                if self.assembler.is_unfinished() || brought_nothing {
                    self.hold_chunk(content)?;
                } else {
                    self.let_go();
                }
                Ok(frame)
            }
            Message::Ping(_) | Message::Pong(_) => Ok(None),
            Message::Close(_) => Err(Ended::Gone),
            Message::Text(_) => Err(Ended::Broken),
        }
    }
}

/// What is held for a frame that is being put together.
impl Incoming {
    /// Of a snapshot of which only the beginning has come: its request and its header. Once for each.
    fn begun_snapshot(&mut self) -> Option<(Varint, RecordHeader)> {
        if self.looked_at {
            return None;
        }
        let found = ClientFrame::begun_snapshot(self.assembler.begun())?;
        self.looked_at = true;
        Some(found)
    }

    /// Drops the frame that is being put together, and what is still to come of it.
    fn skip(&mut self) {
        self.assembler.skip();
        self.let_go();
    }

    fn let_go(&mut self) {
        self.large = None;
        self.unfinished_bytes = 0;
        self.looked_at = false;
    }

    /// Counts a chunk against what all connections may hold together: by its bytes, so that many small ones take nobody's place. One that
    /// brings nothing could go on for ever.
    fn hold_chunk(&mut self, content: usize) -> Result<(), Ended> {
        if content == 0 || !self.chunks_allowed {
            return Err(Ended::Broken);
        }
        if self.assembler.is_skipping() {
            return Ok(());
        }
        self.unfinished_bytes = self.unfinished_bytes.saturating_add(content);
        let wanted = self.unfinished_bytes.div_ceil(MESSAGE_BYTES);
        let held = self.large.as_ref().map_or(0, |held| held.num_permits());
        let more = u32::try_from(wanted.saturating_sub(held)).map_err(|_| Ended::Broken)?;
        if more == 0 {
            return Ok(());
        }
        let chunks = self.shared.chunks.clone();
        let chunk = chunks
            .try_acquire_many_owned(more)
            .map_err(|_| Ended::Busy)?;
        match &mut self.large {
            Some(held) => held.merge(chunk),
            None => self.large = Some(chunk),
        }
        Ok(())
    }
}

async fn receive_loop(shared: &Arc<Shared>, conn: &Arc<Conn>, mut incoming: Incoming) {
    let idle = Duration::from_millis(shared.env.limits.idle_ms);
    let mut session = dispatch::Session::new(shared.clone(), conn.clone());
    loop {
        let frame = tokio::select! {
            biased;
            () = conn.outbox.closing().cancelled() => return,
            frame = timeout(idle, incoming.next()) => frame,
        };
        let bytes = match frame {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => {
                if let Some((id, header)) = incoming.begun_snapshot()
                    && !session.takes_snapshot(id, &header).await
                {
                    incoming.skip();
                }
                continue;
            }
            Ok(Err(Ended::Gone)) => return,
            Ok(Err(Ended::Broken)) => return end(shared, conn, Refusal::Malformed),
            Ok(Err(Ended::Busy)) | Err(_) => {
                let retry_after_ms = limits::SLOW_CONSUMER_RETRY_MS;
                return conn
                    .outbox
                    .close(Refusal::RateLimited { retry_after_ms }, retry_after_ms);
            }
        };
        let Ok(frame) = decode::<ClientFrame>("frame", &bytes, wire::FRAME_BYTES) else {
            return end(shared, conn, Refusal::Malformed);
        };
        // Boxed: what handling a frame needs is not kept while the connection is idle.
        if let Err(refusal) = Box::pin(session.handle(frame, bytes.len())).await {
            return end(shared, conn, refusal);
        }
    }
}

/// Ends a connection for what came on it.
fn end(shared: &Shared, conn: &Conn, why: Refusal) {
    let env = &shared.env;
    env.misconduct.refused(&conn.device, &why, env.clock.now());
    conn.outbox.close(why, 0);
}
