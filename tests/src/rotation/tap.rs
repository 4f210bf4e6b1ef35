//! A relay between a device and the service that reads along: which frames go through, and when the service refused records of an old epoch.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use conclave_proto::chunk::Assembler;
use conclave_proto::codec::decode;
use conclave_proto::frame::{Answer, ClientFrame, Request, ServiceFrame};
use conclave_proto::{Refusal, limits};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::meter::Head;

/// Frames of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// How many.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Frames by direction and kind.
pub type Counts = BTreeMap<String, Count>;

/// What the tap has seen of a removal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// When the last commit went up, and its request.
    pub commit: Option<(Instant, u64)>,
    /// When it was accepted.
    pub accepted: Option<Instant>,
    /// When records of an old epoch were first refused.
    pub refused: Option<Instant>,
}

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<Counts>,
    seen: Mutex<Seen>,
}

/// A running tap.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Whether what comes from the service is held back: it is read, and told of, and not delivered.
    held: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tap {
    /// Listens on a free port, and relays to the service once that is known.
    ///
    /// # Errors
    /// What the system refused.
    pub async fn start(upstream: watch::Receiver<Option<SocketAddr>>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let (held, holding) = watch::channel(false);
        let of = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((device, _)) = listener.accept().await {
                let Some(service) = *upstream.borrow() else {
                    continue;
                };
                let (shared, holding) = (Arc::clone(&of), holding.clone());
                tokio::spawn(async move {
                    // A side that hangs up ends the connection; that is all there is to it.
                    let _ = carry(device, service, &shared, holding).await;
                });
            }
        });
        Ok(Self {
            address,
            shared,
            held,
        })
    }

    /// What the device dials.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Holds back what comes from the service, or lets it go on.
    pub fn hold(&self, yes: bool) {
        self.held.send_replace(yes);
    }

    /// What went through so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        locked(&self.shared.counts).clone()
    }

    /// What was seen.
    #[must_use]
    pub fn seen(&self) -> Seen {
        *locked(&self.shared.seen)
    }
}

async fn carry(
    device: TcpStream,
    service: SocketAddr,
    shared: &Shared,
    holding: watch::Receiver<bool>,
) -> Result<()> {
    let service = TcpStream::connect(service).await?;
    device.set_nodelay(true)?;
    service.set_nodelay(true)?;
    let (from_device, to_device) = device.into_split();
    let (from_service, to_service) = service.into_split();
    let free = watch::channel(false).1;
    tokio::select! {
        ended = pump(from_device, to_service, Way::Up, shared, free) => ended,
        ended = pump(from_service, to_device, Way::Down, shared, holding) => ended,
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    shared: &Shared,
    mut holding: watch::Receiver<bool>,
) -> Result<()> {
    let mut frames = Frames::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut kept = Vec::new();
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => {
                let bytes = buffer.get(..read?).unwrap_or_default();
                if bytes.is_empty() {
                    return Ok(to.shutdown().await?);
                }
                kept.extend_from_slice(bytes);
                frames.take(bytes, |frame| shared.note(way, &frame));
            }
            // Without a sender nothing is ever held.
            Ok(()) = holding.changed() => {}
        }
        if !*holding.borrow() && !kept.is_empty() {
            to.write_all(&std::mem::take(&mut kept)).await?;
        }
    }
}

/// Puts frames together from the bytes of a WebSocket.
struct Frames {
    begun: bool,
    rest: Vec<u8>,
    assembler: Assembler,
}

impl Frames {
    fn new() -> Self {
        Self {
            begun: false,
            rest: Vec::new(),
            assembler: Assembler::new(limits::FRAME_BYTES),
        }
    }

    fn take(&mut self, bytes: &[u8], mut each: impl FnMut(Vec<u8>)) {
        self.rest.extend_from_slice(bytes);
        if !self.begun {
            let end = self.rest.windows(4).position(|it| it == b"\r\n\r\n");
            let Some(end) = end else { return };
            self.rest.drain(..end + 4);
            self.begun = true;
        }
        let mut at = 0;
        while let Some((is_data, message, end)) = self.rest.get(at..).and_then(message) {
            at += end;
            if is_data && let Ok(Some(frame)) = self.assembler.take(message) {
                each(frame);
            }
        }
        self.rest.drain(..at);
    }
}

