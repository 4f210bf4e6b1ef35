//! The actor's end of the connection: what has to leave, and what may still come in.

use std::collections::{BTreeMap, VecDeque};
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
    /// Presence, which goes when nothing else waits.
    pub(super) fleeting: Fleeting,
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
            fleeting: Fleeting::default(),
            deaf: false,
        }
    }

    /// Nothing more can leave on the present connection.
    pub(super) fn forget(&mut self) {
        self.sender = None;
        self.backlog.clear();
        self.backlog_bytes = 0;
        self.fleeting = Fleeting::default();
    }

    /// Keeps presence for the present connection, if there is one, in place of what it supersedes.
    pub(super) fn show(&mut self, frame: &ClientFrame) {
        if self.sender.is_some() {
            self.fleeting.push(frame);
        }
    }

    /// Whether anything waits for the socket.
    pub(super) fn has_frames(&self) -> bool {
        !self.backlog.is_empty() || !self.fleeting.is_empty()
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
        fleeting: &mut Fleeting,
    ) {
        match room {
            Ok(room) => {
                if let Some(frame) = backlog.pop_front() {
                    *bytes = bytes.saturating_sub(frame.len());
                    room.send(frame);
                } else if let Some(frame) = fleeting.pop() {
                    room.send(frame);
                }
            }
            // The transport tells soon that the connection is gone.
            Err(Gone) => {
                backlog.clear();
                *bytes = 0;
                *fleeting = Fleeting::default();
            }
        }
    }
}

/// Most messages to one session each that wait. The oldest goes: who misses one asks again.
const ADDRESSED: usize = 1024;

/// Presence that has not left yet: the newest that is for all in a document, and what is for one session each.
#[derive(Default)]
pub(super) struct Fleeting {
    newest: BTreeMap<u64, Vec<u8>>,
    addressed: VecDeque<Vec<u8>>,
}

impl Fleeting {
    fn push(&mut self, frame: &ClientFrame) {
        let ClientFrame::Show { channel, item } = frame else {
            return;
        };
        let bytes = codec::encode(frame);
        if item.to.is_none() {
            self.newest.insert(channel.0, bytes);
            return;
        }
        self.addressed.push_back(bytes);
        if self.addressed.len() > ADDRESSED {
            self.addressed.pop_front();
        }
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let addressed = self.addressed.pop_front();
        addressed.or_else(|| self.newest.pop_first().map(|(_, frame)| frame))
    }

    fn is_empty(&self) -> bool {
        self.newest.is_empty() && self.addressed.is_empty()
    }
}

/// Waits for room in the connection's queue; for ever without one.
pub(super) async fn room(sender: &Option<Sender>) -> Result<Room<'_>, Gone> {
    match sender {
        Some(sender) => sender.room().await,
        None => pending().await,
    }
}
