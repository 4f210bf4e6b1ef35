//! The actor's end of the connection: what has to leave, and what may still come in.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::time::Duration;

use conclave_proto::codec;
use conclave_proto::frame::ClientFrame;
use tokio::time::Instant;

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
    /// Presence, which goes when nothing else waits, and now and then where something always does.
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
                if let Some(frame) = fleeting.pop(backlog.is_empty(), Instant::now()) {
                    room.send(frame);
                } else if let Some(frame) = backlog.pop_front() {
                    *bytes = bytes.saturating_sub(frame.len());
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

/// How long presence waits for other frames.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// Most messages to one session each that wait. The oldest goes: who misses one asks again.
const ADDRESSED: usize = 1024;

/// Presence that has not left yet: the newest that is for all in a document, and what is for one session each.
#[derive(Default)]
pub(super) struct Fleeting {
    newest: BTreeMap<u64, Vec<u8>>,
    addressed: VecDeque<Vec<u8>>,
    /// Since when something has waited, or the last of it went before other frames; none while nothing waits.
    since: Option<Instant>,
}

impl Fleeting {
    fn push(&mut self, frame: &ClientFrame) {
        let ClientFrame::Show { channel, item } = frame else {
            return;
        };
        let bytes = codec::encode(frame);
        self.since.get_or_insert_with(Instant::now);
        if item.to.is_none() {
            self.newest.insert(channel.0, bytes);
            return;
        }
        self.addressed.push_back(bytes);
        if self.addressed.len() > ADDRESSED {
            self.addressed.pop_front();
        }
    }

    /// The next frame, if it may go: nothing else waits, or none of this has gone for long. Then one goes, however much there is: what else waits is not
    /// held up either.
    fn pop(&mut self, is_idle: bool, now: Instant) -> Option<Vec<u8>> {
        if !is_idle && now.duration_since(self.since?) < LONGEST_WAIT {
            return None;
        }
        let addressed = self.addressed.pop_front();
        let frame = addressed.or_else(|| self.newest.pop_first().map(|(_, frame)| frame));
        self.since = (!self.is_empty()).then_some(now);
        frame
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

#[cfg(test)]
mod tests {
    use conclave_proto::SessionId;
    use conclave_proto::codec::{Bytes, Varint};
    use conclave_proto::presence::PresenceItem;
    use conclave_proto::record::Sealed;

    use super::*;

    fn shown(channel: u64, to: Option<SessionId>) -> ClientFrame {
        let item = PresenceItem {
            epoch: Varint(1),
            seen_size: Varint(1),
            seen_hint: [0; 8],
            session: SessionId([1; 16]),
            to,
            sealed: Sealed {
                nonce: Default::default(),
                ciphertext: Bytes::from(&[0; 8][..]),
                tag: Default::default(),
                commitment: Default::default(),
                signature: [0; 64],
            },
        };
        let channel = Varint(channel);
        ClientFrame::Show { channel, item }
    }

    #[test]
    fn presence_waits_for_other_frames_but_not_for_ever() {
        let mut fleeting = Fleeting::default();
        for channel in 0..3 {
            fleeting.push(&shown(channel, None));
        }
        let began = fleeting.since.unwrap();
        assert!(fleeting.pop(false, began).is_none());
        let mut left = 0;
        for tenths in 1..=30 {
            let now = began + LONGEST_WAIT * tenths / 10;
            // Other frames could go three times meanwhile.
            let went = (0..3).filter(|_| fleeting.pop(false, now).is_some());
            left += went.count();
            assert_eq!(left, usize::try_from(tenths / 10).unwrap(), "{tenths}");
        }
        assert!(fleeting.is_empty() && fleeting.since.is_none());
        fleeting.push(&shown(1, Some(SessionId([2; 16]))));
        assert!(fleeting.pop(false, Instant::now()).is_none());
        assert!(fleeting.pop(true, Instant::now()).is_some());
    }

    /// Whatever waits for a slow socket, presence overtakes it: what is queued there cannot be overtaken, and is little.
    #[tokio::test]
    async fn presence_overtakes_an_upload() {
        let mut link = Link::new(None, Timing::default(), None);
        let (sender, mut queued) = Sender::for_tests();
        link.sender = Some(sender);
        let large = ClientFrame::Hello {
            versions: vec![],
            credential: vec![0; 200 * 1024].into(),
        };
        for _ in 0..50 {
            link.queue(&large);
        }
        link.show(&shown(7, None));
        let mut before = 0;
        loop {
            while !matches!(
                futures_util::FutureExt::now_or_never(room(&link.sender)),
                None | Some(Err(_))
            ) {
                let room = room(&link.sender).await;
                Link::sent(
                    room,
                    &mut link.backlog,
                    &mut link.backlog_bytes,
                    &mut link.fleeting,
                );
            }
            // The socket takes a frame every 100 ms.
            let frame = queued.recv().await.unwrap();
            if frame.len() < 1024 {
                break;
            }
            before += 1;
            let earlier = |since: Instant| since - Duration::from_millis(100);
            link.fleeting.since = link.fleeting.since.map(earlier);
            assert!(before < 10, "{before} frames went before");
        }
    }
}