/// The WebSocket message that these bytes begin with, if it is whole: whether it is data, its content, and where the next begins. (Both sides send each
/// message as one frame of RFC 6455.)
fn message(bytes: &[u8]) -> Option<(bool, Vec<u8>, usize)> {
    let head = Head::read(bytes)?;
    let content = head.unmasked(bytes)?;
    let end = head.bytes + content.len();
    Some((head.opcode <= 2, content, end))
}

impl Shared {
    fn note(&self, way: Way, frame: &[u8]) {
        let kind = match way {
            Way::Up => self.up(frame),
            Way::Down => self.down(frame),
        };
        let mut counts = locked(&self.counts);
        let count = counts.entry(kind).or_default();
        count.frames += 1;
        count.bytes += frame.len() as u64;
    }

    fn up(&self, frame: &[u8]) -> String {
        let Ok(frame) = decode::<ClientFrame>("frame", frame, limits::FRAME_BYTES) else {
            return "up unreadable".to_owned();
        };
        let kind = match frame {
            ClientFrame::Append { .. } => "append",
            ClientFrame::Show { .. } => "show",
            ClientFrame::Ping => "ping",
            ClientFrame::Hello { .. } | ClientFrame::Login { .. } => "login",
            ClientFrame::Request { id, body } => match body {
                Request::Commit(_) => {
                    locked(&self.seen).commit = Some((Instant::now(), id.0));
                    "commit"
                }
                Request::OpenDocument { .. } => "open",
                Request::CloseDocument { .. } => "close",
                Request::PutSnapshot { .. } => "snapshot",
                Request::CreateDocument { .. } => "create",
                Request::PutEntry { .. } => "entry",
                Request::GetRecords { .. } => "records",
                Request::GetHead { .. } => "head",
                _ => "request",
            },
        };
        format!("up {kind}")
    }

    fn down(&self, frame: &[u8]) -> String {
        let Ok(frame) = decode::<ServiceFrame>("frame", frame, limits::FRAME_BYTES) else {
            return "down unreadable".to_owned();
        };
        let mut refused = None;
        let kind = match frame {
            ServiceFrame::Response { id, answer } => match answer {
                Answer::Accepted { .. } => {
                    let mut seen = locked(&self.seen);
                    if seen.commit.is_some_and(|(_, commit)| commit == id.0) {
                        seen.accepted = Some(Instant::now());
                    }
                    "accepted"
                }
                Answer::Opened(_) => "opened",
                Answer::Records { .. } => "records",
                Answer::Refused(refusal) => {
                    refused = Some(refusal);
                    "refused"
                }
                _ => "answer",
            },
            ServiceFrame::AppendRefused { refusal, .. } => {
                if let Refusal::StaleEpoch { .. } = refusal {
                    locked(&self.seen).refused.get_or_insert_with(Instant::now);
                }
                refused = Some(refusal);
                "append refused"
            }
            ServiceFrame::Ack { .. } => "ack",
            ServiceFrame::Deliver { .. } => "deliver",
            ServiceFrame::NewAuthor { .. } => "author",
            ServiceFrame::GroupEntries { .. } => "entries",
            ServiceFrame::Head { .. } => "head",
            ServiceFrame::Shown { .. } => "shown",
            ServiceFrame::Pong => "pong",
            _ => "other",
        };
        match refused {
            None => format!("down {kind}"),
            Some(refusal) => format!("down {kind}: {}", refusal.code()),
        }
    }
}

/// What went through between two looks.
#[must_use]
pub fn since(before: &Counts, now: &Counts) -> Counts {
    let mut between = Counts::new();
    for (kind, count) in now {
        let before = before.get(kind).copied().unwrap_or_default();
        let (frames, bytes) = (count.frames - before.frames, count.bytes - before.bytes);
        if frames > 0 {
            between.insert(kind.clone(), Count { frames, bytes });
        }
    }
    between
}
