//! One connection, from the handshake to its end.

use std::net::SocketAddr;
use std::sync::{Arc, Once};

use conclave_proto::chunk::{self, Assembler};
use conclave_proto::codec;
use conclave_proto::frame::{ClientFrame, ServiceFrame};
use conclave_proto::{Refusal, limits};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Duration, Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_tls_with_config};
use tokio_util::sync::CancellationToken;

use super::diagnose::{self, describe};
use super::{Endpoint, Queued, Received, Timing, Wire};
use crate::trouble::Trouble;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

const READ_BUFFER_BYTES: usize = 64 * 1024;
const WRITE_BUFFER_BYTES: usize = 64 * 1024;
/// Memory that frames may take between the socket and the application's side, in KiB: a largest frame and a little.
const INCOMING_KIB: usize = limits::FRAME_BYTES / 1024 + 4096;
/// Time for a close frame.
const FAREWELL: Duration = Duration::from_secs(1);

/// How a connection, or an attempt to make one, ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) cause: Trouble,
    /// There was a connection.
    pub(super) was_up: bool,
    /// The service had let the device in.
    pub(super) was_good: bool,
    /// Pause that the service asked for.
    pub(super) retry_after_ms: Option<u64>,
}

impl Ended {
    pub(super) fn before_it_was_up(cause: Trouble) -> Self {
        Self {
            cause,
            was_up: false,
            was_good: false,
            retry_after_ms: None,
        }
    }
}

/// rustls wants a cryptography provider for the process; an application that installed its own keeps it.
fn install_tls_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Losing a race means that there is one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
    });
}

/// Dials and shakes hands.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Socket, Trouble> {
    install_tls_provider();
    let found = tokio::net::lookup_host(endpoint.host_and_port()).await;
    let addresses: Vec<SocketAddr> = found
        .map_err(|error| diagnose::lookup(endpoint, &error))?
        .collect();
    let stream = TcpStream::connect(addresses.as_slice())
        .await
        .map_err(|error| diagnose::tcp(endpoint, &error))?;
    stream
        .set_nodelay(true)
        .map_err(|error| diagnose::tcp(endpoint, &error))?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES + 2 * limits::WIRE_MESSAGE_BYTES)
        .max_message_size(Some(limits::WIRE_MESSAGE_BYTES))
        .max_frame_size(Some(limits::WIRE_MESSAGE_BYTES));
    let (socket, _) = client_async_tls_with_config(endpoint.url(), stream, Some(config), None)
        .await
        .map_err(|error| diagnose::handshake(endpoint, &error))?;
    Ok(socket)
}

/// Ends a connection on which nothing was said.
pub(super) async fn close(mut socket: Socket) {
    let _ = tokio::time::timeout(FAREWELL, socket.close(None)).await;
}

/// Moves frames until one side ends it.
pub(super) async fn serve(
    socket: Socket,
    timing: &Timing,
    tell: &mpsc::Sender<Wire>,
    queued: Queued,
    stop: &CancellationToken,
) -> Ended {
    let (sink, stream) = socket.split();
    let ready = Notify::new();
    let mut reader = Reader::new(stream, timing, tell, &ready);
    let mut writer = Writer {
        sink,
        timing,
        ready: &ready,
    };
    let why = tokio::select! {
        why = reader.run() => why,
        why = writer.run(queued) => why,
        () = stop.cancelled() => "closed here".to_owned(),
    };
    writer.close().await;
    Ended {
        cause: reader.goodbye.unwrap_or(Trouble::Lost { why }),
        was_up: true,
        was_good: reader.was_good,
        retry_after_ms: reader.retry_after_ms,
    }
}

struct Reader<'a> {
    stream: SplitStream<Socket>,
    timing: &'a Timing,
    tell: &'a mpsc::Sender<Wire>,
    ready: &'a Notify,
    assembler: Assembler,
    memory: Arc<Semaphore>,
    was_good: bool,
    /// What the service's last word means.
    goodbye: Option<Trouble>,
    retry_after_ms: Option<u64>,
}

