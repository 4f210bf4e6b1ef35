//! The WebSocket to the delivery service: one connection at a time, made again whenever it is lost.
//!
//! The transport moves frames and knows none of their meaning, with three exceptions: it answers for liveness (pings, an idle limit), it
//! takes [`ServiceFrame::Ready`] as the sign that a connection is good, and it honours the pause that [`ServiceFrame::Goodbye`] asks for.
//! Every queue is bounded, in frames or bytes: when nobody takes what arrived it stops reading, and the service slows down or hangs up.
//!
//! [`ServiceFrame::Ready`]: conclave_proto::frame::ServiceFrame::Ready
//! [`ServiceFrame::Goodbye`]: conclave_proto::frame::ServiceFrame::Goodbye

mod backoff;
mod connection;
mod diagnose;
mod endpoint;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use conclave_proto::frame::ServiceFrame;
use conclave_proto::limits;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use backoff::Backoff;
pub use endpoint::{Endpoint, EndpointError};

use crate::trouble::Trouble;
use connection::Ended;

/// Frames that wait for the application's side.
const INCOMING_FRAMES: usize = 64;
/// Encoded frames that wait for the socket.
const OUTGOING_FRAMES: usize = 64;
/// Bytes of them from which on there is room for none.
const OUTGOING_BYTES: usize = limits::WIRE_MESSAGE_BYTES;

/// A good connection that lasted this long lets the pauses begin anew; a service that lets devices in and throws them out again does not.
const STEADY: Duration = Duration::from_secs(10);

/// Times of the transport.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Pause between attempts.
    pub backoff: Backoff,
    /// Time for name lookup, TCP, TLS and the WebSocket handshake together.
    pub connect_timeout: Duration,
    /// Time between pings.
    pub ping: Duration,
    /// A connection on which nothing arrives, or nothing can be written, for this long is given up.
    pub idle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            connect_timeout: Duration::from_millis(limits::HANDSHAKE_MS),
            ping: Duration::from_millis(limits::PING_MS),
            idle: Duration::from_millis(limits::IDLE_MS),
        }
    }
}

/// What the transport tells, in order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Wire {
    /// A connection is there. Frames sent to it go nowhere once it is gone.
    Up(Sender),
    /// A frame arrived on the present connection.
    Frame(Received),
    /// The present connection is gone.
    Down {
        /// Why.
        cause: Trouble,
        /// Pause until the next attempt begins.
        pause: Duration,
    },
    /// An attempt to connect failed.
    Failed {
        /// Why.
        cause: Trouble,
        /// Pause until the next attempt begins.
        pause: Duration,
    },
}

/// A frame and its share of the memory that incoming frames may take; given back when this is dropped.
#[derive(Debug)]
pub struct Received {
    frame: Box<ServiceFrame>,
    _share: OwnedSemaphorePermit,
}

impl Received {
    /// The frame, where it is.
    pub fn frame_mut(&mut self) -> &mut ServiceFrame {
        &mut self.frame
    }

    /// The frame. Gives the memory share back.
    #[must_use]
    pub fn into_frame(self) -> Box<ServiceFrame> {
        self.frame
    }

    #[cfg(test)]
    pub(crate) fn for_tests(frame: ServiceFrame) -> Self {
        let memory = Arc::new(tokio::sync::Semaphore::new(1));
        let share = memory.try_acquire_owned().expect("a fresh semaphore");
        Self {
            frame: Box::new(frame),
            _share: share,
        }
    }
}

/// Where frames of one connection go. Dropping it closes the connection when everything queued has been written.
#[derive(Debug)]
pub struct Sender {
    frames: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Waiting>,
}

/// What waits for the socket.
#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    taken: Notify,
}

/// Frames that wait for the socket.
#[derive(Debug)]
pub(crate) struct Queued {
    frames: mpsc::Receiver<Vec<u8>>,
    waiting: Arc<Waiting>,
}

fn queue() -> (Sender, Queued) {
    let (frames, queued) = mpsc::channel(OUTGOING_FRAMES);
    let waiting = Arc::new(Waiting::default());
    let sender = Sender {
        frames,
        waiting: Arc::clone(&waiting),
    };
    let frames = queued;
    (sender, Queued { frames, waiting })
}

impl Queued {
    /// The next frame; none when nobody queues any more.
    pub(crate) async fn recv(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.recv().await;
        self.took(frame)
    }

    /// The next frame, where one waits.
    pub(crate) fn try_recv(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.try_recv().ok();
        self.took(frame)
    }

    #[cfg(test)]
    pub(crate) fn is_closed(&self) -> bool {
        self.frames.is_closed()
    }

    fn took(&self, frame: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let bytes = frame.as_ref().map_or(0, Vec::len);
        self.waiting.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.waiting.taken.notify_one();
        frame
    }
}

/// The connection that this frame was for is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is gone")]
pub struct Gone;

