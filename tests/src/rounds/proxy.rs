//! A loopback TCP proxy in front of the service, one per device, that does to a connection what networks do.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

const BUFFER_BYTES: usize = 32 * 1024;

/// What the network does. Connections are numbered in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    /// Whether there is any connection at all.
    open: bool,
    /// Whether bytes flow to the service.
    up: bool,
    /// Whether bytes flow to the device.
    down: bool,
    /// Connections below this one are gone at the device, and still there at the service.
    orphaned: u64,
    /// Orphans below this one deliver what they held and end.
    released: u64,
    /// The next connection.
    next: u64,
}

/// A running proxy. Stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// What the system refused.
    pub async fn start(upstream: watch::Receiver<Option<SocketAddr>>) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (line, _) = watch::channel(Line {
            open: true,
            up: true,
            down: true,
            orphaned: 0,
            released: 0,
            next: 0,
        });
        let task = tokio::spawn(accept(listener, upstream, line.clone()));
        Ok(Self {
            address,
            line,
            task,
        })
    }

    /// What the device dials.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Ends every connection and takes no new one.
    pub fn cut(&self) {
        self.line.send_modify(|line| line.open = false);
    }

    /// Nothing arrives any more at the service, at the device, or at both; connections stay.
    pub fn stall(&self, up: bool, down: bool) {
        self.line.send_modify(|line| {
            line.up &= !up;
            line.down &= !down;
        });
    }

    /// The device's connections are gone; the service still has them, with bytes on their way. The device connects anew beside them.
    pub fn double(&self) {
        self.line.send_modify(|line| {
            line.orphaned = line.next;
            line.up = true;
        });
    }

    /// Everything flows again. What orphans held arrives late.
    pub fn mend(&self) {
        self.line.send_modify(|line| {
            line.open = true;
            line.up = true;
            line.down = true;
            line.released = line.orphaned;
        });
    }
}

async fn accept(
    listener: TcpListener,
    upstream: watch::Receiver<Option<SocketAddr>>,
    line: watch::Sender<Line>,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((device, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let service = *upstream.borrow();
        if !line.borrow().open {
            continue;
        }
        let Some(service) = service else { continue };
        let id = line.borrow().next;
        line.send_modify(|line| line.next += 1);
        let line = line.subscribe();
        connections.spawn(async move {
            // A side that hangs up ends the connection; that is all there is to it.
            let _ = carry(device, service, id, line).await;
        });
    }
}

async fn carry(
    device: TcpStream,
    service: SocketAddr,
    id: u64,
    line: watch::Receiver<Line>,
) -> std::io::Result<()> {
    let service = TcpStream::connect(service).await?;
    device.set_nodelay(true)?;
    service.set_nodelay(true)?;
    let (mut from_device, mut to_device) = device.into_split();
    let (mut from_service, mut to_service) = service.into_split();
    let (held, on_its_way_down) = (Mutex::default(), Mutex::default());
    let (mut cut, mut orphan) = (line.clone(), line.clone());
    tokio::select! {
        ended = pump(&mut from_device, &mut to_service, line.clone(), |line| line.up, &held) => return ended,
        ended = pump(&mut from_service, &mut to_device, line.clone(), |line| line.down, &on_its_way_down) => return ended,
        _ = cut.wait_for(|line| !line.open) => return Ok(()),
        _ = orphan.wait_for(|line| id < line.orphaned) => {}
    }
    drop((from_device, to_device));
    let mut line = line;
    let _ = line.wait_for(|line| id < line.released || !line.open).await;
    let late = std::mem::take(&mut *held.lock().unwrap_or_else(PoisonError::into_inner));
    to_service.write_all(&late).await?;
    to_service.shutdown().await
}

async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    flows: impl Fn(&Line) -> bool,
    held: &Mutex<Vec<u8>>,
) -> std::io::Result<()> {
    let mut buffer = vec![0u8; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        *held.lock().unwrap_or_else(PoisonError::into_inner) = bytes.to_vec();
        let _ = line.wait_for(&flows).await;
        held.lock().unwrap_or_else(PoisonError::into_inner).clear();
        to.write_all(bytes).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn passes(stream: &mut TcpStream) -> bool {
        let mut byte = [0; 1];
        stream.write_all(b"x").await.is_ok() && matches!(stream.read(&mut byte).await, Ok(1))
    }

    #[tokio::test]
    async fn a_cut_ends_connections_until_mended() {
        let (_up, upstream) = watch::channel(Some(echo().await));
        let proxy = Proxy::start(upstream).await.unwrap();
        let mut device = TcpStream::connect(proxy.address).await.unwrap();
        assert!(passes(&mut device).await);
        proxy.cut();
        assert!(!passes(&mut device).await);
        proxy.mend();
        let mut device = TcpStream::connect(proxy.address).await.unwrap();
        assert!(passes(&mut device).await);
    }

    #[tokio::test]
    async fn a_stall_holds_bytes_back_and_gives_them_later() {
        let (_up, upstream) = watch::channel(Some(echo().await));
        let proxy = Proxy::start(upstream).await.unwrap();
        let mut device = TcpStream::connect(proxy.address).await.unwrap();
        assert!(passes(&mut device).await);
        proxy.stall(false, true);
        device.write_all(b"y").await.unwrap();
        let mut byte = [0; 1];
        tokio::select! {
            biased;
            _ = device.read(&mut byte) => panic!("a byte came through a stalled line"),
            () = tokio::task::yield_now() => {}
        }
        proxy.mend();
        device.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"y");
    }

    #[tokio::test]
    async fn what_an_orphan_held_arrives_after_its_successor_was_heard() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (_up, upstream) = watch::channel(Some(listener.local_addr().unwrap()));
        let proxy = Proxy::start(upstream).await.unwrap();
        let mut old = TcpStream::connect(proxy.address).await.unwrap();
        let (mut service_old, _) = listener.accept().await.unwrap();
        let mut byte = [0; 1];
        old.write_all(b"a").await.unwrap();
        service_old.read_exact(&mut byte).await.unwrap();
        proxy.stall(true, false);
        old.write_all(b"b").await.unwrap();
        proxy.double();
        let mut new = TcpStream::connect(proxy.address).await.unwrap();
        let (mut service_new, _) = listener.accept().await.unwrap();
        new.write_all(b"c").await.unwrap();
        service_new.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"c");
        assert!(matches!(old.read(&mut byte).await, Ok(0) | Err(_)));
        proxy.mend();
        // Whether the proxy had read the byte by then is the system's business; it comes now or never.
        let mut late = Vec::new();
        service_old.read_to_end(&mut late).await.unwrap();
        assert!(late.is_empty() || late == b"b", "{late:?}");
    }
}
