//! Accepting connections: a cap on how many there are, and a deadline until one has logged in.
//!
//! The deadline covers the HTTP request too, so that a client that sends one byte a minute holds its place for a bounded time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::addresses::{Addresses, Held, Place};

/// How long to wait after the system refused to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener with a cap.
pub(crate) struct CappedListener {
    inner: TcpListener,
    places: Arc<Semaphore>,
    addresses: Arc<Addresses>,
    proxies: Vec<IpAddr>,
    handshake: Duration,
}

impl CappedListener {
    /// Accepts at most `connections` at once, each with `handshake` time to log in. Those of `proxies` are not counted by their address.
    pub(crate) fn new(
        inner: TcpListener,
        connections: usize,
        (addresses, proxies): (Arc<Addresses>, Vec<IpAddr>),
        handshake: Duration,
    ) -> Self {
        let places = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        let proxies = proxies.iter().map(IpAddr::to_canonical).collect();
        Self {
            inner,
            places,
            addresses,
            proxies,
            handshake,
        }
    }

    /// How a connection from there is taken; none where it is closed at once.
    fn receive(&self, address: IpAddr) -> Option<(Standing, Option<Held>)> {
        let address = address.to_canonical();
        if self.proxies.contains(&address) {
            return Some((Standing::Proxied(address), None));
        }
        match self.addresses.take(address) {
            Place::Free(held) => Some((Standing::Direct, Some(held))),
            Place::Told(held) => Some((Standing::Crowded, Some(held))),
            Place::Closed => None,
        }
    }
}

impl Listener for CappedListener {
    type Io = GuardedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (GuardedStream, SocketAddr) {
        loop {
            let place = match self.places.clone().acquire_owned().await {
                Ok(place) => place,
                // Never closed; the loop only says so.
                Err(_) => continue,
            };
            match self.inner.accept().await {
                Ok((stream, address)) => {
                    // Small frames are not held back to be sent with others.
                    let _ = stream.set_nodelay(true);
                    let Some((standing, held)) = self.receive(address.ip()) else {
                        continue;
                    };
                    let stream = GuardedStream {
                        inner: stream,
                        deadline: Some(Box::pin(tokio::time::sleep(self.handshake))),
                        peer: Peer {
                            trusted: Trusted::default(),
                            standing,
                        },
                        _place: place,
                        _held: held,
                    };
                    return (stream, address);
                }
                Err(error) => {
                    tracing::warn!(kind = ?error.kind(), "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// Says that a connection has logged in: its deadline no longer counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trusted(Arc<AtomicBool>);

impl Trusted {
    /// Lifts the deadline.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is known of where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Standing {
    /// From where it seems to; it has its place there.
    Direct,
    /// The same, and there is no place any more.
    Crowded,
    /// From a proxy, which says whom it stands for.
    Proxied(IpAddr),
}

/// Who connected.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Lifts the deadline.
    pub(crate) trusted: Trusted,
    /// Where it comes from.
    pub(crate) standing: Standing,
}

impl Connected<IncomingStream<'_, CappedListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, CappedListener>) -> Self {
        stream.io().peer.clone()
    }
}

/// A connection with its deadline and its place under the cap.
pub(crate) struct GuardedStream {
    inner: TcpStream,
    deadline: Option<Pin<Box<Sleep>>>,
    peer: Peer,
    _place: OwnedSemaphorePermit,
    _held: Option<Held>,
}

impl GuardedStream {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(deadline) = &mut self.deadline {
            if self.peer.trusted.get() {
                self.deadline = None;
            } else if deadline.as_mut().poll(cx).is_ready() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
