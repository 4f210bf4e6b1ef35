//! The actor's end of the connection: what has to leave, and what may still come in.

use std::collections::VecDeque;
use std::future::pending;

use conclave_proto::codec;
use conclave_proto::frame::ClientFrame;

use super::inbox::Inbox;
use crate::transport::{Endpoint, Gone, Room, Sender, Timing, Transport};

/// Encoded frames, in bytes, past which no further input is taken until the socket has taken some.
pub(super) const BACKLOG_BYTES: usize = 16 * 1024 * 1024;

/// The connection as the actor sees it.
pub(super) struct Link {
    pub(super) inbox: Inbox,
    pub(super) origin: String,
    pub(super) token: Option<Vec<u8>>,
    pub(super) sender: Option<Sender>,
    /// Encoded frames that the sender has no room for yet.
    pub(super) backlog: VecDeque<Vec<u8>>,
    pub(super) backlog_bytes: usize,
    /// Set while the end of a connection that was closed here is awaited: what still arrives on it is not for the engine.
    pub(super) deaf: bool,
}

impl Link {
    /// Without an endpoint there is never a connection.
    pub(super) fn new(endpoint: Option<Endpoint>, timing: Timing, token: Option<Vec<u8>>) -> Self {
        Self {
            origin: endpoint
                .as_ref()
                .map(|endpoint| endpoint.origin().to_owned())
                .unwrap_or_default(),
            inbox: Inbox::new(endpoint.map(|endpoint| Transport::start(endpoint, timing))),
            token,
            sender: None,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            deaf: false,
        }
    }

    /// Nothing more can leave on the present connection.
    pub(super) fn forget(&mut self) {
        self.sender = None;
        self.backlog.clear();
        self.backlog_bytes = 0;
    }

    /// Encodes a frame for the present connection, if there is one.
    pub(super) fn queue(&mut self, frame: &ClientFrame) {
        if self.sender.is_some() {
            let bytes = codec::encode(frame);
            self.backlog_bytes = self.backlog_bytes.saturating_add(bytes.len());
            self.backlog.push_back(bytes);
        }
    }

    pub(super) fn is_choked(&self) -> bool {
        self.backlog_bytes > BACKLOG_BYTES
    }

    /// Moves one frame on.
    pub(super) fn sent(
        room: Result<Room<'_>, Gone>,
        backlog: &mut VecDeque<Vec<u8>>,
        bytes: &mut usize,
    ) {
        match room {
            Ok(room) => {
                if let Some(frame) = backlog.pop_front() {
                    *bytes = bytes.saturating_sub(frame.len());
                    room.send(frame);
                }
            }
            // The transport tells soon that the connection is gone.
            Err(Gone) => {
                backlog.clear();
                *bytes = 0;
            }
        }
    }
}

/// Waits for room in the connection's queue; for ever without one.
pub(super) async fn room(sender: &Option<Sender>) -> Result<Room<'_>, Gone> {
    match sender {
        Some(sender) => sender.room().await,
        None => pending().await,
    }
}