impl Sender {
    /// Waits for room for one frame. What is queued cannot be overtaken: so there is no more of it than keeps the socket busy. For one caller at a time.
    ///
    /// # Errors
    /// [`Gone`] when the connection is.
    pub async fn room(&self) -> Result<Room<'_>, Gone> {
        while self.waiting.bytes.load(Ordering::Relaxed) >= OUTGOING_BYTES {
            tokio::select! {
                () = self.waiting.taken.notified() => {}
                () = self.frames.closed() => return Err(Gone),
            }
        }
        let place = self.frames.reserve().await.map_err(|_| Gone)?;
        let waiting = &self.waiting;
        Ok(Room { place, waiting })
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> (Self, Queued) {
        queue()
    }
}

/// Room for one frame in the queue of a connection.
#[derive(Debug)]
pub struct Room<'a> {
    place: mpsc::Permit<'a, Vec<u8>>,
    waiting: &'a Waiting,
}

impl Room<'_> {
    /// Queues an encoded [`ClientFrame`](conclave_proto::frame::ClientFrame).
    pub fn send(self, frame: Vec<u8>) {
        self.waiting.bytes.fetch_add(frame.len(), Ordering::Relaxed);
        self.place.send(frame);
    }
}

/// A running transport. Dropping it closes the connection and ends its task, soon; [`Transport::close`] waits for that.
#[derive(Debug)]
pub struct Transport {
    wires: mpsc::Receiver<Wire>,
    nudge: Arc<Notify>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Transport {
    /// Starts connecting. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(endpoint: Endpoint, timing: Timing) -> Self {
        let (tell, wires) = mpsc::channel(INCOMING_FRAMES);
        let nudge = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let run = run(
            endpoint,
            timing,
            tell,
            Arc::clone(&nudge),
            stop.child_token(),
        );
        let task = tokio::spawn(run);
        Self {
            wires,
            nudge,
            stop: stop.drop_guard(),
            task,
        }
    }

    /// Closes the connection at once. What is given back waits until the service was told, for a second at most.
    pub fn close(self) -> impl Future<Output = ()> + use<> {
        let Self { stop, task, .. } = self;
        drop(stop);
        async move {
            let _ = task.await;
        }
    }

    /// What happens next. May be dropped while waiting without losing anything.
    pub async fn next(&mut self) -> Option<Wire> {
        self.wires.recv().await
    }

    /// What has happened already, if anything.
    pub fn try_next(&mut self) -> Option<Wire> {
        self.wires.try_recv().ok()
    }

    /// Ends the present pause between attempts, if there is one.
    pub fn connect_now(&self) {
        self.nudge.notify_one();
    }
}

async fn run(
    endpoint: Endpoint,
    timing: Timing,
    tell: mpsc::Sender<Wire>,
    nudge: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut attempt = 0u32;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let ended = one_connection(&endpoint, &timing, &tell, &stop).await;
        if ended.was_good && began.elapsed() >= STEADY {
            attempt = 0;
        }
        let pause = timing
            .backoff
            .pause(attempt, ended.retry_after_ms, random_u64());
        attempt = attempt.saturating_add(1);
        let Ended { cause, was_up, .. } = ended;
        tracing::debug!(
            origin = endpoint.origin(),
            %cause,
            pause_ms = pause.as_millis(),
            "not connected"
        );
        let wire = match was_up {
            true => Wire::Down { cause, pause },
            false => Wire::Failed { cause, pause },
        };
        // If nobody listens any more, the next wait ends the task.
        tokio::select! {
            _ = tell.send(wire) => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = nudge.notified() => {}
            () = stop.cancelled() => return,
            () = tell.closed() => return,
        }
    }
}

async fn one_connection(
    endpoint: &Endpoint,
    timing: &Timing,
    tell: &mpsc::Sender<Wire>,
    stop: &CancellationToken,
) -> Ended {
    let connect = tokio::time::timeout(timing.connect_timeout, connection::connect(endpoint));
    let connected = tokio::select! {
        connected = connect => connected,
        () = stop.cancelled() => {
            let why = "closed here".to_owned();
            return Ended::before_it_was_up(Trouble::Lost { why });
        }
    };
    let socket = match connected {
        Ok(Ok(socket)) => socket,
        Ok(Err(cause)) => return Ended::before_it_was_up(cause),
        Err(_) => {
            return Ended::before_it_was_up(Trouble::TimedOut {
                address: diagnose::address(endpoint),
                seconds: timing.connect_timeout.as_secs(),
            });
        }
    };
    tracing::debug!(origin = endpoint.origin(), "connected");
    let (sender, queued) = queue();
    let up = tokio::select! {
        up = tell.send(Wire::Up(sender)) => up.is_ok(),
        () = stop.cancelled() => false,
    };
    if !up {
        connection::close(socket).await;
        let why = "nobody listens".to_owned();
        return Ended::before_it_was_up(Trouble::Lost { why });
    }
    connection::serve(socket, timing, tell, queued, stop).await
}

/// Randomness for jitter only; without any the pause is the longest one.
fn random_u64() -> u64 {
    let mut bytes = [u8::MAX; 8];
    if getrandom::fill(&mut bytes).is_err() {
        return u64::MAX;
    }
    u64::from_le_bytes(bytes)
}