impl<'a> Reader<'a> {
    fn new(
        stream: SplitStream<Socket>,
        timing: &'a Timing,
        tell: &'a mpsc::Sender<Wire>,
        ready: &'a Notify,
    ) -> Self {
        Self {
            stream,
            timing,
            tell,
            ready,
            assembler: Assembler::new(limits::FRAME_BYTES),
            memory: Arc::new(Semaphore::new(INCOMING_KIB)),
            was_good: false,
            goodbye: None,
            retry_after_ms: None,
        }
    }

    async fn run(&mut self) -> String {
        loop {
            // The limit runs only while the socket is waited for, not while the application's side is.
            let message = match tokio::time::timeout(self.timing.idle, self.stream.next()).await {
                Err(_) => return "the service fell silent".to_owned(),
                Ok(None | Some(Ok(Message::Close(_)))) => return "the service closed".to_owned(),
                Ok(Some(Err(error))) => return describe(&error),
                Ok(Some(Ok(message))) => message,
            };
            let bytes = match message {
                Message::Binary(bytes) => Vec::from(bytes),
                Message::Ping(_) | Message::Pong(_) => continue,
                _ => return "the service sent text".to_owned(),
            };
            if let Err(why) = self.message(bytes).await {
                return why;
            }
        }
    }

    async fn message(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        let Some(frame) = self
            .assembler
            .take(bytes)
            .map_err(|error| error.to_string())?
        else {
            return Ok(());
        };
        let kib = u32::try_from(frame.len() / 1024 + 1).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.memory);
        let share = memory
            .acquire_many_owned(kib)
            .await
            .map_err(|error| error.to_string())?;
        let frame: ServiceFrame = codec::decode("frame", &frame, limits::FRAME_BYTES)
            .map_err(|error| error.to_string())?;
        match &frame {
            ServiceFrame::Pong => return Ok(()),
            ServiceFrame::Ready { .. } => {
                self.was_good = true;
                self.ready.notify_one();
            }
            ServiceFrame::Goodbye {
                why,
                retry_after_ms,
            } => {
                self.goodbye = Some(match why {
                    // Another copy of this home has logged in, or this very one over another connection: the next login shows which.
                    Refusal::OtherLife { .. } if self.was_good => Trouble::Lost {
                        why: "this device has logged in elsewhere".to_owned(),
                    },
                    why => Trouble::from_refusal(why),
                });
                self.retry_after_ms = Some(*retry_after_ms);
            }
            _ => {}
        }
        let received = Received {
            frame: Box::new(frame),
            _share: share,
        };
        self.tell
            .send(Wire::Frame(received))
            .await
            .map_err(|_| "nobody listens".to_owned())
    }
}

struct Writer<'a> {
    sink: SplitSink<Socket, Message>,
    timing: &'a Timing,
    ready: &'a Notify,
}

impl Writer<'_> {
    /// Writes until the queue is closed and empty. Pings begin when the service has let the device in: before, nothing but the login is
    /// welcome.
    async fn run(&mut self, mut queued: Queued) -> String {
        let ping = codec::encode(&ClientFrame::Ping);
        let mut ticks =
            tokio::time::interval_at(Instant::now() + self.timing.ping, self.timing.ping);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut good = false;
        loop {
            let frame = tokio::select! {
                frame = queued.recv() => match frame {
                    Some(frame) => frame,
                    None => return "closed here".to_owned(),
                },
                _ = ticks.tick(), if good => ping.clone(),
                () = self.ready.notified(), if !good => {
                    good = true;
                    ticks.reset();
                    continue;
                }
            };
            // What is queued behind it goes out with it.
            let mut next = Some(frame);
            while let Some(frame) = next {
                for message in chunk::split(frame) {
                    if let Err(why) = self.within_limit(Message::binary(message)).await {
                        return why;
                    }
                }
                next = queued.try_recv();
            }
            match tokio::time::timeout(self.timing.idle, self.sink.flush()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return describe(&error),
                Err(_) => return "the service takes nothing".to_owned(),
            }
        }
    }

    async fn within_limit(&mut self, message: Message) -> Result<(), String> {
        match tokio::time::timeout(self.timing.idle, self.sink.feed(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(describe(&error)),
            Err(_) => Err("the service takes nothing".to_owned()),
        }
    }

    /// Says goodbye if that works at once.
    async fn close(&mut self) {
        let _ = tokio::time::timeout(FAREWELL, self.sink.close()).await;
    }
}
